"The benchmark, on tiny sizes: every table is filled by a real run, and says under which conditions."
import json, shutil
import pytest, torch
from arsr.lab.baselines import IDMConfig, ImplicitDiffusion, LIIFConfig, LIIFRegression, save_baseline
from arsr.lab.bench import GROUPS, TABLES, as_text, means, open_bench, run_table
from arsr.apps.cli import main
from arsr.pipeline import WEIGHTS

@pytest.fixture(scope='module')
def folders(tmp_path_factory):
    "Untrained baselines, and a training folder whose stages are all the shipped weights."
    root = tmp_path_factory.mktemp('bench')
    torch.manual_seed(0)
    for kind in ('emoji', 'photo'):
        for name, net in (('liif', LIIFRegression(LIIFConfig(ch=8, blocks=1, hidden=(16,)))), ('idm', ImplicitDiffusion(IDMConfig(ch=8, mult=(1, 2), lr_ch=8, lr_blocks=1, hidden=8)))):
            (root/'baselines'/f'{name}-{kind}').mkdir(parents=True)
            save_baseline(name, net, root/'baselines'/f'{name}-{kind}', minutes=0)
    (root/'run').mkdir()
    shutil.copy(WEIGHTS/'emoji'/'config.json', root/'run')
    for name in ('generator-latent', 'generator-after-5', 'upscaler-latent', 'upscaler-align'):
        shutil.copy(WEIGHTS/'emoji'/f"{name.split('-')[0]}.safetensors", root/'run'/f'{name}.safetensors')
    return root

@pytest.fixture(scope='module')
def results(folders):
    "Every table, through the command."
    args = '--quick', '--device', 'cpu', '--baselines', folders/'baselines', '--run', folders/'run', '--out', folders/'out'
    assert main(['bench', *map(str, args)]) == 0
    return {p.stem: json.loads(p.read_text()) for p in (folders/'out').glob('*.json')}

def test_every_table_has_rows_and_a_head(results):
    assert results.keys() == TABLES.keys()
    for name, result in results.items():
        assert result['rows'] and result['table'] == name
        for key in ('commit', 'seed', 'weights', 'baselines', 'hardware', 'torch', 'date', 'seconds'): assert result[key] is not None
        assert result['quick'] is True and result['baselines']['idm photo'] == dict(baseline='idm', minutes=0)
        assert any(k in result['rows'][0] for k in GROUPS)

def test_all_methods_are_compared_on_the_same_pictures(results):
    for table in ('photos', 'drawings'):
        by = {}
        for row in results[table]['rows']: by.setdefault(row['method'], []).append((row['picture'], row['scale']))
        assert by.keys() == {'bicubic', 'lanczos', 'LIIF regression', 'image-space diffusion', 'ours', 'ours, uncorrected', 'ours, full trust', 'ours, no trust', 'ours, not refined'}
        assert len({tuple(v) for v in by.values()}) == 1
        bicubic = [r for r in results[table]['rows'] if r['method'] == 'bicubic']
        assert all(r['psnr'] > 15 and .3 < r['ssim'] < 1 and r['pd'] > 0 and r['pd2'] > 0 for r in bicubic)

def test_equal_weights_give_equal_rows(results):
    rows = [r for r in results['alignment']['rows'] if r['task'] == 'upscaler']
    for figure in ('psnr', 'image_error'):
        before, after = ([r[figure] for r in rows if r['stage'] == stage and figure in r] for stage in ('latent', 'align'))
        assert before == after and len(before) >= 2
    made = next(r for r in results['alignment']['rows'] if 'fd' in r)
    assert made['fd'] == pytest.approx(results['compute']['rows'][0]['fd'])

def test_correction_raises_consistency(results):
    score = {r['method']: r['consistency'] for r in means(results['drawings']['rows'])}
    assert score['ours'] > score['ours, uncorrected']

def test_cost_grows_with_the_output_and_most_for_pixels(results):
    grow = {}
    for method in ('ours', 'image-space diffusion'):
        small, large = (next(r for r in results['cost']['rows'] if r['method'] == method and r['input'] == 32 and r['size'] == s) for s in (64, 96))
        assert 0 < small['macs'] < large['macs'] and small['seconds'] > 0
        grow[method] = large['macs'] / small['macs']
    assert grow['ours'] < grow['image-space diffusion']

def test_your_own_pictures(folders, tmp_path):
    from PIL import Image
    (tmp_path/'mine').mkdir()
    Image.effect_noise((40, 48), 60).convert('RGB').save(tmp_path/'mine'/'noise.png')
    assert main(['bench', '--quick', '--device', 'cpu', '--data', str(tmp_path/'mine'), '--task', 'upscale', '--out', str(tmp_path/'out')]) == 0
    result = json.loads((tmp_path/'out'/'photos.json').read_text())
    assert [p.name for p in (tmp_path/'out').iterdir()] == ['photos.json'] and {r['picture'] for r in result['rows']} == {'noise.png'}

def test_rows_of_others_are_kept_with_their_date(tmp_path):
    b = open_bench(quick=True, device='cpu')
    old = dict(rows=[dict(method=m, scale=4, picture=0, psnr=1.) for m in ('ours', 'rival')], commit='a', date='b', hardware='c', baselines={'rival emoji': {}})
    (tmp_path/'drawings.json').write_text(json.dumps(old))
    for _ in range(2):  # twice in a row, the note is still that of the first
        result = run_table(b, 'drawings', tmp_path, keep=True)
        rival = [r for r in result['rows'] if r['method'] == 'rival']
        assert rival == old['rows'][1:] and result['kept'] == dict(commit='a', date='b', hardware='c', methods=['rival']) and result['baselines'] == {'rival emoji': {}}
        assert all(r['psnr'] != 1 for r in result['rows'] if r['method'] == 'ours') and json.loads((tmp_path/'drawings.json').read_text())['rows'] == json.loads(json.dumps(result['rows']))
    assert 'kept' not in run_table(b, 'drawings', tmp_path) and 'rival' not in (tmp_path/'drawings.json').read_text()

def test_means_and_text():
    rows = [dict(picture=p, scale=s, method='a', psnr=float(p + s)) for p in (0, 2) for s in (2, 4)]
    assert means(rows) == [dict(method='a', scale=2, psnr=3.), dict(method='a', scale=4, psnr=5.)]
    assert as_text([dict(a=1, b=2.5), dict(a=10, b=.25)]).splitlines() == [' a     b', ' 1   2.5', '10  0.25']

@pytest.mark.parametrize('args, words', [(['--only', 'beauty'], "unknown table 'beauty'; choose one of photos"), (['--baselines', 'nowhere', '--only', 'compute'], 'no trained baseline in nowhere'),
                                         (['--only', 'compute', '--run', 'nowhere'], 'no such folder: nowhere'), (['--only', 'compute'], None),
                                         (['--device', 'abacus'], "cannot compute on 'abacus'")])
def test_wrong_arguments(args, words, tmp_path, capsys):
    code = main(['bench', '--quick', '--out', str(tmp_path/'out'), *args])
    if words: assert code == 2 and words in capsys.readouterr().err
    else: assert code == 0 and 'nothing to measure' in capsys.readouterr().out
