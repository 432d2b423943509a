"""Which family to choose for what, in words: only what the intervals allow."""

import itertools
from collections.abc import Iterator, Sequence

from danqing.evaluation.networks import taught
from danqing.evaluation.second_network import second_in_words
from danqing.quantities import memory
from danqing.studies.results import SECOND, Cell, Comparison, Contestant, Row, chance, deciding_key, row

_UNREAL = 0.05
_FEW = 500
"""With fewer reference images than this, a caution says that only large differences can show."""


def verdict(comparison: Comparison) -> tuple[str, ...]:
    """Sentences made from the measured numbers; overlapping intervals are called a tie."""
    finished = comparison.finished
    waiting = [one.name for one in comparison.contestants if one.status == "waiting"]
    if not finished and waiting:
        return ("Nothing has been measured yet: run the same command to continue.",)
    if not finished:
        return ("No family finished, so that there is nothing to compare.",)
    sentences = [_opening(comparison)]
    if len(finished) == 1:
        sentences += _alone(comparison, finished[0])
    else:
        sentences += _compared(comparison)
    failed = [one.name for one in comparison.contestants if one.status == "failed"]
    if failed:
        sentences.append(f"{_listed(failed)} did not finish and {_is(failed)} left out.")
    if waiting:
        sentences.append(f"{_listed(waiting)} {_is(waiting)} yet to be measured.")
    return tuple(sentences)


def picks(comparison: Comparison) -> Iterator[tuple[str, Row]]:
    """Yield each purpose with the row that decides it.

    The marks of the row say who leads.
    """
    purposes = (
        (_best_at(comparison), deciding_key(comparison)),
        ("Single pictures", "precision"),
        ("Variety", "recall"),
        ("Fewest copies", "memorised/copies"),
        ("Speed", "sampling_speed"),
        ("Speed", "recognition_speed"),
        ("Memory", "peak_memory_bytes"),
    )
    for purpose, key in purposes:
        if (found := row(comparison, key)) is not None and any(found.marks):
            yield purpose, found


def cautions(comparison: Comparison) -> tuple[str, ...]:
    """Return what to keep in mind when reading the recommendation."""
    return tuple(_cautions(comparison))


def _opening(comparison: Comparison) -> str:
    names = [one.name for one in comparison.finished]
    shown = comparison.data.get("images")
    of_data = f" on {shown:,} images of {comparison.name}" if isinstance(shown, int) else ""
    each = "each trained" if len(names) > 1 else "trained"
    return f"{_listed(names)} {each} for {comparison.budget_text}{of_data}."


def _alone(comparison: Comparison, one: Contestant) -> Iterator[str]:
    key = deciding_key(comparison)
    if (score := one.score(key)) is not None and (found := row(comparison, key)) is not None:
        cell = next(cell for cell in found.cells if cell is not None)
        yield f"Its {_lower(found.title)} ({score.name}) is {_value(cell)}; there is no other."


def _compared(comparison: Comparison) -> Iterator[str]:
    if (found := row(comparison, deciding_key(comparison))) is not None:
        name = next(score.name for one in comparison.finished if (score := one.score(found.key)) is not None)
        measure = f"{_lower(found.title)} ({name}, {found.better} is better)"
        yield _choice(comparison, found, _purpose(comparison), measure)
    for key, purpose, measure in (
        ("precision", "For single pictures that look real", "precision"),
        ("recall", "For variety", "recall"),
    ):
        if (found := row(comparison, key)) is not None:
            yield _choice(comparison, found, purpose, measure)
    if (found := row(comparison, "coverage")) is not None and (
        named := _leader(comparison, found)
    ) is not None:
        recall = row(comparison, "recall")
        if recall is None or _leader(comparison, recall) != named:
            yield f"By coverage, {_against(comparison, found)}."
    yield from _memorised(comparison)
    yield from _faster(comparison)
    yield from _smaller(comparison)


def recognizes(comparison: Comparison) -> bool:
    """Return whether what is compared recognizes images instead of sampling them."""
    return any("recognition_speed" in one.measured for one in comparison.finished)


