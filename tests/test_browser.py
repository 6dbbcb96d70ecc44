"""The page in a real browser, served as a visitor gets it: ``python app.py``.

The tests share one open page, as a visit does, and each begins by opening a photograph.
"""

from __future__ import annotations

import base64
import io
import json
import math
import os
import re
import socket
import threading
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pytest
from conftest import save_mask, synthetic_photo
from PIL import Image
from PIL.PngImagePlugin import PngImageFile

from asyncdsb.page import canvas
from asyncdsb.schedule import NoiseSchedule
from asyncdsb.show import viz
from asyncdsb.show.film import h264_encoder
from benchmarks.page_server import FLAGS, chromium, served

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parent.parent
PATIENCE = 60_000  # milliseconds: the machine may be busy
SIZE = (320, 240)
INSTALL = (
    "The browser tests need Chromium and playwright: "
    "apt-get install -y --no-install-recommends chromium fonts-dejavu-core "
    "fonts-noto-color-emoji && pip install playwright"
)


@pytest.fixture(scope="module")
def outside() -> Iterator[SimpleNamespace]:
    """A proxy that the server would use to reach any other machine; it counts the attempts."""
    listener = socket.create_server(("127.0.0.1", 0))
    seen = SimpleNamespace(address=f"http://127.0.0.1:{listener.getsockname()[1]}", calls=[])

    def listen() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with connection:
                connection.settimeout(5)
                seen.calls.append(connection.recv(200))

    threading.Thread(target=listen, daemon=True).start()
    yield seen
    listener.close()


@pytest.fixture(scope="module")
def server(outside: SimpleNamespace) -> Iterator[str]:
    """Start ``python app.py`` with the bundled weights and give its address."""
    hidden = ("gradio_", "http_", "https_", "all_proxy", "no_proxy")
    environment = {
        name: value for name, value in os.environ.items() if not name.lower().startswith(hidden)
    }
    environment |= {
        "HTTP_PROXY": outside.address,
        "HTTPS_PROXY": outside.address,
        "NO_PROXY": "127.0.0.1,localhost",
        "OMP_NUM_THREADS": "1",
    }
    with served(environment) as server:
        yield server.address


@pytest.fixture(scope="module")
def page(server: str) -> Iterator:
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        pytest.fail(INSTALL, pytrace=False)
    path = chromium() or pytest.fail(INSTALL, pytrace=False)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=FLAGS)
        page: Any = browser.new_page(viewport={"width": 1440, "height": 900}, accept_downloads=True)
        page.set_default_timeout(PATIENCE)
        page.requests = []
        page.errors = []
        page.on("request", lambda request: page.requests.append(request.url))
        page.on("pageerror", lambda error: page.errors.append(str(error)))
        page.goto(server)
        page.wait_for_selector("#model .done")
        yield page
        browser.close()


@pytest.fixture
def photo(tmp_path: Path, request) -> Path:
    """A photograph whose name tells it from those of the other tests."""
    path = tmp_path / f"{request.node.name.removeprefix('test_')}.png"
    synthetic_photo(*SIZE).save(path)
    return path


def open_photo(page, path: Path) -> None:
    """Choose a photograph in the canvas, and wait until it is shown."""
    page.set_input_files("#editor input[type=file]", str(path))
    wait_for_status(page, path.name)


def on_screen(page, x: float, y: float, size: tuple[int, int] = SIZE) -> tuple[float, float]:
    """Where a point of the photograph is on the screen."""
    box = page.locator("#editor canvas").bounding_box()
    return box["x"] + x * box["width"] / size[0], box["y"] + y * box["height"] / size[1]


def paint(page, *points: tuple[float, float]) -> None:
    """Draw a stroke with the mouse; points are in pixels of the photograph."""
    page.locator("#editor canvas").scroll_into_view_if_needed()
    first, *others = (on_screen(page, *point) for point in points)
    page.mouse.move(*first)
    page.mouse.down()
    for point in others:
        page.mouse.move(*point, steps=6)
    page.mouse.up()


def painted(page, size: tuple[int, int] = SIZE) -> np.ndarray:
    """The hole that a press on Restore would take, bool (H, W)."""
    text = page.evaluate("asyncdsb.canvas.hole()")
    return canvas.resize_mask(canvas.read_hole_text(text)[1], size)


def bounds(hole: np.ndarray) -> np.ndarray:
    """First column and row, last column and row of a hole."""
    rows, columns = np.flatnonzero(hole.any(1)), np.flatnonzero(hole.any(0))
    return np.array((columns[0], rows[0], columns[-1], rows[-1]))


def tool(page, name: str):
    """A button of the canvas."""
    return page.locator("#editor").get_by_role("button", name=name, exact=True)


def wait_for_hole(page, share: float) -> np.ndarray:
    """Wait until the hole covers this share of the photograph."""
    for _ in range(300):
        hole = painted(page)
        if hole.mean() == pytest.approx(share, abs=0.02):
            return hole
        page.wait_for_timeout(100)
    raise AssertionError(f"the hole covers {hole.mean():.3f} of the photograph, not {share}")


def take_hole(page, name: str) -> None:
    """Press for a prepared hole, and wait for its maps."""
    page.get_by_role("button", name=name).click()
    wait_for_status(page, "Press Restore")
    page.wait_for_selector("#tau .filled canvas")


def set_slider(page, name: str, value: float) -> None:
    field = page.locator(f"#{name} input[type=number]")
    field.fill(str(value))
    field.press("Enter")


def wait_for_status(page, text: str) -> None:
    try:
        page.wait_for_function(
            "text => document.querySelector('#status').innerText.includes(text)", arg=text
        )
    except Exception as error:
        said = [page.inner_text(part) for part in ("#status", "#estimate")]
        raise AssertionError(f"expected the status to say {text!r}, got {said}") from error


def step_shown(page) -> int:
    return int(page.get_attribute("#frame [data-step]", "data-step") or -1)


def refused(page, why: str) -> None:
    """Restore cannot be pressed, and why is said beside it."""
    assert page.get_attribute("#restore", "aria-disabled") == "true"
    assert why in page.inner_text("#estimate")
    assert page.get_attribute("#restore", "aria-describedby") == "estimate"
    said = page.inner_text("#status .message")
    page.click("#restore", force=True)
    page.wait_for_timeout(300)
    assert page.inner_text("#status .message") == said


# A text is much faster than a list of numbers on its way out of the page.
TEXT_OF = """(data) => {
    let text = '';
    for (const value of data) text += String.fromCharCode(value);
    return btoa(text);
}"""
PIXELS_OF = f"""(selector) => {{
    const canvas = document.querySelector(selector);
    const {{width, height}} = canvas;
    const image = canvas.getContext('2d').getImageData(0, 0, width, height);
    return [height, width, ({TEXT_OF})(image.data)];
}}"""


def pixels_of(page, selector: str) -> np.ndarray:
    """What a canvas shows, uint8 (H, W, 4)."""
    height, width, text = page.evaluate(PIXELS_OF, selector)
    return np.frombuffer(base64.b64decode(text), np.uint8).reshape(height, width, 4)


def tau_pixels(page) -> np.ndarray:
    """The heatmap as drawn, uint8 (H, W, 4)."""
    return pixels_of(page, "#tau canvas")


def colour_index(page) -> np.ndarray:
    """Which entries of the colour table the heatmap has in the hole."""
    table = {tuple(colour): index for index, colour in enumerate(viz.colour_table("viridis"))}
    inside = tau_pixels(page)[hole_shown(page)][:, :3]
    return np.array([table[tuple(colour)] for colour in inside])


def stage_pixels(page, panel: str) -> np.ndarray:
    """What a panel of the stage shows, uint8 (H, W, 4)."""
    return pixels_of(page, f"#frame .{panel} canvas")


def png_text(data: bytes) -> dict[str, str]:
    """What a PNG says about itself."""
    picture = Image.open(io.BytesIO(data))
    assert isinstance(picture, PngImageFile)
    return picture.text


def test_keys_undo_and_redo_strokes(page, photo):
    """And leave text fields their own."""
    open_photo(page, photo)
    paint(page, (120, 100), (200, 130))
    hole = painted(page)
    page.locator("#seed input[type=number]").press("Control+z")
    assert (painted(page) == hole).all()
    page.evaluate("() => document.activeElement.blur()")
    page.keyboard.press("Control+z")
    assert not painted(page).any() and tool(page, "Undo").is_disabled()
    refused(page, "Paint a hole first")
    for redo in ("Control+Shift+z", "Control+y"):
        page.keyboard.press(redo)
        assert (painted(page) == hole).all()
        page.keyboard.press("Control+z")


def test_a_stroke_made_at_once_is_kept(page, photo):
    """Right after the photograph came, at one blow; and so is what a press takes."""
    before = page.evaluate("asyncdsb.canvas.hole()")
    page.set_input_files("#editor input[type=file]", str(photo))
    page.wait_for_function("(before) => asyncdsb.canvas.hole() !== before", arg=before)
    x, y = on_screen(page, 60, 60)
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(*on_screen(page, 250, 180))
    page.mouse.up()
    hole = painted(page)
    # Its ends and its middle, though the mouse was nowhere in between.
    assert hole[60, 60] and hole[180, 250] and hole[120, 155] and not hole[60, 250]
    set_slider(page, "steps", 1)
    paint(page, (30, 200), (60, 220))
    hole = painted(page)
    page.click("#restore")
    wait_for_status(page, "Done")
    with page.expect_download() as waiting:
        page.click("#result")
    result = np.asarray(Image.open(waiting.value.path()), int)
    changed = (result != np.asarray(Image.open(photo), int)).any(-1)
    assert not changed[~hole].any() and changed[hole].mean() > 0.9


