import pytest, torch
from hypothesis import given, strategies as st
from torch.testing import assert_close
from arsr.diffusion import alpha_sigma, q_sample, to_x0
from arsr.unet import (
    AutoguidanceLoss, Denoiser, DenoiserConfig, DenoisingLoss, UNet, UNetConfig, _starts, cfg_denoiser, drop_labels,
    tiled_apply, time_features, unknown_like)

# the network

@pytest.fixture(scope='module')
def nets():
    torch.manual_seed(0)
    return {p: UNet(4, 3, UNetConfig(ch=8, mult=(1, 2, 2), n_res=1, attn=(2,), patch=p)).eval() for p in (1, 2)}

@given(st.sampled_from([1, 2]), st.integers(1, 21), st.integers(1, 21))
def test_its_output_has_the_size_of_its_input(nets, patch, h, w):
    assert nets[patch](torch.randn(1, 4, h, w), torch.tensor([3])).shape == (1, 3, h, w)

def test_it_predicts_zero_before_training(nets):
    for net in nets.values():
        assert torch.equal(net(torch.randn(2, 4, 8, 10), torch.tensor([3, 900])), torch.zeros(2, 3, 8, 10))

def test_size_is_padded_not_stretched(make_denoiser):
    net, x, t = make_denoiser().unet.eval(), torch.randn(1, 4, 8, 8), torch.tensor([3])
    padded = torch.cat([x[..., :7], x[..., 6:7]], -1)
    assert_close(net(x[..., :7], t), net(padded, t)[..., :7])

def test_images_of_a_batch_do_not_mix(make_denoiser):
    net, x, t = make_denoiser(classes=3).unet.eval(), torch.randn(3, 4, 8, 6), torch.tensor([3, 500, 900])
    label = torch.tensor([0, 2, 3])
    whole = net(x, t, label)
    for i in range(3): assert_close(net(x[i:i+1], t[i:i+1], label[i:i+1]), whole[i:i+1], atol=1e-4, rtol=1e-3)

def test_time_matters(make_denoiser):
    net, x = make_denoiser().unet.eval(), torch.randn(1, 4, 8, 6)
    assert (net(x, torch.tensor([3])) - net(x, torch.tensor([900]))).abs().max() > 1e-3

def test_labels_matter_and_none_means_unknown(make_denoiser):
    net, x, t = make_denoiser(classes=3).unet.eval(), torch.randn(1, 4, 8, 6), torch.tensor([3])
    outputs = [net(x, t, torch.tensor([k])) for k in range(4)]
    for a in range(4):
        for b in range(a): assert (outputs[a] - outputs[b]).abs().max() > 1e-3
    assert_close(net(x, t), outputs[3])

@pytest.mark.parametrize('c', [8, 160])
def test_time_features_tell_all_steps_apart(c):
    f = time_features(torch.arange(1000), c)
    assert f.shape == (1000, c) and f.abs().max() <= 1 + 1e-6
    assert torch.pdist(f).min() > 1e-3

def test_heads_have_32_channels_and_levels_get_attention_where_asked():
    with torch.device('meta'): net = UNet(3, 3, UNetConfig(attn=(1, 3)))
    attended = [m.res.out_layers[0].num_channels for m in net.down if hasattr(m, 'attn') and hasattr(m.attn, 'heads')]
    assert attended == [320, 320, 640, 640]
    assert net.middle[0].attn.heads == 640 // 32 and not hasattr(net.middle[1].attn, 'heads')

# the denoiser

@pytest.mark.parametrize('prediction_type', ['eps', 'x0', 'v'])
def test_the_estimate_of_the_clean_latent_follows_from_the_prediction(make_denoiser, prediction_type):
    denoiser = make_denoiser(prediction_type=prediction_type, schedule='cosine').eval()
    z_t, t = torch.randn(2, 4, 8, 6), torch.tensor([3, 900])
    m, s = alpha_sigma(denoiser.alphas_cumprod, t)
    assert_close(denoiser(z_t, t), to_x0(prediction_type, denoiser.predict(z_t, t), z_t, m, s))

def test_unknown_prediction_type_refused(refuses):
    with refuses("'eps', 'x0' or 'v'", "'noise'"): Denoiser(DenoiserConfig(prediction_type='noise'))

def test_the_condition_comes_in_beside_the_noisy_latent(make_denoiser):
    denoiser, z_t, t = make_denoiser(conditional=True).eval(), torch.randn(1, 4, 8, 6), torch.tensor([500])
    assert denoiser.unet.conv_in.in_channels == 8
    a, b = (denoiser(z_t, t, cond=cond) for cond in (torch.zeros_like(z_t), torch.ones_like(z_t)))
    assert (a - b).abs().max() > 1e-3

