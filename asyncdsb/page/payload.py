"""What travels to the browser: maps, frames and messages as small JSON values.

The heatmap of tau is drawn in the browser. Every strategy's map is affine in the range,

    tau = tau_min + (tau_max - tau_min) r,    r in [0, 1],

so r is sent once, as the package's own tau map for the range [0, 1], and a slider that moves needs
no answer from the server.
"""

from __future__ import annotations

import base64
import dataclasses
import html
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from asyncdsb.gradient import image_gradient
from asyncdsb.page import session
from asyncdsb.page.engine import Moment, Shares
from asyncdsb.photo.images import to_tensor
from asyncdsb.schedule import NoiseSchedule, relative_gradient
from asyncdsb.show import viz

MAP_SIDE = 256
"""Longest side in pixels of the maps that are sent."""

RESULT_SIDE = 2048
"""Longest side in pixels of the result as the canvas shows it."""

ABOUT_SIDE = 150
"""Longest side in pixels of the photo of the explanation."""

FILM_FRAMES = 41
"""Most frames of a finished run that are sent at once."""

SCRIPTS = ("maps.js", "canvas.js", "stage.js", "story.js", "help.js", "page.js")
"""The page's script, in the order in which its parts need one another."""

META = """
<meta name="description" content="Paint a hole into a photo and watch a diffusion bridge restore it,
edges first: predicted gradient, a schedule for every pixel, live sliders. Runs on a plain CPU.">
<meta property="og:title" content="AsyncDSB: inpainting that restores edges first">
<meta property="og:description" content="Paint a hole into a photo and watch it come back, pixel by
pixel in its own time.">
"""
"""What a preview of a link to the page shows."""

SUBTLE = 0.03
"""Difference of shares restored that hardly shows."""

_FOLDER = Path(__file__).parent


def asset(name: str) -> str:
    """Return one of the page's own text files (``style.css``, ``page.js``, ``*.html``)."""
    return (_FOLDER / name).read_text(encoding="utf-8")


def head() -> str:
    """Return the page's style and script, with the colour table of the heatmap filled in.

    In place of the page library's own way, by which the style comes after the page was laid out.
    """
    table = viz.colour_table(viz.TAU_COLOURS).tobytes().hex()
    script = "".join(asset(name) for name in SCRIPTS).replace("@TAU_COLOURS@", table)
    script = script.replace("@HOLE_COLOUR@", bytes(viz.HOLE_COLOUR).hex())
    # Before the weights are there, the default schedule is drawn.
    schedule = NoiseSchedule()
    script = script.replace("@LINKED@", json.dumps([*session.SETTINGS, "example", "mask"]))
    script = script.replace("@BETA_MIN@", str(schedule.beta_min))
    script = script.replace("@BETA_MAX@", str(schedule.beta_max))
    style = asset("style.css") + asset("canvas.css")
    return f"{META}<style>{style}</style><script>{script}</script>"


def data_uri(picture: Image.Image, lossless: bool = False, quality: int = 88) -> str:
    """Encode a picture as a data URI: JPEG, in a tenth of WebP's time, or lossless WebP."""
    buffer = io.BytesIO()
    if lossless:
        picture.save(buffer, "WEBP", lossless=True, method=0)
    else:
        picture.save(buffer, "JPEG", quality=quality)
    kind = "webp" if lossless else "jpeg"
    return f"data:image/{kind};base64," + base64.b64encode(buffer.getvalue()).decode()


def picture(uri: str) -> Image.Image:
    """Decode what :func:`data_uri` gives, RGB."""
    with Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2]))) as found:
        return found.convert("RGB")


def gradient_payload(gradient: np.ndarray) -> dict[str, Any]:
    """Encode the predicted gradient as a picture.

    Args:
        gradient: float (H, W) in [0, 1].
    """
    small = viz.shrink_map(gradient, 2 * MAP_SIDE)
    heatmap = viz.heatmap(small, viz.GRADIENT_COLOURS, compand=True)
    return {"picture": data_uri(heatmap, lossless=True)}


def order_payload(
    orders: Mapping[str, np.ndarray], image: Image.Image, mask: np.ndarray, schedule: NoiseSchedule
) -> dict[str, Any]:
    """Encode the orders of restoration for the heatmap.

    Args:
        orders: per strategy its tau map for the range [0, 1], float (H, W).
        image: the photograph.
        mask: bool (H, W), True = missing.
        schedule: noise schedule of the weights.

    Returns:
        ``width``, ``height``; ``orders``: per strategy little-endian uint16 values round(65535 r)
        in base64, or one number in [0, 1] where r is the same everywhere; ``hole``: uint8 share of
        missing pixels, 255 = all, in base64; ``grey``: uint8 luma of the photograph in base64;
        ``schedule``: beta_min and beta_max.
    """
    hole = np.rint(viz.shrink_map(mask, MAP_SIDE) * 255).astype(np.uint8)
    grey = image.convert("L").resize(hole.shape[::-1], Image.Resampling.BOX)
    encoded: dict[str, float | str] = {}
    for name, order in orders.items():
        if order.min() == order.max():
            encoded[name] = float(order.flat[0])
        else:
            small = np.rint(viz.shrink_map(order, MAP_SIDE).clip(0, 1) * 65535)
            encoded[name] = _base64(small.astype("<u2"))
    return {
        "width": hole.shape[1],
        "height": hole.shape[0],
        "orders": encoded,
        "hole": _base64(hole),
        "grey": _base64(np.asarray(grey)),
        "schedule": [schedule.beta_min, schedule.beta_max],
    }


