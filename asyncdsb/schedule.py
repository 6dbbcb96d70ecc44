"""The per-pixel noise schedule and the tau maps that steer it.

Every pixel runs the same schedule shape, but its peak sits at the pixel's own time ``tau``; I2SB is
``tau = 0.5`` everywhere. Time runs from 0 (clean image) to 1 (corrupted image); sampling goes from
1 to 0, hence a larger ``tau`` means that a pixel is restored earlier.
"""

import functools
import math
from dataclasses import dataclass

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from asyncdsb.networks.device import without_autocast


@dataclass(frozen=True)
class NoiseSchedule:
    """Noise schedule beta(t; tau) whose square root is a tent with its peak at ``tau``.

    With a = sqrt(beta_min), b = sqrt(beta_max), d = b - a::

        sqrt(beta(t; tau)) = a + d t / tau                    for t <= tau
        sqrt(beta(t; tau)) = b - d (t - tau) / (1 - tau)      for t >  tau

    Its integral over [0, 1] is M = (a^2 + a b + b^2) / 3 for every tau. The defaults are those of
    I2SB's inpainting runs.

    All methods are element-wise, broadcast their arguments, keep their floating dtype (Python
    numbers alone give float64) and accept ``t`` and ``tau`` in [0, 1], both ends included.
    ValueError unless 1e-3 <= ``beta_min`` <= ``beta_max``.

    >>> schedule = NoiseSchedule()
    >>> round(schedule.total_var, 3)
    0.247
    >>> schedule.clock(0.3, torch.tensor([0.2, 0.5, 0.8]))  # at t = 0.3, pixel by pixel
    tensor([0.3641, 0.2172, 0.1773])
    """

    beta_min: float = 0.1
    beta_max: float = 0.433

    def __post_init__(self) -> None:
        if not 1e-3 <= self.beta_min <= self.beta_max < float("inf"):
            raise ValueError(
                "expected 1e-3 <= beta_min <= beta_max, "
                f"got beta_min={self.beta_min}, beta_max={self.beta_max}"
            )

    @property
    def total_var(self) -> float:
        """M, the variance accumulated over the whole bridge; the same for every tau."""
        a, b = self.beta_min**0.5, self.beta_max**0.5
        return (a * a + a * b + b * b) / 3

    def beta(self, t: Tensor | float, tau: Tensor | float) -> Tensor:
        """Noise intensity at time t, the square of the tent above."""
        t, tau = _broadcast(t, tau)
        a, b = self.beta_min**0.5, self.beta_max**0.5
        u = torch.where(t <= tau, t / _positive(tau), (1 - t) / _positive(1 - tau))
        return torch.lerp(torch.full_like(u, a), torch.full_like(u, b), u.clamp(0, 1)) ** 2

    def var(self, t: Tensor | float, tau: Tensor | float) -> Tensor:
        """sigma^2(t; tau), the integral of beta from 0 to t (Eq. 3, Eq. 12)."""
        t, tau = _broadcast(t, tau)
        a, b = self.beta_min**0.5, self.beta_max**0.5
        d = b - a
        # Positions on the two ramps.
        u = (t / _positive(tau)).clamp(0, 1)
        w = ((t - tau) / _positive(1 - tau)).clamp(0, 1)
        before = t * (a * a + a * d * u + d * d * u * u / 3)
        after = tau * self.total_var + (t - tau) * (b * b - b * d * w + d * d * w * w / 3)
        return torch.where(t <= tau, before, after)

    def var_bar(self, t: Tensor | float, tau: Tensor | float) -> Tensor:
        """sigma_bar^2(t; tau), the integral of beta from t to 1 (Eq. 3, Eq. 12)."""
        # Of the mirrored schedule, because this keeps full relative precision near t = 1.
        t, tau = _broadcast(t, tau)
        return self.var(1 - t, 1 - tau)

    def clock(self, t: Tensor | float, tau: Tensor | float) -> Tensor:
        """s(t; tau) = sigma^2 / M in [0, 1]; the bridge depends on t and tau through s alone."""
        # Rounding may put the value an ulp above 1, where sqrt(1 - s) would be NaN.
        return (self.var(t, tau) / self.total_var).clamp(0, 1)

    def inverse_clock(self, s: Tensor | float, tau: Tensor | float) -> Tensor:
        """Time t in [0, 1] at which ``clock(t, tau) = s``, in closed form."""
        s, tau = _broadcast(s, tau)
        falling = 1 - self._inverse_rising(1 - s, 1 - tau)
        return torch.where(s <= tau, self._inverse_rising(s, tau), falling)

    def _inverse_rising(self, s: Tensor, tau: Tensor) -> Tensor:
        """Inverse on the first ramp: tau (c - a) / d with c = cbrt(a^3 + 3 d M s / tau)."""
        a, b = self.beta_min**0.5, self.beta_max**0.5
        ratio = (s / _positive(tau)).clamp(0, 1)
        c = (a**3 + 3 * (b - a) * self.total_var * ratio) ** (1 / 3)
        # c^3 - a^3 divided out: neither cancels for small s nor fails for beta_max = beta_min.
        return tau * 3 * self.total_var * ratio / (c * c + c * a + a * a)


