"Files of the user: none is lost, none is left half written, and many are read and written by one call."
import errno, io, os, re, shutil, signal, socket, subprocess, sys, threading, time, zipfile
from types import SimpleNamespace
import pytest, numpy as np, torch
from PIL import Image
from torch.testing import assert_close
import arsr.apps.cli, arsr.data, arsr.pipeline
from arsr import ARSR, load_image, one_line
from arsr.apps.cli import announce, crop, fit, main, tidy, with_estimate
from arsr.beyond.streaming import tiles_folder
from arsr.data import Images, atomic_write
from arsr.field import SIDES, Bicubic, ImageField, can_write, check_picture_path
from arsr.unet import tiled_apply

@pytest.fixture
def field(): return ImageField(torch.rand(1, 3, 6, 8) * 2 - 1, Bicubic(), (6, 8))

@pytest.fixture
def plain(monkeypatch, tmp_path):
    "A folder with a picture, and a model that enlarges by interpolation and counts how often it is loaded."
    class Plain:
        parts, loaded = {}, []
        def options(self, task, **kwargs): return dict(restore=0, back_project=True)
        def upscale(self, x, **kwargs): return ImageField(x[None] * 2 - 1, Bicubic(), x.shape[-2:])
    monkeypatch.setattr(ARSR, 'from_pretrained', lambda *args: Plain.loaded.append(1) or Plain())
    monkeypatch.chdir(tmp_path)
    pixels = np.random.default_rng(0).integers(0, 256, (8, 12, 3), dtype=np.uint8)
    for name in ('cat.png', 'dog.webp'): Image.fromarray(pixels).save(name, lossless=True)
    return Plain

def same(path, scale=1):
    return (np.asarray(Image.open(path)) == np.asarray(Image.open('cat.png'))).all() if scale == 1 else Image.open(path)

# writing

def test_two_writers_of_one_file_both_finish_and_the_last_wins(tmp_path):
    path, gate, parts = tmp_path/'a.png', threading.Barrier(2), []
    def write(part, text):
        parts.append(part.name)
        part.write_text(text)
        gate.wait(10)
    jobs = [threading.Thread(target=atomic_write, args=(path, lambda p, t=t: write(p, t))) for t in 'ab']
    for job in jobs: job.start()
    for job in jobs: job.join()
    assert len(set(parts)) == 2 and all(p.startswith('.') and p.endswith('.part.png') for p in parts)
    assert path.read_text() in 'ab' and [p.name for p in tmp_path.iterdir()] == ['a.png']

@pytest.mark.parametrize('suffix', ['.png', '.tif', '.jpg'])
def test_names_as_long_as_the_file_system_allows(field, tmp_path, suffix):
    name = '出' * 83 + suffix
    assert field.save(tmp_path/name).name == name and [p.name for p in tmp_path.iterdir()] == [name]

@pytest.mark.skipif(sys.platform == 'win32', reason='no such signals')
@pytest.mark.parametrize('number', [signal.SIGTERM, getattr(signal, 'SIGHUP', None)])
def test_signals_leave_no_partial_file(tmp_path, number):
    path = tmp_path/'a.png'
    def write(part):
        part.write_text('half')
        os.kill(os.getpid(), number)
        time.sleep(5)
    before = signal.signal(number, signal.SIG_DFL)
    try:
        with pytest.raises(SystemExit) as stop, tidy(): atomic_write(path, write)
        assert stop.value.code == 128 + number and not list(tmp_path.iterdir())
        assert signal.getsignal(number) is signal.SIG_DFL
    finally: signal.signal(number, before)

@pytest.mark.skipif(sys.platform == 'win32', reason='no such signals')
def test_a_signal_that_is_ignored_stays_ignored():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does
    try:
        with tidy(): assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally: signal.signal(signal.SIGHUP, before)

# pyramids

def test_a_pyramid_replaces_an_earlier_one_only(field, tmp_path, refuses):
    path, tiles = tmp_path/'photo.dzi', tmp_path/'photo_files'
    tiles.mkdir()
    for name, there in (('notes.txt', False), ('notes.txt', True)): # without photo.dzi, and with it
        (tiles/name).write_text('precious')
        if there: path.write_text('<Image/>')
        with refuses('photo_files would be replaced'): field.save(path)
        assert (tiles/name).read_text() == 'precious' and len(list(tmp_path.iterdir())) == 1 + there
    (tiles/'notes.txt').unlink()
    tiles.rmdir()
    field.save(path, size=600)
    field.save(path, size=20)
    assert sorted(p.name for p in tiles.iterdir()) == sorted(str(k) for k in range(6))
    assert {p.name for p in tmp_path.iterdir()} == {'photo.dzi', 'photo_files'}
    (tiles/'0'/'.hidden').write_text('mine')
    with refuses('photo_files would be replaced'): field.save(path)

