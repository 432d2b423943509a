"""The files of a pipeline, checked before anything of it is loaded: nothing in them can run."""

import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from torch import Tensor

from danqing import weights
from danqing.errors import ModelError

INDEX = "model_index.json"
_MAX_JSON_BYTES = 50_000_000
_NAME = re.compile(r"[A-Za-z_]\w{0,63}", re.ASCII)
_WEIGHTS = re.compile(
    r"(?P<stem>model|diffusion_pytorch_model)(?:-(?P<old>\d{5}-of-\d{5}))?(?:\.(?P<variant>\w+?))?"
    r"(?:-(?P<part>\d{5}-of-\d{5}))?\.safetensors",
    re.ASCII,
)
_PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".msgpack", ".h5")
_TEXTS = (".json", ".txt", ".model", ".jinja")
"""The files besides weights that components are read from."""


@dataclass(frozen=True)
class Component:
    """A part of a pipeline.

    library: `diffusers`, `transformers` or a module of the pipelines of `diffusers`. kind: its class.
    config: the content of its `config.json`, or of that of a scheduler; empty without one.
    weights: its files of weights; empty for schedulers and tokenizers. variant: which of several.
    """

    name: str
    library: str
    kind: str
    config: Mapping[str, Any] = field(default_factory=dict)
    weights: tuple[Path, ...] = ()
    variant: str | None = None

    def stand_ins(self) -> dict[str, Tensor]:
        """Return tensors on "meta" like the weights; raises ModelError."""
        return {name: one for path in self.weights for name, one in weights.stand_ins(path).items()}


@dataclass(frozen=True)
class Layout:
    """The files of a pipeline.

    folder: where they are. name: what people call it. kind: the class of the pipeline.
    components: by name, without those that it lacks. settings: other arguments of the class.
    """

    folder: Path
    name: str
    kind: str
    components: Mapping[str, Component]
    settings: Mapping[str, Any]

    def config_of(self, *names: str) -> Mapping[str, Any]:
        """Return the configuration of the first component that is there."""
        return next((self.components[name].config for name in names if name in self.components), {})

    @property
    def settings_text(self) -> str:
        """Return all configurations as text."""
        parts = {name: (one.kind, one.config) for name, one in self.components.items()}
        return json.dumps([self.kind, parts], sort_keys=True)

    def digest(self) -> str:
        """Compute the sha256 of weights and configurations; large files take a while."""
        hasher = hashlib.sha256((self.folder / INDEX).read_bytes())
        for name, component in sorted(self.components.items()):
            hasher.update(f"{name} {json.dumps(component.config, sort_keys=True)}".encode())
            for path in component.weights:
                with path.open("rb") as file:
                    hasher.update(hashlib.file_digest(file, "sha256").digest())
        return hasher.hexdigest()


def is_pipeline(folder: Path) -> bool:
    """Return whether a folder holds a pipeline."""
    return (folder / INDEX).is_file()


def read_layout(folder: Path, *, within: Path | None = None, name: str = "", variant: str = "") -> Layout:
    """Read which files a pipeline has, and check them.

    within: the folder in which links may lead, by default `folder`. name: what people call it, by default the
        name of the folder. variant: which weights to take where there are several.
    Raises ModelError for code that comes with it, pickled weights, missing and damaged files, and links that
    lead elsewhere.
    """
    places = _Places(folder, within or folder)
    index = places.json(INDEX)
    kind = index.get("_class_name")
    if not isinstance(kind, str) or not _NAME.fullmatch(kind):
        raise ModelError(
            f"{folder / INDEX} names a pipeline that comes with its own code ({kind!r}), which is never run: "
            "use a pipeline that is part of diffusers."
        )
    components, settings = {}, {}
    for key, value in index.items():
        if key.startswith("_"):
            continue
        if not isinstance(value, list):
            settings[key] = value
        elif len(value) == 2 and value[0] is not None and value[1] is not None:
            components[key] = _component(places, key, value, variant)
    return Layout(folder, name or folder.resolve().name, kind, components, settings)


def read_index(folder: Path, within: Path | None = None) -> dict[str, Any]:
    """Return the content of `model_index.json`; raises ModelError.

    within: as of `read_layout`.
    """
    return _Places(folder, within or folder).json(INDEX)


