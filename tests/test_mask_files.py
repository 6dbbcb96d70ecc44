"""What people hand over as masks: the hole that they mean, or a refusal, never another hole."""

from __future__ import annotations

import io

import cv2
import numpy as np
import pytest
import torch
from conftest import box_mask, synthetic_photo
from PIL import Image

from asyncdsb.photo.mask_files import read_mask

SIZE = (96, 64)
HOLE = box_mask(*SIZE)
WHITE = HOLE.astype(np.uint8) * 255


def layer(grey: np.ndarray, alpha: np.ndarray) -> Image.Image:
    return Image.fromarray(np.dstack([grey, grey, grey, alpha]).astype(np.uint8))


def margin() -> np.ndarray:
    alpha = np.full(HOLE.shape, 255, np.uint8)
    alpha[:, -5:] = 0
    return alpha


def one_pixel() -> np.ndarray:
    alpha = np.full(HOLE.shape, 255, np.uint8)
    alpha[0, 0] = 254
    return alpha


@pytest.mark.parametrize("alpha", [margin(), one_pixel(), np.full(HOLE.shape, 254, np.uint8)])
@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_black_and_white_with_transparent_parts(alpha, mode):
    np.testing.assert_array_equal(read_mask(layer(WHITE, alpha).convert(mode)), HOLE)


