"The home page says what the tables say."
import json
from pathlib import Path
from statistics import mean
import pytest

ROOT = Path(__file__).resolve().parent.parent
HOME = (ROOT/'README.md').read_text(encoding='utf-8')

def row(start):
    "The line of a table that begins so."
    found = [line for line in HOME.splitlines() if line.startswith(f'| {start}')]
    assert len(found) == 1, start
    return found[0]

def table(name): return json.loads((ROOT/'nbs'/'results'/f'{name}.json').read_text(encoding='utf-8'))

def average(name, key, **where):
    "The mean of a column over the rows of a table with these values."
    values = [r[key] for r in table(name)['rows'] if all(r.get(k) == v for k, v in where.items())]
    assert values, where
    return mean(values)

@pytest.mark.parametrize('name, start, ours, others', [
    ('drawings', 'drawings, 32 px enlarged x4', "paper's path", ['bicubic', 'image-space diffusion']),
    ('drawings', 'drawings x4, refined', 'refined with latent', ['LIIF regression']),
    ('photos', 'photographs x4, refined', 'refined without latent', ['bicubic', 'LIIF regression']),
    ('photos', "photographs x4, the paper's path", "paper's path", ['paper\'s path + back-projection'])])
def test_upscaling(name, start, ours, others):
    "PSNR of all, minutes and parameters of ours and of the trained methods beside it."
    line, efforts = row(start), table(name)['efforts']
    for method in (ours, *others): assert f'{average(name, "psnr", method=method, scale=4):.2f}' in line, method
    if 'below' in line: return
    for method in (ours, *(m for m in others if m != 'bicubic')):
        effort = efforts[method]
        assert f"{effort['minutes']:g} min, {effort['parameters'] / 1e6:.1f} M" in line, method

def test_what_does_not_work_is_as_it_is_said():
    path, bicubic, regression = (average('photos', 'psnr', method=m, scale=4) for m in (
        "paper's path", 'bicubic', 'LIIF regression'))
    assert path < bicubic < average('photos', 'psnr', method="paper's path + back-projection", scale=4) < regression
    new = next(r for r in table('generation')['rows'] if r['size'] == 128)
    line = row('new drawings')
    assert f"{new['fd']:.0f} (n = {new['n']}, standard error {new['se']:.0f})" in line and f"{new['floor']:.0f}" in line
    line = row('variety')
    shown = {'refined with latent': 4, "paper's path + back-projection": 2, 'image-space diffusion': 2}
    for method, digits in shown.items():
        assert f'{average("diversity", "pd", method=method, scale=16):.{digits}f}' in line
    first = json.loads((ROOT/'arsr'/'weights'/'emoji'/'results.json').read_text())['first stage, held-out drawings']
    assert f"{first['128']['field']:.1f} dB" in row('first stage')

def test_cost_and_consistency():
    line = row('time and memory')
    for method in ('refined with latent', 'LIIF regression', 'image-space diffusion'):
        where = dict(method=method, input=32, size=1024)
        seconds, peak = average('cost', 'seconds', **where), average('cost', 'peak_bytes', **where)
        assert f'{seconds:.1f} s, {peak / 2**20:,.0f} MB' in line
    line = row('consistency')
    for method in ('refined with latent', 'LIIF regression', 'image-space diffusion'):
        assert f'{average("consistency", "self_ssim", method=method, task="upscale"):.3f}'[1:] in line

def test_alignment():
    def errors(stage):
        wanted = dict(model='emoji', task='upscaler', stage=stage)
        rows = [r for r in table('alignment')['rows'] if 'image_error' in r]
        return {r['alphas_cumprod']: r['image_error'] for r in rows if wanted.items() <= r.items()}
    aligned, control = errors('align'), errors('control')
    lower = sum(aligned[k] < control[k] for k in aligned)
    assert len(aligned) == 7 and lower == 5 and 'lower at five of seven' in row('alignment')

# ---- portraits

PORTRAITS = json.loads((ROOT/'arsr'/'weights'/'portraits'/'results.json').read_text(encoding='utf-8'))
WAYS = {'bicubic': 'bicubic', 'LIIF regression': 'liif', 'LIIF regression, L1 and perceptual': 'liif-perceptual',
        'image-space diffusion (IDM-like)': 'idm', 'one evaluation of ours': 'one evaluation',
        "**the paper's path**, one sample": 'one sample', "the paper's path + back-projection":
        'one sample + back-projection', 'mean of 16 samples': 'mean of 16 samples'}

def short(x, digits=2): return f'{x:.{digits}f}'.removeprefix('0')

