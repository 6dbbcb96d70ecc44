"""The bridge's identities, exact in float64 and pixel by pixel.

Everything in the bridge is linear in (x0, x1, noise). A random variable is therefore written here
as its vector of coefficients, one sample of the batch per source: x0, x1, z_n, z_m. Passing these
through the bridge's functions gives exact means, variances and covariances, without a random draw.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from asyncdsb.bridge import (
    clock_at_level,
    implicit_step,
    marginal,
    noise_var,
    posterior_step,
    target,
    x0_from_target,
)
from asyncdsb.schedule import NoiseSchedule

TAU = torch.tensor([0.0, 1e-9, 0.001, 0.2, 0.37, 0.5, 0.8, 1.0], dtype=torch.float64)
TAU = TAU.view(1, 1, 2, 4)
SCHEDULES = (NoiseSchedule(), NoiseSchedule(0.001, 4.0), NoiseSchedule(0.404858, 1.753036))
STEPS = ((1.0, 0.9), (1.0, 0.0), (0.9, 0.5), (0.51, 0.5), (0.5, 0.001), (0.3, 0.0), (0.01, 0.002))
ETAS = (0.0, 0.3, 0.7, 1.0)

each_schedule = pytest.mark.parametrize("schedule", SCHEDULES, ids=str)
each_step = pytest.mark.parametrize("times", STEPS, ids=str)


def sources(height: int = 2, width: int = 4) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """x0, x1, z_n, z_m as unit vectors, (4, 1, H, W) each, the batch running over the sources."""
    unit = torch.eye(4, dtype=torch.float64)[:, :, None, None, None]
    x0, x1, z_n, z_m = (unit[i].expand(4, 1, height, width) for i in range(4))
    return x0, x1, z_n, z_m


def images(channels: int = 3, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Random x0, x1, z, (5, C, 2, 4)."""
    generator = torch.Generator().manual_seed(seed)
    shape = (3, 5, channels, 2, 4)
    return tuple(torch.randn(shape, dtype=torch.float64, generator=generator))


def close(got: Tensor, expected: Tensor | float, atol: float = 1e-12) -> None:
    expected = torch.as_tensor(expected, dtype=got.dtype).expand_as(got)
    torch.testing.assert_close(got, expected, rtol=0, atol=atol)


def check_marginal(x: Tensor, s: Tensor, total_var: float) -> None:
    """Assert that coefficients x are those of Eq. 6 at clock s in law: mean and variance."""
    close(x[0], (1 - s)[0])
    close(x[1], s[0])
    close((x[2:] ** 2).sum(0), (total_var * s * (1 - s))[0])


@each_schedule
@pytest.mark.parametrize("t", [0.0, 0.001, 0.4, 0.5, 0.99, 1.0])
def test_marginal_is_eq_6_in_the_papers_symbols(schedule: NoiseSchedule, t: float) -> None:
    var, var_bar = schedule.var(t, TAU), schedule.var_bar(t, TAU)
    x0, x1, z = images()
    expected = (var_bar * x0 + var * x1) / (var + var_bar)
    expected = expected + var.sqrt() * var_bar.sqrt() / (var + var_bar).sqrt() * z
    s = schedule.clock(t, TAU)
    # sqrt(1 - s) turns rounding of s near 1 into sqrt(eps).
    close(marginal(x0, x1, s, schedule.total_var, z), expected, 1e-7 if t == 1 else 1e-12)


@each_schedule
@each_step
def test_posterior_of_the_marginal_is_the_earlier_marginal(
    schedule: NoiseSchedule, times: tuple[float, float]
) -> None:
    x0, x1, z_n, z_m = sources()
    s_n, s_m = (schedule.clock(t, TAU) for t in times)
    total = schedule.total_var
    x_n = marginal(x0, x1, s_n, total, z_n)
    x_m = posterior_step(x_n, x0, s_n, s_m, total, z_m)
    check_marginal(x_m, s_m, total)
    # The joint law of both times too: a Brownian bridge has covariance M s_m (1 - s_n).
    close((x_m * x_n)[2:].sum(0), (total * s_m * (1 - s_n))[0])


