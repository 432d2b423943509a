"""A pipeline samples, varies and fills as `diffusers` does for the same generator, image by image."""

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch

import danqing as dq
from danqing.errors import ConfigError, ModelError
from danqing.families.abilities import Fills, PaintsInSteps, SamplesSizes, Varies
from danqing.images import Images
from danqing.model.model import Model
from danqing.pipelines import previews
from danqing.pipelines.components import silent
from danqing.pipelines.denoising import denoising_of
from tests.tiny_pipelines import KINDS

Folder = Callable[[str], Path]
EDITS = [kind for kind in KINDS if not kind.startswith(("sana", "pixart"))]


@pytest.fixture(scope="module")
def loaded(pipeline_folder: Folder) -> Callable[..., Model]:
    """From a kind and options of loading to a model that tests share."""
    models = dict[str, Model]()

    def load(kind: str, options: str = ",size=32x32") -> Model:
        place = f"{pipeline_folder(kind)}{options}"
        if place not in models:
            models[place] = dq.load(place, marks="none")
        return models[place]

    return load


def of_library(folder: Path, auto: Any, **given: Any) -> Any:
    """What the library itself makes of a generator, uint8 `[h, w, c]`."""
    with silent():
        pipe = diffusers.DiffusionPipeline.from_pretrained(folder)
        pipe = pipe if auto is None else auto.from_pipe(pipe)
        pipe.set_progress_bar_config(disable=True)
        taken = inspect.signature(pipe.__call__).parameters
        if "use_resolution_binning" in taken:
            given["use_resolution_binning"] = False
        if "Qwen" in type(pipe).__name__:
            given["negative_prompt"] = " "
        generator = torch.Generator().manual_seed(7)
        given = {name: value for name, value in given.items() if name in taken}
        made = pipe(generator=generator, num_inference_steps=3, output_type="np", **given).images[0]
    return np.round(made * 255).astype(np.uint8)


@pytest.mark.parametrize("kind", KINDS)
def test_samples_equal_those_of_the_library(kind: str, loaded: Any, pipeline_folder: Folder) -> None:
    model = loaded(kind)
    size = (64, 32) if kind == "sana" else (48, 32)
    guidance = 0.0 if kind == "sdxl-turbo" else model.sample_options["guidance_scale"]
    both = model.sample(prompt=["a red cat, sitting", "blue"], seeds=[5, 7], num_steps=3, size=size)
    width, height = size
    given: dict[str, Any] = {"prompt": "blue", "height": height, "width": width}
    if kind not in ("qwen-image", "flux-schnell"):
        given["guidance_scale"] = guidance
    alone = of_library(pipeline_folder(kind), None, **given)
    assert both.array.shape == (2, height, width, 3)
    np.testing.assert_array_equal(both.array[1], alone)


@pytest.mark.parametrize("kind", EDITS)
def test_edits_equal_those_of_the_library(kind: str, loaded: Any, pipeline_folder: Folder) -> None:
    model, folder = loaded(kind), pipeline_folder(kind)
    pixels = np.random.default_rng(0).integers(0, 256, (1, 32, 32, 3), np.uint8)
    image = torch.from_numpy(pixels).permute(0, 3, 1, 2) / 255
    mask = np.zeros((32, 32), bool)
    mask[8:24, 4:20] = True
    given: dict[str, Any] = {"prompt": "a cat", "height": 32, "width": 32}
    given["guidance_scale"] = model.sample_options["guidance_scale"]
    if kind in ("qwen-image", "flux-schnell"):
        given.pop("guidance_scale")
    given["image"] = image.double().float()
    varied = model.vary(Images(pixels), strength=0.7, prompt="a cat", seeds=[7], num_steps=3)
    expected = of_library(folder, diffusers.AutoPipelineForImage2Image, strength=0.7, **given)
    assert np.abs(varied.array[0].astype(int) - expected).max() <= 1
    filled = model.fill(Images(pixels), mask, prompt="a cat", seeds=[7], num_steps=3)
    given |= {"mask_image": torch.from_numpy(mask)[None, None].float(), "strength": 1.0}
    expected = of_library(folder, diffusers.AutoPipelineForInpainting, **given)
    np.testing.assert_array_equal(filled.array[0][~mask], pixels[0][~mask])
    assert np.abs(filled.array[0][mask].astype(int) - expected[mask]).max() <= 1


