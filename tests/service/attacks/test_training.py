"""What an attacker uploads to be trained on, and tries with the runs of others."""

import io
import json
import os
import shutil
import stat
import struct
import time
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import pytest

from danqing.service.access import key_admin
from danqing.service.access.key_admin import Grant
from danqing.service.training.set_folder import NewImage, SetFolder
from danqing.service.training.tables import TrainingRun
from tests.service.attacks.asking import assert_refused
from tests.service.serving import Running, served
from tests.service.training.sets import Client, picture, zipped

LIMITS = {
    "body_bytes": 2 * 1024**2,
    "file_bytes": 1024**2,
    "archive_bytes": 2 * 1024**2,
    "archive_entries": 40,
    "pixels": 1_000_000,
}
TRAINING = {"runs": 1, "images": 30, "bytes": 1_000_000, "sets": 8, "kept": 3, "minutes": 60}


class Attacked(NamedTuple):
    """A service on which anna and bert train; dora has no such scope."""

    running: Running
    data: Path
    anna: Client
    bert: Client
    dora: Client


@pytest.fixture(scope="module")
def attacked(models: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Attacked]:
    data = tmp_path_factory.mktemp("trained")
    with served({"gan": models["gan"]}, data, limits=LIMITS, training=TRAINING) as running:
        scopes = {"anna": ("train", "generate"), "bert": ("train", "generate"), "dora": ("generate", "edit")}
        database = running.service.database
        keys = [key_admin.create(database, Grant(name, own))[1] for name, own in scopes.items()]  # type: ignore[arg-type]
        deadline = time.monotonic() + 30
        while httpx.get(f"{running.url}/v1/models").status_code != 401:
            assert time.monotonic() < deadline
        yield Attacked(running, data, *(Client(running.url, key) for key in keys))


@pytest.fixture
def mine(attacked: Attacked) -> Iterator[str]:
    """A data set of anna with two images, which is deleted in the end."""
    id = attacked.anna.data_set(zipped({"a.png": picture(0), "b.png": picture(1)}))
    yield id
    attacked.anna.http.delete(f"/v1/datasets/{id}")


def files(attacked: Attacked) -> set[str]:
    """Every file below the parent of the service's data that is not its database."""
    found = {str(path) for path in attacked.data.parent.rglob("*") if path.is_file()}
    return {path for path in found if "service.db" not in path}


def finished(attacked: Attacked, owner: str, folder: str = "run_1") -> str:
    """A run of somebody that is finished, without having been trained."""
    training = attacked.running.service.training
    fields = {"name": "r", "set_name": "s", "preset": "vae-32", "minutes": 1.0, "state": "finished"}
    more = {"home": training.home, "owner": owner, "seed": 0, "reason": "", "created": 0.0, "model": ""}
    run = TrainingRun(id=folder, **fields, **more)
    attacked.running.service.database.transact(lambda session: session.merge(run) and None)
    (training.run_folder(folder) / "run" / "samples").mkdir(parents=True, exist_ok=True)
    return folder


def owner_of(attacked: Attacked, name: str) -> str:
    keys = key_admin.list_keys(attacked.running.service.database)
    return next(key.id for key, _ in keys if key.name == name)


@pytest.mark.parametrize(
    "name",
    [
        "../../evil.png",
        "/etc/evil.png",
        "a/../../evil.png",
        "..\\evil.png",
        "c:/evil.png",
        "./a.png",
        "a//b.png",
    ],
)
def test_path_traversal_in_a_zip_writes_nothing(attacked: Attacked, mine: str, name: str) -> None:
    before = files(attacked)
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        entry = zipfile.ZipInfo("x")
        entry.filename = name
        archive.writestr(entry, picture(2))
    attacked.anna.upload(mine, content.getvalue(), status=400)
    assert files(attacked) == before