def test_what_is_stored_with_the_weights(make_denoiser):
    names = make_denoiser().state_dict()
    assert 'scaling_factor' in names and 'alphas_cumprod' not in names  # the schedule is configuration

@pytest.mark.parametrize('prediction_type', ['eps', 'x0', 'v'])
def test_loss_is_the_squared_error_of_the_prediction(make_denoiser, prediction_type):
    denoiser, z = make_denoiser(awake=0, prediction_type=prediction_type, schedule='cosine'), torch.randn(64, 4, 8, 8)
    # an untrained net predicts zero, and every target has unit variance
    assert_close(DenoisingLoss()(denoiser, dict(z=z)).item(), 1., atol=.1, rtol=0)

def test_loss_passes_condition_and_label_on(make_denoiser):
    denoiser = make_denoiser(conditional=True, classes=3).eval()
    z = torch.randn(2, 4, 8, 8)
    def loss(cond, label, drop=0.):
        torch.manual_seed(0)
        return DenoisingLoss(drop)(denoiser, dict(z=z, cond=cond, label=torch.tensor(label))).item()
    assert loss(z, [0, 1]) != loss(z, [0, 2]) and loss(z, [0, 1]) != loss(-z, [0, 1])
    assert loss(z, [0, 1], drop=1.) == loss(z, [2, 2], drop=1.) != loss(z, [0, 1])

def test_a_share_of_the_labels_is_dropped():
    label = torch.arange(9).repeat(1000)
    dropped = drop_labels(label, 9, .1)
    assert .08 < (dropped == 9).float().mean() < .12 and (dropped[dropped != 9] == label[dropped != 9]).all()
    assert drop_labels(None, 9, .1) is None

def test_autoguidance_extrapolates_from_the_weak_model_through_the_strong_one(make_denoiser):
    weak, strong = make_denoiser(classes=3).eval(), make_denoiser(classes=3, awake=.3).eval()
    z = torch.randn(4, 4, 8, 8)
    def loss(net, scale):
        torch.manual_seed(0)
        return AutoguidanceLoss(strong, weak, scale)(net, dict(z=z, label=torch.tensor([0, 1, 2, 0])))
    assert max(loss(strong, 1.), loss(weak, 0.)) < 1e-10 < 1e-4 < loss(strong, 0.)
    assert_close(loss(strong, 3.), 4 * loss(strong, 0.))  # strong - (weak + 3 (strong - weak)) is twice weak - strong
    net = make_denoiser(classes=3, awake=.2)
    loss(net, 2.).backward()
    assert all(p.grad is None for m in (weak, strong) for p in m.parameters())
    assert any(p.grad is not None for p in net.parameters())

def test_guidance(make_denoiser):
    denoiser, z_t = make_denoiser(classes=3).eval(), torch.randn(2, 4, 8, 6)
    t, label = torch.tensor([300, 700]), torch.tensor([0, 2])
    conditioned, unknown = denoiser(z_t, t, label=label), denoiser(z_t, t)
    assert_close(cfg_denoiser(denoiser, label, scale=1.)(z_t, t), conditioned, atol=1e-4, rtol=1e-4)
    assert_close(cfg_denoiser(denoiser, label, scale=0.)(z_t, t), unknown, atol=1e-4, rtol=1e-4)
    extrapolated = unknown + 3 * (conditioned - unknown)
    assert_close(cfg_denoiser(denoiser, label, scale=3.)(z_t, t), extrapolated, atol=1e-4, rtol=1e-4)

# windows

@given(n=st.integers(1, 200), window=st.integers(2, 40), data=st.data())
def test_window_starts_cover_everything_and_overlap(n, window, data):
    overlap = data.draw(st.integers(0, window - 1))
    starts = _starts(n, window, overlap)
    assert starts[0] == 0 and (n <= window or starts[-1] == n - window)
    assert all(0 < b - a <= window - overlap for a, b in zip(starts, starts[1:]))

@given(h=st.integers(1, 60), w=st.integers(1, 60), window=st.integers(4, 20), data=st.data())
def test_a_function_of_each_cell_sees_no_seam(h, w, window, data):
    overlap = data.draw(st.integers(0, window - 1))
    a, b = torch.randn(2, 2, 4, h, w)
    def f(a, b): return (a * 2 + b**2)[:, :3]
    assert_close(tiled_apply(f, a, b, window=window, overlap=overlap, batch=5), f(a, b), atol=1e-5, rtol=1e-5)

