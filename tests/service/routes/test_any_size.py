"""Edits at the size of the picture: what a command would give, in the form of the file that was sent."""

import base64
import io
from collections.abc import Iterator
from typing import Any

import httpx
import numpy as np
import openai
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

import danqing as dq
from danqing.editing import files
from danqing.editing.enhance import enhance
from danqing.editing.fill import fill
from danqing.editing.stylize import stylize
from danqing.editing.translate import translate
from danqing.editing.upscale import upscale
from danqing.editing.vary import vary
from tests.service.editors import EDITORS, encoded, noise, save_editor, save_labelled_flow, save_style
from tests.service.serving import Running, served


@pytest.fixture(scope="module")
def folders(models: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    chosen = {name: models[name] for name in ("masked", "vae")}
    styles = {"ink": save_style(tmp_path_factory.mktemp("ink"))}
    flows = {"pets": save_labelled_flow(tmp_path_factory.mktemp("pets"))}
    editors = {task: save_editor(task, tmp_path_factory.mktemp(task)) for task in EDITORS}
    return {**chosen, **styles, **flows, **editors}


@pytest.fixture(scope="module")
def running(folders: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    limits = {"pixels": 20_000, "side": 400}
    with served(folders, tmp_path_factory.mktemp("data"), limits=limits) as running:
        yield running


@pytest.fixture(scope="module")
def client(running: Running) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{running.url}/v1", api_key="none", max_retries=0) as client:
        yield client


def masked(where: np.ndarray) -> bytes:
    sheet = np.full((*where.shape, 4), 255, np.uint8)
    sheet[where, 3] = 0
    return encoded(sheet)


def files_of(answer: Any) -> list[bytes]:
    return [base64.b64decode(one.b64_json) for one in answer.data]


def pixels_of(answer: Any) -> np.ndarray:
    return np.stack([np.asarray(Image.open(io.BytesIO(file))) for file in files_of(answer)])


def sent(client: openai.OpenAI, model: str, image: bytes, **more: Any) -> Any:
    """The answer to an edit; fields that the client does not know are sent as they are."""
    known = {name: more.pop(name) for name in ("mask", "n", "input_fidelity") if name in more}
    return client.images.edit(model=model, image=image, prompt="", **known, extra_body=more)


def test_a_fill_of_high_fidelity_is_that_of_the_command(
    client: openai.OpenAI, folders: dict[str, str]
) -> None:
    picture, where = noise(31, 45, 3), np.zeros((31, 45), bool)
    where[4:9, 3:40] = where[20:30, 35:44] = True
    model = dq.load(folders["masked"])
    fine = sent(
        client,
        "masked",
        encoded(picture),
        mask=masked(where),
        n=2,
        input_fidelity="high",
        seed=5,
        label="star",
    )
    expected = fill(model, np.stack([picture, picture]), mask=where, label="star", seed=5)
    assert np.array_equal(pixels_of(fine), expected)
    assert fine.size == "45x31"
    whole = np.ones((31, 45), bool)  # no window shows all of it
    far = pixels_of(sent(client, "masked", encoded(picture), mask=masked(whole), seed=5, label="star"))[0]
    assert np.array_equal(far, fill(model, picture[None], mask=whole, label="star", seed=5)[0])


@pytest.mark.parametrize(
    ("kind", "channels", "deep"),
    [("PNG", 1, True), ("PNG", 4, False), ("WEBP", 3, False), ("JPEG", 3, False)],
)
def test_a_file_comes_back_as_it_was_sent_with_new_pixels_in_the_mask(
    client: openai.OpenAI, kind: str, channels: int, deep: bool
) -> None:
    picture, where = noise(24, 37, channels, deep=deep), np.zeros((24, 37), bool)
    where[3:20, 5:30] = True
    text = PngInfo()
    text.add_text("Title", "A garden")
    camera = Image.Exif()
    camera[271] = "A camera"
    options: dict[str, Any] = {
        "PNG": {"pnginfo": text, "dpi": (300, 300)},
        "WEBP": {"lossless": True, "exact": True, "exif": camera},
        "JPEG": {"quality": 61, "dpi": (300, 300)},
    }[kind]
    file = encoded(picture, kind, **options)
    answer = sent(
        client, "masked", file, mask=masked(where), label="star", output_format="input", size="input"
    )
    (back,) = files_of(answer)
    (before, style), (after, kept) = files.read(file), files.read(back)
    assert (answer.output_format, answer.size) == (kind.lower(), "37x24")
    assert after.dtype == before.dtype == (np.uint16 if deep else np.uint8)
    assert (kept.density, kept.exif, kept.parts) == (style.density, style.exif, style.parts)
    if kind == "JPEG":
        tables = [getattr(Image.open(io.BytesIO(one)), "quantization", None) for one in (back, file)]
        assert tables[0] == tables[1] is not None
    else:
        assert np.array_equal(after[~where], before[~where])
        assert (after[where] != before[where]).mean() > 0.5


def test_expansion_and_soft_edges_are_those_of_the_command(
    client: openai.OpenAI, running: Running, folders: dict[str, str]
) -> None:
    picture, where = noise(24, 30, 3), np.zeros((24, 30), bool)
    where[6:18, 8:25] = True
    model, asked = dq.load(folders["masked"]), {"label": "star", "seed": 5}
    answer = sent(
        client, "masked", encoded(picture), mask=masked(where), expand="3,0,9,2", feather=4, **asked
    )
    expected = fill(model, picture[None], mask=where, expand=(3, 0, 9, 2), feather=4, **asked)  # type: ignore[arg-type]
    assert answer.size == "42x26"
    assert np.array_equal(pixels_of(answer), expected)
    assert np.array_equal(expected[0, :24, 3:33][~where], picture[~where])
    wider = sent(client, "masked", encoded(picture), expand="0,0,10,0", output_format="input", **asked)
    expected = fill(model, picture[None], expand=(0, 0, 10, 0), **asked)  # type: ignore[arg-type]
    assert np.array_equal(pixels_of(wider), expected)
    larger = sent(client, "masked", encoded(picture), mask=masked(where), grow=3, expand="0,0,9,0", **asked)
    expected = fill(model, picture[None], mask=where, grow=3, expand=(0, 0, 9, 0), **asked)  # type: ignore[arg-type]
    assert np.array_equal(pixels_of(larger), expected)
    assert not np.array_equal(expected[0, :, :30][~where], picture[~where])
    for model_name, fields, code in (
        ("masked", {**asked, "expand": "400,0,0,0"}, "expand"),
        ("masked", {**asked, "grow": 1001}, "grow"),
        ("upscale", {"grow": 3}, "grow"),
        ("masked", {**asked, "expand": "1,2,3"}, "expand"),
        ("masked", {**asked, "expand": "1,0,0,0", "size": "input"}, "size"),
        ("masked", {**asked, "feather": 1001}, "feather"),
        ("upscale", {"feather": 3}, "feather"),
        ("upscale", {"expand": "3,0,0,0"}, "expand"),
    ):
        with pytest.raises(openai.BadRequestError) as error:
            sent(client, model_name, encoded(picture), **fields)
        assert (error.value.param or "").split(".")[0] == code


def test_a_variation_has_the_size_and_the_format_of_its_picture(
    client: openai.OpenAI, folders: dict[str, str]
) -> None:
    picture = noise(20, 31, 3)
    ask = {"model": "vae", "extra_body": {"seed": 9, "label": "star", "strength": 0.4}}
    answer = client.images.create_variation(image=encoded(picture), n=2, size="input", **ask)  # type: ignore[arg-type]
    expected = vary(folders["vae"], np.stack([picture] * 2), strength=0.4, label="star", seed=9)
    assert np.array_equal(pixels_of(answer), expected)
    ask["extra_body"] |= {"strength": 0, "output_format": "input"}
    photo = encoded(picture, "JPEG", quality=40)
    assert files_of(client.images.create_variation(image=photo, **ask)) == [photo]  # type: ignore[arg-type]


def test_trained_editors_edit_pictures_of_any_size(client: openai.OpenAI, folders: dict[str, str]) -> None:
    picture = noise(19, 30, 3)
    larger = sent(client, "upscale", encoded(picture), task="upscale")
    assert (larger.size, larger.background) == ("60x38", "opaque")
    assert np.array_equal(pixels_of(larger)[0], upscale(folders["upscale"], picture[None])[0])
    smaller = sent(client, "upscale", encoded(picture), size="input")
    assert pixels_of(smaller).shape == (1, 19, 30, 3)
    restored = pixels_of(sent(client, "enhance", encoded(picture)))
    assert np.array_equal(restored[0], enhance(folders["enhance"], picture[None])[0])
    half = pixels_of(sent(client, "enhance", encoded(picture), task="enhance", strength=0.5))
    assert np.array_equal(half[0], enhance(folders["enhance"], picture[None], strength=0.5)[0])
    photo = encoded(picture, "JPEG", quality=40)
    assert files_of(sent(client, "enhance", photo, strength=0, output_format="input")) == [photo]
    whole = pixels_of(sent(client, "translate", encoded(picture)))
    assert np.array_equal(whole[0], translate(folders["translate"], picture[None])[0])
    fine = pixels_of(sent(client, "translate", encoded(picture), input_fidelity="high"))
    assert fine.shape == whole.shape
    assert not np.array_equal(fine, whole)
    deep = encoded(noise(12, 9, 1, deep=True))
    (file,) = files_of(sent(client, "enhance", deep, output_format="input"))
    assert files.read(file)[0].dtype == np.uint16


def test_a_trained_style_is_that_of_the_command(client: openai.OpenAI, folders: dict[str, str]) -> None:
    picture = noise(40, 52, 3)
    asked = {"task": "stylize", "strength": 0.7, "keep_colors": True}
    made = pixels_of(sent(client, "ink", encoded(picture), **asked))
    assert np.array_equal(made[0], stylize(folders["ink"], picture, strength=0.7, keep_colors=True))
    photo = encoded(picture, "JPEG", quality=40)
    assert files_of(sent(client, "ink", photo, strength=0, output_format="input")) == [photo]


def test_labels_are_exchanged_as_by_the_command(client: openai.OpenAI, folders: dict[str, str]) -> None:
    picture = noise(12, 21, 3)
    made = sent(client, "pets", encoded(picture), source_label="cat", label="dog", seed=3)
    expected = translate(folders["pets"], picture[None], source_label="cat", label="dog", seed=3)
    assert np.array_equal(pixels_of(made)[0], expected[0])
    for asked, param in (
        ({"task": "translate", "label": "dog"}, "source_label"),
        ({"source_label": "cow", "label": "dog"}, "source_label"),
    ):
        with pytest.raises(openai.BadRequestError) as error:
            client.images.edit(model="pets", image=encoded(picture), prompt="dog", extra_body=asked)
        assert error.value.body["param"] == param  # type: ignore[index]
    with pytest.raises(openai.BadRequestError, match="does not turn one label into another"):
        sent(client, "enhance", encoded(picture), source_label="cat")


def test_models_say_what_they_do_to_pictures_and_what_they_do_not(running: Running) -> None:
    listed = {one["id"]: one for one in httpx.get(f"{running.url}/v1/models").json()["data"]}
    assert listed["upscale"]["endpoints"] == ["edits"]
    assert [listed[name]["tasks"] for name in ("upscale", "masked")] == [["upscale"], ["fill"]]
    assert set(listed["masked"]["endpoints"]) == {"generations", "edits", "variations"}
    picture, mask = encoded(noise(9, 9, 3)), masked(np.ones((9, 9), bool))
    for path, data, given, param, words in (
        ("generations", {"model": "enhance", "prompt": ""}, {}, "model", "to generate, use masked"),
        (
            "edits",
            {"model": "masked", "prompt": "star", "task": "upscale"},
            {"mask": mask},
            "model",
            "use upscale",
        ),
        ("edits", {"model": "enhance", "prompt": ""}, {"mask": mask}, "mask", "takes no mask"),
        ("edits", {"model": "upscale", "prompt": "", "strength": "0.5"}, {}, "strength", "strength"),
        (
            "edits",
            {"model": "upscale", "prompt": "", "output_format": "input", "size": "9x9"},
            {},
            "size",
            "18x18",
        ),
        ("edits", {"model": "upscale", "prompt": "", "n": "10", "size": "input"}, {}, None, ""),
        ("variations", {"model": "enhance"}, {}, "model", "use masked"),
    ):
        url = f"{running.url}/v1/images/{path}"
        if path == "generations":
            answer = httpx.post(url, json=data)
        else:
            answer = httpx.post(url, data=data, files={"image": picture, **given}, timeout=60)
        if param is None:
            assert answer.status_code == 200, answer.text
            continue
        error = answer.json()["error"]
        assert (answer.status_code, error["param"]) == (400, param), error
        assert words in error["message"]
    large = {"image": encoded(noise(90, 90, 3))}
    error = httpx.post(
        f"{running.url}/v1/images/edits", data={"model": "upscale", "prompt": ""}, files=large
    ).json()
    assert "180x180" in error["error"]["message"]
    body = {"model": "masked", "prompt": "star", "output_format": "input"}
    answer = httpx.post(f"{running.url}/v1/images/generations", json=body)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "output_format")
