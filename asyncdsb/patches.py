"""Patches of the known part copied into a finished estimate.

A network of few parameters knows where a hole is dark or bright, smooth or rough, but paints it
with colours and textures that the photo does not have. The photo itself has them: in the end every
small patch of the hole is replaced by the known patch that resembles it most, as texture synthesis
does (Efros and Leung 1999), where overlapping patches vote on each pixel (Wexler, Shechtman and
Irani 2007). A known patch q stands for a patch p of the hole at the cost::

    mean (C_p - C_q)^2 + 3 (g_p - g_q)^2 + (distance / 300)^2

C being the colours in [-1, 1], g the patch's mean of the square root of the gradient map, and the
distance in pixels. An estimate is smoother than a photograph; the completed gradient map says how
rough the patch ought to be. And what is near is likelier to be of the same thing. The constants
were chosen on photographs of the training, see ``train/LOG.md``.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

SIDE = 5
"""Side of a patch, in pixels."""

STRIDE = 2
"""Spacing of the patches of the hole: fewer voters keep their votes sharper."""

GRADIENT_WEIGHT = 3.0
"""What a squared difference of the gradient counts, beside that of the colours."""

REACH = 300.0
"""Distance, in pixels, that costs as much as a mean squared difference of colours of 1."""

TOLERANCE = 0.1
"""Root mean square difference of the colours beyond which a vote counts little."""

MOST_SOURCES = 16_384
"""Known patches that are looked at: of more, so many are drawn."""

FEWEST_SOURCES = 64
"""With fewer known patches there is nothing to choose from, and the estimate stays."""

DIRECTIONS = 16
"""Principal components along which patches are compared."""

TOGETHER = 2**15
"""Patches of the hole that are held in memory at once."""

COMPARED = 2**21
"""Costs held in memory at once: few enough for a processor's cache."""

GROUP = 64
"""Known patches whose best is found at once."""


def copy_patches(estimate: Tensor, mask: Tensor, gradient: Tensor) -> Tensor:
    """Replace what an estimate shows in the hole by patches of what is known.

    The same arguments give the same result; a sample depends on nothing else in its batch.

    Args:
        estimate: (B, 3, H, W) in [-1, 1], the photo outside the hole.
        mask: (B, 1, H, W), non-zero = missing.
        gradient: (B, 1, H, W) completed gradient map in [0, 1].

    Returns:
        (B, 3, H, W): known pixels are those of ``estimate``, and so is everything if hardly any
        patch of a sample is known.
    """
    parts = zip(estimate.split(1), mask.split(1), gradient.split(1), strict=True)
    return torch.cat([_copied(*part) for part in parts])


def _copied(estimate: Tensor, mask: Tensor, gradient: Tensor) -> Tensor:
    height, width = estimate.shape[2:]
    if min(height, width) < SIDE:
        return estimate
    hole = mask[0, 0] > 0.5
    touched = F.max_pool2d(hole[None].float(), SIDE, 1)[0] > 0
    sources, targets = _sources(touched), _targets(touched)
    if len(sources) < FEWEST_SOURCES:
        return estimate
    colours = estimate[0].flatten(1)
    hints = _hints(gradient)
    steps = torch.arange(SIDE, device=colours.device)
    offsets = (steps[:, None] * width + steps).flatten()

    def features(places: Tensor) -> tuple[Tensor, Tensor]:
        """Pixel numbers and features of patches that start at (N, 2) places."""
        pixels = (places[:, :1] * width + places[:, 1:]) + offsets
        colour = colours[:, pixels].transpose(0, 1).flatten(1)
        return pixels, torch.cat([colour, hints[places[:, 0], places[:, 1]]], 1)

    _, offered = features(sources)
    search = _Search(offered)
    sums = torch.zeros_like(colours[:1]).repeat(4, 1)
    for part in targets.split(TOGETHER):
        pixels, wanted = features(part)
        votes = offered[search.nearest(wanted), : 3 * SIDE**2]
        error = (votes - wanted[:, : votes.shape[1]]).square().mean(1)
        # The constant keeps a pixel about which all are wrong from having no voter.
        weight = torch.exp(-error / (2 * TOLERANCE**2)) + 1e-3
        votes = F.pad(votes.unflatten(1, (3, -1)), (0, 0, 0, 1), value=1.0) * weight[:, None, None]
        # One pixel of all patches after the other: no two of them are the same.
        for here, vote in zip(pixels.unbind(1), votes.unbind(2), strict=True):
            sums[:, here] += vote.T
    sums = sums.unflatten(1, (height, width))
    voted = hole & (sums[3] > 0)
    return torch.where(voted, sums[:3] / sums[3].clamp(min=1e-9), estimate)


def _hints(gradient: Tensor) -> Tensor:
    """Roughness and place of every patch, (h, w, 3), scaled to be compared beside the colours."""
    size = (3 * SIDE**2) ** 0.5
    rough = F.avg_pool2d(gradient.clamp(0, 1).sqrt(), SIDE, 1)[0, 0]
    rows, columns = (torch.arange(n, dtype=rough.dtype, device=rough.device) for n in rough.shape)
    row, column = torch.meshgrid(rows / REACH, columns / REACH, indexing="ij")
    return size * torch.stack([GRADIENT_WEIGHT**0.5 * rough, row, column], 2)


def _sources(touched: Tensor) -> Tensor:
    """Places (N, 2) of the patches that are known altogether, or of some of them."""
    sources = (~touched).nonzero()
    if len(sources) <= MOST_SOURCES:
        return sources
    # Drawn, as a regular choice would favour some columns; always the same, on any device.
    order = torch.randperm(len(sources), generator=torch.Generator().manual_seed(0))
    return sources[order[:MOST_SOURCES].to(sources.device)]


def _targets(touched: Tensor) -> Tensor:
    """Places (N, 2) of the patches that reach into the hole, of every second row and column."""
    return STRIDE * touched[::STRIDE, ::STRIDE].nonzero()


class _Search:
    """The nearest out of some rows.

    Args:
        offered: (M, D).
    """

    def __init__(self, offered: Tensor):
        # Nearly all that sets patches apart lies along a few directions.
        _, directions = torch.linalg.eigh((offered - offered.mean(0)).T.cov())
        self.directions = directions[:, -DIRECTIONS:]
        offered = offered @ self.directions
        # Padded by rows at an infinite distance, to a whole number of groups.
        self.length = F.pad(offered.square().sum(1), (0, -len(offered) % GROUP), value=torch.inf)
        self.offered = F.pad(offered, (0, 0, 0, len(self.length) - len(offered))).T.contiguous()

    def nearest(self, wanted: Tensor) -> Tensor:
        """Index of the nearest row for each of (N, D): (N,)."""
        rows = max(1, COMPARED // len(self.length))
        costs = torch.empty(min(rows, len(wanted)), len(self.length)).to(wanted)
        found = []
        for part in (wanted @ self.directions).split(rows):
            # Up to the length of the wanted row, which is the same for all offered ones.
            cost = torch.addmm(self.length, part, self.offered, alpha=-2, out=costs[: len(part)])
            # The best group first: a minimum is found several times faster than its place.
            cost = cost.unflatten(1, (-1, GROUP))
            group = cost.amin(2).argmin(1)
            within = cost[torch.arange(len(part), device=part.device), group].argmin(1)
            found.append(GROUP * group + within)
        return torch.cat(found)
