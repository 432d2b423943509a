"""A small application behind the real gate, on a real socket: its routes do what a test needs of a route."""

import asyncio
import contextlib
import json
import socket
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Annotated, Any

from fastapi import APIRouter, Depends, FastAPI, Request
from fastapi.responses import StreamingResponse

from danqing.service.access.caller import Caller
from danqing.service.access.keys import Keys
from danqing.service.http import error_handlers
from danqing.service.http.gate import Gate, log_facts, needs
from danqing.service.observability.metrics import Metrics
from danqing.service.settings import Settings
from danqing.service.storage.database import Database
from tests.service.listening import listening


class Gated:
    """A server that runs. reached: requests that came as far as a route's own code; let_go: ends /v1/slow."""

    def __init__(self, settings: Settings) -> None:
        self.settings, self.metrics, self.reached = settings, Metrics(), 0
        self.waiting, self.let_go = threading.Semaphore(0), threading.Event()
        self.port = 0
        self.keys: Keys

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def raw(self, request: str | bytes, timeout: float = 10) -> tuple[int, dict[str, str], Any]:
        """Send these very bytes; the answer's status, headers and JSON."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=timeout) as connection:
            connection.sendall(request.encode() if isinstance(request, str) else request)
            received = b""
            while chunk := connection.recv(65536):
                received += chunk
                head, end, body = received.partition(b"\r\n\r\n")
                told = dict(line.split(": ", 1) for line in head.decode("latin-1").split("\r\n")[1:])
                told = {name.lower(): value for name, value in told.items()}
                if end and len(body) >= int(told.get("content-length", 0)):
                    break
        return int(head.split()[1]), told, json.loads(body) if body else None


@contextlib.contextmanager
def gated(data: Path, **settings: Any) -> Iterator[Gated]:
    """Answer from a thread until the block ends."""
    server = Gated(Settings(models={"cats": "cats"}, data=data, **settings))
    with listening(_app(server)) as where:
        server.port = where.port
        try:
            yield server
        finally:
            server.let_go.set()


def _app(server: Gated) -> FastAPI:
    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        database = Database(server.settings.database_url)
        await database.start()
        server.keys = Keys(database)
        await server.keys.start()
        app.state.service = SimpleNamespace(keys=server.keys, metrics=server.metrics)
        yield
        await server.keys.stop()
        await database.stop()

    app = FastAPI(lifespan=lifespan)
    error_handlers.install(app)
    app.add_middleware(Gate, settings=server.settings)
    router = APIRouter()  # as the service has them
    generate = Annotated[Caller, Depends(needs("generate"))]

    @app.post("/v1/paint")
    async def paint(request: Request, caller: generate) -> dict[str, Any]:
        server.reached += 1
        body = await request.json()
        log_facts(request, model=body.get("model", "cats"), images=body.get("n", 1), user=body.get("user"))
        caller.permit(body.get("model", "cats"))
        charged = caller.account.charge(body.get("n", 1))
        if body.get("fails"):
            caller.account.refund(body.get("n", 1), charged)
        return {"caller": caller.name}

    @router.get("/v1/who")
    async def who(caller: generate) -> dict[str, str | None]:
        return {"key": caller.key_id, "name": caller.name}

    @app.get("/v1/edit")
    async def edit(caller: Annotated[Caller, Depends(needs("edit"))]) -> dict[str, str]:
        return {"name": caller.name}

    @app.get("/v1/slow")
    async def slow() -> dict[str, str]:
        server.waiting.release()
        await asyncio.to_thread(server.let_go.wait, 20)
        return {}

    @router.get("/v1/broken/{what}")
    async def broken(what: str) -> dict[str, str]:
        raise RuntimeError(f"{what} at /home/secret with hunter2")

    @app.get("/v1/half")
    async def half() -> StreamingResponse:
        async def chunks() -> AsyncIterator[bytes]:
            yield b"half"
            raise RuntimeError("the other half is missing")

        return StreamingResponse(chunks())

    @app.get("/healthz")
    async def live() -> dict[str, str]:
        return {"status": "ok"}

    app.include_router(router)
    return app
