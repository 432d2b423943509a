"""Which model a request means, and which others could serve it."""

import logging
from collections.abc import Callable, Mapping

from danqing.service.access.caller import Caller
from danqing.service.engine.offers import Offer
from danqing.service.errors import FINAL, ApiError
from danqing.service.requests import prompts
from danqing.service.settings import TRAINED, Settings

_log = logging.getLogger("danqing.service")

Suits = Callable[[Offer], bool]
"""Whether a model can serve a request."""


class ModelChoice:
    """The models of a service by name; they change while it runs."""

    def __init__(self, settings: Settings, offers: Mapping[str, Offer]) -> None:
        self._settings, self._offers = settings, offers

    def find(self, name: str, caller: Caller) -> Offer:
        """Return the model of a name or an alias.

        Raises ApiError 404 for an unknown name, and 403 if the key may not use the model.
        """
        offer = self._offers.get(self._settings.aliases.get(name, name))
        if offer is not None and offer.name.startswith(TRAINED) and not caller.may_use(offer.name):
            offer = None  # nobody learns what others have trained
        if offer is None:
            allowed = [one for one in self._offers if caller.may_use(one)]
            near = prompts.nearest(name, allowed) or allowed
            raise ApiError(
                404,
                f"There is no model {name[:100]!r} here: choose {prompts.some(near)}.",
                param="model",
                code="model_not_found",
            )
        caller.permit(offer.name)
        return offer

    def choose(self, name: str | None, caller: Caller, suits: Suits) -> Offer:
        """Return the requested model.

        By default it is the first that suits and that the caller may use, or if none suits, the first that
        the caller may use. Raises ApiError as `find`, and 503 for a model that cannot be used.
        """
        if name is None:
            allowed = [model for model in self._settings.models if caller.may_use(model)]
            suited = [model for model in allowed if model in self._offers and suits(self._offers[model])]
            name = next(iter(suited or allowed or self._settings.models))
        offer = self.find(name, caller)
        if offer.fault is not None:  # which may name files of this machine
            _log.warning("%s cannot be used: %s", offer.name, offer.fault)
            message = f"{offer.name} cannot be used now: the log of the service says why."
            raise ApiError(503, message, param="model", code="model_unavailable", headers=FINAL)
        return offer

    def advice(self, caller: Caller, suits: Suits) -> str:
        """Return which models suit, as the end of a sentence."""
        offers = self._offers.values()
        able = [one.name for one in offers if suits(one) and one.fault is None and caller.may_use(one.name)]
        return f"use {prompts.some(able)}" if able else "no model of this service can"
