"""The command line: ``python -m asyncdsb inpaint`` and ``python -m asyncdsb mask``.

Exit codes: 0 done; 2 something that the user can mend, in one line on standard error; 128 plus its
number after a signal. A command that fails writes nothing; of a folder, it writes the photographs
that it could restore.
"""

import argparse
import contextlib
import logging
import os
import sys
import warnings
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, NoReturn

from tqdm import tqdm

# Nothing heavy here: help and a mistyped option must not wait for torch.
from asyncdsb import __version__
from asyncdsb.cli.ending import end_on_sigterm
from asyncdsb.cli.jobs import (
    Job,
    check_places,
    output_file,
    plan,
    refuse_clashes,
    write_files,
)
from asyncdsb.names import (
    FINISHES,
    GRIDS,
    MASK_KINDS,
    MAX_PIXELS,
    SAMPLERS,
    SOLVER_ORDERS,
    STRATEGIES,
)
from asyncdsb.photo.formats import LOSSY, SAVE_OPTIONS, check_side

# Texts of the help that take more than a line.
_TOLD = {
    "inpaint": "Restore the white part of MASK in PHOTO. Everything else stays as it is, bit for "
    "bit, in PNG, WebP, TIFF and BMP files, and so do the photograph's metadata; a warning names "
    "what the format cannot hold.",
    "mask": "picture of the same size, white = restore; for a folder of photos one mask for all, "
    "or a folder of masks with the photos' names (any suffix)",
    "out": "file to write, its suffix chooses the format (.png .webp .tif .bmp .jpg; PNG where "
    "there is none); a folder if PHOTO is one",
    "--tau-max": "peak time of the steepest pixels, which are restored first, 0 to 1 (0.5)",
    "--strategy": f"what sets the order: {', '.join(STRATEGIES)}, or the file of a grey picture of "
    "PHOTO's size, 8 or 16 bits, with the peak times, black = 0 to white = 1 (gradient)",
    "--finish": "none shows what the bridge restores, patches replaces it by patches of the known "
    "part (the weights' choice)",
    "--guidance": "how far estimates move away from those of the guide, 0: not at all (the "
    "weights' choice)",
    "--solver-order": "1: the paper's steps; 2: of second order (the weights' choice)",
    "--tiles": "most fields of the networks for a large hole, or holes far apart (8): more keep "
    "more detail of a large photo, and take as much longer",
    "--box": "with weights for portraits, the square around the head, in pixels of the photo "
    "(looked for)",
    "--settings": "take the settings from a JSON file or from a PNG that was restored; options "
    "given beside it override them",
    "--precision": "fp32 or bf16, in which the networks multiply, or auto for the faster one: half "
    "precision gives slightly other pictures (auto)",
    "--compile": "compile the network, which takes a minute for every size of window: for many "
    "photographs with similar holes, or a GPU",
    "--weights": "scenes or portraits, a folder of weights, or user/repo on the Hugging Face Hub "
    "(scenes)",
}


REFUSALS = (ValueError, OSError, MemoryError, RuntimeError)
"""Errors that end the work on a photograph; torch raises the last for a lack of memory."""


