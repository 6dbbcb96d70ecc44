"""What :mod:`train.claims` compares, and the report of its kept scores."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product, takewhile
from pathlib import Path

import numpy as np

from train.judge.crossed import Crossed, crossed, holm, smallest_found
from train.judge.delay import PARTS, SIGNALS, centroids, speeds
from train.judge.orders import ORDERS, RANGE
from train.judge.report import markdown

Arm = tuple[str, str]
"""(network, order)."""

EQUAL = 0.02
"""Share of LPIPS within which two arms count as equal."""

PRIMARY: tuple[Arm, Arm] = ("gradient", "gradient"), ("synchronous", "synchronous")
"""The two arms that the question is about."""

TUNED: tuple[Arm, Arm] = ("tuned-gradient", "gradient"), ("tuned-synchronous", "synchronous")
"""The two arms again, each learned on from the network "any" of the same seed."""

KINDS = ("center", "half")
STEPS = 20
CURVE = (5, 10, 20, 50)
"""Evaluations of some arms with the first training seed."""

LONG = 250
PAPER = 1000
"""Steps of the paper, for the primary arms with the first training seed, on its grid."""

GRIDS = ("log", "uniform")
CLASSICAL = ("telea", "navier-stokes", "patchmatch", "patch-fill")

SEEDS = {"gradient": 5, "synchronous": 5, "any": 5, "tuned-gradient": 5, "tuned-synchronous": 5}
SEEDS |= {"low-contrast": 3, "sees-gradient": 3, "free-tau": 3}
"""Networks (presets ``claims-NAME``) and how many training seeds each has, by priority."""

ARMS: list[Arm] = [*PRIMARY, *TUNED, *(("any", order) for order in ORDERS)]
ARMS += product(("low-contrast", "sees-gradient", "free-tau"), ("synchronous", "gradient"))
"""The network "any" serves all orders."""

BY_GRADIENT, BY_MEAN, BY_TRUTH = (
    ("any", order) for order in ("gradient", "synchronous, mean tau", "true gradient")
)

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

COMPARISONS: list[tuple[Arm, Arm]] = [
    *((("any", order), ("any", "synchronous")) for order in ORDERS if order != "synchronous"),
    (BY_GRADIENT, BY_MEAN),
    TUNED,
    *(
        ((network, "gradient"), (network, "synchronous"))
        for network in ("low-contrast", "sees-gradient", "free-tau")
    ),
    *((("any", order), (order, order)) for order in ("gradient", "synchronous")),
    *(
        ((network, "gradient"), ("any", "gradient"))
        for network in ("low-contrast", "sees-gradient", "free-tau")
    ),
]
"""Secondary questions: each arm minus its reference. First orders of one network; then networks.

