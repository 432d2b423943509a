"""Data sets and runs of a service, with real processes that train tiny models."""

import asyncio
import fcntl
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import danqing.presets
from danqing.errors import ConfigError
from danqing.service.errors import ApiError
from danqing.service.settings import Limits, checked
from danqing.service.storage.database import Database, DatabaseError
from danqing.service.training import presets, process, store
from danqing.service.training.manager import Training
from danqing.service.training.progress import POINTS, _thinned, progress
from danqing.service.training.set_check import SetCheck
from danqing.service.training.set_folder import Change, NewImage, SetFolder
from danqing.service.training.tables import RunState, TrainingRun
from danqing.service.training.upload import About, read_upload
from tests.service.serving import Running, served
from tests.service.training.sets import TRAINING, Client, photos, picture, zipped


@pytest.fixture(scope="module")
def running(models: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    data = tmp_path_factory.mktemp("training") / "data"
    with served({"gan": models["gan"]}, data, training=TRAINING) as found:
        yield found


@pytest.fixture
def client(running: Running) -> Client:
    return Client(running.url)


def test_a_zip_brings_labels_and_captions_from_folders_texts_and_tables() -> None:
    found = read_upload([photos(4)], (), Limits())
    assert [(one.label, one.text) for one in found.images] == [
        ("dark", "a square"), ("light", ""), ("dark", ""), ("light", "")]  # fmt: skip
    table = b"file_name,label,text\na.png,cat,a small cat\n"
    (one,) = read_upload([zipped({"x/a.png": picture(0), "x/metadata.csv": table})], (), Limits()).images
    assert one == ("x/a.png", picture(0), ".png", "cat", "a small cat")


def test_what_is_no_picture_is_named_and_the_rest_is_kept() -> None:
    found = read_upload([zipped({"a.png": picture(0), "b.png": b"no picture", "c.exe": b"MZ"})], (), Limits())
    assert [one.source for one in found.images] == ["a.png"]
    assert found.rejected.keys() == {"b.png", "c.exe"}
    files = {
        "a.png": picture(0),
        "a.txt": b"a" * 40_000,
        "metadata.csv": b"file_name,label\n" + b"," * 9_000_000,
    }
    found = read_upload([zipped(files)], (), Limits())
    assert [(one.source, one.label, one.text) for one in found.images] == [("a.png", "", "")]
    assert found.rejected == {
        "a.txt": "It has over 32,000 bytes: shorten it.",
        "metadata.csv": "It has over 8,388,608 bytes: shorten it.",
    }
    loose = read_upload([picture(1), b"x"], [About("in/a.png", "", "words"), About("b.png")], Limits())
    assert [(one.source, one.text) for one in loose.images] == [("in/a.png", "words")]


def test_a_data_set_is_what_training_reads(tmp_path: Path) -> None:
    folder = SetFolder(tmp_path / "set")
    folder.create()
    new = [NewImage(f"../{n}", picture(n), ".png", "ab"[n % 2], f"number {n}") for n in range(4)]
    (folder.images / "000003.png").mkdir()
    with pytest.raises(OSError):  # noqa: PT011
        folder.add(new)
    assert [path.name for path in folder.images.iterdir()] == ["000003.png"]  # none without its row
    (folder.images / "000003.png").rmdir()
    names = folder.add(new)
    assert names == ["000001.png", "000002.png", "000003.png", "000004.png"]
    assert (
        folder.change([Change("000001.png", label="c", text=""), Change("000002.png", decision="drop")]) == []
    )
    assert folder.change([Change("000001.png", label="d"), Change("../x.png", label="d")]) == ["../x.png"]
    clean = folder.copy_to(tmp_path / "copy")
    assert clean is not None
    assert "000002.png" in clean.read_text()
    from danqing.data import open_dataset

    data = open_dataset(str(tmp_path / "copy" / "images"), size=(16, 16), clean=clean)
    assert len(data) == 3
    assert set(data.label_names) == {"a", "b", "c"}
    assert list(data.texts(range(3)) or ()).count("number 2") == 1


def test_no_model_of_the_settings_is_called_as_a_trained_one() -> None:
    with pytest.raises(ConfigError, match="begins with run:"):
        checked({"models": {"run:photos": "x"}})


def test_curves_are_thinned_and_keep_their_ends() -> None:
    points = [(n, float(n)) for n in range(10_000)]
    thin = _thinned(points)
    assert (len(thin), thin[0], thin[-1]) == (POINTS, points[0], points[-1])
    assert _thinned(points[:7]) == points[:7]


def test_presets_say_what_they_cost(client: Client) -> None:
    found = {one["name"]: one for one in client.ask("GET", "/v1/runs/presets")["data"]}
    assert found["gan-32"]["nearest"]["minutes"] == 5
    cores = client.ask("GET", "/v1/runs/presets")["cores"]
    assert found["flow-32"]["core_hours"] == round(15 * cores / 60, 2)
    assert found["classify-32"]["needs"] == "labels"
    assert not {"demo", "upscale-64", "private-32"} & found.keys()


def test_presets_are_offered_for_what_they_learn_whatever_their_family_is_called(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    plain = {"family": "diffusion", "size": [32, 32], "minutes": 5.0}
    read = {"new-32": plain, "new-boxes-32": {**plain, "task": "detect"}, "vqvae-16": plain}
    monkeypatch.setattr(danqing.presets, "names", lambda: list(read))
    monkeypatch.setattr(danqing.presets, "read", read.__getitem__)
    assert list(presets.offered.__wrapped__()) == ["new-32"]


def test_only_images_of_a_set_are_found_by_their_names(tmp_path: Path) -> None:
    folder = SetFolder(tmp_path / "set")
    folder.create()
    folder.add([NewImage("cats/a.png", picture(0), ".png")])
    assert folder.image("000001.png") == folder.images / "000001.png"
    for name in ("000002.png", "metadata.jsonl", "../images/000001.png", "000001.png/", "cats/a.png", ""):
        assert folder.image(name) is None, name


def test_a_budget_in_images_ends_with_the_longest_in_minutes(tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path / 'service.db'}")
    settings = checked({"models": {"gan": "gan"}, "data": tmp_path, "training": {"runs": 1, "minutes": 1.0}})
    training = Training(settings, database, None)  # type: ignore[arg-type]
    folder = training.run_folder("run_1")
    folder.mkdir(parents=True)
    with (folder / "lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        runs = subprocess.Popen(["sleep", "60"], pass_fds=[lock.fileno()])
    database.migrate()
    add_run(database, "", "run_1", "running", runs.pid, minutes=None, images=10**12, started=time.time() - 50)
    asyncio.run(training._look())
    assert database.transact(store.run_by_id, "run_1").state == "running"  # type: ignore[union-attr]
    add_run(database, "", "run_1", "running", runs.pid, minutes=None, images=10**12, started=time.time() - 70)
    asyncio.run(training._look())
    assert runs.wait(10) == -signal.SIGTERM
    asyncio.run(training._look())
    found = database.transact(store.run_by_id, "run_1")
    assert found is not None
    assert (found.state, found.reason[:23]) == ("stopped", "It has taken 1 minutes,")
    database.close()


def test_what_a_finished_run_has_prepared_is_deleted(tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path / 'service.db'}")
    settings = checked({"models": {"gan": "gan"}, "data": tmp_path, "training": TRAINING})
    training = Training(settings, database, None)  # type: ignore[arg-type]
    folder = training.run_folder("run_1")
    for name in ("run", "cache", "data"):
        (folder / name).mkdir(parents=True)
    (folder / "run" / "run.json").write_text('{"status": "finished"}')
    database.migrate()
    add_run(database, "", "run_1", "running", 1)
    asyncio.run(training._look())
    assert database.transact(store.run_by_id, "run_1").state == "finished"  # type: ignore[union-attr]
    assert {one.name for one in folder.iterdir()} == {"run", "data"}
    database.close()


def test_a_run_on_a_set_that_was_just_deleted_is_refused(tmp_path: Path) -> None:
    async def submit() -> None:
        database = Database(f"sqlite:///{tmp_path / 'service.db'}")
        settings = checked({"models": {"gan": "gan"}, "data": tmp_path, "training": TRAINING})
        await database.start()
        training = Training(settings, database, None)  # type: ignore[arg-type]
        add_run(database, "", "run_1", "queued")
        run = await database.run(store.run_by_id, "run_1")
        assert run is not None
        with pytest.raises(ApiError, match="no such data set"):
            await training.submit(run, "set_gone")
        assert not training.run_folder("run_1").exists()
        await database.stop()

    asyncio.run(submit())


def test_a_check_that_cannot_be_started_fails_and_may_be_repeated(tmp_path: Path) -> None:
    folder = SetFolder(tmp_path / "set")
    folder.create()
    check = SetCheck(folder)
    with (folder.path / "lock").open("a") as lock:  # as of a check that has outlived its service
        fcntl.flock(lock, fcntl.LOCK_EX)
        asyncio.run(check.run(asyncio.Semaphore(1)))
    assert (check.state, check.is_done) == ("failed", True)
    assert "log of the service" in check.reason


def test_a_process_that_cannot_be_recorded_does_not_run_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise DatabaseError("The database cannot be written.")

    async def start() -> int:
        database = Database(f"sqlite:///{tmp_path / 'service.db'}")
        settings = checked({"models": {"gan": "gan"}, "data": tmp_path, "training": TRAINING})
        await database.start()
        training = Training(settings, database, None)  # type: ignore[arg-type]
        training.run_folder("run_1").mkdir(parents=True)
        add_run(database, "", "run_1", "queued")
        monkeypatch.setattr(store, "has_started", fail)
        with pytest.raises(DatabaseError):
            await training._start("run_1")
        await database.stop()
        return training._processes["run_1"].wait(30)

    assert asyncio.run(start()) == -signal.SIGKILL


@pytest.mark.slow
def test_a_check_finds_copies_as_pictures_to_drop(client: Client) -> None:
    id = client.data_set(zipped({**{f"{n}.png": picture(n) for n in range(12)}, "copy.png": picture(3)}))
    assert client.ask("GET", f"/v1/datasets/{id}")["check"]["state"] == "none"
    client.ask("POST", f"/v1/datasets/{id}/check", 202)
    told = client.until(f"/v1/datasets/{id}", lambda one: one["check"]["state"] in ("done", "failed"))
    assert told["check"]["found"]["copy"] == 1, told
    (one,) = [
        image
        for image in client.ask("GET", f"/v1/datasets/{id}/images?only=found")["data"]
        if "copies" in image["finding"]
    ]
    assert one["decision"] == "drop"
    keep = {"changes": [{"image": one["image"], "decision": "keep"}]}
    client.ask("PATCH", f"/v1/datasets/{id}/images", 204, json=keep)
    assert client.ask("GET", f"/v1/datasets/{id}")["dropped"] == 0
    assert client.ask("GET", f"/v1/datasets/{id}/images/{one['image']}/thumbnail")[8:12] == b"WEBP"
    client.ask("DELETE", f"/v1/datasets/{id}", 204)
    client.ask("GET", f"/v1/datasets/{id}", 404)


@pytest.mark.slow
def test_a_run_goes_on_from_its_checkpoint_when_the_service_starts_again(
    models: dict[str, str], tmp_path: Path
) -> None:
    with served({"gan": models["gan"]}, tmp_path, training=TRAINING) as running:
        client = Client(running.url)
        data = client.data_set()
        id, second = client.run(data, images=10**7), client.run(data, name="second")
        path = f"/v1/runs/{id}"
        client.until(path, lambda one: one["progress"]["images"] > 0)
        assert client.ask("GET", f"/v1/runs/{second}")["state"] == "queued"  # one at a time
        assert client.ask("POST", f"/v1/runs/{second}/stop")["state"] == "stopped"
        folder = running.service.training.run_folder(id)
    assert not process.is_alive(folder)
    left = progress(folder / "run")["images"]
    with served({"gan": models["gan"]}, tmp_path, training=TRAINING) as running:
        client = Client(running.url)
        client.until(path, lambda one: one["progress"]["images"] > left)
        client.ask("POST", f"{path}/stop")
        client.until(path, lambda one: one["state"] == "stopped")
        client.ask("POST", f"{path}/stop")  # again, without harm
        assert client.ask("POST", f"{path}/resume")["state"] == "queued"
        client.ask("DELETE", path, 204)
        client.ask("GET", path, 404)
        assert not folder.exists()


@pytest.mark.slow
def test_a_service_finds_its_processes_again_and_its_models(models: dict[str, str], tmp_path: Path) -> None:
    with served({"gan": models["gan"]}, tmp_path, training=TRAINING) as running:
        training = running.service.training
        (folder := training.run_folder("run_1")).mkdir(parents=True)
        add_run(running.service.database, training.home, "run_2", "finished")
        shutil.copytree(models["gan"], training.run_folder("run_2") / "run" / "model")
        (training.run_folder("run_2") / "run" / "config.toml").touch()
        Client(running.url).ask("POST", "/v1/runs/run_2/service", json={"name": "kept"})
    with (folder / "lock").open("w") as lock:  # stands for a run that an earlier service has started
        fcntl.flock(lock, fcntl.LOCK_EX)
        wait = [sys.executable, "-c", "import time\ntime.sleep(100)"]
        other = subprocess.Popen(wait, pass_fds=[lock.fileno()], stderr=subprocess.DEVNULL)
    database = Database(f"sqlite:///{tmp_path / 'service.db'}")
    add_run(database, training.home, "run_1", "running", pid=other.pid)
    database.close()
    with served({"gan": models["gan"]}, tmp_path, training=TRAINING) as running:
        client = Client(running.url)
        client.until("/v1/models", lambda told: "run:kept" in [one["id"] for one in told["data"]])
        client.ask("POST", "/v1/images/generations", json={"model": "run:kept", "prompt": ""})
        assert client.ask("GET", "/v1/runs/run_1")["state"] == "running"
        client.ask("POST", "/v1/runs/run_1/stop")
        assert other.wait(20) != 0
        client.until("/v1/runs/run_1", lambda one: one["state"] == "stopped")


def add_run(
    database: Database, home: str, id: str, state: RunState, pid: int | None = None, **more: Any
) -> None:
    told = {"name": "r", "set_name": "s", "preset": "vae-32", "minutes": 1.0, "seed": 0, "created": 0.0}
    run = TrainingRun(id=id, home=home, owner="", state=state, reason="", model="", pid=pid, **told | more)
    database.transact(lambda session: session.merge(run) and None)
