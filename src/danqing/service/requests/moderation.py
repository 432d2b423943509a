"""Filters of the service: what prompts may say, and what pictures may show that are sent or generated."""

import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import numpy as np

from danqing.errors import ConfigError
from danqing.images import conform
from danqing.names import match
from danqing.service.access.audit import AuditLog
from danqing.service.engine.orders import (
    Order,
    Painting,
    Pixels,
    Priority,
    Query,
    pack_pixels,
    rows_of,
)
from danqing.service.engine.scheduler import Scheduler
from danqing.service.errors import ApiError
from danqing.service.observability import logs
from danqing.service.observability.metrics import Metrics
from danqing.service.pictures.encode_pool import EncodePool
from danqing.service.settings import Settings
from danqing.trust.filter_settings import ImageSettings
from danqing.trust.filters import Moderation, Verdict, judged

What = Literal["prompt", "upload", "output", "preview"]
"""What a filter judges; a preview is an unfinished output."""

_INLINE = 1000  # characters: passing a prompt to a thread and back takes longer than judging a short one
_MOST_SIDE = 4  # times the side of a classifier: larger pictures are reduced before the worker has them

_MESSAGES: dict[What, str] = {
    "prompt": "The text was blocked by the filter {}: change it.",
    "upload": "A picture of the request was blocked by the filter {}: send another one.",
    "output": "A generated picture was blocked by the filter {}: change the request.",
    "preview": "An unfinished picture was blocked by the filter {}: change the request.",
}

_log = logging.getLogger("danqing.service")


class BlockedError(ApiError):
    """A filter blocked a prompt or a picture.

    Its shape is that of the OpenAI API.
    """

    def __init__(self, what: What, filter: str) -> None:
        super().__init__(
            400,
            _MESSAGES[what].format(filter),
            type="image_generation_user_error",
            param="",
            code="moderation_blocked",
        )


@dataclass(frozen=True, slots=True)
class Subject:
    """The request to which something belongs that is judged.

    model: that it requests. owner: the id of its key, or "".
    """

    model: str
    owner: str
    moderation: Moderation = "auto"
    priority: Priority = Priority.INTERACTIVE


class Moderator:
    """Blocks what the filters block, and records it without the prompt.

    Phrase lists and packaged networks run in this process, and trained classifiers in the worker.
    Raises ConfigError for filters that cannot be used.
    """

    def __init__(
        self, settings: Settings, scheduler: Scheduler, pool: EncodePool, metrics: Metrics, audit: AuditLog
    ) -> None:
        self._settings, self._scheduler, self._pool = settings, scheduler, pool
        self._metrics, self._audit = metrics, audit
        filters = settings.filters
        self._prompts = filters.prompt_filter()
        self._packaged = [each.packaged() for each in filters.images if not each.is_trained]
        trained = [each for each in filters.images if each.is_trained]
        self._trained: dict[str, ImageSettings] = dict(zip(settings.classifiers, trained, strict=True))
        self._thresholds = {name: each.thresholds() for name, each in self._trained.items()}

    def check_classifiers(self) -> None:
        """Raise ConfigError unless the worker can use all trained classifiers."""
        for name, each in self._trained.items():
            offer = self._scheduler.classifiers[name]
            if offer.fault is not None:
                raise ConfigError(f"The filter {each.name} cannot be used: {offer.fault}")
            if "classify" not in offer.recognizes:
                raise ConfigError(f"The filter {each.name} does not classify: give a trained classifier.")
            each.check_classes()
            for unwanted in each.classes:
                if match(unwanted, offer.labels) is None:
                    known = ", ".join(offer.labels)
                    raise ConfigError(
                        f"The filter {each.name} has no class {unwanted!r}: its classes are {known}."
                    )

    async def check_text(self, text: str, subject: Subject) -> None:
        """Raise BlockedError for a prompt that the phrase lists block."""
        if self._prompts is None:
            return
        check = partial(self._prompts.check, text, subject.moderation)
        found = check() if len(text) <= _INLINE else await self._pool.run(subject.owner, check)
        if found.blocked:
            raise self._blocked("prompt", found, subject)

    async def check_pictures(
        self, pictures: Sequence[Callable[[], Painting]], what: What, subject: Subject
    ) -> None:
        """Raise BlockedError if an image filter blocks one of some pictures.

        pictures: each returns one picture `[h, w, c]` in a thread, and one is in memory at a time.
        """
        if not self._settings.filters.images:
            return
        look = partial(self._look, pictures, subject.moderation)
        verdicts, packed = await self._pool.run(subject.owner, look)
        for name, contents in packed.items():
            verdicts += await self._judged(name, contents, subject)
        for found in verdicts:
            if found.blocked:
                raise self._blocked(what, found, subject)

    def _look(
        self, pictures: Sequence[Callable[[], Painting]], moderation: Moderation
    ) -> tuple[list[Verdict], dict[str, list[bytes]]]:
        """Judge pictures by packaged networks, and pack them for the classifiers in the worker."""
        verdicts = list[Verdict]()
        packed: dict[str, list[bytes]] = {name: [] for name in self._trained}
        for read in pictures:
            pixels = read()[np.newaxis]
            verdicts += [each.check_all(pixels, moderation)[0] for each in self._packaged]
            for name, contents in packed.items():
                offer = self._scheduler.classifiers[name]
                most = _MOST_SIDE**2 * offer.width * offer.height
                contents += [pack_pixels(_reduced(one[0], most)) for one in judged(pixels)]
        return verdicts, packed

    async def _judged(self, name: str, contents: Sequence[bytes], subject: Subject) -> list[Verdict]:
        """Return what a classifier in the worker says of packed pictures."""
        is_job = subject.priority == Priority.JOB
        order = Order(
            model=name,
            rows=rows_of([0] * len(contents)),
            verb="judge",
            options={"classes": list(self._trained[name].classes)},
            queries=tuple(map(Query, contents)),
            owner=subject.owner,
            priority=subject.priority,
            seconds=self._settings.jobs.seconds if is_job else self._settings.limits.seconds,
        )
        found = await self._scheduler.submit(order).recognized()
        scores = [float(one.values["score"]) for one in found.findings]
        return [self._thresholds[name].verdict(score, subject.moderation) for score in scores]

    def _blocked(self, what: What, found: Verdict, subject: Subject) -> BlockedError:
        """Record what was blocked; return the error for its client, who does not learn the reason."""
        self._metrics.blocked(what, found.filter)
        facts: dict[str, Any] = {"what": what, "filter": found.filter, "model": subject.model}
        facts["key"] = subject.owner or None
        self._audit.record("blocked", **facts)
        logs.event(_log, "a filter blocked a request", reason=found.reason, **facts)
        return BlockedError(what, found.filter)


def _reduced(picture: Pixels, most: int) -> Pixels:
    """Return a picture `[h, w, 3]` with at most so many pixels, of the same aspect ratio."""
    height, width = picture.shape[:2]
    if height * width <= most:
        return picture
    factor = math.sqrt(most / (height * width))
    size = max(1, int(width * factor)), max(1, int(height * factor))
    return conform(picture, size=size, fit="stretch")
