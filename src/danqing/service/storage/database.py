"""The database of jobs, keys, usage and the audit log: a file of SQLite, or PostgreSQL."""

import asyncio
import contextlib
import math
import os
import sqlite3
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal, TypeVar, TypeVarTuple

from sqlalchemy import URL, Connection, Engine, MetaData, create_engine, event, inspect, make_url, text
from sqlalchemy.exc import ArgumentError, DBAPIError, InterfaceError, OperationalError
from sqlalchemy.orm import DeclarativeBase, Session

from danqing.errors import ConfigError, DanqingError

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

_POSTGRESQL_THREADS = 4
_PAUSE = 0.5  # seconds until a database that was away is tried again
_BUSY_SECONDS = 10  # that SQLite waits for another process to finish writing
_MIGRATIONS = Path(__file__).with_name("migrations")
_MIGRATION_LOCK = 0x64616E71  # any number: servers that start together migrate one after the other


class Base(DeclarativeBase):
    """The tables of a service.

    Constraints have fixed names, which migrations refer to.
    """

    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "ck": "ck_%(table_name)s_%(constraint_name)s",
            "fk": "fk_%(table_name)s_%(column_0_N_name)s_%(referred_table_name)s",
            "pk": "pk_%(table_name)s",
        }
    )


class DatabaseError(DanqingError):
    """The database cannot be used.

    Its disk is full, it is read-only, or it is damaged.
    """


class DatabaseAwayError(DatabaseError):
    """The database does not answer at present."""


class Database:
    """Runs transactions in threads, so that the event loop never waits.

    SQLite has one thread: it allows one writer at a time, and a queue is cheaper than waiting for its lock.

    url: an SQLAlchemy URL, `sqlite:///FILE` or `postgresql://...`; raises ConfigError for others.
    reading: opens the database read-only; raises ConfigError if a file does not exist.
    """

    def __init__(self, url: str, *, reading: bool = False) -> None:
        parsed = _checked(url)
        self.reading = reading
        self.is_sqlite = parsed.get_backend_name() == "sqlite"
        if self.is_sqlite:
            self.engine = _sqlite_to_read(parsed) if reading else _sqlite(parsed)
        else:
            self.engine = _postgresql(parsed)
        self._threads = ThreadPoolExecutor(
            1 if self.is_sqlite else _POSTGRESQL_THREADS, thread_name_prefix="database"
        )
        self._away_until = -math.inf

    async def start(self) -> None:
        """Call `migrate` without blocking the event loop."""
        await asyncio.get_running_loop().run_in_executor(self._threads, self.migrate)

    async def stop(self) -> None:
        """Call `close` without blocking the event loop."""
        await asyncio.to_thread(self.close)

    def migrate(self, patience: float = 10.0) -> None:
        """Migrate the tables to the newest version; data is kept.

        Raises DatabaseAwayError if the database does not answer for `patience` seconds, DatabaseError
        if a newer Danqing has written it.
        """
        deadline = time.monotonic() + patience
        while True:
            try:
                return self._migrate()
            except DBAPIError as error:
                trouble, reason = _trouble(error), _first_line(error)
                if trouble == "damaged":
                    raise _damaged(error) from error
                if trouble == "refuses":
                    raise DatabaseError(f"The database cannot be written: {reason}.") from error
                if trouble is None:
                    raise
                if time.monotonic() > deadline:
                    raise DatabaseAwayError(
                        f"The database cannot be reached: {reason}; is it running, and is its URL right?"
                    ) from error
            time.sleep(0.2)

    def is_current(self) -> bool:
        """Return whether the tables have the newest version; raises as `transact`."""

        return self.transact(lambda session: _is_current(session.connection()))

    def _migrate(self) -> None:
        with self.engine.begin() as connection:
            if not self.is_sqlite:
                connection.execute(text("select pg_advisory_xact_lock(:lock)"), {"lock": _MIGRATION_LOCK})
            if not _is_current(connection):
                _upgrade(connection)

    def transact(self, function: Callable[[Session, *Ts], T], *arguments: *Ts) -> T:
        """Call a function in a transaction in this thread; return its result.

        The transaction is committed when it returns, and rolled back when it raises. For the command line; a
        server uses `run`. Raises DatabaseAwayError, DatabaseError.
        """
        if time.monotonic() < self._away_until:
            raise DatabaseAwayError("The database does not answer at present: retry in a moment.")
        try:
            with Session(self.engine, expire_on_commit=False) as session, session.begin():
                return function(session, *arguments)
        except DBAPIError as error:
            trouble = _trouble(error)
            if trouble == "damaged":
                raise _damaged(error) from error
            if trouble == "refuses":
                raise DatabaseError("The database cannot be written; its disk may be full.") from error
            if trouble is None:
                raise
            if trouble == "away":  # queued transactions need not find out one by one
                self._away_until = time.monotonic() + _PAUSE
            raise DatabaseAwayError("The database does not answer at present: retry in a moment.") from error

    async def run(self, function: Callable[[Session, *Ts], T], *arguments: *Ts, patience: float = 10.0) -> T:
        """Call a function in a transaction in a thread; return its result.

        It is retried for `patience` seconds while the database is away. So it must be idempotent: a
        connection can break just after a commit. Choose identifiers outside of it. Raises DatabaseAwayError,
        DatabaseError.
        """
        deadline, pause = time.monotonic() + patience, 0.05
        loop = asyncio.get_running_loop()
        while True:
            try:
                return await loop.run_in_executor(self._threads, self.transact, function, *arguments)
            except DatabaseAwayError:
                if time.monotonic() + pause > deadline:
                    raise
            await asyncio.sleep(pause)
            pause = min(2 * pause, 1.0)

    async def answers(self) -> bool:
        """Return whether the database answers now."""
        try:
            await self.run(lambda session: session.execute(text("select 1")), patience=0)
        except DatabaseError:
            return False
        return True

    def close(self) -> None:
        """Finish running transactions, and close the database."""
        self._threads.shutdown()
        self.engine.dispose()


