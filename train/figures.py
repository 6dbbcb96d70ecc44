"""Pictures of the restoration itself: ``python -m train.figures --data PHOTOS -o OUT``.

``process.png``   the paper's Figure 8: for held-out photos, the completed gradient and the states
                  of a run by each method, at the same seed.
``schedule.png``  its Figure 1: one run of the first method over beta(t), and how fast it went.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from asyncdsb.gradient import image_gradient
from asyncdsb.measure.analysis import gradient_parts, progress
from asyncdsb.photo.images import to_pil, write_atomic
from asyncdsb.samplers import SamplerState
from asyncdsb.show.viz import GRADIENT_COLOURS, TAU_COLOURS
from train.judge.methods import Method, held_out_of, load_bridges, trace
from train.judge.protocol import Crop
from train.loop.options import guarded, held_out_parser

TIMES = (1.0, 0.83, 0.66, 0.5, 0.33, 0.17, 0.0)
"""Moments that are shown, those of the paper and some between."""


def at_times(states: Sequence[SamplerState]) -> list[SamplerState]:
    """The state nearest to each of :data:`TIMES`."""
    return [min(states, key=lambda state: abs(float(state.t[0]) - time)) for time in TIMES]


def process_figure(methods: Sequence[Method], crops: Sequence[Crop], kind: str, path: Path) -> None:
    """Draw, for each crop, input, gradient and truth, then x_t and x0_hat of each method."""
    from matplotlib.figure import Figure

    heads = [f"t = {time:.2f} T" for time in TIMES]
    columns, rows = max(1 + len(TIMES), 3 + len(methods)), len(crops) * (1 + 2 * len(methods))
    figure = Figure(figsize=(1.45 * columns, 1.5 * rows), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False)
    for panel in axes.flat:
        panel.set_axis_off()
    line = iter(axes)
    for crop in crops:
        mask = crop.mask(kind)
        shown = np.where(mask[..., None], np.uint8(128), crop.pixels)
        gradient = methods[0].pipe.predict_gradient(shown, mask)
        top = next(line)
        pictures = [(shown, "input", None), (gradient**0.5, "gradient", GRADIENT_COLOURS)]
        runs = [(method, *trace(method, crop, kind)[2:]) for method in methods]
        pictures += [(tau[0, 0].cpu().numpy(), f"tau, {m.name}", TAU_COLOURS) for m, tau, _ in runs]
        pictures.append((crop.pixels, "truth", None))
        for panel, (picture, title, colours) in zip(top, pictures, strict=False):
            panel.imshow(picture, cmap=colours, vmin=0, vmax=1)
            panel.set_title(title, fontsize=8)
        for method, _, states in runs:
            for signal in ("x_t", "x0_hat"):
                row = next(line)
                row[0].text(
                    0.95, 0.5, f"{method.name}\n{signal}", ha="right", va="center", fontsize=8
                )
                for panel, head, state in zip(row[1:], heads, at_times(states), strict=False):
                    panel.imshow(to_pil(getattr(state, signal)))
                    panel.set_title(head, fontsize=7)
    figure.savefig(path, dpi=110)


def schedule_figure(method: Method, crop: Crop, kind: str, path: Path) -> None:
    """Draw beta(t) and the measured speed of one run over its pictures."""
    from matplotlib.figure import Figure

    x0, hole, tau, states = trace(method, crop, kind)
    parts = gradient_parts(image_gradient(x0), hole)
    schedule = method.pipe.config.schedule
    found = progress(states, x0, tau, schedule, parts, "projection", "x_t")
    middle, width = (found.t[1:] + found.t[:-1]) / 2, -np.diff(found.t)
    figure = Figure(figsize=(11, 5.4), layout="constrained")
    grid = figure.add_gridspec(3, len(TIMES), height_ratios=(1.6, 1, 1))
    panel = figure.add_subplot(grid[0, :])
    panel.plot(middle, found.beta["all"] / width, "k--", label="beta(t; tau) / M, mean of the hole")
    panel.plot(middle, found.speed("all") / width, "C1", label="measured speed of x_t")
    panel.set_xlim(1, 0)
    panel.set_xlabel("t, in units of T")
    panel.legend(fontsize=8)
    panel.set_title(f"{method.name}: schedule and restoration", fontsize=10)
    for column, state in enumerate(at_times(states)):
        for row, signal in enumerate(("x_t", "x0_hat"), 1):
            axes = figure.add_subplot(grid[row, column])
            axes.imshow(to_pil(getattr(state, signal)))
            axes.set_axis_off()
            axes.set_title(f"{signal}, t = {float(state.t[0]):.2f}", fontsize=8)
    figure.savefig(path, dpi=100)


def run(args: argparse.Namespace) -> None:
    """Restore the photos and draw both figures."""
    methods = load_bridges(args)
    held_out = held_out_of(args, methods)
    if args.photos < 1:
        raise ValueError(f"expected --photos of at least 1, got {args.photos}")
    crops, kind = held_out.first(args.photos), held_out.kinds[0]
    args.out.mkdir(parents=True, exist_ok=True)
    write_atomic(args.out / "process.png", lambda p: process_figure(methods, crops, kind, p))
    write_atomic(
        args.out / "schedule.png", lambda p: schedule_figure(methods[0], crops[0], kind, p)
    )


def parser() -> argparse.ArgumentParser:
    """Options of this program."""
    # What is copied after the run is no part of it.
    options = held_out_parser("train.figures", __doc__, masks="center", steps=48, finish="none")
    options.set_defaults(grid="uniform", size=None, crops=None)
    options.add_argument(
        "--methods", default="synchronous,asyncdsb", help="see train.judge.methods"
    )
    options.add_argument("--photos", type=int, default=2, help="photos on process.png")
    return options


def main(argv: list[str] | None = None) -> int:
    """Run the command line; return 0, or 2 with one line on stderr if something was refused."""
    args = parser().parse_args(argv)
    return guarded("train.figures", lambda: run(args))


if __name__ == "__main__":
    sys.exit(main())
