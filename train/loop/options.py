"""Options that the programs for evaluation share, and how they end."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path

import torch

from asyncdsb.denoiser import FINISHES
from asyncdsb.networks.device import PRECISIONS
from asyncdsb.photo.settings import FROM_WEIGHTS, Settings
from asyncdsb.samplers import GRIDS, SAMPLERS
from asyncdsb.schedule import STRATEGIES
from asyncdsb.store.bundled import BUNDLED_NAMES
from train.data.sources import find_photos
from train.judge.protocol import Crop, MaskFolder, iter_crops, parse_kinds

SAMPLING = ("steps", "sampler", "strategy", "grid", "tau_min", "tau_max", "eta", *FROM_WEIGHTS)
"""Fields of :class:`asyncdsb.photo.settings.Settings` that the command line sets."""


def held_out_parser(program: str, doc: str, **defaults) -> argparse.ArgumentParser:
    """Options of a program that restores crops of held-out photos.

    Args:
        program: module name.
        doc: the module's docstring; its first paragraph is shown.
        **defaults: of options, by name, where the program has its own.
    """
    parser = argparse.ArgumentParser(
        prog=f"python -m {program}",
        description=doc.split("\n\n")[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add("--data", nargs="+", required=True, metavar="PATH", help="folders, tar shards, lists")
    add("-o", "--out", required=True, type=Path, metavar="DIR", help="results, restored crops")
    add("--weights", default=BUNDLED_NAMES[0], help="bundled, a folder or 'user/repo'")
    add("--methods", default="bridge", help="comma-separated, see train.judge.methods")
    add("--masks", default="center,half,wide,narrow", help="kinds, or NAME=FOLDER; comma-separated")
    add("--invert-masks", action="store_true", help="white is what is known in folders of masks")
    add("--crops", type=int, help="crops per photo; as suits the weights if not given")
    add("--size", type=int, help="side of a crop in pixels; as above")
    add("--limit", type=int, help="use only the first so many photos")
    add("--batch", type=int, default=8, help="crops per batch")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    add("--device", default=device, help="cpu, cuda, ...")
    add("--precision", default="auto", choices=PRECISIONS, help="in which networks multiply")
    default = Settings()
    add("--steps", type=int, default=default.steps, help="network evaluations per crop")
    add("--sampler", default=default.sampler, choices=SAMPLERS, help="step of the bridge")
    add("--strategy", default=default.strategy, choices=STRATEGIES, help="layout of tau")
    add("--grid", default=default.grid, choices=GRIDS, help="time grid")
    add("--tau-min", type=float, default=default.tau_min, help="tau of the flattest pixels")
    add("--tau-max", type=float, default=default.tau_max, help="tau of the steepest pixels")
    add("--eta", type=float, default=default.eta, help="noise of the implicit sampler")
    add("--finish", choices=FINISHES, help="instead of the weights' own")
    parser.set_defaults(**defaults)
    return parser


def sampling(args: argparse.Namespace) -> dict:
    """Return the keyword arguments of ``restore_batch`` that the command line gives."""
    return {name: getattr(args, name) for name in SAMPLING}


class HeldOut:
    """The crops and kinds of mask that the command line asks for.

    Args:
        args: of :func:`held_out_parser`.

    Raises:
        ValueError: kinds of mask, photos or numbers that do not exist.
    """

    kinds: tuple[str, ...]
    folders: dict[str, MaskFolder]

    def __init__(self, args: argparse.Namespace):
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


def program(
    parser: Callable[[], argparse.ArgumentParser], work: Callable[[argparse.Namespace], object]
) -> Callable[..., int]:
    """Return the ``main`` of a program: it reads ``argv`` and works, see :func:`guarded`."""

    def main(argv: Sequence[str] | None = None) -> int:
        options = parser()
        args = options.parse_args(argv)
        return guarded(options.prog.removeprefix("python -m "), lambda: work(args))

    return main


def guarded(program: str, work: Callable[[], object]) -> int:
    """Do the work; return 0, or 2 with one line on stderr if something was refused."""
    try:
        work()
    except (ValueError, OSError) as error:
        print(f"{program}: error: {error}", file=sys.stderr)
        return 2
    return 0
