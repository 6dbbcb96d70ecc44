"""Networks with random weights, for tests and for trying out an installation."""

from __future__ import annotations

import torch

from asyncdsb.denoiser import BridgeConfig, BridgeDenoiser
from asyncdsb.gradient import GradientCompletion, GradientConfig
from asyncdsb.networks import CompletionConfig, UNetConfig


def untrained_pair(seed: int) -> tuple[BridgeDenoiser, GradientCompletion]:
    """Both networks, tiny; torch's own random state stays as it is."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        unet = UNetConfig(16, (1, 2), 1, (False, True), head_channels=16)
        denoiser = BridgeDenoiser(BridgeConfig(unet=unet))
        for parameter in denoiser.unet.get_submodule("head").parameters():
            torch.nn.init.normal_(parameter, std=0.02)
        generator = CompletionConfig(width=4, blocks=1)
        return denoiser, GradientCompletion(GradientConfig(generator))
