"""The package's interface: a photo and a mask go in, the restored photo comes out."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Callable, Iterator, Sequence
from numbers import Integral
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from asyncdsb.denoiser import BridgeConfig, BridgeDenoiser
from asyncdsb.gradient import GradientCompletion, GradientConfig
from asyncdsb.networks import CompletionConfig, UNetConfig
from asyncdsb.networks.device import chosen_precision, compile_for, usable
from asyncdsb.networks.layers import check_size
from asyncdsb.photo.heads import Box
from asyncdsb.photo.images import check_pair
from asyncdsb.photo.mask_files import read_mask
from asyncdsb.photo.result import Frame, Result
from asyncdsb.photo.run import Runner, read_pair
from asyncdsb.photo.settings import Settings, check_painted
from asyncdsb.samplers import SamplerState
from asyncdsb.store import hub
from asyncdsb.store.bundled import public_name, weights_folder
from asyncdsb.store.card import Facts, model_card, read_card, write_card
from asyncdsb.store.checkpoint import KINDS, load_weights, save_weights

OnFrame = Callable[[Frame], object]


class AsyncDSBPipeline:
    """Both networks and everything between them and a photo.

    Args:
        denoiser: the trained bridge.
        completion: the trained gradient completion.
        device: where to run; None takes a GPU if there is one.
        training: facts about the training of both, by kind.
        card: Markdown to write beside the weights; None for :func:`asyncdsb.store.card.model_card`.
        precision: one of :data:`asyncdsb.networks.device.PRECISIONS`. Half precision gives
            slightly other pictures.
        compiled: whether to use torch.compile: faster, the same pictures up to rounding. The first
            run of each size of window and batch, of eight at most, takes a minute more.

    ValueError if torch cannot use the device or cannot compile, or on another precision.

    >>> import numpy as np
    >>> pipe = AsyncDSBPipeline.random()  # from_pretrained() for weights that were trained
    >>> photo, mask = np.full((64, 96, 3), 128, np.uint8), np.zeros((64, 96), bool)
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
        self.device = usable(device)
        self.precision = chosen_precision(precision, self.device)
        if compiled:
            compile_for(denoiser.unet, self.device)
            if denoiser.guide is not None:
                compile_for(denoiser.guide, self.device)
        for network in (denoiser, completion):
            network.eval().requires_grad_(False).to(self.device)
        # The completion stays: instance normalisation returns plain tensors, and layers would copy.
        denoiser.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.denoiser, self.completion = denoiser, completion
        self.runner = Runner(denoiser, completion, self.device, self.precision)
        self.training, self.card = training or {}, card
        self.name: str | None = None  # of weights that others have too: bundled, or on the Hub

    @classmethod
    def from_pretrained(
        cls,
        source: str | Path | None = None,
        device: str | torch.device | None = None,
        revision: str | None = None,
        precision: str = "auto",
        compiled: bool = False,
    ) -> AsyncDSBPipeline:
        """Load weights; ``device``, ``precision`` and ``compiled`` are those of the class.

        ``source`` is one of :data:`asyncdsb.store.bundled.BUNDLED_NAMES`, a folder, or "user/repo"
        on the Hugging Face Hub, there at ``revision``: a branch, tag or commit. None is the first
        of the bundled weights. ValueError if there are no such weights, or they are damaged or of
        another version.
        """
        chosen_precision(precision, "cpu")  # Refuses another one before anything is fetched.
        folder = weights_folder(source, revision)
        (denoiser, bridge), (completion, gradient) = (load_weights(folder, kind) for kind in KINDS)
        training, card = {"bridge": bridge, "gradient": gradient}, read_card(folder)
        pipe = cls(denoiser, completion, device, training, card, precision, compiled)
        pipe.name = public_name(source)
        return pipe

    @classmethod
    def random(cls, seed: int = 0, device: str | torch.device = "cpu") -> AsyncDSBPipeline:
        """A tiny pipeline with random weights, for tests and for trying out an installation."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            unet = UNetConfig(16, (1, 2), 1, (False, True), head_channels=16)
            denoiser = BridgeDenoiser(BridgeConfig(unet=unet))
            for parameter in denoiser.unet.get_submodule("head").parameters():
                torch.nn.init.normal_(parameter, std=0.02)
            completion = GradientCompletion(GradientConfig(CompletionConfig(width=4, blocks=1)))
        return cls(denoiser, completion, device)

    def save_pretrained(self, folder: str | Path) -> None:
        """Write safetensors in half precision, JSON and a card to a folder, made if need be."""
        for kind, network in (("bridge", self.denoiser), ("gradient", self.completion)):
            save_weights(folder, network, self.training.get(kind, {}))
        write_card(Path(folder), self.card or model_card(self.facts))

    def push_to_hub(
        self, repo: str, private: bool = False, commit_message: str = "AsyncDSB weights"
    ) -> str:
        """Upload what :meth:`save_pretrained` writes to the Hub; return the commit's address.

        "user/repo" is made if need be. A card that lay beside the weights goes with them; a new one
        names no licence. ValueError if the Hub cannot be reached or does not allow it.
        """
        with tempfile.TemporaryDirectory() as folder:
            self.save_pretrained(folder)
            return hub.upload(Path(folder), repo, commit_message, private)

    @property
    def config(self) -> BridgeConfig:
        """Configuration of the bridge."""
        return self.denoiser.config

    @property
    def facts(self) -> Facts:
        """Facts about the weights, for their card."""
        networks = {"gradient": self.completion, "bridge": self.denoiser.unet}
        if self.denoiser.guide is not None:
            networks["guide"] = self.denoiser.guide
        sizes = {kind: sum(p.numel() for p in one.parameters()) for kind, one in networks.items()}
        return Facts(sizes, self.config, self.training)

    @property
    def samplers(self) -> tuple[str, ...]:
        """Samplers that the weights were trained for."""
        return self.config.samplers

    def __call__(
        self, image, mask, *, trajectory: bool = True, on_frame: OnFrame | None = None, **settings
    ) -> Result:
        """Restore the hole of a photo.

        Args:
            image: path, picture or array, see :func:`asyncdsb.photo.original.read_photograph`.
            mask: likewise, white = hole, see :func:`asyncdsb.photo.mask_files.read_mask`.
            trajectory: whether to keep the frames.
            on_frame: called with each frame as it comes, to show progress.
            **settings: fields of :class:`asyncdsb.photo.settings.Settings`, or the settings of a
                result that these weights made; for a painted order, its ``tau`` as ``strategy``.

        ValueError on anything that cannot be restored, naming what was expected.
        """
        frames: list[Frame] = []
        for last in self.stream(image, mask, **settings):
            if trajectory:
                frames.append(last)
            if on_frame is not None:
                on_frame(last)
        record, photo = self.record(self._checked(settings), last.prepared.box), last.photograph
        return Result(photo.picture, last.gradient, last.tau, frames, record, photo)

    def record(self, chosen: Settings, box: Box | None = None) -> dict:
        """Settings that reproduce a picture, as JSON; ``box`` is a frame's ``prepared.box``."""
        other = {"weights": self.name} if self.name else {}
        other |= {"precision": self.precision}
        chosen = dataclasses.replace(chosen, box=box or chosen.box)
        return chosen.resolved(self.config).as_dict() | other

    def stream(self, image, mask, **settings) -> Iterator[Frame]:
        """Restore the hole of a photo, yielding ``steps + 1`` frames as they are computed.

        Raises the errors of :meth:`__call__` at once. The last frame's ``image`` is the result.
        """
        chosen = self._checked(settings)
        prepared = self.runner.prepare(image, mask, chosen.tiles, chosen.box)
        check_painted(chosen.strategy, prepared.hole.shape)
        return self.runner.frames(prepared, chosen)

    @torch.no_grad()
    def trace(
        self, images: Tensor, masks: Tensor, seeds: Sequence[int], **settings
    ) -> tuple[Tensor, Iterator[SamplerState]]:
        """Restore pictures (B, 3, H, W) in [-1, 1] at the networks' own resolution.

        H and W are multiples of the network's stride, masks (B, 1, H, W), 1 = missing. Each sample
        depends on its picture, mask and seed alone; known pixels stay. The settings are those of
        :meth:`__call__` without ``seed`` and box, and with a named strategy. Returns tau maps
        (B, 1, H, W) and the states, on the device. ValueError on other shapes, seeds or settings.
        """
        chosen = self._checked(settings)
        if not isinstance(chosen.strategy, str) or chosen.box is not None:
            raise ValueError("expected a named strategy and no box for a batch")
        if images.ndim != 4 or images.shape[1] != 3 or not len(images):
            raise ValueError(f"expected pictures (B, 3, H, W), got {tuple(images.shape)}")
        if len(seeds) != len(images):
            raise ValueError(f"expected {len(images)} seeds, got {len(seeds)}")
        if not all(isinstance(seed, Integral) and 0 <= seed < 2**63 for seed in seeds):
            raise ValueError(
                f"expected seeds as whole numbers from 0 to 2^63 - 1, got {list(seeds)}"
            )
        check_size(images, self.runner.stride)
        if not images.isfinite().all():
            raise ValueError("expected finite pictures, got NaN or infinity")
        images, masks = images.to(self.device, torch.float32), (masks > 0.5).float().to(self.device)
        if masks.shape != (len(images), 1, *images.shape[2:]) or not masks.flatten(1).any(1).all():
            expected = "a mask (B, 1, H, W) for every picture, with something missing in it"
            raise ValueError(f"expected {expected}, got {tuple(masks.shape)}")
        gradient = self.runner.complete(images, masks)
        tau = self.runner.named_tau(chosen, gradient, masks)
        return tau, self.runner.states(images, masks, gradient, tau, seeds, chosen, chosen.grid)

    @torch.no_grad()
    def predict_gradient(
        self, image, mask, tiles: int = Settings.tiles, box: Box | None = None
    ) -> np.ndarray:
        """Complete the gradient map of a photo (step 1 alone): (H, W) float32 in [0, 1]."""
        Settings(tiles=tiles, box=box).check()
        return self.runner.gradient(self.runner.prepare(image, mask, tiles, box))

    def head_box(self, image, mask) -> Box | None:
        """The box in which weights for portraits work unless they are given one, else None."""
        original, hole = read_pair(image, mask)
        return self.runner.box(original.rgb, hole)

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
        """Per-pixel peak time (H, W) float32 for a gradient of :meth:`predict_gradient`, at once.

        ``box`` is of :meth:`head_box`; without it, weights for portraits take the largest square.
        The rest are settings. ValueError if sizes differ or a setting is not valid.
        """
        chosen = Settings(tau_min, tau_max, strategy=strategy, tiles=tiles, box=box)
        chosen.check()
        gradient, hole = np.asarray(gradient, np.float32), read_mask(mask)
        check_painted(strategy, hole.shape)
        if gradient.ndim != 2 or not np.isfinite(gradient).all():
            raise ValueError(f"expected a finite gradient map (H, W), got shape {gradient.shape}")
        check_pair(gradient, hole)
        return self.runner.tau(hole, self.runner.windows(hole, tiles, box), gradient, chosen)

    def work(self, mask, tiles: int = Settings.tiles, box: Box | None = None) -> int:
        """Pixels that the bridge's network is evaluated on in one step, for the hole of a photo.

        ValueError on a bad number of tiles or box.
        """
        Settings(tiles=tiles, box=box).check()
        return sum(w.evaluated for w in self.runner.windows(read_mask(mask), tiles, box))

    def _checked(self, settings: dict) -> Settings:
        for name, own in (("weights", self.name), ("precision", self.precision)):
            if settings.get(name, own) != own:
                raise ValueError(f"expected settings for the {name} {own}, got {settings[name]!r}")
        given = {k: v for k, v in settings.items() if k not in ("weights", "precision")}
        chosen = Settings(**given)
        chosen.check(self.config)
        return chosen.resolved(self.config)
