"""The secret key of the watermark: 32 random bytes in a file for its owner alone."""

import contextlib
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
            if not path.exists():
                folder.mkdir(mode=0o700, parents=True, exist_ok=True)
                key = secrets.token_bytes(_BYTES).hex() + "\n"
                with contextlib.suppress(FileExistsError):  # another process was faster
                    atomic.write_bytes(path, key.encode(), private=True, is_new=True)
        except OSError as error:
            raise _unreadable(path, error) from error
        return cls._read(path)

    @classmethod
    def existing(cls, folder: Path) -> Self | None:
        """Read the key of a trust folder, or return None.

        Raises TrustError as `of`.
        """
        path = folder / NAME
        return cls._read(path) if path.exists() else None

    @classmethod
    def _read(cls, path: Path) -> Self:
        try:
            text = path.read_text(encoding="ascii").strip()
            secret = bytes.fromhex(text)
        except OSError as error:
            raise _unreadable(path, error) from error
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
