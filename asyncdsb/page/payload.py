"""What travels to the browser: maps, frames and messages as small JSON values.

A handler's answer is an :data:`Update`. The heatmap of tau is drawn in the browser: every
strategy's map is affine in the range,

    tau = tau_min + (tau_max - tau_min) r,    r in [0, 1],

so r is sent once, as the package's own tau map for the range [0, 1].
"""

import base64
import dataclasses
import html
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from asyncdsb.gradient import image_gradient
from asyncdsb.page import session
from asyncdsb.page.engine import Maps, Pace, Shares, Step
from asyncdsb.photo.images import encoded, to_tensor
from asyncdsb.photo.settings import Settings
from asyncdsb.schedule import NoiseSchedule, relative_gradient
from asyncdsb.show import viz

RESULT_SIDE = 2048  # Longest side in pixels of the result as the canvas shows it.
ABOUT_SIDE = 150  # Likewise of the photo of the explanation.
FILM_FRAMES = 41  # Most frames of a finished run that are sent at once.
SUBTLE = 0.03  # Difference of shares restored that hardly shows.

# In the order in which they need one another.
SCRIPTS = ("maps.js", "canvas.js", "stage.js", "story.js", "help.js", "page.js")

# What a preview of a link to the page shows.
META = """
<meta name="description" content="Paint a hole into a photo and watch a diffusion bridge restore it,
edges first: predicted gradient, a schedule for every pixel, live sliders. Runs on a plain CPU.">
<meta property="og:title" content="AsyncDSB: inpainting that restores edges first">
<meta property="og:description" content="Paint a hole into a photo and watch it come back, pixel by
pixel in its own time.">
"""

Update = dict[str, Any]
"""By name of a part of the page its new value, or :class:`Props` of it."""


class Props(dict):
    """New properties of a part, beside or in place of its value."""


# Empties the parts that belong to a run, when another photograph or mask comes.
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


def asset(name: str, **values: object) -> str:
    """One of the page's own text files, with values in place of ``@NAME@`` in it."""
    text = Path(__file__).with_name(name).read_text(encoding="utf-8")
    for place, value in values.items():
        text = text.replace(f"@{place}@", str(value))
    return text


def head() -> str:
    """The page's style and script, with the colour table of the heatmap filled in.

    In place of the page library's own way, by which the style comes after the page was laid out.
    """
    # Before the weights are there, the default schedule is drawn.
    schedule = NoiseSchedule()
    values = {
        "TAU_COLOURS": viz.colour_table(viz.TAU_COLOURS).tobytes().hex(),
        "HOLE_COLOUR": bytes(viz.HOLE_COLOUR).hex(),
        "LINKED": json.dumps([*session.SETTINGS, "weights", "example", "mask"]),
        "BETA_MIN": schedule.beta_min,
        "BETA_MAX": schedule.beta_max,
        "TAU_MIN": Settings.tau_min,
        "TAU_MAX": Settings.tau_max,
        "STEPS": Settings.steps,
    }
    script = "".join(asset(name, **values) for name in SCRIPTS)
    style = asset("style.css") + asset("canvas.css")
    return f"{META}<style>{style}</style><script>{script}</script>"


def base64_of(data: bytes | np.ndarray) -> str:
    """Bytes, or those of an array, as a text."""
    return base64.b64encode(bytes(data)).decode()


def data_uri(picture: Image.Image, kind: str = "JPEG", **options: Any) -> str:
    """Encode a picture as a data URI; JPEG takes a tenth of WebP's time."""
    data = encoded(picture, format=kind, **(options or {"quality": 88}))
    return f"data:image/{kind.lower()};base64,{base64_of(data)}"


def format_maps(maps: Maps, image: Image.Image, mask: np.ndarray, pace: Pace) -> Update:
    """Encode the predicted gradient as a picture, and the orders of restoration for the heatmap.

    Args:
        maps: predicted for the photograph and its mask.
        image: the photograph.
        mask: bool (H, W), True = missing.
        pace: of the machine.

    Returns:
        ``gradient`` with ``picture``. ``tau`` with ``width``, ``height``; ``orders``: per strategy
        little-endian uint16 values round(65535 r) in base64, or one number in [0, 1] where r is the
        same everywhere; ``hole``: uint8 share of missing pixels, 255 = all, in base64; ``grey``:
        uint8 luma of the photograph in base64; ``schedule``: beta_min and beta_max;
        ``step_seconds``: how long a step takes, if that is known; ``box``: the square around the
        head.
    """
    gradient = viz.shrink_map(maps.gradient, 2 * session.MAP_SIDE)
    heatmap = viz.heatmap(gradient, viz.GRADIENT_COLOURS, compand=True)
    hole = np.rint(viz.shrink_map(mask, session.MAP_SIDE) * 255).astype(np.uint8)
    grey = image.convert("L").resize(hole.shape[::-1], Image.Resampling.BOX)
    orders: dict[str, float | str] = {}
    for name, order in maps.orders.items():
        if order.min() == order.max():
            orders[name] = float(order.flat[0])
        else:
            small = np.rint(viz.shrink_map(order, session.MAP_SIDE).clip(0, 1) * 65535)
            orders[name] = base64_of(small.astype("<u2"))
    order_map = {
        "width": hole.shape[1],
        "height": hole.shape[0],
        "orders": orders,
        "hole": base64_of(hole),
        "grey": base64_of(np.asarray(grey)),
        "schedule": [maps.schedule.beta_min, maps.schedule.beta_max],
        "step_seconds": pace.of_step(maps.work),
        "box": maps.box,
    }
    picture = data_uri(heatmap, "WEBP", lossless=True, method=0)
    return {"gradient": {"picture": picture}, "tau": order_map}


