"""The folders that scores are written to: a model folder, and the one that the user names."""

import hashlib
from pathlib import Path

from filelock import FileLock

from danqing import atomic
from danqing.data.cache import default_folder
from danqing.errors import DataError, EvaluationError
from danqing.evaluation import scores as score_files
from danqing.evaluation.candidate import Candidate
from danqing.evaluation.scores import Score
from danqing.model import folder as model_folder

SCORES_FILE = "scores.json"
NEEDED_BYTES = 65_536
"""That must be free for the scores before the work begins: an empty file can be written on a full disk."""


def make_folder(out: str | Path | None) -> None:
    """Make the folder for scores, before the work begins."""
    try:
        if out is not None:
            Path(out).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise EvaluationError(f"{out} cannot be made ({error.strerror}): choose another --out.") from error


def writable_folders(candidate: Candidate, out: str | Path | None) -> tuple[list[Path], list[str]]:
    """Return the folders that can be written, and notes on others.

    This is found out before the work begins.

    Raises EvaluationError where `out` cannot be written, and DataError where old scores cannot be read.
    """
    folders, notes = [], []
    for folder in dict.fromkeys(folder for folder in (candidate.folder, out and Path(out)) if folder):
        if folder == candidate.folder and candidate.trained and candidate.trained.facts.get("privacy"):
            notes.append(
                "the scores are not kept in the folder of this private model, since they are measured on "
                "images without noise: --out keeps them elsewhere"
            )
            continue
        score_files.read(folder / SCORES_FILE)
        try:
            atomic.write_bytes(folder / ".writable", bytes(NEEDED_BYTES))
            (folder / ".writable").unlink(missing_ok=True)
            folders.append(folder)
        except OSError as error:
            reason = error.strerror or error
            if folder != candidate.folder:
                raise EvaluationError(
                    f"{folder} cannot be written ({reason}): make room there, or choose another --out."
                ) from error
            notes.append(f"the scores are not kept in {folder}, which cannot be written ({reason})")
    return folders, notes


def save_scores(
    scores: list[Score], picture: bytes | None, candidate: Candidate, folders: list[Path]
) -> tuple[list[Path], list[str]]:
    """Write scores and the picture of neighbours into folders.

    Returns the files, and notes on what could not be written.

    Nothing is raised: the scores took long to measure, and must be shown even if they cannot be written.
    """
    files, failures = [], []
    for folder in folders:
        try:
            with _locked(folder):
                score_files.write(folder / SCORES_FILE, _merged(folder, scores))
                files.append(folder / SCORES_FILE)
                if picture is not None:
                    atomic.write_bytes(folder / model_folder.NEIGHBOURS, picture)
                    files.append(folder / model_folder.NEIGHBOURS)
                if candidate.trained is not None and folder == candidate.folder:
                    files.append(model_folder.write_card(folder, candidate.trained.info()))
        except (OSError, DataError) as error:
            failures.append(f"not all could be written into {folder} ({str(error).rstrip('.')})")
    return files, failures


def _locked(folder: Path) -> FileLock:
    """Let evaluations add their scores to a folder one after the other.

    The lock lies elsewhere, since a model folder is given away whole.
    """
    locks = default_folder() / "locks"
    locks.mkdir(parents=True, exist_ok=True)
    name = hashlib.sha256(str(folder.resolve()).encode()).hexdigest()[:32]
    return FileLock(locks / f"{name}.lock")


def _merged(folder: Path, scores: list[Score]) -> list[Score]:
    """What a folder's `scores.json` is to say: the new scores, and the old ones that they do not replace.

    Scores of other weights or other pictures go: the model has been trained since, or is not the same. There
    is one headline, and those that were measured with it come first.
    """
    measured = {_whose(score) for score in scores}
    replaced = {_identity(score) for score in scores}
    has_headline = any(score.headline for score in scores)
    kept = [
        score.model_copy(update={"headline": score.headline and not has_headline})
        for score in score_files.read(folder / SCORES_FILE)
        if _whose(score) in measured and _identity(score) not in replaced
    ]
    return [*scores, *kept] if has_headline else [*kept, *scores]


def _whose(score: Score) -> tuple[object, ...]:
    return score.settings.get("weights"), score.settings.get("pictures")


def _identity(score: Score) -> tuple[object, ...]:
    reference = None if score.reference is None else (score.reference.fingerprint, score.reference.split)
    f = score.features
    # Normalization is left out: a score that an earlier version made with another one is out of date.
    features = None if f is None else (f.name, f.sha256, f.resizer.partition(",")[0], f.precision)
    return score.metric, reference, features, score.images, score.seed
