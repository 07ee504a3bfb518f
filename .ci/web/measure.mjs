// What the live page costs, in megabytes and in CPU milliseconds of one thread, which other programs do not change much:
//     make docs && node .ci/web/measure.mjs
import fs from 'node:fs'
import * as ort from '../../.cache/web/node_modules/onnxruntime-web/dist/ort.wasm.min.mjs'

const at = new URL('../../_docs/live/model/', import.meta.url), model = JSON.parse(fs.readFileSync(new URL('model.json', at)))
ort.env.wasm.numThreads = 1

const sessions = {}, noise = Float32Array.from({ length: 2 ** 14 }, () => 2 * Math.random() - 1)
const open = name => ort.InferenceSession.create(new Uint8Array(fs.readFileSync(new URL(`${name}.onnx`, at))))
const run = async (name, inputs) => (await sessions[name].run(inputs))[model.files[`${name}.onnx`].output]
const floats = (data, ...dims) => new ort.Tensor('float32', data, dims)
const integers = (data, ...dims) => new ort.Tensor('int64', BigInt64Array.from(data, BigInt), dims)

async function cpu(what, work) {
  const before = process.cpuUsage(), result = await work(), { user, system } = process.cpuUsage(before)
  console.log(`${what}: ${Math.round((user + system) / 1000)} ms`)
  return result
}

async function view(name, field, n) { // the middle of a picture, as the worker renders it
  const places = Float32Array.from({ length: n }, (_, k) => (2 * k + 1 - n) / n / 2), step = 2 ** 14 / n | 0
  for (let y = 0; y < n; y += step) {
    const rows = places.slice(y, y + step), cell = floats(Float32Array.of(1 / n, 1 / n), 2)
    await run(name, { ...field, rows: floats(rows, rows.length), cols: floats(places, n), cell })
  }
}

const first = ['generator', 'decoder', 'renderer', 'fast_grid', 'fast']
console.log(`models of the first tab: ${(first.reduce((sum, name) => sum + model.files[`${name}.onnx`].bytes, 0) / 1e6).toFixed(1)} MB`)
await cpu('opening them', async () => { for (const name of first) sessions[name] = await open(name) })
const { first: { z }, meta, generator } = model.config, side = meta.size / 2 ** (model.config.first.mult.length - 1)
const steps = model.options.generate.steps, label = [0, 0, generator.unet.classes, 0]
const { feat, grid } = await cpu(`a portrait: ${steps} steps, decoder, grid, ${meta.size} px`, async () => {
  const known = { z_t: floats(noise.slice(0, 2 * z * side * side), 2, z, side, side), label: integers(label, 2, 2) }
  for (let k = 0; k < steps; k++) await run('generator', { ...known, t: integers([500, 500], 2) })
  const feat = await run('decoder', { z: floats(noise.slice(0, z * side * side), 1, z, side, side) })
  await view('renderer', { feat }, meta.size)
  return { feat, grid: await run('fast_grid', { feat }) }
})
for (const again of ['first', 'second']) await cpu(`fast view of 384 x 384, ${again}`, () => view('fast', { grid }, 384))
await cpu('exact view of 384 x 384', () => view('renderer', { feat }, 384))
