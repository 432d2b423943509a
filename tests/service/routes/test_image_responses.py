"""What fails after it has begun says so, a stream in an event, and what nobody got is given back."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from fastapi import Request
from starlette.types import Message

from danqing.errors import DanqingError
from danqing.service.access.accounts import Account
from danqing.service.access.caller import Caller
from danqing.service.access.held_bytes import HeldBytes
from danqing.service.engine.offers import Offer
from danqing.service.engine.orders import (
    DeadlinePassedError,
    Event,
    Order,
    OrderCancelledError,
    Painted,
    PaintingFailedError,
    Preview,
    StepProgress,
)
from danqing.service.errors import ApiError
from danqing.service.failures import from_danqing
from danqing.service.pictures.encode_pool import EncodePool
from danqing.service.pictures.hosted import HostedPictures
from danqing.service.requests.planner import PlannedRequest, Planner
from danqing.service.routes import image_responses
from danqing.service.settings import Settings

OFFER = Offer(
    "masked",
    "",
    width=8,
    height=8,
    channels=3,
    steps=True,
    options={"sample": {"num_steps": 4}},
    resamples=True,
)


async def planned(
    settings: Settings, pool: EncodePool, body: dict[str, Any], caller: Caller
) -> PlannedRequest:
    planner = Planner(settings, {"masked": OFFER}, pool)
    return await planner.check_and_plan("generations", body, caller, HeldBytes.unlimited())


@pytest.mark.parametrize(
    ("error", "code", "given_back"),
    [
        (PaintingFailedError("It died of /secret."), "painting_failed", True),
        (DeadlinePassedError("Too late."), "deadline_passed", True),
        (OrderCancelledError("The client left."), "cancelled", False),
        (ZeroDivisionError("ours"), "server_error", True),
    ],
)
def test_a_stream_that_fails_ends_with_an_error(error: Exception, code: str, given_back: bool) -> None:
    caller = Caller("key_1", "k", frozenset({"generate"}), account=Account(quota=10))

    async def events() -> AsyncIterator[Event]:
        yield StepProgress(1, 4)
        yield Preview(0, np.zeros((1, 8, 8, 3), np.uint8))
        raise error

    async def read() -> list[bytes]:
        pool = EncodePool()
        body = {"prompt": "", "stream": True, "partial_images": 1}
        plan = await planned(Settings(models={"masked": ""}), pool, body, caller)
        charged = caller.account.charge(plan.n)
        app = SimpleNamespace(state=SimpleNamespace(service=SimpleNamespace(encode_pool=pool)))
        request: Any = SimpleNamespace(app=app)
        return [
            chunk async for chunk in image_responses.stream_events(request, caller, plan, charged, events())
        ]

    partial, failed = asyncio.run(read())
    assert partial.startswith(b"event: image_generation.partial_image\n")
    assert failed.startswith(b"event: error\ndata: ")
    told = json.loads(failed.partition(b"data: ")[2])
    assert told["error"]["code"] == code  # at the top, where the official client looks for it
    assert "/secret" not in told["error"]["message"]
    remaining = dict(caller.account.headers())[b"x-ratelimit-remaining-images"]
    assert remaining == (b"10" if given_back else b"9")


async def take_all_turns(pool: EncodePool) -> None:
    while pool.turns.in_use < pool.turns.most:
        await pool.turns.acquire("other")


class Painting:
    """What stands for an engine, whose orders are painted at once; left: the client goes meanwhile."""

    def __init__(self, left: asyncio.Event) -> None:
        self.offers, self._left = {"masked": OFFER}, left

    def submit(self, order: Order) -> "Painting":
        return self

    async def painted(self) -> Painted:
        self._left.set()
        return Painted(np.zeros((1, 8, 8, 3), np.uint8), 0.0, 0.0)

    def cancel(self) -> None:
        pass


class Gallery:
    """One that keeps nothing."""

    async def keep(self, *_: Any) -> None:
        pass


@pytest.mark.parametrize(
    ("body", "seconds", "leaves", "status", "given_back"),
    [
        ({"response_format": "url"}, 60.0, False, 507, True),  # there is no folder
        ({"size": "800x800"}, 0.1, False, 504, True),
        ({"size": "800x800"}, 60.0, True, 503, False),
    ],
    ids=["no room", "late", "left"],
)
def test_what_fails_after_it_was_painted_is_given_back(
    body: dict[str, Any], seconds: float, leaves: bool, status: int, given_back: bool, tmp_path: Path
) -> None:
    caller = Caller("key_1", "k", frozenset({"generate"}), account=Account(quota=10))

    async def ask() -> Exception | None:
        painted = asyncio.Event()
        settings = Settings(models={"masked": ""}, limits={"seconds": seconds})
        pool, hosted = EncodePool(), HostedPictures(tmp_path / "nowhere")
        service = SimpleNamespace(
            settings=settings,
            scheduler=Painting(painted),
            encode_pool=pool,
            hosted=hosted,
            gallery=Gallery(),
        )

        async def receive() -> Message:
            await (painted if leaves else asyncio.Event()).wait()
            return {"type": "http.disconnect"}

        app = SimpleNamespace(state=SimpleNamespace(service=service))
        exchange = SimpleNamespace(facts={})
        scope = {
            "type": "http",
            "app": app,
            "state": {"exchange": exchange},
            "path": "/",
            "server": ("x", 80),
        }
        plan = await planned(settings, pool, {"prompt": "", **body}, caller)
        await take_all_turns(pool)  # other owners have them
        try:
            await image_responses.respond(Request({**scope, "headers": []}, receive), caller, plan)
        except (ApiError, DanqingError) as error:
            return error
        finally:
            assert pool.share.held == 0
            pool.stop()
            await hosted.stop()
        return None

    error = asyncio.run(asyncio.wait_for(ask(), 20))
    assert (error if isinstance(error, ApiError) else from_danqing(error)).status == status  # type: ignore[arg-type]
    remaining = dict(caller.account.headers())[b"x-ratelimit-remaining-images"]
    assert remaining == (b"10" if given_back else b"9")
