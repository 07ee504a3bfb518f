"Every page of the site in a real browser: two widths, light and dark. Skipped where there is no Chromium."
import base64, functools, http.server, importlib.util, io, json, math, re, shutil, subprocess, sys, threading
from contextlib import contextmanager, nullcontext
from itertools import count
from pathlib import Path
from unittest.mock import patch
import numpy as np, pytest, torch
from PIL import Image

playwright = pytest.importorskip('playwright.sync_api', reason='playwright is not installed')
CHROMIUM = next(filter(None, map(shutil.which, ('chromium', 'chromium-browser', 'google-chrome'))), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason='no chromium, chromium-browser or google-chrome on the PATH')
FLAGS = ['--headless', '--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run',
         '--disable-background-networking', '--disable-component-update', '--disable-sync']
ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT/'_docs'
FEW = 'index.html', 'liif.html', 'apps/cli.html', 'tutorials/upscale.html'  # the others are opened nightly
LOOKS = [(1280, 'light'), (1280, 'dark'), (390, 'light'), (390, 'dark')]

def script(name):
    "A module of .ci/."
    spec = importlib.util.spec_from_file_location(name, ROOT/'.ci'/f'{name}.py')
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module

class Handler(http.server.SimpleHTTPRequestHandler):
    extensions_map = {**http.server.SimpleHTTPRequestHandler.extensions_map,
                      '.mjs': 'text/javascript', '.wasm': 'application/wasm'}
    def log_message(self, *_): pass

@contextmanager
def served(folder):
    server = http.server.ThreadingHTTPServer(('127.0.0.1', 0), functools.partial(Handler, directory=folder))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f'http://127.0.0.1:{server.server_port}/'
    server.shutdown()

