"""Networks: the bridge's UNet, the gradient-completion generator and its discriminator."""

from asyncdsb.networks.completion import CompletionConfig, CompletionGenerator
from asyncdsb.networks.discriminator import PatchDiscriminator
from asyncdsb.networks.unet import UNet, UNetConfig

__all__ = ["CompletionConfig", "CompletionGenerator", "PatchDiscriminator", "UNet", "UNetConfig"]
