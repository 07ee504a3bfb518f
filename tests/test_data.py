import io, shutil, subprocess, sys, tarfile, zipfile
from collections import Counter
import huggingface_hub, pytest, numpy as np, torch
from hypothesis import given, strategies as st
from PIL import Image
from torch.testing import assert_close
import arsr.data
from arsr.coords import resize
from arsr.data import (PUBLIC, Drawings, GroupSampler, Images, NativeCrops, RandomScaleCrops, Renders, SeededDataset,
                       downsample, drawing_group, held_out, hub_images, load_image, open_source, progress, public_set,
                       random_queries, random_window, render_svg, square_view, view)

# any image in

def pixels(h, w, c, seed=0): return np.random.default_rng(seed).integers(0, 256, (h, w, c), dtype=np.uint8)
def rgb(*values): return torch.tensor(values)[:, None, None] / 255
def reopened(im, path, **kwargs):
    im.save(path, **kwargs)
    return load_image(path)

@given(st.integers(1, 7), st.integers(1, 7), st.integers(0, 99))
def test_every_layout_is_the_same_picture(h, w, seed):
    a = pixels(h, w, 3, seed)
    truth = torch.from_numpy(a).permute(2, 0, 1) / 255
    for same in (a, a / 255, (a / 255).astype(np.float32), a.astype(np.uint16) * 257, np.asfortranarray(a),
                 a[::-1][::-1], truth, truth.double(), truth.permute(1, 2, 0) if h > 4 else truth,
                 torch.from_numpy(a).permute(2, 0, 1), Image.fromarray(a)):
        x = load_image(same)
        assert x.dtype == torch.float32 and x.is_contiguous()
        assert_close(x, truth, atol=1e-6, rtol=0)

@pytest.mark.parametrize('layout', [lambda a: a, lambda a: a[..., None], lambda a: torch.from_numpy(a),
                                    lambda a: torch.from_numpy(a)[None], lambda a: a / 255, Image.fromarray],
                         ids=['hw', 'hw1', 'tensor hw', 'tensor 1hw', 'float', 'PIL L'])
def test_grey(layout):
    a = pixels(5, 6, 1)[..., 0]
    assert_close(load_image(layout(a)), torch.from_numpy(a).expand(3, -1, -1) / 255)

def test_black_and_white(): assert_close(load_image(Image.new('1', (2, 2), 1)), torch.ones(3, 2, 2))

@pytest.mark.parametrize('alpha, value', [(255, (200, 100, 0)), (51, (244, 224, 204)), (0, (255, 255, 255))])
def test_alpha_is_composited_on_white(alpha, value, tmp_path):
    im = Image.new('RGBA', (5, 5), (200, 100, 0, alpha))
    truth = rgb(*value).expand(3, 5, 5)
    assert_close(reopened(im, tmp_path/'a.png'), truth)
    for array in (np.array(im), np.array(im) / 255, torch.from_numpy(np.array(im)).permute(2, 0, 1)):
        assert_close(load_image(array), truth)

def test_grey_with_alpha(tmp_path):
    assert_close(reopened(Image.new('LA', (2, 2), (100, 51)), tmp_path/'a.png'), rgb(224, 224, 224).expand(3, 2, 2))

def test_palette_with_transparency(tmp_path):
    im = Image.new('P', (2, 1))
    im.putpalette([255, 0, 0, 0, 0, 255])
    im.putpixel((1, 0), 1)
    assert_close(reopened(im, tmp_path/'a.png'), torch.cat([rgb(255, 0, 0), rgb(0, 0, 255)], 2))
    for name in ('b.png', 'b.gif'):
        assert_close(reopened(im, tmp_path/name, transparency=1), torch.cat([rgb(255, 0, 0), rgb(255, 255, 255)], 2))

def test_a_colour_that_means_transparent(tmp_path):
    x = reopened(Image.new('RGB', (2, 2), (9, 8, 7)), tmp_path/'a.png', transparency=(9, 8, 7))
    assert_close(x, torch.ones(3, 2, 2))

@pytest.mark.parametrize('name', ['a.png', 'a.tif'])
def test_16_bit_grey(tmp_path, name):
    im = Image.fromarray(257 * np.arange(256, dtype=np.uint16)[None])
    assert_close(reopened(im, tmp_path/name), (torch.arange(256)[None] / 255).expand(3, 1, 256))

def test_cmyk(tmp_path):
    im = Image.new('CMYK', (2, 2), (0, 255, 255, 0))
    assert_close(reopened(im, tmp_path/'a.tif'), rgb(255, 0, 0).expand(3, 2, 2))
    assert_close(reopened(im, tmp_path/'a.jpg', quality=100), rgb(255, 0, 0).expand(3, 2, 2), atol=3 / 255, rtol=0)

