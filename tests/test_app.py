"""The page without a browser: masks of the canvas, payloads, handlers, wiring."""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import io
import json
import re
import subprocess
import sys
import threading
import time
import zipfile
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import gradio as gr
import numpy as np
import pytest
import torch
from conftest import synthetic_photo
from PIL import Image, ImageCms

import app
from asyncdsb.cli import main as cli
from asyncdsb.denoiser import BridgeDenoiser
from asyncdsb.masks import make_mask
from asyncdsb.names import STRATEGIES
from asyncdsb.networks import UNetConfig
from asyncdsb.page import (
    canvas,
    handlers,
    layout,
    opening,
    payload,
    press,
    restoring,
    session,
    wiring,
)  # fmt: skip
from asyncdsb.page.engine import Engine, Model, Pace, Step, predict_maps, run_steps
from asyncdsb.photo.record import load_map, load_settings
from asyncdsb.photo.settings import FROM_WEIGHTS, Settings
from asyncdsb.pipeline import AsyncDSBPipeline
from asyncdsb.show import film

pytestmark = pytest.mark.slow

PAGE = Path(payload.__file__).parent


@pytest.fixture
def engine(tiny_pipe):
    return Engine(
        lambda weights, *args: predict_maps(tiny_pipe, *args),
        lambda weights, *args: run_steps(tiny_pipe, *args),
        Pace(),
    )


def values(**change: object) -> list[object]:
    """The page's controls at their defaults but for these."""
    defaults = {name: getattr(Settings(), name) for name in session.SETTINGS}
    return list((defaults | {"finish": "patches"} | change).values())


def api_values(**change: object) -> dict[str, object]:
    """Settings of /inpaint at their defaults but for these and what is left to the weights."""
    return dict(zip(session.SETTINGS, values(**change), strict=True)) | dict.fromkeys(FROM_WEIGHTS)


def photograph(width: int = 96, height: int = 64, seed: int = 0) -> Image.Image:
    return synthetic_photo(width, height, seed)


def hole_in(image: Image.Image) -> np.ndarray:
    return make_mask("center", (image.height, image.width))


def saved(image: Image.Image, path: Path, **options) -> str:
    image.save(path, **options)
    return str(path)


def opened(path: str) -> session.Photo:
    return session.open_photo(path)[0]


def painted(photo: session.Photo, mask: np.ndarray | None = None) -> str:
    """What the browser says when this mask is painted on the photograph."""
    return canvas.hole_text(photo.stamp, photo.size, mask)


def hole_of(photo: session.Photo, text: str) -> np.ndarray:
    """The mask of such a text, at the photograph's size."""
    return canvas.resize_mask(session.read_hole(photo, text)[1], photo.size)


def from_base64(text: str, kind: str) -> np.ndarray:
    return np.frombuffer(base64.b64decode(text), kind)


def from_uri(uri: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(uri.split(",")[1])))


# The canvas


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((128, 128), (1024, 1024)),
        ((300, 900), (600, 1800)),
        ((1024, 700), (1024, 700)),
        ((2048, 1500), (2048, 1500)),
        ((4096, 3000), (2048, 1500)),
        ((3000, 1), (2048, 1)),
    ],
)
def test_mask_has_a_grid_of_its_own(size, expected):
    assert canvas.mask_size(size) == expected


@pytest.mark.parametrize("size", [(120, 80), (400, 900), (1600, 1067), (2500, 1200)])
def test_mask_survives_the_canvas(size):
    mask = make_mask("wide", size[::-1], seed=3)
    stamp, grid, box = canvas.read_hole_text(canvas.hole_text("a", size, mask))
    again = canvas.resize_mask(grid, size)
    assert stamp == "a" and box is None and again.shape == mask.shape
    if max(size) <= canvas.SHOWN_SIDE:
        np.testing.assert_array_equal(again, mask)
    assert (again & mask).sum() / (again | mask).sum() > 0.98


def test_thin_scratch_survives_the_canvas():
    mask = np.zeros((3000, 4000), bool)
    mask[700:702, 100:3900] = True
    _, grid, _ = canvas.read_hole_text(canvas.hole_text("a", (4000, 3000), mask))
    again = canvas.resize_mask(grid, (4000, 3000))
    assert again.any(axis=0)[110:3890].all()
    assert again.sum(axis=0).max() <= 5


def test_unpainted_canvas():
    _, grid, box = canvas.read_hole_text(canvas.hole_text("a", (20, 10), box=(3, 4, 5)))
    assert box == (3, 4, 5) and grid.shape == (520, 1040) and not grid.any()


@pytest.mark.parametrize(
    "text",
    [
        "{", "[]", "7", '{"width": 2}', '{"photo": "a", "width": 0, "height": 2, "runs": []}',
        '{"photo": "a", "width": 2, "height": 2, "runs": [3]}',
        '{"photo": "a", "width": 2, "height": 2, "runs": [8, -4]}',
        '{"photo": "a", "width": 2, "height": 2, "runs": ["x"]}',
        '{"photo": "a", "width": 2, "height": 2, "runs": []}',
        '{"photo": "a", "width": 9999, "height": 1, "runs": [9999]}',
        '{"photo": "a", "width": 1e400, "height": 2, "runs": [4]}',
        '{"photo": "a", "width": 2, "height": 2, "runs": [1e300]}',
        '{"photo": "a", "width": 2, "height": 2, "runs": [4], "box": [1, 2]}',
        '{"photo": "a", "width": 2, "height": 2, "runs": [4], "box": "all"}',
        "[" * 100_000,
    ],
)  # fmt: skip
def test_bad_holes_are_refused(text):
    with pytest.raises(ValueError, match="expected a painted hole"):
        canvas.read_hole_text(text)


def test_hole_belongs_to_its_photograph(tmp_path):
    photo = opened(saved(photograph(), tmp_path / "a.png"))
    with pytest.raises(ValueError, match="Open a photo first"):
        session.read_hole(photo, None)
    with pytest.raises(ValueError, match="open it again"):
        session.read_hole(photo, canvas.hole_text("another", photo.size))
    with pytest.raises(ValueError, match="expected a hole of 1056x704"):
        session.read_hole(photo, canvas.hole_text(photo.stamp, (128, 128)))


def test_photograph_is_shown_at_its_own_size_up_to_a_limit():
    for size, shown in (((300, 200), (300, 200)), ((4096, 2000), (2048, 1000))):
        with Image.open(io.BytesIO(canvas.shown_copy(Image.new("RGB", size)))) as picture:
            assert picture.format == "JPEG" and picture.size == shown


# What is sent to the browser


@pytest.mark.parametrize("tau_range", [(0.2, 0.5), (0.001, 0.4), (0.5, 0.5), (0, 1)])
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_heatmap_follows_the_package(tiny_pipe, tau_range, strategy):
    """What the browser computes from the sent order is the pipeline's own tau map."""
    image = photograph()
    mask = hole_in(image)
    maps = predict_maps(tiny_pipe, image, mask, 8)
    sent = payload.format_maps(maps, image, mask, Pace())["tau"]
    order = sent["orders"][strategy]
    if isinstance(order, str):
        order = from_base64(order, "<u2").reshape(sent["height"], sent["width"]) / 65535
    low, high = tau_range
    expected = tiny_pipe.tau_map(maps.gradient, mask, low, high, strategy)
    np.testing.assert_allclose(
        np.broadcast_to(low + (high - low) * order, mask.shape), expected, atol=2e-5
    )


def test_payloads_are_small_and_json(tiny_pipe):
    image = photograph(1200, 800)
    mask = hole_in(image)
    maps = predict_maps(tiny_pipe, image, mask, 8)
    shown = payload.format_maps(maps, image, mask, Pace())
    sent = shown["tau"]
    assert (sent["width"], sent["height"]) == (256, 171)
    hole = from_base64(sent["hole"], np.uint8).reshape(171, 256)
    assert hole[85, 128] == 255 and hole[0, 0] == 0
    grey = from_base64(sent["grey"], np.uint8).reshape(171, 256)
    luma = np.asarray(image.convert("L").resize((256, 171), Image.Resampling.BOX))
    np.testing.assert_array_equal(grey, luma)
    assert sent["orders"]["uniform"] == 0.5
    assert len(json.dumps(sent)) < 600_000
    picture = from_uri(shown["gradient"]["picture"])
    assert picture.size == (512, 341)


