"""Models that recognize pictures, and indexes, answer as Python does."""

import base64
import contextlib
import io
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import httpx
import numpy as np
import openai
import pytest
import torch
from PIL import Image
from torch.nn import functional as F

import danqing as dq
from danqing import families
from danqing.evaluation.judges import caption_matcher
from danqing.model.recognizer import Recognizer
from danqing.recognition.image_index import ImageIndex
from danqing.recognition.predict import predict
from danqing.recognition.segment import segment
from danqing.service.access import key_admin
from danqing.service.access.key_admin import Grant
from danqing.service.requests.recognition_schemas import RESPONSES
from danqing.service.storage.database import Database
from tests.service.serving import Running, served

SHAPE = {"width": 16, "height": 16, "channels": 3}
CONFIGS: dict[str, dict[str, Any]] = {
    "kinds": {"family": "classifier", "features": 8, "blocks": 0, "labels": ["cat", "dog", "owl"]},
    "boxes": {
        "family": "detector",
        "features": 8,
        "blocks": 0,
        "head_features": 8,
        "box_classes": ["a", "b"],
    },
    "parts": {
        "family": "segmenter",
        "widths": [8, 12],
        "decoder_widths": [8],
        "mask_classes": ["sky", "road", "car"],
    },
    "faces": {"family": "embedder", "features": 8, "blocks": 0, "length": 16},
}


