"""What clients send, read under limits: JSON and forms. Nothing touches the disk, no name is believed."""

import asyncio
import json
import logging
import math
import re
import secrets
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NoReturn

from fastapi import Request
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from danqing.service.access.held_bytes import HeldBytes
from danqing.service.errors import ApiError, invalid
from danqing.service.settings import Limits

_STRUCTURE = 65_536
"""Bytes of JSON beside the contents of its strings: what many small values cost is many times their bytes."""
_STRING = re.compile(r'"(?:[^"\\]++|\\.)*+(?:"|\\?\Z)', re.DOTALL)
"""One that does not end reaches to the end: nothing is given up, and tried again a little later."""
_WITHIN = re.compile(rb'(?:[^"\\]++|\\.)*+', re.DOTALL)
_JSON = 1024**2
"""Bytes of JSON that are read at once: what is longer keeps all other requests waiting."""
_LONG = 524_288
"""Bytes of a string that none but an embedded picture has, though each character were written as escapes."""
_SLICE = 262_144
_BRACKET = re.compile(r"[\[\]{}]")
_HEADER_BYTES = 4096
_HEADERS = 8
_BYTES_PER_CHARACTER, _BYTES_PER_ESCAPED_CHARACTER = 4, 12
_SMALL_FIELD = 4096

# What is wrong with a form is answered; a line of the log for each could fill the disk.
logging.getLogger("python_multipart").setLevel(logging.CRITICAL)


@dataclass(frozen=True, slots=True)
class Uploads:
    """The files of a form: encoded pictures."""

    images: tuple[bytes, ...] = ()
    mask: bytes | None = None


async def json_body(
    request: Request, limits: Limits, held: HeldBytes, *, pictures: bool = False
) -> dict[str, Any]:
    """The object that a request's body is in JSON; raises ApiError 400, 413 and 415.

    Each name stands there once, all numbers are finite, and all strings are text that can be written again.
    pictures: whether there may be some in it, which may make it large.
    """
    if _media_type(request) != "application/json":
        raise _unsupported(request, "application/json")
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > _JSON and not pictures:
            message = f"The body has over {_JSON:,} bytes, which is the most that is read of JSON here."
            raise ApiError(413, message, code="request_too_large")
    return await read(body, limits, held)


async def read(body: bytes | bytearray, limits: Limits, held: HeldBytes) -> dict[str, Any]:
    """As `parse`, for an object that may be large by the pictures in it: others have their turn meanwhile.

    Who calls lets go of the body then: what was read of it counts in its place among the bytes that are held.
    """
    if len(body) <= _JSON:
        return parse(body, limits)
    long: dict[str, str] = {}
    try:
        rest = await _without_the_long(body, long, limits, held)
    finally:
        held.let_go(sum(map(len, long.values())))
    found: dict[str, Any] = _with(parse(rest, limits), long)
    return found


async def _without_the_long(
    body: bytes | bytearray, long: dict[str, str], limits: Limits, held: HeldBytes
) -> bytes:
    """JSON with a mark in the place of each long string, which `long` is given by its mark."""
    longest = max(_LONG, _BYTES_PER_ESCAPED_CHARACTER * limits.prompt)
    rest = bytearray()
    at, strings, quote = 0, 0, body.find(b'"')
    while quote >= 0:
        end = await _end_of_string(body, quote + 1)
        if end - quote > longest:
            mark, string = secrets.token_hex(16), _plain(body, quote + 1, end)
            held.hold(len(string))
            long[mark] = string
            rest += body[at : quote + 1] + mark.encode()
            at = end
        quote = body.find(b'"', end + 1)
        strings += 1
        if strings > _STRUCTURE // 2:
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
    """Where a string of JSON ends."""
    while True:
        match = _WITHIN.match(body, start, start + _SLICE)
        assert match is not None
        end = match.end()
        if end - start < _SLICE - 1 or end == len(body):
            return end
        start = end
        await asyncio.sleep(0)


def _plain(body: bytes | bytearray, start: int, end: int) -> str:
    """What a long string of JSON says, copied once."""
    with memoryview(body) as whole, whole[start:end] as content:
        try:
            text = str(content, "ascii")
        except UnicodeDecodeError:
            text = "\0"
    if "\\" in text:
        text = text.replace("\\/", "/")  # as some write what might stand in HTML
    if "\\" in text or "\0" in text:
        message = f"A string of over {_LONG:,} bytes is no picture in base64."
        raise invalid(message, code="string_above_max_length")
    return text


