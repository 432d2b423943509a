"""What Danqing raises. Every message is one sentence that says what happened and what to do next."""

import difflib
from collections.abc import Iterable, Mapping
from pathlib import PurePath
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # imported where it is used: it would delay every command
    from pydantic import ValidationError


class DanqingError(Exception):
    """A mistake that the user can correct.

    The command line prints the message alone and exits with code 2.
    """


class ConfigError(DanqingError):
    """A setting that is unknown, invalid, or does not fit the others.

    option: its name, where it is an option of sampling.
    """

    def __init__(self, message: str, option: str | None = None) -> None:
        super().__init__(message)
        self.option = option


class DataError(DanqingError):
    """Images that cannot be found, read or used."""


class MissingSplitError(DataError):
    """Data without the requested split."""


class EvaluationError(DanqingError):
    """A score that cannot be measured as requested."""


class ModelError(DanqingError):
    """A model folder that cannot be trusted or loaded."""


class SearchError(DanqingError):
    """An index of images cannot be read or searched."""


class TextError(DanqingError):
    """A text encoder that is missing, or not the right one."""


class TrainingError(DanqingError):
    """A run that cannot start, go on or be saved."""


class LostProcessError(TrainingError):
    """Another process of a run has ended or cannot be reached."""


class ClusterError(DanqingError):
    """A cluster of machines that cannot be reached or used."""


class MarkWarning(UserWarning):
    """An image lacks a mark, or a key was created for marks."""


class TrustError(DanqingError):
    """Keys, signatures or marks that cannot be made, read or trusted."""


def first_line(error: BaseException) -> str:
    """Return the first line of what an error says, or its kind."""
    lines = str(error).strip().splitlines()
    return lines[0].rstrip() if lines else type(error).__name__


def not_writable(path: PurePath, error: OSError) -> DanqingError:
    """Return the error for a file or folder that cannot be written."""
    return DanqingError(f"{path} cannot be written ({error.strerror or error}): choose another --out.")


def nearest(name: str, known: Iterable[str]) -> str:
    """Return " Did you mean NAME?" for the nearest known name.

    Nothing if none is near.
    """
    near = difflib.get_close_matches(name, list(known), n=1)
    return f" Did you mean {near[0]}?" if near else ""


def explain(error: "ValidationError", known: Iterable[str] = ()) -> str:
    """Return the first mistakes that pydantic found, as one sentence.

    It has the names that the user wrote.

    known: the dotted names that exist, to name the nearest to one that does not.
    """
    from pydantic import BaseModel

    mistakes = []
    for mistake in error.errors()[:4]:
        where = ".".join(str(part) for part in mistake["loc"]) or "the configuration"
        if mistake["type"] == "extra_forbidden":
            near = difflib.get_close_matches(where, list(known), n=1)
            nearest = f", the nearest is {near[0]}" if near else ""
            mistakes.append(f"{where}: there is no such setting{nearest}")
            continue
        given = mistake["input"]
        given = str(given) if isinstance(given, PurePath) else given
        # A whole table is given where settings do not fit each other: the message names them.
        got = "" if isinstance(given, Mapping | BaseModel) else f" (got {given!r})"
        mistakes.append(f"{where}: {mistake['msg'].removeprefix('Value error, ')}{got}")
    return "; ".join(mistakes) + "."
