"""What `run.json` and the model folder say of a run, as plain values."""

import math
from collections.abc import Mapping
from typing import Any

from danqing.data import Dataset
from danqing.data.degrade import Degradation, source_images
from danqing.data.splits import Held
from danqing.evaluation.image_sets import batch_size_for, draw_rows, index_batches
from danqing.images import to_float
from danqing.model.domain import MOST as DOMAIN_IMAGES
from danqing.model.domain import Domain
from danqing.training.config import RunConfig
from danqing.training.listener import Plan
from danqing.training.position import Position
from danqing.training.validation import Best, Validation


def of_data(dataset: Dataset, config: RunConfig, held: Held | None) -> dict[str, Any]:
    """Return facts of the training images and, as `judged`, the held-out ones."""
    info, names = dataset.info, dataset.label_names
    counts = dict(zip(names, dataset.label_counts.tolist(), strict=False)) if names else {}
    facts: dict[str, Any] = {
        "name": info.name,
        "source": str(info.source),
        "images": len(dataset),
        "width": dataset.size[0],
        "height": dataset.size[1],
        **({"sizes": [list(size) for size in dataset.sizes]} if len(dataset.sizes) > 1 else {}),
        "channels": dataset.channels,
        "depth": dataset.depth,
        "range": dataset.range and list(dataset.range),
        "labels": counts,
        "fingerprint": dataset.fingerprint,
        "licence": info.licence,
        "citation": info.citation,
        "consent": info.report.consent.model_dump(),
        "account": info.report.account(),
        "understood": info.report.understood,
        "notes": list(info.report.notes),
        "skipped": [
            [file.name, file.reason] for file in (*info.report.skipped_files, *info.report.left_out_files)
        ],
    }
    if config.data.degrade:
        facts["source_images"] = Degradation(config.data.degrade).in_words()
    if dataset.sources is not None:
        facts["source_images"] = f"{len(dataset.sources):,} of another domain ({config.data.domains})"
    if held is not None:
        judged = held.judged
        facts["judged"] = {
            "split": held.split,
            "images": len(judged),
            "fingerprint": judged.fingerprint,
        }
    return facts | held_out(config, held)


def held_out(config: RunConfig, held: Held | None) -> dict[str, float]:
    """Return the held-out share of the training images, if any."""
    return {"held_out": config.evaluation.held_out} if held is not None and held.split == "held-out" else {}


def of_trained(
    position: Position,
    precision: str,
    config: RunConfig,
    dataset: Dataset,
    held: Held | None,
    tokenizer: Mapping[str, Any] | None,
) -> dict[str, Any]:
    """Return what a model folder says of its training.

    tokenizer: the facts of the first stage, if there is one.
    """
    trained: dict[str, Any] = {
        "images": position.images,
        "seconds": round(position.seconds, 1),
        "precision": precision,
        "seed": config.seed,
        "data": _of_training_data(dataset, config, held),
    }
    if config.private is not None:
        # The digest of the data says whether a guess of all images is right; from the seed, noise may follow.
        # The names of creators say who is in the data.
        del trained["seed"], trained["data"]["fingerprint"]
        trained["data"].pop("consent", None)
    if config.task:
        trained["task"] = config.task
    if config.training.ema_lengths:
        trained["ema_length"] = config.training.ema_lengths[0]
    if tokenizer:
        # Only what is known: images seen, seconds, the digest of the weights, the fingerprint of the data,
        # and the networks that its loss was computed with.
        names = ("images", "seconds", "weights", "fingerprint", "networks")
        trained["tokenizer"] = {name: tokenizer[name] for name in names if tokenizer.get(name)}
    return trained


def of_help(run: Mapping[str, Any]) -> dict[str, str]:
    """Return what a model folder says of what helped its training.

    run: the facts of the run.
    Models are named by the digest of their weights alone, since a path says something of the machine.
    """
    start, made, more = (run.get(name) or {} for name in ("init", "generated", "unlabelled"))
    told = {}
    if start:
        told["init"] = f"a {start['family']} with the weights {start['weights'][:12]}"
        if start.get("adapter"):
            told["init"] += ", which stay as they are beside this adapter"
    if made:
        told["generated"] = (
            f"{made['share']:.0%} of its images, by a model with the weights {made['weights'][:12]}"
        )
    if more:
        told["unlabelled"] = f"{more['images']:,} images that were labelled by the model it started from"
    return told


