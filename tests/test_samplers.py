"""The sampling loop with denoisers whose answer is known: an oracle, and the Gaussian optimum."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from asyncdsb.bridge import noise_var
from asyncdsb.samplers import (
    COARSEST,
    FINEST,
    GRIDS,
    SOLVER_ORDERS,
    SamplerState,
    sample,
    time_grid,
)
from asyncdsb.schedule import NoiseSchedule

SCHEDULE = NoiseSchedule()
# (sampler, eta); eta matters to the implicit one alone.
RUNS = (
    ("posterior", 1.0),
    ("ode", 0.0),
    ("implicit", 0.0),
    ("implicit", 0.4),
    ("implicit", 1.0),
)

each_run = pytest.mark.parametrize(("sampler", "eta"), RUNS)
each_grid = pytest.mark.parametrize("grid", GRIDS)


def generators(count: int, seed: int = 0) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed + i) for i in range(count)]


def scene(batch: int = 2, size: int = 8, dtype: torch.dtype = torch.float64) -> tuple[Tensor, ...]:
    """x0, x1, mask and a tau map with every value from 0 to 1, both ends included."""
    generator = torch.Generator().manual_seed(7)
    x0 = torch.rand((batch, 3, size, size), dtype=dtype, generator=generator) * 2 - 1
    mask = torch.zeros((batch, 1, size, size), dtype=torch.bool)
    mask[..., 1 : size - 2, 2 : size - 1] = True
    fill = torch.randn(x0.shape, dtype=dtype, generator=generator)
    tau = torch.linspace(0, 1, size * size, dtype=dtype).view(1, 1, size, size)
    tau = torch.cat([tau.roll(i, -1) for i in range(batch)])
    tau[:, :, 2, 3], tau[:, :, 3, 3], tau[:, :, 4, 4] = 0, 1, 0.5
    return x0, torch.where(mask, fill, x0), mask, tau


class Oracle:
    """Denoiser that knows x0 in the hole, talks nonsense outside it, and records its calls."""

    def __init__(self, x0: Tensor, mask: Tensor) -> None:
        self.answer = torch.where(mask, x0, torch.full_like(x0, 123.0))
        self.calls: list[tuple[Tensor, Tensor, Tensor]] = []

    def __call__(self, x_t: Tensor, t: Tensor, s: Tensor) -> Tensor:
        self.calls.append((x_t.clone(), t.clone(), s.clone()))
        return self.answer


def run(denoise: Callable, x1: Tensor, mask: Tensor, tau: Tensor, **options) -> list[SamplerState]:
    options.setdefault("generators", generators(len(x1)))
    return list(sample(denoise, x1, mask, tau, SCHEDULE, **options))


@each_run
@each_grid
@pytest.mark.parametrize("steps", [1, 2, 60])
def test_oracle_restores_the_image_exactly(sampler: str, eta: float, grid: str, steps: int) -> None:
    x0, x1, mask, tau = scene()
    states = run(Oracle(x0, mask), x1, mask, tau, steps=steps, sampler=sampler, eta=eta, grid=grid)
    assert torch.equal(states[-1].x_t, x0)
    assert torch.equal(states[-1].x0_hat, states[-1].x_t)
    assert all(bool(torch.isfinite(state.x_t).all()) for state in states)


@each_run
@each_grid
def test_states_fall_from_one_to_zero(sampler: str, eta: float, grid: str) -> None:
    x0, x1, mask, tau = scene()
    states = run(Oracle(x0, mask), x1, mask, tau, steps=9, sampler=sampler, eta=eta, grid=grid)
    assert [(state.step, state.steps) for state in states] == [(i, 9) for i in range(10)]
    times = torch.stack([state.t for state in states])
    assert times.shape == (10, 2)
    assert times.dtype == torch.float64
    assert bool((times[0] == 1).all()) and bool((times[-1] == 0).all())
    assert bool((times.diff(dim=0) < 0).all())
    assert torch.equal(states[0].x_t, x1)


@each_run
@each_grid
def test_denoiser_is_called_once_per_step_and_never_at_zero(
    sampler: str, eta: float, grid: str
) -> None:
    x0, x1, mask, tau = scene()
    oracle = Oracle(x0, mask)
    states = run(oracle, x1, mask, tau, steps=9, sampler=sampler, eta=eta, grid=grid)
    assert len(oracle.calls) == 9
    for state, (x_t, t, s) in zip(states, oracle.calls, strict=False):
        assert torch.equal(x_t, state.x_t)
        assert torch.equal(t.flatten(), state.t)
        assert bool((t > 0).all())
        assert s.shape == mask.shape
        torch.testing.assert_close(s, SCHEDULE.clock(t, tau), rtol=0, atol=1e-12)


@each_grid
def test_each_sample_runs_on_the_grid_of_its_own_hole(grid: str) -> None:
    x0, x1, mask, tau = scene()
    states = run(Oracle(x0, mask), x1, mask, tau, steps=9, grid=grid)
    times = torch.stack([state.t for state in states])
    for i in range(2):
        expected = time_grid(grid, 9, tau[i], mask[i], SCHEDULE)
        torch.testing.assert_close(times[:, i], expected, rtol=0, atol=1e-12)


def test_a_run_does_no_work_ahead_of_its_reader() -> None:
    x0, x1, mask, tau = scene()
    oracle = Oracle(x0, mask)
    states = sample(oracle, x1, mask, tau, SCHEDULE, steps=9, generators=generators(2))
    for wanted in range(1, 4):
        next(states)
        assert len(oracle.calls) == wanted


@each_run
@each_grid
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_known_pixels_end_as_they_came(
    sampler: str, eta: float, grid: str, dtype: torch.dtype
) -> None:
    x0, x1, mask, tau = scene(dtype=dtype)
    states = run(Oracle(x0, mask), x1, mask, tau, steps=7, sampler=sampler, eta=eta, grid=grid)
    known = ~mask.expand_as(x1)
    assert states[-1].x_t.dtype == dtype
    assert torch.equal(states[-1].x_t[known], x1[known])
    for state in states:
        assert torch.equal(state.x0_hat[known], x1[known])
        if sampler == "ode":
            assert torch.equal(state.x_t[known], x1[known])


@each_grid
def test_ode_with_an_oracle_follows_the_straight_line(grid: str) -> None:
    x0, x1, mask, tau = scene()
    for state in run(Oracle(x0, mask), x1, mask, tau, steps=11, sampler="ode", grid=grid):
        s = SCHEDULE.clock(state.t.view(-1, 1, 1, 1), tau)
        torch.testing.assert_close(state.x_t, (1 - s) * x0 + s * x1, rtol=0, atol=1e-12)


@pytest.mark.parametrize(("sampler", "eta"), [r for r in RUNS if r[0] != "ode"])
@each_grid
def test_oracle_runs_have_the_marginals_of_the_bridge(sampler: str, eta: float, grid: str) -> None:
    """In the hole and among the known pixels, x_t is the bridge: mean Eq. 6, variance M s (1-s)."""
    x0, x1, mask, _ = scene(batch=1, size=96)
    tau = torch.rand(mask.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    states = run(Oracle(x0, mask), x1, mask, tau, steps=6, sampler=sampler, eta=eta, grid=grid)
    for state in states[1:-1]:
        s = SCHEDULE.clock(state.t.view(-1, 1, 1, 1), tau)
        mean = (1 - s) * x0 + s * x1
        z = (state.x_t - mean) / (SCHEDULE.total_var * s * (1 - s)).sqrt()
        for region in (mask, ~mask):
            values = z[region.expand_as(z)]
            count = values.numel()
            assert abs(values.mean().item()) < 5 / math.sqrt(count)
            assert abs(values.var().item() - 1) < 5 * math.sqrt(2 / count)


@pytest.mark.parametrize(("sampler", "eta"), [r for r in RUNS if r[0] != "ode"])
def test_eta_is_the_share_of_fresh_noise(sampler: str, eta: float) -> None:
    """The noise in successive states has correlation sqrt(1 - omega^2 / c_m^2), 1 for eta = 0."""
    x0, x1, mask, tau = scene(batch=1, size=96)
    states = run(Oracle(x0, mask), x1, mask, tau, steps=6, sampler=sampler, eta=eta)
    noise, clocks = [], []
    for state in states[1:-1]:
        s = SCHEDULE.clock(state.t.view(-1, 1, 1, 1), tau)
        spread = (SCHEDULE.total_var * s * (1 - s)).sqrt()
        noise.append((state.x_t - (1 - s) * x0 - s * x1) / spread)
        clocks.append(s)
    for i in range(len(noise) - 1):
        fresh = eta**2 * (1 - clocks[i + 1] / clocks[i]) / (1 - clocks[i + 1])
        excess = noise[i] * noise[i + 1] - (1 - fresh).sqrt() * noise[i] ** 2
        assert abs(excess.mean().item()) < (5 / math.sqrt(excess.numel()) if eta else 1e-12)


@each_run
@each_grid
def test_a_sample_does_not_depend_on_its_batch(sampler: str, eta: float, grid: str) -> None:
    x0, x1, mask, tau = scene(batch=3)

    def shrink(x_t: Tensor, t: Tensor, s: Tensor) -> Tensor:
        return torch.tanh(x_t) * (1 - s) + 0.1 * t

    options = {"steps": 6, "sampler": sampler, "eta": eta, "grid": grid}
    together = run(shrink, x1, mask, tau, **options)
    for i in range(3):
        one = slice(i, i + 1)
        own = generators(3)[one]
        alone = run(shrink, x1[one], mask[one], tau[one], generators=own, **options)
        for a, b in zip(together, alone, strict=True):
            torch.testing.assert_close(a.x_t[one], b.x_t, rtol=0, atol=1e-12)
            torch.testing.assert_close(a.t[one], b.t, rtol=0, atol=0)


@each_grid
def test_implicit_sampler_with_eta_one_is_the_posterior_sampler(grid: str) -> None:
    _, x1, mask, tau = scene()
    denoise = gaussian_denoiser(0.1, 0.2, SCHEDULE.total_var)
    implicit = run(denoise, x1, mask, tau, steps=8, sampler="implicit", eta=1.0, grid=grid)
    posterior = run(denoise, x1, mask, tau, steps=8, sampler="posterior", grid=grid)
    for a, b in zip(implicit, posterior, strict=True):
        torch.testing.assert_close(a.x_t, b.x_t, rtol=0, atol=1e-9)


@pytest.mark.parametrize(("sampler", "eta"), [r for r in RUNS if r[0] != "ode"])
def test_the_seed_decides_the_noise(sampler: str, eta: float) -> None:
    x0, x1, mask, tau = scene()
    runs = [
        run(Oracle(x0, mask), x1, mask, tau, steps=4, sampler=sampler, eta=eta, generators=g)
        for g in (generators(2), generators(2), generators(2, seed=50))
    ]
    assert torch.equal(runs[0][2].x_t, runs[1][2].x_t)
    assert not torch.equal(runs[0][2].x_t, runs[2][2].x_t)


def gaussian_denoiser(mean: float, var: float, total_var: float) -> Callable:
    """E[x0 | x_t] for independent pixels x0 ~ N(mean, var), x1 ~ N(0, 1), bridge variance M."""

    def denoise(x_t: Tensor, t: Tensor, s: Tensor) -> Tensor:
        spread = (1 - s) ** 2 * var + s**2 + total_var * s * (1 - s)
        return mean + var * (1 - s) / spread * (x_t - (1 - s) * mean)

    return denoise


@pytest.mark.parametrize("tau", [0.0, 0.2, 0.5, 0.8, 1.0])
@pytest.mark.parametrize("solver_order", SOLVER_ORDERS)
def test_ode_converges_to_the_exact_flow_at_its_order(solver_order: int, tau: float) -> None:
    """For Gaussian pixels the flow is known: it takes x1 to mean + sqrt(var) x1."""
    mean, var = 0.3, 0.04
    x1 = torch.linspace(-2, 2, 16, dtype=torch.float64).view(1, 1, 4, 4)
    mask = torch.ones((1, 1, 4, 4), dtype=torch.bool)
    tau_map = torch.full((1, 1, 4, 4), tau, dtype=torch.float64)
    errors = []
    for steps in (64, 128, 256) if solver_order == 1 else (128, 256, 512):
        options = {"steps": steps, "sampler": "ode", "grid": "uniform"}
        options["solver_order"] = solver_order
        states = run(gaussian_denoiser(mean, var, 0), x1, mask, tau_map, **options)
        errors.append((states[-1].x_t - mean - var**0.5 * x1).abs().max().item())
    orders = [math.log2(a / b) for a, b in zip(errors, errors[1:], strict=False)]
    # The steps near both ends, where log((1 - s) / s) runs away, take a logarithm off the second.
    if solver_order == 1:
        assert orders == pytest.approx([1, 1], abs=0.1)
    else:
        assert min(orders) > 1.5
    assert errors[-1] < 0.01**solver_order


def test_the_ends_of_the_log_grid_bound_what_it_can_restore() -> None:
    """With ever more steps a share 1 / ((1 + v / coarsest^2) (1 + finest^2 / v)) comes back."""
    var, pixels = 0.04, 16
    x1 = torch.linspace(-2, 2, pixels, dtype=torch.float64).view(1, 1, 4, 4)
    mask, tau = torch.ones((1, 1, 4, 4), dtype=torch.bool), torch.full((1, 1, 4, 4), 0.5)
    options = {"steps": 2000, "sampler": "ode", "grid": "log"}
    last = run(gaussian_denoiser(0.0, var, 0), x1, mask, tau.double(), **options)[-1].x_t
    coarsest = COARSEST * math.sqrt(pixels)
    share = 1 / ((1 + var / coarsest**2) * (1 + FINEST**2 / var))
    found = float((last**2).sum() / (var * x1**2).sum())
    assert found == pytest.approx(share, abs=2e-3)


def expected_variance(var: float, tau: float, times: Tensor, solver_order: int = 1) -> float:
    """Variance of a pixel after a posterior run, x0 ~ N(., var) and x1 ~ N(., 1), step by step.

    A 2 x 2 covariance: of the state and of the estimate before it.
    """
    total, found = SCHEDULE.total_var, np.diag([1.0, 0.0])
    clock = SCHEDULE.clock(times, torch.full_like(times, tau)).tolist()
    half_log = [math.log(math.sqrt((1 - s) / s)) if 0 < s < 1 else math.nan for s in clock]
    for i, (s, s_next) in enumerate(zip(clock, clock[1:], strict=False)):
        gain = var * (1 - s) / ((1 - s) ** 2 * var + s**2 + total * s * (1 - s))
        rho, more = s_next / s, 0.0
        if solver_order == 2 and i > 1 and s_next > 0:
            steps = half_log[i + 1] - half_log[i], half_log[i] - half_log[i - 1]
            more = min(steps[0] / steps[1], 1) / 2
        map_ = np.array([[rho + (1 - rho) * (1 + more) * gain, -(1 - rho) * more], [gain, 0]])
        found = map_ @ found @ map_.T + np.diag([total * s_next * (1 - rho), 0])
    return float(found[0, 0])


@pytest.mark.parametrize("tau", [0.0, 0.3, 0.5, 1.0])
@pytest.mark.parametrize("solver_order", SOLVER_ORDERS)
@each_grid
def test_posterior_runs_have_the_law_that_the_recursion_predicts(
    tau: float, grid: str, solver_order: int
) -> None:
    """Drawn pixels against the exact variance of x_0 after this many steps, scalar by scalar."""
    mean, var, steps, size = 0.3, 0.04, 5, 400
    x1 = torch.randn((1, 1, size, size), dtype=torch.float64, generator=generators(1)[0])
    mask = torch.ones_like(x1, dtype=torch.bool)
    tau_map = torch.full_like(x1, tau)
    denoise = gaussian_denoiser(mean, var, SCHEDULE.total_var)
    own = generators(1, seed=9)
    options = {"steps": steps, "generators": own, "grid": grid, "solver_order": solver_order}
    states = run(denoise, x1, mask, tau_map, **options)
    times = time_grid(grid, steps, tau_map, mask, SCHEDULE)
    expected = expected_variance(var, tau, times, solver_order)
    got = states[-1].x_t
    assert got.mean().item() == pytest.approx(mean, abs=5 * math.sqrt(expected) / size)
    assert got.var().item() == pytest.approx(expected, rel=5 * math.sqrt(2) / size)


@pytest.mark.parametrize("tau", [0.0, 0.3, 0.5, 1.0])
def test_posterior_runs_reach_the_law_of_the_data_without_sight_of_x1(tau: float) -> None:
    """The denoiser is given x_t alone, and x1 is N(0, 1): the variance tends to that of x0."""
    var = 0.04
    grids = [time_grid("uniform", steps) for steps in (2000, 4000, 8000)]
    errors = [1 - expected_variance(var, tau, grid) / var for grid in grids]
    assert 0 < errors[2] < 0.01
    # What is missing is of the order of log N / N.
    assert all(1.7 < a / b < 2.1 for a, b in zip(errors, errors[1:], strict=False))


class LargestTensor(TorchDispatchMode):
    """Records the largest tensor that any operation returns."""

    numel = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # noqa: ANN001, ANN204
        result = func(*args, **(kwargs or {}))
        if isinstance(result, Tensor):
            self.numel = max(self.numel, result.numel())
        return result


@each_run
def test_memory_does_not_grow_with_the_number_of_steps(sampler: str, eta: float) -> None:
    """No table over time: nothing is larger than one batch of images."""
    x0, x1, mask, tau = scene(size=24)
    with LargestTensor() as seen:
        run(Oracle(x0, mask), x1, mask, tau, steps=100, sampler=sampler, eta=eta, grid="uniform")
    assert seen.numel == x1.numel()


@pytest.mark.parametrize("grid", ["log", "clock"])
def test_memory_of_a_grid_does_not_grow_with_the_picture(grid: str) -> None:
    tau = torch.rand((1, 1, 256, 256), generator=torch.Generator().manual_seed(0))
    with LargestTensor() as seen:
        time_grid(grid, 10, tau, None, SCHEDULE)
    assert seen.numel == tau.numel()


@pytest.mark.parametrize("steps", [1, 2, 7, 1000])
def test_uniform_grid(steps: int) -> None:
    grid = time_grid("uniform", steps)
    assert grid.dtype == torch.float64
    expected = [1 - i / steps for i in range(steps + 1)]
    assert grid.tolist() == pytest.approx(expected, abs=1e-15)
    assert grid[0] == 1 and grid[-1] == 0


@pytest.mark.parametrize("steps", [1, 2, 7, 100])
@pytest.mark.parametrize("limits", [(0.2, 0.5), (0.001, 0.4), (0.0, 1.0), (0.0, 0.0), (1.0, 1.0)])
@pytest.mark.parametrize("with_hole", [True, False])
def test_clock_grid_makes_equal_progress_of_the_mean_clock(
    steps: int, limits: tuple[float, float], with_hole: bool
) -> None:
    generator = torch.Generator().manual_seed(3)
    tau = torch.rand((1, 1, 32, 32), dtype=torch.float64, generator=generator)
    tau = limits[0] + (limits[1] - limits[0]) * tau**2
    hole = torch.rand(tau.shape, generator=generator) < 0.3
    hole &= tau <= tau.median()  # So that the hole's mean clock is not the picture's.
    grid = time_grid("clock", steps, tau, hole if with_hole else None, SCHEDULE)
    assert grid.shape == (steps + 1,) and grid.dtype == torch.float64
    assert grid[0] == 1 and grid[-1] == 0
    assert bool((grid.diff() < 0).all())
    values = tau[hole] if with_hole else tau.flatten()
    progress = SCHEDULE.clock(grid[:, None], values[None]).mean(1)
    assert progress.tolist() == pytest.approx([1 - i / steps for i in range(steps + 1)], abs=2e-6)


def test_clock_grid_of_a_constant_map_is_the_inverse_clock() -> None:
    tau = torch.full((1, 1, 4, 4), 0.3, dtype=torch.float64)
    grid = time_grid("clock", 20, tau, None, SCHEDULE)
    s = torch.linspace(1, 0, 21, dtype=torch.float64)
    torch.testing.assert_close(grid, SCHEDULE.inverse_clock(s, 0.3), rtol=0, atol=1e-9)


@pytest.mark.parametrize("steps", [1, 2, 3, 20, 300])
@pytest.mark.parametrize("side", [1, 3, 12])
@pytest.mark.parametrize("limits", [(0.2, 0.5), (0.0, 1.0), (0.0, 0.0), (1.0, 1.0)])
@pytest.mark.parametrize(
    ("start_std", "bridge_var"), [(1.0, None), (1.0, 0.0), (0.3, None), (0.0, None)]
)
def test_log_grid_has_equal_steps_of_the_logarithm_of_the_level(
    steps: int, side: int, limits: tuple[float, float], start_std: float, bridge_var: float | None
) -> None:
    generator = torch.Generator().manual_seed(3)
    tau = torch.rand((1, 1, 32, 32), dtype=torch.float64, generator=generator)
    tau = limits[0] + (limits[1] - limits[0]) * tau**2
    hole = torch.zeros(tau.shape)
    hole[..., 2 : 2 + side, 5 : 5 + side] = 1
    grid = time_grid("log", steps, tau, hole, SCHEDULE, start_std, bridge_var)
    assert grid.shape == (steps + 1,) and grid.dtype == torch.float64
    assert grid[0] == 1 and grid[-1] == 0
    assert bool((grid.diff() < 0).all())
    s = SCHEDULE.clock(grid[1:-1, None], tau[hole > 0.5][None]).mean(1)
    total_var = SCHEDULE.total_var if bridge_var is None else bridge_var
    levels = (noise_var(s, total_var, start_std).sqrt() / (1 - s)).tolist()
    assert len(levels) == steps - 1
    if steps > 1:
        assert levels[0] == pytest.approx(COARSEST * side, rel=1e-3)
    if steps > 2:
        assert levels[-1] == pytest.approx(FINEST, rel=1e-3)
        ratio = (FINEST / (COARSEST * side)) ** (1 / (steps - 2))
        found = [b / a for a, b in zip(levels, levels[1:], strict=False)]
        assert found == pytest.approx([ratio] * (steps - 2), rel=1e-3)


def test_log_grid_of_a_bridge_without_any_noise_is_that_of_the_clock() -> None:
    tau = torch.linspace(0, 1, 16, dtype=torch.float64).view(1, 1, 4, 4)
    found = time_grid("log", 7, tau, None, SCHEDULE, 0.0, 0.0)
    assert torch.equal(found, time_grid("clock", 7, tau, None, SCHEDULE))


def test_a_run_takes_the_levels_of_its_own_bridge() -> None:
    """The ODE's bridge has no noise, and x1 as much as the caller says."""
    x0, x1, mask, tau = scene(batch=1)
    for sampler, bridge_var in (("posterior", SCHEDULE.total_var), ("ode", 0.0)):
        states = run(
            Oracle(x0, mask), x1, mask, tau, steps=6, sampler=sampler, grid="log", start_std=0.4
        )
        expected = time_grid("log", 6, tau, mask, SCHEDULE, 0.4, bridge_var)
        assert torch.equal(torch.cat([state.t for state in states]), expected)


