"""The Brownian bridge between the clean and the corrupted image, in each pixel's own clock.

Notation, used in the whole package:

=========  =====================================================================================
x0, x1     clean image (t = 0) and corrupted image (t = 1)
x_t        state at time t
x0_hat     estimate of x0 made from x_t
z          standard normal noise of the shape of x0; None for the noise-free bridge (OT-ODE)
tau        per-pixel peak time of the noise schedule
s          clock s(t; tau) = sigma^2(t; tau) / M in [0, 1] (:mod:`asyncdsb.schedule`)
s_p        clock before the step that led to s_n
s_n, s_m   clocks before and after a step from t_n down to t_m, 0 <= s_m <= s_n <= 1
rho        s_m / s_n
M          total variance of the schedule, ``total_var``
c          sqrt(M s (1 - s)), standard deviation of the bridge at clock s
h          standard deviation of the noise added to the fill in x1, ``hole_noise``
=========  =====================================================================================

sigma^2 = M s and sigma_bar^2 = M (1 - s) (Eq. 3), so that s and M replace both variances in every
equation of the paper. Images, states and noise are (B, C, H, W). All functions are element-wise: a
clock may be a scalar, (B, 1, 1, 1) or (B, 1, H, W); a constant map gives the bridge of I2SB.
"""

import torch
from torch import Tensor


def std(s: Tensor, total_var: float) -> Tensor:
    """c(s) = sqrt(M s (1 - s)), the standard deviation of the bridge (Sigma_t of Eq. 2)."""
    return (total_var * s * (1 - s)).sqrt()


def marginal(x0: Tensor, x1: Tensor, s: Tensor, total_var: float, z: Tensor | None) -> Tensor:
    """Draw x_t given both ends (Eq. 2, Eq. 6).

    ``x_t = (1 - s) x0 + s x1 + sqrt(M s (1 - s)) z``

    >>> x0, x1 = torch.zeros(1, 3, 1, 2), torch.ones(1, 3, 1, 2)
    >>> s = torch.tensor([[[[0.25, 0.5]]]])  # the right pixel is nearer to x1
    >>> marginal(x0, x1, s, total_var=0.25, z=None)[0, 0]
    tensor([[0.2500, 0.5000]])
    """
    mean = (1 - s) * x0 + s * x1
    return mean if z is None else mean + std(s, total_var) * z


def noise_var(s: Tensor, total_var: Tensor | float, hole_noise: float) -> Tensor:
    """N = M s (1 - s) + s^2 h^2, variance of the noise in a state, given x0 and the fill.

    M is 0 for the bridge without noise.
    """
    return total_var * s * (1 - s) + (s * hole_noise) ** 2


def clock_at_level(sigma: Tensor, total_var: Tensor | float, hole_noise: float) -> Tensor:
    """The clock s at which sigma_eff = sqrt(N) / (1 - s) has a value, in closed form.

    With r = s / (1 - s), sigma_eff^2 = M r + h^2 r^2. ``sigma`` is sigma_eff > 0, infinite at the
    start, s = 1. M, broadcastable, is 0 for the bridge without noise; M or h is positive.
    """
    # The root of the quadratic in a form that does not cancel, divided by sigma twice.
    root = (total_var**2 / sigma**2 + 4 * hole_noise**2) ** 0.5
    r = 2 * sigma / (total_var / sigma + root)
    return 1 / (1 + 1 / r)


def target(x0: Tensor, x1: Tensor, s: Tensor, total_var: float, z: Tensor | None) -> Tensor:
    """Regression target (x_t - x0) / sigma_t (Eq. 4), written so that s -> 0 is harmless.

    ``sqrt(s / M) (x1 - x0) + sqrt(1 - s) z``, with the noise z of :func:`marginal` and M > 0.
    """
    mean = (s / total_var).sqrt() * (x1 - x0)
    return mean if z is None else mean + (1 - s).sqrt() * z


def x0_from_target(x_t: Tensor, output: Tensor, s: Tensor, total_var: float) -> Tensor:
    """Invert :func:`target`: ``x0_hat = x_t - sqrt(M s) output``."""
    return x_t - (total_var * s).sqrt() * output


