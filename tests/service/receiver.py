"""Somebody else's server, which webhooks report to."""

import contextlib
import http.server
import json
import queue
import threading
from collections.abc import Iterator
from typing import Any


class Receiver:
    """What it was told, in order: `headers` by their lower names, and the body. answers: the status of the
    next messages; 200 after them.
    """

    def __init__(self) -> None:
        self.address = ""
        self.told: queue.Queue[tuple[dict[str, str], bytes]] = queue.Queue()
        self.answers: list[int] = []

    def next(self) -> tuple[dict[str, str], dict[str, Any]]:
        """The next message, waited for."""
        headers, body = self.told.get(timeout=60)
        return headers, json.loads(body)


@contextlib.contextmanager
def receiving() -> Iterator[Receiver]:
    """A receiver on the loopback until the block ends."""
    receiver = Receiver()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            length = int(self.headers["content-length"])
            if len(body := self.rfile.read(length)) < length:  # the sender was killed meanwhile
                return
            status = receiver.answers.pop(0) if receiver.answers else 200
            self.send_response(status)
            if 300 <= status < 400:
                self.send_header("location", "/elsewhere")
            self.send_header("content-length", "0")
            self.end_headers()
            receiver.told.put(({"path": self.path, **{k.lower(): v for k, v in self.headers.items()}}, body))

        def log_message(self, *_: Any) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    receiver.address = f"127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield receiver
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
