import numpy as np
import pytest
import torch

from asyncdsb.images import to_tensor
from asyncdsb.window import Window

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


@pytest.mark.parametrize("patches", [0.0, 1.0])
@pytest.mark.parametrize("size", SIZES)
def test_what_is_under_the_mask_never_shows(size, patches):
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

    plain = error(0.0)
    assert error(1.0) < 0.5 * plain and error(1.0) < error(0.5) < plain
    monkeypatch.setattr("asyncdsb.window.MAX_COPIED", 1)
    assert error(1.0) == plain, "too large for any"


def test_a_missing_pixel_makes_its_working_pixel_missing():
    hole = hole_of(900, 1200, (0.1, 0.9, 0.1, 0.9))
    window = Window.around(hole, 256, 16)
    _, mask = window.cut(np.zeros((900, 1200, 3), np.uint8), hole)
    back = window.enlarge(mask)[0, 0].numpy() > 0
    assert not (hole[window.slices] & ~back).any()
