"""The UNet of guided diffusion (ADM; Dhariwal and Nichol 2021), which I2SB starts from.

Layers, order of operations and names of the parameters are those of the published networks, so that
their files fit as they are (``python -m train.import_adm``).
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from asyncdsb.networks.layers import (
    Doubled,
    Modulated,
    Stage,
    attend,
    check_size,
    count_heads,
    group_norm,
    sinusoidal_embedding,
    zero_init,
)

INTERVALS = 1000  # Steps into which I2SB divides the time from 0 to 1.


@dataclass(frozen=True)
class ADMConfig:
    """Shape of an ADM network; the default is the published unconditional one for 256 pixels.

    Its fields are those of :class:`asyncdsb.networks.unet.UNetConfig`.
    """

    width: int = 256
    multipliers: tuple[int, ...] = (1, 1, 2, 2, 4, 4)
    blocks: int = 2
    attention: tuple[bool, ...] = (False, False, False, True, True, True)
    head_channels: int = 64
    dropout: float = 0.0
    kind: str = field(default="adm", init=False)

    @property
    def stride(self) -> int:
        """Heights and widths of input pictures must be multiples of this."""
        return 2 ** (len(self.multipliers) - 1)

    def build(self, in_channels: int, out_channels: int, scalars: int) -> ADMUNet:
        """The network; it sees the first of the scalars alone."""
        return ADMUNet(self, in_channels, out_channels)


class ADMUNet(nn.Module):
    """The ADM network over images and one time per sample.

    Attributes:
        checkpointing: whether a backward pass computes the features of each stage again instead of
            keeping them: a third more arithmetic for a fraction of the memory.
    """

    def __init__(self, config: ADMConfig, in_channels: int, out_channels: int):
        super().__init__()
        self.config, self.in_channels = config, in_channels
        self.checkpointing = False
        widths = [config.width * m for m in config.multipliers]
        embedding, channels = 4 * config.width, widths[0]

        def block(channels_in: int, channels: int, *resize: nn.Module) -> ADMResBlock:
            return ADMResBlock(channels_in, channels, embedding, config.dropout, *resize)

        def stage(channels_in: int, level: int) -> Stage:
            parts = Stage([block(channels_in, widths[level])])
            if config.attention[level]:
                parts.append(ADMAttention(widths[level], config.head_channels))
            return parts

        # The order in which parts are registered is that of the parameters in I2SB's averages.
        self.time_embed = nn.Sequential(
            nn.Linear(config.width, embedding), nn.SiLU(), nn.Linear(embedding, embedding)
        )
        stem = nn.Conv2d(in_channels, channels, 3, padding=1)
        self.input_blocks, skips = nn.ModuleList([Stage([stem])]), [channels]
        for level, width in enumerate(widths):
            for _ in range(config.blocks):
                self.input_blocks.append(stage(channels, level))
                channels = width
                skips.append(channels)
            if level < len(widths) - 1:
                self.input_blocks.append(Stage([block(channels, channels, nn.AvgPool2d(2))]))
                skips.append(channels)
        self.middle_block = Stage(
            [
                block(channels, channels),
                ADMAttention(channels, config.head_channels),
                block(channels, channels),
            ]
        )
        self.output_blocks = nn.ModuleList()
        for level in reversed(range(len(widths))):
            for last in (False,) * config.blocks + (True,):
                parts = stage(channels + skips.pop(), level)
                channels = widths[level]
                if last and level > 0:
                    parts.append(block(channels, channels, Doubled()))
                self.output_blocks.append(parts)
        self.out = nn.Sequential(
            group_norm(channels),
            nn.SiLU(),
            zero_init(nn.Conv2d(channels, out_channels, 3, padding=1)),
        )

    def forward(self, x: Tensor, scalars: Tensor) -> Tensor:
        """Map (B, in_channels, H, W), H and W multiples of the stride, to (B, out_channels, H, W).

        Of the scalars, (B, at least 1) in [0, 1], the first is the time, see :func:`noise_level`;
        the network does not see the others. The output is float32.
        """
        check_size(x, self.config.stride)
        level = noise_level(scalars[:, 0])
        embedding = self.time_embed(sinusoidal_embedding(level, self.config.width))
        h, skips = x, []
        for stage in self.input_blocks:
            h = self._run(stage, h, embedding)
            skips.append(h)
        h = self._run(self.middle_block, h, embedding)
        for stage in self.output_blocks:
            h = self._run(stage, torch.cat([h, skips.pop()], dim=1), embedding)
        return self.out(h).float()

    def _run(self, stage: nn.Module, h: Tensor, embedding: Tensor) -> Tensor:
        if self.checkpointing and torch.is_grad_enabled():
            return checkpoint(stage, h, embedding, use_reentrant=False)
        return stage(h, embedding)


def noise_level(t: Tensor) -> Tensor:
    """Input of I2SB's network for times t (B,) in [0, 1]: levels in [1e-4, 1], in thousands.

    I2SB numbers the ends of its 1000 intervals n = 0 ... 999, so that t = (n + 1) / 1000 has the
    variance of step n; its network gets ``1000 (1e-4 + (1 - 1e-4) n / 999)`` for it. Between
    steps this is the line through them. Below the first step, which I2SB never sees, the level
    stays.
    """
    share = (t - 1 / INTERVALS) / (1 - 1 / INTERVALS)
    return 1e-4 + (1 - 1e-4) * share.clamp(min=0)


class ADMResBlock(Modulated):
    """Residual block; ``resize`` changes the resolution of both branches before they convolve."""

    def __init__(
        self, channels_in: int, channels: int, embedding: int, dropout: float, *resize: nn.Module
    ):
        super().__init__()
        self.resize = nn.Sequential(*resize)
        self.in_layers = nn.Sequential(
            group_norm(channels_in), nn.SiLU(), nn.Conv2d(channels_in, channels, 3, padding=1)
        )
        self.emb_layers = nn.Sequential(nn.SiLU(), nn.Linear(embedding, 2 * channels))
        self.out_layers = nn.Sequential(
            group_norm(channels),
            nn.SiLU(),
            nn.Dropout(dropout),
            zero_init(nn.Conv2d(channels, channels, 3, padding=1)),
        )
        self.skip_connection = (
            nn.Identity() if channels_in == channels else nn.Conv2d(channels_in, channels, 1)
        )

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        """Map (B, channels_in, H, W) and (B, embedding) to (B, channels, H', W')."""
        norm, activation, conv = self.in_layers
        h = conv(self.resize(activation(norm(x))))
        scale, shift = self.emb_layers(embedding)[:, :, None, None].chunk(2, dim=1)
        norm, activation, dropout, conv = self.out_layers
        h = norm(h) * (1 + scale) + shift
        return self.skip_connection(self.resize(x)) + conv(dropout(activation(h)))


class ADMAttention(nn.Module):
    """Multi-head self-attention; channels are ordered by head first, then query, key, value."""

    def __init__(self, channels: int, head_channels: int):
        super().__init__()
        self.heads = count_heads(channels, head_channels)
        self.norm = group_norm(channels)
        self.qkv = nn.Conv1d(channels, 3 * channels, 1)
        self.proj_out = zero_init(nn.Conv1d(channels, channels, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to the same shape."""
        flat = x.flatten(2)
        qkv = self.qkv(self.norm(flat)).unflatten(1, (self.heads, 3, -1))
        return x + self.proj_out(attend(*qkv.unbind(2))).unflatten(2, x.shape[2:])
