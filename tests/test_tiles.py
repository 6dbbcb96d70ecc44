"""Tiles over a canvas: they cover the hole, blend without a seam, and are few."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from conftest import synthetic_photo

from asyncdsb.masks import MASK_KINDS, make_mask
from asyncdsb.photo.settings import Settings
from asyncdsb.photo.tiles import OVERLAP, TOGETHER, Tiles
from asyncdsb.photo.window import MAX_CANVAS, Window

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("shape", [(64, 64), (100, 333), (500, 64), (40, 700)])
@pytest.mark.parametrize("seed", range(4))
def test_tiles_cover_the_hole_and_lie_on_the_canvas(shape, seed):
    rng = np.random.default_rng(seed)
    hole = rng.random(shape) < 10 ** rng.uniform(-3.5, -0.3)
    hole[rng.integers(shape[0]), rng.integers(shape[1])] = True
    tiles = Tiles.over(hole, 64)
    height, width = tiles.size
    assert (height, width) == (min(64, shape[0]), min(64, shape[1]))
    covered = np.zeros(shape, bool)
    for top, left in tiles.corners:
        assert 0 <= top <= shape[0] - height and 0 <= left <= shape[1] - width
        covered[top : top + height, left : left + width] = True
    assert covered[hole].all()
    assert len(set(tiles.corners)) == len(tiles)


def test_separate_holes_take_a_tile_each():
    hole = np.zeros((1000, 1000), bool)
    for y, x in ((100, 100), (110, 900), (900, 120)):
        hole[y : y + 20, x : x + 20] = True
    tiles = Tiles.over(hole, 256)
    assert len(tiles) == 3
    # A hole that fits is in the middle of its tile, where the network sees most around it.
    assert (900 + 10 - 128, 120 + 10 - 128) not in tiles.corners  # kept within the canvas
    assert (744, 2) in tiles.corners


def test_a_hole_in_the_middle_is_far_from_the_edges_of_its_tile():
    hole = np.zeros((600, 600), bool)
    hole[280:330, 250:300] = True
    (corner,) = Tiles.over(hole, 256).corners
    assert corner == (177, 147)


def test_blending_what_was_cut_gives_the_canvas_back():
    g = torch.Generator().manual_seed(0)
    canvas = torch.randn(1, 3, 200, 170, generator=g)
    tiles = Tiles.over(np.ones((200, 170), bool), 64)
    assert len(tiles) > 2 * TOGETHER
    again = tiles.blend(lambda some: some.cut(canvas))
    torch.testing.assert_close(again, canvas)


def test_the_blend_has_no_step_where_tiles_end():
    """Tiles that disagree by a constant are joined by ramps over their overlap."""
    tiles = Tiles.over(np.ones((64, 208), bool), 64)
    assert len({left for _, left in tiles.corners}) >= 3
    blended = tiles.blend(
        lambda some: (
            torch.tensor([1.0 + left for _, left in some.corners])
            .view(-1, 1, 1, 1)
            .expand(-1, 1, 64, 64)
        )
    )
    steps = blended[0, 0, 32].diff().abs()
    lefts = sorted({left for _, left in tiles.corners})
    largest = max(b - a for a, b in zip(lefts, lefts[1:], strict=False))
    assert steps.max() < 2 * largest / (64 * OVERLAP)


def test_nothing_is_where_no_tile_is():
    hole = np.zeros((300, 300), bool)
    hole[10, 10] = True
    tiles = Tiles.over(hole, 64)
    blended = tiles.blend(lambda some: torch.ones(len(some), 1, 64, 64))
    assert blended[0, 0, 10, 10] == 1 and blended[0, 0, 200, 200] == 0


@pytest.mark.parametrize("kind", MASK_KINDS)
@pytest.mark.parametrize("size", [(600, 900), (2000, 3000), (300, 4000)])
@pytest.mark.parametrize("tiles", [1, 2, 8, 32])
def test_windows_keep_to_the_number_of_tiles(kind, size, tiles):
    hole = make_mask(kind, size, seed=2)
    window = Window.around(hole, 256, 32, tiles)
    assert window.scale <= 1
    if window.tiles is None:
        assert max(window.work) <= 256
        assert window.evaluated <= 256**2
    else:
        assert 1 <= len(window.tiles) <= tiles and np.prod(window.work) <= MAX_CANVAS
        assert window.evaluated == len(window.tiles) * np.prod(window.tiles.size)
        _, mask = window.cut(np.zeros((*size, 3), np.uint8), hole)
        assert window.tiles.canvas == mask.shape[-2:]
        covered = window.tiles.blend(lambda some: torch.ones(len(some), 1, *some.size))
        assert (covered[mask > 0] == 1).all()
    coarse = Window.around(hole, 256, 32, 1)
    assert window.scale >= coarse.scale and coarse.tiles is None


def test_strokes_of_a_large_photo_are_worked_on_finer_and_deep_holes_are_not():
    strokes = np.zeros((1000, 1500), bool)
    strokes[100:112, 80:1400] = True
    assert Window.around(strokes, 256, 32, 1).scale < 0.2
    assert Window.around(strokes, 256, 32, 8).native
    deep = make_mask("center", (1000, 1500))
    assert Window.around(deep, 256, 32, 32).tiles is None


def test_a_single_tile_over_all_of_the_canvas_is_the_plain_run(tiny_pipe):
    """Tiling by itself changes nothing."""
    image = torch.rand(1, 3, 64, 96, generator=torch.Generator().manual_seed(0)) * 2 - 1
    mask = torch.zeros(1, 1, 64, 96)
    mask[..., 20:40, 30:60] = 1
    gradient, tau = mask * 0.1, torch.full_like(mask, 0.4)
    chosen = Settings(steps=3, solver_order=2)
    run = image, mask, gradient, tau, [5], chosen, chosen.grid
    whole = Tiles((64, 96), (64, 96), ((0, 0),))
    ends = []
    for tiles in (None, whole):
        *_, last = tiny_pipe.runner.states(*run, tiles)
        ends.append(last.x_t)
    torch.testing.assert_close(ends[0], ends[1])


@pytest.mark.parametrize("sampler", ["posterior", "ode"])
def test_tiled_restorations_keep_known_pixels_and_can_be_repeated(tiny_pipe, sampler):
    photo = np.asarray(synthetic_photo(360, 200))
    mask = make_mask("narrow", (200, 360), seed=3)
    assert tiny_pipe.runner.windows(mask, 8)[0].fields > 1
    results = [
        tiny_pipe(photo, mask, steps=2, sampler=sampler, tiles=tiles, trajectory=False)
        for tiles in (8, 8, 1)
    ]
    pictures = [np.asarray(result.image) for result in results]
    for picture in pictures:
        np.testing.assert_array_equal(picture[~mask], photo[~mask])
    np.testing.assert_array_equal(pictures[0], pictures[1])
    assert (pictures[0] != pictures[2]).any()
    assert results[0].settings["tiles"] == 8
    assert results[0].gradient.shape == mask.shape
    assert tiny_pipe.work(mask, 8) > tiny_pipe.work(mask, 1)


@pytest.mark.parametrize("tiles", [0, -1, 1.5, "many", None, True])
def test_tiles_are_checked(tiny_pipe, tiles):
    photo = np.zeros((64, 64, 3), np.uint8)
    with pytest.raises(ValueError, match="whole number for tiles"):
        tiny_pipe.stream(photo, make_mask("center", 64), tiles=tiles)
