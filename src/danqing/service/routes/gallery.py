"""/v1/gallery: the caller's pictures with their settings."""

import json
import re
import zipfile
from base64 import b64encode
from collections.abc import AsyncIterator, Sequence
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Request, Response
from fastapi.responses import JSONResponse
from starlette.responses import StreamingResponse

from danqing.service.access.caller import Caller
from danqing.service.errors import ApiError, invalid
from danqing.service.gallery import queries, store
from danqing.service.gallery.queries import Found, Search
from danqing.service.gallery.tables import GalleryPicture
from danqing.service.gallery.words import searched
from danqing.service.http.gate import any_key
from danqing.service.parts import Service, service_of
from danqing.service.pictures.encoding import PICTURE_HEADERS
from danqing.service.pictures.picture_settings import settings_in
from danqing.service.requests import schemas
from danqing.service.requests.forms import read_form
from danqing.service.requests.gallery_schemas import (
    AlbumAnswer,
    AlbumChange,
    AlbumList,
    AlbumName,
    PictureAnswer,
    PictureChange,
    PicturePage,
    Selection,
    SettingsAnswer,
)
from danqing.service.routes.bodies import answers, body_of, form_of, read_body

router = APIRouter(prefix="/v1/gallery", tags=["gallery"])

_FORMATS = re.compile(r"image/(png|jpeg|webp)")


async def _owner(request: Request, caller: Annotated[Caller, Depends(any_key)]) -> Caller:
    """Return the caller; raises ApiError 404 where no pictures are kept."""
    if not service_of(request).gallery.is_on:
        raise ApiError(
            404, "This service keeps no pictures: its setting gallery.keep is 0.", code="not_found"
        )
    return caller


_Owner = Annotated[Caller, Depends(_owner)]


@router.get("", summary="Pictures", responses=answers(PicturePage))
async def pictures(
    request: Request,
    caller: _Owner,
    search: Annotated[
        str,
        Query(max_length=200, description="Words of prompts, labels, models and tags, all of them."),
    ] = "",
    like: Annotated[
        int | None, Query(ge=1, lt=2**62, description="The number of a picture: those that look like it.")
    ] = None,
    album: Annotated[int | None, Query(ge=1, lt=2**62, description="The number of an album.")] = None,
    rating: Annotated[int, Query(ge=0, le=5, description="The least rating.")] = 0,
    limit: Annotated[int, Query(ge=1, le=200)] = 50,
    before: Annotated[int | None, Query(ge=1, lt=2**62, description="The number of a picture.")] = None,
    offset: Annotated[int, Query(ge=0, le=1_000_000, description="How many to leave out first.")] = 0,
    thumbnails: Annotated[bool, Query(description="Whether each has its small picture.")] = False,
) -> JSONResponse:
    """Return the caller's pictures, the latest first.

    With `like`, the most similar to a picture first."""
    service, words = service_of(request), tuple(searched(search))
    if like is not None:
        found = await service.gallery.alike(caller.owner, like, limit)
    elif search.strip() and not words:
        found = Found([], 0, False)
    else:
        wanted = Search(caller.owner, words, album, rating)
        found = await service.gallery.page(wanted, limit=limit, before=before, offset=offset)
    small: dict[int, bytes] = {}
    if thumbnails:
        small = await service.database.run(queries.thumbnails, [one.number for one in found.pictures])
    data = [_describe(one, small.get(one.number)) for one in found.pictures]
    return JSONResponse({"object": "list", "data": data, "total": found.total, "has_more": found.has_more})


@router.get("/albums", summary="Albums and use", responses=answers(AlbumList))
async def albums(request: Request, caller: _Owner) -> JSONResponse:
    """Return the caller's albums, and how much its pictures take."""
    service = service_of(request)
    found = await service.database.run(queries.albums, caller.owner)
    used = await service.database.run(store.usage, caller.owner)
    limits = service.gallery.limits
    return JSONResponse(
        {
            "object": "list",
            "data": [{"number": one.number, "name": one.name, "pictures": count} for one, count in found],
            "pictures": used.pictures,
            "bytes": used.bytes,
            "most_pictures": limits.pictures,
            "most_bytes": limits.bytes,
            "keep": limits.keep,
        }
    )


