"""The page at `/judge`, where people judge pictures: static files that use the API alone."""

import functools
from pathlib import Path

from fastapi import APIRouter, Response

from danqing.page import part
from danqing.service.errors import ApiError

router = APIRouter(include_in_schema=False)

_FOLDER = Path(__file__).with_name("judge")
_TYPES = {"judge.js": "text/javascript", "words.js": "text/javascript", "judge.css": "text/css"}
_POLICY = (
    "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; connect-src 'self'; "
    "img-src blob: data:; style-src 'self'; script-src 'self'; require-trusted-types-for 'script'; "
    "trusted-types 'none'"
)


@router.get("/judge")
async def judge() -> Response:
    """Return the page; its policy allows only its own files and this service."""
    headers = {"content-security-policy": _POLICY}
    return Response(_file("judge.html"), media_type="text/html; charset=utf-8", headers=headers)


@router.get("/judge/{name}")
async def judge_file(name: str) -> Response:
    """Return a script or the style of the page."""
    if name not in _TYPES:
        raise ApiError(404, "The page has no such file.", code="not_found")
    return Response(_file(name), media_type=f"{_TYPES[name]}; charset=utf-8")


@functools.cache
def _file(name: str) -> bytes:
    content = (_FOLDER / name).read_text(encoding="utf-8")
    return (part("studio.css") + content if name == "judge.css" else content).encode()