def tau_map(
    gradient: Tensor,
    tau_min: float,
    tau_max: float,
    blur_sigma: float,
    hole: Tensor,
    ranked: bool = False,
) -> Tensor:
    """Per-pixel peak time from a gradient map (Eq. 11, with its parenthesis mended).

    ``tau = (G - min G) / (max G - min G) (tau_max - tau_min) + tau_min``, G the blurred gradient.

    The minimum and maximum run over the hole, per sample: only hole pixels are restored, and they
    then use the whole range whatever the rest of the photo looks like. Known pixels are clamped to
    the range. A hole in which G is flat gets the middle of the range.

    Args:
        gradient: (B, 1, H, W) predicted gradient map in [0, 1].
        tau_min: tau of the flattest hole pixel, in [0, 1].
        tau_max: tau of the steepest hole pixel, in [tau_min, 1].
        blur_sigma: standard deviation in pixels of the Gaussian filter; 0 for none.
        hole: (B, 1, H, W) mask, non-zero = missing.
        ranked: takes the rank of G in the hole in place of the fraction, which spreads tau evenly
            over the range, also where most of the gradient is in a few steep pixels.

    Returns (B, 1, H, W), of the dtype of ``gradient``. ValueError on another range of tau.

    >>> gradient, hole = torch.tensor([[[[0.0, 0.1, 0.4]]]]), torch.ones(1, 1, 1, 3)
    >>> tau_map(gradient, 0.2, 0.5, blur_sigma=0, hole=hole)
    tensor([[[[0.2000, 0.2750, 0.5000]]]])
    >>> tau_map(gradient, 0.2, 0.5, blur_sigma=0, hole=hole, ranked=True)
    tensor([[[[0.2000, 0.3500, 0.5000]]]])
    """
    check_tau_range(tau_min, tau_max)
    relative = relative_gradient(gradient, blur_sigma, hole)
    if ranked:
        relative = _ranks(relative, hole)
    return relative * (tau_max - tau_min) + tau_min


def relative_gradient(gradient: Tensor, blur_sigma: float, hole: Tensor) -> Tensor:
    """Position of each pixel within the hole's range of blurred gradients, the fraction of Eq. 11.

    The arguments are those of :func:`tau_map`. Returns (B, 1, H, W) in [0, 1], 0.5 everywhere where
    the hole's gradient is flat.
    """
    if hole.shape != gradient.shape:
        got = f"{tuple(hole.shape)} and {tuple(gradient.shape)}"
        raise ValueError(f"expected hole and gradient of one shape (B, 1, H, W), got {got}")
    blurred, outside = gaussian_blur(gradient, blur_sigma), hole <= 0.5
    low = blurred.masked_fill(outside, math.inf).amin((1, 2, 3), keepdim=True)
    high = blurred.masked_fill(outside, -math.inf).amax((1, 2, 3), keepdim=True)
    # Rounding in the filter leaves a flat map not quite flat; it must not be stretched to [0, 1].
    # Without a hole, high - low is -inf.
    flat = high - low <= 1e-6
    spread = torch.where(flat, 1, high - low)
    return torch.where(flat, 0.5, ((blurred - low) / spread).clamp(0, 1))


def _ranks(relative: Tensor, hole: Tensor) -> Tensor:
    """Rank of each value among those of the hole, over the largest: (B, 1, H, W) in [0, 1].

    Equal values share their mean rank; known pixels take a place among the hole's. A flat hole,
    0.5 everywhere, stays so.
    """
    ranks = []
    for values, part in zip(relative, hole > 0.5, strict=True):
        ordered = values[part].sort().values
        first = torch.searchsorted(ordered, values)
        last = torch.searchsorted(ordered, values, right=True) - 1
        ranks.append((first + last).to(values) / max(2 * (len(ordered) - 1), 1))
    flat = (relative == 0.5).flatten(1).all(1).view(-1, 1, 1, 1)
    return torch.where(flat, relative, torch.stack(ranks).clamp(0, 1))


