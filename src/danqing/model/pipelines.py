"""Opens pipelines of `diffusers` where a model is expected."""

from typing import Any

from danqing.errors import ModelError
from danqing.families.pipeline import Pipeline
from danqing.model.files import ModelFiles
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
