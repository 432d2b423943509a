"""Metrics of classifiers agree with scikit-learn, closed forms and resampling."""

import numpy as np
import pytest
import torch
from sklearn import metrics

from danqing.evaluation import classification as c
from danqing.evaluation.classification import Answers
from danqing.evaluation.estimate import Estimate

COUNT, LABELS = 600, 4


def answers(seed: int = 0, sharpness: float = 1.0, *, several: bool = False) -> Answers:
    """Answers that are calibrated at a temperature of `sharpness`."""
    rng = torch.Generator().manual_seed(seed)
    logits = 1.5 * torch.randn(COUNT, LABELS, generator=rng)
    logits[:, 0] += 1.0  # labels of several frequencies
    if several:
        targets = (torch.rand(logits.shape, generator=rng) < logits.sigmoid()).float()
    else:
        drawn = torch.multinomial(logits.softmax(1), 1, generator=rng)[:, 0]
        targets = torch.nn.functional.one_hot(drawn, LABELS).float()
    return Answers(sharpness * logits, targets, several)


def test_metrics_are_those_of_scikit_learn() -> None:
    found = answers()
    true, said = found.true, found.said
    assert c.accuracy(found).value == pytest.approx(metrics.accuracy_score(true, said))
    assert c.balanced_accuracy(found).value == pytest.approx(metrics.balanced_accuracy_score(true, said))
    assert c.mean_f1(found).value == pytest.approx(metrics.f1_score(true, said, average="macro"))
    assert (c.confusion(found) == metrics.confusion_matrix(true, said)).all()
    loss = metrics.log_loss(true, found.probabilities(2.0).numpy())
    assert c.negative_log_likelihood(found, 2.0).value == pytest.approx(loss, rel=1e-5)
    several = answers(several=True)
    has, named = several.targets.numpy(), (several.logits > 0).numpy()
    assert c.mean_f1(several).value == pytest.approx(metrics.f1_score(has, named, average="macro"))
    assert c.exact_match(several).value == pytest.approx(metrics.accuracy_score(has, named))
    assert c.accuracy(several).value == pytest.approx(float((has == named).mean()))


@pytest.mark.parametrize(
    ("metric", "several"),
    [
        (c.balanced_accuracy, False),
        *((metric, False) for metric in (c.mean_f1, c.calibration_error, c.negative_log_likelihood)),
        *((metric, True) for metric in (c.mean_f1, c.calibration_error, c.negative_log_likelihood)),
    ],
)
def test_an_interval_is_as_wide_as_the_values_of_other_samples_differ(metric, several: bool) -> None:
    sharp = 3.0 if metric is c.calibration_error else 1.0  # a bias beside which the noise is small
    values = [metric(answers(seed, sharp, several=several)).value for seed in range(80)]
    found: Estimate = metric(answers(0, sharp, several=several))
    low, high = found.interval() or (0.0, 0.0)
    assert (high - low) / 3.92 == pytest.approx(np.std(values), rel=0.35)


@pytest.mark.parametrize("several", [False, True])
def test_the_fitted_temperature_is_the_one_that_was_hidden(several: bool) -> None:
    found = answers(3, 2.5, several=several)
    temperature = c.fit_temperature(found)
    assert temperature == pytest.approx(2.5, rel=0.2)
    step = c.negative_log_likelihood(found, temperature * 1.02).value
    assert step > c.negative_log_likelihood(found, temperature).value


def test_a_temperature_makes_probabilities_as_good_as_they_say() -> None:
    found = answers(1, 4.0)
    assert c.calibration_error(found).value > 0.15
    assert c.calibrated_error(found).value < 0.06
    whole = answers(1)
    assert c.calibration_error(whole, 1.0).value < 0.06
    counts = sum(count for _, _, count in c.reliability(whole))
    assert counts == COUNT


def test_certain_and_right_answers_have_no_calibration_error() -> None:
    targets = torch.eye(3).repeat(5, 1)
    assert c.calibration_error(Answers(1000 * targets, targets)).value == 0
    assert c.calibration_error(Answers(1000 * targets.roll(1, 1), targets)).value == pytest.approx(1)