def _is_current(connection: Connection) -> bool:
    """Return whether the tables have the newest version, without Alembic, which takes a while to import."""
    if not inspect(connection).has_table("alembic_version"):
        return False
    newest = max(path.name[1:5] for path in (_MIGRATIONS / "versions").glob("v*.py"))
    return list(connection.scalars(text("select version_num from alembic_version"))) == [newest]


def _upgrade(connection: Connection) -> None:
    from alembic import command
    from alembic.config import Config
    from alembic.util import CommandError

    config = Config(attributes={"connection": connection})
    config.set_main_option("script_location", str(_MIGRATIONS).replace("%", "%%"))
    try:
        command.upgrade(config, "head")
    except CommandError as error:
        raise DatabaseError(
            f"The database was written by another version of Danqing ({error}): use that version or a newer "
            "one."
        ) from error


def _checked(url: str) -> URL:
    try:
        parsed = make_url(url)
    except ArgumentError as error:
        raise ConfigError(
            f"{url!r} is not a database URL: write sqlite:///FILE or postgresql://USER:PASSWORD@HOST/NAME."
        ) from error
    kind = parsed.get_backend_name()
    if kind == "sqlite" and parsed.database not in (None, "", ":memory:"):
        return parsed.set(drivername="sqlite")
    if kind in ("postgresql", "postgres"):
        return parsed.set(drivername="postgresql+psycopg")
    raise ConfigError(
        f"The database {parsed.render_as_string(hide_password=True)} is not supported: write sqlite:///FILE "
        "or postgresql://USER:PASSWORD@HOST/NAME."
    )


