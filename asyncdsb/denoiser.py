"""The denoiser: network, conditions and parametrisation, from a bridge state to x0_hat.

Two parametrisations of one and the same estimate:

``score``  I2SB's and the paper's. The network sees x_t and returns (x_t - x0) / sigma_t (Eq. 4).

``wiener`` ours. A state of the bridge tells one thing about the unknown picture: with the fill f as
    a guess, e = x0 - f is seen through ``d = (1 - s) e + noise`` of known variance N, per pixel:

    - with x1 given, d = x_t - s x1 - (1 - s) f  and  N = M s (1 - s);
    - without it,    d = x_t - f                 and  N = M s (1 - s) + s^2 h^2,

    h being the standard deviation of the noise added to the fill in x1 (the M term is absent in the
    noise-free bridge). If e had variance v and its pixels were independent, the best estimate of e
    would be the Wiener filter c_skip d, with error variance c_out^2::

        D = (1 - s)^2 v + N,   c_skip = (1 - s) v / D,   c_out = sqrt(v N / D)

    v is set per pixel and per colour axis. The axes are :data:`OPPONENT`: photographs vary much in
    brightness and little in colour, whereas the noise is the same along all three, so that the
    filter alone already takes most coloured noise away. What the fill misses is of two kinds, whose
    sizes were measured on photographs. Detail, different from pixel to pixel, grows with the
    completed gradient, smoothed to G as in Eq. 11, and a little with the depth, the distance to the
    nearest known pixel; it is what v describes. Tone, nearly equal among neighbours, grows with the
    depth wherever it is::

        sqrt(v) = residual_std r,   r = 0.72 (G / 0.1)^residual_exponent depth^0.2
        q^2 = r^2 + (0.0375 depth)^2                   (all of it, in units of residual_std)

    The power of G is kept within [1/50, 5/4], the depth within [1, 40].

    The network sees d, scaled to unit size, maps of nu = sqrt(N / D), r and q, and the conditions,
    and returns two corrections of the Wiener estimate, one for each kind::

        x0_hat = f + c_skip d + residual_std nu (r o1 + q o2)

    residual_std nu r is c_out. The error counts in units of residual_std nu sqrt(q): thin holes and
    places near the border, about which the surroundings say most, would hardly count beside the
    middle of large ones. The zero output is the Wiener estimate, and as only d, nu, r and q enter,
    one network serves every M, schedule and tau map and the noise-free bridge.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, fields
from typing import Any

import torch
from torch import Tensor, nn

from asyncdsb import bridge
from asyncdsb.device import without_autocast
from asyncdsb.fill import FILLS, fill_hole, hole_depth
from asyncdsb.networks import ADMConfig, UNetConfig
from asyncdsb.schedule import NoiseSchedule, gaussian_blur
from asyncdsb.tiles import Tiles

CONDITIONS = {"mask": 1, "clock": 1, "gradient": 1, "fill": 3, "x1": 3, "telea": 3}
"""What the network may see beside the state, and how many channels it takes. "telea" is Telea's
fill, whatever the fill of x1: it continues edges, if only straight ahead."""

OPPONENT = ((1.0, 1.0, 1.0), (1.0, 0.0, -1.0), (1.0, -2.0, 1.0))
"""Colour axes of the Wiener parametrisation over (R, G, B), up to their length: brightness, red
against blue, green against both. They are orthogonal, which leaves white noise white."""

DETAIL_SIZE, DETAIL_GROWTH, TONE_SLOPE = 0.72, 0.2, 0.0375
"""Factor and power of the depth in r, and slope of the tone's size with the depth; fitted by eye to
the table in ``train/LOG.md``."""

MAX_DEPTH = 40
"""Pixels from the border beyond which the fill is taken to be equally wrong."""

PARAMETRISATIONS = ("score", "wiener")
BRIDGES = ("stochastic", "deterministic")


@dataclass(frozen=True)
class BridgeConfig:
    """Everything that fixes a trained bridge.

    Attributes:
        unet: shape of the network, ours or ADM's. ADM's is told the time alone: not the noise
            level of the Wiener form, nor which of two bridges it is.
        beta_min: see :class:`~asyncdsb.schedule.NoiseSchedule`.
        beta_max: likewise.
        fill: deterministic part of x1 in the hole, one of :data:`asyncdsb.fill.FILLS`.
        hole_noise: h, standard deviation of the noise added to the fill in x1. I2SB's start is
            ("zero", 1.0), that of the paper's text ("zero", 0.0).
        conditions: subset of :data:`CONDITIONS`. "x1" makes the implicit sampler exact; it is
            given to the network for the stochastic bridge only, as without bridge noise x1 and x_t
            together would give x0 away.
        parametrisation: "score" or "wiener".
        residual_std: typical standard deviation of x0 minus fill along each axis of
            :data:`OPPONENT`, where the smoothed gradient is 0.1 and the depth 5 pixels (wiener
            only).
        residual_exponent: how its detail grows with the smoothed gradient; 0 for the same
            everywhere (wiener only).
        bridges: which bridges it was trained on; "stochastic" serves the samplers posterior,
            implicit and multistep, "deterministic" the ODE.
        temperature: by default, what a run's noise is multiplied by; chosen after the training.
        patches: by default, how far a result gives way to patches of the known part, in [0, 1], see
            :mod:`asyncdsb.patches`; likewise.
        blur_sigma: width in pixels of the Gaussian filter of Eq. 11.
        resolution: side of the pictures it was trained for, in pixels.
    """

    unet: UNetConfig | ADMConfig = field(default_factory=UNetConfig)
    beta_min: float = 0.1
    beta_max: float = 0.433
    fill: str = "harmonic"
    hole_noise: float = 0.5
    conditions: tuple[str, ...] = ("mask", "gradient", "fill", "x1")
    parametrisation: str = "wiener"
    residual_std: tuple[float, float, float] = (0.4, 0.1, 0.05)
    residual_exponent: float = 1.1
    bridges: tuple[str, ...] = BRIDGES
    temperature: float = 1.0
    patches: float = 0.0
    blur_sigma: float = 3.0
    resolution: int = 256

    def __post_init__(self) -> None:
        _expect_subset("conditions", self.conditions, CONDITIONS)
        _expect_subset("bridges", self.bridges, BRIDGES)
        _expect_subset("parametrisation", (self.parametrisation,), PARAMETRISATIONS)
        _expect_subset("fill", (self.fill,), FILLS)
        if not self.bridges:
            raise ValueError("expected at least one bridge, got none")
        if isinstance(self.unet, ADMConfig) and (
            self.parametrisation != "score" or len(self.bridges) > 1
        ):
            raise ValueError(
                "expected the score form and one bridge for an ADM network, which is told the time "
                f"alone, got {self.parametrisation} and {len(self.bridges)}"
            )
        if not 0 <= self.temperature <= 1:
            raise ValueError(f"expected a temperature in [0, 1], got {self.temperature}")
        if not 0 <= self.patches <= 1:
            raise ValueError(f"expected patches in [0, 1], got {self.patches}")

    @property
    def schedule(self) -> NoiseSchedule:
        """The noise schedule it was trained with."""
        return NoiseSchedule(self.beta_min, self.beta_max)

    @property
    def samplers(self) -> tuple[str, ...]:
        """Samplers whose bridge the network was trained on."""
        names = ("posterior", "implicit", "multistep") if "stochastic" in self.bridges else ()
        return names + (("ode",) if "deterministic" in self.bridges else ())


@dataclass(frozen=True)
class Context:
    """What stays fixed during a run or a training step.

    Attributes:
        mask: (B, 1, H, W) float, 1 = missing.
        gradient: (B, 1, H, W) gradient map in [0, 1].
        fill: (B, 3, H, W) deterministic fill, known pixels as in the photo.
        x1: (B, 3, H, W) start of the bridge.
        stochastic: (B, 1, 1, 1) float, 1 = bridge with noise, 0 = without.
        relief: (B, 1, H, W) r of the module's docstring.
        tone: (B, 1, H, W) q of the module's docstring.
        telea: (B, 3, H, W) Telea's fill where the network sees it, else None.
    """

    mask: Tensor
    gradient: Tensor
    fill: Tensor
    x1: Tensor
    stochastic: Tensor
    relief: Tensor
    tone: Tensor
    telea: Tensor | None = None

    def cut(self, tiles: Tiles) -> Context:
        """The same on tiles of a canvas, for a batch of one."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        for name, value in values.items():
            if name == "stochastic":
                values[name] = value.expand(len(tiles), 1, 1, 1)
            elif value is not None:
                values[name] = tiles.cut(value)
        return Context(**values)


