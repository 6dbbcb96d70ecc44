"""Everything that belongs to a finished run, in one archive to take away."""

import json
import tempfile
import zipfile
from pathlib import Path

import numpy as np
from PIL import Image

from asyncdsb.page.engine import Maps
from asyncdsb.page.session import Kept
from asyncdsb.photo.record import save_map
from asyncdsb.show import viz

README = """Restored with AsyncDSB. The same picture again, byte for byte, from the command line:

    python -m asyncdsb inpaint PHOTO mask.png --settings settings.json -o restored.png

with PHOTO = {photo}, and --weights FOLDER if the page had weights of its own; on a processor
with as many threads (set OMP_NUM_THREADS if need be): sums in another order can change a pixel by
one level.

restored.png           the result
film.webp              the way from noise to the result
mask.png               the hole, white
settings.json          what the run was told
gradient.npy, .png     predicted gradient in [0, 1]: float32, and 16-bit grey = 65535 x gradient
tau.npy, .png          peak time of every pixel in [0, 1], likewise; larger is restored earlier
*-heatmap.png          both maps in the page's colours
"""


def pack(path: Path, run: Kept, maps: Maps, film: Path) -> None:
    """Write the archive of a run, with the result that is shown.

    Args:
        path: file to write, ending in ``.zip``.
        run: to be packed.
        maps: predicted for its photo and mask.
        film: of the run, as WebP.
    """
    tau = np.asarray(maps.tau(run.settings), np.float32)
    painted = {} if isinstance(run.settings.strategy, str) else {"strategy": "tau.png"}
    with (
        tempfile.TemporaryDirectory(prefix="asyncdsb-") as name,
        zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive,
    ):
        folder = Path(name)
        archive.write(run.path, "restored.png", zipfile.ZIP_STORED)
        archive.write(film, "film.webp", zipfile.ZIP_STORED)
        archive.writestr("settings.json", json.dumps(run.record | painted, indent=2) + "\n")
        archive.writestr("README.txt", README.format(photo=Path(run.photo.path).name))
        Image.fromarray(run.mask.astype(np.uint8) * 255).save(folder / "mask.png")
        edges = viz.heatmap(maps.gradient, viz.GRADIENT_COLOURS, compand=True)
        both = ("gradient", maps.gradient, edges), ("tau", tau, viz.heatmap(tau))
        for part, values, heatmap in both:
            np.save(folder / f"{part}.npy", values)
            save_map(folder / f"{part}.png", values)
            heatmap.save(folder / f"{part}-heatmap.png")
        for file in sorted(folder.iterdir()):
            packed = zipfile.ZIP_STORED if file.suffix == ".png" else zipfile.ZIP_DEFLATED
            archive.write(file, file.name, packed)
