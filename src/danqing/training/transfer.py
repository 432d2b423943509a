"""Starting a run from a trained model: which of its weights and settings the run takes.

Weights are matched by name and shape. Rows that belong to labels are matched by the names of the labels,
since label 3 of one data set is not label 3 of another. Weights of another vocabulary or of other attributes
are not taken, even where their shapes fit.
"""

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from danqing import families, presets
from danqing.data import Dataset
from danqing.errors import ConfigError
from danqing.families.abilities import HasTokenizer
from danqing.families.base import Family, FamilyConfig, Learner, ReadsText
from danqing.model import adapted
from danqing.model.loading import open_source
from danqing.names import first_few
from danqing.training import checkpoint
from danqing.training.config_reading import full_name, resolve
from danqing.training.run_folder import RunFolder

_TRUNK = "trunk."
"""How the names of a trunk begin that another learner lends."""


class Source:
    """A trained model that a run starts from.

    model: a run folder, a model folder or a hub id.
    Raises ModelError where it cannot be read.
    """

    def __init__(self, model: str) -> None:
        self.model = model
        self.learner, self.facts = adapted.read_learner(open_source(model))

    @property
    def name(self) -> str:
        """Return what the model is called in sentences."""
        kind = families.display_name(self.learner.config.family)
        return f"{self.model} ({kind})"

    @cached_property
    def digest(self) -> str:
        """Return the digest of the weights."""
        return self.learner.digest()

    def weights(self) -> dict[str, Tensor]:
        """Return the weights by name, with those that only a run keeps.

        A discriminator is not in a model folder, but in the checkpoints of its run. What a family lends has
        its weights under the name by which it is lent, too.
        """
        state = dict(self.learner.state_dict())
        lends = self.learner.lends if isinstance(self.learner, Family) else ""
        if isinstance(self.learner, Family) and (lent := self.learner.lent()) is not None:
            state |= lent.state_dict(prefix=f"{lends}.")
        folder = Path(self.model)
        run = RunFolder(folder if (folder / "config.toml").exists() else folder.parent)
        is_of_run = folder in (run.path, run.model)
        if lends in self.learner.training_only and is_of_run and run.has_checkpoints:
            found = checkpoint.read_latest(run.checkpoints)
            prefix = f"family/{lends}."
            for name, tensor in (found[0] if found else {}).items():
                if name.startswith(prefix):
                    state[name.removeprefix("family/")] = tensor
        return state

    def values(self) -> dict[str, Any] | None:
        """Return the plain configuration of a run that fine-tunes a pipeline; None for other models."""
        config = self.learner.config
        if config.family != families.PIPELINE:
            return None
        plain = config.model_dump(mode="json", exclude_none=True)
        return {
            "family": config.family,
            "model": {k: v for k, v in plain.items() if k not in config.from_data},
        }

    def preset(self) -> str:
        """Return the preset of its family and task, nearest in size.

        Raises ConfigError if there is none.
        """
        config = self.learner.config
        two_stages = getattr(config, "tokenizer", None) is not None
        found = {name: presets.read(name) for name in presets.names()}
        of_family = {
            name: values
            for name, values in found.items()
            if values["family"] == config.family and ("tokenizer" in values) == two_stages
        }
        if not of_family:
            kind = families.display_name(config.family)
            raise ConfigError(f"No preset trains a {kind}: give --preset or --task for what to train.")

        def distance(name: str) -> tuple[bool, int]:
            values = of_family[name]
            width, height = values.get("size", (config.width, config.height))
            other_task = values.get("task", "") != self.facts.get("task", "")
            return other_task, abs(int(width) * int(height) - config.width * config.height)

        return min(of_family, key=distance)

    def settings(self, wanted: FamilyConfig) -> dict[str, Any]:
        """Return the settings that let these weights fit, by their dotted names.

        wanted: the model of the run as it would be otherwise. Its settings of training are not touched.
        """
        own, target = self.learner.config, type(wanted)
        plain = own.model_dump(mode="json", exclude_none=True)
        lends = isinstance(self.learner, Family) and bool(self.learner.lends)
        if lends and "lender" in target.model_fields:
            return {"model.net": "lent", "model.lender": _lender(own)}
        if own.family == wanted.family:
            names = set(plain) - own.from_data
        else:
            names = set(own.trunk_settings) & set(wanted.trunk_settings)
        return {f"model.{name}": plain[name] for name in sorted(names & plain.keys())}

    def may_have_seen(self, judged: Dataset, training: Dataset) -> bool:
        """Return whether it may have learned from held-out images."""
        data = self.facts.get("data", {})
        same = data.get("name") == judged.info.name
        return bool(same and data.get("fingerprint") != training.fingerprint)


