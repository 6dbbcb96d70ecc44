"""What happens when a visitor opens a photograph or paints a hole.

Restoring it is in :mod:`asyncdsb.page.restoring`.

Every handler is a plain function: it checks what the browser sent, calls the pipeline and formats
the answer as a dictionary from the name of a part of the page to its new value, or to new
properties of it (:mod:`asyncdsb.page.updates`). A ``ValueError`` is shown to the visitor as it is.
Nothing here knows the user interface library.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from asyncdsb.masks import MASK_KINDS, make_mask
from asyncdsb.page import canvas, payload, session
from asyncdsb.page.engine import Engine, Model
from asyncdsb.page.updates import NO_MAPS, NO_RUN, Props, Update, format_maps
from asyncdsb.photo.mask_files import read_mask
from asyncdsb.photo.settings import FROM_WEIGHTS, Settings

WELCOME = "Open a photo, or pick an example."

OPENING = ("tau_min", "tau_max", "seed")
"""Settings of its own that the page opens with."""

AFTER_OPENING: Update = {name: getattr(Settings(), name) for name in OPENING}
"""What takes their place when another photo comes."""

ANY_PHOTO = "scenes"
"""Weights that are for any photograph."""


@dataclasses.dataclass(frozen=True)
class Example:
    """A photograph that comes with the page.

    Attributes:
        path: the photograph.
    """

    path: Path

    @property
    def weights(self) -> str | None:
        """Weights that restore it, which are portraits' for files of that name."""
        return "portraits" if self.path.stem.startswith("portrait") else ANY_PHOTO

    @property
    def mask_path(self) -> Path:
        """Where its prepared mask lies, white = missing, if it has one."""
        return self.path.with_name(f"{self.path.stem}-mask.png")

    def read(self) -> tuple[session.Photo, Image.Image, np.ndarray | None]:
        """Return the photograph, its pixels, and its mask or None."""
        photo, image = session.open_photo(str(self.path))
        photo = dataclasses.replace(photo, example=self.path.stem, weights=self.weights)
        return photo, image, read_mask(self.mask_path) if self.mask_path.exists() else None


def find_examples(folder: Path) -> list[Example]:
    """List the examples in a folder, those with a prepared mask first."""
    examples = [Example(path) for path in sorted(folder.glob("*.jpg"))]
    return sorted(examples, key=lambda example: not example.mask_path.exists())


def on_photo(
    path: str | None,
    weights: str | None = None,
    before: session.Photo | None = None,
    names: Sequence[str] = (),
) -> Update:
    """Open an uploaded photograph, to be restored by the chosen weights.

    After an example, which chooses its own, it begins with those for any photo.
    """
    if not path:
        raise ValueError("expected a photo, got no file")
    photo, image = session.open_photo(path)
    if before is not None and before.example and ANY_PHOTO in names:
        weights = ANY_PHOTO
    shown = show(dataclasses.replace(photo, weights=weights), None, image=image)
    return shown | (AFTER_OPENING if before is not None and before.opening else {})


def on_weights(model: Model, photo: session.Photo | None, weights: str) -> Iterator[Update]:
    """Let other weights restore the photograph; offer what they were trained for.

    The former comes at once: by the time that they are loaded, there may be another photograph.
    """
    yield {"photo": photo and dataclasses.replace(photo, weights=weights)}
    yield told_by(model.get(weights))


def told_by(pipe: Any) -> Update:
    """What the weights decide about the controls."""
    return {"sampler": Props(choices=list(pipe.samplers), value=pipe.samplers[0])} | {
        name: getattr(pipe.config, name) for name in FROM_WEIGHTS
    }


def on_clear() -> Update:
    """Forget the photograph that was closed."""
    return NO_RUN | NO_MAPS | {"photo": None, "status": payload.message(WELCOME)}