@pytest.mark.parametrize('orientation, turn', list(enumerate([
    lambda a: a, lambda a: a[:, ::-1], lambda a: a[::-1, ::-1], lambda a: a[::-1], lambda a: a.swapaxes(0, 1),
    lambda a: np.rot90(a, -1), lambda a: a[::-1, ::-1].swapaxes(0, 1), np.rot90], start=1)))
def test_exif_rotation(orientation, turn, tmp_path):
    a, exif = pixels(4, 6, 3), Image.Exif()
    exif[0x0112] = orientation
    x = reopened(Image.fromarray(a), tmp_path/'a.png', exif=exif)
    assert_close(x, torch.from_numpy(turn(a).copy()).permute(2, 0, 1) / 255)

def test_open_files_and_urls_of_files(tmp_path, refuses):
    path, a = tmp_path/'a b.png', pixels(5, 6, 3)
    truth = reopened(Image.fromarray(a), path)
    assert_close(load_image(io.BytesIO(path.read_bytes())), truth)
    with path.open('rb') as f: assert_close(load_image(f), truth)
    assert_close(load_image(path.as_uri()), truth)
    with refuses('this BytesIO is not an image'): load_image(io.BytesIO(b'hello'))
    with refuses('file:///no/where.png could not be fetched'): load_image('file:///no/where.png')

def test_urls_are_fetched_and_failures_are_one_line(monkeypatch, refuses, tmp_path):
    Image.fromarray(pixels(5, 6, 3)).save(tmp_path/'a.png')
    asked = []
    def fetch(request, timeout):
        asked.append(request.full_url)
        if 'gone' in request.full_url: raise OSError('HTTP Error 404: Not Found')
        return (tmp_path/'a.png').open('rb')
    monkeypatch.setattr(arsr.data, 'urlopen', fetch)
    assert_close(load_image('https://example.org/a.png?size=large'), load_image(tmp_path/'a.png'))
    assert asked == ['https://example.org/a.png?size=large']
    with refuses('http://example.org/gone could not be fetched', '404'): load_image('http://example.org/gone')

# wrong images

def test_missing_path(refuses, tmp_path):
    with refuses('no such image file', 'nowhere.png'): load_image(tmp_path/'nowhere.png')
    with refuses('is a folder, not an image file'): load_image(str(tmp_path))

@pytest.mark.parametrize('content', [b'', b'hello', b'%PDF-1.7'])
def test_not_an_image(content, refuses, tmp_path):
    (tmp_path/'a.png').write_bytes(content)
    with refuses('a.png is not an image that can be read', 'PNG, JPEG'): load_image(tmp_path/'a.png')

@pytest.mark.parametrize('suffix', ['png', 'jpg', 'webp', 'tif', 'bmp', 'gif'])
@pytest.mark.parametrize('share', [.01, .3, .9])
@pytest.mark.filterwarnings('ignore::UserWarning')
def test_truncated_image(suffix, share, refuses, tmp_path):
    path = tmp_path/f'a.{suffix}'
    Image.fromarray(pixels(30, 40, 3)).save(path)
    whole = path.read_bytes()
    path.write_bytes(whole[:int(len(whole) * share)])
    with refuses('is not an image that can be read'): load_image(path)

def test_a_picture_too_large_to_be_meant(refuses, tmp_path, monkeypatch):
    Image.new('L', (9, 9)).save(tmp_path/'a.png')
    monkeypatch.setattr(Image, 'MAX_IMAGE_PIXELS', 10)
    with refuses('a.png has 81 pixels, over the limit of 10', '--force'): load_image(tmp_path/'a.png')

def test_a_floating_point_picture_is_one_in_0_to_1(refuses):
    assert_close(load_image(Image.new('F', (2, 2), .25)), torch.full((3, 2, 2), .25))
    with refuses('pixel values must lie in [0,1]'): load_image(Image.new('F', (2, 2), 255))

@pytest.mark.parametrize('value, words', [(float('nan'), 'NaN or infinite'), (float('inf'), 'NaN or infinite'),
                                          (-float('inf'), 'finite number in [0,1]'),
                                          (1.2, 'lie in [0,1] (or be uint8)'), (-.2, 'lie in [0,1]'), (255., 'uint8')])
def test_wrong_pixels(value, words, refuses):
    x = torch.rand(3, 4, 5)
    x[1, 2, 3] = value
    for image in (x, x.numpy(), x.permute(1, 2, 0).numpy()):
        with refuses(words): load_image(image)