@each_schedule
@each_step
@pytest.mark.parametrize("eta", ETAS)
def test_implicit_step_keeps_the_marginals(
    schedule: NoiseSchedule, times: tuple[float, float], eta: float
) -> None:
    x0, x1, z_n, z_m = sources()
    s_n, s_m = (schedule.clock(t, TAU) for t in times)
    total = schedule.total_var
    x_n = marginal(x0, x1, s_n, total, z_n)
    check_marginal(implicit_step(x_n, x0, x1, s_n, s_m, total, eta, z_m), s_m, total)


@each_schedule
@each_step
def test_ode_step_of_the_noise_free_marginal_is_the_earlier_one(
    schedule: NoiseSchedule, times: tuple[float, float]
) -> None:
    x0, x1, _ = images()
    s_n, s_m = (schedule.clock(t, TAU) for t in times)
    x_n = marginal(x0, x1, s_n, schedule.total_var, None)
    got = posterior_step(x_n, x0, s_n, s_m, schedule.total_var, None)
    close(got, (1 - s_m) * x0 + s_m * x1)
    # M drops out of the ODE.
    assert torch.equal(got, posterior_step(x_n, x0, s_n, s_m, 17.0, None))


@each_schedule
@each_step
def test_implicit_step_with_eta_one_is_the_posterior_step(
    schedule: NoiseSchedule, times: tuple[float, float]
) -> None:
    x0_hat, x1, z = images()
    x_n = images(seed=1)[0]
    s_n, s_m = (schedule.clock(t, TAU) for t in times)
    if times[0] == 1:
        x_n = x1  # At s = 1 there is but one state.
    expected = posterior_step(x_n, x0_hat, s_n, s_m, schedule.total_var, z)
    got = implicit_step(x_n, x0_hat, x1, s_n, s_m, schedule.total_var, 1.0, z)
    close(got, expected, 1e-10)


@each_schedule
def test_implicit_step_with_eta_zero_draws_no_noise(schedule: NoiseSchedule) -> None:
    x0_hat, x1, z = images()
    s_n, s_m = schedule.clock(0.7, TAU), schedule.clock(0.2, TAU)
    step = [implicit_step(z, x0_hat, x1, s_n, s_m, schedule.total_var, 0.0, n) for n in (z, -z)]
    assert torch.equal(*step)


@pytest.mark.parametrize("eta", ETAS)
def test_implicit_step_from_the_start_is_the_posterior_step(eta: float) -> None:
    x0_hat, x1, z = images()
    s_m = NoiseSchedule().clock(0.8, TAU)
    s_n = torch.ones_like(s_m)
    got = implicit_step(x1, x0_hat, x1, s_n, s_m, 0.247, eta, z)
    close(got, posterior_step(x1, x0_hat, s_n, s_m, 0.247, z))


@pytest.mark.parametrize("eta", ETAS)
def test_implicit_step_decides_about_the_start_pixel_by_pixel(eta: float) -> None:
    x0_hat, x1, z = images()
    s_n = torch.tensor([1.0, 0.9, 1.0, 0.5, 1 - 2.0**-52, 0.1, 0.0, 1.0], dtype=torch.float64)
    s_n = s_n.view(1, 1, 2, 4)
    s_m = 0.6 * s_n
    x_n = marginal(x0_hat, x1, s_n, 0.247, images(seed=2)[0])
    whole = implicit_step(x_n, x0_hat, x1, s_n, s_m, 0.247, eta, z)
    assert bool(torch.isfinite(whole).all())
    for row in range(2):
        for column in range(4):
            at = (..., slice(row, row + 1), slice(column, column + 1))
            x, end, start, s, s_next = (v[at] for v in (x_n, x0_hat, x1, s_n, s_m))
            close(implicit_step(x, end, start, s, s_next, 0.247, eta, z[at]), whole[at])


@each_schedule
@pytest.mark.parametrize("t", [1e-6, 0.001, 0.4, 0.5, 0.99, 1.0])
@pytest.mark.parametrize("noisy", [True, False])
def test_target_is_the_scaled_distance_to_x0(
    schedule: NoiseSchedule, t: float, noisy: bool
) -> None:
    x0, x1, z = images()
    noise = z if noisy else None
    s = schedule.clock(t, TAU)
    x_t = marginal(x0, x1, s, schedule.total_var, noise)
    expected = (x_t - x0) / schedule.var(t, TAU).sqrt()
    close(target(x0, x1, s, schedule.total_var, noise), expected, 1e-9)


