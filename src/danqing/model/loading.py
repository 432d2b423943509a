"""Loads a model from a folder, a run, a sealed file, the hub or the package."""

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from danqing.model import adapted
from danqing.model.files import Access, ModelFiles
from danqing.model.model import AdapterSource, Model
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
    adapters: Sequence[AdapterSource] = (),
) -> Model:
    """Load a model from a folder, run, sealed file or the hub.

    source: a model folder, a run folder, a finished or stopped `Run`, a file of `danqing seal`, a hub
        repository `owner/name` or `modelscope:owner/name`, or "demo", the model that comes with the package.
        A pipeline of `diffusers` may have options of loading after commas, such as
        `owner/name,dtype=bfloat16`; see `pipelines.options.LoadOptions`. An adapter is loaded with the model
        that it was trained on.
    revision: a hub branch, tag or commit.
    require: public keys, one of which must have signed the model. Changed, missing and extra files are
        rejected.
    key, passphrase: what opens a sealed model, which is decrypted in memory only; by default what
        DANQING_SEAL_KEY and DANQING_SEAL_PASSPHRASE_FILE name.
    marks: which marks its images get, such as "eu,cn" or "none"; None reads `DANQING_MARKS`. With a
        watermark, a transformer also marks the codes that it samples, which changes what a seed gives.
    adapters: as of `Model.with_adapters`.
    Nothing in the source is executed. Raises ModelError with the reason where it cannot be trusted or read.
    """
    access = access_of(require, key, passphrase)
    files = open_source(source, revision, access)
    name = "" if files.folder else files.name or files.path.stem
    model = Model(*adapted.read(files, access), name=name)
    model.origin = files.folder
    model.marks = None if marks is None else MarkSettings.of(marks)
    model.marks_codes = True
    return (model.with_adapters(adapters, require=require) if adapters else model).to(choose_device(device))


def access_of(require: Signers, key: str | Path | None, passphrase: str | None) -> Access:
    """Return the arguments of `load` as one value."""
    signers = [require] if isinstance(require, str | Path) else require
    return Access(tuple(map(Path, signers)), None if key is None else Path(key), passphrase)


def open_source(
    source: str | Path | HasModel, revision: str | None = None, access: Access | None = None
) -> ModelFiles:
    """Open the files of what `load` takes; raises ModelError and TrustError."""
    return adapted.open_model(
        str(source if isinstance(source, str | Path) else source.model), revision, access
    )
