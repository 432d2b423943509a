"""The parts of a running service: created at its start, available to every request."""

import asyncio
from dataclasses import dataclass

from fastapi import Request

from danqing.service.access.keys import Keys
from danqing.service.engine.scheduler import Scheduler
from danqing.service.gallery.manager import Gallery
from danqing.service.jobs.manager import JobManager
from danqing.service.observability.metrics import Metrics
from danqing.service.pictures.encode_pool import EncodePool
from danqing.service.pictures.hosted import HostedPictures
from danqing.service.requests.moderation import Moderator
from danqing.service.requests.planner import Planner
from danqing.service.settings import Settings
from danqing.service.storage.database import Database
from danqing.service.training.manager import Training


@dataclass(frozen=True, slots=True)
class Service:
    """The parts of a running service; each one owns its state.

    moderator: None without filters.
    draining: set once the service stops, to end work that never ends by itself, such as a stream of events.
    """

    settings: Settings
    scheduler: Scheduler
    metrics: Metrics
    database: Database
    keys: Keys
    jobs: JobManager
    encode_pool: EncodePool
    hosted: HostedPictures
    gallery: Gallery
    planner: Planner
    training: Training
    moderator: Moderator | None
    draining: asyncio.Event


def service_of(request: Request) -> Service:
    """Return the service that received a request."""
    service: Service = request.app.state.service
    return service
