"""The process that exports models for a service: `python -m danqing.service.engine.export_once`.

It reads what to export as one line of JSON, and answers with a line for each model. Exports are kept under
the digest of their model, so that a model that has not changed is not exported again.
"""

import hashlib
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import filelock

from danqing.compress.export import export
from danqing.compress.runtime import manifest as form
from danqing.compress.runtime.manifest import Target
from danqing.errors import ModelError
from danqing.families.base import Family
from danqing.model import adapted
from danqing.model.adapter_files import is_adapter
from danqing.model.files import ADAPTER, CONFIG, WEIGHTS, Access
from danqing.model.loading import open_source
from danqing.model.model import Model
from danqing.model.recognizer import Recognizer
from danqing.service.engine.model_description import is_index
from danqing.service.engine.served import LOAD_ERRORS
from danqing.trust.sealed_file import is_sealed
from danqing.version import __version__


def exported(
    source: str, folder: Path, target: Target, access: Access, on_begin: Callable[[], None] = lambda: None
) -> Path:
    """Return the export of a model; make it if there is none.

    folder: of all exports. access: what the model must satisfy. on_begin: called before it is exported.
    Raises what `LOAD_ERRORS` has.
    """
    if is_index(source):
        raise ModelError("An index of images needs PyTorch: serve it with engine.runtime = torch.")
    files = open_source(source, access=access)
    if is_sealed(files.path):
        raise ModelError(
            "The model is sealed, and an export would store it unencrypted: serve it with engine.runtime = "
            "torch."
        )
    digest = hashlib.sha256(files.content(CONFIG))
    digest.update(files.content(ADAPTER if is_adapter(files) else WEIGHTS))
    out = folder / f"{digest.hexdigest()[:32]}-{target}"
    folder.mkdir(0o700, parents=True, exist_ok=True)
    with filelock.FileLock(folder / f"{out.name}.lock"):
        if not _is_current(out):
            on_begin()
            learner, facts = adapted.read_learner(files, access)
            if isinstance(learner, Family):
                export(Model(learner, facts), out, to=target)
            else:
                export(Recognizer(learner, facts), out, to=target)
    return out


def _is_current(folder: Path) -> bool:
    """Return whether a folder holds a whole export by this version."""
    try:
        return form.read(folder).version == __version__
    except ModelError:
        return False


def main() -> None:
    """Answer for each of the models that standard input names."""
    told = json.loads(sys.stdin.readline())
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever else is printed goes to the log
    access = Access(tuple(map(Path, told["require_signature"])))

    def tell(**answer: Any) -> None:
        print(json.dumps(answer), file=answers, flush=True)

    for name, source in told["models"].items():

        def begin(name: str = name) -> None:
            tell(name=name, kind="begins")

        try:
            folder = exported(source, Path(told["folder"]), told["target"], access, begin)
            tell(name=name, kind="exported", folder=str(folder))
        except LOAD_ERRORS as error:
            tell(name=name, kind="failed", fault=str(error) or type(error).__name__)


if __name__ == "__main__":
    main()
