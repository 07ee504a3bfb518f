import subprocess, sys, time
from types import SimpleNamespace
import numpy as np, pytest, scipy.linalg, torch, torch.nn.functional as F
from hypothesis import given, strategies as st
from skimage import data
from skimage.metrics import peak_signal_noise_ratio, structural_similarity
from torch.testing import assert_close
from arsr.coords import resize
from arsr.data import load_image
from arsr.field import ImageField, encode_field, sample_bicubic
from arsr.liif import MAX_TABLE_CELLS, LIIF, render_grid
from arsr.lab.metrics import (
    EffLite, diversity, efflite, fd_efflite, frechet, interval, macs, measured,
    nearest, patch_fd, precision_recall, psnr, random_patches, self_ssim, shrunk_psnr, ssim, to_luma)

MB = 2**20

@pytest.fixture(scope='module')
def cat(): return load_image(data.chelsea()[30:222, 90:282])

@pytest.fixture(scope='module')
def net(): return efflite()

@pytest.fixture(scope='module')
def sets(drawings):
    "Two sets of 24 drawings of 48 pixels."
    x = torch.stack([drawings.view(70 * i, 48) for i in range(48)])
    return x[::2], x[1::2]

def noisy(x, sigma=.1):
    return (x + sigma * torch.randn(x.shape, generator=torch.Generator().manual_seed(0))).clamp(0, 1)
