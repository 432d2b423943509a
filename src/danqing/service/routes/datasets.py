"""/v1/datasets: data sets that are uploaded, looked through and edited, to train on them."""

import asyncio
import io
import time
import uuid
from collections import Counter
from pathlib import Path
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Query, Request, Response
from fastapi.responses import JSONResponse
from PIL import Image, ImageOps

from danqing import image_files
from danqing.service.access.caller import Caller
from danqing.service.errors import ApiError, invalid
from danqing.service.http.gate import held_bytes, needs
from danqing.service.parts import Service, service_of
from danqing.service.pictures.encoding import PICTURE_HEADERS
from danqing.service.requests import input_pictures, schemas
from danqing.service.requests.forms import read_form
from danqing.service.requests.training_schemas import (
    DataSetAnswer,
    DataSetDetails,
    DataSetList,
    DataSetName,
    ImageChanges,
    ImagePage,
    UploadAnswer,
)
from danqing.service.routes.bodies import answers, body_of, form_of, read_body
from danqing.service.training import store, upload
from danqing.service.training.manager import Training
from danqing.service.training.set_folder import Change, Entry
from danqing.service.training.tables import TrainingSet

router = APIRouter(prefix="/v1/datasets", tags=["training"])

THUMBNAIL = 192
"""The longer side of a small picture, in pixels."""


async def trainer(request: Request, caller: Annotated[Caller, Depends(needs("train"))]) -> Caller:
    """Return the caller; raises ApiError 404 where nothing is trained."""
    if not service_of(request).training.is_on:
        raise ApiError(404, "This service trains nothing: its setting training.runs is 0.", code="not_found")
    return caller


_Trainer = Annotated[Caller, Depends(trainer)]


@router.get("", summary="Data sets", responses=answers(DataSetList))
async def list_sets(request: Request, caller: _Trainer) -> JSONResponse:
    """Return the data sets of the caller, the newest first."""
    service = service_of(request)
    training = service.training
    found = await service.database.run(store.list_sets, training.whose(caller.owner))
    limits = training.limits
    return JSONResponse(
        {
            "object": "list",
            "data": [_describe(one) for one in found],
            "most_sets": limits.sets,
            "most_images": limits.images,
            "most_bytes": limits.bytes,
        }
    )


@router.post(
    "", summary="Create a data set", responses=answers(DataSetAnswer), openapi_extra=body_of(DataSetName)
)
async def create(request: Request, caller: _Trainer) -> JSONResponse:
    """Create an empty data set."""
    asked = await read_body(request, DataSetName)
    service = service_of(request)
    training, id = service.training, f"set_{uuid.uuid4().hex}"
    whose = training.whose(caller.owner)
    await service.database.run(store.add_set, whose, id, asked.name, training.limits, time.time())
    await asyncio.to_thread(training.set_folder(id).create)
    return JSONResponse(_describe(await service.database.run(store.find_set, whose, id)))


@router.get("/{set_id}", summary="One data set", responses=answers(DataSetDetails))
async def details(request: Request, caller: _Trainer, set_id: str) -> JSONResponse:
    """Return a data set with what its check has found."""
    found = await _find(request, caller, set_id)
    training = service_of(request).training
    entries = await asyncio.to_thread(training.set_folder(set_id).entries)
    return JSONResponse(
        {
            **_describe(found),
            "labels": dict(Counter(one.label for one in entries).most_common(200)),
            "captions": sum(bool(one.text) for one in entries),
            "dropped": sum(one.decision == "drop" for one in entries),
            "check": await asyncio.to_thread(_check, training, set_id),
        }
    )


@router.delete("/{set_id}", summary="Delete a data set", status_code=204, responses=schemas.REJECTED)
async def delete(request: Request, caller: _Trainer, set_id: str) -> Response:
    """Delete a data set with its files.

    Runs keep the copies that they train on.
    """
    service = service_of(request)
    await service.database.run(store.delete_set, service.training.whose(caller.owner), set_id)
    await service.training.forget_set(set_id)
    return Response(status_code=204)


@router.post(
    "/{set_id}/images",
    summary="Add images",
    responses=answers(UploadAnswer),
    openapi_extra=form_of(
        {
            "image": {"type": "array", "items": {"type": "string", "format": "binary"}},
            "request": {"type": "string"},
        }
    ),
)
async def add_images(request: Request, caller: _Trainer, set_id: str) -> JSONResponse:
    """Add images to a data set: several files `image`, or one zip.

    The field `request` may describe them in their order: `{"files": [{"name", "label", "caption"}]}`. In a
    zip, labels and captions come from folders within folders, text files beside images, and tables. Files
    that are not png, jpeg or webp, or exceed the limits, are rejected one by one.
    """
    await _find(request, caller, set_id)
    service = service_of(request)
    training, limits = service.training, service.settings.limits
    fields, uploads = await read_form(request, limits, names=("image",))
    if unknown := sorted(fields.keys() - {"request"}):
        raise invalid(f"There is no field {unknown[0][:64]}: send image and request.", unknown[0][:64])
    if not uploads.images:
        raise invalid("image is missing: send images or a zip.", "image", "missing_required_parameter")
    told = upload.read_about(fields.get("request", ""))
    held_bytes(request).hold(upload.unpacked_bytes(uploads.images, limits))
    found = await service.encode_pool.run(
        caller.owner, lambda: upload.read_upload(uploads.images, told, limits)
    )
    whose, folder = training.whose(caller.owner), training.set_folder(set_id)
    size = sum(len(one.content) for one in found.images)
    async with training.lock_of(set_id):
        count = len(found.images)
        await service.database.run(store.check_room, whose, set_id, count, size, training.limits)
        names = await asyncio.to_thread(folder.add, found.images)
        total, stored = await asyncio.to_thread(folder.usage)
        await service.database.run(store.set_size, set_id, total, stored)
    return JSONResponse({"added": names, "rejected": dict(list(found.rejected.items())[:200])})


