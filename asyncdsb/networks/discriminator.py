"""Spectrally normalised patch discriminator of the gradient-completion step (Eq. 10)."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm


class PatchDiscriminator(nn.Module):
    """70x70 patch discriminator that also returns its features for feature matching.

    Args:
        in_channels: channels of the input, with the image that it is conditioned on.
        width: channels of the first layer; doubled up to eight times that.
    """

    def __init__(self, in_channels: int, width: int = 64):
        super().__init__()
        plan = [(in_channels, width, 2), (width, 2 * width, 2), (2 * width, 4 * width, 2)]
        plan += [(4 * width, 8 * width, 1)]
        self.features = nn.ModuleList(
            nn.Sequential(
                spectral_norm(nn.Conv2d(c_in, c_out, 4, stride=stride, padding=1)),
                nn.LeakyReLU(0.2, inplace=True),
            )
            for c_in, c_out, stride in plan
        )
        self.head = spectral_norm(nn.Conv2d(8 * width, 1, 4, padding=1))

    def forward(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Map (B, in_channels, H, W) to logits (B, 1, H/8 - 2, W/8 - 2) and the four features."""
        features = []
        for layer in self.features:
            x = layer(x)
            features.append(x)
        return self.head(x).float(), features
