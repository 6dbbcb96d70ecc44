"""What a restoration is made of: its settings, the photo on its way, its frames and its result."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
from PIL import Image
from torch import Tensor

from asyncdsb.denoiser import FINISHES, BridgeConfig
from asyncdsb.photo.finish import copies
from asyncdsb.photo.formats import SAVE_OPTIONS
from asyncdsb.photo.images import to_pil, write_atomic
from asyncdsb.photo.original import Photograph
from asyncdsb.photo.tiles import TOGETHER
from asyncdsb.photo.window import Window, fill_smoothly
from asyncdsb.samplers import GRIDS
from asyncdsb.schedule import STRATEGIES, check_tau_range

PREVIEW = 512
"""Longest side in pixels of the frames of a trajectory."""

LEFT_TO_WEIGHTS = ("finish",)
"""Settings that the configuration of the weights decides where they are None."""


@dataclass(frozen=True)
class Settings:
    """What a run can be told, with the defaults.

    Attributes:
        tau_min: tau of the flattest hole pixel, in [0, 1].
        tau_max: tau of the steepest hole pixel, in [tau_min, 1]. (0.5, 0.5) is I2SB.
        steps: network evaluations, >= 1.
        sampler: one of :data:`asyncdsb.samplers.SAMPLERS`.
        strategy: how tau is laid out, one of :data:`asyncdsb.schedule.STRATEGIES`, or an (H, W)
            array of tau in [0, 1].
        eta: share of fresh noise of the implicit sampler, in [0, 1].
        grid: time grid, one of :data:`asyncdsb.samplers.GRIDS`.
        finish: what happens to the bridge's result, one of
            :data:`asyncdsb.denoiser.FINISHES`: "none" shows it as it is, "patches" replaces it by
            patches of the known part (:mod:`asyncdsb.photo.patches`). None for what the weights'
            configuration says.
        seed: of all noise, 0 <= seed < 2**63.
        tiles: in how many fields of the networks a hole that does not fit into one may be
            restored, >= 1: overlapping ones over a large hole, separate ones over holes that lie
            far apart. More keep more of a large photo's detail, and take as much longer. Without
            effect with weights for portraits, which work in one square.
        box: with weights for portraits, the square around the head in which they work: left edge,
            top edge and side in photo pixels, at least 32 wide. None for what
            :func:`asyncdsb.photo.heads.head_box` chooses. What is missing beyond it is filled
            smoothly.
    """

    tau_min: float = 0.2
    tau_max: float = 0.5
    steps: int = 20
    sampler: str = "posterior"
    strategy: str | np.ndarray = "gradient"
    eta: float = 0.0
    grid: str = "log"
    finish: str | None = None
    seed: int = 0
    tiles: int = 8
    box: tuple[int, int, int] | None = None

    def check(self, samplers: Sequence[str]) -> None:
        """Raise ValueError, saying what was expected and what came, unless all is in range."""
        for name in ("tau_min", "tau_max", "eta"):
            value = getattr(self, name)
            if not _real(value):
                raise ValueError(f"expected a number for {name}, got {value!r}")
        check_tau_range(self.tau_min, self.tau_max)
        if not _whole(self.steps) or self.steps < 1:
            raise ValueError(f"expected a whole number of steps >= 1, got {self.steps!r}")
        if not _whole(self.tiles) or self.tiles < 1:
            raise ValueError(f"expected a whole number of tiles >= 1, got {self.tiles!r}")
        if self.sampler not in samplers:
            raise ValueError(
                "expected a sampler that the weights were trained for "
                f"({', '.join(samplers)}), got {self.sampler!r}"
            )
        if isinstance(self.strategy, str) and self.strategy not in STRATEGIES:
            raise ValueError(
                f"expected a strategy out of {', '.join(STRATEGIES)} or an array, "
                f"got {self.strategy!r}"
            )
        if not 0 <= self.eta <= 1:
            raise ValueError(f"expected eta in [0, 1], got {self.eta}")
        if self.finish is not None and self.finish not in FINISHES:
            raise ValueError(f"expected a finish out of {', '.join(FINISHES)}, got {self.finish!r}")
        if self.grid not in GRIDS:
            raise ValueError(f"expected a time grid out of {', '.join(GRIDS)}, got {self.grid!r}")
        if not _whole(self.seed) or not 0 <= self.seed < 2**63:
            raise ValueError(f"expected a whole seed with 0 <= seed < 2**63, got {self.seed!r}")
        if self.box is not None and not _box(self.box):
            raise ValueError(
                f"expected three whole numbers for box (left, top, side), got {self.box!r}"
            )

    def resolved(self, config: BridgeConfig) -> Settings:
        """The same, with what was left to the weights taken from their configuration."""
        left = [name for name in LEFT_TO_WEIGHTS if getattr(self, name) is None]
        return dataclasses.replace(self, **{name: getattr(config, name) for name in left})

    def as_dict(self) -> dict:
        """JSON-serialisable form; a painted tau map is named, not copied."""
        painted = not isinstance(self.strategy, str)
        values = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        values |= {"strategy": "painted"} if painted else {}
        # A list, as JSON has no other.
        values |= {"box": None if self.box is None else [int(value) for value in self.box]}
        return {k: v.item() if isinstance(v, np.generic) else v for k, v in values.items()}


@dataclass(frozen=True, eq=False)
class Frame:
    """One moment of a restoration, with its pictures made when they are asked for.

    Attributes:
        prepared: what is restored.
        gradient: (H, W) float32 completed gradient map in [0, 1].
        tau: (H, W) float32 peak times in [0, 1].
        t: time, falling from 1 to 0.
        step: steps done, 0 to ``steps``.
        steps: steps of the run.
        states: (1, 3, h, w) state of the bridge in each window of the photo.
        estimates: (1, 3, h, w) estimate of the clean image in each.
        finish: what happens to the last state, see :class:`Settings`.
    """

    prepared: Prepared = field(repr=False)
    gradient: np.ndarray = field(repr=False)
    tau: np.ndarray = field(repr=False)
    t: float
    step: int
    steps: int
    states: Sequence[Tensor] = field(repr=False)
    estimates: Sequence[Tensor] = field(repr=False)
    finish: str | None = None

    @cached_property
    def x_t(self) -> Image.Image:
        """State of the bridge in the hole, in the photo at preview size (long side <= 512)."""
        return self.prepared.preview(self.states)

    @cached_property
    def x0_hat(self) -> Image.Image:
        """Present estimate of the clean image in the hole, at preview size."""
        return self.prepared.preview(self.estimates)

    @property
    def image(self) -> Image.Image:
        """The estimate set into the photo, see :class:`Result`."""
        return self.photograph.picture

    @property
    def photograph(self) -> Photograph:
        """The same with all that the photo's file holds."""
        return self.prepared.original.restored(self.rgb, self.prepared.hole)

    @property
    def rgb(self) -> np.ndarray:
        """The same as a viewer shows it: (H, W, 3) uint8."""
        picture = self.prepared.photo.copy()
        patches = copies(self.finish, self.step, self.steps)
        for window, estimate in zip(self.prepared.windows, self.estimates, strict=True):
            window.paste(picture, self.prepared.hole, estimate, patches)
        if self.prepared.rest is not None:
            # Once more, because the border of what was restored is known by now.
            fill_smoothly(picture, self.prepared.rest)
        if self.prepared.grey:
            picture = np.asarray(_grey(Image.fromarray(picture)))
        return picture


