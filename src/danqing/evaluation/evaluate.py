"""`evaluate`: a model, or a folder of pictures, against a data set."""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from filelock import FileLock
from torch import nn

from danqing import atomic
from danqing.data import captions
from danqing.data.cache import default_folder
from danqing.data.dataset import Dataset
from danqing.errors import DataError, EvaluationError
from danqing.evaluation import scores as score_files
from danqing.evaluation.candidates import Candidate, open_candidate, open_reference
from danqing.evaluation.comparison import CAPTIONS, FROM_REFERENCE, RECONSTRUCTED, Comparison
from danqing.evaluation.contract import FeatureNetwork, ImageSet
from danqing.evaluation.features import Features, extract
from danqing.evaluation.frechet import frechet_distance
from danqing.evaluation.kernel import kernel_distance
from danqing.evaluation.lookalikes import sheet
from danqing.evaluation.metrics import ALIASES, METRICS, distance_name, nearest
from danqing.evaluation.networks import open_network
from danqing.evaluation.painted import paint, reconstruct, spread
from danqing.evaluation.scores import ReferenceInfo, Score
from danqing.images import encode
from danqing.model import folder as model_folder
from danqing.model.loading import HasModel
from danqing.model.model import Model
from danqing.precision import Precision, choose_device
from danqing.progress import ProgressCallback

SMALL = 10_000
"""With fewer images than this on either side, the kernel distance is the number to quote."""
SCORES_FILE = "scores.json"


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """What was measured. headline: the one score to quote, and reason: why that one.

    left_out: metrics that were not measured, each with the reason. notes: what to beware of. neighbours: the
    picture of samples beside the training images nearest to them. files: what was written.
    """

    scores: list[Score]
    headline: Score
    reason: str
    left_out: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    neighbours: Path | None = None
    files: list[Path] = field(default_factory=list)


def evaluate(
    candidate: Model | HasModel | str | Path,
    data: str | Path,
    *,
    metrics: str | Sequence[str] | None = None,
    features: str | Path | nn.Module = "auto",
    weights: str | Path | None = None,
    n: int = 10_000,
    split: str | None = None,
    seed: int = 0,
    size: tuple[int, int] | None = None,
    precision: Precision = "float32",
    device: str = "auto",
    out: str | Path | None = None,
    on_progress: ProgressCallback | None = None,
) -> Evaluation:
    """Score a model, or pictures that are there already, against the images of a data set.

    candidate: a `Model`, a run, a model folder, a hub id, or any source of pictures that `open_dataset`
    takes; at most `n` images of it are scored. metrics: names out of `METRICS`, also as one text with commas
    between, by default all that apply at sensible cost. features: the network that images are compared by,
    weights: a file of its weights where they are not fetched, see `open_network`. split: what to compare
    with, by default test, else validation, else what the run held out, else the training images. size:
    (width, height) for pictures of mixed sizes.
    out: a folder that gets `scores.json` and `neighbours.png`; those of a model folder are written in any
    case, with its card. on_progress: told (done, total, what). The same seed gives the same scores. Raises
    DanqingError.
    """
    wanted = _known(metrics)
    if n < 2:
        raise EvaluationError("A score takes at least two images: ask for more by -n.")
    _make_folder(out)
    chosen = choose_device(device)
    network = open_network(
        features, weights=None if weights is None else Path(weights), device=chosen, precision=precision
    )
    opened = open_candidate(
        candidate, data, n=n, seed=seed, size=size, device=str(chosen), on_progress=on_progress
    )
    folders, notes = _writable(opened, out)
    reference = open_reference(data, opened, split=split, seed=seed, on_progress=on_progress)
    thorough = wanted is not None and "memorised" in wanted
    comparison = Comparison(
        opened, reference, network, n=n, seed=seed, thorough=thorough, on_progress=on_progress
    )
    measured, left_out = _plan(comparison, wanted)
    found = _measure(comparison, measured, None if wanted is not None else left_out)
    scores, headline, reason = _with_headline(found, comparison)
    notes += [*reference.cautions, *_remarks(comparison)]
    if features == "auto" and network.name == "pixels":
        notes.append(
            "no feature network is installed, so pixels are compared: pip install 'danqing[features]'"
        )
    pictured = "memorised" in measured or (wanted is None and "duplicates" in measured)
    drawn = pictured and folders and comparison.knows_training
    picture = encode(sheet(comparison), "png") if drawn else None
    files, failures = _save(scores, picture, opened, folders)
    notes += failures
    neighbours = next((file for file in files if file.name == model_folder.NEIGHBOURS), None)
    return Evaluation(
        scores=scores,
        headline=headline,
        reason=reason,
        left_out=left_out,
        notes=notes,
        neighbours=neighbours,
        files=files,
    )


