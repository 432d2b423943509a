"""Whatever happens to servers and databases, a job is accepted once and finished once."""

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pytest
from sqlalchemy import delete, func, select
from sqlalchemy.exc import IntegrityError

from danqing.service.access import usage
from danqing.service.errors import ApiError, internal
from danqing.service.jobs import queries, store
from danqing.service.jobs.store import Claim, NewJob
from danqing.service.jobs.tables import Job, JobBody, JobEvent, JobPicture
from danqing.service.jobs.webhooks import Delivery
from danqing.service.settings import JobSettings
from danqing.service.storage.database import Database

LIMITS = JobSettings()
RESPONSE = {"created": 1, "data": [{"url": "/picture"}]}


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    database = Database(database_url)
    database.migrate()
    yield database
    database.close()


def new(owner: str = "somebody", pictures: int = 1, **more: Any) -> NewJob:
    job = NewJob(store.new_id(), owner, "", "generations", "gan", pictures, '{"n": 1}', "{}", "f")
    return replace(job, **more)


def put(database: Database, *jobs: NewJob, now: float = 100.0) -> list[str]:
    return [database.transact(store.accept, job, LIMITS, now + number).id for number, job in enumerate(jobs)]


def take(database: Database, runner: str = "a", room: int = 1, now: float = 100.0) -> list[Claim]:
    return database.transact(store.claim, runner, ["gan"], room, 10.0, now)


def test_the_bodies_of_jobs_that_are_painted_are_bounded(database: Database) -> None:
    large, small = {"body": "x" * 600}, {"body": "x" * 300}
    first, second, third = put(database, new(**large), new(**large), new(**small))

    def claim(space: float, *but: str) -> list[str]:
        claims = database.transact(store.claim, "a", ["gan"], 9, 10.0, 100.0, but, space)
        return [one.id for one in claims]

    assert claim(500) == [first]  # more than there is space, but alone
    assert claim(500, first) == []  # nobody passes who comes later
    assert claim(900, first) == [second, third]


@pytest.mark.parametrize("number", [-1, 1, 2**31, 2**63, 10**30])
def test_a_job_has_no_picture_of_a_number_that_it_did_not_make(database: Database, number: int) -> None:
    (job,) = put(database, new())
    with pytest.raises(ApiError) as refused:
        database.transact(queries.picture, "somebody", job, number)
    assert refused.value.status == 404


def status(database: Database, job_id: str) -> str:
    return database.transact(lambda session: session.get_one(Job, job_id).status)


def told(database: Database, job_id: str) -> list[str]:
    events, _ = database.transact(queries.events_after, "somebody", job_id, 0)
    assert [event.number for event in events] == list(range(1, len(events) + 1))
    return [event.type.removeprefix("job.") for event in events]


def succeed(database: Database, claim: Claim, now: float = 105.0) -> bool:
    return database.transact(store.succeed, claim, RESPONSE, [("image/png", b"picture")], now)


def test_a_job_goes_from_the_line_to_its_pictures(database: Database) -> None:
    (job_id,) = put(database, new())
    (claim,) = take(database)
    assert (claim.id, claim.attempt) == (job_id, 1)
    assert database.transact(store.body_of, claim) == '{"n": 1}'
    for steps in ((3, 12), (3, 12), (9, 12)):
        assert database.transact(store.renew, "a", {job_id: steps}, 10.0, 101.0) == {job_id}
    assert succeed(database, claim)
    assert told(database, job_id) == ["queued", "running", "progress", "progress", "succeeded"]
    job = queries.describe(database.transact(queries.find, "somebody", job_id), "https://example.org")
    assert (job["status"], job["started_at"], job["finished_at"]) == ("succeeded", 100, 105)
    assert job["progress"] == {"done": 12, "total": 12}
    assert job["response"]["data"] == [{"url": "https://example.org/picture"}]
    picture = database.transact(queries.picture, "somebody", job_id, 0)
    assert (picture.media_type, picture.content) == ("image/png", b"picture")
    assert database.transact(store.body_of, claim) is None  # what was sent is not kept longer than needed