@pytest.mark.parametrize("kind", ["sd1", "sd3", "qwen-image", "z-image"])
def test_an_image_depends_on_its_own_seed_alone(kind: str, loaded: Any) -> None:
    model = loaded(kind, ",size=32x32,chunk=3")
    assert model.chunk == 3
    prompts = ["a cat", "a much longer text about a dog", "a cat", "x", "a cat"]
    many = model.sample(prompt=prompts, seeds=[3, 4, 5, 6, 7], num_steps=2).array
    for place in (1, 2, 4):
        alone = model.sample(prompt=prompts[place], seeds=[3 + place], num_steps=2).array
        np.testing.assert_array_equal(many[place], alone[0])


def test_its_abilities_follow_from_its_class(loaded: Any) -> None:
    for kind in ("sd1", "flux"):
        family = loaded(kind).family
        assert isinstance(family, Fills)
        assert isinstance(family, Varies)
        assert isinstance(family, PaintsInSteps)
        assert isinstance(family, SamplesSizes)
    assert not isinstance(loaded("sana").family, Varies)
    with pytest.raises(ConfigError, match="cannot vary an image"):
        loaded("sana").vary(Images(np.zeros((1, 32, 32, 3), np.uint8)))


def test_components_are_shared_by_all_tasks(loaded: Any) -> None:
    model = loaded("sd1")
    model.vary(Images(np.zeros((1, 32, 32, 3), np.uint8)), prompt="x", num_steps=2)
    first, other = model.family.pipe, model.family._pipe("vary")
    assert first is not other
    assert first.unet is other.unet
    assert first.vae is other.vae


def test_options_are_read_from_the_pipeline_and_checked(loaded: Any, pipeline_folder: Folder) -> None:
    assert loaded("sd1").sample_options == {
        "num_steps": 50,
        "guidance_scale": 7.5,
        "eta": 0.0,
        "guidance_rescale": 0.0,
    }
    assert loaded("sd1").options_of("fill")["strength"] == 1.0
    assert loaded("qwen-image").sample_options["guidance_scale"] == 4.0
    assert loaded("sdxl-turbo").sample_options["num_steps"] == 1
    assert loaded("flux-schnell").sample_options["num_steps"] == 4
    own = loaded("sd1", ",steps=3,guidance=2.5,size=16x24")
    assert own.sample_options["num_steps"] == 3
    assert own.sample(prompt="x").array.shape == (1, 24, 16, 3)
    model = loaded("sd1")
    for wrong in ({"num_steps": 0}, {"guidance_scale": 500.0}, {"eta": "a"}, {"colour": 1}):
        with pytest.raises(ConfigError):
            model.sample(prompt="x", **wrong)
    with pytest.raises(ConfigError, match="multiples of 8"):
        model.sample(prompt="x", size=(36, 32))
    with pytest.raises(ConfigError, match="multiples of 8"):
        dq.load(f"{pipeline_folder('sd1')},size=36x36")
    with pytest.raises(ConfigError, match=r"rejects this: .*max_sequence_length"):
        loaded("flux").sample(prompt="x", max_sequence_length=600)


def test_a_negative_prompt_without_effect_is_refused(loaded: Any) -> None:
    for kind, scale in (
        ("sd1", "guidance_scale"),
        ("flux", "true_cfg_scale"),
        ("qwen-image", "guidance_scale"),
    ):
        model = loaded(kind)
        with pytest.raises(ConfigError, match=scale):
            model.sample(prompt="a cat", negative_prompt="a dog", num_steps=2, **{scale: 1.0})
        plain = model.sample(prompt="a cat", seeds=[1], num_steps=2, **{scale: 3.0}).array
        led = model.sample(
            prompt="a cat", negative_prompt="dogs", seeds=[1], num_steps=2, **{scale: 3.0}
        ).array
        assert (plain != led).any()


def test_a_text_that_is_too_long_is_refused_and_not_cut(loaded: Any) -> None:
    with pytest.raises(ConfigError, match="this model reads 77"):
        loaded("sd1").check_prompt("a" * 100)
    loaded("sd1").check_prompt("a" * 70)
    loaded("sd3").check_prompt("a " * 100)
    with pytest.raises(ConfigError, match="this model reads 256"):
        loaded("sd3").check_prompt("a" * 300)


