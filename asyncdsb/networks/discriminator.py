"""Discriminators: of the gradient-completion step (Eq. 10), and of restored pictures."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm


class PatchDiscriminator(nn.Module):
    """70x70 patch discriminator that also returns its features for feature matching.

    Args:
        in_channels: channels of the input, the conditioning image included.
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


class FeatureDiscriminator(nn.Module):
    """Judges pictures by the features of a fixed network, stage by stage.

    Small heads on features that already tell textures apart learn within minutes, where a
    discriminator on pixels would need hours (projected GANs, Sauer et al. 2021).

    Args:
        channels: of each stage.
        width: channels within a head.
    """

    def __init__(self, channels: tuple[int, ...], width: int = 64):
        super().__init__()
        self.heads = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(count + 1, width, 1),
                nn.LeakyReLU(0.2, inplace=True),
                nn.Conv2d(width, width, 3, padding=1),
                nn.LeakyReLU(0.2, inplace=True),
                nn.Conv2d(width, 1, 1),
            )
            for count in channels
        )

    def forward(self, features: list[Tensor], mask: Tensor) -> list[Tensor]:
        """Logits of every stage, (B, 1, h, w); larger means more like a photo.

        Args:
            features: (B, C, h, w) of every stage, of unit length per pixel.
            mask: (B, 1, H, W) float, 1 = restored.
        """
        logits = []
        for head, values in zip(self.heads, features, strict=True):
            if values.shape[-1] > mask.shape[-1] // 2:
                values = F.avg_pool2d(values, 2)
            # Unit length per pixel is a variance of 1 / C.
            values = values * values.shape[1] ** 0.5
            where = F.adaptive_avg_pool2d(mask, values.shape[-2:])
            logits.append(head(torch.cat([values, where], 1)).float())
        return logits