def posterior_step(
    x_n: Tensor, x0_hat: Tensor, s_n: Tensor, s_m: Tensor, total_var: float, z: Tensor | None
) -> Tensor:
    """Exact posterior step from clock s_n down to s_m (what Eq. 5 and Eq. 13 stand for).

    ``x_m = rho x_n + (1 - rho) x0_hat + sqrt(M s_m (1 - rho)) z``

    Without ``z`` it is the OT-ODE step, in which M plays no part. At s_m = 0 the result is x0_hat
    exactly.

    >>> x0, x_n = torch.zeros(1, 3, 1, 1), torch.ones(1, 3, 1, 1)
    >>> s_n, s_m = torch.tensor(0.5), torch.tensor(0.125)
    >>> posterior_step(x_n, x0, s_n, s_m, total_var=0.25, z=None).flatten()
    tensor([0.2500, 0.2500, 0.2500])
    """
    rho = _ratio(s_m, s_n)
    # Written around x0_hat so that rho = 0 gives exactly x0_hat, and x_n = x0_hat stays put.
    mean = x0_hat + rho * (x_n - x0_hat)
    return mean if z is None else mean + (total_var * s_m * (1 - rho)).sqrt() * z


def extrapolated(x0_hat: Tensor, previous: Tensor, s_p: Tensor, s_n: Tensor, s_m: Tensor) -> Tensor:
    """Estimate x0 for the middle of the step from s_n to s_m from x0_hat and the one at s_p.

    A step takes its estimate as constant. With this one it is of second order, as in
    DPM-Solver++(2M) (Lu et al. 2022)::

        x0_hat + r / 2 (x0_hat - previous)
        r = (u_m - u_n) / (u_n - u_p) in [0, 1],  u = log((1 - s) / s)

    At the start, s_p = 1, u is infinite and r is 0.
    """
    u_p, u_n, u_m = (-torch.logit(s) for s in (s_p, s_n, s_m))
    r = ((u_m - u_n) / (u_n - u_p)).nan_to_num(0.0).clamp(0, 1)
    return x0_hat + r / 2 * (x0_hat - previous)


def implicit_step(
    x_n: Tensor,
    x0_hat: Tensor,
    x1: Tensor,
    s_n: Tensor,
    s_m: Tensor,
    total_var: float,
    eta: float,
    z: Tensor,
) -> Tensor:
    """Step of the non-Markov family that shares the bridge's marginals for every eta.

    With ``omega = eta sqrt(M s_m (1 - rho))`` and ``kappa = sqrt(c_m^2 - omega^2) / c_n``::

        x_m = (1 - s_m) x0_hat + s_m x1 + kappa (x_n - (1 - s_n) x0_hat - s_n x1) + omega z

    eta = 1 is :func:`posterior_step`, eta = 0 draws no fresh noise. Where s_n = 1 the state carries
    no noise that could be reused (c_n = 0), and eta = 1 is taken for those pixels. For eta < 1 the
    step is exact only with an x0_hat that was given x1, the start of this run. M > 0.
    """
    rho = _ratio(s_m, s_n)
    started = 1 - s_n > 1e-6
    share = torch.where(started, torch.full_like(s_n, eta), torch.ones_like(s_n))
    fresh_var = share**2 * total_var * s_m * (1 - rho)
    kept_var = (total_var * s_m * (1 - s_m) - fresh_var).clamp(min=0)
    c_n = torch.where(started, std(s_n, total_var), torch.ones_like(s_n))
    kappa = torch.where(started, kept_var.sqrt() / c_n.clamp(min=torch.finfo(c_n.dtype).tiny), rho)
    mean = x0_hat + s_m * (x1 - x0_hat)
    residual = x_n - x0_hat - s_n * (x1 - x0_hat)
    return mean + kappa * residual + fresh_var.sqrt() * z


def _ratio(s_m: Tensor, s_n: Tensor) -> Tensor:
    """Rho = s_m / s_n in [0, 1], with 0 / 0 = 0: a pixel at clock 0 is already at x0_hat."""
    return (s_m / s_n.clamp(min=torch.finfo(s_n.dtype).tiny)).clamp(0, 1)
