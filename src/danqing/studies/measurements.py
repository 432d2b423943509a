"""The measurements of one contestant: its scores, speed and size, and a grid of its samples."""

import contextlib
import hashlib
import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from danqing import atomic
from danqing.data import Dataset, captions
from danqing.data.builtin import shapes
from danqing.evaluation.evaluate import evaluate
from danqing.evaluation.generated_images import reconstruct, remade
from danqing.evaluation.image_sets import spread_evenly
from danqing.evaluation.scores import Score
from danqing.families.abilities import Translates
from danqing.images import Images
from danqing.model.model import Model
from danqing.model.recognizer import AT_ONCE, Recognizer, open_trained
from danqing.progress import ProgressCallback
from danqing.studies.compare_setup import ComparisonData
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
    judged: ComparisonData,
    out: Path,
    *,
    n: int,
    seed: int,
    features: str,
    second_features: str | None,
    networks: str,
    device: str,
    on_progress: ProgressCallback,
) -> dict[str, Any]:
    """Measure a finished run once.

    out: a JSON file that keeps the measurements with what they follow from. The grid and the picture of
        nearest neighbours are written beside it.
    second_features: the second feature network; None for none.
    networks: what identifies both feature networks.

    Raises DanqingError.
    """
    asked = _asked(run, judged, n=n, seed=seed, networks=networks)
    if (made := read_json(out)).get("asked") == asked:
        return made
    weights = RunFolder(run).model / _WEIGHTS
    model = open_trained(run, device=device)
    if isinstance(model, Recognizer):
        content = {"asked": asked, "model_bytes": weights.stat().st_size, "neighbours": False}
        content |= _of_recognizer(model, run, data, judged, out, n=n, seed=seed, on_progress=on_progress)
        atomic.write_json(out, content)
        return content
    reference = judged.info
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
        second_features=second_features,
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
    speed = sampling_speed(model, judged.reference)
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


def _of_recognizer(
    recognizer: Recognizer,
    run: Path,
    data: str,
    judged: ComparisonData,
    out: Path,
    *,
    n: int,
    seed: int,
    on_progress: ProgressCallback,
) -> dict[str, Any]:
    """Measure what recognizes images: its scores and its speed, with a sheet of its mistakes."""
    found = evaluate(run, data, n=n, split=judged.info.split, seed=seed, on_progress=on_progress)
    on_progress(0, 1, "Measuring the speed of recognition")
    for sheet in list(found.pictures.values())[:1]:
        sheet.save(out.with_suffix(".png"))
    return {
        "scores": [score.to_json() for score in found.scores],
        "parameters": recognizer.info()["parameters"],
        "recognition_speed": recognition_speed(recognizer, judged.reference),
    }


def known(
    run: Path, judged: ComparisonData, out: Path, *, n: int, seed: int, networks: str
) -> dict[str, Any] | None:
    """Return the measurements of this very run with these arguments.

    None if there are none.
    """
    with contextlib.suppress(OSError):
        made = read_json(out)
        return made if made.get("asked") == _asked(run, judged, n=n, seed=seed, networks=networks) else None
    return None


def _asked(run: Path, judged: ComparisonData, *, n: int, seed: int, networks: str) -> dict[str, Any]:
    """All that the measurements of a run follow from."""
    weights = RunFolder(run).model / _WEIGHTS
    return {
        "format": FORMAT,
        "weights": hashlib.sha256(weights.read_bytes()).hexdigest(),
        "reference": [judged.info.split, judged.info.fingerprint],
        "samples": n,
        "seed": seed,
        "network": networks,
    }


def scores(measured: Mapping[str, Any]) -> tuple[Score, ...]:
    """Return the scores in what `measure` has returned."""
    return tuple(
        Score.model_validate({key: value for key, value in one.items() if key != "text"})
        for one in measured["scores"]
        if one["value"] is not None
    )


def sampling_speed(model: Model, reference: Dataset) -> float:
    """Measure how many images per second a model samples, or translates.

    It samples in its own chunks. The result is the median of a few rounds, after a warm-up.
    reference: whose source images a model of pairs translates.
    """
    chunk, model = model.family.chunk, model.unmarked()

    def sample(seed: int) -> None:
        if isinstance(model.family, Translates):
            remade(model, reference, spread_evenly(len(reference), chunk))
        else:
            model.sample(chunk, seed=seed)

    return _rate(sample, chunk)


def recognition_speed(recognizer: Recognizer, reference: Dataset) -> float:
    """Measure how many images per second a recognizer turns into vectors, as `sampling_speed` does."""
    pixels = reference.images(spread_evenly(len(reference), AT_ONCE))
    return _rate(lambda seed: recognizer.embed(pixels), AT_ONCE)


def _rate(work: Callable[[int], object], count: int) -> float:
    """The median of how often a second some work is done, times `count`; work: takes a seed."""
    rates = list[float]()
    work(0)
    for _ in range(_ROUNDS):
        started, done = time.perf_counter(), 0
        while (spent := time.perf_counter() - started) < _ROUND_SECONDS or not done:
            work(done)
            done += count
        rates.append(done / spent)
    return statistics.median(rates)


def grid(model: Model, reference: Dataset, seed: int) -> Images:
    """Sample the grid of a model: the same seeds for all.

    A grid has all labels alike, or captions of the reference images. For a first stage it holds
    reconstructions.
    """
    rows = spread_evenly(len(reference), PICTURES)
    if not model.family.has_prior:
        rebuilt = reconstruct(model, reference, rows).images(np.arange(PICTURES))
        return Images(rebuilt, model.marking("reconstruct", overview=True))
    if model.family.config.reads_text and (texts := reference.texts(rows)) is not None:
        samples = model.sample(PICTURES, prompt=captions.chosen(texts, seed, 0), seed=seed)
    else:
        labels = len(model.labels)
        shown = [i * labels // PICTURES if labels <= PICTURES else i % labels for i in range(PICTURES)]
        samples = model.sample(PICTURES, label=shown if labels else None, seed=seed)
    return Images(samples.array, model.marking("sample", overview=True))


def curve(run: Path) -> tuple[str, tuple[Point, ...]]:
    """Return the name of a run's held-out score, and its values.

    There is a value after every tenth of the budget.
    """
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
    """How long training had taken when this many images had been seen, between the log's lines."""
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
