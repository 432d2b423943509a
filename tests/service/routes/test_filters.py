"""Filters block prompts, uploads and outputs on every path, and record it without the prompt."""

import asyncio
import base64
import io
import json
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import openai
import pytest
import torch
from PIL import Image

from danqing import families
from danqing.errors import ConfigError
from danqing.model.recognizer import Recognizer, load_recognizer
from danqing.model.scorer import ClassScorer
from danqing.service import settings as service_settings
from danqing.service.access import audit
from danqing.service.requests.moderation import Moderator, Subject
from tests.service.serving import Running, served

SIDE = 8
UPLOAD, OUTPUT = "A picture of the request was blocked", "A generated picture was blocked"


def brightness() -> Recognizer:
    """A classifier that takes everything for "bright" but nearly black pictures."""
    shape = {"width": SIDE, "height": SIDE, "channels": 3}
    config = {"family": "classifier", "features": 8, "blocks": 0, "labels": ["dark", "bright"], **shape}
    torch.manual_seed(0)
    learner = families.build_learner(families.parse_config(config))
    generator = torch.Generator().manual_seed(0)
    optimiser = torch.optim.Adam(learner.parameters(), 0.01)
    for _ in range(150):
        labels = torch.arange(32) % 2
        levels = torch.where(labels == 1, 0.35, 0.0) + torch.rand(32, generator=generator) * torch.where(
            labels == 1, 0.65, 0.1
        )
        noise = 0.1 * torch.rand(32, 3, SIDE, SIDE, generator=generator)
        images = ((levels[:, None, None, None] + noise) * 2 - 1).clamp(-1, 1)
        loss = torch.nn.functional.cross_entropy(learner.logits(images), labels)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    learner.drop_training_only()
    return Recognizer(learner, {"temperature": 3.0})


def flat(level: int, size: tuple[int, int] = (SIDE, SIDE), alpha: int | None = None) -> bytes:
    file = io.BytesIO()
    image = Image.new("RGB", size, (level,) * 3)
    if alpha is not None:
        image.putalpha(alpha)
    image.save(file, "PNG")
    return file.getvalue()


def hole() -> bytes:
    mask = np.zeros((SIDE, SIDE, 4), np.uint8)
    mask[:, 0] = 255
    file = io.BytesIO()
    Image.fromarray(mask).save(file, "PNG")
    return file.getvalue()


