"""The built distributions: what is in them, and that they work away from the checkout."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import asyncdsb
from asyncdsb.store.bundled import BUNDLED_NAMES

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parent.parent
SIDE = 96


def run(*command: object, cwd: Path, **variables: str) -> str:
    done = subprocess.run(
        [sys.executable, *map(str, command)],
        cwd=cwd,
        env=os.environ | variables,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> tuple[Path, Path]:
    """The source distribution, and the wheel that is built from it without a network."""
    folder = tmp_path_factory.mktemp("build")
    # A copy, as building leaves files beside the sources; old ones there would get into the wheel.
    source = folder / "source"
    anywhere = shutil.ignore_patterns(".*", "*.egg-info", "__pycache__")
    at_the_top = {"build", "dist", "runs", "data", "outputs"}

    def left(place: str, names: list[str]) -> set[str]:
        return anywhere(place, names) | (at_the_top if Path(place) == ROOT else set())

    shutil.copytree(ROOT, source, ignore=left)
    sdist = "from setuptools.build_meta import build_sdist; build_sdist('..')"
    run("-c", sdist, cwd=source)
    (archive,) = folder.glob("*.tar.gz")
    pip = ("-m", "pip", "--disable-pip-version-check")
    options = ("--no-deps", "--no-build-isolation", "--no-index", "--wheel-dir", folder)
    run(*pip, "wheel", *options, archive, cwd=folder)
    (wheel,) = folder.glob("*.whl")
    return archive, wheel


def modules(package: str) -> set[str]:
    return {str(path.relative_to(ROOT)) for path in (ROOT / package).rglob("*.py")}


def test_the_wheel_holds_the_packages_the_weights_and_nothing_else(built):
    archive, wheel = built
    names = set(zipfile.ZipFile(wheel).namelist())
    about = f"asyncdsb-{asyncdsb.__version__}.dist-info/"
    code = {name for name in names if name.endswith(".py")}
    assert code == modules("asyncdsb") | modules("train")
    weights = {name for name in names if name.startswith("asyncdsb/weights/")}
    ends = ("bridge.json", "bridge.safetensors", "gradient.json", "gradient.safetensors")
    kept = {f"{name}/{end}" for name in BUNDLED_NAMES for end in (*ends, "README.md")}
    assert weights == {f"asyncdsb/weights/{end}" for end in kept}
    lpips = {"LICENSE", "alexnet.safetensors"}
    assert {f"asyncdsb/lpips/{name}" for name in lpips} <= names
    assert {"asyncdsb/py.typed", f"{about}licenses/LICENSE", f"{about}entry_points.txt"} <= names
    assert {name.split("/")[0] + "/" for name in names} == {"asyncdsb/", "train/", about}
    with tarfile.open(archive) as tar:
        sources = {name.partition("/")[2] for name in tar.getnames()}
    assert {f"assets/weights/{end}" for end in kept} <= sources
    assert {f"assets/lpips/{name}" for name in lpips} <= sources
    assert not [name for name in sources if name.startswith(("assets/matched", "benchmarks"))]


def test_an_installed_wheel_restores_a_photo_with_its_own_weights(built, tmp_path):
    place = tmp_path / "installed"
    options = ("--no-deps", "--no-index", "--no-compile", "--target", place)
    run("-m", "pip", "--disable-pip-version-check", "install", *options, built[1], cwd=tmp_path)
    photo = Image.open(ROOT / "assets" / "examples" / "colosseum.jpg").convert("RGB")
    photo = photo.crop((200, 100, 200 + SIDE, 100 + SIDE))
    mask = np.zeros((SIDE, SIDE), bool)
    mask[30:60, 40:70] = True
    photo.save(tmp_path / "photo.png")
    Image.fromarray(mask.astype(np.uint8) * 255).save(tmp_path / "mask.png")
    # -P keeps the working directory off the path, and PYTHONPATH comes before what an editable
    # installation of the checkout adds.
    where = "import asyncdsb, train; print(asyncdsb.__file__, train.__file__)"
    found = run("-P", "-c", where, cwd=tmp_path, PYTHONPATH=str(place)).split()
    assert found == [str(place / name / "__init__.py") for name in ("asyncdsb", "train")]
    command = "asyncdsb inpaint photo.png mask.png -o out.png --steps 2 --quiet --device cpu"
    run("-P", "-m", *command.split(), cwd=tmp_path, PYTHONPATH=str(place))
    restored = np.asarray(Image.open(tmp_path / "out.png"))
    np.testing.assert_array_equal(restored[~mask], np.asarray(photo)[~mask])
    assert (restored[mask] != np.asarray(photo)[mask]).any()
    shown = run("-P", "-m", "asyncdsb", "--version", cwd=tmp_path, PYTHONPATH=str(place))
    assert shown == f"asyncdsb {asyncdsb.__version__}\n"