@pytest.mark.parametrize("count, kept", [(3, 3), (41, 41), (251, 41)])
def test_film_payload_keeps_the_ends(count, kept):
    frames = [
        {"t": 1 - i / (count - 1), "x_t": f"x{i}", "x0_hat": f"h{i}", "step": i}
        for i in range(count)
    ]
    film = payload.film_payload(frames=frames)
    assert len(film["frames"]) == kept
    times = [frame["t"] for frame in film["frames"]]
    assert times[0] == 1 and times[-1] == 0 and times == sorted(times, reverse=True)
    assert film["frames"][-1]["x_t"] == f"x{count - 1}"


def test_frame_payload():
    x_t, x0_hat = Image.new("RGB", (80, 60), "#204060"), Image.new("RGB", (80, 60), "#c0a080")
    sent = payload.frame_payload(Step(3, 10, 0.7, x_t, x0_hat, 0))
    assert (sent["step"], sent["steps"], sent["t"]) == (3, 10, 0.7)
    for name, expected in (("x_t", x_t), ("x0_hat", x0_hat)):
        shown = np.asarray(from_uri(sent[name]).convert("RGB"), int)
        assert np.abs(shown - np.asarray(expected, int)).max() <= 4


def test_messages_are_escaped():
    assert "<script" not in payload.message("<script>alert(1)</script>.png")


def test_page_files_name_no_other_host():
    for path in PAGE.iterdir():
        if path.suffix in {".css", ".js", ".html"}:
            text = path.read_text()
            # A link that a visitor may follow is no request of the page's own.
            text = re.sub(r'<a href="https://[^"]+"', "", text)
            assert not re.search(r"https?:|//[a-z]|@import|url\(", text), path.name
    assert "@TAU_COLOURS@" not in payload.head()


# Checks


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tau_min": 0.6}, "tau_min <= tau_max"),
        ({"tau_max": 1.2}, r"\[0, 1\]"),
        ({"tau_min": None}, "tau_min"),
        ({"tau_min": float("nan")}, "tau_min"),
        ({"steps": 0}, "from 1 to 250 for steps"),
        ({"steps": session.MAX_STEPS + 1}, "from 1 to 250 for steps"),
        ({"steps": 2.5}, "whole"),
        ({"seed": None}, "seed"),
        ({"seed": -1}, "seed"),
        ({"sampler": "euler"}, "sampler"),
        ({"strategy": "outward"}, "strategy"),
        ({"strategy": None}, "strategy"),
        ({"strategy": "painted"}, "Paint the order"),
        ({"eta": 1.5}, "eta"),
        ({"grid": "random"}, "time grid"),
        ({"finish": "varnish"}, "finish"),
        ({"solver_order": 3}, "solver order"),
        ({"guidance": -0.5}, "guidance"),
    ],
)
def test_settings_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        session.read_settings(values(**change))


def test_defaults_are_the_packages():
    # On the page the box around a head is found, not given.
    fields = {field.name for field in dataclasses.fields(Settings)}
    assert {*session.SETTINGS} == fields - {"box"}
    assert session.read_settings(values()) == Settings(finish="patches")


def test_large_photo_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(session, "MAX_PIXELS", 5000)
    path = saved(photograph(), tmp_path / "a.png")
    with pytest.raises(ValueError, match="96x64"):
        session.open_photo(path)


def test_missing_weights_are_explained():
    def load(name):
        raise ValueError(f"weights not found: {name}")

    model = Model(load, ["nowhere"])
    with pytest.raises(ValueError, match="could not be loaded: weights not found"):
        model.get()
    *_, last = handlers.on_load(model)
    assert handlers.on_loaded(model, {}, "nowhere") == {}
    assert "No model" in last["model"] and "weights not found" in last["status"]


def test_loaded_model_offers_its_samplers(tiny_pipe):
    model = Model(lambda name: tiny_pipe, ["tiny"])
    first, last = handlers.on_load(model)
    assert "Loading" in first["model"] and "ready" in last["model"]
    told = handlers.on_loaded(model, {}, "tiny")
    assert told["sampler"]["choices"] == list(tiny_pipe.samplers)
    assert told["finish"] == tiny_pipe.config.finish
    told = handlers.on_loaded(model, {"finish": "patches"}, "tiny")
    assert "finish" not in told, "the address says it"
    # Without a guide there is no guidance, whatever the address says.
    assert "guidance" in handlers.on_link({"guidance": "3"})
    assert not handlers.on_link({"guidance": "3.1"}), "more than the page's slider holds"
    told = handlers.on_loaded(model, {"guidance": "1.5"}, "tiny")
    assert told["guidance"] == {"interactive": False, "value": 0.0, "maximum": 3}
    config = dataclasses.replace(tiny_pipe.config, guide=tiny_pipe.config.unet, guidance=1.0)
    guided = AsyncDSBPipeline(BridgeDenoiser(config), tiny_pipe.completion, "cpu")
    another = Model(lambda name: guided, ["guided", "other"])

    def guidance(query: dict[str, str]) -> object:
        return handlers.on_loaded(another, query, "guided")["guidance"].get("value")

    assert guidance({}) == 1.0 and guidance({"guidance": "1.5"}) is None
    # What the page refuses, and what other weights had, is not said.
    assert guidance({"guidance": "3.1"}) == guidance({"guidance": "much"}) == 1.0
    query = {"guidance": "0", "weights": "other", "steps": "7"}
    assert guidance(query) == 1.0 and guidance(query | {"weights": "guided"}) is None
    assert handlers.on_link(query, another.names, "guided") == {"steps": 7}
    # With its example come its weights, after this answer.
    assert guidance(query | {"example": handlers.find_examples()[0].path.stem}) is None
    guided.denoiser.config = dataclasses.replace(config, guidance=4.5)
    told = handlers.told_by(guided)["guidance"]
    assert told == {"interactive": True, "value": 4.5, "maximum": 4.5}
    with pytest.raises(ValueError, match="expected weights out of tiny, got 'large'"):
        model.get("large")


def test_weights_without_a_guide_do_without_guidance(tiny_pipe):
    """As for a moment after other weights were chosen."""
    image, mask = photograph(), make_mask("center", (64, 96), seed=0)
    assert isinstance(unet := tiny_pipe.config.unet, UNetConfig)
    config = dataclasses.replace(tiny_pipe.config, guide=unet, guidance=1.0)
    guided = AsyncDSBPipeline(BridgeDenoiser(config), tiny_pipe.completion, "cpu")
    for pipe, guidance, recorded in ((tiny_pipe, 2.5, 0), (guided, 2.5, 2.5), (guided, None, 1)):
        *_, last = run_steps(pipe, image, mask, Settings(steps=2, guidance=guidance))
        assert last.settings["guidance"] == recorded


def test_a_visitor_chooses_the_weights(tiny_pipe, tmp_path):
    asked = []

    def load(name):
        asked.append(name)
        return tiny_pipe

    model = Model(load, ["scenes", "portraits"])
    photo = opened(saved(photograph(), tmp_path / "a.png"))
    first, update = handlers.on_weights(model, photo, "portraits")
    # Before anything is loaded, and not again after it: there may be another photograph by then.
    assert first == {"photo": dataclasses.replace(photo, weights="portraits")}
    assert "photo" not in update and update["finish"] == tiny_pipe.config.finish
    assert update["sampler"]["choices"] == list(tiny_pipe.samplers)
    assert next(handlers.on_weights(model, None, "scenes"))["photo"] is None
    # What the page's address said stays with the weights of its example, and goes with others.
    query = {"example": handlers.find_examples()[0].path.stem, "finish": "none"}
    linked = handlers.on_link(query, model.names)["photo"]
    other = ({"scenes", "portraits"} - {linked.weights}).pop()
    for weights, told in ((linked.weights, False), (other, True)):
        _, update = handlers.on_weights(model, linked, weights)
        assert ("finish" in update) == told and "sampler" in update
    model.get()
    assert asked[0] == "scenes", "the first are those that most visitors need"