def test_names_that_clients_send_never_become_paths(attacked: Attacked, mine: str) -> None:
    told = {"files": [{"name": "../../../climber.png", "label": "../x", "caption": "\u202ea\0b\n<script>"}]}
    (name,) = attacked.anna.upload(mine, picture(3), request=json.dumps(told))["added"]
    assert name == "000003.png"
    assert not [path for path in files(attacked) if "climber" in path]
    last = attacked.anna.ask("GET", f"/v1/datasets/{mine}/images")["data"][-1]
    assert last["caption"] == "a b <script>"
    for path in (
        "..%2f..%2fservice.db",
        "../../service.db",
        "metadata.jsonl",
        "000003.png%00",
        "choices.json",
    ):
        answer = attacked.anna.http.get(f"/v1/datasets/{mine}/images/{path}/thumbnail")
        assert answer.status_code in (400, 404), path


def test_symlinks_in_a_zip_are_not_followed(attacked: Attacked, mine: str) -> None:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        link = zipfile.ZipInfo("link.png")
        link.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(link, "/etc/passwd")
        archive.writestr("c.png", picture(4))
    told = attacked.anna.upload(mine, content.getvalue())
    assert (len(told["added"]), list(told["rejected"])) == (1, ["link.png"])
    folder = attacked.running.service.training.set_folder(mine).images
    assert not any(path.is_symlink() for path in folder.rglob("*"))


def test_zip_bombs_are_refused_before_they_are_unpacked(attacked: Attacked, mine: str) -> None:
    bomb = zipped({f"{n}.png": bytes(1024**2 - 1) for n in range(4)})
    assert len(bomb) < 10_000
    attacked.anna.upload(mine, bomb, status=400)
    attacked.anna.upload(mine, zipped({f"{n}.png": b"" for n in range(41)}), status=400)
    lying = bytearray(zipped({"a.png": bytes(200_000)}))
    place = lying.rindex(b"PK\x01\x02") + 24
    lying[place : place + 4] = struct.pack("<I", 10)  # the size that it declares
    told = attacked.anna.http.post(f"/v1/datasets/{mine}/images", files=[("image", bytes(lying))])
    assert told.status_code == 400 or not told.json()["added"]
    nested = zipped({"inner.zip": bomb, "inner.png": bomb})
    assert not attacked.anna.upload(mine, nested)["added"]


def test_pictures_that_unpack_to_too_many_pixels_are_rejected(attacked: Attacked, mine: str) -> None:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", 30_000, 30_000, 8, 2, 0, 0, 0)
    bomb = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(1000)))
    told = attacked.anna.upload(mine, bomb + chunk(b"IEND", b""))
    assert not told["added"]
    assert "too many pixels" in next(iter(told["rejected"].values()))


def test_files_that_are_no_pictures_are_rejected_by_content(attacked: Attacked, mine: str) -> None:
    others = (b"<svg onload=alert(1)>", b"GIF89a" + bytes(20), b"\x80\x04cposix\nsystem\n", b"%PDF-1.7", b"")
    told = attacked.anna.upload(mine, *[one or b" " for one in others])
    assert not told["added"]
    assert len(told["rejected"]) == len(others)
    for content in (b"PK\x03\x04broken", b"PK\x05\x06" + bytes(18)):
        attacked.anna.upload(mine, content, status=400)


def test_oversized_sets_are_refused_and_leave_the_set_as_it_was(attacked: Attacked, mine: str) -> None:
    many = zipped({f"{n}.png": picture(n, 8) for n in range(29)})
    attacked.anna.upload(mine, many, status=400)
    noise = [os.urandom(340_000) for _ in range(3)]
    large = [picture(n) + one for n, one in enumerate(noise)]  # what follows the picture is stored as well
    attacked.anna.upload(mine, *large, status=400)
    assert attacked.anna.ask("GET", f"/v1/datasets/{mine}")["images"] == 2
    created = []
    while (answer := attacked.anna.http.post("/v1/datasets", json={"name": "x"})).status_code == 200:
        created.append(answer.json()["id"])
        assert len(created) <= TRAINING["sets"]
    assert_refused(answer, 400)
    for id in created:
        attacked.anna.ask("DELETE", f"/v1/datasets/{id}", 204)
    assert_refused(
        attacked.anna.http.post(f"/v1/datasets/{mine}/images", files=[("image", bytes(3 * 1024**2))]), 413
    )


