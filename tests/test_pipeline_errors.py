"""What the pipeline refuses, and what it promises for every input that it takes."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import torch
from conftest import box_mask, synthetic_photo
from PIL import Image

from asyncdsb import AsyncDSBPipeline

PHOTO = synthetic_photo(96, 80)
MASK = box_mask(96, 80)


def calls(pipe):
    """Every public way to start a restoration."""
    return (
        lambda *args, **kwargs: pipe(*args, **kwargs),
        lambda *args, **kwargs: list(pipe.stream(*args, **kwargs)),
    )


@pytest.mark.parametrize("way", [0, 1], ids=["call", "stream"])
@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"mask": np.zeros((80, 96), bool)}, "mask is empty"),
        ({"mask": np.ones((80, 96), bool)}, "nothing known"),
        ({"mask": box_mask(80, 96)}, "96x80.*80x96"),
        ({"mask": np.full((80, 96), 300)}, r"\[0, 255\]"),
        ({"mask": np.zeros((1, 80, 96), bool)}, "shape"),
        ({"image": np.zeros((80, 96, 5), np.uint8)}, "shape.*H, W, 3"),
        ({"image": np.zeros((80, 96, 3), np.float32)}, "uint8"),
        ({"image": "photo.png"}, "photo.png|str"),
        ({"tau_min": 0.6, "tau_max": 0.3}, "0.6.*0.3"),
        ({"tau_min": -0.1}, "-0.1"),
        ({"tau_max": 1.1}, "1.1"),
        ({"tau_min": float("nan")}, "nan"),
        ({"steps": 0}, "steps.*0"),
        ({"steps": -4}, "steps.*-4"),
        ({"steps": 2.5}, "steps.*2.5"),
        ({"sampler": "euler"}, "posterior.*euler"),
        ({"strategy": "outward"}, "gradient.*outward"),
        ({"strategy": np.zeros((4, 4), np.float32)}, "4"),
        ({"strategy": np.full((80, 96), 1.5, np.float32)}, "1.5"),
        ({"strategy": np.full((80, 96), np.nan, np.float32)}, "nan|NaN|finite"),
        ({"grid": "cubic"}, "log, uniform.*cubic"),
        ({"eta": 1.5}, "1.5"),
        ({"eta": -0.5}, "-0.5"),
    ],
)
def test_refused_with_what_was_expected_and_what_came(tiny_pipe, way, changed, told):
    arguments = {"image": PHOTO, "mask": MASK, "steps": 2} | changed
    with pytest.raises(ValueError, match=f"(?s){told}") as caught:
        calls(tiny_pipe)[way](arguments.pop("image"), arguments.pop("mask"), **arguments)
    assert "\n" not in str(caught.value)


def test_stream_refuses_before_its_first_step(tiny_pipe):
    with pytest.raises(ValueError, match="mask is empty"):
        next(iter(tiny_pipe.stream(PHOTO, np.zeros_like(MASK))))


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"tau_min": 0.6, "tau_max": 0.3}, "0.6.*0.3"),
        ({"tau_min": -0.1}, "-0.1"),
        ({"tau_max": 1.1}, "1.1"),
        ({"strategy": "outward"}, "outward"),
        ({"mask": np.zeros((80, 96), bool)}, "mask is empty"),
        ({"mask": box_mask(80, 96)}, "80"),
    ],
)
def test_tau_map_refuses(tiny_pipe, changed, told):
    arguments = {"mask": MASK, "tau_min": 0.2, "tau_max": 0.5} | changed
    with pytest.raises(ValueError, match=told):
        tiny_pipe.tau_map(np.zeros((80, 96), np.float32), **arguments)


def test_predict_gradient_refuses(tiny_pipe):
    with pytest.raises(ValueError, match="mask is empty"):
        tiny_pipe.predict_gradient(PHOTO, np.zeros_like(MASK))
    with pytest.raises(ValueError, match="96x80.*80x96"):
        tiny_pipe.predict_gradient(PHOTO, box_mask(80, 96))


@pytest.fixture
def weights(tmp_path, tiny_weights):
    folder = tmp_path / "weights"
    shutil.copytree(tiny_weights, folder)
    return folder


@pytest.mark.parametrize("name", ["bridge.safetensors", "gradient.safetensors"])
@pytest.mark.parametrize("damage", ["missing", "empty", "cut", "flipped", "pickle"])
def test_damaged_tensors(weights, name, damage):
    path = weights / name
    content = bytearray(path.read_bytes())
    if damage == "missing":
        path.unlink()
    elif damage == "flipped":
        content[len(content) // 2] ^= 1
        path.write_bytes(content)
    else:
        replaced = {"empty": b"", "cut": content[: len(content) // 2], "pickle": b"\x80\x04N."}
        path.write_bytes(replaced[damage])
    with pytest.raises(ValueError, match=name):
        AsyncDSBPipeline.from_pretrained(weights)


@pytest.mark.parametrize("name", ["bridge.json", "gradient.json"])
@pytest.mark.parametrize("damage", ["missing", "cut", "list", "version", "format", "config"])
def test_damaged_descriptions(weights, name, damage):
    path = weights / name
    text = path.read_text()
    described = json.loads(text)
    if damage == "version":
        described["version"] += 98
    elif damage == "format":
        described["format"] = "another"
    elif damage == "config":
        described["config"]["nonsense"] = 3
    changed = {"cut": text[: len(text) // 2], "list": "[]"}
    if damage == "missing":
        path.unlink()
    else:
        path.write_text(changed.get(damage, json.dumps(described)))
    with pytest.raises(ValueError) as caught:
        AsyncDSBPipeline.from_pretrained(weights)
    assert "\n" not in str(caught.value)


def test_weights_that_are_not_there(tmp_path):
    with pytest.raises(ValueError, match="weights"):
        AsyncDSBPipeline.from_pretrained(tmp_path / "nothing")


def test_unknown_device(tiny_weights):
    with pytest.raises(ValueError, match="abacus"):
        AsyncDSBPipeline.from_pretrained(tiny_weights, device="abacus")


@pytest.mark.parametrize("size", [(256, 256), (300, 211), (1600, 1067), (33, 200), (64, 9)])
def test_known_pixels_are_kept_and_runs_repeat(tiny_pipe, size):
    photo, mask = synthetic_photo(*size), box_mask(*size)
    steps = 2
    first, second = (tiny_pipe(photo, mask, steps=steps, seed=3) for _ in range(2))
    got = np.asarray(first.image)
    assert first.image.size == size and first.image.mode == "RGB"
    np.testing.assert_array_equal(got[~mask], np.asarray(photo)[~mask])
    np.testing.assert_array_equal(got, np.asarray(second.image))
    assert len(first.trajectory) == steps + 1
    times = [frame.t for frame in first.trajectory]
    assert times[0] == 1 and times[-1] == 0 and times == sorted(times, reverse=True)
    for values in (first.gradient, first.tau):
        assert values.shape == mask.shape and values.dtype == np.float32
        assert values.min() >= 0 and values.max() <= 1
    other = tiny_pipe(photo, mask, steps=steps, seed=4)
    assert (np.asarray(other.image)[mask] != got[mask]).any()


@pytest.mark.parametrize(
    "mask",
    [
        np.pad(np.ones((80, 1), bool), ((0, 0), (95, 0))),
        np.eye(80, 96, dtype=bool),
        np.arange(80 * 96).reshape(80, 96) == 0,
        ~(np.arange(80 * 96).reshape(80, 96) == 4000),
    ],
    ids=["edge", "diagonal", "one missing", "one known"],
)
def test_odd_holes(tiny_pipe, mask):
    got = np.asarray(tiny_pipe(PHOTO, mask, steps=2).image)
    np.testing.assert_array_equal(got[~mask], np.asarray(PHOTO)[~mask])


@pytest.mark.parametrize("sampler", ["posterior", "ode"])
@pytest.mark.parametrize("limits", [(0.0, 0.0), (0.0, 1.0), (0.5, 0.5), (1.0, 1.0)])
def test_ends_of_the_range_of_tau(tiny_pipe, sampler, limits):
    low, high = limits
    result = tiny_pipe(PHOTO, MASK, steps=3, sampler=sampler, tau_min=low, tau_max=high)
    assert result.tau[MASK].min() >= low and result.tau[MASK].max() <= high
    assert np.asarray(result.image)[~MASK].tobytes() == np.asarray(PHOTO)[~MASK].tobytes()


def test_one_step(tiny_pipe):
    assert len(tiny_pipe(PHOTO, MASK, steps=1).trajectory) == 2


def test_every_kind_of_input_gives_the_same_result(tiny_pipe):
    expected = np.asarray(tiny_pipe(PHOTO, MASK, steps=2).image)
    grey = MASK.astype(np.uint8) * 255
    for image, mask in (
        (np.asarray(PHOTO), MASK),
        (PHOTO, grey),
        (PHOTO, Image.fromarray(grey)),
        (PHOTO.convert("RGBA"), Image.fromarray(grey).convert("RGB")),
    ):
        np.testing.assert_array_equal(np.asarray(tiny_pipe(image, mask, steps=2).image), expected)


def test_inputs_are_left_alone(tiny_pipe):
    image, mask = np.array(PHOTO), MASK.copy()
    tiny_pipe(image, mask, steps=1)
    np.testing.assert_array_equal(image, np.asarray(PHOTO))
    np.testing.assert_array_equal(mask, MASK)


@pytest.mark.parametrize(
    ("strategy", "told"),
    [(np.zeros((4, 4), np.float32), "4, 4"), (np.full((80, 96), 7, np.float32), "7.0")],
)
def test_a_painted_order_is_checked_without_a_run(tiny_pipe, strategy, told):
    with pytest.raises(ValueError, match=told):
        tiny_pipe.tau_map(np.zeros((80, 96), np.float32), MASK, 0.2, 0.5, strategy)


@pytest.mark.parametrize("tiles", [0, 1.5])
def test_the_number_of_tiles_is_checked_without_a_run(tiny_pipe, tiles):
    with pytest.raises(ValueError, match="number for tiles"):
        tiny_pipe.predict_gradient(PHOTO, MASK, tiles)
    with pytest.raises(ValueError, match="number for tiles"):
        tiny_pipe.tau_map(np.zeros((80, 96), np.float32), MASK, 0.2, 0.5, tiles=tiles)


def test_a_refused_array_is_told_by_its_own_shape(tiny_pipe):
    with pytest.raises(ValueError, match=r"got uint8 \(80, 96, 5\)"):
        tiny_pipe(np.zeros((80, 96, 5), np.uint8), MASK)


def test_batches_have_sides_that_the_networks_can_take(tiny_pipe):
    images, masks = torch.zeros(1, 3, 50, 64), torch.ones(1, 1, 50, 64)
    with pytest.raises(ValueError, match=r"multiples of \d+, got \(.*50, 64\)"):
        tiny_pipe.trace(images, masks, [0], steps=1)


@pytest.mark.parametrize("shape", [(3, 64, 64), (1, 1, 64, 64), (0, 3, 64, 64)])
def test_batches_are_of_colour_pictures(tiny_pipe, shape):
    with pytest.raises(ValueError, match=r"pictures \(B, 3, H, W\), got \("):
        tiny_pipe.trace(torch.zeros(shape), torch.ones(1, 1, 64, 64), [0] * shape[0], steps=1)


@pytest.mark.parametrize(
    ("mask", "seed", "told"),
    [
        (torch.ones(1, 1, 32, 64), 0, r"a mask \(B, 1, H, W\).* got \(1, 1, 32, 64\)"),
        (torch.ones(2, 1, 64, 64), 0, r"got \(2, 1, 64, 64\)"),
        (torch.zeros(1, 1, 64, 64), 0, "with something missing"),
        (torch.ones(1, 1, 64, 64), -1, r"expected seeds .* got \[-1\]"),
        (torch.ones(1, 1, 64, 64), 2**64, "expected seeds"),
        (torch.ones(1, 1, 64, 64), 1.5, r"expected seeds as whole numbers .* got \[1.5\]"),
    ],
)
def test_batches_are_checked(tiny_pipe, mask, seed, told):
    with pytest.raises(ValueError, match=told):
        tiny_pipe.trace(torch.zeros(1, 3, 64, 64), mask, [seed], steps=1)


def test_batches_may_be_of_another_precision(tiny_pipe):
    mask = torch.zeros(1, 1, 64, 64)
    mask[..., 20:40, 20:40] = 1
    images = torch.zeros(1, 3, 64, 64)
    ends = [list(tiny_pipe.trace(x, mask, [0], steps=1)[1])[-1] for x in (images, images.double())]
    assert torch.equal(ends[0].x_t, ends[1].x_t)


def test_a_gradient_map_that_is_none_is_refused(tiny_pipe):
    for gradient in (np.full(MASK.shape, np.nan), np.zeros(5)):
        with pytest.raises(ValueError, match="expected a finite gradient map"):
            tiny_pipe.tau_map(gradient, MASK, 0.2, 0.5)


def test_pictures_of_a_batch_are_finite(tiny_pipe):
    pictures, masks = torch.full((1, 3, 32, 32), torch.nan), torch.zeros(1, 1, 32, 32)
    masks[..., 8:16, 8:16] = 1
    with pytest.raises(ValueError, match="expected finite pictures"):
        tiny_pipe.trace(pictures, masks, [0])


def test_settings_of_another_precision_are_refused(tiny_weights, tiny_pipe):
    made = tiny_pipe(PHOTO, MASK, steps=1).settings
    half = AsyncDSBPipeline.from_pretrained(tiny_weights, "cpu", precision="bf16")
    with pytest.raises(ValueError, match="expected settings for the precision bf16, got 'fp32'"):
        half(PHOTO, MASK, **made)