@pytest.mark.parametrize("steps", [0, -3, 2.5, float("nan"), float("inf"), True])
@pytest.mark.parametrize("grid", GRIDS)
def test_bad_numbers_of_steps_are_refused(grid: str, steps: Any) -> None:
    with pytest.raises(ValueError, match="steps"):
        time_grid(grid, steps, torch.full((4, 4), 0.5), None, SCHEDULE)


def test_bad_grids_are_refused() -> None:
    with pytest.raises(ValueError, match="'karras'"):
        time_grid("karras", 5)
    for grid in ("log", "clock"):
        with pytest.raises(ValueError, match=f"a tau map and a schedule for the {grid} grid"):
            time_grid(grid, 5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sampler": "heun"}, "'heun'"),
        ({"eta": 1.5}, "1.5"),
        ({"eta": -0.1}, "-0.1"),
        ({"eta": float("nan")}, "nan"),
        ({"solver_order": 3}, "solver order 1 or 2"),
        ({"steps": 0}, "steps"),
        ({"grid": "karras"}, "'karras'"),
        ({"generators": None}, "2 generators"),
        ({"generators": generators(1)}, "got 1"),
        ({"tau": torch.full((2, 1, 8, 8), 1.01)}, "tau"),
        ({"tau": torch.full((2, 1, 8, 8), -0.01)}, "tau"),
        ({"tau": torch.full((2, 1, 8, 8), float("nan"))}, "tau"),
        ({"tau": torch.full((2, 1, 4, 4), 0.5)}, r"\(2, 1, 4, 4\)"),
    ],
    ids=lambda given: ",".join(given) if isinstance(given, dict) else str(given),
)
def test_bad_settings_are_refused(change: dict, message: str) -> None:
    x0, x1, mask, tau = scene()
    options = {"tau": tau, "steps": 3, "sampler": "implicit", "generators": generators(2)} | change
    tau = options.pop("tau")
    with pytest.raises(ValueError, match=message):
        list(sample(Oracle(x0, mask), x1, mask, tau, SCHEDULE, **options))


@pytest.mark.parametrize(
    "times", [[1.0, 0.5, 0.1], [0.9, 0.5, 0.0], [1.0, 1.0, 0.0], [0.0, 0.5, 1.0], [1.0, 0.0]]
)
def test_times_that_do_not_fall_from_one_to_zero_are_refused(times):
    mask = torch.ones(1, 1, 2, 2)
    states = sample(
        lambda x, t, s: x,
        torch.zeros(1, 3, 2, 2),
        mask,
        0.5 * mask,
        NoiseSchedule(),
        steps=2,
        sampler="ode",
        grid=torch.tensor(times, dtype=torch.float64),
    )
    with pytest.raises(ValueError, match="3 times from 1 down to 0"):
        next(states)
