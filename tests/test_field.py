import pytest, numpy as np, torch
from hypothesis import given, strategies as st
from PIL import Image
from torch.testing import assert_close
import arsr.beyond.streaming, arsr.field
from arsr.coords import make_cell, make_coord, resize
from arsr.field import (WRITERS, Bicubic, FirstStage, FirstStageConfig, FirstStageLoss, ImageField, encode_field,
                        output_size, register_writer, sample_bicubic, to_multiple, write_pillow)
from arsr.liif import LIIF
from conftest import crops, descend

def make_first(latent, **kwargs):
    return FirstStage(FirstStageConfig(ch=8, mult=(1, 2), n_res=1, z=4, latent=latent, hidden=(16,), **kwargs))

def make_batch(size=(5, 7)):
    def query(f): return f(size).expand(2, -1, -1)
    return dict(image=torch.rand(2, 3, 16, 12) * 2 - 1, coord=query(make_coord), cell=query(make_cell),
                rgb=torch.rand(2, 35, 3) * 2 - 1)

# the first stage

@pytest.mark.parametrize('latent', ['plain', 'gaussian', 'norm'])
def test_every_kind_of_latent_has_z_channels_at_1_over_f(latent):
    first, batch = make_first(latent), make_batch()
    assert first.encode(batch['image']).shape == (2, 4, 8, 6) and first.cfg.f == 2
    assert first(batch['image'], batch['coord'], batch['cell']).shape == (2, 35, 3)

def test_unknown_latent_refused(refuses):
    with refuses("'plain', 'gaussian' or 'norm'", "'vq'"): make_first('vq')

def test_a_gaussian_latent_is_sampled_from_its_posterior_in_training_and_else_its_mode():
    first, x = make_first('gaussian').train(), torch.randn(1, 3, 8, 8)
    mean, logvar = first.posterior(x)
    samples = torch.stack([first.encode(x) for _ in range(400)])
    assert_close(samples.std(0), (logvar / 2).exp(), atol=0, rtol=.2)
    assert_close(samples.mean(0), mean, atol=.25, rtol=0)
    before = torch.get_rng_state()
    assert torch.equal(first.eval().encode(x), mean) and torch.equal(before, torch.get_rng_state())

def test_the_loss_of_a_gaussian_latent_encodes_once_and_holds_the_kl():
    first, batch, calls = make_first('gaussian').eval(), make_batch(), []
    first.encoder.register_forward_hook(lambda *_: calls.append(1))
    plain, loss = FirstStageLoss(kl=0.)(first, batch), FirstStageLoss(kl=.1)(first, batch)
    assert len(calls) == 2
    mean, logvar = first.posterior(batch['image'])
    posterior = torch.distributions.Normal(mean, (logvar / 2).exp())
    kl = torch.distributions.kl_divergence(posterior, torch.distributions.Normal(0., 1.)).sum((1, 2, 3)).mean()
    assert_close(loss - plain, .1 * kl, atol=1e-4, rtol=1e-4)

def test_a_norm_latent_has_unit_variance_and_noise_only_in_training():
    first, x = make_first('norm').train(), torch.randn(8, 3, 16, 16)
    a, b = first.encode(x), first.encode(x)
    assert_close(a.std((0, 2, 3)), torch.ones(4), atol=.02, rtol=0)
    assert_close((a - b).std(), torch.tensor(.05 * 2**.5), atol=.01, rtol=0)
    first.eval()
    assert_close(first.encode(x), first.encode(x), atol=0, rtol=0)

def test_loss_is_l1_and_reaches_encoder_decoder_and_liif():
    first, batch = make_first('plain'), make_batch()
    loss = FirstStageLoss()(first, batch)
    assert_close(loss, (first(batch['image'], batch['coord'], batch['cell']) - batch['rgb']).abs().mean())
    loss.backward()
    for part in (first.encoder, first.decoder, first.liif):
        assert all(p.grad.abs().sum() > 0 for p in part.parameters())

def test_loss_of_a_gaussian_latent_has_its_kl():
    first, batch = make_first('gaussian').eval(), make_batch()
    mean, logvar = first.posterior(batch['image'])
    posterior = torch.distributions.Normal(mean, (logvar / 2).exp())
    kl = torch.distributions.kl_divergence(posterior, torch.distributions.Normal(0, 1)).sum((1, 2, 3)).mean()
    losses = []
    for weight in (0, 1):
        torch.manual_seed(0)
        losses.append(FirstStageLoss(kl=weight)(first, batch))
    assert_close(losses[1] - losses[0], kl, atol=0, rtol=1e-3)

# rendering a field

@pytest.fixture
def field():
    torch.manual_seed(3)
    return ImageField(torch.randn(3, 8, 5, 6), LIIF(8, hidden=(16, 16)), (40, 48))

