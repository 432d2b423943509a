"""`evaluate`: a model, or a folder of pictures, against a data set."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import torch
from torch import nn

from danqing.data import captions
from danqing.data.dataset import Dataset
from danqing.errors import EvaluationError
from danqing.evaluation.candidate import Candidate, open_candidate
from danqing.evaluation.contract import FeatureNetwork, ImageSet
from danqing.evaluation.examination import Examination
from danqing.evaluation.features import Features, extract
from danqing.evaluation.flattery import was_trained_with
from danqing.evaluation.frechet import frechet_distance
from danqing.evaluation.generated_images import generate_images, reconstruct
from danqing.evaluation.image_sets import spread_evenly
from danqing.evaluation.kernel import kernel_distance
from danqing.evaluation.metric_inputs import CAPTIONS, MetricInputs, remade_in_words
from danqing.evaluation.metrics import ALIASES, METRICS, distance_name, nearest
from danqing.evaluation.neighbour_sheet import draw_neighbour_sheet
from danqing.evaluation.networks import open_network, taught
from danqing.evaluation.on_nodes import NetworkChoice
from danqing.evaluation.on_nodes import opened as opened_nodes
from danqing.evaluation.recognition_scores import score_recognizer
from danqing.evaluation.reference import open_reference
from danqing.evaluation.score_folders import make_folder, save_scores, writable_folders
from danqing.evaluation.scores import ReferenceInfo, Score
from danqing.evaluation.second_network import choose_second, second_distances, second_in_words
from danqing.images import encode
from danqing.model import folder as model_folder
from danqing.model.loading import HasModel
from danqing.model.model import Model
from danqing.model.recognizer import Recognizer
from danqing.precision import Precision, choose_device
from danqing.progress import ProgressCallback
from danqing.sheet import Sheet
from danqing.trust.sealed_file import is_sealed

_FROM_DATA = ("auto", taught.NAME)
"""Second networks that are known once the data is open."""
SMALL = 10_000
"""With fewer images than this on either side, the kernel distance is the number to quote."""


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """The result of an evaluation.

    headline: the one score to quote.
    reason: why it is this one.
    left_out: metrics that were not measured, each with the reason.
    notes: what to keep in mind.
    neighbours: the picture of samples beside the training images nearest to them.
    files: what was written.
    pictures: sheets of images by name, such as "mistakes" of a model that recognizes images.
    """

    scores: list[Score]
    headline: Score
    reason: str
    left_out: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    neighbours: Path | None = None
    files: list[Path] = field(default_factory=list)
    pictures: Mapping[str, Sheet] = field(default_factory=dict)


def evaluate(
    candidate: Model | Recognizer | HasModel | str | Path,
    data: str | Path,
    *,
    metrics: str | Sequence[str] | None = None,
    features: str | Path | nn.Module = "auto",
    weights: str | Path | None = None,
    second_features: str | Path | nn.Module | None = None,
    n: int = 10_000,
    split: str | None = None,
    seed: int = 0,
    size: tuple[int, int] | None = None,
    precision: Precision = "float32",
    device: str = "auto",
    out: str | Path | None = None,
    ray: str | None = None,
    on_progress: ProgressCallback | None = None,
) -> Evaluation:
    """Score a model, or a folder of images, against a data set.

    candidate: a `Model`, a `Recognizer`, a run, a model folder, a hub id, or any source of images that
        `open_dataset` takes.
    metrics: names in `METRICS`, as a list or as one text with commas; by default all that apply at sensible
        cost.
    features: the network that images are compared by.
    weights: a file of its weights where they are not fetched, see `open_network`.
    second_features: another network, by which the kernel and the Fréchet distance of at most 1,000 images are
        measured as well. "classifier" is one that is trained on the labels of the training images, and "auto"
        is `hed` where it is installed, else "classifier" where there are labels.
    n: how many images are scored at most.
    split: what to compare with; by default test, else validation, else what the run held out, else the
        training images.
    seed: the same seed gives the same scores.
    size: (width, height) for images of mixed sizes.
    out: a folder that gets `scores.json` and `neighbours.png`. A model folder gets both in any case, with a
        new card.
    ray: the address of a Ray cluster on whose nodes images are sampled and features computed, or "auto" for
        that of this machine. The scores are the same.
    on_progress: receives (done, total, what).

    Raises DanqingError.
    """
    wanted = _known(metrics)
    if n < 2:
        raise EvaluationError("A score needs at least two images: raise -n.")
    make_folder(out)
    chosen = choose_device(device)
    opened = open_candidate(
        candidate, data, n=n, seed=seed, size=size, device=str(chosen), on_progress=on_progress
    )
    if ray is not None:
        _check_can_be_sent(candidate, opened)
    folders, notes = writable_folders(opened, out)
    if opened.recognizer is not None:
        if wanted is not None:
            raise EvaluationError("A model that recognizes images has its own scores: leave --metrics out.")
        return _of_recognizer(
            notes,
            score_recognizer(opened, data, folders, n=n, split=split, seed=seed, on_progress=on_progress),
        )
    weights = None if weights is None else Path(weights)
    network = open_network(features, weights=weights, device=chosen, precision=precision)
    second = None if second_features in _FROM_DATA else _open_second(second_features, network, chosen)
    reference = open_reference(data, opened, split=split, seed=seed, on_progress=on_progress)
    thorough = wanted is not None and "memorised" in wanted
    choice = None if isinstance(features, nn.Module) else NetworkChoice(features, weights, precision)
    with opened_nodes(ray, chosen, choice) as nodes:
        comparison = MetricInputs(
            opened,
            reference,
            network,
            n=n,
            seed=seed,
            thorough=thorough,
            nodes=nodes,
            on_progress=on_progress,
        )
        if second_features in _FROM_DATA:
            second, said = _second_from_data(str(second_features), comparison, chosen)
            notes.append(said)
        measured, left_out = _plan(comparison, wanted)
        found = _measure(comparison, measured, None if wanted is not None else left_out)
        if second is not None:
            found += second_distances(comparison, second)
        scores, headline, reason = _with_headline(found, comparison)
        notes += [*reference.cautions, *_remarks(comparison, scores)]
        if features == "auto" and network.name == "pixels":
            notes.append(
                "no feature network is installed, so pixels are compared: pip install 'danqing[features]'"
            )
        pictured = "memorised" in measured or (wanted is None and "duplicates" in measured)
        drawn = pictured and folders and comparison.knows_training
        marks = None if opened.model is None else opened.model.marking("sample", overview=True)
        picture = encode(draw_neighbour_sheet(comparison), "png", marks=marks) if drawn else None
        files, failures = save_scores(scores, picture, opened, folders)
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


def _check_can_be_sent(candidate: object, opened: Candidate) -> None:
    """Raise EvaluationError where a candidate cannot be scored on a cluster."""
    if opened.recognizer is not None:
        raise EvaluationError("A model that recognizes images is scored on one machine: leave --ray out.")
    if isinstance(candidate, str | Path) and is_sealed(Path(candidate)):
        raise EvaluationError(
            "A sealed model is not sent to other machines, where it would lie open: leave --ray out."
        )


def _of_recognizer(notes: list[str], found: tuple[Examination, list[str], list[Path]]) -> Evaluation:
    """The evaluation of a recognizer; notes: what was said before."""
    examination, said, files = found
    return Evaluation(
        scores=list(examination.scores),
        headline=examination.headline,
        reason=f"The {examination.headline.name} is the score by which its run chose the best model.",
        notes=notes + said,
        files=files,
        pictures=examination.pictures,
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
    """Measure one distance between samples and given features.

    A cheap score: it follows from the arguments alone, and touches no global randomness.

    reference_features: of the images that the samples are compared with.
    network: the network that they were computed by.
    n: how many images are sampled.
    judged: the images that the features are of. A model that reads text samples their captions, and a first
        stage is scored by its reconstructions of them.

    Raises EvaluationError.
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
        flattered=was_trained_with(model, generated.info),
        seed=seed,
        settings=settings,
        note=note,
    )


