"""Webhooks: messages about ended jobs, signed as Standard Webhooks specifies, and retried for three days."""

import asyncio
import base64
import binascii
import contextlib
import hashlib
import hmac
import json
import logging
import math
import random
import secrets
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

import httpx
from sqlalchemy import Double, ForeignKey, Index, String, Text, func, select
from sqlalchemy.orm import Mapped, Session, mapped_column

from danqing.service.errors import invalid
from danqing.service.observability import logs
from danqing.service.requests import outbound
from danqing.service.settings import Outbound
from danqing.service.storage.database import Base, Database, DatabaseError
from danqing.version import __version__

DELAYS = (5.0, 30.0, 300.0, 1800.0, 7200.0, 18_000.0, 36_000.0, 50_400.0, 72_000.0, 86_400.0)
"""Seconds from one attempt to the next; after the last one the message has failed."""

AT_ONCE = 16
"""How many messages are sent at the same time."""
_IDLE = 5.0  # seconds between reads of the database for messages of other servers
_PREFIX = "whsec_"

_log = logging.getLogger("danqing.webhooks")


class Delivery(Base):
    """A message.

    due: when it is sent next, None when it is delivered or has failed.
    """

    __tablename__ = "webhook_deliveries"
    __table_args__ = (Index(None, "due"),)

    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"), index=True)
    url: Mapped[str] = mapped_column(Text)
    secret: Mapped[str] = mapped_column(Text)
    payload: Mapped[str] = mapped_column(Text)
    status: Mapped[Literal["pending", "delivered", "failed"]] = mapped_column(String(16))
    attempts: Mapped[int]
    due: Mapped[float | None] = mapped_column(Double)
    reason: Mapped[str | None] = mapped_column(Text)


@dataclass(frozen=True, slots=True)
class _Message:
    id: str
    url: str
    secret: str
    payload: bytes
    attempt: int


def new_secret() -> str:
    """Return a random key to sign with, in the standard form."""
    return _PREFIX + base64.b64encode(secrets.token_bytes(32)).decode()


def is_secret(text: str) -> bool:
    """Return whether a text is a key of 24 to 64 bytes."""
    try:
        return text.startswith(_PREFIX) and 24 <= len(_key(text)) <= 64
    except (binascii.Error, ValueError):
        return False


def sign(secret: str, message_id: str, timestamp: int, payload: bytes) -> str:
    """Return the `webhook-signature` of a message.

    HMAC-SHA256 of id, time in seconds and body.
    """
    signed = b".".join((message_id.encode(), str(timestamp).encode(), payload))
    return "v1," + base64.b64encode(hmac.new(_key(secret), signed, hashlib.sha256).digest()).decode()


