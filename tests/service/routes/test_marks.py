"""Every picture that leaves the service is marked, on every path, and says what it was made from."""

import base64
import io
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import openai
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from danqing.trust.verify import Provenance, Verdict, verify
from tests.service.conftest import save
from tests.service.serving import Running, served

SIDE = 32


@pytest.fixture(scope="module")
def trust(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("trust")


@pytest.fixture(scope="module")
def running(trust: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    tokenizer: dict[str, Any] = {"family": "vqvae", "features": 4, "blocks": 0, "downsamplings": 2}
    shape = {"width": SIDE, "height": SIDE, "channels": 3}
    config = {"family": "transformer", "layers": 1, "features": 16, "heads": 2, "order": "masked"}
    config |= {**shape, "tokenizer": {**tokenizer, **shape, "vocabulary": 16}}
    model = save(config, tmp_path_factory.mktemp("model"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DANQING_TRUST", str(trust))
        with served({"painter": model}, tmp_path_factory.mktemp("data"), marks="eu") as running:
            assert (trust / "authority").is_dir()  # before the first request
            yield running


@pytest.fixture(scope="module")
def client(running: Running) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{running.url}/v1", api_key="none", max_retries=0) as client:
        yield client


def photo(seed: int = 0) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def hole() -> bytes:
    mask = np.full((SIDE, SIDE, 4), 255, np.uint8)
    mask[4:28, 4:28, 3] = 0
    file = io.BytesIO()
    Image.fromarray(mask).save(file, "PNG")
    return file.getvalue()


def files(answer: Any) -> list[bytes]:
    return [base64.b64decode(one.b64_json) for one in answer.data]


def outcomes(found: Provenance) -> dict[str, str]:
    return {check.name: str(check.outcome) for check in found.checks}


@pytest.mark.parametrize("format", ["png", "jpeg", "webp"])
def test_generated_pictures_are_signed_labelled_and_registered(client: openai.OpenAI, format: str) -> None:
    answer = client.images.generate(model="painter", prompt="", n=2, extra_body={"output_format": format})
    for file in files(answer):
        found = verify(file)
        assert found.verdict is Verdict.OURS
        assert (
            outcomes(found)["signature"]
            == outcomes(found)["labels"]
            == outcomes(found)["registry"]
            == "passed"
        )


def test_models_say_which_marks_and_filters_there_are(running: Running) -> None:
    (card,) = httpx.get(f"{running.url}/v1/models").json()["data"]
    assert (card["marks"], card["filters"]) == ("eu", None)


def test_pictures_with_an_address_streams_and_jobs_are_marked(
    client: openai.OpenAI, running: Running
) -> None:
    answer = client.images.generate(model="painter", prompt="", response_format="url")
    assert verify(httpx.get(answer.data[0].url).content).verdict is Verdict.OURS  # type: ignore[index, arg-type]
    with client.images.generate(model="painter", prompt="", stream=True, partial_images=1) as stream:
        events = [event.model_dump() for event in stream]
    *partial, whole = (base64.b64decode(event["b64_json"]) for event in events)
    assert verify(whole).verdict is Verdict.OURS
    assert [outcomes(verify(file))["labels"] for file in partial] == ["passed"]
    body = {"endpoint": "generations", "body": {"model": "painter", "prompt": "", "n": 2}}
    with httpx.Client(base_url=running.url, timeout=60) as http:
        job = http.post("/v1/jobs", json=body).json()
        while (job := http.get(f"/v1/jobs/{job['id']}").json())["status"] in ("queued", "running"):
            time.sleep(0.05)
        made = [http.get(f"/v1/jobs/{job['id']}/images/{number}").content for number in range(2)]
    assert [verify(file).verdict for file in made] == [Verdict.OURS] * 2


@pytest.mark.parametrize("format", ["png", "input"])
def test_an_edit_names_its_parent_and_keeps_what_it_does_not_change(
    client: openai.OpenAI, format: str
) -> None:
    before = photo()
    answer = client.images.edit(
        model="painter", prompt="", image=before, mask=hole(), extra_body={"output_format": format}
    )
    (after,) = files(answer)
    found = verify(after)
    assert found.verdict is Verdict.OURS
    assert outcomes(found)["parent"] == "passed"
    old, new = (np.asarray(Image.open(io.BytesIO(file)).convert("RGB")) for file in (before, after))
    outside = np.ones((SIDE, SIDE), bool)
    outside[4:28, 4:28] = False
    assert np.array_equal(old[outside], new[outside])
    assert not np.array_equal(old, new)


def test_the_official_client_checks_where_a_picture_comes_from(
    client: openai.OpenAI, running: Running, tmp_path: Path
) -> None:
    (ours,) = files(client.images.generate(model="painter", prompt=""))
    found = client.content_provenance_checks.create(file=("ours.png", ours))
    credentials = found.results[0]
    assert found.object == "content_provenance_check"
    assert (credentials.type, credentials.outcome, credentials.validation_state) == (
        "c2pa",
        "detected",
        "trusted",
    )
    assert credentials.model == "painter"
    stripped = io.BytesIO()
    Image.open(io.BytesIO(ours)).save(stripped, "WEBP", quality=60)
    cases = {"ours": stripped.getvalue(), "none": photo(7)}
    with httpx.Client(base_url=running.url, timeout=60) as http:
        for verdict in ("ours", "none"):
            packed = "data:image/png;base64," + base64.b64encode(cases[verdict]).decode()
            answer = http.post("/v1/content_provenance_checks", json={"file": {"image_url": packed}}).json()
            assert answer["verdict"] == verdict, answer
        states = [one["type"] for one in answer["results"]]
        assert states == ["c2pa", "watermark", "registry", "labels"]
        assert {one["outcome"] for one in answer["results"]} == {"not_detected"}
        for body, param in (({}, "file"), ({"file": {"image_url": "data:image/png;base64,AAAA"}}, "file")):
            wrong = http.post("/v1/content_provenance_checks", json=body)
            assert (wrong.status_code, wrong.json()["error"]["param"]) == (400, param)
        sent = {"image": ("a.png", photo())}
        assert "send the picture as file" in http.post("/v1/content_provenance_checks", files=sent).text


def test_a_check_stores_nothing_and_calls_nobody(
    running: Running, trust: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    called: list[Any] = []
    address = running.url.removeprefix("http://").split(":")
    connect = socket.socket.connect

    def watched(self: socket.socket, where: Any) -> None:
        if isinstance(where, tuple) and list(map(str, where[:2])) != address:
            called.append(where)
        connect(self, where)

    monkeypatch.setattr(socket.socket, "connect", watched)

    def held() -> dict[str, int]:
        return {str(path): path.stat().st_size for path in trust.rglob("*") if path.is_file()}

    before = held()
    file = io.BytesIO()
    chunks = PngInfo()
    packet = (
        '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
        '<rdf:Description rdf:about="" xmlns:dcterms="http://purl.org/dc/terms/" '
        'dcterms:provenance="http://169.254.169.254/manifest.c2pa"/></rdf:RDF></x:xmpmeta>'
    )
    chunks.add_itxt("XML:com.adobe.xmp", packet)
    Image.open(io.BytesIO(photo(3))).save(file, "PNG", pnginfo=chunks)
    answer = httpx.post(
        f"{running.url}/v1/content_provenance_checks", files={"file": ("a.png", file.getvalue())}, timeout=60
    )
    assert answer.status_code == 200, answer.text
    assert answer.json()["verdict"] == "none"
    assert "never fetched" in answer.text
    assert held() == before
    assert called == []


def test_an_answer_names_no_files_of_the_server(
    running: Running, trust: Path, caplog: pytest.LogCaptureFixture
) -> None:
    key = trust / "watermark.key"
    secret = key.read_bytes()
    key.write_text("damaged")
    try:
        sent = {"file": ("a.png", photo(8))}
        answer = httpx.post(f"{running.url}/v1/content_provenance_checks", files=sent, timeout=60)
    finally:
        key.write_bytes(secret)
    assert answer.status_code == 200, answer.text
    outcomes = {one["name"]: one["outcome"] for one in answer.json()["checks"]}
    assert outcomes["watermark"] == "not checked"
    assert str(trust) not in answer.text
    assert str(key) in caplog.text  # the operator can read why


def test_a_service_says_what_is_wrong_with_its_marks(tmp_path: Path) -> None:
    from danqing.errors import ConfigError
    from danqing.service import settings

    for marks in ("us", "eu,credentials=sidecar"):
        with pytest.raises(ConfigError, match=r"marks|sidecar"):
            settings.checked({"models": {"a": "b"}, "marks": marks})
