"""How a trainer uses its device: mixed precision and compilation."""

from __future__ import annotations

import contextlib

import torch

from asyncdsb.networks.device import chosen_precision
from asyncdsb.networks.device import compiles as can_compile
from train.presets import Preset


def precision(preset: Preset, device: str | torch.device) -> str:
    """What the networks multiply in, "bf16" or "fp32"; "auto" is bf16 where the device can."""
    return chosen_precision(preset.precision, device)


def autocast(preset: Preset, device: str | torch.device) -> contextlib.AbstractContextManager:
    """Mixed precision, if :func:`precision` says so."""
    if precision(preset, device) == "fp32":
        return contextlib.nullcontext()
    return torch.autocast(torch.device(device).type, dtype=torch.bfloat16)


def compiles(preset: Preset, device: str | torch.device, tell: bool = True) -> bool:
    """Whether to compile the network: as the preset asks for, where that works.

    Args:
        preset: of the run.
        device: of the run.
        tell: whether to print what is missing where it does not work.
    """
    if not preset.compile or can_compile(device):
        return preset.compile
    if tell:
        gpu = torch.device(device).type == "cuda"
        needed = "gcc and Triton" if gpu else "g++ and Python's headers (python3-dev)"
        print(f"torch cannot compile here, which needs {needed}: going on without, more slowly")
    return False
