"""The page at `/`: one static file that uses the same API as all clients."""

import base64
import functools
import hashlib
import re
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

_FILE = Path(__file__).with_name("index.html")
_MOST_SAMPLES = 8_000_000  # bytes
_PNG = b"\x89PNG\r\n\x1a\n"


@router.get("/")
async def start() -> Response:
    """Return the page.

    Its policy allows only its own script and this service.
    """
    page, policy = _page()
    return Response(page, media_type="text/html; charset=utf-8", headers={"content-security-policy": policy})


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


@functools.cache
def _page() -> tuple[bytes, str]:
    """Return the file, and a policy that allows only its own script and style, by their hashes."""
    page = _FILE.read_text(encoding="utf-8")
    for name, place in (("studio.css", "/* studio.css */"), ("mountains.svg", "<!-- mountains.svg -->")):
        page = page.replace(place, part(name))
    policy = (
        "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
        f"connect-src 'self'; img-src blob: data:; "
        f"style-src {_hash(page, 'style')}; script-src {_hash(page, 'script')}; "
        "require-trusted-types-for 'script'; trusted-types 'none'"
    )
    return page.encode(), policy


def _hash(page: str, tag: str) -> str:
    (content,) = re.findall(rf"<{tag}>(.*?)</{tag}>", page, re.DOTALL)
    return f"'sha256-{base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()}'"


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
