"""/v1/admin: what administrators see of a service."""

import json
import shutil
import time
from pathlib import Path
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Query, Request
from fastapi.responses import JSONResponse
from pydantic import BaseModel
from sqlalchemy import func, select
from sqlalchemy.orm import Session
from starlette.concurrency import run_in_threadpool

from danqing.service.access import audit, usage
from danqing.service.access.accounts import DAY
from danqing.service.access.keys import Key
from danqing.service.gallery.tables import GalleryPicture
from danqing.service.http.gate import needs
from danqing.service.jobs.tables import Job
from danqing.service.parts import Service, service_of
from danqing.service.requests import schemas
from danqing.version import __version__

router = APIRouter(prefix="/v1/admin", tags=["administration"], dependencies=[Depends(needs("admin"))])


class KeyAnswer(BaseModel):
    """A key, without its secret, and what it has used.

    Times are seconds since 1970.
    """

    id: str
    name: str
    state: Literal["active", "expired", "revoked"]
    scopes: list[str]
    models: list[str] | None
    rate: int | None
    quota: int | None
    created_at: int
    expires_at: int | None
    images_today: int
    images: int
    requests: int


class KeyList(BaseModel):
    """All keys, the oldest first."""

    object: Literal["list"] = "list"
    data: list[KeyAnswer]


class StateAnswer(BaseModel):
    """The state of the service.

    queue: pictures that wait and that are computed, and jobs by their status.
    workers: see `each_worker` in the metrics.
    models: whether each can be used, and why not.
    disk: bytes of the disk with the folder `data`, and of what the service keeps.
    """

    object: Literal["state"] = "state"
    version: str
    queue: dict[str, Any]
    workers: list[dict[str, Any]]
    models: list[dict[str, Any]]
    disk: dict[str, int]


class AuditAnswer(BaseModel):
    """An entry of the audit log."""

    number: int
    at: str
    event: str
    facts: dict[str, Any]


class AuditPage(BaseModel):
    """Entries of the audit log, the latest first.

    The next page begins `before` the last number of this one.
    """

    object: Literal["list"] = "list"
    data: list[AuditAnswer]
    has_more: bool


@router.get("/keys", summary="All keys", responses={200: {"model": KeyList}, **schemas.REJECTED})
async def keys(request: Request) -> JSONResponse:
    """Return all keys with their limits and what they have used."""
    data = await service_of(request).database.run(_keys)
    return JSONResponse({"object": "list", "data": data})


@router.get(
    "/state", summary="The state of the service", responses={200: {"model": StateAnswer}, **schemas.REJECTED}
)
async def state(request: Request) -> JSONResponse:
    """Return queue, workers, models and disk."""
    service = service_of(request)
    now = service.scheduler.state()
    jobs = await service.database.run(_jobs_by_status)
    disk = await run_in_threadpool(_disk, service)
    disk["gallery"] = await service.database.run(_gallery_bytes)
    return JSONResponse(
        {
            "object": "state",
            "version": __version__,
            "queue": {"waiting": now.queued, "computing": now.in_flight, "jobs": jobs},
            "workers": [
                {
                    "worker": one.number,
                    "device": one.device,
                    "ready": one.alive,
                    "restarts": one.restarts,
                    "memory_bytes": one.memory_bytes,
                    "loaded": list(one.loaded),
                }
                for one in now.workers
            ],
            "models": [
                {"id": name, "available": offer.fault is None, "fault": offer.fault}
                for name, offer in service.scheduler.offers.items()
            ],
            "disk": disk,
        }
    )


@router.get("/audit", summary="The audit log", responses={200: {"model": AuditPage}, **schemas.REJECTED})
async def entries(
    request: Request,
    limit: Annotated[int, Query(ge=1, le=200)] = 50,
    before: Annotated[int | None, Query(ge=1, lt=2**62, description="The number of an entry.")] = None,
    event: Annotated[
        str | None,
        Query(pattern="^[a-z -]{1,40}$", description="Only such entries; `blocked` are those of filters."),
    ] = None,
) -> JSONResponse:
    """Return entries of the audit log, the latest first."""
    found = await service_of(request).database.run(audit.page_before, before, event, limit + 1)
    data = [
        {"number": one.number, "at": one.at, "event": one.event, "facts": json.loads(one.facts)}
        for one in found[:limit]
    ]
    return JSONResponse({"object": "list", "data": data, "has_more": len(found) > limit})


def _keys(session: Session) -> list[dict[str, Any]]:
    now = time.time()
    totals = usage.totals(session, int(now // DAY))
    found = []
    for key in session.scalars(select(Key).order_by(Key.created)):
        used = totals.get(key.id, usage.UsageTotals())
        found.append(
            {
                "id": key.id,
                "name": key.name,
                "state": key.state(now),
                "scopes": key.scopes,
                "models": key.models,
                "rate": key.rate,
                "quota": key.quota,
                "created_at": int(key.created),
                "expires_at": None if key.expires is None else int(key.expires),
                "images_today": used.today,
                "images": used.images,
                "requests": used.requests,
            }
        )
    return found


def _jobs_by_status(session: Session) -> dict[str, int]:
    rows = session.execute(select(Job.status, func.count().label("jobs")).group_by(Job.status))
    return {row.status: row.jobs for row in rows}


def _gallery_bytes(session: Session) -> int:
    return int(session.scalar(select(func.coalesce(func.sum(GalleryPicture.size), 0))) or 0)


def _disk(service: Service) -> dict[str, int]:
    """Return bytes of the disk, of the database if it is a file, and of hosted pictures."""
    disk = shutil.disk_usage(service.settings.data)
    sizes = {"total": disk.total, "free": disk.free, "hosted": int(service.hosted.share.held)}
    if service.database.is_sqlite:
        file = Path(str(service.database.engine.url.database))
        files = (file, file.with_name(f"{file.name}-wal"))
        sizes["database"] = sum(one.stat().st_size for one in files if one.exists())
    return sizes
