"How pictures are degraded, and the blind restorer in front of the upscaler."
import numpy as np, pytest, torch
from hypothesis import given, strategies as st
from kornia.filters import gaussian_blur2d
from PIL import Image
from torch.testing import assert_close
from conftest import descend
from arsr.apps.cli import main
from arsr.data import Renders, downsample, load_image
from arsr.lab.metrics import psnr
from arsr.pipeline import ARSR
from arsr.lab.recipes import PRESETS, Preset
from arsr.lab.stages import train_stage
from arsr.beyond.restoring import (
    DegradedPairs, Restorer, RestorerConfig, centre_crop, degrade, never_degraded, random_degradation, restoring_loss,
    through_jpeg)
from arsr.train import Settings
from test_refining import CONFIG, UP, write_pictures

def smooth(h=24, w=40):
    "A picture with something in it, of colours away from black and white."
    y, x = torch.meshgrid(torch.linspace(0, 3, h), torch.linspace(0, 5, w), indexing='ij')
    return .5 + .3 * torch.stack([(x + y).sin(), (2 * x - y).cos(), (x * y).sin()])

def noisy(pictures, noise):
    return torch.stack([degrade(x, noise=noise, rng=np.random.default_rng(k)) for k, x in enumerate(pictures)])

# degradation

def test_no_degradation_is_no_change(): assert torch.equal(degrade(smooth()), smooth())

@pytest.mark.parametrize('how', [
    dict(blur=.7), dict(noise=.03), dict(quality=40), dict(blur=1., noise=.05, quality=60)])
def test_a_degraded_picture_is_of_the_same_kind(how):
    x = degrade(smooth(), **how)
    assert x.shape == (3, 24, 40) and x.dtype == torch.float32 and 0 <= x.min() and x.max() <= 1
    assert 15 < psnr(x, smooth()) < 50

def test_noise_is_as_strong_as_asked_for():
    assert_close(degrade(torch.full((3, 100, 100), .5), noise=.04).std(), torch.tensor(.04), atol=1e-3, rtol=0)

def test_a_blur_keeps_the_mean_and_takes_the_edges():
    x = smooth()
    edges = [degrade(x, blur=blur).diff(dim=-1).abs().mean() for blur in (.5, 1., 2., 3.)]
    assert edges == sorted(edges, reverse=True)
    assert_close(degrade(x, blur=1.).mean(), x.mean(), atol=5e-3, rtol=0)

def test_jpeg_of_better_quality_is_better():
    worse, better = (psnr(through_jpeg(smooth(), q), smooth()) for q in (10, 95))
    assert better > worse + 5

