"""Ratings are those of independent implementations on the same votes, and their intervals hold."""

import choix
import evalica
import numpy as np
import pandas as pd  # type: ignore[import-untyped]
import pytest
from scipy.optimize import minimize
from scipy.stats import chi2, t

from danqing.judging import quantiles
from danqing.judging.agreement import krippendorff
from danqing.judging.ratings import PRIOR, fit, is_bounded
from danqing.judging.votes import LEFT, RIGHT, TIE, Answer, Votes, collect
from tests.judging.simulated import Population, four_votes, pair_votes

TRUE = (0.9, 0.3, 0.0, -0.4, -0.8)


def votes(seed: int = 0, tie: float = -np.inf, raters: int = 20, each: int = 40) -> Votes:
    population = Population(TRUE, tie=tie)
    return pair_votes(population, raters, each, np.random.default_rng(seed))


@pytest.mark.parametrize("seed", range(3))
def test_ratings_agree_with_evalica_and_choix_on_the_same_votes(seed: int) -> None:
    given = votes(seed)
    ours = fit(given, side=False).values
    left, right = given.pairs.T.tolist()
    winners = [evalica.Winner.X if one == LEFT else evalica.Winner.Y for one in given.outcome]
    scores = np.log(evalica.bradley_terry(left, right, winners).scores.sort_index().to_numpy())
    won = [(a, b) if one == LEFT else (b, a) for a, b, one in zip(left, right, given.outcome, strict=True)]
    others = choix.ilsr_pairwise(len(TRUE), won)
    assert np.abs(ours - (scores - scores.mean())).max() < 0.02
    assert np.abs(ours - (others - others.mean())).max() < 0.02


def test_ratings_with_ties_and_sides_are_the_maximum_of_davidsons_likelihood() -> None:
    given = votes(1, tie=-0.5)
    found = fit(given)

    def loss(at: np.ndarray) -> float:
        strength, tie, side = np.exp(at[:5]), np.exp(at[5]), np.exp(at[6])
        left, right = side * strength[given.pairs[:, 0]], strength[given.pairs[:, 1]]
        even = tie * np.sqrt(left * right)
        chosen = np.choose(given.outcome, [left, right, even])
        return float(-np.log(chosen / (left + right + even)).sum() + PRIOR * (at**2).sum() / 2)

    best = minimize(loss, np.zeros(7), tol=1e-9).x
    assert np.allclose(found.values, best[:5] - best[:5].mean(), atol=1e-4)
    assert found.side is not None
    assert np.allclose([found.tie, found.side.value], best[5:], atol=1e-4)


def test_a_best_and_worst_of_four_is_a_ranking_whose_middle_is_unknown() -> None:
    given = four_votes(Population(TRUE), 10, 60, np.random.default_rng(0))

    def loss(at: np.ndarray) -> float:
        best, one, other, worst = np.exp(at[given.fours]).T
        middle = one / (one + other + worst) * other / (other + worst)
        middle += other / (one + other + worst) * one / (one + worst)
        likelihood = best / (best + one + other + worst) * middle
        return float(-np.log(likelihood).sum() + PRIOR * (at**2).sum() / 2)

    best = minimize(loss, np.zeros(5), tol=1e-9).x
    assert np.allclose(fit(given).values, best - best.mean(), atol=1e-4)


def test_fours_rate_as_choix_rates_their_complete_rankings() -> None:
    """Far more of them than needed: the unknown middle costs precision, and does not bias."""
    given = four_votes(Population(TRUE, taste=0.0), 10, 800, np.random.default_rng(3))
    others = choix.ilsr_rankings(5, given.fours.tolist())  # its middle is in the order of liking
    assert np.abs(fit(given).values - (others - others.mean())).max() < 0.06


def test_intervals_hold_the_truth_for_clustered_raters() -> None:
    population = Population(TRUE)
    truth, inside, alone = population.truth(), 0.0, 0.0
    for seed in range(120):
        given = pair_votes(population, 16, 40, np.random.default_rng(seed))
        low, high = fit(given).intervals().T
        inside += ((low <= truth) & (truth <= high)).mean() / 120
        independent = Votes(5, given.count, given.pairs, given.outcome, np.arange(given.count))
        low, high = fit(independent).intervals().T
        alone += ((low <= truth) & (truth <= high)).mean() / 120
    assert 0.93 <= inside <= 0.975
    assert alone < inside - 0.02


