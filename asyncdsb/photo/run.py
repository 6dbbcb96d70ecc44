"""The bridge on a photo: all windows in one run, each with noise of its own."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from asyncdsb.denoiser import BridgeDenoiser
from asyncdsb.networks.placing import multiplying
from asyncdsb.photo.finish import finished
from asyncdsb.photo.restoration import Frame, Prepared, Settings
from asyncdsb.photo.tiles import Tiles
from asyncdsb.samplers import SamplerState, sample, time_grid


@dataclass(frozen=True)
class Runner:
    """The denoiser with where and how it computes.

    Attributes:
        denoiser: the trained bridge.
        device: where it is.
        precision: of its products, see :data:`asyncdsb.networks.placing.PRECISIONS`.
    """

    denoiser: BridgeDenoiser
    device: torch.device
    precision: str

    @torch.no_grad()
    def frames(
        self, prepared: Prepared, gradient: np.ndarray, tau: np.ndarray, settings: Settings
    ) -> Iterator[Frame]:
        """Restore all windows of a photo in step, yielding a frame per state.

        Args:
            prepared: the photo.
            gradient: (H, W) float32 completed gradient map in [0, 1].
            tau: (H, W) float32 peak times in [0, 1].
            settings: of the run, with nothing left to the weights.
        """
        config = self.denoiser.config
        gradients = [window.shrink(gradient).to(self.device) for window in prepared.windows]
        taus = [window.shrink(tau).to(self.device).clamp(0, 1) for window in prepared.windows]
        times = time_grid(
            settings.grid,
            settings.steps,
            # One grid for all windows, so that their states belong together.
            torch.cat([values.flatten() for values in taus]),
            torch.cat([mask.flatten() for mask in prepared.masks]),
            config.schedule,
            config.hole_noise,
            0.0 if settings.sampler == "ode" else None,
        )
        batches = prepared.batches()
        runs = [
            self.states(
                torch.cat([prepared.images[number] for number in numbers]),
                torch.cat([prepared.masks[number] for number in numbers]),
                torch.cat([gradients[number] for number in numbers]),
                torch.cat([taus[number] for number in numbers]),
                [window_seed(settings.seed, number) for number in numbers],
                settings,
                times,
                prepared.windows[numbers[0]].tiles,
            )
            for numbers in batches
        ]
        for now in zip(*runs, strict=True):
            parts = {
                number: (state.x_t[i : i + 1], state.x0_hat[i : i + 1])
                for numbers, state in zip(batches, now, strict=True)
                for i, number in enumerate(numbers)
            }
            states, estimates = zip(*(parts[number] for number in sorted(parts)), strict=True)
            first = now[0]
            yield Frame(
                prepared,
                gradient,
                tau,
                float(first.t[0]),
                first.step,
                first.steps,
                states,
                estimates,
                settings.finish,
            )

    def states(
        self,
        image: Tensor,
        mask: Tensor,
        gradient: Tensor,
        tau: Tensor,
        seeds: Sequence[int],
        settings: Settings,
        grid: str | Tensor,
        tiles: Tiles | None = None,
    ) -> Iterator[SamplerState]:
        """The sampler's states for a batch at the networks' resolution, with their finish.

        Args:
            image: (B, 3, H, W) in [-1, 1].
            mask: (B, 1, H, W), 1 = missing.
            gradient: (B, 1, H, W) completed map in [0, 1].
            tau: (B, 1, H, W) peak times.
            seeds: one per sample, of all its noise.
            settings: of the run, with nothing left to the weights.
            grid: name of the time grid, or its times.
            tiles: evaluate the network on these and blend.
        """
        generators = [torch.Generator().manual_seed(int(seed)) for seed in seeds]
        noise = torch.stack([torch.randn(image.shape[1:], generator=g) for g in generators])
        stochastic = torch.full((len(image),), settings.sampler != "ode", device=self.device)
        context = self.denoiser.context(image, mask, gradient, stochastic, noise.to(self.device))
        schedule = self.denoiser.config.schedule
        bound = self.denoiser.bind(context, schedule.total_var, tiles)

        def denoise(x_t: Tensor, t: Tensor, s: Tensor) -> Tensor:
            with multiplying(self.precision, self.device):
                return bound(x_t, t, s)

        states = sample(
            denoise,
            context.x1,
            mask,
            tau,
            schedule,
            steps=settings.steps,
            sampler=settings.sampler,
            eta=settings.eta,
            grid=grid,
            start_std=self.denoiser.config.hole_noise,
            generators=generators,
        )
        return finished(states, mask, settings.finish)


def check_batch(images: Tensor, seeds: Sequence[int], settings: Settings, stride: int) -> None:
    """Raise ValueError unless a batch at the networks' resolution can be restored like this."""
    if not isinstance(settings.strategy, str):
        raise ValueError("expected a named strategy for a batch, got an array")
    if settings.box is not None:
        raise ValueError(f"expected no box for a batch, got {settings.box}")
    if len(seeds) != len(images):
        raise ValueError(f"expected {len(images)} seeds, got {len(seeds)}")
    if any(side % stride for side in images.shape[2:]):
        raise ValueError(
            f"expected sides that are multiples of {stride}, got {tuple(images.shape[2:])}"
        )


def window_seed(seed: int, number: int) -> int:
    """Seed of a window's noise: the run's for the first, and one derived from it for others."""
    if number == 0:
        return seed
    return int(np.random.SeedSequence([seed, number]).generate_state(1, np.uint64)[0] >> 1)
