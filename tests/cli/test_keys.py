"""Keys and the audit log from the command line."""

import contextlib
import json
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from danqing.cli import main


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


def test_a_key_is_made_listed_and_ended(capsys: pytest.CaptureFixture[str]) -> None:
    limits = ("--rate", "60", "--quota", "1000", "--expires", "30d")
    code, token, told = run(capsys, "keys", "create", "shop", "--scope", "generate", "--model", "猫", *limits)
    assert code == 0
    assert token.startswith("dq_")
    assert token.count("\n") == 1  # the key alone on stdout, so that a script can take it
    assert "shown only once" in told
    _, listed, _ = run(capsys, "keys", "list")
    assert token.strip() not in listed
    row = listed.splitlines()[1]
    assert all(word in row for word in ("shop", "active", "generate", "猫", "60/min", "0 of 1,000", "never"))
    assert run(capsys, "keys", "revoke", "shop")[0] == 0
    _, listed, _ = run(capsys, "keys", "list", "--json")
    [key] = json.loads(listed)["keys"]
    assert (key["name"], key["state"], key["models"]) == ("shop", "revoked", ["猫"])
    assert key["used"] == {"images_today": 0, "images": 0, "requests": 0, "last_day": None}
    _, verified, _ = run(capsys, "audit", "verify", "--json")
    assert json.loads(verified)["entries"] == 2
    _, shown, _ = run(capsys, "audit", "show", "--last", "1")
    assert "key revoked" in shown
    assert "key created" not in shown


def test_a_changed_entry_is_found(capsys: pytest.CaptureFixture[str], home: Path) -> None:
    run(capsys, "keys", "create", "shop", "--data", "elsewhere")
    head = json.loads(run(capsys, "audit", "verify", "--data", "elsewhere", "--json")[1])["head"]
    assert run(capsys, "audit", "verify", "--data", "elsewhere", "--head", head)[0] == 0
    with contextlib.closing(sqlite3.connect(home / "elsewhere" / "service.db")) as file, file:
        file.execute("update audit set facts = replace(facts, 'shop', 'spy')")
    code, out, err = run(capsys, "audit", "verify", "--data", "elsewhere")
    assert (code, out) == (2, "")
    assert "Entry 1 of the audit log" in err


def test_the_configuration_file_says_where_the_keys_are(
    capsys: pytest.CaptureFixture[str], home: Path
) -> None:
    # The models of the aliases are named when the service is started.
    (home / "service.toml").write_text('data = "kept"\n[aliases]\n"dall-e-2" = "cats"\n')
    assert run(capsys, "keys", "create", "shop", "--config", "service.toml")[0] == 0
    assert (home / "kept" / "service.db").exists()
    url = f"sqlite:///{home / 'kept' / 'service.db'}"
    _, listed, _ = run(capsys, "keys", "list", "--database-url", url, "--json")
    assert [key["name"] for key in json.loads(listed)["keys"]] == ["shop"]


def can_mount() -> bool:
    if shutil.which("unshare") is None:
        return False
    probe = ["unshare", "-rm", "mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", "/mnt"]
    return subprocess.run(probe, capture_output=True).returncode == 0


@pytest.mark.skipif(not can_mount(), reason="mounting takes user namespaces")
@pytest.mark.parametrize("crashed", [False, True])
def test_what_only_reads_needs_no_disk_that_can_be_written(
    crashed: bool, capsys: pytest.CaptureFixture[str], home: Path
) -> None:
    run(capsys, "keys", "create", "shop", "--data", "kept")
    (home / "full").mkdir()
    server = sqlite3.connect(home / "kept" / "service.db", isolation_level=None)
    with contextlib.closing(server):
        if crashed:  # what is beside the file stays there
            server.execute("update keys set rate = 7")
        danqing = f"{sys.executable} -m danqing"
        script = f"""
            mount -t tmpfs -o size=1m tmpfs full && cp -r kept full/data || exit 90
            cat /dev/zero > full/filler 2> /dev/null
            {danqing} keys list --data full/data --json || exit 91
            {danqing} audit verify --data full/data || exit 92
            mount --bind kept kept && mount -o remount,bind,ro kept || exit 93
            {danqing} keys list --data kept --json || exit 94
            {danqing} audit verify --data kept || exit 95
            {danqing} keys create spy --data kept && exit 96
            exit 0
        """
        done = subprocess.run(["unshare", "-rm", "sh", "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "cannot be written" in done.stderr
    assert done.stdout.count('"shop"') == 2
    assert done.stdout.count('"rate": 7') == 2 * crashed
    assert "spy" not in done.stdout


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("keys", "list"), "There is no database of a service at"),
        (("keys", "revoke", "shop"), "There is no database of a service at"),
        (("audit", "verify"), "There is no database of a service at"),
        (("keys", "create", "shop", "--expires", "soon"), "--expires soon is not a time"),
        (("keys", "create", "shop", "--expires", "2001-01-01"), "expired already"),
        (("keys", "create", "shop", "--scope", "all"), "no scope 'all'"),
        (("keys", "create", "shop", "--database-url", "mysql://a:hunter2@b/c"), "is not supported"),
        (("keys", "create", ""), "a name"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else None,
)
def test_a_mistake_is_one_sentence(
    words: tuple[str, ...], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = run(capsys, *words)
    assert (code, out) == (2, "")
    assert sentence in err
    assert err.count("\n") == 1
    assert "hunter2" not in err
