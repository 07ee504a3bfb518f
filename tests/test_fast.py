"The fast renderer: its grid form is its readable form, it is continuous, and a field uses it where it should."
import numpy as np, torch
import arsr.beyond.streaming, arsr.train, pytest
from hypothesis import given, strategies as st
from PIL import Image
from torch.testing import assert_close
from arsr.coords import make_cell, make_coord, pixel_centres
from arsr.beyond.fast import DistillationLoss, FastConfig, FastRenderer, neighbourhood, render_fast
from arsr.beyond.streaming import TileSource, strips
from arsr.field import ImageField
from arsr.liif import LIIF
from conftest import crops

def make(n_feat=6, **kwargs):
    torch.manual_seed(0)
    return FastRenderer(FastConfig(n_feat, **dict(wide=12, hidden=(8, 8)) | kwargs)).requires_grad_(False)

@given(crop=crops(40), cells=st.tuples(st.integers(1, 6), st.integers(1, 6)),
       hidden=st.lists(st.integers(1, 20), min_size=1, max_size=3), split=st.integers(1, 3), block=st.integers(1, 500))
def test_the_grid_form_is_the_readable_form(crop, cells, hidden, split, block):
    (_, (t, l, b, r), window), fast, feat = crop, make(hidden=tuple(hidden), split=split), torch.randn(2, 6, *cells)
    size = b - t, r - l
    slow = fast(feat, *(f(size, window).expand(2, -1, -1) for f in (make_coord, make_cell)))
    slow = slow.transpose(1, 2).unflatten(2, size)
    assert (render_fast(fast, fast.prepare(feat), cells, size, window, block) - slow).abs().max() < 1e-5

@given(crop=crops(60), blocks=st.tuples(st.integers(1, 3000), st.integers(1, 3000)))
def test_a_window_is_the_crop_of_the_whole_bit_for_bit(crop, blocks):
    (size, (t, l, b, r), window), fast = crop, make()
    grid = fast.prepare(torch.randn(1, 6, 5, 7))
    part = render_fast(fast, grid, (5, 7), (b - t, r - l), window, blocks[0])
    whole = render_fast(fast, grid, (5, 7), size, block=blocks[1])
    assert torch.equal(part, whole[..., t:b, l:r])

@given(crop=crops(60), cells=st.tuples(st.integers(1, 30), st.integers(1, 30)), split=st.integers(1, 3))
def test_the_neighbourhood_of_a_window_is_all_that_it_needs(crop, cells, split):
    (_, (t, l, b, r), window), fast, feat = crop, make(split=split), torch.randn(1, 6, *cells)
    near, inside = neighbourhood(feat, window)
    part = render_fast(fast, fast.prepare(near), near.shape[-2:], (b - t, r - l), inside)
    assert (part - render_fast(fast, fast.prepare(feat), cells, (b - t, r - l), window)).abs().max() < 1e-4
    assert all(k <= (hi - lo) * n + 6 for k, n, lo, hi in zip(near.shape[-2:], cells, window[:2], window[2:]))

def test_it_is_continuous_across_cells():
    fast, feat, n = make(), torch.randn(1, 6, 4, 4), 2**14
    line = torch.stack([torch.full((n,), .3), pixel_centres(n)], -1)[None]
    assert fast(feat, line, torch.full((1, n, 2), .05)).diff(dim=1).abs().max() < .01

def make_field(**kwargs):
    torch.manual_seed(1)
    return ImageField(torch.randn(3, 6, 5, 7), LIIF(6, hidden=(8,)), (20, 28), **kwargs)

def test_a_field_uses_it_when_bound_to_it():
    field = make_field(fast=make(), correction=torch.randn(3, 3, 5, 7) / 9)
    exact, fast = field.render(scale=2), field.render(scale=2, renderer='fast')
    assert exact.shape == fast.shape and (exact - fast).abs().mean() > .01
    bound = field.with_renderer('fast')
    assert torch.equal(bound.render(scale=2), fast) and torch.equal(bound.with_renderer('exact').render(scale=2), exact)
    assert_close(field[1].render(scale=2, renderer='fast'), fast[1:2])
    assert_close(bound[1:].render(scale=2), fast[1:])

