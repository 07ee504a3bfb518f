// Panes that are looked at like one map: where one looks (centre and zoom), moved by mouse, touch and keys.

const clamp = (x, lo, hi) => Math.min(hi, Math.max(lo, x))

export class Map {
  constructor(box, most, changed) { // an element, the largest zoom, and whom to tell
    Object.assign(this, { box, most, changed, x: .5, y: .5, zoom: 1, panes: [], pointers: new globalThis.Map() })
    box.addEventListener('wheel', e => this.wheel(e), { passive: false })
    box.addEventListener('pointerdown', e => this.down(e))
    box.addEventListener('pointermove', e => this.move(e))
    for (const type of ['pointerup', 'pointercancel']) box.addEventListener(type, e => this.pointers.delete(e.pointerId))
    box.addEventListener('dblclick', e => this.zoomBy(e.shiftKey ? .5 : 2, ...this.place(e)))
    box.addEventListener('keydown', e => this.key(e))
    new ResizeObserver(() => this.panes.length && this.go()).observe(box)
  }

  show(names) { // one pane for each name
    this.panes = names.map(name => {
      const figure = document.createElement('figure'), canvas = document.createElement('canvas')
      canvas.setAttribute('role', 'img')
      figure.append(canvas, document.createElement('figcaption'))
      return { figure, canvas, drawn: null }
    })
    this.label(names)
    this.box.replaceChildren(...this.panes.map(p => p.figure))
    this.box.hidden = false
    Object.assign(this, { x: .5, y: .5, zoom: 1 })
  }

  label(names) { // what each pane is said to show
    for (const [k, { figure, canvas }] of this.panes.entries()) {
      canvas.setAttribute('aria-label', names[k])
      figure.lastChild.textContent = names[k]
    }
  }

  get size() { return Math.max(1, Math.round(this.panes[0].canvas.clientWidth * devicePixelRatio)) }

  get window() { // top, left, bottom, right
    const half = .5 / this.zoom
    return [this.y - half, this.x - half, this.y + half, this.x + half]
  }

  go(x = this.x, y = this.y, zoom = this.zoom) { // look there; what is known is shown at once, moved and scaled
    this.zoom = clamp(zoom, 1, this.most)
    const half = .5 / this.zoom
    this.x = clamp(x, half, 1 - half)
    this.y = clamp(y, half, 1 - half)
    this.box.toggleAttribute('data-whole', this.zoom === 1)
    for (const pane of this.panes) this.paint(pane)
    this.changed()
  }

  put(k, image, window, look = '') { // a view that has come: an ImageBitmap or canvas, the window that it shows, and how to scale it
    this.panes[k].drawn = { image, window, look }
    this.paint(this.panes[k])
  }

  paint({ canvas, drawn }) {
    const n = this.size
    if (canvas.width !== n) canvas.width = canvas.height = n
    if (!drawn) return
    const [top, left] = this.window, [t, l, b, r] = drawn.window, scale = n * this.zoom, g = canvas.getContext('2d')
    const same = drawn.image.width === n && Math.abs(b - t - 1 / this.zoom) < 1e-9 && Math.abs(t - top) + Math.abs(l - left) < 1e-9
    g.clearRect(0, 0, n, n)
    g.filter = drawn.look === 'blurred' ? `blur(${n / 110}px)` : 'none' // the cells of an estimate are not to be seen
    g.imageSmoothingEnabled = drawn.look !== 'pixels'
    if (same) g.drawImage(drawn.image, 0, 0) // pixel by pixel, nothing resampled
    else g.drawImage(drawn.image, (l - left) * scale, (t - top) * scale, (r - l) * scale, (b - t) * scale)
  }

  place(e) { // where on the picture an event is, and how far from the middle of its pane
    const pane = this.panes.find(p => p.canvas === e.target) || this.panes[0], box = pane.canvas.getBoundingClientRect()
    return [(e.clientX - box.left) / box.width - .5, (e.clientY - box.top) / box.height - .5]
  }

  zoomBy(factor, dx = 0, dy = 0) { // what is under the hand stays there
    const zoom = clamp(this.zoom * factor, 1, this.most), change = 1 / this.zoom - 1 / zoom
    this.go(this.x + dx * change, this.y + dy * change, zoom)
  }

  wheel(e) {
    e.preventDefault()
    this.zoomBy(2 ** (-clamp(e.deltaY * (e.deltaMode ? 16 : 1), -240, 240) / 240), ...this.place(e))
  }

  down(e) {
    if (e.target.tagName !== 'CANVAS') return
    e.target.setPointerCapture(e.pointerId)
    this.pointers.set(e.pointerId, e)
  }

  move(e) {
    const before = this.pointers.get(e.pointerId)
    if (!before) return
    const others = [...this.pointers.values()].filter(p => p.pointerId !== e.pointerId), side = e.target.clientWidth
    this.pointers.set(e.pointerId, e)
    if (!others.length) return this.go(this.x - (e.clientX - before.clientX) / side / this.zoom,
                                       this.y - (e.clientY - before.clientY) / side / this.zoom)
    const apart = p => Math.hypot(p.clientX - others[0].clientX, p.clientY - others[0].clientY) || 1
    return this.zoomBy(apart(e) / apart(before), ...this.place(others[0]))
  }

  key(e) {
    const step = .1 / this.zoom, jump = { ArrowLeft: [-step, 0], ArrowRight: [step, 0], ArrowUp: [0, -step], ArrowDown: [0, step] }[e.key]
    if (e.ctrlKey || e.metaKey || e.altKey) return
    if (jump) this.go(this.x + jump[0], this.y + jump[1])
    else if ('+='.includes(e.key)) this.zoomBy(2)
    else if ('-_'.includes(e.key)) this.zoomBy(.5)
    else if (e.key === '0' || e.key === 'Home') this.go(.5, .5, 1)
    else return
    e.preventDefault()
  }
}
