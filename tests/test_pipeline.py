import copy, json, math, shutil
from functools import partial
from pathlib import Path
import pytest, torch
from PIL import Image
from torch.testing import assert_close
import arsr, arsr.pipeline, arsr.train, arsr.unet
from arsr import ARSR
from arsr.lab.cards import evaluation_photos, hub_card
from arsr.coords import resize
from arsr.data import downsample
from arsr.diffusion import cosine_schedule, sample_ddim, sample_ddpm, sample_dpmpp_2m, spaced_schedule
from arsr.field import FirstStage, FirstStageConfig, ImageField
from arsr.lab.metrics import psnr
from arsr.pipeline import (back_project, build_config, load_weights, sample_labels, save_weights, seeded_noise,
                           tile_options)
from arsr.unet import Denoiser, DenoiserConfig, UNetConfig

CATEGORIES = ['Animals', 'Food', 'Symbols']

def tiny_first(): return FirstStage(FirstStageConfig(ch=8, mult=(1, 2), n_res=1, z=4, latent='norm', hidden=(16,)))

def tiny_denoiser(ch=16, **kwargs):
    "Its zero-initialised layers are woken up, so that every input matters."
    unet = UNetConfig(ch=ch, mult=(1, 2), n_res=1, attn=(), classes=kwargs.pop('classes', 0))
    net = Denoiser(DenoiserConfig(unet, z=4, schedule='cosine', prediction_type='v', **kwargs))
    for p in net.parameters(): p.data += .1 * torch.randn_like(p)
    return net

@pytest.fixture(scope='module')
def pipe():
    "Random weights; an encoder with f = 2, and low resolution is two times smaller."
    torch.manual_seed(0)
    meta = {'name': 'tiny', 'size': 32, 'factor': 2, 'categories': CATEGORIES, 'shares': [.5, .3, .2]}
    return ARSR(tiny_first(), tiny_denoiser(classes=3), tiny_denoiser(conditional=True), meta)

@pytest.fixture
def saved(pipe, tmp_path): return pipe.save_pretrained(tmp_path/'tiny')

@pytest.fixture(autouse=True)
def exact(monkeypatch):
    "Plain arithmetic, so that one picture and a batch of them are rounded alike."
    monkeypatch.setattr(arsr.train, 'hardware', lambda: dict(mixed_precision='no', layout=torch.contiguous_format,
                                                             workers=0))

