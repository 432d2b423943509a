"""Nobody reads, changes or fills the gallery who may not, and nothing in it is run."""

import base64
import io
import json
import struct
import time
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from PIL import Image
from sqlalchemy import text

from danqing.service.access import key_admin
from danqing.service.access.key_admin import Grant
from tests.service.attacks.asking import assert_refused, picture
from tests.service.serving import Running, served


class Visitor:
    """Somebody with a key."""

    def __init__(self, running: Running, name: str) -> None:
        token = key_admin.create(running.service.database, Grant(name))[1]
        self.client = httpx.Client(
            base_url=running.url, headers={"authorization": f"Bearer {token}"}, timeout=60
        )
        deadline = time.monotonic() + 30
        while httpx.get(f"{running.url}/v1/models").status_code != 401:
            assert time.monotonic() < deadline

    def paint(self, **body: Any) -> list[bytes]:
        asked = {"model": "masked", "prompt": "star", "seed": 1, **body}
        answer = self.client.post("/v1/images/generations", json=asked)
        assert answer.status_code == 200, answer.text
        return [base64.b64decode(one["b64_json"]) for one in answer.json()["data"]]

    def numbers(self, **query: Any) -> list[int]:
        answer = self.client.get("/v1/gallery", params=query)
        assert answer.status_code == 200, answer.text
        return [one["number"] for one in answer.json()["data"]]


