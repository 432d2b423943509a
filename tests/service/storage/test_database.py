"""Transactions happen whole or not at all, and again when the database was away."""

import asyncio
import contextlib
import os
import sqlite3
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import text
from sqlalchemy.orm import Session

import danqing.service.app  # noqa: F401  every table is known once all of the service is
from danqing.errors import ConfigError
from danqing.service.storage.database import Base, Database, DatabaseAwayError, DatabaseError
from tests.service.postgresql import Server


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    database = Database(database_url)
    database.transact(lambda session: session.execute(text("create table counter (value integer not null)")))
    database.transact(lambda session: session.execute(text("insert into counter values (0)")))
    yield database
    database.close()


def count(session: Session) -> int:
    value: int = session.execute(text("select value from counter")).scalar_one()
    return value


def add(session: Session, number: int = 1) -> int:
    session.execute(text("update counter set value = value + :number"), {"number": number})
    return count(session)


def test_the_migrations_make_the_tables_that_the_code_speaks_of(database_url: str) -> None:
    database = Database(database_url)
    try:
        database.migrate()
        database.migrate()  # nothing is left to do
        with database.engine.connect() as connection:
            context = MigrationContext.configure(connection, opts={"compare_server_default": True})
            assert compare_metadata(context, Base.metadata) == []
        names = set(Base.metadata.tables)
        assert {"jobs", "job_events", "webhook_deliveries", "keys", "usage", "audit"} <= names
    finally:
        database.close()


def test_servers_that_start_together_migrate_once(database_url: str) -> None:
    databases = [Database(database_url) for _ in range(4)]
    with ThreadPoolExecutor(4) as threads:
        list(threads.map(Database.migrate, databases))
    for database in databases:
        assert (
            database.transact(lambda session: session.execute(text("select count(*) from jobs"))).scalar()
            == 0
        )
        database.close()


def test_a_database_of_a_newer_version_is_left_alone(database_url: str) -> None:
    database = Database(database_url)
    database.migrate()
    database.transact(
        lambda session: session.execute(text("update alembic_version set version_num = '9999'"))
    )
    with pytest.raises(DatabaseError, match=r"another version of Danqing .*9999.*: use that version"):
        database.migrate()
    database.close()


def test_a_transaction_happens_whole_or_not_at_all(database: Database) -> None:
    def fail(session: Session) -> None:
        add(session)
        raise ZeroDivisionError

    async def run() -> None:
        assert await database.run(add, 2) == 2
        with pytest.raises(ZeroDivisionError):
            await database.run(fail)
        assert await database.run(count) == 2
        assert await database.answers()

    asyncio.run(run())


def test_transactions_of_several_processes_do_not_lose_each_other(
    database: Database, database_url: str
) -> None:
    other = Database(database_url)

    async def run() -> None:
        await asyncio.gather(*[one.run(add) for one in (database, other) for _ in range(30)])
        assert await database.run(count) == 60

    asyncio.run(run())
    other.close()


def test_a_transaction_waits_for_sqlite_to_be_free(tmp_path: Path) -> None:
    path = tmp_path / "service.db"
    database = Database(f"sqlite:///{path}")
    database.migrate()
    other = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    other.execute("begin immediate")
    timer = threading.Timer(0.3, other.execute, ["rollback"])
    timer.start()
    assert asyncio.run(database.answers())
    timer.join()
    other.close()
    database.close()


def test_sqlite_keeps_secrets_to_itself(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "service.db"
    database = Database(f"sqlite:///{path}")
    database.migrate()
    for name in os.listdir(path.parent):
        assert (path.parent / name).stat().st_mode & 0o077 == 0
    database.close()


def test_a_full_disk_is_told_at_once_and_reading_goes_on(tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path / 'service.db'}")
    database.transact(lambda session: session.execute(text("create table counter (value integer)")))

    def fill(session: Session) -> None:
        pages = session.execute(text("pragma page_count")).scalar_one()
        session.execute(text(f"pragma max_page_count = {pages}"))
        session.execute(
            text("insert into counter select value from json_each(:many)"), {"many": f"[{'1,' * 9999}1]"}
        )

    async def run() -> None:
        with pytest.raises(DatabaseError, match="disk may be full") as refused:
            await asyncio.wait_for(database.run(fill), 5)
        assert not isinstance(refused.value, DatabaseAwayError)
        assert (
            await database.run(lambda session: session.execute(text("select * from counter")).all())
        ) == []

    asyncio.run(run())
    database.close()


def test_a_file_that_is_no_database_is_named_in_one_sentence(tmp_path: Path) -> None:
    file = tmp_path / "service.db"
    file.write_bytes(b"no database" * 1000)
    with contextlib.closing(Database(f"sqlite:///{file}")) as database:
        with pytest.raises(DatabaseError, match=r"is damaged \(file is not a database\): restore a backup"):
            database.migrate()
        with pytest.raises(DatabaseError, match="is damaged"):
            database.transact(lambda session: session.execute(text("select 1")))
        reader = Database(f"sqlite:///{file}", reading=True)
    with contextlib.closing(reader), pytest.raises(DatabaseError, match="is damaged"):
        reader.is_current()


def test_a_database_that_comes_back_is_asked_again(postgresql: Server) -> None:
    database = Database(postgresql.new_database())
    database.transact(lambda session: session.execute(text("create table counter (value integer)")))
    database.transact(lambda session: session.execute(text("insert into counter values (0)")))

    async def run() -> None:
        assert await database.run(add) == 1
        await asyncio.to_thread(postgresql.stop)
        try:
            assert not await database.answers()
            with pytest.raises(DatabaseAwayError, match="does not answer"):
                await database.run(add, patience=0.2)
            waiting = [asyncio.create_task(database.run(add, patience=60)) for _ in range(20)]
        finally:
            await asyncio.to_thread(postgresql.start)
        assert sorted(await asyncio.gather(*waiting)) == list(range(2, 22))

    asyncio.run(run())
    database.close()


def test_a_database_that_is_not_there_is_told_with_the_reason() -> None:
    database = Database("postgresql://somebody:secret@/nothing?host=/danqing/is/not/there")
    with pytest.raises(DatabaseAwayError, match=r"cannot be reached: .*No such file") as away:
        database.migrate(patience=0)
    assert "secret" not in str(away.value)
    database.close()


@pytest.mark.parametrize(
    "url", ["sqlite://", "sqlite:///:memory:", "mysql://me:secret@host/name", "service.db"]
)
def test_other_databases_are_refused(url: str) -> None:
    with pytest.raises(ConfigError, match="write sqlite:///FILE or postgresql://") as refused:
        Database(url)
    assert "secret" not in str(refused.value)
