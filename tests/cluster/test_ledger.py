"""The ledger of a run: its seconds are counted once, and what a failure undid is lost."""

import json
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from danqing.cluster import ledger
from danqing.cluster.ledger import Ledger


def line(attempt: int, images: int, *, began: float = 0.0, **more: Any) -> dict[str, Any]:
    seconds = {name: value for name, value in more.items() if isinstance(value, float)}
    texts = {"stage": more.get("stage", ""), "status": more.get("status", "")}
    numbers = {"attempt": attempt, "images": images, "restart": more.get("restart", 0), "began": began}
    return {**numbers, **texts, "seconds": seconds}


def test_a_run_without_failures_is_useful_or_waiting() -> None:
    told = ledger.summary(
        [
            line(0, 0, start=2.0),
            line(0, 100, start=2.0, useful=5.0, data=0.5),
            line(0, 200, start=2.0, useful=10.0, data=1.0, end=0.5, status="finished"),
        ]
    )
    assert told == {
        "wall": 13.5,
        "useful": 10.0,
        "lost": {"repeated": 0, "restart": 0.0},
        "waiting": {"start": 2.0, "data": 1.0, "end": 0.5},
        "goodput": 10 / 13.5,
        "attempts": 1,
        "failures": 0,
    }


def test_steps_after_the_last_checkpoint_and_the_time_until_the_next_step_are_lost() -> None:
    told = ledger.summary(
        [
            line(0, 0, start=2.0),
            line(0, 100, start=2.0, useful=10.0),
            line(0, 150, start=2.0, useful=15.0),  # killed later, and no more is known of it
            line(1, 100, began=20.0, restart=1, start=3.0),
            line(1, 200, began=20.0, restart=1, start=3.0, useful=10.0, status="finished"),
        ]
    )
    assert told["useful"] == 20.0
    assert told["lost"] == {"repeated": 5.0, "restart": 3.0 + 3.0}  # from 17 s to 20 s, and the start
    assert told["waiting"] == {"start": 2.0}
    assert told["wall"] == 33.0
    assert (told["attempts"], told["failures"]) == (2, 1)


def test_the_time_until_someone_starts_a_run_again_is_not_part_of_it() -> None:
    lines = [
        line(0, 0, start=2.0),
        line(0, 100, start=2.0, useful=10.0),
        line(1, 50, began=90000.0, start=3.0),
        line(1, 100, began=90000.0, start=3.0, useful=5.0, status="interrupted"),
        line(2, 100, began=190000.0, start=3.0),
        line(2, 200, began=190000.0, start=3.0, useful=10.0, status="finished"),
    ]
    told = ledger.summary(lines)
    assert told["wall"] == 12 + 8 + 13
    assert told["lost"] == {"repeated": 5.0, "restart": 3.0}  # the third start follows no failure
    assert told["waiting"] == {"start": 5.0}
    assert told["failures"] == 1


def test_a_rollback_within_a_process_is_lost_and_stages_do_not_undo_each_other() -> None:
    told = ledger.summary(
        [
            line(0, 0, stage="tokenizer", start=1.0),
            line(0, 80, stage="tokenizer", start=1.0, useful=8.0),
            line(0, 40, stage="tokenizer", start=1.0, useful=9.0),  # a second on steps that broke
            line(0, 100, stage="tokenizer", start=1.0, useful=15.0),
            line(0, 0, stage="prior", start=4.0, useful=15.0),
            line(0, 100, stage="prior", start=4.0, useful=25.0, status="finished"),
        ]
    )
    assert told["lost"]["repeated"] == 5.0
    assert told["useful"] == 20.0
    assert told["wall"] == 29.0


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 50), st.floats(0, 9), st.booleans()), max_size=9))
def test_no_second_is_counted_twice_or_left_out(steps: list[tuple[int, int, float, bool]]) -> None:
    """Attempts that each begin somewhere, take steps for some seconds, and end or die."""
    lines, spent = [], 0.0
    for attempt, (first, count, seconds, ends) in enumerate(steps):
        status = "finished" if ends else ""
        lines.append(line(attempt, 10 * first, start=1.0))
        lines.append(line(attempt, 10 * first + count, start=1.0, useful=seconds, status=status))
        spent += 1.0 + seconds
    told = ledger.summary(lines)
    assert told["wall"] == pytest.approx(spent)
    parts = told["useful"] + sum(told["lost"].values()) + sum(told["waiting"].values())
    assert parts == pytest.approx(told["wall"])


