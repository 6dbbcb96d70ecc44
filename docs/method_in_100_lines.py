"""AsyncDSB on one photograph, step by step, with the package's own functions.

python docs/method_in_100_lines.py PHOTO MASK RESTORED.png [WEIGHTS]

PHOTO and MASK (white = hole) are scaled to the size of the weights; a photograph that is not square
is squeezed. ``AsyncDSBPipeline`` works on photographs of any size without that, takes steps of
second order, and guides estimates if the weights have a guide; the steps here are the paper's.
"""

import sys
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from asyncdsb.bridge import posterior_step
from asyncdsb.photo.images import to_pil, to_tensor
from asyncdsb.samplers import time_grid
from asyncdsb.schedule import tau_map
from asyncdsb.store.bundled import BUNDLED
from asyncdsb.store.checkpoint import load_weights

STEPS = 20


@torch.no_grad()
def restore(photo: Image.Image, mask: Image.Image, folder: Path, seed: int = 0) -> Image.Image:
    """Restore the white part of a mask, of the photograph's size, at the weights' resolution."""
    denoiser, _ = load_weights(folder, "bridge")
    completion, _ = load_weights(folder, "gradient")
    config = denoiser.config
    schedule = config.schedule  # beta(t; tau): its square root is a tent with the peak at tau
    side = (config.resolution, config.resolution)
    hole = np.array(mask.convert("L").resize(side)) > 127
    image = np.array(photo.convert("RGB").resize(side)) * ~hole[..., None]  # nothing in the hole
    x = to_tensor(image)  # (1, 3, H, W) in [-1, 1]
    m = torch.from_numpy(hole)[None, None].float()  # (1, 1, H, W), 1 = missing

    # Step 1 (Eq. 9): complete the gradient map G inside of the hole.
    gradient = completion(x, m)

    # Eq. 11: tau = (G - min G) / (max G - min G) (tau_max - tau_min) + tau_min, G smoothed.
    # A steep pixel gets a large tau: it is restored early.
    tau = tau_map(gradient, tau_min=0.2, tau_max=0.5, blur_sigma=config.blur_sigma, hole=m)

    # Step 2: the bridge. x1 = fill + h z in the hole, the photograph around it.
    generator = torch.Generator().manual_seed(seed)
    noise = denoiser.start_noise(torch.randn(x.shape, generator=generator))
    context = denoiser.context(x, m, gradient, torch.tensor([True]), noise)
    x1, total_var = context.x1, schedule.total_var

    # Times from 1 to 0, even in log sigma_eff, where sigma_eff is the noise left to remove.
    times = time_grid("log", STEPS, tau, m, schedule, config.hole_noise)

    x_n, x0_hat = x1, None
    for t_n, t_m in zip(times[:-1].float(), times[1:].float(), strict=True):
        # Every pixel has its own clock s(t; tau) = sigma^2(t; tau) / M, the share of the bridge
        # that is still ahead of it.
        s_n, s_m = schedule.clock(t_n, tau), schedule.clock(t_m, tau)
        # Eq. 4 with the network's output put in: the estimate of the clean photograph. A network
        # with the condition "estimate" sees its last one.
        x0_hat = denoiser.x0_hat(x_n, t_n.view(1, 1, 1, 1), s_n, context, x0_hat).clamp(-1, 1)
        x0_hat = torch.where(m > 0.5, x0_hat, x1)  # the known pixels are known
        # Eq. 13: x_m = rho x_n + (1 - rho) x0_hat + sqrt(M s_m (1 - rho)) z, rho = s_m / s_n.
        z = torch.randn(x.shape, generator=generator)
        x_n = posterior_step(x_n, x0_hat, s_n, s_m, total_var, z)
    # At t = 0 every clock is 0, and the last step landed on x0_hat.
    return to_pil(torch.where(m > 0.5, x_n, x))


if __name__ == "__main__":
    source, hole_file, out, *weights = sys.argv[1:]
    chosen = Path(weights[0]) if weights else BUNDLED / "portraits"
    restore(Image.open(source), Image.open(hole_file), chosen).save(out)
