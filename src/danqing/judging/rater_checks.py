"""Which raters vote carelessly, or with a bias: by attention checks, by sides, and by what others vote."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from danqing.judging.quantiles import normal_quantile
from danqing.judging.ratings import Floats, Ratings, fit, probabilities
from danqing.judging.votes import LEFT, RIGHT, TIE, Votes

FALSE_ALARMS = 0.05
"""The probability that any honest rater of a contest is suspected by one test of votes."""
MOST_FAILED = 0.34
"""The share of attention checks that a rater may fail."""
MOST_OF_ONE_SIDE = 0.7
"""The share of pairs in which a rater may prefer one side. A little is human, and sides are shuffled."""
FEWEST_CHECKS = 3
FEWEST_VOTES = 10


@dataclass(frozen=True, slots=True)
class CheckCount:
    """The attention checks that a rater answered, and those that failed."""

    answered: int
    failed: int


@dataclass(frozen=True, slots=True)
class RaterCheck:
    """What was found about one rater.

    left: the share of pairs without a tie where the left side was preferred; NaN without any.
    fit: how much less likely the votes are than those of others, in standard deviations.
    favourite: the contestant that the rater prefers most against the others; lean: by how many standard
        deviations.
    reasons: why the votes are suspected: "checks", "side", "disagrees" or "favours"; empty if they are not.
    """

    votes: int
    checks: CheckCount
    left: float
    fit: float
    favourite: int
    lean: float
    reasons: tuple[str, ...]

    @property
    def is_careless(self) -> bool:
        """Return whether the votes say little about the pictures.

        A rater who favours a contestant may be honest, and is only reported.
        """
        return any(reason != "favours" for reason in self.reasons)


def check_raters(votes: Votes, checks: Mapping[int, CheckCount] | None = None) -> list[RaterCheck]:
    """Check each rater against the votes of all.

    checks: the attention checks by rater.

    Tastes differ. So a rater is compared with the spread over all raters, and not with what one model of all
    votes predicts.
    """
    rated = fit(votes)
    pair, four = votes.pair_rater, votes.four_rater
    n = np.bincount(pair, minlength=votes.raters) + np.bincount(four, minlength=votes.raters)
    decided = votes.outcome != TIE
    decisions = np.bincount(pair[decided], minlength=votes.raters)
    lefts = np.bincount(pair[decided & (votes.outcome == LEFT)], minlength=votes.raters)
    fits = _person_fit(votes, rated)
    leans = _leans(votes, rated)
    voters = int((n > 0).sum())
    limit = normal_quantile(1 - FALSE_ALARMS / 2 / max(1, voters))
    unlikely = normal_quantile(1 - FALSE_ALARMS / max(1, voters))
    many = normal_quantile(1 - FALSE_ALARMS / 2 / max(1, voters * votes.contestants))
    usual = _usual_side(lefts, decisions)
    found = []
    for rater in range(votes.raters):
        told = (checks or {}).get(rater, CheckCount(0, 0))
        enough = n[rater] >= FEWEST_VOTES
        reasons = []
        if told.answered >= FEWEST_CHECKS and told.failed > MOST_FAILED * told.answered:
            reasons.append("checks")
        share = lefts[rater] / decisions[rater] if decisions[rater] else float("nan")
        one_sided = max(share, 1 - share) > MOST_OF_ONE_SIDE
        if decisions[rater] >= FEWEST_VOTES and one_sided and abs(usual[rater]) > limit:
            reasons.append("side")
        if enough and fits[rater] > unlikely:
            reasons.append("disagrees")
        favourite = int(np.argmax(np.nan_to_num(leans[rater], nan=-np.inf)))
        if enough and leans[rater, favourite] > many:
            reasons.append("favours")
        found.append(
            RaterCheck(
                votes=int(n[rater]),
                checks=told,
                left=float(share),
                fit=float(fits[rater]),
                favourite=favourite,
                lean=float(leans[rater, favourite]),
                reasons=tuple(reasons),
            )
        )
    return found


def careful(found: Sequence[RaterCheck]) -> NDArray[np.bool_]:
    """Return which raters' votes are used, `[raters]`."""
    return np.array([not one.is_careless for one in found], bool)


def _usual_side(lefts: NDArray[np.int64], decisions: NDArray[np.int64]) -> Floats:
    """Return how far each rater's share of left sides is from a half, in standard deviations."""
    return np.asarray((2 * lefts - decisions) / np.sqrt(np.maximum(decisions, 1)))


def _person_fit(votes: Votes, rated: Ratings) -> Floats:
    """Return by how much each rater's votes are less likely than expected (the statistic lz of Drasgow 1985).

    For a best and worst of four, the five pairs that it implies stand for it, so that its deviation is larger
    than of independent votes; the spread over raters takes care of that.
    """
    pairs, outcome, rater = _as_pairs(votes)
    p = probabilities(rated, pairs)
    surprise = -np.log(np.maximum(p, 1e-300))
    expected = np.where(p > 0, p * surprise, 0).sum(axis=1)
    spread = np.where(p > 0, p * surprise**2, 0).sum(axis=1) - expected**2
    excess = surprise[np.arange(len(p)), outcome] - expected
    total = np.bincount(rater, excess, votes.raters)
    variance = np.bincount(rater, spread, votes.raters)
    z = np.divide(total, np.sqrt(variance), out=np.full(votes.raters, np.nan), where=variance > 0)
    return _against_the_spread(z)


def _leans(votes: Votes, rated: Ratings) -> Floats:
    """Return how much more each rater prefers each contestant than others do, `[raters, contestants]`."""
    pairs, outcome, rater = _as_pairs(votes)
    p = probabilities(rated, pairs)
    won = (outcome == LEFT) * 1.0 - (outcome == RIGHT)
    expected = p[:, LEFT] - p[:, RIGHT]
    excess, variance = won - expected, p[:, LEFT] + p[:, RIGHT] - expected**2
    size = votes.raters * votes.contestants
    total, spread = np.zeros(size), np.zeros(size)
    for side, sign in ((0, 1.0), (1, -1.0)):
        places = rater * votes.contestants + pairs[:, side]
        total += np.bincount(places, sign * excess, size)
        spread += np.bincount(places, variance, size)
    z = np.divide(total, np.sqrt(spread), out=np.full(size, np.nan), where=spread > 0)
    shaped = z.reshape(votes.raters, votes.contestants)
    return np.stack([_against_the_spread(column) for column in shaped.T], axis=1)


def _against_the_spread(z: Floats) -> Floats:
    """Return deviations from the median, by the robust spread over raters, or 1 where that is less."""
    if np.isnan(z).all():
        return z
    middle = np.nanmedian(z)
    spread = 1.4826 * np.nanmedian(np.abs(z - middle))
    return np.asarray((z - middle) / max(1.0, float(spread)))


def _as_pairs(
    votes: Votes,
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Return pairs, outcomes and raters, with the five pairs that each best and worst of four decides."""
    decided = [(0, 1), (0, 2), (0, 3), (1, 3), (2, 3)]
    implied = np.concatenate([votes.fours[:, list(places)] for places in decided])
    return (
        np.concatenate([votes.pairs, implied]),
        np.concatenate([votes.outcome, np.full(len(implied), LEFT)]),
        np.concatenate([votes.pair_rater, np.tile(votes.four_rater, len(decided))]),
    )
