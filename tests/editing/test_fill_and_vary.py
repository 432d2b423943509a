"""Filling changes no byte outside of the mask, at any size and depth; variations keep what is asked."""

from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import danqing as dq
from danqing.editing.contract import Edit, ImageToEdit
from danqing.editing.fill import Fill
from danqing.editing.masks import Masks
from danqing.editing.vary import Vary
from danqing.editing.window_model import Request, WindowModel
from danqing.editing.windows import Window
from danqing.errors import ConfigError
from danqing.families import build, parse_config
from danqing.families.mask_shapes import draw_masks
from danqing.images import Images
from danqing.model.model import Model
from tests.editing.random_family import random_pixels


def pixels(rng: np.random.Generator, *shape: int, dtype: type = np.uint8) -> np.ndarray:
    return rng.integers(0, np.iinfo(dtype).max + 1, shape).astype(dtype)


def filling(model: Model, masks: Masks, **settings: Any) -> Fill:
    return Fill(WindowModel(model, "fill", Request(), {}), masks, **settings)


def varying(model: Model, strength: float, **settings: Any) -> Vary:
    return Vary(WindowModel(model, "vary", Request(), {}), strength, **settings)


def edited_pixels(case: int, dtype: type) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """One random edit; returns the image, its mask and the result."""
    rng = np.random.default_rng(case)
    height, width = (int(side) for side in rng.integers(4, 50, 2))
    values = pixels(rng, height, width, int(rng.integers(1, 5)), dtype=dtype)
    where = draw_masks(1, height, width, torch.Generator().manual_seed(case))[0, 0].numpy() > 0
    model = random_pixels(int(rng.integers(4, 13)), int(rng.integers(4, 13)), int(rng.integers(1, 5)))
    masks = Masks(where, feather=case % 4, grow=0)
    edit = filling(model, masks, tile=int(rng.integers(4, 20)) if case % 3 == 0 else 0)
    return values, where, edit.apply(ImageToEdit(values.copy(), case))


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_no_byte_outside_of_the_mask_changes(dtype: type) -> None:
    for case in range(150):
        values, where, result = edited_pixels(case, dtype)
        assert result.dtype == values.dtype
        assert result.shape == values.shape
        assert np.array_equal(result[~where], values[~where])
        if where.sum() > 20:
            assert (result[where] != values[where]).any(axis=1).mean() > 0.9


def test_a_feather_mixes_inside_and_changes_nothing_outside() -> None:
    values = np.full((40, 40, 3), 200, np.uint8)
    where = np.zeros((40, 40), bool)
    where[10:30, 10:30] = True
    model = random_pixels(40, 40)
    hard = filling(model, Masks(where)).apply(ImageToEdit(values, 0)).astype(float)
    soft = filling(model, Masks(where, feather=4)).apply(ImageToEdit(values, 0)).astype(float)
    assert (soft[~where] == 200).all()
    share = (soft - 200) / np.where(hard == 200, np.inf, hard - 200)
    assert share[10, 12:28].mean() == pytest.approx(1 / 5, abs=0.02)
    assert share[12, 12:28].mean() == pytest.approx(3 / 5, abs=0.02)
    assert np.array_equal(soft[14:26, 14:26], hard[14:26, 14:26])


def test_what_is_filled_is_opaque_and_the_rest_keeps_its_alpha() -> None:
    rng = np.random.default_rng(0)
    values = pixels(rng, 12, 12, 4, dtype=np.uint16)
    values[3:6, 3:6, 3] = 0
    values[:3, :, 3] = 40_000
    result = filling(random_pixels(), Masks(alpha=True)).apply(ImageToEdit(values, 1))
    where = values[:, :, 3] < 32_768
    assert np.array_equal(result[~where], values[~where])
    assert (result[where][:, 3] == 65_535).all()


def test_sixteen_bits_stay_sixteen_bits() -> None:
    values = np.zeros((30, 30, 1), np.uint16)
    result = filling(random_pixels(channels=1), Masks(np.ones((30, 30), bool))).apply(ImageToEdit(values, 0))
    assert len(np.unique(result)) > 256, "more levels than 8 bits have"


def test_new_borders_are_filled_around_the_bytes_of_the_image() -> None:
    values = pixels(np.random.default_rng(0), 20, 30, 3)
    result = filling(random_pixels(), Masks(expand=(4, 0, 7, 50))).apply(ImageToEdit(values, 0))
    assert result.shape == (70, 41, 3)
    assert np.array_equal(result[:20, 4:34], values)
    assert (result[20:] != 0).any(axis=2).mean() > 0.9


