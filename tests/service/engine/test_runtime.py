"""A service without PyTorch paints and recognizes what the models do in PyTorch."""

import asyncio
import base64
import io
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import openai
import psutil
import pytest
import tomli_w
from PIL import Image

import danqing as dq
from danqing.cli import commands, serve
from danqing.compress.runtime import load, load_recognizer
from danqing.compress.runtime.manifest import Codes
from danqing.compress.runtime.model import check_marks
from danqing.compress.runtime.segments import mask_of
from danqing.errors import ConfigError, ModelError
from danqing.images import Images
from danqing.model.files import Access
from danqing.model.recognizer import Recognizer, open_trained
from danqing.model.scorer import ClassScorer
from danqing.recognition.segment import segment
from danqing.service import settings
from danqing.service.engine import model_sources, placement, runtime_recognition
from danqing.service.engine.catalogue import Catalogue
from danqing.service.engine.export_once import exported
from danqing.service.engine.orders import Query, pack_pixels
from danqing.service.engine.received_batch import Row, conditions
from danqing.service.engine.runtime_models import RuntimeLibrary
from danqing.service.settings import Settings
from danqing.trust.settings import MarkSettings
from tests.compress import tiny
from tests.service.engine.test_worker import Spoken, row
from tests.service.processes import Process
from tests.service.routes.test_operations import values
from tests.service.serving import served

FLOW = {
    "family": "flow",
    **{"width": 8, "height": 8, "widths": (8,), "layers": 1, "heads": 2, "num_steps": 6},
    **tiny.TEXT,
    **tiny.ATTRIBUTES,
}
PAINTERS = {"gan": tiny.GAN, "flow": FLOW}
RECOGNIZERS: dict[str, dict[str, Any]] = {
    "kinds": {"family": "classifier", "width": 8, "height": 8, "features": 8, "labels": ("a", "b", "c")},
    "parts": {
        "family": "segmenter",
        **{"width": 16, "height": 8, "widths": (8, 12), "decoder_widths": (8,)},
        "mask_classes": ("sky", "road", "car"),
    },
    "boxes": {
        "family": "detector",
        **{"width": 16, "height": 16, "features": 8, "head_features": 8},
        "box_classes": ("a", "b"),
    },
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A folder of each model."""
    folder = tmp_path_factory.mktemp("models")
    shown = Images(np.zeros((1, 4, 4, 3), np.uint8))
    found = {}
    for name, config in PAINTERS.items():
        model = tiny.model_of(config)
        model.family.drop_training_only()
        found[name] = model.save(folder / name, shown)
    for name, config in RECOGNIZERS.items():
        found[name] = Recognizer(tiny.learner_of(config), {"temperature": 0.5}).save(folder / name)
    return found


@pytest.fixture(scope="module")
def export(folders: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], str]:
    """From the name of a model to its export; `bf16` is the GAN for OpenVINO."""
    folder = tmp_path_factory.mktemp("exports")

    @cache
    def export(name: str) -> str:
        if name == "bf16":
            return str(dq.export(folders["gan"], folder / name, to="openvino", precision="bf16"))
        return str(dq.export(folders[name], folder / name))

    return export


@pytest.fixture(scope="module")
def no_torch(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Processes that start meanwhile cannot import PyTorch."""
    folder = tmp_path_factory.mktemp("hook")
    (folder / "sitecustomize.py").write_text("import sys\nsys.modules['torch'] = None\n")
    with pytest.MonkeyPatch.context() as patch:
        paths = (str(folder), os.environ.get("PYTHONPATH", ""))
        patch.setenv("PYTHONPATH", os.pathsep.join(filter(None, paths)))
        yield


@pytest.fixture(scope="module")
def bare(
    export: Callable[[str], str],
    folders: dict[str, Path],
    no_torch: None,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Process]:
    """A service without PyTorch, with all exports and one model that is none."""
    folder = tmp_path_factory.mktemp("service")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DANQING_TRUST", str(folder / "trust"))
        models = {name: export(name) for name in (*folders, "bf16")} | {"plain": str(folders["gan"])}
        told: dict[str, Any] = {"models": models, "port": 0, "data": "data"}
        told |= {"marks": "eu,watermark=off", "engine": {"threads": 1}}
        (folder / "service.toml").write_text(tomli_w.dumps(told))
        process = Process(folder / "service.toml")
        yield process
        assert process.end() == 0


def painted(process: Process, model: str, **body: Any) -> np.ndarray:
    answer = process.http.post("/v1/images/generations", json={"model": model, "prompt": "", **body})
    assert answer.status_code == 200, answer.text
    return np.stack([opened(one["b64_json"]) for one in answer.json()["data"]])


def opened(content: str) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(content))))


