"""The page without a browser: geometry of the canvas, payloads, handlers, wiring."""

from __future__ import annotations

import base64
import dataclasses
import io
import json
import re
import threading
import time
import zipfile
from pathlib import Path
from types import SimpleNamespace

import gradio as gr
import numpy as np
import pytest
from conftest import synthetic_photo
from PIL import Image, ImageCms

import app
from asyncdsb.cli import main as cli
from asyncdsb.masks import make_mask
from asyncdsb.page import canvas, handlers, layout, payload, session, updates, wiring
from asyncdsb.page.engine import Engine, Model, Moment, Pace, predict_maps, run_steps
from asyncdsb.photo.record import load_map
from asyncdsb.photo.settings import FROM_WEIGHTS, Settings
from asyncdsb.schedule import STRATEGIES

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
    return dict(zip(session.SETTINGS, values(**change), strict=True)) | dict.fromkeys(
        FROM_WEIGHTS
    )


def photograph(width: int = 96, height: int = 64, seed: int = 0) -> Image.Image:
    return synthetic_photo(width, height, seed)


def hole_in(image: Image.Image) -> np.ndarray:
    return make_mask("center", (image.height, image.width))


def saved(image: Image.Image, path: Path, **options) -> str:
    image.save(path, **options)
    return str(path)


def painted(image: Image.Image, mask: np.ndarray | None = None) -> Image.Image:
    """The layer of the canvas with this mask painted on it."""
    return canvas.layer_of(image.size, mask)


def opened(path: str) -> tuple[session.Photo, Image.Image]:
    return session.open_photo(path)


def from_base64(text: str, kind: str) -> np.ndarray:
    return np.frombuffer(base64.b64decode(text), kind)


def from_uri(uri: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(uri.split(",")[1])))


# The canvas


@pytest.mark.parametrize("size", [(640, 480), (300, 900), (512, 512), (40, 30), (3000, 1)])
def test_photo_is_centred_in_the_canvas(size):
    left, top, width, height = canvas.fit_box(size)
    assert max(width, height) == canvas.CANVAS
    assert abs(canvas.CANVAS - width - 2 * left) <= 1
    assert abs(canvas.CANVAS - height - 2 * top) <= 1
    assert abs(width * size[1] - height * size[0]) <= max(size)


@pytest.mark.parametrize("size", [(512, 512), (1600, 1067), (400, 900), (120, 80)])
def test_mask_survives_the_canvas(size):
    image = photograph(*size)
    mask = make_mask("wide", (size[1], size[0]), seed=3)
    again = canvas.layer_mask(painted(image, mask), size)
    assert again.shape == mask.shape
    assert (again & mask).sum() / (again | mask).sum() > 0.96


def test_thin_scratch_survives_the_canvas():
    mask = np.zeros((1500, 2000), bool)
    mask[700:702, 100:1900] = True
    again = canvas.layer_mask(painted(photograph(2000, 1500), mask), (2000, 1500))
    assert again.any(axis=0)[110:1890].all()
    assert again.sum(axis=0).max() <= 8


def test_paint_beside_the_photo_is_ignored():
    layer = painted(photograph(400, 200))
    layer.paste((255, 0, 0, 255), (0, 0, 512, 100))
    assert not canvas.layer_mask(layer, (400, 200)).any()


def test_paint_of_any_colour_and_strength_counts():
    layer = painted(photograph(512, 512))
    layer.paste((0, 0, 0, 255), (10, 10, 20, 20))
    layer.paste((9, 9, 9, 1), (30, 30, 40, 40))
    mask = canvas.layer_mask(layer, (512, 512))
    assert mask.sum() == 200 and mask[15, 15] and mask[35, 35]


def test_unpainted_canvas():
    assert canvas.layer_mask(None, (20, 10)).shape == (10, 20)
    assert not canvas.layer_mask(painted(photograph()), (96, 64)).any()


# What is sent to the browser


