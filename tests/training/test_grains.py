"""Grains: their sums follow the tree, and any number of processes ends with the same weights."""

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import danqing as dq
from danqing.cluster.place import Place
from danqing.cluster.world import World
from danqing.data import Augment, Batches, Dataset
from danqing.data.batch import Batch
from danqing.data.degrade import Degradation
from danqing.errors import ConfigError, TrainingError
from danqing.families.base import Learner, Losses
from danqing.nets.whitening import Whitening
from danqing.randomness import generator
from danqing.training.config_reading import resolve
from danqing.training.engine import Engine
from danqing.training.grains import Grains
from tests import forked
from tests.small_run import SMALL, TWO_STAGES
from tests.training import every_learner

CPU = torch.device("cpu")


class Lines(Learner):
    """A layer that is used, one that is not, and the moving averages of a batch norm."""

    def __init__(self) -> None:
        super().__init__()
        self.used, self.unused, self.norm = nn.Linear(3, 2), nn.Linear(3, 2), nn.BatchNorm1d(2)


def loss_of(learner: Lines, batch: Batch, number: int) -> Losses:
    noise = torch.randn(len(batch), 3, generator=generator(0, "noise", number))
    made = learner.norm(learner.used(batch.images.mean((2, 3)) + noise))
    return Losses(
        (made * torch.tensor([1.0, 0.3])).tanh().sum(1).square().mean(), {"number": torch.tensor(number)}
    )


def summed(values: list[Tensor]) -> Tensor:
    """Return the sum of eight vectors along the complete binary tree, written out."""
    a, b, c, d, e, f, g, h = values
    return ((a + b) + (c + d)) + ((e + f) + (g + h))


def test_gradients_and_averages_are_added_along_the_tree() -> None:
    torch.manual_seed(0)
    learner, images = Lines(), torch.randn(32, 3, 2, 2)
    batches = [Batch(part) for part in images.chunk(8)]
    alone = [copy.deepcopy(learner) for _ in batches]
    for number, (other, batch) in enumerate(zip(alone, batches, strict=True)):
        (loss_of(other, batch, number).total / 8).backward()
    before = learner.norm.running_mean.clone()
    parameters = list(learner.parameters())
    found = Grains(8, 32, World()).compute(
        learner, parameters, batches, lambda batch, number: loss_of(learner, batch, number)
    )
    for name in ("used.weight", "used.bias", "norm.weight"):
        own = [other.get_parameter(name).grad for other in alone]
        assert torch.equal(learner.get_parameter(name).grad, summed(own)), name
    assert learner.unused.weight.grad is None
    means = summed([other.norm.running_mean for other in alone]) / 8
    assert torch.equal(learner.norm.running_mean, means)
    assert not torch.equal(means, before)
    assert learner.norm.num_batches_tracked == 1
    assert found.logged["number"] == 3.5
    assert found.logged["loss"] == found.total


def test_whitening_sees_the_same_in_grains_and_in_their_batch() -> None:
    torch.manual_seed(0)
    whole = Whitening((4, 2), 5, 0.7, 100)
    parts = copy.deepcopy(whole)
    for step in range(3):
        vectors = torch.randn(32, 6) * torch.arange(1, 7) + step
        whole.observe(vectors)
        seen = []
        for number, part in enumerate(vectors.chunk(4)):
            parts.grain = (number, 4)  # type: ignore[assignment]
            parts.observe(part)
            seen.append(parts.seen)
        parts.grain = None
        parts.settle([torch.stack(same).mean(0) for same in zip(*seen, strict=True)], 4)
    torch.testing.assert_close(parts.state_dict(), whole.state_dict(), rtol=1e-4, atol=1e-4)


def test_rows_of_a_batch_are_those_of_the_whole(dataset: Dataset) -> None:
    augment = Augment(flip=True, crop=0.2, rotation=20, colour=0.3)
    options: dict[str, Any] = {"augment": augment, "degrade": Degradation("noise,jpeg")}
    whole = Batches(dataset, 16, 0, **options).at(16)
    parts = [Batches(dataset, 16, 0, rows=slice(8, 16), prefetch=ahead, **options) for ahead in (False, True)]
    for part in parts:
        for rows in (None, slice(8, 12), slice(12, 16)):
            found, wanted = part.at(16, rows), whole[rows or slice(8, 16)]
            torch.testing.assert_close(found.images, wanted.images)
            torch.testing.assert_close(found.condition.image, wanted.condition.image, rtol=0, atol=0.03)


