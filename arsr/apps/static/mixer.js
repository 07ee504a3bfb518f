// Between two seeds: a slider mixes their noises, and every place on it is sampled anew.

function show(panel, { categories }) {
  const image = make('img'), title = make('figcaption', { 'aria-live': 'polite' })
  const parts = [
    ['from seed', 'a', { type: 'number', min: 0, step: 1, style: 'width: 6em' }],
    ['to seed', 'b', { type: 'number', min: 0, step: 1, style: 'width: 6em' }],
    ['mix', 'mix', { type: 'range', min: 0, max: 1, step: .01 }],
    ['guidance', 'guidance', { type: 'range', min: 1, max: 4, step: .1 }],
  ].map(([label, key, attributes]) => {
    const part = control(label, 'input', { ...attributes, value: panel.state[key] })
    part.input.oninput = () => move({ [key]: Number(part.input.value) })
    return part
  })
  if (categories.length) {
    const part = control('category', 'select', {}, ...options(categories, panel.state.category))
    part.input.onchange = () => move({ category: part.input.value })
    parts.push(part)
  }
  panel.el.append(make('div', { className: 'bar' }, ...parts.map(p => p.label)), make('figure', {}, title, image))

  function move(change) { panel.remember(change); draw() }

  async function draw() {
    const state = panel.state, answer = await panel.ask('mix', state, 'mix')
    if (!answer || panel.complain(answer)) return
    put(image, answer.pictures[0])
    const share = Math.round(100 * state.mix)
    image.alt = title.textContent = `${100 - share} % seed ${state.a}, ${share} % seed ${state.b}; ${answer.trip} ms`
  }
  draw()
}