def test_a_little_overshoot_is_clamped():
    assert load_image(torch.tensor([[-5e-4, 1 + 5e-4]])).unique().tolist() == [0, 1]

@pytest.mark.parametrize('shape', [(5,), (2, 3, 5, 5), (5, 5, 2), (2, 5, 5), (0, 5, 3), (5, 0)])
def test_wrong_shape(shape, refuses):
    for image in (np.zeros(shape), torch.zeros(shape)):
        with refuses('(h,w), (h,w,3) or (3,h,w)', str(shape)): load_image(image)

# windows of pixels

@given(st.integers(0, 9), st.integers(0, 9), st.integers(1, 6), st.integers(1, 6))
def test_view_on_pixel_borders_is_the_crop(t, l, h, w):
    x = torch.rand(3, 15, 20)
    assert_close(view(x, (h, w), (t / 15, l / 20, (t + h) / 15, (l + w) / 20)), x[:, t:t+h, l:l+w])

def test_view_resizes_and_a_sliver_is_one_pixel():
    x = torch.rand(3, 10, 10)
    assert_close(view(x, (4, 7)), resize(x, (4, 7)).clamp(0, 1))
    assert_close(view(x, 1, (.99, .99, 1, 1)), x[:, 9:, 9:])

# the drawings

def test_the_held_out_drawings_are_these_for_ever(drawings):
    valid = Drawings('valid')
    assert (len(Drawings('all')), len(drawings), len(valid)) == (3819, 3623, 196)
    assert (len(set(drawings.groups)), len(set(valid.groups))) == (1658, 86)
    assert valid.names[:4] == ['alembic', 'atm-sign', 'ballet-shoes', 'bellhop-bell']
    assert valid.names[-1] == 'woozy-face'
    assert len(drawings.categories) == 9 and len(drawings.category) == len(drawings.kind) == len(drawings.body) == 3623
    for k, c in zip(drawings.kind, drawings.category):
        assert drawings.classes[k].startswith(drawings.categories[c] + ' / ')

def test_the_splits_share_no_group_and_leave_nothing_out(drawings):
    valid = Drawings('valid')
    assert not set(drawings.groups) & set(valid.groups)
    assert sorted(drawings.names + valid.names) == sorted(Drawings('all').names)

@pytest.mark.parametrize('name, group', [('waving-hand-dark-skin-tone', 'waving-hand'),
                                         ('woman-climbing-tone1', 'woman-climbing'), ('stone', 'stone'),
                                         ('men-holding-hands-medium-light-skin-tone-dark-skin-tone',
                                          'men-holding-hands')])
def test_skin_tones_share_a_group(name, group): assert drawing_group(name) == group

def test_a_larger_share_holds_out_the_same_and_more():
    names = [f'picture {i}' for i in range(2000)]
    small, large = ({n for n in names if held_out(n, share)} for share in (.05, .15))
    assert small < large and 70 < len(small) < 130
    assert not any(held_out(n, 0) for n in names) and all(held_out(n, 1) for n in names)

def test_a_window_of_a_drawing_is_the_crop_of_the_whole(drawings):
    for i in (3, 100, 2000):
        whole = drawings.view(i, (128, 96))
        error = (drawings.view(i, (64, 24), (.125, .25, .625, .5)) - whole[:, 16:80, 24:48]).abs()
        assert error.max() < .15 and error.mean() < .001  # edges are antialiased anew

@pytest.mark.parametrize('size', [(1, 50), (3, 7), (4, 9), (37, 20)])
def test_a_drawing_has_the_size_asked_for(drawings, size): assert drawings.view(0, size).shape == (3, *size)

def test_drawings_stand_on_white():
    x = render_svg('<rect x="64" width="64" height="128" fill="#ff0000"/>', (2, 4))
    assert_close(x, torch.cat([torch.ones(3, 2, 2), rgb(255, 0, 0).expand(3, 2, 2)], 2))

# folders, zips, public sets

@pytest.fixture
def folder(tmp_path):
    "Ten pictures, one of them in a sub-folder, and a file that is none."
    root = tmp_path/'pictures'
    (root/'more').mkdir(parents=True)
    for i in range(9): Image.fromarray(pixels(8, 6, 3, i)).save(root/f'p{i}.png')
    Image.fromarray(pixels(8, 6, 3, 9)).save(root/'more/p9.BMP')
    (root/'notes.txt').write_text('not a picture')
    return root

def zipped(folder):
    path = folder.with_suffix('.zip')
    with zipfile.ZipFile(path, 'w') as z:
        for p in folder.rglob('*'): z.write(p, p.relative_to(folder))
    return path

