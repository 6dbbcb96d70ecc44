"""Training batches, drawn from (seed, step) alone: photos, masks, times and tau ranges."""

import argparse
from functools import partial
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from asyncdsb.bridge import clock_at_level
from asyncdsb.gradient import luma_weights
from asyncdsb.masks import make_mask
from asyncdsb.names import MASK_KINDS
from asyncdsb.schedule import relative_gradient
from train.data.draws import Draws, to_device
from train.data.photos import PhotoBank
from train.data.streams import CropStream
from train.loop.processes import Processes
from train.presets import BridgePreset, Preset

SAMPLE_STEP = 2**31  # Step whose batch is shown in sample pictures; no training reaches it.
# Kinds of random numbers: of what is learned, of noise, and of photos drawn independently of both.
LEARNED, NOISE, OTHERS = 0, 1, 2
SHOWN = 8  # Crops that are shown.
FOCUS_STD = 1.1  # Standard deviation of log sigma_eff of the times that are normal and not even.
AREA = (0.01, 0.75)  # Smallest and largest hole of a training mask, as a share of its window.


def augmented(images: Tensor, strength: float, draws: Draws) -> Tensor:
    """Change exposure and colours of crops (B, 3, H, H) in [-1, 1], as far as strength says."""
    if not strength:
        return images

    def drawn(reach: float) -> Tensor:
        return to_device(strength * reach * (2 * draws.rand(1, 1, 1) - 1), images.device)

    # Rounding may leave a value below zero, of which there is no power.
    x = ((images + 1) / 2).clamp(0, 1) ** drawn(0.5).exp()
    luma = torch.einsum("c,bchw->bhw", luma_weights(images.device, x.dtype).flatten(), x)[:, None]
    x = torch.lerp(luma, x, 1 + drawn(0.7))
    x = (x - 0.5) * (1 + drawn(0.4)) + 0.5 + drawn(0.2)
    return 2 * x.clamp(0, 1) - 1


class MaskBank:
    """Masks drawn in advance as a preset says, kept packed, one bit a pixel, on one device."""

    def __init__(self, preset: Preset, size: int, seed: int, device: torch.device | str = "cpu"):
        self.size, self.canvases = size, [max(size, side) for side in preset.mask_canvases]
        self.share = np.array(preset.mask_weights) / sum(preset.mask_weights)
        seeds = [(seed, number) for number in range(preset.masks)]
        packed = [np.packbits(self._drawn(np.random.default_rng(words))) for words in seeds]
        self.packed = torch.from_numpy(np.stack(packed)).to(device)
        self.shifts = torch.arange(7, -1, -1, device=device)

    def _drawn(self, rng: np.random.Generator) -> np.ndarray:
        while True:
            kind = MASK_KINDS[rng.choice(len(MASK_KINDS), p=self.share)]
            canvas = int(rng.choice(self.canvases))
            mask = make_mask(kind, canvas, int(rng.integers(2**31)))
            y, x = rng.integers(canvas - self.size + 1, size=2)
            window = mask[y : y + self.size, x : x + self.size]
            if AREA[0] <= window.mean() <= AREA[1]:
                return window

    def draw(self, draws: Draws) -> Tensor:
        """Random masks (B, 1, size, size), float32, 1 = missing, turned and mirrored at random."""
        which = to_device(draws.randint(len(self.packed)), self.packed.device)
        turn = int(torch.randint(8, (1,), generator=draws.generator))  # of all masks alike
        bits = (self.packed[which][:, :, None] >> self.shifts) & 1
        # The last byte may hold more bits than there are pixels.
        bits = bits.flatten(1)[:, : self.size**2]
        masks = bits.view(len(which), 1, self.size, self.size).float().rot90(turn % 4, (2, 3))
        return masks.flip(3) if turn >= 4 else masks