The gradient's order against its own mean tau, and the tuned networks, were added after the results
of the others were seen.
"""


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

    def write(self, path: Path) -> None:
        """Write all arrays into one file, .npz."""
        np.savez_compressed(path, allow_pickle=False, **self.arrays)

    def each(self, arm: Arm, name: str) -> list[np.ndarray]:
        """An array of an arm for each training seed, up to the first that lacks it.

        Row i is then seed i in all arms, so that differences are paired by seed.
        """
        network, order = arm
        names = (f"{network}-{seed}/{order}/{name}" for seed in range(SEEDS[network]))
        return [self.arrays[one] for one in takewhile(self.arrays.__contains__, names)]

    def table(self, arm: Arm, kinds: tuple[str, ...], grid: str, steps: int) -> np.ndarray:
        """LPIPS, mean over the kinds, (seeds, photographs); no rows where nothing is kept."""
        columns = [self.each(arm, f"{kind}-{grid}-{steps}") for kind in kinds]
        rows = [np.mean(row, axis=0) for row in zip(*columns, strict=False)]
        return np.array(rows, float) if rows else np.empty((0, 0))

    def best(self, arm: Arm, steps: int = STEPS) -> tuple[str, np.ndarray]:
        """The better grid of an arm at so many evaluations, and its table."""
        found = {grid: self.table(arm, KINDS, grid, steps) for grid in GRIDS}
        grid = min(GRIDS, key=lambda g: found[g].mean() if found[g].size else np.inf)
        return grid, found[grid]

    def classical(self, kind: str) -> dict[str, float]:
        """Mean LPIPS of each classical method."""
        names = {method: f"classical/{method}/{kind}" for method in CLASSICAL}
        return {m: float(self.arrays[n].mean()) for m, n in names.items() if n in self.arrays}


@dataclass(frozen=True)
class Difference:
    """LPIPS of one arm minus that of another, over the seeds that both have.

    Attributes:
        found: the difference.
        base: mean of the other arm.
    """

    found: Crossed
    base: float

    @classmethod
    def of(cls, one: np.ndarray, other: np.ndarray) -> Difference | None:
        """Of two tables (seeds, photographs); None if one is empty."""
        seeds = min(len(one), len(other))
        if not seeds:
            return None
        return cls(crossed(one[:seeds] - other[:seeds]), float(other[:seeds].mean()))

    @property
    def percent(self) -> float:
        """The difference in percent of the other arm's LPIPS."""
        return 100 * self.found.mean / self.base

    def __str__(self) -> str:
        low, high = (100 * end / self.base for end in self.found.interval())
        return f"{self.percent:+.1f} % ({low:+.1f} to {high:+.1f})"

    @property
    def outcome(self) -> str:
        """The better arm, "equal" where two one-sided tests at 5 % say so, or "" for neither."""
        low, high = self.found.interval()
        if low > 0 or high < 0:
            return "asynchronous" if high < 0 else "synchronous"
        return "equal" if self.found.within(EQUAL * self.base) else ""

    @property
    def verdict(self) -> str:
        """In words."""
        bound = f"{100 * EQUAL:.0f} %"
        if not self.outcome:
            return "Neither a difference nor equality is shown."
        if self.outcome == "equal":
            return f"They are equal within {bound} (two one-sided tests at 5 %)."
        small = self.found.within(EQUAL * self.base)
        return f"The {self.outcome} arm is better" + (f", by less than {bound}." if small else ".")


def report(kept: Kept) -> str:
    """The report as Markdown.

    Raises:
        ValueError: scores of the primary arms are missing, or the gate is not passed.
    """
    grids, tables = zip(*(kept.best(arm) for arm in PRIMARY), strict=True)
    primary = Difference.of(*tables)
    if primary is None:
        raise ValueError("expected scores of both primary arms, got none of one")
    gate = _gate(kept)
    seeds, photos = primary.found.shape
    tuned = Difference.of(*(kept.best(arm)[1] for arm in TUNED))
    answers = _answers(kept)
    head = [
        "# Does asynchrony help?\n",
        f"- **Asked**: LPIPS of center and half holes after {STEPS} evaluations, the paper's order "
        f"(tau {RANGE[0]} to {RANGE[1]} by the predicted gradient) minus one tau for all pixels, "
        "each with networks trained for it, on the better of two time grids.",
        "- **Expected**: the paper says that its order is better. Newer work on asynchronous "
        "generation restores what is easy first, which is the opposite order.",
        f"- **Answer** (95 % interval): {primary} of the synchronous arm's {primary.base:.4f}, "
        f"over {seeds} training seeds and {photos} photographs; p = {primary.found.p:.2g}. "
        f"{primary.verdict}",
        f"- **Power**: this design finds {_least(primary)} in 80 % of cases.",
        *_tuned(tuned),
        *_lines(kept, answers),
        f"- **So**: {_advice(kept, primary, tuned, answers)}",
        f"- **Grids**: {grids[0]} for the gradient's order, {grids[1]} for the synchronous one.",
        "- **Gate**: both arms beat every classical method:",
    ]
    return "\n".join([*head, "", gate, *_sections(kept, answers)])


Answers = list[tuple[Arm, Arm, Difference, float]]
"""The secondary questions that have scores, with p values by Holm."""


def _answers(kept: Kept) -> Answers:
    pairs = [
        (one, other, Difference.of(kept.best(one)[1], kept.best(other)[1]))
        for one, other in COMPARISONS
    ]
    found = [(one, other, d) for one, other, d in pairs if d is not None]
    adjusted = holm([d.found.p for *_, d in found])
    return [(*row, p) for row, p in zip(found, adjusted, strict=True)]


def _least(difference: Difference) -> str:
    """The smallest difference that a design finds."""
    return f"{100 * smallest_found(difference.found) / difference.base:.1f} %"


