"""The Content-Type of request bodies."""

from fastapi import Request

from danqing.service.errors import ApiError


def content_type(request: Request) -> str:
    """Return the media type of a body in lower case, without parameters.

    "" if none is given.
    """
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


def is_form(request: Request) -> bool:
    """Return whether the body claims to be a form."""
    return content_type(request) == "multipart/form-data"


def require_content_type(request: Request, wanted: str) -> None:
    """Raise ApiError 415 for a body of another type."""
    if (given := content_type(request)) != wanted:
        message = f"The Content-Type is {given[:100] or 'missing'}: send {wanted} here."
        raise ApiError(415, message, code="unsupported_media_type")
