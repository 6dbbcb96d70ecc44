"""Photos of any size: the window in which the networks work, and the way back.

A window is cut around the hole. Where it is larger than the networks' field, tiles cover it
(:mod:`asyncdsb.photo.tiles`), and it is scaled down until no more tiles are needed than allowed,
and until no part of the hole is further from what is known than a network can see. Holes that lie
far apart get a window each where one around all would have to be scaled down.

Weights for portraits work in a square around a head instead (:mod:`asyncdsb.photo.heads`). The
hole beyond it is filled smoothly. The result is set into the hole alone; nothing that the photo
holds under the mask reaches the networks or the result.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from asyncdsb.photo.fill import harmonic_fill, joined
from asyncdsb.photo.heads import Box
from asyncdsb.photo.images import scaled, to_bytes
from asyncdsb.photo.patches import copy_patches
from asyncdsb.photo.tiles import Tiles

MARGIN = 0.25  # known pixels around the hole on each side, as a share of its longer side
MIN_MARGIN = 32  # the least of that, in pixels
# Largest distance of a missing pixel to the nearest known one on a tiled canvas, as a share of the
# networks' field; beyond it a tile in the middle of a hole would see nothing.
MAX_DEPTH = 0.2
MAX_CANVAS = 2_000_000  # most pixels that are worked on at once, which bounds the memory
MAX_COPIED = 2**19  # most pixels of the size at which patches are copied into a window
FINER = 2**0.25  # ratio of the scales that are tried, from the finest down
MAX_TOGETHER = 2**18  # most pixels of a window whose three channels are filled together
SWEEPS = 2  # relaxations of fills at the photo's own size, which may be large
# Most groups of holes, which bounds the memory. Twice as many are compared with one another; more
# are first joined with their neighbours, by a distance that doubles.
MANY = 32


@dataclass(frozen=True)
class Window:
    """Part of a photo and the size at which it is worked on."""

    photo: tuple[int, int]  # (H, W) in pixels
    top: int  # first row of the window
    left: int  # first column
    height: int  # in photo pixels
    width: int
    work: tuple[int, int]  # (h, w) at the networks' resolution, before padding
    stride: int  # padded sizes are multiples of this
    # (height, width) bool, the pixels that are restored here; other windows may restore others.
    own: np.ndarray = field(compare=False, repr=False)
    tiles: Tiles | None = None  # over the padded canvas; None where the networks take all at once

    @classmethod
    def around(cls, hole: np.ndarray, resolution: int, stride: int, tiles: int = 1) -> Window:
        """Choose a square around a hole (H, W) bool, as far as the photo reaches.

        It is at least as wide as the ``resolution`` of the networks. A larger one is scaled down to
        that, or, where several ``tiles`` may be used and the hole is not too deep, less or not.
        """
        left, top, width, height = cv2.boundingRect(hole.astype(np.uint8))
        longest = max(height, width)
        side = max(resolution, longest + 2 * max(MIN_MARGIN, round(MARGIN * longest)))
        top, height = _span(top, top + height, side, hole.shape[0])
        left, width = _span(left, left + width, side, hole.shape[1])
        least = min(1.0, resolution / max(height, width))
        # A copy, because a view would keep the whole photo's mask alive.
        own = hole[top : top + height, left : left + width].copy()
        part = own.astype(np.uint8)
        scale, chosen = least, None
        if tiles > 1 and least < 1:
            depth = float(cv2.distanceTransform(part, cv2.DIST_C, 3).max())
            scale = min(1.0, MAX_DEPTH * resolution / depth)
        while scale > least:
            work = scaled((height, width), scale)
            if math.prod(work) <= MAX_CANVAS:
                chosen = _tiled(part, work, resolution, stride)
                if len(chosen) <= tiles:
                    break
            scale, chosen = scale / FINER, None
        work = scaled((height, width), max(scale, least))
        return cls(hole.shape, top, left, height, width, work, stride, own, chosen)

    @classmethod
    def at(cls, hole: np.ndarray, box: Box, resolution: int, stride: int) -> Window:
        """The square ``box`` (left, top, side) within the photo, scaled to ``resolution``."""
        left, top, side = box
        own = hole[top : top + side, left : left + side].copy()
        return cls(hole.shape, top, left, side, side, (resolution, resolution), stride, own)

    @property
    def fields(self) -> int:
        """How many times the networks are evaluated in one step."""
        return 1 if self.tiles is None else len(self.tiles)

    @property
    def evaluated(self) -> int:
        """Pixels that the networks are evaluated on in one step."""
        padded = [edge + -edge % self.stride for edge in self.work]
        return self.fields * math.prod(padded if self.tiles is None else self.tiles.size)

    @property
    def scale(self) -> float:
        """Working pixels per photo pixel; above 1 for a small square around a head alone."""
        return max(self.work) / max(self.height, self.width)

    @property
    def native(self) -> bool:
        """Whether the window is worked on pixel by pixel."""
        return self.work == (self.height, self.width)

    @property
    def slices(self) -> tuple[slice, slice]:
        """Rows and columns of the window in an array of the photo's size."""
        return slice(self.top, self.top + self.height), slice(self.left, self.left + self.width)

    def settled(self, hole: np.ndarray) -> np.ndarray:
        """Where no gradient depends on what other windows restore: (height, width) bool."""
        others = (hole[self.slices] & ~self.own).astype(np.uint8)
        # A pixel for the operator and one for the filter that enlarges, at working size.
        reach = 2 * math.ceil(2 / self.scale) + 1
        return self.own | (cv2.dilate(others, np.ones((reach, reach), np.uint8)) == 0)

    def photo_at_work_scale(self) -> tuple[int, int]:
        """(h, w) of the whole photo at the window's scale, never more than its own."""
        return self.photo if self.scale >= 1 else scaled(self.photo, self.scale)

    def cut(
        self, image: np.ndarray, hole: np.ndarray, filled: bool = False
    ) -> tuple[Tensor, Tensor]:
        """The window of a photo (H, W, 3) uint8, (1, 3, h, w) in [-1, 1], padded, and its mask.

        The mask is (1, 1, h, w) float: a working pixel is missing if any photo pixel under it is.
        ``filled`` says that the photo has a smooth fill in its hole already: no other is made.
        """
        original, missing = image[self.slices], _map(hole[self.slices])
        if self.native:
            planes = [_known(original, missing, some) for some in _channels(missing)]
            return self.pad(torch.cat(planes, 1)), self.pad(missing.float())
        covered = resize(missing.float(), self.work)
        picture = _shrunk(original, missing, self.work, filled).clamp(-1, 1)
        return self.pad(picture), self.pad((covered > 1e-3).float())

    def shrink(self, values: np.ndarray) -> Tensor:
        """A map (H, W) of the photo, cut and scaled like :meth:`cut`: (1, 1, h, w) float32."""
        return self.pad(resize(_map(values[self.slices]).float(), self.work))

    def pad(self, x: Tensor) -> Tensor:
        """Repeat the last row and column up to a multiple of the stride."""
        bottom, right = (-edge % self.stride for edge in self.work)
        return F.pad(x, (0, right, 0, bottom), mode="replicate") if bottom or right else x

    def crop(self, x: Tensor) -> Tensor:
        """Undo :meth:`pad`."""
        return x[..., : self.work[0], : self.work[1]]

    def enlarge(self, x: Tensor) -> Tensor:
        """Undo the padding and the scaling: (1, C, height, width)."""
        return resize(self.crop(x), (self.height, self.width))

    def paste(
        self, image: np.ndarray, hole: np.ndarray, restored: Tensor, patches: bool = False
    ) -> None:
        """Set what a window restores, (1, 3, h, w) in [-1, 1], padded, into the photo, in place.

        The colour of a window that was scaled may miss the border's by a little. The difference is
        continued smoothly into the hole and added. ``patches`` of the known part add the detail of
        each finer size, if the estimate already shows patches.
        """
        part = self.crop(restored.float().cpu())
        original, missing = image[self.slices], _map(hole[self.slices])
        if patches and (sizes := self._sizes()):
            # At these sizes, because a window at the photo's own size may be large.
            filled = _shrunk(original, missing, sizes[-1])
            covered = resize(missing.float(), sizes[-1])
            for size in sizes:
                inside = resize(covered, size) > 1e-3
                part = joined(resize(part, size), resize(filled, size), inside, SWEEPS)
                part = copy_patches(part, inside, coarse=False)
        for some in _channels(missing):
            planes = part[:, some]
            if not self.native:
                whole = resize(planes, (self.height, self.width))
                planes = joined(whole, _known(original, missing, some), missing, SWEEPS)
            original[..., some][self.own] = to_bytes(planes[0].permute(1, 2, 0))[self.own]

    def _sizes(self) -> list[tuple[int, int]]:
        """Heights and widths, each twice the one before, at which patches are copied."""
        most = min(1.0, math.sqrt(MAX_COPIED / (self.height * self.width)))
        ratio, sizes = self.scale, []
        while ratio < most:
            ratio = min(2 * ratio, most)
            sizes.append(scaled((self.height, self.width), ratio))
        return sizes