# Handlers


def test_photo_is_shown_upright(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    path = saved(photograph(90, 60), tmp_path / "turned.jpg", exif=exif)
    update = handlers.on_photo(path)
    assert update["photo"].size == (60, 90)
    shown = update["editor"]
    assert (shown["width"], shown["height"]) == (60, 90) and "60 × 90" in update["status"]
    with Image.open(io.BytesIO(shown["picture"])) as picture:
        assert picture.size == (60, 90)
    assert not hole_of(update["photo"], shown["hole"]).any()


@pytest.mark.parametrize("content", [b"", b"not a picture", b"\x89PNG\r\n\x1a\n broken"])
def test_bad_photo_is_refused(tmp_path, content):
    path = tmp_path / "bad.png"
    path.write_bytes(content)
    with pytest.raises(ValueError, match="bad.png"):
        handlers.on_photo(str(path))


def test_the_page_opens_on_a_finished_example():
    first = opening.read(("scenes", "portraits"))
    film = first["frame"]
    assert film["opening"] and len(film["frames"]) == len(film["other"]) > 20
    times = [frame["t"] for frame in film["frames"]]
    assert times[0] == 1 and times[-1] == 0 and times == sorted(set(times), reverse=True)
    assert first["weights"] == "portraits" and first["gradient"] and first["timing"]["other"]
    assert first["seed"] == opening.RUN.seed
    assert hole_of(first["photo"], first["editor"]["hole"]).any()
    # It is there before any model, and small enough to come with the page.
    assert len(json.dumps({k: v for k, v in first.items() if k != "photo"})) < 1_200_000
    assert opening.read(("elsewhere",)) == {}


def test_the_opening_example_is_made_anew(tiny_pipe, monkeypatch):
    """It has the parts of the one that is here."""
    monkeypatch.setattr(opening, "RUN", dataclasses.replace(opening.RUN, steps=2))
    mask = np.zeros((64, 96), bool)
    mask[20:40, 30:60] = True
    made = json.loads(json.dumps(opening.make(tiny_pipe, synthetic_photo(96, 64), mask)))
    here = json.loads(opening.FILE.read_text("utf-8"))
    assert made.keys() == here.keys()
    for name in ("frame", "timing", "tau", "gradient"):
        assert made[name].keys() == here[name].keys(), name
    assert len(made["frame"]["frames"]) == len(made["frame"]["other"]) == 3


def test_a_photo_after_an_example_begins_with_the_weights_for_any(tmp_path):
    path = saved(photograph(), tmp_path / "a.png")
    example = dataclasses.replace(opened(path), example="portrait-1", weights="portraits")
    own = dataclasses.replace(example, example=None)
    names = ("scenes", "portraits")
    opens = partial(handlers.on_photo, path, names=names)
    assert opens("portraits", example)["weights"] == "scenes"
    assert opens("portraits", own)["weights"] == "portraits"
    assert handlers.on_photo(path, "mine", example, names=("mine",))["weights"] == "mine"


def test_another_photo_resets_what_is_the_opening_examples_own(engine, tmp_path):
    path = saved(photograph(), tmp_path / "a.png")
    run = {name: getattr(opening.RUN, name) for name in handlers.AFTER_OPENING}
    first = dataclasses.replace(opened(path), example="portrait-1", opening=run)
    for shows in (
        partial(handlers.on_photo, path, "scenes"),
        partial(handlers.on_example, engine, 0, 8),
    ):
        after = shows(first, *run.values())
        assert {name: after[name] for name in run} == handlers.AFTER_OPENING
        # What a visitor or a link has changed stays.
        changed = shows(first, run["tau_min"], 0.95, run["seed"])
        assert "tau_min" not in changed and "tau_max" not in changed
        assert changed["seed"] == Settings().seed
        assert "seed" not in shows(first, run["tau_min"], run["tau_max"], 7)
        plain = dataclasses.replace(first, opening={})
        assert not shows(plain, *run.values()).keys() & run.keys()


def test_examples_are_ready_to_use(engine):
    examples = handlers.find_examples()
    assert len(examples) >= 4
    with_mask = [example for example in examples if example.mask_path.exists()]
    assert len(with_mask) >= 2 and examples[: len(with_mask)] == with_mask
    for example in examples:
        _, image, mask = example.read()
        assert max(image.size) <= 768 and example.path.stat().st_size < 200 * 1024
        assert mask is None or (mask.shape == (image.height, image.width) and 0 < mask.mean() < 0.5)
    shown = handlers.on_example(engine, 0)
    assert shown["photo"].path == str(examples[0].path)
    maps = handlers.on_preview(engine, shown["photo"], shown["editor"]["hole"], None)
    assert maps["tau"]["orders"]
    bare = handlers.on_example(engine, len(examples) - 1)
    assert (
        handlers.on_preview(engine, bare["photo"], bare["editor"]["hole"], None) == payload.NO_MAPS
    )


def test_examples_open_with_weights_of_the_visitors_own(engine):
    for number, example in enumerate(handlers.find_examples()):
        shown = handlers.on_example(engine, number, names=("mine", "others"))
        assert shown["weights"] == shown["photo"].weights == "mine"
        linked = handlers.on_link({"example": example.path.stem}, ("mine",))
        assert linked["weights"] == "mine"
        linked = handlers.on_link({"example": example.path.stem}, ("scenes", "portraits"))
        assert linked["weights"] == example.weights


@pytest.mark.parametrize("index", [-1, 99, None, "0"])
def test_unknown_example_is_refused(engine, index):
    with pytest.raises(ValueError, match="expected an example"):
        handlers.on_example(engine, index)


def test_preset_masks(engine, tmp_path):
    photo = opened(saved(photograph(200, 160), tmp_path / "a.png"))
    masks = []
    for kind, drawn in (("narrow", 0), ("narrow", 1), ("narrow", 1), ("center", 5)):
        shown = handlers.on_preset(engine, kind, photo, painted(photo), drawn)
        hole = shown["editor"]["hole"]
        maps = handlers.on_preview(engine, photo, hole, None)
        assert shown["drawn"] == drawn + 1 and maps["gradient"]
        assert shown["editor"]["picture"] is None, "the browser has it"
        masks.append(hole_of(photo, hole))
    assert (masks[0] != masks[1]).any() and (masks[1] == masks[2]).all()
    assert masks[3].mean() == pytest.approx(0.25, abs=0.02)


def test_mask_from_a_file(engine, tmp_path):
    image = photograph()
    photo = opened(saved(image, tmp_path / "a.png"))
    mask = saved(Image.fromarray(hole_in(image)), tmp_path / "mask.png")
    shown = handlers.on_mask_file(engine, mask, photo, painted(photo))
    np.testing.assert_array_equal(hole_of(photo, shown["editor"]["hole"]), hole_in(image))
    other = saved(Image.new("L", (50, 50)), tmp_path / "b.png")
    with pytest.raises(ValueError, match="same size"):
        handlers.on_mask_file(engine, other, photo, painted(photo))
    with pytest.raises(ValueError, match="Open a photo first"):
        handlers.on_mask_file(engine, mask, None, None)


def test_preview_follows_the_mask(engine, tmp_path):
    image = photograph()
    photo = opened(saved(image, tmp_path / "a.png"))
    value = painted(photo, hole_in(image))
    update = handlers.on_preview(engine, photo, value, None)
    assert update["gradient"] and update["tau"]
    assert handlers.on_preview(engine, photo, value, update["seen"]) == {}
    blank = painted(photo)
    assert handlers.on_preview(engine, photo, blank, update["seen"]) == payload.NO_MAPS
    assert handlers.on_clear()["photo"] is None


def restore(
    engine, photo, hole, *, order="", results=(), beside=False, seeds=1, steps=3,
    strategy="gradient", seed=0, finish="patches", seen=None,
):  # fmt: skip
    """Press Restore with these settings."""
    given = values(steps=steps, strategy=strategy, seed=seed, finish=finish)
    return restoring.on_restore(engine, photo, hole, order, results, beside, seeds, seen, *given)


def restored(kept: session.Kept) -> np.ndarray:
    with Image.open(kept.path) as result:
        return np.asarray(result)


@pytest.mark.parametrize("size", [(96, 64), (900, 700)])
def test_restore(engine, tmp_path, size, monkeypatch):
    """One update per step, then the result at the photo's own size, identical outside the hole."""
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr(session, "_results", lambda: SimpleNamespace(name=scratch))
    image = photograph(*size)
    photo = opened(saved(image, tmp_path / "holiday.png"))
    hole = painted(photo, hole_in(image))
    start, *frames, shown, listed, done = restore(engine, photo, hole, steps=3, seed=7)
    assert start["stop"] == {"interactive": True} and start["result"]["value"] is None
    assert [update["frame"]["step"] for update in frames] == [0, 1, 2, 3]
    times = [update["frame"]["t"] for update in frames]
    assert times[0] == 1 and times[-1] == 0 and times == sorted(set(times), reverse=True)
    assert "tau" in frames[0] and not any("tau" in update for update in frames[1:])
    assert done["restore"] == {"interactive": True} and "seed 7" in done["status"]

    (kept,) = listed["results"]
    assert listed["chosen"] == 0 and listed["strip"]["entries"][0]["label"] == "seed 7"
    assert shown["result"]["value"] == kept.path
    known = ~hole_of(photo, hole)
    assert {*kept.files} == {"none", "patches"} and kept.finish == "patches"
    for finish, path in kept.files.items():
        with Image.open(path) as result:
            assert result.size == size and result.mode == "RGB"
            record = json.loads(result.text["asyncdsb"])
            assert (record["seed"], record["finish"]) == (7, finish)
            np.testing.assert_array_equal(np.asarray(result)[known], np.asarray(image)[known])
            assert (np.asarray(result)[~known] != np.asarray(image)[~known]).any()
    assert Path(kept.path).name == "holiday-restored.png"
    assert shown["animation"] == shown["movie"] == {"interactive": True}
    assert len(shown["frame"]["frames"]) == 4 and shown["timing"]["sentence"]
    assert from_uri(shown["compare"]["after"]).size == size
    # Nothing else is left than what is kept, which goes with the visit.
    assert [str(folder) for folder in scratch.iterdir()] == [kept.folder]
    session.forget(listed["results"])
    assert not list(scratch.iterdir())


def test_a_run_uses_the_maps_that_are_shown(engine, tiny_pipe, tmp_path, monkeypatch):
    """They are neither predicted nor sent again, and the result stays the same."""
    image = photograph()
    photo = opened(saved(image, tmp_path / "a.png"))
    hole = painted(photo, hole_in(image))
    results, completed = [], []
    forward = tiny_pipe.completion.forward
    monkeypatch.setattr(
        tiny_pipe.completion, "forward", lambda *args: completed.append(args) or forward(*args)
    )
    seen = handlers.on_preview(engine, photo, hole, None)["seen"]
    for known in (seen, None):
        update, *frames, _, listed, _ = restore(engine, photo, hole, seeds=1, seen=known)
        sent = [name for frame in (update, *frames) for name in frame if name in ("tau", "seen")]
        assert sent == ([] if known else ["tau", "seen"])
        assert known or frames[0]["seen"] == seen
        results += listed["results"]
    assert len(completed) == 1
    np.testing.assert_array_equal(*map(restored, results))
    # With another hole, or with several seeds, the maps come once.
    other = painted(photo, np.roll(hole_in(image), 5, axis=1))
    *updates_, done = restore(engine, photo, other, seeds=2, seen=seen)
    assert ["tau" in update for update in updates_ if "frame" in update and update["frame"]].count(
        True
    ) == 1
    session.forget([*results, *updates_[-1]["results"]])


def test_the_result_holds_what_the_photo_held(engine, tmp_path):
    image = photograph()
    deep = np.asarray(image.convert("L")).astype(np.uint16) * 257 + 3
    exif = Image.Exif()
    exif[0x013B] = "Ada"
    Image.fromarray(deep).save(tmp_path / "deep.png", exif=exif, dpi=(300, 300))
    photo = opened(str(tmp_path / "deep.png"))
    hole = painted(photo, hole_in(image))
    *_, listed, done = restore(engine, photo, hole, steps=1)
    with Image.open(listed["results"][0].path) as got:
        assert got.mode == "I;16" and got.getexif()[0x013B] == "Ada"
        assert got.info["dpi"] == pytest.approx((300, 300), abs=0.1)
        known = ~hole_of(photo, hole)
        np.testing.assert_array_equal(np.asarray(got)[known], deep[known])
    assert "Not kept" not in done["status"]
    session.forget(listed["results"])


def test_what_is_not_kept_of_the_photo_is_told(engine, tmp_path):
    image = photograph()
    photo = opened(saved(image.convert("CMYK"), tmp_path / "press.tif"))
    *_, listed, done = restore(engine, photo, painted(photo, hole_in(image)), steps=1)
    assert "Not kept of the photo: CMYK (converted to RGB)." in done["status"]
    session.forget(listed["results"])


def test_shares_follow_their_schedules(tiny_pipe):
    """What was restored when is measured on the states, and starts and ends where it must."""
    image = photograph(128, 128)
    settings = Settings(tau_min=0.0, tau_max=1.0, steps=12, grid="uniform", seed=2)
    first, *_, last = run_steps(tiny_pipe, image, hole_in(image), settings, maps=True)
    maps, shares = first.maps, last.shares
    assert shares.t[0] == 1 and shares.t[-1] == 0 and len(shares.t) == 13
    for name in ("flat", "middle", "steep"):
        measured, scheduled = (np.array(one[name]) for one in (shares.measured, shares.scheduled))
        assert measured[0] == 0 and measured[-1] == 1
        assert scheduled[0] == 0 and scheduled[-1] == 1 and (np.diff(scheduled) > 0).all()
    tau = torch.from_numpy(maps.tau(settings)[hole_in(image)]).double()
    expected = 1 - maps.schedule.clock(torch.tensor(0.5, dtype=torch.float64), tau).mean()
    found = np.mean([shares.scheduled[name][6] for name in ("flat", "middle", "steep")])
    assert found == pytest.approx(float(expected), abs=0.02)
    sent = payload.timing_payload(shares)
    assert json.dumps(sent) and "steepest third" in sent["sentence"]
    rows = (("Edges came first", 0.2, 0.9), ("Flat areas came first", 0.9, 0.2))
    for said, flat, steep in (*rows, ("order hardly shows", 0.5, 0.5)):
        measured = {name: [0.0, value, 1.0] for name, value in (("flat", flat), ("steep", steep))}
        made = dataclasses.replace(shares, t=[1.0, 0.5, 0.0], measured=measured)
        assert said in payload.timing_payload(made)["sentence"]
    assert payload.timing_payload(None) is None


def test_i2sb_is_run_beside_with_the_same_seed(engine, tmp_path):
    image = photograph()
    photo = opened(saved(image, tmp_path / "a.png"))
    hole = painted(photo, hole_in(image))
    updates = list(restore(engine, photo, hole, beside=True, steps=4, seed=5))
    listed = next(i for i, update in enumerate(updates) if update.get("results"))
    assert all("restore" not in update for update in updates[listed:-1]), "it can be stopped"
    *_, film, last = updates
    assert last["stop"] == {"interactive": False}
    ours, other = film["frame"]["frames"], film["frame"]["other"]
    # Each has the times at which its own mean noise has the levels of the grid.
    assert [f["t"] for f in ours] == pytest.approx([f["t"] for f in other], abs=0.1)
    # One start, for the noise is the same, and two ends.
    assert ours[0]["x_t"] == other[0]["x_t"] and ours[-1]["x_t"] != other[-1]["x_t"]
    assert film["timing"]["other"]["t"] == [f["t"] for f in other]
    alone = list(restore(engine, photo, hole, steps=4, seed=5))
    assert next(u for u in alone if "frames" in (u.get("frame") or {}))["frame"]["frames"] == ours
    session.forget([*updates[listed]["results"]])


def test_results_are_kept_and_chosen(engine, tmp_path, monkeypatch):
    monkeypatch.setattr(session, "MAX_RESULTS", 5)
    image = photograph()
    photo = opened(saved(image, tmp_path / "a.png"))
    hole = painted(photo, hole_in(image))
    seeds = dict(steps=1, seed=session.MAX_SEED - 1)
    *_, listed, last = restore(engine, photo, hole, seeds=3, **seeds)
    first, second, third = results = listed["results"]
    labels = [entry["label"] for entry in listed["strip"]["entries"]]
    assert labels == [f"seed {session.MAX_SEED - 1}", f"seed {session.MAX_SEED}", "seed 0"]
    assert (restored(first) != restored(second)).any() and (
        restored(second) != restored(third)
    ).any()
    assert last["restore"] == {"interactive": True} and "and the 2 after it" in last["status"]
    chosen = restoring.on_choose(engine, results, 1, photo, hole)
    assert chosen["result"]["value"] == second.path and chosen["chosen"] == 1
    assert len(chosen["frame"]["frames"]) == 2 and "photo" not in chosen
    # Over another photograph it would be compared with that one.
    other = opened(saved(photograph(seed=1), tmp_path / "b.png"))
    for shown in ((other, painted(other, hole_in(image))), (None, None)):
        chosen = restoring.on_choose(engine, results, 1, *shown)
        assert chosen["photo"] == dataclasses.replace(photo, said=("finish",))
        assert chosen["editor"]["stamp"] == photo.stamp
        assert (hole_of(photo, chosen["editor"]["hole"]) == hole_in(image)).all()
        assert chosen["result"]["value"] == second.path and len(chosen["frame"]["frames"]) == 2
        # A request for the maps would take the place of what the status says.
        assert chosen["editor"]["maps"] and "Result with seed" in chosen["status"]
    # On the canvas of a large photograph the hole is coarser, and the same all the same.
    large = dataclasses.replace(photo, size=(2100, 1500))
    wide = make_mask("wide", (1500, 2100), seed=1)
    kept = dataclasses.replace(second, photo=large, hole=np.packbits(wide).tobytes())
    assert "photo" not in restoring.on_choose(engine, [kept], 0, large, painted(large, wide))
    for index in (-1, 3, None, "0"):
        with pytest.raises(ValueError, match="Restore something first"):
            restoring.on_choose(engine, results, index, photo, hole)
    *_, listed, _ = restore(engine, photo, hole, results=results, steps=1, seed=9)
    assert len(listed["results"]) == 4
    assert all(Path(kept.folder).exists() for kept in listed["results"])
    # A sixth one takes the place of the first.
    *_, listed, _ = restore(engine, photo, hole, results=listed["results"], steps=1, seeds=2)
    assert len(listed["results"]) == 5 and not Path(first.folder).exists()
    assert all(Path(kept.folder).exists() for kept in listed["results"])
    assert "1 to 6 for seeds" in list(restore(engine, photo, hole, seeds=7))[-1]["status"]
    session.forget(listed["results"])


def test_a_result_is_shown_with_and_without_patches(engine, tmp_path):
    image = photograph()
    photo = opened(saved(image, tmp_path / "a.png"))
    hole = painted(photo, hole_in(image))
    *_, listed, _ = restore(engine, photo, hole, steps=2, finish="none")
    alone = listed["results"]
    assert {*alone[0].files} == {"none"}
    *_, both = restoring.on_finish(engine, alone, 0, "patches")
    (kept,) = both["results"]
    assert kept.finish == "patches" and both["compare"]["finish"] == "patches"
    assert (restored(kept) != restored(alone[0])).any()
    with Image.open(kept.path) as result:
        assert json.loads(result.text["asyncdsb"])["finish"] == "patches"
    # The same as a run that was asked for patches at once.
    *_, listed, _ = restore(engine, photo, hole, steps=2)
    np.testing.assert_array_equal(restored(kept), restored(listed["results"][0]))
    # What "All files" says of it belongs to the picture that is shown.
    assert kept.record["finish"] == "patches"
    (back,) = restoring.on_finish(engine, both["results"], 0, "none")
    assert back["results"][0].record["finish"] == "none"
    np.testing.assert_array_equal(restored(back["results"][0]), restored(alone[0]))
    assert list(restoring.on_finish(engine, [], -1, "none")) == []
    session.forget([*both["results"], *listed["results"]])


def order_text(order: np.ndarray) -> str:
    """A painted order as the browser sends it."""
    data = base64.b64encode(order.astype(np.uint8).tobytes()).decode()
    return json.dumps({"width": order.shape[1], "height": order.shape[0], "data": data})


def test_painted_order(engine, tmp_path):
    """What is painted white has its clock at tau_max, whatever the gradient says."""
    image = photograph(200, 120)
    photo = opened(saved(image, tmp_path / "a.png"))
    order = np.zeros((30, 50))
    order[:, 25:] = 255
    tau = session.read_settings(
        values(strategy="painted", tau_min=0.1, tau_max=0.9),
        session.read_order(order_text(order), image.size),
    ).strategy
    assert tau.shape == (120, 200) and tau.dtype == np.float32
    np.testing.assert_allclose(tau[:, :90], 0.1, atol=1e-5)
    np.testing.assert_allclose(tau[:, 110:], 0.9, atol=1e-5)
    layer = painted(photo, hole_in(image))
    results = []
    for shown in (order, 255 - order):
        run = restore(engine, photo, layer, strategy="painted", order=order_text(shown), steps=3)
        (kept,) = next(update["results"] for update in run if update.get("results"))
        results.append(restored(kept))
        assert kept.record["strategy"] == "painted"
    assert (results[0] != results[1]).any()
    assert "Paint the order" in next(restore(engine, photo, layer, strategy="painted"))["status"]


@pytest.mark.parametrize(
    "text",
    [
        "{", "[]", "7", '{"width": 2}', '{"width": 0, "height": 2, "data": ""}',
        '{"width": 2, "height": 2, "data": "AAA="}', '{"width": 9999, "height": 1, "data": ""}',
        '{"width": 1e400, "height": 2, "data": "AA=="}', '{"width": 1, "height": 1, "data": "?"}',
        "[" * 100_000,
    ],
)  # fmt: skip
def test_bad_painted_orders_are_refused(text):
    with pytest.raises(ValueError, match="expected a painted order"):
        session.read_order(text, (10, 10))


@pytest.mark.parametrize("strategy", ["gradient", "painted"])
def test_all_files_give_the_same_picture_again(engine, tiny_weights, tmp_path, strategy):
    """The archive's mask and settings, the photo and the command line: the same bytes."""
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    image = photograph(300, 200)
    photo = opened(saved(image, tmp_path / "a.png", icc_profile=profile))
    layer = painted(photo, make_mask("wide", (200, 300), seed=1))
    order = order_text(np.linspace(0, 255, 40 * 60).reshape(40, 60))
    run = restore(engine, photo, layer, strategy=strategy, order=order, steps=2, seed=11)
    results = next(update["results"] for update in run if update.get("results"))
    packing = restoring.on_files(engine, results, 0)
    archive = zipfile.ZipFile(io.BytesIO(Path(next(packing)["archive"]).read_bytes()))
    names = set(archive.namelist())
    assert names >= {"restored.png", "mask.png", "settings.json", "gradient.npy", "tau.npy"}
    with Image.open(io.BytesIO(archive.read("film.webp"))) as found:
        assert found.format == "WEBP" and found.n_frames == 3
    archive.extractall(tmp_path)
    arguments = [tmp_path / "a.png", tmp_path / "mask.png", "-o", tmp_path / "again.png"]
    arguments += ["--settings", tmp_path / "settings.json", "--weights", tiny_weights, "--quiet"]
    assert cli.main(["inpaint", *map(str, arguments)]) == 0
    assert (tmp_path / "again.png").read_bytes() == (tmp_path / "restored.png").read_bytes()
    tau = np.load(tmp_path / "tau.npy")
    assert tau.shape == (200, 300) and 0.19999 < tau.min() and tau.max() < 0.50001
    np.testing.assert_allclose(load_map(tmp_path / "tau.png", (300, 200)), tau, atol=1e-5)


def test_files_need_a_run(engine):
    with pytest.raises(ValueError, match="Restore something first"):
        list(restoring.on_files(engine, [], -1))
    with pytest.raises(ValueError, match="Restore something first"):
        list(restoring.on_film([], -1, ".webp"))


@pytest.mark.parametrize("beside", [False, True])
def test_a_film_is_made_when_it_is_asked_for(engine, tmp_path, beside, monkeypatch):
    """Both methods side by side when both ran; else the states beside the predictions."""
    image = photograph(200, 120)
    photo = opened(saved(image, tmp_path / "holiday.png"))
    run = restore(engine, photo, painted(photo, hole_in(image)), steps=4, beside=beside)
    *_, results = [update["results"] for update in run if update.get("results")]
    folder = Path(results[0].folder)
    before = {file.name for file in folder.iterdir()}
    assert not [name for name in before if "film" in name], "nothing is encoded unasked"
    labels, draw = [], film.draw_film
    monkeypatch.setattr(
        press.film,
        "draw_film",
        lambda panels, *given: labels.extend(panels) or draw(panels, *given),
    )
    said, made = restoring.on_film(results, 0, ".webp")
    assert "Making the film" in said["status"] and "holiday-film.webp" in made["status"]
    with Image.open(made["archive"]) as found:
        assert found.n_frames == 5 and found.width > 2 * found.height * 0.7
    own, other = labels
    assert (
        own.title == "Asynchronous" and own.caption == "bridge state, τ from 0.2 to 0.5 (gradient)"
    )
    assert other.title == ("Synchronous (I²SB)" if beside else "Prediction")
    view = json.loads((folder / "view.json").read_text())["frame"]
    theirs = view["other" if beside else "frames"]
    shown = from_uri(theirs[2]["x_t" if beside else "x0_hat"])
    np.testing.assert_array_equal(np.asarray(other.pictures[2]), np.asarray(shown))
    assert other.times == [one["t"] for one in theirs]
    session.forget(results)


@pytest.mark.parametrize(
    "change, title",
    [
        ({"strategy": "uniform", "tau_min": 0.0, "tau_max": 1.0}, "Synchronous (I²SB)"),
        ({"tau_min": 0.3, "tau_max": 0.3}, "Synchronous"),
        ({"strategy": np.ones((2, 2))}, "Asynchronous"),
    ],
)
def test_a_film_says_which_method_it_shows(change, title):
    assert press._label(dataclasses.replace(Settings(), **change))[0] == title


def test_without_an_encoder_the_page_offers_webp_and_says_how_to_get_mp4(monkeypatch):
    for encoder in (None, "/usr/bin/ffmpeg"):
        monkeypatch.setattr(layout, "h264_encoder", lambda found=encoder: found)
        demo = app.build(lambda name: pytest.fail("not needed"), ["scenes"])
        shown = {
            one["props"].get("elem_id"): one["props"].get("visible", True)
            for one in demo.config["components"]
        }
        assert shown["animation"] is True
        assert shown["movie"] is (encoder is not None)
        assert shown["about-mp4"] is (encoder is None)
    assert "imageio-ffmpeg" in layout.NO_MP4


def test_a_failed_film_is_told(engine, tmp_path, monkeypatch):
    image = photograph()
    photo = opened(saved(image, tmp_path / "a.png"))
    *_, listed, _ = restore(engine, photo, painted(photo, hole_in(image)), steps=1)
    monkeypatch.setattr(film, "h264_encoder", lambda: None)
    telling = restoring.on_film(listed["results"], 0, ".mp4")
    assert "Making" in next(telling)["status"]
    assert "pip install imageio-ffmpeg" in next(telling)["status"]
    with pytest.raises(ValueError, match="imageio-ffmpeg"):
        next(telling)
    session.forget(listed["results"])
    with pytest.raises(ValueError, match="Restore something first"):
        handlers.on_reuse(None, None, None)


def test_the_result_can_be_edited_again(tmp_path):
    first = dataclasses.replace(
        opened(saved(photograph(), tmp_path / "a.png")), weights="portraits"
    )
    path = saved(photograph(seed=1), tmp_path / "a-restored.png")
    update = handlers.on_reuse(path, first, painted(first, hole_in(photograph())))
    result, shown = update["photo"], update["editor"]
    assert result.path == path and result.weights == "portraits"
    assert shown["before"] == first.stamp and shown["named"]["mask"] is None
    assert not hole_of(result, shown["hole"]).any()
    # The browser can go back to the photograph, and whatever it asks for then is about that one.
    assert session.read_hole(result, painted(first))[0] == first
    other = dataclasses.replace(result, weights="scenes")
    assert session.read_hole(other, painted(first))[0].weights == "scenes"


def test_masks_are_edited(engine, tmp_path):
    image = photograph(200, 160)
    photo = opened(saved(image, tmp_path / "a.png"))
    before = hole_in(image)
    layer = painted(photo, before)
    found, texts = {}, {}
    for edit in canvas.EDITS:
        texts[edit] = handlers.on_edit(engine, edit, photo, layer)["editor"]["hole"]
        found[edit] = hole_of(photo, texts[edit])
    assert (found["invert"] == ~before).all()
    assert (found["grow"] >= before).all() and found["grow"].sum() > before.sum()
    assert (found["shrink"] <= before).all() and found["shrink"].sum() < before.sum()
    # There and back is the same for a shape without thin parts.
    again = handlers.on_edit(engine, "shrink", photo, texts["grow"])["editor"]["hole"]
    assert (hole_of(photo, again) != before).mean() < 0.02
    with pytest.raises(ValueError, match="Paint a hole first"):
        handlers.on_edit(engine, "grow", photo, painted(photo))
    with pytest.raises(ValueError, match="Open a photo"):
        handlers.on_edit(engine, "grow", None, None)
    dot = np.zeros((160, 200), bool)
    dot[80, 100] = True
    with pytest.raises(ValueError, match="Nothing of the hole"):
        handlers.on_edit(engine, "shrink", photo, painted(photo, dot))


def test_a_link_opens_what_it_was_copied_from():
    examples = handlers.find_examples()
    name = examples[-1].path.stem
    query = {"example": name, "mask": "narrow-3", "tau_max": "0.9", "steps": "7", "sampler": "ode"}
    update = handlers.on_link(query)
    assert (update["tau_max"], update["steps"], update["sampler"]) == (0.9, 7, "ode")
    assert update["photo"].example == name
    assert update["editor"]["named"] == {"example": name, "mask": "narrow-3"}
    mask = hole_of(update["photo"], update["editor"]["hole"])
    np.testing.assert_array_equal(mask, make_mask("narrow", mask.shape, seed=3))


@pytest.mark.parametrize(
    "query",
    [
        {"steps": "nan"}, {"steps": "1e99"}, {"tau_min": "2"}, {"sampler": "<script>"},
        {"strategy": "painted"}, {"seed": "-1"}, {"example": "../../etc/passwd"},
        {"mask": "center-1"}, {"grid": ""}, {"other": "1"}, {"seed": "٣x"},
    ],
)  # fmt: skip
def test_what_a_link_may_not_say_is_left_out(query):
    assert handlers.on_link(query) == {}


def test_a_link_keeps_the_range_in_order():
    for query in ({"tau_min": "0.8", "tau_max": "0.3"}, {"tau_min": "0.4", "tau_max": "0.1"}):
        assert handlers.on_link(query) == {}
    # The other end has its default.
    assert handlers.on_link({"tau_min": "0.8"}) == {}
    assert handlers.on_link({"tau_max": "0.1", "steps": "7"}) == {"steps": 7}
    assert handlers.on_link({"tau_max": "0.3"}) == {"tau_max": 0.3}


def test_a_link_has_no_seed_that_the_page_would_refuse():
    query = {"seed": str(session.MAX_SEED)}
    assert handlers.on_link(query) == {"seed": session.MAX_SEED}
    assert handlers.on_link({"seed": str(session.MAX_SEED + 1)}) == {}


def test_files_are_handed_over_without_leaving_others_behind(tmp_path):
    with gr.Blocks():
        part = layout.by_path(gr.File())
        part.GRADIO_CACHE = str(tmp_path)
        assert part.preprocess(gr.FileData(path="photo.jpg")) == "photo.jpg"
        assert part.preprocess(None) is None
    assert not list(tmp_path.iterdir())


def test_results_go_with_the_process():
    code = (
        "import asyncdsb.page.session as s\nfolder = s.result_folder()\n"
        "(folder / 'a').write_text('')\nprint(folder)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not Path(done.stdout.strip()).parent.exists()


def test_what_is_sent_belongs_to_its_component():
    with gr.Blocks():
        parts = {"archive": gr.File(), "photo": gr.State(), "restore": gr.Button()}
    sent = wiring.named({"archive": "a.zip", "photo": 3, "restore": payload.BUSY["restore"]}, parts)
    assert sent[parts["archive"]] == gr.update(value="a.zip") and sent[parts["photo"]] == 3
    assert sent[parts["restore"]] == gr.update(**payload.BUSY["restore"])


@pytest.mark.parametrize("hosted", [None, False, True])
def test_maps_are_predicted_one_at_a_time(tiny_pipe, monkeypatch, hosted):
    # Each event has a limit of its own.
    running, most, engines = [], [], []

    def counted(function):
        def call(*args):
            running.append(1)
            most.append(len(running))
            time.sleep(0.05)
            function(*args)
            running.pop()

        return call

    taken = []
    if hosted is not None:
        gpu = SimpleNamespace(GPU=lambda duration: lambda run: taken.append(run.__name__) or run)
        gpu.config = SimpleNamespace(Config=SimpleNamespace(zero_gpu=hosted))
        monkeypatch.setattr(wiring, "spaces", gpu)
    monkeypatch.setattr(wiring, "predict_maps", counted(lambda *args: None))
    monkeypatch.setattr(wiring, "wire", lambda *given: engines.append(given[3]))
    asked = []
    app.build(lambda *name, **device: asked.append((*name, *device.values())) or tiny_pipe)
    threads = [threading.Thread(target=engines[0].predict, args=("scenes",)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1, 1, 1, 1]
    if hosted:  # Maps come from the processor, and take no time of the GPU.
        assert taken == ["steps_of"] and ("scenes", "cpu") in asked
    else:
        assert not taken and ("scenes", "cpu") not in asked


def test_time_of_a_shared_gpu_follows_the_steps():
    quick, slow = (wiring.gpu_seconds("a", None, None, Settings(steps=n)) for n in (20, 250))
    assert 15 < quick < slow <= 120


@pytest.mark.parametrize("error", [ValueError("too small"), MemoryError()])
def test_a_run_that_fails_says_so(engine, tmp_path, error):
    image = photograph()
    photo = opened(saved(image, tmp_path / "a.png"))

    def steps_of(*args):
        raise error
        yield

    broken = dataclasses.replace(engine, steps_of=steps_of)
    layer = painted(photo, hole_in(image))
    run = restore(broken, photo, layer, steps=1)
    last = None
    # What a visitor did is said once; a fault of the page's own is also for the server's log.
    with contextlib.nullcontext() if isinstance(error, ValueError) else pytest.raises(MemoryError):
        for update in run:
            last = update
    assert "too small" in last["status"] or "run failed" in last["status"]
    assert "error" in last["status"]
    assert last["restore"]["interactive"] and not last["stop"]["interactive"]


def test_programs_give_an_order_together_with_its_strategy(engine, tmp_path):
    image = photograph()
    photo = saved(image, tmp_path / "a.png")
    mask = saved(Image.fromarray(hole_in(image)), tmp_path / "m.png")
    order = saved(Image.new("L", image.size, 128), tmp_path / "o.png")
    given = api_values(steps=1)
    with pytest.raises(ValueError, match="expected the strategy 'painted' for the order"):
        list(restoring.inpaint(engine, photo, mask, **given, order=order))
    with pytest.raises(ValueError, match="expected an order, got the strategy 'painted'"):
        list(restoring.inpaint(engine, photo, mask, **given | {"strategy": "painted"}))


def test_maps_come_with_a_prepared_hole_once_the_model_is_there(engine, tmp_path):
    photo = opened(saved(photograph(200, 160), tmp_path / "a.png"))
    shown = handlers.on_preset(engine, "wide", photo, painted(photo), 0)
    assert shown["gradient"] and shown["tau"] and shown["seen"]
    # The event that follows finds nothing new.
    assert handlers.on_preview(engine, photo, shown["editor"]["hole"], shown["seen"]) == {}
    waiting = dataclasses.replace(engine, ready=lambda: False)
    shown = handlers.on_preset(waiting, "wide", photo, painted(photo), 0)
    assert shown["gradient"] is None and shown["editor"]["hole"]


def test_pace_tells_how_long_a_step_takes(tiny_pipe):
    pace = Pace()
    assert pace.of_step(100) is None
    pace.learn(3.0, 0, 100)
    assert pace.of_step(100) is None
    pace.learn(3.0, 6, 100)
    assert pace.of_step(200) == pytest.approx(1.0)
    model = Model(lambda name: tiny_pipe, ["tiny"])
    for _ in range(100):
        if model.pace.of_step(1):
            break
        time.sleep(0.1)
    assert 0 < model.pace.of_step(256**2) < 60


def test_what_is_expected_is_run_beforehand():
    """The first press on the opening example waits for nothing that is done once."""
    begun = []

    def stream(image, mask, **settings):
        begun.append((np.asarray(image), np.asarray(mask), settings))
        yield

    first = opening.read(["portraits"])
    photo, hole = first["photo"], first["editor"]["hole"]
    assert first["seen"] == handlers.maps_of(photo, hole, Settings.tiles)
    _, image, mask = session.read_pair(photo, hole)
    model = Model(lambda name: SimpleNamespace(stream=stream), ["a"], ("a", image, mask))
    for _ in range(100):
        if len(begun) == 2:
            break
        time.sleep(0.1)
    assert model.ready()
    np.testing.assert_array_equal(begun[0][0], image)
    np.testing.assert_array_equal(begun[0][1], mask)
    assert begun[0][2] == {"steps": 1} and (begun[1][0] == 128).all()


@pytest.mark.parametrize("everything", [False, True])
def test_restore_refuses(engine, tmp_path, everything):
    image = photograph()
    photo = opened(saved(image, tmp_path / "a.png"))
    value = painted(photo, np.full((64, 96), everything))
    run = restore(engine, photo, value)
    (update,) = run
    assert update["restore"] == {"interactive": True} and "mask" in update["status"]


def test_restore_needs_a_photo(engine):
    run = restore(engine, None, None)
    assert "Open a photo" in next(run)["status"]


def test_stopped_run_leaves_no_files(engine, tmp_path, monkeypatch):
    image = photograph()
    photo = opened(saved(image, tmp_path / "a.png"))
    layer = painted(photo, hole_in(image))
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr(session, "_results", lambda: SimpleNamespace(name=scratch))
    # Closed at its beginning, before its end, and where its result has no place yet.
    for answers in (2, 4, 5):
        run = restore(engine, photo, layer, steps=2, strategy="uniform")
        for _ in range(answers):
            next(run)
        assert len(list(scratch.iterdir())) == 1
        run.close()
        assert not list(scratch.iterdir())
    assert "Stopped" in restoring.on_stopped()["status"]


# The address for programs


def as_16_bit(image: Image.Image) -> Image.Image:
    return Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 257)


def with_alpha(image: Image.Image) -> Image.Image:
    image = image.convert("RGBA")
    image.putalpha(128)
    return image


@pytest.mark.parametrize(
    ("convert", "name", "mode", "not_kept"),
    [
        (as_16_bit, "a.png", "I;16", []),
        (with_alpha, "a.png", "RGBA", []),
        (lambda image: image.convert("CMYK"), "a.jpg", "RGB", ["CMYK (converted to RGB)"]),
        (lambda image: image.convert("P"), "a.gif", "RGB", []),
        (lambda image: image.convert("L"), "a.tif", "L", []),
    ],
)
def test_inpaint_takes_every_kind_of_file(
    engine, tiny_pipe, tmp_path, convert, name, mode, not_kept
):
    image = photograph()
    photo = saved(convert(image), tmp_path / name)
    mask = saved(Image.fromarray(hole_in(image)), tmp_path / "mask.png")
    run = restoring.inpaint(engine, photo, mask, **api_values(steps=1, seed=3))
    assert [next(run)[1]["step"] for _ in range(2)] == [0, 1]
    path, settings = next(run)
    with Image.open(path) as result:
        assert result.size == image.size and result.mode == mode
        assert json.loads(result.text["asyncdsb"]).items() <= settings.items()
    assert settings["seed"] == 3 and settings["not_kept"] == not_kept
    # The answer is a file of settings as it is.
    (tmp_path / "settings.json").write_text(json.dumps(settings))
    names = tuple(settings.keys() - {"not_kept"})
    assert load_settings(tmp_path / "settings.json", names)["seed"] == 3
    assert settings["finish"] == tiny_pipe.config.finish
    assert not list(run) and not Path(path).exists()


@pytest.mark.parametrize(
    ("photo", "mask", "message"),
    [
        (None, "mask.png", "no photo"),
        ("a.png", None, "no mask"),
        ("a.png", "other.png", "same size"),
        ("a.png", "black.png", "empty"),
        ("a.png", "text.png", "text.png"),
        ("gone.png", "mask.png", "no such file"),
    ],
)
def test_inpaint_refuses(engine, tmp_path, photo, mask, message):
    image = photograph()
    image.save(tmp_path / "a.png")
    Image.fromarray(hole_in(image)).save(tmp_path / "mask.png")
    Image.new("L", (20, 20), 255).save(tmp_path / "other.png")
    Image.new("L", image.size).save(tmp_path / "black.png")
    (tmp_path / "text.png").write_text("nothing to see")
    files = [str(tmp_path / name) if name else None for name in (photo, mask)]
    with pytest.raises(ValueError, match=message):
        list(restoring.inpaint(engine, *files, **api_values(steps=1)))


# Wiring


def test_value_errors_become_messages():
    def handler(fail):
        if fail:
            raise ValueError("expected this, got that")
        return {"status": 1}

    def stream(fail):
        yield handler(False)
        yield handler(fail)

    assert wiring.listener(handler)(False) == {"status": 1}
    assert list(wiring.listener(stream)(False)) == [{"status": 1}] * 2
    with pytest.raises(gr.Error, match="expected this, got that"):
        wiring.listener(handler)(True)
    with pytest.raises(gr.Error, match="expected this, got that"):
        list(wiring.listener(stream)(True))


def test_the_last_line_of_a_run_that_was_ended_is_taken_back(tmp_path):
    photo = opened(saved(photograph(), tmp_path / "next.png"))
    late = payload.message("Step 3 of 60, about 18 s left", "busy")
    assert handlers.on_ended(photo, painted(photo), payload.message("Stopped.")) == payload.IDLE
    said = handlers.on_ended(photo, painted(photo), late)
    assert said["restore"] == payload.IDLE["restore"]
    assert "next.png, 96 × 64. Paint over" in said["status"]
    hole = painted(photo, hole_in(photograph()))
    assert "Press Restore" in handlers.on_ended(photo, hole, late)["status"]
    assert handlers.WELCOME in handlers.on_ended(None, "", late)["status"]


def test_pictures_travel_as_files(monkeypatch, tmp_path):
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path))
    sent = wiring.with_files({"picture": b"content", "width": 3})
    assert sent["width"] == 3 and Path(sent["picture"]["path"]).read_bytes() == b"content"
    assert sent["picture"]["meta"] == {"_type": "gradio.FileData"}
    assert wiring.with_files("text") == "text"


