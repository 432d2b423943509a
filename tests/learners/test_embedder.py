"""Embedders: they learn without labels, resume exactly, and are scored on held-out images."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

import danqing as dq
from danqing import families
from danqing.data import open_dataset
from danqing.evaluation.learner_scores import examine_learner
from danqing.families.base import Batch, Condition
from danqing.learners.embedder import Embedder, EmbedderConfig
from danqing.recognition.verify import verify_labels

OBJECTIVES = ("contrast", "vicreg", "clusters", "masked")


def embedder(**settings: Any) -> Embedder:
    values = {"family": "embedder", "width": 12, "height": 8, "channels": 3, "features": 8, "projection": 16}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        learner = families.build_learner(families.parse_config({**values, **settings}))
    assert isinstance(learner, Embedder)
    return learner


def stripes(n: int, rng: torch.Generator, width: int = 12, height: int = 8) -> Tensor:
    """Images of coloured stripes, each of its own angle and width."""
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    angle, speed = torch.rand(2, n, 1, 1, generator=rng) * torch.tensor([3.14, 1.0]).view(2, 1, 1, 1)
    waves = torch.sin((x * angle.cos() + y * angle.sin()) * (0.6 + speed))
    return (waves[:, None] * (torch.rand(n, 3, 1, 1, generator=rng) * 2 - 1)).clamp(-1, 1)


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_every_objective_falls_in_a_few_steps(objective: str) -> None:
    learner = embedder(objective=objective, patch=2).train()
    rng = torch.Generator().manual_seed(0)
    optimizer = torch.optim.Adam(learner.parameters(), 3e-3)
    (phase,) = learner.phases()
    losses = []
    for step in range(100):
        learner.on_progress(step)
        losses.append(learner.loss(Batch(stripes(32, rng), Condition()), phase, rng).total)
        optimizer.zero_grad()
        losses[-1].backward()
        optimizer.step()
    assert torch.stack(losses[-10:]).mean() < 0.9 * torch.stack(losses[:10]).mean()
    assert learner.alarms({"embedder/spread": 0.01}) == []  # too early to say


def test_a_vector_depends_on_its_image_alone_and_passes_gradients() -> None:
    learner = embedder().eval()
    images = stripes(6, torch.Generator().manual_seed(1)).requires_grad_()
    vectors = learner.embed(images)
    assert vectors.shape == (6, learner.embedding_size)
    assert torch.allclose(vectors[2:3], learner.embed(images[2:3]), atol=1e-5)
    vectors.square().sum().backward()
    assert images.grad is not None
    assert bool(images.grad.isfinite().all())
    flat = torch.zeros(1, 3, 8, 12, requires_grad=True)
    learner.embed(flat).sum().backward()
    assert flat.grad is not None
    assert bool(flat.grad.isfinite().all())


def test_a_collapse_raises_an_alarm() -> None:
    learner = embedder()
    learner.on_progress(50_000)
    assert [alarm.kind for alarm in learner.alarms({"embedder/spread": 0.01})] == ["collapse"]
    assert learner.alarms({"embedder/spread": 0.9}) == []


def test_an_embedder_resumes_exactly_and_is_scored_by_its_neighbours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DANQING_CACHE", str(tmp_path / "cache"))
    settings = {
        "features": 8,
        "projection": 16,
        "batch_size": 64,
        "precision": "float32",
        "measure_seconds": 0.001,
        "schedule.name": "constant",  # so that a longer run begins as a shorter one
    }

    def train(out: str, images: int) -> dq.Run:
        return dq.train(
            "digits",
            task="embed",
            size=(8, 8),
            out=tmp_path / out,
            images=images,
            evaluate_every=1024,
            listener=dq.Listener(),
            settings=settings,
        )

    whole = train("whole", 2048)
    train("parts", 1024)
    parts = train("parts", 2048)
    weights = [load_file(run.model / "model.safetensors") for run in (whole, parts)]
    assert weights[0].keys() == weights[1].keys()
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    assert not any(name.startswith("projector") for name in weights[0])
    best = json.loads((tmp_path / "whole" / "run.json").read_text())["best"]
    assert best["metric"] == "neighbour_accuracy"
    assert best["value"] > 0.85
    recognizer = dq.load_recognizer(whole)
    images = open_dataset("digits", size=(8, 8), channels=1)
    found = examine_learner(recognizer.learner, images, n=200, seed=0)
    assert [score.metric for score in found.scores] == [
        *("neighbour_accuracy", "view_retrieval", "verification_area", "verification_matches")
    ]
    told = {score.metric: score for score in found.scores}
    assert told["verification_area"].value > 0.7
    assert told["verification_area"].interval is not None
    drawn = images.subset(np.random.default_rng(0).permutation(len(images))[:400])
    threshold = told["verification_matches"].settings["threshold"]
    verified = verify_labels(recognizer, drawn, pairs=2000, threshold=threshold).roc
    assert verified is not None
    assert verified.false_matches(threshold).value < 0.04
    assert verified.matches(threshold).value == pytest.approx(told["verification_matches"].value, abs=0.15)
    assert found.headline.metric == "neighbour_accuracy"
    some = images.images(np.arange(5))
    assert np.allclose(dq.encode(recognizer, some), recognizer.embed(some), atol=1e-4)


def test_the_configuration_of_views_follows_from_the_images() -> None:
    config = EmbedderConfig(width=64, height=32, view=0.5)
    assert config.view_size == (16, 32)
    assert not config.reads_labels
