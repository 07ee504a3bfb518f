import pytest, torch
from torch.testing import assert_close
from conftest import descend
from arsr.alignment import AlignmentLoss, freeze, image_error
from arsr.coords import make_cell, make_coord
from arsr.diffusion import alpha_sigma, q_sample, to_eps
from arsr.unet import DenoisingLoss

def make_batch(size=(9, 11), n=3):
    def query(f): return f(size).expand(n, -1, -1)
    z, rgb = torch.randn(n, 4, 6, 8), torch.rand(n, size[0] * size[1], 3) * 2 - 1
    return dict(z=z, coord=query(make_coord), cell=query(make_cell), rgb=rgb)

def seeded(f, *args, **kwargs):
    torch.manual_seed(7)
    return f(*args, **kwargs)

@pytest.mark.parametrize('prediction_type', ['eps', 'v', 'x0'])
def test_the_first_term_is_the_denoising_loss(make_denoiser, first, prediction_type):
    denoiser, batch = make_denoiser(prediction_type=prediction_type).eval(), make_batch(n=16)
    t, eps = seeded(lambda: (torch.randint(1000, (16,)), torch.randn_like(batch['z'])))
    m, s = alpha_sigma(denoiser.alphas_cumprod, t)
    z_t = q_sample(batch['z'], t, eps, denoiser.alphas_cumprod)
    eps_hat = to_eps(denoiser(z_t, t), z_t, m, s)
    loss = seeded(AlignmentLoss(first, lam=0.), denoiser, batch)
    assert_close(loss, (eps - eps_hat).square().mean(), atol=1e-4, rtol=1e-3)
    if prediction_type == 'eps': assert_close(loss, seeded(DenoisingLoss(), denoiser, batch), atol=1e-4, rtol=1e-3)

@pytest.mark.parametrize('kind, power', [('l2', 2), ('l1', 1)])
@pytest.mark.parametrize('size, w_max', [((9, 11), float('inf')), ((3, 20), 2.)])
def test_loss_is_the_formula_of_the_paper(make_denoiser, first, kind, power, size, w_max):
    denoiser, batch = make_denoiser(prediction_type='v', schedule='cosine').eval(), make_batch(size)
    denoiser.scaling_factor.fill_(1.7)
    t, eps = seeded(lambda: (torch.randint(1000, (3,)), torch.randn_like(batch['z'])))
    m, s = alpha_sigma(denoiser.alphas_cumprod, t)
    z_hat = denoiser(q_sample(batch['z'], t, eps, denoiser.alphas_cumprod), t)
    y_hat = first.liif(first.decoder(z_hat * 1.7), batch['coord'], batch['cell'])
    w = (m / s).flatten().clamp(max=w_max)
    def per_image(error): return error.abs().pow(power).flatten(1).mean(1)
    latent, image = (w**power * per_image(e) for e in (batch['z'] - z_hat, batch['rgb'] - y_hat))
    loss = seeded(AlignmentLoss(first, kind, lam=.3, w_max=w_max), denoiser, batch)
    assert_close(loss, latent.mean() + .3 * image.mean(), atol=1e-5, rtol=1e-4)

@pytest.mark.parametrize('kind', ['l1', 'l2'])
def test_gradient_reaches_the_unet_through_frozen_decoder_and_liif(make_denoiser, first, kind):
    denoiser, batch = make_denoiser(), make_batch()
    freeze(first)
    before = [{k: v.clone() for k, v in module.state_dict().items()} for module in (first, denoiser)]
    opt = torch.optim.AdamW([*denoiser.parameters(), *first.parameters()], 1e-2, weight_decay=.1)

    def gradient(lam):
        opt.zero_grad()
        seeded(AlignmentLoss(first, kind, lam=lam, w_max=3.), denoiser, batch).backward()
        return [p.grad.clone() for p in denoiser.unet.parameters()]
    through_pixels = [a - b for a, b in zip(gradient(1.), gradient(0.))]
    reached = sum(bool(g.abs().sum() > 0) for g in through_pixels)
    assert reached == len(through_pixels)

    gradient(1.)
    opt.step()
    assert all(torch.equal(v, before[0][k]) for k, v in first.state_dict().items())  # weights and running statistics
    assert all(not torch.equal(p, before[1][k]) for k, p in denoiser.named_parameters())
    assert all(p.grad is None for p in first.parameters())

def test_freeze_is_evaluation_without_gradients_but_not_without_gradient_flow(first):
    freeze(first.train())
    assert not any(m.training for m in first.modules()) and not any(p.requires_grad for p in first.parameters())
    z = torch.randn(1, 4, 6, 8, requires_grad=True)
    first.decoder(z).square().sum().backward()
    assert z.grad.abs().min() > 0

def test_every_batch_may_have_its_own_output_size(make_denoiser, first):
    denoiser, rng = make_denoiser(awake=.02, prediction_type='v', schedule='cosine'), torch.Generator().manual_seed(0)
    freeze(first)
    opt = torch.optim.Adam(denoiser.parameters(), 3e-3)
    z = torch.randn(2, 4, 6, 8)
    def batch():
        size = tuple(torch.randint(5, 40, (2,), generator=rng).tolist())
        def query(f): return f(size).expand(2, -1, -1)
        with torch.no_grad(): rgb = first.liif(first.decoder(z), query(make_coord), query(make_cell))
        return dict(z=z, coord=query(make_coord), cell=query(make_cell), rgb=rgb)
    losses = descend(opt, lambda: AlignmentLoss(first, w_max=1.)(denoiser, batch()), 40)
    assert sum(losses[-10:]) < .8 * sum(losses[:10])

def test_labels_and_conditions_are_passed_on(make_denoiser, first):
    denoiser, batch = make_denoiser(conditional=True, classes=3).eval(), make_batch()
    def loss(drop=0., **extra): return seeded(AlignmentLoss(first, w_max=3., drop=drop), denoiser, batch | extra).item()
    a = dict(cond=torch.randn(3, 4, 6, 8), label=torch.tensor([0, 1, 2]))
    assert loss(**a) != loss(**a | dict(label=torch.tensor([0, 1, 1])))
    assert loss(**a) != loss(**a | dict(cond=-a['cond']))
    assert loss(1., **a) == loss(1., **a | dict(label=torch.tensor([2, 2, 2])))

def test_image_error_grows_with_the_noise_and_vanishes_for_a_perfect_denoiser(make_denoiser, first):
    denoiser, batch = make_denoiser(awake=0, prediction_type='eps'), make_batch()
    with torch.no_grad(): batch['rgb'] = first.liif(first.decoder(batch['z']), batch['coord'], batch['cell'])
    errors = image_error(denoiser, first, batch, [0, 300, 600])
    assert errors.shape == (3,) and (errors.diff() > 0).all()
    assert_close(errors, image_error(denoiser, first, batch, [0, 300, 600]), atol=0, rtol=0)
    eps = torch.randn(batch['z'].shape, generator=torch.Generator().manual_seed(0))
    denoiser.predict = lambda *args: eps
    assert image_error(denoiser, first, batch, [0, 300, 600]).max() < 1e-5

def test_unknown_kind_refused(first, refuses):
    with refuses("'l1' or 'l2'", "'huber'"): AlignmentLoss(first, 'huber')
