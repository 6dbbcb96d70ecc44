"""Weights for portraits work in the square around the head, wherever the hole lies."""

from __future__ import annotations

import copy
import dataclasses
import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from conftest import save_mask, synthetic_photo
from PIL import Image

from asyncdsb import AsyncDSBPipeline
from asyncdsb.cli.main import main
from asyncdsb.page import canvas, handlers, restoring, session
from asyncdsb.page.engine import Engine, Pace, predict_maps, run_steps
from asyncdsb.photo import heads
from asyncdsb.photo.heads import REACH, find_heads, head_box, largest_square
from asyncdsb.photo.settings import Settings

pytestmark = pytest.mark.slow

RESOLUTION = 32
"""Of the tiny weights for portraits."""


@pytest.fixture(scope="module")
def portraits() -> AsyncDSBPipeline:
    pipe = AsyncDSBPipeline.random()
    head = dataclasses.replace(pipe.config, window="head", resolution=RESOLUTION)
    pipe.denoiser.config = head
    return pipe


def missing(shape: tuple[int, int], top: int, left: int, bottom: int, right: int) -> np.ndarray:
    hole = np.zeros(shape, bool)
    hole[top:bottom, left:right] = True
    return hole


def drawn_face(side: int) -> np.ndarray:
    """A head that the cascade takes for one, (side, side, 3) uint8."""
    picture = np.full((256, 256, 3), 150, np.uint8)
    cv2.ellipse(picture, (128, 250), (110, 60), 0, 0, 360, (40, 40, 60), -1)
    cv2.ellipse(picture, (128, 120), (68, 92), 0, 0, 360, (60, 45, 35), -1)
    cv2.ellipse(picture, (128, 135), (60, 82), 0, 0, 360, (215, 175, 150), -1)
    for x in (104, 152):
        cv2.ellipse(picture, (x, 108), (17, 4), 0, 180, 360, (70, 50, 40), 5)
        cv2.ellipse(picture, (x, 121), (13, 6), 0, 0, 360, (80, 60, 55), -1)
    cv2.line(picture, (128, 120), (128, 152), (225, 190, 165), 9)
    cv2.ellipse(picture, (128, 157), (13, 5), 0, 0, 180, (130, 90, 80), 4)
    cv2.ellipse(picture, (128, 181), (25, 6), 0, 0, 360, (140, 70, 70), -1)
    soft = cv2.GaussianBlur(picture, (0, 0), 2.5)
    return cv2.resize(soft, (side, side), interpolation=cv2.INTER_AREA)


def with_head(shape: tuple[int, int], top: int, left: int, side: int) -> np.ndarray:
    photo = np.full((*shape, 3), 150, np.uint8)
    photo[top : top + side, left : left + side] = drawn_face(side)
    return photo


PLACES = [((320, 400), 40, 180, 160), ((900, 1200), 300, 100, 480), ((200, 160), 30, 20, 100)]