def test_a_folder_and_its_zip_hold_the_same(folder):
    a, b = Images(folder), Images(zipped(folder))
    assert a.names == b.names == ['more/p9.BMP', *(f'p{i}.png' for i in range(9))] and len(a) == 10
    assert a.groups == a.names
    for i in range(10): assert_close(a.view(i, (8, 6)), b.view(i, (8, 6)), atol=0, rtol=0)
    corner = torch.from_numpy(pixels(8, 6, 3, 0)).permute(2, 0, 1)[:, 4:, :3] / 255
    assert_close(a.view(1, (4, 3), (.5, 0, 1, .5)), corner)

def test_splits_of_a_folder(folder):
    train, valid = Images(folder, 'train', share=.3), Images(folder, 'valid', share=.3)
    assert sorted(train.names + valid.names) == Images(folder).names
    assert len(valid) == sum(held_out(f'p{i}', .3) for i in range(10)) > 0

def test_crops_of_a_photograph_stay_together(tmp_path):
    names = {photo: [f'{photo}@{k}.png' for k in range(8)] for photo in ('lake', 'moor', 'hill', 'dune')}
    for name in sum(names.values(), []): Image.new('RGB', (4, 4)).save(tmp_path/name)
    valid = Images(tmp_path, 'valid', share=.5).names
    assert valid == sorted(sum((crops for photo, crops in names.items() if held_out(photo, .5)), []))
    assert 0 < len(valid) < 32

def test_a_split_must_be_one_that_exists(refuses, folder):
    for source in (lambda: Drawings('test'), lambda: Images(folder, 'test')):
        with refuses("split must be 'train', 'valid' or 'all', not 'test'"): source()

def test_pictures_are_decoded_once(folder, monkeypatch):
    images, calls = Images(folder), []
    real = arsr.data._decode
    monkeypatch.setattr(arsr.data, '_decode', lambda *args: calls.append(args) or real(*args))
    for _ in range(3): images.view(1, 4)
    assert len(calls) == 1

def test_wrong_folders(folder, refuses, tmp_path):
    with refuses('no such folder or zip'): Images(tmp_path/'nowhere')
    with refuses('no images', '.png', 'valid'): Images(folder, 'valid', share=0)
    (tmp_path/'a.zip').write_bytes(b'not a zip')
    with refuses('a.zip is not a zip archive'): Images(tmp_path/'a.zip')

def test_a_broken_picture_is_named(folder, refuses):
    (folder/'p3.png').write_bytes((folder/'p3.png').read_bytes()[:40])
    for images in (Images(folder), Images(zipped(folder))):
        with refuses('p3.png is not an image'): images.view(images.names.index('p3.png'), 4)

LAYOUT = {'div2k': 'DIV2K_train_HR/0001.png', 'flickr2k': 'Flickr2K_HR/000001.png',
          'ffhq': 'images1024x1024/00000/00000.png',
          'celeba-hq': 'celeba_hq_256/00000.jpg', 'lsun': 'church_outdoor_train/0a1b.webp'}

@pytest.mark.parametrize('name', PUBLIC)
def test_public_sets(name, tmp_path, refuses):
    path = tmp_path/LAYOUT[name]
    with refuses(str(tmp_path), f'unpack {name} there'): public_set(name, tmp_path)
    path.parent.mkdir(parents=True)
    Image.fromarray(pixels(8, 8, 3)).save(path)
    (tmp_path/'DIV2K_train_LR_bicubic').mkdir()
    images = public_set(name, tmp_path, split='all')
    assert [images.path/n for n in images.names] == [path]
    assert open_source(f'{name}:{tmp_path}', 'all').names == images.names

def test_div2k_is_read_whole_and_split_as_published(tmp_path, refuses):
    for name in ('DIV2K_train_HR/0001.png', 'DIV2K_train_HR/0002.png', 'DIV2K_valid_HR/0801.png',
                 'Flickr2K/Flickr2K_HR/000001.png', 'DIV2K_train_LR_bicubic/0001.png'):
        (tmp_path/name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels(8, 8, 3)).save(tmp_path/name)
    def names(data, split): return [name.split('/')[-1] for name in open_source(f'{data}:{tmp_path}', split, .5).names]
    assert names('div2k', 'all') == ['0001.png', '0002.png', '0801.png']
    assert names('div2k', 'train') == ['0001.png', '0002.png'] and names('div2k', 'valid') == ['0801.png']
    assert names('flickr2k', 'all') == ['000001.png']
    assert names('div2k+flickr2k', 'train') == ['0001.png', '0002.png', '000001.png']
    both = open_source(f'div2k+flickr2k:{tmp_path}', 'all')
    assert len(both) == 4 and all(both.view(i, 4).shape == (3, 4, 4) for i in range(4))
    with refuses("has no folder 'images1024x1024'", 'unpack ffhq there'): open_source(f'div2k+ffhq:{tmp_path}')
    with refuses("split must be 'train', 'valid' or 'all'"): public_set('div2k', tmp_path, split='test')

