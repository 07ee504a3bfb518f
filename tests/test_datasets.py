import json, lzma, zipfile
import pytest, numpy as np
from hypothesis import given, strategies as st
from PIL import Image
from arsr.data import Images, held_out
from arsr.lab import datasets
from arsr.lab.datasets import (PHOTOGRAPHS, category_of, pack_emoji, pack_photos, photo_key,
                               photographs, random_crop, subgroups, textures)

KNOWN = {'woman-climbing': 'People & Body', 'cat': 'Animals & Nature'}

@pytest.mark.parametrize('name, category', [
    ('cat', 'Animals & Nature'), ('woman-climbing-tone1', 'People & Body'), ('flag-for-peru', 'Flags'),
    ('moon-face', 'Smileys & Emotion'), ('bald-person', 'People & Body'), ('digit-five', 'Symbols')])
def test_every_drawing_finds_a_category(name, category): assert category_of(name, KNOWN) == category

def test_pack_emoji(tmp_path):
    birds = {f'bird-{i}': {'body': f'<b{i}/>'} for i in range(8)}
    def write(name, content): (tmp_path/name).write_text(json.dumps(content))
    icons = {'zebra-flag': {'body': '<b/>'}, 'cat': {'body': '<a/>'}} | birds
    write('icons.json', {'icons': icons, 'aliases': {'parrot': {'parent': 'bird-7'}}})
    write('metadata.json', {'categories': {'Animals & Nature': ['cat', *birds]}})
    write('chars.json', {'1f408-fe0f': 'cat', '1f997': 'parrot'} | {f'1f99{i}': f'bird-{i}' for i in range(7)})
    mammal = {'unified': '1F408', 'non_qualified': None, 'subcategory': 'animal-mammal'}
    bird = {'non_qualified': None, 'subcategory': 'animal-bird'}
    write('emoji.json', [bird | {'unified': f'1F99{i}'} for i in range(8)] + [mammal])
    assert pack_emoji(tmp_path, tmp_path, tmp_path/'out.xz') == 10
    packed = json.loads(lzma.decompress((tmp_path/'out.xz').read_bytes()))
    assert packed['cat'] == ['Animals & Nature', 'Animals & Nature / other', '<a/>']  # the only mammal
    assert packed['zebra-flag'] == ['Flags', 'Flags / other', '<b/>']
    assert {packed[n][1] for n in birds} == {'Animals & Nature / animal-bird'}  # one of them under an alias

def test_skin_tones_share_the_subgroup_of_their_emoji():
    tones = {'1F3FB': {'unified': '1F44B-1F3FB', 'non_qualified': None}}
    wave = {'unified': '1F44B', 'non_qualified': None, 'subcategory': 'hand-fingers-open', 'skin_variations': tones}
    assert subgroups([wave]) == {'1f44b': 'hand-fingers-open', '1f44b-1f3fb': 'hand-fingers-open'}

def touch(path, size=10):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(bytes(size))
    return path

def test_photographs_are_found_where_the_packages_put_them(tmp_path):
    names = ('wallpapers/Path/contents/images/2560x1600.jpg', 'backgrounds/mate/nature/Dune.jpg',
             'backgrounds/Wine_by_Jakkub_Mede.jpg')
    there = [touch(tmp_path/p) for p in names]
    touch(tmp_path/'wallpapers/Abstract/contents/images/2560x1600.jpg')
    assert photographs(tmp_path) == there
    assert [photo_key(p) for p in there] == ['Path', 'Dune', 'Wine_by_Jakkub_Mede']

def test_textures_are_large_and_photographic(tmp_path):
    names = 'grass.jpg', 'tracks/wall.jpg', 'wall_nm.jpg', 'screenshot1.jpg', 'sand.png'
    large = [touch(tmp_path/n, 100_001) for n in names]
    touch(tmp_path/'small.jpg', 50_000)
    assert textures(tmp_path) == large[:2]

def test_the_held_out_photographs_are_these_for_ever():
    names = ' '.join(PHOTOGRAPHS.values()).split()
    assert len(set(names)) == 36
    assert [n for n in names if held_out(n, .15)] == ['Garden', 'LadyBird', 'Storm']

@given(size=st.tuples(st.integers(32, 200), st.integers(32, 200)), seed=st.integers(0, 99))
def test_a_random_crop_has_its_side_whatever_the_picture(size, seed):
    assert random_crop(Image.new('RGB', size), 32, np.random.default_rng(seed)).size == (32, 32)

@pytest.fixture
def photos(tmp_path, monkeypatch):
    paths = [tmp_path/n for n in ('lake.png', 'tiny.png', 'wall.png')]
    for path, size in zip(paths, [(80, 60), (20, 90), (64, 64)]):
        pixels = np.random.default_rng(0).integers(0, 256, (*size[::-1], 3), dtype=np.uint8)
        Image.fromarray(pixels).save(path)
    monkeypatch.setattr(datasets, 'photographs', lambda: paths[:2])
    monkeypatch.setattr(datasets, 'textures', lambda: paths[2:])

def test_pack_photos(photos, tmp_path):
    out = tmp_path/'photos.zip'
    assert pack_photos(out, side=32, per_photo=3, per_texture=2) == 5  # the picture that is too small is left out
    assert Images(out).names == ['lake@0.jpg', 'lake@1.jpg', 'lake@2.jpg', 'wall@0.jpg', 'wall@1.jpg']
    assert Images(out).load(0).shape == (3, 32, 32)

def test_the_same_seed_packs_the_same_crops(photos, tmp_path):
    for name, seed in (('a', 0), ('b', 0), ('c', 1)):
        pack_photos(tmp_path/f'{name}.zip', side=32, per_photo=2, per_texture=1, seed=seed)
    archives = [zipfile.ZipFile(tmp_path/f'{n}.zip') for n in 'abc']
    a, b, c = ({n: z.read(n) for n in z.namelist()} for z in archives)
    assert a == b and a != c

def test_no_package_installed(monkeypatch, tmp_path, refuses):
    for name in ('photographs', 'textures'): monkeypatch.setattr(datasets, name, list)
    with refuses('apt-get install', 'plasma-workspace-wallpapers'): pack_photos(tmp_path/'photos.zip')
    assert not list(tmp_path.iterdir())