def frame_payload(step: int, steps: int, moment: Moment) -> dict[str, Any]:
    """Encode one frame of the restoration: the state x_t and the prediction made from it."""
    return {
        "step": step,
        "steps": steps,
        "t": round(moment.t, 4),
        "width": moment.x_t.width,
        "height": moment.x_t.height,
        "x_t": data_uri(moment.x_t),
        "x0_hat": data_uri(moment.x0_hat),
    }


def film_payload(
    frames: Sequence[dict[str, Any]], other: Sequence[dict[str, Any]] | None = None
) -> dict[str, Any]:
    """Put the frames of a finished run together, at most :data:`FILM_FRAMES` of them.

    Args:
        frames: of :func:`frame_payload`, first to last.
        other: those of a run of as many steps that is shown beside it, if any.
    """
    count = min(len(frames), FILM_FRAMES)
    chosen = np.linspace(0, len(frames) - 1, count).round().astype(int)
    film = {"width": frames[0]["width"], "height": frames[0]["height"]}
    for name, run in (("frames", frames), ("other", other)):
        if run is not None:
            film[name] = [{key: run[i][key] for key in ("t", "x_t", "x0_hat")} for i in chosen]
    return film


def timing_payload(own: Shares | None, other: Shares | None = None) -> dict[str, Any] | None:
    """Say and encode how much of each part of the hole was restored when.

    Args:
        own: of the run; None for a hole that is too small to tell.
        other: of a synchronous run that is shown beside it.

    Returns:
        ``t``, ``measured``, ``scheduled`` as in :class:`asyncdsb.page.engine.Shares`; ``other``,
        the same or None; ``sentence``.
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
    elif steep - flat < SUBTLE:
        said += "With this range of tau the order hardly shows; try 0 to 1."
    else:
        said += "Edges came first, as their schedules say."
    return dataclasses.asdict(own) | {
        "other": None if other is None else dataclasses.asdict(other),
        "sentence": said,
    }


def duration(seconds: float) -> str:
    """Say roughly how long something takes."""
    if seconds < 1:
        return "less than a second"
    if seconds < 100:
        return f"about {seconds:.0f} s"
    return f"about {seconds / 60:.0f} minutes"


def parsed(text: str) -> float | str:
    """Read a value of the page's address: a number where it is one, else the text."""
    try:
        number = float(text)
    except ValueError:
        return text
    return int(number) if number.is_integer() else number


def message(text: str, kind: str = "info") -> str:
    """Format one line of status; ``kind`` is one of info, busy, done, error."""
    return f'<p class="message {kind}" role="status">{html.escape(text)}</p>'


def about(photo: Path) -> str:
    """Format the explanation with what its live pictures are drawn from.

    They show the forward bridge, whose end is known: a small photo, the start that a hole over all
    of it would have, and the true order of restoration.

    Args:
        photo: an example.
    """
    with Image.open(photo) as picture:
        picture.thumbnail((ABOUT_SIDE, ABOUT_SIDE), Image.Resampling.LANCZOS)
        small = picture.convert("RGB")
    gradient = image_gradient(to_tensor(small))
    order = relative_gradient(gradient, 1.0, torch.ones_like(gradient))[0, 0].numpy()
    rng = np.random.default_rng(0)
    blurred = small.resize((6, 4), Image.Resampling.BOX).resize(
        small.size, Image.Resampling.BICUBIC
    )
    start = np.asarray(blurred, np.float32) + rng.normal(0, 40, (*order.shape, 3))
    values = {
        "WIDTH": str(small.width),
        "HEIGHT": str(small.height),
        "PHOTO": _base64(np.asarray(small)),
        "START": _base64(start.clip(0, 255).astype(np.uint8)),
        "ORDER": _base64(np.rint(255 * order).astype(np.uint8)),
    }
    text = asset("about.html")
    for name, value in values.items():
        text = text.replace(f"@{name}@", value)
    return text


def example_buttons(examples: list[tuple[str, Image.Image, np.ndarray | None]]) -> str:
    """Format the strip of example photographs.

    Args:
        examples: per example its name, the photograph, and its mask or None.
    """
    buttons = []
    for index, (name, photo, mask) in enumerate(examples):
        shown = photo if mask is None else viz.paint_hole(photo, mask)
        shown = shown.copy()
        shown.thumbnail((192, 192))
        title = f"{name}, {'paint your own hole' if mask is None else 'with a prepared hole'}"
        buttons.append(
            f'<button type="button" data-example="{index}" title="{title}" aria-label="{title}">'
            f'<img alt="" src="{data_uri(shown)}"></button>'
        )
    return f'<div class="examples">{"".join(buttons)}</div>'


def base64_of(data: bytes) -> str:
    """Bytes as a text."""
    return base64.b64encode(data).decode()


def _base64(values: np.ndarray) -> str:
    return base64_of(np.ascontiguousarray(values).tobytes())