@pytest.mark.parametrize("kind", KINDS)
def test_every_step_is_reported_with_a_preview(
    kind: str, loaded: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen, shown = list[tuple[int, int]](), list[Any]()
    if kind in ("sd1", "flux"):
        monkeypatch.setattr(previews, "_MOST", 16)  # such as a large image, whose previews are small

    def on_step(done: int, total: int, preview: Callable[[], Images]) -> None:
        seen.append((done, total))
        shown.append(preview().array)

    args: dict[str, Any] = {"prompt": "a cat", "seeds": [1], "num_steps": 3, "size": (64, 32)}
    made = loaded(kind).sample(**args, on_step=on_step).array
    assert seen == [(step + 1, seen[0][1]) for step in range(seen[0][1])]
    assert {one.shape for one in shown} == {made.shape}
    difference = np.abs(shown[-1].astype(int) - made).max()
    assert difference <= (255 if kind in ("sd1", "flux") else 1)  # the last latents are those of the image


def test_a_long_image_has_a_preview(loaded: Any) -> None:
    pipe = loaded("sd1").family.pipe
    latents = torch.randn(1, 4, 2, 400)
    assert previews.decoded(pipe, latents, (800, 4)).shape == (1, 3, 4, 800)


def test_an_autoencoder_that_overflows_in_float16_computes_in_float32(pipeline_folder: Folder) -> None:
    model = dq.load(f"{pipeline_folder('sdxl')},dtype=float16")
    pipe = model.family.pipe
    for network in (pipe.vae.encoder, pipe.vae.decoder):
        network.conv_in.weight.data.fill_(60_000)
    found = denoising_of(pipe).encode_images(torch.full((1, 3, 32, 32), 0.9))
    assert found.mean.isfinite().all()
    assert previews.decoded(pipe, torch.full((1, 4, 16, 16), 0.9), (32, 32)).isfinite().all()
    assert pipe.vae.dtype == torch.float16


def test_latents_with_statistics_have_previews_and_their_scheduler_is_not_trained(
    pipeline_folder: Folder,
) -> None:
    model = dq.load(pipeline_folder("sdxl"), marks="none")
    pipe, shown = model.family.pipe, list[Any]()
    pipe.vae.register_to_config(latents_mean=[0.3, -0.2, 0.1, 0.0], latents_std=[1.5, 0.5, 0.8, 1.2])
    made = model.sample(
        prompt="x", num_steps=2, on_step=lambda done, total, preview: shown.append(preview().array)
    ).array
    assert np.abs(shown[-1].astype(int) - made).max() <= 1
    pipe.scheduler = diffusers.EDMEulerScheduler()
    with pytest.raises(ConfigError, match="EDMEulerScheduler cannot be fine-tuned"):
        denoising_of(pipe)


def test_what_a_step_raises_stops_the_pipeline(loaded: Any) -> None:
    class StopError(ValueError):
        pass

    model, steps = loaded("sd1"), []

    def on_step(done: int, total: int, preview: object) -> None:
        steps.append(done)
        if done == 2:
            raise StopError("enough")

    with pytest.raises(StopError, match="enough"):
        model.sample(prompt="x", num_steps=20, on_step=on_step)
    assert steps == [1, 2]
    again = model.sample(prompt="x", seeds=[3], num_steps=2).array
    np.testing.assert_array_equal(again, model.sample(prompt="x", seeds=[3], num_steps=2).array)


def test_strength_goes_from_the_image_to_a_new_one(loaded: Any) -> None:
    model = loaded("sd2")
    image = model.sample(prompt="a", seeds=[1], num_steps=2)
    same = model.vary(image, strength=0.0, prompt="b", seeds=[2], num_steps=4)
    np.testing.assert_array_equal(same.array, image.array)
    new = model.vary(image, strength=1.0, prompt="b", seeds=[2], num_steps=4)
    np.testing.assert_array_equal(new.array, model.sample(prompt="b", seeds=[2], num_steps=4).array)
    little = model.vary(image, strength=0.01, prompt="b", seeds=[2], num_steps=4)
    assert little.array.shape == image.array.shape


def test_the_card_and_the_marks_name_the_model(loaded: Any, pipeline_folder: Folder, tmp_path: Path) -> None:
    model = loaded("sd1")
    told = model.declaration("sample", "a cat")
    assert told.model_digest == model.family.layout.digest()
    assert told.model == "sd1"
    assert model.info()["trained"]["pipeline"] == "StableDiffusionPipeline"
    assert model.info()["text"]["encoder"] == "CLIPTextModel"
    marked = dq.load(pipeline_folder("sd1"), marks="eu")
    marked.sample(prompt="a cat", num_steps=2).save(tmp_path / "cat.png")
    found = dq.verify(tmp_path / "cat.png")
    assert "sd1" in str(found.plain())


def test_a_saved_pipeline_is_the_same(loaded: Any, tmp_path: Path) -> None:
    model = loaded("sd2")
    again = dq.load(f"{model.save(tmp_path / 'copy')},size=32x32", marks="none")
    args: dict[str, Any] = {"prompt": "a cat", "seeds": [3], "num_steps": 2}
    np.testing.assert_array_equal(model.sample(**args).array, again.sample(**args).array)
    assert [path.name for path in tmp_path.iterdir()] == ["copy"]
    with pytest.raises(ModelError, match="has files already"):
        model.save(tmp_path / "copy")