def test_white_under_transparency_is_no_hole():
    alpha = np.where(np.arange(SIZE[0]) < SIZE[0] // 2, 255, 0) * np.ones_like(WHITE)
    np.testing.assert_array_equal(read_mask(layer(WHITE, alpha)), HOLE & (alpha > 0))


def rgb16(values: np.ndarray) -> bytes:
    done, data = cv2.imencode(".png", np.dstack([values.astype(np.uint16)] * 3))
    assert done
    return data.tobytes()


@pytest.mark.parametrize("white", [1, 128, 200, 255])
@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_labels_and_dim_whites_with_transparent_parts(white, mode):
    np.testing.assert_array_equal(read_mask(layer(HOLE * white, margin()).convert(mode)), HOLE)


def test_two_dark_labels_with_transparent_parts_are_named():
    with pytest.raises(ValueError, match="expected white .* nothing above 7"):
        read_mask(layer(HOLE * 7, margin()))


@pytest.mark.parametrize("colour", [(0, 0, 255), (255, 0, 0), (1, 1, 1), (90, 90, 90)])
def test_paint_of_one_colour_is_the_hole(colour):
    for alpha in (WHITE, WHITE // 3, soft()):
        paint = np.full((*HOLE.shape, 3), colour)
        got = read_mask(Image.fromarray(np.dstack([paint, alpha]).astype(np.uint8)))
        np.testing.assert_array_equal(got, alpha > alpha.max() // 2)


@pytest.mark.parametrize("white", [1, 255, 65535])
def test_colours_of_sixteen_bits(white):
    np.testing.assert_array_equal(read_mask(rgb16(HOLE * white)), HOLE)


def test_a_palette_with_transparency_in_memory():
    brush = layer(np.full_like(WHITE, 255), soft()).quantize(64)
    assert (read_mask(brush) != (soft() > 127)).mean() < 0.01


def test_a_tensor_of_half_precision():
    np.testing.assert_array_equal(read_mask(torch.tensor(HOLE).bfloat16()), HOLE)


def test_grey_with_a_transparent_value():
    values = WHITE.copy()
    values[:, -5:] = 77
    file = io.BytesIO()
    Image.fromarray(values).save(file, "PNG", transparency=77)
    np.testing.assert_array_equal(read_mask(file.getvalue()), HOLE)


def soft() -> np.ndarray:
    """A stroke of a soft brush, 0 to 255."""
    return cv2.GaussianBlur(WHITE, (0, 0), 4)


STORED = {
    "grey": lambda brush: Image.fromarray(brush),
    "grey, 16 bits": lambda brush: Image.fromarray(brush.astype(np.uint16) * 257),
    "RGB": lambda brush: Image.fromarray(np.dstack([brush] * 3)),
    "white layer": lambda brush: layer(np.full_like(brush, 255), brush),
    "black layer": lambda brush: layer(np.zeros_like(brush), brush),
    "opaque": lambda brush: layer(brush, np.full_like(brush, 255)),
    "array": lambda brush: brush,
}


@pytest.mark.parametrize("how", STORED)
def test_a_soft_brush_is_the_same_hole_however_it_is_stored(how):
    np.testing.assert_array_equal(read_mask(STORED[how](soft())), soft() > 127)


@pytest.mark.parametrize(
    "values",
    [
        HOLE.astype(np.uint8),
        HOLE.astype(np.uint16),
        HOLE.astype(np.uint16) * 255,
        HOLE.astype(np.uint16) * 65535,
    ],
)
def test_labels_and_sixteen_bits(values):
    np.testing.assert_array_equal(read_mask(Image.fromarray(values)), HOLE)
    np.testing.assert_array_equal(read_mask(values), HOLE)


@pytest.mark.parametrize("labels", [HOLE * np.uint8(7), HOLE * np.uint16(4095), HOLE * 3])
def test_other_labels_are_named(labels):
    with pytest.raises(ValueError, match=rf"expected white .* nothing above {labels.max()}"):
        read_mask(labels)


def erased(photo: Image.Image) -> Image.Image:
    photo.putalpha(Image.fromarray(255 - WHITE))
    return photo


PHOTOGRAPHS = {
    "photograph": lambda photo: photo,
    "hole erased": erased,
    "hole white": lambda photo: Image.composite(
        Image.new("RGB", SIZE, "white"), photo, Image.fromarray(WHITE)
    ),
    "grey, hole erased": lambda photo: erased(photo.convert("L")),
}


@pytest.mark.parametrize("kind", PHOTOGRAPHS)
def test_a_photograph_is_no_mask(kind):
    with pytest.raises(ValueError, match="expected a mask in black and white.* got a picture in"):
        read_mask(PHOTOGRAPHS[kind](synthetic_photo(*SIZE)))


def fog(low: float, tint: tuple[float, float, float] = (1, 1, 1)) -> np.ndarray:
    """A photograph of hardly any contrast: (H, W, 3) uint8."""
    noise = np.random.default_rng(0).normal(low, 6, HOLE.shape)
    return ((noise + np.arange(SIZE[0]) / 5)[..., None] * tint).clip(0, 255).astype(np.uint8)


@pytest.mark.parametrize("tint", [(1, 1, 1), (0.9, 0.95, 1), (1, 0.8, 0.6)])
@pytest.mark.parametrize("low", [12, 60, 120, 160])
@pytest.mark.parametrize("hole", ["erased", "white", "black"])
def test_a_photograph_without_contrast_is_no_mask(hole, low, tint):
    if hole == "erased":
        seen = np.dstack([fog(low, tint), 255 - WHITE])
    else:
        seen = np.where(HOLE[..., None], 255 if hole == "white" else 0, fog(low, tint))
    with pytest.raises(ValueError, match="got a picture in many"):
        read_mask(Image.fromarray(seen.astype(np.uint8)))


@pytest.mark.parametrize("colour", [(255, 0, 0), (255, 255, 255), (0, 255, 255)])
@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_a_bright_colour_on_black_is_no_photograph(colour, kind):
    pixels = np.where(cv2.GaussianBlur(WHITE, (0, 0), 1)[..., None] > 0, colour, 0)
    file = io.BytesIO()
    Image.fromarray(pixels.astype(np.uint8)).save(file, kind)
    if sum(colour) > 255:
        assert read_mask(file.getvalue())[HOLE].all()
    else:  # Red is dark: named.
        with pytest.raises(ValueError, match="expected white"):
            read_mask(file.getvalue())
