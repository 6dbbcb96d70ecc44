"""What an evaluation found, as Markdown tables and contact sheets."""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from asyncdsb.measure import baselines
from asyncdsb.photo.images import write_atomic
from train.judge.scores import GOOD_POWER, SCORES

TITLES = {"bridge": "bridge alone", "bridge+patches": "bridge, then patches"}
TITLES |= {"patch-fill": "patches alone"}
"""What the methods with these names are, as tables say it."""

Summary = Mapping[str, Mapping[str, Mapping]]
"""What :func:`train.judge.results.summarise` returns."""


def publish(
    folder: Path, name: str, results: Mapping, tables: str, draw: Callable | None = None
) -> None:
    """Write ``NAME.json``, ``NAME.md`` and, by ``draw``, ``NAME.png``; print the tables."""
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps(results, indent=1) + "\n"
    write_atomic(folder / f"{name}.json", lambda path: path.write_text(text, "utf-8"))
    write_atomic(folder / f"{name}.md", lambda path: path.write_text(tables, "utf-8"))
    if draw is not None:
        write_atomic(folder / f"{name}.png", draw)
    print(tables)


def markdown(heads: Sequence[str], rows: Iterable[Sequence[str]], texts: int) -> str:
    """Return a Markdown table whose first columns are texts, and the others numbers."""
    rule = ["---"] * texts + ["---:"] * (len(heads) - texts)
    return "".join("| " + " | ".join(row) + " |\n" for row in (heads, rule, *rows))


def markdown_table(summary: Summary, set_names: Sequence[str]) -> str:
    """Return one row per mask and method; ``set_names`` are the distances between sets."""
    rows = []
    digits = {name: 2 if name.startswith(("psnr", "seam", "colour")) else 3 for name in SCORES}
    for kind, methods in summary.items():
        for method, scores in methods.items():
            row = [kind, method, str(scores["psnr"]["n"])]
            row += [with_interval(scores[name], digits[name]) for name in SCORES]
            rows.append(row + [_plain(scores[name]) for name in set_names])
    return markdown(["mask", "method", "n", *SCORES.values(), *set_names], rows, 2)


def ratio_table(summary: Summary, ours: str, scores: Sequence[str]) -> str:
    """Return our scores beside those of patches and the best classical method, and their ratio."""
    names, others = next(iter(summary.values())), classical(summary)
    beside = [name for name in TITLES if name in names and name != ours]
    heads = ["mask"]
    for score in scores:
        heads.append(f"{SCORES.get(score, score)}, {TITLES.get(ours, ours)}")
        heads += [TITLES[name] for name in beside]
        heads += ["best classical", f"share of {ours}"] * bool(others)
    rows = []
    for kind, methods in summary.items():
        row = [kind]
        for score in scores:
            found = {name: own[score] for name, own in methods.items()}
            values = {k: v["mean"] if isinstance(v, Mapping) else v for k, v in found.items()}
            row.append(with_interval(found[ours]))
            row += [_plain(values[name]) for name in beside]
            if others:
                best = min(others, key=values.get)
                share = f"{values[ours] / values[best]:.2f}" if values[best] else "-"
                row += [f"{_plain(values[best])} ({best})", share]
        rows.append(row)
    return markdown(heads, rows, 1)


def gauge_table(summary: Summary) -> str:
    """Return what the gauges of :mod:`train.judge.scores` say, one row per mask and method."""
    low, high = GOOD_POWER
    bands = list(next(iter(next(iter(summary.values())).values()))["power"])
    rows = []
    for kind, methods in summary.items():
        for method, scores in methods.items():
            values = [scores["first_error"], *(scores["power"][band] for band in bands)]
            rows.append([kind, method, *("-" if v is None else f"{v:.2f}" for v in values)])
    return (
        "First error: squared error in the hole of the first estimate over that of a smooth fill; "
        "below 1, the network knows more. Then, by band of frequency in cycles per picture, power "
        "of the restored holes beyond the smooth fill over that of the true ones; "
        f"good from {low:g} to {high:g}.\n\n"
    ) + markdown(["mask", "method", "first error", *bands], rows, 2)


def legend(summary: Summary) -> str:
    """Say which method is which, as far as a summary's methods have names of their own."""
    methods = next(iter(summary.values()))
    known = [f"`{name}`: {title}" for name, title in TITLES.items() if name in methods]
    return "; ".join(known) + ".\n" if known else ""


def known(summary: Summary, ours: str, distance: str) -> list[str]:
    """LPIPS, and a distance between sets if there were enough crops for it."""
    enough = all(methods[ours][distance] is not None for methods in summary.values())
    return ["lpips", distance] if enough else ["lpips"]


def classical(summary: Summary) -> list[str]:
    """The methods of :mod:`asyncdsb.measure.baselines` among those of a summary."""
    return [method for method in next(iter(summary.values())) if method in baselines.METHODS]


def with_interval(score: float | Mapping, digits: int = 3, sign: str = "") -> str:
    """Return "mean (low to high)", or the mean alone where there is no interval."""
    if not isinstance(score, Mapping):
        return _plain(score)
    parts = ["mean"] if score["low"] is None else ["mean", "low", "high"]
    mean, *ends = (f"{score[part]:{sign}.{digits}f}" for part in parts)
    return f"{mean} ({' to '.join(ends)})" if ends else mean


def difference_table(summary: Summary, first: str, scores: Sequence[str]) -> str:
    """Return LPIPS or distances of each method minus those of ``first``, where there are any."""
    others = [method for method in next(iter(summary.values())) if method != first]
    rows = []
    for score in scores:
        key, digits = ("lpips_difference", 3) if score == "lpips" else (f"{score} difference", 1)
        for kind, methods in summary.items():
            cells = [difference(methods[method].get(key), digits) for method in others]
            if set(cells) != {"-"}:
                rows.append([SCORES.get(score, score), kind, *cells])
    return markdown([f"minus {first}", "mask", *others], rows, 2)


def difference(found: Mapping | None, digits: int) -> str:
    """Return "mean (low to high)" with signs, bold where the interval excludes zero."""
    if found is None:
        return "-"
    text = with_interval(found, digits, "+")
    sure = found["low"] is not None and (found["low"] > 0 or found["high"] < 0)
    return f"**{text}**" if sure else text


def _plain(number: float | None) -> str:
    if number is None:
        return "-"
    return f"{number:.0f}" if abs(number) >= 1000 else f"{number:.3g}"


def contact_sheet(rows: Sequence[Sequence[np.ndarray]], heads: Sequence[str]) -> Image.Image:
    """Lay pictures, uint8 (size, size, 3), out in rows under column heads, 6 pixels apart."""
    gap, top = 6, 24
    step = rows[0][0].shape[0] + gap
    sheet = Image.new("RGB", (len(heads) * step + gap, top + len(rows) * step), "white")
    draw = ImageDraw.Draw(sheet)
    for column, head in enumerate(heads):
        # Small pictures have small heads.
        fits = (n for n in range(14, 6, -1) if draw.textlength(head, font_size=n) <= step)
        draw.text((gap + column * step, 4), head, fill="black", font_size=next(fits, 6))
    for line, row in enumerate(rows):
        for column, picture in enumerate(row):
            sheet.paste(Image.fromarray(picture), (gap + column * step, top + line * step))
    return sheet
