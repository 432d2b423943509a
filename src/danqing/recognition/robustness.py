"""`attack`: how well a model withstands attacks, common corruptions and images from elsewhere."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from danqing.data.corruptions import KINDS, SEVERITIES, corrupt
from danqing.errors import EvaluationError
from danqing.evaluation import classifier_scores
from danqing.evaluation.candidate import open_candidate
from danqing.evaluation.estimate import mean_of
from danqing.evaluation.image_sets import batch_size_for, index_batches
from danqing.evaluation.reference import open_reference
from danqing.evaluation.score_folders import make_folder, save_scores, writable_folders
from danqing.evaluation.scores import Score
from danqing.learners.abilities import Classifies
from danqing.learners.perturbation import Ball, Norm
from danqing.model.loading import HasModel
from danqing.model.model import Model
from danqing.model.recognizer import Recognizer
from danqing.precision import choose_device
from danqing.progress import ProgressCallback
from danqing.randomness import derived_seed
from danqing.recognition.attack.attacks import STEPS, accuracy_under, chosen
from danqing.recognition.attack.change_scores import change_scores
from danqing.recognition.domain_scores import domain_scores
from danqing.recognition.smoothing import certify
from danqing.recognition.trial import Trial

_USUAL, _USUAL_CHANGES, _USUAL_OUTSIDE = 500, 64, 1_000
"""How many images are used if the caller names no number: gradients of a generator take long."""
_CERTIFIED_AT = (0.0, 0.5, 1.0, 2.0)
"""The radii at which certified accuracy is reported, in standard deviations of the noise."""


@dataclass(frozen=True, kw_only=True)
class Robustness:
    """The result of attacking a model.

    scores: one for each attack and corruption.
    notes: what to keep in mind.
    files: what was written.
    """

    scores: list[Score]
    notes: list[str] = field(default_factory=list)
    files: list[Path] = field(default_factory=list)


def attack(
    model: Model | Recognizer | HasModel | str | Path,
    data: str | Path,
    *,
    attacks: str | Sequence[str] | None = None,
    norm: Norm = "linf",
    epsilon: float = 8 / 255,
    steps: int | None = None,
    corruptions: bool = True,
    sigma: float | None = None,
    outside: str | Path | None = None,
    n: int | None = None,
    split: str | None = None,
    seed: int = 0,
    device: str = "auto",
    out: str | Path | None = None,
    on_progress: ProgressCallback | None = None,
) -> Robustness:
    """Measure how well a model withstands attacks and common corruptions.

    model: a model or recognizer, its run or folder, or its id on the hub. Of a classifier the accuracy is
        measured; of any other how far its results move.
    data: images like those that it was trained on.
    attacks: of a classifier: fgsm, pgd, apgd-ce, apgd-dlr, square, as a list or a text with commas; by
        default all that suit of the last three.
    norm: "linf" or "l2". epsilon: how far an attack may go, as a share of the range of values.
    steps: of each attack; None takes those that are usual for it.
    corruptions: whether a classifier is also measured under common corruptions at five severities.
    sigma: the standard deviation of the noise of randomized smoothing, as a share of the range of values;
        None leaves it out.
    outside: images that the model should find unlike its training images; None leaves this out.
    n: how many images are used at most; None is 500 of a classifier, 64 of any other model, and 1,000 beside
        `outside`. split: as of `evaluate`.
    seed: the same seed gives the same scores.
    out: a folder that gets `scores.json`. A model folder gets it in any case, with a new card.
    on_progress: receives (done, total, what).
    Raises DanqingError.
    """
    ball, named = Ball(norm, epsilon), chosen(attacks)
    if n is not None and n < 2:
        raise EvaluationError("A score needs at least two images: raise -n.")
    make_folder(out)
    chosen_device = str(choose_device(device))
    opened = open_candidate(
        model, data, n=n or _USUAL, seed=seed, device=chosen_device, on_progress=on_progress
    )
    if opened.trained is None:
        raise EvaluationError(f"{opened.name} is not a model: name a run or a model folder.")
    folders, notes = writable_folders(opened, out)
    reference = open_reference(data, opened, split=split, seed=seed, on_progress=on_progress)
    trial = Trial(opened, reference, reference.images, ball, seed, on_progress)
    trial.learner.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # convolutions are faster so
    is_classifier = isinstance(trial.learner, Classifies)
    if not is_classifier and (attacks is not None or sigma is not None):
        name = "attacks" if attacks is not None else "sigma (--certify)"
        raise EvaluationError(f"{opened.name} does not classify images: leave {name} out.")
    if isinstance(trial.learner, Classifies) and trial.learner.is_multi_label and sigma is not None:
        raise EvaluationError("Smoothing is for one label per image: leave sigma (--certify) out.")
    attacked = trial.of(n or (_USUAL if is_classifier else _USUAL_CHANGES))
    notes += reference.cautions
    scores: list[Score] = []
    apart: tuple[list[Score], list[str]] = ([], [])
    if outside is not None:  # first, since this finds out soonest that it cannot
        apart = domain_scores(trial.of(n or _USUAL_OUTSIDE), outside)
    if isinstance(trial.learner, Classifies):
        if attacks is None:
            named = tuple(name for name in named if _suits(name, norm, trial.learner.is_multi_label))
        scores += _of_classifier(attacked, trial.learner, named, steps, corruptions, sigma)
    else:
        found, said = change_scores(attacked, steps)
        scores, notes = scores + found, notes + said
    scores, notes = scores + apart[0], notes + apart[1]
    if not scores:
        raise EvaluationError(
            f"{opened.name} neither reads images nor classifies them, so that there is nothing to attack."
        )
    files, failures = save_scores(scores, None, opened, folders)
    return Robustness(scores=scores, notes=notes + failures, files=files)


def _suits(attack: str, norm: str, is_multi_label: bool) -> bool:
    return not (attack == "square" and norm != "linf") and not (attack == "apgd-dlr" and is_multi_label)


def _of_classifier(
    trial: Trial,
    classifier: Classifies,
    attacks: Sequence[Any],
    steps: int | None,
    corruptions: bool,
    sigma: float | None,
) -> Iterator[Score]:
    """The accuracy on the images whose labels the classifier knows, in all trials."""
    answers, rows = classifier_scores.answer(classifier, trial.images)
    targets = answers.targets if answers.is_multi_label else answers.targets.argmax(1)
    words = trial.ball.in_words()

    def shown(first: int, last: int) -> tuple[Tensor, Tensor]:
        return trial.pixels(rows[first:last]), targets[first:last].to(trial.device)

    right = accuracy_under(
        attacks,
        classifier.logits,
        shown,
        len(rows),
        trial.ball,
        batch=batch_size_for(trial.images.size),
        seed=trial.seed,
        steps=steps,
        on_progress=trial.on_progress,
    )
    yield trial.score("robust-accuracy/clean", "accuracy without an attack", mean_of(right["clean"]))
    for name in attacks:
        yield trial.score(
            f"robust-accuracy/{name}/{words}",
            f"accuracy under {name} ({words})",
            mean_of(right[name]),
            steps=steps or STEPS[name],
        )
    yield trial.score(
        f"robust-accuracy/worst/{words}",
        f"accuracy under all of these attacks ({words})",
        mean_of(right["worst"]),
        attacks=", ".join(attacks),
    )
    if corruptions:
        yield from _under_corruptions(trial, classifier, rows, targets)
    if sigma is not None:
        yield from _certified(trial, classifier, rows, targets, sigma)


def _under_corruptions(trial: Trial, classifier: Classifies, rows: Any, targets: Tensor) -> Iterable[Score]:
    """The accuracy under each corruption, the mean of all severities, and that of all corruptions."""
    scores, everything = [], torch.zeros(len(rows), dtype=torch.float64)
    for place, kind in enumerate(KINDS):
        trial.tell(place, len(KINDS), f"Corrupting with {kind}")
        right = torch.zeros(len(SEVERITIES), len(rows), dtype=torch.float64)
        for part in index_batches(len(rows), batch_size_for(trial.images.size)):
            seeds = [derived_seed(trial.seed, kind, int(row)) for row in rows[part]]
            clean = trial.pixels(rows[part])
            for number, severity in enumerate(SEVERITIES):
                with torch.no_grad():
                    logits = classifier.logits(corrupt(clean, kind, severity, seeds)).cpu()
                right[number, part] = _right(logits, targets[part]).double()
        everything += right.mean(0) / len(KINDS)
        by_severity = dict(zip(map(str, SEVERITIES), right.mean(1).tolist(), strict=True))
        scores.append(
            trial.score(
                f"corrupted-accuracy/{kind}",
                f"accuracy under {kind}",
                mean_of(right.mean(0)),
                severities=by_severity,
            )
        )
    name = f"mean accuracy under {len(KINDS)} corruptions at five severities"
    return [trial.score("corrupted-accuracy", name, mean_of(everything)), *scores]


def _certified(
    trial: Trial, classifier: Classifies, rows: Any, targets: Tensor, sigma: float
) -> Iterator[Score]:
    """The share of images whose label is right, and certified within some radii."""
    right, radii = [], []
    for place, row in enumerate(rows.tolist()):
        trial.tell(place, len(rows), "Certifying")
        seeds = [derived_seed(trial.seed, "certify", row)]
        found = certify(classifier.logits, trial.pixels(rows[place : place + 1]), sigma=sigma, seeds=seeds)
        right.append(found.labels == targets[place])
        radii.append(found.radii)
    hits, reach = torch.cat(right), torch.cat(radii)
    for times in _CERTIFIED_AT:
        radius = times * sigma
        yield trial.score(
            f"certified-accuracy/{sigma:g}/{radius:g}",
            f"accuracy certified within l2 {radius:g}" if radius else "accuracy of the smoothed classifier",
            mean_of(hits & (reach >= radius)),
            sigma=sigma,
        )


def _right(logits: Tensor, targets: Tensor) -> Tensor:
    """Which answers are right, `[n]` bool."""
    if targets.ndim == 2:
        return ((logits > 0) == (targets > 0)).all(1)
    return logits.argmax(1) == targets
