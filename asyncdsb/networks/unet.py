"""The bridge's UNet: one class, from a few hundred thousand parameters up to ADM size."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from asyncdsb.networks.layers import (
    Doubled,
    ResBlock,
    SelfAttention,
    Stage,
    check_size,
    group_norm,
    sinusoidal_embedding,
    zero_init,
)


@dataclass(frozen=True)
class UNetConfig:
    """Shape of a UNet; levels are in order from the finest."""

    width: int = 64  # channels of the finest level
    multipliers: tuple[int, ...] = (1, 2, 3, 4)  # channels of each level in multiples of ``width``
    # Residual blocks on the way down (one more on the way up), of all levels or of each.
    blocks: int | tuple[int, ...] = 1
    attention: tuple[bool, ...] = (False, False, False, True)  # whether it follows a level's blocks
    head_channels: int = 32  # of an attention head
    # Side of the pixel-unshuffle before the first convolution (1 for none): 2 costs a quarter.
    patch: int = 2
    dropout: float = 0.0  # its probability, in the residual blocks
    kind: str = field(default="unet", init=False)  # tells this configuration from others on disk

    def __post_init__(self) -> None:
        assert len(self.blocks_of_levels) == len(self.multipliers) == len(self.attention), self

    @property
    def blocks_of_levels(self) -> tuple[int, ...]:
        """Residual blocks of each level on the way down, finest first."""
        if isinstance(self.blocks, int):
            return (self.blocks,) * len(self.multipliers)
        return self.blocks

    @property
    def stride(self) -> int:
        """Heights and widths of input pictures must be multiples of this."""
        return self.patch * 2 ** (len(self.multipliers) - 1)

    def build(self, in_channels: int, out_channels: int, scalars: int) -> UNet:
        """The network."""
        return UNet(self, in_channels, out_channels, scalars)


class UNet(nn.Module):
    """UNet over images and a few scalars per sample."""

    def __init__(self, config: UNetConfig, in_channels: int, out_channels: int, scalars: int):
        super().__init__()
        self.config, self.in_channels = config, in_channels
        widths = [config.width * m for m in config.multipliers]
        embedding = 4 * config.width
        blocks = config.blocks_of_levels
        self.embed = nn.Sequential(
            nn.Linear(scalars * config.width, embedding),
            nn.SiLU(),
            nn.Linear(embedding, embedding),
            nn.SiLU(),
        )

        def stage(channels_in: int, level: int) -> Stage:
            block = ResBlock(channels_in, widths[level], embedding, config.dropout)
            if not config.attention[level]:
                return Stage([block])
            return Stage([block, SelfAttention(widths[level], config.head_channels)])

        area = config.patch**2
        self.stem = nn.Conv2d(in_channels * area, widths[0], 3, padding=1)
        self.down, self.downsample, skips = nn.ModuleList(), nn.ModuleList(), [widths[0]]
        channels = widths[0]
        for level, width in enumerate(widths):
            for _ in range(blocks[level]):
                self.down.append(stage(channels, level))
                channels = width
                skips.append(channels)
            if level < len(widths) - 1:
                self.downsample.append(nn.Conv2d(channels, channels, 3, stride=2, padding=1))
                skips.append(channels)

        self.middle = Stage(
            [
                ResBlock(channels, channels, embedding, config.dropout),
                SelfAttention(channels, config.head_channels),
                ResBlock(channels, channels, embedding, config.dropout),
            ]
        )

        self.up, self.upsample = nn.ModuleList(), nn.ModuleList()
        for level in reversed(range(len(widths))):
            for _ in range(blocks[level] + 1):
                self.up.append(stage(channels + skips.pop(), level))
                channels = widths[level]
            if level > 0:
                # Mixed before the nearest-neighbour copy: a quarter of the arithmetic, same result.
                self.upsample.append(nn.Conv2d(channels, widths[level - 1], 1))
                channels = widths[level - 1]
        self.doubled = Doubled()
        self.norm = group_norm(channels)
        # Most of a denoiser's output is a linear filter of its input, with a gain that depends on
        # the noise level: the input goes to the head directly, not through the normalised features.
        self.gain = zero_init(nn.Linear(embedding, in_channels * area))
        self.head = zero_init(
            nn.Conv2d(channels + in_channels * area, out_channels * area, 3, padding=1)
        )

    def forward(self, x: Tensor, scalars: Tensor) -> Tensor:
        """Map (B, in_channels, H, W), H and W multiples of the stride, to (B, out_channels, H, W).

        Scalars are (B, scalars) in [0, 1], the output is float32.
        """
        check_size(x, self.config.stride)
        embedding = self.embed(
            torch.cat([sinusoidal_embedding(v, self.config.width) for v in scalars.unbind(1)], 1)
        )
        # In the layout of the layers at once: stem and head would each copy it.
        x = F.pixel_unshuffle(x, self.config.patch).contiguous(memory_format=torch.channels_last)
        h = self.stem(x)
        skips, blocks = [h], iter(self.down)
        for level in range(len(self.config.multipliers)):
            for _ in range(self.config.blocks_of_levels[level]):
                h = next(blocks)(h, embedding)
                skips.append(h)
            if level < len(self.downsample):
                h = self.downsample[level](h)
                skips.append(h)
        h = self.middle(h, embedding)
        blocks = iter(self.up)
        for level, count in enumerate(reversed(self.config.blocks_of_levels)):
            for _ in range(count + 1):
                h = next(blocks)(torch.cat([h, skips.pop()], dim=1), embedding)
            if level < len(self.upsample):
                h = self.doubled(self.upsample[level](h))
        direct = x * (1 + self.gain(embedding)[:, :, None, None])
        out = self.head(torch.cat([F.silu(self.norm(h)), direct], dim=1))
        # Contiguous, because mixed layouts make the arithmetic on it several times slower.
        return F.pixel_shuffle(out, self.config.patch).float().contiguous()