class _Parser(argparse.ArgumentParser):
    """An argument parser whose errors are one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"asyncdsb: error: {message} (see {self.prog} --help)\n")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; None takes the process's arguments. Returns the exit code."""
    arguments = _parser().parse_args(argv)
    # Other output on standard error is for developers; users get one line.
    os.environ.setdefault("OPENCV_LOG_LEVEL", "ERROR")
    logging.getLogger("PIL").setLevel(logging.CRITICAL)
    end_on_sigterm()
    try:
        with warnings.catch_warnings(action="ignore"):
            return arguments.run(arguments)
    except REFUSALS as error:
        _say("error", error)
        return 2
    except KeyboardInterrupt:
        _say("error", "interrupted")
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="asyncdsb", description="Restore missing parts of photographs.")
    parser.add_argument("--version", action="version", version=f"asyncdsb {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    told = "restore the masked part of a photograph, or of a folder of them"
    inpaint = commands.add_parser("inpaint", help=told, description=_TOLD["inpaint"])
    inpaint.set_defaults(run=_inpaint)
    told = "draw a random mask"
    mask = commands.add_parser("mask", help=told, description="Draw a mask, white = restore.")
    mask.set_defaults(run=_mask)

    def add(to: Any, name: str, metavar: str | None = None, **more: Any) -> None:
        told = {"help": _TOLD[name]} if name in _TOLD else {}
        named = {"metavar": metavar} if metavar else {}
        to.add_argument(*name.split("/"), **told, **named, **more)

    add(inpaint, "photo", "PHOTO", type=Path, help="a picture, or a folder of them")
    add(inpaint, "mask", "MASK", type=Path)
    add(inpaint, "-o/--out", "OUT", required=True, help=_TOLD["out"])
    add(inpaint, "--invert", action="store_true", help="black marks the hole, not white")
    run = inpaint.add_argument_group("restoration", "defaults in brackets")
    add(run, "--steps", "N", type=int, help="network evaluations (20)")
    add(run, "--tau-min", "TAU", type=float, help="peak time of the smoothest pixels (0.2)")
    add(run, "--tau-max", "TAU", type=float)
    add(run, "--sampler", choices=SAMPLERS, help="how one step is taken (posterior)")
    add(run, "--strategy", "NAME")
    add(run, "--eta", "ETA", type=float, help="noise of the implicit sampler, 0 to 1 (0)")
    add(run, "--guidance", "W", type=float)
    add(run, "--solver-order", type=int, choices=SOLVER_ORDERS)
    add(run, "--finish", choices=FINISHES)
    add(run, "--grid", choices=GRIDS, help="spacing of the steps (log)")
    add(run, "--seed", "SEED", type=int, help="the same seed, the same file (0)")
    add(run, "--tiles", "N", type=int)
    add(run, "--box", "LEFT,TOP,SIDE", type=_box)
    add(run, "--settings", "FILE", type=Path)
    running = inpaint.add_argument_group("running")
    add(running, "--device", "NAME", help="cpu, cuda, ... (a GPU if there is one)")
    add(running, "--precision", "TYPE")
    add(running, "--compile", action="store_true")
    add(running, "--weights", "NAME")
    add(running, "--quiet", action="store_true", help="no progress bar")
    extra = inpaint.add_argument_group("further files", "folders if PHOTO is one")
    add(extra, "--trajectory", "FILE.webp", type=Path, help="animation of the run")
    add(extra, "--report", "FILE.png", type=Path, help="figure with the maps and the steps")
    add(mask, "kind", "KIND", choices=MASK_KINDS, help=", ".join(MASK_KINDS))
    add(mask, "size", "SIZE", type=_size, help="256 or 640x480 (width x height)")
    add(mask, "-o/--out", "OUT", required=True, help="file to write")
    add(mask, "--seed", "SEED", type=int, default=0, help="(0)")
    return parser


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
        most = f"expected at most {MAX_PIXELS // 1_000_000} megapixels"
        raise argparse.ArgumentTypeError(f"{most}, got {text}")
    return height, width


def _say(kind: str, message: object) -> None:
    """Print one line on standard error, above a progress bar if there is one."""
    # The terminal of a run in the background may be closed, which is no reason to end the run.
    with contextlib.suppress(OSError):
        if sys.stderr:  # tqdm would write to standard output in place of None.
            tqdm.write(f"asyncdsb: {kind}: {' '.join(str(message).split())}", file=sys.stderr)


def _mask(arguments: argparse.Namespace) -> int:
    out = output_file(arguments.out)
    if out.suffix.lower() in LOSSY:
        raise ValueError(f"{out.name}: masks are written as PNG, WebP, TIFF or BMP, not JPEG")
    check_side(out, arguments.size[::-1])
    from PIL import Image

    from asyncdsb.masks import make_mask
    from asyncdsb.photo.images import encoded, write_atomic

    hole = make_mask(arguments.kind, arguments.size, arguments.seed)
    data = encoded(Image.fromarray(hole.astype("uint8") * 255), **SAVE_OPTIONS[out.suffix.lower()])
    write_atomic(out, lambda path: path.write_bytes(data))
    return 0


def _inpaint(arguments: argparse.Namespace) -> int:
    jobs, problems = plan(arguments)
    refuse_clashes(jobs, arguments.strategy, arguments.settings)
    check_places(jobs)

    from asyncdsb.photo.images import check_pair
    from asyncdsb.photo.mask_files import read_mask
    from asyncdsb.photo.original import read_photograph
    from asyncdsb.photo.settings import Settings

    settings, strategy, weights, precision = _settings(arguments)
    refuse_clashes(jobs, strategy)  # Settings may name a map.
    checked = Settings(**settings)
    checked.check()
    keep_frames = bool(arguments.trajectory or arguments.report)
    for problem in problems:
        _say("error", problem)
    if any(job.out.suffix.lower() in LOSSY for job in jobs):
        _say("warning", "JPEG is lossy: pixels outside the mask will change a little; PNG is exact")
    failed, alone = len(problems), len(jobs) == 1

    def refuse(error: Exception, job: Job) -> None:
        nonlocal failed
        if alone:
            raise error
        _say("error", error if job.photo.name in str(error) else f"{job.photo.name}: {error}")
        failed += 1

    pipe: Any = None
    for number, job in enumerate(jobs, 1):
        try:
            photo = read_photograph(job.photo)
            check_side(job.out, photo.size)
            mask = read_mask(job.mask) != arguments.invert
            check_pair(photo.rgb, mask)
            order = _order(strategy, photo.size)
        except REFUSALS as error:
            refuse(error, job)
            continue
        if lost := photo.not_kept(job.out.suffix):
            _say("warning", f"{job.photo.name}: not kept in {job.out.name}: {', '.join(lost)}")
        if pipe is None:
            # Not guarded: without weights no photograph of the folder can be restored.
            from asyncdsb.networks.device import keep_freed
            from asyncdsb.pipeline import AsyncDSBPipeline

            keep_freed()
            given = {"device": arguments.device, "compiled": arguments.compile}
            pipe = AsyncDSBPipeline.from_pretrained(weights, precision=precision, **given)
            checked.check(pipe.config)
        label = job.photo.name if alone else f"{number}/{len(jobs)} {job.photo.name}"
        hidden = arguments.quiet or not sys.stderr  # None where the caller has closed it.
        bar: dict[str, Any] = {"desc": label, "unit": "step", "file": sys.stderr, "disable": hidden}
        try:
            with tqdm(**bar, total=checked.steps, dynamic_ncols=True) as shown:
                result = pipe(
                    photo,
                    mask,
                    trajectory=keep_frames,
                    on_frame=lambda frame: shown.update(frame.step - shown.n),
                    **settings | order,
                )
            write_files(job, result, photo.rgb, mask)
        except REFUSALS as error:
            refuse(error, job)
    return 2 if failed else 0


def _settings(arguments: argparse.Namespace) -> tuple[dict[str, Any], str | None, str | None, str]:
    """Settings, strategy, weights and precision; options override the settings file."""
    from asyncdsb.photo.record import load_settings
    from asyncdsb.photo.settings import Settings

    path, strategy = arguments.settings, arguments.strategy
    names = [field.name for field in fields(Settings) if field.name != "strategy"]
    known = *names, "strategy", "weights", "precision"
    found: dict[str, Any] = load_settings(path, known) if path else {}
    own = {name: value for name in names if (value := getattr(arguments, name)) is not None}
    recorded, weights = found.pop("strategy", None), found.pop("weights", None)
    precision = found.pop("precision", "fp32" if path else "auto")
    if strategy is None and recorded is not None:
        if recorded == "painted" or not isinstance(recorded, str):
            painted = "the order was painted: give its map with --strategy FILE"
            raise ValueError(f"{path.name}: {painted}")
        strategy = recorded if recorded in STRATEGIES else str(path.parent / recorded)
    weights = arguments.weights or (str(weights) if weights else None)
    return found | own, strategy, weights, arguments.precision or str(precision)


def _order(strategy: str | None, size: tuple[int, int]) -> dict[str, Any]:
    """The ``strategy`` argument of the pipeline: a name, or a map read from a file."""
    if strategy is None or strategy in STRATEGIES:
        return {"strategy": strategy} if strategy else {}
    path = Path(strategy)
    if not path.suffix and not path.exists():
        names = ", ".join(STRATEGIES)
        raise ValueError(f"--strategy: expected {names} or a picture file, got {strategy!r}")
    from asyncdsb.photo.record import load_map

    try:
        return {"strategy": load_map(path, size)}
    except ValueError as error:
        raise ValueError(f"--strategy: {error}") from None
