"""Results of people as scores, in `scores.json` and model cards."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from danqing.errors import DanqingError
from danqing.evaluation.candidate import Candidate, is_model
from danqing.evaluation.score_folders import save_scores, writable_folders
from danqing.evaluation.scores import Score
from danqing.judging.results import Results
from danqing.model import folder as model_folder
from danqing.model import shipped
from danqing.model.recognizer import open_trained
from danqing.trust.sealed_file import is_sealed
from danqing.weights import digest

METRIC = "people"
AGAINST_REAL = "people/real"


def to_scores(
    results: Results, *, pictures: int, session: str, facts: Mapping[str, Mapping[str, Any]], seed: int = 0
) -> dict[str, list[Score]]:
    """Return the scores of each contestant, by its name.

    pictures: of each contestant. facts: what identifies each.
    """
    rated = results.ratings
    shared: dict[str, Any] = {
        "votes": rated.votes,
        "raters": rated.raters,
        "contestants": len(results.contestants),
        "session": session,
    }
    if results.left_out:
        shared["raters left out"] = len(results.left_out)
    note = "; ".join(results.notes)
    found: dict[str, list[Score]] = {}
    for one in results.standings:
        common: dict[str, Any] = {
            "images": pictures,
            "candidate": one.name,
            "seed": seed,
            "settings": {**shared, "times judged": one.shown, **facts.get(one.name, {})},
            "higher_is_better": True,
            "note": note,
        }
        found[one.name] = [
            Score(
                metric=METRIC,
                name="Rating by people",
                value=one.rating,
                interval=one.interval,
                unit="log-odds",
                **common,
            )
        ]
        if one.against_real is not None:
            value, low, high = (100 * share for share in one.against_real)
            found[one.name].append(
                Score(
                    metric=AGAINST_REAL,
                    name="Preferred to real images",
                    value=value,
                    interval=(low, high),
                    unit="%",
                    **common,
                )
            )
    return found


def save_with_models(
    scores: Mapping[str, list[Score]], sources: Mapping[str, str], facts: Mapping[str, Mapping[str, Any]]
) -> tuple[list[Path], list[str]]:
    """Add scores to the `scores.json` and the card of models.

    sources: paths by the names of contestants. Returns the files, and notes on what was not written.
    """
    files, notes = list[Path](), list[str]()
    for name, own in scores.items():
        source = sources.get(name)
        if source is None or not _has_own_folder(source):
            continue
        try:
            candidate = _candidate(name, source, facts.get(name, {}).get("weights"))
            if candidate is None:
                notes.append(f"{name} has other weights than those that were judged, and keeps its scores")
                continue
            folders, said = writable_folders(candidate, None)
            written, failed = save_scores(own, None, candidate, folders)
        except DanqingError as error:
            notes.append(f"the scores are not kept with {name} ({str(error).rstrip('.')})")
            continue
        files += written
        notes += [*said, *failed]
    return files, notes


def flat(scores: Mapping[str, Iterable[Score]]) -> list[Score]:
    """Return all scores in one list."""
    return [score for own in scores.values() for score in own]


def _has_own_folder(source: str) -> bool:
    path = Path(source)
    if not is_model(path) or model_folder.is_hub_id(source):
        return False
    return shipped.find(path) is None and not is_sealed(path)


def _candidate(name: str, source: str, judged: Any) -> Candidate | None:
    """Return the model whose folder gets scores; None if its weights are not those that were judged."""
    trained = open_trained(source)
    learner = getattr(trained, "family", None)
    if learner is None or digest(learner.state_dict())[:12] != judged:
        return None
    return Candidate(name, model=trained, folder=model_folder.find(Path(source)))  # type: ignore[arg-type]
