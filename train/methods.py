"""The methods that an evaluation compares, behind one interface.

==============  =================================================================================
asyncdsb        the bridge with the settings given on the command line
synchronous     the same weights and settings with tau = 0.5 in every pixel, as I2SB
telea, ...      the classical methods of :mod:`asyncdsb.baselines`
NAME=FOLDER     restorations that any other program made of the crops that ``--write-inputs`` wrote,
                read from FOLDER/KIND/CROP.png
==============  =================================================================================
"""

from __future__ import annotations

import argparse
import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from asyncdsb import baselines
from asyncdsb.pipeline import AsyncDSBPipeline
from train.protocol import Crop

BRIDGE_METHODS = ("asyncdsb", "synchronous")
"""Methods that need weights."""

RestoreBatch = Callable[[list[np.ndarray], list[np.ndarray], list[int]], list[np.ndarray]]


@dataclass(frozen=True)
class Method:
    """A way to restore a batch.

    Attributes:
        name: as printed.
        identity: text that changes whenever the results may change.
        restore: (crops uint8 (S, S, 3), masks bool (S, S), seeds) -> uint8 (S, S, 3) each.
        source: folder of restorations made elsewhere, which ``restore`` is then not asked for.
    """

    name: str
    identity: str
    restore: RestoreBatch | None
    source: Path | None = None

    def made_elsewhere(self, crop: Crop, kind: str) -> Path:
        """Return the file of a restoration made elsewhere; ValueError if it is not there."""
        path = self.source / kind / f"{crop.name}.png"
        if not path.is_file():
            raise ValueError(f"expected a restoration by {self.name}, found nothing at {path}")
        return path

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
    """Return a method of :mod:`asyncdsb.baselines`."""

    def restore(
        crops: list[np.ndarray], masks: list[np.ndarray], _seeds: list[int]
    ) -> list[np.ndarray]:
        return [baselines.restore(name, c, m) for c, m in zip(crops, masks, strict=True)]

    return Method(name, name, restore)


def external_method(name: str, source: Path) -> Method:
    """Return a method whose results lie in a folder, see the module's docstring.

    Its known pixels are replaced by the true ones, as all methods here keep them.

    Raises:
        ValueError: no such folder, or a name that is taken.
    """
    if not source.is_dir():
        raise ValueError(f"expected a folder of restorations by {name}, found none at {source}")
    if name in (*BRIDGE_METHODS, *baselines.METHODS):
        raise ValueError(f"expected another name than {name!r}, which is taken")
    return Method(name, name, None, source)


def bridge_method(name: str, pipe: AsyncDSBPipeline, checksum: str, settings: dict) -> Method:
    """Return a method that runs a pipeline.

    Args:
        name: as printed.
        pipe: runs its ``restore_batch``.
        checksum: of its weights, see :func:`weights_checksum`.
        settings: keyword arguments of ``restore_batch``.
    """

    def restore(
        crops: list[np.ndarray], masks: list[np.ndarray], seeds: list[int]
    ) -> list[np.ndarray]:
        images = to_batch(crops)
        holes = torch.from_numpy(np.stack(masks)[:, None].astype(np.float32))
        output = pipe.restore_batch(images, holes, seeds, **settings)
        pixels = ((output.float().cpu().clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
        restored = pixels.permute(0, 2, 3, 1).numpy()
        return [
            np.where(mask[..., None], result, crop)
            for crop, mask, result in zip(crops, masks, restored, strict=True)
        ]

    identity = json.dumps([name, checksum, settings], sort_keys=True)
    return Method(name, identity, restore)


def to_batch(crops: Sequence[np.ndarray]) -> torch.Tensor:
    """Return float32 (B, 3, H, W) in [-1, 1]."""
    return torch.from_numpy(np.stack(crops)).permute(0, 3, 1, 2).float() / 127.5 - 1


def load_methods(args: argparse.Namespace) -> tuple[list[Method], AsyncDSBPipeline | None]:
    """Return the methods asked for, and the pipeline if one of them needs it.

    Raises:
        ValueError: no or an unknown method, or weights that cannot be loaded.
    """
    known = (*BRIDGE_METHODS, *baselines.METHODS)
    names = [name.strip() for name in args.methods.split(",") if name.strip()]
    if not names or not {name for name in names if "=" not in name} <= set(known):
        raise ValueError(
            f"expected methods out of {', '.join(known)}, or NAME=FOLDER, got {args.methods!r}"
        )
    pipe, methods = None, []
    if any(name in BRIDGE_METHODS for name in names):
        source = None if args.weights == "bundled" else args.weights
        pipe = AsyncDSBPipeline.from_pretrained(source, device=args.device)
    for name in dict.fromkeys(names):
        if name in BRIDGE_METHODS:
            settings = bridge_settings(args, synchronous=name == "synchronous")
            methods.append(bridge_method(name, pipe, weights_checksum(pipe), settings))
        elif "=" in name:
            label, _, folder = name.partition("=")
            methods.append(external_method(label, Path(folder)))
        else:
            methods.append(classical_method(name))
    return methods, pipe


def weights_checksum(pipe: AsyncDSBPipeline) -> str:
    """Return a checksum of both networks' weights and of how they are used."""
    digest = hashlib.sha256(repr((pipe.config, pipe.completion.config)).encode())
    for network in (pipe.denoiser, pipe.completion):
        for name, tensor in sorted(network.state_dict().items()):
            digest.update(name.encode())
            digest.update(tensor.cpu().float().contiguous().numpy().tobytes())
    return digest.hexdigest()


def bridge_settings(args: argparse.Namespace, synchronous: bool) -> dict:
    """Return the keyword arguments of ``restore_batch``; tau = 0.5 everywhere if synchronous."""
    names = ("steps", "sampler", "grid", "eta", "temperature")
    settings = {name: getattr(args, name) for name in names}
    if synchronous:
        return settings | {"strategy": "uniform", "tau_min": 0.5, "tau_max": 0.5}
    return settings | {
        "strategy": args.strategy,
        "tau_min": args.tau_min,
        "tau_max": args.tau_max,
    }
