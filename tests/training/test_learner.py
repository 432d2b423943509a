"""What learns and does not sample images is trained, resumed and saved like any family."""

import sys
from pathlib import Path
from types import ModuleType
from typing import Literal

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

import danqing as dq
from danqing import families
from danqing.errors import ConfigError, ModelError
from danqing.families.base import Batch, FamilyConfig, Learner, Losses, Phase
from danqing.model import folder as model_folder

CONFIG = """
family = "mean"
size = [6, 9]
batch_size = 16

[training]
measure_seconds = 0.001
precision = "float32"
"""


class MeanConfig(FamilyConfig):
    family: Literal["mean"] = "mean"


class Mean(Learner):
    """Learns the mean image."""

    config: MeanConfig

    def __init__(self, config: MeanConfig) -> None:
        super().__init__()
        self.config = config
        self.mean = nn.ParameterDict({"mean": torch.zeros(config.channels, config.height, config.width)})

    def phases(self) -> tuple[Phase, ...]:
        return (Phase("mean", modules=("mean",)),)

    def loss(self, batch: Batch, phase: Phase, rng: torch.Generator) -> Losses:
        return Losses((batch.images - self.mean["mean"]).square().mean())


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The configuration of a run of this learner, which is registered meanwhile."""
    monkeypatch.setenv("DANQING_CACHE", str(tmp_path / "cache"))
    module = ModuleType("mean_learner")
    vars(module).update(Mean=Mean, MeanConfig=MeanConfig)
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setitem(families.REGISTRY, "mean", (module.__name__, "Mean", "MeanConfig"))
    path = tmp_path / "mean.toml"
    path.write_text(CONFIG)
    return path


def test_a_learner_resumes_exactly_and_leaves_a_model_folder(tmp_path: Path, config: Path) -> None:
    def train(out: str, images: int) -> dq.Run:
        return dq.train("digits", config=config, out=tmp_path / out, images=images, listener=dq.Listener())

    whole = train("whole", 640)
    train("parts", 320)
    parts = train("parts", 640)
    assert (whole.status, whole.images, whole.best) == ("finished", 640, None)
    weights = [load_file(run.model / "model.safetensors") for run in (whole, parts)]
    assert torch.equal(weights[0]["mean.mean"], weights[1]["mean.mean"])
    learner, facts = model_folder.read_learner(whole.model)
    assert isinstance(learner, Mean)
    assert facts["images"] == 640
    assert "model.sample" not in (whole.model / "README.md").read_text(encoding="utf-8")
    with pytest.raises(ModelError, match="does not sample images"):
        dq.load(whole)


def test_what_does_not_sample_cannot_be_scored(tmp_path: Path, config: Path) -> None:
    with pytest.raises(ConfigError, match=r"evaluation\.every_images=0"):
        dq.train("digits", config=config, out=tmp_path / "run", images=64, evaluate_every=32)
