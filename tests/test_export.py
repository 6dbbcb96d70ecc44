import dataclasses
import json

import numpy as np
import pytest
import torch
from PIL import Image

from asyncdsb.denoiser import FINISHES, BridgeDenoiser
from asyncdsb.pipeline import AsyncDSBPipeline
from asyncdsb.store.checkpoint import load_weights
from train.bridge import started_from
from train.export import main

pytestmark = pytest.mark.slow


@pytest.fixture
def runs(tmp_path):
    """Two run folders as the trainers leave them, with tiny networks."""
    for kind in ("gradient", "bridge"):
        for seed, (name, steps) in enumerate((("weights", 40), ("best", 20))):
            other = AsyncDSBPipeline.random(seed)
            other.training = {kind: {"steps": steps, "preset": "cpu", "photos": ["a-set-00.tar"]}}
            other.save_pretrained(tmp_path / kind / name)
        records = [{"step": 20, "score": 0.1}, {"step": 40, "score": 0.2}]
        (tmp_path / kind / "validation.json").write_text(json.dumps(records))
    return tmp_path


def command(runs, *extra):
    return ["--gradient", str(runs / "gradient"), "--bridge", str(runs / "bridge")] + [
        "--out",
        str(runs / "out"),
        *extra,
    ]


@pytest.mark.parametrize("choice, steps, score", [("last", 40, 0.2), ("best", 20, 0.1)])
def test_export_gives_what_the_pipeline_loads(runs, choice, steps, score):
    assert main(command(runs, "--choice", choice)) == 0
    pipe = AsyncDSBPipeline.from_pretrained(runs / "out")
    for kind in ("gradient", "bridge"):
        assert pipe.training[kind]["steps"] == steps
        assert pipe.training[kind]["held_out"] == {"step": steps, "score": score}
    assert pipe.config.finish == "none"
    source = "best" if choice == "best" else "weights"
    wanted = (runs / "bridge" / source / "bridge.safetensors").read_bytes()
    assert (runs / "out" / "bridge.safetensors").read_bytes() == wanted


def test_of_several_runs_the_mean_of_their_weights_is_exported(runs, capsys):
    for seed, name in enumerate(("second", "third"), 5):
        AsyncDSBPipeline.random(seed).save_pretrained(runs / name / "weights")
    folders = [runs / "second", runs / "third", runs / "bridge"]
    given = ["--gradient", str(runs / "gradient"), "--out", str(runs / "out"), "--bridge"]
    assert main([*given, *map(str, folders)]) == 0
    pipe = AsyncDSBPipeline.from_pretrained(runs / "out")
    states = [load_weights(folder / "weights", "bridge")[0].state_dict() for folder in folders]
    for name, value in pipe.denoiser.state_dict().items():
        mean = torch.stack([state[name].double() for state in states]).mean(0)
        # Stored in half precision.
        torch.testing.assert_close(value.double(), mean, rtol=1e-3, atol=1e-6)
    assert pipe.training["bridge"]["steps"] == 40
    assert "held_out" not in pipe.training["bridge"], "the score is that of the last run alone"
    assert "| mean of runs | - | 3 |" in (runs / "out" / "README.md").read_text()
    other = AsyncDSBPipeline.random(7)
    other.denoiser.config = dataclasses.replace(other.denoiser.config, mirrored=2.0)
    other.save_pretrained(runs / "second" / "weights")
    assert main([*given, *map(str, folders)]) == 2
    assert "expected runs of one configuration" in capsys.readouterr().err


