// All arithmetic of the page: loads the networks, samples, decodes, renders windows. The page stays free for hands and eyes.
import { SAMPLERS, noise, spacedTimesteps } from './sampler.js'
import { bicubic, centres, fromRGBA, nearest, preview, toRGBA } from './pixels.js'

const BAND = 2 ** 14 // pixels that are decoded at a time; between two bands a newer request is heard
const PATIENCE = 15_000 // milliseconds that a GPU may take for one evaluation, the compilation of its shaders included
const TOLERANCE = 2e-3 // of the largest output, between what a GPU and WebAssembly compute
const RUNTIMES = { webgpu: './ort/ort.jspi.min.mjs', wasm: './ort/ort.wasm.min.mjs' }

let folder, model, ort, provider = null, proven = new Set(), sessions = {}, fields = [], source = null, newest = 0
const tell = (message, transfer = []) => self.postMessage(message, transfer)
const pause = () => new Promise(resolve => { const { port1, port2 } = new MessageChannel(); port1.onmessage = resolve; port2.postMessage(0) })
const tensor = (data, ...dims) => ({ type: 'float32', data, dims })
const integers = (values, ...dims) => ({ type: 'int64', data: BigInt64Array.from(values, BigInt), dims })

// ---- what computes: the GPU where there is one, else WebAssembly

async function hasGPU() { // a real one, and a browser whose WebAssembly can wait for it
  if (!('Suspending' in WebAssembly) || !navigator.gpu) return false
  const adapter = await navigator.gpu.requestAdapter().catch(() => null)
  return adapter !== null && !(adapter.info?.isFallbackAdapter ?? adapter.isFallbackAdapter)
}

async function choose(name) { // of RUNTIMES; networks that are open with another one are opened again
  const names = Object.keys(sessions)
  sessions = {}
  provider = name
  ort = await import(RUNTIMES[name])
  ort.env.wasm.numThreads = self.crossOriginIsolated ? Math.min(4, navigator.hardwareConcurrency || 1) : 1
  await load(...names)
}

async function onAny(work) { // a GPU that refuses a network, fails, errs or does not answer is left for good
  if (provider !== 'webgpu') return work()
  let timer
  const late = new Promise((_, no) => { timer = setTimeout(() => no(new Error('the GPU does not answer')), PATIENCE) })
  try { return await Promise.race([work(), late]) }
  catch {
    await choose('wasm')
    return work()
  } finally { clearTimeout(timer) }
}

async function evaluate(session, name, inputs) {
  const feeds = Object.fromEntries(Object.entries(inputs).map(([key, { type, data, dims }]) => [key, new ort.Tensor(type, data, dims)]))
  return (await session.run(feeds))[model.files[name + '.onnx'].output]
}

async function prove(name, inputs, output) { // a GPU computes what WebAssembly does, of which each network is asked once
  const session = await ort.InferenceSession.create(await bytesOf(name), { executionProviders: ['wasm'] })
  const { data } = await evaluate(session, name, inputs), most = data.reduce((m, v) => Math.max(m, Math.abs(v)), 0)
  await session.release()
  if (!output.data.every((v, k) => Math.abs(v - data[k]) <= TOLERANCE * most)) throw new Error('the GPU computes something else')
  proven.add(name)
}

function run(name, inputs) { // a network -> its one output
  return onAny(async () => {
    const output = await evaluate(sessions[name], name, inputs)
    if (provider === 'webgpu' && !proven.has(name)) await prove(name, inputs, output)
    return output
  })
}

// ---- networks

async function open(url) {
  folder = url
  const answer = await fetch(url + 'model.json')
  if (!answer.ok) throw new Error('this copy of the site was built without the model')
  model = await answer.json()
  tell({ type: 'model', model })
}

