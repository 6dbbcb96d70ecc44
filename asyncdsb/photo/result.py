"""The frames of a restoration and its result."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
from PIL import Image
from torch import Tensor

from asyncdsb.photo.formats import SAVE_OPTIONS
from asyncdsb.photo.framing import Prepared
from asyncdsb.photo.images import write_atomic
from asyncdsb.photo.original import Photograph
from asyncdsb.photo.window import fill_smoothly


@dataclass(frozen=True, eq=False)
class Frame:
    """One moment of a restoration; its pictures are made when they are asked for.

    Attributes:
        prepared: the photo, its hole and its windows.
        gradient: (H, W) float32 completed gradient map in [0, 1].
        tau: (H, W) float32 peak times in [0, 1].
        t: time, falling from 1 to 0.
        step: steps done, 0 to ``steps``.
        steps: steps of the run.
        states: (1, 3, h, w) state of the bridge in each window of the photo.
        estimates: (1, 3, h, w) estimate of the clean image in each.
        patches: whether known patches were copied into the estimates.
    """

    prepared: Prepared = field(repr=False)
    gradient: np.ndarray = field(repr=False)
    tau: np.ndarray = field(repr=False)
    t: float
    step: int
    steps: int
    states: Sequence[Tensor] = field(repr=False)
    estimates: Sequence[Tensor] = field(repr=False)
    patches: bool = False

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
        """The same with everything that the photo's file holds."""
        return self.prepared.original.restored(self.rgb, self.prepared.hole)

    @property
    def rgb(self) -> np.ndarray:
        """The same as a viewer shows it: (H, W, 3) uint8."""
        prepared, picture = self.prepared, self.prepared.photo.copy()
        for window, estimate in zip(prepared.windows, self.estimates, strict=True):
            window.paste(picture, prepared.hole, estimate, self.patches)
        if prepared.rest is not None:
            # Once more, because the border of what was restored is known by now.
            fill_smoothly(picture, prepared.rest)
        return np.asarray(prepared.toned(Image.fromarray(picture)))


@dataclass(frozen=True)
class Result:
    """A finished restoration.

    Attributes:
        image: restored photo of the input's size; outside the mask bit-identical to the input. Its
            mode is the photo's: L, LA, RGB, RGBA, or I;16 for 16-bit grey (Pillow has no 16-bit
            colours). ``info`` holds colour profile, Exif data and so on.
        gradient: (H, W) float32 completed gradient map in [0, 1].
        tau: (H, W) float32 per-pixel peak time in [0, 1].
        trajectory: steps + 1 frames with t falling from 1 to 0; empty if it was not asked for.
        settings: those that reproduce this result.
        photograph: the restored photo with everything that its file holds.
    """

    image: Image.Image
    gradient: np.ndarray
    tau: np.ndarray
    trajectory: list[Frame] = field(repr=False)
    settings: dict
    photograph: Photograph = field(repr=False)

    def save(self, path: str | Path) -> Path:
        """Write the restored photo with what its file held, 16 bits and metadata included.

        A warning names what the format cannot hold, see
        :meth:`asyncdsb.photo.original.Photograph.not_kept`.

        Args:
            path: PNG, TIFF, WebP, BMP or JPEG, by its suffix. The first two can hold all but texts,
                PNG those too, and the settings.

        Raises:
            ValueError: another suffix, or a place that cannot be written to.
        """
        if Path(path).suffix.lower() not in SAVE_OPTIONS:
            expected = " ".join(SAVE_OPTIONS)
            raise ValueError(f"expected a file ending in {expected}, got {Path(path).name}")
        saved = write_atomic(path, lambda beside: self.photograph.save(beside, self.settings))
        if lost := self.photograph.not_kept(saved.suffix):
            warnings.warn(f"not kept in {saved.name}: {', '.join(lost)}", stacklevel=2)
        return saved
