"""Estimates the memory of a pipeline before it is loaded.

Weights follow from the headers of files. Activations are counted: the denoiser and the decoder are built from
their configurations on "meta", where tensors have shapes and no content, and run once.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from danqing.live_bytes import LiveBytes
from danqing.pipelines.components import class_of, silent
from danqing.pipelines.kinds import Kind, latent_factor
from danqing.pipelines.layout import Component, Layout
from danqing.pipelines.options import LoadOptions

_STORED = {"float8": 1.0, "int8": 1.0, "nf4": 0.53}
"""Bytes of a weight that is quantized, with its share of the scales."""
_CLIP_TOKENS = 77


@dataclass(frozen=True)
class MemoryEstimate:
    """The bytes that a pipeline takes.

    weights: of each component. reading, denoising, decoding: what computing a chunk takes besides weights, in
        the encoders of text, the denoiser and the decoder.
    """

    weights: Mapping[str, int]
    reading: int
    denoising: int
    decoding: int

    @property
    def activations(self) -> int:
        """Return the most that computing takes besides weights."""
        return max(self.reading, self.denoising, self.decoding)

    def on_device(self, offload: str) -> int:
        """Return the most bytes on the device.

        offload: as of `LoadOptions`.
        """
        every = self.weights.values()
        held = {"none": sum(every), "model": max(every, default=0), "sequential": 0}[offload]
        return held + self.activations


def estimate(
    layout: Layout,
    kind: Kind,
    options: LoadOptions,
    device: torch.device,
    *,
    size: tuple[int, int],
    guided: bool,
    tokens: int,
) -> MemoryEstimate:
    """Estimate the memory of loading and of computing a chunk of images.

    size: (width, height) of the images. guided: whether guidance is used. tokens: the longest text.
    """
    dtype = options.torch_dtype(device)
    rows = options.chunk
    factor = latent_factor(layout)
    latents = rows, size[1] // factor, size[0] // factor
    batched = 2 if guided and kind.guidance == "guidance_scale" and kind.name != "flux" else 1
    reading = denoising = decoding = held = 0
    with silent(), torch.no_grad():
        for name, component in layout.components.items():
            if name.startswith("text_encoder") and component.library == "transformers":
                reading = max(reading, _reading(component, rows, tokens, dtype))
        if (inputs := _INPUTS.get(kind.name)) is not None:
            component = layout.components[kind.denoiser]
            given = inputs(component.config, (batched * rows, *latents[1:]), tokens, dtype)
            network = _on_meta(component, dtype)
            held = _bytes(given) + 2 * _bytes(given.get("sample", given.get("hidden_states", given.get("x"))))
            denoising = _peak(lambda: network(**given, return_dict=False)) + held
        if (component := layout.components.get("vae")) is not None:  # type: ignore[assignment]
            decoding = _decoding(component, options, latents, dtype) + held
    return MemoryEstimate(
        {name: _stored(one, options, dtype) for name, one in layout.components.items() if one.weights},
        reading,
        denoising,
        decoding,
    )


def _stored(component: Component, options: LoadOptions, dtype: torch.dtype) -> int:
    """Return the bytes of a component's weights once they are loaded."""
    is_quantized = options.quantize != "none" and component.name in ("unet", "transformer")
    total = 0.0
    for tensor in component.stand_ins().values():
        size = dtype.itemsize if tensor.is_floating_point() else tensor.element_size()
        if is_quantized and tensor.dim() > 1:
            size = _STORED[options.quantize]  # type: ignore[assignment]
        total += tensor.numel() * size
    return int(total)


def _on_meta(component: Component, dtype: torch.dtype) -> Any:
    """Return a network of `diffusers` without content."""
    chosen = class_of(component)
    with torch.device("meta"):
        return chosen.from_config(dict(component.config)).to(dtype).eval()


def _reading(component: Component, rows: int, tokens: int, dtype: torch.dtype) -> int:
    """Count what an encoder of texts takes."""
    chosen = class_of(component)
    config = chosen.config_class.from_dict(dict(component.config))
    with torch.device("meta"):
        network = chosen._from_config(config).to(dtype).eval()
    most = getattr(config, "max_position_embeddings", tokens) if "CLIP" in component.kind else tokens
    ids = _empty(rows, most, dtype=torch.int64)
    return _peak(lambda: network(input_ids=ids, output_hidden_states=True))


def _peak(compute: Callable[[], object]) -> int:
    with _Attention(), LiveBytes() as counted:
        compute()
    return max(counted.trace, default=0)


class _Attention(TorchFunctionMode):
    """Counts attention as devices compute it, without a matrix of all pairs."""

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is F.scaled_dot_product_attention:
            given = dict(zip(("query", "key", "value"), args, strict=False)) | (kwargs or {})
            query, value = given["query"], given["value"]
            return query.new_empty(*query.shape[:-1], value.shape[-1])
        return func(*args, **(kwargs or {}))


def _decoding(
    component: Component, options: LoadOptions, shape: tuple[int, int, int], dtype: torch.dtype
) -> int:
    rows, height, width = shape
    config, decoder = component.config, _on_meta(component, dtype)
    if options.tiling:
        decoder.enable_tiling()
    if options.slicing:
        decoder.enable_slicing()
    channels = int(config.get("latent_channels") or config.get("z_dim") or 4)
    frames = (1,) if "z_dim" in config else ()
    latents = _empty(rows, channels, *frames, height, width, dtype=dtype)
    return _peak(lambda: decoder.decode(latents, return_dict=False))


def _bytes(tree: object) -> int:
    return sum(one.nbytes for one in tree_leaves(tree) if isinstance(one, Tensor))


