"""Known patches copied into the hole, coarse to fine.

A network of few parameters knows where a hole is dark or bright, smooth or rough, but paints it
with colours and textures that the photo does not have. The photo itself has them: every small patch
p of the hole is given an offset o, to a patch p + o that is known altogether and resembles it, as
texture synthesis does (Efros and Leung 1999). The offsets of all patches together are chosen to
make::

    sum over p  D(p, p + o_p)  -  0.003 |pairs of neighbours p, q with o_p = o_q|

    D(p, q) = mean (C_p - C_q)^2 + (distance / 1000)^2

small, C being the colours in [-1, 1] and the distance in pixels. The second term is coherence
(Ashikhmin 2001): neighbours that are copied from neighbours bring whole pieces of the photo instead
of a mixture.

Every patch starts at its nearest known one. Then each in turn takes the best out of its own offset
and those of its eight neighbours, which never makes the sum larger (iterated conditional modes,
Besag 1986), and what all offsets copy to a pixel is averaged. D is then measured against that
picture instead of the estimate, and so on (Wexler, Shechtman and Irani 2007).

Where copies differ, their mean is smoother than any of them, and what is nearest to it smoother
still in the next round. Its detail, what a Gaussian filter takes away, is hence made as much
stronger as the variance lost to averaging says::

    gain = sqrt(1 + lost / kept),   lost = G (E |c|^2 - |E c|^2),   kept = G |E c - G E c|^2

E being the mean over the copies c of a pixel and G the filter; in the result, half as much.

In the end, what the copies miss of the known pixels next to the hole is continued smoothly into it
and added, which leaves no step of brightness at the border (Perez, Gangnet and Blake 2003).

All of it is done first at half the size, again in this way, where patches show twice as much of the
photo; what that changes is added to the estimate before. Only the middle of a hole takes part in
it: near the border the estimate at full size is better. The constants were chosen on photographs of
the training, see ``train/LOG.md``.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from asyncdsb.membrane import joined
from asyncdsb.schedule import gaussian_blur

SIDE = 11
"""Side of a patch, in pixels."""

STRIDE = 2
"""Spacing of the patches of the hole: fewer voters keep their mean sharper."""

REACH = 1000.0
"""Distance, in pixels, that costs as much as a mean squared difference of colours of 1."""

COHERENCE = 0.003
"""What an equal offset of a neighbour is worth, as a mean squared difference of colours."""

ROUNDS = 4
"""How often the offsets are chosen anew for the picture that they gave."""

SWEEPS = 2
"""How often in a round each patch looks at its neighbours' offsets."""

FINE = 2.0
"""Standard deviation, in pixels, of the filter that tells detail from what is below it."""

MOST_GAIN = 2.0
"""By how much detail is made stronger at most."""

CONTRAST = 0.5
"""Share of the gain that the result gets; the pictures before it get all."""

DEEP = 3
"""Pixels so far from the border, and less far, are left to their own size."""

RING = 3
"""Width in pixels of what is compared with the copies around the hole."""

MOST_SOURCES = 8192
"""Known patches among which the nearest is searched: of more, so many are drawn."""

FEWEST_SOURCES = 64
"""With fewer known patches there is nothing to choose from, and the estimate stays."""

DIRECTIONS = 16
"""Directions along which patches are compared, close to their principal components."""

DESCRIBED = 1024
"""Known patches, about, whose principal components those are."""

ITERATIONS = 4
"""Multiplications by the covariance that bring the directions close to them."""

RELAXATIONS = 4
"""Sweeps with which the border's gap is continued, see :func:`asyncdsb.membrane.harmonic_fill`."""

TOGETHER = 2**15
"""Patches of the hole that choose at once, which bounds the memory."""

COPIED = 2**14
"""Patches of the hole that are copied at once: few enough for a processor's cache."""

COMPARED = 2**21
"""Costs held in memory at once: few enough for a processor's cache."""

GROUP = 64
"""Known patches whose best is found at once."""

_NEIGHBOURS = tuple((i, j) for i in (-1, 0, 1) for j in (-1, 0, 1) if i or j)


