"""/v1/runs: models that are trained in the service."""

import asyncio
import time
import uuid
from collections.abc import Mapping
from functools import partial
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request, Response
from fastapi.responses import JSONResponse

from danqing.errors import DataError
from danqing.service.access.caller import Caller
from danqing.service.errors import ApiError, invalid
from danqing.service.http import sse
from danqing.service.parts import service_of
from danqing.service.pictures.encoding import PICTURE_HEADERS
from danqing.service.requests import input_pictures, schemas
from danqing.service.requests.forms import read_form
from danqing.service.requests.training_schemas import (
    NewRun,
    PresetList,
    RunAnswer,
    RunDetails,
    RunList,
    ServedAs,
    TrainingImageList,
)
from danqing.service.routes.bodies import answers, body_of, form_of, read_body
from danqing.service.routes.datasets import small_picture, trainer
from danqing.service.training import presets, store
from danqing.service.training.progress import progress, sample_file
from danqing.service.training.set_folder import SetFolder
from danqing.service.training.tables import TrainingRun
from danqing.threads import cores

router = APIRouter(prefix="/v1/runs", tags=["training"])

MOST_NEAREST = 60

_Trainer = Annotated[Caller, Depends(trainer)]
_REPORT_POLICY = (
    "default-src 'none'; img-src data:; style-src 'unsafe-inline'; frame-ancestors 'none'; sandbox"
)
"""The report is shown without its script: what it says of images and labels came from a client."""


@router.get("", summary="Runs", responses=answers(RunList))
async def list_runs(request: Request, caller: _Trainer) -> JSONResponse:
    """Return the runs of the caller, the newest first."""
    service = service_of(request)
    found = await service.database.run(store.list_runs, service.training.whose(caller.owner))
    return JSONResponse({"object": "list", "data": [_describe(one) for one in found]})


@router.get("/presets", summary="Presets and their cost", responses=answers(PresetList))
async def list_presets(request: Request, caller: _Trainer) -> JSONResponse:
    """Return the presets for data sets, and what each costs."""
    data = [one._asdict() for one in presets.offered().values()]
    most = service_of(request).training.limits.minutes
    return JSONResponse({"object": "list", "data": data, "cores": cores(), "most_minutes": most})


@router.post("", summary="Train", responses=answers(RunAnswer), openapi_extra=body_of(NewRun))
async def train(request: Request, caller: _Trainer) -> JSONResponse:
    """Queue a run.

    It trains on a copy of a data set, in a process of its own.
    """
    asked = await read_body(request, NewRun)
    service = service_of(request)
    training, whose = service.training, service.training.whose(caller.owner)
    preset = presets.offered().get(asked.preset)
    if preset is None:
        raise invalid(f"There is no preset {asked.preset[:64]!r}: see /v1/runs/presets.", "preset")
    minutes, images = asked.minutes, asked.images
    if minutes is None and images is None:
        minutes, images = preset.minutes, preset.images
    if minutes is not None and minutes > training.limits.minutes:
        raise invalid(f"A run may take {training.limits.minutes:g} minutes here: choose fewer.", "minutes")
    source = await service.database.run(store.find_set, whose, asked.dataset)
    if not source.images:
        raise ApiError(409, "The data set has no images: add some first.", code="empty_set")
    if preset.needs:
        entries = await asyncio.to_thread(training.set_folder(source.id).entries)
        if not any(one.label if preset.needs == "labels" else one.text for one in entries):
            raise invalid(f"{preset.name} needs {preset.needs}, and the data set has none.", "preset")
    run = TrainingRun(
        id=f"run_{uuid.uuid4().hex}",
        home=training.home,
        owner=caller.owner,
        name=asked.name,
        set_name=source.name,
        preset=preset.name,
        minutes=minutes,
        images=images,
        seed=asked.seed,
        state="queued",
        reason="",
        created=time.time(),
        started=None,
        ended=None,
        pid=None,
        model="",
    )
    told = _describe(run)
    await training.submit(run, source.id)
    return JSONResponse(told)


