"""The official client paints with our models, and every field is honoured or refused by its name."""

import asyncio
import base64
import concurrent.futures
import io
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import openai
import pytest
from PIL import Image

import danqing as dq
from danqing.randomness import derived_seed
from danqing.recognition.explain.model_directions import ModelDirections
from danqing.service.requests.schemas import Generation, ImageEvent, ImagesResponse
from tests.service.serving import Running, served

SQUARE = "red square"


@pytest.fixture(scope="module")
def running(
    models: dict[str, str], broken: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Running]:
    served_models = {"gan": models["gan"], **models, "broken": broken}
    data = tmp_path_factory.mktemp("data")
    with served(served_models, data, aliases={"dall-e-2": "vae"}, limits={"pixels": 100_000}) as running:
        yield running


@pytest.fixture(scope="module")
def client(running: Running) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{running.url}/v1", api_key="none", max_retries=0) as client:
        yield client


def post(running: Running, **body: Any) -> httpx.Response:
    content, kind = json.dumps(body), {"content-type": "application/json"}  # which can hold half a character
    return httpx.post(f"{running.url}/v1/images/generations", content=content, headers=kind, timeout=60)


def pixels(b64: str | None) -> np.ndarray:
    assert b64 is not None
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(b64))))


def test_a_seed_paints_what_the_python_api_paints(client: openai.OpenAI, models: dict[str, str]) -> None:
    for name, prompt, asked in (
        ("gan", "", {}),
        ("vae", SQUARE, {"label": SQUARE}),
        ("raster", "star", {"label": "star"}),
        ("masked", "circle", {"label": "circle"}),
        ("text", "a blue circle", {"prompt": "a blue circle"}),
    ):
        answer = client.images.generate(model=name, prompt=prompt, n=3, extra_body={"seed": 7})
        assert answer.data is not None
        painted = np.stack([pixels(picture.b64_json) for picture in answer.data])
        assert np.array_equal(painted, dq.load(models[name]).sample(3, seed=7, **asked).array), name


def test_a_mix_of_seeds_lies_between_their_pictures(client: openai.OpenAI) -> None:
    def painted(n: int = 2, **fields: Any) -> list[str | None]:
        answer = client.images.generate(model="gan", prompt="", n=n, extra_body=fields)
        return [one.b64_json for one in answer.data or ()]

    first, second = painted(seed=4), painted(seed=5)
    assert painted(mix=[{"seed": 4, "share": 1}, {"seed": 5, "share": 0}]) == first
    assert painted(mix=[{"seed": 4, "share": 0}, {"seed": 5, "share": 0.5}]) == second
    middle = painted(mix=[{"seed": 4, "share": 0.5}, {"seed": 5, "share": 0.5}])
    assert len({*first, *second, *middle}) == 6


def test_pictures_move_along_the_directions_that_explain_shows(
    client: openai.OpenAI, models: dict[str, str]
) -> None:
    counts = {
        one["id"]: one["directions"] for one in client.get("/models", cast_to=httpx.Response).json()["data"]
    }
    assert counts == {"gan": 6, "vae": 4, "vqvae": 0, "raster": 0, "masked": 0, "text": 0, "broken": 0}
    for name, prompt, asked in (("gan", "", {}), ("vae", "star", {"label": "star"})):

        def painted(**fields: Any) -> list[np.ndarray]:
            answer = client.images.generate(model=name, prompt=prompt, n=2, extra_body=fields)  # noqa: B023
            return [pixels(one.b64_json) for one in answer.data or ()]

        model = dq.load(models[name])
        directions = ModelDirections(model)
        shown = dq.explain(model).sections[0].values
        assert np.allclose([one["direction"] for one in shown], directions.find()[0], atol=1e-5)
        seeds = [derived_seed(7, "image", number) for number in range(2)]
        still = model.sample(seeds=seeds, **asked).array
        none = [{"number": 1, "distance": 0}, {"number": 2, "distance": 0.0}]
        for chosen in ([], none, None):
            assert np.array_equal(painted(seed=7, directions=chosen), still)
        ways = [{"number": 3, "distance": -2.5}, {"number": 1, "distance": 4}]
        seeds = [directions.moved(seed, {1: 4, 3: -2.5}) for seed in seeds]
        moved = model.sample(seeds=seeds, **asked).array
        assert np.array_equal(painted(seed=7, directions=ways), moved)
        assert all((one != other).any() for one, other in zip(still, moved, strict=True))
        mix = [{"seed": 7, "share": 1}, {"seed": 8, "share": 0}]
        assert np.array_equal(painted(mix=mix, directions=ways), moved)


