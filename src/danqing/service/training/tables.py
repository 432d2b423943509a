"""The tables of data sets and of runs that train on them; their files are in the service's data folder."""

from typing import Literal

from sqlalchemy import BigInteger, Double, Index, String, Text
from sqlalchemy.orm import Mapped, mapped_column

from danqing.service.storage.database import Base

RunState = Literal["queued", "running", "stopping", "stopped", "finished", "failed"]
ACTIVE: tuple[RunState, ...] = ("queued", "running", "stopping")


class TrainingSet(Base):
    """A data set of a key.

    home: the data folder that has its files, of several services with one database.
    owner: the id of a key, "" on a service without keys.
    images, bytes: how many files it has, and their size together.
    """

    __tablename__ = "training_sets"
    __table_args__ = (Index(None, "home", "owner"),)

    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    home: Mapped[str] = mapped_column(String(40))
    owner: Mapped[str] = mapped_column(String(16))
    name: Mapped[str] = mapped_column(String(80))
    created: Mapped[float] = mapped_column(Double)
    images: Mapped[int]
    bytes: Mapped[int] = mapped_column(BigInteger)


class TrainingRun(Base):
    """A run of a key.

    home, owner: as of `TrainingSet`.
    set_name: of its data set, whose images it has copies of.
    minutes, images: its budget; one of them is None.
    pid: of its process while it runs. reason: why it failed.
    started, ended: of its latest process.
    model: the name under which its model is in service, "" if it is not.
    """

    __tablename__ = "training_runs"
    __table_args__ = (Index(None, "home", "state"),)

    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    home: Mapped[str] = mapped_column(String(40))
    owner: Mapped[str] = mapped_column(String(16))
    name: Mapped[str] = mapped_column(String(80))
    set_name: Mapped[str] = mapped_column(String(80))
    preset: Mapped[str] = mapped_column(String(80))
    minutes: Mapped[float | None] = mapped_column(Double)
    images: Mapped[int | None] = mapped_column(BigInteger)
    seed: Mapped[int] = mapped_column(BigInteger)
    state: Mapped[RunState] = mapped_column(String(16))
    reason: Mapped[str] = mapped_column(Text)
    created: Mapped[float] = mapped_column(Double)
    started: Mapped[float | None] = mapped_column(Double)
    ended: Mapped[float | None] = mapped_column(Double)
    pid: Mapped[int | None]
    model: Mapped[str] = mapped_column(String(120))
