"""From the metadata of training images to the model card and to what generated images declare."""

import json
from pathlib import Path

import pytest

import danqing as dq
from danqing.cli import main
from danqing.errors import DataError
from tests.data.test_consent import CREATOR, RESERVES, photos
from tests.small_run import SMALL


def trained(data: Path, out: Path, *options: str) -> dict:
    words = [word for pair in SMALL.items() for word in ("--set", "=".join(pair))]
    with pytest.raises(SystemExit) as ended:
        main(
            ["train", str(data), "--preset", "vae-32", "--images", "32", "--out", str(out), *options, *words]
        )
    assert ended.value.code == 0
    return json.loads((out / "run.json").read_text(encoding="utf-8"))["data"]


def test_a_run_respects_reservations_and_its_images_declare_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DANQING_CACHE", str(tmp_path / "cache"))
    data = photos(tmp_path / "photos", [CREATOR] * 18 + [RESERVES] * 2)
    facts = trained(data, tmp_path / "run")
    assert (facts["images"], facts["consent"]["reserved"]) == (18, 2)
    card = (tmp_path / "run" / "model" / "README.md").read_text(encoding="utf-8")
    assert "- Creators in the files: Jane (18)" in card
    assert "- Images whose owners reserve training: 2, left out" in card
    declaration = dq.load(tmp_path / "run").declaration("sample")
    assert declaration.creator == "Jane"
    assert declaration.reservations == {"no AI training (IPTC/PLUS)": 2, "images": "left out"}

    all_used = trained(data, tmp_path / "all", "--ignore-reservations")
    assert (all_used["images"], all_used["consent"]["ignored"]) == (20, True)
    card = (tmp_path / "all" / "model" / "README.md").read_text(encoding="utf-8")
    assert "- Images whose owners reserve training: 2, used anyway" in card
    config = json.loads((tmp_path / "all" / "model" / "config.json").read_text(encoding="utf-8"))
    assert config["trained"]["data"]["prepared"]["ignore_reservations"] is True
    assert "personal" not in config["trained"]["data"]["consent"]
    repeated = trained(data, tmp_path / "all", "--ignore-reservations")
    assert repeated == all_used, "the same command resumes"


def test_evaluation_reads_the_images_that_the_run_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DANQING_CACHE", str(tmp_path / "cache"))
    data = photos(tmp_path / "photos", [RESERVES] * 20)
    trained(data, tmp_path / "run", "--ignore-reservations")
    found = dq.evaluate(tmp_path / "run", data, metrics=["kernel"], features="pixels", n=16)
    assert found.scores
    with pytest.raises(DataError, match="reserve training"):
        dq.train(data, preset="vae-32", out=tmp_path / "other", settings=SMALL, images=32)


def test_a_study_uses_reserved_images_only_on_request(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    data = photos(tmp_path / "photos", [RESERVES] * 6)
    words = [
        "compare",
        str(data),
        "--families",
        "gan",
        "--images",
        "64",
        "--out",
        "x",
    ]

    def said(*words: str) -> str:
        with pytest.raises(SystemExit):
            main(words)
        return capsys.readouterr().err

    assert "train with --ignore-reservations if you have their permission" in said(*words)
    assert "6 images leave only 2 to compare with" in said(*words, "--ignore-reservations")
    asked = dict[str, object]()
    monkeypatch.setattr(dq, "tune", lambda data, **options: asked.update(options) or {}["stop"])
    with pytest.raises(KeyError):
        main(["--verbose", "tune", str(data), "--space", "a.toml", "--out", "y", "--ignore-reservations"])
    assert asked["settings"] == {"data.ignore_reservations": True}