def test_another_bridge_becomes_the_guide(runs, capsys):
    given = command(runs, "--guide", str(runs / "second"), "--guidance", "1.5")
    smaller = AsyncDSBPipeline.random(5)
    smaller.training = {"bridge": {"steps": 7, "photos": ["b-set-00.tar"]}}
    smaller.save_pretrained(runs / "second" / "weights")
    manifest = runs / "manifest.csv"
    manifest.write_text("key,split,source,licence\n1,a-set,one,CC0\n2,b-set,two,GPL\n")
    assert main([*given, "--manifest", str(manifest)]) == 0
    card = (runs / "out/README.md").read_text()
    assert "| two | 1 | GPL |" in card and "| steps | 40 | 40 | 7 |" in card
    assert "Three networks" in card and "with weight 1.5 where sigma_eff is from 1 to 20" in card
    made = load_weights(runs / "out", "bridge")[0]
    assert made.config.guidance == 1.5 and made.config.guide == made.config.unet
    for ours, run in ((made.unet, "bridge"), (made.guide, "second")):
        wanted = load_weights(runs / run / "weights", "bridge")[0].unet.state_dict()
        assert all(torch.equal(value, wanted[name]) for name, value in ours.state_dict().items())
    # The guide of weights serves another bridge, and a training leaves it out.
    again = [*command(runs, "--guide", str(runs / "out"))[:-3], str(runs / "more")]
    again += ["--guide", str(runs / "out"), "--guidance", "1.5"]
    assert main(again) == 0
    assert (runs / "more/bridge.json").read_text() == (runs / "out/bridge.json").read_text()
    started = started_from(str(runs / "out"), smaller.config, tell=False)
    assert started.guide is None and started.config == smaller.config
    photo = np.full((64, 64, 3), 128, np.uint8)
    hole = np.zeros((64, 64), bool)
    hole[20:40, 20:40] = True
    pictures = [
        np.asarray(AsyncDSBPipeline.from_pretrained(folder, "cpu")(photo, hole, steps=4).image)
        for folder in (runs / "out", runs / "bridge" / "weights")
    ]
    assert (pictures[0][hole] != pictures[1][hole]).any()
    np.testing.assert_array_equal(pictures[0][~hole], pictures[1][~hole])
    config = dataclasses.replace(smaller.config, conditions=("mask", "position"))
    smaller.denoiser = BridgeDenoiser(config)
    smaller.save_pretrained(runs / "second" / "weights")
    assert main(given) == 2
    assert "second with other conditions" in capsys.readouterr().err


@pytest.mark.parametrize("finish", FINISHES)
def test_what_runs_do_by_default_is_set_on_export(runs, finish):
    assert main(command(runs, "--finish", finish)) == 0
    assert AsyncDSBPipeline.from_pretrained(runs / "out").config.finish == finish


def test_the_card_tells_networks_training_and_licences(runs):
    manifest = runs / "manifest.csv"
    manifest.write_text(
        "key,split,source,licence\n1,a-set,one,CC0\n2,a-set,one,CC0\n3,other,two,GPL\n"
    )
    assert main(command(runs, "--manifest", str(manifest), "--licence", "cc0-1.0")) == 0
    card = (runs / "out" / "README.md").read_text()
    assert "| one | 2 | CC0 |" in card and "GPL" not in card
    assert "| steps | 40 | 40 |" in card and "\nlicense: cc0-1.0\n" in card
    assert "Intended use" in card


def scores(lpips, distance):
    return {
        "lpips": {"mean": lpips, "low": lpips - 0.01, "high": lpips + 0.01},
        "FD (EfficientNet-Lite2)": distance,
        "first_error": 0.71,
        "power": {"0-1": 0.9, "1-2": 0.84},
    }


def write_results(folder, **found):
    results = {
        "protocol": {"photos": 3, "crops_per_photo": 2, "size": 256},
        "settings": {"steps": 20, "sampler": "posterior", "tau_min": 0.2, "tau_max": 0.5},
        "results": {"wide": found},
    }
    (folder / "results.json").write_text(json.dumps(results))