def test_a_job_is_never_finished_twice(database: Database) -> None:
    (job_id,) = put(database, new())
    (first,) = take(database, "a", now=100)
    assert database.transact(store.reclaim, 3, 109.0) == 0  # its lease is not over
    assert database.transact(store.reclaim, 3, 111.0) == 1
    (second,) = take(database, "b", now=111)
    assert second.attempt == 2
    assert database.transact(store.renew, "a", {job_id: (1, 2)}, 10.0, 112.0) == set()
    assert not succeed(database, first)
    assert not database.transact(store.fail, first, internal(), 112.0)
    assert not database.transact(store.put_back, [first], 112.0)
    assert succeed(database, second)
    assert not succeed(database, second)
    assert told(database, job_id) == ["queued", "running", "queued", "running", "succeeded"]


def test_the_same_server_does_not_finish_what_it_lost_and_took_again(database: Database) -> None:
    put(database, new())
    (first,) = take(database, "a", now=100)
    database.transact(store.reclaim, 3, 111.0)
    (second,) = take(database, "a", now=111)
    assert not succeed(database, first)
    assert succeed(database, second)


def test_a_job_that_no_server_survives_is_given_up_and_none_that_waited_beside_it(
    database: Database,
) -> None:
    deadly, *others = put(database, *[new() for _ in range(9)])
    for number in range(LIMITS.attempts):
        claims = take(database, room=9, now=100.0 + 20 * number)
        assert len(claims) == 9
        database.transact(store.begin, [one for one in claims if one.id == deadly], 101.0 + 20 * number)
        database.transact(store.reclaim, LIMITS.attempts, 115.0 + 20 * number)
    job = queries.describe(database.transact(queries.find, "somebody", deadly))
    assert job["status"] == "failed"
    assert job["error"]["code"] == "painting_failed"
    for number in range(10):  # that they waited is never held against them
        claims = take(database, room=9, now=200.0 + 20 * number)
        assert [claim.id for claim in claims] == others
        database.transact(store.reclaim, LIMITS.attempts, 215.0 + 20 * number)


def test_a_job_is_taken_where_its_model_is_and_when_it_is_due(database: Database) -> None:
    other, job_id = put(database, new(model="elsewhere"), new())
    (claim,) = take(database, room=5)
    assert claim.id == job_id
    assert database.transact(store.put_back, [claim], 101.0, 5.0)
    assert take(database, now=105.0) == []
    assert [claim.id for claim in take(database, now=106.0)] == [job_id]
    assert status(database, other) == "queued"


def test_a_runner_takes_nothing_that_it_has_not_let_go_of(database: Database) -> None:
    first, second = put(database, new(), new())
    claims = take(database)
    assert database.transact(store.put_back, claims, 101.0)
    again = database.transact(store.claim, "a", ["gan"], 5, 10.0, 102.0, [first])
    assert [claim.id for claim in again] == [second]


def test_what_was_taken_over_is_not_read_by_its_first_server(database: Database) -> None:
    put(database, new())
    claims = take(database)
    database.transact(store.reclaim, 3, 111.0)
    database.transact(store.begin, claims, 112.0)
    assert database.transact(store.body_of, claims[0]) is None
    assert database.transact(lambda session: session.scalars(select(Job.begun)).all()) == [None]


def test_a_server_that_stops_leaves_its_jobs_to_the_next(database: Database) -> None:
    ids = put(database, new(), new())
    claims = take(database, room=2)
    for _ in range(5):  # stopping is not a failure, however often it happens
        assert database.transact(store.put_back, claims, 101.0)
        claims = take(database, room=2)
    assert [claim.id for claim in claims] == ids
    assert {claim.attempt for claim in claims} == {6}


def test_servers_that_take_at_once_take_different_jobs(database: Database, database_url: str) -> None:
    ids = put(database, *[new() for _ in range(24)])
    servers = [Database(database_url) for _ in range(4)]

    def work(server: Database) -> list[Claim]:
        taken = []
        while claims := take(server, str(id(server)), room=2):
            taken += claims
        return taken

    with ThreadPoolExecutor(4) as threads:
        taken = [claim for claims in threads.map(work, servers) for claim in claims]
    for server in servers:
        server.close()
    assert sorted(claim.id for claim in taken) == sorted(ids)
    assert {claim.attempt for claim in taken} == {1}


