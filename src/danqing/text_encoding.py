"""Text files that people write: their encoding, UTF-8 or what Windows calls Unicode, and their lines."""

import codecs
import tomllib
from typing import Any

_MARKS = (
    *((mark, "utf-32") for mark in (codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE)),  # before those of UTF-16,
    *((mark, "utf-16") for mark in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)),  # with which one begins
)


def decode_text(content: bytes) -> str:
    """Decode UTF-8, or UTF-16 and UTF-32 with a byte-order mark.

    Spreadsheets and PowerShell write UTF-16, and editors on Windows a byte-order mark before UTF-8.

    Raises UnicodeDecodeError, also for zero bytes: they are UTF-16 without its mark, or no text.
    """
    encoding = next((name for mark, name in _MARKS if content.startswith(mark)), "utf-8-sig")
    text = content.decode(encoding)
    if (place := content.find(b"\0")) >= 0 and encoding == "utf-8-sig":
        raise UnicodeDecodeError("utf-8", content, place, place + 1, "zero byte")
    return text


def why_unreadable(error: Exception) -> str:
    """Return in words why a text file cannot be read.

    error: what opening, decoding or parsing it raised.
    """
    if isinstance(error, UnicodeDecodeError):
        return "it is not UTF-8, so save it as UTF-8"
    if isinstance(error, OSError):
        return error.strerror or str(error)
    return str(error)


def lines_of(text: str) -> list[str]:
    """Return the lines of a text.

    Only line feeds and carriage returns end them. `str.splitlines` also cuts at separators such as U+2028,
    which texts and strings of JSON may contain.
    """
    lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    return lines if lines[-1] else lines[:-1]


def decode_toml(content: bytes) -> dict[str, Any]:
    """Decode the values of a TOML file, in the encodings of `decode_text`.

    Raises ValueError, also for values that are nested too deeply.
    """
    try:
        return tomllib.loads(decode_text(content))
    except RecursionError:
        raise ValueError("its values are nested too deeply") from None
