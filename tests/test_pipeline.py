import copy
import dataclasses
import json
import math
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from conftest import box_mask, synthetic_photo
from PIL import Image

from asyncdsb.denoiser import BridgeDenoiser
from asyncdsb.gradient import image_gradient
from asyncdsb.masks import make_mask
from asyncdsb.networks import UNetConfig
from asyncdsb.networks.device import compiles
from asyncdsb.photo.images import to_tensor
from asyncdsb.photo.patches import copy_patches
from asyncdsb.photo.run import gradient_of
from asyncdsb.photo.settings import Settings
from asyncdsb.photo.window import Window
from asyncdsb.pipeline import AsyncDSBPipeline

SAMPLERS = ("posterior", "implicit", "ode")


@pytest.fixture(scope="module")
def pipe():
    """Random weights that serve every sampler, because they see x1."""
    plain = AsyncDSBPipeline.random()
    config = dataclasses.replace(plain.config, conditions=("mask", "x1"))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        denoiser = BridgeDenoiser(config)
        for parameter in denoiser.unet.get_submodule("head").parameters():
            torch.nn.init.normal_(parameter, std=0.02)
    return AsyncDSBPipeline(denoiser, plain.completion, "cpu")


@pytest.fixture(scope="module")
def photo():
    small = np.random.default_rng(0).integers(0, 256, (9, 7, 3), dtype=np.uint8)
    return Image.fromarray(small).resize((112, 96), Image.BICUBIC)


@pytest.fixture(scope="module")
def hole():
    return make_mask("wide", (96, 112), 1)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_one_seed_gives_one_picture_and_another_seed_another(pipe, photo, hole, sampler):
    settings = {"steps": 3, "sampler": sampler}
    first, again, other = (pipe(photo, hole, seed=s, **settings).image for s in (7, 7, 8))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


@torch.no_grad()
def restore_batch(pipe, *inputs, **settings):
    *_, last = pipe.trace(*inputs, **settings)[1]
    return last.x_t


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_batch_gives_what_each_of_its_samples_gives(pipe, photo, hole, sampler):
    image = to_tensor(photo).repeat(3, 1, 1, 1)
    masks = torch.from_numpy(np.stack([hole, hole[::-1].copy(), ~hole]))[:, None].float()
    settings = {"steps": 3, "sampler": sampler, "grid": "clock", "eta": 0.3}
    together = restore_batch(pipe, image, masks, [4, 5, 6], **settings)
    known = (masks < 0.5).expand_as(image)
    assert torch.equal(together[known], image[known])
    for i, seed in enumerate((4, 5, 6)):
        alone = restore_batch(pipe, image[i : i + 1], masks[i : i + 1], [seed], **settings)
        # Convolutions of another batch size may sum in another order.
        torch.testing.assert_close(together[i : i + 1], alone, atol=1e-4, rtol=0)


def test_a_photo_gives_what_its_tensor_gives(pipe, photo, hole):
    mask = torch.from_numpy(hole)[None, None].float()
    batch = restore_batch(pipe, to_tensor(photo), mask, [3], steps=4)
    pixels = ((batch[0].permute(1, 2, 0) + 1) * 127.5).round().clamp(0, 255).byte().numpy()
    assert np.array_equal(pipe(photo, hole, steps=4, seed=3).image, pixels)


def test_what_is_under_the_mask_changes_nothing(pipe, photo, hole):
    pixels = np.asarray(photo)
    other = np.where(hole[..., None], 255 - pixels, pixels)
    one, two = (pipe(p, hole, steps=2) for p in (pixels, other))
    assert np.array_equal(one.image, two.image)
    assert np.array_equal(one.gradient[hole], two.gradient[hole])
    assert np.array_equal(one.tau[hole], two.tau[hole])


