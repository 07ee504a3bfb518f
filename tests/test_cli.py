import os, re, socket, subprocess, sys
from dataclasses import replace
import pytest, numpy as np, torch
from PIL import Image
from safetensors.torch import load_file
from torch.testing import assert_close
import arsr.apps.cli, arsr.beyond.streaming, arsr.lab.baselines, arsr.lab.recipes, arsr.train
from arsr import ARSR
from arsr.apps.cli import main, parse_size, parser
from arsr.beyond.fast import FastConfig, FastRenderer
from arsr.field import FirstStage, FirstStageConfig, ImageField
from arsr.lab.recipes import PRESETS, Preset
from arsr.lab.stages import train_stage
from arsr.train import Settings
from arsr.unet import Denoiser, DenoiserConfig, UNetConfig

FIRST = FirstStageConfig(ch=8, mult=(1, 2, 2), n_res=1, z=4, hidden=(16,))
def net(classes=0, **kwargs):
    return DenoiserConfig(UNetConfig(ch=8, mult=(1,), n_res=1, attn=(), classes=classes), z=4, **kwargs)

@pytest.fixture(scope='module')
def toy(tmp_path_factory):
    "A model of random weights that can do everything."
    torch.manual_seed(0)
    nets = Denoiser(net(classes=2)), Denoiser(net(conditional=True))
    for n in nets:
        for p in n.parameters(): p.data += .1 * torch.randn_like(p)
    meta = {'name': 'toy', 'size': 24, 'categories': ['Animals', 'Food'], 'shares': [.5, .5]}
    return ARSR(FirstStage(FIRST), *nets, meta).save_pretrained(tmp_path_factory.mktemp('models')/'toy')

@pytest.fixture(autouse=True)
def place(toy, tmp_path, monkeypatch):
    "A folder with a picture, a text that says it is one, and the model; plain arithmetic; the limit as it was."
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(arsr.train, 'hardware', lambda: dict(mixed_precision='no', layout=torch.contiguous_format,
                                                             workers=0))
    monkeypatch.setattr(ImageField, 'max_pixels', ImageField.max_pixels)
    os.symlink(toy, 'toy')
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (8, 12, 3), dtype=np.uint8)).save('cat.png')
    (tmp_path/'text.png').write_text('hello')
    return tmp_path

def files(place):
    return {p.relative_to(place).as_posix(): p.read_bytes() if p.is_file() else None for p in place.rglob('*')}

@pytest.fixture
def run(capsys):
    "`run('upscale', ...)` gives the exit code and what was printed to stdout and to stderr."
    def run(*argv):
        try: code = main([str(a) for a in argv])
        except SystemExit as e: code = e.code
        return code, *capsys.readouterr()
    return run

# what works

@pytest.mark.parametrize('query, size', [([], (32, 48)), (['--scale', 3.7], (30, 44)), (['--scale', .5], (4, 6)),
                                         (['--size', 60], (40, 60)), (['--size', '30x20'], (20, 30)),
                                         (['--size', '50x20', '--fit'], (20, 30)),
                                         (['--size', '9X9', '--crop'], (9, 9))])
def test_upscale(run, query, size):
    code, out, err = run('upscale', 'cat.png', '--weights', 'toy', '-o', 'large.png', '--steps', 2, *query)
    assert (code, out, err) == (0, f'large.png {size[1]} wide, {size[0]} high\n', '')
    assert Image.open('large.png').size == size[::-1]

@pytest.mark.parametrize('name, kind', [('a.jpg', 'JPEG'), ('a.webp', 'WEBP'), ('a.TIF', 'TIFF')])
def test_the_suffix_chooses_the_format(run, name, kind):
    assert run('upscale', 'cat.png', '--weights', 'toy', '--steps', 1, '-o', name)[0] == 0
    assert Image.open(name).format == kind

