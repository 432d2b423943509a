"""The usage of each key by day (UTC), and its rate limit, in the database."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from sqlalchemy import BigInteger, Double, Integer, String, func, inspect, select, text
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Mapped, Session, mapped_column

from danqing.service.access.accounts import DAY, after_request, check_quota
from danqing.service.storage.database import Base

Row = TypeVar("Row", bound=Base)

Amounts = Mapping[tuple[str, int], tuple[int, int]]
"""(key, days since 1970) to (requests, pictures)."""


class KeyUsage(Base):
    """The usage of one key on one day; day: days since 1970."""

    __tablename__ = "usage"

    key: Mapped[str] = mapped_column(String(16), primary_key=True)
    day: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)
    requests: Mapped[int] = mapped_column(BigInteger, default=0)
    images: Mapped[int] = mapped_column(BigInteger, default=0)


@dataclass(frozen=True, slots=True)
class UsageTotals:
    """The usage of a key today and in total.

    last: the last day on which it was used, None for never.
    """

    today: int = 0
    requests: int = 0
    images: int = 0
    last: int | None = None


class KeyRate(Base):
    """The rate limit of one key, over all services.

    full_at: when its bucket is full again.
    """

    __tablename__ = "rates"

    key: Mapped[str] = mapped_column(String(16), primary_key=True)
    full_at: Mapped[float] = mapped_column(Double)


def add(session: Session, amounts: Amounts) -> None:
    """Add to the usage of keys."""
    for (key, day), (requests, images) in sorted(amounts.items()):
        row = _locked(session, KeyUsage, key=key, day=day, requests=0, images=0)
        row.requests += requests
        row.images += images


def charge(session: Session, key: str, images: int, quota: int | None, unwritten: int, now: float) -> None:
    """Count pictures of a key.

    Raises ApiError 429 if its quota has fewer left.

    unwritten: pictures that this service has counted and not written.
    """
    row = _locked(session, KeyUsage, key=key, day=int(now // DAY), requests=0, images=0)
    if quota is not None:
        check_quota(quota, row.images + unwritten, images, now)
    row.images += images


def refund(session: Session, key: str, images: int, charged: float) -> None:
    """Refund pictures of a key.

    charged: when they were counted, in seconds since 1970.
    """
    add(session, {(key, int(charged // DAY)): (0, -images)})


def count_request(session: Session, key: str, rate: int, now: float) -> tuple[float, float]:
    """Count a request of a key over all services.

    Returns what `after_request` does.
    """
    if session.get_bind().dialect.name == "postgresql":  # a crash of the database may forget some requests
        session.execute(text("set local synchronous_commit to off"))
    row = _locked(session, KeyRate, key=key, full_at=now)
    row.full_at, wait = after_request(row.full_at, rate, now)
    return row.full_at, wait


def _locked(session: Session, table: type[Row], **values: Any) -> Row:
    """Return a row until the end of the transaction, created with these values if it does not exist."""
    insert = postgresql.insert if session.get_bind().dialect.name == "postgresql" else sqlite.insert
    session.execute(insert(table).values(values).on_conflict_do_nothing())
    keys = [values[column.name] for column in inspect(table).primary_key]
    return session.get_one(table, tuple(keys), with_for_update=True, populate_existing=True)


def images_of(session: Session, day: int) -> dict[str, int]:
    """Return the pictures of a day by key."""
    rows = session.execute(select(KeyUsage.key, KeyUsage.images).where(KeyUsage.day == day))
    return {row.key: row.images for row in rows}


def days_of(session: Session, key: str, first: int) -> list[tuple[int, int, int]]:
    """Return (day, requests, pictures) of a key since a day, the latest first."""
    query = select(KeyUsage.day, KeyUsage.requests, KeyUsage.images).where(KeyUsage.key == key)
    rows = session.execute(query.where(KeyUsage.day >= first).order_by(KeyUsage.day.desc()))
    return [(row.day, row.requests, row.images) for row in rows]


def totals(session: Session, today: int) -> dict[str, UsageTotals]:
    """Return the usage of each key; today: days since 1970."""
    images_today = images_of(session, today)
    rows = session.execute(
        select(
            KeyUsage.key,
            func.sum(KeyUsage.requests).label("requests"),
            func.sum(KeyUsage.images).label("images"),
            func.max(KeyUsage.day).label("last"),
        ).group_by(KeyUsage.key)
    )
    return {
        row.key: UsageTotals(images_today.get(row.key, 0), int(row.requests), int(row.images), row.last)
        for row in rows
    }
