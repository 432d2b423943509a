"""`danqing doctor` reports what is installed and set, and keeps passwords to itself."""

import importlib.metadata
import json
import tomllib
from pathlib import Path
from typing import Any

import pytest
import torch

from danqing.cli import doctor, main

PROJECT = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]


def run(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    with pytest.raises(SystemExit) as left:
        main(["doctor", *words])
    assert not left.value.code
    return capsys.readouterr().out


def facts(capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(run(capsys, "--json"))
    return found


def test_versions_threads_and_the_cache_are_those_in_use(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DANQING_CACHE", str(tmp_path / "not" / "yet"))
    monkeypatch.setenv("OMP_WAIT_POLICY", "PASSIVE")
    found = facts(capsys)
    assert found["versions"]["torch"] == torch.__version__
    assert found["versions"]["pillow"] == importlib.metadata.version("pillow")
    assert found["threads"]["torch"] == torch.get_num_threads()
    assert found["threads"]["environment"]["OMP_WAIT_POLICY"] == "PASSIVE"
    assert found["cache"]["folder"] == str(tmp_path / "not" / "yet")
    assert found["cache"]["free_bytes"] > 0
    assert "cpu" in found["devices"]
    assert found["problems"] == []
    text = run(capsys)
    for words in (f"torch {torch.__version__}", "OMP_WAIT_POLICY=PASSIVE", "No problems found."):
        assert words in text


def test_an_extra_that_is_missing_says_how_to_install_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    version = importlib.metadata.version

    def without(name: str) -> str:
        if name == "transformers":
            raise importlib.metadata.PackageNotFoundError(name)
        return "0.0.1" if name == "pyarrow" else version(name)

    monkeypatch.setattr(importlib.metadata, "version", without)
    extras = {each["name"]: each for each in facts(capsys)["extras"]}
    assert extras["transformers"]["install"] == "pip install 'danqing[transformers]'"
    assert extras["text"]["missing"] == ["transformers"]  # which it takes along
    assert extras["parquet"]["missing"] == ["pyarrow"]  # too old
    assert extras["tune"]["install"] is None


def test_every_extra_says_what_it_is_for() -> None:
    extras = set(PROJECT["optional-dependencies"]) - set(doctor._FOR_DEVELOPERS)
    assert extras <= set(doctor._PURPOSES)


def test_a_dependency_that_does_not_fit_is_a_problem(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    version = importlib.metadata.version
    monkeypatch.setattr(
        importlib.metadata, "version", lambda name: "1.0" if name == "numpy" else version(name)
    )
    (problem,) = facts(capsys)["problems"]
    assert problem.startswith("numpy is 1.0, but Danqing needs >=1.26: run pip install 'numpy>=1.26'")


def test_what_the_network_goes_through_is_shown_without_passwords(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "https://hub.example")
    monkeypatch.setenv("https_proxy", "http://me:secret@proxy.example:3128")
    monkeypatch.setenv("no_proxy", "localhost,.example.org")
    monkeypatch.setenv("DANQING_MIRROR", "https://user:secret@mirror.example/data")
    network = facts(capsys)["network"]
    assert network["HF_ENDPOINT"] == "https://hub.example"
    assert network["https_proxy"] == "http://***@proxy.example:3128"
    assert network["no_proxy"] == "localhost,.example.org"
    assert network["DANQING_MIRROR"] == "https://***@mirror.example/data"
    assert "secret" not in run(capsys)
