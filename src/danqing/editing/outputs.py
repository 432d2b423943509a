"""Where edited files go: a single file, a folder, or a zip; a process that is killed loses nothing."""

import contextlib
import os
import shutil
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from filelock import FileLock, Timeout

from danqing import atomic
from danqing.editing import files, manifest
from danqing.editing.inputs import Inputs
from danqing.errors import ConfigError, not_writable
from danqing.image_files.formats import is_image_name
from danqing.marks import SIDECAR, write_sidecar

_LOCK = ".lock"
_OLDEST = (1980, 1, 1, 0, 0, 0)
"""The time of all files in a zip, so that it does not depend on when they were made."""


class Outputs:
    """The outputs of an edit.

    out: as the user named it. folder: where they are written; for a zip, a folder next to it until all are
    done. is_file: whether `out` is the name of a single file. manifest: the records, None for such a file.
    """

    def __init__(self, out: Path, folder: Path, *, is_file: bool) -> None:
        self.out, self.folder, self.is_file = out, folder, is_file
        self.manifest = None if is_file else manifest.Manifest(folder)

    def name_of(self, name: str, version: int, versions: int, suffix: str = "") -> str:
        """Return where the output of an input goes, relative to the folder.

        version, versions: its number, from 0, and how many there are; several get a folder each, `1/` and so
        on, or a number before the suffix of a single file.
        suffix: what is added if the output has another format than the input.
        """
        if not self.is_file:
            return (f"{version + 1}/" if versions > 1 else "") + name + suffix
        path = PurePosixPath(self.out.name)
        return f"{path.stem}-{version + 1}{path.suffix}" if versions > 1 else path.name

    def path_of(self, output: str) -> Path:
        """Return the path of an output while the edit runs."""
        return self.folder / output

    def write(self, record: manifest.Record, content: bytes, sidecar: bytes = b"") -> None:
        """Write an output atomically, after its record; create its folder.

        sidecar: what is written beside it, b"" for nothing. Raises DanqingError if that fails.
        """
        path = self.path_of(record.output)
        try:
            if self.manifest is not None:
                self.manifest.add(record)
            path.parent.mkdir(parents=True, exist_ok=True)
            write_sidecar(path, sidecar)
            atomic.write_bytes(path, content)
        except OSError as error:
            raise not_writable(path, error) from error


def sidecar_of(output: str) -> str:
    """Return the name of the file with the credentials of an output."""
    return str(PurePosixPath(output).with_suffix(SIDECAR))


def make_folder(folder: Path) -> None:
    """Create a folder in which files can be written; raises DanqingError."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise not_writable(folder, error) from error


def write_file(path: Path, content: bytes) -> None:
    """Write a file atomically, and create its folder; raises DanqingError."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        atomic.write_bytes(path, content)
    except OSError as error:
        raise not_writable(path, error) from error


def check(out: Path, inputs: Inputs) -> None:
    """Check that `out` can take the results of these inputs.

    Raises ConfigError if it cannot, or if it is one of the inputs.
    """
    if inputs.is_single and not out.is_dir() and is_image_name(out.name):
        files.format_of(out.name)
    whole = out.resolve()
    if any(whole == place.resolve() for place in inputs.places):
        raise ConfigError(f"--out {out} is the input, which would be overwritten: choose another --out.")
    if out.is_dir() or _is_zip(out):
        places = {place.resolve() for place in inputs.places} if out.is_dir() else set()
        if any((whole / name).resolve() in places for name in inputs.names):
            raise ConfigError(f"--out {out} is the folder of the input: choose another --out.")
        return
    if not inputs.is_single and (out.is_file() or is_image_name(out.name)):
        raise ConfigError(f"{out} is a file: several images need a folder or a zip, so name another --out.")
    if out.is_file() and not is_image_name(out.name):
        raise ConfigError(f"{out} is a file, but not an image: name another --out.")


@contextlib.contextmanager
def opened(out: Path, inputs: Inputs, *, dry_run: bool = False) -> Iterator[Outputs]:
    """Open the place for the outputs; other processes cannot open it meanwhile.

    When the block ends without an exception, a zip is written from the outputs so far.

    dry_run: nothing is written.
    Raises ConfigError as `check` does, and if another process works there.
    """
    check(out, inputs)
    if not out.is_dir() and is_image_name(out.name):
        yield Outputs(out, out.parent, is_file=True)
        return
    with contextlib.ExitStack() as stack:
        if dry_run and not out.is_dir():
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            if out.exists():
                _extract(out, folder)
        else:
            folder = _working_folder(out)
            try:
                out.parent.mkdir(parents=True, exist_ok=True)
                lock = out.with_name(f".{out.name}.lock") if _is_zip(out) else out / _LOCK
                lock.parent.mkdir(exist_ok=True)
                stack.enter_context(FileLock(lock, timeout=0))
                if _is_zip(out):
                    _unpack(out, folder)
                manifest.Manifest(folder).drop_lost()
            except Timeout as error:
                raise ConfigError(
                    f"Another process writes to {out}: wait for it, or choose another --out."
                ) from error
            except OSError as error:
                raise not_writable(out, error) from error
        yield Outputs(out, folder, is_file=False)
        if _is_zip(out) and not dry_run:
            _pack(folder, out)


def _is_zip(out: Path) -> bool:
    return out.suffix.lower() == ".zip" and not out.is_dir()


def _working_folder(out: Path) -> Path:
    """Return the folder for the outputs; that of a zip keeps them if the process is killed."""
    return out.with_name(f"{out.name}.unfinished") if _is_zip(out) else out


def _scratch(out: Path) -> Path:
    """Return a folder whose content does not matter, on the same file system."""
    return out.with_name(f".{out.name}.scratch")


def _unpack(out: Path, folder: Path) -> None:
    """Create the working folder of a zip, with the outputs that the zip holds already."""
    if folder.exists():
        return
    scratch = _scratch(out)
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir()
    if out.exists():
        try:
            _extract(out, scratch)
        except BaseException:
            shutil.rmtree(scratch, ignore_errors=True)
            raise
    os.rename(scratch, folder)  # a killed process leaves no half of it


def _extract(out: Path, folder: Path) -> None:
    try:
        with zipfile.ZipFile(out) as archive:
            if manifest.NAME not in archive.namelist():
                raise ConfigError(f"{out} is not a result of this command: choose another --out.")
            archive.extractall(folder)
    except (OSError, ConfigError):
        raise
    except Exception as error:  # zipfile raises anything on a damaged file
        raise ConfigError(f"{out} cannot be unpacked ({error}): choose another --out.") from error


def _pack(folder: Path, out: Path) -> None:
    """Write the zip atomically, then delete its working folder."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    try:
        with atomic.replacing(out) as file, zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
            for path in files:
                member = zipfile.ZipInfo(path.relative_to(folder).as_posix(), _OLDEST)
                member.external_attr = 0o644 << 16
                with path.open("rb") as source, archive.open(member, "w", force_zip64=True) as target:
                    shutil.copyfileobj(source, target)
    except OSError as error:
        raise not_writable(out, error) from error
    os.rename(folder, _scratch(out))
    shutil.rmtree(_scratch(out), ignore_errors=True)