def test_target_is_bounded_down_to_the_clean_image() -> None:
    x0, x1, z = images()
    zero = torch.zeros_like(TAU)
    assert torch.equal(target(x0, x1, zero, 0.247, z), z)
    assert torch.equal(target(x0, x1, zero, 0.247, None), torch.zeros_like(z))


@each_schedule
@pytest.mark.parametrize("t", [0.0, 1e-6, 0.3, 0.5, 0.9, 1.0])
@pytest.mark.parametrize("noisy", [True, False])
def test_target_and_x0_are_a_round_trip(schedule: NoiseSchedule, t: float, noisy: bool) -> None:
    x0, x1, z = images()
    noise, total = z if noisy else None, schedule.total_var
    s = schedule.clock(t, TAU)
    x_t = marginal(x0, x1, s, total, noise)
    close(x0_from_target(x_t, target(x0, x1, s, total, noise), s, total), x0)


@pytest.mark.parametrize("tau", [0.0, 0.3, 0.5, 1.0])
def test_constant_tau_map_is_the_scalar_bridge(tau: float) -> None:
    schedule = NoiseSchedule()
    x0, x1, z = images()
    total = schedule.total_var
    tau_map = torch.full((5, 1, 2, 4), tau, dtype=torch.float64)
    s_n, s_m = schedule.clock(0.6, tau), schedule.clock(0.4, tau)
    map_n, map_m = schedule.clock(0.6, tau_map), schedule.clock(0.4, tau_map)
    close(marginal(x0, x1, map_n, total, z), marginal(x0, x1, s_n, total, z))
    close(target(x0, x1, map_n, total, z), target(x0, x1, s_n, total, z))
    close(
        posterior_step(x0, x1, map_n, map_m, total, z), posterior_step(x0, x1, s_n, s_m, total, z)
    )
    close(
        implicit_step(x0, x1, z, map_n, map_m, total, 0.4, z),
        implicit_step(x0, x1, z, s_n, s_m, total, 0.4, z),
    )


def test_end_points_are_exact() -> None:
    x0, x1, z = images()
    zero, one = torch.zeros_like(TAU), torch.ones_like(TAU)
    assert torch.equal(marginal(x0, x1, zero, 0.247, z), x0)
    assert torch.equal(marginal(x0, x1, one, 0.247, z), x1)


