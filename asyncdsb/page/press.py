"""One press of Restore: the run that is shown as it happens, and what is kept of it."""

import base64
import dataclasses
import io
import json
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from asyncdsb.page import payload, session
from asyncdsb.page.engine import Engine, Step
from asyncdsb.page.payload import Props, Update
from asyncdsb.photo.images import read_image
from asyncdsb.photo.original import read_photograph
from asyncdsb.photo.settings import Settings
from asyncdsb.show import film

VIEW = "view.json"  # What the page shows of a run, in its folder.


@dataclasses.dataclass
class Press:
    """One run with one seed, whose states go to the browser as they come."""

    engine: Engine
    photo: session.Photo
    image: Image.Image  # its pixels
    mask: np.ndarray  # bool (H, W), True = missing
    settings: Settings
    folder: Path  # of its files
    maps: bool  # whether the browser needs the maps of the hole, because it shows others or none
    kept: session.Kept | None = None  # the run once it is finished
    not_kept: Sequence[str] = ()  # parts of the photograph that its result does not hold, in words

    def restore(self, prefix: str) -> Iterator[Update]:
        """Run the bridge, one update per step, then keep and show the result.

        What the status says begins with the prefix.
        """
        self._sent: list[dict[str, Any]] = []
        for state in self._steps(self.settings, self.maps):
            told = {"range": range_of(self.settings), "photo": self.photo.stamp}
            self._sent.append(payload.frame_payload(state) | told)
            said = f"{prefix}Step {state.step} of {state.steps}"
            update: Update = {"frame": self._sent[-1]}
            if state.step == 0:
                # Before the first step comes the gradient, which takes as long for any number.
                started = time.monotonic()
                if state.maps:
                    pace = self.engine.pace
                    update |= payload.format_maps(state.maps, self.image, self.mask, pace)
            elif state.step < state.steps:
                each = (time.monotonic() - started) / state.step
                said += f", {payload.duration(each * (state.steps - state.step))} left"
            yield update | {"status": payload.message(said, "busy")}
        # The first of the evaluations was made before the first state came.
        self.engine.pace.learn(time.monotonic() - started, state.steps - 1, state.work)
        self._shares = state.shares
        self.kept = self._keep(state)
        yield self._view(payload.timing_payload(state.shares))

    def restore_beside(self) -> Iterator[Update]:
        """Run the same once more with one schedule for all pixels, and show both in the film."""
        other: list[dict[str, Any]] = []
        for state in self._steps(synchronous(self.settings)):
            other.append(payload.frame_payload(state))
            said = f"I²SB beside it: step {state.step} of {state.steps}"
            yield {"status": payload.message(said, "busy")}
        yield self._view(payload.timing_payload(self._shares, state.shares), other=other)

    def _steps(self, settings: Settings, maps: bool = False) -> Iterator[Step]:
        return self.engine.steps_of(self.photo.weights, self.image, self.mask, settings, maps)

    def _keep(self, state: Step) -> session.Kept:
        """Write the files of a finished run."""
        # From its file, because what the session holds is 8-bit RGB.
        original = read_photograph(self.photo.path)
        self.not_kept = original.not_kept(".png")
        own = self.settings.finish or "none"
        files = {}
        for finish, picture in {"none": state.bridge, own: state.image}.items():
            name = f"{self.photo.stem}-restored{'' if finish == own else '-bridge'}.png"
            files[finish] = str(self.folder / name)
            record = state.settings | {"finish": finish}
            original.restored(picture, self.mask).save(self.folder / name, record)
        hole = np.packbits(self.mask).tobytes()
        return session.Kept(
            self.photo, hole, self.settings, state.settings, str(self.folder), files, own
        )

    def _view(self, timing: Update | None, **other: list[dict[str, Any]]) -> Update:
        """What the page shows of the run, kept for when it is chosen again."""
        shown = payload.film_payload(frames=self._sent, **other)
        view = {"frame": shown | {"range": range_of(self.settings)}, "timing": timing}
        (self.folder / VIEW).write_text(json.dumps(view), encoding="utf-8")
        return view | show_kept(self.kept)


