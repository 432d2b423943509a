"""`danqing evaluate`: what it prints, for people and as JSON, and how it refuses."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import danqing
from danqing.cli import main


@pytest.fixture
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two folders of a few digits, `ours` and `real`."""
    monkeypatch.setenv("DANQING_CACHE", str(tmp_path / "cache"))
    digits = danqing.open_dataset("digits").images(np.arange(80)).numpy()
    for name, pixels in (("ours", digits[:40]), ("real [1]", digits[40:])):
        (tmp_path / name).mkdir()
        for number, picture in enumerate(pixels):
            Image.fromarray(picture[:, :, 0]).save(tmp_path / name / f"{number}.png")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as left:
        main(["evaluate", *words])
    printed = capsys.readouterr()
    return int(left.value.code or 0), printed.out, printed.err


def test_people_read_the_headline_first_and_why(folders: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ("ours", "--data", "real [1]", "--features", "pixels", "--out", "scores")
    code, out, err = run(capsys, *words)
    assert code == 0
    assert "Traceback" not in err
    first, second, *rest = out.splitlines()
    assert first.startswith("KD-pixels ")
    assert first.endswith("lower is better")
    assert "is the number to quote" in second
    rows = {line.split("  ")[0].strip(): line for line in rest}
    assert rows["FD-pixels"].endswith("↓")
    assert rows["precision"].endswith("↑")
    assert " to " in rows["recall"]
    assert "bits-per-dim: only a model has a likelihood" in out
    assert "measured on images that may have been learnt from" in out.lower()
    assert "against 40 of real [1], split train" in out.splitlines()[-1]
    assert {path.name for path in (folders / "scores").iterdir()} == {"scores.json", "neighbours.png"}


def test_json_is_one_object_with_every_score_whole(folders: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ("ours", "--data", "real [1]", "--metrics", "kernel,frechet,precision", "--features", "pixels")
    code, out, _ = run(capsys, *words, "-n", "30", "--seed", "5", "--json")
    assert code == 0
    told = json.loads(out)
    assert [score["metric"] for score in told["scores"]] == ["kernel", "frechet", "precision"]
    for score in told["scores"]:
        assert score["images"] == 30
        assert score["seed"] == 5
        assert score["reference"]["count"] == 40
        assert len(score["reference"]["fingerprint"]) == 64
        assert score["features"]["name"] == "pixels"
        assert len(score["interval"]) == 2
        assert score["versions"]["danqing"] == danqing.__version__
    assert told["headline"]["metric"] == "kernel"
    assert told["files"] == []
    assert "to quote" in told["reason"]


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("ours",), "Missing option '--data'"),
        (("ours", "--data", "real [1]", "--metrics", "beauty"), "There is no metric 'beauty'"),
        (("ours", "--data", "real [1]", "--features", "eyes"), "There is no feature network 'eyes'"),
        (("ours", "--data", "real [1]", "-n", "1"), "'-n'"),
        (("ours", "--data", "nowhere"), "There is no data at nowhere"),
        (("nowhere", "--data", "real [1]"), "There is no data at nowhere"),
        (("ours", "--data", "real [1]", "--split", "best"), "There is no split 'best'"),
        (("ours", "--data", "real [1]", "--size", "3y"), "--size 3y is not a size"),
        (("ours", "--data", "real [1]", "--precision", "int8"), "'--precision'"),
        (("ours", "--data", "real [1]", "--metrics", "membership"), "membership cannot be measured"),
    ],
    ids=lambda part: part if isinstance(part, str) else "",
)
def test_a_mistake_is_one_sentence_and_exit_code_2(
    words: tuple[str, ...], sentence: str, folders: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if "--features" not in words:
        words = (*words, "--features", "pixels")
    code, out, err = run(capsys, *words)
    assert (code, out) == (2, "")
    assert err.startswith("Error: ")
    assert err.count("\n") == 1
    assert sentence in err
    code, out, _ = run(capsys, *words, "--json")
    assert code == 2
    assert sentence in json.loads(out)["error"]


def test_help_has_examples(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "--help")
    assert code == 0
    assert "danqing evaluate" in out.partition("Examples")[2]
    assert "--json" in out
