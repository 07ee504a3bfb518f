"Published checkpoints and diffusers' models against forward passes written for the published names alone."
from dataclasses import replace
from pathlib import Path
import pytest, torch, torch.nn.functional as F
from torch.nn.functional import silu
from arsr import ARSR
from arsr.beyond.interop import convert_autoencoder, convert_published, from_diffusers
from arsr.coords import make_cell, make_coord
from arsr.field import FirstStageConfig
from arsr.lab.recipes import PRESETS, Preset
from arsr.unet import DenoiserConfig, UNetConfig, time_features

class Layout(dict):
    "A state dict in the published layout: a tensor comes into being, at random, when a layer first asks for it."
    def get(self, name, *shape):
        if name not in self: self[name] = torch.randn(shape) / max(1, torch.Size(shape[1:]).numel())**.5
        return self[name]

    def affine(self, f, name, x, c_out, *kernel, **how):
        return f(x, self.get(f'{name}.weight', c_out, x.shape[-1 if f is F.linear else 1], *kernel),
                 self.get(f'{name}.bias', c_out), **how)

    def conv(self, name, x, c_out, k=3, **how): return self.affine(F.conv2d, name, x, c_out, k, k, **how)
    def linear(self, name, x, c_out): return self.affine(F.linear, name, x, c_out)

    def norm(self, name, x, eps):
        c = x.shape[1]
        weight, bias = self.get(f'{name}.weight', c), self.get(f'{name}.bias', c)
        return F.group_norm(x, min(32, c // 4), weight, bias, eps)

def resblock(s, name, x, c):
    h = s.conv(f'{name}.conv1', silu(s.norm(f'{name}.norm1', x, 1e-6)), c, padding=1)
    h = s.conv(f'{name}.conv2', silu(s.norm(f'{name}.norm2', h, 1e-6)), c, padding=1)
    return h + (x if x.shape[1] == c else s.conv(f'{name}.nin_shortcut', x, c, 1))

def middle(s, name, x):
    (n, c, h, w), x = x.shape, resblock(s, f'{name}.block_1', x, x.shape[1])
    y = s.norm(f'{name}.attn_1.norm', x, 1e-6)
    q, k, v = (s.conv(f'{name}.attn_1.{part}', y, c, 1).flatten(2) for part in 'qkv')
    y = v @ (q.mT @ k / c**.5).softmax(-1).mT
    x = x + s.conv(f'{name}.attn_1.proj_out', y.view(n, c, h, w), c, 1)
    return resblock(s, f'{name}.block_2', x, c)

def encode(s, x, cfg):
    x = s.conv('encoder.0.conv_in', x, cfg.ch, padding=1)
    for i, m in enumerate(cfg.mult):
        for j in range(cfg.n_res): x = resblock(s, f'encoder.0.down.{i}.block.{j}', x, cfg.ch * m)
        if i == len(cfg.mult) - 1: break
        x = s.conv(f'encoder.0.down.{i}.downsample.conv', F.pad(x, (0, 1, 0, 1)), cfg.ch * m, stride=2)
    x, z = middle(s, 'encoder.0.mid', x), cfg.z * (1 + (cfg.latent == 'gaussian'))
    x = s.conv('encoder.0.conv_out', silu(s.norm('encoder.0.norm_out', x, 1e-6)), z, padding=1)
    return s.conv('encoder.1', x, z, 1)

def decode(s, z, cfg):
    name = 'decoder.decoder.1'
    x = s.conv(f'{name}.conv_in', s.conv('decoder.decoder.0', z, cfg.z, 1), cfg.ch * cfg.mult[-1], padding=1)
    x = middle(s, f'{name}.mid', x)
    for i in reversed(range(len(cfg.mult))):
        for j in range(cfg.n_res + 1): x = resblock(s, f'{name}.up.{i}.block.{j}', x, cfg.ch * cfg.mult[i])
    return x

def imnet(s, x, cfg):
    for k, c in enumerate(cfg.hidden): x = s.linear(f'decoder.inr.imnet.layers.{2 * k}', x, c).relu()
    return s.linear(f'decoder.inr.imnet.layers.{2 * len(cfg.hidden)}', x, 3)

def time_block(s, name, x, emb, c):
    h = s.conv(f'{name}.in_layers.2', silu(s.norm(f'{name}.in_layers.0', x, 1e-5)), c, padding=1)
    h = h + s.linear(f'{name}.emb_layers.1', silu(emb), c)[..., None, None]
    h = s.conv(f'{name}.out_layers.3', silu(s.norm(f'{name}.out_layers.0', h, 1e-5)), c, padding=1)
    return h + (x if x.shape[1] == c else s.conv(f'{name}.skip_connection', x, c, 1))

def heads(s, name, x):
    (n, c, h, w), y = x.shape, s.norm(f'{name}.norm', x, 1e-5).flatten(2)
    y = s.affine(F.conv1d, f'{name}.qkv', y, 3 * c, 1)
    q, k, v = y.reshape(n * c // 32, 96, h * w).split(32, 1)  # head by head, as published
    y = v @ (q.mT @ k / 32**.5).softmax(-1).mT
    return x + s.affine(F.conv1d, f'{name}.proj_out', y.reshape(n, c, h * w), c, 1).view(n, c, h, w)

def unet(s, x, t, cfg, c_out):
    emb = s.linear('time_embed.2', silu(s.linear('time_embed.0', time_features(t, cfg.ch), 4 * cfg.ch)), 4 * cfg.ch)
    x = s.conv('input_blocks.0.0', x, cfg.ch, padding=1)
    skips, k = [x], 0
    for i, m in enumerate(cfg.mult):
        for _ in range(cfg.n_res):
            k += 1
            x = time_block(s, f'input_blocks.{k}.0', x, emb, cfg.ch * m)
            if i in cfg.attn: x = heads(s, f'input_blocks.{k}.1', x)
            skips.append(x)
        if i < len(cfg.mult) - 1:
            k += 1
            x = s.conv(f'input_blocks.{k}.0.op', x, cfg.ch * m, stride=2, padding=1)
            skips.append(x)
    x = heads(s, 'middle_block.1', time_block(s, 'middle_block.0', x, emb, x.shape[1]))
    x, k = time_block(s, 'middle_block.2', x, emb, x.shape[1]), 0
    for i, m in reversed(list(enumerate(cfg.mult))):
        for j in range(cfg.n_res + 1):
            x = time_block(s, f'output_blocks.{k}.0', torch.cat([x, skips.pop()], 1), emb, cfg.ch * m)
            if i in cfg.attn: x = heads(s, f'output_blocks.{k}.1', x)
            if i and j == cfg.n_res:
                x = F.interpolate(x, scale_factor=2.)
                x = s.conv(f'output_blocks.{k}.{1 + (i in cfg.attn)}.conv', x, cfg.ch * m, padding=1)
            k += 1
    return s.conv('out.2', silu(s.norm('out.0', x, 1e-5)), c_out, padding=1)

def run(preset, n=2, side=16):
    "State dicts in the published layout, and what they compute: latent, features, prediction, with their inputs."
    first, net, cfg, dcfg = Layout(), Layout(), preset.first, preset.denoiser
    x, z = torch.randn(n, 3, side, 2 * side), torch.randn(n, cfg.z, side // cfg.f, 2 * side // cfg.f)
    z_t, t = torch.cat([z] * (1 + dcfg.conditional), 1), torch.full((n,), 300)
    feat = decode(first, z, cfg)
    imnet(first, torch.randn(1, feat.shape[1] + 4), cfg)
    out = dict(z=encode(first, x, cfg), feat=feat, prediction=unet(net, z_t, t, dcfg.unet, cfg.z))
    return first, {f'model.diffusion_model.{k}': v for k, v in net.items()}, dict(x=x, z=z, z_t=z_t, t=t), out

TINY = Preset(
    'upscaler', FirstStageConfig(ch=16, n_res=2, z=4, latent='gaussian', hidden=(24, 16), one_sided=True),
    DenoiserConfig(UNetConfig(ch=32, mult=(1, 2), n_res=2, attn=(1,), eps=1e-5), z=4, conditional=True))

@torch.no_grad()
@pytest.mark.parametrize('change', [{}, dict(latent='plain', mult=(1, 2), n_res=1)])
def test_published_weights_are_the_published_function(change, tmp_path):
    preset = replace(TINY, first=replace(TINY.first, **change))
    first, ldm, given, out = run(preset)
    old = {k: torch.zeros_like(v) for k, v in ldm.items()}  # the weights of the last step, which nobody wants
    mean = {'model_ema.' + k.removeprefix('model.').replace('.', ''): v for k, v in ldm.items()}
    torch.save({'state_dict': first | {'loss.weight': torch.ones(1)}, 'epoch': 3}, tmp_path/'first.ckpt')
    torch.save({'state_dict': old | mean | {'scale_factor': torch.tensor(.25)}}, tmp_path/'ldm.ckpt')
    pipe = ARSR.from_published(tmp_path/'first.ckpt', tmp_path/'ldm.ckpt', preset)
    def close(a, b): assert (a - b).abs().max() < 1e-4 * b.std()
    close(pipe.first.encoder(given['x']), out['z'])
    close(pipe.first.decoder(given['z']), out['feat'])
    close(pipe.upscaler.unet(given['z_t'], given['t']), out['prediction'])
    assert pipe.upscaler.scaling_factor == 4
    points = torch.randn(5, out['feat'].shape[1] + 4)
    close(pipe.first.liif.mlp(points), imnet(first, points, preset.first))

@pytest.mark.parametrize('name', [name for name in PRESETS if name.startswith('paper')])
def test_the_paper_presets_have_the_published_tensors(name):
    with torch.device('meta'):
        first, ldm, *_ = run(PRESETS[name], n=1, side=64)
        pipe = convert_published(first, ldm, PRESETS[name])
    n = sum(x.numel() for x in [*first.values(), *ldm.values()])
    assert sum(p.numel() for p in pipe.parameters()) == n
    assert pipe.first.cfg.one_sided and PRESETS[name].denoiser.unet.eps == 1e-5

def test_padding_and_eps_matter():
    "With symmetric padding, or the autoencoder's eps, the same weights are another function."
    first, ldm, given, out = run(TINY)
    unet = replace(TINY.denoiser.unet, eps=1e-2)
    other = replace(TINY, first=replace(TINY.first, one_sided=False), denoiser=replace(TINY.denoiser, unet=unet))
    pipe = convert_published(first, ldm, other)
    with torch.no_grad():
        assert (pipe.first.encoder(given['x']) - out['z']).abs().max() > .1 * out['z'].std()
        assert (pipe.upscaler.unet(given['z_t'], given['t']) - out['prediction']).abs().max() > 1e-3

def test_a_file_with_more_than_tensors_is_refused(tmp_path, refuses):
    first, ldm, *_ = run(TINY)
    torch.save({'state_dict': first, 'where': Path()}, tmp_path/'first.ckpt')
    torch.save({'state_dict': ldm}, tmp_path/'ldm.ckpt')
    with refuses('first.ckpt', 'tensors alone'): ARSR.from_published(tmp_path/'first.ckpt', tmp_path/'ldm.ckpt', TINY)
    with refuses('another network', 'the first is encoder.layers.0.weight'):
        ARSR.from_published(tmp_path/'ldm.ckpt', tmp_path/'ldm.ckpt', TINY)

# ---- diffusers

@pytest.fixture(scope='module')
def diffusers(): return pytest.importorskip('diffusers')

def autoencoder(diffusers, name, **more):
    c = dict(block_out_channels=(128, 128), layers_per_block=1, latent_channels=4,
             down_block_types=('DownEncoderBlock2D',) * 2, up_block_types=('UpDecoderBlock2D',) * 2)
    return getattr(diffusers, name)(**c | more).eval()

@pytest.mark.parametrize('name, more', [('AutoencoderKL', {}), ('VQModel', {}),
                                        ('AutoencoderKL', dict(use_quant_conv=False, use_post_quant_conv=False))])
@torch.no_grad()
def test_diffusers_autoencoders(diffusers, name, more):
    theirs = autoencoder(diffusers, name, **more)
    first = convert_autoencoder(theirs).eval()
    x, z = torch.randn(2, 3, 16, 24), torch.randn(2, 4, 8, 12)
    encoded = theirs.encode(x)
    mean = encoded.latents if name == 'VQModel' else encoded.latent_dist.mean
    assert (first.posterior(x)[0] - mean).abs().max() < 1e-5
    z_in = z if more else theirs.post_quant_conv(z)
    ours = first.decoder.layers[:4](z)  # up to where theirs first doubles the size
    h = theirs.decoder.mid_block(theirs.decoder.conv_in(z_in))
    assert (ours - theirs.decoder.up_blocks[0].resnets[0](h, None)).abs().max() < 1e-4
    last = theirs.decoder.up_blocks[-1].resnets[-1].conv2.weight
    assert torch.equal(first.decoder.layers[-1].body[5].weight, last)
    coord, cell = (f(5).expand(2, -1, -1) for f in (make_coord, make_cell))
    assert first(x, coord, cell).shape == (2, 25, 3)

@pytest.mark.parametrize('conditional', [False, True])
@torch.no_grad()
def test_diffusers_unets(diffusers, conditional, tmp_path):
    net = diffusers.UNet2DModel(
        sample_size=8, in_channels=8 if conditional else 4, out_channels=4, block_out_channels=(128, 256),
        layers_per_block=1, attention_head_dim=32, down_block_types=('DownBlock2D', 'AttnDownBlock2D'),
        up_block_types=('AttnUpBlock2D', 'UpBlock2D')).eval()
    theirs = autoencoder(diffusers, 'VQModel', scaling_factor=.25)
    pipe = from_diffusers(theirs, net)
    ours = pipe.upscaler if conditional else pipe.generator
    z, t = torch.randn(2, net.config.in_channels, 8, 12), torch.tensor([3, 800])
    assert (ours.unet(z, t) - net(z, t).sample).abs().max() < 1e-5
    assert ours.scaling_factor == 4 and pipe.meta['size'] == 16
    pipe.save_pretrained(tmp_path)
    assert ARSR.from_pretrained(tmp_path, device='cpu').first.cfg == pipe.first.cfg

def test_diffusers_models_that_are_another_function(diffusers, refuses):
    with refuses('AutoencoderTiny'): from_diffusers(diffusers.AutoencoderTiny())
    with refuses('encoder has options'): from_diffusers(autoencoder(diffusers, 'AutoencoderKL', norm_num_groups=8))