def test_another_photo_ends_the_run_of_the_one_before(page, photo, tmp_path):
    open_photo(page, photo)
    take_hole(page, "Half")
    set_slider(page, "steps", 60)
    page.click("#restore")
    wait_for_status(page, "Step ")
    synthetic_photo(200, 160, 7).save(tmp_path / "other.png")
    open_photo(page, tmp_path / "other.png")
    page.wait_for_function("() => !document.querySelector('#restore').disabled")
    page.wait_for_timeout(1000)
    assert "other.png" in page.inner_text("#status")
    assert not page.evaluate("asyncdsb.canvas.hasResult()")
    assert not page.locator("#frame .filled").count()


def test_what_is_painted_during_a_run_waits_for_the_next_one(page, photo):
    """It is part of neither the run nor its result, and the next stroke does not drop it."""
    open_photo(page, photo)
    paint(page, (40, 60), (90, 60))
    set_slider(page, "steps", 30)
    page.click("#restore")
    wait_for_status(page, "Step ")
    paint(page, (40, 180), (90, 180))
    wait_for_status(page, "Done")
    late = page.locator("#editor img.late")
    late.wait_for()  # Seen on the result.
    paint(page, (240, 120), (280, 120))
    assert not late.is_visible()
    for _ in range(2):  # At once, and when the result has become the photograph.
        hole = painted(page)
        assert hole[180, 60] and hole[120, 260] and not hole[60, 60]
        page.wait_for_function(
            "() => document.querySelector('#estimate').innerText.includes('s here')"
        )
        page.wait_for_timeout(500)


def test_a_stroke_on_a_result_stays_if_one_was_undone_during_the_run(page, photo):
    open_photo(page, photo)
    paint(page, (40, 60), (90, 60))
    paint(page, (40, 100), (90, 100))
    set_slider(page, "steps", 30)
    page.click("#restore")
    wait_for_status(page, "Step ")
    tool(page, "Undo").click()
    wait_for_status(page, "Done")
    paint(page, (240, 120), (280, 120))
    page.wait_for_function("() => document.querySelector('#estimate').innerText.includes('s here')")
    page.wait_for_timeout(500)
    assert painted(page)[120, 260]


def test_a_chosen_result_brings_its_hole_and_its_finish(page, photo):
    open_photo(page, photo)
    take_hole(page, "Center")
    set_slider(page, "steps", 1)
    centre, finish = painted(page), page.locator("#finish input[value=none]")
    page.click("#restore")
    wait_for_status(page, "Done")
    number = page.locator("#strip [data-result]").count() - 1
    tool(page, "Clear hole").click()
    paint(page, (20, 20), (60, 20))
    small = painted(page)
    finish.check()
    wait_for_status(page, "The bridge alone")
    page.click("#restore")
    wait_for_status(page, "Done: 1 steps")
    page.locator("#finish input[value=patches]").check()
    wait_for_status(page, "Known patches")
    page.locator("#strip [data-result]").nth(number).press("Enter")
    wait_for_status(page, "Result with seed")
    page.wait_for_selector(f"#strip [data-result='{number}'][aria-pressed='true']:focus")
    assert page.evaluate("asyncdsb.canvas.hasResult()")
    assert (painted(page) == centre).all()
    assert finish.is_checked() and "Bridge only" in page.inner_text("#compare")
    tool(page, "Undo").click()
    assert (painted(page) == small).all()


def test_a_press_without_a_move_paints_a_dot(page, photo):
    open_photo(page, photo)
    paint(page, (100, 80))
    dot = painted(page)
    # The brush is 17 pixels wide here.
    assert np.abs(bounds(dot) - (92, 72, 108, 88)).max() <= 1, bounds(dot)
    tool(page, "Eraser").click()
    paint(page, (100, 80))
    tool(page, "Brush").click()
    assert not painted(page).any()


def test_undo_goes_over_prepared_holes_and_edits(page, photo):
    open_photo(page, photo)
    page.get_by_role("button", name="Center").click()
    centre = wait_for_hole(page, 0.25)
    page.click("#grow")
    grown = wait_for_hole(page, 0.275)
    assert grown[centre].all()
    paint(page, (20, 20), (60, 20))
    tool(page, "Clear hole").click()
    assert not painted(page).any()
    tool(page, "Undo").click()
    assert painted(page)[20, 40]
    tool(page, "Undo").click()
    assert (painted(page) == grown).all()
    tool(page, "Undo").click()
    assert (painted(page) == centre).all()
    wait_for_maps(page, 0.25)
    tool(page, "Undo").click()
    assert not painted(page).any() and tool(page, "Undo").is_disabled()
    for _ in range(4):
        tool(page, "Redo").click()
    assert not painted(page).any() and tool(page, "Redo").is_disabled()


def test_a_stroke_is_kept_while_the_server_answers(page, photo):
    """It is painted on the hole that comes."""
    open_photo(page, photo)
    page.get_by_role("button", name="Center").click()
    paint(page, (20, 20), (60, 20))
    page.wait_for_function("document.querySelector('#status').innerText.includes('Press Restore')")
    hole = painted(page)
    assert hole[20, 20:60].all() and hole[120, 160], hole.mean()


def test_the_brush_is_translucent(page, photo):
    open_photo(page, photo)
    x, y = on_screen(page, 160, 120)
    page.mouse.move(5, 5)

    def pixel() -> np.ndarray:
        data = page.screenshot(clip={"x": x - 2, "y": y - 2, "width": 4, "height": 4})
        return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"), float).mean((0, 1))

    before = pixel()
    paint(page, (150, 120), (170, 120), (150, 120))
    page.mouse.move(5, 5)
    page.wait_for_timeout(300)
    expected = 0.55 * np.array(viz.HOLE_COLOUR) + 0.45 * before
    assert np.abs(pixel() - expected).max() < 8, (pixel(), expected)


def test_a_stroke_lands_where_it_is_painted_in_a_zoomed_photograph(page, photo):
    open_photo(page, photo)
    # The wheel knows whole pixels of the screen only.
    x, y = (round(part) for part in on_screen(page, 240, 60))
    corner, side = np.array(on_screen(page, 0, 0)), np.array(on_screen(page, *SIZE))
    under = (np.array((x, y)) - corner) / (side - corner) * SIZE
    page.mouse.move(x, y)
    for _ in range(6):
        page.mouse.wheel(0, -200)
    page.wait_for_function("parseInt(document.querySelector('[data-act=fit]').innerText) > 600")
    assert np.abs(np.array(on_screen(page, *under)) - (x, y)).max() < 1, "it stays in place"
    for _ in range(8):
        page.keyboard.press("[")
    paint(page, (236, 57), (246, 63))
    hole = painted(page)
    width = int(page.inner_text("#editor .size output").split()[0])
    half = width / 2
    expected = (236 - half, 57 - half, 246 + half, 63 + half)
    assert width < 10 and np.abs(bounds(hole) - expected).max() <= 2, (bounds(hole), expected)
    # Space and the mouse move the photograph, and paint nothing.
    before = on_screen(page, 240, 60)
    page.keyboard.down("Space")
    paint(page, (240, 60), (230, 60))
    page.keyboard.up("Space")
    moved = np.array(on_screen(page, 240, 60)) - before
    assert moved[0] < -40 and abs(moved[1]) < 1 and (painted(page) == hole).all()
    tool(page, "Reset zoom").click()
    assert page.inner_text("[data-act=fit]") == "100%"
    for _ in range(8):
        page.keyboard.press("]")


@pytest.mark.parametrize("way", ["drop", "paste"])
def test_a_photograph_is_dropped_and_pasted(page, tmp_path, way):
    """Wherever it is dropped: the browser would show it in place of the page."""
    page.evaluate("() => document.activeElement.blur()")
    buffer = io.BytesIO()
    synthetic_photo(200, 300).save(buffer, "PNG")
    page.evaluate(
        """([content, way]) => {
            const bytes = Uint8Array.from(atob(content), (letter) => letter.charCodeAt(0));
            const transfer = new DataTransfer();
            transfer.items.add(new File([bytes], `${way}ped.png`, {type: 'image/png'}));
            const options = {bubbles: true, cancelable: true};
            const event = way === 'drop'
                ? new DragEvent('drop', {...options, dataTransfer: transfer})
                : new ClipboardEvent('paste', {...options, clipboardData: transfer});
            const place = way === 'drop' ? '#card-maps' : '#editor .view';
            document.querySelector(place).dispatchEvent(event);
            if (way === 'drop' && !event.defaultPrevented) throw new Error('the browser opens it');
        }""",
        [base64.b64encode(buffer.getvalue()).decode(), way],
    )
    wait_for_status(page, f"{way}ped.png, 200 × 300")
    box = page.locator("#editor canvas").bounding_box()
    assert box["width"] / box["height"] == pytest.approx(200 / 300, abs=0.01)


