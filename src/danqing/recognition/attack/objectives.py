"""What attacks raise: the error of a classifier, or the change of whatever else a model computes.

Each function returns an `Objective`. Logits are computed in the number format of the model and compared in
float64: the cross-entropy of a confident classifier is 0 in float32, and so is its gradient.
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from danqing.learners.perturbation import Objective, Verdict

Logits = Callable[[Tensor], Tensor]
"""From images `[n, c, h, w]` in [-1, 1] to logits `[n, k]`, with gradients."""


def cross_entropy(logits: Logits, labels: Tensor) -> Objective:
    """Return the cross-entropy of the true labels, int64 `[n]`.

    Done where another label wins.
    """

    def objective(images: Tensor, rows: Tensor) -> Verdict:
        found, true = logits(images).double(), labels[rows]
        return Verdict(F.cross_entropy(found, true, reduction="none"), found.argmax(1) != true)

    return objective


def margin(logits: Logits, labels: Tensor) -> Objective:
    """Return by how much the best wrong logit exceeds the true one.

    Done where it does.
    """

    def objective(images: Tensor, rows: Tensor) -> Verdict:
        found, true = logits(images).double(), labels[rows]
        return Verdict(_margin(found, true), found.argmax(1) != true)

    return objective


def difference_of_logits_ratio(logits: Logits, labels: Tensor) -> Objective:
    """Return the margin over the distance from first to third logit.

    Done as `margin`. Neither a shift nor a scale of the logits changes it. With two classes there is no third
    logit, and the margin is not divided. (Croce and Hein 2020, equation 6.)
    """

    def objective(images: Tensor, rows: Tensor) -> Verdict:
        found, true = logits(images).double(), labels[rows]
        value = _margin(found, true)
        if found.shape[1] > 2:
            best = found.topk(3, 1).values
            value = value / (best[:, 0] - best[:, 2] + 1e-12)
        return Verdict(value, found.argmax(1) != true)

    return objective


def binary_cross_entropy(logits: Logits, label_sets: Tensor) -> Objective:
    """Return the cross-entropy of several labels per image.

    Done where any label is wrong.
    label_sets: `[n, k]` in {0, 1}. A logit above 0 predicts its label.
    """

    def objective(images: Tensor, rows: Tensor) -> Verdict:
        found, true = logits(images).double(), label_sets[rows].double()
        value = F.binary_cross_entropy_with_logits(found, true, reduction="none").mean(1)
        return Verdict(value, ((found > 0) != (true > 0)).any(1))

    return objective


def worst_label(logits: Logits, label_sets: Tensor) -> Objective:
    """Return how far the worst of several labels is wrong.

    Done where any is.
    """

    def objective(images: Tensor, rows: Tensor) -> Verdict:
        found, true = logits(images).double(), label_sets[rows].double()
        return Verdict((found * (1 - 2 * true)).amax(1), ((found > 0) != (true > 0)).any(1))

    return objective


def squared_change(compute: Callable[[Tensor, Tensor], Tensor], references: Tensor) -> Objective:
    """Return the mean squared change of what a model computes.

    It is never done.
    compute: from images and their rows to vectors, images or codes `[n, ...]`. references: what it computes
        of the images before the attack. Codes are whole numbers, and differ by 0 or 1.
    """

    def objective(images: Tensor, rows: Tensor) -> Verdict:
        never = torch.zeros(len(rows), dtype=torch.bool, device=images.device)
        return Verdict(mean_square(compute(images, rows), references[rows]), never)

    return objective


def mean_square(results: Tensor, references: Tensor) -> Tensor:
    """Return the mean squared difference of each result `[n, ...]`, as of `squared_change`."""
    is_code = not results.is_floating_point()
    change = (results != references).float() if is_code else results - references
    return change.flatten(1).square().mean(1)


def _margin(logits: Tensor, labels: Tensor) -> Tensor:
    own = logits.gather(1, labels[:, None])[:, 0]
    others = logits.scatter(1, labels[:, None], -torch.inf)
    return others.amax(1) - own