CONTROLS = (
    gr.Button, gr.Checkbox, gr.DownloadButton, gr.Dropdown, gr.Number, gr.Radio, gr.Slider,
    gr.UploadButton,
)  # fmt: skip


def test_page_is_built(tiny_pipe):
    demo = app.build(lambda name: tiny_pipe)
    ids = {block.elem_id for block in demo.blocks.values()}
    assert ids >= {
        "editor", "tau-min", "tau-max", "steps", "seed", "restore", "stop", "status", "gradient",
        "tau", "frame", "compare", "timing", "strip", "result",
    }  # fmt: skip
    # Help for every control, and for nothing else.
    helped = set(re.findall(r'^    "?([\w-]+)"?: "', (PAGE / "help.js").read_text("utf-8"), re.M))
    assert helped <= ids
    for block in demo.blocks.values():
        if not isinstance(block, CONTROLS) or not block.elem_id or block.visible == "hidden":
            continue
        part = block
        while part and part.elem_id not in helped:
            part = part.parent
        assert part, block.elem_id
    named = demo.get_api_info()["named_endpoints"]
    assert list(named) == ["/inpaint"]
    names = [one["parameter_name"] for one in named["/inpaint"]["parameters"]]
    assert names == [
        "photo", "mask", "tau_min", "tau_max", "steps", "sampler", "strategy", "seed", "eta",
        "grid", "tiles", "order", "finish", "weights", "solver_order", "box", "guidance",
    ]  # fmt: skip


