"""The ballots of a session: which one a rater is shown next, and its answer; each is one transaction."""

import json
import uuid
from dataclasses import dataclass

import numpy as np
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from danqing.judging.pairing import choose_next, choose_subject
from danqing.judging.results import evaluate_votes
from danqing.judging.votes import collect
from danqing.randomness import derived_seed
from danqing.service.access.caller import Caller
from danqing.service.errors import ApiError, invalid
from danqing.service.judging.sessions import find, recorded
from danqing.service.judging.tables import Check, JudgingBallot, JudgingPicture, JudgingSession

_LOOK = 10  # votes between two looks at whether the order is decided
_FORGOTTEN = 600.0  # seconds after which a ballot that is shown is not expected to be answered
_REPEATED = 0.25  # share of ballots that another rater has answered with the same pictures, if there are any


@dataclass(frozen=True, slots=True)
class Shown:
    """A ballot as a rater sees it.

    id: None if there is no further one; `end` says why: "complete", "decided" or "closed".
    size: how many pictures. caption: what they should show.
    """

    id: str | None
    end: str
    size: int
    caption: str
    answered: int
    wanted: int
    question: str


def new_id() -> str:
    """Return an id that nobody can guess."""
    return f"bal_{uuid.uuid4().hex}"


def show_next(session: Session, session_id: str, caller: Caller, ballot_id: str, now: float) -> Shown:
    """Return the ballot that waits for a rater, or a new one.

    ballot_id: of the new one; its contestants follow from it, so that a repeated transaction does the same.

    Raises ApiError 404 if the caller may not judge in this session.
    """
    judged = find(session, session_id, caller, for_update=True)
    own = list(
        session.scalars(
            select(JudgingBallot)
            .where(JudgingBallot.session == session_id, JudgingBallot.rater == caller.owner)
            .order_by(JudgingBallot.number)
        )
    )
    waiting = next((one for one in own if one.answered is None), None)
    answered = len(own) - (waiting is not None)
    end = ""
    if judged.state == "closed" or (judged.state == "decided" and waiting is None):
        end = judged.state
    elif waiting is None and answered >= judged.ballots:
        end = "complete"
    if end:
        return Shown(None, end, judged.size, "", answered, judged.ballots, judged.question)
    if waiting is None:
        waiting = _new_ballot(session, judged, own, caller.owner, ballot_id, now)
        session.add(waiting)
    captions = json.loads(judged.captions)
    caption = captions[waiting.subject] if captions else ""
    return Shown(waiting.id, "", judged.size, caption, answered, judged.ballots, judged.question)


def vote(
    session: Session, ballot_id: str, caller: Caller, best: int | None, worst: int | None, now: float
) -> None:
    """Store the answer to a ballot, once.

    best, worst: places; both are None for a tie.

    The same answer again changes nothing, because a client repeats it if the first was not confirmed. Raises
    ApiError 400 for places that are not there, 404 for a ballot of another rater, and 409 for another answer.
    """
    ballot = session.get(JudgingBallot, ballot_id, with_for_update=True)
    if ballot is None or ballot.rater != caller.owner:
        raise _unknown()
    judged = find(session, ballot.session, caller, for_update=True)
    places = range(judged.size)
    if best is None or worst is None:
        if judged.size > 2 or best is not worst:
            raise invalid("Choose the best and the worst picture.", "best" if best is None else "worst")
    elif best not in places or worst not in places or best == worst:
        raise invalid(f"best and worst are two different places from 0 to {judged.size - 1}.", "best")
    if ballot.answered is not None:
        if (ballot.best, ballot.worst) == (best, worst):
            return
        raise ApiError(409, "This ballot was answered before, and keeps that answer.", code="already_voted")
    if judged.state == "closed":
        raise ApiError(409, "This session is closed: it takes no more votes.", code="session_closed")
    ballot.best, ballot.worst, ballot.answered = best, worst, now
    session.flush()
    if judged.stops and judged.state == "open" and not _votes(session, judged) % _LOOK:
        raters, answers, checks = recorded(session, judged.id)
        names = json.loads(judged.contestants)
        if evaluate_votes(answers, names, raters, checks=checks).decided:
            judged.state = "decided"


