"The package as others install it."
import json, os, re, subprocess, sys
from pathlib import Path
import pytest

ROOT = Path(__file__).resolve().parent.parent

def run(*command, cwd, **env):
    command = [sys.executable, *map(str, command)]
    done = subprocess.run(command, cwd=cwd, env=os.environ | env, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout

NEEDS = {'metrics': r'\bfrechet\(|\befflite\(|perceptual_distance\(', 'export': r'^import onnx|onnxruntime'}

def test_a_notebook_for_colab_installs_itself():
    "Before it imports anything of ours, with the extras of what it calls, and without a word about torch."
    found = 0
    for path in sorted((ROOT/'nbs').rglob('*.ipynb')):
        cells = json.loads(path.read_text(encoding='utf-8'))['cells']
        sources = [''.join(c['source']) for c in cells if c['cell_type'] == 'code']
        if not any('colab-badge' in ''.join(c['source']) for c in cells): continue
        ours = next((k for k, s in enumerate(sources) if re.search(r'^(from|import) arsr', s, re.M)), None)
        install, = (k for k, s in enumerate(sources) if '[ -e /content ]' in s)
        if ours is None: continue  # it reads tables alone
        found += 1
        assert install < ours and 'github.com/arsr/arsr' in sources[install], path.name
        assert 'pip install' in sources[install] and 'torch' not in sources[install], path.name
        code = '\n'.join(s for s in sources if not s.startswith('#| export'))
        for extra, calls in NEEDS.items():
            if re.search(calls, code, re.M): assert extra in sources[install], (path.name, extra)
    assert found > 30

@pytest.mark.slow
def test_sdist_and_wheel_build_and_the_wheel_generates(tmp_path):
    "The wheel comes of the sdist, as `build` makes it; installed elsewhere it finds its weights and needs no compiler."
    pytest.importorskip('build')
    run('-m', 'build', '--no-isolation', '-o', tmp_path/'dist', ROOT, cwd=tmp_path)
    (sdist,), (wheel,) = ([*(tmp_path/'dist').glob(kind)] for kind in ('*.tar.gz', '*.whl'))
    assert sdist.name.startswith('arsr-') and wheel.name.endswith('-py3-none-any.whl')
    site = tmp_path/'site'
    run('-m', 'pip', 'install', '-q', '--no-deps', '--no-index', '--target', site, wheel, cwd=tmp_path)
    env = dict(PYTHONPATH=str(site), PATH='', CC='false', CXX='false')
    where = run('-c', 'import arsr; print(arsr.__file__)', cwd=tmp_path, **env)
    assert Path(where.strip()).is_relative_to(site)
    run('-m', 'arsr.apps.cli', 'generate', '--size', 32, '--steps', 2, '-o', tmp_path/'out', cwd=tmp_path, **env)
    assert [p.name for p in (tmp_path/'out').iterdir()] == ['0000.png']