def picture(h, w, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return resize(torch.rand(3, 5, 5, generator=generator), (h, w)).clamp(0, 1)

# weights in, weights out

def test_what_is_saved_comes_back(pipe, saved):
    assert sorted(p.name for p in saved.iterdir()) == ['README.md', 'config.json', 'first.safetensors',
                                                       'generator.safetensors', 'upscaler.safetensors']
    again = ARSR.from_pretrained(saved, device='cpu')
    assert again.meta == pipe.meta and again.parts.keys() == pipe.parts.keys()
    for k, module in again.parts.items():
        assert module.cfg == pipe.parts[k].cfg and not module.training
        assert not any(p.requires_grad for p in module.parameters())
        for a, b in zip(module.state_dict().values(), pipe.parts[k].state_dict().values()):
            assert_close(a, b, atol=1e-3, rtol=1e-3)  # half precision
    third = ARSR.from_pretrained(again.save_pretrained(saved.parent/'again'), device='cpu')
    assert torch.equal(third.generate(2, seed=3, steps=2).feat, again.generate(2, seed=3, steps=2).feat)

def test_a_model_may_have_the_first_stage_alone(pipe, tmp_path, refuses):
    alone = ARSR.from_pretrained(ARSR(pipe.first, meta={'name': 'half'}).save_pretrained(tmp_path/'half'), device='cpu')
    assert alone.encode(picture(8, 8)).size == (8, 8)
    with refuses("the weights 'half' cannot generate", 'no generator'): alone.generate()
    with refuses("the weights 'half' cannot upscale", 'no upscaler'): alone.upscale(picture(8, 8))

@pytest.mark.parametrize('part', ['first', 'generator', 'upscaler'])
@pytest.mark.parametrize('share', [0, .01, .5, .99])
def test_truncated_weights(saved, part, share, refuses):
    path = saved/f'{part}.safetensors'
    path.write_bytes(path.read_bytes()[:int(share * path.stat().st_size)])
    with refuses(str(path), 'not a complete safetensors file'): ARSR.from_pretrained(saved)

def test_weights_of_another_model(saved, refuses):
    save_weights(tiny_denoiser(ch=8, classes=3), saved/'generator.safetensors')  # the same names
    with refuses('generator.safetensors does not fit its config.json', 'tensors differ in name or shape'):
        ARSR.from_pretrained(saved)
    save_weights(tiny_first(), saved/'generator.safetensors')
    with refuses('generator.safetensors does not fit its config.json'): ARSR.from_pretrained(saved)
    (saved/'generator.safetensors').unlink()
    with refuses('missing weights file', 'generator.safetensors'): ARSR.from_pretrained(saved)

@pytest.mark.parametrize('text, words', [
    ('', 'not valid JSON'), ('{"first": ', 'not valid JSON'), ('[]', 'not the configuration of a model'),
    ('{}', 'not the configuration of a model'),
    ('{"first": {"channels": 8}, "meta": {}}', 'channels'),
    ('{"first": 8, "meta": {}}', 'not the configuration of a model'),
    ('{"first": {"latent": "round"}, "meta": {}}', "not 'round'")])
def test_wrong_config(saved, text, words, refuses):
    (saved/'config.json').write_text(text)
    with refuses(words): ARSR.from_pretrained(saved)

def test_config_without_meta(saved, refuses):
    config = json.loads((saved/'config.json').read_text())
    del config['meta']
    (saved/'config.json').write_text(json.dumps(config))
    with refuses('not the configuration of a model', 'meta'): ARSR.from_pretrained(saved)

def test_unknown_name(tmp_path, refuses):
    with refuses("no weights called 'nothing'", 'a folder with a config.json', 'hub id OWNER/NAME'):
        ARSR.from_pretrained('nothing')
    with refuses('no weights called'): ARSR.from_pretrained(tmp_path)  # a folder with nothing in it

def test_a_hub_id_is_fetched(saved, monkeypatch, refuses):
    import huggingface_hub
    asked = []
    monkeypatch.setattr(huggingface_hub, 'snapshot_download', lambda name, **kwargs: asked.append(name) or str(saved))
    assert ARSR.from_pretrained('owner/tiny', device='cpu').meta['name'] == 'tiny' and asked == ['owner/tiny']
    def offline(name, **kwargs): raise huggingface_hub.errors.LocalEntryNotFoundError('no network\nand a second line')
    monkeypatch.setattr(huggingface_hub, 'snapshot_download', offline)
    with refuses("'owner/tiny' is no folder here", 'no network'): ARSR.from_pretrained('owner/tiny')

def test_a_crash_while_saving_leaves_the_old_weights(pipe, saved, monkeypatch):
    before = {p.name: p.read_bytes() for p in saved.iterdir()}
    write = Path.write_bytes
    def crash(path, content):
        write(path, content[:4])
        raise OSError('disk full')
    monkeypatch.setattr(Path, 'write_bytes', crash)
    with pytest.raises(OSError, match='disk full'): pipe.save_pretrained(saved)
    assert {p.name: p.read_bytes() for p in saved.iterdir()} == before

def test_statistics_survive_half_precision(tmp_path):
    first = tiny_first()
    first.norm.running_var.fill_(3.3)
    first.norm.num_batches_tracked.fill_(70_001)
    save_weights(first, tmp_path/'first.safetensors')
    load_weights(again := tiny_first(), tmp_path/'first.safetensors')
    assert again.norm.num_batches_tracked == 70_001
    assert_close(again.norm.running_var, first.norm.running_var, atol=2e-3, rtol=0)

# noise and seeds

def test_noise_belongs_to_a_seed():
    a, b = seeded_noise((4, 2, 3, 5), 7), seeded_noise((2, 2, 3, 5), 9)
    assert a.shape == (4, 2, 3, 5) and torch.equal(a[2:], b) and not torch.equal(a[0], a[1])
    assert not torch.equal(seeded_noise((1, 2, 3, 5), None), seeded_noise((1, 2, 3, 5), None))
    assert abs(seeded_noise((1, 4, 64, 64), 0).std() - 1) < .02

def make(pipe, task, n=1, seed=0, **kwargs):
    if task == 'generate': return pipe.generate(n, seed=seed, steps=2, **kwargs)
    return pipe.upscale(picture(10, 12), n=n, seed=seed, steps=2, **kwargs)

@pytest.mark.parametrize('task', ['generate', 'upscale'])
def test_image_k_of_a_seed_is_the_first_of_seed_plus_k(pipe, task):
    many = make(pipe, task, n=3, seed=5)
    for k in range(3):
        assert_close(many[k].render(size=20), make(pipe, task, seed=5 + k).render(size=20), atol=1e-4, rtol=0)

@pytest.mark.parametrize('task', ['generate', 'upscale'])
def test_the_same_seed_gives_the_same_answer_and_another_seed_another(pipe, task):
    answers = make(pipe, task, n=4)
    assert torch.equal(answers.feat, make(pipe, task, n=4).feat)
    x = answers.render(size=16)
    for i in range(4):
        for k in range(i): assert (x[i] - x[k]).abs().mean() > 1e-3
    assert not torch.equal(make(pipe, task, seed=None).feat, make(pipe, task, seed=None).feat)

@pytest.mark.parametrize('sampler', [sample_ddpm, partial(sample_ddim, eta=1.)])
@pytest.mark.parametrize('task', ['generate', 'upscale'])
def test_fresh_noise_belongs_to_the_seed_too(pipe, task, sampler):
    many = make(pipe, task, n=2, seed=5, sampler=sampler)
    assert torch.equal(many.feat, make(pipe, task, n=2, seed=5, sampler=sampler).feat)
    for k in range(2):
        alone = make(pipe, task, seed=5 + k, sampler=sampler)
        assert_close(many[k].render(size=20), alone.render(size=20), atol=1e-4, rtol=0)
    pictures = [picture(8, 9, 1), picture(8, 9, 2)]
    together = pipe.upscale(pictures, seed=5, n=2, steps=2, sampler=sampler).feat
    alone = pipe.upscale(pictures[1], seed=5, n=2, steps=2, sampler=sampler).feat
    assert_close(together[2:], alone, atol=1e-4, rtol=0)

def test_ddpm_takes_all_steps_and_follows_its_seed(pipe):
    pipe = copy.deepcopy(pipe)
    pipe.generator.alphas_cumprod = cosine_schedule(T=3)
    a, b, c = (pipe.generate(1, size=8, seed=seed, sampler='ddpm').feat for seed in (1, 1, 2))
    assert torch.equal(a, b) and not torch.equal(a, c)

# generate

@pytest.mark.parametrize('sampler', ['ddpm', 'ddim', 'dpmpp_2m'])
@pytest.mark.parametrize('task', ['generate', 'upscale'])
def test_all_chance_comes_from_the_generator_passed(sampler, task):
    cfg = FirstStageConfig(ch=8, mult=(1, 2), n_res=1, z=4, latent='gaussian', hidden=(16,))
    pipe = ARSR(FirstStage(cfg), generator=tiny_denoiser(), upscaler=tiny_denoiser(conditional=True))
    def render():
        given = torch.Generator().manual_seed(5)
        args = (2,) if task == 'generate' else (picture(8, 8),)
        return getattr(pipe, task)(*args, steps=3, sampler=sampler, generator=given).render(size=24), given.get_state()
    before = torch.get_rng_state()
    a, used = render()
    assert torch.equal(before, torch.get_rng_state())
    torch.manual_seed(77)
    b, again = render()
    assert torch.equal(a, b) and torch.equal(used, again)

def test_a_factor_that_is_no_multiple_of_f_refused(refuses):
    parts = dict(first=tiny_first(), upscaler=tiny_denoiser(conditional=True))
    with refuses('factor must be a multiple', 'which is 2', 'not 3'): ARSR(**parts, meta=dict(factor=3))
    field = ARSR(**parts, meta=dict(factor=6)).upscale(picture(9, 8), seed=0, steps=1)
    assert field.feat.shape[-2:] == (27, 24)

def test_weights_that_are_not_finite_are_not_saved(pipe, saved, refuses):
    before = (saved/'first.safetensors').read_bytes()
    first = tiny_first()
    for value in (float('nan'), 1e5):  # in half precision the second is infinite
        first.liif.mlp[0].bias.data[0] = value
        with refuses('first.safetensors is not written', 'not finite'): save_weights(first, saved/'first.safetensors')
    assert (saved/'first.safetensors').read_bytes() == before

@pytest.mark.parametrize('size, own', [(None, (32, 32)), (16, (16, 16)), ((20, 44), (20, 44)), (33, (32, 32)),
                                       (1, (2, 2))])
def test_generated_sizes(pipe, size, own):
    field = pipe.generate(2, size=size, seed=0, steps=1)
    assert len(field) == 2 and field.size == own and field.feat.shape[-2:] == (own[0] // 2, own[1] // 2)
    x = field.render(scale=1.5)
    assert x.shape == (2, 3, round(1.5 * own[0]), round(1.5 * own[1])) and 0 <= x.min() and x.max() <= 1

def test_a_category_is_drawn_as_often_as_it_occurs_and_can_be_asked_for(pipe):
    sampled = sample_labels(pipe.meta, 2000, 0).bincount(minlength=3) / 2000
    assert_close(sampled, torch.tensor([.5, .3, .2]), atol=.04, rtol=0)
    assert torch.equal(sample_labels(pipe.meta, 10, 3), sample_labels(pipe.meta, 13, 0)[3:])
    assert sample_labels(pipe.meta, 2, 0, category='Food').tolist() == [1, 1]
    food, symbols = (pipe.generate(1, seed=0, steps=2, category=c).feat for c in ('Food', 'Symbols'))
    assert not torch.allclose(food, symbols)

def test_a_category_has_classes_and_either_can_be_asked_for():
    meta = dict(categories=['Food / fruit', 'Food / drink', 'Symbols / other'], shares=[.5, .3, .2])
    sampled = sample_labels(meta, 400, 0, category='Food').bincount(minlength=3) / 400
    assert_close(sampled, torch.tensor([.5, .3, 0]) / .8, atol=.08, rtol=0)
    assert sample_labels(meta, 3, 0, category='drink').tolist() == [1, 1, 1]
    with pytest.raises(ValueError, match="choose one of Food, Symbols$"): sample_labels(meta, 1, 0, category='fruits')

def test_guidance_of_one_is_the_plain_denoiser_and_more_goes_further(pipe):
    feats = [pipe.generate(1, seed=0, steps=2, category='Food', guidance=g).feat for g in (0., 1., 2.)]
    assert not torch.allclose(feats[0], feats[1]) and not torch.allclose(feats[1], feats[2])
    label = torch.tensor([1])
    schedule = spaced_schedule(pipe.generator.alphas_cumprod, 2)
    z = sample_dpmpp_2m(lambda z, t: pipe.generator(z, t, label=label), seeded_noise((1, 4, 16, 16), 0), schedule)
    assert_close(feats[1], pipe.first.decoder(z), atol=1e-4, rtol=1e-4)

def test_a_latent_of_the_generator_is_scaled_back(pipe):
    seen, scaled = [], copy.deepcopy(pipe)
    scaled.generator.scaling_factor.fill_(3.)
    for p in (copy.deepcopy(pipe), scaled):
        p.decode = lambda z, size: seen.append(z)
        p.generate(1, seed=0, steps=1)
    assert_close(seen[1], 3 * seen[0])

def test_a_sampler_may_be_a_function(pipe):
    query = dict(n=1, seed=0, steps=3)
    a, b = (pipe.generate(**query, sampler=sampler).render(size=16) for sampler in (sample_ddim, 'ddim'))
    assert_close(a, b)

@pytest.mark.parametrize('kwargs, words', [
    (dict(category='Dragons'), ("unknown category 'Dragons'", 'Animals, Food, Symbols')),
    (dict(n=0), ('n must be a whole number of at least 1',)),
    (dict(steps=0), ('steps must be a whole number between 1 and 1000, not 0',)),
    (dict(steps=4.), ('whole number between 1 and 1000, not 4.0',)),
    (dict(sampler='euler'), ("unknown sampler 'euler'", 'dpmpp_2m')),
    (dict(guidance='2'), ("guidance must be a number, not '2'",)),
    (dict(guidance=float('nan')), ('guidance must be a number',)),
    (dict(n=1.5), ('n must be a whole number of at least 1, not 1.5',)),
    (dict(n=True), ('n must be a whole number',)), (dict(size='64'), ("not '64'",)),
    (dict(generator=torch.Generator()), ('seed or generator',)),
    (dict(size=0), ('size must be a whole number',)), (dict(size=(8, -8)), ('size must be a whole number',)),
    (dict(distilled=True, steps=None), ("the weights 'tiny' cannot take few steps: they have no distilled",))])
def test_wrong_requests(pipe, kwargs, words, refuses):
    with refuses(*words): pipe.generate(**dict(steps=1, seed=0) | kwargs)

def test_a_category_where_there_are_none(pipe, refuses):
    plain = ARSR(pipe.first, tiny_denoiser(), meta={'name': 'plain', 'size': 16})
    assert plain.generate(1, size=8, seed=0, steps=1).size == (8, 8)
    with refuses("the weights 'plain' know no categories"): plain.generate(category='Food')

# upscale

def test_upscaled_sizes(pipe):
    field = pipe.upscale(picture(9, 14), seed=0, n=2, steps=1)
    assert len(field) == 2 and field.size == (9, 14) and field.feat.shape[-2:] == (9, 14)
    assert field.render(scale=3.7).shape == (2, 3, 33, 52)

def test_any_kind_of_image(pipe, tmp_path):
    array = (picture(8, 9).permute(1, 2, 0) * 255).round().byte().numpy()
    Image.fromarray(array).save(tmp_path/'a.png')
    classes = [array, torch.from_numpy(array).permute(2, 0, 1) / 255, Image.fromarray(array), tmp_path/'a.png',
               str(tmp_path/'a.png')]
    feats = [pipe.upscale(image, seed=0, steps=1).feat for image in classes]
    for feat in feats[1:]: assert_close(feat, feats[0], atol=1e-5, rtol=0)
    assert pipe.encode(tmp_path/'a.png').size == (8, 9)

def test_wrong_images(pipe, tmp_path, refuses):
    (tmp_path/'text.png').write_text('hello')
    for task in (pipe.upscale, pipe.encode):
        with refuses('no such image file'): task(tmp_path/'nowhere.png')
        with refuses('text.png is not an image that can be read'): task(tmp_path/'text.png')
        with refuses('NaN'): task(torch.full((3, 4, 4), torch.nan))
        with refuses('(3,h,w)'): task(torch.zeros(2, 5, 4, 5))
        with refuses('the list of images is empty'): task([])

def test_pictures_together_get_the_answers_that_they_get_alone(pipe):
    a, b = picture(8, 9, 1), picture(8, 9, 2)
    for together in ([a, b], torch.stack([a, b]), (a, b)):
        feat = pipe.upscale(together, seed=5, n=2).feat
        for k, alone in enumerate((a, b)):
            assert_close(feat[2*k:2*k+2], pipe.upscale(alone, seed=5, n=2).feat, atol=1e-4, rtol=0)
    assert len(pipe.encode([a, b, a])) == 3

def test_pictures_of_several_sizes_get_a_field_each(pipe):
    pictures = [picture(8, 9, 1), picture(6, 6, 2), picture(8, 9, 3)]
    fields = pipe.upscale(pictures, seed=5, n=2)
    assert [field.size for field in fields] == [(8, 9), (6, 6), (8, 9)]
    assert [len(field) for field in fields] == [2, 2, 2]
    for field, x in zip(fields, pictures):
        assert_close(field.feat, pipe.upscale(x, seed=5, n=2).feat, atol=1e-4, rtol=0)
    assert [field.size for field in pipe.encode(pictures)] == [(8, 9), (6, 6), (8, 9)]

def test_the_input_decides(pipe):
    a, b = (pipe.upscale(picture(10, 10, seed), seed=0, steps=2, back_project=False).render(size=20) for seed in (1, 2))
    assert (a - b).abs().mean() > 1e-3

def border_steps(feat, at):
    "Mean step between neighbouring columns at window borders, over that elsewhere."
    step = feat.diff(dim=-1).abs().mean((0, 1, 2))
    border = torch.zeros(len(step), dtype=torch.bool)
    border[[k - 1 for k in at]] = True
    return (step[border].mean() / step[~border].mean()).item()

def test_a_large_image_has_no_seam(pipe):
    assert arsr.unet._starts(100, 64, 16) == [0, 36]  # windows begin at 36 and end at 64
    assert border_steps(pipe.upscale(picture(12, 100), seed=0, steps=2, back_project=False).feat, (36, 64)) < 1.3

def flat_weights(n, window, overlap, grow=1, device=None):
    "As `blend_weights`, but all windows over a cell count the same."
    starts, windows = arsr.unet._starts(n, window, overlap), torch.zeros(grow * n)
    for start in starts: windows[grow * start:grow * (start + window)] += 1
    return [(start, 1 / windows[grow * start:grow * (start + window)]) for start in starts]

@pytest.mark.parametrize('blended', [True, False])
def test_windows_that_disagree_are_blended(pipe, monkeypatch, blended):
    windowed = copy.deepcopy(pipe)
    def own_mean(z, t, cond): return cond.mean((1, 2, 3), keepdim=True).expand_as(z)
    windowed.upscaler.forward = own_mean
    windowed.decode = lambda z, size: z
    if not blended: monkeypatch.setattr(arsr.unet, 'blend_weights', flat_weights)
    z = windowed.upscale(torch.linspace(0, 1, 100).expand(3, 12, 100), seed=0, steps=2, back_project=False)
    largest = (z.diff(dim=-1).abs().max() / (z[..., -1] - z[..., 0]).abs().max()).item()
    assert largest < 2 / 28 if blended else largest > 1 / 3  # 28 columns belong to both windows

def test_windows_see_all_of_a_large_image(pipe):
    lr = picture(12, 90)
    a = pipe.upscale(lr, seed=0, steps=1)
    lr[:, :, 80:] = 1 - lr[:, :, 80:]
    change = (pipe.upscale(lr, seed=0, steps=1).feat - a.feat).abs().mean((0, 1, 2))
    assert a.size == (12, 90) and change[80:].mean() > 3 * change[:20].mean()

def test_a_photograph_in_windows_is_nearly_that_of_one_piece(photo, monkeypatch):
    "At least 44 dB between the two, and no larger steps at the borders of the windows than elsewhere."
    lr = evaluation_photos()['coffee'][:, 50:114, 40:200]
    def predict(): return photo.upscale(lr, seed=0, latent_weight=.25).render(scale=2)[0]
    pieces = predict()
    for module in (arsr.pipeline, arsr.beyond.refining, arsr.beyond.restoring):
        monkeypatch.setattr(module, 'tiled_apply', lambda f, *maps, **_: f(*maps))
    whole = predict()
    assert 44 < psnr(pieces, whole) < 80
    step = (pieces - whole).mean(0).diff(dim=1).abs().mean(0)
    assert arsr.unet._starts(160, 64, 16) == [0, 48, 96]
    assert step[[2 * k - 1 for k in (48, 64, 96, 112)]].mean() < 1.5 * step.mean()

# consistency

def test_back_projection_brings_an_answer_closer_to_its_input(pipe):
    lr = .25 + .5 * picture(12, 16)[None]
    plain, fixed = (pipe.upscale(lr[0], seed=0, steps=2, back_project=c) for c in (False, True))
    def miss(field): return (downsample(field.render(size=(24, 32)), 2) - lr).abs().mean().item()
    assert plain.correction is None and miss(fixed) < .2 * miss(plain)
    assert torch.equal(plain.feat, fixed.feat)

def test_back_projection_goes_on_from_a_correction_and_leaves_its_field_alone(pipe):
    lr = .25 + .5 * picture(12, 16)[None]
    field = pipe.upscale(lr[0], seed=0, steps=1, back_project=False)
    once = back_project(field, lr, factor=2, rounds=1)
    assert field.correction is None
    kept = once.correction.clone()
    twice = back_project(once, lr, factor=2, rounds=1)
    assert torch.equal(once.correction, kept)
    assert_close(twice.correction, back_project(field, lr, factor=2, rounds=2).correction)

def test_a_true_answer_is_not_corrected(pipe):
    field = pipe.encode(picture(16, 16))
    lr = downsample(field.render(size=32), 2)
    assert_close(back_project(field, lr, factor=2, rounds=2).correction, torch.zeros(1, 3, 16, 16), atol=1e-5, rtol=0)

# encode

@pytest.mark.parametrize('size', [(8, 8), (7, 13), (1, 5)])
def test_encode_keeps_the_size(pipe, size):
    field = pipe.encode(picture(*size))
    assert isinstance(field, ImageField) and field.size == size
    assert field.render(scale=2).shape == (1, 3, 2 * size[0], 2 * size[1])

# the interface

def test_the_face_of_the_package():
    assert arsr.ARSR is ARSR is arsr.pipeline.ARSR and arsr.ImageField is ImageField and callable(arsr.load_image)
    assert {'ARSR', 'ImageField', 'load_image'} <= set(dir(arsr))
    with pytest.raises(AttributeError, match='nothing'): print(arsr.nothing)

def test_it_is_a_module_that_takes_modules_as_they_are():
    first = tiny_first()
    before = [(p.data_ptr(), p.stride(), p.requires_grad) for p in first.parameters()]
    model = ARSR(first)
    assert model.first is first and [(p.data_ptr(), p.stride(), p.requires_grad) for p in first.parameters()] == before
    assert isinstance(model, torch.nn.Module) and model.device.type == 'cpu' and model.dtype == torch.float32
    assert not model.training and set(model.parts) == {'first'} and model.to('meta').device.type == 'meta'

def test_unknown_parts_are_refused(pipe, saved, refuses):
    with refuses('no part called critic', 'first, generator, upscaler'): ARSR(pipe.first, critic=pipe.generator)
    config = json.loads((saved/'config.json').read_text())
    (saved/'config.json').write_text(json.dumps(config | {'critic': {}}))
    with refuses('the model has critic, which nobody registered'): ARSR.from_pretrained(saved)

@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
def test_half_precision(pipe, saved, dtype):
    half = ARSR.from_pretrained(saved, device='cpu', dtype=dtype)
    assert half.dtype == dtype and half.generator.alphas_cumprod.dtype == torch.float32
    def fields(p): return p.generate(1, seed=0, steps=2), p.upscale(picture(9, 8), seed=0), p.encode(picture(8, 9))
    for a, b in zip(fields(half), fields(pipe)): assert_close(a.render(scale=2), b.render(scale=2), atol=.1, rtol=0)

def test_a_device_is_found(monkeypatch):
    there = {'cuda': True, 'mps': True}
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: there['cuda'])
    monkeypatch.setattr(torch.backends.mps, 'is_available', lambda: there['mps'])
    for best in ('cuda', 'mps', 'cpu'):
        assert arsr.pipeline.find_device() == best
        there[best] = False

def test_what_the_hub_is_asked(saved, monkeypatch):
    import huggingface_hub
    asked = {}
    monkeypatch.setattr(huggingface_hub, 'snapshot_download', lambda name, **kwargs: asked.update(kwargs) or str(saved))
    options = dict(revision='v2', cache_dir='here', token='secret', local_files_only=True)
    ARSR.from_pretrained('owner/tiny', device='cpu', **options)
    assert asked.items() >= options.items()

def test_a_revision_in_the_hub_s_own_cache(saved, tmp_path):
    "Pulled from a local folder in the hub's layout, pinned to one of two revisions, without a network."
    repo, wanted, other = tmp_path/'models--owner--tiny', 'a' * 40, 'b' * 40
    shutil.copytree(saved, repo/'snapshots'/wanted)
    (repo/'snapshots'/other).mkdir()  # where nothing is
    (repo/'refs').mkdir()
    (repo/'refs'/'main').write_text(other)
    pulled = ARSR.from_pretrained('owner/tiny', 'cpu', revision=wanted, cache_dir=tmp_path, local_files_only=True)
    ours = ARSR.from_pretrained(saved, 'cpu').state_dict()
    assert pulled.state_dict().keys() == ours.keys()
    assert all(torch.equal(x, ours[k]) for k, x in pulled.state_dict().items())

def test_push_to_hub_uploads_what_save_pretrained_writes(pipe, monkeypatch):
    import huggingface_hub.hub_mixin as mixin
    uploaded = {}
    class Api:
        def __init__(self, **kwargs): pass
        def create_repo(self, repo_id, **kwargs): return type('Repo', (), {'repo_id': repo_id})
        def upload_folder(self, folder_path, **kwargs):
            uploaded['names'] = sorted(p.name for p in folder_path.iterdir())
    monkeypatch.setattr(mixin, 'HfApi', Api)
    pipe.push_to_hub('owner/tiny')
    assert uploaded['names'] == ['README.md', 'config.json', 'first.safetensors', 'generator.safetensors',
                                 'upscaler.safetensors']

def figures(results):
    "Of results.json: (table, row, name) -> a finite number."
    tables = {k: v for k, v in results.items() if isinstance(v, dict)}
    return {(title, row, name): value for title, table in tables.items() for row, found in table.items()
            if isinstance(found, dict) for name, value in found.items() if math.isfinite(value)}

@pytest.mark.parametrize('name', ['portraits', 'emoji', 'photo'])
def test_a_card_with_the_measured_figures_in_the_hub_s_format(pipe, saved, name, monkeypatch):
    from huggingface_hub import ModelCard
    for file in ('README.md', 'results.json'): shutil.copy(arsr.pipeline.WEIGHTS/name/file, saved)
    text = ModelCard((saved/'README.md').read_text()).text.strip()
    monkeypatch.setitem(pipe.meta, 'name', name)
    hub_card(pipe, saved)
    written = (saved/'README.md').read_text()
    hub_card(pipe, saved)
    assert (saved/'README.md').read_text() == written  # and not twice
    card, results = ModelCard.load(saved/'README.md'), json.loads((saved/'results.json').read_text())
    data = card.data
    assert (data.license, data.library_name, data.model_name) == ('apache-2.0', 'arsr', name)
    assert data.pipeline_tag == 'unconditional-image-generation' and data.tags and data.datasets
    found = {(x.dataset_name, x.dataset_config, x.metric_type): x.metric_value for x in data.eval_results}
    assert found == figures(results) and len(found) > 15
    assert card.text.strip().endswith(text) and '](preview.webp)' in card.text
    assert Image.open(saved/'preview.webp').size == (4 * 192, 192)

def test_a_card_goes_along_with_the_weights_that_were_measured(pipe, saved, tmp_path):
    (saved/'README.md').write_text('---\nlicense: mit\n---\nMeasured.')
    again = ARSR.from_pretrained(saved, device='cpu')
    assert (again.save_pretrained(tmp_path/'same')/'README.md').read_text().endswith('Measured.')
    again.first.liif.mlp[0].weight.data += 1
    assert 'Measured.' not in (again.save_pretrained(tmp_path/'other')/'README.md').read_text()
    assert (again.save_pretrained(saved)/'README.md').read_text().endswith('Measured.')  # what is there stays

def test_configurations_within_configurations():
    cfg = DenoiserConfig(UNetConfig(ch=32, mult=(1, 2)), conditional=True)
    assert build_config(DenoiserConfig, json.loads(json.dumps(arsr.pipeline.asdict(cfg)))) == cfg
    with pytest.raises(TypeError, match='wide'): build_config(UNetConfig, {'wide': 3})

# callbacks, generators, samplers with noise of their own

@pytest.mark.parametrize('task', ['generate', 'upscale'])
def test_a_callback_sees_every_step_and_ends_with_the_latent(pipe, task):
    seen = []
    def note(step, x0): seen.append((step, x0))
    field = make(pipe, task, n=2, callback=note, **{} if task == 'generate' else dict(back_project=False))
    assert [step for step, _ in seen] == [0, 1] and torch.equal(pipe.decode(seen[-1][1], field.size).feat, field.feat)

@pytest.mark.parametrize('task', ['generate', 'upscale'])
def test_a_generator_in_place_of_a_seed(pipe, task):
    def feat(seed): return make(pipe, task, n=2, seed=None, generator=torch.Generator().manual_seed(seed)).feat
    assert torch.equal(feat(3), feat(3)) and not torch.equal(feat(3), feat(4))

def test_ancestral_sampling_visits_all_timesteps_unless_told(pipe):
    assert pipe.options('generate', sampler='ddpm')['steps'] == 1000
    steps = []
    pipe.generate(size=4, seed=0, sampler='ddpm', steps=3, callback=lambda step, x0: steps.append(step))
    assert steps == [0, 1, 2]

# options beyond the paper

class Refiner(torch.nn.Module):
    "Notes what it is given, and predicts bicubic enlargement."
    def to_field(self, z, cond, lr, latent_weight, fast=None):
        self.given = z, cond, latent_weight
        return ImageField(2 * lr - 1, arsr.field.Bicubic(), lr.shape[-2:])

class Restorer(torch.nn.Module):
    def restore(self, lr, strength=None):
        self.given = strength
        return lr * .5

@pytest.fixture
def refined(pipe):
    parts = pipe.parts
    return ARSR(parts['first'], upscaler=parts['upscaler'], meta=pipe.meta | {'defaults': {}}, refiner=Refiner(),
                restorer=Restorer())

def test_the_paper_path_is_nothing_else(pipe, refined):
    lr = picture(6, 7)
    field = refined.upscale(lr, seed=0, refine=False)
    assert not hasattr(refined.refiner, 'given') and not hasattr(refined.restorer, 'given') and field.correction is None
    assert torch.equal(field.feat, pipe.upscale(lr, seed=0, back_project=False).feat)
    net, cond = refined.upscaler, refined.condition(lr[None])
    with torch.no_grad():
        schedule = spaced_schedule(net.alphas_cumprod, 2)
        z = sample_dpmpp_2m(lambda z, t: net(z, t, cond), seeded_noise(cond.shape, 0), schedule)
        assert torch.equal(field.feat, refined.first.decoder(z * net.scaling_factor))

def test_options_come_from_the_call_then_from_the_weights_then_by_default(refined):
    assert refined.options('upscale') == dict(steps=2, sampler='dpmpp_2m', refine=True, latent_weight=1.,
                                              restore='auto', back_project=True)
    refined.meta['defaults'] = {'upscale': dict(latent_weight=.25, restore=.5, back_project=False)}
    options = refined.options('upscale', restore=0)
    assert options == dict(steps=2, sampler='dpmpp_2m', refine=True, latent_weight=.25, restore=0, back_project=False)
    assert refined.options('upscale', refine=False) == dict(steps=2, sampler='dpmpp_2m', refine=False, restore=0.,
                                                            back_project=False)
    assert refined.options('upscale', refine=False, back_project=True)['back_project']

def test_without_latent_weight_nothing_is_sampled(refined):
    calls = []
    field = refined.upscale(picture(6, 7), n=2, latent_weight=0, callback=lambda step, x0: calls.append(step))
    z, cond, weight = refined.refiner.given
    assert calls == [] and weight == 0 and not z.any() and cond.shape == z.shape and len(field) == 2
    refined.upscale(picture(6, 7), latent_weight=.5, callback=lambda step, x0: calls.append(step))
    assert calls == [0, 1] and refined.refiner.given[0].any()

@pytest.mark.parametrize('restore, strength', [(None, None), ('auto', None), (.3, .3), (1, 1)])
def test_what_a_restorer_is_told(refined, restore, strength):
    field = refined.upscale(picture(6, 7), seed=0, restore=restore, back_project=False)
    assert refined.restorer.given == strength
    assert_close(field.render(scale=1)[0], picture(6, 7) * .5, atol=1e-5, rtol=0)

def test_no_restoring_at_zero(refined):
    refined.upscale(picture(6, 7), seed=0, restore=0)
    assert not hasattr(refined.restorer, 'given')

@pytest.mark.parametrize('kwargs, words', [
    (dict(refine='yes'), "refine must be True or False, not 'yes'"),
    (dict(back_project=1), 'back_project must be True or False, not 1'),
    (dict(latent_weight=2), 'latent_weight must be a number between 0 and 1, not 2'),
    (dict(latent_weight='1'), "not '1'"),
    (dict(restore='much'), "restore, unless 'auto', must be a number between 0 and 1, not 'much'"),
    (dict(restore=-1), 'restore'),
    (dict(refine=False, latent_weight=.5), 'latent_weight is an option of the refiner'),
    (dict(steps=2.5), 'steps must be a whole number'),
    (dict(sampler='euler'), "unknown sampler 'euler'"), (dict(n=0), 'n must be a whole number of at least 1'),
    (dict(refine=False, seed=0, generator=torch.Generator()), 'seed or generator')])
def test_wrong_options(refined, kwargs, words, refuses):
    with refuses(words): refined.upscale(picture(6, 7), **kwargs)

def test_options_that_weights_lack(pipe, refuses):
    with refuses("the weights 'tiny' cannot refine: they have no refiner"): pipe.upscale(picture(6, 7), refine=True)
    with refuses("the weights 'tiny' cannot restore: they have no restorer"):
        pipe.upscale(picture(6, 7), restore='auto')
    with refuses('latent_weight is an option of the refiner'): pipe.upscale(picture(6, 7), latent_weight=.5)

# the shipped weights

def test_the_defaults_of_the_shipped_weights(emoji, photo):
    assert photo.options('upscale') == dict(steps=2, sampler='dpmpp_2m', refine=True, latent_weight=0, restore='auto',
                                            back_project=True)
    assert emoji.options('upscale') == dict(steps=2, sampler='dpmpp_2m', refine=True, latent_weight=.5, restore=0,
                                            back_project=True)
    assert emoji.options('generate') == dict(steps=10, sampler='dpmpp_2m', guidance=2., sample_attributes=True)
    portraits = ARSR.from_pretrained('portraits', device='cpu')
    assert portraits.options('generate') == dict(steps=10, sampler='ddpm', guidance=2., sample_attributes=True)
    assert [x.options('generate', sampler='ddpm')['steps'] for x in (portraits, emoji)] == [10, 1000]
    assert portraits.options('upscale')['sampler'] == 'dpmpp_2m'

@pytest.mark.parametrize('given', [dict(steps=4), dict(sampler='ddim'), dict(guidance=1.), dict(steps=4, guidance=2.)])
def test_distilled_steps_have_no_other_options(emoji, given, refuses):
    with refuses('distilled=True has its own', *given): emoji.generate(distilled=True, **given)

# attributes

WISHES = {'Animals': {'hair': {'long': .5, 'none': .5}, 'eyes': {'wide': 1.}}, 'Food': {'eyes': {'shut': 1.}}}

@pytest.fixture(scope='module')
def composed():
    "A model of two classes with attributes of their own."
    torch.manual_seed(0)
    unet = UNetConfig(ch=16, mult=(1, 2), n_res=1, attn=(), classes=2, attributes=4)
    net = Denoiser(DenoiserConfig(unet, z=4, schedule='cosine', prediction_type='v'))
    for p in net.parameters(): p.data += .3 * torch.randn_like(p)
    meta = {'name': 'composed', 'size': 16, 'categories': [*WISHES], 'shares': [.5, .5], 'attributes': WISHES}
    return ARSR(tiny_first(), net, meta=meta)

def test_what_is_wanted_says_which_classes_can_be_meant(composed):
    labels = sample_labels(composed.meta, 50, 0, wanted={'hair': 'long'})
    assert labels.tolist() == [[0, 1]] * 50
    both = sample_labels(composed.meta, 50, 0, wanted={'eyes': 'shut'})
    assert both.tolist() == [[1, 4]] * 50
    assert sample_labels(composed.meta, 50, 0).shape == (50,)
    assert sample_labels(composed.meta, 2, 0, wanted={'eyes': 'wide', 'hair': 'none'}).tolist() == [[0, 3, 2]] * 2

def test_attributes_that_nobody_wants_are_sampled_as_often_as_in_the_data(composed):
    labels = sample_labels(composed.meta, 400, 0, attributes=True)
    assert torch.equal(labels[:, 0], sample_labels(composed.meta, 400, 0))
    animals, food = (labels[labels[:, 0] == k, 1:].tolist() for k in range(2))
    assert all(row == [4, 0] for row in food) and {tuple(row) for row in animals} == {(1, 3), (2, 3)}
    assert abs(animals.count([1, 3]) / len(animals) - .5) < .1
    assert sample_labels(composed.meta, 50, 0, wanted={'hair': 'none'}, attributes=True).tolist() == [[0, 2, 3]] * 50
    assert torch.equal(sample_labels(composed.meta, 4, 5, attributes=True), labels[5:9])
    one = sample_labels(composed.meta, 4, generator=torch.Generator().manual_seed(0), attributes=True)
    assert one.shape == (4, 3)

def test_sampled_attributes_are_given_to_the_generator_unless_told_otherwise(composed):
    plain = composed.generate(1, seed=3, family='Animals')
    unknown = composed.generate(1, seed=3, family='Animals', sample_attributes=False)
    hair = 'long' if sample_labels(composed.meta, 1, 3, category='Animals', attributes=True)[0, 1] == 1 else 'none'
    asked = composed.generate(1, seed=3, hair=hair, eyes='wide', sample_attributes=False)
    assert torch.equal(plain.feat, asked.feat) and not torch.equal(plain.feat, unknown.feat)
    with pytest.raises(ValueError, match='^sample_attributes must be True or False'):
        composed.generate(sample_attributes='no')

@pytest.mark.parametrize('wanted,words', [
    (dict(hat='red'), ("unknown attribute 'hat'", 'hair')), (dict(hair='lang'), ("unknown hair 'lang'", 'long')),
    (dict(hair='long', eyes='shut'), ("unknown eyes 'shut'", 'wide'))])
def test_unknown_wishes_name_what_is_near(composed, wanted, words):
    with pytest.raises(ValueError) as e: composed.generate(1, **wanted)
    assert all(word in str(e.value) for word in words) and '\n' not in str(e.value)

def test_models_without_attributes_say_so(pipe):
    with pytest.raises(ValueError, match="'tiny' know no attributes such as hair"): pipe.generate(hair='long')

def test_wishes_change_the_picture_and_family_is_the_category(composed):
    plain = composed.generate(1, seed=3, family='Animals').feat
    wished = composed.generate(1, seed=3, family='Animals', hair='long').feat
    assert (plain - wished).abs().max() > 1e-3
    assert_close(composed.generate(1, seed=3, category='Animals', hair='long').feat, wished)
    assert composed.attributes('Food') == WISHES['Food'] and composed.attributes() == WISHES

def test_faces_are_enlarged_to_one_size_for_the_condition():
    torch.manual_seed(0)
    pipe = ARSR(tiny_first(), None, tiny_denoiser(conditional=True), {'factor': 8, 'aligned': 32, 'enlarge': 'nearest'})
    lr = torch.rand(1, 3, 4, 4)
    expected = pipe.first.encode(2 * lr.repeat_interleave(8, 2).repeat_interleave(8, 3) - 1)
    assert_close(pipe.condition(lr), expected.float(), atol=1e-3, rtol=1e-3)
    assert pipe.condition(torch.rand(1, 3, 3, 3)).shape == expected.shape
    assert pipe.upscale(lr[0], seed=0).size == (4, 4)

# large pictures

def test_only_large_latents_go_in_windows_as_small_as_in_training():
    assert tile_options(torch.empty(1, 1, 256, 256)) == dict(window=64, overlap=16, batch=4)
    assert tile_options(torch.empty(3, 8, 257, 256)) == dict(window=32, overlap=4, batch=16)

@pytest.mark.parametrize('limit, shown', [(2**20, 'exact'), (100, 'fast')])
def test_back_projection_corrects_what_is_shown_at_the_size(monkeypatch, limit, shown):
    class Flat:
        def __init__(self, value): self.value = value
        def render(self, feat, size, window=None): return torch.full((1, 3, *size), self.value)
    monkeypatch.setattr(ImageField, 'exact_pixels', limit)
    field, lr = ImageField(torch.zeros(1, 1, 6, 6), Flat(-.5), (6, 6), fast=Flat(.3)), torch.rand(1, 3, 6, 6) / 2 + .2
    x = back_project(field, lr, rounds=8).with_renderer(shown).render(scale=4)
    assert (downsample(x, 4) - lr).abs().mean() < .01