@pytest.mark.parametrize("tau_range", [(0.2, 0.5), (0.001, 0.4), (0.5, 0.5), (0, 1)])
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_heatmap_follows_the_package(tiny_pipe, tau_range, strategy):
    """What the browser computes from the sent order is the pipeline's own tau map."""
    image = photograph()
    mask = hole_in(image)
    maps = predict_maps(tiny_pipe, image, mask, 8)
    sent = payload.order_payload(maps.orders, mask, maps.schedule)
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
    sent = payload.order_payload(maps.orders, mask, maps.schedule)
    assert (sent["width"], sent["height"]) == (256, 171)
    hole = from_base64(sent["hole"], np.uint8).reshape(171, 256)
    assert hole[85, 128] == 255 and hole[0, 0] == 0
    assert sent["orders"]["uniform"] == 0.5
    assert len(json.dumps(sent)) < 400_000
    picture = from_uri(payload.gradient_payload(maps.gradient)["picture"])
    assert picture.size == (512, 341)


@pytest.mark.parametrize("count, kept", [(3, 3), (41, 41), (251, 41)])
def test_film_payload_keeps_the_ends(count, kept):
    frames = [
        {"t": 1 - i / (count - 1), "x_t": f"x{i}", "x0_hat": f"h{i}", "width": 8, "height": 6}
        for i in range(count)
    ]
    film = payload.film_payload(frames)
    assert (film["width"], film["height"], len(film["frames"])) == (8, 6, kept)
    times = [frame["t"] for frame in film["frames"]]
    assert times[0] == 1 and times[-1] == 0 and times == sorted(times, reverse=True)
    assert film["frames"][-1]["x_t"] == f"x{count - 1}"


def test_frame_payload():
    x_t, x0_hat = Image.new("RGB", (80, 60), "#204060"), Image.new("RGB", (80, 60), "#c0a080")
    sent = payload.frame_payload(3, 10, Moment(0.7, x_t, x0_hat))
    assert (sent["step"], sent["steps"], sent["t"]) == (3, 10, 0.7)
    assert (sent["width"], sent["height"]) == (80, 60)
    for name, expected in (("x_t", x_t), ("x0_hat", x0_hat)):
        shown = np.asarray(from_uri(sent[name]).convert("RGB"), int)
        assert np.abs(shown - np.asarray(expected, int)).max() <= 4


def test_messages_are_escaped():
    assert "<script" not in payload.message("<script>alert(1)</script>.png")


def test_page_files_name_no_other_host():
    for path in PAGE.iterdir():
        if path.suffix in {".css", ".js", ".html"}:
            assert not re.search(r"https?:|//[a-z]|@import|url\(", path.read_text()), path.name
    assert "@TAU_COLOURS@" not in payload.head()


# Checks


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tau_min": 0.6}, "tau_min <= tau_max"),
        ({"tau_max": 1.2}, r"\[0, 1\]"),
        ({"tau_min": None}, "tau_min"),
        ({"tau_min": float("nan")}, "tau_min"),
        ({"steps": 0}, "steps >= 1"),
        ({"steps": session.MAX_STEPS + 1}, "at most"),
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
    ],
)
def test_settings_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        session.read_settings(values(**change))


def test_defaults_are_the_packages():
    # The box around a head is found, not given, on the page.
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
    *_, last = handlers.on_load(model, {})
    assert "No model" in last["model"] and "weights not found" in last["status"]


def test_loaded_model_offers_its_samplers(tiny_pipe):
    model = Model(lambda name: tiny_pipe, ["tiny"])
    first, last = handlers.on_load(model, {})
    assert "Loading" in first["model"] and "ready" in last["model"]
    assert last["sampler"]["choices"] == list(tiny_pipe.samplers)
    assert last["finish"] == tiny_pipe.config.finish
    *_, last = handlers.on_load(model, {"finish": "patches"})
    assert "finish" not in last, "the address says it"
    with pytest.raises(ValueError, match="expected weights out of tiny, got 'large'"):
        model.get("large")


def test_a_visitor_chooses_the_weights(tiny_pipe, tmp_path):
    asked = []

    def load(name):
        asked.append(name)
        return tiny_pipe

    model = Model(load, ["scenes", "portraits"])
    photo, _ = opened(saved(photograph(), tmp_path / "a.png"))
    update = handlers.on_weights(model, photo, "portraits")
    assert update["photo"] == dataclasses.replace(photo, weights="portraits")
    assert update["finish"] == tiny_pipe.config.finish
    assert update["sampler"]["choices"] == list(tiny_pipe.samplers)
    assert handlers.on_weights(model, None, "scenes")["photo"] is None
    model.get()
    assert asked[0] == "scenes", "the first are those that most visitors need"