def windows_over(
    hole: np.ndarray, resolution: int, stride: int, tiles: int = 1
) -> tuple[Window, ...]:
    """Choose the windows in which a hole is restored; each of its pixels is one's ``own``.

    ``tiles`` is the most fields of the networks in all. Each group of holes gets one, and those
    that remain go to the coarsest groups. One window is enough where it works pixel by pixel, or
    where several would not bring the coarsest part of the hole to a finer scale.
    """
    whole = Window.around(hole, resolution, stride, tiles)
    if whole.native or tiles == 1:
        return (whole,)
    labels, count = separate(hole, min(tiles, MANY))
    if count == 1:
        return (whole,)
    windows = [Window.around(labels == i + 1, resolution, stride) for i in range(count)]
    left = tiles - count
    room = MAX_CANVAS - sum(math.prod(window.work) for window in windows)
    for i in sorted(range(count), key=lambda i: windows[i].scale):
        if not left:
            break
        finer = Window.around(labels == i + 1, resolution, stride, 1 + left)
        grown = math.prod(finer.work) - math.prod(windows[i].work)
        if grown <= room:
            left, room = left - (finer.fields - 1), room - grown
            windows[i] = finer
    return tuple(windows) if min(w.scale for w in windows) > whole.scale else (whole,)


def separate(hole: np.ndarray, most: int) -> tuple[np.ndarray, int]:
    """Split a hole (H, W) into groups of pixels that lie apart: their numbers from 1, and how many.

    Holes are one group where the known margins of their windows would overlap. Where that leaves
    more than ``most``, those that fit into the smallest square together are joined first.
    """
    reach = MIN_MARGIN
    while True:
        grown = cv2.dilate(hole.astype(np.uint8), np.ones((2 * reach + 1, 2 * reach + 1), np.uint8))
        found, labels, stats, _ = cv2.connectedComponentsWithStats(grown)
        if found - 1 <= 2 * MANY:  # The first is what lies around the holes.
            break
        reach *= 2
    left, top, width, height = stats[1:, :4].T
    # Their edges; those behind the last are negated, so that the least of two hold both.
    edges = np.stack([top, left, -top - height, -left - width], 1)
    group_of = np.arange(found)
    while (count := len(edges)) > most:
        both = np.minimum(edges[:, None], edges)
        sides = -np.minimum(both[..., 0] + both[..., 2], both[..., 1] + both[..., 3])
        sides[np.tril_indices(count)] = np.iinfo(sides.dtype).max
        i, j = divmod(int(sides.argmin()), count)  # j > i, whose place stays
        edges[i] = both[i, j]
        edges = np.delete(edges, j, 0)
        group_of[group_of == j + 1] = i + 1
        group_of[group_of > j + 1] -= 1
    return group_of.astype(np.uint8)[labels] * hole, len(edges)


