"""The model behind the page: loading it, its pace, and its answers as plain arrays."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from PIL import Image

from asyncdsb.photo.heads import Box
from asyncdsb.photo.settings import Settings
from asyncdsb.schedule import STRATEGIES, NoiseSchedule

WARM_UP = (4, 256)
"""Steps, and side in pixels, of the run that measures the machine's pace."""


@dataclasses.dataclass(frozen=True)
class Maps:
    """What the heatmaps show.

    Attributes:
        gradient: float32 (H, W) in [0, 1], the predicted gradient.
        orders: per strategy its tau map for the range [0, 1], float32 (H, W).
        schedule: noise schedule of the weights.
        work: pixels that the network is evaluated on in one step.
    """

    gradient: np.ndarray
    orders: dict[str, np.ndarray]
    schedule: NoiseSchedule
    work: int

    def tau(self, settings: Settings) -> np.ndarray:
        """Peak times of a run with these maps, (H, W)."""
        if not isinstance(settings.strategy, str):
            return settings.strategy
        span = settings.tau_max - settings.tau_min
        return settings.tau_min + span * self.orders[settings.strategy]


PARTS = ("flat", "middle", "steep")
"""Thirds of the hole's pixels by the predicted gradient."""

FOLLOWED = 4_000
"""Most pixels of a hole whose way is followed."""


@dataclasses.dataclass(frozen=True)
class Shares:
    """How much of each part of the hole is restored over a run.

    The measured share of the way from x1 to x0 at time t is <x1 - x_t, x1 - x0> / |x1 - x0|^2 over
    the part's pixels, x0 being the result. In a state of the bridge its expectation is the mean of
    1 - s(t; tau).

    Attributes:
        t: times, falling from 1 to 0.
        measured: for each of :data:`PARTS` the share at every time.
        scheduled: likewise the mean of 1 - s.
    """

    t: list[float]
    measured: dict[str, list[float]]
    scheduled: dict[str, list[float]]


