"""The tables of jobs and of what belongs to them."""

from typing import Literal

from sqlalchemy import BigInteger, Double, ForeignKey, Index, LargeBinary, String, Text, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from danqing.service.requests.schemas import Endpoint
from danqing.service.storage.database import Base

Status = Literal["queued", "running", "succeeded", "failed", "cancelled"]
UNFINISHED = ("queued", "running")


class Job(Base):
    """A request for pictures that was accepted, and what became of it.

    turn: where it stands in the line of all owners' jobs. attempt: rises whenever a server takes the job, and
    so tells its holder from all earlier ones. runner, lease: who paints it, and until when that is believed.
    begun: when the runner gave it to the worker; due: when it may be taken again, after it was put back.
    losses: runners that fell silent while they painted it. events: the number of its last event.
    """

    __tablename__ = "jobs"
    __table_args__ = (
        UniqueConstraint("owner", "idempotency_key"),
        Index(None, "status", "turn"),
        Index(None, "owner", "status", "turn", "size"),
        Index(None, "owner", "created", "id"),
        Index(None, "finished"),
    )

    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    owner: Mapped[str] = mapped_column(String(64))
    caller: Mapped[str] = mapped_column(Text)
    status: Mapped[Status] = mapped_column(String(16))
    endpoint: Mapped[Endpoint] = mapped_column(String(16))
    model: Mapped[str] = mapped_column(Text)
    pictures: Mapped[int]
    size: Mapped[int] = mapped_column(BigInteger)
    request: Mapped[str] = mapped_column(Text)
    fingerprint: Mapped[str] = mapped_column(String(64))
    idempotency_key: Mapped[str | None] = mapped_column(String(255))
    created: Mapped[float] = mapped_column(Double)
    started: Mapped[float | None] = mapped_column(Double)
    finished: Mapped[float | None] = mapped_column(Double)
    turn: Mapped[int] = mapped_column(BigInteger)
    attempt: Mapped[int]
    losses: Mapped[int]
    runner: Mapped[str | None] = mapped_column(String(40))
    lease: Mapped[float | None] = mapped_column(Double)
    begun: Mapped[float | None] = mapped_column(Double)
    due: Mapped[float | None] = mapped_column(Double)
    done: Mapped[int]
    total: Mapped[int]
    events: Mapped[int]
    response: Mapped[str | None] = mapped_column(Text)
    error: Mapped[str | None] = mapped_column(Text)
    webhook: Mapped[str | None] = mapped_column(Text)
    webhook_secret: Mapped[str | None] = mapped_column(Text)


class JobBody(Base):
    """The body of an unfinished job; apart, for a row is written anew whenever something of it changes."""

    __tablename__ = "job_bodies"

    job_id: Mapped[str] = mapped_column(ForeignKey(Job.id, ondelete="CASCADE"), primary_key=True)
    content: Mapped[str] = mapped_column(Text)


class JobPicture(Base):
    """A picture of a job that succeeded, as the file that was asked for."""

    __tablename__ = "job_pictures"

    job_id: Mapped[str] = mapped_column(ForeignKey(Job.id, ondelete="CASCADE"), primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True)
    media_type: Mapped[str] = mapped_column(String(32))
    content: Mapped[bytes] = mapped_column(LargeBinary)


class JobEvent(Base):
    """Something that happened to a job: kept, so that whoever lost the connection can be told of it."""

    __tablename__ = "job_events"

    job_id: Mapped[str] = mapped_column(ForeignKey(Job.id, ondelete="CASCADE"), primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True)
    type: Mapped[str] = mapped_column(String(32))
    data: Mapped[str] = mapped_column(Text)