def test_unknown_public_set(refuses):
    with refuses("unknown public set 'imagenet'", 'div2k, flickr2k, ffhq, celeba-hq, lsun'): public_set('imagenet', '.')

@pytest.mark.parametrize('as_zip', [False, True])
def test_hub_images(as_zip, folder, tmp_path, monkeypatch):
    if as_zip:
        root = tmp_path/'snapshot'
        root.mkdir()
        shutil.move(zipped(folder), root)
    else: root = folder
    asked = {}
    def download(repo, **kwargs):
        asked.update(repo=repo, **kwargs)
        return str(root)
    monkeypatch.setattr(huggingface_hub, 'snapshot_download', download)
    assert len(hub_images('owner/name', split='all')) == 10
    assert asked['repo'] == 'owner/name' and asked['repo_type'] == 'dataset'
    assert {'*.png', '*.zip'} <= set(asked['allow_patterns'])
    assert len(open_source('hub:owner/name', 'all')) == 10

def test_open_source(folder):
    assert len(open_source('emoji', 'valid')) == 196
    assert open_source(str(folder), 'all').names == Images(folder).names

# low from high

@pytest.mark.parametrize('size, scale, small', [((16, 24), 4, (4, 6)), ((37, 50), 4, (9, 12)), ((10, 10), 2.5, (4, 4)),
                                                ((3, 3), 8, (1, 1))])
def test_downsampling_is_antialiased_bicubic(size, scale, small):
    hr = torch.rand(2, 3, *size)
    assert_close(downsample(hr, scale), resize(hr, small).clamp(0, 1))
    assert downsample(hr[0], scale).shape == (3, *small)

# training samples

def test_groups_are_drawn_equally_often():
    class Source: groups = ['couple'] * 30 + ['cat']
    draw, rng = GroupSampler(Source()), np.random.default_rng(0)
    seen = Counter(draw(rng) for _ in range(1000))
    assert 420 < seen[30] < 580 and len(seen) == 31

@given(st.integers(1, 40), st.data())
def test_random_window_stays_inside(image, data):
    crop = data.draw(st.integers(1, image))
    t, l = random_window(image, crop, np.random.default_rng(data.draw(st.integers(0, 99))))
    assert 0 <= t <= image - crop and 0 <= l <= image - crop

@pytest.mark.parametrize('window', [(0, 0, 1, 1), (.125, .25, .625, .75)])
def test_random_queries_agree_with_direct_rendering(drawings, window):
    truth = (drawings.view(100, 128) * 255).round().byte()
    queries, side = random_queries(truth, window, 500, np.random.default_rng(0)), round(128 * (window[2] - window[0]))
    direct = drawings.view(100, side, window) * 2 - 1
    row, col = ((queries['coord'] + 1) / 2 * side - .5).T
    assert_close(row, row.round(), atol=1e-3, rtol=0)
    assert row.round().unique().numel() > side * .9  # everywhere, not only in a corner
    error = (direct[:, row.round().long(), col.round().long()].T - queries['rgb']).abs()
    assert error.max() < .3 and error.mean() < .002  # edges are antialiased anew
    assert_close(queries['cell'], torch.full((500, 2), 2 / side))

def test_queries_lie_inside_their_window():
    queries = random_queries(torch.zeros(3, 77, 77, dtype=torch.uint8), (.1, .3, .55, .75), 2000,
                           np.random.default_rng(0))
    coord = queries['coord']
    assert coord.abs().max() <= 1 and (coord.amax(0) > .9).all() and (coord.amin(0) < -.9).all()

@pytest.fixture(scope='module')
def renders(few): return Renders(few, base=32, sizes=(20, 50), per=2)

def test_truth_is_rendered_at_its_own_size(renders, few):
    sizes, rng = set(), np.random.default_rng(0)
    for i in [*range(4)] * 8:
        truth = renders.any_size(i, rng)
        sizes.add(truth.shape[-1])
        assert truth.dtype == torch.uint8
        assert_close(truth / 255, few.view(i, truth.shape[-1]), atol=1e-6, rtol=0)
        assert_close(renders[i] / 255, few.view(i, 32), atol=1e-6, rtol=0)
    assert 2 < len(sizes) <= 8 and 20 <= min(sizes) and max(sizes) <= 50
    assert sizes == set(Renders(few, base=32, sizes=(20, 50), per=2).sides[:, 1:].flatten().tolist())

