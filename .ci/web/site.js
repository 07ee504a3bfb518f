// What scrolls can be reached by keyboard, and says what it is; what does not scroll takes no stop on the way.
(() => {
  const boxes = () => document.querySelectorAll('main pre, main .wide, main .katex-display, #quarto-sidebar, #quarto-margin-sidebar')
  const update = () => boxes().forEach(box => {
    const style = getComputedStyle(box), scrolls = /auto|scroll/.test(style.overflowX + style.overflowY) &&
      (box.scrollWidth > box.clientWidth + 1 || box.scrollHeight > box.clientHeight + 1)
    if (!scrolls) return ['tabindex', 'data-scrolls'].forEach(name => box.hasAttribute('data-scrolls') && box.removeAttribute(name))
    box.tabIndex = 0
    box.dataset.scrolls = ''
    if (!box.hasAttribute('role') && !/^(NAV|ASIDE)$/.test(box.tagName)) {
      box.setAttribute('role', 'region')
      box.setAttribute('aria-label', box.matches('.wide') ? 'table' : box.matches('pre') ? 'code or its output' : 'formula')
    }
  })
  addEventListener('load', update)
  addEventListener('resize', update)
  document.addEventListener('toggle', update, true)
  for (const toggle of document.querySelectorAll('.quarto-color-scheme-toggle')) toggle.setAttribute('aria-label', 'Dark or light')
})()
