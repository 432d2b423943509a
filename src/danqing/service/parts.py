"""The parts of a running service: made when it starts, found by every request."""

import asyncio
from dataclasses import dataclass

from fastapi import Request

from danqing.service.access.keys import Keys
from danqing.service.engine.scheduler import Engine
from danqing.service.jobs.manager import Jobs
from danqing.service.observability.metrics import Metrics
from danqing.service.pictures.encode_pool import Pictures
from danqing.service.requests.planner import Planner
from danqing.service.settings import Settings
from danqing.service.storage.database import Database


@dataclass(frozen=True, slots=True)
class Service:
    """The parts of a running service; each one owns its state.

    draining: set once the service stops, to end what would never end by itself, such as a stream of events.
    """

    settings: Settings
    engine: Engine
    metrics: Metrics
    database: Database
    keys: Keys
    jobs: Jobs
    pictures: Pictures
    planner: Planner
    draining: asyncio.Event


def service_of(request: Request) -> Service:
    """Return the service that a request has reached."""
    service: Service = request.app.state.service
    return service
