"""Pictures of other sizes are sampled where the model can, resampled where it cannot, and never mixed."""

import asyncio
import base64
import io
from collections.abc import Iterator

import httpx
import numpy as np
import pytest
from PIL import Image

import danqing as dq
from tests.service.conftest import save
from tests.service.serving import Running, served

FLOW = {"family": "flow", "net": "dit", "widths": (16,), "layers": 1, "heads": 2, "patch": 4, "num_steps": 3}
SHAPE = {"width": 16, "height": 16, "channels": 3, "sizes": ((16, 16), (24, 8))}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    return save(FLOW | SHAPE, tmp_path_factory.mktemp("models") / "flow")


@pytest.fixture(scope="module")
def running(folder: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with served({"flow": folder}, tmp_path_factory.mktemp("data")) as running:
        yield running


async def generate(client: httpx.AsyncClient, **fields: object) -> np.ndarray:
    answer = await client.post("/v1/images/generations", json={"prompt": "", **fields}, timeout=60)
    assert answer.status_code == 200, answer.text
    files = [base64.b64decode(picture["b64_json"]) for picture in answer.json()["data"]]
    return np.stack([np.asarray(Image.open(io.BytesIO(file))) for file in files])


def test_pictures_of_many_sizes_at_once_are_those_of_the_python_api(running: Running, folder: str) -> None:
    model = dq.load(folder)
    sizes = [(16, 16), (24, 8), (16, 24), (20, 12), (32, 16)]

    async def ask() -> list[np.ndarray]:
        async with httpx.AsyncClient(base_url=running.url) as client:
            requests = [
                generate(client, n=3, seed=seed, size=f"{width}x{height}")
                for seed in range(2)
                for width, height in sizes
            ]
            return await asyncio.gather(*requests)

    found = asyncio.run(ask())
    for number, pictures in enumerate(found):
        seed, size = divmod(number, len(sizes))
        assert np.array_equal(pictures, model.sample(3, seed=seed, size=sizes[size]).array)


def test_sizes_beyond_are_resampled_and_others_rejected(running: Running, folder: str) -> None:
    async def ask() -> np.ndarray:
        async with httpx.AsyncClient(base_url=running.url) as client:
            assert (await generate(client, seed=1, size="64x64")).shape == (1, 64, 64, 3)
            answer = await client.post("/v1/images/generations", json={"prompt": "", "size": "90x40"})
            assert answer.status_code == 400
            assert answer.json()["error"]["param"] == "size"
            assert "multiples of 4" in answer.json()["error"]["message"]
            told = (await client.get("/v1/models/flow")).json()
            assert told["sampled_sizes"].startswith("16x16, 24x8, or sides in multiples of 4 with 96 to 512")
            return await generate(client, seed=1, size="24x16", seamless="x")

    seamless = dq.load(folder).sample(1, seed=1, size=(24, 16), seamless="x").array
    assert np.array_equal(asyncio.run(ask()), seamless)
