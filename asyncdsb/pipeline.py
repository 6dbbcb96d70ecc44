"""The one door to the package: a photo and a mask go in, the restored photo comes out."""

from __future__ import annotations

import dataclasses
import hashlib
import math
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from asyncdsb import hub
from asyncdsb.card import CARD, model_card, read_card, without_pictures
from asyncdsb.checkpoint import load_weights, save_weights
from asyncdsb.denoiser import BridgeConfig, BridgeDenoiser
from asyncdsb.device import chosen_precision, compiles, usable
from asyncdsb.gradient import (
    GradientCompletion,
    GradientConfig,
    image_gradient,
    known_gradient,
)
from asyncdsb.heads import Box, check_box, head_box, largest_square
from asyncdsb.images import (
    check_pair,
    read_mask,
    to_tensor,
    write_atomic,
)
from asyncdsb.networks import CompletionConfig, UNetConfig
from asyncdsb.original import Photograph, read_photograph
from asyncdsb.patches import copy_patches
from asyncdsb.regions import windows_over
from asyncdsb.restoration import (
    LEFT_TO_WEIGHTS,
    Frame,
    Job,
    Result,
    Settings,
    check_painted,
)
from asyncdsb.samplers import SamplerState, sample, time_grid
from asyncdsb.schedule import inward_tau, tau_map, uniform_tau
from asyncdsb.tiles import Tiles
from asyncdsb.window import Window, fill_smoothly, resize

_HERE = Path(__file__).resolve().parent
_INSTALLED, _CHECKOUT = _HERE / "weights", _HERE.parent / "assets" / "weights"
BUNDLED = _INSTALLED if _INSTALLED.is_dir() else _CHECKOUT
"""Folder of the weights that come with the project: a wheel has it in the package, a checkout
beside it."""

BUNDLED_NAMES = ("scenes", "portraits")
"""Bundled weights, each a folder in :data:`BUNDLED`. The first are the default."""

PRECISIONS = {"auto": None, "fp32": None, "bf16": torch.bfloat16}
"""Types in which the networks may multiply, all else being done in float32. "auto" is bf16 on a
device on which it is faster, else fp32."""


