"""Flow models of latents teach models of few steps, which generate the same latents."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import danqing as dq
from danqing.data import open_dataset
from danqing.errors import ConfigError
from danqing.families.few_steps import FewStepLatentFlow
from danqing.families.flow_variants import LatentFlow
from danqing.training import trajectories
from danqing.training.config_reading import from_toml
from danqing.training.transfer import Source
from tests.training.heard import Heard

FLOW: dict[str, Any] = {
    "batch_size": "16",
    "widths": "[8, 16]",
    "layers": "1",
    "heads": "2",
    "tokenizer.settings.batch_size": "8",
    "tokenizer.settings.model.features": "8",
    "tokenizer.settings.model.latents": "2",
    "tokenizer.settings.model.downsamplings": "1",
}
TINY = {"model.solution.discriminator_features": "4"}


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DANQING_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder: Path = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(0)
    for number in range(16):
        Image.fromarray(rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)).save(folder / f"{number}.png")
    return folder


@pytest.fixture(scope="module")
def teacher(cache: None, pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> dq.Run:
    options: dict[str, Any] = {"size": (16, 16), "images": 64, "listener": Heard()}
    out = tmp_path_factory.mktemp("teacher") / "run"
    return dq.train(pictures, preset="flow-128", settings=FLOW, out=out, **options)


@pytest.fixture(scope="module")
def student(teacher: dq.Run, pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> dq.Run:
    return distilled(teacher, pictures, tmp_path_factory.mktemp("student") / "run")


def distilled(teacher: dq.Run, data: Path, out: Path, **options: Any) -> dq.Run:
    options = {"images": 64, "trajectories": 8, "settings": TINY, "listener": Heard(), **options}
    return dq.distill(teacher, data, steps=2, out=out, **options)


def test_a_student_generates_the_latents_of_its_teacher(teacher: dq.Run, student: dq.Run) -> None:
    assert student.status == "finished"
    model, family, taught = dq.load(student), dq.load(student).family, dq.load(teacher).family
    assert isinstance(family, FewStepLatentFlow)
    assert isinstance(taught, LatentFlow)
    assert family.config.latent_statistics == taught.config.latent_statistics
    images = torch.rand(2, 3, 16, 16) * 2 - 1
    assert torch.equal(family.latents_of(images), taught.latents_of(images))
    samples = model.sample(3, seed=1)
    assert samples.array.shape == (3, 16, 16, 3)
    assert np.array_equal(model.sample(seeds=[2]).array, model.sample(seeds=[1, 2]).array[1:])
    masks = np.zeros((3, 16, 16), bool)
    masks[:, :8] = True
    filled = model.fill(samples, masks, seed=3)
    assert np.array_equal(filled.array[:, 8:], samples.array[:, 8:])
    assert model.reconstruct(samples).array.shape == samples.array.shape


def test_trajectories_are_of_latents_and_stand_beside_the_latents_of_images(
    teacher: dq.Run, student: dq.Run, pictures: Path
) -> None:
    dataset = open_dataset(pictures, size=(16, 16))
    family, source = dq.load(student).family, Source(str(teacher.folder))
    assert isinstance(family, FewStepLatentFlow)
    config = from_toml(student.folder / "config.toml")
    config = config.model_copy(update={"model": family.config})
    found = trajectories.ensure(source, config, dataset, torch.device("cpu"), Heard())
    points = found.at(np.array([3, 5])).images
    assert points.shape == (2, 3, *family.codec.latent_shape)
    with torch.no_grad():
        again = source.learner.trajectory(  # type: ignore[operator]
            found.at(np.array([3, 5])).condition, points[:, 0], [k / 8 for k in range(9)]
        )
    assert torch.allclose(again[:, [0, 4, 8]], points, atol=0.02)


def test_another_tokenizer_is_rejected(teacher: dq.Run, pictures: Path, tmp_path: Path) -> None:
    settings = {**TINY, "tokenizer.model": str(tmp_path / "other")}
    with pytest.raises(ConfigError, match="generates the latents of its teacher: leave the tokenizer out"):
        distilled(teacher, pictures, tmp_path / "student", settings=settings)


def test_few_steps_of_latents_are_learned_without_a_teacher(pictures: Path, tmp_path: Path) -> None:
    settings = {**FLOW, "objective": "solution", "num_steps": "2"}
    options: dict[str, Any] = {"size": (16, 16), "images": 48, "listener": Heard()}
    run = dq.train(pictures, preset="flow-128", settings=settings, out=tmp_path / "fast", **options)
    model = dq.load(run)
    assert isinstance(model.family, FewStepLatentFlow)
    assert model.sample(2, seed=1).array.shape == (2, 16, 16, 3)
