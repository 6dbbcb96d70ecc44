"""Exact search for the nearest out of many rows."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

COMPARED = 2**21  # costs held in memory at once: few enough for a processor's cache
GROUP = 64  # offered rows whose best is found at once


class Nearest:
    """Finds, out of offered rows o (M, D), the nearest to each row w: least ``length - 2 w o``.

    ``length`` (M,) are the squared lengths ``|o|^2``, or others in their place.
    """

    def __init__(self, offered: Tensor, length: Tensor):
        # Padded by rows at an infinite distance, to a whole number of groups.
        more = -len(offered) % GROUP
        self.length = F.pad(length, (0, more), value=torch.inf)
        self.columns = F.pad(offered, (0, 0, 0, more)).T.contiguous()

    def __call__(self, wanted: Tensor) -> Tensor:
        """Index (N,) of the nearest row for each of (N, D)."""
        rows = max(1, COMPARED // len(self.length))
        costs = torch.empty(min(rows, len(wanted)), len(self.length)).to(wanted)
        found = []
        for part in wanted.split(rows):
            # Up to the length of the wanted row, which is the same for all offered ones.
            out = costs[: len(part)]
            cost = torch.addmm(self.length, part, self.columns, alpha=-2, out=out)
            # The best group first: a minimum is found several times faster than its place.
            cost = cost.unflatten(1, (-1, GROUP))
            group = cost.amin(2).argmin(1)
            within = cost[torch.arange(len(part), device=part.device), group].argmin(1)
            found.append(GROUP * group + within)
        return torch.cat(found)
