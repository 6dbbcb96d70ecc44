"""The methods that an evaluation compares, behind one interface.

==================  =============================================================================
bridge              the bridge of ``--weights`` alone, with the settings of the command line
bridge+patches      the same, then known patches copied over its result
patch-fill          known patches copied over a smooth fill, without any network
telea, ...          this and the other classical methods of :mod:`asyncdsb.measure.baselines`
asyncdsb            the bridge with the finish of ``--finish``, or of its weights without that
synchronous         the same with tau = 0.5 in every pixel, as I2SB
NAME=WEIGHTS        the bridge in another weights folder, with the settings of the command line
NAME=PICTURES       restorations that any other program made of the crops that ``--write-inputs``
                    wrote, read from PICTURES/KIND/CROP.png, or .jpg
==================  =============================================================================

A bridge may have settings of its own, joined by "&" after a "?", and with nothing before the "?" it
has the weights of ``--weights``: ``i2sb=runs/i2sb/weights?tau_min=0.5&tau_max=0.5``,
``quick=?steps=5``. A weights folder without a completion network borrows that of ``--weights``.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import islice
from pathlib import Path

import numpy as np
import torch

from asyncdsb import __version__
from asyncdsb.measure import baselines
from asyncdsb.photo.images import read_image
from asyncdsb.photo.settings import Settings
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

RESTORE_VERSION = 3
"""Part of every identity, as the package's version is: raise it when the same weights, settings
and seeds come to give other pixels within a version."""

ELSEWHERE = (".png", ".jpg", ".jpeg", ".webp", ".PNG", ".JPG", ".JPEG", ".WEBP")
"""Suffixes of restorations that other programs made; the first that is there is read."""

RestoreBatch = Callable[
    [list[np.ndarray], list[np.ndarray], list[int]], tuple[list[np.ndarray], torch.Tensor | None]
]


@dataclass(frozen=True)
class Method:
    """A way to restore a batch."""

    name: str  # as printed
    identity: str  # text that changes whenever the results may change
    # (crops uint8 (S, S, 3), masks bool (S, S), seeds) -> uint8 (S, S, 3) each, and the first
    # estimates (B, 3, S, S) of a bridge, made at t = 1.
    restore: RestoreBatch | None
    source: Path | None = None  # of restorations made elsewhere, in place of ``restore``
    pipe: AsyncDSBPipeline | None = None  # of a bridge
    settings: dict | None = None  # of a bridge, keyword arguments of its ``trace``

    @property
    def classical(self) -> bool:
        """Whether it is neither a bridge nor another program's."""
        return self.pipe is None and self.source is None

    def made_elsewhere(self, crop: Crop, kind: str) -> Path:
        """Return the file of a restoration made elsewhere; ValueError if it is not there."""
        paths = [self.source / kind / f"{crop.name}{suffix}" for suffix in ELSEWHERE]
        for path in paths:
            if path.is_file():
                return path
        raise ValueError(
            f"expected a restoration by {self.name}, found nothing at {paths[0]}"
            f" (nor ending in {', '.join(ELSEWHERE[1:4])})"
        )

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
    """Return a method that runs a pipeline's ``trace`` with these settings.

    Known pixels of its results are those of the crops, whatever the pipeline returns. ``checksum``
    is that of its weights, see :func:`weights_checksum`.
    """

    @torch.no_grad()
    def restore(crops: list[np.ndarray], masks: list[np.ndarray], seeds: list[int]) -> tuple:
        images = to_batch(crops)
        holes = torch.from_numpy(np.stack(masks)[:, None].astype(np.float32))
        _, states = pipe.trace(images, holes, seeds, **settings)
        first = next(states)
        *_, last = states
        output = last.x_t.float().cpu()
        pixels = ((output.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
        restored = pixels.permute(0, 2, 3, 1).numpy()
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


def load_methods(args: argparse.Namespace) -> list[Method]:
    """Return the methods that :func:`train.loop.options.held_out_parser` read.

    Raises:
        ValueError: no or an unknown method, a name that is taken, an unknown or bad setting, or
            weights that cannot be loaded.
    """
    specs = list(dict.fromkeys(part.strip() for part in args.methods.split(",") if part.strip()))
    known = (*NAMED_BRIDGES, *baselines.METHODS)
    if not specs:
        raise ValueError(f"expected methods out of {', '.join(known)}, or NAME=FOLDER, got none")
    axes = []
    for text in getattr(args, "vary", None) or []:
        setting, _, values = text.partition("=")
        axes.append([f"{setting}={value}" for value in values.split(",")])
    # All combinations, as "steps=10&..." each; one "" if nothing is varied.
    variations = ["&".join(combination) for combination in itertools.product(*axes)]

    @cache
    def pipeline(folder: str) -> tuple[AsyncDSBPipeline, str]:
        """The pipeline of a weights folder ("" for ``--weights``) and its checksum."""
        options = {"device": args.device, "precision": args.precision}
        if folder and not (Path(folder) / "gradient.json").exists():
            denoiser, training = load_weights(Path(folder), "bridge")
            completion = pipeline("")[0].completion
            pipe = AsyncDSBPipeline(denoiser, completion, training={"bridge": training}, **options)
        else:
            pipe = AsyncDSBPipeline.from_pretrained(folder or args.weights, **options)
        checksum = weights_checksum(pipe)
        # Restorations in another precision are not taken for these.
        return pipe, checksum if pipe.precision == "fp32" else f"{checksum}-{pipe.precision}"

    methods: list[Method] = []
    for spec in specs:
        name, equals, rest = spec.partition("=")
        folder, _, text = rest.partition("?")
        if name in (method.name for method in methods) or (equals and name in known):
            raise ValueError(f"expected another name than {name!r}, which is taken")
        if not equals and name in baselines.METHODS:
            methods.append(classical_method(name))
        elif not equals and name not in NAMED_BRIDGES:
            raise ValueError(
                f"expected methods out of {', '.join(known)}, or NAME=FOLDER, got {name!r}"
            )
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
                Settings(**settings).check(pipe.samplers)
                called = f"{name}?{query}" if query else name
                methods.append(bridge_method(called, pipe, checksum, settings))
    return methods


def load_bridges(args: argparse.Namespace, most: int | None = None) -> list[Method]:
    """Like :func:`load_methods`, where only bridges make sense, ``most`` of them if it is given."""
    methods = load_methods(args)
    others = [method.name for method in methods if method.pipe is None]
    if others:
        raise ValueError(f"expected bridges, got {', '.join(others)}")
    if most is not None and len(methods) > most:
        raise ValueError(f"expected at most {most} bridge, got {len(methods)}")
    return methods


class HeldOut:
    """The crops and kinds of mask that the command line asks for.

    Size and number of crops are by default those that suit the weights of the first bridge, or of
    ``--weights`` without any: the resolution that they were trained for, and of each photo one crop
    (the whole centred square) for portraits (``config.window`` "head"), else ``crops``.

    Raises:
        ValueError: kinds of mask, photos or numbers that do not exist.
    """

    def __init__(self, args: argparse.Namespace, methods: Sequence[Method], crops: int = 1):
        if args.size is None or args.crops is None:
            pipes = (method.pipe for method in methods if method.pipe is not None)
            pipe = next(pipes, None) or AsyncDSBPipeline.from_pretrained(args.weights, device="cpu")
            if args.size is None:
                args.size = pipe.config.resolution
            if args.crops is None:
                args.crops = 1 if pipe.config.window == "head" else crops
        for name in ("batch", "limit"):
            value = getattr(args, name)
            if value is not None and value < 1:
                raise ValueError(f"expected --{name} of at least 1, got {value}")
        self.kinds, self.folders = parse_kinds(args.masks, args.invert_masks)
        self.photos = find_photos(args.data)[: args.limit]
        self._crops, self._size = args.crops, args.size

    def __len__(self) -> int:
        """Number of crops."""
        return len(self.photos) * self._crops

    def crops(self) -> Iterator[Crop]:
        """Cut the crops, the photos being read one at a time."""
        photos = ((photo.key, photo.read()) for photo in self.photos)
        return iter_crops(photos, self._crops, self._size, self.folders)

    def first(self, count: int) -> list[Crop]:
        """The first crop of each of the first photos."""
        return list(islice((crop for crop in self.crops() if crop.index == 0), count))


def _settings(text: str) -> dict:
    """Read ``steps=5&tau_min=0.5``; ValueError on an unknown name or a value of the wrong type."""
    types = {"steps": int} | dict.fromkeys(("sampler", "strategy", "grid", "finish"), str)
    settings = {}
    for part in text.split("&") if text else ():
        name, _, value = part.partition("=")
        if name not in SAMPLING:
            raise ValueError(f"expected a setting out of {', '.join(SAMPLING)}, got {name!r}")
        try:
            settings[name] = types.get(name, float)(value)
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
