"The panel in a real JupyterLab, in a real browser, with a real keyboard. Skipped where there is no Chromium."
import json, os, shutil, socket, sys, time, urllib.request
from contextlib import contextmanager
import nbformat, psutil, pytest

playwright = pytest.importorskip('playwright.sync_api', reason='playwright is not installed')
CHROMIUM = next(filter(None, map(shutil.which, ('chromium', 'chromium-browser', 'google-chrome'))), None)
FLAGS = ['--headless', '--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run',
         '--disable-background-networking', '--disable-component-update', '--disable-sync']
PATIENCE = 60  # seconds that any one step may take on a busy machine
NOTEBOOK = """
import torch
from arsr import ImageField
from arsr.liif import LIIF
torch.manual_seed(0)
field = ImageField(2 * torch.randn(2, 16, 16, 16), LIIF(16, hidden=(32,)).requires_grad_(False), size=64)
field.explore(most=256)
""".strip()

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
    _, left = psutil.wait_procs(family, timeout=20)
    for process in left: process.kill()
    assert not left, f'did not stop when asked to: {left}'

@pytest.fixture
def lab(tmp_path):
    "The address of a JupyterLab that serves one notebook and keeps all it writes below `tmp_path`."
    home, root = tmp_path/'home', tmp_path/'notebooks'
    (home/'config'/'labconfig').mkdir(parents=True)
    news = '@jupyterlab/apputils-extension:announcements' # asks a question at the first start
    (home/'config'/'labconfig'/'page_config.json').write_text(json.dumps({'disabledExtensions': {news: True}}))
    root.mkdir()
    kernel = {'kernelspec': {'name': 'python3', 'display_name': 'Python 3', 'language': 'python'}}
    nbformat.write(nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(NOTEBOOK)], metadata=kernel),
                   root/'panel.ipynb')
    own = {'HOME': home, 'IPYTHONDIR': home/'ipython', 'JUPYTER_CONFIG_DIR': home/'config',
           'JUPYTER_DATA_DIR': home/'data',
           'JUPYTER_RUNTIME_DIR': home/'runtime', 'JUPYTERLAB_WORKSPACES_DIR': home/'workspaces',
           'JUPYTERLAB_SETTINGS_DIR': home/'settings'}
    port = free_port()
    options = dict(ip='127.0.0.1', port=port, port_retries=0, root_dir=root, open_browser=False, allow_root=True)
    command = [sys.executable, '-m', 'jupyterlab', *(f'--ServerApp.{k}={v}' for k, v in options.items()),
               '--IdentityProvider.token=']
    url, log = f'http://127.0.0.1:{port}', tmp_path/'lab.log'
    with log.open('w') as out:
        server = psutil.Popen(command, env=os.environ | {k: str(v) for k, v in own.items()}, stdout=out, stderr=out)
    try:
        wait_until(lambda: answers(f'{url}/api/status') or server.poll() is not None, PATIENCE,
                   'the start of JupyterLab')
        assert server.poll() is None, log.read_text()
        yield url
    finally: end(server)

@contextmanager
def browser_page(profile, picture):
    "A page of a new headless browser with its own profile; what it looks like at the end goes to `picture`."
    with playwright.sync_playwright() as p:
        context = p.chromium.launch_persistent_context(profile, executable_path=CHROMIUM, args=FLAGS,
                                                       viewport={'width': 1280, 'height': 900})
        context.set_default_timeout(1000 * PATIENCE)
        try: yield context.pages[0]
        finally:
            context.pages[0].screenshot(path=picture)
            context.close()

READ = 'async img => Array.from(new Uint8Array(await (await fetch(img.src)).arrayBuffer())).join()' # a PNG's blob

def shown(page):
    "The bytes of all three pictures (map, field, bicubic) and the caption, as the browser has them."
    panel = page.locator('.jp-OutputArea-output').first
    return [img.evaluate(READ) for img in panel.locator('img').all()], panel.get_by_text('on show').inner_text()

@pytest.mark.skipif(CHROMIUM is None, reason='no chromium, chromium-browser or google-chrome on the PATH')
def test_the_scale_slider_in_jupyterlab(lab, tmp_path):
    with browser_page(tmp_path/'profile', tmp_path/'panel.png') as page:
        page.goto(f'{lab}/lab/tree/panel.ipynb')
        page.get_by_text('Python 3 (ipykernel) | Idle').wait_for() # before that, a cell asks for a kernel
        page.get_by_role('menuitem', name='Run', exact=True).click()
        page.get_by_role('menuitem', name='Run All Cells', exact=True).click()
        sliders = page.get_by_role('slider')
        page.get_by_text('on show').wait_for()
        assert sliders.count() == 4
        pictures, caption = shown(page)
        assert len(pictures) == 3 and 'scale 1.00' in caption and '64 × 64 pixels' in caption

        sliders.first.focus()
        for _ in range(24): page.keyboard.press('ArrowRight') # three doublings
        page.get_by_text('scale 8.00').wait_for()
        moved, moved_caption = shown(page)
        assert '512 × 512 pixels' in moved_caption and '256 × 256 of them are on show' in moved_caption
        assert all(a != b for a, b in zip(pictures, moved))
