"""Generator and discriminator of the gradient completion (Eq. 9, Eq. 10), after EdgeConnect."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm


@dataclass(frozen=True)
class CompletionConfig:
    """Shape of the generator."""

    width: int = 32  # channels at full resolution; twice and four times that after each stride
    blocks: int = 8  # dilated residual blocks at a quarter of the resolution
    # Whether training normalises convolutions spectrally; export folds that into the weights.
    spectral: bool = True
    kind: ClassVar[str] = "edgeconnect"  # tells this configuration from others on disk

    stride: ClassVar[int] = 16
    """Heights and widths of inputs must be multiples of this, for the borders of dilated blocks."""

    def build(self, in_channels: int, out_channels: int, scalars: int) -> CompletionGenerator:
        """The network, which returns one map and needs no scalars."""
        return CompletionGenerator(self, in_channels)


class CompletionGenerator(nn.Module):
    """Encoder, residual blocks that look across the hole at a quarter of the size, and decoder."""

    def __init__(self, config: CompletionConfig, in_channels: int):
        super().__init__()
        wrap = spectral_norm if config.spectral else lambda module: module
        w = config.width

        def unit(conv: nn.Module, channels: int) -> list[nn.Module]:
            return [wrap(conv), nn.InstanceNorm2d(channels), nn.ReLU(inplace=True)]

        layers = unit(nn.Conv2d(in_channels, w, 7, padding=3, padding_mode="reflect"), w)
        layers += unit(nn.Conv2d(w, 2 * w, 4, stride=2, padding=1), 2 * w)
        layers += unit(nn.Conv2d(2 * w, 4 * w, 4, stride=2, padding=1), 4 * w)
        layers += [DilatedBlock(4 * w, wrap) for _ in range(config.blocks)]
        layers += unit(nn.ConvTranspose2d(4 * w, 2 * w, 4, stride=2, padding=1), 2 * w)
        layers += unit(nn.ConvTranspose2d(2 * w, w, 4, stride=2, padding=1), w)
        layers += [nn.Conv2d(w, 1, 7, padding=3, padding_mode="reflect")]
        self.layers = nn.Sequential(*layers)

    def forward(self, x: Tensor, scalars: Tensor) -> Tensor:
        """Map (B, in_channels, H, W), H and W multiples of 16, to (B, 1, H, W) logits."""
        return self.layers(x).float()


class DilatedBlock(nn.Module):
    """Residual block of a dilated and a plain 3x3 convolution with instance normalisation."""

    def __init__(self, channels: int, wrap):
        super().__init__()
        self.branch = nn.Sequential(
            wrap(nn.Conv2d(channels, channels, 3, padding=2, dilation=2, padding_mode="reflect")),
            nn.InstanceNorm2d(channels),
            nn.ReLU(inplace=True),
            wrap(nn.Conv2d(channels, channels, 3, padding=1, padding_mode="reflect")),
            nn.InstanceNorm2d(channels),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to the same shape."""
        return x + self.branch(x)


class PatchDiscriminator(nn.Module):
    """Spectrally normalised 70x70 patch discriminator; it also returns its features for matching.

    ``width`` is that of the first layer, doubled up to eight times that.
    """

    def __init__(self, in_channels: int, width: int):
        super().__init__()
        widths = (in_channels, width, 2 * width, 4 * width, 8 * width)
        self.features = nn.ModuleList(
            nn.Sequential(
                spectral_norm(nn.Conv2d(c_in, c_out, 4, stride=stride, padding=1)),
                nn.LeakyReLU(0.2, inplace=True),
            )
            for c_in, c_out, stride in zip(widths[:-1], widths[1:], (2, 2, 2, 1), strict=True)
        )
        self.head = spectral_norm(nn.Conv2d(8 * width, 1, 4, padding=1))

    def forward(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Map (B, in_channels, H, W) to logits (B, 1, H/8 - 2, W/8 - 2) and the four features."""
        features = []
        for layer in self.features:
            x = layer(x)
            features.append(x)
        return self.head(x).float(), features
