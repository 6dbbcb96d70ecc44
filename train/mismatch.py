"""Does restoration keep to its schedule? ``python -m train.mismatch --data PHOTOS -o OUT``.

The paper's Figures 2, 3 and 7 on held-out photos: the speed of the restoration against
beta(t; tau), for the hole and the terciles of its true gradient, by default with one schedule for
all pixels (I2SB) and with the schedule of the pixel's gradient. Two signals are followed:

x_t        the projection ``<x1 - x, x1 - x0> / |x1 - x0|^2``, the share of the way from x1 to x0.
           For states of the bridge its mean is 1 - s, hence its slope is beta(t; tau) / M.
x0_hat     SSIM, the mean similarity to the truth over the pixels, as in the paper. Its slope is not
           beta(t) even if the states follow the bridge exactly: only methods can be compared.

The curves of all photos are averaged first and then differentiated, so that a photo whose
similarity hardly changes does not rule the mean. Intervals come from a bootstrap over photos.
"""

import argparse
from collections.abc import Sequence
from functools import partial
from itertools import product
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from asyncdsb.gradient import image_gradient
from train.judge.delay import PARTS, SIGNALS, delays, draw_speeds, gradient_parts, progress, speeds
from train.judge.methods import HeldOut, load_bridges, tensors
from train.judge.report import difference, markdown, publish
from train.judge.results import RESAMPLES, ends
from train.loop.options import held_out_parser, program


def summary(t: np.ndarray, curves: np.ndarray, photos: Sequence[str]) -> dict:
    """Speeds and delays of the mean curves of one method, signal and part.

    Of times t (N + 1,), curves (runs, 2, N + 1), what was restored and what the schedule says, and
    the photo of each run: "run" and "beta", shares of both per step (N,), and "delay", how much
    later the former's centroid comes, (1 + RESAMPLES,), measured and then drawn; NaN without speed.
    """
    names, member = np.unique(photos, return_inverse=True)
    sums = np.zeros((len(names), *curves.shape[1:]))
    np.add.at(sums, member, curves)
    count = len(names)
    drawn = np.random.default_rng(0).multinomial(count, [1 / count] * count, RESAMPLES)
    weights = np.concatenate([np.ones((1, count)), drawn])
    means = np.einsum("wp,pcn->wcn", weights, sums) / (weights @ np.bincount(member))[:, None, None]
    run, beta = speeds(means[0])
    return {"run": run, "beta": beta, "delay": delays(t, means)}


def _interval(draws: np.ndarray) -> dict[str, float] | None:
    """The first value with the 95 % range of the others; None if any is undefined."""
    if not np.isfinite(draws).all():
        return None
    low, high = ends(draws[1:])
    return {"mean": float(draws[0]), "low": float(low), "high": float(high)}


@torch.no_grad()
def measure(args: argparse.Namespace) -> dict:
    """Restore everything and summarise; ValueError unless methods are bridges of the same times.

    "curves" of the result has "METHOD/SIGNAL" -> part -> :func:`summary`, with intervals, and, of
    all methods but the first, "change": how much larger |delay| is than its.
    """
    methods = load_bridges(args)
    held_out = HeldOut(args, methods)
    if len({(method.settings["steps"], method.settings["grid"]) for method in methods}) > 1:
        raise ValueError("expected the same steps and grid for all methods")
    found: dict[str, list] = {method.name: [] for method in methods}
    with tqdm(total=len(held_out) * len(held_out.kinds) * len(methods), unit="run") as bar:
        for crop in held_out.crops():
            for kind, method in product(held_out.kinds, methods):
                x0, mask = tensors([crop], kind, method.pipe.device)
                known, seeds = x0.masked_fill(mask > 0.5, 0), [crop.noise_seed(kind)]
                tau, stream = method.pipe.trace(known, mask, seeds, **method.settings)
                states, parts = list(stream), gradient_parts(image_gradient(x0), mask)
                course = progress(states, x0, tau, method.pipe.config.schedule, parts)
                found[method.name].append((crop.key, course))
                bar.update()
    t = np.array([float(state.t[0]) for state in states])
    curves: dict[str, dict] = {}
    first: dict[tuple, np.ndarray] = {}
    for name, runs in found.items():
        photos, courses = zip(*runs, strict=True)
        for (n, signal), (m, part) in product(enumerate(SIGNALS), enumerate(PARTS)):
            own = summary(t, np.array(courses)[:, n, m], photos)
            row: dict = {
                curve: [None if np.isnan(v) else round(float(v), 6) for v in own[curve]]
                for curve in ("run", "beta")
            }
            row["delay"] = _interval(own["delay"])
            if name != methods[0].name:
                row["change"] = _interval(np.abs(own["delay"]) - np.abs(first[signal, part]))
            first.setdefault((signal, part), own["delay"])
            curves.setdefault(f"{name}/{signal}", {})[part] = row
    return {
        "t": t.tolist(),
        "photos": len(held_out.photos),
        "masks": list(held_out.kinds),
        "methods": {method.name: method.settings for method in methods},
        "curves": curves,
    }


def figure(results: dict, path: Path) -> None:
    """Speed of the restoration over time, dotted beta: one row a method, one column a signal."""
    from matplotlib.figure import Figure

    methods = results["methods"]
    drawing = Figure(figsize=(9, 3.1 * len(methods)), layout="constrained")
    panels = drawing.subplots(len(methods), len(SIGNALS), squeeze=False, sharex=True)
    for panel, (name, rows) in zip(panels.flat, results["curves"].items(), strict=True):
        shares = [[rows[part][curve] for curve in ("run", "beta")] for part in PARTS]
        draw_speeds(panel, np.array(results["t"]), PARTS, np.array(shares, float))
        method, signal = name.rsplit("/", 1)
        panel.set_title(f"{method}: {SIGNALS[signal]} of {signal}", fontsize=9)
    panels[0][0].legend(fontsize=7)
    drawing.savefig(path, dpi=100)


def table(results: dict) -> str:
    """Delays in thousandths of T with intervals, and the change of their size between methods."""
    rows = []
    for name, parts in results["curves"].items():
        method, signal = name.rsplit("/", 1)
        for part, row in parts.items():
            found = [row["delay"], row.get("change")]
            thousandths = [f and {k: 1000 * v for k, v in f.items()} for f in found]
            rows.append([method, signal, part, *(difference(f, 0) for f in thousandths)])
    heads = ["method", "signal", "part", "delay to beta, T/1000", "change of its size, T/1000"]
    return markdown(heads, rows, 3)


def run(args: argparse.Namespace) -> None:
    """Measure, write ``mismatch.json``, ``.md`` and ``.png``."""
    results = measure(args)
    publish(args.out, "mismatch", results, table(results), partial(figure, results))


# What is copied after the run is no part of it.
DEFAULTS = {"methods": "synchronous,asyncdsb", "masks": "center,narrow", "finish": "none"}
PAPER = {"grid": "uniform", "solver_order": 1}
options = partial(held_out_parser, "train.mismatch", __doc__, **PAPER, **DEFAULTS)
main = program(options, run)

if __name__ == "__main__":
    raise SystemExit(main())
