"""Import networks that people have: guided diffusion's ADM, and what I2SB trained from it.

python -m train.import_adm 256x256_diffusion_uncond.pt weights/adm
python -m train.import_adm results/inpaint-center/latest.pt weights/i2sb --ot-ode

Of I2SB's ``latest.pt`` the averaged weights are taken. The folder that is written is one for
``AsyncDSBPipeline.from_pretrained`` and for ``train.bridge --init``. ADM's network has not seen a
bridge yet: it is a start for a training.

Which bridge I2SB trained does not stand in the file: give the options of its run again. Its
published inpainting networks took ``--ot-ode`` and ``--beta-max 1.0`` (the default here, 0.3
there), and the sampler is "ode". An ``--interval`` other than 1000 is not supported.

With tau = 0.5 everywhere sampling is then I2SB's, but for the noise itself and this:

- variances are integrals where I2SB adds up a table of 1000; sigma^2 differs by up to 6e-5;
- the last step lands on x0_hat; I2SB rounds times to its table and ends at the first entry, at
  sigma = 0.01, of which known pixels keep the noise in the stochastic bridge;
- known pixels follow one path of the bridge, where I2SB draws them anew after every step;
- estimates are always clamped to [-1, 1], as by I2SB's ``--clip-denoise``;
- a network that sees x1 (``--cond-x1``) is given the start of the run, as in training, where I2SB
  samples with another draw of the noise.
"""

import argparse
import pickle
import zipfile
from pathlib import Path

import torch
from torch import Tensor

from asyncdsb.denoiser import BridgeConfig, BridgeDenoiser
from asyncdsb.networks import ADMConfig
from asyncdsb.networks.adm import INTERVALS
from asyncdsb.store.bundled import BUNDLED, BUNDLED_NAMES
from asyncdsb.store.checkpoint import file_sha256, load_weights, misfits, save_weights
from train.loop.options import program

PUBLISHED = ADMConfig()  # Shape of the network in the files.
STEM = "input_blocks.0.0.weight"
HEAD = ("out.2.weight", "out.2.bias")
BETA_MIN = 0.1


def run(args: argparse.Namespace) -> None:
    """Write the network of a file, and a completion; ValueError if options do not fit."""
    file, dtype = args.file, torch.float32 if args.fp32 else torch.float16
    completion, facts = load_weights(args.gradient, "gradient")
    state, origin = read(file)
    print(f"found {origin}")
    inputs = state[STEM].shape[1] if STEM in state else 3
    outputs = len(state[HEAD[0]]) if HEAD[0] in state else 3
    if inputs == 6:
        print("the network sees x1")
        if args.ot_ode:
            raise ValueError(
                "expected a network that sees the state alone for --ot-ode, got one that sees x1 "
                "too: without noise both together give the picture away, and it is not given x1"
            )
    with torch.device("meta"):
        network = PUBLISHED.build(6 if inputs == 6 else 3, 6 if outputs == 6 else 3, scalars=2)
    if lines := misfits(network, state):
        raise ValueError("\n".join([f"{file} holds another network:", *lines[:10]]))
    if outputs == 6:
        state = state | {name: state[name][:3] for name in HEAD}
        print("left out the three outputs for the variance")
    config = BridgeConfig(
        unet=PUBLISHED,
        beta_min=BETA_MIN,
        beta_max=peak(args.beta_max),
        conditions=("x1",) if inputs == 6 else (),
        parametrisation="score",
        bridges=("deterministic" if args.ot_ode else "stochastic",),
        solver_order=1,
    )
    with torch.device("meta"):
        denoiser = BridgeDenoiser(config)
    denoiser.unet.load_state_dict(state, assign=True)
    source = {"started_from": f"{file.name}, {origin}", "source_sha256": file_sha256(file)}
    save_weights(args.out, denoiser, source, dtype)
    save_weights(args.out, completion, facts, dtype)
    print(f"wrote {args.out}")


def peak(beta_max: float) -> float:
    """Largest beta of I2SB's schedule in units of t in [0, 1], to four digits.

    sqrt(beta) rises linearly to sqrt(beta_max) over 1000 steps; 500 are used, and mirrored.
    """
    if not beta_max >= BETA_MIN:
        raise ValueError(f"expected a beta_max of at least {BETA_MIN}, got {beta_max}")
    low, high = BETA_MIN**0.5, beta_max**0.5
    return round((low + (high - low) * (INTERVALS // 2 - 1) / (INTERVALS - 1)) ** 2, 4)


def read(file: Path) -> tuple[dict[str, Tensor], str]:
    """Read the network of a file of guided diffusion or I2SB, and whose it is, in words.

    Tensors stay mapped from the file. ValueError if it cannot be read, or holds something else.
    """
    mapped = zipfile.is_zipfile(file)
    try:
        content = torch.load(file, weights_only=True, map_location="cpu", mmap=mapped)
    except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        if isinstance(error, pickle.UnpicklingError):
            reason = "it is damaged, or holds other Python objects than tensors in plain containers"
            reason += ", which are not loaded because they could run any code"
        raise ValueError(f"cannot read {file}: {reason}") from error
    try:
        state, origin = content, "guided diffusion's ADM, not a bridge yet"
        if "net" in content:
            names = (name for name in content["net"] if name != "noise_levels")
            # Averages come in the order of the parameters, which is that of their names.
            pairs = zip(names, content["ema"]["shadow_params"], strict=True)
            state = {name.removeprefix("diffusion_model."): value for name, value in pairs}
            origin = "I2SB's network, averaged weights"
        if all(isinstance(value, Tensor) for value in state.values()):
            return state, origin
        wrong = "other values than tensors"
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        wrong = f"{type(error).__name__}: {error}"
    raise ValueError(f"expected tensors by name, or I2SB's net and ema, in {file}, got {wrong}")


def parser() -> argparse.ArgumentParser:
    """Options of this program."""
    options = argparse.ArgumentParser(
        prog="python -m train.import_adm", description=__doc__.split("\n\n")[0]
    )
    add = options.add_argument
    add("file", type=Path, help="256x256_diffusion_uncond.pt, or I2SB's latest.pt")
    add("out", type=Path, help="weights folder to write")
    completion = BUNDLED / BUNDLED_NAMES[0]
    add("--gradient", type=Path, default=completion, help="weights folder of the completion")
    add("--ot-ode", action="store_true", help="the bridge without noise")
    add("--beta-max", type=float, default=1.0, help="I2SB's option of that name (default 1.0)")
    add("--fp32", action="store_true", help="write in single precision")
    return options


main = program(parser, run)

if __name__ == "__main__":
    raise SystemExit(main())