def fill_smoothly(image: np.ndarray, hole: np.ndarray) -> None:
    """Continue a photo (H, W, 3) uint8 smoothly into a hole (H, W) bool, in place."""
    left, top, width, height = cv2.boundingRect(hole.astype(np.uint8))
    # Only the pixels around the hole decide, not those further away.
    place = slice(max(0, top - 1), top + height + 1), slice(max(0, left - 1), left + width + 1)
    part, inside, missing = image[place], hole[place], _map(hole[place])
    for some in _channels(missing):
        planes = harmonic_fill(_known(part, missing, some), missing)[0]
        part[..., some][inside] = to_bytes(planes.permute(1, 2, 0))[inside]


def _channels(missing: Tensor) -> Iterator[slice]:
    """The channels of a window as one slice, or as three where a large one takes much memory."""
    step = 3 if missing.numel() <= MAX_TOGETHER else 1
    return (slice(first, first + step) for first in range(0, 3, step))


def _known(original: np.ndarray, missing: Tensor, some: slice) -> Tensor:
    """Channels of a window's pixels, zero where they are missing: (1, C, height, width)."""
    planes = np.ascontiguousarray(original[..., some].transpose(2, 0, 1))
    return (torch.from_numpy(planes)[None].float() / 127.5 - 1.0).masked_fill_(missing, 0)


def _map(values: np.ndarray) -> Tensor:
    """(1, 1, H, W) of (H, W)."""
    return torch.from_numpy(np.ascontiguousarray(values))[None, None]


def _shrunk(
    original: np.ndarray, missing: Tensor, size: tuple[int, int], filled: bool = False
) -> Tensor:
    """A window's pixels at another size, (1, 3, h, w), with a smooth fill in the hole."""
    unfilled = missing & (not filled)
    known = (_known(original, unfilled, some) for some in _channels(missing))
    # Filled first: the filter must not mix a black hole into the known border.
    whole = (x if filled else harmonic_fill(x, missing, SWEEPS) for x in known)
    return torch.cat([resize(x, size) for x in whole], 1)


def _tiled(hole: np.ndarray, work: tuple[int, int], side: int, stride: int) -> Tiles:
    """Tiles over a hole at working size, on the padded canvas."""
    # The same condition as in Window.cut: missing if any photo pixel under it is.
    small = cv2.resize(hole.astype(np.float32), work[::-1], interpolation=cv2.INTER_AREA) > 0
    # The dilation covers the pixel by which the two filters may differ.
    grown = cv2.dilate(small.astype(np.uint8), np.ones((5, 5), np.uint8)) > 0
    canvas = np.pad(grown, [(0, -edge % stride) for edge in work], "edge")
    return Tiles.over(canvas, side + -side % stride)


def resize(x: Tensor, size: tuple[int, int]) -> Tensor:
    """Bilinear resize of (B, C, H, W), with a filter that does not alias when it shrinks."""
    if tuple(x.shape[-2:]) == tuple(size):
        return x
    return F.interpolate(x, size, mode="bilinear", antialias=True, align_corners=False)


def _span(start: int, stop: int, side: int, limit: int) -> tuple[int, int]:
    """First index and length of a span of ``side`` around [start, stop), kept within the photo."""
    length = min(side, limit)
    return min(max((start + stop - length) // 2, 0), limit - length), length