def test_tables_in_a_zip_cannot_break_out(attacked: Attacked, mine: str) -> None:
    rows = [
        {"file_name": "../../a.png", "label": "x"},
        {"file_name": "c.png", "label": "=cmd()", "text": "y"},
    ]
    table = "\n".join(map(json.dumps, rows)).encode()
    attacked.anna.upload(mine, zipped({"c.png": picture(5), "metadata.jsonl": table}))
    last = attacked.anna.ask("GET", f"/v1/datasets/{mine}/images")["data"][-1]
    assert (last["label"], last["caption"]) == ("=cmd()", "y")
    deep = b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}"
    attacked.anna.upload(mine, zipped({"c.png": picture(5), "metadata.jsonl": deep}), status=400)


def test_idor_data_sets_and_runs_of_others_do_not_exist(attacked: Attacked, mine: str) -> None:
    run = finished(attacked, owner_of(attacked, "anna"), "run_idor")
    (attacked.running.service.training.run_folder(run) / "run" / "report.html").write_text("secret")
    tries: list[tuple[str, str, Any]] = [
        ("GET", f"/v1/datasets/{mine}", None),
        ("DELETE", f"/v1/datasets/{mine}", None),
        ("GET", f"/v1/datasets/{mine}/images", None),
        ("GET", f"/v1/datasets/{mine}/images/000001.png/thumbnail", None),
        ("PATCH", f"/v1/datasets/{mine}/images", {"changes": [{"image": "000001.png", "label": "x"}]}),
        ("POST", f"/v1/datasets/{mine}/check", None),
        ("POST", "/v1/runs", {"dataset": mine, "name": "x", "preset": "vae-32"}),
        *(("POST", f"/v1/runs/{run}/{what}", None) for what in ("stop", "resume")),
        ("POST", f"/v1/runs/{run}/service", {"name": "x"}),
        ("DELETE", f"/v1/runs/{run}/service", None),
        *(("GET", f"/v1/runs/{run}{what}", None) for what in ("", "/report", "/samples/000000000.png")),
        ("DELETE", f"/v1/runs/{run}", None),
    ]
    for method, path, body in tries:
        answer = attacked.bert.http.request(method, path, json=body)
        assert_refused(answer, 404)
        assert answer.json()["error"]["code"] == "not_found", path
        forged = path.replace(mine, "set_0").replace(run, "run_0")
        assert (body and mine in str(body)) or attacked.bert.http.request(
            method, forged, json=body
        ).text == answer.text
    assert attacked.bert.ask("GET", "/v1/runs")["data"] == []
    assert attacked.anna.ask("GET", f"/v1/datasets/{mine}")["images"] == 2
    attacked.anna.ask("DELETE", f"/v1/runs/{run}", 204)


def test_a_key_without_the_scope_trains_nothing(attacked: Attacked, mine: str) -> None:
    for path in ("/v1/datasets", "/v1/runs", "/v1/runs/presets", f"/v1/datasets/{mine}"):
        assert_refused(attacked.dora.http.get(path), 403)
        assert_refused(httpx.get(f"{attacked.running.url}{path}"), 401)
    assert_refused(
        attacked.dora.http.post("/v1/runs", json={"dataset": mine, "name": "x", "preset": "vae-32"}), 403
    )


@pytest.mark.parametrize(
    "changed",
    [
        {"preset": "../../etc/passwd"},
        {"preset": "--config=/etc/passwd"},
        {"preset": "demo"},
        {"name": "../x"},
        {"name": "x@anna"},
        {"name": "run:x"},
        {"name": "--out"},
        {"name": "x\n"},
        {"minutes": -1},
        {"minutes": 61.0},
        {"minutes": 1e999},
        {"images": 0},
        {"minutes": 1, "images": 1},
        {"seed": -1},
        {"seed": "0; rm -rf /"},
        {"config": "x.toml"},
        {"dataset": "../../x"},
    ],
    ids=str,
)
def test_a_run_takes_no_more_than_its_fields_allow(
    attacked: Attacked, mine: str, changed: dict[str, Any]
) -> None:
    body = json.dumps({"dataset": mine, "name": "x", "preset": "vae-32", **changed})
    headers = {"content-type": "application/json"}
    assert_refused(attacked.anna.http.post("/v1/runs", content=body, headers=headers), 400, 404)
    assert attacked.anna.ask("GET", "/v1/runs")["data"] == []


