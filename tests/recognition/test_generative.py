"""A labelled generative model predicts by Bayes' rule: exact where it can be, and a bound elsewhere."""

import itertools
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from danqing.errors import ConfigError, ModelError
from danqing.families.base import Batch, Condition, Family, Learner
from danqing.families.denoising_nll import denoising_nll
from danqing.images import Images, to_uint8
from danqing.learners.abilities import Classifies
from danqing.learners.generative import GenerativeClassifier
from danqing.model.model import Model
from danqing.model.recognizer import Recognizer, load_recognizer
from tests.families import test_flow, test_transformer, test_vae

TWO = ("square", "bar")


def test_errors_of_denoising_integrate_to_the_log_density_of_a_gaussian() -> None:
    """Of N(m, σ²) the best denoiser is known, and so is the difference between two means."""
    deviation, means = 0.7, (-0.4, 0.6)
    x = torch.linspace(-1, 1, 5).view(-1, 1, 1, 1).expand(-1, 1, 30, 30).contiguous()

    def nll(mean: float) -> Tensor:
        def predict(z: Tensor, t: Tensor) -> Tensor:
            t = t.view(-1, 1, 1, 1)
            gain = t * deviation**2 / (t.square() * deviation**2 + (1 - t).square())
            return mean + gain * (z - t * mean)

        return denoising_nll(predict, x, seeds=[3] * len(x), samples=200)

    found = (nll(means[0]) - nll(means[1])) / x[0].numel()
    exact = ((x - means[0]).square() - (x - means[1]).square())[:, 0, 0, 0] / (2 * deviation**2)
    assert torch.allclose(found, exact, rtol=0.02, atol=0.02)


@pytest.mark.parametrize("order", ["raster", "masked"])
def test_probabilities_of_all_codes_of_a_transformer_add_up_to_one(order: str) -> None:
    tokenizer = test_transformer.TOKENIZER | {"width": 4, "height": 4, "vocabulary": 3}
    settings: dict[str, Any] = {
        "order": order,
        "labels": TWO,
        "tokenizer": tokenizer,
        "width": 4,
        "height": 4,
    }
    family = test_transformer.lively(test_transformer.build(**settings))
    codes = torch.tensor(list(itertools.product(range(3), repeat=4))).view(-1, 2, 2, 1)
    for label in (0, 1):
        condition = Condition(label=torch.full((len(codes),), label))
        batch = Batch(torch.empty(len(codes), 0, 0, 0), condition, codes)
        logs = family.log_evidence(batch, seeds=[0] * len(codes))
        assert float(logs.exp().sum()) == pytest.approx(1, abs=1e-4)
        assert logs.std() > 0.1


def trained(learner: Learner, batches: int = 120) -> Family:
    """A family that has seen squares and bars for a few seconds."""
    shapes = test_vae.shapes if learner.config.width == 8 else test_transformer.shapes
    optimizer = torch.optim.Adam(learner.parameters(), 3e-3)
    for step in range(batches):
        rng = torch.Generator().manual_seed(step)
        for phase in learner.phases():
            loss = learner.loss(shapes(32, step), phase, rng).total
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    assert isinstance(learner, Family)
    return learner.eval().requires_grad_(False)


@pytest.mark.parametrize("kind", ["vae", "flow", "transformer"])
def test_a_model_tells_what_it_learned_to_generate(kind: str, tmp_path: Path) -> None:
    frequencies: dict[str, Any] = {"labels": TWO, "label_frequencies": (0.5, 0.5)}
    learner: Learner
    if kind == "vae":
        learner = test_vae.build(net="mlp", **frequencies)
    elif kind == "flow":
        learner = test_flow.make(net="hybrid", **frequencies)
    else:
        learner = test_transformer.build(**frequencies)
    model = Model(trained(learner, batches=300 if kind == "flow" else 120))
    fresh = (test_transformer if kind == "transformer" else test_vae).shapes(64, seed=10_000)
    images = Images(to_uint8(fresh.images).numpy())
    recognizer = load_recognizer(model.save(tmp_path / "model", images))
    assert isinstance(recognizer.learner, Classifies)
    found = recognizer.probabilities(images)
    assert torch.allclose(found.sum(1), torch.ones(64))
    assert (found.argmax(1) == fresh.condition.label).float().mean() > 0.9
    alone = recognizer.logits(images[5:6])[0]
    assert torch.allclose(alone, recognizer.logits(images)[5], rtol=1e-3, atol=1e-2)
    # It is saved as the model that it is.
    again = load_recognizer(recognizer.save(tmp_path / "again"))
    assert torch.equal(again.logits(images), recognizer.logits(images))


def test_a_rare_label_needs_more_evidence() -> None:
    family = test_vae.build(net="mlp", labels=TWO, label_frequencies=(0.75, 0.25)).eval()
    images = test_vae.shapes(4).images
    with torch.no_grad():
        found, uniform = (GenerativeClassifier(family, uniform=each).logits(images) for each in (False, True))
    margin = ((found - uniform)[:, 0] - (found - uniform)[:, 1]).double()
    assert torch.allclose(margin, torch.full((4,), math.log(3), dtype=torch.float64), atol=1e-3)


def test_the_cost_is_stated_and_unsuitable_models_are_rejected(tmp_path: Path) -> None:
    vae = test_vae.build(labels=TWO)
    assert str(GenerativeClassifier(vae, samples=4).cost).startswith("2 labels × 4 samples = 8 evaluations")
    exact = GenerativeClassifier(test_transformer.build(labels=TWO), samples=4)
    assert exact.cost.evaluations == 2, "an exact value needs one sample"
    with pytest.raises(ConfigError, match="knows no labels: train with labelled images"):
        GenerativeClassifier(test_vae.build())
    with pytest.raises(ConfigError, match="at least 1 sample"):
        GenerativeClassifier(vae, samples=0)
    folder = Model(test_vae.build()).save(tmp_path / "model")
    with pytest.raises(ModelError, match=r"holds a VAE, which samples images .* This VAE knows no labels"):
        load_recognizer(folder)


def test_prompts_stand_for_the_classes_of_a_model_that_reads_text() -> None:
    settings = {"condition": "text", "text": {"length": 4}, "captions": test_transformer.CAPTIONS}
    family, fresh = trained(test_transformer.build(**settings)), test_transformer.shapes(64, seed=10_000)
    with pytest.raises(ConfigError, match="give prompts"):
        GenerativeClassifier(family)
    recognizer = Recognizer(GenerativeClassifier(family, prompts=test_transformer.CAPTIONS))
    assert recognizer.classes == test_transformer.CAPTIONS
    found = recognizer.probabilities(Images(to_uint8(fresh.images).numpy())).argmax(1)
    assert torch.eq(found, fresh.condition.label).float().mean() > 0.9
    with pytest.raises(ConfigError, match="two prompts"):
        GenerativeClassifier(family, prompts=("a bar", "a bar"))
