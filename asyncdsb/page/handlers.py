"""What happens when a visitor does something.

Every handler is a plain function: it checks what the browser sent, calls the pipeline and formats
the answer as a dictionary from the name of a part of the page to its new value, or to new
properties of it (:class:`Props`). A ``ValueError`` is shown to the visitor as it is. Nothing here
knows the user interface library.
"""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from asyncdsb import viz
from asyncdsb.analysis import timeline
from asyncdsb.images import read_mask
from asyncdsb.masks import make_mask
from asyncdsb.page import canvas, payload, session
from asyncdsb.restoration import Settings

TIMING_FRAMES = 40
"""Most frames of a run that are followed to tell when its pixels were restored."""

COMPARE_SIDE = 1280
"""Longest side in pixels of the pictures compared on the screen."""


class Props(dict):
    """New properties of a part, beside or in place of its value."""


Update = dict[str, Any]
Predict = Callable[[Image.Image, np.ndarray], session.Maps]
Steps = Callable[[Image.Image, np.ndarray, Settings], Iterator[session.Step]]

VIEWS = ("Live", "Before / after", "Film", "Timing")
"""What the restoration can be looked at as."""

# The parts that belong to a run, emptied when another photograph or mask comes.
NO_RUN: Update = {
    "frame": None,
    "compare": None,
    "film": None,
    "timing": None,
    "view": VIEWS[0],
    "result": Props(value=None, interactive=False),
    "animation": Props(value=None, interactive=False),
}
WELCOME = "Open a photo, or pick an example."

NO_MAPS: Update = {"gradient": None, "tau": None, "seen": None}
IDLE: Update = {"restore": Props(interactive=True), "stop": Props(interactive=False)}
BUSY: Update = {"restore": Props(interactive=False), "stop": Props(interactive=True)}


@dataclasses.dataclass(frozen=True)
class Example:
    """A photograph that comes with the page.

    Attributes:
        path: the photograph.
    """

    path: Path

    @property
    def mask_path(self) -> Path:
        """Where its prepared mask lies, white = missing, if it has one."""
        return self.path.with_name(f"{self.path.stem}-mask.png")

    def read(self) -> tuple[session.Photo, Image.Image, np.ndarray | None]:
        """Return the photograph, its pixels, and its mask or None."""
        photo, image = session.open_photo(str(self.path))
        return photo, image, read_mask(self.mask_path) if self.mask_path.exists() else None


def find_examples(folder: Path) -> list[Example]:
    """List the examples in a folder, those with a prepared mask first."""
    examples = [Example(path) for path in sorted(folder.glob("*.jpg"))]
    return sorted(examples, key=lambda example: not example.mask_path.exists())


def on_photo(path: str | None) -> Update:
    """Open an uploaded photograph."""
    if not path:
        raise ValueError("expected a photo, got no file")
    photo, image = session.open_photo(path)
    return show(photo, image, None)


def on_clear() -> Update:
    """Forget the photograph when the canvas is cleared."""
    return NO_RUN | NO_MAPS | {"photo": None, "status": payload.message(WELCOME)}


def on_example(examples: Sequence[Example], index: int) -> Update:
    """Open an example photograph."""
    if not isinstance(index, int) or not 0 <= index < len(examples):
        raise ValueError(f"expected an example 0 ... {len(examples) - 1}, got {index!r}")
    return show(*examples[index].read())


def on_mask_file(path: str | None, photo: session.Photo | None) -> Update:
    """Take the hole from a file, white = missing."""
    image = reopen(photo)
    if not path:
        raise ValueError("expected a mask, got no file")
    return show(photo, image, read_mask(path, image.size))


def on_preset(kind: str, photo: session.Photo | None, drawn: int) -> Update:
    """Draw a mask of a kind; every press draws another one, in the same order each time."""
    image = reopen(photo)
    mask = make_mask(kind, (image.height, image.width), seed=drawn)
    return show(photo, image, mask) | {"drawn": drawn + 1}


