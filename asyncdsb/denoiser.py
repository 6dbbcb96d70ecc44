"""The denoiser: from a state of the bridge to x0_hat, in one of two parametrisations.

``score``  the paper's and I2SB's. The network F sees x_t and is told the time (Eq. 4)::

        x0_hat = x_t - sigma_t F,   sigma_t = sqrt(M s)

``edm``  preconditioned as in EDM (Karras et al. 2022, Table 1), with every pixel's own level. With
    the fill f of the hole, a state of the bridge is a noisy view of the unknown e = x0 - f::

        d = x_t - f = (1 - s) e + noise of variance N

        N = M s (1 - s) + s^2 h^2                    (M is absent in the bridge without noise)

    h is the standard deviation of the noise added to the fill in x1. With sigma_d, the standard
    deviation of e, from the configuration::

        D = (1 - s)^2 sigma_d^2 + N
        c_in = 1 / sqrt(D)    c_skip = (1 - s) sigma_d^2 / D    c_out = sigma_d sqrt(N / D)

        x0_hat = f + c_skip d + c_out F(c_in d, level, ...)
        loss = mean over the hole of w (x0_hat - x0)^2 / c_out^2

    Only sigma_eff = sqrt(N) / (1 - s) matters to the network: d / (1 - s) is e with noise of that
    standard deviation. It is told log sigma_eff of every pixel. One network therefore serves every
    M, schedule and tau map, and the bridge without noise.

    The colours of photographs differ far less than their brightness. sigma_d may therefore be one
    number for each of :data:`asyncdsb.noise.COLOUR_AXES`; d, e and F are then along these axes,
    where white noise stays white. The weight w of an axis in the loss is its sigma_d over the mean
    of the three; with one number, w is 1.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor, nn

from asyncdsb import bridge
from asyncdsb.names import FINISHES, SOLVER_ORDERS
from asyncdsb.networks import ADMConfig, UNetConfig
from asyncdsb.networks.device import per_channel
from asyncdsb.networks.layers import pixel_position
from asyncdsb.noise import along_axes, coarse_part, mirrored
from asyncdsb.photo.fill import FILLS, fill_hole
from asyncdsb.photo.tiles import Tiles
from asyncdsb.schedule import NoiseSchedule

CONDITIONS = {
    "mask": 1, "clock": 1, "gradient": 1, "fill": 3, "membrane": 3, "x1": 3, "skip": 3,
    "position": 2, "estimate": 3,
}  # fmt: skip
"""What the network may see beside the state, and how many channels it takes.

