"""The bridge on a photo: all windows in one run, each with noise of its own."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from asyncdsb.denoiser import BridgeDenoiser
from asyncdsb.networks.device import multiplying
from asyncdsb.photo.framing import Prepared
from asyncdsb.photo.patches import copy_patches
from asyncdsb.photo.result import Frame
from asyncdsb.photo.settings import Settings
from asyncdsb.photo.tiles import Tiles
from asyncdsb.samplers import SamplerState, sample, time_grid


@dataclasses.dataclass(frozen=True)
class Runner:
    """The denoiser on its device, multiplying in a precision; its settings are resolved."""

    denoiser: BridgeDenoiser
    device: torch.device
    precision: str

    @torch.no_grad()
    def frames(
        self, prepared: Prepared, gradient: np.ndarray, tau: np.ndarray, settings: Settings
    ) -> Iterator[Frame]:
        """Restore all windows of a photo in step, yielding a frame per state.

        ``gradient`` and ``tau`` are (H, W) float32 in [0, 1].
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

        batches, runs = prepared.batches(), []
        for numbers in batches:
            inputs = (prepared.images, prepared.masks, gradients, taus)
            together = [torch.cat([part[number] for number in numbers]) for part in inputs]
            seeds = [window_seed(settings.seed, number) for number in numbers]
            tiles = prepared.windows[numbers[0]].tiles
            runs.append(self.states(*together, seeds, settings, times, tiles))
        order = np.argsort(np.concatenate(batches))
        for now in zip(*runs, strict=True):
            states = [part for state in now for part in state.x_t.split(1)]
            estimates = [part for state in now for part in state.x0_hat.split(1)]
            yield Frame(
                prepared,
                gradient,
                tau,
                float(now[0].t[0]),
                now[0].step,
                now[0].steps,
                [states[place] for place in order],
                [estimates[place] for place in order],
                patches=settings.finish == "patches" and now[0].step == now[0].steps,
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

        ``image`` is (B, 3, H, W) in [-1, 1], the other maps (B, 1, H, W). Each sample has a seed of
        all its noise; ``grid`` is a name or times; ``tiles`` are evaluated apart and blended.
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

        def finish(state: SamplerState) -> SamplerState:
            if settings.finish != "patches" or state.step < state.steps:
                return state
            copied = copy_patches(state.x_t, mask)
            return dataclasses.replace(state, x_t=copied, x0_hat=copied)

        return map(finish, states)


def window_seed(seed: int, number: int) -> int:
    """Seed of a window's noise: the run's for the first, one derived from it for each other."""
    if number == 0:
        return seed
    return int(np.random.SeedSequence([seed, number]).generate_state(1, np.uint64)[0] >> 1)
