"""GET /v1/models: what is served here, and what each model can do."""

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request
from fastapi.responses import JSONResponse

from danqing.service.access.caller import Caller
from danqing.service.engine.orders import Offer
from danqing.service.http.gate import known
from danqing.service.parts import service_of
from danqing.service.requests import schemas as wire
from danqing.service.requests.planner import VERBS

router = APIRouter(prefix="/v1/models", tags=["models"])

_Anyone = Annotated[Caller, Depends(known)]


@router.get("", summary="All models", responses={200: {"model": wire.ModelList}, **wire.REFUSED})
async def models(request: Request, caller: _Anyone) -> JSONResponse:
    """The models that the caller may use, in the order in which they are served."""
    offers = service_of(request).engine.offers.values()
    data = [_told(offer) for offer in offers if caller.may_use(offer.name)]
    return JSONResponse({"object": "list", "data": data})


@router.get("/{name:path}", summary="One model", responses={200: {"model": wire.ModelCard}, **wire.REFUSED})
async def model(request: Request, name: str, caller: _Anyone) -> JSONResponse:
    """One model by its name or an alias, with its card."""
    offer = service_of(request).planner.find(name, caller)
    return JSONResponse({**_told(offer), "card": offer.card})


def _told(offer: Offer) -> dict[str, Any]:
    """A model as clients see it; why one cannot be used stays in the log, for it may name files."""
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
        "reads": offer.reads,
        "prompt_tokens": offer.prompt_tokens,
        "labels": list(offer.labels),
        "captions": list(offer.captions),
        "options": dict(offer.options["sample"]),
        "endpoints": [endpoint for endpoint, verb in VERBS.items() if verb in offer.verbs],
        "partial_images": offer.steps,
        "other_sizes": offer.resamples,
        "available": offer.fault is None,
    }
