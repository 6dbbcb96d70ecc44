"""The one door to the package: a photo and a mask go in, the restored photo comes out."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from asyncdsb.checkpoint import load_weights, save_weights
from asyncdsb.denoiser import BridgeConfig, BridgeDenoiser
from asyncdsb.gradient import GradientCompletion, GradientConfig, image_gradient
from asyncdsb.images import check_pair, read_image, read_mask, to_pil, to_tensor
from asyncdsb.networks import CompletionConfig, UNetConfig
from asyncdsb.samplers import GRIDS, sample
from asyncdsb.schedule import STRATEGIES, check_tau_range, inward_tau, tau_map, uniform_tau
from asyncdsb.window import Window, resize

BUNDLED = Path(__file__).resolve().parent.parent / "assets" / "weights"
"""Weights that come with the project."""

PREVIEW = 512
"""Longest side in pixels of the frames of a trajectory."""


@dataclass(frozen=True)
class Settings:
    """What a run can be told, with the defaults.

    Attributes:
        tau_min: tau of the flattest hole pixel, in [0, 1].
        tau_max: tau of the steepest hole pixel, in [tau_min, 1]. (0.5, 0.5) is I2SB.
        steps: network evaluations, >= 1.
        sampler: "posterior", "ode" or "implicit".
        strategy: how tau is laid out, one of :data:`asyncdsb.schedule.STRATEGIES`, or an (H, W)
            array of tau in [0, 1].
        eta: share of fresh noise of the implicit sampler, in [0, 1].
        grid: "uniform" or "clock" time grid.
        seed: of all noise, 0 <= seed < 2**63.
    """

    tau_min: float = 0.2
    tau_max: float = 0.5
    steps: int = 20
    sampler: str = "posterior"
    strategy: str | np.ndarray = "gradient"
    eta: float = 0.0
    grid: str = "uniform"
    seed: int = 0

    def check(self, samplers: Sequence[str]) -> None:
        """Raise ValueError, saying what was expected and what came, unless all is in range."""
        check_tau_range(self.tau_min, self.tau_max)
        if not _whole(self.steps) or self.steps < 1:
            raise ValueError(f"expected a whole number of steps >= 1, got {self.steps}")
        if self.sampler not in samplers:
            raise ValueError(
                "expected a sampler that the weights were trained for "
                f"({', '.join(samplers)}), got {self.sampler!r}"
            )
        if isinstance(self.strategy, str) and self.strategy not in STRATEGIES:
            raise ValueError(
                f"expected a strategy out of {', '.join(STRATEGIES)} or an array, "
                f"got {self.strategy!r}"
            )
        if not 0 <= self.eta <= 1:
            raise ValueError(f"expected eta in [0, 1], got {self.eta}")
        if self.grid not in GRIDS:
            raise ValueError(f"expected a time grid out of {', '.join(GRIDS)}, got {self.grid!r}")
        if not _whole(self.seed) or not 0 <= self.seed < 2**63:
            raise ValueError(f"expected a whole seed with 0 <= seed < 2**63, got {self.seed}")

    def as_dict(self) -> dict:
        """JSON-serialisable form; a painted tau map is named, not copied."""
        painted = not isinstance(self.strategy, str)
        values = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        return values | ({"strategy": "painted"} if painted else {})


class Frame:
    """One moment of a restoration, with its pictures made when they are asked for.

    Attributes:
        t: time, falling from 1 to 0.
        step: steps done, 0 to ``steps``.
        steps: steps of the run.
        gradient: (H, W) float32 completed gradient map in [0, 1].
        tau: (H, W) float32 peak times in [0, 1].
    """

    def __init__(self, job: _Job, tau: np.ndarray, t: float, step: int, steps: int, x_t, x0_hat):
        self.t, self.step, self.steps = t, step, steps
        self.gradient, self.tau = job.gradient, tau
        self._job, self._x_t, self._x0_hat = job, x_t, x0_hat

    @cached_property
    def x_t(self) -> Image.Image:
        """State of the bridge in the hole, in the photo at preview size (long side <= 512)."""
        return self._job.preview(self._x_t)

    @cached_property
    def x0_hat(self) -> Image.Image:
        """Present estimate of the clean image in the hole, at preview size."""
        return self._job.preview(self._x0_hat)

    @property
    def image(self) -> Image.Image:
        """The estimate set into the photo at its own size; known pixels bit-identical."""
        job = self._job
        return Image.fromarray(job.window.paste(job.photo, job.hole, self._x0_hat))


@dataclass(frozen=True)
class Result:
    """A finished restoration.

    Attributes:
        image: restored photo of the input's size; outside the mask bit-identical to the input.
        gradient: (H, W) float32 completed gradient map in [0, 1].
        tau: (H, W) float32 per-pixel peak time in [0, 1].
        trajectory: steps + 1 frames with t falling from 1 to 0; empty if it was not asked for.
        settings: what gives this result again.
    """

    image: Image.Image
    gradient: np.ndarray
    tau: np.ndarray
    trajectory: list[Frame] = field(repr=False)
    settings: dict


class AsyncDSBPipeline:
    """Both networks and everything between them and a photo.

    Args:
        denoiser: the trained bridge.
        completion: the trained gradient completion.
        device: where to run; None takes a GPU if there is one.
        training: facts about the training of both, by kind.
    """

    def __init__(
        self,
        denoiser: BridgeDenoiser,
        completion: GradientCompletion,
        device: str | torch.device | None = None,
        training: dict | None = None,
    ):
        self.device = _usable(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        move = {"device": self.device, "memory_format": torch.channels_last}
        self.denoiser = denoiser.eval().requires_grad_(False).to(**move)
        self.completion = completion.eval().requires_grad_(False).to(**move)
        self.config = denoiser.config
        self.training = training or {}

    @classmethod
    def from_pretrained(
        cls,
        source: str | Path | None = None,
        device: str | torch.device | None = None,
        revision: str | None = None,
    ) -> AsyncDSBPipeline:
        """Load trained weights.

        Args:
            source: a folder, or "user/repo" on the Hugging Face Hub; None for the bundled weights.
            device: see the class.
            revision: branch, tag or commit on the Hub.

        Returns:
            The pipeline.

        Raises:
            ValueError: if there are no such weights, or they are damaged or of another version.
        """
        folder = BUNDLED if source is None else Path(source)
        if not folder.is_dir():
            if source is None:
                raise ValueError(f"weights not found: expected the bundled weights in {folder}")
            folder = _download(str(source), revision)
        denoiser, bridge_training = load_weights(folder, "bridge")
        completion, gradient_training = load_weights(folder, "gradient")
        training = {"bridge": bridge_training, "gradient": gradient_training}
        return cls(denoiser, completion, device, training)

    @classmethod
    def random(cls, seed: int = 0, device: str | torch.device = "cpu") -> AsyncDSBPipeline:
        """A tiny pipeline with random weights, for tests and for trying out an installation."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            unet = UNetConfig(16, (1, 2), 1, (False, True), head_channels=16)
            denoiser = BridgeDenoiser(BridgeConfig(unet=unet))
            for parameter in denoiser.unet.head.parameters():
                torch.nn.init.normal_(parameter, std=0.02)
            generator = CompletionConfig(width=4, blocks=1)
            return cls(denoiser, GradientCompletion(GradientConfig(generator)), device)

    def save_pretrained(self, folder: str | Path) -> None:
        """Write both networks to a folder that :meth:`from_pretrained` loads, in half precision."""
        save_weights(folder, self.denoiser, self.training.get("bridge", {}))
        save_weights(folder, self.completion, self.training.get("gradient", {}))

    def push_to_hub(self, repo: str, private: bool = False) -> str:
        """Upload both networks to the Hugging Face Hub and return the address of the commit."""
        import tempfile

        from huggingface_hub import HfApi

        api = HfApi()
        api.create_repo(repo, private=private, exist_ok=True)
        with tempfile.TemporaryDirectory() as folder:
            self.save_pretrained(folder)
            return str(api.upload_folder(repo_id=repo, folder_path=folder))

    @property
    def samplers(self) -> tuple[str, ...]:
        """Samplers that the weights were trained for."""
        return self.config.samplers

    def __call__(self, image, mask, *, trajectory: bool = True, **settings) -> Result:
        """Restore the hole of a photo.

        Args:
            image: PIL picture or (H, W, 3) uint8 RGB array.
            mask: PIL picture (white = hole), or (H, W) array, bool or uint8.
            trajectory: whether to keep the frames.
            **settings: fields of :class:`Settings`.

        Returns:
            The result.

        Raises:
            ValueError: on anything that cannot be restored, see :func:`check_pair` and
                :meth:`Settings.check`.
        """
        frames = []
        for frame in self.stream(image, mask, **settings):
            frames = [*frames, frame] if trajectory else [frame]
        last = frames[-1]
        return Result(
            image=last.image,
            gradient=last.gradient,
            tau=last.tau,
            trajectory=frames if trajectory else [],
            settings=Settings(**settings).as_dict(),
        )

    def stream(self, image, mask, **settings) -> Iterator[Frame]:
        """Restore the hole of a photo, yielding a frame per state as it is computed.

        Takes what :meth:`__call__` takes, and raises the same errors at once, before the first
        frame is asked for.

        Returns:
            Iterator over ``steps + 1`` frames; the last one's ``image`` is the result.
        """
        chosen = Settings(**settings)
        chosen.check(self.samplers)
        job = self._job(image, mask)
        if not isinstance(chosen.strategy, str):
            _check_painted(chosen.strategy, job.hole.shape)
        return self._frames(job, chosen)

    @torch.no_grad()
    def _frames(self, job: _Job, chosen: Settings) -> Iterator[Frame]:
        job.gradient = self._complete(job)
        tau = self._tau(job, job.gradient, chosen.tau_min, chosen.tau_max, chosen.strategy)
        states = self._run(
            job.image,
            job.mask,
            job.window.shrink(job.gradient).to(self.device),
            job.window.shrink(tau).to(self.device).clamp(0, 1),
            [chosen.seed],
            chosen,
        )
        for state in states:
            t = float(state.t[0])
            yield Frame(job, tau, t, state.step, state.steps, state.x_t, state.x0_hat)

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
            ValueError: on settings out of range, or another number of seeds.
        """
        chosen = Settings(**settings)
        chosen.check(self.samplers)
        if not isinstance(chosen.strategy, str):
            raise ValueError("expected a named strategy for a batch, got an array")
        if len(seeds) != len(images):
            raise ValueError(f"expected {len(images)} seeds, got {len(seeds)}")
        images, masks = images.to(self.device), (masks > 0.5).float().to(self.device)
        gradient = self.completion(images, masks)
        tau = self._layout(chosen.strategy, gradient, masks, chosen.tau_min, chosen.tau_max)
        *_, last = self._run(images, masks, gradient, tau, seeds, chosen)
        return last.x_t.cpu()

    @torch.no_grad()
    def predict_gradient(self, image, mask) -> np.ndarray:
        """Complete the gradient map of a photo (step 1 alone).

        Args:
            image: see :meth:`__call__`.
            mask: likewise.

        Returns:
            (H, W) float32 in [0, 1].

        Raises:
            ValueError: if the pair cannot be restored.
        """
        return self._complete(self._job(image, mask))

    @torch.no_grad()
    def tau_map(
        self,
        gradient: np.ndarray,
        mask,
        tau_min: float,
        tau_max: float,
        strategy: str | np.ndarray = "gradient",
    ) -> np.ndarray:
        """Per-pixel peak time for a completed gradient map; runs no network.

        Args:
            gradient: (H, W) map of :meth:`predict_gradient`.
            mask: mask of the same size.
            tau_min: see :class:`Settings`.
            tau_max: see :class:`Settings`.
            strategy: see :class:`Settings`.

        Returns:
            (H, W) float32 in [0, 1].

        Raises:
            ValueError: if sizes differ or the range or strategy is not valid.
        """
        Settings(tau_min=tau_min, tau_max=tau_max, strategy=strategy).check(("posterior",))
        gradient, hole = np.asarray(gradient, np.float32), read_mask(mask)
        if gradient.shape != hole.shape:
            raise ValueError(f"expected a gradient map of shape {hole.shape}, got {gradient.shape}")
        check_pair(gradient[..., None], hole)
        return self._tau(self._plan(hole), gradient, tau_min, tau_max, strategy)

    def _plan(self, hole: np.ndarray) -> _Job:
        stride = math.lcm(self.config.unet.stride, self.completion.config.generator.stride)
        return _Job(hole, Window.around(hole, self.config.resolution, stride))

    def _job(self, image, mask) -> _Job:
        photo = image if isinstance(image, np.ndarray) else np.asarray(read_image(image))
        to_tensor(photo[:1, :1])  # refuses arrays of another kind
        hole = read_mask(mask)
        check_pair(photo, hole)
        job = self._plan(hole)
        job.photo = photo
        picture, missing = job.window.cut(photo, hole)
        job.image, job.mask = picture.to(self.device), missing.to(self.device)
        return job

    def _complete(self, job: _Job) -> np.ndarray:
        """Gradient map of the whole photo at the window's scale, completed in the window."""
        window = job.window
        photo = job.photo
        if not window.native:
            height, width = window.photo_at_work_scale()
            photo = np.asarray(Image.fromarray(photo).resize((width, height), Image.BOX))
        around = resize(image_gradient(to_tensor(photo)), window.photo)[0, 0].numpy()
        completed = window.enlarge(self.completion(job.image, job.mask))
        around[window.slices] = completed[0, 0].cpu().numpy()
        return around.clip(0, 1)

    def _tau(
        self,
        job: _Job,
        gradient: np.ndarray,
        tau_min: float,
        tau_max: float,
        strategy: str | np.ndarray,
    ) -> np.ndarray:
        """Tau map of the whole photo, laid out at the window's scale."""
        if not isinstance(strategy, str):
            return np.asarray(strategy, np.float32)
        size = job.window.photo_at_work_scale()
        hole = torch.from_numpy(job.hole)[None, None].float()
        small = (resize(hole, size) > 1e-3).float()
        values = resize(torch.from_numpy(gradient)[None, None], size)
        tau = self._layout(strategy, values, small, tau_min, tau_max)
        return resize(tau, job.window.photo)[0, 0].clamp(tau_min, tau_max).numpy()

    def _layout(
        self, strategy: str, gradient: Tensor, hole: Tensor, tau_min: float, tau_max: float
    ) -> Tensor:
        if strategy == "uniform":
            return uniform_tau(hole, tau_min, tau_max)
        if strategy == "inward":
            return inward_tau(hole, tau_min, tau_max)
        return tau_map(gradient, tau_min, tau_max, self.config.blur_sigma, hole)

    def _run(self, image, mask, gradient, tau, seeds: Sequence[int], chosen: Settings):
        """The sampler's states for a batch at the networks' resolution."""
        generators = [torch.Generator().manual_seed(int(seed)) for seed in seeds]
        noise = torch.stack([torch.randn(image.shape[1:], generator=g) for g in generators])
        stochastic = torch.full((len(image),), chosen.sampler != "ode", device=self.device)
        context = self.denoiser.context(image, mask, gradient, stochastic, noise.to(self.device))
        schedule = self.config.schedule
        return sample(
            self.denoiser.bind(context, schedule.total_var),
            context.x1,
            mask,
            tau,
            schedule,
            steps=chosen.steps,
            sampler=chosen.sampler,
            eta=chosen.eta,
            grid=chosen.grid,
            generators=generators,
        )