def test_a_hole_is_painted_by_keys(page, photo):
    open_photo(page, photo)
    page.locator("#editor canvas").focus()
    for _ in range(4):
        page.keyboard.press("ArrowUp")
    page.keyboard.press("Enter")
    dot = bounds(painted(page))
    assert abs((dot[0] + dot[2]) / 2 - 160) < 2 and (dot[1] + dot[3]) / 2 < 100, dot
    page.keyboard.down("Shift")
    for _ in range(4):  # Held down.
        page.keyboard.down("ArrowRight")
    page.keyboard.up("ArrowRight")
    page.keyboard.up("Shift")
    line = bounds(painted(page))
    assert line[0] == dot[0] and line[2] > dot[2] + 20 and line[1] == dot[1], line
    page.keyboard.press("Control+z")
    assert (bounds(painted(page)) == dot).all(), "the line is one stroke"
    tool(page, "Clear hole").focus()
    page.keyboard.press(" ")
    assert not painted(page).any(), "the space bar presses the button that has the focus"


def test_a_zoomed_photograph_follows_the_brush_of_the_keyboard(page, photo):
    open_photo(page, photo)
    for _ in range(4):
        tool(page, "Zoom in").click()
    page.locator("#editor canvas").focus()
    for _ in range(24):
        page.keyboard.press("ArrowRight")
    brush, view = (page.locator(f"#editor .{name}").bounding_box() for name in ("cursor", "view"))
    middle = brush["x"] + brush["width"] / 2
    assert view["x"] < middle <= view["x"] + view["width"] + 1
    page.keyboard.press("Enter")
    assert painted(page)[:, -1].any()


def test_clear_hole_and_close_photo_are_two_things(page, photo):
    open_photo(page, photo)
    take_hole(page, "Center")
    tool(page, "Clear hole").click()
    assert not painted(page).any()
    page.wait_for_selector("#tau .filled", state="detached")
    assert page.locator("#editor canvas").is_visible()
    page.click("#close-photo")
    wait_for_status(page, "Open a photo")
    assert not page.locator("#editor canvas").is_visible()
    assert not page.locator("#close-photo").is_visible()
    assert page.get_by_text("Drop one here").is_visible()
    assert page.evaluate("asyncdsb.canvas.hole()") == ""
    refused(page, "Open a photo first")


def test_a_large_photograph_keeps_its_pixels(page, tmp_path):
    size = (3000, 2000)
    path = tmp_path / "large.png"
    Image.linear_gradient("L").resize(size).convert("RGB").save(path)
    open_photo(page, path)
    page.wait_for_function("document.querySelector('#editor img.photo').naturalWidth === 2048")
    box = page.locator("#editor .view").bounding_box()
    pane = page.locator("#pane-canvas").bounding_box()
    assert box["width"] > pane["width"] - 40
    x, y = on_screen(page, 1500, 1000, size)
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.up()
    hole = painted(page, size)
    middle = (bounds(hole)[:2] + bounds(hole)[2:]) / 2
    assert np.abs(middle - (1500, 1000)).max() < 10


def test_a_result_is_compared_in_place(page, photo):
    open_photo(page, photo)
    paint(page, (120, 100), (200, 130))
    source = page.evaluate("document.querySelector('#editor img.photo').src")
    hold = page.locator("#editor .before")
    assert not hold.is_visible()
    page.evaluate("(source) => asyncdsb.canvas.showResult(source, {wipe: true})", source)
    restored = page.locator("#editor img.restored")
    assert restored.is_visible() and hold.is_visible()
    page.evaluate("() => document.activeElement.blur()")
    page.keyboard.down("Space")
    assert not restored.is_visible()
    page.keyboard.up("Space")
    assert restored.is_visible()
    hold.hover()
    page.mouse.down()
    assert not restored.is_visible()
    page.mouse.up()
    hole = painted(page)
    paint(page, (30, 30), (60, 30))
    assert not restored.is_visible() and painted(page)[hole].all()
    # While it wipes as well.
    page.evaluate("(source) => asyncdsb.canvas.showResult(source, {wipe: true})", source)
    paint(page, (30, 200), (60, 200))
    assert painted(page)[200, 30:60].all()


def move_film(page, place: int) -> None:
    """Move the film's slider, which goes from 0 to 1000."""
    page.locator("#trajectory input").evaluate(
        """(slider, place) => {
            slider.value = place;
            slider.dispatchEvent(new Event('input', {bubbles: true}));
        }""",
        place,
    )


def play_at_every_speed(page) -> None:
    """While a film plays: every press goes on with it, at the speed that the button says."""
    told, delays = page.evaluate(
        """() => {
            const [button, real] = [document.querySelector('#frame .speed'), window.setInterval];
            const [told, delays] = [[], []];
            window.setInterval = (call, delay) => { delays.push(delay); return real(call, delay); };
            for (let press = 0; press < 4; press++) {
                button.click();
                told.push(button.textContent);
            }
            window.setInterval = real;
            return [told, delays];
        }"""
    )
    assert told == ["½×", "¼×", "2×", "1×"]
    normal = delays[-1]
    assert delays == pytest.approx([2 * normal, 4 * normal, normal / 2, normal])


def test_paint_restore_download(page, photo, tmp_path):
    """The whole visit: open, paint, watch the maps and the frames, take the result home."""
    open_photo(page, photo)
    paint(page, (120, 100), (200, 130))
    page.wait_for_selector("#tau .filled canvas")  # by itself, a moment after the stroke
    page.wait_for_selector("#gradient .filled img")

    set_slider(page, "steps", 10)
    page.evaluate(
        """() => {
            window.seen = [];
            const frame = document.querySelector('#frame [data-step]');
            new MutationObserver(() => seen.push(Number(frame.dataset.step)))
                .observe(frame, {attributes: true, attributeFilter: ['data-step']});
        }"""
    )
    page.click("#restore")
    wait_for_status(page, "Done")
    steps = [step for step in page.evaluate("() => window.seen") if step]
    # On a busy machine the browser may skip a frame that is outdated.
    assert steps == sorted(steps) and len(set(steps)) >= 6, steps
    page.locator("#editor img.restored").wait_for(state="visible")
    # The film: any moment by the slider, without a request; then played from there.
    page.wait_for_function("asyncdsb.stage.film?.frames.length === 11 && !asyncdsb.stage.film.live")
    requests = len(page.requests)
    page.wait_for_timeout(300)
    last = stage_pixels(page, "own")
    slider = page.locator("#trajectory input")
    slider.focus()
    page.keyboard.press("Home")
    page.wait_for_timeout(300)
    assert page.inner_text("#frame output") == "t = 1.00 T"
    assert (stage_pixels(page, "own") != last).any()
    page.get_by_role("button", name="Play").click()
    play_at_every_speed(page)
    page.get_by_role("button", name="Pause").click()
    move_film(page, 700)
    page.get_by_role("button", name="Play").click()
    page.wait_for_function("document.querySelector('#frame output').textContent === 't = 0.00 T'")
    page.wait_for_timeout(300)
    assert (stage_pixels(page, "own") == last).all()
    assert len(page.requests) == requests
    assert page.locator("#timing .timing svg").is_visible()

    with page.expect_download() as waiting:
        page.click("#result")
    assert waiting.value.suggested_filename == "paint_restore_download-restored.png"
    result = np.asarray(Image.open(waiting.value.path()), int)
    original = np.asarray(Image.open(photo), int)
    assert result.shape == original.shape
    changed = (result != original).any(-1)
    # The brush is 17 pixels wide here.
    box = bounds(changed)
    assert np.abs(box - (112, 92, 208, 138)).max() <= 4, box
    kept = np.ones(changed.shape, bool)
    kept[86:145, 106:215] = False
    assert not changed[kept].any()

    with page.expect_download() as waiting:
        page.click("#animation")
    assert waiting.value.suggested_filename == "paint_restore_download-film.webp"
    with Image.open(waiting.value.path()) as animation:
        assert animation.format == "WEBP" and animation.n_frames == 11
    assert "paint_restore_download-film.webp" in page.inner_text("#status")