def picture(seed: int, size: tuple[int, int]) -> bytes:
    small = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(small).resize(size, Image.Resampling.BICUBIC).save(file, "png")
    return file.getvalue()


def data_url(content: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(content).decode()}"


@pytest.mark.slow
def test_no_process_of_the_service_holds_torch(bare: Process) -> None:
    painted(bare, "gan", label="cat")
    server = psutil.Process(bare.pid)
    for process in (server, *server.children()):
        assert "torch" not in Path(f"/proc/{process.pid}/maps").read_text()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "body"),
    [
        ("gan", {"label": "dog", "n": 5}),
        ("gan", {"label": "cat", "truncation": 0.5, "seed": 9}),
        ("flow", {"prompt": "a dog", "attributes": {"age": 4, "kind": "cap"}, "n": 3}),
        ("flow", {"prompt": "a cat", "size": "8x12", "sampler": "heun", "num_steps": 3}),
        ("flow", {"prompt": "a cat", "negative_prompt": "a dog", "guidance_scale": 3.0}),
    ],
)
def test_pictures_are_those_of_torch_within_one_level(
    bare: Process, folders: dict[str, Path], model: str, body: dict[str, Any]
) -> None:
    seeded = {"seed": 3, "n": 1, **body}
    found = painted(bare, model, **seeded)
    own = {**seeded, **({"precision": "float32"} if model == "flow" else {})}
    if "size" in body:
        own["size"] = tuple(map(int, body["size"].split("x")))
    expected = dq.load(folders[model]).sample(own.pop("n"), **own).array
    assert found.shape == expected.shape
    assert np.abs(found.astype(int) - expected).max() <= 1
    assert expected.std() > 5


@pytest.mark.slow
def test_fewer_bits_change_pictures_by_a_few_levels(bare: Process, folders: dict[str, Path]) -> None:
    found = painted(bare, "bf16", label="dog", n=5, seed=3)
    expected = dq.load(folders["gan"]).sample(5, seed=3, label="dog").array
    assert 1 <= np.abs(found.astype(int) - expected).max() <= 4


@pytest.mark.slow
def test_rows_that_request_nothing_draw_what_torch_draws(
    folders: dict[str, Path], export: Callable[[str], str]
) -> None:
    labels = [Row(0, seed, label, None, None, 0) for seed, label in enumerate(["dog", None, None, None])]
    texts = [Row(0, 5, None, "a cat", None, 0, {"age": 3}), Row(0, 6, None, None, "a dog", 0)]
    for name, rows in (("gan", labels), ("flow", texts)):
        theirs = conditions(dq.load(folders[name]), rows, draws=True)
        assert conditions(load(export(name)), rows, draws=True) == theirs
        assert theirs


@pytest.mark.slow
def test_streams_have_previews_of_exports(bare: Process) -> None:
    with openai.OpenAI(base_url=f"{bare.url}/v1", api_key="none", max_retries=0) as client:
        stream = client.images.generate(
            model="flow", prompt="a dog", stream=True, partial_images=2, extra_body={"seed": 4}
        )
        events = list(stream)
    assert [event.type.rpartition(".")[2] for event in events] == ["partial_image"] * 2 + ["completed"]
    shown = [opened(event.b64_json) for event in events]
    assert np.array_equal(shown[-1], painted(bare, "flow", prompt="a dog", seed=4)[0])
    assert not np.array_equal(shown[0], shown[1])


@pytest.mark.slow
def test_pictures_of_exports_are_marked_as_ours(bare: Process) -> None:
    answer = bare.http.post("/v1/images/generations", json={"model": "gan", "prompt": "cat"})
    content = base64.b64decode(answer.json()["data"][0]["b64_json"])
    told = bare.http.post("/v1/content_provenance_checks", files={"file": ("a.png", content)})
    assert told.json()["verdict"] == "ours"


