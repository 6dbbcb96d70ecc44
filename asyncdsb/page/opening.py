"""The finished example that the page shows before its models are loaded.

``python -m asyncdsb.page.opening`` makes it anew, with the bundled weights, into
``assets/opening.json``.
"""

from __future__ import annotations

import dataclasses
import io
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from asyncdsb.page import handlers, payload
from asyncdsb.page.engine import Pace, Step, run_steps
from asyncdsb.page.updates import Update, format_maps
from asyncdsb.photo.settings import Settings

EXAMPLE = "portrait-1"
RUN = Settings(tau_min=0.0, tau_max=1.0, steps=36, grid="uniform", seed=22)
"""Steps that are even in t, so that the film runs evenly; the widest range, so that edges are seen
to come first."""

MARGIN = 0.12
"""Of the hole's longer side, around it in the film."""

SAID = "This is an example. Press Restore to run it here, or open a photo of your own."


def read(names: Sequence[str], examples: Path) -> Update:
    """What the parts of the page show at first; nothing if the example's weights are not offered.

    Args:
        names: of the weights that a visitor can choose from.
        examples: folder of the photographs that come with the page.
    """
    path = examples.parent / "opening.json"
    chosen = [one for one in handlers.find_examples(examples) if one.path.stem == EXAMPLE]
    if not path.is_file() or not chosen or chosen[0].weights not in names:
        return {}
    photo, image, mask = chosen[0].read()
    shown = handlers.show(dataclasses.replace(photo, opening=True), mask, None, image)
    copy = payload.base64_of(shown["editor"].pop("picture"))
    picture = {"url": f"data:image/jpeg;base64,{copy}"}
    # The maps are here: an answer that came late would take the place of another photo's.
    editor = shown["editor"] | {"picture": picture, "named": {}, "maps": True}
    made: Update = json.loads(path.read_text(encoding="utf-8"))
    seen = handlers.maps_of(shown["photo"], editor["hole"], Settings.tiles)
    return shown | made | {"editor": editor, "seen": seen, "status": SAID}


def make(pipe: Any, example: handlers.Example) -> Update:
    """Run the example with its own schedules and with one for all pixels."""
    _, image, mask = example.read()
    rows, columns = np.nonzero(mask)
    margin = round(MARGIN * max(np.ptp(rows), np.ptp(columns)))
    box = (
        max(0, int(columns.min()) - margin), max(0, int(rows.min()) - margin),
        min(image.width, int(columns.max()) + 1 + margin),
        min(image.height, int(rows.max()) + 1 + margin),
    )  # fmt: skip

    def frames(steps: Iterator[Step]) -> tuple[list[dict[str, Any]], list[Step]]:
        seen = list(steps)
        film = []
        for step in seen:
            pictures = {"x_t": step.x_t, "x0_hat": step.x0_hat}
            film.append(
                {"t": round(step.t, 4)} | {name: _webp(one, box) for name, one in pictures.items()}
            )
        return film, seen

    own, seen = frames(run_steps(pipe, image, mask, RUN, maps=True))
    synchronous = Settings(
        tau_min=0.5, tau_max=0.5, strategy="uniform", steps=RUN.steps, grid=RUN.grid, seed=RUN.seed
    )
    other, beside = frames(run_steps(pipe, image, mask, synchronous))
    maps = format_maps(seen[0].maps, image, mask, Pace())
    # The script's own range is that of the sliders of a page without an example.
    tau = maps["tau"] | {"range": [RUN.tau_min, RUN.tau_max, RUN.strategy]}
    shown = {
        "tau": tau,
        "frame": {"frames": own, "other": other, "crop": [0, 0, 1, 1], "opening": True},
        "timing": payload.timing_payload(seen[-1].shares, beside[-1].shares),
    }
    return maps | shown | {name: getattr(RUN, name) for name in handlers.OPENING}


def _webp(pixels: np.ndarray, box: tuple[int, int, int, int]) -> str:
    buffer = io.BytesIO()
    Image.fromarray(pixels).crop(box).save(buffer, "WEBP", quality=82, method=6)
    return "data:image/webp;base64," + payload.base64_of(buffer.getvalue())


def main() -> int:
    """Make the file anew."""
    from asyncdsb.pipeline import AsyncDSBPipeline

    examples = Path(__file__).resolve().parents[2] / "assets" / "examples"
    (chosen,) = [one for one in handlers.find_examples(examples) if one.path.stem == EXAMPLE]
    made = make(AsyncDSBPipeline.from_pretrained(chosen.weights), chosen)
    path = examples.parent / "opening.json"
    path.write_text(json.dumps(made, separators=(",", ":")) + "\n", encoding="utf-8")
    print(f"{path}: {path.stat().st_size // 1024} KiB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