def test_sliders_redraw_the_heatmap_at_once(page, photo):
    open_photo(page, photo)
    take_hole(page, "Center")
    page.locator("#tau .absolute").check()
    requests = len(page.requests)
    times = page.evaluate(
        """async () => {
            const canvas = document.querySelector('#tau canvas');
            const input = document.querySelector('#tau-max input[type=range]');
            const set = Object.getOwnPropertyDescriptor(HTMLInputElement.prototype, 'value').set;
            const times = [];
            for (const value of [0.9, 0.6, 1, 0.7, 0.8]) {
                const before = canvas.toDataURL();
                const started = performance.now();
                set.call(input, value);
                input.dispatchEvent(new Event('input', {bubbles: true}));
                while (canvas.toDataURL() === before && performance.now() - started < 5000) {
                    await new Promise(requestAnimationFrame);
                }
                times.push(performance.now() - started);
                await new Promise(done => setTimeout(done, 100));
            }
            return times;
        }"""
    )
    assert sorted(times)[2] < 150, times
    assert len(page.requests) == requests, "a slider asked the server"

    # Eq. 11 with the extremes over the hole: both ends of the range are reached, nothing beyond.
    page.locator("#tau .absolute").uncheck()
    index = colour_index(page)
    assert index.min() <= 8 and index.max() >= 247, "colours are stretched to the range"
    page.locator("#tau .absolute").check()
    set_slider(page, "tau-min", 0.1)
    page.wait_for_selector("#tau [data-range='0.1 0.8 gradient']")
    taus = page.locator("#frame .betas polyline[data-tau]").evaluate_all(
        "(lines) => lines.map((line) => Number(line.dataset.tau))"
    )
    assert (min(taus), max(taus)) == (0.1, 0.8)
    index = colour_index(page)
    assert index.min() >= round(255 * 0.1) and index.max() <= round(255 * 0.8)
    assert index.min() <= 255 * 0.1 + 8 and index.max() >= 255 * 0.8 - 8

    page.get_by_role("radio", name="uniform").check(force=True)
    page.wait_for_selector("#tau [data-range='0.1 0.8 uniform']")
    assert set(colour_index(page)) == {round(255 * 0.45)}
    page.get_by_role("radio", name="gradient").check(force=True)

    # The range stays in order: the other end moves along.
    set_slider(page, "tau-min", 0.9)
    page.wait_for_selector("#tau [data-range='0.9 0.9 gradient']")
    assert page.input_value("#tau-max input[type=number]") == "0.9"
    page.get_by_role("button", name="Paper", exact=True).click()
    page.wait_for_selector("#tau [data-range='0.2 0.5 gradient']")
    # Lines of equal tau on demand.
    plain = tau_pixels(page)
    page.locator("#tau .lines").check()
    assert (tau_pixels(page) != plain).any()
    for name in ("lines", "absolute"):
        page.locator(f"#tau .{name}").uncheck()


def hole_shown(page) -> np.ndarray:
    """Where the heatmap shows the hole: bool (h, w)."""
    height, width, text = page.evaluate(
        f"""() => {{
            const {{width, height, hole}} = asyncdsb.maps.now;
            return [height, width, ({TEXT_OF})(hole)];
        }}"""
    )
    return np.frombuffer(base64.b64decode(text), np.uint8).reshape(height, width) == 255


def wait_for_maps(page, share: float) -> None:
    """Wait until the maps are those of a hole that covers this share of the photograph."""
    for _ in range(300):
        shown = 0.0 if page.evaluate("asyncdsb.maps.now === null") else hole_shown(page).mean()
        if shown == pytest.approx(share, abs=0.02):
            return
        page.wait_for_timeout(100)
    raise AssertionError(f"the maps are of a hole of {shown:.3f} of the photograph, not {share}")


def wait_for_another_hole(page, before: float) -> np.ndarray:
    for _ in range(100):
        hole = hole_shown(page)
        if hole.mean() != before:
            return hole
        page.wait_for_timeout(200)
    raise AssertionError(f"the hole still covers {before:.3f} of the photograph")


