"""Whether a change of the training data helps: two classifiers on the same held-out images."""

from typing import Any

from danqing.data import Dataset
from danqing.evaluation.classifier_scores import answer
from danqing.evaluation.estimate import Estimate, mean_of
from danqing.learners.abilities import Classifies
from danqing.model.recognizer import Recognizer


def measured(what: str, one: Recognizer, other: Recognizer, judged: Dataset, seed: int) -> dict[str, Any]:
    """Return the difference of the accuracies of two classifiers.

    what: the change in words, such as "Generated images".
    """
    assert isinstance(one.learner, Classifies)
    assert isinstance(other.learner, Classifies)
    change = difference(one.learner, other.learner, judged)
    low, high = change.interval(seed) or (change.value, change.value)
    told = {"difference": change.value, "interval": [low, high]}
    return {**told, "verdict": verdict(what, change.value, low, high, len(change.influences[0]))}


def difference(one: Classifies, other: Classifies, judged: Dataset) -> Estimate:
    """Return the accuracy of one classifier less that of another."""
    answers = [answer(each, judged)[0] for each in (one, other)]
    return mean_of(answers[0].right.double() - answers[1].right.double())


def verdict(what: str, change: float, low: float, high: float, images: int) -> str:
    """Return a sentence on a difference of accuracies and its interval."""
    measured = f"95% interval {100 * low:+.1f} to {100 * high:+.1f}, {images:,} held-out images"
    if low > 0:
        return f"{what} add {100 * change:.1f} points of accuracy ({measured})."
    effect = "lower the accuracy" if high < 0 else "do not help measurably"
    return f"{what} {effect}: {100 * change:+.1f} points ({measured})."
