"""Models with adapters: where the base of an adapter is found, and adapters that are merged into it."""

import copy
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from danqing import families
from danqing.errors import ConfigError, ModelError
from danqing.families.base import Family, Learner
from danqing.families.pipeline import Pipeline
from danqing.model import adapter_files
from danqing.model import folder as model_folder
from danqing.model.adapter_files import Adapter
from danqing.model.files import CONFIG, Access, ModelFiles, open_files
from danqing.nets import adapters
from danqing.pipelines.sources import MODELSCOPE, split_source
from danqing.trust.sealed_file import is_sealed

MOST_WEIGHT = 4.0
"""The largest weight of an adapter: beyond it, images break."""
_DEEPEST = 8
"""So many adapters may belong to each other; more do so in a circle."""
_WEIGHT = re.compile(r"[-+]?(?:\d+\.?\d*|\.\d+)")


@dataclass(frozen=True)
class Weighted:
    """An adapter and how much of it is used.

    weight: 1 is as it was trained, 0 not at all.
    """

    adapter: Adapter
    weight: float

    def in_words(self) -> str:
        """Return its name and its weight."""
        return f"{self.adapter.name} at {self.weight:g}"


def parse(text: str | Path | tuple[str | Path, float]) -> tuple[str, float]:
    """Return the source and the weight of an adapter.

    text: "runs/cats:0.8", "runs/cats" for the weight 1, or a pair of both.
    Raises ConfigError for a weight that is not allowed.
    """
    if isinstance(text, tuple):
        source, weight = str(text[0]), float(text[1])
    else:
        source, weight = str(text), 1.0
        before, colon, after = source.rpartition(":")
        if colon and _WEIGHT.fullmatch(after) and not Path(source).exists():
            source, weight = before, float(after)
    if not math.isfinite(weight) or abs(weight) > MOST_WEIGHT:
        raise ConfigError(f"The weight of an adapter is between -{MOST_WEIGHT:g} and {MOST_WEIGHT:g}.")
    return source, weight


def open_adapter(source: str | Path, access: Access | None = None) -> Adapter:
    """Read an adapter.

    source: a run folder, a folder or a hub id. Raises ModelError.
    """
    return adapter_files.read(open_model(str(source), access=access))


def open_model(source: str, revision: str | None = None, access: Access | None = None) -> ModelFiles:
    """Open the files of a model or an adapter.

    source: a run folder, a model folder, a sealed file or a hub id. Raises ModelError and TrustError.
    """
    access = access or Access()
    place, options = split_source(source)
    revision, variant = revision or options.get("revision"), options.get("variant", "")
    if place.startswith(MODELSCOPE):
        from danqing.pipelines import modelscope

        folder = modelscope.fetch(place, revision, variant, model_folder.FILES)
        return open_files(folder, access=access, name=place.removeprefix(MODELSCOPE), options=options)
    if model_folder.is_hub_id(place):
        folder, within = model_folder.fetch(place, revision, whole=bool(access.require), variant=variant)
        return open_files(folder, within=within, access=access, name=place, options=options)
    return open_files(model_folder.find(Path(place).expanduser()), access=access, options=options)


def read_learner(
    files: ModelFiles, access: Access | None = None, *, depth: int = 0
) -> tuple[Learner, dict[str, Any]]:
    """Read a model, or an adapter with its base.

    The learner may not sample images.

    access: what the base of an adapter must satisfy. depth: how many adapters lead here.
    Raises ModelError.
    """
    if depth > _DEEPEST:
        raise ModelError(f"{files.path} is an adapter of an adapter, and so on: use another copy.")
    if not adapter_files.is_adapter(files):
        return model_folder.read_learner(files)
    adapter = adapter_files.read(files)
    learner, _ = read_learner(_base_of(adapter, access), access, depth=depth + 1)
    merged = with_adapters(learner, [Weighted(adapter, 1.0)], adapter.base)
    return merged, model_folder.plain_facts(adapter.config.get("trained"))