@pytest.fixture(scope='module')
def site():
    "The address of the site, built and served."
    built = subprocess.run([sys.executable, ROOT/'.ci'/'docs.py'], cwd=ROOT, capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    if not AXE.is_file(): pytest.skip(f'npm could not fetch what .ci/web/package-lock.json names: {built.stderr}')
    with served(DOCS) as url: yield url

@pytest.fixture(scope='module')
def browser(tmp_path_factory):
    with playwright.sync_playwright() as p:
        chromium = p.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield chromium
        chromium.close()

@contextmanager
def opened(browser, url, width=1280, scheme='light', **options):
    "A page in a fresh context, and what went wrong on the way: console errors, failed and outside requests."
    context = browser.new_context(viewport={'width': width, 'height': 900}, color_scheme=scheme, **options)
    context.set_default_timeout(120_000)
    page, wrong, root = context.new_page(), [], re.match(r'https?://[^/]+', url)[0]
    page.on('console', lambda m: m.type == 'error' and wrong.append(f'console: {m.text}'))
    page.on('pageerror', lambda e: wrong.append(f'error: {e}'))
    page.on('request', lambda r: r.url.startswith((root, 'data:', 'blob:')) or wrong.append(f'outside: {r.url}'))
    page.on('response', lambda r: r.status >= 400 and wrong.append(f'{r.status}: {r.url}'))
    page.on('requestfailed', lambda r: wrong.append(f'{r.failure}: {r.url}'))
    try:
        page.goto(url, wait_until='load')
        yield page, wrong
    finally: context.close()

FAULTS = """() => {
  const wrong = [], root = document.documentElement
  const say = (what, e) => wrong.push(what + ': ' + (e.outerHTML || '').slice(0, 160))
  if (root.scrollWidth > root.clientWidth) wrong.push(`${root.scrollWidth - root.clientWidth} px too wide`)
  for (const pre of document.querySelectorAll('main pre:has(code)'))
    if (pre.scrollWidth > pre.clientWidth + 1) say('clipped', pre)
  for (const img of document.querySelectorAll('main img')) {
    if ((img.getAttribute('alt') || '').length < 12 || /^(figure|image|png)\\b/i.test(img.alt)) say('alt', img)
    if (!img.getAttribute('width') || !img.getAttribute('height')) say('not sized', img)
    if (img.loading !== 'lazy') say('not lazy', img)
    if (img.src.startsWith('data:')) say('inline', img)
  }
  for (const math of document.querySelectorAll('main .math'))
    if (!math.querySelector('.katex') || math.querySelector('.katex-error')) say('formula', math)
  for (const box of document.querySelectorAll('main *')) {
    const scrolls = /auto|scroll/.test(getComputedStyle(box).overflowX) && box.scrollWidth > box.clientWidth + 1
    const reached = box.tabIndex >= 0 || box.querySelector('a, button, input, [tabindex="0"]')
    if (scrolls && !reached) say('scrolls without focus', box)
  }
  for (const code of document.querySelectorAll('details.parameters td:first-child code'))
    if (code.getClientRects().length > 1) say('broken name', code)
  return wrong
}"""
SERIOUS = """async () => (await axe.run(document, { resultTypes: ['violations'] })).violations
  .filter(v => ['serious', 'critical'].includes(v.impact))
  .map(v => v.id + ': ' + v.nodes.slice(0, 3).map(n => n.html.slice(0, 120)).join(' | '))"""
AXE = ROOT/'.cache'/'web'/'node_modules'/'axe-core'/'axe.min.js'

def faults(browser, url):
    "What is wrong with a page at all widths and in both schemes, each with where it was seen."
    for width, scheme in LOOKS:
        with opened(browser, url, width, scheme) as (page, wrong):
            page.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")
            found = page.evaluate(FAULTS)
            if width == 1280 and AXE.is_file():
                page.add_script_tag(path=AXE)
                found += page.evaluate(SERIOUS)
            dark = page.evaluate("getComputedStyle(document.body).backgroundColor.match(/\\d+/g).every(v => v < 100)")
            if dark != (scheme == 'dark'): found.append('the scheme is not followed')
            yield from (f'{width} px, {scheme}: {what}' for what in found + wrong)

@pytest.mark.parametrize('name', FEW)
def test_a_page(site, browser, name):
    assert not [*faults(browser, site + name)]

@pytest.mark.slow
def test_every_page(site, browser):
    names = sorted(p.relative_to(DOCS).as_posix() for p in DOCS.rglob('*.html'))
    assert len(names) > 30
    found = {name: [*faults(browser, site + name)] for name in names if name not in FEW and name != '404.html'}
    assert not {name: wrong for name, wrong in found.items() if wrong}

def test_links_and_sizes(site):
    "No link of ours leads nowhere, no page is over a megabyte, each has a picture for cards."
    ids = {p: set(re.findall(r'\bid="([^"]+)"', p.read_text())) for p in DOCS.rglob('*.html')}
    broken = []
    for page in ids:
        text = page.read_text()
        assert len(text) < 2**20, f'{page}: {len(text)} bytes'
        assert 'property="og:image" content="https://' in text, page
        if page.name == '404.html': continue
        for href in set(re.findall(r'<a [^>]*?href="([^"]+)"', text)):
            file, _, anchor = href.partition('#')
            target = (page.parent/file).resolve() if file else page
            if re.match(r'\w+:', href): continue
            if not target.exists() or anchor and target in ids and anchor not in ids[target]:
                broken.append(f'{page.relative_to(DOCS)}: {href}')
    assert not broken

def test_every_figure_says_what_to_see():
    "In one sentence, which is its own."
    pages, captions = script('pages'), []
    for path in sorted((ROOT/'nbs').rglob('*.ipynb')):
        if '.ipynb_checkpoints' in path.parts: continue
        for cell in json.loads(path.read_text(encoding='utf-8'))['cells']:
            if not [*pages.pictures(cell)]: continue
            found = pages.CAPTION.findall(''.join(cell['source']))
            assert len(found) == 1 and found[0][-1] in '.?', (path.name, cell['id'], found)
            captions += found
    assert len(captions) == len(set(captions)) > 200

@pytest.mark.parametrize('code, kind', [('ax.plot(x)', 'plot'), ('show(x)', 'picture')])
def test_a_caption_stands_below_its_figure(code, kind, tmp_path):
    "Its line leaves the code, and what the picture shows is told by other words."
    file = io.BytesIO()
    Image.new('RGB', (640, 300), 'grey').save(file, 'png')
    png = base64.b64encode(file.getvalue()).decode()
    out = dict(output_type='display_data', data={'image/png': png, 'text/plain': ''}, metadata={})
    source = f'#| code-fold: true\n#| fig-cap: All is `grey` & even.\n{code}'
    cell = dict(cell_type='code', source=source, outputs=[out])
    text = dict(cell_type='markdown', source='A picture of one colour alone:')
    script('pages').extract(dict(cells=[text, cell]), Path('lab/page.ipynb'), tmp_path/'figures')
    assert cell['source'] == f'#| code-fold: true\n{code}'
    shown = out['data']['text/html']
    assert '<figcaption>All is <code>grey</code> &amp; even.</figcaption>' in shown
    for scheme, name in (('light', 'lab-page-0.png'), ('dark', 'lab-page-0-dark.webp')):
        assert f'<img src="../figures/{name}" width="640" height="300" class="{kind} broad {scheme}"' in shown
        assert (tmp_path/'figures'/name).is_file()
    assert shown.count('alt="A picture of one colour alone"') == 2

def test_what_is_left_of_a_bar_takes_no_room(tmp_path):
    "An output without anything in it goes, as text or as a list of lines; words and tables stay."
    def shown(**data): return dict(output_type='display_data', data=data, metadata={})
    words = dict(output_type='stream', name='stdout', text=['1\n'])
    table, plain = shown(**{'text/html': ['<table>', '</table>']}), shown(**{'text/plain': ''})
    blank = [shown(**{'text/html': html, 'text/plain': '<HTML object>'}) for html in ('', [], ['\n', ' '])]
    cell = dict(cell_type='code', source='fit()', outputs=[blank[0], words, *blank[1:], table, plain])
    script('pages').extract(dict(cells=[cell]), Path('lab/page.ipynb'), tmp_path/'figures')
    assert cell['outputs'] == [words, table, plain]

def test_a_figure_for_dark_pages(tmp_path):
    "Its paper is transparent, its letters are light, a picture in it stays as it is."
    drawn = Image.new('RGB', (200, 100), 'white')
    drawn.paste((200, 30, 40), (20, 30, 80, 90))
    drawn.paste('white', (40, 50, 60, 70))  # within the picture
    drawn.paste('black', (30, 10, 40, 14))  # a letter above it
    drawn.paste((47, 109, 179), (150, 10, 152, 14))
    pages = script('pages')
    dark = np.asarray(pages.for_dark(drawn, pages.panels(drawn, drawn.size)), int)
    assert (dark[5, 5, 3], dark[95, 150, 3]) == (0, 0)
    assert (dark[30:90, 20:80, 3] == 255).all() and (dark[30:90, 20:80, :3] == np.asarray(drawn)[30:90, 20:80]).all()
    assert dark[12, 35].min() > 200
    red, green, blue, alpha = dark[12, 151]
    assert blue > 200 > green > red and alpha > 200

def test_a_bar_of_colours_on_dark_pages():
    "It keeps its colours as the picture beside it does; its outline is no reason to keep the ticks."
    drawn = Image.new('RGB', (200, 100), 'white')
    drawn.paste((60, 10, 90), (20, 10, 100, 90))
    drawn.paste((60, 10, 90), (150, 10, 160, 90))
    for y in (20, 50, 80): drawn.paste('black', (160, y, 164, y + 1))
    kept = script('pages').panels(drawn, drawn.size)
    assert kept[10:90, 150:160].all() and not kept[:, 161:].any() and not kept[:, 101:149].any()

def test_what_is_printed_at_several_moments_is_one_block():
    def out(text, name='stdout'): return dict(output_type='stream', name=name, text=text)
    cell = dict(cell_type='code', source='f()')
    cell['outputs'] = [out(['a\n']), out(['b\n', 'c\n']), out(['!'], 'stderr'), out(['d\n'])]
    script('pages').join_prints(dict(cells=[cell]))
    assert [''.join(o['text']) for o in cell['outputs']] == ['a\nb\nc\n', '!', 'd\n']

def test_a_long_line_of_code_hangs():
    "It is wrapped to the right of its beginning; a short one, and a text over many lines, are left alone."
    pages = script('pages')
    long = f"    <span class=\"im\">return</span> {'x + ' * 12}x"
    page = f'<pre class="sourceCode python"><code class="sourceCode python">f()\n{long}\n<span>text</code></pre>'
    lines = pages.CODE.sub(pages.hang_lines, page).split('\n')
    assert lines[1] == f'<span class="line" style="--in:4">{long}</span>'
    assert [lines[0], lines[2]] == [page.split('\n')[0], page.split('\n')[2]]

def test_verdicts_are_computed():
    "On the page of the benchmark no claim is said to hold, or not to, by hand: each is looked up in its table."
    cells = json.loads((ROOT/'nbs'/'tutorials'/'benchmark.ipynb').read_text(encoding='utf-8'))['cells']
    source = '\n'.join(''.join(c['source']) for c in cells)
    assert not re.findall(r'\*\*(?:Holds|Does not hold)', source)
    assert len(re.findall(r'\*\*\{says\(', source)) > 8

def test_a_missing_page(site):
    "It is found at any depth, so its links start where the site stands."
    assert '<base href="/arsr/">' in (DOCS/'404.html').read_text()

@pytest.mark.parametrize('query, first', [('upscale', 'tutorials/upscale.html'), ('ImageField', 'field.html'),
                                          ('sample_ddim', 'diffusion.html'), ('back-projection', 'pipeline.html')])
def test_search(site, browser, query, first):
    with opened(browser, site) as (page, _):
        page.get_by_role('searchbox').first.fill(query)
        page.locator('a.search-result').first.wait_for()
        hrefs = [a.get_attribute('href') for a in page.locator('a.search-result').all()[:5]]
        assert any(first in href for href in hrefs), hrefs

def test_trials_are_sorted(site, browser):
    "By a click on the head of a column, and the other way by a key; numbers as numbers."
    with opened(browser, site + 'tutorials/tried.html') as (page, _):
        table = page.locator('main table')
        def column(k): return table.evaluate('(t, k) => [...t.tBodies[0].rows].map(r => r.cells[k].textContent)', k)
        kept = table.get_by_role('button', name='kept')
        kept.click()
        assert column(4) == sorted(column(4), key=lambda s: (s[0] not in '.0123456789', s))
        assert kept.locator('xpath=..').get_attribute('aria-sort') == 'ascending'
        page.keyboard.press('Enter')
        assert column(4)[0] == 'yes'
        table.get_by_role('button', name='before').click()
        numbers = [float(s.split()[0].replace(',', '')) for s in column(2) if s[0] in '.0123456789']
        assert numbers == sorted(numbers) and len(numbers) > 40

def test_the_scheme_is_switched_and_kept(site, browser):
    with opened(browser, site) as (page, _):
        body = "getComputedStyle(document.body).backgroundColor"
        light = page.evaluate(body)
        page.locator('.quarto-color-scheme-toggle').first.click()
        page.wait_for_function(f"{body} !== '{light}'")
        page.reload()
        assert page.evaluate(body) != light

def test_the_sidebar_on_a_phone(site, browser):
    "Its first entries can be touched."
    with opened(browser, site + 'liif.html', 390) as (page, _):
        page.locator('.quarto-btn-toggle:visible').first.click()
        for entry in page.locator('#quarto-sidebar a.sidebar-link').all()[:4]: entry.click(trial=True)

# ---- the live page

@pytest.fixture(autouse=True)
def full_precision(monkeypatch):
    "The browser computes in float32, and so does what it is compared with, also where a processor has bf16."
    monkeypatch.setattr('arsr.pipeline.fast_arithmetic', lambda device: nullcontext())

def mix(x): # 32 bits, as in .ci/web/live/sampler.js
    x = (x ^ x >> 16) * 0x21f0aaad & 0xffffffff
    x = (x ^ x >> 15) * 0x735a2d97 & 0xffffffff
    return x ^ x >> 15

def label(pipe, seed:int, family:int, **chosen)->list: # attribute -> option; the others as the page samples them
    from arsr.portraits import attribute_rows
    rows, name, found = attribute_rows(pipe.meta['attributes']), pipe.meta['categories'][family], {}
    for k, (attribute, shares) in enumerate(pipe.meta['attributes'][name].items()):
        u = (mix(mix(seed + 0x85ebca6b & 0xffffffff) + k & 0xffffffff) + .5) / 2**32
        place = int(np.searchsorted(np.cumsum([*shares.values()]), u * sum(shares.values()), side='right'))
        found[attribute] = chosen.get(attribute, [*shares][place])
    shown = pipe.meta.get('shown', {}).get(name, {})
    return [family, *(rows[name, *pair] for pair in found.items() if pair[0] in chosen or pair[0] not in shown
                      or any(found[part] in options for part, options in shown[pair[0]].items()))]

def noise(seed:int, shape:tuple, part:int=0)->torch.Tensor:
    "The noise of .ci/web/live/sampler.js."
    n, start = math.prod(shape), (seed + 0x9e3779b9) & 0xffffffff
    counter = np.arange(part * n, (part + 1) * n, dtype=np.uint64)
    u = (mix((mix(np.uint64(start)) + counter) & np.uint64(0xffffffff)) + .5) / 2**32
    radius, angle = np.sqrt(-2 * np.log(u[::2])), 2 * np.pi * u[1::2]
    return torch.from_numpy(np.stack([radius * np.cos(angle), radius * np.sin(angle)], -1).reshape(shape)).float()

def test_noise_and_schedule_of_both_sides(site, browser):
    from arsr.diffusion import cosine_schedule, spaced_schedule
    alphas = cosine_schedule()
    with opened(browser, site + 'draw.html') as (page, _):
        ours = page.evaluate("""async alphas => {
          const { noise, spacedTimesteps } = await import('./live/sampler.js')
          const t = [1, 4, 10, 50].map(n => spacedTimesteps(alphas, n))
          return { noise: [...noise(7, 4096), ...noise(7, 4096, 1)], t }
        }""", alphas.tolist())
    theirs = noise(7, (8192,))
    assert (torch.tensor(ours['noise']) - theirs).abs().max() < 1e-5
    assert abs(theirs.mean()) < .03 and abs(theirs.std() - 1) < .02
    assert ours['t'] == [spaced_schedule(alphas, n).timesteps.tolist() for n in (1, 4, 10, 50)]

def has_model(): return (DOCS/'live'/'model'/'model.json').is_file()

def test_the_first_tab_loads_little(site):
    "What a portrait from noise needs, and no encoder or upscaler."
    if not has_model(): pytest.skip('the networks could not be exported: onnx and onnxscript are not installed')
    files = json.loads((DOCS/'live'/'model'/'model.json').read_text())['files']
    worker = (DOCS/'live'/'worker.js').read_text()
    loaded = re.search(r"await load\(('.*?)\)", worker)[1]  # the first is that of `generate`
    names = re.findall(r"'(\w+)'", loaded)
    assert 'generator' in names and not {'encoder', 'upscaler'} & {*names}
    assert sum(files[f'{name}.onnx']['bytes'] for name in names) < 20e6

def drawn(page, seed:int, family:str):
    "Draw a portrait, and wait for its first view, decoded exactly."
    page.locator('#draw-family option').nth(1).wait_for(state='attached')
    page.locator('#draw-family').select_option(family)
    page.locator('#draw-seed').fill(str(seed))
    page.get_by_role('button', name='Draw this seed').click()
    exactly(page)

def exactly(page): page.get_by_text('each pixel decoded').wait_for()

PIXELS = """([box, k]) => { const c = [...document.querySelectorAll(box + ' canvas')].at(k)
  return { size: c.width, data: [...c.getContext('2d').getImageData(0, 0, c.width, c.width).data] } }"""

def pixels(page, k=0, box='#draw-map'): # of a pane, or of an estimate -> (h,w,3) in bytes
    got = page.evaluate(PIXELS, [box, k])
    return np.array(got['data'], np.int16).reshape(got['size'], got['size'], 4)[..., :3]

# ---- the live page with a tiny model, which knows attributes and enlarges pictures that are first aligned

OPTIONS = {
    'a': {'mouth': {'smile': .5, 'laugh': .5},
          'hair': {'bun': .5, '592454': .5}, 'eyes': {'wink': 1}, 'cap': {'red': 1}},
    'b': {'hair': {'fullBeard': 1}}}

@torch.no_grad()
def tiny_model():
    from arsr import ARSR
    from arsr.field import FirstStage, FirstStageConfig
    from arsr.unet import Denoiser, DenoiserConfig, UNetConfig
    def net(conditional, **known):
        unet = UNetConfig(ch=8, mult=(1, 2), n_res=1, attn=(), patch=2, **known)
        return Denoiser(DenoiserConfig(unet, z=2, conditional=conditional, prediction_type='v', schedule='cosine'))
    torch.manual_seed(0)
    first = FirstStage(FirstStageConfig(ch=8, mult=(1, 2), n_res=1, z=2, latent='norm', hidden=(16, 16)))
    defaults = dict(generate=dict(sampler='ddpm', steps=3, guidance=1.5), upscale=dict(steps=2))
    meta = dict(name='tiny', size=32, categories=['a', 'b'], shares=[.5, .5], attributes=OPTIONS,
                aligned=32, enlarge='nearest', defaults=defaults)
    pipe = ARSR(first, net(False, classes=2, attributes=7), net(True), meta)
    for part in (pipe.generator, pipe.upscaler):
        for p in part.parameters(): torch.nn.init.normal_(p, std=.25)
    for p in first.liif.parameters(): p.mul_(3)  # contrast, so that other options are other pictures
    pipe.generator.unet.attribute_embed.weight[0] = 0
    return pipe

@pytest.fixture(scope='module')
def tiny(site, tmp_path_factory):
    "A model, and the address of a site that has it in place of the one that ships."
    pytest.importorskip('onnxscript')
    live = script('live')
    folder = tmp_path_factory.mktemp('tiny')
    weights = tiny_model().save_pretrained(folder/'weights')
    shutil.copytree(DOCS, folder/'site', ignore=shutil.ignore_patterns('model', 'figures'))
    shutil.copytree(live.export(weights, folder/'cache'), folder/'site'/'live'/'model')
    with served(folder/'site') as url: yield live.ARSR.from_pretrained(weights, device='cpu'), url

@torch.no_grad()
def sampled(pipe, task, denoise, seed, n=1): # -> a field of n, from the noise of the page
    from arsr.diffusion import SAMPLERS, spaced_schedule
    net, options = {'generate': pipe.generator, 'upscale': pipe.upscaler}[task], script('live').page_options(pipe, task)
    shape, parts = (net.cfg.z, *(pipe.meta['size'] // pipe.first.cfg.f,) * 2), count()
    def fresh(*_):
        part = next(parts)
        return torch.stack([noise(seed + k, shape, part) for k in range(n)])
    schedule = spaced_schedule(net.alphas_cumprod, options['steps'])
    with patch('arsr.diffusion.noise_like', fresh): z = SAMPLERS[options['sampler']](denoise, fresh(), schedule)
    return pipe.decode(z * net.scaling_factor, pipe.meta['size'])

def portrait(pipe, seed, *label): # the class, and rows of attributes -> a field, by PyTorch from the noise of the page
    from arsr.unet import cfg_denoiser
    denoise = cfg_denoiser(pipe.generator, torch.tensor([label]).squeeze(1), pipe.options('generate')['guidance'])
    return sampled(pipe, 'generate', denoise, seed)

def difference(pixels, field, k=0, **window): # (h,w,3) in bytes, field -> largest, in levels
    return np.abs(pixels - field.render(size=len(pixels), **window)[k].permute(1, 2, 0).numpy() * 255).max()

@pytest.mark.parametrize('model', ['tiny', pytest.param('portraits', marks=pytest.mark.slow)])
def test_a_portrait_in_the_browser(tiny, site, browser, model):
    "Sampled, shown step by step, decoded as PyTorch does it; then looked at by keyboard, mouse and touch."
    pipe, url = tiny
    if model != 'tiny':
        if not has_model(): pytest.skip('the networks could not be exported: onnx and onnxscript are not installed')
        pipe, url = type(pipe).from_pretrained(model, device='cpu'), site
    field = portrait(pipe, 3, *label(pipe, 3, 1))
    with opened(browser, url + 'draw.html', 600, has_touch=True) as (page, wrong):
        assert not page.evaluate("performance.getEntriesByType('resource').some(r => r.name.includes('.onnx'))")
        drawn(page, 3, pipe.meta['categories'][1])
        assert page.locator('#draw-steps canvas').count() == script('live').page_options(pipe, 'generate')['steps']
        assert difference(pixels(page), field) <= 2
        if model != 'tiny':  # a rough decoder, but one of pictures
            estimate, exact = pixels(page, -1, '#draw-steps'), np.asarray(field.to_pil(), int)
            assert np.abs(estimate - exact).mean() < 30
        page.locator('#draw-map').focus()
        for key in ('+', '+', '+', 'ArrowLeft', 'ArrowUp'): page.keyboard.press(key)
        page.get_by_text('8.0×').wait_for()
        exactly(page)
        corner = .5 - .1 / 8 - .5 / 8
        assert difference(pixels(page), field, window=(corner, corner, corner + 1 / 8, corner + 1 / 8)) <= 2
        canvas = page.locator('#draw-map canvas').first
        canvas.hover()
        page.mouse.wheel(0, -240)
        page.get_by_text('16×').wait_for()
        page.locator('#zoom-all').tap()
        page.get_by_text('1.0×').wait_for()
        assert not wrong

STAND_INS = {  # for a GPU, which no machine of the tests has: what is replaced in the worker
    'computes': {'[provider]': "['wasm']"},
    'refuses': {},
    'errs': {'[provider]': "['wasm']", 'TOLERANCE * most': '-1'},
    'is silent': {'[provider]': "['wasm']", '15_000': '1000',
                  'await session.run': "await (provider === 'webgpu' ? new Promise(() => {}) : session).run"}}

@pytest.mark.parametrize('gpu', STAND_INS)
def test_a_gpu_is_used_or_left(tiny, browser, gpu):
    "Where an adapter is found its runtime is loaded; where that does not do, WebAssembly computes the same portrait."
    pipe, url = tiny
    worker, n = re.subn(r'return adapter !== null.*|return false', 'return true', (DOCS/'live'/'worker.js').read_text())
    assert n == 2
    for old, new in STAND_INS[gpu].items():
        assert old in worker
        worker = worker.replace(old, new)
    with opened(browser, url + 'draw.html', 600) as (page, _):
        page.route('**/live/worker.js', lambda route: route.fulfill(body=worker, content_type='text/javascript'))
        page.reload()
        assert page.locator('#draw-still').is_visible()
        drawn(page, 3, 'b')
        assert page.get_by_text(f"on the {'GPU' if gpu == 'computes' else 'CPU'}").is_visible()
        assert not page.locator('#draw-still').is_visible()
        assert difference(pixels(page), portrait(pipe, 3, *label(pipe, 3, 1))) <= 2

def test_attributes_are_chosen_in_menus(tiny, browser):
    "Three of a family, hair first; the others are sampled, and PyTorch draws the same with the same label."
    pipe, url = tiny
    with opened(browser, url + 'draw.html', 600) as (page, wrong):
        page.locator('#draw-family option').nth(1).wait_for(state='attached')
        assert page.locator('#draw-wishes select').count() == 0
        page.locator('#draw-family').select_option('b')
        assert page.locator('#draw-wishes option').all_inner_texts() == ['any', 'full beard']
        drawn(page, 5, 'a')
        assert page.locator('#draw-wishes label').evaluate_all('a => a.map(l => l.firstChild.data.trim())') == [
            'Hair', 'Mouth', 'Eyes']
        anything = pixels(page)
        page.get_by_label('hair').select_option('592454')
        page.get_by_label('mouth').select_option('laugh')
        page.get_by_role('button', name='Draw this seed').click()
        page.wait_for_timeout(100)
        exactly(page)
        assert difference(anything, portrait(pipe, 5, *label(pipe, 5, 0))) <= 2
        asked = label(pipe, 5, 0, hair='592454', mouth='laugh')
        assert asked[:3] == [0, 2, 4] and asked != label(pipe, 5, 0)
        assert difference(pixels(page), portrait(pipe, 5, *asked)) <= 2 < 8 < np.abs(anything - pixels(page)).max()
        assert not wrong

def test_four_answers_to_a_small_picture(tiny, browser):
    "Repeated to the size the model knows, encoded, and sampled with four seeds."
    pipe, url = tiny
    lr = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(lr).save(file, 'png')
    with opened(browser, url + 'draw.html', 1280) as (page, wrong):
        page.get_by_role('tab', name='From a small picture').click()
        page.locator('#draw-file').set_input_files(dict(name='lr.png', mimeType='image/png', buffer=file.getvalue()))
        page.locator('#draw-side').select_option('16')
        page.get_by_role('button', name='Four answers').click()
        exactly(page)
        loaded = page.evaluate("performance.getEntriesByType('resource').map(r => r.name)")
        answers = [pixels(page, k) for k in range(4)]
        assert not wrong
    cond = pipe.condition(torch.from_numpy(lr).permute(2, 0, 1)[None] / 255)
    field = sampled(pipe, 'upscale', lambda z, t: pipe.upscaler(z, t, cond.expand(4, -1, -1, -1)), seed=0, n=4)
    assert max(difference(x, field, k) for k, x in enumerate(answers)) <= 2
    assert min(np.abs(answers[0] - x).max() for x in answers[1:]) > 8
    assert not [name for name in loaded if 'generator' in name]

def test_without_webassembly(site, browser):
    "A sentence in place of a broken page, as where scripts are off."
    with opened(browser, site + 'draw.html', java_script_enabled=False) as (page, _):
        assert page.get_by_text('switched off here').is_visible()
        assert not page.get_by_role('button', name='New portrait').is_visible()