def wanted(names: Iterable[str], index: Mapping[str, Any], variant: str = "") -> list[str]:
    """Return which files of a repository a pipeline is loaded from.

    names: of all files. index: the content of `model_index.json`. variant: as of `read_layout`.
    """
    every, found = [PurePosixPath(name) for name in names], [INDEX, "README.md"]
    for key, value in index.items():
        if not (isinstance(value, list) and len(value) == 2 and value[0] is not None):
            continue
        inside = [path for path in every if path.parts[:-1] == (key,)]
        found += [str(path) for path in inside if path.suffix in _TEXTS]
        chosen, _ = choose_weights([path.name for path in inside], variant)
        found += [f"{key}/{name}" for name in chosen]
    return [name for name in found if PurePosixPath(name) in every]


def choose_weights(names: Sequence[str], variant: str = "") -> tuple[list[str], str | None]:
    """Return the files of weights to read, and their variant.

    names: of the files of a component. variant: the one to take if it is there. Otherwise weights without a
        variant are taken, or the first variant.
    """
    groups: dict[str, list[str]] = {}
    for name in sorted(names):
        if found := _WEIGHTS.fullmatch(name):
            groups.setdefault(found["variant"] or "", []).append(name)
    if not groups:
        return [], None
    chosen = variant if variant in groups else "" if "" in groups else next(iter(groups))
    parts = [name for name in groups[chosen] if "-of-" in name]
    return parts or groups[chosen], chosen or None


def _component(places: "_Places", name: str, value: Sequence[Any], variant: str) -> Component:
    library, kind = value
    if not (isinstance(library, str) and isinstance(kind, str)) or not (
        _NAME.fullmatch(name) and _NAME.fullmatch(library) and _NAME.fullmatch(kind)
    ):
        raise ModelError(f"{places.folder / INDEX} describes {name} in a way that is not known: {value!r}.")
    if (places.folder / name / f"{library}.py").exists() or (places.folder / f"{library}.py").exists():
        raise ModelError(
            f"The {name} of {places.folder} comes with its own code ({library}.py), which is never run: use "
            "a pipeline whose parts are in diffusers and transformers."
        )
    names = places.names(name)
    if not names:
        raise ModelError(f"{places.folder} lacks the files of its {name}: get a whole copy.")
    config_file = next((one for one in ("config.json", "scheduler_config.json") if one in names), None)
    config = {} if config_file is None else places.json(f"{name}/{config_file}")
    if config_file != "config.json":
        return Component(name, library, kind, config)
    chosen, found = choose_weights(names, variant)
    if not chosen:
        pickles = [one for one in names if one.endswith(_PICKLES)]
        if pickles:
            raise ModelError(
                f"{places.folder / name} holds only pickled weights ({pickles[0]}), which may run code: use "
                "a copy with safetensors."
            )
        raise ModelError(f"{places.folder / name} has no safetensors: get a whole copy.")
    places.check_parts(name, names, chosen)
    return Component(
        name, library, kind, config, tuple(places.file(f"{name}/{one}") for one in chosen), found
    )


@dataclass(frozen=True)
class _Places:
    """A folder whose files are read if they do not lie elsewhere."""

    folder: Path
    within: Path

    def file(self, name: str) -> Path:
        path = self.folder / name
        if not path.resolve().is_relative_to(self.within.resolve()):
            raise ModelError(f"{path} is a link that leads out of its folder: copy the file itself there.")
        return path

    def names(self, folder: str) -> list[str]:
        path = self.file(folder)
        return sorted(one.name for one in path.iterdir() if one.is_file()) if path.is_dir() else []

    def json(self, name: str) -> dict[str, Any]:
        path = self.file(name)
        try:
            if path.stat().st_size > _MAX_JSON_BYTES:
                raise ModelError(f"{path} is far larger than a configuration can be: do not use it.")
            found = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError) as error:
            raise ModelError(f"{path} cannot be read ({error}): get a whole copy.") from error
        if not isinstance(found, dict):
            raise ModelError(f"{path} is not a configuration: get a whole copy.")
        return found

    def check_parts(self, component: str, names: Sequence[str], chosen: Sequence[str]) -> None:
        """Check that weights in several files are whole.

        Their index must name files beside it alone.
        """
        folder = self.folder / component
        counts = {int(one.rpartition("-of-")[2][:5]) for one in chosen if "-of-" in one}
        if counts and counts != {len(chosen)}:
            raise ModelError(
                f"{folder} has {len(chosen)} of {max(counts)} files of weights: get a whole copy."
            )
        for index in (name for name in names if name.endswith(".json") and ".index." in name):
            listed = self.json(f"{component}/{index}").get("weight_map")
            files = listed.values() if isinstance(listed, dict) else [None]
            if not all(isinstance(one, str) and _WEIGHTS.fullmatch(one) for one in files):
                raise ModelError(
                    f"{folder / index} names files that are not weights beside it: do not use it."
                )
