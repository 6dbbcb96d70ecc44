"""A restoration: what it starts from, its frames and its result."""

import warnings
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
from PIL import Image
from torch import Tensor

from asyncdsb.photo.formats import SAVE_OPTIONS, check_side
from asyncdsb.photo.heads import Box
from asyncdsb.photo.images import scaled, to_pil, write_atomic
from asyncdsb.photo.original import Photograph
from asyncdsb.photo.tiles import TOGETHER
from asyncdsb.photo.window import Window, fill_smoothly

PREVIEW = 512  # longest side in pixels of the frames of a trajectory


@dataclass(frozen=True, eq=False)
class Prepared:
    """A photo, the windows over its hole, and the networks' inputs."""

    original: Photograph  # as it was given
    hole: np.ndarray  # (H, W) bool
    windows: tuple[Window, ...]  # around holes, or the one of a head
    images: tuple[Tensor, ...]  # (1, 3, h, w) in [-1, 1] each, with a smooth fill in its hole
    masks: tuple[Tensor, ...]  # (1, 1, h, w) float each, 1 = missing
    key: Hashable  # tells the inputs from others
    box: Box | None = None  # (left, top, side) of a head's window
    filled: np.ndarray | None = None  # (H, W, 3) uint8, then: the photo with a smooth fill

    @property
    def photo(self) -> np.ndarray:
        """(H, W, 3) uint8; with a smooth fill in its hole for the window of a head."""
        return self.original.rgb if self.filled is None else self.filled

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
        known = self.original.rgb[~self.hole]
        return bool((known == known[:, :1]).all())

    def toned(self, picture: Image.Image) -> Image.Image:
        """An RGB picture, without colours if the photo has none."""
        return picture.convert("L").convert("RGB") if self._grey else picture

    @cached_property
    def _small(self) -> Image.Image:
        """The photo at preview size."""
        photo = Image.fromarray(self.photo)
        scale = min(1.0, PREVIEW / max(photo.size))
        return photo.resize(scaled(photo.size, scale), Image.Resampling.LANCZOS)

    def preview(self, parts: Sequence[Tensor]) -> Image.Image:
        """Working-size pictures of the windows set into the hole of the photo, at preview size."""
        shown = self._small.copy()
        scale = max(shown.size) / max(self.hole.shape)
        for window, x in zip(self.windows, parts, strict=True):
            left, top = round(window.left * scale), round(window.top * scale)
            right = max(left + 1, round((window.left + window.width) * scale))
            bottom = max(top + 1, round((window.top + window.height) * scale))
            size = right - left, bottom - top
            mask = Image.fromarray(window.own.astype(np.uint8) * 255)
            part = to_pil(window.crop(x)).resize(size, Image.Resampling.BILINEAR)
            shown.paste(part, (left, top), mask.resize(size, Image.Resampling.BOX))
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
        """State of the bridge in the hole, in the photo at preview size."""
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
        rest = prepared.hole.copy()
        for window, estimate in zip(prepared.windows, self.estimates, strict=True):
            window.paste(picture, prepared.hole, estimate, self.patches)
            rest[window.slices] &= ~window.own
        if rest.any():
            # Once more, because the border of what was restored is known by now.
            fill_smoothly(picture, rest)
        return np.asarray(prepared.toned(Image.fromarray(picture)))


@dataclass(frozen=True, eq=False)
class Result:
    """A finished restoration."""

    # Outside the mask bit-identical to the input, in its mode: L, LA, RGB, RGBA, or I;16 for 16-bit
    # grey (Pillow has no 16-bit colours). ``info`` holds colour profile, Exif data and so on.
    image: Image.Image
    gradient: np.ndarray  # (H, W) float32 completed gradient map in [0, 1]
    tau: np.ndarray  # (H, W) float32 peak time of every pixel in [0, 1]
    trajectory: list[Frame] = field(repr=False)  # t falls from 1 to 0; empty if not asked for
    settings: dict  # those that reproduce this result, a painted order with ``tau``
    photograph: Photograph = field(repr=False)  # the restored photo with all that its file holds

    def save(self, path: str | Path) -> Path:
        """Write the restored photo as PNG, TIFF, WebP, BMP or JPEG, with what its file held.

        A PNG holds the settings too. A warning names what the format cannot hold.

        Raises:
            ValueError: another suffix, a photo too large for it, or a place that cannot be written.
        """
        if Path(path).suffix.lower() not in SAVE_OPTIONS:
            suffixes, got = " ".join(SAVE_OPTIONS), Path(path).name
            raise ValueError(f"expected a file ending in {suffixes}, got {got}")
        check_side(Path(path), self.photograph.size)
        saved = write_atomic(path, lambda beside: self.photograph.save(beside, self.settings))
        if lost := self.photograph.not_kept(saved.suffix):
            warnings.warn(f"not kept in {saved.name}: {', '.join(lost)}", stacklevel=2)
        return saved
