"What a picture carries beside its colours comes out again: alpha, bits, colour profile, EXIF, DPI, greyness."
import io, struct, sys, zlib
from types import SimpleNamespace
import numpy as np, pytest, tifffile, torch
from hypothesis import given, strategies as st
from PIL import Image, ImageCms
from torch.testing import assert_close
import arsr.beyond.streaming  # noqa: F401 (registers its writers)
from arsr.coords import resize
from arsr.data import PictureInfo, fill_transparent, load_image, load_picture, read_profile, srgb_profile, to_srgb
from arsr.field import Bicubic, ImageField, antialiased, check_picture_path, sample_bicubic
from arsr.liif import LIIF
from arsr.pipeline import in_batches
from conftest import crops

def plain(image, **kwargs)->ImageField:
    "A picture as a field that interpolates it."
    x, info = load_picture(image, **kwargs)
    field = ImageField(x[None] * 2 - 1, Bicubic(), x.shape[-2:])
    field.info = (info,)
    return field

def chunk(kind, data): return struct.pack('>I', len(data)) + kind + data + struct.pack('>I', zlib.crc32(kind + data))

def png16(a)->io.BytesIO: # (h,w,c) of 16 bits
    h, w, c = a.shape
    head = struct.pack('>IIBBBBB', w, h, 16, {1: 0, 2: 4, 3: 2, 4: 6}[c], 0, 0, 0)
    lines = b''.join(b'\0' + line.astype('>u2').tobytes() for line in a)
    parts = [(b'IHDR', head), (b'IDAT', zlib.compress(lines)), (b'IEND', b'')]
    return io.BytesIO(b'\x89PNG\r\n\x1a\n' + b''.join(chunk(*part) for part in parts))

def s15(*values): return struct.pack(f'>{len(values)}i', *(round(v * 65536) for v in values))

def profile(gamma=2.2, swap=False)->bytes:
    "A colour profile with the lamps of sRGB (red and blue exchanged), and a pure power as curve."
    def parametric(g): return b'para' + bytes(4) + struct.pack('>HH', 0, 0) + s15(g)
    lamps = read_profile(srgb_profile())[1]
    if swap: lamps = lamps[:, ::-1]
    tags = {n: b'XYZ ' + bytes(4) + s15(*lamps[:, k]) for k, n in enumerate((b'rXYZ', b'gXYZ', b'bXYZ'))}
    tags |= {n: parametric(gamma) for n in (b'rTRC', b'gTRC', b'bTRC')}
    return packed(tags)

def packed(tags:dict, kind=b'mntrRGB XYZ ')->bytes:
    "A colour profile of these tags, for a device and its channels, with the colours in between."
    tags = tags | {b'wtpt': b'XYZ ' + bytes(4) + s15(.9642, 1, .8249)}
    body, table, at = b'', b'', 132 + 12 * len(tags)
    for name, tag in tags.items():
        table += name + struct.pack('>II', at + len(body), len(tag))
        body += tag
    head = bytes(8) + b'\2\x40\0\0' + kind + bytes(12) + b'acsp' + bytes(28) + s15(.9642, 1, .8249)
    icc = head.ljust(128, b'\0') + struct.pack('>I', len(tags)) + table + body
    return struct.pack('>I', len(icc)) + icc[4:]

def inks_profile()->bytes:
    "A profile of four inks, a table of two points a side: paper is white, and one ink alone is black."
    ramp, points = bytes(range(256)), b''.join(bytes([255 * (k == 0), 128, 128]) for k in range(16))
    table = b'mft1' + bytes(4) + bytes([4, 3, 2, 0]) + s15(1, 0, 0, 0, 1, 0, 0, 0, 1) + 4 * ramp + points + 3 * ramp
    return packed({b'A2B0': table}, b'prtrCMYKLab ')

def saved(im, kind='PNG', **kwargs)->io.BytesIO:
    file = io.BytesIO()
    im.save(file, kind, **kwargs)
    return file

def noise(*shape, seed=0): return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)

# transparency

@pytest.fixture
def sprite():
    "A red disc with a soft rim on green that nobody should see."
    y, x = np.mgrid[-1:1:24j, -1:1:30j]
    alpha = ((.8 - np.hypot(x, y)) * 12).clip(0, 1)
    a = np.zeros((24, 30, 4), np.uint8)
    a[..., 0], a[..., 3] = np.where(alpha > 0, 200, 0), (alpha * 255).round()
    a[..., 1] = np.where(alpha > 0, 0, 255)
    return Image.fromarray(a)