def test_owners_take_turns_by_the_pictures_they_ask_for(database: Database) -> None:
    many = put(database, *[new("many") for _ in range(6)])
    large = put(database, *[new("large", 3) for _ in range(2)], now=200)
    (late,) = put(database, new("late"), now=300)
    order = [claim.id for _ in range(9) for claim in take(database)]
    assert order == [many[0], many[1], late, many[2], many[3], large[0], many[4], many[5], large[1]]


def test_nobody_is_overtaken_for_ever(database: Database) -> None:
    for _ in range(3):
        put(database, new("busy"))
        take(database)
    (old,) = put(database, new("busy"))
    for owner in range(5):
        put(database, new(f"newcomer {owner}"), now=200)
    assert old in [claim.id for claim in take(database, room=2)]


def test_room_is_counted_in_pictures(database: Database) -> None:
    put(database, *[new(pictures=4) for _ in range(4)])
    assert len(take(database, room=10)) == 2
    assert len(take(database, room=1)) == 1  # or a large job would wait for ever


def test_a_key_makes_one_job(database: Database, database_url: str) -> None:
    other = Database(database_url)
    first = new(idempotency_key="key")

    def accept(number: int) -> str:
        again = replace(first, id=store.new_id())
        one = other if number % 2 else database
        try:
            return one.transact(store.accept, again, LIMITS, 100.0).id
        except IntegrityError:
            return one.transact(store.accept, again, LIMITS, 100.0).id

    with ThreadPoolExecutor(4) as threads:
        ids = set(threads.map(accept, range(12)))
    assert len(ids) == 1
    assert put(database, replace(first, id=store.new_id())) == list(ids)
    with pytest.raises(ApiError, match="use a new key") as refused:
        put(database, replace(first, id=store.new_id(), fingerprint="other"))
    assert refused.value.status == 400  # the official client would send a 409 again
    stranger = put(database, new("stranger", idempotency_key="key", fingerprint="other"))
    assert set(stranger) != ids
    other.close()


def test_to_accept_may_be_repeated_when_its_answer_was_lost(database: Database) -> None:
    job = new()
    assert put(database, job) == put(database, job)
    assert database.transact(lambda session: session.scalar(select(func.count()).select_from(Job))) == 1


def test_what_one_owner_has_in_line_is_bounded(database: Database) -> None:
    limits = JobSettings(waiting=2, bytes=1024)
    for job in (new(), new()):
        database.transact(store.accept, job, limits, 100.0)
    for owner, body in (("somebody", "{}"), ("other", "x" * 1025)):
        with pytest.raises(ApiError, match="retry when some have finished") as refused:
            database.transact(store.accept, new(owner, body=body), limits, 100.0)
        assert (refused.value.status, refused.value.headers["retry-after"]) == (429, "30")
    database.transact(store.accept, new("other"), limits, 100.0)


def test_a_cancelled_job_stays_cancelled(database: Database) -> None:
    waiting, running, done = put(database, *[new(webhook="https://example.org") for _ in range(3)])
    jobs = {claim.id: claim for claim in take(database, room=3)}
    database.transact(store.put_back, [jobs[waiting]], 101.0)
    assert succeed(database, jobs[done])
    for job_id in (waiting, running, done, running):
        job, _ = database.transact(store.cancel, "somebody", job_id, 102.0)
        assert job.status == ("succeeded" if job_id == done else "cancelled")
    assert not succeed(database, jobs[running])
    assert database.transact(store.renew, "a", {running: (1, 2)}, 10.0, 103.0) == set()
    assert take(database) == []
    payloads = database.transact(lambda session: session.scalars(select(Delivery.payload)).all())
    kinds = sorted(json.loads(payload)["type"] for payload in payloads)
    assert kinds == ["job.cancelled", "job.cancelled", "job.succeeded"]


