"""The methods that an evaluation compares, behind one interface.

bridge            the bridge of ``--weights`` alone, with the settings of the command line
bridge+patches    the same, then known patches copied over its result
patch-fill, ...   this and the other classical methods of :mod:`asyncdsb.measure.baselines`
asyncdsb          the bridge with the finish of ``--finish``, or of its weights without that
synchronous       the same with tau = 0.5 in every pixel, as I2SB
NAME=WEIGHTS      the bridge in another weights folder, with the settings of the command line
NAME=PICTURES     restorations that any other program made of the crops that ``--write-inputs``
                  wrote, read from PICTURES/KIND/CROP.png, or .jpg

A bridge may have settings of its own, ``i2sb=runs/i2sb/weights?tau_min=0.5&tau_max=0.5``, with the
weights of ``--weights`` if it names none: ``quick=?steps=5``. A weights folder without a completion
network borrows that of ``--weights``.
"""

import argparse
import hashlib
import json
import sys
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import islice, product
from pathlib import Path

import numpy as np
import torch

from asyncdsb import __version__
from asyncdsb.denoiser import BridgeConfig
from asyncdsb.measure import baselines
from asyncdsb.photo.images import read_image, to_bytes
from asyncdsb.photo.settings import FROM_WEIGHTS, Settings
from asyncdsb.pipeline import AsyncDSBPipeline
from asyncdsb.store.checkpoint import load_weights
from train.data.sources import find_photos
from train.judge.protocol import Crop, iter_crops, parse_kinds
from train.loop.options import SAMPLING, sampling

NAMED_BRIDGES: dict[str, dict] = {
    "bridge": {"finish": "none"},
    "bridge+patches": {"finish": "patches"},
    "asyncdsb": {},
    "synchronous": {"strategy": "uniform", "tau_min": 0.5, "tau_max": 0.5},
}
"""Bridges that need no folder, and their settings."""

RESTORE_VERSION = 3  # Part of every identity: raise it when pixels change within a version.

ELSEWHERE = (".png", ".jpg", ".jpeg", ".webp", ".PNG", ".JPG", ".JPEG", ".WEBP")
"""Suffixes of restorations that other programs made; the first that is there is read."""


@dataclass(frozen=True)
class Method:
    """A way to restore a batch."""

    name: str  # as printed
    identity: str  # text that changes whenever the results may change
    # (crops uint8 (S, S, 3), masks bool (S, S), seeds) -> uint8 (S, S, 3) each, and the first
    # estimates (B, 3, S, S) of a bridge, made at t = 1.
    restore: Callable[[list, list, list[int]], tuple[list[np.ndarray], torch.Tensor | None]] | None
    source: Path | None = None  # of restorations made elsewhere, in place of ``restore``
    pipe: AsyncDSBPipeline | None = None  # of a bridge
    settings: dict | None = None  # of a bridge, keyword arguments of its ``trace``

    def made_elsewhere(self, crop: Crop, kind: str) -> Path:
        """Return the file of a restoration made elsewhere; ValueError if it is not there."""
        path = self.source / kind / f"{crop.name}.png"
        for suffix in ELSEWHERE:
            if (found := path.with_name(crop.name + suffix)).is_file():
                return found
        others = f"(nor ending in {', '.join(ELSEWHERE[1:4])})"
        raise ValueError(f"expected a restoration by {self.name}, found nothing at {path} {others}")

    def read_elsewhere(self, crop: Crop, kind: str) -> np.ndarray:
        """Return a restoration made elsewhere; its known pixels are the crop's."""
        path = self.made_elsewhere(crop, kind)
        found = np.array(read_image(path))
        if found.shape != crop.pixels.shape:
            raise ValueError(f"expected {path} of {crop.pixels.shape[:2]}, got {found.shape[:2]}")
        return np.where(crop.mask(kind)[..., None], found, crop.pixels)

    def cached(self, folder: Path, crop: Crop, kind: str) -> Path:
        """Return where the restored crop is kept."""
        digest = hashlib.sha256(self.identity.encode())
        if self.source is not None:
            digest.update(self.made_elsewhere(crop, kind).read_bytes())
        digest.update(crop.pixels.tobytes())
        digest.update(np.packbits(crop.mask(kind)).tobytes())
        digest.update(str(crop.noise_seed(kind)).encode())
        name = f"{crop.name}-{digest.hexdigest()[:12]}.png"
        return folder / "restored" / self.name / kind / name