@pytest.mark.parametrize(("shape", "top", "left", "side"), PLACES)
def test_a_head_is_found_at_any_size(shape, top, left, side):
    photo = with_head(shape, top, left, side)
    hole = missing(shape, top + side // 8, left + 5, top + side // 5, left + side // 4)
    x, y, found = head_box(photo, hole)
    assert 0.7 < found / side < 1.4
    assert abs(x + found / 2 - left - side / 2) < 0.15 * side
    assert abs(y + found / 2 - top - side / 2) < 0.15 * side


def test_without_a_head_there_is_none():
    assert find_heads(np.full((240, 320, 3), 128, np.uint8), (480, 640)) == []
    assert find_heads(np.zeros((2, 320, 3), np.uint8), (2, 640)) == []


@pytest.mark.parametrize(
    ("shape", "hole", "wanted"),
    [
        # At the top of a portrait format, in the middle of a landscape format ...
        ((300, 200), (20, 50, 90, 110), (0, 0, 200)),
        ((200, 300), (20, 60, 90, 110), (50, 0, 200)),
        # ... and moved no further than the hole asks for.
        ((300, 200), (150, 50, 230, 110), (0, 30, 200)),
        ((200, 300), (20, 10, 90, 110), (10, 0, 200)),
        ((200, 500), (0, 0, 200, 300), (100, 0, 200)),
        ((200, 200), (20, 50, 90, 110), (0, 0, 200)),
    ],
)
def test_where_no_head_is_found_the_largest_square_holds_the_hole(shape, hole, wanted):
    hole = missing(shape, *hole)
    assert largest_square(hole) == wanted
    assert head_box(np.full((*shape, 3), 128, np.uint8), hole) == wanted


@pytest.mark.parametrize(
    ("hole", "wanted"),
    [
        # Within the head; near it; touching it and too long; too far away.
        ((120, 220, 150, 250), (200, 100, 100)),
        ((120, 190, 150, 230), (190, 100, 110)),
        ((120, 250, 130, 312), (200, 100, 112)),
        ((120, 0, 130, 240), (200, 100, 100)),
        ((300, 40, 310, 60), (40, 0, 400)),
    ],
)
def test_the_window_grows_for_what_is_near(monkeypatch, hole, wanted):
    shape = (400, 500)
    monkeypatch.setattr(heads, "find_heads", lambda *_: [(200, 100, 100)])
    hole = missing(shape, *hole)
    x, y, side = head_box(np.zeros((*shape, 3), np.uint8), hole)
    assert (x, side) == (wanted[0], wanted[2]) and (side <= REACH * 100 or side == 400)
    assert abs(y - wanted[1]) <= 10
    assert hole[y : y + side, x : x + side].any()


def test_of_several_heads_it_is_the_one_with_the_hole(monkeypatch):
    several = [(0, 0, 100), (150, 20, 60), (260, 0, 120)]
    monkeypatch.setattr(heads, "find_heads", lambda *_: several)
    hole = missing((200, 400), 30, 160, 60, 190)
    assert head_box(np.zeros((200, 400, 3), np.uint8), hole) == (150, 20, 60)


def test_what_is_hidden_is_looked_at_only_where_the_rest_shows_no_head(monkeypatch):
    seen = []

    def look(picture, *_):
        seen.append(picture)
        return [(10, 10, 60)]

    monkeypatch.setattr(heads, "find_heads", look)
    photo = np.asarray(synthetic_photo(200, 160))
    hole = missing((160, 200), 20, 20, 50, 50)
    other = np.where(hole[..., None], 255 - photo, photo)
    head_box(photo, hole), head_box(other, hole)
    assert len(seen) == 2 and np.array_equal(*seen)


SHAPE = (120, 200)
CASES = {
    "scaled down": ((40, 10, 100), (40, 60, 80, 110)),
    "pixel by pixel": ((50, 20, RESOLUTION), (25, 55, 45, 70)),
    "up to its edge": ((60, 20, 64), (30, 100, 60, 124)),
    "at the edge": ((100, 20, 100), (30, 170, 110, 200)),
    "beyond the window": ((60, 20, 64), (30, 20, 50, 180)),
    "over the whole height": ((40, 0, 120), (0, 30, 120, 180)),
    "nothing known in it": ((60, 20, 50), (15, 50, 90, 130)),
    "apart from it": ((60, 20, 64), (30, 70, 50, 90)),
}


@pytest.mark.parametrize(
    ("case", "finish"),
    [
        *((case, "none") for case in CASES),
        ("scaled down", "patches"),
        ("up to its edge", "patches"),
    ],
)
def test_known_pixels_stay_and_all_of_the_hole_is_restored(portraits, case, finish):
    box, hole = CASES[case]
    hole = missing(SHAPE, *hole)
    if case == "apart from it":
        hole[100:115, 5:25] = True
    photo = np.asarray(synthetic_photo(*SHAPE[::-1]))
    hidden = np.where(hole[..., None], 255 - photo, photo)
    runs = [portraits(one, hole, box=box, steps=2, finish=finish) for one in (photo, hidden)]
    first, second = (np.asarray(run.image) for run in runs)
    np.testing.assert_array_equal(first[~hole], photo[~hole])
    np.testing.assert_array_equal(first, second)
    assert np.array_equal(runs[0].tau[hole], runs[1].tau[hole])
    assert (first[hole] != photo[hole]).any(1).mean() > 0.9
    # The frames on the way hide it as well.
    shown, other = (np.asarray(run.trajectory[0].x_t) for run in runs)
    np.testing.assert_array_equal(shown, other)
    (window,) = runs[0].trajectory[0].prepared.windows
    left, top, side = box
    assert (window.left, window.top, window.height, window.width) == (left, top, side, side)
    assert window.work == (RESOLUTION, RESOLUTION)


def test_a_small_head_is_enlarged_and_comes_back(portraits):
    """A large resolution and a small box: what the networks see is twice as large as the photo."""
    denoiser = copy.copy(portraits.denoiser)
    denoiser.config = dataclasses.replace(portraits.config, resolution=128)
    pipe = AsyncDSBPipeline(denoiser, portraits.completion, "cpu")
    photo = np.asarray(synthetic_photo(*SHAPE[::-1]))
    hole = missing(SHAPE, 40, 60, 60, 80)
    result = pipe(photo, hole, box=(50, 20, 64), steps=2)
    (window,) = result.trajectory[0].prepared.windows
    assert window.scale == 2 and result.trajectory[0].states[0].shape[2:] == (128, 128)
    np.testing.assert_array_equal(np.asarray(result.image)[~hole], photo[~hole])


@pytest.mark.parametrize("size", [(300, 2), (2, 300), (20, 25)])
def test_very_small_and_thin_photos_come_back(portraits, size):
    photo = np.asarray(synthetic_photo(*size))
    hole = missing(photo.shape[:2], 0, 0, 1 + size[1] // 2, 1 + size[0] // 3)
    result = portraits(photo, hole, steps=1)
    np.testing.assert_array_equal(np.asarray(result.image)[~hole], photo[~hole])
    again = portraits(photo, hole, **result.settings)
    assert np.array_equal(again.image, result.image)


@pytest.mark.parametrize(
    "hole", [(60, 60, 90, 90), (0, 0, 120, 60), (100, 0, 110, 180), (90, 150, 110, 190)]
)
def test_the_record_gives_the_same_again(portraits, hole):
    photo = with_head((120, 200), 10, 20, 100)
    hole = missing(photo.shape[:2], *hole)
    result = portraits(photo, hole, steps=2, seed=3)
    record = json.loads(json.dumps(result.settings))
    assert tuple(record["box"]) == portraits.head_box(photo, hole)
    again = portraits(photo, hole, **record)
    assert np.array_equal(again.image, result.image) and again.settings == result.settings


def test_sliders_show_the_map_that_the_run_uses(portraits):
    photo = np.asarray(synthetic_photo(*SHAPE[::-1]))
    hole, box = missing(SHAPE, 30, 20, 50, 180), (60, 20, 64)
    result = portraits(photo, hole, box=box, steps=1)
    gradient = portraits.predict_gradient(photo, hole, box=box)
    assert np.array_equal(gradient, result.gradient)
    assert np.array_equal(portraits.tau_map(gradient, hole, 0.2, 0.5, box=box), result.tau)
    assert portraits.work(hole, box=box) == RESOLUTION**2


@pytest.mark.parametrize(
    ("box", "told"),
    [
        ((0, 0), "expected three whole numbers for box .left, top, side., got"),
        ((0, 0, 64.0), "expected three whole numbers"),
        (64, "expected three whole numbers"),
        ((0, 0, True), "expected three whole numbers"),
        ((60, 20, 31), "side of at least 32, got left 60, top 20, side 31"),
        ((-1, 20, 64), "within the photo of 200x120 pixels.* got left -1, top 20, side 64"),
        ((137, 20, 64), "within the photo of 200x120 pixels"),
        ((60, 57, 64), "within the photo of 200x120 pixels"),
        (
            (0, 0, 40),
            "with some of the hole, got none in left 0, top 0, side 40",
        ),
    ],
)
def test_boxes_are_checked(portraits, box, told):
    photo = np.asarray(synthetic_photo(*SHAPE[::-1]))
    hole, gradient = missing(SHAPE, 50, 70, 80, 90), np.zeros(SHAPE, np.float32)
    for call in (
        lambda: portraits.stream(photo, hole, box=box),
        lambda: portraits.tau_map(gradient, hole, 0.2, 0.5, box=box),
        lambda: portraits.work(hole, box=box),
    ):
        with pytest.raises(ValueError, match=told):
            call()


def test_other_weights_and_batches_take_no_box(tiny_pipe, portraits):
    photo, hole = np.asarray(synthetic_photo(*SHAPE[::-1])), missing(SHAPE, 50, 70, 80, 90)
    with pytest.raises(ValueError, match="no box with weights that are not for portraits"):
        tiny_pipe.stream(photo, hole, box=(60, 20, 64))
    assert tiny_pipe.head_box(photo, hole) is None
    batch = torch.zeros(1, 3, 32, 32), torch.ones(1, 1, 32, 32)
    with pytest.raises(ValueError, match="no box for a batch"):
        portraits.trace(*batch, [0], box=(0, 0, 32))


def test_the_page_works_in_the_box_that_a_visitor_draws(tiny_pipe, portraits, tmp_path: Path):
    synthetic_photo(*SHAPE[::-1]).save(tmp_path / "photo.png")
    path, box = str(tmp_path / "photo.png"), (60, 20, 64)
    photo, image = session.open_photo(path)
    hole = missing(SHAPE, 50, 70, 80, 90)
    text = canvas.hole_text(photo.stamp, photo.size, hole, box)
    values = [getattr(Settings(steps=1), name) for name in session.SETTINGS]
    for pipe, used in ((portraits, box), (tiny_pipe, None)):
        engine = Engine(
            lambda weights, *args, pipe=pipe: predict_maps(pipe, *args),
            lambda weights, *args, pipe=pipe: run_steps(pipe, *args),
            Pace(),
        )
        shown = handlers.on_preview(engine, photo, text, None)
        assert shown["tau"]["box"] == used
        run = restoring.on_restore(engine, photo, text, None, [], False, 1, None, *values)
        *_, kept = (update["results"][-1] for update in run if "results" in update)
        assert kept.record.get("box") == (used and [*used])
        again = pipe(image, hole, box=used, steps=1, finish="none")
        np.testing.assert_array_equal(np.asarray(again.image), np.asarray(Image.open(kept.path)))
        # Another hole of the same photograph keeps the square, and so does going on with a result.
        after = handlers.on_edit(engine, "grow", photo, text)
        assert canvas.read_hole_text(after["editor"]["hole"])[2] == box
        after = handlers.on_reuse(kept.path, photo, text)
        assert canvas.read_hole_text(after["editor"]["hole"])[2] == box
    beside = canvas.hole_text(photo.stamp, photo.size, hole, (0, 0, 40))
    engine = Engine(
        lambda weights, *args: predict_maps(portraits, *args), lambda *args: iter(()), Pace()
    )
    shown = handlers.on_preview(engine, photo, beside, None)
    assert shown["tau"] is None and "with some of the hole" in shown["status"]


def test_the_box_of_the_command_line_is_used_and_recorded(portraits, tmp_path: Path, capsys):
    portraits.save_pretrained(tmp_path / "weights")
    synthetic_photo(*SHAPE[::-1]).save(tmp_path / "photo.png")
    save_mask(missing(SHAPE, 50, 70, 80, 90), tmp_path / "mask.png")
    paths = [str(tmp_path / name) for name in ("photo.png", "mask.png")]
    run = ["inpaint", *paths, "--weights", str(tmp_path / "weights"), "--quiet", "--device", "cpu"]
    first, again = (str(tmp_path / name) for name in ("first.png", "again.png"))
    assert main([*run, "-o", first, "--steps", "2", "--box", "60,20,64"]) == 0
    assert json.loads(Image.open(first).info["asyncdsb"])["box"] == [60, 20, 64]
    assert main([*run, "-o", again, "--settings", first]) == 0
    assert Path(first).read_bytes() == Path(again).read_bytes()
    assert main([*run, "-o", again, "--box", "60,20,640"]) == 2
    assert "expected a box within the photo" in capsys.readouterr().err
