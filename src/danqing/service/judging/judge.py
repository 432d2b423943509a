"""`judge`: start a session in a service's database, and read what its votes say."""

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from danqing import atomic
from danqing.editing.outputs import make_folder
from danqing.errors import ConfigError
from danqing.evaluation import scores as score_files
from danqing.judging.entrants import Gathered, as_png, blurred, gather
from danqing.judging.export import flat, save_with_models, to_scores
from danqing.judging.results import Results
from danqing.progress import ProgressCallback
from danqing.service.access import key_admin
from danqing.service.access.key_admin import Grant
from danqing.service.access.keys import Key
from danqing.service.judging import sessions
from danqing.service.judging.tables import JudgingRater, JudgingSession
from danqing.service.storage.database import Database

SESSION_FILE = "session.json"
_BLURRED = 12  # pictures of attention checks
_FORMAT = 1


@dataclass(frozen=True, kw_only=True)
class Judging:
    """A session, and what its votes say.

    session: its id. link: what raters open, below the address of the service.
    state: open, decided, closed or deleted.
    keys: new keys of raters by their names; each is shown only here.
    files: what was written. notes: what to keep in mind.
    """

    session: str
    link: str
    state: str
    results: Results
    keys: Mapping[str, str] = field(default_factory=dict)
    files: tuple[Path, ...] = ()
    notes: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return {
            "session": self.session,
            "link": self.link,
            "state": self.state,
            "keys": dict(self.keys),
            **self.results.to_json(),
            "files": [str(file) for file in self.files],
            "notes": [*self.results.notes, *self.notes],
        }


def judge(
    contestants: Sequence[str | Path] = (),
    *,
    out: str | Path,
    real: str | Path | None = None,
    n: int = 50,
    prompts: Sequence[str] = (),
    size: tuple[int, int] | None = None,
    fours: bool = False,
    question: str = "",
    ballots: int = 60,
    checks: int = 10,
    stop: bool = True,
    raters: int = 0,
    keys: Sequence[str] = (),
    close: bool = False,
    delete: bool = False,
    keep_all: bool = False,
    seed: int = 0,
    data: str | Path = "danqing-service",
    database_url: str = "",
    device: str = "auto",
    on_progress: ProgressCallback | None = None,
) -> Judging:
    """Let people judge models, folders and real images.

    The first call with a folder `out` starts a session in the database of a service. Later calls return what
    its votes say, and write `results.json` and `scores.json` there, and the scores of models into their
    folders. They need no contestants.

    contestants: models, or folders of pictures, whose i-th pictures belong together.
    real: a data set whose images compete as one more contestant.
    n: pictures of each contestant.
    prompts: what they should show, in turn; see `danqing.judging.entrants.gather`.
    fours: whether raters choose the best and the worst of four, instead of the better of two.
    question: what raters read; by default which picture is better.
    ballots: of each rater.
    checks: one of so many ballots is an attention check; 0 for none.
    stop: whether the session ends once all intervals part.
    raters: new keys that may judge in this session alone.
    keys: names or ids of other keys that may join.
    close: end the session.
    delete: delete its pictures and votes from the database, after the results are written.
    keep_all: use the votes of careless raters as well.
    data, database_url: the service's folder or database.

    Raises ConfigError and what `gather` raises.
    """
    folder = Path(out)
    database = Database(database_url or f"sqlite:///{Path(data) / 'service.db'}")
    try:
        database.migrate()
        told = _read(folder)
        if told is None or not database.transact(_exists, told["session"]):
            if not contestants:
                raise ConfigError(f"There is no session in {folder}: name what is to be judged.")
            _check(ballots, checks)
            make_folder(folder)
            gathered = gather(
                contestants,
                real=real,
                n=n,
                prompts=prompts,
                size=size,
                seed=seed,
                device=_device(device),
                on_progress=on_progress,
            )
            told = _start(database, folder, gathered, fours, question, ballots, checks, stop, seed)
        elif contestants and [str(one) for one in contestants] != told["sources"][: len(contestants)]:
            raise ConfigError(
                f"{folder} holds a session of {', '.join(told['names'])}: choose another folder for others."
            )
        issued = _issue(database, told["session"], raters, keys)
        if close:
            database.transact(sessions.close, told["session"])
        state = database.transact(lambda session: _find(session, told["session"]).state)
        found = database.transact(
            lambda session: sessions.results(session, told["session"], keep_all=keep_all)
        )
        files, notes = _write(folder, told, found) if found.ratings.votes else ([], [])
        if delete:
            database.transact(sessions.delete, told["session"])
    finally:
        database.close()
    return Judging(
        session=told["session"],
        link=f"/judge#session={told['session']}",
        state="deleted" if delete else state,
        results=found,
        keys=issued,
        files=tuple(files),
        notes=tuple(notes),
    )