def uniform_tau(hole: Tensor, tau_min: float, tau_max: float) -> Tensor:
    """One tau for all pixels, the middle of the range; (0.5, 0.5) is I2SB's synchronous bridge.

    Returns float32 of the shape and on the device of ``hole``. ValueError on another range of tau.
    """
    check_tau_range(tau_min, tau_max)
    return torch.full(hole.shape, (tau_min + tau_max) / 2, device=hole.device)


def inward_tau(hole: Tensor, tau_min: float, tau_max: float) -> Tensor:
    """Tau falling from the hole's border (tau_max, restored first) to its deepest pixel (tau_min).

    The depth is the Euclidean distance to the nearest known pixel, scaled per sample; a hole one
    pixel deep everywhere is all border. Known pixels get tau_max.

    ``hole`` is a (B, 1, H, W) mask, non-zero = missing. Returns float32 of its shape on its device.
    ValueError on another range of tau.
    """
    check_tau_range(tau_min, tau_max)
    holes = (hole[:, 0] > 0.5).to("cpu", torch.uint8).numpy()
    depths = []
    for mask in holes:
        # Distance 1 is the border itself; everything known lies at 0 and is clamped to it.
        distance = cv2.distanceTransform(mask, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
        # The last bit of OpenCV's roots changes from call to call. Their squares are whole numbers.
        depth = np.sqrt(np.rint(np.square(distance, dtype=np.float64))).astype(np.float32) - 1
        depths.append(depth.clip(min=0) / max(float(depth.max()), 1e-6))
    depth = torch.from_numpy(np.stack(depths)).unsqueeze(1).to(hole.device)
    return tau_max - (tau_max - tau_min) * depth.clamp(0, 1)


def check_tau_range(tau_min: float, tau_max: float) -> None:
    """Raise ValueError unless 0 <= tau_min <= tau_max <= 1."""
    if not 0 <= tau_min <= tau_max <= 1:
        expected = "expected tau_min <= tau_max, both in [0, 1]"
        raise ValueError(f"{expected}, got tau_min={tau_min}, tau_max={tau_max}")


def gaussian_blur(image: Tensor, sigma: float) -> Tensor:
    """Separable Gaussian filter with replicated borders, cut off at four standard deviations.

    Of a floating (B, 1, H, W), with a standard deviation in pixels; 0 returns the input.
    """
    if sigma == 0:
        return image
    radius = max(1, round(4 * sigma))
    plain = image.device.type == "cpu" and image.dtype in (torch.float32, torch.float64)
    if plain and len(image) and not image.requires_grad:
        # Many times faster there than a convolution of a single channel.
        size = 2 * radius + 1, 2 * radius + 1
        blurred = [
            cv2.GaussianBlur(one, size, sigma, borderType=cv2.BORDER_REPLICATE)
            for one in image[:, 0].numpy()
        ]
        return torch.from_numpy(np.stack(blurred)[:, None])
    x = torch.arange(-radius, radius + 1, device=image.device, dtype=image.dtype)
    kernel = torch.exp(-0.5 * (x / sigma) ** 2)
    kernel = kernel / kernel.sum()
    with without_autocast(image):
        rows = F.pad(image, (radius, radius, 0, 0), mode="replicate")
        rows = F.conv2d(rows, kernel.view(1, 1, 1, -1))
        columns = F.pad(rows, (0, 0, radius, radius), mode="replicate")
        return F.conv2d(columns, kernel.view(1, 1, -1, 1))


def _positive(x: Tensor) -> Tensor:
    """``x`` kept off zero: for tau = 0 and tau = 1 one of the two ramps is empty."""
    return x.clamp(min=torch.finfo(x.dtype).tiny)


def _broadcast(x: Tensor | float, y: Tensor | float) -> tuple[Tensor, Tensor]:
    """Both arguments as floating tensors of one dtype, device and shape."""
    floating = [v.dtype for v in (x, y) if isinstance(v, Tensor) and v.is_floating_point()]
    dtype = functools.reduce(torch.promote_types, floating) if floating else torch.float64
    device = next((v.device for v in (x, y) if isinstance(v, Tensor) and v.ndim), None)
    x, y = (torch.as_tensor(v, dtype=dtype, device=device) for v in (x, y))
    return torch.broadcast_tensors(x, y)
