"""What happens when a visitor does something.

Every handler is a plain function: it checks what the browser sent, calls the pipeline and formats
the answer as a dictionary from the name of a part of the page to its new value, or to new
properties of it (:mod:`asyncdsb.page.updates`). A ``ValueError`` is shown to the visitor as it is.
Nothing here knows the user interface library.
"""

from __future__ import annotations

import dataclasses
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from asyncdsb.masks import MASK_KINDS, make_mask
from asyncdsb.page import archive, canvas, payload, session
from asyncdsb.page.engine import Engine, Model
from asyncdsb.page.press import Press
from asyncdsb.page.updates import BUSY, IDLE, NO_MAPS, NO_RUN, Props, Update, format_maps
from asyncdsb.photo.mask_files import read_mask
from asyncdsb.photo.original import read_photograph
from asyncdsb.photo.settings import FROM_WEIGHTS, Settings

WELCOME = "Open a photo, or pick an example."


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
        return "portraits" if self.path.stem.startswith("portrait") else "scenes"

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


def on_photo(path: str | None, weights: str | None = None) -> Update:
    """Open an uploaded photograph, to be restored by the chosen weights."""
    if not path:
        raise ValueError("expected a photo, got no file")
    photo, image = session.open_photo(path)
    return show(dataclasses.replace(photo, weights=weights), image, None)


def on_weights(model: Model, photo: session.Photo | None, weights: str) -> Update:
    """Let other weights restore the photograph; offer what they were trained for."""
    return told_by(model.get(weights)) | {
        "photo": photo and dataclasses.replace(photo, weights=weights)
    }


def told_by(pipe: Any) -> Update:
    """What the weights decide about the controls."""
    return {"sampler": Props(choices=list(pipe.samplers), value=pipe.samplers[0])} | {
        name: getattr(pipe.config, name) for name in FROM_WEIGHTS
    }


def on_clear() -> Update:
    """Forget the photograph when the canvas is cleared."""
    return NO_RUN | NO_MAPS | {"photo": None, "link": {}, "status": payload.message(WELCOME)}


def on_example(
    engine: Engine, examples: Sequence[Example], index: int, tiles: float = Settings.tiles
) -> Update:
    """Open an example photograph."""
    if not isinstance(index, int) or not 0 <= index < len(examples):
        raise ValueError(f"expected an example 0 ... {len(examples) - 1}, got {index!r}")
    example = examples[index]
    photo, image, mask = example.read()
    shown = show(photo, image, mask, example.path.stem, "own" if mask is not None else None)
    return with_maps(engine, shown, tiles)


def on_mask_file(
    engine: Engine,
    path: str | None,
    photo: session.Photo | None,
    tiles: float = Settings.tiles,
) -> Update:
    """Take the hole from a file, white = missing."""
    image = reopen(photo)
    if not path:
        raise ValueError("expected a mask, got no file")
    return with_maps(engine, show(photo, image, read_mask(path, image.size)), tiles)


def on_preset(
    engine: Engine,
    kind: str,
    photo: session.Photo | None,
    drawn: int,
    tiles: float = Settings.tiles,
) -> Update:
    """Draw a mask of a kind; every press draws another one, in the same order each time."""
    image = reopen(photo)
    mask = make_mask(kind, (image.height, image.width), seed=drawn)
    shown = show(photo, image, mask, photo.example, f"{kind}-{drawn}")
    return with_maps(engine, shown, tiles) | {"drawn": drawn + 1}


def on_edit(
    engine: Engine,
    edit: str,
    photo: session.Photo | None,
    layer: Image.Image | None,
    tiles: float = Settings.tiles,
) -> Update:
    """Invert, grow or shrink the painted hole."""
    image = reopen(photo)
    # At the canvas's own scale, so that nothing is lost by going there and back.
    mask = canvas.layer_mask(layer, canvas.fit_box(image.size)[2:])
    if edit != "invert" and not mask.any():
        raise ValueError("Paint a hole first.")
    shown = show(photo, image, canvas.edit_mask(mask, edit), photo.example)
    return with_maps(engine, shown, tiles)


