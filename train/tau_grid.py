"""A metric over a grid of tau ranges: ``python -m train.tau_grid --data PHOTOS -o OUT``.

For every pair tau_min <= tau_max out of evenly spaced values, held-out crops are restored at the
same seeds, and LPIPS is averaged. Tells whether any corner of the sliders breaks the model, and
which range suits which mask (the paper's Figure 6). Restored crops are kept like those of
:mod:`train.evaluate`: a run that was interrupted does only what is missing.
"""

from __future__ import annotations

import argparse
import json
import sys
from itertools import islice
from pathlib import Path

import numpy as np
from tqdm import tqdm

from asyncdsb.data import iter_photos
from asyncdsb.images import write_atomic
from asyncdsb.metrics import FeatureNet, Lpips
from asyncdsb.pipeline import AsyncDSBPipeline
from asyncdsb.restoration import Settings
from train.evaluate import evaluate
from train.methods import bridge_method, weights_checksum
from train.protocol import check_kinds, iter_crops


def measure(args: argparse.Namespace) -> dict:
    """Kind of mask -> rows of LPIPS by tau_min, columns by tau_max, None where min > max."""
    kinds = check_kinds(kind.strip() for kind in args.masks.split(","))
    pipe = AsyncDSBPipeline.from_pretrained(args.weights, device=args.device)
    checksum = weights_checksum(pipe)
    lpips, features = Lpips.load(device=pipe.device), FeatureNet(pipe.device)
    values = [round(float(v), 3) for v in np.linspace(0, 1, args.points)]
    table = {kind: [[None] * len(values) for _ in values] for kind in kinds}
    pairs = [(i, j) for i in range(len(values)) for j in range(i, len(values))]
    for i, j in tqdm(pairs, unit="range"):
        settings = {
            "steps": args.steps,
            "sampler": args.sampler,
            "tau_min": values[i],
            "tau_max": values[j],
        }
        method = bridge_method(f"tau-{values[i]}-{values[j]}", pipe, checksum, settings)
        crops = iter_crops(islice(iter_photos(args.data), args.limit), 1, args.size)
        found = evaluate(crops, [method], kinds, args.out, args.batch, lpips, features)
        for kind in kinds:
            table[kind][i][j] = found[kind][method.name]["lpips"]["mean"]
    spread = {kind: _spread(rows) for kind, rows in table.items()}
    return {"tau": values, "lpips": table, "spread": spread, "steps": args.steps}


def _spread(rows: list[list[float | None]]) -> float:
    """(largest - smallest) / smallest."""
    values = [value for row in rows for value in row if value is not None]
    return (max(values) - min(values)) / min(values)


def figure(results: dict, path: Path) -> None:
    """One heatmap a kind of mask; ranges that do not exist stay blank."""
    from matplotlib.figure import Figure

    ticks = results["tau"]
    drawing = Figure(figsize=(3.6 * len(results["lpips"]), 3.4), layout="constrained")
    panels = drawing.subplots(1, len(results["lpips"]), squeeze=False)[0]
    for panel, (kind, rows) in zip(panels, results["lpips"].items(), strict=True):
        grid = np.array(rows, float)
        panel.imshow(grid, origin="lower", cmap="viridis_r")
        for (i, j), value in np.ndenumerate(grid):
            if np.isfinite(value):
                panel.text(j, i, f"{value:.3f}"[1:], ha="center", va="center", fontsize=7)
        panel.set_xticks(range(len(ticks)), ticks)
        panel.set_yticks(range(len(ticks)), ticks)
        panel.set_xlabel("tau_max")
        panel.set_ylabel("tau_min")
        panel.set_title(f"{kind}: LPIPS, spread {100 * results['spread'][kind]:.0f} %")
    drawing.savefig(path, dpi=110)


def main(argv: list[str] | None = None) -> int:
    """Run the command line; return 0, or 2 with one line on stderr if something was refused."""
    default = Settings()
    options = argparse.ArgumentParser(prog="python -m train.tau_grid", description=__doc__)
    options.add_argument("--data", nargs="+", required=True, help="held-out photos")
    options.add_argument("-o", "--out", type=Path, required=True)
    options.add_argument("--weights", help="a folder or 'user/repo' instead of the bundled ones")
    options.add_argument("--masks", default="center,narrow", help="comma-separated")
    options.add_argument("--points", type=int, default=5, help="values of tau along each side")
    options.add_argument("--limit", type=int, help="use only the first so many photos")
    options.add_argument("--size", type=int, default=256, help="side of a crop in pixels")
    options.add_argument("--batch", type=int, default=8)
    options.add_argument("--steps", type=int, default=default.steps)
    options.add_argument("--sampler", default=default.sampler)
    options.add_argument("--device", help="cpu, cuda, ...")
    args = options.parse_args(argv)
    try:
        args.out.mkdir(parents=True, exist_ok=True)
        results = measure(args)
        text = json.dumps(results, indent=1) + "\n"
        write_atomic(args.out / "tau_grid.json", lambda p: Path(p).write_text(text, "utf-8"))
        write_atomic(args.out / "tau_grid.png", lambda p: figure(results, p))
    except (ValueError, OSError) as error:
        print(f"train.tau_grid: error: {error}", file=sys.stderr)
        return 2
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
