"""Networks: the bridge's UNet and ADM, the gradient-completion generator and its discriminator."""

from asyncdsb.networks.adm import ADMConfig as ADMConfig
from asyncdsb.networks.adm import ADMUNet as ADMUNet
from asyncdsb.networks.completion import CompletionConfig as CompletionConfig
from asyncdsb.networks.completion import PatchDiscriminator as PatchDiscriminator
from asyncdsb.networks.unet import UNet as UNet
from asyncdsb.networks.unet import UNetConfig as UNetConfig
