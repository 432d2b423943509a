"""Metrics of models alone: how well one makes real images again, and how likely it finds them."""

import math
from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from danqing.errors import EvaluationError
from danqing.evaluation.contract import HasStages
from danqing.evaluation.estimate import mean_of
from danqing.evaluation.image_sets import batch_size_for, index_batches
from danqing.evaluation.metric_inputs import MetricInputs
from danqing.evaluation.reconstruction import (
    WINDOW,
    absolute_error,
    ms_ssim,
    perceptual,
    psnr,
    squared_error,
    ssim,
)
from danqing.evaluation.scores import Score
from danqing.families.abilities import Translates

_Pairs = Callable[[Tensor, Tensor], Tensor]
RECONSTRUCTIONS: dict[str, tuple[str, _Pairs | None, str, bool]] = {
    "reconstruction-error": ("reconstruction error", squared_error, "", False),
    "absolute-error": ("absolute reconstruction error", absolute_error, "", False),
    "psnr": ("PSNR of reconstructions", psnr, "dB", True),
    "ssim": ("SSIM of reconstructions", ssim, "", True),
    "ms-ssim": ("MS-SSIM of reconstructions", ms_ssim, "", True),
    "perceptual": ("perceptual reconstruction error", None, "", False),
}
"""A name, how pairs are compared (None: by the feature network), the unit, and whether higher is better.

The translations of a model of pairs are compared with their targets in the same ways.
"""


def reconstruction(c: MetricInputs, metric: str) -> Score:
    """Measure how well real images are reconstructed, or their sources translated, by one metric."""
    name, compare, unit, better = RECONSTRUCTIONS[metric]
    images, rows = c.reference.images, c.on_real_images.shown(c.reference.images)
    found = []
    for part in index_batches(len(rows), batch_size_for(images.size)):
        again, real = c.on_real_images.reconstructed.images(part), images.images(rows[part])
        if compare is not None:
            found.append(compare(again, real))
        else:
            assert isinstance(c.network, HasStages)
            found.append(perceptual(again, real, c.network))
    by_network = c.feature_info if compare is None else None
    name = name if by_network is None else f"PD-{c.network.name} of reconstructions"
    if isinstance(c.on_real_images.model.family, Translates):
        name = name.replace("reconstruction", "translation")
    values = torch.cat(found)
    finite = values[~values.isinf()]
    if not len(finite):
        raise EvaluationError(f"The {name} is infinite: every image comes out as it was.")
    exact = len(values) - len(finite)
    return c.score(
        metric,
        name,
        mean_of(finite),
        better=better,
        unit=unit,
        features=by_network,
        settings={"exact": exact} if exact else None,
        images=len(finite),
        note=f"{exact:,} images that come out as they were are left out: theirs is infinite" if exact else "",
    )


def bits_per_dim(c: MetricInputs) -> Iterable[Score]:
    """Measure the bits per dimension of real images."""
    found = c.on_real_images.bits_per_dim(c.reference.images)
    settings = {"samples": 1}
    yield c.score(
        "bits-per-dim",
        "bits per dimension",
        mean_of(found),
        better=False,
        settings=settings,
        images=len(found),
    )


def token_nll(c: MetricInputs) -> Iterable[Score]:
    """Measure the bits per code of real images, given caption or label."""
    codes = c.on_real_images.tokens_per_image
    found = c.on_real_images.token_nll(c.reference.images) / (codes * math.log(2))
    yield c.score(
        "token-nll",
        "bits per token",
        mean_of(found),
        better=False,
        settings={"tokens_per_image": codes},
        images=len(found),
        note="compares models of one tokenizer alone, and says nothing of what that lost",
    )


def unlabelled(c: MetricInputs) -> str | None:
    """Return why a conditional model cannot use the real images.

    None if it can.
    """
    model, known = c.on_real_images.model, c.reference.images.label_names
    if model.labels and not set(model.labels) & set(known):
        return "the model needs the label of each real image, and the data has none that it knows"
    return None


def cannot_compare(c: MetricInputs, metric: str) -> str | None:
    """Return why pairs of images cannot be compared by a metric.

    None if they can.
    """
    if c.on_real_images.model.family.config.reads_domains:
        return "the source images have no true targets"
    if metric == "perceptual" and not isinstance(c.network, HasStages):
        return f"the layers of {c.network.name} cannot be compared place by place"
    if metric in ("ssim", "ms-ssim") and min(c.reference.images.size) < WINDOW:
        return f"it takes images of at least {WINDOW} pixels a side"
    return None
