"""The process that paints, spoken to over its link alone, and the frames of that link."""

import asyncio
import contextlib
import os
import platform
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from danqing.frames import Header, frame
from danqing.machine import resident_memory
from danqing.service.engine import worker
from danqing.service.engine.connections import FrameProtocol, FrameSocket
from danqing.service.engine.orders import pack
from tests.service.editors import encoded, noise


class Spoken:
    """A worker, and the other end of its link."""

    def __init__(self, models: dict[str, str]) -> None:
        mine, theirs = socket.socketpair()
        mine.settimeout(60)
        with theirs:
            command = [sys.executable, "-m", "danqing.service.engine.worker", str(theirs.fileno())]
            self.process = subprocess.Popen(command, pass_fds=[theirs.fileno()])
        self.socket, self.link = mine, FrameSocket(mine)
        told = {"models": models, "describe": list(models), "device": "cpu", "threads": 1, "memory": 0}
        told["require_signature"], told["marks"] = [], "none"
        self.link.send(told)
        self.began = self.until("ready")

    def until(self, kind: str) -> list[tuple[Header, memoryview]]:
        """What it says up to the next frame of a kind."""
        said = [self.link.receive()]
        while said[-1][0]["kind"] != kind:
            said.append(self.link.receive())
        return said

    def ask(self, number: int, model: str, rows: list[list[Any]], *blocks: bytes, **settings: Any) -> None:
        message = {"kind": "paint", "batch": number, "model": model, "verb": "sample", "options": {}}
        self.link.send({**message, "rows": rows, "whole": None, "queries": [], **settings}, blocks)


@pytest.fixture(scope="module")
def spoken(models: dict[str, str], slow: str, broken: str) -> Iterator[Spoken]:
    speaks = Spoken({"gan": models["gan"], "raster": models["raster"], "slow": slow, "broken": broken})
    yield speaks
    speaks.process.kill()
    speaks.process.wait()


def row(order: int, seed: int = 0, previews: int = 0, label: str | None = None) -> list[Any]:
    return [order, seed, label, None, None, previews]


def test_models_are_described_without_being_loaded(spoken: Spoken) -> None:
    offers = {header["name"]: header for header, _ in spoken.began if header["kind"] == "offer"}
    raster = offers["raster"]
    assert (raster["width"], raster["height"], raster["channels"], raster["tokens"]) == (8, 8, 3, 16)
    assert raster["reads"] == "label"
    assert raster["labels"] == ["circle", "red square", "star"]
    assert set(raster["options"]) == {"sample", "fill", "vary"}
    assert raster["steps"]
    assert raster["options"]["vary"] == {"strength": 0.5, **raster["options"]["sample"]}
    assert raster["options"]["fill"]["temperature"] == 1.0
    assert "# Transformer for" in raster["card"]
    assert offers["gan"]["reads"] == "none"
    assert not offers["gan"]["steps"]
    assert "none" in offers["broken"]["fault"]
    assert not any(header["kind"] == "loaded" for header, _ in spoken.began)


def test_each_chunk_is_answered_when_it_is_painted(spoken: Spoken) -> None:
    spoken.ask(1, "gan", [row(1, seed) for seed in range(20)])
    loading, *_, (first, pixels) = spoken.until("painted")
    ((second, _),) = spoken.until("painted")
    assert loading[0] == {"kind": "loading", "model": "gan"}
    assert [(told["start"], told["count"]) for told in (first, second)] == [(0, 16), (16, 4)]
    assert np.frombuffer(pixels, np.uint8).reshape(first["shape"]).shape == (16, 8, 8, 3)


def test_a_batch_that_nobody_waits_for_is_stopped_and_the_next_is_painted(spoken: Spoken) -> None:
    spoken.ask(2, "slow", [row(7), *(row(8) for _ in range(639))])
    spoken.ask(3, "slow", [row(8)])
    spoken.until("step")
    os.kill(spoken.process.pid, signal.SIGSTOP)  # in the midst of it, however fast it is
    for order in (7, 8):
        spoken.link.send({"kind": "cancel", "orders": [order]})
    spoken.ask(4, "slow", [row(9)])
    os.kill(spoken.process.pid, signal.SIGCONT)
    answers = dict[int, list[str]]()
    while answers.get(4, [""])[-1] != "painted":
        header, _ = spoken.link.receive()
        if header["kind"] in ("painted", "stopped"):
            answers.setdefault(header["batch"], []).append(header["kind"])
    painted = answers[2].count("painted")
    assert painted < 20
    assert answers[2][painted:] == ["stopped"] * (20 - painted)
    assert answers[3] == ["stopped"]


