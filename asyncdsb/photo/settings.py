"""The settings of a run, with their defaults and their checks."""

from __future__ import annotations

import dataclasses
import math
from numbers import Integral, Real

import numpy as np

from asyncdsb.denoiser import BridgeConfig
from asyncdsb.names import FINISHES, GRIDS, SAMPLERS, SOLVER_ORDERS, STRATEGIES
from asyncdsb.schedule import check_tau_range

# None stands for the value in the weights' configuration.
FROM_WEIGHTS = ("guidance", "solver_order", "finish")

MAX_STEPS = 10_000
LAST = 2**63 - 1  # largest whole number of torch's generators


@dataclasses.dataclass(frozen=True)
class Settings:
    """The settings of a run, with the defaults.

    Attributes:
        tau_min: tau of the flattest hole pixel, in [0, 1].
        tau_max: tau of the steepest hole pixel, in [tau_min, 1]. (0.5, 0.5) is I2SB.
        steps: network evaluations, 1 to :data:`MAX_STEPS`.
        sampler: one of :data:`asyncdsb.names.SAMPLERS`.
        strategy: how tau is laid out, one of :data:`asyncdsb.names.STRATEGIES`, or an (H, W)
            array of tau in [0, 1].
        eta: share of fresh noise of the implicit sampler, in [0, 1].
        grid: time grid, one of :data:`asyncdsb.names.GRIDS`.
        guidance: weight w >= 0 of the guide, see :meth:`asyncdsb.denoiser.BridgeDenoiser.bind`; 0
            does without it. Weights without a guide accept only 0. None for the weights' choice.
        solver_order: of the steps, 1 (the paper's) or 2, see :func:`asyncdsb.samplers.sample`. None
            for the weights' choice.
        finish: "none" shows the bridge's result, "patches" replaces it by patches of the known part
            (:mod:`asyncdsb.photo.patches`). None for the weights' choice.
        seed: of all noise, 0 <= seed < 2**63.
        tiles: most fields of the networks, >= 1: overlapping ones over a large hole, separate ones
            over holes far apart. More keep more detail of a large photo and take as much longer.
            Weights for portraits ignore it.
        box: with weights for portraits, the square around the head in which they work: left edge,
            top edge and side in photo pixels, at least 32 wide. None for what
            :func:`asyncdsb.photo.heads.head_box` chooses. The hole beyond it is filled smoothly.
    """

    tau_min: float = 0.2
    tau_max: float = 0.5
    steps: int = 20
    sampler: str = "posterior"
    strategy: str | np.ndarray = "gradient"
    eta: float = 0.0
    grid: str = "log"
    guidance: float | None = None
    solver_order: int | None = None
    finish: str | None = None
    seed: int = 0
    tiles: int = 8
    box: tuple[int, int, int] | None = None

    def check(self, weights: BridgeConfig | None = None) -> None:
        """Raise ValueError on a bad value; with weights, on one that is not for them as well."""
        guidance = 0 if self.guidance is None else self.guidance
        numbers = {name: getattr(self, name) for name in ("tau_min", "tau_max", "eta")}
        for name, value in (numbers | {"guidance": guidance}).items():
            if not isinstance(value, Real) or isinstance(value, bool):
                raise ValueError(f"expected a number for {name}, got {value!r}")
        check_tau_range(self.tau_min, self.tau_max)
        if not 0 <= self.eta <= 1:
            raise ValueError(f"expected eta in [0, 1], got {self.eta}")
        if not 0 <= guidance < math.inf:
            raise ValueError(f"expected a finite guidance >= 0, got {guidance}")
        if guidance and weights is not None and weights.guide is None:
            raise ValueError(f"expected guidance 0 with weights without a guide, got {guidance}")
        for name, least, most in (("steps", 1, MAX_STEPS), ("tiles", 1, LAST), ("seed", 0, LAST)):
            value = getattr(self, name)
            if not _whole(value) or not least <= value <= most:
                wanted = f"a whole number for {name} from {least} to {most}"
                raise ValueError(f"expected {wanted}, got {value!r}")
        painted = not isinstance(self.strategy, str)
        samplers = SAMPLERS if weights is None else weights.samplers
        for what, value, known in (
            ("sampler that the weights were trained for,", self.sampler, samplers),
            ("strategy", STRATEGIES[0] if painted else self.strategy, STRATEGIES),
            ("finish", self.finish, (None, *FINISHES)),
            ("time grid", self.grid, GRIDS),
            ("solver order", self.solver_order, (None, *SOLVER_ORDERS)),
        ):
            if value not in known:
                names = ", ".join(str(name) for name in known if name is not None)
                raise ValueError(f"expected a {what} out of {names}, got {value!r}")
        box = (0, 0, 0) if self.box is None else self.box
        if not (isinstance(box, list | tuple) and len(box) == 3 and all(map(_whole, box))):
            raise ValueError(f"expected three whole numbers for box (left, top, side), got {box!r}")

    def resolved(self, config: BridgeConfig) -> Settings:
        """The same with the weights' values for :data:`FROM_WEIGHTS` where those are None."""
        open_ = [name for name in FROM_WEIGHTS if getattr(self, name) is None]
        return dataclasses.replace(self, **{name: getattr(config, name) for name in open_})

    def as_dict(self) -> dict:
        """JSON-serialisable form; a painted tau map becomes the word "painted"."""
        values = dict(vars(self))
        if not isinstance(self.strategy, str):
            values["strategy"] = "painted"
        if self.box is not None:
            values["box"] = [int(value) for value in self.box]
        return {k: v.item() if isinstance(v, np.generic) else v for k, v in values.items()}


def check_painted(strategy: str | np.ndarray, shape: tuple[int, ...]) -> None:
    """Raise ValueError unless a strategy has a name or is floats in [0, 1] of the photo's shape."""
    if isinstance(strategy, str):
        return
    tau = np.asarray(strategy)
    if tau.shape != shape:
        raise ValueError(f"expected a painted tau map of shape {shape}, got {tau.shape}")
    if not np.issubdtype(tau.dtype, np.floating) or not ((tau >= 0) & (tau <= 1)).all():
        got = f"{tau.dtype} from {tau.min()} to {tau.max()}"
        raise ValueError(f"expected a painted tau map of floats in [0, 1], got {got}")


def _whole(value: object) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool)