def test_an_answer_tells_what_was_painted_and_its_seed_paints_it_again(client: openai.OpenAI) -> None:
    first = client.images.generate(model="masked", prompt=" RED  Square", n=2, user="somebody")
    told = first.model_dump()
    ImagesResponse.model_validate(told)
    assert first.data is not None
    assert [picture.revised_prompt for picture in first.data] == [SQUARE] * 2
    assert (told["size"], told["background"], told["output_format"]) == ("8x8", "opaque", "png")
    assert told["safety_identifier"] == "somebody"
    assert "quality" not in told or told["quality"] is None
    assert first.usage is not None
    assert first.usage.output_tokens == 2 * 16  # a code for each 2x2 pixels
    assert first.usage.input_tokens == 3  # twelve letters
    assert first.usage.total_tokens == 35
    again = client.images.generate(model="masked", prompt=SQUARE, n=2, extra_body={"seed": told["seed"]})
    assert again.data is not None
    assert [one.b64_json for one in again.data] == [one.b64_json for one in first.data]


def test_the_asynchronous_client_paints_many_at_once(running: Running) -> None:
    async def ask() -> list[Any]:
        async with openai.AsyncOpenAI(base_url=f"{running.url}/v1", api_key="none") as client:
            calls = [
                client.images.generate(model="gan", prompt="", extra_body={"seed": i}) for i in range(40)
            ]
            return await asyncio.gather(*calls)

    answers = asyncio.run(ask())
    assert len({answer.data[0].b64_json for answer in answers}) == 40


def test_a_stream_shows_how_the_pictures_come_to_be(client: openai.OpenAI) -> None:
    whole = client.images.generate(model="masked", prompt="star", n=2, extra_body={"seed": 1})
    assert whole.data is not None
    with client.images.generate(
        model="masked",
        prompt="star",
        n=2,
        stream=True,
        partial_images=2,
        extra_body={"seed": 1, "user": "somebody"},
    ) as stream:
        events = [event.model_dump() for event in stream]
    assert all(event.keys() <= ImageEvent.model_fields.keys() for event in events)
    assert [event.get("safety_identifier") for event in events] == [None] * 4 + ["somebody"] * 2
    kinds = [(event["type"].partition(".")[2], event["image_index"]) for event in events]
    assert kinds == [*[("partial_image", 0), ("partial_image", 1)] * 2, ("completed", 0), ("completed", 1)]
    assert [event["partial_image_index"] for event in events[:4]] == [0, 0, 1, 1]
    assert [event["b64_json"] for event in events[4:]] == [one.b64_json for one in whole.data]
    assert all(event["size"] == "8x8" and event["quality"] == "auto" for event in events)
    assert whole.usage is not None
    assert sum(event["usage"]["total_tokens"] for event in events[4:]) == whole.usage.total_tokens
    previews = [pixels(event["b64_json"]) for event in events[:4:2]]
    assert not np.array_equal(previews[0], previews[1])


def test_what_only_the_worker_finds_wrong_names_its_field_and_stops_nobody_else(running: Running) -> None:
    long = "a blue circle " * 40
    with concurrent.futures.ThreadPoolExecutor(12) as pool:
        asked: list[dict[str, Any]] = [
            {"prompt": long},
            {"prompt": "a", "negative_prompt": long, "guidance_scale": 2.0},
            {"prompt": "a", "temperature": -1.0},
            *({"prompt": "blue", "seed": seed} for seed in range(9)),
        ]
        url = f"{running.url}/v1/images/generations"
        answers = list(
            pool.map(lambda one: httpx.post(url, json={"model": "text", **one}, timeout=60), asked)
        )
    assert [one.status_code for one in answers] == [400] * 3 + [200] * 9
    errors = [one.json()["error"] for one in answers[:3]]
    assert [one["param"] for one in errors] == ["prompt", "negative_prompt", "temperature"]
    card = httpx.get(f"{running.url}/v1/models/text").json()
    assert f"this model reads {card['prompt_tokens']}:" in errors[0]["message"]


def test_a_model_that_paints_at_once_streams_its_picture_alone(running: Running) -> None:
    async def ask() -> list[Any]:
        async with openai.AsyncOpenAI(base_url=f"{running.url}/v1", api_key="none") as client:
            stream = await client.images.generate(model="gan", prompt="", stream=True, partial_images=3)
            return [event async for event in stream]

    (event,) = asyncio.run(ask())
    assert event.type == "image_generation.completed"
    assert pixels(event.b64_json).shape == (8, 8, 3)


