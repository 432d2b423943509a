"""What a running service consists of: made when it starts, found by every request."""

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from fastapi import Request

if TYPE_CHECKING:
    from danqing.service.database import Database
    from danqing.service.engine import Engine
    from danqing.service.jobs import Jobs
    from danqing.service.keys import Keys
    from danqing.service.metrics import Metrics
    from danqing.service.pictures import Pictures
    from danqing.service.settings import Settings


@dataclass(frozen=True, slots=True)
class Service:
    """The parts of a running service. Each has one owner of its state: itself.

    draining: set once the service stops: what would never end by itself, such as a stream of events, ends.
    """

    settings: "Settings"
    engine: "Engine"
    metrics: "Metrics"
    database: "Database"
    keys: "Keys"
    jobs: "Jobs"
    pictures: "Pictures"
    draining: asyncio.Event = field(default_factory=asyncio.Event)


def service_of(request: Request) -> Service:
    """The service that a request has come to."""
    service: Service = request.app.state.service
    return service
