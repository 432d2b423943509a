"""Browsers that are signed in: what their cookie allows, and what ends it."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest
from sqlalchemy import text

from danqing.service.access import key_admin, sessions
from danqing.service.access.key_admin import Grant
from danqing.service.access.keys import Keys
from danqing.service.access.sessions import session_token
from danqing.service.errors import ApiError
from danqing.service.storage.database import Database


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    database = Database(database_url)
    database.migrate()
    yield database
    database.close()


def with_keys(database: Database, work: Callable[[Keys], Awaitable[None]]) -> None:
    async def run() -> None:
        held = Keys(database)
        await held.start()
        try:
            await work(held)
        finally:
            await held.stop()

    asyncio.run(run())


async def refusal(held: Keys, token: str) -> str:
    with pytest.raises(ApiError) as refused:
        await held.sessions.caller(token)
    return f"{refused.value.status} {refused.value.code}"


def test_a_session_is_its_key_until_it_is_closed(database: Database) -> None:
    key, token = key_admin.create(database, Grant("anna", scopes=("generate",)))

    async def work(held: Keys) -> None:
        session = await held.sessions.open(await held.caller(token))
        assert (await held.sessions.caller(session)).key_id == key.id
        assert (await Keys(database).sessions._read(sessions._hash(session), None)) is not None
        await held.sessions.close(session)
        assert await refusal(held, session) == "401 session_ended"
        for wrong in ("", "x", "A" * 43, "\x00" * 43, token):
            assert await refusal(held, wrong) == "401 session_ended"

    with_keys(database, work)


def test_a_session_ends_with_its_key_and_with_its_time(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, token = key_admin.create(database, Grant("anna"))

    async def work(held: Keys) -> None:
        session = await held.sessions.open(await held.caller(token))
        assert (await held.sessions.caller(session)).name == "anna"
        now = time.time()
        monkeypatch.setattr(time, "time", lambda: now + sessions.SECONDS + 1)
        assert await refusal(held, session) == "401 session_ended"
        monkeypatch.undo()
        assert (await held.sessions.caller(session)).name == "anna"
        await asyncio.to_thread(key_admin.revoke, database, "anna")
        await held._synchronise(patience=1)
        assert await refusal(held, session) == "401 session_ended"

    with_keys(database, work)


def test_only_a_hash_of_the_cookie_is_stored(database: Database) -> None:
    _, token = key_admin.create(database, Grant("anna"))

    async def work(held: Keys) -> None:
        session = await held.sessions.open(await held.caller(token))
        rows = database.transact(
            lambda opened: [tuple(row) for row in opened.execute(text("select * from sessions"))]
        )
        assert len(rows) == 1
        assert session not in str(rows)
        if database.is_sqlite:
            file = Path(str(database.engine.url.database))
            assert not any(session.encode() in each.read_bytes() for each in file.parent.glob("service.db*"))

    with_keys(database, work)


def test_a_cookie_that_somebody_else_set_as_well_is_rejected() -> None:
    assert session_token(b"") is None
    assert session_token(b"a=b; danqing_session=x; c=d") == "x"
    assert session_token(b"not_danqing_session=x") is None
    with pytest.raises(ApiError, match="twice"):
        session_token(b"danqing_session=x; danqing_session=y")
