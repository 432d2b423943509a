"""The folder of a model, as the Hugging Face hub expects it: written atomically, checked when it is read."""

import json
import re
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch

from danqing import atomic, families, folder_formats, weights
from danqing.data.consent import read_consent
from danqing.errors import ConfigError, ModelError, first_line
from danqing.families.base import Family, Learner
from danqing.families.pipeline import Pipeline
from danqing.image_files.levels import is_range
from danqing.images import Images, encode
from danqing.model import pipelines, shipped
from danqing.model.card import card, measured_forms
from danqing.model.files import (
    ADAPTER,
    ADAPTER_CONFIG,
    CARD,
    CONFIG,
    PIPELINE_ADAPTER,
    WEIGHTS,
    ModelFiles,
    open_files,
)
from danqing.nets import adapters
from danqing.pipelines import hub
from danqing.pipelines.layout import INDEX, is_pipeline
from danqing.version import __version__

SAMPLES = "samples.png"
FILES = (CONFIG, WEIGHTS, CARD, SAMPLES, "scores.json", ADAPTER_CONFIG, ADAPTER, PIPELINE_ADAPTER)
SHRINK = "shrink.json"
"""The forms of the model that `danqing shrink` has measured, in the folder of the one that it chose."""
NEIGHBOURS = "neighbours.png"
"""Samples beside the training images nearest to them, once the model has been evaluated."""
_PICKLES = {".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".joblib", ".npy", ".npz"}
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}")
_MAX_CONFIG_BYTES = 10_000_000
_L = TypeVar("_L", bound=Learner)


def write(
    folder: Path,
    learner: Learner,
    facts: Mapping[str, Any],
    info: Mapping[str, Any],
    grid: Images | None = None,
    *,
    origin: Path | None = None,
    half: bool = False,
) -> Path:
    """Write a learner with its facts as a model folder.

    Of a learner with an adapter, only that is written.

    info: what the model card says.
    grid: samples; None where there are no new ones.
    origin: the folder that the learner comes from.
    half: store the weights in float16, which halves the file. Raises ModelError where they do not fit.
    Scores of these weights are kept: those in the folder, or else those in `origin`.
    """
    folder = folder.expanduser()
    folder.mkdir(parents=True, exist_ok=True)
    atomic.remove_leftovers(folder)
    if grid is not None:
        atomic.write_bytes(folder / SAMPLES, encode(grid.grid(), "png", marks=grid.marks))
    elif origin is not None and origin != folder:
        _copy_picture(origin / SAMPLES, folder / SAMPLES)
    if adapters.is_adapted(learner):
        atomic.write_bytes(folder / weights_file(learner), content_of(learner))
        atomic.write_json(folder / ADAPTER_CONFIG, adapters.settings(learner))
        digest, base = learner.digest(), adapters.base_of(learner)
        own = {"adapter": {"weights": base.digest, "trigger": base.trigger}}
    else:
        tensors, own = learner.state_dict(), {}
        stored = weights.halved(tensors) if half else tensors
        atomic.write_bytes(folder / WEIGHTS, weights.to_bytes(stored, {"format": "pt"}))
        digest = weights.digest({name: stored[name].to(tensor.dtype) for name, tensor in tensors.items()})
    if not _keep_scores(folder, folder, digest) and origin is not None:
        _keep_scores(origin, folder, digest)
    write_card(folder, info)
    config = {
        "library_name": "danqing",
        "format": folder_formats.MODEL,
        "danqing_version": __version__,
        **own,
        "model": learner.config.model_dump(mode="json"),
        "trained": dict(facts),
    }
    atomic.write_json(folder / "config.json", config)  # last: a folder without it is not a model
    return folder


def weights_file(learner: Learner) -> str:
    """Return the name of the file of weights, or of an adapter."""
    if not adapters.is_adapted(learner):
        return WEIGHTS
    return PIPELINE_ADAPTER if isinstance(learner, Pipeline) else ADAPTER