@pytest.fixture(scope="module")
def kept(models: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    data: Path = tmp_path_factory.mktemp("kept")
    limits = {"body_bytes": 2 * 1024**2, "file_bytes": 1024**2, "archive_bytes": 4096}
    with served({"masked": models["masked"]}, data, gallery={"keep": 1}, limits=limits) as running:
        yield running


@pytest.fixture(scope="module")
def anna(kept: Running) -> Visitor:
    visitor = Visitor(kept, "anna")
    visitor.paint(n=2)
    return visitor


@pytest.fixture(scope="module")
def bert(kept: Running) -> Visitor:
    return Visitor(kept, "bert")


def test_idor_pictures_and_albums_of_others_do_not_exist(anna: Visitor, bert: Visitor) -> None:
    mine = anna.numbers()
    assert len(mine) == 2
    album = anna.client.post("/v1/gallery/albums", json={"name": "best"}).json()["number"]
    assert bert.numbers() == bert.numbers(search="star") == bert.numbers(album=album) == []
    one = mine[0]
    for method, path, body in (
        ("GET", f"/v1/gallery/{one}", None),
        ("GET", f"/v1/gallery/{one}/file", None),
        ("GET", f"/v1/gallery?like={one}", None),
        ("PATCH", f"/v1/gallery/{one}", {"rating": 5}),
        ("DELETE", f"/v1/gallery/{one}", None),
        ("POST", "/v1/gallery/zip", {"pictures": mine}),
        ("POST", f"/v1/gallery/albums/{album}/pictures", {"add": [], "remove": mine}),
        ("DELETE", f"/v1/gallery/albums/{album}", None),
    ):
        assert_refused(bert.client.request(method, path, json=body), 404)
    assert bert.client.post("/v1/gallery/delete", json={"pictures": mine}).json() == {"deleted": 0}
    assert anna.numbers() == mine
    for path in ("", "/albums", f"/{one}", f"/{one}/file"):
        assert_refused(httpx.get(f"{anna.client.base_url}/v1/gallery{path}"), 401)


def test_injection_into_search_numbers_and_names(anna: Visitor) -> None:
    for search in ("' or 1=1 --", "%", "_", "star' union select", '"', "\x00", "*", "\\", "star*", "\ud800"):
        assert (
            anna.client.get("/v1/gallery", params={"search": search.encode("utf-8", "replace")}).json()[
                "data"
            ]
            == []
        )
    for query in ("limit=0", "limit=201", "offset=-1", "before=x", "like=0", "rating=6", f"album={2**70}"):
        assert_refused(anna.client.get(f"/v1/gallery?{query}"), 400)
    one = anna.numbers()[0]
    for body in (
        {"rating": 6},
        {"rating": True},
        {"rating": "5"},
        {"tags": ["x"] * 21},
        {"tags": ["x" * 41]},
        {"tags": ["a\x00b"]},
        {"tags": "x"},
        {"owner": "bert"},
        {"hash": "x"},
    ):
        assert_refused(anna.client.patch(f"/v1/gallery/{one}", json=body), 400)
    for name in ("", "x" * 101, "a\x00", "a\nb", 5):
        assert_refused(anna.client.post("/v1/gallery/albums", json={"name": name}), 400)
    assert_refused(anna.client.post("/v1/gallery/delete", json={"pictures": [1] * 1001}), 400)
    for number in ("0", "-1", str(2**70), "x", "..%2F1"):
        assert_refused(anna.client.get(f"/v1/gallery/{number}/file"), 400, 404)


def test_stored_xss_what_a_prompt_says_is_data(anna: Visitor) -> None:
    one = anna.numbers()[0]
    mean = "<script>alert(1)</script>"
    assert anna.client.patch(f"/v1/gallery/{one}", json={"tags": [mean]}).json()["tags"] == [mean]
    shown = anna.client.get(f"/v1/gallery/{one}")
    assert shown.headers["content-type"] == "application/json"
    file = anna.client.get(f"/v1/gallery/{one}/file")
    assert file.headers["content-type"] == "image/png"
    for answer in (shown, file):
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert "sandbox" in answer.headers["content-security-policy"]
        assert answer.headers["cache-control"] == "no-store"


def test_zip_slip_and_exhaustion_names_are_numbers_and_bytes_are_limited(
    anna: Visitor, kept: Running
) -> None:
    mine = anna.numbers()[:2]
    with zipfile.ZipFile(
        io.BytesIO(anna.client.post("/v1/gallery/zip", json={"pictures": mine}).content)
    ) as found:
        names = found.namelist()
        rows = [json.loads(line) for line in found.read("metadata.jsonl").splitlines()]
        assert [row["file_name"] for row in rows] == names[:-1]
        assert all(name.removesuffix(".png").isdigit() for name in names[:-1])
        for row in rows:
            assert (
                found.read(row["file_name"]) == anna.client.get(f"/v1/gallery/{row['number']}/file").content
            )
    for seed in range(30):
        anna.paint(seed=100 + seed)
    assert_refused(anna.client.post("/v1/gallery/zip", json={"pictures": anna.numbers()}), 400)


def png_text(text_: bytes, kind: bytes = b"iTXt") -> bytes:
    """A picture with a text under our keyword."""
    data = b"danqing\x00" + (b"\x00\x00\x00\x00" if kind == b"iTXt" else b"") + text_
    chunk = struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
    plain = picture(alpha=False)
    return plain[:33] + chunk + plain[33:]


def test_hostile_settings_in_a_file_are_data_or_nothing(anna: Visitor) -> None:
    def asked(content: bytes) -> httpx.Response:
        return anna.client.post("/v1/gallery/settings", files={"image": ("a.png", content)})

    good = {"request": {"model": "masked", "prompt": "<img src=x onerror=alert(1)>", "seed": 1}}
    assert asked(png_text(json.dumps(good).encode())).json() == {"source": "file", "settings": good}
    for hostile in (
        b"[" * 100_000,
        b'{"request":' * 20_000,
        b'{"request": []}',
        b'{"request": {"a": ' + b"1" * 5000 + b"}}",
        b"null",
        b"\xff\xfe",
        b'{"request": {}}' + b" " * 300_000,
        b'{"request": {"a": NaN}}',
        b'{"request": {"a": 1e999}}',
        b'{"request": {"a": "\\ud800"}}',
    ):
        assert_refused(asked(png_text(hostile)), 404)
    for broken in (b"", b"\x89PNG\r\n\x1a\n", b"GIF89a", b"PK\x03\x04", picture()[:40], b"<svg/>"):
        assert_refused(asked(broken), 400, 404)
    bomb = b"danqing\x00\x00" + zlib.compress(bytes(50_000_000))
    chunk = struct.pack(">I", len(bomb)) + b"zTXt" + bomb + struct.pack(">I", zlib.crc32(b"zTXt" + bomb))
    plain = picture(alpha=False)
    assert_refused(asked(plain[:33] + chunk + plain[33:]), 404)


def test_leaks_nothing_remains_of_a_deleted_picture(anna: Visitor, kept: Running) -> None:
    file = anna.paint(seed=4711, prompt="circle")[0]
    job = anna.client.post(
        "/v1/jobs",
        json={"endpoint": "generations", "body": {"model": "masked", "prompt": "circle", "seed": 4712}},
    ).json()["id"]
    deadline = time.monotonic() + 60
    while anna.client.get(f"/v1/jobs/{job}").json()["status"] != "succeeded":
        assert time.monotonic() < deadline
    circles = anna.numbers(search="circle")
    assert len(circles) == 2
    told = anna.client.post("/v1/gallery/settings", files={"image": ("a.png", file)}).json()
    assert (told["source"], told["settings"]["request"]["seed"]) == ("gallery", 4711)
    assert anna.client.get(f"/v1/jobs/{job}/images/0").status_code == 200
    assert anna.client.post("/v1/gallery/delete", json={"pictures": circles}).json() == {"deleted": 2}
    for number in circles:
        assert_refused(anna.client.get(f"/v1/gallery/{number}/file"), 404)
    assert_refused(anna.client.get(f"/v1/jobs/{job}/images/0"), 404)
    assert_refused(anna.client.post("/v1/gallery/settings", files={"image": ("a.png", file)}), 404)
    assert anna.numbers(search="circle") == []
    rows = kept.service.database.transact(
        lambda session: [
            session.execute(
                text(f"select count(*) from gallery_{table} where number in ({', '.join(map(str, circles))})")
            ).scalar()
            for table in ("pictures", "files", "words", "album_pictures")
        ]
    )
    assert rows == [0, 0, 0, 0]


def test_settings_written_to_a_file_are_those_of_the_request(anna: Visitor) -> None:
    for kind in ("png", "webp", "jpeg"):
        files = anna.paint(n=2, seed=7, output_format=kind, embed_settings=True, temperature=0.5)
        plain = anna.paint(n=2, seed=7, output_format=kind, temperature=0.5)
        for index, (file, other) in enumerate(zip(files, plain, strict=True)):
            told = anna.client.post("/v1/gallery/settings", files={"image": ("a", file)}).json()
            assert told["source"] == "file"
            request = told["settings"]["request"]
            assert request == {
                "model": "masked",
                "prompt": "star",
                "n": 2,
                "seed": 7,
                "temperature": 0.5,
                **({} if kind == "png" else {"output_format": kind}),
                **({"output_format": "png"} if kind == "png" else {}),
            }
            assert told["settings"]["index"] == index
            assert Image.open(io.BytesIO(file)).tobytes() == Image.open(io.BytesIO(other)).tobytes()
            again = anna.client.post("/v1/images/generations", json=request).json()["data"][index]["b64_json"]
            assert (
                Image.open(io.BytesIO(base64.b64decode(again))).tobytes()
                == Image.open(io.BytesIO(file)).tobytes()
            )
