"""Who has a key may do what it says, as much as it says and until it ends; who has none may nothing."""

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
import sqlalchemy.event
from sqlalchemy import delete, select, text, update
from sqlalchemy.orm import Session

from danqing.errors import ConfigError
from danqing.service.access import audit, key_admin, keys
from danqing.service.access.key_admin import Grant
from danqing.service.access.keys import Key, Keys
from danqing.service.errors import ApiError
from danqing.service.storage.database import Database, DatabaseAwayError
from tests.service.gated import Gated, gated
from tests.service.serving import served

PAINT = "/v1/paint"


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    database = Database(database_url)
    database.migrate()
    yield database
    database.close()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gated]:
    with gated(tmp_path_factory.mktemp("keyed")) as server:
        first_key(server)
        yield server


def make(server: Gated, grant: Grant) -> str:
    with contextlib.closing(Database(server.settings.database_url)) as database:
        return key_admin.create(database, grant)[1]


def first_key(server: Gated) -> str:
    """A key, made while the service is open: from a moment later on it is closed."""
    token = make(server, Grant("studio"))
    wait_until(lambda: httpx.get(f"{server.url}/v1/who").status_code == 401)
    return token


def wait_until(happened: Callable[[], bool], seconds: float = 2) -> None:
    """Ask again and again; what a change of the keys leads to must have happened within two seconds.

    They are seconds of the processor, of which other processes take none.
    """
    deadline = time.process_time() + seconds
    while not happened():
        assert time.process_time() < deadline


def end(server: Gated, name: str) -> None:
    with contextlib.closing(Database(server.settings.database_url)) as database:
        key_admin.revoke(database, name)


def ask(server: Gated, token: str, method: str = "GET", path: str = "/v1/who", **json: Any) -> httpx.Response:
    headers = {"authorization": f"Bearer {token}"}
    return httpx.request(method, server.url + path, headers=headers, json=json or None)


def code(answer: httpx.Response) -> str:
    return f"{answer.status_code} {answer.json()['error']['code']}"


@contextlib.asynccontextmanager
async def tended(database: Database) -> AsyncIterator[Keys]:
    held = Keys(database)
    await held.start()
    try:
        yield held
    finally:
        await held.stop()


async def refusal(held: Keys, token: str) -> str:
    with pytest.raises(ApiError) as refused:
        await held.caller(token)
    return f"{refused.value.status} {refused.value.code}"


def test_only_a_hash_is_kept(database: Database) -> None:
    _, token = key_admin.create(database, Grant("studio"))
    secret = token.rpartition("_")[2]
    assert len(secret) == 43
    tables = database.transact(
        lambda session: [
            str(row) for table in ("keys", "audit") for row in session.execute(text(f"select * from {table}"))
        ]
    )
    assert "studio" in "".join(tables)
    assert secret not in "".join(tables)
    if database.is_sqlite:
        file = Path(str(database.engine.url.database))
        assert not any(secret.encode() in each.read_bytes() for each in file.parent.glob("service.db*"))
        assert file.stat().st_mode & 0o077 == 0


def test_a_key_is_its_callers_and_whatever_else_is_refused(database: Database) -> None:
    grant = Grant("studio", scopes=("generate",), models=("cats", "dogs"), rate=60, quota=10)
    key, token = key_admin.create(database, grant)
    _, other = key_admin.create(database, Grant("shop"))
    swapped = f"dq_{key.id}_{other.rpartition('_')[2]}"
    wrong = (
        token[:-1],
        token + "x",
        token.upper(),
        swapped,
        key.id,
        "",
        "dq__",
        "dq_\udcff_\udcff",
        "x" * 9999,
    )

    async def look() -> None:
        async with tended(database) as held:
            caller = await held.caller(token)
            assert (caller.key_id, caller.name, caller.scopes) == (key.id, "studio", {"generate"})
            assert caller.may("generate")
            assert not caller.may("admin")
            assert caller.may_use("dogs")
            assert not caller.may_use("birds")
            assert held.of(key.id) == caller
            assert held.of("nobody") is None
            for guess in wrong:
                assert await refusal(held, guess) == "401 invalid_api_key"

    asyncio.run(look())


