"""The exact errors on Gaussian data against figures computed by a separate implementation.

The reference propagates (64, 64) covariances with hand-written step matrices in numpy; it shares no
code with the package. Its figures are rounded to four decimals.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from asyncdsb.bridge import clock_at_level, posterior_step
from asyncdsb.samplers import COARSEST, FINEST, GRIDS, SOLVER_ORDERS, sample, time_grid
from asyncdsb.schedule import NoiseSchedule
from benchmarks.gaussian_bridge import (
    PICTURES,
    Case,
    Picture,
    bands,
    conditional_covariance,
    denoise,
    error,
    hole_tau,
    main,
    measure,
    produced_covariance,
    restored_share,
    squared_w2,
)

pytestmark = pytest.mark.slow

REFERENCE = {
    Case("posterior"): (0.1088, 0.0375, 0.0125, 0.0028),
    Case("posterior", tau="inward"): (0.1013, 0.0351, 0.0118, 0.0027),
    Case("posterior", tau="outward"): (0.1260, 0.0446, 0.0152, 0.0034),
    Case("posterior", power=1.5): (0.0963, 0.0317, 0.0096, 0.0018),
    Case("posterior", tau="inward", power=1.5): (0.0911, 0.0297, 0.0090, 0.0017),
    Case("posterior", total_var=0.05): (None, 0.0290, None, None),
    Case("posterior", total_var=1.0, power=2.0): (None, 0.0380, None, None),
    Case("ode"): (0.2267, 0.1607, 0.1321, 0.1165),
    Case("ode", total_var=0.0): (0.0921, 0.0268, 0.0073, 0.0012),
    Case("ode", total_var=0.0, tau="inward"): (0.0838, 0.0245, 0.0066, 0.0011),
    Case("implicit", eta=0.0): (0.0766, 0.0246, 0.0076, 0.0015),
    Case("implicit", eta=1.0): (0.0992, 0.0359, 0.0122, 0.0028),
    Case("implicit", total_var=1.0, eta=0.0, power=2.0): (0.0674, 0.0193, 0.0053, 0.0009),
    Case("implicit", total_var=1.0, eta=1.0, power=2.0): (0.1060, 0.0385, 0.0125, 0.0025),
}
STEPS = (5, 10, 20, 50)
POINTS = [
    pytest.param(case, steps, value, id=f"{case.label}, {steps} steps")
    for case, values in REFERENCE.items()
    for steps, value in zip(STEPS, values, strict=True)
    if value is not None
]


@pytest.mark.parametrize(("case", "steps", "value"), POINTS)
def test_errors_are_those_of_the_reference(case: Case, steps: int, value: float) -> None:
    assert error(case, steps) == pytest.approx(value, abs=1e-4)


def growth(case: Case) -> tuple[float, float]:
    """How much steps * W2 grows from 12 to 24 steps and from 24 to 48."""
    scaled = [steps * math.sqrt(error(case, steps)) for steps in (12, 24, 48)]
    return scaled[1] - scaled[0], scaled[2] - scaled[1]


@pytest.mark.parametrize("tau", ["0.5", "inward"])
def test_ode_is_of_first_order(tau: str) -> None:
    """W2 = a / N + b / N^2, so that the growth of N W2 halves."""
    first, second = growth(Case("ode", total_var=0.0, tau=tau))
    assert second / first == pytest.approx(0.5, abs=0.05)


@pytest.mark.parametrize(
    "case",
    [
        Case("posterior"),
        Case("posterior", tau="inward"),
        Case("implicit", eta=0.0),
        Case("implicit", eta=0.0, tau="inward"),
        Case("implicit", eta=0.4),
        Case("implicit", eta=1.0),
    ],
    ids=lambda case: case.label,
)
def test_noisy_samplers_are_of_first_order_up_to_a_logarithm(case: Case) -> None:
    """W2 = (a + b log N) / N on a uniform grid: N W2 grows by the same amount at each doubling."""
    first, second = growth(case)
    assert 0 < first < 0.4
    assert second / first == pytest.approx(1, abs=0.12)


@pytest.mark.parametrize("tau", ["0.5", "inward"])
@pytest.mark.parametrize(("sampler", "total_var"), [("ode", 0.0), ("posterior", 0.247)])
def test_steps_of_second_order_are_worth_more(sampler: str, total_var: float, tau: str) -> None:
    """20 of them are nearer to the truth than 50 of first order."""
    first, second = (
        Case(sampler, total_var=total_var, tau=tau, solver_order=order) for order in (1, 2)
    )
    assert error(second, 20) < error(first, 50)


def test_ode_with_a_denoiser_made_for_noise_stays_wrong() -> None:
    assert error(Case("ode"), 60) > 0.11


@pytest.mark.parametrize("solver_order", SOLVER_ORDERS)
@pytest.mark.parametrize("tau", ["0.5", "inward"])
def test_the_sampling_loop_is_the_propagation(tau: str, solver_order: int) -> None:
    """The ODE is linear in x1: unit vectors through the loop itself give the same covariance."""
    covariance, schedule = conditional_covariance(), NoiseSchedule()
    unit = torch.eye(64, dtype=torch.float64).view(64, 1, 8, 8)

    def predict(x_t: torch.Tensor, t: torch.Tensor, s: torch.Tensor) -> torch.Tensor:
        return denoise(x_t, unit, s[:1], 0.0, covariance, sees_x1=False)

    everything = torch.ones((64, 1, 8, 8), dtype=torch.bool)
    tau_map = hole_tau(tau).expand(64, 1, 8, 8)
    given = unit, everything, tau_map, schedule
    options: dict[str, Any] = {
        "steps": 6,
        "sampler": "ode",
        "grid": "uniform",
        "solver_order": solver_order,
    }
    *_, last = sample(predict, *given, **options)
    columns = last.x_t.flatten(1)
    case = Case("ode", total_var=0.0, tau=tau, solver_order=solver_order)
    expected = produced_covariance(case, 6, covariance)
    torch.testing.assert_close(columns.T @ columns, expected, rtol=0, atol=1e-12)


def test_squared_w2_of_commuting_covariances() -> None:
    a, b = torch.tensor([4.0, 1.0, 0.0]).double(), torch.tensor([1.0, 1.0, 9.0]).double()
    assert squared_w2(a.diag(), b.diag()) == pytest.approx(1 + 0 + 9, abs=1e-6)


SCENES = next(p for p in PICTURES if p.size == 256)


def modes(picture: Picture) -> torch.Tensor:
    """Variance of every mode of the hole, (side, side) float64."""
    return torch.tensor(picture.variance, dtype=torch.float64)[bands(picture.size // 2)]


@pytest.mark.parametrize(("steps", "least"), [(20, 0.75), (50, 0.88)])
def test_the_default_grid_restores_photographs(steps: int, least: float) -> None:
    """Every mode of a hole of 128 x 128 pixels through the package's own steps.

    The sum over noise sources is that of independent variances: a step maps the standard deviation
    of a mode without fresh noise, and nothing with it.
    """
    schedule, v = NoiseSchedule(), modes(SCENES)
    total_var = schedule.total_var
    times = time_grid("log", steps, torch.full_like(v, 0.5), None, schedule)
    levels = torch.logspace(
        math.log10(COARSEST * len(v)), math.log10(FINEST), steps - 1, dtype=torch.float64
    )
    one, zero = torch.ones(1, dtype=torch.float64), torch.zeros(1, dtype=torch.float64)
    clocks = torch.cat([one, clock_at_level(levels, total_var, 1.0), zero])
    torch.testing.assert_close(schedule.clock(times, 0.5), clocks, rtol=0, atol=1e-9)
    variance = torch.ones_like(v)
    for s, s_next in zip(clocks, clocks[1:], strict=False):
        noise = total_var * s * (1 - s) + s**2
        x0_hat = (1 - s) * v / ((1 - s) ** 2 * v + noise) * variance.sqrt()
        mean = posterior_step(variance.sqrt(), x0_hat, s, s_next, total_var, None)
        fresh = posterior_step(0 * v, 0 * v, s, s_next, total_var, torch.ones_like(v))
        variance = mean**2 + fresh**2
    share = float(variance.sum() / v.sum())
    assert share > least
    assert share == pytest.approx(restored_share(SCENES, "posterior", "log", steps, 1), abs=1e-9)


@pytest.mark.parametrize("picture", PICTURES, ids=lambda picture: picture.label)
@pytest.mark.parametrize("sampler", ["posterior", "ode"])
def test_the_default_grid_restores_every_size(picture: Picture, sampler: str) -> None:
    shares = [restored_share(picture, sampler, "log", steps, 1) for steps in (10, 20, 50)]
    assert shares == sorted(shares) and 0.75 < shares[1] and 0.88 < shares[2] < 1
    shares = [restored_share(picture, sampler, "log", steps, 2) for steps in (10, 20, 50)]
    assert shares == pytest.approx([1.03, 1, 0.985], abs=0.03)


@pytest.mark.parametrize("grid", ["uniform", "clock"])
@pytest.mark.parametrize("sampler", ["posterior", "ode"])
def test_everything_comes_back_in_the_end(grid: str, sampler: str) -> None:
    assert restored_share(SCENES, sampler, grid, 2000) == pytest.approx(1, abs=0.02)


def test_modes_are_those_that_were_measured() -> None:
    """Largest and mean variance of a separate measurement on the same photographs."""
    scenes, faces = modes(SCENES), modes(PICTURES[3])
    assert (PICTURES[3].size, PICTURES[3].fill) == (128, "zero")
    assert scenes.max() == pytest.approx(171.67, rel=1e-3)
    assert scenes.mean() == pytest.approx(0.07895, rel=2e-3)
    assert faces.max() == pytest.approx(294.09, rel=1e-3)
    assert faces.mean() == pytest.approx(0.20456, rel=2e-3)


def test_bands_are_octaves() -> None:
    assert bands(5).tolist() == [
        [0, 1, 2, 2, 3],
        [1, 1, 2, 2, 3],
        [2, 2, 2, 2, 3],
        [2, 2, 2, 3, 3],
        [3, 3, 3, 3, 3],
    ]


def test_measured_modes_keep_the_power_of_the_hole(tmp_path) -> None:
    """Parseval, on noise whose fill is mid grey."""
    rng = np.random.default_rng(0)
    picture = rng.integers(0, 256, (32, 40, 3)).astype(np.uint8)
    Image.fromarray(picture).save(tmp_path / "a.png")
    found = measure([str(tmp_path)], 32, "zero", 5)
    count = np.bincount(bands(16).ravel())
    hole = picture[8:24, 12:28] / 127.5 - 1
    assert (count * found).sum() == pytest.approx((hole**2).sum() / 3, rel=1e-4)


def test_command_line_measures_photographs(tmp_path, capsys) -> None:
    Image.new("RGB", (32, 32), (255, 255, 255)).save(tmp_path / "a.png")
    main(["--measure", str(tmp_path), "--size", "16", "--fill", "zero"])
    values = [float(value) for value in capsys.readouterr().out.split(",")]
    assert values == pytest.approx([64, 0, 0, 0, 0], abs=1e-6)


@pytest.mark.parametrize("options", [["--steps", "0"], ["--size", "30"], ["--count", "0"]])
def test_command_line_refuses_nonsense(options: list[str], capsys) -> None:
    with pytest.raises(SystemExit):
        main(options)
    assert "expected" in capsys.readouterr().err


def test_command_line_prints_tables(capsys: pytest.CaptureFixture[str]) -> None:
    main(["--steps", "1", "2", "--photograph-steps", "3"])
    tables = capsys.readouterr().out.split("\n\n")
    first, second, _ = (table.splitlines() for table in tables)
    assert first[0] == "| sampler | 1 steps | 2 steps |"
    assert len(first) == 19
    assert second[0] == "| picture | sampler | order | grid | 3 steps |"
    assert len(second) == 2 + len(PICTURES) * 4 * len(GRIDS)