@pytest.mark.slow
def test_models_say_what_computes_them_and_what_they_cannot(bare: Process, folders: dict[str, Path]) -> None:
    listed = {one["id"]: one for one in bare.http.get("/v1/models").json()["data"]}
    assert list(listed) == [*PAINTERS, *RECOGNIZERS, "bf16", "plain"]
    shown = {name: (one["runtime"], one["precision"]) for name, one in listed.items()}
    assert shown["gan"] == ("onnx", "float32")
    assert shown["bf16"] == ("openvino", "bf16")
    assert [name for name, one in listed.items() if not one["available"]] == ["plain"]
    for name, folder in folders.items():
        assert listed[name]["parameters"] == open_trained(folder).info()["parameters"], name
    assert listed["flow"]["partial_images"]
    assert listed["flow"]["prompt_tokens"] == 6
    body = {"model": "gan", "prompt": "", "images": [{"image_url": data_url(picture(0, (8, 6)))}]}
    answer = bare.http.post("/v1/images/edits", json=body)
    assert answer.status_code == 400
    assert answer.json()["error"]["message"] == ("gan cannot edit a picture: no model of this service can.")
    answer = bare.http.post("/v1/images/generations", json={"model": "plain", "prompt": "cat"})
    assert answer.status_code == 503
    assert bare.http.get("/readyz").json()["workers"] == {"ready": 1, "all": 1}
    assert values(bare.http.get("/metrics").text)["danqing_images_total", "gan"] > 0


@pytest.mark.slow
def test_recognizers_answer_as_in_torch(bare: Process, folders: dict[str, Path]) -> None:
    contents = [picture(number, (20 + number, 30)) for number in range(9)]
    inputs = [data_url(content) for content in contents]

    def ask(endpoint: str, model: str, **body: Any) -> list[dict[str, Any]]:
        answer = bare.http.post(f"/v1/{endpoint}", json={"model": model, "input": inputs, **body})
        assert answer.status_code == 200, answer.text
        found: list[dict[str, Any]] = answer.json()["data"]
        return found

    images = [np.asarray(Image.open(io.BytesIO(content))) for content in contents]
    for one, image in zip(ask("classifications", "kinds", top=3), images, strict=True):
        (expected,) = dq.predict(folders["kinds"], image[None], top=3)
        for label, own in zip(one["labels"], expected.labels, strict=True):
            assert label == {"label": own.name, "probability": pytest.approx(own.probability, abs=1e-4)}
    for one, image in zip(ask("detections", "boxes", threshold=0.001), images, strict=True):
        (expected,) = dq.predict(folders["boxes"], image[None], threshold=0.001)
        assert [each["label"] for each in one["objects"]] == [each.name for each in expected.objects]
        boxes = [each.box for each in expected.objects]
        np.testing.assert_allclose([each["box"] for each in one["objects"]], boxes, atol=0.05)
        assert boxes
    recognizer = dq.load_recognizer(folders["parts"])
    for scale in ("own", "model"):
        for one, image in zip(ask("segmentations", "parts", scale=scale), images, strict=True):
            assert np.array_equal(opened(one["b64_json"]), segment(recognizer, image, scale=scale))
            assert sum(one["shares"].values()) == pytest.approx(1, abs=1e-5)
    vectors = np.array([one["embedding"] for one in ask("embeddings", "kinds")])
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    (own_vector,) = dq.load_recognizer(folders["kinds"]).embed(images[0][None]).numpy()
    np.testing.assert_allclose(vectors[0], own_vector / np.linalg.norm(own_vector), atol=1e-4)
    broken = {"model": "kinds", "input": data_url(contents[0][:90])}
    assert bare.http.post("/v1/classifications", json=broken).status_code == 400


