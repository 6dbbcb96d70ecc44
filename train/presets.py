"""Named training presets; ``train/README.md`` says what each is for, and :mod:`train.claims`."""

from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

from asyncdsb.denoiser import BridgeConfig
from asyncdsb.gradient import GradientConfig
from asyncdsb.networks import ADMConfig, CompletionConfig, UNetConfig
from train.loop.losses import CompletionLossWeights


@dataclass(frozen=True)
class Preset:
    """What both trainers share."""

    size: int = 256  # side of the training crops in pixels
    short_sides: tuple[int, ...] = (256, 320, 400, 512)  # at which each photo is kept
    # Sides of the squares on which masks are drawn, at least that of the crop; from a larger one a
    # random window is cut, which keeps the width of strokes.
    mask_canvases: tuple[int, ...] = (256,)
    mask_weights: tuple[float, ...] = (1, 1, 1, 1, 1)  # of asyncdsb.names.MASK_KINDS
    masks: int = 20_000  # how many are drawn in advance
    augment: float = 0.0  # strength, 0 to 1, see train.data.batches.augmented
    batch: int = 32  # samples per step
    # Every so many steps, crops have twice the side and the batch is a quarter, which costs the
    # same and shows what lies further away; 0 for never.
    large_every: int = 0
    steps: int = 20_000  # length of the training
    lr: float = 2e-4  # peak learning rate
    # Learning rate of Muon (train.loop.muon) as a multiple of lr; 0 leaves all weights to Adam.
    muon: float = 0.0
    warmup: int = 500  # steps of linear warm-up; the rate then falls along a cosine
    lr_end: float = 0.02  # to this share of lr
    ema: float = 0.999  # decay of the weight average, itself warmed up
    clip: float = 1.0  # largest gradient norm
    precision: str = "auto"  # "fp32", "bf16" (autocast), or "auto": bf16 where that is faster
    compile: bool = True  # whether the network runs through torch.compile, where that works
    checkpoint_every: int = 1_000  # steps
    samples_every: int = 1_000  # steps between pictures
    validate_every: int = 1_000  # steps between looks at the held-out photos

    def __post_init__(self) -> None:
        if self.batch < 1:
            raise ValueError(f"expected a batch of at least one sample, got {self.batch}")
        if self.steps < 1:
            raise ValueError(f"expected at least one step, got {self.steps}")

    def shape(self, step: int) -> tuple[int, int]:
        """(samples, side in pixels) of the batch of a step."""
        if self.large_every and step % self.large_every == self.large_every - 1:
            return self.batch // 4, 2 * self.size
        return self.batch, self.size

    def samples(self, steps: int) -> int:
        """How many samples the first so many steps have."""
        large = steps // self.large_every if self.large_every else 0
        return (steps - large) * self.batch + large * (self.batch // 4)


AnyPreset = TypeVar("AnyPreset", bound=Preset)


@dataclass(frozen=True)
class GradientPreset(Preset):
    """Preset of the gradient-completion trainer."""

    model: GradientConfig = field(default_factory=GradientConfig)
    discriminator_width: int = 64  # channels of the discriminator's first layer
    loss: CompletionLossWeights = field(default_factory=CompletionLossWeights)
    discriminator_lr: float = 0.1  # learning rate of the discriminator as a multiple of lr


@dataclass(frozen=True)
class BridgePreset(Preset):
    """Preset of the bridge trainer."""

    model: BridgeConfig = field(default_factory=BridgeConfig)
    weight_decay: float = 0.01  # of both optimisers
    synchronous: float = 0.15  # share of samples with tau = 0.5 everywhere (I2SB)
    # Share of samples whose tau map is a smooth random field, as inward and painted maps are.
    smooth_tau: float = 0.2
    # Whether every pixel draws its tau by itself, even in [0, 1], and nothing above matters.
    free_tau: bool = False
    tau_range: tuple[float, float] | None = None  # of the other samples; None draws one for each
    # (least, largest) sigma_eff of the training times, which are even in its logarithm; None for
    # times that are even in t.
    levels: tuple[float, float] | None = (0.015, 100.0)
    focus: float = 0.0  # share of times whose sigma_eff is log-normal around model.sigma_data
    from_start: float = 0.05  # share at t = 1 exactly, where every run takes its first step
    draws: int = 1  # samples that share a photo and its mask, at different times and noises
    checkpointing: bool = False  # whether features are computed twice and not kept (ADM only)

    def __post_init__(self) -> None:
        super().__post_init__()
        parts = self.draws * (4 if self.large_every else 1)
        if self.batch % parts:
            raise ValueError(f"expected a batch that is a multiple of {parts}, got {self.batch}")
        kind = self.model.unet.kind
        if self.checkpointing and kind != "adm":
            raise ValueError(f"expected an ADM network for checkpointing, got {kind}")


_SMALL = UNetConfig(56, (1, 2, 3, 3), 1, (False, False, False, True), head_channels=28)
# Seven times the parameters of _SMALL; wide rather than deep, because features take the memory.
_WIDE = UNetConfig(128, (1, 2, 3, 4), 1, (False, False, False, True), head_channels=64)
_CPU = UNetConfig(32, (1, 2, 4, 5), 1, (False, False, False, True))
# Cheap on a processor: the finest level thin.
_LEAN = UNetConfig(16, (2, 3, 6, 10), (1, 2, 1, 1), (False, False, True, True))
# Cheaper still: nothing but the stem on the finest level's way down.
_LEANER = UNetConfig(16, (1, 2, 4, 8), (0, 1, 1, 1), (False, False, True, True))
_SMALLEST = UNetConfig(16, (1, 2, 4), (0, 1, 1), (False, False, True))
_TINY = UNetConfig(16, (1, 2), 1, (False, True), head_channels=16)

_ON_CPU: dict[str, Any] = dict(
    size=128,
    mask_canvases=(128, 256, 256),
    # Short trainings learn most from holes whose surroundings say much about them.
    mask_weights=(1.5, 1.5, 3, 3, 2),
    masks=6_000,
    batch=16,
    checkpoint_every=250,
    samples_every=500,
    validate_every=1_250,
)
_MUON: dict[str, Any] = dict(focus=0.6, lr=8e-4, muon=15.0, warmup=100)
# Heads of one pose and scale: the shorter sides enlarge and shift them a little.
_PORTRAITS: dict[str, Any] = dict(
    size=128,
    short_sides=(128, 130, 134, 140),
    mask_canvases=(128,),
    mask_weights=(2, 3, 2, 2, 1),
    masks=6_000,
    augment=0.25,
    checkpoint_every=250,
    samples_every=1_000,
    validate_every=10_000,
)
# Many small networks that differ in one thing each: :mod:`train.claims`.
_CLAIMS: dict[str, Any] = dict(
    size=32,
    short_sides=(32, 33, 35, 38),
    mask_canvases=(32,),
    mask_weights=(2, 3, 2, 2, 1),
    masks=6_000,
    batch=32,
    steps=2_000,
    muon=15.0,
    warmup=100,
    ema=0.998,
    checkpoint_every=1_000,
    samples_every=3_000,
    validate_every=10_000,
)
# I2SB's peak is 4.3 times the least beta; this one's is 30 times, at the same M. A pixel then
# spends its time near its own tau, and the order of the pixels shows.
_CONTRAST = BridgeConfig(
    unet=UNetConfig(32, (1, 2, 3), (0, 1, 1), (False, False, True)),
    beta_min=0.0203,
    beta_max=0.609,
    conditions=("mask", "membrane", "skip", "position"),
    bridges=("stochastic",),
    blur_sigma=1.0,
    resolution=32,
    window="head",
)


_DEBUG: dict[str, Any] = dict(
    size=32,
    short_sides=(64, 96),
    mask_canvases=(64,),
    masks=8,
    batch=4,
    large_every=2,
    steps=4,
    warmup=2,
    precision="fp32",
    compile=False,
    checkpoint_every=2,
    samples_every=2,
    validate_every=2,
)

GRADIENT_PRESETS = {
    "shipped": GradientPreset(steps=6_000, warmup=100),
    "paper": GradientPreset(
        short_sides=(256,), mask_weights=(1, 1, 1, 1, 0), steps=100_000, lr=1e-4
    ),
    "cpu": GradientPreset(
        **_ON_CPU | {"batch": 8},
        model=GradientConfig(CompletionConfig(width=16, blocks=6)),
        discriminator_width=16,
        steps=3_500,
        lr=5e-4,
        warmup=50,
        ema=0.99,
    ),
    # A discriminator as fast as the generator: at a tenth of the rate it never learned anything.
    "portraits": GradientPreset(
        **_PORTRAITS | {"augment": 0.0},
        model=GradientConfig(_LEANER, position=True),
        discriminator_width=24,
        loss=CompletionLossWeights(adversarial=0.2, feature_matching=5.0, l1=20.0),
        discriminator_lr=1.0,
        batch=16,
        steps=12_000,
        lr=5e-4,
        muon=40.0,
        warmup=100,
        ema=0.998,
    ),
    "claims": GradientPreset(
        **_CLAIMS | {"steps": 3_000},
        model=GradientConfig(_SMALLEST, position=True),
        discriminator_width=16,
        loss=CompletionLossWeights(adversarial=0.5, feature_matching=5.0, l1=20.0),
        discriminator_lr=1.0,
        lr=5e-4,
    ),
    "debug": GradientPreset(
        **_DEBUG, model=GradientConfig(CompletionConfig(width=4, blocks=1)), discriminator_width=4
    ),
}

_ANY = BridgePreset(**_CLAIMS, model=_CONTRAST, levels=(0.01, 40.0), focus=0.6, lr=8e-4)
_BY_GRADIENT: dict[str, Any] = dict(synchronous=0.0, smooth_tau=0.0, tau_range=(0.2, 0.5))
# From the weights of "claims-any", for one order.
_TUNED: dict[str, Any] = dict(steps=500, lr=4e-4, warmup=50)

BRIDGE_PRESETS = {
    "shipped": BridgePreset(model=BridgeConfig(unet=_SMALL), batch=64, lr=3e-4),
    "workstation": BridgePreset(
        model=BridgeConfig(unet=_WIDE),
        steps=300_000,
        warmup=1_000,
        ema=0.9995,
        checkpoint_every=5_000,
        samples_every=5_000,
        validate_every=10_000,
    ),
    "cpu": BridgePreset(
        **_ON_CPU,
        model=BridgeConfig(unet=_CPU),
        steps=2_600,
        lr=5e-4,
        warmup=100,
        ema=0.998,
        from_start=0.25,
        draws=2,
        large_every=4,
    ),
    # As many steps as the time allows (--steps); a later run goes on from the weights (--init).
    "portraits": BridgePreset(
        **_PORTRAITS | _MUON,
        model=BridgeConfig(
            unet=_LEAN,
            conditions=("mask", "membrane", "skip", "position", "estimate"),
            temperature=0.3,
            temperature_end=14.0,
            mirrored=4.0,
            resolution=128,
            window="head",
        ),
        levels=(0.01, 60.0),
        batch=16,
    ),
    # The guide of "portraits": a smaller network, trained for fewer steps.
    "portraits-guide": BridgePreset(
        **_PORTRAITS | _MUON,
        model=BridgeConfig(
            unet=_LEANER,
            conditions=("mask", "membrane", "skip", "position"),
            resolution=128,
            window="head",
        ),
        levels=(0.01, 60.0),
        batch=16,
        steps=2_000,
    ),
    # From the smooth fill: it holds most of what few photographs can teach about a large hole.
    "scenes": BridgePreset(
        **_ON_CPU | _MUON | {"augment": 0.4, "checkpoint_every": 500, "validate_every": 10_000},
        model=BridgeConfig(
            unet=_LEAN,
            fill="harmonic",
            conditions=("mask", "fill", "skip", "estimate"),
            sigma_data=(0.4, 0.1, 0.05),
            temperature=(1.0, 0.2, 0.2),
            # At second order more of the starting noise reaches the result, and this network turns
            # it into blotches.
            solver_order=1,
            finish="patches",
        ),
        levels=(0.01, 100.0),
    ),
    "paper": BridgePreset(
        short_sides=(256,),
        mask_weights=(1, 1, 1, 1, 0),
        batch=256,
        steps=1_000_000,
        lr=5e-5,
        warmup=5_000,
        lr_end=1.0,
        ema=0.99,
        smooth_tau=0.0,
        synchronous=0.0,
        tau_range=(0.2, 0.5),
        levels=None,
        from_start=0.0,
        checkpointing=True,
        # The clock tells the network the noise of every pixel.
        model=BridgeConfig(
            unet=ADMConfig(),
            conditions=("mask", "gradient", "clock"),
            parametrisation="score",
            bridges=("stochastic",),
            solver_order=1,
        ),
    ),
    "claims-any": _ANY,
    "claims-synchronous": replace(_ANY, synchronous=1.0),
    "claims-gradient": replace(_ANY, **_BY_GRADIENT),
    "claims-low-contrast": replace(_ANY, model=replace(_CONTRAST, beta_min=0.1, beta_max=0.433)),
    "claims-sees-gradient": replace(
        _ANY, model=replace(_CONTRAST, conditions=(*_CONTRAST.conditions, "gradient"))
    ),
    "claims-free-tau": replace(_ANY, free_tau=True),
    "claims-tuned-synchronous": replace(_ANY, **_TUNED, synchronous=1.0),
    "claims-tuned-gradient": replace(_ANY, **_TUNED, **_BY_GRADIENT),
    # Its sample pictures take longer than its steps.
    "debug": BridgePreset(
        **_DEBUG | {"samples_every": 20}, model=BridgeConfig(unet=_TINY, resolution=64)
    ),
}
