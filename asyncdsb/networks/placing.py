"""Networks on a device: the type in which they multiply, their layout in memory, compilation."""

from __future__ import annotations

import torch
from torch import nn

from asyncdsb.networks.device import compiles

PRECISIONS = {"auto": None, "fp32": None, "bf16": torch.bfloat16}
"""Types in which the networks may multiply, all else being done in float32. "auto" is bf16 on a
device on which it is faster, else fp32."""


def check_precision(precision: str) -> None:
    """Raise ValueError unless it is one of :data:`PRECISIONS`."""
    if precision not in PRECISIONS:
        raise ValueError(f"expected a precision out of {', '.join(PRECISIONS)}, got {precision!r}")


def multiplying(precision: str, device: torch.device) -> torch.autocast:
    """The context in which networks multiply in this precision."""
    chosen = PRECISIONS[precision]
    return torch.autocast(device.type, chosen, enabled=chosen is not None)


def frozen(network: nn.Module, device: torch.device, channels_last: bool = False) -> None:
    """Put a network on a device, in place, to be used and not to be trained.

    Args:
        network: in any mode.
        device: where to run.
        channels_last: whether the channels of a pixel lie side by side, which convolutions like.
    """
    network.eval().requires_grad_(False)
    if channels_last:
        network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    else:
        network.to(device)


def compile_for(network: nn.Module, device: torch.device) -> None:
    """Compile a network in place, for every size when it first comes.

    Raises:
        ValueError: if nothing here can.
    """
    if not compiles(device):
        raise ValueError(
            "expected a compiler that torch can use for the network (g++ and Python's headers"
            " on a CPU, gcc and Triton on a GPU), found none"
        )
    # Dynamic sizes take longer than no compilation at all on a CPU, and fail for a batch.
    network.compile(dynamic=False)