def on_reuse(result: str | None, photo: session.Photo | None = None) -> Update:
    """Go on with the result as the photograph."""
    if not result:
        raise ValueError("Restore something first.")
    opened, image = session.open_photo(result)
    weights = None if photo is None else photo.weights
    return show(dataclasses.replace(opened, weights=weights), image, None)


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
    return update | show(photo, image, mask, photo.example, chosen if mask is not None else None)


def on_preview(
    engine: Engine,
    photo: session.Photo | None,
    layer: Image.Image | None,
    seen: int | None,
    tiles: float = Settings.tiles,
) -> Update:
    """Predict the maps for the hole as it is painted now, if it has changed."""
    if photo is None:
        return NO_MAPS
    tiles = session.read_count("tiles", tiles, session.MAX_TILES)
    # Before the photograph is decoded: mostly nothing has changed.
    fingerprint = _fingerprint(photo, layer, tiles)
    if fingerprint == seen:
        return {}
    try:
        image, mask = session.read_pair(photo, layer)
    except ValueError:  # Nothing to show yet; Restore says what is missing.
        return NO_MAPS
    maps = engine.predict(photo.weights, image, mask, tiles)
    return format_maps(maps, mask, engine.pace) | {"seen": fingerprint}


def _fingerprint(photo: session.Photo, layer: Image.Image | None, tiles: int) -> int:
    """What tells one hole from another."""
    return hash((photo, canvas.layer_mask(layer, canvas.fit_box(photo.size)[2:]).tobytes(), tiles))


def with_maps(engine: Engine, shown: Update, tiles: float) -> Update:
    """Add the maps to what :func:`show` gives, which spares the browser a second request.

    While the model is being loaded the canvas does not wait for it: the maps follow.
    """
    if not engine.ready():
        return shown
    return shown | on_preview(engine, shown["photo"], shown["layer"], None, tiles)


def show(
    photo: session.Photo,
    image: Image.Image,
    mask: np.ndarray | None,
    example: str | None = None,
    drawn: str | None = None,
) -> Update:
    """Take over a photograph, and a mask if there is one; :func:`on_canvas` then draws them.

    ``example`` and ``drawn`` name them for the page's address, if they have a name.
    """
    shown: Update = {
        "photo": photo,
        # As the canvas will hand it over, so that the mask is recognized when it comes back.
        "layer": canvas.layer_of(image.size, mask),
        # With something new each time, else the browser would not notice the same hole again.
        "link": {"example": example, "mask": drawn, "taken": time.time_ns()},
    }
    if photo.weights is not None:
        shown["weights"] = photo.weights
    return NO_RUN | NO_MAPS | shown


def on_canvas(photo: session.Photo | None, layer: Image.Image | None) -> Update:
    """Draw what :func:`show` took over on the canvas.

    A request of its own: the canvas loads for a second, in which the browser shows nothing else
    that came with it. And no part of a generator: the canvas would take the answer twice and load
    its layer twice, and strokes would go to the second one, which nobody reads.
    """
    if photo is None:  # The canvas was cleared.
        return {}
    width, height = photo.size
    painted = canvas.layer_mask(layer, photo.size).any()
    todo = "Press Restore." if painted else "Paint over what is to be restored."
    return {
        "editor": canvas.editor_value(reopen(photo), layer),
        "status": payload.message(f"{Path(photo.path).name}, {width} × {height}. {todo}"),
    }


def reopen(photo: session.Photo | None) -> Image.Image:
    """Read the session's photograph again."""
    if photo is None:
        raise ValueError(session.NO_PHOTO)
    return session.open_photo(photo.path)[1]


def on_restore(
    engine: Engine,
    photo: session.Photo | None,
    layer: Image.Image | None,
    painted: str | None,
    beside: bool,
    seeds: float,
    *values: object,
) -> Iterator[Update]:
    """Restore the hole, one update per step; then by I2SB and with further seeds, as is wanted."""
    try:
        image, mask = session.read_pair(photo, layer)
        settings = session.read_settings(values, session.read_order(painted, image.size))
        seeds = session.read_count("seeds", seeds, session.MAX_SEEDS)
        yield NO_RUN | BUSY | {"status": payload.message("Predicting the edges …", "busy")}
        # Files are copied into the page's own cache with each update, and removed here at the end.
        with tempfile.TemporaryDirectory(prefix="asyncdsb-") as folder:
            press = Press(engine, photo, image, mask, settings, Path(folder))
            more = bool(beside) or seeds > 1
            yield from press.restore(more)
            if beside:
                yield from press.restore_beside()
            if seeds > 1:
                yield from press.restore_others(seeds)
        if more:
            yield IDLE | {"status": payload.message(press.summary(bool(beside), seeds), "done")}
    except Exception as error:
        # Of a fault of the page's own, or a lack of memory, the server's log says more.
        reason = str(error) if isinstance(error, ValueError) else "The run failed. Try it again."
        yield IDLE | {"status": payload.message(reason, "error")}
        raise


