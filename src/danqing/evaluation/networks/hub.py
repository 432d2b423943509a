"""DINOv2 and CLIP through `transformers`: from a folder, or from what the hub's cache already holds."""

from importlib.util import find_spec
from typing import Any, Literal

import torch
from torch import Tensor, nn

from danqing.errors import EvaluationError
from danqing.evaluation.networks.batched import TorchNetwork
from danqing.evaluation.resize import in_words, prepared
from danqing.precision import Precision
from danqing.pretrained import fingerprint
from danqing.text.pretrained import quiet

Kind = Literal["dinov2", "clip"]

DEFAULTS: dict[Kind, str] = {
    "dinov2": "facebook/dinov2-large",
    "clip": "openai/clip-vit-large-patch14",
}
"""What published scores use: Stein et al. 2023 for DINOv2, Jayasumana et al. 2024 for CLIP."""

_MODEL_TYPES = {"dinov2": ("dinov2", "dinov2_with_registers"), "clip": ("clip", "clip_vision_model")}
_SIDE = 224
_Colours = tuple[tuple[float, ...], tuple[float, ...]]

_COLOURS: dict[Kind, _Colours] = {
    "dinov2": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "clip": ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)),
}
"""Mean and standard deviation of levels in [0, 1] that each was trained with."""


class HubNetwork(TorchNetwork):
    """The image vector of a vision transformer, at 224 pixels a side.

    DINOv2: its class token after the last normalisation; CLIP: its image embedding, not normalised. A model
    trained on smaller pictures than 224 takes its own size. Mean and standard deviation are those of its
    `preprocessor_config.json`, where it has one. Nothing is fetched, and only safetensors are read. Raises
    EvaluationError where the model is not there.
    """

    batch_size = 16

    def __init__(
        self,
        kind: Kind,
        source: str = "",
        *,
        device: torch.device | str = "cpu",
        precision: Precision = "float32",
    ) -> None:
        net = _load(kind, source or DEFAULTS[kind])
        config: Any = net.config
        mean, std = _colours(kind, source or DEFAULTS[kind])
        self.side = min(_SIDE, int(config.image_size))
        super().__init__(
            net,
            name=kind,
            sha256=fingerprint.of_tensors(net.state_dict()),
            resizer=in_words((self.side, self.side)),
            normalization=f"(x / 255 - {_listed(mean)}) / {_listed(std)}",
            dimensions=int(config.hidden_size if kind == "dinov2" else config.projection_dim),
            device=device,
            precision=precision,
        )
        self._kind = kind
        self._mean, self._std = (
            (torch.tensor(values) * 255)[:, None, None].to(self.device) for values in (mean, std)
        )

    def _inputs(self, images: Tensor) -> Tensor:
        return (prepared(images, (self.side, self.side)) - self._mean) / self._std

    def _vectors(self, inputs: Tensor) -> Tensor:
        found = self.module(pixel_values=inputs)
        vectors: Tensor = found.pooler_output if self._kind == "dinov2" else found.image_embeds
        return vectors


def _colours(kind: Kind, source: str) -> _Colours:
    """The mean and standard deviation that a model says it was trained with, or those usual for its kind."""
    from transformers.image_processing_base import ImageProcessingMixin

    try:
        told, _ = ImageProcessingMixin.get_image_processor_dict(source, local_files_only=True)
        mean, std = (tuple(map(float, told[name])) for name in ("image_mean", "image_std"))
    except (OSError, KeyError, TypeError, ValueError):
        return _COLOURS[kind]
    if len(mean) != 3 or len(std) != 3 or min(std) <= 0:
        raise EvaluationError(
            f"preprocessor_config.json of {source} needs three means and three positive standard deviations: "
            "get a whole copy."
        )
    return mean, std


def _listed(values: tuple[float, ...]) -> str:
    return f"[{', '.join(map(str, values))}]"


def _load(kind: Kind, source: str) -> nn.Module:
    if find_spec("transformers") is None:
        raise EvaluationError(f"{kind} needs transformers: run pip install 'danqing[transformers]'.")
    import transformers

    options: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
    try:
        config: Any = transformers.AutoConfig.from_pretrained(source, **options)
        if config.model_type not in _MODEL_TYPES[kind]:
            raise EvaluationError(f"{source} holds a model of type {config.model_type}, not {kind}.")
        if config.model_type == "clip":  # pictures and texts: only what sees the pictures is read
            config.vision_config.projection_dim = config.projection_dim
            config = config.vision_config
        family: Any = (
            transformers.AutoModel if kind == "dinov2" else transformers.CLIPVisionModelWithProjection
        )
        with quiet(transformers.utils.logging):
            net, report = family.from_pretrained(
                source,
                config=config,
                use_safetensors=True,
                dtype=torch.float32,
                output_loading_info=True,
                **options,
            )
    except (OSError, ValueError, RuntimeError) as error:
        raise EvaluationError(
            f"There is no {kind} model at {source}, neither as a folder nor in the hub's cache: run "
            f"hf download {source}, or name a folder with {kind}:FOLDER."
        ) from error
    if lacking := sorted(report["missing_keys"]):  # these would be random numbers
        raise EvaluationError(f"{source} lacks weights ({lacking[0]}, ...): get a whole copy.")
    found: nn.Module = net.eval()
    return found
