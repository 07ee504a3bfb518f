"The package as others install it."
import os, subprocess, sys
from pathlib import Path
import pytest

ROOT = Path(__file__).resolve().parent.parent

def run(*command, cwd, **env):
    command = [sys.executable, *map(str, command)]
    done = subprocess.run(command, cwd=cwd, env=os.environ | env, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout

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