def content_of(learner: Learner) -> bytes:
    """Return the content of that file."""
    told = {"format": "pt"}
    if not adapters.is_adapted(learner):
        return weights.to_bytes(learner.state_dict(), told)
    if isinstance(learner, Pipeline):  # where `load_lora_weights` finds the scale and the layers
        named = {f"{learner.denoiser_name}.{key}": one for key, one in adapters.settings(learner).items()}
        told["lora_adapter_metadata"] = json.dumps(named)
    return weights.to_bytes(adapters.tensors(learner), told)


def write_card(folder: Path, info: Mapping[str, Any]) -> Path:
    """Write the model card; returns its path.

    It has the scores and the measured forms in the folder.
    """
    scores = _read_scores(folder)
    samples, neighbours = (name if (folder / name).exists() else None for name in (SAMPLES, NEIGHBOURS))
    text = card(info, scores, samples=samples, neighbours=neighbours)
    told = _read_json(folder / SHRINK)
    if isinstance(told, dict) and (table := measured_forms(told)):
        text += "\n".join(["", *table]) + "\n"
    atomic.write_text(folder / "README.md", text)
    return folder / "README.md"


def _keep_scores(origin: Path, folder: Path, digest: str) -> bool:
    """Keep in a folder those scores of another that belong to the weights of a digest, and their picture.

    Returns whether there are any.
    """
    there = _read_scores(origin)
    kept = [score for score in there if says_of(_settings(score), digest)]
    atomic.write_json(folder / "scores.json", kept)
    picture = origin / NEIGHBOURS
    if not kept or len(kept) < len(there):
        (folder / NEIGHBOURS).unlink(missing_ok=True)
    elif origin != folder:
        _copy_picture(picture, folder / NEIGHBOURS)
    return bool(kept)


def _copy_picture(picture: Path, target: Path) -> None:
    """Copy a picture of another model folder, if it has one."""
    if picture.is_file() and not picture.is_symlink():
        atomic.write_bytes(target, picture.read_bytes())


def _read_scores(folder: Path) -> list[dict[str, Any]]:
    """Return the scores in a folder as plain values.

    There are none where the file cannot be read, since that must not keep a model from being saved.
    """
    found = _read_json(folder / "scores.json")
    return [score for score in found if isinstance(score, dict)] if isinstance(found, list) else []


def _read_json(path: Path) -> Any:
    """Return the content of a file of figures; None where it cannot be read, or not be written again."""
    try:
        found = None if path.is_symlink() else json.loads(path.read_text(encoding="utf-8"))
        json.dumps(found, allow_nan=False)
    except (OSError, ValueError, RecursionError):
        return None
    return found


def says_of(settings: Mapping[str, Any], digest: str) -> bool:
    """Return whether a score may belong to the weights of a digest.

    settings: of the score. It may where the settings name no other weights.
    """
    return digest.startswith(str(settings.get("weights", "")))


def _settings(score: Mapping[str, Any]) -> Mapping[str, Any]:
    settings = score.get("settings")
    return settings if isinstance(settings, dict) else {}


def find(folder: Path) -> Path:
    """Return the model folder or sealed file that a path means.

    That is the model folder of a run, the one of a shipped model, or else the path itself.
    """
    if (of_package := shipped.find(folder)) is not None:
        return of_package
    is_run = (folder / "config.toml").exists()
    return folder / "model" if is_run else folder


def read(source: Path | ModelFiles) -> tuple[Family, dict[str, Any]]:
    """Read the family and the facts of a model.

    source: its folder, or its files.
    Raises ModelError with the reason where the folder cannot be trusted, or does not hold a family.
    """
    files = _opened(source)
    family, facts = examine(files)
    return _with_weights(family, files), facts


def read_learner(source: Path | ModelFiles) -> tuple[Learner, dict[str, Any]]:
    """Read a model whose learner may not sample images.

    source: as of `read`. Raises ModelError as `read` does.
    """
    files = _opened(source)
    learner, facts = examine_learner(files)
    return _with_weights(learner, files), facts


def _opened(source: Path | ModelFiles) -> ModelFiles:
    return source if isinstance(source, ModelFiles) else open_files(source)


def _with_weights(learner: _L, files: ModelFiles) -> _L:
    if isinstance(learner, Pipeline):  # it is loaded for the device that it is moved to
        return learner
    source = files.weights
    learner.load_state_dict(weights.read(source, learner.state_dict()), assign=True)
    tensors = [*learner.parameters(), *learner.buffers()]
    assert not any(tensor.is_meta for tensor in tensors)  # a buffer that no file holds is made on the CPU
    learner.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    weights.compact(source, [*learner.parameters(), *learner.buffers()])
    return learner