def test_generate(run, place):
    code, out, err = run('generate', '--weights', 'toy', '-n', 3, '--seed', 8, '--steps', 2, '-o', 'new/pictures')
    assert (code, out, err) == (0, ''.join(f'new/pictures/{k:04d}.png\n' for k in (8, 9, 10)), '')
    assert {Image.open(p).size for p in (place/'new/pictures').iterdir()} == {(24, 24)}
    assert run('generate', '--weights', 'toy', '--steps', 1, '--size', '10x30', '--category', 'Food', '-o', '.')[0] == 0
    assert Image.open('0000.png').size == (10, 30)

@pytest.mark.parametrize('command', [['upscale', 'cat.png', '-o', 'a.png'], ['generate', '-o', '.']])
def test_a_seed_is_an_answer(run, place, command):
    def answer(seed):
        assert run(*command, '--weights', 'toy', '--steps', 2, '--seed', seed, '--overwrite')[0] == 0
        return np.asarray(Image.open('a.png' if command[0] == 'upscale' else f'{seed:04d}.png'))
    first = answer(1)
    assert np.array_equal(first, answer(1)) and not np.array_equal(first, answer(2))

def test_a_later_picture_of_a_run_is_the_first_of_a_later_seed(run):
    for n, seed, out in ((10, 0, 'many'), (1, 9, 'one')):  # 8 are made at once
        assert run('generate', '--weights', 'toy', '--steps', 2, '-n', n, '--seed', seed, '-o', out)[0] == 0
    a, b = (np.asarray(Image.open(f'{folder}/0009.png')).astype(int) for folder in ('many', 'one'))
    assert abs(a - b).max() <= 1  # rounding to bytes

def test_a_renderer_can_be_chosen_where_there_is_one(run, place, toy):
    query = 'upscale', 'cat.png', '--seed', 0, '--scale', 5, '--renderer'
    code, _, err = run(*query, 'fast', '--weights', 'toy', '-o', 'a.png')
    assert code == 2 and err.count('\n') == 1 and 'no fast renderer' in err and not (place/'a.png').exists()
    pipe = ARSR.from_pretrained(toy, 'cpu')
    ARSR(**pipe.parts, fast=FastRenderer(FastConfig(8, wide=8, hidden=(8, 8))), meta=pipe.meta).save_pretrained('both')
    for renderer in ('exact', 'fast'):
        assert run(*query, renderer, '--weights', 'both', '-o', f'{renderer}.png')[0] == 0
    assert (np.array(Image.open('exact.png')) != np.array(Image.open('fast.png'))).any()

def test_info(run):
    code, out, err = run('info', '--weights', 'toy')
    assert code == 0 and err == ''
    assert re.search(r'weights toy: first 0\.\d M, generator 0\.\d M, upscaler 0\.\d M', out)
    assert all(name in out for name in PRESETS)

@pytest.fixture(scope='module')
def composed(tmp_path_factory):
    "A model of two classes with attributes of their own."
    torch.manual_seed(0)
    cfg = net(classes=2)
    generator = Denoiser(replace(cfg, unet=replace(cfg.unet, attributes=4)))
    for p in generator.parameters(): p.data += .3 * torch.randn_like(p)
    wishes = {'Animals': {'hair': {'long': .5, 'none': .5}, 'eyes': {'wide': 1.}}, 'Food': {'eyes': {'shut': 1.}}}
    meta = {'name': 'composed', 'size': 16, 'categories': [*wishes], 'shares': [.5, .5], 'attributes': wishes}
    return ARSR(FirstStage(FIRST), generator, meta=meta).save_pretrained(tmp_path_factory.mktemp('models')/'composed')

