import numpy as np
import pytest
import torch
from torch.nn import functional as F

from danqing.errors import EvaluationError
from danqing.recognition.cleaning.label_errors import find_label_errors
from danqing.recognition.cleaning.label_probabilities import leave_one_out


def noisy(seed: int, n: int = 2000, k: int = 4) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Probabilities of a fair classifier, labels of which 8% are flipped, and which of them are."""
    rng = np.random.default_rng(seed)
    true = rng.integers(0, k, n)
    logits = rng.normal(size=(n, k)) + 2.0 * np.eye(k)[true]
    probabilities = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    is_flipped = rng.random(n) < 0.08
    labels = np.where(is_flipped, (true + rng.integers(1, k, n)) % k, true)
    return probabilities.astype(np.float32), labels, is_flipped


@pytest.mark.parametrize("seed", range(4))
def test_the_same_images_are_found_as_by_cleanlab(seed: int) -> None:
    filters = pytest.importorskip("cleanlab.filter")
    probabilities, labels, is_flipped = noisy(seed)
    found = find_label_errors(probabilities, labels)
    theirs = np.flatnonzero(filters.find_label_issues(labels, probabilities, n_jobs=1))
    assert len(np.setxor1d(found.rows, theirs)) <= 0.05 * len(theirs)
    assert abs(is_flipped[found.rows].mean() - is_flipped[theirs].mean()) < 0.01


def test_the_joint_counts_add_up_to_the_labels() -> None:
    probabilities, labels, _ = noisy(0)
    joint = find_label_errors(probabilities, labels).joint
    np.testing.assert_allclose(joint.sum(1), np.bincount(labels))


def test_certain_flips_are_found_and_come_first() -> None:
    labels = np.repeat([0, 1, 2], 10)
    probabilities = np.eye(3, dtype=np.float32)[labels] * 0.7 + 0.1
    probabilities[3], probabilities[17] = [0.0, 0.9, 0.1], [0.8, 0.1, 0.1]
    found = find_label_errors(probabilities, labels)
    assert found.rows.tolist() == [3, 17]
    assert found.suggested.tolist() == [1, 0]
    np.testing.assert_allclose(found.given, [0.0, 0.1], rtol=1e-5)
    np.testing.assert_allclose(found.better, [0.9, 0.8], rtol=1e-5)


def test_images_without_a_label_and_rare_labels_are_not_judged() -> None:
    probabilities, labels, _ = noisy(1)
    labels[:50] = -1
    labels[labels == 3] = np.where(np.arange((labels == 3).sum()) < 3, 3, 2)
    found = find_label_errors(probabilities, labels)
    assert not (labels[found.rows] < 0).any()
    assert not ((labels[found.rows] == 3) | (found.suggested == 3)).any()
    with pytest.raises(EvaluationError, match="one label below 4"):
        find_label_errors(probabilities, labels[:-1])


@pytest.mark.parametrize("size", [5, 80])
def test_leaving_one_out_in_closed_form_equals_fitting_without_it(size: int) -> None:
    rng = np.random.default_rng(0)
    n, k = 60, 3
    labels = rng.integers(0, k, n)
    labels[:4] = -1
    features = torch.from_numpy(rng.normal(size=(n, size)))
    features[:, 0] += torch.from_numpy(2.0 * labels)
    found = leave_one_out(features.float(), labels, k)
    np.testing.assert_allclose(found.sum(1), 1, rtol=1e-5)
    known = np.flatnonzero(labels >= 0)
    centre = features[known].mean(0)
    rows = torch.cat([features - centre, torch.ones(n, 1, dtype=torch.float64)], 1)
    targets = F.one_hot(torch.from_numpy(labels.clip(0)), k).double()
    unit = float((features - centre)[known].square().sum()) / min(len(known), size)
    scores = []
    for strength in 10.0 ** np.arange(-2.5, 0.6, 0.5):
        penalty = torch.eye(size + 1, dtype=torch.float64) * strength * unit
        penalty[-1, -1] = 0
        fitted = torch.zeros(n, k, dtype=torch.float64)
        for row in range(n):
            others = [other for other in known if other != row]
            matrix, right = rows[others].T @ rows[others] + penalty, rows[others].T @ targets[others]
            fitted[row] = rows[row] @ torch.linalg.solve(matrix, right)
        scores.append(((fitted - targets)[known].square().mean().item(), fitted))
    best = min(scores, key=lambda pair: pair[0])[1]
    sharpness = np.log(found[10, 0] / found[10, 1]) / float(best[10, 0] - best[10, 1])
    np.testing.assert_allclose(found, (best * sharpness).softmax(1).numpy(), atol=0.02)
