"""The gallery of a service: keeps pictures, and deletes them with everything that is known of them."""

import asyncio
import hashlib
import io
import json
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image
from sqlalchemy.orm import Session

from danqing.errors import DataError
from danqing.image_files.embedded import embedded
from danqing.service.gallery import queries, store
from danqing.service.gallery.likeness import Likeness
from danqing.service.gallery.queries import Found, Search
from danqing.service.gallery.store import NewPicture, Stored
from danqing.service.gallery.tables import GalleryPicture
from danqing.service.gallery.words import words_of
from danqing.service.observability import logs
from danqing.service.pictures.encode_pool import EncodePool
from danqing.service.settings import Settings
from danqing.service.storage.database import Database, DatabaseError
from danqing.trust import fingerprint, labels, registry, xmp
from danqing.trust.settings import trust_folder

THUMBNAIL = 192
"""The longer side of a small picture, in pixels."""
_SWEEP_SECONDS = 60.0
_AT_ONCE = 500
_DAY = 86_400

_log = logging.getLogger("danqing.gallery")


class Gallery:
    """The kept pictures of all owners.

    pool: its threads make small pictures.
    drop_copies: deletes the pictures that jobs hold, each by its job's id and its number there.
    """

    def __init__(
        self,
        settings: Settings,
        database: Database,
        pool: EncodePool,
        drop_copies: Callable[[Session, Sequence[tuple[str, int]]], None],
    ) -> None:
        self._drop_copies = drop_copies
        self.limits, self._database, self._pool = settings.gallery, database, pool
        self._registers = settings.mark_settings.registers
        self.likeness = Likeness(database)
        self._sweeper: asyncio.Task[None] | None = None

    @property
    def is_on(self) -> bool:
        """Return whether pictures are kept."""
        return self.limits.keep > 0

    async def start(self) -> None:
        """Delete expired pictures from now on; none while the gallery is off."""
        if not self.is_on:
            return
        self._sweeper = asyncio.create_task(self._sweep_always())

    async def stop(self) -> None:
        """End the deletion of expired pictures."""
        if self._sweeper is not None:
            self._sweeper.cancel()
            await asyncio.gather(self._sweeper, return_exceptions=True)

    async def prepare(
        self,
        owner: str,
        files: Sequence[bytes],
        record: Mapping[str, Any],
        *,
        job: str = "",
        first: int = 0,
    ) -> list[NewPicture]:
        """Describe the files of a request for the gallery.

        There are none while it is off.

        record: of the request, as of `danqing.service.requests.record`. first: the number of the first file.
        """
        if not self.is_on:
            return []

        def describe() -> list[NewPicture]:
            return [new_picture(file, record, first + i, job=job) for i, file in enumerate(files)]

        return await self._pool.run(owner, describe)

    def insert(self, session: Session, owner: str, pictures: Sequence[NewPicture], now: float) -> None:
        """Add pictures in a transaction of the caller."""
        if pictures:
            store.keep(session, owner, pictures, self.limits, now)

    async def keep(
        self, owner: str, files: Sequence[bytes], record: Mapping[str, Any], first: int = 0
    ) -> None:
        """Keep the files of a request.

        The request succeeds even if they cannot be kept."""
        pictures = await self.prepare(owner, files, record, first=first)
        if not pictures:
            return
        try:
            await self._database.run(self.insert, owner, pictures, time.time(), patience=1.0)
        except DatabaseError as error:
            logs.event(_log, "pictures are not kept", logging.WARNING, reason=str(error))

    async def page(self, search: Search, *, limit: int, before: int | None, offset: int) -> Found:
        """Return a page of an owner's pictures, the latest first."""

        def read(session: Session) -> Found:
            return queries.page(session, search, limit=limit, before=before, offset=offset)

        return await self._database.run(read)

    async def alike(self, owner: str, number: int, count: int) -> Found:
        """Return pictures that look like one, itself first; raises ApiError 404."""
        vector = await self._database.run(_vector, owner, number)
        numbers = await self.likeness.nearest(owner, vector, count)
        found = await self._database.run(queries.in_order, owner, numbers)
        return Found(found, len(found), False)

    async def having(self, owner: str, content: bytes) -> GalleryPicture | None:
        """Return an owner's picture with these bytes, or None."""
        search = Search(owner, hash=hashlib.sha256(content).hexdigest())
        found = await self.page(search, limit=1, before=None, offset=0)
        return next(iter(found.pictures), None)

    async def stored(self, owner: str, numbers: Sequence[int]) -> list[Stored]:
        """Return what is known of an owner's pictures."""
        return await self._database.run(store.stored, owner, numbers)

    async def delete(self, owner: str, pictures: Sequence[Stored]) -> None:
        """Delete pictures of an owner.

        First their entries in the registry, then all rows at once, with the copies that jobs hold."""
        marks = [one.mark for one in pictures if one.mark]
        if marks and self._registers:
            await asyncio.to_thread(registry.shared(trust_folder() / "registry.sqlite").remove, marks)
        await self._database.run(self._remove, pictures)
        self.likeness.forget(owner)

    def _remove(self, session: Session, pictures: Sequence[Stored]) -> None:
        self._drop_copies(session, [(one.job, one.place) for one in pictures if one.job])
        store.remove(session, [one.number for one in pictures])

    async def sweep(self) -> None:
        """Delete the pictures that are older than the settings allow."""
        while found := await self._database.run(
            store.expired, time.time() - self.limits.keep * _DAY, _AT_ONCE
        ):
            for owner in {owner for owner, _ in found}:
                await self.delete(owner, [one for other, one in found if other == owner])

    async def _sweep_always(self) -> None:
        while True:
            try:
                await self.sweep()
            except DatabaseError:
                pass  # it is away
            except Exception:  # such as a registry that is locked; what has expired is deleted later
                _log.exception("expired pictures could not be deleted")
            await asyncio.sleep(_SWEEP_SECONDS)


def new_picture(content: bytes, record: Mapping[str, Any], index: int, *, job: str = "") -> NewPicture:
    """Describe a file for the gallery.

    record: of its request. index: its number among the pictures of the request.
    """
    image: Image.Image = Image.open(io.BytesIO(content))
    width, height = image.size
    kept = image.convert("RGBA" if image.has_transparency_data else "RGB")
    small = kept.copy()
    small.thumbnail((THUMBNAIL, THUMBNAIL))
    packed = io.BytesIO()
    small.save(packed, "WEBP", quality=85, method=2)
    request = record["request"]
    return NewPicture(
        hash=hashlib.sha256(content).hexdigest(),
        media_type=f"image/{str(image.format).lower()}",
        width=width,
        height=height,
        model=request["model"],
        title=record["title"],
        settings=json.dumps({**record, "index": index}, ensure_ascii=False),
        words=tuple(words_of([record["title"], request["model"], *record["words"]])),
        vector=fingerprint.vector(np.asarray(kept)).astype("<i2").tobytes(),
        mark=_registered_as(content),
        thumbnail=packed.getvalue(),
        content=content,
        job=job,
        place=index if job else 0,
    )


def _registered_as(content: bytes) -> str:
    """Return the id that a file declares, under which the registry has it; "" for none."""
    for packet in embedded(content).xmp:
        try:
            values = xmp.properties_of(packet).get(labels.AIGC, ())
            found = labels.read_aigc(values[0]) if values else {}
        except DataError:
            continue
        for field in ("PropagateID", "ProduceID"):  # of an edit, ours is the one who passes it on
            if found.get(field):
                return str(found[field])[:64]
    return ""


def _vector(session: Session, owner: str, number: int) -> bytes:
    return store.find(session, owner, number).vector
