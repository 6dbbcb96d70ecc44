"""Photos of any size: the window in which the networks work, and the way back.

A window is cut around the hole and padded to a multiple of the networks' stride. Where it is larger
than their field, tiles cover it (:mod:`asyncdsb.photo.tiles`), and it is scaled down until no more
tiles are needed than allowed, and until no part of the hole is further from what is known than a
network can see. Holes that lie far apart get a window each where one around all would have to be
scaled down: specks at both ends of a large photo would come back blurred.

Weights for portraits work in a square around a head instead (:mod:`asyncdsb.photo.heads`), scaled
to their resolution. The hole beyond it is filled smoothly. The result is enlarged and set into the
hole alone; nothing that the photo holds under the mask reaches the networks or the result.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from itertools import combinations

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from asyncdsb.photo.fill import harmonic_fill, joined
from asyncdsb.photo.heads import Box
from asyncdsb.photo.images import bounds, to_bytes
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
SWEEPS = 2  # relaxations of fills at the photo's own size, which may be large
# Most groups of holes, which bounds the memory. Twice as many are compared with one another; more
# are first joined with their neighbours, by a distance that doubles.
MANY = 32

Edges = tuple[int, int, int, int]  # first row and column, and those behind the last


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
        """Choose the window for a hole (H, W) bool, with at least one pixel missing.

        It is a square around the hole's bounding box with a margin, at least ``resolution`` wide,
        for which the networks were trained, as far as the photo reaches. A larger one is scaled
        down to ``resolution``, or, where several ``tiles`` may be used and the hole is not too
        deep, less or not at all. Sizes are padded to a multiple of ``stride``.
        """
        top, left, bottom, right = bounds(hole)
        longest = max(bottom - top, right - left)
        side = max(resolution, longest + 2 * max(MIN_MARGIN, round(MARGIN * longest)))
        top, height = _span(top, bottom, side, hole.shape[0])
        left, width = _span(left, right, side, hole.shape[1])
        least = min(1.0, resolution / max(height, width))
        # A copy, because a view would keep the whole photo's mask alive.
        own = hole[top : top + height, left : left + width].copy()
        part = own.astype(np.uint8)
        scale, chosen = least, None
        if tiles > 1 and least < 1:
            depth = float(cv2.distanceTransform(part, cv2.DIST_C, 3).max())
            scale = min(1.0, MAX_DEPTH * resolution / depth)
        while scale > least:
            work = _scaled((height, width), scale)
            if math.prod(work) <= MAX_CANVAS:
                chosen = _tiled(part, work, resolution, stride)
                if len(chosen) <= tiles:
                    break
            scale, chosen = scale / FINER, None
        work = _scaled((height, width), max(scale, least))
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

    def others(self, hole: np.ndarray) -> np.ndarray:
        """Where gradients depend on what another window restores: (height, width) bool."""
        rest = hole[self.slices] & ~self.own
        if not rest.any():
            return rest
        # A pixel for the operator and one for the filter that enlarges, at working size.
        reach = 2 * math.ceil(2 / self.scale) + 1
        return cv2.dilate(rest.astype(np.uint8), np.ones((reach, reach), np.uint8)) > 0

    def photo_at_work_scale(self) -> tuple[int, int]:
        """(h, w) of the whole photo at the window's scale, never more than its own."""
        return self.photo if self.scale >= 1 else _scaled(self.photo, self.scale)

    def cut(self, image: np.ndarray, hole: np.ndarray) -> tuple[Tensor, Tensor]:
        """The window of a photo (H, W, 3) uint8, padded, with a smooth fill in its hole.

        The image is (1, 3, h, w) in [-1, 1], the mask (1, 1, h, w) float; a working pixel is
        missing if any photo pixel under it is.
        """
        original, missing = image[self.slices], _map(hole[self.slices])
        if self.native:
            picture = torch.cat([_known(original, missing, channel) for channel in range(3)], 1)
            return self.pad(picture), self.pad(missing.float())
        covered = resize(missing.float(), self.work)
        picture = _shrunk(original, missing, self.work).clamp(-1, 1)
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

        A window that was scaled comes back without the photo's finest detail, and its colour may
        miss the border's by a little. The difference on the known side is therefore continued
        smoothly into the hole and added, which leaves no step. ``patches`` of the known part add
        the detail at each finer size, if the estimate already shows patches.
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
        for channel, plane in enumerate(part.split(1, 1)):
            if not self.native:
                whole = resize(plane, (self.height, self.width))
                plane = joined(whole, _known(original, missing, channel), missing, SWEEPS)
            original[..., channel][self.own] = to_bytes(plane[0, 0])[self.own]

    def _sizes(self) -> list[tuple[int, int]]:
        """Heights and widths, each twice the one before, at which patches are copied."""
        most = min(1.0, math.sqrt(MAX_COPIED / (self.height * self.width)))
        ratio, sizes = self.scale, []
        while ratio < most:
            ratio = min(2 * ratio, most)
            sizes.append(_scaled((self.height, self.width), ratio))
        return sizes


