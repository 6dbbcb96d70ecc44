"""Muon (Jordan et al. 2024): momentum whose update matrices are orthogonalised.

torch.optim.Muon takes matrices only, and multiplies in bf16, which processors without matrix tiles
do slowly. This one takes the weights of convolutions too, in their own precision.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

# Of the quintic iteration: five steps bring all singular values from 0.01 up near 1.
COEFFICIENTS = (3.4445, -4.7750, 2.0315)
LEAST = 8  # Rows and columns below which a weight is no matrix worth orthogonalising.


def orthogonalised(matrices: Sequence[Tensor]) -> list[Tensor]:
    """For each matrix (n, m) the nearest with singular values from 0.7 to 1.2.

    Newton-Schulz iterations X <- (a + b G + c G^2) X with G = X X^T, from X / |X|.
    """
    wide = [x.T if len(x) > x.shape[1] else x for x in matrices]
    norms = torch._foreach_norm(wide)
    torch._foreach_add_(norms, 1e-7)
    wide = [*torch._foreach_div(wide, norms)]
    by_side: dict[int, list[int]] = {}
    for index, x in enumerate(wide):
        by_side.setdefault(len(x), []).append(index)
    for indices in by_side.values():
        # Every step multiplies x by a polynomial of its Gram matrix; such polynomials commute, so
        # that only small square matrices need be iterated, those of one side together.
        polynomials = _polynomials(torch.stack([wide[i] @ wide[i].T for i in indices]))
        for i, polynomial in zip(indices, polynomials, strict=True):
            wide[i] = polynomial @ wide[i]
    return [x.T if len(m) > m.shape[1] else x for m, x in zip(matrices, wide, strict=True)]


def _polynomials(grams: Tensor) -> Tensor:
    """What five steps multiply matrices by, from their Gram matrices, both (K, n, n)."""
    a, b, c = COEFFICIENTS
    product = one = torch.eye(grams.shape[-1], dtype=grams.dtype, device=grams.device)
    for _ in range(5):
        factor = torch.baddbmm(a * one + b * grams, grams, grams, alpha=c)
        product = factor @ product
        grams = factor @ grams @ factor
    return product


def split(parameters: Iterable[nn.Parameter]) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """The weights of linear layers and of convolutions, which :class:`Muon` takes, and the rest."""
    matrices: list[nn.Parameter] = []
    others: list[nn.Parameter] = []
    for p in parameters:
        large = p.ndim >= 2 and min(len(p), p[0].numel()) >= LEAST
        (matrices if large else others).append(p)
    return matrices, others


class Muon(torch.optim.Optimizer):
    """Nesterov momentum, each update orthogonalised as a matrix (output, all inputs).

    It takes what :func:`split` puts first. ``lr`` is the step of every singular direction, for
    matrices at least as wide as high; the decay is decoupled.
    """

    def __init__(
        self, parameters: Any, lr: float = 0.03, momentum: float = 0.9, weight_decay: float = 0.0
    ):
        super().__init__(parameters, dict(lr=lr, momentum=momentum, weight_decay=weight_decay))

    @torch.no_grad()
    def step(self, closure: Callable | None = None) -> None:
        """Update all parameters that have a gradient."""
        for group in self.param_groups:
            if not (learning := [p for p in group["params"] if p.grad is not None]):
                continue
            for parameter in learning:
                if not self.state[parameter]:
                    self.state[parameter]["momentum"] = torch.zeros_like(parameter)
            gradients = [p.grad for p in learning]
            momenta = [self.state[p]["momentum"] for p in learning]
            torch._foreach_mul_(momenta, group["momentum"])
            torch._foreach_add_(momenta, gradients)
            ahead = torch._foreach_add(gradients, momenta, alpha=group["momentum"])
            updates = orthogonalised([x.flatten(1) for x in ahead])
            torch._foreach_mul_(learning, 1 - group["lr"] * group["weight_decay"])
            for parameter, update in zip(learning, updates, strict=True):
                scale = max(1.0, len(update) / update.shape[1]) ** 0.5
                parameter.add_(update.reshape(parameter.shape), alpha=-group["lr"] * scale)
