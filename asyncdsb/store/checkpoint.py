"""Weights on disk: safetensors beside a JSON file that says what they are. Nothing is unpickled.

A weights folder holds ``bridge.safetensors`` + ``bridge.json`` and ``gradient.safetensors`` +
``gradient.json``.

A large kernel may be stored in 8 bits (int8), with a float32 scale for each of its output channels.
It is their product; the scale is the channel's largest magnitude over 127.
"""

import dataclasses
import hashlib
import json
import typing
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn.utils import parametrize

from asyncdsb.denoiser import BridgeConfig, BridgeDenoiser
from asyncdsb.gradient import GradientCompletion, GradientConfig
from asyncdsb.photo.images import write_atomic

VERSION = 3
READABLE = (2, VERSION)  # Version 2 has no 8-bit kernels.
# Kernels with fewer weights are few in all and change the output most; they stay in half precision.
LARGE = 20_000
SCALE = ".scale"  # added to a kernel's name, that of its scales
Network = BridgeDenoiser | GradientCompletion
KINDS: dict[str, tuple[type, type[Network]]] = {
    "bridge": (BridgeConfig, BridgeDenoiser),
    "gradient": (GradientConfig, GradientCompletion),
}


def save_weights(
    folder: str | Path, module: Network, training: dict, dtype: torch.dtype = torch.float16
) -> None:
    """Write one network into a weights folder, with spectral normalisation folded in.

    The folder is created if need be. ``training`` are facts for the JSON (steps, samples, data,
    hardware, ...). ``dtype`` is the type on disk: a floating one, or ``torch.int8`` for 8 bits in
    kernels of at least :data:`LARGE` weights and float16 elsewhere.
    """
    kind = next(name for name, (_, cls) in KINDS.items() if isinstance(module, cls))
    state = {name: value.detach() for name, value in module.state_dict().items()}
    for prefix, part in module.named_modules():
        for name in part.parametrizations if parametrize.is_parametrized(part) else ():
            parts = f"{prefix}.parametrizations.{name}."
            state = {key: value for key, value in state.items() if not key.startswith(parts)}
            state[f"{prefix}.{name}"] = getattr(part, name).detach()
    tensors = _stored(state, dtype)
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    written = write_tensors(folder / f"{kind}.safetensors", tensors)
    description = {
        "format": f"asyncdsb-{kind}",
        "version": VERSION,
        "sha256": file_sha256(written),
        "parameters": sum(value.numel() for value in state.values()),
        "config": dataclasses.asdict(module.config),
        "training": training,
    }
    text = json.dumps(description, indent=2, sort_keys=True) + "\n"
    write_atomic(folder / f"{kind}.json", lambda path: Path(path).write_text(text, "utf-8"))


