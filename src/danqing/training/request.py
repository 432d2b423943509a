"""From the arguments of `train` to a checked configuration, and what the run starts from."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from danqing import presets
from danqing.cluster.world import world
from danqing.errors import ConfigError
from danqing.model.loading import HasModel
from danqing.model.model import Model
from danqing.training import private_rules, tasks, transfer
from danqing.training.config import RunConfig
from danqing.training.config_reading import overlaid, resolve, without_auto
from danqing.training.grains import FEWEST as FEWEST_GRAINS

ModelSource = str | Path | HasModel | Model
"""What names a trained model."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What a run shall be.

    config: with the absolute place of its data. source: the trained model that it starts from. preset, size,
    settings: as requested, with what a task chose. chooses_grains: whether the settings name the number of
    grains.
    """

    config: RunConfig
    source: transfer.Source | None
    preset: str | None
    size: tuple[int, int] | None
    settings: Mapping[str, Any]
    chooses_grains: bool


def read_request(
    data: str | Path,
    *,
    preset: str | None,
    task: str | None,
    mode: str | None,
    config: str | Path | None,
    settings: Mapping[str, Any],
    size: tuple[int, int] | Literal["auto"] | None,
    tokenizer: ModelSource | None,
    init: ModelSource | None,
    clean: str | Path | None,
    evaluate_every: int | None,
    patience: int | None,
    private: Mapping[str, Any],
    secure: bool,
    processes: int | None,
    seed: int | None,
    minutes: float | None,
    images: int | None,
) -> Request:
    """Check the arguments of `train`, and read the model that a run starts from.

    Raises ConfigError and ModelError.
    """
    preset, settings = _of_task(task, mode, preset, config, settings)
    size, settings = without_auto(size, settings)
    budget = {"minutes": minutes, "images": images}
    dotted: dict[str, Any] = {
        "evaluation.every_images": evaluate_every,
        "evaluation.patience_images": patience,
    }
    if tokenizer is not None:
        dotted["tokenizer.model"] = _as_setting(model_path(tokenizer))
    if clean is not None:
        dotted["data.clean"] = _as_setting(clean)
    of_init = None
    if preset in presets.overlays():
        of_init, preset = preset, None
        if init is None or config is not None:
            raise ConfigError(
                f"The preset {of_init} changes how a trained model is trained: add --init MODEL, and no "
                "--config."
            )
    source = None if init is None else transfer.Source(_absolute(model_path(init)))
    values = None if source is None else source.values()
    if source is not None:
        dotted["init"] = json.dumps(source.model, ensure_ascii=False)
        if values is not None and of_init is None and config is None:
            raise ConfigError(f"{source.name} is fine-tuned by an adapter: add --preset lora.")
        if preset is None and config is None and values is None:
            preset = source.preset()
    dotted |= {f"private.{name}": value for name, value in private.items()}
    given = {**settings, **{key: value for key, value in dotted.items() if value is not None}}
    if of_init is not None:
        assert source is not None  # checked above
        name = of_init if values is None else f"{of_init}-pipeline"
        given, budget = overlaid(name, given, budget, source.learner.config.family)
    if source is not None:
        size, given = transfer.decided(source, given, preset=preset, config=config, size=size)

    def resolved() -> RunConfig:
        return resolve(
            preset=preset, config=config, settings=given, values=values, size=size, seed=seed, **budget
        )

    wanted = resolved()
    chooses_grains = bool({"grains", "training.grains"} & given.keys())
    if (processes or world().size > 1) and not chooses_grains and wanted.training.grains == 1:
        given["training.grains"] = max(FEWEST_GRAINS, world().size)
        wanted = resolved()
    if secure:
        wanted = private_rules.secured(wanted)
    private_rules.check(wanted)
    return Request(
        config=wanted.model_copy(update={"source": _absolute(data)}),
        source=source,
        preset=of_init or preset,
        size=size,
        settings=settings,
        chooses_grains=chooses_grains,
    )


def model_path(model: ModelSource) -> str:
    """Return the folder or hub id of a model; raises ConfigError."""
    if isinstance(model, Model):
        if model.origin is None:
            raise ConfigError(
                "This model is not in a folder: give its hub id, or save it and give its folder."
            )
        return str(model.origin)
    return str(model) if isinstance(model, str | Path) else str(model.model)


def _of_task(
    task: str | None,
    mode: str | None,
    preset: str | None,
    config: str | Path | None,
    settings: Mapping[str, Any],
) -> tuple[str | None, Mapping[str, Any]]:
    """Return the preset and the settings of a task, or those that are given."""
    if task is None:
        if mode is not None:
            raise ConfigError("mode is for a task such as upscale: give a task, or leave mode out.")
        return preset, settings
    if preset is not None or config is not None:
        raise ConfigError("A task chooses its preset: give task, preset or config.")
    return tasks.choose(task, mode, settings)


def _as_setting(source: str | Path) -> str:
    """Return a path as a setting, which is TOML."""
    return json.dumps(_absolute(source), ensure_ascii=False)


def _absolute(source: str | Path) -> str:
    """Return the source as an absolute path, so that a run can be resumed from another folder."""
    place, comma, options = str(source).partition(",")  # how a pipeline is loaded
    if Path(source).exists() or not Path(place).exists():
        return str(Path(source).resolve()) if Path(source).exists() else str(source)
    return f"{Path(place).resolve()}{comma}{options}"
