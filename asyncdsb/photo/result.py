"""A restoration: what it starts from, its frames and its result."""

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
from asyncdsb.photo.heads import Box
from asyncdsb.photo.images import to_pil, write_atomic
from asyncdsb.photo.original import Photograph
from asyncdsb.photo.tiles import TOGETHER
from asyncdsb.photo.window import Window, fill_smoothly

PREVIEW = 512  # longest side in pixels of the frames of a trajectory


@dataclass(frozen=True, eq=False)
class Prepared:
    """A photo, the windows over its hole, and the networks' inputs."""

    original: Photograph  # as it was given
    photo: np.ndarray  # (H, W, 3) uint8; with a smooth fill in its hole for the window of a head
    hole: np.ndarray  # (H, W) bool
    windows: tuple[Window, ...]  # around holes, or the one of a head
    images: tuple[Tensor, ...]  # (1, 3, h, w) in [-1, 1] each, with a smooth fill in its hole
    masks: tuple[Tensor, ...]  # (1, 1, h, w) float each, 1 = missing
    rest: np.ndarray | None = None  # (H, W) bool, the hole beyond a head's window if there is any
    box: Box | None = None  # (left, top, side) of a head's window
    key: tuple | None = None  # tells the inputs from others; None for a photo that is too large

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
    def _grey(self) -> bool:
        """Whether what is known of the photo has no colour."""
        known = self.original.rgb
        alike = (known[..., 1:] == known[..., :1]).all(-1) | self.hole
        return self.original.colours == 1 or bool(alike.all())

    def toned(self, picture: Image.Image) -> Image.Image:
        """An RGB picture, without colours if the photo has none; grey pixels stay as they are."""
        return picture.convert("L").convert("RGB") if self._grey else picture

    @cached_property
    def _small(self) -> tuple[Image.Image, list[tuple[Image.Image, tuple[int, int, int, int]]]]:
        """Photo at preview size, and the mask and the box of each window there."""
        photo = Image.fromarray(self.photo)
        scale = min(1.0, PREVIEW / max(photo.size))
        if scale < 1:
            size = max(1, round(photo.width * scale)), max(1, round(photo.height * scale))
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
        return self.toned(shown)


@dataclass(frozen=True, eq=False)
class Frame:
    """One moment of a restoration; its pictures are made when they are asked for."""

    prepared: Prepared = field(repr=False)
    gradient: np.ndarray = field(repr=False)  # (H, W) float32 completed gradient map in [0, 1]
    tau: np.ndarray = field(repr=False)  # (H, W) float32 peak times in [0, 1]
    t: float  # time, falling from 1 to 0
    step: int  # steps done
    steps: int  # of the run
    states: Sequence[Tensor] = field(repr=False)  # (1, 3, h, w), of the bridge in each window
    estimates: Sequence[Tensor] = field(repr=False)  # (1, 3, h, w), of the clean image in each
    patches: bool = False  # whether known patches were copied into the estimates

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

        The suffix says PNG, TIFF, WebP, BMP or JPEG. The first two can hold all but texts, PNG
        those too, and the settings; a warning names what the format cannot hold.

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