def _lender(config: FamilyConfig) -> dict[str, Any]:
    """Return the plain settings of a generative model without what it took from its data but the shape.

    Its tokenizer stays. It reads no captions, whose vocabulary belongs to its data.
    """
    kept = {"family", "width", "height", "channels", "tokenizer"}
    defaults = {name: field.get_default() for name, field in type(config).model_fields.items()}
    bare = {name: defaults[name] for name in config.from_data - kept if name in defaults}
    if config.reads_text:
        bare["conditional"] = False
    return config.model_copy(update=bare).model_dump(mode="json", exclude_none=True)


def decided(
    source: Source,
    given: Mapping[str, Any],
    *,
    preset: str | None,
    config: str | Path | None,
    size: tuple[int, int] | None,
) -> tuple[tuple[int, int] | None, dict[str, Any]]:
    """Return the size and settings of a run with a source.

    The source decides what the user does not.
    given: the user's settings. The size is that of the source, unless a size or a file is given.
    """
    wanted = resolve(preset=preset, config=config, settings=given, size=size, values=source.values())
    chosen = {full_name(key, wanted.family) for key in given}
    own = {key: value for key, value in source.settings(wanted.model).items() if key not in chosen}
    if wanted.tokenizer is not None and isinstance(source.learner, HasTokenizer):
        own |= {} if "tokenizer.model" in chosen else {"tokenizer.model": json.dumps(source.model)}
    if size is None and config is None and not chosen & {"size", "data.buckets"}:
        size = source.learner.config.width, source.learner.config.height
    return size, {**own, **given}


@dataclass(frozen=True, slots=True)
class _Rows:
    """Rows of a tensor that belong to labels which both models know."""

    axis: int
    here: Tensor
    values: Tensor


@dataclass(frozen=True, slots=True)
class Carried:
    """The weights that a learner takes from another.

    whole: by name. rows: of labels. kept, new: how many numbers of each child. source: of the other.
    news: sentences on what the new model is told or makes that the other was not.
    """

    whole: Mapping[str, Tensor]
    rows: Mapping[str, _Rows]
    kept: Mapping[str, int]
    new: Mapping[str, int]
    source: FamilyConfig
    news: tuple[str, ...] = ()

    def apply(self, learner: Learner) -> None:
        """Write the weights into a learner."""
        state = learner.state_dict()
        with torch.no_grad():
            for name, tensor in self.whole.items():
                state[name].copy_(tensor)
            for name, part in self.rows.items():
                state[name].index_copy_(part.axis, part.here, part.values)
            learner.on_start(self.source)

    def in_words(self, name: str) -> str:
        """Return a sentence on what is kept; name: of the source."""
        kept, every = sum(self.kept.values()), sum(self.kept.values()) + sum(self.new.values())
        text = f"Starts from {name}: {kept:,} of {every:,} weights are kept ({', '.join(self.kept)})"
        text += f"; new: {', '.join(f'{child} ({n:,})' for child, n in self.new.items()) or 'none'}."
        return " ".join([text, *self.news])

    def facts(self, source: Source) -> dict[str, Any]:
        """Return what `run.json` says of this."""
        return {
            "model": source.model,
            "family": source.learner.config.family,
            "weights": source.digest,
            "kept": dict(self.kept),
            "new": dict(self.new),
            "text": self.in_words(source.name),
        }


def carry(source: Source, config: FamilyConfig) -> Carried:
    """Find the weights of a source that fit a model.

    config: of the model, completed for its data.
    Raises ConfigError where none fits.
    """
    known, learner = source.weights(), families.without_weights(config)
    theirs, labels = source.learner.config, _changes(config, _one_label_more(config))
    others = _unlike(theirs, config)
    whole, rows, kept, new = dict[str, Tensor](), dict[str, _Rows](), Counter[str](), Counter[str]()
    for name, tensor in learner.state_dict().items():
        if not tensor.is_floating_point() or name.startswith("tokenizer."):
            continue
        child, size = name.partition(".")[0], tensor.numel()
        found = known.get(name, known.get(name.removeprefix(_TRUNK)))
        count = 0
        if found is not None and name not in others:
            if name in labels:
                if part := _of_labels(found, tensor, labels[name], theirs, config):
                    rows[name], count = part, part.values.numel()
            elif found.shape == tensor.shape:
                whole[name], count = found, size
        kept[child] += count
        new[child] += size - count
    carried = Carried(whole, rows, +kept, +new, theirs, tuple(_news(theirs, config)))
    if not carried.kept:
        kind = families.display_name(config.family)
        raise ConfigError(
            f"No weights of {source.name} fit this {kind}: give a model with the same network, or leave "
            "--init out."
        )
    return carried