"membrane" is the harmonic fill, whatever the bridge starts from: it carries the colours of the
border across a thin hole. "skip" is the part of the estimate that does not pass the network:
f + c_skip d has the photograph's scale at every level and fades into the fill where noise rules.
"position" is where in the picture a pixel lies, for pictures that show the same in the same place.
"estimate" is the network's own of the step before, at the first step the fill (self-conditioning,
Chen et al. 2023): the steps of a run refine one estimate instead of beginning anew.
"""

PARAMETRISATIONS = ("score", "edm")
WINDOWS = ("hole", "head")
BRIDGES = ("stochastic", "deterministic")

# Least and largest sigma_eff that the network is told apart. Noise of 0.005 is less than what 8
# bits resolve; 200 is more than the standard deviation of any mode of a hole of 256 pixels.
LEVELS = (0.005, 200.0)


@dataclass(frozen=True)
class BridgeConfig:
    """Everything that fixes a trained bridge.

    Attributes:
        unet: shape of the network, ours or ADM's. ADM's is told one scalar, the time: it needs the
            score form.
        beta_min, beta_max: see :class:`~asyncdsb.schedule.NoiseSchedule`.
        fill: deterministic part of x1 in the hole, one of :data:`asyncdsb.photo.fill.FILLS`.
        hole_noise: h, standard deviation of the noise added to the fill in x1. I2SB's start is
            ("zero", 1.0), that of the paper's text ("zero", 0.0).
        temperature: factor on that noise in a run, one number or one along each of
            :data:`asyncdsb.noise.COLOUR_AXES`. Below 1 a run invents less, nearer to the fill.
        temperature_end: frequency, in cycles per picture, from which on ``fine_temperature`` takes
            the place of ``temperature``; None scales all frequencies by ``temperature``.
        fine_temperature: factor on the noise from ``temperature_end`` on. A network whose estimates
            are too smooth removes too much noise. A factor a little above 1 keeps the fine detail
            of a result, as S_noise does in Karras et al. 2022.
        mirrored: frequency, in cycles per picture, from which on a run mirrors that noise, see
            :func:`asyncdsb.noise.mirrored`: both eyes of a portrait then start alike. None mirrors
            nothing.
        guide: shape of a second, worse network, with which a run guides its estimates; None for
            none. It sees all that the first one sees except "estimate".
        guidance_interval: least and largest sigma_eff of the pixels that are guided. It is counted
            with the training's noise h, whatever the temperature.
        conditions: subset of :data:`CONDITIONS`.
        parametrisation: "score" or "edm".
        sigma_data: standard deviation of x0 - fill in the hole (edm only): of every channel, or one
            along each of those axes.
        bridges: "stochastic" serves the posterior sampler, and the implicit one if the network
            sees x1; "deterministic" serves the ODE.
        guidance, solver_order, finish: of a run by default, see
            :class:`asyncdsb.photo.settings.Settings`.
        blur_sigma: width in pixels of the Gaussian filter of Eq. 11.
        resolution: side of the pictures it was trained for, in pixels.
        window: "hole" if it restores the neighbourhood of a hole, "head" if it was trained on
            portraits and restores the square around a head, whatever part of it is missing.
    """

    unet: UNetConfig | ADMConfig = field(default_factory=UNetConfig)
    beta_min: float = 0.1
    beta_max: float = 0.433
    fill: str = "zero"
    hole_noise: float = 1.0
    temperature: float | tuple[float, ...] = 1.0
    temperature_end: float | None = None
    fine_temperature: float = 1.0
    mirrored: float | None = None
    guide: UNetConfig | None = None
    guidance: float = 0.0
    guidance_interval: tuple[float, float] = (1.0, 20.0)
    conditions: tuple[str, ...] = ("mask",)
    parametrisation: str = "edm"
    sigma_data: float | tuple[float, ...] = 0.5
    bridges: tuple[str, ...] = BRIDGES
    solver_order: int = 2
    finish: str = "none"
    blur_sigma: float = 3.0
    resolution: int = 256
    window: str = "hole"

    def __post_init__(self) -> None:
        for what, got, allowed in (
            ("conditions", self.conditions, CONDITIONS),
            ("bridges", self.bridges, BRIDGES),
            ("parametrisation", (self.parametrisation,), PARAMETRISATIONS),
            ("fill", (self.fill,), FILLS),
            ("window", (self.window,), WINDOWS),
            ("finish", (self.finish,), FINISHES),
            ("solver_order", (self.solver_order,), SOLVER_ORDERS),
        ):
            if unknown := ", ".join(str(name) for name in got if name not in allowed):
                known = ", ".join(map(str, allowed))
                raise ValueError(f"expected {what} out of {known}, got {unknown}")
        if not self.bridges or not 0 <= self.hole_noise < math.inf:
            given = f"{self.bridges} and {self.hole_noise}"
            raise ValueError(f"expected a bridge and a finite hole_noise >= 0, got {given}")
        if len(self.temperatures) not in (1, 3) or not all(0 <= t <= 1 for t in self.temperatures):
            raise ValueError(f"expected 1 or 3 temperatures in [0, 1], got {self.temperature}")
        if not 0 <= (fine := self.fine_temperature) < math.inf:
            raise ValueError(f"expected a finite fine_temperature >= 0, got {fine}")
        for name in ("mirrored", "temperature_end"):
            frequency = getattr(self, name)
            if frequency is not None and not 0 <= frequency < math.inf:
                raise ValueError(f"expected a finite frequency {name} >= 0, got {frequency}")
        if not isinstance(self.guide, UNetConfig | None):
            raise ValueError(f"expected a guide of kind unet, got {self.guide}")
        if not (0 <= self.guidance < math.inf and (self.guide or not self.guidance)):
            wanted = "a finite guidance >= 0, and a guide if it is not 0"
            raise ValueError(f"expected {wanted}, got {self.guidance} and {self.guide}")
        if len(ends := self.guidance_interval) != 2 or not 0 < ends[0] <= ends[1]:
            raise ValueError(f"expected two rising levels > 0 for guidance_interval, got {ends}")
        if len(self.sigmas) not in (1, 3) or not all(0 < one < math.inf for one in self.sigmas):
            raise ValueError(f"expected one or three finite sigma_data > 0, got {self.sigma_data}")
        if not isinstance(self.resolution, int) or self.resolution < 1:
            raise ValueError(f"expected a whole resolution >= 1, got {self.resolution!r}")
        if not 0 <= self.blur_sigma < math.inf:
            raise ValueError(f"expected a finite blur_sigma >= 0, got {self.blur_sigma}")
        score = self.parametrisation == "score"
        if isinstance(self.unet, ADMConfig) and not (score and len(self.bridges) == 1):
            raise ValueError(
                "expected the score form and one bridge for an ADM network, which is told the time "
                f"alone, got {self.parametrisation} and {len(self.bridges)}"
            )

    @property
    def sigmas(self) -> tuple[float, ...]:
        """``sigma_data`` as a tuple of one or three."""
        return self.sigma_data if isinstance(self.sigma_data, tuple) else (self.sigma_data,)

    @property
    def temperatures(self) -> tuple[float, ...]:
        """``temperature`` as a tuple of one or three."""
        return self.temperature if isinstance(self.temperature, tuple) else (self.temperature,)

    @property
    def schedule(self) -> NoiseSchedule:
        """The noise schedule it was trained with."""
        return NoiseSchedule(self.beta_min, self.beta_max)

    @property
    def samplers(self) -> tuple[str, ...]:
        """Samplers that are exact for what the network was trained on."""
        names: tuple[str, ...] = ()
        if "stochastic" in self.bridges:
            names += ("posterior", "implicit") if "x1" in self.conditions else ("posterior",)
        return names + (("ode",) if "deterministic" in self.bridges else ())


@dataclass(frozen=True)
class Context:
    """What stays fixed during a run or a training step."""

    mask: Tensor  # (B, 1, H, W) float, 1 = missing
    gradient: Tensor  # (B, 1, H, W) gradient map in [0, 1]
    fill: Tensor  # (B, 3, H, W) deterministic fill, known pixels as in the photo
    membrane: Tensor  # (B, 3, H, W) harmonic fill if the network sees it, else the fill
    x1: Tensor  # (B, 3, H, W) start of the bridge
    stochastic: Tensor  # (B, 1, 1, 1) float, 1 = bridge with noise, 0 = without

    def cut(self, tiles: Tiles) -> Context:
        """The same on tiles of a canvas, for a batch of one."""
        maps = self.mask, self.gradient, self.fill, self.membrane, self.x1
        mask, gradient, fill, membrane, x1 = map(tiles.cut, maps)
        stochastic = self.stochastic.expand(len(tiles), 1, 1, 1)
        return Context(mask, gradient, fill, membrane, x1, stochastic)


@dataclass(frozen=True)
class View:
    """A state as the network F sees it, and the estimate that an output of F stands for."""

    seen: list[Tensor]  # the state, (B, C, H, W) in parts
    scalars: Tensor  # (B, 2)
    skip: Tensor  # (B, 3, H, W) part of the estimate that does not pass the network
    x0_hat: Callable[[Tensor], Tensor]  # from F to the estimate, both (B, 3, H, W)


class Score:
    """``x0_hat = x_t - sqrt(M s) F`` (Eq. 4), F being told the time and which bridge it is."""

    channels: ClassVar[dict[str, int]] = {"x_t": 3}
    """What the network sees of the state, and how many channels it takes."""

    def __init__(self, config: BridgeConfig):
        self.total_var, self.weights = config.schedule.total_var, (1.0,)

    def view(self, x_t: Tensor, t: Tensor, s: Tensor, context: Context) -> View:
        """Show the network x_t, the time, and whether the bridge carries noise."""
        scalars = torch.cat([t.expand(len(x_t), 1, 1, 1), context.stochastic], dim=1).flatten(1)

        def x0_hat(output: Tensor) -> Tensor:
            return bridge.x0_from_target(x_t, output, s, self.total_var)

        return View([x_t], scalars.to(x_t.dtype), x_t, x0_hat)

    def target(self, x0: Tensor, x_t: Tensor, s: Tensor, z: Tensor, context: Context) -> Tensor:
        """The output F that stands for x0 itself."""
        return bridge.target(x0, context.x1, s, self.total_var, z)


class Edm:
    """``x0_hat = f + c_skip d + c_out F(c_in d)``, see the module's docstring."""

    channels: ClassVar[dict[str, int]] = {"d": 3, "level": 1}
    """What the network sees of the state, and how many channels it takes."""

    def __init__(self, config: BridgeConfig):
        self.total_var, self.hole_noise = config.schedule.total_var, config.hole_noise
        self.sigmas, mean = config.sigmas, sum(config.sigmas) / len(config.sigmas)
        self.weights = tuple(sigma / mean for sigma in self.sigmas)

    def _variances(self, s: Tensor, context: Context) -> tuple[Tensor, Tensor, Tensor]:
        """N (B, 1, H, W), off zero; D (B, A, H, W) and sigma_d (1, A, 1, 1), A = 1 or 3 axes."""
        total_var = self.total_var * context.stochastic
        n = bridge.noise_var(s, total_var, self.hole_noise).clamp(min=1e-8)
        sigma = per_channel(self.sigmas, s.device, s.dtype)
        return n, (1 - s) ** 2 * sigma**2 + n, sigma

    def _along_axes(self, rgb: Tensor, back: bool = False) -> Tensor:
        """RGB (B, 3, H, W) along the axes of sigma_data: itself, or COLOUR_AXES times it."""
        return rgb if len(self.sigmas) == 1 else along_axes(rgb, back)

    def view(self, x_t: Tensor, t: Tensor, s: Tensor, context: Context) -> View:
        """Show the network c_in d in the hole, the photograph around it, and log sigma_eff.

        The scalars are the mean of log sigma_eff and the share of the hole. Levels are scaled so
        that :data:`LEVELS` are 0 and 1; a known pixel has 0. The skip is f + c_skip d, and::

            x0_hat = f + c_skip d + c_out F,   c_out = sigma_d sqrt(N) c_in
        """
        hole = context.mask
        n, d_var, sigma = self._variances(s, context)
        d, c_in, rest = self._along_axes(x_t - context.fill), d_var.rsqrt(), 1 - s
        state = torch.where(hole > 0.5, c_in * d, self._along_axes(context.fill))
        std = n.sqrt()
        low, high = (math.log(level) for level in LEVELS)
        level = (std / rest.clamp(min=1e-6)).log()
        level = ((level - low) / (high - low)).clamp(0, 1) * hole
        area = hole.mean((1, 2, 3))
        mean = level.mean((1, 2, 3)) / area.clamp(min=1e-6)
        skip = context.fill + self._along_axes(rest * sigma**2 / d_var * d, back=True)

        def x0_hat(output: Tensor) -> Tensor:
            return skip + self._along_axes(sigma * std * c_in * output, back=True)

        return View([state, level], torch.stack([mean, area], dim=1), skip, x0_hat)

    def target(self, x0: Tensor, x_t: Tensor, s: Tensor, z: Tensor, context: Context) -> Tensor:
        """The output F that stands for x0 itself, (B, 3, H, W).

        (e - c_skip d) / c_out with d = (1 - s) e + sqrt(N) n put in, which leaves no 0 / 0::

            F = (sqrt(N) e - (1 - s) sigma_d^2 n) / (sigma_d sqrt(D))
        """
        n, d_var, sigma = self._variances(s, context)
        e, d = self._along_axes(x0 - context.fill), self._along_axes(x_t - context.fill)
        unit = (d - (1 - s) * e) / n.sqrt()
        return (n.sqrt() * e - (1 - s) * sigma**2 * unit) / (sigma * d_var.sqrt())


