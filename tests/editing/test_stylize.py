"""Styles: strength 0 is nothing, colours stay where they shall, and tiles do not show."""

from pathlib import Path

import numpy as np
import pytest
import skimage.data
import torch
from PIL import Image

import danqing as dq
from danqing.editing.contract import ImageToEdit
from danqing.editing.instant_style import InstantStyle
from danqing.editing.mixing import with_luma_of
from danqing.editing.optimized_style import OptimizedStyle
from danqing.editing.shrinking import limited
from danqing.editing.stylize import Stylize, method_of
from danqing.editing.trained_style import TrainedStyle
from danqing.errors import ConfigError, EvaluationError
from danqing.families import build_learner, parse_config
from danqing.families.style import Style, read_style
from danqing.families.style_loss import StyleLoss
from danqing.pretrained import packaged
from danqing.pretrained.hed_trunk import MEAN, WEIGHTS, Trunk

PHOTO = np.ascontiguousarray(skimage.data.astronaut()[:96, 160:256])


@pytest.fixture(scope="module")
def texture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("style") / "texture.png"
    Image.fromarray(skimage.data.immunohistochemistry()[:128, :128]).save(path)
    return path


def chroma(pixels: np.ndarray) -> np.ndarray:
    """The differences between red, green and blue."""
    levels = pixels.astype(int)
    return np.stack([levels[..., 0] - levels[..., 1], levels[..., 1] - levels[..., 2]])


def trained(channels: int = 3) -> TrainedStyle:
    torch.manual_seed(0)
    shape = {"width": 32, "height": 32, "channels": channels, "features": 4, "blocks": 1}
    learner = build_learner(parse_config({"family": "style", **shape}))
    assert isinstance(learner, Style)
    return TrainedStyle(learner.eval().requires_grad_(False), "untrained")


def test_strength_0_returns_the_file_and_half_is_between(tmp_path: Path) -> None:
    Image.fromarray(PHOTO).save(tmp_path / "photo.jpg", quality=83)
    dq.stylize(None, tmp_path / "photo.jpg", style=3, strength=0, out=tmp_path / "same.jpg")
    assert (tmp_path / "same.jpg").read_bytes() == (tmp_path / "photo.jpg").read_bytes()
    whole, half = (dq.stylize(None, PHOTO, style=3, strength=strength) for strength in (1.0, 0.5))
    assert np.abs(half - (whole / 2 + PHOTO / 2)).max() <= 1
    assert np.abs(whole.astype(int) - PHOTO).mean() > 20


def test_kept_colours_are_those_of_the_image() -> None:
    kept = dq.stylize(None, PHOTO, style=3, keep_colors=True)
    assert np.abs(chroma(kept) - chroma(PHOTO)).max() <= 1
    assert np.abs(kept.astype(int) - PHOTO).mean() > 10


def test_luma_is_that_of_the_other_image_where_the_colours_allow_it() -> None:
    rng = torch.Generator().manual_seed(0)
    images, made = (torch.rand(2, 3, 8, 8, generator=rng) * 2 - 1 for _ in range(2))
    found = with_luma_of(made, images * 0.2)
    weights = torch.tensor([0.299, 0.587, 0.114])[:, None, None]
    inside = (found.amax(1) < 1 - 1e-6) & (found.amin(1) > -1 + 1e-6)
    assert inside.float().mean() > 0.5
    assert found.abs().max() <= 1 + 1e-6
    torch.testing.assert_close((found * weights).sum(1)[inside], (made * weights).sum(1)[inside])


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_any_image_can_be_stylized(dtype: type, channels: int) -> None:
    values = np.random.default_rng(0).integers(0, np.iinfo(dtype).max, (21, 40, channels)).astype(dtype)
    coloured = Stylize(InstantStyle(style=1)).apply(ImageToEdit(values, 0))
    assert (coloured.dtype, coloured.shape) == (dtype, (21, 40, 3 + (channels in (2, 4))))
    grey = Stylize(trained(1)).apply(ImageToEdit(values, 0))
    assert (grey.dtype, grey.shape[:2]) == (dtype, (21, 40))
    if channels in (2, 4):
        assert np.array_equal(coloured[..., -1], values[..., -1])
    if channels <= 2:
        kept = Stylize(InstantStyle(style=1), keep_colors=True).apply(ImageToEdit(values, 0))
        assert kept.shape == values.shape, "a grey image stays grey"