FLOW = {"family": "flow", "net": "dit", "patch": 4, "widths": [16], "layers": 1, "heads": 2, "num_steps": 2}
TRANSFORMER = {"family": "transformer", "layers": 1, "features": 16, "heads": 2}
GAN = {"family": "gan", "latents": 6, "generator_features": 4, "discriminator_features": 4}
VAE = {"family": "vae", "net": "mlp", "latents": 4, "features": 4}
GRID = {"family": "vae", "net": "grid", "prior": "normal", "latents": 2, "features": 4, "downsamplings": 1}
MODELS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "flow": (FLOW, {}),
    "flow with masks": (FLOW | {"mask_share": 0.5}, {}),
    "latent flow": (FLOW | {"patch": 1, "tokenizer": GRID | {"width": 8, "height": 8}}, {}),
    "transformer": (TRANSFORMER | {"width": 4, "height": 4}, {}),
    "gan": (GAN, {"num_steps": 3}),
    "gan with labels": (GAN | {"labels": ["cat", "dog"]}, {"num_steps": 3, "label": "dog"}),
    "vae": (VAE, {"num_steps": 2}),
    "vae of a grid": (GRID, {"num_steps": 2}),
}


def model_of(name: str) -> tuple[Model, dict[str, Any]]:
    settings, options = MODELS[name]
    torch.manual_seed(0)
    family = build(parse_config({"width": 8, "height": 8, "channels": 3} | settings))
    for parameter in family.parameters():  # the output of fresh weights may be zero
        parameter.data += 0.1 * torch.randn_like(parameter)
    return Model(family), options


@pytest.mark.parametrize("name", MODELS)
def test_every_family_fills_and_varies_images_larger_than_its_own(name: str) -> None:
    model, options = model_of(name)
    values = pixels(np.random.default_rng(0), 2, 40, 44, 3)
    where = np.zeros((40, 44), bool)
    where[8:20, 10:30] = True
    filled = dq.fill(model, values, mask=where, seed=1, **options)
    assert isinstance(filled, np.ndarray)
    assert np.array_equal(filled[:, ~where], values[:, ~where])
    assert (filled[:, where] != values[:, where]).any(axis=2).mean() > 0.9
    assert np.array_equal(dq.fill(model, values[:1], mask=where, seed=1, **options), filled[:1])
    steps = {name: value for name, value in options.items() if name in model.options_of("vary")}
    steps |= {name: value for name, value in options.items() if name == "label"}
    varied = dq.vary(model, values, seed=1, strength=0.7, **steps)
    assert isinstance(varied, np.ndarray)
    assert varied.shape == values.shape
    assert (varied != values).any(axis=3).mean() > 0.9
    assert np.array_equal(dq.vary(model, values[:1], seed=1, strength=0.7, **steps), varied[:1])


@pytest.mark.parametrize("name", ["vae", "gan", "gan with labels"])
def test_a_model_fills_and_varies_an_image_alone_as_in_a_batch(name: str) -> None:
    model, options = model_of(name)
    images = Images(pixels(np.random.default_rng(0), 3, 8, 8, 3))
    where = np.zeros((8, 8), bool)
    where[2:6, 1:7] = True
    filled = model.fill(images, where, seeds=[5, 6, 7], **options).array
    assert np.array_equal(filled[:, ~where], images.array[:, ~where])
    assert np.array_equal(model.fill(images[1:2], where, seeds=[6], **options).array, filled[1:2])
    assert not np.array_equal(model.fill(images[1:2], where, seeds=[8], **options).array, filled[1:2])
    steps = {} if name == "vae" else options
    varied = model.vary(images, seeds=[5, 6, 7], strength=0.4, **steps).array
    assert np.array_equal(model.vary(images[2:], seeds=[7], strength=0.4, **steps).array, varied[2:])
    label = {"label": options["label"]} if "label" in options else {}
    whole = model.vary(images, seeds=[5, 6, 7], strength=1.0, **steps).array
    assert np.array_equal(whole, model.sample(3, seeds=[5, 6, 7], **label).array)


def test_windows_share_the_noise_of_their_places_and_are_blended() -> None:
    values = np.zeros((8, 30, 3), np.uint8)
    one = varying(random_pixels(), 1.0, tile=8, overlap=4).apply(ImageToEdit(values, 3))
    other = varying(random_pixels(), 1.0, tile=8, overlap=2).apply(ImageToEdit(values, 3))
    assert np.abs(one.astype(int) - other).max() <= 1, "the same noise, whatever the windows"
    assert len(np.unique(one)) > 100


