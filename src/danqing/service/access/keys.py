"""The keys of a service, with their scopes, limits and expiry. Only their hashes are stored."""

import asyncio
import contextlib
import hashlib
import hmac
import logging
import math
import secrets
import string
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from sqlalchemy import JSON, Double, Integer, LargeBinary, String, func, select
from sqlalchemy.orm import Mapped, Session, mapped_column

from danqing.service.access import audit, usage
from danqing.service.access.accounts import DAY, Account
from danqing.service.access.audit import AuditLog, Head, PendingEntry
from danqing.service.access.caller import Caller
from danqing.service.access.sessions import Sessions
from danqing.service.access.shared_accounts import SharedAccount
from danqing.service.errors import ApiError
from danqing.service.observability import logs
from danqing.service.storage.database import Base, Database, DatabaseAwayError, DatabaseError
from danqing.version import __version__

_log = logging.getLogger("danqing.keys")
_LETTERS = string.ascii_letters + string.digits
_PREFIX, _ID_LETTERS, _SECRET_LETTERS = "dq", 12, 43  # 43 letters of 62: 256 bits
_INTERVAL = 0.5  # seconds between reads of the database: a revoked key is rejected soon after
_NEW_KEY_INTERVAL = 0.05  # seconds between reads because of unknown keys
AWAY = 60.0  # seconds that known keys stay valid while the database does not answer
_NO_HASH = bytes(32)


class Key(Base):
    """A key, without its secret.

    hash: SHA-256 of the whole key; its secret has 256 random bits, so that no slow hash is needed.
    models: names of the models that it may use; None for all.
    rate: requests per minute; quota: pictures per day.
    created, expires, revoked: seconds since 1970.
    changes: increases whenever the row changes.
    """

    __tablename__ = "keys"

    id: Mapped[str] = mapped_column(String(16), primary_key=True)
    name: Mapped[str] = mapped_column(String(100))
    hash: Mapped[bytes] = mapped_column(LargeBinary(32))
    scopes: Mapped[list[str]] = mapped_column(JSON)
    models: Mapped[list[str] | None] = mapped_column(JSON(none_as_null=True))
    rate: Mapped[int | None] = mapped_column(Integer)
    quota: Mapped[int | None] = mapped_column(Integer)
    created: Mapped[float] = mapped_column(Double)
    expires: Mapped[float | None] = mapped_column(Double)
    revoked: Mapped[float | None] = mapped_column(Double)
    changes: Mapped[int] = mapped_column(Integer, default=1)

    def state(self, now: float) -> str:
        """Return "active", "expired" or "revoked"."""
        if self.revoked is not None:
            return "revoked"
        return "expired" if self.expires is not None and now >= self.expires else "active"


@dataclass(slots=True)
class _PendingWrites:
    """The entries and usage of one transaction, which is retried until it is stored exactly once."""

    entries: list[PendingEntry]
    amounts: usage.Amounts
    tried: Head | None = None


@dataclass(frozen=True, slots=True)
class _KnownKey:
    hash: bytes
    caller: Caller
    expires: float
    revoked: bool


@dataclass(slots=True)
class _KeyChanges:
    """The latest values from the database; keys: None if they have not changed."""

    mark: tuple[int, int]
    keys: list[Key] | None
    day: int
    images: dict[str, int] = field(default_factory=dict)