async function bytesOf(name, come = () => {}) { // the file of a network; `come` is told how much has come since the last time
  const answer = await fetch(`${folder}${name}.onnx`)
  if (!answer.ok) throw new Error(`${name}.onnx could not be loaded (${answer.status})`)
  const bytes = new Uint8Array(model.files[name + '.onnx'].bytes), reader = answer.body.getReader()
  for (let at = 0, piece; !(piece = await reader.read()).done; at += piece.value.length) {
    bytes.set(piece.value, at)
    come(piece.value.length)
  }
  return bytes
}

async function load(...names) { // what is not here yet, saying how much of it has come
  if (!provider) await (await hasGPU() ? choose('webgpu').catch(() => choose('wasm')) : choose('wasm'))
  const files = names.filter(name => model.files[name + '.onnx'] && !sessions[name]).map(name => [name, model.files[name + '.onnx'].bytes])
  const total = files.reduce((sum, [, bytes]) => sum + bytes, 0)
  let done = 0
  for (const [name] of files) {
    const bytes = await bytesOf(name, more => tell({ type: 'loading', done: done += more, total }))
    await onAny(async () => { sessions[name] = await ort.InferenceSession.create(bytes, { executionProviders: [provider] }) })
  }
}

// ---- pictures

function shape() { // of a latent: channels, rows, columns
  const { first, meta } = model.config, side = meta.size / 2 ** (first.mult.length - 1)
  return [first.z, side, side]
}

async function sample(part, task, seed, n, length, denoise, report) { // n latents of so many numbers, as the decoder takes them
  const { alphas_cumprod: alphas, scaling_factor: scale } = model.denoisers[part], { steps, sampler } = model.options[task]
  const fresh = part => {
    const z = new Float32Array(n * length)
    for (let k = 0; k < n; k++) z.set(noise(seed + k, length, part), k * length)
    return z
  }
  const out = await SAMPLERS[sampler](denoise, fresh(0), alphas, spacedTimesteps(alphas, steps), async (step, x0) => {
    report(step + 1, steps, x0.map(v => v * scale))
    await pause()
  }, fresh)
  return Array.from({ length: n }, (_, k) => out.slice(k * length, (k + 1) * length).map(v => v * scale))
}

function guided(label, guidance, dims) { // classifier-free guidance (Ho and Salimans 2022), both evaluations in one batch
  const { classes, attributes } = model.config.generator.unet, n = guidance === 1 ? 1 : 2
  const unknown = label.map((_, k) => k ? 0 : classes) // a label is a class, and where there are attributes, their rows
  const labels = integers([label, unknown].slice(0, n).flat(), n, ...attributes ? [label.length] : [])
  return async (z, t) => {
    const twice = Float32Array.from({ length: n * z.length }, (_, k) => z[k % z.length])
    const { data } = await run('generator', { z_t: tensor(twice, n, ...dims), t: integers(Array(n).fill(t), n), label: labels })
    return n === 1 ? data : z.map((_, k) => data[z.length + k] + guidance * (data[k] - data[z.length + k]))
  }
}

function estimates(n, [channels, cells]) { // tells of each step and its n pictures, decoded roughly
  return (step, steps, x0) => tell({ type: 'step', step, steps, size: cells * model.preview.side, pictures: Array.from({ length: n }, (_, k) =>
    toRGBA(preview(model.preview, x0.slice(k * x0.length / n, (k + 1) * x0.length / n), channels, cells))) })
}

async function generate({ seed, label }) {
  await load('generator', 'decoder', 'renderer', 'fast_grid', 'fast')
  const started = performance.now(), dims = shape(), [channels, cells] = dims, size = model.config.meta.size
  const denoise = guided(label, model.options.generate.guidance, dims)
  await decode(await sample('generator', 'generate', seed, 1, channels * cells * cells, denoise, estimates(1, dims)), dims)
  source = { image: await render(fields[0], [size, size], [0, 0, 1, 1], 'renderer'), side: size }
  tell({ type: 'ready', count: 1, ms: performance.now() - started, provider })
}

