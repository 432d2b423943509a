"""Reads and writes JSON bodies under limits; large pictures in them delay no other request."""

import asyncio
import json
import math
import re
import secrets
from collections.abc import AsyncIterator, Mapping
from typing import Any, NoReturn

from fastapi import Request

from danqing.service.access.held_bytes import HeldBytes
from danqing.service.errors import ApiError, invalid
from danqing.service.requests.content_type import require_content_type
from danqing.service.settings import Limits

_MOST_STRUCTURE = 65_536
"""Bytes of JSON outside strings; many small values take many times their bytes in memory."""
_STRING = re.compile(r'"(?:[^"\\]++|\\.)*+(?:"|\\?\Z)', re.DOTALL)
"""A string that is not closed reaches to the end; possessive quantifiers never backtrack."""
_WITHIN = re.compile(rb'(?:[^"\\]++|\\.)*+', re.DOTALL)
_JSON = 1024**2
"""Bytes of JSON that are parsed at once; more would delay all other requests."""
_LONG = 524_288
"""Bytes of a string that only an embedded picture has, even if each character were escaped."""
_SLICE = 262_144
_BRACKET = re.compile(r"[\[\]{}]")
_BYTES_PER_ESCAPED_CHARACTER = 12


async def json_body(
    request: Request, limits: Limits, held: HeldBytes, *, pictures: bool = False
) -> dict[str, Any]:
    """Read the JSON object in a request's body.

    Raises ApiError 400, 413 and 415.

    Names are unique, numbers are finite, and strings can be encoded as UTF-8.

    held: counts the bytes that the request keeps.
    pictures: whether the body may hold pictures, and be large.
    """
    require_content_type(request, "application/json")
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > _JSON and not pictures:
            message = f"The body has over {_JSON:,} bytes, which is the limit for JSON here."
            raise ApiError(413, message, code="request_too_large")
    return await read_json(body, limits, held)


async def read_json(body: bytes | bytearray, limits: Limits, held: HeldBytes) -> dict[str, Any]:
    """Parse an object that may hold large pictures, without delaying other requests.

    The caller drops the body afterwards; the bytes of what was read count as held in its place.
    """
    if len(body) <= _JSON:
        return parse_json(body, limits)
    long: dict[str, str] = {}
    try:
        rest = await _extract_long(body, long, limits, held)
    finally:
        held.let_go(sum(map(len, long.values())))
    found: dict[str, Any] = _insert_long(parse_json(rest, limits), long)
    return found


async def _extract_long(
    body: bytes | bytearray, long: dict[str, str], limits: Limits, held: HeldBytes
) -> bytes:
    """Return the JSON with a mark for each long string; `long` receives the strings by their marks."""
    longest = max(_LONG, _BYTES_PER_ESCAPED_CHARACTER * limits.prompt)
    rest = bytearray()
    at, strings, quote = 0, 0, body.find(b'"')
    while quote >= 0:
        end = await _end_of_string(body, quote + 1)
        if end - quote > longest:
            mark, string = secrets.token_hex(16), _long_string(body, quote + 1, end)
            held.hold(len(string))
            long[mark] = string
            rest += body[at : quote + 1] + mark.encode()
            at = end
        quote = body.find(b'"', end + 1)
        strings += 1
        if strings > _MOST_STRUCTURE // 2:
            raise _too_complex()
        if len(rest) + end - at > 2 * _JSON:
            break
        if not strings % 1024:
            await asyncio.sleep(0)
    if len(rest) + len(body) - at > 2 * _JSON:
        message = f"The body has over {2 * _JSON:,} bytes beside its pictures."
        raise ApiError(413, message, code="request_too_large")
    return bytes(rest + body[at:])


async def _end_of_string(body: bytes | bytearray, start: int) -> int:
    """Return where a JSON string ends."""
    while True:
        match = _WITHIN.match(body, start, start + _SLICE)
        assert match is not None
        end = match.end()
        if end - start < _SLICE - 1 or end == len(body):
            return end
        start = end
        await asyncio.sleep(0)


