"What a page needs beyond its text: pictures as files with words for who does not see them, anchors that are there."
import ast, base64, html, io, os, re
from functools import cache
from pathlib import Path
import numpy as np
from PIL import Image
from scipy import ndimage

# ---- pictures of a notebook's cells

KINDS = {'image/png': 'png', 'image/jpeg': 'jpg'}
BROAD = 600  # pixels: a figure that wide is not shrunk to a phone, where nothing in it could be read
NAMED = set('title titles label labels xlabel ylabel set_title set_xlabel set_ylabel show suptitle'.split())

def plain(text):
    "Markdown as one line without its marks."
    text = re.sub(r'\$\$[^$]*\$\$|^\s*([#>|`-]|\d+\.)[^\n]*$', '', text, flags=re.M)
    text = re.sub(r'!?\[([^\]]*)\]\([^)]*\)', r'\1', text)
    return ' '.join(re.sub(r'[*`$\\{}]', '', text).split())

def introduction(cells, k):
    "The last sentences before a cell, which say what it is about to show; the heading where there are none."
    for cell in reversed(cells[:k]):
        if cell['cell_type'] != 'markdown': continue
        text = ' '.join(p for p in map(plain, ''.join(cell['source']).split('\n\n')) if p)
        sentences = re.split(r'(?<=[.!?:])\s+(?=[A-Z(])', text)
        kept = sentences.pop()
        while sentences and len(sentences[-1]) + len(kept) < 240: kept = f'{sentences.pop()} {kept}'
        heading = re.findall(r'^#+\s+(.+)$', ''.join(cell['source']), re.M)
        if kept or heading: return (kept or plain(heading[-1])).rstrip(' :,;')
    return ''

def strings(node):
    "The words in an expression, in their order."
    constants = [n for n in ast.walk(node) if isinstance(n, ast.Constant) and isinstance(n.value, str)]
    found = [(n.lineno, n.col_offset, n.value) for n in constants]
    return [value for *_, value in sorted(found)]

def labels(source):
    "What is written on the axes and above the pictures of a cell, as far as it stands there as it is."
    try: tree = ast.parse(re.sub(r'^\s*[%!].*$', '', source, flags=re.M))
    except SyntaxError: return []
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.keyword) and node.arg in NAMED: found += strings(node.value)
        if isinstance(node, ast.Assign) and getattr(node.targets[0], 'id', '') in NAMED: found += strings(node.value)
        if not isinstance(node, ast.Call): continue
        name = getattr(node.func, 'attr', getattr(node.func, 'id', ''))
        if name in NAMED: found += [s for arg in node.args[name == 'show':] for s in strings(arg)]
    words = [plain(s) for s in found if re.search(r'[A-Za-z]{3}', s) and not re.fullmatch('[a-z]+_?[a-z]*', s)]
    return list(dict.fromkeys(words))

def alt_text(cells, k):
    "What the pictures of cell k show: the sentence before it and the labels in it."
    text, words = introduction(cells, k), ', '.join(labels(cells[k]['source'])[:8])
    if not text or not words: return text or words or 'Result of the code above'
    return f"{text}{'' if text[-1] in '.?!' else '.'} Labels: {words}"

CAPTION = re.compile(r'^#\|\s*fig-cap:\s*(.+?)\s*\n', re.M)

def take_caption(cell):
    "What to see in the last picture of a cell, as `#| fig-cap:` says it; the line leaves the code. HTML, or nothing."
    said = CAPTION.search(cell['source'])
    if not said: return ''
    cell['source'] = CAPTION.sub('', cell['source'])
    return re.sub('`([^`]+)`', r'<code>\1</code>', html.escape(said[1].strip('"'), quote=False))

PICTURES = re.compile(r'imshow|\b(?:show|sheet)\(|scatter\(.*c=|\.explore\(|Image\.open')
LINES = re.compile(r'\.(?:plot|barh?|hist|scatter|errorbar|text|log(?:log)?|semilog[xy])\(|\bbars\(')

def is_plot(source, image):
    "Lines and bars on white, as far as code and pixels tell, and no pictures beside them."
    if (np.asarray(image.convert('L')) > 250).mean() > .85: return True
    return not PICTURES.search(source) and LINES.search(source) is not None

def shown_size(out, kind, image):
    "Width and height of a picture as it was drawn; one of twice the resolution has twice as many pixels."
    said = out.get('metadata', {}).get(kind, {})
    return (said['width'], said['height']) if 'width' in said else image.size

def bands(spans, n, gap=6): # slices of n pixels; breaks of up to `gap` pixels are closed -> (n,) bool
    "Where along an axis something stands."
    taken = np.zeros(n, bool)
    for span in spans: taken[span] = True
    return ndimage.binary_closing(np.pad(taken, gap), np.ones(gap + 1))[gap:-gap]