@pytest.mark.parametrize('name', ['a.png', 'a.apng', 'a.webp', 'a.tif', 'a.gif', 'a.qoi', 'a.sgi', 'a.jpx', 'a.icb'])
@pytest.mark.parametrize('scale', [.4, 1, 2.7])
def test_alpha_comes_out_and_no_hidden_colour(sprite, tmp_path, capsys, name, scale):
    out = Image.open(plain(saved(sprite)).save(tmp_path/name, scale=scale)).convert('RGBA')
    a, (h, w) = np.array(out).astype(int), (round(24 * scale), round(30 * scale))
    assert a.shape == (h, w, 4) and a[0, 0, 3] == 0 and a[h // 2, w // 2, 3] == 255 and capsys.readouterr().err == ''
    shown = a[a[..., 3] > 40]
    assert abs(shown[:, 0] - 200).max() < 12 and shown[:, 1:3].max() < 12
    if name != 'a.gif':
        assert abs(a[..., 3].mean() - np.array(sprite)[..., 3].mean()) < 6

@pytest.mark.parametrize('name', ['a.jpg', 'a.bmp', 'a.dzi'])
def test_where_a_format_has_no_alpha_it_is_white_and_says_so(sprite, tmp_path, capsys, name):
    field = plain(saved(sprite))
    field.save(tmp_path/name, scale=2)
    assert capsys.readouterr().err == f'arsr: {name} cannot be transparent: what was, is white\n'
    if name == 'a.dzi': return
    a = np.array(Image.open(tmp_path/name)).astype(int)
    assert a.shape == (48, 60, 3) and abs(a[0, 0] - 255).max() < 4 and abs(a[24, 30] - [200, 0, 0]).max() < 8
    assert_close(field.render()[0], load_image(saved(sprite)), atol=.003, rtol=0)

def test_grey_with_alpha_stays_so(tmp_path):
    im = Image.new('LA', (6, 5), (90, 255))
    im.putpixel((0, 0), (10, 0))
    out = Image.open(plain(saved(im)).save(tmp_path/'a.png', scale=1))
    assert out.mode == 'LA' and out.getpixel((0, 0)) == (90, 0) and out.getpixel((3, 3)) == (90, 255)

def test_a_batch_may_be_partly_transparent(sprite):
    opaque = Image.fromarray(noise(24, 30, 3))
    field = in_batches([sprite, opaque], lambda x: ImageField(x * 2 - 1, Bicubic(), x.shape[-2:]))
    assert [info.alpha is None for info in field.info] == [False, True]
    assert_close(field.render(), torch.stack([load_image(im) for im in (sprite, opaque)]), atol=.003, rtol=0)
    assert field[1].to_pil().mode == 'RGB' and field[[1, 0]][1].to_pil().mode == 'RGBA'

def test_filling_takes_the_nearest_opaque_colours():
    rgb, alpha = torch.rand(3, 9, 14), torch.zeros(1, 9, 14)
    alpha[:, :, :2], alpha[:, :, -1] = 1, .5
    rgb[:, :, :2], rgb[:, :, -1] = torch.tensor([1., 0, 0])[:, None, None], torch.tensor([0., 0, 1])[:, None]
    out = fill_transparent(rgb, alpha)
    assert out[1].max() < 1e-6 and (out[0, :, 2:4] > .8).all() and (out[2, :, -3:] > .8).all()
    assert not fill_transparent(rgb, torch.zeros(1, 9, 14)).isnan().any()

# bits

@pytest.mark.parametrize('c', [1, 3, 4])
@pytest.mark.parametrize('name', ['a.png', 'a.tif'])
def test_16_bits_in_and_out(tmp_path, c, name):
    a = np.random.default_rng(0).integers(5000, 65536, (7, 9, c), dtype=np.uint16)
    x, info = load_picture(png16(a))
    assert info.depth == 16
    assert_close(x.double(), torch.from_numpy(a[..., :3] / 65535).permute(2, 0, 1).expand(3, -1, -1), atol=1e-6, rtol=0)
    path = plain(png16(a)).save(tmp_path/name, scale=1)
    y, again = load_picture(path)
    assert_close(y, x, atol=1e-5, rtol=0)
    assert again.depth == 16 and (c < 4 or (again.alpha - info.alpha).abs().max() < 1e-5)
    if name == 'a.tif': assert tifffile.imread(path).dtype == np.uint16

def test_16_bits_of_grey_with_alpha():
    a = np.random.default_rng(0).integers(5000, 2**16, (5, 7, 2), dtype=np.uint16)
    x, info = load_picture(png16(a))
    assert (info.depth, info.grey) == (16, True)
    for found, values in ((x[0], a[..., 0]), (info.alpha[0], a[..., 1])):
        assert_close(found, torch.from_numpy(values / 65535).float())

def keyed(a, key)->io.BytesIO: # (h,w,c) of 16 bits, one colour
    "A PNG in which one colour is transparent."
    file = png16(a).getvalue()
    return io.BytesIO(file[:33] + chunk(b'tRNS', struct.pack(f'>{len(key)}H', *key)) + file[33:])

@pytest.mark.parametrize('c', [1, 3])
def test_one_colour_of_16_bits_is_transparent(c):
    a = np.random.default_rng(0).integers(5000, 65536, (7, 9, c), dtype=np.uint16)
    x, info = load_picture(keyed(a, a[2, 3]))
    assert info.depth == 16 and info.alpha.sum() == 62 and info.alpha[0, 2, 3] == 0
    want = torch.from_numpy(a / 65535).permute(2, 0, 1).float().expand(3, -1, -1)
    assert_close(x * info.alpha, want * info.alpha)

def test_a_tiff_of_16_bits_of_grey_with_alpha_is_read_again(tmp_path):
    a = np.random.default_rng(0).integers(5000, 2**16, (5, 7, 2), dtype=np.uint16)
    x, info = load_picture(plain(png16(a)).save(tmp_path/'a.tif', scale=1))
    assert info.depth == 16 and info.grey
    assert_close(torch.stack([x[0], info.alpha[0]], -1).double(), torch.from_numpy(a / 65535), atol=2e-5, rtol=0)

@pytest.mark.parametrize('byteorder', '<>')
@pytest.mark.parametrize('compression', [None, 'zlib'])
@pytest.mark.parametrize('planes', ['contig', 'separate'])
def test_16_bit_tiff(byteorder, compression, planes):
    a, file = np.random.default_rng(0).integers(0, 65536, (7, 9, 3), dtype=np.uint16), io.BytesIO()
    stored = a if planes == 'contig' else a.transpose(2, 0, 1).copy()
    tifffile.imwrite(file, stored, photometric='rgb', planarconfig=planes, compression=compression, byteorder=byteorder)
    assert_close(load_image(file).double(), torch.from_numpy(a / 65535).permute(2, 0, 1), atol=1e-6, rtol=0)

def tiff(a, **kwargs):
    file = io.BytesIO()
    tifffile.imwrite(file, a, **kwargs)
    return file

def test_12_bits_are_noticed(capsys):
    scan = np.linspace(0, 4000, 80).astype(np.uint16).reshape(8, 10)
    assert_close(load_image(tiff(scan)).max(), torch.tensor(4000 / 4095))
    assert 'read as 12 bits' in capsys.readouterr().err
    assert load_image(tiff(scan * 3)).max() < .2 and capsys.readouterr().err == ''

def test_32_bits_and_floats(refuses):
    whole = np.linspace(0, 2**32 - 1, 80).astype(np.uint32).reshape(8, 10)
    assert_close(load_image(tiff(whole))[0].double(), torch.from_numpy(whole / (2**32 - 1)), atol=1e-6, rtol=0)
    for a in (np.random.default_rng(0).random(shape, np.float32) for shape in ((8, 10, 3), (8, 10))):
        x, info = load_picture(tiff(a))
        assert_close(x, torch.from_numpy(a).reshape(8, 10, -1).permute(2, 0, 1).expand(3, -1, -1), atol=1e-6, rtol=0)
        assert info.depth == 16
    colour = np.stack([whole, whole[::-1], whole // 2], -1)
    assert_close(load_image(tiff(colour, photometric='rgb')).double(),
                 torch.from_numpy(colour / (2**32 - 1)).permute(2, 0, 1), atol=1e-6, rtol=0)
    with refuses('pixel values must lie in [0,1]'): load_image(tiff(200 * a))

@pytest.mark.parametrize('planes', ['contig', 'separate'])
@pytest.mark.parametrize('byteorder', '<>')
def test_inks_of_16_bits(planes, byteorder, capsys):
    inks = np.random.default_rng(0).integers(0, 2**16, (7, 9, 4), dtype=np.uint16)
    stored = inks if planes == 'contig' else inks.transpose(2, 0, 1).copy()
    x, info = load_picture(tiff(stored, photometric='separated', planarconfig=planes, byteorder=byteorder))
    light = torch.from_numpy(1 - inks / 65535)
    assert info.depth == 16 and info.alpha is None and capsys.readouterr().err == ''
    assert_close(x.double(), (light[..., :3] * light[..., 3:]).permute(2, 0, 1), atol=1e-6, rtol=0)

@pytest.mark.parametrize('bits, kind', [(8, 'jpg'), (8, 'tif'), (16, 'tif')])
def test_red_ink_is_red(bits, kind):
    im, file = Image.new('CMYK', (16, 16), (0, 204, 255, 51)), io.BytesIO()
    if bits == 16: file = tiff(np.asarray(im).astype(np.uint16) * 257, photometric='separated')
    else: im.save(file, dict(jpg='JPEG', tif='TIFF')[kind])  # a JPEG has the marker of Adobe, and its inks upside down
    assert_close(load_image(file)[:, 8, 8], torch.tensor([.8, .16, 0]), atol=.012, rtol=0)

def lab(rgb)->np.ndarray: # (h,w,3) in [0,1] -> CIELAB under D50
    light = np.where(rgb > .04045, ((rgb + .055) / 1.055)**2.4, rgb / 12.92)
    xyz = light @ read_profile(srgb_profile())[1].T / (.9642, 1, .8249)
    f = np.where(xyz > (6 / 29)**3, np.cbrt(xyz), xyz / 3 / (6 / 29)**2 + 4 / 29)
    return np.stack([116 * f[..., 1] - 16, 500 * (f[..., 0] - f[..., 1]), 200 * (f[..., 1] - f[..., 2])], -1)

def test_lab_is_converted():
    rgb = np.random.default_rng(0).uniform(.3, .8, (5, 7, 3))
    file = tiff((lab(rgb) * [2.55, 1, 1]).round().astype(np.int64).astype(np.uint8), photometric='cielab')
    assert_close(load_image(file).double(), torch.from_numpy(rgb).permute(2, 0, 1), atol=.02, rtol=0)

@pytest.mark.parametrize('byteorder', '<>')
def test_white_may_be_zero_in_16_bits(byteorder):
    a = np.random.default_rng(0).integers(0, 2**16, (7, 9), dtype=np.uint16)
    x, info = load_picture(tiff(a, photometric='miniswhite', byteorder=byteorder))
    assert info.depth == 16 and info.grey
    assert_close(x[0].double(), torch.from_numpy(1 - a / 65535), atol=1e-6, rtol=0)

def test_premultiplied_colours_of_16_bits_are_read_in_8_and_that_is_said(capsys):
    a = np.random.default_rng(0).integers(2**15, 2**16, (7, 9, 4), dtype=np.uint16)
    times = (a[..., :3] * (a[..., 3:] / 65535)).round().astype(np.uint16)
    stored = np.concatenate([times, a[..., 3:]], -1)
    x = load_image(tiff(stored, photometric='rgb', extrasamples=['assocalpha']))
    light, alpha = torch.from_numpy(a / 65535).permute(2, 0, 1).split([3, 1])
    assert_close(x.double(), light * alpha + 1 - alpha, atol=.02, rtol=0)
    assert 'has 16 bits a channel, of which 8 are read' in capsys.readouterr().err

@pytest.mark.parametrize('bits', [8, 16])
def test_inks_with_a_profile_are_read_in_8_bits_and_that_is_said(bits, capsys):
    inks = np.zeros((2, 3, 4), np.uint8 if bits == 8 else np.uint16)
    inks[0, :, 0] = 2**bits - 1  # cyan, which this profile prints black
    x, info = load_picture(tiff(inks, photometric='separated', iccprofile=inks_profile()))
    assert info.depth == 8 and x[:, 0].max() < .03 and x[:, 1].min() > .97
    assert ('has 16 bits a channel, of which 8 are read' in capsys.readouterr().err) == (bits == 16)

@pytest.mark.parametrize('kind, colours', [('rgb', 3), ('minisblack', 1)])
@pytest.mark.parametrize('extra', ['unassalpha', 'unspecified'])
@pytest.mark.parametrize('dtype', [np.uint16, np.float32])
def test_channels_beyond_colours_and_alpha_are_left_out(kind, colours, extra, dtype):
    "Near infrared, depth, masks: a TIFF holds as many channels as one likes."
    a = noise(8, 12, colours + 2) / np.float32(255)
    a = (a * 65535).round().astype(np.uint16) if dtype is np.uint16 else a
    extras = [extra, 'unspecified']
    x, info = load_picture(tiff(a, photometric=kind, planarconfig='contig', extrasamples=extras))
    assert (info.alpha is not None) == (extra == 'unassalpha') and info.depth == 16
    if info.alpha is None:
        want = torch.from_numpy(noise(8, 12, colours + 2)[..., :colours] / np.float32(255)).movedim(-1, 0)
        assert_close(x[:colours], want, atol=1e-4, rtol=0)

def test_the_thumbnail_of_a_raw_file_is_not_taken_for_it(refuses):
    file = io.BytesIO()
    with tifffile.TiffWriter(file) as writer:
        for side, kind in ((8, 1), (64, 0)): writer.write(noise(side, side, 3), subfiletype=kind, photometric='rgb')
    with refuses('a reduced picture, as in raw files'): load_image(file)
    assert load_picture(file, frame=1)[0].shape == (3, 64, 64)

@pytest.mark.parametrize('kind, values', [('cielab', np.uint16), ('cielab', np.float32), ('icclab', np.uint8)])
def test_colours_of_another_kind_are_refused(refuses, kind, values):
    a = np.zeros((16, 16, 3), values)
    with refuses('colours of the kind', 'are not read'): load_image(tiff(a, photometric=kind))

@pytest.mark.parametrize('values, words', [(np.float32([[-1, 2]]), 'must lie in'), (np.float32([[np.nan, 0]]), 'NaN'),
                                           (np.int16([[-5, 300]]), 'below zero'),
                                           (np.int32([[-5, 300]]), 'below zero')])
def test_pixels_that_cannot_be_are_refused_with_the_name(tmp_path, refuses, values, words):
    tifffile.imwrite(tmp_path/'odd.tif', values)
    with refuses('odd.tif is not an image', words): load_image(tmp_path/'odd.tif')

# colour

def test_a_profile_of_another_power():
    a = noise(9, 8, 3)
    light = torch.from_numpy(a / 255.).permute(2, 0, 1) ** 1.8
    srgb = torch.where(light > .0031308, 1.055 * light ** (1 / 2.4) - .055, 12.92 * light)
    file = saved(Image.fromarray(a), icc_profile=profile(1.8))
    assert_close(load_image(file).double(), srgb, atol=.003, rtol=0)
    x, info = load_picture(file, keep_profile=True)
    assert_close(x, torch.from_numpy(a).permute(2, 0, 1) / 255)
    assert info.icc == profile(1.8)

def test_lamps_change_places():
    im = Image.new('RGB', (4, 4), (255, 0, 0))
    x = load_image(saved(im, icc_profile=profile(swap=True)))
    assert_close(x[:, 0, 0], torch.tensor([0., 0, 1]), atol=.01, rtol=0)

@pytest.mark.parametrize('mode', ['RGB', 'RGBA', 'L', 'P'])
def test_the_same_colours_as_by_colour_management(mode):
    im, icc = Image.fromarray(noise(9, 8, 3)).convert(mode), profile(1.8)
    target = ImageCms.createProfile('sRGB')
    want = ImageCms.profileToProfile(im.convert('RGB'), ImageCms.ImageCmsProfile(io.BytesIO(icc)), target)
    assert_close(load_image(saved(im, icc_profile=icc)), load_image(want), atol=1.2 / 255, rtol=0)

def test_16_bits_of_another_profile_stay_16():
    a = np.broadcast_to(np.linspace(20000, 21000, 500).astype(np.uint16)[None, :, None], (2, 500, 3)) * np.uint16(1)
    file = png16(a).getvalue()
    icc = chunk(b'iCCP', b'x\0\0' + zlib.compress(profile(1.8)))
    x = load_image(io.BytesIO(file[:33] + icc + file[33:]))
    assert len(x[0, 0].unique()) == 500 and abs(x[0, 0, 0] - .35) > .02

def test_a_damaged_profile_is_ignored_and_said(capsys):
    a = noise(5, 6, 3)
    x = load_image(saved(Image.fromarray(a), icc_profile=b'no profile' * 20))
    assert_close(x, torch.from_numpy(a).permute(2, 0, 1) / 255)
    assert 'colour profile is damaged' in capsys.readouterr().err

def test_srgb_is_srgb():
    ramp = np.linspace(0, 1, 768).reshape(16, 16, 3)
    assert np.abs(to_srgb(ramp, srgb_profile()) - ramp).max() < 1e-3

@pytest.mark.parametrize('name', ['a.png', 'a.jpg', 'a.webp', 'a.tif'])
def test_a_kept_profile_is_in_the_file(tmp_path, name):
    icc, im = profile(1.8), Image.new('RGB', (9, 8), (200, 100, 30))
    out = Image.open(plain(saved(im, icc_profile=icc), keep_profile=True).save(tmp_path/name, scale=2))
    assert out.info['icc_profile'] == icc and abs(np.array(out).astype(int) - [200, 100, 30]).max() < 4
    assert 'icc_profile' not in Image.open(plain(saved(im, icc_profile=icc)).save(tmp_path/name, scale=2)).info

@pytest.mark.parametrize('name', ['a.png', 'a.jpg', 'a.webp', 'a.tif', 'a.bmp'])
@pytest.mark.parametrize('mode', ['L', 'RGB', '1'])
def test_grey_in_grey_out(tmp_path, name, mode):
    im = Image.fromarray(noise(12, 16)).convert(mode)
    torch.manual_seed(0)
    x, info = load_picture(saved(im))
    field = ImageField(torch.randn(1, 8, 6, 8), LIIF(8, hidden=(16,)), (12, 16))
    assert field.to_pil().mode == 'RGB'
    field.info = (info,)
    assert info.grey and field.to_pil().mode == 'L' and (field.render().diff(dim=1) == 0).all()
    out = np.array(Image.open(field.save(tmp_path/name, scale=2)).convert('RGB')).astype(int)
    assert np.ptp(out, axis=2).max() == 0 and out.std() > 1

def test_a_grey_picture_from_a_lossy_format_is_grey():
    im = Image.fromarray(noise(40, 40)).convert('RGB')
    file = saved(im, 'WEBP', quality=70)
    assert np.ptp(np.asarray(Image.open(file)), axis=2).max() == 1 and load_picture(file)[1].grey
    deep = np.full((4, 5, 3), 30000, np.uint16)
    deep[..., 1] += 200  # less than a level of 8 bits, and seen in 16
    assert not load_picture(png16(deep))[1].grey

@pytest.mark.parametrize('name', ['a.png', 'a.tif', 'a.jpg'])
def test_a_kept_profile_has_as_many_colours_as_the_file(tmp_path, name):
    im = Image.fromarray(noise(9, 8)).convert('RGB')
    field = plain(saved(im, icc_profile=profile(1.8)), keep_profile=True)
    out = Image.open(field.save(tmp_path/name, scale=1))
    assert out.mode == 'RGB' and np.ptp(np.asarray(out), axis=2).max() == 0
    assert out.info['icc_profile'][16:20] == b'RGB '

def test_colour_is_not_grey(): assert not load_picture(noise(4, 5, 3))[1].grey

@pytest.mark.parametrize('name', ['a.jpg'])
def test_jpeg_keeps_colour_at_full_resolution(tmp_path, name):
    red = np.zeros((32, 32, 3), np.uint8)
    red[::2, :, 0] = 255  # lines that 4:2:0 would mix
    out = np.array(Image.open(plain(red).save(tmp_path/name, scale=1))).astype(int)
    assert abs(out - red).mean() < 6

# what is said about it

def described():
    exif = Image.Exif()
    exif[270], exif[315], exif[33432], exif[274] = 'my cat', 'Ann', '(c) Ann', 6
    exif.get_ifd(0x8769).update({36867: '2024:01:01 10:00:00', 0xA002: 999})
    exif.get_ifd(0x8825).update({1: 'N', 2: (48., 8., 0.)})
    return exif

@pytest.mark.parametrize('name', ['a.png', 'a.jpg', 'a.webp', 'a.tif'])
def test_exif_and_dpi_come_out_upright(tmp_path, name):
    xmp = b'<x:xmpmeta xmlns:x="adobe:ns:meta/">cat</x:xmpmeta>'
    file = saved(Image.fromarray(noise(12, 20, 3)), 'JPEG', exif=described(), dpi=(300, 300), xmp=xmp)
    out = Image.open(plain(file).save(tmp_path/name, scale=2))
    exif = out.getexif()
    assert out.size == (24, 40) and exif.get(274, 1) == 1 and out.info['xmp'].strip(b'\0') == xmp
    assert (exif[270], exif[315], exif[33432]) == ('my cat', 'Ann', '(c) Ann')
    assert name == 'a.webp' or np.allclose(out.info['dpi'], 300, atol=.01)
    assert exif.get_ifd(0x8769).get(36867, exif.get(36867)) == '2024:01:01 10:00:00'
    if name != 'a.tif': assert exif.get_ifd(0x8825)[1] == 'N' and 0xA002 not in exif.get_ifd(0x8769)

@pytest.mark.parametrize('held', range(10))  # 0 and 9 mean nothing
def test_a_tiff_that_pillow_cannot_read_keeps_what_it_carries(held):
    a, icc = np.random.default_rng(0).integers(0, 256, (3, 7, 9), dtype=np.uint16) * 257, profile(1.8)
    tags = [(274, 'H', 1, held, True), (34675, 'B', len(icc), icc, True), (315, 's', 0, 'Ann', True)]
    scan = tiff(a, photometric='rgb', planarconfig='separate', description='my cat', extratags=tags,
                resolution=(118.11, 118.11), resolutionunit='CENTIMETER')
    exif = Image.Exif()
    exif[274] = held
    same = saved(Image.fromarray((a >> 8).astype(np.uint8).transpose(1, 2, 0)), icc_profile=icc, exif=exif)
    x, info = load_picture(scan)
    assert_close(x, load_image(same), atol=1e-5, rtol=0)
    exif = Image.Exif()
    exif.load(info.exif)
    assert (exif[270], exif[315], exif.get(274)) == ('my cat', 'Ann', None) and np.allclose(info.dpi, 300, atol=.01)
    x, info = load_picture(scan, keep_profile=True)
    assert_close(x, load_picture(same, keep_profile=True)[0])
    assert info.icc == icc

def test_a_profile_of_tables_is_ignored_in_a_tiff_of_floats_and_that_is_said(capsys):
    a, icc = np.random.default_rng(0).random((5, 6, 3), np.float32), packed({b'A2B0': b'mft1'})
    x = load_image(tiff(a, photometric='rgb', extratags=[(34675, 'B', len(icc), icc, True)]))
    assert_close(x, torch.from_numpy(a).movedim(-1, 0))
    assert 'is ignored' in capsys.readouterr().err

@pytest.mark.parametrize('name', ['a.png', 'a.jpg', 'a.tif'])
def test_names_beyond_ascii_stay(tmp_path, name):
    "Cameras and editors write UTF-8 where the standard has ASCII."
    exif = Image.Exif()
    exif[315] = '出 José'.encode()
    out = Image.open(plain(saved(Image.fromarray(noise(6, 8, 3)), 'JPEG', exif=exif)).save(tmp_path/name))
    assert out.getexif()[315].encode('latin-1').decode() == '出 José'

def test_another_colour_space_is_not_claimed(tmp_path):
    "What was Adobe RGB is sRGB now; whoever reads 2 in EXIF would convert it once more."
    exif = Image.Exif()
    exif.get_ifd(0x8769).update({40961: 2, 36867: '2024:01:01 10:00:00'})
    file = saved(Image.fromarray(noise(6, 8, 3)), 'JPEG', exif=exif, icc_profile=profile(1.8))
    kept = Image.open(plain(file).save(tmp_path/'a.jpg')).getexif().get_ifd(0x8769)
    assert kept[36867] == '2024:01:01 10:00:00' and 40961 not in kept

def test_a_tiff_in_gives_nothing_of_its_inner_order():
    exif = Image.Exif()
    exif.load(load_picture(tiff(noise(40, 50, 3), description='a scan', resolution=(600, 600)))[1].exif)
    assert dict(exif).keys() <= {270, 305, 306} and exif[270].startswith('a scan')

@pytest.mark.parametrize('exif', [b'Exif\0\0II*\0\xff\xff\xff\xff', b'Exif\0\0',
                                  b'Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x09\0\0\xff\xff\0\0\0\0'])
def test_a_damaged_record_is_left_out(exif):
    x, info = load_picture(saved(Image.fromarray(noise(4, 6, 3)), exif=exif))
    assert x.shape == (3, 4, 6)

def test_frames_that_are_left_out_are_counted(tmp_path, capsys, refuses):
    frames = [Image.new('RGB', (8, 6), c) for c in ('red', 'lime', 'blue')]
    for name in ('a.gif', 'a.webp', 'a.png', 'a.tif'):
        kind = dict(lossless=True) if name == 'a.webp' else {}
        frames[0].save(tmp_path/name, save_all=True, append_images=frames[1:], duration=100, **kind)
        assert_close(load_image(tmp_path/name)[:, 0, 0], torch.tensor([1., 0, 0]), atol=.02, rtol=0)
        assert capsys.readouterr().err == f'arsr: {tmp_path/name} has 3 frames; the first is taken\n'
        assert_close(load_picture(tmp_path/name, frame=2)[0][:, 0, 0], torch.tensor([0., 0, 1]), atol=.02, rtol=0)
        assert capsys.readouterr().err == ''
        with refuses('no frame 3', 'the last 2'): load_picture(tmp_path/name, frame=3)

def test_heic(tmp_path):
    pytest.importorskip('pillow_heif')
    plain(Image.new('RGB', (64, 48), (200, 100, 50))).save(tmp_path/'a.heic', scale=1)
    assert_close(load_image(tmp_path/'a.heic').mean((1, 2)), torch.tensor([200., 100, 50]) / 255, atol=.02, rtol=0)

def test_pillow_heif_is_imported_when_the_first_is_met(tmp_path, monkeypatch, refuses):
    calls = []
    def register():
        calls.append(1)
        Image.OPEN['HEIF'] = Image.OPEN['PNG']
    monkeypatch.setitem(sys.modules, 'pillow_heif', SimpleNamespace(register_heif_opener=register))
    def forget(): monkeypatch.setattr(Image, 'OPEN', {k: v for k, v in Image.OPEN.items() if k != 'HEIF'})
    forget()
    load_image(saved(Image.new('RGB', (2, 2))))
    assert calls == []
    for _ in range(2):
        with refuses('is not an image'): load_image(b'perhaps a picture')
    assert calls == [1]
    forget()
    with refuses('cannot tell an image format'): check_picture_path(tmp_path/'a.heic')
    assert calls == [1, 1]

# smaller than its own size

@given(crop=crops(30), own=st.sampled_from([(40, 40), (90, 50), (31, 200)]))
def test_an_antialiased_window_is_the_crop_of_the_whole(crop, own):
    size, (t, l, b, r), window = crop
    x = torch.rand(1, 3, *own, generator=torch.Generator().manual_seed(0))
    def read(size, window): return sample_bicubic(x, size, window)
    part, whole = antialiased(read, own, (b - t, r - l), window), antialiased(read, own, size)
    assert_close(part, whole[..., t:b, l:r], atol=1e-4, rtol=0)

@pytest.mark.parametrize('factor', [2, 4, 5])
def test_below_its_own_size_a_field_is_filtered(factor):
    y, x = torch.meshgrid(torch.arange(120.), torch.arange(120.), indexing='ij')
    zone = (.5 + .5 * torch.cos((x**2 + y**2) / 80)).expand(1, 3, -1, -1)
    field, side = ImageField(zone * 2 - 1, Bicubic(), (120, 120)), 120 // factor
    assert_close(field.render(scale=1 / factor), resize(zone, (side, side)).clamp(0, 1), atol=1e-4, rtol=0)

def test_upscaled_fields_show_their_input_at_their_own_size(photo):
    x = resize(torch.rand(3, 6, 6), (20, 28)).clamp(0, 1)
    field = photo.upscale(x, seed=0, restore=0)
    assert_close(field.render(scale=1)[0], x, atol=1e-4, rtol=0)
    assert_close(field.render(scale=.5)[0], resize(x, (10, 14)).clamp(0, 1), atol=1e-4, rtol=0)

# the border of what was never in training

@pytest.mark.parametrize('colour', [(255, 170, 60), (240, 200, 170), (30, 90, 200), (200, 30, 30), (250, 210, 0)])
def test_a_flat_colour_stays_flat_up_to_the_border(emoji, colour):
    x = torch.tensor(colour)[:, None, None].expand(3, 12, 12) / 255
    assert (emoji.upscale(x, seed=0).render(scale=4)[0] - x[:, :1, :1]).abs().max() < 4 / 255

def test_the_record_of_a_picture_is_fixed():
    with pytest.raises(AttributeError): PictureInfo().grey = True