def frame_payload(state: Step) -> dict[str, Any]:
    """Encode one frame of the restoration: the state x_t and the prediction made from it."""
    return {
        "step": state.step,
        "steps": state.steps,
        "t": round(state.t, 4),
        "x_t": data_uri(state.x_t),
        "x0_hat": data_uri(state.x0_hat),
    }


def film_payload(**runs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Put the frames of finished runs together, at most :data:`FILM_FRAMES` of each.

    Args:
        **runs: ``frames`` of :func:`frame_payload`, first to last; ``other``, those of a run of as
            many steps that is shown beside it, if any.
    """
    steps = len(runs["frames"])
    chosen = np.linspace(0, steps - 1, min(steps, FILM_FRAMES)).round().astype(int)
    kept = ("t", "x_t", "x0_hat")
    return {part: [{k: run[i][k] for k in kept} for i in chosen] for part, run in runs.items()}


def timing_payload(own: Shares | None, other: Shares | None = None) -> dict[str, Any] | None:
    """Say and encode how much of each part of the hole was restored when.

    Args:
        own: of the run; None for a hole that is too small to tell.
        other: of a synchronous run that is shown beside it.

    Returns:
        The fields of ``own``; ``other``, likewise or None; ``sentence``.
    """
    if own is None:
        return None
    middle = int(np.argmin(np.abs(np.asarray(own.t) - 0.5)))
    steep, flat = (own.measured[name][middle] for name in ("steep", "flat"))
    said = f"At t = {own.t[middle]:.2f} T the steepest third of the hole was {steep:.0%} restored"
    said += f" and the flattest third {flat:.0%}. "
    if other is not None:
        at = int(np.argmin(np.abs(np.asarray(other.t) - own.t[middle])))
        values = [other.measured[name][at] for name in ("flat", "steep")]
        said += f"With one schedule for all pixels it was {values[0]:.0%} and {values[1]:.0%}."
    elif own.scheduled["steep"] == own.scheduled["flat"]:
        said += "All pixels had one schedule."
    elif abs(steep - flat) < SUBTLE:
        said += "With this range of tau the order hardly shows; try 0 to 1."
    else:
        first = "Edges" if steep > flat else "Flat areas"
        said += f"{first} came first, as their schedules say."
    beside = other and dataclasses.asdict(other)
    return dataclasses.asdict(own) | {"other": beside, "sentence": said}


def duration(seconds: float) -> str:
    """Say roughly how long something takes."""
    if seconds < 1:
        return "less than a second"
    return f"about {seconds:.0f} s" if seconds < 100 else f"about {seconds / 60:.0f} minutes"


def message(text: str, kind: str = "info") -> str:
    """Format one line of status; ``kind`` is one of info, busy, done, error."""
    return f'<p class="message {kind}">{html.escape(text)}</p>'


def about(photo: Path) -> str:
    """Format the explanation with what its live pictures are drawn from.

    They show the forward bridge, whose end is known: a small copy of an example photo, the start
    that a hole over all of it would have, and the true order of restoration.
    """
    with Image.open(photo) as picture:
        picture.thumbnail((ABOUT_SIDE, ABOUT_SIDE), Image.Resampling.LANCZOS)
        small = picture.convert("RGB")
    gradient = image_gradient(to_tensor(small))
    order = relative_gradient(gradient, 1.0, torch.ones_like(gradient))[0, 0].numpy()
    rng = np.random.default_rng(0)
    coarse = small.resize((6, 4), Image.Resampling.BOX)
    blurred = coarse.resize(small.size, Image.Resampling.BICUBIC)
    start = np.asarray(blurred, np.float32) + rng.normal(0, 40, (*order.shape, 3))
    return asset(
        "about.html",
        WIDTH=small.width,
        HEIGHT=small.height,
        PHOTO=base64_of(np.asarray(small)),
        START=base64_of(start.clip(0, 255).astype(np.uint8)),
        ORDER=base64_of(np.rint(255 * order).astype(np.uint8)),
    )


def example_buttons(examples: list[tuple[str, Image.Image, np.ndarray | None]]) -> str:
    """Format the strip of example photographs: name, pixels, and mask or None of each."""
    buttons = []
    for index, (name, photo, mask) in enumerate(examples):
        shown = photo.copy() if mask is None else viz.paint_hole(photo, mask)
        shown.thumbnail((192, 192))
        title = f"{name}, {'paint your own hole' if mask is None else 'with a prepared hole'}"
        buttons.append(
            f'<button type="button" data-example="{index}" title="{title}" aria-label="{title}">'
            f'<img alt="" src="{data_uri(shown)}"></button>'
        )
    return f'<div class="examples">{"".join(buttons)}</div>'
