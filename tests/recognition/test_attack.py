import numpy as np
import pytest
import torch
from art.attacks.evasion import AutoProjectedGradientDescent
from art.estimators.classification import PyTorchClassifier
from torch import Tensor

from danqing.errors import ConfigError
from danqing.learners.perturbation import Ball
from danqing.recognition.attack.attacks import accuracy_under, attack_classifier, chosen
from tests.recognition.tiny_classifier import classifier, digits

WHITE_BOX = ("fgsm", "pgd", "apgd-ce", "apgd-dlr")


def held_out(count: int) -> tuple[Tensor, Tensor]:
    images, labels = digits()
    return images[-count:], labels[-count:]


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("attack", [*WHITE_BOX, "square"])
def test_a_linear_classifier_falls_exactly_as_theory_says(attack: str, norm: str) -> None:
    """Within a ball, a linear margin falls at most by epsilon times the dual norm of its weights."""
    if (attack, norm) == ("square", "l2"):
        pytest.skip("square has no such norm")
    rng = torch.Generator().manual_seed(1)
    weights = torch.randn(48, generator=rng)
    images = torch.rand(200, 3, 4, 4, generator=rng) - 0.5  # far from black and white, which would clip

    def logits(x: Tensor) -> Tensor:
        half = x.flatten(1) @ weights / 2
        return torch.stack([half, -half], 1)

    margins = images.flatten(1) @ weights
    labels = (margins < 0).long()
    ball = Ball(norm, 0.02)
    fall = ball.radius * float(weights.abs().sum() if norm == "linf" else weights.norm())
    found = attack_classifier(attack, logits, images, labels, ball, steps=400 if attack == "square" else None)
    close = (margins.abs() - fall).abs() < 0.05 * fall
    robust = margins.abs() > fall
    assert 0.2 < robust.float().mean() < 0.9
    assert torch.equal(found.right[~close], robust[~close])


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("attack", WHITE_BOX)
def test_attacked_images_stay_in_their_ball_and_range(attack: str, norm: str) -> None:
    images, labels = held_out(100)
    ball = Ball(norm, 0.1 if norm == "linf" else 0.6)
    found = attack_classifier(attack, classifier(), images, labels, ball)
    change = (found.images - images).flatten(1)
    size = change.abs().amax(1) if norm == "linf" else change.norm(dim=1)
    assert float(size.max()) <= ball.radius * (1 + 1e-5)
    assert float(found.images.abs().max()) <= 1
    assert float(found.right.float().mean()) < 0.9
    assert torch.equal(found.right, classifier()(found.images).argmax(1) == labels)


@pytest.mark.parametrize("attack", ["apgd-ce", "square"])
def test_what_happens_to_an_image_does_not_depend_on_its_batch(attack: str) -> None:
    images, labels = held_out(24)
    together = attack_classifier(attack, classifier(), images, labels, Ball(), steps=20)
    alone = attack_classifier(attack, classifier(), images[8:16], labels[8:16], Ball(), first_row=8, steps=20)
    assert torch.allclose(together.images[8:16], alone.images, atol=1e-5)


@pytest.mark.parametrize("scale", [1e-3, 1e3])
def test_the_scale_of_logits_hides_nothing_from_apgd(scale: float) -> None:
    images, labels = held_out(100)
    ball = Ball("linf", 0.06)

    def right(factor: float) -> Tensor:
        def logits(x: Tensor) -> Tensor:
            return classifier()(x) * factor

        return attack_classifier("apgd-dlr", logits, images, labels, ball, steps=30).right

    assert (right(scale) != right(1.0)).sum() <= 1


def test_square_needs_no_gradients() -> None:
    images, labels = held_out(100)

    def logits(x: Tensor) -> Tensor:
        with torch.no_grad():
            return (classifier()(x) * 4).round()

    with pytest.raises(ConfigError, match="attack it with square"):
        attack_classifier("pgd", logits, images, labels, Ball())
    found = attack_classifier("square", logits, images, labels, Ball("linf", 0.15), steps=300)
    assert float(found.right.float().mean()) < 0.5


def test_several_labels_are_attacked_until_one_is_wrong() -> None:
    images, labels = held_out(60)
    sets = torch.nn.functional.one_hot(labels, 10).float()

    def logits(x: Tensor) -> Tensor:
        found = classifier()(x)
        return found - (found.topk(2).values.mean(1, keepdim=True))  # above 0: the best label alone

    for attack in ("apgd-ce", "square"):
        found = attack_classifier(attack, logits, images, sets, Ball("linf", 0.25), steps=100)
        assert torch.equal(found.right, ((logits(found.images) > 0) == (sets > 0)).all(1))
        assert float(found.right.float().mean()) < 0.5
    with pytest.raises(ConfigError, match="one label per image"):
        attack_classifier("apgd-dlr", logits, images, sets, Ball())


def test_the_worst_case_counts_images_that_withstand_all_attacks() -> None:
    images, labels = held_out(60)
    attacks = chosen("square, fgsm")
    right = accuracy_under(
        attacks,
        classifier(),
        lambda start, end: (images[start:end], labels[start:end]),
        60,
        Ball("linf", 0.06),
        batch=25,
        steps=50,
    )
    assert list(right) == ["clean", "fgsm", "square", "worst"]
    assert torch.equal(right["worst"], right["fgsm"] & right["square"])
    assert not (right["fgsm"] & ~right["clean"]).any()
    with pytest.raises(ConfigError, match="no attack 'nuke'"):
        chosen("nuke")


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_apgd_finds_what_that_of_the_robustness_toolbox_finds(norm: str) -> None:
    images, labels = held_out(200)
    ball = Ball(norm, 0.04 if norm == "linf" else 0.35)
    peer = PyTorchClassifier(
        classifier(), torch.nn.CrossEntropyLoss(), (1, 8, 8), 10, clip_values=(-1, 1), device_type="cpu"
    )
    attack = AutoProjectedGradientDescent(
        peer,
        norm=np.inf if norm == "linf" else 2,
        eps=ball.radius,
        eps_step=2 * ball.radius,
        max_iter=50,
        nb_random_init=1,
        batch_size=200,
        loss_type="cross_entropy",
        verbose=False,
    )
    theirs = torch.from_numpy(attack.generate(images.numpy(), labels.numpy()))
    theirs_right = classifier()(theirs).argmax(1) == labels
    ours = attack_classifier("apgd-ce", classifier(), images, labels, ball, steps=50)
    assert 0.1 < theirs_right.float().mean() < 0.9
    assert abs(float(ours.right.float().mean() - theirs_right.float().mean())) <= 0.01
