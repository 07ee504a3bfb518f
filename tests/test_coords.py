import pytest, torch
from hypothesis import given
from torch.testing import assert_close
from arsr.coords import (cell_size, check_size, check_window, make_cell, make_coord, pixel_centres, resize, split_range,
                         subwindow, tiles, to_image, to_model)
from conftest import crops

def test_pixel_i_of_n_sits_where_the_method_says():
    i = torch.arange(7.)
    assert_close(pixel_centres(7), -1 + (2 * i + 1) / 7)

def test_points_run_row_by_row_and_are_row_column():
    points = [[-1/2, -2/3], [-1/2, 0], [-1/2, 2/3], [1/2, -2/3], [1/2, 0], [1/2, 2/3]]
    assert_close(make_coord((2, 3)), torch.tensor(points))

@given(crops())
def test_a_window_equals_the_crop_of_the_whole(crop):
    size, (t, l, b, r), window = crop
    whole, part = make_coord(size).view(*size, 2), make_coord((b - t, r - l), window).view(b - t, r - l, 2)
    assert_close(part, whole[t:b, l:r], atol=1e-6, rtol=0)
    assert_close(make_cell((b - t, r - l), window)[0], make_cell(size)[0], atol=1e-6, rtol=1e-6)

def test_cell_is_the_pixel_pitch_in_coordinate_units():
    assert cell_size((4, 8)) == (.5, .25)
    assert make_cell((4, 8)).shape == (32, 2)
    coord = make_coord((5, 9), (.1, .2, .7, .9)).view(5, 9, 2)
    step = torch.stack([coord[1, 0, 0] - coord[0, 0, 0], coord[0, 1, 1] - coord[0, 0, 1]])
    assert_close(step, make_cell((5, 9), (.1, .2, .7, .9))[0])

@pytest.mark.parametrize('size, pair', [(5, (5, 5)), ((3, 4), (3, 4)), ([3, 4], (3, 4)), (5., (5, 5)),
                                          (torch.Size([2, 9]), (2, 9))])
def test_sizes(size, pair): assert check_size(size) == pair

@pytest.mark.parametrize('size', [0, -1, 1.5, float('nan'), float('inf'), (0, 4), (4, -2), (3,), (1, 2, 3), '64', None])
def test_sizes_refused(size, refuses):
    with refuses('whole number of pixels of at least 1', '(height, width)', str(size)): check_size(size)

@pytest.mark.parametrize('window', [(.5, 0, .5, 1), (0, .6, 1, .4), (-.1, 0, 1, 1), (0, 0, 1, 1.1), (0, 0, 1),
                                    (0, 0, 1, 1, 1), (0, 0, float('nan'), 1)])
def test_windows_refused(window, refuses):
    with refuses('(top, left, bottom, right)', '0 <= top < bottom <= 1', '0 <= left < right <= 1'): check_window(window)

@pytest.mark.parametrize('mode', ['bicubic', 'bilinear', 'nearest'])
def test_resize_keeps_a_flat_picture_flat_and_an_equal_size_untouched(mode):
    assert_close(resize(torch.full((3, 17, 9), .3), (5, 20), mode), torch.full((3, 5, 20), .3))
    x = torch.rand(1, 3, 6, 7)
    assert resize(x, (6, 7), mode) is x

def test_shrinking_is_antialiased():
    stripes = (torch.arange(65.) % 2).expand(1, 3, 65, 65)
    assert_close(resize(stripes, 13)[..., 1:-1], torch.full((1, 3, 13, 11), .5), atol=.05, rtol=0)
    assert resize(stripes, 13, 'nearest').unique().tolist() == [0, 1]  # every fifth pixel, whatever lies between

def test_resize_does_not_shift():
    ramp = pixel_centres(64).expand(1, 1, 64, 64)
    assert_close(resize(ramp, 16)[0, 0, 0, 3:-3], pixel_centres(16)[3:-3], atol=1e-5, rtol=0)

def test_value_ranges():
    assert_close(to_image(to_model(torch.tensor([0., .3, 1.]))), torch.tensor([0, .3, 1]))
    assert_close(to_image(torch.tensor([-1.5, 1.5])), torch.tensor([0., 1.]))

@given(crops(40))
def test_tiles_cover_a_picture_once_and_reach_into_their_neighbours(crop):
    (h, w), (t, l, b, r), window = crop
    count = torch.zeros(h, w)
    for top, left, bottom, right in tiles((h, w), 7): count[top:bottom, left:right] += 1
    assert (count == 1).all()
    for (a, c), small in zip(((y, x) for y in range(0, h, 7) for x in range(0, w, 7)), tiles((h, w), 7, overlap=2)):
        assert small == (max(0, a - 2), max(0, c - 2), min(h, a + 9), min(w, c + 9))
    assert subwindow((0, 0, 1, 1), (h, w), slice(t, b), slice(l, r)) == pytest.approx(window)

@pytest.mark.parametrize('n, step', [(1, 1), (10, 3), (10, 4), (10, 99), (17, 5)])
def test_a_range_is_split_into_nearly_equal_slices(n, step):
    slices = split_range(n, step)
    assert [i for s in slices for i in range(n)[s]] == list(range(n))
    lengths = [s.stop - s.start for s in slices]
    assert max(lengths) <= step and len(slices) == -(-n // step) and max(lengths) == lengths[0]