def test_a_link_is_no_pyramid(tmp_path, refuses):
    (tmp_path/'elsewhere'/'0').mkdir(parents=True)
    (tmp_path/'a.dzi').write_text('<Image/>')
    (tmp_path/'a_files').symlink_to(tmp_path/'elsewhere')
    with refuses('a_files would be replaced'): tiles_folder(tmp_path/'a.dzi')

# limits

@pytest.mark.parametrize('kind, most', SIDES.items())
def test_the_longest_side_of_a_format_is_written_and_one_more_is_not(kind, most, tmp_path, refuses):
    suffix = {'JPEG': 'jpg', 'AVIF': 'avif'}.get(kind, kind.lower())
    if not can_write(kind): pytest.skip(f'no {kind} here')
    for size in ((most + 1, 1), (1, most + 1)):
        with refuses(f'at most {most:,} pixels a side'): check_picture_path(tmp_path/f'a.{suffix}', size)
    path = check_picture_path(tmp_path/f'a.{suffix}', (most, 1))
    if kind in ('AVIF', 'PDF'): return # slow; cannot be read here
    ImageField(torch.zeros(1, 3, 2, 2), Bicubic(), (2, 2)).save(path, size=(most, 1))
    assert Image.open(path).size == (1, most)

@pytest.mark.parametrize('name', ['a.xbm', 'a.msp', 'a.h5', 'a.icns', 'a.palm'])
def test_formats_without_colour(name, refuses):
    with refuses('cannot tell an image format'): check_picture_path(name)

def test_an_icon_has_the_size_asked_for(field, tmp_path):
    assert Image.open(field.save(tmp_path/'a.ico', size=(60, 80))).size == (80, 60)

def test_the_limit_of_pixels_counts_all_pictures(field, refuses):
    many = ImageField(torch.zeros(70, 3, 1, 1), Bicubic(), (1, 1))
    with refuses('1024 wide and 1024 high, 70 times,'): many.render(size=(1024, 1024))

@pytest.mark.parametrize('n, side', [(9, 8), (5, 20), (3, 40)])
def test_maps_go_through_a_network_few_at_a_time(n, side):
    seen, x = [], torch.rand(n, 2, side, side)
    def double(a, b):
        seen.append(a.shape)
        return a + b
    assert_close(tiled_apply(double, x, x, window=16, overlap=4, batch=2), 2 * x)
    assert max(k * h * w for k, _, h, w in seen) <= 2 * 16**2 and len(seen) > 1

@pytest.mark.parametrize('sampler', ['dpmpp_2m', 'ddpm'])
def test_many_pictures_are_generated_in_batches(emoji, monkeypatch, sampler):
    options = dict(size=16, steps=2, seed=3) | (dict(sampler='ddim') if sampler == 'ddpm' else {})
    whole, calls = emoji.generate(5, **options).feat, []
    monkeypatch.setattr(arsr.pipeline, 'BATCH_CELLS', 2 * 4 * 4)
    real = ARSR._sample
    monkeypatch.setattr(ARSR, '_sample', lambda self, *args: calls.append(len(args[2])) or real(self, *args))
    assert_close(emoji.generate(5, **options).feat, whole, atol=1e-4, rtol=1e-4)
    assert sum(calls) == 5 and max(calls) == 2

# reading

def test_a_broken_record_of_the_camera_does_not_matter(tmp_path):
    pixels = Image.fromarray(np.random.default_rng(0).integers(0, 256, (8, 9, 3), dtype=np.uint8))
    for suffix in ('jpg', 'webp', 'png'):
        pixels.save(tmp_path/f'a.{suffix}', exif=b'Exif\0\0garbage!')
        pixels.save(tmp_path/f'b.{suffix}')
        assert torch.equal(load_image(tmp_path/f'a.{suffix}'), load_image(tmp_path/f'b.{suffix}'))

def test_bytes_pipes_and_streams_are_pictures(tmp_path):
    Image.new('RGB', (3, 2), (255, 0, 51)).save(tmp_path/'a.png')
    content, want = (tmp_path/'a.png').read_bytes(), load_image(tmp_path/'a.png')
    class Stream(io.RawIOBase):
        def __init__(self): self.rest = io.BytesIO(content)
        def read(self, n=-1): return self.rest.read(n)
    for image in (content, bytearray(content), memoryview(content), io.BytesIO(content), Stream()):
        assert torch.equal(load_image(image), want)
    if hasattr(os, 'mkfifo'):
        os.mkfifo(tmp_path/'pipe')
        writer = threading.Thread(target=(tmp_path/'pipe').write_bytes, args=(content,))
        writer.start()
        assert torch.equal(load_image(tmp_path/'pipe'), want)
        writer.join()