@router.get("/{run_id}", summary="One run", responses=answers(RunDetails))
async def details(request: Request, caller: _Trainer, run_id: str) -> JSONResponse:
    """Return a run with its curves, samples and scores."""
    found = await _find(request, caller, run_id)
    folder = service_of(request).training.run_folder(run_id) / "run"
    return JSONResponse({**_describe(found), "progress": await asyncio.to_thread(progress, folder)})


@router.post("/{run_id}/stop", summary="Stop a run", responses=answers(RunAnswer))
async def stop(request: Request, caller: _Trainer, run_id: str) -> JSONResponse:
    """Stop a run, as Ctrl-C does.

    It writes a checkpoint, and resuming it changes no bit of its result.
    """
    return JSONResponse(_describe(await service_of(request).training.stop_run(caller.owner, run_id)))


@router.post("/{run_id}/resume", summary="Resume a run", responses=answers(RunAnswer))
async def resume(request: Request, caller: _Trainer, run_id: str) -> JSONResponse:
    """Let a run go on that was stopped or has failed."""
    return JSONResponse(_describe(await service_of(request).training.resume_run(caller.owner, run_id)))


@router.delete("/{run_id}", summary="Delete a run", status_code=204, responses=schemas.REJECTED)
async def delete(request: Request, caller: _Trainer, run_id: str) -> Response:
    """Delete a run with its files, at once.

    Its model goes out of service.
    """
    await service_of(request).training.delete_run(caller.owner, run_id)
    return Response(status_code=204)


@router.post(
    "/{run_id}/service",
    summary="Put a model into service",
    responses=answers(RunAnswer),
    openapi_extra=body_of(ServedAs),
)
async def serve(request: Request, caller: _Trainer, run_id: str) -> JSONResponse:
    """Serve the model of a finished run.

    Only its owner and administrators can use it.
    """
    asked = await read_body(request, ServedAs)
    await service_of(request).training.serve(caller.owner, run_id, asked.name)
    return JSONResponse(_describe(await _find(request, caller, run_id)))


@router.delete(
    "/{run_id}/service", summary="Take a model out of service", status_code=204, responses=schemas.REJECTED
)
async def withdraw(request: Request, caller: _Trainer, run_id: str) -> Response:
    """Take the model of a run out of service."""
    await service_of(request).training.withdraw(caller.owner, run_id)
    return Response(status_code=204)


@router.get(
    "/{run_id}/samples/{name}",
    summary="Samples",
    response_class=Response,
    responses={200: {"content": {"image/png": {}}}, **schemas.REJECTED},
)
async def sample(request: Request, caller: _Trainer, run_id: str, name: str) -> Response:
    """Return a grid of samples of a run."""
    await _find(request, caller, run_id)
    run = service_of(request).training.run_folder(run_id) / "run"
    folders = run, run / "tokenizer"
    path = next(filter(None, (sample_file(folder, name) for folder in folders)), None)
    if path is None:
        raise ApiError(404, "The run has no such samples.", code="not_found")
    content = await asyncio.to_thread(path.read_bytes)
    return Response(content, 200, {**PICTURE_HEADERS, "cache-control": "private, max-age=3600"}, "image/png")