def copy_patches(estimate: Tensor, mask: Tensor, coarse: bool = True) -> Tensor:
    """Replace what an estimate shows in the hole by patches of what is known.

    The same arguments give the same result; a sample depends on nothing else in its batch.

    Args:
        estimate: (B, 3, H, W) in [-1, 1], the photo outside the hole.
        mask: (B, 1, H, W), non-zero = missing.
        coarse: whether to begin at smaller sizes; not where the estimate is an enlarged result.

    Returns:
        (B, 3, H, W): known pixels are those of ``estimate``, and so is everything if hardly any
        patch of a sample is known.
    """
    parts = zip(estimate.split(1), (mask > 0.5).split(1), strict=True)
    return torch.cat([_copied(*part, REACH, coarse) for part in parts])


def _copied(estimate: Tensor, hole: Tensor, reach: float, coarse: bool) -> Tensor:
    """:func:`copy_patches` for a batch of one and a bool mask, with :data:`REACH` at this size."""
    if min(estimate.shape[2:]) < SIDE:
        return estimate
    if coarse:
        estimate = _coarse_first(estimate, hole, reach)
    grid = _Grid(F.max_pool2d(hole[0].float(), SIDE, 1)[0] > 0)
    sources, targets = _drawn(grid.sources), _Targets(grid)
    if len(sources) < FEWEST_SOURCES or not len(targets.cells):
        return estimate
    features = _Features(estimate, grid, sources, reach)
    rows = features(estimate)
    nearest = _nearest(rows[targets.cells], rows[sources])
    offsets, picture = sources[nearest] - targets.cells, estimate
    for number in range(ROUNDS):
        if number:
            rows = features(picture)
        for _ in range(SWEEPS):
            offsets = targets.agreed(offsets, rows)
        share = CONTRAST if number == ROUNDS - 1 else 1.0
        copied = _with_contrast(*targets.mean(offsets, estimate), share)
        picture = torch.where(hole, copied, estimate)
    ring = (F.max_pool2d(hole.float(), 2 * RING + 1, 1, RING) > 0) & ~hole
    return torch.where(hole, joined(copied, estimate, ~ring, RELAXATIONS).clamp(-1, 1), estimate)


def _coarse_first(estimate: Tensor, hole: Tensor, reach: float) -> Tensor:
    """The estimate with what copying at half the size makes of the middle of the hole."""
    missing = hole.float()
    # Beyond the picture's edge counts as missing.
    deep = -F.max_pool2d(-missing, 2 * DEEP + 1, 1, DEEP) > 0
    if not deep.any() or min(estimate.shape[2:]) < 2 * SIDE:
        return estimate
    small = F.avg_pool2d(estimate, 2)
    change = _copied(small, F.max_pool2d(missing, 2) > 0, reach / 2, True) - small
    change = F.interpolate(change, estimate.shape[2:], mode="bilinear", align_corners=False)
    return torch.where(deep, (estimate + change).clamp(-1, 1), estimate)


class _Grid:
    """All places of a patch, numbered row by row, within a rim where no patch is.

    The rim is as wide as the step between neighbouring patches of the hole. Where a neighbour's
    offset leads is hence told by adding numbers: what would leave a row ends in the rim.

    Args:
        touched: (h, w) bool, for each place of a patch's first pixel whether any is missing.

    Attributes:
        touched: the same.
        width: of the numbering, w and twice the rim.
        forbidden: (cells,) what is added to the cost of a patch: infinity unless it is known.
        sources: (M,) cells of the known patches.
    """

    def __init__(self, touched: Tensor):
        self.touched = touched
        self.width = touched.shape[1] + 2 * STRIDE
        rim = 4 * (STRIDE,)
        known = F.pad(~touched, rim).flatten()
        self.forbidden = torch.where(known, 0, torch.inf)
        self.sources = known.nonzero()[:, 0]

    def cells(self, places: Tensor) -> Tensor:
        """Numbers (N,) of the cells at rows and columns (N, 2)."""
        return ((places + STRIDE) * places.new_tensor([self.width, 1])).sum(1)

    def pixels(self, cells: Tensor, width: int) -> Tensor:
        """Numbers (N,) of the first pixels of the patches in cells (N,), in a picture so wide."""
        rows = cells.div(self.width, rounding_mode="floor")
        return (rows - STRIDE) * width + cells - rows * self.width - STRIDE


