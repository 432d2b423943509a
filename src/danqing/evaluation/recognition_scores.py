"""Scores of a recognizer on a data set, with the images they were measured on."""

from dataclasses import replace
from pathlib import Path

from danqing.errors import EvaluationError
from danqing.evaluation.candidate import Candidate
from danqing.evaluation.examination import Examination
from danqing.evaluation.learner_scores import examine_learner
from danqing.evaluation.reference import open_reference
from danqing.evaluation.score_folders import save_scores
from danqing.progress import ProgressCallback


def score_recognizer(
    candidate: Candidate,
    data: str | Path,
    folders: list[Path],
    *,
    n: int,
    split: str | None,
    seed: int,
    on_progress: ProgressCallback | None,
) -> tuple[Examination, list[str], list[Path]]:
    """Measure all scores of a recognizer and write them into folders.

    n: how many images are judged at most. split: as of `evaluate`.
    Returns what was found, with notes and the files. Raises DanqingError.
    """
    recognizer = candidate.recognizer
    if recognizer is None:
        raise EvaluationError(f"{candidate.name} does not recognize images: name another model.")
    reference = open_reference(data, candidate, split=split, seed=seed, on_progress=on_progress)
    found = examine_learner(
        recognizer.learner,
        reference.images,
        n=n,
        seed=seed,
        reference=reference.info,
        trained=recognizer.facts,
    )
    known = {"candidate": candidate.name}
    scores = [
        score.model_copy(update={**known, "settings": {**candidate.facts, **score.settings}})
        for score in found.scores
    ]
    notes = list(reference.cautions)
    if (skipped := len(reference.images) - scores[0].images) > 0:
        notes.append(
            f"{skipped:,} images were not scored: the model knows none of their labels, or n is less"
        )
    files, failures = save_scores(scores, None, candidate, folders)
    return replace(found, scores=tuple(scores)), notes + failures, files
