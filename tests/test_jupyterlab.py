"""The widgets in a real JupyterLab and a real browser, with wheel, mouse and keys. Skipped where there is no Chromium.

Where Notebook 7 is installed too (`pip install notebook`), the same tests are run in it.
"""
import io, json, os, re, shutil, socket, sys, time, urllib.request
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
import nbformat, numpy as np, psutil, pytest, torch
from PIL import Image
from arsr import ImageField
from arsr.apps.widgets import as_field, mixed, pixel_anatomy
from arsr.liif import LIIF

playwright = pytest.importorskip('playwright.sync_api', reason='playwright is not installed')
CHROMIUM = next(filter(None, map(shutil.which, ('chromium', 'chromium-browser', 'google-chrome'))), None)
FLAGS = ['--headless', '--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run',
         '--disable-background-networking', '--disable-component-update', '--disable-sync']
ROOT = Path(__file__).resolve().parent.parent
PATIENCE = 180  # seconds that any one step may take on a busy machine

FIELD = """
import torch
from arsr import ARSR, ImageField
from arsr.apps.widgets import compare, denoising, diversity, liif_anatomy, portrait_mixer
from arsr.liif import LIIF
torch.manual_seed(0)
field = ImageField(torch.randn(3, 16, 16, 16), LIIF(16, hidden=(32,)).requires_grad_(False), size=64)
pipe = ARSR.from_pretrained('portraits', device='cpu') if {needs_weights} else None
"""
PANELS = {  # a notebook each
    'explore': "field.explore(scale=1, most=256, truth=field)", 'zoom': "field.zoom('bicubic')",
    'compare': "compare(field, field[1], size=256)", 'anatomy': "liif_anatomy(field, size=256)",
    'diversity': "diversity(field, size=200)", 'denoising': "denoising(pipe, steps=2, guidance=1., category='micah')",
    'mixer': "portrait_mixer(pipe, 3, 5, mix=0., steps=2, size=128)", 'field': "field"}

def test_make_lab_opens_the_first_tutorial():
    "The one that stands first in the sidebar."
    opened = re.search(r'default_url=/lab/tree/(\S+)', (ROOT/'Makefile').read_text())[1]
    assert opened == re.search(r'- (tutorials/\S+)', (ROOT/'_quarto.yml').read_text())[1]
    assert (ROOT/'nbs'/opened).is_file()

def code(name): # of the notebook's cell
    return (FIELD.format(needs_weights='pipe' in PANELS[name]) + PANELS[name]).strip()

@pytest.fixture(scope='module')
def field():
    "The same field as in the notebooks."
    torch.manual_seed(0)
    return ImageField(torch.randn(3, 16, 16, 16), LIIF(16, hidden=(32,)).requires_grad_(False), size=64)


def free_port():
    with socket.socket() as s:
        s.bind(('127.0.0.1', 0))
        return s.getsockname()[1]

def answers(url):
    "Does the server answer? No proxy stands between a machine and itself."
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try: return opener.open(url, timeout=5).status == 200
    except OSError: return False

def wait_until(true, seconds, what):
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, f'{what} did not happen in {seconds} s'
        time.sleep(.1)

def end(server):
    "Ask the server to stop its kernels and itself; kill what is left, and complain about it."
    if server.poll() is not None: return
    family = [server, *server.children(recursive=True)]
    server.terminate()
    _, left = psutil.wait_procs(family, timeout=60)  # many kernels, on a busy machine
    for process in left: process.kill()
    assert not left, f'did not stop when asked to: {left}'

PROGRAMS = {'jupyterlab': 'lab/tree', 'notebook': 'notebooks'}  # where each opens a file

