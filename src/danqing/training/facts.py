"""What a run says of itself in `run.json` and in the model folder, as plain values."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from danqing.data import Dataset
from danqing.data.degrade import Degradation
from danqing.data.splits import Held
from danqing.training.config import RunConfig
from danqing.training.listener import Plan
from danqing.training.validation import Best


def of_data(dataset: Dataset, config: RunConfig, held: Held | None) -> dict[str, Any]:
    """The images learnt from, and, as `judged`, those that the model is scored on."""
    info, labels = dataset.info, dataset.labels
    counts = {}
    if labels is not None:
        found = np.bincount(labels[labels >= 0], minlength=len(dataset.label_names))
        counts = dict(zip(dataset.label_names, map(int, found), strict=True))
    facts = {
        "name": info.name,
        "source": str(info.source),
        "images": len(dataset),
        "width": dataset.size[0],
        "height": dataset.size[1],
        "channels": dataset.channels,
        "depth": dataset.depth,
        "range": dataset.range and list(dataset.range),
        "labels": counts,
        "fingerprint": dataset.fingerprint,
        "licence": info.licence,
        "citation": info.citation,
        "account": info.report.account(),
        "understood": info.report.understood,
        "notes": list(info.report.notes),
        "skipped": [
            [file.name, file.reason] for file in (*info.report.skipped_files, *info.report.left_out_files)
        ],
    }
    if config.data.degrade:
        facts["source_images"] = Degradation(config.data.degrade).in_words()
    if held is not None:
        judged = held.judged
        facts["judged"] = {
            "split": held.split,
            "images": len(judged),
            "fingerprint": judged.fingerprint,
        }
    return facts | held_out(config, held)


def held_out(config: RunConfig, held: Held | None) -> dict[str, float]:
    """The share of the training images that was kept aside; nothing where none was."""
    return {"held_out": config.evaluation.held_out} if held is not None and held.split == "held-out" else {}


def of_training(dataset: Dataset, config: RunConfig, held: Held | None) -> dict[str, Any]:
    """What a model knows of the images it was made from."""
    info = dataset.info
    return {
        "name": info.name,
        "images": len(dataset),
        "fingerprint": dataset.fingerprint,
        "licence": info.licence,
        "citation": info.citation,
        "prepared": config.data.model_dump(include={"channels", "alpha", "background", "fit"})
        | ({} if dataset.range is None else {"range": list(dataset.range)})
        | ({"degrade": config.data.degrade} if config.data.degrade else {}),
        **held_out(config, held),
        **({"chosen_by": held.split} if held is not None and config.evaluation.keep == "best" else {}),
    }


def of_plan(plan: Plan) -> dict[str, Any]:
    """What was foreseen before the first step."""
    return {
        "parameters": plan.parameters,
        "memory_bytes": plan.memory_bytes,
        "images": plan.images,
        "seconds": plan.seconds,
        "images_per_second": plan.images_per_second,
        "precision": plan.precision,
    } | ({"then": of_plan(plan.then)} if plan.then else {})


def of_best(best: Best) -> dict[str, Any]:
    """The best-scored model, which is the one in the model folder."""
    score = best.score
    return {
        "images": best.images,
        "metric": score.metric,
        "name": score.name,
        "value": score.value,
        "text": str(score),
    }


def of_first_stage(tokenizer: Mapping[str, Any]) -> dict[str, Any]:
    """What a model knows of the tokenizer that it was given: images seen and seconds, where they are known,
    the digest of its weights, and the fingerprint of the images that it learnt from.
    """
    names = ("images", "seconds", "weights", "fingerprint")
    return {name: tokenizer[name] for name in names if tokenizer.get(name)}


def of_both(first: Mapping[str, float | None], second: Mapping[str, float | None]) -> dict[str, float | None]:
    """The cost of two stages: sums, and the larger of the two peaks; None where neither is known."""
    sums = {}
    for name in second:
        known = [value for cost in (first, second) if (value := cost.get(name)) is not None]
        sums[name] = (max if name == "peak_memory_bytes" else sum)(known) if known else None
    return sums


def of_cost(position: Mapping[str, Any], cores: int, measures_energy: bool) -> dict[str, float | None]:
    """What the run has taken in all, over every process that worked on it.

    energy_wh: of the whole machine; None where it does not tell. Time spent on evaluation is no training
    time, and is counted here.
    """
    joules, evaluation = position["energy_joules"], position["evaluation_seconds"]
    return {
        "core_hours": (position["seconds"] + evaluation) * cores / 3600,
        "energy_wh": joules / 3600 if joules or measures_energy else None,
        "peak_memory_bytes": position["peak_memory_bytes"] or None,
        "evaluation_seconds": evaluation,
    }
