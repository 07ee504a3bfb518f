"The benchmark, on tiny sizes: tables are filled by real runs, and say under which conditions."
import json, shutil
import pytest, torch
from PIL import Image
from arsr.apps.cli import main
from arsr.lab.baselines import IDMConfig, ImplicitDiffusion, LIIFConfig, LIIFRegression, save_baseline
from arsr.lab.bench import GROUPS, TABLES, as_text, efforts, means
from arsr.pipeline import WEIGHTS

OURS = ["paper's path", "paper's path + back-projection",
        'refined without latent', 'refined with latent', 'refined with all of the latent']
METHODS = ['bicubic', 'lanczos', 'LIIF regression', 'image-space diffusion', *OURS]
FEW = 'photos', 'drawings', 'cost'  # tables of every test run; the others are slow

@pytest.fixture(scope='module')
def folders(tmp_path_factory):
    "Untrained baselines, and a training folder whose stages are all the shipped weights."
    root = tmp_path_factory.mktemp('bench')
    torch.manual_seed(0)
    liif = LIIFRegression(LIIFConfig(ch=8, blocks=1, hidden=(16,)))
    idm = ImplicitDiffusion(IDMConfig(ch=8, mult=(1, 2), lr_ch=8, lr_blocks=1, hidden=8))
    for kind in ('emoji', 'photo'):
        for name, net in (('liif', liif), ('idm', idm)):
            (root/'baselines'/f'{name}-{kind}').mkdir(parents=True)
            save_baseline(name, net, root/'baselines'/f'{name}-{kind}', minutes=0)
    (root/'run').mkdir()
    shutil.copy(WEIGHTS/'emoji'/'config.json', root/'run')
    for name in ('generator-latent', 'generator-after-5', 'upscaler-latent', 'upscaler-align'):
        shutil.copy(WEIGHTS/'emoji'/f"{name.split('-')[0]}.safetensors", root/'run'/f'{name}.safetensors')
    return root

def measure(folders, names):
    "Tables, through the command."
    args = ['--quick', '--device', 'cpu', '--baselines', folders/'baselines', '--run', folders/'run']
    out = folders/'-'.join(names)
    assert main(['bench', *map(str, args), '--only', ','.join(names), '--out', str(out)]) == 0
    assert {p.stem for p in out.iterdir()} == set(names)
    return {p.stem: json.loads(p.read_text()) for p in out.glob('*.json')}

@pytest.fixture(scope='module')
def results(folders): return measure(folders, FEW)

def check_head(name, result):
    assert result['rows'] and result['table'] == name
    for key in ('commit', 'seed', 'weights', 'baselines', 'hardware', 'torch', 'date', 'seconds'):
        assert result[key] is not None
    assert result['quick'] is True and result['baselines']['idm photo'] == dict(baseline='idm', minutes=0)
    assert any(k in result['rows'][0] for k in GROUPS)

def test_every_table_has_rows_and_a_head(results):
    for name, result in results.items(): check_head(name, result)

@pytest.mark.slow
def test_all_other_tables_have_rows_and_a_head(folders):
    results = measure(folders, [name for name in TABLES if name not in FEW])
    for name, result in results.items(): check_head(name, result)
    check_equal_weights(results)

def check_equal_weights(results):
    "Stages that are one file have one row."
    rows = [r for r in results['alignment']['rows'] if r['task'] == 'upscaler']
    for figure in ('psnr', 'image_error'):
        before, after = ([r[figure] for r in rows if r['stage'] == s and figure in r] for s in ('latent', 'align'))
        assert before == after and len(before) >= 2
    made = next(r for r in results['alignment']['rows'] if 'fd' in r)
    assert made['fd'] == pytest.approx(results['compute']['rows'][0]['fd'])

