"""A metric over a grid of tau ranges: ``python -m train.tau_grid --data PHOTOS -o OUT``.

For every pair tau_min <= tau_max out of evenly spaced values, held-out crops are restored at the
same seeds. Tells whether any corner of the sliders breaks the model (the spread of LPIPS over all
pairs), how scores change over the grid (the paper's Figure 6), and which pair is best for which
kind of mask (Table 2, with ``--masks "1-10%,11-20%,21-30%,31-40%"``).

The best of many pairs looks better than it is on the photos that chose it. So the gain over
(0.5, 0.5), I2SB's schedule, is reported as a cross-fit too: the pair that is best on one half of
the photos is measured on the other half, and the other way round. As a later peak for all pixels is
only another time grid, the same is done against the best of the synchronous pairs, tau_min =
tau_max: what is gained over that is gained by asynchrony.

Restored crops are kept like those of :mod:`train.evaluate`: a run that was interrupted does only
what is missing.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from tqdm import tqdm

from asyncdsb.measure.metrics import frechet_distance
from train.evaluate import Collected, evaluate
from train.judge.intervals import clustered_mean
from train.judge.methods import Method, bridge_method, held_out_of, load_bridges
from train.judge.protocol import derived_seed
from train.judge.report import difference, publish
from train.judge.scores import Judges
from train.loop.options import guarded, held_out_parser

Pair = tuple[float, float]
I2SB: Pair = (0.5, 0.5)


def measure(args: argparse.Namespace) -> dict:
    """Restore the whole grid and summarise it, kind of mask by kind of mask."""
    if args.points < 2:
        raise ValueError(f"expected --points of at least 2, got {args.points}")
    (chosen,) = load_bridges(args, most=1)
    held_out, judges = held_out_of(args, [chosen]), Judges.load(args.device)
    values = [round(float(v), 3) for v in np.linspace(args.lowest, args.highest, args.points)]
    pairs = [(low, high) for low in values for high in values if low <= high]
    methods = {pair: _method(chosen, pair) for pair in dict.fromkeys([*pairs, I2SB])}
    found = {}
    for pair, method in tqdm(methods.items(), unit="range"):
        found[pair] = evaluate(
            held_out.crops, [method], held_out.kinds, args.out, args.batch, judges
        )
    frechet = judges.extractors[0].names.frechet
    result = {
        "tau": values,
        "settings": {k: v for k, v in chosen.settings.items() if not k.startswith("tau")},
        "frechet": frechet,
        "photos": len(held_out.photos),
        "crops": len(held_out),
        "size": args.size,
        "masks": {},
    }
    for kind in held_out.kinds:
        lpips = {p: _lpips(found[p], kind) for p in methods}
        distance = {p: _frechet(found[p], kind, judges) for p in methods}
        grid = [[_at(lpips, (i, j), pairs) for j in values] for i in values]
        result["masks"][kind] = {
            "lpips": grid,
            "frechet": [[_at(distance, (i, j), pairs) for j in values] for i in values],
            "spread": _spread(grid),
            "best": _best(lpips, distance, pairs, found[I2SB].photos),
        }
    return result


def _method(chosen: Method, pair: Pair) -> Method:
    settings = chosen.settings | {"tau_min": pair[0], "tau_max": pair[1]}
    name = f"{chosen.name}-{pair[0]:g}-{pair[1]:g}"
    return bridge_method(name, chosen.pipe, chosen.identity, settings)


def _lpips(found: Collected, kind: str) -> np.ndarray:
    (tally,) = found.tallies[kind].values()
    return np.array(tally.scores["lpips"])


def _frechet(found: Collected, kind: str, judges: Judges) -> float | None:
    (tally,) = found.tallies[kind].values()
    truth = found.truth.matrix(judges.extractors[0])
    return frechet_distance(tally.matrix(judges.extractors[0]), truth) if len(truth) > 1 else None


def _at(table: Mapping[Pair, np.ndarray | float | None], pair: Pair, pairs: list[Pair]):
    """Mean at a pair, None where there is none."""
    value = table[pair] if pair in pairs else None
    return None if value is None else float(np.mean(value))


def _spread(rows: list[list[float | None]]) -> float:
    """(largest - smallest) / smallest."""
    values = [value for row in rows for value in row if value is not None]
    return (max(values) - min(values)) / min(values)


def _best(
    lpips: dict[Pair, np.ndarray],
    distance: dict[Pair, float | None],
    pairs: list[Pair],
    photos: list[str],
) -> dict:
    """The best pair, on all photos and as a cross-fit, against the synchronous schedule."""
    diagonal = [pair for pair in pairs if pair[0] == pair[1]]

    def best(rows: np.ndarray, among: list[Pair]) -> Pair:
        return min(among, key=lambda pair: lpips[pair][rows].mean())

    everything = np.ones(len(photos), bool)
    pair, level = best(everything, pairs), best(everything, diagonal)
    result = {
        "tau": list(pair),
        "lpips": float(lpips[pair].mean()),
        "lpips_synchronous": float(lpips[I2SB].mean()),
        "diagonal": level[0],
        "lpips_diagonal": float(lpips[level].mean()),
        "frechet": distance[pair],
        "frechet_synchronous": distance[I2SB],
    }
    # Halves of equal size, fixed by the photos' names alone.
    order = sorted(set(photos), key=lambda key: derived_seed(key, "half"))
    if len(order) > 1:
        first = np.isin(photos, order[::2])
        for name, others in (("cross_fit", [I2SB]), ("cross_fit_diagonal", diagonal)):
            gain = np.zeros(len(photos))
            for chosen_on, measured_on in ((first, ~first), (~first, first)):
                picked, other = best(chosen_on, pairs), best(chosen_on, others)
                gain[measured_on] = (lpips[picked] - lpips[other])[measured_on]
            result[name] = clustered_mean(gain.tolist(), photos)
    return result


def figure(results: dict, path: Path) -> None:
    """Heatmaps of LPIPS and the Frechet distance; ranges that do not exist stay blank."""
    from matplotlib.figure import Figure

    ticks, kinds = results["tau"], results["masks"]
    drawing = Figure(figsize=(3.4 * len(kinds), 6.6), layout="constrained")
    panels = drawing.subplots(2, len(kinds), squeeze=False)
    for line, score in zip(panels, ("lpips", "frechet"), strict=True):
        for panel, (kind, found) in zip(line, kinds.items(), strict=True):
            grid = np.array(found[score], float)
            panel.imshow(grid, origin="lower", cmap="viridis_r")
            middle = np.nanmean([np.nanmin(grid), np.nanmax(grid)])
            for (i, j), value in np.ndenumerate(grid):
                if np.isfinite(value):
                    text = f"{value:.3f}"[1:] if score == "lpips" else f"{value:.0f}"
                    # Low values are light in this colour map.
                    colour = "black" if value < middle else "white"
                    panel.text(j, i, text, ha="center", va="center", fontsize=7, color=colour)
            panel.set_xticks(range(len(ticks)), ticks)
            panel.set_yticks(range(len(ticks)), ticks)
            name = "LPIPS" if score == "lpips" else results["frechet"]
            panel.set_title(f"{kind}: {name}", fontsize=9)
            panel.set_xlabel("tau_max")
        line[0].set_ylabel("tau_min")
    drawing.savefig(path, dpi=100)


def table(results: dict) -> str:
    """The layout of the paper's Table 2, with the cross-fit."""
    name = results["frechet"]
    lines = [
        "| mask | best (tau_min, tau_max) | LPIPS, (0.5, 0.5) → best | cross-fit "
        "| best tau for all pixels | cross-fit against that "
        f"| {name}, (0.5, 0.5) → best | spread over the grid |",
        "| --- | --- | --- | --- | --- | --- | --- | ---: |",
    ]
    for kind, found in results["masks"].items():
        best = found["best"]
        pair = ", ".join(f"{tau:g}" for tau in best["tau"])
        distances = [best["frechet_synchronous"], best["frechet"]]
        shown = "-" if None in distances else "{:.1f} → {:.1f}".format(*distances)
        lines.append(
            f"| {kind} | ({pair}) | {best['lpips_synchronous']:.4f} → {best['lpips']:.4f} "
            f"| {difference(best.get('cross_fit'), 4)} "
            f"| {best['diagonal']:g}, LPIPS {best['lpips_diagonal']:.4f} "
            f"| {difference(best.get('cross_fit_diagonal'), 4)} "
            f"| {shown} | {100 * found['spread']:.1f} % |"
        )
    return "\n".join(lines) + "\n"


def parser() -> argparse.ArgumentParser:
    """Options of this program."""
    options = held_out_parser(
        "train.tau_grid", __doc__, masks="center,narrow", size=None, crops=None
    )
    options.add_argument("--methods", default="bridge", help="one bridge, see train.judge.methods")
    options.add_argument("--points", type=int, default=5, help="values of tau along each side")
    options.add_argument("--lowest", type=float, default=0.0, help="smallest tau")
    options.add_argument("--highest", type=float, default=1.0, help="largest tau")
    return options


def run(args: argparse.Namespace) -> dict:
    """Measure, write ``tau_grid.json``, ``.md`` and ``.png``, return the results."""
    return publish(args.out, "tau_grid", measure(args), table, figure)


def main(argv: list[str] | None = None) -> int:
    """Run the command line; return 0, or 2 with one line on stderr if something was refused."""
    args = parser().parse_args(argv)
    return guarded("train.tau_grid", lambda: run(args))


if __name__ == "__main__":
    sys.exit(main())
