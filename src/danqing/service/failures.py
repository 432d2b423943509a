"""Converts internal exceptions to the errors that clients receive."""

import logging
import math

from fastapi.exceptions import RequestValidationError
from pydantic import ValidationError

from danqing.errors import ConfigError, DanqingError, DataError
from danqing.service.engine.orders import (
    DeadlinePassedError,
    ModelUnavailableError,
    OrderCancelledError,
    OverloadedError,
    PaintingFailedError,
)
from danqing.service.errors import FINAL, ApiError, internal, invalid
from danqing.service.storage.database import DatabaseError

_log = logging.getLogger("danqing.service")

_CHOICES = {"str", "int", "float", "list[float]"}
"""Parts of pydantic's locations that are not fields: the choices of a type."""


def from_danqing(error: DanqingError) -> ApiError:
    """Convert an internal error.

    Messages that may name files of this machine are only logged.
    """
    match error:
        case OverloadedError():
            wait = {"retry-after": str(max(1, math.ceil(error.retry_after)))}
            return ApiError(429, str(error), code="overloaded", headers=wait)
        case ModelUnavailableError():
            _log.warning("%s", error)
            message = "The model cannot be used now: the log of the service says why."
            return ApiError(503, message, code="model_unavailable")
        case OrderCancelledError():
            return ApiError(503, str(error), code="cancelled", headers={"retry-after": "1"})
        case DeadlinePassedError():
            return ApiError(504, str(error), code="deadline_passed", headers=FINAL)
        case PaintingFailedError():
            _log.error("%s", error)
            message = "The pictures could not be painted: the log of the service says why."
            return ApiError(500, message, code="painting_failed", headers=FINAL)
        case DatabaseError():
            return ApiError(503, str(error), code="database_unavailable", headers={"retry-after": "2"})
        case ConfigError():
            return invalid(str(error), error.option)
        case DataError():
            return ApiError(400, str(error), code="invalid_image")
    _log.error("%s: %s", type(error).__name__, error)
    return internal()


def from_validation(error: ValidationError | RequestValidationError) -> ApiError:
    """Convert the first error in a body, naming its field."""
    mistake = error.errors()[0]
    named = mistake["loc"]
    if isinstance(error, RequestValidationError):  # the first part says where: body, query, ...
        named = named[1:]
    where = ".".join(str(part) for part in named if part not in _CHOICES)
    reason = str(mistake["msg"]).removeprefix("Value error, ")
    if mistake["type"] == "missing":
        return invalid(f"{where} is missing: add it to the request.", where, "missing_required_parameter")
    if mistake["type"] == "extra_forbidden":
        return invalid(f"There is no field {where}: leave it out.", where, "unknown_parameter")
    return invalid(f"{where}: {reason}." if where else f"{reason}.", where or None)