# Handlers


def test_photo_is_shown_upright(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    path = saved(photograph(90, 60), tmp_path / "turned.jpg", exif=exif)
    update = handlers.on_photo(path)
    assert update["photo"].size == (60, 90)
    shown = handlers.on_canvas(update["photo"], update["layer"])
    assert shown["editor"]["background"].size == (canvas.CANVAS, canvas.CANVAS)
    assert "60 × 90" in shown["status"]
    assert not canvas.layer_mask(shown["editor"]["layers"][0], (60, 90)).any()


@pytest.mark.parametrize("content", [b"", b"not a picture", b"\x89PNG\r\n\x1a\n broken"])
def test_bad_photo_is_refused(tmp_path, content):
    path = tmp_path / "bad.png"
    path.write_bytes(content)
    with pytest.raises(ValueError, match="bad.png"):
        handlers.on_photo(str(path))


def test_examples_are_ready_to_use(engine):
    examples = handlers.find_examples(app.EXAMPLES)
    assert len(examples) >= 4
    with_mask = [example for example in examples if example.mask_path.exists()]
    assert len(with_mask) >= 2 and examples[: len(with_mask)] == with_mask
    for example in examples:
        _, image, mask = example.read()
        assert max(image.size) <= 768 and example.path.stat().st_size < 200 * 1024
        assert mask is None or (mask.shape == (image.height, image.width) and 0 < mask.mean() < 0.5)
    shown = handlers.on_example(engine, examples, 0)
    assert shown["photo"].path == str(examples[0].path)
    maps = handlers.on_preview(engine, shown["photo"], shown["layer"], None)
    assert maps["tau"]["orders"]
    bare = handlers.on_example(engine, examples, len(examples) - 1)
    assert handlers.on_preview(engine, bare["photo"], bare["layer"], None) == updates.NO_MAPS


@pytest.mark.parametrize("index", [-1, 99, None, "0"])
def test_unknown_example_is_refused(engine, index):
    with pytest.raises(ValueError, match="expected an example"):
        handlers.on_example(engine, handlers.find_examples(app.EXAMPLES), index)


def test_preset_masks(engine, tmp_path):
    photo, _ = opened(saved(photograph(200, 160), tmp_path / "a.png"))
    masks = []
    for kind, drawn in (("narrow", 0), ("narrow", 1), ("narrow", 1), ("center", 5)):
        shown = handlers.on_preset(engine, kind, photo, drawn)
        maps = handlers.on_preview(engine, photo, shown["layer"], None)
        assert shown["drawn"] == drawn + 1 and maps["gradient"]
        masks.append(canvas.layer_mask(shown["layer"], photo.size))
    assert (masks[0] != masks[1]).any() and (masks[1] == masks[2]).all()
    assert masks[3].mean() == pytest.approx(0.25, abs=0.02)


def test_mask_from_a_file(engine, tmp_path):
    image = photograph()
    photo, _ = opened(saved(image, tmp_path / "a.png"))
    mask = saved(Image.fromarray(hole_in(image)), tmp_path / "mask.png")
    shown = handlers.on_mask_file(engine, mask, photo)
    again = canvas.layer_mask(shown["layer"], photo.size)
    assert (again != hole_in(image)).mean() < 0.02
    with pytest.raises(ValueError, match="same size"):
        handlers.on_mask_file(engine, saved(Image.new("L", (50, 50)), tmp_path / "b.png"), photo)
    with pytest.raises(ValueError, match="Open a photo first"):
        handlers.on_mask_file(engine, mask, None)


def test_preview_follows_the_mask(engine, tmp_path):
    image = photograph()
    photo, _ = opened(saved(image, tmp_path / "a.png"))
    value = painted(image, hole_in(image))
    update = handlers.on_preview(engine, photo, value, None)
    assert update["gradient"] and update["tau"]
    assert handlers.on_preview(engine, photo, value, update["seen"]) == {}
    blank = painted(image)
    assert handlers.on_preview(engine, photo, blank, update["seen"]) == updates.NO_MAPS
    assert handlers.on_clear()["photo"] is None


def restore(
    engine, photo, layer, *, order="", beside=False, seeds=1, steps=3, strategy="gradient", seed=0
):
    """Press Restore with these settings."""
    given = values(steps=steps, strategy=strategy, seed=seed)
    return handlers.on_restore(engine, photo, layer, order, beside, seeds, *given)


@pytest.mark.parametrize("size", [(96, 64), (900, 700)])
def test_restore(engine, tmp_path, size, monkeypatch):
    """One update per step, then the result at the photo's own size, identical outside the hole."""
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(scratch))
    image = photograph(*size)
    photo, _ = opened(saved(image, tmp_path / "holiday.png"))
    layer = painted(image, hole_in(image))
    run = restore(engine, photo, layer, steps=3, seed=7)
    updates = [next(run) for _ in range(7)]
    start, *frames, done, after = updates
    assert start["stop"] == {"interactive": True} and start["result"]["value"] is None
    assert [update["frame"]["step"] for update in frames] == [0, 1, 2, 3]
    times = [update["frame"]["t"] for update in frames]
    assert times[0] == 1 and times[-1] == 0 and times == sorted(set(times), reverse=True)
    assert "tau" in frames[0] and not any("tau" in update for update in frames[1:])
    assert done["restore"] == {"interactive": True} and "seed 7" in done["status"]

    path = Path(done["result"]["value"])
    assert path.name == "holiday-restored.png"
    with Image.open(path) as result:
        assert result.size == size and result.mode == "RGB"
        assert json.loads(result.text["asyncdsb"])["seed"] == 7
        kept = ~canvas.layer_mask(layer, size)
        np.testing.assert_array_equal(np.asarray(result)[kept], np.asarray(image)[kept])
        assert (np.asarray(result)[~kept] != np.asarray(image)[~kept]).any()
    with Image.open(done["animation"]["value"]) as animation:
        assert animation.format == "WEBP" and animation.n_frames == 4
    with Image.open(after["timing"]) as timing:
        assert timing.width > 500
    assert done["compare"][0].size == done["compare"][1].size == size

    assert not list(run)
    assert not list(scratch.iterdir()), "files are left behind"


