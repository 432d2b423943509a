"""The folder of a result: checked before the work, and replaced as a whole after it."""

import os
import shutil
from pathlib import Path

from danqing import atomic
from danqing.errors import ConfigError


def check(folder: Path, mark: str) -> None:
    """Raise ConfigError for a folder that a result may not replace.

    mark: the file by which an earlier result is known, which may be replaced.
    """
    if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
        raise ConfigError(f"{folder} is not a folder: choose another one.", "out")
    if folder.is_dir() and Path.cwd().is_relative_to(folder.resolve()):
        raise ConfigError(f"{folder} is in use as the current folder: choose a new folder.", "out")
    if folder.is_dir() and atomic.present(folder) and not (folder / mark).is_file():
        raise ConfigError(f"{folder} has other files: choose a new folder.", "out")


def publish(made: Path, folder: Path) -> None:
    """Move a finished folder to its place.

    An earlier result that is there stays until then. made: on the same file system. Raises OSError.
    """
    made.chmod(0o777 & ~atomic.umask())
    former = made.with_name(f"{made.name}.former.tmp")
    if folder.exists():
        os.replace(folder, former)
    try:
        os.replace(made, folder)
    except BaseException:
        if former.exists():
            os.replace(former, folder)
        raise
    shutil.rmtree(former, ignore_errors=True)
    atomic.sync_folder(folder.parent)
