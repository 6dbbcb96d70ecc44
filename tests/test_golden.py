"""The same seed gives the same picture as when ``golden.safetensors`` was written.

An optimisation must not change results. Where a change of results is meant, the file is written
again with ``python -m tests.test_golden`` and the change told in the changelog.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from asyncdsb import AsyncDSBPipeline
from asyncdsb.samplers import GRIDS, SAMPLERS, sample
from asyncdsb.schedule import NoiseSchedule, tau_map

FILE = Path(__file__).with_name("golden.safetensors")
SIDE, STEPS = 24, 6


def waves(*periods: float) -> Tensor:
    """Smooth patterns in [-1, 1] that need no random numbers, (1, len(periods), SIDE, SIDE)."""
    y, x = torch.meshgrid(torch.arange(SIDE), torch.arange(SIDE), indexing="ij")
    return torch.stack([torch.sin(x / p) * torch.cos(y / (p + 1)) for p in periods])[None]


def hole() -> Tensor:
    mask = torch.zeros(1, 1, SIDE, SIDE)
    mask[..., 4:20, 6:18] = 1
    return mask


def sampled(sampler: str, grid: str) -> Tensor:
    """A run with a denoiser in closed form: it pulls towards a pattern, the more the later."""
    wanted, x1, mask = waves(2, 3, 4), waves(5, 7, 6), hole()
    tau = tau_map(waves(4) / 2 + 0.5, 0.2, 0.8, 1.0, mask)
    *_, last = sample(
        lambda x, t, s: torch.lerp(wanted, x, 0.4 * s),
        x1,
        mask,
        tau,
        NoiseSchedule(),
        steps=STEPS,
        sampler=sampler,
        eta=0.3,
        grid=grid,
        generators=[torch.Generator().manual_seed(3)],
    )
    return last.x_t


def restored(strategy: str) -> Tensor:
    """A whole restoration by the tiny network with random weights, uint8 (H, W, 3)."""
    photo = ((waves(2, 3, 4)[0].permute(1, 2, 0) + 1) * 127.5).byte().numpy()
    photo = np.tile(photo, (3, 4, 1))
    mask = np.zeros(photo.shape[:2], bool)
    mask[20:50, 30:70] = True
    pipe = AsyncDSBPipeline.random(seed=1)
    result = pipe(photo, mask, trajectory=False, steps=4, seed=5, strategy=strategy)
    return torch.from_numpy(np.array(result.image))


@pytest.fixture(scope="module")
def golden() -> dict[str, Tensor]:
    return load_file(FILE)


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_samplers(golden, sampler, grid):
    wanted = golden[f"{sampler}/{grid}"]
    torch.testing.assert_close(sampled(sampler, grid), wanted, rtol=0, atol=1e-5)


@pytest.mark.parametrize("strategy", ["gradient", "uniform", "inward"])
def test_restorations(golden, strategy):
    """Up to one grey level, which other processors' rounding may cost."""
    difference = restored(strategy).int() - golden[strategy].int()
    assert difference.abs().max() <= 1 and (difference != 0).float().mean() < 0.01


if __name__ == "__main__":
    pytest.MonkeyPatch().setattr("asyncdsb.networks.device.multiplies_bf16", lambda device: False)
    runs = {f"{one}/{grid}": sampled(one, grid) for one in SAMPLERS for grid in GRIDS}
    save_file(runs | {s: restored(s) for s in ("gradient", "uniform", "inward")}, FILE)