def test_i2sb_is_run_beside_with_the_same_seed(engine, tmp_path):
    image = photograph()
    photo, _ = opened(saved(image, tmp_path / "a.png"))
    layer = painted(image, hole_in(image))
    updates = list(restore(engine, photo, layer, beside=True, steps=4, seed=5))
    result = next(update for update in updates if "The result is ready" in update.get("status", ""))
    assert result["result"]["value"] and result["stop"] == {"interactive": True}, (
        "the second run can be stopped"
    )
    *_, last = updates
    assert last["stop"] == {"interactive": False} and "both schedules" in last["status"]
    film = updates[-2]["film"]
    ours, other = film["frames"], film["other"]
    # Each has the times at which its own mean noise has the levels of the grid.
    assert [f["t"] for f in ours] == pytest.approx([f["t"] for f in other], abs=0.1)
    # One start, for the noise is the same, and two ends.
    assert ours[0]["x_t"] == other[0]["x_t"] and ours[-1]["x_t"] != other[-1]["x_t"]
    alone = list(restore(engine, photo, layer, steps=4, seed=5))
    assert next(u for u in alone if u.get("film"))["film"]["frames"] == ours


def test_further_seeds_are_shown_beside_one_another(engine, tmp_path):
    image = photograph()
    photo, _ = opened(saved(image, tmp_path / "a.png"))
    layer = painted(image, hole_in(image))
    shown = []
    for update in restore(engine, photo, layer, seeds=3, steps=1, seed=session.MAX_SEED - 1):
        if update.get("seeds_view"):
            shown.append([np.asarray(Image.open(path)) for path, _ in update["seeds_view"]])
            names = [name for _, name in update["seeds_view"]]
    assert [len(pictures) for pictures in shown] == [1, 2, 3]
    assert names == [f"seed {session.MAX_SEED - 1}", f"seed {session.MAX_SEED}", "seed 0"]
    first, second, third = shown[-1]
    assert (first != second).any() and (second != third).any()
    assert update["restore"] == {"interactive": True} and "and the 2 after it" in update["status"]
    with pytest.raises(ValueError, match="1 to 6 for seeds"):
        list(restore(engine, photo, layer, seeds=7))


