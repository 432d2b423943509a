"""The tables of sessions in which people judge pictures."""

from typing import Literal

from sqlalchemy import Double, ForeignKey, Index, LargeBinary, String, Text, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from danqing.service.storage.database import Base

State = Literal["open", "decided", "closed"]
Check = Literal["identical", "blur"]


class JudgingSession(Base):
    """A session: the contestants, and how they are judged.

    contestants: their names as a list in JSON, which raters never see.
    size: pictures of a ballot, 2 or 4.
    subjects: pictures of each contestant; captions: what each should show, a list in JSON.
    real: which contestant are real images.
    ballots: that each rater answers; period: one of so many ballots is an attention check, 0 for none.
    stops: whether it ends when all intervals part.
    """

    __tablename__ = "judging_sessions"

    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    created: Mapped[float] = mapped_column(Double)
    state: Mapped[State] = mapped_column(String(16))
    question: Mapped[str] = mapped_column(Text)
    contestants: Mapped[str] = mapped_column(Text)
    captions: Mapped[str] = mapped_column(Text)
    size: Mapped[int]
    subjects: Mapped[int]
    real: Mapped[int | None]
    ballots: Mapped[int]
    period: Mapped[int]
    stops: Mapped[bool]


class JudgingRater(Base):
    """A key that may judge in a session."""

    __tablename__ = "judging_raters"

    session: Mapped[str] = mapped_column(ForeignKey(JudgingSession.id, ondelete="CASCADE"), primary_key=True)
    key: Mapped[str] = mapped_column(String(16), primary_key=True)


class JudgingPicture(Base):
    """A picture of a contestant, as a PNG without metadata.

    contestant: one more than the last is a blurred picture, for attention checks.
    """

    __tablename__ = "judging_pictures"

    session: Mapped[str] = mapped_column(ForeignKey(JudgingSession.id, ondelete="CASCADE"), primary_key=True)
    contestant: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    subject: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    content: Mapped[bytes] = mapped_column(LargeBinary)


class JudgingBallot(Base):
    """What a rater is shown, and the answer.

    rater: the id of a key, "" on a service without keys. number: counts those of the rater.
    contestants: from left to right, such as "2,0".
    kind: of an attention check; None for a vote. expected: the place that must be the best or, of four, the
    worst; None for a tie.
    best, worst: places; both are None for a tie, and before the answer.
    """

    __tablename__ = "judging_ballots"
    __table_args__ = (UniqueConstraint("session", "rater", "number"), Index(None, "session", "answered"))

    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    session: Mapped[str] = mapped_column(ForeignKey(JudgingSession.id, ondelete="CASCADE"))
    rater: Mapped[str] = mapped_column(String(16))
    number: Mapped[int]
    contestants: Mapped[str] = mapped_column(String(40))
    subject: Mapped[int]
    kind: Mapped[Check | None] = mapped_column(String(16))
    expected: Mapped[int | None]
    created: Mapped[float] = mapped_column(Double)
    answered: Mapped[float | None] = mapped_column(Double)
    best: Mapped[int | None]
    worst: Mapped[int | None]

    @property
    def order(self) -> tuple[int, ...]:
        """Return the contestants from left to right."""
        return tuple(int(one) for one in self.contestants.split(","))
