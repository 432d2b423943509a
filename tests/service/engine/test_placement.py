"""Where workers run: their devices, processors, threads and models, from the settings alone."""

from pathlib import Path
from typing import Any

import pytest

from danqing import threads
from danqing.errors import ConfigError
from danqing.service import settings as service_settings
from danqing.service.engine.placement import Place, places
from danqing.service.settings import Settings, checked


def placed(models: dict[str, Any] | None = None, **engine: Any) -> tuple[Place, ...]:
    """The places of workers that hold the models a, b and c, unless others are given."""
    return places(Settings.model_validate({"models": models or dict.fromkeys("abc", "x"), "engine": engine}))


@pytest.fixture
def eight_processors(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Two nodes with two cores each, which have two logical processors each."""
    cores = {0: "0,4", 1: "1,5", 2: "2,6", 3: "3,7", 4: "0,4", 5: "1,5", 6: "2,6", 7: "3,7"}
    for number, siblings in cores.items():
        folder = tmp_path / "cpu" / f"cpu{number}" / "topology"
        folder.mkdir(parents=True)
        (folder / "thread_siblings_list").write_text(siblings)
    for node, listed in {0: "0-1,4-5", 1: "2-3,6-7"}.items():
        (tmp_path / "node" / f"node{node}").mkdir(parents=True)
        (tmp_path / "node" / f"node{node}" / "cpulist").write_text(f"{listed}\n")
    monkeypatch.setattr(threads, "_TOPOLOGY", tmp_path / "cpu")
    monkeypatch.setattr(threads, "_NODES", tmp_path / "node")
    monkeypatch.setattr(threads, "_allowed", lambda: frozenset(range(8)))
    monkeypatch.setattr(threads, "cores", lambda: 8)


def test_one_worker_is_placed_as_without_these_settings() -> None:
    for engine in ({}, {"workers": 1}):
        (place,) = placed(device="cuda:1", threads=3, **engine)
        assert (place.device, place.threads, place.processors, dict(place.environment)) == (
            "cuda:1",
            3,
            (),
            {},
        )
        assert place.models == place.describes == ("a", "b", "c")


@pytest.mark.usefixtures("eight_processors")
def test_workers_on_processors_get_whole_cores_of_a_node_and_equal_threads() -> None:
    two = placed(device="cpu", workers=2)
    assert [place.processors for place in two] == [(0, 4, 1, 5), (2, 6, 3, 7)]
    assert [place.threads for place in two] == [2, 2]
    three = placed(device="cpu", workers=3)
    assert sorted(number for place in three for number in place.processors) == list(range(8))
    assert [place.threads for place in three] == [1, 1, 1]
    assert [place.processors for place in placed(device="cpu", workers="auto")] == [
        place.processors for place in two
    ]
    assert [place.threads for place in placed(device="cpu", workers=2, threads=3)] == [3, 3]
    listed = placed(devices=["cpu:0,4", "cpu:1-3"])
    assert [(place.processors, place.threads) for place in listed] == [((0, 4), 1), ((1, 2, 3), 1)]
    assert [place.processors for place in placed(device="cpu", workers=9)] == [()] * 9


def test_each_gpu_gets_a_worker_that_sees_it_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5,GPU-7")
    found = placed(workers="auto")
    assert [place.name for place in found] == ["cuda:0", "cuda:1"]
    assert [place.device for place in found] == ["cuda", "cuda"]
    assert [place.environment["CUDA_VISIBLE_DEVICES"] for place in found] == ["5", "GPU-7"]
    assert [place.name for place in placed(workers=3)] == ["cuda:0", "cuda:1", "cuda:0"]
    assert [place.name for place in placed(devices=["cuda:1", "cuda:0"])] == ["cuda:1", "cuda:0"]
    with pytest.raises(ConfigError, match="shows 2 GPUs"):
        placed(devices=["cuda:2"])
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert [place.name for place in placed(workers="auto")] == ["auto"]


def test_models_are_held_by_the_workers_that_are_named_or_have_fewest(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    config = tmp_path / "service.toml"
    config.write_text(
        'models.a = {path = "a", workers = [1, 2]}\nmodels.b = {path = "b", workers = 1}\n'
        'models.c = "c"\n[engine]\nworkers = 3\n'
    )
    chosen = checked(service_settings.read(config))
    assert chosen.models == {"a": str(tmp_path / "a"), "b": "b", "c": "c"}
    found = places(chosen)
    assert [place.models for place in found] == [("b", "c"), ("a", "c"), ("a", "c")]
    assert [place.describes for place in found] == [("b", "c"), ("a",), ()]


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"device": "cpu", "devices": ["cpu"]}, "both set"),
        ({"workers": 3, "devices": ["cpu", "cpu"]}, "there are 2 engine.devices"),
        ({"devices": ["cpu:x"]}, "write cpu:0-3"),
        ({"devices": ["cpu:0", "cpu:9999"]}, "may not use: 9999"),
        ({"devices": ["cpu", "mps"]}, "cpu and mps, which give different pixels"),
        ({"workers": 2, "models": {"a": {"path": "a", "workers": [2]}}}, "the last one is 1"),
        ({"workers": 2, "models": {"a": {"path": "a", "workers": 3}}}, "needs 3 workers, but there are 2"),
        ({"workers": 2, "models": {"a": {"path": "a", "workers": [1]}}}, "Worker 0 holds no model"),
        ({"models": {"a": {"workers": [0]}}}, "must have a path"),
        ({"models": {"a": {"path": "a", "copies": 2}}}, "must have a path, and may have workers"),
        ({"workers": 0}, "greater than or equal to 1"),
        ({"devices": ["tpu"]}, "should match"),
    ],
)
def test_what_cannot_be_placed_is_rejected_with_the_reason(settings: dict[str, Any], said: str) -> None:
    models = settings.pop("models", {"a": "x"})
    with pytest.raises(ConfigError, match=said):
        places(checked({"models": models, "engine": settings}))