def on_preview(
    predict: Predict, photo: session.Photo | None, layer: Image.Image | None, seen: int | None
) -> Update:
    """Predict the maps for the hole as it is painted now, if it has changed."""
    try:
        image, mask = session.read_pair(photo, layer)
    except ValueError:  # Nothing to show yet; Restore says what is missing.
        return NO_MAPS
    fingerprint = hash((photo, mask.tobytes()))
    if fingerprint == seen:
        return {}
    return format_maps(predict(image, mask), mask) | {"seen": fingerprint}


def show(photo: session.Photo, image: Image.Image, mask: np.ndarray | None) -> Update:
    """Put a photograph, and a mask if there is one, on the canvas.

    Handlers that do so are no generators: the canvas would take their answer twice and load its
    layer twice, and strokes would go to the second one, which nobody reads. The maps follow in an
    event of their own.
    """
    width, height = photo.size
    value = canvas.editor_value(image, mask)
    todo = "Press Restore." if mask is not None else "Paint over what is to be restored."
    shown = {
        "photo": photo,
        "editor": value,
        # As the canvas will hand it over, so that the mask is recognized when it comes back.
        "layer": value["layers"][0],
        "status": payload.message(f"{Path(photo.path).name}, {width} × {height}. {todo}"),
    }
    return NO_RUN | NO_MAPS | shown


def reopen(photo: session.Photo | None) -> Image.Image:
    """Read the session's photograph again."""
    if photo is None:
        raise ValueError(session.NO_PHOTO)
    return session.open_photo(photo.path)[1]


def on_restore(
    steps_of: Steps,
    photo: session.Photo | None,
    layer: Image.Image | None,
    beside: bool,
    *values: object,
) -> Iterator[Update]:
    """Restore the hole, one update per step; then once more by I2SB if it is wanted beside."""
    try:
        settings = session.read_settings(*values)
        image, mask = session.read_pair(photo, layer)
        yield NO_RUN | BUSY | {"status": payload.message("Predicting the edges …", "busy")}
        yield from _restore(steps_of, photo, image, mask, settings, bool(beside))
    except ValueError as error:
        yield IDLE | {"status": payload.message(str(error), "error")}
        raise


def _restore(
    steps_of: Steps,
    photo: session.Photo,
    image: Image.Image,
    mask: np.ndarray,
    settings: Settings,
    beside: bool,
) -> Iterator[Update]:
    frames: list[session.Moment] = []
    sent: list[dict[str, Any]] = []
    for state in steps_of(image, mask, settings):
        frames.append(session.Moment.of(state))
        sent.append(payload.frame_payload(state.step, state.steps, frames[-1]))
        update: Update = {
            "frame": sent[-1],
            "status": payload.message(
                f"Step {state.step} of {state.steps}, t = {state.t:.2f} T", "busy"
            ),
        }
        if state.maps:
            maps = state.maps
            update |= format_maps(maps, mask)
        yield update

    # The files are copied into the page's own cache with the update, and removed here after it.
    with tempfile.TemporaryDirectory(prefix="asyncdsb-") as folder:
        path = Path(folder, f"{photo.stem}-restored.png")
        result = session.save_result(path, state.image, image, settings)
        animation = viz.save_trajectory(frames, path.with_name(f"{photo.stem}-trajectory.webp"))
        yield (BUSY if beside else IDLE) | {
            "compare": tuple(small(picture) for picture in (image, Image.fromarray(state.image))),
            "film": payload.film_payload(sent),
            "view": VIEWS[1],
            "result": Props(value=str(result), interactive=True),
            "animation": Props(value=str(animation), interactive=True),
            "status": payload.message(
                f"Done in {state.steps} steps, seed {settings.seed}. "
                f"The result is {image.width} × {image.height}.",
                "done",
            ),
        }
        # After the result, which nobody should wait for.
        drawn = timing(frames, maps, mask, settings, path.with_name("timing.png"))
        yield {"timing": drawn}
    if beside:
        yield from _restore_beside(steps_of, image, mask, settings, sent)


