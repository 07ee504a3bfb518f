// Where pixels sit, bicubic enlargement, and colours as a canvas takes them; as arsr.coords and arsr.field.

export function centres(n, lo, hi) { // of n pixels between lo and hi, fractions of a side; the side is [-1,1]
  return Float32Array.from({ length: n }, (_, i) => 2 * (lo + (i + .5) * (hi - lo) / n) - 1)
}

function taps(n, lo, hi, cells, a) { // cubic convolution (Keys 1981): for each pixel four cells and their weights
  const near = x => ((a + 2) * x - (a + 3)) * x * x + 1, far = x => ((a * x - 5 * a) * x + 8 * a) * x - 4 * a
  return Array.from(centres(n, lo, hi), centre => {
    const x = (centre + 1) / 2 * cells - .5, first = Math.floor(x), t = x - first
    return { index: [-1, 0, 1, 2].map(k => Math.min(cells - 1, Math.max(0, first + k))), weight: [far(t + 1), near(t), near(1 - t), far(2 - t)] }
  })
}

export function bicubic(image, side, [h, w], [top, left, bottom, right], a = -.75) { // (side,side,3) -> (h,w,3)
  const xs = taps(w, left, right, side, a), out = new Float32Array(3 * h * w), lines = []
  const enlarge = row => { // one row of the picture, sideways
    const line = new Float32Array(3 * w)
    xs.forEach(({ index, weight }, x) => {
      for (let k = 0; k < 4; k++) for (let c = 0; c < 3; c++) line[3 * x + c] += weight[k] * image[3 * (row * side + index[k]) + c]
    })
    return line
  }
  taps(h, top, bottom, side, a).forEach(({ index, weight }, y) => {
    for (let k = 0; k < 4; k++) {
      const line = lines[index[k]] ||= enlarge(index[k]), share = weight[k], at = 3 * y * w
      for (let x = 0; x < 3 * w; x++) out[at + x] += share * line[x]
    }
  })
  return out
}

export function nearest(image, side, large) { // (side,side,3) -> (large,large,3): each pixel is that of the cell its centre is in
  const cell = k => Math.floor((k + .5) * side / large), out = new Float32Array(3 * large ** 2)
  for (let y = 0, k = 0; y < large; y++) for (let x = 0; x < large; x++) for (let c = 0; c < 3; c++, k++) {
    out[k] = image[3 * (cell(y) * side + cell(x)) + c]
  }
  return out
}

export function toRGBA(rgb) { // (q,3) in [-1,1] -> (q,4) bytes
  const out = new Uint8ClampedArray(rgb.length / 3 * 4).fill(255)
  for (let k = 0, j = 0; k < rgb.length; k += 3, j += 4) for (let c = 0; c < 3; c++) out[j + c] = (rgb[k + c] + 1) * 127.5
  return out
}

export function fromRGBA(bytes) { // (q,4) bytes -> (q,3) in [-1,1], on white
  const out = new Float32Array(bytes.length / 4 * 3)
  for (let j = 0, k = 0; j < bytes.length; j += 4, k += 3) for (let c = 0; c < 3; c++) {
    out[k + c] = ((bytes[j + c] - 255) * bytes[j + 3] / 255 + 255) / 127.5 - 1
  }
  return out
}

export function preview({ layers: [first, second], side }, z, channels, grid) { // two small layers: 3x3 cells -> side x side pixels each
  const size = grid * side, out = new Float32Array(3 * size * size), count = 9 * (channels + 1), wide = first.length / count, k = 3 * side * side
  const near = new Float32Array(count), hidden = new Float32Array(wide + 1).fill(1)
  const times = (weight, row, input) => { let sum = 0; for (let i = 0, at = row * input.length; i < input.length; i++) sum += weight[at + i] * input[i]; return sum }
  for (let y = 0; y < grid; y++) for (let x = 0; x < grid; x++) {
    for (let c = 0, i = 0; c <= channels; c++) for (let row = y - 1; row < y + 2; row++) for (let col = x - 1; col < x + 2; col++, i++) {
      const inside = row >= 0 && row < grid && col >= 0 && col < grid
      near[i] = !inside ? 0 : c === channels ? 1 : z[(c * grid + row) * grid + col] // last, where the picture is
    }
    for (let j = 0; j < wide; j++) hidden[j] = Math.max(0, times(first, j, near))
    for (let o = 0; o < k; o++) {
      const c = o % 3, px = (o / 3 | 0) % side, py = o / (3 * side) | 0
      out[3 * ((y * side + py) * size + x * side + px) + c] = times(second, o, hidden)
    }
  }
  return out
}