def test_a_preset_without_what_it_needs_is_refused_before_anything_is_started(
    attacked: Attacked, mine: str
) -> None:
    for preset, need in (("classify-32", "labels"), ("text2image-32", "captions")):
        body = {"dataset": mine, "name": "x", "preset": preset}
        answer = attacked.anna.http.post("/v1/runs", json=body)
        assert_refused(answer, 400)
        assert need in answer.json()["error"]["message"]


def test_a_key_cannot_fill_the_disk_with_runs(attacked: Attacked, mine: str) -> None:
    runs = [finished(attacked, owner_of(attacked, "anna"), f"run_full_{number}") for number in range(3)]
    before = set(attacked.running.service.training.folder.joinpath("runs").iterdir())
    assert_refused(
        attacked.anna.http.post("/v1/runs", json={"dataset": mine, "name": "x", "preset": "vae-32"}), 400
    )
    assert set(attacked.running.service.training.folder.joinpath("runs").iterdir()) == before
    for run in runs:
        attacked.anna.ask("DELETE", f"/v1/runs/{run}", 204)


def test_samples_of_a_run_are_the_only_files_that_are_given(attacked: Attacked) -> None:
    run = finished(attacked, owner_of(attacked, "anna"), "run_samples")
    folder = attacked.running.service.training.run_folder(run) / "run"
    (folder / "config.toml").write_text("secret")
    (folder / "samples" / "000000001.png").symlink_to("/etc/passwd")
    for name in ("..%2fconfig.toml", "../config.toml", "data.png", "000000001.png", "%2e%2e", "0.png%00"):
        assert attacked.anna.http.get(f"/v1/runs/{run}/samples/{name}").status_code in (400, 404), name
    attacked.anna.ask("DELETE", f"/v1/runs/{run}", 204)


def test_nearest_training_images_are_for_the_owner_and_bear_hostile_files(
    attacked: Attacked, models: dict[str, str]
) -> None:
    run = finished(attacked, owner_of(attacked, "anna"), "run_nearest")
    folder = attacked.running.service.training.run_folder(run)
    own = SetFolder(folder / "data")
    own.create()
    own.add([NewImage("a.png", picture(0), ".png"), NewImage("b.png", picture(1)[:70], ".png")])
    shutil.copytree(models["gan"], folder / "run" / "model")
    before, path = files(attacked), f"/v1/runs/{run}/nearest"

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", 30_000, 30_000, 8, 2, 0, 0, 0)
    bomb = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(1000)))
    hostile = (b"", b"GIF89a", b"<svg/>", bomb, picture(0)[:80], zipped({"a.png": picture(0)}), b"\x80\x04.")
    for content in (*hostile, os.urandom(1024**2 + 1)):
        assert_refused(attacked.anna.http.post(path, files={"image": ("../a.png", content)}), 400, 413)
    for count in ("-1", "1e3", "٣", "999999999999999999999", "nan"):
        sent = {"files": {"image": picture(0)}, "data": {"count": count}}
        assert_refused(attacked.anna.http.post(path, **sent))  # type: ignore[arg-type]
    assert files(attacked) == before
    image = {"image": picture(0)}
    there, nowhere = (
        attacked.bert.http.post(one, files=image) for one in (path, path.replace("run_nearest", "run_none"))
    )
    assert_refused(there, 404)
    assert there.text == nowhere.text
    assert_refused(attacked.dora.http.post(path, files=image), 403)
    assert_refused(httpx.post(f"{attacked.running.url}{path}", files=image), 401)
    (only,) = attacked.anna.ask("POST", path, files=image)["data"]
    assert only["distance"] == 0
    small = f"/v1/runs/{run}/images/{only['image']}/thumbnail"
    assert attacked.anna.http.get(small).status_code == 200
    assert_refused(attacked.bert.http.get(small), 404)
    for name in ("..%2fclean.csv", "../../run/config.toml", "metadata.jsonl", "000001.png%00", "/etc/passwd"):
        answer = attacked.anna.http.get(f"/v1/runs/{run}/images/{name}/thumbnail")
        assert answer.status_code in (400, 404), name
    attacked.anna.ask("DELETE", f"/v1/runs/{run}", 204)
    assert not folder.exists()


