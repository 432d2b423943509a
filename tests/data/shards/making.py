"""Folders of images, their shards, and a server for them."""

import contextlib
import functools
import http.server
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from danqing.data import Dataset
from danqing.data.shards.writer import Shards, write_shards
from tests.data.pictures import write

COUNT = 120


def folder_of(path: Path, count: int = COUNT) -> Path:
    """A folder with two classes; each image has a caption and a price."""
    names = [f"{'cat' if number % 3 else 'dog'}/{number:03d}.png" for number in range(count)]
    write(path, names)
    rows = [
        {"file_name": name, "text": f"caption {number}", "price": number}
        for number, name in enumerate(names)
        if number % 10
    ]
    rows += [{"file_name": name} for name in names[::10]]
    (path / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return path


def shards_of(path: Path, out: Path, size: int = 2048, **options: Any) -> Shards:
    return write_shards(path, out, size=size, **options)


def contents(dataset: Dataset, rows: np.ndarray | None = None) -> list[tuple[bytes, str, str]]:
    """Each image with its label and caption, in the order of the data set."""
    rows = np.arange(len(dataset)) if rows is None else rows
    images, labels = dataset.images(rows).numpy(), dataset.labels_at(rows)
    texts = dataset.texts(rows) or ("",) * len(rows)
    names = (*dataset.label_names, "")
    return [
        (image.tobytes(), names[label], text)
        for image, label, text in zip(images, labels, texts, strict=True)
    ]


class Server:
    """Serves a folder with range requests; it can be stopped and started again at the same port."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.port, self.requests = folder, 0, list[str]()
        self.before: Callable[[str], int] = lambda path: 0
        """May return a status for a path, instead of the file."""
        self.ignores_ranges, self.padding, self.sent = False, 0, 0
        """Whether it sends whole files; how many MiB it sends after each answer, and how many it has sent."""
        self._server: http.server.ThreadingHTTPServer | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        handler = functools.partial(_Handler, self)
        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", self.port), handler)
        self._server.daemon_threads = True
        self.port = self._server.server_port
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def stop(self) -> None:
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server = None


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.0"  # a new connection for each request, so that a stopped server is gone

    def __init__(self, owner: Server, *arguments: Any) -> None:
        self._owner = owner
        super().__init__(*arguments)

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        self._owner.requests.append(self.path)
        path = self._owner.folder / self.path.strip("/")
        if (status := self._owner.before(self.path)) or not path.is_file():
            self.send_error(status or 404)
            return
        content = path.read_bytes()
        first, last = 0, len(content) - 1
        asked = None if self._owner.ignores_ranges else self.headers.get("Range")
        if asked:
            start, _, end = asked.removeprefix("bytes=").partition("-")
            first, last = int(start), min(int(end or last), last)
            if first > last:
                self.send_error(416)
                return
        self.send_response(206 if asked else 200)
        if not self._owner.padding:
            self.send_header("Content-Length", str(last - first + 1))
        self.send_header("Content-Range", f"bytes {first}-{last}/{len(content)}")
        self.end_headers()
        self.wfile.write(content[first : last + 1])
        with contextlib.suppress(ConnectionError):
            for _ in range(self._owner.padding):
                self.wfile.write(bytes(2**20))
                self._owner.sent += 1


@contextmanager
def serving(folder: Path) -> Iterator[Server]:
    server = Server(folder)
    server.start()
    try:
        yield server
    finally:
        server.stop()
