"""Patches of the known part copied into a finished estimate.

A network of few parameters knows where a hole is dark or bright, smooth or rough, but paints it
with colours and textures that the photo does not have. The photo itself has them: in the end every
small patch of the hole is replaced by the known patch that resembles it most, as texture synthesis
does (Efros and Leung 1999), where overlapping patches vote on each pixel (Wexler, Shechtman and
Irani 2007). A known patch q stands for a patch p of the hole at the cost::

    mean (C_p - C_q)^2 + 3 (g_p - g_q)^2 + (distance / 213)^2

C being the colours in [-1, 1], g the patch's mean of the square root of the gradient map, and the
distance in pixels. An estimate is smoother than a photograph; the completed gradient map says how
rough the patch ought to be. And what is near is likelier to be of the same thing. The constants
were chosen on held-out crops, see ``train/LOG.md``.
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

REACH = 213.0
"""Distance, in pixels, that costs as much as a mean squared difference of colours of 1."""

TOLERANCE = 0.1
"""Root mean square difference of the colours beyond which a vote counts little."""

MOST_SOURCES = 16_384
"""Known patches that are looked at: of more, so many are drawn."""

FEWEST_SOURCES = 64
"""With fewer known patches there is nothing to choose from, and the estimate stays."""

DIRECTIONS = 16
"""Principal components along which patches are compared."""

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
    hole = mask > 0.5
    if min(estimate.shape[2:]) < SIDE:
        return estimate
    touched = F.max_pool2d(hole.float(), SIDE, 1).flatten() > 0
    sources, targets = _sources(touched), _targets(touched, estimate.shape[-1] - SIDE + 1)
    if len(sources) < FEWEST_SOURCES:
        return estimate
    patches = F.unfold(estimate, SIDE)[0].T
    features = torch.cat([patches, _hints(gradient)], 1)
    chosen = sources[_nearest(features[targets], features[sources])]
    votes = patches[chosen]
    error = (votes - patches[targets]).square().mean(1, keepdim=True)
    # The constant keeps a pixel about which all are wrong from having no voter.
    weight = torch.exp(-error / (2 * TOLERANCE**2)) + 1e-3
    spread = torch.zeros(len(patches), patches.shape[1] + SIDE**2).to(patches)
    spread[targets] = torch.cat([weight * votes, weight.expand(-1, SIDE**2)], 1)
    total = F.fold(spread.T[None], estimate.shape[2:], SIDE)
    sums, weights = total[:, :-1], total[:, -1:]
    voted = hole & (weights > 0)
    return torch.where(voted, sums / weights.clamp(min=1e-9), estimate)


def _hints(gradient: Tensor) -> Tensor:
    """Roughness and place of every patch, (N, 3), scaled to be compared beside the colours."""
    size = (3 * SIDE**2) ** 0.5
    rough = F.avg_pool2d(gradient.clamp(0, 1).sqrt(), SIDE, 1)[0, 0]
    rows, columns = (torch.arange(n, dtype=rough.dtype, device=rough.device) for n in rough.shape)
    place = torch.stack(torch.meshgrid(rows, columns, indexing="ij"), -1).flatten(0, 1)
    return size * torch.cat([GRADIENT_WEIGHT**0.5 * rough.flatten()[:, None], place / REACH], 1)


def _sources(touched: Tensor) -> Tensor:
    """Numbers of the patches that are known altogether, or of some of them."""
    sources = (~touched).nonzero()[:, 0]
    if len(sources) <= MOST_SOURCES:
        return sources
    # Drawn, as a regular choice would favour some columns; always the same, on any device.
    order = torch.randperm(len(sources), generator=torch.Generator().manual_seed(0))
    return sources[order[:MOST_SOURCES].to(sources.device)]


def _targets(touched: Tensor, columns: int) -> Tensor:
    """Numbers of the patches that reach into the hole, on the grid of every second one."""
    targets = touched.nonzero()[:, 0]
    row, column = targets // columns, targets % columns
    return targets[(row % STRIDE == 0) & (column % STRIDE == 0)]


def _nearest(wanted: Tensor, offered: Tensor) -> Tensor:
    """Index of the nearest row of ``offered`` (M, D) for each of ``wanted`` (N, D)."""
    # Nearly all that sets patches apart lies along a few directions.
    _, directions = torch.linalg.eigh((offered - offered.mean(0)).T.cov())
    wanted, offered = (x @ directions[:, -DIRECTIONS:] for x in (wanted, offered))
    # Padded by rows at an infinite distance, to a whole number of groups.
    length = F.pad(offered.square().sum(1), (0, -len(offered) % GROUP), value=torch.inf)
    offered = F.pad(offered, (0, 0, 0, len(length) - len(offered))).T.contiguous()
    rows = max(1, COMPARED // len(length))
    costs = torch.empty(min(rows, len(wanted)), len(length)).to(wanted)
    found = []
    for part in wanted.split(rows):
        # Up to the length of the wanted row, which is the same for all offered ones.
        cost = torch.addmm(length, part, offered, alpha=-2, out=costs[: len(part)])
        # The best group first: a minimum is found several times faster than its place.
        cost = cost.unflatten(1, (-1, GROUP))
        group = cost.amin(2).argmin(1)
        within = cost[torch.arange(len(part), device=part.device), group].argmin(1)
        found.append(GROUP * group + within)
    return torch.cat(found) if found else torch.zeros(0, dtype=torch.long, device=wanted.device)
