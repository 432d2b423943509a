"""A service that lets people judge, without any models, and contestants in folders."""

import contextlib
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace

import httpx
import numpy as np
from fastapi import FastAPI
from PIL import Image

from danqing.service.access.keys import Keys
from danqing.service.http import error_handlers
from danqing.service.http.gate import Gate
from danqing.service.observability.metrics import Metrics
from danqing.service.pages import studio_page
from danqing.service.routes import account, judging
from danqing.service.settings import Settings
from danqing.service.storage.database import Database
from tests.service.listening import listening


def folders(
    where: Path, names: Sequence[str] = ("kiwi", "walrus", "zebra"), n: int = 6, side: int = 16
) -> list[str]:
    """Folders of pictures of noise, which differ in all pixels."""
    generator = np.random.default_rng(0)
    for name in names:
        (where / name).mkdir(parents=True)
        for number in range(n):
            pixels = generator.integers(0, 255, (side, side, 3)).astype(np.uint8)
            Image.fromarray(pixels).save(where / name / f"{number}.png")
    return [str(where / name) for name in names]


@contextlib.contextmanager
def serving(data: Path, url: str = "", **limits: int) -> Iterator[str]:
    """Serve the judging of a data folder until the block ends; yields the address."""
    settings = Settings(models={"none": "none"}, data=data, database=url, limits=limits)  # type: ignore[arg-type]

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        database = Database(settings.database_url)
        await database.start()
        keys = Keys(database)
        await keys.start()
        app.state.service = SimpleNamespace(
            keys=keys,
            metrics=Metrics(),
            database=database,
            settings=settings,
            gallery=SimpleNamespace(is_on=False),
            training=SimpleNamespace(is_on=False),
        )
        yield
        await keys.stop()
        await database.stop()

    app = FastAPI(lifespan=lifespan)
    error_handlers.install(app)
    app.add_middleware(Gate, settings=settings)
    for module in (judging, account, studio_page):
        app.include_router(module.router)
    with listening(app) as where:
        yield f"http://127.0.0.1:{where.port}"


class Rater:
    """A client with a key."""

    def __init__(self, url: str, token: str = "") -> None:
        headers = {"authorization": f"Bearer {token}"} if token else {}
        self.http = httpx.Client(base_url=url, headers=headers, timeout=30)

    def ballot(self, session: str) -> dict[str, object]:
        """The ballot that is shown."""
        answer = self.http.post(f"/v1/judging/sessions/{session}/ballot")
        assert answer.status_code == 200, answer.text
        told: dict[str, object] = answer.json()
        return told

    def vote(self, ballot: object, best: int | None = 0, worst: int | None = 1) -> httpx.Response:
        """Answer a ballot."""
        return self.http.post(f"/v1/judging/ballots/{ballot}", json={"best": best, "worst": worst})


def wait_until(there: object) -> None:
    """Wait for what `there()` says."""
    deadline = time.monotonic() + 30
    while not there():  # type: ignore[operator]
        assert time.monotonic() < deadline
        time.sleep(0.02)
