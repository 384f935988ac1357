"""Layouts of grids: every image in its place, classes in rows, and a word on what is left out."""

import numpy as np
import pytest

from ddpm_jax.visualization.grids import (
    MAX_COLUMNS,
    draw_grid,
    layout_by_class,
    layout_by_scale,
    layout_square,
)

RNG = np.random.default_rng(0)


def test_each_row_holds_the_samples_of_one_class():
    labels = np.resize([3, 7], 20)
    layout = layout_by_class(labels)
    assert layout.places.shape == (2, 10) and layout.titles == ["3", "7"] and not layout.note
    np.testing.assert_array_equal(labels[layout.places], [[3] * 10, [7] * 10])
    assert sorted(layout.places.ravel()) == list(range(20))


def test_rows_of_unequal_classes_end_in_white():
    layout = layout_by_class(np.array([2, 0, 2, 2]), ("cat", "dog", "sea lion"))
    np.testing.assert_array_equal(layout.places, [[1, -1, -1], [0, 2, 3]])
    assert layout.titles == ["cat", "sea lion"]
    images = RNG.integers(0, 200, (4, 8, 8, 3), np.uint8)
    picture = draw_grid(images, layout)
    assert picture.dtype == np.uint8 and picture.shape[2] == 3
    scale = (picture.shape[0] - 2) // 16
    tiles = picture[:, -(3 * 8 * scale + 2 * 2) :]  # right of the titles
    side, step = 8 * scale, 8 * scale + 2
    for (row, column), place in np.ndenumerate(layout.places):
        tile = tiles[row * step :, column * step :][:side:scale, :side:scale]
        np.testing.assert_array_equal(
            tile, images[place] if place >= 0 else np.full_like(tile, 255)
        )


@pytest.mark.parametrize("channels", [1, 3])
def test_a_name_stands_beside_its_row(channels):
    images = np.zeros((6, 8, 8, channels), np.uint8)
    layout = layout_by_class(np.arange(6) % 2, ("", "dog"))
    picture = draw_grid(images, layout)
    tiles = draw_grid(images, layout._replace(titles=()))
    assert picture.shape[0] == tiles.shape[0]
    margin = picture[:, : picture.shape[1] - tiles.shape[1]]
    above, below = np.split(margin, 2)
    assert (above == 255).all() and (below < 128).any()


@pytest.mark.parametrize(
    "labels",
    [[-1] * 9, [5] * 9, range(9), range(90)],
    ids=["none", "one class", "one of each", "many classes"],
)
def test_a_row_for_each_class_makes_no_sense_for_these(labels):
    num = len(labels)
    found, square = layout_by_class(np.array(labels)), layout_square(num)
    np.testing.assert_array_equal(found.places, square.places)
    assert not found.titles


@pytest.mark.parametrize(
    ("layout", "note"),
    [
        (layout_by_class(np.arange(1000) % 10), "the first 20 of 100 samples of each class"),
        (layout_by_class(np.arange(45) % 2), "the first 20 of up to 23 samples of each class"),
        (layout_by_scale(30, ["0", "1"]), "the first 20 of 30 samples at each scale"),
        (layout_square(401), "the first 400 of 401 samples"),
        (layout_square(400), ""),
        (layout_by_class(np.arange(200) % 10), ""),
        (layout_by_scale(20, ["0", "1"]), ""),
    ],
)
def test_a_grid_says_what_it_leaves_out(layout, note):
    assert layout.note == note
    assert layout.places.shape[1] <= MAX_COLUMNS


@pytest.mark.parametrize("shape", [(2, 20), (10, 2), (5, 5)])
def test_the_longer_side_of_a_grid_of_small_images_is_pleasant(shape):
    layout = layout_square(1)._replace(places=np.zeros(shape, int))
    picture = draw_grid(np.zeros((1, 8, 8, 1), np.uint8), layout)
    assert 600 <= max(picture.shape) < 800
