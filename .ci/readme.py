"README.md from nbs/index.ipynb: the same cells and outputs, with links as seen from the repository's root."
import re, sys
from pathlib import Path
import nbformat
from nbconvert import MarkdownExporter

ROOT = Path(__file__).resolve().parent.parent
NOTE = '<!-- Rendered from nbs/index.ipynb by `make readme`; edit the notebook, not this file. -->\n\n'
LINK = re.compile(r'(\]\(|src="|href=")(?!https?:|mailto:|#|/|nbs/)([^)"\s]+)')  # of the notebook's own folder

def visible(cell):
    "The cell without its directive lines; None for one that nbdev hides."
    words = re.findall(r'^#\|\s*(\w+)', cell.source, re.M)
    if {'hide', 'default_exp', 'export'} & set(words): return None
    cell.source = re.sub(r'^#\|.*\n?', '', cell.source, flags=re.M).strip()
    return cell if cell.source else None

def render():
    "The text, and the pictures that it refers to as paths from the root."
    nb = nbformat.read(ROOT/'nbs'/'index.ipynb', as_version=4)
    nb.metadata['language_info'] = {'name': 'python'}  # for the fences of the code
    nb.cells = [c for c in map(visible, nb.cells) if c]
    outputs = [o.get('data', {}) for c in nb.cells for o in c.get('outputs', [])]
    if any(kind.startswith('image/') for data in outputs for kind in data):
        raise SystemExit('nbs/index.ipynb has a picture as the output of a cell; save it in nbs/images/')
    text, _ = MarkdownExporter().from_notebook_node(nb)
    text = LINK.sub(r'\1nbs/\2', text.strip()) + '\n'
    pictures = sorted(set(re.findall(r'(?:\]\(|src=")(nbs/images/[^)"\s]+)', text)))
    return NOTE + text, pictures

if __name__ == '__main__':
    text, pictures = render()
    (ROOT/'README.md').write_text(text, encoding='utf-8')
    missing = [p for p in pictures if not (ROOT/p).is_file()]
    print('README.md written' + (f"; still missing: {', '.join(missing)}" if missing else ''), file=sys.stderr)
