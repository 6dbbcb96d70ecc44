"""Known patches in the hole: against the sums written out, and what must not change."""

from __future__ import annotations

from itertools import pairwise, product

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from asyncdsb.photo import patches
from asyncdsb.photo.fill import fill_hole, harmonic_fill
from asyncdsb.photo.patches import (
    AROUND,
    COHERENCE,
    CONTRAST,
    DOUBT,
    FINE,
    FRONT,
    LEAST_KNOWN,
    MARGIN,
    MOST_GAIN,
    RELAXATIONS,
    RING,
    ROUNDS,
    SIDE,
    STRIDE,
    SWEEPS,
    TEXTURE,
    copy_patches,
)

pytestmark = pytest.mark.slow

Place = tuple[int, int]


def scene(height: int, width: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """A random estimate, smooth by a little, and a hole too small to begin at half the size."""
    generator = torch.Generator().manual_seed(seed)
    estimate = torch.rand(1, 3, height, width, generator=generator, dtype=torch.float64) * 2 - 1
    estimate = F.avg_pool2d(F.pad(estimate, (1, 1, 1, 1), mode="reflect"), 3, 1)
    mask = torch.zeros(1, 1, height, width, dtype=torch.float64)
    mask[..., height // 2 - 3 : height // 2 + 3, width // 2 - 4 : width // 2 + 1] = 1
    return estimate, mask


def filtered(plane: np.ndarray, deviation: float = FINE) -> np.ndarray:
    """A Gaussian filter along rows and columns, sampled and cut off at four deviations."""
    radius = round(4 * deviation)
    weights = np.exp(-0.5 * (np.arange(-radius, radius + 1) / deviation) ** 2)
    weights /= weights.sum()
    for axis in (0, 1):
        padded = np.pad(plane, [(radius, radius) if a == axis else (0, 0) for a in (0, 1)], "edge")
        windows = np.lib.stride_tricks.sliding_window_view(padded, 2 * radius + 1, axis)
        plane = windows @ weights
    return plane


def texture(estimate: np.ndarray, hole: np.ndarray) -> np.ndarray:
    """Mean absolute differences of brightness between known neighbours, and their membrane."""
    bright = estimate.mean(0)
    height, width = hole.shape
    # Next to the hole nothing is counted, and at the last row and column there is no difference.
    known = np.array(
        [
            [not hole[max(0, i - 1) : i + 2, max(0, j - 1) : j + 2].any() for j in range(width)]
            for i in range(height)
        ]
    )
    rough = np.zeros((2, height, width))
    rough[0, :, :-1] = abs(np.diff(bright, axis=1))
    rough[1, :-1] = abs(np.diff(bright, axis=0))
    count = np.maximum(filtered(known.astype(float), AROUND), 1e-3)
    means = np.stack([filtered(plane * known, AROUND) for plane in rough]) / count
    means = torch.from_numpy(np.where(hole, 0, means))[None]
    return TEXTURE * harmonic_fill(means, torch.from_numpy(hole)[None, None])[0].numpy()


def filled(photo: Tensor, mask: Tensor) -> Tensor:
    """Known patches copied into the hole, beginning with its membrane."""
    return copy_patches(fill_hole(photo, mask, "harmonic"), mask)


class Written:
    """The module's formulas, patch by patch.

    Args:
        estimate: (3, H, W).
        hole: (H, W) bool.
    """

    def __init__(self, estimate: np.ndarray, hole: np.ndarray):
        self.estimate, self.hole = np.concatenate([estimate, texture(estimate, hole)]), hole
        self.limits = limits = [edge - SIDE + 1 for edge in hole.shape]
        places = list(product(range(limits[0]), range(limits[1])))
        self.known = [p for p in places if not self.cut(hole, p).any()]
        on = [sorted({*range(0, limit, STRIDE), limit - 1}) for limit in limits]
        # Cell of the lattice to place.
        self.targets: dict[Place, Place] = {}
        for (i, row), (j, column) in product(enumerate(on[0]), enumerate(on[1])):
            if self.cut(hole, (row, column)).any():
                self.targets[i, j] = row, column

    def cut(self, picture: np.ndarray, place: Place) -> np.ndarray:
        i, j = place
        return picture[..., i : i + SIDE, j : j + SIDE]

    def cost(self, picture: np.ndarray, p: Place, q: Place) -> float:
        colours = ((self.cut(picture, p) - self.cut(picture, q)) ** 2).sum(0).mean() / 3
        return colours + ((p[0] - q[0]) ** 2 + (p[1] - q[1]) ** 2) / 1000**2

    def around(self, cell: Place) -> list[Place]:
        steps = [(i, j) for i in (-1, 0, 1) for j in (-1, 0, 1) if i or j]
        cells = [(cell[0] + i, cell[1] + j) for i, j in steps]
        return [cell for cell in cells if cell in self.targets]

    def nearest(self) -> dict[Place, Place]:
        offsets = {}
        for cell, p in self.targets.items():
            costs = [self.cost(self.estimate, p, q) for q in self.known]
            q = self.known[int(np.argmin(costs))]
            offsets[cell] = q[0] - p[0], q[1] - p[1]
        return offsets

    def energy(self, picture: np.ndarray, offsets: dict[Place, Place]) -> float:
        """The sum that is made small."""
        total = 0.0
        for cell, p in self.targets.items():
            o = offsets[cell]
            total += self.cost(picture, p, (p[0] + o[0], p[1] + o[1]))
            # Both of a pair count it, hence the half.
            total -= COHERENCE / 2 * sum(offsets[other] == o for other in self.around(cell))
        return total

    def sweep(self, picture: np.ndarray, offsets: dict[Place, Place]) -> None:
        known = set(self.known)
        for colour in product((0, 1), (0, 1)):
            for cell in (c for c in self.targets if (c[0] % 2, c[1] % 2) == colour):
                p, around = self.targets[cell], [offsets[c] for c in self.around(cell)]

                def value(o: Place, p: Place = p, around: list[Place] = around) -> float:
                    agree = sum(o == other for other in around)
                    return self.cost(picture, p, (p[0] + o[0], p[1] + o[1])) - COHERENCE * agree

                offered = [o for o in around if (p[0] + o[0], p[1] + o[1]) in known]
                offsets[cell] = min([offsets[cell], *offered], key=value)

    def mean(self, offsets: dict[Place, Place], share: float) -> np.ndarray:
        """Mean of all copies of a pixel, and a share of the detail that this took given back."""
        copies: dict[Place, list[np.ndarray]] = {}
        for cell, p in self.targets.items():
            o = offsets[cell]
            for i, j in product(range(SIDE), range(SIDE)):
                pixel = p[0] + i, p[1] + j
                colour = self.estimate[:, pixel[0] + o[0], pixel[1] + o[1]]
                copies.setdefault(pixel, []).append(colour)
        mean, spread = self.estimate.copy(), np.zeros(self.hole.shape)
        for pixel, colours in copies.items():
            mean[(..., *pixel)] = np.mean(colours, 0)
            spread[pixel] = np.var(colours, 0)[:3].sum()
        slow = np.stack([filtered(plane) for plane in mean[:3]])
        kept = filtered(((mean[:3] - slow) ** 2).sum(0))
        gain = np.sqrt(1 + filtered(spread) / np.maximum(kept, 1e-6)).clip(max=MOST_GAIN)
        colours = slow + (1 + share * (gain - 1)) * (mean[:3] - slow)
        return np.concatenate([colours, mean[3:]])

    def inside(self, picture: np.ndarray) -> np.ndarray:
        return np.where(self.hole, picture, self.estimate)

    def matched(self, copied: np.ndarray) -> np.ndarray:
        """Copies plus the membrane over what they miss around the hole."""
        ring = np.zeros_like(self.hole)
        for i, j in np.argwhere(self.hole):
            ring[max(0, i - RING) : i + RING + 1, max(0, j - RING) : j + RING + 1] = True
        ring &= ~self.hole
        gap = torch.from_numpy(np.where(ring, self.estimate - copied, 0))[None]
        unknown = torch.from_numpy(~ring)[None, None]
        return copied + harmonic_fill(gap, unknown, RELAXATIONS)[0].numpy()


@pytest.mark.parametrize("bound", [None, 7])
@pytest.mark.parametrize("size", [(28, 33), (31, 30)])
def test_offsets_agree_as_written(monkeypatch, size, bound):
    monkeypatch.setattr(patches, "DIRECTIONS", 5 * SIDE**2)
    if bound:
        monkeypatch.setattr(patches, "COMPARED", 300 * bound)
        monkeypatch.setattr(patches, "TOGETHER", bound)
    estimate, mask = scene(*size)
    written = Written(estimate[0].numpy(), mask[0, 0].numpy() > 0)
    # All of so small a hole is thin.
    written.estimate = continued(written.estimate, written.hole, 1000.0, MARGIN // FRONT)
    offsets, picture = written.nearest(), written.estimate
    energies = []
    for number in range(ROUNDS):
        energies.append([written.energy(picture, offsets)])
        for _ in range(SWEEPS):
            written.sweep(picture, offsets)
            energies[-1].append(written.energy(picture, offsets))
        copied = written.mean(offsets, CONTRAST if number == ROUNDS - 1 else 1.0)
        picture = written.inside(copied)
    found = copy_patches(estimate, mask)
    wanted = written.inside(np.clip(written.matched(copied), -1, 1))
    np.testing.assert_allclose(found[0].numpy(), wanted[:3], rtol=0, atol=1e-9)
    assert all(after <= before for row in energies for before, after in pairwise(row))
    assert energies[0][-1] < energies[0][0], "something was to be gained"


def continued(
    estimate: np.ndarray,
    hole: np.ndarray,
    reach: float,
    rings: int,
    part: np.ndarray | None = None,
) -> np.ndarray:
    """What ``asyncdsb.photo.patches`` fills a margin of (part of) a hole with, patch by patch."""
    written = Written(estimate[:3], hole)
    picture, known = estimate.copy(), ~hole
    part = hole if part is None else part
    for _ in range(rings):
        near = np.zeros_like(hole)
        for i, j in np.argwhere(known):
            near[max(0, i - FRONT) : i + FRONT + 1, max(0, j - FRONT) : j + FRONT + 1] = True
        front = near & part & ~known
        touching = [p for p in written.targets.values() if written.cut(front, p).any()]
        if not touching:
            break
        shares = {p: written.cut(known, p).mean() for p in touching}
        copies: dict[Place, list[np.ndarray]] = {}
        for p in touching:
            if shares[p] < min(LEAST_KNOWN, max(shares.values())):
                continue
            weight = np.where(written.cut(known, p), 1.0, DOUBT)
            # Every third pixel is compared, along diagonals.
            weight[np.add.outer(range(SIDE), range(SIDE)) % 3 > 0] = 0

            def cost(q: Place, p: Place = p, weight: np.ndarray = weight) -> float:
                apart = ((written.cut(picture, p) - written.cut(estimate, q)) ** 2).sum(0)
                distance = (p[0] - q[0]) ** 2 + (p[1] - q[1]) ** 2
                return (weight * apart).sum() / (3 * weight.sum()) + distance / reach**2

            q = written.known[int(np.argmin([cost(q) for q in written.known]))]
            for i, j in product(range(SIDE), range(SIDE)):
                if front[p[0] + i, p[1] + j]:
                    colour = estimate[:, q[0] + i, q[1] + j]
                    copies.setdefault((p[0] + i, p[1] + j), []).append(colour)
        for pixel, colours in copies.items():
            picture[(..., *pixel)] = np.mean(colours, 0)
            known[pixel] = True
    return picture


def test_a_margin_is_filled_from_the_border_inwards_as_written(monkeypatch):
    monkeypatch.setattr(patches, "MARGIN", 2 * FRONT)
    generator = torch.Generator().manual_seed(3)
    estimate = torch.rand(1, 5, 34, 37, generator=generator, dtype=torch.float64)
    hole = torch.zeros(1, 1, 34, 37, dtype=torch.bool)
    # Reaches the edge of the picture, and leaves a middle that is not filled.
    hole[..., 10:25, 20:] = True
    grid = patches._Grid(F.max_pool2d(hole[0].double(), SIDE, 1)[0] > 0)
    places = patches._Features(estimate, grid, 50.0).places
    found = patches._continued(estimate, hole, hole, grid, places)
    wanted = continued(estimate[0].numpy(), hole[0, 0].numpy(), 50.0, rings=2)
    np.testing.assert_allclose(found[0].numpy(), wanted, rtol=0, atol=1e-12)
    middle = (..., slice(16, 19), slice(26, None))
    assert torch.equal(found[middle], estimate[middle])
    assert not torch.isclose(found, estimate)[..., 13:16, 26:].any()
    part = hole.clone()
    part[..., 30:] = False
    found = patches._continued(estimate, hole, part, grid, places)
    wanted = continued(estimate[0].numpy(), hole[0, 0].numpy(), 50.0, 2, part[0, 0].numpy())
    np.testing.assert_allclose(found[0].numpy(), wanted, rtol=0, atol=1e-12)
    assert torch.equal(found[..., 30:], estimate[..., 30:])


def test_where_a_hole_is_thin_as_written(monkeypatch):
    monkeypatch.setattr(patches, "THIN", 2)
    hole = np.zeros((24, 30), bool)
    hole[3:7, :20] = hole[10:15, 8:14] = hole[12, 14:28] = hole[20:, 25:] = True
    expected = hole.copy()
    # Squares may reach over the picture's edge.
    beyond = np.pad(hole, 4, constant_values=True)
    for i, j in product(range(28), range(34)):
        if beyond[i : i + 5, j : j + 5].all():
            expected[max(0, i - 4) : max(0, i + 1), max(0, j - 4) : max(0, j + 1)] = False
    found = patches._thin(torch.from_numpy(hole)[None, None])[0, 0].numpy()
    np.testing.assert_array_equal(found, expected)
    assert expected[3:7].any() and expected[12, 20] and not expected[10:15, 8:14].any()


def test_a_line_is_led_through_a_thin_hole_at_full_size():
    place = torch.arange(96.0)
    line = (place[:, None] - 48 - 0.25 * (place - 48)).abs() < 1.5
    photo = (0.5 - line.float()).expand(1, 3, 96, 96)
    mask = torch.zeros(1, 1, 96, 96)
    mask[..., 8:88, 38:58] = 1
    found = filled(photo * (1 - mask), mask)
    assert error_in(mask, found, photo) < 0.02


@pytest.mark.parametrize("count", [64, 131])
def test_the_nearest_row_is_found_as_by_looking_at_all(monkeypatch, count):
    monkeypatch.setattr(patches, "COMPARED", 1000)
    generator = torch.Generator().manual_seed(5)
    offered = torch.randn(count, 6, generator=generator, dtype=torch.float64)
    wanted = torch.randn(50, 6, generator=generator, dtype=torch.float64)
    found = patches.nearest(wanted, offered, offered.square().sum(1))
    assert torch.equal(found, torch.cdist(wanted, offered).argmin(1))
    length = torch.rand(count, generator=generator, dtype=torch.float64)
    found = patches.nearest(wanted, offered, length)
    assert torch.equal(found, (length - 2 * wanted @ offered.T).argmin(1))


def test_a_line_is_led_through_a_hole():
    photo = torch.full((1, 3, 128, 128), 0.5)
    photo[:, :, 60:66] = -0.5
    mask = torch.zeros(1, 1, 128, 128)
    mask[..., 40:88, 36:92] = 1
    found = filled(photo * (1 - mask), mask)
    assert error_in(mask, found, photo) < 0.05
    smooth = fill_hole(photo * (1 - mask), mask, "harmonic")
    assert error_in(mask, smooth, photo) > 0.2


def test_a_step_of_brightness_is_continued_instead_of_left_at_the_border():
    # The darker left and the brighter right of a ramp: no known patch has the values between.
    ramp = torch.linspace(-0.5, 0.5, 96).expand(1, 3, 64, 96).clone()
    mask = torch.zeros(1, 1, 64, 96)
    mask[..., :, 32:64] = 1
    found = copy_patches(torch.where(mask > 0, torch.zeros(()), ramp), mask)
    steps = (found[..., 1:] - found[..., :-1]).abs()
    assert max(steps[..., 31].max(), steps[..., 63].max()) < 0.05


def stripes(side: int) -> Tensor:
    """Oblique stripes of three colours, (1, 3, side, side)."""
    place = torch.arange(float(side))
    phase = (place[:, None] + 2 * place) * 2 * torch.pi / 24
    return (torch.sin(phase) * torch.tensor([0.8, 0.4, -0.2])[:, None, None])[None]


def error_in(mask: Tensor, found: Tensor, photo: Tensor) -> float:
    """Root mean square difference in the hole."""
    return float((found - photo)[mask.expand_as(photo) > 0].square().mean().sqrt())


def test_a_texture_comes_back_from_what_resembles_it():
    photo = stripes(64)
    mask = torch.zeros(1, 1, 64, 64)
    mask[..., 24:40, 24:40] = 1
    noise = torch.randn(photo.shape, generator=torch.Generator().manual_seed(0))
    # Faint, and in the wrong colours.
    estimate = torch.where(mask > 0, 0.5 * photo + 0.1 + 0.05 * noise, photo)
    found = copy_patches(estimate, mask)
    assert error_in(mask, found, photo) < 0.2 * error_in(mask, estimate, photo)


def test_stripes_are_continued_through_a_hole_of_which_nothing_is_known():
    photo = stripes(128)
    mask = torch.zeros(1, 1, 128, 128)
    mask[..., 40:88, 40:88] = 1
    smooth = harmonic_fill(photo * (1 - mask), mask > 0)
    found = filled(photo * (1 - mask), mask)
    assert torch.equal(found, copy_patches(smooth, mask))
    assert error_in(mask, found, photo) < 0.3 * error_in(mask, smooth, photo)


def test_a_texture_keeps_its_contrast(monkeypatch):
    noise = torch.randn(1, 3, 132, 132, generator=torch.Generator().manual_seed(0))
    photo = (0.6 * F.avg_pool2d(noise, 5, 1)).clamp(-1, 1)
    mask = torch.zeros(1, 1, 128, 128)
    mask[..., 48:80, 48:80] = 1

    def contrast() -> float:
        found = filled(photo, mask)[..., 52:76, 52:76]
        return float(found.std() / photo.std())

    kept = contrast()
    assert 0.8 < kept < 1.1
    monkeypatch.setattr(patches, "MOST_GAIN", 1.0)
    assert contrast() < 0.9 * kept, "the plain mean is smoother"


def test_known_pixels_stay_and_all_missing_ones_are_known_elsewhere():
    estimate, mask = scene(40, 44)
    found = copy_patches(estimate, mask)
    hole = mask.expand_as(estimate) > 0
    assert torch.equal(found[~hole], estimate[~hole])
    assert not torch.isclose(found, estimate)[hole].any()
    assert found.abs().max() <= 1


@pytest.mark.parametrize("size", [(8, 40), (20, 20)])
def test_with_hardly_anything_known_the_estimate_stays(size):
    estimate, mask = scene(*size)
    assert torch.equal(copy_patches(estimate, mask), estimate)


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_without_a_hole_or_with_nothing_else_the_estimate_stays(value):
    estimate, mask = scene(30, 30)
    mask = torch.full_like(mask, value)
    assert torch.equal(copy_patches(estimate, mask), estimate)


@pytest.mark.parametrize(("rows", "columns"), [(1, 1), (1, 24), (4, 2)])
@pytest.mark.parametrize("top", [0, 16])
def test_a_hole_of_few_pixels_at_the_edge_is_filled(rows: int, columns: int, top: int):
    estimate = scene(32, 32)[0]
    hole = torch.zeros(1, 1, 32, 32)
    hole[..., top : top + rows, :columns] = 1
    found = copy_patches(estimate, hole)
    assert found.isfinite().all()
    assert torch.equal(found[:, :, hole[0, 0] == 0], estimate[:, :, hole[0, 0] == 0])


def test_a_sample_does_not_depend_on_its_batch():
    scenes = [scene(48, 52, seed) for seed in (1, 2)]
    both = copy_patches(*(torch.cat(parts) for parts in zip(*scenes, strict=True)))
    for one, found in zip(scenes, both, strict=True):
        assert torch.equal(copy_patches(*one)[0], found)


def test_few_of_many_sources_are_always_the_same(monkeypatch):
    monkeypatch.setattr(patches, "MOST_SOURCES", 200)
    estimate, mask = scene(40, 44)
    torch.manual_seed(1)
    first = copy_patches(estimate, mask)
    torch.manual_seed(2)
    assert torch.equal(copy_patches(estimate, mask), first)