def _samples(model: Model, n: int, seed: int, judged: Dataset | None) -> tuple[ImageSet, dict[str, str], str]:
    """The samples of a model, or what it makes of the judged images, with settings and a note."""
    if judged is not None and not model.family.has_prior:
        rows = spread_evenly(len(judged), min(n, len(judged)))
        setting, note = remade_in_words(model)
        return reconstruct(model, judged, rows), {"images": setting}, note
    if judged is not None and model.family.config.reads_text and judged.has_texts:
        texts = judged.texts(spread_evenly(len(judged), n))
        prompts = captions.chosen(texts or (), seed, 0)
        return generate_images(model, n, seed=seed, prompts=prompts), {"prompts": CAPTIONS}, ""
    return generate_images(model, n, seed=seed), {}, ""


def _open_second(
    name: str | Path | nn.Module | None, network: FeatureNetwork, device: torch.device
) -> FeatureNetwork | None:
    """The second network; raises EvaluationError where it is the first again."""
    if name in (None, "none"):
        return None
    second = open_network(name, device=device)
    if second.sha256 == network.sha256:
        raise EvaluationError(f"Both feature networks are {network.name}: choose another second one.")
    return second


def _second_from_data(name: str, c: MetricInputs, device: torch.device) -> tuple[FeatureNetwork | None, str]:
    """The second network that depends on the data, and a note on it."""

    def training() -> Dataset | None:
        return c.training if c.is_held_out else None

    found = choose_second(name, c.network.name, training)
    if found != taught.NAME:
        return _open_second(found, c.network, device), second_in_words(found)
    images = training()
    if images is None or not taught.can_teach(images):
        raise EvaluationError(
            "A classifier as the second network needs training images with at least two labels, and other "
            "images to compare with: choose another second network."
        )
    return taught.open_taught(images, device=device, on_progress=c.on_progress), second_in_words(found)


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


