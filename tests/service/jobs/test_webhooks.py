"""Messages reach their receivers, signed, in spite of failures, and nobody else."""

import asyncio
import contextlib
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from sqlalchemy import select, update

from danqing.service.errors import ApiError
from danqing.service.jobs import store, webhooks
from danqing.service.jobs.store import NewJob
from danqing.service.jobs.webhooks import Delivery, Webhooks, is_secret, new_secret, sign
from danqing.service.settings import JobSettings, Outbound
from danqing.service.storage.database import Database
from tests.service.receiver import Receiver, receiving

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receiving() as receiver:
        yield receiver


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    database = Database(database_url)
    database.migrate()
    yield database
    database.close()


def leave(database: Database, url: str) -> str:
    """Cancel a job, which leaves a message; returns the job's id."""
    job = NewJob(
        store.new_id(),
        "",
        "",
        "generations",
        "gan",
        1,
        "{}",
        "{}",
        "f",
        webhook=url,
        webhook_secret=SECRET,
    )
    database.transact(store.accept, job, JobSettings(), time.time())
    database.transact(store.cancel, "", job.id, time.time())
    return job.id


def send(
    database: Database, receiver: Receiver, until: Callable[[list[Delivery]], bool], **outbound: Any
) -> list[Delivery]:
    """Send until the messages in the database are as they should be; returns them."""

    async def run() -> list[Delivery]:
        allowed = Outbound(**{"webhooks": (receiver.address,), **outbound})
        sending = asyncio.create_task(Webhooks(allowed, database, delays=(0.02, 0.02)).run())
        try:
            async with asyncio.timeout(60):
                while not until(found := await database.run(lambda s: list(s.scalars(select(Delivery))))):
                    assert not sending.done()
                    await asyncio.sleep(0.02)
                return found
        finally:
            sending.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await sending

    return asyncio.run(run())


def settled(deliveries: list[Delivery]) -> bool:
    return all(one.status != "pending" for one in deliveries)


