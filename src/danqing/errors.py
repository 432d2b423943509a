"""The errors that Danqing raises. Every message is one sentence: what happened and what to do next."""

from collections.abc import Mapping

from pydantic import BaseModel, ValidationError


class DanqingError(Exception):
    """A mistake that the user can fix; the command line prints only the message and exits with code 2."""


class ConfigError(DanqingError):
    """A setting that does not exist, has a wrong value, or does not fit the others.

    option: the name of the sampling option that is wrong, if it is one.
    """

    def __init__(self, message: str, option: str | None = None) -> None:
        super().__init__(message)
        self.option = option


class DataError(DanqingError):
    """Images that cannot be found, read or used."""


class MissingSplitError(DataError):
    """Data that does not have the requested split."""


class EvaluationError(DanqingError):
    """A score that cannot be measured as requested."""


class ModelError(DanqingError):
    """A model folder that cannot be trusted or loaded."""


class TextError(DanqingError):
    """A text encoder that is missing, or is not the one that the model needs."""


class TrainingError(DanqingError):
    """A run that cannot start, resume or be saved."""


def explain(error: ValidationError) -> str:
    """Return the first few mistakes that pydantic found, as one sentence with the user's names."""
    mistakes = []
    for mistake in error.errors()[:4]:
        where = ".".join(str(part) for part in mistake["loc"]) or "the configuration"
        given = mistake["input"]
        # For settings that do not fit each other, the input is a whole table; the message names them.
        got = "" if isinstance(given, Mapping | BaseModel) else f" (got {given!r})"
        mistakes.append(f"{where}: {mistake['msg'].removeprefix('Value error, ')}{got}")
    return "; ".join(mistakes) + "."
