"""The small classifier learns digits in seconds, and the same from the same seed."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import f1_score

import danqing as dq
from danqing.data.splits import hold_out
from danqing.errors import EvaluationError
from danqing.evaluation.classification import macro_f1
from danqing.evaluation.image_sets import map_labels
from danqing.evaluation.judges import classifier
from danqing.evaluation.judges.classifier import fit
from danqing.evaluation.judges.small_networks import prepared


def test_it_learns_digits_and_repeats_itself() -> None:
    learnt, fresh = hold_out(dq.open_dataset("digits"), 0.3)
    before = torch.get_rng_state()
    first = fit(learnt, limit=400, seed=1)
    assert torch.equal(torch.get_rng_state(), before)
    said = first.predict(fresh)
    assert (said == fresh.labels).mean() > 0.85
    torch.manual_seed(7)
    assert np.array_equal(fit(learnt, limit=400, seed=1).predict(fresh), said)
    assert not np.array_equal(fit(learnt, limit=400, seed=2).predict(fresh), said)
    assert np.array_equal(first.predict(fresh, np.array([5, 2])), said[[5, 2]])


def test_it_computes_in_float32_on_every_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    formats = set()

    def told(images: torch.Tensor) -> torch.Tensor:
        formats.add((torch.ones(1, 1) @ prepared(images).flatten(1)[:1, :1]).dtype)
        return prepared(images)

    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: True)
    monkeypatch.setattr(classifier, "prepared", told)
    monkeypatch.setattr(classifier, "_EPOCHS", (1, 1))
    digits = dq.open_dataset("digits")
    fit(digits, limit=64).predict(digits, np.arange(9))
    assert formats == {torch.float32}


def test_only_the_labels_that_are_asked_for_are_learnt() -> None:
    digits = dq.open_dataset("digits")
    names = ("7", "1", "cow")
    labels = map_labels(digits, names)
    assert set(labels) == {-1, 0, 1}
    assert np.array_equal(labels == 0, digits.labels == 7)
    learnt = fit(digits, label_names=names, limit=200)
    rows = np.flatnonzero(labels >= 0)
    assert (learnt.predict(digits, rows) == labels[rows]).mean() > 0.95


def test_one_label_teaches_nothing() -> None:
    with pytest.raises(EvaluationError, match="at least two labels"):
        fit(dq.open_dataset("digits"), label_names=("3",))


@given(st.integers(0, 2**32 - 1), st.integers(2, 60), st.integers(2, 5))
def test_macro_f1_is_that_of_scikit_learn(seed: int, count: int, labels: int) -> None:
    rng = np.random.default_rng(seed)
    true, said = rng.integers(0, labels, (2, count))
    estimate = macro_f1(true, said)
    assert np.isclose(estimate.value, f1_score(true, said, labels=np.unique(true), average="macro"))
    # its influences are the derivative by each image's weight: doubling all weights changes nothing
    assert np.isclose(float(estimate.influences[0].mean()), 0, atol=1e-9)


def test_the_interval_of_f1_is_that_of_resampling() -> None:
    rng = np.random.default_rng(0)
    true = rng.integers(0, 4, 400)
    said = np.where(rng.random(400) < 0.8, true, rng.integers(0, 4, 400))
    again = [macro_f1(true[rows], said[rows]).value for rows in rng.integers(0, 400, (600, 400))]
    interval = macro_f1(true, said).interval()
    assert interval is not None
    assert np.allclose(interval, np.quantile(again, [0.025, 0.975]), atol=0.012)
