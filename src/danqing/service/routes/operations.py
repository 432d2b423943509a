"""Health checks and metrics for operators and monitoring."""

from collections.abc import Callable
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request, Response
from fastapi.responses import JSONResponse

from danqing.service.engine.pool import WorkerState
from danqing.service.http.gate import anyone, needs
from danqing.service.observability import metrics
from danqing.service.parts import Service, service_of

router = APIRouter(tags=["operations"])


@router.get("/healthz", summary="Whether the process answers", dependencies=[Depends(anyone)])
async def live() -> dict[str, str]:
    """Answer 200; if this fails, restart the process."""
    return {"status": "ok"}


@router.get("/readyz", summary="Whether requests can be served", dependencies=[Depends(anyone)])
async def ready(request: Request) -> JSONResponse:
    """Answer 200 while pictures can be painted.

    That is while a worker runs, a model can paint and the service is not stopping. Otherwise answer 503
    with the reason: send no requests then. Painting does not need the database.
    """
    service = service_of(request)
    state = service.scheduler.state()
    usable = [name for name, offer in service.scheduler.offers.items() if offer.fault is None]
    checks = {
        "accepting": not service.draining.is_set(),
        "worker": bool(state.alive),
        "models": bool(usable),
    }
    answer: dict[str, Any] = {
        "status": "ready" if all(checks.values()) else "unavailable",
        "checks": checks,
        "models": {"usable": len(usable), "all": len(service.scheduler.offers)},
        "workers": {"ready": state.alive, "all": len(state.workers)},
    }
    return JSONResponse(answer, 200 if all(checks.values()) else 503)


@router.get(
    "/metrics",
    summary="Numbers for Prometheus",
    response_class=Response,
    dependencies=[Depends(needs("metrics"))],
)
async def numbers(service: Annotated[Service, Depends(service_of)]) -> Response:
    """Return metrics of requests, times, batches, failures, pictures and memory."""
    return Response(service.metrics.text(), media_type=metrics.CONTENT_TYPE)


def register_gauges(service: Service) -> None:
    """Add the state of the scheduler and its workers to the metrics.

    It is read whenever they are requested.
    """
    scheduler, numbers = service.scheduler, service.metrics
    numbers.register("danqing_queue_images", "Pictures that wait.", lambda: scheduler.state().queued)
    numbers.register("danqing_worker_images", "Pictures being painted.", lambda: scheduler.state().in_flight)
    numbers.register("danqing_worker_up", "Workers that live.", lambda: scheduler.state().alive)
    numbers.register(
        "danqing_worker_restarts_total", "Workers that died.", lambda: scheduler.state().restarts
    )
    numbers.register(
        "danqing_worker_memory_bytes",
        "Resident memory of all workers.",
        lambda: scheduler.state().memory_bytes,
    )
    numbers.register("danqing_models_loaded", "Models in memory.", lambda: len(scheduler.state().loaded))

    def register_for_each(name: str, text: str, read: Callable[[WorkerState], float]) -> None:
        def values() -> dict[tuple[str, ...], float]:
            return {(str(one.number), one.device): read(one) for one in scheduler.state().workers}

        numbers.register_family(f"danqing_each_worker_{name}", text, ("worker", "device"), values)

    register_for_each("up", "1 while this worker lives.", lambda one: one.alive)
    register_for_each("images", "Pictures that this worker paints.", lambda one: one.in_flight)
    register_for_each("restarts_total", "How often this worker died.", lambda one: one.restarts)
    register_for_each("memory_bytes", "Resident memory of this worker.", lambda one: one.memory_bytes)
    register_for_each("models_loaded", "Models in memory of this worker.", lambda one: len(one.loaded))
