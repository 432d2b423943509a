"""The format of a sealed model, and the errors of one that cannot be opened.

    magic, 16 bytes | length of the header, 4 bytes | header, JSON | MAC of all of these, 32 bytes
    then each chunk: id of the file, 16 bytes | number, 8 bytes | ciphertext | tag, 16 bytes

Numbers are big-endian. The header is readable by anyone: it names the recipients' keys, and not what is
sealed. Nothing in it is trusted before its MAC has been checked, except what is needed to find the key.
"""

import json
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from danqing.errors import ModelError

MAGIC = b"DANQING-SEALED\r\n"
MAC_BYTES = 32
ID_BYTES = 16
PREFIX_BYTES = ID_BYTES + 8
TAG_BYTES = 16
CHUNK_BYTES = 2**20
LEAST_CHUNK_BYTES, MOST_CHUNK_BYTES = 2**10, 2**24
MOST_ENTRIES = 64
"""Recipients and passphrases of a file, at most."""
SCRYPT_LOG2_N = 17
"""The cost of a passphrase: 128 MiB and some tenths of a second for each attempt (r = 8, p = 1)."""
_FORMAT = 1
_MAX_HEADER_BYTES = 65_536
_LENGTH_BYTES = 4
MOST_START_BYTES = len(MAGIC) + _LENGTH_BYTES + _MAX_HEADER_BYTES + MAC_BYTES
"""Bytes before the first chunk, at most."""


class SealError(ModelError):
    """A sealed model that cannot be opened."""


class WrongKeyError(SealError):
    """None of the keys and passphrases that were given opens the file."""


class HeaderError(SealError):
    """The header is not the one that was written."""


class TruncatedError(SealError):
    """The end of the file is missing."""


class TrailingDataError(SealError):
    """There is something after the end of the file."""


class ReorderedError(SealError):
    """A chunk is not at its place."""


class SplicedError(SealError):
    """A chunk comes from another sealed file."""


class ChangedError(SealError):
    """The content of a chunk is not what was sealed."""


class ContentsError(SealError):
    """What was sealed is not the files of a model."""


def _hexadecimal(count: int) -> str:
    return rf"^[0-9a-f]{{{2 * count}}}$"


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class KeyEntry(_Part):
    """The data key, wrapped for a recipient's key.

    key: the recipient (`keys.recipient_id`). ephemeral: the public key of this entry alone.
    """

    kind: Literal["x25519"] = "x25519"
    key: str = Field(pattern=_hexadecimal(8))
    ephemeral: str = Field(pattern=_hexadecimal(32))
    wrapped: str = Field(pattern=_hexadecimal(48))


class PassphraseEntry(_Part):
    """The data key, wrapped by a passphrase.

    The cost has a limit, so that a hostile file cannot exhaust the memory.
    """

    kind: Literal["passphrase"] = "passphrase"
    salt: str = Field(pattern=_hexadecimal(16))
    scrypt_log2_n: int = Field(SCRYPT_LOG2_N, ge=15, le=18)
    wrapped: str = Field(pattern=_hexadecimal(48))


Entry = Annotated[KeyEntry | PassphraseEntry, Field(discriminator="kind")]


class Header(_Part):
    """What a sealed file says of itself.

    id: random, in every chunk too. size: bytes before encryption. chunk_bytes: of all chunks but the last.
    """

    format: Literal[1] = 1
    cipher: Literal["AES-256-GCM"] = "AES-256-GCM"
    id: str = Field(pattern=_hexadecimal(ID_BYTES))
    size: int = Field(ge=1, lt=2**48)
    chunk_bytes: int = Field(ge=LEAST_CHUNK_BYTES, le=MOST_CHUNK_BYTES)
    recipients: list[Entry] = Field(min_length=1, max_length=MOST_ENTRIES)

    @property
    def chunks(self) -> int:
        """Return the number of chunks."""
        return -(-self.size // self.chunk_bytes)

    @property
    def body_bytes(self) -> int:
        """Return the size of all chunks in the file."""
        return self.size + self.chunks * (PREFIX_BYTES + TAG_BYTES)


def is_sealed(path: Path) -> bool:
    """Return whether a path is a sealed file."""
    try:
        if not path.is_file():  # opening a pipe would wait for a writer
            return False
        with path.open("rb") as file:
            return file.read(len(MAGIC)) == MAGIC
    except OSError:
        return False


def write_header(header: Header) -> bytes:
    """Return the start of a file, up to its MAC."""
    text = header.model_dump_json().encode()
    return MAGIC + len(text).to_bytes(_LENGTH_BYTES, "big") + text


def read_header(name: str, content: bytes) -> tuple[Header, bytes, bytes]:
    """Read the start of a sealed file, without checking its MAC.

    name: of the file, for sentences. content: the file, or its first `MOST_START_BYTES`.
    Returns the header, all bytes before the MAC, and the MAC. Raises SealError, TruncatedError or
    HeaderError.
    """
    if not content.startswith(MAGIC):
        raise SealError(f"{name} is not a sealed model: give a file that danqing seal has written.")
    start = len(MAGIC) + _LENGTH_BYTES
    length = int.from_bytes(content[len(MAGIC) : start], "big")
    if length > _MAX_HEADER_BYTES:
        raise HeaderError(f"The header of {name} would take {length:,} bytes: get an unchanged copy.")
    end = start + length
    if len(content) < end + MAC_BYTES:
        raise TruncatedError(f"{name} ends within its header: get a whole copy.")
    try:
        values = json.loads(content[start:end])
        if isinstance(values, dict) and isinstance(number := values.get("format"), int) and number > _FORMAT:
            raise SealError(
                f"{name} is sealed in format {number}, and this version reads format {_FORMAT}: run pip "
                "install --upgrade danqing."
            )
        header = Header.model_validate(values)
    except (ValueError, RecursionError, ValidationError) as error:
        raise HeaderError(f"The header of {name} was changed: get an unchanged copy.") from error
    return header, content[:end], content[end : end + MAC_BYTES]
