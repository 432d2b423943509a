"""The encoding of text files that people write: UTF-8, or what Windows calls Unicode."""

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


def decode_toml(content: bytes) -> dict[str, Any]:
    """Decode the values of a TOML file, in the encodings of `decode_text`.

    Raises ValueError, also for values that are nested too deeply.
    """
    try:
        return tomllib.loads(decode_text(content))
    except RecursionError:
        raise ValueError("its values are nested too deeply") from None
