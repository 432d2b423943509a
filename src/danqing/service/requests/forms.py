"""Reads forms under limits; nothing is written to disk, and no file name is used."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field

from fastapi import Request
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from danqing.service.errors import ApiError, invalid
from danqing.service.requests.content_type import require_content_type
from danqing.service.settings import Limits

_HEADER_BYTES = 4096
_HEADERS = 8
_BYTES_PER_CHARACTER = 4
_SMALL_FIELD = 4096  # bytes

# Errors in forms are answered; a log line for each could fill the disk.
logging.getLogger("python_multipart").setLevel(logging.CRITICAL)


@dataclass(frozen=True, slots=True)
class Uploads:
    """The pictures of a request, as encoded files."""

    images: tuple[bytes, ...] = ()
    mask: bytes | None = None


async def read_form(
    request: Request, limits: Limits, *, names: Sequence[str] = ("image", "mask")
) -> tuple[dict[str, str], Uploads]:
    """Read the text fields of a form, and its files.

    names: of the pictures, and of the mask if there may be one; `image` may also be `image[]`.

    Raises ApiError 400 and 415.
    """
    require_content_type(request, "multipart/form-data")
    _, options = parse_options_header(request.headers.get("content-type"))
    boundary = options.get(b"boundary", b"")
    if not 1 <= len(boundary) <= 70:  # RFC 2046, section 5.1.1
        raise _unreadable("its boundary must have 1 to 70 characters")
    parts = _FormParts(limits, tuple(names))
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
        raise _unreadable(str(error)[:200]) from None
    if not parts.finished:
        raise _unreadable("it ends too early")
    masks = parts.files.pop("mask", [])
    if len(masks) > 1:
        raise invalid("There are several masks: send one.", "mask")
    return parts.fields, Uploads(tuple(parts.files.pop(names[0], ())), masks[0] if masks else None)


@dataclass(slots=True)
class _FormParts:
    """Collects the parts of a form while it is parsed."""

    limits: Limits
    names: tuple[str, ...]
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
            raise _unreadable(f"it has over {self.limits.fields} fields")
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
                raise _unreadable("a part has two Content-Dispositions")
            self._disposition = value
        elif name.lower() == b"content-transfer-encoding" and value.strip().lower() not in (
            b"binary",
            b"8bit",
        ):
            raise _unreadable("a part is encoded: send it unencoded")

    def identify(self) -> None:
        kind, options = parse_options_header(self._disposition)
        if kind != b"form-data" or not options.get(b"name"):
            raise _unreadable("a part has no name")
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
            if param not in self.names:
                where = "the pictures as image and mask" if len(self.names) > 1 else "the picture as file"
                message = f"{param} cannot be a file: send {where}."
                raise invalid(message, param)
            if not self._named and not self._content:  # browsers send this when no file was chosen
                return
            found = self.files.setdefault(param, [])
            found.append(bytes(self._content))
            if len(found) > self.limits.images:
                raise invalid(f"At most {self.limits.images} pictures are read: send fewer.", param)
        else:
            if param in self.names:
                raise invalid(f"{param} must be a file of the form, not text.", param, "invalid_image")
            if self._name in self.fields:
                raise invalid(f"{param} occurs twice.", param)
            if len(self.fields) == self.limits.fields:
                raise _unreadable(f"it has over {self.limits.fields} fields")
            self.fields[self._name] = _text(self._content, param)
        self._content = bytearray()

    def finish(self) -> None:
        self.finished = True

    def _param(self) -> str:
        """Return the name of the field for answers: `image` for `image[]`."""
        name = self._name.removesuffix("[]")
        return name if len(name) <= 64 else name[:64] + "..."

    def _most(self) -> int:
        if self._is_file:
            return self.limits.file_bytes
        texts = ("prompt", "negative_prompt", "request")
        return _BYTES_PER_CHARACTER * self.limits.prompt if self._name in texts else _SMALL_FIELD


def _text(content: bytes | bytearray, what: str) -> str:
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError:
        raise invalid(f"{what[:64]} is not UTF-8.") from None
    if "\0" in text:
        raise invalid(f"{what[:64]} contains a NUL character.")
    return text


def _unreadable(reason: str) -> ApiError:
    return invalid(f"The form cannot be read: {reason}.", code="invalid_form")
