"""What an attacker sends to a service, and what it must answer."""

import io
import socket
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from PIL import Image

from tests.service.serving import Running

STAR = {"model": "masked", "prompt": "star"}


class Planted:
    """Makes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


def picture(width: int = 8, height: int = 8, *, alpha: bool = True) -> bytes:
    """A picture with a hole, or without alpha."""
    pixels = np.full((height, width, 4), 90, np.uint8)
    pixels[..., 3] = 255
    pixels[: max(1, height // 2), :, 3] = 0
    file = io.BytesIO()
    Image.fromarray(pixels if alpha else pixels[..., :3]).save(file, "PNG")
    return file.getvalue()


def edit(running: Running, content: bytes, name: str = "a.png", **further: Any) -> httpx.Response:
    words = {**STAR, **further}
    return httpx.post(
        f"{running.url}/v1/images/edits", data=words, files={"image": (name, content)}, timeout=60
    )


def paint(running: Running, **body: Any) -> httpx.Response:
    return httpx.post(f"{running.url}/v1/images/generations", json={**STAR, **body}, timeout=60)


def raw(running: Running, request: bytes, *, ends: bool = False) -> tuple[int, bytes]:
    """Status and all bytes of the answer to these very bytes; 0 where the connection is just closed.

    ends: whether the client says that no more will come.
    """
    url = httpx.URL(running.url)
    received = b""
    with socket.create_connection((url.host, url.port or 80), timeout=60) as connection:
        try:
            connection.sendall(request)
            if ends:
                connection.shutdown(socket.SHUT_WR)
            while chunk := connection.recv(65536):
                received += chunk
        except ConnectionError:
            pass
    return int(received.split()[1]) if received else 0, received


def assert_refused(answer: httpx.Response, *statuses: int) -> None:
    """The answer is an error in the documented shape, and reveals nothing about this machine."""
    assert answer.status_code in (statuses or (400,)), answer.text
    error = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    for secret in ("/tmp", "/work", "site-packages", "Traceback", "object at", ".py", "torch", "sqlite"):
        assert secret not in answer.text, answer.text


def assert_paints(running: Running) -> None:
    """The service is there and paints."""
    assert paint(running).status_code == 200