def test_pictures_come_in_the_size_and_format_asked_for(client: openai.OpenAI) -> None:
    for fields, form, mode in (
        ({"output_format": "webp", "output_compression": 40}, "WEBP", "RGBA"),
        ({"output_format": "jpeg", "size": "32x32"}, "JPEG", "RGB"),
        ({"background": "opaque"}, "PNG", "RGB"),
        ({"background": "transparent", "size": "16x16"}, "PNG", "RGBA"),
    ):
        answer = client.images.generate(model="vae", prompt="star", extra_body={"seed": 3, **fields})
        assert answer.data is not None
        image = Image.open(io.BytesIO(base64.b64decode(answer.data[0].b64_json or "")))
        width = int(str(fields.get("size", "8x8")).partition("x")[0])
        assert (image.format, image.mode, image.size) == (form, mode, (width, width))
        assert answer.background == ("transparent" if mode == "RGBA" else "opaque")
        assert answer.output_format == form.lower()


def test_a_picture_has_an_address_that_only_its_client_knows(running: Running, client: openai.OpenAI) -> None:
    answer = client.images.generate(model="gan", prompt="", response_format="url", extra_body={"seed": 5})
    inline = client.images.generate(model="gan", prompt="", extra_body={"seed": 5})
    assert answer.data is not None
    assert inline.data is not None
    url = answer.data[0].url
    assert url is not None
    assert url.startswith(f"{running.url}/v1/pictures/")
    picture = httpx.get(url)
    assert picture.content == base64.b64decode(inline.data[0].b64_json or "")
    assert picture.headers["content-type"] == "image/png"
    assert picture.headers["x-content-type-options"] == "nosniff"
    assert "sandbox" in picture.headers["content-security-policy"]
    for name in ("nothing.png", "..%2f..%2fservice.db", f"{'a' * 32}.png", "%00"):
        missing = httpx.get(f"{running.url}/v1/pictures/{name}")
        assert missing.status_code == 404
        assert missing.json()["error"]["type"] == "not_found_error"


