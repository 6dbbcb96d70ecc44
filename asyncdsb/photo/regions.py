"""Holes that lie far apart: a window for each, where one around all would have to be scaled down.

Specks at both ends of a large photo would otherwise be restored at the scale at which all of the
photo fits, and come back blurred. With a window each, the cost depends on the holes, not the photo.
Untiled windows of one size are evaluated in batches; all are part of one run with the same times.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from itertools import combinations

import cv2
import numpy as np

from asyncdsb.photo.window import MAX_CANVAS, MIN_MARGIN, Window

# Most groups, which bounds the memory. Twice as many are compared with one another; more are first
# joined with their neighbours, by a distance that doubles.
MANY = 32

Edges = tuple[int, int, int, int]
"""First row and column of a group, and those behind the last."""


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
    labels, boxes = _components(hole, reach)
    while len(boxes) > 2 * MANY:
        reach *= 2
        labels, boxes = _components(hole, reach)
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