def _plan(c: MetricInputs, wanted: list[str] | None) -> tuple[list[str], dict[str, str]]:
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


def _measure(c: MetricInputs, names: list[str], left_out: dict[str, str] | None) -> list[Score]:
    """The scores of some metrics. A metric that cannot be measured is added to `left_out`, or raised."""
    found: list[Score] = []
    for name in names:
        try:
            found += METRICS[name].measure(c)
        except EvaluationError as error:
            if left_out is None:
                raise
            left_out[name] = str(error).rstrip(".")
    if not found:
        reason = next(iter((left_out or {}).values()), "there are too few images for the requested metrics")
        raise EvaluationError(f"Nothing could be measured: {reason}.")
    return found


def _with_headline(scores: list[Score], c: MetricInputs) -> tuple[list[Score], Score, str]:
    """The scores, of which one is the headline, and a sentence that says why.

    A score on a network that the model was trained with is the headline only where there is no other.
    """
    few = min(c.n, c.reference.info.count)
    small = few < SMALL
    preferred = ("kernel", "frechet") if small else ("frechet", "kernel")
    of_distances = [place for place, score in enumerate(scores) if score.metric in preferred]
    allowed = [place for place in of_distances if not scores[place].flattered] or of_distances
    places = {scores[place].metric: place for place in reversed(allowed)}
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
        reason = f"The {preferred[0]} distance would be the number to quote, but was not requested."
    else:
        reason = "No distance was requested: this is the first score that was."
    if len(allowed) < len(of_distances):
        reason += f" It is by a network that the model was not trained with; {c.network.name} would flatter."
    scores = [score.model_copy(update={"headline": number == place}) for number, score in enumerate(scores)]
    return scores, scores[place], reason


def _remarks(c: MetricInputs, scores: Sequence[Score]) -> Iterable[str]:
    """Notes on these images and scores."""
    flattering = dict.fromkeys(one.features.name for one in scores if one.flattered and one.features)
    for name in flattering:
        yield (
            f"{name} was part of this model's training, so that scores by it flatter: compare models by "
            f"another network ({'--second-features' if len(flattering) == 1 else '--features'})"
        )
    if c.candidate.pictures is not None:
        remarks = c.candidate.pictures.info.report.notes
        yield from (remark.rstrip(".") for remark in remarks if remark.startswith("Sizes differ"))
    if c.uses_training and c.doubt:
        yield c.doubt
    if skipped := c.candidate.facts.get("unreadable"):
        yield f"files of {c.candidate.name} that could not be read and were left out: {skipped:,}"
    if skipped := c.reference.images.info.report.skipped:
        yield f"files of {c.reference.info.name} that could not be read and were left out: {skipped:,}"
    if c.reference.info.count < 100:
        yield f"{c.reference.info.count} reference images are few: read every score with its interval"


__all__ = ["METRICS", "Evaluation", "evaluate", "score_samples"]
