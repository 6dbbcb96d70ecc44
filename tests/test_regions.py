"""Holes that lie far apart are restored in windows of their own, in one run."""

import dataclasses
import itertools

import cv2
import numpy as np
import pytest
from conftest import synthetic_photo

from asyncdsb import AsyncDSBPipeline
from asyncdsb.denoiser import BridgeDenoiser
from asyncdsb.gradient import image_gradient
from asyncdsb.photo.images import to_tensor
from asyncdsb.photo.window import separate, windows_over

pytestmark = pytest.mark.slow

SIDE = 1500
"""Photographs of this many pixels a side are larger than what is worked on at once."""


def specks(*places: tuple[int, int], size: int = 20, side: int = SIDE) -> np.ndarray:
    """A hole of squares at (row, column)."""
    hole = np.zeros((side, side), bool)
    for row, column in places:
        hole[row : row + size, column : column + size] = True
    return hole


CORNERS = ((60, 70), (50, 1400), (1410, 80))


def groups_of(hole: np.ndarray, most: int) -> list[np.ndarray]:
    labels, count = separate(hole, most)
    return [labels == number for number in range(1, count + 1)]


def test_groups_are_what_lies_apart():
    hole = specks(*CORNERS, (60, 110))
    groups = groups_of(hole, 8)
    assert sorted(group.sum() for group in groups) == [400, 400, 800]
    assert (np.sum(groups, axis=0) == hole).all()


@pytest.mark.parametrize("most", [1, 2, 5, 40])
def test_the_nearest_are_joined_where_there_are_too_many(most):
    places = list(itertools.product(range(0, SIDE, 180), range(0, SIDE, 300)))
    hole = specks(*places)
    groups = groups_of(hole, most)
    assert 1 <= len(groups) <= most
    assert (np.sum(groups, axis=0) == hole).all()


def test_the_two_that_fit_into_the_smallest_square_are_joined():
    """Those in the first two corners, 1350 pixels apart in a row; the other pair is 1434 high."""
    groups = groups_of(specks(*CORNERS), 2)
    rows = [np.flatnonzero(group.any(1)) for group in groups]
    assert sorted(int(found[-1] - found[0]) for found in rows) == [19, 29]


@pytest.mark.parametrize("tiles", [1, 2, 3, 8, 20])
@pytest.mark.parametrize("seed", range(4))
def test_windows_share_the_hole_and_keep_to_the_number_of_fields(tiles, seed):
    rng = np.random.default_rng(seed)
    hole = specks(*rng.integers(0, SIDE - 200, (rng.integers(2, 12), 2)), size=20 + 60 * seed)
    windows = windows_over(hole, 256, 16, tiles)
    assert sum(window.fields for window in windows) <= tiles
    owned = np.zeros(hole.shape, int)
    for window in windows:
        owned[window.slices] += window.own
    assert (owned == hole).all()


def test_far_specks_are_worked_on_pixel_by_pixel():
    windows = windows_over(specks(*CORNERS), 256, 16, 8)
    assert len(windows) == 3
    assert all(window.native and window.fields == 1 for window in windows)
    # Where one field must do, and where the photograph is small, one window holds all.
    assert len(windows_over(specks(*CORNERS), 256, 16, 1)) == 1
    assert len(windows_over(specks((60, 70), (500, 600), side=700), 256, 16, 8)) == 1


def test_what_is_left_of_the_fields_goes_to_the_coarsest_window():
    hole = specks((60, 70))
    hole[1300:1306, 100:1000] = True
    speck, stroke = sorted(windows_over(hole, 256, 16, 8), key=lambda window: window.fields)
    assert speck.native and speck.fields == 1
    assert stroke.native and 1 < stroke.fields <= 7


