"""Options that the programs for evaluation share, and how all programs end."""

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from asyncdsb.names import FINISHES, GRIDS
from asyncdsb.networks.device import PRECISIONS
from asyncdsb.photo.settings import FROM_WEIGHTS, Settings
from asyncdsb.store.bundled import BUNDLED_NAMES

SAMPLING = (
    "steps", "sampler", "strategy", "grid", "tau_min", "tau_max", "eta", *FROM_WEIGHTS,
)  # fmt: skip
"""Fields of :class:`asyncdsb.photo.settings.Settings` that the methods of an evaluation take."""


def held_out_parser(program: str, doc: str, **defaults) -> argparse.ArgumentParser:
    """Options of a program that restores held-out photos; ``defaults`` are its own."""
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
    add("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="cpu, cuda, ...")
    add("--precision", default="auto", choices=PRECISIONS, help="in which networks multiply")
    add("--steps", type=int, help="network evaluations per crop")
    add("--grid", choices=GRIDS, help="time grid")
    add("--tau-min", type=float, help="tau of the flattest pixels")
    add("--tau-max", type=float, help="tau of the steepest pixels")
    add("--finish", choices=FINISHES, help="None: the weights' own")
    parser.set_defaults(**{name: getattr(Settings, name) for name in SAMPLING} | defaults)
    return parser


def sampling(args: argparse.Namespace) -> dict:
    """Return the settings of bridges that the command line gives."""
    return {name: getattr(args, name) for name in SAMPLING}


def program(
    parser: Callable[[], argparse.ArgumentParser], work: Callable[[argparse.Namespace], object]
) -> Callable[..., int]:
    """Return the ``main`` of a program: it reads ``argv``, works, and returns the exit code.

    That is 2, with one line on stderr, if something was refused, 130 after an interruption, else
    the number of ``work``, or 0.
    """

    def main(argv: Sequence[str] | None = None) -> int:
        options = parser()
        args = options.parse_args(argv)
        try:
            code = work(args)
            return code if isinstance(code, int) else 0
        except (ValueError, OSError) as error:
            code, said = 2, str(error)
        except KeyboardInterrupt:
            code, said = 130, "interrupted"
        print(f"{options.prog.removeprefix('python -m ')}: error: {said}", file=sys.stderr)
        return code

    return main
