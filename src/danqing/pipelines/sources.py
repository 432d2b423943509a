"""What names a model, without PyTorch: a place, and options of loading after commas."""

import re
from pathlib import Path

MODELSCOPE = "modelscope:"
"""How the id of a model on ModelScope begins."""
_OPTION = re.compile(r"[a-z_]+=[^,]*")


def split_source(source: str) -> tuple[str, dict[str, str]]:
    """Split `org/model,dtype=bfloat16` into the place and the options of loading.

    A path that exists is a place as it is.
    """
    parts = source.split(",")
    end = len(parts)
    while end > 1 and _OPTION.fullmatch(parts[end - 1]):
        end -= 1
    if end == len(parts) or Path(source).exists():
        return source, {}
    pairs = (part.partition("=") for part in parts[end:])
    return ",".join(parts[:end]), {name: value for name, _, value in pairs}