def picture(session: Session, ballot_id: str, place: int, caller: Caller) -> bytes:
    """Return a picture of a ballot; raises ApiError 404."""
    ballot = session.get(JudgingBallot, ballot_id)
    if ballot is None or ballot.rater != caller.owner:
        raise _unknown()
    find(session, ballot.session, caller)
    order = ballot.order
    if not 0 <= place < len(order):
        raise _unknown()
    content = session.scalar(
        select(JudgingPicture.content).where(
            JudgingPicture.session == ballot.session,
            JudgingPicture.contestant == order[place],
            JudgingPicture.subject == ballot.subject,
        )
    )
    if content is None:
        raise _unknown()
    return content


def _votes(session: Session, judged: JudgingSession) -> int:
    counted = select(func.count()).where(
        JudgingBallot.session == judged.id, JudgingBallot.answered.is_not(None), JudgingBallot.kind.is_(None)
    )
    return session.scalar(counted) or 0


def _new_ballot(
    session: Session,
    judged: JudgingSession,
    own: list[JudgingBallot],
    rater: str,
    ballot_id: str,
    now: float,
) -> JudgingBallot:
    number = len(own)
    generator = np.random.default_rng(derived_seed(0, ballot_id))
    kind, expected = _check(judged, rater, number), None
    if kind is None:
        order, subject = _contested(session, judged, own, rater, generator, now)
    else:
        order, subject, expected = _planted(session, judged, kind, generator)
    return JudgingBallot(
        id=ballot_id,
        session=judged.id,
        rater=rater,
        number=number,
        contestants=",".join(map(str, order)),
        subject=subject,
        kind=kind,
        expected=expected,
        created=now,
    )


def _check(judged: JudgingSession, rater: str, number: int) -> Check | None:
    """Return which attention check the ballot of a rater is: one in each period, where nobody expects it."""
    if not judged.period:
        return None
    block, place = divmod(number, judged.period)
    if place != derived_seed(block, f"{judged.id} {rater}") % judged.period:
        return None
    return "identical" if judged.size == 2 and block % 2 else "blur"


def _planted(
    session: Session, judged: JudgingSession, kind: Check, generator: np.random.Generator
) -> tuple[list[int], int, int | None]:
    """Return the contestants of an attention check, its subject, and the place that shows attention."""
    k = len(json.loads(judged.contestants))
    if kind == "identical":
        contestant = int(generator.integers(k))
        return [contestant, contestant], int(generator.integers(judged.subjects)), None
    blurred = session.scalars(
        select(JudgingPicture.subject).where(
            JudgingPicture.session == judged.id, JudgingPicture.contestant == k
        )
    )
    subject = int(generator.choice(sorted(blurred)))
    source = subject % k  # whose picture was blurred
    others = [one for one in generator.permutation(k).tolist() if one != source]
    order = [source, *others[: judged.size - 2], k]
    generator.shuffle(order)
    sharp = order.index(source)
    return order, subject, sharp if judged.size == 2 else order.index(k)


def _contested(
    session: Session,
    judged: JudgingSession,
    own: list[JudgingBallot],
    rater: str,
    generator: np.random.Generator,
    now: float,
) -> tuple[list[int], int]:
    """Return the contestants whose order is least certain, and pictures that the rater has seen least."""
    raters, answers, _ = recorded(session, judged.id)
    k = len(json.loads(judged.contestants))
    shown = session.scalars(
        select(JudgingBallot.contestants).where(
            JudgingBallot.session == judged.id,
            JudgingBallot.answered.is_(None),
            JudgingBallot.kind.is_(None),
            JudgingBallot.created > now - _FORGOTTEN,
        )
    )
    waiting = [[int(one) for one in text.split(",")] for text in shown]
    votes = collect(answers, k, max(1, len(raters)))
    order = choose_next(votes, judged.size, generator, waiting=waiting)
    mine = raters.index(rater) if rater in raters else -1
    seen = np.zeros(judged.subjects, np.int64)
    for ballot in own:
        seen[ballot.subject] += len(set(ballot.order) & set(order))
    others = np.zeros(judged.subjects, np.int64)
    for one in answers:
        if one.rater != mine and set(one.order) == set(order):
            others[one.subject] += 1
    repeat = bool(generator.random() < _REPEATED)
    return order, choose_subject(seen, others, generator, repeat=repeat)


def _unknown() -> ApiError:
    return ApiError(404, "There is no such ballot for this key.", code="not_found")