class Counted:
    "A source that notes what it is asked for."
    def __init__(self, source): self.source, self.groups, self.asked = source, source.groups, []
    def __len__(self): return len(self.source)
    def view(self, i, size, window=(0, 0, 1, 1)):
        self.asked.append((i, size, window))
        return self.source.view(i, size, window)

def test_nothing_is_rendered_before_it_is_asked_for_or_twice(few, tmp_path, refuses):
    source, path = Counted(few), tmp_path/'new'/'r.u8'
    kept = Renders(source, 32, (20, 50), path=path)
    assert not source.asked
    crops = [RandomScaleCrops(kept, 16, 8)[5] for _ in range(2)]
    assert len(source.asked) == 2
    again = RandomScaleCrops(Renders(source, 32, (20, 50), path=path), 16, 8)[5]
    assert len(source.asked) == 2
    for k in again: assert torch.equal(again[k], crops[0][k]) and torch.equal(crops[1][k], crops[0][k])
    with refuses('r.u8 was made of other pictures', 'another folder'): Renders(source, 16, (20, 50), path=path)

def test_no_more_is_kept_than_there_is_room_for(few, tmp_path):
    room, source, rng = 20_000, Counted(few), np.random.default_rng(0)
    some = Renders(source, 32, (20, 50), room=room, path=tmp_path/'r.u8')
    for i in range(4): assert_close(some[i] / 255, few.view(i, 32), atol=1e-6, rtol=0)
    assert 0 < len(some.sides) < 4 and (tmp_path/'r.u8').stat().st_size <= room
    sizes = {some.any_side(3, rng) for _ in range(400)}
    assert sizes == {*range(20, 51)}  # the sizes of what is not kept are not bound to a few
    assert Renders(source, 32, (20, 50), room=0).at(2, 40).shape == (3, 40, 40)

@pytest.mark.parametrize('kept', [0, 1e9])
def test_a_crop_of_what_is_not_kept_is_rendered_alone(few, kept):
    source = Counted(few)
    truth, window = Renders(source, 32, (80, 80), room=kept).any_window(1, (.25, .5, .7, 1), np.random.default_rng(0))
    assert truth.shape == (3, 36, 40) and source.asked[0][1] == ((80, 80) if kept else (36, 40))
    assert_close(torch.tensor(window), torch.tensor([0., 0, 1, 1]), atol=1e-6, rtol=0)
    assert (truth / 255 - few.view(1, 80)[:, 20:56, 40:]).abs().mean() < .005  # edges are antialiased anew

def test_worker_processes_share_what_is_kept(few):
    renders = Renders(few, 32, (20, 50))
    for batch in torch.utils.data.DataLoader(renders, 1, num_workers=2): assert batch.shape == (1, 3, 32, 32)
    renders.source = None  # the workers have rendered all there is
    assert_close(renders[3] / 255, few.view(3, 32), atol=1e-6, rtol=0)

def test_an_endless_source():
    source = open_source('portraits')
    renders, rng = Renders(source, 32, (20, 50), room=1e4, first=7), np.random.default_rng(0)
    assert len(renders) == 7 and {renders.pick(rng) for _ in range(99)} == {*range(7)} and not renders.mirrored
    assert_close(renders[6] / 255, source.view(6, 32), atol=1e-6, rtol=0)
    assert source.families[source.label(3)[0]] == source.attributes(3)['family']

def test_half_of_the_queries_lie_at_edges():
    truth = torch.zeros(3, 64, 64, dtype=torch.uint8)
    truth[:, :, 32:] = 255
    window, rng = (.25, .25, 1, 1), np.random.default_rng(0)
    for edges, low, high in ((0., .01, .08), (.5, .48, .58), (1., .97, 1)):
        queries = random_queries(truth, window, 1000, rng, edges)
        col = ((queries['coord'][:, 1] + 1) / 2 * 48 + 16).long()
        assert low <= ((col == 31) | (col == 32)).float().mean() <= high
        assert torch.equal(queries['rgb'][:, 0] > 0, col >= 32)
        assert queries['coord'][:, 0].abs().max() < 1 and queries['coord'][:, 0].std() > .5

# photographs

@pytest.fixture
def photos(tmp_path):
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 256, (70, 90, 3), np.uint8)).save(tmp_path/'a.png')
    Image.fromarray(rng.integers(0, 256, (20, 30, 3), np.uint8)).save(tmp_path/'b.png')
    return Images(tmp_path)