def order_text(order: np.ndarray) -> str:
    """A painted order as the browser sends it."""
    data = base64.b64encode(order.astype(np.uint8).tobytes()).decode()
    return json.dumps({"width": order.shape[1], "height": order.shape[0], "data": data})


def test_painted_order(engine, tmp_path):
    """What is painted white has its clock at tau_max, whatever the gradient says."""
    image = photograph(200, 120)
    photo, _ = opened(saved(image, tmp_path / "a.png"))
    order = np.zeros((30, 50))
    order[:, 25:] = 255
    tau = session.read_settings(
        values(strategy="painted", tau_min=0.1, tau_max=0.9),
        session.read_order(order_text(order), image.size),
    ).strategy
    assert tau.shape == (120, 200) and tau.dtype == np.float32
    np.testing.assert_allclose(tau[:, :90], 0.1, atol=1e-5)
    np.testing.assert_allclose(tau[:, 110:], 0.9, atol=1e-5)
    layer = painted(image, hole_in(image))
    results = []
    for shown in (order, 255 - order):
        run = restore(engine, photo, layer, strategy="painted", order=order_text(shown), steps=3)
        done = next(update for update in run if update.get("run"))
        results.append(np.asarray(done["compare"][1]))
        assert done["run"].record["strategy"] == "painted"
    assert (results[0] != results[1]).any()
    with pytest.raises(ValueError, match="Paint the order"):
        list(restore(engine, photo, layer, strategy="painted"))


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
    photo, _ = opened(saved(image, tmp_path / "a.png", icc_profile=profile))
    layer = painted(image, make_mask("wide", (200, 300), seed=1))
    order = order_text(np.linspace(0, 255, 40 * 60).reshape(40, 60))
    run = restore(engine, photo, layer, strategy=strategy, order=order, steps=2, seed=11)
    archive = None
    for update in run:
        if update.get("run"):
            files = (update[name]["value"] for name in ("result", "animation"))
            packing = handlers.on_files(engine, update["run"], *files)
            content = Path(next(packing)["archive"]).read_bytes()
            archive = zipfile.ZipFile(io.BytesIO(content))
    names = set(archive.namelist())
    assert names >= {"restored.png", "mask.png", "settings.json", "gradient.npy", "tau.npy"}
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
        list(handlers.on_files(engine, None, None, None))
    with pytest.raises(ValueError, match="Restore something first"):
        handlers.on_reuse(None)


def test_the_result_can_be_edited_again(tmp_path):
    path = saved(photograph(), tmp_path / "a-restored.png")
    update = handlers.on_reuse(path)
    assert update["photo"].path == path and update["link"]["mask"] is None


def test_masks_are_edited(engine, tmp_path):
    image = photograph(200, 160)
    photo, _ = opened(saved(image, tmp_path / "a.png"))
    layer = painted(image, hole_in(image))
    before = canvas.layer_mask(layer, photo.size)
    found = {}
    for edit in canvas.EDITS:
        shown = handlers.on_edit(engine, edit, photo, layer)
        found[edit] = canvas.layer_mask(shown["layer"], photo.size)
    assert (found["invert"] == ~before).all()
    assert (found["grow"] >= before).all() and found["grow"].sum() > before.sum()
    assert (found["shrink"] <= before).all() and found["shrink"].sum() < before.sum()
    # There and back is the same for a shape without thin parts.
    grown = painted(image, found["grow"])
    again = handlers.on_edit(engine, "shrink", photo, grown)
    assert (canvas.layer_mask(again["layer"], photo.size) != before).mean() < 0.02
    blank = painted(image)
    with pytest.raises(ValueError, match="Paint a hole first"):
        handlers.on_edit(engine, "grow", photo, blank)
    with pytest.raises(ValueError, match="Open a photo"):
        handlers.on_edit(engine, "grow", None, None)
    dot = np.zeros((160, 200), bool)
    dot[80, 100] = True
    with pytest.raises(ValueError, match="Nothing of the hole"):
        handlers.on_edit(engine, "shrink", photo, painted(image, dot))


