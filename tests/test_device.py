"""A device that only does the books. Tensors on PyTorch's 'meta' device have shapes and no numbers: whoever asks one for a number, or mixes it with a
tensor of the CPU, fails. So it stands in for a GPU where there is none, and shows that nothing waits for the GPU halfway and nothing was left behind."""
import pytest, torch
import arsr.diffusion
from arsr.pipeline import ARSR

def without_numbers(kind, monkeypatch):
    "A shipped model on 'meta'. Only the steps of a sampler are read from the device, once, before its loop."
    pipe, real = ARSR.from_pretrained(kind, 'cpu'), arsr.diffusion.timesteps
    alphas_cumprod = next(net.alphas_cumprod.clone() for net in (pipe.generator, pipe.upscaler) if net)
    monkeypatch.setattr(arsr.diffusion, 'timesteps', lambda _, steps: real(alphas_cumprod, steps))
    return ARSR(**pipe.parts, meta=pipe.meta, device='meta')

def test_such_a_device_notices():
    there, here = torch.ones(3, device='meta'), torch.ones(3)
    with pytest.raises(RuntimeError): there + here
    with pytest.raises(RuntimeError): there.sum().item()

@pytest.mark.parametrize('asked', [dict(), dict(sampler='ddim', steps=3), dict(guidance=1.), dict(category='food-fruit'), dict(size=(96, 160)), dict(distilled=True)])
def test_generating_never_waits_for_the_device(asked, monkeypatch):
    field = without_numbers('emoji', monkeypatch).generate(2, seed=0, **asked)
    for how in ('exact', 'fast'): assert field.render(size=(50, 70), renderer=how, window=(.1, .2, .7, .9)).device.type == 'meta'

@pytest.mark.parametrize('asked', [dict(), dict(latent_weight=1, steps=3, n=2), dict(restore=1), dict(restore=0, consistent=False)])
def test_upscaling_never_waits_for_the_device(asked, monkeypatch):
    field = without_numbers('photo', monkeypatch).upscale(torch.rand(3, 31, 300), seed=0, **asked)
    for how in ('exact', 'fast'): assert field.render(scale=1.7, renderer=how).shape[-2:] == (53, 510)

def test_encoding_never_waits_for_the_device(monkeypatch):
    assert without_numbers('emoji', monkeypatch).encode(torch.rand(3, 40, 52)).render(scale=2).device.type == 'meta'