def test_native_crops_are_the_pixels_of_the_photograph(photos):
    native = NativeCrops(photos, 32)
    assert native.groups == ['a.png'] * 9 + ['b.png'] and len(native) == 10
    assert len({native.square(k) for k in range(9)}) == 9
    assert torch.equal(square_view(native, 9, 20), square_view(photos, 1, 20))
    renders = Renders(native, 32, (16, 32))
    pixels = photos.load(0).unfold(1, 32, 1).unfold(2, 32, 1)
    for k in range(9): assert (pixels == renders[k][:, None, None]).all(-1).all(-1).all(0).any()

def test_the_size_of_a_picture_is_that_of_its_pixels(tmp_path):
    for k, turn in enumerate((1, 3, 6, 8)):
        exif = Image.Exif()
        exif[0x0112] = turn
        Image.new('RGB', (20, 30)).save(tmp_path/f'{k}.jpg', exif=exif)
    images = Images(tmp_path)
    for i in range(4): assert images.size(i) == tuple(images.load(i).shape[-2:])

@pytest.mark.parametrize('source', [Images, lambda path: NativeCrops(Images(path), 8)], ids=['whole', 'native'])
def test_the_next_picture_takes_the_place_of_a_broken_one(tmp_path, capsys, refuses, source):
    for k in range(4): Image.new('RGB', (8, 8), (60 * k,) * 3).save(tmp_path/f'{k}.png')
    (tmp_path/'1.png').write_bytes(b'no')
    renders = Renders(source(tmp_path), 8, (8, 8))
    assert [int(x[0, 0, 0]) for x in renders] == [0, 120, 120, 180]
    assert capsys.readouterr().err.count('1.png is not an image') == 1
    (tmp_path/'2.png').write_bytes(b'no')
    with refuses('2.png is not an image'): [*Renders(source(tmp_path), 8, (8, 8))]

def test_a_zip_is_read_by_several_processes(tmp_path):
    with zipfile.ZipFile(tmp_path/'a.zip', 'w') as z:
        for k in range(60):
            buffer = io.BytesIO()
            Image.fromarray(np.random.default_rng(k).integers(0, 256, (64, 64, 3), np.uint8)).save(buffer, 'PNG')
            z.writestr(f'{k:02}.png', buffer.getvalue())
    renders = Renders(Images(tmp_path/'a.zip'), 64, (64, 64), room=0)
    read = torch.cat([*torch.utils.data.DataLoader(renders, 2, num_workers=3)])
    assert torch.equal(read, torch.stack([*renders]))

