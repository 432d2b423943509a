"""Tiny models that nobody trained, for whatever a test wants to have served."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from danqing import families
from danqing.images import Images
from danqing.model.model import Model
from danqing.service.training import process
from danqing.text.contract import TextConfig
from danqing.text.encoders import settle
from tests.service.postgresql import Server, programs

LABELS = ("circle", "red square", "star")
CAPTIONS = ("a red square", "a blue circle", "a green star on white")
_SHAPE = {"width": 8, "height": 8, "channels": 3}
_TOKENIZER = {
    "family": "vqvae",
    **_SHAPE,
    "features": 4,
    "blocks": 0,
    "downsamplings": 1,
    "vocabulary": 16,
}
_TRANSFORMER = {"family": "transformer", "layers": 1, "features": 16, "heads": 2, "labels": LABELS}
_TEXT = TextConfig(vocabulary=300, length=24)
MODELS = {
    "gan": {"family": "gan", **_SHAPE, "latents": 8, "generator_features": 4, "discriminator_features": 4},
    "vae": {
        "family": "vae",
        **_SHAPE,
        "channels": 4,
        "net": "mlp",
        "features": 4,
        "latents": 4,
        "prior_features": 8,
        "labels": LABELS,
    },
    "vqvae": _TOKENIZER,
    "raster": {**_TRANSFORMER, **_SHAPE, "tokenizer": _TOKENIZER},
    "masked": {**_TRANSFORMER, **_SHAPE, "order": "masked", "tokenizer": _TOKENIZER},
    "text": {
        **_TRANSFORMER,
        **_SHAPE,
        "condition": "text",
        "labels": (),
        "captions": CAPTIONS,
        "text": _TEXT.model_dump(),
        "text_facts": settle(_TEXT, CAPTIONS).model_dump(),
        "tokenizer": _TOKENIZER,
    },
}
"""Configurations by name: each family, in both orders, with labels, with text and with an alpha channel."""


@pytest.fixture(scope="session", autouse=True)
def _training_is_not_held_back_by_the_tests_beside_it() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(process, "NICENESS", 0)
        yield


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """A folder of each of MODELS, by its name."""
    folder = tmp_path_factory.mktemp("models")
    return {name: save(config, folder / name) for name, config in MODELS.items()}


@pytest.fixture(scope="session")
def slow(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A model that paints in hundreds of steps."""
    pixels = {"width": 16, "height": 16, "channels": 1}
    return save({**_TRANSFORMER, **pixels, "labels": ()}, tmp_path_factory.mktemp("slow"))


def save(config: dict[str, Any], folder: Path) -> str:
    """A folder with a model of a configuration, as it was before any training."""
    torch.manual_seed(0)
    family = families.build(families.parse_config(config))
    family.drop_training_only()
    return str(Model(family).save(folder, Images(np.zeros((1, 4, 4, 3), np.uint8))))


@pytest.fixture(scope="session")
def broken(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A folder that is not a model."""
    folder: Path = tmp_path_factory.mktemp("broken")
    (folder / "config.json").write_text('{"model": {"family": "none"}}')
    return str(folder)


@pytest.fixture(scope="session")
def postgresql() -> Iterator[Server]:
    """A running PostgreSQL."""
    if (folder := programs()) is None:
        pytest.skip("PostgreSQL is not installed")
    server = Server(folder)
    try:
        server.start()
        yield server
    finally:
        server.remove()


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of an empty database, of each kind in turn."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'service.db'}"
    url: str = request.getfixturevalue("postgresql").empty_database()
    return url