def test_an_image_gives_its_style_at_once(tmp_path: Path) -> None:
    rng, redness = np.random.default_rng(0), []
    for number, tint in enumerate([(1.0, 0.4, 0.1), (0.1, 0.4, 1.0)]):
        spots = rng.integers(60, 256, (64, 64, 1)) * np.array(tint)
        path = tmp_path / f"{number}.png"
        Image.fromarray(spots.astype(np.uint8)).resize((256, 256)).save(path)
        made = dq.stylize(None, PHOTO, style_image=path)
        assert made.shape == PHOTO.shape
        redness.append(made[..., 0].mean() - made[..., 2].mean())
    assert redness[0] > redness[1] + 30


def test_a_large_image_keeps_the_details_that_the_network_does_not_see() -> None:
    rng = torch.Generator().manual_seed(0)
    large = torch.rand(1, 3, 60, 90, generator=rng) * 2 - 1
    assert torch.equal(limited(lambda small: small, large, 30), large)
    sizes = []

    def darker(small: torch.Tensor) -> torch.Tensor:
        sizes.append(small.shape[2:])
        return small - 0.25

    torch.testing.assert_close(limited(darker, large, 30), large - 0.25)
    assert sizes == [(20, 30)]


def test_tiles_of_a_trained_style_do_not_show() -> None:
    """They are normalised by a thumbnail, so that each pixel inside is that of the whole image."""
    method = trained()
    image = torch.from_numpy(skimage.data.astronaut()[:160, :200].copy()).permute(2, 0, 1)[None] / 127.5 - 1
    network = method.style.network
    overlap = 2 * network.reach
    with torch.no_grad():
        whole = method.apply(image)
        with network.statistics_of(image):
            from danqing.editing.tiles import run_in_tiles

            tiled = run_in_tiles(network, image, tile=96, overlap=overlap, multiple=4)
    torch.testing.assert_close(tiled, whole, rtol=0, atol=1e-5)
    torch.testing.assert_close(network(image), whole, rtol=0, atol=1e-5)  # and it kept no statistics


def test_optimisation_comes_nearer_to_the_style(texture: Path) -> None:
    method = OptimizedStyle(texture, steps=6, side=48)
    small = torch.from_numpy(PHOTO[::2, ::2].copy()).permute(2, 0, 1)[None] / 127.5 - 1
    trunk = Trunk().load_published(WEIGHTS.checked()).requires_grad_(False)

    def stages(images: torch.Tensor) -> list[torch.Tensor]:
        return trunk.stages((images + 1) * 127.5 - torch.tensor(MEAN)[:, None, None])

    judge = StyleLoss(stages, read_style(texture, 3, longer_side=48))
    content = judge.content_of(small)
    made = method.apply(small)
    with torch.no_grad():
        before, after = (judge.terms(images, content) for images in (small, made))
    assert after.style < 0.6 * before.style
    assert torch.equal(method.apply(small), made)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({}, "nothing is given: give one"),
        ({"style": 2, "style_image": "x.png"}, "a style and a style image are given"),
        ({"style": 26}, "no style 26: choose 0 to 25"),
        ({"style_image": "missing.png"}, "does not exist"),
        ({"style": 2, "optimize": True}, "optimize needs a style image"),
        ({"style": 2, "steps": 10}, "steps is for optimize"),
        ({"style": 2, "tile": 64}, "tile is for a trained style"),
    ],
)
def test_what_does_not_name_a_style_is_refused(arguments: dict[str, object], sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        method_of(**arguments)


def test_missing_networks_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packaged, "find_spec", lambda name: None)
    from danqing.editing import instant_style

    instant_style._session.cache_clear()
    with pytest.raises(EvaluationError, match=r"danqing\[style\]"):
        dq.stylize(None, PHOTO, style=0)