def data_url(content: bytes) -> dict[str, str]:
    return {"image_url": "data:image/png;base64," + base64.b64encode(content).decode()}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of filters, with a classifier and two lists."""
    folder = tmp_path_factory.mktemp("filters")
    brightness().save(folder / "bright")
    (folder / "en.txt").write_text("gore\n")
    (folder / "strict.txt").write_text("battle\n")
    (folder / "filters.toml").write_text(
        '[prompts]\nlists = ["en.txt"]\nauto_lists = ["strict.txt"]\n'
        '[[images]]\nnetwork = "bright"\nclasses = ["bright"]\nthreshold = 0.5\nlow_threshold = 1.0\n'
    )
    return folder


@pytest.fixture(scope="module")
def running(
    folder: Path, models: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Running]:
    some = {name: models[name] for name in ("masked", "text")} | {"kinds": str(folder / "bright")}
    with served(some, tmp_path_factory.mktemp("data"), filters=folder / "filters.toml") as running:
        yield running


@pytest.fixture(scope="module")
def client(running: Running) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{running.url}/v1", api_key="none", max_retries=0) as client:
        yield client


@pytest.fixture(scope="module")
def http(running: Running) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=running.url, timeout=60) as client:
        yield client


def blocked(error: Any) -> str:
    """The message of an error, which has the shape of the API."""
    assert error["type"] == "image_generation_user_error"
    assert (error["code"], error["param"]) == ("moderation_blocked", "")
    message: str = error["message"]
    return message


def test_a_prompt_is_blocked_in_any_spelling_and_low_moderation_blocks_less(client: openai.OpenAI) -> None:
    for prompt in ("GORE", "g\u043er\u0435", "a quiet meadow, " * 200 + "gore"):
        with pytest.raises(openai.BadRequestError) as error:
            client.images.generate(model="text", prompt=prompt, moderation="low")
        message = blocked(error.value.body)
        assert "prompts" in message
        assert "gore" not in message.lower()
    with pytest.raises(openai.BadRequestError, match="The text was blocked"):
        client.images.generate(model="text", prompt="a battle")
    assert client.images.generate(model="text", prompt="a battle", moderation="low").data


def test_a_negative_prompt_is_blocked_where_the_model_follows_it(http: httpx.Client) -> None:
    body = {"model": "text", "prompt": "a red square", "negative_prompt": "gore", "moderation": "low"}
    for scale, status in ((3.0, 200), (0.5, 400)):
        answer = http.post("/v1/images/generations", json=body | {"guidance_scale": scale})
        assert answer.status_code == status, answer.text


def test_outputs_are_blocked_in_answers_addresses_streams_and_jobs(http: httpx.Client) -> None:
    body = {"model": "masked", "prompt": "star", "n": 2}
    for more in ({}, {"response_format": "url"}):
        answer = http.post("/v1/images/generations", json=body | more)
        assert answer.status_code == 400
        assert OUTPUT in blocked(answer.json()["error"])
    stream = http.post("/v1/images/generations", json=body | {"stream": True, "partial_images": 2}).text
    assert "moderation_blocked" in stream
    assert "b64_json" not in stream
    assert OUTPUT in blocked(finished(http, "generations", body)["error"])
    low = body | {"moderation": "low"}
    assert len(http.post("/v1/images/generations", json=low).json()["data"]) == 2
    assert finished(http, "generations", low)["status"] == "succeeded"


def test_uploads_and_edits_of_them_are_blocked(client: openai.OpenAI, http: httpx.Client) -> None:
    cases = {flat(255): UPLOAD, flat(0, alpha=0): UPLOAD, flat(0): OUTPUT}
    for image, expected in cases.items():
        with pytest.raises(openai.BadRequestError) as error:
            client.images.edit(model="masked", prompt="star", image=image, mask=hole())
        assert expected in blocked(error.value.body)
    low = {"moderation": "low"}
    allowed = client.images.edit(model="masked", prompt="star", image=flat(255), mask=hole(), extra_body=low)
    assert allowed.data
    sent = {"image": ("a.png", flat(255))}
    answer = http.post("/v1/images/variations", files=sent, data={"model": "masked", "label": "star"})
    assert UPLOAD in blocked(answer.json()["error"])


def test_recognition_judges_its_pictures_and_texts(http: httpx.Client) -> None:
    for level, status in ((255, 400), (0, 200)):
        inputs = [data_url(flat(0, (40, 30))), data_url(flat(level, (60, 50)))]
        answer = http.post("/v1/classifications", json={"model": "kinds", "input": inputs})
        assert answer.status_code == status, answer.text
    error = finished(http, "classifications", {"model": "kinds", "input": [data_url(flat(255))]}, status=400)
    assert UPLOAD in blocked(error["error"])


def test_each_picture_of_an_archive_is_judged(http: httpx.Client) -> None:
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as packed:
        packed.writestr("white.png", flat(255))
        packed.writestr("black.png", flat(0))
    body = {"model": "masked", "prompt": "star", "mask": data_url(hole())}
    job = finished(http, "edits", {**body, "images": [data_url(archive.getvalue())]})
    assert job["status"] == "succeeded", job
    content = http.get(f"/v1/jobs/{job['id']}/images/0").content
    with zipfile.ZipFile(io.BytesIO(content)) as packed:
        lines = [json.loads(line) for line in packed.read("manifest.jsonl").splitlines()]
    errors = {line["name"]: line["error"] for line in lines}
    assert UPLOAD in errors["white.png"]
    assert OUTPUT in errors["black.png"]


def test_a_score_of_the_service_is_that_of_the_classifier(folder: Path, running: Running) -> None:
    moderator = running.service.moderator
    assert moderator is not None
    scorer = ClassScorer(load_recognizer(folder / "bright"), ["bright"])
    pixels = np.random.default_rng(0).integers(0, 90, (1, 30, 24, 3), np.uint8)
    look, name = moderator._look([lambda: pixels[0]], "auto")[1], "filter:0"

    async def judge() -> list[Any]:
        return await moderator._judged(name, look[name], Subject("masked", ""))

    (found,) = asyncio.run_coroutine_threadsafe(judge(), running.loop).result(60)
    assert found.score == pytest.approx(float(scorer(pixels)[0]), abs=1e-5)


def test_blocks_are_counted_and_audited_without_prompts(http: httpx.Client, running: Running) -> None:
    prompt = "gore in a very particular place"
    http.post("/v1/images/generations", json={"model": "text", "prompt": prompt})
    text = http.get("/metrics").text
    assert 'danqing_blocked_total{filter="prompts",what="prompt"}' in text
    assert 'danqing_blocked_total{filter="bright",what="output"}' in text
    assert 'danqing_blocked_total{filter="bright",what="upload"}' in text
    database, deadline = running.service.database, time.monotonic() + 20
    while time.monotonic() < deadline:
        entries = database.transact(lambda session: audit.last(session, 1000))
        found = [json.loads(entry.facts) for entry in entries if entry.event == "blocked"]
        if any(facts["what"] == "prompt" for facts in found):
            break
        time.sleep(0.1)
    assert {"what": "prompt", "filter": "prompts", "model": "text"} in [
        {name: facts[name] for name in ("what", "filter", "model")} for facts in found
    ]
    assert all("particular" not in entry.facts and "gore" not in entry.facts for entry in entries)


def test_models_name_filters_and_marks_and_hide_the_classifiers(http: httpx.Client) -> None:
    cards = http.get("/v1/models").json()["data"]
    assert [card["id"] for card in cards] == ["masked", "text", "kinds"]
    assert all(card["marks"] == "none" for card in cards)
    assert cards[0]["filters"]["prompts"] == {"lists": ["en"], "auto_lists": ["strict"]}
    assert cards[0]["filters"]["images"][0]["name"] == "bright"
    body = {"model": "filter:0", "input": [data_url(flat(0))]}
    assert http.post("/v1/classifications", json=body).status_code == 404


def test_filters_that_cannot_be_used_stop_the_service(folder: Path, running: Running, tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.toml"
    (tmp_path / "service.toml").write_text('filters = "wrong.toml"\n[models]\na = "a"\n')
    with pytest.raises(ConfigError, match=r"wrong\.toml cannot be read"):
        service_settings.checked(service_settings.read(tmp_path / "service.toml"))
    with pytest.raises(ConfigError, match="give the path of a file"):
        service_settings.checked({"models": {"a": "a"}, "filters": {"images": []}})
    with pytest.raises(ConfigError, match="begins with filter:"):
        service_settings.checked({"models": {"filter:0": "a"}})
    service = running.service
    parts = service.scheduler, service.encode_pool, service.metrics, service.keys.audit
    for classes, reason in (
        ('["dim"]', "no class 'dim': its classes are dark, bright"),
        ("[]", "give classes"),
    ):
        wrong.write_text(f'[[images]]\nnetwork = "{folder / "bright"}"\nclasses = {classes}\n')
        settings = service_settings.checked({"models": {"masked": "m"}, "filters": wrong})
        with pytest.raises(ConfigError, match=reason):  # as at the start, when the worker has described it
            Moderator(settings, *parts).check_classifiers()


_SCRIPT = """
import asyncio, sys
from pathlib import Path
import numpy as np
from danqing.service.app import running
from danqing.service.requests.moderation import BlockedError, Subject
from danqing.service.settings import Settings

