"""What is measured of one contestant: its scores, its speed, its size, and pictures of what it paints."""

import contextlib
import hashlib
import math
import statistics
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from danqing import atomic
from danqing.data import Dataset, captions
from danqing.data.builtin import shapes
from danqing.evaluation.evaluate import evaluate
from danqing.evaluation.painted import reconstruct, spread
from danqing.evaluation.scores import Score
from danqing.images import Images
from danqing.model.loading import load
from danqing.model.model import Model
from danqing.progress import ProgressCallback
from danqing.studies.contest import Judged
from danqing.studies.results import Point
from danqing.training.run_files import read_json, read_lines
from danqing.training.run_folder import RunFolder

FORMAT = 1
PICTURES = 36
"""Images in each grid."""
_WEIGHTS = "model.safetensors"
_LEAST_FOR_MANIFOLDS = 10
_LEAST_PER_LABEL = 4
_ROUNDS, _ROUND_SECONDS = 5, 0.25


def measure(
    run: Path,
    data: str,
    judged: Judged,
    out: Path,
    *,
    n: int,
    seed: int,
    features: str,
    network: str,
    device: str,
    on_progress: ProgressCallback,
) -> dict[str, Any]:
    """The measurements of a finished run, made once: `out` keeps them with what they follow from.

    network: what identifies the feature network. Besides `out` itself, a JSON file, its grid and its nearest
    neighbours are written beside it. Raises DanqingError.
    """
    asked = _asked(run, judged, n=n, seed=seed, network=network)
    if (made := read_json(out)).get("asked") == asked:
        return made
    reference = judged.info
    weights = RunFolder(run).model / _WEIGHTS
    model = load(run, device=device)
    metrics = ["kernel", "frechet"]
    if model.family.has_prior:
        metrics += ["duplicates", "memorised"]
    if model.family.config.reads_text and judged.reference.info.name == shapes.ABOUT.name:
        metrics.append("composition")
    if min(reference.count, n) >= _LEAST_FOR_MANIFOLDS:
        metrics += ["precision", "recall", "density", "coverage"]
    shared = set(model.labels) & set(judged.reference.label_names)
    if len(shared) > 1 and reference.count >= _LEAST_PER_LABEL * len(judged.reference.label_names):
        metrics.append("diversity")
    split = reference.split
    found = evaluate(
        run,
        data,
        metrics=metrics,
        features=features,
        n=n,
        split=split,
        seed=seed,
        device=device,
        on_progress=on_progress,
    )
    picture = out.with_name(f"{out.stem}-neighbours.png")
    if found.neighbours is not None:
        atomic.write_bytes(picture, found.neighbours.read_bytes())
    on_progress(0, 1, "Measuring the speed of sampling")
    speed = sampling_speed(model)
    grid(model, judged.reference, seed).save(out.with_suffix(".png"))
    content = {
        "asked": asked,
        "scores": [score.to_json() for score in found.scores],
        "parameters": model.info()["parameters"],
        "model_bytes": weights.stat().st_size,
        "sampling_speed": speed,
        "neighbours": found.neighbours is not None,
    }
    atomic.write_json(out, content)  # last: the pictures are there where it is
    return content


def known(run: Path, judged: Judged, out: Path, *, n: int, seed: int, network: str) -> dict[str, Any] | None:
    """What `measure` has made of the very same run; None where it has not, or not so."""
    with contextlib.suppress(OSError):
        made = read_json(out)
        return made if made.get("asked") == _asked(run, judged, n=n, seed=seed, network=network) else None
    return None


def _asked(run: Path, judged: Judged, *, n: int, seed: int, network: str) -> dict[str, Any]:
    """All that the measurements of a run follow from."""
    weights = RunFolder(run).model / _WEIGHTS
    return {
        "format": FORMAT,
        "weights": hashlib.sha256(weights.read_bytes()).hexdigest(),
        "reference": [judged.info.split, judged.info.fingerprint],
        "samples": n,
        "seed": seed,
        "network": network,
    }


def scores(measured: Mapping[str, Any]) -> tuple[Score, ...]:
    """The scores in what `measure` has given."""
    return tuple(
        Score.model_validate({key: value for key, value in one.items() if key != "text"})
        for one in measured["scores"]
        if one["value"] is not None
    )


def sampling_speed(model: Model) -> float:
    """Images per second that a model paints, in its own chunks: the median of a few rounds, once warm."""
    chunk, rates = model.family.chunk, []
    model.sample(chunk)
    for _ in range(_ROUNDS):
        started, painted = time.perf_counter(), 0
        while (spent := time.perf_counter() - started) < _ROUND_SECONDS or not painted:
            model.sample(chunk, seed=painted)
            painted += chunk
        rates.append(painted / spent)
    return statistics.median(rates)


def grid(model: Model, reference: Dataset, seed: int) -> Images:
    """As many images as all grids have, of the same seeds, and evenly of all labels or of the captions of the
    reference images; of a first stage, what it makes of those.
    """
    rows = spread(len(reference), PICTURES)
    if not model.family.has_prior:
        return Images(reconstruct(model, reference, rows).images(np.arange(PICTURES)))
    if model.family.config.reads_text and (texts := reference.texts(rows)) is not None:
        return model.sample(PICTURES, prompt=captions.chosen(texts, seed, 0), seed=seed)
    labels = len(model.labels)
    shown = [i * labels // PICTURES if labels <= PICTURES else i % labels for i in range(PICTURES)]
    return model.sample(PICTURES, label=shown if labels else None, seed=seed)


def curve(run: Path) -> tuple[str, tuple[Point, ...]]:
    """What a run's held-out score is called, and the score after every tenth of its budget."""
    folder = RunFolder(run)
    clock = [(line["images"], line["seconds"]) for line in read_lines(folder.timing_file)]
    name, points = "", []
    for line in read_lines(folder.path / "scores.jsonl"):
        score = line["score"]
        name = score["name"]
        if score["value"] is not None and math.isfinite(score["value"]):
            seconds = _seconds_at(line["images"], clock)
            points.append(
                Point(
                    images=line["images"], seconds=seconds, value=score["value"], interval=score["interval"]
                )
            )
    return name, tuple(points)


def _seconds_at(images: int, clock: Sequence[tuple[int, float]]) -> float:
    """How long training had taken when so many images had been seen, between the log's lines."""
    before, after = (0, 0.0), None
    for seen, seconds in clock:
        if seen >= images:
            after = (seen, seconds)
            break
        before = (seen, seconds)
    if after is None:
        return before[1] * images / before[0] if before[0] else 0.0
    share = (images - before[0]) / (after[0] - before[0])
    return before[1] + share * (after[1] - before[1])