@pytest.fixture(scope="module")
def folders(models: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """A model of each kind that nobody trained, a model that generates, and two indexes."""
    folder = tmp_path_factory.mktemp("recognizers")
    found = {"gan": models["gan"]}
    for name, config in CONFIGS.items():
        torch.manual_seed(0)
        learner = families.build_learner(families.parse_config({**config, **SHAPE}))
        learner.drop_training_only()
        with torch.no_grad():  # so that answers differ from picture to picture
            for parameter in learner.parameters():
                parameter.add_(0.2 * torch.randn_like(parameter))
        found[name] = str(Recognizer(learner, {"temperature": 0.5}).save(folder / name))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(caption_matcher, "_SHOWN", 600)
        dq.index("shapes:40", folder / "words", encoder="pixels", size=(16, 16), text=True)
    for number in range(12):
        kind = folder / "photos" / ("cat" if number % 2 else "dog")
        kind.mkdir(parents=True, exist_ok=True)
        (kind / f"{number}.png").write_bytes(picture(number))
    dq.index(folder / "photos", folder / "photos.index", encoder=found["faces"])
    return {**found, "photos": str(folder / "photos.index"), "words": str(folder / "words")}


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """Where another server has `picture(5)`."""
    content = picture(5)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("content-length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/a.png"
        server.shutdown()


@pytest.fixture(scope="module")
def running(
    folders: dict[str, str], address: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Running]:
    outbound = {"pictures": [address.split("/")[2]]}
    with served(
        folders, tmp_path_factory.mktemp("data"), limits={"inputs": 20}, outbound=outbound
    ) as running:
        yield running


@pytest.fixture(scope="module")
def client(running: Running) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{running.url}/v1", api_key="none", max_retries=0) as client:
        yield client


def picture(seed: int, size: tuple[int, int] = (24, 20)) -> bytes:
    small = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(small).resize(size, Image.Resampling.BICUBIC).save(file, "png")
    return file.getvalue()


def data_url(content: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(content).decode()}"


def post(running: Running, endpoint: str, **body: Any) -> dict[str, Any]:
    answer = httpx.post(f"{running.url}/v1/{endpoint}", json=body, timeout=60)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    RESPONSES[endpoint].model_validate(found)  # type: ignore[index]
    return found


def rejection(running: Running, endpoint: str, **body: Any) -> dict[str, Any]:
    answer = httpx.post(f"{running.url}/v1/{endpoint}", json=body, timeout=60)
    assert answer.status_code == 400, answer.text
    error: dict[str, Any] = answer.json()["error"]
    return error


def unit(vectors: torch.Tensor) -> np.ndarray:
    return F.normalize(vectors, dim=1).numpy()


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    """Pictures of several sizes; ten, so that they take more than one chunk."""
    paths = [tmp_path / f"{number}.png" for number in range(10)]
    for number, path in enumerate(paths):
        path.write_bytes(picture(number, (20 + number, 30)))
    return paths


def test_labels_objects_and_masks_are_those_of_python(
    running: Running, folders: dict[str, str], files: list[Path]
) -> None:
    inputs = [data_url(path.read_bytes()) for path in files]
    found = post(running, "classifications", model="kinds", input=inputs, top=2)
    expected = predict(folders["kinds"], files, top=2)
    assert found["calibrated"]
    assert [one["index"] for one in found["data"]] == list(range(10))
    for one, own in zip(found["data"], expected, strict=True):
        assert [each["label"] for each in one["labels"]] == [each.name for each in own.labels]
        chances = [each["probability"] for each in one["labels"]]
        assert chances == pytest.approx([each.probability for each in own.labels], abs=1e-4)
    assert len({one["labels"][0]["probability"] for one in found["data"]}) > 5

    found = post(running, "detections", input=inputs[:3], threshold=0.001)  # by default, what can do this
    objects = [item.objects for item in predict(folders["boxes"], files[:3], threshold=0.001)]
    assert found["model"] == "boxes"
    assert any(objects)
    for one, those in zip(found["data"], objects, strict=True):
        assert [each["label"] for each in one["objects"]] == [each.name for each in those]
        np.testing.assert_allclose([e["box"] for e in one["objects"]], [e.box for e in those], atol=0.05)
    assert found["data"][1]["size"] == "21x30"

    recognizer = dq.load_recognizer(folders["parts"])
    for format in ("b64_json", "url"):
        found = post(running, "segmentations", input=inputs[:3], scale="own", response_format=format)
        assert found["classes"] == ["sky", "road", "car"]
        for one, path in zip(found["data"], files, strict=False):
            content = httpx.get(one["url"]).content if format == "url" else base64.b64decode(one["b64_json"])
            mask = np.asarray(Image.open(io.BytesIO(content)))
            expected_mask = segment(recognizer, np.asarray(Image.open(path)), scale="own")
            np.testing.assert_array_equal(mask, expected_mask)
            assert one["shares"]["road"] == pytest.approx((mask == 1).mean(), abs=1e-5)


def test_the_official_client_receives_the_vectors_of_python(
    client: openai.OpenAI, folders: dict[str, str], files: list[Path]
) -> None:
    contents = [path.read_bytes() for path in files[:3]]
    recognizer = dq.load_recognizer(folders["faces"])
    expected = unit(recognizer.embed(np.asarray(Image.open(files[0]))[None]))
    packed = [base64.b64encode(content).decode() for content in contents]
    answer = client.embeddings.create(model="faces", input=[data_url(contents[0]), *packed[1:]])
    assert [one.index for one in answer.data] == [0, 1, 2]
    np.testing.assert_allclose(answer.data[0].embedding, expected[0], atol=1e-4)
    assert np.linalg.norm(answer.data[2].embedding) == pytest.approx(1, abs=1e-5)
    assert answer.usage.prompt_tokens == 3  # a picture of 16x16 is one token
    plain = client.embeddings.create(model="faces", input=packed[2], encoding_format="float")
    np.testing.assert_allclose(plain.data[0].embedding, answer.data[2].embedding, atol=1e-4)
    with pytest.raises(openai.BadRequestError, match="faces reads no text"):
        client.embeddings.create(model="faces", input="a cat")
    with pytest.raises(openai.BadRequestError, match="leave dimensions out"):
        client.embeddings.create(model="faces", input=packed[0], dimensions=3)


def test_an_index_is_searched_by_pictures_and_by_words(
    running: Running, client: openai.OpenAI, folders: dict[str, str]
) -> None:
    found = post(running, "search", model="photos", input=[data_url(picture(n)) for n in (3, 4)], k=3)
    matches = [one["matches"] for one in found["data"]]
    assert [one[0]["id"] for one in matches] == ["cat/3.png", "dog/4.png"]
    assert matches[0][0]["similarity"] == pytest.approx(1, abs=1e-4)
    cats = post(running, "search", model="photos", input=data_url(picture(4)), k=9, labels=["cat"])
    assert {match["label"] for match in cats["data"][0]["matches"]} == {"cat"}
    error = rejection(running, "search", model="photos", input=data_url(picture(4)), labels=["cow"])
    assert "no entry with the label cow: its labels are cat, dog" in error["message"]
    assert "photos reads no text" in rejection(running, "search", model="photos", input="cat")["message"]

    index = ImageIndex.load(folders["words"])
    text = "a large red heart"
    found = post(running, "search", model="words", input=[text, {"text": "two blue stars"}], k=5)
    for one, own in zip(found["data"], index.search_text([text, "two blue stars"], 5), strict=True):
        assert [match["id"] for match in one["matches"]] == [match.id for match in own]
    answer = client.embeddings.create(model="words", input=[text, data_url(picture(1))])
    vectors = np.array([one.embedding for one in answer.data])
    np.testing.assert_allclose(vectors[0], unit(index.vectors_of_texts([text]))[0], atol=1e-4)
    prepared = torch.from_numpy(np.array(index.facts.spec.prepared(picture(1))[None]))
    np.testing.assert_allclose(vectors[1], unit(index.vectors_of_images(prepared))[0], atol=1e-4)


def test_models_say_what_they_can_do_and_others_are_rejected(running: Running) -> None:
    listed = {one["id"]: one for one in httpx.get(f"{running.url}/v1/models").json()["data"]}
    endpoints = {name: one["endpoints"] for name, one in listed.items()}
    assert endpoints == {
        "gan": ["generations", "edits", "variations"] if "edits" in endpoints["gan"] else endpoints["gan"],
        "kinds": ["classifications", "embeddings", "attributions"],
        "boxes": ["detections", "embeddings"],
        "parts": ["segmentations", "embeddings", "attributions"],
        "faces": ["embeddings"],
        "photos": ["embeddings", "search"],
        "words": ["embeddings", "search"],
    }
    assert all(one["available"] for one in listed.values())
    assert listed["kinds"]["labels"] == ["cat", "dog", "owl"]
    assert (listed["photos"]["entries"], listed["photos"]["labels"]) == (12, ["cat", "dog"])
    assert (listed["words"]["reads_text"], listed["photos"]["reads_text"]) == (True, False)
    image = data_url(picture(0))
    for endpoint, model, message in (
        ("detections", "kinds", "kinds cannot find objects in pictures: use boxes."),
        ("classifications", "gan", "gan cannot classify pictures: use kinds."),
        ("search", "faces", "faces cannot be searched: use photos, words."),
    ):
        error = rejection(running, endpoint, model=model, input=image)
        assert (error["message"], error["param"], error["code"]) == (message, "model", "unsupported_model")
    error = rejection(running, "images/generations", model="photos", prompt="")
    assert "photos cannot generate pictures: use gan" in error["message"]


def test_wrong_inputs_are_rejected_by_name(running: Running) -> None:
    image, large = data_url(picture(0)), data_url(picture(0, (4097, 4096)))
    for body, param, message in (
        ({}, "input", "input is missing"),
        ({"input": []}, "input", "input is missing"),
        ({"input": [image] * 21}, "input", "at most 20"),
        ({"input": [image, [1, 2]]}, "input.1", "must be a string"),
        ({"input": "data:image/png;base64,!"}, "input.0.image_url", "base64"),
        ({"input": data_url(b"GIF89a")}, "input.0", "not a png, jpeg or webp"),
        ({"input": data_url(b"PK\x03\x04")}, "input.0", "zip"),
        ({"input": large}, "input.0", "4097x4096"),
        ({"input": image, "top": 0}, "top", "greater than or equal to 1"),
        ({"input": image, "k": 3}, "k", "no field k"),
        ({"input": data_url(picture(0)[:90])}, None, "incomplete|cannot be read|damaged|truncated"),
    ):
        error = rejection(running, "classifications", **body)
        assert param is None or error["param"] == param, error
        assert any(word in error["message"] for word in message.split("|")), error


def test_pictures_come_as_files_of_a_form_and_from_addresses(running: Running, address: str) -> None:
    content = picture(5)
    expected = post(running, "classifications", input=data_url(content), top=3)["data"]
    files = [("image", ("a.png", content)), ("image", ("b.png", content))]
    url = f"{running.url}/v1/classifications"
    form = httpx.post(url, data={"top": "3"}, files=files, timeout=60).json()["data"]
    assert [one["labels"] for one in form] == [expected[0]["labels"]] * 2
    assert post(running, "classifications", input=address, top=3)["data"] == expected


def test_jobs_that_wait_for_recognition_hold_back_no_others(running: Running) -> None:
    looks = {"endpoint": "classifications", "body": {"model": "kinds", "input": data_url(picture(1))}}
    paints = {"endpoint": "generations", "body": {"model": "gan", "prompt": ""}}
    scheduler = running.service.scheduler
    with running.standstill():
        for job in (looks, looks, looks, paints):
            assert httpx.post(f"{running.url}/v1/jobs", json=job).status_code == 202
        deadline = time.monotonic() + 10
        while scheduler.state().orders < 4:
            assert time.monotonic() < deadline, "a job waits for others before it is queued"
            time.sleep(0.02)
    while scheduler.state().orders:
        time.sleep(0.02)


def test_jobs_recognize_as_requests_do(running: Running) -> None:
    inputs = [data_url(picture(n)) for n in range(3)]
    for endpoint, body in (
        ("classifications", {"input": inputs, "top": 2}),
        ("embeddings", {"model": "words", "input": [*inputs, "a red heart"], "encoding_format": "base64"}),
        ("search", {"input": inputs}),
        ("segmentations", {"input": inputs}),
    ):
        direct = post(running, endpoint, **body)
        job = httpx.post(f"{running.url}/v1/jobs", json={"endpoint": endpoint, "body": body}).json()
        while job["status"] in ("queued", "running"):
            time.sleep(0.05)
            job = httpx.get(f"{running.url}/v1/jobs/{job['id']}").json()
        assert job["status"] == "succeeded", job
        assert "input" not in job["request"]
        found = job["response"]
        if endpoint == "segmentations":
            for one, own in zip(found["data"], direct["data"], strict=True):
                assert httpx.get(one.pop("url")).content == base64.b64decode(own.pop("b64_json"))
        assert found == direct


def test_keys_need_the_scope_and_pictures_count(folders: dict[str, str], tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    with contextlib.closing(Database(f"sqlite:///{data / 'service.db'}")) as database:
        database.migrate()
        grants = (Grant("eyes", scopes=("recognize",), models=("kinds",), quota=3), Grant("hand", ("edit",)))
        eyes, hand = (key_admin.create(database, grant)[1] for grant in grants)
    image = data_url(picture(0))
    with served({name: folders[name] for name in ("gan", "kinds", "boxes")}, data) as running:

        def ask(key: str, route: str, /, **body: Any) -> httpx.Response:
            headers = {"authorization": f"Bearer {key}"}
            return httpx.post(f"{running.url}/v1/{route}", json=body, headers=headers, timeout=60)

        assert ask(eyes, "classifications", input=[image, image]).status_code == 200
        assert (
            ask(eyes, "classifications", input=[image, image]).json()["error"]["code"] == "insufficient_quota"
        )
        assert ask(eyes, "detections", model="boxes", input=image).status_code == 403
        job = {"endpoint": "classifications", "body": {"input": image}}
        assert ask(eyes, "jobs", **job).status_code == 202
        for answer in (
            ask(hand, "classifications", input=image),
            ask(hand, "jobs", **job),
            ask(eyes, "images/generations", prompt=""),
        ):
            assert answer.status_code == 403
            assert answer.json()["error"]["code"] == "insufficient_permissions"
