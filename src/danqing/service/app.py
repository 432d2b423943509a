"""The application: its routes, what stands before them, and how its parts start and stop."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

from fastapi import FastAPI

from danqing.service.access.keys import Keys
from danqing.service.engine.scheduler import Engine
from danqing.service.http import error_handlers
from danqing.service.http.gate import Gate, check_address
from danqing.service.http.slow_readers import Paced
from danqing.service.jobs.manager import Jobs
from danqing.service.observability import tracing
from danqing.service.observability.metrics import Metrics
from danqing.service.pages import docs_page, start_page
from danqing.service.parts import Service
from danqing.service.pictures.encode_pool import Pictures
from danqing.service.requests.planner import Planner
from danqing.service.routes import edits as edits_api
from danqing.service.routes import images as images_api
from danqing.service.routes import jobs as jobs_api
from danqing.service.routes import models as models_api
from danqing.service.routes import operations as operations_api
from danqing.service.settings import Settings
from danqing.service.storage.database import Database
from danqing.version import __version__

_DESCRIPTION = "Paints with the models of this service. Any client of the OpenAI images API can call it."


def create_app(settings: Settings) -> FastAPI:
    """The application of a service. Its parts start and stop with its lifespan: `app.state.service`."""

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with running(settings) as service:
            app.state.service = service
            yield

    app = FastAPI(
        title="Danqing",
        version=__version__,
        description=_DESCRIPTION,
        lifespan=lifespan,
        docs_url=None,  # its page would fetch scripts from another host
        redoc_url=None,
        redirect_slashes=False,  # their address would be made of the Host that a client sends
    )
    error_handlers.install(app)
    app.add_middleware(Gate, settings=settings)
    app.add_middleware(Paced)  # before the gate, which counts an answer until it is read
    app.add_middleware(tracing.Traces)  # outermost: what the gate refuses is traced as well
    for api in (images_api, edits_api, models_api, jobs_api, operations_api, start_page, docs_page):
        app.include_router(api.router)
    return app


@contextlib.asynccontextmanager
async def running(settings: Settings) -> AsyncIterator[Service]:
    """The parts of a service, started in the order in which they need one another, stopped in the reverse.

    Raises ConfigError where it would listen at a public address without keys.
    """
    settings.data.mkdir(0o700, parents=True, exist_ok=True)
    metrics, database = Metrics(), Database(settings.database_url)
    engine, pictures = Engine(settings, metrics), Pictures(settings.data / "pictures")
    keys, planner, draining = Keys(database), Planner(settings, engine.offers, pictures), asyncio.Event()
    jobs = Jobs(
        settings,
        database,
        planner=planner,
        engine=engine,
        pictures=pictures,
        keys=keys,
        draining=draining,
    )
    service = Service(
        settings=settings,
        engine=engine,
        metrics=metrics,
        database=database,
        keys=keys,
        jobs=jobs,
        pictures=pictures,
        planner=planner,
        draining=draining,
    )
    async with contextlib.AsyncExitStack() as started:
        started.push_async_callback(database.stop)
        await database.start()
        started.push_async_callback(service.keys.stop)
        await service.keys.start()
        check_address(settings.host, service.keys.exist)
        started.push_async_callback(service.pictures.stop)
        await service.pictures.start()
        started.push_async_callback(service.engine.stop, settings.drain)
        await service.engine.start()
        started.push_async_callback(service.jobs.stop)
        await service.jobs.start()
        operations_api.watch(service)
        yield service