def score_samples(
    model: Model,
    reference_features: Features,
    network: FeatureNetwork,
    *,
    metric: Literal["kernel", "frechet"] = "kernel",
    n: int = 1000,
    seed: int = 0,
    reference: ReferenceInfo | None = None,
    judged: Dataset | None = None,
) -> Score:
    """One distance between `n` samples of a model and features that are there already: a cheap score.

    judged: the images that the features are of. A model that reads text paints their captions, and a first
    stage is scored by what it makes of them. Follows from the arguments alone, and touches no global
    randomness. Raises EvaluationError.
    """
    images, settings, note = _samples(model, n, seed, judged)
    generated = extract(images, network, keep=False)
    distance = kernel_distance if metric == "kernel" else frechet_distance
    estimate = distance(generated, reference_features)
    return Score(
        metric=metric,
        name=distance_name("KD" if metric == "kernel" else "FD", network.name),
        value=estimate.value,
        interval=estimate.interval(seed),
        higher_is_better=False,
        images=len(images),
        candidate=f"a model ({model.family.config.family})",
        reference=reference,
        features=generated.info,
        seed=seed,
        settings=settings,
        note=note,
    )


def _samples(model: Model, n: int, seed: int, judged: Dataset | None) -> tuple[ImageSet, dict[str, str], str]:
    """What a model paints, or makes of the judged images, with what is to be said of it."""
    if judged is not None and not model.family.has_prior:
        rows = spread(len(judged), min(n, len(judged)))
        return reconstruct(model, judged, rows), {"images": FROM_REFERENCE}, RECONSTRUCTED
    if judged is not None and model.family.config.reads_text and judged.has_texts:
        texts = judged.texts(spread(len(judged), n))
        prompts = captions.chosen(texts or (), seed, 0)
        return paint(model, n, seed=seed, prompts=prompts), {"prompts": CAPTIONS}, ""
    return paint(model, n, seed=seed), {}, ""


def _known(metrics: str | Sequence[str] | None) -> list[str] | None:
    if metrics is None:
        return None
    metrics = metrics.split(",") if isinstance(metrics, str) else metrics
    names = [name.strip() for name in metrics if name.strip()]
    for name in names:
        if name not in METRICS and name not in ALIASES:
            meant = nearest(name)
            hint = f"did you mean {meant}? There are" if meant else "choose from"
            raise EvaluationError(f"There is no metric {name!r}: {hint} {', '.join(METRICS)}.")
    if not names:
        raise EvaluationError(f"Name at least one metric: {', '.join(METRICS)}.")
    return list(dict.fromkeys(ALIASES.get(name, name) for name in names))


def _plan(c: Comparison, wanted: list[str] | None) -> tuple[list[str], dict[str, str]]:
    """What will be measured, and why the rest will not; raises EvaluationError for what was asked by name."""
    measured, left_out = [], {}
    for name in METRICS if wanted is None else wanted:
        metric = METRICS[name]
        checks = metric.lacks if wanted is not None else (*metric.lacks, *metric.unwise)
        reason = next(filter(None, (check(c) for check in checks)), None)
        if reason is None:
            measured.append(name)
        elif wanted is not None:
            raise EvaluationError(f"{name} cannot be measured: {reason}.")
        else:
            left_out[name] = reason
    if not measured:
        raise EvaluationError(f"Nothing can be measured: {next(iter(left_out.values()))}.")
    return measured, left_out


def _measure(c: Comparison, names: list[str], left_out: dict[str, str] | None) -> list[Score]:
    """The scores of some metrics. What turns out not to be measurable is told to `left_out`, or raised."""
    found: list[Score] = []
    for name in names:
        try:
            found += METRICS[name].measure(c)
        except EvaluationError as error:
            if left_out is None:
                raise
            left_out[name] = str(error).rstrip(".")
    if not found:
        reason = next(iter((left_out or {}).values()), "there are too few images for what was asked")
        raise EvaluationError(f"Nothing could be measured: {reason}.")
    return found


