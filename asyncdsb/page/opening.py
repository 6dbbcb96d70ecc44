"""The finished example that the page shows before its models are loaded.

``python -m asyncdsb.page.opening`` makes it anew, with the bundled weights, into
``assets/opening.json``.
"""

import dataclasses
import json
from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
from PIL import Image

from asyncdsb.page import handlers, payload
from asyncdsb.page.engine import Pace, Step, run_steps
from asyncdsb.page.payload import Update
from asyncdsb.page.press import range_of, synchronous
from asyncdsb.photo.settings import Settings

FILE = handlers.EXAMPLES.with_name("opening.json")
EXAMPLE = "portrait-1"
# Steps that are even in t, so that the film runs evenly; a wide range, so that edges are seen to
# come first. From tau 0 on, the last steps of the flattest pixels would be too large.
RUN = Settings(tau_min=0.1, tau_max=0.9, steps=36, grid="uniform", seed=17)
MARGIN = 0.12  # Of the hole's longer side, around it in the film.
SAID = "This is an example. Press Restore to run it here, or open a photo of your own."


def read(names: Sequence[str]) -> Update:
    """What the parts of the page show at first.

    Nothing if the example's weights are not among the names of those that a visitor can choose.
    """
    example = handlers.Example(handlers.EXAMPLES / f"{EXAMPLE}.jpg")
    if example.weights not in names:
        return {}
    photo, image, mask = example.read()
    own = {name: getattr(RUN, name) for name in handlers.AFTER_OPENING}
    shown = handlers.show(dataclasses.replace(photo, opening=own), mask, None, image)
    copy = payload.base64_of(shown["editor"].pop("picture"))
    picture = {"url": f"data:image/jpeg;base64,{copy}"}
    # The maps are here: an answer that came late would take the place of another photo's.
    editor = shown["editor"] | {"picture": picture, "named": {}, "maps": True}
    made: Update = json.loads(FILE.read_text(encoding="utf-8"))
    seen = handlers.maps_of(shown["photo"], editor["hole"], Settings.tiles)
    return shown | made | {"editor": editor, "seen": seen, "status": SAID}


def make(pipe: Any, image: Image.Image, mask: np.ndarray) -> Update:
    """Run the example with its own schedules and with one for all pixels."""
    left, top, width, height = cv2.boundingRect(mask.astype(np.uint8))
    right, bottom = left + width, top + height
    margin = round(MARGIN * (max(width, height) - 1))
    box = (
        max(0, left - margin), max(0, top - margin),
        min(image.width, right + margin), min(image.height, bottom + margin),
    )  # fmt: skip

    def frame(step: Step) -> dict[str, Any]:
        pictures = {"x_t": step.x_t, "x0_hat": step.x0_hat}
        return {"t": round(step.t, 4)} | {
            name: payload.data_uri(picture.crop(box), "WEBP", quality=82, method=6)
            for name, picture in pictures.items()
        }

    own = list(run_steps(pipe, image, mask, RUN, maps=True))
    other = list(run_steps(pipe, image, mask, synchronous(RUN)))
    maps = payload.format_maps(own[0].maps, image, mask, Pace())
    # The script's own range is that of the sliders of a page without an example.
    maps["tau"]["range"] = range_of(RUN)
    film = {"frames": [*map(frame, own)], "other": [*map(frame, other)]}
    return maps | {
        "frame": film | {"crop": [0, 0, 1, 1], "opening": True, "range": range_of(RUN)},
        "timing": payload.timing_payload(own[-1].shares, other[-1].shares),
        **{name: getattr(RUN, name) for name in handlers.AFTER_OPENING},
        # Restore gives the same picture before the weights have told it.
        "guidance": pipe.config.guidance,
    }


def main() -> None:
    """Make the file anew."""
    from asyncdsb.pipeline import AsyncDSBPipeline

    example = handlers.Example(handlers.EXAMPLES / f"{EXAMPLE}.jpg")
    # As most visitors' processors compute it, so that Restore gives the picture of the film.
    pipe = AsyncDSBPipeline.from_pretrained(example.weights, precision="fp32")
    made = make(pipe, *example.read()[1:])
    FILE.write_text(json.dumps(made, separators=(",", ":")) + "\n", encoding="utf-8")
    print(f"{FILE}: {FILE.stat().st_size // 1024} KiB")


if __name__ == "__main__":
    main()
