"""Data sets and runs of a service, with real processes that train tiny models."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from danqing.service.settings import Limits
from danqing.service.training.progress import POINTS, _thinned
from danqing.service.training.set_folder import Change, NewImage, SetFolder
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
    loose = read_upload([picture(1), b"x"], [About("in/a.png", "", "words"), About("b.png")], Limits())
    assert [(one.source, one.text) for one in loose.images] == [("in/a.png", "words")]


def test_a_data_set_is_what_training_reads(tmp_path: Path) -> None:
    folder = SetFolder(tmp_path / "set")
    folder.create()
    names = folder.add(
        [NewImage(f"../{n}", picture(n), ".png", "ab"[n % 2], f"number {n}") for n in range(4)]
    )
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
def test_a_run_is_trained_put_into_service_and_deleted(client: Client, running: Running) -> None:
    id = client.run(client.data_set())
    told = client.until(f"/v1/runs/{id}", lambda one: one["state"] in ("finished", "failed"))
    assert told["state"] == "finished", told
    progress = told["progress"]
    assert progress["images"] == 256
    assert progress["curves"]
    assert progress["report"]
    assert client.ask("GET", f"/v1/runs/{id}/samples/{progress['samples'][-1]}").startswith(b"\x89PNG")
    report = client.http.get(f"/v1/runs/{id}/report")
    assert "script" not in report.headers["content-security-policy"]
    model = client.ask("POST", f"/v1/runs/{id}/service", json={"name": "squares"})["model"]
    assert model == "run:squares"
    listed = [one["id"] for one in client.ask("GET", "/v1/models")["data"]]
    assert listed == ["gan", model]
    body = {"model": model, "prompt": "dark", "response_format": "b64_json"}
    assert client.ask("POST", "/v1/images/generations", json=body)["data"]
    folder = running.service.training.run_folder(id)
    assert folder.exists()
    client.ask("DELETE", f"/v1/runs/{id}", 204)
    assert not folder.exists()
    client.ask("POST", "/v1/images/generations", 404, json=body)


@pytest.mark.slow
def test_one_run_at_a_time_is_stopped_resumed_and_deleted(client: Client) -> None:
    id = client.run(client.data_set(), images=10**7)
    second = client.run(client.ask("GET", "/v1/datasets")["data"][0]["id"], name="second")
    path = f"/v1/runs/{id}"
    client.until(path, lambda one: one["progress"]["images"] > 0)
    assert client.ask("GET", f"/v1/runs/{second}")["state"] == "queued"  # one at a time
    assert client.ask("POST", f"/v1/runs/{second}/stop")["state"] == "stopped"
    client.ask("POST", f"{path}/stop")
    stopped = client.until(path, lambda one: one["state"] == "stopped")
    client.ask("POST", f"{path}/stop")  # again, without harm
    assert client.ask("POST", f"{path}/resume")["state"] == "queued"
    client.until(path, lambda one: one["progress"]["images"] > stopped["progress"]["images"])
    client.ask("DELETE", path, 204)
    client.ask("GET", path, 404)


@pytest.mark.slow
def test_a_service_that_starts_again_goes_on_with_its_runs(models: dict[str, str], tmp_path: Path) -> None:
    with served({"gan": models["gan"]}, tmp_path, training=TRAINING) as running:
        client = Client(running.url)
        id = client.run(client.data_set(), images=3000)
        before = client.until(f"/v1/runs/{id}", lambda one: one["progress"]["images"] > 0)
    assert before["state"] == "running"
    with served({"gan": models["gan"]}, tmp_path, training=TRAINING) as running:
        client = Client(running.url)
        done = client.until(f"/v1/runs/{id}", lambda one: one["state"] in ("finished", "failed"))
        assert (done["state"], done["progress"]["images"] >= 3000) == ("finished", True), done
        client.ask("POST", f"/v1/runs/{id}/service", json={"name": "kept"})
    with served({"gan": models["gan"]}, tmp_path, training=TRAINING) as running:
        client = Client(running.url)
        client.until("/v1/models", lambda told: "run:kept" in [one["id"] for one in told["data"]])