class _Job:
    """A photo on its way: the window around the hole, the networks' inputs, the preview."""

    def __init__(self, hole: np.ndarray, window: Window):
        self.hole, self.window = hole, window
        self.photo: np.ndarray | None = None
        self.image: Tensor | None = None
        self.mask: Tensor | None = None
        self.gradient: np.ndarray | None = None

    @cached_property
    def _small(self) -> tuple[Image.Image, Image.Image, tuple[int, int, int, int]]:
        """Photo and hole at preview size, and the window's box there."""
        height, width = self.hole.shape
        scale = min(1.0, PREVIEW / max(height, width))
        size = max(1, round(width * scale)), max(1, round(height * scale))
        photo = Image.fromarray(self.photo)
        hole = Image.fromarray(self.hole.astype(np.uint8) * 255)
        if size != photo.size:
            photo = photo.resize(size, Image.LANCZOS)
            hole = hole.resize(size, Image.BOX)
        left, top = round(self.window.left * scale), round(self.window.top * scale)
        right = max(left + 1, round((self.window.left + self.window.width) * scale))
        bottom = max(top + 1, round((self.window.top + self.window.height) * scale))
        return photo, hole, (left, top, right, bottom)

    def preview(self, x: Tensor) -> Image.Image:
        """A working-size picture set into the hole of the photo, at preview size."""
        photo, hole, (left, top, right, bottom) = self._small
        part = to_pil(self.window.crop(x))
        size = right - left, bottom - top
        if part.size != size:
            part = part.resize(size, Image.BILINEAR)
        shown = photo.copy()
        shown.paste(part, (left, top), hole.crop((left, top, right, bottom)))
        return shown


def _usable(device: str | torch.device) -> torch.device:
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        # Which of them depends on how torch was built.
        raise ValueError(f"expected a device that torch can use here, got {device!r}") from error
    return torch.device(device)


def _whole(value: object) -> bool:
    return isinstance(value, int | np.integer) and not isinstance(value, bool)


def _check_painted(tau: np.ndarray, shape: tuple[int, int]) -> None:
    tau = np.asarray(tau)
    if tau.shape != shape:
        raise ValueError(f"expected a painted tau map of shape {shape}, got {tau.shape}")
    if not np.issubdtype(tau.dtype, np.floating) or not ((tau >= 0) & (tau <= 1)).all():
        raise ValueError(
            f"expected a painted tau map of floats in [0, 1], got {tau.dtype} "
            f"from {tau.min()} to {tau.max()}"
        )


def _download(repo: str, revision: str | None) -> Path:
    """Fetch weights from the Hub, or from its cache when offline."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        found = snapshot_download(
            repo, revision=revision, allow_patterns=["*.json", "*.safetensors"]
        )
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        raise ValueError(
            f"weights not found: {repo!r} is neither a folder nor a repository that can be read "
            f"on the Hugging Face Hub ({type(error).__name__})"
        ) from error
    return Path(found)
