"""`danqing sign`, `seal` and `unseal` as they are typed."""

import json
import shutil
import stat
from pathlib import Path

import pytest

from danqing.cli import main

GOLDEN = Path(__file__).parents[1] / "golden" / "vae"


def run(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as left:
        main(words)
    printed = capsys.readouterr()
    return int(left.value.code or 0), printed.out, " ".join(printed.err.split())


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in ("DANQING_SEAL_KEY", "DANQING_SEAL_PASSPHRASE_FILE"):
        monkeypatch.delenv(name, raising=False)
    shutil.copytree(GOLDEN, tmp_path / "cats")
    return tmp_path


def test_a_model_is_signed_sealed_used_and_unsealed(
    capsys: pytest.CaptureFixture[str], home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run(capsys, "sign", "--new-key", "release.key")[:2] == (0, "release.key\nrelease.pub\n")
    assert run(capsys, "sign", "cats", "--key", "release.key")[:2] == (0, "cats/model.sig\n")
    code, out, _ = run(capsys, "sign", "cats", "--check", "release.pub", "--json")
    assert (code, json.loads(out)) == (0, {"model": "cats", "signed": True})
    both = run(capsys, "sign", "cats", "--check", "release.pub", "--check", "release.pub")[1]
    assert "by one of these keys" in both
    assert run(capsys, "seal", "--new-key", "mine.key")[:2] == (0, "mine.key\nmine.pub\n")
    assert stat.S_IMODE((home / "mine.key").stat().st_mode) == 0o600
    assert run(capsys, "seal", "cats", "--to", "mine.pub")[:2] == (0, "cats.sealed\n")
    code, _, told = run(capsys, "show", "cats.sealed")
    assert code == 2
    assert "name its file in DANQING_SEAL_KEY" in told
    monkeypatch.setenv("DANQING_SEAL_KEY", "mine.key")
    assert "VAE" in run(capsys, "show", "cats.sealed")[1].upper()
    assert run(capsys, "sign", "cats.sealed", "--check", "release.pub")[0] == 0
    assert run(capsys, "unseal", "cats.sealed", "--out", "back")[:2] == (0, "back\n")
    assert (home / "back" / "model.sig").read_bytes() == (home / "cats" / "model.sig").read_bytes()
    (home / "back" / "more").touch()
    code, _, told = run(capsys, "sign", "back", "--check", "release.pub")
    assert code == 2
    assert "more was not signed" in told


def test_a_passphrase_is_read_from_a_file(
    capsys: pytest.CaptureFixture[str], home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (home / "secret").write_text("open sesame\n")
    assert run(capsys, "seal", "cats", "--passphrase-file", "secret", "--out", "it")[0] == 0
    monkeypatch.setenv("DANQING_SEAL_PASSPHRASE_FILE", "secret")
    assert run(capsys, "show", "it")[0] == 0
    (home / "secret").write_text("open sesame\nand " + "丹" * 2000, encoding="utf-8")
    assert run(capsys, "show", "it")[0] == 0  # the rest of the file does not matter
    mistakes = [
        ("open barley\n", "not sealed by this passphrase"),
        ("\n", "first line"),
        ("a" * 5000, "too long"),
    ]
    for text, sentence in mistakes:
        (home / "secret").write_text(text)
        code, out, told = run(capsys, "unseal", "it", "--out", "back")
        assert code == 2
        assert sentence in told
        assert "barley" not in out + told


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("sign",), "Name a model"),
        (("sign", "cats"), "Name a model"),
        (("sign", "cats", "--key", "a.key", "--check", "a.pub"), "Name a model"),
        (("sign", "cats", "--new-key", "a.key"), "give it alone"),
        (("sign", "cats", "--key", "a.key"), "There is no key at a.key"),
        (("seal",), "Name the model"),
        (("seal", "cats"), "Say who can open it"),
        (("seal", "cats", "--to", "a.pub", "--new-key", "a.key"), "give it alone"),
        (("seal", "cats", "--to", "a.pub"), "There is no key at a.pub"),
        (("seal", "cats", "--passphrase", "--passphrase-file", "a"), "not both"),
        (("unseal", "cats", "--out", "back"), "not a sealed model"),
        (("serve", "cats", "--require-signature", "a.pub"), "There is no key at a.pub"),
    ],
)
def test_a_mistake_is_answered_with_one_sentence(
    capsys: pytest.CaptureFixture[str], words: tuple[str, ...], sentence: str
) -> None:
    code, _, told = run(capsys, *words)
    assert code == 2
    assert sentence in told
