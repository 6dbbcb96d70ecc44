"""A run on a photo: windows, gradient, peak times, and the bridge in all windows at once."""

import dataclasses
import hashlib
import math
from collections.abc import Callable, Hashable, Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from asyncdsb.denoiser import BridgeDenoiser
from asyncdsb.gradient import GradientCompletion, image_gradient, known_gradient
from asyncdsb.networks.device import PRECISIONS, cast_layers, multiplying
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


def read_pair(image, mask) -> tuple[Photograph, np.ndarray]:
    """A photo and its hole (H, W) bool; raise ValueError if they cannot be restored."""
    original, hole = read_photograph(image), read_mask(mask)
    check_pair(original.rgb, hole)
    return original, hole


@dataclasses.dataclass(eq=False)
class Runner:
    """Both networks on their device, multiplying in a precision; settings are resolved."""

    denoiser: BridgeDenoiser
    completion: GradientCompletion
    device: torch.device
    precision: str
    _made: dict[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def stride(self) -> int:
        """Padded sizes of windows are multiples of it."""
        config = self.denoiser.config
        shapes = config.unet, config.guide or config.unet, self.completion.config.generator
        return math.lcm(*(shape.stride for shape in shapes))

    def _once(self, what: str, key: Hashable, make: Callable[[], Any]) -> Any:
        """The value of a key; ``make`` it unless it was the last of its kind that was made."""
        # The page predicts the gradient of a hole before it restores it, with several seeds.
        made = self._made.get(what)  # Read once, because threads share it.
        if made is None or made[0] != key:
            made = self._made[what] = None  # Freed first: it may be large.
            made = self._made[what] = key, make()
        return made[1]

    @property
    def evaluated(self) -> BridgeDenoiser:
        """The denoiser as a run evaluates it; made anew when its weights have changed."""
        denoiser, dtype = self.denoiser, PRECISIONS[self.precision]
        if dtype is None or denoiser.unet._compiled_call_impl is not None:
            return denoiser
        # Tensors that were made in inference mode count no changes.
        weights = denoiser.parameters()
        known = ((p.data_ptr(), p.is_inference() or p._version) for p in weights)
        key = (denoiser.config, *known)
        return self._once("evaluated", key, partial(cast_layers, denoiser, dtype))

    @property
    def head(self) -> bool:
        """Whether the weights work in a square around a head, not in windows around holes."""
        return self.denoiser.config.window == "head"

    def windows(self, hole: np.ndarray, tiles: int, box: Box | None = None) -> tuple[Window, ...]:
        """The windows over a hole (H, W) bool; without a ``box``, a head has the largest square.

        ValueError on a box that does not fit, or with weights that take none.
        """
        resolution = self.denoiser.config.resolution
        if self.head:
            chosen = largest_square(hole) if box is None else box
            check_box(chosen, hole)
            return (Window.at(hole, chosen, resolution, self.stride),)
        if box is not None:
            raise ValueError(f"expected no box with weights that are not for portraits, got {box}")
        make = partial(windows_over, hole, resolution, self.stride, tiles)
        return self._once("windows", (_digest(hole), tiles), make)

    def box(self, photo: np.ndarray, hole: np.ndarray) -> Box | None:
        """Choose the square around a head; None for weights that work in windows around holes."""
        if not self.head:
            return None
        return self._once("box", _digest(photo, hole), partial(head_box, photo, hole))

    def prepare(self, image, mask, tiles: int, box: Box | None) -> Prepared:
        """Read a photo and its mask and cut the networks' inputs out of them.

        ValueError: of :func:`read_pair` and :meth:`windows`.
        """
        original, hole = read_pair(image, mask)
        photo = original.rgb
        box = self.box(photo, hole) if box is None else box
        key = _digest(photo, hole), tiles, box and tuple(box)

        def cut() -> Prepared:
            windows = self.windows(hole, tiles, box)
            known, filled = photo, None
            if box is not None:
                # Nothing hidden may show beyond the window, nor in the gradients along its edge.
                known = filled = photo.copy()
                fill_smoothly(filled, hole)
            inputs = known, hole, filled is not None
            cuts = zip(*(window.cut(*inputs) for window in windows), strict=True)
            images, masks = (tuple(x.to(self.device) for x in part) for part in cuts)
            return Prepared(original, hole, windows, images, masks, key, box, filled)

        # The photo itself is the caller's, who may change it.
        return dataclasses.replace(self._once("prepared", key, cut), original=original, hole=hole)

    def complete(self, image: Tensor, mask: Tensor, tiles: Tiles | None = None) -> Tensor:
        """Gradient maps (B, 1, H, W) in [0, 1] of pictures (B, 3, H, W) and masks (B, 1, H, W)."""
        if tiles is not None:
            found = tiles.blend(lambda some: self.complete(some.cut(image), some.cut(mask)))
            known, unknown = known_gradient(image, mask)
            return torch.where(unknown > 0.5, found, known)
        with multiplying(self.precision, self.device):
            return self.completion(image, mask)

    def gradient(self, prepared: Prepared) -> np.ndarray:
        """Gradient map (H, W) float32 in [0, 1] of a photo, completed in each of its windows."""
        # A copy, because the caller may change it.
        return self._once("gradient", prepared.key, partial(self._completed, prepared)).copy()

    def _completed(self, prepared: Prepared) -> np.ndarray:
        # Windows of another scale keep their values, because the gradients of photographs are
        # distributed nearly alike at every scale.
        photo, finest = prepared.photo, _finest(prepared.windows)
        if finest.scale < 1:
            height, width = finest.photo_at_work_scale()
            photo = np.asarray(Image.fromarray(photo).resize((width, height), Image.Resampling.BOX))
        whole = resize(torch.from_numpy(gradient_of(photo))[None, None], finest.photo)
        around = whole[0, 0].numpy()
        parts = zip(prepared.windows, prepared.images, prepared.masks, strict=True)
        # Where windows overlap the finer one is written last.
        for window, image, mask in sorted(parts, key=lambda part: part[0].scale):
            part = window.enlarge(self.complete(image, mask, window.tiles))[0, 0].cpu().numpy()
            np.copyto(around[window.slices], part, where=window.settled(prepared.hole))
        return around.clip(0, 1)

    def tau(
        self, hole: np.ndarray, windows: Sequence[Window], gradient: np.ndarray, settings: Settings
    ) -> np.ndarray:
        """Peak times (H, W) float32 in [0, 1] of a photo, for its gradient, likewise."""
        if not isinstance(settings.strategy, str):
            return np.array(settings.strategy, np.float32)
        size = _finest(windows).photo_at_work_scale()  # At which a named strategy works.
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
        windows, config = prepared.windows, self.denoiser.config
        gradient = self.gradient(prepared)
        tau = self.tau(prepared.hole, windows, gradient, settings)
        gradients = [window.shrink(gradient).to(self.device) for window in windows]
        taus = [window.shrink(tau).to(self.device).clamp(0, 1) for window in windows]
        # One grid for all windows, so that their states belong together.
        peaks, holes = (torch.cat([x.flatten() for x in maps]) for maps in (taus, prepared.masks))
        noise = config.hole_noise, 0.0 if settings.sampler == "ode" else None
        times = time_grid(settings.grid, settings.steps, peaks, holes, config.schedule, *noise)
        batches, runs = prepared.batches(), []
        for numbers in batches:
            inputs = (prepared.images, prepared.masks, gradients, taus)
            x, mask, edges, peaks = (torch.cat([part[n] for n in numbers]) for part in inputs)
            seeds = [_seed(settings.seed, number) for number in numbers]
            tiles = windows[numbers[0]].tiles
            runs.append(self.states(x, mask, edges, peaks, seeds, settings, times, tiles))
        places = np.argsort(np.concatenate(batches))
        for now in zip(*runs, strict=True):
            states = [part for state in now for part in state.x_t.split(1)]
            estimates = [part for state in now for part in state.x0_hat.split(1)]
            states, estimates = ([x[place] for place in places] for x in (states, estimates))
            t, step, steps = float(now[0].t[0]), now[0].step, now[0].steps
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
        all its noise; ``grid`` is a name or times.
        """
        generators = [torch.Generator().manual_seed(int(seed)) for seed in seeds]
        noise = torch.stack([torch.randn(image.shape[1:], generator=g) for g in generators])
        stochastic = torch.full((len(image),), settings.sampler != "ode", device=self.device)
        noise = self.denoiser.start_noise(noise.to(self.device))
        context = self.denoiser.context(image, mask, gradient, stochastic, noise)
        denoise = self.evaluated.bind(context, tiles, settings.guidance)
        denoise = multiplying(self.precision, self.device)(denoise)

        def finish(state: SamplerState) -> SamplerState:
            if settings.finish != "patches" or state.step < state.steps:
                return state
            copied = copy_patches(state.x_t, mask)
            return dataclasses.replace(state, x_t=copied, x0_hat=copied)

        names = "steps", "sampler", "eta", "solver_order"
        options = {name: getattr(settings, name) for name in names}
        options |= {"grid": grid, "start_std": self.denoiser.config.hole_noise}
        inputs = (context.x1, mask, tau, self.denoiser.config.schedule)
        return map(finish, sample(denoise, *inputs, **options, generators=generators))


def gradient_of(photo: np.ndarray, rows: int = 512) -> np.ndarray:
    """Gradient map (H, W) float32 of a whole photo, strip by strip to save memory."""
    strips = []
    for first in range(0, len(photo), rows):
        # One more row at either side, which Sobel's operator looks at.
        top = max(first - 1, 0)
        strip = image_gradient(to_tensor(photo[top : first + rows + 1]))[0, 0]
        strips.append(strip[first - top :][:rows])
    return torch.cat(strips).numpy()


def _digest(*arrays: np.ndarray) -> bytes:
    """What tells arrays from others."""
    found = hashlib.blake2b()
    for values in arrays:
        found.update(repr(values.shape).encode())
        packed = np.packbits(values) if values.dtype == bool else np.ascontiguousarray(values)
        found.update(packed.data)
    return found.digest()


def _seed(seed: int, number: int) -> int:
    """Of a window's noise: the run's for the first window, one derived from it for each other."""
    derived = np.random.SeedSequence([seed, number]).generate_state(1, np.uint64)
    return int(derived[0] >> 1) if number else seed


def _finest(windows: Sequence[Window]) -> Window:
    return max(windows, key=lambda window: window.scale)
