"""The usage of each key by day (UTC)."""

from collections.abc import Mapping
from dataclasses import dataclass

from sqlalchemy import BigInteger, Integer, String, func, select, update
from sqlalchemy.orm import Mapped, Session, mapped_column

from danqing.service.storage.database import Base

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


def add(session: Session, amounts: Amounts) -> None:
    """Add to the usage of keys; the caller prevents concurrent calls."""
    for (key, day), (requests, images) in amounts.items():
        more = {"requests": KeyUsage.requests + requests, "images": KeyUsage.images + images}
        changed = session.execute(
            update(KeyUsage).where(KeyUsage.key == key, KeyUsage.day == day).values(more)
        )
        if not changed.rowcount:  # type: ignore[attr-defined]
            session.add(KeyUsage(key=key, day=day, requests=requests, images=images))
            session.flush()


def images_of(session: Session, day: int) -> dict[str, int]:
    """Return the pictures of a day by key."""
    rows = session.execute(select(KeyUsage.key, KeyUsage.images).where(KeyUsage.day == day))
    return {row.key: row.images for row in rows}


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
