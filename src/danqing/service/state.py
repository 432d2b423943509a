"""The parts of a running service: made when it starts, found by every request."""

import asyncio
from dataclasses import dataclass

from fastapi import Request

from danqing.service.database import Database
from danqing.service.engine import Engine
from danqing.service.jobs import Jobs
from danqing.service.keys import Keys
from danqing.service.metrics import Metrics
from danqing.service.painting import Planner
from danqing.service.pictures import Pictures
from danqing.service.settings import Settings


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