class AsyncDSBPipeline:
    """Both networks and everything between them and a photo.

    Args:
        denoiser: the trained bridge.
        completion: the trained gradient completion.
        device: where to run; None takes a GPU if there is one.
        training: facts about the training of both, by kind.
        card: Markdown to write beside the weights; None for :func:`asyncdsb.card.model_card`.
        precision: one of :data:`PRECISIONS`. Half precision gives slightly other pictures.
        compiled: whether torch.compile makes the bridge's network faster, with the same pictures
            up to rounding. It takes a minute at the first run of every size of window and batch, of
            eight at most; what comes after that runs as it is.

    Raises:
        ValueError: if torch cannot use the device, on another precision, or if what is to be
            compiled cannot be.

    >>> import numpy as np
    >>> pipe = AsyncDSBPipeline.random()  # from_pretrained() for weights that were trained
    >>> photo = np.full((64, 96, 3), 128, np.uint8)
    >>> mask = np.zeros((64, 96), bool)
    >>> mask[20:40, 30:60] = True  # missing
    >>> result = pipe(photo, mask, steps=2, seed=1)
    >>> result.image.size, result.tau.shape, len(result.trajectory)
    ((96, 64), (64, 96), 3)
    >>> bool((np.asarray(result.image)[~mask] == 128).all())
    True
    """

    def __init__(
        self,
        denoiser: BridgeDenoiser,
        completion: GradientCompletion,
        device: str | torch.device | None = None,
        training: dict | None = None,
        card: str | None = None,
        precision: str = "auto",
        compiled: bool = False,
    ):
        _check_precision(precision)
        self.device = usable(device)
        self.precision = chosen_precision(precision, self.device)
        if compiled and not compiles(self.device):
            raise ValueError(
                "expected a compiler that torch can use for the network (g++ and Python's headers"
                " on a CPU, gcc and Triton on a GPU), found none"
            )
        self.denoiser = denoiser.eval().requires_grad_(False)
        self.denoiser.to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        if compiled:
            # Dynamic sizes take longer than no compilation at all on a CPU, and fail for a batch.
            self.denoiser.unet.compile(dynamic=False)
        # Not channels-last: instance normalisation returns plain tensors, and layers would copy.
        self.completion = completion.eval().requires_grad_(False).to(self.device)
        self.config = denoiser.config
        self._chosen: tuple[tuple | None, tuple[Window, ...]] = (None, ())
        self.training = training or {}
        self.card = card

    @classmethod
    def from_pretrained(
        cls,
        source: str | Path | None = None,
        device: str | torch.device | None = None,
        revision: str | None = None,
        precision: str = "auto",
        compiled: bool = False,
    ) -> AsyncDSBPipeline:
        """Load trained weights.

        Args:
            source: one of :data:`BUNDLED_NAMES`, a folder, or "user/repo" on the Hugging Face Hub;
                None for the first of the bundled weights.
            device: see the class.
            revision: branch, tag or commit on the Hub.
            precision: see the class.
            compiled: see the class.

        Returns:
            The pipeline.

        Raises:
            ValueError: if there are no such weights, or they are damaged or of another version.
        """
        _check_precision(precision)
        source = BUNDLED_NAMES[0] if source is None else source
        bundled = source in BUNDLED_NAMES
        folder = BUNDLED / source if bundled else Path(source)
        if not folder.is_dir():
            if bundled:
                raise ValueError(f"weights not found: expected the bundled weights in {folder}")
            folder = hub.download(str(source), revision)
        denoiser, bridge_training = load_weights(folder, "bridge")
        completion, gradient_training = load_weights(folder, "gradient")
        training = {"bridge": bridge_training, "gradient": gradient_training}
        return cls(denoiser, completion, device, training, read_card(folder), precision, compiled)

    @classmethod
    def random(cls, seed: int = 0, device: str | torch.device = "cpu") -> AsyncDSBPipeline:
        """A tiny pipeline with random weights, for tests and for trying out an installation."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            unet = UNetConfig(16, (1, 2), 1, (False, True), head_channels=16)
            denoiser = BridgeDenoiser(BridgeConfig(unet=unet))
            for parameter in denoiser.unet.get_submodule("head").parameters():
                torch.nn.init.normal_(parameter, std=0.02)
            generator = CompletionConfig(width=4, blocks=1)
            return cls(denoiser, GradientCompletion(GradientConfig(generator)), device)

    def save_pretrained(self, folder: str | Path) -> None:
        """Write both networks and their card to a folder that :meth:`from_pretrained` loads.

        Args:
            folder: made if need be; holds safetensors in half precision, JSON and ``README.md``.
        """
        save_weights(folder, self.denoiser, self.training.get("bridge", {}))
        save_weights(folder, self.completion, self.training.get("gradient", {}))
        card = self.card or model_card(self)
        if read_card(Path(folder)) != card:
            card = without_pictures(card)
        write_atomic(Path(folder) / CARD, lambda path: Path(path).write_text(card, "utf-8"))

    def push_to_hub(
        self, repo: str, private: bool = False, commit_message: str = "AsyncDSB weights"
    ) -> str:
        """Upload what :meth:`save_pretrained` writes to the Hugging Face Hub, in one commit.

        The card that was found beside the weights goes with them. Without one, what is written
        leaves the licence open: it depends on the photographs and on the weights that a training
        started from.

        Args:
            repo: "user/repo", made if need be.
            private: whether a repository that is made is private.
            commit_message: of the commit.

        Returns:
            Address of the commit.

        Raises:
            ValueError: if the Hub cannot be reached or does not allow it.
        """
        with tempfile.TemporaryDirectory() as folder:
            self.save_pretrained(folder)
            return hub.upload(Path(folder), repo, commit_message, private)

    @property
    def samplers(self) -> tuple[str, ...]:
        """Samplers that the weights were trained for."""
        return self.config.samplers

    def __call__(self, image, mask, *, trajectory: bool = True, **settings) -> Result:
        """Restore the hole of a photo.

        Args:
            image: path, PIL picture, or uint8 or uint16 array, (H, W) grey, (H, W, 3) RGB or (H, W,
                4) with alpha; see :func:`asyncdsb.original.read_photograph`.
            mask: path, PIL picture (white = hole), or (H, W) array, bool or uint8; see
                :func:`asyncdsb.images.read_mask`.
            trajectory: whether to keep the frames.
            **settings: fields of :class:`Settings`.

        Returns:
            The result.

        Raises:
            ValueError: on anything that cannot be restored, see :func:`check_pair` and
                :meth:`Settings.check`.
        """
        frames: list[Frame] = []
        for frame in self.stream(image, mask, **settings):
            frames = [*frames, frame] if trajectory else [frame]
        last = frames[-1]
        restored = last.photograph
        return Result(
            image=restored.picture,
            gradient=last.gradient,
            tau=last.tau,
            trajectory=frames if trajectory else [],
            settings=self.record(Settings(**settings), last.job.box),
            photograph=restored,
        )

    def resolved(self, chosen: Settings) -> Settings:
        """The settings with what the weights decide put in, so that they say all."""
        left = [name for name in LEFT_TO_WEIGHTS if getattr(chosen, name) is None]
        return dataclasses.replace(chosen, **{name: getattr(self.config, name) for name in left})

    def record(self, chosen: Settings, box: Box | None = None) -> dict:
        """What gives a picture again with these weights, JSON-serialisable.

        The settings as :meth:`resolved`, and the precision where it is not float32.

        Args:
            chosen: settings of the run.
            box: ``frame.job.box`` of any of its frames, where the run itself chose it.
        """
        other = {} if self.precision == "fp32" else {"precision": self.precision}
        if box is not None:
            chosen = dataclasses.replace(chosen, box=box)
        return self.resolved(chosen).as_dict() | other

    def stream(self, image, mask, **settings) -> Iterator[Frame]:
        """Restore the hole of a photo, yielding a frame per state as it is computed.

        Takes what :meth:`__call__` takes, and raises the same errors at once, before the first
        frame is asked for.

        Returns:
            Iterator over ``steps + 1`` frames; the last one's ``image`` is the result.
        """
        chosen = Settings(**settings)
        chosen.check(self.samplers)
        job = self._job(image, mask, chosen.tiles, chosen.box)
        if not isinstance(chosen.strategy, str):
            check_painted(chosen.strategy, job.hole.shape)
        return self._frames(job, chosen)

    @torch.no_grad()
    def _frames(self, job: Job, chosen: Settings) -> Iterator[Frame]:
        gradient = self._complete(job)
        tau = self._tau(
            job.hole, job.windows, gradient, chosen.tau_min, chosen.tau_max, chosen.strategy
        )
        gradients = [window.shrink(gradient).to(self.device) for window in job.windows]
        taus = [window.shrink(tau).to(self.device).clamp(0, 1) for window in job.windows]
        times = time_grid(
            chosen.grid,
            chosen.steps,
            # One grid for all windows, so that their states belong together.
            torch.cat([values.flatten() for values in taus]),
            torch.cat([mask.flatten() for mask in job.masks]),
            self.config.schedule,
            self.config.hole_noise,
            0.0 if chosen.sampler == "ode" else None,
        )
        finish = self.resolved(chosen).finish or "none"
        batches = job.batches()
        runs = [
            self._run(
                torch.cat([job.images[number] for number in numbers]),
                torch.cat([job.masks[number] for number in numbers]),
                torch.cat([gradients[number] for number in numbers]),
                torch.cat([taus[number] for number in numbers]),
                [_seed_of(chosen.seed, number) for number in numbers],
                chosen,
                times,
                job.windows[numbers[0]].tiles,
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
            t = float(first.t[0])
            done = finish if first.step == first.steps else "none"
            yield Frame(job, gradient, tau, t, first.step, first.steps, states, estimates, done)

    @torch.no_grad()
    def restore_batch(
        self, images: Tensor, masks: Tensor, seeds: Sequence[int], **settings
    ) -> Tensor:
        """Restore a batch of equally large pictures at the networks' own resolution.

        Sample i depends on its picture, mask and seed alone.

        Args:
            images: (B, 3, H, W) in [-1, 1], H and W multiples of the network's stride.
            masks: (B, 1, H, W), 1 = missing.
            seeds: one per sample.
            **settings: fields of :class:`Settings` other than ``seed``; a named strategy.

        Returns:
            (B, 3, H, W) in [-1, 1] on the CPU, known pixels equal to the input's.

        Raises:
            ValueError: on settings out of range, another number of seeds, or sides that are no
                multiples of the stride.
        """
        _, states = self.trace(images, masks, seeds, **settings)
        *_, last = states
        return last.x_t.cpu()

    def trace(
        self, images: Tensor, masks: Tensor, seeds: Sequence[int], **settings
    ) -> tuple[Tensor, Iterator[SamplerState]]:
        """Like :meth:`restore_batch`, with every state of the runs.

        Returns:
            (B, 1, H, W) tau maps, and the sampler's states as they are computed, all on the
            pipeline's device.
        """
        chosen = Settings(**settings)
        chosen.check(self.samplers)
        if not isinstance(chosen.strategy, str):
            raise ValueError("expected a named strategy for a batch, got an array")
        if chosen.box is not None:
            raise ValueError(f"expected no box for a batch, got {chosen.box}")
        if len(seeds) != len(images):
            raise ValueError(f"expected {len(images)} seeds, got {len(seeds)}")
        if any(side % self._stride for side in images.shape[2:]):
            raise ValueError(
                f"expected sides that are multiples of {self._stride},"
                f" got {tuple(images.shape[2:])}"
            )
        images, masks = images.to(self.device), (masks > 0.5).float().to(self.device)
        with torch.no_grad():
            gradient = self._completed(images, masks)
            tau = self._layout(chosen.strategy, gradient, masks, chosen.tau_min, chosen.tau_max)
        return tau, self._run(images, masks, gradient, tau, seeds, chosen, chosen.grid)

    @torch.no_grad()
    def predict_gradient(
        self, image, mask, tiles: int = Settings.tiles, box: Box | None = None
    ) -> np.ndarray:
        """Complete the gradient map of a photo (step 1 alone).

        Args:
            image: see :meth:`__call__`.
            mask: likewise.
            tiles: see :class:`Settings`.
            box: likewise.

        Returns:
            (H, W) float32 in [0, 1].

        Raises:
            ValueError: if the pair cannot be restored.
        """
        Settings(tiles=tiles, box=box).check(("posterior",))
        return self._complete(self._job(image, mask, tiles, box))

    def head_box(self, image, mask) -> Box | None:
        """The box in which weights for portraits restore a photo unless they are given one.

        Args:
            image: see :meth:`__call__`.
            mask: likewise.

        Returns:
            Left edge, top edge and side in photo pixels; None with other weights.

        Raises:
            ValueError: if the pair cannot be restored.
        """
        original, hole = _pair(image, mask)
        return head_box(original.rgb, hole) if self.config.window == "head" else None

    @torch.no_grad()
    def tau_map(
        self,
        gradient: np.ndarray,
        mask,
        tau_min: float,
        tau_max: float,
        strategy: str | np.ndarray = "gradient",
        tiles: int = Settings.tiles,
        box: Box | None = None,
    ) -> np.ndarray:
        """Per-pixel peak time for a completed gradient map; runs no network.

        Args:
            gradient: (H, W) map of :meth:`predict_gradient`.
            mask: mask of the same size.
            tau_min: see :class:`Settings`.
            tau_max: see :class:`Settings`.
            strategy: see :class:`Settings`.
            tiles: see :class:`Settings`.
            box: of :meth:`head_box`; without it, weights for portraits lay the map out as if no
                head had been found.

        Returns:
            (H, W) float32 in [0, 1].

        Raises:
            ValueError: if sizes differ or the range or strategy is not valid.
        """
        chosen = Settings(tau_min, tau_max, strategy=strategy, tiles=tiles, box=box)
        chosen.check(("posterior",))
        gradient, hole = np.asarray(gradient, np.float32), read_mask(mask)
        if not isinstance(strategy, str):
            check_painted(strategy, hole.shape)
        if gradient.shape != hole.shape:
            raise ValueError(f"expected a gradient map of shape {hole.shape}, got {gradient.shape}")
        check_pair(gradient[..., None], hole)
        windows = self._windows(hole, tiles, box)
        return self._tau(hole, windows, gradient, tau_min, tau_max, strategy)

    def work(self, mask, tiles: int = Settings.tiles, box: Box | None = None) -> int:
        """Pixels that the bridge's network is evaluated on in one step, for the hole of a photo.

        Args:
            mask: (H, W), see :meth:`__call__`.
            tiles: see :class:`Settings`.
            box: likewise.
        """
        return sum(window.evaluated for window in self._windows(read_mask(mask), tiles, box))

    @property
    def _stride(self) -> int:
        """Of what number both networks need sides to be multiples."""
        return math.lcm(self.config.unet.stride, self.completion.config.generator.stride)

    def _windows(self, hole: np.ndarray, tiles: int, box: Box | None = None) -> tuple[Window, ...]:
        """Windows over a hole; the last ones are kept, as one hole is asked about several times."""
        if self.config.window == "head":
            chosen = largest_square(hole) if box is None else box
            return (Window.at(hole, chosen, self.config.resolution, self._stride),)
        key = (hole.shape, tiles, hashlib.blake2b(np.packbits(hole).tobytes()).digest())
        known, windows = self._chosen
        if key != known:
            windows = windows_over(hole, self.config.resolution, self._stride, tiles)
            self._chosen = key, windows
        return windows

    def _job(self, image, mask, tiles: int, box: Box | None = None) -> Job:
        original, hole = _pair(image, mask)
        photo = original.rgb
        rest: np.ndarray | None = None
        if self.config.window == "head":
            left, top, side = box = head_box(photo, hole) if box is None else box
            check_box(box, hole)
            outside = hole.copy()
            outside[top : top + side, left : left + side] = False
            rest = outside if outside.any() else None
            # Nothing hidden may show beyond the window, nor in the gradients along its edge.
            photo = photo.copy()
            fill_smoothly(photo, hole)
        elif box is not None:
            raise ValueError(f"expected no box with weights that are not for portraits, got {box}")
        windows = self._windows(hole, tiles, box)
        images, masks = zip(*(window.cut(photo, hole) for window in windows), strict=True)
        return Job(
            original,
            photo,
            hole,
            windows,
            tuple(image.to(self.device) for image in images),
            tuple(mask.to(self.device) for mask in masks),
            rest,
            box,
            _is_grey(original, hole),
        )

    def _complete(self, job: Job) -> np.ndarray:
        """Gradient map of the whole photo at the finest window's scale, completed in each.

        Values of windows of another scale are taken as they are: the gradients of photographs are
        distributed nearly alike at every scale.
        """
        photo, finest = job.photo, _finest(job.windows)
        if finest.scale < 1:
            height, width = finest.photo_at_work_scale()
            photo = np.asarray(Image.fromarray(photo).resize((width, height), Image.Resampling.BOX))
        whole = resize(torch.from_numpy(_gradient_of(photo))[None, None], finest.photo)[0, 0]
        around = whole.numpy()
        parts = zip(job.windows, job.images, job.masks, strict=True)
        # Where windows overlap the finer one has the last word.
        for window, image, mask in sorted(parts, key=lambda part: part[0].scale):
            if window.tiles is None:
                completed = self._completed(image, mask)
            else:

                def on(some: Tiles, image: Tensor = image, mask: Tensor = mask) -> Tensor:
                    return self._completed(some.cut(image), some.cut(mask))

                found = window.tiles.blend(on)
                known, unknown = known_gradient(image, mask)
                completed = torch.where(unknown > 0.5, found, known)
            part = window.enlarge(completed)[0, 0].cpu().numpy()
            settled = window.own | ~window.others(job.hole)
            np.copyto(around[window.slices], part, where=settled)
        return around.clip(0, 1)

    def _tau(
        self,
        hole: np.ndarray,
        windows: Sequence[Window],
        gradient: np.ndarray,
        tau_min: float,
        tau_max: float,
        strategy: str | np.ndarray,
    ) -> np.ndarray:
        """Tau map of the whole photo, laid out at the finest window's scale."""
        if not isinstance(strategy, str):
            return np.asarray(strategy, np.float32)
        size = _finest(windows).photo_at_work_scale()
        small = (resize(torch.from_numpy(hole)[None, None].float(), size) > 1e-3).float()
        values = resize(torch.from_numpy(gradient)[None, None], size)
        tau = self._layout(strategy, values, small, tau_min, tau_max)
        return resize(tau, hole.shape)[0, 0].clamp(tau_min, tau_max).numpy()

    def _completed(self, image: Tensor, mask: Tensor) -> Tensor:
        with self._multiplying():
            return self.completion(image, mask)

    def _multiplying(self) -> torch.autocast:
        chosen = PRECISIONS[self.precision]
        return torch.autocast(self.device.type, chosen, enabled=chosen is not None)

    def _layout(
        self, strategy: str, gradient: Tensor, hole: Tensor, tau_min: float, tau_max: float
    ) -> Tensor:
        if strategy == "uniform":
            return uniform_tau(hole, tau_min, tau_max)
        if strategy == "inward":
            return inward_tau(hole, tau_min, tau_max)
        return tau_map(gradient, tau_min, tau_max, self.config.blur_sigma, hole)

    def _run(
        self,
        image: Tensor,
        mask: Tensor,
        gradient: Tensor,
        tau: Tensor,
        seeds: Sequence[int],
        chosen: Settings,
        grid: str | Tensor,
        tiles: Tiles | None = None,
    ) -> Iterator[SamplerState]:
        """The sampler's states for a batch at the networks' resolution."""
        generators = [torch.Generator().manual_seed(int(seed)) for seed in seeds]
        noise = torch.stack([torch.randn(image.shape[1:], generator=g) for g in generators])
        stochastic = torch.full((len(image),), chosen.sampler != "ode", device=self.device)
        context = self.denoiser.context(image, mask, gradient, stochastic, noise.to(self.device))
        schedule = self.config.schedule
        bound = self.denoiser.bind(context, schedule.total_var, tiles)

        def denoise(x_t: Tensor, t: Tensor, s: Tensor) -> Tensor:
            with self._multiplying():
                return bound(x_t, t, s)

        states = sample(
            denoise,
            context.x1,
            mask,
            tau,
            schedule,
            steps=chosen.steps,
            sampler=chosen.sampler,
            eta=chosen.eta,
            grid=grid,
            start_std=self.config.hole_noise,
            generators=generators,
        )
        return _with_patches(states, mask) if self.resolved(chosen).finish == "patches" else states


