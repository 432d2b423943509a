"""The classifier: its networks, its loss against closed forms, and what it refuses."""

import math
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch.nn import functional as F

from danqing import families
from danqing.data.targets import Targets
from danqing.errors import ConfigError
from danqing.families.base import Batch, Condition
from danqing.learners.abilities import Classifies, Embeds, Segments
from danqing.learners.classifier import Classifier, ClassifierConfig
from danqing.nets import training_views

PLAIN: dict[str, Any] = {"family": "classifier", "features": 32, "label_smoothing": 0.0}
LABELS = ("ant", "bee", "cat")


def built(**settings: Any) -> Classifier:
    torch.manual_seed(0)
    shape = {"width": 10, "height": 7, "labels": LABELS}
    found = families.build_learner(families.parse_config({**PLAIN, **shape, **settings}))
    assert isinstance(found, Classifier)
    return found


def batch(count: int = 6) -> Batch:
    images = torch.randn(count, 3, 7, 10, generator=torch.Generator().manual_seed(1))
    return Batch(images, Condition(label=torch.arange(count) % 3))


@pytest.mark.parametrize("net", ["residual", "transformer"])
def test_both_networks_take_any_size_and_learn(net: str) -> None:
    learner = built(net=net, patch=3)
    assert isinstance(learner, Classifies)
    assert isinstance(learner, Embeds)
    assert not isinstance(learner, Segments)
    (phase,) = learner.phases()
    optimizer = torch.optim.SGD(learner.parameters(), 0.05)
    losses = []
    for _ in range(30):
        optimizer.zero_grad()
        found = learner.loss(batch(), phase, torch.Generator().manual_seed(0))
        found.total.backward()
        optimizer.step()
        losses.append(float(found.total.detach()))
    assert losses[-1] < 0.3 * losses[0]
    assert float(found.logged["accuracy"]) == 1.0
    assert all(parameter.grad is not None for parameter in learner.parameters())
    learner.eval()
    larger = torch.randn(2, 3, 20, 13)
    assert learner.embed(larger).shape == (2, learner.embedding_size)
    alone, among = learner.logits(larger[:1]), learner.logits(larger)[:1]
    assert torch.allclose(alone, among, atol=1e-5), "an image has the same logits in every batch"


def test_the_loss_is_the_cross_entropy_of_smoothed_labels() -> None:
    learner = built(label_smoothing=0.2).eval()
    images = batch()
    found = learner.loss(images, learner.phases()[0], torch.Generator())
    logits, label = learner.logits(images.images), images.condition.label
    assert label is not None
    expected = F.cross_entropy(logits, label, label_smoothing=0.2)
    assert float(found.total.detach()) == pytest.approx(float(expected.detach()))
    assert float(found.logged["accuracy"]) == pytest.approx(float((logits.argmax(1) == label).float().mean()))


def test_balanced_labels_shift_the_logits_by_their_log_frequencies_in_training_alone() -> None:
    frequencies = (0.7, 0.2, 0.1)
    plain, balanced = (built(balanced=value, label_frequencies=frequencies).eval() for value in (False, True))
    images = batch()
    assert torch.equal(plain.logits(images.images), balanced.logits(images.images))
    shifted = plain.logits(images.images) + torch.tensor([math.log(share) for share in frequencies])
    assert images.condition.label is not None
    expected = float(F.cross_entropy(shifted, images.condition.label).detach())
    found = balanced.loss(images, balanced.phases()[0], torch.Generator())
    assert float(found.total.detach()) == pytest.approx(expected)
    assert "label_shift" not in balanced.state_dict()


def test_labels_of_which_an_image_may_have_several_are_decided_one_by_one() -> None:
    learner = built(labels=(), label_set=LABELS).eval()
    assert learner.is_multi_label
    assert learner.classes == LABELS
    sets = torch.tensor([[1.0, 1.0, 0.0], [0.0, 0.0, 0.0]])
    images = batch(2).images
    found = learner.loss(
        Batch(images, targets=Targets(label_set=sets)), learner.phases()[0], torch.Generator()
    )
    balanced = built(labels=(), label_set=LABELS, label_set_shares=(0.5, 0.1, 0.9), balanced=True)
    assert balanced.label_shift.tolist() == pytest.approx([0, -math.log(9), math.log(9)], abs=1e-4)
    expected = F.binary_cross_entropy_with_logits(learner.logits(images), sets)
    assert float(found.total.detach()) == pytest.approx(float(expected.detach()))


def test_a_classifier_needs_two_labels_and_whole_heads() -> None:
    with pytest.raises(ConfigError, match="at least two labels"):
        ClassifierConfig(labels=("one",)).check_shape()
    with pytest.raises(ValidationError, match="multiples of 32"):
        ClassifierConfig(net="transformer", features=40)


def test_the_changes_of_training_images_are_what_they_say() -> None:
    rng = torch.Generator().manual_seed(0)
    ramp = torch.arange(12.0).expand(5, 1, 4, 12).contiguous()
    moved = training_views.shift(ramp, rng, 0.25)
    distances = [sorted({round(x) for x in row}) for row in (moved - ramp)[:, 0, 0, 3:9].tolist()]
    assert all(len(distance) == 1 and abs(distance[0]) <= 3 for distance in distances)
    assert len({distance[0] for distance in distances}) > 1, "each image has its own"
    mirrored = training_views.mirror(ramp, rng, 1.0)
    assert torch.equal(mirrored, ramp.flip(3))
    targets = training_views.one_hot(torch.tensor([0, 1, -1]), 2)
    assert targets.tolist() == [[1, 0], [0, 1], [0, 0]]
    images = torch.arange(3.0)[:, None, None, None].expand(3, 1, 2, 2)
    blended, shared = training_views.mix(images, torch.eye(3), rng, 0.5)
    assert shared.sum(1).tolist() == pytest.approx([1, 1, 1])
    assert torch.allclose(blended[:, 0, 0, 0], shared @ torch.arange(3.0)), "targets say what images hold"
    assert (shared.diagonal() >= 0.5).all()
