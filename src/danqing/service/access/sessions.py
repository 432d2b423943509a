"""Browsers that are signed in with a key: a cookie instead of the key in every request."""

import hashlib
import re
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass

from sqlalchemy import Double, LargeBinary, String, delete
from sqlalchemy.orm import Mapped, Session, mapped_column

from danqing.service.access.caller import Caller
from danqing.service.errors import ApiError
from danqing.service.storage.database import Base, Database, DatabaseError

COOKIE = "danqing_session"
SECONDS = 7 * 86_400
"""How long a browser stays signed in."""
_FRESH = 1.0  # seconds until a known session is looked up again: another server may have ended it
_PATIENT = 60.0  # seconds that known sessions stay valid while the database does not answer
_MOST_KNOWN = 10_000
_TOKEN = re.compile(r"[A-Za-z0-9_-]{43}", re.ASCII)


class BrowserSession(Base):
    """A browser that is signed in.

    hash: SHA-256 of its cookie, which has 256 random bits and is stored nowhere.
    key: the id of the key that it was signed in with.
    expires: seconds since 1970.
    """

    __tablename__ = "sessions"

    hash: Mapped[bytes] = mapped_column(LargeBinary(32), primary_key=True)
    key: Mapped[str] = mapped_column(String(16))
    expires: Mapped[float] = mapped_column(Double, index=True)


@dataclass(frozen=True, slots=True)
class _Known:
    key: str
    expires: float
    read: float


class Sessions:
    """The sessions of a running service; a session allows what its key allows now.

    of: returns the caller of a key, None once it is revoked or has expired.
    """

    def __init__(self, database: Database, of: Callable[[str], Caller | None]) -> None:
        self._database, self._of = database, of
        self._known: dict[bytes, _Known] = {}

    async def open(self, caller: Caller) -> str:
        """Sign a browser in; return the value of its cookie."""
        token, now = secrets.token_urlsafe(32), time.time()
        await self._database.run(_insert, _hash(token), caller.owner, now)
        return token

    async def close(self, token: str) -> None:
        """Sign a browser out."""
        self._known.pop(_hash(token), None)
        await self._database.run(_delete, _hash(token))
        self._known.pop(_hash(token), None)

    async def caller(self, token: str) -> Caller:
        """Return the caller of a session.

        Raises ApiError 401 once it has ended or its key is not valid, 503 if that cannot be known.
        """
        hashed = _hash(token)
        known = self._known.get(hashed) if _TOKEN.fullmatch(token) else None
        if _TOKEN.fullmatch(token) and (known is None or time.monotonic() - known.read > _FRESH):
            known = await self._read(hashed, known)
        caller = self._of(known.key) if known is not None and time.time() < known.expires else None
        if caller is None:
            raise ApiError(
                401,
                "This browser is not signed in any more: sign in with a key.",
                code="session_ended",
                headers={"www-authenticate": "Bearer"},
            )
        return caller

    async def _read(self, hashed: bytes, known: _Known | None) -> _Known | None:
        try:
            found = await self._database.run(_find, hashed, patience=0)
        except DatabaseError:
            if known is not None and time.monotonic() - known.read < _PATIENT:
                return known
            message = "Sessions cannot be checked at present."
            raise ApiError(503, message, code="keys_unavailable", headers={"retry-after": "5"}) from None
        if found is None:
            self._known.pop(hashed, None)
            return None
        if len(self._known) >= _MOST_KNOWN:
            self._known.clear()
        self._known[hashed] = _Known(found.key, found.expires, time.monotonic())
        return self._known[hashed]


def session_token(cookies: bytes) -> str | None:
    """Return the session in a `Cookie` header.

    Raises ApiError 400 if there are two: one was set by somebody else.
    """
    pairs = (pair.strip().partition(b"=") for pair in cookies.split(b";"))
    values = [value for name, _, value in pairs if name == COOKIE.encode()]
    if len(values) > 1:
        raise ApiError(400, f"The cookie {COOKIE} occurs twice.", code="invalid_header")
    return values[0].decode("latin-1") if values else None


def _hash(token: str) -> bytes:
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).digest()


def _insert(session: Session, hashed: bytes, key: str, now: float) -> None:
    session.execute(delete(BrowserSession).where(BrowserSession.expires <= now))
    session.merge(BrowserSession(hash=hashed, key=key, expires=now + SECONDS))


def _find(session: Session, hashed: bytes) -> BrowserSession | None:
    return session.get(BrowserSession, hashed)


def _delete(session: Session, hashed: bytes) -> None:
    session.execute(delete(BrowserSession).where(BrowserSession.hash == hashed))
