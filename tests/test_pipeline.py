import copy, json
from pathlib import Path
import pytest, torch
from PIL import Image
from torch.testing import assert_close
import arsr.pipeline, arsr.train, arsr.unet
from arsr.lab.cards import evaluation_photos
from arsr.coords import resize
from arsr.data import downsample
from arsr.diffusion import sample_ddim
from arsr.field import FirstStage, FirstStageConfig, ImageField
from arsr.lab.metrics import psnr
from arsr.pipeline import ARSR, back_project, load_weights, save_weights, seeded_noise
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
    return ARSR(tiny_first(), tiny_denoiser(classes=3), tiny_denoiser(conditional=True), meta=meta, device='cpu')

@pytest.fixture
def saved(pipe, tmp_path): return pipe.save_pretrained(tmp_path/'tiny')

@pytest.fixture(autouse=True)
def exact(monkeypatch):
    "Plain arithmetic, so that one picture and a batch of them are rounded alike."
    monkeypatch.setattr(arsr.train, 'hardware', lambda: dict(mixed_precision='no', layout=torch.contiguous_format, workers=0))

def picture(h, w, seed=0): return resize(torch.rand(3, 5, 5, generator=torch.Generator().manual_seed(seed)), (h, w)).clamp(0, 1)

# weights in, weights out

def test_what_is_saved_comes_back(pipe, saved):
    assert sorted(p.name for p in saved.iterdir()) == ['config.json', 'first.safetensors', 'generator.safetensors', 'upscaler.safetensors']
    again = ARSR.from_pretrained(saved, device='cpu')
    assert again.meta == pipe.meta and again.parts.keys() == pipe.parts.keys()
    for k, module in again.parts.items():
        assert module.cfg == pipe.parts[k].cfg and not module.training and not any(p.requires_grad for p in module.parameters())
        for a, b in zip(module.state_dict().values(), pipe.parts[k].state_dict().values()): assert_close(a, b, atol=1e-3, rtol=1e-3)  # half precision
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
    with refuses('generator.safetensors does not fit its config.json', 'tensors differ in name or shape'): ARSR.from_pretrained(saved)
    save_weights(tiny_first(), saved/'generator.safetensors')
    with refuses('generator.safetensors does not fit its config.json'): ARSR.from_pretrained(saved)
    (saved/'generator.safetensors').unlink()
    with refuses('missing weights file', 'generator.safetensors'): ARSR.from_pretrained(saved)

