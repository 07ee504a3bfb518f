// Before and after: one picture over another, cut at a line that follows pointer and keys.

function show(panel, { names, pictures }) {
  const [under, over] = [1, 0].map(i => picture(pictures[i], names[i]))
  const line = make('div', { className: 'mark' }), where = control(`${names.join(' | ')}, share of the first`, 'input',
    { type: 'range', min: 0, max: 100, step: .5, value: panel.state.share, className: 'wide' })
  over.className = 'top'
  const stage = make('div', { className: 'over stage' }, under, over, line)
  const put = share => {
    where.input.value = share
    over.style.clipPath = `inset(0 ${100 - share}% 0 0)`
    line.style = `left: ${share}%; top: 0; bottom: 0; width: 1px`
  }
  const move = share => { put(share); panel.remember({ share }) }
  where.input.oninput = () => move(Number(where.input.value))
  const follow = e => { if (e.buttons) move(clamp(100 * (e.clientX - stage.getBoundingClientRect().left) / stage.clientWidth, 0, 100)) }
  stage.onpointerdown = e => { stage.setPointerCapture(e.pointerId); follow(e) }
  stage.onpointermove = follow
  panel.el.append(make('div', { className: 'bar' }, where.label), stage)
  panel.model.on('change:state', () => put(panel.state.share))
  put(panel.state.share)
}