def test_portraits_from_noise():
    "Every figure of the table is the one that was measured."
    new = PORTRAITS['generation'].values()
    columns = {'FD-EffLite2 to held-out ones': [f"{r['fd']:.0f}" for r in new],
               'two sets of held-out ones': [f"{r['held-out fd']:.0f}" for r in new],
               'precision, recall': [f"{short(r['precision'])}, {short(r['recall'])}" for r in new],
               'of held-out ones': [f"{short(r['held-out precision'])}, {short(r['held-out recall'])}" for r in new],
               'n of each': [f"{r['n']:,}" for r in new]}
    for name, cells in columns.items(): assert row(f'{name} |') == f"| {name} | {' | '.join(cells)} |"

@pytest.mark.parametrize('name, way', WAYS.items())
def test_portraits_from_16_pixels(name, way):
    r = PORTRAITS['16 px to 128 px'][way]
    cells = f"| {r['psnr']:.2f} dB | {short(r['pd2'], 3)} | {r['fd']:.0f} | {r['consistency']:.1f} dB |"
    assert row(f'{name} |').endswith(cells)

def test_portraits_sentences():
    "So are the ratios that the text draws from them."
    new, enlarged = PORTRAITS['generation'].values(), PORTRAITS['16 px to 128 px']
    ratios = [r['fd'] / r['held-out fd'] for r in new]
    assert f'still {min(ratios):.0f} to {max(ratios):.0f} times as far' in HOME
    small = next(iter(new))
    shares = ' and '.join(short(small[k] / small[f'held-out {k}']) for k in ('precision', 'recall'))
    assert f"At 64 px precision and recall are {shares} of real ones'" in HOME
    one, regression = enlarged['one sample'], enlarged['liif']
    larger = PORTRAITS['16 px to 512 px']
    near, fd = (short(one[k] / regression[k]) for k in ('pd2', 'fd'))
    far = short(larger['one sample']['pd2'] / larger['liif']['pd2'])
    assert (f"has {one['psnr'] - regression['psnr']:.1f} dB more, {near} of the perceptual distance "
            f"({far} at 512 px; .6 was wished for) and {fd} of the Fréchet distance") in HOME
    assert f"other real ones are at an FD of {enlarged['truth']['fd']:.0f}" in HOME
    first = PORTRAITS['first stage, held-out portraits, PSNR']
    assert f"reaches {mean(r['field'] for k, r in first.items() if k.endswith(', 128 px')):.1f} dB" in HOME

# ---- the same drawings on several pages

def page(name): return (ROOT/'nbs'/'tutorials'/f'{name}.ipynb').read_text(encoding='utf-8')

def test_a_sampler_has_one_distance_on_every_page():
    "Pages that quote the tables of samplers and of the student quote what was measured."
    fd = {(r['sampler'], r['steps']): f"{r['fd']:,.0f}" for r in table('samplers')['rows']}
    for sampler in ('dpmpp_2m', 'ddim'):
        *most, last = (fd[sampler, n] for n in (4, 6, 10, 20, 50))
        assert f"{', '.join(most)} and {last}" in page('generate')
    for n in (4, 10, 20, 50): assert f"{fd['dpmpp_2m, uniform', n]} (40) | {fd['dpmpp_2m', n]} (40)" in page('tried')
    student = {r['method']: [f"{r[k]:,.0f}" for k in ('fd', 'patch_fd')] for r in table('distilled')['rows']}
    (six, _), (ten, _), (fifty, _) = teacher = [student[f'{n} steps'] for n in (6, 10, 50)]
    assert f"{six}; 10: {ten}, 50: {fifty}; 4: {student['4 steps'][0]}" in page('state')
    assert f"have {six}, {ten}, {fifty} and {', '.join(patch for _, patch in teacher)}" in page('tried')
    assert f"{ten} for ten steps, where it has {fd['dpmpp_2m', 10]}" in page('benchmark')

def test_composition_is_quoted_as_it_was_counted():
    figures = table('portraits/composition')['figures']
    lesson = (ROOT/'nbs'/'lab'/'08_composition.ipynb').read_text(encoding='utf-8')
    new, seen = figures['generated'], figures['true, of training']
    whole = {name: round(x['whole'] * x['n']) for name, x in figures.items()}
    n, forbidden = whole['generated'], round(new['forbidden'] * whole['generated'])
    assert f"The {short(seen['part_distance'], 3)} of {whole['true, of training']} true portraits" in lesson
    assert f"generated ones' {short(new['part_distance'], 3)} is not, though with {n} whole" in lesson
    assert f"{new['whole']:.0%} and {figures['attributes sampled']['whole']:.0%} of them have all their parts" in lesson
    assert forbidden == 4 and f"four in {n}, where independence" in lesson
