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

export function sample(shares, seed, k) { // the place of one of the shares, as often as it says: choice k of a seed
  let left = (mix(mix(seed + 0x85ebca6b) + k) + .5) / 2 ** 32 * shares.reduce((a, b) => a + b)
  return Math.max(0, shares.findIndex(share => (left -= share) < 0))
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

// ---- samplers: `denoise(z, t)` estimates the clean latent, `report(step, x0)` is told of it; `fresh(part)` is new noise

async function walk(denoise, z, alphas, timesteps, report, move) { // `move(z, x0, a, i)` goes from noise level i to the next
  const a = timesteps.map(t => alphas[t])
  for (let i = 0; ; i++) {
    const x0 = await denoise(z, timesteps[i])
    await report(i, x0)
    if (i === a.length - 1) return x0
    z = move(z, x0, a, i)
  }
}

export function dpmpp2m(denoise, z, alphas, timesteps, report) { // DPM-Solver++(2M) (Lu et al. 2022)
  const level = v => Math.log(v / (1 - v)) / 2
  let last = null
  return walk(denoise, z, alphas, timesteps, report, (z, x0, a, i) => {
    const h = level(a[i + 1]) - level(a[i]), share = i ? h / (2 * (level(a[i]) - level(a[i - 1]))) : 0
    const keep = Math.sqrt((1 - a[i + 1]) / (1 - a[i])), add = -Math.sqrt(a[i + 1]) * Math.expm1(-h), before = last || x0
    last = x0
    return z.map((v, k) => keep * v + add * (x0[k] + share * (x0[k] - before[k])))
  })
}

export function ddim(denoise, z, alphas, timesteps, report) { // Song et al. (2021), eta 0
  return walk(denoise, z, alphas, timesteps, report, (z, x0, a, i) => {
    const m = Math.sqrt(a[i]), s = Math.sqrt(1 - a[i]), m1 = Math.sqrt(a[i + 1]), s1 = Math.sqrt(1 - a[i + 1])
    return z.map((v, k) => m1 * x0[k] + s1 * (v - m * x0[k]) / s)
  })
}

export function ddpm(denoise, z, alphas, timesteps, report, fresh) { // Ho et al. (2020), equations 6 and 7
  return walk(denoise, z, alphas, timesteps, report, (z, x0, a, i) => {
    const beta = 1 - a[i] / a[i + 1], left = 1 - a[i + 1], eps = fresh(i + 1)
    const own = Math.sqrt(a[i + 1]) * beta / (1 - a[i]), keep = Math.sqrt(1 - beta) * left / (1 - a[i])
    const spread = Math.sqrt(beta * left / (1 - a[i]))
    return z.map((v, k) => own * x0[k] + keep * v + spread * eps[k])
  })
}

export const SAMPLERS = { dpmpp_2m: dpmpp2m, ddim, ddpm }
