"""The folder of a study: its settings, and a lock."""

import contextlib
import json
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from danqing import atomic
from danqing.errors import ConfigError
from danqing.training.config import flat

_ASKED = "asked.json"


@contextlib.contextmanager
def locked(folder: Path, what: str) -> Iterator[None]:
    """Make a study's folder and keep other processes out.

    The lock goes with the process, however it ends.

    what: "search" or "comparison", for the sentences. Raises ConfigError for a folder of something else, one
    in use and one that cannot be written.
    """
    try:
        present = atomic.present(folder)
        if present - {".lock"} and _ASKED not in present:
            raise ConfigError(f"{folder} is not empty and does not hold a {what}: choose another --out.")
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / ".lock", timeout=0):
            atomic.remove_leftovers(folder)
            yield
    except Timeout as error:
        raise ConfigError(
            f"Another process is working on the {what} in {folder}: wait for it, or choose another --out."
        ) from error
    except OSError as error:
        raise ConfigError(
            f"{error.filename or folder} cannot be written or read ({error.strerror or error}): make room or "
            "repair the folder, then run the same command again to continue."
        ) from error


def settle(folder: Path, what: str, asked: Mapping[str, Any], free: Collection[str] = ()) -> None:
    """Write down the settings of a study, or compare them with earlier ones.

    free: keys that may change.

    Raises ConfigError that names what differs.
    """
    path = folder / _ASKED
    wanted = json.loads(json.dumps(asked))
    if path.exists():
        try:
            before = flat(json.loads(path.read_text(encoding="utf-8")))
        except (ValueError, AttributeError) as error:
            raise ConfigError(f"{path} is damaged: choose another --out.") from error
        now = flat(wanted)
        changed = [
            f"{key}: {before.get(key)} → {now.get(key)}"
            for key in sorted(before.keys() | now.keys())
            if before.get(key) != now.get(key) and key.partition(".")[0] not in free
        ]
        if changed:
            raise ConfigError(
                f"{folder} holds a {what} with other settings ({', '.join(changed[:4])}): use the same "
                "settings to continue it, or choose another --out."
            )
    atomic.write_json(path, wanted)