def _restore_beside(
    steps_of: Steps,
    image: Image.Image,
    mask: np.ndarray,
    settings: Settings,
    sent: list[dict[str, Any]],
) -> Iterator[Update]:
    """Run the same once more with one schedule for all pixels, and show both in the film."""
    synchronous = dataclasses.replace(settings, tau_min=0.5, tau_max=0.5, strategy="uniform")
    other: list[dict[str, Any]] = []
    for state in steps_of(image, mask, synchronous):
        moment = session.Moment.of(state)
        other.append(payload.frame_payload(state.step, state.steps, moment))
        said = f"The result is ready. I²SB beside it: step {state.step} of {state.steps}"
        yield {"status": payload.message(said, "busy")}
    yield IDLE | {
        "film": payload.film_payload(sent, other),
        "view": VIEWS[2],
        "status": payload.message(
            f"Done in {settings.steps} steps, seed {settings.seed}, both schedules. "
            f"The result is {image.width} × {image.height}.",
            "done",
        ),
    }


def timing(
    frames: Sequence[session.Moment],
    maps: session.Maps,
    mask: np.ndarray,
    settings: Settings,
    path: Path,
) -> str | None:
    """Draw when each pixel was restored; None where the hole is too small to tell."""
    span = settings.tau_max - settings.tau_min
    tau = settings.tau_min + span * maps.orders[settings.strategy]
    shown = np.linspace(0, len(frames) - 1, min(len(frames), TIMING_FRAMES)).round().astype(int)
    try:
        story = timeline([frames[i] for i in shown], tau, maps.gradient, mask, maps.schedule)
    except ValueError:
        return None
    return str(viz.timeline_figure(story, path))


def on_stopped() -> Update:
    """Say that the run was stopped; its last frame stays in view."""
    return IDLE | {"status": payload.message("Stopped. The last frame stays in view.")}


def inpaint(
    steps_of: Steps,
    photo: str,
    mask: str,
    tau_min: float,
    tau_max: float,
    steps: int,
    sampler: str,
    strategy: str,
    seed: int,
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Restore the hole of a photograph, both given as files.

    Args:
        steps_of: runs the bridge.
        photo: path of the photograph.
        mask: path of the mask, of the same size, white = missing.
        tau_min: tau of the pixels restored last, in [0, tau_max].
        tau_max: tau of the pixels restored first, in [tau_min, 1].
        steps: number of steps.
        sampler: one of SAMPLERS.
        strategy: one of STRATEGIES.
        seed: seed of the noise.

    Yields:
        Once: the path of the result as PNG, and the settings.
    """
    settings = session.read_settings(tau_min, tau_max, steps, sampler, strategy, seed)
    image, hole = session.read_files(photo, mask)
    *_, last = steps_of(image, hole, settings)
    # As above: copied into the page's cache with the answer, removed after it.
    with tempfile.TemporaryDirectory(prefix="asyncdsb-") as folder:
        path = session.save_result(Path(folder, "restored.png"), last.image, image, settings)
        yield str(path), settings.as_dict()


def on_load(model: session.Model) -> Iterator[Update]:
    """Say how far the model is."""
    yield {"model": '<span class="badge busy">Loading the model …</span>'}
    try:
        pipe = model.get()
    except ValueError as error:
        yield {
            "model": '<span class="badge error">No model</span>',
            "status": payload.message(str(error), "error"),
        }
        return
    chosen = Settings().sampler if Settings().sampler in pipe.samplers else pipe.samplers[0]
    yield {
        "model": f'<span class="badge done">Model ready on {pipe.device}</span>',
        "sampler": Props(choices=list(pipe.samplers), value=chosen),
    }


def format_maps(maps: session.Maps, mask: np.ndarray) -> Update:
    """Format the heatmaps."""
    return {
        "gradient": payload.gradient_payload(maps.gradient),
        "tau": payload.order_payload(maps.orders, mask, maps.schedule),
    }


def small(picture: Image.Image) -> Image.Image:
    """Reduce a picture for the screen."""
    copy = picture.copy()
    copy.thumbnail((COMPARE_SIDE, COMPARE_SIDE), Image.Resampling.LANCZOS)
    return copy
