"""A device that only keeps the books. Tensors on PyTorch's 'meta' device have shapes and no numbers: whoever asks one
for a number, or mixes it with a tensor of the CPU, fails. So it stands in for a GPU where there is none, and shows
that nothing waits for the GPU halfway and nothing was left behind."""
import copy
import pytest, torch
import arsr.diffusion, arsr.train

@pytest.fixture
def on_meta(emoji, photo, monkeypatch):
    "A shipped model on 'meta'. Only the noise levels of a sampler are chosen on the CPU, once, before its loop."
    real, alphas_cumprod = arsr.diffusion.spaced_timesteps, emoji.generator.alphas_cumprod.clone()
    monkeypatch.setattr(arsr.diffusion, 'spaced_timesteps', lambda _, steps: real(alphas_cumprod, steps))
    monkeypatch.setattr(arsr.train, 'autocast_dtype', lambda: torch.float32)  # 'meta' has no half-precision arithmetic
    return lambda kind: copy.deepcopy(dict(emoji=emoji, photo=photo)[kind]).to('meta')

def test_such_a_device_notices():
    there, here = torch.ones(3, device='meta'), torch.ones(3)
    with pytest.raises(RuntimeError): there + here
    with pytest.raises(RuntimeError): there.sum().item()

@pytest.mark.parametrize('asked', [dict(), dict(sampler='ddim', steps=3), dict(guidance=1.),
                                   dict(category='food-fruit'), dict(size=(96, 160)), dict(distilled=True)])
def test_generating_never_waits_for_the_device(asked, on_meta):
    field = on_meta('emoji').generate(2, seed=0, **asked)
    for how in ('exact', 'fast'):
        assert field.render(size=(50, 70), renderer=how, window=(.1, .2, .7, .9)).device.type == 'meta'

@pytest.mark.parametrize('asked', [dict(), dict(latent_weight=1, steps=3, n=2), dict(restore=1),
                                   dict(restore=0, back_project=False), dict(refine=False, back_project=True)])
def test_upscaling_never_waits_for_the_device(asked, on_meta):
    field = on_meta('photo').upscale(torch.rand(3, 31, 300), seed=0, **asked)
    for how in ('auto', 'exact', 'fast') if field.fast else ('auto', 'exact'):
        assert field.render(scale=1.7, renderer=how).shape[-2:] == (53, 510)

def test_encoding_never_waits_for_the_device(on_meta):
    assert on_meta('emoji').encode(torch.rand(3, 40, 52)).render(scale=2).device.type == 'meta'