class Batches:
    """Source of training batches; the same seed and step always give the same batch."""

    def __init__(self, preset: Preset, args: argparse.Namespace, processes: Processes):
        self.preset, self.seed = preset, args.seed
        # Samples that share a photo and its mask.
        self.each = preset.draws if isinstance(preset, BridgePreset) else 1
        self.processes, self.parts = processes, args.accumulate
        self.device = torch.device(args.device)
        if self.parts < 1:
            raise ValueError(f"expected --accumulate of at least 1, got {self.parts}")
        sides = [preset.size] + [2 * preset.size] * (preset.large_every > 0)
        largest, kept = sides[-1], max(preset.short_sides)
        # Refused now, not at the first step whose batch does not divide.
        for step in {0, max(0, preset.large_every - 1)}:
            processes.rows(preset.shape(step)[0], 0, self.parts, self.each)
        if largest > kept:
            twice = ", twice --size" if len(sides) > 1 else ""
            raise ValueError(
                f"expected crops of at most {kept} pixels, the largest short side at which photos "
                f"are kept, got {largest}{twice}"
            )
        self.identity: dict[str, Any] = {}  # what the photographs' order depends on
        self.streams: dict[int, CropStream] = {}  # by what is drawn
        self.held: dict[int, tuple[int, Tensor]] = {}  # step and crops of each stream's last batch
        self.shown = torch.empty(0)
        self._stream = partial(CropStream, args.data, preset.short_sides, device=args.device)
        if args.stream:
            stream = self.streams[LEARNED] = self._stream(args.seed)
            names = [path.name for path in stream.shards]
            self.identity = {"photos": len(stream), "shards": names}
            if processes.main:
                # Taken now, because another request would undo what is read ahead.
                self.shown = stream.crops(0, SHOWN, preset.size)
        else:
            self.photos = PhotoBank(args.data, preset.short_sides, args.device)
            self.photos.holding(largest)
        self.masks = {side: MaskBank(preset, side, args.seed, args.device) for side in sides}

    def noise(self, step: int, rows: Tensor, *shape: int) -> Tensor:
        """Normal noise of samples of a step, (len(rows), *shape); each has a seed of its own."""
        noise = torch.empty(len(rows), *shape, device=self.device)
        generator = torch.Generator(self.device)
        for one, index in zip(noise, rows.tolist(), strict=True):
            one.normal_(generator=self._seeded(generator, step, NOISE, index))
        return noise

    def _seeded(self, generator: torch.Generator, *words: int) -> torch.Generator:
        # Hashed: a plain sum of seed and step would make run 1's step 2 equal run 2's step 1.
        high, low = np.random.SeedSequence([self.seed, *words]).generate_state(2, np.uint32)
        return generator.manual_seed(int(high) << 31 | int(low) >> 1)

    def draw(self, step: int, part: int, what: int = LEARNED) -> tuple[Draws, Tensor, Tensor]:
        """Random numbers for a part of this process's share of a step's batch, of B samples.

        With them photos (B / draws, 3, H, H) in [-1, 1] and masks (B / draws, 1, H, H). ``what`` is
        LEARNED, or OTHERS for as many that are drawn independently.
        """
        count, side = self.preset.shape(step)
        rows = self.processes.rows(count, part, self.parts, self.each)
        draws = Draws(self._seeded(torch.Generator(), step, what), count // self.each, rows)
        if self.streams:
            crops = self._streamed(step, draws.count, side, what)[part :: self.parts]
        else:
            crops = self.photos.crops(side, draws)
        return draws.each(self.each), *self._drawn(crops, draws)

    def _streamed(self, step: int, count: int, side: int, what: int) -> Tensor:
        """This process's share of the crops of a step's batch, which has ``count`` photos."""
        if what not in self.streams:
            self.streams[what] = self._stream(self.seed + (what << 64))
        held, crops = self.held.get(what, (None, torch.empty(0)))
        if held != step:
            # All parts at once: what is read ahead is then what comes next.
            first, every = self.preset.samples(step) // self.each, self.processes.count
            stream = self.streams[what]
            crops = stream.crops(first + self.processes.index, count // every, side, every)
            self.held[what] = step, crops
        return crops

    def sample(self) -> tuple[Tensor, Tensor]:
        """Photos and masks for the pictures that show a training, always the same."""
        source = self._seeded(torch.Generator(), SAMPLE_STEP, LEARNED)
        draws = Draws(source, SHOWN, torch.arange(SHOWN))
        shown = self.shown if self.streams else self.photos.crops(self.preset.size, draws)
        return self._drawn(shown, draws)

    def _drawn(self, crops: Tensor, draws: Draws) -> tuple[Tensor, Tensor]:
        """Augmented crops, and masks for them."""
        crops = augmented(crops, self.preset.augment, draws)
        return crops, self.masks[crops.shape[-1]].draw(draws)


def draw_times(
    preset: BridgePreset, tau: Tensor, mask: Tensor, stochastic: Tensor, draws: Draws
) -> Tensor:
    """Times in (0, 1], (B, 1, 1, 1): spread evenly over the batch, some at exactly 1.

    With levels in the preset they are even in log sigma_eff of the mean tau over the hole, but for
    a share ``focus`` that is log-normal around sigma_data (as in EDM); else they are even in t. Tau
    and mask are (B, 1, H, W); stochastic, (B,) bool, tells whether the bridge carries noise.
    """

    def placed(values: Tensor) -> Tensor:
        return to_device(values, mask.device).view(-1, 1, 1, 1)

    even = placed(draws.spread().clamp(min=1e-3))
    start = placed(draws.rand() < preset.from_start)
    if preset.levels is not None:
        low, high = preset.levels
        schedule, sigmas = preset.model.schedule, preset.model.sigmas
        sigma_data = (sum(sigma**2 for sigma in sigmas) / len(sigmas)) ** 0.5
        total_var = schedule.total_var * stochastic.view(-1, 1, 1, 1)
        sigma = low * (high / low) ** even
        # The normal part is spread over the batch as evenly as the other.
        normal = sigma_data * torch.exp(FOCUS_STD * torch.special.ndtri(even.clamp(max=0.999)))
        sigma = torch.where(placed(draws.rand() < preset.focus), normal.clamp(low, high), sigma)
        s = clock_at_level(sigma, total_var, preset.model.hole_noise)
        mean = (tau * mask).sum((1, 2, 3), keepdim=True) / mask.sum((1, 2, 3), keepdim=True)
        even = schedule.inverse_clock(s, mean.clamp(0, 1))
    return torch.where(start, torch.ones_like(even), even)


def draw_tau(preset: BridgePreset, gradient: Tensor, mask: Tensor, draws: Draws) -> Tensor:
    """Random tau maps in [0, 1], so that one network serves every slider position.

    Ranges tau_min <= tau_max are uniform over the triangle; see :class:`BridgePreset` for the
    shares of synchronous and smooth random maps. Gradient, mask and tau are (B, 1, H, W).
    """
    device = mask.device
    if preset.free_tau:
        return to_device(draws.rand(*mask.shape[1:]), device)
    ends = draws.rand(2).sort(dim=1).values
    if preset.tau_range is not None:
        ends = torch.tensor(preset.tau_range).expand_as(ends)
    ends = ends.masked_fill(draws.rand(1) < preset.synchronous, 0.5)
    low, high = to_device(ends, device)[..., None, None, None].unbind(1)
    smooth = to_device(draws.rand(1, 1, 1) < preset.smooth_tau, device)
    field = to_device(draws.rand(1, 5, 5), device)
    field = F.interpolate(field, mask.shape[2:], mode="bicubic").clamp(0, 1)
    relative = relative_gradient(gradient, preset.model.blur_sigma, mask)
    return low + (high - low) * torch.where(smooth, field, relative)