def range_of(settings: Settings) -> tuple[float, float, str]:
    """tau_min, tau_max and strategy of a run, as the browser keeps them of its controls."""
    strategy = settings.strategy if isinstance(settings.strategy, str) else session.PAINTED
    return settings.tau_min, settings.tau_max, strategy


def synchronous(settings: Settings) -> Settings:
    """The same run with one schedule for all pixels, as I²SB has it."""
    return dataclasses.replace(
        settings, tau_min=0.5, tau_max=0.5, strategy="uniform", finish="none"
    )


def make_film(kept: session.Kept, suffix: str) -> Path:
    """Make the film of a kept run from the frames that the page plays, in the run's folder.

    It shows both methods side by side when both ran, else the states beside the predictions.

    Args:
        kept: the run.
        suffix: ".webp" or ".mp4".

    Raises:
        ValueError: there is no encoder for MP4.
    """
    view = read_view(kept)["frame"]

    def panel(label: tuple[str, str], frames: list[dict[str, Any]], name: str) -> film.Panel:
        found = (base64.b64decode(frame[name].partition(",")[2]) for frame in frames)
        pictures = [Image.open(io.BytesIO(data)).convert("RGB") for data in found]
        return film.Panel(*label, pictures, [frame["t"] for frame in frames])

    panels = [panel(_label(kept.settings), view["frames"], "x_t")]
    if "other" in view:
        panels.append(panel(_label(synchronous(kept.settings)), view["other"], "x_t"))
    else:
        label = "Prediction", "result that the network expects"
        panels.append(panel(label, view["frames"], "x0_hat"))
    drawn = film.draw_film(panels, film.crop_around(kept.mask))
    return film.save_film(drawn, Path(kept.folder, f"{kept.photo.stem}-film{suffix}"))


def _label(settings: Settings) -> tuple[str, str]:
    """Title and caption of the states of a run, for its film."""
    low, high, strategy = range_of(settings)
    if strategy == "uniform" or low == high:
        middle = (low + high) / 2
        title = "Synchronous (I²SB)" if middle == 0.5 else "Synchronous"
        return title, f"bridge state, τ = {middle:g} for all pixels"
    return "Asynchronous", f"bridge state, τ from {low:g} to {high:g} ({strategy})"


def add_finish(engine: Engine, kept: session.Kept, finish: str) -> Iterator[session.Kept]:
    """Make the picture of a kept run with another finish: the same run, finished otherwise.

    Yields the run as it was after each step, and with the picture in the end.
    """
    photo, mask = kept.photo, kept.mask
    settings = dataclasses.replace(kept.settings, finish=finish)
    for last in engine.steps_of(photo.weights, read_image(photo.path), mask, settings):
        if last.step < last.steps:
            yield kept
    path = Path(kept.folder, f"{photo.stem}-restored-{finish}.png")
    read_photograph(photo.path).restored(last.image, mask).save(path, last.settings)
    yield dataclasses.replace(kept, files=kept.files | {finish: str(path)})


def _reduced(kept: session.Kept, side: int) -> Image.Image:
    """The result in its present finish, RGB, of at most so many pixels on its longer side."""
    with Image.open(kept.path) as picture:
        small = picture.convert("RGB")
    small.thumbnail((side, side), Image.Resampling.LANCZOS)
    return small


def show_kept(kept: session.Kept) -> Update:
    """Show the result of a run in its present finish, and offer its files."""
    shown = payload.data_uri(_reduced(kept, payload.RESULT_SIDE), quality=94)
    return {
        "compare": {"after": shown, "finish": kept.finish, "photo": kept.photo.stamp},
        "finish": kept.finish,
        "result": Props(value=kept.path, interactive=True),
        **dict.fromkeys(("animation", "movie", "files", "reuse"), Props(interactive=True)),
    }


def read_view(kept: session.Kept) -> Update:
    """The film and the chart of a run that was kept."""
    return json.loads(Path(kept.folder, VIEW).read_text(encoding="utf-8"))


def listed(results: list[session.Kept], chosen: int) -> Update:
    """The results, and what their strip shows: a small picture and a label of each."""
    entries = [
        {"picture": payload.data_uri(_reduced(kept, 160)), "label": f"seed {kept.settings.seed}"}
        for kept in results
    ]
    return {"results": results, "chosen": chosen, "strip": {"entries": entries, "chosen": chosen}}