def test_a_link_opens_what_it_was_copied_from():
    examples = handlers.find_examples(app.EXAMPLES)
    name = examples[-1].path.stem
    query = {"example": name, "mask": "narrow-3", "tau_max": "0.9", "steps": "7", "sampler": "ode"}
    update = handlers.on_link(examples, query)
    assert (update["tau_max"], update["steps"], update["sampler"]) == (0.9, 7, "ode")
    assert update["photo"].example == name
    assert (update["link"]["example"], update["link"]["mask"]) == (name, "narrow-3")
    width, height = update["photo"].size
    mask = canvas.layer_mask(update["layer"], (width, height))
    assert (mask == make_mask("narrow", (height, width), seed=3)).mean() > 0.97


@pytest.mark.parametrize(
    "query",
    [
        {"steps": "nan"}, {"steps": "1e99"}, {"tau_min": "2"}, {"sampler": "<script>"},
        {"strategy": "painted"}, {"seed": "-1"}, {"example": "../../etc/passwd"},
        {"mask": "center-1"}, {"grid": ""}, {"other": "1"}, {"seed": "٣x"},
    ],
)  # fmt: skip
def test_what_a_link_may_not_say_is_left_out(query):
    assert handlers.on_link(handlers.find_examples(app.EXAMPLES), query) == {}


def test_a_link_keeps_the_range_in_order():
    examples = handlers.find_examples(app.EXAMPLES)
    for query in ({"tau_min": "0.8", "tau_max": "0.3"}, {"tau_min": "0.4", "tau_max": "0.1"}):
        assert handlers.on_link(examples, query) == {}
    # The other end has its default.
    assert handlers.on_link(examples, {"tau_min": "0.8"}) == {}
    assert handlers.on_link(examples, {"tau_max": "0.1", "steps": "7"}) == {"steps": 7}
    assert handlers.on_link(examples, {"tau_max": "0.3"}) == {"tau_max": 0.3}


def test_a_link_has_no_seed_that_the_page_would_refuse():
    query = {"seed": str(session.MAX_SEED)}
    assert handlers.on_link([], query) == {"seed": session.MAX_SEED}
    assert handlers.on_link([], {"seed": str(session.MAX_SEED + 1)}) == {}


def test_files_are_handed_over_without_leaving_others_behind(tmp_path):
    with gr.Blocks():
        part = layout.by_path(gr.File())
        part.GRADIO_CACHE = str(tmp_path)
        assert part.preprocess(gr.FileData(path="photo.jpg")) == "photo.jpg"
        assert part.preprocess(None) is None
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("hosted", [False, True])
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

    if hosted:
        # What is given to the GPU runs in another process, of which this one waits.
        monkeypatch.setattr(wiring, "spaces", SimpleNamespace(GPU=counted))
        monkeypatch.setattr(wiring, "predict_maps", lambda *args: None)
    else:
        monkeypatch.setattr(wiring, "predict_maps", counted(lambda *args: None))
    monkeypatch.setattr(wiring, "wire", lambda *given: engines.append(given[3]))
    app.build(lambda name: tiny_pipe)
    threads = [threading.Thread(target=engines[0].predict, args=("scenes",)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1, 1, 1, 1]


@pytest.mark.parametrize("error", [ValueError("too small"), MemoryError()])
def test_a_run_that_fails_says_so(engine, tmp_path, error):
    image = photograph()
    photo, _ = opened(saved(image, tmp_path / "a.png"))

    def steps_of(*args):
        raise error
        yield

    broken = dataclasses.replace(engine, steps_of=steps_of)
    layer = painted(image, hole_in(image))
    run = handlers.on_restore(broken, photo, layer, None, False, 1, *values(steps=1))
    last = None
    with pytest.raises(type(error)):
        for update in run:
            last = update
    assert str(error) in last["status"] and "error" in last["status"]
    assert last["restore"]["interactive"] and not last["stop"]["interactive"]


def test_programs_give_an_order_together_with_its_strategy(engine, tmp_path):
    image = photograph()
    photo = saved(image, tmp_path / "a.png")
    mask = saved(Image.fromarray(hole_in(image)), tmp_path / "m.png")
    order = saved(Image.new("L", image.size, 128), tmp_path / "o.png")
    given = api_values(steps=1)
    with pytest.raises(ValueError, match="expected the strategy 'painted' for the order"):
        list(handlers.inpaint(engine, photo, mask, **given, order=order))
    with pytest.raises(ValueError, match="expected an order, got the strategy 'painted'"):
        list(handlers.inpaint(engine, photo, mask, **given | {"strategy": "painted"}))


def test_maps_come_with_a_prepared_hole_once_the_model_is_there(engine, tmp_path):
    photo, _ = opened(saved(photograph(200, 160), tmp_path / "a.png"))
    shown = handlers.on_preset(engine, "wide", photo, 0)
    assert shown["gradient"] and shown["tau"] and shown["seen"]
    # The event that follows finds nothing new.
    assert handlers.on_preview(engine, photo, shown["layer"], shown["seen"]) == {}
    waiting = dataclasses.replace(engine, ready=lambda: False)
    shown = handlers.on_preset(waiting, "wide", photo, 0)
    assert shown["gradient"] is None and shown["layer"] is not None


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


@pytest.mark.parametrize("everything", [False, True])
def test_restore_refuses(engine, tmp_path, everything):
    image = photograph()
    photo, _ = opened(saved(image, tmp_path / "a.png"))
    value = painted(image, np.full((64, 96), everything))
    run = restore(engine, photo, value)
    update = next(run)
    assert update["restore"] == {"interactive": True} and "mask" in update["status"]
    with pytest.raises(ValueError, match="mask"):
        next(run)


def test_restore_needs_a_photo(engine):
    run = restore(engine, None, None)
    assert "Open a photo" in next(run)["status"]


def test_stopped_run_leaves_no_files(engine, tmp_path, monkeypatch):
    image = photograph()
    photo, _ = opened(saved(image, tmp_path / "a.png"))
    layer = painted(image, hole_in(image))
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(scratch))
    # Closed in the middle, then with the result on its way.
    for answers, files in ((3, 1), (5, 1)):
        run = restore(engine, photo, layer, steps=2, strategy="uniform")
        for _ in range(answers):
            next(run)
        assert len(list(scratch.iterdir())) == files
        run.close()
        assert not list(scratch.iterdir())
    assert "Stopped" in handlers.on_stopped()["status"]


