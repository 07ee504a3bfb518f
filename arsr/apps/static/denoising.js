// A film strip of estimates, filled while the sampler runs, and one of them large.

function show(panel, { sizes, pictures }) {
  const film = make('div', { className: 'film wide', role: 'group', 'aria-label': 'estimates of the clean picture, one a step' })
  const large = make('img'), title = make('figcaption', { 'aria-live': 'polite' })
  const seed = control('seed', 'input', { type: 'number', min: 0, step: 1, value: panel.state.seed, style: 'width: 6em' })
  const run = make('button', {}, 'sample')
  const step = control('step', 'input', { type: 'range', min: 1, step: 1 })
  const size = control('size', 'select', {}, ...options(sizes, panel.state.size))
  panel.el.append(make('div', { className: 'bar' }, seed.label, run, step.label, size.label), film,
    make('figure', {}, title, large))

  function add(png) {
    const k = film.children.length
    film.append(make('button', { onclick: () => choose(k + 1), 'aria-pressed': false }, picture(png, `step ${k + 1}`)))
    step.input.max = k + 1
  }

  async function choose(k) {
    panel.remember({ step: k, size: Number(size.input.value) })
    step.input.value = k;
    [...film.children].forEach((frame, i) => frame.setAttribute('aria-pressed', i + 1 === k))
    const answer = await panel.ask('frame', { step: k, size: panel.state.size }, 'frame')
    if (!answer || panel.complain(answer)) return
    put(large, answer.pictures[0])
    large.alt = title.textContent = `step ${k} of ${film.children.length}, ${panel.state.size} px, ${answer.ms} ms`
  }

  run.onclick = async () => {
    run.disabled = true
    film.replaceChildren()
    panel.remember({ seed: Number(seed.input.value) })
    const answer = await panel.ask('run', { seed: panel.state.seed }, null, part => {
      add(part.pictures[0])
      title.textContent = `step ${film.children.length} of ${part.steps}`
    })
    run.disabled = false
    if (!panel.complain(answer)) choose(film.children.length)
  }
  step.input.oninput = () => choose(Number(step.input.value))
  size.input.onchange = () => choose(panel.state.step)
  pictures.forEach(add)
  choose(panel.state.step)
}