def test_strokes_add_to_a_prepared_hole(page, photo):
    """Paint after a preset, and after another one in its place."""
    open_photo(page, photo)
    take_hole(page, "Center")
    centre = hole_shown(page)
    assert centre.mean() == pytest.approx(0.25, abs=0.02)
    page.get_by_role("button", name="Half").click()
    half = wait_for_another_hole(page, centre.mean())
    assert half.mean() == pytest.approx(0.5, abs=0.02)
    height, width = half.shape
    assert not half[:, : width // 2 - 2].any(), "the first preset is still there"
    paint(page, (40, 60), (110, 60))
    both = wait_for_another_hole(page, half.mean())
    assert both[half].all() and 0.01 < both[:, : width // 2 - 2].mean() < 0.3


FRAME = "JSON.parse(asyncdsb.canvas.hole()).box"


def test_a_frame_is_drawn_around_the_head(page, photo):
    """With the mouse and with keys; a click takes the one that is found, undo the one before."""
    frame = page.locator("#editor .frame")
    open_photo(page, photo)
    take_hole(page, "Center")
    assert not tool(page, "Frame").is_visible(), "the weights work around holes"
    page.locator("#weights input[value=portraits]").check()
    tool(page, "Frame").wait_for()
    assert page.evaluate(FRAME) is None and frame.is_visible()
    tool(page, "Frame").click()
    paint(page, (60, 20), (230, 210))
    left, top, side = page.evaluate(FRAME)
    assert abs(left - 60) <= 1 and abs(top - 20) <= 1 and abs(side - 190) <= 2
    shown, whole = frame.bounding_box(), page.locator("#editor canvas").bounding_box()
    assert shown["width"] / whole["width"] == pytest.approx(side / SIZE[0], abs=0.01)
    assert shown["x"] - whole["x"] == pytest.approx(left * whole["width"] / SIZE[0], abs=2)
    assert painted(page).mean() == pytest.approx(0.25, abs=0.02), "the hole has changed"
    page.fill("#steps input[type=number]", "2")
    page.click("#restore")
    wait_for_status(page, "Done")
    assert not frame.is_visible(), "it lies over the result"
    with page.expect_download() as download:
        page.click("#result")
    with Image.open(download.value.path()) as picture:
        assert f'"box": [{left}, {top}, {side}]' in " ".join(map(str, picture.info.values()))
    paint(page, (160, 120), (161, 120))
    assert page.evaluate(FRAME) is None
    tool(page, "Undo").click()
    assert page.evaluate(FRAME) == [left, top, side]
    page.locator("#editor canvas").focus()
    for key in ("Enter", *["ArrowLeft"] * 8, *["ArrowUp"] * 8, "Enter"):
        page.keyboard.press(key)
    by_keys = page.evaluate(FRAME)
    assert by_keys[0] + by_keys[2] <= 161 and by_keys[2] >= 32, by_keys
    page.locator("#weights input[value=scenes]").check()
    tool(page, "Frame").wait_for(state="hidden")
    assert tool(page, "Brush").get_attribute("aria-pressed") == "true"
    assert not frame.is_visible()


def test_the_last_of_two_examples_stays(page):
    for name in ("colosseum", "wren"):
        page.click(f"#examples [title^={name}]")
    wait_for_status(page, "wren.jpg")
    page.wait_for_timeout(1000)
    assert "wren.jpg" in page.inner_text("#status")


def test_an_example_without_a_hole_can_be_painted(page):
    page.locator("[data-example]").last.click()
    wait_for_status(page, "Paint over")
    page.wait_for_selector("#tau .filled", state="detached")
    box = page.locator("#editor canvas").bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.mouse.move(x - 30, y)
    page.mouse.down()
    page.mouse.move(x + 30, y, steps=6)
    page.mouse.up()
    page.wait_for_selector("#tau .filled canvas")
    assert 0.002 < hole_shown(page).mean() < 0.1


def open_more(page) -> None:
    """Unfold the settings that few need."""
    if not page.locator("#seeds").is_visible():
        page.click("#more-title button")
    page.wait_for_selector("#seeds", state="visible")


UNFOLD_AND_SET = """async () => {
    const value = 3;
    const field = () => document.querySelector('#seeds input[type=number]');
    const there = new Promise((done) => {
        const look = () => { if (field()?.checkVisibility()) done(); };
        new MutationObserver(look).observe(document.body, { childList: true, subtree: true });
        document.querySelector('#more button').click();
        look();
    });
    await there;
    Object.getOwnPropertyDescriptor(HTMLInputElement.prototype, 'value').set.call(field(), value);
    field().dispatchEvent(new Event('input', { bubbles: true }));
    field().dispatchEvent(new Event('change', { bubbles: true }));
    await new Promise((done) => setTimeout(done, 1000));
    return [field().value, document.querySelector('#seeds input[type=range]').value];
}"""


def test_what_is_set_as_soon_as_it_is_unfolded_stays(page, server):
    """In the same frame, which is quicker than a hand and slower than a program."""
    visit = page.context.browser.new_page()
    try:
        visit.set_default_timeout(PATIENCE)
        visit.on("request", lambda request: page.requests.append(request.url))
        visit.goto(server)
        visit.locator("#model .done").wait_for(state="attached")
        assert visit.evaluate(UNFOLD_AND_SET) == ["3", "3"]
    finally:
        visit.close()


def test_several_seeds_are_shown_together(page, photo):
    open_photo(page, photo)
    take_hole(page, "Narrow")
    assert "takes about" in page.inner_text("#estimate")
    # Every seed has a run of its own for the other schedule.
    told = """([beside, seeds]) => {
        asyncdsb.pace(0.5);
        asyncdsb.estimate(20, beside, seeds);
        return document.querySelector("#estimate .estimate").textContent;
    }"""
    for asked, words in (((False, 6), "60 s"), ((True, 1), "20 s"), ((True, 6), "2 minutes")):
        assert page.evaluate(told, asked) == f"takes about {words} here"
    set_slider(page, "steps", 2)
    open_more(page)
    set_slider(page, "seeds", 3)
    page.click("#restore")
    wait_for_status(page, "seed 0 and the 2 after it")
    labels = page.locator("#strip [data-result] span").all_inner_texts()
    assert labels[-3:] == ["seed 0", "seed 1", "seed 2"]
    set_slider(page, "seeds", 1)


def test_order_is_painted_on_the_heatmap(page, photo):
    """A stroke of the mouse makes its pixels early, is kept for the run, and can be taken back."""
    open_photo(page, photo)
    take_hole(page, "Center")
    page.get_by_role("button", name="Paper", exact=True).click()
    page.get_by_role("radio", name="inward").check(force=True)
    page.get_by_role("radio", name="painted").check(force=True)
    page.wait_for_selector("#tau .order-brush", state="visible")
    before = tau_pixels(page)
    box = page.locator("#tau canvas").bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.mouse.move(x - 20, y)
    page.mouse.down()
    page.mouse.move(x + 20, y, steps=5)
    page.mouse.up()
    after = tau_pixels(page)
    height, width = after.shape[:2]
    early = viz.colour_table("viridis")[255]
    # Inward, the middle comes last; where the stroke went it comes first now.
    assert (after[height // 2, width // 2, :3] == early).all()
    assert (before[height // 2, width // 2, :3] != early).any()
    share = (after != before).any(-1).mean()
    assert 0.01 < share < 0.2
    set_slider(page, "steps", 2)
    page.click("#restore")
    wait_for_status(page, "Done")
    with page.expect_download() as waiting:
        page.click("#files")
    with zipfile.ZipFile(waiting.value.path()) as archive:
        assert json.loads(archive.read("settings.json"))["strategy"] == "tau.png"
        tau = np.load(io.BytesIO(archive.read("tau.npy")))
    assert tau.shape == (SIZE[1], SIZE[0]) and tau[120, 160] == pytest.approx(0.5, abs=0.01)
    page.get_by_role("button", name="Reset", exact=True).click()
    assert (tau_pixels(page) != after).any()
    page.get_by_role("radio", name="gradient").check(force=True)
    page.wait_for_selector("#tau .order-brush", state="hidden")


def test_one_finger_paints_the_order(page, photo):
    open_photo(page, photo)
    take_hole(page, "Center")
    page.get_by_role("radio", name="painted").check(force=True)
    page.locator("#tau .again").click()
    page.locator("#tau canvas").scroll_into_view_if_needed()
    box = page.locator("#tau canvas").bounding_box()

    def at(x: float, y: float) -> tuple[float, float]:
        return box["x"] + x * box["width"], box["y"] + y * box["height"]

    before = page.evaluate("asyncdsb.paintedOrder()")
    touch(page, [[at(0.05, 0.3)], [at(0.06, 0.3), at(0.95, 0.7)], [at(0.07, 0.3), at(0.94, 0.7)]])
    orders = [json.loads(one) for one in (before, page.evaluate("asyncdsb.paintedOrder()"))]
    first, second = (
        np.frombuffer(base64.b64decode(one["data"]), np.uint8).reshape(one["height"], one["width"])
        for one in orders
    )
    changed = (first != second).any(0)
    assert changed[: len(changed) // 4].any()
    assert not changed[len(changed) // 4 :].any(), "nothing between the two fingers"
    page.get_by_role("radio", name="gradient").check(force=True)


def test_mask_is_grown_and_inverted_and_the_result_edited(page, photo):
    open_photo(page, photo)
    take_hole(page, "Center")
    centre = hole_shown(page)
    page.click("#grow")
    grown = wait_for_another_hole(page, centre.mean())
    assert grown[centre].all() and grown.mean() < 0.35
    page.click("#invert")
    inverted = wait_for_another_hole(page, grown.mean())
    assert (inverted == ~grown).mean() > 0.97
    page.click("#invert")
    wait_for_another_hole(page, inverted.mean())
    set_slider(page, "steps", 1)
    page.click("#restore")
    wait_for_status(page, "Done")
    # A stroke on the result makes it the photograph, and is kept.
    page.locator("#editor img.restored").wait_for(state="visible")
    paint(page, (20, 20), (60, 20))
    wait_for_status(page, "mask_is_grown_and_inverted_and_the_result_edited-restored.png")
    hole = painted(page)
    assert hole[20, 20:60].all() and not hole[100:].any()
    take_hole(page, "Narrow")
    # Back over the stroke and the result to the photograph, its hole and its maps.
    for _ in range(3):
        tool(page, "Undo").click()
    hole = painted(page)
    assert hole[120, 160]
    wait_for_maps(page, hole.mean())
    tool(page, "Redo").click()
    assert not painted(page).any()


def test_a_link_reproduces_the_picture(page, server):
    """The address after a run opens the same example, hole and settings: the same file."""
    page.locator("[data-example]").last.click()
    wait_for_status(page, "Paint over")
    take_hole(page, "Wide")
    set_slider(page, "steps", 3)
    set_slider(page, "tau-max", 0.8)

    def result(visit) -> bytes:
        visit.click("#restore")
        wait_for_status(visit, "Done")
        with visit.expect_download() as waiting:
            visit.click("#result")
        return Path(waiting.value.path()).read_bytes()

    ours = result(page)
    link = page.url
    assert "tau_max=0.8" in link and "mask=wide-" in link
    visit = page.context.browser.new_page(accept_downloads=True)
    try:
        visit.set_default_timeout(PATIENCE)
        visit.on("request", lambda request: page.requests.append(request.url))
        visit.goto(link)
        visit.wait_for_selector("#status .message")
        # In place of the example with which the page opens.
        wait_for_status(visit, "otters.jpg")
        visit.wait_for_selector("#tau [data-range='0.2 0.8 gradient']")
        assert visit.input_value("#tau-max input[type=number]") == "0.8"
        theirs = result(visit)
        assert png_text(theirs) == png_text(ours)
        assert theirs == ours
    finally:
        visit.close()
    # A stroke makes the result the photo, which has no name.
    paint(page, (40, 60), (110, 60))
    page.wait_for_function("() => !location.search.includes('mask=')")
    page.get_by_role("button", name="Paper", exact=True).click()


WATCH_WHAT_IS_SEEN = """
window.seen = new Set();
const look = () => {
    requestAnimationFrame(look);
    const photo = document.querySelector('#editor .photo[src]');
    const low = document.querySelector('#tau-min input[type=number]')?.value;
    if (low && photo && photo.checkVisibility({visibilityProperty: true})) {
        const opening = photo.getAttribute('src').startsWith('data:');
        const film = asyncdsb.stage.film ? 'film' : 'no film';
        seen.add(`${opening ? 'opening' : 'linked'}, ${low}, ${film}`);
    }
};
look();
"""


@pytest.mark.parametrize(
    "query, seen",
    [
        ("example=otters&mask=wide-0&tau_min=0.1&tau_max=0.8", "linked, 0.1, no film"),
        ("example=wren&mask=own", "linked, 0.2, no film"),
        ("tau_min=0.3&tau_max=0.6", "opening, 0.3, film"),
        ("example=nothing", "opening, 0.1, film"),
        ("", "opening, 0.1, film"),
    ],
)
def test_a_link_never_shows_something_else_first(page, server, query, seen):
    """However long the answer takes: what is seen is what the link names, from the first moment."""
    visit = page.context.browser.new_page()
    try:
        visit.set_default_timeout(PATIENCE)
        visit.on("request", lambda request: page.requests.append(request.url))
        visit.add_init_script(WATCH_WHAT_IS_SEEN)
        held: list[Any] | None = []
        visit.route(
            "**/queue/join*",
            lambda route: route.continue_() if held is None else held.append(route),
        )
        visit.goto(f"{server}/?{query}")
        visit.locator("#editor .photo[src]").wait_for(state="attached")
        visit.wait_for_timeout(300)
        assert visit.locator("#restore").is_visible() is (query == "")
        said = visit.evaluate(
            "getComputedStyle(document.querySelector('#card-canvas'), '::before').content"
        )
        assert ("Opening the link" in said) is (query != "")
        waiting, held = held, None
        for route in waiting:
            route.continue_()
        visit.locator("#restore").wait_for(state="visible")
        visit.wait_for_timeout(200)
        assert visit.evaluate("[...window.seen]") == [seen]
        if not query:  # Its film says nothing about another hole.
            visit.wait_for_selector("#model .done")
            set_slider(visit, "tau-max", 0.8)
            assert visit.evaluate("Boolean(asyncdsb.stage.film)")
            paint(visit, (20, 20), (60, 20))
            visit.wait_for_function("asyncdsb.stage.film === null")
            assert "Press Restore" in visit.inner_text("#frame .watch")
            assert visit.get_attribute("#frame .progress", "aria-valuenow") == "0"
            assert not visit.locator("#timing.filled, #timing .filled").count()
    finally:
        visit.close()


def test_explanation_moves(page):
    page.get_by_role("tab", name="How it works").click()
    canvas = page.locator("#story canvas.own")
    canvas.wait_for(state="visible")
    box = page.locator("#story section").nth(4).bounding_box()
    assert box["y"] + box["height"] < 900, "five steps on one screen"
    before = canvas.evaluate("(canvas) => canvas.toDataURL()")
    slider = page.locator("#story input[type=range]")
    slider.focus()
    page.keyboard.press("Home")
    assert canvas.evaluate("(canvas) => canvas.toDataURL()") != before
    assert page.inner_text("#story output") in ("t = 0.00 T", "t = 1.00 T")
    page.get_by_role("tab", name="Inpaint").click()


def test_the_first_screen_shows_the_idea_before_any_model(page, tmp_path):
    """Without a click: a restoration that moves, the gradient and tau, while the model loads."""
    program = tmp_path / "slow.py"
    program.write_text(
        "import time\n"
        "import app\n"
        "from asyncdsb.pipeline import AsyncDSBPipeline\n"
        "AsyncDSBPipeline.from_pretrained = lambda *given, **named: time.sleep(60)\n"
        "app.main()\n"
    )
    variables = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    with served(variables, program) as server:
        visit = page.context.browser.new_page(viewport={"width": 1280, "height": 720})
        try:
            visit.set_default_timeout(PATIENCE)
            visit.goto(server.address)
            # Five seconds, where the tests beside this one leave a processor to the browser.
            limit = 5 if os.getloadavg()[0] < (os.cpu_count() or 1) else 40
            begun = time.monotonic()
            visit.wait_for_selector("#frame .filled .own canvas")
            visit.wait_for_selector("#tau .filled canvas")
            visit.wait_for_function("document.querySelector('#gradient img').naturalWidth > 100")
            picture = "(panel) => document.querySelector(`#frame .${panel} canvas`).toDataURL()"
            before = {name: visit.evaluate(picture, name) for name in ("own", "other", "share")}
            moved = set()
            while len(moved) < 3 and time.monotonic() < begun + limit:
                visit.wait_for_timeout(100)
                moved |= {n for n, seen in before.items() if visit.evaluate(picture, n) != seen}
            assert moved == {*before} and time.monotonic() < begun + limit
            assert not visit.locator("#model .done").count(), "the model is not there yet"
            for name in ("frame", "gradient", "tau"):
                box = visit.locator(f"#{name}").bounding_box()
                assert 0 <= box["y"] and box["y"] + 40 < 720, (name, box)
            assert visit.inner_text("#frame .watch")
        finally:
            visit.close()


def test_a_newcomer_removes_a_thing(page, photo):
    """Open, paint, restore, compare, another seed, choose, paint on, undo, download."""
    page.reload()
    page.wait_for_selector("#model .done")
    page.wait_for_selector("#editor .view.filled")
    page.evaluate("() => window.scrollTo(0, 0)")
    open_photo(page, photo)  # 1
    page.keyboard.press("]")  # 2
    paint(page, (120, 100), (200, 130))  # 3
    page.wait_for_selector("#tau .filled canvas")
    set_slider(page, "steps", 2)
    page.evaluate("() => document.activeElement.blur()")
    page.keyboard.press("r")  # 4
    wait_for_status(page, "Done")
    result = page.locator("#editor img.restored")
    result.wait_for(state="visible")
    page.keyboard.down("Space")  # 5
    assert not result.is_visible()
    page.keyboard.up("Space")
    assert result.is_visible()
    first = page.get_attribute("#editor img.restored", "src")
    before = page.input_value("#seed input[type=number]")
    page.click("#dice")  # 6
    page.wait_for_function(
        "(before) => document.querySelector('#seed input[type=number]').value !== before",
        arg=before,
    )
    page.click("#restore")  # 7
    page.wait_for_function("document.querySelectorAll('#strip [data-result]').length === 2")
    wait_for_status(page, "Done")
    # Two seeds may take the same patches: the strip says which result is shown.
    page.wait_for_selector("#strip [data-result='1'][aria-pressed='true']")
    page.locator("#strip [data-result]").first.click()  # 8
    wait_for_status(page, f"Result with seed {before}")
    page.wait_for_function(
        "(first) => document.querySelector('#editor img.restored').src === first", arg=first
    )
    with page.expect_download() as waiting:  # 9
        page.keyboard.press("Control+s")
    kept = np.asarray(Image.open(waiting.value.path()))
    assert (kept != np.asarray(Image.open(photo))).any()
    paint(page, (40, 40), (80, 40))  # 10
    wait_for_status(page, "-restored.png")
    assert painted(page)[40, 40:80].all() and not painted(page)[100:].any()
    page.keyboard.press("Control+z")  # 11
    page.keyboard.press("Control+z")
    assert painted(page)[100, 120], "back at the photograph and its hole"
    assert page.locator("#strip [data-result]").count() == 2, "no result is lost"
    page.locator("#strip [data-result]").last.click()  # 12
    wait_for_status(page, "Result with seed")


def test_the_result_is_shown_with_and_without_patches(page, photo):
    open_photo(page, photo)
    take_hole(page, "Wide")
    set_slider(page, "steps", 2)
    # The finish of the weights for any photo, which may still be on their way.
    page.wait_for_function("() => location.search.includes('finish=patches')")
    page.click("#restore")
    wait_for_status(page, "Done")
    restored = page.locator("#editor img.restored")
    with_patches = restored.get_attribute("src")
    assert "known patches" in page.inner_text("#compare").lower()
    page.get_by_role("radio", name="Bridge only").check(force=True)
    wait_for_status(page, "The bridge alone")
    page.wait_for_function(
        "(before) => document.querySelector('#editor img.restored').src !== before",
        arg=with_patches,
    )
    assert "bridge itself" in page.inner_text("#compare")
    page.get_by_role("radio", name="With known patches").check(force=True)
    wait_for_status(page, "Known patches")


def download_films(page) -> None:
    """Take the film of five frames home in every form, one after the other."""
    with page.expect_download() as waiting:
        page.click("#animation")
    with Image.open(waiting.value.path()) as animation:
        # Wider than one panel: both methods stand side by side.
        assert getattr(animation, "n_frames", 1) == 5 and animation.width > 700
        size = animation.size
    if h264_encoder() is None:
        assert "imageio-ffmpeg" in page.inner_text("#about-mp4")
        assert not page.locator("#movie").is_visible()
        return
    with page.expect_download() as waiting:
        page.click("#movie")
    assert waiting.value.suggested_filename.endswith("-film.mp4")
    data = Path(waiting.value.path()).read_bytes()
    played = page.evaluate(
        """(data) => new Promise((done, failed) => {
            const video = document.createElement('video');
            video.onloadeddata = () => done([video.videoWidth, video.videoHeight, video.duration]);
            video.onerror = () => failed(new Error(video.error.message));
            video.src = data;
        })""",
        "data:video/mp4;base64," + base64.b64encode(data).decode(),
    )
    assert tuple(played[:2]) == size and played[2] > 2
    wait_for_status(page, "-film.mp4")


def test_the_stage_shows_both_schedules_in_step(page, photo):
    open_photo(page, photo)
    take_hole(page, "Center")
    page.get_by_role("button", name="Full", exact=True).click()
    page.wait_for_selector("#tau [data-range='0 1 gradient']")
    set_slider(page, "steps", 4)
    page.locator("#beside input").check()
    page.click("#restore")
    wait_for_status(page, "Done")
    page.wait_for_function("asyncdsb.stage.film?.other?.length === 5")
    assert "Synchronous" in page.inner_text("#frame .other figcaption")
    requests = len(page.requests)
    move_film(page, 500)
    page.wait_for_timeout(300)
    assert (stage_pixels(page, "own") != stage_pixels(page, "other")).any()
    assert re.search(r"t = 0\.\d\d T", page.get_attribute("#frame .other", "title"))
    share = stage_pixels(page, "share")
    assert len(np.unique(share[..., 0])) > 3, "pixels are at different times"
    t = float(page.inner_text("#frame output").split()[2])
    line = page.locator("#frame .betas line.now")
    assert float(line.get_attribute("x1")) == pytest.approx(240 * (1 - t), abs=1.5)
    before = stage_pixels(page, "own")
    page.get_by_role("button", name="predictions").click()
    page.wait_for_timeout(300)
    assert (stage_pixels(page, "own") != before).any()
    page.get_by_role("button", name="states").click()
    assert len(page.requests) == requests, "the film asks nobody"
    download_films(page)
    # The chart: three parts of the hole, lines and dots, and the run that is synchronous.
    assert page.locator("#timing .timing svg").is_visible()
    assert page.locator("#timing polyline").count() == 4
    assert page.locator("#timing circle").count() == 4 * 5
    assert "steepest third" in page.inner_text("#timing p >> nth=0")
    page.locator("#beside input").uncheck()
    page.get_by_role("button", name="Paper", exact=True).click()


def test_every_control_has_help_and_the_keys_are_listed(page, photo):
    for name in ("Weights", "Order of restoration"):
        assert page.get_by_role("group", name=name, exact=True).count() == 1
    assert page.locator("#status [role=status] .message").count() == 1
    open_photo(page, photo)
    for name in ("tau-min", "beside"):
        # A page that scrolls hides its help.
        page.locator(f"#{name}").scroll_into_view_if_needed()
        page.wait_for_timeout(300)
        page.locator(f"#{name}").hover()
        page.wait_for_selector("#tip.shown")
        assert len(page.inner_text("#tip")) > 15, name
        page.mouse.move(2, 2)
    page.evaluate("() => document.activeElement.blur()")
    keys = page.locator("#title dialog")
    for ask in (lambda: page.keyboard.press("?"), page.locator("#title .keys-button").click):
        ask()
        keys.wait_for(state="visible")
        assert "undo" in keys.inner_text()
        keys.get_by_role("button", name="Close").click()
        keys.wait_for(state="hidden")


def test_the_link_is_copied(page):
    """Also without a clipboard, which a browser refuses to pages without https."""
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    button = page.locator("#title .copy-link")

    def copied(told: str) -> str:
        page.evaluate("navigator.clipboard.writeText('before')")
        page.evaluate(refuse)
        button.click()
        page.wait_for_function(
            "(told) => document.querySelector('#title .copy-link').textContent === told", arg=told
        )
        page.evaluate("() => { delete navigator.clipboard; delete document.execCommand; }")
        assert page.locator("body > textarea").count() == 0
        page.wait_for_function(
            "document.querySelector('#title .copy-link').textContent === 'Copy link'"
        )
        return page.evaluate("navigator.clipboard.readText()")

    refuse = "() => {}"
    assert copied("Copied") == page.url
    refuse = "() => Object.defineProperty(navigator, 'clipboard', {configurable: true})"
    assert copied("Copied") == page.url
    refuse = f"() => {{ ({refuse})(); document.execCommand = () => false; }}"
    assert copied("Copy the address") == "before"
    # A setting changed a moment ago is in it; the address is not written for every change.
    refuse = """() => {
        window.written = 0;
        history.replaceState = (...given) => {
            window.written += 1;
            History.prototype.replaceState.apply(history, given);
        };
        for (let seed = 200; seed >= 100; seed--) asyncdsb.remember(["seed"], [seed]);
    }"""
    assert "seed=100" in copied("Copied") and page.evaluate("window.written") == 1
    page.evaluate(
        """() => {
            delete history.replaceState;
            asyncdsb.remember(["seed"], [document.querySelector("#seed input").value]);
        }"""
    )
    page.context.clear_permissions()


def test_the_schedule_of_the_page_is_that_of_the_package(page):
    """A second implementation, in the page's own language."""
    grid = [(t, tau) for t in (0.0, 0.1, 0.5, 0.9, 1.0) for tau in (0.0, 0.2, 0.5, 1.0)]
    script = """(grid) => {
        const {betas, clock, beta} = asyncdsb.maps;
        return [betas(), grid.map((one) => [clock(...one), beta(...one)])];
    }"""
    betas, found = page.evaluate(script, grid)
    schedule = NoiseSchedule(*betas)
    wanted = [[float(f(*one)) for f in (schedule.clock, schedule.beta)] for one in grid]
    np.testing.assert_allclose(found, wanted, atol=1e-9)


def test_stop(page, photo):
    open_photo(page, photo)
    take_hole(page, "Center")
    set_slider(page, "steps", 250)
    page.click("#restore")
    # In the page, because on a busy machine a run takes many steps between two calls from here.
    clicked, step_seconds = page.evaluate(
        """() => new Promise((done) => {
            let second;
            const look = () => {
                const frame = document.querySelector('#frame [data-step]');
                const step = Number(frame?.dataset.step ?? 0);
                if (step >= 2) second ??= [step, performance.now()];
                if (step < 6) return requestAnimationFrame(look);
                document.querySelector('#stop').click();
                done([step, (performance.now() - second[1]) / 1000 / (step - second[0] || 1)]);
            };
            look();
        })"""
    )
    set_slider(page, "steps", 1)
    # As soon as it can be pressed, the press counts. Photograph and mask are still there.
    pressed_at = page.evaluate(
        """() => new Promise((done) => {
            const restore = document.querySelector('#restore');
            const press = () => {
                if (restore.disabled) return requestAnimationFrame(press);
                const shown = Number(document.querySelector('#frame [data-step]').dataset.step);
                restore.click();
                done(shown);
            };
            press();
        })"""
    )
    # Two steps; but a small model takes several while the click is on its way to the server.
    allowed = max(2, math.ceil(1 / max(step_seconds, 1e-3)))
    assert clicked <= pressed_at <= clicked + allowed < 250
    wait_for_status(page, "Done: 1 steps")
    assert page.is_enabled("#restore") and not page.is_enabled("#stop")


def test_who_waits_for_a_run_is_told_and_can_stop(page, photo, server):
    open_photo(page, photo)
    take_hole(page, "Center")
    set_slider(page, "steps", 250)
    page.click("#restore")
    wait_for_status(page, "Step ")
    visit = page.context.browser.new_page()
    try:
        visit.set_default_timeout(PATIENCE)
        visit.on("request", lambda request: page.requests.append(request.url))
        visit.goto(server)
        visit.wait_for_selector("#model .done")
        visit.click("#restore")
        waiting = visit.get_by_text("queue: 1/1")
        waiting.wait_for()
        box, row = waiting.bounding_box(), visit.locator("#status").bounding_box()
        assert box["y"] >= row["y"] and box["y"] + box["height"] <= row["y"] + row["height"] + 1
        visit.click("#stop")
        wait_for_status(visit, "Stopped")
        assert not visit.is_enabled("#stop") and visit.is_enabled("#restore")
        page.click("#stop")
        wait_for_status(page, "Stopped")
        page.wait_for_selector("#restore:enabled")
        visit.wait_for_timeout(1000)
        assert "Stopped" in visit.inner_text("#status"), "it has left the queue"
    finally:
        visit.close()


def test_bad_file_gives_a_message(page, photo, tmp_path):
    open_photo(page, photo)
    bad = tmp_path / "letter.png"
    bad.write_text("Dear reader")
    page.set_input_files("#editor input[type=file]", str(bad))
    toast = page.get_by_text("letter.png: expected a PNG")
    toast.wait_for()
    assert "a text file" in toast.inner_text()
    # These the browser refuses, and does not say that they are being opened.
    (tmp_path / "large.png").write_bytes(bytes(33 << 20))
    (tmp_path / "letter.txt").write_text("Dear reader")
    for name, why in (("large.png", "maximum allowed size"), ("letter.txt", "Invalid file type")):
        page.set_input_files("#editor input[type=file]", str(tmp_path / name))
        assert page.text_content("#editor .opening") == ""
        page.get_by_text(why).first.wait_for()
    # A kind for which it knows no type.
    synthetic_photo(*SIZE).save(tmp_path / "old.tga")
    open_photo(page, tmp_path / "old.tga")
    # The page goes on with what it had.
    take_hole(page, "Half")


def test_restore_without_a_mask_says_what_to_do(page, photo):
    open_photo(page, photo)
    refused(page, "Paint a hole first")
    take_hole(page, "Center")
    assert page.get_attribute("#restore", "aria-disabled") == "false"


def test_the_focus_is_seen(page, photo):
    open_photo(page, photo)
    page.keyboard.press("Tab")  # A browser shows the focus to those who use the keyboard.
    hidden = page.evaluate(
        """() => [...document.querySelectorAll('.pane input')].filter((one) => {
            if (!one.matches('[type=range], [type=checkbox]')) return false;
            one.focus();
            const {outlineStyle, outlineWidth} = getComputedStyle(one);
            const shown = outlineStyle === 'solid' && outlineWidth === '2px';
            return document.activeElement === one && !shown;
        }).map((one) => one.outerHTML)"""
    )
    assert hidden == []


def test_the_chosen_tab_can_be_read(page):
    tab = "#tabs [aria-selected=true]"
    colour = page.eval_on_selector(tab, "one => getComputedStyle(one).color")
    levels = np.array([int(level) for level in re.findall(r"[0-9]+", colour)[:3]]) / 255
    linear = np.where(levels > 0.04045, ((levels + 0.055) / 1.055) ** 2.4, levels / 12.92)
    assert 1.05 / (linear @ (0.2126, 0.7152, 0.0722) + 0.05) >= 4.5, "on white"


def test_everything_fits_one_laptop_screen(page, photo):
    page.set_viewport_size({"width": 1440, "height": 900})
    page.evaluate("() => window.scrollTo(0, 0)")
    for name in ("editor", "gradient", "tau", "tau-min", "tau-max", "restore", "frame", "status"):
        box = page.locator(f"#{name}").bounding_box()
        assert box["y"] >= 0 and box["y"] + box["height"] <= 900, (name, box)
        assert box["x"] >= 0 and box["x"] + box["width"] <= 1440, (name, box)


@pytest.mark.parametrize("width", [390, 820])
def test_narrow_screens_do_not_scroll_sideways(page, width):
    page.set_viewport_size({"width": width, "height": 844})
    page.wait_for_timeout(500)
    assert page.evaluate("() => document.documentElement.scrollWidth") <= width
    for name in ("editor", "gradient", "tau", "restore", "frame"):
        box = page.locator(f"#{name}").bounding_box()
        assert box["x"] >= 0 and box["x"] + box["width"] <= width, (name, box)
    page.set_viewport_size({"width": 1440, "height": 900})


def touch(page, moments: list[list[tuple[float, float]]]) -> None:
    """Put fingers on the screen, move them from moment to moment and take them away."""
    session = page.context.new_cdp_session(page)
    count = 0
    for fingers in moments:
        kind = "touchMove" if len(fingers) == count else "touchStart"
        count = len(fingers)
        points = [{"x": x, "y": y, "id": i} for i, (x, y) in enumerate(fingers)]
        session.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})
    session.send("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})


def test_a_hand_beside_a_pen_does_not_disturb_it(page, photo):
    open_photo(page, photo)
    page.locator("#editor canvas").scroll_into_view_if_needed()
    session = page.context.new_cdp_session(page)

    def pen(kind: str, x: float, y: float) -> None:
        x, y = on_screen(page, x, y)
        told = {"type": kind, "x": x, "y": y, "button": "left", "buttons": 1, "clickCount": 1}
        session.send("Input.dispatchMouseEvent", told | {"pointerType": "pen"})

    def hand(kind: str, *points: tuple[float, float]) -> None:
        at = [dict(zip("xy", on_screen(page, *point), strict=True)) for point in points]
        session.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": at})

    # It comes down before the pen, and once more during the stroke.
    hand("touchStart", (200, 200))
    pen("mousePressed", 60, 60)
    hand("touchMove", (204, 204))
    pen("mouseMoved", 80, 60)
    hand("touchEnd")
    hand("touchStart", (200, 200))
    pen("mouseMoved", 200, 60)
    pen("mouseReleased", 200, 60)
    hand("touchEnd")
    left, top, right, bottom = bounds(painted(page))
    assert left < 60 and right > 200 and top < 60 and bottom < 100, "the whole stroke of the pen"
    assert page.inner_text("[data-act=fit]") == "100%"


def test_a_visit_on_a_dark_phone(page, server):
    """The same with a finger's width of screen, and light text on dark ground."""
    context = page.context.browser.new_context(
        viewport={"width": 390, "height": 844}, color_scheme="dark", has_touch=True
    )
    visit = context.new_page()
    try:
        visit.set_default_timeout(PATIENCE)
        visit.on("request", lambda request: page.requests.append(request.url))
        visit.goto(server)
        visit.locator("[data-example]").first.click()
        wait_for_status(visit, "colosseum.jpg")
        visit.wait_for_function("asyncdsb.maps.now.height < asyncdsb.maps.now.width")
        shown = visit.locator("#editor canvas")
        shown.scroll_into_view_if_needed()
        box = shown.bounding_box()
        assert box["x"] >= 0 and box["x"] + box["width"] <= 390
        before = hole_shown(visit)
        x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
        touch(visit, [[(x + 10 + 6 * i, y - 20)] for i in range(6)])
        assert wait_for_another_hole(visit, before.mean()).sum() > before.sum()
        hole = visit.evaluate("asyncdsb.canvas.hole()")
        touch(visit, [[(x - 20 - 8 * i, y), (x + 20 + 8 * i, y)] for i in range(6)])
        assert int(visit.inner_text("[data-act=fit]").rstrip("%")) > 200
        assert visit.evaluate("asyncdsb.canvas.hole()") == hole, "two fingers paint nothing"
        for button in visit.locator("#editor .tools button:visible").all():
            side = button.bounding_box()
            assert side["width"] >= 44 and side["height"] >= 44
        set_slider(visit, "steps", 2)
        visit.click("#restore")
        wait_for_status(visit, "Done")
        visit.locator("#editor img.restored").wait_for(state="visible")
        # Two fingers look at the result more closely; one that paints goes on with it.
        visit.click("[data-act=fit]")
        shown.scroll_into_view_if_needed()
        box = shown.bounding_box()
        x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
        apart = [[(x - 20 - 8 * i, y), (x + 20 + 8 * i, y)] for i in range(6)]
        touch(visit, [[(x - 20, y)], *apart])
        assert int(visit.inner_text("[data-act=fit]").rstrip("%")) > 200
        assert visit.evaluate("asyncdsb.canvas.hasResult()")
        assert visit.locator("#editor .kept").count() == 0, "nothing was taken over"
        touch(visit, [[(x + 6 * i, y)] for i in range(6)])
        wait_for_status(visit, "Press Restore")
        assert not visit.evaluate("asyncdsb.canvas.hasResult()")
        assert visit.evaluate("() => document.documentElement.scrollWidth") <= 390
        brightness = visit.evaluate(
            """() => ['color', 'backgroundColor'].map((name) => {
                const style = getComputedStyle(document.querySelector('.pane'));
                return style[name].match(/[0-9.]+/g).slice(0, 3).reduce((a, b) => a + Number(b), 0);
            })"""
        )
        assert brightness[0] > brightness[1] + 300, brightness
    finally:
        context.close()


TOO_SMALL = """() => {
    const controls = 'button, a[href], input, select, summary, textarea, label:not([for])';
    return [...document.querySelectorAll(controls)].filter((one) => {
        const {width, height} = one.getBoundingClientRect();
        // A label is pressed with all that is in it; links in a sentence are as high as the line.
        const label = one.closest('label:not([for])');
        const seen = one.checkVisibility({opacityProperty: true, visibilityProperty: true});
        if (!seen || (label && label !== one) || one.matches('p a, footer *')) return false;
        return width > 1 && !one.closest('[aria-hidden=true]') && Math.min(width, height) < 43.5;
    }).map((one) => one.outerHTML.slice(0, 120));
}"""


def test_a_phone_shows_canvas_stage_and_settings_in_this_order(page, server):
    """The film runs right below the picture, stays there, and a finger hits every control."""
    context = page.context.browser.new_context(
        viewport={"width": 390, "height": 844}, has_touch=True, is_mobile=True
    )
    visit = context.new_page()

    def tops(*names: str) -> list[float]:
        boxes = [visit.locator(f"#{name}").bounding_box() for name in names]
        return [box["y"] + visit.evaluate("scrollY") for box in boxes]

    try:
        visit.set_default_timeout(PATIENCE)
        visit.on("request", lambda request: page.requests.append(request.url))
        visit.goto(server)
        visit.locator("#model .done").wait_for(state="attached")
        box = visit.locator("#restore").bounding_box()
        assert box["y"] + box["height"] <= 844, "Restore is on the first screen"
        order = ["editor", "restore", "frame", "weights", "steps", "more", "examples", "tau-min"]
        places = tops(*order)
        assert places == sorted(places)
        # Until its place is in view, Restore sticks to the screen's end.
        visit.locator("#frame").scroll_into_view_if_needed()
        status = visit.locator("#said").bounding_box()
        frame = visit.locator("#frame").bounding_box()
        between = frame["y"] - status["y"] - status["height"]
        assert between < 90, "nothing but a heading stands between"
        visit.set_viewport_size({"width": 390, "height": 500})
        visit.evaluate("() => scrollTo(0, 0)")
        box = visit.locator("#restore").bounding_box()
        assert box["y"] + box["height"] <= 500, "it stays in reach on a lower screen"
        # Behind it until it gets the focus.
        chip = visit.get_by_role("button", name="Center")
        chip.evaluate("one => scrollBy(0, one.getBoundingClientRect().bottom - 495)")
        chip.focus()
        box, bar = chip.bounding_box(), visit.locator("#run-bar").bounding_box()
        assert box["y"] + box["height"] <= bar["y"], "what has the focus is not behind it"
        visit.set_viewport_size({"width": 390, "height": 844})

        set_slider(visit, "steps", 2)
        visit.evaluate("() => document.activeElement.blur()")
        before = tops("frame")[0]
        visit.click("#restore")
        wait_for_status(visit, "Done")
        visit.locator("#downloads").wait_for(state="visible")
        # What comes with the result does not push the film away: a line of the status at most.
        assert abs(tops("frame")[0] - before) <= 25
        places = tops("frame", "downloads", "strip", "weights")
        assert places == sorted(places)

        visit.locator("#more-title button").click()
        visit.get_by_role("radio", name="painted").check(force=True)
        visit.wait_for_timeout(500)
        assert visit.evaluate(TOO_SMALL) == []
        visit.get_by_role("tab", name="How it works").click()
        visit.wait_for_timeout(300)
        assert visit.evaluate(TOO_SMALL) == []
        assert visit.evaluate("() => document.documentElement.scrollWidth") <= 390
        visit.locator(".tale .kept").scroll_into_view_if_needed()
        assert visit.locator(".tale .clockwork").bounding_box()["y"] >= 0, "moves what is seen"
    finally:
        context.close()


def test_programs_can_restore_files(server, photo, tmp_path):
    from gradio_client import Client, handle_file
    from gradio_client.exceptions import AppError

    client = Client(server, verbose=False, download_files=str(tmp_path / "downloads"))
    mask = np.zeros((SIZE[1], SIZE[0]), bool)
    mask[50:90, 60:100] = True
    files = {
        "photo": handle_file(str(photo)),
        "mask": handle_file(str(save_mask(mask, tmp_path / "mask.png"))),
    }
    path, settings = client.predict(**files, steps=2, seed=5, api_name="/inpaint")
    changed = (np.asarray(Image.open(path)) != np.asarray(Image.open(photo))).any(-1)
    assert changed[mask].any() and not changed[~mask].any()
    assert settings["seed"] == 5 and settings["tau_max"] == 0.5
    small = save_mask(mask[:40], tmp_path / "small.png")
    with pytest.raises(AppError, match="same size"):
        client.predict(**files | {"mask": handle_file(str(small))}, api_name="/inpaint")


def test_nothing_leaves_this_machine(page, server, outside):
    """Runs last: over all of the visits above, browser and server spoke to each other only."""
    hosts = {urlsplit(url).netloc for url in page.requests if not re.match("data:|blob:", url)}
    assert hosts == {urlsplit(server).netloc}
    assert outside.calls == []
    assert page.errors == []