def inside(part, ink): # slices of two axes, (h,w) bool -> slices
    "A bar of colours without the ticks at its side; nothing where a part is no such bar."
    sides = sorted(span.stop - span.start for span in part)
    solid = ndimage.binary_opening(ink[part], np.ones((5, 5)))
    if not 6 < sides[0] <= 22 or sides[1] < 60 or not solid.any(): return slice(0), slice(0)
    found = (np.flatnonzero(solid.any(1 - axis)) + part[axis].start for axis in (0, 1))
    return tuple(slice(at[0], at[-1] + 1) for at in found)

def panels(image, size): # (w, h) on the page in pixels -> (h,w) bool, of the image's own
    "Rows and columns that hold something larger than letters: the pictures of a figure, without its titles."
    ink = np.asarray(image.resize(size, Image.Resampling.BOX)).min(-1) < 245
    parts = ndimage.find_objects(ndimage.label(ink, np.ones((3, 3)))[0])
    large = [part for part in parts if all(span.stop - span.start > 22 for span in part)]
    rows, columns = (bands([part[axis] for part in large], n) for axis, n in enumerate(ink.shape))
    whole = rows[:, None] & columns
    for part in parts: whole[inside(part, ink)] = True
    return np.asarray(Image.fromarray(whole).resize(image.size, Image.Resampling.NEAREST))

def for_dark(image, kept): # RGB; (h,w) bool: what stays as it is -> RGBA
    "White becomes transparent and black light, hues remain: what was drawn on paper, for a dark page."
    rgb = np.asarray(image)
    dark = np.dstack([rgb, np.where(kept, 255, 0).astype(np.uint8)])
    drawn = ~kept & (rgb.min(-1) < 255)
    light = rgb[drawn] / np.float32(255)
    alpha = 1 - light.min(-1, keepdims=True)
    ink = 1 - (1 - light) / alpha  # its colour, without the white that shines through
    ink += .9 * (1 - ink.max(-1, keepdims=True))
    dark[drawn] = 255.5 * np.concatenate([ink, alpha * (2 - alpha)], -1).clip(0, 1)
    return Image.fromarray(dark)

def write_dark(image, size, plot, path): # as for `panels`; lines and bars alone?
    "The twin of a figure that a dark page shows."
    image = image.convert('RGB')
    kept = np.zeros(image.size[::-1], bool) if plot else panels(image, size)
    for_dark(image, kept).save(path, lossless=plot, quality=85, method=1)

def figure(src, size, classes, alt, caption): # the two last ones are HTML
    "A picture and its dark twin, one of which is shown, and below them what to see."
    (w, h), shown = size, f'loading="lazy" alt="{alt}"'
    img = ''.join(f'<img src="{name}" width="{w}" height="{h}" class="{" ".join([*classes, scheme])}" {shown}>'
                  for scheme, name in (('light', src), ('dark', f'{src.rpartition(".")[0]}-dark.webp')))
    return f'<figure><p>{img}</p><figcaption>{caption}</figcaption></figure>' if caption else f'<p>{img}</p>'

def pictures(cell):
    "The outputs of a cell that are pictures, each with its kind and bytes."
    for out in cell.get('outputs', []):
        kind = next((kind for kind in KINDS if kind in out.get('data', {})), None)
        if kind is None: continue
        data = out['data'][kind]
        yield out, kind, base64.b64decode(''.join(data) if isinstance(data, list) else data)

def is_blank(out):
    "Is it room for nothing on a page, as a bar leaves that is gone?"
    data = out.get('data', {})
    return 'text/html' in data and not data.keys() & KINDS.keys() and not ''.join(data['text/html']).strip()

def extract(nb, page, folder):
    "Pictures in outputs become files in `folder`, and the outputs refer to them; blank ones go. `page`: in the site."
    cells, up, n = nb['cells'], '../' * len(page.parent.parts), 0
    folder.mkdir(parents=True, exist_ok=True)
    for k, cell in enumerate(cells):
        if cell.get('outputs'): cell['outputs'] = [out for out in cell['outputs'] if not is_blank(out)]
        found = [*pictures(cell)]
        caption = take_caption(cell) if found else ''
        for out, kind, data in found:
            name = f"{'-'.join(page.with_suffix('').parts)}-{n}.{KINDS[kind]}"
            (folder/name).write_bytes(data)
            image, n = Image.open(io.BytesIO(data)), n + 1
            size, plot = shown_size(out, kind, image), is_plot(cell['source'], image)
            write_dark(image, size, plot, folder/f'{Path(name).stem}-dark.webp')
            classes = ['plot' if plot else 'picture'] + ['broad'] * (size[0] >= BROAD)
            below = caption if out is found[-1][0] else ''
            alt = html.escape(alt_text(cells, k))
            out['data'] = {'text/html': figure(f'{up}{folder.name}/{name}', size, classes, alt, below)}