def test_frames_run_from_one_to_zero_and_end_with_the_result(pipe, photo, hole):
    result = pipe(photo, hole, steps=5)
    times = [frame.t for frame in result.trajectory]
    assert times[0] == 1 and times[-1] == 0 and times == sorted(times, reverse=True)
    assert [frame.step for frame in result.trajectory] == list(range(6))
    assert np.array_equal(result.trajectory[-1].x_t, result.image)
    assert np.array_equal(result.trajectory[-1].x0_hat, result.image)
    known = ~hole
    for frame in result.trajectory:
        assert np.array_equal(np.asarray(frame.x_t)[known], np.asarray(photo)[known])
    again = pipe(photo, hole, steps=5, trajectory=False)
    assert again.trajectory == []
    # Results are told apart as objects, because arrays cannot be compared as a whole.
    assert [result, again].index(again) == 1 and len({result, again}) == 2


def test_streaming_is_the_same_run(pipe, photo, hole):
    *_, last = pipe.stream(photo, hole, steps=3, seed=2)
    assert np.array_equal(last.image, pipe(photo, hole, steps=3, seed=2).image)


def test_errors_come_before_the_first_frame_is_asked_for(pipe, photo, hole):
    with pytest.raises(ValueError, match="steps from 1 to 10000, got 0"):
        pipe.stream(photo, hole, steps=0)


@pytest.mark.parametrize("strategy", ["gradient", "flat-first", "uniform", "inward"])
def test_sliders_show_the_map_that_the_run_uses(pipe, photo, hole, strategy):
    result = pipe(photo, hole, tau_min=0.1, tau_max=0.8, strategy=strategy, steps=1)
    gradient = pipe.predict_gradient(photo, hole)
    assert np.array_equal(gradient, result.gradient)
    assert np.array_equal(pipe.tau_map(gradient, hole, 0.1, 0.8, strategy), result.tau)
    ends = result.tau[hole].min(), result.tau[hole].max()
    assert ends == pytest.approx((0.45, 0.45) if strategy == "uniform" else (0.1, 0.8))


def test_flat_first_turns_the_order_round(pipe, photo, hole):
    gradient = pipe.predict_gradient(photo, hole)
    steep, flat = (pipe.tau_map(gradient, hole, 0.1, 0.8, s) for s in ("gradient", "flat-first"))
    np.testing.assert_allclose(steep + flat, 0.9, atol=1e-6)
    assert steep[hole].std() > 0.05


def test_every_strategy_is_i2sb_when_the_range_is_one_half(pipe, photo, hole):
    painted = np.full(hole.shape, 0.5)
    images = [
        pipe(photo, hole, tau_min=0.5, tau_max=0.5, strategy=strategy, steps=3).image
        for strategy in ("uniform", "gradient", "inward", painted)
    ]
    assert all(np.array_equal(images[0], image) for image in images[1:])


def test_a_painted_map_orders_the_restoration(pipe, photo, hole):
    """Pixels with a late peak still hold their noise when early ones have settled."""
    tau = np.where(np.arange(112)[None, :] < 56, 0.95, 0.05) * np.ones((96, 1))
    hole = np.zeros_like(hole)
    hole[20:70, 20:92] = True
    frames = pipe(photo, hole, strategy=tau, steps=10, sampler="ode").trajectory
    start, middle, end = (np.asarray(frames[i].x_t, float) for i in (0, 5, 10))
    left, right = (slice(20, 70), slice(20, 50)), (slice(20, 70), slice(62, 92))

    def progress(part):
        return 1 - np.abs(middle - end)[part].mean() / np.abs(start - end)[part].mean()

    assert progress(left) > progress(right) + 0.05


def test_settings_are_json(pipe, photo, hole):
    result = pipe(photo, hole, steps=1, strategy=np.full(hole.shape, 0.25))
    assert result.settings["strategy"] == "painted"
    again = pipe(photo, hole, **result.settings | {"strategy": result.tau})
    assert np.array_equal(again.image, result.image)
    assert pipe(photo, hole, **pipe(photo, hole, steps=2).settings).settings["steps"] == 2
    with pytest.raises(ValueError, match="expected settings for the weights None, got 'scenes'"):
        pipe(photo, hole, steps=1, weights="scenes")


