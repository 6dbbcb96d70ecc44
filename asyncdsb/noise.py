"""Parts of pictures and of the noise from which a run starts: by colour, frequency and side."""

import torch
from torch import Tensor

from asyncdsb.networks.device import per_channel

COLOUR_AXES = ((3**-0.5,) * 3, (2**-0.5, 0.0, -(2**-0.5)), (6**-0.5, -2 * 6**-0.5, 6**-0.5))
"""Orthonormal opponent axes of RGB: brightness, red against blue, green against magenta."""


def along_axes(rgb: Tensor, back: bool = False) -> Tensor:
    """RGB (B, 3, H, W) along :data:`COLOUR_AXES`, or back from there."""
    columns = COLOUR_AXES if back else zip(*COLOUR_AXES, strict=True)
    weights = (per_channel(tuple(column), rgb.device, rgb.dtype) for column in columns)
    first, *others = zip(rgb.split(1, dim=1), weights, strict=True)
    mixed = first[0] * first[1]
    for channel, weight in others:
        mixed.addcmul_(channel, weight)
    return mixed


def coarse_part(noise: Tensor, end: float) -> Tensor:
    """Keep the modes of noise (B, C, H, W) below ``end`` cycles per picture."""
    height, width = noise.shape[2:]
    rows, columns = torch.fft.fftfreq(height, 1 / height), torch.fft.rfftfreq(width, 1 / width)
    coarse = torch.hypot(rows[:, None], columns).to(noise.device) < end
    return torch.fft.irfft2(coarse * torch.fft.rfft2(noise), s=(height, width))


MIDDLE = (1 / 64, 1 / 16)  # Distances from the middle, in widths, see :func:`mirrored`.


def mirrored(noise: Tensor, lowest: float) -> Tensor:
    """Mirror white noise n (B, C, H, W) to its right half: sqrt(1 - w^2) n + w flip(n).

    w rises from 0 to 1 between the distances :data:`MIDDLE` to the right of the middle. Modes below
    ``lowest`` cycles per picture stay those of n: light and the turn of a head have no symmetry.
    """
    width = noise.shape[3]
    across = (torch.arange(width, device=noise.device) + 0.5) / width - 0.5
    share = ((across - MIDDLE[0]) / (MIDDLE[1] - MIDDLE[0])).clamp(0, 1)
    twin = (1 - share**2).sqrt() * noise + share * noise.flip(3)
    return twin + coarse_part(noise - twin, lowest)