@router.post(
    "/{run_id}/nearest",
    summary="Nearest training images",
    responses=answers(TrainingImageList),
    openapi_extra=form_of(
        {
            "image": {"type": "string", "format": "binary"},
            "count": {
                "type": "integer",
                "minimum": 1,
                "maximum": MOST_NEAREST,
                "default": 12,
            },
        }
    ),
)
async def nearest(request: Request, caller: _Trainer, run_id: str) -> JSONResponse:
    """Find the training images of a finished run most like a picture.

    Pictures are compared by their coarse structure and colours, as the model saw them.
    """
    run = await _find(request, caller, run_id)
    service = service_of(request)
    limits, folder = service.settings.limits, service.training.run_folder(run_id)
    fields, uploads = await read_form(request, limits, names=("image",))
    count = _count(fields)
    if len(uploads.images) != 1:
        raise invalid("Send one picture as the file image.", "image", "missing_required_parameter")
    if run.state != "finished":
        raise ApiError(409, f"The run is {run.state}: only a finished one has a model.", code="run_state")
    content = uploads.images[0]
    await service.encode_pool.run(caller.owner, lambda: input_pictures.check(content, limits, "image"))
    try:
        async with (
            asyncio.timeout(limits.seconds) as limit,
            sse.watching(request.receive, lambda: limit.reschedule(0)),
        ):
            found = await service.training.nearest.find(
                folder, content, count, partial(service.encode_pool.run, caller.owner)
            )
    except TimeoutError:
        message = "The images of this run are still being read: ask again in a while."
        raise ApiError(503, message, code="overloaded", headers={"retry-after": "10"}) from None
    except DataError as error:
        raise ApiError(400, str(error), param="image", code="image_parse_error") from None
    about = {one.name: one for one in await asyncio.to_thread(SetFolder(folder / "data").entries)}
    data = [
        {
            "image": one.image,
            "source": about[one.image].source,
            "label": about[one.image].label,
            "caption": about[one.image].text,
            "distance": one.distance,
        }
        for one in found
        if one.image in about
    ]
    return JSONResponse({"object": "list", "data": data})


@router.get(
    "/{run_id}/images/{name}/thumbnail",
    summary="A small training image",
    response_class=Response,
    responses={200: {"content": {"image/webp": {}}}, **schemas.REJECTED},
)
async def thumbnail(request: Request, caller: _Trainer, run_id: str, name: str) -> Response:
    """Return an image that a run was trained on, small."""
    await _find(request, caller, run_id)
    service = service_of(request)
    data = SetFolder(service.training.run_folder(run_id) / "data")
    return await small_picture(service, caller, await asyncio.to_thread(data.image, name))


@router.get(
    "/{run_id}/report",
    summary="The report",
    response_class=Response,
    responses={200: {"content": {"text/html": {}}}, **schemas.REJECTED},
)
async def report(request: Request, caller: _Trainer, run_id: str) -> Response:
    """Return the report of a run, as a page."""
    await _find(request, caller, run_id)
    path = service_of(request).training.run_folder(run_id) / "run" / "report.html"
    if not await asyncio.to_thread(path.is_file):
        raise ApiError(404, "The run has no report yet.", code="not_found")
    headers = {"content-security-policy": _REPORT_POLICY, "cache-control": "no-store"}
    return Response(await asyncio.to_thread(path.read_bytes), 200, headers, "text/html; charset=utf-8")


def _count(fields: Mapping[str, str]) -> int:
    """Return how many images a form asks for; raises ApiError."""
    if unknown := sorted(fields.keys() - {"count"}):
        raise invalid(f"There is no field {unknown[0][:64]}: send image and count.", unknown[0][:64])
    text = fields.get("count", "12")
    if not (text.isascii() and text.isdecimal() and len(text) < 4 and 1 <= int(text) <= MOST_NEAREST):
        raise invalid(f"count is a number from 1 to {MOST_NEAREST}.", "count")
    return int(text)


async def _find(request: Request, caller: Caller, run_id: str) -> TrainingRun:
    service = service_of(request)
    return await service.database.run(store.find_run, service.training.whose(caller.owner), run_id)


def _describe(run: TrainingRun) -> dict[str, Any]:
    return {
        "id": run.id,
        "object": "run",
        "name": run.name,
        "dataset": run.set_name,
        "preset": run.preset,
        "minutes": run.minutes,
        "images": run.images,
        "seed": run.seed,
        "state": run.state,
        "reason": run.reason,
        "created_at": int(run.created),
        "started_at": None if run.started is None else int(run.started),
        "ended_at": None if run.ended is None else int(run.ended),
        "model": run.model,
    }
