"""The files of a model: in a folder, or in memory after they were verified or decrypted."""

import hashlib
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from io import BufferedReader
from pathlib import Path
from typing import TYPE_CHECKING

from danqing.errors import ModelError
from danqing.pipelines.layout import INDEX, is_pipeline
from danqing.trust.extra import check_cryptography
from danqing.trust.sealed_file import is_sealed
from danqing.weights import InMemory

if TYPE_CHECKING:
    from danqing.trust.recipients import Keyring

CONFIG, WEIGHTS, CARD = "config.json", "model.safetensors", "README.md"
ADAPTER_CONFIG, ADAPTER = "adapter_config.json", "adapter_model.safetensors"
"""The files of an adapter, as `peft` names them."""
PIPELINE_ADAPTER = "pytorch_lora_weights.safetensors"
"""The file of an adapter of a pipeline, as `diffusers` names it."""


@dataclass(frozen=True, slots=True)
class Access:
    """What a model must satisfy to be loaded, and what opens it.

    require: files of public keys, one of which must have signed the model; empty for no requirement.
    key, passphrase: what opens a sealed model; where both are None, what the environment names
        (`trust/recipients.py`).
    """

    require: tuple[Path, ...] = ()
    key: Path | None = None
    passphrase: str | None = field(default=None, repr=False)

    def keyring(self) -> "Keyring":
        """Return what opens sealed models; raises TrustError."""
        check_cryptography()
        from danqing.trust.recipients import Keyring

        return Keyring.of(self.key, self.passphrase)


class ModelFiles:
    """The files of a model by name, on disk or in memory.

    path: the folder, or the sealed file.
    within: the folder in which files of a folder must lie, where links are normal (a hub cache); by default
        `path` itself.
    contents: of the files, where they are in memory.
    name: of the model, if it is not that of the path. options: how a pipeline is loaded.
    """

    def __init__(
        self,
        path: Path,
        *,
        within: Path | None = None,
        contents: Mapping[str, memoryview] | None = None,
        name: str = "",
        options: Mapping[str, str] | None = None,
    ) -> None:
        self.path, self.within, self._contents = path, within or path, contents
        self.name, self.options = name, dict(options or {})

    @property
    def in_memory(self) -> bool:
        """Return whether the files are in memory."""
        return self._contents is not None

    @property
    def is_pipeline(self) -> bool:
        """Return whether they are those of a pipeline of `diffusers`."""
        return is_pipeline(self.path)

    @property
    def weights(self) -> Path | InMemory:
        """Return where the weights are, for `danqing.weights`; raises ModelError."""
        if self._contents is None:
            return self._inside(WEIGHTS)
        if WEIGHTS not in self._contents:
            raise ModelError(f"There is no {WEIGHTS} in {self.path}.")
        return InMemory(WEIGHTS, self._contents[WEIGHTS])

    @property
    def folder(self) -> Path | None:
        """Return the user's folder that holds the files.

        None for the cache of a hub and a sealed file.
        """
        is_own = self.within == self.path and self.path.is_dir() and not self.name
        return self.path.resolve() if is_own else None

    @property
    def written(self) -> int:
        """Return when the model was written, in seconds since 1970."""
        head = INDEX if self.is_pipeline else CONFIG
        return int((self.path / head if self.path.is_dir() else self.path).stat().st_mtime)

    def names(self) -> list[str]:
        """Return the relative names of files and links, with `/`."""
        return sorted(_walk(self.path) if self._contents is None else self._contents)

    def has(self, name: str) -> bool:
        """Return whether there is a file of this name."""
        return (self.path / name).is_file() if self._contents is None else name in self._contents

    def read(self, name: str, most: int = -1) -> bytes:
        """Read a file.

        most: bytes, -1 for all.
        Raises ModelError for a link that leads elsewhere and for what is not a file, or FileNotFoundError.
        """
        if self._contents is not None and name in self._contents:
            return bytes(self._contents[name][: None if most < 0 else most])
        with self._open(name) as file:
            return file.read(most)

    def content(self, name: str) -> memoryview:
        """Read a whole file into writable memory, in which weights can stay.

        Errors are those of `read`.
        """
        if self._contents is not None and name in self._contents:
            return self._contents[name]
        with self._open(name) as file:
            buffer = bytearray(os.fstat(file.fileno()).st_size)
            return memoryview(buffer)[: file.readinto(buffer)]

    def digests(self) -> dict[str, str]:
        """Return the SHA-256 of each file that a signature lists; raises ModelError."""
        from danqing.trust.signature import is_listed

        names = filter(is_listed, self.names())
        return {name: hashlib.sha256(self.content(name)).hexdigest() for name in names}

    def _open(self, name: str) -> BufferedReader:
        if self._contents is not None:
            raise FileNotFoundError(f"There is no {name} in {self.path}.")
        path = self._inside(name)
        if path.exists() and not path.is_file():  # reading a pipe would wait for a writer
            raise ModelError(f"{path} is not a regular file: remove it.")
        return path.open("rb")

    def _inside(self, name: str) -> Path:
        path = self.path / name
        if not path.resolve().is_relative_to(self.within.resolve()):
            raise ModelError(f"{path} is a link that leads out of its folder: copy the file itself there.")
        return path


def open_files(
    path: Path,
    *,
    within: Path | None = None,
    access: Access | None = None,
    name: str = "",
    options: Mapping[str, str] | None = None,
) -> ModelFiles:
    """Open the files of a model folder or of a sealed model.

    within, name, options: as of `ModelFiles`.
    access: what is required of it. Where a signature is required, the files that were verified are in memory,
        so that nobody can change them before they are used.
    Raises ModelError where the requirements are not met, and TrustError for keys that cannot be used.
    """
    access = access or Access()
    contents = None
    if is_sealed(path):
        keyring = access.keyring()
        from danqing.trust.seal import unseal

        contents = unseal(path, keyring)
    files = ModelFiles(path, within=within, contents=contents, name=name, options=options)
    if not access.require:
        return files
    return ModelFiles(path, within=within, contents=_verified(files, access), name=name, options=options)


def _verified(files: ModelFiles, access: Access) -> dict[str, memoryview]:
    """Return those signed files that a model is loaded from; raise ModelError or TrustError."""
    check_cryptography()
    from danqing.trust import signature

    if not files.has(signature.SIGNATURE):
        raise signature.UnsignedError(
            f"{files.path} is not signed, and a signature is required: danqing sign MODEL --key KEY signs it."
        )
    bundle = files.read(signature.SIGNATURE, signature.MAX_BUNDLE_BYTES)
    signed = signature.signed_files(bundle, access.require)
    signature.compare_names(signed, filter(signature.is_listed, files.names()))
    contents = {}
    for name, digest in signed.items():
        content = files.content(name)
        signature.compare_content(name, content, digest)
        if name in (CONFIG, WEIGHTS, CARD, ADAPTER_CONFIG, ADAPTER, PIPELINE_ADAPTER):
            contents[name] = content
    return contents


def _walk(folder: Path) -> Iterator[str]:
    for parent, folders, names in os.walk(folder, onerror=_cannot_list):
        links = [name for name in folders if (Path(parent) / name).is_symlink()]
        for name in (*names, *links):
            yield (Path(parent) / name).relative_to(folder).as_posix()


def _cannot_list(error: OSError) -> None:
    raise ModelError(f"{error.filename} cannot be read ({error.strerror}).") from error