def test_an_expired_key_is_refused_and_may_be_made_anew(database: Database) -> None:
    async def look() -> None:
        _, token = key_admin.create(database, Grant("studio", expires=time.time() + 0.3))
        async with tended(database) as held:
            caller = await held.caller(token)
            while held.of(str(caller.key_id)):
                await asyncio.sleep(0.01)
            assert await refusal(held, token) == "401 expired_api_key"

    asyncio.run(look())
    key_admin.create(database, Grant("studio"))
    with pytest.raises(ConfigError, match="There is a key studio already"):
        key_admin.create(database, Grant("studio"))


def test_guesses_cost_the_database_few_looks_and_a_new_key_is_good_at_once(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks = 0
    run = database.run

    async def counted(*arguments: Any, **options: Any) -> Any:
        nonlocal looks
        looks += 1
        return await run(*arguments, **options)

    async def look() -> None:
        async with tended(database) as held:
            began, before = time.monotonic(), looks
            _, token = key_admin.create(database, Grant("studio"))
            guesses = [f"dq_{number:012}_{'a' * 43}" for number in range(300)]
            caller, refused = await asyncio.gather(
                held.caller(token), asyncio.gather(*(refusal(held, guess) for guess in guesses))
            )
            assert caller.name == "studio"
            assert set(refused) == {"401 invalid_api_key"}
            assert looks - before <= 2 + (time.monotonic() - began) / 0.05

    monkeypatch.setattr(database, "run", counted)
    asyncio.run(look())


def test_the_quota_survives_a_restart_and_usage_is_told(database: Database) -> None:
    key, token = key_admin.create(database, Grant("studio", quota=10))

    async def use(images: int) -> str:
        async with tended(database) as held:
            caller = await held.caller(token)
            try:
                caller.account.request()
                caller.account.charge(images)
            except ApiError as error:
                return f"{error.status} {error.code}"
            return "taken"

    assert [asyncio.run(use(images)) for images in (6, 5, 4, 1)] == [
        "taken",
        "429 insufficient_quota",
        "taken",
        "429 insufficient_quota",
    ]
    [(found, used)] = key_admin.list_keys(database)
    assert (found.id, used.today, used.images, used.requests) == (key.id, 10, 10, 4)
    assert used.last == int(time.time() // 86_400)


def test_what_was_written_unnoticed_is_not_written_twice(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A connection that breaks after its commit looks like one that broke before."""
    _, token = key_admin.create(database, Grant("studio", quota=100))
    run, broken = database.run, iter([False, True, True])

    async def breaking(*arguments: Any, **options: Any) -> Any:
        result = await run(*arguments, **options)
        if next(broken, False):
            raise DatabaseAwayError("gone")
        return result

    async def look() -> None:
        monkeypatch.setattr(database, "run", breaking)
        async with tended(database) as held:
            (await held.caller(token)).account.charge(7)
            held.audit.record("request", number=1)
            while next(broken, None) is not None:
                await asyncio.sleep(0.05)

    asyncio.run(look())
    [(_, used)] = key_admin.list_keys(database)
    assert used.images == 7
    entries = database.transact(lambda session: audit.last(session, 100))
    assert [entry.event for entry in entries].count("request") == 1
    audit.verify(database)


def test_known_keys_are_good_for_a_minute_while_the_database_is_away(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, token = key_admin.create(database, Grant("studio"))
    away = asyncio.Event()
    run = database.run

    async def gone(*arguments: Any, **options: Any) -> Any:
        if away.is_set():
            raise DatabaseAwayError("gone")
        return await run(*arguments, **options)

    async def look() -> None:
        monkeypatch.setattr(database, "run", gone)
        async with tended(database) as held:
            away.set()
            assert await refusal(held, f"dq_{'a' * 12}_{'a' * 43}") == "401 invalid_api_key"
            assert (await held.caller(token)).name == "studio"
            monkeypatch.setattr(keys, "AWAY", 0.0)
            assert await refusal(held, token) == "503 keys_unavailable"
            away.clear()
            monkeypatch.setattr(keys, "AWAY", 60.0)
            while held.is_database_away:
                await asyncio.sleep(0.05)
            assert (await held.caller(token)).name == "studio"

    asyncio.run(look())


def test_a_full_disk_stops_the_audit_log_and_no_key(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    database = Database(f"sqlite:///{tmp_path / 'service.db'}")
    database.migrate()
    key, token = key_admin.create(database, Grant("studio", quota=50))
    pages = [database.transact(lambda session: session.execute(text("pragma page_count")).scalar_one())]

    @sqlalchemy.event.listens_for(database.engine, "checkout")
    def limit(connection: Any, *_: Any) -> None:
        connection.execute(f"pragma max_page_count = {pages[0]}")  # SQLite says then that the disk is full

    async def look() -> None:
        async with tended(database) as held:
            caller = await held.caller(token)
            caller.account.charge(20)
            held.audit.record("request", number=1, words="x" * 20_000)
            while "cannot be written" not in caplog.text:
                await asyncio.sleep(0.05)
            database.transact(lambda session: session.execute(update(Key).values(revoked=1.0, changes=9)))
            while held.of(key.id):
                await asyncio.sleep(0.05)
            assert await refusal(held, token) == "401 revoked_api_key"
            pages[0] += 1000

    asyncio.run(look())
    entries = database.transact(lambda session: audit.last(session, 9))
    assert [entry.event for entry in entries][-2:] == ["request", "service stopped"]
    [(_, used)] = key_admin.list_keys(database)
    assert used.images == 20
    database.close()


def test_missing_auth_no_key_no_answer_and_no_byte_of_the_body_is_read(server: Gated) -> None:
    reached = server.reached
    answer = httpx.get(f"{server.url}/v1/who")
    assert code(answer) == "401 missing_api_key"
    assert answer.headers["www-authenticate"] == "Bearer"
    head = "POST /v1/paint HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 9999\r\n"
    status, headers, body = server.raw(f"{head}\r\n")
    assert (status, body["error"]["code"]) == (401, "missing_api_key")
    guess = f"Authorization: Bearer dq_{'a' * 12}_{'a' * 43}\r\n"
    status, headers, body = server.raw(f"{head}{guess}\r\n")
    assert (status, body["error"]["code"]) == (401, "invalid_api_key")
    assert headers["www-authenticate"].startswith("Bearer")
    status, _, body = server.raw(f"{head}{guess}{guess}\r\n")
    assert (status, body["error"]["code"]) == (400, "invalid_header")
    basic = httpx.get(f"{server.url}/v1/who", auth=("user", "password"))
    assert code(basic) == "401 missing_api_key"
    assert server.reached == reached
    assert httpx.get(f"{server.url}/healthz").status_code == 200


def test_scopes_and_models_say_what_a_key_may_do(server: Gated) -> None:
    narrow = make(server, Grant("narrow", scopes=("edit",), models=("dogs",)))
    assert ask(server, narrow, path="/v1/edit").json() == {"name": "narrow"}
    refused = ask(server, narrow)
    assert code(refused) == "403 insufficient_permissions"
    assert "it has edit" in refused.json()["error"]["message"]
    dogs = make(server, Grant("dogs", models=("dogs",)))
    assert code(ask(server, dogs, "POST", PAINT, model="cats")) == "403 model_not_found"
    assert ask(server, dogs, "POST", PAINT, model="dogs").status_code == 200
    everything = make(server, Grant("admin", scopes=("admin",)))
    assert ask(server, everything, "POST", PAINT, model="cats").status_code == 200


def test_a_revoked_key_is_refused_within_two_seconds_and_the_service_stays_closed(tmp_path: Path) -> None:
    with gated(tmp_path) as server:
        token = first_key(server)
        assert ask(server, token).json()["name"] == "studio"
        end(server, "studio")
        wait_until(lambda: ask(server, token).status_code == 401)
        assert code(ask(server, token)) == "401 revoked_api_key"
        assert code(httpx.get(f"{server.url}/v1/who")) == "401 missing_api_key"
    with gated(tmp_path) as server:  # nor does a restart open it
        assert code(httpx.get(f"{server.url}/v1/who")) == "401 missing_api_key"
        assert code(ask(server, token)) == "401 revoked_api_key"


def test_a_table_of_keys_that_is_emptied_opens_no_service_that_runs(tmp_path: Path) -> None:
    with gated(tmp_path) as server:
        token = first_key(server)
        assert ask(server, token).status_code == 200
        with contextlib.closing(Database(server.settings.database_url)) as database:
            database.transact(lambda session: session.execute(delete(Key)))
        wait_until(lambda: ask(server, token).status_code == 401)
        assert code(httpx.get(f"{server.url}/v1/who")) == "401 missing_api_key"


def test_rate_and_quota_are_told_and_kept(server: Gated) -> None:
    token = make(server, Grant("limited", rate=3, quota=5))
    first = ask(server, token, "POST", PAINT, n=4)
    assert first.status_code == 200
    assert first.headers["x-ratelimit-remaining-requests"] == "2"
    assert first.headers["x-ratelimit-remaining-images"] == "1"
    second = ask(server, token, "POST", PAINT, n=2)
    assert code(second) == "429 insufficient_quota"
    assert int(second.headers["retry-after"]) >= 1
    third = ask(server, token, "POST", PAINT, n=1, fails=True)
    assert third.headers["x-ratelimit-remaining-images"] == "1"  # what was not painted is given back
    fourth = ask(server, token, "POST", PAINT, n=1)
    assert code(fourth) == "429 rate_limit_exceeded"
    assert 1 <= int(fourth.headers["retry-after"]) <= 20
    assert code(ask(server, token)) == "429 rate_limit_exceeded"  # whatever it asks for


def test_the_official_client_understands_the_refusals(server: Gated) -> None:
    def get(token: str, path: str = "/who") -> Any:
        with openai.OpenAI(base_url=f"{server.url}/v1", api_key=token, max_retries=0) as client:
            return client.get(path, cast_to=dict[str, Any])

    narrow = make(server, Grant("narrower", scopes=("metrics",)))
    with pytest.raises(openai.AuthenticationError, match="not valid"):
        get("sk-nothing")
    with pytest.raises(openai.PermissionDeniedError, match="lacks the scope generate") as refused:
        get(narrow)
    assert refused.value.request_id is not None
    assert refused.value.request_id.startswith("req_")


def test_the_official_client_paints_with_a_key_as_far_as_it_allows(
    models: dict[str, str], tmp_path: Path
) -> None:
    with contextlib.closing(Database(f"sqlite:///{tmp_path / 'service.db'}")) as database:
        database.migrate()
        _, token = key_admin.create(database, Grant("studio", ("generate",), models=("gan",), quota=3))
        two = {"gan": models["gan"], "vae": models["vae"]}
        with (
            served(two, tmp_path) as running,
            openai.OpenAI(base_url=f"{running.url}/v1", api_key=token, max_retries=0) as client,
        ):
            assert [model.id for model in client.models.list()] == ["gan"]
            answer = client.images.with_raw_response.generate(prompt="", n=2)
            assert len(answer.parse().data or []) == 2
            assert answer.headers["x-ratelimit-remaining-images"] == "1"
            with pytest.raises(openai.RateLimitError, match="3 pictures per day"):
                client.images.generate(prompt="", n=2)
            with pytest.raises(openai.PermissionDeniedError):
                client.images.generate(model="vae", prompt="star")
            with pytest.raises(openai.PermissionDeniedError, match="lacks the scope edit"):
                client.images.edit(image=b"", prompt="")
            with pytest.raises(openai.BadRequestError):
                client.images.generate(prompt="not empty")
            assert httpx.get(f"{running.url}/metrics").status_code == 401
        facts = [
            json.loads(entry.facts)
            for entry in database.transact(lambda session: audit.last(session, 100))
            if entry.event == "request"
        ]
        assert [fact["status"] for fact in facts] == [200, 429, 403, 403, 400, 401]
        assert (facts[0]["model"], facts[0]["images"]) == ("gan", 2)
        [(_, used)] = key_admin.list_keys(database)
        assert (used.today, used.requests) == (2, 6)


def test_keys_that_are_made_and_ended_stand_in_the_audit_log(database: Database) -> None:
    key, _ = key_admin.create(database, Grant("studio"))
    key_admin.revoke(database, key.id)
    with pytest.raises(ConfigError, match="revoked already"):
        key_admin.revoke(database, "studio")
    with pytest.raises(ConfigError, match="danqing keys list"):
        key_admin.revoke(database, "nobody")

    def entries(session: Session) -> list[tuple[str, Any]]:
        found = session.scalars(select(audit.AuditEntry).order_by(audit.AuditEntry.number))
        return [(entry.event, json.loads(entry.facts)["key"]) for entry in found]

    assert database.transact(entries) == [("key created", key.id), ("key revoked", key.id)]
    assert audit.verify(database).number == 2


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"name": " "}, "a name"),
        ({"name": "a\x1b[2J"}, "printable"),
        ({"scopes": ("paint",)}, "no scope 'paint'"),
        ({"rate": 0}, "rate must be at least 1"),
        ({"quota": -5}, "quota must be at least 1"),
        ({"expires": 1.0}, "expired already"),
    ],
)
def test_a_grant_that_makes_no_sense_is_refused(values: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        Grant(**{"name": "studio", **values})