def test_a_hole_is_restored_as_if_it_were_alone(tiny_pipe):
    photo = np.asarray(synthetic_photo(SIDE, SIDE))
    hole = specks(*CORNERS)
    # The grid "log" begins at a level that follows from the size of all holes.
    run = {"steps": 3, "strategy": "uniform", "grid": "uniform"}
    run |= {"trajectory": False}
    together = tiny_pipe(photo, hole, **run)
    picture = np.asarray(together.image)
    np.testing.assert_array_equal(picture[~hole], photo[~hole])
    first = groups_of(hole, 8)[0]
    alone = tiny_pipe(photo, first, **run)
    difference = picture[first].astype(int) - np.asarray(alone.image)[first]
    # In a batch, sums are rounded otherwise.
    assert np.abs(difference).max() <= 1
    np.testing.assert_allclose(together.gradient[first], alone.gradient[first], atol=1e-4)
    assert (picture[hole] != photo[hole]).any()


def test_windows_of_any_size_go_through_one_run(tiny_pipe):
    photo = np.asarray(synthetic_photo(SIDE, SIDE))
    hole = specks(*CORNERS[:2])
    hole[1300:1306, 100:1000] = True
    frames = list(tiny_pipe.stream(photo, hole, steps=3, grid="clock"))
    assert [frame.step for frame in frames] == [0, 1, 2, 3]
    times = [frame.t for frame in frames]
    assert times[0] == 1 and times[-1] == 0 and all(a > b for a, b in itertools.pairwise(times))
    final = np.asarray(frames[-1].image)
    np.testing.assert_array_equal(final[~hole], photo[~hole])
    # The preview shows every window's part.
    shown = np.asarray(frames[0].x_t).astype(int)
    small = np.asarray(frames[0].prepared._small).astype(int)
    scale = len(shown) / SIDE
    for row, column in ((60, 70), (50, 1400), (1300, 700)):
        y, x = round((row + 3) * scale), round((column + 10) * scale)
        assert np.abs(shown[y, x] - small[y, x]).max() > 0
    assert tiny_pipe.work(hole) == sum(w.evaluated for w in frames[0].prepared.windows)


def test_more_fields_never_make_a_hole_coarser():
    places = itertools.product(range(60, 4000, 560), range(60, 4000, 1000))
    hole = specks(*places, side=4000)
    scales = [
        min(window.scale for window in windows_over(hole, 256, 16, tiles))
        for tiles in (1, 2, 8, 20, 30, 31, 32, 64)
    ]
    assert scales == sorted(scales) and scales[-2:] == [1, 1]


def test_the_gradient_around_a_fine_window_is_its_own(tiny_pipe):
    """A deep hole's coarse window covers that of a speck beside it."""
    photo = np.asarray(synthetic_photo(SIDE, SIDE))
    hole = specks((500, 1100))
    hole[100:1000, 100:1000] = True
    coarse, fine = sorted(tiny_pipe.runner.windows(hole, 8), key=lambda window: window.scale)
    assert fine.native and coarse.scale < 0.5 and coarse.left + coarse.width > 1120
    inside = np.zeros_like(hole)
    inside[fine.top + 1 : fine.top + fine.height - 1, fine.left + 1 : fine.left + 255] = True
    unsure = cv2.dilate(hole.astype(np.uint8), np.ones((5, 5), np.uint8)) > 0
    sure = inside & ~unsure
    assert sure.sum() > 50_000
    found = tiny_pipe.predict_gradient(photo, hole)
    wanted = image_gradient(to_tensor(photo))[0, 0].numpy()
    np.testing.assert_allclose(found[sure], wanted[sure], atol=1e-5)


def test_every_window_has_noise_of_its_own(tiny_pipe):
    """Two holes with the same surroundings: without noise they come back alike, with it not."""
    config = dataclasses.replace(tiny_pipe.config, hole_noise=0.0)
    denoiser = BridgeDenoiser(config)
    denoiser.load_state_dict(tiny_pipe.denoiser.state_dict())
    quiet = AsyncDSBPipeline(denoiser, tiny_pipe.completion, "cpu")
    photo = np.tile(np.asarray(synthetic_photo(300, 300)), (5, 5, 1))
    hole = specks((140, 140), (1340, 1340))
    run = {"steps": 2, "strategy": "uniform", "trajectory": False}
    for sampler, alike in (("ode", True), ("posterior", False)):
        picture = np.asarray(quiet(photo, hole, sampler=sampler, **run).image)
        first, second = (picture[i : i + 20, i : i + 20].astype(int) for i in (140, 1340))
        assert (np.abs(first - second).max() <= 1) == alike