def _check(ballots: int, checks: int) -> None:
    if ballots < 1:
        raise ConfigError("A rater answers at least one ballot: raise the number of ballots.")
    if checks and checks < 3:
        raise ConfigError("One of three ballots may be an attention check at most: raise checks, or give 0.")


def _device(name: str) -> str:
    from danqing.precision import choose_device

    return str(choose_device(name))


def _start(
    database: Database,
    folder: Path,
    gathered: Gathered,
    fours: bool,
    question: str,
    ballots: int,
    checks: int,
    stop: bool,
    seed: int,
) -> dict[str, Any]:
    """Store a session, and what identifies it in its folder; return the latter."""
    entrants = gathered.entrants
    if fours and len(entrants) < 4:
        raise ConfigError(f"There are {len(entrants)} contestants: fours need at least four, so use pairs.")
    subjects = len(entrants[0].pictures)
    told: dict[str, Any] = {
        "format": _FORMAT,
        "session": sessions.new_id(),
        "names": [one.name for one in entrants],
        "sources": [one.source for one in entrants],
        "facts": {one.name: dict(one.facts) for one in entrants},
        "pictures": subjects,
        "seed": seed,
    }
    atomic.write_json(folder / SESSION_FILE, told)
    new = sessions.NewSession(
        id=told["session"],
        question=question,
        contestants=tuple(told["names"]),
        captions=gathered.captions,
        size=4 if fours else 2,
        subjects=subjects,
        real=gathered.real,
        ballots=ballots,
        period=checks,
        stops=stop,
    )
    pictures = list(_pictures(gathered))
    database.transact(sessions.create, new, pictures, (), time.time())
    return told


def _pictures(gathered: Gathered) -> Iterator[tuple[int, int, bytes]]:
    """Yield contestant, subject and PNG; the last contestant stands for blurred pictures of the others."""
    entrants = gathered.entrants
    for contestant, one in enumerate(entrants):
        for subject, pixels in enumerate(one.pictures):
            yield contestant, subject, as_png(pixels)
    for subject in range(min(_BLURRED, len(entrants[0].pictures))):
        source = entrants[subject % len(entrants)]
        yield len(entrants), subject, as_png(blurred(source.pictures[subject]))


def _issue(database: Database, session_id: str, count: int, names: Sequence[str]) -> dict[str, str]:
    """Create keys that may judge, and invite them and others; return the tokens of the new ones."""

    def known(session: Session) -> tuple[int, list[str]]:
        invited = session.scalar(select(func.count()).where(JudgingRater.session == session_id)) or 0
        ids = []
        for name in names:
            wanted = select(Key).where((Key.id == name) | (Key.name == name))
            key = next((one for one in session.scalars(wanted) if one.revoked is None), None)
            if key is None:
                raise ConfigError(f"There is no key {name}: `danqing keys list` shows all keys.")
            if not {"judge", "admin"} & set(key.scopes):
                raise ConfigError(f"The key {name} lacks the scope judge: create one that has it.")
            ids.append(key.id)
        return invited, ids

    first, ids = database.transact(known)
    issued = {}
    for number in range(first + 1, first + count + 1):
        name = f"judge {session_id[-8:]} {number}"
        key, token = key_admin.create(database, Grant(name, scopes=("judge",)))
        issued[name] = token
        ids.append(key.id)
    database.transact(sessions.invite, session_id, ids)
    return issued


def _read(folder: Path) -> dict[str, Any] | None:
    path = folder / SESSION_FILE
    if not path.exists():
        return None
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
        names, sources = told["names"], told["sources"]
        if told["format"] != _FORMAT or not isinstance(told["session"], str) or len(names) != len(sources):
            raise ValueError("it has another format")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{path} cannot be read ({error}): choose another folder.") from error
    return dict(told)


def _exists(session: Session, session_id: str) -> bool:
    return session.get(JudgingSession, session_id) is not None


def _find(session: Session, session_id: str) -> JudgingSession:
    found = session.get(JudgingSession, session_id)
    assert found is not None
    return found


def _write(folder: Path, told: Mapping[str, Any], found: Results) -> tuple[list[Path], list[str]]:
    """Write results and scores into the folder, and scores into the folders of models."""
    facts = told["facts"]
    scores = to_scores(
        found, pictures=told["pictures"], session=told["session"], facts=facts, seed=told["seed"]
    )
    atomic.write_json(folder / "results.json", {"session": told["session"], **found.to_json()})
    score_files.write(folder / "scores.json", flat(scores))
    files, notes = save_with_models(scores, dict(zip(told["names"], told["sources"], strict=True)), facts)
    return [folder / "results.json", folder / "scores.json", *files], notes
