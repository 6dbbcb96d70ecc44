"""Networks on a device: where they run, in which type they multiply, and compilation."""

import contextlib
import copy
import ctypes
import functools
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor, nn

AnyModule = TypeVar("AnyModule", bound=nn.Module)

PRECISIONS = {"auto": None, "fp32": None, "bf16": torch.bfloat16}
"""Types in which the networks may multiply; everything else runs in float32. "auto" is bf16 on a
device that multiplies it faster, else fp32."""


# Cached, because a copy to a device blocks; not in inference mode, because a training uses it too.
@functools.cache
@torch.inference_mode(False)
def per_channel(values: tuple[float, ...], device: torch.device, dtype: torch.dtype) -> Tensor:
    """One number for each of C channels, or one for all (C = 1), as a tensor (1, C, 1, 1)."""
    return torch.tensor(values, device=device, dtype=dtype).view(1, -1, 1, 1)


def usable(device: str | torch.device | None) -> torch.device:
    """The device, None taking a GPU if there is one; ValueError if torch cannot use it."""
    chosen = device or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        torch.empty(0, device=chosen)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        # Which of them depends on how torch was built.
        raise ValueError(f"expected a device that torch can use here, got {chosen!r}") from error
    return torch.device(chosen)


def multiplies_bf16(device: str | torch.device) -> bool:
    """Whether the device multiplies bf16 faster than float32.

    Processors with matrix tiles (AMX) do, and AMD's with AVX-512 BF16 (a core of Zen 4: 220 against
    110 GFLOP/s). A Xeon whose tiles are switched off is slower with the same instructions.
    """
    if torch.device(device).type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if torch.cpu._is_amx_tile_supported():
        return True
    cpuinfo = Path("/proc/cpuinfo")
    made_by_amd = cpuinfo.is_file() and "AuthenticAMD" in cpuinfo.read_text()
    return torch.cpu._is_avx512_bf16_supported() and made_by_amd


def chosen_precision(precision: str, device: str | torch.device) -> str:
    """The type, "bf16" or "fp32", for one of :data:`PRECISIONS` on a device, else ValueError."""
    if precision not in PRECISIONS:
        raise ValueError(f"expected a precision out of {', '.join(PRECISIONS)}, got {precision!r}")
    if precision == "auto":
        return "bf16" if multiplies_bf16(device) else "fp32"
    return precision


def multiplying(precision: str, device: torch.device) -> torch.autocast:
    """The context in which networks multiply in this precision."""
    return torch.autocast(device.type, PRECISIONS[precision], enabled=precision == "bf16")


def cast_layers(network: AnyModule, dtype: torch.dtype) -> AnyModule:
    """A copy whose linear and convolutional layers have their weights cast to ``dtype``.

    Autocast to ``dtype`` then gives the same results, bit by bit, without casting the weights in
    every evaluation, which takes a seventh of a restoration of 128 x 128 pixels on a processor with
    matrix tiles. The copy shares all other parameters and buffers with the network.
    """
    kept = {id(tensor): tensor for tensor in (*network.parameters(), *network.buffers())}
    for layer in network.modules():
        if isinstance(layer, nn.Linear | nn.Conv1d | nn.Conv2d):
            for parameter in layer.parameters(recurse=False):
                cast = parameter.detach().to(dtype)
                kept[id(parameter)] = nn.Parameter(cast, requires_grad=False)
    return copy.deepcopy(network, kept)


def without_autocast(x: Tensor) -> contextlib.AbstractContextManager:
    """The context in which products of ``x`` keep its type, for arithmetic outside networks."""
    kind = x.device.type
    if not torch.amp.is_autocast_available(kind):  # The meta device, which counts costs.
        return contextlib.nullcontext()
    return torch.autocast(kind, enabled=False)


@functools.cache
def compiles(device: str | torch.device) -> bool:
    """Whether torch can compile for the device. The first call tries it and takes some seconds."""
    try:
        torch.compile(lambda x: 2 * x.sin())(torch.zeros(16, device=device))
    except (RuntimeError, ImportError, OSError):
        # Which of them depends on what is missing.
        return False
    return True


def compile_for(network: nn.Module, device: torch.device) -> None:
    """Compile a network in place, each input size when it first comes; ValueError if that fails."""
    if not compiles(device):
        raise ValueError(
            "expected a compiler that torch can use for the network (g++ and Python's headers"
            " on a CPU, gcc and Triton on a GPU), found none"
        )
    # Dynamic sizes take longer than no compilation at all on a CPU, and fail for a batch.
    network.compile(dynamic=False)


def keep_freed(arenas: int | None = None) -> None:
    """Keep freed feature maps for the next layer instead of handing them back to the system.

    Fetching each page anew takes a seventh of the time of a restoration on a processor. Up to
    512 MiB stay at the end of a heap; blocks of more than 32 MiB, the library's limit, still come
    and go. Does nothing without the GNU C library. All threads share ``arenas`` heaps, by default
    as many as the library chooses; each keeps the largest block that it ever held.
    """
    with contextlib.suppress(OSError, AttributeError):
        mallopt = ctypes.CDLL("libc.so.6").mallopt
        # M_MMAP_THRESHOLD and M_TRIM_THRESHOLD: setting one ends the library's adjustment of both.
        mallopt(-3, 32 * 2**20)
        mallopt(-1, 512 * 2**20)
        if arenas is not None:
            mallopt(-8, arenas)  # M_ARENA_MAX