def classical_method(name: str) -> Method:
    """Return a method of :mod:`asyncdsb.measure.baselines`."""

    def restore(crops: list[np.ndarray], masks: list[np.ndarray], _seeds: list[int]) -> tuple:
        return [baselines.restore(name, c, m) for c, m in zip(crops, masks, strict=True)], None

    return Method(name, _identity(name), restore)


def bridge_method(name: str, pipe: AsyncDSBPipeline, checksum: str, settings: dict) -> Method:
    """Return a method that runs a pipeline's ``trace``; ``checksum`` is that of its weights."""

    @torch.no_grad()
    def restore(crops: list[np.ndarray], masks: list[np.ndarray], seeds: list[int]) -> tuple:
        images = to_batch(crops)
        holes = torch.from_numpy(np.stack(masks)[:, None].astype(np.float32))
        _, states = pipe.trace(images, holes, seeds, **settings)
        first = next(states)
        # Only the last is kept: all states of 1000 steps would fill the memory.
        (last,) = deque(states, maxlen=1)
        restored = to_bytes(last.x_t.float().cpu().permute(0, 2, 3, 1))
        kept = [
            np.where(mask[..., None], result, crop)
            for crop, mask, result in zip(crops, masks, restored, strict=True)
        ]
        return kept, first.x0_hat.float().cpu()

    return Method(name, _identity(name, checksum, settings), restore, None, pipe, settings)


def _identity(*parts: str | dict) -> str:
    return json.dumps([*parts, __version__, RESTORE_VERSION], sort_keys=True)


def to_batch(crops: Sequence[np.ndarray]) -> torch.Tensor:
    """Return float32 (B, 3, H, W) in [-1, 1]."""
    return torch.from_numpy(np.stack(crops)).permute(0, 3, 1, 2).float() / 127.5 - 1


