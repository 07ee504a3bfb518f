// Fields side by side like maps: OpenSeadragon asks for tiles, the kernel renders them.

const load = source => import(URL.createObjectURL(new Blob([source, '\nexport default OpenSeadragon'], { type: 'text/javascript' })))

async function show(panel, { names, size: [height, width], own, tile, library }) {
  const OpenSeadragon = globalThis.arsrOpenSeadragon ??= (await load(library)).default
  const line = make('p', { 'aria-live': 'off' }), row = make('div', { className: 'viewers' })
  let leader = 0  // the viewer that the hand is on; the others follow it

  const source = field => ({
    width, height, tileSize: tile,
    getTileUrl: (level, x, y) => `${field}/${level}/${x}/${y}`,
    async downloadTileStart(job) {
      const [field, level, x, y] = job.src.split('/').map(Number)
      const answer = await panel.ask('tile', { field, level, x, y })
      if (panel.complain(answer)) return job.fail(answer.error)
      job.finish(answer.pictures[0], null, 'rasterBlob')
      panel.latency = `last tile rendered in ${answer.ms} ms, here after ${answer.trip} ms`
      tell()
    },
    downloadTileAbort() {},  // what has not started is cleared below; what has is nearly here
  })

  const viewers = names.map((name, i) => {
    const element = make('div', { className: 'viewer', 'aria-label': `${name}; arrow keys move, plus and minus zoom` })
    row.append(figure(name, element))
    for (const event of ['pointerdown', 'wheel', 'keydown', 'focusin'])
      element.addEventListener(event, e => { leader = i; if (event === 'keydown') e.stopPropagation() }, { capture: event !== 'keydown' })
    return { element, name }
  })
  const button = (label, act) => make('button', { 'aria-label': label, onclick: () => { act(maps[leader].viewport) } }, { 'zoom in': '+', 'zoom out': '−', 'whole picture': '⌂' }[label])
  panel.el.append(row, make('div', { className: 'bar' }, button('zoom in', v => v.zoomBy(2)),
    button('zoom out', v => v.zoomBy(.5)), button('whole picture', v => v.goHome()), line))

  const maps = viewers.map(({ element }, i) => OpenSeadragon({
    element, tileSources: source(i), drawer: 'canvas', imageLoaderLimit: 2, showNavigationControl: false, maxZoomPixelRatio: 4,
    animationTime: .5, visibilityRatio: .5, gestureSettingsMouse: { clickToZoom: false, dblClickToZoom: true },
  }))
  maps.forEach((map, i) => {
    quiet(map.canvas)
    map.canvas.setAttribute('aria-label', viewers[i].element.getAttribute('aria-label'))
    map.addHandler('viewport-change', () => {
      map.imageLoader.clear()  // stale tiles are not rendered
      if (i !== leader) return
      const zoom = map.viewport.getZoom(true), centre = map.viewport.getCenter(true)
      maps.forEach((other, k) => { if (k !== i) other.viewport.zoomTo(zoom, null, true).panTo(centre, true) })
      tell()
    })
    map.addHandler('open', tell)
  })

  function tell() {
    const view = maps[leader].viewport, box = view?.getBounds(true)
    if (!box) return
    const window = [box.y * width / height, box.x, (box.y + box.height) * width / height, box.x + box.width]
    const scale = view.viewportToImageZoom(view.getZoom(true)) * width / own[1]
    row.dataset.window = window
    line.textContent = `scale ${scale.toFixed(1)}${panel.latency ? `; ${panel.latency}` : ''}`
  }
}
