"""How long a visitor waits: page load, a slider to its picture, upload to the maps, first frame.

    python -m benchmarks.page_latency [--repeat 5]

Starts the page with the bundled weights and visits it in a headless Chromium, as the browser tests
do. Prints a Markdown table of medians and worst cases; "more than one step" sets the first frame
against one step of the same run.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.page_server import FLAGS, chromium, served

PATIENCE = 120_000  # milliseconds
SETTLED = 2_000  # milliseconds until the canvas has loaded and fitted a photograph

SLIDE = """async (values) => {
    const canvas = document.querySelector('#tau canvas');
    const input = document.querySelector('#tau-max input[type=range]');
    const set = Object.getOwnPropertyDescriptor(HTMLInputElement.prototype, 'value').set;
    const times = [];
    for (const value of values) {
        const before = canvas.toDataURL();
        const started = performance.now();
        set.call(input, value);
        input.dispatchEvent(new Event('input', {bubbles: true}));
        while (canvas.toDataURL() === before) await new Promise(requestAnimationFrame);
        times.push((performance.now() - started) / 1000);
        await new Promise((done) => setTimeout(done, 60));
    }
    return times;
}"""

# Until the browser has drawn both maps: it then has a frame with them behind it.
MAPS = """async () => {
    const shown = () => document.querySelector('#tau .filled canvas')
        && document.querySelector('#gradient .filled img');
    const started = performance.now();
    [...document.querySelectorAll('#holes button')].find((b) => b.innerText === 'Wide').click();
    const next = () => new Promise(requestAnimationFrame);
    await next();
    while (!shown()) await next();
    await document.querySelector('#gradient .filled img').decode();
    await next();
    await next();
    return (performance.now() - started) / 1000;
}"""

STROKE = """() => {
    const image = () => document.querySelector('#gradient .filled img');
    const before = image().src;
    const next = () => new Promise(requestAnimationFrame);
    window.stroke = null;
    document.addEventListener('pointerup', async () => {
        const started = performance.now();
        while (!image() || image().src === before) await next();
        await image().decode();
        await next();
        await next();
        window.stroke = (performance.now() - started) / 1000;
    }, {once: true});
}"""

FRAMES = """() => {
    window.arrived = [];
    const frame = document.querySelector('#frame [data-step]');
    new MutationObserver(() => arrived.push([frame.dataset.step, performance.now() / 1000]))
        .observe(frame, {attributes: true, attributeFilter: ['data-step']});
}"""


@contextmanager
def browser() -> Iterator:
    """A Chromium."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=chromium(), args=FLAGS)
        yield found
        found.close()


def import_seconds() -> float:
    """Seconds that a Python takes to start and import the page's library."""
    begun = time.monotonic()
    subprocess.run([sys.executable, "-c", "import gradio"], check=True)
    return time.monotonic() - begun


def load(window, address: str) -> tuple[float, Any]:
    """Seconds until the page can be used, and the page."""
    page = window.new_page(viewport={"width": 1440, "height": 900})
    page.set_default_timeout(PATIENCE)
    started = time.monotonic()
    page.goto(address)
    page.wait_for_selector("#restore", state="visible")
    page.wait_for_selector("[data-example]", state="visible")
    seconds = time.monotonic() - started
    page.wait_for_selector("#model .done")
    return seconds, page


def maps_after_upload(page, photo: Path) -> float:
    """Seconds from a press on a preset hole to both maps, once the photograph is on the canvas."""
    page.set_input_files("#editor input[type=file]", str(photo))
    page.wait_for_function(
        "name => document.querySelector('#status').innerText.includes(name)", arg=photo.name
    )
    page.wait_for_selector("#tau .filled", state="detached")
    page.wait_for_timeout(SETTLED)
    seconds = page.evaluate(MAPS)
    page.wait_for_timeout(SETTLED)
    return seconds


