"""The services that are attacked."""

import pickle
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from danqing.service.access import key_admin
from danqing.service.access.key_admin import Grant
from tests.service.attacks.asking import Planted
from tests.service.serving import Running, served


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file that is there once somebody has run what was sent."""
    return tmp_path_factory.mktemp("planted") / "executed"


@pytest.fixture(scope="module")
def running(
    models: dict[str, str], planted: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Running]:
    """A service without keys; two of its models were given by an attacker."""
    folder = tmp_path_factory.mktemp("attacked")
    chosen = {name: models[name] for name in ("masked", "gan")}
    chosen["pickled"] = str(shutil.copytree(models["gan"], folder / "pickled"))
    weights = Path(chosen["pickled"]) / "model.safetensors"
    weights.unlink()
    for name in ("model.SAFETENSORS", "shard_1.pkl", "pytorch_model.bin"):
        weights.with_name(name).write_bytes(pickle.dumps(Planted(planted)))
    chosen["disguised"] = str(shutil.copytree(models["gan"], folder / "disguised"))
    (Path(chosen["disguised"]) / "model.safetensors").write_bytes(pickle.dumps(Planted(planted)))
    chosen["polluting"] = str(shutil.copytree(models["gan"], folder / "polluting"))
    path = Path(chosen["polluting"]) / "model.safetensors"
    tensors = load_file(path)
    tensors["__class__.chunk"] = np.zeros(1, np.float32)
    save_file(tensors, path)
    limits = {"body_bytes": 2 * 1024**2, "file_bytes": 1024**2, "pixels": 1_000_000, "seconds": 30.0}
    with served(chosen, folder / "data", limits=limits) as running:
        yield running


@pytest.fixture
def locked(models: dict[str, str], tmp_path: Path) -> Iterator[tuple[Running, dict[str, str]]]:
    """A service with keys, and what its two users send."""
    with served({"masked": models["masked"]}, tmp_path) as running:
        database = running.service.database
        tokens = {name: key_admin.create(database, Grant(name))[1] for name in ("anna", "bert")}
        deadline = time.monotonic() + 60
        while httpx.get(f"{running.url}/v1/models").status_code != 401:
            assert time.monotonic() < deadline
        yield running, tokens
