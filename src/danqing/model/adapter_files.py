"""The folder of an adapter: the two files that `peft` loads, and what Danqing knows of it besides."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from torch import Tensor

from danqing import weights
from danqing.errors import ModelError
from danqing.model.files import ADAPTER, ADAPTER_CONFIG, CONFIG, PIPELINE_ADAPTER, ModelFiles

_MOST_BYTES = 4 * 2**30
_MOST_CONFIG_BYTES = 10_000_000


@dataclass(frozen=True)
class Adapter:
    """An adapter in a folder.

    name: of its folder. settings: the content of `adapter_config.json`. config: the content of `config.json`,
    empty for an adapter that Danqing has not made. tensors: its matrices by name.
    """

    name: str
    settings: Mapping[str, Any]
    config: Mapping[str, Any]
    tensors: Mapping[str, Tensor]

    @property
    def base(self) -> str:
        """Return where its base was when it was trained.

        That is a folder or a hub id, or "" if it is unknown.
        """
        return str(self.settings.get("base_model_name_or_path") or "")

    @property
    def told(self) -> Mapping[str, Any]:
        """Return what `config.json` says of it under "adapter"."""
        found = self.config.get("adapter")
        return found if isinstance(found, dict) else {}

    @property
    def base_digest(self) -> str:
        """Return the digest of the weights that it was trained on.

        It is "" if that is unknown.
        """
        return str(self.told.get("weights") or "")

    @property
    def trigger(self) -> str:
        """Return the word that means what it learned, or ""."""
        return str(self.told.get("trigger") or "")

    @property
    def rank(self) -> int:
        """Return the rank of its matrices."""
        return int(self.settings.get("r") or 0)

    @cached_property
    def digest(self) -> str:
        """Return the digest of its matrices."""
        return weights.digest(self.tensors)

    def check_base(self, digest: str, name: str) -> None:
        """Raise ModelError unless it was trained on a model.

        digest: of the model's weights. name: of the model, for the sentence.
        """
        if not self.base_digest:
            raise ModelError(
                f"The adapter {self.name} does not say which model it was trained on: use one that "
                "danqing train has made."
            )
        if self.base_digest != digest:
            known = f" ({self.base})" if self.base else ""
            raise ModelError(
                f"The adapter {self.name} was trained on the weights {self.base_digest[:12]}{known}, and "
                f"{name or 'this model'} has the weights {digest[:12]}: give the model that it was trained "
                "on."
            )


def is_adapter(files: ModelFiles) -> bool:
    """Return whether files are those of an adapter of a Danqing model."""
    return files.has(ADAPTER_CONFIG) and files.has(CONFIG)


def read(files: ModelFiles) -> Adapter:
    """Read an adapter; raises ModelError with the reason otherwise."""
    weights_file = PIPELINE_ADAPTER if files.has(PIPELINE_ADAPTER) else ADAPTER
    if not (files.has(ADAPTER_CONFIG) and files.has(weights_file)):
        raise ModelError(
            f"{files.path} is not an adapter: give a folder with {ADAPTER_CONFIG} and {ADAPTER}, or a run "
            "that has trained one."
        )
    settings = _table(files, ADAPTER_CONFIG)
    if settings.get("peft_type") != "LORA" or settings.get("use_dora"):
        kind = "DORA" if settings.get("use_dora") else settings.get("peft_type")
        raise ModelError(f"{files.path} is an adapter of the kind {kind}: only LORA can be used.")
    content = files.read(weights_file, _MOST_BYTES)
    try:
        tensors = load_tensors(content)
    except (SafetensorError, ValueError) as error:
        raise ModelError(
            f"{files.path / weights_file} cannot be read ({error}): get a whole copy."
        ) from error
    config = _table(files, CONFIG) if files.has(CONFIG) else {}
    name = files.path.parent.name if files.path.name == "model" else files.path.name
    return Adapter(name, settings, config, tensors)


def _table(files: ModelFiles, name: str) -> dict[str, Any]:
    try:
        found = json.loads(files.read(name, _MOST_CONFIG_BYTES).decode("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(f"{files.path / name} cannot be read ({error}): get a whole copy.") from error
    if not isinstance(found, dict):
        raise ModelError(f"{files.path / name} is not a table of settings: get a whole copy.")
    return found