@pytest.fixture(scope='module', params=filter(find_spec, PROGRAMS))
def lab(tmp_path_factory, request):
    "Where a program that keeps all it writes in one folder opens notebooks, of which there is one for each widget."
    if CHROMIUM is None: pytest.skip('no chromium, chromium-browser or google-chrome on the PATH')
    tmp_path = tmp_path_factory.mktemp('lab')
    home, root = tmp_path/'home', tmp_path/'notebooks'
    (home/'config'/'labconfig').mkdir(parents=True)
    news = '@jupyterlab/apputils-extension:announcements' # asks a question at the first start
    (home/'config'/'labconfig'/'page_config.json').write_text(json.dumps({'disabledExtensions': {news: True}}))
    root.mkdir()
    kernel = {'kernelspec': {'name': 'python3', 'display_name': 'Python 3', 'language': 'python'}}
    for name in PANELS:
        cell = nbformat.v4.new_code_cell(code(name))
        nbformat.write(nbformat.v4.new_notebook(cells=[cell], metadata=kernel), root/f'{name}.ipynb')
    own = {'HOME': home, 'IPYTHONDIR': home/'ipython', 'JUPYTER_CONFIG_DIR': home/'config',
           'JUPYTER_DATA_DIR': home/'data',
           'JUPYTER_RUNTIME_DIR': home/'runtime', 'JUPYTERLAB_WORKSPACES_DIR': home/'workspaces',
           'JUPYTERLAB_SETTINGS_DIR': home/'settings'}
    port = free_port()
    options = dict(ip='127.0.0.1', port=port, port_retries=0, root_dir=root, open_browser=False, allow_root=True)
    command = [sys.executable, '-m', request.param, *(f'--ServerApp.{k}={v}' for k, v in options.items()),
               '--IdentityProvider.token=']
    url, log = f'http://127.0.0.1:{port}', tmp_path/'lab.log'
    with log.open('w') as out:
        server = psutil.Popen(command, env=os.environ | {k: str(v) for k, v in own.items()}, stdout=out, stderr=out)
    try:
        wait_until(lambda: answers(f'{url}/api/status') or server.poll() is not None, PATIENCE,
                   f'the start of {request.param}')
        assert server.poll() is None, log.read_text()
        yield f'{url}/{PROGRAMS[request.param]}'
    finally: end(server)

@pytest.fixture(scope='module')
def browser(lab, tmp_path_factory):
    "A headless browser with a profile of its own."
    with playwright.sync_playwright() as p:
        context = p.chromium.launch_persistent_context(
            tmp_path_factory.mktemp('profile'), executable_path=CHROMIUM, args=FLAGS,
            viewport={'width': 1280, 'height': 1200})
        context.set_default_timeout(1000 * PATIENCE)
        yield context
        context.close()

@contextmanager
def opened(lab, browser, name, picture):
    "The output of a notebook's only cell, once it has run; what it looks like at the end goes to `picture`."
    page = browser.new_page()
    try:
        with page.expect_websocket(lambda ws: '/channels' in ws.url) as kernel: page.goto(f'{lab}/{name}.ipynb?reset')
        if not kernel.value.is_closed(): kernel.value.wait_for_event('framereceived') # before, a cell finds no kernel
        page.locator('.jp-Notebook-ExecutionIndicator[data-status=idle]').wait_for()
        page.get_by_role('menuitem', name='Run', exact=True).click()
        page.get_by_role('menuitem', name='Run All Cells', exact=True).click()
        output = page.locator('.jp-OutputArea-executeResult .jp-OutputArea-output')
        output.wait_for()
        yield page, output
    finally:
        page.screenshot(path=picture)
        page.close()

READ = 'async img => Array.from(new Uint8Array(await (await fetch(img.src)).arrayBuffer()))' # a PNG's blob

def pixels(picture): return np.array(picture.convert('RGB')).astype(int)
def seen(img): return pixels(Image.open(io.BytesIO(bytes(img.evaluate(READ)))))

def settle(read, right):
    "What `read` gives as soon as it is right; the last of it for the message if it never is."
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        last = read()
        if right(last): return last
        time.sleep(.2)
    raise AssertionError(f'{last!r:.300} after {PATIENCE} s')

