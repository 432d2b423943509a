"""The likelihood of images under a flow, by how well it removes noise from them.

At a point z = t x + (1−t) ε the ratio of signal to noise is s = (t / (1−t))². A diffusion model in continuous
time bounds the likelihood by the errors of its predicted images x̂ (Kingma et al. 2021, "Variational Diffusion
Models", equation 17):

    −log p(x) ≤ ½ ∫ E‖x − x̂(z, t)‖² ds + constant = ½ ∫ s · E‖x − x̂(z, t)‖² dλ + constant,   λ = ln s

The constant holds the prior and the last step, neither of which depends on the condition. So differences
between conditions are those of the bound. Each time takes one evaluation of the network and no gradient; the
exact likelihood (`ode_likelihood.py`) takes two evaluations with gradients for each of its steps. The same
noise serves all conditions (Li et al. 2023, "Your Diffusion Model is Secretly a Zero-Shot Classifier",
section 3.3).
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from danqing.families import paths
from danqing.randomness import normal

LEAST, MOST = -4.0, 3.0
"""Of logit t = λ / 2. At the first, almost nothing is left of the image. The second is t = 0.95, after which
networks learn little (`paths.LEAST_NOISE`).
"""


def denoising_nll(
    predict: Callable[[Tensor, Tensor], Tensor], images: Tensor, *, seeds: Sequence[int], samples: int
) -> Tensor:
    """Estimate −log p(image) in nats up to a constant, `[n]` float32.

    predict: from points `[n, c, h, w]` and times `[n]` to predicted images.
    images: `[n, c, h, w]`, images or latents. seeds: of the noise of each image.
    samples: times, each in the middle of an equal part of the range of λ.
    """
    total = torch.zeros(len(images), device=images.device)
    for number in range(samples):
        place = LEAST + (MOST - LEAST) * (number + 0.5) / samples
        t = torch.full((len(images),), place, device=images.device).sigmoid()
        noise = normal(seeds, images.shape[1:], purpose=f"evidence {number}", device=images.device)
        error = predict(paths.mix(t, images, noise), t) - images
        total += (t / (1 - t)).square() * error.square().flatten(1).sum(1)
    return (MOST - LEAST) * total / samples  # ½ · dλ = d(logit t)
