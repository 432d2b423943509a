"""GET /v1/models: the models of the service, and what each can do."""

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request
from fastapi.responses import JSONResponse

from danqing.service.access.caller import Caller
from danqing.service.engine.offers import Offer
from danqing.service.http.gate import any_key
from danqing.service.parts import service_of
from danqing.service.requests import schemas
from danqing.service.requests.planner import VERBS

router = APIRouter(prefix="/v1/models", tags=["models"])

_AnyKey = Annotated[Caller, Depends(any_key)]


@router.get("", summary="All models", responses={200: {"model": schemas.ModelList}, **schemas.REJECTED})
async def models(request: Request, caller: _AnyKey) -> JSONResponse:
    """Return the models that the caller may use.

    In the order of the settings.
    """
    offers = service_of(request).scheduler.offers.values()
    data = [_describe(offer) for offer in offers if caller.may_use(offer.name)]
    return JSONResponse({"object": "list", "data": data})


@router.get(
    "/{name:path}", summary="One model", responses={200: {"model": schemas.ModelCard}, **schemas.REJECTED}
)
async def model(request: Request, name: str, caller: _AnyKey) -> JSONResponse:
    """Return one model by its name or an alias, with its card."""
    offer = service_of(request).planner.find(name, caller)
    return JSONResponse({**_describe(offer), "card": offer.card})


def _describe(offer: Offer) -> dict[str, Any]:
    """Describe a model for clients; why one cannot be used is only logged, since it may name files."""
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
        "attributes": list(offer.attributes),
        "options": dict(next(iter(offer.options.values()), {})),
        "endpoints": [one for one, verbs in VERBS.items() if any(verb in offer.verbs for verb in verbs)],
        "tasks": list(offer.tasks),
        "partial_images": offer.steps,
        "other_sizes": offer.resamples,
        "sampled_sizes": offer.sizes.in_words(),
        "available": offer.fault is None,
    }
