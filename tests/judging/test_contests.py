"""Odd raters are found, uncertain pairs come next, and a contest ends when its intervals part."""

import dataclasses

import numpy as np
import pytest

from danqing.judging.pairing import choose_next, choose_subject
from danqing.judging.rater_checks import CheckCount, check_raters
from danqing.judging.ratings import fit
from danqing.judging.results import evaluate_votes
from danqing.judging.stopping import half_width, is_decided
from danqing.judging.votes import LEFT, Answer, Votes
from tests.judging.simulated import Population, failed_checks, four_votes, pair_votes

TRUE = (0.9, 0.5, 0.2, -0.2, -0.5, -0.9)


def some(seed: int, raters: int = 20, each: int = 60, **odd: str) -> Votes:
    return pair_votes(Population(TRUE), raters, each, np.random.default_rng(seed), **odd)


@pytest.mark.parametrize(
    ("kind", "reason", "least"), [("left", "side", 10), ("random", "disagrees", 5), ("favours", "favours", 5)]
)
def test_an_odd_rater_is_found_among_honest_ones(kind: str, reason: str, least: int) -> None:
    found = [check_raters(some(seed, each=80, rater0=kind)) for seed in range(10)]
    assert sum(reason in one[0].reasons for one in found) >= least
    assert sum(bool(rater.reasons) for one in found for rater in one[1:]) <= 8  # of 190


def test_who_fails_attention_checks_is_careless_and_who_slips_once_is_not() -> None:
    votes = some(0)
    checks = {0: CheckCount(6, 4), 1: CheckCount(6, 1), 2: CheckCount(2, 2)}
    found = check_raters(votes, checks)
    assert found[0].reasons == ("checks",)
    assert found[0].is_careless
    assert "checks" not in found[1].reasons + found[2].reasons
    generator = np.random.default_rng(0)
    failed = np.mean([failed_checks("random", 6, generator) for _ in range(500)])
    assert 3.7 < failed < 4.3  # two thirds


def test_fours_need_half_of_the_clicks_of_pairs_where_a_fifth_are_ties() -> None:
    population = Population(TRUE, taste=0.0, side=0.0, tie=-0.7)
    variances = {"pairs": 0.0, "fours": 0.0}
    for seed in range(40):
        generator = np.random.default_rng(seed)
        for name, votes in (
            ("pairs", pair_votes(population, 24, 50, generator)),
            ("fours", four_votes(population, 24, 25, generator)),  # as many clicks
        ):
            found = fit(votes)
            variances[name] += sum(found.difference(a, a + 1).error ** 2 for a in range(5))
    assert variances["fours"] < 0.5 * variances["pairs"]


def test_the_next_pair_is_the_one_whose_order_is_least_certain() -> None:
    generator = np.random.default_rng(0)
    votes = some(0)
    without = (votes.pairs != 2).all(axis=1)
    given = dataclasses.replace(
        votes,
        pairs=votes.pairs[without],
        outcome=votes.outcome[without],
        pair_rater=votes.pair_rater[without],
    )
    chosen = [choose_next(given, 2, generator) for _ in range(20)]
    assert all(2 in pair for pair in chosen)  # nobody has judged it
    assert {pair.index(2) for pair in chosen} == {0, 1}  # on either side
    waiting = [[2, other] for other in (0, 1, 3, 4, 5)] * 100
    assert any(2 not in choose_next(given, 2, generator, waiting=waiting) for _ in range(5))
    four = choose_next(given, 4, generator)
    assert (len(set(four)), 2 in four) == (4, True)
    first = {tuple(sorted(choose_next(Votes(3, 1), 2, generator))) for _ in range(60)}
    assert first == {(0, 1), (0, 2), (1, 2)}


def test_chosen_pairs_leave_less_uncertain_than_drawn_ones() -> None:
    population = Population((2.5, 1.2, 0.25, -0.25, -1.2, -2.5), taste=0.0, side=0.0)
    variances = {"chosen": 0.0, "drawn": 0.0}
    for seed in range(3):
        generator = np.random.default_rng(seed)
        pool = pair_votes(population, 10, 2000, generator)
        order = {pair: np.flatnonzero((pool.pairs == pair).all(axis=1)).tolist() for pair in _all_pairs(6)}
        rows: list[int] = []
        for _ in range(120):
            votes = _rows(pool, np.array(rows, np.int64))
            rows.append(order[tuple(choose_next(votes, 2, generator))].pop())
        variances["chosen"] += _variance_of_neighbours(pool, np.array(rows))
        variances["drawn"] += _variance_of_neighbours(pool, generator.choice(pool.count, 120))
    assert variances["chosen"] < 0.85 * variances["drawn"]


