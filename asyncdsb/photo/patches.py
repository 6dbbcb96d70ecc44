"""Known patches copied into the hole, coarse to fine.

Every patch p of the hole gets an offset o, to a known patch p + o that resembles it (texture
synthesis, Efros and Leung 1999). All offsets together make ::

    sum over p  D(p, p + o_p)  -  0.003 |pairs of neighbours p, q with o_p = o_q|

    D(p, q) = mean |C_p - C_q|^2 / 3 + (distance / 1000)^2

small, the distance in pixels. C are five channels: the colours in [-1, 1] and, times 4, the mean
absolute difference of brightness between neighbours of a row and of a column at full size, which
tells rough places from smooth ones at small sizes (Newson et al. 2014). The second term is
coherence (Ashikhmin 2001): neighbours with equal offsets copy whole pieces of the photo.

Every patch starts at its nearest known one. Then each takes the best of its own offset and those of
its eight neighbours (iterated conditional modes, Besag 1986). The copies of a pixel are averaged, D
is measured against that picture, and so on (Wexler, Shechtman and Irani 2007). Because a mean of
copies is too smooth, its detail, what a Gaussian filter G removes, is amplified by ::

    gain = sqrt(1 + lost / kept),   lost = G (E |c|^2 - |E c|^2),   kept = G |E c - G E c|^2

with E the mean over the copies c of a pixel's colours; the result gets half of that. In the end the
difference between copies and known pixels around the hole is continued smoothly into it and added.

All this happens first at half the size, recursively; the change there is added to the estimate in
the middle of the hole. The estimate leads no edge far into the hole. At the smaller sizes, and at
full size where a hole is thin, patches that continue the known part therefore first replace a
margin of it, from the border inwards (Criminisi, Perez and Toyama 2004). ``train/LOG-patches.md``
tells how the constants were chosen.
"""

from __future__ import annotations

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from asyncdsb.photo.fill import harmonic_fill, joined
from asyncdsb.schedule import gaussian_blur

SIDE = 9  # of a patch, in pixels
STRIDE = 2  # spacing of the patches of the hole: fewer voters keep their mean sharper
REACH = 1000.0  # pixels whose distance costs as much as a mean squared difference of colours of 1
COHERENCE = 0.003  # what an equal offset of a neighbour is worth, as a mean squared difference
TEXTURE = 4.0  # weight of the mean absolute differences of brightness next to the colours
AROUND = 2.0  # standard deviation, in pixels, of the neighbourhood that they are the mean of
ROUNDS = 4  # how often the offsets are chosen anew for the picture that they gave
SWEEPS = 2  # how often in a round each patch looks at its neighbours' offsets
FINE = 2.0  # standard deviation, in pixels, of the filter that separates the detail
MOST_GAIN = 2.0  # by how much detail is made stronger at most
CONTRAST = 0.5  # share of the gain that the result gets; the pictures before it get all
DEEP = 2  # pixels up to this distance from the border ignore the smaller sizes
MARGIN = 15  # width in pixels of what is filled from the border inwards
FRONT = 3  # width in pixels of what is filled at once of it
THIN = 12  # pixels are in a thin part if no square in the hole with a side of 2 THIN + 1 has them
LEAST_KNOWN = 0.4  # share of a patch that must be known to be continued, if any patch has it
DOUBT = 0.1  # weight of a pixel that is neither known nor filled, where a patch is continued
RING = 3  # width in pixels of what is compared with the copies around the hole
RELAXATIONS = 4  # sweeps of the membrane over the difference there
COMPARED = 2**21  # costs held in memory at once: few enough for a processor's cache
GROUP = 64  # offered rows whose best is found at once
MOST_SOURCES = 8192  # known patches that are searched; of more, so many are drawn
FEWEST_SOURCES = 64  # with fewer known patches the estimate stays
DIRECTIONS = 16  # along which patches are compared, close to their principal components
DESCRIBED = 1024  # known patches, about, whose principal components those are
ITERATIONS = 4  # multiplications by the covariance that bring the directions close to them
TOGETHER = 2**15  # patches of the hole that choose at once
COPIED = 2**14  # patches that are copied at once: few enough for a processor's cache


