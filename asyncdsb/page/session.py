"""What one visitor works on, checked, and the calls of the pipeline behind the page."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, PngImagePlugin

from asyncdsb.images import check_pair, read_image, read_mask
from asyncdsb.page import canvas
from asyncdsb.restoration import Settings
from asyncdsb.samplers import SAMPLERS
from asyncdsb.schedule import STRATEGIES, NoiseSchedule

MAX_PIXELS = 32_000_000
"""Largest photograph that the page accepts, in pixels."""

NO_PHOTO = "Open a photo first: drop one on the canvas, or pick an example."
MAX_STEPS = 250
MAX_SEED = 2**31 - 1


@dataclasses.dataclass(frozen=True)
class Photo:
    """The photograph of one session: a file on the server, at its own resolution.

    Attributes:
        path: the uploaded file, or an example.
        size: (width, height) in pixels, EXIF rotation applied.
    """

    path: str
    size: tuple[int, int]

    @property
    def stem(self) -> str:
        """Name of the file without its suffix, for the download."""
        return Path(self.path).stem[:60] or "photo"


@dataclasses.dataclass(frozen=True)
class Maps:
    """What the heatmaps show.

    Attributes:
        gradient: float32 (H, W) in [0, 1], the predicted gradient.
        orders: per strategy its tau map for the range [0, 1], float32 (H, W).
        schedule: noise schedule of the weights.
    """

    gradient: np.ndarray
    orders: dict[str, np.ndarray]
    schedule: NoiseSchedule


@dataclasses.dataclass(frozen=True)
class Step:
    """One state of a run as plain arrays, so that it can cross a process border.

    Attributes:
        step: number of steps done, 0 ... steps.
        steps: number of steps of the run.
        t: time, 1 ... 0.
        x_t: uint8 (h, w, 3), the bridge state, reduced for the screen.
        x0_hat: uint8 (h, w, 3), the prediction made from it, reduced likewise.
        maps: with the first step only.
        image: uint8 (H, W, 3), the finished picture; with the last step only.
    """

    step: int
    steps: int
    t: float
    x_t: np.ndarray
    x0_hat: np.ndarray
    maps: Maps | None = None
    image: np.ndarray | None = None


@dataclasses.dataclass(frozen=True)
class Moment:
    """One frame of a run.

    Attributes:
        t: time, 1 ... 0.
        x_t: the bridge state, reduced for the screen.
        x0_hat: the prediction made from it.
    """

    t: float
    x_t: Image.Image
    x0_hat: Image.Image

    @classmethod
    def of(cls, step: Step) -> Moment:
        """The pictures of a step."""
        return cls(step.t, Image.fromarray(step.x_t), Image.fromarray(step.x0_hat))


class Model:
    """Loads the pipeline in the background, once, and hands it out."""

    def __init__(self, load: Callable[[], Any]) -> None:
        """Start loading.

        Args:
            load: makes the pipeline; called in a thread of its own.
        """
        executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="model")
        self._loading: Future = executor.submit(load)
        executor.shutdown(wait=False)

    def get(self) -> Any:
        """Wait for the pipeline.

        Raises:
            ValueError: it could not be loaded; the message says why.
        """
        try:
            return self._loading.result()
        except Exception as error:
            reason = " ".join(str(error).split()) or type(error).__name__
            raise ValueError(f"The model could not be loaded: {reason}") from error


def open_photo(path: str) -> tuple[Photo, Image.Image]:
    """Read a photograph that was uploaded.

    Raises:
        ValueError: unreadable, or larger than :data:`MAX_PIXELS`.
    """
    with contextlib.suppress(OSError, Image.DecompressionBombError), Image.open(path) as header:
        if header.width * header.height > MAX_PIXELS:
            raise ValueError(
                f"expected a photo of at most {MAX_PIXELS // 1_000_000} megapixels, "
                f"got {header.width}x{header.height}"
            )
    image = read_image(path)
    return Photo(path, image.size), image


def read_settings(
    tau_min: object,
    tau_max: object,
    steps: object,
    sampler: object,
    strategy: object,
    seed: object,
) -> Settings:
    """Check what the page's controls hold; a field that was cleared holds None.

    Raises:
        ValueError: something is missing or outside its range.
    """
    settings = Settings(
        tau_min=_number("tau_min", tau_min),
        tau_max=_number("tau_max", tau_max),
        steps=_whole("steps", steps),
        sampler=str(sampler),
        strategy=str(strategy),
        seed=_whole("seed", seed),
    )
    settings.check(SAMPLERS)
    if settings.steps > MAX_STEPS:
        raise ValueError(f"expected at most {MAX_STEPS} steps, got {settings.steps}")
    return settings


def read_pair(photo: Photo | None, layer: Image.Image | None) -> tuple[Image.Image, np.ndarray]:
    """Return the photograph at its own size, and the painted mask scaled up to it.

    Args:
        photo: the session's photograph.
        layer: what is painted on the canvas.

    Raises:
        ValueError: no photograph, nothing painted, or everything painted.
    """
    if photo is None:
        raise ValueError(NO_PHOTO)
    image = read_image(photo.path)
    mask = canvas.layer_mask(layer, image.size)
    if not mask.any():
        raise ValueError("Paint over what is to be restored first: the mask is empty.")
    check_pair(image, mask)
    return image, mask


def read_files(photo: str, mask: str) -> tuple[Image.Image, np.ndarray]:
    """Return a photograph and its mask from two files.

    Raises:
        ValueError: one of them is missing or unreadable, or they do not belong together.
    """
    if not photo or not mask:
        raise ValueError("expected a photo and a mask, got " + ("no photo" if mask else "no mask"))
    _, image = open_photo(photo)
    hole = read_mask(mask, image.size)
    check_pair(image, hole)
    return image, hole


def predict_maps(pipe: Any, image: Image.Image, mask: np.ndarray) -> Maps:
    """Predict the gradient and every strategy's order of restoration; no step of the bridge."""
    return _maps(pipe, np.asarray(pipe.predict_gradient(image, mask)), mask)


