"""Numbers of an evaluation: means with intervals, as JSON, a Markdown table and a contact sheet."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import cv2
import numpy as np
from PIL import Image, ImageDraw

from asyncdsb import baselines

HEADS = {
    "psnr": "PSNR",
    "psnr_hole": "PSNR hole",
    "ssim": "SSIM",
    "ssim_hole": "SSIM hole",
    "lpips": "LPIPS",
    "seam_step": "seam step",
    "seam_shift": "seam shift",
}
"""Column heads of the paired scores."""

RESAMPLES = 2000
"""Bootstrap resamples behind an interval."""


def clustered_mean(values: Sequence[float], groups: Sequence[str], seed: int = 0) -> dict:
    """Mean with a 95 % interval from a bootstrap over groups.

    Crops of one photo resemble each other, so whole photos are resampled, not crops.

    Args:
        values: one number per crop.
        groups: the photo of each crop.
        seed: of the resampling.

    Returns:
        ``{"mean", "low", "high", "n", "groups"}``.

    Raises:
        ValueError: no value, or lengths that differ.
    """
    if not values or len(values) != len(groups):
        raise ValueError(
            f"expected one group for each of at least 1 value,"
            f" got {len(values)} values and {len(groups)} groups"
        )
    names, member = np.unique(groups, return_inverse=True)
    sums = np.bincount(member, weights=np.asarray(values, float))
    counts = np.bincount(member)
    rng = np.random.default_rng(seed)
    drawn = rng.integers(len(names), size=(RESAMPLES, len(names)))
    means = sums[drawn].sum(1) / counts[drawn].sum(1)
    low, high = np.quantile(means, (0.025, 0.975))
    return {
        "mean": float(sums.sum() / counts.sum()),
        "low": float(low),
        "high": float(high),
        "n": len(values),
        "groups": len(names),
    }


def markdown_table(summary: Mapping[str, Mapping[str, Mapping]], set_names: Sequence[str]) -> str:
    """Return one row per mask and method.

    Args:
        summary: kind -> method -> score -> :func:`clustered_mean` result, or a number for the
            distances between sets.
        set_names: names of those distances.
    """
    heads = ("mask", "method", "n", *HEADS.values(), *set_names)
    lines = ["| " + " | ".join(heads) + " |", "| --- | --- |" + " ---: |" * (len(heads) - 2)]
    for kind, methods in summary.items():
        for method, scores in methods.items():
            cells = [kind, method, str(scores["psnr"]["n"])]
            for name in HEADS:
                digits = 2 if name.startswith(("psnr", "seam")) else 3
                mean, low, high = (scores[name][part] for part in ("mean", "low", "high"))
                cells.append(f"{mean:.{digits}f} ({low:.{digits}f}..{high:.{digits}f})")
            cells += [_plain(scores[name]) for name in set_names]
            lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def ratio_table(
    summary: Mapping[str, Mapping[str, Mapping]], ours: str, scores: Sequence[str]
) -> str:
    """Return our scores beside those of the best other method, and their ratio.

    Args:
        summary: as for :func:`markdown_table`.
        ours: name of our method.
        scores: scores for which lower is better.
    """
    titles = [HEADS.get(score, score) for score in scores]
    heads = [cell for title in titles for cell in (f"{title}, ours", "best other", "share")]
    lines = ["| mask | " + " | ".join(heads) + " |", "| --- |" + " ---: |" * len(heads)]
    for kind, methods in summary.items():
        cells = [kind]
        for score in scores:
            values = {method: _mean(found[score]) for method, found in methods.items()}
            others = {m: v for m, v in values.items() if m != ours and m in baselines.METHODS}
            best = min(others, key=others.get)
            own = _with_interval(methods[ours][score])
            cells += [own, f"{others[best]:.3g} ({best})", f"{values[ours] / others[best]:.2f}"]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _mean(score: float | Mapping) -> float:
    return score["mean"] if isinstance(score, Mapping) else score


def _with_interval(score: float | Mapping) -> str:
    if not isinstance(score, Mapping):
        return f"{score:.3g}"
    return "{mean:.3f} ({low:.3f} to {high:.3f})".format(**score)


def difference_table(summary: Mapping[str, Mapping[str, Mapping]], first: str) -> str:
    """Return LPIPS of each method minus that of ``first`` on the same crops, with intervals."""
    others = [m for methods in summary.values() for m in methods if m != first]
    others = list(dict.fromkeys(others))
    lines = [f"| LPIPS minus {first} | " + " | ".join(others) + " |"]
    lines.append("| --- |" + " ---: |" * len(others))
    for kind, methods in summary.items():
        cells = [
            "{mean:+.3f} ({low:+.3f}..{high:+.3f})".format(**methods[m]["lpips_difference"])
            for m in others
        ]
        lines.append(f"| {kind} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _plain(number: float | None) -> str:
    return "-" if number is None else f"{number:.3g}"


def shade(values: np.ndarray) -> np.ndarray:
    """Show a map (H, W) in [0, 1] in the magma colours: uint8 (H, W, 3)."""
    grey = np.rint(255 * np.clip(values, 0, 1)).astype(np.uint8)
    return cv2.applyColorMap(grey, cv2.COLORMAP_MAGMA)[..., ::-1]


def contact_sheet(rows: Sequence[Sequence[np.ndarray]], heads: Sequence[str]) -> Image.Image:
    """Lay pictures out in rows under column heads.

    Args:
        rows: uint8 (size, size, 3) pictures, as many in each row as there are heads.
        heads: text over each column.

    Returns:
        The sheet, white gaps of 6 pixels.

    Raises:
        ValueError: no row, or a row of another length.
    """
    if not rows or any(len(row) != len(heads) for row in rows):
        raise ValueError(
            f"expected rows of {len(heads)} pictures, got lengths {[len(row) for row in rows]}"
        )
    size, gap, top = rows[0][0].shape[0], 6, 24
    width, height = len(heads) * (size + gap) + gap, top + len(rows) * (size + gap)
    sheet = Image.new("RGB", (width, height), "white")
    draw = ImageDraw.Draw(sheet)
    for column, head in enumerate(heads):
        draw.text((gap + column * (size + gap), 4), head, fill="black", font_size=14)
    for line, row in enumerate(rows):
        for column, picture in enumerate(row):
            place = (gap + column * (size + gap), top + line * (size + gap))
            sheet.paste(Image.fromarray(picture), place)
    return sheet
