"""A proxy on loopback that takes plain HTTP requests for any host and sends them on to one server."""

import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit


@contextmanager
def proxying(target: str) -> Iterator[tuple[str, list[str]]]:
    """Run the proxy; yield its address and the list of requested addresses."""
    asked: list[str] = []
    handler = type("Handler", (_Handler,), {"target": target, "asked": asked})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", asked
    finally:
        server.shutdown()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    target = ""
    asked: list[str]

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        self.asked.append(self.path)
        parts = urlsplit(self.path)
        address = self.target + parts.path + (f"?{parts.query}" if parts.query else "")
        request = urllib.request.Request(address, method=self.command)
        direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with direct.open(request, timeout=10) as answer:
                self.answer(answer.status, answer.headers, answer.read())
        except urllib.error.HTTPError as error:
            self.answer(error.code, error.headers, error.read())

    do_HEAD = do_GET  # noqa: N815 (the base class names it)

    def answer(self, status: int, headers: object, body: bytes) -> None:
        self.send_response(status)
        for name, value in headers.items():  # type: ignore[attr-defined]
            if name.lower() not in ("date", "server", "connection", "transfer-encoding"):
                self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)