@pytest.mark.parametrize('image', [None, 3.5j, object(), ['a.png'], {}])
def test_what_is_no_image_at_all(image, refuses):
    with refuses('an image'): load_image(image)

def test_a_stream_without_end(monkeypatch, refuses):
    monkeypatch.setattr(arsr.data, 'MAX_BYTES', 1000)
    with refuses('/dev/zero', 'over 1,000 bytes'): load_image('/dev/zero')

def test_an_archive_made_by_macos(tmp_path, refuses):
    Image.new('RGB', (4, 4), 'red').save(tmp_path/'a.png')
    path = tmp_path/'mac.ZIP'
    with zipfile.ZipFile(path, 'w') as z:
        z.write(tmp_path/'a.png', 'pics/a.png')
        for name in ('__MACOSX/pics/._a.png', 'pics/._a.png', '.hidden/b.png', 'pics/x.png/'): z.writestr(name, b'none')
    images = Images(path)
    assert images.names == ['pics/a.png'] and images.view(0, 2)[0].min() == 1

def test_a_folder_named_as_a_picture_is_none(tmp_path):
    (tmp_path/'x.png').mkdir()
    for name in ('x.png/b.png', '._a.png', 'a.png'): Image.new('L', (2, 2)).save(tmp_path/name)
    assert Images(tmp_path).names == ['a.png', 'x.png/b.png']

@pytest.mark.parametrize('there', [True, False])
def test_a_link_is_written_through(plain, tmp_path, capsys, there):
    (tmp_path/'else').mkdir()
    if there: shutil.copy('cat.png', 'else/real.png')
    (tmp_path/'link.png').symlink_to('else/real.png')
    assert run(capsys, 'upscale', 'dog.webp', '-o', 'link.png')[0] == 2  # the link is there, at least
    assert run(capsys, 'upscale', 'dog.webp', '-o', 'link.png', '--overwrite', '--scale', '2')[0] == 0
    assert (tmp_path/'link.png').is_symlink() and Image.open('else/real.png').size == (24, 16)
    assert [p.name for p in (tmp_path/'else').iterdir()] == ['real.png']

@pytest.mark.skipif(sys.platform == 'win32', reason='no such files')
def test_a_named_pipe_is_not_replaced(plain, tmp_path, capsys):
    os.mkfifo('pipe.png')
    code, _, err = run(capsys, 'upscale', 'cat.png', '-o', 'pipe.png', '--overwrite')
    assert code == 2 and 'pipe.png is a pipe or device; give the name of a file' in err
    assert (tmp_path/'pipe.png').is_fifo()

@pytest.mark.parametrize('name, command', [('file.png', ['upscale', 'cat.png', 'dog.webp', '-o', 'cat.png/new']),
                                           ('cat.png', ['generate', '-o', 'cat.png/new'])])
def test_a_folder_that_cannot_be_made_is_refused_first(plain, capsys, name, command):
    plain.loaded.clear()
    code, out, err = run(capsys, *command)
    assert (code, out, plain.loaded) == (2, '', []) and 'cat.png is no folder; give the name of one' in err

def test_a_link_to_itself_is_one_line(plain, tmp_path, capsys):
    (tmp_path/'loop.png').symlink_to('loop.png')
    (tmp_path/'loop').symlink_to('loop')
    plain.loaded.clear()
    for argv, words in ((['loop.png', '-o', 'a.png'], f'loop.png is not an image.*{os.strerror(errno.ELOOP)}'),
                        (['loop.png', '-o', 'a.dzi'], 'loop.png is not an image'),
                        (['cat.png', 'dog.webp', '-o', 'loop'], 'loop is no folder; give the name of one')):
        code, out, err = run(capsys, 'upscale', *argv)
        assert (code, out, plain.loaded, err.count('\n')) == (2, '', [], 1) and re.search(words, err)

def test_a_folder_that_may_not_be_written(plain, monkeypatch, capsys):
    monkeypatch.setattr(os, 'access', lambda path, how: False)  # whoever runs the tests may be allowed everything
    for command in (['upscale', 'cat.png', '-o', 'b.png'], ['upscale', 'cat.png', 'dog.webp', '-o', 'new'],
                    ['generate', '-o', 'new']):
        code, out, err = run(capsys, *command)
        assert (code, out) == (2, '') and 'nothing may be written into the folder' in err and not os.path.exists('new')

