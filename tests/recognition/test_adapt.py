"""Adapting statistics: a shift of all images is reduced without labels, and the original stays as it was."""

import pytest
import torch

from danqing.errors import ConfigError
from danqing.families import build_learner, parse_config
from danqing.learners.generative import GenerativeClassifier
from danqing.model.recognizer import Recognizer
from danqing.recognition.adapt import adapt, has_statistics
from tests.families import test_vae


def recognizer() -> Recognizer:
    torch.manual_seed(0)
    config = {"family": "classifier", "width": 8, "height": 8, "channels": 1, "features": 8}
    learner = build_learner(parse_config({**config, "labels": ("a", "b")}))
    learner.train()
    with torch.no_grad():
        for _ in range(200):
            learner.logits(images())  # type: ignore[operator]
    return Recognizer(learner)


def images() -> torch.Tensor:
    rng = torch.Generator().manual_seed(1)
    return torch.rand(256, 1, 8, 8, generator=rng) - 0.5


def test_the_effect_of_other_contrast_is_reduced_by_the_statistics_of_unlabelled_images() -> None:
    known = recognizer()
    before = known.embed(images())
    faint = images() * 0.2
    adapted = adapt(known, faint)
    plain, better = (each.embed(faint).sub(before).norm() for each in (known, adapted))
    assert better < 0.7 * plain
    assert torch.equal(known.embed(images()), before), "the original is unchanged"
    # Images of the same domain change little.
    same = adapt(known, images()).embed(images())
    assert (same - before).norm() < 0.1 * before.norm()


def test_too_few_images_are_rejected() -> None:
    with pytest.raises(ConfigError, match="too few"):
        adapt(recognizer(), images()[:8])


def test_a_generative_model_has_no_statistics_to_adapt() -> None:
    learner = GenerativeClassifier(test_vae.build(labels=("a", "b")))
    assert not has_statistics(learner)
    with pytest.raises(ConfigError, match="no batch normalization"):
        adapt(Recognizer(learner), images())