def test_the_record_names_weights_that_others_have(tiny_weights, monkeypatch):
    bundled = tiny_weights.with_name("bundled")
    shutil.copytree(tiny_weights, bundled / "scenes")
    monkeypatch.setattr("asyncdsb.store.bundled.BUNDLED", bundled)
    for source in (None, "scenes", Path("scenes")):
        assert AsyncDSBPipeline.from_pretrained(source).record(Settings())["weights"] == "scenes"
    assert "weights" not in AsyncDSBPipeline.from_pretrained(tiny_weights).record(Settings())


def test_the_finish_is_the_weights_unless_it_is_given(pipe, photo, hole):
    denoiser = copy.copy(pipe.denoiser)
    denoiser.config = dataclasses.replace(pipe.config, finish="patches")
    copying = AsyncDSBPipeline(denoiser, pipe.completion, "cpu")
    by_default, given = copying(photo, hole, steps=2), pipe(photo, hole, steps=2, finish="patches")
    assert by_default.settings["finish"] == "patches"
    assert by_default.image.tobytes() == given.image.tobytes()
    assert copying(photo, hole, steps=2, finish="none").image.tobytes() != given.image.tobytes()


def test_patches_are_copied_into_the_last_frame_alone(pipe, photo, hole):
    plain = pipe(photo, hole, steps=3)
    copied = pipe(photo, hole, steps=3, finish="patches")
    assert plain.settings["finish"] == "none" and copied.settings["finish"] == "patches"
    *before, last = zip(plain.trajectory, copied.trajectory, strict=True)
    assert all(torch.equal(a.states[0], b.states[0]) for a, b in before)
    mask, state = last[0].prepared.masks[0], last[0].states[0]
    wanted = copy_patches(state, mask)
    assert torch.equal(last[1].states[0], wanted) and not torch.equal(state, wanted)
    assert torch.equal(last[1].estimates[0], wanted)
    where = ~np.asarray(hole)
    assert (np.asarray(copied.image)[where] == np.asarray(photo)[where]).all()


def test_the_gradient_is_predicted_once_for_one_hole(tiny_pipe, photo, hole, monkeypatch):
    """And again for another photo, another hole, or after the caller changed what it was given."""
    completed = []
    forward = tiny_pipe.completion.forward
    monkeypatch.setattr(
        tiny_pipe.completion, "forward", lambda *args: completed.append(args) or forward(*args)
    )
    pixels = np.array(photo)
    first = tiny_pipe.predict_gradient(pixels, hole)
    expected = first.copy()
    first[:] = 0
    result = tiny_pipe(pixels, hole, steps=1)
    assert len(completed) == 1
    np.testing.assert_array_equal(result.gradient, expected)
    known = tuple(np.argwhere(~hole)[0])
    pixels[known] ^= 255
    changed = tiny_pipe(pixels, hole, steps=1)
    assert len(completed) == 2
    assert np.array_equal(np.asarray(changed.image)[known], pixels[known])
    tiny_pipe(pixels, np.roll(hole, 1, axis=0), steps=1)
    assert len(completed) == 3


@pytest.mark.parametrize("rows", [1, 7, 64, 500])
def test_the_gradient_of_a_whole_photo_does_not_depend_on_its_strips(rows):
    photo = np.random.default_rng(0).integers(0, 256, (65, 40, 3), dtype=np.uint8)
    expected = image_gradient(to_tensor(photo))[0, 0].numpy()
    np.testing.assert_allclose(gradient_of(photo, rows), expected, atol=1e-7)


