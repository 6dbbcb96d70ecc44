"""The model behind the page: loading it, its pace, and its answers."""

import contextlib
import dataclasses
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from PIL import Image

from asyncdsb.names import STRATEGIES
from asyncdsb.photo.heads import Box
from asyncdsb.photo.result import Frame
from asyncdsb.photo.settings import Settings
from asyncdsb.schedule import NoiseSchedule

WARM_UP = (4, 256)  # Steps, and side in pixels, of the run that measures the machine's pace.
PARTS = ("flat", "middle", "steep")  # Thirds of the hole's pixels by the predicted gradient.
FOLLOWED = 4_000  # Most pixels of a hole whose way is followed.


@dataclasses.dataclass(frozen=True)
class Maps:
    """What the heatmaps show."""

    gradient: np.ndarray  # float32 (H, W) in [0, 1], as predicted
    orders: dict[str, np.ndarray]  # per strategy its tau map for the range [0, 1], float32 (H, W)
    schedule: NoiseSchedule  # of the weights
    work: int  # pixels that the network is evaluated on in one step
    box: Box | None  # square around the head; None with weights that work around holes

    def tau(self, settings: Settings) -> np.ndarray:
        """Peak times of a run with these maps, (H, W)."""
        if not isinstance(settings.strategy, str):
            return settings.strategy
        span = settings.tau_max - settings.tau_min
        return settings.tau_min + span * self.orders[settings.strategy]


@dataclasses.dataclass(frozen=True)
class Shares:
    """How much of each part of the hole is restored over a run.

    The measured share of the way from x1 to x0 at time t is <x1 - x_t, x1 - x0> / |x1 - x0|^2 over
    the part's pixels, x0 being the result. Its expectation is the mean of 1 - s(t; tau).
    """

    t: list[float]  # falling from 1 to 0
    measured: dict[str, list[float]]  # for each of PARTS the share at every time
    scheduled: dict[str, list[float]]  # likewise the mean of 1 - s


