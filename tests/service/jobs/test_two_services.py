"""Two services that share one PostgreSQL: what is limited and counted holds over both, and either may die."""

import asyncio
import base64
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
from sqlalchemy import text

from danqing.service.access import key_admin, usage
from danqing.service.storage.database import Database
from tests.service.jobs.test_faults import BODY, accept, wait
from tests.service.postgresql import Server
from tests.service.processes import STARTED, Process
from tests.service.receiver import Receiver, receiving

QUOTA, RATE, CLIENTS = 5, 6, 24
JOBS = 12


@dataclass
class Pair:
    """Two services. keys, tokens: by what they are for."""

    database: Database
    configs: list[Path]
    services: list[Process]
    keys: dict[str, str]
    tokens: dict[str, str]
    receiver: Receiver

    def pictures(self, key: str) -> int:
        """How many pictures the database has counted for a key."""
        totals = self.database.transact(usage.totals, 0)
        return totals[self.keys[key]].images


@pytest.fixture(scope="module")
def pair(
    models: dict[str, str], postgresql: Server, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Pair]:
    url = postgresql.new_database()
    database = Database(url)
    database.migrate()
    grants = {
        "jobs": key_admin.Grant("jobs"),
        "quota": key_admin.Grant("quota", quota=QUOTA),
        "rate": key_admin.Grant("rate", rate=RATE),
    }
    made = {name: key_admin.create(database, grant) for name, grant in grants.items()}
    with receiving() as receiver:
        configs = []
        for name in ("one", "two"):  # nothing but the database is shared
            folder = tmp_path_factory.mktemp(name)
            configs.append(folder / "service.toml")
            configs[-1].write_text(
                f'port = 0\ndata = "data"\ndatabase = "{url}"\nlog = "json"\n'
                f'[models]\nraster = "{models["raster"]}"\n'
                "[engine]\nthreads = 1\nbatch = 2\n"
                "[jobs]\nlease = 3.0\n"
                f'[outbound]\nwebhooks = ["{receiver.address}"]\n'
            )
        tokens = {name: token for name, (_, token) in made.items()}
        try:
            services = [Process(config, tokens["jobs"]) for config in configs]
            keys = {name: key.id for name, (key, _) in made.items()}
            yield Pair(database, configs, services, keys, tokens, receiver)
        finally:
            while STARTED:
                STARTED.pop().kill()
            database.close()


def test_quotas_and_rates_hold_over_both_services(pair: Pair) -> None:
    async def flood(key: str, method: str, path: str, asked: object) -> Counter[int]:
        headers = {"authorization": f"Bearer {pair.tokens[key]}"}
        async with httpx.AsyncClient(timeout=120, headers=headers) as client:
            urls = [f"{service.url}{path}" for service in pair.services] * (CLIENTS // 2)
            answers = await asyncio.gather(*[client.request(method, url, json=asked) for url in urls])
        return Counter(answer.status_code for answer in answers)

    painted = asyncio.run(flood("quota", "POST", "/v1/images/generations", BODY))
    assert painted == {200: QUOTA, 429: CLIENTS - QUOTA}
    assert pair.pictures("quota") == QUOTA
    job = {"endpoint": "generations", "body": BODY}
    assert asyncio.run(flood("quota", "POST", "/v1/jobs", job)) == {429: CLIENTS}
    began = time.time()
    listed = asyncio.run(flood("rate", "GET", "/v1/models", None))
    assert RATE <= listed[200] <= RATE * (1 + (time.time() - began) / 60) + 1
    assert listed[200] + listed[429] == CLIENTS


def test_either_service_answers_for_what_the_other_has(pair: Pair) -> None:
    one, two = pair.services
    asked = {**BODY, "seed": 3}
    answer = one.http.post("/v1/images/generations", json={**asked, "response_format": "url"}).json()
    path = httpx.URL(answer["data"][0]["url"]).path
    expected = two.http.post("/v1/images/generations", json=asked).json()["data"][0]["b64_json"]
    assert two.http.get(path).content == base64.b64decode(expected)
    assert two.http.get(path.replace(".png", ".webp")).status_code == 404
    key = {"idempotency-key": "once"}
    body = {"endpoint": "generations", "body": asked}
    jobs = [service.http.post("/v1/jobs", json=body, headers=key).json()["id"] for service in (one, two)]
    assert jobs[0] == jobs[1]
    assert wait(two.http, jobs[0], "succeeded").count("succeeded") == 1
    for service in (one, two):
        assert service.http.get(f"/v1/jobs/{jobs[0]}/images/0").content == base64.b64decode(expected)
    assert one.http.post(f"/v1/jobs/{jobs[0]}/cancel").json()["status"] == "succeeded"


def test_either_service_may_be_killed_and_each_job_ends_and_is_counted_once(pair: Pair) -> None:
    one, two = pair.services
    time.sleep(1.1)  # usage of requests is written twice a second
    before = pair.pictures("jobs")
    webhook = {"webhook": {"url": f"http://{pair.receiver.address}/"}}
    with two.standstill(), one.standstill():
        jobs = [accept((one, two)[seed % 2].http, seed, **webhook) for seed in range(JOBS)]
        while len(two.http.get("/v1/jobs?status=running").json()["data"]) < 8:  # four at each
            time.sleep(0.05)
        one.kill()
    assert [wait(two.http, job, "succeeded").count("succeeded") for job in jobs] == [1] * JOBS
    third = Process(pair.configs[0], pair.tokens["jobs"])
    jobs += [accept((third, two)[seed % 2].http, seed, **webhook) for seed in range(JOBS, 2 * JOBS)]
    wait(third.http, jobs[-1], "running")
    two.kill()  # in the midst of its work
    for job in jobs:
        told = wait(third.http, job, "succeeded")
        assert (told[0], told.count("succeeded")) == ("queued", 1)
    assert pair.pictures("jobs") - before == len(jobs)
    rows = pair.database.transact(
        lambda session: session.execute(
            text("select job_id, count(*) from job_pictures group by job_id")
        ).all()
    )
    assert {job: count for job, count in rows if job in jobs} == dict.fromkeys(jobs, 1)
    heard: dict[str, set[str]] = {}
    while heard.keys() < set(jobs):
        headers, told_of = pair.receiver.next()
        assert told_of["type"] == "job.succeeded"
        heard.setdefault(told_of["data"]["id"], set()).add(headers["webhook-id"])
    assert all(len(messages) == 1 for messages in heard.values())
    for seed in (0, 1, JOBS + 1):
        expected = third.http.post("/v1/images/generations", json={**BODY, "seed": seed}).json()
        picture = third.http.get(f"/v1/jobs/{jobs[seed]}/images/0").content
        assert picture == base64.b64decode(expected["data"][0]["b64_json"])
    assert third.end() == 0
