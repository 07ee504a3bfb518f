// Many predictions for one input: a grid of them, those that are pinned large, and where they differ.

function show(panel, { n, spread, pictures }) {
  const grid = make('div', { className: 'grid', role: 'group', 'aria-label': 'predictions; press one to pin it' })
  const pinned = make('div', { className: 'row wide' })
  const heat = figure(`standard deviation of a pixel, black 0 to white ${spread.toFixed(1)} levels`,
    picture(pictures[n], `heat map; the mean deviation is ${spread.toFixed(1)} levels at most`))
  panel.el.append(grid, heat, pinned)
  const buttons = pictures.slice(0, n).map((png, i) =>
    grid.appendChild(make('button', { onclick: () => toggle(i) }, picture(png, `prediction ${i + 1}`))))

  function toggle(i) {
    const pins = panel.state.pins
    panel.remember({ pins: pins.includes(i) ? pins.filter(k => k !== i) : [...pins, i] })
    draw()
  }

  async function draw() {
    buttons.forEach((b, i) => b.setAttribute('aria-pressed', panel.state.pins.includes(i)))
    const answer = await panel.ask('pins', { pins: panel.state.pins }, 'pins')
    if (!answer || panel.complain(answer)) return
    pinned.replaceChildren(...answer.pictures.map((png, k) => {
      const name = `prediction ${panel.state.pins[k] + 1}`
      return figure(name, picture(png, `${name}, large`))
    }))
  }
  draw()
}
