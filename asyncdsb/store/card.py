"""The model card beside weights, for people and for the Hub."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from asyncdsb.denoiser import BridgeConfig
from asyncdsb.photo.images import write_atomic

CARD = "README.md"  # its name in a folder of weights

FRONT_MATTER = """---
library_name: asyncdsb
pipeline_tag: image-to-image
tags:
- image-inpainting
- image-restoration
- schrodinger-bridge
- diffusion
---
"""

USE = """## Use

```python
from asyncdsb import AsyncDSBPipeline

pipe = AsyncDSBPipeline.from_pretrained(".")  # this folder, or its name on the Hub: "user/repo"
# The mask has the photo's size; its white part is restored.
pipe("photo.jpg", "mask.png", seed=0).save("restored.png")
```
"""

INTENDED = {
    "hole": """## Intended use

Trying out the method, its sliders and its page, also on a computer without a GPU; restoring thin
damage and small objects in photographs like those of the training; a starting point for training.
Not for restoring evidence, and not where an invented texture could mislead somebody.
""",
    "head": """## Intended use

Trying out the method, its sliders and its page, also on a computer without a GPU; a starting point
for training. **A restored face is an invention, not the person.** Do not use it to identify people,
as evidence, or to show somebody as they never looked.
""",
}


@dataclass(frozen=True)
class Facts:
    """Facts about the networks for their card; mappings are by kind.

    Kinds are "gradient" and "bridge", which is without its guide; parameters has "guide" too if
    there is one, whose training is told under "guide" in that of the bridge.
    """

    parameters: Mapping[str, int]  # their numbers
    config: BridgeConfig
    training: Mapping[str, dict[str, Any]]  # what is known of it


def model_card(facts: Facts, licence: str | None = None) -> str:
    """A card in Markdown, with the front matter that the Hub reads.

    ``licence`` is the Hub's name of it ("apache-2.0"); None leaves it open, because it depends on
    what the weights were trained on and started from.
    """
    sizes, config = {kind: n / 1e6 for kind, n in facts.parameters.items()}, facts.config
    what = "upright heads in squares" if config.window == "head" else "holes in pictures"
    networks = (
        f"{'Three' if 'guide' in sizes else 'Two'} networks: `gradient.*` completes the gradient "
        f"map of the hole ({sizes['gradient']:.2f}M parameters), `bridge.*` is the denoiser of the "
        f"asynchronous bridge ({sizes['bridge']:.2f}M), for {what} of about "
        f"{config.resolution} x {config.resolution} pixels. Safetensors, each with a JSON "
        "description: configuration, schema version, checksum, facts of its training. Samplers it "
        f"was trained for: {', '.join(config.samplers)}. By default steps have order "
        f"{config.solver_order}, and the finish is `{config.finish}`.{_guidance(facts)}\n"
    )
    parts = ["# Model card\n", networks, USE, INTENDED[config.window]]
    if any(facts.training.values()):
        parts += ["## Training\n", _training(facts.training)]
    licensed = "---\n" if licence is None else f"---\nlicense: {licence}\n"
    return FRONT_MATTER.replace("---\n", licensed, 1) + "\n" + "\n".join(parts)


def read_card(folder: Path) -> str | None:
    """The card beside weights, or None."""
    path = folder / CARD
    return path.read_text("utf-8", errors="replace") if path.is_file() else None


def write_card(folder: Path, card: str) -> None:
    """Put a card beside weights, without local pictures in a new folder."""
    if read_card(folder) != card:
        paragraphs = card.split("\n\n")
        kept = [text for text in paragraphs if not re.search(r"!\[[^\]]*\]\((?!https?:)", text)]
        card = "\n\n".join(kept).rstrip("\n") + "\n"
    write_atomic(folder / CARD, lambda path: Path(path).write_text(card, "utf-8"))


def _guidance(facts: Facts) -> str:
    if (size := facts.parameters.get("guide")) is None:
        return ""
    low, high = facts.config.guidance_interval
    return (
        f" `bridge.*` also holds its guide, a smaller network ({size / 1e6:.2f}M). A run moves its "
        f"estimates away from the guide's (autoguidance), with weight {facts.config.guidance:g} "
        f"where sigma_eff is from {low:g} to {high:g}."
    )


def _training(training: Mapping[str, dict[str, Any]]) -> str:
    bridge = training.get("bridge", {})
    runs = {"gradient completion": training.get("gradient", {}), "bridge": bridge}
    if "guide" in bridge:
        runs["guide"] = bridge["guide"]
    rows = [f"| | {' | '.join(runs)} |", "| --- |" + " --- |" * len(runs)]
    names = {"crop_size": "side of the crops, pixels", "device": "hardware"}
    facts = "preset", "steps", "samples", "crop_size", "minutes", "device"
    for key in (*facts, "started_from", "mean_of_runs"):
        cells = [run.get(key, "-") for run in runs.values()]
        if set(cells) != {"-"}:
            told = [f"{cell:,}" if isinstance(cell, int) else str(cell) for cell in cells]
            rows.append(f"| {names.get(key, key.replace('_', ' '))} | {' | '.join(told)} |")
    return "\n".join(rows) + "\n"