class _Targets:
    """The patches that reach into the hole, of every second row and column, and the last ones.

    An offset is the difference of two cells' numbers.

    Args:
        grid: of all patches.

    Attributes:
        cells: (N,) of each.
        count: (H * W,) float, how many of them each pixel of the picture is in.
    """

    def __init__(self, grid: _Grid):
        self.grid, touched = grid, grid.touched
        device = touched.device
        rows, columns = (
            torch.tensor(sorted({*range(0, length, STRIDE), length - 1}), device=device)
            for length in touched.shape
        )
        there = touched[rows[:, None], columns]
        on = there.nonzero()
        self.cells = grid.cells(torch.stack([rows[on[:, 0]], columns[on[:, 1]]], 1))
        # Numbers on the lattice within a rim that has no patch, numbered N.
        count = len(on)
        numbers = torch.full([n + 2 for n in there.shape], count, device=device)
        numbers[1:-1, 1:-1][there] = torch.arange(count, device=device)
        around = torch.stack(
            [numbers[on[:, 0] + 1 + i, on[:, 1] + 1 + j] for i, j in ((0, 0), *_NEIGHBOURS)], 1
        )
        mine = torch.zeros(touched.shape, device=device)
        mine[rows[:, None], columns] = there.float()
        mine = F.pad(mine, 4 * (SIDE - 1,))[None]
        self.count = (SIDE**2 * F.avg_pool2d(mine, SIDE, 1)).round().flatten()
        # No two of a colour are neighbours, so that all of them choose at once.
        colour = 2 * (on[:, 0] % 2) + on[:, 1] % 2
        self.turns = [
            (part, around[part], self.cells[part])
            for number in range(4)
            for part in (colour == number).nonzero()[:, 0].split(TOGETHER)
            if len(part)
        ]

    def agreed(self, offsets: Tensor, rows: Tensor) -> Tensor:
        """Let each patch take the best out of its own offset and its neighbours', in turn.

        Args:
            offsets: (N,), each to a known patch.
            rows: (cells, D) features of all patches.

        Returns:
            (N,) such offsets.
        """
        # What lies outside of the lattice offers the last cell, of the rim, and agrees with nobody.
        last = len(rows) - 1
        offsets = F.pad(offsets, (0, 1), value=last)
        for turn, around, cells in self.turns:
            offered = offsets[around]
            found = (cells[:, None] + offered).clamp_(max=last).flatten()
            apart = rows.index_select(0, found).view(*offered.shape, -1)
            apart -= rows.index_select(0, cells)[:, None]
            cost = apart.square_().sum(2)
            agreeing = (offered[:, :, None] == offered[:, None, 1:]).sum(2)
            cost -= COHERENCE * agreeing
            cost += self.grid.forbidden[found].view_as(cost)
            offsets[turn] = offered.gather(1, cost.argmin(1, keepdim=True))[:, 0]
        return offsets[:-1]

    def mean(self, offsets: Tensor, photo: Tensor) -> tuple[Tensor, Tensor]:
        """Average what all offsets (N,) copy to a pixel from a photo (1, 3, H, W).

        Returns:
            The mean, (1, 3, H, W), that of the photo where nothing is copied to, and the variance
            of the copies, summed over the colours, (1, 1, H, W).
        """
        wide = photo.shape[3]
        first, source = (
            self.grid.pixels(cells, wide) for cells in (self.cells, self.cells + offsets)
        )
        # A fourth column for the squares.
        colours = torch.cat([photo[0], photo[0].square().sum(0, keepdim=True)]).flatten(1)
        colours = colours.T.contiguous()
        strips = colours.flatten().unfold(0, 4 * SIDE, 4)
        sums = torch.zeros_like(colours)
        for to, where in zip(first.split(COPIED), source.split(COPIED), strict=True):
            for i in range(SIDE):
                copies = strips[i * wide :].index_select(0, where).unflatten(1, (SIDE, 4))
                for j in range(SIDE):
                    # One pixel of all patches after the other: no two of them are the same.
                    sums[i * wide + j :].index_add_(0, to, copies[:, j])
        means = (sums.T / self.count.clamp(min=1)).view(1, 4, *photo.shape[2:])
        mean = torch.where(self.count.view(photo.shape[2:]) > 0, means[:, :3], photo)
        spread = means[:, 3:] - means[:, :3].square().sum(1, keepdim=True)
        return mean, spread.clamp(min=0)