def test_a_link_to_nowhere_is_refused_first(plain, tmp_path, capsys):
    (tmp_path/'link.png').symlink_to('nowhere/real.png')
    plain.loaded.clear()
    code, _, err = run(capsys, 'upscale', 'cat.png', '-o', 'link.png', '--overwrite')
    assert code == 2 and 'no such folder: ' in err and 'nowhere' in err and not plain.loaded

# many pictures in a call

def run(capsys, *argv):
    code = main([*argv])
    return code, *capsys.readouterr()

def test_several_and_folders(plain, tmp_path, capsys):
    (tmp_path/'more'/'deep').mkdir(parents=True)
    for name in ('a.png', 'deep/b.png', '._a.png'): shutil.copy('cat.png', f'more/{name}')
    (tmp_path/'text.png').write_text('no picture')
    plain.loaded.clear()
    code, out, err = run(capsys, 'upscale', 'cat.png', 'text.png', 'more', 'gone.png', '-o', 'new', '--scale', '1')
    written = ['new/cat.png', 'new/a.png', 'new/deep/b.png']
    assert code == 1 and [line.split()[0] for line in out.splitlines()] == written and len(plain.loaded) == 1
    assert all(same(path) for path in written)
    assert [line for line in err.splitlines() if 'of 5' in line] == ['arsr: 2 of 5 pictures failed: text.png, gone.png']
    assert 'text.png is not an image' in err and 'no such image file: gone.png' in err
    assert run(capsys, 'upscale', 'cat.png', 'dog.webp', '-o', 'new')[0] == 2  # new/cat.png exists
    assert not (tmp_path/'new/dog.webp').exists()

@pytest.mark.parametrize('argv', [['cat.png', '-o', 'new', '--scale', '1', 'dog.webp'],
                                  ['--scale', '1', 'cat.png', '-o', 'new', 'dog.webp'],
                                  ['-o', 'new', 'cat.png', 'dog.webp', '--scale', '1']])
def test_pictures_stand_before_and_behind_options(plain, capsys, argv):
    code, out, err = run(capsys, 'upscale', *argv)
    assert (code, err) == (0, '') and [x.split()[0] for x in out.splitlines()] == ['new/cat.png', 'new/dog.webp']

def test_names_of_files_stay_and_those_of_addresses_end_early(plain, tmp_path, monkeypatch, capsys):
    shutil.copy('cat.png', 'a#1?b.png')
    content = (tmp_path/'cat.png').read_bytes()
    monkeypatch.setattr(arsr.data, 'urlopen', lambda *args, **kwargs: io.BytesIO(content))
    call = 'upscale', 'a#1?b.png', 'HTTPS://example.org/deep/c.png?size=2#top', '-o', 'new', '--scale', '1'
    code, out, err = run(capsys, *call)
    assert (code, err) == (0, '') and same('new/a#1?b.png') and same('new/c.png') and len(os.listdir('new')) == 2

@pytest.mark.parametrize('name', ['gone.png', '/dev/null'])
def test_an_empty_file_is_called_empty(plain, capsys, name):
    open('gone.png', 'w').close()
    code, _, err = run(capsys, 'upscale', name, '-o', 'a.png')
    assert code == 2 and err.startswith(f'arsr: {name} is not an image') and err.endswith(': it is empty\n')

def test_a_server_that_does_not_answer_is_one_line(plain, capsys):
    with socket.socket() as free:
        free.bind(('localhost', 0))  # nobody listens there
        port = free.getsockname()[1]
    code, _, err = run(capsys, 'upscale', f'http://localhost:{port}/a.png', '-o', 'a.png')
    assert code == 2 and err.count('\n') == 1 and f'a.png could not be fetched: [Errno {errno.ECONNREFUSED}]' in err

def test_one_picture_into_a_new_folder(plain, capsys):
    assert run(capsys, 'upscale', 'cat.png', '-o', 'new/deep/', '--scale', '1')[0] == 0 and same('new/deep/cat.png')

@pytest.mark.parametrize('name', ['x.gif', 'x.dzi', 'x.heic', 'x.PNG'])
def test_several_do_not_go_into_one_file(plain, tmp_path, capsys, name):
    code, _, err = run(capsys, 'upscale', 'cat.png', 'dog.webp', '-o', name)
    assert code == 2 and f'{name} holds one picture; give a folder' in err and not (tmp_path/name).exists()