class BridgeDenoiser(nn.Module):
    """Network, perhaps its guide, and parametrisation of one trained bridge.

    In its methods, pictures are (B, 3, H, W): the state x_t, the clean x0 in [-1, 1], and standard
    normal noise z; t is the time, (B, 1, 1, 1); s the clock there and mask and gradient in [0, 1],
    (B, 1, H, W).
    """

    def __init__(self, config: BridgeConfig):
        super().__init__()
        self.config = config
        self.form = Score(config) if config.parametrisation == "score" else Edm(config)
        self.unet = config.unet.build(len(self.channels), 3, scalars=2)
        self.guide = (
            None if config.guide is None else config.guide.build(sum(self._for_guide), 3, 2)
        )

    @property
    def channels(self) -> list[str]:
        """Names of the network's input channels, in their order."""
        sizes = self.form.channels | {name: CONDITIONS[name] for name in self.config.conditions}
        return [f"{name}/{index}" for name, size in sizes.items() for index in range(size)]

    @property
    def _for_guide(self) -> list[bool]:
        """Which of the input channels the guide sees too."""
        return [not name.startswith("estimate/") for name in self.channels]

    def context(
        self, image: Tensor, mask: Tensor, gradient: Tensor, stochastic: Tensor, noise: Tensor
    ) -> Context:
        """Build x1 and all that conditions the network.

        What ``image`` holds in the hole does not matter. ``stochastic`` (B,) bool says whether the
        bridge carries noise; ``noise`` is that of x1 in the hole, standard normal.
        """
        membrane = fill = fill_hole(image, mask, self.config.fill)
        if "membrane" in self.config.conditions:
            membrane = fill_hole(image, mask, "harmonic")
        x1 = fill + mask * self.config.hole_noise * noise
        return Context(mask, gradient, fill, membrane, x1, stochastic.to(x1).view(-1, 1, 1, 1))

    def start_noise(self, noise: Tensor) -> Tensor:
        """Mirror and scale standard normal noise (B, 3, H, W) for x1 as the configuration says.

        With n mirrored, temperatures T and T_f and the coarse part C of a picture:
        T_f n + C(T n - T_f n).
        """
        if self.config.mirrored is not None:
            noise = mirrored(noise, self.config.mirrored)
        factors = per_channel(self.config.temperatures, noise.device, noise.dtype)
        if factors.numel() == 1:
            scaled = factors * noise
        else:
            scaled = along_axes(factors * along_axes(noise), back=True)
        end = self.config.temperature_end
        if end is None:
            return scaled
        fine = self.config.fine_temperature * noise
        return fine + coarse_part(scaled - fine, end)

    def x0_hat(
        self, x_t: Tensor, t: Tensor, s: Tensor, context: Context, previous: Tensor | None = None
    ) -> Tensor:
        """Estimate the clean image, (B, 3, H, W), of use inside the hole.

        ``previous`` is the estimate of the step before, (B, 3, H, W), None at the first step. A
        network without the condition "estimate" does not see it.
        """
        view, seen = self._seen(x_t, t, s, context, previous)
        return view.x0_hat(self.unet(seen, view.scalars))

    def loss(
        self,
        x0: Tensor,
        t: Tensor,
        s: Tensor,
        z: Tensor,
        context: Context,
        self_conditioned: bool = False,
    ) -> Tensor:
        """Weighted mean squared error (B,) of the network's output over the hole; t, M > 0.

        If ``self_conditioned``, a network with the condition "estimate" sees the estimate that it
        makes of the same state without one; that estimate has no gradient.
        """
        z = z * context.stochastic
        x_t = bridge.marginal(x0, context.x1, s, self.form.total_var, z)
        previous = None
        if self_conditioned and "estimate" in self.config.conditions:
            with torch.no_grad():
                previous = self.x0_hat(x_t, t, s, context).clamp(-1, 1)
        view, seen = self._seen(x_t, t, s, context, previous)
        output = self.unet(seen, view.scalars)
        wanted = self.form.target(x0, x_t, s, z, context)
        weights = per_channel(self.form.weights, x0.device, x0.dtype)
        squared = (context.mask * weights * (output - wanted) ** 2).sum((1, 2, 3))
        area = context.mask.sum((1, 2, 3)).clamp(min=1)
        return squared / (x0.shape[1] * area)

    def bind(
        self, context: Context, tiles: Tiles | None = None, guidance: float | None = None
    ) -> Callable[..., Tensor]:
        """The denoiser of one run, as :func:`asyncdsb.samplers.sample` calls it.

        Estimates are clamped to [-1, 1], the range of pictures. With a guide, the estimate of a
        pixel whose sigma_eff is in ``guidance_interval`` moves away from that of the worse network
        (autoguidance, Karras et al. 2024, in an interval of levels, Kynkäänniemi et al. 2024)::

            x0_hat + w (x0_hat - the guide's x0_hat)

        of clamped estimates; w is ``guidance``, or the configuration's if that is None. What both
        networks get wrong, the worse one gets more wrong: for a face, parts that do not fit
        together. If there are ``tiles``, both networks are evaluated on them, and the estimates are
        blended. Each call keeps the network's own estimate for the next one, so that another run
        needs another denoiser.
        """
        previous = context.fill
        weight = self.config.guidance if guidance is None else guidance

        def denoise(x_t: Tensor, t: Tensor, s: Tensor) -> Tensor:
            nonlocal previous

            def on(some: Tiles) -> Tensor:
                maps = some.cut(s), context.cut(some), some.cut(previous)
                return self._estimates(some.cut(x_t), t, *maps, weight)

            if tiles is None:
                found = self._estimates(x_t, t, s, context, previous, weight)
            else:
                found = tiles.blend(on)
            previous = found[:, :3].clamp(-1, 1)
            return found[:, -3:].clamp(-1, 1)

        return denoise

    def _estimates(
        self, x_t: Tensor, t: Tensor, s: Tensor, context: Context, previous: Tensor, weight: float
    ) -> Tensor:
        """The network's own estimate (B, 3, H, W); with a guide (B, 6, H, W), then the guided one.

        The level is sigma_eff = sqrt(N) / (1 - s), infinite at t = 1, where nothing is guided.
        """
        view, seen = self._seen(x_t, t, s, context, previous)
        own = view.x0_hat(self.unet(seen, view.scalars))
        if self.guide is None:
            return own
        total_var = self.config.schedule.total_var * context.stochastic
        std, rest = bridge.noise_var(s, total_var, self.config.hole_noise).sqrt(), 1 - s
        low, high = self.config.guidance_interval
        within = (std >= low * rest) & (std <= high * rest) & (rest > 0) & (context.mask > 0.5)
        guided = own
        if weight and within.any():
            worse = view.x0_hat(self.guide(seen[:, self._for_guide], view.scalars)).clamp(-1, 1)
            clamped = own.clamp(-1, 1)
            guided = torch.where(within, clamped + weight * (clamped - worse), own)
        return torch.cat([own, guided], dim=1)

    def _seen(
        self, x_t: Tensor, t: Tensor, s: Tensor, context: Context, previous: Tensor | None
    ) -> tuple[View, Tensor]:
        """What the form makes of a state, and the network's input (B, C, H, W)."""
        s = s.expand_as(context.mask)
        view = self.form.view(x_t, t, s, context)
        estimate = context.fill if previous is None else previous
        conditions: dict[str, Callable[[], Tensor]] = {
            "mask": lambda: context.mask,
            "clock": lambda: s,
            # Natural gradients are small; the square root spreads them over [0, 1].
            "gradient": lambda: context.gradient.sqrt(),
            "fill": lambda: context.fill,
            "membrane": lambda: context.membrane,
            # Without bridge noise x1 and x_t together would give x0 away.
            "x1": lambda: context.x1 * context.stochastic,
            "skip": lambda: view.skip,
            "position": lambda: pixel_position(context.mask),
            "estimate": lambda: torch.where(context.mask > 0.5, estimate, context.fill),
        }
        shown = [conditions[name]() for name in self.config.conditions]
        return view, torch.cat(view.seen + shown, dim=1)
