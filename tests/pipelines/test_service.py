"""A served pipeline generates, edits, streams and stops through the official client."""

import base64
import io
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import openai
import pytest
from numpy.typing import NDArray
from PIL import Image

import danqing as dq
from danqing.images import Images
from tests.service.serving import Running, served

pytestmark = pytest.mark.slow
Folder = Callable[[str], Path]


@pytest.fixture(scope="module")
def running(pipeline_folder: Folder, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    models = {"sd": f"{pipeline_folder('sd1')},steps=4", "sana": f"{pipeline_folder('sana')},steps=2"}
    with served(models, tmp_path_factory.mktemp("data"), marks="none") as running:
        yield running


@pytest.fixture(scope="module")
def client(running: Running) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{running.url}/v1", api_key="none", max_retries=0) as client:
        yield client


def decoded(content: str) -> NDArray[np.uint8]:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(content))))


def encoded(pixels: NDArray[np.uint8]) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def test_the_client_generates_what_python_does(
    client: openai.OpenAI, pipeline_folder: Folder, running: Running
) -> None:
    own = dq.load(f"{pipeline_folder('sd1')},steps=4", marks="none")
    extra = {"seed": 3, "negative_prompt": "dogs", "guidance_scale": 3.0}
    answer = client.images.generate(model="sd", prompt="a cat", n=2, size="48x32", extra_body=extra)
    expected = own.sample(
        2, prompt="a cat", negative_prompt="dogs", seed=3, size=(48, 32), guidance_scale=3.0
    )
    assert answer.data is not None
    for one, pixels in zip(answer.data, expected.array, strict=True):
        np.testing.assert_array_equal(decoded(str(one.b64_json)), pixels)
    told = httpx.get(f"{running.url}/v1/models/sd").json()
    assert told["family"] == "pipeline"


def test_the_client_edits_and_bytes_outside_of_the_mask_stay(
    client: openai.OpenAI, pipeline_folder: Folder
) -> None:
    picture = np.random.default_rng(1).integers(0, 256, (32, 32, 3), np.uint8)
    mask = np.full((32, 32, 4), 255, np.uint8)
    mask[8:20, 8:20, 3] = 0
    answer = client.images.edit(
        model="sd",
        image=("a.png", encoded(picture)),
        mask=("m.png", encoded(mask)),
        prompt="a cat",
        extra_body={"seed": 5},
    )
    assert answer.data is not None
    filled, hidden = decoded(str(answer.data[0].b64_json)), mask[:, :, 3] == 0
    np.testing.assert_array_equal(filled[~hidden], picture[~hidden])
    own = dq.load(f"{pipeline_folder('sd1')},steps=4", marks="none")
    expected = own.fill(Images(picture[None]), hidden, prompt="a cat", seed=5).array[0]
    assert expected.shape == filled.shape
    varied = client.images.create_variation(
        model="sd", image=("a.png", encoded(picture)), extra_body={"seed": 5, "strength": 0.5}
    )
    assert varied.data is not None
    assert decoded(str(varied.data[0].b64_json)).shape == (32, 32, 3)
    with pytest.raises(openai.BadRequestError, match="sana cannot"):
        client.images.create_variation(model="sana", image=("a.png", encoded(picture)))


def test_a_stream_shows_previews_and_ends_in_the_picture(client: openai.OpenAI) -> None:
    args: dict[str, Any] = {"model": "sd", "prompt": "a cat", "extra_body": {"seed": 3}}
    with client.images.generate(**args, stream=True, partial_images=2) as stream:
        events = [event.model_dump() for event in stream]
    assert [event["type"].rpartition(".")[2] for event in events] == ["partial_image"] * 2 + ["completed"]
    plain = client.images.generate(**args)
    assert plain.data is not None
    final = decoded(events[-1]["b64_json"])
    np.testing.assert_array_equal(final, decoded(str(plain.data[0].b64_json)))
    assert decoded(events[0]["b64_json"]).shape == final.shape


@pytest.mark.parametrize(
    ("extra", "param"),
    [
        ({"num_steps": 0}, "num_steps"),
        ({"guidance_scale": 1.0, "negative_prompt": "dogs"}, "negative_prompt"),
        ({"eta": 3.0}, "eta"),
        ({"height": 64}, "height"),
        ({"size": "36x32"}, "size"),
    ],
)
def test_what_a_pipeline_cannot_do_is_named(client: openai.OpenAI, extra: Any, param: str) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        client.images.generate(model="sd", prompt="a cat", extra_body=extra)
    assert refused.value.param == param


def test_a_prompt_that_is_too_long_is_named(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="this model reads 77") as refused:
        client.images.generate(model="sd", prompt="a" * 200)
    assert refused.value.param == "prompt"


def test_a_client_that_leaves_stops_the_pipeline(running: Running, client: openai.OpenAI) -> None:
    body = {"model": "sd", "prompt": "a cat", "num_steps": 1000, "stream": True, "partial_images": 3}
    began = time.monotonic()
    with httpx.stream("POST", f"{running.url}/v1/images/generations", json=body, timeout=60) as answer:
        for line in answer.iter_lines():
            if line.startswith("data:"):
                json.loads(line[5:])
                break  # the first preview has come: the client leaves
    first = time.monotonic() - began
    began = time.monotonic()
    client.images.generate(model="sd", prompt="a dog", extra_body={"num_steps": 1})
    assert time.monotonic() - began < max(2 * first, 2.0)  # and not the rest of a thousand steps