def test_grains_need_equal_parts_and_one_order() -> None:
    def settings(**values: Any) -> None:
        resolve(preset="vae-32", settings=values)

    with pytest.raises(ConfigError, match="grains must be a power of two, and it is 3"):
        settings(grains=3)
    with pytest.raises(ConfigError, match="a batch of 50 images has no 4 equal grains"):
        settings(grains=4, batch_size=50)
    with pytest.raises(ConfigError, match="leave micro_batch at auto"):
        settings(grains=4, micro_batch=2)
    with pytest.raises(ConfigError, match="private run is drawn by one process"):
        resolve(preset="private-32", settings={"grains": 4})
    with pytest.raises(ConfigError, match=r"has 4 grains .* 8 processes cannot share: use 4"):
        Grains(4, 8, World(Place(0, 8, 0, 8)))


def test_a_grain_needs_two_images_for_batch_norm(dataset: Dataset) -> None:
    config = resolve(preset="gan-32", settings={"batch_size": 4, "grains": 4, "net": "dcgan"}, size=(8, 8))
    with pytest.raises(TrainingError, match=r"A grain of 1 image is too small .* raise batch_size to 8"):
        Engine(config.for_data(dataset), Batches(dataset, 4, 0), CPU, "float32", grains=Grains(4, 4, World()))


def states(count: int, folder: Path) -> dict[str, Any]:
    """Let some processes compute the states of all learners."""
    out = folder / f"{count}.json"
    places = [Place(rank, count, rank, count) for rank in range(count)]
    ranks = [forked.call(every_learner.compute, place, folder, out) for place in places]
    for rank in ranks:
        rank.join()
    assert [rank.exitcode for rank in ranks] == [0] * count
    return dict(json.loads(out.read_text()))


@pytest.mark.slow
def test_every_learner_ends_with_the_same_state_on_1_2_and_4_processes(tmp_path: Path) -> None:
    every_learner.write_images(tmp_path)
    one, two, four = (states(count, tmp_path) for count in (1, 2, 4))
    assert one.keys() > set(every_learner.LEARNERS)
    for name in every_learner.LEARNERS:
        assert two[name] == one[name], name
        assert name in every_learner.COSTLY or four[name] == one[name], name
    for name in every_learner.FAST:  # another order changes little in a few steps
        for key, value in one[name]["logged"].items():
            assert four[f"{name}, fast"]["logged"][key] == pytest.approx(value, rel=0.05, abs=0.02), key


def state_of(run: dq.Run) -> tuple[bytes, str]:
    """Return the weights and the log of a run, which say nothing of times."""
    model = (run.model / "model.safetensors").read_bytes()
    return model, (run.folder / "log.jsonl").read_text()


@pytest.mark.slow
def test_another_number_of_processes_continues_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DANQING_CACHE", str(tmp_path / "cache"))
    options: dict[str, Any] = {"preset": "vae-32", "settings": SMALL, "size": (8, 8), "evaluate_every": 0}
    options["listener"] = dq.Listener()
    ends = []
    for name, processes in (("alone", 1), ("together", 2)):
        options["out"] = tmp_path / name
        begun = dq.train("digits", images=96, processes=processes, **options)
        assert (begun.status, begun.images) == ("finished", 96)
        ends.append(state_of(dq.train("digits", images=160, **options)))
        assert "\ngrains = 4\n" in (tmp_path / name / "config.toml").read_text()
    assert ends[0] == ends[1]


@pytest.mark.slow
def test_processes_train_both_stages_of_a_run(tmp_path: Path) -> None:
    every_learner.write_images(tmp_path)
    words = ["train", str(tmp_path / "images"), "--preset", "transformer-32", "--size", "8x8", "--quiet"]
    words += ["--images", "160", "--evaluate-every", "0"]
    for key, value in TWO_STAGES.items():
        words += ["--set", f"{key}={value}"]
    ranks = []
    for name, count in (("one", 1), ("two", 2)):
        for rank in range(count):
            environment = {
                "DANQING_CACHE": str(tmp_path / name / "cache"),
                "DANQING_MEETING": (tmp_path / f"meeting-{name}").as_uri(),
                "OMP_NUM_THREADS": "1",
                "RANK": str(rank),
                "WORLD_SIZE": str(count),
            }
            out = ["--out", str(tmp_path / name / "run"), "--processes", str(count)]
            ranks.append(forked.start([*words, *out], environment))
    for process in ranks:
        process.join()
    assert [process.exitcode for process in ranks] == [0, 0, 0]
    for stage in ("", "tokenizer"):
        files = [tmp_path / name / "run" / stage / "model" / "model.safetensors" for name in ("one", "two")]
        assert files[0].read_bytes() == files[1].read_bytes()
