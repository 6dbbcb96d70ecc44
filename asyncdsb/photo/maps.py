"""Maps of a whole photo, at its finest window's scale: gradient and peak times."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from asyncdsb.gradient import image_gradient, known_gradient
from asyncdsb.photo.framing import Prepared
from asyncdsb.photo.images import to_tensor
from asyncdsb.photo.settings import Settings
from asyncdsb.photo.window import Window, resize
from asyncdsb.schedule import inward_tau, tau_map, uniform_tau

Complete = Callable[[Tensor, Tensor], Tensor]
"""``complete(image, mask) -> gradient``: image (B, 3, H, W), the others (B, 1, H, W)."""


def named_tau(settings: Settings, blur_sigma: float, gradient: Tensor, hole: Tensor) -> Tensor:
    """Peak times (B, 1, H, W) of a named strategy, for a gradient and a hole of that shape.

    ``blur_sigma`` is the width of the filter over the gradient, in pixels.
    """
    low, high, strategy = settings.tau_min, settings.tau_max, settings.strategy
    if strategy in ("uniform", "inward"):
        return (uniform_tau if strategy == "uniform" else inward_tau)(hole, low, high)
    tau = tau_map(gradient, low, high, blur_sigma, hole, strategy == "ranked")
    return low + high - tau if strategy == "flat-first" else tau


def completed_gradient(prepared: Prepared, complete: Complete) -> np.ndarray:
    """Gradient map (H, W) float32 in [0, 1] of a photo, completed in each of its windows.

    Windows of another scale keep their values, because the gradients of photographs are distributed
    nearly alike at every scale.
    """
    photo, finest = prepared.photo, _finest(prepared.windows)
    if finest.scale < 1:
        height, width = finest.photo_at_work_scale()
        photo = np.asarray(Image.fromarray(photo).resize((width, height), Image.Resampling.BOX))
    around = resize(torch.from_numpy(gradient_of(photo))[None, None], finest.photo)[0, 0].numpy()
    parts = zip(prepared.windows, prepared.images, prepared.masks, strict=True)
    # Where windows overlap the finer one is written last.
    for window, image, mask in sorted(parts, key=lambda part: part[0].scale):
        part = window.enlarge(_completed(window, image, mask, complete))[0, 0].cpu().numpy()
        settled = window.own | ~window.others(prepared.hole)
        np.copyto(around[window.slices], part, where=settled)
    return around.clip(0, 1)


def _completed(window: Window, image: Tensor, mask: Tensor, complete: Complete) -> Tensor:
    """Gradient map of a window, (1, 1, h, w)."""
    if window.tiles is None:
        return complete(image, mask)
    found = window.tiles.blend(lambda some: complete(some.cut(image), some.cut(mask)))
    known, unknown = known_gradient(image, mask)
    return torch.where(unknown > 0.5, found, known)


def tau_over(
    hole: np.ndarray,
    windows: Sequence[Window],
    gradient: np.ndarray,
    settings: Settings,
    blur_sigma: float,
) -> np.ndarray:
    """Peak times (H, W) float32 in [0, 1] of a whole photo: as painted, or of a named strategy.

    The latter works at the scale of the finest window, on a gradient (H, W) float32 in [0, 1].
    """
    if not isinstance(settings.strategy, str):
        return np.asarray(settings.strategy, np.float32)
    size = _finest(windows).photo_at_work_scale()
    small = (resize(torch.from_numpy(hole)[None, None].float(), size) > 1e-3).float()
    values = resize(torch.from_numpy(gradient)[None, None], size)
    tau = resize(named_tau(settings, blur_sigma, values, small), hole.shape)
    return tau[0, 0].clamp(settings.tau_min, settings.tau_max).numpy()


def gradient_of(photo: np.ndarray, rows: int = 512) -> np.ndarray:
    """Gradient map (H, W) float32 of a whole photo, strip by strip to save memory."""
    height = len(photo)
    found = np.empty(photo.shape[:2], np.float32)
    for first in range(0, height, rows):
        last = min(first + rows, height)
        # One more row at either side, which Sobel's operator looks at.
        top, bottom = max(first - 1, 0), min(last + 1, height)
        strip = image_gradient(to_tensor(np.ascontiguousarray(photo[top:bottom])))
        found[first:last] = strip[0, 0, first - top : last - top].numpy()
    return found


def _finest(windows: Sequence[Window]) -> Window:
    return max(windows, key=lambda window: window.scale)
