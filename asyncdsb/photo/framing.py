"""From a photo and its mask to the inputs of the networks: windows, and what they cut out."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Generic, TypeVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from asyncdsb.denoiser import BridgeDenoiser
from asyncdsb.gradient import GradientCompletion
from asyncdsb.photo.decoding import ImageSource
from asyncdsb.photo.heads import Box, check_box, head_box, largest_square
from asyncdsb.photo.images import check_pair, to_pil
from asyncdsb.photo.mask_files import read_mask
from asyncdsb.photo.original import Photograph, read_photograph
from asyncdsb.photo.regions import windows_over
from asyncdsb.photo.tiles import TOGETHER
from asyncdsb.photo.window import Window, fill_smoothly

PREVIEW = 512
"""Longest side in pixels of the frames of a trajectory."""

KEPT = 16_000_000
"""Most pixels of a photo whose inputs and gradient are kept for the next call (for the memory)."""

T = TypeVar("T")


class Latest(Generic[T]):
    """The value that was made last, kept for the next call with the same key.

    The page predicts the gradient of a hole before it restores it, and restores it with several
    seeds: the same inputs come again and again.
    """

    def __init__(self) -> None:
        self._entry: tuple[Hashable, T] | None = None

    def get(self, key: Hashable, make: Callable[[], T]) -> T:
        """Return the value of a key; ``make`` it if another one was made last, or for None."""
        entry = self._entry  # Read once, because threads share it.
        if entry is not None and entry[0] == key:
            return entry[1]
        # Freed first: it may be large.
        self._entry = entry = None
        value = make()
        if key is not None:
            self._entry = key, value
        return value


def read_pair(
    image: ImageSource | np.ndarray | Photograph, mask: ImageSource
) -> tuple[Photograph, np.ndarray]:
    """A photo and its hole (H, W) bool; raise ValueError if they cannot be restored."""
    original = read_photograph(image)
    hole = read_mask(mask)
    check_pair(original.rgb, hole)
    return original, hole


@dataclass(frozen=True, eq=False)
class Prepared:
    """A photo, the windows over its hole, and the networks' inputs.

    Attributes:
        original: the photo as it was given.
        photo: (H, W, 3) uint8; with a smooth fill in its hole, if the window is that of a head.
        hole: (H, W) bool.
        windows: of :func:`asyncdsb.photo.regions.windows_over`, or the one of a head.
        images: (1, 3, h, w) in [-1, 1] for each window, with a smooth fill in its hole.
        masks: (1, 1, h, w) float for each window, 1 = missing.
        rest: (H, W) bool, the part of the hole beyond a head's window; None without such a part.
        box: (left, top, side) of a head's window; None for windows around holes.
        key: the same for the same photo, hole, tiles and box; None for photos of more than
            :data:`KEPT` pixels.
    """

    original: Photograph
    photo: np.ndarray
    hole: np.ndarray
    windows: tuple[Window, ...]
    images: tuple[Tensor, ...]
    masks: tuple[Tensor, ...]
    rest: np.ndarray | None = None
    box: Box | None = None
    key: tuple | None = None

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
        red, green, blue = (self.original.rgb[..., channel] for channel in range(3))
        alike = (red == green) & (green == blue) | self.hole
        return self.original.colours == 1 or bool(alike.all())

    def toned(self, picture: Image.Image) -> Image.Image:
        """An RGB picture, without colours if the photo has none; grey pixels stay as they are."""
        return picture.convert("L").convert("RGB") if self._grey else picture

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
        return self.toned(shown)


class Framing:
    """How weights look at photos: in windows around holes, or in a square around a head."""

    def __init__(self, denoiser: BridgeDenoiser, completion: GradientCompletion):
        self._denoiser = denoiser
        self.stride = math.lcm(denoiser.config.unet.stride, completion.config.generator.stride)
        self._windows: Latest[tuple[Window, ...]] = Latest()
        self._box: Latest[Box] = Latest()
        self._inputs: Latest[_Inputs] = Latest()

    @property
    def head(self) -> bool:
        """Whether the weights work in the square around a head."""
        return self._denoiser.config.window == "head"

    def box(self, photo: np.ndarray, hole: np.ndarray) -> Box | None:
        """Choose the square around a head; None for weights that work in windows around holes.

        ``photo`` is (H, W, 3) uint8, ``hole`` (H, W) bool.
        """
        return self._box_of(_content(photo, hole), photo, hole) if self.head else None

    def _box_of(self, content: tuple | None, photo: np.ndarray, hole: np.ndarray) -> Box:
        return self._box.get(content, lambda: head_box(photo, hole))

    def windows(self, hole: np.ndarray, tiles: int, box: Box | None = None) -> tuple[Window, ...]:
        """Choose the windows over a hole (H, W) bool.

        ``tiles`` is the most fields of the networks, ``box`` the square around a head (None for the
        largest square).
        """
        resolution = self._denoiser.config.resolution
        if self.head:
            chosen = largest_square(hole) if box is None else box
            return (Window.at(hole, chosen, resolution, self.stride),)
        key = hole.shape, tiles, _digest(np.packbits(hole))
        return self._windows.get(key, lambda: windows_over(hole, resolution, self.stride, tiles))

    def prepare(
        self,
        original: Photograph,
        hole: np.ndarray,
        tiles: int,
        box: Box | None,
        device: torch.device,
    ) -> Prepared:
        """Cut the networks' inputs out of a photo; without a ``box`` heads are looked for.

        Raises:
            ValueError: on a box that does not fit, or with weights that take none.
        """
        photo = original.rgb
        content = _content(photo, hole)
        if not self.head and box is not None:
            raise ValueError(f"expected no box with weights that are not for portraits, got {box}")
        if self.head and box is None:
            box = self._box_of(content, photo, hole)
        key = None if content is None else (content, tiles, box and tuple(box))
        made = self._inputs.get(key, lambda: self._cut(photo, hole, tiles, box, device))
        # The photo itself is the caller's, who may change it.
        shown = photo if made.filled is None else made.filled
        return Prepared(
            original, shown, hole, made.windows, made.images, made.masks, made.rest, box, key
        )

    def _cut(
        self,
        photo: np.ndarray,
        hole: np.ndarray,
        tiles: int,
        box: Box | None,
        device: torch.device,
    ) -> _Inputs:
        filled = rest = None
        if box is not None:
            check_box(box, hole)
            left, top, side = box
            outside = hole.copy()
            outside[top : top + side, left : left + side] = False
            rest = outside if outside.any() else None
            # Nothing hidden may show beyond the window, nor in the gradients along its edge.
            photo = filled = photo.copy()
            fill_smoothly(filled, hole)
        windows = self.windows(hole, tiles, box)
        cuts = [window.cut(photo, hole) for window in windows]
        images, masks = (tuple(x.to(device) for x in part) for part in zip(*cuts, strict=True))
        return _Inputs(filled, rest, windows, images, masks)


@dataclass(frozen=True, eq=False)
class _Inputs:
    """What :meth:`Framing.prepare` makes, see :class:`Prepared`; ``filled`` for a head alone."""

    filled: np.ndarray | None
    rest: np.ndarray | None
    windows: tuple[Window, ...]
    images: tuple[Tensor, ...]
    masks: tuple[Tensor, ...]


def _content(photo: np.ndarray, hole: np.ndarray) -> tuple | None:
    """What tells a photo and its hole from others; None for more than :data:`KEPT` pixels."""
    if hole.size > KEPT:
        return None
    return hole.shape, _digest(photo), _digest(np.packbits(hole))


def _digest(values: np.ndarray) -> bytes:
    return hashlib.blake2b(np.ascontiguousarray(values).data).digest()
