import pytest
import torch
from sklearn.covariance import LedoitWolf

from danqing.errors import EvaluationError
from danqing.evaluation.roc import roc_area
from danqing.recognition.outside import (
    ClassDistance,
    energy,
    neighbour_distance,
    root_normalized,
    shrunk_covariance,
    typicality,
    uncertainty,
)
from tests.recognition.tiny_classifier import classifier, digits


def test_covariances_are_shrunk_as_scikit_learn_shrinks_them() -> None:
    rows = torch.randn(40, 25, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    rows -= rows.mean(0)
    theirs = LedoitWolf(assume_centered=True).fit(rows.numpy()).covariance_
    assert torch.allclose(shrunk_covariance(rows), torch.from_numpy(theirs), atol=1e-8)


def test_the_distance_of_classes_is_in_standard_deviations() -> None:
    rng = torch.Generator().manual_seed(0)
    spread = torch.tensor([0.1, 3.0])
    rows = torch.randn(4000, 2, generator=rng) * spread
    labels = torch.arange(4000) % 2
    rows[labels == 1] += torch.tensor([5.0, 0.0])
    distance = ClassDistance.fit(rows, labels)
    found = distance(torch.tensor([[0.0, 0.0], [0.2, 0.0], [0.0, 6.0], [5.3, 0.0]]))
    assert found.tolist() == pytest.approx([0, 2, 2, 3], abs=0.12)
    with pytest.raises(EvaluationError, match="at least two"):
        ClassDistance.fit(rows[:1])


def test_features_separate_upside_down_noise_and_digits() -> None:
    images, labels = digits()
    trunk = classifier()[:-1]
    training, inside = trunk(images[:1000]), trunk(images[-400:])
    outside = trunk(torch.rand(200, 1, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1)
    by_class = ClassDistance.fit(training, labels[:1000])
    assert roc_area(by_class(outside), by_class(inside)).value > 0.95
    near = [
        neighbour_distance(root_normalized(rows), root_normalized(training)) for rows in (outside, inside)
    ]
    assert roc_area(*near).value > 0.9
    for measure in (energy, uncertainty):
        found = (measure(classifier()[-1:](rows)) for rows in (outside, inside))
        assert roc_area(*found).value > 0.7


def test_what_is_too_likely_is_not_typical() -> None:
    training = torch.randn(1000, generator=torch.Generator().manual_seed(0)) + 10
    inside, simple = training[:500], torch.full((50,), 5.0)
    assert roc_area(simple, inside).value < 0.01  # by the likelihood itself, simple images are the likeliest
    assert roc_area(typicality(simple, training), typicality(inside, training)).value > 0.99
