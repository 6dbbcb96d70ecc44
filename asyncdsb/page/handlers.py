"""What happens when a visitor opens a photograph or paints a hole.

Restoring it is in :mod:`asyncdsb.page.restoring`.

Every handler is a plain function: it checks what the browser sent, calls the pipeline and formats
the answer as a :data:`asyncdsb.page.payload.Update`. A ``ValueError`` is shown to the visitor as it
is. Nothing here knows the user interface library.
"""

import contextlib
import dataclasses
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from asyncdsb.masks import make_mask
from asyncdsb.names import MASK_KINDS
from asyncdsb.page import canvas, payload, session
from asyncdsb.page.engine import Engine, Model
from asyncdsb.page.payload import IDLE, NO_MAPS, NO_RUN, Props, Update
from asyncdsb.page.session import Photo
from asyncdsb.photo.mask_files import read_mask
from asyncdsb.photo.settings import FROM_WEIGHTS, Settings

WELCOME = "Open a photo, or pick an example."
# What takes the place of the settings that are the opening example's own.
AFTER_OPENING: Update = {name: getattr(Settings(), name) for name in ("tau_min", "tau_max", "seed")}
ANY_PHOTO = "scenes"  # Weights that are for any photograph.
EXAMPLES = Path(__file__).resolve().parents[2] / "assets" / "examples"


@dataclasses.dataclass(frozen=True)
class Example:
    """A photograph that comes with the page; its path."""

    path: Path

    @property
    def weights(self) -> str:
        """Weights that restore it, which are portraits' for files of that name."""
        return "portraits" if self.path.stem.startswith("portrait") else ANY_PHOTO

    @property
    def mask_path(self) -> Path:
        """Where its prepared mask lies, white = missing, if it has one."""
        return self.path.with_name(f"{self.path.stem}-mask.png")

    def read(self, names: Sequence[str] = ()) -> tuple[Photo, Image.Image, np.ndarray | None]:
        """Return the photograph, its pixels, and its mask or None.

        If the page has weights of other ``names`` only, the first of them restore it.
        """
        photo, image = session.open_photo(str(self.path))
        weights = self.weights if self.weights in names or not names else names[0]
        photo = dataclasses.replace(photo, example=self.path.stem, weights=weights)
        return photo, image, read_mask(self.mask_path) if self.mask_path.exists() else None


def find_examples() -> list[Example]:
    """List the examples, those with a prepared mask first."""
    examples = [Example(path) for path in sorted(EXAMPLES.glob("*.jpg"))]
    return sorted(examples, key=lambda example: not example.mask_path.exists())


def on_photo(
    path: str,
    weights: str | None = None,
    before: Photo | None = None,
    *values: float,
    names: Sequence[str] = (),
) -> Update:
    """Open an uploaded photograph, to be restored by the chosen weights.

    After an example, which chooses its own, it begins with those for any photo. ``values`` are what
    the page has for :data:`AFTER_OPENING`.
    """
    photo, image = session.open_photo(path)
    if before is not None and before.example and ANY_PHOTO in names:
        weights = ANY_PHOTO
    return show(dataclasses.replace(photo, weights=weights), image=image) | _after(before, values)


def _after(before: Photo | None, values: Sequence[float]) -> Update:
    """What another photograph resets after the one that the page opened with.

    What the visitor or the page's address has changed stays; the range counts as a whole.
    """
    own = before.opening if before is not None else {}
    given = dict(zip(AFTER_OPENING, values, strict=False))
    reset: Update = {}
    for group in (("tau_min", "tau_max"), ("seed",)):
        if own and all(own[name] == given.get(name) for name in group):
            reset |= {name: AFTER_OPENING[name] for name in group}
    return reset


def on_weights(model: Model, photo: Photo | None, weights: str) -> Iterator[Update]:
    """Let other weights restore the photograph; offer what they were trained for.

    The former comes at once: by the time that they are loaded, there may be another photograph.
    What the page's address said stays if the weights are the photograph's and not a new choice.
    """
    said = photo.said if photo is not None and photo.weights == weights else ()
    yield {"photo": photo and dataclasses.replace(photo, weights=weights)}
    yield told_by(model.get(weights), said)


