"""People as judges, simulated: coverage of intervals, clicks of both kinds of ballots, odd raters, stopping.

Raters have tastes and sides of their own, so that the votes of one resemble each other. Coverage is of the
ratings that all raters together have. Clicks are those that give a standard error of 0.15 for differences of
neighbours. An odd rater is one among the honest ones of a contest.

    python benchmarks/judging.py [--contests 1000] [--raters 24] [--votes 60] [--seed 0]
"""

import argparse
import dataclasses
import json
import time
from typing import Any

import numpy as np
from simulated_raters import Population, failed_checks, four_votes, pair_votes

from danqing.judging.quantiles import student_quantile
from danqing.judging.rater_checks import CheckCount, check_raters
from danqing.judging.ratings import Ratings, fit
from danqing.judging.stopping import is_decided
from danqing.judging.votes import Votes

RATINGS = (0.9, 0.5, 0.2, -0.2, -0.5, -0.9)
TIES = {"no ties": -np.inf, "about 20% ties between equals": -0.7}


def coverage(contests: int, raters: int, each: int, seed: int) -> dict[str, Any]:
    """Return the share of contests whose 95% intervals hold the truth."""
    population = Population(RATINGS)
    truth = population.truth()
    inside: dict[str, list[float]] = {"ratings": [], "differences": [], "without clusters": []}
    widths = []
    for number in range(contests):
        votes = pair_votes(population, raters, each, np.random.default_rng((seed, 1, number)))
        found = fit(votes)
        low, high = found.intervals().T
        inside["ratings"].append(float(((low <= truth) & (truth <= high)).mean()))
        inside["differences"].append(_differences_inside(found, truth))
        alone = fit(dataclasses.replace(votes, raters=votes.count, pair_rater=np.arange(votes.count)))
        inside["without clusters"].append(_differences_inside(alone, truth))
        widths.append(float((high - low).mean()))
    shares = {name: round(float(np.mean(values)), 4) for name, values in inside.items()}
    return {"coverage of 95% intervals": shares, "mean width": round(float(np.mean(widths)), 3)}


def _differences_inside(found: Ratings, truth: np.ndarray) -> float:
    factor = student_quantile(0.975, found.degrees)
    hits = []
    for a in range(len(truth)):
        for b in range(a):
            value, error = found.difference(a, b)
            hits.append(abs(value - (truth[a] - truth[b])) <= factor * error)
    return float(np.mean(hits))


def clicks(contests: int, seed: int) -> dict[str, Any]:
    """Return the clicks for one precision; a pair takes one, a best and worst of four takes two."""
    found: dict[str, Any] = {}
    for name, tie in TIES.items():
        population = Population(RATINGS, taste=0.0, side=0.0, tie=tie)
        tied, errors = [], {"pairs": [], "fours": []}  # type: ignore[var-annotated]
        for number in range(contests):
            generator = np.random.default_rng((seed, 2, number))
            pairs = pair_votes(population, 24, 50, generator)
            fours = four_votes(population, 24, 25, generator)  # as many clicks
            tied.append(float((pairs.outcome == 2).mean()))
            errors["pairs"].append(_variance(fit(pairs)))
            errors["fours"].append(_variance(fit(fours)))
        pair, four = (float(np.mean(errors[kind])) for kind in ("pairs", "fours"))
        needed = {kind: round(1200 * value / 0.15**2) for kind, value in (("pairs", pair), ("fours", four))}
        found[name] = {
            "share of ties": round(float(np.mean(tied)), 3),
            "clicks for a standard error of 0.15": needed,
            "clicks of fours by clicks of pairs": round(four / pair, 3),
            "ballots of fours by ballots of pairs": round(four / pair / 2, 3),
        }
    return found


def _variance(found: Ratings) -> float:
    return float(np.mean([found.difference(a, a + 1).error ** 2 for a in range(len(found.values) - 1)]))


def odd_raters(contests: int, raters: int, each: int, seed: int) -> dict[str, Any]:
    """Return how often one odd rater is found, and how often an honest one is suspected."""
    population, shown = Population(RATINGS), each // 10
    found: dict[str, Any] = {}
    for kind in ("left", "random", "favours"):
        caught = by_votes = suspected = 0
        for number in range(contests):
            generator = np.random.default_rng((seed, 3, number))
            votes = pair_votes(population, raters, each, generator, rater0=kind)
            checks = {
                rater: CheckCount(shown, failed_checks(kind if not rater else "", shown, generator))
                for rater in range(raters)
            }
            by_votes += bool(check_raters(votes)[0].reasons)
            checked = check_raters(votes, checks)
            caught += bool(checked[0].reasons)
            suspected += sum(bool(one.reasons) for one in checked[1:])
        found[kind] = {
            "found": round(caught / contests, 4),
            "found by votes alone": round(by_votes / contests, 4),
            "honest raters suspected": round(suspected / contests / (raters - 1), 4),
        }
    return found


def stopping(contests: int, seed: int) -> dict[str, Any]:
    """Return how often looking after every 24 votes stops, for equals (wrongly) and for two that differ."""
    found: dict[str, Any] = {}
    for name, ratings in (("equal", (0.0, 0.0)), ("0.8 apart", (0.4, -0.4))):
        population = Population(ratings, taste=0.2, side=0.1)
        stopped, needed, wrong = 0, [], 0
        for number in range(contests):
            everything = pair_votes(population, 24, 40, np.random.default_rng((seed, 4, number)))
            turn = np.arange(everything.count) % 40  # each rater votes once per turn
            for turns in range(1, 41):
                votes = _until(everything, turn < turns)
                rated = fit(votes, side=False)
                if is_decided(rated):
                    stopped += 1
                    needed.append(votes.count)
                    wrong += bool(rated.values[0] < rated.values[1]) if ratings[0] else True
                    break
        found[name] = {
            "stopped within 960 votes": round(stopped / contests, 4),
            "stopped wrongly": round(wrong / contests, 4),
            "votes when it stopped, median": float(np.median(needed)) if needed else None,
        }
    return found


def _until(votes: Votes, kept: np.ndarray) -> Votes:
    return dataclasses.replace(
        votes, pairs=votes.pairs[kept], outcome=votes.outcome[kept], pair_rater=votes.pair_rater[kept]
    )


def main() -> None:
    """Run all and print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--contests", type=int, default=1000)
    parser.add_argument("--raters", type=int, default=24)
    parser.add_argument("--votes", type=int, default=60, help="of each rater")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    began = time.perf_counter()
    n, raters, each, seed = given.contests, given.raters, given.votes, given.seed
    result = {
        "contests": n,
        "raters": raters,
        "votes of each": each,
        "contestants": len(RATINGS),
        **coverage(n, raters, each, seed),
        "clicks": clicks(max(1, n // 5), seed),
        "odd raters": odd_raters(n, raters, each, seed),
        "stopping": stopping(max(1, n // 2), seed),
    }
    print(json.dumps({**result, "seconds": round(time.perf_counter() - began, 1)}, indent=2))


if __name__ == "__main__":
    main()
