"""Probes against scikit-learn, and by what they must answer."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from torch.nn import functional as F

from danqing.errors import EvaluationError
from danqing.evaluation.probes import (
    fit_linear,
    neighbour_accuracy,
    neighbour_votes,
    partner_accuracy,
)


@pytest.fixture
def clouds() -> tuple[torch.Tensor, torch.Tensor]:
    """300 vectors around three middles, and their labels."""
    rng = torch.Generator().manual_seed(0)
    labels = torch.randint(3, (300,), generator=rng)
    middles = torch.randn(3, 8, generator=rng)
    return middles[labels] + 0.8 * torch.randn(300, 8, generator=rng), labels


def test_neighbours_vote_as_in_scikit_learn(clouds: tuple[torch.Tensor, torch.Tensor]) -> None:
    vectors, labels = clouds
    units = F.normalize(vectors, dim=1).numpy()
    oracle = KNeighborsClassifier(
        20, metric="cosine", algorithm="brute", weights=lambda distances: np.exp((1 - distances) / 0.07)
    ).fit(units[:200], labels[:200].numpy())
    found = neighbour_votes(vectors[200:], vectors[:200], labels[:200])
    assert found.tolist() == oracle.predict(units[200:]).tolist()


def test_no_image_votes_for_itself() -> None:
    vectors = torch.tensor([[1.0, 0], [0.99, 0.1], [0, 1], [0.1, 0.99]])
    labels = torch.tensor([0, 1, 1, 0])
    assert neighbour_accuracy(vectors, labels, k=1).value == 0
    with pytest.raises(EvaluationError, match="at least two"):
        neighbour_accuracy(vectors[:1], labels[:1])


def test_partners_find_each_other_up_to_noise() -> None:
    rng = torch.Generator().manual_seed(0)
    vectors = torch.randn(50, 16, generator=rng)
    near = vectors + 0.01 * torch.randn(50, 16, generator=rng)
    assert partner_accuracy(vectors, near).value == 1
    assert partner_accuracy(vectors, torch.randn(50, 16, generator=rng)).value < 0.2


def test_a_linear_probe_is_the_logistic_regression_of_scikit_learn(
    clouds: tuple[torch.Tensor, torch.Tensor],
) -> None:
    vectors, labels = clouds
    probe = fit_linear(vectors[:200], labels[:200], strength=1e-2)
    x = ((vectors - vectors[:200].mean(0)) / vectors[:200].std(0, correction=0)).numpy()
    oracle = LogisticRegression(C=1 / (1e-2 * 200), tol=1e-8, max_iter=1000).fit(
        x[:200], labels[:200].numpy()
    )
    found = probe.logits(vectors[200:]).softmax(1).numpy()
    assert np.allclose(found, oracle.predict_proba(x[200:]), atol=1e-3)
    with pytest.raises(EvaluationError, match="two labels"):
        fit_linear(vectors, torch.zeros(300, dtype=torch.int64))
