"""The application as a whole: light where it answers, closed where it must be, and gone when it stops."""

import asyncio
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import httpx
import psutil
import pytest
from fastapi import APIRouter, Depends

from danqing.errors import ConfigError
from danqing.service import app as application
from danqing.service.app import create_app, running
from danqing.service.http.gate import anyone
from danqing.service.settings import Settings
from tests.service.serving import served


def test_the_process_that_answers_never_imports_torch() -> None:
    script = "import sys, danqing.service.app, danqing.service.http.server; print('torch' in sys.modules)"
    told = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert told.stdout.strip() == "False"


def test_a_route_that_does_not_say_who_may_call_it_stops_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    router, settings = APIRouter(), Settings(models={"gan": "gan"})
    router.get("/v1/open", dependencies=[Depends(anyone)])(lambda: {})
    monkeypatch.setattr(application, "_ROUTERS", (*application._ROUTERS, SimpleNamespace(router=router)))
    create_app(settings)
    router.get("/v1/forgotten", dependencies=[Depends(lambda: None)])(lambda: {})
    with pytest.raises(RuntimeError, match=r"The route /v1/forgotten does not say who may call it"):
        create_app(settings)


def test_a_public_address_needs_a_key(models: dict[str, str], tmp_path: Path) -> None:
    settings = Settings(models={"gan": models["gan"]}, data=tmp_path / "data", host="0.0.0.0")

    async def start() -> None:
        async with running(settings):
            raise AssertionError("it started")

    with pytest.raises(ConfigError, match="danqing keys create"):
        asyncio.run(start())


def test_nothing_is_left_when_it_stops(models: dict[str, str], broken: str, tmp_path: Path) -> None:
    before = set(psutil.Process().children(recursive=True))
    with served({"gan": models["gan"], "broken": broken}, tmp_path / "data") as here:
        assert set(psutil.Process().children(recursive=True)) - before
        assert httpx.get(f"{here.url}/readyz").status_code == 200
        assert not (tmp_path / "data").stat().st_mode & 0o077  # its keys and pictures are nobody else's
    assert not set(psutil.Process().children(recursive=True)) - before


def test_the_docs_page_names_every_route_and_runs_nothing(models: dict[str, str], tmp_path: Path) -> None:
    paths = create_app(Settings(models={"gan": "gan"})).openapi()["paths"]
    settings = {"public_url": "https://paint.example.org/danqing/"}
    with served({"gan": models["gan"]}, tmp_path / "data", **settings) as here:
        page = httpx.get(f"{here.url}/docs")
        body = {"prompt": "", "response_format": "url"}
        painted = httpx.post(f"{here.url}/v1/images/generations", json=body, timeout=60).json()
    assert "<script" not in page.text
    assert "default-src 'none'" in page.headers["content-security-policy"]
    for path, methods in paths.items():
        for method in methods:
            assert f"{method.upper()} {path}" in page.text
    assert painted["data"][0]["url"].startswith("https://paint.example.org/danqing/v1/pictures/")
