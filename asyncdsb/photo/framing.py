"""From a photo and its mask to the inputs of the networks: windows, and what they cut out."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

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
    """A photo, the windows over its hole, and the networks' inputs."""

    original: Photograph  # as it was given
    photo: np.ndarray  # (H, W, 3) uint8; with a smooth fill in its hole for the window of a head
    hole: np.ndarray  # (H, W) bool
    windows: tuple[Window, ...]  # of asyncdsb.photo.regions.windows_over, or the one of a head
    images: tuple[Tensor, ...]  # (1, 3, h, w) in [-1, 1] each, with a smooth fill in its hole
    masks: tuple[Tensor, ...]  # (1, 1, h, w) float each, 1 = missing
    rest: np.ndarray | None = None  # (H, W) bool, the hole beyond a head's window if there is any
    box: Box | None = None  # (left, top, side) of a head's window

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

    def __init__(
        self, denoiser: BridgeDenoiser, completion: GradientCompletion, device: torch.device
    ):
        self._denoiser, self._device = denoiser, device
        self.stride = math.lcm(denoiser.config.unet.stride, completion.config.generator.stride)
        self._last: tuple[tuple | None, tuple[Window, ...]] = (None, ())

    @property
    def head(self) -> bool:
        """Whether the weights work in the square around a head."""
        return self._denoiser.config.window == "head"

    def windows(self, hole: np.ndarray, tiles: int, box: Box | None = None) -> tuple[Window, ...]:
        """Choose the windows over a hole (H, W) bool; the last ones are kept for the next call.

        ``tiles`` is the most fields of the networks, ``box`` a head's (None: the largest square).
        """
        resolution = self._denoiser.config.resolution
        if self.head:
            chosen = largest_square(hole) if box is None else box
            return (Window.at(hole, chosen, resolution, self.stride),)
        key = hole.shape, tiles, resolution, hashlib.blake2b(np.packbits(hole).tobytes()).digest()
        if key != self._last[0]:
            self._last = key, windows_over(hole, resolution, self.stride, tiles)
        return self._last[1]

    def prepare(
        self, original: Photograph, hole: np.ndarray, tiles: int, box: Box | None
    ) -> Prepared:
        """Cut the networks' inputs out of a photo; without a ``box`` heads are looked for.

        Raises:
            ValueError: on a box that does not fit, or with weights that take none.
        """
        photo, rest = original.rgb, None
        if self.head:
            left, top, side = box = head_box(photo, hole) if box is None else box
            check_box(box, hole)
            outside = hole.copy()
            outside[top : top + side, left : left + side] = False
            rest = outside if outside.any() else None
            # Nothing hidden may show beyond the window, nor in the gradients along its edge.
            photo = photo.copy()
            fill_smoothly(photo, hole)
        elif box is not None:
            raise ValueError(f"expected no box with weights that are not for portraits, got {box}")
        windows = self.windows(hole, tiles, box)
        cuts = [window.cut(photo, hole) for window in windows]
        images, masks = (
            tuple(x.to(self._device) for x in part) for part in zip(*cuts, strict=True)
        )
        return Prepared(original, photo, hole, windows, images, masks, rest, box)
