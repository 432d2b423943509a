"""The EMA length that samples best: averages of several lengths, scored on held-out images."""

import copy
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from danqing.families.base import Learner
from danqing.training.listener import Scored
from danqing.training.post_hoc import averages_of, error_share, reconstruct
from danqing.training.schedule import Budget
from danqing.training.snapshots import Snapshot
from danqing.training.validation import Validation

LADDER = (0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.2, 0.25)
MOST_ERROR = 0.1
"""The error of a reconstruction, as `error_share` returns it, up to which it stands for its length."""


def score_lengths(
    validation: Validation,
    snapshots: Sequence[Snapshot],
    learner: Learner,
    trained: Mapping[str, Any],
    budget: Budget,
) -> Iterator[Scored]:
    """Score one EMA length after another until both neighbours of the best are known.

    The validation keeps the best model. What it has scored already at these images is not scored again.

    learner: has the weights of the last snapshot's first average.
    trained: what the model folder says of its training.
    """
    last, candidate = snapshots[-1], copy.deepcopy(learner)
    lengths = usable_lengths(snapshots)
    while (
        length := next_length(validation.scored_lengths(last.images), lengths, last.lengths[0])
    ) is not None:
        candidate.load_state_dict(learner.state_dict() | reconstruct(snapshots, length))
        yield validation.score(candidate, {**trained, "ema_length": length}, last.images, budget)


def usable_lengths(snapshots: Sequence[Snapshot]) -> list[float]:
    """Return the lengths to choose from that the snapshots give exactly enough, in ascending order."""
    last, averages = snapshots[-1], averages_of(snapshots)
    lengths = {length for length in LADDER if error_share(averages, last.images, length) <= MOST_ERROR}
    return sorted(lengths | set(last.lengths))


def next_length(scored: Mapping[float, float], lengths: Sequence[float], first: float) -> float | None:
    """Return the length to score next, or None if the best one is between two that are worse.

    scored: by length, lower is better. lengths: to choose from, in ascending order. first: scored first.
    """
    known = {length: scored[length] for length in lengths if length in scored}
    if not known:
        return first
    place = lengths.index(min(known, key=lambda length: known[length]))
    neighbours = lengths[max(place - 1, 0) : place + 2]
    return next((length for length in neighbours if length not in known), None)
