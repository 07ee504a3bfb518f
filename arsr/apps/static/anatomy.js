// One pixel of LIIF: the four cells that are read, what each predicts, and the blend.

function show(panel, { size: [h, w], latent: [rows, columns], pictures }) {
  const image = picture(pictures[0], 'the picture; choose a pixel by a click or with arrow keys'), table = make('table')
  const title = make('p', { 'aria-live': 'polite' }), pixel = make('div', { className: 'mark' })
  const stage = make('div', { className: 'over', tabIndex: 0, role: 'application', 'aria-label': image.alt }, image, pixel)
  const cells = [0, 1, 2, 3].map(() => stage.appendChild(make('div', { className: 'mark' })))
  const colour = rgb => make('span', { className: 'swatch', style: `background: rgb(${rgb.map(x => Math.round(255 * clamp(x, 0, 1)))})` })
  const place = (mark, row, column, [n, m]) => {
    mark.style = `top: ${100 * row / n}%; left: ${100 * column / m}%; height: ${100 / n}%; width: ${100 / m}%`
  }
  const line = (...parts) => make('tr', {}, ...parts.map((x, i) => make(i ? 'td' : 'th', i ? {} : { scope: 'row' }, x)))
  const numbers = (xs, digits = 2) => xs.map(x => x.toFixed(digits)).join(', ')
  panel.el.append(stage, make('div', {}, title, table))

  async function choose(row, column) {
    panel.remember({ row: clamp(row, 0, h - 1), column: clamp(column, 0, w - 1) })
    const answer = await panel.ask('pixel', { row: panel.state.row, column: panel.state.column }, 'pixel')
    if (!answer || panel.complain(answer)) return
    place(pixel, panel.state.row, panel.state.column, [h, w])
    answer.cells.forEach((c, i) => place(cells[i], ...c.cell, [rows, columns]))
    title.textContent = `pixel ${panel.state.row}, ${panel.state.column} of ${h} x ${w}`
    const heads = ['cell', 'relative coordinate', 'weight (area)', 'prediction', ''].map(x => make('th', { scope: 'col' }, x))
    table.replaceChildren(make('tr', {}, ...heads),
      ...answer.cells.map(c => line(c.cell.join(', '), numbers(c.offset), c.weight.toFixed(3), numbers(c.rgb), colour(c.rgb))),
      line('blend', '', '1.000', numbers(answer.rgb), colour(answer.rgb)))
  }

  image.onclick = e => choose(Math.floor(e.offsetY / image.clientHeight * h), Math.floor(e.offsetX / image.clientWidth * w))
  const keys = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] }
  stage.onkeydown = e => {
    if (!keys[e.key]) return
    e.preventDefault()
    e.stopPropagation()
    choose(panel.state.row + keys[e.key][0], panel.state.column + keys[e.key][1])
  }
  choose(panel.state.row, panel.state.column)
}