def _with_contrast(mean: Tensor, spread: Tensor, share: float) -> Tensor:
    """Make the detail of a mean stronger by a share of the gain of the module's docstring.

    Args:
        mean: (1, 3, H, W) over the copies of every pixel, E c.
        spread: (1, 1, H, W) E |c|^2 - |E c|^2, their variance summed over the colours.
        share: 0 for none of the gain, 1 for all.

    Returns:
        (1, 3, H, W), G E c + (1 + share (gain - 1)) (E c - G E c).
    """
    slow = gaussian_blur(mean.transpose(0, 1), FINE).transpose(0, 1)
    detail = mean - slow
    kept = gaussian_blur(detail.square().sum(1, keepdim=True), FINE)
    gain = (1 + gaussian_blur(spread, FINE) / kept.clamp(min=1e-6)).sqrt().clamp(max=MOST_GAIN)
    return slow + (1 + share * (gain - 1)) * detail


class _Features:
    """Rows whose squared distances are D of the module's docstring, along few directions.

    Args:
        photo: (1, 3, H, W), known where the sources are.
        grid: of all patches.
        sources: (M,) cells of known patches, along whose principal components is compared.
        reach: see :data:`REACH`.
    """

    def __init__(self, photo: Tensor, grid: _Grid, sources: Tensor, reach: float):
        scale = (3 * SIDE**2) ** -0.5
        width = photo.shape[3]
        steps = torch.arange(SIDE, device=sources.device)
        within = (steps[:, None] * width + steps).flatten()
        some = sources[:: -(-len(sources) // DESCRIBED)]
        pixels = grid.pixels(some, width)[:, None] + within
        known = scale * photo[0].flatten(1)[:, pixels].transpose(0, 1).flatten(1)
        # Nearly all that sets patches apart lies along a few directions, which an orthogonal
        # iteration finds well enough in a tenth of the time of a decomposition.
        covariance = (known - known.mean(0)).T.cov()
        generator = torch.Generator().manual_seed(0)
        directions = torch.randn(len(covariance), DIRECTIONS, generator=generator).to(covariance)
        for _ in range(ITERATIONS):
            directions = torch.linalg.qr(covariance @ directions)[0]
        self.filters = scale * directions.T.unflatten(1, (3, SIDE, SIDE))
        rows, columns = (
            torch.arange(-STRIDE, n + STRIDE, dtype=photo.dtype, device=photo.device) / reach
            for n in grid.touched.shape
        )
        self.places = torch.cartesian_prod(rows, columns)

    def __call__(self, photo: Tensor) -> Tensor:
        """Features of all patches of a picture (1, 3, H, W): (cells, D)."""
        # Cells of the rim get numbers as well, which nobody asks for.
        photo = photo.contiguous(memory_format=torch.channels_last)
        colours = F.conv2d(photo, self.filters, padding=STRIDE)[0]
        return torch.cat([colours.flatten(1).T, self.places], 1)


def _drawn(sources: Tensor) -> Tensor:
    """Not too many out of (M,) cells."""
    if len(sources) <= MOST_SOURCES:
        return sources
    # Drawn, as a regular choice would favour some columns; always the same, on any device.
    order = torch.randperm(len(sources), generator=torch.Generator().manual_seed(0))
    return sources[order[:MOST_SOURCES].to(sources.device)]


def _nearest(wanted: Tensor, offered: Tensor) -> Tensor:
    """Index of the nearest of (M, D) rows for each of (N, D): (N,)."""
    # Padded by rows at an infinite distance, to a whole number of groups.
    length = F.pad(offered.square().sum(1), (0, -len(offered) % GROUP), value=torch.inf)
    columns = F.pad(offered, (0, 0, 0, len(length) - len(offered))).T.contiguous()
    rows = max(1, COMPARED // len(length))
    costs = torch.empty(min(rows, len(wanted)), len(length)).to(wanted)
    found = []
    for part in wanted.split(rows):
        # Up to the length of the wanted row, which is the same for all offered ones.
        cost = torch.addmm(length, part, columns, alpha=-2, out=costs[: len(part)])
        # The best group first: a minimum is found several times faster than its place.
        cost = cost.unflatten(1, (-1, GROUP))
        group = cost.amin(2).argmin(1)
        within = cost[torch.arange(len(part), device=part.device), group].argmin(1)
        found.append(GROUP * group + within)
    return torch.cat(found)
