"""The models of a service as its workers describe them, and those that kill workers."""

import asyncio
import dataclasses
import logging
from collections.abc import Iterable, Mapping

from danqing.frames import Header
from danqing.service.engine.offers import Offer
from danqing.sizes import SizeRange

_log = logging.getLogger("danqing.engine")

DEATHS = 2
"""How many workers may die during the same work before it counts as the cause."""
SHORTEST_BAN, LONGEST_BAN = 5.0, 300.0
"""Seconds until a model whose loading killed workers is retried; doubled each time."""


class Catalogue:
    """The offers of all models, whichever workers hold them.

    sources: paths or hub ids of the models, by their names.
    offers: by name, filled as workers describe the models. A model that kills workers gets a `fault`.
    loading_deaths: how many workers died while loading a model since it was last loaded, by its name.
    """

    def __init__(self, sources: Mapping[str, str]) -> None:
        self.offers: dict[str, Offer] = {}
        self.loading_deaths: dict[str, int] = {}
        self._bans: dict[str, asyncio.TimerHandle] = {}
        self._sources = dict(sources)
        self._awaited: dict[str, asyncio.Future[Offer]] = {}

    def serve_from(self, name: str, source: str) -> None:
        """Serve a model from another source, such as its export."""
        self._sources[name] = source

    def add(self, name: str, source: str) -> asyncio.Future[Offer]:
        """Add a model while the service runs.

        Return its description once a worker has read its folder.
        """
        self._sources[name] = source
        self._awaited[name] = asyncio.get_running_loop().create_future()
        return self._awaited[name]

    def withdraw(self, name: str) -> None:
        """Let no more work begin with a model that was added."""
        if name in self.offers:
            self.offers[name] = dataclasses.replace(self.offers[name], fault="it was taken out of service.")

    def cannot_be_served(self, name: str, fault: str) -> None:
        """Record why no worker is told of a model."""
        self.offers[name] = Offer(name=name, path=self._sources.pop(name), fault=fault)
        _log.warning("the model %s cannot be served: %s", name, fault)

    def missing(self, names: Iterable[str]) -> list[str]:
        """Return those of some models that are not described."""
        return [name for name in names if name not in self.offers]

    def sources_of(self, names: Iterable[str]) -> dict[str, str]:
        """Return the sources of those of some models that can be served."""
        return {name: self._sources[name] for name in names if name in self._sources}

    def describe(self, header: Header) -> None:
        """Add a model that a worker describes."""
        for name in ("labels", "captions", "attributes", "recognizes"):
            header[name] = tuple(header[name])
        header["range"] = header["range"] and tuple(header["range"])
        own, *limits = header["sizes"]
        header["sizes"] = SizeRange(tuple((width, height) for width, height in own), *limits)
        offer = self.offers[header["name"]] = Offer(**header)
        if offer.fault is not None:
            _log.warning("the model %s cannot be served: %s", offer.name, offer.fault)
        self._tell(offer)

    def cannot_be_described(self, name: str) -> None:
        """Record that workers died whenever they described a model."""
        fault = "the worker died whenever it read the model's folder."
        self.offers[name] = Offer(name=name, path=self._sources[name], fault=fault)
        self._tell(self.offers[name])

    def _tell(self, offer: Offer) -> None:
        """Give a description to what awaits it."""
        awaited = self._awaited.pop(offer.name, None)
        if awaited is not None and not awaited.done():
            awaited.set_result(offer)

    def was_loaded(self, name: str) -> None:
        """Record that a worker has loaded a model."""
        self.loading_deaths.pop(name, None)

    def killed_while_loading(self, name: str) -> None:
        """Record that a worker died while it loaded a model.

        After several deaths, the model is banned for a while.
        """
        deaths = self.loading_deaths[name] = self.loading_deaths.get(name, 0) + 1
        if deaths < DEATHS:
            return
        fault = "the worker died whenever it loaded the model: check that there is enough memory."
        self.offers[name] = dataclasses.replace(self.offers[name], fault=fault)
        ban = min(SHORTEST_BAN * 2 ** (deaths - DEATHS), LONGEST_BAN)
        if name in self._bans:  # an earlier ban must not end this one, which is longer
            self._bans[name].cancel()
        self._bans[name] = asyncio.get_running_loop().call_later(ban, self._lift_ban, name)

    def _lift_ban(self, name: str) -> None:
        """Allow a model again: memory may be free by now."""
        self.offers[name] = dataclasses.replace(self.offers[name], fault=None)
