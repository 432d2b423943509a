"""The loss that a pipeline's network was trained with, from the library's own scheduler and network.

A UNet learns the noise, the velocity or the image of a noisy latent at a random step of its schedule (Ho et
al. 2020; Salimans and Ho 2022). A flow transformer learns the direction from latents to noise at a random
point of the straight line between them (Lipman et al. 2023), with times from a logit-normal distribution
(Esser et al. 2024, section 3.1), shifted as its scheduler says.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from danqing.errors import ConfigError
from danqing.pipelines.latents import packed, unpacked, without_overflow

Text = Mapping[str, Tensor]
"""What the text encoders of a pipeline make of one text."""


class Posterior(NamedTuple):
    """The latents of images as an autoencoder gives them: their mean and deviation, `[n, c, h, w]`."""

    mean: Tensor
    deviation: Tensor

    def sample(self, noise: Tensor) -> Tensor:
        """Return latents; noise: standard normal."""
        return self.mean + self.deviation * noise


class Denoising:
    """How the network of a pipeline learns.

    pipe: a pipeline of `diffusers`, loaded.
    """

    network: ClassVar[str] = "transformer"
    """The component that removes noise."""

    def __init__(self, pipe: Any) -> None:
        self.pipe = pipe

    @property
    def denoiser(self) -> nn.Module:
        """Return the network that removes noise."""
        denoiser: nn.Module = getattr(self.pipe, self.network)
        return denoiser

    def encode_text(self, text: str) -> Text:
        """Encode one text, without gradients."""
        raise NotImplementedError

    def encode_images(self, images: Tensor) -> Posterior:
        """Encode images `[n, 3, h, w]` in [-1, 1], without gradients.

        The latents have the scale that the network learned.
        """
        vae = self.pipe.vae
        with torch.no_grad(), without_overflow(vae):
            found = vae.encode(images.to(vae.dtype)).latent_dist
        shift = getattr(vae.config, "shift_factor", None) or 0.0
        scale = vae.config.scaling_factor
        return Posterior((found.mean.float() - shift) * scale, found.std.float() * scale)

    def draw_times(self, count: int, size: tuple[int, int], rng: torch.Generator) -> Tensor:
        """Draw the time of each image, `[n]`.

        size: (height, width) of the latents.
        """
        raise NotImplementedError

    def errors(self, latents: Tensor, noise: Tensor, times: Tensor, texts: Sequence[Text]) -> Tensor:
        """Compute the mean squared error of each image, `[n]` float32, with gradients.

        latents, noise: `[n, c, h, w]`. times: as of `draw_times`.
        """
        raise NotImplementedError

    def _typed(self, values: Tensor) -> Tensor:
        """Return values on the device and in the number format of the network."""
        weight = next(self.denoiser.parameters())
        return values.to(device=weight.device, dtype=weight.dtype)

    def _stacked(self, texts: Sequence[Text], name: str) -> Tensor:
        return self._typed(torch.stack([text[name] for text in texts]))


class UNetDenoising(Denoising):
    """Stable Diffusion 1 and 2, and Stable Diffusion XL."""

    network = "unet"

    def __init__(self, pipe: Any) -> None:
        super().__init__(pipe)
        from diffusers import DDPMScheduler

        scheduler: Any = DDPMScheduler
        self.scheduler = scheduler.from_config(pipe.scheduler.config)

    @torch.no_grad()
    def encode_text(self, text: str) -> Text:
        arguments = {"device": self.pipe.device, "num_images_per_prompt": 1}
        found = self.pipe.encode_prompt(text, do_classifier_free_guidance=False, **arguments)
        if len(found) == 2:
            return {"embeds": found[0][0]}
        return {"embeds": found[0][0], "pooled": found[2][0]}

    def draw_times(self, count: int, size: tuple[int, int], rng: torch.Generator) -> Tensor:
        steps = self.scheduler.config.num_train_timesteps
        return torch.randint(0, steps, (count,), generator=rng, device=rng.device)

    def errors(self, latents: Tensor, noise: Tensor, times: Tensor, texts: Sequence[Text]) -> Tensor:
        noisy, target = self.scheduler.add_noise(latents, noise, times), self._target(latents, noise, times)
        added = None
        if "pooled" in texts[0]:
            factor = self.pipe.vae_scale_factor
            sides = (latents.shape[2] * factor, latents.shape[3] * factor)
            ids = torch.tensor([[*sides, 0, 0, *sides]] * len(latents))
            added = {"text_embeds": self._stacked(texts, "pooled"), "time_ids": self._typed(ids)}
        found = self.denoiser(
            self._typed(noisy),
            times,
            encoder_hidden_states=self._stacked(texts, "embeds"),
            added_cond_kwargs=added,
            return_dict=False,
        )[0]
        return _mean_square(found, target)

    def _target(self, latents: Tensor, noise: Tensor, times: Tensor) -> Tensor:
        kind = self.scheduler.config.prediction_type
        if kind == "v_prediction":
            velocity: Tensor = self.scheduler.get_velocity(latents, noise, times)
            return velocity
        return noise if kind == "epsilon" else latents


class FlowDenoising(Denoising):
    """Flow transformers: what they share."""

    def draw_times(self, count: int, size: tuple[int, int], rng: torch.Generator) -> Tensor:
        times = torch.randn(count, generator=rng, device=rng.device).sigmoid()
        config = self.pipe.scheduler.config
        if config.get("use_dynamic_shifting"):
            shift = math.exp(_log_shift(config, size[0] * size[1] // 4))
        else:
            shift = config.get("shift") or 1.0
        return shift * times / (1 + (shift - 1) * times)

    def errors(self, latents: Tensor, noise: Tensor, times: Tensor, texts: Sequence[Text]) -> Tensor:
        share = times[:, None, None, None]
        noisy = (1 - share) * latents + share * noise
        return _mean_square(self.direction(noisy, times, texts), noise - latents)

    def direction(self, noisy: Tensor, times: Tensor, texts: Sequence[Text]) -> Tensor:
        """Return what the network takes for the direction from latents to noise, `[n, c, h, w]`."""
        raise NotImplementedError


class SD3Denoising(FlowDenoising):
    """Stable Diffusion 3."""

    @torch.no_grad()
    def encode_text(self, text: str) -> Text:
        found = self.pipe.encode_prompt(text, None, None, do_classifier_free_guidance=False)
        return {"embeds": found[0][0], "pooled": found[2][0]}

    def direction(self, noisy: Tensor, times: Tensor, texts: Sequence[Text]) -> Tensor:
        found: Tensor = self.denoiser(
            hidden_states=self._typed(noisy),
            timestep=1000 * times,
            encoder_hidden_states=self._stacked(texts, "embeds"),
            pooled_projections=self._stacked(texts, "pooled"),
            return_dict=False,
        )[0]
        return found


class FluxDenoising(FlowDenoising):
    """Flux; a model that was distilled with guidance learns without any, at the scale 1."""

    @torch.no_grad()
    def encode_text(self, text: str) -> Text:
        embeds, pooled, ids = self.pipe.encode_prompt(text, None)
        return {"embeds": embeds[0], "pooled": pooled[0], "ids": ids}

    def direction(self, noisy: Tensor, times: Tensor, texts: Sequence[Text]) -> Tensor:
        places = self.pipe._prepare_latent_image_ids(
            len(noisy), noisy.shape[2] // 2, noisy.shape[3] // 2, noisy.device, noisy.dtype
        )
        has_guidance = self.denoiser.config.guidance_embeds  # type: ignore[union-attr]
        found = self.denoiser(
            hidden_states=self._typed(packed(noisy)),
            timestep=times.to(noisy.dtype),
            guidance=torch.ones_like(times) if has_guidance else None,
            pooled_projections=self._stacked(texts, "pooled"),
            encoder_hidden_states=self._stacked(texts, "embeds"),
            txt_ids=self._typed(texts[0]["ids"]),
            img_ids=self._typed(places),
            return_dict=False,
        )[0]
        return unpacked(found, noisy.shape[2], noisy.shape[3])


class QwenImageDenoising(FlowDenoising):
    """Qwen-Image, whose texts have lengths of their own."""

    @torch.no_grad()
    def encode_text(self, text: str) -> Text:
        embeds, mask = self.pipe.encode_prompt(text)
        length = embeds.shape[1] if mask is None else int(mask[0].sum())
        return {"embeds": embeds[0, :length]}

    def encode_images(self, images: Tensor) -> Posterior:
        vae = self.pipe.vae
        with torch.no_grad():
            found = vae.encode(images.to(vae.dtype)[:, :, None]).latent_dist
        shift, scale = (
            torch.tensor(values, device=images.device)[:, None, None]
            for values in (vae.config.latents_mean, vae.config.latents_std)
        )
        return Posterior((found.mean[:, :, 0].float() - shift) / scale, found.std[:, :, 0].float() / scale)

    def direction(self, noisy: Tensor, times: Tensor, texts: Sequence[Text]) -> Tensor:
        every = [text["embeds"] for text in texts]
        embeds = nn.utils.rnn.pad_sequence(every, batch_first=True)
        lengths = torch.tensor([len(one) for one in every], device=embeds.device)
        mask = torch.arange(embeds.shape[1], device=embeds.device) < lengths[:, None]
        shape = (1, noisy.shape[2] // 2, noisy.shape[3] // 2)
        found = self.denoiser(
            hidden_states=self._typed(packed(noisy)),
            timestep=times.to(noisy.dtype),
            guidance=None,
            encoder_hidden_states_mask=mask.to(noisy.device),
            encoder_hidden_states=self._typed(embeds),
            img_shapes=[[shape]] * len(noisy),
            return_dict=False,
        )[0]
        return unpacked(found, noisy.shape[2], noisy.shape[3])


class ZImageDenoising(FlowDenoising):
    """Z-Image, whose network counts time backwards and returns the direction from noise to latents."""

    @torch.no_grad()
    def encode_text(self, text: str) -> Text:
        embeds, _ = self.pipe.encode_prompt(text, do_classifier_free_guidance=False)
        return {"embeds": embeds[0]}

    def direction(self, noisy: Tensor, times: Tensor, texts: Sequence[Text]) -> Tensor:
        found = self.denoiser(
            list(self._typed(noisy).unsqueeze(2).unbind(0)),
            self._typed(1 - times),
            [self._typed(text["embeds"]) for text in texts],
            return_dict=False,
        )[0]
        return -torch.stack(list(found)).squeeze(2)


_KINDS: Mapping[str, type[Denoising]] = {
    "StableDiffusionPipeline": UNetDenoising,
    "StableDiffusionXLPipeline": UNetDenoising,
    "StableDiffusion3Pipeline": SD3Denoising,
    "FluxPipeline": FluxDenoising,
    "QwenImagePipeline": QwenImageDenoising,
    "ZImagePipeline": ZImageDenoising,
}


def learns(kind: str) -> bool:
    """Return whether pipelines of a class can be fine-tuned."""
    return kind in _KINDS


def denoising_of(pipe: Any) -> Denoising:
    """Return how a pipeline learns; raises ConfigError where that is not known."""
    found = _KINDS.get(type(pipe).__name__)
    if found is None:
        known = ", ".join(name.removesuffix("Pipeline") for name in _KINDS)
        raise ConfigError(
            f"A {type(pipe).__name__} cannot be fine-tuned here: choose a model of the classes {known}."
        )
    if "sigma_data" in pipe.scheduler.config:  # its network sees scaled latents (Karras et al. 2022)
        raise ConfigError(
            f"A pipeline with {type(pipe.scheduler).__name__} cannot be fine-tuned here: choose a model with "
            "another scheduler."
        )
    return found(pipe)


def _log_shift(config: Any, places: int) -> float:
    """Return the logarithm of the shift of times.

    places: of the latents in two by two (Esser et al. 2024, section 5.3.2).
    """
    first, last = config.get("base_image_seq_len", 256), config.get("max_image_seq_len", 4096)
    low, high = config.get("base_shift", 0.5), config.get("max_shift", 1.15)
    slope = (high - low) / (last - first)
    return float(places * slope + low - slope * first)


def _mean_square(found: Tensor, target: Tensor) -> Tensor:
    return (found.float() - target.float().to(found.device)).square().flatten(1).mean(1)