def _with(value: Any, long: Mapping[str, str]) -> Any:
    """A value with the long strings in the places of their marks."""
    if isinstance(value, dict):
        return {name: _with(one, long) for name, one in value.items()}
    if isinstance(value, list):
        return [_with(one, long) for one in value]
    return long.get(value, value) if isinstance(value, str) else value


async def written(value: Any) -> AsyncIterator[str]:
    """What `json.dumps` makes of a value whose names are sorted, in pieces between which others have their
    turn: there may be large pictures in it.
    """
    long: list[str] = []
    mark = secrets.token_hex(16)
    around = json.dumps(_without(value, mark, long), sort_keys=True).split(mark)
    yield around[0]
    for string, part in zip(long, around[1:], strict=True):
        for at in range(0, len(string), _SLICE):
            yield json.dumps(string[at : at + _SLICE])[1:-1]
            await asyncio.sleep(0)
        yield part


def _without(value: Any, mark: str, long: list[str]) -> Any:
    """A value with a mark in the place of each long string, which `long` is given in the order of names."""
    if isinstance(value, dict):
        return {name: _without(value[name], mark, long) for name in sorted(value)}
    if isinstance(value, list | tuple):
        return [_without(one, mark, long) for one in value]
    if isinstance(value, str) and len(value) > _SLICE:
        long.append(value)
        return mark
    return value


def parse(body: bytes | bytearray, limits: Limits) -> dict[str, Any]:
    """An object in JSON, under limits; raises ApiError 400."""
    try:
        text = body.decode("utf-8")
    except UnicodeDecodeError:
        raise _no_json("it is not UTF-8") from None
    structure = _STRING.sub('""', text) if len(text) > limits.depth else text
    if len(structure) > _STRUCTURE:
        raise _too_complex()
    depth = deepest = 0
    for bracket in _BRACKET.findall(structure):
        depth += 1 if bracket in "[{" else -1
        deepest = max(deepest, depth)
    if deepest > limits.depth:
        message = f"The body is nested {deepest} deep: at most {limits.depth} are read."
        raise invalid(message, code="request_too_complex")
    try:
        value = json.loads(text, parse_constant=_no_number, parse_float=_finite, object_pairs_hook=_once)
    except (ValueError, RecursionError) as error:
        raise _no_json(str(error)[:200]) from None
    if not isinstance(value, dict):
        raise _no_json("it is no object")
    if "\\u" in text:
        _check_strings(value)
    return value


async def form(request: Request, limits: Limits) -> tuple[dict[str, str], Uploads]:
    """The fields of a form in `multipart/form-data`, and its pictures: `image` (or `image[]`) and `mask`.

    Raises ApiError 400 and 415.
    """
    kind, options = parse_options_header(request.headers.get("content-type"))
    boundary = options.get(b"boundary", b"")
    if kind != b"multipart/form-data":
        raise _unsupported(request, "multipart/form-data")
    if not 1 <= len(boundary) <= 70:  # RFC 2046, section 5.1.1
        raise _no_form("its boundary has not 1 to 70 characters")
    parts = _Parts(limits)
    parser = MultipartParser(
        boundary,
        {
            "on_part_begin": parts.begin,
            "on_header_field": parts.on_name,
            "on_header_value": parts.on_value,
            "on_header_end": parts.end_header,
            "on_headers_finished": parts.identify,
            "on_part_data": parts.on_data,
            "on_part_end": parts.end,
            "on_end": parts.finish,
        },
        max_header_count=_HEADERS,
        max_header_size=_HEADER_BYTES,
    )
    try:
        async for chunk in request.stream():
            parser.write(chunk)
        parser.finalize()
    except FormParserError as error:
        raise _no_form(str(error)[:200]) from None
    if not parts.finished:
        raise _no_form("it ends too early")
    masks = parts.files.pop("mask", [])
    if len(masks) > 1:
        raise invalid("There are several masks: send one.", "mask")
    return parts.fields, Uploads(tuple(parts.files.pop("image", ())), masks[0] if masks else None)