def read(files: ModelFiles, access: Access | None = None) -> tuple[Family, dict[str, Any]]:
    """Read a model that samples images, or an adapter of one.

    Arguments and errors are those of `read_learner`.
    """
    if not adapter_files.is_adapter(files):
        return model_folder.read(files)
    learner, facts = read_learner(files, access)
    assert isinstance(learner, Family)  # only these get adapters
    return learner, facts


def examine_learner(
    files: ModelFiles, access: Access | None = None, *, depth: int = 0
) -> tuple[Learner, dict[str, Any]]:
    """Read a model or an adapter without its weights.

    These are only checked. Arguments and errors are those of `read_learner`.
    """
    if not adapter_files.is_adapter(files):
        return model_folder.examine_learner(files)
    adapter = adapter_files.read(files)
    if depth > _DEEPEST:
        raise ModelError(f"{files.path} is an adapter of an adapter, and so on: use another copy.")
    base, _ = examine_learner(_base_of(adapter, access), access, depth=depth + 1)
    if isinstance(base, Pipeline):
        return read_learner(files, access)
    learner = families.without_weights(_config_of(adapter))
    learner.drop_training_only()
    return learner, model_folder.plain_facts(adapter.config.get("trained"))


def with_adapters(learner: Learner, wanted: Sequence[Weighted], name: str = "") -> Learner:
    """Return a copy of a learner with adapters merged into its weights.

    What is not requested of it is drawn as in the data of the first adapter.
    name: of the learner, for sentences.
    Raises ModelError where an adapter was trained on other weights.
    """
    digest = learner.digest()
    for each in wanted:
        each.adapter.check_base(digest, name)
    added = [adapters.Added(each.adapter.tensors, each.adapter.settings, each.weight) for each in wanted]
    if isinstance(learner, Pipeline):  # it is loaded with them
        pipeline = learner.with_added(added)
        pipeline.config = _config_of(wanted[0].adapter) if wanted else pipeline.config
        return pipeline
    adapted = copy.deepcopy(learner)
    parts = []
    for number, one in enumerate(added):
        adapters.put(adapted, one, f"part{number}")
        parts.append((wanted[number].adapter.digest, one.weight))
    if wanted:
        adapters.merge(adapted)
        adapted.config = _config_of(wanted[0].adapter)
        adapted.merged_digest = adapters.combined_digest(digest, parts)  # type: ignore[assignment]
    adapted.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return adapted


def facts_of(wanted: Sequence[Weighted]) -> dict[str, Any]:
    """Return what is known of the training of adapters.

    It is that of the first one; its data are those of all, whose licences count for the images.
    """
    found = [model_folder.plain_facts(each.adapter.config.get("trained")) for each in wanted]
    data = dict(found[0].get("data", {}))
    for name in ("name", "licence", "citation"):
        told = dict.fromkeys(str(one) for each in found if (one := each.get("data", {}).get(name)))
        if told:
            data[name] = "; ".join(told)
    return {**found[0], "data": data}


def _config_of(adapter: Adapter) -> Any:
    model = adapter.config.get("model")
    if not isinstance(model, dict):
        raise ModelError(
            f"The adapter {adapter.name} has no configuration: use one that danqing train has made."
        )
    return families.parse_config(model)


def _base_of(adapter: Adapter, access: Access | None) -> ModelFiles:
    """Open the base of an adapter where it was when the adapter was trained; raises ModelError."""
    reason = None
    try:
        files = open_model(adapter.base, access=access)
        if adapter.base and (files.has(CONFIG) or files.is_pipeline or is_sealed(files.path)):
            return files
    except ModelError as error:
        reason = error
    raise ModelError(
        f"The adapter {adapter.name} needs the model that it was trained on, and that is no longer at "
        f"{adapter.base or 'a known place'}: give the model and the adapter, as in danqing sample MODEL "
        f"--adapter {adapter.name}."
    ) from reason