class BridgeDenoiser(nn.Module):
    """Network and parametrisation of one trained bridge.

    Args:
        config: see :class:`BridgeConfig`.
    """

    axes: Tensor
    prior_var: Tensor

    def __init__(self, config: BridgeConfig):
        super().__init__()
        self.config = config
        extra = list(config.conditions)
        if config.parametrisation == "wiener" and "x1" in extra:
            extra.remove("x1")  # enters through d, which says all that x1 can
        channels = 3 + sum(CONDITIONS[name] for name in extra)
        channels += 5 * (config.parametrisation == "wiener")
        self.extra = tuple(extra)
        axes = torch.tensor(OPPONENT, dtype=torch.float64)
        axes = (axes / axes.norm(dim=1, keepdim=True)).float()
        prior = torch.tensor(config.residual_std).square().view(1, 3, 1, 1)
        self.register_buffer("axes", axes, persistent=False)
        self.register_buffer("prior_var", prior, persistent=False)
        outputs = 6 if config.parametrisation == "wiener" else 3
        self.unet = config.unet.build(channels, outputs, scalars=2)

    def context(
        self, image: Tensor, mask: Tensor, gradient: Tensor, stochastic: Tensor, noise: Tensor
    ) -> Context:
        """Build x1 and all that conditions the network.

        Args:
            image: (B, 3, H, W) in [-1, 1]; what it holds in the hole does not matter.
            mask: (B, 1, H, W) float, 1 = missing.
            gradient: (B, 1, H, W) completed gradient map.
            stochastic: (B,) bool, whether the bridge carries noise.
            noise: (B, 3, H, W) standard normal, the noise of x1 in the hole.

        Returns:
            The context.
        """
        fill = fill_hole(image, mask, self.config.fill)
        x1 = fill + mask * self.config.hole_noise * noise
        smooth = gaussian_blur(gradient, self.config.blur_sigma)
        relief = (smooth / 0.1).clamp(min=1e-6) ** self.config.residual_exponent
        depth = hole_depth(mask, MAX_DEPTH).clamp(min=1)
        relief = DETAIL_SIZE * relief.clamp(1 / 50, 5 / 4) * depth**DETAIL_GROWTH
        return Context(
            mask,
            gradient,
            fill,
            x1,
            stochastic.to(image.dtype).view(-1, 1, 1, 1),
            relief,
            (relief**2 + (TONE_SLOPE * depth) ** 2).sqrt(),
            fill_hole(image, mask, "telea") if "telea" in self.extra else None,
        )

    def x0_hat(
        self, x_t: Tensor, t: Tensor, s: Tensor, context: Context, total_var: float
    ) -> Tensor:
        """Estimate the clean image.

        Args:
            x_t: (B, 3, H, W) state.
            t: (B, 1, 1, 1) time.
            s: (B, 1, H, W) clock.
            context: the run's :class:`Context`.
            total_var: M of the schedule in use.

        Returns:
            (B, 3, H, W) x0_hat, of use inside the hole.
        """
        if self.config.parametrisation == "score":
            output = self.unet(*self._score_inputs(x_t, t, s, context))
            return bridge.x0_from_target(x_t, output, s, total_var)
        d, noise_var, d_var = self._observation(x_t, s, context, total_var)
        output = self._corrections(d, noise_var, d_var, s, context)
        return self._estimate(d, noise_var, d_var, s, output, context)

    def loss(
        self, x0: Tensor, t: Tensor, s: Tensor, z: Tensor, context: Context, total_var: float
    ) -> tuple[Tensor, Tensor]:
        """Mean squared error of the network's output over the hole, per sample, and the estimate.

        In the Wiener form pixels are weighted by 1 / q, see the module's docstring.

        Args:
            x0: (B, 3, H, W) clean image in [-1, 1].
            t: (B, 1, 1, 1) time, > 0.
            s: (B, 1, H, W) clock at t.
            z: (B, 3, H, W) standard normal noise of the bridge.
            context: see :class:`Context`.
            total_var: M > 0.

        Returns:
            (B,) loss, normalised by the hole's area; its mean is the training loss. And x0_hat,
            (B, 3, H, W), of use inside the hole.
        """
        noise = z * context.stochastic
        weight = context.mask
        x_t = bridge.marginal(x0, context.x1, s, total_var, noise)
        if self.config.parametrisation == "score":
            output = self.unet(*self._score_inputs(x_t, t, s, context))
            wanted = bridge.target(x0, context.x1, s, total_var, noise)
            x0_hat = bridge.x0_from_target(x_t, output, s, total_var)
        else:
            d, noise_var, d_var = self._observation(x_t, s, context, total_var)
            output = self._corrections(d, noise_var, d_var, s, context)
            # (e - c_skip d) / (residual_std nu) with d = (1 - s) e + sqrt(N) n put in, which leaves
            # no 0 / 0.
            v = self.prior_var * context.relief**2
            e = _rotate(self.axes, x0 - context.fill)
            n = (d - (1 - s) * e) / noise_var.sqrt()
            wanted = noise_var.sqrt() * e - (1 - s) * v * n
            wanted = wanted / (self.prior_var * d_var).sqrt()
            x0_hat = self._estimate(d, noise_var, d_var, s, output, context)
            weight = weight / context.tone
        squared = (weight * (output - wanted) ** 2).sum((1, 2, 3))
        area = context.mask.sum((1, 2, 3)).clamp(min=1)
        return squared / (x0.shape[1] * area), x0_hat

    def bind(
        self, context: Context, total_var: float, tiles: Tiles | None = None
    ) -> Callable[..., Tensor]:
        """The denoiser of one run, as :func:`asyncdsb.samplers.sample` calls it.

        Estimates are clamped to [-1, 1], the range of pictures.

        Args:
            context: of the run.
            total_var: M of the schedule in use.
            tiles: evaluate the network on these and blend, see :mod:`asyncdsb.tiles`.
        """

        def denoise(x_t: Tensor, t: Tensor, s: Tensor) -> Tensor:
            return self.x0_hat(x_t, t, s, context, total_var).clamp(-1, 1)

        if tiles is None:
            return denoise

        def denoise_tiles(x_t: Tensor, t: Tensor, s: Tensor) -> Tensor:
            def on(some: Tiles) -> Tensor:
                return self.x0_hat(some.cut(x_t), t, some.cut(s), context.cut(some), total_var)

            return tiles.blend(on).clamp(-1, 1)

        return denoise_tiles

    def _observation(
        self, x_t: Tensor, s: Tensor, context: Context, total_var: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Observation d along the axes, N and D of the module's docstring; N is kept off zero."""
        start_var = (s * self.config.hole_noise) ** 2
        centre = context.fill
        if "x1" in self.config.conditions:
            # Removing s (x1 - fill) takes the start's noise out of the observation.
            centre = centre + context.stochastic * s * (context.x1 - context.fill)
            start_var = start_var * (1 - context.stochastic)
        noise_var = context.stochastic * total_var * s * (1 - s) + start_var
        noise_var = noise_var.clamp(min=1e-8)
        d_var = (1 - s) ** 2 * self.prior_var * context.relief**2 + noise_var
        return _rotate(self.axes, x_t - centre), noise_var, d_var

    def _corrections(
        self, d: Tensor, noise_var: Tensor, d_var: Tensor, s: Tensor, context: Context
    ) -> Tensor:
        """Combine both outputs: r o1 + o2 of the module's docstring."""
        detail, tone = self.unet(*self._wiener_inputs(d, noise_var, d_var, s, context)).chunk(2, 1)
        return context.relief * detail + context.tone * tone

    def _estimate(
        self,
        d: Tensor,
        noise_var: Tensor,
        d_var: Tensor,
        s: Tensor,
        output: Tensor,
        context: Context,
    ) -> Tensor:
        """x0_hat = f + c_skip d + residual_std nu output."""
        v = self.prior_var * context.relief**2
        e_hat = (1 - s) * v / d_var * d + (self.prior_var * noise_var / d_var).sqrt() * output
        return context.fill + _rotate(self.axes.T, e_hat)

    def _wiener_inputs(
        self, d: Tensor, noise_var: Tensor, d_var: Tensor, s: Tensor, context: Context
    ) -> tuple[Tensor, Tensor]:
        """Input channels and the two scalars: mean nu of brightness, share of the hole."""
        hole = context.mask
        nu = (noise_var / d_var).sqrt() * hole
        share = hole.mean((1, 2, 3))
        level = nu[:, 0].mean((1, 2)) / share.clamp(min=1e-6)
        # Of unit size also where the tone of the fill is wrong.
        tone_var = self.prior_var * (context.tone**2 - context.relief**2)
        size = (d_var + (1 - s) ** 2 * tone_var).sqrt()
        parts = [d / size * hole, nu, context.relief, context.tone * hole]
        parts += self._conditions(s, context)
        return torch.cat(parts, dim=1), torch.stack([level, share], dim=1)

    def _score_inputs(
        self, x_t: Tensor, t: Tensor, s: Tensor, context: Context
    ) -> tuple[Tensor, Tensor]:
        """Input channels and the two scalars: time, and which bridge."""
        scalars = torch.cat([t.expand(len(x_t), 1, 1, 1), context.stochastic], dim=1).flatten(1)
        return torch.cat([x_t, *self._conditions(s, context)], dim=1), scalars.to(x_t.dtype)

    def _conditions(self, s: Tensor, context: Context) -> list[Tensor]:
        available: dict[str, Any] = {
            "mask": context.mask,
            "clock": s.expand_as(context.mask),
            # Natural gradients are small; the square root spreads them over [0, 1].
            "gradient": context.gradient.sqrt(),
            "fill": context.fill,
            "x1": context.x1 * context.stochastic,
            # What it knows better than the fill, and nothing where both know.
            "telea": None if context.telea is None else context.telea - context.fill,
        }
        return [available[name] for name in self.extra]


def _rotate(axes: Tensor, x: Tensor) -> Tensor:
    """Coordinates of (B, 3, H, W) colours along the rows of ``axes`` (3, 3)."""
    with without_autocast(x):
        return torch.einsum("ij,bjhw->bihw", axes.to(x.dtype), x)


def _expect_subset(what: str, got: tuple[str, ...], allowed) -> None:
    unknown = [name for name in got if name not in allowed]
    if unknown:
        raise ValueError(f"expected {what} out of {', '.join(allowed)}, got {', '.join(unknown)}")