@dataclass(slots=True)
class _Parts:
    """Takes the parts of a form as the parser finds them."""

    limits: Limits
    fields: dict[str, str] = field(default_factory=dict)
    files: dict[str, list[bytes]] = field(default_factory=dict)
    finished: bool = False
    _count: int = 0
    _header: tuple[bytearray, bytearray] = field(default_factory=lambda: (bytearray(), bytearray()))
    _disposition: bytes = b""
    _name: str = ""
    _is_file: bool = False
    _named: bool = False
    _content: bytearray = field(default_factory=bytearray)

    def begin(self) -> None:
        self._count += 1
        if self._count > self.limits.fields + self.limits.images:
            raise _no_form(f"it has over {self.limits.fields} fields")
        self._disposition, self._content = b"", bytearray()

    def on_name(self, data: bytes, start: int, end: int) -> None:
        self._header[0].extend(data[start:end])

    def on_value(self, data: bytes, start: int, end: int) -> None:
        self._header[1].extend(data[start:end])

    def end_header(self) -> None:
        name, value = map(bytes, self._header)
        self._header = bytearray(), bytearray()
        if name.lower() == b"content-disposition":
            if self._disposition:
                raise _no_form("a part says twice what it is")
            self._disposition = value
        elif name.lower() == b"content-transfer-encoding" and value.strip().lower() not in (
            b"binary",
            b"8bit",
        ):
            raise _no_form("a part is encoded: send it as it is")

    def identify(self) -> None:
        kind, options = parse_options_header(self._disposition)
        if kind != b"form-data" or not options.get(b"name"):
            raise _no_form("a part has no name")
        self._name = _text(options[b"name"], "the name of a field")
        self._is_file, self._named = b"filename" in options, bool(options.get(b"filename"))

    def on_data(self, data: bytes, start: int, end: int) -> None:
        most = self._most()
        if len(self._content) + end - start > most:
            if self._is_file:
                message = f"The file has over {most:,} bytes: shrink the picture first."
                raise ApiError(400, message, param=self._param(), code="image_file_too_large")
            message = f"{self._param()} has over {most:,} bytes."
            raise invalid(message, self._param(), "string_above_max_length")
        self._content += memoryview(data)[start:end]

    def end(self) -> None:
        param = self._param()
        if self._is_file:
            if param not in ("image", "mask"):
                message = f"{param} cannot be a file: send the pictures as image and mask."
                raise invalid(message, param)
            if not self._named and not self._content:  # how browsers send that no file was chosen
                return
            found = self.files.setdefault(param, [])
            found.append(bytes(self._content))
            if len(found) > self.limits.images:
                raise invalid(f"At most {self.limits.images} pictures are read.", param)
        else:
            if param in ("image", "mask"):
                raise invalid(f"{param} must be a file in the form, and is words.", param, "invalid_image")
            if self._name in self.fields:
                raise invalid(f"{param} stands there twice.", param)
            if len(self.fields) == self.limits.fields:
                raise _no_form(f"it has over {self.limits.fields} fields")
            self.fields[self._name] = _text(self._content, param)
        self._content = bytearray()

    def finish(self) -> None:
        self.finished = True

    def _param(self) -> str:
        """The field as an answer names it: `image[]` is `image`."""
        name = self._name.removesuffix("[]")
        return name if len(name) <= 64 else name[:64] + "..."

    def _most(self) -> int:
        if self._is_file:
            return self.limits.file_bytes
        texts = ("prompt", "negative_prompt")
        return _BYTES_PER_CHARACTER * self.limits.prompt if self._name in texts else _SMALL_FIELD


def is_form(request: Request) -> bool:
    """Whether the body says that it is a form."""
    return _media_type(request) == "multipart/form-data"


def _media_type(request: Request) -> str:
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


def _text(content: bytes | bytearray, what: str) -> str:
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError:
        raise invalid(f"{what[:64]} is not UTF-8.") from None
    if "\0" in text:
        raise invalid(f"{what[:64]} holds a character that no text has.")
    return text


def _check_strings(value: Any, where: str = "") -> None:
    """Raise ApiError for halves of characters and for NUL, which only escapes can write."""
    if isinstance(value, str):
        try:
            value.encode("utf-8")
        except UnicodeEncodeError:
            value = "\0"
        if "\0" in value:
            message = f"{where or 'A name'} holds a character that no text has."
            raise invalid(message, where or None)
    elif isinstance(value, Mapping):
        for name, one in value.items():
            _check_strings(name)
            _check_strings(one, where or name)
    elif isinstance(value, list):
        for one in value:
            _check_strings(one, where)


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a name stands twice in an object")
    return found


def _no_number(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number")


def _finite(digits: str) -> float:
    if not math.isfinite(value := float(digits)):
        raise ValueError("a number is too large")
    return value


def _too_complex() -> ApiError:
    return invalid("The body has far more values than a request can have.", code="request_too_complex")


def _no_json(reason: str) -> ApiError:
    return invalid(f"The body is no JSON object that can be read: {reason}.", code="invalid_json")


def _no_form(reason: str) -> ApiError:
    return invalid(f"The form cannot be read: {reason}.", code="invalid_form")


def _unsupported(request: Request, wanted: str) -> ApiError:
    given = _media_type(request)[:100] or "nothing"
    return ApiError(415, f"The Content-Type is {given}: send {wanted} here.", code="unsupported_media_type")