class Keys:
    """The keys of a running service, in memory.

    Checking one does not read the database.

    A task reads changes twice a second, and writes usage together with the audit log. Keys stay valid for a
    minute while the database is away.
    """

    def __init__(self, database: Database) -> None:
        self.audit = AuditLog()
        self.sessions = Sessions(database, self.of)
        self.exist = False
        """Whether there was ever a key; from then on every request needs one, even if all are revoked."""
        self._database = database
        self._known: dict[str, _KnownKey] = {}
        self._mark = (-1, -1)
        self._read_at = -math.inf
        self._batch: _PendingWrites | None = None
        self._head: Head | None = None
        self.is_database_away = False
        """Whether the latest attempt to reach the database failed."""
        self._full = False
        self._reading = asyncio.Lock()
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Read the keys, and keep them up to date from now on."""
        self.audit.record("service started", version=__version__)
        await self._synchronise(patience=10)
        self._log_head()
        self._task = asyncio.create_task(self._keep_up_to_date(), name="keys")

    async def stop(self) -> None:
        """Write everything that is pending."""
        if self._task is None:
            return
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task
        self.audit.record("service stopped")
        try:
            await self._synchronise(patience=2)  # a batch that failed before
            await self._synchronise(patience=2)
            self._log_head()
        except DatabaseError as error:
            logs.event(_log, "the last entries of the audit log are lost", logging.ERROR, reason=str(error))

    async def caller(self, token: str) -> Caller:
        """Return the caller of a key.

        Raises ApiError 401 for a key that is wrong, revoked or expired, and 503 if the database has been
        away for too long.
        """
        if time.monotonic() - self._read_at > AWAY:
            raise ApiError(
                503,
                "Keys cannot be checked at present.",
                code="keys_unavailable",
                headers={"retry-after": "5"},
            )
        identity = token.removeprefix(f"{_PREFIX}_").partition("_")[0]
        held = self._known.get(identity)
        if held is None and not self.is_database_away and _looks_like_token(token):
            await self._read_new()
            held = self._known.get(identity)
        right = hmac.compare_digest(hash_token(token), held.hash if held else _NO_HASH)
        if held is None or not right:
            raise _rejected("This key is not valid: check that it is complete.", "invalid_api_key")
        if held.revoked:
            raise _rejected("This key has been revoked.", "revoked_api_key")
        if time.time() >= held.expires:
            raise _rejected("This key has expired.", "expired_api_key")
        return held.caller

    def of(self, key_id: str) -> Caller | None:
        """Return the caller of a key, or None if it is invalid.

        For work that outlives its request.
        """
        held = self._known.get(key_id)
        good = held is not None and not held.revoked and time.time() < held.expires
        return held.caller if held is not None and good else None

    async def _read_new(self) -> None:
        """Read keys created a moment ago; guessed keys cause only a few reads per second."""
        asked = time.monotonic()
        async with self._reading:
            wait = self._read_at + _NEW_KEY_INTERVAL - asked
            if self._read_at > asked:
                return  # another request has read them meanwhile
            if wait > 0:
                await asyncio.sleep(wait)
            with contextlib.suppress(DatabaseError):
                await self._synchronise_now(patience=0)

    def _log_head(self) -> None:
        """Log the head of the chain: stored elsewhere, it proves later that nothing was removed."""
        logs.event(_log, "audit log", head=str(self._head))

    async def _keep_up_to_date(self) -> None:
        while True:
            await asyncio.sleep(_INTERVAL)
            was_away = self.is_database_away
            try:
                await self._synchronise(patience=0)
            except DatabaseError as error:
                if not was_away:
                    logs.event(_log, "the database is away", logging.WARNING, reason=str(error))
            except Exception:  # whatever the error was, revoked keys must be found
                _log.exception("reading changes of keys failed")

    async def _synchronise(self, patience: float) -> None:
        async with self._reading:
            await self._synchronise_now(patience)

    async def _synchronise_now(self, patience: float) -> None:
        """Write pending entries and read changed keys, in one transaction."""
        began = time.monotonic()
        batch = self._batch = self._batch or self._pending_batch()
        try:
            try:
                seen = await self._database.run(self._exchange(batch), patience=patience)
            except DatabaseAwayError:
                raise
            except DatabaseError as error:  # a full disk cannot be written, but it can be read
                if not self._full:
                    logs.event(_log, "the audit log cannot be written", logging.ERROR, reason=str(error))
                self._full = True
                seen = await self._database.run(self._exchange(None), patience=patience)
            else:
                self._full = False
                if batch is not None:
                    self._head, self._batch = batch.tried, None
        except DatabaseError:
            self.is_database_away = True
            raise
        self.is_database_away = False
        if seen.keys is not None:
            self._set_keys(seen.keys)
            self._mark = seen.mark
        if self._batch is None:  # else the database does not count the pending batch yet
            for identity, images in seen.images.items():
                if held := self._known.get(identity):
                    held.caller.account.set_used(seen.day, images)
        self._read_at = began

    def _exchange(self, batch: _PendingWrites | None) -> Callable[[Session], _KeyChanges]:
        mark = self._mark

        def exchange(session: Session) -> _KeyChanges:
            if batch is not None:
                _write(session, batch)
            count, changes = session.execute(select(func.count(), func.sum(Key.changes))).one()
            seen = _KeyChanges((count, int(changes or 0)), None, int(time.time() // DAY))
            if seen.mark != mark:
                seen.keys = list(session.scalars(select(Key)))
            if batch is not None or seen.keys is not None or not self._database.is_sqlite:
                seen.images = usage.images_of(session, seen.day)
            return seen

        return exchange

    def _pending_batch(self) -> _PendingWrites | None:
        """Return the pending entries and usage, if there are any.

        Usage is written with entries of the audit log: they show whether a batch was committed unnoticed.
        A request that only reads has no entry; its usage is written with the next entry of any request.
        """
        entries = self.audit.take()
        if not entries:
            return None
        amounts = {
            (identity, day): counted
            for identity, held in self._known.items()
            for day, counted in held.caller.account.unwritten().items()
        }
        return _PendingWrites(entries, amounts)

    def _set_keys(self, keys: Iterable[Key]) -> None:
        old, self._known = self._known, {}
        for key in keys:
            known = old.get(key.id)
            account = known.caller.account if known else self._new_account(key)
            models = None if key.models is None else frozenset(key.models)
            self._known[key.id] = _KnownKey(
                hash=key.hash,
                caller=Caller(key.id, key.name, frozenset(key.scopes), models, account),
                expires=math.inf if key.expires is None else key.expires,
                revoked=key.revoked is not None,
            )
        self.exist = self.exist or bool(self._known)

    def _new_account(self, key: Key) -> Account:
        if self._database.is_sqlite or key.rate is key.quota is None:
            return Account(key.rate, key.quota)
        return SharedAccount(self._database, key.id, key.rate, key.quota)


def _write(session: Session, batch: _PendingWrites) -> None:
    """Write a batch, unless it was: the connection may have broken just after its commit."""
    if batch.tried is not None and audit.has(session, batch.tried):
        return
    batch.tried = audit.append(session, batch.entries)
    usage.add(session, batch.amounts)


def new_token() -> tuple[str, str]:
    """Return the id and the token of a new key."""
    # No dash, nor anything else that ends a word: a double click selects the whole token.
    identity = "".join(secrets.choice(_LETTERS) for _ in range(_ID_LETTERS))
    secret = "".join(secrets.choice(_LETTERS) for _ in range(_SECRET_LETTERS))
    return identity, f"{_PREFIX}_{identity}_{secret}"


def hash_token(token: str) -> bytes:
    """Return the hash of a key by which it is found."""
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).digest()


def _looks_like_token(token: str) -> bool:
    kind, _, rest = token.partition("_")
    identity, _, secret = rest.partition("_")
    return (kind, len(identity), len(secret)) == (_PREFIX, _ID_LETTERS, _SECRET_LETTERS)


def _rejected(message: str, code: str) -> ApiError:
    return ApiError(401, message, code=code, headers={"www-authenticate": 'Bearer error="invalid_token"'})
