"""Examples in docstrings, the README and the model card run as they stand; versions agree."""

from __future__ import annotations

import doctest
import functools
import importlib
import pkgutil
import re
import runpy
import tomllib
from pathlib import Path

import numpy as np
import pytest
import yaml
from conftest import box_mask, save_mask, synthetic_photo
from packaging.requirements import Requirement
from PIL import Image

import asyncdsb
from asyncdsb.store import bundled
from asyncdsb.store.card import USE

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parent.parent
MODULES = [
    name
    for _, name, _ in pkgutil.walk_packages(asyncdsb.__path__, "asyncdsb.")
    if not name.endswith("__main__")
]
WITH_EXAMPLES = {
    "asyncdsb",
    "asyncdsb.bridge.marginal",
    "asyncdsb.bridge.posterior_step",
    "asyncdsb.masks.make_mask",
    "asyncdsb.pipeline.AsyncDSBPipeline",
    "asyncdsb.samplers.sample",
    "asyncdsb.schedule.NoiseSchedule",
    "asyncdsb.schedule.tau_map",
}


def test_examples_in_docstrings(capsys):
    found = set()
    for name in ("asyncdsb", *MODULES):
        for test in doctest.DocTestFinder().find(importlib.import_module(name)):
            if test.examples:
                found.add(test.name)
                failed = doctest.DocTestRunner().run(test).failed
                assert not failed, capsys.readouterr().out
    assert found >= WITH_EXAMPLES


def python_blocks(text: str) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


@pytest.fixture
def folder(tmp_path, tiny_weights, monkeypatch):
    """A working directory with small copies of the example pictures, and a small bundled model."""
    (tmp_path / "assets" / "examples").mkdir(parents=True)
    for path in (ROOT / "assets" / "examples").glob("wren*.*"):
        picture = Image.open(path)
        picture.resize((96, 64)).save(tmp_path / path.relative_to(ROOT))
    for name in bundled.BUNDLED_NAMES:
        (tmp_path / "bundled" / name).mkdir(parents=True)
        for path in tiny_weights.iterdir():
            (tmp_path / "bundled" / name / path.name).write_bytes(path.read_bytes())
    monkeypatch.setattr(bundled, "BUNDLED", tmp_path / "bundled")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_examples_in_the_readme(folder, capsys):
    blocks = python_blocks((ROOT / "README.md").read_text("utf-8"))
    assert blocks
    for code in blocks:
        exec(compile(code, "README.md", "exec"), {})
    assert (folder / "restored.png").is_file()
    assert "t = 1.00" in capsys.readouterr().out


def test_the_method_in_100_lines(folder):
    path = ROOT / "docs" / "method_in_100_lines.py"
    assert len(path.read_text("utf-8").splitlines()) <= 100
    photo, mask = (folder / "assets" / "examples" / f"wren{end}" for end in (".jpg", "-mask.png"))
    method = runpy.run_path(str(path))
    result = method["restore"](Image.open(photo), Image.open(mask), folder / "bundled" / "scenes")
    pipe = asyncdsb.AsyncDSBPipeline.from_pretrained("scenes")
    assert result.size == (pipe.config.resolution,) * 2
    known = np.array(Image.open(mask).convert("L").resize(result.size)) <= 127
    before = np.array(Image.open(photo).resize(result.size))
    assert np.array_equal(np.array(result)[known], before[known])


def test_equations_are_where_the_table_says():
    found = re.findall(r"`([\w/]+\.py):([\w.]+)`", (ROOT / "docs" / "paper.md").read_text("utf-8"))
    assert len(found) >= 10
    for file, name in found:
        module = importlib.import_module(file.removesuffix(".py").replace("/", "."))
        assert functools.reduce(getattr, name.split("."), module), name


def test_links_in_documents_lead_somewhere():
    documents = [ROOT / "README.md", ROOT / "train" / "README.md", *(ROOT / "docs").glob("*.md")]
    for document in documents:
        for link in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", document.read_text("utf-8")):
            if not link.startswith("http"):
                assert (document.parent / link).exists(), f"{document.name}: {link}"


def test_example_in_the_card(folder, tiny_weights):
    (code,) = python_blocks(USE)
    for path in tiny_weights.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    synthetic_photo(48, 40).save("photo.jpg")
    save_mask(box_mask(48, 40), folder / "mask.png")
    exec(compile(code, "card", "exec"), {})
    assert (folder / "restored.png").is_file()


def test_versions_agree():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text("utf-8"))
    assert citation["version"] == asyncdsb.__version__
    # What the format's schema demands.
    assert {"cff-version", "title", "message", "authors"} <= set(citation)
    assert citation["cff-version"] == "1.2.0"
    for entry in (citation, *citation["references"]):
        assert entry["type"] in ("software", "article")
        assert all({"name"} == set(a) or "family-names" in a for a in entry["authors"])
    changes = (ROOT / "CHANGELOG.md").read_text("utf-8")
    releases = re.findall(r"^## \[(\d+\.\d+\.\d+)\]", changes, re.MULTILINE)
    assert releases[0] == asyncdsb.__version__


def requirements(lines: list[str]) -> dict[str, Requirement]:
    parsed = [Requirement(line) for line in lines]
    return {requirement.name: requirement for requirement in parsed}


def test_requirements_of_the_page_are_those_of_the_package():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    extras = project["project"]["optional-dependencies"]
    lines = (ROOT / "requirements.txt").read_text("utf-8").splitlines()
    alone = [line for line in lines if not line.startswith("#")]
    assert alone == project["project"]["dependencies"] + extras["app"]
    assert set(project["build-system"]["requires"]) <= set(extras["test"])
    # The hosted page's own line at the top of the README.
    front = yaml.safe_load((ROOT / "README.md").read_text("utf-8").split("---")[1])
    assert requirements(alone)["gradio"].specifier.contains(front["sdk_version"])
