"""Loads a model from a folder, a run, the hub or the package."""

from pathlib import Path
from typing import Protocol

from danqing.model import folder as model_folder
from danqing.model.model import Model
from danqing.precision import choose_device


class HasModel(Protocol):
    """A run that knows where its model folder is."""

    @property
    def model(self) -> Path: ...


def load(source: str | Path | HasModel, *, device: str = "cpu", revision: str | None = None) -> Model:
    """Load a model from a folder, run, hub or the package.

    source: a model folder, a run folder, a finished or stopped `Run`, a hub repository `owner/name`, or
        "demo", the model that comes with the package.
    revision: a hub branch, tag or commit.
    Nothing in the source is executed. Raises ModelError with the reason where it cannot be trusted or read.
    """
    if not isinstance(source, str | Path):
        source = source.model
    if model_folder.is_hub_id(str(source)):
        return Model(*model_folder.download(str(source), revision)).to(choose_device(device))
    folder = model_folder.find(Path(source))
    model = Model(*model_folder.read(folder)).to(choose_device(device))
    model.origin = folder.resolve()
    return model
