"""Assemble finished trainings into a folder that ``from_pretrained`` loads, with its model card.

python -m train.export --gradient runs/gradient --bridge runs/bridge --out weights \
    --manifest MANIFEST.csv --results runs/evaluation
"""

import argparse
import dataclasses
import json
from collections import Counter
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from asyncdsb.denoiser import BridgeDenoiser
from asyncdsb.measure.perceptual import EfficientNetFeatures
from asyncdsb.names import FINISHES
from asyncdsb.photo.images import write_atomic
from asyncdsb.pipeline import AsyncDSBPipeline
from asyncdsb.store.card import CARD, Facts, model_card
from asyncdsb.store.checkpoint import load_weights, save_weights
from train.data.sources import manifest_rows
from train.judge.report import classical, gauge_table, known, ratio_table
from train.judge.validation import held_out_records
from train.loop.options import program

OURS = "bridge"  # Name of our method in an evaluation: the bridge alone, without copied patches.
WORST = "worst.webp"  # Picture of the worst cases, beside the card.


def averaged_network(runs: list[Path], kind: str, args: argparse.Namespace) -> tuple[Any, dict]:
    """The averaged network of a run, "bridge" or "gradient", and facts about its training.

    Of n runs it is the mean of their weights, (w_1 + ... + w_n) / n (model soups, Wortsman et al.
    2022), with the facts of the last run except its held-out score. ValueError if the runs'
    configurations differ.
    """
    folders = [run / ("best" if args.choice == "best" else "weights") for run in runs]
    module, training = load_weights(folders[-1], kind)
    if len(runs) == 1 and (records := held_out_records(runs[0])):
        found = (record for record in records if record["step"] == training["steps"])
        training = training | {"held_out": next(found, None)}
    if len(runs) > 1:
        state = module.state_dict()
        for folder in folders[:-1]:
            other, _ = load_weights(folder, kind)
            if other.config != module.config:
                raise ValueError(f"expected runs of one configuration, got another in {folder}")
            for name, value in other.state_dict().items():
                state[name] += value
        module.load_state_dict({name: value / len(runs) for name, value in state.items()})
        training = training | {"mean_of_runs": len(runs)}
    if kind == "bridge" and args.finish is not None:
        module.config = dataclasses.replace(module.config, finish=args.finish)
    return module, training


def with_guide(
    bridge: BridgeDenoiser, training: dict, args: argparse.Namespace
) -> tuple[BridgeDenoiser, dict]:
    """A bridge guided by the network of ``--guide``, or by the guide of weights, and facts.

    ValueError if that network was trained for something else than the bridge.
    """
    if (args.guide / "weights").is_dir():
        other, facts = averaged_network([args.guide], "bridge", args)
    else:
        other, facts = load_weights(args.guide, "bridge")
    network = other.unet
    if other.guide is not None:
        network, facts = other.guide, facts.get("guide", {})
    config = dataclasses.replace(bridge.config, guide=network.config, guidance=args.guidance)
    guided = BridgeDenoiser(config)
    names = "parametrisation sigma_data fill hole_noise beta_min beta_max window resolution"
    wrong = [n for n in names.split() if getattr(config, n) != getattr(other.config, n)]
    if not set(config.bridges) <= set(other.config.bridges):
        wrong.append("bridges")
    seen, its = ([c for c in one.channels if "estimate/" not in c] for one in (guided, other))
    if seen != its or network.in_channels != len(seen):
        wrong.append("conditions")
    if wrong:
        got = f"{args.guide} with other {', '.join(wrong)}"
        raise ValueError(f"expected a guide that was trained like the bridge, got {got}")
    guided.unet.load_state_dict(bridge.unet.state_dict())
    guided.guide.load_state_dict(network.state_dict())
    return guided.eval(), training | {"guide": facts}


def photographs(facts: Facts, manifest: list[dict[str, str]]) -> str:
    """The card's table of the photographs in a manifest whose splits are in names of shards."""
    runs = [*facts.training.values(), facts.training.get("bridge", {}).get("guide", {})]
    shards = {name for run in runs for name in run.get("photos", [])}
    splits = {Path(name).stem.rsplit("-", 1)[0] for name in shards}
    used = [row for row in manifest if row["split"] in splits]
    found = Counter((row["source"], row["licence"]) for row in used)
    rows = [f"| {source} | {n} | {licence} |\n" for (source, licence), n in found.most_common()]
    return (
        f"{sum(found.values())} photographs ({', '.join(sorted(splits))}):\n\n"
        "| source | photographs | licence |\n| --- | ---: | --- |\n"
    ) + "".join(rows)


