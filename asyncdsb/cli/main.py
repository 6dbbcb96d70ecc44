"""The command line: ``python -m asyncdsb inpaint`` and ``python -m asyncdsb mask``.

Exit codes: 0 done; 2 something that the user can mend, in one line on standard error. A command
that fails writes nothing; of a folder, it writes the photographs that it could restore.
"""

from __future__ import annotations

import argparse
import logging
import signal
import sys
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from asyncdsb import __version__
from asyncdsb.cli.jobs import Job, check_places, check_size, output_file, plan, write_files
from asyncdsb.photo.formats import LOSSY, SAVE_OPTIONS

# Nothing heavy here: help and a mistyped option must not wait for torch.
if TYPE_CHECKING:
    from tqdm import tqdm

    from asyncdsb.photo.result import Frame
    from asyncdsb.pipeline import AsyncDSBPipeline

SAMPLERS = ("posterior", "ode", "implicit")
STRATEGIES = ("gradient", "ranked", "flat-first", "uniform", "inward")
GRIDS = ("log", "uniform", "clock")
FINISHES = ("none", "patches")
MASK_KINDS = ("center", "half", "wide", "narrow", "freeform")
MAX_PIXELS = 64_000_000
SETTINGS = (
    "steps", "tau_min", "tau_max", "sampler", "eta", "grid", "finish", "seed", "tiles", "box",
)  # fmt: skip