def _news(theirs: FamilyConfig, ours: FamilyConfig) -> Iterator[str]:
    """Say what a model is told or makes that another was not."""
    sizes = [f"{one.width}x{one.height}" for one in (theirs, ours)]
    if sizes[0] != sizes[1]:
        yield f"Its images are {sizes[1]}, and were {sizes[0]}."
    known, here = _labels(theirs), _labels(ours)
    if ours.reads_labels and here != known and here:
        new = [label for label in here if label not in known]
        shared = len(here) - len(new)
        told = f"{shared} of {len(here)} labels are known" if shared else "All labels are new"
        yield f"{told}{f', new: {first_few(new)}' if new and shared else ''}."
    if ours.reads_text and not theirs.reads_text:
        yield "It reads captions for the first time."
    elif ours.reads_text and getattr(ours, "text_facts", None) != getattr(theirs, "text_facts", None):
        yield "Its captions have another vocabulary."


def _of_labels(
    found: Tensor, wanted: Tensor, axis: int, theirs: FamilyConfig, ours: FamilyConfig
) -> _Rows | None:
    """Return the rows of the labels that both know, and of no label, if there is one.

    None if there are none, or other axes disagree.
    """
    shapes = [(*t.shape[:axis], *t.shape[axis + 1 :]) for t in (found, wanted)]
    known, here = _labels(theirs), _labels(ours)
    shared = [label for label in here if label in known]
    more = found.shape[axis] - len(known), wanted.shape[axis] - len(here)
    if not shared or shapes[0] != shapes[1] or more not in ((0, 0), (1, 1)):
        return None
    places = [[names.index(label) for label in shared] for names in (known, here)]
    rows = [
        torch.tensor(one + [len(names)] * more[0]) for one, names in zip(places, (known, here), strict=True)
    ]
    return _Rows(axis, rows[1], found.index_select(axis, rows[0]))


def _one_label_more(config: FamilyConfig) -> FamilyConfig:
    more = {name: (*found, "\0") for name in ("labels", "label_set") if (found := getattr(config, name, ()))}
    return config.model_copy(update={**more, "label_frequencies": (), "label_captions": ()})


def _labels(config: FamilyConfig) -> tuple[str, ...]:
    """Return the labels of a model, one for each image or several."""
    found: tuple[str, ...] = getattr(config, "label_set", ()) or config.labels
    return found


def _unlike(theirs: FamilyConfig, ours: FamilyConfig) -> set[str]:
    """Return the names of tensors that fit by shape and mean something else."""
    names = set[str]()
    if ours.attributes and ours.attributes != theirs.attributes:
        names |= _changes(ours, ours.model_copy(update={"attributes": (), "attribute_examples": ()})).keys()
    if isinstance(ours, ReadsText) and ours.text_facts is not None:
        known = theirs.text_facts if isinstance(theirs, ReadsText) else None
        if ours.text_facts != known:
            one_more = {"vocabulary": ours.text_facts.vocabulary + 1, "width": ours.text_facts.width + 1}
            sizes = {name: size for name, size in one_more.items() if getattr(ours.text_facts, name)}
            other = ours.model_copy(update={"text_facts": ours.text_facts.model_copy(update=sizes)})
            names |= _changes(ours, other).keys()
    return names


def _changes(config: FamilyConfig, other: FamilyConfig) -> dict[str, int]:
    """Return the tensors whose shape another configuration changes, and along which axis, or removes."""
    if config == other:
        return {}
    before, after = (families.without_weights(each).state_dict() for each in (config, other))
    changed = {}
    for name, tensor in before.items():
        shape = after[name].shape if name in after else torch.Size()
        if shape != tensor.shape:
            pairs = enumerate(zip(tensor.shape, shape, strict=False))
            changed[name] = next((axis for axis, (one, two) in pairs if one != two), 0)
    return changed
