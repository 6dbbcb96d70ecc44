"""A run on a photo: windows, gradient, peak times, and the bridge in all windows at once."""

from __future__ import annotations

import dataclasses
import hashlib
import math
from collections.abc import Callable, Hashable, Iterator, Sequence
from typing import Generic, TypeVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from asyncdsb.denoiser import BridgeDenoiser
from asyncdsb.gradient import GradientCompletion, image_gradient, known_gradient
from asyncdsb.networks.device import multiplying
from asyncdsb.photo.heads import Box, check_box, head_box, largest_square
from asyncdsb.photo.images import check_pair, to_tensor
from asyncdsb.photo.mask_files import read_mask
from asyncdsb.photo.original import Photograph, read_photograph
from asyncdsb.photo.patches import copy_patches
from asyncdsb.photo.result import Frame, Prepared
from asyncdsb.photo.settings import Settings
from asyncdsb.photo.tiles import Tiles
from asyncdsb.photo.window import Window, fill_smoothly, resize, windows_over
from asyncdsb.samplers import SamplerState, sample, time_grid
from asyncdsb.schedule import inward_tau, tau_map, uniform_tau

KEPT = 16_000_000
"""Most pixels of a photo whose inputs and gradient are kept for the next call (for the memory)."""

T = TypeVar("T")


class Latest(Generic[T]):
    """The value that was made last, kept for the next call with the same key.

    The page predicts the gradient of a hole before it restores it, and restores it with several
    seeds: the same inputs come again and again.
    """

    def __init__(self) -> None:
        self._entry: tuple[Hashable, T] | None = None

    def get(self, key: Hashable, make: Callable[[], T]) -> T:
        """Return the value of a key; ``make`` it if another one was made last, or for None."""
        entry = self._entry  # Read once, because threads share it.
        if entry is not None and entry[0] == key:
            return entry[1]
        # Freed first: it may be large.
        self._entry = entry = None
        value = make()
        if key is not None:
            self._entry = key, value
        return value


Inputs = tuple[
    np.ndarray | None, tuple[Window, ...], tuple[Tensor, ...], tuple[Tensor, ...], np.ndarray | None
]
"""A head's photo with its hole filled, and the fields windows, images, masks, rest of Prepared."""


def read_pair(image, mask) -> tuple[Photograph, np.ndarray]:
    """A photo and its hole (H, W) bool; raise ValueError if they cannot be restored."""
    original, hole = read_photograph(image), read_mask(mask)
    check_pair(original.rgb, hole)
    return original, hole


