"The refiner starts as bicubic enlargement, learns the residual from noise-augmented latents, and is a part of a model."
import json
from dataclasses import replace
import pytest, torch
import arsr.train
from safetensors.torch import load_file
from torch.testing import assert_close
from conftest import descend
from arsr.coords import make_cell, make_coord, resize, to_model
from arsr.data import Renders, downsample
from arsr.field import FirstStage, FirstStageConfig, sample_bicubic
from arsr.pipeline import ARSR, back_project
from arsr.lab.recipes import FAST, PRESETS, Preset
from arsr.lab.stages import train_stage
from arsr.beyond.refining import (
    GRID_WEIGHT, DecoderLoss, EditedLatents, Patches, RefiningLoss, Windows, grid_artifact_loss, mix_noise,
    refiner_from, sample_latent_weight, sdedit)
from arsr.train import Settings
from arsr.unet import DenoiserConfig, UNetConfig

CONFIG = FirstStageConfig(ch=8, mult=(1, 2, 2), n_res=1, z=4, latent='norm', hidden=(16, 16))
UNET = UNetConfig(ch=8, mult=(1,), n_res=1, attn=())
UP = DenoiserConfig(UNET, z=4, conditional=True, schedule='cosine', prediction_type='v')

@pytest.fixture(scope='module', autouse=True)
def plain():
    "Plain arithmetic: a process may only have one kind."
    plain = dict(mixed_precision='no', layout=torch.contiguous_format, workers=0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(arsr.train, 'hardware', lambda: plain)
        yield

@pytest.fixture
def first():
    torch.manual_seed(0)
    return FirstStage(CONFIG).eval().requires_grad_(False)

def queries(size, n=2): return [f(size).expand(n, -1, -1) for f in (make_coord, make_cell)]

@pytest.mark.parametrize('small', [(8, 8), (4, 6)])
def test_it_begins_as_bicubic_enlargement_with_the_features_of_the_first_stage(first, small):
    refiner, (z, cond), lr = refiner_from(first), torch.randn(2, 2, 4, 8, 8), torch.rand(2, 3, *small) * 2 - 1
    latent_weight = torch.rand(2)
    prediction = refiner(z, cond, lr, latent_weight, *queries((9, 14))).transpose(1, 2).unflatten(2, (9, 14))
    assert_close(prediction, sample_bicubic(lr, (9, 14)), atol=1e-5, rtol=0)
    assert_close(refiner.features(z, cond, lr, latent_weight), first.decoder(z), atol=1e-5, rtol=1e-5)

def agree(renders, item, window, pixels):
    "Is every colour of a sample that of the ground truth at its query, in a window of the whole?"
    assert torch.equal(item['z'], -item['cond'])
    i, mirror = divmod(int(item['cond'][0, 0, 0]) // 1000, 2)
    lr = to_model(downsample(renders[i] / 255, 4))
    lr = lr.flip(-1) if mirror else lr
    t, l, b, r = window
    if 'lr' in item: assert_close(item['lr'], lr[:, round(8*t):round(8*b), round(8*l):round(8*r)])
    size = round(2 / item['cell'][0, 0].item() / (b - t))
    truth = renders.at(i, size)
    if mirror: truth = truth.flip(-1)
    at = item['coord'] * torch.tensor([b - t, r - l]) + torch.tensor([t + b - 1, l + r - 1])
    row, col = (((at + 1) / 2 * size) - .5).round().long().unbind(-1)
    assert item['coord'].shape == (pixels, 2)
    assert_close(item['rgb'], to_model(truth[:, row, col].T / 255))

@pytest.fixture
def numbered(few):
    """Pictures, and latents that number them: 1000 (2 i + mirror) + 100 row + column for the cells of picture i.

    z is the negative of cond."""
    row, col = torch.meshgrid(torch.arange(8.), torch.arange(8.), indexing='ij')
    cond = 1000 * torch.arange(8.).view(4, 2, 1, 1, 1) + 100 * row + col
    return Renders(few, base=32, sizes=(20, 40), per=2), dict(z=-cond, cond=cond)

def test_scattered_points_lie_in_their_crop(numbered):
    data = Windows(*numbered, factor=4, crop=4, queries=50)
    for k in range(20):
        item = data[k]
        top, left = divmod(int(item['cond'][0, 0, 0]) % 1000, 100)
        assert item['cond'].shape == (1, 4, 4) and item['cond'][0, 3, 3] - item['cond'][0, 0, 0] == 303
        agree(numbered[0], item, (top / 8, left / 8, top / 8 + .5, left / 8 + .5), 50)
        assert torch.equal(data[k]['rgb'], item['rgb'])

def test_latents_with_more_cells_than_pixels_are_cut_at_the_same_place(numbered):
    renders, latents = numbered
    fine = {name: z.repeat_interleave(2, -1).repeat_interleave(2, -2) for name, z in latents.items()}
    for k in range(5):
        a, b = Windows(renders, fine, 4, 4, 9)[k], Windows(renders, latents, 4, 4, 9)[k]
        assert torch.equal(a['z'][:, ::2, ::2], b['z'])

def test_a_patch_belongs_to_the_whole_picture(numbered):
    data = Patches(*numbered, factor=4, side=16)
    for k in range(20): agree(numbered[0], data[k], (0, 0, 1, 1), 256)

def test_it_learns_what_interpolation_lacks(first, drawings):
    torch.manual_seed(0)
    refiner, sharp = refiner_from(first).requires_grad_(True), torch.stack([drawings.view(i, 32) for i in (3, 400)])
    batch = dict(zip(('coord', 'cell'), queries((32, 32))), z=torch.randn(2, 4, 8, 8), cond=torch.randn(2, 4, 8, 8))
    batch |= dict(lr=to_model(downsample(sharp, 4)), rgb=to_model(sharp).flatten(2).transpose(1, 2))
    losses = descend(torch.optim.Adam(refiner.parameters(), 3e-3), lambda: RefiningLoss()(refiner, batch), 60)
    assert losses[-1] < .9 * losses[0]

def test_the_loss_is_of_pixels_of_patches_and_of_the_periodic_artefact(first, monkeypatch):
    monkeypatch.setattr('arsr.beyond.refining.sample_latent_weight', torch.ones)
    refiner, (z, cond) = refiner_from(first), torch.randn(2, 2, 4, 8, 8)
    batch = dict(zip(('coord', 'cell'), queries((32, 32))), z=z, cond=cond)
    batch |= dict(lr=torch.rand(2, 3, 8, 8), rgb=torch.rand(2, 32**2, 3))
    error = refiner(z, cond, batch['lr'], torch.ones(2), batch['coord'], batch['cell']) - batch['rgb']
    assert_close(RefiningLoss()(refiner, batch), error.abs().mean())
    artifact = GRID_WEIGHT * grid_artifact_loss(error, batch['coord'], (8, 8)).mean()
    loss = RefiningLoss(1., lambda a, b: torch.tensor([3., 5.]), 2.)
    assert_close(loss(refiner, batch), error.abs().mean() + 2 * (4 + artifact))

def test_the_loss_of_a_decoder_is_of_the_same_terms(first):
    z = torch.randn(2, 4, 8, 8)
    batch = dict(zip(('coord', 'cell'), queries((32, 32))), z=z, rgb=torch.rand(2, 32**2, 3))
    error = first.liif(first.decoder(z), batch['coord'], batch['cell']) - batch['rgb']
    assert_close(DecoderLoss()(first, batch), error.abs().mean())
    artifact = GRID_WEIGHT * grid_artifact_loss(error, batch['coord'], (8, 8)).mean()
    loss = DecoderLoss(0., lambda a, b: torch.tensor([3., 5.]), 2.)
    assert_close(loss(first, batch), error.abs().mean() + 2 * (4 + artifact))
    assert DecoderLoss(noise=.5)(first, batch) != DecoderLoss()(first, batch)

def test_the_latent_weight_is_a_share_of_the_variance():
    torch.manual_seed(0)
    z, noise = torch.randn(2, 3, 4, 64, 64)
    mixed = mix_noise(z, noise, torch.tensor([0, .3, 1]))
    assert torch.equal(mixed[0], noise[0]) and torch.equal(mixed[2], z[2])
    correlation = torch.corrcoef(torch.stack([mixed[1].flatten(), z[1].flatten()]))[0, 1]
    assert_close(correlation**2, torch.tensor(.3), atol=.02, rtol=0)
    latent_weight = sample_latent_weight(5000)
    assert 0 == latent_weight.min() and .99 < latent_weight.max() <= 1
    assert abs((latent_weight == 0).float().mean() - .2) < .03

@pytest.mark.parametrize('wave', [(1, 0), (0, 1), (1, 1), (1, -1), (2, 0)])
@pytest.mark.parametrize('size,cells,window', [(64, (16, 16), (0, 0, 1, 1)), (32, (32, 32), (.25, .5, .5, .75))])
def test_a_periodic_artefact_is_what_repeats_with_the_cells(wave, size, cells, window):
    coord = make_coord(size, window)[None]
    at = (coord[0] + 1) / 2 * torch.tensor(cells)  # where, in cells; four pixels each
    def pattern(k):
        wave = .1 * (2 * torch.pi * (at * torch.tensor(k)).sum(1) + .3).cos()
        return wave[None, :, None].expand(1, -1, 3)
    strength = grid_artifact_loss(pattern(wave), coord, cells)
    assert strength > 1e-3 and grid_artifact_loss(pattern((wave[0] + .5, wave[1])), coord, cells) < .01 * strength
    assert_close(grid_artifact_loss(3 * pattern(wave), coord, cells), 3 * strength)

def write_pictures(folder, drawings, n):
    "The first n of every 31st drawing, 64 pixels, into a new folder."
    from PIL import Image
    folder.mkdir()
    for i in range(n):
        x = (drawings.view(31 * i, 64) * 255).byte().permute(1, 2, 0)
        Image.fromarray(x.numpy()).save(folder/f'{i}.png')

STAGES_UP = ('first', 'latent', 'refine', 'finish', 'fast')
QUICK = {k: Settings(batch=2, warmup=1) for k in STAGES_UP}

@pytest.fixture(scope='module')
def trained(tmp_path_factory, drawings):
    "A toy upscaler after every stage."
    root = tmp_path_factory.mktemp('refined')
    write_pictures(root/'pictures', drawings, 6)
    PRESETS['toy-up'] = Preset('upscaler', CONFIG, UP, base=32, sizes=(32, 48), crop=16, perceptual=.1, settings=QUICK)
    for stage in STAGES_UP: train_stage('toy-up', stage, root/'run', data=str(root/'pictures'), steps=2)
    yield root/'run'
    del PRESETS['toy-up']

def test_a_refined_model_is_saved_and_opened(trained, tmp_path):
    pipe, lr = ARSR.from_pretrained(trained), torch.rand(3, 8, 12)
    assert {*pipe.parts} == {'first', 'upscaler', 'refiner', 'refiner_fast'}
    assert pipe.refiner_fast.cfg.hidden == FAST.hidden
    field = pipe.upscale(lr, seed=0, n=2)
    for renderer in ('exact', 'fast'): assert field.render(scale=3.3, renderer=renderer).shape == (2, 3, 26, 40)
    again = ARSR.from_pretrained(pipe.save_pretrained(tmp_path)).upscale(lr, seed=0, n=2)
    assert_close(again.render(scale=2), field.render(scale=2), atol=2e-3, rtol=0)
    config = json.loads((tmp_path/'config.json').read_text())
    assert set(config) == {'meta', 'first', 'upscaler', 'refiner', 'refiner_fast'}
    assert config['meta']['defaults'] == {'upscale': {'latent_weight': .5}}

def test_at_weight_zero_the_sampler_changes_nothing(trained):
    "Then it is regression: seeds and steps make no difference. And nothing is sampled."
    pipe, lr, calls = ARSR.from_pretrained(trained, 'cpu'), torch.rand(3, 8, 12), []
    def rgb(latent_weight, **kwargs):
        how = dict(latent_weight=latent_weight, back_project=False, callback=lambda *_: calls.append(1))
        return pipe.upscale(lr, **how, **kwargs).render(scale=2)
    assert torch.equal(rgb(0., seed=0, steps=1), rgb(0., seed=1, steps=5)) and not calls
    assert not torch.equal(rgb(1., seed=0, steps=1), rgb(1., seed=0, steps=5)) and len(calls) == 6
    assert not torch.equal(rgb(1., seed=0), rgb(1., seed=1))

@pytest.mark.parametrize('latent_weight', [-.1, 1.5])
def test_the_latent_weight_is_a_share(trained, latent_weight, refuses):
    with refuses('latent_weight must be a number between 0 and 1'):
        ARSR.from_pretrained(trained, 'cpu').upscale(torch.rand(3, 8, 8), latent_weight=latent_weight)

def test_a_field_is_what_the_network_predicts(first):
    "`to_field` shows the mean of the noise-augmented latents, and is exact where the input fits into one tile."
    refiner, (z, cond), lr = refiner_from(first), torch.randn(2, 2, 4, 8, 8), torch.rand(2, 3, 8, 8)
    torch.nn.init.normal_(refiner.liif.mlp[-1].weight, std=.1)
    weight = torch.full((2,), .3)
    prediction = refiner(.3**.5 * z, cond, to_model(lr), weight, *queries((20, 20)))
    rendered = refiner.to_field(z, cond, lr, .3).decode_rgb((20, 20), (0, 0, 1, 1))
    assert_close(rendered, prediction.transpose(1, 2).unflatten(2, (20, 20)), atol=1e-5, rtol=0)

def test_stages_in_a_wrong_order(trained, tmp_path, refuses):
    PRESETS['toy-make'] = Preset('generator', CONFIG, UP)
    try:
        with refuses("only upscalers have a stage 'refine'", 'emoji-upscale'):
            train_stage('toy-make', 'refine', tmp_path, data=str(trained.parent/'pictures'), steps=1)
    finally: del PRESETS['toy-make']
    for part in trained.iterdir():
        if part.is_file() and 'refiner-refine' not in part.name: (tmp_path/part.name).write_bytes(part.read_bytes())
    with refuses('run --stage refine into the same folder before'):
        train_stage('toy-up', 'finish', tmp_path, data=str(trained.parent/'pictures'), steps=1)

def test_what_reads_a_generators_latents_is_finished(trained, tmp_path, refuses):
    new = replace(UP, conditional=False)
    PRESETS['toy-new'] = Preset('generator', CONFIG, new, base=32, sizes=(32, 48), crop=16, settings=QUICK)
    def train(stage): train_stage('toy-new', stage, tmp_path, data=str(trained.parent/'pictures'), steps=2)
    try:
        train('first')
        with refuses('run --stage latent into the same folder before'): train('finish')
        train('latent')
        before = load_file(tmp_path/'first.safetensors')
        train('finish')
    finally: del PRESETS['toy-new']
    after, made = load_file(tmp_path/'first.safetensors'), load_file(*tmp_path.glob('sdedit-*.safetensors'))['z']
    assert {k.split('.')[0] for k in before if not torch.equal(before[k], after[k])} == {'decoder', 'liif'}
    encoded = next(tmp_path.glob('latents-z-*.f16'))
    assert 2 * made.numel() == encoded.stat().st_size and made.isfinite().all()
    assert 'generator finish' in json.loads((tmp_path/'training.json').read_text())

@pytest.mark.parametrize('classes', [0, 3])
def test_edited_from_a_low_level_little_changes(make_denoiser, classes):
    net, (z, eps) = make_denoiser(classes=classes), torch.randn(2, 2, 4, 8, 8)
    near, far = (sdedit(net, z, eps, torch.tensor([0, 2]), level, 2) for level in (2, 900))
    assert near.shape == z.shape and (near - z).abs().mean() < .1 * (far - z).abs().mean()

def test_mirrored_latents_come_with_the_mirrored_picture(few):
    "One colour a picture and side: the latents say which, and the patch must be cut from it."
    renders = Renders(few, 32, (32, 48))
    sides = torch.tensor([10, 200]).repeat_interleave(16).to(torch.uint8)
    renders.at = lambda i, side: sides.expand(3, 32, 32)
    z = torch.stack([sides, sides.flip(0)])[:, None, None].expand(4, 2, 1, 32, 32).float()
    for k in range(8):
        item = EditedLatents(renders, z, z, side=32)[k]
        assert_close(((item['rgb'][:, 0] + 1) * 127.5).view(32, 32), item['z'][0])

def test_half_of_the_latents_are_edited(few):
    "Half are the encoder's, with noise over them, and half the generator's, without; sample k is always the same."
    z = torch.zeros(4, 2, 1, 8, 8)
    data = EditedLatents(Renders(few, 32, (32, 48)), z, z + 1, noise=.1, side=16)
    items = [data[k] for k in range(40)]
    edited = [bool((x['z'] == 1).all()) for x in items]
    assert 10 < sum(edited) < 30 and all(.05 < x['z'].std() < .2 for x, a in zip(items, edited) if not a)
    assert all(torch.equal(a, b) for a, b in zip(data[7].values(), items[7].values()))
    assert items[0]['rgb'].shape == (256, 3) and items[0]['coord'].shape == items[0]['cell'].shape == (256, 2)

def test_refining_needs_a_first_stage(trained, tmp_path, refuses):
    with refuses('run --stage first'):
        train_stage('toy-up', 'refine', tmp_path, data=str(trained.parent/'pictures'), steps=1)

@pytest.mark.parametrize('size, tile', [((30, 45), 16), ((17, 70), 40)])
def test_back_projection_in_tiles_is_that_of_the_whole(trained, size, tile):
    torch.manual_seed(0)
    lr = resize(torch.rand(1, 3, 6, 9), size).clamp(0, 1)
    field = ARSR.from_pretrained(trained).upscale(lr[0], seed=0, back_project=False)
    assert_close(back_project(field, lr, tile=tile).correction, back_project(field, lr).correction, atol=1e-5, rtol=0)
