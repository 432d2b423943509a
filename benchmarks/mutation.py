"""Changes valid bytes a little: at random places, and inside of JSON and PNG, whose checksums stay right."""

import copy
import json
import random
import struct
import zlib
from collections.abc import Sequence
from typing import Any

MOST_BYTES = 2**18
ODD: tuple[Any, ...] = (
    *(
        None,
        True,
        False,
        0,
        -1,
        1,
        2,
        7,
        255,
        256,
        65536,
        2**31 - 1,
        2**31,
        2**32,
        2**53,
        2**63,
        2**64,
        -(2**63),
    ),
    *(0.5, -0.0, 1e308, float("inf"), float("nan"), 10**40, 10**400),
    *(
        "",
        " ",
        "é",
        "红",
        "\ud800",
        "\0",
        "a" * 3000,
        "0",
        "-1",
        "1e999",
        "nan",
        "auto",
        "../../a",
        "/",
        "=1",
    ),
    *([], {}, [[]], [None], {"a": {}}, [0] * 300, "[" * 200),
)
TOKENS = (
    *(
        b"\0",
        b"\xff",
        b"\xff" * 4,
        b"\x7f\xff\xff\xff",
        b"\x80\0\0\0",
        b"\xff" * 8,
        b"\x80" * 9,
        b"\n",
        b"\r",
    ),
    *(
        b'"',
        b"{",
        b"[",
        b"[" * 3000,
        b"}",
        b",",
        b";",
        b"\t",
        b"-",
        b"NaN",
        b"Infinity",
        b"1e999",
        b"9" * 400,
    ),
    *(
        b"9" * 5000,
        b"\xef\xbb\xbf",
        b"\xff\xfe",
        b"PK\x01\x02",
        b"PK\x05\x06",
        b"<!DOCTYPE a>",
        b"&a;",
        b"null",
    ),
)
_PNG = b"\x89PNG\r\n\x1a\n"


class Mutator:
    """Changes samples at random; the seed determines how."""

    def __init__(self, seed: int, samples: Sequence[bytes]) -> None:
        self._random = random.Random(seed)
        self._samples = list(samples)

    def next(self) -> bytes:
        """Return one of the samples, changed once to five times."""
        content = self._random.choice(self._samples)
        for _ in range(self._random.choice((1, 1, 2, 3, 5))):
            content = self.change(content)
        return content

    def change(self, content: bytes) -> bytes:
        """Return bytes with one change."""
        if self._random.random() < 0.4 and (changed := self._changed_json(content)) is not None:
            return changed[:MOST_BYTES]
        changed = self._changed_bytes(content)
        if changed.startswith(_PNG) and self._random.random() < 0.7:
            changed = with_checksums(changed)
        return changed[:MOST_BYTES]

    def _changed_bytes(self, content: bytes) -> bytes:
        draw = self._random
        place = draw.randrange(len(content) + 1)
        if draw.random() < 0.5:  # most of what parsers decide by is at the start or the end
            place = (
                min(place, draw.randrange(200)) if draw.random() < 0.7 else max(0, len(content) - place % 100)
            )
        end = min(len(content), place + draw.choice((1, 1, 2, 4, 8, 64, 500)))
        kind = draw.randrange(7)
        if kind == 0:
            return content[:place] + bytes(draw.randrange(256) for _ in content[place:end]) + content[end:]
        if kind == 1:
            return content[:place] + content[end:]
        if kind == 2:
            return content[:place] + content[place:end] * draw.choice((2, 2, 3, 50)) + content[end:]
        if kind == 3:
            token = draw.choice(TOKENS)
            return content[:place] + token + content[place + draw.choice((0, len(token))) :]
        if kind == 4:
            return content[: place or 1]
        if kind == 5:
            other = draw.choice(self._samples)
            return content[:place] + other[draw.randrange(len(other) + 1) :]
        form = draw.choice("<>") + draw.choice("BHIQ")
        width = struct.calcsize(form)
        number = draw.choice(
            (0, 1, 2 ** (8 * width) - 1, 2 ** (8 * width - 1), draw.randrange(2 ** (8 * width)))
        )
        return content[:place] + struct.pack(form, number) + content[place + width :]

    def _changed_json(self, content: bytes) -> bytes | None:
        """Change a value in what is JSON, with a byte or with the length of a header before it or without."""
        for before in (0, 1):
            try:
                return content[:before] + self._json(json.loads(content[before:]))
            except (ValueError, RecursionError):
                pass
        length = int.from_bytes(content[:8], "little")
        for start, end in ((8, 8 + length), (9, 9 + int.from_bytes(content[1:9], "little"))):
            try:
                text = self._json(json.loads(content[start:end]))
            except (ValueError, RecursionError):
                continue
            return content[: start - 8] + len(text).to_bytes(8, "little") + text + content[end:]
        return None

    def _json(self, value: Any) -> bytes:
        value, draw = copy.deepcopy(value), self._random
        holder: Any = [value]
        key: Any = 0
        while isinstance(inner := holder[key], dict | list) and inner and draw.random() < 0.8:
            holder, key = inner, draw.choice(list(inner) if isinstance(inner, dict) else range(len(inner)))
        root = holder if isinstance(holder, list) and holder[0] is value else [value]
        kind = draw.randrange(4)
        if kind == 0 and isinstance(holder, dict):
            holder[str(draw.choice(ODD))] = holder.pop(key)
        elif kind == 1 and isinstance(holder, list):
            holder += holder[key : key + 1] * draw.choice((1, 2, 40))
        elif kind == 2 and isinstance(holder, dict):
            del holder[key]
        else:
            holder[key] = draw.choice(ODD)
        return json.dumps(root[0]).encode("utf-8", "replace")


def with_checksums(png: bytes) -> bytes:
    """Return a PNG file with right checksums, as far as its chunks can be told apart."""
    parts, place = [png[:8]], 8
    while place + 8 <= len(png):
        (length,) = struct.unpack_from(">I", png, place)
        body = png[place + 4 : place + 8 + length]
        if place + 12 + length > len(png):
            break
        parts.append(png[place : place + 4] + body + zlib.crc32(body).to_bytes(4, "big"))
        place += 12 + length
    return b"".join([*parts, png[place:]])
