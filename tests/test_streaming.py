"Files written piece by piece: the same pixels as in one piece, in every format, and nothing half-written."
import re
import numpy as np, pytest, torch
from hypothesis import given, strategies as st
from PIL import Image
from tifffile import TiffFile
import arsr.beyond.streaming, arsr.field
from arsr.field import Bicubic, ImageField
from arsr.liif import LIIF
from arsr.beyond.streaming import TileSource, halvings, levels, strips, write_dzi, write_png, write_tiff
from arsr.coords import resize, tiles
from arsr.data import PictureInfo
from conftest import crops

@pytest.fixture
def small_pieces(monkeypatch):
    "Nothing is small enough to be computed at once."
    monkeypatch.setattr(TileSource, 'at_once', 0)

def make_field(size=(32, 48), correction=False):
    torch.manual_seed(0)
    field = ImageField(torch.randn(2, 6, 5, 7), LIIF(6, hidden=(16, 16)), size)
    if correction: field.correction = torch.randn(2, 3, 9, 8) / 9
    return field

def in_one(field, **query): return np.array(field.to_pil(**query))

@given(crop=crops(70), correction=st.booleans(),
       window=st.sampled_from([(0, 0, 1, 1), (.25, .5, .5, 1), (.1, .2, .7, .35)]))
def test_a_piece_is_the_crop_of_the_whole(crop, correction, window):
    size, (t, l, b, r), _ = crop
    whole, tiled = (TileSource(make_field(correction=correction), size, window) for _ in range(2))
    tiled.at_once = 0
    gap = np.abs(tiled(t, l, b, r).astype(int) - whole(t, l, b, r))
    assert gap.max() <= (1 if correction else 0)  # bicubic interpolation rounds as it likes

@pytest.mark.parametrize('size', [(1, 1), (3, 500), (700, 2), (65, 130)])
def test_png_in_strips(small_pieces, tmp_path, monkeypatch, size):
    monkeypatch.setattr(arsr.beyond.streaming, 'strips', lambda size: strips(size, 100))
    write_png(tmp_path/'a.png', TileSource(make_field(), size))
    assert (np.array(Image.open(tmp_path/'a.png')) == in_one(make_field(), size=size)).all()

@pytest.mark.parametrize('size', [(16, 16), (100, 260), (257, 31)])
def test_tiff_holds_every_level(small_pieces, tmp_path, size):
    field = make_field()
    write_tiff(tmp_path/'a.tif', levels(field, size, (0, 0, 1, 1), 32), tile=32)
    with TiffFile(tmp_path/'a.tif') as tiff:
        found = tiff.series[0].levels
        assert [level.shape[:2] for level in found] == halvings(size, 32) and tiff.pages[0].is_tiled
        assert (found[0].asarray() == in_one(field, size=size)).all()
    assert Image.open(tmp_path/'a.tif').size == size[::-1]

def test_a_large_tiff_is_a_bigtiff(tmp_path, monkeypatch):
    class Flat:
        size, depth, channels, info = (300, 200), 8, 3, PictureInfo()
        def __call__(self, t, l, b, r): return np.zeros((b - t, r - l, 3), np.uint8)
    assert arsr.beyond.streaming.CLASSIC_TIFF <= 2**32
    for limit, big in ((3 * 300 * 200, False), (3 * 300 * 200 - 1, True)):
        monkeypatch.setattr(arsr.beyond.streaming, 'CLASSIC_TIFF', limit)
        write_tiff(tmp_path/'a.tif', [Flat()], tile=256)
        with TiffFile(tmp_path/'a.tif') as tiff: assert tiff.is_bigtiff == big and tiff.pages[0].shape == (300, 200, 3)

def test_deep_zoom_tiles_cover_the_picture(small_pieces, tmp_path):
    field, size = make_field(), (70, 150)
    write_dzi(tmp_path/'a.dzi', levels(field, size, (0, 0, 1, 1), 1), tile=30, overlap=2)
    xml = (tmp_path/'a.dzi').read_text()
    assert re.search(r'Overlap="2" TileSize="30"', xml) and '<Size Width="150" Height="70"/>' in xml
    folders = sorted((tmp_path/'a_files').iterdir(), key=lambda p: int(p.name))
    assert [int(p.name) for p in folders] == list(range(9)) and [*folders[0].iterdir()] == [folders[0]/'0_0.jpg']
    whole = in_one(field, size=size)
    assert {p.name for p in folders[-1].iterdir()} == {f'{c}_{r}.jpg' for c in range(5) for r in range(3)}
    tile = np.array(Image.open(folders[-1]/'2_1.jpg')).astype(int)  # from row 30 and column 60, two pixels earlier
    assert tile.shape == (34, 34, 3) and np.abs(tile - whole[28:62, 58:92]).mean() < 4

@given(size=st.tuples(st.integers(1, 300), st.integers(1, 300)), tile=st.integers(1, 90))
def test_tiles_and_strips_partition(size, tile):
    for cuts in (tiles(size, tile), strips(size, tile * 10)):
        count = np.zeros(size, int)
        for t, l, b, r in cuts: count[t:b, l:r] += 1
        assert (count == 1).all()

def test_small_levels_are_filtered():
    pixels = (torch.rand(1, 3, 64, 64) > .5).float()
    picture = ImageField(pixels * 2 - 1, Bicubic(), (64, 64))
    small = levels(picture, (16, 16), (0, 0, 1, 1), 8)[1](0, 0, 8, 8).astype(float)
    truth = resize(pixels, (8, 8)).clamp(0, 1)[0].permute(1, 2, 0).numpy() * 255
    assert np.abs(small - truth).max() <= 1

@pytest.mark.parametrize('name', ['a.png', 'a.tif', 'a.jpg', 'a.dzi'])
@pytest.mark.parametrize('there', [False, True])
def test_an_interrupt_leaves_what_was_there(small_pieces, tmp_path, monkeypatch, name, there):
    field = make_field()
    if there: field.save(tmp_path/name, size=40)
    def files(): return {str(p): p.read_bytes() for p in tmp_path.rglob('*') if p.is_file()}
    before, query, calls = files(), ImageField.decode_rgb, []
    def tired(self, size, window):
        calls.append(size)
        if len(calls) == 3: raise KeyboardInterrupt
        return query(self, size, window)
    monkeypatch.setattr(ImageField, 'decode_rgb', tired)
    monkeypatch.setattr(arsr.beyond.streaming, 'strips', lambda size: strips(size, 4000))
    monkeypatch.setattr(arsr.field, 'STRIP', 4000)
    with pytest.raises(KeyboardInterrupt): field.save(tmp_path/name, size=1100)
    assert files() == before and len(calls) == 3 and bool([*tmp_path.iterdir()]) == there

def test_a_format_held_in_memory_has_a_limit(tmp_path, monkeypatch, refuses):
    monkeypatch.setattr(ImageField, 'max_pixels', 5000)
    with refuses('90 wide and 60 high is over the limit of 5,000 pixels', '.jpg is held in memory whole', '.tif'):
        make_field().save(tmp_path/'a.jpg', size=90)
    for name in ('a.png', 'a.tif', 'a.dzi'): make_field().save(tmp_path/name, size=20)
    assert not (tmp_path/'a.jpg').exists()

def test_a_second_image_is_saved_from_its_own_features(tmp_path):
    field = make_field()
    assert (np.array(Image.open(field[1].save(tmp_path/'b.png', size=30))) == in_one(field[1], size=30)).all()