def test_the_report_of_a_run_runs_no_script(attacked: Attacked) -> None:
    run = finished(attacked, owner_of(attacked, "anna"), "run_report")
    (attacked.running.service.training.run_folder(run) / "run" / "report.html").write_text(
        "<script>x</script>"
    )
    policy = attacked.anna.http.get(f"/v1/runs/{run}/report").headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "script-src" not in policy
    assert "sandbox" in policy
    attacked.anna.ask("DELETE", f"/v1/runs/{run}", 204)


def test_a_trained_model_is_for_its_owner_alone(attacked: Attacked, models: dict[str, str]) -> None:
    running, owner = attacked.running, owner_of(attacked, "anna")
    run = finished(attacked, owner, "run_served")
    folder = running.service.training.run_folder(run) / "run"
    (folder / "config.toml").write_text("")
    os.symlink(models["gan"], folder / "model")
    model = attacked.anna.ask("POST", f"/v1/runs/{run}/service", json={"name": "secret"})["model"]
    assert model == f"run:secret@{owner}"
    assert model in [one["id"] for one in attacked.anna.ask("GET", "/v1/models")["data"]]
    assert model not in [one["id"] for one in attacked.bert.ask("GET", "/v1/models")["data"]]
    body = {"model": model, "prompt": ""}
    attacked.anna.ask("POST", "/v1/images/generations", json=body)
    there, nowhere = (
        attacked.bert.http.post("/v1/images/generations", json={**body, "model": one})
        for one in (model, model.replace("secret", "nosuch"))
    )
    assert_refused(there, 404)
    assert there.text == nowhere.text.replace("nosuch", "secret")
    assert attacked.bert.http.get(f"/v1/models/{model}").status_code == 404
    attacked.anna.ask("DELETE", f"/v1/runs/{run}/service", 204)
    attacked.anna.ask("POST", "/v1/images/generations", 404, json=body)
    attacked.anna.ask("DELETE", f"/v1/runs/{run}", 204)


def test_a_service_that_trains_nothing_has_no_data_sets(models: dict[str, str], tmp_path: Path) -> None:
    with served({"gan": models["gan"]}, tmp_path) as running:
        for path in ("/v1/datasets", "/v1/runs", "/v1/runs/presets"):
            assert_refused(httpx.get(f"{running.url}{path}"), 404)
        assert_refused(httpx.post(f"{running.url}/v1/datasets", json={"name": "x"}), 404)
    assert not (tmp_path / "training").exists()


def test_pages_of_other_sites_upload_and_start_nothing(attacked: Attacked, mine: str) -> None:
    cookie = attacked.anna.http.post("/v1/session").headers["set-cookie"].partition(";")[0]
    headers = {"cookie": cookie, "origin": "https://evil.example", "sec-fetch-site": "cross-site"}
    url = attacked.running.url
    assert_refused(
        httpx.post(f"{url}/v1/datasets/{mine}/images", files=[("image", picture(0))], headers=headers), 403
    )
    body = {"dataset": mine, "name": "x", "preset": "vae-32"}
    assert_refused(httpx.post(f"{url}/v1/runs", json=body, headers=headers), 403)
    assert_refused(httpx.delete(f"{url}/v1/datasets/{mine}", headers=headers), 403)
