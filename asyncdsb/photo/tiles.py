"""Canvases larger than the networks' field: overlapping tiles over the hole, and their blend.

The results of a network on all tiles are averaged with weights that fall towards a tile's edges,
where it knows least. Applied to x0_hat within one sampling loop over the whole canvas, this makes
one run of all tiles, without seams (the idea of MultiDiffusion, Bar-Tal et al. 2023).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

OVERLAP = 0.25  # share of a tile's side that it has in common with the next one
TOGETHER = 4  # tiles in one evaluation: more are not faster on a processor, and take more memory


@dataclass(frozen=True)
class Tiles:
    """Tiles of one size on a canvas."""

    canvas: tuple[int, int]  # (H, W)
    size: tuple[int, int]  # (h, w) of each tile
    corners: tuple[tuple[int, int], ...]  # (top, left) of each

    @classmethod
    def over(cls, hole: np.ndarray, side: int) -> Tiles:
        """Cover a hole (H, W) with tiles of ``side`` pixels, or of the canvas's size if less.

        Rows of tiles go from the first to the last row of the hole, and within each row from its
        first to its last column, so that no idle tiles join two separate holes.
        """
        height, width = (min(side, edge) for edge in hole.shape)
        corners = []
        for top in _places(np.flatnonzero(hole.any(1)), height, hole.shape[0]):
            band = np.flatnonzero(hole[top : top + height].any(0))
            corners += [(top, left) for left in _places(band, width, hole.shape[1])]
        return cls(hole.shape, (height, width), tuple(corners))

    def __len__(self) -> int:
        return len(self.corners)

    def cut(self, x: Tensor) -> Tensor:
        """(N, C, h, w) tiles of a canvas (1, C, H, W)."""
        height, width = self.size
        return torch.cat([x[..., i : i + height, j : j + width] for i, j in self.corners])

    def blend(self, function: Callable[[Tiles], Tensor]) -> Tensor:
        """Average a function's values where the tiles overlap: (1, C, H, W), zero beyond them.

        It takes some of the tiles and returns (n, C, h, w) values on them.
        """
        height, width = self.size
        # 1 in the middle, falling linearly over the overlap.
        weight, total = _ramp(height)[:, None] * _ramp(width), torch.zeros(())
        for first in range(0, len(self), TOGETHER):
            some = Tiles(self.canvas, self.size, self.corners[first : first + TOGETHER])
            values = function(some)
            if first == 0:
                weight = weight.to(values)
                total = values.new_zeros(1, values.shape[1] + 1, *self.canvas)
            for (i, j), value in zip(some.corners, values, strict=True):
                place = total[..., i : i + height, j : j + width]
                place[:, :-1] += weight * value
                place[:, -1:] += weight
        return total[:, :-1] / total[:, -1:].clamp(min=1e-12)


def _ramp(length: int) -> Tensor:
    place = torch.arange(length) + 0.5
    return (torch.minimum(place, length - place) / max(1.0, OVERLAP * length)).clamp(max=1)


def _places(marks: np.ndarray, length: int, limit: int) -> list[int]:
    """Where spans of ``length`` start that cover all marks, rising, and lie within [0, limit)."""
    # Of each span, all but half an overlap at either end counts as covered.
    rim = round(length * OVERLAP / 2)
    inner = max(1, length - 2 * rim)
    places: list[int] = []
    while len(marks):
        start, reach = int(marks[0]), int(marks[-1])
        # What fits into one span is put into its middle.
        first = (start + reach + 1 - length) // 2 if reach - start < inner else start - rim
        first = min(max(first, 0), limit - length)
        places.append(first)
        covered = limit if first + length >= limit else first + rim + inner
        marks = marks[marks >= covered]
    return places