@pytest.mark.slow
def test_exports_judge_for_filters_and_segment_in_tiles(
    folders: dict[str, Path], export: Callable[[str], str]
) -> None:
    looked = list[int]()
    image = np.random.default_rng(0).integers(0, 256, (43, 66, 3), dtype=np.uint8)
    query = [Query(pack_pixels(image)), Query(pack_pixels(image[::-1]))]
    kinds = load_recognizer(export("kinds"))
    found = runtime_recognition.recognize(kinds, "judge", query, {"classes": ["A", "c"]}, lambda: None)
    scores = ClassScorer(dq.load_recognizer(folders["kinds"]), ["a", "c"])(np.stack([image, image[::-1]]))
    np.testing.assert_allclose([one.values["score"] for one in found], scores, atol=1e-5)
    with pytest.raises(ConfigError, match="no class 'd'"):
        runtime_recognition.recognize(kinds, "judge", query, {"classes": ["d"]}, lambda: None)
    file = io.BytesIO()
    Image.fromarray(image).save(file, "png")
    parts, own = load_recognizer(export("parts")), dq.load_recognizer(folders["parts"])
    for scale in ("own", "model"):
        mask = mask_of(parts, file.getvalue(), scale=scale, tile=16, look=lambda: looked.append(1))
        assert np.array_equal(mask, segment(own, image, scale=scale, tile=16))
        assert len(np.unique(mask)) > 1
    assert len(looked) > 12


@pytest.mark.slow
def test_jobs_of_exports_run(bare: Process) -> None:
    body = {"endpoint": "generations", "body": {"model": "gan", "prompt": "cat", "seed": 5, "n": 2}}
    job = bare.http.post("/v1/jobs", json=body).json()
    while job["status"] in ("queued", "running"):
        time.sleep(0.02)
        job = bare.http.get(f"/v1/jobs/{job['id']}").json()
    assert job["status"] == "succeeded"
    content = bare.http.get(f"/v1/jobs/{job['id']}/images/0").content
    expected = painted(bare, "gan", prompt="cat", seed=5)[0]
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(content))), expected)


@pytest.mark.slow
def test_a_worker_that_is_killed_comes_back_without_torch(bare: Process) -> None:
    before = painted(bare, "gan", prompt="cat", seed=5)
    (worker,) = psutil.Process(bare.pid).children()
    worker.kill()
    assert np.array_equal(painted(bare, "gan", prompt="cat", seed=5), before)
    (again,) = psutil.Process(bare.pid).children()
    assert again.pid != worker.pid


@pytest.mark.slow
def test_a_painting_that_nobody_waits_for_is_stopped(export: Callable[[str], str], no_torch: None) -> None:
    speaks = Spoken({"flow": export("flow")})
    try:
        told: dict[str, Any] = {"options": {"num_steps": 200}}
        speaks.ask(1, "flow", [row(7) for _ in range(320)], **told)
        speaks.ask(2, "flow", [row(8)], **told)
        speaks.until("step")
        os.kill(speaks.process.pid, signal.SIGSTOP)
        speaks.link.send({"kind": "cancel", "orders": [7]})
        os.kill(speaks.process.pid, signal.SIGCONT)
        said = [header["kind"] for header, _ in speaks.until("painted")]
    finally:
        speaks.process.kill()
        speaks.process.wait()
    assert said.count("stopped") > 5


