"""One press of Restore: the run that is shown as it happens, and those that follow it."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from asyncdsb.measure.analysis import timeline
from asyncdsb.page import payload, session
from asyncdsb.page.engine import Engine, Maps, Moment, Step
from asyncdsb.page.updates import BUSY, IDLE, VIEWS, Props, Update, format_maps
from asyncdsb.photo.original import read_photograph
from asyncdsb.photo.settings import Settings
from asyncdsb.show import report, viz

TIMING_FRAMES = 40
"""Most frames of a run that are followed to tell when its pixels were restored."""

COMPARE_SIDE = 1280
"""Longest side in pixels of the pictures compared on the screen."""


class Press:
    """One press of Restore: the run that is shown live, and those that follow it."""

    def __init__(
        self,
        engine: Engine,
        photo: session.Photo,
        image: Image.Image,
        mask: np.ndarray,
        settings: Settings,
        folder: Path,
    ):
        self.engine, self.photo, self.image, self.mask = engine, photo, image, mask
        self.settings, self.folder = settings, folder
        self.frames: list[Moment] = []
        self.sent: list[dict[str, Any]] = []
        self.results: list[tuple[str, str]] = []

    def restore(self, more: bool) -> Iterator[Update]:
        """Run the bridge, one update per step, and then give the result and its story.

        Args:
            more: whether other runs follow.
        """
        started = time.monotonic()
        for state in self.engine.steps_of(self.photo.weights, self.image, self.mask, self.settings):
            self.frames.append(Moment.of(state))
            self.sent.append(payload.frame_payload(state.step, state.steps, self.frames[-1]))
            said = f"Step {state.step} of {state.steps}, t = {state.t:.2f} T"
            update: Update = {"frame": self.sent[-1]}
            if state.maps:
                maps = state.maps
                # Before the first step comes the gradient, which takes as long for any number.
                started = time.monotonic()
                update |= format_maps(maps, self.mask, self.engine.pace)
            elif state.step < state.steps:
                each = (time.monotonic() - started) / state.step
                said += f", {payload.duration(each * (state.steps - state.step))} left"
            yield update | {"status": payload.message(said, "busy")}
        # The first of the evaluations was made before the first state came.
        self.engine.pace.learn(time.monotonic() - started, state.steps - 1, maps.work)

        result = self._save(state)
        animation = viz.save_trajectory(self.frames, self.folder / f"{self._stem}-trajectory.webp")
        said = "The result is ready." if more else self.summary()
        yield (BUSY if more else IDLE) | {
            "compare": tuple(small(one) for one in (self.image, Image.fromarray(state.image))),
            "film": payload.film_payload(self.sent),
            "view": VIEWS[1],
            "run": session.Run.of(self.photo, self.mask, self.settings, state.settings),
            "result": Props(value=result, interactive=True),
            "animation": Props(value=str(animation), interactive=True),
            "files": Props(interactive=True),
            "reuse": Props(interactive=True),
            "status": payload.message(said, "done"),
        }
        # After the result, which nobody should wait for.
        path = self.folder / "timing.png"
        yield {"timing": timing(self.frames, maps, self.image, self.mask, self.settings, path)}

    def restore_beside(self) -> Iterator[Update]:
        """Run the same once more with one schedule for all pixels, and show both in the film."""
        synchronous = dataclasses.replace(
            self.settings, tau_min=0.5, tau_max=0.5, strategy="uniform"
        )
        other: list[dict[str, Any]] = []
        for state in self.engine.steps_of(self.photo.weights, self.image, self.mask, synchronous):
            moment = Moment.of(state)
            other.append(payload.frame_payload(state.step, state.steps, moment))
            said = f"The result is ready. I²SB beside it: step {state.step} of {state.steps}"
            yield {"status": payload.message(said, "busy")}
        yield {"film": payload.film_payload(self.sent, other), "view": VIEWS[2]}

    def restore_others(self, count: int) -> Iterator[Update]:
        """Run the same with the seeds that follow, and show all results beside one another."""
        yield {"seeds_view": self.results, "view": VIEWS[4]}
        for number in range(1, count):
            seed = (self.settings.seed + number) % (session.MAX_SEED + 1)
            settings = dataclasses.replace(self.settings, seed=seed)
            for state in self.engine.steps_of(self.photo.weights, self.image, self.mask, settings):
                said = f"Seed {number + 1} of {count}: step {state.step} of {state.steps}"
                yield {"status": payload.message(said, "busy")}
            self._save(state)
            yield {"seeds_view": self.results}

    def summary(self, beside: bool = False, seeds: int = 1) -> str:
        """Say what was done."""
        what = f"Done in {self.settings.steps} steps, seed {self.settings.seed}"
        what += f" and the {seeds - 1} after it" if seeds > 1 else ""
        what += ", both schedules" if beside else ""
        return f"{what}: {self.image.width} × {self.image.height}."

    @property
    def _stem(self) -> str:
        return self.photo.stem

    def _save(self, state: Step) -> str:
        """Write the result of a run, and keep it among those that are shown together."""
        seed = state.settings["seed"]
        more = f"-seed-{seed}" if self.results else ""
        path = self.folder / f"{self._stem}-restored{more}.png"
        # From its file, as what the session holds is 8-bit RGB.
        original = read_photograph(self.photo.path)
        original.restored(state.image, self.mask).save(path, state.settings)
        self.results.append((str(path), f"seed {seed}"))
        return str(path)


def timing(
    frames: Sequence[Moment],
    maps: Maps,
    image: Image.Image,
    mask: np.ndarray,
    settings: Settings,
    path: Path,
) -> str | None:
    """Draw when each pixel was restored; None where the hole is too small to tell."""
    # With the last estimate of the bridge, which tells where it led, and the frame after it.
    *before, last = frames
    shown = np.linspace(0, len(before) - 1, min(len(before), TIMING_FRAMES - 1)).round().astype(int)
    chosen = [*(before[i] for i in shown), last]
    truth = np.asarray(image.resize(chosen[0].x0_hat.size, Image.Resampling.LANCZOS))
    rest = maps.tau(settings), maps.gradient, mask, maps.schedule
    try:
        stories = [timeline(chosen, *rest, truth=one) for one in (None, truth)]
    except ValueError:
        return None
    return str(report.timeline_figure(*stories, path=path))


def small(picture: Image.Image) -> Image.Image:
    """Reduce a picture for the screen."""
    copy = picture.copy()
    copy.thumbnail((COMPARE_SIDE, COMPARE_SIDE), Image.Resampling.LANCZOS)
    return copy
