"The panel of `arsr.apps.widgets`, driven without a browser: which pixels it shows, and that pictures follow controls."
import base64, io, re
import numpy as np, pytest, torch
from hypothesis import given, strategies as st
from PIL import Image
from arsr.beyond.fast import FastConfig, FastRenderer
from arsr.field import ImageField
from arsr.liif import LIIF
from arsr.apps.widgets import bicubic, both_pictures, explore, magnify, overlaps, overview, span, viewport

unit = st.floats(0, 1)

def random_field(n=1, size=(32, 24)):
    "A field of strong random features, so that every pixel and every image of it differs."
    torch.manual_seed(0)
    feat, liif = 2 * torch.randn(n, 16, size[0] // 4, size[1] // 4), LIIF(16, hidden=(32,)).requires_grad_(False)
    return ImageField(feat, liif, size)

def pixels(picture): return np.array(picture).astype(int)
def decoded(widget): return pixels(Image.open(io.BytesIO(widget.value)))

def crop(whole, view):
    "The pixels of a viewport, out of an array of the whole picture."
    top, left, bottom, right = (round(edge * side) for edge, side in zip(view.window, view.full * 2))
    return whole[top:bottom, left:right]

@pytest.fixture
def renders(monkeypatch):
    "Sizes of all renders from here on."
    sizes, render = [], ImageField.render
    def count(self, *args, **kwargs):
        out = render(self, *args, **kwargs)
        sizes.append(tuple(out.shape[-2:]))
        return out
    monkeypatch.setattr(ImageField, 'render', count)
    return sizes

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
    assert np.abs(pixels(bicubic(field, view.size, view.window)) - crop(whole, view)).max() <= 1

def test_both_pictures_agree_at_the_fields_own_size_and_differ_beyond():
    field = random_field()
    ours, theirs, ms = both_pictures(field, viewport(field.size), 64)
    assert (pixels(ours) == pixels(theirs)).all() and ms > 0
    ours, theirs, _ = both_pictures(field, viewport(field.output_size(scale=2)), 64)
    assert np.abs(pixels(ours) - pixels(theirs)).max() > 3

# how they are drawn

@given(n=st.integers(1, 60), m=st.integers(1, 90))
def test_overlaps_hand_out_all_light_once(n, m):
    a = overlaps(n, m)
    assert torch.allclose(a.sum(1), torch.ones(m).double())
    assert torch.allclose(a.sum(0), torch.full((n,), m / n).double())
    assert a.min() >= 0

@pytest.mark.parametrize('k', [1, 2, 5])
def test_magnify_repeats_pixels_at_whole_factors(k):
    small = Image.fromarray(np.random.default_rng(0).integers(0, 256, (6, 10, 3), np.uint8))
    assert (pixels(magnify(small, 10 * k)) == pixels(small).repeat(k, 0).repeat(k, 1)).all()

def test_magnify_keeps_the_shape_and_never_shrinks():
    assert magnify(Image.new('RGB', (30, 20)), 100).size == (100, 67)
    assert magnify(Image.new('RGB', (30, 20)), 10).size == (30, 20)
    assert magnify(Image.new('RGB', (500, 1)), 900).size == (900, 2)

def test_overview_frames_the_window():
    field = random_field()
    plain, framed = pixels(field.to_pil(size=64)), pixels(overview(field, (.25, .5, .75, 1), most=64))
    rows, cols = np.nonzero((plain != framed).any(-1))
    assert (rows.min(), rows.max(), cols.min(), cols.max()) == (15, 48, 23, 47) and (framed[15, 30] == 0).all()

# the panel

def test_the_scale_slider_changes_pictures_and_caption():
    panel = explore(random_field(), most=64)
    before = panel.ours.value, panel.theirs.value, panel.map.value, panel.caption.value
    panel.scale.value = 8
    after = panel.ours.value, panel.theirs.value, panel.map.value, panel.caption.value
    assert all(a != b for a, b in zip(before, after))
    assert 'scale 8.00' in panel.caption.value and '256 &times; 192' in panel.caption.value
    assert '64 &times; 64' in panel.caption.value

def test_the_centre_moves_the_window_only_where_there_is_room():
    panel = explore(random_field(), scale=1, most=64)
    assert panel.down.disabled and panel.across.disabled
    panel.scale.value = 2.5 # 80 x 60 pixels: too high, not too wide
    assert not panel.down.disabled and panel.across.disabled
    before = panel.ours.value
    panel.down.value = 0
    assert panel.ours.value != before and 'window=(0, 0, 0.8, 1)' in panel.caption.value

def test_the_picture_is_what_the_caption_says():
    field = random_field(n=2)
    panel = explore(field, scale=4, centre=(.5, 1), index=1, most=64)
    call = re.search('<code>(.*)</code>', panel.caption.value)[1]
    assert call.startswith('field[1].render(')
    rendered = eval(call, {'field': field})[0].permute(1, 2, 0).mul(255).round().int().numpy()
    assert np.abs(decoded(panel.ours) - rendered).max() <= 1

def test_no_more_is_rendered_than_is_seen(renders):
    panel = explore(random_field(size=(320, 240)), most=48, scales=(.5, 32))
    for scale in (.5, 1, 4, 32):
        renders.clear()
        panel.scale.value = scale
        if scale == 1: continue # where it stood already
        ours, theirs, overview = renders
        assert max(ours) <= 48 and max(overview) <= 112
        assert max(theirs) <= 48 / min(scale, 1) + 10

def test_a_batch_has_an_image_slider_and_a_single_image_has_none():
    one, two = explore(random_field(), most=32), explore(random_field(n=2), most=32)
    def controls(panel): return [w.description for w in panel.children[0].children[1].children]
    assert controls(one) == ['scale', 'down', 'across'] and controls(two) == ['scale', 'down', 'across', 'image']
    before = two.ours.value
    two.index.value = 1
    assert two.ours.value != before and 'field[1]' in two.caption.value

def test_every_control_and_picture_has_words():
    panel = explore(random_field(n=2), most=32)
    row_of_controls, row_of_pictures, _ = panel.children
    assert all(w.description for w in row_of_controls.children[1].children)
    titles = [box.children[0].value for box in row_of_pictures.children]
    assert titles == ['the field', 'bicubic enlargement of its own 32 x 24 pixels']

@pytest.mark.parametrize('wrong, says', [(dict(scale=99), 'scale must lie'), (dict(scales=(0, 1)), 'scale must lie'),
                                         (dict(index=1), 'index must lie'),
                                         (dict(centre=(2, 0)), 'down must lie')])
def test_what_cannot_be_shown_is_refused(refuses, wrong, says):
    with refuses(says): explore(random_field(), **wrong)

def test_a_field_opens_its_own_panel():
    panel = random_field().explore(scale=4, most=32)
    assert panel.scale.value == 4 and repr(panel) == 'Explorer(ImageField(1 x 32x24), scale=4.00)'

@pytest.mark.parametrize('renderer', ['exact', 'fast', None])
def test_a_panel_is_fast_where_it_can_be_and_says_so(renderer):
    field, query = random_field(), dict(scale=2, most=64)
    field.fast = FastRenderer(FastConfig(16, wide=8, hidden=(8, 8))).requires_grad_(False)
    panel, used = explore(field, **query, renderer=renderer), renderer or 'fast'
    assert ("renderer='fast'" in panel.caption.value) == (used == 'fast')
    assert (decoded(panel.ours) == pixels(field.to_pil(scale=2, renderer=used))).all()

def test_the_panel_has_a_still_for_pages_that_cannot_run_it():
    panel = explore(random_field(), scale=8, most=40)
    bundle = panel._repr_mimebundle_()
    still = pixels(Image.open(io.BytesIO(base64.b64decode(bundle['image/png']))))
    assert 'application/vnd.jupyter.widget-view+json' in bundle
    assert (still[:, :40] == decoded(panel.ours)).all() and (still[:, -40:] == decoded(panel.theirs)).all()
