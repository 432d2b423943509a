"""What the call of a pipeline takes: its options, and how a request becomes its arguments."""

import functools
import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from danqing.errors import ConfigError
from danqing.pipelines.kinds import Kind, steps_and_guidance
from danqing.pipelines.layout import Layout
from danqing.pipelines.options import LoadOptions

_NOT_OPTIONS = frozenset(
    {
        *("height", "width", "num_inference_steps", "num_images_per_prompt", "return_dict", "output_type"),
        *("strength", "padding_mask_crop", "clip_skip", "callback_steps", "use_resolution_binning"),
        *("clean_caption", "num_images", "decoder_num_inference_steps"),
    }
)
"""Arguments that are not options of sampling: others set them, or they change what is returned."""


@dataclass(frozen=True)
class Call:
    """How pipelines of a class are called.

    defaults: of the arguments of the pipeline that generates images.
    """

    layout: Layout
    kind: Kind
    load: LoadOptions
    defaults: Mapping[str, Any]

    @functools.cached_property
    def options(self) -> dict[str, Any]:
        """Return the options of sampling with their defaults."""
        steps, guidance = steps_and_guidance(self.layout, self.kind, self.defaults)
        chosen: dict[str, Any] = {"num_steps": self.load.steps or steps}
        if guidance is not None:
            chosen["guidance_scale"] = guidance if self.load.guidance is None else self.load.guidance
        used = {*_NOT_OPTIONS, self.kind.guidance, "guidance_scale"}
        others = {
            name: default
            for name, default in self.defaults.items()
            if name not in used and isinstance(default, bool | int | float)
        }
        return chosen | others

    @property
    def tokens(self) -> int:
        """Return the longest text that is read, in tokens.

        It is 0 where the tokenizer alone says so.
        """
        most = self.defaults.get("max_sequence_length")
        return most if isinstance(most, int) and not isinstance(most, bool) else 0

    @property
    def is_guided(self) -> bool:
        """Return whether images are guided by default."""
        return float(self.options.get("guidance_scale", 1)) > 1

    def arguments(
        self,
        texts: Sequence[str],
        negative: Sequence[str] | None,
        options: Mapping[str, Any],
        taken: Mapping[str, Any],
    ) -> dict[str, Any]:
        """Return the arguments that say what to make, and how.

        texts, negative: one for each image. options: those that are requested.
        taken: the parameters of the pipeline that is called, with their defaults.
        Raises ConfigError for a negative prompt that would have no effect.
        """
        chosen = {**self.options, **options}
        given: dict[str, Any] = {"prompt": list(texts), "num_inference_steps": chosen.pop("num_steps")}
        scale = chosen.pop("guidance_scale", None)
        if scale is not None:
            given[self.kind.guidance] = scale
        given |= {name: value for name, value in chosen.items() if name in taken}
        effect = "true_cfg_scale" if "true_cfg_scale" in taken else self.kind.guidance
        leads = float(given.get(effect) or 0) > 1
        if negative is not None and any(text.strip() for text in negative):
            if "negative_prompt" not in taken:
                raise ConfigError("This pipeline reads no negative prompt: leave it out.", "negative_prompt")
            if not leads:
                option = "guidance_scale" if effect == self.kind.guidance else effect
                raise ConfigError(
                    f"The negative prompt has no effect unless {option} is above 1.", "negative_prompt"
                )
            given["negative_prompt"] = list(negative)
        elif leads and self.kind.empty_prompt is not None:
            given["negative_prompt"] = [self.kind.empty_prompt] * len(texts)
        if "use_resolution_binning" in taken:  # images would be made at another size and resized
            given["use_resolution_binning"] = False
        return given


@functools.lru_cache(maxsize=64)
def parameters_of(pipeline: Any) -> Mapping[str, Any]:
    """Return the parameters of a pipeline's call with their defaults.

    They are None where there is none. pipeline: its class.
    """
    taken = inspect.signature(pipeline.__call__).parameters.values()
    return {
        one.name: None if one.default is one.empty else one.default
        for one in taken
        if one.kind is not one.VAR_KEYWORD and one.name != "self"
    }
