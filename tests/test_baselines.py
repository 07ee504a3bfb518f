import json, math
import numpy as np, pytest, torch, torch.nn.functional as F
from dataclasses import replace
from functools import partial
from hypothesis import given, strategies as st
from PIL import Image
from safetensors.torch import load_file
from torch.testing import assert_close
import arsr.lab.baselines, arsr.train
from arsr.lab.baselines import (
    BASELINES, IDMConfig, Implicit, ImplicitDiffusion, Lanczos, LIIFConfig, LIIFRegression, LowCrops,
    PixelSampler, SampledField, WindowPairs, common_noise, interpolated, level_sizes, load_baseline, load_baselines,
    perceptual_regression_loss, pixel_loss, regression_loss, save_baseline, train_baseline, window_axis)
from arsr.coords import make_cell, make_coord, pixel_centres, resize, to_image, to_model
from arsr.data import Renders, downsample
from arsr.diffusion import sample_dpmpp_2m
from arsr.field import FirstStage, ImageField, sample_bicubic
from arsr.beyond.refining import GRID_WEIGHT, grid_artifact_loss
from arsr.lab.cards import write_card
from arsr.lab.metrics import efflite, psnr
from arsr.lab.recipes import NANO, NANO_UPSCALER
from arsr.train import Settings
from arsr.unet import Denoiser
from conftest import crops

SMALL_LIIF = LIIFConfig(ch=8, blocks=2, hidden=(16, 16))
SMALL_IDM = IDMConfig(ch=8, mult=(1, 2, 2), lr_ch=8, lr_blocks=2, hidden=8)

@pytest.fixture(autouse=True)
def plain(monkeypatch):
    hardware = dict(mixed_precision='no', layout=torch.contiguous_format, workers=0)
    monkeypatch.setattr(arsr.train, 'hardware', lambda: hardware)

def awake(net, by=.1):
    "Wake the layers that start at zero, so that every input matters."
    torch.manual_seed(3)
    for p in net.parameters(): p.data += by * torch.randn_like(p)
    return net.eval()

@pytest.fixture
def liif(): return awake(LIIFRegression(SMALL_LIIF), .02)

@pytest.fixture
def idm(): return awake(ImplicitDiffusion(SMALL_IDM))

@pytest.fixture
def fields(liif, idm):
    "One field of every kind for the same two LR inputs."
    lr = torch.rand(2, 3, 6, 9)
    feat = liif.features(to_model(lr)).detach()
    sampled = SampledField(to_model(lr), PixelSampler(idm, range(4, 6), 2, sample_dpmpp_2m), (6, 9))
    return [interpolated(lr), interpolated(lr, Lanczos()), ImageField(feat, liif.liif, (6, 9)), sampled]

# one interface

def test_every_prediction_renders_like_a_field(fields):
    for field in fields:
        assert isinstance(field, ImageField) and len(field) == 2 and field.size == (6, 9)
        for query, size in (({}, (6, 9)), (dict(scale=3.7), (22, 33)), (dict(size=30), (20, 30)),
                            (dict(size=(7, 5)), (7, 5)), (dict(size=12, window=(.1, .2, .5, .9)), (5, 12))):
            out = field.render(**query)
            assert out.shape == (2, 3, *size) == (2, 3, *field.output_size(**query))
            assert out.dtype == torch.float32 and not out.requires_grad and out.min() >= 0 and out.max() <= 1

def test_one_of_a_batch(fields):
    for field in fields:
        both = field.render(scale=2)
        for i in (0, 1, -1): assert_close(field[i].render(scale=2), both[i:i + 1 or None], atol=1e-4, rtol=0)
        assert len(field[:1]) == 1 and len(field) == 2
        with pytest.raises(IndexError, match='holds 2 images'): field[2]
        assert field[1].to_pil(size=(7, 5)).size == (5, 7)

