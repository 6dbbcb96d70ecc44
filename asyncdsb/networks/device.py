"""What the device at hand can do, and how its arithmetic is chosen."""

from __future__ import annotations

import contextlib
import functools
from pathlib import Path

import torch
from torch import Tensor


def usable(device: str | torch.device | None) -> torch.device:
    """Return the device; None takes a GPU if there is one.

    Raises:
        ValueError: if torch cannot use it.
    """
    chosen = device or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        torch.empty(0, device=chosen)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        # Which of them depends on how torch was built.
        raise ValueError(f"expected a device that torch can use here, got {chosen!r}") from error
    return torch.device(chosen)


def multiplies_bf16(device: str | torch.device) -> bool:
    """Whether the device multiplies bf16 faster than float32.

    Of processors these are the ones with matrix tiles (AMX), and AMD's with the AVX-512
    instructions for bf16: one core of an EPYC (Zen 4) reached 110 GFLOP/s in float32 and 220 with
    them. The same instructions of a Xeon (Emerald Rapids) whose tiles were switched off are slower,
    90 GFLOP/s instead of 160.
    """
    if torch.device(device).type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if torch.cpu._is_amx_tile_supported():
        return True
    return torch.cpu._is_avx512_bf16_supported() and _made_by_amd()


def _made_by_amd() -> bool:
    """Whether the processor is AMD's, where Linux says so."""
    try:
        return "AuthenticAMD" in Path("/proc/cpuinfo").read_text()
    except OSError:
        return False


def chosen_precision(precision: str, device: str | torch.device) -> str:
    """What the networks multiply in, "bf16" or "fp32".

    Args:
        precision: one of these, or "auto" for bf16 where it is faster.
        device: of the networks.
    """
    if precision == "auto":
        return "bf16" if multiplies_bf16(device) else "fp32"
    return precision


@functools.cache
def compiles(device: str | torch.device) -> bool:
    """Whether torch can compile for the device, which it is asked once, in some seconds.

    It needs a C++ compiler and Python's headers for a CPU, a C compiler and Triton for a GPU.
    """
    try:
        torch.compile(lambda x: 2 * x.sin())(torch.zeros(16, device=device))
    except (RuntimeError, ImportError, OSError):
        # Which of them depends on what is missing.
        return False
    return True


def without_autocast(x: Tensor) -> contextlib.AbstractContextManager:
    """Keep products of ``x`` in its own type: what measures a picture is no layer to be rounded."""
    kind = x.device.type
    if not torch.amp.is_autocast_available(kind):  # The meta device, on which costs are counted.
        return contextlib.nullcontext()
    return torch.autocast(kind, enabled=False)
