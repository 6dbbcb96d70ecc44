"""Answers to the browser: by name of a part of the page, its new value or properties."""

from __future__ import annotations

from typing import Any

import numpy as np
from PIL import Image

from asyncdsb.page import payload
from asyncdsb.page.engine import Maps, Pace


class Props(dict):
    """New properties of a part, beside or in place of its value."""


Update = dict[str, Any]

# The parts that belong to a run, emptied when another photograph or mask comes.
NO_RUN: Update = {
    "frame": None,
    "compare": None,
    "timing": None,
    "result": Props(value=None, interactive=False),
    **dict.fromkeys(("animation", "movie", "files", "reuse"), Props(interactive=False)),
}

NO_MAPS: Update = {"gradient": None, "tau": None, "seen": None}
IDLE: Update = {"restore": Props(interactive=True), "stop": Props(interactive=False)}
BUSY: Update = {"restore": Props(interactive=False), "stop": Props(interactive=True)}


def format_maps(maps: Maps, image: Image.Image, mask: np.ndarray, pace: Pace) -> Update:
    """Format the heatmaps."""
    order = payload.order_payload(maps.orders, image, mask, maps.schedule)
    return {
        "gradient": payload.gradient_payload(maps.gradient),
        "tau": order | {"step_seconds": pace.of_step(maps.work)},
    }
