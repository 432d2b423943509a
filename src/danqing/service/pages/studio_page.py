"""The studio at `/`, and the page at `/judge`: modules that use the same API as all clients."""

import functools
import gzip
import hashlib
import html
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request, Response
from fastapi.responses import JSONResponse
from starlette.concurrency import run_in_threadpool

from danqing.page import part
from danqing.service.access.caller import Caller
from danqing.service.errors import ApiError
from danqing.service.http.gate import anyone, needs
from danqing.service.parts import service_of

router = APIRouter(include_in_schema=False)

_FOLDER = Path(__file__).with_name("studio")
_PAGES = {"/": "index.html", "/judge": "judge.html"}
_KINDS = {".js": "text/javascript; charset=utf-8", ".css": "text/css; charset=utf-8"}
_POLICY = (
    "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    "connect-src 'self'; img-src 'self' blob: data:; style-src 'self'; script-src 'self'; "
    "require-trusted-types-for 'script'; trusted-types 'none'"
)
_IMPORTS = re.compile(r'^import\b[^;]*?"\./([\w/]+\.js)";$', re.MULTILINE)
_PAGE_MODULE = re.compile(r'name: "(\w+)".*import\("\./([\w/]+\.js)"\)')
_FOR_EVER = "public, max-age=31536000, immutable"
_MOST_SAMPLES, _MOST_SCORES = 8_000_000, 1_000_000  # bytes
_SCORE = ("name", "value", "interval", "unit", "higher_is_better", "headline")
_PNG = b"\x89PNG\r\n\x1a\n"


@dataclass(frozen=True, slots=True)
class _File:
    """A file as it is sent. packed: compressed."""

    content: bytes
    packed: bytes
    kind: str


@dataclass(frozen=True, slots=True)
class _Studio:
    """The pages, by their addresses, and the files that they load.

    version: changes whenever one of them does.
    """

    version: str
    pages: dict[str, _File]
    files: dict[str, _File]


@router.get("/", dependencies=[Depends(anyone)])
@router.get("/judge", dependencies=[Depends(anyone)])
async def page(request: Request) -> Response:
    """Return the studio, or the page for people who only judge pictures.

    Their policy allows only their own modules and this service.
    """
    studio = _studio()
    headers = {"content-security-policy": _POLICY, "cache-control": "no-cache", "etag": f'"{studio.version}"'}
    if request.headers.get("if-none-match") == headers["etag"]:
        return Response(status_code=304, headers=headers)
    return _sent(request, studio.pages[request.url.path], headers)


@router.get("/studio/{version}/{name:path}", dependencies=[Depends(anyone)])
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


@router.get("/models/{name:path}/scores.json")
async def scores(
    request: Request, name: str, caller: Annotated[Caller, Depends(needs("generate"))]
) -> JSONResponse:
    """Return the scores in a model's folder, the headline first."""
    offer = service_of(request).planner.models.find(name, caller)
    found = await run_in_threadpool(_scores, offer.path)
    return JSONResponse({"data": found}, headers={"cache-control": "private, max-age=3600"})


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
    pages = {address: (_FOLDER / name).read_text(encoding="utf-8") for address, name in _PAGES.items()}
    pages["/"] = pages["/"].replace("<!-- mountains.svg -->", part("mountains.svg"))
    digest = hashlib.sha256("".join(pages.values()).encode())
    for name, content in contents.items():
        digest.update(f"{name}:{len(content)}:".encode() + content)
    version = digest.hexdigest()[:20]
    modules = html.escape(json.dumps(_modules_by_page(contents)))
    files = {name: _file(content, _KINDS[Path(name).suffix]) for name, content in contents.items()}
    whole = {
        address: _file(
            text.replace("{base}", f"studio/{version}").replace("{modules}", modules).encode(),
            "text/html; charset=utf-8",
        )
        for address, text in pages.items()
    }
    return _Studio(version, whole, files)


def _modules_by_page(contents: Mapping[str, bytes]) -> dict[str, list[str]]:
    """Return the modules of each page, so that a browser can ask for all of them at once."""
    found = {}
    for page, first in _PAGE_MODULE.findall(contents["pages.js"].decode()):
        names, ahead = [first], 0
        while ahead < len(names):
            folder = Path(names[ahead]).parent
            imported = [
                (folder / name).as_posix() for name in _IMPORTS.findall(contents[names[ahead]].decode())
            ]
            names += [name for name in imported if name not in names]
            ahead += 1
        found[page] = names
    return found


def _file(content: bytes, kind: str) -> _File:
    return _File(content, gzip.compress(content, 9, mtime=0), kind)


def _samples(source: str) -> bytes | None:
    """Read a model's grid of samples; None for a model from the hub, and if there is no valid file."""
    content = _of_model(source, "samples.png", _MOST_SAMPLES)
    return content if content is not None and content.startswith(_PNG) else None


def _scores(source: str) -> list[dict[str, Any]]:
    """Read the names, values and intervals of a model's scores; none if there is no valid file."""
    content = _of_model(source, "scores.json", _MOST_SCORES)
    try:
        read = json.loads(content or b"[]")
    except (ValueError, RecursionError):
        return []
    rows = [one for one in read if isinstance(one, dict)] if isinstance(read, list) else []
    rows = [one for one in rows if isinstance(one.get("value"), int | float) and "name" in one]
    rows.sort(key=lambda one: not one.get("headline"))
    return [{name: one.get(name) for name in _SCORE} for one in rows]


def _of_model(source: str, name: str, most: int) -> bytes | None:
    """Read a file in a model's folder, None if it is not there, leads elsewhere or is too large."""
    folder = Path(source)
    if (folder / "config.toml").exists():  # a run contains its model
        folder /= "model"
    path = folder / name
    if path.is_symlink() or not path.is_file() or path.stat().st_size > most:
        return None
    return path.read_bytes()
