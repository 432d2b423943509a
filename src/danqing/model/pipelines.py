"""Opens pipelines of `diffusers` where a model is expected."""

import shutil
import tempfile
from pathlib import Path
from typing import Any

from danqing.errors import ModelError
from danqing.families.pipeline import Pipeline
from danqing.model.files import ModelFiles
from danqing.pipelines.components import silent
from danqing.pipelines.layout import read_layout
from danqing.pipelines.options import LoadOptions


def examine(files: ModelFiles) -> tuple[Pipeline, dict[str, Any]]:
    """Read a pipeline and its facts, without its weights.

    They are read when it is moved to a device.
    Raises ModelError for files that cannot be trusted, and ConfigError for options that it cannot have.
    """
    if files.in_memory:
        raise ModelError(
            f"{files.path} holds a pipeline of diffusers, which is too large to be verified in memory: load "
            "it without a required signature, from a folder that nobody else can change."
        )
    options = LoadOptions.of(files.options)
    layout = read_layout(files.path, within=files.within, name=files.name, variant=options.variant)
    pipeline = Pipeline.open(layout, options)
    return pipeline, pipeline.facts()


def save(folder: Path, pipeline: Pipeline) -> Path:
    """Write a pipeline as `diffusers` lays it out, with its own card.

    folder: a new one, or one without files. Returns it. Raises ModelError.
    """
    if folder.is_dir() and any(folder.iterdir()):
        raise ModelError(f"{folder} has files already: choose a new folder for the pipeline.")
    if pipeline.load_options.quantize != "none":
        raise ModelError(
            "A pipeline that was quantized for this machine is not saved: load it without quantize."
        )
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}.") as home:
        whole = Path(home) / "whole"
        with silent():
            pipeline.pipe.save_pretrained(whole, safe_serialization=True)
        card = pipeline.layout.folder / "README.md"
        if card.is_file():
            shutil.copyfile(card, whole / card.name)
        whole.replace(folder)  # a folder that is there is complete
    return folder