def _tuned(tuned: Difference | None) -> list[str]:
    """The line of the tuned networks, if there are any."""
    if tuned is None:
        return []
    return [
        "- **With less chance** (added after that answer): both arms learn on from one network for "
        f"any order, with the same data and noise: {tuned}, over {tuned.found.shape[0]} training "
        f"seeds; p = {tuned.found.p:.2g}. {tuned.verdict} This design finds {_least(tuned)}."
    ]


def _lines(kept: Kept, answers: Answers) -> list[str]:
    """What else the first screen says, as far as it was measured."""
    steps = [
        (n, Difference.of(*(kept.best(arm, n)[1][:1] for arm in PRIMARY))) for n in (*CURVE, LONG)
    ]
    kinds = [
        (kind, Difference.of(*(kept.table(arm, (kind,), "log", STEPS) for arm in PRIMARY)))
        for kind in (*KINDS, "wide", "narrow")
    ]
    pairs = (BY_GRADIENT, ("any", "synchronous")), TUNED
    grids, tuned_grids = (
        [
            (grid, Difference.of(*(kept.table(arm, KINDS, grid, STEPS) for arm in pair)))
            for grid in GRIDS
        ]
        for pair in pairs
    )
    orders = [(a[1], d) for a, b, d, _ in answers if b == ("any", "synchronous")]
    others = [(WORDS[a[0]], d) for a, b, d, _ in answers if a[0] == b[0] != "any"]
    lines = []
    for title, rows in (
        ("With less chance, by time grid", tuned_grids),
        ("By evaluations, first training seed", steps),
        ("By hole, even steps of log noise", kinds),
        ("Orders of one network against one tau for all pixels", orders),
        ("The gradient's order there, by time grid", grids),
        ("The gradient's order against one tau, in networks of other kinds", others),
    ):
        parts = [f"{name} {d.percent:+.1f} %" for name, d in rows if d is not None]
        if parts:
            lines.append(f"- **{title}**: {'; '.join(parts)}.")
    delays = {arm: _delays(kept, arm) for arm in PRIMARY}
    if all(delays.values()):
        said = [
            " / ".join(f"{delays[arm]['x0_hat', part][0]:+.0f}" for part in PARTS[1:])
            for arm in PRIMARY
        ]
        lines.append(
            "- **Mechanism**: the similarity to the truth comes later than beta, in thousandths of "
            f"the time for flat / middle / steep pixels, by {said[1]} in the synchronous arm and "
            f"by {said[0]} in the asynchronous one."
        )
    return lines


def _advice(kept: Kept, primary: Difference, tuned: Difference | None, answers: Answers) -> str:
    """Whether to use asynchrony, and with which tau."""
    low, high = RANGE
    grid = kept.best(PRIMARY[0] if tuned is None else TUNED[0])[0]
    texts = {
        "asynchronous": f"use the gradient's order with tau {low} to {high}, and {grid} steps.",
        "synchronous": "use one tau for all pixels.",
        "equal": "the gradient's order and one tau for all pixels restore equally well.",
        "": "networks that were trained for one order each do not decide it, because training "
        "seeds differ by more than they do.",
    }
    text = texts[primary.outcome]
    if not primary.outcome and tuned is not None and tuned.outcome:
        text += f" Networks that learn on from one and the same decide: {texts[tuned.outcome]}"
    shared = [d for a, b, d, _ in answers if (a, b) == (BY_GRADIENT, BY_MEAN)]
    if shared:
        text += f" In one network that serves any order, the gradient's order is {shared[0]} "
        text += "against its own mean tau for all pixels, so much is due to the order itself."
    usable = [
        (a[1], d)
        for a, b, d, p in answers
        if b == ("any", "synchronous") and p < 0.05 and d.found.mean < 0 and a != BY_TRUTH
    ]
    if usable:
        order, best = min(usable, key=lambda row: row[1].found.mean)
        text += f" The best tau map there: {order}, {best} against tau = .5."
    return text


