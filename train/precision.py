"""How a trainer uses its device: mixed precision and compilation."""

from __future__ import annotations

import contextlib

import torch

from asyncdsb.device import compiles as can_compile
from asyncdsb.device import multiplies_bf16
from train.presets import Preset


def precision(preset: Preset, device: str | torch.device) -> str:
    """What the networks multiply in, "bf16" or "fp32"; "auto" is bf16 where the device can."""
    if preset.precision == "auto":
        return "bf16" if multiplies_bf16(device) else "fp32"
    return preset.precision


def autocast(preset: Preset, device: str | torch.device) -> contextlib.AbstractContextManager:
    """Mixed precision, if :func:`precision` says so."""
    if precision(preset, device) == "fp32":
        return contextlib.nullcontext()
    return torch.autocast(torch.device(device).type, dtype=torch.bfloat16)


def compiles(preset: Preset, device: str | torch.device) -> bool:
    """Whether to compile the network: as the preset asks for, where that works."""
    return preset.compile and can_compile(device)