def test_families_and_attributes(run, composed):
    out = run('info', '--weights', composed)[1]
    for line in ('categories: Animals, Food', 'Animals, hair: long, none', 'Animals, eyes: wide', 'Food, eyes: shut'):
        assert line in out.splitlines()
    wishes = '--family', 'Animals', '--set', 'hair=none', '--set', 'eyes=wide'
    assert run('generate', '--weights', composed, '--seed', 3, '-o', 'new', *wishes)[0] == 0
    field = ARSR.from_pretrained(composed, 'cpu').generate(seed=3, family='Animals', hair='none', eyes='wide')
    assert np.array_equal(np.array(Image.open('new/0003.png')), np.array(field.to_pil()))
    plain = ARSR.from_pretrained(composed, 'cpu').generate(seed=3, family='Animals', sample_attributes=False)
    assert not np.array_equal(np.array(plain.to_pil()), np.array(field.to_pil()))
    free = '--seed', 3, '--family', 'Animals', '--no-sample-attributes', '-o', 'free'
    assert run('generate', '--weights', composed, *free)[0] == 0
    assert np.array_equal(np.array(Image.open('free/0003.png')), np.array(plain.to_pil()))

@pytest.mark.parametrize('wish, words', [('hair', 'must be NAME=OPTION'), ('seed=5', "unknown attribute 'seed'"),
                                         ('hair=lang', "unknown hair 'lang'; the nearest are long"),
                                         ('n=5', "unknown attribute 'n'")])
def test_wrong_wishes_are_one_line(run, place, composed, wish, words):
    code, out, err = run('generate', '--weights', composed, '-o', 'new', '--set', wish)
    assert (code, out, err.count('\n')) == (2, '', 1) and words in err and not (place/'new').exists()

def test_what_a_picture_carries_goes_through_the_command(run):
    deep = np.random.default_rng(0).integers(0, 65536, (8, 12), dtype=np.uint16)
    Image.fromarray(deep).save('deep.png')
    Image.new('RGBA', (12, 8), (200, 100, 50, 128)).save('glass.png')
    query = '--weights', 'toy', '--scale', 2, '--steps', 1, '-o'
    for name, options, mode in (('deep', [], 'I;16'), ('deep', ['--depth', 8], 'L'), ('glass', [], 'RGBA')):
        assert run('upscale', f'{name}.png', *query, 'out.png', '--overwrite', *options)[0] == 0
        assert Image.open('out.png').mode == mode

def test_force_lifts_the_limit(run, monkeypatch):
    monkeypatch.setattr(ImageField, 'max_pixels', 1000)
    query = ['upscale', 'cat.png', '--weights', 'toy', '--steps', 1, '--size', 60, '-o', 'a.png']
    code, out, err = run(*query)
    assert code == 2 and '60 wide and 40 high is over the limit of 1,000 pixels' in err and '--force' in err
    assert run(*query, '--force')[0] == 0 and Image.open('a.png').size == (60, 40)
    generate = 'generate', '--weights', 'toy', '--steps', 1, '--size', 40, '-o', 'new'
    assert run(*generate, '--force')[0] == 0
    assert ImageField.max_pixels == 1000 and run(*query)[0] == run(*generate)[0] == 2  # only where it was asked for

# help

@pytest.mark.parametrize('command', [[], ['upscale'], ['generate'], ['train'], ['baseline'], ['bench'], ['info']])
def test_help_fits_a_terminal_of_80_columns(run, command, monkeypatch):
    monkeypatch.setenv('COLUMNS', '80')
    code, out, err = run(*command, '--help')
    assert code == 0 and err == '' and out.startswith('usage: arsr') and 'example' in out
    assert max(map(len, out.splitlines())) <= 80

def test_every_option_is_explained():
    commands = next(a for a in parser()._actions if a.dest == 'command').choices
    assert set(commands) == {'upscale', 'generate', 'train', 'baseline', 'bench', 'export', 'info'}
    for command in commands.values():
        assert command.description and all(action.help for action in command._actions)

# what does not

UP = ['upscale', 'cat.png', '--weights', 'toy', '-o', 'a.png']
GEN = ['generate', '--weights', 'toy', '-o', 'new']
TRAIN = ['train', 'emoji-generate', '--out', 'new', '--stage']

