"""Build the site: nbdev's processing of every notebook into _proc/, then the pages into _docs/.

Offline with smalldocs; with `--quarto` by Quarto. Both read the same _quarto.yml and give a page the same name.
"""
import ast, html, inspect, os, re, shutil, subprocess, sys
from importlib import import_module
from operator import attrgetter
from pathlib import Path
from execnb.nbio import mk_cell, read_nb, write_nb
from fastcore.docments import docments
from nbdev.config import get_config
from nbdev.doclinks import NbdevLookup, _nbpath2html
from nbdev.process import Processor
from nbdev.processors import FilterDefaults, add_fold, add_show_docs, clean_show_doc, exec_show_docs, mv_exports
from nbdev.showdoc import showdoc_nm
from smalldocs.layout import KATEX
from pages import extract, finish, join_prints

ROOT = Path(__file__).resolve().parent.parent
NBS, WEB, PROC, DOCS, CACHE = (ROOT/name for name in ('nbs', '.ci/web', '_proc', '_docs', '.cache'))

# ---- nbdev's processing, as a lesson wants it: in a lesson the code is the text, so exported cells are shown

def split_title(nb):
    "nbdev drops what stands below title and description in their cell: give the two a cell of their own."
    first = next((c for c in nb.cells if c.cell_type == 'markdown'), None)
    head = re.match(r'#\s.*\n+(?:>.*(?:\n|$))*', first.source) if first else None
    if head and first.source[head.end():].strip():
        nb.cells.insert(nb.cells.index(first) + 1, mk_cell(first.source[head.end():].strip(), 'markdown'))
        first.source = head[0]

def reference(sym, name, node):
    "What stands above an exported definition: its name, the way to its source, its parameters and methods to unfold."
    try: line = f'#L{inspect.getsourcelines(sym)[1]}'
    except (OSError, TypeError): line = ''
    source = NbdevLookup().code(f'{sym.__module__}.{name}')
    link = f'[source]({source.split("#")[0]}{line}){{.source}}\n\n' if source else ''
    return f'### {name}\n\n{link}{parameters(sym)}{methods(sym, name, node)}'

def parameters(sym):
    "The docments of a function or class as a table to unfold; nothing where there are none."
    return unfold('parameters', parameter_table(sym))

def unfold(title, text):
    "HTML under a title that one clicks on; nothing if it is empty."
    if not text: return ''
    return f'```{{=html}}\n<details class="parameters"><summary>{title}</summary>{text}</details>\n```\n'

def parameter_table(sym):
    "The docments of a function or class as a table."
    rows = [(name, d) for name, d in docments(sym, full=True).items() if d.get('docment')]
    if not rows: return ''
    body = ''.join(parameter_row('→' if name == 'return' else name, d) for name, d in rows)
    return f'<table class="table"><tr><th></th><th>type</th><th>default</th><th></th></tr>{body}</table>'

def parameter_row(name, d):
    cells = code(name), code(type_name(d['anno'])), code(default(d)), text(d['docment'])
    return '<tr>' + ''.join(f'<td>{c}</td>' for c in cells) + '</tr>'

def methods(sym, name, node):
    "The public methods in the body of a class, each with what it says of itself, where links to it point."
    if not isinstance(node, ast.ClassDef): return ''
    public = {m.name: m for m in node.body if isinstance(m, ast.FunctionDef) and m.name[0] != '_'}
    rows = [method_row(f'{name}.{k}', inspect.getattr_static(sym, k), ast.get_docstring(m)) for k, m in public.items()]
    return unfold('methods', ''.join(rows))

def method_row(name, m, doc):
    "A method's name, first words and parameters; nothing where it says nothing of itself."
    inside = (getattr(m, k, None) for k in ('fget', '__func__', 'func'))  # of a property, class method, cached property
    m = next(filter(None, inside), m)
    table = parameter_table(m) if inspect.isfunction(m) else ''
    if not doc and not table: return ''
    return f'<div class="method" id="{name.lower()}"><p>{code(name)} {text(doc or "")}</p>{table}</div>'

def text(s): return re.sub('`([^`]+)`', r'<code>\1</code>', html.escape(s))
def code(s): return f'<code>{html.escape(s)}</code>' if s else ''
def type_name(anno): return '' if anno in (inspect._empty, None) else getattr(anno, '__name__', str(anno))
def default(d): return '' if d.get('default', inspect._empty) is inspect._empty else repr(d['default'])

def is_public(node): return isinstance(node, (ast.FunctionDef, ast.ClassDef)) and node.name[0] != '_'

class show_exports(Processor):
    "Exported code is shown as it is, below the reference of what it defines; no cell is run for that."
    def begin(self):
        cells = self.nb.cells
        code_cells = [c for c in cells if c.cell_type == 'code']
        exports = [c for c in code_cells if 'export' in c.directives_ and 'hide' not in c.directives_]
        module = next((c.directives_['default_exp'][0] for c in code_cells if 'default_exp' in c.directives_), None)
        for cell in exports:
            cell.directives_['exports'] = cell.directives_.pop('export')
            for node in filter(is_public, cell.parsed_() or []):
                name = showdoc_nm(node)
                above = mk_cell(reference(attrgetter(name)(import_module(f'arsr.{module}')), name, node), 'markdown')
                above.directives_ = {}
                cells.insert(cells.index(cell), above)

class Lesson(FilterDefaults):
    "nbdev's processors, with that in place of its own reference."
    def base_procs(self):
        own = (add_show_docs, clean_show_doc, exec_show_docs, add_fold, mv_exports)
        return [show_exports, *(p for p in super().base_procs() if p not in own)]

