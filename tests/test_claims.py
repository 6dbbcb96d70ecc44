"""The experiment on asynchrony: its statistics, its orders and its report."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from asyncdsb.masks import make_mask
from asyncdsb.schedule import tau_map
from train import claims
from train.judge.crossed import crossed, holm, smallest_found


def table(rng, seeds: int, photos: int, deviations: tuple[float, float, float]) -> np.ndarray:
    of_seed, of_photo, of_rest = deviations
    rows = rng.normal(0, of_seed, (seeds, 1)) + rng.normal(0, of_photo, photos)
    return rows + rng.normal(0, of_rest, (seeds, photos))


@pytest.mark.parametrize("deviations", [(1.0, 1.0, 1.0), (0.0, 2.0, 1.0), (0.5, 0.0, 3.0)])
def test_intervals_hold_what_they_promise(deviations):
    """Of many experiments without a difference, 95 % have an interval around 0, or a few more."""
    rng = np.random.default_rng(0)
    found = [crossed(table(rng, 5, 40, deviations)) for _ in range(1000)]
    covered = np.mean([low <= 0 <= high for low, high in (one.interval() for one in found)])
    assert 0.93 <= covered <= 0.995
    variance = np.mean([one.error**2 for one in found])
    assert variance == pytest.approx(np.var([one.mean for one in found]), rel=0.25)


def test_one_seed_counts_photographs_alone():
    values = np.random.default_rng(1).normal(3, 1, (1, 50))
    found = crossed(values)
    assert found.error == pytest.approx(values.std(ddof=1) / 50**0.5)
    with pytest.raises(ValueError, match="two photographs"):
        crossed(values[:, :1])


def test_power_of_a_design_without_effects_of_seeds():
    """It is the textbook's 1.96 + 0.84 standard errors."""
    values = table(np.random.default_rng(2), 2, 400, (0.0, 1.0, 1e-3))
    found = crossed(values)
    assert smallest_found(found) == pytest.approx(2.8 * found.deviations[1] / 20, rel=0.05)


def test_holm():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.9, 0.8]) == [1.0, 1.0]


def test_orders():
    hole = torch.from_numpy(make_mask("half", 32, 0))[None, None].float()
    pictures = torch.rand(3, 1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    pipe = SimpleNamespace(config=SimpleNamespace(blur_sigma=1.0))
    gradient = pictures[0].mean(1, keepdim=True)
    case = claims.Case(pipe, pictures[1], hole, gradient, pictures[2], [7])
    steep, inside = claims.gradient(case), hole > 0.5
    assert steep[inside].min() == pytest.approx(0.2) and steep[inside].max() == pytest.approx(0.5)
    mixed = claims.shuffled(case)
    assert (mixed[inside].sort().values == steep[inside].sort().values).all()
    assert (mixed[inside] != steep[inside]).float().mean() > 0.9
    assert (mixed[~inside] == steep[~inside]).all()
    assert torch.allclose(claims.flat_first(case), 0.7 - steep)
    assert claims.synchronous_mean(case).unique().item() == pytest.approx(steep[inside].mean())
    assert (claims.synchronous(case) == 0.5).all()
    true = claims.true_gradient(case)
    assert (true == tau_map(claims.image_gradient(pictures[2]), 0.2, 0.5, 1.0, hole)).all()


def kept(folder: Path, difference: float, classical: float) -> None:
    """Scores of the primary arms and of one classical method, as an experiment keeps them."""
    rng = np.random.default_rng(3)
    photos = rng.normal(0.1, 0.01, 60)
    for network, order in claims.PRIMARY:
        for seed in range(5):
            place = folder / "scores" / f"{network}-{seed}" / order
            place.mkdir(parents=True)
            more = difference * (network == "gradient")
            for kind in claims.KINDS:
                for grid, worse in (("log", 0.0), ("uniform", 0.02)):
                    noise = rng.normal(0, 1e-4, 60)
                    np.save(place / f"{kind}-{grid}-20.npy", photos + more + worse + noise)
    place = folder / "scores" / "classical" / "telea"
    place.mkdir(parents=True)
    for kind in claims.KINDS:
        np.save(place / f"{kind}.npy", photos + classical)


@pytest.mark.parametrize(
    ("difference", "says"),
    [
        (0.01, "The synchronous arm is better."),
        (-0.01, "The asynchronous arm is better."),
        (0.0, "They are equal within 2 %"),
    ],
)
def test_report_answers(tmp_path, difference, says):
    kept(tmp_path, difference, 0.05)
    assert claims.main(["-o", str(tmp_path), "--report"]) == 0
    text = (tmp_path / "claims.md").read_text("utf-8")
    assert says in text and "5 training seeds and 60 photographs" in text
    assert "log for the gradient's order, log for the synchronous one" in text
    assert f"{100 * difference / 0.1:+.1f} % (95 %" in text or difference == 0


def test_report_needs_the_gate(tmp_path, capsys):
    """Networks that are worse than a classical method say nothing about schedules."""
    kept(tmp_path, 0.0, -0.01)
    assert claims.main(["-o", str(tmp_path), "--report"]) == 2
    assert "train longer" in capsys.readouterr().err
