"""Who watches a job sees its place in the queue, and its pictures before they are finished."""

import base64
import io
import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from PIL import Image

from tests.service.serving import Running, served


@pytest.fixture(scope="module")
def running(models: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with served(
        {name: models[name] for name in ("masked", "gan")}, tmp_path_factory.mktemp("data")
    ) as running:
        yield running


def accept(running: Running, model: str, **more: Any) -> str:
    asked = {"endpoint": "generations", "body": {"model": model, "prompt": "star", "n": 2, "seed": 5}, **more}
    if model == "gan":
        asked["body"]["prompt"] = ""
    answer = httpx.post(f"{running.url}/v1/jobs", json=asked)
    assert answer.status_code == 202, answer.text
    identity: str = answer.json()["id"]
    return identity


def watch(running: Running, job: str) -> Iterator[tuple[str, dict[str, Any]]]:
    with httpx.stream("GET", f"{running.url}/v1/jobs/{job}/events", timeout=60) as answer:
        name = ""
        for line in answer.iter_lines():
            if line.startswith("event: "):
                name = line.removeprefix("event: ")
            elif line.startswith("data: "):
                yield name, json.loads(line.removeprefix("data: "))


def test_unfinished_pictures_come_before_the_finished_ones(running: Running) -> None:
    events = list(watch(running, accept(running, "masked", previews=3)))
    shown = [data for name, data in events if name == "job.preview"]
    assert shown
    assert [one["index"] for one in shown] == sorted({one["index"] for one in shown})
    for one in shown:
        assert [Image.open(io.BytesIO(base64.b64decode(file))).size for file in one["images"]] == [(8, 8)] * 2
    assert events[-1][0] == "job.succeeded"
    assert "previews" not in events[-1][1]["job"]["request"]
    for job in (accept(running, "masked"), accept(running, "gan", previews=3)):
        assert "job.preview" not in [name for name, _ in watch(running, job)]


def test_a_queued_job_says_how_many_are_before_it(running: Running) -> None:
    dispatcher = running.service.jobs.runner._dispatcher
    assert dispatcher is not None
    running.loop.call_soon_threadsafe(dispatcher.cancel)  # nobody takes jobs any more
    jobs = [accept(running, "gan") for _ in range(3)]
    for place, job in enumerate(jobs):
        ahead = next(data for name, data in watch(running, job) if name == "job.position")
        assert ahead == {"jobs": place, "pictures": 2 * place}
