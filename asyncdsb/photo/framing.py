"""From a photo and its mask to what the networks take: windows, and what is cut out for them."""

from __future__ import annotations

import hashlib
import math

import numpy as np
import torch

from asyncdsb.denoiser import BridgeDenoiser
from asyncdsb.gradient import GradientCompletion
from asyncdsb.photo.decoding import ImageSource
from asyncdsb.photo.heads import Box, check_box, head_box, largest_square
from asyncdsb.photo.images import check_pair
from asyncdsb.photo.mask_files import read_mask
from asyncdsb.photo.original import Photograph, read_photograph
from asyncdsb.photo.regions import windows_over
from asyncdsb.photo.restoration import Prepared
from asyncdsb.photo.window import Window, fill_smoothly


def read_pair(
    image: ImageSource | np.ndarray | Photograph, mask: ImageSource
) -> tuple[Photograph, np.ndarray]:
    """A photo and its hole (H, W) bool, read and checked.

    Raises:
        ValueError: if the pair cannot be restored.
    """
    original = read_photograph(image)
    hole = read_mask(mask)
    check_pair(original.rgb, hole)
    return original, hole


def is_grey(original: Photograph, hole: np.ndarray) -> bool:
    """Whether what is known of a photo has no colour."""
    red, green, blue = (original.rgb[..., channel] for channel in range(3))
    return original.colours == 1 or bool(((red == green) & (green == blue) | hole).all())


class Framing:
    """How weights look at photos: in windows around holes, or in a square around a head.

    Args:
        denoiser: whose configuration says which, and at what resolution.
        completion: the other network that looks at them.
    """

    def __init__(self, denoiser: BridgeDenoiser, completion: GradientCompletion):
        self._denoiser, self._completion = denoiser, completion
        self._last: tuple[tuple | None, tuple[Window, ...]] = (None, ())

    @property
    def stride(self) -> int:
        """Sides have to be multiples of it, for both networks."""
        return math.lcm(self._denoiser.config.unet.stride, self._completion.config.generator.stride)

    @property
    def resolution(self) -> int:
        """Side in pixels that the networks were trained for."""
        return self._denoiser.config.resolution

    @property
    def head(self) -> bool:
        """Whether they work in the square around a head."""
        return self._denoiser.config.window == "head"

    def windows(self, hole: np.ndarray, tiles: int, box: Box | None = None) -> tuple[Window, ...]:
        """Choose the windows over a hole; the last ones are kept, as one hole is asked about often.

        Args:
            hole: (H, W) bool.
            tiles: how many fields of the networks may be used, >= 1.
            box: the square around a head; None lays it out as if none had been found.
        """
        if self.head:
            chosen = largest_square(hole) if box is None else box
            return (Window.at(hole, chosen, self.resolution, self.stride),)
        key = (
            hole.shape,
            tiles,
            self.resolution,
            hashlib.blake2b(np.packbits(hole).tobytes()).digest(),
        )
        known, windows = self._last
        if key != known:
            windows = windows_over(hole, self.resolution, self.stride, tiles)
            self._last = key, windows
        return windows

    def box_of(self, original: Photograph, hole: np.ndarray) -> Box | None:
        """The square around a head that is taken unless one is given; None without heads."""
        return head_box(original.rgb, hole) if self.head else None

    def prepare(
        self,
        original: Photograph,
        hole: np.ndarray,
        tiles: int,
        box: Box | None,
        device: torch.device,
    ) -> Prepared:
        """Cut out of a photo what the networks take.

        Args:
            original: the photo.
            hole: (H, W) bool.
            tiles: see :meth:`windows`.
            box: the square around a head; None for what :meth:`box_of` says.
            device: of the networks.

        Raises:
            ValueError: on a box that does not fit, or one that these weights have no use for.
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
        images, masks = zip(*(window.cut(photo, hole) for window in windows), strict=True)
        return Prepared(
            original,
            photo,
            hole,
            windows,
            tuple(image.to(device) for image in images),
            tuple(mask.to(device) for mask in masks),
            rest,
            box,
            is_grey(original, hole),
        )