def test_a_process_counts_each_of_its_seconds_once(tmp_path: Path) -> None:
    began = time.time() - 5
    mine, path = Ledger(tmp_path / "goodput.jsonl", began), tmp_path / "goodput.jsonl"
    assert not path.exists()
    mine.begin(0)
    with mine.spending("useful"):
        with mine.spending("checkpoint"):
            time.sleep(0.02)
        mine.move("data", 1e9)  # no more than there was
        mine.reached(64)
        mine.reached(32)
    mine.switch("end")
    mine.close("finished")
    told = mine.summary()
    assert told is not None
    assert told["wall"] == pytest.approx(time.time() - began, abs=0.5)
    assert told["waiting"]["start"] >= 5
    assert told["waiting"]["checkpoint"] >= 0.02
    again = Ledger(path, time.time())
    again.begin(32)
    assert [line["attempt"] for line in ledger.read(path)][-1] == 1
    assert Ledger(None, began).summary() is None


def test_lines_are_few_and_a_killed_process_loses_at_most_a_hundredth(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    mine = Ledger(tmp_path / "goodput.jsonl", time.time())
    mine.begin(0)
    with mine.spending("useful"):
        for step in range(1, 40_000):
            now[0] += 1.5
            mine.reached(step)
            known = ledger.read(tmp_path / "goodput.jsonl")[-1] if step % 4999 == 0 else None
            if known:
                assert now[0] - sum(known["seconds"].values()) <= 0.01 * now[0] + 1.5
    assert len(ledger.read(tmp_path / "goodput.jsonl")) < 700


def test_a_ledger_that_anyone_has_damaged_is_read_as_far_as_it_goes(tmp_path: Path) -> None:
    path = tmp_path / "goodput.jsonl"
    good = json.dumps(line(0, 10, start=1.0, useful=2.0))
    infinite = json.dumps(line(0, 20, start=1.0, useful=float("inf")))
    bad = [
        infinite,
        '{"attempt"',
        "[]",
        "7",
        '{"attempt": 1, "seconds": {"useful": "x"}}',
        '{"seconds": null}',
        good.replace('"images": 10', '"images": Infinity'),
        "[" * 100_000,
    ]
    path.write_text("\n".join([good, *bad, good[:20]]))
    assert [each["images"] for each in ledger.read(path)] == [10]
    assert ledger.summary(ledger.read(tmp_path / "none")) | {"waiting": {}} == {
        "wall": 0,
        "useful": 0,
        "lost": {"repeated": 0, "restart": 0.0},
        "waiting": {},
        "goodput": 0.0,
        "attempts": 0,
        "failures": 0,
    }


def test_a_command_counts_from_its_launcher_unless_it_was_restarted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ledger, "_age_of_process", lambda: 3.0)
    ledger.command_begins()
    assert ledger.started() == pytest.approx(time.time() - 3, abs=2)
    ledger.command_begins()
    launched = time.time() - 7
    monkeypatch.setenv(ledger.STARTED, str(launched))
    assert ledger.started() == launched
    assert ledger.started() == pytest.approx(time.time(), abs=5)  # another run of this process
    for restart, start in (("1", str(launched)), ("0", "yesterday"), ("0", "17")):
        ledger.command_begins()
        monkeypatch.setenv(ledger.RESTART, restart)
        monkeypatch.setenv(ledger.STARTED, start)
        assert ledger.started() == pytest.approx(time.time() - 3, abs=2)