def maps_after_stroke(page) -> float:
    """Seconds from the end of a stroke to the maps with it, the pause for the next one included."""
    page.evaluate(STROKE)
    box = page.locator("#editor canvas").bounding_box()
    middle = box["y"] + box["height"] / 2
    page.mouse.move(box["x"] + 0.3 * box["width"], middle)
    page.mouse.down()
    page.mouse.move(box["x"] + 0.7 * box["width"], middle + 20, steps=8)
    page.mouse.up()
    seconds = page.wait_for_function("stroke", timeout=PATIENCE / 4).json_value()
    page.wait_for_timeout(SETTLED)
    return seconds


def first_frame(page) -> tuple[float, float]:
    """Seconds from Restore to the first frame, and per step after it."""
    page.evaluate(FRAMES)
    started = page.evaluate("() => performance.now() / 1000")
    page.click("#restore")
    page.wait_for_function("document.querySelector('#status').innerText.includes('Done')")
    arrived = [(int(step), at) for step, at in page.evaluate("() => arrived") if step]
    first, last = arrived[0], arrived[-1]
    return first[1] - started, (last[1] - first[1]) / max(1, last[0] - first[0])


def open_example(page, name: str) -> None:
    """Open an example with a hole, and wait until its maps are drawn."""
    page.locator(f"[data-example][title^='{name},']").click()
    page.wait_for_function(
        "name => document.querySelector('#status').innerText.includes(name)", arg=f"{name}.jpg"
    )
    page.wait_for_selector("#tau .filled canvas")
    page.wait_for_timeout(SETTLED)


def main(argv: list[str] | None = None) -> None:
    """Run the command line."""
    options = argparse.ArgumentParser(prog="python -m benchmarks.page_latency", description=__doc__)
    options.add_argument("--repeat", type=int, default=5)
    repeat = options.parse_args(argv).repeat
    rng = np.random.default_rng(0)
    rows: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as folder, served() as server, browser() as window:
        started, loads = server.started_in, []
        for _ in range(repeat):
            seconds, page = load(window, server.address)
            loads.append(seconds)
            if len(loads) < repeat:
                page.close()
        rows["page load to usable"] = loads
        maps, strokes, firsts, steps, memory = [], [], [], [], []
        for number in range(repeat):
            small = Image.fromarray(rng.integers(0, 256, (12, 18, 3), dtype=np.uint8))
            photo = Path(folder, f"photo-{number}.png")
            small.resize((768, 512), Image.Resampling.BICUBIC).save(photo)
            maps.append(maps_after_upload(page, photo))
            strokes.append(maps_after_stroke(page))
            first, step = first_frame(page)
            firsts.append(first)
            steps.append(step)
            memory.append(server.resident_mib())
        rows["hole to gradient and tau, 768 x 512"] = maps
        rows["stroke to gradient and tau"] = strokes
        rows["Restore to the first frame"] = firsts
        rows["one step"] = steps
        portraits = []
        for _ in range(repeat):
            open_example(page, "portrait-1")
            portraits.append(first_frame(page))
        rows["Restore to the first frame, portrait example"] = [first for first, _ in portraits]
        rows["one step, portrait example"] = [step for _, step in portraits]
        # Stretched to its range, the heatmap would not change.
        page.locator("#tau .absolute").check()
        values = [round(0.55 + 0.02 * (i % 20), 2) for i in range(4 * repeat)]
        rows["slider to heatmap"] = page.evaluate(SLIDE, values)
    library = min(import_seconds() for _ in range(3))
    print("| what | median | worst |\n| --- | ---: | ---: |")
    for name, times in rows.items():
        print(f"| {name} | {statistics.median(times):.3f} s | {max(times):.3f} s |")
    print(f"| start of the server, more than importing gradio | {started - library:.3f} s | |")
    for what, pairs in (
        ("", zip(firsts, steps, strict=True)),
        (", portrait example", portraits),
    ):
        extra = statistics.median(first - step for first, step in pairs)
        print(f"| first frame, more than one step{what} | {extra:.3f} s | |")
    for number in sorted({1, (repeat + 1) // 2, repeat}):
        what = f"memory of the server after {number} restorations"
        print(f"| {what} | {memory[number - 1]:.0f} MiB | |")


if __name__ == "__main__":
    main()
