"""A classifier as a run: scored by what it recognizes, resumed exactly, examined, reported and carded."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import danqing as dq
from danqing.data import open_dataset
from danqing.evaluation import scores
from danqing.evaluation.learner_scores import score_learner
from danqing.training import trainer
from tests.small_run import CLASSIFIER


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DANQING_CACHE", str(tmp_path / "cache"))


def train(out: Path, images: int = 6400, data: str = "digits:0,1,2,3,4", **settings: Any) -> dq.Run:
    return dq.train(
        data,
        task="classify",
        size=(8, 8),
        images=images,
        settings={**CLASSIFIER, **settings},
        out=out,
        listener=dq.Listener(),
    )


def test_a_run_ends_with_calibrated_scores_a_page_and_a_card(tmp_path: Path) -> None:
    run = train(tmp_path / "run")
    assert run.best is not None
    assert run.best["metric"] == "accuracy"
    assert run.best["value"] > 0.9
    found = {score.metric: score for score in scores.read(run.model / "scores.json")}
    assert found.keys() >= {"accuracy", "balanced_accuracy", "f1", "calibration_error", "nll"}
    assert found["accuracy"].headline
    assert found["accuracy"].value == run.best["value"]
    assert all(score.interval is not None for score in found.values())
    recognizer = dq.load_recognizer(run)
    assert recognizer.classes == ("0", "1", "2", "3", "4")
    assert recognizer.temperature == pytest.approx(found["nll"].settings["temperature"], abs=1e-3)
    details = json.loads((run.folder / "examination" / "details.json").read_text())["classification"]
    confusion = np.array(details["confusion"])
    assert confusion.sum() == details["images"] == found["accuracy"].images
    assert confusion.trace() / confusion.sum() == pytest.approx(found["accuracy"].value)
    page = run.report.read_text(encoding="utf-8")
    assert "Confusion" in page
    assert "called" in page
    card = (run.model / "README.md").read_text(encoding="utf-8")
    assert "load_recognizer" in card
    assert "pipeline_tag: image-classification" in card
    assert "calibration error (ECE)" in card
    # The same images are scored again exactly.
    again = dq.evaluate(run, "digits:0,1,2,3,4")
    assert again.headline.metric == "accuracy"
    assert again.headline.value == run.best["value"]
    assert again.headline.reference is not None
    assert again.headline.reference.split == "held-out"


def test_a_killed_run_ends_with_the_same_weights_and_scores(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {"model.mixup": 0.2, "model.cutout": 0.3, "model.mirror": 0.5, "checkpoint_seconds": 1e-6}
    whole = train(tmp_path / "whole", 1088, **settings)
    step, steps = trainer.Trainer._step, iter(range(9))

    def dies(self: trainer.Trainer) -> None:
        if next(steps, None) is None:
            raise KeyboardInterrupt
        step(self)

    with monkeypatch.context() as patched:
        patched.setattr(trainer.Trainer, "_step", dies)
        with pytest.raises(KeyboardInterrupt):
            train(tmp_path / "parts", 1088, **settings)
    parts = train(tmp_path / "parts", 1088, **settings)
    assert parts.images == 1088
    one, other = (load_file(run.model / "model.safetensors") for run in (whole, parts))
    assert all(torch.equal(one[name], other[name]) for name in one)
    logs = [(run.folder / "log.jsonl").read_bytes() for run in (whole, parts)]
    assert logs[0] == logs[1]
    measured = [scores.read(run.model / "scores.json") for run in (whole, parts)]
    assert measured[0] == measured[1]


def test_a_score_depends_on_the_images_and_not_on_the_order_of_labels(tmp_path: Path) -> None:
    recognizer = dq.load_recognizer(train(tmp_path / "run"))
    digits = open_dataset("digits:0,1,2,3,4,5", size=(8, 8))
    known = digits.subset([name for name in digits.label_names if name != "5"])
    score, on_all = (score_learner(recognizer.learner, images, n=2000, seed=0) for images in (known, digits))
    assert score.value == on_all.value, "images of labels that the model does not know are left out"
    assert score.images == len(known)
    few = score_learner(recognizer.learner, known, n=50, seed=0)
    assert few.images == 50


def test_rare_labels_are_recognized_better_where_labels_are_balanced(tmp_path: Path) -> None:
    digits = open_dataset("digits:3,8", size=(8, 8))
    labels = np.asarray(digits.labels)
    rows = np.concatenate([np.flatnonzero(labels == 0)[:150], np.flatnonzero(labels == 1)[:8]])
    data = tmp_path / "data"
    for number, row in enumerate(rows):
        folder = data / "train" / digits.label_names[labels[row]]
        folder.mkdir(parents=True, exist_ok=True)
        dq.Images(digits.images([row]).numpy()).save(folder / f"{number}.png")
    rest = digits.subset(np.setdiff1d(np.arange(len(digits)), rows))
    recalls = []
    for balanced in (False, True):
        run = train(tmp_path / f"run-{balanced}", 3200, str(data), **{"model.balanced": balanced})
        said = dq.load_recognizer(run).probabilities(rest.images(np.arange(len(rest)))).argmax(1).numpy()
        recalls.append(float((said[np.asarray(rest.labels) == 1] == 1).mean()))
    assert recalls[1] > recalls[0]


def test_images_with_several_labels_are_learned_from_a_column(tmp_path: Path) -> None:
    digits = open_dataset("digits:0,1,2", size=(8, 8))
    data, lines = tmp_path / "data", ["file_name,tags"]
    data.mkdir()
    for row in range(len(digits)):
        name = f"{row}.png"
        dq.Images(digits.images([row]).numpy()).save(data / name)
        label = int(digits.labels_at([row])[0])
        tags = [["round", "even"], ["straight"], ["even"]][label]
        lines.append(f'{name},"{",".join(tags)}"')
    (data / "metadata.csv").write_text("\n".join(lines))
    run = train(tmp_path / "run", 6400, str(data), **{"data.label_sets": "tags"})
    assert run.best is not None
    assert run.best["metric"] == "f1"
    assert run.best["value"] > 0.9
    found = dq.predict(run, data / "0.png", threshold=0.5)
    first = [["round", "even"], ["straight"], ["even"]][int(digits.labels_at([0])[0])]
    assert {label.name for label in found[0].labels} == set(first)
    scored = dq.evaluate(run, data)
    assert {score.metric for score in scored.scores} >= {"exact_match", "f1", "calibration_error"}
    assert "Labels, the worst first" in run.report.read_text(encoding="utf-8")
