"""What `danqing compare` and `danqing tune` print, and the sentence for each mistake."""

import json
import shlex
from pathlib import Path

import pytest

import danqing
from danqing.cli import main
from danqing.studies.search import Trial
from danqing.studies.tune import Tuning
from tests.studies.written import write_comparison


def run(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as left:
        main(words)
    printed = capsys.readouterr()
    return int(left.value.code or 0), printed.out, printed.err


COMPARE = ("compare", "digits", "--out", "compared")
TUNE = ("tune", "digits", "--out", "searched", "--space", "space.toml")
MISTAKES = [
    ((*COMPARE, "--minutes", "1"), "Say what to compare, for instance: --families gan,vae"),
    ((*COMPARE, "--families", "gan"), "Say how long each may train"),
    ((*COMPARE, "--families", "gam", "--minutes", "1"), "There is no family called 'gam'"),
    ((*COMPARE, "--presets", "gan-23", "--minutes", "1"), "There is no preset called 'gan-23'"),
    ((*COMPARE, "--presets", "gan-32,gan-64", "--minutes", "1"), "choose one by --size"),
    ((*COMPARE, "--families", "gan", "--images", "64", "--features", "abacus"), "abacus"),
    (("compare", "/no/where", "--presets", "gan-32", "--images", "64", "--out", "x"), "no data at /no/where"),
    ((*TUNE, "--trials", "0"), "'--trials'"),
    ((*TUNE, "--trials", "2", "--space", "none.toml"), "There is no configuration file at none.toml"),
    ((*TUNE, "--trials", "2", "--pruner", "secateurs"), "There is no pruner called 'secateurs'"),
    ((*TUNE, "--trials", "2"), "Did you mean model.latents"),
    (("tune", "digits", "--out", "searched", "--trials", "2"), "--space"),
]


@pytest.mark.parametrize(("words", "sentence"), MISTAKES, ids=[" ".join(words) for words, _ in MISTAKES])
def test_a_mistake_is_one_sentence_and_leaves_nothing_behind(
    words: tuple[str, ...],
    sentence: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("space.toml").write_text("[model.latent]\nlow = 4\nhigh = 8\n", encoding="utf-8")
    code, out, err = run(capsys, *words)
    assert (code, out) == (2, "")
    assert err.startswith("Error: ")
    assert err.count("\n") == 1
    assert sentence in err
    assert [file.name for file in tmp_path.iterdir()] == ["space.toml"]


def test_a_comparison_is_a_table_sentences_and_a_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    told = write_comparison(tmp_path)
    monkeypatch.setattr(danqing, "compare", lambda data, **asked: told, raising=False)
    words = ("compare", "pets", "--families", "gan,vae", "--minutes", "10", "--out", str(tmp_path))
    code, out, _ = run(capsys, *words)
    assert code == 0
    assert "Kernel distance   0.0214 *" in out
    assert " ".join((*told.verdict, *told.cautions)) in out
    assert f"Page  {tmp_path / 'compare.html'}" in out
    payload = json.loads(run(capsys, *words, "--json")[1])
    assert payload["contestants"][0]["scores"][0]["metric"] == "kernel"
    waiting = told.contestants[1].model_copy(update={"status": "waiting"})
    monkeypatch.setattr(
        danqing, "compare", lambda data, **asked: told.model_copy(update={"contestants": (waiting,)})
    )
    code, _, err = run(capsys, *words)
    assert code == 130
    assert "run this to continue" in err


def test_a_comparison_in_which_all_failed_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    told = write_comparison(tmp_path)
    failed = told.model_copy(update={"contestants": told.contestants[2:]})
    monkeypatch.setattr(danqing, "compare", lambda data, **asked: failed, raising=False)
    words = ("compare", "pets", "--families", "flow", "--minutes", "10", "--out", str(tmp_path), "--json")
    code, out, err = run(capsys, *words)
    assert code == 2
    assert "the first failed with: The loss stopped being a number" in err
    assert json.loads(out).keys() == {"error"}


def test_a_search_is_a_ranking_with_the_best_marked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    trials = (
        Trial(1, tmp_path / "trials/0001", "finished", {"learning_rate": 0.00123456}, 0.5),
        Trial(2, tmp_path / "trials/0002", "finished", {"learning_rate": 0.01}, 0.25),
        Trial(3, tmp_path / "trials/0003", "failed", {"learning_rate": 0.1}, None, "The loss is no number."),
        Trial(4, tmp_path / "trials/0004", "pruned", {"learning_rate": 0.02}, 0.1),
    )
    found = Tuning(tmp_path, "finished", "kernel", trials, {"learning_rate": 1.0})
    monkeypatch.setattr(danqing, "tune", lambda data, **asked: found, raising=False)
    code, out, _ = run(capsys, "tune", "pets", "--space", "s.toml", "--out", str(tmp_path))
    assert code == 0
    lines = [line.split() for line in out.splitlines()]
    assert lines[1:5] == [
        ["*", "0002", "0.25", "0.01"],
        ["0001", "0.5", "0.001235"],
        ["0004", "0.1", "0.02", "pruned"],
        ["0003", "0.1", "The", "loss", "is", "no", "number."],
    ]
    assert "What mattered: learning_rate 100%" in out
    assert shlex.join(["danqing", "sample", str(tmp_path / "best"), "--out", "grid.png"]) in out