def _delays(kept: Kept, arm: Arm) -> dict[tuple[str, str], tuple[float, float]]:
    """Delay of the restoration to beta by signal and part, in thousandths of the time.

    Each is the mean over training seeds and half the width of its 95 % interval (nan for one seed).
    """
    curves = np.array(kept.each(arm, "speeds"), float)
    if not curves.size:
        return {}
    from scipy import stats

    t = np.linspace(1, 0, curves.shape[-1])
    run, beta = np.moveaxis(speeds(curves), -2, 0)
    # Time runs from 1 to 0: a smaller centroid is later.
    late = 1000 * (centroids(t, beta) - centroids(t, run))
    reach = np.full(late.shape[1:], np.nan)
    if len(late) > 1:
        reach = late.std(0, ddof=1) / len(late) ** 0.5 * stats.t.ppf(0.975, len(late) - 1)
    found = zip(product(SIGNALS, PARTS), late.mean(0).flat, reach.flat, strict=True)
    return {key: (float(mean), float(half)) for key, mean, half in found}


def _gate(kept: Kept) -> str:
    """The table of the gate; ValueError unless it is passed."""
    rows = []
    for kind in KINDS:
        others = kept.classical(kind)
        ours = [kept.table(arm, (kind,), kept.best(arm)[0], STEPS).mean() for arm in PRIMARY]
        best = min(others, key=lambda name: others[name])
        if max(ours) >= others[best]:
            raise ValueError(
                f"expected both primary arms to beat {best} on {kind} holes, got LPIPS "
                f"{max(ours):.4f} against {others[best]:.4f}: train longer"
            )
        rows.append([kind, *(f"{v:.4f}" for v in ours), f"{others[best]:.4f} ({best})"])
    return markdown(["hole", "gradient", "synchronous", "best classical"], rows, 1)


def _sections(kept: Kept, answers: Answers) -> list[str]:
    """The tables that follow the answer."""
    rows = [
        [", ".join(a), ", ".join(b), f"{d.found.shape[0]}", str(d), f"{p:.2g}"]
        for a, b, d, p in answers
    ]
    heads = ["arm (network, order)", "minus", "seeds", "LPIPS (95 %)", "p (Holm)"]
    words = "; ".join(f"*{name}*: {text}" for name, text in WORDS.items())
    parts = [
        "## Secondary questions",
        "",
        f"Networks: {words}. The gradient's order against its own mean tau, the tuned networks and "
        "the time grids of the first screen were added after the other results were seen.",
        "",
        markdown(heads, rows, 2),
    ]
    heads = ["network", "order", "seeds", *(f"{kind}" for kind in (*KINDS, "wide", "narrow"))]
    rows = []
    for arm in ARMS:
        grid, table = kept.best(arm)
        if table.size:
            tables = [kept.table(arm, (kind,), grid, STEPS) for kind in KINDS]
            tables += [kept.table(arm, (kind,), "log", STEPS) for kind in ("wide", "narrow")]
            rows.append([*arm, str(len(table)), *map(_mean, tables)])
    parts += [
        f"## LPIPS at {STEPS} evaluations",
        "",
        "Wide and narrow holes: even steps of log noise; of the network for any order the first "
        "training seed alone.",
        "",
        markdown(heads, rows, 2),
    ]
    heads = ["network", "order", "grid", *(str(steps) for steps in (*CURVE, LONG, PAPER))]
    rows = []
    for arm, grid in product(ARMS, GRIDS):
        row = [kept.table(arm, KINDS, grid, steps)[:1] for steps in (*CURVE, LONG)]
        row.append(kept.table(arm, ("center",), grid, PAPER))
        if row[0].size:
            rows.append([*arm, grid, *map(_mean, row)])
    parts += [
        "## LPIPS by evaluations",
        "",
        f"First training seed, mean of center and half. {LONG} and {PAPER} evaluations: fewer "
        f"photographs (not comparable with the other columns); {PAPER}: center alone.",
        "",
        markdown(heads, rows, 3),
        *_distances(kept),
        *_mechanism(kept),
    ]
    return parts


