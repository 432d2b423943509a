"""Fine-tuning a pipeline: the loss that it was trained with, and an adapter that the library loads."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

import danqing as dq
from danqing.errors import ConfigError
from danqing.pipelines.denoising import denoising_of
from danqing.randomness import derived_seed
from danqing.training.run_folder import RunFolder
from tests.tiny_pipelines import KINDS
from tests.training.heard import Heard

WORDS = ("a red cat", "dog")
SETTINGS: dict[str, Any] = {
    "measure_seconds": 0.001,
    "sample_images": 1,
    "sample_grids": 1,
    "precision": "float32",
    "adapter.trigger": "zzq",
    "adapter.rank": 2,
    "adapter.alpha": 3.0,
    "learning_rate": 5e-2,
    "warmup_images": 0,
    "ema_half_life_images": 0,
}


def of_unet(pipe: Any, latents: Any, noise: Any, times: Any) -> Any:
    scheduler = diffusers.DDPMScheduler.from_config(pipe.scheduler.config)
    encoded = [pipe.encode_prompt(word, "cpu", 1, False)[0] for word in WORDS]
    noisy = scheduler.add_noise(latents, noise, times)
    found = pipe.unet(noisy, times, torch.cat(encoded)).sample
    is_velocity = pipe.scheduler.config.prediction_type == "v_prediction"
    return found, scheduler.get_velocity(latents, noise, times) if is_velocity else noise


def of_sdxl(pipe: Any, latents: Any, noise: Any, times: Any) -> Any:
    scheduler = diffusers.DDPMScheduler.from_config(pipe.scheduler.config)
    embeds, _, pooled, _ = pipe.encode_prompt(list(WORDS), do_classifier_free_guidance=False)
    sizes = torch.tensor([[32, 32, 0, 0, 32, 32]] * 2).float()
    added = {"text_embeds": pooled, "time_ids": sizes}
    noisy = scheduler.add_noise(latents, noise, times)
    return pipe.unet(noisy, times, embeds, added_cond_kwargs=added).sample, noise


def mixed(latents: Any, noise: Any, times: Any) -> Any:
    return torch.stack([(1 - t) * x + t * e for t, x, e in zip(times.tolist(), latents, noise, strict=True)])


def of_sd3(pipe: Any, latents: Any, noise: Any, times: Any) -> Any:
    embeds, _, pooled, _ = pipe.encode_prompt(list(WORDS), None, None, do_classifier_free_guidance=False)
    found = pipe.transformer(
        hidden_states=mixed(latents, noise, times),
        timestep=times * 1000,
        encoder_hidden_states=embeds,
        pooled_projections=pooled,
    )
    return found.sample, noise - latents


def of_flux(pipe: Any, latents: Any, noise: Any, times: Any) -> Any:
    def packed(values: Any) -> Any:
        return pipe._pack_latents(values, 2, 4, 16, 16)

    embeds, pooled, text_ids = pipe.encode_prompt(list(WORDS), None)
    found = pipe.transformer(
        hidden_states=packed(mixed(latents, noise, times)),
        timestep=times,
        guidance=torch.ones(2) if pipe.transformer.config.guidance_embeds else None,
        pooled_projections=pooled,
        encoder_hidden_states=embeds,
        txt_ids=text_ids,
        img_ids=pipe._prepare_latent_image_ids(2, 8, 8, "cpu", torch.float32),
    )
    return found.sample, packed(noise - latents)


def of_qwen(pipe: Any, latents: Any, noise: Any, times: Any) -> Any:
    def packed(values: Any) -> Any:
        return pipe._pack_latents(values, 2, 4, 16, 16)

    embeds, mask = pipe.encode_prompt(list(WORDS))
    found = pipe.transformer(
        hidden_states=packed(mixed(latents, noise, times)),
        timestep=times,
        encoder_hidden_states=embeds,
        encoder_hidden_states_mask=mask,
        img_shapes=[[(1, 8, 8)]] * 2,
    )
    return found.sample, packed(noise - latents)


def of_z_image(pipe: Any, latents: Any, noise: Any, times: Any) -> Any:
    embeds, _ = pipe.encode_prompt(list(WORDS), do_classifier_free_guidance=False)
    noisy = mixed(latents, noise, times)[:, :, None]
    found = pipe.transformer(list(noisy), 1 - times, embeds).sample
    return -torch.stack(found)[:, :, 0], noise - latents


REFERENCES: dict[str, Callable[..., Any]] = {
    "sd1": of_unet,
    "sd2": of_unet,
    "sdxl": of_sdxl,
    "sd3": of_sd3,
    "flux": of_flux,
    "flux-schnell": of_flux,
    "qwen-image": of_qwen,
    "z-image": of_z_image,
}


@pytest.mark.parametrize("kind", REFERENCES)
def test_the_loss_is_that_of_the_library_s_scheduler_and_network(kind: str) -> None:
    torch.manual_seed(0)
    pipe = KINDS[kind]()
    for part in pipe.components.values():
        if isinstance(part, torch.nn.Module):
            part.eval().requires_grad_(False)
    denoising = denoising_of(pipe)
    rng = torch.Generator().manual_seed(1)
    images = torch.rand(2, 3, 32, 32, generator=rng) * 2 - 1
    latents = denoising.encode_images(images).mean
    noise = torch.randn(latents.shape, generator=rng)
    times = denoising.draw_times(2, (16, 16), rng)
    ours = denoising.errors(latents, noise, times, [denoising.encode_text(word) for word in WORDS])
    found, target = REFERENCES[kind](pipe, latents, noise, times)
    theirs = ((found - target) ** 2).flatten(1).mean(1)
    assert torch.allclose(ours, theirs, atol=1e-4, rtol=1e-4)
    many = denoising.draw_times(4000, (16, 16), rng).float()
    if kind.startswith("sd") and kind != "sd3":
        assert 400 < many.mean() < 600
    else:  # the median of a logit-normal distribution, shifted
        config = pipe.scheduler.config
        shift = 1.0 if config.use_dynamic_shifting else config.shift
        if config.use_dynamic_shifting:
            slope = (1.15 - 0.5) / (4096 - 256)
            shift = float(np.exp(0.5 + slope * (64 - 256)))
        assert abs(float(many.median()) - shift / (1 + shift)) < 0.02


def pictures(folder: Path) -> Path:
    folder.mkdir()
    rng = np.random.default_rng(0)
    for number in range(4):
        Image.fromarray(rng.integers(150, 250, (32, 32, 3), dtype=np.uint8)).save(folder / f"{number}.png")
    return folder


def test_an_adapter_of_a_pipeline_is_loaded_by_the_library_and_gives_the_same_images(
    pipeline_folder: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DANQING_CACHE", str(tmp_path / "cache"))
    base, data = pipeline_folder("sd1"), pictures(tmp_path / "data")
    few = f"{base},steps=2"
    options: dict[str, Any] = {"preset": "lora", "init": few, "settings": SETTINGS, "images": 3}
    run = dq.train(data, **options, out=tmp_path / "run", listener=Heard())
    tensors = load_file(run.model / "pytorch_lora_weights.safetensors")
    assert {name.split(".")[0] for name in tensors} == {"unet"}
    facts = RunFolder(run.folder).facts()["init"]
    assert facts["family"] == "pipeline"
    checkpoint = max((run.folder / "checkpoints").iterdir())
    kept = {name for file in checkpoint.glob("*.safetensors") for name in load_file(file)}
    assert all(".lora_" in name for name in kept if name.startswith("family/"))
    model = dq.load(run)
    assert model.config.captions == ("zzq",)
    ours = model.sample(1, prompt="zzq", seed=3, num_steps=2).array[0]
    plain = dq.load(base)
    before = plain.sample(1, prompt="zzq", seed=3, num_steps=2).array[0]
    assert not np.array_equal(ours, before)
    pipe = diffusers.DiffusionPipeline.from_pretrained(base)
    pipe.set_progress_bar_config(disable=True)
    pipe.load_lora_weights(str(run.model))
    generator = torch.Generator("cpu").manual_seed(derived_seed(3, "image", 0))
    theirs = pipe(
        "zzq", num_inference_steps=2, width=32, height=32, generator=generator, output_type="np"
    ).images[0]
    assert np.abs(255 * theirs - ours).max() <= 1.01
    zero = plain.with_adapters([(run.folder, 0.0)])
    assert np.array_equal(zero.sample(1, prompt="zzq", seed=3, num_steps=2).array[0], before)
    saved = dq.load(plain.with_adapters([run.folder]).save(tmp_path / "merged"))
    assert np.array_equal(saved.sample(1, prompt="zzq", seed=3, num_steps=2).array[0], ours)
    assert model.family.digest() == plain.with_adapters([run.folder]).family.digest()


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["sdxl", "flux"])
def test_fine_tuning_a_pipeline_resumes_bit_for_bit(
    kind: str, pipeline_folder: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DANQING_CACHE", str(tmp_path / "cache"))
    data = pictures(tmp_path / "data")
    settings = {**SETTINGS, "adapter.prior": 0.5, "adapter.prior_images": 2, "batch_size": 2}
    settings["training.checkpointing"] = "on"
    options: dict[str, Any] = {"preset": "lora", "settings": settings}
    options["init"] = f"{pipeline_folder(kind)},steps=1,size=32"
    whole = dq.train(data, **options, images=8, out=tmp_path / "whole", listener=Heard())
    with pytest.raises(RuntimeError, match="stopped"):
        dq.train(data, **options, images=8, out=tmp_path / "parts", listener=Heard(stop_at=4))
    resumed = dq.train(data, **options, images=8, out=tmp_path / "parts", listener=Heard())
    one, other = (load_file(run.model / "pytorch_lora_weights.safetensors") for run in (whole, resumed))
    assert all(torch.equal(tensor, other[name]) for name, tensor in one.items())


def test_a_pipeline_that_cannot_be_fine_tuned_says_so(
    pipeline_folder: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DANQING_CACHE", str(tmp_path / "cache"))
    data = pictures(tmp_path / "data")
    options: dict[str, Any] = {"settings": SETTINGS, "images": 1, "listener": Heard()}
    with pytest.raises(ConfigError, match="SanaPipeline cannot be fine-tuned"):
        dq.train(data, preset="lora", init=pipeline_folder("sana"), out=tmp_path / "a", **options)
    with pytest.raises(ConfigError, match="add --preset lora"):
        dq.train(data, init=pipeline_folder("sd1"), out=tmp_path / "b", **options)
    options["settings"] = {**SETTINGS, "adapter.trigger": ""}
    with pytest.raises(ConfigError, match="no captions"):
        dq.train(data, preset="lora", init=pipeline_folder("sd1"), out=tmp_path / "c", **options)
