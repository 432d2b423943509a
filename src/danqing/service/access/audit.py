"""The audit log: a hash chain, in which each entry protects all earlier entries from changes."""

import functools
import hashlib
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import BigInteger, String, Text, insert, select, text
from sqlalchemy.orm import Mapped, Session, mapped_column

from danqing.errors import DanqingError
from danqing.service.storage.database import Base, Database

_BEFORE_ALL = "0" * 64
MOST_WAITING = 10_000  # different entries that wait for the database; further ones are counted, not kept
_CHAIN_LOCK = 0x61756469  # any number: two processes must not continue the chain from the same entry
ROWS_AT_ONCE = 1000
_written = json.JSONEncoder(sort_keys=True, default=str).encode
_COLUMNS = ("number", "at", "event", "facts", "previous", "hash")


class AuditError(DanqingError):
    """The audit log was changed."""


class AuditEntry(Base):
    """An entry of the chain.

    at: ISO 8601, UTC.
    facts: a JSON object, as it was hashed.
    hash: SHA-256 in hexadecimal digits of number, at, event, facts and the previous hash.
    """

    __tablename__ = "audit"

    number: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    at: Mapped[str] = mapped_column(String(32))
    event: Mapped[str] = mapped_column(String(40))
    facts: Mapped[str] = mapped_column(Text)
    previous: Mapped[str] = mapped_column(String(64))
    hash: Mapped[str] = mapped_column(String(64))


@dataclass(frozen=True, slots=True)
class Head:
    """The last entry of a chain.

    Stored elsewhere, it shows later whether the end of the log was removed.
    """

    number: int
    hash: str

    def __str__(self) -> str:
        return f"{self.number}:{self.hash}"

    @classmethod
    def parse(cls, written: str) -> "Head":
        """Parse the output of `str`; raise AuditError."""
        number, _, digest = written.partition(":")
        if not (number.isascii() and number.isdigit() and len(digest) == 64):
            raise AuditError(
                f"{written!r} is not the head of an audit log: copy what `danqing audit verify` printed."
            )
        return cls(int(number), digest.lower())


@dataclass(frozen=True, slots=True)
class PendingEntry:
    """An event that waits to become an entry; at: seconds since 1970."""

    at: float
    event: str
    facts: str


class AuditLog:
    """Collects events until they are written.

    Never blocks, and its memory is bounded.

    Equal events become one entry with a `count`: a flood of rejections is one line, not a full disk.
    """

    def __init__(self) -> None:
        self._waiting: dict[tuple[str, str], tuple[float, int]] = {}
        self._lost = 0

    def record(self, event: str, **facts: Any) -> None:
        """Record an event; facts that are None are left out."""
        known = {name: value for name, value in facts.items() if value is not None}
        what = (event, _written(known))
        first, count = self._waiting.get(what, (time.time(), 0))
        if not count and len(self._waiting) >= MOST_WAITING:
            self._lost += 1
            return
        self._waiting[what] = (first, count + 1)

    def take(self) -> list[PendingEntry]:
        """Return the events since the last call, in order.

        The caller writes them.
        """
        waiting, self._waiting = self._waiting, {}
        taken = [PendingEntry(at, event, _counted(facts, n)) for (event, facts), (at, n) in waiting.items()]
        if self._lost:
            taken.append(PendingEntry(time.time(), "entries lost", json.dumps({"count": self._lost})))
            self._lost = 0
        return taken


def append(session: Session, entries: Sequence[PendingEntry]) -> Head:
    """Append entries to the chain; return its new head."""
    if session.get_bind().dialect.name == "postgresql":
        session.execute(text("select pg_advisory_xact_lock(:lock)"), {"lock": _CHAIN_LOCK})
    at_end, rows = head(session), []
    for entry in entries:
        at = datetime.fromtimestamp(entry.at, UTC).isoformat(timespec="milliseconds")
        content = (at_end.number + 1, at, entry.event, entry.facts, at_end.hash)
        at_end = Head(at_end.number + 1, _seal(*content))
        rows.append(dict(zip(_COLUMNS, (*content, at_end.hash), strict=True)))
    if rows:
        session.execute(insert(AuditEntry), rows)
    return at_end


def head(session: Session) -> Head:
    """Return the last entry.

    Its number is 0 if the log is empty.
    """
    last = session.execute(
        select(AuditEntry.number, AuditEntry.hash).order_by(AuditEntry.number.desc()).limit(1)
    ).first()
    return Head(last.number, last.hash) if last else Head(0, _BEFORE_ALL)


def has(session: Session, wanted: Head) -> bool:
    """Return whether the chain contains exactly this entry."""
    found = session.scalar(select(AuditEntry.hash).where(AuditEntry.number == wanted.number))
    return found == wanted.hash


def verify(database: Database, known: Head | None = None) -> Head:
    """Verify the whole chain; return its head.

    known: an earlier head, which must still be in the chain; it reveals one that was rewritten as a whole.

    Raises AuditError for the first entry that was changed, removed or inserted.
    """
    at_end, found = Head(0, _BEFORE_ALL), known is None or known.number == 0
    while page := database.transact(functools.partial(_page, after=at_end.number)):
        for entry in page:
            number = at_end.number + 1
            if entry.number != number:
                raise AuditError(f"Entry {number} of the audit log was removed.")
            content = (entry.at, entry.event, entry.facts, entry.previous)
            if entry.previous != at_end.hash or entry.hash != _seal(number, *content):
                raise AuditError(
                    f"Entry {number} of the audit log, or one before it, differs from what was written."
                )
            at_end = Head(number, entry.hash)
            found = found or at_end == known
    if known is not None and not found:
        how = "ends before it" if known.number > at_end.number else "has a different entry there"
        raise AuditError(f"The audit log is not the one with the known entry {known.number}: it {how}.")
    return at_end


def last(session: Session, count: int) -> list[AuditEntry]:
    """Return the last entries, oldest first."""
    return list(session.scalars(select(AuditEntry).order_by(AuditEntry.number.desc()).limit(count)))[::-1]


def page_before(session: Session, number: int | None, event: str | None, count: int) -> list[AuditEntry]:
    """Return entries before a number, the latest first; event: only such entries."""
    query = select(AuditEntry).order_by(AuditEntry.number.desc()).limit(count)
    if number is not None:
        query = query.where(AuditEntry.number < number)
    if event is not None:
        query = query.where(AuditEntry.event == event)
    return list(session.scalars(query))


def _page(session: Session, after: int) -> list[AuditEntry]:
    """Return the next entries, page by page: SQLite blocks writers during a transaction."""
    return list(
        session.scalars(
            select(AuditEntry)
            .where(AuditEntry.number > after)
            .order_by(AuditEntry.number)
            .limit(ROWS_AT_ONCE)
        )
    )


def _seal(number: int, at: str, event: str, facts: str, previous: str) -> str:
    return hashlib.sha256(json.dumps([number, at, event, facts, previous]).encode()).hexdigest()


def _counted(facts: str, count: int) -> str:
    return facts if count == 1 else _written({**json.loads(facts), "count": count})
