"""The work of a job that edits the pictures of a zip: some at a time, each stored when it is done.

A job that runs again, on this server or another, edits only what is missing. Its zip is the same.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from danqing.errors import DanqingError
from danqing.service.engine.orders import OrderCancelledError
from danqing.service.errors import ApiError
from danqing.service.failures import from_danqing
from danqing.service.jobs import store
from danqing.service.jobs.store import Claim, Part
from danqing.service.requests import archives
from danqing.service.requests.forms import Uploads
from danqing.service.requests.planner import CheckedRequest, PlannedRequest, Planner
from danqing.service.settings import Limits

_AT_ONCE = 4
"""Pictures that are edited together; all are in memory."""
_LATER = (429, 503)
"""Errors of the service and not of a picture: the job is tried again later."""


class ArchiveWork:
    """Edits the pictures of a zip for one claim.

    paint: makes the files of a planned request. on_progress: called with the pictures done, and all.
    transaction: runs a function on the database until it succeeds.
    """

    def __init__(
        self,
        claim: Claim,
        limits: Limits,
        planner: Planner,
        *,
        paint: Callable[[PlannedRequest], Awaitable[list[bytes]]],
        on_progress: Callable[[int, int], None],
        transaction: Callable[..., Awaitable[Any]],
    ) -> None:
        self._claim, self._limits, self._planner = claim, limits, planner
        self._paint, self._on_progress, self._transaction = paint, on_progress, transaction

    async def run(
        self, request: CheckedRequest, sent: Uploads
    ) -> tuple[dict[str, Any], list[tuple[str, bytes]]]:
        """Return the answer of the job, and its zip.

        The zip is a list of one media type and content.
        """
        archive, n, fields = sent.images[0], request.n, request.fields
        contents = archives.contents(archive, self._limits)
        names, taken = contents.pictures, set[str]()
        format = None if fields.output_format == "input" else fields.output_format or "png"
        outputs = [archives.names_of(name, n, format, taken) for name in names]
        parts: list[Part] = await self._transaction(store.parts_of, self._claim)
        done, size = {part.number // n for part in parts}, sum(part.size for part in parts)
        missing = [place for place in range(len(names)) if place not in done]
        self._on_progress(len(done), len(names))
        for first in range(0, len(missing), _AT_ONCE):
            places = missing[first : first + _AT_ONCE]
            work = [self._edited(request, sent, names[place]) for place in places]
            edited = await asyncio.gather(*work, return_exceptions=True)
            for place, files in zip(places, edited, strict=True):
                if isinstance(files, BaseException):  # after the others: none goes on without this job
                    raise files
                size = await self._store(place * n, outputs[place], files, size)
            self._on_progress(len(done) + first + len(places), len(names))
        return await self._packed(request, contents, outputs)

    async def _edited(self, request: CheckedRequest, sent: Uploads, name: str) -> list[bytes] | str:
        """Return the files of one picture, or why it cannot be edited."""
        try:
            content = await asyncio.to_thread(archives.read, sent.images[0], name)
            mask = sent.mask
            if mask is not None and archives.is_archive(mask):
                mask = await asyncio.to_thread(archives.mask_of, mask, name)
            plan = await self._planner.plan(request, Uploads((content,), mask), name=name)
            return await self._paint(plan)
        except (ApiError, DanqingError) as error:
            failure = error if isinstance(error, ApiError) else from_danqing(error)
            if failure.status in _LATER:
                raise
            return str(failure)

    async def _store(self, number: int, outputs: Sequence[str], files: list[bytes] | str, size: int) -> int:
        """Store the files of one picture, or why there are none; returns the bytes of all results."""
        if not isinstance(files, str) and size + sum(map(len, files)) > self._limits.archive_bytes:
            files = f"The results have over {self._limits.archive_bytes:,} bytes: send fewer pictures."
        parts: list[tuple[Part, bytes | None]]
        if isinstance(files, str):
            parts = [(Part(number, error=files), None)]
        else:
            found = enumerate(zip(outputs, files, strict=True), number)
            parts = [(Part(place, output, len(file)), file) for place, (output, file) in found]
        if not await self._transaction(store.add_parts, self._claim, parts):
            raise OrderCancelledError("The job has ended.")
        return size + sum(part.size for part, _ in parts)

    async def _packed(
        self, request: CheckedRequest, contents: archives.Contents, outputs: Sequence[Sequence[str]]
    ) -> tuple[dict[str, Any], list[tuple[str, bytes]]]:
        packer, errors = archives.Packer(), dict[int, str]()
        for part in await self._transaction(store.parts_of, self._claim):
            if part.error is not None:
                errors[part.number // request.n] = part.error
            else:
                packer.add(part.output, await self._transaction(store.part_content, self._claim, part.number))
        results = [
            archives.Result(name, outputs[place], errors.get(place))
            for place, name in enumerate(contents.pictures)
        ]
        results += [archives.Result(name, error=reason) for name, reason in contents.others.items()]
        seed = request.fields.seed
        zipped = packer.finish(results, {"model": request.offer.name, "seed": seed})
        answer = {
            "created": int(time.time()),
            "data": [{"url": f"/v1/jobs/{self._claim.id}/images/0"}],
            "output_format": "zip",
            "images": len(contents.pictures) - len(errors),
            "failed": len(errors),
            "seed": seed,
        }
        return answer, [(archives.MEDIA_TYPE, zipped)]
