"""Image gradients and their completion inside the hole (step 1 of the paper, Eq. 9 and Eq. 10)."""

import functools
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from asyncdsb.networks import CompletionConfig, UNetConfig
from asyncdsb.networks.device import per_channel, without_autocast
from asyncdsb.networks.layers import pixel_position


def luma_weights(device: torch.device, dtype: torch.dtype) -> Tensor:
    """ITU-R BT.601 weights of red, green and blue, (1, 3, 1, 1)."""
    return per_channel((0.299, 0.587, 0.114), device, dtype)


@functools.cache  # For the reasons given at per_channel.
@torch.inference_mode(False)
def _sobel(device: torch.device, dtype: torch.dtype) -> Tensor:
    """Kernels of the horizontal and the vertical slope, (2, 1, 3, 3)."""
    smooth = torch.tensor([1.0, 2.0, 1.0], device=device, dtype=dtype) / 4
    slope = torch.tensor([-1.0, 0.0, 1.0], device=device, dtype=dtype)
    return torch.stack([smooth[:, None] * slope, slope[:, None] * smooth])[:, None]


def image_gradient(image: Tensor) -> Tensor:
    """Sobel gradient magnitude (B, 1, H, W) in [0, 1] of the luma of (B, 3, H, W) in [-1, 1].

    A vertical or horizontal edge from black to white has magnitude 1; steeper (diagonal) responses,
    at most 6 % above it, are clamped.
    """
    weights, kernels = (make(image.device, image.dtype) for make in (luma_weights, _sobel))
    luma = (weights * image).sum(1, keepdim=True) / 2  # differences only: range 1, offset free
    with without_autocast(image):
        xy = F.conv2d(F.pad(luma, (1, 1, 1, 1), mode="replicate"), kernels)
    return (xy**2).sum(1, keepdim=True).sqrt().clamp(max=1)


def known_gradient(image: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Gradient of (B, 3, H, W) in [-1, 1] where the operator saw known pixels only.

    Returns the map, 0 where unknown, and the mask of where it is unknown: the hole of ``mask`` (1 =
    missing), one pixel wider. All are (B, 1, H, W).
    """
    unknown = F.max_pool2d(mask, 3, stride=1, padding=1)
    return image_gradient(image * (1 - mask)) * (1 - unknown), unknown


@dataclass(frozen=True)
class GradientConfig:
    """Everything that fixes a trained gradient completion."""

    # EdgeConnect's, as in the paper, or the bridge's UNet, which sees the whole picture by
    # attention and costs less.
    generator: CompletionConfig | UNetConfig = field(default_factory=CompletionConfig)
    position: bool = False  # whether it sees where in the picture a pixel lies


class GradientCompletion(nn.Module):
    """Predicts the gradient map of the hole from what is known around it (Eq. 9).

    The generator sees the corrupted image (zero in the hole), the mask and the corrupted gradient.
    It works on square roots of gradients, because natural gradients crowd near zero.
    """

    def __init__(self, config: GradientConfig):
        super().__init__()
        self.config = config
        self.generator = config.generator.build(5 + 2 * config.position, 1, scalars=1)

    def companded(self, image: Tensor, mask: Tensor) -> Tensor:
        """Square root of the map that is predicted over the whole picture, for the losses."""
        seen = [image * (1 - mask), mask, known_gradient(image, mask)[0].sqrt()]
        if self.config.position:
            seen.append(pixel_position(mask))
        return self.generator(torch.cat(seen, dim=1), mask.mean((1, 2, 3))[:, None]).sigmoid()

    def forward(self, image: Tensor, mask: Tensor) -> Tensor:
        """Complete the map (B, 1, H, W) in [0, 1]: known values kept, the rest predicted.

        ``image`` is (B, 3, H, W) in [-1, 1], H and W multiples of the generator's stride; what it
        holds in the hole of ``mask``, (B, 1, H, W) float, 1 = missing, does not matter.
        """
        gradient, unknown = known_gradient(image, mask)
        return torch.where(unknown > 0.5, self.companded(image, mask) ** 2, gradient)