def tensors(
    crops: Sequence[Crop], kind: str, device: torch.device | str
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return pictures (B, 3, S, S) in [-1, 1] and masks (B, 1, S, S), 1 = missing, of crops."""
    masks = torch.from_numpy(np.stack([crop.mask(kind) for crop in crops]))[:, None]
    return to_batch([crop.pixels for crop in crops]).to(device), masks.float().to(device)


def load_methods(args: argparse.Namespace) -> list[Method]:
    """Return the methods that the command line names; ValueError on bad ones."""
    known = (*NAMED_BRIDGES, *baselines.METHODS)
    axes = []
    for text in getattr(args, "vary", None) or []:
        setting, _, values = text.partition("=")
        axes.append([f"{setting}={value}" for value in values.split(",")])
    # All combinations, as "steps=10&..." each; one "" if nothing is varied.
    variations = ["&".join(combination) for combination in product(*axes)]

    @cache
    def pipeline(folder: str) -> tuple[AsyncDSBPipeline, str]:
        """The pipeline of a weights folder ("" for ``--weights``) and its checksum."""
        options = {"device": args.device, "precision": args.precision}
        if folder and not (Path(folder) / "gradient.json").exists():
            denoiser = load_weights(folder, "bridge")[0]
            pipe = AsyncDSBPipeline(denoiser, pipeline("")[0].completion, **options)
        else:
            pipe = AsyncDSBPipeline.from_pretrained(folder or args.weights, **options)
        checksum = weights_checksum(pipe)
        # Restorations in another precision are not taken for these.
        return pipe, checksum if pipe.precision == "fp32" else f"{checksum}-{pipe.precision}"

    methods: list[Method] = []
    for spec in dict.fromkeys(part.strip() for part in args.methods.split(",")):
        name, equals, rest = spec.partition("=")
        folder, _, text = rest.partition("?")
        if name in (method.name for method in methods) or (equals and name in known):
            raise ValueError(f"expected another name than {name!r}, which is taken")
        if not equals and name not in known:
            names = ", ".join(known)
            raise ValueError(f"expected methods out of {names}, or NAME=FOLDER, got {name!r}")
        if name in baselines.METHODS:
            methods.append(classical_method(name))
        elif folder and not Path(folder).is_dir():
            raise ValueError(f"expected weights or restorations of {name}, found none at {folder}")
        elif folder and not (Path(folder) / "bridge.json").exists():
            methods.append(Method(name, _identity(name), None, Path(folder)))
        else:
            pipe, checksum = pipeline(folder)
            base = sampling(args) | NAMED_BRIDGES.get(name, {}) | _settings(text)
            for query in variations:
                settings = base | _settings(query)
                if query and settings["tau_min"] > settings["tau_max"]:
                    continue
                Settings(**settings).check(pipe.config)
                called = f"{name}?{query}" if query else name
                methods.append(bridge_method(called, pipe, checksum, settings))
    return methods


def load_bridges(args: argparse.Namespace, most: int = sys.maxsize) -> list[Method]:
    """Like :func:`load_methods`, where only bridges make sense, at most so many."""
    methods = load_methods(args)
    if others := [method.name for method in methods if method.pipe is None]:
        raise ValueError(f"expected bridges, got {', '.join(others)}")
    if len(methods) > most:
        raise ValueError(f"expected at most {most} bridge, got {len(methods)}")
    return methods


class HeldOut:
    """The crops and kinds of mask that the command line asks for; ValueError on bad ones.

    Size and number of crops are by default those that suit the weights of the first bridge, or of
    ``--weights`` without any: the resolution that they were trained for, and of each photo one crop
    (the whole centred square) for portraits (``config.window`` "head"), else ``crops``.
    """

    def __init__(self, args: argparse.Namespace, methods: Sequence[Method], crops: int = 1):
        if args.size is None or args.crops is None:
            pipes = (method.pipe for method in methods if method.pipe is not None)
            pipe = next(pipes, None) or AsyncDSBPipeline.from_pretrained(args.weights, device="cpu")
            if args.size is None:
                args.size = pipe.config.resolution
            if args.crops is None:
                args.crops = 1 if pipe.config.window == "head" else crops
        for name, value in (("batch", args.batch), ("limit", args.limit)):
            if value is not None and value < 1:
                raise ValueError(f"expected --{name} of at least 1, got {value}")
        self.kinds, self.folders = parse_kinds(args.masks, args.invert_masks)
        self.photos = find_photos(args.data)[: args.limit]
        self.size, self.each = args.size, args.crops

    def __len__(self) -> int:
        """Number of crops."""
        return len(self.photos) * self.each

    def crops(self) -> Iterator[Crop]:
        """Cut the crops, the photos being read one at a time."""
        photos = ((photo.key, photo.read()) for photo in self.photos)
        return iter_crops(photos, self.each, self.size, self.folders)

    def first(self, count: int) -> list[Crop]:
        """The first crop of each of the first photos."""
        return list(islice((crop for crop in self.crops() if crop.index == 0), count))


def _settings(text: str) -> dict:
    """Read ``steps=5&tau_min=0.5``; ValueError on an unknown name or a value of the wrong type."""
    settings = {}
    for part in text.split("&") if text else ():
        name, _, value = part.partition("=")
        if name not in SAMPLING:
            raise ValueError(f"expected a setting out of {', '.join(SAMPLING)}, got {name!r}")
        try:
            kind = type(getattr(BridgeConfig if name in FROM_WEIGHTS else Settings, name))
            settings[name] = kind(value)
        except ValueError:
            raise ValueError(f"expected a number for {name}, got {value!r}") from None
    return settings


def weights_checksum(pipe: AsyncDSBPipeline) -> str:
    """Return a checksum of both networks' weights and of how they are used."""
    digest = hashlib.sha256(repr((pipe.config, pipe.completion.config)).encode())
    for network in (pipe.denoiser, pipe.completion):
        for name, tensor in sorted(network.state_dict().items()):
            digest.update(name.encode())
            digest.update(tensor.cpu().float().contiguous().numpy().tobytes())
    return digest.hexdigest()
