"Stored figures are made small, once, and only where nothing depends on their pixels."
import base64, io, json, runpy
from pathlib import Path
import numpy as np, pytest
from PIL import Image

script = runpy.run_path(str(Path(__file__).resolve().parent.parent/'.ci'/'shrink.py'))
NOISE = np.random.default_rng(0).integers(0, 256, (160, 160, 4), np.uint8)

def png(im, **options):
    out = io.BytesIO()
    im.save(out, 'PNG', **options)
    return out.getvalue()

def output(content): # as a kernel writes it
    data = {'text/plain': 'figure', 'image/png': base64.b64encode(content).decode() + '\n'}
    return {'output_type': 'display_data', 'data': data, 'metadata': {'image/png': {'width': 80, 'height': 80}}}

def waves(): # a smooth picture with a little grain, as of a photograph
    ramp = 127 + 100 * np.sin(np.arange(300) / 40)
    pixels = (ramp[:, None, None] + ramp[:, None] * [.1, .2, .3]) + NOISE[:1, :1, :3] / 8
    grain = np.random.default_rng(1).normal(0, 3, (300, 300, 3))
    return Image.fromarray((pixels + grain).clip(0, 255).astype(np.uint8))

def lines(): # a large drawing of few colours, stored without compression
    im = Image.new('RGB', (200, 200), 'white')
    for k in range(0, 200, 20): im.paste((40, 90, k), (k, 0, k + 3, 200))
    return im

@pytest.mark.parametrize('im, kind', [(waves(), 'image/jpeg'), (lines(), 'image/png')])
def test_a_large_figure_becomes_small_and_keeps_its_size(im, kind, tmp_path):
    content, path = png(im, compress_level=0), tmp_path/'a.ipynb'
    path.write_text(json.dumps({'cells': [{'cell_type': 'code', 'outputs': [output(content)]}]}))
    script['shrink_notebook'](path)
    once = path.read_bytes()
    out, = json.loads(once)['cells'][0]['outputs']
    assert set(out['data']) == {'text/plain', kind} and out['metadata'] == {kind: {'width': 80, 'height': 80}}
    stored = base64.b64decode(out['data'][kind])
    again = np.asarray(Image.open(io.BytesIO(stored)).convert('RGB'), int)
    assert len(stored) < len(content) / 2 and np.abs(again - np.asarray(im, int)).mean() < 3
    script['shrink_notebook'](path)
    assert path.read_bytes() == once

def animation():
    frames = [Image.fromarray(np.roll(NOISE[..., :3], k, 0)) for k in range(3)]
    return png(frames[0], save_all=True, append_images=frames[1:], duration=100)

@pytest.mark.parametrize('content', [
    animation(), png(Image.fromarray(NOISE)), png(Image.fromarray(NOISE[:40, :40, :3])),
    png(Image.fromarray(NOISE[..., :3]).quantize(256), compress_level=0)],
    ids=['animation', 'transparent', 'small', 'palette'])
def test_what_has_to_stay_stays(content):
    out, before = output(content), output(content)
    assert not script['shrink'](out) and out == before