@dataclass(frozen=True)
class Result:
    """A finished restoration.

    Attributes:
        image: restored photo of the input's size; outside the mask bit-identical to the input. Its
            mode is the photo's: L, LA, RGB, RGBA, or I;16 for 16-bit grey (Pillow has no 16-bit
            colours). ``info`` holds colour profile, Exif data and the rest.
        gradient: (H, W) float32 completed gradient map in [0, 1].
        tau: (H, W) float32 per-pixel peak time in [0, 1].
        trajectory: steps + 1 frames with t falling from 1 to 0; empty if it was not asked for.
        settings: what gives this result again.
        photograph: the restored photo with all that its file holds.
    """

    image: Image.Image
    gradient: np.ndarray
    tau: np.ndarray
    trajectory: list[Frame] = field(repr=False)
    settings: dict
    photograph: Photograph = field(repr=False)

    def save(self, path: str | Path) -> Path:
        """Write the restored photo with all that its file held, 16 bits and metadata included.

        Args:
            path: PNG, TIFF, WebP, BMP or JPEG, by its suffix. The first two can hold all but texts,
                PNG those too, and the settings.

        Returns:
            The path.

        Raises:
            ValueError: another suffix, or a place that cannot be written to.
        """
        if Path(path).suffix.lower() not in SAVE_OPTIONS:
            expected = " ".join(SAVE_OPTIONS)
            raise ValueError(f"expected a file ending in {expected}, got {Path(path).name}")
        return write_atomic(path, lambda beside: self.photograph.save(beside, self.settings))


