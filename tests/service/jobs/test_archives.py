"""Zips of pictures as jobs: limits, names and failures; a server that is killed; the same zip in the end."""

import base64
import hashlib
import io
import json
import sqlite3
import time
import zipfile
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import openai
import pytest
from PIL import Image

from danqing.editing.contract import seed_of
from danqing.editing.vary import vary
from danqing.service.errors import ApiError
from danqing.service.requests import archives
from danqing.service.settings import Limits
from tests.service.editors import encoded, noise, save_editor
from tests.service.jobs.test_faults import nothing_is_left
from tests.service.processes import Process
from tests.service.serving import served

__all__ = ["nothing_is_left"]
LIMITS = Limits(archive_entries=6, archive_bytes=9_000, file_bytes=5_000)


def zipped(entries: dict[str, bytes]) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in entries.items():
            archive.writestr(name, content)
    return file.getvalue()


def reference(content: bytes) -> dict[str, str]:
    return {"image_url": f"data:application/zip;base64,{base64.b64encode(content).decode()}"}


def opened(content: bytes) -> tuple[dict[str, bytes], list[dict[str, Any]]]:
    """The files of a zip of results, and its manifest."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        assert archive.testzip() is None
        found = {name: archive.read(name) for name in archive.namelist()}
    lines = found.pop(archives.MANIFEST).decode().splitlines()
    return found, [json.loads(line) for line in lines]


def finished(http: httpx.Client, job_id: str) -> dict[str, Any]:
    while (job := http.get(f"/v1/jobs/{job_id}").json())["status"] in ("queued", "running"):
        time.sleep(0.05)
    found: dict[str, Any] = job
    return found


def test_a_zip_is_listed_under_limits() -> None:
    good = {
        "b/c.PNG": b"1",
        "a.jpg": b"2",
        "notes.txt": b"3",
        "__MACOSX/a.jpg": b"4",
        "large.png": bytes(5_001),
    }
    pictures, others = archives.contents(zipped(good), LIMITS)
    assert pictures == ("b/c.PNG", "a.jpg")
    assert set(others) == {"notes.txt", "__MACOSX/a.jpg", "large.png"}
    assert "over 5,000 bytes" in others["large.png"]
    twice = zipped({"a.png": b"1", "b.png": b"2"}).replace(b"b.png", b"a.png")
    for content, words in (
        (zipped({"../a.png": b"1"}), "not a path within"),
        (zipped({"/etc/a.png": b"1"}), "not a path within"),
        (zipped({"C:/a.png": b"1"}), "not a path within"),
        (zipped({"a\\..\\b.png": b"1"}), "not a path within"),
        (zipped({"x/" * 40 + "a.png": b"1"}), "too deep"),
        (twice, "two entries have one name"),
        (zipped({f"{n}.png": b"1" for n in range(7)}), "7 entries"),
        (zipped({"a.png": bytes(4_600), "b.png": bytes(4_600)}), "unpacks to 9,200 bytes"),
        (zipped({"a.txt": b"1"}), "no pictures"),
        (zipped(good)[:-30], "cannot be read"),
        (b"PK\3\4 and more", "cannot be read"),
    ):
        with pytest.raises(ApiError) as refused:
            archives.contents(content, LIMITS)
        assert words in str(refused.value)


def test_a_zip_with_a_huge_directory_is_rejected_before_it_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    content = zipped({f"{n}.png": b"" for n in range(100)})
    with pytest.raises(ApiError, match="The zip has 100 entries"):
        archives.contents(content, LIMITS)
    monkeypatch.setattr(zipfile, "ZipFile", lambda *_: pytest.fail("it takes seconds, and a GB of memory"))
    with pytest.raises(ApiError, match="The zip has 100 entries"):
        archives.contents(content, LIMITS)


def test_a_zip_with_a_file_without_a_name_is_rejected() -> None:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("a.png", b"a")
        archive.writestr("x", b"")
        archive.filelist[1].filename = archive.filelist[1].orig_filename = ""
    with pytest.raises(ApiError, match="is not a path within it") as caught:
        archives.contents(file.getvalue(), LIMITS)
    assert caught.value.status == 400


def test_results_have_the_names_that_commands_give_them() -> None:
    taken: set[str] = set()
    assert archives.names_of("a/b.jpg", 1, "png", taken) == ["a/b.png"]
    assert archives.names_of("a/b.png", 1, "png", taken) == ["a/b.png.png"]
    assert archives.names_of("c.JPEG", 2, "jpeg", taken) == ["1/c.JPEG", "2/c.JPEG"]
    assert archives.names_of("d.webp", 1, None, taken) == ["d.webp"]


def test_a_job_edits_a_zip_and_lists_what_fails(models: dict[str, str], tmp_path: Path) -> None:
    picture = encoded(noise(20, 31, 3))
    entries = {
        "cats/tom.png": picture,
        "cats/grey.jpg": encoded(noise(9, 9, 1), "JPEG"),
        "broken.png": picture[:-60],
        "readme.txt": b"hello",
    }
    entries |= {f"{number}.png": encoded(noise(8, 8 + number, 3, seed=number)) for number in range(5)}
    body = {
        "model": "vae",
        "label": "star",
        "seed": 7,
        "n": 2,
        "size": "input",
        "images": [reference(zipped(entries))],
    }
    with served({"vae": models["vae"]}, tmp_path) as running:
        with openai.OpenAI(base_url=f"{running.url}/v1", api_key="none", max_retries=0) as client:
            asked = {"endpoint": "variations", "body": body}
            job = client.post("/jobs", body=asked, cast_to=dict[str, Any])
        with httpx.Client(base_url=running.url, timeout=60) as http:
            job = finished(http, job["id"])
            assert job["status"] == "succeeded", job["error"]
            answer = job["response"]
            assert (answer["images"], answer["failed"], answer["output_format"]) == (7, 1, "zip")
            assert job["progress"]["done"] == job["progress"]["total"]
            download = http.get(answer["data"][0]["url"])
            assert download.headers["content-type"] == "application/zip"
            found, manifest = opened(download.content)
            told = {one["name"]: one for one in manifest}
            assert set(told) == set(entries)
            assert "truncated" in told["broken.png"]["error"]
            assert "not that of a picture" in told["readme.txt"]["error"]
            assert told["cats/grey.jpg"]["outputs"] == ["1/cats/grey.png", "2/cats/grey.png"]
            assert set(found) == {name for one in manifest for name in one.get("outputs", ())}
            seeds = [seed_of(7, "cats/tom.png", version) for version in range(2)]
            assert len({found[f"{version}/cats/tom.png"] for version in (1, 2)}) == len(set(seeds)) == 2
            (tmp_path / "cats").mkdir()
            (tmp_path / "cats/tom.png").write_bytes(picture)
            (tmp_path / "grey.png").write_bytes(picture)
            vary(
                models["vae"], [tmp_path / "cats/tom.png", tmp_path / "grey.png"], out=tmp_path / "out",
                label="star", seed=7, n=2,
            )  # fmt: skip
            for version in ("1", "2"):
                expected = np.asarray(Image.open(tmp_path / "out" / version / "cats/tom.png"))
                made = np.asarray(Image.open(io.BytesIO(found[f"{version}/cats/tom.png"])))
                assert np.array_equal(made, expected)
            parts = (
                sqlite3.connect(tmp_path / "service.db").execute("SELECT count(*) FROM job_parts").fetchone()
            )
            assert parts == (0,)
            form = {"request": json.dumps({"endpoint": "variations", "body": {**body, "images": None}})}
            form["request"] = form["request"].replace('"images": null', '"user": "me"')
            answer = http.post("/v1/jobs", data=form, files={"image": zipped(entries)})
            assert answer.status_code == 202, answer.text
            again = finished(http, answer.json()["id"])
            assert http.get(again["response"]["data"][0]["url"]).content == download.content
            refused = http.post("/v1/jobs", data={**form, "n": "2"}, files={"image": zipped(entries)})
            assert (refused.status_code, refused.json()["error"]["param"]) == (400, "request")
            hostile = {**body, "images": [reference(zipped({"../a.png": picture}))]}
            refused = http.post("/v1/jobs", json={"endpoint": "variations", "body": hostile})
            assert (refused.status_code, refused.json()["error"]["code"]) == (400, "invalid_archive")


def test_each_picture_of_a_zip_has_the_mask_of_its_name(models: dict[str, str], tmp_path: Path) -> None:
    pictures, masks, holes = {}, {}, {}
    for number in range(3):
        pictures[f"a/{number}.jpg"] = encoded(noise(10, 12, 3, seed=number), "WEBP", lossless=True)
        holes[number] = np.zeros((10, 12), bool)
        holes[number][number : number + 3, 2:9] = True
        sheet = np.full((10, 12, 4), 255, np.uint8)
        sheet[holes[number], 3] = 0
        if number < 2:
            masks[f"a/{number}.png"] = encoded(sheet)
    body = {
        "model": "masked",
        "prompt": "star",
        "images": [reference(zipped(pictures))],
        "output_format": "input",
    }
    asked = {"endpoint": "edits", "body": {**body, "mask": reference(zipped(masks))}}
    with (
        served({"masked": models["masked"]}, tmp_path) as running,
        httpx.Client(base_url=running.url) as http,
    ):
        job = finished(http, http.post("/v1/jobs", json=asked).json()["id"])
        found, manifest = opened(http.get(job["response"]["data"][0]["url"]).content)
    assert "no mask for a/2.jpg" in manifest[2]["error"]
    for number in range(2):
        before, after = (
            np.asarray(Image.open(io.BytesIO(file[f"a/{number}.jpg"]))).astype(int)
            for file in (pictures, found)
        )
        assert np.array_equal((before != after).any(axis=2) | holes[number], holes[number])
        assert (before != after).any()


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "service.toml"
    model = save_editor("enhance", tmp_path / "model")
    settings = "[engine]\nthreads = 1\n[jobs]\nlease = 1.0\n"
    path.write_text(f'port = 0\ndata = "data"\nlog = "json"\n[models]\nenhance = "{model}"\n{settings}')
    return path


def test_a_zip_is_finished_after_its_server_was_killed(config: Path) -> None:
    entries = {f"{number}.png": encoded(noise(60, 90, 3, seed=number)) for number in range(60)}
    body = {"model": "enhance", "prompt": "", "seed": 1, "images": [reference(zipped(entries))]}
    asked = {"endpoint": "edits", "body": body}
    first = Process(config)
    database = sqlite3.connect(config.parent / "data" / "service.db", timeout=30)

    def parts() -> dict[int, str]:
        rows = database.execute("SELECT number, content FROM job_parts")
        return {number: hashlib.sha256(content).hexdigest() for number, content in rows}

    job_id = first.http.post("/v1/jobs", json=asked).json()["id"]
    while len(parts()) < 8:
        time.sleep(0.005)
    first.kill()
    done = parts()
    assert 8 <= len(done) < 60
    marked = encoded(noise(1, 1, 3, seed=99))  # shows that what was done is not done again
    database.execute("UPDATE job_parts SET content = ? WHERE number = 0", (marked,))
    database.commit()
    second = Process(config)
    job = finished(second.http, job_id)
    assert (job["status"], job["attempts"]) == ("succeeded", 2)
    found, manifest = opened(second.http.get(job["response"]["data"][0]["url"]).content)
    assert found["0.png"] == marked
    whole = finished(second.http, second.http.post("/v1/jobs", json=asked).json()["id"])
    expected, same = opened(second.http.get(whole["response"]["data"][0]["url"]).content)
    assert {**found, "0.png": expected["0.png"]} == expected
    assert manifest == same
    assert len(manifest) == 60
    database.close()
    second.kill()