def _of_training_data(dataset: Dataset, config: RunConfig, held: Held | None) -> dict[str, Any]:
    info = dataset.info
    return {
        "name": info.name,
        "images": len(dataset),
        "fingerprint": dataset.fingerprint,
        "licence": info.licence,
        "citation": info.citation,
        **({"consent": consent} if (consent := info.report.consent.facts()) else {}),
        "prepared": config.data.model_dump(include={"channels", "alpha", "background", "fit"})
        | ({} if dataset.range is None else {"range": list(dataset.range)})
        | {
            name: value
            for name in (
                *("pairs", "domains", "degrade", "masks", "boxes", "label_sets"),
                "ignore_reservations",
            )
            if (value := getattr(config.data, name))  # what is not declared is not told
        },
        **held_out(config, held),
        **({"chosen_by": held.split} if held is not None and config.evaluation.keep == "best" else {}),
    }


def domain_of(dataset: Dataset, config: RunConfig) -> Domain | None:
    """Return what the images are like that a model reads."""
    surveyed = dataset.surveyed_rows()
    rows = surveyed[draw_rows(len(surveyed), DOMAIN_IMAGES, config.seed, "domain")]
    parts = (rows[part] for part in index_batches(len(rows), batch_size_for(dataset.size)))
    if not config.model.reads_source:
        read = dataset.images if len(dataset.sizes) > 1 else dataset.full_depth  # of one size
        return Domain.fit(to_float(read(part)) for part in parts)
    steps = Degradation(config.data.degrade) if config.data.degrade else None
    return Domain.fit(source_images(dataset, part.tolist(), steps, config.seed) for part in parts)


def of_plan(plan: Plan) -> dict[str, Any]:
    """Return what was estimated before the first step."""
    return {
        "parameters": plan.parameters,
        "memory_bytes": plan.memory_bytes,
        "images": plan.images,
        "seconds": plan.seconds,
        "images_per_second": plan.images_per_second,
        "precision": plan.precision,
        "grid_seconds": plan.grid_seconds,
        "batch_size": plan.batch_size,
        "micro_batch": plan.micro_batch,
        "checkpointing": plan.checkpointing,
        "nearest": plan.nearest,
        "warning": plan.warning,
        **({"codes_seconds": plan.codes_seconds} if plan.codes_seconds else {}),
        **({"snapshot_bytes": plan.snapshot_bytes} if plan.snapshot_bytes else {}),
    } | ({"then": of_plan(plan.then)} if plan.then else {})


def of_ema(length: float, validation: Validation | None, images: int) -> dict[str, Any]:
    """Return the EMA length of a published model, and how it was chosen.

    length: of the model, unless there is a best one.
    validation: of the run; None if no images are held out.
    images: how many had been seen when lengths were scored.
    """
    best = validation.best if validation else None
    scores = validation.scored_lengths(images) if validation else {}
    if best is not None:
        length = best.facts["ema_length"]
    among = ", ".join(f"{each:g}" for each in sorted(scores))
    if best is None or len(scores) < 2:
        text = f"EMA length {length:g}, the first of training.ema_lengths: no others were scored."
    elif best.images == images:
        text = f"EMA length {length:g}, chosen among {among} by {best.score.name} on held-out images."
    else:
        text = (
            f"EMA length {length:g} at {best.images:,} images, which scores better than {among} at "
            f"{images:,} images by {best.score.name} on held-out images."
        )
    values = [[each, value] for each, value in sorted(scores.items()) if math.isfinite(value)]
    return {"length": length, "scores": values, "text": text}


def of_best(best: Best) -> dict[str, Any]:
    """Return the score of the model in the model folder, the best."""
    score = best.score
    return {
        "images": best.images,
        "metric": score.metric,
        "name": score.name,
        "value": score.value,
        "flattered": score.flattered,
        "text": str(score),
    }