def _variance_of_neighbours(pool: Votes, rows: np.ndarray) -> float:
    """How uncertain the order is: by the model of independent votes."""
    alone = dataclasses.replace(_rows(pool, rows), raters=len(rows), pair_rater=np.arange(len(rows)))
    found = fit(alone)
    return sum(found.difference(a, a + 1).error ** 2 for a in range(5))


def _all_pairs(k: int) -> list[tuple[int, int]]:
    return [(a, b) for a in range(k) for b in range(k) if a != b]


def _rows(votes: Votes, rows: np.ndarray) -> Votes:
    return dataclasses.replace(
        votes, pairs=votes.pairs[rows], outcome=votes.outcome[rows], pair_rater=votes.pair_rater[rows]
    )


def test_a_rater_sees_each_picture_as_often_as_any_other() -> None:
    generator = np.random.default_rng(0)
    seen, others = np.array([2, 1, 1, 3]), np.array([0, 0, 4, 9])
    assert {choose_subject(seen, others, generator) for _ in range(40)} == {1, 2}
    assert {choose_subject(seen, others, generator, repeat=True) for _ in range(20)} == {2}


def test_looking_after_every_vote_seldom_parts_what_is_equal() -> None:
    """A random walk with the variance of the estimate crosses the boundary in less than 5% of contests."""
    steps = np.random.default_rng(0).normal(size=(400, 3000)).cumsum(axis=1)
    time = np.arange(1, 3001) / 4  # information of votes, each about a quarter
    boundary = np.array([half_width(float(one**-0.5)) for one in time]) * time
    crossed = (np.abs(steps / 2) > boundary).any(axis=1)
    assert crossed.mean() < 0.05
    fixed = 1.96 * np.sqrt(time)
    assert (np.abs(steps / 2) > fixed).any(axis=1).mean() > 0.2  # as intervals for one look do


def test_a_contest_of_different_contestants_is_decided() -> None:
    population = Population((1.0, 0.0, -1.0), taste=0.1)
    generator = np.random.default_rng(0)
    assert is_decided(fit(pair_votes(population, 12, 60, generator)))
    assert not is_decided(fit(pair_votes(population, 12, 2, generator)))  # too few
    assert not is_decided(fit(pair_votes(population, 2, 400, generator)))  # too few raters
    assert not is_decided(fit(pair_votes(Population((0.0, 0.0, -1.0)), 12, 60, generator)))


def test_results_say_who_is_best_who_was_left_out_and_how_often_one_passes_for_real() -> None:
    votes = pair_votes(
        Population((1.2, 0.0, -1.2), taste=0.1), 10, 60, np.random.default_rng(0), rater0="left"
    )
    answers = [
        Answer(tuple(pair), *_places(outcome), int(subject), int(rater))
        for pair, outcome, rater, subject in zip(
            votes.pairs.tolist(), votes.outcome, votes.pair_rater, np.arange(votes.count) % 4, strict=True
        )
    ]
    keys = [f"key{number}" for number in range(10)]
    found = evaluate_votes(answers, ["photo", "flow", "gan"], keys, real=0)
    assert [one.name for one in found.standings] == ["photo", "flow", "gan"]
    assert [one.ranks for one in found.standings] == [(1, 1), (2, 2), (3, 3)]
    assert found.left_out == ("key0",)
    assert found.decided
    assert found.standings[0].against_real is None
    middle, low, high = found.standings[1].against_real or (0, 0, 0)
    assert low < 1 / (1 + np.exp(1.2)) < high
    assert low < middle < high
    assert found.agreement.units > 5
    assert 0 < found.agreement.alpha < 1
    told = found.to_json()
    assert told["by_rater"]["key0"]["reasons"][0] == "side"
    assert any("key0 (side" in note for note in told["notes"])
    everyone = evaluate_votes(answers, ["photo", "flow", "gan"], keys, keep_all=True)
    assert (everyone.left_out, everyone.ratings.votes) == ((), 600)


def _places(outcome: int) -> tuple[int | None, int | None]:
    return (None, None) if outcome == 2 else (0, 1) if outcome == LEFT else (1, 0)
