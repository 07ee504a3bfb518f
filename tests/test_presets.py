"The configurations of Kim & Kim 2024 (sections 3.1, 3.2 and 4.1), built without memory on the meta device."
from dataclasses import replace
import pytest, torch
from arsr.field import FirstStage, FirstStageConfig
from arsr.lab.recipes import PRESETS, Preset
from arsr.train import Settings
from arsr.unet import Denoiser, DenoiserConfig, UNetConfig

NATURAL = UNetConfig(ch=160, mult=(1, 2, 2, 4), n_res=2, attn=(3,), eps=1e-5)  # attention at the lowest level
FACES = UNetConfig(ch=256, mult=(1, 2, 4, 4), n_res=2, attn=(0, 1, 2), eps=1e-5)  # at full, half and quarter resolution

LINEAR = dict(prediction_type='eps', schedule='linear', betas=(.0015, .0155))

# name: first stage, (encoder, decoder, LIIF) parameters, sides of (image, latent), denoiser, its parameters
PUBLISHED = {
    'paper-gen-256': (
        FirstStageConfig(ch=128, mult=(1, 2, 4), z=3, one_sided=True), (22_337_423, 30_007_180, 232_195), (256, 64),
        DenoiserConfig(NATURAL, z=3, **LINEAR), 113_618_243),
    'paper-sr-faces-8x': (
        FirstStageConfig(ch=128, mult=(1, 2, 4), z=32, latent='gaussian', one_sided=True),
        (22_622_720, 30_141_856, 232_195), (128, 32),
        DenoiserConfig(FACES, z=32, conditional=True, **LINEAR | dict(betas=(.0001, .015))), 411_075_104),
    'paper-sr-div2k': (
        FirstStageConfig(ch=128, mult=(1, 2, 4), z=3, one_sided=True), (22_337_423, 30_007_180, 232_195), (192, 48),
        DenoiserConfig(NATURAL, z=3, conditional=True, **LINEAR), 113_622_563),
    'paper-sr-lsun-16x': (
        FirstStageConfig(ch=128, mult=(1, 2, 4, 4), z=32, latent='gaussian', one_sided=True),
        (34_425_856, 44_306_848, 232_195), (256, 32),
        DenoiserConfig(NATURAL, z=32, conditional=True, **LINEAR), 113_747_872),
}

def count(module): return sum(p.numel() for p in module.parameters())

@pytest.mark.parametrize('name', PUBLISHED)
def test_first_stage(name):
    cfg, (n_encoder, n_decoder, n_liif), (image, latent), *_ = PUBLISHED[name]
    with torch.device('meta'):
        first = FirstStage(cfg)
        z = first.encode(torch.empty(1, 3, image, image))
        feat = first.decoder(z)
    assert (count(first.encoder), count(first.decoder), count(first.liif)) == (n_encoder, n_decoder, n_liif)
    assert z.shape == (1, cfg.z, latent, latent) and feat.shape == (1, 128, latent, latent)

@pytest.mark.parametrize('name', PUBLISHED)
def test_denoiser(name):
    *_, (_, latent), cfg, n = PUBLISHED[name]
    with torch.device('meta'):
        denoiser, z = Denoiser(cfg), torch.empty(1, cfg.z, latent, latent)
        prediction = denoiser.predict(z, torch.empty(1, dtype=torch.long), z if cfg.conditional else None)
    assert count(denoiser) == n
    assert prediction.shape == z.shape and len(denoiser.alphas_cumprod) == 1000

def test_defaults_are_the_published_ones(): # but for the padding of strided convolutions and eps of GroupNorm
    assert replace(FirstStageConfig(), one_sided=True) == PUBLISHED['paper-gen-256'][0]
    assert DenoiserConfig(replace(UNetConfig(), eps=1e-5)) == PUBLISHED['paper-gen-256'][3]

SIZES = {'paper-gen-256': (64, 256), 'paper-sr-faces-8x': (32, 128), 'paper-sr-div2k': (48, 192),
         'paper-sr-lsun-16x': (32, 256)}

@pytest.mark.parametrize('name', PUBLISHED)
def test_the_presets_are_the_published_configurations(name):
    first, _, (image, _), denoiser, _ = PUBLISHED[name]
    preset = PRESETS[name]
    assert (preset.first, preset.denoiser, preset.crop, preset.sizes) == (first, denoiser, image, SIZES[name])
    assert preset.task == ('upscaler' if denoiser.conditional else 'generator')

@pytest.mark.parametrize('name', PRESETS)
def test_every_preset_constructs_and_its_parts_fit_together(name):
    preset = PRESETS[name]
    with torch.device('meta'): first, denoiser = FirstStage(preset.first), Denoiser(preset.denoiser)
    assert first.cfg.z == denoiser.cfg.z and preset.crop % first.cfg.f == 0

def test_our_generators_know_every_kind_of_drawing(drawings):
    ours = [p for p in PRESETS.values() if p.task == 'generator' and p.data == 'emoji']
    assert {p.denoiser.unet.classes for p in ours} == {len(drawings.classes)}

@pytest.mark.parametrize('name', PUBLISHED)
def test_the_learning_rates_are_published(name):
    settings, faces = PRESETS[name].settings, name == 'paper-sr-faces-8x'
    assert {k: s.lr for k, s in settings.items()} == dict(first=4.5e-6, latent=1e-6 if faces else 1e-4, align=1e-6)
    assert settings['latent'].decay == settings['align'].decay == .9999
    assert all(s.weight_decay == 0 and s.warmup == Settings().warmup for s in settings.values())

@pytest.mark.parametrize('factor', [2, 6, 0])
def test_a_factor_that_is_no_multiple_of_f_refused(factor, refuses):
    with refuses('factor must be a multiple', 'which is 4', f'not {factor}'):
        Preset('upscaler', FirstStageConfig(), DenoiserConfig(conditional=True), factor=factor)
    Preset('generator', FirstStageConfig(), DenoiserConfig(), factor=factor)  # has no use for it