def test_half_precision_gives_nearly_the_same_picture(tiny_weights):
    photo, mask = np.asarray(synthetic_photo(96, 64)), box_mask(96, 64)
    pictures, gradients = {}, {}
    for precision in ("fp32", "bf16"):
        pipe = AsyncDSBPipeline.from_pretrained(tiny_weights, "cpu", precision=precision)
        restored = np.asarray(pipe(photo, mask, steps=3, seed=1).image).astype(int)
        np.testing.assert_array_equal(restored[~mask], photo[~mask])
        pictures[precision] = restored[mask]
        gradients[precision] = pipe.predict_gradient(photo, mask)
    difference = np.abs(pictures["fp32"] - pictures["bf16"])
    assert 0 < difference.max() and difference.mean() < 2
    # What is measured, not predicted, is not rounded.
    known = cv2.dilate(mask.astype(np.uint8), np.ones((5, 5), np.uint8)) == 0
    np.testing.assert_array_equal(gradients["fp32"][known], gradients["bf16"][known])
    assert (gradients["fp32"][mask] != gradients["bf16"][mask]).any()
    with pytest.raises(ValueError, match="precision out of auto, fp32, bf16, got 'fp64'"):
        AsyncDSBPipeline.from_pretrained(tiny_weights, "cpu", precision="fp64")


def test_half_precision_converts_weights_once_and_changes_no_bit(tiny_weights, monkeypatch):
    photo, mask = np.asarray(synthetic_photo(96, 64)), box_mask(96, 64)
    pipe = AsyncDSBPipeline.from_pretrained(tiny_weights, "cpu", precision="bf16")
    own, held = pipe.denoiser.unet, pipe.runner.evaluated.unet
    assert own.stem.weight.dtype == torch.float32 and held.stem.weight.dtype == torch.bfloat16
    assert held.norm.weight is own.norm.weight
    first = np.asarray(pipe(photo, mask, steps=2).image)
    assert pipe.runner.evaluated.unet is held
    with monkeypatch.context() as patch:
        patch.setattr("asyncdsb.photo.run.cast_layers", lambda network, dtype: network)
        plain = AsyncDSBPipeline(pipe.denoiser, pipe.completion, "cpu", precision="bf16")
        np.testing.assert_array_equal(np.asarray(plain(photo, mask, steps=2).image), first)
    torch.nn.init.zeros_(own.head.weight)
    assert (np.asarray(pipe(photo, mask, steps=2).image) != first).any()
    pipe.denoiser.config = dataclasses.replace(pipe.config, mirrored=2.0)
    assert pipe.runner.evaluated.config == pipe.config


def test_windows_suit_the_guide_too():
    pipe = AsyncDSBPipeline.random()
    unet = pipe.config.unet
    deeper = dataclasses.replace(unet, multipliers=(1,) * 5, attention=(False,) * 5)
    config = dataclasses.replace(pipe.config, guide=deeper, guidance=1.0)
    guided = AsyncDSBPipeline(BridgeDenoiser(config), pipe.completion, "cpu")
    assert (pipe.runner.stride, deeper.stride, guided.runner.stride) == (16, 32, 32)
    photo, mask = np.asarray(synthetic_photo(96, 64)), box_mask(96, 64)
    result = np.asarray(guided(photo, mask, steps=3).image)
    np.testing.assert_array_equal(result[~mask], photo[~mask])


def test_a_run_may_have_another_guidance_than_the_weights(tiny_pipe: AsyncDSBPipeline) -> None:
    assert isinstance(unet := tiny_pipe.config.unet, UNetConfig)
    config = dataclasses.replace(tiny_pipe.config, guide=unet, guidance=1.0)
    denoiser = BridgeDenoiser(config)
    denoiser.unet.load_state_dict(tiny_pipe.denoiser.unet.state_dict())
    guided = AsyncDSBPipeline(denoiser.eval(), tiny_pipe.completion, "cpu")
    photo, mask = synthetic_photo(64, 64), box_mask(64, 64)

    def restored(pipe: AsyncDSBPipeline, **settings: Any) -> tuple[np.ndarray, object]:
        result = pipe(photo, mask, steps=4, **settings)
        return np.asarray(result.image), result.settings["guidance"]

    plain, by_default = restored(tiny_pipe), restored(guided)
    assert (plain[1], by_default[1]) == (0.0, 1.0)
    np.testing.assert_array_equal(restored(guided, guidance=0)[0], plain[0])
    np.testing.assert_array_equal(restored(guided, guidance=1)[0], by_default[0])
    assert (by_default[0] != plain[0]).any()
    assert (restored(guided, guidance=2.5)[0] != by_default[0]).any()
    for pipe, value, said in (
        (tiny_pipe, 1, "guidance 0 with weights without a guide"),
        (guided, -1, "finite guidance >= 0"),
        (guided, math.inf, "finite guidance >= 0"),
        (guided, "1", "a number for guidance"),
    ):
        with pytest.raises(ValueError, match=said):
            restored(pipe, guidance=value)


