"""Maps of which places of a picture count: those that `explain` shows in Python."""

import asyncio
import base64
import contextlib
import io
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import torch
from PIL import Image

import danqing as dq
from danqing import families
from danqing.images import encode, to_pil
from danqing.model.recognizer import Recognizer
from danqing.service.access import key_admin
from danqing.service.access.caller import LOCAL
from danqing.service.access.held_bytes import HeldBytes
from danqing.service.access.key_admin import Grant
from danqing.service.engine.offers import Offer
from danqing.service.errors import ApiError
from danqing.service.pictures.encode_pool import EncodePool
from danqing.service.requests.planner import Planner
from danqing.service.requests.recognition_schemas import AttributionsResponse
from danqing.service.settings import Settings
from danqing.service.storage.database import Database
from tests.service.attacks.asking import assert_refused
from tests.service.serving import Running, served

SHAPE = {"width": 16, "height": 16, "channels": 3}
CONFIGS: dict[str, dict[str, Any]] = {
    "kinds": {"family": "classifier", "features": 8, "blocks": 0, "labels": ["cat", "dog", "owl"]},
    "parts": {
        "family": "segmenter",
        "widths": [8, 12],
        "decoder_widths": [8],
        "mask_classes": ["sky", "road", "car"],
    },
}
PROMPT = "a red square"


def recognizers(folder: Path) -> dict[str, str]:
    """Folders of a classifier and a segmenter that nobody trained."""
    found = {}
    for name, config in CONFIGS.items():
        torch.manual_seed(0)
        learner = families.build_learner(families.parse_config({**config, **SHAPE}))
        learner.drop_training_only()
        with torch.no_grad():  # so that answers differ from picture to picture
            for parameter in learner.parameters():
                parameter.add_(0.2 * torch.randn_like(parameter))
        found[name] = str(Recognizer(learner, {}).save(folder / name))
    return found


