// What all panels share. A panel asks the kernel for pictures; the file of each widget defines `show(panel, answer)`.

const IN_FLIGHT = 2  // questions on their way: one is being answered, one waits at the kernel

class Panel {
  constructor(model, el) {
    Object.assign(this, { model, el, queue: [], sent: new Map(), count: 0, name: Math.random().toString(36).slice(2) })
    this.listener = (message, buffers) => this.receive(message, buffers)
    model.on('msg:custom', this.listener)
  }

  get state() { return this.model.get('state') }

  remember(change) {
    this.model.set('state', { ...this.state, ...change })
    this.model.save_changes()
  }

  // The kernel's answer to `what`; of waiting questions with one `key` only the newest is sent, the others get `undefined`.
  ask(what, args = {}, key = null, more = null) {
    return new Promise(resolve => {
      if (key !== null) this.queue = this.queue.filter(q => q.key !== key || q.resolve())
      this.queue.push({ id: this.name + this.count++, what, args, key, more, resolve, born: performance.now() })
      this.pump()
    })
  }

  pump() {
    while (this.sent.size < IN_FLIGHT && this.queue.length) {
      const q = this.queue.shift()
      this.sent.set(q.id, q)
      this.model.send({ id: q.id, what: q.what, args: q.args })
    }
  }

  receive(message, buffers) {
    const q = this.sent.get(message.id)
    if (!q) return  // the question of another view of this panel
    const pictures = buffers.map(b => new Blob([b], { type: 'image/png' }))
    const answer = { ...message, pictures, trip: Math.round(performance.now() - q.born) }
    if (message.more) return q.more?.(answer)
    this.sent.delete(message.id)
    q.resolve(answer)
    this.pump()
  }

  // A line for whatever the kernel refuses, read out by screen readers.
  complain(answer) {
    this.alarm ??= this.el.appendChild(make('p', { role: 'alert', className: 'alarm' }))
    this.alarm.textContent = answer?.error ?? ''
    return Boolean(answer?.error)
  }

  end() { this.model.off('msg:custom', this.listener) }
}

function make(tag, attributes = {}, ...children) {
  const node = document.createElement(tag)
  for (const [key, value] of Object.entries(attributes)) key in node ? node[key] = value : node.setAttribute(key, value)
  node.append(...children)
  if (node.tabIndex >= 0) quiet(node)
  return node
}

function quiet(node) { node.dataset.lmSuppressShortcuts = 'true' }  // JupyterLab leaves arrows and Enter to a control

function put(img, blob) {
  const old = img.src
  img.src = URL.createObjectURL(blob)
  if (old.startsWith('blob:')) URL.revokeObjectURL(old)
  return img
}

function picture(blob, alt, attributes = {}) { return put(make('img', { alt, draggable: false, ...attributes }), blob) }

function figure(title, ...nodes) { return make('figure', {}, make('figcaption', {}, title), ...nodes) }

function control(label, tag, attributes, ...children) {
  const input = make(tag, { 'aria-label': label, ...attributes }, ...children)
  return { input, label: make('label', {}, label, input) }
}

function options(values, chosen) {
  return values.map((value, i) => make('option', { value, selected: value === chosen }, String(value)))
}

function clamp(x, low, high) { return Math.min(Math.max(x, low), high) }

function render({ model, el }) {
  const panel = new Panel(model, el)
  const png = new Blob([model.get('still')], { type: 'image/png' })
  const still = picture(png, model.get('alt'), { className: 'still' })
  const note = make('p', { hidden: true }, 'A stored picture: run its cell to use the panel.')
  el.classList.add('arsr')
  el.append(still, note)
  const settings = model.widget_manager?._settings  // of JupyterLab: a saved notebook keeps its panels and their pictures
  if (settings && 'saveState' in settings) settings.saveState = true
  const timer = setTimeout(() => { note.hidden = false }, 3000)
  panel.ask('start').then(answer => {
    clearTimeout(timer)
    still.remove()
    note.remove()
    if (!panel.complain(answer)) show(panel, answer)
  })
  return () => panel.end()
}

export default { render }