async def main(model, filters, data):
    async with running(Settings(models={"a": model}, data=Path(data), filters=filters)) as service:
        for level in (0, 255):
            try:
                picture = lambda: np.full((40, 40, 3), level, np.uint8)
                await service.moderator.check_pictures([picture], "upload", Subject("a", ""))
                print("allowed")
            except BlockedError as error:
                print(str(error))
    print("torch" in sys.modules, "onnxruntime" in sys.modules)

asyncio.run(main(*sys.argv[1:]))
"""


def test_the_process_that_speaks_http_judges_pictures_without_torch(
    folder: Path, models: dict[str, str], tmp_path: Path
) -> None:
    filters = tmp_path / "filters.toml"
    filters.write_text(
        f'[[images]]\nnetwork = "{folder / "bright"}"\nclasses = ["bright"]\nthreshold = 0.5\n'
        '[[images]]\nnetwork = "nsfw"\nthreshold = 0.9\n'
    )
    arguments = [models["masked"], str(filters), str(tmp_path / "data")]
    found = subprocess.run(
        [sys.executable, "-c", _SCRIPT, *arguments], capture_output=True, text=True, check=True
    )
    assert found.stdout.splitlines() == [
        "allowed",
        f"{UPLOAD} by the filter bright: send another one.",
        "False True",
    ], found.stderr


def finished(http: httpx.Client, endpoint: str, body: dict[str, Any], status: int = 202) -> dict[str, Any]:
    """A job at its end, or the answer to one that is not accepted."""
    answer = http.post("/v1/jobs", json={"endpoint": endpoint, "body": body})
    assert answer.status_code == status, answer.text
    job: dict[str, Any] = answer.json()
    while job.get("status") in ("queued", "running"):
        time.sleep(0.05)
        job = http.get(f"/v1/jobs/{job['id']}").json()
    return job