def test_signatures_are_those_of_the_specification() -> None:
    signature = sign(SECRET, "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, b'{"test": 2432232314}')
    assert signature == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="
    assert is_secret(SECRET)
    assert is_secret(new_secret())
    assert new_secret() != new_secret()
    for wrong in ("whsec_", "whsec_c2hvcnQ=", SECRET[6:], SECRET + "!", "whsec_" + "A" * 88, "whsec_ä"):
        assert not is_secret(wrong)


def test_a_message_says_what_became_of_a_job(database: Database, receiver: Receiver) -> None:
    job_id = leave(database, f"http://{receiver.address}/hook?for=me")
    (delivery,) = send(database, receiver, settled)
    headers, body = receiver.told.get_nowait()
    assert (delivery.status, delivery.attempts) == ("delivered", 1)
    assert (headers["path"], headers["host"]) == ("/hook?for=me", receiver.address)
    assert headers["content-type"] == "application/json"
    timestamp = int(headers["webhook-timestamp"])
    assert abs(timestamp - time.time()) < 60
    assert headers["webhook-signature"] == sign(SECRET, headers["webhook-id"], timestamp, body)
    assert SECRET.encode() not in body
    assert body == delivery.payload.encode()
    assert '"type":"job.cancelled","timestamp":"20' in body.decode()
    assert f'"data":{{"id":"{job_id}"' in body.decode()


def test_a_message_is_sent_again_until_it_is_heard(database: Database, receiver: Receiver) -> None:
    leave(database, f"http://{receiver.address}/")
    receiver.answers = [500, 302]
    (delivery,) = send(database, receiver, settled)
    assert (delivery.status, delivery.attempts) == ("delivered", 3)
    ids = {receiver.told.get_nowait()[0]["webhook-id"] for _ in range(3)}
    assert ids == {delivery.id}
    assert receiver.told.empty()  # where it leads elsewhere was not followed


@pytest.mark.parametrize(
    ("answers", "attempts", "reason"), [([410], 1, "status 410"), ([500] * 3, 3, "status 500")]
)
def test_a_message_that_nobody_wants_is_given_up(
    database: Database, receiver: Receiver, answers: list[int], attempts: int, reason: str
) -> None:
    leave(database, f"http://{receiver.address}/")
    receiver.answers = list(answers)
    (delivery,) = send(database, receiver, settled)
    assert (delivery.status, delivery.attempts, delivery.due) == ("failed", attempts, None)
    assert delivery.reason == reason


def test_a_message_that_cannot_be_sent_at_all_stops_no_other(database: Database, receiver: Receiver) -> None:
    """As many as are sent together, and one more."""
    for _ in range(webhooks.AT_ONCE):
        leave(database, "http://[::1/")
    for delivery, damage in (("url", "http://\0"), ("secret", "no base64")):
        job_id = leave(database, f"http://{receiver.address}/")
        change = update(Delivery).where(Delivery.job_id == job_id).values({delivery: damage})
        if "\0" not in damage or database.is_sqlite:  # PostgreSQL takes no NUL
            database.transact(lambda session, change=change: session.execute(change))
    leave(database, f"http://{receiver.address}/good")
    found = send(database, receiver, settled)
    assert f"http://{receiver.address}/good" in [one.url for one in found if one.status == "delivered"]
    assert all(one.reason for one in found if one.status == "failed")
    assert sum(one.status == "failed" for one in found) >= webhooks.AT_ONCE + 1


def test_a_message_outlives_the_server_that_sent_it(database: Database, receiver: Receiver) -> None:
    leave(database, f"http://{receiver.address}/")
    taken, _ = database.transact(webhooks.claim_due, 1, time.time(), 0.3)  # and then the server is killed
    assert len(taken) == 1
    (delivery,) = send(database, receiver, settled)
    assert (delivery.status, delivery.attempts) == ("delivered", 2)
    assert receiver.told.qsize() == 1


def test_servers_that_send_together_send_each_message_once(
    database: Database, database_url: str, receiver: Receiver
) -> None:
    jobs = {leave(database, f"http://{receiver.address}/") for _ in range(40)}
    other = Database(database_url)

    async def run() -> None:
        allowed = Outbound(webhooks=(receiver.address,))
        senders = [asyncio.create_task(Webhooks(allowed, one).run()) for one in (database, other)]
        try:
            async with asyncio.timeout(60):
                while receiver.told.qsize() < len(jobs):
                    await asyncio.sleep(0.02)
        finally:
            for sender in senders:
                sender.cancel()
            await asyncio.gather(*senders, return_exceptions=True)

    asyncio.run(run())
    assert {receiver.next()[1]["data"]["id"] for _ in jobs} == jobs
    assert receiver.told.empty()
    other.close()


def test_a_receiver_that_never_answers_is_not_waited_for(database: Database, receiver: Receiver) -> None:
    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.CancelledError, ConnectionError):
            while True:  # one byte at a time, for ever
                writer.write(b"H")
                await asyncio.sleep(0.02)

    async def run() -> None:
        server = await asyncio.start_server(silent, "127.0.0.1", 0)
        address = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
        await asyncio.to_thread(leave, database, f"http://{address}/")
        allowed = Outbound(webhooks=(address,), seconds=0.2)
        sending = asyncio.create_task(Webhooks(allowed, database, delays=()).run())
        async with asyncio.timeout(60):
            while not settled(found := await database.run(lambda s: list(s.scalars(select(Delivery))))):
                await asyncio.sleep(0.02)
        assert found[0].reason == "no answer within 0.2 seconds"
        sending.cancel()
        await asyncio.gather(sending, return_exceptions=True)
        server.close()

    asyncio.run(run())


@pytest.mark.parametrize(
    ("url", "secret", "field"),
    [
        ("http://127.0.0.1:1/", None, "webhook.url"),  # that port is not allowed
        ("http://169.254.169.254/latest/meta-data", None, "webhook.url"),
        ("http://localhost/", None, "webhook.url"),  # allowed by name, which leads to no public address
        ("file:///etc/passwd", None, "webhook.url"),
        ("nonsense", None, "webhook.url"),
        ("http://{}@evil.example/", None, "webhook.url"),
        ("http://{}/", "secret", "webhook.secret"),
    ],
)
def test_nobody_is_called_whom_the_settings_do_not_name(
    database: Database, receiver: Receiver, url: str, secret: str | None, field: str
) -> None:
    url = url.format(receiver.address)
    allowed = (receiver.address, "localhost")
    with pytest.raises(ApiError) as refused:
        asyncio.run(Webhooks(Outbound(webhooks=allowed), database).check(url, secret))
    assert (refused.value.status, refused.value.param) == (400, field)
    if secret is None:  # nor when the settings have changed since the job was accepted
        leave(database, url)
        (delivery,) = send(database, receiver, lambda found: found[0].reason is not None, webhooks=allowed)
        assert delivery.status != "delivered"
        assert receiver.told.empty()
