"""Edits and variations through the official client: only what may change does, what cannot be is named."""

import base64
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import openai
import pytest
from numpy.typing import NDArray
from PIL import Image

import danqing as dq
from danqing.images import Images
from tests.service.serving import Running, served

Pixels = NDArray[np.uint8]
SIDE = 8


@pytest.fixture(scope="module")
def running(models: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    chosen = {name: models[name] for name in ("masked", "raster", "text", "vae", "vqvae")}
    limits = {"pixels": 300_000, "side": 1000, "file_bytes": 200_000}
    with served(chosen, tmp_path_factory.mktemp("data"), limits=limits) as running:
        yield running


@pytest.fixture(scope="module")
def client(running: Running) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{running.url}/v1", api_key="none", max_retries=0) as client:
        yield client


def noise(height: int = SIDE, width: int = SIDE, channels: int = 3, seed: int = 0) -> Pixels:
    return np.random.default_rng(seed).integers(0, 256, (height, width, channels), dtype=np.uint8)


def encoded(pixels: Pixels, format: str = "PNG", **options: Any) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels.squeeze()).save(file, format, **options)
    return file.getvalue()


def hole(height: int = SIDE, width: int = SIDE, box: tuple[int, int, int, int] = (2, 3, 6, 7)) -> Pixels:
    """A mask as editors write it: transparent between the rows and columns of `box`."""
    mask = np.full((height, width, 4), 255, np.uint8)
    mask[box[0] : box[1] + 1, box[2] : box[3] + 1, 3] = 0
    return mask


def decoded(answer: Any) -> list[Pixels]:
    pictures = [one.b64_json for one in answer.data]
    return [np.asarray(Image.open(io.BytesIO(base64.b64decode(one)))) for one in pictures]