REFUSED: list[tuple[dict[str, Any], int, str | None, str]] = [
    ({}, 400, "prompt", "missing"),
    ({"prompt": "", "seed": 3, "mix": [{"seed": 4, "share": 1}]}, 400, "mix", "one of them"),
    ({"prompt": "", "mix": [{"seed": 4, "share": 0}]}, 400, "mix", "above 0"),
    ({"prompt": "", "mix": [{"seed": 4, "share": 2}]}, 400, "mix.0.share", "1"),
    ({"prompt": "", "mix": []}, 400, "mix", "1"),
    ({"prompt": "", "directions": [{"number": 7, "distance": 1}]}, 400, "directions.0.number", "6"),
    ({"prompt": "", "directions": [{"number": 1, "distance": 5.1}]}, 400, "directions.0.distance", "5"),
    ({"prompt": "", "directions": [{"number": 1}]}, 400, "directions.0.distance", "missing"),
    ({"prompt": "", "directions": [{"number": 1, "distance": 1}] * 2}, 400, "directions", "once"),
    ({"prompt": "", "directions": [{"number": 1, "distance": 1}] * 7}, 400, "directions", "6"),
    ({"prompt": "", "directions": 3}, 400, "directions", "list"),
    (
        {"prompt": "star", "model": "vae", "directions": [{"number": 5, "distance": 1}]},
        400,
        "directions",
        "vae has 4 directions: there is no direction 5.",
    ),
    (
        {"prompt": "star", "model": "masked", "directions": [{"number": 1, "distance": 0}]},
        400,
        "directions",
        "masked has no directions",
    ),
    ({"prompt": None}, 400, "prompt", "string"),
    ({"prompt": 3}, 400, "prompt", "string"),
    ({"prompt": "\ud800"}, 400, "prompt", "prompt"),
    ({"prompt": "a" * 32_001, "model": "text"}, 400, "prompt", "32000"),
    ({"prompt": "a cat"}, 400, "prompt", "empty"),
    ({"prompt": "", "model": "vae"}, 400, "prompt", "circle, red square, star"),
    ({"prompt": "sqare", "model": "vae"}, 400, "prompt", "red square"),
    ({"prompt": "star", "label": "circle", "model": "vae"}, 400, "label", "circle"),
    ({"prompt": "", "label": 3, "model": "vae"}, 400, "label", "0 to 2"),
    ({"prompt": "", "label": "star"}, 400, "label", "without labels"),
    ({"prompt": "", "label": True, "model": "vae"}, 400, "label", "label"),
    ({"prompt": "", "model": "mask"}, 404, "model", "masked"),
    ({"prompt": "", "model": "../../etc/passwd"}, 404, "model", "no model"),
    ({"prompt": "", "model": "broken"}, 503, "model", "log"),
    ({"prompt": "", "n": 0}, 400, "n", "1"),
    ({"prompt": "", "n": 11}, 400, "n", "10"),
    ({"prompt": "", "n": "2"}, 400, "n", "integer"),
    ({"prompt": "", "n": True}, 400, "n", "integer"),
    ({"prompt": "", "size": "8"}, 400, "size", "WIDTHxHEIGHT"),
    ({"prompt": "", "size": "16x24"}, 400, "size", "16x16"),
    ({"prompt": "", "size": "0x0"}, 400, "size", "WIDTHxHEIGHT"),
    ({"prompt": "", "size": "8192x8192"}, 400, "size", "too large"),
    ({"prompt": "", "n": 2, "size": "256x256"}, 400, "size", "too large"),
    ({"prompt": "", "style": "vivid"}, 400, "style", "styles"),
    ({"prompt": "", "svg": {}}, 400, "svg", "pixels"),
    ({"prompt": "", "output_format": "gif"}, 400, "output_format", "png"),
    ({"prompt": "", "output_compression": 30}, 400, "output_compression", "png"),
    ({"prompt": "", "response_format": "uri"}, 400, "response_format", "url"),
    ({"prompt": "", "background": "transparent"}, 400, "background", "transparency"),
    (
        {"prompt": "star", "model": "vae", "background": "transparent", "output_format": "jpeg"},
        400,
        "background",
        "webp",
    ),
    ({"prompt": "", "quality": "high"}, 400, "quality", "standard"),
    ({"prompt": "star", "model": "masked", "quality": "max"}, 400, "quality", "medium"),
    ({"prompt": "star", "model": "masked", "quality": "low", "num_steps": 3}, 400, "quality", "one of them"),
    ({"prompt": "star", "model": "masked", "num_steps": 17}, 400, "num_steps", "16"),
    ({"prompt": "", "num_steps": 4}, 400, "num_steps", "no num_steps"),
    ({"prompt": "", "truncation": "much"}, 400, "truncation", "number"),
    ({"prompt": "", "truncation": True}, 400, "truncation", "number"),
    ({"prompt": "", "truncation": 2.0}, 400, "truncation", "truncation"),  # the model's own refusal
    ({"prompt": "", "truncatoin": 0.5}, 400, "truncatoin", "truncation"),
    ({"prompt": "", "negative_prompt": "a cat"}, 400, "negative_prompt", "does not read text"),
    (
        {"prompt": "a star", "model": "text", "negative_prompt": "white", "guidance_scale": 1},
        400,
        "negative_prompt",
        "guidance_scale",
    ),
    ({"prompt": "", "seed": 2**63}, 400, "seed", "less"),
    ({"prompt": "", "partial_images": 2}, 400, "partial_images", "stream"),
    ({"prompt": "", "stream": True, "response_format": "url"}, 400, "response_format", "stream"),
    ({"prompt": "", "stream": True, "truncation": 2.0}, 400, "truncation", "truncation"),
]


@pytest.mark.parametrize(("body", "status", "param", "words"), REFUSED)
def test_what_cannot_be_honoured_is_refused_by_name(
    running: Running, body: dict[str, Any], status: int, param: str | None, words: str
) -> None:
    answer = post(running, **{"model": "gan", **body})
    assert answer.status_code == status, answer.text
    assert answer.json().keys() == {"error"}
    error = answer.json()["error"]
    assert error.keys() == {"message", "type", "param", "code"}
    assert error["param"] == param, error
    assert words in error["message"], error
    assert answer.headers["x-request-id"]
    if status == 503:
        assert answer.headers["x-should-retry"] == "false"
        assert "/" not in error["message"]


def answered(running: Running, **fields: Any) -> dict[str, Any]:
    """The answer to a request, without the moment at which it was made."""
    answer = post(running, prompt="star", **fields)
    assert answer.status_code == 200, answer.text
    return {name: value for name, value in answer.json().items() if name != "created"}


def test_null_is_the_same_as_leaving_a_field_out(running: Running) -> None:
    optional = dict.fromkeys(set(Generation.model_fields) - {"prompt"}) | {"temperature": None}
    chosen = {"model": "vae", "seed": 3}
    assert answered(running, **optional | chosen) == answered(running, **chosen)