def test_strength_decides_how_much_detail_stays() -> None:
    values = pixels(np.random.default_rng(0), 64, 64, 3)
    detail = []
    for strength in (0.1, 0.5, 1.0):
        varied = varying(random_pixels(), strength).apply(ImageToEdit(values, 0)).astype(float)
        detail.append(np.abs(np.diff(varied, axis=0)).mean())
    before = np.abs(np.diff(values.astype(float), axis=0)).mean()
    assert before > detail[0] > detail[1] > detail[2]
    assert detail[0] > 0.8 * before


def test_nothing_to_do_returns_the_image_itself() -> None:
    image = ImageToEdit(pixels(np.random.default_rng(0), 9, 9, 3), 0)
    assert not filling(random_pixels(), Masks(np.zeros((9, 9), bool))).changes(image)
    assert not varying(random_pixels(), 0.0).changes(image)
    assert np.array_equal(dq.vary(random_pixels(), image.values, strength=0), image.values)


def test_settings_tell_all_that_a_result_depends_on() -> None:
    where = np.ones((4, 4), bool)
    edits: list[Edit] = [
        filling(random_pixels(), Masks(where)),
        filling(random_pixels(), Masks(~where)),
        filling(random_pixels(), Masks(boxes=(Window(0, 0, 1, 1),))),
        filling(random_pixels(), Masks(where, feather=1)),
        filling(random_pixels(), Masks(where), tile=8),
        varying(random_pixels(), 0.5),
        varying(random_pixels(), 0.6),
    ]
    told = [str(edit.settings) for edit in edits]
    assert len(set(told)) == len(told)
    assert filling(random_pixels(), Masks(where)).settings == edits[0].settings


def test_a_family_that_cannot_is_told_with_those_that_can() -> None:
    vqvae = Model(build(parse_config({"family": "vqvae", "width": 8, "height": 8, "features": 4})))
    image = np.zeros((8, 8, 3), np.uint8)
    with pytest.raises(ConfigError, match="A VQ-VAE cannot fill a part of an image: use a GAN, a VAE"):
        dq.fill(vqvae, image, box=(0, 0, 2, 2))
    with pytest.raises(ConfigError, match="A VQ-VAE cannot vary an image"):
        dq.vary(vqvae, image)
    with pytest.raises(ConfigError, match="'truncation'"):
        dq.vary(random_pixels(), image, truncation=1.0)


def test_numbers_that_mean_nothing_are_refused_and_those_of_numpy_are_taken() -> None:
    image, model = np.zeros((8, 8, 3), np.uint8), random_pixels()
    boxes = np.array([[0, 0, 2, 2], [4, 4, 3, 3]])
    filled = dq.fill(model, image, box=boxes)  # type: ignore[arg-type]
    assert np.array_equal(filled, dq.fill(model, image, box=[(0, 0, 2, 2), (4, 4, 3, 3)]))
    assert np.array_equal(
        dq.fill(model, image, box=boxes[0]),  # type: ignore[arg-type]
        dq.fill(model, image, box=(0, 0, 2, 2)),
    )
    for box in ((0, 0, 2), (0.5, 0, 2, 2), [(0, 0, 2)], "0,0,2,2", [[[0, 0, 2, 2]]]):
        with pytest.raises(ConfigError, match="box has four whole numbers"):
            dq.fill(model, image, box=box)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="expand has four whole numbers"):
        dq.fill(model, image, expand=(1, 2))
    with pytest.raises(
        ConfigError, match="A mask is a file, a folder or an array of true and false, not Image"
    ):
        dq.fill(model, image, mask=Image.new("L", (8, 8)))  # type: ignore[arg-type]
    for call in (dq.vary, dq.enhance, dq.translate, dq.upscale):
        for options in ({"tile": -1}, {"overlap": -1}):
            editor = model if call is dq.vary else editor_of(call is dq.upscale)
            with pytest.raises(ConfigError, match="must be a number of pixels"):
                call(editor, image, **options)  # type: ignore[operator]
    for options in ({"tile": -1}, {"overlap": -1}):
        with pytest.raises(ConfigError, match="must be a number of pixels"):
            dq.fill(model, image, box=(0, 0, 2, 2), **options)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="A seed is a whole number from 0 on"):
        dq.vary(model, image, seed=-1)
    with pytest.raises(ConfigError, match="at least 1"):
        dq.vary(model, __file__, out="out", n=0)


def editor_of(is_larger: bool) -> Model:
    """A tiny model that restores images, or makes them larger."""
    shape = {"width": 8, "height": 8, "channels": 3, "source_channels": 3, "features": 4, "blocks": 1}
    return Model(build(parse_config({"family": "regression", **shape, "source_scale": 1 + is_larger})))