def deliver(
    session: Session, job_id: str, url: str, secret: str, kind: str, data: Mapping[str, Any], now: float
) -> None:
    """Add a message that is sent once this transaction is committed."""
    sent = datetime.fromtimestamp(now, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    payload = json.dumps({"type": kind, "timestamp": sent, "data": data}, separators=(",", ":"))
    session.add(
        Delivery(
            id=f"msg_{uuid.uuid4().hex}",
            job_id=job_id,
            url=url,
            secret=secret,
            payload=payload,
            status="pending",
            attempts=0,
            due=now,
        )
    )


class Webhooks:
    """Sends the messages of jobs.

    A message is retried until it is delivered, its last attempt has failed, or its job is deleted. One may
    arrive twice, with the same `webhook-id`, if the server ends while it sends.

    delays: seconds from one attempt to the next.
    """

    def __init__(self, outbound: Outbound, database: Database, delays: Sequence[float] = DELAYS) -> None:
        self._outbound, self._database, self._delays = outbound, database, delays
        self._news = asyncio.Event()
        self._sending = 0

    async def check(self, url: str, secret: str | None) -> None:
        """Raise ApiError 400 for a forbidden address or an invalid secret."""
        try:
            await outbound.target(url, self._outbound.webhooks)
        except outbound.AddressError as error:
            raise invalid(str(error), "webhook.url") from None
        if secret is not None and not is_secret(secret):
            message = "A secret is whsec_ and 24 to 64 bytes in base64: leave it out to receive a random one."
            raise invalid(message, "webhook.secret")

    def wake(self) -> None:
        """Send due messages now."""
        self._news.set()

    async def run(self) -> None:
        """Send messages until cancelled."""
        # No connection is reused: one that was opened for a host must not carry a message for another
        # host at the same address.
        self._sending = 0
        limits = httpx.Limits(max_connections=AT_ONCE, max_keepalive_connections=0)
        headers = {"user-agent": f"danqing/{__version__}", "content-type": "application/json"}
        async with (
            httpx.AsyncClient(timeout=None, limits=limits, headers=headers, trust_env=False) as client,
            asyncio.TaskGroup() as sending,
        ):
            while True:
                self._news.clear()
                wait = _IDLE
                with contextlib.suppress(DatabaseError):
                    messages, due = await self._take()
                    self._sending += len(messages)
                    for message in messages:
                        sending.create_task(self._send(client, message))
                    wait = min(_IDLE, max(0.0, due - time.time()))
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(wait):
                        await self._news.wait()

    async def _take(self) -> tuple[list[_Message], float]:
        room, patience = AT_ONCE - self._sending, 2 * self._outbound.seconds + 30
        if not room:
            return [], math.inf
        return await self._database.run(claim_due, room, time.time(), patience)

    async def _send(self, client: httpx.AsyncClient, message: _Message) -> None:
        try:
            reason, gone = await self._attempt(client, message)
            due: float | None = None
            if reason is None:
                status: Literal["pending", "delivered", "failed"] = "delivered"
            elif gone or message.attempt > len(self._delays):
                status = "failed"
                logs.event(_log, "a webhook has failed", logging.WARNING, id=message.id, reason=reason)
            else:
                status = "pending"
                due = time.time() + self._delays[message.attempt - 1] * random.uniform(0.9, 1.1)
            await self._database.run(_settle, message, status, due, reason)
        except DatabaseError:
            logs.event(_log, "a webhook will be sent again", logging.WARNING, id=message.id)
        except Exception:  # the other messages must not fail with it
            _log.exception("the webhook %s could not be settled", message.id)
        finally:
            self._sending -= 1
            self._news.set()

    async def _attempt(self, client: httpx.AsyncClient, message: _Message) -> tuple[str | None, bool]:
        """Send a message; return why it failed, None if it did not, and whether its receiver is gone."""
        try:
            timestamp = int(time.time())
            headers = {
                "webhook-id": message.id,
                "webhook-timestamp": str(timestamp),
                "webhook-signature": sign(message.secret, message.id, timestamp, message.payload),
            }
            async with asyncio.timeout(self._outbound.seconds):
                where = await outbound.target(message.url, self._outbound.webhooks)
                headers |= where.headers
                async with client.stream(
                    "POST",
                    where.url,
                    content=message.payload,
                    headers=headers,
                    extensions=dict(where.extensions),
                ) as response:  # the body is not read, and redirects are not followed
                    status = response.status_code
        except outbound.AddressError as error:
            return str(error), False
        except TimeoutError:
            return f"no answer within {self._outbound.seconds:g} seconds", False
        except (httpx.HTTPError, OSError) as error:
            return type(error).__name__, False
        except Exception as error:  # an address or a secret that some library rejects
            _log.exception("the webhook %s could not be sent", message.id)
            return type(error).__name__, False
        return (None if 200 <= status < 300 else f"status {status}"), status == 410


def _key(secret: str) -> bytes:
    return base64.b64decode(secret.removeprefix(_PREFIX), validate=True)


def claim_due(session: Session, most: int, now: float, patience: float) -> tuple[list[_Message], float]:
    """Return due messages, claimed for `patience` seconds.

    Also returns when the next one is due.
    """
    deliveries = session.scalars(
        select(Delivery)
        .where(Delivery.due <= now)
        .order_by(Delivery.due)
        .limit(most)
        .with_for_update(skip_locked=True)
    ).all()
    for one in deliveries:
        one.attempts += 1
        one.due = now + patience
    session.flush()
    messages = [
        _Message(one.id, one.url, one.secret, one.payload.encode(), one.attempts) for one in deliveries
    ]
    due = session.scalar(select(func.min(Delivery.due)))
    return messages, math.inf if due is None else due


def _settle(
    session: Session,
    message: _Message,
    status: Literal["pending", "delivered", "failed"],
    due: float | None,
    reason: str | None,
) -> None:
    delivery = session.get(Delivery, message.id, with_for_update=True)
    if delivery is not None and delivery.status == "pending" and delivery.attempts == message.attempt:
        delivery.status, delivery.due, delivery.reason = status, due, reason and reason[:500]
