"""Downloads go through a proxy where one is set, and past it where it is not wanted."""

import hashlib
import http.server
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from danqing.data.download import Published
from danqing.errors import DataError
from tests.proxy import proxying

CONTENT = b"published"


@pytest.fixture
def published(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, list[str]]]:
    """A publisher's server on loopback; yields its address and the requested paths."""
    for name in ("HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy", "NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.delenv("DANQING_MIRROR", raising=False)
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "file.bin").write_bytes(CONTENT)
    asked: list[str] = []

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: Any) -> None:
            asked.append(self.path)

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=tmp_path)) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}", asked
        server.shutdown()


def _set(address: str) -> Published:
    return Published("set", address, {"file.bin": hashlib.sha256(CONTENT).hexdigest()})


def test_a_download_goes_through_the_proxy(
    published: tuple[str, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    with proxying(published[0]) as (proxy, asked):
        monkeypatch.setenv("http_proxy", proxy)
        folder = _set("http://publisher.invalid/set/").folder()
        assert (folder / "file.bin").read_bytes() == CONTENT
        assert asked == ["http://publisher.invalid/set/file.bin"]


def test_the_mirror_is_reached_through_the_proxy_too(
    published: tuple[str, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    with proxying(published[0]) as (proxy, asked):
        monkeypatch.setenv("http_proxy", proxy)
        monkeypatch.setenv("DANQING_MIRROR", "http://mirror.invalid/")
        _set("http://publisher.invalid/elsewhere/").folder()
        assert asked == ["http://mirror.invalid/set/file.bin"]


def test_no_proxy_names_hosts_that_are_reached_directly(
    published: tuple[str, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    with pytest.raises(DataError, match="cannot be fetched"):
        _set(f"{published[0]}/set/").folder()
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    _set(f"{published[0]}/set/").folder()
    assert published[1] == ["/set/file.bin"]