def test_an_edit_of_a_whole_picture_shows_that_it_goes_on_and_can_be_stopped(spoken: Spoken) -> None:
    picture, mask = encoded(noise(8, 2000, 3)), pack(np.ones((8, 2000), bool))
    told: dict[str, Any] = {"verb": "fill", "whole": [len(picture), [2000, 8], False, True, [0, 0, 0, 0], 0]}
    spoken.ask(30, "raster", [row(30, label="star")], picture, mask, **told)
    spoken.until("alive")
    spoken.link.send({"kind": "cancel", "orders": [30]})
    damaged = picture[:-60] + bytes(60)
    spoken.ask(31, "raster", [row(31, label="star")], damaged, mask, **told)
    said = [header for header, _ in spoken.until("failed") if header["kind"] != "alive"]
    assert [(one["kind"], one["batch"]) for one in said] == [("stopped", 30), ("failed", 31)]
    assert said[1]["error"] == "image"


def test_who_leaves_when_all_is_painted_is_not_remembered(spoken: Spoken) -> None:
    spoken.ask(20, "gan", [row(20)])
    spoken.until("painted")
    spoken.link.send({"kind": "cancel", "orders": [20, 21]})
    for number in (20, 21):
        spoken.ask(number, "gan", [row(number)])
        header, _ = spoken.link.receive()
        assert (header["kind"], header["batch"]) == ("painted", number)


def test_previews_are_spread_over_the_steps(spoken: Spoken) -> None:
    spoken.ask(5, "raster", [row(1, previews=3), row(2, previews=1)])
    said = spoken.until("painted")
    due = [header["due"] for header, _ in said if header["kind"] == "preview"]
    assert due == [[[3, 0]], [[1, 0], [3, 1]], [[3, 2]]] or due == [[[3, 0]], [[3, 1], [1, 0]], [[3, 2]]]


def test_what_cannot_be_painted_is_told_and_the_worker_goes_on(spoken: Spoken) -> None:
    spoken.ask(6, "raster", [row(1, label="moon")])
    spoken.ask(7, "broken", [row(1)])
    spoken.ask(8, "raster", [row(1)], verb="fill")  # without pictures
    spoken.ask(9, "gan", [row(1)])
    told = [spoken.until("failed")[-1][0] for _ in range(3)]
    assert [(header["batch"], header["error"]) for header in told] == [
        (6, "order"),
        (7, "model"),
        (8, "painting"),
    ]
    assert "moon" in told[0]["message"]
    assert spoken.until("painted")[-1][0]["batch"] == 9


def test_a_worker_outlives_signals_to_the_group_and_ends_with_its_link(spoken: Spoken) -> None:
    for ending in (signal.SIGINT, signal.SIGTERM):
        os.kill(spoken.process.pid, ending)
    spoken.ask(10, "gan", [row(1)])
    assert spoken.until("painted")
    spoken.socket.close()
    assert spoken.process.wait(30) == 0


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another heap")
def test_a_worker_that_rests_gives_back_what_lies_free_between_what_stays(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(worker, "IDLE_SECONDS", 0.05)
    tensors = [torch.ones(8_000) for _ in range(3_000)]  # of 32 kB: the heap has a place for each
    stays = tensors[::50]
    del tensors
    before = resident_memory()
    mine, theirs = socket.socketpair()

    def run() -> None:
        with contextlib.suppress(EOFError, ConnectionResetError):
            worker.Worker(
                FrameSocket(theirs),
                {
                    "models": {},
                    "describe": [],
                    "device": "cpu",
                    "threads": 0,
                    "memory": 0,
                    "require_signature": [],
                    "marks": "none",
                },
            ).run()

    resting = threading.Thread(target=run)
    resting.start()
    deadline = time.monotonic() + 60
    while before - resident_memory() < 60e6 and time.monotonic() < deadline:
        time.sleep(0.01)
    mine.close()
    resting.join()
    theirs.close()
    assert before - resident_memory() >= 60e6, "of 96 MB"
    assert len(stays) == 60


FRAMES = st.lists(
    st.tuples(st.dictionaries(st.text(), st.integers()), st.lists(st.binary(max_size=99))), max_size=8
)


@given(FRAMES, st.integers(1, 200))
def test_frames_arrive_as_they_were_sent_however_they_are_cut(
    frames: list[tuple[dict[str, int], list[bytes]]], size: int
) -> None:
    sent = b"".join(bytes(part) for header, blocks in frames for part in frame(header, blocks))
    read: list[tuple[Header, bytes]] = []

    async def receive() -> None:
        connection = FrameProtocol(lambda header, block: read.append((header, bytes(block))))
        for start in range(0, len(sent), size):
            piece = sent[start : start + size]
            while piece:
                room = connection.get_buffer(-1)
                count = min(len(room), len(piece))
                room[:count] = piece[:count]
                connection.buffer_updated(count)
                piece = piece[count:]

    asyncio.run(receive())
    assert read == [(header, b"".join(blocks)) for header, blocks in frames]


def test_a_link_sends_more_than_fits_at_once() -> None:
    one, other = socket.socketpair()
    blocks = [os.urandom(3_000_000), b"", os.urandom(5)]
    sender = threading.Thread(target=FrameSocket(one).send, args=({"kind": "much"}, blocks))
    sender.start()
    header, block = FrameSocket(other).receive()
    sender.join()
    assert header == {"kind": "much"}
    assert bytes(block) == b"".join(blocks)
