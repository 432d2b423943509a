"""JSON as clients receive it."""

import json
from collections.abc import Mapping
from typing import Any


def encode_json(data: Mapping[str, Any]) -> bytes:
    """Encode an object on one line of UTF-8; lone surrogates become `?`."""
    return json.dumps(data, ensure_ascii=False).encode("utf-8", "replace")
