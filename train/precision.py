"""How a trainer uses its device: mixed precision and compilation."""

from __future__ import annotations

import contextlib
import os
import shutil

import torch

from train.presets import Preset


def autocast(preset: Preset, device: str | torch.device) -> contextlib.AbstractContextManager:
    """Mixed precision as the preset asks for; "auto" is bf16 where :func:`multiplies_bf16`."""
    wanted = preset.precision
    if wanted == "auto":
        wanted = "bf16" if multiplies_bf16(device) else "fp32"
    if wanted == "fp32":
        return contextlib.nullcontext()
    return torch.autocast(torch.device(device).type, dtype=torch.bfloat16)


def multiplies_bf16(device: str | torch.device) -> bool:
    """Whether the device has instructions that multiply bf16; emulated, it is slower than fp32."""
    if torch.device(device).type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()


def compiles(preset: Preset, device: str | torch.device) -> bool:
    """Whether to compile the network: on a GPU as asked, on a CPU if there is a C++ compiler."""
    found = torch.device(device).type == "cuda" or shutil.which(os.environ.get("CXX", "g++"))
    return preset.compile and bool(found)