def test_explore_by_wheel_drag_and_keys(lab, browser, field, tmp_path):
    with opened(lab, browser, 'explore', tmp_path/'explore.png') as (page, panel):
        stage, line = panel.get_by_role('application'), panel.locator('p[aria-live]')
        panel.get_by_text('scale 1.00').wait_for()
        def scale(): return float(re.match(r'scale ([\d.]+)', line.inner_text())[1])
        def call(): return panel.locator('code').inner_text()
        def same(): # what is on screen is what the call renders; the truth is the field itself
            images = stage.locator('img')
            rendered = pixels(eval(call().replace('.render(', '.to_pil('), {'field': field}))
            shown = [seen(images.nth(k)) for k in (0, 2)]  # the call has six digits
            return all(x.shape == rendered.shape and np.abs(x - rendered).max() <= 1 for x in shown)

        settle(same, bool)
        stage.locator('img').first.hover()
        for _ in range(4): page.mouse.wheel(0, -200)
        settle(scale, lambda x: x > 3.9)
        number = panel.get_by_label('scale as a number')
        number.fill('8.3')
        number.press('Enter')
        settle(scale, lambda x: x == 8.3)
        settle(same, bool)
        number.fill('100')
        number.press('Enter')
        panel.get_by_text('scale must lie between 1 and 32, not 100').wait_for()
        assert scale() == 8.3

        before = call()
        stage.focus()
        page.keyboard.press('ArrowUp')  # the window moves up, by an eighth of the panel
        after = settle(call, lambda x: x != before)
        tops = [float(re.search(r'window=\(([\d.]+)', x)[1]) for x in (before, after)]
        assert abs(tops[0] - tops[1] - 32 / round(8.3 * 64)) < 2e-3
        box = stage.locator('img').first.bounding_box()
        page.mouse.move(box['x'] + 200, box['y'] + 100)
        page.mouse.down()
        page.mouse.move(box['x'] + 120, box['y'] + 100, steps=4)
        page.mouse.up()
        settle(call, lambda x: x != after)
        settle(same, bool)
        panel.get_by_label('image', exact=True).select_option('2')
        settle(call, lambda x: x.startswith('field[2]'))
        settle(same, bool)
        panel.locator('.over img').click(position=dict(x=1, y=1))
        settle(call, lambda x: 'window=(0, 0,' in x)
        settle(same, bool)

CANVAS = "v => { const c = v.querySelector('canvas'); return c.toDataURL().split(',')[1] }"

@pytest.mark.slow
def test_zoom_moves_both_maps(lab, browser, field, tmp_path):
    from base64 import b64decode
    with opened(lab, browser, 'zoom', tmp_path/'zoom.png') as (page, panel):
        maps, row = panel.locator('.viewer'), panel.locator('.viewers')
        panel.get_by_text('last tile rendered').wait_for()
        maps.first.hover()
        for _ in range(8):
            page.mouse.wheel(0, -200)
            time.sleep(.1)
        def window(): return [float(x) for x in row.get_attribute('data-window').split(',')]
        def twice(): return window(), time.sleep(1.5), window()
        still = settle(twice, lambda x: x[0] == x[2] and x[0][2] - x[0][0] < .4)[0]
        assert 0 <= min(still) and max(still) <= 1
        def off(k, one): # of a map from its field in the same window, mean over pixels, in levels
            canvas = pixels(Image.open(io.BytesIO(b64decode(maps.nth(k).evaluate(CANVAS)))))
            return np.abs(canvas - pixels(one.to_pil(size=canvas.shape[:2], window=window()))).mean()
        for k, one in enumerate((field, as_field('bicubic', field))):
            settle(lambda k=k, one=one: off(k, one), lambda x: x < 3)

@pytest.mark.slow
def test_compare_follows_the_hand(lab, browser, field, tmp_path):
    with opened(lab, browser, 'compare', tmp_path/'compare.png') as (page, panel):
        stage = panel.locator('.stage')
        stage.wait_for()
        box = stage.bounding_box()
        page.mouse.move(box['x'] + 128, box['y'] + 99)
        page.mouse.down()
        page.mouse.move(box['x'] + 64, box['y'] + 99)
        page.mouse.up()
        stage.locator('.top').and_(panel.locator('[style*="inset(0px 75%"]')).wait_for()
        shot = pixels(Image.open(io.BytesIO(stage.screenshot())))
        a, b = (pixels(one.to_pil(size=256)) for one in (field, field[1]))
        for columns, right, wrong in ((slice(0, 60), a, b), (slice(70, 256), b, a)):  # it may begin within a pixel
            off, other = (np.abs(shot[:256, columns] - x[:, columns]).mean() for x in (right, wrong))
            assert off < 6 < 12 < other