@pytest.mark.parametrize('argv, words', [
    ([], 'COMMAND'), (['enlarge'], "invalid choice: 'enlarge'"),
    (['upscale'], 'arguments are required: image, -o/--output'),
    (UP + ['--colour'], 'unrecognized arguments: --colour'), (UP + ['--scale', 'four'], "invalid float value: 'four'"),
    (UP + ['--scale', '2', '--size', '9'], 'not allowed with argument'), (UP + ['--seed', '1.5'], 'invalid int value'),
    (['upscale', 'dog.png', '--weights', 'toy', '-o', 'a.png'], 'no such image file: dog.png'),
    (['upscale', 'text.png', '--weights', 'toy', '-o', 'a.png'], 'text.png is not an image that can be read'),
    (['upscale', '.', '--weights', 'toy', '-o', 'a.png'], 'a.png holds one picture; give a folder'),
    (UP + ['--scale', '0'], 'scale must be a number above zero, not 0'), (UP + ['--scale', '-1'], 'above zero, not -1'),
    (UP + ['--scale', 'nan'], 'above zero, not nan'), (UP + ['--scale', 'inf'], 'above zero, not inf'),
    (UP + ['--scale', '1e6'], 'over the limit'), (UP + ['--scale', '1e308'], 'scale must be a number above zero'),
    (UP + ['--size', '9' * 400], 'must be a number above zero'),
    (UP + ['--size', '0'], 'WIDTHxHEIGHT'), (UP + ['--size', '-5'], 'WIDTHxHEIGHT'),
    (UP + ['--size', '5x'], 'WIDTHxHEIGHT'), (UP + ['--size', '99999'], 'over the limit'),
    (UP + ['--steps', '0'], 'steps must be a number above zero'),
    (UP + ['--steps', '1001'], 'steps must be a whole number between 1 and 1000'),
    (UP + ['--seed', '-1'], 'seed must be a whole number from 0'),
    (UP + ['--seed', str(2**64)], 'seed must be a whole number from 0'),
    (UP + ['--device', 'meta'], "cannot compute on 'meta'"),
    (['export', '--weights', 'toy', '-o', 'cat.png'], 'cat.png is no folder'),
    (TRAIN[:2] + ['--out', 'cat.png', '--stage', 'first'], 'cat.png is no folder; give the name of one'),
    (['bench', '--out', 'cat.png/deep'], 'cat.png is no folder'),
    (['baseline', 'liif', '--out', 'cat.png'], 'cat.png is no folder'),
    (UP + ['--device', 'abacus'], "cannot compute on 'abacus'"), (UP + ['--refine'], 'they have no refiner'),
    (UP + ['--restore', 'auto'], 'they have no restorer'),
    (UP + ['--restore', 'much'], "--restore: must be auto, or a number from 0 to 1, not 'much'"),
    (UP + ['--restore', '1.5'], 'restore must be between 0 and 1, not 1.5'),
    (UP + ['--latent-weight', '-1'], 'latent_weight must be between 0 and 1'),
    (UP + ['--latent-weight', '1'], 'latent_weight is an option of the refiner'),
    (GEN + ['--distilled'], 'they have no distilled'), (GEN + ['--renderer', 'fast'], 'no fast renderer'),
    (['baseline', 'gan', '--out', 'new'], "unknown baseline 'gan'; choose one of liif, liif-perceptual, idm"),
    (UP[:-1] + ['a.xyz'], "cannot tell an image format from 'a.xyz'"),
    (UP[:-1] + ['a'], "cannot tell an image format from 'a'"),
    (UP[:-1] + ['nowhere/a.png'], 'no such folder: nowhere'), (UP[:-1] + ['cat.png'], 'cat.png is an input'),
    (UP[:-1] + ['cat.png', '--overwrite'], 'cat.png is an input'), (UP[:-1] + ['.'], 'cat.png is an input'),
    (UP[:-1] + ['text.png'], 'text.png exists already; --overwrite replaces it'), (UP + ['--crop'], 'need a shape'),
    (UP + ['--fit', '--size', '9'], 'need a shape: --size WIDTHxHEIGHT'),
    (['upscale', 'toy', '-o', 'new'], 'no pictures in the folder toy'),
    (['upscale', 'cat.png', './cat.png', '-o', 'new'], 'would both be new/cat.png'),
    (['upscale', 'cat.png', 'text.png', '-o', '-'], 'give a folder for several'),
    (UP[:-1] + ['a.jpg', '--depth', '16'], "--depth 16 needs a .png or a .tif to write, not 'a.jpg'"),
    (['upscale', 'cat.png', '--depth', '16', '--weights', 'nothing', '-o', 'a.webp'], 'needs a .png or a .tif'),
    (UP + ['--frame', '1'], 'cat.png has no frame 1: the first is 0, the last 0'),
    (GEN + ['--set', 'hair=long'], "the weights 'toy' know no attributes such as hair"),
    (UP[:-1] + ['a.gif', '--size', '1x70000'], 'a .gif file holds at most 65,535 pixels a side'),
    (UP[:-1] + ['a.jpg', '--size', '1x70000'], 'at most 65,500'),
    (UP[:-1] + ['a.webp', '--size', '20000x1'], 'at most 16,383'),
    (UP[:-1] + ['a.ico', '--size', '512'], 'at most 256'), (UP[:-1] + ['a.xbm'], 'cannot tell an image format'),
    (['upscale', 'cat.png', '--weights', 'nothing', '-o', 'a.png'], "no weights called 'nothing'"),
    (GEN + ['-n', '9' * 20], 'n must be at most 1,000,000'),
    (GEN + ['-n', '0'], 'n must be a number above zero'), (GEN + ['--guidance', 'nan'], 'guidance must be a number'),
    (GEN + ['--category', 'Dragons'], "unknown category 'Dragons'; choose one of Animals, Food"),
    (GEN + ['--size', '9999'], 'over the limit'),
    (GEN[:-1] + ['cat.png'], 'cat.png is no folder'), (['generate', '--weights', 'nothing', '-o', 'new'],
                                                    'no weights called'),
    (['info', '--weights', 'nothing'], 'no weights called'),
    (['train', 'large', '--stage', 'first', '--out', 'new'], "unknown preset 'large'; choose one of emoji-generate"),
    (TRAIN + ['second'], "unknown stage 'second'; choose one of first, latent, align"),
    (TRAIN + ['latent'], 'run --stage first into the same folder before'),
    (TRAIN + ['align'], 'run --stage first'), (TRAIN + ['first', '--data', 'nowhere'],
                                               'no such folder or zip archive: nowhere'),
                                               (TRAIN + ['first', '--data', 'cat.png'], 'cat.png'),
    (TRAIN + ['first', '--minutes', '0'], 'minutes must be a number above zero'),
    (TRAIN + ['first', '--plan', '-3'], 'plan must be a number above zero')])
