"""`danqing cache`: what is kept is listed, and only what nobody builds is deleted."""

import json
import os
import time
from pathlib import Path
from typing import Any

import filelock
import pytest

import danqing
from danqing.cli import main
from danqing.data import caches
from danqing.evaluation.features import extract
from danqing.evaluation.networks import open_network
from danqing.training import codes
from tests.data.pictures import write


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder for caches with the packed images of `cats`, their features, and one download."""
    home = tmp_path / "home"
    monkeypatch.setenv("DANQING_CACHE", str(home))
    dataset = danqing.open_dataset(write(tmp_path / "cats", [f"{n}.png" for n in range(20)]))
    extract(dataset, open_network("pixels"), keep=True)
    (home / "downloads" / "mnist").mkdir(parents=True)
    (home / "downloads" / "mnist" / "images.gz").write_bytes(bytes(500))
    return home


def run(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as left:
        main(["cache", *words])
    printed = capsys.readouterr()
    return int(left.value.code or 0), printed.out, printed.err


def listed(capsys: pytest.CaptureFixture[str]) -> dict[str, dict[str, Any]]:
    found = json.loads(run(capsys, "list", "--json")[1])
    assert found["bytes"] == sum(each["bytes"] for each in found["caches"])
    return {each["kind"]: each for each in found["caches"]}


def test_caches_are_listed_with_what_they_were_made_from(capsys: pytest.CaptureFixture[str]) -> None:
    found = listed(capsys)
    assert {kind: each["name"] for kind, each in found.items()} == {
        "data": "cats",
        "features": "cats, pixels",
        "downloads": "mnist",
    }
    assert found["data"]["bytes"] > 20 * 8 * 8 * 3
    assert found["downloads"]["bytes"] == 500
    _, out, _ = run(capsys, "list")
    assert out.splitlines()[0].split() == ["Kind", "Key", "Size", "Last", "used", "Of"]
    assert "cats, pixels" in out


def test_a_kind_is_cleared_and_made_again(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = listed(capsys)["data"]["bytes"]
    code, out, _ = run(capsys, "clear", "data", "--dry-run")
    assert (code, "would be freed" in out, set(listed(capsys))) == (
        0,
        True,
        {"data", "features", "downloads"},
    )
    freed = json.loads(run(capsys, "clear", "data", "--json")[1])
    assert (freed["bytes"], [each["name"] for each in freed["freed"]]) == (before, ["cats"])
    assert set(listed(capsys)) == {"features", "downloads"}
    assert len(danqing.open_dataset(tmp_path / "cats")) == 20
    run(capsys, "clear", "all")
    assert listed(capsys) == {}


def test_the_beginning_of_a_key_is_enough_and_a_word_that_is_none_is_an_error(
    capsys: pytest.CaptureFixture[str],
) -> None:
    key = listed(capsys)["features"]["key"]
    assert run(capsys, "clear", key[:8])[0] == 0
    assert set(listed(capsys)) == {"data", "downloads"}
    for words, sentence in (
        ((), "Name what to delete"),
        (("featurs",), "There is no cache 'featurs': choose one of data, codes, features"),
        ((key[:3],), "There is no cache"),
        (("--older-than", "long"), "--older-than long is not a length of time"),
    ):
        code, out, err = run(capsys, "clear", *words)
        assert (code, out) == (2, "")
        assert sentence in err.replace("\n", " ")


def test_what_was_used_lately_stays(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    long_ago = time.time() - 40 * 86_400
    for path in folder.rglob("*"):
        os.utime(path, (long_ago, long_ago))
    dataset = danqing.open_dataset(tmp_path / "cats")  # a use, which reads the cache and builds nothing
    assert run(capsys, "clear", "--older-than", "41d")[0] == 0
    assert set(listed(capsys)) == {"data", "features", "downloads"}
    extract(dataset, open_network("pixels"), keep=True)
    run(capsys, "clear", "--older-than", "30d")
    assert set(listed(capsys)) == {"data", "features"}
    run(capsys, "clear", "features")
    run(capsys, "clear", "--older-than", "30d")
    assert set(listed(capsys)) == {"data"}


def test_a_cache_that_is_being_built_stays(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    key = listed(capsys)["features"]["key"]
    with filelock.FileLock(folder / "features" / f"{key}.lock"):
        told = json.loads(run(capsys, "clear", "features", "--json")[1])
        assert ([each["key"] for each in told["busy"]], told["freed"], told["bytes"]) == ([key], [], 0)
        assert f"{key[:12]} is being built and stays" in run(capsys, "clear", "features")[1]
    assert json.loads(run(capsys, "clear", "features", "--json")[1])["bytes"] > 0


def test_what_a_killed_build_left_is_listed_and_cleared(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    unfinished = folder / ("0" * 32)
    unfinished.mkdir()
    (unfinished / "building.images").write_bytes(bytes(5000))
    (folder / "codes").mkdir()
    (folder / "codes" / f".{'1' * 32}.safetensors.abc.tmp").write_bytes(bytes(7000))
    (folder / "codes" / f"{'2' * 32}.lock").touch()  # a lock alone is nothing
    found = {each.key: each for each in caches.find() if not each.is_complete}
    assert {key: (each.kind, each.bytes) for key, each in found.items()} == {
        "0" * 32: ("data", 5000),
        "1" * 32: ("codes", 7000),
    }
    assert "not complete" in run(capsys, "list")[1]
    run(capsys, "clear", "0" * 32, "1" * 32)
    assert not unfinished.exists()
    assert [path.name for path in (folder / "codes").iterdir() if path.suffix == ".tmp"] == []


def test_codes_name_their_data_set(folder: Path, tmp_path: Path) -> None:
    import torch

    from danqing import families
    from danqing.data import Augment

    dataset = danqing.open_dataset(tmp_path / "cats")
    plain = {"family": "vqvae", "width": 8, "height": 8, "channels": 3, "features": 8, "vocabulary": 16}
    tokenizer = families.build(families.parse_config(plain))
    made = codes.ensure(
        tokenizer,
        dataset,
        codes.views_of(Augment(), 0, 1),
        device=torch.device("cpu"),
        on_progress=lambda *_: None,
    )
    assert made is not None
    (found,) = [each for each in caches.find() if each.kind == "codes"]
    assert found.name == "cats"
