import numpy as np
import pytest
import torch

from asyncdsb.photo.images import to_tensor
from asyncdsb.photo.window import Window, fill_smoothly

SIZES = [(256, 256), (211, 300), (1067, 1600), (700, 90), (40, 33), (1, 60)]


def hole_of(height, width, box=(0.3, 0.6, 0.4, 0.8)):
    hole = np.zeros((height, width), bool)
    y0, y1, x0, x1 = box
    hole[int(y0 * height) : int(y1 * height) + 1, int(x0 * width) : int(x1 * width) + 1] = True
    return hole


@pytest.mark.parametrize("size", SIZES)
def test_window_holds_the_hole_and_fits_the_networks(size):
    hole = hole_of(*size)
    window = Window.around(hole, 256, 16)
    covered = np.zeros(size, bool)
    covered[window.slices] = True
    assert covered.sum() == window.height * window.width
    assert not (hole & ~covered).any()
    assert max(window.work) <= 256
    assert window.native == (window.scale == 1)


@pytest.mark.parametrize("size", SIZES)
def test_tensors_are_multiples_of_the_stride(size):
    hole = hole_of(*size)
    window = Window.around(hole, 256, 16)
    image = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    picture, mask = window.cut(image, hole)
    assert picture.shape[2:] == mask.shape[2:] == window.shrink(hole.astype(np.float32)).shape[2:]
    assert picture.shape[2] % 16 == 0 and picture.shape[3] % 16 == 0
    assert picture.abs().max() <= 1 and set(mask.unique().tolist()) <= {0.0, 1.0}


@pytest.mark.parametrize("patches", [False, True])
@pytest.mark.parametrize("size", SIZES)
def test_what_is_under_the_mask_never_shows(size, patches):
    if patches and size == (1067, 1600):
        size = (533, 800)  # Still scaled; the search in the larger one takes long.
    hole = hole_of(*size)
    window = Window.around(hole, 256, 16)
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (*size, 3), dtype=np.uint8)
    other = np.where(hole[..., None], 255 - image, image)
    restored = torch.rand(window.cut(image, hole)[0].shape) * 2 - 1
    assert torch.equal(window.cut(image, hole)[0], window.cut(other, hole)[0])
    results = [image.copy(), other.copy()]
    for picture in results:
        window.paste(picture, hole, restored, patches)
    assert np.array_equal(results[0], results[1])
    assert np.array_equal(results[0][~hole], image[~hole])


def test_a_native_window_comes_back_bit_for_bit():
    hole = hole_of(300, 211)
    window = Window.around(hole, 256, 16)
    assert window.native
    image = np.random.default_rng(0).integers(0, 256, (300, 211, 3), dtype=np.uint8)
    whole = window.pad(to_tensor(np.ascontiguousarray(image[window.slices])))
    result = np.zeros_like(image)
    window.paste(result, hole, whole)
    assert np.array_equal(result[hole], image[hole]) and not result[~hole].any()


def test_a_scaled_window_leaves_no_step_at_the_border():
    """A photo brighter than what comes back: the difference is carried into the hole."""
    hole = hole_of(900, 1200, (0.1, 0.9, 0.1, 0.9))
    window = Window.around(hole, 256, 16)
    assert not window.native
    image = np.full((900, 1200, 3), 160, np.uint8)
    darker = torch.full(window.cut(image, hole)[0].shape, 120 / 127.5 - 1)
    window.paste(image, hole, darker)
    assert np.abs(image.astype(int) - 160).max() <= 1


def test_patches_bring_back_the_detail_that_a_scaled_window_lacks(monkeypatch):
    rows, columns = np.mgrid[:400, :400]
    waves = np.sin((rows + 2 * columns) * 2 * np.pi / 40) + np.sin(columns * 2 * np.pi / 5)
    image = np.repeat((127 + 60 * waves).astype(np.uint8)[..., None], 3, 2)
    hole = hole_of(400, 400, (0.35, 0.65, 0.35, 0.65))
    window = Window.around(hole, 64, 16)
    assert window.scale < 0.5

    def error(patches):
        result = image.copy()
        window.paste(result, hole, window.cut(image, np.zeros_like(hole))[0], patches)
        return np.abs(result[hole].astype(float) - image[hole]).mean()

    plain = error(False)
    assert error(True) < 0.5 * plain
    monkeypatch.setattr("asyncdsb.photo.window.MAX_COPIED", 1)
    assert error(True) == plain, "too large for any"


def test_a_missing_pixel_makes_its_working_pixel_missing():
    hole = hole_of(900, 1200, (0.1, 0.9, 0.1, 0.9))
    window = Window.around(hole, 256, 16)
    _, mask = window.cut(np.zeros((900, 1200, 3), np.uint8), hole)
    back = window.enlarge(mask)[0, 0].numpy() > 0
    assert not (hole[window.slices] & ~back).any()


@pytest.mark.parametrize("side", [20, 64, 150])
def test_a_square_that_was_chosen_is_worked_on_at_the_resolution(side):
    hole = hole_of(211, 300)
    window = Window.at(hole, (100, 40, side), 64, 16)
    assert (window.left, window.top, window.width, window.height) == (100, 40, side, side)
    assert window.work == (64, 64) and window.scale == 64 / side
    assert np.array_equal(window.own, hole[window.slices])
    image = np.random.default_rng(0).integers(0, 256, (211, 300, 3), dtype=np.uint8)
    picture, mask = window.cut(image, hole)
    assert picture.shape == (1, 3, 64, 64) and mask.shape == (1, 1, 64, 64)
    assert max(window.photo_at_work_scale()) <= 300


def test_what_is_enlarged_and_shrunk_again_comes_back():
    hole = hole_of(120, 120)
    rows, columns = np.mgrid[:120, :120]
    wave = 127 + 80 * np.sin(rows / 9) * np.cos(columns / 7)
    image = np.repeat(wave.astype(np.uint8)[..., None], 3, 2)
    window = Window.at(hole, (20, 20, 64), 128, 16)
    whole = window.cut(image, np.zeros_like(hole))[0]
    result = np.where(hole[..., None], 0, image).astype(np.uint8)
    window.paste(result, hole, whole)
    inside = hole.copy()
    inside[window.slices] = False
    kept = hole & ~inside
    assert np.abs(result[kept].astype(int) - image[kept]).max() <= 3


def test_a_smooth_fill_changes_the_hole_alone_and_continues_the_border():
    hole = hole_of(60, 80)
    ramp = np.repeat(np.add.outer(np.arange(60), 2 * np.arange(80))[..., None], 3, 2)
    image = ramp.astype(np.uint8)
    other = np.where(hole[..., None], 255 - image, image)
    for picture in (image.copy(), other):
        fill_smoothly(picture, hole)
        assert np.array_equal(picture[~hole], image[~hole])
        assert np.abs(picture[hole].astype(int) - ramp[hole]).max() <= 6
    untouched = image.copy()
    fill_smoothly(untouched, np.zeros_like(hole))
    assert np.array_equal(untouched, image)