@router.get("/{set_id}/images", summary="Images of a data set", responses=answers(ImagePage))
async def images(
    request: Request,
    caller: _Trainer,
    set_id: str,
    only: Annotated[Literal["all", "found", "dropped"], Query(description="Which images.")] = "all",
    limit: Annotated[int, Query(ge=1, le=200)] = 60,
    offset: Annotated[int, Query(ge=0, le=1_000_000)] = 0,
) -> JSONResponse:
    """Return images with labels, captions, findings and decisions."""
    await _find(request, caller, set_id)
    entries = await asyncio.to_thread(service_of(request).training.set_folder(set_id).entries)
    if only == "found":
        entries = [one for one in entries if one.finding]
    elif only == "dropped":
        entries = [one for one in entries if one.decision == "drop"]
    data = [_entry(one) for one in entries[offset : offset + limit]]
    return JSONResponse({"object": "list", "data": data, "total": len(entries)})


@router.patch(
    "/{set_id}/images",
    summary="Change images",
    status_code=204,
    responses=schemas.REJECTED,
    openapi_extra=body_of(ImageChanges),
)
async def change(request: Request, caller: _Trainer, set_id: str) -> Response:
    """Change labels, captions and decisions; runs that were begun keep theirs."""
    await _find(request, caller, set_id)
    asked = await read_body(request, ImageChanges)
    training = service_of(request).training
    changes = [
        Change(
            one.image,
            None if one.label is None else upload.shortened(one.label, upload.MOST_LABEL),
            None if one.caption is None else upload.shortened(one.caption, upload.MOST_TEXT),
            one.decision,
        )
        for one in asked.changes
    ]
    async with training.lock_of(set_id):
        unknown = await asyncio.to_thread(training.set_folder(set_id).change, changes)
    if unknown:
        raise invalid(f"The data set has no image {unknown[0]!r}: nothing was changed.", "changes")
    return Response(status_code=204)


@router.get(
    "/{set_id}/images/{name}/thumbnail",
    summary="A small picture",
    response_class=Response,
    responses={200: {"content": {"image/webp": {}}}, **schemas.REJECTED},
)
async def thumbnail(request: Request, caller: _Trainer, set_id: str, name: str) -> Response:
    """Return an image of a data set, small."""
    await _find(request, caller, set_id)
    service = service_of(request)
    path = await asyncio.to_thread(service.training.set_folder(set_id).image, name)
    return await small_picture(service, caller, path)


@router.post("/{set_id}/check", summary="Check a data set", status_code=202, responses=schemas.REJECTED)
async def check(request: Request, caller: _Trainer, set_id: str) -> Response:
    """Start to look for what is unusual, as `danqing data clean` does.

    `GET` of the data set says when it is done.
    """
    found = await _find(request, caller, set_id)
    if not found.images:
        raise ApiError(409, "The data set has no images: add some first.", code="empty_set")
    service_of(request).training.check_set(set_id)
    return Response(status_code=202)


async def small_picture(service: Service, caller: Caller, path: Path | None) -> Response:
    """Answer with an image of a data set, small.

    Raises ApiError 404 where there is none.
    """
    if path is None:
        raise ApiError(404, "The data set has no such image.", code="not_found")
    content = await service.encode_pool.run(caller.owner, lambda: _small(path))
    return Response(content, 200, {**PICTURE_HEADERS, "cache-control": "private, max-age=3600"}, "image/webp")


async def _find(request: Request, caller: Caller, set_id: str) -> TrainingSet:
    service = service_of(request)
    return await service.database.run(store.find_set, service.training.whose(caller.owner), set_id)


def _small(path: Path) -> bytes:
    """Return an image as a small WebP; raises ApiError for one that is damaged."""
    packed = io.BytesIO()
    try:
        with image_files.opened(
            path.read_bytes(), max_pixels=None, formats=input_pictures.FORMATS
        ) as picture:
            picture.draft("RGB", (THUMBNAIL, THUMBNAIL))
            upright: Image.Image = ImageOps.exif_transpose(picture)
            small = upright.convert("RGBA" if upright.has_transparency_data else "RGB")
        small.thumbnail((THUMBNAIL, THUMBNAIL))
        small.save(packed, "WEBP", quality=80, method=2)
    except Exception:  # decoders raise anything on hostile input
        raise ApiError(
            400, "The image cannot be read: its file is damaged.", code="image_parse_error"
        ) from None
    return packed.getvalue()


def _describe(found: TrainingSet) -> dict[str, Any]:
    return {
        "id": found.id,
        "object": "dataset",
        "name": found.name,
        "created_at": int(found.created),
        "images": found.images,
        "bytes": found.bytes,
    }


def _entry(one: Entry) -> dict[str, str]:
    return {
        "image": one.name,
        "source": one.source,
        "label": one.label,
        "caption": one.text,
        "finding": one.finding,
        "suggested": one.suggested,
        "like": one.like,
        "decision": one.decision,
    }


def _check(training: Training, set_id: str) -> dict[str, Any]:
    found, latest = training.set_folder(set_id).findings(), training.check_of(set_id)
    state = "done" if found else "none"
    if latest is not None and (latest.state != "done"):
        state = latest.state
    return {
        "state": state,
        "reason": latest.reason if latest is not None and state == "failed" else "",
        "found": found.get("found", {}),
        "unreadable": [[str(part) for part in one] for one in found.get("unreadable", [])][:200],
    }
