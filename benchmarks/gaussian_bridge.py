"""How far each sampler is from the truth, without a network: the bridge on Gaussian data.

For a Gaussian field the best possible denoiser is linear and known in closed form, and so is every
sampling step. The law that a sampler produces can then be computed exactly and compared with the
true conditional law of the hole given the known pixels. What is left is the error of the sampler
itself: of its step rule, its time grid, and the order in which it restores the pixels.

The field is 16 x 16 with power spectrum 1 / (f^2 + 1e-4), scaled to variance 0.25, on the
frequencies of a 64 x 64 periodic grid (cycles per pixel; the mean gets the power of the lowest
other frequency). The middle 8 x 8 pixels are missing, and x1 is N(0, 1) noise there. Known pixels
are given exactly. The schedule is the package's default shape, beta_max / beta_min = 4.33.

Error = squared Wasserstein-2 distance between the sampler's law and the true conditional law of the
hole, divided by the trace of the true conditional covariance. Both laws have the same mean (the
denoiser is exact and the bridge's mean is linear in it), so only covariances enter.

The noise sources of a run (x1 and one z per step) are passed through the package's own step
functions as unit vectors, one sample of the batch for each. The result is a matrix F of how every
pixel depends on every source, and the covariance is F F^T.

    python -m benchmarks.gaussian_bridge
    python -m benchmarks.gaussian_bridge --steps 5 10 20 50 200
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from asyncdsb.bridge import implicit_step, posterior_step
from asyncdsb.schedule import NoiseSchedule, inward_tau

FIELD, HOLE, PERIOD = 16, 8, 64
DEFAULT_M = NoiseSchedule().total_var


@dataclass(frozen=True)
class Case:
    """One row of the table.

    Attributes:
        sampler: "posterior", "ode" or "implicit".
        total_var: M of the bridge that the denoiser was made for, and of the stochastic samplers.
        tau: "0.5", "inward" (0.8 at the hole's border to 0.2 in its middle) or "outward".
        eta: share of fresh noise of the implicit sampler, whose denoiser also sees x1.
        power: p of the time grid t = (i / N)^p.
    """

    sampler: str
    total_var: float = DEFAULT_M
    tau: str = "0.5"
    eta: float = 1.0
    power: float = 1.0

    @property
    def label(self) -> str:
        """The row's name in the printed table."""
        parts = [self.sampler]
        if self.sampler == "implicit":
            parts[0] += f" eta {self.eta:g}, denoiser sees x1"
        parts.append(f"M {self.total_var:.3g}")
        parts.append(f"tau {self.tau}")
        if self.power != 1:
            parts.append(f"t = (i/N)^{self.power:g}")
        return ", ".join(parts)


CASES = (
    Case("posterior"),
    Case("posterior", tau="inward"),
    Case("posterior", tau="outward"),
    Case("posterior", power=1.5),
    Case("posterior", tau="inward", power=1.5),
    Case("ode"),
    Case("ode", total_var=0.0),
    Case("ode", total_var=0.0, tau="inward"),
    Case("implicit", eta=0.0),
    Case("implicit", eta=1.0),
    Case("implicit", total_var=1.0, eta=0.0, power=2.0),
    Case("implicit", total_var=1.0, eta=1.0, power=2.0),
)


def conditional_covariance() -> Tensor:
    """Covariance of the hole given the known pixels, (64, 64) float64, by Gaussian conditioning."""
    frequency = torch.fft.fftfreq(PERIOD, dtype=torch.float64)
    squared = frequency[:, None] ** 2 + frequency[None, :] ** 2
    squared[0, 0] = 1 / PERIOD**2
    correlation = torch.fft.ifft2(1 / (squared + 1e-4)).real
    correlation = 0.25 * correlation / correlation[0, 0]

    index = torch.arange(FIELD * FIELD)
    row, column = index // FIELD, index % FIELD
    full = correlation[
        (row[:, None] - row[None]) % PERIOD, (column[:, None] - column[None]) % PERIOD
    ]
    hole = hole_mask().flatten()
    between = full[hole][:, ~hole]
    return full[hole][:, hole] - between @ torch.linalg.solve(full[~hole][:, ~hole], between.T)


def hole_mask() -> Tensor:
    """(1, 1, 16, 16) bool, True in the 8 x 8 hole in the middle."""
    margin = (FIELD - HOLE) // 2
    hole = torch.zeros((1, 1, FIELD, FIELD), dtype=torch.bool)
    hole[..., margin : margin + HOLE, margin : margin + HOLE] = True
    return hole


def hole_tau(name: str) -> Tensor:
    """Tau map of the hole, (1, 1, 8, 8) float64; names as in :class:`Case`."""
    hole = hole_mask()
    inward = inward_tau(hole, 0.2, 0.8)[hole].view(1, 1, HOLE, HOLE).double()
    return {"0.5": torch.full_like(inward, 0.5), "inward": inward, "outward": 1 - inward}[name]


def denoise(
    x_t: Tensor, x1: Tensor, s: Tensor, total_var: float, covariance: Tensor, sees_x1: bool
) -> Tensor:
    """E[x0 | x_t] or E[x0 | x_t, x1] in the hole, for a zero conditional mean.

    With A = diag(1 - s), ``x_t = A x0 + noise`` and the noise is x1's share plus the bridge's:
    variance s^2 + M s (1 - s); when x1 is seen, its share is subtracted and M s (1 - s) remains.

    Args:
        x_t: (K, 1, 8, 8) states.
        x1: (K, 1, 8, 8) starts of the runs.
        s: (1, 1, 8, 8) clock.
        total_var: M that the denoiser assumes.
        covariance: (64, 64) conditional covariance of x0.
        sees_x1: whether x1 is given.

    Returns:
        (K, 1, 8, 8) estimates.
    """
    clock = s.flatten()
    shrink, noise_var = 1 - clock, total_var * clock * (1 - clock)
    if sees_x1:
        x_t = x_t - s * x1
    else:
        noise_var = noise_var + clock**2
    spread = shrink[:, None] * covariance * shrink[None] + noise_var.diag()
    # At s = 1 with x1 seen, nothing is left to learn from: the pseudo-inverse then gives 0.
    gain = covariance @ shrink.diag() @ torch.linalg.pinv(spread, hermitian=True)
    return (x_t.flatten(1) @ gain.T).view_as(x_t)


def produced_covariance(case: Case, steps: int, covariance: Tensor) -> Tensor:
    """Exact covariance of the hole's pixels after a run, (64, 64)."""
    schedule, tau = NoiseSchedule(), hole_tau(case.tau)
    times = torch.linspace(1, 0, steps + 1, dtype=torch.float64) ** case.power
    pixels = HOLE * HOLE
    unit = torch.eye(pixels, dtype=torch.float64).view(pixels, 1, HOLE, HOLE)
    nothing = torch.zeros_like(unit)
    sees_x1 = case.sampler == "implicit"

    x, x1 = unit, unit
    for t, t_next in zip(times, times[1:], strict=False):
        s, s_next = schedule.clock(t, tau), schedule.clock(t_next, tau)
        x0_hat = denoise(x, x1, s, case.total_var, covariance, sees_x1)
        if case.sampler == "ode":
            x = posterior_step(x, x0_hat, s, s_next, case.total_var, None)
            continue
        # The new z is one more block of sources, on which nothing depends yet.
        z = torch.cat([torch.zeros_like(x), unit])
        x, x0_hat, x1 = (torch.cat([v, nothing]) for v in (x, x0_hat, x1))
        if case.sampler == "posterior":
            x = posterior_step(x, x0_hat, s, s_next, case.total_var, z)
        else:
            x = implicit_step(x, x0_hat, x1, s, s_next, case.total_var, case.eta, z)
    factors = x.flatten(1)
    return factors.T @ factors


def squared_w2(a: Tensor, b: Tensor) -> float:
    """Squared Wasserstein-2 distance of two centred Gaussians with covariances a and b."""
    root = _square_root(b)
    return (a.trace() + b.trace() - 2 * _square_root(root @ a @ root).trace()).item()


def error(case: Case, steps: int) -> float:
    """Error of one run, see the module's docstring; the conditional mean alone would score 1."""
    covariance = conditional_covariance()
    produced = produced_covariance(case, steps, covariance)
    return squared_w2(produced, covariance) / covariance.trace().item()


def markdown_table(cases: Sequence[Case], step_counts: Sequence[int]) -> str:
    """The errors of ``cases`` at each number of steps."""
    lines = [
        "| sampler | " + " | ".join(f"{n} steps" for n in step_counts) + " |",
        "| --- |" + " ---: |" * len(step_counts),
    ]
    for case in cases:
        values = " | ".join(f"{error(case, n):.4f}" for n in step_counts)
        lines.append(f"| {case.label} | {values} |")
    return "\n".join(lines)


def _square_root(matrix: Tensor) -> Tensor:
    """Symmetric square root of a positive semi-definite matrix."""
    values, vectors = torch.linalg.eigh((matrix + matrix.T) / 2)
    return (vectors * values.clamp(min=0).sqrt()) @ vectors.T


def main(argv: Sequence[str] | None = None) -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gaussian_bridge",
        description="Exact error of every sampler on Gaussian data, as a Markdown table.",
    )
    parser.add_argument("--steps", type=int, nargs="+", default=[5, 10, 20, 50], metavar="N")
    args = parser.parse_args(argv)
    if min(args.steps) < 1:
        parser.error(f"expected numbers of steps >= 1, got {min(args.steps)}")
    start = time.perf_counter()
    print(markdown_table(CASES, args.steps))
    print(f"\n{time.perf_counter() - start:.1f} s")


if __name__ == "__main__":
    main()
