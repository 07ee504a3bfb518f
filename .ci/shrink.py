"""Stored figures of notebooks made small: a PNG of over 40 kB gets 256 colours, or becomes JPEG where that is smaller.

    python .ci/shrink.py [notebook ...]     those of nbs/ without a name

Animations, pictures that are transparent somewhere, and those that have 256 colours already stay as they are.
"""
import base64, io, json, sys
from pathlib import Path
from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
LIMIT = 40_000  # bytes

def saved(im, kind, **options):
    "A picture as the bytes of a file."
    out = io.BytesIO()
    im.save(out, kind, optimize=True, **options)
    return out.getvalue()

def small(png):
    "A PNG's bytes -> the kind of file, and its bytes; flat colours suit a palette, photographs JPEG."
    im = Image.open(io.BytesIO(png))
    if len(png) <= LIMIT or im.mode == 'P' or getattr(im, 'is_animated', False): return 'image/png', png
    if im.has_transparency_data and im.convert('RGBA').getchannel('A').getextrema()[0] < 255: return 'image/png', png
    im = im.convert('RGB')
    colours = im.quantize(256, method=Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
    palette, jpeg = saved(colours, 'PNG'), saved(im, 'JPEG', quality=85)
    kind, least = ('image/png', palette) if len(palette) <= 1.15 * len(jpeg) else ('image/jpeg', jpeg)
    return (kind, least) if len(least) < len(png) else ('image/png', png)

def shrink(output):
    "Make the picture of an output small, in place; was there anything to gain?"
    data, about = output.get('data', {}), output.get('metadata', {})
    if 'image/png' not in data: return False
    png = base64.b64decode(''.join(data['image/png']))
    kind, least = small(png)
    if least == png: return False
    del data['image/png']
    data[kind] = base64.b64encode(least).decode() + '\n'
    if 'image/png' in about: about[kind] = about.pop('image/png')
    return True

def shrink_notebook(path):
    nb, before = json.loads(path.read_text(encoding='utf-8')), path.stat().st_size
    if not sum([shrink(out) for cell in nb['cells'] for out in cell.get('outputs', [])]): return
    path.write_text(json.dumps(nb, indent=1, ensure_ascii=False) + '\n', encoding='utf-8')
    print(f'{path}: {before // 1000:,} -> {path.stat().st_size // 1000:,} kB')

if __name__ == '__main__':
    for path in map(Path, sys.argv[1:]) if sys.argv[1:] else sorted((ROOT/'nbs').rglob('*.ipynb')):
        if '.ipynb_checkpoints' not in path.parts: shrink_notebook(path)