def run_steps(
    pipe: Any, image: Image.Image, mask: np.ndarray, settings: Settings
) -> Iterator[Step]:
    """Run the bridge, yielding every state as it happens.

    Args:
        pipe: the pipeline.
        image: RGB photograph.
        mask: bool (H, W), True = missing.
        settings: of the run.

    Yields:
        steps + 1 states, t from 1 to 0.
    """
    for state in pipe.stream(image, mask, **settings.as_dict()):
        yield Step(
            step=state.step,
            steps=state.steps,
            t=float(state.t),
            x_t=np.asarray(state.x_t),
            x0_hat=np.asarray(state.x0_hat),
            maps=_maps(pipe, state.gradient, mask) if state.step == 0 else None,
            image=np.asarray(state.image) if state.step == state.steps else None,
        )


def save_result(path: Path, result: np.ndarray, original: Image.Image, settings: Settings) -> Path:
    """Write the finished picture as PNG, with the colour profile of the photograph.

    The settings go into the text field ``asyncdsb`` as JSON, so that a file says how it was made.
    """
    note = PngImagePlugin.PngInfo()
    note.add_text("asyncdsb", json.dumps(settings.as_dict()))
    profile = original.info.get("icc_profile")
    # Level 1 is three times as fast as the default and a tenth larger.
    Image.fromarray(result).save(path, pnginfo=note, icc_profile=profile, compress_level=1)
    return path


def _maps(pipe: Any, gradient: np.ndarray, mask: np.ndarray) -> Maps:
    orders = {name: np.asarray(pipe.tau_map(gradient, mask, 0.0, 1.0, name)) for name in STRATEGIES}
    return Maps(gradient, orders, pipe.config.schedule)


def _number(name: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(f"expected a number for {name}, got {value!r}")
    return value


def _whole(name: str, value: object) -> int:
    number = _number(name, value)
    if number != int(number):
        raise ValueError(f"expected a whole number for {name}, got {value!r}")
    return int(number)