@pytest.mark.slow
def test_anatomy_of_the_pixel_that_is_clicked(lab, browser, field, tmp_path):
    with opened(lab, browser, 'anatomy', tmp_path/'anatomy.png') as (page, panel):
        image = panel.get_by_role('application').locator('img')
        assert np.array_equal(seen(image), pixels(field.to_pil(size=256)))
        image.click(position=dict(x=40, y=100))
        panel.get_by_text('pixel 100, 40 of 256 x 256').wait_for()
        page.keyboard.press('ArrowRight')
        panel.get_by_text('pixel 100, 41 of 256 x 256').wait_for()
        cells, rgb = pixel_anatomy(field, (256, 256), (100, 41))
        rows = [x.inner_text().split('\t') for x in panel.locator('tr').all()[1:]]
        assert [x[0] for x in rows] == [*('{}, {}'.format(*c['cell']) for c in cells), 'blend']
        assert rows[-1][3] == ', '.join(f'{x:.2f}' for x in rgb.tolist())
        assert np.abs(255 * rgb.clamp(0, 1).numpy() - pixels(field.to_pil(size=256))[100, 41]).max() <= .51

@pytest.mark.slow
def test_pinned_predictions_are_large(lab, browser, field, tmp_path):
    with opened(lab, browser, 'diversity', tmp_path/'diversity.png') as (page, panel):
        panel.get_by_role('button', name='prediction 3').click()
        large = panel.get_by_alt_text('prediction 3, large')
        large.wait_for()
        assert np.array_equal(seen(large), pixels(field[2].to_pil(size=200)))
        panel.get_by_role('button', name='prediction 1').click()
        panel.get_by_alt_text('prediction 1, large').wait_for(state='detached')

@pytest.mark.slow
def test_denoising_runs_in_the_panel(lab, browser, tmp_path):
    from conftest import shipped
    with opened(lab, browser, 'denoising', tmp_path/'denoising.png') as (page, panel):
        panel.get_by_label('seed').fill('7')
        panel.get_by_role('button', name='sample').click()
        panel.get_by_text('step 2 of 2').wait_for()
        panel.get_by_label('size').select_option('128')
        large = panel.get_by_alt_text('step 2 of 2, 128 px')
        large.wait_for()
        made = shipped('portraits').generate(seed=7, steps=2, guidance=1., category='micah')
        assert np.abs(seen(large) - pixels(made.to_pil(size=128))).max() <= 1
        panel.get_by_role('button', name='step 1').click()
        panel.get_by_alt_text('step 1 of 2, 128 px').wait_for()

@pytest.mark.slow
def test_the_mixer_samples_what_the_slider_says(lab, browser, tmp_path):
    from conftest import shipped
    with opened(lab, browser, 'mixer', tmp_path/'mixer.png') as (page, panel):
        panel.get_by_alt_text('100 % seed 3').wait_for()
        panel.get_by_label('mix').focus()
        for _ in range(25): page.keyboard.press('ArrowRight')
        picture = panel.get_by_alt_text('75 % seed 3, 25 % seed 5')
        picture.wait_for()
        made = mixed(shipped('portraits'), 3, 5, .25, steps=2, guidance=1., category='toon-head')
        assert np.abs(seen(picture) - pixels(made.to_pil(size=128))).max() <= 1

@pytest.mark.slow
def test_a_saved_notebook_keeps_its_picture(lab, browser, field, tmp_path):
    with opened(lab, browser, 'compare', tmp_path/'saved.png') as (page, panel):
        panel.locator('.stage').wait_for()
        page.keyboard.press('Control+s')
        time.sleep(3)
        page.get_by_role('menuitem', name='Kernel', exact=True).click()
        page.get_by_role('menuitem', name='Shut Down Kernel', exact=True).click()
        time.sleep(1)
        page.goto(f'{lab}/compare.ipynb?reset')
        still = page.locator('.jp-OutputArea-output img.still')
        still.wait_for()
        page.get_by_text('A stored picture').wait_for()
        assert np.abs(seen(still)[:, :128] - pixels(field.to_pil(size=256))[:, :128]).max() == 0

@pytest.mark.slow
def test_a_field_shows_its_pictures(lab, browser, field, tmp_path):
    with opened(lab, browser, 'field', tmp_path/'field.png') as (page, panel):
        shown = seen(panel.locator('img'))
        assert shown.shape[0] == 128 + 14
        assert np.array_equal(shown[64:128, :64], pixels(field[2].to_pil()))
