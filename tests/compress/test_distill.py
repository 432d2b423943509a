"""Distillation is an ordinary run, which learns from trajectories that are cached under the teacher."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

import danqing as dq
from danqing.cli import commands
from danqing.compress.distill import default_minutes
from danqing.data import open_dataset
from danqing.errors import ConfigError
from danqing.families.few_steps import FewStepFlow
from danqing.families.flow import FlowConfig
from danqing.training import trajectories
from danqing.training.config_reading import from_toml
from danqing.training.transfer import Source
from tests.small_run import SMALL
from tests.training.heard import Heard

FLOW: dict[str, Any] = {
    **{name: SMALL[name] for name in SMALL if name not in ("net", "features", "latents", "prior")},
    "widths": "[8, 16]",
    "layers": "1",
    "heads": "2",
}
TINY = {"model.solution.discriminator_features": "4"}


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DANQING_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache/trajectories"


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Noise, darker in one class than in the other."""
    rng = np.random.default_rng(0)
    for place, label in enumerate("ab"):
        (tmp_path / "pictures" / label).mkdir(parents=True)
        for number in range(12):
            pixels = rng.integers(100 * place, 100 * place + 90, (8, 8, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "pictures" / label / f"{number}.png")
    return tmp_path / "pictures"


@pytest.fixture
def teacher(pictures: Path, tmp_path: Path) -> dq.Run:
    options: dict[str, Any] = {"size": (8, 8), "images": 64, "listener": Heard()}
    return dq.train(pictures, preset="flow-32", settings=FLOW, out=tmp_path / "teacher", **options)


def distilled(teacher: dq.Run, data: Path, out: Path, **options: Any) -> dq.Run:
    options = {"images": 96, "trajectories": 20, "settings": TINY, "listener": Heard(), **options}
    return dq.distill(teacher, data, out=out, **{"steps": 2, **options})


def test_a_model_of_two_steps_follows_from_a_teacher_and_its_trajectories_are_kept(
    teacher: dq.Run, pictures: Path, tmp_path: Path, cache: Path
) -> None:
    run = distilled(teacher, pictures, tmp_path / "student")
    assert run.status == "finished"
    model = dq.load(run)
    assert isinstance(model.family, FewStepFlow)
    assert model.family.discriminator is None
    assert model.sample_options["num_steps"] == 2
    assert model.sample(2, seed=1).array.shape == (2, 8, 8, 3)
    assert "Steps: 2" in (run.model / "README.md").read_text()
    with pytest.raises(ConfigError, match="cannot compute how likely"):
        model.bits_per_dim(model.sample(1))
    (file,) = cache.glob("*.safetensors")
    written = file.stat().st_mtime_ns
    distilled(teacher, pictures, tmp_path / "again", seed=1)
    assert file.stat().st_mtime_ns == written
    distilled(teacher, pictures, tmp_path / "guided", guidance_scale=2.0)
    assert len(list(cache.glob("*.safetensors"))) == 2


def test_the_trajectories_are_those_of_the_teacher_under_the_conditions_of_images(
    teacher: dq.Run, pictures: Path, tmp_path: Path
) -> None:
    run = distilled(teacher, pictures, tmp_path / "student")
    config = from_toml(run.folder / "config.toml")
    dataset = open_dataset(pictures, size=(8, 8))
    config = config.for_data(dataset)
    source = Source(str(teacher.folder))
    found = trajectories.ensure(source, config, dataset, torch.device("cpu"), Heard())
    batch = found.at(np.array([0, 19, 7]))
    assert batch.images.shape == (3, 3, 3, 8, 8)
    assert batch.condition.label is not None
    assert batch.condition.label.tolist() == [0, 1, 0]
    family = source.learner
    with torch.no_grad():
        points = family.trajectory(batch.condition, batch.images[:, 0], [k / 8 for k in range(9)])  # type: ignore[operator]
    assert torch.allclose(points[:, [0, 4, 8]], batch.images, atol=0.02)
    own = trajectories.TaughtBatches(dataset, found, batch_size=16, seed=0).at(32)
    assert own.trajectories is not None
    assert len(own.trajectories) == len(own) == 16
    some = own[slice(4, 6)].trajectories
    assert some is not None
    assert torch.equal(some.images, own.trajectories.images[4:6])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"steps": 3}, "choose 1, 2 or 4 steps"),
        ({"settings": {**TINY, "conditional": "false"}}, "has another labels than these images|another cond"),
    ],
)
def test_what_cannot_be_distilled_is_rejected(
    teacher: dq.Run, pictures: Path, tmp_path: Path, settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        distilled(teacher, pictures, tmp_path / "student", **settings)


def test_a_model_of_another_family_teaches_no_steps(pictures: Path, tmp_path: Path) -> None:
    options: dict[str, Any] = {"size": (8, 8), "images": 16, "listener": Heard()}
    vae = dq.train(pictures, preset="vae-32", settings=SMALL, out=tmp_path / "vae", **options)
    with pytest.raises(ConfigError, match=r"\(VAE\) teaches no model of few steps: give a flow model"):
        distilled(vae, pictures, tmp_path / "student")


def test_the_budget_is_a_share_of_the_teachers_time(teacher: dq.Run) -> None:
    source = Source(str(teacher.folder))
    source.facts["seconds"] = 1800.0
    assert default_minutes(source) == 12
    del source.facts["seconds"]
    with pytest.raises(ConfigError, match="does not say how long it was trained: give --minutes or --images"):
        default_minutes(source)


def test_the_command_distils_and_a_model_learns_few_steps_from_scratch(
    teacher: dq.Run, pictures: Path, tmp_path: Path
) -> None:
    words = ["distill", str(teacher.folder), "--steps", "1", "--data", str(pictures), "--images", "48"]
    words += ["--trajectories", "20", "--out", str(tmp_path / "one"), "--json"]
    words += ["--set", "model.solution.discriminator_features=4"]
    done = CliRunner().invoke(commands.app(["distill"]), words)
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["status"] == "finished"
    settings = {**FLOW, "objective": "solution", "num_steps": "4"}
    run = dq.train(
        pictures,
        preset="flow-32",
        settings=settings,
        size=(8, 8),
        images=48,
        out=tmp_path / "s",
        listener=Heard(),
    )
    model = dq.load(run)
    assert isinstance(model.family.config, FlowConfig)
    assert model.sample_options["num_steps"] == 4