def test_a_folder_of_all_kinds_of_pictures(plain, tmp_path, capsys):
    (tmp_path/'in').mkdir()
    for name in ('a.gif', 'b.tif', 'c.avif' if can_write('AVIF') else 'c.bmp'): Image.open('cat.png').save(f'in/{name}')
    (tmp_path/'in/d.heic').write_text('no picture')
    code, out, err = run(capsys, 'upscale', 'in', '-o', 'new', '--scale', '1')
    assert code == 1 and len(out.splitlines()) == 3 and 'in/d.heic is not an image' in err and '0x' not in err

def test_a_folder_into_a_folder_of_itself_twice(plain, capsys):
    for more in ([], ['--overwrite']):
        code, out, _ = run(capsys, 'upscale', '.', '-o', 'out', '--scale', '2', *more)
        assert code == 0 and out.splitlines() == ['out/cat.png 24 wide, 16 high', 'out/dog.webp 24 wide, 16 high']

def test_standard_input_and_output(plain, monkeypatch, capfdbinary):
    class Given: buffer = io.BufferedReader(io.FileIO('cat.png'))
    monkeypatch.setattr(sys, 'stdin', Given)
    assert main(['upscale', '-', '-o', '-', '--scale', '1']) == 0
    out, err = capfdbinary.readouterr()
    assert err == b'' and (np.asarray(Image.open(io.BytesIO(out))) == np.asarray(Image.open('cat.png'))).all()

def test_closed_streams_are_one_line(plain, monkeypatch, capsys):
    monkeypatch.setattr(sys, 'stdin', None)
    code, out, err = run(capsys, 'upscale', '-', '-o', 'a.png')
    assert (code, out) == (2, '') and err.count('\n') == 1 and 'the standard input is closed' in err

@pytest.mark.parametrize('answer, code', [('y\n', 0), ('n\n', 2), ('', 2)])
def test_a_terminal_is_asked(plain, monkeypatch, capsys, answer, code):
    class Terminal(io.StringIO):
        def isatty(self): return True
    err = Terminal()
    Image.new('RGB', (1, 1)).save('old.png')
    monkeypatch.setattr(sys, 'stdin', Terminal(answer))
    monkeypatch.setattr(sys, 'stderr', err)
    assert main(['upscale', 'cat.png', '-o', 'old.png', '--scale', '1']) == code
    assert 'overwrite old.png? [y/N]' in err.getvalue()
    assert Image.open('old.png').size == ((12, 8) if code == 0 else (1, 1))

def test_force_lifts_the_limit_of_inputs_for_that_call_alone(plain, monkeypatch, capsys):
    monkeypatch.setattr(Image, 'MAX_IMAGE_PIXELS', 50)
    call = 'upscale', 'cat.png', '-o', 'a.png'
    code, _, err = run(capsys, *call)
    assert code == 2 and 'cat.png has 96 pixels, over the limit of 50' in err and '--force' in err
    assert run(capsys, *call, '--force')[0] == 0 and Image.MAX_IMAGE_PIXELS == 50 and ImageField.max_pixels

@pytest.mark.parametrize('names', [('self.png', 'self.png'), ('self.png', 'link.png'), ('link.png', 'self.png')])
def test_never_onto_the_input(plain, tmp_path, capsys, names):
    (tmp_path/'self.png').write_bytes((tmp_path/'cat.png').read_bytes())
    (tmp_path/'link.png').symlink_to('self.png')
    code, _, err = run(capsys, 'upscale', names[0], '-o', names[1], '--overwrite')
    assert code == 2 and 'is an input' in err and same('self.png')

# frames

@pytest.fixture
def animated(plain):
    "Three frames in each format, 80, 120 and 40 ms long, and a grey picture of one."
    rng = np.random.default_rng(1)
    frames = [Image.fromarray(np.roll(np.kron(rng.integers(0, 256, (2, 3, 3), dtype=np.uint8), np.ones((4, 4, 1),
              np.uint8)), k, 1)) for k in range(3)]
    for name in ('a.gif', 'a.webp', 'a.png', 'a.tif'):
        options = dict(duration=[80, 120, 40], loop=2, lossless=True) if name != 'a.tif' else {}
        frames[0].save(name, save_all=True, append_images=frames[1:], **options)

def frames_of(path):
    im = Image.open(path)
    found = []
    for k in range(im.n_frames):
        im.seek(k)
        found.append((np.asarray(im.convert('RGBA')).astype(int), im.info.get('duration')))
    return found, im.info.get('loop')