@pytest.mark.parametrize('query, size', [
    ({}, (40, 48)), (dict(scale=1.7), (68, 82)), (dict(scale=.01), (1, 1)), (dict(size=24), (20, 24)),
    (dict(size=(7, 90)), (7, 90)),
    (dict(scale=2, window=(0, .25, .5, .5)), (40, 24)), (dict(size=30, window=(0, .25, .5, .5)), (30, 18)),
    (dict(size=(3, 4), window=(0, 0, .1, .1)), (3, 4)),
])
def test_any_size_scale_and_window(field, query, size):
    out = field.render(**query)
    assert out.shape == (3, 3, *size) and 0 <= out.min() and out.max() <= 1

@given(crop=crops(40), corrected=st.booleans())
def test_a_window_equals_the_crop_of_the_whole(crop, corrected):
    torch.manual_seed(0)
    size, (t, l, b, r), window = crop
    correction = torch.rand(1, 3, 5, 6) if corrected else None
    field = ImageField(torch.randn(1, 8, 5, 6), LIIF(8, hidden=(16,)), (20, 24), correction)
    assert_close(field.render(size=(b - t, r - l), window=window), field.render(size=size)[..., t:b, l:r], atol=1e-4,
                 rtol=0)

def test_a_field_is_a_batch(field):
    whole = field.render(scale=.5)
    assert len(field) == 3 and len(list(field)) == 3 and len(field[1:]) == 2
    for i in (0, 2, -1, -3, np.int64(1)): assert_close(field[i].render(scale=.5), whole[[i]])
    assert_close(field[1:].render(scale=.5), whole[1:])
    assert_close(field[[0, 2]].render(scale=.5), whole[[0, 2]])
    for i in (3, -4):
        with pytest.raises(IndexError, match='3 images'): field[i]

def test_the_correction_is_added_and_goes_with_its_image():
    field = ImageField(torch.zeros(2, 8, 5, 6), LIIF(8, hidden=(16,)), (20, 24))
    correction = torch.stack([torch.full((3, 4, 4), v) for v in (.1, .3)])
    corrected = ImageField(field.feat, field.renderer, field.size, correction)
    # [-1,1] is twice as wide as [0,1]
    assert_close(corrected.render() - field.render(), correction[:, :1, :1, :1].expand(2, 3, 20, 24) / 2)
    assert_close(corrected[1].render(), corrected.render()[1:])

@pytest.mark.parametrize('query, words', [
    (dict(scale=0), 'above zero'), (dict(scale=-2), 'above zero'), (dict(scale=float('nan')), 'above zero'),
    (dict(scale=float('inf')), 'above zero'), (dict(scale='2'), "not '2'"), (dict(size='64'), "not '64'"),
    (dict(window=3), 'not 3'),
    (dict(size=0), 'at least 1'), (dict(size=(4, -1)), 'at least 1'), (dict(size=2.5), 'whole number'),
    (dict(size=float('inf')), 'whole number'),
    (dict(size=4, scale=2), 'size or scale, not both'), (dict(window=(0, 0, 2, 1)), 'bottom <= 1'),
    (dict(scale=1e4), '67,108,864 pixels'),
])
def test_wrong_arguments_refused(field, query, words, refuses):
    with refuses(words): field.render(**query)

def test_the_limit_can_be_moved(field, refuses, monkeypatch):
    monkeypatch.setattr(ImageField, 'max_pixels', 100)
    for pictures, size in ((field[0], (11, 10)), (field, (10, 5))):
        with refuses('limit of 100 pixels', 'render fewer'): pictures.render(size=size)
    assert field[:2].render(size=(10, 5)).shape == (2, 3, 10, 5)

# files

def test_to_pil_is_render_in_bytes(field):
    im = field.to_pil(size=(9, 30))
    assert im.size == (30, 9) and im.mode == 'RGB'
    assert_close(torch.from_numpy(np.array(im)).permute(2, 0, 1) / 255, field[0].render(size=(9, 30))[0],
                 atol=.5 / 255 + 1e-6, rtol=0)

@pytest.mark.parametrize('name', ['a.png', 'a.JPG', 'a.webp', 'a.tif', 'two.dots.png'])
def test_save_writes_one_whole_file(field, tmp_path, name):
    path = field.save(tmp_path/name, scale=.5)
    assert [p.name for p in tmp_path.iterdir()] == [name] and path == tmp_path/name
    assert Image.open(path).size == (24, 20)

@pytest.mark.parametrize('name, words', [('a.xyz', '.png'), ('a', '.png'), ('a.psd', '.png'), ('a.fits', '.png'),
                                         ('no/such/a.png', 'no such folder')])
def test_save_refuses_what_it_cannot_write(field, tmp_path, name, words, refuses):
    with refuses(words): field.save(tmp_path/name)
    assert not list(tmp_path.iterdir())

@pytest.mark.parametrize('there', [False, True])
def test_an_encoder_that_fails_midway_leaves_nothing_half_written(field, tmp_path, monkeypatch, there):
    path = tmp_path/'a.png'
    if there: field.save(path, scale=.2)
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    def fail(part, pixels):
        part.write_bytes(b'half a picture')
        raise OSError('disk full')
    monkeypatch.setattr(arsr.beyond.streaming, 'write_png', fail)
    with pytest.raises(OSError, match='disk full'): field.save(path)
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before