class _Parser(argparse.ArgumentParser):
    """An argument parser whose errors are one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"asyncdsb: error: {message} (see {self.prog} --help)\n")


class _Patches(argparse.Action):
    """The earlier ``--patches SHARE``, taken as a finish, with one line that says so."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        option_string: str | None = None,
    ) -> None:
        finish = "patches" if values else "none"
        setattr(namespace, self.dest, finish)
        _say("warning", f"{option_string} is now --finish: taken as --finish {finish}")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; None takes the process's arguments. Returns the exit code."""
    arguments = _parser().parse_args(argv)
    # Other output on standard error is for developers; users get one line.
    logging.getLogger("PIL").setLevel(logging.CRITICAL)
    previous = _exit_on_sigterm()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return arguments.run(arguments)
    except (ValueError, OSError) as error:
        _say("error", error)
        return 2
    except KeyboardInterrupt:
        _say("error", "interrupted")
        return 130
    finally:
        if previous is not None:
            signal.signal(signal.SIGTERM, previous)


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="asyncdsb", description="Restore missing parts of photographs.")
    parser.add_argument("--version", action="version", version=f"asyncdsb {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)

    inpaint = commands.add_parser(
        "inpaint",
        help="restore the masked part of a photograph, or of a folder of them",
        description="Restore the white part of MASK in PHOTO. Everything else stays as it is, "
        "bit for bit, in PNG, WebP, TIFF and BMP files, and so do the photograph's metadata; a "
        "warning names what the format cannot hold.",
    )
    inpaint.set_defaults(run=_inpaint)
    inpaint.add_argument("photo", metavar="PHOTO", type=Path, help="a picture, or a folder of them")
    inpaint.add_argument(
        "mask",
        metavar="MASK",
        type=Path,
        help="picture of the same size, white = restore; for a folder of photos one mask for all, "
        "or a folder of masks with the photos' names (any suffix)",
    )
    _add_out(
        inpaint,
        "file to write, its suffix chooses the format (.png .webp .tif .bmp .jpg; PNG where there "
        "is none); a folder if PHOTO is one",
    )
    inpaint.add_argument("--invert", action="store_true", help="black marks the hole, not white")
    options = inpaint.add_argument_group("restoration", "defaults in brackets").add_argument
    options("--steps", type=int, metavar="N", help="network evaluations (20)")
    options("--tau-min", type=float, metavar="TAU", help="peak time of the smoothest pixels (0.2)")
    options(
        "--tau-max",
        type=float,
        metavar="TAU",
        help="peak time of the steepest pixels, which are restored first, 0 to 1 (0.5)",
    )
    options("--sampler", choices=SAMPLERS, help="how one step is taken (posterior)")
    options(
        "--strategy",
        metavar="NAME",
        help=f"what sets the order: {', '.join(STRATEGIES)}, or the file of a grey picture of "
        "PHOTO's size, 8 or 16 bits, with the peak times, black = 0 to white = 1 (gradient)",
    )
    options("--eta", type=float, metavar="ETA", help="noise of the implicit sampler, 0 to 1 (0)")
    options(
        "--finish",
        choices=FINISHES,
        help="none shows what the bridge restores, patches replaces it by patches of the known "
        "part (the weights' choice)",
    )
    # What the option was called before it had names; it went from 0 to 1.
    options("--patches", type=float, action=_Patches, dest="finish", help=argparse.SUPPRESS)
    options("--grid", choices=GRIDS, help="spacing of the steps (log)")
    options("--seed", type=int, metavar="SEED", help="the same seed, the same file (0)")
    options(
        "--tiles",
        type=int,
        metavar="N",
        help="most fields of the networks for a large hole, or holes far apart (8): more keep more "
        "detail of a large photo, and take as much longer",
    )
    options(
        "--box",
        type=_box,
        metavar="LEFT,TOP,SIDE",
        help="with weights for portraits, the square around the head, in pixels of the photo "
        "(looked for)",
    )
    options(
        "--settings",
        type=Path,
        metavar="FILE",
        help="take the settings from a JSON file or from a PNG that was restored; options given "
        "beside it override them",
    )
    running = inpaint.add_argument_group("running").add_argument
    running("--device", metavar="NAME", help="cpu, cuda, ... (a GPU if there is one)")
    running(
        "--precision",
        metavar="TYPE",
        help="fp32 or bf16, in which the networks multiply, or auto for the faster one: half "
        "precision gives slightly other pictures (auto)",
    )
    running(
        "--compile",
        action="store_true",
        help="compile the network, which takes a minute for every size of window: for many "
        "photographs with similar holes, or a GPU",
    )
    running(
        "--weights",
        metavar="NAME",
        help="scenes or portraits, a folder of weights, or user/repo on the Hugging Face Hub "
        "(scenes)",
    )
    running("--quiet", action="store_true", help="no progress bar")
    extra = inpaint.add_argument_group("further files", "folders if PHOTO is one").add_argument
    extra("--trajectory", type=Path, metavar="FILE.webp", help="animation of the run")
    extra("--report", type=Path, metavar="FILE.png", help="figure with the maps and the steps")

    mask = commands.add_parser(
        "mask", help="draw a random mask", description="Draw a mask, white = restore."
    )
    mask.set_defaults(run=_mask)
    mask.add_argument("kind", metavar="KIND", choices=MASK_KINDS, help=", ".join(MASK_KINDS))
    mask.add_argument("size", metavar="SIZE", type=_size, help="256 or 640x480 (width x height)")
    _add_out(mask, "file to write")
    mask.add_argument("--seed", type=int, default=0, metavar="SEED", help="(0)")
    return parser


def _add_out(parser: argparse.ArgumentParser, told: str) -> None:
    parser.add_argument("-o", "--out", metavar="OUT", type=Path, required=True, help=told)


def _box(text: str) -> tuple[int, int, int]:
    parts = [part.strip() for part in text.split(",")]
    if len(parts) != 3 or not all(part.isdecimal() for part in parts):
        raise argparse.ArgumentTypeError(f"expected LEFT,TOP,SIDE in pixels, got {text!r}")
    left, top, side = map(int, parts)
    return left, top, side


def _size(text: str) -> tuple[int, int]:
    """Parse WIDTHxHEIGHT, or the side of a square, as (height, width)."""
    parts = text.lower().split("x")
    if len(parts) > 2 or not all(part.isdecimal() for part in parts):
        raise argparse.ArgumentTypeError(f"expected 256 or 640x480, got {text!r}")
    height, width = int(parts[-1]), int(parts[0])
    if height * width > MAX_PIXELS:
        raise argparse.ArgumentTypeError(
            f"expected at most {MAX_PIXELS // 1_000_000} megapixels, got {text}"
        )
    return height, width


def _say(kind: str, message: object) -> None:
    """Print one line on standard error, above a progress bar if there is one."""
    line = f"asyncdsb: {kind}: {' '.join(str(message).split())}"
    if "tqdm" in sys.modules:
        sys.modules["tqdm"].tqdm.write(line, file=sys.stderr)
    else:
        print(line, file=sys.stderr)


def _exit_on_sigterm() -> signal.Handlers | Callable | int | None:
    """Let a polite kill unwind the stack, so that temporary files are removed."""
    try:
        return signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    except ValueError:  # Only the main thread may do this.
        return None


def _mask(arguments: argparse.Namespace) -> int:
    out = output_file(arguments.out)
    if out.suffix.lower() in LOSSY:
        raise ValueError(f"{out.name}: masks are written as PNG, WebP, TIFF or BMP, not JPEG")
    from PIL import Image

    from asyncdsb.masks import make_mask
    from asyncdsb.photo.images import encoded, write_atomic

    hole = make_mask(arguments.kind, arguments.size, arguments.seed)
    picture = Image.fromarray(hole.astype("uint8") * 255)
    data = encoded(picture, **SAVE_OPTIONS[out.suffix.lower()])
    write_atomic(out, lambda path: path.write_bytes(data))
    return 0


def _inpaint(arguments: argparse.Namespace) -> int:
    jobs, problems = plan(arguments)
    check_places(jobs)

    from tqdm import tqdm

    from asyncdsb.photo.images import check_pair
    from asyncdsb.photo.mask_files import read_mask
    from asyncdsb.photo.original import read_photograph
    from asyncdsb.photo.settings import Settings

    settings, strategy, precision = _settings(arguments)
    Settings(**settings).check(SAMPLERS)
    keep_frames = bool(arguments.trajectory or arguments.report)
    for problem in problems:
        _say("error", problem)
    if any(job.out.suffix.lower() in LOSSY for job in jobs):
        _say("warning", "JPEG is lossy: pixels outside the mask will change a little; PNG is exact")
    failed, alone = len(problems), len(jobs) == 1
    pipe: AsyncDSBPipeline | None = None
    for number, job in enumerate(jobs, 1):
        try:
            photo = read_photograph(job.photo)
            check_size(job.out, photo.size)
            mask = read_mask(job.mask) != arguments.invert
            check_pair(photo.rgb, mask)
            order = _order(strategy, photo.size)
        except (ValueError, OSError) as error:
            if alone:
                raise
            failed += _named(error, job)
            continue
        if lost := photo.not_kept(job.out.suffix):
            _say("warning", f"{job.photo.name}: not kept in {job.out.name}: {', '.join(lost)}")
        # Not guarded: without weights no photograph of the folder can be restored.
        pipe = pipe or _load(arguments, precision)
        label = job.photo.name if alone else f"{number}/{len(jobs)} {job.photo.name}"
        bar = tqdm(
            desc=label, unit="step", file=sys.stderr, disable=arguments.quiet, dynamic_ncols=True
        )
        show, chosen = partial(_advance, bar), settings | order
        try:
            with bar:
                result = pipe(photo, mask, trajectory=keep_frames, on_frame=show, **chosen)
            write_files(job, result, photo.rgb, mask)
        except (ValueError, OSError) as error:
            if alone:
                raise
            failed += _named(error, job)
    return 2 if failed else 0


def _named(error: Exception, job: Job) -> int:
    """Print an error with the photograph's name; returns 1, the number of errors."""
    _say("error", error if job.photo.name in str(error) else f"{job.photo.name}: {error}")
    return 1


def _advance(bar: tqdm, frame: Frame) -> None:
    bar.total = frame.steps
    bar.update(frame.step - bar.n)


def _settings(arguments: argparse.Namespace) -> tuple[dict[str, Any], str | None, str]:
    """The settings, the strategy and the precision; options override the settings file."""
    from asyncdsb.photo.record import load_settings

    path, strategy = arguments.settings, arguments.strategy
    found = load_settings(path, (*SETTINGS, "strategy", "precision")) if path else {}
    own = {name: value for name in SETTINGS if (value := getattr(arguments, name)) is not None}
    recorded = found.pop("strategy", None)
    precision = found.pop("precision", "fp32" if path else "auto")
    if strategy is None and recorded is not None:
        if recorded == "painted" or not isinstance(recorded, str):
            expected = "the order was painted: give its map with --strategy FILE"
            raise ValueError(f"{path.name}: {expected}")
        strategy = recorded if recorded in STRATEGIES else str(path.parent / recorded)
    return found | own, strategy, arguments.precision or str(precision)


def _order(strategy: str | None, size: tuple[int, int]) -> dict[str, Any]:
    """The ``strategy`` argument of the pipeline: a name, or a map read from a file."""
    if strategy is None:
        return {}
    if strategy in STRATEGIES:
        return {"strategy": strategy}
    path = Path(strategy)
    if not path.suffix and not path.exists():
        raise ValueError(
            f"--strategy: expected {', '.join(STRATEGIES)} or a picture file, got {strategy!r}"
        )
    from asyncdsb.photo.record import load_map

    try:
        return {"strategy": load_map(path, size)}
    except ValueError as error:
        raise ValueError(f"--strategy: {error}") from None


def _load(arguments: argparse.Namespace, precision: str) -> AsyncDSBPipeline:
    from asyncdsb.networks.malloc import keep_freed
    from asyncdsb.pipeline import AsyncDSBPipeline

    keep_freed()
    return AsyncDSBPipeline.from_pretrained(
        arguments.weights,
        device=arguments.device,
        precision=precision,
        compiled=arguments.compile,
    )