@pytest.mark.slow
def test_a_compiled_network_gives_the_same_picture(tiny_weights):
    if not compiles("cpu"):  # On a machine without a C++ compiler or Python's headers.
        with pytest.raises(ValueError, match="expected a compiler that torch can use"):
            AsyncDSBPipeline.from_pretrained(tiny_weights, "cpu", compiled=True)
        return
    photo, mask = np.asarray(synthetic_photo(96, 64)), box_mask(96, 64)
    pipes = [
        AsyncDSBPipeline.from_pretrained(tiny_weights, "cpu", compiled=chosen)
        for chosen in (False, True)
    ]
    plain, compiled = (np.asarray(p(photo, mask, steps=2).image).astype(int) for p in pipes)
    assert np.abs(plain - compiled).max() <= 1
    assert pipes[1].denoiser.unet._compiled_call_impl is not None


def test_what_cannot_be_compiled_is_refused_at_once(tiny_weights, monkeypatch):
    monkeypatch.setattr("asyncdsb.networks.device.compiles", lambda device: False)
    with pytest.raises(ValueError, match="expected a compiler that torch can use"):
        AsyncDSBPipeline.from_pretrained(tiny_weights, "cpu", compiled=True)


@pytest.mark.slow
def test_whether_torch_can_compile_is_tried():
    code = "from asyncdsb.networks.device import compiles; print(compiles('cpu'))"
    command = [sys.executable, "-c", code]
    environment = os.environ | {
        "CXX": "no-such-compiler",
        "TORCHINDUCTOR_FORCE_DISABLE_CACHES": "1",
    }
    done = subprocess.run(command, capture_output=True, text=True, timeout=400, env=environment)
    assert done.stdout == "False\n"


@pytest.mark.parametrize("size", [(4000, 2), (2, 4000), (1, 1800)])
def test_very_thin_photos_come_back_with_patches(tiny_pipe, size):
    width, height = size
    photo = np.asarray(synthetic_photo(width, height))
    mask = np.zeros((height, width), bool)
    mask[height // 3 : height // 2 + 1, width // 3 : width // 2 + 1] = True
    if mask.all(0).any() and mask.all(1).any():
        mask[0, 0] = False
    restored = np.asarray(tiny_pipe(photo, mask, steps=1, finish="patches").image)
    np.testing.assert_array_equal(restored[~mask], photo[~mask])


def test_scales_of_a_tall_window_are_those_of_a_wide_one():
    hole = np.zeros((900, 1400), bool)
    hole[100:800, 300:1200] = True
    sizes = [Window.around(one, 256, 16)._sizes() for one in (hole, hole.T)]
    assert sizes[0] == [size[::-1] for size in sizes[1]] and len(sizes[0]) > 1
    hole = np.zeros((4000, 2), bool)
    hole[1000:3000] = True
    assert len(Window.around(hole, 256, 16)._sizes()) > 2


def test_numbers_of_numpy_are_recorded_as_plain_ones(tiny_pipe):
    settings = Settings(tau_min=np.float32(0.25), steps=np.int64(2), seed=np.uint8(3))
    settings.check()
    assert json.loads(json.dumps(tiny_pipe.record(settings)))["tau_min"] == 0.25
    with pytest.raises(ValueError, match="expected a number for eta"):
        Settings(eta=np.complex64(0)).check()