@pytest.mark.parametrize('source, target', [('a.gif', 'b.gif'), ('a.webp', 'b.webp'), ('a.png', 'b.png'),
                                            ('a.tif', 'b.tif'), ('a.gif', 'b.png'), ('a.png', 'b.tif'),
                                            ('a.webp', 'b.apng')])
def test_every_frame_is_enlarged_as_if_alone(animated, plain, capsys, source, target):
    plain.loaded.clear()
    code, out, err = run(capsys, 'upscale', source, '-o', target, '--scale', '2')
    assert (code, out) == (0, f'{target} 24 wide, 16 high, 3 frames\n') and len(plain.loaded) == 1
    found, loop = frames_of(target)
    pages = target.endswith('.tif')
    assert err.count('\n') == (pages and source == 'a.png')  # which says what is lost
    assert [t for _, t in found] == [None if pages else t for t in (80, 120, 40)] and loop == (None if pages else 2)
    for k, (pixels, _) in enumerate(found):
        assert run(capsys, 'upscale', source, '-o', f'{k}-{target}', '--scale', '2', '--frame', str(k))[0] == 0
        [(alone, _)], _ = frames_of(f'{k}-{target}')
        assert alone.shape == (16, 24, 4)  # Pillow's palettes and compression have losses
        assert abs(alone - pixels).mean() < (4 if target.endswith('f') and not pages or 'webp' in target else 1e-9)
    assert abs(found[0][0] - found[1][0]).mean() > 10

def test_frames_of_a_pipe(animated, plain, monkeypatch, capsys):
    class Given: buffer = io.BufferedReader(io.FileIO('a.webp'))
    monkeypatch.setattr(sys, 'stdin', Given)
    assert run(capsys, 'upscale', '-', '-o', 'b.png', '--scale', '1')[0] == 0 and Image.open('b.png').n_frames == 3

@pytest.mark.parametrize('source, target', [('a.gif', 'b.jpg'), ('a.tif', 'b.png'), ('a.webp', '-')])
def test_frames_that_a_file_cannot_hold_are_counted(animated, plain, capfdbinary, source, target):
    assert main(['upscale', source, '-o', target, '--scale', '1']) == 0
    assert capfdbinary.readouterr().err == f'arsr: {source} has 3 frames; the first is taken\n'.encode()

@pytest.mark.parametrize('source, target, more, lost', [
    ('a.gif', 'b.tif', [], 'b.tif has pages: the durations of the animation are lost'),
    ('a.webp', 'b.tif', [], 'b.tif has pages: the durations of the animation are lost'),
    ('a.gif', 'b.png', ['--depth', '16'], 'b.png is an animation: its channels have 8 bits, and not 16'),
    ('a.tif', 'b.tif', ['--depth', '16'], ''), ('a.gif', 'b.webp', [], '')])
def test_what_a_file_of_frames_cannot_hold_is_said(animated, plain, capsys, source, target, more, lost):
    code, _, err = run(capsys, 'upscale', source, '-o', target, '--scale', '1', *more)
    assert (code, err) == (0, f'arsr: {lost}\n' if lost else '')

@pytest.mark.skipif(not can_write('AVIF'), reason='no AVIF here')
@pytest.mark.parametrize('source', ['a.gif', 'a.png'])  # durations in whole milliseconds, or not
def test_frames_of_an_avif(animated, plain, capsys, source):
    assert run(capsys, 'upscale', source, '-o', 'b.avif', '--scale', '2')[0] == 0
    assert run(capsys, 'upscale', 'b.avif', '-o', 'b.png', '--scale', '1')[0] == 0
    assert [t for _, t in frames_of('b.png')[0]] == [80, 120, 40]

def test_a_picture_beside_the_animation_is_no_frame_of_it(plain, capsys):
    still, *frames = [Image.new('RGB', (12, 8), c) for c in ('white', 'red', 'lime', 'blue')]
    still.save('a.png', save_all=True, append_images=frames, default_image=True, duration=[80, 120, 40])
    for name, n in (('b.gif', 3), ('b.webp', 3), ('b.png', 4)):
        assert run(capsys, 'upscale', 'a.png', '-o', name, '--scale', '1')[0] == 0
        found = frames_of(name)[0]
        assert [t for _, t in found][n - 3:] == [80, 120, 40] and len(found) == n
        assert abs(found[n - 3][0].mean((0, 1)) - [255, 0, 0, 255]).max() < 9

