"""What :mod:`train.claims` compares, and the report of its kept scores."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import numpy as np

from train.judge.crossed import Crossed, crossed, holm, smallest_found
from train.judge.delay import SIGNALS, delays, draw_speeds, speeds
from train.judge.orders import ORDERS, RANGE
from train.judge.report import markdown

Arm = tuple[str, str]  # (network, order)
PRIMARY: tuple[Arm, Arm] = ("gradient", "gradient"), ("synchronous", "synchronous")
"""The two arms that the question is about."""

TUNED: tuple[Arm, Arm] = ("tuned-gradient", "gradient"), ("tuned-synchronous", "synchronous")
"""The two arms again, each learned on from the network "any" of the same seed."""

EQUAL = 2  # Percent of LPIPS within which two arms count as equal.
KINDS = ("center", "half")
STROKES = ("wide", "narrow")  # Holes that some arms restore too, at STEPS on the grid "log".
STEPS = 20
CURVE = (5, 10, 20, 50)  # Evaluations of some arms with the first training seed.
LONG = 250  # Evaluations of the primary arms with the first training seed.
PAPER = 1000  # The same, as many as in the paper and on its grid.
GRIDS = ("log", "uniform")
CLASSICAL = ("telea", "navier-stokes", "patchmatch", "patch-fill")
OTHERS = ("low-contrast", "sees-gradient", "free-tau")  # Networks of other kinds.
TERCILES = ("flat", "middle", "steep")  # All but the first of train.judge.delay.PARTS, in words.

ANY: dict[str, Arm] = {order: ("any", order) for order in ORDERS}
"""The network "any" serves all orders."""

ARMS: list[Arm] = [*PRIMARY, *TUNED, *ANY.values(), *product(OTHERS, ("synchronous", "gradient"))]

WORDS = {
    "any": "trained for any order",
    "low-contrast": "I2SB's beta (contrast 4.3)",
    "sees-gradient": "sees the gradient",
    "free-tau": "trained for any tau of any pixel",
    "gradient": "trained for the gradient's order",
    "synchronous": "trained for one tau",
    "tuned-gradient": "learned on from *any* for the gradient's order",
    "tuned-synchronous": "learned on from *any* for one tau",
}

SEEDS = {network: 3 if network in OTHERS else 5 for network in WORDS}
"""Networks (presets ``claims-NAME``) and how many training seeds each has."""

COMPARISONS: list[tuple[Arm, Arm]] = [
    *((arm, ANY["synchronous"]) for order, arm in ANY.items() if order != "synchronous"),
    # Both were added after the results of the others were seen.
    (ANY["gradient"], ANY["synchronous, mean tau"]),
    TUNED,
    *(((network, "gradient"), (network, "synchronous")) for network in OTHERS),
    *((ANY[order], (order, order)) for order in ("gradient", "synchronous")),
    *(((network, "gradient"), ANY["gradient"]) for network in OTHERS),
]
"""Secondary questions: each arm minus its reference. First orders of one network; then networks."""


@dataclass(frozen=True)
class Kept:
    """The kept arrays of an experiment, by name."""

    arrays: dict[str, np.ndarray]

    @classmethod
    def read(cls, out: Path) -> Kept:
        """Read ``OUT/scores`` or, without that folder, ``OUT/scores.npz``."""
        folder = out / "scores"
        if not folder.is_dir() and (out / "scores.npz").exists():
            with np.load(out / "scores.npz") as packed:
                return cls(dict(packed))
        paths = sorted(folder.rglob("*.npy"))
        return cls({p.relative_to(folder).with_suffix("").as_posix(): np.load(p) for p in paths})

    def each(self, arm: Arm, *names: str) -> np.ndarray:
        """The mean of arrays of an arm for each training seed, up to the first that lacks one.

        Row i is then seed i in all arms, so that differences are paired by seed.
        """
        network, order = arm
        rows = []
        for seed in range(SEEDS[network]):
            found = [self.arrays.get(f"{network}-{seed}/{order}/{name}") for name in names]
            if any(array is None for array in found):
                break
            rows.append(np.mean(found, axis=0))
        return np.array(rows, float)

    def table(
        self, arm: Arm, kinds: Sequence[str] = KINDS, grid: str = "", steps: int = STEPS
    ) -> np.ndarray:
        """LPIPS, mean over the kinds, (seeds, photographs); empty where nothing is kept.

        On the better grid of :meth:`grid` if none is given.
        """
        grid = grid or self.grid(arm, steps)
        return self.each(arm, *(f"{kind}-{grid}-{steps}" for kind in kinds))

    def grid(self, arm: Arm, steps: int = STEPS) -> str:
        """The better time grid of an arm at so many evaluations."""
        tables = {grid: self.table(arm, KINDS, grid, steps) for grid in GRIDS}
        means = {grid: table.mean() for grid, table in tables.items() if table.size}
        return min(means, key=means.__getitem__, default=GRIDS[0])

    def compare(self, pair: tuple[Arm, Arm], most: int | None = None, **cell) -> Crossed | None:
        """LPIPS of the first arm minus that of the second, in percent of the latter.

        Over the (``most`` first) seeds that both have; None if there are none. ``cell`` is for
        :meth:`table`.
        """
        one, other = (self.table(arm, **cell)[:most] for arm in pair)
        seeds = min(len(one), len(other))
        if not seeds:
            return None
        return crossed(100 * (one[:seeds] - other[:seeds]) / other[:seeds].mean())


def _said(found: Crossed) -> str:
    low, high = found.interval()
    return f"{found.mean:+.1f} % ({low:+.1f} to {high:+.1f})"


def _outcome(found: Crossed) -> str:
    """The better arm, "equal" where two one-sided tests at 5 % say so, or "" for neither."""
    low, high = found.interval()
    if low > 0 or high < 0:
        return "asynchronous" if high < 0 else "synchronous"
    return "equal" if found.within(EQUAL) else ""


def _verdict(found: Crossed) -> str:
    texts = {
        "": "Neither a difference nor equality is shown.",
        "equal": f"They are equal within {EQUAL} % (two one-sided tests at 5 %).",
    }
    small = f", by less than {EQUAL} %" if found.within(EQUAL) else ""
    return texts.get(_outcome(found), f"The {_outcome(found)} arm is better{small}.")


Answers = list[tuple[Arm, Arm, Crossed, float]]
"""The secondary questions that have scores, with p values by Holm."""


def report(kept: Kept) -> str:
    """The report as Markdown.

    ValueError if scores of the primary arms are missing, or the gate is not passed.
    """
    primary, tuned = kept.compare(PRIMARY), kept.compare(TUNED)
    grids = [kept.grid(arm) for arm in PRIMARY]
    if primary is None:
        raise ValueError("expected scores of both primary arms, got none of one")
    gate = _gate(kept)
    seeds, photos = primary.shape
    base = kept.table(PRIMARY[1])[:seeds].mean()
    found = [(*pair, d) for pair in COMPARISONS if (d := kept.compare(pair)) is not None]
    adjusted = holm([difference.p for *_, difference in found])
    answers = [(*row, p) for row, p in zip(found, adjusted, strict=True)]
    lines = [
        "# Does asynchrony help?\n",
        f"- **Asked**: LPIPS of center and half holes after {STEPS} evaluations, the paper's order "
        f"(tau {RANGE[0]} to {RANGE[1]} by the predicted gradient) minus one tau for all pixels, "
        "each with networks trained for it, on the better of two time grids.",
        "- **Expected**: the paper says that its order is better. Newer work on asynchronous "
        "generation restores what is easy first, which is the opposite order.",
        f"- **Answer** (95 % interval): {_said(primary)} of the synchronous arm's {base:.4f}, over "
        f"{seeds} training seeds and {photos} photographs; p = {primary.p:.2g}. "
        f"{_verdict(primary)}",
        f"- **Power**: this design finds {smallest_found(primary):.1f} % in 80 % of cases.",
    ]
    if tuned is not None:
        lines.append(
            "- **With less chance** (added after that answer): both arms learn on from one network "
            f"for any order, with the same data and noise: {_said(tuned)}, over {tuned.shape[0]} "
            f"training seeds; p = {tuned.p:.2g}. {_verdict(tuned)} This design finds "
            f"{smallest_found(tuned):.1f} %."
        )
    lines += [
        *_lines(kept, answers),
        f"- **So**: {_advice(kept, primary, tuned, answers)}",
        f"- **Grids**: {grids[0]} for the gradient's order, {grids[1]} for the synchronous one.",
        f"- **Gate**: both arms beat every classical method:\n\n{gate}",
        *_sections(kept, answers),
    ]
    return "\n".join(lines)


def _lines(kept: Kept, answers: Answers) -> list[str]:
    """What else the first screen says, as far as it was measured."""
    rows: dict[str, list[tuple]] = {
        "With less chance, by time grid": [(g, kept.compare(TUNED, grid=g)) for g in GRIDS],
        "By evaluations, first training seed": [
            (n, kept.compare(PRIMARY, steps=n, most=1)) for n in (*CURVE, LONG)
        ],
        "By hole, even steps of log noise": [
            (kind, kept.compare(PRIMARY, kinds=[kind], grid="log")) for kind in (*KINDS, *STROKES)
        ],
        "Orders of one network against one tau for all pixels": [
            (a[1], d) for a, b, d, _ in answers if b == ANY["synchronous"]
        ],
        "The gradient's order there, by time grid": [
            (g, kept.compare((ANY["gradient"], ANY["synchronous"]), grid=g)) for g in GRIDS
        ],
        "The gradient's order against one tau, in networks of other kinds": [
            (WORDS[a[0]], d) for a, b, d, _ in answers if a[0] == b[0] != "any"
        ],
    }
    lines = []
    for title, differences in rows.items():
        parts = [f"{name} {d.mean:+.1f} %" for name, d in differences if d is not None]
        if parts:
            lines.append(f"- **{title}**: {'; '.join(parts)}.")
    late = [_delays(kept, arm) for arm in PRIMARY]
    if all(found is not None for found in late):
        ours, others = (" / ".join(f"{v:+.0f}" for v in found[-1, 1:, 0]) for found in late)
        lines.append(
            "- **Mechanism**: the similarity to the truth comes later than beta, in thousandths of "
            f"the time for flat / middle / steep pixels, by {others} in the synchronous arm and "
            f"by {ours} in the asynchronous one."
        )
    return lines


def _advice(kept: Kept, primary: Crossed, tuned: Crossed | None, answers: Answers) -> str:
    """Whether to use asynchrony, and with which tau."""
    low, high = RANGE
    grid = kept.grid(PRIMARY[0] if tuned is None else TUNED[0])
    texts = {
        "asynchronous": f"use the gradient's order with tau {low} to {high}, and {grid} steps.",
        "synchronous": "use one tau for all pixels.",
        "equal": "the gradient's order and one tau for all pixels restore equally well.",
        "": "networks that were trained for one order each do not decide it, because training "
        "seeds differ by more than they do.",
    }
    text = texts[_outcome(primary)]
    if not _outcome(primary) and tuned is not None and _outcome(tuned):
        text += f" Networks that learn on from one and the same decide: {texts[_outcome(tuned)]}"
    for a, b, d, _ in answers:
        if (a, b) == (ANY["gradient"], ANY["synchronous, mean tau"]):
            text += f" In one network that serves any order, the gradient's order is {_said(d)} "
            text += "against its own mean tau for all pixels, so much is due to the order itself."
    if usable := [
        (d, order)
        for (_, order), b, d, p in answers
        if b == ANY["synchronous"] and p < 0.05 and d.mean < 0 and order != "true gradient"
    ]:
        best, order = min(usable, key=lambda row: row[0].mean)
        text += f" The best tau map there: {order}, {_said(best)} against tau = .5."
    return text


def _delays(kept: Kept, arm: Arm) -> np.ndarray | None:
    """Delay of the restoration to beta in thousandths of the time, by signal and part, (2, 4, 2).

    Each is the mean over training seeds and half the width of its 95 % interval (nan for one seed).
    """
    if not (curves := kept.each(arm, "speeds")).size:
        return None
    late = 1000 * delays(np.linspace(1, 0, curves.shape[-1]), curves)
    from scipy import stats

    reach = _spread(late) / len(late) ** 0.5 * stats.t.ppf(0.975, len(late) - 1)
    return np.stack([late.mean(0), reach], -1)


def _spread(values: np.ndarray) -> np.ndarray:
    """Standard deviation over training seeds, the first axis; nan for one seed."""
    return values.std(0, ddof=1) if len(values) > 1 else np.full(values.shape[1:], np.nan)


def _gate(kept: Kept) -> str:
    """The table of the gate; ValueError unless it is passed."""
    rows = []
    for kind in KINDS:
        names = {method: f"classical/{method}/{kind}" for method in CLASSICAL}
        others = {m: kept.arrays[n].mean() for m, n in names.items() if n in kept.arrays}
        ours = [kept.table(arm, [kind], kept.grid(arm)).mean() for arm in PRIMARY]
        best = min(others, key=others.__getitem__)
        if max(ours) >= others[best]:
            raise ValueError(
                f"expected both primary arms to beat {best} on {kind} holes, got LPIPS "
                f"{max(ours):.4f} against {others[best]:.4f}: train longer"
            )
        rows.append([kind, *(f"{v:.4f}" for v in ours), f"{others[best]:.4f} ({best})"])
    return markdown(["hole", "gradient", "synchronous", "best classical"], rows, 1)


def _sections(kept: Kept, answers: Answers) -> list[str]:
    """The tables that follow the answer."""
    secondary = [
        [", ".join(a), ", ".join(b), f"{d.shape[0]}", _said(d), f"{p:.2g}"]
        for a, b, d, p in answers
    ]
    at_steps, by_steps = [], []
    for arm in ARMS:
        if seeds := len(kept.table(arm)):
            tables = [kept.table(arm, [kind], kept.grid(arm)) for kind in KINDS]
            tables += [kept.table(arm, [kind], "log") for kind in STROKES]
            at_steps.append([*arm, str(seeds), *map(_mean, tables)])
        for grid in GRIDS:
            tables = [kept.table(arm, KINDS, grid, steps)[:1] for steps in (*CURVE, LONG)]
            tables.append(kept.table(arm, ["center"], grid, PAPER))
            if tables[0].size:
                by_steps.append([*arm, grid, *map(_mean, tables)])
    heads = ["arm (network, order)", "minus", "seeds", "LPIPS (95 %)", "p (Holm)"]
    words = "; ".join(f"*{name}*: {text}" for name, text in WORDS.items())
    return [
        f"## Secondary questions\n\nNetworks: {words}. The gradient's order against its own mean "
        "tau, the tuned networks and the time grids of the first screen were added after the other "
        "results were seen.\n",
        markdown(heads, secondary, 2),
        f"## LPIPS at {STEPS} evaluations\n\nWide and narrow holes: even steps of log noise; of "
        "the network for any order the first training seed alone.\n",
        markdown(["network", "order", "seeds", *KINDS, *STROKES], at_steps, 2),
        "## LPIPS by evaluations\n\nFirst training seed, mean of center and half. "
        f"{LONG} and {PAPER} evaluations: fewer photographs (not comparable with the other "
        f"columns); {PAPER}: center alone.\n",
        markdown(["network", "order", "grid", *map(str, (*CURVE, LONG, PAPER))], by_steps, 3),
        *_distances(kept),
        *_mechanism(kept),
    ]


def _distances(kept: Kept) -> list[str]:
    """Frechet and kernel distances of the primary arms."""
    rows = []
    for kind in KINDS:
        row = [kind]
        for arm in PRIMARY:
            if not (found := kept.each(arm, f"{kind}-sets")).size:
                return []
            pairs = zip(found.mean(0), _spread(found), strict=True)
            row += [f"{mean:.3g} ± {spread:.2g}" for mean, spread in pairs]
        rows.append(row)
    count = kept.table(PRIMARY[0]).shape[1]
    heads = ["hole", "FD, gradient", "KD, gradient", "FD, synchronous", "KD, synchronous"]
    return [
        "## Distances between sets\n\nFrechet and kernel distance on EfficientNet-Lite2 features, "
        f"n = {count}, {STEPS} even steps of log noise: mean and standard deviation over training "
        "seeds.\n",
        markdown(heads, rows, 1),
    ]


def _mechanism(kept: Kept) -> list[str]:
    """Delays to beta, and when the process reaches the pixels."""
    late, times = [], []
    for arm in ARMS:
        if (found := _delays(kept, arm)) is not None:
            for signal, parts in zip(SIGNALS, found, strict=True):
                cells = [f"{m:+.0f}" + (f" ± {r:.0f}" if np.isfinite(r) else "") for m, r in parts]
                late.append([*arm, signal, *cells])
        if (reached := kept.each(arm, "times")).size:
            halves, ends = reached.mean(0).T
            times.append([*arm, *(f"{v:.3f}" for v in (*halves[1:], *ends[1:]))])
    if not late:
        return []
    heads = [f"{name}, {part}" for name in ("half way", "noise") for part in TERCILES]
    return [
        "## Mechanism\n\nCenter holes, 50 even steps of time, terciles of the true gradient. How "
        "much later than beta the restoration comes (centroids), in thousandths of the time, with "
        "95 % over training seeds: the projection of x_t, and the SSIM of x0_hat as in the paper's "
        "figures.\n",
        markdown(["network", "order", "signal", "whole hole", *TERCILES], late, 3),
        "The time t (from 1 down to 0) at which the process has half of its way behind it "
        "(1 - s = .5), and at which sigma_eff, the standard deviation of the noise in x_t in units "
        "of the picture, falls below .1:\n",
        markdown(["network", "order", *heads], times, 2),
    ]


def figure(kept: Kept, path: Path) -> None:
    """Draw LPIPS over evaluations (first seed), and the speed of both primary arms against beta."""
    from matplotlib.figure import Figure

    drawing = Figure(figsize=(11, 3.4), layout="constrained")
    left, *others = drawing.subplots(1, 3)
    for arm, colour in zip(PRIMARY, ("#d95f02", "#3b528b"), strict=True):
        for grid, line in zip(GRIDS, ("-", ":"), strict=True):
            tables = {n: kept.table(arm, KINDS, grid, n)[:1] for n in CURVE}
            found = {n: table.mean() for n, table in tables.items() if table.size}
            label = f"{arm[1]}, {grid} steps"
            left.plot([*found], [*found.values()], line, color=colour, marker=".", label=label)
    left.set(xscale="log", xlabel="evaluations", ylabel="LPIPS, center and half")
    left.set_title("quality", fontsize=9)
    left.legend(fontsize=7)
    for arm, panel in zip(PRIMARY, others, strict=True):
        if (curves := kept.each(arm, "speeds")).size:
            times = np.linspace(1, 0, curves.shape[-1])
            draw_speeds(panel, times, TERCILES, speeds(curves.mean(0)[-1, 1:]))
            panel.set_ylabel("share per step")
            panel.set_title(f"{arm[1]}: speed of SSIM, beta dotted", fontsize=9)
    if others[0].lines:
        others[0].legend(fontsize=7)
    drawing.savefig(path, dpi=100)


def _mean(table: np.ndarray) -> str:
    return f"{table.mean():.4f}" if table.size else ""
