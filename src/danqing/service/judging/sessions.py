"""Sessions in the database: who may judge in them, and what was answered; each is one transaction."""

import json
import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from sqlalchemy import delete as remove
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from danqing.judging.rater_checks import CheckCount
from danqing.judging.results import Results, evaluate_votes
from danqing.judging.votes import Answer
from danqing.service.access.caller import Caller
from danqing.service.errors import ApiError
from danqing.service.judging.tables import JudgingBallot, JudgingPicture, JudgingRater, JudgingSession


@dataclass(frozen=True, slots=True)
class NewSession:
    """A session to be stored; the fields are those of `JudgingSession`."""

    id: str
    question: str
    contestants: tuple[str, ...]
    captions: tuple[str, ...]
    size: int
    subjects: int
    real: int | None
    ballots: int
    period: int
    stops: bool


@dataclass(frozen=True, slots=True)
class SessionInfo:
    """A session as a rater sees it, without names of contestants."""

    id: str
    question: str
    size: int
    state: str
    answered: int
    wanted: int


def new_id() -> str:
    """Return an id that no other session has."""
    return f"ses_{uuid.uuid4().hex}"


def create(
    session: Session,
    new: NewSession,
    pictures: Iterable[tuple[int, int, bytes]],
    raters: Sequence[str],
    now: float,
) -> None:
    """Store a session with its pictures.

    pictures: contestant, subject and PNG.
    raters: ids of keys that may join.
    """
    session.add(
        JudgingSession(
            id=new.id,
            created=now,
            state="open",
            question=new.question,
            contestants=json.dumps(new.contestants, ensure_ascii=False),
            captions=json.dumps(new.captions, ensure_ascii=False),
            size=new.size,
            subjects=new.subjects,
            real=new.real,
            ballots=new.ballots,
            period=new.period,
            stops=new.stops,
        )
    )
    session.flush()
    for contestant, subject, content in pictures:
        session.add(JudgingPicture(session=new.id, contestant=contestant, subject=subject, content=content))
    invite(session, new.id, raters)


def invite(session: Session, session_id: str, raters: Iterable[str]) -> None:
    """Let keys join a session.

    Those that may already are left as they are.
    """
    known = set(session.scalars(select(JudgingRater.key).where(JudgingRater.session == session_id)))
    for key in dict.fromkeys(raters):
        if key not in known:
            session.add(JudgingRater(session=session_id, key=key))


def find(session: Session, session_id: str, caller: Caller, *, for_update: bool = False) -> JudgingSession:
    """Return a session in which the caller may judge.

    for_update: make other transactions on this session wait.

    Raises ApiError 404, whether there is no such session or the key was not invited.
    """
    found = session.get(JudgingSession, session_id, with_for_update=for_update)
    if found is None or not (caller.may("admin") or _is_invited(session, session_id, caller.owner)):
        raise unknown()
    return found


def unknown() -> ApiError:
    """Return the error 404 for a session."""
    return ApiError(404, "There is no such session for this key.", code="not_found")


def list_sessions(session: Session, caller: Caller) -> list[SessionInfo]:
    """Return the sessions in which the caller may judge, the newest first."""
    wanted = select(JudgingSession).order_by(JudgingSession.created.desc(), JudgingSession.id)
    if not caller.may("admin"):
        own = select(JudgingRater.session).where(JudgingRater.key == caller.owner)
        wanted = wanted.where(JudgingSession.id.in_(own))
    counted = (
        select(JudgingBallot.session, func.count())
        .where(JudgingBallot.rater == caller.owner, JudgingBallot.answered.is_not(None))
        .group_by(JudgingBallot.session)
    )
    answered = {row[0]: row[1] for row in session.execute(counted)}
    return [
        SessionInfo(one.id, one.question, one.size, one.state, answered.get(one.id, 0), one.ballots)
        for one in session.scalars(wanted)
    ]


def close(session: Session, session_id: str) -> None:
    """Close a session.

    It takes no more votes, and keeps those that it has.
    """
    found = session.get(JudgingSession, session_id, with_for_update=True)
    if found is None:
        raise unknown()
    found.state = "closed"


def delete(session: Session, session_id: str) -> None:
    """Delete a session with its pictures, ballots and votes."""
    for table in (JudgingBallot, JudgingPicture, JudgingRater):
        session.execute(remove(table).where(table.session == session_id))
    session.execute(remove(JudgingSession).where(JudgingSession.id == session_id))


def recorded(session: Session, session_id: str) -> tuple[list[str], list[Answer], Mapping[int, CheckCount]]:
    """Return the raters of a session, their votes and attention checks."""
    rows = session.execute(
        select(
            JudgingBallot.rater,
            JudgingBallot.contestants,
            JudgingBallot.best,
            JudgingBallot.worst,
            JudgingBallot.subject,
            JudgingBallot.kind,
            JudgingBallot.expected,
        )
        .where(JudgingBallot.session == session_id, JudgingBallot.answered.is_not(None))
        .order_by(JudgingBallot.answered, JudgingBallot.id)
    ).all()
    raters = sorted({row.rater for row in rows})
    place = {rater: number for number, rater in enumerate(raters)}
    answers, checks = list[Answer](), dict[int, list[bool]]()
    for row in rows:
        order = tuple(int(one) for one in row.contestants.split(","))
        if row.kind is None:
            answers.append(Answer(order, row.best, row.worst, row.subject, place[row.rater]))
        else:
            given = row.best if len(order) == 2 else row.worst
            checks.setdefault(place[row.rater], []).append(given != row.expected)
    counts = {rater: CheckCount(len(failed), sum(failed)) for rater, failed in checks.items()}
    return raters, answers, counts


def results(session: Session, session_id: str, *, keep_all: bool = False) -> Results:
    """Return what the votes of a session say; raises ApiError 404."""
    found = session.get(JudgingSession, session_id)
    if found is None:
        raise unknown()
    raters, answers, checks = recorded(session, session_id)
    return evaluate_votes(
        answers,
        json.loads(found.contestants),
        [rater or "local" for rater in raters],
        checks=checks,
        real=found.real,
        keep_all=keep_all,
    )


def _is_invited(session: Session, session_id: str, key: str) -> bool:
    return session.get(JudgingRater, (session_id, key)) is not None
