"""What an attacker tries in a session in which people judge."""

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import pytest

from danqing.errors import ConfigError
from danqing.service.access import key_admin
from danqing.service.access.key_admin import Grant
from danqing.service.judging.judge import judge
from danqing.service.storage.database import Database
from tests.service.attacks.asking import assert_refused
from tests.service.judging.judged import Rater, folders, serving


class Attacked(NamedTuple):
    """Two sessions: anna may judge in the first, bert in the second; dora has no such scope."""

    url: str
    first: str
    second: str
    anna: Rater
    bert: Rater
    dora: Rater


@pytest.fixture(scope="module")
def attacked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Attacked]:
    folder = tmp_path_factory.mktemp("judging")
    sources = folders(folder / "given")
    started = [judge(sources, out=folder / name, raters=1, data=folder / "data") for name in ("one", "two")]
    tokens = [token for one in started for token in one.keys.values()]
    database = Database(f"sqlite:///{folder / 'data' / 'service.db'}")
    _, other = key_admin.create(database, Grant("dora", ("generate", "edit", "recognize", "metrics")))
    database.close()
    with serving(folder / "data") as url:
        raters = [Rater(url, token) for token in (*tokens, other)]
        yield Attacked(url, started[0].session, started[1].session, *raters)


def test_a_vote_is_counted_once_however_often_it_is_sent(attacked: Attacked) -> None:
    ballot = attacked.anna.ballot(attacked.first)
    before = ballot["answered"]
    assert attacked.anna.vote(ballot["id"]).status_code == 204
    assert attacked.anna.vote(ballot["id"]).status_code == 204
    for other in ((1, 0), (None, None)):
        assert_refused(attacked.anna.vote(ballot["id"], *other), 409)
    assert attacked.anna.ballot(attacked.first)["answered"] == before + 1  # type: ignore[operator]


def test_idor_a_foreign_session_does_not_exist(attacked: Attacked) -> None:
    theirs = attacked.bert.ballot(attacked.second)
    pictures: Any = theirs["pictures"]
    tried = [
        attacked.anna.http.post(f"/v1/judging/sessions/{attacked.second}/ballot"),
        attacked.anna.http.post("/v1/judging/sessions/ses_0/ballot"),
        attacked.anna.vote(theirs["id"]),
        attacked.anna.http.get(pictures[0]),
    ]
    assert [answer.status_code for answer in tried] == [404] * 4
    assert tried[0].json() == tried[1].json()  # nobody learns which sessions there are
    listed = attacked.anna.http.get("/v1/judging/sessions").json()["data"]
    assert [one["id"] for one in listed] == [attacked.first]
    assert attacked.bert.ballot(attacked.second) == theirs


@pytest.mark.parametrize("forged", ["bal_0", "bal_" + "0" * 32, "..%2F..", "'; drop table keys; --", "%00"])
def test_a_forged_ballot_is_not_there(attacked: Attacked, forged: str) -> None:
    assert_refused(attacked.anna.vote(forged), 400, 404)
    assert_refused(attacked.anna.http.get(f"/v1/judging/ballots/{forged}/pictures/0"), 400, 404)


def test_a_picture_that_is_not_on_the_ballot_is_not_given(attacked: Attacked) -> None:
    ballot = attacked.anna.ballot(attacked.first)
    for place in ("2", "-1", "99999999999999999999999", "0x0", "../0"):
        answer = attacked.anna.http.get(f"/v1/judging/ballots/{ballot['id']}/pictures/{place}")
        assert answer.status_code in (400, 404, 405), place


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"best": 0},
        {"best": 0, "worst": 0},
        {"best": 2, "worst": 0},
        {"best": -1, "worst": 0},
        {"best": None, "worst": 1},
        {"best": "0", "worst": "1"},
        {"best": True, "worst": False},
        {"best": 0.0, "worst": 1},
        {"best": 0, "worst": 1, "rater": "bert"},
        {"best": [0], "worst": 1},
    ],
)
def test_a_vote_that_is_none_is_refused_and_leaves_the_ballot(attacked: Attacked, body: Any) -> None:
    ballot = attacked.anna.ballot(attacked.first)
    assert_refused(attacked.anna.http.post(f"/v1/judging/ballots/{ballot['id']}", json=body), 400)
    assert attacked.anna.ballot(attacked.first) == ballot