def test_setting_a_default_is_the_same_as_leaving_it_out(running: Running) -> None:
    chosen = {"model": "dall-e-2", "seed": 3}
    defaults = {
        "quality": "standard",
        "moderation": "low",
        "background": "auto",
        "size": "auto",
        "output_compression": 100,
        "temperature": 1,
        "stream": False,
        "partial_images": 0,
    }
    assert answered(running, **chosen, **defaults) == answered(running, **chosen)


def test_quality_chooses_the_steps(running: Running) -> None:
    answers = {
        name: post(running, model="masked", prompt="star", seed=1, **fields).json()
        for name, fields in {
            "own": {},
            "medium": {"quality": "medium"},
            "low": {"quality": "low"},
            "six": {"num_steps": 6},
        }.items()
    }
    pictures = {name: answer["data"][0]["b64_json"] for name, answer in answers.items()}
    assert pictures["own"] == pictures["medium"]
    assert pictures["low"] == pictures["six"]
    assert answers["low"]["quality"] == "low"


def test_a_negative_prompt_leads_away_from_it(running: Running) -> None:
    asked = {"model": "text", "prompt": "a green star", "seed": 1, "guidance_scale": 4.0}
    with_it = post(running, **asked, negative_prompt="on white").json()
    without = post(running, **asked).json()
    assert with_it["data"] != without["data"]
    assert with_it["usage"]["input_tokens"] == without["usage"]["input_tokens"] + 2


def test_models_are_listed_with_what_they_can_do(client: openai.OpenAI) -> None:
    listed = {model.id: model.model_dump() for model in client.models.list()}
    assert list(listed) == ["gan", "vae", "vqvae", "raster", "masked", "text", "broken"]
    assert all(model["object"] == "model" for model in listed.values())
    assert [name for name, model in listed.items() if not model["available"]] == ["broken"]
    assert listed["vae"]["labels"] == ["circle", "red square", "star"]
    assert listed["masked"]["partial_images"]
    assert "edits" in listed["masked"]["endpoints"]
    one = client.models.retrieve("dall-e-2").model_dump()
    assert one["id"] == "vae"
    assert "vae" in one["card"]
    with pytest.raises(openai.NotFoundError) as refused:
        client.models.retrieve("nobody")
    assert refused.value.code == "model_not_found"


def test_whatever_goes_wrong_has_the_documented_shape(running: Running) -> None:
    with httpx.Client(base_url=running.url) as http:
        json_type = {"content-type": "application/json"}
        cases = [
            (http.get("/v1/nothing"), 404),
            (http.get("/v1/images/generations"), 405),
            (http.post("/v1/images/generations/", json={}), 404),
            (http.delete("/v1/models"), 405),
            (http.post("/v1/images/generations", content=b"{", headers=json_type), 400),
            (http.post("/v1/images/generations", content=b"[]", headers=json_type), 400),
            (http.post("/v1/images/generations", content=b"", headers=json_type), 400),
            (http.post("/v1/images/generations", content=b"{}", headers={"content-type": "text/plain"}), 415),
        ]
    for answer, status in cases:
        assert answer.status_code == status, answer.text
        assert answer.json()["error"].keys() == {"message", "type", "param", "code"}
    assert cases[1][0].headers["allow"] == "POST"


def test_the_painting_stops_when_the_client_leaves(running: Running) -> None:
    body = {"model": "raster", "prompt": "star", "n": 10}

    async def leave(stream: bool) -> None:
        _, writer = await asyncio.open_connection(*running.url.removeprefix("http://").split(":"))
        content = json.dumps({**body, "stream": stream}).encode()
        head = "POST /v1/images/generations HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\n"
        writer.write(f"{head}content-length: {len(content)}\r\n\r\n".encode() + content)
        await writer.drain()
        while not running.service.scheduler.state().in_flight:
            await asyncio.sleep(0)
        writer.close()
        while running.service.scheduler.state().in_flight or running.service.scheduler.state().queued:
            await asyncio.sleep(0.01)

    def cancelled() -> float:
        return sum(
            sample.value
            for metric in running.service.metrics.registry.collect()
            for sample in metric.samples
            if sample.name == "danqing_failures_total" and sample.labels["reason"] == "cancelled"
        )

    before = cancelled()
    for stream in (False, True):
        asyncio.run(asyncio.wait_for(leave(stream), 30))
    assert cancelled() == before + 2


