"""Scores of attacks on encoders and generators: how far their results move, beside random noise."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from danqing.errors import EvaluationError
from danqing.evaluation.estimate import mean_of
from danqing.evaluation.generated_images import sources
from danqing.evaluation.image_sets import index_batches, map_labels
from danqing.evaluation.real_conditions import attributes_for, labels_for
from danqing.evaluation.scores import Score
from danqing.families.base import Condition
from danqing.images import to_float
from danqing.model.conditions import given_condition
from danqing.model.model import Model
from danqing.recognition.attack.changes import Change, attack_results, computations, seeds_of
from danqing.recognition.trial import Trial

_BATCH = 16
_STEPS = 20
_BRIEF = 8
"""Steps of a generator that takes many: the gradients pass through all of them."""
_LEVELS = 127.5
"""Levels of an image of 8 bits in a difference of 1."""


def change_scores(trial: Trial, steps: int | None) -> tuple[list[Score], list[str]]:
    """Measure how far each result moves under attack and random noise.

    Also returns notes.
    Images and the results "fill" and "translate" are compared in levels. Vectors and codes are compared with
    the results of other images: at 1, an attack turns an image into any other.
    """
    changes: dict[str, list[Change]] = {}
    rows = _rows(trial)
    for place in index_batches(len(rows), _BATCH):
        if len(part := rows[place]) < 2:  # a result is compared with that of another image
            continue
        trial.tell(int(place[0]), len(rows), "Attacking")
        seeds = seeds_of(trial.seed, int(part[0]), len(part))
        found = computations(trial.learner, _condition(trial, part), seeds, _options(trial))
        for verb, compute in found.items():
            images = trial.pixels(part)
            if verb == "translate" and trial.candidate.model is not None:
                shown = sources(trial.candidate.model, trial.images, part)
                images = to_float(torch.from_numpy(shown.array)).contiguous().to(trial.device)
            change = attack_results(compute, images, trial.ball, seeds=seeds, steps=steps or _STEPS)
            changes.setdefault(verb, []).append(change)
    scores, notes = [], []
    for verb, parts in changes.items():
        scores += _scores(trial, verb, parts, steps or _STEPS)
        if not parts[0].has_gradients:
            notes.append(f"{verb} passes no gradients to images, so that a random search attacked it")
    return scores, notes


def _rows(trial: Trial) -> NDArray[np.int64]:
    """The images whose labels the model knows, or all if it needs none."""
    model = trial.candidate.model
    if model is None or not model.labels:
        return np.arange(len(trial.images))
    rows = np.flatnonzero(map_labels(trial.images, model.labels) >= 0)
    if len(rows) < 2:
        raise EvaluationError("The model needs the label of each image: name data with labels that it knows.")
    return rows


def _scores(trial: Trial, verb: str, parts: list[Change], steps: int) -> list[Score]:
    attacked, random, spread = (
        torch.cat([getattr(part, name) for part in parts]) for name in ("attacked", "random", "spread")
    )
    is_image = verb in ("fill", "translate")
    scale = _LEVELS if is_image else 1 / float(spread.mean().clamp_min(1e-12))
    words = trial.ball.in_words()
    found = []
    for kind, values, said in (
        ("attack", attacked, f"under attack ({words})"),
        ("noise", random, f"under random noise ({words})"),
    ):
        score = trial.score(
            f"change/{verb}/{kind}/{words}",
            f"change of {verb} {said}",
            mean_of(values * scale),
            better=False,
            steps=steps,
        )
        unit = "levels" if is_image else "× the distance to another image"
        found.append(score.model_copy(update={"unit": unit}))
    return found


def _condition(trial: Trial, part: Any) -> Condition:
    """What a model is told of images: their labels and attributes, where it reads them."""
    model = trial.candidate.model
    if model is None:
        return Condition()
    label, attributes = labels_for(model, trial.images, part), attributes_for(model, trial.images, part)
    condition = given_condition(model.family.config, len(part), label, attributes=attributes)
    return condition.to(trial.device)


def _options(trial: Trial) -> dict[str, dict[str, Any]]:
    """The options of generating verbs: few steps."""
    model = trial.candidate.model
    return {} if model is None else {verb: _brief(model, verb) for verb in ("fill", "translate")}


def _brief(model: Model, verb: Any) -> dict[str, Any]:
    if not hasattr(model.family, verb):
        return {}
    usual = model.options_of(verb).get("num_steps")
    return {"num_steps": _BRIEF} if isinstance(usual, int) and usual > _BRIEF else {}
