"""Jobs as their clients see them: a real server, real sockets, both databases."""

import asyncio
import base64
import io
import json
import threading
import time
import uuid
from collections.abc import Iterator
from typing import Any

import httpx
import numpy as np
import openai
import pytest
from PIL import Image

from danqing.service.access import key_admin
from danqing.service.jobs.tables import JobEvent
from danqing.service.jobs.webhooks import sign
from danqing.service.routes.jobs import JobAnswer, JobList
from danqing.service.storage.database import Database
from tests.service.postgresql import Server
from tests.service.receiver import Receiver, receiving
from tests.service.serving import Running, served

PAINT: dict[str, Any] = {"endpoint": "generations", "body": {"model": "gan", "prompt": ""}}


def example() -> dict[str, str]:
    """A picture whose upper half is transparent."""
    file = io.BytesIO()
    square = np.full((8, 8, 4), 200, np.uint8)
    square[:4, :, 3] = 0
    Image.fromarray(square).save(file, "png")
    return {"image_url": f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"}


@pytest.fixture(scope="module")
def receiver() -> Iterator[Receiver]:
    with receiving() as receiver:
        yield receiver


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def running(
    request: pytest.FixtureRequest,
    models: dict[str, str],
    slow: str,
    receiver: Receiver,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Running]:
    data = tmp_path_factory.mktemp("data")
    url = f"sqlite:///{data / 'service.db'}"
    if request.param == "postgresql":
        server: Server = request.getfixturevalue("postgresql")
        url = server.new_database()
    with served(
        {"free": slow, **{name: models[name] for name in ("gan", "vae", "vqvae", "raster", "masked")}},
        data,
        database=url,
        jobs={"lease": 2.0, "waiting": 30},
        outbound={"webhooks": [receiver.address]},
    ) as running:
        running.service.scheduler.pool.supervisors[0].grace = 3600.0  # a stopped worker must not be killed
        yield running


@pytest.fixture(scope="module")
def tokens(running: Running) -> dict[str, str]:
    """Keys: of a painter, of a stranger, and of one who may edit alone."""
    database = Database(running.service.settings.database_url)
    grants = {
        "painter": key_admin.Grant("painter", quota=500),
        "stranger": key_admin.Grant("stranger"),
        "editor": key_admin.Grant("editor", scopes=("edit",)),
        "watcher": key_admin.Grant("watcher", scopes=("metrics",)),
    }
    tokens = {name: key_admin.create(database, grant)[1] for name, grant in grants.items()}
    database.close()
    while httpx.get(f"{running.url}/v1/jobs").status_code != 401:  # until then it needs no keys
        pass
    return tokens


@pytest.fixture
def http(running: Running, tokens: dict[str, str]) -> Iterator[httpx.Client]:
    with client(running, tokens["painter"]) as http:
        yield http


def client(running: Running, token: str) -> httpx.Client:
    headers = {"authorization": f"Bearer {token}"}
    return httpx.Client(base_url=running.url, headers=headers, timeout=60)


def post(http: httpx.Client, asked: dict[str, Any] = PAINT, **headers: str) -> dict[str, Any]:
    answer = http.post("/v1/jobs", json=asked, headers=headers)
    assert answer.status_code == 202, answer.text
    assert answer.headers["location"] == f"/v1/jobs/{answer.json()['id']}"
    told: dict[str, Any] = answer.json()
    JobAnswer.model_validate(told)
    return told


def events(
    http: httpx.Client, job_id: str, last: str | None = None
) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """The id, the name and the data of each event that has an id: of each change of the job's state."""
    headers = {} if last is None else {"last-event-id": last}
    with http.stream("GET", f"/v1/jobs/{job_id}/events", headers=headers) as stream:
        assert stream.headers["content-type"].startswith("text/event-stream")
        told: dict[str, str] = {}
        for line in stream.iter_lines():
            if line:
                name, _, value = line.partition(": ")
                told[name] = value
            else:
                if "id" in told:
                    yield told["id"], told["event"], json.loads(told["data"])
                told = {}


def finished(http: httpx.Client, job_id: str) -> dict[str, Any]:
    *_, (_, _, last) = events(http, job_id)
    job: dict[str, Any] = last["job"]
    assert job == http.get(f"/v1/jobs/{job_id}").json()
    JobAnswer.model_validate(job)
    return job


def test_a_job_paints_what_a_request_paints(http: httpx.Client, running: Running) -> None:
    body = {"model": "masked", "prompt": " RED square", "n": 2, "seed": 3, "size": "16x16", "user": "me"}
    job = finished(http, post(http, {"endpoint": "generations", "body": body})["id"])
    assert job["status"] == "succeeded"
    assert job["request"] == body
    assert job["started_at"] >= job["created_at"]
    assert job["progress"]["done"] == job["progress"]["total"]
    answer = http.post("/v1/images/generations", json=body).json()
    for told, wanted in zip(job["response"]["data"], answer["data"], strict=True):
        assert told["url"].startswith(f"{running.url}/v1/jobs/{job['id']}/images/")
        picture = http.get(told["url"])
        assert picture.content == base64.b64decode(wanted["b64_json"])
        assert picture.headers["content-type"] == "image/png"
        assert picture.headers["x-content-type-options"] == "nosniff"
        assert "sandbox" in picture.headers["content-security-policy"]
        assert told["revised_prompt"] == "red square"
    assert job["response"]["usage"] == answer["usage"]
    assert job["response"]["size"] == "16x16"


def test_a_job_of_mixed_seeds_and_directions_is_made_again_from_its_file(http: httpx.Client) -> None:
    mix = [{"seed": 3, "share": 0.25}, {"seed": 9, "share": 0.75}]
    directions = [{"number": 2, "distance": -1.5}]
    for chosen in ({"mix": mix}, {"mix": mix, "directions": directions}, {"directions": directions}):
        body = {"model": "gan", "prompt": "", **chosen}
        job = finished(
            http, post(http, {"endpoint": "generations", "body": {**body, "embed_settings": True}})["id"]
        )
        file = http.get(job["response"]["data"][0]["url"]).content
        told = http.post("/v1/gallery/settings", files={"image": file}).json()["settings"]["request"]
        assert {name: told[name] for name in chosen} == chosen
        again = http.post("/v1/images/generations", json=told).json()["data"][0]["b64_json"]
        shown = [np.asarray(Image.open(io.BytesIO(one))) for one in (file, base64.b64decode(again))]
        assert np.array_equal(*shown)


def test_any_endpoint_may_be_a_job(running: Running, tokens: dict[str, str]) -> None:
    image = example()
    with client(running, tokens["editor"]) as http:
        edit = {"model": "masked", "prompt": "star", "images": [image], "output_format": "webp"}
        for asked in (
            {"endpoint": "edits", "body": edit},
            {"endpoint": "variations", "body": {"model": "vae", "label": "star", "images": [image]}},
        ):
            job = finished(http, post(http, asked)["id"])
            assert job["status"] == "succeeded", job["error"]
            assert "images" not in job["request"]
            assert len(http.get(f"/v1/jobs/{job['id']}/images/0").content) > 30
        refused = http.post("/v1/jobs", json=PAINT)
        assert (refused.status_code, refused.json()["error"]["code"]) == (403, "insufficient_permissions")


def test_a_job_makes_its_files_when_there_is_room_for_them(http: httpx.Client, running: Running) -> None:
    http.post("/v1/images/generations", json=PAINT["body"])  # the model is there
    line = running.service.encode_pool.job_turns

    async def hold() -> None:
        async with line.turn("", 10**12):
            await let_go.wait()

    let_go = asyncio.Event()
    holding = asyncio.run_coroutine_threadsafe(hold(), running.loop)
    try:
        job = post(http)
        time.sleep(1)
        assert http.get(f"/v1/jobs/{job['id']}").json()["status"] == "running"
        request = http.post("/v1/images/generations", json=PAINT["body"])
        assert request.status_code == 200  # requests have room of their own
    finally:
        running.loop.call_soon_threadsafe(let_go.set)
    holding.result(60)
    assert finished(http, job["id"])["status"] == "succeeded"
    assert line.in_use == 0


def test_a_key_is_worth_one_job(http: httpx.Client) -> None:
    key = {"idempotency-key": str(uuid.uuid4())}
    before = int(http.get("/v1/models").headers["x-ratelimit-remaining-images"])
    first = post(http, **key)
    again = [http.post("/v1/jobs", json=PAINT, headers=key) for _ in range(3)]
    assert [(answer.status_code, answer.json()["id"]) for answer in again] == [(200, first["id"])] * 3
    other = http.post("/v1/jobs", json={**PAINT, "body": {**PAINT["body"], "n": 2}}, headers=key)
    assert other.status_code == 400  # a 409 would be sent again by the official client
    assert other.json()["error"]["code"] == "idempotency_key_reused"
    assert int(other.headers["x-ratelimit-remaining-images"]) == before - 1
    for wrong in ("", "a b", "k" * 256):
        assert http.post("/v1/jobs", json=PAINT, headers={"idempotency-key": wrong}).status_code == 400


def test_one_key_sent_many_times_at_once_is_one_job(running: Running, tokens: dict[str, str]) -> None:
    async def ask() -> set[str]:
        headers = {"authorization": f"Bearer {tokens['painter']}", "idempotency-key": "at-once"}
        async with httpx.AsyncClient(base_url=running.url, headers=headers, timeout=60) as http:
            answers = await asyncio.gather(*[http.post("/v1/jobs", json=PAINT) for _ in range(12)])
        assert sorted(answer.status_code for answer in answers) == [200] * 11 + [202]
        return {answer.json()["id"] for answer in answers}

    assert len(asyncio.run(ask())) == 1


def test_events_are_told_from_where_a_client_left_off(http: httpx.Client) -> None:
    job_id = post(http, {"endpoint": "generations", "body": {"model": "raster", "prompt": "star", "n": 4}})[
        "id"
    ]
    told = list(events(http, job_id))
    assert [number for number, *_ in told] == [str(n) for n in range(1, len(told) + 1)]
    names = [name for _, name, _ in told]
    assert names[:2] == ["job.queued", "job.running"]
    assert names[-1] == "job.succeeded"
    assert set(names[2:-1]) <= {"job.progress"}
    assert all(data["type"] == name and data["job_id"] == job_id for _, name, data in told)
    assert list(events(http, job_id, "1")) == told[1:]
    assert list(events(http, job_id, str(len(told) - 1))) == told[-1:]
    # A browser's EventSource reconnects until it receives 204.
    known = http.get(f"/v1/jobs/{job_id}/events", headers={"last-event-id": str(len(told))})
    assert known.status_code == 204
    for wrong in ("x", "-1", "1" * 20):
        assert http.get(f"/v1/jobs/{job_id}/events", headers={"last-event-id": wrong}).status_code == 400


def test_progress_is_told_while_the_job_runs(http: httpx.Client, running: Running) -> None:
    with running.standstill():
        job_id = post(http, {"endpoint": "generations", "body": {"model": "raster", "prompt": "star"}})["id"]
        telling = events(http, job_id)
        assert [next(telling)[1] for _ in range(2)] == ["job.queued", "job.running"]
        running.service.jobs.runner.note_progress(job_id, 5, 16)
        _, name, data = next(telling)
        assert (name, data["done"], data["total"]) == ("job.progress", 5, 16)
        progress = http.get(f"/v1/jobs/{job_id}").json()
        assert (progress["status"], progress["progress"]) == ("running", {"done": 5, "total": 16})
    assert [name for _, name, _ in telling][-1] == "job.succeeded"


def test_a_job_is_cancelled_whether_it_runs_or_waits(http: httpx.Client, running: Running) -> None:
    with running.standstill():
        many = [post(http, {**PAINT, "body": {**PAINT["body"], "n": 10}})["id"] for _ in range(16)]
        first, last = many[0], many[-1]  # there is room for 128 pictures
        assert next(data for _, name, data in events(http, first) if name == "job.running")
        assert http.get(f"/v1/jobs/{last}").json()["status"] == "queued"
        left = int(http.get("/v1/models").headers["x-ratelimit-remaining-images"])
        for job_id in (*reversed(many), first):
            answer = http.post(f"/v1/jobs/{job_id}/cancel")
            assert (answer.status_code, answer.json()["status"]) == (200, "cancelled")
        back = int(http.get("/v1/models").headers["x-ratelimit-remaining-images"]) - left
        assert back == 30  # those that were never begun cost nothing
    assert not running.service.jobs.runner.running
    assert [name for _, name, _ in events(http, first)][-1] == "job.cancelled"
    done = finished(http, post(http)["id"])
    assert http.post(f"/v1/jobs/{done['id']}/cancel").json() == done


def test_a_job_is_there_for_its_key_alone(
    http: httpx.Client, running: Running, tokens: dict[str, str]
) -> None:
    mine = finished(http, post(http)["id"])["id"]
    paths = [("GET", f"/v1/jobs/{mine}{part}") for part in ("", "/events", "/images/0")]
    with client(running, tokens["stranger"]) as stranger:
        for method, path in (*paths, ("POST", f"/v1/jobs/{mine}/cancel"), ("GET", f"/v1/jobs?after={mine}")):
            answer = stranger.request(method, path)
            assert answer.status_code == 404, path
            assert answer.json()["error"]["code"] == "not_found"
        assert stranger.get("/v1/jobs").json() == {
            "object": "list",
            "data": [],
            "first_id": None,
            "last_id": None,
            "has_more": False,
        }
        theirs = post(stranger, **{"idempotency-key": "shared"})
        ours = post(http, **{"idempotency-key": "shared"})
        assert theirs["id"] != ours["id"]
    with client(running, tokens["watcher"]) as watcher:
        assert watcher.get("/v1/jobs").status_code == 403
    assert httpx.get(f"{running.url}/v1/jobs").status_code == 401
    assert httpx.post(f"{running.url}/v1/jobs", json=PAINT).status_code == 401


def test_jobs_are_listed_by_pages(http: httpx.Client) -> None:
    ids = [post(http)["id"] for _ in range(5)]
    first = http.get("/v1/jobs", params={"limit": 3}).json()
    JobList.model_validate(first)
    assert [job["id"] for job in first["data"]] == ids[:1:-1]
    assert first["has_more"]
    second = http.get("/v1/jobs", params={"limit": 2, "after": first["last_id"]}).json()
    assert [job["id"] for job in second["data"]] == ids[1::-1]
    for job_id in ids:
        finished(http, job_id)
    assert {job["status"] for job in http.get("/v1/jobs?status=succeeded").json()["data"]} == {"succeeded"}
    for wrong in ("limit=0", "limit=101", "limit=x", "status=done", "after=%00", "after=nothing"):
        answer = http.get(f"/v1/jobs?{wrong}")
        assert answer.status_code in (400, 404), wrong
        assert answer.json()["error"].keys() == {"message", "type", "param", "code"}


def test_a_webhook_tells_of_the_end(http: httpx.Client, receiver: Receiver) -> None:
    job = post(http, {**PAINT, "webhook": {"url": f"http://{receiver.address}/hook"}})
    secret = job["webhook"]["secret"]
    headers, told = receiver.next()
    assert (told["type"], told["data"]["id"]) == ("job.succeeded", job["id"])
    assert told["data"]["response"]["data"] == [{"url": f"/v1/jobs/{job['id']}/images/0"}]
    body = json.dumps(told, separators=(",", ":")).encode()
    signature = sign(secret, headers["webhook-id"], int(headers["webhook-timestamp"]), body)
    assert headers["webhook-signature"] == signature
    assert http.get(f"/v1/jobs/{job['id']}").json()["webhook"] == {"url": f"http://{receiver.address}/hook"}


REFUSED: list[tuple[dict[str, Any], str | None]] = [
    ({}, "endpoint"),
    ({"endpoint": "generations"}, "body"),
    ({"endpoint": "upscale", "body": {}}, "endpoint"),
    ({**PAINT, "priority": 1}, "priority"),
    ({"endpoint": "generations", "body": {"model": "gan"}}, "prompt"),
    ({"endpoint": "generations", "body": {"model": "gan", "prompt": "", "n": 11}}, "n"),
    ({"endpoint": "generations", "body": {"model": "gan", "prompt": "", "stream": True}}, "body.stream"),
    (
        {"endpoint": "generations", "body": {"model": "gan", "prompt": "", "partial_images": 1}},
        "body.partial_images",
    ),
    ({**PAINT, "webhook": "http://example.org"}, "webhook"),
    ({**PAINT, "webhook": {"url": "http://169.254.169.254/"}}, "webhook.url"),
    ({**PAINT, "webhook": {"url": "http://example.org", "secret": "s"}}, "webhook.url"),
]


@pytest.mark.parametrize(("asked", "param"), REFUSED)
def test_a_wrong_job_is_refused_before_it_is_accepted(
    http: httpx.Client, asked: dict[str, Any], param: str | None
) -> None:
    before = http.get("/v1/jobs", params={"limit": 1}).json()
    answer = http.post("/v1/jobs", json=asked)
    assert answer.status_code == 400, answer.text
    assert answer.json()["error"]["param"] == param
    assert http.get("/v1/jobs", params={"limit": 1}).json() == before


EXAMPLE = example()
VARY: dict[str, Any] = {"label": "star", "images": [EXAMPLE]}
PAINT_STAR = {"model": "masked", "prompt": "star"}


@pytest.mark.parametrize(
    ("endpoint", "body", "param"),
    [
        ("variations", {"model": "vae", "temperature": 0.5, **VARY}, "temperature"),
        ("variations", {"model": "vae", "strength": 1.5, **VARY}, "strength"),
        ("variations", {"model": "vae", "seeds": 1, **VARY}, "seeds"),
        ("variations", {"model": "masked", "num_steps": 10**6, **VARY}, "num_steps"),
        ("variations", {"model": "masked", "guidance_scale": -1, **VARY}, "guidance_scale"),
        ("variations", {"model": "vqvae", **VARY}, "model"),
        ("variations", {"model": "vae", "images": [EXAMPLE]}, "label"),
        ("edits", {**PAINT_STAR, "strength": 0.5, "images": [EXAMPLE]}, "strength"),
        ("edits", {**PAINT_STAR, "top_p": 0, "images": [EXAMPLE]}, "top_p"),
        ("edits", {**PAINT_STAR, "images": [{"image_url": "data:image/png;base64,@"}]}, "images.0.image_url"),
        ("edits", {**PAINT_STAR, "images": [{"image_url": "http://a.example/"}]}, "images.0.image_url"),
        ("edits", {**PAINT_STAR, "n": 11, "images": [{"image_url": "http://a.example/"}]}, "n"),
        ("generations", {**PAINT_STAR, "images": [{"image_url": "http://a.example/"}]}, "images"),
        ("generations", {**PAINT_STAR, "temperature": -1}, "temperature"),
        ("generations", {**PAINT_STAR, "precision": "float8"}, "precision"),
        ("generations", {**PAINT_STAR, "top_k": -1}, "top_k"),
        ("generations", {**PAINT_STAR, "guidance_schedule": "late"}, "guidance_schedule"),
        ("generations", {"model": "gan", "prompt": "", "truncation": 1.5}, "truncation"),
        ("generations", {"model": "gan", "prompt": "a dog"}, "prompt"),
        ("generations", {"model": "free", "prompt": "", "guidance_scale": 2}, "guidance_scale"),
        ("generations", {**PAINT_STAR, "size": "7x9"}, "size"),
    ],
)
def test_a_job_is_refused_as_the_request_would_be(
    http: httpx.Client, endpoint: str, body: dict[str, Any], param: str
) -> None:
    before = http.get("/v1/jobs", params={"limit": 1}).json()
    painted = http.post(f"/v1/images/{endpoint}", json=body)
    accepted = http.post("/v1/jobs", json={"endpoint": endpoint, "body": body})
    assert (painted.status_code, painted.json()["error"]["param"]) == (400, param), painted.text
    assert (accepted.status_code, accepted.json()) == (400, painted.json())
    assert http.get("/v1/jobs", params={"limit": 1}).json() == before


def test_what_waits_is_bounded(running: Running, tokens: dict[str, str]) -> None:
    with client(running, tokens["stranger"]) as http, running.standstill():
        ids = []
        while (answer := http.post("/v1/jobs", json=PAINT)).status_code == 202:
            ids.append(answer.json()["id"])
        assert len(ids) == 30
        assert (answer.status_code, answer.json()["error"]["code"]) == (429, "too_many_jobs")
        assert int(answer.headers["retry-after"]) >= 1
        for job_id in ids:
            http.post(f"/v1/jobs/{job_id}/cancel")
        assert http.post("/v1/jobs", json=PAINT).status_code == 202


def test_the_official_client_can_ask_for_jobs(running: Running, tokens: dict[str, str]) -> None:
    with openai.OpenAI(base_url=f"{running.url}/v1", api_key=tokens["painter"]) as client:
        job = client.post("/jobs", body=PAINT, cast_to=dict[str, Any])
        path = f"/jobs/{job['id']}"
        while (job := client.get(path, cast_to=dict[str, Any]))["status"] in ("queued", "running"):
            threading.Event().wait(0.05)
        assert job["status"] == "succeeded"
        with pytest.raises(openai.NotFoundError):
            client.get(f"/jobs/job_{'0' * 32}", cast_to=dict[str, Any])


def test_a_revoked_key_paints_no_more(running: Running) -> None:
    database = Database(running.service.settings.database_url)
    key, token = key_admin.create(database, key_admin.Grant("short-lived"))
    with client(running, token) as http, running.standstill():
        for _ in range(20):  # more than there is room for
            job = post(http, {**PAINT, "body": {**PAINT["body"], "n": 10}})
        key_admin.revoke(database, key.id)
    jobs = running.service.jobs

    async def wait() -> dict[str, Any]:
        async for event in jobs.events(key.id, job["id"], 0):
            if isinstance(event, JobEvent):
                last = event
        assert last.type == "job.failed"
        return json.loads((await jobs.find(key.id, job["id"])).error or "")

    error = asyncio.run_coroutine_threadsafe(wait(), running.loop).result(60)
    assert error["code"] == "revoked_api_key"
    database.close()


def test_the_document_describes_jobs(running: Running) -> None:
    document = httpx.get(f"{running.url}/openapi.json").json()
    paths = {path for path in document["paths"] if path.startswith("/v1/jobs")}
    assert len(paths) == 5
    accept = document["paths"]["/v1/jobs"]["post"]
    schema = accept["requestBody"]["content"]["application/json"]["schema"]
    assert schema["required"] == ["endpoint", "body"]
    assert accept["security"] == [{"HTTPBearer": []}]
    assert "HTTPBearer" in document["components"]["securitySchemes"]
