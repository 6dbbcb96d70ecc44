"""What the networks know, level by level: ``python -m train.levels --data PHOTOS -o OUT``.

Nothing is sampled. For held-out crops at each sigma_eff, the first table gives the root mean square
of the denoiser's error in the hole along each opponent axis of the colours, beside that of the
membrane (the harmonic fill), which a linear equation tells. A network that sees its last estimate
gets none, as at the first step of a run.

The second table judges the gradient completion: correlation of the completed with the true
companded map in the hole, its mean over the true one, and the range of tau from its 10th to its
90th percentile in the hole over the range asked for (Eq. 11).
"""

import argparse
import math
from functools import partial

import numpy as np
import torch
from torch import Tensor

from asyncdsb import bridge
from asyncdsb.noise import COLOUR_AXES
from asyncdsb.photo.fill import fill_hole
from asyncdsb.pipeline import AsyncDSBPipeline
from asyncdsb.schedule import tau_map
from train.judge.methods import HeldOut, load_bridges, tensors
from train.judge.protocol import Crop
from train.judge.report import markdown, publish
from train.judge.scores import companded_maps
from train.loop.options import held_out_parser, program

# sigma_eff in units of pictures in [-1, 1]; infinite at t = 1.
LEVELS = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 6.0, math.inf)
AXES = ("brightness", "red-blue", "green-magenta")
SCORES = ("correlation", "mean", "spread")  # of the completed gradient


@torch.no_grad()
def denoiser_errors(pipe: AsyncDSBPipeline, crops: list[Crop], kind: str, batch: int) -> dict:
    """Errors along :data:`AXES` in the hole by level, and the membrane's; tau is 0.5."""
    model, schedule = pipe.denoiser, pipe.config.schedule
    total_var = schedule.total_var
    axes = torch.tensor(COLOUR_AXES, device=pipe.device)
    sums: dict[str, Tensor] = {}
    area = 0.0
    for start in range(0, len(crops), batch):
        chunk = crops[start : start + batch]
        image, mask = tensors(chunk, kind, pipe.device)
        seeds = [torch.Generator().manual_seed(crop.noise_seed(kind)) for crop in chunk]
        drawn = [torch.randn(2, *image.shape[1:], generator=seed) for seed in seeds]
        noise, z = torch.stack(drawn, 1).to(image)
        stochastic = torch.full((len(chunk),), "stochastic" in model.config.bridges)
        gradient = pipe.completion(image, mask)
        context = model.context(image, mask, gradient, stochastic.to(pipe.device), noise)
        noise_var, z = total_var * context.stochastic, z * context.stochastic
        estimates = {"membrane": fill_hole(image, mask, "harmonic")}
        for level in LEVELS:
            sigma = torch.full((len(chunk), 1, 1, 1), level).to(image)
            s = bridge.clock_at_level(sigma, noise_var, model.config.hole_noise)
            time = schedule.inverse_clock(s, torch.full_like(s, 0.5))
            s = s.expand_as(mask)
            state = bridge.marginal(image, context.x1, s, total_var, z)
            estimates[f"{level:g}"] = model.x0_hat(state, time, s, context)
        for name, estimate in estimates.items():
            error = torch.einsum("ij,bjhw->bihw", axes, estimate - image)
            sums[name] = sums.get(name, torch.zeros(3)) + (mask * error**2).sum((0, 2, 3)).cpu()
        area += float(mask.sum())
    return {name: (total / area).sqrt().tolist() for name, total in sums.items()}


@torch.no_grad()
def completion_scores(pipe: AsyncDSBPipeline, crops: list[Crop], kind: str, ends: tuple) -> dict:
    """Correlation and mean in the hole, averages over crops, and the share of tau's range."""
    rows = []
    low, high = ends
    for crop in crops:
        found, truth, correlation = companded_maps(pipe.completion, crop, kind, pipe.device)
        image, mask = tensors([crop], kind, pipe.device)
        completed = pipe.completion(image, mask)
        tau = tau_map(completed, low, high, pipe.config.blur_sigma, mask)[mask > 0.5]
        first, last = torch.quantile(tau, torch.tensor([0.1, 0.9]).to(tau))
        spread = float((last - first) / (high - low)) if high > low else math.nan
        rows.append([correlation, float(found.mean() / truth.mean()), spread])
    return dict(zip(SCORES, np.nanmean(rows, axis=0).tolist(), strict=True))


def table(results: dict) -> str:
    """Errors by mask and axis, one column a level; then the completion's row for each mask."""
    names = list(next(iter(results["errors"].values())))
    errors = [
        [kind, axis, *(f"{found[name][index]:.3f}" for name in names)]
        for kind, found in results["errors"].items()
        for index, axis in enumerate(AXES)
    ]
    scores = [
        [kind, *(f"{found[name]:.3f}" for name in SCORES)]
        for kind, found in results["completion"].items()
    ]
    heads = ["mask", "correlation", "mean", "range of tau"]
    return markdown(["mask", "axis", *names], errors, 2) + "\n" + markdown(heads, scores, 1)


def run(args: argparse.Namespace) -> None:
    """Measure both tables, for each kind of mask; write ``levels.json`` and ``levels.md``."""
    (chosen,) = load_bridges(args, 1)
    held_out = HeldOut(args, [chosen])
    pipe, crops = chosen.pipe, list(held_out.crops())
    if pipe.config.parametrisation != "edm":
        raise ValueError("expected weights of the edm form, whose only input is the level")
    ends = (args.tau_min, args.tau_max)
    results = {
        "crops": len(crops),
        "errors": {k: denoiser_errors(pipe, crops, k, args.batch) for k in held_out.kinds},
        "completion": {k: completion_scores(pipe, crops, k, ends) for k in held_out.kinds},
    }
    publish(args.out, "levels", results, table(results))


main = program(partial(held_out_parser, "train.levels", __doc__), run)

if __name__ == "__main__":
    raise SystemExit(main())
