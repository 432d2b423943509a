"""The application: its routes, its middleware, and how its parts start and stop."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

from fastapi import FastAPI

from danqing.service.access.keys import Keys
from danqing.service.engine.scheduler import Scheduler
from danqing.service.gallery.manager import Gallery
from danqing.service.http import error_handlers
from danqing.service.http.gate import Gate, check_access
from danqing.service.http.origin import check_address
from danqing.service.http.slow_readers import SlowReaderLimit
from danqing.service.jobs import store as job_store
from danqing.service.jobs.manager import JobManager
from danqing.service.observability import tracing
from danqing.service.observability.metrics import Metrics
from danqing.service.pages import docs_page, studio_page
from danqing.service.parts import Service
from danqing.service.pictures.encode_pool import EncodePool
from danqing.service.pictures.hosted import HostedPictures
from danqing.service.requests.moderation import Moderator
from danqing.service.requests.planner import Planner
from danqing.service.routes import (
    account,
    admin,
    datasets,
    images,
    jobs,
    judging,
    models,
    operations,
    provenance,
    recognition,
    runs,
)
from danqing.service.routes import (
    gallery as gallery_routes,
)
from danqing.service.settings import Settings
from danqing.service.storage.database import Database
from danqing.service.training.manager import Training
from danqing.trust.marking import prepare
from danqing.version import __version__

_ROUTERS = (
    images,
    recognition,
    provenance,
    models,
    jobs,
    judging,
    datasets,
    runs,
    gallery_routes,
    account,
    admin,
    operations,
    studio_page,
    docs_page,
)
_DESCRIPTION = (
    "Generates and recognizes pictures with the models of this service. Any client of the OpenAI API for "
    "images and embeddings can call it."
)


def create_app(settings: Settings) -> FastAPI:
    """Create the application of a service.

    Its lifespan starts and stops the parts in `app.state.service`. Raises RuntimeError for a route that does
    not say who may call it.
    """

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
        docs_url=None,  # its page would load scripts from another host
        redoc_url=None,
        redirect_slashes=False,  # their address would be made of the Host that a client sends
    )
    error_handlers.install(app)
    app.add_middleware(Gate, settings=settings)
    app.add_middleware(SlowReaderLimit)  # what the gate sends waits for it, and counts until it is read
    app.add_middleware(tracing.Traces)  # outermost: what the gate rejects is traced as well
    for module in _ROUTERS:
        check_access(module.router)
        app.include_router(module.router)
    return app


@contextlib.asynccontextmanager
async def running(settings: Settings) -> AsyncIterator[Service]:
    """Start the parts of a service, and stop them in reverse order.

    Raises ConfigError for a public address without keys, and for filters that cannot be used.
    """
    settings.data.mkdir(0o700, parents=True, exist_ok=True)
    prepare(settings.mark_settings)
    service = _parts(settings)
    async with contextlib.AsyncExitStack() as started:
        started.push_async_callback(service.database.stop)
        await service.database.start()
        started.push_async_callback(service.keys.stop)
        await service.keys.start()
        check_address(settings.host, service.keys.exist)
        started.callback(service.encode_pool.stop)
        started.push_async_callback(service.hosted.stop)
        await service.hosted.start()
        started.push_async_callback(service.gallery.stop)
        await service.gallery.start()
        started.push_async_callback(service.scheduler.stop, settings.drain)
        await service.scheduler.start()
        if service.moderator is not None:
            service.moderator.check_classifiers()
        started.push_async_callback(service.jobs.stop)
        await service.jobs.start()
        started.push_async_callback(service.training.stop)
        await service.training.start()
        operations.register_gauges(service)
        yield service


def _parts(settings: Settings) -> Service:
    metrics, database, encode_pool = Metrics(), Database(settings.database_url), EncodePool()
    scheduler, keys, draining = Scheduler(settings, metrics), Keys(database), asyncio.Event()
    moderator = None
    if settings.filters:
        moderator = Moderator(settings, scheduler, encode_pool, metrics, keys.audit)
    planner = Planner(settings, scheduler.offers, encode_pool, moderator)
    gallery = Gallery(settings, database, encode_pool, job_store.drop_pictures)
    return Service(
        settings=settings,
        scheduler=scheduler,
        metrics=metrics,
        database=database,
        keys=keys,
        jobs=JobManager(
            settings,
            database,
            planner=planner,
            scheduler=scheduler,
            encode_pool=encode_pool,
            keys=keys,
            draining=draining,
            gallery=gallery,
        ),
        encode_pool=encode_pool,
        hosted=HostedPictures(settings.data / "pictures", database),
        gallery=gallery,
        planner=planner,
        training=Training(settings, database, scheduler),
        moderator=moderator,
        draining=draining,
    )