def test_wrong_input_gives_one_line_and_leaves_nothing(run, place, argv, words):
    before = files(place)
    code, out, err = run(*argv)
    assert code == 2 and out == ''
    assert err.startswith('arsr') and err.count('\n') == 1 and err.endswith('\n') and words in err
    assert files(place) == before

def test_what_the_system_refuses_is_a_line_too(run, place):
    before, name = files(place), 300 * 'a' + '.png'
    code, out, err = run(*UP[:-1], name, '--steps', '1')
    assert (code, out, err.count('\n')) == (2, '', 1) and 'too long' in err and files(place) == before

def test_a_crash_while_writing_leaves_the_old_picture(run, place, monkeypatch):
    assert run(*UP, '--steps', 1)[0] == 0
    before = files(place)
    def crash(path, pieces):
        path.write_bytes(b'half')
        raise OSError(28, 'No space left on device')
    monkeypatch.setattr(arsr.beyond.streaming, 'write_png', crash)
    code, _, err = run(*UP, '--steps', 1, '--seed', 3, '--overwrite')
    assert code == 2 and 'No space left on device' in err and files(place) == before

@pytest.mark.parametrize('error, code', [(MemoryError(), 2),
                                         (RuntimeError('not enough memory: you tried to allocate 9 bytes'), 2),
                                         (KeyboardInterrupt(), 130)])
