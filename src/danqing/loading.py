"""`load`: a model from wherever it is."""

from pathlib import Path

from danqing import model_folder
from danqing.model import Model
from danqing.training.precision import choose_device
from danqing.training.run import Run
from danqing.training.run_folder import RunFolder


def load(source: str | Path | Run, *, device: str = "cpu", revision: str | None = None) -> Model:
    """The model in a model folder, a run folder, a finished or stopped `Run`, or a hub repository
    `owner/name`.

    Nothing in it is executed. `revision` is a hub branch, tag or commit. Raises ModelError with the reason
    when the model cannot be trusted or read.
    """
    if isinstance(source, Run):
        source = source.model
    if model_folder.is_hub_id(str(source)):
        family, facts = model_folder.download(str(source), revision)
    else:
        run = RunFolder(source)
        family, facts = model_folder.read(run.model if run.config_file.exists() else run.path)
    return Model(family, facts).to(choose_device(device))