def test_a_job_is_there_for_its_owner_alone(database: Database) -> None:
    (job_id,) = put(database, new(webhook="https://example.org"))
    assert succeed(database, *take(database))
    for look in (
        (queries.find, "other", job_id),
        (store.cancel, "other", job_id, 1.0),
        (queries.events_after, "other", job_id, 0),
        (queries.picture, "other", job_id, 0),
        (queries.page, "other", 10, job_id, None),
        (queries.find, "somebody", "job_\0"),
        (queries.picture, "somebody", job_id, 1),
    ):
        with pytest.raises(ApiError) as missing:
            database.transact(*look)
        assert missing.value.status == 404
    assert database.transact(queries.page, "other", 10, None, None) == ([], False)


def test_pages_show_each_job_once_though_new_ones_come(database: Database) -> None:
    ids = put(database, *[new() for _ in range(5)])
    same_time = [database.transact(store.accept, new(), LIMITS, 104.0).id for _ in range(3)]
    seen: list[str] = []
    more, after = True, None
    while more:
        found, more = database.transact(queries.page, "somebody", 3, after, None)
        seen += [job.id for job in found]
        after = seen[-1]
        put(database, new(), now=900)
    assert sorted(seen) == sorted(ids + same_time)
    assert seen[4:] == ids[3::-1]
    claims = take(database, room=2)
    running, _ = database.transact(queries.page, "somebody", 10, None, "running")
    assert {job.id for job in running} == {claim.id for claim in claims}


def test_what_is_old_is_deleted_with_all_that_belongs_to_it(database: Database) -> None:
    old, young, unfinished = put(database, *[new(webhook="https://example.org") for _ in range(3)])
    claims = take(database, room=3)
    assert succeed(database, claims[0], now=1000)
    assert succeed(database, claims[1], now=2000)
    assert database.transact(store.forget, 1500.0) == 1
    assert database.transact(store.forget, 1500.0) == 0
    for table in (JobBody, JobEvent, JobPicture, Delivery):
        kept = database.transact(lambda session, table=table: set(session.scalars(select(table.job_id))))
        assert kept <= {young, unfinished}
        assert old not in kept
    assert status(database, unfinished) == "running"


def test_a_job_that_was_deleted_meanwhile_is_not_finished(database: Database) -> None:
    put(database, new())
    (claim,) = take(database)
    database.transact(lambda session: session.execute(delete(Job)))
    assert not succeed(database, claim)


def counted(database: Database) -> int:
    """The pictures that are counted for somebody on the first day."""
    return database.transact(usage.images_of, 0).get("somebody", 0)


def test_the_pictures_of_a_job_are_counted_once_and_refunded_once_if_it_fails(database: Database) -> None:
    first = new(pictures=3, idempotency_key="once")
    for job in (
        first,
        first,
        replace(first, id=store.new_id()),
    ):  # again after a lost answer, and by a client
        put(database, job)
    assert counted(database) == 3
    (claim,) = take(database)
    for _ in range(2):
        database.transact(store.fail, claim, internal(), 105.0)
    assert counted(database) == 0
    (cancelled,) = put(database, new(pictures=2))
    for _ in range(2):
        database.transact(store.cancel, "somebody", cancelled, 105.0)
    assert counted(database) == 0
    put(database, new(pictures=2))
    (claim,) = take(database)
    database.transact(store.begin, [claim], 101.0)
    assert database.transact(store.reclaim, 1, 200.0) == 1  # its server is silent, as were those before
    assert counted(database) == 0
    put(database, new(pictures=2))
    (claim,) = take(database)
    assert succeed(database, claim)
    database.transact(store.cancel, "somebody", claim.id, 110.0)
    assert counted(database) == 2


def test_a_quota_is_exact_whichever_servers_accept_at_the_same_time(
    database: Database, database_url: str
) -> None:
    other = Database(database_url)

    def accept(number: int) -> str | None:
        server = (database, other)[number % 2]
        try:
            server.transact(store.accept, new(pictures=2), LIMITS, 100.0, 10, 3)
        except ApiError as error:
            return error.code
        return None

    with ThreadPoolExecutor(6) as threads:
        codes = list(threads.map(accept, range(18)))
    other.close()
    # 7 are left of the quota: 3 are counted by a server that has not written them.
    assert (codes.count(None), codes.count("insufficient_quota")) == (3, 15)
    assert counted(database) == 6
