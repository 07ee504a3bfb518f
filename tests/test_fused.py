"The kernel, run by Triton's interpreter where there is no GPU, equals the row of operations."
import pytest, torch
from hypothesis import given, settings, strategies as st
from torch.testing import assert_close
import arsr.fused
from arsr.fused import can_fuse, fused_is_faster, render_exact, render_fused
from arsr.liif import LIIF, render_grid
from conftest import crops

pytestmark = pytest.mark.skipif(arsr.fused.triton is None, reason='Triton is not installed')
DEVICE = 'cuda' if torch.cuda.is_available() else 'cpu'

@settings(max_examples=15)
@given(crop=crops(12), cells=st.tuples(st.integers(1, 6), st.integers(1, 6)), layers=st.integers(1, 3), n=st.integers(1, 2), n_out=st.integers(1, 4))
def test_it_is_the_function(crop, cells, layers, n, n_out):
    torch.manual_seed(0)
    (_, (t, l, b, r), window), liif, feat = crop, LIIF(6, n_out, (16,) * layers).to(DEVICE), torch.randn(n, 6, *cells, device=DEVICE)
    assert_close(render_fused(liif, feat, (b - t, r - l), window), render_grid(liif, feat, (b - t, r - l), window), atol=1e-5, rtol=1e-5)

def test_half_precision_is_near():
    torch.manual_seed(0)
    liif, feat = LIIF(6, hidden=(32, 32)).to(DEVICE), torch.randn(1, 6, 4, 4, device=DEVICE)
    exact = render_grid(liif, feat, 20)
    assert (render_fused(liif, feat, 20, dtype=torch.float16) - exact).abs().max() < .01 * exact.std()

@pytest.mark.parametrize('hidden, fits', [((16,), True), ((256,) * 4, True), ((24, 24), False), ((16, 32), False), ((8,), False)])
def test_what_it_can_compute(hidden, fits): assert can_fuse(LIIF(6, hidden=hidden)) == fits

def test_a_cpu_has_no_choice():
    liif, feat = LIIF(6, hidden=(16, 16)), torch.randn(1, 6, 4, 4)
    assert torch.equal(render_exact(liif, feat, 20), render_grid(liif, feat, 20))

@pytest.mark.parametrize('slow', [True, False])
def test_the_faster_is_kept(monkeypatch, slow):
    "On a pretended GPU: the clock says which form is slower."
    now = [0.]
    monkeypatch.setattr(torch.cuda, 'synchronize', lambda device: None)
    monkeypatch.setattr(arsr.fused.time, 'perf_counter', lambda: now[0])
    def taking(seconds):
        def render(*args, **kwargs): now[0] += seconds
        return render
    monkeypatch.setattr(arsr.fused, 'render_fused', taking(2. if slow else .5)); monkeypatch.setattr(arsr.fused, 'render_grid', taking(1.))
    fused_is_faster.cache_clear()
    assert fused_is_faster('cpu', 6, (16, 16), torch.float32) is not slow
    fused_is_faster.cache_clear()

def test_what_does_not_compile_is_not_used(monkeypatch):
    def fail(*args, **kwargs): raise RuntimeError('out of resource: shared memory')
    monkeypatch.setattr(torch.cuda, 'synchronize', lambda device: None); monkeypatch.setattr(arsr.fused, 'render_fused', fail)
    fused_is_faster.cache_clear()
    assert fused_is_faster('cpu', 6, (16, 16), torch.float32) is False
    fused_is_faster.cache_clear()