def test_raters_who_repeat_themselves_add_nothing() -> None:
    given = votes(2)
    repeated = Votes(
        5, 20, np.tile(given.pairs, (9, 1)), np.tile(given.outcome, 9), np.tile(given.pair_rater, 9)
    )
    once, often = fit(given), fit(repeated)
    assert np.allclose(once.values, often.values, atol=0.01)
    assert np.allclose(once.intervals(), often.intervals(), atol=0.02)


def test_counts_are_repeated_votes() -> None:
    given = votes(2, tie=-0.5)
    rows = np.column_stack([given.pairs, given.outcome])
    kinds, counts = np.unique(rows, axis=0, return_counts=True)
    counted = Votes(5, 1, kinds[:, :2], kinds[:, 2], np.zeros(len(kinds), int), pair_count=counts)
    assert np.allclose(fit(counted).values, fit(given).values, atol=1e-8)
    assert counted.count == given.count
    assert (counted.shown() == given.shown()).all()


def test_who_always_wins_has_a_finite_rating_and_a_wide_interval() -> None:
    pairs = np.array([[0, 1], [1, 0], [0, 1], [1, 0]])
    always = Votes(2, 4, pairs, np.array([LEFT, RIGHT, LEFT, RIGHT]), np.arange(4))
    assert not is_bounded(always)
    low, high = fit(always).intervals()[0]
    assert np.isfinite([low, high]).all()
    assert high - low > 2
    assert is_bounded(Votes(2, 1, pairs, np.array([LEFT, LEFT, TIE, TIE]), np.zeros(4, int)))


def test_a_preferred_side_is_found_and_does_not_move_ratings() -> None:
    generator = np.random.default_rng(0)
    pairs = generator.permuted(np.tile(np.arange(2), (3000, 1)), axis=1)
    d = np.where(pairs[:, 0] == 0, 0.5, -0.5) + 0.6
    outcome = (generator.random(3000) > 1 / (1 + np.exp(-d))).astype(int)
    found = fit(Votes(2, 30, pairs, outcome, np.arange(3000) % 30))
    assert found.side is not None
    assert abs(found.side.value - 0.6) < 3 * found.side.error
    assert (found.side_probability() or 1) < 1e-6
    assert abs(found.difference(0, 1).value - 0.5) < 3 * found.difference(0, 1).error
    assert (fit(votes(0)).side_probability() or 0) > 0.01


@pytest.mark.parametrize("distance", ["nominal", "interval"])
def test_agreement_is_krippendorffs_alpha_of_evalica(distance: str) -> None:
    generator = np.random.default_rng(0)
    truth = generator.integers(-1, 2, 60)
    table = np.where(generator.random((5, 60)) < 0.6, truth, generator.integers(-1, 2, (5, 60))).astype(float)
    table[generator.random((5, 60)) < 0.4] = np.nan
    expected = evalica.alpha(pd.DataFrame(table), distance=distance)  # type: ignore[arg-type]
    rater, unit = np.nonzero(~np.isnan(table))
    found = krippendorff(unit, table[rater, unit], distance=distance)  # type: ignore[arg-type]
    assert found.alpha == pytest.approx(expected.alpha, abs=1e-9)
    assert np.isnan(krippendorff(np.arange(4), np.zeros(4)).alpha)


def test_quantiles_are_those_of_scipy() -> None:
    for degrees in (1, 2, 3, 4, 7, 8, 23, 100):
        for probability in (0.9, 0.975, 0.9987):
            found = quantiles.student_quantile(probability, degrees)
            assert found == pytest.approx(t.ppf(probability, degrees), rel=1e-6)
    assert quantiles.chi_square_tail_of_3(5.0) == pytest.approx(chi2.sf(5, 3))


def test_answers_become_columns() -> None:
    answers = [
        Answer((2, 0), 1, 0, 5, 0),
        Answer((0, 1), None, None, 5, 1),
        Answer((3, 1, 2, 0), 1, 2, 0, 1),
    ]
    found = collect(answers, 4, 2)
    assert found.pairs.tolist() == [[2, 0], [0, 1]]
    assert found.outcome.tolist() == [RIGHT, TIE]
    assert found.fours.tolist() == [[1, 3, 0, 2]]
    assert found.best_place.tolist() == [1]
    kept = found.only(np.array([False, True]))
    assert (kept.count, kept.voters().tolist()) == (2, [1])
