"""How well a classifier recognizes labelled images: accuracy, F1, confusion and calibration.

Each metric is a function of logits or answers that returns an estimate with its interval.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from danqing.evaluation.estimate import Estimate, mean_of, share_of
from danqing.learners.probabilities import probabilities

BINS = 15
"""Groups of about equal size into which confidences are sorted for the calibration error."""
_LEAST_TEMPERATURE, _MOST_TEMPERATURE = 0.05, 20.0
_SEARCH_STEPS = 32


class Answers(NamedTuple):
    """What a classifier says of labelled images.

    logits: `[n, k]` float32, before the temperature. targets: `[n, k]` in {0, 1}, float32.
    is_multi_label: whether an image may have several labels.
    """

    logits: Tensor
    targets: Tensor
    is_multi_label: bool = False

    def probabilities(self, temperature: float = 1.0) -> Tensor:
        """Return the probability of each label, `[n, k]`."""
        return probabilities(self.logits, temperature, is_multi_label=self.is_multi_label)

    @property
    def true(self) -> NDArray[np.int64]:
        """Return the label of each image, `[n]`, where each has one."""
        return self.targets.argmax(1).numpy()

    @property
    def said(self) -> NDArray[np.int64]:
        """Return the most probable label of each image, `[n]`."""
        return self.logits.argmax(1).numpy()

    @property
    def right(self) -> Tensor:
        """Return whether the label of each image is right, `[n]` bool.

        Where an image may have several labels, it is the share of its decisions that are, float64.
        """
        if self.is_multi_label:
            return ((self.logits > 0) == (self.targets > 0.5)).double().mean(1)
        return torch.from_numpy(self.true == self.said)

    def part(self, rows: slice) -> "Answers":
        """Return the answers on some of the images."""
        return Answers(self.logits[rows], self.targets[rows], self.is_multi_label)


def accuracy(answers: Answers) -> Estimate:
    """Return the share of images whose most probable label is right.

    Where an image may have several labels, it is the share of right decisions at a probability of one half.
    """
    return mean_of(answers.right)


def exact_match(answers: Answers) -> Estimate:
    """Return the share of images whose whole set of labels is right."""
    return share_of(((answers.logits > 0) == (answers.targets > 0.5)).all(1))


def balanced_accuracy(answers: Answers) -> Estimate:
    """Return the accuracy on images of one label, averaged over labels."""
    true, said = answers.true, answers.said
    present = np.unique(true)
    shares = np.zeros(len(true))
    total = 0.0
    for label in present:
        of_label = true == label
        recall = float((said[of_label] == label).mean())
        total += recall / len(present)
        shares[of_label] = (said[of_label] == label) - recall  # of a ratio of means
        shares[of_label] *= len(true) / (of_label.sum() * len(present))
    return Estimate(total, (torch.from_numpy(shares),), least=0.0, most=1.0)


def mean_f1(answers: Answers) -> Estimate:
    """Return the mean F1 over the labels that occur, in [0, 1].

    With several labels per image, a label is said where its probability is over one half.
    """
    if answers.is_multi_label:
        return f1_of(answers.targets > 0.5, answers.logits > 0)
    return macro_f1(answers.true, answers.said)


def macro_f1(true: NDArray[np.int64], said: NDArray[np.int64]) -> Estimate:
    """Return the mean F1 over the labels that occur.

    true, said: the labels of images, `[n]`.
    """
    labels = torch.from_numpy(np.unique(true))
    return f1_of(torch.from_numpy(true)[:, None] == labels, torch.from_numpy(said)[:, None] == labels)


def f1_of(of_label: Tensor, said: Tensor) -> Estimate:
    """Return the mean F1 over the labels that occur.

    of_label, said: booleans `[n, k]`, whether an image has a label, and whether it is said to have it.
    F1 = 2 h / (t + s), with h hits among t images of a label and s answers of it; its influences are the
    derivative of that by each image's weight.
    """
    present = of_label.any(0)
    of_label, said = of_label[:, present].double(), said[:, present].double()
    hits, sizes = of_label * said, of_label + said
    total, size = hits.sum(0), sizes.sum(0)
    influences = (2 * hits / size - 2 * total * sizes / size**2).mean(1) * len(hits)
    return Estimate(float((2 * total / size).mean()), (influences,), least=0.0, most=1.0)


def negative_log_likelihood(answers: Answers, temperature: float = 1.0) -> Estimate:
    """Return the mean negative log-likelihood of the true labels in nats.

    Where an image may have several labels, it is that of a single decision.
    """
    scaled = answers.logits.double() / temperature
    if answers.is_multi_label:
        each = F.binary_cross_entropy_with_logits(scaled, answers.targets.double(), reduction="none").mean(1)
    else:
        each = F.cross_entropy(scaled, torch.from_numpy(answers.true), reduction="none")
    return mean_of(each)


def calibration_error(answers: Answers, temperature: float = 1.0) -> Estimate:
    """Return the expected calibration error in [0, 1].

    It is the mean distance between confidence and accuracy in groups of images of similar confidence (Naeini
    et al. 2015), which have about equal sizes (Nixon et al. 2019). With several labels per image, the
    confidence is that of each decision. Influences are the derivative by each image's weight, with the groups
    kept.
    """
    confidence, right = _decisions(answers, temperature)
    gaps = (confidence - right).flatten()
    error, signed = 0.0, torch.zeros_like(gaps)
    for rows in _groups(confidence):
        gap = gaps[rows].sum() / len(gaps)
        error += float(gap.abs())
        signed[rows] = gaps[rows] * gap.sign()
    influences = signed.view(len(answers.logits), -1).mean(1)
    return Estimate(error, (influences,), least=0.0, most=1.0)


def reliability(answers: Answers, temperature: float = 1.0) -> list[tuple[float, float, int]]:
    """Return the mean confidence, the accuracy and the size of each group."""
    confidence, right = _decisions(answers, temperature)
    parts = [(confidence.flatten()[rows], right.flatten()[rows]) for rows in _groups(confidence)]
    return [(round(float(c.mean()), 4), round(float(r.mean()), 4), len(c)) for c, r in parts]


def _decisions(answers: Answers, temperature: float) -> tuple[Tensor, Tensor]:
    """The confidence of each decision and whether it is right, `[n, 1]`, or `[n, k]` with several labels."""
    chance = answers.probabilities(temperature).double()
    if answers.is_multi_label:
        right = (answers.logits > 0) == (answers.targets > 0.5)
        return torch.maximum(chance, 1 - chance), right.double()
    right = torch.from_numpy(answers.true == answers.said)
    return chance.max(1, keepdim=True).values, right.double()[:, None]


def _groups(confidence: Tensor) -> tuple[Tensor, ...]:
    """The decisions in groups of about equal size, sorted by confidence."""
    order = confidence.flatten().argsort(stable=True)
    return order.tensor_split(min(BINS, len(order)))


def confusion(answers: Answers) -> NDArray[np.int64]:
    """Count how often each label (row) is called each label (column), `[k, k]`."""
    k = answers.targets.shape[1]
    counts: NDArray[np.int64] = np.bincount(answers.true * k + answers.said, minlength=k * k)
    return counts.reshape(k, k)


def fit_temperature(answers: Answers) -> float:
    """Return the temperature that makes the true labels most likely (Guo et al. 2017, section 4.2).

    The negative log-likelihood is convex in the inverse temperature, so that a golden-section search in its
    logarithm finds the minimum.
    """

    def loss(log_temperature: float) -> float:
        return negative_log_likelihood(answers, float(np.exp(log_temperature))).value

    return float(np.exp(_minimum(loss, np.log(_LEAST_TEMPERATURE), np.log(_MOST_TEMPERATURE))))


def calibrated_error(answers: Answers) -> Estimate:
    """Return the calibration error with a temperature of other images.

    The images are split in two by turns. Each half is measured with the temperature of the other.
    """
    halves = [answers.part(slice(start, None, 2)) for start in (0, 1)]
    temperatures = [fit_temperature(half) for half in reversed(halves)]
    logits = torch.empty_like(answers.logits)
    for start, half, temperature in zip((0, 1), halves, temperatures, strict=True):
        logits[start::2] = half.logits / temperature
    return calibration_error(answers._replace(logits=logits))


def _minimum(function: Callable[[float], float], low: float, high: float) -> float:
    """Return where a function with one minimum is smallest, by golden-section search (Kiefer 1953)."""
    golden = (np.sqrt(5) - 1) / 2
    left, right = high - golden * (high - low), low + golden * (high - low)
    at_left, at_right = function(left), function(right)
    for _ in range(_SEARCH_STEPS):
        if at_left < at_right:
            high, right, at_right = right, left, at_left
            left = high - golden * (high - low)
            at_left = function(left)
        else:
            low, left, at_left = left, right, at_right
            right = low + golden * (high - low)
            at_right = function(right)
    return float((low + high) / 2)