ROUTES = {
    "POST /v1/classifications",
    "POST /v1/detections",
    "POST /v1/segmentations",
    "POST /v1/embeddings",
    "POST /v1/search",
    "POST /v1/attributions",
    "POST /v1/content_provenance_checks",
    "POST /v1/images/generations",
    "POST /v1/images/edits",
    "POST /v1/images/variations",
    "GET /v1/pictures/{name}",
    "GET /v1/models",
    "GET /v1/models/{name}",
    "POST /v1/jobs",
    "GET /v1/jobs",
    "GET /v1/jobs/{job_id}",
    "POST /v1/jobs/{job_id}/cancel",
    "GET /v1/jobs/{job_id}/events",
    "GET /v1/jobs/{job_id}/images/{number}",
    "GET /v1/session",
    "POST /v1/session",
    "DELETE /v1/session",
    "GET /v1/usage",
    "GET /v1/admin/keys",
    "GET /v1/admin/state",
    "GET /v1/admin/audit",
    "GET /v1/gallery",
    "GET /v1/gallery/albums",
    "POST /v1/gallery/albums",
    "DELETE /v1/gallery/albums/{number}",
    "POST /v1/gallery/albums/{number}/pictures",
    "POST /v1/gallery/delete",
    "POST /v1/gallery/zip",
    "POST /v1/gallery/settings",
    "GET /v1/gallery/{number}",
    "PATCH /v1/gallery/{number}",
    "DELETE /v1/gallery/{number}",
    "GET /v1/gallery/{number}/file",
    "GET /v1/judging/sessions",
    "POST /v1/judging/sessions/{session_id}/ballot",
    "GET /v1/judging/ballots/{ballot_id}/pictures/{place}",
    "POST /v1/judging/ballots/{ballot_id}",
    "GET /v1/judging/sessions/{session_id}/results",
    "GET /v1/datasets",
    "POST /v1/datasets",
    "GET /v1/datasets/{set_id}",
    "DELETE /v1/datasets/{set_id}",
    "GET /v1/datasets/{set_id}/images",
    "POST /v1/datasets/{set_id}/images",
    "PATCH /v1/datasets/{set_id}/images",
    "GET /v1/datasets/{set_id}/images/{name}/thumbnail",
    "POST /v1/datasets/{set_id}/check",
    "GET /v1/runs",
    "POST /v1/runs",
    "GET /v1/runs/presets",
    "GET /v1/runs/{run_id}",
    "DELETE /v1/runs/{run_id}",
    "POST /v1/runs/{run_id}/stop",
    "POST /v1/runs/{run_id}/nearest",
    "GET /v1/runs/{run_id}/images/{name}/thumbnail",
    "POST /v1/runs/{run_id}/resume",
    "POST /v1/runs/{run_id}/service",
    "DELETE /v1/runs/{run_id}/service",
    "GET /v1/runs/{run_id}/samples/{name}",
    "GET /v1/runs/{run_id}/report",
    "GET /healthz",
    "GET /readyz",
    "GET /metrics",
}


def test_the_document_describes_every_route_and_its_fields(running: Running) -> None:
    document = httpx.get(f"{running.url}/openapi.json").json()
    paint = document["paths"]["/v1/images/generations"]["post"]
    fields = paint["requestBody"]["content"]["application/json"]["schema"]
    assert fields["required"] == ["prompt"]
    assert {"seed", "label", "guidance_scale", "num_steps", "negative_prompt"} <= fields["properties"].keys()
    assert "ErrorResponse" in json.dumps(paint["responses"]["4XX"])
    routes = [
        (f"{method.upper()} {path}", route)
        for path, methods in document["paths"].items()
        for method, route in methods.items()
    ]
    assert {name for name, _ in routes} == ROUTES, "Add a route that you mean to offer to ROUTES above."
    for name, route in routes:
        assert route.get("description") or route.get("summary"), name
        assert not {"422", "default"} & route["responses"].keys(), name
        assert route["responses"].keys() & {"200", "202", "204"}, name


def test_pictures_are_forgotten_after_an_hour(running: Running, client: openai.OpenAI) -> None:
    answer = client.images.generate(model="gan", prompt="", response_format="url")
    assert answer.data is not None
    url = answer.data[0].url or ""
    (path,) = (running.service.settings.data / "pictures").glob(url.rpartition("/")[2])
    os.utime(path, (time.time() - 3601,) * 2)
    assert httpx.get(url).status_code == 404
    assert Path(path).exists()