class Runner:
    """Both networks on their device, multiplying in a precision; settings are resolved."""

    def __init__(
        self,
        denoiser: BridgeDenoiser,
        completion: GradientCompletion,
        device: torch.device,
        precision: str,
    ):
        self.denoiser, self.completion = denoiser, completion
        self.device, self.precision = device, precision
        self.stride = math.lcm(denoiser.config.unet.stride, completion.config.generator.stride)
        self._windows: Latest[tuple[Window, ...]] = Latest()
        self._box: Latest[Box] = Latest()
        self._inputs: Latest[Inputs] = Latest()
        self._gradient: Latest[np.ndarray] = Latest()

    @property
    def head(self) -> bool:
        """Whether the weights work in a square around a head, not in windows around holes."""
        return self.denoiser.config.window == "head"

    def windows(self, hole: np.ndarray, tiles: int, box: Box | None = None) -> tuple[Window, ...]:
        """Choose the windows over a hole (H, W) bool.

        ``tiles`` is the most fields of the networks, ``box`` a head's (None: the largest square).
        """
        resolution = self.denoiser.config.resolution
        if self.head:
            chosen = largest_square(hole) if box is None else box
            return (Window.at(hole, chosen, resolution, self.stride),)
        key = hole.shape, tiles, _digest(np.packbits(hole))
        return self._windows.get(key, lambda: windows_over(hole, resolution, self.stride, tiles))

    def box(self, photo: np.ndarray, hole: np.ndarray) -> Box | None:
        """Choose the square around a head; None for weights that work in windows around holes."""
        if not self.head:
            return None
        return self._box.get(_content(photo, hole), lambda: head_box(photo, hole))

    def prepare(self, image, mask, tiles: int, box: Box | None) -> Prepared:
        """Read a photo and its mask and cut the networks' inputs out of them.

        Without a ``box`` heads are looked for. ValueError: of :func:`read_pair`, or on a box that
        does not fit, or with weights that take none.
        """
        original, hole = read_pair(image, mask)
        if not self.head and box is not None:
            raise ValueError(f"expected no box with weights that are not for portraits, got {box}")
        photo = original.rgb
        content = _content(photo, hole)
        box = self.box(photo, hole) if box is None else box
        key = None if content is None else (content, tiles, box and tuple(box))
        made = self._inputs.get(key, lambda: self._cut(photo, hole, tiles, box))
        filled, windows, images, masks, rest = made
        # The photo itself is the caller's, who may change it.
        shown = photo if filled is None else filled
        return Prepared(original, shown, hole, windows, images, masks, rest, box, key)

    def _cut(self, photo: np.ndarray, hole: np.ndarray, tiles: int, box: Box | None) -> Inputs:
        filled = rest = None
        if box is not None:
            check_box(box, hole)
            left, top, side = box
            outside = hole.copy()
            outside[top : top + side, left : left + side] = False
            rest = outside if outside.any() else None
            # Nothing hidden may show beyond the window, nor in the gradients along its edge.
            photo = filled = photo.copy()
            fill_smoothly(filled, hole)
        windows = self.windows(hole, tiles, box)
        cuts = zip(*(window.cut(photo, hole) for window in windows), strict=True)
        images, masks = (tuple(x.to(self.device) for x in part) for part in cuts)
        return filled, windows, images, masks, rest

    def complete(self, image: Tensor, mask: Tensor) -> Tensor:
        """Gradient maps (B, 1, H, W) in [0, 1] of pictures (B, 3, H, W) and masks (B, 1, H, W)."""
        with multiplying(self.precision, self.device):
            return self.completion(image, mask)

    def gradient(self, prepared: Prepared) -> np.ndarray:
        """Gradient map (H, W) float32 in [0, 1] of a photo, completed in each of its windows.

        Windows of another scale keep their values, because the gradients of photographs are
        distributed nearly alike at every scale.
        """
        # A copy, because the caller may change it.
        return self._gradient.get(prepared.key, lambda: self._completed_over(prepared)).copy()

    def _completed_over(self, prepared: Prepared) -> np.ndarray:
        photo, finest = prepared.photo, _finest(prepared.windows)
        if finest.scale < 1:
            height, width = finest.photo_at_work_scale()
            photo = np.asarray(Image.fromarray(photo).resize((width, height), Image.Resampling.BOX))
        whole = resize(torch.from_numpy(gradient_of(photo))[None, None], finest.photo)
        around = whole[0, 0].numpy()
        parts = zip(prepared.windows, prepared.images, prepared.masks, strict=True)
        # Where windows overlap the finer one is written last.
        for window, image, mask in sorted(parts, key=lambda part: part[0].scale):
            found = self._completed(window, image, mask)
            settled = window.own | ~window.others(prepared.hole)
            part = window.enlarge(found)[0, 0].cpu().numpy()
            np.copyto(around[window.slices], part, where=settled)
        return around.clip(0, 1)

    def _completed(self, window: Window, image: Tensor, mask: Tensor) -> Tensor:
        if window.tiles is None:
            return self.complete(image, mask)
        found = window.tiles.blend(lambda some: self.complete(some.cut(image), some.cut(mask)))
        known, unknown = known_gradient(image, mask)
        return torch.where(unknown > 0.5, found, known)

    def tau(
        self, hole: np.ndarray, windows: Sequence[Window], gradient: np.ndarray, settings: Settings
    ) -> np.ndarray:
        """Peak times (H, W) float32 in [0, 1] of a photo: as painted, or of a named strategy.

        The latter works at the scale of the finest window, on a gradient (H, W) float32 in [0, 1].
        """
        if not isinstance(settings.strategy, str):
            return np.asarray(settings.strategy, np.float32)
        size = _finest(windows).photo_at_work_scale()
        missing, values = (torch.from_numpy(x)[None, None].float() for x in (hole, gradient))
        small, values = (resize(missing, size) > 1e-3).float(), resize(values, size)
        tau = resize(self.named_tau(settings, values, small), hole.shape)
        return tau[0, 0].clamp(settings.tau_min, settings.tau_max).numpy()

    def named_tau(self, settings: Settings, gradient: Tensor, hole: Tensor) -> Tensor:
        """Peak times (B, 1, H, W) of a named strategy, for a gradient and a hole of that shape."""
        low, high, strategy = settings.tau_min, settings.tau_max, settings.strategy
        if strategy in ("uniform", "inward"):
            return (uniform_tau if strategy == "uniform" else inward_tau)(hole, low, high)
        blur_sigma = self.denoiser.config.blur_sigma
        tau = tau_map(gradient, low, high, blur_sigma, hole, strategy == "ranked")
        return low + high - tau if strategy == "flat-first" else tau

    @torch.no_grad()
    def frames(self, prepared: Prepared, settings: Settings) -> Iterator[Frame]:
        """Restore all windows of a photo in step, yielding a frame per state."""
        gradient = self.gradient(prepared)
        tau = self.tau(prepared.hole, prepared.windows, gradient, settings)
        config = self.denoiser.config
        gradients = [window.shrink(gradient).to(self.device) for window in prepared.windows]
        taus = [window.shrink(tau).to(self.device).clamp(0, 1) for window in prepared.windows]
        # One grid for all windows, so that their states belong together.
        peaks, holes = (torch.cat([x.flatten() for x in maps]) for maps in (taus, prepared.masks))
        noise = config.hole_noise, 0.0 if settings.sampler == "ode" else None
        times = time_grid(settings.grid, settings.steps, peaks, holes, config.schedule, *noise)
        batches, runs = prepared.batches(), []
        for numbers in batches:
            inputs = (prepared.images, prepared.masks, gradients, taus)
            x, mask, edges, peaks = (torch.cat([part[n] for n in numbers]) for part in inputs)
            seeds = [_seed(settings.seed, number) for number in numbers]
            tiles = prepared.windows[numbers[0]].tiles
            runs.append(self.states(x, mask, edges, peaks, seeds, settings, times, tiles))
        places = np.argsort(np.concatenate(batches))
        for now in zip(*runs, strict=True):
            states = [part for state in now for part in state.x_t.split(1)]
            estimates = [part for state in now for part in state.x0_hat.split(1)]
            t, step, steps = float(now[0].t[0]), now[0].step, now[0].steps
            states, estimates = ([x[place] for place in places] for x in (states, estimates))
            patches = settings.finish == "patches" and step == steps
            yield Frame(prepared, gradient, tau, t, step, steps, states, estimates, patches)

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
        bound = self.denoiser.bind(context, tiles)

        def denoise(x_t: Tensor, t: Tensor, s: Tensor) -> Tensor:
            with multiplying(self.precision, self.device):
                return bound(x_t, t, s)

        def finish(state: SamplerState) -> SamplerState:
            if settings.finish != "patches" or state.step < state.steps:
                return state
            copied = copy_patches(state.x_t, mask)
            return dataclasses.replace(state, x_t=copied, x0_hat=copied)

        options = {name: getattr(settings, name) for name in ("steps", "sampler", "eta")}
        options |= {"grid": grid, "start_std": self.denoiser.config.hole_noise}
        inputs = (context.x1, mask, tau, self.denoiser.config.schedule)
        return map(finish, sample(denoise, *inputs, **options, generators=generators))