def test_names_say_which_kind(fields):
    assert [type(f.renderer).__name__ for f in fields] == ['Bicubic', 'Lanczos', 'LIIF', 'PixelSampler']
    assert [repr(f).split('(')[0] for f in fields] == ['ImageField'] * 3 + ['SampledField']

def test_pictures_are_saved(fields, tmp_path):
    for k, field in enumerate(fields): assert Image.open(field.save(tmp_path/f'{k}.png', scale=1.5)).size == (14, 9)

@pytest.mark.parametrize('query, words', [
    (dict(size=0), 'size must be'), (dict(scale=-1), 'above zero'), (dict(size=4, scale=2), 'not both'),
    (dict(window=(0, 0, 2, 1)), 'window must be')])
def test_wrong_queries_refused(fields, refuses, query, words):
    for field in fields:
        with refuses(words): field.render(**query)

def test_too_large_refused(fields, refuses, monkeypatch):
    monkeypatch.setattr(ImageField, 'max_pixels', 1000)
    monkeypatch.setattr(PixelSampler, 'max_pixels', 1000)
    for field in fields:
        with refuses('over the limit of 1,000 pixels', 'max_pixels'): field.render(size=40)
    for field in fields[:3]: field.render(size=20, window=(.4, .4, .6, .6))
    with refuses('100 wide and 65 high', 'over the limit of 1,000 pixels'):
        fields[3].render(size=20, window=(.4, .4, .6, .6))
    PixelSampler.max_pixels = None
    fields[3].render(size=20, window=(.4, .4, .6, .6))

# no network

@given(crops(20), st.integers(1, 3))
def test_a_lanczos_window_is_a_cut_of_the_whole(crop, k):
    (h, w), (t, l, b, r), window = crop
    x = torch.rand(1, 2, h, w)
    part = Lanczos().render(x, (k * (b - t), k * (r - l)), window)
    assert_close(part, Lanczos().render(x, (k * h, k * w))[..., k*t:k*b, k*l:k*r], atol=2e-4, rtol=0)

def test_lanczos_is_the_windowed_sinc():
    row = torch.rand(1, 1, 1, 16)
    at = (torch.arange(64) + .5) / 4 - .5
    def kernel(d): return torch.where(d.abs() < 3, torch.sinc(d) * torch.sinc(d / 3), torch.zeros(()))
    weights = kernel(at[:, None] - torch.arange(16))
    assert_close(Lanczos().render(row, (1, 64))[0, 0, 0], (weights / weights.sum(1, keepdim=True)) @ row[0, 0, 0],
                 atol=1e-5, rtol=0)

def test_bicubic_is_that_of_the_fields():
    x = torch.rand(2, 3, 6, 9)
    expected = sample_bicubic(x, (13, 20), (.1, .2, .6, .7)).clamp(0, 1)
    assert_close(interpolated(x).render(size=(13, 20), window=(.1, .2, .6, .7)), expected)

def test_both_give_a_smooth_picture_back():
    y, x = torch.meshgrid(pixel_centres(96), pixel_centres(128), indexing='ij')
    truth = torch.stack([.5 + .3 * (3 * x + y).sin(), .5 + .3 * (2 * y).cos(), .4 + .2 * x * y])[None]
    for renderer in (None, Lanczos()):
        assert psnr(interpolated(downsample(truth, 4), renderer).render(scale=4), truth, shave=8) > 40

# regression

def test_the_field_is_the_trained_function(liif):
    lr, size = torch.rand(3, 7, 10), (17, 31)
    with torch.no_grad(): asked = liif(to_model(lr)[None], make_coord(size)[None], make_cell(size)[None])
    assert_close(liif.upscale(lr).render(size=size), to_image(asked.unflatten(1, size).permute(0, 3, 1, 2)), atol=1e-5,
                 rtol=0)