def test_what_is_about_a_photo_ends_when_another_is_opened(tiny_pipe):
    demo = app.build(lambda name: tiny_pipe)
    ids = {block.elem_id: number for number, block in demo.blocks.items()}
    opens = [ids["examples"], ids["close-photo"]]
    opens += [n for n, b in demo.blocks.items() if isinstance(b, gr.UploadButton)][:1]

    def answers(number: int, name: str) -> bool:
        return ids[name] in [part._id for part in demo.fns[number].outputs]

    for part in opens:
        own = [number for number, fn in demo.fns.items() if part in [one for one, _ in fn.targets]]
        first, last = (number for number in own if demo.fns[number].cancels)
        (shown,) = (number for number in own if answers(number, "editor"))
        assert first < shown < last
        ended = demo.fns[first].cancels
        assert ended == demo.fns[last].cancels
        for number, fn in demo.fns.items():
            about = answers(number, "editor") or answers(number, "tau")
            if about and not {one for one, _ in fn.targets} & {*opens, demo._id}:
                assert number in ended, fn.targets


def test_command_line(monkeypatch):
    seen = {}
    monkeypatch.setattr(app, "build", lambda load, names: seen.update(load=load, names=names))
    monkeypatch.setattr(app, "launch", lambda demo, **options: seen.update(options))
    app.main(["--host", "0.0.0.0", "--port", "1234", "--weights", "/nowhere", "--device", "cpu"])
    assert seen["server_name"] == "0.0.0.0" and seen["server_port"] == 1234 and not seen["share"]
    with pytest.raises(ValueError, match="weights not found"):
        seen["load"](seen["names"][0])
    seen.clear()
    monkeypatch.setenv("ASYNCDSB_WEIGHTS", "/elsewhere")
    app.main([])
    with pytest.raises(ValueError, match="elsewhere"):
        seen["load"](seen["names"][0])