def write_many(folder, n, content):
    "So many small files, in folders of a thousand."
    for k in range(n // 1000): (folder/f'{k:02}').mkdir()
    for k in range(n): (folder/f'{k // 1000:02}'/f'{k:05}.png').write_bytes(content)

STREAM = """
import resource, sys, time
from arsr.data import RandomScaleCrops, Renders, open_source
start = time.process_time()
source = open_source(sys.argv[1], 'train')
crops = RandomScaleCrops(Renders(source, 256, (64, 256), room=0), crop=256)
items = [crops[k] for k in range(16)]
print(len(source), time.process_time() - start, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6)
"""

@pytest.mark.parametrize('sharded', [False, True])
@pytest.mark.parametrize('n, side, seconds', [
    (2000, 8, 10), pytest.param(70_000, 256, 60, marks=pytest.mark.slow)])
def test_many_pictures_start_soon_and_in_little_memory(tmp_path, n, side, seconds, sharded):
    content = as_png(np.zeros((side, side, 3), np.uint8) + np.arange(side, dtype=np.uint8)[:, None])
    if sharded: write_shards(tmp_path, n, 4, lambda i: content)
    else: write_many(tmp_path, n, content)
    data = f'shards:{tmp_path}' if sharded else str(tmp_path)
    done = subprocess.run([sys.executable, '-c', STREAM, data], capture_output=True, text=True, check=True)
    found, used, gigabytes = map(float, done.stdout.split())
    assert .9 * n < found < n and used < seconds and gigabytes < 1

def write_shards(folder, n, shards, content):
    "Tar files as `webdataset` writes them: a picture and its label beside each other."
    for k in range(shards):
        with tarfile.open(folder/f'{k:03}.tar', 'w') as tar:
            for i in range(k, n, shards):
                for suffix, data in (('png', content(i)), ('json', b'{}')):
                    info = tarfile.TarInfo(f'{i:05}.{suffix}')
                    info.size = len(data)
                    tar.addfile(info, io.BytesIO(data))

def as_png(x):
    buffer = io.BytesIO()
    Image.fromarray(x).save(buffer, 'PNG')
    return buffer.getvalue()

def test_a_set_in_shards(tmp_path, refuses):
    with refuses('no images in tar files', str(tmp_path)): open_source(f'shards:{tmp_path}')
    write_shards(tmp_path, 40, 4, lambda i: as_png(pixels(10, 12, 3, i)))
    source = open_source(f'shards:{tmp_path}', 'all')
    assert len(source) == 40 and source.size(3) == (10, 12)
    for k in (39, 0, 17):
        i = int(source.names[k][-9:-4])
        assert torch.equal(source.load(k), torch.from_numpy(pixels(10, 12, 3, i)).permute(2, 0, 1))
    parts = [set(open_source(f'shards:{tmp_path}', split, share=.3).names) for split in ('train', 'valid')]
    assert len(parts[0] | parts[1]) == 40 and not parts[0] & parts[1] and parts[1]
    read = torch.cat([*torch.utils.data.DataLoader(Renders(source, 8, (8, 8)), 4, num_workers=2)])
    assert torch.equal(read, torch.stack([*Renders(source, 8, (8, 8))]))
    (tmp_path/'000.tar').write_bytes((tmp_path/'000.tar').read_bytes().replace(b'IHDR', b'XXXX'))
    with refuses('000.tar/00000.png is not an image'): source.load(0)

def test_a_training_crop_and_its_queries(few):
    crops = RandomScaleCrops(Renders(few, base=32, sizes=(32, 32)), crop=16, queries=40)
    for k in range(5):
        item = crops[k]
        assert item['image'].shape == (3, 16, 16) and -1 <= item['image'].min() and item['image'].max() <= 1
        row, col = ((item['coord'] + 1) / 2 * 16).long().T  # at the crop's own resolution the truth is the crop's pixel
        assert_close(item['image'][:, row, col].T, item['rgb'])
        assert_close(item['cell'], torch.full((40, 2), 2 / 16))

def test_crop_k_is_the_same_whenever_it_is_drawn(renders):
    a, b, c = (RandomScaleCrops(renders, 16, 8, seed=seed) for seed in (0, 0, 1))
    b[3]
    assert torch.equal(a[7]['coord'], b[7]['coord'])
    assert not torch.equal(a[7]['coord'], a[8]['coord']) and not torch.equal(a[7]['coord'], c[7]['coord'])

def test_square_training_data_do_not_squash(tmp_path):
    picture = torch.zeros(3, 40, 80)
    picture[:, :, 20:60] = 1
    Image.fromarray((picture.permute(1, 2, 0) * 255).byte().numpy()).save(tmp_path/'wide.png')
    images = Images(tmp_path)
    assert images.square(0) == (0, .25, 1, .75)
    assert (Renders(images, base=16, sizes=(8, 8))[0] == 255).all()

def test_a_seeded_data_set_is_endless_and_repeatable():
    class Dice(SeededDataset):
        def sample(self, rng): return rng.integers(1, 7, 9).tolist()
    a, b = Dice(), Dice(seed=1)
    assert len(a) == 2**40 and a[2**39] == Dice()[2**39] != a[0] != b[0]
    assert a[5] == np.random.default_rng((0, 5)).integers(1, 7, 9).tolist()

# progress

class Terminal(io.StringIO):
    def isatty(self): return True

def test_a_bar_is_shown_after_a_while_on_the_error_stream_of_a_terminal(monkeypatch):
    out, err = io.StringIO(), Terminal()
    monkeypatch.setattr(sys, 'stdout', out)
    monkeypatch.setattr(sys, 'stderr', err)
    assert list(progress([1, 2, 3])) == [1, 2, 3] and err.getvalue() == ''  # over within a second
    for _ in progress(range(4), 'writing', delay=0): print('said by the loop')
    assert '50.00% [2/4' in err.getvalue() and 'writing' in err.getvalue()
    assert out.getvalue() == 'said by the loop\n' * 4

def test_a_log_has_no_bar_and_an_interrupt_passes(monkeypatch):
    err = io.StringIO()
    monkeypatch.setattr(sys, 'stderr', err)
    assert list(progress(range(3), delay=0)) == [0, 1, 2] and list(progress([])) == []
    monkeypatch.setattr(sys, 'stderr', Terminal())
    with pytest.raises(KeyboardInterrupt):
        for k in progress(range(5), delay=0):
            if k == 2: raise KeyboardInterrupt
    assert err.getvalue() == ''
