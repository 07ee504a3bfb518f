"The panels of `arsr.apps.widgets`, driven without a browser: which pixels they show, and what they answer."
import base64, io, subprocess, sys
import numpy as np, pytest, torch
from hypothesis import given, strategies as st
from PIL import Image
from arsr.apps import widgets
from arsr.apps.widgets import (TILE, as_field, compare, denoising, deviation, diversity, explore, liif_anatomy, mixed,
                               pixel_anatomy, span, tile_view, viewport, zoom)
from arsr.beyond.fast import FastConfig, FastRenderer
from arsr.field import ImageField, thumbnails
from arsr.liif import LIIF

unit = st.floats(0, 1)

def random_field(n=1, size=(32, 24)):
    "A field of strong random features, so that every pixel and every image of it differs."
    torch.manual_seed(0)
    feat, liif = 2 * torch.randn(n, 16, size[0] // 4, size[1] // 4), LIIF(16, hidden=(32,)).requires_grad_(False)
    return ImageField(feat, liif, size)

def pixels(picture): return np.array(picture).astype(int)
def same(a, b): return np.array_equal(pixels(a), pixels(b))
def still(panel): return Image.open(io.BytesIO(panel.still))

def crop(whole, view):
    "The pixels of a viewport, out of an array of the whole picture."
    top, left, bottom, right = (round(edge * side) for edge, side in zip(view.window, view.full * 2))
    return whole[top:bottom, left:right]

def asked(panel, what, **args):
    "What a panel sends back when the browser asks: words and pictures."
    sent = []
    panel.send = lambda words, pictures: sent.append((words, [Image.open(io.BytesIO(x)) for x in pictures]))
    panel.answer(None, dict(id='x', what=what, args=args), [])
    words, pictures = sent[-1]
    assert words['id'] == 'x' and words['ms'] >= 0
    return words, pictures

# which pixels

@given(n=st.integers(1, 5000), centre=unit, most=st.integers(1, 600))
def test_span_is_full_and_inside_and_around_the_centre(n, centre, most):
    start, stop = span(n, centre, most)
    assert 0 <= start and stop <= n and stop - start == min(n, most)
    off = abs((start + stop) / 2 - centre * n)
    assert off <= .75 or (start == 0 and off <= stop / 2) or (stop == n and off <= (n - start) / 2)

def test_span_refuses_a_centre_outside(refuses):
    with refuses('centre must lie in [0,1]'): span(10, 1.2, 5)

@given(scale=st.floats(.5, 12), down=unit, across=unit, most=st.integers(8, 60))
def test_a_viewport_is_a_crop_of_the_whole(scale, down, across, most):
    field = random_field()
    view = viewport(field.output_size(scale=scale), (down, across), most)
    whole = pixels(field.to_pil(scale=scale))
    assert whole.shape[:2] == view.full and max(view.size) <= most
    part = pixels(field.to_pil(size=view.size, window=view.window))
    assert np.abs(part - crop(whole, view)).max() <= 1

@given(scale=st.floats(.3, 12), down=unit, across=unit, most=st.integers(4, 60))
def test_bicubic_window_is_a_crop_of_the_bicubic_whole(scale, down, across, most):
    field = random_field()
    view = viewport(field.output_size(scale=scale), (down, across), most)
    whole = pixels(field.to_pil().resize(view.full[::-1], Image.Resampling.BICUBIC))
    part = as_field('bicubic', field).to_pil(size=view.size, window=view.window)
    assert np.abs(pixels(part) - crop(whole, view)).max() <= 1

@given(full=st.tuples(st.integers(1, 1200), st.integers(1, 1200)))
def test_tiles_cover_the_last_level_once(full):
    level, seen = int(np.ceil(np.log2(max(full)))), np.zeros(full, int)
    for y in range(-(-full[0] // TILE)):
        for x in range(-(-full[1] // TILE)):
            size, (t, l, b, r) = tile_view(full, level, x, y)
            rows, columns = slice(round(t * full[0]), round(b * full[0])), slice(round(l * full[1]), round(r * full[1]))
            seen[rows, columns] += 1
            assert seen[rows, columns].shape == size
    assert (seen == 1).all()

def test_a_tile_is_a_crop_of_the_whole():
    field = random_field(size=(64, 48))
    panel = zoom(field, 'bicubic', scale=8)
    (_, (tile,)), whole = asked(panel, 'tile', field=0, level=9, x=1, y=1), pixels(field.to_pil(scale=8))
    assert np.abs(pixels(tile) - whole[256:512, 256:384]).max() <= 1
    _, (tile,) = asked(panel, 'tile', field=1, level=6, x=0, y=0)  # the own pixels are enlarged, and shrunk back
    assert np.abs(pixels(tile) - pixels(field.to_pil())).max() <= 1

def test_names_are_as_many_as_maps(refuses):
    with refuses('2 names'): zoom(random_field(), 'bicubic', names=('one',))

# explore

def test_the_explorer_answers_with_what_its_call_renders():
    field = random_field(n=2)
    panel = explore(field, scale=4, most=64, truth=field)
    state = dict(scale=3.7, down=.3, across=1., index=1, renderer='exact')
    words, (ours, bicubic, truth, overview) = asked(panel, 'view', **state)
    rendered = eval(words['call'], {'field': field})[0].permute(1, 2, 0).mul(255).round().int().numpy()
    assert np.abs(pixels(ours) - rendered).max() <= 1 and same(ours, truth) and not same(ours, bicubic)
    assert 'scale 3.70' in words['caption'] and 'PSNR inf dB' in words['caption'] and max(overview.size) == 112

def test_at_its_own_size_bicubic_is_the_field():
    panel = explore(random_field(), scale=1, most=64)
    _, (ours, bicubic, _) = asked(panel, 'view', **panel.state)
    assert same(ours, bicubic)

@pytest.mark.parametrize('wrong, says', [(dict(scale=99), 'scale must lie'), (dict(index=1), 'index must lie'),
                                         (dict(centre=(2, 0)), 'centre must lie'), (dict(renderer='fast'), 'no fast'),
                                         (dict(truth=random_field(n=2)), '1 images')])
def test_what_cannot_be_shown_is_refused(refuses, wrong, says):
    with refuses(says): explore(random_field(), **wrong)

def test_an_error_is_one_line_in_the_panel():
    words, pictures = asked(explore(random_field()), 'view', scale=99, down=.5, across=.5, index=0, renderer='exact')
    assert words['error'] == 'scale must lie between 1.0 and 32.0, not 99' and not pictures

@pytest.mark.parametrize('renderer', ['exact', 'fast', None])
def test_a_panel_is_fast_where_it_can_be_and_says_so(renderer):
    field, used = random_field(), renderer or 'fast'
    field.fast = FastRenderer(FastConfig(16, wide=8, hidden=(8, 8))).requires_grad_(False)
    panel = explore(field, renderer=renderer, scale=2, most=64)
    words, (ours, *_) = asked(panel, 'view', **panel.state)
    assert f"renderer='{used}'" in words['call'] and same(ours, field.to_pil(scale=2, renderer=used))
    assert panel.start[0]['renderers'] == ['exact', 'fast']

# the others

def test_compare_begins_with_half_of_each():
    field = random_field(n=2)
    panel = compare(field, field[1], size=64, names=('one', 'two'))
    _, (a, b) = asked(panel, 'start')
    assert same(a, field.to_pil(size=64)) and same(b, field[1].to_pil(size=64))
    assert np.array_equal(pixels(still(panel)), np.concatenate([pixels(a)[:, :24], pixels(b)[:, 24:]], 1))

@given(row=st.integers(0, 49), column=st.integers(0, 36))
def test_four_predictions_blend_to_the_pixel(row, column):
    field = random_field()
    cells, rgb = pixel_anatomy(field, (50, 37), (row, column))
    assert abs(sum(c['weight'] for c in cells) - 1) < 1e-6
    assert torch.allclose(rgb.clamp(0, 1), field.render(size=(50, 37))[0, :, row, column], atol=1e-4)

def test_only_liif_has_an_anatomy(refuses):
    with refuses('only fields of LIIF'): liif_anatomy(as_field(random_field().to_pil()))

def test_diversity_shows_what_differs(refuses):
    heat, top = deviation(torch.stack([torch.zeros(3, 2, 2), torch.tensor([[0, 1.], [.5, 0]]).expand(3, -1, -1)]))
    assert top == 127.5 and pixels(heat)[..., 0].tolist() == [[0, 255], [128, 0]]
    field = random_field(n=3)
    _, pinned = asked(diversity([field[:1], field[1:]], size=40), 'pins', pins=[2, 0])
    assert same(pinned[0], field[2].to_pil(size=40)) and same(pinned[1], field.to_pil(size=40))
    with refuses('two predictions'): diversity(field[:1])

def test_the_film_ends_with_the_picture(emoji):
    panel = denoising(emoji, seed=3, steps=2)
    _, (frame,) = asked(panel, 'frame', step=2, size=100)
    assert same(frame, emoji.generate(seed=3, steps=2).to_pil(size=100))
    assert len(asked(panel, 'start')[1]) == 2

def test_between_two_seeds_lie_both(emoji):
    ask = dict(steps=1, guidance=1., category='food-fruit')
    ends = [mixed(emoji, 3, 5, mix, **ask).render() for mix in (0, .5, 1)]
    for seed, end in ((3, ends[0]), (5, ends[2])):
        assert torch.allclose(end, emoji.generate(seed=seed, **ask).render(), atol=1e-4)
    assert not torch.allclose(ends[1], ends[0], atol=.05) and not torch.allclose(ends[1], ends[2], atol=.05)

# what is there without a browser

def test_a_field_shows_its_pictures_and_their_size():
    field = random_field(n=5)
    data, metadata = field._repr_png_()
    grid = pixels(Image.open(io.BytesIO(data)))
    assert grid.shape == (2 * 32 + 14, 160, 3) and '5 x 32x24' in metadata['alt']
    assert (grid[32:64, 24:48] == pixels(field[4].to_pil())).all()
    assert (grid[64:] < 128).any()  # the line of text
    assert thumbnails(random_field(n=1, size=(2000, 1000))).size == (256, 512 + 14)

def test_without_a_kernel_a_panel_is_its_picture(monkeypatch):
    panel, view = compare('bicubic', random_field(), size=64), 'application/vnd.jupyter.widget-view+json'
    data, metadata = panel._repr_mimebundle_()
    assert view not in data and metadata['image/png']['alt'] == 'before | after'
    assert base64.b64decode(data['image/png']) == panel.still
    monkeypatch.setattr(widgets, 'in_notebook', lambda: True)
    data, _ = panel._repr_mimebundle_()
    assert view in data and 'image/png' in data

def test_colab_is_told_to_show_them():
    "By anywidget, once, when the first panel is made; Colab imports its `output` itself."
    code = """
import sys, types, torch
said = []
output = types.ModuleType('google.colab.output')
output.enable_custom_widget_manager = lambda: said.append(True)
sys.modules['google.colab.output'] = output
from arsr.apps.widgets import compare
for _ in range(2): compare(torch.zeros(3, 4, 4), torch.ones(3, 4, 4), size=4)
print(said)
"""
    assert subprocess.run([sys.executable, '-c', code], capture_output=True, text=True).stdout == '[True]\n'

@pytest.mark.parametrize('first, spins', [('arsr', '1000'), ('torch, arsr', 'None')])
def test_threads_spin_briefly_if_nobody_said_otherwise(first, spins):
    code = f"import {first}, os; print(os.environ.get('GOMP_SPINCOUNT'))"
    assert subprocess.run([sys.executable, '-c', code], capture_output=True, text=True).stdout.strip() == spins