def test_too_little_memory_and_ctrl_c(run, monkeypatch, error, code):
    def fail(*args, **kwargs): raise error
    monkeypatch.setattr(ARSR, 'upscale', fail)
    assert run(*UP)[0] == code

def test_a_bug_keeps_its_traceback(run, monkeypatch):
    def bug(*args, **kwargs): raise RuntimeError('shapes differ')
    monkeypatch.setattr(ARSR, 'upscale', bug)
    with pytest.raises(RuntimeError, match='shapes differ'): run(*UP)

def test_damaged_weights(run, place, toy):
    (place/'mine').mkdir()
    for p in toy.iterdir(): (place/'mine'/p.name).write_bytes(p.read_bytes()[:500])
    code, _, err = run('upscale', 'cat.png', '--weights', 'mine', '-o', 'a.png')
    assert code == 2 and err.count('\n') == 1 and 'config.json is not valid JSON' in err

# training

@pytest.fixture
def preset(place, monkeypatch):
    "A preset that trains in a moment, on three pictures."
    quick = Settings(batch=4, warmup=2)
    monkeypatch.setitem(PRESETS, 'toy', Preset('upscaler', FIRST,
                                               net(conditional=True, schedule='cosine', prediction_type='v'), base=16,
                                               sizes=(16, 24), crop=16,
                                               queries=32, held_out=0, w_max=3,
                                               settings=dict(first=quick, latent=quick, align=quick)))
    (place/'pictures').mkdir()
    for k in range(3):
        pixels = np.random.default_rng(k).integers(0, 256, (24, 24, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(f'pictures/{k}.png')

def test_train_gives_a_model_and_goes_on(run, preset):
    def query(stage, *more): return run('train', 'toy', '--stage', stage, '--data', 'pictures', '--out', 'runs', *more)
    code, out, err = query('first', '--minutes', .002)
    assert code == 0
    assert re.search(r'first: (\d+) steps, .* minutes in all, loss \d\.\d+; runs can be used as --weights', out)
    steps = int(re.search(r'first: (\d+) steps', out)[1])
    again = query('first', '--minutes', .002)[1]
    assert int(re.search(r'first: (\d+) steps', again)[1]) > steps
    for stage in ('latent', 'align'): assert query(stage, '--minutes', .002)[0] == 0
    assert run('upscale', 'cat.png', '--weights', 'runs', '--steps', 1, '-o', 'a.png')[0] == 0
    assert query('first', '--minutes', .002, '--start', 'runs', '--out', 'more')[0] == 0
    code, _, err = query('first', '--start', 'emoji', '--out', 'others')
    assert code == 2 and "does not fit the stage 'first' of toy" in err and err.count('\n') == 1
    code, _, err = run('generate', '--weights', 'runs', '-o', 'new')
    assert code == 2 and 'cannot generate' in err

def test_train_refuses_what_does_not_belong_together(run, place, preset, monkeypatch):
    train_stage('toy', 'first', 'runs', data='pictures', steps=1)
    (place/'fewer').mkdir()
    Image.new('RGB', (24, 24)).save('fewer/0.png')
    before = files(place)
    code, _, err = run('train', 'toy', '--stage', 'first', '--data', 'fewer', '--out', 'runs')
    assert code == 2 and 'begun with other inputs (pictures)' in err
    monkeypatch.setitem(PRESETS, 'other', replace(PRESETS['toy'], first=replace(FIRST, z=5)))
    code, _, err = run('train', 'other', '--stage', 'latent', '--data', 'pictures', '--out', 'runs')
    assert code == 2 and 'does not fit' in err
    assert files(place) == before

def test_a_checkpoint_of_another_model_or_half_of_one(run, place, preset, monkeypatch):
    train_stage('toy', 'first', 'runs', data='pictures', steps=1)
    monkeypatch.setitem(PRESETS, 'toy', replace(PRESETS['toy'], first=replace(FIRST, z=5)))
    query = 'train', 'toy', '--stage', 'first', '--data', 'pictures', '--out', 'runs'
    code, _, err = run(*query)
    assert code == 2 and 'was begun with other inputs (configuration)' in err and err.count('\n') == 1
    path = place/'runs/first/checkpoint.safetensors'
    path.write_bytes(path.read_bytes()[:1000])
    code, _, err = run(*query)
    assert code == 2 and 'not a complete checkpoint' in err and err.count('\n') == 1

def test_own_pictures_have_no_categories(preset, monkeypatch):
    monkeypatch.setitem(PRESETS, 'toy', replace(PRESETS['toy'], task='generator', denoiser=net(classes=9)))
    for stage in ('first', 'latent'): train_stage('toy', stage, 'runs', data='pictures', steps=1)
    pipe = ARSR.from_pretrained('runs', device='cpu')
    assert pipe.generator.cfg.unet.classes == 0 and 'categories' not in pipe.meta
    assert pipe.generate(1, seed=0, steps=1).size == (16, 16)

# as programs

PROGRAM = """
import sys, arsr.train
from arsr.apps.cli import main
from test_cli import FIRST, Preset, PRESETS, Settings, net, torch, train_stage
arsr.train.hardware = lambda: dict(mixed_precision='no', layout=torch.contiguous_format, workers=0)
PRESETS['toy'] = Preset('upscaler', FIRST, net(conditional=True), base=16, sizes=(16, 24), crop=16, queries=32,
                        held_out=0, settings=dict(first=Settings(batch=4, warmup=2)))
torch.manual_seed(0)
train_stage('toy', 'first', sys.argv[1], data='pictures', steps=3)
"""

def test_two_processes_train_the_same_model_as_one(preset):
    with socket.socket() as s:
        s.bind(('127.0.0.1', 0))
        port = s.getsockname()[1]
    path = os.pathsep.join([os.path.dirname(__file__), os.environ.get('PYTHONPATH', '')])
    env = os.environ | dict(PYTHONPATH=path, OMP_NUM_THREADS='1', ACCELERATE_USE_CPU='true', MASTER_ADDR='127.0.0.1',
                            MASTER_PORT=str(port), WORLD_SIZE='2')
    pair = [subprocess.Popen([sys.executable, '-c', PROGRAM, 'two'],
                             env=env | dict(RANK=str(k), LOCAL_RANK=str(k))) for k in range(2)]
    torch.manual_seed(0)
    train_stage('toy', 'first', 'one', data='pictures', steps=3)
    assert [p.wait(timeout=300) for p in pair] == [0, 0]
    one, two = (load_file(f'{out}/first/checkpoint.safetensors') for out in ('one', 'two'))
    assert one.keys() == two.keys()
    for k in one: assert_close(one[k], two[k], atol=2e-4, rtol=1e-3)
    assert ARSR.from_pretrained('two', device='cpu').encode('cat.png').size == (8, 12)

def test_the_program_is_quiet_but_for_its_one_line():
    done = subprocess.run([sys.executable, '-m', 'arsr.apps.cli', 'upscale', 'text.png', '-o', 'a.png'],
                          capture_output=True, text=True)
    assert done.returncode == 2 and done.stdout == '' and done.stderr.count('\n') == 1
    assert done.stderr.startswith('arsr: text.png is not an image')

@pytest.mark.parametrize('text, size', [('512', 512), ('1920x1080', (1080, 1920)), ('8X9', (9, 8)), ('8×9', (9, 8))])
def test_sizes(text, size): assert parse_size(text) == size

@pytest.mark.parametrize('text', ['', 'x', '0', '-1', '3.5', '10x', 'x10', '1x2x3', '0x5', 'big'])
def test_wrong_sizes(text, refuses):
    with refuses('WIDTHxHEIGHT', f"not '{text}'"): parse_size(text)
