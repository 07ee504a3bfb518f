"The diagram of the method: what is committed is what the script writes, and each lesson has its own."
import re, runpy, xml.dom.minidom
from pathlib import Path
import pytest

ROOT = Path(__file__).resolve().parent.parent
script = runpy.run_path(str(ROOT/'.ci'/'diagram.py'))
LIT, PARTS, diagram = script['LIT'], script['PARTS'], script['diagram']

@pytest.mark.parametrize('name', ['', *LIT])
def test_a_diagram_is_what_the_script_draws(name):
    "Small, well-formed, its text as text, and pale but for what is lit."
    path = ROOT/'nbs'/'images'/f"method{'-' * bool(name)}{name}.svg"
    lit = set(LIT[name].split() if name else PARTS)
    assert path.read_text(encoding='utf-8') == diagram(lit), 'run python .ci/diagram.py'
    assert path.stat().st_size < 30_000 and lit <= PARTS.keys()
    groups = xml.dom.minidom.parse(str(path)).getElementsByTagName('g')
    strong = {g.getAttribute('id') for g in groups if g.getAttribute('opacity') == '1'}
    assert strong == lit and 'Denoiser</text>' in path.read_text(encoding='utf-8')

def test_each_lesson_of_the_main_line_opens_with_its_part():
    lessons = [*sorted((ROOT/'nbs').glob('[0-9]*.ipynb')), ROOT/'nbs'/'lab'/'01_metrics.ipynb']
    picture = re.compile(r'!\[[^]]{40,}\]\((?:\.\./)?images/method-(\w+)\.svg\)')
    found = {picture.search(p.read_text(encoding='utf-8'))[1] for p in lessons}
    assert len(lessons) == 12 and found == LIT.keys()
