"""Images to train on, and a service that trains."""

import io
import time
import zipfile
from collections.abc import Callable, Mapping
from typing import Any

import httpx
import numpy as np
from PIL import Image

TRAINING = {"runs": 1}
BUDGET = 256
"""Images, after which a run of vae-32 is done."""


def picture(number: int, side: int = 32) -> bytes:
    """A PNG that differs for each number: a square on a dark or a light ground."""
    random = np.random.default_rng(number)
    pixels = np.full((side, side, 3), 230 if number % 2 else 30, np.uint8)
    x, y = random.integers(0, side // 2, 2)
    pixels[y : y + side // 2, x : x + side // 2] = random.integers(0, 255, 3)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def zipped(files: Mapping[str, bytes]) -> bytes:
    """A zip of files by their names."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return file.getvalue()


def photos(count: int = 30) -> bytes:
    """A zip with two folders of images, one of which has a caption."""
    names = {f"photos/{'light' if n % 2 else 'dark'}/{n}.png": picture(n) for n in range(count)}
    return zipped({**names, "photos/dark/0.txt": b"a square"})


class Client:
    """A key of a service. Its answers must have the status that is expected."""

    def __init__(self, url: str, key: str = "") -> None:
        headers = {"authorization": f"Bearer {key}"} if key else {}
        self.http = httpx.Client(base_url=url, headers=headers, timeout=60)

    def ask(self, method: str, path: str, status: int = 200, **more: Any) -> Any:
        answer = self.http.request(method, path, **more)
        assert answer.status_code == status, answer.text
        return (
            answer.json() if answer.content and "json" in answer.headers["content-type"] else answer.content
        )

    def data_set(self, content: bytes | None = None, name: str = "photos") -> str:
        """Create a data set of a zip; return its id."""
        id: str = self.ask("POST", "/v1/datasets", json={"name": name})["id"]
        self.upload(id, photos() if content is None else content)
        return id

    def upload(self, id: str, *files: bytes, status: int = 200, **fields: str) -> Any:
        sent = [("image", (f"{number}.bin", file)) for number, file in enumerate(files)]
        return self.ask("POST", f"/v1/datasets/{id}/images", status, files=sent, data=fields)

    def run(self, dataset: str, **fields: Any) -> str:
        body = {"dataset": dataset, "name": "first", "preset": "vae-32", "images": BUDGET, **fields}
        id: str = self.ask("POST", "/v1/runs", json=body)["id"]
        return id

    def until(self, path: str, holds: Callable[[Any], bool], seconds: float = 120) -> Any:
        """Ask until something holds."""
        deadline = time.monotonic() + seconds
        while not holds(found := self.ask("GET", path)):
            assert time.monotonic() < deadline, found
            time.sleep(0.2)
        return found