def _sqlite(url: URL) -> Engine:
    path = Path(str(url.database))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # Created here with private permissions, because it contains secrets of webhooks.
        os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
    except OSError as error:
        raise DatabaseError(f"The database cannot be written: {error}.") from error
    engine = create_engine(url, connect_args={"timeout": _BUSY_SECONDS})

    @event.listens_for(engine, "connect")
    def set_up(connection: sqlite3.Connection, _: Any) -> None:
        connection.isolation_level = None  # transactions are begun below, not guessed by the driver
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")  # accepted jobs survive a power failure
        connection.execute("PRAGMA foreign_keys = ON")

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        # A transaction that reads first and writes later would fail at once if another transaction writes.
        connection.exec_driver_sql("BEGIN IMMEDIATE")

    return engine


def _sqlite_to_read(url: URL) -> Engine:
    path = Path(str(url.database)).absolute()
    if not path.exists():
        raise ConfigError(f"There is no database at {path}.")
    address = f"{path.as_uri()}?mode=ro"
    wal = path.with_name(f"{path.name}-wal")
    try:
        with contextlib.closing(sqlite3.connect(address, uri=True)) as probe:
            probe.execute("select count(*) from sqlite_master")
    except sqlite3.OperationalError:
        # Readers create a file beside it, which is not possible here. If the write-ahead log is empty, the
        # file alone is complete.
        if not wal.exists() or not wal.stat().st_size:
            address += "&immutable=1"
    except sqlite3.DatabaseError:
        pass  # the first query says what is wrong

    def connect() -> sqlite3.Connection:
        return sqlite3.connect(address, uri=True, timeout=_BUSY_SECONDS, check_same_thread=False)

    return create_engine(url, creator=connect)


def _postgresql(url: URL) -> Engine:
    patience: dict[str, Any] = {"connect_timeout": 5, "keepalives_idle": 10, "tcp_user_timeout": 15_000}
    try:
        return create_engine(
            url,
            pool_size=_POSTGRESQL_THREADS,
            pool_pre_ping=True,
            connect_args={name: value for name, value in patience.items() if name not in url.query},
        )
    except ModuleNotFoundError as error:
        raise ConfigError("PostgreSQL needs a driver: run pip install 'danqing[postgresql]'.") from error


_Trouble = Literal["away", "again", "refuses", "damaged"]
_SQLITE_TROUBLE: dict[int, _Trouble] = {
    sqlite3.SQLITE_BUSY: "again",
    sqlite3.SQLITE_LOCKED: "again",
    sqlite3.SQLITE_IOERR: "again",
    sqlite3.SQLITE_CANTOPEN: "again",
    sqlite3.SQLITE_PROTOCOL: "again",
    sqlite3.SQLITE_FULL: "refuses",
    sqlite3.SQLITE_READONLY: "refuses",
    sqlite3.SQLITE_CORRUPT: "damaged",
    sqlite3.SQLITE_NOTADB: "damaged",
}


def _first_line(error: DBAPIError) -> str:
    return str(error.orig).strip().partition("\n")[0]


def _damaged(error: DBAPIError) -> DatabaseError:
    return DatabaseError(
        f"The database is damaged ({_first_line(error)}): restore a backup, or choose another database."
    )


def _trouble(error: DBAPIError) -> _Trouble | None:
    """Classify an error that is not a bug: the database is away, the transaction must be repeated, or the
    database cannot be written or is damaged.
    """
    code = getattr(error.orig, "sqlite_errorcode", None)
    if code is not None:
        return _SQLITE_TROUBLE.get(code & 0xFF)
    state = str(getattr(error.orig, "sqlstate", None) or "")
    if state in ("40001", "40P01"):  # serialization failure, deadlock
        return "again"
    if state in ("53100", "53200"):  # disk full, out of memory
        return "refuses"
    # 25006: a standby answers that is just taking over
    if (
        error.connection_invalidated
        or state == "25006"
        or isinstance(error, OperationalError | InterfaceError)
    ):
        return "away"
    return None