@pytest.fixture(scope="module")
def folders(models: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    own = {name: models[name] for name in ("gan", "text")}
    return own | recognizers(tmp_path_factory.mktemp("recognizers"))


@pytest.fixture(scope="module")
def running(folders: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    limits = {"body_bytes": 2 * 1024**2, "file_bytes": 1024**2, "pixels": 1_000_000}
    with served(folders, tmp_path_factory.mktemp("data"), limits=limits) as running:
        yield running


def picture(seed: int, size: tuple[int, int] = (24, 20)) -> bytes:
    small = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(small).resize(size, Image.Resampling.BICUBIC).save(file, "png")
    return file.getvalue()


def data_url(content: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(content).decode()}"


def ask(running: Running, status: int = 200, **body: Any) -> Any:
    answer = httpx.post(f"{running.url}/v1/attributions", json=body, timeout=60)
    assert answer.status_code == status, answer.text
    if status == 200:
        AttributionsResponse.model_validate(answer.json())
    return answer.json()


def pixels(file: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(file)))


@pytest.mark.parametrize(("name", "method"), [("kinds", "Grad-CAM"), ("parts", "hiding")])
def test_maps_of_labels_are_those_of_explain(
    running: Running, folders: dict[str, str], name: str, method: str
) -> None:
    content = picture(3)
    recognizer = dq.load_recognizer(folders[name])
    last = recognizer.classes[-1]
    (section,) = dq.explain(recognizer, pixels(content)[None], label=last).sections
    wanted = {
        figure.caption.partition(":")[0]: figure.pixels
        for row in section.rows
        for figure in row
        if figure.caption.endswith(method)
    }
    told = ask(running, model=name, input=data_url(content), label=last.upper())
    (one,) = told["data"]
    assert (one["object"], one["size"], told["model"]) == ("attribution", "24x20", name)
    assert [each["name"] for each in one["maps"]] == list(wanted)
    assert last in wanted
    for each in one["maps"]:
        assert np.array_equal(pixels(base64.b64decode(each["b64_json"])), wanted[each["name"]])
        assert each["probability"] == pytest.approx(section.values["labels"][each["name"]], abs=1e-5)
    (alone,) = ask(running, input=data_url(content), model=name)["data"][0]["maps"]
    assert alone == one["maps"][0]


def test_maps_of_words_are_those_of_explain(running: Running, folders: dict[str, str]) -> None:
    section = dq.explain(folders["text"], prompt=PROMPT).sections[0]
    sample, *wanted = section.rows[0]
    content = encode(to_pil(sample.pixels), "png")
    told = ask(running, input=data_url(content), prompt=PROMPT)  # by default a model that reads text
    assert told["model"] == "text"
    maps = told["data"][0]["maps"]
    assert [each["name"] for each in maps] == [figure.caption for figure in wanted] == ["a", "red", "square"]
    for each, figure in zip(maps, wanted, strict=True):
        shown = pixels(base64.b64decode(each["b64_json"]))
        assert np.abs(shown.astype(int) - figure.pixels).max() <= 1  # of a batch of another size
        assert 0 <= each["share"] <= 1
    form = httpx.post(
        f"{running.url}/v1/attributions",
        data={"prompt": PROMPT, "response_format": "url"},
        files={"image": content},
        timeout=60,
    ).json()
    for each, other in zip(form["data"][0]["maps"], maps, strict=True):
        assert httpx.get(each["url"]).content == base64.b64decode(other["b64_json"])


def test_a_job_makes_the_same_maps(running: Running) -> None:
    for body in ({"model": "kinds", "label": "owl"}, {"model": "text", "prompt": PROMPT}):
        body["input"] = data_url(picture(5))
        direct = ask(running, **body)
        asked = {"endpoint": "attributions", "body": body}
        job = httpx.post(f"{running.url}/v1/jobs", json=asked, timeout=60).json()
        while job["status"] in ("queued", "running"):
            time.sleep(0.05)
            job = httpx.get(f"{running.url}/v1/jobs/{job['id']}").json()
        assert job["status"] == "succeeded", job
        for one, own in zip(job["response"]["data"][0]["maps"], direct["data"][0]["maps"], strict=True):
            assert httpx.get(one.pop("url")).content == base64.b64decode(own.pop("b64_json"))
        assert job["response"] == direct


REFUSED: list[tuple[dict[str, Any], str, str]] = [
    ({}, "input", "input is missing"),
    ({"model": "gan"}, "model", "gan cannot show which places of a picture count: use text, kinds, parts."),
    ({"model": "gan", "prompt": "a"}, "model", "gan cannot show"),
    ({"model": "text"}, "prompt", "text shows where a picture attends to words: send its prompt."),
    ({"model": "text", "prompt": "  "}, "prompt", "send its prompt"),
    ({"model": "text", "prompt": "a", "label": "cat"}, "label", "leave label out"),
    ({"model": "text", "prompt": "a " * 200}, "prompt", "tokens"),
    ({"model": "kinds", "prompt": "a cat"}, "prompt", "kinds shows which places count for a label"),
    ({"model": "kinds", "label": "cow"}, "label", "kinds does not know the label"),
    ({"model": "kinds", "top": 3}, "top", "no field top"),
    ({"input": ["a.png"] * 2}, "input.0", "reads no text"),
    ({"input": [data_url(picture(0))] * 2}, "input", "one picture at a time"),
]


@pytest.mark.parametrize(("body", "param", "words"), REFUSED)
def test_what_cannot_be_shown_is_refused_by_name(
    running: Running, body: dict[str, Any], param: str, words: str
) -> None:
    given = {"input": data_url(picture(0)), **body} if body else {}
    error = ask(running, 400, **given)["error"]
    assert error["param"] == param, error
    assert words in error["message"], error


def test_hostile_files_are_refused_and_the_service_goes_on(running: Running) -> None:
    for name, prompt in (("kinds", {}), ("text", {"prompt": PROMPT})):
        for content in (
            b"",
            b"GIF89a",
            b"<svg xmlns='http://www.w3.org/2000/svg'/>",
            picture(0)[:90],
            picture(0, (1001, 1000)),
            bytes(1024**2 + 1),
            b"PK\x03\x04",
            b"\x80\x04\x95",
        ):
            url = f"{running.url}/v1/attributions"
            sent = httpx.post(url, data={"model": name, **prompt}, files={"image": ("../../a.png", content)})
            assert_refused(sent, 400, 413)
            body = {"model": name, "input": data_url(content), **prompt}
            assert_refused(httpx.post(url, json=body, timeout=60), 400, 413)
        for address in ("file:///etc/passwd", "http://169.254.169.254/latest", "http://127.0.0.1:1/a.png"):
            assert_refused(httpx.post(url, json={"model": name, "input": address, **prompt}))
    assert len(ask(running, model="kinds", input=data_url(picture(1)))["data"]) == 1


def test_an_export_shows_no_maps() -> None:
    offer = Offer("small", "", width=8, height=8, channels=3, options={}, recognizes=("classify", "embed"))
    planner = Planner(Settings(models={"small": ""}), {"small": offer}, EncodePool())
    body = {"input": data_url(picture(0))}
    work = planner.recognition.check_and_plan("attributions", body, LOCAL, HeldBytes.unlimited())
    with pytest.raises(ApiError, match="small cannot show which places of a picture count") as error:
        asyncio.run(work)
    assert (error.value.status, error.value.param) == (400, "model")


def test_labels_need_one_scope_and_words_another_and_both_count(
    folders: dict[str, str], tmp_path: Path
) -> None:
    data = tmp_path / "data"
    data.mkdir()
    with contextlib.closing(Database(f"sqlite:///{data / 'service.db'}")) as database:
        database.migrate()
        grants = (Grant("eyes", scopes=("recognize",), quota=1), Grant("hand", scopes=("generate",), quota=1))
        eyes, hand = (key_admin.create(database, grant)[1] for grant in grants)
    label = {"model": "kinds", "input": data_url(picture(0))}
    words = {"model": "text", "input": data_url(picture(0)), "prompt": PROMPT}
    with served({name: folders[name] for name in ("text", "kinds")}, data) as running:

        def post(key: str, route: str, body: dict[str, Any]) -> httpx.Response:
            headers = {"authorization": f"Bearer {key}"}
            return httpx.post(f"{running.url}/v1/{route}", json=body, headers=headers, timeout=60)

        for key, wrong, right in ((eyes, words, label), (hand, label, words)):
            for route, body in (
                ("attributions", wrong),
                ("jobs", {"endpoint": "attributions", "body": wrong}),
            ):
                assert_refused(post(key, route, body), 403)
            assert post(key, "attributions", right).status_code == 200
            assert post(key, "attributions", right).json()["error"]["code"] == "insufficient_quota"
        assert httpx.post(f"{running.url}/v1/attributions", json=label).status_code == 401