def copy_patches(estimate: Tensor, mask: Tensor, coarse: bool = True) -> Tensor:
    """Replace what an estimate shows in the hole by patches of what is known; deterministic.

    Known pixels stay, and so does everything if hardly any patch of a sample is known.

    Args:
        estimate: (B, 3, H, W) in [-1, 1], the photo outside the hole.
        mask: (B, 1, H, W), non-zero = missing.
        coarse: whether to begin at smaller sizes; not where the estimate is an enlarged result.
    """
    found = []
    for one, hole in zip(estimate.split(1), (mask > 0.5).split(1), strict=True):
        copied = _copied(torch.cat([one, _texture(one, hole)], 1), hole, coarse)
        found.append(torch.where(hole, copied[:, :3].clamp(-1, 1), one))
    return torch.cat(found)


def nearest(wanted: Tensor, offered: Tensor, length: Tensor) -> Tensor:
    """Index (N,) of the nearest of rows o (M, D) for each row w: least length - 2 w o."""
    # Padded by rows at an infinite distance, to a whole number of groups.
    more = -len(offered) % GROUP
    length = F.pad(length, (0, more), value=torch.inf)
    columns = F.pad(offered, (0, 0, 0, more)).T.contiguous()
    rows = max(1, COMPARED // len(length))
    costs, found = torch.empty(min(rows, len(wanted)), len(length)).to(wanted), []
    for part in wanted.split(rows):
        # Up to the length of the wanted row, which is the same for all offered ones.
        cost = torch.addmm(length, part, columns, alpha=-2, out=costs[: len(part)])
        # The best group first: a minimum is found several times faster than its place.
        cost = cost.unflatten(1, (-1, GROUP))
        group = cost.amin(2).argmin(1)
        within = cost[torch.arange(len(part), device=part.device), group].argmin(1)
        found.append(GROUP * group + within)
    return torch.cat(found)


def _texture(estimate: Tensor, hole: Tensor) -> Tensor:
    """The two channels next to the colours, (1, 2, H, W), continued smoothly into the hole."""
    bright = estimate.mean(1, keepdim=True)
    across = F.pad(bright.diff(dim=3), (0, 1)).abs()
    down = F.pad(bright.diff(dim=2), (0, 0, 0, 1)).abs()
    # Both pixels of a difference have to be known.
    known = F.max_pool2d(hole.to(estimate.dtype), 3, 1, 1) == 0
    rough = torch.cat([across, down, torch.ones_like(across)]) * known
    sums = gaussian_blur(rough, AROUND).transpose(0, 1)
    means = sums[:, :2] / sums[:, 2:].clamp(min=1e-3)
    return TEXTURE * harmonic_fill(means.masked_fill(hole, 0), hole)


def _copied(estimate: Tensor, hole: Tensor, coarse: bool, scale: float = 1.0) -> Tensor:
    """:func:`copy_patches` for the channels C (1, 5, H, W) of a picture at a share of full size."""
    if min(estimate.shape[2:]) < SIDE:
        return estimate
    if coarse:
        estimate = _coarse_first(estimate, hole, scale)
    grid = _Grid(F.max_pool2d(hole[0].float(), SIDE, 1)[0] > 0)
    sources = grid.sources
    if len(sources) < FEWEST_SOURCES or not len(grid.targets):
        return estimate
    features = _Features(estimate, grid, REACH * scale)
    part = hole if scale < 1 else _thin(hole)
    if part.any():
        estimate = _continued(estimate, hole, part, grid, features.places)
    rows = features(estimate)
    offered = rows[sources]
    offsets = sources[nearest(rows[grid.targets], offered, offered.square().sum(1))] - grid.targets
    for share in (ROUNDS - 1) * [1.0] + [CONTRAST]:
        for _ in range(SWEEPS):
            offsets = grid.agreed(offsets, rows)
        copied = grid.copied(offsets, estimate, share)
        rows = features(torch.where(hole, copied, estimate))
    ring = (F.max_pool2d(hole.float(), 2 * RING + 1, 1, RING) > 0) & ~hole
    return torch.where(hole, joined(copied, estimate, ~ring, RELAXATIONS), estimate)


def _coarse_first(estimate: Tensor, hole: Tensor, scale: float) -> Tensor:
    """The estimate with what copying at half the size makes of the middle of the hole."""
    missing = hole.float()
    # Beyond the picture's edge counts as missing.
    deep = -F.max_pool2d(-missing, 2 * DEEP + 1, 1, DEEP) > 0
    if not deep.any() or min(estimate.shape[2:]) < 2 * SIDE:
        return estimate
    small = F.avg_pool2d(estimate, 2)
    change = _copied(small, F.max_pool2d(missing, 2) > 0, True, scale / 2) - small
    change = F.interpolate(change, estimate.shape[2:], mode="bilinear", align_corners=False)
    return torch.where(deep, estimate + change, estimate)


def _thin(hole: Tensor) -> Tensor:
    """Where a hole (1, 1, H, W) bool is thin, see :data:`THIN`."""
    square = np.ones((2 * THIN + 1, 2 * THIN + 1), np.uint8)
    # Beyond the picture's edge counts as missing.
    core = cv2.morphologyEx(hole[0, 0].cpu().numpy().astype(np.uint8), cv2.MORPH_OPEN, square)
    return hole & torch.from_numpy(core == 0).to(hole.device)


def _continued(estimate: Tensor, hole: Tensor, part: Tensor, grid: _Grid, places: Tensor) -> Tensor:
    """The estimate with a margin of a part of the hole filled from the border inwards."""
    # Patches that reach a little into the hole are compared with known ones, mostly by what they
    # show of the known. The mean of what these show instead counts as known from then on.
    size = hole.shape[2:]
    within = _within(size[1], hole.device)
    theirs = grid.pixels(grid.sources, size[1])
    picture, known, part = estimate[0].flatten(1).clone(), ~hole.flatten(), part.flatten()
    # Every third pixel, along diagonals, tells as much as all of them.
    steps = torch.arange(SIDE, device=hole.device)
    compared = within[((steps[:, None] + steps) % 3 == 0).flatten()]
    shown = picture[:, theirs[:, None] + compared]
    # The sum over a patch of w (P - S)^2 is, but for what is the same for all S, that of
    # w S^2 - 2 w P S: an inner product of what the one and the other depend on.
    where = places[grid.sources]
    offered = torch.cat([shown.square().sum(0), *shown, where], 1)
    ours = grid.pixels(grid.targets, size[1])
    reaching = part[ours[:, None] + within].any(1)
    ours, cells = ours[reaching], grid.targets[reaching]
    # A last channel for the number of copies.
    counted = F.pad(estimate[0], (0, 0, 0, 0, 0, 1), value=1.0)
    for _ in range(MARGIN // FRONT):
        near = F.max_pool2d(known.view(hole.shape).float(), 2 * FRONT + 1, 1, FRONT) > 0
        front = near.flatten() & part & ~known
        if not front.any():
            break
        share = known[ours[:, None] + within].sum(1) / len(within)
        touching = front[ours[:, None] + within].any(1)
        chosen = touching & (share >= share[touching].max().clamp(max=LEAST_KNOWN))
        pixels = ours[chosen, None] + compared
        weight = torch.where(known[pixels], 1.0, DOUBT).to(picture)
        weight /= 3 * weight.sum(1, keepdim=True)
        wanted = [weight / -2, *(weight * picture[:, pixels]), places[cells[chosen]]]
        best = nearest(torch.cat(wanted, 1), offered, where.square().sum(1))
        sums = _summed(counted, ours[chosen], theirs[best]).flatten(1)
        front &= sums[-1] > 0
        picture[:, front] = sums[:-1, front] / sums[-1, front]
        known |= front
    return torch.where(hole, picture.view_as(estimate), estimate)


class _Grid:
    """Places of a patch, numbered row by row within a rim that has no patches.

    The rim is as wide as the step between neighbours. An offset is a difference of numbers: where
    it would leave a row it ends in the rim. ``targets`` (N,) are the cells of the patches that
    reach into the hole, of every second row and column and the last ones; ``sources`` (M,) those of
    the known patches.
    """

    def __init__(self, touched: Tensor):
        # (h, w) places of a patch's first pixel.
        self.shape, device = touched.shape, touched.device
        self.width = touched.shape[1] + 2 * STRIDE
        known = F.pad(~touched, 4 * (STRIDE,)).flatten()
        self.forbidden = torch.where(known, 0, torch.inf)
        self.sources = known.nonzero()[:, 0]
        if len(self.sources) > MOST_SOURCES:
            # At random, because a regular choice would favour some columns; the same on any device.
            order = torch.randperm(len(self.sources), generator=torch.Generator().manual_seed(0))
            self.sources = self.sources[order[:MOST_SOURCES].to(device)]
        rows, columns = (
            torch.tensor(sorted({*range(0, length, STRIDE), length - 1}), device=device)
            for length in touched.shape
        )
        there = touched[rows[:, None], columns]
        on = there.nonzero()
        self.targets = (rows[on[:, 0]] + STRIDE) * self.width + columns[on[:, 1]] + STRIDE
        # Numbers on the lattice within a rim that has no patch, numbered N.
        numbers = torch.full([n + 2 for n in there.shape], len(on), device=device)
        numbers[1:-1, 1:-1][there] = torch.arange(len(on), device=device)
        around = numbers.unfold(0, 3, 1).unfold(1, 3, 1)[there].flatten(1)
        around = around[:, [4, 0, 1, 2, 3, 5, 6, 7, 8]]  # Each patch itself and its neighbours.
        # How many of the targets each pixel of the picture is in.
        ones = torch.ones(1, *(edge + SIDE - 1 for edge in touched.shape), device=device)
        first = self.pixels(self.targets, ones.shape[2])
        self.count = _summed(ones, first, first)[0]
        # No two of a colour are neighbours, so that all of them choose at once.
        colour = 2 * (on[:, 0] % 2) + on[:, 1] % 2
        self._turns = [
            (part, around[part], self.targets[part])
            for number in range(4)
            for part in (colour == number).nonzero()[:, 0].split(TOGETHER)
            if len(part)
        ]

    def pixels(self, cells: Tensor, width: int) -> Tensor:
        """Numbers (N,) of the first pixels of the patches in cells (N,), in a picture so wide."""
        rows = cells.div(self.width, rounding_mode="floor")
        return (rows - STRIDE) * width + cells - rows * self.width - STRIDE

    def agreed(self, offsets: Tensor, rows: Tensor) -> Tensor:
        """Let each patch take the best of its own offset (N,) and its neighbours'."""
        # Beyond the lattice the offset leads to the last cell, in the rim, which equals no other.
        last = len(rows) - 1
        offsets = F.pad(offsets, (0, 1), value=last)
        for turn, around, cells in self._turns:
            offered = offsets[around]
            found = (cells[:, None] + offered).clamp_(max=last).flatten()
            apart = rows.index_select(0, found).view(*offered.shape, -1)
            apart -= rows.index_select(0, cells)[:, None]
            cost = apart.square_().sum(2)
            cost -= COHERENCE * (offered[:, :, None] == offered[:, None, 1:]).sum(2)
            cost += self.forbidden[found].view_as(cost)
            offsets[turn] = offered.gather(1, cost.argmin(1, keepdim=True))[:, 0]
        return offsets[:-1]

    def copied(self, offsets: Tensor, photo: Tensor, share: float) -> Tensor:
        """Mean (1, C, H, W) of what offsets (N,) copy, else the photo, its detail amplified."""
        squares = photo[0, :3].square().sum(0, keepdim=True)
        cells = self.targets, self.targets + offsets
        places = (self.pixels(part, photo.shape[3]) for part in cells)
        sums = _summed(torch.cat([photo[0], squares]), *places)
        means = (sums / self.count.clamp(min=1))[None]
        mean = torch.where(self.count > 0, means[:, :-1], photo)
        spread = (means[:, -1:] - means[:, :3].square().sum(1, keepdim=True)).clamp(min=0)
        slow = gaussian_blur(mean[:, :3].transpose(0, 1), FINE).transpose(0, 1)
        detail = mean[:, :3] - slow
        kept = gaussian_blur(detail.square().sum(1, keepdim=True), FINE)
        gain = (1 + gaussian_blur(spread, FINE) / kept.clamp(min=1e-6)).sqrt().clamp(max=MOST_GAIN)
        return torch.cat([slow + (1 + share * (gain - 1)) * detail, mean[:, 3:]], 1)


def _summed(channels: Tensor, to: Tensor, source: Tensor) -> Tensor:
    """Sum (K, H, W) of patches copied between first pixels (N,); those ``to`` all differ."""
    count, _, width = channels.shape
    shown = channels.flatten(1).T.contiguous()
    strips = shown.flatten().unfold(0, count * SIDE, count)
    sums = torch.zeros_like(shown)
    for place, where in zip(to.split(COPIED), source.split(COPIED), strict=True):
        for i in range(SIDE):
            copies = strips[i * width :].index_select(0, where).unflatten(1, (SIDE, count))
            for j in range(SIDE):
                # One pixel of all patches after the other: no two of them are the same.
                sums[i * width + j :].index_add_(0, place, copies[:, j])
    return sums.T.view_as(channels)


class _Features:
    """Rows whose squared distances are D, along few directions near the principal components."""

    def __init__(self, photo: Tensor, grid: _Grid, reach: float):
        scale = (3 * SIDE**2) ** -0.5
        width = photo.shape[3]
        some = grid.sources[:: -(-len(grid.sources) // DESCRIBED)]
        pixels = grid.pixels(some, width)[:, None] + _within(width, photo.device)
        known = scale * photo[0].flatten(1)[:, pixels].transpose(0, 1).flatten(1)
        # An orthogonal iteration takes a tenth of the time of a decomposition.
        covariance = (known - known.mean(0)).T.cov()
        generator = torch.Generator().manual_seed(0)
        directions = torch.randn(len(covariance), DIRECTIONS, generator=generator).to(covariance)
        for _ in range(ITERATIONS):
            directions = torch.linalg.qr(covariance @ directions)[0]
        self.filters = scale * directions.T.unflatten(1, (-1, SIDE, SIDE))
        rows, columns = (
            torch.arange(-STRIDE, n + STRIDE, dtype=photo.dtype, device=photo.device) / reach
            for n in grid.shape
        )
        # (cells, 2) of all patches.
        self.places = torch.cartesian_prod(rows, columns)

    def __call__(self, photo: Tensor) -> Tensor:
        """Features of all patches of a picture (1, C, H, W): (cells, D)."""
        # Cells of the rim get numbers as well, which nobody asks for.
        photo = photo.contiguous(memory_format=torch.channels_last)
        colours = F.conv2d(photo, self.filters, padding=STRIDE)[0]
        return torch.cat([colours.flatten(1).T, self.places], 1)


def _within(width: int, device: torch.device) -> Tensor:
    """What to add to the number of a patch's first pixel for those of all, (SIDE^2,)."""
    steps = torch.arange(SIDE, device=device)
    return (steps[:, None] * width + steps).flatten()