def names_a_family(folder: Path) -> bool:
    """Return whether the `config.json` of a folder describes a model."""
    try:
        with open(folder / FILES[0], "rb") as file:
            found = json.loads(file.read(_MAX_CONFIG_BYTES))
    except (OSError, ValueError, RecursionError):
        return False
    model = found.get("model") if isinstance(found, dict) else None
    return isinstance(model, dict) and "family" in model


def examine(source: Path | ModelFiles) -> tuple[Family, dict[str, Any]]:
    """Read a model without its weights, which are only checked.

    The weights of the family lie on the device "meta". Arguments and errors are those of `read`.
    """
    files = _opened(source)
    learner, facts = examine_learner(files)
    if not isinstance(learner, Family):
        name = families.display_name(learner.config.family)
        raise ModelError(f"{files.path} holds a {name}, which does not sample images: give another model.")
    return learner, facts


def examine_learner(source: Path | ModelFiles) -> tuple[Learner, dict[str, Any]]:
    """Read a model of any learner, without its weights.

    The learner may not sample images. Everything else is as of `examine`.
    """
    files = _opened(source)
    if files.is_pipeline:
        return pipelines.examine(files)
    if files.options:
        raise ModelError(
            f"{files.path} is not a pipeline, and is not loaded with {', '.join(files.options)}."
        )
    config = _read_config(files)
    if not files.has(WEIGHTS):
        pickles = [name for name in files.names() if Path(name).suffix.lower() in _PICKLES]
        if pickles:
            raise ModelError(
                f"{files.path} holds only pickled weights ({pickles[0]}), which may run code: use "
                "safetensors."
            )
    try:
        parsed = families.parse_config(config["model"])
        learner = families.without_weights(parsed)  # nothing is allocated until the weights are found to fit
    except (ConfigError, RecursionError) as error:
        raise ModelError(
            f"{files.path / CONFIG} does not describe a model that this version knows: {error}"
        ) from error
    learner.drop_training_only()
    weights.check(files.weights, learner.state_dict())
    return learner, plain_facts(config.get("trained"))