async function upscale({ pixels, side, seed, n }) { // an RGBA square -> n different answers
  await load('encoder', 'upscaler', 'decoder', 'renderer', 'fast_grid', 'fast')
  const started = performance.now(), image = fromRGBA(pixels), { aligned, enlarge, factor } = model.config.meta
  const large = aligned || side * factor
  const enlarged = enlarge === 'nearest' ? nearest(image, side, large)
    : bicubic(image, side, [large, large], [0, 0, 1, 1], -.5).map(v => Math.min(1, Math.max(-1, v)))
  const planes = enlarged.map((_, k) => enlarged[3 * (k % large ** 2) + (k / large ** 2 | 0)])
  const { data, dims: [, ...dims] } = await run('encoder', { image: tensor(planes, 1, 3, large, large) })
  const repeated = Float32Array.from({ length: n * data.length }, (_, k) => data[k % data.length] / model.denoisers.upscaler.scaling_factor)
  const cond = tensor(repeated, n, ...dims)
  const denoise = async (z, t) => (await run('upscaler', { z_t: tensor(z, n, ...dims), t: integers(Array(n).fill(t), n), cond })).data
  await decode(await sample('upscaler', 'upscale', seed, n, data.length, denoise, estimates(n, dims)), dims)
  source = { image, side }
  tell({ type: 'ready', count: n, ms: performance.now() - started, provider })
}

async function decode(latents, dims) { // -> fields: features, and where there is a fast renderer its grid
  fields = []
  for (const z of latents) {
    const feat = await run('decoder', { z: tensor(z, 1, ...dims) })
    fields.push({ feat, grid: sessions.fast && await run('fast_grid', { feat }) })
  }
}

// ---- views

async function render({ feat, grid }, [h, w], [t, l, b, r], name, stale = () => false) { // -> (h,w,3), or null if nobody waits
  const out = new Float32Array(3 * h * w), step = Math.max(1, BAND / w | 0), rows = centres(h, t, b)
  const at = { cols: tensor(centres(w, l, r), w), cell: tensor(Float32Array.of(2 * (b - t) / h, 2 * (r - l) / w), 2) }
  for (let y = 0; y < h; y += step) {
    const some = rows.slice(y, y + step), q = some.length * w
    const { data } = await run(name, { ...(name === 'fast' ? { grid } : { feat }), rows: tensor(some, some.length), ...at })
    for (let k = 0; k < q; k++) for (let c = 0; c < 3; c++) out[3 * (y * w + k) + c] = data[c * q + k]
    await pause()
    if (stale()) return null
  }
  return out
}

async function view({ id, size, window }) { // bicubic at once, then a first look, then exactly the pixels on the screen
  if (!source || id < newest) return
  const started = performance.now(), stale = () => id < newest
  const send = (pane, of, rgb, exact) => {
    const pixels = toRGBA(rgb)
    tell({ type: 'view', id, pane, size: of, window, pixels, ms: performance.now() - started, exact }, [pixels.buffer])
  }
  send('bicubic', size, bicubic(source.image, source.side, size, window), true)
  const first = sessions.fast ? ['fast', size] : ['renderer', size.map(n => Math.ceil(n / 4))]
  for (const [name, of] of [first, ['renderer', size]]) for (const [pane, field] of fields.entries()) {
    const rgb = await render(field, of, window, name, stale)
    if (!rgb) return
    send(pane, of, rgb, name === 'renderer' && of === size && pane === fields.length - 1)
  }
}

// ---- one thing after another, in the order it was asked for; of views, the newest alone

const tasks = { open: ({ url }) => open(url), generate, upscale, view }
let last = Promise.resolve()
self.onmessage = ({ data }) => {
  if (data.type === 'view' || data.type === 'generate' || data.type === 'upscale') newest = data.id
  last = last.then(() => tasks[data.type](data)).catch(error => tell({ type: 'error', message: String(error.message || error) }))
}
