"""Building blocks of the networks."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from asyncdsb.networks.device import without_autocast


class GroupNorm(nn.GroupNorm):
    """torch's GroupNorm, with another program for compilation on a processor.

    For a processor torch 2.13.0 compiles its own into copies to channels first and back; this
    program keeps channels last in memory.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to the same shape: weight (x - E x) / sqrt(Var x + eps) + bias.

        Mean E and variance Var are those of a group of channels, over all pixels of a sample.
        """
        if x.device.type != "cpu" or not torch.compiler.is_compiling():
            return super().forward(x)
        pixels = x.permute(0, 2, 3, 1).flatten(1, 2).float()
        channels = self.num_channels // self.num_groups  # of a group
        groups = torch.eye(self.num_groups).repeat_interleave(channels, 1)  # (groups, C)
        # By matrix products, because the compiler would repeat anything cheaper for every pixel.
        with without_autocast(x):
            moments = torch.cat([pixels.mean(1), pixels.square().mean(1)])
            mean, square = (moments @ groups.T @ groups / channels).chunk(2)
        variance = (square - mean.square()).clamp(min=0)  # Rounding may make it negative.
        scale = (variance + self.eps).rsqrt() * self.weight
        shift = self.bias - mean * scale
        normal = pixels * scale[:, None] + shift[:, None]
        return normal.to(x.dtype).unflatten(1, x.shape[2:]).permute(0, 3, 1, 2)


def group_norm(channels: int) -> GroupNorm:
    """GroupNorm with 32 groups, or with as many as divide the channels."""
    return GroupNorm(math.gcd(32, channels), channels)


class Doubled(nn.Module):
    """Nearest-neighbour copy to twice the size.

    Not ``F.interpolate``: its backward pass, compiled for a processor in bf16 (torch 2.13.0), gave
    gradients of exactly zero, so that nothing below a copy learned.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to (B, C, 2H, 2W), channels last in memory."""
        b, c, h, w = x.shape
        copies = x.permute(0, 2, 3, 1)[:, :, None, :, None].expand(b, h, 2, w, 2, c)
        return copies.reshape(b, 2 * h, 2 * w, c).permute(0, 3, 1, 2)


def zero_init(module: nn.Module) -> nn.Module:
    """Set all parameters to zero, so that the branch starts as the identity."""
    for parameter in module.parameters():
        nn.init.zeros_(parameter)
    return module


def sinusoidal_embedding(x: Tensor, channels: int) -> Tensor:
    """Cosines and sines of ``1000 x`` at geometrically spaced periods up to 10,000.

    Maps (B,) values in [0, 1] to (B, channels) in [-1, 1], channels being even.
    """
    half = channels // 2
    steps = torch.arange(half, device=x.device, dtype=torch.float32) / half
    angles = 1000 * x.float()[:, None] * torch.exp(-math.log(10_000) * steps)
    return torch.cat([angles.cos(), angles.sin()], dim=1)


def pixel_position(mask: Tensor) -> Tensor:
    """Row and column of each pixel, from -1 to 1, (B, 2, H, W)."""
    sides = (torch.linspace(-1, 1, side, device=mask.device) for side in mask.shape[2:])
    return torch.stack(torch.meshgrid(*sides, indexing="ij")).expand(len(mask), -1, -1, -1)


def check_size(x: Tensor, stride: int) -> None:
    """Raise ValueError unless height and width of (B, C, H, W) are multiples of ``stride``."""
    if x.shape[2] % stride or x.shape[3] % stride:
        raise ValueError(f"expected H and W as multiples of {stride}, got {tuple(x.shape)}")


def count_heads(channels: int, head_channels: int) -> int:
    """Number of attention heads; ValueError unless the channels divide among them."""
    if channels % head_channels:
        expected = f"expected channels divisible by head_channels={head_channels}"
        raise ValueError(f"{expected}, got {channels}")
    return channels // head_channels


def attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Attention of h heads over N positions: (B, h, c, N) queries, keys, values to (B, h c, N)."""
    if query.device.type == "cpu" and torch.is_grad_enabled():
        # The fused kernel's backward pass is several times slower than this on a processor.
        weights = (query.transpose(2, 3) @ key / query.shape[2] ** 0.5).softmax(3)
        return (value @ weights.transpose(2, 3)).flatten(1, 2)
    q, k, v = (x.transpose(2, 3) for x in (query, key, value))
    if query.device.type != "cpu":
        # The fused kernels of a GPU need this layout; on a CPU it would change bits.
        q, k, v = (x if x.stride(-1) == 1 else x.contiguous() for x in (q, k, v))
    return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2).transpose(1, 2)


class Modulated(nn.Module):
    """A layer that is given the embedding too."""


class Stage(nn.ModuleList):
    """Layers in a row."""

    def forward(self, h: Tensor, embedding: Tensor) -> Tensor:
        """Map (B, C, H, W) and (B, embedding) through all layers."""
        for layer in self:
            h = layer(h, embedding) if isinstance(layer, Modulated) else layer(h)
        return h


class ResBlock(Modulated):
    """Residual block with two 3x3 convolutions; an embedding scales and shifts its features."""

    def __init__(self, channels_in: int, channels: int, embedding: int, dropout: float):
        super().__init__()
        self.norm1 = group_norm(channels_in)
        self.conv1 = nn.Conv2d(channels_in, channels, 3, padding=1)
        self.modulation = nn.Linear(embedding, 2 * channels)
        self.norm2 = group_norm(channels)
        self.dropout = nn.Dropout(dropout)
        self.conv2 = zero_init(nn.Conv2d(channels, channels, 3, padding=1))
        self.skip = (
            nn.Identity() if channels_in == channels else nn.Conv2d(channels_in, channels, 1)
        )

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        """Map (B, channels_in, H, W) and (B, embedding) to (B, channels, H, W)."""
        h = self.conv1(F.silu(self.norm1(x)))
        scale, shift = self.modulation(embedding)[:, :, None, None].chunk(2, dim=1)
        h = self.norm2(h) * (1 + scale) + shift
        return self.skip(x) + self.conv2(self.dropout(F.silu(h)))


class SelfAttention(nn.Module):
    """Multi-head self-attention over all positions of a feature map, as a residual branch."""

    def __init__(self, channels: int, head_channels: int):
        super().__init__()
        self.heads = count_heads(channels, head_channels)
        self.norm = group_norm(channels)
        self.qkv = nn.Conv2d(channels, 3 * channels, 1)
        self.out = zero_init(nn.Conv2d(channels, channels, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to the same shape."""
        qkv = self.qkv(self.norm(x)).flatten(2).unflatten(1, (3, self.heads, -1))
        return x + self.out(attend(*qkv.unbind(1)).unflatten(2, x.shape[2:]))