def on_example(
    engine: Engine,
    examples: Sequence[Example],
    index: int,
    tiles: float = Settings.tiles,
    before: session.Photo | None = None,
) -> Update:
    """Open an example photograph."""
    if not isinstance(index, int) or not 0 <= index < len(examples):
        raise ValueError(f"expected an example 0 ... {len(examples) - 1}, got {index!r}")
    example = examples[index]
    photo, image, mask = example.read()
    shown = show(photo, mask, "own" if mask is not None else None, image)
    shown |= AFTER_OPENING if before is not None and before.opening else {}
    return with_maps(engine, shown, tiles)


def on_mask_file(
    engine: Engine,
    path: str | None,
    photo: session.Photo | None,
    hole: str | None,
    tiles: float = Settings.tiles,
) -> Update:
    """Take the hole from a file, white = missing."""
    photo, _ = session.read_hole(photo, hole)
    if not path:
        raise ValueError("expected a mask, got no file")
    return with_maps(engine, show(photo, read_mask(path, photo.size)), tiles)


def on_preset(
    engine: Engine,
    kind: str,
    photo: session.Photo | None,
    hole: str | None,
    drawn: int,
    tiles: float = Settings.tiles,
) -> Update:
    """Draw a mask of a kind; every press draws another one, in the same order each time."""
    photo, _ = session.read_hole(photo, hole)
    mask = make_mask(kind, photo.size[::-1], seed=drawn)
    shown = show(photo, mask, f"{kind}-{drawn}")
    return with_maps(engine, shown, tiles) | {"drawn": drawn + 1}


def on_edit(
    engine: Engine,
    edit: str,
    photo: session.Photo | None,
    hole: str | None,
    tiles: float = Settings.tiles,
) -> Update:
    """Invert, grow or shrink the painted hole."""
    # At the canvas's own scale, so that nothing is lost by going there and back.
    photo, mask = session.read_hole(photo, hole)
    if edit != "invert" and not mask.any():
        raise ValueError("Paint a hole first.")
    return with_maps(engine, show(photo, canvas.edit_mask(mask, edit)), tiles)


def on_reuse(result: str | None, photo: session.Photo | None, hole: str | None) -> Update:
    """Go on with the result as the photograph; the one before it can be brought back."""
    if not result:
        raise ValueError("Restore something first.")
    before, _ = session.read_hole(photo, hole)
    opened, image = session.open_photo(result)
    opened = dataclasses.replace(opened, weights=before.weights, before=before)
    return show(opened, None, image=image)


def on_link(examples: Sequence[Example], query: Mapping[str, str]) -> Update:
    """Take over settings, example and mask from the address with which the page was opened.

    What the address says is not trusted: anything that is not one of the page's own choices is left
    out.
    """
    update: Update = {}
    defaults = Settings()
    for name in session.SETTINGS:
        if name in query:
            value = payload.parsed(query[name])
            values = {one: getattr(defaults, one) for one in session.SETTINGS} | {name: value}
            if name in ("tau_min", "tau_max"):
                values |= {"tau_min": value, "tau_max": value}
            try:
                read = session.read_settings(list(values.values()))
            except ValueError:
                continue
            if read.seed > session.MAX_SEED:  # Programs may have it, but not the page's own box.
                continue
            update[name] = value
    if not update.get("tau_min", defaults.tau_min) <= update.get("tau_max", defaults.tau_max):
        # Beside one end alone the other has its default.
        update = {name: value for name, value in update.items() if not name.startswith("tau_")}
    found = [one for one in examples if one.path.stem == query.get("example")]
    if not found:
        return update
    photo, image, mask = found[0].read()
    chosen = query.get("mask", "")
    kind, _, drawn = chosen.partition("-")
    if kind in MASK_KINDS and drawn.isdecimal() and len(drawn) < 7:
        mask = make_mask(kind, (image.height, image.width), seed=int(drawn))
    elif chosen != "own":
        mask = None
    shown = show(photo, mask, chosen if mask is not None else None, image)
    return AFTER_OPENING | update | shown


