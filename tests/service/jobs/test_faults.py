"""Servers are killed and databases go away: no job that was accepted is lost, none is finished twice."""

import base64
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.service.postgresql import Server
from tests.service.processes import STARTED, Process
from tests.service.receiver import Receiver, receiving
from tests.service.serving import served

BODY = {"model": "raster", "prompt": "star"}


def accept(http: httpx.Client, seed: int, **more: Any) -> str:
    body = {**BODY, "seed": seed}
    answer = http.post("/v1/jobs", json={"endpoint": "generations", "body": body, **more})
    assert answer.status_code == 202, answer.text
    job_id: str = answer.json()["id"]
    return job_id


def accept_at_last(http: httpx.Client, seed: int) -> str:
    """As `accept`, by a client that asks again when it is told so, with a key that makes it safe."""
    asked = {"endpoint": "generations", "body": {**BODY, "seed": seed}}
    key = {"idempotency-key": f"seed-{seed}"}
    while (answer := http.post("/v1/jobs", json=asked, headers=key)).status_code == 503:
        pass
    job_id: str = answer.json()["id"]
    return job_id


def wait(http: httpx.Client, job_id: str, name: str) -> list[str]:
    """The names of a job's events, from its first to the first of that name."""
    told = []
    with http.stream("GET", f"/v1/jobs/{job_id}/events") as stream:
        for line in stream.iter_lines():
            if line.startswith("event: "):
                told.append(line.removeprefix("event: job."))
                if told[-1] == name:
                    return told
    raise AssertionError(f"{job_id}: {told}")


@pytest.fixture(autouse=True)
def nothing_is_left() -> Iterator[None]:
    """A test that fails leaves no server behind."""
    yield
    while STARTED:
        STARTED.pop().kill()


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receiving() as receiver:
        yield receiver


@pytest.fixture
def config(models: dict[str, str], database_url: str, receiver: Receiver, tmp_path: Path) -> Path:
    path = tmp_path / "service.toml"
    path.write_text(
        f'port = 0\ndata = "data"\ndatabase = "{database_url}"\nlog = "json"\n'
        f'[models]\nraster = "{models["raster"]}"\n'
        "[engine]\nthreads = 1\n"
        "[jobs]\nlease = 1.0\n"
        f'[outbound]\nwebhooks = ["{receiver.address}"]\n'
    )
    return path


def test_no_job_is_lost_or_finished_twice_though_servers_are_killed(config: Path, receiver: Receiver) -> None:
    webhook = {"webhook": {"url": f"http://{receiver.address}/"}}
    first = Process(config)
    with first.standstill():  # one is begun and cannot end, and the others wait
        jobs = [accept(first.http, seed, **webhook) for seed in range(8)]
        wait(first.http, jobs[0], "running")
        first.kill()
    second = Process(config)
    jobs += [accept(second.http, seed) for seed in range(8, 16)]
    wait(second.http, jobs[1], "succeeded")
    second.kill()  # in the midst of its work
    third = Process(config)
    for job_id in jobs:
        told = wait(third.http, job_id, "succeeded")
        assert told.count("succeeded") == 1
        assert told[0] == "queued"
    assert wait(third.http, jobs[0], "succeeded").count("running") > 1
    for seed, job_id in enumerate(jobs):
        answer = third.http.post("/v1/images/generations", json={**BODY, "seed": seed}).json()
        picture = third.http.get(f"/v1/jobs/{job_id}/images/0").content
        assert picture == base64.b64decode(answer["data"][0]["b64_json"])
    heard: dict[str, set[str]] = {}
    while heard.keys() < set(jobs[:8]):
        headers, told_of = receiver.next()
        heard.setdefault(told_of["data"]["id"], set()).add(headers["webhook-id"])
    assert all(len(messages) == 1 for messages in heard.values())
    assert third.end() == 0


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_a_server_that_stops_leaves_its_jobs_to_the_next(config: Path) -> None:
    first = Process(config)
    with first.standstill():
        jobs = [accept(first.http, seed) for seed in range(3)]
        wait(first.http, jobs[0], "running")
        assert first.end() == 0
    second = Process(config)
    for job_id in jobs:
        states = [event for event in wait(second.http, job_id, "succeeded") if event != "progress"]
        assert states[-3:-1] == ["queued", "running"]
    second.kill()


def test_a_database_that_goes_away_takes_no_job_with_it(
    models: dict[str, str], postgresql: Server, tmp_path: Path
) -> None:
    url = postgresql.new_database()
    with (
        served({"raster": models["raster"]}, tmp_path, database=url, jobs={"lease": 1.0}) as running,
        httpx.Client(base_url=running.url, timeout=60) as http,
    ):
        running.service.scheduler.pool.supervisors[0].grace = 3600.0
        with running.standstill():
            jobs = [accept(http, seed) for seed in range(3)]
            wait(http, jobs[0], "running")
            postgresql.stop()
        try:
            painted = http.post("/v1/images/generations", json=BODY)  # which needs no database
            assert painted.status_code == 200
            refused = http.get(f"/v1/jobs/{jobs[0]}")
            assert (refused.status_code, refused.json()["error"]["code"]) == (503, "database_unavailable")
            assert "retry-after" in refused.headers
            patient = threading.Thread(target=lambda: jobs.append(accept_at_last(http, 3)))
            patient.start()  # it is asked while the database is away, and accepted when it is back
        finally:
            postgresql.start()
        patient.join()
        told = [wait(http, job_id, "succeeded") for job_id in jobs]
        assert [events.count("succeeded") for events in told] == [1] * 4
        assert (
            told[0].count("running") == 1
        )  # its pictures waited for the database, and nobody painted it again


def test_a_model_that_cannot_be_loaded_at_present_fails_no_job(
    models: dict[str, str], tmp_path: Path
) -> None:
    folder, away = tmp_path / "model", tmp_path / "away"
    shutil.copytree(models["raster"], folder)
    with (
        served({"raster": str(folder), "vae": models["vae"]}, tmp_path) as running,
        httpx.Client(base_url=running.url, timeout=60) as http,
    ):
        folder.rename(away)
        job_id = accept(http, 1)
        told = []
        with http.stream("GET", f"/v1/jobs/{job_id}/events") as stream:
            for line in stream.iter_lines():
                if line.startswith("event: ") and line != "event: job.position":
                    told.append(line.removeprefix("event: job."))
                if len(told) == 3:
                    break
        assert told == ["queued", "running", "queued"]
        assert http.post(f"/v1/jobs/{job_id}/cancel").json()["status"] == "cancelled"