class Follower:
    """Follows some pixels of the hole through a run, as floats and not as pictures."""

    def __init__(self) -> None:
        self._t: list[float] = []
        self._states: list[torch.Tensor] = []

    def see(self, frame: Frame) -> None:
        """Take over one frame of a pipeline's stream."""
        if not self._t:
            self._holes = [mask[0, 0].cpu() > 0.5 for mask in frame.prepared.masks]
            count = sum(int(hole.sum()) for hole in self._holes)
            self._stride = max(1, -(-count // FOLLOWED))
            self._gradient, self._tau = (
                self._chosen([window.shrink(one) for window in frame.prepared.windows])[:, 0]
                for one in (frame.gradient, frame.tau)
            )
        self._t.append(frame.t)
        self._states.append(self._chosen(frame.states))
        if frame.step < frame.steps:
            self._estimate = self._chosen(frame.estimates)

    def shares(self, schedule: NoiseSchedule) -> Shares | None:
        """What the run did, once it is over."""
        if len(self._tau) < len(PARTS):
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
        """Values (N, C) of the followed pixels, of (1, C, h, w) in every window."""
        pairs = zip(values, self._holes, strict=True)
        found = [one[0].float().cpu()[:, hole] for one, hole in pairs]
        return torch.cat(found, dim=1)[:, :: self._stride].T.clone()


@dataclasses.dataclass(frozen=True)
class Step:
    """One state of a run without its tensors, so that it can cross a process border."""

    step: int  # steps done
    steps: int  # of the run
    t: float  # time, falling from 1 to 0
    x_t: Image.Image  # the bridge state, RGB, reduced for the screen
    x0_hat: Image.Image  # the prediction made from it, likewise
    work: int  # pixels that the network is evaluated on in one step
    maps: Maps | None = None  # with the first state, if they were asked for

    # With the last state alone:
    image: np.ndarray | None = None  # uint8 (H, W, 3), the finished picture
    bridge: np.ndarray | None = None  # the same before known patches were copied into it
    shares: Shares | None = None  # None for a hole of fewer than three pixels
    settings: dict[str, Any] | None = None  # give this picture again, JSON-serialisable


@dataclasses.dataclass
class Pace:
    """How fast this machine is, learned from the runs."""

    _seconds: float | None = None

    def learn(self, seconds: float, steps: int, work: int) -> None:
        """Take over what a run of so many evaluations of so many pixels took."""
        if steps > 0:
            self._seconds = seconds / (steps * work)

    def of_step(self, work: int) -> float | None:
        """Seconds that an evaluation of so many pixels will take; None before any was measured."""
        return None if self._seconds is None else self._seconds * work


@dataclasses.dataclass(frozen=True)
class Engine:
    """What the handlers ask for."""

    predict: Callable[..., Maps]  # as predict_maps, with the name of the weights for the pipeline
    steps_of: Callable[..., Iterator[Step]]  # likewise as run_steps
    pace: Pace
    ready: Callable[[], bool] = lambda: True  # whether nothing has to be waited for


class Model:
    """Loads the pipelines in the background, each once, and hands them out.

    Args:
        load: makes the pipeline of named weights; called in a thread of its own.
        names: of all weights; the first are loaded first and serve where none are named.
        expected: weights, photograph and mask that are probably restored first; one step of that is
            run beforehand, so that it need not wait for what is done once.

    Attributes:
        pace: of the machine, with the first weights.
    """

    def __init__(
        self,
        load: Callable[[str], Any],
        names: Sequence[str],
        expected: tuple[str, Image.Image, np.ndarray] | None = None,
    ) -> None:
        self.names, self._expected = tuple(names), expected
        self.pace = Pace()
        executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="model")
        self._loading: dict[str, Future] = {name: executor.submit(load, name) for name in names}
        executor.submit(self._warm_up)
        executor.shutdown(wait=False)

    def _warm_up(self) -> None:
        """Run what is expected, then measure the pace on a grey picture."""
        # Where that fails, the first run does both.
        with contextlib.suppress(Exception):
            if self._expected:
                name, image, mask = self._expected
                list(self.get(name).stream(image, mask, steps=1))
            steps, side = WARM_UP
            mask = np.zeros((side, side), bool)
            mask[side // 4 : -side // 4, side // 4 : -side // 4] = True
            states = self.get().stream(np.full((side, side, 3), 128, np.uint8), mask, steps=steps)
            next(states)  # Comes with the first evaluation, which has memory to allocate.
            started = time.monotonic()
            list(states)
            self.pace.learn(time.monotonic() - started, steps - 1, side**2)

    def ready(self) -> bool:
        """Tell whether every pipeline is loaded, or has failed to load."""
        return all(loading.done() for loading in self._loading.values())

    def get(self, name: str | None = None) -> Any:
        """Wait for the pipeline of named weights, None for the first.

        Raises:
            ValueError: there are no such weights, or the reason why they could not be loaded.
        """
        name = name or self.names[0]
        if name not in self._loading:
            raise ValueError(f"expected weights out of {', '.join(self.names)}, got {name!r}")
        try:
            return self._loading[name].result()
        except Exception as error:
            reason = " ".join(str(error).split()) or type(error).__name__
            raise ValueError(f"The model could not be loaded: {reason}") from error


def predict_maps(
    pipe: Any, image: Image.Image, mask: np.ndarray, tiles: int, box: Box | None = None
) -> Maps:
    """Predict the gradient and every strategy's order of restoration; no step of the bridge.

    ``box`` is what a visitor drew. Weights that work around holes do without it.
    """
    box = _usable(pipe, box) or pipe.head_box(image, mask)
    return _maps(pipe, pipe.predict_gradient(image, mask, tiles, box), mask, tiles, box)


def run_steps(
    pipe: Any, image: Image.Image, mask: np.ndarray, settings: Settings, maps: bool = False
) -> Iterator[Step]:
    """Run the bridge, yielding every state as it happens.

    Args:
        pipe: the pipeline.
        image: RGB photograph.
        mask: bool (H, W), True = missing.
        settings: of the run, with the box that a visitor drew, as above. Weights without a guide do
            without guidance.
        maps: whether the first state comes with the maps.

    Yields:
        steps + 1 states, t from 1 to 0.
    """
    guidance = None if pipe.config.guide is None else settings.guidance
    box = _usable(pipe, settings.box)
    settings = dataclasses.replace(settings, box=box, guidance=guidance)
    follower, before = Follower(), None
    for state in pipe.stream(image, mask, **vars(settings)):
        follower.see(state)
        finished: dict[str, Any] = {}
        if state.step == state.steps:
            # At t = 0 the bridge is where its last estimate led it.
            finished = {
                "image": state.rgb,
                "bridge": dataclasses.replace(state, estimates=before, patches=False).rgb,
                "shares": follower.shares(pipe.config.schedule),
                "settings": pipe.record(settings, state.prepared.box),
            }
        before = state.estimates
        yield Step(
            step=state.step,
            steps=state.steps,
            t=float(state.t),
            x_t=state.x_t,
            x0_hat=state.x0_hat,
            work=sum(window.evaluated for window in state.prepared.windows),
            maps=_maps(pipe, state.gradient, mask, settings.tiles, state.prepared.box)
            if maps and state.step == 0
            else None,
            **finished,
        )


def _usable(pipe: Any, box: Box | None) -> Box | None:
    """The box, with weights that take one."""
    return box if pipe.config.window == "head" else None


def _maps(pipe: Any, gradient: np.ndarray, mask: np.ndarray, tiles: int, box: Box | None) -> Maps:
    orders = {name: pipe.tau_map(gradient, mask, 0.0, 1.0, name, tiles, box) for name in STRATEGIES}
    return Maps(gradient, orders, pipe.config.schedule, pipe.work(mask, tiles, box), box)
