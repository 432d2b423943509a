"""What whoever runs the service asks it: does it live, is it ready, and its numbers."""

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request, Response
from fastapi.responses import JSONResponse

from danqing.service.http.gate import needs
from danqing.service.observability import metrics
from danqing.service.parts import Service, service_of

router = APIRouter(tags=["operations"])


@router.get("/healthz", summary="Whether the process answers")
async def live() -> dict[str, str]:
    """200 as long as this process can answer at all: restart it when it does not."""
    return {"status": "ok"}


@router.get("/readyz", summary="Whether requests can be served")
async def ready(request: Request) -> JSONResponse:
    """200 when the worker lives, a model can paint and the service does not stop; 503 with the reason
    otherwise: send no requests then. A database that is away is told, and stops no painting.
    """
    service = service_of(request)
    state = service.engine.state()
    usable = [name for name, offer in service.engine.offers.items() if offer.fault is None]
    checks = {
        "accepting": not service.draining.is_set(),
        "worker": state.alive,
        "models": bool(usable),
    }
    told: dict[str, Any] = {
        "status": "ready" if all(checks.values()) else "unavailable",
        "checks": checks,
        "models": {"usable": len(usable), "all": len(service.engine.offers)},
    }
    return JSONResponse(told, 200 if all(checks.values()) else 503)


@router.get(
    "/metrics",
    summary="Numbers for Prometheus",
    response_class=Response,
    dependencies=[Depends(needs("metrics"))],
)
async def numbers(service: Annotated[Service, Depends(service_of)]) -> Response:
    """Requests, queue and compute time, batches, failures by reason, pictures and memory."""
    return Response(service.metrics.text(), media_type=metrics.CONTENT_TYPE)


def watch(service: Service) -> None:
    """Let the metrics of a service tell what only its engine knows, whenever somebody asks."""
    engine, numbers = service.engine, service.metrics
    numbers.watch("danqing_queue_images", "Pictures that wait.", lambda: engine.state().queued)
    numbers.watch("danqing_worker_images", "Pictures being painted.", lambda: engine.state().in_flight)
    numbers.watch("danqing_worker_up", "1 while the worker lives.", lambda: engine.state().alive)
    numbers.watch("danqing_worker_restarts_total", "Workers that died.", lambda: engine.state().restarts)
    numbers.watch(
        "danqing_worker_memory_bytes", "Resident memory of the worker.", lambda: engine.state().memory_bytes
    )
    numbers.watch("danqing_models_loaded", "Models in memory.", lambda: len(engine.state().loaded))
