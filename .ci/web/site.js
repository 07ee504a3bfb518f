// What scrolls can be reached by keyboard, and says what it is; what does not scroll takes no stop on the way.
(() => {
  const boxes = () => document.querySelectorAll('main pre, main .wide, main .cell-output, main figure > p, main .katex-display, #quarto-sidebar, #quarto-margin-sidebar')
  const tell = box => { box.dataset.scrolls = box.scrollLeft + box.clientWidth < box.scrollWidth - 1 ? 'more' : '' } // to the right
  const update = () => boxes().forEach(box => {
    const style = getComputedStyle(box), scrolls = /auto|scroll/.test(style.overflowX + style.overflowY) &&
      (box.scrollWidth > box.clientWidth + 1 || box.scrollHeight > box.clientHeight + 1)
    if (!scrolls) return ['tabindex', 'data-scrolls'].forEach(name => box.hasAttribute('data-scrolls') && box.removeAttribute(name))
    box.tabIndex = 0
    tell(box)
    box.addEventListener('scroll', () => tell(box), { passive: true })
    if (!box.hasAttribute('role') && !/^(NAV|ASIDE)$/.test(box.tagName)) {
      box.setAttribute('role', 'region')
      box.setAttribute('aria-label', box.matches('.wide') ? 'table' : box.matches('pre') ? 'code or its output' : box.matches('.katex-display') ? 'formula' : 'figure')
    }
  })
  addEventListener('load', update)
  addEventListener('resize', update)
  document.addEventListener('toggle', update, true)
  for (const toggle of document.querySelectorAll('.quarto-color-scheme-toggle')) toggle.setAttribute('aria-label', 'Dark or light')
})()

// A table of nine rows and more that has numbers is sorted by a click on the head of a column, and the other way by the next.
;(() => {
  const value = cell => {
    const text = cell.textContent.trim(), number = /^[+-]?(\d[\d,]*(\.\d+)?|\.\d+)/.exec(text)
    return number ? +number[0].replaceAll(',', '') : text.toLowerCase()
  }
  const order = (a, b) => typeof a === typeof b ? (a > b) - (a < b) : typeof a === 'number' ? -1 : 1
  for (const table of document.querySelectorAll('main table:not(details table)')) {
    const body = table.tBodies[0], heads = [...table.querySelectorAll('thead th')]
    if (!body) continue
    for (const row of body.rows) heads.forEach((head, k) => { if (row.cells[k] && head.textContent) row.cells[k].dataset.head = head.textContent })
    const measured = heads.some((head, k) => head.textContent.trim() && [...body.rows].filter(row => typeof value(row.cells[k]) === 'number').length > 2)
    if (body.rows.length < 9 || !measured) continue
    heads.forEach((head, column) => {
      if (!head.textContent.trim()) return
      const button = document.createElement('button')
      button.className = 'sort'
      button.append(...head.childNodes)
      head.append(button)
      button.addEventListener('click', () => {
        const sign = head.getAttribute('aria-sort') === 'ascending' ? -1 : 1
        heads.forEach(each => each.removeAttribute('aria-sort'))
        head.setAttribute('aria-sort', sign > 0 ? 'ascending' : 'descending')
        body.append(...[...body.rows].sort((a, b) => sign * order(value(a.cells[column]), value(b.cells[column]))))
      })
    })
  }
})()