def fetch(
    repo_id: str, revision: str | None = None, *, whole: bool = False, variant: str = ""
) -> tuple[Path, Path]:
    """Download a model from the hub into the hub's own cache.

    whole: all of its files, as its signature lists them, and not only those that are used.
    variant: of the weights of a pipeline.
    Returns the model folder, and the folder within which its links lead. Raises ModelError.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import GatedRepoError

    try:
        wanted = None if whole else [*FILES, NEIGHBOURS, INDEX]
        snapshot = Path(snapshot_download(repo_id, revision=revision, allow_patterns=wanted))
    except GatedRepoError as error:
        raise ModelError(hub.gated(repo_id)) from error
    except hub.ERRORS as error:
        raise ModelError(
            f"{repo_id} is not a folder here, and the hub did not return it: "
            f"{first_line(error).removeprefix('Got: ')}"
        ) from error
    if is_pipeline(snapshot):
        snapshot = hub.fetch_pipeline(repo_id, snapshot, revision, variant)
    return snapshot, snapshot.parent.parent


def is_hub_id(name: str) -> bool:
    """Return whether a name is an id on the hub.

    An id has the form `owner/name`, and there is no such path here.
    """
    return bool(_HUB_ID.fullmatch(name)) and ".." not in name and not Path(name).exists()


def push(save: Callable[[str], Any], repo_id: str, *, private: bool, token: str | None) -> str:
    """Upload a model folder to the hub; returns the address. Raises ModelError.

    save: writes the model folder.
    """
    from huggingface_hub import HfApi

    api = HfApi(token=token)
    with tempfile.TemporaryDirectory() as folder:
        save(folder)
        try:
            address = api.create_repo(repo_id, private=private, exist_ok=True)
            api.upload_folder(repo_id=repo_id, folder_path=folder, commit_message="Upload a Danqing model")
        except hub.ERRORS as error:
            raise ModelError(f"The hub did not take {repo_id}: {first_line(error)}") from error
    return str(address)


def _read_config(files: ModelFiles) -> dict[str, Any]:
    path = files.path / CONFIG
    try:
        content = files.read(CONFIG, _MAX_CONFIG_BYTES + 1)
        if len(content) > _MAX_CONFIG_BYTES:
            raise ModelError(f"{path} is far larger than a configuration can be: do not use it.")
        config = json.loads(content.decode("utf-8"))
    except (FileNotFoundError, NotADirectoryError) as error:
        raise ModelError(_not_a_folder(files.path)) from error
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(f"{path} cannot be read ({error}): get a whole copy.") from error
    if isinstance(config, dict) and config.get("library_name") == "danqing":
        _check_format(path.parent, config)
    if not isinstance(config, dict) or not isinstance(config.get("model"), dict):
        raise ModelError(f"{path} is not the configuration of a Danqing model.")
    return config


def _check_format(folder: Path, config: Mapping[str, Any]) -> None:
    """Raise ModelError where a newer version wrote the folder in a format that is not known here."""
    number, version = folder_formats.format_of(config), config.get("danqing_version")
    if number is None or number < 1:
        raise ModelError(f"The format in {folder / FILES[0]} is not a number from 1 on: get a whole copy.")
    if number > folder_formats.MODEL:
        raise ModelError(
            f"{folder} was written by {folder_formats.writer(version)} in format {number}, and danqing "
            f"{__version__} reads formats up to {folder_formats.MODEL}: run "
            f"{folder_formats.install_command(version)}."
        )


def plain_facts(trained: Any) -> dict[str, Any]:
    """Return what a folder says of its training.

    What does not have the form that callers read is left out.
    """
    facts = trained if isinstance(trained, dict) else {}
    plain = _plain(facts)
    if isinstance(data := facts.get("data"), dict):
        plain["data"] = _plain(data)
        if isinstance(prepared := data.get("prepared"), dict):
            plain["data"]["prepared"] = _plain(prepared)
            if is_range(bounds := prepared.get("range")):
                plain["data"]["prepared"]["range"] = bounds
        if consent := read_consent(data.get("consent")).facts():
            plain["data"]["consent"] = consent
    if isinstance(tokenizer := facts.get("tokenizer"), dict):
        plain["tokenizer"] = _plain(tokenizer) | _networks(tokenizer)
    if isinstance(domain := facts.get("domain"), dict):  # `Domain.read` checks it
        plain["domain"] = domain
    if privacy := _privacy(facts.get("privacy")):
        plain["privacy"] = privacy
    return plain | _networks(facts)


def _privacy(told: Any) -> dict[str, Any]:
    """The privacy of a model, if it is told in full."""
    wanted: dict[str, Any] = {"epsilon": int | float, "delta": float, "steps": int, "secret": bool}
    if not isinstance(told, dict):
        return {}
    if told.get("steps"):
        wanted |= {"noise_multiplier": float, "sample_rate": float, "accountant": str}
    whole = all(isinstance(told.get(name), kind) for name, kind in wanted.items())
    return dict(told) if whole else {}


def _networks(facts: dict[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """The networks that a loss was computed with, as far as they have a name and a sha256."""
    told = facts.get("networks")
    found = [_plain(one) for one in told if isinstance(one, dict)] if isinstance(told, list) else []
    whole = [one for one in found if one.keys() >= {"name", "sha256"}]
    return {"networks": whole} if whole else {}


def _plain(facts: dict[str, Any]) -> dict[str, Any]:
    numbers: dict[str, Any] = {
        "images": int,
        "seconds": int | float,
        "seed": int,
        "held_out": float,
        "channels": int,
    }
    numbers |= {"ema_length": float, "temperature": float, "ignore_reservations": bool}
    return {key: value for key, value in facts.items() if isinstance(value, numbers.get(key, str))}


def _not_a_folder(folder: Path) -> str:
    inner = sorted(path.parent.name for path in folder.glob("*/config.toml"))
    if inner:
        one = folder / inner[0]
        return f"{folder} is not a model folder: it holds runs, so name one of them, such as {one}."
    return (
        f"{folder} is not a model folder: give one with config.json and model.safetensors, or a run folder."
    )
