"""Which contestants are judged next: those whose order is least certain."""

from collections.abc import Sequence
from itertools import combinations

import numpy as np

from danqing.judging.ratings import Floats, Ratings, fit, probabilities
from danqing.judging.stopping import parted
from danqing.judging.votes import LEFT, RIGHT, Ints, Votes


def choose_next(
    votes: Votes, size: int, generator: np.random.Generator, *, waiting: Sequence[Sequence[int]] = ()
) -> list[int]:
    """Choose the contestants of the next ballot, from left to right.

    size: 2 or 4.
    waiting: the contestants of ballots that are shown at present, which will be answered as well.

    A pair is worth the information that its answer adds about its difference (Fisher's, times the variance of
    the difference). Pairs whose intervals part are worth nothing, as long as others do not. Equal ones are
    drawn at random, and so are the sides.
    """
    rated = fit(votes)
    worth = _worth(rated, _with_waiting(rated, votes, waiting))
    k = votes.contestants
    worth = worth + generator.random((k, k)) * 1e-9 * (1 + worth)
    worth = np.triu(worth, 1) + np.triu(worth, 1).T
    np.fill_diagonal(worth, -np.inf)
    first, second = divmod(int(np.argmax(worth)), k)
    chosen = [first, second]
    np.fill_diagonal(worth, 0)
    while len(chosen) < size:
        gain = worth[:, chosen].sum(axis=1)
        gain[chosen] = -np.inf
        chosen.append(int(np.argmax(gain)))
    generator.shuffle(chosen)
    return chosen


def choose_subject(seen: Ints, others: Ints, generator: np.random.Generator, *, repeat: bool = False) -> int:
    """Choose which pictures are shown: those that the rater has seen least.

    seen, others: how often this rater, and the other raters, have judged each subject, `[subjects]`.
    repeat: whether to prefer what others have judged, from which the agreement of raters is estimated.
    """
    fresh = np.flatnonzero(seen == seen.min())
    if repeat and (others[fresh] > 0).any():
        fresh = fresh[others[fresh] > 0]
    return int(generator.choice(fresh))


def _with_waiting(rated: Ratings, votes: Votes, waiting: Sequence[Sequence[int]]) -> Floats:
    """Return the covariance of the ratings once the ballots that are shown have been answered."""
    k = votes.contestants
    # The spread over raters says little after a few votes. What the votes inform about is the model's.
    information = np.zeros((k, k))
    shown = [pair for ballot in waiting for pair in combinations(ballot, 2)]
    implied = [votes.fours[:, list(pair)] for pair in ((0, 1), (0, 2), (0, 3), (1, 3), (2, 3))]
    counts = [votes.four_count if votes.four_count is not None else np.ones(len(votes.fours))] * 5
    pairs = np.concatenate([votes.pairs, *implied, np.array(shown, np.int64).reshape(-1, 2)])
    own = votes.pair_count if votes.pair_count is not None else np.ones(len(votes.pairs))
    weight = np.concatenate([own, *counts, np.ones(len(shown))]).astype(float)
    worth = weight * _information(rated, pairs)
    np.add.at(information, (pairs[:, 0], pairs[:, 1]), -worth)
    information = information + information.T
    information -= np.diag(information.sum(axis=1))
    return np.asarray(np.linalg.inv(information + np.eye(k) * _VAGUE), np.float64)


_VAGUE = 0.1
"""The precision of ratings before any vote: differences of about 4 in log-odds are not surprising."""


def _information(rated: Ratings, pairs: Ints) -> Floats:
    """Return what one vote tells about the difference of a pair, `[n]`."""
    p = probabilities(rated, pairs)
    return np.asarray((p[:, LEFT] + p[:, RIGHT] - (p[:, LEFT] - p[:, RIGHT]) ** 2) / 4)


def _worth(rated: Ratings, covariance: Floats) -> Floats:
    k = len(rated.values)
    pairs = np.array(list(combinations(range(k), 2)), np.int64)
    variance = np.diag(covariance)
    apart = variance[:, None] + variance[None, :] - 2 * covariance
    gain = np.log1p(_information(rated, pairs) * apart[pairs[:, 0], pairs[:, 1]])
    is_open = ~np.array([parted(rated, int(a), int(b)) for a, b in pairs])
    if is_open.any():
        gain = gain * is_open
    worth = np.zeros((k, k))
    worth[pairs[:, 0], pairs[:, 1]] = gain
    return worth