def test_a_wrong_argument_leaves_no_file(field, tmp_path, refuses):
    with refuses('above zero'): field.save(tmp_path/'a.png', scale=-1)
    assert not list(tmp_path.iterdir())

# pictures as fields

def test_bicubic_reading_gives_the_pixels_back():
    x = torch.rand(2, 3, 9, 14)
    assert_close(sample_bicubic(x, (9, 14)), x, atol=1e-5, rtol=0)
    assert_close(sample_bicubic(x, (3, 7), (1/3, 0, 2/3, .5)), x[..., 3:6, :7], atol=1e-5, rtol=0)

@given(st.tuples(st.integers(1, 40), st.integers(1, 40)), st.sampled_from([1, 2, 4, 8]))
def test_to_multiple_goes_to_the_nearest_multiple_of_f(size, f):
    out = to_multiple(torch.rand(1, 3, *size), f).shape[-2:]
    assert all(o % f == 0 and (abs(o - n) <= f / 2 or o == f > n) for o, n in zip(out, size))

@pytest.mark.parametrize('size', [(1, 1), (7, 50), (33, 16)])
def test_a_picture_of_any_size_becomes_a_field_of_that_size(first, size):
    field = encode_field(first, torch.rand(2, 3, *size))
    assert field.size == size and len(field) == 2
    assert field.render().shape == (2, 3, *size)
    assert not field.feat.requires_grad

def test_a_small_first_stage_learns_a_picture():
    torch.manual_seed(0)
    first, x = make_first('plain'), resize(torch.rand(1, 3, 4, 4), (16, 16), 'bilinear')
    def query(f): return f((16, 16))[None]
    batch = dict(image=x * 2 - 1, coord=query(make_coord), cell=query(make_cell),
                 rgb=(x * 2 - 1).flatten(2).transpose(1, 2))
    opt = torch.optim.Adam(first.parameters(), 3e-3)
    losses = descend(opt, lambda: FirstStageLoss()(first, batch), 60)
    assert losses[-1] < losses[0] / 3
    assert (encode_field(first.eval(), x).render() - x).abs().mean() < .1

# renderers and writers

def test_bicubic_is_a_renderer_and_a_formula_is_one():
    class Ramp:
        def render(self, feat, size, window=(0, 0, 1, 1)):
            return make_coord(size, window)[:, 1].view(1, 1, *size).expand(len(feat), 3, *size)
    x = torch.rand(2, 3, 6, 9)
    assert_close(ImageField(x * 2 - 1, Bicubic(), (6, 9)).render(), x, atol=1e-5, rtol=0)
    ramp = ImageField(x, Ramp(), (6, 9))
    assert_close(ramp.decode_rgb((4, 8), (0, .5, 1, 1)), ramp.decode_rgb((4, 16))[..., 8:])
    assert ramp.render().shape == (2, 3, 6, 9)

def test_a_writer_is_registered_for_its_suffixes(field, tmp_path, monkeypatch, refuses):
    with refuses('cannot tell an image format', '.png'): field.save(tmp_path/'a.sizes')
    monkeypatch.setitem(WRITERS, '.sizes', None)  # taken away again after the test
    calls = []
    def write(field, path, size, window):
        calls.append((len(field), field.choice, size, window))
        return path
    register_writer(['.sizes'], write)
    assert field.save(tmp_path/'a.SIZES', scale=.5, window=(0, 0, .5, 1)) == tmp_path/'a.SIZES'
    assert calls == [(1, 'exact', (10, 24), (0, 0, .5, 1))]
    with refuses('use one of', '.sizes'): field.save(tmp_path/'a.xyz')

def test_pillow_writes_the_same_in_strips(field, tmp_path, monkeypatch):
    monkeypatch.setattr(arsr.field, 'STRIP', 100)
    path = write_pillow(field[1], tmp_path/'a.bmp', (37, 20), (.1, 0, .9, 1))
    assert (np.array(Image.open(path)) == np.array(field[1].to_pil(size=(37, 20), window=(.1, 0, .9, 1)))).all()

def test_the_losses_share_equivariance_and_their_fields_are_fixed():
    first, batch = make_first('plain'), make_batch()
    torch.manual_seed(0)
    assert torch.isfinite(FirstStageLoss(equivariance=.5)(first, batch))
    with pytest.raises(AttributeError): FirstStageLoss().kl = 1

def test_a_pil_picture_is_made_by_the_renderer_asked_for(field, refuses):
    class Grey:
        def render(self, feat, size, window=(0, 0, 1, 1)): return torch.zeros(len(feat), 3, *size)
    both = ImageField(field.feat, field.renderer, field.size, fast=Grey())
    assert (np.array(both.to_pil(size=24, renderer='fast')) == 128).all()
    assert both.to_pil(size=24, renderer='exact') == field.to_pil(size=24)
    with refuses('no fast renderer'): field.to_pil(size=24, renderer='fast')

def test_output_size_needs_no_field(): assert output_size((40, 48), size=24) == (20, 24)
