"""Muon (Jordan et al. 2024): momentum whose update matrices are orthogonalised.

torch.optim.Muon takes matrices only, and multiplies in bf16, which processors without matrix tiles
do slowly. This one takes the weights of convolutions too, in their own precision.
"""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

# Of the quintic iteration; its fixed points are near 1 for all singular values from 0.01 up.
COEFFICIENTS = (3.4445, -4.7750, 2.0315)
LEAST = 8  # Rows and columns below which a weight is no matrix worth orthogonalising.


def orthogonalised(matrix: Tensor) -> Tensor:
    """The nearest matrix with all singular values from 0.7 to 1.2, by Newton-Schulz iterations."""
    a, b, c = COEFFICIENTS
    x = matrix / (matrix.norm() + 1e-7)
    tall = len(x) > x.shape[1]
    x = x.T if tall else x
    # Every step multiplies x by a polynomial of its Gram matrix; such polynomials commute, so that
    # only small square matrices need be iterated.
    gram = x @ x.T
    product = one = torch.eye(len(x), dtype=x.dtype, device=x.device)
    for _ in range(5):
        factor = a * one + b * gram + c * gram @ gram
        product = factor @ product
        gram = factor @ gram @ factor
    x = product @ x
    return x.T if tall else x


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
            for parameter in group["params"]:
                gradient = parameter.grad
                if gradient is None:
                    continue
                if not self.state[parameter]:
                    self.state[parameter]["momentum"] = torch.zeros_like(parameter)
                momentum = self.state[parameter]["momentum"]
                momentum.mul_(group["momentum"]).add_(gradient)
                ahead = gradient.add(momentum, alpha=group["momentum"]).flatten(1)
                scale = max(1.0, len(ahead) / ahead.shape[1]) ** 0.5
                update = orthogonalised(ahead).reshape(parameter.shape)
                parameter.mul_(1 - group["lr"] * group["weight_decay"])
                parameter.add_(update, alpha=-group["lr"] * scale)