# ---- names and links

def page_of(nb):
    "The page of a notebook, relative to the site: nbs/beyond/01_fast.ipynb gives beyond/fast.html."
    return Path(_nbpath2html(nb.relative_to(NBS)))

BADGE = re.compile(r'\[!\[[^\]]*\]\(\S+colab-badge\.svg\)\]\((\S+?)\)')  # a picture of another server
LINK = re.compile(r'(\]\((?!\w+:)[^)\s]*?)(?:\d+[a-z]?_)?(\w+)\.ipynb')

def local_links(text, here, site):
    "Links between lessons, to their pages and relative, so that the site works wherever it stands."
    text = text.replace(site, '../' * len(here.parent.parts))
    return LINK.sub(r'\1\2.ipynb', BADGE.sub(r'[Open in Colab](\1){.colab}', text))

def process():
    "Every notebook through nbdev into _proc/, pictures and styles beside them."
    shutil.rmtree(PROC, ignore_errors=True)
    shutil.copytree(NBS, PROC, ignore=shutil.ignore_patterns('*.ipynb', '.*', '_*'))
    shutil.copytree(WEB, PROC, dirs_exist_ok=True, ignore=shutil.ignore_patterns('*.json', '.*'))
    for name in ('_quarto.yml', 'CHANGELOG.md'): shutil.copy(ROOT/name, PROC/name.lower())
    cfg, sidebar = get_config(), (ROOT/'_quarto.yml').read_text(encoding='utf-8')
    site = f"{cfg.doc_host}{cfg.doc_baseurl}/"
    for src in sorted(NBS.rglob('*.ipynb')):
        if any(p[0] in '._' for p in src.relative_to(NBS).parts): continue
        nb = read_nb(src)
        extract(nb, page_of(src), PROC/'figures')
        split_title(nb)
        join_prints(nb)
        Lesson()(nb)
        dst = PROC/page_of(src).with_suffix('.ipynb')
        dst.parent.mkdir(parents=True, exist_ok=True)
        write_nb(nb, dst)
        named = f'output-file: {page_of(src).name}\\n'  # it has that name already
        text = dst.read_text(encoding='utf-8').replace(named, '')
        dst.write_text(local_links(text, page_of(src), site), encoding='utf-8')
        page = dst.relative_to(PROC).as_posix()
        if f' {page}\n' not in sidebar: print(f'{page} is not in the sidebar of _quarto.yml', file=sys.stderr)

# ---- the pages

def packages():
    "The folder of what .ci/web/package-lock.json names; None where npm cannot fetch it."
    at, lock = CACHE/'web', WEB/'package-lock.json'
    if not (at/lock.name).is_file() or (at/lock.name).read_bytes() != lock.read_bytes():
        if not shutil.which('npm'): return None
        shutil.rmtree(at, ignore_errors=True)
        at.mkdir(parents=True)
        for name in ('package.json', '.npmrc'): shutil.copy(WEB/name, at)
        (at/'package-lock.json').write_bytes(lock.read_bytes())
        got = subprocess.run(['npm', 'ci', '--ignore-scripts', '--silent'], cwd=at, capture_output=True, text=True)
        if got.returncode:
            print(got.stderr.strip(), file=sys.stderr)
            shutil.rmtree(at)
            return None
    return at/'node_modules'

def use_local_katex():
    "Set the mathematics by a KaTeX that stands in the site itself."
    if packages() is None:
        print('npm could not fetch KaTeX: formulas are set only where a reader is online', file=sys.stderr)
        return
    dist = packages()/'katex'/'dist'
    libs = PROC/'_docs'/'site_libs'/'katex'
    files = ('katex.min.css', 'katex.min.js', 'contrib/auto-render.min.js')
    for f in [*(dist/name for name in files), *(dist/'fonts').glob('*.woff2')]:
        (libs/f.relative_to(dist)).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(f, libs/f.relative_to(dist))
    for page in (PROC/'_docs').rglob('*.html'):
        up = '../' * len(page.relative_to(PROC/'_docs').parent.parts)
        text = page.read_text(encoding='utf-8')
        if KATEX in text: page.write_text(text.replace(KATEX, f'{up}site_libs/katex'), encoding='utf-8')

def use_model():
    "The live page's networks and runtime; without them the page says so."
    if packages() is None:
        print('npm could not fetch onnxruntime-web: the live page has no model', file=sys.stderr)
        return
    command = [sys.executable, ROOT/'.ci'/'live.py', packages(), PROC/'_docs'/'live']
    got = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if got.returncode: print(f'the live page has no model: {got.stderr.strip().splitlines()[-1]}', file=sys.stderr)

def build(quarto):
    "From _proc/ to _docs/."
    tool = ['quarto', 'render', '--no-execute'] if quarto else [Path(sys.executable).parent/'smalldocs', 'render']
    subprocess.run([*tool, '.'], cwd=PROC, check=True)
    if not quarto:
        use_local_katex()
        shutil.copy(WEB/'search.js', PROC/'_docs'/'site_libs'/'fuse'/'fuse.min.js')
    use_model()
    finish(PROC/'_docs', f'{get_config().doc_baseurl}/')
    shutil.rmtree(DOCS, ignore_errors=True)
    shutil.move(PROC/'_docs', DOCS)

if __name__ == '__main__':
    os.chdir(ROOT)
    process()
    build('--quarto' in sys.argv)
    print(f'The site is in {DOCS.name}/: open {DOCS.name}/index.html')