@pytest.mark.parametrize('half, atol', [('no', 1e-5), ('bf16', .02)])
def test_a_large_field_keeps_no_grid_and_renders_alike(monkeypatch, half, atol):
    monkeypatch.setattr(arsr.train, 'hardware', lambda: dict(mixed_precision=half))
    field, query = make_field(fast=make()).with_renderer('fast'), dict(size=(31, 22), window=(.2, .3, .75, .7))
    kept = field.render(**query)
    assert field.fast.kept is not None
    monkeypatch.setattr(FastRenderer, 'kept_cells', 100)
    free = make_field(fast=make()).with_renderer('fast')
    assert_close(free.render(**query), kept, atol=atol, rtol=0)
    assert free.fast.kept is None

def test_the_grid_is_prepared_once_and_anew_after_a_change(monkeypatch):
    fast, calls = make(), []
    field, real = make_field(fast=fast).with_renderer('fast'), FastRenderer.grid
    monkeypatch.setattr(FastRenderer, 'grid', lambda self, feat: calls.append(1) or real(self, feat))
    def fresh():
        fast.kept = None
        return field.render(scale=2)
    for _ in range(3): a = field.render(scale=2)
    assert len(calls) == 1
    for k in (0, 1): field[k].render(scale=2), field[k].render(scale=3)
    assert len(calls) == 3  # a view of the same features is recognised
    field.feat.mul_(2)
    b = field.render(scale=2)
    assert not torch.equal(a, b) and torch.equal(b, fresh())
    fast.prepare[0].weight.mul_(2)
    c = field.render(scale=2)
    assert not torch.equal(b, c) and torch.equal(c, fresh())

def test_auto_is_exact_up_to_a_limit_and_decided_once_for_a_file(tmp_path, monkeypatch):
    assert ImageField.exact_pixels == 1024**2
    monkeypatch.setattr(ImageField, 'exact_pixels', 2000)
    field = make_field(fast=make())
    exact, fast = field.with_renderer('exact'), field.with_renderer('fast')
    assert torch.equal(field.render(size=(40, 50)), exact.render(size=(40, 50)))
    assert torch.equal(field.render(size=(40, 51)), fast.render(size=(40, 51)))
    assert torch.equal(field.render(size=(40, 51), renderer='exact'), exact.render(size=(40, 51)))
    assert torch.equal(fast.render(size=(40, 50), renderer='auto'), exact.render(size=(40, 50)))
    assert torch.equal(make_field().render(size=(40, 51)), exact.render(size=(40, 51)))  # no fast renderer: exact
    monkeypatch.setattr(TileSource, 'at_once', 0)
    for name in ('a.png', 'a.bmp'):
        for size in ((40, 50), (40, 51)):  # in tiles that are all below the limit
            monkeypatch.setattr(arsr.beyond.streaming, 'strips', lambda size: strips(size, 500))
            file = np.array(Image.open(field.save(tmp_path/name, size=size)))
            assert (file == np.array((fast if size == (40, 51) else exact).to_pil(size=size))).all()

def test_autocast_changes_the_precision_of_neither(monkeypatch):
    field = make_field(fast=make())
    with torch.autocast('cpu', torch.bfloat16): inside = field.render(scale=2, renderer='fast')
    assert torch.equal(inside, make_field(fast=make()).render(scale=2, renderer='fast'))

def test_the_distillation_loss_is_the_distance_from_the_teacher_and_reaches_the_student_alone():
    teacher, student, feat = LIIF(6, hidden=(8,)), make().requires_grad_(True), torch.randn(2, 6, 5, 7)
    DistillationLoss(teacher, lambda batch: batch['feat'], queries=50)(student, dict(feat=feat)).backward()
    assert all(p.grad.abs().sum() > 0 for p in student.parameters())
    assert all(p.grad is None for p in teacher.parameters())
    assert DistillationLoss(student, lambda batch: batch, queries=50)(student, feat) == 0

def test_a_field_without_one_says_so(refuses):
    with refuses('no fast renderer'): make_field().render(renderer='fast')
    with refuses("'auto', 'exact' or 'fast', not 'quick'"): make_field(fast=make()).with_renderer('quick')

def test_a_file_is_written_with_the_renderer_of_the_field(tmp_path):
    field = make_field(fast=make()).with_renderer('fast')
    assert (np.array(Image.open(field.save(tmp_path/'a.png', scale=3))) == np.array(field.to_pil(scale=3))).all()