def _pair(image, mask) -> tuple[Photograph, np.ndarray]:
    """A photo and its hole (H, W) bool, read and checked."""
    original = read_photograph(image)
    hole = read_mask(mask)
    check_pair(original.rgb, hole)
    return original, hole


def _is_grey(original: Photograph, hole: np.ndarray) -> bool:
    """Whether what is known of a photo has no colour."""
    red, green, blue = (original.rgb[..., channel] for channel in range(3))
    return original.colours == 1 or bool(((red == green) & (green == blue) | hole).all())


def _with_patches(states: Iterator[SamplerState], mask: Tensor) -> Iterator[SamplerState]:
    """The same states, with known patches copied into the last one."""
    for state in states:
        if state.step == state.steps:
            result = copy_patches(state.x_t, mask)
            state = dataclasses.replace(state, x_t=result, x0_hat=result)
        yield state


def _finest(windows: Sequence[Window]) -> Window:
    return max(windows, key=lambda window: window.scale)


def _seed_of(seed: int, number: int) -> int:
    """Seed of a window's noise: the run's for the first, and one derived from it for others."""
    if number == 0:
        return seed
    return int(np.random.SeedSequence([seed, number]).generate_state(1, np.uint64)[0] >> 1)


def _gradient_of(photo: np.ndarray, rows: int = 512) -> np.ndarray:
    """Gradient map (H, W) float32 of a whole photo, strip by strip to spare memory."""
    height = len(photo)
    found = np.empty(photo.shape[:2], np.float32)
    for first in range(0, height, rows):
        last = min(first + rows, height)
        # One more row at either side, which Sobel's operator looks at.
        top, bottom = max(first - 1, 0), min(last + 1, height)
        strip = image_gradient(to_tensor(np.ascontiguousarray(photo[top:bottom])))
        found[first:last] = strip[0, 0, first - top : first - top + last - first].numpy()
    return found


def _check_precision(precision: str) -> None:
    if precision not in PRECISIONS:
        raise ValueError(f"expected a precision out of {', '.join(PRECISIONS)}, got {precision!r}")
