"""Time grids and the sampling loop, from the corrupted image at t = 1 to the restored one at 0.

All noise comes from one ``torch.Generator`` per sample, drawn on the CPU: a sample's result depends
neither on the batch it is in nor on the device.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from asyncdsb.bridge import clock_at_level, extrapolated, implicit_step, posterior_step
from asyncdsb.names import GRIDS, SAMPLERS, SOLVER_ORDERS
from asyncdsb.schedule import NoiseSchedule

FINEST = 0.03
"""sigma_eff of the last evaluation on the grid "log": noise below it hardly shows at 8 bits."""

COARSEST = 1.0
"""sigma_eff of the second evaluation over the square root of the hole's area in pixels: more than
the standard deviation of the coarsest structure of a hole, see docs/paper.md."""

Denoise = Callable[[Tensor, Tensor, Tensor], Tensor]
"""``denoise(x_t, t, s) -> x0_hat``: x_t and x0_hat (B, C, H, W), t (B, 1, 1, 1), s (B, 1, H, W)."""


@dataclass(frozen=True)
class SamplerState:
    """One moment of a run."""

    step: int  # how many steps are done, 0 to ``steps``
    steps: int  # length of the run
    t: Tensor  # (B,) float64 time of this state, falling from 1 to 0
    x_t: Tensor  # (B, C, H, W) state
    x0_hat: Tensor  # (B, C, H, W) estimate made from x_t; equal to x_t in the last state


def time_grid(
    kind: str,
    steps: int,
    tau: Tensor | None = None,
    hole: Tensor | None = None,
    schedule: NoiseSchedule | None = None,
    start_std: float = 1.0,
    bridge_var: float | None = None,
) -> Tensor:
    """Times of a run, from 1 to 0.

    ``log`` has equal steps of log sigma_eff of the mean clock over the hole, see
    :func:`asyncdsb.bridge.clock_at_level`: after t = 1, where sigma_eff is infinite, from
    :data:`COARSEST` to :data:`FINEST`. A bridge without any noise has no levels, and "log" is
    "clock" there. ``uniform`` has equal steps of t. ``clock`` has equal steps of the mean clock, so
    that every step restores about as much of the picture as any other.

    Args:
        kind: one of :data:`asyncdsb.names.GRIDS`.
        steps: number of steps, >= 1.
        tau: (1, 1, H, W) or (H, W) tau map of one sample; needed for "log" and "clock".
        hole: mask of the same shape, non-zero = missing; None averages over all pixels.
        schedule: noise schedule; needed for "log" and "clock".
        start_std: h, standard deviation of the noise of x1 ("log" only).
        bridge_var: M of the noise of the bridge, 0 for the ODE; None for the schedule's ("log"
            only).

    Returns:
        (steps + 1,) float64 on the CPU, strictly falling, first 1 and last 0.

    Raises:
        ValueError: on an unknown kind, steps < 1, or a grid without its tau map and schedule.
    """
    if kind not in GRIDS or isinstance(steps, bool) or not steps >= 1 or steps % 1 != 0:
        expected = f"a time grid out of {', '.join(GRIDS)} and a whole number of steps >= 1"
        raise ValueError(f"expected {expected}, got {kind!r} and {steps}")
    even = torch.linspace(1, 0, int(steps) + 1, dtype=torch.float64)
    if kind == "uniform":
        return even
    if tau is None or schedule is None:
        raise ValueError(f"expected a tau map and a schedule for the {kind} grid, got none")
    values = tau.detach().to("cpu", torch.float64).flatten()
    if hole is not None:
        values = values[hole.detach().to("cpu").flatten() > 0.5]
    total_var = schedule.total_var if bridge_var is None else bridge_var
    if kind == "clock" or total_var == start_std == 0:
        return _times_of(even, values, schedule)
    coarsest = max(COARSEST * len(values) ** 0.5, 2 * FINEST)
    ends = math.log10(coarsest), math.log10(FINEST)
    levels = torch.logspace(*ends, int(steps) - 1, dtype=torch.float64)
    clocks = F.pad(clock_at_level(levels, total_var, start_std), (1, 1))
    clocks[0] = 1
    return _times_of(clocks, values, schedule)


def sample(
    denoise: Denoise,
    x1: Tensor,
    mask: Tensor,
    tau: Tensor,
    schedule: NoiseSchedule,
    *,
    steps: int,
    sampler: str = "posterior",
    eta: float = 0.0,
    solver_order: int = 2,
    grid: str | Tensor = "log",
    start_std: float = 1.0,
    generators: Sequence[torch.Generator] | None = None,
) -> Iterator[SamplerState]:
    """Run the bridge from x1 to the restored image.

    At each time the network's estimate is taken inside the hole and the known pixels outside; every
    sampler then gives known pixels the bridge between x1 and x1 itself: x1 plus noise of standard
    deviation c(s) in the stochastic samplers, exactly x1 in the ODE and at t = 0.

    Args:
        denoise: estimate of x0, see :data:`Denoise`; called ``steps`` times, never at t = 0.
        x1: (B, C, H, W) corrupted image in [-1, 1] with its hole filled.
        mask: (B, 1, H, W), non-zero = missing.
        tau: (B, 1, H, W) per-pixel peak time in [0, 1].
        schedule: noise schedule.
        steps: number of network evaluations, >= 1.
        sampler: "posterior" (exact posterior), "ode" (no noise), or "implicit" (eta).
        eta: share of fresh noise of the implicit sampler, in [0, 1].
        solver_order: 1 if a step takes the last estimate, as in the paper; 2 if it takes what
            :func:`asyncdsb.bridge.extrapolated` makes of the last two.
        grid: one of :data:`asyncdsb.names.GRIDS`, see :func:`time_grid`, with which every sample
            has its own times; or (steps + 1,) float64 times for all, strictly falling, first 1 and
            last 0.
        start_std: h, standard deviation of the noise of x1, which the grid "log" depends on.
        generators: one CPU generator per sample; may be None for the ODE only.

    Yields:
        ``steps + 1`` states.

    Raises:
        ValueError: on an unknown sampler or solver order, eta or tau outside [0, 1], or a wrong
            number of generators or times.

    >>> x1, mask = torch.zeros(1, 3, 8, 8), torch.zeros(1, 1, 8, 8)
    >>> mask[..., 2:6, 2:6] = 1
    >>> def denoise(x_t, t, s):  # here it always says 0.8; a network looks at x_t
    ...     return torch.full_like(x_t, 0.8)
    >>> tau = torch.full_like(mask, 0.5)
    >>> states = sample(denoise, x1, mask, tau, NoiseSchedule(), steps=2, sampler="ode",
    ...                 grid="uniform")
    >>> [(float(state.t), round(float(state.x_t[0, 0, 4, 4]), 2)) for state in states]
    [(1.0, 0.0), (0.5, 0.4), (0.0, 0.8)]
    """
    if sampler not in SAMPLERS or not 0 <= eta <= 1 or solver_order not in SOLVER_ORDERS:
        expected = f"a sampler out of {', '.join(SAMPLERS)}, eta in [0, 1], a solver order 1 or 2"
        raise ValueError(f"expected {expected}, got {sampler!r}, {eta} and {solver_order}")
    if tau.shape != mask.shape or not bool(((tau >= 0) & (tau <= 1)).all()):
        got = f"{tuple(tau.shape)}, {float(tau.min()):.3g} to {float(tau.max()):.3g}"
        raise ValueError(f"expected a tau map {tuple(mask.shape)} in [0, 1], got {got}")
    sources = () if sampler == "ode" else generators or ()
    if sampler != "ode" and len(sources) != len(x1):
        raise ValueError(f"expected {len(x1)} generators for {sampler}, got {len(sources)}")
    hole = mask > 0.5
    if isinstance(grid, Tensor):
        ends = grid.shape == (steps + 1,) and grid[0] == 1 and grid[-1] == 0
        if not ends or not (grid.diff() < 0).all():
            raise ValueError(f"expected {steps + 1} times from 1 down to 0, got {grid.tolist()}")
        times = grid[:, None].expand(-1, len(x1))
    else:
        total_var = 0.0 if sampler == "ode" else None
        grids = [
            time_grid(grid, steps, *maps, schedule, start_std, total_var)
            for maps in zip(tau, hole, strict=True)
        ]
        times = torch.stack(grids, dim=1)
    at = times.to(x1.device, x1.dtype).view(*times.shape, 1, 1, 1)

    x, s, before = x1, schedule.clock(at[0], tau), None
    for i in range(steps):
        x0_hat = torch.where(hole, denoise(x, at[i], s), x1)
        yield SamplerState(i, steps, times[i], x, x0_hat)
        if i == steps - 1:
            break
        s_next = schedule.clock(at[i + 1], tau)
        draws = [torch.randn(x.shape[1:], generator=g, dtype=x.dtype) for g in sources]
        z = torch.stack(draws).to(x.device, non_blocking=True) if draws else None
        estimate = extrapolated(x0_hat, *before, s, s_next) if before else x0_hat
        # Not from t = 1, where rounding keeps the clock of some pixels below 1, and r above 0.
        before = (x0_hat, s) if solver_order == 2 and i > 0 else None
        if z is None or sampler == "posterior":
            x = posterior_step(x, estimate, s, s_next, schedule.total_var, z)
        else:
            x = implicit_step(x, estimate, x1, s, s_next, schedule.total_var, eta, z)
        s = s_next
    # Every clock is 0 at t = 0, where every step lands on x0_hat.
    yield SamplerState(steps, steps, times[steps], x0_hat, x0_hat)


def _times_of(clocks: Tensor, tau: Tensor, schedule: NoiseSchedule) -> Tensor:
    """Times at which the mean clock over pixels of ``tau`` has given values, first 1 and last 0."""
    # Pixels of a bin are moved to their mean, so that a grid costs the same for every picture size;
    # that changes the mean clock by O(1 / bins^2).
    bins = 1024
    index = (tau * bins).long().clamp(0, bins - 1)
    count, total = (
        torch.zeros(bins, dtype=torch.float64).index_add_(0, index, x)
        for x in (torch.ones_like(tau), tau)
    )
    used = count > 0
    centres, weights = total[used] / count[used], count[used] / count.sum()
    low, high, times = torch.zeros_like(clocks), torch.ones_like(clocks), clocks
    # Newton's iterations, whose error is squared each time; where one leaves its bracket, halving.
    for _ in range(60):
        error = schedule.clock(times[:, None], centres) @ weights - clocks
        if bool((error.abs() < 1e-12).all()):
            break
        low, high = torch.where(error < 0, times, low), torch.where(error < 0, high, times)
        slope = schedule.beta(times[:, None], centres) @ weights / schedule.total_var
        newton = times - error / slope
        times = torch.where((newton >= low) & (newton <= high), newton, (low + high) / 2)
    times[0], times[-1] = 1.0, 0.0
    return times