def gradient_of(photo: np.ndarray, rows: int = 512) -> np.ndarray:
    """Gradient map (H, W) float32 of a whole photo, strip by strip to save memory."""
    height = len(photo)
    found = np.empty(photo.shape[:2], np.float32)
    for first in range(0, height, rows):
        last = min(first + rows, height)
        # One more row at either side, which Sobel's operator looks at.
        top, bottom = max(first - 1, 0), min(last + 1, height)
        strip = image_gradient(to_tensor(np.ascontiguousarray(photo[top:bottom])))
        found[first:last] = strip[0, 0, first - top : last - top].numpy()
    return found


def _content(photo: np.ndarray, hole: np.ndarray) -> tuple | None:
    """What tells a photo and its hole from others; None for more than :data:`KEPT` pixels."""
    if hole.size > KEPT:
        return None
    return hole.shape, _digest(photo), _digest(np.packbits(hole))


def _digest(values: np.ndarray) -> bytes:
    return hashlib.blake2b(np.ascontiguousarray(values).data).digest()


def _seed(seed: int, number: int) -> int:
    """Of a window's noise: the run's for the first window, one derived from it for each other."""
    derived = np.random.SeedSequence([seed, number]).generate_state(1, np.uint64)
    return int(derived[0] >> 1) if number else seed


def _finest(windows: Sequence[Window]) -> Window:
    return max(windows, key=lambda window: window.scale)