def test_transparent_frames_do_not_shine_through(plain, capsys):
    frames = [Image.new('RGBA', (12, 8)) for _ in range(2)]
    for k, frame in enumerate(frames): frame.paste((255, 0, 0, 255), (6 * k, 0, 6 * k + 6, 8))
    frames[0].save('a.gif', save_all=True, append_images=frames[1:], duration=50, disposal=2)
    for name in ('b.gif', 'b.png', 'b.webp', 'b.tif'):
        assert run(capsys, 'upscale', 'a.gif', '-o', name, '--scale', '1')[0] == 0
        alpha = [pixels[..., 3] for pixels, _ in frames_of(name)[0]]
        for k, a in enumerate(alpha): assert (a[:, 6 * k:6 * k + 6] == 255).all() and (a.mean() < 130)

def test_too_many_frames(animated, plain, monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(ImageField, 'max_pixels', 1000)
    code, out, err = run(capsys, 'upscale', 'a.gif', '-o', 'b.gif', '--scale', '2')
    assert (code, out) == (2, '') and '24 wide and 16 high, 3 times, is over the limit of 1,000' in err
    assert '--frame K' in err and err.count('\n') == 1 and not [p for p in tmp_path.iterdir() if 'b.gif' in p.name]
    assert run(capsys, 'upscale', 'a.gif', '-o', 'b.gif', '--scale', '2', '--force')[0] == 0
    assert run(capsys, 'upscale', 'a.tif', '-o', 'b.tif', '--scale', '2')[0] == 0  # one page at a time

def test_pages_keep_sixteen_bits_and_their_own_sizes(plain, capsys):
    from tifffile import TiffWriter
    with TiffWriter('a.tif') as tiff:
        for h, w in ((8, 12), (6, 5)): tiff.write(np.full((h, w), 4660, np.uint16))
    assert run(capsys, 'upscale', 'a.tif', '-o', 'b.tif', '--scale', '2')[0] == 0
    im = Image.open('b.tif')
    assert (im.n_frames, im.mode, im.size) == (2, 'I;16', (24, 16))
    im.seek(1)
    assert im.size == (10, 12) and abs(int(np.asarray(im)[3, 3]) - 4660) <= 1

# how long it takes

@pytest.fixture
def clock(monkeypatch):
    "Time passes only where a test says so."
    class Clock:
        now = 0.
        def monotonic(self): return self.now
    clock = Clock()
    monkeypatch.setattr(arsr.apps.cli, 'time', clock)
    return clock

def test_a_large_input_is_announced_before_it_is_predicted(plain, clock, monkeypatch, capsys):
    printed, upscale = [], plain.upscale
    def slow(self, x, **kwargs): # .1 ms a pixel
        printed.append((tuple(x.shape), capsys.readouterr().err))
        clock.now += 1e-4 * x[0].numel()
        return upscale(self, x, **kwargs)
    monkeypatch.setattr(plain, 'upscale', slow)
    monkeypatch.setattr(plain, 'options', lambda *args, **kwargs: dict(restore=0, back_project=False))
    Image.new('RGB', (1100, 1000)).save('large.png')
    assert run(capsys, 'upscale', 'large.png', '-o', 'b.png', '--scale', '.01')[0] == 0
    (piece, before), (whole, line) = printed
    assert (piece, whole, before) == ((3, 264, 264), (3, 1000, 1100), '')
    assert line.startswith('arsr: b.png: about 0:01:50; ') and line.count('\n') == 1  # 110 seconds
    assert run(capsys, 'upscale', 'cat.png', '-o', 'c.png') == (0, 'c.png 48 wide, 32 high\n', '')

def test_a_large_output_is_announced_by_a_tile(clock, monkeypatch, capsys):
    class Slow(Bicubic): # 10 us a pixel
        def render(self, feat, size, window=(0, 0, 1, 1)):
            clock.now += 1e-5 * size[0] * size[1]
            return super().render(feat, size, window)
    field = ImageField(torch.zeros(1, 3, 8, 12), Slow(), (8, 12))
    def printed(target, h, w):
        announce(target, field, (h, w))
        return capsys.readouterr().err
    assert printed('b.png', 4000, 6000).startswith('arsr: b.png: about 0:04:00; ') and printed('b.png', 400, 600) == ''
    assert '; 7.2 GB of pixels' in printed('b.png', 40_000, 60_000)
    assert '14 GB of memory' in printed('b.jpg', 40_000, 60_000)
    monkeypatch.setattr(shutil, 'disk_usage', lambda _: SimpleNamespace(free=5e9))
    assert '7.2 GB of pixels, and 5 GB are free' in printed('b.png', 40_000, 60_000)
    assert 'are free' not in printed('b.png', 4000, 6000)

@pytest.mark.parametrize('query, seen', [(['--scale', '.25'], (2, 3)), (['--size', '6'], (4, 6)),
                                         (['--size', '5x20'], (8, 12)), (['--size', '3x4', '--crop'], (4, 6)),
                                         (['--scale', '1'], (8, 12))])
def test_networks_see_no_more_pixels_than_are_wanted(plain, monkeypatch, capsys, query, seen):
    sizes, upscale = [], plain.upscale
    def spy(self, x, **kwargs):
        sizes.append(tuple(x.shape[-2:]))
        return upscale(self, x, **kwargs)
    monkeypatch.setattr(plain, 'upscale', spy)
    Image.new('RGBA', (12, 8), (200, 100, 50, 128)).save('glass.png')
    assert run(capsys, 'upscale', 'glass.png', '-o', 'b.png', *query)[0] == 0 and sizes == [seen]
    assert abs(np.asarray(Image.open('b.png')).astype(int) - [200, 100, 50, 128]).max() <= 1

def test_the_rest_of_many_is_announced_after_the_first(clock, capsys):
    def printed(seconds):
        for _ in with_estimate(iter(range(5)), 5): clock.now += seconds
        return capsys.readouterr().err
    assert printed(20) == 'arsr: the rest: about 0:01:20\n' and printed(2) == ''

# shapes

@pytest.mark.parametrize('argv, name', [(['upscale', '', '-o', 'new'], 'image'), (['generate', '-o', ''], 'output'),
                                        (['upscale', 'cat.png', '', '-o', 'new'], 'image')])
def test_an_empty_name_is_not_this_folder(plain, tmp_path, capsys, argv, name):
    code, out, err = run(capsys, *argv)
    assert (code, out, err) == (2, '', f'arsr: {name} must not be empty\n')
    assert sorted(p.name for p in tmp_path.iterdir()) == ['cat.png', 'dog.webp']

def test_fit_and_crop():
    assert fit((100, 120), (1080, 1920)) == (1080, 1296) and fit((1, 1000), (10, 10)) == (1, 10)
    assert crop((100, 100), (50, 200)) == (.375, 0, .625, 1)
    for own, size in (((31, 47), (108, 192)), ((3, 7), (1, 1)), ((999, 10), (1080, 1920))):
        t, left, b, r = crop(own, size)
        assert 0 <= t < b <= 1 and 0 <= left < r <= 1
        assert abs((r - left) * own[1] / ((b - t) * own[0]) - size[1] / size[0]) < 1e-9 * size[1]

def test_a_cropped_picture_is_the_middle(plain, capsys):
    code, out, _ = run(capsys, 'upscale', 'cat.png', '--size', '8X8', '--crop', '-o', 'a.png')
    assert (code, out) == (0, 'a.png 8 wide, 8 high\n')
    assert (np.asarray(Image.open('a.png')) == np.asarray(Image.open('cat.png'))[:, 2:10]).all()

@pytest.mark.parametrize('size, warned', [('120x80', False), ('121x80', False), ('80x120', True), ('124x80', True),
                                          ('50', False)])
def test_a_change_of_shape_is_said(plain, capsys, size, warned):
    code, out, err = run(capsys, 'upscale', 'cat.png', '--size', size, '-o', 'a.png')
    assert code == 0 and bool(err) == warned and (not warned or f'arsr: stretched: 12x8 to {size};' in err)

# what is printed

def test_a_name_that_the_terminal_cannot_print(tmp_path):
    Image.new('RGB', (4, 4)).save(tmp_path/'a.png')
    program = ('import sys; from arsr.apps.cli import tidy\n'
               'with tidy(): print(sys.argv[1]); print(sys.argv[1], file=sys.stderr)')
    done = subprocess.run([sys.executable, '-c', program, '出力.png'], capture_output=True, cwd=tmp_path,
                          env=os.environ | dict(PYTHONIOENCODING='cp1252'))
    assert done.returncode == 0 and re.fullmatch(rb'\\u51fa\\u529b.png\s+', done.stdout) and done.stderr == done.stdout

def test_a_closed_standard_error(plain, monkeypatch):
    monkeypatch.setattr(sys, 'stderr', None)
    assert main(['upscale', 'cat.png', '-o', 'a.png', '--scale', '1']) == 0 and same('a.png')

def test_one_line_of_any_name():
    assert one_line('a\nb\x1b[2J.png ') == 'a b [2J.png' and one_line(MemoryError()) == 'MemoryError'
    assert one_line('\udce5.png') == r'\udce5.png' and one_line('出 力.png') == '出 力.png'
