"""Where weights come from: the project itself, a folder, the Hub, or random numbers."""

from __future__ import annotations

from pathlib import Path

import torch

from asyncdsb.denoiser import BridgeConfig, BridgeDenoiser
from asyncdsb.gradient import GradientCompletion, GradientConfig
from asyncdsb.networks import CompletionConfig, UNetConfig
from asyncdsb.store import hub


def shipped(name: str) -> Path:
    """A folder of the project's files: in the package of a wheel, beside that of a checkout."""
    package = Path(__file__).resolve().parent.parent
    return package / name if (package / name).is_dir() else package.parent / "assets" / name


BUNDLED = shipped("weights")
"""Folder of the project's weights."""

BUNDLED_NAMES = ("scenes", "portraits")
"""Bundled weights, each a folder in :data:`BUNDLED`. The first are the default."""


def weights_folder(source: str | Path | None, revision: str | None = None) -> Path:
    """Find the weights of :meth:`asyncdsb.AsyncDSBPipeline.from_pretrained`, fetch if need be."""
    source = BUNDLED_NAMES[0] if source is None else source
    bundled = source in BUNDLED_NAMES
    folder = BUNDLED / source if bundled else Path(source)
    if folder.is_dir():
        return folder
    if bundled:
        raise ValueError(f"weights not found: expected the bundled weights in {folder}")
    return hub.download(str(source), revision)


def untrained_pair(seed: int) -> tuple[BridgeDenoiser, GradientCompletion]:
    """Both networks, tiny, with random weights; torch's random state stays as it is."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        unet = UNetConfig(16, (1, 2), 1, (False, True), head_channels=16)
        denoiser = BridgeDenoiser(BridgeConfig(unet=unet))
        for parameter in denoiser.unet.get_submodule("head").parameters():
            torch.nn.init.normal_(parameter, std=0.02)
        generator = CompletionConfig(width=4, blocks=1)
        return denoiser, GradientCompletion(GradientConfig(generator))