@pytest.mark.parametrize(
    ("found", "row"),
    [
        ({"bridge": scores(0.1, 30.0)}, "| 0.100 (0.090 to 0.110) | 30 |"),
        (
            {"bridge": scores(0.1, None), "telea": scores(0.2, None)},
            "| 0.100 (0.090 to 0.110) | 0.2 (telea) | 0.50 |",
        ),
        ({"bridge": scores(0.1, None)}, "| 0.100 (0.090 to 0.110) |"),
    ],
)
def test_the_card_of_an_evaluation_without_others_or_of_one_crop(runs, found, row):
    write_results(runs, **found)
    assert main(command(runs, "--results", str(runs))) == 0
    card = (runs / "out" / "README.md").read_text()
    assert f"\n| wide {row}\n" in card
    assert ("classical" in card) == ("telea" in found)
    assert ("Frechet" in card) == (found["bridge"]["FD (EfficientNet-Lite2)"] is not None)


def test_results_without_the_bridge_alone_are_refused_before_anything_is_written(runs, capsys):
    write_results(runs, mine=scores(0.1, 30.0), telea=scores(0.2, 80.0))
    assert main(command(runs, "--results", str(runs))) == 2
    assert "expected the method bridge in" in capsys.readouterr().err
    assert not (runs / "out").exists()


def test_the_card_shows_scores_beside_the_best_other(runs):
    found = {
        "bridge": scores(0.1, 30.0),
        "bridge+patches": scores(0.05, 20.0),
        "telea": scores(0.2, 80),
        "patch-fill": scores(0.16, 70),
        "patchmatch": scores(0.3, 60),
    }
    write_results(runs, **found)
    Image.new("RGB", (40, 30)).save(runs / "worst.png")
    (runs / "notes.md").write_text("Never paints a unicorn.")
    extra = ["--results", str(runs), "--notes", str(runs / "notes.md")]
    assert main(command(runs, *extra)) == 0
    card = (runs / "out" / "README.md").read_text()
    assert "n = 6" in card and "20 posterior steps, tau from 0.2 to 0.5" in card
    row = next(line for line in card.splitlines() if line.startswith("| wide |"))
    assert row.startswith(
        "| wide | 0.100 (0.090 to 0.110) | 0.05 | 0.16 | 0.16 (patch-fill) | 0.62 |"
    )
    assert row.endswith("| 30 | 20 | 70 | 60 (patchmatch) | 0.50 |")
    assert "| mask | LPIPS, bridge alone | bridge, then patches | patches alone | best" in card
    # What the bridge does by itself; other methods have no place there.
    assert card.count("\n| wide | bridge | 0.71 | 0.90 | 0.84 |\n") == 1
    assert "| wide | telea |" not in card
    assert "unicorn" in card and "(worst.webp)" in card
    assert Image.open(runs / "out" / "worst.webp").size == (40, 30)


def test_a_run_without_weights_is_refused_in_one_line(runs, capsys):
    (runs / "bridge" / "best" / "bridge.safetensors").unlink()
    assert main(command(runs, "--choice", "best")) == 2
    assert capsys.readouterr().err.startswith("train.export: error: weights not found")
    damaged = runs / "gradient" / "weights" / "gradient.safetensors"
    damaged.write_bytes(damaged.read_bytes()[:-8])
    assert main(command(runs)) == 2
    assert "damaged" in capsys.readouterr().err


def test_nothing_is_written_before_all_was_read(runs, capsys):
    assert main(command(runs)) == 0
    before = {path: path.read_bytes() for path in (runs / "out").iterdir()}
    (runs / "few.csv").write_text("key,source\n1,one\n")
    given = ["--gradient", str(runs / "gradient"), "--out", str(runs / "out")]
    for wrong, told in (
        (("--bridge", str(runs / "typo")), "weights not found"),
        (("--manifest", str(runs / "few.csv")), "expected the columns split, source, licence"),
        (("--notes", str(runs / "none.md")), "none.md"),
    ):
        assert main([*given, "--choice", "best", *wrong]) == 2
        assert told in capsys.readouterr().err
    alone = ["--gradient", str(runs / "gradient"), "--out", str(runs / "new")]
    assert main(alone) == 2 and not (runs / "new").exists()
    assert {path: path.read_bytes() for path in (runs / "out").iterdir()} == before
