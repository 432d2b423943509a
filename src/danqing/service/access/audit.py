"""The audit log: who did what, in entries of which each seals all that stand before it."""

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
_WAITING = 10_000  # entries that differ and wait for the database; more are counted, not kept
_CHAIN_LOCK = 0x61756469  # any number: two processes must not continue the chain from the same entry
_ROWS_AT_ONCE = 1000
_written = json.JSONEncoder(sort_keys=True, default=str).encode
_COLUMNS = ("number", "at", "event", "facts", "previous", "hash")


class AuditError(DanqingError):
    """The audit log is not what was written."""


class Entry(Base):
    """One thing that was done. facts: a JSON object as it was hashed; at: ISO 8601, UTC.

    hash: SHA-256 in hexadecimal digits of number, at, event, facts and the hash of the entry before.
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
    """The last entry of a chain: kept elsewhere, it tells later whether the end of the log was cut off."""

    number: int
    hash: str

    def __str__(self) -> str:
        return f"{self.number}:{self.hash}"

    @classmethod
    def parse(cls, written: str) -> "Head":
        """What `str` wrote; raises AuditError."""
        number, _, digest = written.partition(":")
        if not (number.isascii() and number.isdigit() and len(digest) == 64):
            raise AuditError(
                f"{written!r} is no head of an audit log: copy what danqing audit verify printed."
            )
        return cls(int(number), digest.lower())


@dataclass(frozen=True, slots=True)
class Happening:
    """What is to become an entry."""

    at: float
    event: str
    facts: str


class Audit:
    """Collects what is done until somebody writes it. Never waits, and never fills the memory.

    What is alike becomes one entry with its `count`: a flood of refusals is one line, not a full disk.
    """

    def __init__(self) -> None:
        self._waiting: dict[tuple[str, str], tuple[float, int]] = {}
        self._lost = 0

    def enter(self, event: str, **facts: Any) -> None:
        """Something was done; facts that are None are left out."""
        known = {name: value for name, value in facts.items() if value is not None}
        what = (event, _written(known))
        first, count = self._waiting.get(what, (time.time(), 0))
        if not count and len(self._waiting) >= _WAITING:
            self._lost += 1
            return
        self._waiting[what] = (first, count + 1)

    def take(self) -> list[Happening]:
        """What was entered since, in its order; whoever takes it writes it."""
        waiting, self._waiting = self._waiting, {}
        taken = [Happening(at, event, _counted(facts, n)) for (event, facts), (at, n) in waiting.items()]
        if self._lost:
            taken.append(Happening(time.time(), "entries lost", json.dumps({"count": self._lost})))
            self._lost = 0
        return taken


def append(session: Session, happenings: Sequence[Happening]) -> Head:
    """Continue the chain; returns its new head."""
    if session.get_bind().dialect.name == "postgresql":
        session.execute(text("select pg_advisory_xact_lock(:lock)"), {"lock": _CHAIN_LOCK})
    at_end, rows = head(session), []
    for happening in happenings:
        at = datetime.fromtimestamp(happening.at, UTC).isoformat(timespec="milliseconds")
        content = (at_end.number + 1, at, happening.event, happening.facts, at_end.hash)
        at_end = Head(at_end.number + 1, _seal(*content))
        rows.append(dict(zip(_COLUMNS, (*content, at_end.hash), strict=True)))
    if rows:
        session.execute(insert(Entry), rows)
    return at_end


def head(session: Session) -> Head:
    """The last entry; number 0 where there is none."""
    last = session.execute(select(Entry.number, Entry.hash).order_by(Entry.number.desc()).limit(1)).first()
    return Head(last.number, last.hash) if last else Head(0, _BEFORE_ALL)


def has(session: Session, wanted: Head) -> bool:
    """Whether the chain holds this very entry."""
    found = session.scalar(select(Entry.hash).where(Entry.number == wanted.number))
    return found == wanted.hash


def verify(database: Database, known: Head | None = None) -> Head:
    """Read the whole chain; returns its head.

    known: a head of an earlier time, which must still be there. Raises AuditError for the first entry that
    was changed, removed or put in between. Whoever may write the whole table can write a whole new chain:
    that is found by a head that was kept elsewhere.
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
                    f"Entry {number} of the audit log, or one before it, is not what was written."
                )
            at_end = Head(number, entry.hash)
            found = found or at_end == known
    if known is not None and not found:
        how = "ends before it" if known.number > at_end.number else "has another one there"
        raise AuditError(f"The audit log is not the one whose entry {known.number} was noted: it {how}.")
    return at_end


def last(session: Session, count: int) -> list[Entry]:
    """The last entries, in their order."""
    return list(session.scalars(select(Entry).order_by(Entry.number.desc()).limit(count)))[::-1]


def _page(session: Session, after: int) -> list[Entry]:
    """The next entries; page by page, for SQLite lets nobody write while a transaction lasts."""
    return list(
        session.scalars(select(Entry).where(Entry.number > after).order_by(Entry.number).limit(_ROWS_AT_ONCE))
    )


def _seal(number: int, at: str, event: str, facts: str, previous: str) -> str:
    return hashlib.sha256(json.dumps([number, at, event, facts, previous]).encode()).hexdigest()


def _counted(facts: str, count: int) -> str:
    return facts if count == 1 else _written({**json.loads(facts), "count": count})
