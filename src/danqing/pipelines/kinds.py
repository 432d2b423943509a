"""How each class of pipelines is called: one table, and a rule for all other classes."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from danqing.errors import ModelError
from danqing.pipelines.layout import Layout

_NO_GUIDANCE = "turbo|lightning|schnell|hyper|sprint"
_FEW_STEPS = {"z-image-turbo": 9, "sd-turbo": 1, "sdxl-turbo": 1}
_USUAL_FEW = 4


@dataclass(frozen=True)
class Kind:
    """How a class of pipelines is called.

    name: of the class of models. classes: of `diffusers`, that generate, vary and fill images; "" for none.
    denoiser: the component that removes noise.
    learned: the sides of an image in latents, where the configuration does not say.
    divisor: of the sides of an image in pixels, which the class checks. patch: latents along a patch.
    guidance: the argument that leads away from the negative prompt, and `guidance_scale` sets.
    empty_prompt: the negative prompt where none is requested and guidance needs one; None for the default.
    fixed_text: whether all texts have the same length inside, whatever stands beside them.
    """

    name: str
    classes: tuple[str, str, str]
    denoiser: str = "transformer"
    learned: int = 128
    divisor: int = 1
    patch: int = 1
    guidance: str = "guidance_scale"
    empty_prompt: str | None = None
    fixed_text: bool = True


def _classes(stem: str) -> tuple[str, str, str]:
    return f"{stem}Pipeline", f"{stem}Img2ImgPipeline", f"{stem}InpaintPipeline"


KINDS = (
    Kind("stable-diffusion", _classes("StableDiffusion"), "unet", learned=64, divisor=8),
    Kind("stable-diffusion-xl", _classes("StableDiffusionXL"), "unet", divisor=8),
    Kind("stable-diffusion-3", _classes("StableDiffusion3"), patch=2),
    Kind("flux", _classes("Flux"), patch=2),
    Kind(
        "qwen-image",
        _classes("QwenImage"),
        patch=2,
        guidance="true_cfg_scale",
        empty_prompt=" ",
        fixed_text=False,
    ),
    Kind("z-image", _classes("ZImage"), patch=2, fixed_text=False),
    Kind("sana", ("SanaPipeline", "", ""), learned=32, divisor=32),
    Kind("pixart-alpha", ("PixArtAlphaPipeline", "", ""), divisor=8, patch=2),
    Kind("pixart-sigma", ("PixArtSigmaPipeline", "", ""), divisor=8, patch=2),
)
"""The classes that are known; all others are called as their signature says."""


def kind_of(layout: Layout) -> Kind:
    """Return how a pipeline is called.

    Raises ModelError for a network that also reads a mask or another image, and where there is none.
    """
    read = layout.config_of("unet").get("in_channels")
    latents = layout.config_of("vae").get("latent_channels")
    if isinstance(read, int) and isinstance(latents, int) and read != latents:
        raise ModelError(
            f"{layout.name} was made for one kind of editing alone: its network reads {read} channels, not "
            f"the {latents} of an image. Use the text-to-image pipeline that it comes from, which also fills "
            "images."
        )
    known = next((kind for kind in KINDS if layout.kind in kind.classes), None)
    usual = "unet" if "unet" in layout.components else "transformer"
    denoiser = usual if known is None else known.denoiser
    if denoiser not in layout.components:
        raise ModelError(
            f"{layout.name} has no {denoiser}, which would remove the noise: get a whole copy, or use "
            "another pipeline."
        )
    if known is None:
        return Kind(layout.kind, _related(layout.kind), denoiser, divisor=16, fixed_text=False)
    transformer = layout.config_of("transformer")
    if known.name == "flux" and not transformer.get("guidance_embeds"):  # distilled without guidance
        return Kind(known.name, known.classes, patch=2, guidance="true_cfg_scale", empty_prompt="")
    return known


def _related(name: str) -> tuple[str, str, str]:
    """Return the classes that `diffusers` itself relates to a class."""
    from diffusers.pipelines import auto_pipeline as auto

    maps = (
        auto.AUTO_TEXT2IMAGE_PIPELINES_MAPPING,
        auto.AUTO_IMAGE2IMAGE_PIPELINES_MAPPING,
        auto.AUTO_INPAINT_PIPELINES_MAPPING,
    )
    for key in dict.fromkeys(key for one in maps for key, value in one.items() if value.__name__ == name):
        found = [one[key].__name__ if key in one else "" for one in maps]
        return found[0] or name, found[1], found[2]
    return name, "", ""


def latent_factor(layout: Layout) -> int:
    """Return the pixels along a latent."""
    config = layout.config_of("vae", "vqvae", "movq")
    if isinstance(levels := config.get("temperal_downsample"), list):
        return int(2 ** len(levels))
    for name in ("block_out_channels", "encoder_block_out_channels"):
        if isinstance(levels := config.get(name), list):
            return int(2 ** max(len(levels) - 1, 0))
    return 8


def learned_size(layout: Layout, kind: Kind) -> tuple[int, int]:
    """Return the (width, height) of the images that a pipeline learned."""
    side = layout.config_of(kind.denoiser).get("sample_size")
    sides: list[Any] = side if isinstance(side, list) and len(side) == 2 else [side, side]
    if kind.name in ("flux", "qwen-image", "z-image") or not all(isinstance(one, int) for one in sides):
        sides = [kind.learned, kind.learned]
    factor = latent_factor(layout)
    return int(sides[1] * factor), int(sides[0] * factor)


def size_multiple(layout: Layout, kind: Kind) -> int:
    """Return what the sides of an image are multiples of, in pixels."""
    patch = layout.config_of(kind.denoiser).get("patch_size", 1)
    steps = kind.patch if kind.name in ("flux", "qwen-image", "z-image") else patch
    return math.lcm(kind.divisor, latent_factor(layout) * (steps if isinstance(steps, int) else kind.patch))


def few_steps(layout: Layout, kind: Kind) -> tuple[int, float] | None:
    """Return the steps and the guidance of a distilled model.

    None for any other. The configuration of `diffusers` does not say, so the name of the model does.
    """
    name = layout.name.lower()
    if not re.search(_NO_GUIDANCE, name):
        return (_USUAL_FEW, 1.0) if kind.name == "flux" and kind.guidance == "true_cfg_scale" else None
    steps = next((count for ending, count in _FEW_STEPS.items() if ending in name), _USUAL_FEW)
    return steps, 1.0 if kind.guidance == "true_cfg_scale" else 0.0


def steps_and_guidance(layout: Layout, kind: Kind, defaults: Mapping[str, Any]) -> tuple[int, float | None]:
    """Return the default number of steps, and the default guidance.

    defaults: of the arguments of the pipeline.
    """
    usual = few_steps(layout, kind)
    scale = defaults.get(kind.guidance)
    steps = defaults.get("num_inference_steps")
    own = steps if isinstance(steps, int) else 50
    guidance = float(scale) if isinstance(scale, int | float) else None
    return (own, guidance) if usual is None else (usual[0], None if guidance is None else usual[1])
