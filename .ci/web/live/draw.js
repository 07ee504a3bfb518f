// The page: what is chosen goes to the worker, what comes back is shown. Nothing is computed here, and nothing leaves the browser.
import { Map } from './map.js'
import { sample } from './sampler.js'

const $ = id => document.getElementById('draw-' + id)
const post = (type, more = {}) => worker.postMessage({ type, id: ++asked, ...more })
let worker, model, asked = 0, waiting = null, small = null, given = null, laid = false

function start() {
  $('off').hidden = true
  document.getElementById('draw').hidden = false
  busy(true)
  worker = new Worker(new URL('worker.js', import.meta.url), { type: 'module' })
  worker.onmessage = ({ data }) => shows[data.type](data)
  worker.onerror = e => shows.error({ message: e.message || 'the model could not be started here' })
  post('open', { url: new URL('model/', import.meta.url).href })
}

const map = new Map($('map'), 64, () => { // a moved map asks for its pixels once a frame
  if (waiting === null) waiting = requestAnimationFrame(() => {
    waiting = null
    post('view', { size: [map.size, map.size], window: map.window })
    readout()
  })
})

function readout(words = 'decoding …') {
  $('readout').textContent = `${map.zoom.toFixed(map.zoom < 10 ? 1 : 0)}× · ${map.size} × ${map.size} px · ${words}`
}

function duration(ms) { return ms < 1000 ? `${Math.round(ms)} ms` : `${(ms / 1000).toFixed(1)} s` }

function status(words, share = null) {
  $('status').textContent = words
  $('bar').hidden = share === null
  if (share !== null) $('bar').value = share
}

function busy(is) { for (const b of document.querySelectorAll('#draw form button')) b.disabled = is || (b.closest('#panel-up') && !small) }

function bitmap(pixels, [h, w]) {
  const canvas = Object.assign(document.createElement('canvas'), { width: w, height: h })
  canvas.getContext('2d').putImageData(new ImageData(pixels, w, h), 0, 0)
  return canvas
}

function begin(words) {
  busy(true)
  status(words, 0)
  $('readout').textContent = ''
  $('steps').replaceChildren()
  $('steps').hidden = true
  laid = false
}

function lay(count) { // the panes of so many pictures, one for what they are made from, and one for bicubic enlargement
  laid = true
  $('still').hidden = true
  $('tools').hidden = false
  map.show([...Array(count).fill('estimate, roughly decoded'), ...count > 1 ? ['small picture'] : [], 'bicubic'])
  if (count > 1) map.put(count, given, [0, 0, 1, 1], 'pixels')
  map.box.classList.toggle('four', count > 1)
}

// ---- what the worker tells

const megabytes = n => (n / 1e6).toFixed(1)
const shows = {
  model({ model: told }) {
    model = told
    model.config.meta.categories.forEach((name, k) => $('family').append(new Option(name, k)))
    wishes()
    document.querySelector('#draw .tabs').hidden = !model.files['upscaler.onnx']
    busy(false)
  },
  loading({ done, total }) { status(`loading the model: ${megabytes(done)} of ${megabytes(total)} MB`, done / total) },
  step({ step, steps, size, pictures }) {
    status(`denoising: step ${step} of ${steps}`, step / steps)
    const canvases = pictures.map(pixels => bitmap(pixels, [size, size]))
    if (!laid) lay(canvases.length)
    canvases.forEach((canvas, k) => map.put(k, canvas, [0, 0, 1, 1], 'blurred'))
    if (canvases.length > 1) return
    const item = document.createElement('li'), [canvas] = canvases
    canvas.setAttribute('role', 'img')
    canvas.setAttribute('aria-label', `estimate after step ${step} of ${steps}`)
    item.append(canvas)
    $('steps').append(item)
    $('steps').hidden = false
  },
  ready({ count, ms, provider }) {
    busy(false)
    const what = count === 1 ? `The portrait of seed ${$('seed').value}` : 'Four answers'
    status(`${what}, in ${duration(ms)} on the ${provider === 'webgpu' ? 'GPU' : 'CPU'}.`)
    const names = count === 1 ? ['decoded for these pixels'] : [...Array.from({ length: count }, (_, k) => `answer ${k + 1}`), `the small picture, ${given.width} px`]
    map.label([...names, count === 1 ? `bicubic, from ${model.config.meta.size} px` : 'bicubic, from the small picture'])
    map.go()
  },
  view({ id, pane, size, window, pixels, ms, exact }) {
    if (id !== asked) return
    map.put(pane === 'bicubic' ? map.panes.length - 1 : pane, bitmap(pixels, size), window)
    if (pane === 'bicubic') return
    readout(exact ? `each pixel decoded, ${duration(ms)}` : `first look, ${duration(ms)}`)
    map.box.dataset.first ||= Math.round(ms)
    map.box.dataset.view = exact ? 'exact' : 'first'
  },
  error({ message }) {
    busy(false)
    status(`It did not work: ${message}.`)
  },
}

