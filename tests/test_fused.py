"Training by the kernels of .ci/fused.py: the same loss and gradients."
import runpy, shutil
from pathlib import Path
import pytest, torch
from arsr.unet import Denoiser, DenoiserConfig, DenoisingLoss, UNetConfig

script = runpy.run_path(str(Path(__file__).resolve().parent.parent/'.ci'/'fused.py'))
compiler = shutil.which('g++') and shutil.which('ninja')
pytestmark = [pytest.mark.slow, pytest.mark.skipif(not compiler, reason='no compiler')]

def loss_and_gradients(net, batch):
    torch.manual_seed(0)
    net.zero_grad()
    loss = DenoisingLoss()(net, batch)
    loss.backward()
    return loss.detach(), torch.cat([p.grad.flatten() for p in net.parameters() if p.grad is not None])

def test_a_fused_network_has_the_loss_and_the_gradients_of_the_plain_one():
    torch.manual_seed(0)
    net = Denoiser(DenoiserConfig(UNetConfig(ch=32, mult=(1, 2, 3), n_res=1, attn=(1, 2)), z=4))
    for p in net.parameters(): torch.nn.init.normal_(p, std=.05)  # the last layers begin at zero
    batch = {'z': torch.randn(3, 4, 32, 32)}
    before = loss_and_gradients(net, batch)
    for change in script['CHANGES']:
        change(net)
        loss, gradients = loss_and_gradients(net, batch)
        torch.testing.assert_close(loss, before[0], rtol=1e-5, atol=0)
        assert (gradients - before[1]).norm() < 1e-5 * before[1].norm(), change.__name__

@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16])
@pytest.mark.parametrize('act', [True, False])
def test_the_fused_norm_is_group_norm_and_silu(dtype, act):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(3, 24, 9, 7, generator=generator).mul(2).add(1).to(dtype).requires_grad_()
    w, b = (torch.randn(24, generator=generator).requires_grad_() for _ in range(2))
    dy = torch.randn(x.shape, generator=generator).to(dtype)
    y = script['NormFunction'].apply(x, w, b, 6, 1e-6, act)
    found = y, *torch.autograd.grad(y, (x, w, b), dy)
    exact = x.detach().float().requires_grad_()
    h = torch.nn.functional.group_norm(exact, 6, w, b, 1e-6)
    h = torch.nn.functional.silu(h) if act else h
    wanted = h, *torch.autograd.grad(h, (exact, w, b), dy.float())
    rounding = 1e-5 if dtype == torch.float32 else 2**-7
    for a, e in zip(found, wanted): assert (a.float() - e).abs().max() <= rounding * e.abs().max()