def test_a_model_that_is_no_export_needs_torch(
    folders: dict[str, Path], export: Callable[[str], str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    named = {"plain": str(folders["gan"]), "gan": export("gan")}
    monkeypatch.setitem(sys.modules, "torch", None)
    chosen = Settings(models=named, data=tmp_path, engine={"runtime": "openvino"})
    catalogue = Catalogue(chosen.all_models)
    asyncio.run(model_sources.prepare(chosen, catalogue))
    assert catalogue.offers["plain"].fault == (
        f"{folders['gan']} is not an export, and PyTorch is not installed here: run danqing export "
        f"{folders['gan']} --to openvino --out plain-openvino where it is, and serve that folder."
    )
    assert catalogue.sources_of(named) == {"gan": export("gan")}
    signed = Settings(models=named, data=tmp_path, require_signature=[tmp_path / "release.pub"])
    catalogue = Catalogue(signed.all_models)
    asyncio.run(model_sources.prepare(signed, catalogue))
    assert "an export has no signature" in str(catalogue.offers["gan"].fault)


def test_a_model_is_exported_once_until_it_changes(
    folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Begun(Exception):  # noqa: N818 - not an error
        pass

    def begin() -> None:
        raise Begun

    def ask(source: Path | str, on_begin: Callable[[], None] = begin) -> Path:
        return exported(str(source), tmp_path / "exports", "onnx", Access(), on_begin)

    folder = ask(folders["gan"], lambda: None)
    assert ask(folders["gan"]) == folder
    other = dq.load(folders["gan"]).save(
        tmp_path / "other", Images(np.zeros((1, 4, 4, 3), np.uint8)), half=True
    )
    with pytest.raises(Begun):
        ask(other)
    with (folder / "generate.onnx").open("ab") as file:
        file.write(b"0")
    with pytest.raises(Begun):
        ask(folders["gan"])
    monkeypatch.setenv("DANQING_SEAL_PASSPHRASE_FILE", str(tmp_path / "words"))
    (tmp_path / "words").write_text("a long passphrase")
    sealed = dq.seal(folders["gan"], tmp_path / "gan.sealed", passphrase="a long passphrase")
    with pytest.raises(ModelError, match="store it unencrypted"):
        ask(sealed)


@pytest.mark.slow
def test_a_service_exports_its_models_when_it_starts(folders: dict[str, Path], tmp_path: Path) -> None:
    pairs = {**tiny.FLOW, "guide": False, "pairs": True, "source_channels": 3}
    tiny.model_of(pairs).save(tmp_path / "pairs")
    named = {"gan": str(folders["gan"]), "pairs": str(tmp_path / "pairs")}
    with served(named, tmp_path / "data", engine={"runtime": "onnx", "threads": 1}) as running:
        listed = {one["id"]: one for one in httpx.get(f"{running.url}/v1/models").json()["data"]}
        body = {"model": "gan", "prompt": "cat", "seed": 3}
        answer = httpx.post(f"{running.url}/v1/images/generations", json=body, timeout=60)
        fault = running.service.scheduler.offers["pairs"].fault
    assert (listed["gan"]["runtime"], listed["gan"]["available"]) == ("onnx", True)
    assert "turns images into others" in str(fault)
    expected = dq.load(folders["gan"]).sample(1, seed=3, label="cat").array[0]
    assert np.abs(opened(answer.json()["data"][0]["b64_json"]).astype(int) - expected).max() <= 1


def test_settings_that_contradict_a_runtime_are_rejected(export: Callable[[str], str]) -> None:
    values = {"models": {"gan": export("gan")}}
    for engine in ({"device": "cuda"}, {"devices": ["cpu:0", "cuda:1"]}):
        with pytest.raises(ConfigError, match="runtime = onnx computes on processors"):
            settings.checked({**values, "engine": {"runtime": "onnx", **engine}})
    (place,) = placement.places(settings.checked({**values, "engine": {"runtime": "onnx"}}))
    assert place.device == "cpu"
    assert "its worker has the device cuda" in str(
        RuntimeLibrary("cuda", 0, "none").describe("gan", export("gan")).fault
    )


def test_the_runtime_comes_from_the_command_line_the_environment_and_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = commands.command(["serve"]).commands["serve"]
    assert command.make_context("serve", ["model", "--runtime", "openvino"]).params["runtime"] == "openvino"
    monkeypatch.setenv("DANQING_RUNTIME", "onnx")
    assert command.make_context("serve", ["model"]).params["runtime"] == "onnx"
    (tmp_path / "service.toml").write_text('models = {a = "a"}\nengine = {runtime = "onnx", queue = 7}\n')
    engine = serve.read_settings(tmp_path / "service.toml", engine={"runtime": "openvino"}).engine
    assert (engine.runtime, engine.queue) == ("openvino", 7)
    assert Settings(models={"a": "a"}).engine.runtime == "torch"


def test_marks_in_codes_need_the_model_itself(export: Callable[[str], str]) -> None:
    chosen = MarkSettings.of("eu,codes=on")
    assert RuntimeLibrary("cpu", 0, str(chosen)).describe("gan", export("gan")).fault is None
    manifest = load(export("gan")).manifest
    codes = Codes(
        **{"kind": "raster", "shape": (4, 4, 1), "vocabulary": 8, "are_pixels": True},
        **{"has_condition": False, "has_dropout": False},
    )
    with pytest.raises(ConfigError, match="leave codes=on out"):
        check_marks(manifest.model_copy(update={"loop": codes}), chosen)
