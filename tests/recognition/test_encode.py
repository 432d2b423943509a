"""Images as vectors: by a feature network, a recognizer, or a model that samples; and pairs of images."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import danqing as dq
from danqing import families
from danqing.data import Dataset, open_dataset
from danqing.errors import ConfigError
from danqing.families.base import Family
from danqing.model.model import Model
from danqing.model.recognizer import Recognizer
from danqing.recognition.encoder import open_encoder
from danqing.recognition.probe import probe
from danqing.recognition.verify import verify_labels

SHAPE = {"width": 8, "height": 8, "channels": 1}


@pytest.fixture
def digits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Dataset:
    monkeypatch.setenv("DANQING_CACHE", str(tmp_path))
    return open_dataset("digits", size=(8, 8), channels=1)


def sampler(**settings: Any) -> Model:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        family = families.build_learner(families.parse_config({**SHAPE, **settings}))
    family.drop_training_only()
    assert isinstance(family, Family)
    return Model(family)


def recognizer() -> Recognizer:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        values = {"family": "embedder", **SHAPE, "features": 8, "projection": 16}
        learner = families.build_learner(families.parse_config(values))
    learner.drop_training_only()
    return Recognizer(learner)


def test_a_folder_opens_as_the_encoder_that_was_saved(tmp_path: Path, digits: Dataset) -> None:
    model = recognizer()
    folder = model.save(tmp_path / "model")
    opened = open_encoder(folder)
    assert opened.name == str(folder)
    images = digits.images(np.arange(40))
    vectors = dq.encode(opened, images)
    assert vectors.shape == (40, opened.dimensions)
    assert np.allclose(vectors, dq.encode(model, digits)[:40], atol=1e-5)
    assert np.allclose(vectors, model.embed(images), atol=1e-5)


def test_models_that_sample_give_their_latents(digits: Dataset) -> None:
    images = digits.images(np.arange(3))
    vae = sampler(family="vae", latents=5, features=8, labels=("a", "b"))
    vqvae = sampler(family="vqvae", features=8, vocabulary=16, code_width=3, downsamplings=1)
    written = sampler(family="transformer", features=32, layers=1, tokenizer=vqvae.family.config.model_dump())
    assert [dq.encode(model, images).shape for model in (vae, vqvae, written)] == [(3, 5), (3, 48), (3, 48)]
    with pytest.raises(ConfigError, match="does not turn images into vectors: use"):
        dq.encode(sampler(family="gan"), images)


def test_images_of_another_shape_are_brought_to_the_model() -> None:
    large = torch.randint(256, (2, 20, 12, 3), dtype=torch.uint8)
    assert dq.encode(recognizer(), large).shape[0] == 2
    assert dq.encode("pixels", dq.Images(large)).shape == (2, 768)
    with pytest.raises(ConfigError, match="is not images"):
        dq.encode("pixels", large.float())


def test_an_embedder_is_saved_without_what_training_alone_needs(tmp_path: Path) -> None:
    config = families.parse_config({"family": "embedder", **SHAPE})
    model = Recognizer(families.build_learner(config))
    images = torch.rand(3, 1, 8, 8) * 2 - 1
    model.save(tmp_path)
    again = dq.load_recognizer(tmp_path)
    assert torch.allclose(again.embed(images), model.embed(images), atol=1e-5)


def test_probes_find_labels_by_vectors(digits: Dataset) -> None:
    known, judged = digits.subset(np.arange(600)), digits.subset(np.arange(600, 800))
    found = probe("pixels", known, judged)
    assert found.neighbours.value > 0.8
    assert found.linear.value > 0.8


def test_pairs_match_as_the_threshold_says(digits: Dataset) -> None:
    found = verify_labels("pixels", digits, pairs=400, false_match_rate=0.05)
    assert found.roc is not None
    assert found.roc.area().value > 0.8
    different = found.matches[400:]
    assert 0.03 < different.mean() <= 0.05
    assert "area under the curve" in str(found)
    images = digits.images(np.arange(10))
    again = dq.verify_pairs("pixels", images, images, threshold=found.threshold)
    assert bool(again.matches.all())
    assert str(again).startswith("10 of 10 pairs match")
    with pytest.raises(ConfigError, match="give same, or a threshold"):
        dq.verify_pairs("pixels", images, images)
    with pytest.raises(ConfigError, match="partner for each"):
        dq.verify_pairs("pixels", images, images[:3], threshold=0.5)
