"""The secret key of the watermark: 32 random bytes in a file for its owner alone."""

import secrets
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from danqing import atomic
from danqing.errors import TrustError

NAME = "watermark.key"
_BYTES = 32


@dataclass(frozen=True, slots=True)
class WatermarkKey:
    """The key of an installation, which decides the signs of its marks.

    secret: 32 bytes, which are never shown.
    """

    secret: bytes = field(repr=False)

    @classmethod
    def create(cls) -> Self:
        """Return a new random key."""
        return cls(secrets.token_bytes(_BYTES))

    @classmethod
    def of(cls, folder: Path) -> Self:
        """Read the key of a trust folder, or create it.

        Several processes may do this at once: they all get the same key. The file has the mode 0600.
        Raises TrustError if it cannot be read or written, or is not a key.
        """
        path = folder / NAME
        try:
            if (found := cls._read(path)) is not None:
                return found
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            key = cls.create()
            try:
                atomic.write_bytes(path, f"{key.secret.hex()}\n".encode(), private=True, is_new=True)
            except FileExistsError:  # another process was faster
                return cls.of(folder)
            return key
        except OSError as error:
            raise _unreadable(path, error) from error

    @classmethod
    def existing(cls, folder: Path) -> Self | None:
        """Read the key of a trust folder, or return None.

        Raises TrustError as `of`.
        """
        path = folder / NAME
        try:
            return cls._read(path)
        except OSError as error:
            raise _unreadable(path, error) from error

    @classmethod
    def _read(cls, path: Path) -> Self | None:
        """Read a key; None if there is none. Raises OSError, and TrustError if it is not a key."""
        try:
            secret = bytes.fromhex(path.read_text(encoding="ascii").strip())
        except (FileNotFoundError, NotADirectoryError):
            return None
        except ValueError:
            secret = b""
        if len(secret) != _BYTES:
            raise TrustError(f"{path} is not a watermark key: restore it from a backup, or move it away.")
        return cls(secret)


def _unreadable(path: Path, error: OSError) -> TrustError:
    return TrustError(
        f"The watermark's key {path} cannot be read or created ({error.strerror or error}): "
        "check the folder's permissions."
    )
