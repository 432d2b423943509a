"""Pixels as files: in the size and format asked for, and for an hour under an address of their own."""

import asyncio
import base64
import itertools
import re
import secrets
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeVar

from danqing import images
from danqing.service.errors import FINAL, ApiError
from danqing.service.orders import Pixels

Format = Literal["png", "jpeg", "webp"]
_T = TypeVar("_T")

MEDIA_TYPES: dict[str, str] = {"png": "image/png", "jpeg": "image/jpeg", "webp": "image/webp"}
PICTURE_HEADERS = {
    "x-content-type-options": "nosniff",
    "content-security-policy": "default-src 'none'; sandbox",
    "cache-control": "private, max-age=3600, immutable",
}
"""Of every answer that is a picture: no browser takes it for a page, whatever its bytes are."""

_INLINE = 4_096  # pixels: a PNG of so many takes little longer than handing them to a thread and back
_AT_ONCE = 196_608  # bytes, a multiple of three: writing so many in base64 keeps nobody waiting
_HOLE = b'"b64_json": ""'
_SECONDS_OF_LIFE = 3600.0
_SECONDS_BETWEEN_SWEEPS = 60.0
_MOST_BYTES = 4 * 1024**3
_NAME = re.compile(r"[A-Za-z0-9_-]{32}\.(?:png|jpeg|webp)", re.ASCII)


@dataclass(frozen=True, slots=True)
class Look:
    """How pictures are to be handed out. size: (width, height). opaque: transparency is laid on white.
    compression: quality of jpeg and webp, 0 to 100.
    """

    size: tuple[int, int]
    format: Format = "png"
    opaque: bool = False
    compression: int = 100

    def render(self, pixels: Pixels) -> bytes:
        """One picture uint8 `[h, w, c]` as a file."""
        height, width, channels = pixels.shape
        laid = self.opaque and channels in (2, 4)
        if laid or (width, height) != self.size:
            alpha: Literal["flatten", "keep"] = "flatten" if laid else "keep"
            pixels = images.conform(pixels, size=self.size, alpha=alpha, fit="stretch")
        return images.encode(pixels, self.format, quality=max(1, self.compression))


class Pictures:
    """Makes files of pixels, small ones at once and large ones in threads, and keeps those that an address
    leads to until they are an hour old.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._threads = ThreadPoolExecutor(2, thread_name_prefix="pictures")
        self._kept_bytes = 0
        self._sweeper: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Make the folder, and forget what is too old in it from now on."""
        await self._run(lambda: self._folder.mkdir(0o700, parents=True, exist_ok=True))
        await self._run(self._sweep)
        self._sweeper = asyncio.create_task(self._sweep_always())

    async def stop(self) -> None:
        """End the threads; the files stay until a next start."""
        if self._sweeper is not None:
            self._sweeper.cancel()
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def render(
        self, pixels: Pixels, look: Look, compose: Callable[[Pixels], Sequence[Pixels]] | None = None
    ) -> list[bytes]:
        """Files of the pictures uint8 `[n, h, w, c]`. compose: what is made of them before."""

        def make() -> list[bytes]:
            return [look.render(one) for one in (pixels if compose is None else compose(pixels))]

        work = len(pixels) * max(pixels[0].size // pixels.shape[3], look.size[0] * look.size[1])
        if compose is None and work * (4 if look.format == "webp" else 1) <= _INLINE:
            return make()
        return await self._run(make)

    async def pack(self, files: Sequence[bytes]) -> list[bytes]:
        """Files in base64."""
        if sum(map(len, files)) <= _AT_ONCE:
            return [base64.b64encode(file) for file in files]
        return await self._run(lambda: [_packed(file) for file in files])

    async def keep(self, files: Sequence[bytes], format: Format) -> list[str]:
        """Store files for an hour; returns their names, which nobody can guess. Raises ApiError 507."""
        names = [f"{secrets.token_urlsafe(24)}.{format}" for _ in files]
        total = sum(map(len, files))
        if self._kept_bytes + total > _MOST_BYTES:
            raise _no_room()

        def write() -> None:
            written = []
            try:
                for name, content in zip(names, files, strict=True):
                    written.append(self._folder / name)
                    written[-1].write_bytes(content)
            except OSError as error:
                for path in written:
                    path.unlink(missing_ok=True)
                raise _no_room() from error

        await self._run(write)
        self._kept_bytes += total
        return names

    async def read(self, name: str) -> bytes | None:
        """A stored file; None where there is none of this name, or it is over an hour old."""
        if not _NAME.fullmatch(name):
            return None

        def content() -> bytes | None:
            try:
                with (self._folder / name).open("rb") as file:
                    found = file.read()
                    age = time.time() - (self._folder / name).stat().st_mtime
            except OSError:
                return None
            return found if age < _SECONDS_OF_LIFE else None

        return await self._run(content)

    async def _run(self, work: Callable[[], _T]) -> _T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, work)

    async def _sweep_always(self) -> None:
        while True:
            await asyncio.sleep(_SECONDS_BETWEEN_SWEEPS)
            await self._run(self._sweep)

    def _sweep(self) -> None:
        """Delete what is too old, and count the rest; only files that have the form of our names."""
        oldest, kept = time.time() - _SECONDS_OF_LIFE, 0
        for path in self._folder.iterdir():
            if not _NAME.fullmatch(path.name):
                continue
            try:
                status = path.lstat()
                if status.st_mtime < oldest:
                    path.unlink()
                else:
                    kept += status.st_size
            except OSError:
                continue
        self._kept_bytes = kept


def filled(text: bytes, packed: Sequence[bytes]) -> bytes:
    """JSON with files in the places of its empty `b64_json`: they need not go through a JSON encoder, which
    would keep all other requests waiting.
    """
    parts = text.split(_HOLE)
    around = zip(parts, packed, strict=False)
    whole = [(part, b'"b64_json": "', file, b'"') for part, file in around]
    return b"".join([*itertools.chain.from_iterable(whole), parts[-1]])


def _packed(file: bytes) -> bytes:
    """A file in base64, written in pieces, between which other threads have their turn."""
    view = memoryview(file)
    return b"".join(base64.b64encode(view[at : at + _AT_ONCE]) for at in range(0, len(file), _AT_ONCE))


def _no_room() -> ApiError:
    message = "There is no room for pictures under addresses now: ask for response_format b64_json."
    return ApiError(507, message, param="response_format", code="no_room", headers=FINAL)