def on_preview(
    engine: Engine,
    photo: session.Photo | None,
    hole: str | None,
    seen: int | None,
    tiles: float = Settings.tiles,
) -> Update:
    """Predict the maps for the hole as it is painted now, if it has changed."""
    if photo is None or not hole:
        return NO_MAPS
    tiles = session.read_count("tiles", tiles, session.MAX_TILES)
    # Before the photograph is decoded: mostly nothing has changed.
    fingerprint = maps_of(photo, hole, tiles)
    if fingerprint == seen:
        return {}
    try:
        photo, image, mask = session.read_pair(photo, hole)
    except ValueError:  # Nothing to show yet; Restore says what is missing.
        return NO_MAPS
    maps = engine.predict(photo.weights, image, mask, tiles)
    told = {"seen": fingerprint, "status": payload.message(_described(photo, painted=True))}
    return format_maps(maps, image, mask, engine.pace) | told


def maps_of(photo: session.Photo, hole: str, tiles: int) -> int:
    """What tells the maps of a hole from others, for the part ``seen``.

    Args:
        photo: of the session.
        hole: text of the canvas, which holds the photograph's stamp.
        tiles: most fields of the networks.
    """
    return hash((photo.weights, hole, tiles))


def with_maps(engine: Engine, shown: Update, tiles: float) -> Update:
    """Add the maps to what :func:`show` gives, which spares the browser a second request.

    While the model is being loaded the canvas does not wait for it: the maps follow.
    """
    if not engine.ready():
        return shown
    editor = shown["editor"] | {"maps": True}
    maps = on_preview(engine, shown["photo"], editor["hole"], None, tiles)
    return shown | maps | {"editor": editor}


def show(
    photo: session.Photo,
    mask: np.ndarray | None,
    drawn: str | None = None,
    image: Image.Image | None = None,
) -> Update:
    """Take over a photograph, and a mask if there is one, and show them on the canvas.

    Args:
        photo: the session's from now on.
        mask: bool at the photograph's size or the canvas's, True = missing.
        drawn: name of the mask for the page's address, if it has one.
        image: pixels of a photograph that the browser does not have yet.
    """
    width, height = photo.size
    shown: Update = {
        "photo": photo,
        "editor": {
            "stamp": photo.stamp,
            "before": photo.before and photo.before.stamp,
            "width": width,
            "height": height,
            "picture": image and canvas.shown_copy(image),
            "hole": canvas.hole_text(photo.stamp, photo.size, mask),
            "named": {"example": photo.example, "mask": drawn},
            "maps": mask is None,  # Whether the browser need not ask for them.
            # Something new each time, else the browser would not notice the same hole again.
            "taken": time.time_ns(),
        },
        "status": payload.message(_described(photo, mask is not None and bool(mask.any()))),
    }
    if photo.weights is not None:
        shown["weights"] = photo.weights
    return NO_RUN | NO_MAPS | shown


def _described(photo: session.Photo, painted: bool) -> str:
    """Say what is on the canvas, and what comes next."""
    todo = "Press Restore." if painted else "Paint over what is to be restored."
    return f"{Path(photo.path).name}, {photo.size[0]} × {photo.size[1]}. {todo}"


def on_load(model: Model, query: Mapping[str, str], weights: str | None = None) -> Iterator[Update]:
    """Say how far the model is, and set what the weights decide unless the address does."""
    yield {"model": '<span class="badge busy">Loading the model …</span>'}
    try:
        pipe = model.get(weights)
    except ValueError as error:
        yield {
            "model": '<span class="badge error">No model</span>',
            "status": payload.message(str(error), "error"),
        }
        return
    told = {name: value for name, value in told_by(pipe).items() if name not in query}
    ready = f'<span class="badge done">Model ready on {pipe.device}</span>'
    yield {"sampler": Props(choices=list(pipe.samplers)), "model": ready} | told