def test_an_oversized_body_is_refused_before_it_is_parsed(attacked: Attacked) -> None:
    ballot = attacked.anna.ballot(attacked.first)
    path = f"/v1/judging/ballots/{ballot['id']}"
    headers = {"content-type": "application/json"}
    large = json.dumps({"best": 0, "worst": 1, "x": "y" * 2**21}).encode()
    assert_refused(attacked.anna.http.post(path, content=large, headers=headers), 413)
    deep = b'{"best": ' + b"[" * 500 + b"]" * 500 + b', "worst": 1}'
    assert_refused(attacked.anna.http.post(path, content=deep, headers=headers), 400)
    form = attacked.anna.http.post(path, data={"best": "0"})
    assert form.status_code == 415
    assert attacked.anna.ballot(attacked.first) == ballot


def test_a_key_without_the_scope_may_not_judge_and_a_rater_may_nothing_else(attacked: Attacked) -> None:
    assert_refused(attacked.dora.http.get("/v1/judging/sessions"), 403)
    assert_refused(attacked.dora.http.post(f"/v1/judging/sessions/{attacked.first}/ballot"), 403)
    assert_refused(attacked.anna.http.get(f"/v1/judging/sessions/{attacked.first}/results"), 403)
    assert_refused(Rater(attacked.url).http.get("/v1/judging/sessions"), 401)
    with pytest.raises(ConfigError, match="no scope 'vote'"):
        Grant("eve", ("judge", "vote"))


def test_a_revoked_rater_is_shut_out_and_keeps_what_was_voted(tmp_path: Path) -> None:
    started = judge(folders(tmp_path / "given"), out=tmp_path / "out", raters=1, data=tmp_path / "data")
    ((name, token),) = started.keys.items()
    with serving(tmp_path / "data") as url:
        rater = Rater(url, token)
        rater.vote(rater.ballot(started.session)["id"])
        database = Database(f"sqlite:///{tmp_path / 'data' / 'service.db'}")
        key_admin.revoke(database, name)
        database.close()
        deadline = time.monotonic() + 20
        while rater.http.get("/v1/judging/sessions").status_code != 401:
            assert time.monotonic() < deadline
            time.sleep(0.1)
    found = judge(out=tmp_path / "out", data=tmp_path / "data").results
    assert found.ratings.votes + sum(one.checks.answered for one in found.raters.values()) == 1


def test_a_signed_in_rater_is_safe_from_pages_of_other_sites(attacked: Attacked) -> None:
    ballot = attacked.anna.ballot(attacked.first)
    signed = attacked.anna.http.post("/v1/session")
    assert signed.status_code == 200
    cookie = signed.headers["set-cookie"].partition(";")[0]
    headers = {"cookie": cookie, "origin": "https://evil.example", "sec-fetch-site": "cross-site"}
    path = f"{attacked.url}/v1/judging/ballots/{ballot['id']}"
    assert_refused(httpx.post(path, json={"best": 0, "worst": 1}, headers=headers), 403)
    assert attacked.anna.ballot(attacked.first) == ballot
    headers = {"cookie": cookie, "origin": attacked.url, "sec-fetch-site": "same-origin"}
    assert httpx.post(path, json={"best": 0, "worst": 1}, headers=headers).status_code == 204


def test_the_page_runs_its_own_modules_alone(attacked: Attacked) -> None:
    policy = httpx.get(f"{attacked.url}/judge").headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert httpx.get(f"{attacked.url}/judge/judge.html").status_code == 404