def _best_at(comparison: Comparison) -> str:
    return "Most accurate" if recognizes(comparison) else "Most like the real images"


def _purpose(comparison: Comparison) -> str:
    if recognizes(comparison):
        return "For images that are recognized as they should be"
    return "For pictures that are as a whole most like the real ones"


def _choice(comparison: Comparison, found: Row, purpose: str, measure: str) -> str:
    """One sentence: whom to choose, or who cannot be told apart."""
    if _leader(comparison, found) is not None:
        return f"{purpose}, choose {_leader(comparison, found)}: by {measure}, {_against(comparison, found)}."
    tied = [n for n, mark in enumerate(found.marks) if mark == "tie"]
    if len(tied) < 2:
        return f"{purpose}, this comparison cannot say: {measure} was measured for too few."
    names = _listed([comparison.contestants[n].name for n in tied])
    values = _listed([_value(cell) for n in tied if (cell := found.cells[n]) is not None])
    others = len([cell for cell in found.cells if cell is not None and _counts(cell, found)]) - len(tied)
    ahead = ", ahead of the rest" if others else ""
    return f"{purpose}, {names} are a tie{ahead}: by {measure}, {values} overlap."


def _against(comparison: Comparison, found: Row) -> str:
    """The leader's value against those of the others."""
    leader = found.marks.index("best")
    others = [
        f"{comparison.contestants[n].name}'s {_value(cell)}"
        for n, cell in enumerate(found.cells)
        if n != leader and cell is not None and _counts(cell, found)
    ]
    best = found.cells[leader]
    assert best is not None
    return f"{comparison.contestants[leader].name}'s {_value(best)} against {_listed(others)}"


def _memorised(comparison: Comparison) -> Iterator[str]:
    """Who repeats training images more often than by chance."""
    found = row(comparison, "memorised/copies")
    if found is None:
        return
    told = [(one, cell) for one, cell in zip(comparison.contestants, found.cells, strict=True) if cell]
    repeating = False
    for one, cell in told:
        expected = chance(one.score(found.key))
        repeating |= cell.interval is None or cell.interval[0] > expected
        if cell.interval is not None and cell.interval[0] > expected:
            yield (
                f"{one.name} repeats training images: {_percent(cell)} of its pictures are nearer to one "
                f"than {expected:.0%} of real ones are."
            )
    if not repeating:
        whom = "Neither" if len(told) == 2 else "None"
        yield f"{whom} can be said to repeat training images more often than by chance."


def _percent(cell: Cell) -> str:
    assert cell.interval is not None
    low, high = cell.interval
    return f"{cell.value:.1%} ({low:.1%} to {high:.1%})"


def _faster(comparison: Comparison) -> Iterator[str]:
    does = "recognizes" if recognizes(comparison) else "samples"
    found = row(comparison, "recognition_speed" if recognizes(comparison) else "sampling_speed")
    if found is None:
        return
    shown = sorted(((c.value, n) for n, c in enumerate(found.cells) if c is not None), reverse=True)
    if len(shown) < 2:
        return
    (first, leader), (second, runner) = shown[:2]
    names = [one.name for one in comparison.contestants]
    if found.marks[leader] != "best":
        tied = [names[n] for n, mark in enumerate(found.marks) if mark == "tie"]
        yield f"{_listed(tied)} {does[:-1]} images about equally fast, {first:,.0f} per second."
    else:
        times = f"{first / second:.1f} times" if first / second < 10 else f"{first / second:.0f} times"
        yield (
            f"For speed, choose {names[leader]}: it {does} {first:,.0f} images per second, {times} as many "
            f"as {names[runner]}."
        )


def _smaller(comparison: Comparison) -> Iterator[str]:
    found = row(comparison, "peak_memory_bytes")
    if found is None or "best" not in found.marks:
        return
    leader = found.marks.index("best")
    values = [cell.value for cell in found.cells if cell is not None]
    if max(values) >= 1.25 * min(values):
        name = comparison.contestants[leader].name
        yield (
            f"{name} needs the least memory to train, {memory(min(values))} against up to "
            f"{memory(max(values))}."
        )