def told_by(pipe: Any, said: Iterable[str] = ()) -> Update:
    """What the weights decide about the controls, without the values that the address said."""
    config = pipe.config
    values = {"sampler": pipe.samplers[0]} | {name: getattr(config, name) for name in FROM_WEIGHTS}
    kept = {*said} if config.guide else {*said} - {"guidance"}
    told: Update = {name: value for name, value in values.items() if name not in kept}

    def part(name: str, **more: Any) -> Props:
        return Props(**{"value": told[name]} if name in told else {}, **more)

    most = max(session.MAX_GUIDANCE, config.guidance)
    guidance = part("guidance", interactive=config.guide is not None, maximum=most)
    return told | {"sampler": part("sampler", choices=list(pipe.samplers)), "guidance": guidance}


def on_ended(photo: Photo | None, hole: str | None, said: str) -> Update:
    """Make way for the next run when one was stopped, or ended by another photograph.

    A line of its last step, which may come after the new photograph's own, is taken back.
    """
    if "message busy" not in said:
        return IDLE
    painted = False
    with contextlib.suppress(ValueError):
        painted = bool(session.read_hole(photo, hole)[1].any())
    text = WELCOME if photo is None else _described(photo, painted)
    return IDLE | {"status": payload.message(text)}


def on_clear() -> Update:
    """Forget the photograph that was closed."""
    return NO_RUN | NO_MAPS | {"photo": None, "status": payload.message(WELCOME)}


def on_example(
    engine: Engine,
    index: int,
    tiles: float = Settings.tiles,
    before: Photo | None = None,
    *values: float,
    names: Sequence[str] = (),
) -> Update:
    """Open an example photograph; ``names`` are of the weights that the page has.

    ``values`` are what it has for :data:`AFTER_OPENING`.
    """
    examples = find_examples()
    if index not in range(len(examples)):
        raise ValueError(f"expected an example 0 ... {len(examples) - 1}, got {index!r}")
    photo, image, mask = examples[index].read(names)
    shown = show(photo, mask, None if mask is None else "own", image)
    return with_maps(engine, shown | _after(before, values), tiles)


def on_mask_file(
    engine: Engine, path: str, photo: Photo | None, hole: str | None, tiles: float = Settings.tiles
) -> Update:
    """Take the hole from a file, white = missing."""
    photo, _ = session.read_hole(photo, hole)
    return with_maps(engine, show(photo, read_mask(path, photo.size)), tiles)


def on_preset(
    engine: Engine,
    kind: str,
    photo: Photo | None,
    hole: str | None,
    drawn: int,
    tiles: float = Settings.tiles,
) -> Update:
    """Draw a mask of a kind; every press draws another one, in the same order each time."""
    photo, _ = session.read_hole(photo, hole)
    mask = make_mask(kind, photo.size[::-1], seed=drawn)
    return with_maps(engine, show(photo, mask, f"{kind}-{drawn}"), tiles) | {"drawn": drawn + 1}


def on_edit(
    engine: Engine, edit: str, photo: Photo | None, hole: str | None, tiles: float = Settings.tiles
) -> Update:
    """Invert, grow or shrink the painted hole."""
    # At the canvas's own scale, so that nothing is lost by going there and back.
    photo, mask = session.read_hole(photo, hole)
    if edit != "invert" and not mask.any():
        raise ValueError("Paint a hole first.")
    return with_maps(engine, show(photo, canvas.edit_mask(mask, edit)), tiles)


def on_reuse(result: str | None, photo: Photo | None, hole: str | None) -> Update:
    """Go on with the result as the photograph; the one before it can be brought back."""
    if not result:
        raise ValueError("Restore something first.")
    before, _ = session.read_hole(photo, hole)
    opened, image = session.open_photo(result)
    opened = dataclasses.replace(opened, weights=before.weights, before=before, box=before.box)
    return show(opened, image=image)


