// Noise, schedules and samplers: the same arithmetic as arsr.diffusion, on flat arrays. Nothing here knows a page or a network.

// ---- noise that every side can make: two uniform numbers from a hash of seed and counter, then Box and Muller (1958)

export function mix(x) { // a 32-bit hash of a 32-bit number (C. Wellons' lowbias32)
  x = Math.imul(x ^ x >>> 16, 0x21f0aaad)
  x = Math.imul(x ^ x >>> 15, 0x735a2d97)
  return (x ^ x >>> 15) >>> 0
}

export function noise(seed, n, part = 0) { // the first n numbers from N(0,1) of a seed, or the n after them, ...
  const key = mix(seed + 0x9e3779b9) + part * n, out = new Float32Array(n)
  const uniform = k => (mix(key + k) + .5) / 2 ** 32
  for (let k = 0; k < n; k += 2) {
    const radius = Math.sqrt(-2 * Math.log(uniform(k))), angle = 2 * Math.PI * uniform(k + 1)
    out[k] = radius * Math.cos(angle)
    if (k + 1 < n) out[k + 1] = radius * Math.sin(angle)
  }
  return out
}

// ---- the noise levels to visit

export function spacedTimesteps(alphas, steps) { // (T) alphas_cumprod -> descending timesteps, short steps first
  const position = alphas.map(a => Math.sqrt(Math.max(0, 1 - Math.acos(Math.sqrt(a)) * 2 / Math.PI)))
  const last = position[position.length - 1], chosen = []
  for (let i = 0, free = Infinity; i < steps; i++) {
    const wanted = last + (1 - last) * i / steps
    let best = 0
    position.forEach((p, t) => { if (Math.abs(p - wanted) < Math.abs(position[best] - wanted)) best = t })
    free = Math.min(free, best + i)
    chosen.push(Math.max(free - i, steps - 1 - i))
  }
  return chosen
}

// ---- samplers: `denoise(z, t)` estimates the clean latent, `report(step, x0)` is told of it; `fresh(step)` is new noise

export async function dpmpp2m(denoise, z, alphas, timesteps, report) { // DPM-Solver++(2M) (Lu et al. 2022)
  const a = timesteps.map(t => alphas[t]), level = a.map(v => Math.log(v / (1 - v)) / 2)
  let last = null, x0
  for (let i = 0; i < a.length; i++) {
    x0 = await denoise(z, timesteps[i])
    await report(i, x0)
    if (i === a.length - 1) break
    const h = level[i + 1] - level[i], share = i ? h / (2 * (level[i] - level[i - 1])) : 0
    const keep = Math.sqrt((1 - a[i + 1]) / (1 - a[i])), add = -Math.sqrt(a[i + 1]) * Math.expm1(-h), before = last || x0
    z = z.map((v, k) => keep * v + add * (x0[k] + share * (x0[k] - before[k])))
    last = x0
  }
  return x0
}

export async function ddim(denoise, z, alphas, timesteps, report) { // Song et al. (2021), eta 0
  const a = timesteps.map(t => alphas[t])
  let x0
  for (let i = 0; i < a.length; i++) {
    x0 = await denoise(z, timesteps[i])
    await report(i, x0)
    if (i === a.length - 1) break
    const m = Math.sqrt(a[i]), s = Math.sqrt(1 - a[i]), m1 = Math.sqrt(a[i + 1]), s1 = Math.sqrt(1 - a[i + 1])
    z = z.map((v, k) => m1 * x0[k] + s1 * (v - m * x0[k]) / s)
  }
  return x0
}

export async function ddpm(denoise, z, alphas, timesteps, report, fresh) { // Ho et al. (2020), equations 6 and 7
  const a = timesteps.map(t => alphas[t])
  let x0
  for (let i = 0; i < a.length; i++) {
    x0 = await denoise(z, timesteps[i])
    await report(i, x0)
    if (i === a.length - 1) break
    const beta = 1 - a[i] / a[i + 1], left = 1 - a[i + 1], eps = fresh(i)
    const own = Math.sqrt(a[i + 1]) * beta / (1 - a[i]), keep = Math.sqrt(1 - beta) * left / (1 - a[i])
    const spread = Math.sqrt(beta * left / (1 - a[i]))
    z = z.map((v, k) => own * x0[k] + keep * v + spread * eps[k])
  }
  return x0
}

export const SAMPLERS = { dpmpp_2m: dpmpp2m, ddim, ddpm }
