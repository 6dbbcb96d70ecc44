"""Networks: the bridge's UNet and ADM, the gradient-completion generator and its discriminator."""

from asyncdsb.networks.adm import ADMConfig, ADMUNet
from asyncdsb.networks.completion import (
    CompletionConfig,
    CompletionGenerator,
    PatchDiscriminator,
)
from asyncdsb.networks.unet import UNet, UNetConfig

__all__ = [
    "ADMConfig",
    "ADMUNet",
    "CompletionConfig",
    "CompletionGenerator",
    "PatchDiscriminator",
    "UNet",
    "UNetConfig",
]
