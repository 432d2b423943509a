"""Sessions of judges and contests from the command line."""

import json
from pathlib import Path

import pytest

from danqing.cli import main
from tests.judging.test_contest import pictures
from tests.service.judging.judged import folders


def run(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as left:
        main(words)
    printed = capsys.readouterr()
    return int(left.value.code or 0), printed.out, printed.err


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DANQING_DATABASE_URL", raising=False)
    return tmp_path


def test_a_session_is_started_with_links_and_its_results_are_shown(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sources = folders(home / "given", ("a", "b"))
    (home / "prompts.txt").write_text("a cat\n\na dog\n")
    code, text, _ = run(capsys, "judge", *sources, "--raters", "2", "--prompts", "prompts.txt", "--out", "o")
    assert code == 0
    assert text.count("/judge#session=ses_") == 3  # the page, and a link for each rater
    assert text.count("&key=dq_") == 2
    code, told, _ = run(capsys, "judge", "--out", "o", "--close", "--json")
    found = json.loads(told)
    assert (code, found["state"], found["votes"], found["keys"]) == (0, "closed", 0, {})
    _, keys, _ = run(capsys, "keys", "list", "--json")
    assert [key["scopes"] for key in json.loads(keys)["keys"]] == [["judge"], ["judge"]]
    code, _, told = run(capsys, "judge", "nothing", "--out", "other", "--prompts", "none.txt")
    assert code == 2
    assert "none.txt has no prompts" in told


def test_a_contest_prints_its_leaderboard(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    held_out = str(pictures(home / "held-out", 40, 120, 0))
    near, far = pictures(home / "near", 30, 121, 1), pictures(home / "far", 30, 200, 2)
    words = ["--data", held_out, "-n", "30", "--features", "pixels", "--metrics", "kernel"]
    code, text, _ = run(capsys, "contest", str(far), f"mine={near}", *words)
    assert code == 0
    assert text.index("mine") < text.index("far")
    code, told, _ = run(capsys, "contest", *words, "--json")
    found = json.loads(told)
    assert (code, found["judged"], [one["name"] for one in found["places"]]) == (0, [], ["mine", "far"])
    code, _, told = run(capsys, "contest", str(far), f"far={near}", *words)
    assert (code, "Two submissions are named far" in told) == (2, True)
    assert run(capsys, "contest", str(far))[0] == 2
