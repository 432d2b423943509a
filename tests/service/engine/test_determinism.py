"""The same seed gives the same pixels whatever else is in the batch, for every family and verb."""

import dataclasses
import os
import signal
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import pytest

import danqing
from danqing.randomness import derived_seed
from danqing.service.engine.orders import ImageRow, Order
from tests.service.conftest import CAPTIONS, LABELS, MODELS
from tests.service.engines import Running, running

SEED = 7
SEEDS = [derived_seed(SEED, "image", number) for number in range(3)]


@pytest.fixture(scope="module")
def served(models: dict[str, str]) -> Iterator[Running]:
    with running(models) as engine:
        yield engine


def row(name: str, seed: int, number: int = 0) -> ImageRow:
    """A row that says something different for each number, as far as a model listens."""
    label = LABELS[number % 3] if MODELS[name].get("labels") else None
    return ImageRow(seed, label=label, prompt=CAPTIONS[number % 3] if name == "text" else None)


def given(name: str, count: int) -> dict[str, np.ndarray]:
    """Pictures to fill or vary, each another one, with a mask of its own."""
    config, random = MODELS[name], np.random.default_rng(0)
    shape = (count, config["height"], config["width"])
    images = random.integers(0, 256, (*shape, config["channels"]), np.uint8)
    masks = random.random(shape) < np.linspace(0.05, 0.95, count)[:, None, None]
    return {"images": images, "masks": masks}


class Case(NamedTuple):
    """What is asked of a model. negative: also what guidance is to lead away from, another for each row.
    moves: along directions, another way for each row, from a mix of seeds."""

    name: str
    verb: str = "sample"
    options: dict[str, float] = {}  # noqa: RUF012 - nobody writes to it
    negative: bool = False
    moves: bool = False


def asks(case: Case, numbers: range) -> Order:
    """An order for some of a verb's twenty-one pictures."""
    name, verb = case.name, case.verb
    rows = [row(name, derived_seed(SEED, "image", number), number) for number in numbers]
    if case.negative:
        texts = (CAPTIONS[(number + 1) % 3] for number in numbers)
        rows = [dataclasses.replace(one, negative_prompt=text) for one, text in zip(rows, texts, strict=True)]
    if case.moves:
        ways = (((1 + number % 3, 2.0 - number), (4, -0.5)) for number in numbers)
        rows = [
            dataclasses.replace(one, moves=way, mix=((one.seed, 0.8), (5, 0.2)))
            for one, way in zip(rows, ways, strict=True)
        ]
    pictures = {key: value[numbers.start : numbers.stop] for key, value in given(name, 21).items()}
    if verb == "sample":
        pictures = {}
    elif verb == "vary":
        del pictures["masks"]
    return Order(name, tuple(rows), verb=verb, options=case.options, **pictures)  # type: ignore[arg-type]


CASES = [
    *(Case(name) for name in MODELS),
    *(Case(name, "vary") for name in ("vae", "raster", "masked", "text")),
    *(Case(name, "fill") for name in ("raster", "masked", "text")),
    *(Case(name, moves=True) for name in ("gan", "vae")),
    Case("raster", options={"guidance_scale": 3.0}),
    Case("masked", options={"guidance_scale": 3.0, "num_steps": 3}),
    Case("text", options={"guidance_scale": 3.0}, negative=True),
    Case("text", "vary", options={"guidance_scale": 3.0, "strength": 0.8}, negative=True),
]


def test_alone_in_company_and_after_a_restart_the_pixels_are_the_same(served: Running) -> None:
    alone = [served.paint(asks(case, range(3)))[0].pixels for case in CASES]
    for case, pixels in zip(CASES, alone, strict=True):
        others = [asks(case, range(start, start + 3)) for start in range(3, 21, 3)]
        *_, in_company, last = served.paint(*others[:4], asks(case, range(3)), others[4])
        assert np.array_equal(pixels, in_company.pixels), case
        assert not np.array_equal(pixels, last.pixels), case
    os.kill(served.pid, signal.SIGKILL)
    for case, pixels in zip(CASES, alone, strict=True):
        assert np.array_equal(pixels, served.paint(asks(case, range(3)))[0].pixels), case
    assert served.scheduler.state().restarts == 1


@pytest.mark.parametrize("name", MODELS)
def test_pixels_are_those_of_the_command_line(served: Running, models: dict[str, str], name: str) -> None:
    rows = tuple(ImageRow(seed) for seed in SEEDS)
    (painted,) = served.paint(Order(name, rows))
    assert np.array_equal(painted.pixels, danqing.load(models[name]).sample(3, seed=SEED).array)
