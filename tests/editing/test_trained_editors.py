"""Trained editors on images of any size: exact averages, exact tiles, depth, channels and strength."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

import danqing as dq
from danqing.data.degrade import luma
from danqing.editing import resampling
from danqing.editing.contract import ImageToEdit
from danqing.editing.enhance import enhancement
from danqing.editing.exact_average import averaging_to
from danqing.editing.translate import Translation
from danqing.editing.upscale import upscaling
from danqing.editing.window_model import Request, WindowModel
from danqing.errors import ConfigError
from danqing.families import build, parse_config
from danqing.images import Images
from danqing.model.model import Model

Array = NDArray[Any]
SIDE = 16
UPSCALE = {"source_channels": 3, "source_scale": 4, "source_is_average": True}
COLORIZE = {"source_channels": 1, "downsamplings": 1, "source_is_average": True}
ENHANCE = {"source_channels": 3, "downsamplings": 1}
FLOW = {"family": "flow", "net": "dit", "patch": 4, "widths": [8], "layers": 1, "heads": 2, "pairs": True}
FLOW |= {"num_steps": 2, "conditional": False}


def model_of(**config: Any) -> Model:
    """A tiny model whose weights are random everywhere."""
    torch.manual_seed(0)
    shape = {"width": SIDE, "height": SIDE, "channels": 3}
    own = {"features": 4, "blocks": 1, "family": "regression"} if "net" not in config else {}
    family = build(parse_config({**shape, **own, **config}))
    for parameter in family.parameters():
        parameter.data += 0.05 * torch.randn_like(parameter)
    return Model(family)


def used(model: Model) -> WindowModel:
    return WindowModel(model, "translate", Request(), {})


def photo(height: int, width: int, channels: int = 3, dtype: Any = np.uint8) -> Array:
    """A smooth image with edges, black and white."""
    y, x = np.mgrid[:height, :width]
    planes = [np.sin(x / (3 + c)) * np.cos(y / (5 - c)) for c in range(channels)]
    unit = np.stack(planes, axis=2) * 0.9 + ((x // 7 + y // 5) % 2)[:, :, None] * 0.6 - 0.3
    return np.round((unit.clip(-1, 1) + 1) / 2 * np.iinfo(dtype).max).astype(dtype)


def squares(values: Array, scale: int) -> Array:
    height, width, channels = values.shape
    return values.reshape(height // scale, scale, width // scale, scale, channels).astype(np.int64)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("kind", [UPSCALE, FLOW | UPSCALE], ids=["regression", "flow"])
def test_squares_of_an_upscaled_image_average_exactly_to_its_pixels(
    kind: dict[str, Any], channels: int, dtype: Any
) -> None:
    values = photo(13, 9, channels, dtype)
    large = dq.upscale(model_of(**kind), values)
    assert isinstance(large, np.ndarray)
    assert large.dtype == dtype
    assert large.shape == (52, 36, channels)
    means = squares(large, 4).sum(axis=(1, 3))
    assert np.array_equal(means, 16 * values.astype(np.int64))
    assert squares(large, 4).std(axis=(1, 3)).mean() > np.iinfo(dtype).max / 200


@settings(max_examples=30, deadline=None)
@given(st.integers(2, 5), st.integers(0, 255), st.integers(0, 2**32))
def test_levels_are_moved_as_little_as_needed_to_average_exactly(scale: int, level: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    source = np.full((1, 1, 1), level, np.uint8)
    near = (level + rng.uniform(-0.9, 0.9, (scale, scale, 1))).round().clip(0, 255).astype(np.uint8)
    found = averaging_to(near, source, scale)
    assert found.sum() == scale**2 * level
    off = near.astype(int) - found
    assert (np.sign(off) >= 0).all() or (np.sign(off) <= 0).all()


@pytest.mark.parametrize("kind", [UPSCALE, ENHANCE, ENHANCE | {"downsamplings": 2}], ids=["4", "1", "1/4"])
def test_tiled_equals_untiled_bit_for_bit(kind: dict[str, Any]) -> None:
    # torch has other kernels for maps of less than 20,480 numbers, so all of these are larger.
    model = model_of(**kind, features=36)
    image = ImageToEdit(photo(190, 231, 3, np.uint16), seed=1)
    make = upscaling if "source_scale" in kind else enhancement
    whole = make(used(model), tile=4096).apply(image)
    for tile in (96, 110, 200):
        assert np.array_equal(make(used(model), tile=tile).apply(image), whole), tile
    narrow = make(used(model), tile=96, overlap=4).apply(image)
    assert not np.array_equal(narrow, whole), "an overlap below the receptive field must show"


def test_a_coloured_image_keeps_its_luma_and_a_grey_file_becomes_coloured() -> None:
    grey = photo(40, 23, 1)
    for kind in (COLORIZE, FLOW | {key: COLORIZE[key] for key in ("source_channels", "source_is_average")}):
        made = dq.translate(model_of(**kind), grey, seed=3)
        assert isinstance(made, np.ndarray)
        assert made.shape == (40, 23, 3)
        found = luma(torch.from_numpy(made).permute(2, 0, 1)[None].double())[0, 0].numpy()
        assert np.abs(found - grey[:, :, 0]).max() <= 0.51
        assert np.ptp(made, axis=2).mean() > 1


def test_channels_stay_as_they_are_when_images_are_enhanced() -> None:
    for channels in (1, 2, 3, 4):
        values = photo(20, 30, channels)
        made = dq.enhance(model_of(**ENHANCE), values)
        assert isinstance(made, np.ndarray)
        assert made.shape == values.shape
        assert not np.array_equal(made, values)
        if channels in (2, 4):
            assert np.array_equal(made[:, :, -1], values[:, :, -1])
    grey = model_of(**ENHANCE | {"channels": 1, "source_channels": 1})
    coloured = photo(20, 30)
    each = [dq.enhance(grey, coloured[:, :, c : c + 1]) for c in range(3)]
    assert np.array_equal(dq.enhance(grey, coloured), np.concatenate(each, axis=2))


def test_floats_of_a_scan_are_enhanced_in_their_own_range() -> None:
    scan = photo(24, 20, 1, np.uint16)[:, :, 0].astype(np.float32) / 16 - 1000
    made = dq.enhance(model_of(**ENHANCE), scan)
    assert isinstance(made, np.ndarray)
    assert made.dtype == np.float32
    assert made.shape == scan.shape
    assert scan.min() - 1 <= made.min() < made.max() <= scan.max() + 1
    assert 0 < np.abs(made - scan).mean() < 0.3 * np.ptp(scan)


def test_strength_says_how_much_changes_and_none_changes_nothing() -> None:
    model, values = model_of(**ENHANCE), photo(30, 40, 3, np.uint16)
    made = [dq.enhance(model, values, strength=strength) for strength in (0, 0.5, 1)]
    assert np.array_equal(made[0], values)
    half = (made[2].astype(int) + values) / 2  # type: ignore[union-attr, operator]
    assert np.abs(made[1] - half).max() <= 1  # type: ignore[operator]
    assert not enhancement(used(model), strength=0.0).changes(ImageToEdit(values, 0))


@pytest.mark.parametrize("channels", [3, 4])
@pytest.mark.parametrize("kind", [FLOW | UPSCALE, UPSCALE, FLOW | {"source_channels": 3}])
def test_parts_in_which_a_result_is_made_do_not_show(
    kind: dict[str, Any], channels: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, values = model_of(**kind), photo(50, 23, channels)
    large = "source_scale" in kind
    edit = upscaling(used(model), tile=SIDE) if large else Translation(used(model), tile=SIDE)
    whole = edit.apply(ImageToEdit(values, 1))
    assert whole.shape == (200, 92, channels) if large else values.shape
    monkeypatch.setattr(resampling, "_BAND", 150)
    parts = edit.apply(ImageToEdit(values, 1)).astype(int)
    assert np.abs(parts - whole).max() <= 1, "sums of floats may be rounded elsewhere"
    assert (parts != whole).mean() < 0.01
    if channels == 4 and large:
        alpha = Image.fromarray(values[:, :, 3].astype(np.float32)).resize(
            (92, 200), Image.Resampling.LANCZOS
        )
        assert np.abs(whole[:, :, 3] - np.asarray(alpha).clip(0, 255)).max() <= 0.51


@pytest.mark.parametrize("size", [(SIDE, SIDE), (10, 7), (50, 41)])
def test_a_flow_model_translates_any_size_and_an_image_has_its_own_seed(size: tuple[int, int]) -> None:
    model = model_of(**FLOW, source_channels=3)
    values = photo(*size)
    for tile in (0, SIDE):
        one, two = (
            dq.translate(model, Images(np.stack(v)), seed=2, tile=tile) for v in ([values] * 2, [values])
        )
        assert isinstance(one, Images)
        assert isinstance(two, Images)
        assert one.array.shape == (2, *values.shape)
        assert np.array_equal(one.array[0], two.array[0])
        assert not np.array_equal(one.array[0], one.array[1]), "the second image has another seed"


def test_an_image_of_the_size_of_the_model_is_translated_as_the_model_does() -> None:
    model = model_of(**ENHANCE)
    values = photo(SIDE, SIDE)
    made = dq.translate(model, values)
    assert np.array_equal(made, model.translate(Images(values[None])).array[0])


@pytest.mark.parametrize("task", ["enhance", "upscale"])
def test_the_card_of_an_enhancer_says_that_it_is_not_a_medical_device(task: str, tmp_path: Path) -> None:
    made = model_of(**ENHANCE)
    folder = Model(made.family, {"task": task}).save(tmp_path, Images(photo(4, 4)[None]))
    text = (folder / "README.md").read_text(encoding="utf-8")
    assert ("This model is not a medical device." in text) == (task == "enhance")


def test_memory_is_estimated_before_the_work() -> None:
    for edit in (upscaling(used(model_of(**UPSCALE))), Translation(used(model_of(**ENHANCE)), whole=True)):
        small, large = edit.peak_bytes(100, 100), edit.peak_bytes(4000, 3000)
        assert 0 < small < large
        assert large > 12e6 * 3 * 4
    assert enhancement(used(model_of(**ENHANCE))).peak_bytes(4000, 3000) < 1.2e9


def test_a_model_that_cannot_is_one_sentence() -> None:
    values = photo(20, 20)
    for call, kind, sentence in (
        (dq.upscale, ENHANCE, "does not make images larger"),
        (dq.enhance, UPSCALE, "use danqing upscale"),
        (dq.enhance, COLORIZE, "use danqing translate"),
    ):
        with pytest.raises(ConfigError, match=sentence):
            call(model_of(**kind), values)
    with pytest.raises(ConfigError, match="cannot turn one image into another: use a flow model of pairs, "):
        dq.translate(model_of(family="gan", net="mlp"), values)
    with pytest.raises(ConfigError, match="choose larger tiles"):
        dq.enhance(model_of(**ENHANCE), values, tile=8)
