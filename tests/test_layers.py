"""Imports point one way, and importing does nothing else."""

from __future__ import annotations

import ast
import subprocess
import sys
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
METHOD = ("schedule", "bridge", "samplers", "denoiser", "gradient", "masks", "names", "noise")
ROOMS = ("networks", "photo", "store", "measure", "show")
DOORS = ("cli", "page")


def modules() -> dict[str, Path]:
    """Every module of the package, of the programs and of the page's start, by name."""
    found = {"app": ROOT / "app.py"}
    for path in (*(ROOT / "asyncdsb").rglob("*.py"), *(ROOT / "train").rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        found[".".join(part for part in parts if part != "__init__")] = path
    return found


MODULES = modules()


def imported(name: str) -> tuple[set[str], set[str]]:
    """What a module imports anywhere in it: of ours, modules; of others, top-level packages."""
    ours, others = set(), set()
    for node in ast.walk(ast.parse(MODULES[name].read_text("utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0 and node.module, f"{name}: a relative import"
            # What is imported from a package may be a module of it.
            inside = [f"{node.module}.{alias.name}" for alias in node.names]
            whole = not all(one in MODULES for one in inside)
            names = [one for one in inside if one in MODULES] + [node.module] * whole
        else:
            continue
        for one in names:
            if one in MODULES:
                ours.add(one)
            else:
                others.add(one.partition(".")[0])
    assert not others & {"asyncdsb", "train", "app"}, f"{name}: {others}"
    return ours, others


IMPORTS = {name: imported(name) for name in MODULES}


def room(name: str) -> str:
    """The second part of a module's name: its room, or itself at the top of the package."""
    return (name.split(".") + [""])[1]


def test_no_module_imports_itself_by_others():
    # The package's own module hands out the pipeline when it is first asked for.
    graph = {name: ours - {"asyncdsb"} for name, (ours, _) in IMPORTS.items() if name != "asyncdsb"}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(" <- ".join(error.args[1]))


def test_the_package_knows_neither_programs_nor_page():
    for name, (ours, others) in IMPORTS.items():
        if name.startswith("asyncdsb"):
            outside = [one for one in ours if not one.startswith("asyncdsb")]
            assert not outside, f"{name} imports {outside}"
            assert "gradio" not in others or room(name) == "page", name
        if name.startswith("train"):
            assert not {"app"} & ours and "gradio" not in others, name


def test_method_rooms_pipeline_doors():
    """Each may import those before it."""
    order = {name: 0 for name in (*METHOD, *ROOMS)} | {"pipeline": 1}
    order |= {name: 2 for name in (*DOORS, "__main__")}
    for name, (ours, _) in IMPORTS.items():
        if name.startswith("asyncdsb."):
            for one in ours - {"asyncdsb"}:
                assert order[room(one)] <= order[room(name)], f"{name} imports {one}"
    for name, (ours, _) in IMPORTS.items():
        if name.startswith("asyncdsb.") and room(name) in METHOD:
            above = {room(one) for one in ours} & {"store", "measure", "show"}
            assert not above, f"{name} imports {above}"
        if room(name) in DOORS:
            (other,) = {*DOORS} - {room(name)}
            assert other not in {room(one) for one in ours if one.startswith("asyncdsb.")}, name


def test_at_the_top_is_the_method_alone():
    top = {path.stem for path in (ROOT / "asyncdsb").glob("*.py")}
    assert top == {*METHOD, "pipeline", "__init__", "__main__"}
    assert len((ROOT / "asyncdsb" / "pipeline.py").read_text("utf-8").splitlines()) <= 300


def test_importing_does_nothing_else(tmp_path):
    """No folder is made, nothing printed, no random number drawn, no thread started."""
    names = sorted(name for name in MODULES if not name.endswith("__main__"))
    code = f"""
import importlib, sys, threading
import numpy, torch
before = torch.get_rng_state(), str(numpy.random.get_state())
for name in {[name for name in names if name != "app" and room(name) != "page"]}:
    importlib.import_module(name)
assert torch.equal(before[0], torch.get_rng_state()) and before[1] == str(numpy.random.get_state())
assert threading.active_count() == 1, threading.enumerate()
heavy = {{"gradio", "matplotlib.pyplot", "scipy", "torch._dynamo"}} & set(sys.modules)
assert not heavy, heavy
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={"PYTHONPATH": str(ROOT), "HOME": str(tmp_path), "PATH": "/nowhere"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert not list(tmp_path.iterdir())