def test_all_methods_are_compared_on_the_same_pictures(results):
    for table in ('photos', 'drawings'):
        by = {}
        for row in results[table]['rows']: by.setdefault(row['method'], []).append((row['picture'], row['scale']))
        assert [*by] == METHODS and len({tuple(v) for v in by.values()}) == 1
        bicubic = [r for r in results[table]['rows'] if r['method'] == 'bicubic']
        assert all(r['psnr'] > 15 and .3 < r['ssim'] < 1 and r['pd'] > 0 and r['pd2'] > 0 for r in bicubic)

def test_back_projection_raises_consistency(results):
    score = {r['method']: r['consistency'] for r in means(results['drawings']['rows'])}
    assert score["paper's path + back-projection"] > score["paper's path"]

def test_a_table_says_what_each_method_had(results):
    for table in ('photos', 'drawings'):
        had = results[table]['efforts']
        assert [*had] == METHODS and had['bicubic'] == dict(minutes=0, parameters=0)
        paper, corrected, regression, sampled, full = (had[m] for m in OURS)
        assert paper == corrected and sampled == full
        for k in ('minutes', 'parameters'): assert 0 < regression[k] < sampled[k]

def test_parameters_are_those_a_picture_passes_through(emoji, photo):
    from arsr.lab.bench import Bench
    size = {name: sum(p.numel() for p in net.parameters()) for name, net in photo.parts.items()}
    encoder = sum(p.numel() for p in photo.first.encoder.parameters())
    had = [row['parameters'] for row in efforts(Bench(emoji, photo), 'photo').values()][2:]
    paper, refined = size['first'] + size['upscaler'], encoder + size['refiner']
    assert had == [paper, paper, refined, refined + size['upscaler'], refined + size['upscaler']]

def test_cost_grows_with_the_output_and_most_for_pixels(results):
    grow = {}
    for method in ('refined with latent', 'image-space diffusion'):
        rows = [r for r in results['cost']['rows'] if r['method'] == method and r['input'] == 32]
        small, large = (next(r for r in rows if r['size'] == s) for s in (64, 96))
        assert 0 < small['macs'] < large['macs'] and small['seconds'] > 0
        grow[method] = large['macs'] / small['macs']
    assert grow['refined with latent'] < grow['image-space diffusion']

def test_your_own_pictures(tmp_path):
    (tmp_path/'mine').mkdir()
    Image.effect_noise((40, 48), 60).convert('RGB').save(tmp_path/'mine'/'noise.png')
    args = ['--quick', '--device', 'cpu', '--data', tmp_path/'mine', '--task', 'upscale', '--out', tmp_path/'out']
    assert main(['bench', *map(str, args)]) == 0
    result = json.loads((tmp_path/'out'/'photos.json').read_text())
    assert [p.name for p in (tmp_path/'out').iterdir()] == ['photos.json']
    assert {r['picture'] for r in result['rows']} == {'noise.png'}

def test_means_and_text():
    rows = [dict(picture=p, scale=s, method='a', psnr=float(p + s)) for p in (0, 2) for s in (2, 4)]
    assert means(rows) == [dict(method='a', scale=2, psnr=3.), dict(method='a', scale=4, psnr=5.)]
    assert as_text([dict(a=1, b=2.5), dict(a=10, b=.25)]).splitlines() == [' a     b', ' 1   2.5', '10  0.25']

@pytest.mark.parametrize('args, words', [
    (['--only', 'beauty'], "unknown table 'beauty'; choose one of photos"),
    (['--baselines', 'nowhere', '--only', 'compute'], 'no trained baseline in nowhere'),
    (['--only', 'compute', '--run', 'nowhere'], 'no such folder: nowhere'), (['--only', 'compute'], None),
    (['--device', 'abacus'], "cannot compute on 'abacus'")])
def test_wrong_arguments(args, words, tmp_path, capsys):
    code = main(['bench', '--quick', '--out', str(tmp_path/'out'), *args])
    if words: assert code == 2 and words in capsys.readouterr().err
    else: assert code == 0 and 'nothing to measure' in capsys.readouterr().out
