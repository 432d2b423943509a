"""Rate limits and quotas that hold over all services of one database."""

import logging
import time

from danqing.service.access import usage
from danqing.service.access.accounts import Account
from danqing.service.observability import logs
from danqing.service.storage.database import Database, DatabaseError

_log = logging.getLogger("danqing.keys")


class SharedAccount(Account):
    """The account of a key whose limits are counted in the database.

    While the database is away, each service counts for itself.

    key: its id.
    """

    def __init__(self, database: Database, key: str, rate: int | None, quota: int | None) -> None:
        super().__init__(rate, quota)
        self._database, self._key = database, key

    async def admit_request(self) -> None:
        """Count a request; raises ApiError 429 if the rate limit is reached."""
        if self.rate is None:
            return self.request()
        now = time.time()
        try:
            counted = await self._database.run(usage.count_request, self._key, self.rate, now, patience=0)
        except DatabaseError as error:
            logs.event(_log, "a request is counted by this service alone", reason=str(error))
            return self.request()
        self.note_request(*counted)

    async def admit_pictures(self, images: int) -> float:
        """Count pictures before they are painted; see `charge`."""
        if self.quota is None:
            return self.charge(images)
        now, unwritten = time.time(), self.unwritten_images()
        try:
            await self._database.run(usage.charge, self._key, images, self.quota, unwritten, now, patience=0)
        except DatabaseError as error:
            logs.event(_log, "pictures are counted by this service alone", reason=str(error))
            return self.charge(images)
        self.note_pictures(images, now)
        return now