def recorded(shapes):
    "The identity, which notes the shape of what goes through it."
    def f(a):
        shapes.append(tuple(a.shape))
        return a
    return f

def test_few_and_small_windows_at_a_time():
    seen = []
    tiled_apply(recorded(seen), torch.zeros(2, 1, 100, 70), window=16, overlap=8, batch=3)
    assert all(n <= 2 * 3 and (h, w) == (16, 16) for n, _, h, w in seen)
    assert sum(n for n, *_ in seen) == 2 * 12 * 8  # as many windows as it takes, each once

def test_a_map_that_fits_goes_through_whole():
    seen = []
    tiled_apply(recorded(seen), torch.zeros(2, 1, 16, 9), window=16)
    assert seen == [(2, 1, 16, 9)]

def test_a_long_map_is_cut_along_its_long_side_only():
    seen = []
    tiled_apply(recorded(seen), torch.zeros(1, 1, 5, 100), window=16)
    assert {shape[-2:] for shape in seen} == {(5, 16)}

def test_windows_that_disagree_fade_into_each_other():
    windows = iter([0., 1.])
    def f(a): return torch.full_like(a, next(windows))
    out = tiled_apply(f, torch.zeros(1, 1, 4, 24), window=16, overlap=8, batch=1)[0, 0, 0]
    assert (out[:8] == 0).all() and (out[16:] == 1).all()
    assert (out.diff() >= 0).all() and out.diff().max() < .15

def test_a_denoiser_in_windows_is_near_its_output_on_the_whole(make_denoiser):
    denoiser = make_denoiser(awake=.02, attn=(), prediction_type='v', schedule='cosine').eval()
    z = torch.nn.functional.interpolate(torch.randn(1, 4, 6, 6), (48, 48), mode='bilinear')
    t = torch.tensor([300])
    z_t = q_sample(z, t, torch.randn_like(z), denoiser.alphas_cumprod)
    def f(z_t): return denoiser(z_t, t.expand(len(z_t)))
    with torch.no_grad(): whole, parts = f(z_t), tiled_apply(f, z_t, window=32, overlap=16)
    assert ((whole - parts).square().mean() / whole.square().mean()).sqrt() < .1

def test_windows_are_blended_in_float32():
    x = torch.randn(2, 3, 70, 45, generator=torch.Generator().manual_seed(0))
    out = tiled_apply(lambda x: x.bfloat16(), x, window=16, overlap=8)
    assert out.dtype == torch.bfloat16 and torch.equal(out, x.bfloat16())

def test_attributes_are_summed_and_say_nothing_before_training(make_denoiser):
    net = make_denoiser(classes=2, attributes=5)
    net.unet.attribute_embed.weight.data.zero_()
    z, t = torch.randn(2, 4, 8, 8), torch.tensor([300, 300])
    given = torch.tensor([[0, 1, 4], [0, 4, 1]])
    assert_close(net(z, t, label=given), net(z, t, label=given[:, 0]))
    net.unet.attribute_embed.weight.data[1:] = torch.randn(5, net.unet.attribute_embed.weight.shape[1])
    out = net(z[:1].repeat(2, 1, 1, 1), t, label=given)
    assert_close(out[0], out[1])  # the order does not matter
    assert not torch.allclose(net(z, t, label=given), net(z, t, label=given[:, 0]))
    nothing = torch.tensor([[0, 0, 0], [0, 0, 0]])
    assert_close(net(z, t, label=nothing), net(z, t, label=given[:, 0]))

def test_any_subset_of_attributes_stays():
    label = torch.tensor([[1, 2, 3, 4]]).repeat(20_000, 1)
    out = drop_labels(label, unknown=7, share=.1)
    dropped = out[:, 0] == 7
    assert abs(dropped.float().mean() - .1) < .01 and not out[dropped, 1:].any()
    kept = (out[~dropped, 1:] > 0).sum(1)
    assert abs((out[~dropped, 1:] > 0).float().mean() - .625) < .02
    for k, share in enumerate((1/4, 1/8, 1/8, 1/2)): assert abs((kept == k).float().mean() - share) < .03
    assert ((out[:, 1:] == label[:, 1:]) | (out[:, 1:] == 0)).all()

def test_guidance_starts_from_labels_that_say_nothing():
    assert unknown_like(torch.tensor([1, 2]), 4).tolist() == [4, 4]
    assert unknown_like(torch.tensor([[1, 5, 6]]), 4).tolist() == [[4, 0, 0]]
