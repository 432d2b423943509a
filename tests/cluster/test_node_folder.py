"""A folder that is sent to a node comes back whole, or not at all."""

from pathlib import Path
from typing import Any

import pytest

from danqing.cluster import node_folder
from danqing.cluster.node_folder import NodeFolder, fetch, marked, names, send
from danqing.cluster.ray_jobs import LostNodeError, RayCluster
from danqing.errors import ClusterError
from danqing.studies.remote_training import started_by


class Direct:
    """Calls the methods of an object here, as a `RemoteObject` does elsewhere, until it is lost."""

    def __init__(self, folder: NodeFolder, calls: int = 10_000) -> None:
        self.folder, self.calls = folder, calls

    def call(self, method: str, *arguments: Any) -> Any:
        self.calls -= 1
        if self.calls < 0:
            raise LostNodeError("killed")
        return getattr(self.folder, method)(*arguments)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A study with one run: files of no, one, exactly two and some pieces."""
    folder = tmp_path / "study/trials/0001/model"
    folder.mkdir(parents=True)
    for number, size in enumerate((0, 3, 8, 10)):
        (folder / f"{number}.bin").write_bytes(bytes(range(size)))
    for name in (".lock", ".x.json.1.tmp"):
        (folder / name).write_text("not sent")
    return tmp_path / "study"


def contents(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in names(folder, "trials")}


def test_a_node_that_shares_a_folder_works_in_it(run: Path) -> None:
    with marked(run) as word:
        shared = NodeFolder(str(run), word)
        assert shared.is_shared
        assert shared.path == run
        shared.remove()
        other = NodeFolder(str(run), "another word")
        assert not other.is_shared
        other.remove()
    assert contents(run), "what is shared is not removed"
    assert not list(run.glob(".shared*"))


def test_a_folder_is_sent_and_fetched_piece_by_piece(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(node_folder, "_PIECE", 4)
    copy = NodeFolder(str(run), "no word is there")
    remote: Any = Direct(copy)
    before = contents(run)
    send(remote, run, ["trials/0001"])
    assert contents(copy.path) == before
    out = copy.localized({"out": str(run / "trials/0001"), "data": "digits", "settings": {"n": 3}})
    assert out == {"out": str(copy.path / "trials/0001"), "data": "digits", "settings": {"n": 3}}

    (copy.path / "trials/0001/model/3.bin").unlink()
    (copy.path / "trials/0001/log.jsonl").write_bytes(b"{}\n" * 7)
    with pytest.raises(LostNodeError):
        fetch(Direct(copy, calls=6), run, "trials/0001")  # type: ignore[arg-type]
    assert contents(run) == before, "what is half fetched replaces nothing"
    fetch(remote, run, "trials/0001")
    assert contents(run) == contents(copy.path) != before
    assert [path.name for path in (run / "trials").iterdir()] == ["0001"]
    copy.remove()
    assert not copy.path.exists()


def test_names_that_lead_out_of_a_folder_are_rejected(run: Path) -> None:
    copy = NodeFolder(str(run), "no word is there")
    for name in ("../outside", "/outside"):
        with pytest.raises(ClusterError, match="leads out of the folder"):
            copy.append(name, 0, b"")
    copy.remove()


def test_what_is_missing_is_said_in_a_sentence(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with (
        pytest.raises(ClusterError, match="give --ray, too"),
        started_by(None, tmp_path, "digits", cpus=2, device="cpu"),
    ):
        pass
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ClusterError, match=r"A cluster needs Ray: pip install 'danqing\[cluster\]'"):
        RayCluster("auto")
