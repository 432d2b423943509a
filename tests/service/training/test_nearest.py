"""The training images of a run that look most like a picture."""

import asyncio
import contextlib
import io
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from danqing.image_files import decode
from danqing.service.training.nearest import FILE, Nearest
from danqing.service.training.set_folder import Change, NewImage, SetFolder
from danqing.trust.fingerprint import FREQUENCIES, LENGTH, vector
from tests.service.serving import Running, served
from tests.service.training.sets import TRAINING, Client, picture
from tests.service.training.test_training import add_run

COUNT = 70


def prepared(folder: Path, model: str) -> Path:
    """The folder of a finished run, of whose images the fourth was dropped and the sixth is damaged."""
    source = SetFolder(folder.parent / f"{folder.name}-set")
    source.create()
    source.add([NewImage(f"{n}.png", picture(n), ".png", "ab"[n % 2], f"number {n}") for n in range(COUNT)])
    source.change([Change("000004.png", decision="drop")])
    source.copy_to(folder / "data")
    (folder / "data" / "images" / "000006.png").unlink()
    (folder / "data" / "images" / "000006.png").write_bytes(picture(5)[:60])
    shutil.copytree(model, folder / "run" / "model")
    (folder / "run" / "config.toml").touch()
    return folder


async def at_once(work: Callable[[], Any]) -> Any:
    return work()


def found(folder: Path, content: bytes, count: int = 100, nearest: Nearest | None = None) -> list[Any]:
    return asyncio.run((nearest or Nearest()).find(folder, content, count, at_once))


@pytest.fixture
def folder(models: dict[str, str], tmp_path: Path) -> Path:
    return prepared(tmp_path / "run_1", models["gan"])


def test_the_nearest_are_those_of_all_pairs_and_the_image_itself_is_first(folder: Path) -> None:
    data = folder / "data" / "images"
    matches = found(folder, (data / "000012.png").read_bytes())
    assert matches[0] == ("000012.png", 0.0)
    names = sorted({path.name for path in data.glob("*.png")} - {"000004.png", "000006.png"})
    assert sorted(match.image for match in matches) == names

    def described(content: bytes) -> np.ndarray:
        row = vector(decode(content, size=(8, 8), channels=3)).astype(np.float64)
        row[FREQUENCIES**2 :] *= 4
        return row

    foreign = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 60, 4), np.uint8)).save(foreign, "WEBP")
    wanted = described(foreign.getvalue())
    distances = {name: np.linalg.norm(described((data / name).read_bytes()) - wanted) / 16 for name in names}
    matches = found(folder, foreign.getvalue(), 9)
    assert [match.image for match in matches] == sorted(distances, key=distances.__getitem__)[:9]
    assert [match.distance for match in matches] == pytest.approx(sorted(distances.values())[:9], abs=0.01)


def test_a_distance_is_in_steps_of_eight_bits(folder: Path) -> None:
    grey = io.BytesIO()
    Image.new("RGB", (32, 32), (100, 100, 100)).save(grey, "PNG")
    other = io.BytesIO()
    Image.new("RGB", (32, 32), (107, 107, 107)).save(other, "PNG")
    (folder / "data" / "images" / "000001.png").unlink()
    (folder / "data" / "images" / "000001.png").write_bytes(grey.getvalue())
    (match,) = found(folder, other.getvalue(), 1)
    assert match == ("000001.png", pytest.approx(7, abs=0.05))


def test_vectors_are_computed_once_and_what_was_done_before_an_interruption_stays(folder: Path) -> None:
    content, parts = picture(3), []

    class StopError(Exception):
        pass

    async def counted(work: Callable[[], Any]) -> Any:
        rows = work()
        parts.append(len(rows))
        if len(parts) == 3:
            raise StopError
        return rows

    async def interrupted() -> list[Any]:
        nearest = Nearest()
        with contextlib.suppress(StopError):
            await nearest.find(folder, content, 5, counted)
        assert not (folder / FILE).exists()
        return await nearest.find(folder, content, 5, counted)

    first = asyncio.run(interrupted())
    assert parts == [1, 32, 32, 1, 32, 5]
    assert (folder / FILE).stat().st_size == 2 * LENGTH * (COUNT - 1)
    parts.clear()
    assert asyncio.run(Nearest().find(folder, content, 5, counted)) == first
    assert parts == [1]
    (folder / FILE).write_bytes(b"torn")
    assert found(folder, content, 5) == first
    assert (folder / FILE).stat().st_size == 2 * LENGTH * (COUNT - 1)


@pytest.fixture(scope="module")
def running(models: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with served({"gan": models["gan"]}, tmp_path_factory.mktemp("data"), training=TRAINING) as running:
        prepared(running.service.training.run_folder("run_1"), models["gan"])
        add_run(running.service.database, running.service.training.home, "run_1", "finished")
        yield running


def test_a_picture_of_a_served_run_shows_its_nearest_training_images(running: Running) -> None:
    client = Client(running.url)
    model = client.ask("POST", "/v1/runs/run_1/service", json={"name": "squares"})["model"]
    (run,) = [one for one in client.ask("GET", "/v1/runs")["data"] if one["model"] == model]
    path = f"/v1/runs/{run['id']}"
    files = {"image": ("a.png", picture(7))}
    told = client.ask("POST", f"{path}/nearest", files=files, data={"count": "3"})["data"]
    assert len(told) == 3
    assert told[0] == {
        "image": "000008.png",
        "source": "7.png",
        "label": "b",
        "caption": "number 7",
        "distance": 0.0,
    }
    assert len(client.ask("POST", f"{path}/nearest", files=files)["data"]) == 12
    small = client.ask("GET", f"{path}/images/{told[0]['image']}/thumbnail")
    assert np.asarray(Image.open(io.BytesIO(small))).shape == (32, 32, 3)
    client.ask("GET", f"{path}/images/000099.png/thumbnail", 404)
    for fields, param in (({"count": "0"}, "count"), ({"count": "61"}, "count"), ({"k": "1"}, "k")):
        error = client.ask("POST", f"{path}/nearest", 400, files=files, data=fields)["error"]
        assert error["param"] == param
    twice = [("image", picture(1)), ("image", picture(2))]
    assert client.ask("POST", f"{path}/nearest", 400, files=twice)["error"]["param"] == "image"
    add_run(running.service.database, running.service.training.home, "run_2", "running")
    error = client.ask("POST", "/v1/runs/run_2/nearest", 409, files=files)["error"]
    assert error["code"] == "run_state"
    client.ask("DELETE", path, 204)
    assert not os.path.lexists(running.service.training.run_folder("run_1"))