def data_url(content: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(content).decode()


def refused(running: Running, path: str = "edits", **request: Any) -> tuple[int, str | None, str]:
    """Status, field and message of an answer, which has the documented shape."""
    answer = httpx.post(f"{running.url}/v1/images/{path}", timeout=60, **request)
    error = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["message"].strip()
    return answer.status_code, error["param"], error["message"]


@pytest.mark.parametrize("name", ["masked", "raster"])
def test_an_edit_is_what_the_python_api_fills(
    client: openai.OpenAI, models: dict[str, str], name: str
) -> None:
    picture, mask = noise(), hole()
    answer = client.images.edit(
        model=name, image=encoded(picture), mask=encoded(mask), prompt="Star", n=3, extra_body={"seed": 5}
    )
    where = mask[:, :, 3] == 0
    several = Images(np.repeat(picture[None], 3, axis=0))
    expected = dq.load(models[name]).fill(several, where, label="star", seed=5).array
    assert np.array_equal(np.stack(decoded(answer)), expected)
    assert np.array_equal(expected[0][~where], picture[~where])
    assert not np.array_equal(expected[0], expected[1])
    assert answer.usage is not None
    assert answer.usage.input_tokens_details.image_tokens == 16


def test_pixels_outside_of_the_mask_stay_at_the_size_of_the_picture(client: openai.OpenAI) -> None:
    for shape, box in (
        ((61, 61, 3), (20, 31, 5, 60)),
        ((50, 120, 3), (8, 40, 90, 118)),
        ((5, 5, 1), (0, 1, 2, 4)),
    ):
        picture = noise(*shape)
        mask = hole(*shape[:2], box=box)
        answer = client.images.edit(
            model="masked", image=encoded(picture), mask=encoded(mask), prompt="circle", n=2
        )
        for painted in decoded(answer):
            assert painted.shape == (*shape[:2], 3)
            outside = mask[:, :, 3] > 0
            assert np.array_equal(painted[outside], np.broadcast_to(picture, painted.shape)[outside])
            inside = np.broadcast_to(picture, painted.shape)[~outside]
            assert (painted[~outside] != inside).mean() > 0.5
        assert (answer.size, answer.background) == (f"{shape[1]}x{shape[0]}", "opaque")


def test_without_a_mask_the_transparent_part_is_painted_and_the_rest_keeps_its_alpha(
    client: openai.OpenAI,
) -> None:
    picture = noise(40, 40, 4)
    picture[:, :, 3] = np.maximum(picture[:, :, 3], 1)
    picture[10:20, 10:30, 3] = 0
    (painted,) = decoded(client.images.edit(model="masked", image=encoded(picture), prompt="star"))
    outside = picture[:, :, 3] > 0
    assert np.array_equal(painted[outside], picture[outside])
    assert (painted[~outside][:, 3] == 255).all()
    picture[outside, 3] = 255
    (painted,) = decoded(client.images.edit(model="masked", image=encoded(picture), prompt="star"))
    assert painted.shape == (40, 40, 3)  # nothing is transparent any more


def test_what_is_hidden_under_the_transparent_part_does_not_matter(client: openai.OpenAI) -> None:
    answers = []
    for colour in (0, 255):
        picture = np.full((SIDE, SIDE, 4), 120, np.uint8)
        picture[:, :, 3] = 255
        picture[2:5, 2:5] = (colour, colour, colour, 0)
        answer = client.images.edit(
            model="masked", image=encoded(picture), prompt="star", extra_body={"seed": 1}
        )
        answers.append(decoded(answer)[0])
    assert np.array_equal(*answers)


def test_a_form_and_json_ask_for_the_same(running: Running) -> None:
    picture, mask = encoded(noise()), encoded(hole())
    url = f"{running.url}/v1/images/edits"
    words = {"model": "masked", "prompt": "star", "seed": 3, "temperature": 0.5, "n": 2}
    files = {"mask": ("m.png", mask, "image/png")}
    answers = [
        httpx.post(url, data=words, files={**files, "image": picture}),
        httpx.post(url, data=words, files={**files, "image[]": ("../../x.svg", picture, "text/html")}),
        httpx.post(
            url,
            json={
                **words,
                "images": [{"image_url": data_url(picture)}],
                "mask": {"image_url": data_url(mask)},
            },
        ),
    ]
    assert [answer.status_code for answer in answers] == [200] * 3, answers[0].text
    first, *others = [answer.json()["data"] for answer in answers]
    assert all(other == first for other in others)


def test_edits_stream_intermediate_pictures_with_everything_else_in_place(client: openai.OpenAI) -> None:
    picture, mask = noise(30, 30), hole(30, 30, box=(5, 20, 5, 20))
    with client.images.edit(
        model="raster",
        image=encoded(picture),
        mask=encoded(mask),
        prompt="star",
        stream=True,
        partial_images=2,
    ) as stream:
        events = list(stream)
    kinds = [event.type for event in events]
    assert kinds[-1] == "image_edit.completed"
    assert set(kinds[:-1]) <= {"image_edit.partial_image"}
    outside = mask[:, :, 3] > 0
    for event in events:
        painted = np.asarray(Image.open(io.BytesIO(base64.b64decode(event.b64_json))))
        assert np.array_equal(painted[outside], picture[outside])


@pytest.mark.parametrize("name", ["vae", "masked", "raster"])
def test_variations_are_what_the_python_api_varies(
    client: openai.OpenAI, models: dict[str, str], name: str
) -> None:
    model = dq.load(models[name])
    picture = noise(channels=model.family.config.channels)
    for extra, strength in (({}, 0.5), ({"strength": 0.0}, 0.0), ({"strength": 1}, 1.0)):
        answer = client.images.create_variation(
            model=name, image=encoded(picture), n=2, extra_body={"seed": 9, "label": "star", **extra}
        )
        several = Images(np.repeat(picture[None], 2, axis=0))
        expected = model.vary(several, strength=strength, label="star", seed=9).array
        assert np.array_equal(np.stack(decoded(answer)), expected)
    assert np.array_equal(expected, model.sample(2, label="star", seed=9).array)


def test_variations_of_any_picture_have_the_size_of_the_model_or_what_is_asked(client: openai.OpenAI) -> None:
    for content, size, shape in (
        (encoded(noise(20, 31, 4)), "auto", (8, 8)),
        (encoded(noise(1, 1)), "24x24", (24, 24)),
        (encoded(noise(90, 40), "JPEG"), "512x512", (512, 512)),
        (encoded(noise(9, 9, 1), "WEBP"), "8x8", (8, 8)),
    ):
        answer = client.images.create_variation(
            model="masked", image=content, size=size, extra_body={"label": "star"}
        )
        assert decoded(answer)[0].shape[:2] == shape


def test_whoever_cannot_is_refused_with_the_list_of_those_that_can(running: Running) -> None:
    files = {"image": encoded(noise()), "mask": encoded(hole())}
    status, param, message = refused(running, data={"model": "vqvae", "prompt": ""}, files=files)
    assert (status, param) == (400, "model")
    assert all(name in message for name in ("masked", "raster", "text", "vae"))
    status, param, message = refused(
        running, "variations", data={"model": "vqvae"}, files={"image": files["image"]}
    )
    assert (status, param) == (400, "model")
    assert "vae" in message


def test_wrong_pictures_are_refused_by_the_name_of_the_field(running: Running) -> None:
    good, mask = encoded(noise()), encoded(hole())
    frames = [Image.fromarray(noise(seed=seed)) for seed in (1, 2)]
    moving = io.BytesIO()
    frames[0].save(moving, "WEBP", save_all=True, append_images=frames[1:], lossless=True)
    drawing = b'<svg xmlns="http://www.w3.org/2000/svg"><script>alert(1)</script></svg>'
    for files, field, words in (
        ({"mask": mask}, "image", "is missing"),
        ({"image": good}, "mask", "transparent where"),
        ({"image": good, "mask": good}, "mask", "no alpha channel"),
        ({"image": good, "mask": encoded(hole(9, 8))}, "mask", "8x9 pixels and the picture 8x8"),
        ({"image": good, "mask": encoded(np.full((8, 8, 4), 255, np.uint8))}, "mask", "No pixel is"),
        ({"image": b"", "mask": mask}, "image", "empty"),
        ({"image": drawing, "mask": mask}, "image", "not a png, jpeg or webp"),
        ({"image": encoded(noise(), "GIF"), "mask": mask}, "image", "not a png"),
        ({"image": encoded(noise(), "BMP"), "mask": mask}, "image", "not a png"),
        ({"image": good[:60], "mask": mask}, "image", "is truncated"),
        ({"image": good[:-30], "mask": mask}, "image", "is truncated"),
        ({"image": moving.getvalue(), "mask": mask}, "image", "2 frames"),
        ({"image": encoded(noise(600, 600)[:, :, :1]), "mask": mask}, "image", "over 200,000 bytes"),
        ({"image": encoded(np.zeros((600, 600), np.uint8)), "mask": mask}, "image", "600x600"),
        ({"image": encoded(np.zeros((1001, 1), np.uint8)), "mask": mask}, "image", "1x1001"),
        ({"image": encoded(noise(8, 100)), "mask": encoded(hole(8, 100, (0, 7, 0, 99)))}, "mask", "8x8"),
        ({"image": good, "mask": mask, "prompt": b"x"}, "prompt", "image and mask"),
    ):
        told = refused(running, data={"model": "masked", "prompt": "star"}, files=files)
        assert told[:2] == (400, field), (words, told)
        assert words in told[2], told
    several = [("image[]", good), ("image[]", good), ("mask", mask)]
    told = refused(running, data={"model": "masked", "prompt": "star"}, files=several)
    assert told[:2] == (400, "image")
    status, param, _ = refused(
        running, data={"model": "masked", "prompt": "star", "n": 4}, files={"image": encoded(hole(500, 600))}
    )
    assert (status, param) == (400, "n")  # this many of this size would be too many pixels
    status, param, _ = refused(running, "variations", data={"model": "vae"}, files={"image": good})
    assert (status, param) == (400, "label")


def test_wrong_references_are_refused_by_the_name_of_the_field(running: Running) -> None:
    good = data_url(encoded(noise()))
    for reference, field, words in (
        ({}, "images.0.image_url", "image_url is missing"),
        ({"file_id": "file-1"}, "images.0.file_id", "stores no files"),
        ({"image_url": "https://example.org/a.png"}, "images.0.image_url", "does not fetch pictures"),
        ({"image_url": "file:///etc/passwd"}, "images.0.image_url", "does not fetch pictures"),
        ({"image_url": "data:image/png,abc"}, "images.0.image_url", "base64"),
        ({"image_url": "data:image/png;base64,@@@@"}, "images.0.image_url", "valid base64"),
        ({"image_url": good, "detail": "high"}, "images.0.detail", "no field"),
    ):
        body = {"model": "masked", "prompt": "star", "images": [reference], "mask": {"image_url": good}}
        status, param, message = refused(running, json=body)
        assert (status, param) == (400, field), message
        assert words in message
    body = {"model": "masked", "prompt": "star", "images": [], "mask": {"image_url": good}}
    assert refused(running, json=body)[:2] == (400, "images")


def test_negative_prompts_need_guidance_and_a_model_that_reads_text(
    running: Running, models: dict[str, str]
) -> None:
    url, model = f"{running.url}/v1/images/generations", dq.load(models["text"])
    words = {"model": "text", "prompt": "a red square", "seed": 4, "guidance_scale": 4.0}
    away = httpx.post(url, json={**words, "negative_prompt": "a blue circle"}).json()
    expected = model.sample(
        1, prompt="a red square", negative_prompt="a blue circle", seed=4, guidance_scale=4.0
    )
    painted = np.asarray(Image.open(io.BytesIO(base64.b64decode(away["data"][0]["b64_json"]))))
    assert np.array_equal(painted, expected.array[0])
    for name, further in (("text", {"guidance_scale": 1.0}), ("masked", {"prompt": "star"})):
        answer = httpx.post(url, json={**words, "model": name, "negative_prompt": "a dog", **further})
        assert answer.status_code == 400
        assert answer.json()["error"]["param"] == "negative_prompt"


def test_a_card_that_refuses_other_sizes_is_obeyed(models: dict[str, str], tmp_path: Path) -> None:
    model = dq.load(models["gan"])
    model.facts["other_sizes"] = "refused"
    folder = model.save(tmp_path / "gan", model.sample(1))
    assert "Other sizes: refused" in (folder / "README.md").read_text()
    assert json.loads((folder / "config.json").read_text())["trained"]["other_sizes"] == "refused"
    with served({"gan": str(folder)}, tmp_path / "data") as running:
        for size, status in (("16x16", 400), ("8x8", 200)):
            answer = httpx.post(f"{running.url}/v1/images/generations", json={"prompt": "", "size": size})
            assert answer.status_code == status
            if status == 400:
                assert "8x8" in answer.json()["error"]["message"]