def windows_over(
    hole: np.ndarray, resolution: int, stride: int, tiles: int = 1
) -> tuple[Window, ...]:
    """Choose the windows in which a hole is restored; each of its pixels is one's ``own``.

    One is enough where it works pixel by pixel, where only one field of the networks is allowed, or
    where several windows would not bring the coarsest part of the hole to a finer scale. Otherwise
    each group of holes gets a field, and the remaining fields go to the coarsest groups.

    ``tiles`` is the most fields in all, >= 1; the rest is as for :meth:`Window.around`.
    """
    whole = Window.around(hole, resolution, stride, tiles)
    if whole.native or tiles == 1:
        return (whole,)
    groups = separate(hole, min(tiles, MANY))
    if len(groups) == 1:
        return (whole,)
    windows = [Window.around(group(), resolution, stride) for group in groups]
    left = tiles - len(windows)
    room = MAX_CANVAS - sum(math.prod(window.work) for window in windows)
    for i in sorted(range(len(windows)), key=lambda i: windows[i].scale):
        if not left:
            break
        finer = Window.around(groups[i](), resolution, stride, 1 + left)
        grown = math.prod(finer.work) - math.prod(windows[i].work)
        if grown <= room:
            left, room = left - (finer.fields - 1), room - grown
            windows[i] = finer
    return tuple(windows) if min(w.scale for w in windows) > whole.scale else (whole,)


def separate(hole: np.ndarray, most: int) -> list[Callable[[], np.ndarray]]:
    """Split a hole (H, W) into at most ``most`` groups of pixels that lie apart.

    Holes are one group where the known margins of their windows would overlap. Where that leaves
    too many groups, those that fit into the smallest square together are joined first.

    A group is a function that makes its (H, W) bool array, because all arrays at once would take a
    large photo's memory many times.
    """
    reach = MIN_MARGIN
    while len((found := _components(hole, reach))[1]) > 2 * MANY:
        reach *= 2
    labels, boxes = found
    groups = [([number], box) for number, box in enumerate(boxes, 1)]

    def side(pair: tuple[int, int]) -> int:
        top, left, bottom, right = _around(*(groups[k][1] for k in pair))
        return max(bottom - top, right - left)

    while len(groups) > most:
        i, j = min(combinations(range(len(groups)), 2), key=side)
        numbers, box = groups.pop(j)  # j > i, whose place stays
        groups[i] = groups[i][0] + numbers, _around(groups[i][1], box)

    def pixels(numbers: list[int], box: Edges) -> np.ndarray:
        top, left, bottom, right = box
        member = np.zeros(len(boxes) + 1, bool)
        member[numbers] = True
        found = np.zeros_like(hole)
        inside = slice(top, bottom), slice(left, right)
        found[inside] = member[labels[inside]] & hole[inside]
        return found

    return [partial(pixels, *group) for group in groups]


def _components(hole: np.ndarray, reach: int) -> tuple[np.ndarray, list[Edges]]:
    """Groups of holes less than twice ``reach`` pixels apart: numbers from 1, and their boxes."""
    kernel = np.ones((2 * reach + 1, 2 * reach + 1), np.uint8)
    grown = cv2.dilate(hole.astype(np.uint8), kernel)
    _, labels, stats, _ = cv2.connectedComponentsWithStats(grown)
    boxes = [(top, left, top + height, left + width) for left, top, width, height, _ in stats[1:]]
    return labels, boxes


def _around(one: Edges, other: Edges) -> Edges:
    (top, left), (bottom, right) = map(min, one[:2], other[:2]), map(max, one[2:], other[2:])
    return top, left, bottom, right


def fill_smoothly(image: np.ndarray, hole: np.ndarray) -> None:
    """Continue a photo (H, W, 3) uint8 smoothly into a hole (H, W) bool, in place."""
    top, left, bottom, right = bounds(hole)
    if bottom == 0:
        return
    # Only the pixels around the hole decide, not those further away.
    place = slice(max(0, top - 1), bottom + 1), slice(max(0, left - 1), right + 1)
    part, inside, missing = image[place], hole[place], _map(hole[place])
    for channel in range(3):
        plane = harmonic_fill(_known(part, missing, channel), missing)[0, 0]
        part[..., channel][inside] = to_bytes(plane)[inside]


def _known(original: np.ndarray, missing: Tensor, channel: int) -> Tensor:
    """One channel of a window's pixels, zero where it is missing: (1, 1, height, width)."""
    return (_map(original[..., channel]).float() / 127.5 - 1.0).masked_fill_(missing, 0)


def _map(values: np.ndarray) -> Tensor:
    """(1, 1, H, W) of (H, W)."""
    return torch.from_numpy(np.ascontiguousarray(values))[None, None]


def _scaled(size: tuple[int, int], scale: float) -> tuple[int, int]:
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def _shrunk(original: np.ndarray, missing: Tensor, size: tuple[int, int]) -> Tensor:
    """A window's pixels at a smaller size, (1, 3, h, w), with a smooth fill in the hole."""
    # Filled first: the filter must not mix a black hole into the known border. One channel after
    # the other, because a window may be large.
    planes = (harmonic_fill(_known(original, missing, c), missing, SWEEPS) for c in range(3))
    return torch.cat([resize(plane, size) for plane in planes], 1)


def _tiled(hole: np.ndarray, work: tuple[int, int], side: int, stride: int) -> Tiles:
    """Tiles over a hole at working size, on the padded canvas."""
    small = hole
    if work != hole.shape:
        # The same condition as in Window.cut: missing if any photo pixel under it is.
        small = cv2.resize(hole.astype(np.float32), work[::-1], interpolation=cv2.INTER_AREA)
    canvas = np.zeros([edge + -edge % stride for edge in work], bool)
    # The dilation covers the pixel by which the two filters may differ.
    grown = cv2.dilate((small > 0).astype(np.uint8), np.ones((5, 5), np.uint8)) > 0
    canvas[: work[0], : work[1]] = grown
    # Padding repeats the last row and column, hole included.
    canvas[work[0] :] = canvas[work[0] - 1]
    canvas[:, work[1] :] = canvas[:, work[1] - 1 : work[1]]
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
