"""How a pipeline is loaded: options that follow its folder or id after commas."""

import re
from collections.abc import Mapping
from typing import Annotated, Literal, Self

import torch
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from danqing.errors import ConfigError, explain

_SIZE = re.compile(r"([1-9]\d{0,4})(?:x([1-9]\d{0,4}))?", re.ASCII)
_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def _read_size(value: object) -> object:
    """Read `"768x512"` as (768, 512)."""
    found = _SIZE.fullmatch(value) if isinstance(value, str) else None
    return (found[1], found[2] or found[1]) if found else value


class LoadOptions(BaseModel):
    """Options of loading a pipeline.

    dtype: the number format of weights and products; auto is float32 on a processor, and bfloat16 (or float16
        where a GPU does not have it) elsewhere.
    offload: what stays in the memory of the processor while it is not computing. auto is none if all weights
        fit on the device, else model; model moves one network at a time, sequential one layer at a time.
    tiling: whether the autoencoder works in tiles on large images; less memory, with faint seams.
    slicing: whether the autoencoder works on one image at a time.
    quantize: the format in which the denoiser is stored. float8 needs no other package; int8 and nf4 need
        bitsandbytes and a GPU.
    attention: the backend of attention, as `diffusers` names it; auto is the library's own choice.
    chunk: images that are computed at once, always as many, so that an image depends on its own seed alone.
    size: (width, height) of images by default, and of the windows in which images are edited; None is the
        size that the model learned.
    steps, guidance: defaults of `num_steps` and `guidance_scale`.
    variant: which weights are read where there are several, such as fp16.
    revision: a branch, a tag or a commit on the hub.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    offload: Literal["auto", "none", "model", "sequential"] = "auto"
    tiling: bool = False
    slicing: bool = False
    quantize: Literal["none", "float8", "int8", "nf4"] = "none"
    attention: str = Field("auto", pattern=r"^[a-z0-9_]{1,64}$")
    chunk: int = Field(1, ge=1, le=64)
    size: Annotated[
        tuple[Annotated[int, Field(ge=16, le=4096)], Annotated[int, Field(ge=16, le=4096)]] | None,
        BeforeValidator(_read_size),
    ] = None
    steps: int | None = Field(None, ge=1, le=1000)
    guidance: float | None = Field(None, ge=0, le=100)
    variant: str = Field("", pattern=r"^\w{0,32}$")
    revision: str = ""

    @classmethod
    def of(cls, values: Mapping[str, object]) -> Self:
        """Check options; raises ConfigError."""
        unknown = [name for name in values if name not in cls.model_fields]
        if unknown:
            raise ConfigError(
                f"A pipeline is not loaded with {', '.join(unknown)}: its options are "
                f"{', '.join(cls.model_fields)}."
            )
        try:
            return cls.model_validate(dict(values))
        except ValidationError as error:
            raise ConfigError(f"An option of a pipeline is not valid: {explain(error)}") from error

    def torch_dtype(self, device: torch.device) -> torch.dtype:
        """Return the number format on a device."""
        if self.dtype != "auto":
            return _DTYPES[self.dtype]
        if device.type == "cpu":
            return torch.float32
        has_bfloat16 = device.type == "cuda" and torch.cuda.is_bf16_supported()
        return torch.bfloat16 if has_bfloat16 else torch.float16