# The address for programs


def as_16_bit(image: Image.Image) -> Image.Image:
    return Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 257)


def with_alpha(image: Image.Image) -> Image.Image:
    image = image.convert("RGBA")
    image.putalpha(128)
    return image


@pytest.mark.parametrize(
    ("convert", "name", "mode"),
    [
        (as_16_bit, "a.png", "I;16"),
        (with_alpha, "a.png", "RGBA"),
        (lambda image: image.convert("CMYK"), "a.jpg", "RGB"),
        (lambda image: image.convert("P"), "a.gif", "RGB"),
        (lambda image: image.convert("L"), "a.tif", "L"),
    ],
)
def test_inpaint_takes_every_kind_of_file(engine, tiny_pipe, tmp_path, convert, name, mode):
    image = photograph()
    photo = saved(convert(image), tmp_path / name)
    mask = saved(Image.fromarray(hole_in(image)), tmp_path / "mask.png")
    run = handlers.inpaint(engine, photo, mask, **api_values(steps=1, seed=3))
    path, settings = next(run)
    with Image.open(path) as result:
        assert result.size == image.size and result.mode == mode
    assert settings["seed"] == 3 and json.dumps(settings)
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
        list(handlers.inpaint(engine, *files, **api_values(steps=1)))


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


def test_answers_name_components():
    parts = {"status": object(), "restore": object()}
    update = {"status": "text", "restore": updates.Props(interactive=False)}
    answer = wiring.named(update, parts)
    assert answer[parts["status"]] == "text"
    assert answer[parts["restore"]]["interactive"] is False


def test_page_is_built(tiny_pipe):
    demo = app.build(lambda name: tiny_pipe)
    ids = {block.elem_id for block in demo.blocks.values()}
    assert ids >= {
        "editor", "tau-min", "tau-max", "steps", "seed", "restore", "stop", "status", "gradient",
        "tau", "frame", "compare", "film", "result",
    }  # fmt: skip
    named = demo.get_api_info()["named_endpoints"]
    assert list(named) == ["/inpaint"]
    names = [one["parameter_name"] for one in named["/inpaint"]["parameters"]]
    assert names == [
        "photo", "mask", "tau_min", "tau_max", "steps", "sampler", "strategy", "seed", "eta",
        "grid", "tiles", "order", "finish", "weights",
    ]  # fmt: skip


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