@pytest.mark.parametrize("clock", [1.0, 0.5, 1e-12, 0.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_last_step_lands_on_the_estimate(clock: float, dtype: torch.dtype) -> None:
    x0_hat, x1, z = (v.to(dtype) for v in images())
    s_n = torch.full((1, 1, 2, 4), clock, dtype=dtype)
    zero = torch.zeros_like(s_n)
    x_n = marginal(x0_hat, x1, s_n, 0.247, z)
    assert torch.equal(posterior_step(x_n, x0_hat, s_n, zero, 0.247, z), x0_hat)
    assert torch.equal(posterior_step(x_n, x0_hat, s_n, zero, 0.247, None), x0_hat)
    for eta in ETAS:
        assert torch.equal(implicit_step(x_n, x0_hat, x1, s_n, zero, 0.247, eta, z), x0_hat)


@pytest.mark.parametrize("clock", [1e-9, 0.2, 0.5, 0.999])
def test_step_of_no_length_changes_nothing(clock: float) -> None:
    x0_hat, x1, z = images()
    x_n = images(seed=1)[0]
    s = torch.full_like(TAU, clock)
    close(posterior_step(x_n, x0_hat, s, s, 0.247, z), x_n)
    close(posterior_step(x_n, x0_hat, s, s, 0.247, None), x_n)
    for eta in ETAS:
        close(implicit_step(x_n, x0_hat, x1, s, s, 0.247, eta, z), x_n)


@pytest.mark.parametrize("eta", ETAS)
def test_single_precision_steps_stay_finite(eta: float) -> None:
    # Clocks at and an ulp off both ends, and steps of an ulp, as 1000-step runs meet them.
    ends = torch.tensor([0, 1e-38, 1e-12, 6e-8, 0.5, 1 - 2**-23, 1 - 2**-24, 1.0])
    s_n, s_m = (v.reshape(1, 1, 8, 8) for v in torch.meshgrid(ends, ends, indexing="ij"))
    s_m = torch.minimum(s_m, s_n)
    generator = torch.Generator().manual_seed(0)
    x0_hat, x1, z, noise = torch.randn((4, 2, 3, 8, 8), generator=generator)
    x_n = marginal(x0_hat, x1, s_n, 0.247, noise)
    got = implicit_step(x_n, x0_hat, x1, s_n, s_m, 0.247, eta, z)
    assert bool(torch.isfinite(got).all())
    bound = 2 * (x0_hat.abs() + x1.abs() + noise.abs() + z.abs())
    assert bool((got.abs() <= bound).all())
    assert bool(torch.isfinite(posterior_step(x_n, x0_hat, s_n, s_m, 0.247, z)).all())


@each_schedule
@each_step
@pytest.mark.parametrize("hole_noise", [0.3, 1.0])
@pytest.mark.parametrize("noisy", [True, False])
def test_a_step_is_exact_without_sight_of_x1(
    schedule: NoiseSchedule, times: tuple[float, float], hole_noise: float, noisy: bool
) -> None:
    """Given x_n and x0, x_m does not depend on x1, with or without noise in the bridge.

    x0 ~ N(0, v) and x1 ~ N(0, h^2). Where x0_hat is drawn from the law of x0 given x_n alone, state
    and estimate after the step have the joint law of the bridge at s_m.
    """
    v, total = 0.4, schedule.total_var if noisy else 0.0
    unit = torch.eye(5, dtype=torch.float64)[:, :, None, None, None].expand(5, 5, 1, 2, 4)
    e, start, z_n, draw, z_m = unit
    x0, x1 = v**0.5 * e, hole_noise * start
    s_n, s_m = (schedule.clock(t, TAU) for t in times)
    x_n = marginal(x0, x1, s_n, total, z_n if noisy else None)
    gain = (x_n * x0).sum(0) / (x_n * x_n).sum(0)
    left = (v - gain * (x_n * x0).sum(0)).clamp(min=0)
    x0_hat = gain * x_n + left.sqrt() * draw
    x_m = posterior_step(x_n, x0_hat, s_n, s_m, total, z_m if noisy else None)
    wanted = (1 - s_m) ** 2 * v + total * s_m * (1 - s_m) + s_m**2 * hole_noise**2
    close((x_m * x_m).sum(0), wanted[0], 1e-10)
    close((x_m * x0_hat).sum(0), ((1 - s_m) * v)[0], 1e-10)


@pytest.mark.parametrize(("total_var", "hole_noise"), [(0.247, 1.0), (0.247, 0.0), (0.0, 0.6)])
def test_the_level_of_the_clock_and_the_clock_of_the_level(
    total_var: float, hole_noise: float
) -> None:
    levels = torch.logspace(-4, 4, 33, dtype=torch.float64)
    s = clock_at_level(levels, total_var, hole_noise)
    assert bool((s > 0).all() and (s < 1).all() and (s.diff() > 0).all())
    close(noise_var(s, total_var, hole_noise).sqrt() / (1 - s) / levels, 1.0, 1e-6)
    endless = torch.tensor([float("inf")], dtype=torch.float64)
    assert clock_at_level(endless, total_var, hole_noise).tolist() == [1.0]
    # Both bridges in one batch.
    both = torch.tensor([total_var, 1.0], dtype=torch.float64)[:, None]
    together = clock_at_level(levels, both, hole_noise)
    close(together[0], s, 1e-15)
    assert bool((together[1] != s).any()) and together.shape == (2, 33)


def test_the_noise_of_a_state_is_what_is_neither_truth_nor_fill() -> None:
    x0, x1, z_n, _ = sources()
    s = NoiseSchedule().clock(0.4, TAU)
    x_t = marginal(x0, 0.7 * x1, s, 0.247, z_n)
    close((x_t[1:] ** 2).sum(0), noise_var(s, 0.247, 0.7)[0])
