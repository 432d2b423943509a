"""A stream that fails after it has begun says so in an event, and only what was not painted is given back."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from danqing.service import painting, responses
from danqing.service.accounts import Account
from danqing.service.guard import Caller, charge
from danqing.service.orders import (
    DeadlinePassedError,
    Event,
    Offer,
    OrderCancelledError,
    PaintingFailedError,
    Preview,
    Progress,
)
from danqing.service.pictures import Pictures
from danqing.service.settings import Settings

OFFER = Offer("masked", "", width=8, height=8, channels=3, steps=True, options={"num_steps": 4})


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
        yield Progress(1, 4)
        yield Preview(0, np.zeros((1, 8, 8, 3), np.uint8))
        raise error

    async def read() -> list[bytes]:
        service: Any = SimpleNamespace(
            settings=Settings(models={"masked": ""}),
            engine=SimpleNamespace(offers={"masked": OFFER}),
            pictures=Pictures(Path("nowhere")),
        )
        body = {"prompt": "", "stream": True, "partial_images": 1}
        plan = await painting.plan(service, "generations", body, caller)
        charge(caller, plan.n)
        request: Any = SimpleNamespace()
        return [chunk async for chunk in responses._told(request, caller, plan, events())]

    partial, failed = asyncio.run(read())
    assert partial.startswith(b"event: image_generation.partial_image\n")
    assert failed.startswith(b"event: error\ndata: ")
    told = json.loads(failed.partition(b"data: ")[2])
    assert told["error"]["code"] == code  # at the top, where the official client looks for it
    assert "/secret" not in told["error"]["message"]
    remaining = dict(caller.account.headers())[b"x-ratelimit-remaining-images"]
    assert remaining == (b"10" if given_back else b"9")
