"""Flow matching at several sizes, for a network that grows.

The flow of small images is the average of the flow of whole images. A point z = t x + (1 - t) ε, averaged
over squares of 2^l by 2^l pixels, is a point of the small image at the same time t, with noise of the
standard deviation 2^-l. Small images are therefore learned with so much less noise, at the times of whole
images: what a level learns is what it will see inside the larger network. (Averaging raises the ratio of
signal to noise: Hoogeboom et al. 2023, "simple diffusion", section 2.1, where the schedule is shifted by it.)

Of the detail that a smaller size does not have, a larger network begins with a linear guess; what it has
learned is added to that.
"""

import itertools
from collections.abc import Callable, Sequence

from torch import Tensor

from danqing.families.paths import wide
from danqing.nets.layers import enlarged, shrunk


def noise_scale(level: int) -> float:
    """Return the standard deviation of the noise of small images.

    level: how often they are halved.
    """
    return 2.0**-level


def guessed_detail(z: Tensor, levels: Sequence[int], level: int, gain: Callable[[int], Tensor]) -> Tensor:
    """Return what to output for detail that the smallest size lacks.

    z: points `[n, c, h, w]`, halved `level` times. levels: of all sizes, falling.
    gain: from the level of a size to the factors `[n]` of the detail that it has and the next smaller one
        lacks.
    """
    sizes = [each for each in levels if each >= level]
    before = shrunk(z, sizes[0] - level)
    total = before.new_zeros(before.shape)
    for coarse, fine in itertools.pairwise(sizes):
        here = shrunk(z, fine - level)
        size = (here.shape[-2], here.shape[-1])
        detail = here - enlarged(before, coarse - fine, size)
        total = enlarged(total, coarse - fine, size) + wide(gain(fine)) * detail
        before = here
    return total
