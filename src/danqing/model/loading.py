"""Loads a model from a folder, a run, a sealed file, the hub or the package."""

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from danqing.model import folder as model_folder
from danqing.model.files import Access, ModelFiles, open_files
from danqing.model.model import Model
from danqing.pipelines import modelscope
from danqing.pipelines.sources import MODELSCOPE, split_source
from danqing.precision import choose_device
from danqing.trust.settings import MarkSettings


class HasModel(Protocol):
    """A run that knows where its model folder is."""

    @property
    def model(self) -> Path: ...


Signers = str | Path | Sequence[str | Path]
"""The file of a public key, or several, one of which must have signed a model."""


def load(
    source: str | Path | HasModel,
    *,
    device: str = "cpu",
    revision: str | None = None,
    require: Signers = (),
    key: str | Path | None = None,
    passphrase: str | None = None,
    marks: str | MarkSettings | None = None,
) -> Model:
    """Load a model from a folder, run, sealed file or the hub.

    source: a model folder, a run folder, a finished or stopped `Run`, a file of `danqing seal`, a hub
        repository `owner/name` or `modelscope:owner/name`, or "demo", the model that comes with the package.
        A pipeline of `diffusers` may have options of loading after commas, such as
        `owner/name,dtype=bfloat16`; see `pipelines.options.LoadOptions`.
    revision: a hub branch, tag or commit.
    require: public keys, one of which must have signed the model. Changed, missing and extra files are
        rejected.
    key, passphrase: what opens a sealed model, which is decrypted in memory only; by default what
        DANQING_SEAL_KEY and DANQING_SEAL_PASSPHRASE_FILE name.
    marks: which marks its images get, such as "eu,cn" or "none"; None reads `DANQING_MARKS`. With a
        watermark, a transformer also marks the codes that it samples, which changes what a seed gives.
    Nothing in the source is executed. Raises ModelError with the reason where it cannot be trusted or read.
    """
    files = open_source(source, revision, access_of(require, key, passphrase))
    name = "" if files.folder else files.name or files.path.stem
    model = Model(*model_folder.read(files), name=name).to(choose_device(device))
    model.origin = files.folder
    model.marks = None if marks is None else MarkSettings.of(marks)
    model.marks_codes = True
    return model


def access_of(require: Signers, key: str | Path | None, passphrase: str | None) -> Access:
    """Return the arguments of `load` as one value."""
    signers = [require] if isinstance(require, str | Path) else require
    return Access(tuple(map(Path, signers)), None if key is None else Path(key), passphrase)


def open_source(
    source: str | Path | HasModel, revision: str | None = None, access: Access | None = None
) -> ModelFiles:
    """Open the files of what `load` takes; raises ModelError and TrustError."""
    access = access or Access()
    if not isinstance(source, str | Path):
        source = source.model
    place, options = split_source(str(source))
    revision, variant = revision or options.get("revision"), options.get("variant", "")
    if place.startswith(MODELSCOPE):
        folder = modelscope.fetch(place, revision, variant, model_folder.FILES)
        return open_files(folder, access=access, name=place.removeprefix(MODELSCOPE), options=options)
    if model_folder.is_hub_id(place):
        folder, within = model_folder.fetch(place, revision, whole=bool(access.require), variant=variant)
        return open_files(folder, within=within, access=access, name=place, options=options)
    return open_files(model_folder.find(Path(place)), access=access, options=options)
