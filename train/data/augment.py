"""Photometric and geometric augmentation of training crops."""

from __future__ import annotations

import torch
from torch import Tensor

from asyncdsb.gradient import luma_weights
from train.data.draws import Draws, to_device


def augmented(images: Tensor, strength: float, draws: Draws, upright: bool = False) -> Tensor:
    """Turn crops (B, 3, H, H) and change their exposure and colours, each crop on its own.

    Gamma, contrast, brightness and saturation change as far as ``strength``, from 0 to 1, allows.
    With a probability of half of it the colour channels change places, and with that probability
    the crop is turned by a multiple of 90 degrees, both unless ``upright``.
    """
    if not strength:
        return images
    count, device = len(images), images.device

    def drawn(reach: float) -> Tensor:
        values = strength * reach * (2 * draws.rand(1, 1, 1) - 1)
        return to_device(values, device)

    # Rounding may leave a value below zero, of which there is no power.
    x = ((images + 1) / 2).clamp(0, 1) ** drawn(0.5).exp()
    luma = torch.einsum("c,bchw->bhw", luma_weights(device, x.dtype).flatten(), x)[:, None]
    x = torch.lerp(luma, x, 1 + drawn(0.7))
    x = (x - 0.5) * (1 + drawn(0.4)) + 0.5 + drawn(0.2)
    x = 2 * x.clamp(0, 1) - 1
    if upright:
        return x
    order = draws.rand(3).argsort(1)
    order[draws.rand() >= strength / 2] = torch.arange(3)
    x = x[torch.arange(count, device=device)[:, None], to_device(order, device)]
    turns = draws.randint(1, 4)
    turns[draws.rand() >= strength / 2] = 0
    for quarter in (1, 2, 3):
        chosen = to_device(turns == quarter, device)
        x = torch.where(chosen[:, None, None, None], x.rot90(quarter, (2, 3)), x)
    return x