@dataclass(frozen=True, eq=False)
class Prepared:
    """A photo on its way: the windows over its hole, the networks' inputs, the preview.

    Attributes:
        original: the photo as it was given.
        photo: (H, W, 3) uint8; with a smooth fill in its hole, if the window is that of a head.
        hole: (H, W) bool.
        windows: of :func:`asyncdsb.photo.regions.windows_over`, or the one of a head.
        images: (1, 3, h, w) in [-1, 1] for each window, nothing but a smooth fill in its hole.
        masks: (1, 1, h, w) float for each window, 1 = missing.
        rest: (H, W) bool, the part of the hole that lies beyond a head's window; None if none does.
        box: (left, top, side) of a head's window; None for windows around holes.
        grey: whether what is known has no colour; what is restored has none then.
    """

    original: Photograph
    photo: np.ndarray
    hole: np.ndarray
    windows: tuple[Window, ...]
    images: tuple[Tensor, ...]
    masks: tuple[Tensor, ...]
    rest: np.ndarray | None = None
    box: tuple[int, int, int] | None = None
    grey: bool = False

    def batches(self) -> list[list[int]]:
        """Numbers of the windows that the networks can take together: of one size, not tiled."""
        alike: dict[tuple, list[int]] = {}
        for number, (window, image) in enumerate(zip(self.windows, self.images, strict=True)):
            key = (number,) if window.tiles else (-1, *image.shape)
            alike.setdefault(key, []).append(number)
        return [
            numbers[first : first + TOGETHER]
            for numbers in alike.values()
            for first in range(0, len(numbers), TOGETHER)
        ]

    @cached_property
    def _small(self) -> tuple[Image.Image, list[tuple[Image.Image, tuple[int, int, int, int]]]]:
        """Photo at preview size, and the mask and the box of each window there."""
        height, width = self.hole.shape
        scale = min(1.0, PREVIEW / max(height, width))
        size = max(1, round(width * scale)), max(1, round(height * scale))
        photo = Image.fromarray(self.photo)
        if size != photo.size:
            photo = photo.resize(size, Image.Resampling.LANCZOS)
        places = []
        for window in self.windows:
            left, top = round(window.left * scale), round(window.top * scale)
            right = max(left + 1, round((window.left + window.width) * scale))
            bottom = max(top + 1, round((window.top + window.height) * scale))
            mask = Image.fromarray(window.own.astype(np.uint8) * 255)
            mask = mask.resize((right - left, bottom - top), Image.Resampling.BOX)
            places.append((mask, (left, top, right, bottom)))
        return photo, places

    def preview(self, parts: Sequence[Tensor]) -> Image.Image:
        """Working-size pictures of the windows set into the hole of the photo, at preview size."""
        photo, places = self._small
        shown = photo.copy()
        for window, x, (mask, box) in zip(self.windows, parts, places, strict=True):
            part = to_pil(window.crop(x))
            if part.size != mask.size:
                part = part.resize(mask.size, Image.Resampling.BILINEAR)
            shown.paste(part, box, mask)
        return _grey(shown) if self.grey else shown


def _grey(picture: Image.Image) -> Image.Image:
    """An RGB picture without colours; those that are grey stay as they are."""
    return picture.convert("L").convert("RGB")


def check_painted(strategy: str | np.ndarray, shape: tuple[int, ...]) -> None:
    """Raise ValueError unless a strategy has a name or is floats in [0, 1] of the photo's shape."""
    if isinstance(strategy, str):
        return
    tau = np.asarray(strategy)
    if tau.shape != shape:
        raise ValueError(f"expected a painted tau map of shape {shape}, got {tau.shape}")
    if not np.issubdtype(tau.dtype, np.floating) or not ((tau >= 0) & (tau <= 1)).all():
        raise ValueError(
            f"expected a painted tau map of floats in [0, 1], got {tau.dtype} "
            f"from {tau.min()} to {tau.max()}"
        )


def _real(value: object) -> bool:
    return isinstance(value, int | float | np.integer | np.floating) and not isinstance(value, bool)


def _box(value: object) -> bool:
    return isinstance(value, list | tuple) and len(value) == 3 and all(map(_whole, value))


def _whole(value: object) -> bool:
    return isinstance(value, int | np.integer) and not isinstance(value, bool)
