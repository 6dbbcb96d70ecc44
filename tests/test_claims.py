"""The experiment on asynchrony: its statistics, its orders and its report."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from asyncdsb.bridge import noise_var
from asyncdsb.masks import make_mask
from asyncdsb.schedule import tau_map
from train import claims
from train.judge import answer, orders
from train.judge.answer import Kept
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
    pictures = torch.rand(2, 1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    pipe = SimpleNamespace(config=SimpleNamespace(blur_sigma=1.0))
    gradient = pictures[0].mean(1, keepdim=True)
    case = orders.Case(pipe, hole, gradient, pictures[1], [7])
    steep, inside = orders.gradient(case), hole > 0.5
    assert steep[inside].min() == pytest.approx(0.2) and steep[inside].max() == pytest.approx(0.5)
    mixed = orders.shuffled(case)
    assert (mixed[inside].sort().values == steep[inside].sort().values).all()
    assert (mixed[inside] != steep[inside]).float().mean() > 0.9
    assert (mixed[~inside] == steep[~inside]).all()
    assert torch.allclose(orders.ORDERS["flat first"](case), 0.7 - steep)
    assert orders.synchronous_mean(case).unique().item() == pytest.approx(steep[inside].mean())
    assert (orders.ORDERS["synchronous"](case) == 0.5).all()
    true = orders.ORDERS["true gradient"](case)
    assert (true == tau_map(orders.image_gradient(pictures[1]), 0.2, 0.5, 1.0, hole)).all()


def kept(folder: Path, difference: float, classical: float) -> None:
    """Scores of the primary arms and of one classical method, as an experiment keeps them."""
    rng = np.random.default_rng(3)
    photos = rng.normal(0.1, 0.01, 60)
    for network, order in answer.PRIMARY:
        for seed in range(5):
            place = folder / "scores" / f"{network}-{seed}" / order
            place.mkdir(parents=True)
            more = difference * (network == "gradient")
            for kind in answer.KINDS:
                for grid, worse in (("log", 0.0), ("uniform", 0.02)):
                    noise = rng.normal(0, 1e-4, 60)
                    np.save(place / f"{kind}-{grid}-20.npy", photos + more + worse + noise)
    place = folder / "scores" / "classical" / "telea"
    place.mkdir(parents=True)
    for kind in answer.KINDS:
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
    assert f"{100 * difference / 0.1:+.1f} % (" in text or difference == 0


def test_report_needs_the_gate(tmp_path, capsys):
    """Networks that are worse than a classical method say nothing about schedules."""
    kept(tmp_path, 0.0, -0.01)
    assert claims.main(["-o", str(tmp_path), "--report"]) == 2
    assert "train longer" in capsys.readouterr().err


def test_report_names_orders_delays_and_packs_its_scores(tmp_path):
    """An order that gains is named; the packed scores give the same report."""
    kept(tmp_path, 0.0, 0.05)
    rng = np.random.default_rng(4)
    scores = tmp_path / "scores"
    base = np.load(scores / "synchronous-0/synchronous/center-log-20.npy")
    for order, gain in (("synchronous", 0.0), ("inward", 0.005), ("flat first", -0.004)):
        for seed in range(3):
            place = scores / f"any-{seed}" / order
            place.mkdir(parents=True)
            for kind in answer.KINDS:
                noise = rng.normal(0, 1e-4, len(base))
                np.save(place / f"{kind}-log-20.npy", base - gain + noise)
    # The restoration of seed 0 is done one step after beta, that of seed 1 three steps.
    for network, order in answer.PRIMARY:
        for seed, step in ((0, 1), (1, 3)):
            course = np.stack([np.arange(51) > step, np.arange(51) > 0]).astype(float)
            speeds = np.broadcast_to(course, (2, 4, 2, 51))
            np.save(scores / f"{network}-{seed}" / order / "speeds.npy", speeds)
    assert claims.main(["-o", str(tmp_path), "--report"]) == 0
    text = (tmp_path / "claims.md").read_text("utf-8")
    assert "against one tau for all pixels**: flat first +4.0 %; inward -5.0 %" in text
    assert "The best tau map there: inward, -5.0 %" in text
    assert "by +40 / +40 / +40 in the synchronous arm" in text
    delays = answer._delays(Kept.read(tmp_path), answer.PRIMARY[0])
    assert delays[0, -1] == pytest.approx((40, 12.7062 * 20))
    scores.rename(tmp_path / "moved")
    assert claims.main(["-o", str(tmp_path), "--report"]) == 0
    assert (tmp_path / "claims.md").read_text("utf-8") == text


def test_experiment_keeps_all_cells(tmp_path, shard, tiny_weights, tiny_pipe, monkeypatch):
    """With networks that are there, it restores, scores and watches; what is kept stays."""
    monkeypatch.setattr(claims.Claims, "train", lambda self, *which: tiny_weights)
    monkeypatch.setattr(answer, "CURVE", (2, 20))
    monkeypatch.setattr(answer, "LONG", 4)
    monkeypatch.setattr(answer, "PAPER", 5)
    command = ["--data", "none", "--held-out", str(shard), "-o", str(tmp_path), "--limit", "2"]
    command += ["--seeds", "1", "--only", "gradient", "synchronous"]
    assert claims.main(command) == 0
    kept = Kept.read(tmp_path).arrays
    place = "gradient-0/gradient"
    assert {name.split("/")[-1] for name in kept if name.startswith(place)} == {
        *(f"{kind}-{grid}-{n}" for kind in answer.KINDS for grid in answer.GRIDS for n in (2, 20)),
        *(f"{kind}-{grid}-4" for kind in answer.KINDS for grid in answer.GRIDS),
        *(
            "center-uniform-5",
            "wide-log-20",
            "narrow-log-20",
            "center-sets",
            "half-sets",
            "speeds",
            "times",
        ),
    }
    assert kept[f"{place}/center-log-20"].shape == (2,)
    assert kept[f"{place}/speeds"].shape == (2, 4, 2, 51)
    # Steep pixels have later peaks, so that the process reaches them earlier (at larger t).
    halves = kept[f"{place}/times"][:, 0]
    assert (halves > 0).all() and (halves < 1).all()
    config = tiny_pipe.config
    schedule, half = config.schedule, torch.tensor(0.5)
    way, end = kept["synchronous-0/synchronous/times"][0]
    assert schedule.clock(torch.tensor(way), half) == pytest.approx(0.5, abs=1e-5)
    s = schedule.clock(torch.tensor(end), half)
    level = noise_var(s, schedule.total_var, config.hole_noise) ** 0.5 / (1 - s)
    assert level == pytest.approx(claims.LEVEL, rel=1e-4)
    name = tmp_path / "scores" / place / "center-log-20.npy"
    np.save(name, np.zeros(2))
    assert claims.main(command) == 0 and not np.load(name).any()


def test_the_bundled_report_is_that_of_the_bundled_scores():
    folder = Path(__file__).parents[1] / "assets" / "claims"
    text = answer.report(Kept.read(folder))
    assert text.rstrip() == (folder / "claims.md").read_text("utf-8").rstrip()