def join_prints(nb):
    "What a cell has printed at several moments, as one block."
    def kind(out): return out['output_type'], out.get('name')
    for cell in nb['cells']:
        found = []
        for out in cell.get('outputs', []):
            if found and kind(out) == kind(found[-1]) and out['output_type'] == 'stream':
                found[-1]['text'] = [*found[-1]['text'], *out['text']]  # lines, or letters
            else: found.append(out)
        if found: cell['outputs'] = found

# ---- pages as they are built

@cache
def anchors(path):
    "What a page can be entered at."
    return set(re.findall(r'\bid="([^"]+)"', path.read_text(encoding='utf-8')))

def mend_link(match, page):
    "A link to an anchor that is not there goes to what is nearest: the class of a method, or the page."
    before, href, anchor = match.groups()
    target = (page.parent/href).resolve() if href else page
    if not target.is_file() or anchor in anchors(target): return match[0]
    others = anchor.rpartition('.')[0], anchor.lower()
    nearest = next((name for name in others if name and name in anchors(target)), '')
    return f'{before}{href}#{nearest}"' if nearest or not href else f'{before}{href}"'

def drawn_size(path):
    "Width and height that a drawing says of itself."
    return re.search(r'<svg[^>]* width="(\d+)" height="(\d+)"', path.read_text(encoding='utf-8')).groups()

def size_image(match, page):
    "A picture of the site says how large it is and may come late, so that nothing jumps and nothing waits."
    tag, src = match[0], re.search(r'src="([^":]+)"', match[0])
    path = (page.parent/src[1]).resolve() if src else None
    if 'width=' in tag or path is None or not path.is_file(): return tag
    w, h = drawn_size(path) if path.suffix == '.svg' else Image.open(path).size
    return tag.replace('<img', f'<img width="{w}" height="{h}"' + ' loading="lazy"' * ('loading=' not in tag), 1)

def box_table(match):
    "A table in a box that scrolls; short cells stay on a line, and one with sentences becomes a list on a phone."
    cells = re.findall(r'<td[^>]*>(.*?)</td>', match[0], re.S)
    prose = any(len(re.sub('<[^>]+>', '', cell)) > 100 for cell in cells)
    table = re.sub(r'<(t[dh])( style="[^"]*")?>([^<]{1,10}</)', r'<\1\2 class="short">\3', match[0])
    return f'<div class="wide{" prose" * prose}">{table}</div>'

def hang_lines(match):
    "Code whose long lines go on, where a page is narrow, a little to the right of their beginning."
    def line(html):
        text, tags = re.sub('<[^>]+>', '', html), [html.count(tag) for tag in ('<span', '</span')]
        if len(text) < 36 or tags[0] != tags[1]: return html
        return f'<span class="line" style="--in:{len(text) - len(text.lstrip())}">{html}</span>'
    return match[1] + '\n'.join(map(line, match[2].split('\n'))) + match[3]

CODE = re.compile(r'(<pre class="sourceCode[^"]*"><code[^>]*>)((?:(?!id="cb).)*?)(</code></pre>)', re.S)
OUTSIDE = re.compile(r'@import\s+(?:url\()?["\']?https://[^;]*;')

def finish(docs, root): # root: where the site stands on its server, such as /arsr/
    "Every page: links mended, pictures sized, tables in boxes that scroll, the site's own script."
    for page in sorted(docs.rglob('*.html')):
        text, up = page.read_text(encoding='utf-8'), os.path.relpath(docs, page.parent)
        text = re.sub(r'(<a [^>]*?href=")([^":#]*)#([^"]+)"', lambda m, page=page: mend_link(m, page), text)
        text = re.sub(r'<img [^>]*>', lambda m, page=page: size_image(m, page), text)
        text = re.sub(r'<table.*?</table>', box_table, text, flags=re.S)
        text = CODE.sub(hang_lines, text)
        if page.name == '404.html': text = text.replace('<head>', f'<head><base href="{root}">', 1)
        text = text.replace('</head>', f'<script src="{up}/site.js" defer></script></head>', 1)
        text = re.sub(r'(<i class="bi[^"]*") role="img"', r'\1 aria-hidden="true"', text)
        page.write_text(text, encoding='utf-8')
    for css in docs.rglob('*.css'): # a theme's fonts of another server: ours are the reader's own
        text = css.read_text(encoding='utf-8')
        if OUTSIDE.search(text): css.write_text(OUTSIDE.sub('', text), encoding='utf-8')