def _distances(kept: Kept) -> list[str]:
    """Frechet and kernel distances of the primary arms."""
    rows = []
    for kind in KINDS:
        row = [kind]
        for arm in PRIMARY:
            found = np.array(kept.each(arm, f"{kind}-sets"), float)
            if not found.size:
                return []
            spread = found.std(0, ddof=1) if len(found) > 1 else (np.nan, np.nan)
            row += [f"{m:.3g} ± {s:.2g}" for m, s in zip(found.mean(0), spread, strict=True)]
        rows.append(row)
    count = len(kept.each(PRIMARY[0], f"{KINDS[0]}-log-{STEPS}")[0])
    heads = ["hole", "FD, gradient", "KD, gradient", "FD, synchronous", "KD, synchronous"]
    return [
        "## Distances between sets",
        "",
        f"Frechet and kernel distance on EfficientNet-Lite2 features, n = {count}, {STEPS} even "
        "steps of log noise: mean and standard deviation over training seeds.",
        "",
        markdown(heads, rows, 1),
    ]


def _mechanism(kept: Kept) -> list[str]:
    """Delays to beta, and when the process reaches the pixels."""
    late, times = [], []
    for arm in ARMS:
        for (signal, part), (mean, reach) in _delays(kept, arm).items():
            if part == PARTS[0]:
                late.append([*arm, signal])
            late[-1].append(f"{mean:+.0f}" + (f" ± {reach:.0f}" if np.isfinite(reach) else ""))
        found = kept.each(arm, "times")
        if found:
            halves, ends = np.mean(found, 0).T
            times.append([*arm, *(f"{v:.3f}" for v in (*halves[1:], *ends[1:]))])
    if not late:
        return []
    parts = ("flat", "middle", "steep")
    heads = ["network", "order", "signal", "whole hole", *parts]
    ends = [f"{name}, {part}" for name in ("half way", "noise") for part in parts]
    return [
        "## Mechanism",
        "",
        "Center holes, 50 even steps of time, terciles of the true gradient. How much later than "
        "beta the restoration comes (centroids), in thousandths of the time, with 95 % over "
        "training seeds: the projection of x_t, and the SSIM of x0_hat as in the paper's figures.",
        "",
        markdown(heads, late, 3),
        "The time t (from 1 down to 0) at which the process has half of its way behind it "
        "(1 - s = .5), and at which sigma_eff, the standard deviation of the noise in x_t in units "
        "of the picture, falls below .1:",
        "",
        markdown(["network", "order", *ends], times, 2),
    ]


def figure(kept: Kept, path: Path) -> None:
    """Draw LPIPS over evaluations (first seed), and the speed of both primary arms against beta."""
    from matplotlib.figure import Figure

    drawing = Figure(figsize=(11, 3.4), layout="constrained")
    left, *others = drawing.subplots(1, 3)
    for arm, colour in zip(PRIMARY, ("#d95f02", "#3b528b"), strict=True):
        for grid, line in zip(GRIDS, ("-", ":"), strict=True):
            tables = [(n, kept.table(arm, KINDS, grid, n)[:1]) for n in CURVE]
            found = [(n, table.mean()) for n, table in tables if table.size]
            if found:
                x, y = zip(*found, strict=True)
                left.plot(x, y, line, color=colour, marker=".", label=f"{arm[1]}, {grid} steps")
    left.set(xscale="log", xlabel="evaluations", ylabel="LPIPS, center and half")
    left.set_title("quality", fontsize=9)
    if left.lines:
        left.legend(fontsize=7)
    for arm, panel in zip(PRIMARY, others, strict=True):
        curves = np.array(kept.each(arm, "speeds"), float)
        if not curves.size:
            continue
        run, beta = np.moveaxis(speeds(curves.mean(0)[list(SIGNALS).index("x0_hat")]), -2, 0)
        t = np.linspace(1, 0, curves.shape[-1])
        middle = (t[1:] + t[:-1]) / 2
        for name, colour, one, other in zip(
            ("flat", "middle", "steep"),
            ("#3b528b", "#21918c", "#d95f02"),
            run[1:],
            beta[1:],
            strict=True,
        ):
            panel.plot(middle, one, color=colour, label=name)
            panel.plot(middle, other, color=colour, ls=":", lw=1)
        panel.set(xlim=(1, 0), xlabel="t", ylabel="share per step")
        panel.set_title(f"{arm[1]}: speed of SSIM, beta dotted", fontsize=9)
    if others[0].lines:
        others[0].legend(fontsize=7)
    drawing.savefig(path, dpi=100)


def _mean(table: np.ndarray) -> str:
    return f"{table.mean():.4f}" if table.size else ""