def _with_headline(scores: list[Score], c: Comparison) -> tuple[list[Score], Score, str]:
    """The scores, of which one is the headline, and a sentence that says why."""
    few = min(c.n, c.reference.info.count)
    small = few < SMALL
    preferred = ("kernel", "frechet") if small else ("frechet", "kernel")
    places = {score.metric: place for place, score in reversed(list(enumerate(scores)))}
    place = next((places[name] for name in preferred if name in places), 0)
    metric = scores[place].metric
    if metric == preferred[0] and small:
        reason = (
            f"The kernel distance is the number to quote: with {few:,} images (fewer than {SMALL:,}) the "
            "Fréchet distance is biased by how many there are, and the kernel distance is not."
        )
    elif metric == preferred[0]:
        reason = f"With {few:,} images or more on either side, the Fréchet distance is the number to quote."
    elif metric in preferred:
        reason = f"The {preferred[0]} distance would be the number to quote, and was not asked for."
    else:
        reason = "No distance was asked for: this is the first score that was."
    scores = [score.model_copy(update={"headline": number == place}) for number, score in enumerate(scores)]
    return scores, scores[place], reason


def _remarks(c: Comparison) -> Iterable[str]:
    """What to beware of with these images."""
    if c.candidate.pictures is not None:
        remarks = c.candidate.pictures.info.report.notes
        yield from (remark.rstrip(".") for remark in remarks if remark.startswith("Sizes differ"))
    if c.uses_training and c.doubt:
        yield c.doubt
    if skipped := c.candidate.facts.get("unreadable"):
        yield f"{skipped:,} files of {c.candidate.name} could not be read, and were left out"
    if skipped := c.reference.images.info.report.skipped:
        yield f"{skipped:,} files of {c.reference.info.name} could not be read, and were left out"
    if c.reference.info.count < 100:
        yield f"{c.reference.info.count} reference images are few: trust no score further than its interval"


def _make_folder(out: str | Path | None) -> None:
    """Before the work, not after it."""
    try:
        if out is not None:
            Path(out).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise EvaluationError(f"{out} cannot be made ({error.strerror}): choose another --out.") from error


def _writable(candidate: Candidate, out: str | Path | None) -> tuple[list[Path], list[str]]:
    """The folders that will get the scores, and what is to be said of others: found out before the work.

    Raises EvaluationError where `out` cannot be written, and DataError where old scores cannot be read.
    """
    folders, notes = [], []
    for folder in dict.fromkeys(folder for folder in (candidate.folder, out and Path(out)) if folder):
        score_files.read(folder / SCORES_FILE)
        try:
            atomic.write_bytes(folder / ".writable", b"")
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


def _save(
    scores: list[Score], picture: bytes | None, candidate: Candidate, folders: list[Path]
) -> tuple[list[Path], list[str]]:
    """Write scores and picture into folders; returns the files, and what could not be written.

    Nothing is raised: the scores took long to measure, and are told in any case.
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
                if candidate.model is not None and folder == candidate.folder:
                    files.append(model_folder.write_card(folder, candidate.model.info()))
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

    Scores of other weights or other pictures go: the model has been trained since, or is not the same.
    """
    measured = {_whose(score) for score in scores}
    replaced = {_identity(score) for score in scores}
    kept = [
        score.model_copy(update={"headline": False})
        for score in score_files.read(folder / SCORES_FILE)
        if _whose(score) in measured and _identity(score) not in replaced
    ]
    return [*scores, *kept]


def _whose(score: Score) -> tuple[object, ...]:
    return score.settings.get("weights"), score.settings.get("pictures")


def _identity(score: Score) -> tuple[object, ...]:
    reference = None if score.reference is None else (score.reference.fingerprint, score.reference.split)
    f = score.features
    # Normalization is left out: a score that an earlier version made with another one is out of date.
    features = None if f is None else (f.name, f.sha256, f.resizer.partition(",")[0], f.precision)
    return score.metric, reference, features, score.images, score.seed


__all__ = ["METRICS", "Evaluation", "evaluate", "score_samples"]
