// The scale explorer: wheel, drag, pinch, double click and keys move one window over two or three pictures.

function show(panel, { n, scales, renderers, names, own, most, pictures }) {
  const [low, high] = scales, log = x => Math.log2(x)
  const shown = scale => own.map(side => Math.max(1, Math.round(side * scale)))  // the whole picture, (h, w) in pixels

  // ---- what the state may be

  function move(change) {
    const next = { ...panel.state, ...change }, full = shown(next.scale)
    const [down, across] = [next.down, next.across].map((x, k) => {
      const half = Math.min(.5, most / 2 / full[k])
      return clamp(x, half, 1 - half)
    })
    panel.remember({ ...next, down, across })
    draw()
  }

  function zoom(scale, [y, x] = [0, 0]) {  // about a point, in pixels from the middle of the picture
    scale = clamp(scale, low, high)
    const before = shown(panel.state.scale), after = shown(scale)
    move({ scale, down: panel.state.down + y / before[0] - y / after[0],
           across: panel.state.across + x / before[1] - x / after[1] })
  }

  function pan(y, x) {
    const full = shown(panel.state.scale)
    move({ down: panel.state.down + y / full[0], across: panel.state.across + x / full[1] })
  }

  // ---- controls

  const slider = control('scale', 'input', { type: 'range', min: log(low), max: log(high), step: 1 / 8, className: 'scale' })
  const number = make('input', { type: 'number', min: low, max: high, step: 'any', 'aria-label': 'scale as a number', style: 'width: 5em' })
  slider.input.oninput = () => zoom(2 ** slider.input.value)
  number.onchange = () => {
    const scale = Number(number.value)
    if (!(scale >= low && scale <= high)) panel.complain({ error: `scale must lie between ${low} and ${high}, not ${number.value}` })
    else zoom(scale)
  }
  number.onkeydown = e => { if (e.key === 'Enter') number.onchange() }
  const choices = [['image', 'index', [...Array(n).keys()]], ['renderer', 'renderer', renderers]].filter(([, , all]) => all.length > 1)
  const selects = choices.map(([label, key, all]) => {
    const select = control(label, 'select', {}, ...options(all, panel.state[key]))
    select.input.onchange = () => move({ [key]: all[select.input.selectedIndex] })
    return { ...select, follow: () => { select.input.value = panel.state[key] } }
  })

  // ---- pictures

  const map = picture(pictures[0], 'the whole picture; click to look there'), frame = make('div', { className: 'mark' })
  const images = names.map(name => make('img', { alt: name, draggable: false }))
  const stage = make('div', { className: 'stage row', tabIndex: 0, role: 'application',
    'aria-label': 'pictures; arrow keys move the window, plus and minus change the scale' },
    ...images.map((image, i) => figure(names[i], image)))
  const caption = make('p', { 'aria-live': 'polite' })
  panel.el.append(make('div', { className: 'bar' }, slider.label, number, ...selects.map(s => s.label)),
    make('div', { className: 'over' }, map, frame), stage, caption)
  map.onclick = e => move({ down: e.offsetY / map.clientHeight, across: e.offsetX / map.clientWidth })

  async function draw() {
    const answer = await panel.ask('view', panel.state, 'view')
    if (!answer || panel.complain(answer)) return
    answer.pictures.slice(0, -1).forEach((png, i) => put(images[i], png))
    put(map, answer.pictures.at(-1))
    const [t, l, b, r] = answer.window.map(x => `${100 * x}%`)
    frame.style = `top: ${t}; left: ${l}; width: calc(${r} - ${l}); height: calc(${b} - ${t})`
    slider.input.value = log(answer.scale)
    slider.input.setAttribute('aria-valuetext', answer.scale.toFixed(2))
    if (document.activeElement !== number) number.value = +answer.scale.toFixed(2)  // nobody is typing
    selects.forEach(s => s.follow())
    caption.replaceChildren(`${answer.caption}, ${answer.trip} ms until here`, make('br'), make('code', {}, answer.call))
  }

  // ---- hands

  const middle = e => {  // pixels from the middle of the picture under the pointer; the middle itself between pictures
    if (e.target.tagName !== 'IMG') return [0, 0]
    const box = e.target.getBoundingClientRect()
    return [e.clientY - box.top - box.height / 2, e.clientX - box.left - box.width / 2]
  }
  const fingers = new Map(), spread = () => {
    const [a, b] = [...fingers.values()]
    return b ? Math.hypot(a.clientX - b.clientX, a.clientY - b.clientY) : 0
  }
  stage.addEventListener('wheel', e => {
    e.preventDefault()
    zoom(panel.state.scale * 2 ** (-clamp(e.deltaY, -200, 200) / 400), middle(e))
  }, { passive: false })
  stage.ondblclick = e => zoom(panel.state.scale * (e.shiftKey ? .5 : 2), middle(e))
  stage.onpointerdown = e => fingers.set(e.pointerId, e)
  stage.onpointerup = stage.onpointercancel = stage.onpointerleave = e => fingers.delete(e.pointerId)
  stage.onpointermove = e => {
    const last = fingers.get(e.pointerId), before = spread()
    if (!last) return
    fingers.set(e.pointerId, e)
    if (before) zoom(panel.state.scale * spread() / before)
    else pan(last.clientY - e.clientY, last.clientX - e.clientX)
  }
  const keys = { ArrowUp: () => pan(-most / 8, 0), ArrowDown: () => pan(most / 8, 0),
    ArrowLeft: () => pan(0, -most / 8), ArrowRight: () => pan(0, most / 8),
    '+': () => zoom(panel.state.scale * 2 ** .25), '-': () => zoom(panel.state.scale / 2 ** .25) }
  keys['='] = keys['+']
  stage.onkeydown = e => {
    if (!keys[e.key] || e.ctrlKey || e.metaKey) return
    e.preventDefault()
    e.stopPropagation()  // the notebook has keys of its own
    keys[e.key]()
  }
  panel.model.on('change:state', draw)  // from code, or from another view
  draw()
}