def test_a_cell_sees_its_eight_neighbours(liif):
    feat = torch.randn(1, 8, 5, 6)
    liif.encoder = torch.nn.Identity()
    unfolded = liif.features(feat).unflatten(1, (8, 9))
    padded = F.pad(feat, (1, 1, 1, 1))
    for k in range(9): assert_close(unfolded[:, :, k], padded[..., k // 3:k // 3 + 5, k % 3:k % 3 + 6])

def test_the_encoder_keeps_size_and_contrast():
    net = arsr.lab.baselines.EDSR(8, 3).eval()
    for h, w in ((1, 1), (5, 9)): assert net(torch.randn(2, 3, h, w)).shape == (2, 8, h, w)
    assert not any(isinstance(m, (torch.nn.modules.batchnorm._BatchNorm, torch.nn.GroupNorm)) for m in net.modules())

def test_regression_loss_is_the_mean_absolute_error(liif):
    batch = dict(lr=torch.rand(2, 3, 6, 6) * 2 - 1, coord=torch.rand(2, 9, 2) * 2 - 1, cell=torch.full((2, 9, 2), .05),
                 rgb=torch.randn(2, 9, 3))
    assert_close(regression_loss(liif, batch),
                 (liif(batch['lr'], batch['coord'], batch['cell']) - batch['rgb']).abs().mean())

def test_perceptual_regression_adds_a_distance_of_windows(liif):
    batch = dict(lr=torch.rand(2, 3, 6, 6) * 2 - 1, hr=torch.rand(2, 3, 32, 32) * 2 - 1,
                 window=torch.tensor([[0., 0, .5, .5], [.25, .125, .75, .625]]))
    coord, cell = (torch.stack([f(64) for _ in range(2)]).unflatten(1, (64, 64)) for f in (make_coord, make_cell))
    cuts = [(slice(0, 32), slice(0, 32)), (slice(16, 48), slice(8, 40))]
    queries = [torch.stack([x[k][cut].flatten(0, 1) for k, cut in enumerate(cuts)]) for x in (coord, cell)]
    rgb = batch['hr'].flatten(2).transpose(1, 2)
    error = liif(batch['lr'], *queries) - rgb
    patches = [to_image(x.transpose(1, 2).unflatten(2, (32, 32))) for x in (error + rgb, rgb)]
    perceptual = efflite().perceptual_distance(*patches) + GRID_WEIGHT * grid_artifact_loss(error, queries[0], (6, 6))
    assert_close(perceptual_regression_loss(liif, batch), error.abs().mean() + .04 * perceptual.mean())
    assert perceptual.mean() > 0

# implicit functions

def test_a_point_reads_the_nearest_feature_and_its_offset():
    torch.manual_seed(0)
    layer, feat = Implicit(4, 3, 8).requires_grad_(False), torch.randn(2, 4, 3, 5)
    rows, cols = torch.rand(2, 7) * 2 - 1, torch.rand(2, 6) * 2 - 1
    out = layer(feat, rows, cols)
    assert out.shape == (2, 3, 7, 6)
    for n in range(2):
        for a, y in enumerate(rows[n].tolist()):
            for b, x in enumerate(cols[n].tolist()):
                i, j = min(int((y + 1) / 2 * 3), 2), min(int((x + 1) / 2 * 5), 4)
                offset = torch.tensor([(y - (2 * i + 1) / 3 + 1) * 3, (x - (2 * j + 1) / 5 + 1) * 5])
                expected = layer.out(F.silu(layer.near(feat[n, :, i, j]) + layer.offset(offset)))
                assert_close(out[n, :, a, b], expected, atol=1e-4, rtol=1e-4)

@given(crops(40))
def test_the_axis_of_a_window_is_that_of_the_coordinates(crop):
    (h, w), _, (t, l, b, r) = crop
    lo, hi = torch.tensor([0., t]), torch.tensor([1., b])
    assert_close(window_axis(h, lo, hi), torch.stack([pixel_centres(h), pixel_centres(h, t, b)]), atol=1e-6, rtol=0)

def test_levels_are_those_of_the_convolutions():
    conv, x = torch.nn.Conv2d(1, 1, 3, stride=2, padding=1), torch.zeros(1, 1, 37, 50)
    sizes = level_sizes((37, 50), 5)
    for size in sizes:
        assert x.shape[-2:] == size
        x = conv(x)

# image-space diffusion

@given(st.integers(1, 25), st.integers(1, 25), st.integers(1, 9), st.integers(1, 9))
def test_any_output_size_from_any_input_size(h, w, lr_h, lr_w):
    net = ImplicitDiffusion(SMALL_IDM).eval()
    with torch.no_grad():
        out = net(torch.randn(2, 3, h, w), torch.tensor([3, 900]), net.condition(torch.randn(2, 3, lr_h, lr_w), (h, w)))
    assert out.shape == (2, 3, h, w) and out.isfinite().all()

def test_100_by_140_from_32_by_32(idm):
    assert idm.upscale(torch.rand(3, 32, 32), seed=0, steps=1).render(size=(100, 140)).shape == (1, 3, 100, 140)

def test_v_is_zero_before_training():
    net, z, t = ImplicitDiffusion(SMALL_IDM).eval(), torch.randn(1, 3, 12, 12), torch.tensor([400])
    with torch.no_grad():
        assert_close(net(z, t, net.condition(torch.randn(1, 3, 4, 4), (12, 12))), net.alphas_cumprod[400].sqrt() * z)

@torch.no_grad()
def test_every_condition_matters(idm):
    lr, z, t = torch.randn(1, 3, 6, 6), torch.randn(1, 3, 24, 24), torch.tensor([500])
    def predict(lr=lr, z=z, t=t, window=None): return idm(z, t, idm.condition(lr, (24, 24), window))
    window = torch.tensor([[.1, .2, .5, .6]])
    for other in (predict(lr=lr.flip(-1)), predict(t=t + 300), predict(z=z + .1), predict(window=window)):
        assert (predict() - other).abs().max() > 1e-3

@torch.no_grad()
def test_the_scale_matters_by_itself(idm):
    z, reads = torch.randn(1, 3, 16, 16), idm.condition(torch.randn(1, 3, 6, 6), (16, 16))[0]
    def predict(*scale): return idm.unet(z, torch.tensor([500]), reads, torch.tensor([scale]))
    for scale in ((4., 1.), (1., 4.)): assert (predict(1., 1.) - predict(*scale)).abs().max() > 1e-4

@torch.no_grad()
def test_scales_are_output_pixels_per_input_pixel(idm):
    lr = torch.randn(2, 3, 8, 16)
    assert_close(idm.condition(lr, (32, 32))[1], torch.tensor([[2., 1.]]).expand(2, 2))
    window = torch.tensor([[0, 0, .5, .25], [.5, 0, 1, 1]])
    assert_close(idm.condition(lr, (32, 32), window)[1], torch.tensor([[3., 3.], [3., 1.]]))

@torch.no_grad()
def test_a_window_is_conditioned_on_what_the_whole_is_there(idm):
    lr, window = torch.randn(1, 3, 8, 8), torch.tensor([[.25, .5, .75, 1.]])
    whole, part = idm.condition(lr, (64, 32))[0], idm.condition(lr, (32, 16), window)[0]
    for k, (a, b) in enumerate(zip(whole, part)):
        assert_close(b, a[..., 16 >> k:48 >> k, 16 >> k:32 >> k], atol=1e-5, rtol=1e-4)

@torch.no_grad()
def test_pictures_of_a_batch_do_not_mix(idm):
    lr, z, t = torch.randn(3, 3, 5, 6), torch.randn(3, 3, 20, 18), torch.tensor([3, 500, 900])
    whole = idm(z, t, idm.condition(lr, (20, 18)))
    for i in range(3):
        assert_close(idm(z[i:i+1], t[i:i+1], idm.condition(lr[i:i+1], (20, 18))), whole[i:i+1], atol=1e-4, rtol=1e-3)

def test_a_perfect_prediction_has_no_loss(idm):
    batch = dict(lr=torch.randn(2, 3, 8, 8), hr=torch.randn(2, 3, 16, 16),
                 window=torch.tensor([[0., 0, .5, .5], [.2, .2, .6, .6]]))
    torch.manual_seed(5)
    t, eps = torch.randint(1000, (2,)), torch.randn(2, 3, 16, 16)
    a = idm.alphas_cumprod[t][:, None, None, None]
    def perfect(z_t, *_): return a.sqrt() * eps - (1 - a).sqrt() * batch['hr']
    torch.manual_seed(5)
    usual = pixel_loss(idm, batch)
    idm.unet.forward = perfect
    torch.manual_seed(5)
    assert_close(pixel_loss(idm, batch), torch.zeros(()), atol=1e-6, rtol=0)
    assert usual > .1

@pytest.mark.parametrize('name', ['liif', 'idm'])
def test_gradients_reach_everything(name, liif, idm):
    if name == 'liif':
        loss = regression_loss(liif, dict(lr=torch.randn(1, 3, 6, 6), coord=torch.rand(1, 20, 2) * 2 - 1,
                                           cell=torch.full((1, 20, 2), .05), rgb=torch.randn(1, 20, 3)))
    else:
        loss = pixel_loss(idm, dict(lr=torch.randn(2, 3, 6, 6), hr=torch.randn(2, 3, 16, 16),
                                     window=torch.tensor([[0., 0, .5, .25], [.5, .1, .9, .5]])))
    loss.backward()
    for k, p in (liif if name == 'liif' else idm).named_parameters():
        assert p.grad is not None and p.grad.abs().max() > 0, k

def test_about_as_large_as_ours():
    def count(*nets): return sum(p.numel() for net in nets for p in net.parameters())
    with torch.device('meta'):
        ours = count(FirstStage(NANO), Denoiser(NANO_UPSCALER))
        theirs = [count(kind.net(kind.config)) for kind in BASELINES.values()]
    assert len(theirs) == 3
    for n in theirs: assert abs(n / ours - 1) < .15

# seeds

def test_a_seed_is_a_sample(idm):
    image = torch.rand(3, 6, 8)
    def sample(**kwargs): return idm.upscale(image, steps=2, **kwargs).render(scale=2)
    three = sample(seed=7, n=3)
    assert_close(three[1:2], sample(seed=8), atol=1e-4, rtol=0)
    assert torch.equal(sample(seed=7), sample(seed=7)) and (three[0] - three[1]).abs().max() > .01
    assert (sample() - sample()).abs().max() > .01  # no seed: any

@pytest.mark.parametrize('sampler', ['dpmpp_2m', 'ddim'])
def test_the_samplers_of_the_pipeline_drive_it(idm, sampler):
    assert idm.upscale(torch.rand(3, 6, 8), seed=0, steps=3, sampler=sampler).render().isfinite().all()

def test_wrong_samplers_and_numbers_refused(idm, refuses):
    with refuses("unknown sampler 'euler'"): idm.upscale(torch.rand(3, 6, 8), sampler='euler')
    with refuses('n must be at least 1, not 0'): idm.upscale(torch.rand(3, 6, 8), n=0)
    with refuses('steps must be between 1 and 1000'): idm.upscale(torch.rand(3, 6, 8), steps=0).render()
    with refuses('no such image file'): idm.upscale('nothing.png')

def test_a_window_is_cut_out_of_the_whole(idm):
    field = idm.upscale(torch.rand(3, 6, 8), seed=1, steps=2)
    assert_close(field.render(size=(6, 8), window=(.5, .25, .75, .5)), field.render(size=(24, 32))[:, :, 12:18, 8:16])

def test_rendering_runs_the_sampler_at_the_size_asked_for(idm, monkeypatch):
    field, sizes, real = idm.upscale(torch.rand(3, 6, 8), seed=1, steps=3), [], idm.unet.forward
    monkeypatch.setattr(idm.unet, 'forward', lambda z, *args: (sizes.append(tuple(z.shape[-2:])), real(z, *args))[1])
    for size in ((12, 16), (31, 9)): field.render(size=size)
    assert sizes == [(12, 16)] * 3 + [(31, 9)] * 3

@pytest.mark.parametrize('size', [(48, 64), (47, 63), (30, 96), (200, 7), (1, 1), (2, 3)])
def test_noise_is_white_at_every_size(size):
    z = torch.stack([common_noise(seed, size, (48, 48)) for seed in range(600)]).flatten(1)
    z = z[:, torch.randperm(z.shape[1])[:40]]
    cov = z.T @ z / len(z)
    assert (cov - torch.eye(len(cov))).abs().max() < .25  # six standard errors
    assert cov.diagonal().mean() == pytest.approx(1, abs=.08) and abs(z.mean()) < .08

def test_noise_agrees_between_sizes_and_not_between_seeds():
    def low(seed, h, w): # what the noise says about frequencies up to 10, sampled at the centres of 16 x 16
        z = common_noise(seed, (h, w), (40, 40))
        grid = pixel_centres(h)[:, None].expand(h, w), pixel_centres(w).expand(h, w)
        waves = [(a, b) for a in range(-10, 11) for b in range(1, 11)]
        sums = [(z[0] * torch.exp(1j * math.pi * (a * grid[0] + b * grid[1]))).sum() for a, b in waves]
        return torch.stack(sums) / math.sqrt(h * w)
    for size in ((40, 40), (64, 64), (33, 90), (24, 25)): assert_close(low(0, *size), low(0, 40, 40), atol=1e-3, rtol=0)
    assert (low(0, 40, 40) - low(1, 40, 40)).abs().mean() > .5

def test_noise_above_the_common_frequencies_is_new():
    a, b = common_noise(0, (64, 64), (8, 8)), common_noise(0, (66, 66), (8, 8))
    assert abs((a * resize(b, (64, 64))).mean() / resize(b, (64, 64)).std()) < .2

# data

@pytest.fixture(scope='module')
def renders(few): return Renders(few, base=64, sizes=(40, 90))

@pytest.mark.parametrize('kind, kwargs', [(LowCrops, dict(crop=32, queries=50)), (WindowPairs, dict(crop=32))])
def test_samples_are_the_same_on_every_machine_and_differ(renders, kind, kwargs):
    a, b, other = kind(renders, **kwargs), kind(renders, **kwargs), kind(renders, seed=1, **kwargs)
    for k in (0, 1, 10**9):
        for name in a[k]: assert torch.equal(a[k][name], b[k][name])
    assert not torch.equal(a[0]['lr'], a[1]['lr'])
    assert any(not torch.equal(a[k]['lr'], other[k]['lr']) for k in range(3))
    batch = next(iter(torch.utils.data.DataLoader(a, 8, sampler=range(8))))  # whatever their sizes, samples stack
    assert batch['lr'].shape == ((8, 3, 8, 8) if kind is LowCrops else (8, 3, 16, 16))
    assert batch['lr'].min() >= -1 and batch['lr'].max() <= 1

def test_points_ask_about_the_small_picture_they_come_with(renders):
    data, error, wrong = LowCrops(renders, crop=48, queries=400, factor=2), [], []
    for k in range(24):
        item = data[k]
        at, how = item['coord'].flip(-1)[None, None], dict(padding_mode='border', align_corners=False)
        for lr, errors in ((item['lr'], error), (item['lr'].flip(-1), wrong)):
            errors.append((F.grid_sample(lr[None], at, **how)[0, :, 0].T - item['rgb']).abs().mean())
    assert all(e < .2 for e in error) and sum(wrong) > 1.5 * sum(error)

def test_windows_lie_where_they_say(renders):
    data, shown, wrong = WindowPairs(renders, factor=2, crop=32), [], []
    for k in range(24):
        item = data[k]
        t, l, b, r = item['window'].tolist()
        assert 0 <= t < b <= 1 + 1e-6 and 0 <= l < r <= 1 + 1e-6
        window = (t, l, min(b, 1), min(r, 1))
        for lr, errors in ((item['lr'], shown), (item['lr'].flip(-1), wrong)):
            errors.append((sample_bicubic(lr[None], 32, window)[0] - item['hr']).abs().mean().item())
    assert max(shown) < .25 and sum(wrong) > 1.5 * sum(shown)

def test_both_see_mirror_images(renders):
    for data in (LowCrops(renders, crop=64, queries=5), WindowPairs(renders, crop=40)):
        seen = {tuple(data[k]['lr'].flatten()[::7].tolist()) for k in range(60)}
        mirrored = {tuple(data[k]['lr'].flip(-1).flatten()[::7].tolist()) for k in range(60)}
        assert len(seen & mirrored) > 2

# training

@pytest.fixture
def small(monkeypatch):
    "Small baselines, quick to train."
    for name, config in (('liif', SMALL_LIIF), ('idm', SMALL_IDM)):
        settings = Settings(lr=2e-3, batch=4, warmup=2)
        monkeypatch.setitem(BASELINES, name, replace(BASELINES[name], config=config, settings=settings))

@pytest.fixture(scope='module')
def pictures(tmp_path_factory, drawings):
    folder = tmp_path_factory.mktemp('pictures')
    for k in range(8):
        Image.fromarray((drawings.view(11 * k, 200).permute(1, 2, 0) * 255).byte().numpy()).save(folder/f'{k}.png')
    return folder

@pytest.mark.parametrize('name', ['liif', 'idm'])
def test_training_resumes_and_leaves_a_baseline(small, pictures, tmp_path, name):
    whole = train_baseline(name, tmp_path/'whole', str(pictures), steps=4)
    real, batches = BASELINES[name].loss, iter(range(2))
    def stop_at_two(net, batch):
        if next(batches, None) is None: raise KeyboardInterrupt
        return real(net, batch)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(BASELINES, name, replace(BASELINES[name], loss=stop_at_two))
        assert train_baseline(name, tmp_path/'parts', str(pictures), steps=4)['step'] == 2
    assert train_baseline(name, tmp_path/'parts', str(pictures), steps=4)['step'] == whole['step'] == 4
    a, b = (load_file(tmp_path/run/name/'checkpoint.safetensors') for run in ('whole', 'parts'))
    assert a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)
    net, image = load_baseline(tmp_path/'whole', device='cpu'), torch.rand(3, 8, 10)
    assert type(net) is BASELINES[name].net and net.cfg == BASELINES[name].config and not net.training
    assert net.upscale(image).render(scale=2.5).shape == (1, 3, 20, 25)
    log = json.loads((tmp_path/'whole'/'training.json').read_text())
    assert log[name]['steps'] == 4 and log[name]['batch'] == 4
    left = {name, 'config.json', 'model.safetensors', 'renders', 'training.json'}
    assert {p.name.split('-')[0] for p in (tmp_path/'whole').iterdir()} == left

@pytest.mark.parametrize('name', ['liif', 'idm'])
def test_both_learn(renders, name, tmp_path, small):
    kind, losses = BASELINES[name], []
    def noted(net, batch):
        loss = kind.loss(net, batch)
        losses.append(loss.item())
        return loss
    torch.manual_seed(0)
    data = LowCrops(renders, crop=32, queries=64) if name == 'liif' else WindowPairs(renders, crop=32)
    arsr.train.fit(kind.net(kind.config), noted, data, tmp_path, Settings(lr=4e-3, batch=8, warmup=5), steps=60)
    assert np.mean(losses[-15:]) < .8 * np.mean(losses[:8])

@pytest.mark.parametrize('name', ['liif', 'idm'])
def test_weights_come_back(liif, idm, name, tmp_path):
    net = dict(liif=liif, idm=idm)[name]
    save_baseline(name, net, tmp_path, factor=4)
    again = load_baseline(tmp_path, device='cpu')
    for k, v in net.state_dict().items(): assert_close(again.state_dict()[k], v, atol=1e-3, rtol=1e-3)
    assert not any(p.requires_grad for p in again.parameters())

@pytest.mark.parametrize('name, budget, words', [
    ('gan', {}, "unknown baseline 'gan'; choose one of liif, liif-perceptual, idm"),
    ('liif', dict(minutes=0), 'minutes must be above zero'),
    ('liif', dict(plan=-1), 'plan must be above zero'),
    ('idm', dict(data='no-such-folder'), 'no such folder or zip archive: no-such-folder')])
def test_wrong_trainings_refused(small, tmp_path, refuses, name, budget, words):
    with refuses(words): train_baseline(name, tmp_path/'new', **budget)
    assert not (tmp_path/'new').exists()

def test_the_folder_of_another_model_refused(small, pictures, idm, tmp_path, refuses):
    save_baseline('idm', idm, tmp_path)
    with refuses('holds another model', 'another folder'): train_baseline('liif', tmp_path, str(pictures), steps=1)
    (tmp_path/'config.json').write_text('{"meta": {}, "first": {}}')  # one of ours
    with refuses('holds another model'): train_baseline('liif', tmp_path, str(pictures), steps=1)
    (tmp_path/'config.json').write_text('{')
    with refuses('config.json is not valid JSON'): train_baseline('liif', tmp_path, str(pictures), steps=1)

def damaged(config, change):
    config = json.loads(config)
    change(config)
    return json.dumps(config)

@pytest.mark.parametrize('change, words', [
    (lambda c: c.pop('baseline'), "unknown baseline 'None'"),
    (lambda c: c.update(baseline='gan'), "unknown baseline 'gan'"),
    (lambda c: c['config'].update(depth=3), 'not the configuration of a model'),
    (lambda c: c.update(config=7), 'not the configuration of a model'),
    (lambda c: c['config'].update(ch=16), 'does not fit its config.json'),
])
def test_wrong_configurations_refused(idm, tmp_path, refuses, change, words):
    save_baseline('idm', idm, tmp_path)
    (tmp_path/'config.json').write_text(damaged((tmp_path/'config.json').read_text(), change))
    with refuses(words): load_baseline(tmp_path)

def test_missing_and_damaged_folders_refused(idm, tmp_path, refuses):
    with refuses('holds no baseline', 'arsr baseline'): load_baseline(tmp_path)
    save_baseline('idm', idm, tmp_path)
    (tmp_path/'model.safetensors').write_bytes((tmp_path/'model.safetensors').read_bytes()[:500])
    with refuses('not a complete safetensors file'): load_baseline(tmp_path)
    (tmp_path/'model.safetensors').unlink()
    with refuses('missing weights file'): load_baseline(tmp_path)
    (tmp_path/'config.json').write_text('[1')
    with refuses('not valid JSON'): load_baseline(tmp_path)

def test_all_baselines_of_a_folder(idm, tmp_path, refuses):
    for read in (partial(load_baselines, tmp_path), partial(write_card, 'photo', baselines=tmp_path)):
        with refuses('no trained baseline in', 'arsr baseline'): read()
    (tmp_path/'idm-photo').mkdir()
    save_baseline('idm', idm, tmp_path/'idm-photo')
    assert [*load_baselines(tmp_path, 'cpu')] == ['idm-photo'] and load_baselines(None) == {}