def measured(folder: Path) -> str:
    """The card's part on an evaluation; ValueError if the bridge alone was not evaluated."""
    results = json.loads((folder / "results.json").read_text("utf-8"))
    summary, protocol, settings = (results[key] for key in ("results", "protocol", "settings"))
    names = next(iter(summary.values()))
    if OURS not in names:
        got = ", ".join(names)
        raise ValueError(f"expected the method {OURS} in {folder}/results.json, got {got}")
    each = protocol["crops_per_photo"]
    scores = known(summary, OURS, EfficientNetFeatures.names.frechet)
    distance = share = ""
    if len(scores) > 1:
        distance = (
            ", and the Frechet distance on EfficientNet-Lite2 features, which is not FID and "
            "comparable only at the same n"
        )
    if others := ", ".join(classical(summary)):
        share = f"; the share is that of the bridge alone over the best classical method ({others})"
    return (
        "## Measured\n\n"
        f"Held out: {protocol['photos']} photographs, {each} crop{'s' * (each > 1)} of "
        f"{protocol['size']} pixels each (n = {protocol['photos'] * each}), masks and noise at "
        f"fixed seeds (`train/judge/protocol.py`); {settings['steps']} {settings['sampler']} "
        f"steps, tau from {settings['tau_min']} to {settings['tau_max']}. LPIPS (AlexNet) with "
        f"95 % intervals from a bootstrap over photographs{distance}. Lower is better{share}.\n\n"
        + ratio_table(summary, OURS, scores)
        + "\n"
        + gauge_table({kind: {OURS: methods[OURS]} for kind, methods in summary.items()})
    )


def parser() -> argparse.ArgumentParser:
    """Options of this program."""
    options = argparse.ArgumentParser(prog="python -m train.export", description=__doc__)
    add = options.add_argument
    several = "; of several, which must go back to the same weights, the mean of their weights"
    for kind in ("gradient", "bridge"):
        told = f"run folder of train.{kind}{several}"
        add(f"--{kind}", type=Path, nargs="+", metavar="RUN", help=told)
    add("--out", type=Path, required=True, help="weights folder")
    add("--choice", choices=("best", "last"), default="last", help="which weights of a run")
    add(
        "--dtype",
        choices=("float16", "int8"),
        default="float16",
        help="of the weights on disk; int8 halves the files: 8 bits in large kernels",
    )
    told = "guide of the bridge: run folder of a smaller network, or weights that have a guide"
    add("--guide", type=Path, metavar="RUN", help=told)
    add("--guidance", type=float, default=1.0, help="weight of the guidance by --guide (1.0)")
    add("--finish", choices=FINISHES, help="what happens to results by default")
    add("--manifest", type=Path, help="CSV of the photos: key, split, source, ...")
    add("--results", type=Path, help="folder that train.evaluate wrote")
    add("--notes", type=Path, help="Markdown on where it fails, for the card")
    add("--licence", help="of the weights, such as apache-2.0, for the card")
    return options


def work(args: argparse.Namespace) -> None:
    """Write weights and card."""
    # Refused, if it is, before anything is written.
    scores = [] if args.results is None else [measured(args.results)]
    notes = args.notes and args.notes.read_text("utf-8").strip()
    manifest = args.manifest and manifest_rows(args.manifest, "split", "source", "licence")
    runs = {"gradient": args.gradient, "bridge": args.bridge}
    networks = [averaged_network(run, kind, args) for kind, run in runs.items() if run is not None]
    if args.guide is not None:
        if args.bridge is None:
            raise ValueError("expected --bridge beside --guide, got none")
        networks[-1] = with_guide(*networks[-1], args)
    for kind, run in runs.items():
        if run is None:
            load_weights(args.out, kind)
    for module, training in networks:
        save_weights(args.out, module, training, getattr(torch, args.dtype))
    facts = AsyncDSBPipeline.from_pretrained(args.out.resolve(), device="cpu").facts
    parts = [
        model_card(facts, args.licence),
        "All settings: `train/presets.py`; what was tried: `train/LOG.md`.\n",
    ]
    if manifest:
        parts.append(photographs(facts, manifest))
    parts += scores
    if notes or args.results:
        parts.append("## Where it fails\n")
    if notes:
        parts.append(notes + "\n")
    if args.results is not None and (args.results / "worst.png").exists():
        sheet = Image.open(args.results / "worst.png")
        write_atomic(args.out / WORST, lambda p: sheet.save(p, quality=80, method=6))
        parts.append(
            "For each kind of mask the held-out crop with the largest LPIPS, from the input on the "
            f"left to the truth on the right.\n![The worst held-out crop of each mask]({WORST})\n"
        )
    write_atomic(args.out / CARD, lambda p: Path(p).write_text("\n".join(parts), "utf-8"))
    print(f"wrote {args.out}")


main = program(parser, work)

if __name__ == "__main__":
    raise SystemExit(main())
