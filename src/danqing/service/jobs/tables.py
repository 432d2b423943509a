"""The tables of jobs."""

from typing import Literal

from sqlalchemy import BigInteger, Double, ForeignKey, Index, LargeBinary, String, Text, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from danqing.service.requests.schemas import JobEndpoint
from danqing.service.storage.database import Base

Status = Literal["queued", "running", "succeeded", "failed", "cancelled"]
UNFINISHED = ("queued", "running")


class Job(Base):
    """An accepted request for pictures, and its outcome.

    turn: its place in the queue of all owners' jobs.
    attempt: increases whenever a server claims the job, which distinguishes its holder from earlier ones.
    runner, lease: who runs it, and until when.
    begun: when the runner sent it to the worker.
    due: when it may be claimed again, after it was requeued.
    losses: how many runners became silent while they ran it.
    done, total: steps.
    events: the number of its last event.
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
    endpoint: Mapped[JobEndpoint] = mapped_column(String(16))
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
    """The body of an unfinished job.

    It has its own table, because an update rewrites the whole row.
    """

    __tablename__ = "job_bodies"

    job_id: Mapped[str] = mapped_column(ForeignKey(Job.id, ondelete="CASCADE"), primary_key=True)
    content: Mapped[str] = mapped_column(Text)


class JobPicture(Base):
    """A picture of a job that succeeded, as a file."""

    __tablename__ = "job_pictures"

    job_id: Mapped[str] = mapped_column(ForeignKey(Job.id, ondelete="CASCADE"), primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True)
    media_type: Mapped[str] = mapped_column(String(32))
    content: Mapped[bytes] = mapped_column(LargeBinary)


class JobPart(Base):
    """A result of an unfinished job that edits a zip.

    number: of the picture and its version. output: its name in the zip of the results, "" if it failed.
    size: of the content, in bytes. error: why it failed.
    """

    __tablename__ = "job_parts"

    job_id: Mapped[str] = mapped_column(ForeignKey(Job.id, ondelete="CASCADE"), primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True)
    output: Mapped[str] = mapped_column(Text)
    size: Mapped[int] = mapped_column(BigInteger)
    content: Mapped[bytes | None] = mapped_column(LargeBinary, deferred=True)
    error: Mapped[str | None] = mapped_column(Text)


class JobEvent(Base):
    """An event of a job, stored for clients that reconnect."""

    __tablename__ = "job_events"

    job_id: Mapped[str] = mapped_column(ForeignKey(Job.id, ondelete="CASCADE"), primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True)
    type: Mapped[str] = mapped_column(String(32))
    data: Mapped[str] = mapped_column(Text)