// ---- what a person does

function wishes() { // a menu for each of up to three attributes of the chosen family: hair first, then those whose options have telling names
  const known = Object.entries(model.attributes[$('family').selectedOptions[0].text] || {})
  const rank = ([name, [[option]]]) => name === 'hair' ? 0 : /^variant|^[\da-f]{6}$/.test(option) ? 2 : 1
  known.sort((a, b) => rank(a) - rank(b))
  const spaced = name => name.replace(/([a-z])([A-Z0-9])/g, '$1 $2').toLowerCase()
  $('wishes').replaceChildren(...known.slice(0, 3).map(([name, options]) => {
    const label = document.createElement('label'), menu = document.createElement('select')
    menu.name = name
    menu.append(new Option('any', 0), ...options.map(([option, row]) => new Option(spaced(option), row)))
    label.append(`${spaced(name).replace(/^./, c => c.toUpperCase())} `, menu)
    return label
  }))
}
$('family').onchange = wishes

function label(seed) { // the class, and the rows of its attributes: as chosen in a menu, the others as often as in the data
  const { meta, generator } = model.config
  const family = $('family').value === '' ? seed % meta.categories.length : Number($('family').value)
  if (!generator.unet.attributes) return [family]
  const menus = document.querySelectorAll('#draw-wishes select'), name = meta.categories[family], found = {}
  const chosen = Object.fromEntries(Array.from(menus, menu => [menu.name, Number(menu.value)]))
  Object.entries(model.attributes[name] || {}).forEach(([attribute, options], k) => {
    const shares = options.map(([option]) => meta.attributes[name][attribute][option])
    found[attribute] = options.find(([, row]) => row === chosen[attribute]) || options[sample(shares, seed, k)]
  })
  const shows = (meta.shown || {})[name] || {} // colours, and the parts that show them
  const rows = Object.entries(found).filter(([attribute]) => chosen[attribute] || model.options.generate.sample_attributes
    && (!shows[attribute] || Object.entries(shows[attribute]).some(([part, options]) => options.includes(found[part][0]))))
    .map(([, [, row]]) => row)
  return [family, ...rows, 0, 0] // two or more
}

function draw() {
  const seed = Number($('seed').value)
  begin('starting …')
  post('generate', { seed, label: label(seed) })
}
$('new').onclick = () => {
  $('seed').value = Math.floor(Math.random() * 1e6)
  draw()
}
document.getElementById('panel-new').onsubmit = e => {
  e.preventDefault()
  if (e.target.reportValidity()) draw()
}

async function take(file) { // the middle of a picture, as large as chosen
  try { small = await createImageBitmap(file) } catch { return status(`${file.name} is no picture that this browser can open.`) }
  busy(false)
  const cut = Math.min(small.width, small.height), fits = [16, 32, 64].filter(n => n <= cut)
  if (cut < 64) $('side').value = fits.at(-1) || 16 // nothing is lost of a picture that is small already
  status(`${file.name}: ${small.width} × ${small.height} px`)
}
document.getElementById('panel-up').onsubmit = e => {
  e.preventDefault()
  const side = Number($('side').value), canvas = new OffscreenCanvas(side, side), g = canvas.getContext('2d'), cut = Math.min(small.width, small.height)
  g.imageSmoothingQuality = 'high'
  g.drawImage(small, (small.width - cut) / 2, (small.height - cut) / 2, cut, cut, 0, 0, side, side)
  given = canvas
  begin('starting …')
  post('upscale', { pixels: g.getImageData(0, 0, side, side).data, side, seed: 0, n: 4 })
}
$('file').onchange = e => e.target.files[0] && take(e.target.files[0])
for (const [type, over] of [['dragover', true], ['dragleave', false], ['drop', false]]) $('drop').addEventListener(type, e => {
  e.preventDefault()
  $('drop').classList.toggle('over', over)
  if (type === 'drop' && e.dataTransfer.files[0]) take(e.dataTransfer.files[0])
})

const tabs = [...document.querySelectorAll('#draw [role=tab]')]
function choose(tab) {
  for (const t of tabs) {
    t.setAttribute('aria-selected', t === tab)
    t.tabIndex = t === tab ? 0 : -1
    document.getElementById(t.getAttribute('aria-controls')).hidden = t !== tab
  }
  tab.focus()
}
for (const [k, tab] of tabs.entries()) {
  tab.onclick = () => choose(tab)
  tab.onkeydown = e => ['ArrowLeft', 'ArrowRight'].includes(e.key) && choose(tabs[1 - k])
}

document.getElementById('zoom-in').onclick = () => map.zoomBy(2)
document.getElementById('zoom-out').onclick = () => map.zoomBy(.5)
document.getElementById('zoom-all').onclick = () => map.go(.5, .5, 1)

if (typeof WebAssembly === 'object' && typeof Worker === 'function') start()