def on_files(
    engine: Engine, run: session.Run | None, result: str | None, animation: str | None
) -> Iterator[Update]:
    """Pack everything that belongs to the finished run."""
    if run is None or not result or not animation:
        raise ValueError("Restore something first.")
    image, mask = reopen(run.photo), run.mask
    maps = engine.predict(run.photo.weights, image, mask, run.settings.tiles)
    with tempfile.TemporaryDirectory(prefix="asyncdsb-") as folder:
        path = Path(folder, f"{run.photo.stem}-asyncdsb.zip")
        archive.pack(path, run, maps, Path(result), Path(animation))
        yield {"archive": str(path)}


def on_stopped() -> Update:
    """Say that the run was stopped; its last frame stays in view."""
    return IDLE | {"status": payload.message("Stopped. The last frame stays in view.")}


def inpaint(
    engine: Engine,
    photo: str,
    mask: str,
    tau_min: float,
    tau_max: float,
    steps: int,
    sampler: str,
    strategy: str,
    seed: int,
    eta: float,
    grid: str,
    tiles: int,
    order: str | None = None,
    finish: str | None = None,
    weights: str | None = None,
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Restore the hole of a photograph, both given as files.

    Args:
        engine: runs the bridge.
        photo: path of the photograph.
        mask: path of the mask, of the same size, white = missing.
        tau_min: tau of the pixels restored last, in [0, tau_max].
        tau_max: tau of the pixels restored first, in [tau_min, 1].
        steps: number of steps.
        sampler: one of SAMPLERS.
        strategy: one of STRATEGIES, or "painted".
        seed: seed of the noise.
        eta: share of fresh noise of the implicit sampler, in [0, 1].
        grid: one of GRIDS.
        tiles: in how many fields of 256 pixels a large hole, or holes far apart, may be restored.
        order: path of a grey picture of the photo's size, 8 or 16 bits, for the strategy "painted":
            white is restored first (at tau_max), black last (at tau_min).
        finish: "none", or "patches" to replace the bridge's result by patches of the known part;
            None for what the weights say.
        weights: name of the weights, such as "portraits"; None for the page's first.

    Yields:
        Once: the path of the result as PNG, and the settings.
    """
    if (strategy == session.PAINTED) != bool(order):
        expected = "an order" if not order else f"the strategy {session.PAINTED!r} for the order"
        raise ValueError(f"expected {expected}, got the strategy {strategy!r}")
    image, hole, painted = session.read_files(photo, mask, order)
    values = (tau_min, tau_max, steps, sampler, strategy, seed, eta, grid, tiles, finish)
    settings = session.read_settings(values, painted)
    *_, last = engine.steps_of(weights, image, hole, settings)
    # As above: copied into the page's cache with the answer, removed after it.
    with tempfile.TemporaryDirectory(prefix="asyncdsb-") as folder:
        path = Path(folder, "restored.png")
        read_photograph(photo).restored(last.image, hole).save(path, last.settings)
        yield str(path), last.settings


def on_load(model: Model, query: Mapping[str, str]) -> Iterator[Update]:
    """Say how far the model is, and set what its weights decide unless the address does."""
    yield {"model": '<span class="badge busy">Loading the model …</span>'}
    try:
        pipe = model.get()
    except ValueError as error:
        yield {
            "model": '<span class="badge error">No model</span>',
            "status": payload.message(str(error), "error"),
        }
        return
    told = {name: value for name, value in told_by(pipe).items() if name not in query}
    ready = f'<span class="badge done">Model ready on {pipe.device}</span>'
    yield {"sampler": Props(choices=list(pipe.samplers)), "model": ready} | told