def _cautions(comparison: Comparison) -> Iterator[str]:
    found, reference = row(comparison, "precision"), comparison.reference
    if found is not None and all(cell is None or cell.value < _UNREAL for cell in found.cells):
        yield "Hardly any of their pictures look real yet: give them more time before you choose."
    if reference is not None and reference.count < _FEW:
        yield (
            f"There are only {reference.count:,} real images to compare with, so only large differences can "
            "show."
        )
    yield from _flattered(comparison)
    yield from _disagreement(comparison)
    if any(_second(one) == taught.NAME for one in comparison.finished):
        said = second_in_words(taught.NAME)
        yield f"{said[0].upper()}{said[1:]}."
    places = dict.fromkeys(one.trained_on for one in comparison.finished if one.trained_on)
    if len(places) > 1:
        yield (
            f"They were trained on different machines ({'; '.join(places)}): do not compare what depends on "
            "the time of training."
        )
    if len(comparison.finished) > 1:
        yield (
            "Each was trained once: the intervals say how far the score of these models may be off, not "
            "how another seed or a longer training would turn out."
        )


def _flattered(comparison: Comparison) -> Iterator[str]:
    """Whose scores are computed on a network that they were trained with."""
    for name in dict.fromkeys(
        score.features.name
        for one in comparison.finished
        for score in one.scores
        if score.flattered and score.features is not None
    ):
        those = [
            one.name
            for one in comparison.finished
            if any(score.flattered and score.features and score.features.name == name for score in one.scores)
        ]
        were = "was" if len(those) == 1 else "were"
        yield (
            f"{_listed(those)} {were} trained with {name}. Scores by it flatter them and are not ranked "
            "beside the others."
        )


def _second(one: Contestant) -> str | None:
    """The name of the second feature network of a contestant's scores."""
    score = one.score(f"{SECOND}kernel")
    return None if score is None or score.features is None else score.features.name


def _disagreement(comparison: Comparison) -> Iterator[str]:
    """Pairs that the two feature networks put in opposite orders, both beyond their intervals."""
    key = deciding_key(comparison).removeprefix(SECOND)
    first, second = row(comparison, key), row(comparison, f"{SECOND}{key}")
    if first is None or second is None:
        return
    names = [one.name for one in comparison.contestants]
    pairs = [
        f"{names[a]} before {names[b]}"
        for a, b in itertools.permutations(range(len(names)), 2)
        if _is_lower(first.cells[a], first.cells[b]) and _is_lower(second.cells[b], second.cells[a])
    ]
    if pairs:
        yield (
            f"The two feature networks disagree: {first.detail} puts {_listed(pairs)}, and {second.detail} "
            "the other way round. Look at the pictures before you choose."
        )


def _is_lower(one: Cell | None, other: Cell | None) -> bool:
    """Whether a value is below another, with intervals that do not overlap."""
    if one is None or other is None or one.interval is None or other.interval is None:
        return False
    return one.interval[1] < other.interval[0]


def _counts(cell: Cell, found: Row) -> bool:
    """Whether a value is ranked: flattered ones are not, beside others."""
    return not cell.flattered or all(other is None or other.flattered for other in found.cells)


def _leader(comparison: Comparison, found: Row) -> str | None:
    return comparison.contestants[found.marks.index("best")].name if "best" in found.marks else None


def _value(cell: Cell) -> str:
    return f"{cell.text} ({cell.interval_text})" if cell.interval_text else cell.text


def _listed(words: Sequence[str]) -> str:
    return " and ".join(filter(None, [", ".join(words[:-1]), words[-1]])) if words else ""


def _is(words: Sequence[str]) -> str:
    return "is" if len(words) == 1 else "are"


def _lower(title: str) -> str:
    return title if title.startswith("Fréchet") else title[:1].lower() + title[1:]