def test_all_degrees_of_degradation_occur_and_none():
    how = [random_degradation(np.random.default_rng(k)) for k in range(400)]
    assert .1 < np.mean([not h for h in how]) < .3
    how = [h for h in how if h]
    assert .5 < np.mean([h['blur'] == 0 for h in how]) < .7 and .4 < np.mean([h['noise'] == 0 for h in how]) < .6
    assert .1 < np.mean([h['quality'] is None for h in how]) < .3
    assert max(h['blur'] for h in how) <= 1.2 and max(h['noise'] for h in how) <= .06
    assert {h['quality'] // 10 for h in how if h['quality']} == set(range(2, 10))

def test_patches_show_the_same_before_and_after(few):
    renders = Renders(few, 32, (48, 64))
    data = DegradedPairs(renders, side=32)
    for k in range(8):
        item, again = data[k], data[k]
        assert item['degraded'].shape == item['clean'].shape == (3, 32, 32)
        assert all(torch.equal(item[n], again[n]) for n in item)
        assert psnr(item['degraded'], item['clean']) > psnr(item['degraded'], item['clean'].flip(-1)) - .1
    assert any(not torch.equal(item['degraded'], item['clean']) for item in map(data.__getitem__, range(8)))

# the network

@given(st.integers(1, 21), st.integers(1, 21))
def test_a_fresh_restorer_changes_nothing_at_any_size(h, w):
    x = torch.rand(2, 3, h, w)
    assert torch.equal(Restorer(RestorerConfig(ch=4, depth=1))(x), x)

def test_it_does_the_same_everywhere():
    "The prediction for a pixel does not depend on where in the picture it is, apart from its place in the 2 x 2."
    torch.manual_seed(0)
    net, x = Restorer(RestorerConfig(ch=4, depth=1)), torch.rand(1, 3, 40, 40)
    torch.nn.init.normal_(net.layers[-2].weight, std=.1)
    assert_close(net(x)[..., 14:26, 14:26], net(x[..., 4:36, 4:36])[..., 10:22, 10:22])
    assert (net(x) - x).abs().max() > .01

def test_it_learns():
    torch.manual_seed(0)
    net, clean = Restorer(RestorerConfig(ch=16, depth=2)), torch.stack([smooth(32, 32).roll(k, 0) for k in range(3)])
    batch = dict(clean=clean, degraded=noisy(clean, .05))
    before, opt = restoring_loss(net, batch).item(), torch.optim.Adam(net.parameters(), 3e-3)
    descend(opt, lambda: restoring_loss(net, batch), 40)
    assert restoring_loss(net, batch) < .7 * before

def test_it_learns_which_pictures_need_it():
    "Of a restorer that only blurs: what is noisy needs it, what is clean does not."
    torch.manual_seed(0)
    net = Restorer(RestorerConfig(ch=16, depth=1))
    clean = torch.stack([smooth(32, 32).roll(k, 0).repeat(1, 1, 2)[..., ::2] for k in range(4)])
    net.forward = lambda x: gaussian_blur2d(x, (5, 5), (1., 1.))
    batch = dict(clean=clean, degraded=torch.cat([clean[:2], noisy(clean[2:], .08)]))
    opt = torch.optim.Adam([*net.strength_features.parameters(), *net.strength_head.parameters()], 1e-2)
    descend(opt, lambda: restoring_loss(net, batch), 60)
    strength = net.strength(batch['degraded'], net(batch['degraded']))
    assert strength.shape == (4,) and strength[:2].max() < .3 < .7 < strength[2:].min()

def test_the_strength_moves_nothing_else():
    "It is learned beside the restoring: its gradient does not reach the layers that restore."
    torch.manual_seed(0)
    net, x = Restorer(RestorerConfig(ch=4, depth=1)), torch.rand(2, 3, 8, 8)
    torch.nn.init.normal_(net.layers[-2].weight, std=.1)
    def grads(loss): return torch.autograd.grad(loss, [*net.layers.parameters()])
    batch = dict(degraded=x, clean=x.flip(-1))
    alone = grads((net(x) - batch['clean']).abs().mean())
    for a, b in zip(grads(restoring_loss(net, batch)), alone): assert_close(a, b)

@given(st.integers(1, 21), st.integers(1, 21))
def test_the_strength_is_a_share_at_any_size(h, w):
    x = torch.rand(2, 3, h, w)
    strength = Restorer(RestorerConfig(ch=4, depth=1)).predict_strength(x)
    assert strength.shape == (2,) and strength.max() < 1
    assert strength.min() > 0 if max(h, w) > 2 else strength.max() == 0  # which shows no wear

# a guard

def wild():
    "A restorer of random weights, which changes everything by a lot and is sure of it."
    torch.manual_seed(0)
    net = Restorer(RestorerConfig(ch=8, depth=1))
    torch.nn.init.normal_(net.layers[-2].weight, std=1)
    torch.nn.init.constant_(net.strength_head.bias, 20)
    return net

@given(st.integers(1, 21), st.integers(1, 21))
def test_no_pixel_changes_by_more_than_16_levels(h, w):
    x = torch.rand(2, 3, h, w)
    assert (wild().restore(x, 1) - x).abs().max() <= 16 / 255 + 1e-6 and (wild().restore(x) - x).abs().max() < .07

def test_grey_stays_grey():
    x = torch.rand(2, 1, 9, 12).expand(-1, 3, -1, -1)
    clean = wild().restore(x, 1)
    assert (clean.amax(1) - clean.amin(1)).max() < 1e-6 and (clean - x).abs().max() > .01

def clean_graphics():
    "Flat colours, a gradient, a dither pattern, a checkerboard of single pixels, lines, a colour wheel."
    y, x = torch.meshgrid(torch.arange(48), torch.arange(64), indexing='ij')
    flat, check = torch.zeros(3, 48, 64), ((x + y) % 2).float().expand(3, -1, -1)
    flat[0, :20], flat[2, 20:, :30] = 1, .8
    lines = 1 - ((x % 9 == 0) | (x == y)).float().expand(3, -1, -1)
    dither = torch.where(x < 32, check, flat)
    angle = torch.atan2(y - 24., x - 32.)
    wheel = (torch.stack([(angle + k * 2.0944).cos() for k in range(3)]) * .5 + .5).mul(255).round() / 255
    return dict(flat=flat, gradient=(x / 63.).expand(3, -1, -1), check=check, lines=lines, dither=dither, wheel=wheel)

@pytest.mark.parametrize('name', [*clean_graphics()])
def test_clean_graphics_are_left_alone(photo, name):
    x = clean_graphics()[name][None]
    assert photo.restorer.predict_strength(x).item() < .05

def test_worn_photographs_are_still_restored(photo):
    from arsr.lab.cards import evaluation_photos
    clean = downsample(evaluation_photos()['coffee'], 4)
    for how in (dict(noise=.03), dict(quality=40), dict(noise=.05, quality=60)):
        x = degrade(clean, **how)[None]
        assert psnr(photo.restorer.restore(x)[0], clean) > psnr(x[0], clean) + .3

# in use

@pytest.fixture(scope='module')
def trained(tmp_path_factory, drawings):
    "A toy upscaler with a restorer."
    root = tmp_path_factory.mktemp('restored')
    write_pictures(root/'pictures', drawings, 4)
    quick = {k: Settings(batch=2, warmup=1) for k in ('first', 'latent', 'restore')}
    PRESETS['toy-web'] = Preset('upscaler', CONFIG, UP, base=32, sizes=(48, 64), crop=16, settings=quick)
    for stage in quick: train_stage('toy-web', stage, root/'run', data=str(root/'pictures'), steps=3)
    yield root/'run'
    del PRESETS['toy-web']

def test_it_is_a_part_like_any_other(trained, tmp_path):
    pipe = ARSR.from_pretrained(trained, 'cpu')
    assert {*pipe.parts} == {'first', 'upscaler', 'restorer'}
    again, lr = ARSR.from_pretrained(pipe.save_pretrained(tmp_path), 'cpu'), torch.rand(1, 3, 9, 14)
    assert torch.equal(again.restorer.restore(lr), pipe.restorer.restore(lr))
    assert not torch.equal(pipe.restorer.restore(lr, 1), lr)

def test_what_is_upscaled_is_the_restored_picture(trained):
    pipe, lr = ARSR.from_pretrained(trained, 'cpu'), torch.rand(3, 8, 12)
    for strength in (0, .5, 1):
        same = pipe.restorer.restore(lr[None], strength)[0] if strength else lr
        a, b = pipe.upscale(lr, seed=0, restore=strength), pipe.upscale(same, seed=0, restore=0)
        assert_close(a.render(scale=2), b.render(scale=2), atol=1e-5, rtol=0)

def test_half_of_it_is_half_of_the_change(trained):
    restorer, lr = ARSR.from_pretrained(trained, 'cpu').restorer, .3 + .4 * torch.rand(1, 3, 8, 12)
    assert_close(restorer.restore(lr, .5), (lr + restorer.restore(lr, 1)) / 2)

def test_a_large_picture_is_restored_in_tiles(trained):
    "They know nothing beyond their border, but count little there."
    restorer, lr = ARSR.from_pretrained(trained, 'cpu').restorer, torch.rand(1, 3, 20, 600)
    change = (restorer(lr) - lr).abs().max()
    assert_close(restorer.restore(lr, 1), restorer(lr).clamp(0, 1), atol=.2 * change.item(), rtol=0)

def test_the_strength_is_predicted_for_each_picture(trained):
    "By default."
    pipe = ARSR.from_pretrained(trained, 'cpu')
    lr, net = torch.stack([.3 + .4 * torch.rand(3, 8, 12), .5 + .05 * torch.rand(3, 8, 12)]), pipe.restorer
    torch.manual_seed(1)
    torch.nn.init.normal_(net.strength_head.weight, std=40)
    strength = net.strength(lr, net(lr))[:, None, None, None]
    assert (strength[0] - strength[1]).abs() > .01
    assert_close(net.restore(lr), lr + strength * (net(lr) - lr), atol=1e-2, rtol=0)
    assert_close(net.predict_strength(lr), strength[:, 0, 0, 0], atol=2e-2, rtol=0)  # bf16 rounds as processors do
    auto = pipe.upscale([*lr], seed=0).feat
    assert torch.equal(auto, pipe.upscale([*lr], seed=0, restore='auto').feat)
    assert_close(auto, pipe.upscale([*net.restore(lr)], seed=0, restore=0).feat)

@pytest.mark.parametrize('asked, words', [
    ([], None), (['--restore', '0.25'], ', restored by 25%'), (['--restore', '0'], '')])
def test_the_command_says_by_how_much(trained, tmp_path, capsys, asked, words):
    "And does what it says: by default the strength is that of `upscale`."
    small, large = tmp_path/'cat.png', tmp_path/'large.png'
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (8, 12, 3), dtype=np.uint8)).save(small)
    assert main(['upscale', str(small), '--weights', str(trained), '--device', 'cpu', '-o', str(large), *asked]) == 0
    pipe, x = ARSR.from_pretrained(trained, 'cpu'), load_image(small)
    if words is None: words = f', restored by {pipe.restorer.predict_strength(x[None]).item():.0%}'
    assert capsys.readouterr().out == f'{large} 48 wide, 32 high{words}\n'
    same = pipe.upscale(x, seed=0, restore=float(asked[1]) if asked else None).render(scale=4)[0]
    assert_close(load_image(large), same, atol=1 / 255, rtol=0)

def test_the_strength_of_a_large_picture_is_predicted_from_its_middle():
    x = torch.arange(7 * 4.).view(1, 1, 7, 4)
    assert torch.equal(centre_crop(x, 3), x[..., 2:5, 0:3]) and torch.equal(centre_crop(x), x)

@pytest.mark.parametrize('share', [-.1, 1.5])
def test_it_is_used_by_a_share(trained, share, refuses):
    with refuses('restore', 'must be a number between 0 and 1'):
        ARSR.from_pretrained(trained, 'cpu').upscale(torch.rand(3, 8, 8), restore=share)

def test_weights_without_one_say_so(emoji, refuses):
    with refuses("the weights 'emoji' cannot restore", 'no restorer'): emoji.upscale(torch.rand(3, 8, 8), restore=1)

def test_a_generator_has_nothing_to_restore(trained, tmp_path, refuses):
    with refuses("only upscalers have a stage 'restore'"): train_stage('emoji-generate', 'restore', tmp_path, steps=1)

def test_a_picture_of_one_pixel_was_never_degraded():
    assert never_degraded(torch.rand(1, 3, 1, 1), torch.rand(1, 3, 1, 1)).all()
