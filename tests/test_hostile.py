"Files from strangers: each is a picture, or one line that names it, soon and in little memory."
import sys, time
from contextlib import suppress
import pytest, torch
from PIL import Image
from corpus import corpus, odd, whole
from arsr import ARSR, load_image
from arsr.apps.cli import main
from arsr.field import Bicubic, ImageField

def attempt(path)->str|None:
    "What is wrong with a file; checks that it is a line with its name, or that it is a picture."
    start = time.process_time()
    try: x = load_image(path)
    except ValueError as e:
        assert path.name in str(e) and str(e).isprintable()
        return str(e)
    finally: assert time.process_time() - start < 10, path.name
    assert x.dtype == torch.float32 and x.shape[0] == 3 and x.min() >= 0 and x.max() <= 1
    return None

def peak(): # bytes that this process has held
    import resource
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == 'darwin' else 1024)

def attempts(folder, n, seed=0)->list:
    before, results = peak(), []
    for name, content in corpus(n, seed):
        (folder/name).write_bytes(content)
        results.append(attempt(folder/name))
        assert [p.name for p in folder.iterdir()] == [name]
        (folder/name).unlink()
    assert peak() - before < 2e9
    return results

def is_note(line)->bool: # of a picture that was read
    return line.startswith('arsr: ') and line.endswith(('the first is taken', 'damaged, and ignored', 'as 12 bits'))

def test_sixty_hostile_files(tmp_path, recwarn, capfd):
    results = attempts(tmp_path, 80)
    assert 30 < sum(r is not None for r in results) < 80
    assert not any(issubclass(w.category, UserWarning) for w in recwarn.list)
    assert all(is_note(line) for line in capfd.readouterr().err.splitlines())

def test_a_damaged_tiff_is_one_line_even_of_its_library(tmp_path, capfd):
    content = bytearray(whole()['zip.tif'])
    at = content.index(b'x\x9c')  # the compressed pixels
    content[at + 40:at + 60] = bytes(20)
    (tmp_path/'a.tif').write_bytes(content)
    assert attempt(tmp_path/'a.tif') and capfd.readouterr().err == ''

@pytest.mark.slow
@pytest.mark.skipif(sys.platform == 'win32', reason='no measure of memory')
def test_a_thousand_hostile_files(tmp_path):
    results = attempts(tmp_path, 1000, seed=1)
    assert 300 < sum(r is not None for r in results) < 950

def test_the_files_that_are_mutated_are_pictures(tmp_path):
    for name, content in whole().items():
        (tmp_path/name).write_bytes(content)
        refused = attempt(tmp_path/name)
        assert (refused is not None) == name.endswith(('.svg', '.eps')), refused

@pytest.mark.parametrize('name', ['two\nlines.png', 'clear\x1b[2J.png', 'bad\udcff.png', 'a' * 300 + '.png'])
def test_names_that_break_lines(name, tmp_path):
    with suppress(OSError): (tmp_path/name).write_bytes(b'no picture')
    with pytest.raises(ValueError) as error: load_image(tmp_path/name)
    assert str(error.value).isprintable()

def test_a_folder_of_hostile_files_through_the_command(tmp_path, capsys, monkeypatch):
    class Plain:
        "A model that enlarges by interpolation."
        parts = {}
        def options(self, task, **kwargs): return dict(restore=0, back_project=True)
        def upscale(self, x, **kwargs): return ImageField(x[None] * 2 - 1, Bicubic(), x.shape[-2:])
    monkeypatch.setattr(ARSR, 'from_pretrained', lambda *args: Plain())
    monkeypatch.chdir(tmp_path)
    (tmp_path/'in').mkdir()
    small = {name: content for name, content in corpus(90) if name not in ('large.png', 'words.png')}
    for name, content in small.items(): (tmp_path/'in'/name).write_bytes(content)
    Image.new('RGB', (5, 4), 'red').save('in/good.png')
    assert main(['upscale', 'in', '-o', 'out', '--scale', '1.5']) == 1
    out, err = capsys.readouterr()
    *lines, last = (line for line in err.splitlines() if not is_note(line))
    assert last.startswith(f'arsr: {len(lines)} of ') and all(line.startswith('arsr: in/') for line in lines)
    written = {p.name for p in (tmp_path/'out').iterdir()}
    assert 'good.png' in written and len(written) == len(out.splitlines())
    for name in written: Image.open(tmp_path/'out'/name).load()
    assert len(odd()) > 30
