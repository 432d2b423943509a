"""A request names adapters of its model, and a key uses only those that it may."""

import base64
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import torch
from PIL import Image

import danqing as dq
from danqing.model import folder as model_folder
from danqing.model.card import describe
from danqing.nets import adapters
from danqing.service.access.caller import LOCAL, Caller
from danqing.service.engine.offers import Offer
from danqing.service.errors import ApiError
from danqing.service.requests import requested_adapters
from tests.service.serving import Running, served


def made(base: str, folder: Path, seed: int) -> str:
    """An adapter of a model that adds noise to its weights, as if it were trained."""
    learner = dq.load(base).family
    layers = adapters.targets(learner, ["generator"])
    origin = adapters.Base(base, adapters.digest(learner), "gold")
    adapters.attach(learner, layers, origin, rank=2, alpha=2, seed=seed)
    rng = torch.Generator().manual_seed(seed)
    for name, parameter in learner.named_parameters():
        if ".lora_B." in name:
            parameter.data = 0.3 * torch.randn(parameter.shape, generator=rng)
    trained = {"images": 1, "data": {"name": "gold", "licence": "CC0"}}
    model_folder.write(folder, learner, trained, {**describe(learner, trained), "sample_options": {}})
    return str(folder)


@pytest.fixture(scope="module")
def sources(models: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("adapters")
    return {name: made(models["gan"], folder / name, seed) for seed, name in enumerate(("gold", "stone"))}


@pytest.fixture(scope="module")
def running(
    models: dict[str, str], sources: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Running]:
    some = {"gan": models["gan"], "vae": models["vae"]}
    with served(some, tmp_path_factory.mktemp("data"), adapters=sources) as running:
        yield running


def post(running: Running, **body: Any) -> httpx.Response:
    return httpx.post(f"{running.url}/v1/images/generations", json=body, timeout=60)


def picture(answer: httpx.Response) -> np.ndarray:
    assert answer.status_code == 200, answer.text
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(answer.json()["data"][0]["b64_json"]))))


def test_a_request_paints_with_the_adapters_that_it_names(
    running: Running, models: dict[str, str], sources: dict[str, str]
) -> None:
    plain = {"model": "gan", "prompt": "", "seed": 5}
    wanted = dq.load(models["gan"], adapters=[f"{sources['gold']}:0.8", f"{sources['stone']}:0.4"])
    with_both = picture(post(running, **plain, adapters=["gold:0.8", "stone:0.4"]))
    without = picture(post(running, **plain))
    assert not np.array_equal(with_both, without)
    assert np.array_equal(with_both, wanted.sample(1, seed=5).array[0])
    assert np.array_equal(without, dq.load(models["gan"]).sample(1, seed=5).array[0])
    assert np.array_equal(picture(post(running, **plain, adapters=["gold:0"])), without)
    described = httpx.get(f"{running.url}/v1/models").json()["data"]
    told = {one["id"]: [each["name"] for each in one["adapters"]] for one in described}
    assert told == {"gan": ["gold", "stone"], "vae": []}
    assert described[0]["adapters"][0] == {"name": "gold", "trigger": "gold", "licence": "CC0"}


@pytest.mark.parametrize(
    ("model", "wanted", "message"),
    [
        ("gan", ["silver"], "choose gold and stone|choose gold or stone|gold, stone"),
        ("vae", ["gold"], "leave adapters out"),
        ("gan", ["gold:9"], "between -4 and 4"),
        ("gan", ["gold", "gold:0.5"], "requested twice"),
    ],
)
def test_adapters_that_do_not_fit_are_refused_by_name(
    running: Running, model: str, wanted: list[str], message: str
) -> None:
    answer = post(running, model=model, prompt="circle" if model == "vae" else "", adapters=wanted)
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert error["param"] == "adapters"
    assert any(part in error["message"] for part in message.split("|")), error


def test_a_key_uses_only_adapters_among_its_models() -> None:
    told = {name: {"digest": "", "licence": "CC0", "trigger": ""} for name in ("gold", "stone")}
    offer = Offer("gan", "", licence="MIT", adapters=told)
    limited = Caller("key", "somebody", frozenset({"generate"}), models=frozenset({"gan", "gold"}))
    assert requested_adapters.options(offer, ["gold:0.5"], limited) == {"adapters": "gold:0.5"}
    assert requested_adapters.options(offer, ["stone"], LOCAL) == {"adapters": "stone:1"}
    assert requested_adapters.options(offer, None, limited) == {}
    assert requested_adapters.licence(offer, ["gold"]) == "MIT; CC0"
    with pytest.raises(ApiError, match="may not use the adapter stone") as caught:
        requested_adapters.options(offer, ["gold", "stone"], limited)
    assert caught.value.status == 403
