"""Keys: who may use the service, for what, how much and until when. Only their hashes are kept."""

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

from danqing.errors import ConfigError
from danqing.service.access import audit, usage
from danqing.service.access.accounts import Account
from danqing.service.access.audit import Audit, Happening, Head
from danqing.service.access.caller import RIGHTS, Caller
from danqing.service.errors import ApiError
from danqing.service.observability import logs
from danqing.service.storage.database import Base, Database, DatabaseAwayError, DatabaseError
from danqing.version import __version__

_log = logging.getLogger("danqing.keys")
_LETTERS = string.ascii_letters + string.digits
_PREFIX, _ID_LETTERS, _SECRET_LETTERS = "dq", 12, 43  # 43 letters of 62: 256 bits
_INTERVAL = 0.5  # seconds between looks at the database: a revoked key is refused soon after
_NEW_KEY_INTERVAL = 0.05  # seconds between looks for the sake of keys that are not known
_AWAY = 60.0  # seconds that known keys stay good while the database does not answer
_DAY = 86_400
_NO_HASH = bytes(32)


class Key(Base):
    """A key, without its secret.

    hash: SHA-256 of the whole key; its secret has 256 random bits, so that no slow hash is needed. models:
    None for all. rate: requests per minute; quota: pictures per day. Times are seconds since 1970.
    changes: grows whenever the row is changed.
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
        """In one word: "active", "expired" or "revoked"."""
        if self.revoked is not None:
            return "revoked"
        return "expired" if self.expires is not None and now >= self.expires else "active"


@dataclass(frozen=True, slots=True)
class Grant:
    """What a new key allows. expires: seconds since 1970."""

    name: str
    scopes: tuple[str, ...] = ("generate", "edit")
    models: tuple[str, ...] | None = None
    rate: int | None = None
    quota: int | None = None
    expires: float | None = None

    def __post_init__(self) -> None:
        if not self.name.strip() or len(self.name) > 100 or not self.name.isprintable():
            raise ConfigError("Give the key a name of 1 to 100 printable letters: it says who uses it.")
        for scope in self.scopes:
            if scope not in RIGHTS:
                raise ConfigError(f"There is no scope {scope!r}: choose of {', '.join(RIGHTS)}.")
        for name, limit in (("rate", self.rate), ("quota", self.quota)):
            if limit is not None and not 1 <= limit < 2**31:
                raise ConfigError(f"A {name} must be at least 1, not {limit}: leave it out for none.")
        if self.expires is not None and self.expires <= time.time():
            raise ConfigError("The key would have expired already: choose a time to come.")


def create(database: Database, grant: Grant) -> tuple[Key, str]:
    """A new key, and its secret form, which is shown once and kept nowhere. Raises ConfigError where a key of
    that name is active.
    """
    # Neither a dash nor anything else that ends a word: a double click selects the whole key.
    identity = "".join(secrets.choice(_LETTERS) for _ in range(_ID_LETTERS))
    token = f"{_PREFIX}_{identity}_" + "".join(secrets.choice(_LETTERS) for _ in range(_SECRET_LETTERS))
    key = Key(
        id=identity,
        name=grant.name,
        hash=_hash(token),
        scopes=list(dict.fromkeys(grant.scopes)),
        models=None if grant.models is None else sorted(set(grant.models)),
        rate=grant.rate,
        quota=grant.quota,
        created=time.time(),
        expires=grant.expires,
        changes=1,
    )

    def insert(session: Session) -> None:
        now = time.time()
        for other in session.scalars(select(Key).where(Key.name == grant.name)):
            if other.state(now) == "active":
                raise ConfigError(
                    f"There is a key {grant.name} already: choose another name, or revoke it by "
                    f"`danqing keys revoke {other.id}`."
                )
        session.add(key)
        _enter(session, "key created", key=identity, name=grant.name, scopes=key.scopes, models=key.models)

    database.transact(insert)
    return key, token


def revoke(database: Database, which: str) -> Key:
    """End a key, by its name or id; whoever holds it is refused within two seconds. Raises ConfigError."""

    def update(session: Session) -> Key:
        found = list(session.scalars(select(Key).where((Key.id == which) | (Key.name == which))))
        live = [key for key in found if key.revoked is None]
        if not live:
            raise ConfigError(
                f"The key {which} has been revoked already."
                if found
                else f"There is no key {which}: danqing keys list shows those that there are."
            )
        key = max(live, key=lambda key: (key.id == which, key.created))
        key.revoked, key.changes = time.time(), key.changes + 1
        _enter(session, "key revoked", key=key.id, name=key.name)
        return key

    return database.transact(update)


def every(database: Database) -> list[tuple[Key, usage.Used]]:
    """All keys there ever were, the oldest first, each with what it has used."""

    def read(session: Session) -> list[tuple[Key, usage.Used]]:
        used = usage.totals(session, int(time.time() // _DAY))
        keys = session.scalars(select(Key).order_by(Key.created))
        return [(key, used.get(key.id, usage.Used())) for key in keys]

    return database.transact(read)


@dataclass(slots=True)
class _Batch:
    """What is to be written together: again and again until it is there, but once."""

    happenings: list[Happening]
    amounts: usage.Amounts
    tried: Head | None = None


@dataclass(frozen=True, slots=True)
class _Held:
    hash: bytes
    caller: Caller
    expires: float
    revoked: bool


@dataclass(slots=True)
class _Seen:
    """What a look at the database found; keys: None where they are as they were."""

    mark: tuple[int, int]
    keys: list[Key] | None
    day: int
    images: dict[str, int] = field(default_factory=dict)


class Keys:
    """The keys of a running service, held in memory: checking one takes no look at the database.

    A task of its own looks there twice a second for changes, and writes what was used together with the audit
    log. The keys stay good for a minute while the database is away.
    """

    def __init__(self, database: Database) -> None:
        self.audit = Audit()
        self.exist = False
        """Whether there was ever a key; from then on every request needs one, though all be revoked."""
        self._database = database
        self._held: dict[str, _Held] = {}
        self._mark = (-1, -1)
        self._seen_at = -math.inf
        self._batch: _Batch | None = None
        self._head: Head | None = None
        self._away, self._full = False, False
        self._looking = asyncio.Lock()
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Read the keys, and keep them fresh from now on."""
        self.audit.enter("service started", version=__version__)
        await self._look(patience=10)
        self._note_head()
        self._task = asyncio.create_task(self._tend(), name="keys")

    async def stop(self) -> None:
        """Write what is still to be written."""
        if self._task is None:
            return
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task
        self.audit.enter("service stopped")
        try:
            await self._look(patience=2)  # a batch that failed before
            await self._look(patience=2)
            self._note_head()
        except DatabaseError as error:
            logs.event(_log, "the last entries of the audit log are lost", logging.ERROR, reason=str(error))

    async def caller(self, token: str) -> Caller:
        """Whose key it is; raises ApiError 401 for a key that is wrong, revoked or expired, 503 where the
        database has been away for too long.
        """
        if time.monotonic() - self._seen_at > _AWAY:
            raise ApiError(
                503,
                "Keys cannot be checked at present.",
                code="keys_unavailable",
                headers={"retry-after": "5"},
            )
        identity = token.removeprefix(f"{_PREFIX}_").partition("_")[0]
        held = self._held.get(identity)
        if held is None and not self._away and _looks_like_one(token):
            await self._look_for_new()
            held = self._held.get(identity)
        right = hmac.compare_digest(_hash(token), held.hash if held else _NO_HASH)
        if held is None or not right:
            raise _refused("This key is not valid: see that it is whole.", "invalid_api_key")
        if held.revoked:
            raise _refused("This key has been revoked.", "revoked_api_key")
        if time.time() >= held.expires:
            raise _refused("This key has expired.", "expired_api_key")
        return held.caller

    def of(self, key_id: str) -> Caller | None:
        """The caller of a key that is good now, for work that goes on after its request."""
        held = self._held.get(key_id)
        good = held is not None and not held.revoked and time.time() < held.expires
        return held.caller if held is not None and good else None

    async def _look_for_new(self) -> None:
        """A key that was made a moment ago is good at once; guesses cost the database few looks a second."""
        asked = time.monotonic()
        async with self._looking:
            wait = self._seen_at + _NEW_KEY_INTERVAL - asked
            if self._seen_at > asked:
                return  # somebody else has looked meanwhile
            if wait > 0:
                await asyncio.sleep(wait)
            with contextlib.suppress(DatabaseError):
                await self._look_now(patience=0)

    def _note_head(self) -> None:
        """Say in the log, which is kept elsewhere, how far the chain went."""
        logs.event(_log, "audit log", head=str(self._head))

    async def _tend(self) -> None:
        while True:
            await asyncio.sleep(_INTERVAL)
            known = self._away
            try:
                await self._look(patience=0)
            except DatabaseError as error:
                if not known:
                    logs.event(_log, "the database is away", logging.WARNING, reason=str(error))
            except Exception:  # whatever it was, revoked keys must be found again
                _log.exception("looking for changes of keys failed")

    async def _look(self, patience: float) -> None:
        async with self._looking:
            await self._look_now(patience)

    async def _look_now(self, patience: float) -> None:
        """Write what there is to write, and read what has changed, in one transaction."""
        began = time.monotonic()
        batch = self._batch = self._batch or self._collected()
        try:
            try:
                seen = await self._database.run(self._exchange(batch), patience=patience)
            except DatabaseAwayError:
                raise
            except DatabaseError as error:  # a full disk takes nothing, and can be read
                if not self._full:
                    logs.event(_log, "the audit log cannot be written", logging.ERROR, reason=str(error))
                self._full = True
                seen = await self._database.run(self._exchange(None), patience=patience)
            else:
                self._full = False
                if batch is not None:
                    self._head, self._batch = batch.tried, None
        except DatabaseError:
            self._away = True
            raise
        self._away = False
        if seen.keys is not None:
            self._hold(seen.keys)
            self._mark = seen.mark
        if self._batch is None:  # else the database does not know yet of what that one holds
            for identity, images in seen.images.items():
                if held := self._held.get(identity):
                    held.caller.account.known(seen.day, images)
        self._seen_at = began

    def _exchange(self, batch: _Batch | None) -> Callable[[Session], _Seen]:
        mark = self._mark

        def exchange(session: Session) -> _Seen:
            if batch is not None:
                _write(session, batch)
            count, changes = session.execute(select(func.count(), func.sum(Key.changes))).one()
            seen = _Seen((count, int(changes or 0)), None, int(time.time() // _DAY))
            if seen.mark != mark:
                seen.keys = list(session.scalars(select(Key)))
            if batch is not None or seen.keys is not None:
                seen.images = usage.images_of(session, seen.day)
            return seen

        return exchange

    def _collected(self) -> _Batch | None:
        """What waits to be written. Usage goes with entries of the audit log, by which a batch that was
        committed unnoticed is known; each request that is counted has an entry when it ends.
        """
        happenings = self.audit.take()
        if not happenings:
            return None
        amounts = {
            (identity, day): counted
            for identity, held in self._held.items()
            for day, counted in held.caller.account.unwritten().items()
        }
        return _Batch(happenings, amounts)

    def _hold(self, keys: Iterable[Key]) -> None:
        old, self._held = self._held, {}
        for key in keys:
            known = old.get(key.id)
            account = known.caller.account if known else Account(key.rate, key.quota)
            models = None if key.models is None else frozenset(key.models)
            self._held[key.id] = _Held(
                hash=key.hash,
                caller=Caller(key.id, key.name, frozenset(key.scopes), models, account),
                expires=math.inf if key.expires is None else key.expires,
                revoked=key.revoked is not None,
            )
        self.exist = self.exist or bool(self._held)


def _write(session: Session, batch: _Batch) -> None:
    """Write a batch that may have been written already: its commit may have broken off after it was done."""
    if batch.tried is not None and audit.has(session, batch.tried):
        return
    batch.tried = audit.append(session, batch.happenings)
    usage.add(session, batch.amounts)


def _enter(session: Session, event: str, **facts: object) -> None:
    log = Audit()
    log.enter(event, **facts)
    audit.append(session, log.take())


def _hash(token: str) -> bytes:
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).digest()


def _looks_like_one(token: str) -> bool:
    kind, _, rest = token.partition("_")
    identity, _, secret = rest.partition("_")
    return (kind, len(identity), len(secret)) == (_PREFIX, _ID_LETTERS, _SECRET_LETTERS)


def _refused(message: str, code: str) -> ApiError:
    return ApiError(401, message, code=code, headers={"www-authenticate": 'Bearer error="invalid_token"'})