def load_weights(folder: str | Path, kind: str) -> tuple[Any, dict]:
    """Read a network, "bridge" or "gradient", in float32 on the CPU to evaluate, and its facts.

    ValueError if files are missing, damaged, of another version or not ours.
    """
    config_class, module_class = KINDS[kind]
    tensor_path, json_path = (Path(folder) / f"{kind}.{end}" for end in ("safetensors", "json"))
    for path in (tensor_path, json_path):
        if not path.is_file():
            raise ValueError(f"weights not found: expected the file {path}")
    try:
        description = json.loads(json_path.read_text("utf-8"))
        found = f"{description['format']} version {description['version']}"
        checksum, config = description["sha256"], description["config"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        expected = f"expected {json_path} to describe weights as JSON"
        raise ValueError(f"{expected}, got {error!r}") from error
    wanted = f"asyncdsb-{kind} version {VERSION}"
    if found not in (f"asyncdsb-{kind} version {version}" for version in READABLE):
        raise ValueError(f"expected {json_path} to be of format {wanted}, got {found}")
    if file_sha256(tensor_path) != checksum:
        expected = f"expected {tensor_path} to have the checksum in {json_path.name}"
        raise ValueError(f"{expected}: the file is damaged or belongs to other weights")
    try:
        tensors = _restored(read_tensors(tensor_path))
        module = module_class(config_from_dict(config_class, config))
    except (AttributeError, KeyError, RuntimeError, TypeError, ValueError, AssertionError) as error:
        raise ValueError(f"expected readable weights in {folder}, got: {error}") from error
    parts: list[Any] = [*filter(parametrize.is_parametrized, module.modules())]
    for part in parts:
        for name in [*part.parametrizations]:
            parametrize.remove_parametrizations(part, name)
    if problems := misfits(module, tensors):
        raise ValueError("weights do not fit the network: " + "; ".join(problems[:10]))
    module.load_state_dict(tensors)
    return module.eval(), description.get("training", {})


def write_tensors(path: str | Path, tensors: dict[str, Tensor]) -> Path:
    """Write a safetensors file whole or not at all; ValueError if the disk is full, for example."""

    # To a file, not a string of bytes, because networks may be as large as the memory.
    def write(temporary: Path) -> None:
        try:
            save_file(tensors, temporary)
        except SafetensorError as error:
            raise ValueError(f"cannot write {path}: {error}") from error

    return write_atomic(path, write)


def read_tensors(path: str | Path) -> dict[str, Tensor]:
    """Read a safetensors file; ValueError if it is damaged."""
    try:
        return load_file(path)
    except SafetensorError as error:
        raise ValueError(f"expected readable tensors in {path}, got: {error}") from error


def _stored(state: dict[str, Tensor], dtype: torch.dtype) -> dict[str, Tensor]:
    """A network's tensors as a file holds them: w itself, or q = round(w / c) and the scales c.

    A large kernel w (O, ...) has q of int8 and c of float32, (O, 1, ...): max |w| / 127 over each
    of the O channels.
    """
    tensors = {}
    for name, value in state.items():
        if dtype == torch.int8 and value.ndim > 1 and value.numel() >= LARGE:
            largest = value.abs().amax(tuple(range(1, value.ndim)), keepdim=True)
            scale = largest.float().clamp(min=1e-12) / 127
            tensors[name + SCALE], value = scale, (value / scale).round().to(dtype)
        elif dtype == torch.int8:
            value = value.half()
        else:
            value = value.to(dtype)
        tensors[name] = value
    return {name: value.cpu().contiguous() for name, value in tensors.items()}


def _restored(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """A network's tensors from those of :func:`_stored`: w, or q c."""
    scales = {name: value for name, value in tensors.items() if name.endswith(SCALE)}
    whole = {name: value for name, value in tensors.items() if name not in scales}
    for name, scale in scales.items():
        kernel = name.removesuffix(SCALE)
        whole[kernel] = whole[kernel] * scale
    return whole


def file_sha256(path: str | Path) -> str:
    """SHA-256 of a file's content, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def misfits(module: nn.Module, state: dict[str, Tensor]) -> list[str]:
    """One line for each tensor of a state that is missing, unexpected or of another shape."""
    own = module.state_dict()
    lines = [f"missing {name}" for name in own if name not in state]
    lines += [f"unexpected {name}" for name in state if name not in own]
    for name in filter(state.__contains__, own):
        wanted, got = tuple(own[name].shape), tuple(state[name].shape)
        lines += [f"{name}: expected {wanted}, got {got}"] if wanted != got else []
    return lines


def config_from_dict(cls: type, data: dict) -> Any:
    """Rebuild a configuration dataclass from its ``dataclasses.asdict``, read from JSON.

    ValueError on a key or a value that it does not take.
    """
    types = typing.get_type_hints(cls)
    if unknown := set(data) - {f.name for f in dataclasses.fields(cls)}:
        raise ValueError(f"unknown keys for {cls.__name__}: {', '.join(sorted(unknown))}")
    values = {}
    for name, value in data.items():
        kinds = {one.kind: one for one in typing.get_args(types[name]) if hasattr(one, "kind")}
        if kinds and value is not None:
            rest = dict(value)
            # The first of them is older than the key.
            kind = rest.pop("kind", next(iter(kinds)))
            if kind not in kinds:
                raise ValueError(f"expected {name} of kind {', '.join(kinds)}, got {kind!r}")
            value = config_from_dict(kinds[kind], rest)
        values[name] = tuple(value) if isinstance(value, list) else value
    return cls(**values)