def _long_string(body: bytes | bytearray, start: int, end: int) -> str:
    """Return the content of a long JSON string, copied once."""
    with memoryview(body) as whole, whole[start:end] as content:
        try:
            text = str(content, "ascii")
        except UnicodeDecodeError:
            text = "\0"
    if "\\" in text:
        # Some encoders escape the slash for HTML, and some break lines.
        text = text.replace("\\/", "/").replace("\\n", "").replace("\\r", "")
    if "\\" in text or "\0" in text:
        message = f"A string of over {_LONG:,} bytes is not a picture in base64."
        raise invalid(message, code="string_above_max_length")
    return text


def _insert_long(value: Any, long: Mapping[str, str]) -> Any:
    """Return a value with marks replaced by their long strings."""
    if isinstance(value, dict):
        return {name: _insert_long(one, long) for name, one in value.items()}
    if isinstance(value, list):
        return [_insert_long(one, long) for one in value]
    return long.get(value, value) if isinstance(value, str) else value


async def write_json(value: Any) -> AsyncIterator[str]:
    """Yield the JSON of a value in pieces, with sorted names.

    The value may hold large pictures; other requests run between the pieces.
    """
    long: list[str] = []
    mark = secrets.token_hex(16)
    around = json.dumps(_replace_long(value, mark, long), sort_keys=True).split(mark)
    yield around[0]
    for string, part in zip(long, around[1:], strict=True):
        for at in range(0, len(string), _SLICE):
            yield json.dumps(string[at : at + _SLICE])[1:-1]
            await asyncio.sleep(0)
        yield part


def _replace_long(value: Any, mark: str, long: list[str]) -> Any:
    """Return a value with long strings replaced by a mark; `long` receives them in the order of names."""
    if isinstance(value, dict):
        return {name: _replace_long(value[name], mark, long) for name in sorted(value)}
    if isinstance(value, list | tuple):
        return [_replace_long(one, mark, long) for one in value]
    if isinstance(value, str) and len(value) > _SLICE:
        long.append(value)
        return mark
    return value


def parse_json(body: bytes | bytearray, limits: Limits) -> dict[str, Any]:
    """Parse a JSON object under limits; raises ApiError 400."""
    try:
        text = body.decode("utf-8-sig")  # RFC 8259, section 8.1: clients may send a byte-order mark
    except UnicodeDecodeError:
        raise _not_json("it is not UTF-8") from None
    structure = _STRING.sub('""', text) if len(text) > limits.depth else text
    if len(structure) > _MOST_STRUCTURE:
        raise _too_complex()
    depth = deepest = 0
    for bracket in _BRACKET.findall(structure):
        depth += 1 if bracket in "[{" else -1
        deepest = max(deepest, depth)
    if deepest > limits.depth:
        message = f"The body is nested {deepest} levels deep: the limit is {limits.depth}."
        raise invalid(message, code="request_too_complex")
    try:
        value = json.loads(text, parse_constant=_not_a_number, parse_float=_finite, object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        raise _not_json(str(error)[:200]) from None
    if not isinstance(value, dict):
        raise _not_json("it is not an object")
    if "\\u" in text:
        _check_strings(value)
    return value


def _check_strings(value: Any, where: str = "") -> None:
    """Raise ApiError for lone surrogates and NUL, which only escapes can write."""
    if isinstance(value, str):
        try:
            value.encode("utf-8")
        except UnicodeEncodeError:
            value = "\0"
        if "\0" in value:
            message = f"{where or 'A name'} contains an invalid character."
            raise invalid(message, where or None)
    elif isinstance(value, Mapping):
        for name, one in value.items():
            _check_strings(name)
            _check_strings(one, where or name)
    elif isinstance(value, list):
        for one in value:
            _check_strings(one, where)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a name occurs twice in an object")
    return found


def _not_a_number(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a number")


def _finite(digits: str) -> float:
    if not math.isfinite(value := float(digits)):
        raise ValueError("a number is too large")
    return value


def _too_complex() -> ApiError:
    return invalid("The body has more values than any valid request.", code="request_too_complex")


def _not_json(reason: str) -> ApiError:
    return invalid(f"The body is not a valid JSON object: {reason}.", code="invalid_json")