@router.post(
    "/albums", summary="Create an album", responses=answers(AlbumAnswer), openapi_extra=body_of(AlbumName)
)
async def create_album(request: Request, caller: _Owner) -> JSONResponse:
    """Create an album."""
    asked = await read_body(request, AlbumName)
    made = await service_of(request).database.run(store.create_album, caller.owner, asked.name)
    return JSONResponse({"number": made.number, "name": made.name, "pictures": 0})


@router.delete("/albums/{number}", summary="Delete an album", status_code=204, responses=schemas.REJECTED)
async def delete_album(request: Request, caller: _Owner, number: int) -> Response:
    """Delete an album; its pictures stay."""
    await service_of(request).database.run(store.delete_album, caller.owner, number)
    return Response(status_code=204)


@router.post(
    "/albums/{number}/pictures",
    summary="Fill an album",
    status_code=204,
    responses=schemas.REJECTED,
    openapi_extra=body_of(AlbumChange),
)
async def fill_album(request: Request, caller: _Owner, number: int) -> Response:
    """Add pictures to an album, and take others out."""
    asked = await read_body(request, AlbumChange)
    await service_of(request).database.run(store.fill_album, caller.owner, number, asked.add, asked.remove)
    return Response(status_code=204)


@router.post(
    "/delete", summary="Delete pictures", responses=schemas.REJECTED, openapi_extra=body_of(Selection)
)
async def delete_some(request: Request, caller: _Owner) -> JSONResponse:
    """Delete pictures with everything that is known of them.

    Their files, small pictures, words and places in albums, the copies that jobs hold, and their entries in
    the registry.
    """
    asked = await read_body(request, Selection)
    service = service_of(request)
    found = await service.gallery.stored(caller.owner, asked.pictures)
    await service.gallery.delete(caller.owner, found)
    return JSONResponse({"deleted": len(found)})


@router.post(
    "/zip",
    summary="Download pictures",
    response_class=Response,
    responses={200: {"content": {"application/zip": {}}}, **schemas.REJECTED},
    openapi_extra=body_of(Selection),
)
async def download(request: Request, caller: _Owner) -> Response:
    """Return a zip of pictures, with their settings in `metadata.jsonl`."""
    asked = await read_body(request, Selection)
    service = service_of(request)
    found = await service.database.run(queries.in_order, caller.owner, asked.pictures)
    if not found:
        raise ApiError(404, "The gallery has none of these pictures.", code="not_found")
    limit = service.settings.limits.archive_bytes
    if sum(one.size for one in found) > limit:
        raise invalid(f"These pictures have over {limit:,} bytes: select fewer.", "pictures")
    headers = {"content-disposition": 'attachment; filename="pictures.zip"'}
    return StreamingResponse(_zip(service, caller.owner, found), 200, headers, "application/zip")


@router.post(
    "/settings",
    summary="The settings of a picture",
    responses=answers(SettingsAnswer),
    openapi_extra=form_of({"image": {"type": "string", "format": "binary"}}),
)
async def settings(request: Request, caller: Annotated[Caller, Depends(any_key)]) -> JSONResponse:
    """Return the settings that a file was made with.

    Those in the file, or else those of the gallery. The file is not stored. Settings in a file are what
    somebody wrote there.
    """
    service = service_of(request)
    fields, uploads = await read_form(request, service.settings.limits)
    if fields or len(uploads.images) != 1 or uploads.mask is not None:
        raise invalid("Send one picture as the file image.", "image", "missing_required_parameter")
    file = uploads.images[0]
    if (found := settings_in(file)) is not None:
        return JSONResponse({"source": "file", "settings": found})
    if service.gallery.is_on and (kept := await _kept(service, caller.owner, file)) is not None:
        return JSONResponse({"source": "gallery", "settings": kept})
    raise ApiError(404, "This picture has no settings, and the gallery does not have it.", code="not_found")