def soften(x, k): return resize(resize(x, x.shape[-1] // k), x.shape[-2:]).clamp(0, 1)
def hwc(x): return x.permute(1, 2, 0).double().numpy()

# pixel by pixel

def test_psnr_is_that_of_scikit_image(cat):
    expected = peak_signal_noise_ratio(hwc(cat), hwc(noisy(cat)), data_range=1)
    assert psnr(noisy(cat), cat).item() == pytest.approx(expected, abs=1e-4)

@given(st.integers(0, 9))
def test_shaving_is_cropping(shave):
    x, y = torch.rand(2, 2, 3, 20, 24)
    assert_close(psnr(x, y, shave), psnr(*(v[..., shave:20 - shave, shave:24 - shave] for v in (x, y))))

@pytest.mark.parametrize('shave', [-1, 10, 11])
def test_shaving_everything_is_refused(shave, refuses):
    with refuses('shave must leave some of 20 x 24', 'from 0 to 9', str(shave)):
        psnr(torch.rand(3, 20, 24), torch.rand(3, 20, 24), shave)

def test_luma_is_bt601():
    primaries = torch.eye(3)[:, :, None, None]
    assert_close(to_luma(primaries).flatten() * 255 - 16, torch.tensor([65.481, 128.553, 24.966]), atol=1e-3, rtol=0)
    assert_close(to_luma(torch.ones(3, 2, 2)) * 255, torch.full((1, 2, 2), 235.), atol=1e-3, rtol=0)

def test_luma_psnr_sees_brightness_alone():
    grey = torch.full((3, 8, 8), .5)
    same_luma = grey + .1 * torch.tensor([1., -65.481 / 128.553, 0.])[:, None, None]
    assert psnr(same_luma, grey, luma=True) > 100 > psnr(same_luma, grey)
    assert psnr(grey + .1, grey, luma=True).item() == pytest.approx(20 - 20 * np.log10(219 / 255), abs=1e-3)

def test_ssim_is_that_of_scikit_image(cat):
    x = torch.stack([noisy(cat), soften(cat, 4), cat * .5])
    ours = ssim(x, cat.expand_as(x))
    for value, p in zip(ours, x):
        theirs = structural_similarity(hwc(p), hwc(cat), data_range=1, channel_axis=2, gaussian_weights=True, sigma=1.5,
                                       use_sample_covariance=False)
        assert value.item() == pytest.approx(theirs, abs=1e-4)

def test_structure_of_equal_and_of_inverted_pictures(cat):
    x = torch.stack([cat, torch.zeros_like(cat)])
    assert_close(ssim(x, x), torch.ones(2))
    assert ssim(1 - cat[None], cat[None]) < 0

def test_smallest_picture(refuses):
    x = torch.rand(1, 3, 11, 14)
    assert_close(ssim(x, x), torch.ones(1))
    with refuses('at least 11 x 11', 'not 10 x 14'): ssim(x[..., 1:, :], x[..., 1:, :])

@pytest.mark.parametrize('f', [ssim, lambda x, y: efflite().distance(x, y)])
def test_shapes_that_do_not_fit(f, refuses):
    with refuses('two batches of one shape (n,3,h,w)'): f(torch.rand(1, 3, 200, 200), torch.rand(1, 3, 200, 201))
    with refuses('two batches of one shape (n,3,h,w)'): f(torch.rand(3, 200, 200), torch.rand(3, 200, 200))

# the network

def test_the_network_is_loaded_once():
    assert efflite() is efflite('cpu') is efflite(torch.device('cpu')) is not efflite(version=2)

@pytest.mark.parametrize('version', [0, 2])
def test_features_at_five_resolutions(version):
    maps = efflite(version=version).features(torch.rand(1, 3, 64, 96))
    assert [tuple(m.shape[-2:]) for m in maps] == [(32, 48), (16, 24), (8, 12), (4, 6), (2, 3)]

def test_the_second_network_is_another_measure_of_the_same_thing(net, cat):
    far = [[n.distance(soften(cat, s)[None], cat[None]).item() for s in (1, 3)] for n in (net, efflite(version=2))]
    assert all(a < b for a, b in far) and far[0] != pytest.approx(far[1], rel=1e-3)

def test_the_network_knows_a_cat(net):
    x = load_image(data.chelsea())[:, :, 75:375]
    # ImageNet's house cats
    with torch.no_grad(): assert net.net(net.prepare(resize(x, 224).clamp(0, 1)[None])).argmax() in (281, 282, 285)

@pytest.mark.parametrize('size', [(32, 32), (33, 47), (64, 96), (131, 40)])
def test_pictures_of_any_size(net, size):
    x = torch.rand(3, 3, *size)
    assert net.distance(x, x).tolist() == [0, 0, 0]
    assert net.embed(x, None).shape == net.embed(x, 64).shape == (3, 320)
    assert [len(f) for f in net.features(x)] == [3] * 5

def test_five_resolutions(net):
    shapes = [(16, 32, 48), (24, 16, 24), (40, 8, 12), (112, 4, 6), (320, 2, 3)]
    assert [tuple(f.shape[1:]) for f in net.features(torch.rand(1, 3, 64, 96))] == shapes

@pytest.mark.parametrize('spoil', [soften, lambda x, k: noisy(x, .03 * k)], ids=['blur', 'noise'])
def test_distance_grows_with_the_damage(net, cat, spoil):
    x = torch.stack([cat[:, 32:128, 32:128], cat[:, 96:192, 64:160]])
    steps = torch.stack([net.distance(spoil(x, k), x) for k in (2, 4, 8)])
    assert (steps[0] > .01).all() and (steps.diff(dim=0) > 0).all()
    assert_close(net.distance(x, spoil(x, 2)), steps[0])

def test_where_psnr_and_the_network_disagree(net, cat):
    moved, soft = cat.roll(1, -1)[None], soften(cat, 2)[None]
    assert psnr(moved, cat) < psnr(soft, cat)
    assert net.distance(moved, cat[None]) < net.distance(soft, cat[None])

def test_batches_change_nothing(net, monkeypatch):
    x, y = torch.rand(2, 5, 3, 40, 48, generator=torch.Generator().manual_seed(0))
    whole, features = net.distance(x, y), net.embed(x, None)
    seen = []
    monkeypatch.setattr(net, 'at_once', 2 * 40 * 48)
    monkeypatch.setattr(net, 'features', lambda x: seen.append(len(x)) or EffLite.features(net, x))
    assert_close(net.distance(x, y), whole, atol=1e-4, rtol=1e-4)
    assert_close(net.embed(x, None), features, atol=1e-4, rtol=1e-4)
    assert max(seen) == 2 # pictures at a time

def test_embed_takes_any_iterable(net, sets):
    x = sets[0][:4]
    assert_close(net.embed(p for p in x), net.embed(x))
    assert_close(net.embed([resize(x[0], (32, 90)), x[1]])[1], net.embed(x)[1])
    assert_close(net.embed(x, 64), net.embed(resize(x, 64).clamp(0, 1), None))

def test_wrong_pictures(net, refuses):
    with refuses('at least 32 x 32', 'not 31 x 40'): net.distance(torch.rand(1, 3, 31, 40), torch.rand(1, 3, 31, 40))
    with refuses('at least 32 x 32'): net.embed(torch.rand(2, 3, 31, 40), None)
    with refuses('at least 32 x 32'): net.embed(torch.rand(2, 3, 64, 64), 16)
    with refuses('no picture'): net.embed([])
    for x in (torch.rand(1, 3, 32, 32) * 2 - 1, torch.rand(1, 3, 32, 32) * 255):
        with refuses('must lie in [0,1]'): net.distance(x, x)

def test_without_the_package(monkeypatch, refuses):
    monkeypatch.setitem(sys.modules, 'efficientnet_lite_pytorch', None)
    with refuses('EffLite-PD', "pip install 'arsr[metrics]'"): EffLite()

def test_a_version_that_is_not_installed(refuses):
    with refuses('efficientnet_lite9', "pip install 'arsr[metrics]'"): efflite(version=9)

# sets

def by_the_book(a, b):
    "The textbook formula with scipy's matrix root."
    a, b = a.double().numpy(), b.double().numpy()
    ca, cb = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    root = scipy.linalg.sqrtm(ca @ cb).real
    return ((a.mean(0) - b.mean(0))**2).sum() + np.trace(ca + cb - 2 * root)

@pytest.mark.parametrize('n, m', [(200, 300), (300, 25), (20, 25), (200, 2)])
@pytest.mark.filterwarnings('ignore:Matrix is singular')
def test_frechet_is_the_textbook_formula(n, m):
    a, b = torch.randn(n, 40) @ torch.randn(40, 40), 3 * torch.randn(m, 40) + .2
    assert frechet(a, b) == pytest.approx(by_the_book(a, b), rel=1e-5)
    assert frechet(b, a) == pytest.approx(frechet(a, b), rel=1e-9)

@pytest.mark.parametrize('n', [2, 10, 100])
def test_frechet_of_equal_sets_is_zero(n):
    a = 100 + torch.randn(n, 40)
    assert 0 <= frechet(a, a) < 1e-9
    assert frechet(a, a.flip(0)) < 1e-9
    assert frechet(a, a + 2) == pytest.approx(4 * 40, rel=1e-4)

@given(st.floats(.1, 10), st.floats(-5, 5))
def test_frechet_in_one_dimension_is_means_and_deviations(scale, shift):
    a = torch.tensor([[-1.], [0.], [1.]])
    assert frechet(a, scale * a + shift) == pytest.approx(shift**2 + (scale - 1)**2, abs=1e-5)

@pytest.mark.parametrize('a, b', [((1, 4), (9, 4)), ((9, 4), (9, 5)), ((9,), (9,))])
def test_features_that_cannot_be_compared(a, b, refuses):
    with refuses('(n,d) and (m,d)', str(a)): frechet(torch.rand(a), torch.rand(b))

def test_the_interval_covers_and_the_bias_is_right():
    "30 pairs of samples of two Gaussians whose distance is known."
    n, d, rng = 200, 10, torch.Generator().manual_seed(0)
    def draw(): return torch.randn(n, d, generator=rng)
    found = [interval(draw(), 2 * draw() + 1) for _ in range(30)]
    fd, se, bias = (torch.tensor([r[k] for r in found]) for k in ('fd', 'se', 'bias'))
    truth = d * (1 + 1)
    assert .6 < se.mean() / fd.std() < 1.6
    assert abs((fd - bias).mean() - truth) < 3 * fd.std() / 30**.5
    same = [interval(draw(), draw()) for _ in range(10)]
    assert sum(r['fd'] for r in same) / 10 > 5 * abs(sum(r['fd'] - r['bias'] for r in same) / 10) # truth: 0

def test_interval_says_what_it_rests_on(refuses):
    a, b = torch.randn(20, 3), torch.randn(37, 3)
    out = interval(a, b)
    assert (out['n'], out['m'], out['fd']) == (20, 37, frechet(a, b))
    assert out['low'] < out['fd'] < out['high'] and out['high'] - out['fd'] == pytest.approx(2.262 * out['se'])
    assert out == interval(a, b) != interval(a, b, seed=1)
    with refuses('at least 20', '(19, 3)'): interval(a[:19], b)

def one_by_one(real, fake, k):
    "Precision and recall, literally: a ball around every point, and every point of the other set looked for in each."
    def reach(points, i): # to the k-th nearest other point
        return sorted(float(np.linalg.norm(points[i] - points[j])) for j in range(len(points)) if j != i)[k - 1]
    def share(points, centres):
        balls = [(c, reach(centres, i)) for i, c in enumerate(centres)]
        return sum(any(np.linalg.norm(p - c) <= r for c, r in balls) for p in points) / len(points)
    real, fake = real.double().numpy(), fake.double().numpy()
    return dict(precision=share(fake, real), recall=share(real, fake))

@pytest.mark.parametrize('k', [1, 3, 7])
def test_precision_and_recall_one_by_one(k):
    rng = torch.Generator().manual_seed(k)
    real, fake = torch.randn(60, 5, generator=rng), .8 * torch.randn(45, 5, generator=rng) + .4
    found = precision_recall(real, fake, k)
    assert found == pytest.approx(one_by_one(real, fake, k)) and 0 < found['recall'] != found['precision'] < 1
    assert precision_recall(fake, real, k) == dict(precision=found['recall'], recall=found['precision'])

def test_precision_and_recall_do_not_depend_on_the_parts_they_are_made_in():
    "More points than are compared at a time, in another order, and moved."
    rng = torch.Generator().manual_seed(0)
    real, fake = torch.randn(1203, 3, generator=rng), torch.randn(1100, 3, generator=rng) + 1
    found, order = precision_recall(real, fake), torch.randperm(1203, generator=rng)
    assert precision_recall(real[order], fake.flip(0)) == found
    distances = torch.cdist(fake.double(), real.double())
    reach = torch.cdist(real.double(), real.double()).sort(1).values[:, 3]
    assert found['precision'] == pytest.approx((distances <= reach).any(1).double().mean().item(), abs=2e-3)

def test_precision_is_lost_by_blur_and_recall_by_copies(sets):
    x, y = (efflite().embed(part) for part in sets)
    assert precision_recall(x, x) == dict(precision=1, recall=1)
    assert precision_recall(x, x + 100) == dict(precision=0, recall=0)
    copies = x[:1].expand(24, -1)  # one real picture, again and again: balls of no size, which hold that one
    assert precision_recall(x, copies) == dict(precision=1, recall=1 / 24)
    soft = efflite().embed(soften(sets[1], 6))
    assert precision_recall(x, soft)['precision'] < precision_recall(x, y)['precision']

def test_precision_and_recall_refuse_what_has_no_neighbours(refuses):
    with refuses('at least 4', '(3, 5)'): precision_recall(torch.rand(3, 5), torch.rand(9, 5))
    with refuses('at least 4', '(3, 5)'): precision_recall(torch.rand(9, 5), torch.rand(3, 5))
    with refuses('(9, 5)', '(9, 4)'): precision_recall(torch.rand(9, 5), torch.rand(9, 4))
    with refuses('k must be at least 1, not 0'): precision_recall(torch.rand(9, 5), torch.rand(9, 5), 0)

def test_fd_vanishes_for_equal_sets_and_grows(sets):
    x, _ = sets
    assert fd_efflite(x, x) < 1e-6
    for spoil in (soften, lambda x, k: noisy(x, .03 * k)):
        near, far = (fd_efflite(x, spoil(x, k)) for k in (2, 6))
        assert 1 < near < far

def test_a_small_sample_lifts_fd(net, sets):
    a, b = (net.embed(x) for x in sets)
    assert frechet(a[:8], b[:8]) > frechet(a, b) > 1

def test_patches_are_windows_and_repeat(refuses):
    x = [torch.arange(3 * h * w).view(3, h, w) for h, w in ((8, 9), (6, 20))]
    patches = list(random_patches(x, 6, 40, seed=3))
    assert len(patches) == 40 and all(p.shape == (3, 6, 6) for p in patches)
    for p in patches:
        assert any((v.unfold(1, 6, 1).unfold(2, 6, 1) == p[:, None, None]).all((0, 3, 4)).any() for v in x)
    assert len({tuple(p.flatten().tolist()) for p in patches}) > 10
    assert all(torch.equal(p, q) for p, q in zip(patches, random_patches(x, 6, 40, seed=3)))
    with refuses('a patch of 7 pixels', '6 x 20'): list(random_patches(x, 7, 40))

def test_patches_see_what_resizing_hides(drawings):
    fine = torch.stack([drawings.view(90 * i, 256) for i in range(24)])
    soft = resize(resize(fine, 128), 256).clamp(0, 1)
    assert patch_fd(fine, fine, n=30) < 1e-6
    assert patch_fd(fine, soft, n=60) > 2 * fd_efflite(fine, soft)

# fields

def constant(pictures):
    "A field that holds one picture for each size asked for."
    return SimpleNamespace(render=lambda size: pictures[size if isinstance(size, int) else size[0]])

def test_self_ssim(cat, refuses):
    x = cat[None]
    honest = constant({192: x, 48: resize(x, 48).clamp(0, 1)})
    assert_close(self_ssim(honest, 48, 192), torch.ones(1))
    assert self_ssim(constant({192: x, 48: noisy(resize(x, 48))}), 48, 192) < .9
    for large in (48, 192):
        with refuses('must be the larger one'): self_ssim(honest, 192, large)

def test_field_measures_on_a_real_field(first, cat):
    x = cat[None, :, :64, :96]
    field = encode_field(first, x.expand(2, -1, -1, -1))
    assert isinstance(field, ImageField)
    assert self_ssim(field, 96, 192).shape == (2,)
    assert_close(shrunk_psnr(field.render(size=(64, 96)), x), psnr(field.render(size=(64, 96)), x))

def test_lr_consistency(cat):
    lr = resize(cat, 48).clamp(0, 1)[None]
    assert shrunk_psnr(cat[None], lr) > 100
    assert shrunk_psnr(noisy(cat[None]), lr) < 45
    assert shrunk_psnr(sample_bicubic(lr, (158, 158)), lr) > 35

def test_diversity_is_the_mean_over_pairs(net, sets, monkeypatch, refuses):
    x = sets[0][:5]
    pairs = torch.cat([net.distance(x[i:i+1], x[j:j+1]) for i in range(5) for j in range(i)])
    assert diversity(x)['pd'] == pytest.approx(pairs.mean().item(), rel=1e-4)
    assert diversity(x)['std'] == pytest.approx(x.numpy().std(0, ddof=1).mean(), rel=1e-4)
    monkeypatch.setattr(net, 'at_once', 2 * 48 * 48)
    assert diversity(x)['pd'] == pytest.approx(pairs.mean().item(), rel=1e-4)
    copies = diversity(x[:1].expand(4, -1, -1, -1))
    assert abs(copies['pd']) < 1e-5 and copies['std'] < 1e-6
    with refuses('at least two'): diversity(x[:1])

def test_nearest(sets):
    x, y = sets
    assert nearest(x[[7, 3, 7]] + .01, x).tolist() == [7, 3, 7]
    brute = [min(range(len(y)), key=lambda j: (p - y[j]).square().sum().item()) for p in x[:6]]
    assert nearest(x[:6], y).tolist() == brute

# cost

def test_peak_memory_is_that_of_the_call():
    keep = torch.ones(40 * MB // 4) # what was there before does not count
    def brief():
        for _ in range(3): torch.ones(80 * MB // 4).sum()
        return 'done'
    cost = measured(brief)
    assert cost['result'] == 'done' and 70 * MB < cost['peak_bytes'] < 140 * MB
    assert measured(lambda: None)['peak_bytes'] < 20 * MB < keep.numel() * 4

def test_memory_is_measured_again_when_it_was_freed_before():
    # 64 MB in small pieces
    peaks = [measured(lambda: [torch.ones(MB // 16) for _ in range(256)])['peak_bytes'] for _ in range(2)]
    assert all(50 * MB < p < 100 * MB for p in peaks)

def test_seconds():
    assert .2 <= measured(lambda: time.sleep(.2))['seconds'] < 2

def test_an_error_passes_and_the_watcher_ends():
    import threading
    before = threading.active_count()
    with pytest.raises(KeyError): measured(lambda: {}[0])
    time.sleep(.2)
    assert threading.active_count() <= before

@pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a GPU')
def test_peak_memory_on_a_gpu():
    keep = torch.ones(40 * MB // 4, device='cuda')
    cost = measured(lambda: torch.ones(80 * MB // 4, device='cuda').sum().item(), 'cuda')
    assert cost['result'] == 20 * MB and 80 * MB <= cost['peak_bytes'] < 90 * MB < 90 * MB + keep.numel()

def test_macs():
    assert macs(lambda: torch.rand(5, 7) @ torch.rand(7, 3)) == 5 * 7 * 3
    assert macs(lambda: F.linear(torch.rand(2, 5, 7), torch.rand(3, 7), torch.rand(3))) == 2 * 5 * 7 * 3
    liif = LIIF(8, hidden=(16, 16))
    looking_up = 2 * 20 * (MAX_TABLE_CELLS + 1) * 2 * 20 * 16  # columns of both shifts, the table, lines of both shifts
    layers = 9 * 8 * 16 + 400 * (4 * 16 * 16 + 16 * 3)
    assert macs(lambda: render_grid(liif, torch.rand(1, 8, 3, 3), (20, 20))) == layers + looking_up
    x, weight = torch.rand(2, 4, 9, 9), torch.rand(6, 2, 3, 3)
    assert macs(lambda: F.conv2d(x, weight, stride=2, groups=2)) == 2 * 6 * 4 * 4 * 2 * 9

@pytest.mark.parametrize('context', [torch.no_grad, torch.enable_grad])
def test_macs_of_attention(context):
    q, k, v = torch.rand(2, 3, 10, 4), torch.rand(2, 3, 7, 4), torch.rand(2, 3, 7, 4)
    with context(): assert macs(lambda: F.scaled_dot_product_attention(q, k, v)) == 2 * 3 * 10 * 7 * (4 + 4)

def test_macs_of_the_network(net):
    "The classifier adds to the features its head, 320 to 1,280 channels at 7 x 7 places, and 1,000 classes."
    x = torch.rand(1, 3, 224, 224)
    with torch.no_grad():
        assert macs(lambda: net.net(x)) - macs(lambda: net.features(x)) == 7 * 7 * 320 * 1280 + 1280 * 1000

def test_nothing_optional_is_imported_before_it_is_needed():
    late = 'torchvision', 'efficientnet_lite_pytorch', 'kornia', 'psutil'
    code = f"import sys, arsr.lab.metrics; print([m for m in {late} if m in sys.modules])"
    assert subprocess.run([sys.executable, '-c', code], capture_output=True, text=True).stdout.strip() == '[]'