def on_link(
    query: Mapping[str, str], names: Sequence[str] = (), weights: str | None = None
) -> Update:
    """Take over settings, example and mask from the address with which the page was opened.

    ``names`` are of the weights that the page has, ``weights`` those that it opens with.
    """
    update, example = said_in(query, names, weights), linked_example(query)
    if example is None:
        return update
    photo, image, mask = example.read(names)
    weights = query["weights"] if query.get("weights") in names else photo.weights
    photo = dataclasses.replace(photo, said=tuple(update), weights=weights)
    chosen = query.get("mask", "")
    kind, _, drawn = chosen.partition("-")
    if kind in MASK_KINDS and drawn.isdecimal() and len(drawn) < 7:
        mask = make_mask(kind, (image.height, image.width), seed=int(drawn))
    elif chosen != "own":
        mask = None
    return AFTER_OPENING | update | show(photo, mask, None if mask is None else chosen, image)


def linked_example(query: Mapping[str, str]) -> Example | None:
    """The example that an address names."""
    return next((one for one in find_examples() if one.path.stem == query.get("example")), None)


def said_in(query: Mapping[str, str], names: Sequence[str], weights: str | None) -> Update:
    """The settings of an address that the page's controls can have.

    Without an example, the page opens with its own ``weights``, and of an address that names
    others, what weights decide (:data:`FROM_WEIGHTS`) does not count.
    """
    update: Update = {}
    defaults = {name: getattr(Settings(), name) for name in session.SETTINGS}
    # The range counts as a whole. Beside one end alone the other has its default.
    for group in (("tau_min", "tau_max"), *((name,) for name in session.SETTINGS[2:])):
        said = {name: _parsed(query[name]) for name in group if name in query}
        with contextlib.suppress(ValueError):
            read = session.read_settings(list((defaults | said).values()))
            # Programs may have more, but not the page's own controls.
            if read.seed <= session.MAX_SEED and (read.guidance or 0) <= session.MAX_GUIDANCE:
                update |= said
    others = query.get("weights") in names and query["weights"] != weights
    others = others and linked_example(query) is None
    return {k: value for k, value in update.items() if not (others and k in FROM_WEIGHTS)}


def _parsed(text: str) -> float | str:
    """A value of the page's address: a number where it is one, else the text."""
    try:
        number = float(text)
    except ValueError:
        return text
    return int(number) if number.is_integer() else number


def on_preview(
    engine: Engine,
    photo: Photo | None,
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
    try:
        maps = engine.predict(photo.weights, image, mask, tiles, photo.box)
    except ValueError as error:  # No model, or a box without any of the hole.
        return NO_MAPS | {"status": payload.message(str(error), "error")}
    told = {"seen": fingerprint, "status": payload.message(_described(photo, painted=True))}
    return payload.format_maps(maps, image, mask, engine.pace) | told


def maps_of(photo: Photo, hole: str, tiles: int) -> int:
    """What tells the maps of a hole, whose text names its photograph, from others."""
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
    photo: Photo,
    mask: np.ndarray | None = None,
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
            "hole": canvas.hole_text(photo.stamp, photo.size, mask, photo.box),
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


def _described(photo: Photo, painted: bool) -> str:
    """Say what is on the canvas, and what comes next."""
    todo = "Press Restore." if painted else "Paint over what is to be restored."
    return f"{Path(photo.path).name}, {photo.size[0]} × {photo.size[1]}. {todo}"


def on_load(model: Model, weights: str | None = None) -> Iterator[Update]:
    """Say how far the model is."""
    yield {"model": '<span class="badge busy">Loading the model …</span>'}
    try:
        pipe = model.get(weights)
    except ValueError as error:
        yield {
            "model": '<span class="badge error">No model</span>',
            "status": payload.message(str(error), "error"),
        }
        return
    yield {"model": f'<span class="badge done">Model ready on {pipe.device}</span>'}


def on_loaded(model: Model, query: Mapping[str, str], weights: str) -> Update:
    """Set what the weights decide unless the address does.

    By now the visitor may have chosen others than those for which :func:`on_load` has waited.
    """
    with contextlib.suppress(ValueError):  # on_load has told it.
        return told_by(model.get(weights), said_in(query, model.names, weights))
    return {}