@router.get("/{number}", summary="One picture", responses=answers(PictureAnswer))
async def picture(request: Request, caller: _Owner, number: int) -> JSONResponse:
    """Return a picture of the caller."""
    found = await service_of(request).database.run(store.find, caller.owner, number)
    return JSONResponse(_describe(found, None))


@router.patch(
    "/{number}",
    summary="Rate and tag",
    responses=answers(PictureAnswer),
    openapi_extra=body_of(PictureChange),
)
async def change(request: Request, caller: _Owner, number: int) -> JSONResponse:
    """Change the rating and the tags of a picture."""
    asked = await read_body(request, PictureChange)
    found = await service_of(request).database.run(
        store.change, caller.owner, number, asked.rating, asked.tags
    )
    return JSONResponse(_describe(found, None))


@router.delete("/{number}", summary="Delete a picture", status_code=204, responses=schemas.REJECTED)
async def delete_one(request: Request, caller: _Owner, number: int) -> Response:
    """Delete a picture, as `POST /v1/gallery/delete` does."""
    service = service_of(request)
    await service.database.run(store.find, caller.owner, number)
    await service.gallery.delete(caller.owner, await service.gallery.stored(caller.owner, [number]))
    return Response(status_code=204)


@router.get(
    "/{number}/file",
    summary="The file",
    response_class=Response,
    responses={200: {"content": {"image/png": {}, "image/jpeg": {}, "image/webp": {}}}, **schemas.REJECTED},
)
async def file(request: Request, caller: _Owner, number: int) -> Response:
    """Return the file of a picture, as it was made."""
    found, content = await service_of(request).database.run(queries.content, caller.owner, number)
    kind = found.media_type if _FORMATS.fullmatch(found.media_type) else "application/octet-stream"
    return Response(content, 200, {**PICTURE_HEADERS, "cache-control": "no-store"}, kind)


async def _kept(service: Service, owner: str, content: bytes) -> dict[str, Any] | None:
    """Return the settings of a file that the gallery has."""
    found = await service.gallery.having(owner, content)
    return None if found is None else _public(found)


async def _zip(service: Service, owner: str, found: Sequence[GalleryPicture]) -> AsyncIterator[bytes]:
    """Yield a zip, one picture after the other; those that are deleted meanwhile are missing."""
    out = _Chunks()
    lines = []
    with zipfile.ZipFile(out, "w", zipfile.ZIP_STORED) as archive:  # type: ignore[call-overload]
        for one in found:
            try:
                _, content = await service.database.run(queries.content, owner, one.number)
            except ApiError:
                continue
            name = f"{one.number:08d}.{one.media_type.rpartition('/')[2]}"
            archive.writestr(zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0)), content)
            lines.append(json.dumps({"file_name": name, **_describe(one, None)}, ensure_ascii=False))
            yield out.take()
        archive.writestr("metadata.jsonl", "".join(f"{line}\n" for line in lines))
    yield out.take()


class _Chunks:
    """What a zip writes, until it is taken; without seeking, as to a socket."""

    def __init__(self) -> None:
        self._written = bytearray()

    def write(self, data: bytes, /) -> int:
        self._written += data
        return len(data)

    def flush(self) -> None:
        """Do nothing: everything is in memory."""

    def take(self) -> bytes:
        taken, self._written = bytes(self._written), bytearray()
        return taken


def _public(found: GalleryPicture) -> dict[str, Any]:
    settings = json.loads(found.settings)
    return {name: settings[name] for name in ("danqing", "endpoint", "request", "index")}


def _describe(found: GalleryPicture, thumbnail: bytes | None) -> dict[str, Any]:
    return {
        "number": found.number,
        "created_at": int(found.created),
        "media_type": found.media_type,
        "width": found.width,
        "height": found.height,
        "bytes": found.size,
        "model": found.model,
        "title": found.title,
        "rating": found.rating,
        "tags": json.loads(found.tags),
        "settings": _public(found),
        **({} if thumbnail is None else {"thumbnail": b64encode(thumbnail).decode()}),
    }
