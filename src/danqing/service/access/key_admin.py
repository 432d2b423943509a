"""Creates, revokes and lists keys, for the command line."""

import time
from dataclasses import dataclass

from sqlalchemy import select
from sqlalchemy.orm import Session

from danqing.errors import ConfigError
from danqing.service.access import audit, usage
from danqing.service.access.accounts import DAY
from danqing.service.access.audit import AuditLog
from danqing.service.access.caller import RIGHTS
from danqing.service.access.keys import Key, hash_token, new_token
from danqing.service.storage.database import Database


@dataclass(frozen=True, slots=True)
class Grant:
    """The permissions and limits of a new key.

    models: names of the models that it may use; None for all.
    rate: requests per minute; quota: pictures per day; None for no limit.
    expires: seconds since 1970.
    """

    name: str
    scopes: tuple[str, ...] = ("generate", "edit", "recognize")
    models: tuple[str, ...] | None = None
    rate: int | None = None
    quota: int | None = None
    expires: float | None = None

    def __post_init__(self) -> None:
        if not self.name.strip() or len(self.name) > 100 or not self.name.isprintable():
            raise ConfigError(
                "Give the key a name of 1 to 100 printable characters, such as that of its user."
            )
        for scope in self.scopes:
            if scope not in RIGHTS:
                raise ConfigError(f"There is no scope {scope!r}: choose from {', '.join(RIGHTS)}.")
        for name, limit in (("rate", self.rate), ("quota", self.quota)):
            if limit is not None and not 1 <= limit < 2**31:
                raise ConfigError(f"A {name} must be at least 1, not {limit}: leave it out for no limit.")
        if self.expires is not None and self.expires <= time.time():
            raise ConfigError("The key would have expired already: choose a time in the future.")


def create(database: Database, grant: Grant) -> tuple[Key, str]:
    """Create a key.

    Return it, and its token, which is shown once and stored nowhere.

    Raises ConfigError if a key of that name is active.
    """
    identity, token = new_token()
    key = Key(
        id=identity,
        name=grant.name,
        hash=hash_token(token),
        scopes=list(dict.fromkeys(grant.scopes)),
        models=None if grant.models is None else sorted(set(grant.models)),
        rate=grant.rate,
        quota=grant.quota,
        created=time.time(),
        expires=grant.expires,
        changes=1,
    )

    def insert(session: Session) -> None:
        now = time.time()
        for other in session.scalars(select(Key).where(Key.name == grant.name)):
            if other.state(now) == "active":
                raise ConfigError(
                    f"There is a key {grant.name} already: choose another name, or revoke it with "
                    f"`danqing keys revoke {other.id}`."
                )
        session.add(key)
        _enter(session, "key created", key=identity, name=grant.name, scopes=key.scopes, models=key.models)

    database.transact(insert)
    return key, token


def revoke(database: Database, which: str) -> Key:
    """Revoke a key by its name or id.

    It is rejected within two seconds. Raises ConfigError.
    """

    def update(session: Session) -> Key:
        found = list(session.scalars(select(Key).where((Key.id == which) | (Key.name == which))))
        live = [key for key in found if key.revoked is None]
        if not live:
            raise ConfigError(
                f"The key {which} has been revoked already."
                if found
                else f"There is no key {which}: `danqing keys list` shows all keys."
            )
        key = max(live, key=lambda key: (key.id == which, key.created))
        key.revoked, key.changes = time.time(), key.changes + 1
        _enter(session, "key revoked", key=key.id, name=key.name)
        return key

    return database.transact(update)


def list_keys(database: Database) -> list[tuple[Key, usage.UsageTotals]]:
    """Return all keys, the oldest first, each with its usage.

    Including revoked ones.
    """

    def read(session: Session) -> list[tuple[Key, usage.UsageTotals]]:
        used = usage.totals(session, int(time.time() // DAY))
        keys = session.scalars(select(Key).order_by(Key.created))
        return [(key, used.get(key.id, usage.UsageTotals())) for key in keys]

    return database.transact(read)


def _enter(session: Session, event: str, **facts: object) -> None:
    log = AuditLog()
    log.record(event, **facts)
    audit.append(session, log.take())
