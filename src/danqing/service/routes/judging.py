"""/v1/judging: people judge pictures without knowing whose they are."""

import time
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Request, Response
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field

from danqing.service.access.caller import Caller
from danqing.service.http.gate import needs
from danqing.service.judging import ballots, sessions
from danqing.service.parts import service_of
from danqing.service.requests import schemas
from danqing.service.routes.bodies import read_body

router = APIRouter(prefix="/v1/judging", tags=["judging"])

_Rater = Annotated[Caller, Depends(needs("judge"))]
_Admin = Annotated[Caller, Depends(needs("admin"))]


class JudgingVote(BaseModel):
    """The answer to a ballot.

    best, worst: places of pictures, from 0; both are null for a tie of two.
    """

    model_config = ConfigDict(extra="forbid", strict=True)

    best: int | None = Field(ge=0, le=3)
    worst: int | None = Field(ge=0, le=3)


class JudgingSession(BaseModel):
    """A session in which the key may judge.

    pictures: of each ballot, 2 or 4. answered: ballots of this key, of `wanted`.
    """

    id: str
    question: str
    pictures: Literal[2, 4]
    state: Literal["open", "decided", "closed"]
    answered: int
    wanted: int


class JudgingSessionList(BaseModel):
    """Sessions, the newest first."""

    object: Literal["list"] = "list"
    data: list[JudgingSession]


class JudgingBallot(BaseModel):
    """What is to be judged now.

    id: null if there is nothing left; `end` says why. pictures: their addresses, from left to right.
    caption: what they should show; empty if nothing in particular.
    """

    id: str | None
    end: Literal["", "complete", "decided", "closed"]
    question: str
    caption: str
    pictures: list[str]
    answered: int
    wanted: int


@router.get("/sessions", responses={200: {"model": JudgingSessionList}, **schemas.REJECTED})
async def list_sessions(request: Request, caller: _Rater) -> JSONResponse:
    """Return the sessions in which this key may judge."""
    found = await service_of(request).database.run(sessions.list_sessions, caller)
    data = [
        {
            "id": one.id,
            "question": one.question,
            "pictures": one.size,
            "state": one.state,
            "answered": one.answered,
            "wanted": one.wanted,
        }
        for one in found
    ]
    return JSONResponse({"object": "list", "data": data})


@router.post("/sessions/{session_id}/ballot", responses={200: {"model": JudgingBallot}, **schemas.REJECTED})
async def show_ballot(request: Request, caller: _Rater, session_id: str) -> JSONResponse:
    """Return the ballot that waits for this key, or a new one."""
    database = service_of(request).database
    shown = await database.run(ballots.show_next, session_id, caller, ballots.new_id(), time.time())
    address = f"/v1/judging/ballots/{shown.id}/pictures"
    places = range(shown.size) if shown.id else ()
    return JSONResponse(
        {
            "id": shown.id,
            "end": shown.end,
            "question": shown.question,
            "caption": shown.caption,
            "pictures": [f"{address}/{place}" for place in places],
            "answered": shown.answered,
            "wanted": shown.wanted,
        }
    )


@router.get(
    "/ballots/{ballot_id}/pictures/{place}",
    response_class=Response,
    responses={200: {"content": {"image/png": {}}}, **schemas.REJECTED},
)
async def ballot_picture(request: Request, caller: _Rater, ballot_id: str, place: int) -> Response:
    """Return a picture of a ballot.

    The PNG says nothing of where it comes from.
    """
    content = await service_of(request).database.run(ballots.picture, ballot_id, place, caller)
    return Response(content, media_type="image/png")


@router.post(
    "/ballots/{ballot_id}",
    status_code=204,
    response_class=Response,
    responses={204: {"description": "The vote is stored."}, **schemas.REJECTED},
    openapi_extra={
        "requestBody": {
            "required": True,
            "content": {"application/json": {"schema": JudgingVote.model_json_schema()}},
        }
    },
)
async def vote(request: Request, caller: _Rater, ballot_id: str) -> Response:
    """Store the answer to a ballot.

    It is counted once, and cannot be changed.
    """
    service = service_of(request)
    given = await read_body(request, JudgingVote)
    await service.database.run(ballots.vote, ballot_id, caller, given.best, given.worst, time.time())
    return Response(status_code=204)


@router.get("/sessions/{session_id}/results", responses=schemas.REJECTED)
async def session_results(
    request: Request, caller: _Admin, session_id: str, keep_all: bool = False
) -> dict[str, Any]:
    """Return the ratings of a session with their intervals, for administrators."""

    def read(session: Any) -> dict[str, Any]:
        return sessions.results(session, session_id, keep_all=keep_all).to_json()

    return await service_of(request).database.run(read)
