"""One press of Restore: the run that is shown as it happens, and what is kept of it."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from asyncdsb.page import payload, session
from asyncdsb.page.engine import Engine, Moment, Step
from asyncdsb.page.updates import Props, Update, format_maps
from asyncdsb.photo.original import read_photograph
from asyncdsb.photo.settings import Settings
from asyncdsb.show import film


class Press:
    """One run with one seed, whose states go to the browser as they come.

    Args:
        engine: runs the bridge.
        photo: of the session.
        image: its pixels.
        mask: bool (H, W), True = missing.
        settings: of the run.
        folder: of its files.
        maps: whether the browser needs the maps of the hole, because it shows others or none.

    Attributes:
        kept: the finished run; None before.
        not_kept: parts of the photograph that its result does not hold, in words.
    """

    def __init__(
        self,
        engine: Engine,
        photo: session.Photo,
        image: Image.Image,
        mask: np.ndarray,
        settings: Settings,
        folder: Path,
        maps: bool = True,
    ):
        self.engine, self.photo, self.image, self.mask = engine, photo, image, mask
        self.settings, self.folder, self.maps = settings, folder, maps
        self.kept: session.Kept | None = None
        self.not_kept: list[str] = []
        self._sent: list[dict[str, Any]] = []
        self._last: Step | None = None

    def restore(self, prefix: str = "") -> Iterator[Update]:
        """Run the bridge, one update per step, then keep and show the result.

        Args:
            prefix: of what the status says.
        """
        for state in self._steps(self.settings, self.maps):
            self._sent.append(payload.frame_payload(state.step, state.steps, Moment.of(state)))
            said = f"{prefix}Step {state.step} of {state.steps}"
            update: Update = {"frame": self._sent[-1]}
            if state.step == 0:
                # Before the first step comes the gradient, which takes as long for any number.
                started = time.monotonic()
                if state.maps:
                    update |= format_maps(state.maps, self.image, self.mask, self.engine.pace)
            elif state.step < state.steps:
                each = (time.monotonic() - started) / state.step
                said += f", {payload.duration(each * (state.steps - state.step))} left"
            yield update | {"status": payload.message(said, "busy")}
        # The first of the evaluations was made before the first state came.
        self.engine.pace.learn(time.monotonic() - started, state.steps - 1, state.work)
        self._last = state
        self.kept = self._keep(state)
        yield self._view(payload.film_payload(self._sent), payload.timing_payload(state.shares))

    def restore_beside(self) -> Iterator[Update]:
        """Run the same once more with one schedule for all pixels, and show both in the film."""
        other: list[dict[str, Any]] = []
        for state in self._steps(synchronous(self.settings)):
            other.append(payload.frame_payload(state.step, state.steps, Moment.of(state)))
            said = f"I²SB beside it: step {state.step} of {state.steps}"
            yield {"status": payload.message(said, "busy")}
        timing = payload.timing_payload(self._last.shares, state.shares)
        yield self._view(payload.film_payload(self._sent, other), timing)

    def _steps(self, settings: Settings, maps: bool = False) -> Iterator[Step]:
        return self.engine.steps_of(self.photo.weights, self.image, self.mask, settings, maps)

    def _keep(self, state: Step) -> session.Kept:
        """Write the files of a finished run."""
        stem = self.photo.stem
        # From its file, because what the session holds is 8-bit RGB.
        original = read_photograph(self.photo.path)
        self.not_kept = original.not_kept(".png")
        own = self.settings.finish or "none"
        files = {}
        for finish, picture in {"none": state.bridge, own: state.image}.items():
            path = self.folder / f"{stem}-restored{'' if finish == own else '-bridge'}.png"
            record = state.settings | {"finish": finish}
            original.restored(picture, self.mask).save(path, record)
            files[finish] = str(path)
        return session.Kept(
            session.Run.of(self.photo, self.mask, self.settings, state.settings),
            str(self.folder),
            files,
            own,
        )

    def _view(self, film: dict[str, Any], timing: dict[str, Any] | None) -> Update:
        """What the page shows of the run, kept for when it is chosen again."""
        view = {"frame": film, "timing": timing}
        Path(self.folder, VIEW).write_text(json.dumps(view), encoding="utf-8")
        return view | show_kept(self.kept)


VIEW = "view.json"


def synchronous(settings: Settings) -> Settings:
    """The same run with one schedule for all pixels, as I²SB has it."""
    return dataclasses.replace(
        settings, tau_min=0.5, tau_max=0.5, strategy="uniform", finish="none"
    )


def make_film(kept: session.Kept, suffix: str) -> Path:
    """Make the film of a kept run from the frames that the page plays.

    It shows both methods side by side when both ran, else the states beside the predictions.

    Args:
        kept: the run.
        suffix: ".webp" or ".mp4".

    Returns:
        Path of the film, in the folder of the run.

    Raises:
        ValueError: there is no encoder for MP4.
    """
    view = json.loads(Path(kept.folder, VIEW).read_text(encoding="utf-8"))["frame"]
    settings = kept.run.settings

    def panel(label: tuple[str, str], frames: list[dict[str, Any]], name: str) -> film.Panel:
        pictures = [payload.picture(frame[name]) for frame in frames]
        return film.Panel(*label, pictures, [frame["t"] for frame in frames])

    panels = [panel(_label(settings), view["frames"], "x_t")]
    if "other" in view:
        panels.append(panel(_label(synchronous(settings)), view["other"], "x_t"))
    else:
        label = "Prediction", "result that the network expects"
        panels.append(panel(label, view["frames"], "x0_hat"))
    drawn = film.draw_film(panels, film.crop_around(kept.run.mask))
    return film.save_film(drawn, Path(kept.folder, f"{kept.run.photo.stem}-film{suffix}"))


def _label(settings: Settings) -> tuple[str, str]:
    """Title and caption of the states of a run, for its film."""
    low, high, strategy = settings.tau_min, settings.tau_max, settings.strategy
    if not isinstance(strategy, str):
        strategy = session.PAINTED
    if strategy == "uniform" or low == high:
        middle = (low + high) / 2
        title = "Synchronous (I²SB)" if middle == 0.5 else "Synchronous"
        return title, f"bridge state, τ = {middle:g} for all pixels"
    return "Asynchronous", f"bridge state, τ from {low:g} to {high:g} ({strategy})"


def add_finish(engine: Engine, kept: session.Kept, image: Image.Image, finish: str) -> session.Kept:
    """Make the picture of a kept run with another finish: the same run, finished otherwise."""
    settings = dataclasses.replace(kept.run.settings, finish=finish)
    *_, last = engine.steps_of(kept.run.photo.weights, image, kept.run.mask, settings)
    path = Path(kept.folder, f"{kept.run.photo.stem}-restored-{finish}.png")
    original = read_photograph(kept.run.photo.path)
    original.restored(last.image, kept.run.mask).save(path, last.settings)
    return dataclasses.replace(kept, files=kept.files | {finish: str(path)}, finish=finish)


def show_kept(kept: session.Kept) -> Update:
    """Show the result of a run in its present finish, and offer its files."""
    with Image.open(kept.path) as picture:
        shown = picture.convert("RGB")
    shown.thumbnail((payload.RESULT_SIDE,) * 2, Image.Resampling.LANCZOS)
    return {
        "compare": {"after": payload.data_uri(shown, quality=94), "finish": kept.finish},
        "result": Props(value=kept.path, interactive=True),
        **dict.fromkeys(("animation", "movie", "files", "reuse"), Props(interactive=True)),
    }


def show_again(kept: session.Kept) -> Update:
    """Show a run that was kept with its film and its chart."""
    view = json.loads(Path(kept.folder, VIEW).read_text(encoding="utf-8"))
    return view | show_kept(kept)


def strip(results: Sequence[session.Kept], chosen: int) -> dict[str, Any]:
    """What the strip of results shows: a small picture and a label of each."""
    entries = []
    for kept in results:
        with Image.open(kept.path) as picture:
            small = picture.convert("RGB")
        small.thumbnail((160, 160), Image.Resampling.LANCZOS)
        settings = kept.run.settings
        label = f"seed {settings.seed}"
        entries.append({"picture": payload.data_uri(small), "label": label})
    return {"entries": entries, "chosen": chosen}
