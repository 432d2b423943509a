"""A session is judged blindly, survives restarts, counts each vote once, and says who is better."""

import io
import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sqlalchemy import select

from danqing.errors import ConfigError, EvaluationError
from danqing.judging.rater_checks import CheckCount
from danqing.service.access.caller import LOCAL, Caller
from danqing.service.judging import ballots, sessions
from danqing.service.judging.judge import judge
from danqing.service.judging.tables import JudgingBallot, JudgingPicture, JudgingSession
from danqing.service.storage.database import Database
from tests.service.conftest import MODELS, save
from tests.service.judging.judged import Rater, folders, serving


def test_raters_join_with_restricted_keys_and_their_votes_become_ratings(
    tmp_path: Path, database_url: str
) -> None:
    """The rater prefers the picture with the higher mean; what is shown twice is a tie."""
    sources = folders(tmp_path / "given")
    for number, source in enumerate(sources):  # the later, the brighter
        for path in Path(source).iterdir():
            pixels = np.asarray(Image.open(path)).astype(int)
            Image.fromarray((pixels // 4 + 60 * number).astype(np.uint8)).save(path)
    started = judge(
        sources, out=tmp_path / "out", raters=3, ballots=15, checks=5, stop=False, database_url=database_url
    )
    assert len(started.keys) == 3
    assert started.results.ratings.votes == 0
    with serving(tmp_path / "data", database_url) as url:
        for token in started.keys.values():
            rater = Rater(url, token)
            (listed,) = rater.http.get("/v1/judging/sessions").json()["data"]
            assert listed["id"] == started.session
            while (ballot := rater.ballot(started.session))["id"]:
                files = [rater.http.get(path).content for path in ballot["pictures"]]  # type: ignore[attr-defined]
                pixels = [np.asarray(Image.open(io.BytesIO(one))).astype(int) for one in files]
                sharp = [float(np.abs(np.diff(one, axis=0)).mean()) for one in pixels]
                means = [float(one.mean()) for one in pixels]
                if files[0] == files[1]:
                    best = None
                elif abs(means[0] - means[1]) < 5:  # a picture and what was blurred
                    best = int(np.argmax(sharp))
                else:
                    best = int(np.argmax(means))
                assert rater.vote(ballot["id"], best, None if best is None else 1 - best).status_code == 204
            assert ballot["end"] == "complete"
            assert ballot["answered"] == 15
    found = judge(out=tmp_path / "out", database_url=database_url)
    results = found.results
    assert [one.name for one in results.standings] == ["zebra", "walrus", "kiwi"]
    assert (results.ratings.votes, results.ratings.raters) == (36, 3)
    assert {(one.checks.answered, one.checks.failed) for one in results.raters.values()} == {(3, 0)}
    assert results.left_out == ()
    assert results.agreement.alpha == 1
    shown = [one.shown for one in results.standings]
    assert min(shown) > 15  # all are judged
    told = json.loads((tmp_path / "out" / "scores.json").read_text())
    assert [one["candidate"] for one in told] == ["zebra", "walrus", "kiwi"]
    assert told[0]["settings"]["raters"] == 3
    database = Database(database_url)
    with database.engine.connect() as connection:
        rows = connection.execute(select(JudgingBallot.contestants).where(JudgingBallot.kind.is_(None)))
        orders = [row.contestants.split(",") for row in rows]
    for one in "012":  # sides are shuffled
        places = [order.index(one) for order in orders if one in order]
        assert 0.2 < sum(places) / len(places) < 0.8
    database.close()


def test_a_ballot_survives_a_reload_and_a_restart_and_is_counted_once(tmp_path: Path) -> None:
    sources = folders(tmp_path / "given")
    started = judge(sources, out=tmp_path / "out", raters=1, data=tmp_path / "data")
    (token,) = started.keys.values()
    with serving(tmp_path / "data") as url:
        first = Rater(url, token).ballot(started.session)
        assert Rater(url, token).ballot(started.session) == first
    with serving(tmp_path / "data") as url:
        rater = Rater(url, token)
        assert rater.ballot(started.session) == first
        with ThreadPoolExecutor(8) as threads:
            answers = list(threads.map(lambda _: rater.vote(first["id"]).status_code, range(8)))
        assert answers == [204] * 8
        changed = rater.vote(first["id"], 1, 0)
        assert (changed.status_code, changed.json()["error"]["code"]) == (409, "already_voted")
        second = rater.ballot(started.session)
        assert second["answered"] == 1
        assert second["id"] != first["id"]
    found = judge(out=tmp_path / "out", data=tmp_path / "data").results
    assert found.ratings.votes + sum(one.checks.answered for one in found.raters.values()) == 1


def test_two_tabs_get_the_same_ballot(tmp_path: Path, database_url: str) -> None:
    sources = folders(tmp_path / "given")
    started = judge(sources, out=tmp_path / "out", database_url=database_url)
    database = Database(database_url)

    def show(_: int) -> str | None:
        return database.transact(
            ballots.show_next,
            started.session,
            LOCAL,
            ballots.new_id(),
            1.0,  # type: ignore[arg-type]
        ).id

    with ThreadPoolExecutor(6) as threads:
        assert len(set(threads.map(show, range(12)))) == 1
    database.close()


def test_nothing_that_a_rater_receives_tells_whose_a_picture_is(tmp_path: Path) -> None:
    sources = folders(tmp_path / "given")
    started = judge(sources, out=tmp_path / "out", raters=1, data=tmp_path / "data", question="Which?")
    (token,) = started.keys.values()
    with serving(tmp_path / "data") as url:
        rater = Rater(url, token)
        told = rater.http.get("/v1/judging/sessions").text + json.dumps(rater.ballot(started.session))
        ballot = rater.ballot(started.session)
        files = [rater.http.get(path) for path in ballot["pictures"]]  # type: ignore[attr-defined]
        for answer in files:
            told += str(dict(answer.headers))
            with Image.open(io.BytesIO(answer.content)) as picture:
                assert picture.info == {}
                assert picture.size == (16, 16)
        for name in ("kiwi", "walrus", "zebra"):
            assert name not in told
    names = {path.stem for source in sources for path in Path(source).iterdir()}
    assert len(names) == 6


def answer(database: Database, session_id: str, caller: Caller, now: float) -> JudgingBallot | None:
    """Prefer whoever comes first in the alphabet; what is blurred is the worst."""
    shown = database.transact(ballots.show_next, session_id, caller, ballots.new_id(), now)
    if shown.id is None:
        return None
    found = database.transact(lambda session: session.get(JudgingBallot, shown.id))
    assert found is not None
    places = sorted(range(len(found.order)), key=lambda place: found.order[place])
    database.transact(ballots.vote, shown.id, caller, places[0], places[-1], now)
    return found


def test_fours_plant_a_blurred_picture_as_an_attention_check(tmp_path: Path) -> None:
    sources = folders(tmp_path / "given", ("a", "b", "c", "d"))
    started = judge(sources, out=tmp_path / "out", fours=True, checks=5, data=tmp_path / "data")
    database = Database(f"sqlite:///{tmp_path / 'data' / 'service.db'}")
    raters = [replace(LOCAL, key_id=f"key{number}") for number in range(2)]
    given = [answer(database, started.session, raters[number % 2], float(number)) for number in range(30)]
    kinds = [one.kind for one in given if one is not None]
    assert (kinds.count("blur"), kinds.count(None)) == (6, 24)
    found = database.transact(sessions.results, started.session)
    assert [found.standings[place].name for place in (0, 3)] == ["a", "d"]
    assert [one.checks for one in found.raters.values()] == [CheckCount(3, 0)] * 2
    assert found.places is not None
    assert not found.decided  # of two raters
    database.close()


def test_a_session_ends_when_its_intervals_part(tmp_path: Path) -> None:
    sources = folders(tmp_path / "given", ("a", "b"))
    started = judge(sources, out=tmp_path / "out", checks=0, data=tmp_path / "data")
    database = Database(f"sqlite:///{tmp_path / 'data' / 'service.db'}")
    raters = [replace(LOCAL, key_id=f"key{number}") for number in range(4)]
    for number in range(100):
        if answer(database, started.session, raters[number % 4], float(number)) is None:
            break
    assert 40 <= number < 90
    shown = database.transact(ballots.show_next, started.session, raters[0], ballots.new_id(), 1e3)
    assert (shown.id, shown.end) == (None, "decided")
    assert judge(out=tmp_path / "out", data=tmp_path / "data").state == "decided"
    gone = judge(out=tmp_path / "out", data=tmp_path / "data", delete=True)
    assert (gone.state, gone.results.ratings.votes) == ("deleted", number)
    with database.engine.connect() as connection:
        for table in (JudgingBallot, JudgingPicture, JudgingSession):
            assert connection.execute(select(table.__table__)).first() is None
    assert (tmp_path / "out" / "scores.json").exists()
    database.close()


def test_models_are_judged_on_the_same_prompts_and_get_their_scores(
    models: dict[str, str], tmp_path: Path
) -> None:
    mine = [save(MODELS[name], tmp_path / name) for name in ("gan", "raster")]
    (tmp_path / "real").mkdir()
    real = folders(tmp_path / "photos", ("photos",), n=9, side=20)[0]
    with pytest.raises(EvaluationError, match="No real image is labelled"):
        judge(mine, out=tmp_path / "out", real=real, prompts=["star"], n=4, data=tmp_path / "data")
    started = judge(mine, out=tmp_path / "out", n=4, raters=2, data=tmp_path / "data")
    database = Database(f"sqlite:///{tmp_path / 'data' / 'service.db'}")
    with database.engine.connect() as connection:
        sizes = {
            Image.open(io.BytesIO(row.content)).size
            for row in connection.execute(select(JudgingPicture.content))
        }
    database.close()
    assert sizes == {(8, 8)}
    with serving(tmp_path / "data") as url:
        for token in started.keys.values():
            rater = Rater(url, token)
            captions = set()
            for number in range(12):
                ballot = rater.ballot(started.session)
                captions.add(ballot["caption"])
                rater.vote(ballot["id"], number % 2, 1 - number % 2)
            assert captions <= {"circle", "red square", "star"}
            assert len(captions) > 1
    found = judge(out=tmp_path / "out", data=tmp_path / "data", keep_all=True, close=True)
    assert found.state == "closed"
    for source in mine:
        (score,) = json.loads((Path(source) / "scores.json").read_text())
        assert (score["metric"], score["settings"]["raters"]) == ("people", 2)
        card = (Path(source) / "README.md").read_text()
        assert "Rating by people" in card
        assert f"raters {2}" in card


def test_real_images_compete_and_ratings_say_how_often_models_pass_for_them(
    models: dict[str, str], tmp_path: Path
) -> None:
    real = folders(tmp_path / "photos", ("photos",), n=9, side=20)[0]
    started = judge([models["gan"]], out=tmp_path / "out", real=real, n=5, data=tmp_path / "data", checks=0)
    with serving(tmp_path / "data") as url:
        rater = Rater(url)  # there are no keys: whoever is on this machine may judge
        for number in range(12):
            rater.vote(rater.ballot(started.session)["id"], number % 2, 1 - number % 2)
    found = judge(out=tmp_path / "out", data=tmp_path / "data").results
    assert {one.name for one in found.standings} == {"gan", "real images"}
    (share,) = [one.against_real for one in found.standings if one.against_real is not None]
    assert 0 < share[1] < share[0] < share[2] < 1


def test_what_cannot_be_judged_is_said_at_once(models: dict[str, str], tmp_path: Path) -> None:
    given = {"out": tmp_path / "out", "data": tmp_path / "data"}
    with pytest.raises(ConfigError, match="There is no session in"):
        judge(**given)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="at least two contestants"):
        judge([models["gan"]], **given)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="fours need at least four"):
        judge([models["gan"], models["vae"]], fours=True, **given)  # type: ignore[arg-type]
    two = folders(tmp_path / "given", ("x", "y"))
    judge(two, **given)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="holds a session of x, y"):
        judge(two[::-1], **given)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="no key nobody"):
        judge(keys=["nobody"], **given)  # type: ignore[arg-type]
    (Path(two[0]) / "3.png").write_bytes(b"\x89PNG")
    with pytest.raises(EvaluationError, match=r"3\.png .* cannot be read"):
        judge(two, out=tmp_path / "other", data=tmp_path / "data")
