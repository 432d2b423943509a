"""ONNX Runtime for browsers: fetched once from the npm registry, and checked."""

import hashlib
import io
import tarfile
import zlib
from collections.abc import Mapping
from pathlib import Path

from danqing.data.download import Published
from danqing.errors import ConfigError, DataError
from danqing.progress import ProgressCallback

VERSION = "1.30.0"
FILES: Mapping[str, str] = {
    "ort.wasm.min.mjs": "219e6a1fc8a9938268d18efca3c91d310bd2f4a59bbd13744df5b2b7fc6cee3b",
    "ort-wasm-simd-threaded.mjs": "e13f7f94fc51b4ca72b12faeb1ee95f4ace6dfbc8939bc718aabdc0a27c4299b",
    "ort-wasm-simd-threaded.wasm": "3398c10d07d229bd91b364548e130e0e51a8e5704b88c7c083ebbeb78842dee2",
}
"""The files of the package that a page needs, with their SHA-256."""

_ARCHIVE = f"onnxruntime-web-{VERSION}.tgz"
_PACKAGE = Published(
    "onnxruntime-web",
    "https://registry.npmjs.org/onnxruntime-web/-/",
    {_ARCHIVE: "d2228df7e4616bc3348bf504ee888f3bec43789a273f0a63f3e68d203ce3bf71"},
)


def runtime_files(
    folder: Path | None = None, on_progress: ProgressCallback | None = None
) -> dict[str, bytes]:
    """Return the files of the runtime by their names.

    folder: that has them, or the package as npm publishes it. None takes `$DANQING_DATA/onnxruntime-web`, the
        cache, or a new download, from `$DANQING_MIRROR` if that is set.
    Raises ConfigError where a folder does not have them, and DataError where they cannot be fetched.
    """
    if folder is not None:
        return _from_folder(folder)
    try:
        archive = _PACKAGE.folder(on_progress) / _ARCHIVE
    except DataError as error:
        advice = "or name a folder that has its files with --runtime"
        raise DataError(f"{str(error).rstrip('.')}, {advice}.") from error
    return _unpacked(archive.read_bytes())


def _from_folder(folder: Path) -> dict[str, bytes]:
    """Read the files from a folder, from `dist` in it, or from the package in it."""
    archive = folder / _ARCHIVE
    if archive.is_file():
        return _unpacked(archive.read_bytes())
    place = next((each for each in (folder, folder / "dist") if (each / next(iter(FILES))).is_file()), folder)
    try:
        found = {name: (place / name).read_bytes() for name in FILES}
    except OSError as error:
        raise ConfigError(
            f"{folder} does not have {Path(error.filename).name}: it needs {', '.join(FILES)} of "
            f"onnxruntime-web {VERSION}, or {_ARCHIVE}.",
            "runtime",
        ) from error
    return _checked(found, str(folder))


def _unpacked(archive: bytes) -> dict[str, bytes]:
    try:
        with tarfile.open(fileobj=io.BytesIO(archive), mode="r:gz") as package:
            members = {name: package.extractfile(f"package/dist/{name}") for name in FILES}
            found = {name: member.read() for name, member in members.items() if member is not None}
    except (tarfile.TarError, zlib.error, OSError, EOFError, KeyError) as error:
        raise ConfigError(f"{_ARCHIVE} cannot be read ({error}): fetch it again.", "runtime") from error
    return _checked(found, _ARCHIVE)


def _checked(found: dict[str, bytes], place: str) -> dict[str, bytes]:
    for name, checksum in FILES.items():
        if hashlib.sha256(found.get(name, b"")).hexdigest() != checksum:
            raise ConfigError(
                f"{name} in {place} is not that of onnxruntime-web {VERSION}: fetch this version.", "runtime"
            )
    return found