class Follower:
    """Follows some pixels of the hole through a run, as floats and not as pictures."""

    def __init__(self) -> None:
        self._t: list[float] = []
        self._states: list[torch.Tensor] = []
        self._estimate: torch.Tensor | None = None

    def see(self, frame: Any) -> None:
        """Take over one frame of a pipeline's stream."""
        windows, masks = frame.prepared.windows, frame.prepared.masks
        if not self._t:
            self._holes = [mask[0, 0].cpu() > 0.5 for mask in masks]
            count = sum(int(hole.sum()) for hole in self._holes)
            self._stride = max(1, -(-count // FOLLOWED))
            both = (frame.gradient, frame.tau)
            maps = ([window.shrink(one) for window in windows] for one in both)
            self._gradient, self._tau = (self._chosen(one)[:, 0] for one in maps)
        self._t.append(frame.t)
        self._states.append(self._chosen(frame.states))
        if frame.step < frame.steps:
            self._estimate = self._chosen(frame.estimates)

    def shares(self, schedule: NoiseSchedule) -> Shares | None:
        """What the run did, once it is over."""
        if self._estimate is None or len(self._tau) < len(PARTS):
            return None
        x1, x0 = self._states[0], self._estimate
        # The last state may hold copied patches; the bridge ends where its estimate led it.
        states = [*self._states[:-1], x0]
        times = torch.tensor(self._t, dtype=torch.float64)
        order = self._gradient.argsort(stable=True)
        measured, scheduled = {}, {}
        for name, part in zip(PARTS, order.tensor_split(len(PARTS)), strict=True):
            way = (x1 - x0)[part]
            norm = (way**2).sum().clamp(min=1e-12)
            gone = [float(((x1 - x)[part] * way).sum() / norm) for x in states]
            clock = schedule.clock(times[:, None], self._tau[part].double()[None])
            measured[name] = [round(value, 4) for value in gone]
            scheduled[name] = [round(value, 4) for value in (1 - clock.mean(1)).tolist()]
        return Shares([round(t, 4) for t in self._t], measured, scheduled)

    def _chosen(self, values: Sequence[torch.Tensor]) -> torch.Tensor:
        """(N, C) of the followed pixels in (1, C, h, w) of every window."""
        pairs = zip(values, self._holes, strict=True)
        found = [one[0].float().cpu()[:, hole] for one, hole in pairs]
        return torch.cat(found, dim=1)[:, :: self._stride].T.clone()


@dataclasses.dataclass(frozen=True)
class Step:
    """One state of a run as plain arrays, so that it can cross a process border.

    Attributes:
        step: number of steps done, 0 ... steps.
        steps: number of steps of the run.
        t: time, 1 ... 0.
        x_t: uint8 (h, w, 3), the bridge state, reduced for the screen.
        x0_hat: uint8 (h, w, 3), the prediction made from it, reduced likewise.
        work: pixels that the network is evaluated on in one step.
        maps: with the first step only, and only if they were asked for.
        image: uint8 (H, W, 3), the finished picture; with the last step only.
        bridge: the same before known patches were copied into it; with the last step only.
        shares: how the run kept to its schedules; with the last step only, and None for a hole of
            fewer than three pixels.
        settings: all that gives this picture again, JSON-serialisable; with the last step only.
    """

    step: int
    steps: int
    t: float
    x_t: np.ndarray
    x0_hat: np.ndarray
    work: int
    maps: Maps | None = None
    image: np.ndarray | None = None
    bridge: np.ndarray | None = None
    shares: Shares | None = None
    settings: dict[str, Any] | None = None


@dataclasses.dataclass(frozen=True)
class Moment:
    """One frame of a run.

    Attributes:
        t: time, 1 ... 0.
        x_t: the bridge state, reduced for the screen.
        x0_hat: the prediction made from it.
    """

    t: float
    x_t: Image.Image
    x0_hat: Image.Image

    @classmethod
    def of(cls, step: Step) -> Moment:
        """The pictures of a step."""
        return cls(step.t, Image.fromarray(step.x_t), Image.fromarray(step.x0_hat))


class Pace:
    """How fast this machine is, learned from the runs."""

    def __init__(self) -> None:
        self._seconds: float | None = None

    def learn(self, seconds: float, steps: int, work: int) -> None:
        """Take over what a run of so many evaluations of so many pixels took."""
        if steps > 0 and work > 0:
            self._seconds = seconds / (steps * work)

    def of_step(self, work: int) -> float | None:
        """Seconds that an evaluation of so many pixels will take; None before any was measured."""
        return None if self._seconds is None else self._seconds * work


@dataclasses.dataclass(frozen=True)
class Engine:
    """What the handlers ask for.

    Attributes:
        predict: (weights, image, mask, tiles) to :class:`Maps`.
        steps_of: (weights, image, mask, settings, maps) to an iterator over :class:`Step`; the last
            one, False if it is left out, says whether the maps are wanted with the first step.
        pace: of the machine.
        ready: whether the model is loaded, so that nothing has to be waited for.
    """

    predict: Callable[[str, Image.Image, np.ndarray, int], Maps]
    steps_of: Callable[..., Iterator[Step]]
    pace: Pace
    ready: Callable[[], bool] = lambda: True


class Model:
    """Loads the pipelines in the background, each once, and hands them out.

    Attributes:
        names: of the weights; the first are loaded first and serve where none are named.
        pace: of the machine, with the first weights.
    """

    def __init__(
        self,
        load: Callable[[str], Any],
        names: Sequence[str],
        expected: tuple[str, Image.Image, np.ndarray] | None = None,
    ) -> None:
        """Start loading.

        Args:
            load: makes the pipeline of named weights; called in a thread of its own.
            names: of all weights that may be asked for.
            expected: weights, photograph and mask that are probably restored first; one step of
                that is run beforehand, so that it need not wait for what is done once.
        """
        self.names, self._expected = tuple(names), expected
        self.pace = Pace()
        executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="model")
        self._loading: dict[str, Future] = {name: executor.submit(load, name) for name in names}
        executor.submit(self._warm_up)
        executor.shutdown(wait=False)

    def _warm_up(self) -> None:
        """Run what is expected, then measure the pace on a grey picture.

        Where that fails, the first run does both.
        """
        with contextlib.suppress(Exception):
            if self._expected:
                name, image, mask = self._expected
                for _ in self.get(name).stream(image, mask, steps=1):
                    pass
        with contextlib.suppress(Exception):
            steps, side = WARM_UP
            mask = np.zeros((side, side), bool)
            mask[side // 4 : -side // 4, side // 4 : -side // 4] = True
            states = self.get().stream(np.full((side, side, 3), 128, np.uint8), mask, steps=steps)
            next(states)  # Comes with the first evaluation, which has memory to allocate.
            started = time.monotonic()
            for _ in states:
                pass
            self.pace.learn(time.monotonic() - started, steps - 1, side**2)

    def ready(self) -> bool:
        """Tell whether every pipeline is loaded, or has failed to load."""
        return all(loading.done() for loading in self._loading.values())

    def get(self, name: str | None = None) -> Any:
        """Wait for a pipeline.

        Args:
            name: of the weights; None for the first.

        Raises:
            ValueError: there are no such weights, or they could not be loaded; the message says
                why.
        """
        name = name or self.names[0]
        if name not in self._loading:
            raise ValueError(f"expected weights out of {', '.join(self.names)}, got {name!r}")
        try:
            return self._loading[name].result()
        except Exception as error:
            reason = " ".join(str(error).split()) or type(error).__name__
            raise ValueError(f"The model could not be loaded: {reason}") from error


def predict_maps(pipe: Any, image: Image.Image, mask: np.ndarray, tiles: int) -> Maps:
    """Predict the gradient and every strategy's order of restoration; no step of the bridge."""
    box = pipe.head_box(image, mask)
    return _maps(pipe, np.asarray(pipe.predict_gradient(image, mask, tiles, box)), mask, tiles, box)


def run_steps(
    pipe: Any, image: Image.Image, mask: np.ndarray, settings: Settings, maps: bool = False
) -> Iterator[Step]:
    """Run the bridge, yielding every state as it happens.

    Args:
        pipe: the pipeline.
        image: RGB photograph.
        mask: bool (H, W), True = missing.
        settings: of the run.
        maps: whether the first state comes with the maps.

    Yields:
        steps + 1 states, t from 1 to 0.
    """
    values = {f.name: getattr(settings, f.name) for f in dataclasses.fields(settings)}
    follower, before = Follower(), None
    for state in pipe.stream(image, mask, **values):
        last = state.step == state.steps
        follower.see(state)
        finished: dict[str, Any] = {}
        if last:
            # At t = 0 the bridge is where its last estimate led it.
            bridge = dataclasses.replace(state, estimates=before, patches=False)
            finished = {
                "image": state.rgb,
                "bridge": bridge.rgb,
                "shares": follower.shares(pipe.config.schedule),
                "settings": pipe.record(settings, state.prepared.box),
            }
        before = state.estimates
        yield Step(
            step=state.step,
            steps=state.steps,
            t=float(state.t),
            x_t=np.asarray(state.x_t),
            x0_hat=np.asarray(state.x0_hat),
            work=sum(window.evaluated for window in state.prepared.windows),
            maps=_maps(pipe, state.gradient, mask, settings.tiles, state.prepared.box)
            if maps and state.step == 0
            else None,
            **finished,
        )


def _maps(pipe: Any, gradient: np.ndarray, mask: np.ndarray, tiles: int, box: Box | None) -> Maps:
    orders = {
        name: np.asarray(pipe.tau_map(gradient, mask, 0.0, 1.0, name, tiles, box))
        for name in STRATEGIES
    }
    return Maps(gradient, orders, pipe.config.schedule, pipe.work(mask, tiles, box))
