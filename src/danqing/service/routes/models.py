"""GET /v1/models: the models of the service, and what each can do."""

from collections.abc import Iterable
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request
from fastapi.responses import JSONResponse

from danqing.options import CONTROLS
from danqing.service.access.caller import Caller
from danqing.service.engine.offers import Offer
from danqing.service.engine.pool import WorkerState
from danqing.service.http.gate import any_key
from danqing.service.parts import service_of
from danqing.service.requests import schemas
from danqing.service.requests.planner import VERBS
from danqing.service.requests.recognition import ABILITIES
from danqing.service.settings import Settings

router = APIRouter(prefix="/v1/models", tags=["models"])

_AnyKey = Annotated[Caller, Depends(any_key)]


@router.get("", summary="All models", responses={200: {"model": schemas.ModelList}, **schemas.REJECTED})
async def models(request: Request, caller: _AnyKey) -> JSONResponse:
    """Return the models that the caller may use.

    In the order of the settings.
    """
    service = service_of(request)
    offers = service.scheduler.offers.values()
    workers = service.scheduler.state().workers
    data = [
        _describe(offer, service.settings, workers, caller) for offer in offers if caller.may_use(offer.name)
    ]
    return JSONResponse({"object": "list", "data": data})


@router.get(
    "/{name:path}", summary="One model", responses={200: {"model": schemas.ModelCard}, **schemas.REJECTED}
)
async def model(request: Request, name: str, caller: _AnyKey) -> JSONResponse:
    """Return one model by its name or an alias, with its card."""
    service = service_of(request)
    offer = service.planner.models.find(name, caller)
    workers = service.scheduler.state().workers
    return JSONResponse({**_describe(offer, service.settings, workers, caller), "card": offer.card})


def _describe(
    offer: Offer, settings: Settings, workers: Iterable[WorkerState], caller: Caller
) -> dict[str, Any]:
    """Describe a model for clients; why one cannot be used is only logged, since it may name files."""
    options = dict(next(iter(offer.options.values()), {}))
    return {
        "id": offer.name,
        "object": "model",
        "created": offer.created,
        "owned_by": "danqing",
        "shutdown_date": None,
        "family": offer.family,
        "size": f"{offer.width}x{offer.height}",
        "channels": offer.channels,
        "parameters": offer.parameters,
        "runtime": offer.runtime,
        "precision": offer.precision,
        "reads": offer.reads,
        "prompt_tokens": offer.prompt_tokens,
        "labels": list(offer.labels),
        "captions": list(offer.captions),
        "attributes": list(offer.attributes),
        "verb_options": {verb: dict(options) for verb, options in offer.options.items()},
        "scale": offer.scale,
        "options": options,
        "option_values": {
            name: CONTROLS[name] for own in offer.options.values() for name in own if name in CONTROLS
        },
        "endpoints": _endpoints(offer),
        "tasks": list(offer.tasks),
        "partial_images": offer.steps,
        "directions": offer.directions,
        "other_sizes": offer.resamples,
        "sampled_sizes": offer.sizes.in_words(),
        "adapters": [
            {"name": name, "trigger": told["trigger"], "licence": told["licence"]}
            for name, told in offer.adapters.items()
            if caller.may_use(name)
        ],
        "reads_text": offer.reads_text,
        "calibrated": offer.calibrated,
        "embedding_size": offer.embedding_size,
        "entries": offer.entries,
        "available": offer.fault is None,
        "workers": [
            {"worker": one.number, "ready": one.alive, "loaded": offer.name in one.loaded}
            for one in workers
            if offer.name in one.models
        ],
        "marks": str(settings.mark_settings),
        "filters": settings.filters.describe() if settings.filters else None,
    }


def _endpoints(offer: Offer) -> list[str]:
    """Return the endpoints that a model serves."""
    makes = [one for one, verbs in VERBS.items() if any(verb in offer.verbs for verb in verbs)]
    return [*makes, *(one for one, ability in ABILITIES.items() if ability in offer.recognizes)]