@pytest.mark.parametrize('text, words', [
    ('', 'not valid JSON'), ('{"first": ', 'not valid JSON'), ('[]', 'not the configuration of a model'), ('{}', 'not the configuration of a model'),
    ('{"first": {"channels": 8}, "meta": {}}', 'channels'), ('{"first": 8, "meta": {}}', 'not the configuration of a model'),
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
    with refuses("no weights called 'nothing'", 'a folder with a config.json', 'hub id OWNER/NAME'): ARSR.from_pretrained('nothing')
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
    first.norm.running_var.fill_(3.3); first.norm.num_batches_tracked.fill_(70_001)
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
    return pipe.generate(n, seed=seed, steps=2, **kwargs) if task == 'generate' else pipe.upscale(picture(10, 12), n=n, seed=seed, steps=2, **kwargs)

@pytest.mark.parametrize('task', ['generate', 'upscale'])
def test_image_k_of_a_seed_is_the_first_of_seed_plus_k(pipe, task):
    many = make(pipe, task, n=3, seed=5)
    for k in range(3): assert_close(many[k].render(size=20), make(pipe, task, seed=5 + k).render(size=20), atol=1e-4, rtol=0)

@pytest.mark.parametrize('task', ['generate', 'upscale'])
def test_the_same_seed_gives_the_same_answer_and_another_seed_another(pipe, task):
    answers = make(pipe, task, n=4)
    assert torch.equal(answers.feat, make(pipe, task, n=4).feat)
    x = answers.render(size=16)
    for i in range(4):
        for k in range(i): assert (x[i] - x[k]).abs().mean() > 1e-3
    assert not torch.equal(make(pipe, task, seed=None).feat, make(pipe, task, seed=None).feat)

# generate

@pytest.mark.parametrize('size, own', [(None, (32, 32)), (16, (16, 16)), ((20, 44), (20, 44)), (33, (32, 32)), (1, (2, 2))])
def test_generated_sizes(pipe, size, own):
    field = pipe.generate(2, size=size, seed=0, steps=1)
    assert len(field) == 2 and field.size == own and field.feat.shape[-2:] == (own[0] // 2, own[1] // 2)
    x = field.render(scale=1.5)
    assert x.shape == (2, 3, round(1.5 * own[0]), round(1.5 * own[1])) and 0 <= x.min() and x.max() <= 1

def test_a_category_is_drawn_as_often_as_it_occurs_and_can_be_asked_for(pipe):
    drawn = pipe.labels(2000, 0, None).bincount(minlength=3) / 2000
    assert_close(drawn, torch.tensor([.5, .3, .2]), atol=.04, rtol=0)
    assert torch.equal(pipe.labels(10, 3, None), pipe.labels(13, 0, None)[3:])
    assert pipe.labels(2, 0, 'Food').tolist() == [1, 1]
    food, symbols = (pipe.generate(1, seed=0, steps=2, category=c).feat for c in ('Food', 'Symbols'))
    assert not torch.allclose(food, symbols)

def test_a_category_has_kinds_and_either_can_be_asked_for(pipe, monkeypatch):
    monkeypatch.setitem(pipe.meta, 'categories', ['Food / fruit', 'Food / drink', 'Symbols / other'])
    drawn = pipe.labels(400, 0, 'Food').bincount(minlength=3) / 400
    assert_close(drawn, torch.tensor([.5, .3, 0]) / .8, atol=.08, rtol=0)
    assert pipe.labels(3, 0, 'drink').tolist() == [1, 1, 1]
    with pytest.raises(ValueError, match="choose one of Food, Symbols$"): pipe.labels(1, 0, 'fruits')

def test_guidance_of_one_is_the_plain_denoiser_and_more_goes_further(pipe):
    feats = [pipe.generate(1, seed=0, steps=2, category='Food', guidance=g).feat for g in (0., 1., 2.)]
    assert not torch.allclose(feats[0], feats[1]) and not torch.allclose(feats[1], feats[2])
    label = torch.tensor([1])
    z = arsr.pipeline.sample_dpmpp_2m(lambda z, t: pipe.generator(z, t, label=label), seeded_noise((1, 4, 16, 16), 0), pipe.generator.alphas_cumprod, steps=2)
    assert_close(feats[1], pipe.first.decoder(z), atol=1e-4, rtol=1e-4)

def test_a_latent_of_the_generator_is_scaled_back(pipe):
    seen, scaled = [], copy.deepcopy(pipe)
    scaled.generator.scaling_factor.fill_(3.)
    for p in (copy.copy(pipe), scaled):
        p.decode = lambda z, size: seen.append(z)
        p.generate(1, seed=0, steps=1)
    assert_close(seen[1], 3 * seen[0])

def test_a_sampler_may_be_a_function(pipe):
    query = dict(n=1, seed=0, steps=3)
    assert_close(pipe.generate(**query, sampler=sample_ddim).render(size=16), pipe.generate(**query, sampler='ddim').render(size=16))

@pytest.mark.parametrize('kwargs, words', [
    (dict(category='Dragons'), ("unknown category 'Dragons'", 'Animals, Food, Symbols')), (dict(n=0), ('n must be at least 1',)),
    (dict(steps=0), ('steps must be between 1 and 1000',)), (dict(sampler='euler'), ("unknown sampler 'euler'", 'dpmpp_2m')),
    (dict(size=0), ('size must be a whole number',)), (dict(size=(8, -8)), ('size must be a whole number',))])
def test_wrong_requests(pipe, kwargs, words, refuses):
    with refuses(*words): pipe.generate(**dict(steps=1, seed=0) | kwargs)

def test_a_category_where_there_are_none(pipe, refuses):
    plain = ARSR(pipe.first, tiny_denoiser(), meta={'name': 'plain'})
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
    classes = [array, torch.from_numpy(array).permute(2, 0, 1) / 255, Image.fromarray(array), tmp_path/'a.png', str(tmp_path/'a.png')]
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
        with refuses('must have one size, not 4 x 4, 4 x 6'): task([picture(4, 4), picture(4, 6)])

def test_pictures_together_get_the_answers_that_they_get_alone(pipe):
    a, b = picture(8, 9, 1), picture(8, 9, 2)
    for together in ([a, b], torch.stack([a, b])):
        feat = pipe.upscale(together, seed=5, n=2).feat
        for k, alone in enumerate((a, b)): assert_close(feat[2*k:2*k+2], pipe.upscale(alone, seed=5, n=2).feat, atol=1e-4, rtol=0)
    assert len(pipe.encode([a, b, a])) == 3

def test_the_input_decides(pipe):
    a, b = (pipe.upscale(picture(10, 10, seed), seed=0, steps=2, consistent=False).render(size=20) for seed in (1, 2))
    assert (a - b).abs().mean() > 1e-3

def border_steps(feat, at):
    "Mean step between neighbouring columns at window borders, over that elsewhere."
    step = feat.diff(dim=-1).abs().mean((0, 1, 2))
    border = torch.zeros(len(step), dtype=torch.bool); border[[k - 1 for k in at]] = True
    return (step[border].mean() / step[~border].mean()).item()

def test_a_large_image_has_no_seam(pipe):
    assert arsr.unet._starts(100, 64, 16) == [0, 36]  # windows begin at 36 and end at 64
    assert border_steps(pipe.upscale(picture(12, 100), seed=0, steps=2, consistent=False).feat, (36, 64)) < 1.3

@pytest.mark.parametrize('blended', [True, False])
def test_windows_that_disagree_are_blended(pipe, monkeypatch, blended):
    windowed = copy.deepcopy(pipe)
    windowed.upscaler.forward = lambda z, t, cond: cond.mean((1, 2, 3), keepdim=True).expand_as(z)  # each window answers with its own mean
    windowed.decode = lambda z, size: z
    if not blended: monkeypatch.setattr(arsr.unet, '_ramp', lambda n: torch.ones(n))
    z = windowed.upscale(torch.linspace(0, 1, 100).expand(3, 12, 100), seed=0, steps=2, consistent=False)
    largest = (z.diff(dim=-1).abs().max() / (z[..., -1] - z[..., 0]).abs().max()).item()
    assert largest < 2 / 28 if blended else largest > 1 / 3  # 28 columns belong to both windows

def test_windows_see_all_of_a_large_image(pipe):
    lr = picture(12, 90)
    a = pipe.upscale(lr, seed=0, steps=1)
    lr[:, :, 80:] = 1 - lr[:, :, 80:]
    change = (pipe.upscale(lr, seed=0, steps=1).feat - a.feat).abs().mean((0, 1, 2))
    assert a.size == (12, 90) and change[80:].mean() > 3 * change[:20].mean()

def test_a_photograph_in_windows_is_nearly_that_of_one_piece(monkeypatch):
    "With the shipped weights: at least 44 dB between the two, and no larger steps at the borders of the windows than elsewhere."
    photo, lr = ARSR.from_pretrained('photo', 'cpu'), evaluation_photos()['coffee'][:, 50:114, 40:200]
    query = lambda: photo.upscale(lr, seed=0).render(scale=2)[0]
    pieces = query()
    monkeypatch.setattr(arsr.pipeline, 'tiled_apply', lambda f, *maps, **_: f(*maps))
    whole = query()
    assert 44 < psnr(pieces, whole) < 80
    step = (pieces - whole).mean(0).diff(dim=1).abs().mean(0)
    assert arsr.unet._starts(160, 64, 16) == [0, 48, 96]
    assert step[[2 * k - 1 for k in (48, 64, 96, 112)]].mean() < 1.5 * step.mean()

# consistency

def test_back_projection_brings_an_answer_closer_to_its_input(pipe):
    lr = .25 + .5 * picture(12, 16)[None]
    plain, fixed = (pipe.upscale(lr[0], seed=0, steps=2, consistent=c) for c in (False, True))
    miss = lambda field: (downsample(field.render(size=(24, 32)), 2) - lr).abs().mean().item()
    assert plain.correction is None and miss(fixed) < .2 * miss(plain)
    assert torch.equal(plain.feat, fixed.feat)

def test_back_projection_goes_on_from_a_correction_and_leaves_its_field_alone(pipe):
    lr = .25 + .5 * picture(12, 16)[None]
    field = pipe.upscale(lr[0], seed=0, steps=1, consistent=False)
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
    assert isinstance(field, ImageField) and field.size == size and field.render(scale=2).shape == (1, 3, 2 * size[0], 2 * size[1])