def _empty(*shape: int, dtype: torch.dtype) -> Tensor:
    return torch.empty(shape, dtype=dtype, device="meta")


_Inputs = Callable[[Mapping[str, Any], tuple[int, int, int], int, torch.dtype], dict[str, Any]]


def _of_unet(
    config: Mapping[str, Any], shape: tuple[int, int, int], tokens: int, dtype: torch.dtype
) -> dict[str, Any]:
    n, height, width = shape
    inputs: dict[str, Any] = {
        "sample": _empty(n, int(config["in_channels"]), height, width, dtype=dtype),
        "timestep": _empty(dtype=torch.int64),
        "encoder_hidden_states": _empty(n, _CLIP_TOKENS, int(config["cross_attention_dim"]), dtype=dtype),
    }
    if config.get("addition_embed_type") == "text_time":
        times = 6
        pooled = int(config["projection_class_embeddings_input_dim"])
        pooled -= times * int(config["addition_time_embed_dim"])
        inputs["added_cond_kwargs"] = {
            "text_embeds": _empty(n, pooled, dtype=dtype),
            "time_ids": _empty(n, times, dtype=dtype),
        }
    return inputs


def _of_sd3(
    config: Mapping[str, Any], shape: tuple[int, int, int], tokens: int, dtype: torch.dtype
) -> dict[str, Any]:
    n, height, width = shape
    return {
        "hidden_states": _empty(n, int(config["in_channels"]), height, width, dtype=dtype),
        "encoder_hidden_states": _empty(
            n, _CLIP_TOKENS + tokens, int(config["joint_attention_dim"]), dtype=dtype
        ),
        "pooled_projections": _empty(n, int(config["pooled_projection_dim"]), dtype=dtype),
        "timestep": _empty(n, dtype=dtype),
    }


def _packed(config: Mapping[str, Any], shape: tuple[int, int, int], dtype: torch.dtype) -> Tensor:
    n, height, width = shape
    return _empty(n, (height // 2) * (width // 2), int(config["in_channels"]), dtype=dtype)


def _of_flux(
    config: Mapping[str, Any], shape: tuple[int, int, int], tokens: int, dtype: torch.dtype
) -> dict[str, Any]:
    n, images = shape[0], _packed(config, shape, dtype)
    return {
        "hidden_states": images,
        "timestep": _empty(n, dtype=dtype),
        "guidance": _empty(n, dtype=dtype) if config.get("guidance_embeds") else None,
        "pooled_projections": _empty(n, int(config["pooled_projection_dim"]), dtype=dtype),
        "encoder_hidden_states": _empty(n, tokens, int(config["joint_attention_dim"]), dtype=dtype),
        "txt_ids": _empty(tokens, 3, dtype=dtype),
        "img_ids": _empty(images.shape[1], 3, dtype=dtype),
    }


def _of_qwen(
    config: Mapping[str, Any], shape: tuple[int, int, int], tokens: int, dtype: torch.dtype
) -> dict[str, Any]:
    n, height, width = shape
    return {
        "hidden_states": _packed(config, shape, dtype),
        "timestep": _empty(n, dtype=dtype),
        "encoder_hidden_states": _empty(n, tokens, int(config["joint_attention_dim"]), dtype=dtype),
        "encoder_hidden_states_mask": None,
        "img_shapes": [[(1, height // 2, width // 2)]] * n,
    }


def _of_z_image(
    config: Mapping[str, Any], shape: tuple[int, int, int], tokens: int, dtype: torch.dtype
) -> dict[str, Any]:
    n, height, width = shape
    channels, features = int(config["in_channels"]), int(config["cap_feat_dim"])
    return {
        "x": [_empty(channels, 1, height, width, dtype=dtype) for _ in range(n)],
        "t": _empty(n, dtype=dtype),
        "cap_feats": [_empty(tokens, features, dtype=dtype) for _ in range(n)],
    }


def _of_captions(
    config: Mapping[str, Any], shape: tuple[int, int, int], tokens: int, dtype: torch.dtype
) -> dict[str, Any]:
    n, height, width = shape
    return {
        "hidden_states": _empty(n, int(config["in_channels"]), height, width, dtype=dtype),
        "encoder_hidden_states": _empty(n, tokens, int(config["caption_channels"]), dtype=dtype),
        "encoder_attention_mask": _empty(n, tokens, dtype=torch.int64),
        "timestep": _empty(n, dtype=torch.int64),
    }


def _of_pixart(
    config: Mapping[str, Any], shape: tuple[int, int, int], tokens: int, dtype: torch.dtype
) -> dict[str, Any]:
    sizes: dict[str, Tensor | None] = {"resolution": None, "aspect_ratio": None}
    if config.get("sample_size") == 128 and config.get("use_additional_conditions") is not False:
        sizes = {
            "resolution": _empty(shape[0], 2, dtype=dtype),
            "aspect_ratio": _empty(shape[0], 1, dtype=dtype),
        }
    return {**_of_captions(config, shape, tokens, dtype), "added_cond_kwargs": sizes}


_INPUTS: Mapping[str, _Inputs] = {
    "stable-diffusion": _of_unet,
    "stable-diffusion-xl": _of_unet,
    "stable-diffusion-3": _of_sd3,
    "flux": _of_flux,
    "qwen-image": _of_qwen,
    "z-image": _of_z_image,
    "sana": _of_captions,
    "pixart-alpha": _of_pixart,
    "pixart-sigma": _of_pixart,
}
"""What the denoiser of each class takes.

It follows from its configuration, (rows, height, width) in latents, the tokens and the number format.
"""
