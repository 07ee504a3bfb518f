import pytest, torch, torch.nn.functional as F
import arsr.liif
from hypothesis import given, strategies as st
from torch import nn
from torch.testing import assert_close
from arsr.coords import make_cell, make_coord
from arsr.liif import LIIF, has_packed, nearest, render_grid
from conftest import crops

def query(liif, feat, size, window=(0, 0, 1, 1)):
    "The readable form on a grid: (n,c,h,w)."
    h, w = size
    coord, cell = (f(size, window).expand(len(feat), -1, -1) for f in (make_coord, make_cell))
    return liif(feat, coord, cell).transpose(1, 2).unflatten(2, (h, w))

@given(crop=crops(40), cells=st.tuples(st.integers(1, 9), st.integers(1, 200)), n=st.integers(1, 2),
       n_out=st.integers(1, 4), hidden=st.lists(st.integers(1, 24), min_size=1, max_size=4),
       block=st.integers(1, 500), seed=st.integers(0, 99))
def test_render_grid_equals_forward(crop, cells, n, n_out, hidden, block, seed):
    torch.manual_seed(seed)
    (_, (t, l, b, r), window), liif, feat = crop, LIIF(6, n_out, tuple(hidden)), torch.randn(n, 6, *cells)
    size = b - t, r - l
    assert (render_grid(liif, feat, size, window, block) - query(liif, feat, size, window)).abs().max() < 1e-5

@given(window=st.tuples(*[st.floats(0, .45)] * 2, *[st.floats(.5, 1)] * 2),
       size=st.tuples(st.integers(1, 30), st.integers(1, 30)))
def test_render_grid_equals_forward_on_any_window(window, size):
    torch.manual_seed(0)
    liif, feat = LIIF(8, hidden=(32, 32)), torch.randn(1, 8, 5, 7)
    assert (render_grid(liif, feat, size, window) - query(liif, feat, size, window)).abs().max() < 1e-5

@pytest.mark.parametrize('cells, size', [((8, 6), (37, 23)), ((2, 300), (3, 700)), ((2, 300), (3, 20))])
def test_at_published_width(cells, size):
    liif, feat = LIIF(128), torch.randn(1, 128, *cells)
    assert (render_grid(liif, feat, size) - query(liif, feat, size)).abs().max() < 1e-5

@given(crop=crops(60), cells=st.sampled_from([7, 64, 300]), hidden=st.lists(st.integers(1, 40), min_size=1, max_size=3),
       blocks=st.tuples(st.integers(1, 5000), st.integers(1, 5000)))
def test_a_window_is_the_crop_of_the_whole_bit_for_bit(crop, cells, hidden, blocks):
    torch.manual_seed(0)
    (size, (t, l, b, r), window), liif, feat = crop, LIIF(6, hidden=tuple(hidden)), torch.randn(1, 6, 5, cells)
    assert torch.equal(render_grid(liif, feat, (b - t, r - l), window, blocks[0]),
                       render_grid(liif, feat, size, block=blocks[1])[..., t:b, l:r])

@pytest.mark.skipif(not has_packed(torch.bfloat16), reason='no fast bf16 here')
def test_bf16_is_within_its_tolerance():
    torch.manual_seed(0)
    liif, feat = LIIF(64, hidden=(128,) * 3), torch.randn(1, 64, 8, 8)
    exact = render_grid(liif, feat, 50)
    assert 0 < (render_grid(liif, feat, 50, dtype=torch.bfloat16) - exact).abs().max() < .02 * exact.std()

@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16])
def test_without_the_private_functions_it_is_the_same(monkeypatch, dtype):
    torch.manual_seed(0)
    liif, feat = LIIF(16, hidden=(32, 32)), torch.randn(1, 16, 5, 7)
    fast = render_grid(liif, feat, (20, 30), dtype=dtype)
    monkeypatch.setattr(arsr.liif, 'has_packed', lambda dtype: False)
    assert_close(render_grid(liif, feat, (20, 30), dtype=dtype), fast, atol=1e-5 if dtype == torch.float32 else 1e-2,
                 rtol=0)

def literal(liif, feat, x, cell):
    "The definition for one point of one feature map, word by word."
    size = torch.tensor(feat.shape[-2:])
    centres = [-1 + (2 * torch.arange(n) + 1) / n for n in size]
    preds, areas = [], []
    for v_r in (-1, 1):
        for v_c in (-1, 1):
            moved = (x + torch.tensor([v_r, v_c]) / size + 1e-6).clamp(-1 + 1e-6, 1 - 1e-6)
            i, j = ((c - m).abs().argmin() for c, m in zip(centres, moved))
            rel = (x - torch.stack([centres[0][i], centres[1][j]])) * size
            preds.append(liif.mlp(torch.cat([feat[:, i, j], rel, cell * size])))
            areas.append(rel.prod().abs() + 1e-9)
    return sum(p * a for p, a in zip(preds, areas[::-1])) / sum(areas)

def test_forward_is_the_method_word_by_word():
    liif, feat = LIIF(6, hidden=(16,)), torch.randn(6, 4, 3)
    coord, cell = torch.rand(40, 2) * 2 - 1, torch.rand(40, 2)
    assert_close(liif(feat[None], coord[None], cell[None])[0],
                 torch.stack([literal(liif, feat, x, c) for x, c in zip(coord, cell)]), atol=1e-5, rtol=0)

def test_where_the_mlp_passes_features_through_it_is_bilinear_interpolation():
    liif, feat, eye = LIIF(3, hidden=(6,)), torch.randn(1, 3, 4, 6), torch.eye(3)
    first, _, last = liif.mlp
    for p in (*first.parameters(), *last.parameters()): nn.init.zeros_(p)
    # x = relu(x) - relu(-x)
    first.weight.data[:, :3], last.weight.data = torch.cat([eye, -eye]), torch.cat([eye, -eye], 1)
    truth = F.interpolate(feat, (19, 32), mode='bilinear', align_corners=False)
    assert_close(query(liif, feat, (19, 32)), truth, atol=1e-5, rtol=0)
    assert_close(render_grid(liif, feat, (19, 32)), truth, atol=1e-5, rtol=0)

def test_a_point_is_read_from_the_cells_on_both_sides():
    x = torch.tensor([-.1])  # of four cells, between the second (centre -.25) and the third (centre .25)
    (before, rel_before), (after, rel_after) = nearest(x, -1, 4), nearest(x, 1, 4)
    assert (before.item(), after.item()) == (1, 2)
    assert_close(torch.cat([rel_before, rel_after]), torch.tensor([.6, -1.4]))

def test_published_width_is_the_default_and_gradient_reaches_the_features():
    liif, feat = LIIF(16), torch.randn(1, 16, 3, 3, requires_grad=True)
    assert [m.out_features for m in liif.mlp if isinstance(m, nn.Linear)] == [256, 256, 256, 256, 3]
    assert liif.mlp[0].in_features == 16 + 2 + 2
    query(liif, feat, (5, 5)).sum().backward()
    assert (feat.grad.abs().sum((0, 1)) > 0).all()
