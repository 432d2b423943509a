"""The studio at `/`: a page and its modules, which use the same API as all clients."""

import functools
import gzip
import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from fastapi import APIRouter, Depends, Request, Response
from starlette.concurrency import run_in_threadpool

from danqing.page import part
from danqing.service.access.caller import Caller
from danqing.service.errors import ApiError
from danqing.service.http.gate import needs
from danqing.service.parts import service_of

router = APIRouter(include_in_schema=False)

_FOLDER = Path(__file__).with_name("studio")
_KINDS = {".js": "text/javascript; charset=utf-8", ".css": "text/css; charset=utf-8"}
_POLICY = (
    "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    "connect-src 'self'; img-src 'self' blob: data:; style-src 'self'; script-src 'self'; "
    "require-trusted-types-for 'script'; trusted-types 'none'"
)
_FOR_EVER = "public, max-age=31536000, immutable"
_MOST_SAMPLES = 8_000_000  # bytes
_PNG = b"\x89PNG\r\n\x1a\n"


@dataclass(frozen=True, slots=True)
class _File:
    """A file as it is sent. packed: compressed."""

    content: bytes
    packed: bytes
    kind: str


@dataclass(frozen=True, slots=True)
class _Studio:
    """The page and the files that it loads. version: changes whenever one of them does."""

    version: str
    page: _File
    files: dict[str, _File]


@router.get("/")
async def start(request: Request) -> Response:
    """Return the page.

    Its policy allows only its own modules and this service.
    """
    studio = _studio()
    headers = {"content-security-policy": _POLICY, "cache-control": "no-cache", "etag": f'"{studio.version}"'}
    if request.headers.get("if-none-match") == headers["etag"]:
        return Response(status_code=304, headers=headers)
    return _sent(request, studio.page, headers)


@router.get("/studio/{version}/{name:path}")
async def file(request: Request, version: str, name: str) -> Response:
    """Return a module or a style of the page.

    A browser keeps it: another version has another address.
    """
    studio = _studio()
    if version != studio.version or name not in studio.files:
        raise ApiError(404, "This version of the studio has no such file: load the page again.")
    return _sent(request, studio.files[name], {"cache-control": _FOR_EVER})


@router.get("/models/{name:path}/samples.png")
async def samples(
    request: Request, name: str, caller: Annotated[Caller, Depends(needs("generate"))]
) -> Response:
    """Return the grid of samples in a model's folder."""
    offer = service_of(request).planner.models.find(name, caller)
    content = await run_in_threadpool(_samples, offer.path)
    if content is None:
        raise ApiError(404, f"The folder of {offer.name} has no samples.png.", code="not_found")
    return Response(content, media_type="image/png", headers={"cache-control": "private, max-age=3600"})


def _sent(request: Request, file: _File, headers: dict[str, str]) -> Response:
    headers = {**headers, "vary": "accept-encoding"}
    if "gzip" in request.headers.get("accept-encoding", ""):
        return Response(file.packed, headers={**headers, "content-encoding": "gzip"}, media_type=file.kind)
    return Response(file.content, headers=headers, media_type=file.kind)


@functools.cache
def _studio() -> _Studio:
    """Read the files once; their version is a hash of their names and contents."""
    contents = {"shared.css": part("studio.css").encode()}
    for path in sorted(_FOLDER.rglob("*")):
        if path.suffix in _KINDS:
            contents[path.relative_to(_FOLDER).as_posix()] = path.read_bytes()
    page = (_FOLDER / "index.html").read_text(encoding="utf-8")
    page = page.replace("<!-- mountains.svg -->", part("mountains.svg"))
    digest = hashlib.sha256(page.encode())
    for name, content in contents.items():
        digest.update(f"{name}:{len(content)}:".encode() + content)
    version = digest.hexdigest()[:20]
    files = {name: _file(content, _KINDS[Path(name).suffix]) for name, content in contents.items()}
    whole = page.replace("{base}", f"/studio/{version}").encode()
    return _Studio(version, _file(whole, "text/html; charset=utf-8"), files)


def _file(content: bytes, kind: str) -> _File:
    return _File(content, gzip.compress(content, 9, mtime=0), kind)


def _samples(source: str) -> bytes | None:
    """Read a model's grid of samples; None for a model from the hub, and if there is no valid file."""
    folder = Path(source)
    if (folder / "config.toml").exists():  # a run contains its model
        folder /= "model"
    path = folder / "samples.png"
    if path.is_symlink() or not path.is_file() or path.stat().st_size > _MOST_SAMPLES:
        return None
    content = path.read_bytes()
    return content if content.startswith(_PNG) else None
