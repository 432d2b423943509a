"""Whatever is done to the audit log afterwards is found."""

import hashlib
import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy import delete, update
from sqlalchemy.orm import Session

from danqing.service.access import audit
from danqing.service.access.audit import AuditEntry, AuditError, AuditLog, Head
from danqing.service.storage.database import Database

COUNT = 12


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    database = Database(database_url)
    database.migrate()
    write(database, *range(COUNT))
    yield database
    database.close()


def write(database: Database, *numbers: int) -> Head:
    log = AuditLog()
    for number in numbers:
        log.record("request", number=number, name="丹青 \u2028 '\"", missing=None)
    return database.transact(lambda session: audit.append(session, log.take()))


def change(number: int, **values: object) -> Callable[[Session], object]:
    return lambda session: session.execute(
        update(AuditEntry).where(AuditEntry.number == number).values(**values)
    )


def swap(session: Session) -> None:
    first, second = (session.get_one(AuditEntry, number) for number in (4, 5))
    first.facts, second.facts = second.facts, first.facts


def rewrite(session: Session) -> None:
    """As an attacker who knows how the hash is made, but stops at one entry."""
    entry = session.get_one(AuditEntry, 6)
    entry.facts = entry.facts.replace("5", "500")
    content = json.dumps([entry.number, entry.at, entry.event, entry.facts, entry.previous])
    entry.hash = hashlib.sha256(content.encode()).hexdigest()


TAMPERINGS: dict[str, tuple[Callable[[Session], object], str]] = {
    "facts": (change(3, facts="{}"), "Entry 3 "),
    "event": (change(1, event="key created"), "Entry 1 "),
    "time": (change(COUNT, at="2020-01-01T00:00:00.000+00:00"), f"Entry {COUNT} "),
    "swap": (swap, "Entry 4 "),
    "hash": (change(7, hash="0" * 64), "Entry 7 "),
    "rewrite": (rewrite, "Entry 7 .*, or one before it"),
    "removed": (
        lambda session: session.execute(delete(AuditEntry).where(AuditEntry.number == 5)),
        "Entry 5 .*removed",
    ),
    "beginning removed": (
        lambda session: session.execute(delete(AuditEntry).where(AuditEntry.number <= 3)),
        "Entry 1 .*removed",
    ),
}


def test_a_chain_is_as_it_was_written(database: Database) -> None:
    found = audit.verify(database)
    assert found.number == COUNT
    assert audit.verify(database, found) == found
    write(database, 99)
    assert audit.verify(database, found).number == COUNT + 1  # an older head is still there
    assert Head.parse(str(found)) == found


@pytest.mark.parametrize("tampering", TAMPERINGS)
def test_tampering_is_found_where_it_begins(database: Database, tampering: str) -> None:
    tamper, message = TAMPERINGS[tampering]
    database.transact(tamper)
    with pytest.raises(AuditError, match=message):
        audit.verify(database)


def test_a_log_whose_end_was_cut_off_or_that_was_written_anew_is_found_by_a_noted_head(
    database: Database,
) -> None:
    noted = audit.verify(database)
    database.transact(lambda session: session.execute(delete(AuditEntry).where(AuditEntry.number > 8)))
    assert audit.verify(database).number == 8
    with pytest.raises(AuditError, match="ends before it"):
        audit.verify(database, noted)
    write(database, *range(4))
    with pytest.raises(AuditError, match="a different entry there"):
        audit.verify(database, noted)


def test_a_long_chain_is_read_page_by_page(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audit, "ROWS_AT_ONCE", 5)
    assert audit.verify(database).number == COUNT
    database.transact(change(11, facts="{}"))
    with pytest.raises(AuditError, match="Entry 11 "):
        audit.verify(database)


def test_those_who_write_at_the_same_time_continue_one_chain(database: Database) -> None:
    others = [Database(database.engine.url.render_as_string(hide_password=False)) for _ in range(3)]
    with ThreadPoolExecutor(3) as threads:
        for other in others:
            for number in range(6):
                threads.submit(write, other, number, number + 1)
    for other in others:
        other.close()
    assert audit.verify(database).number == COUNT + 36


def test_what_is_alike_is_one_entry_and_what_is_too_much_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audit, "MOST_WAITING", 3)
    log = AuditLog()
    for number in range(5):
        log.record("request", number=number)
    for _ in range(7):
        log.record("request", number=1)
    taken = [(happening.event, json.loads(happening.facts)) for happening in log.take()]
    assert taken == [
        ("request", {"number": 0}),
        ("request", {"number": 1, "count": 8}),
        ("request", {"number": 2}),
        ("entries lost", {"count": 2}),
    ]
    assert log.take() == []


@pytest.mark.parametrize("written", ["", "5", "5:abc", "x:" + "0" * 64, "-1:" + "0" * 64])
def test_what_is_no_head_is_refused(written: str) -> None:
    with pytest.raises(AuditError, match="danqing audit verify"):
        Head.parse(written)
