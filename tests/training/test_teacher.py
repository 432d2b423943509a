"""A student learns its teacher's outputs, and begins with a part of its weights."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import danqing as dq
from danqing import families
from danqing.compress.student import half_width, train_student
from danqing.errors import ConfigError
from danqing.families.base import Batch, Condition, Learner
from danqing.families.gan import GAN
from danqing.model import folder as model_folder
from danqing.model.model import Model
from danqing.training.config_reading import resolve
from danqing.training.teacher import Teacher, between, inherit
from tests.compress import tiny

SIZE = {"width": 8, "height": 8, "channels": 3}
GAN_OF = {"family": "gan", "net": "modern", "latents": 5, "generator_features": 8, **SIZE}
VAE_OF = {"family": "vae", "latents": 5, "features": 8, "prior_features": 16, **SIZE}
FLOW_OF = {"family": "flow", "widths": (8, 16), "layers": 1, "heads": 2, **SIZE}
CPU = torch.device("cpu")


def rng() -> torch.Generator:
    return torch.Generator().manual_seed(5)


def saved(values: dict[str, Any], folder: Path) -> tuple[Path, Learner]:
    """Write a model with random weights; return its folder, and the whole learner."""
    family = tiny.learner_of(values)
    whole = tiny.learner_of(values)
    assert isinstance(family, families.base.Family)
    family.drop_training_only()
    return model_folder.write(folder, family, {}, Model(family).info()), whole


@pytest.mark.parametrize("values", [GAN_OF, VAE_OF, FLOW_OF], ids=["gan", "vae", "flow"])
def test_the_distance_to_oneself_is_zero_and_falls_by_its_gradient(
    values: dict[str, Any], tmp_path: Path
) -> None:
    folder, student = saved(values, tmp_path)
    teacher = Teacher(str(folder), student.config, CPU)
    batch = Batch(torch.randn(4, 3, 8, 8, generator=rng()).clamp(-1, 1), Condition())
    phase = student.phases()[-1]
    student.train()
    found = teacher.losses(student, batch, phase, rng)
    alone = student.loss(batch, phase, rng())
    assert float(found.logged["distance_to_teacher"]) < 1e-6
    assert torch.allclose(found.total, alone.total, atol=1e-4)
    with torch.no_grad():
        for parameter in student.parameters():
            parameter.mul_(0.5)
    optimizer = torch.optim.Adam(student.parameters(), 0.01)
    distances = []
    for _ in range(12):
        found = teacher.losses(student, batch, phase, rng)
        distances.append(float(found.logged["distance_to_teacher"]))
        optimizer.zero_grad()
        found.total.backward()
        optimizer.step()
    assert distances[-1] < 0.95 * distances[0]


def test_a_discriminator_learns_without_the_teacher(tmp_path: Path) -> None:
    folder, student = saved(GAN_OF, tmp_path)
    teacher = Teacher(str(folder), student.config, CPU)
    batch = Batch(torch.randn(4, 3, 8, 8, generator=rng()).clamp(-1, 1), Condition())
    phase = student.phases()[0]
    ours, alone = teacher.losses(student, batch, phase, rng), student.loss(batch, phase, rng())
    assert torch.equal(ours.total, alone.total)
    assert ours.logged.keys() == alone.logged.keys()


def test_a_student_begins_with_the_first_channels_of_each_layer() -> None:
    values = {**GAN_OF, "net": "dcgan"}
    wide, narrow = tiny.learner_of(values), tiny.learner_of({**values, "generator_features": 4})
    assert isinstance(wide, GAN)
    assert isinstance(narrow, GAN)
    inherit(narrow, wide.state_dict())
    latents = torch.randn(3, 5, generator=rng())
    ours, theirs = narrow.generator.first(latents), wide.generator.first(latents)  # type: ignore[operator]
    assert ours.shape[1] * 2 == theirs.shape[1]
    torch.testing.assert_close(ours, theirs[:, : ours.shape[1]])
    weights = narrow.state_dict(), wide.state_dict()
    for name in ("generator.grow.0.weight", "generator.norms.0.running_var"):
        part = weights[1][name][tuple(slice(side) for side in weights[0][name].shape)]
        assert torch.equal(weights[0][name], part)
    same = tiny.learner_of({**values, "labels": ("a", "b")})
    inherit(same, {"generator.grow.0.weight": torch.zeros(1)})  # what does not fit stays


def test_the_distance_of_images_counts_coarse_differences_more_often() -> None:
    images = torch.zeros(2, 3, 8, 8)
    fine = images.clone()
    fine[..., ::2] = 0.5
    fine[..., 1::2] = -0.5
    assert float(between(images, images + 0.5)) == pytest.approx(0.5)
    assert float(between(images, fine)) == pytest.approx(0.5 / 3)


def test_a_teacher_of_another_kind_is_rejected(tmp_path: Path) -> None:
    folder, _ = saved(VAE_OF, tmp_path / "vae")
    for values, reason in (
        (GAN_OF, "is of another family than the student"),
        ({**VAE_OF, "latents": 6}, "has another latents than the student"),
        ({**VAE_OF, "labels": ("a", "b")}, "has another labels than the student"),
    ):
        with pytest.raises(ConfigError, match=reason):
            Teacher(str(folder), families.parse_config(values), CPU)
    pixels, _ = saved({**tiny.PIXELS, "labels": (), "label_frequencies": ()}, tmp_path / "pixels")
    with pytest.raises(ConfigError, match="teaches no student: only GANs, VAEs and flow models"):
        Teacher(str(pixels), families.parse_config(GAN_OF), CPU)
    with pytest.raises(ConfigError, match="a teacher knows images that a private run must hide"):
        resolve(preset="private-32", settings={"private.epsilon": 8, "teacher": str(folder)})


def test_a_run_trains_a_student_of_half_the_width(tmp_path: Path) -> None:
    folder, teacher = saved({**VAE_OF, "features": 32}, tmp_path / "teacher")
    (tmp_path / "data").mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (40, 8, 8, 3), np.uint8)
    for number, image in enumerate(pixels):
        Image.fromarray(image).save(tmp_path / "data" / f"{number}.png")
    assert half_width(teacher) == {"model.features": 16, "model.prior_features": 8}
    told: list[tuple[int, int, str]] = []
    student = train_student(
        folder, tmp_path / "data", tmp_path / "run", minutes=0.02, tell=lambda *one: told.append(one)
    )
    assert dq.load(student).info()["parameters"] < Model(teacher).info()["parameters"] / 2  # type: ignore[arg-type]
    lines = (tmp_path / "run" / "log.jsonl").read_text().splitlines()
    assert "autoencoder/distance_to_teacher" in json.loads(lines[-1])
    assert told
    assert told[-1][2] == "Training a student"
