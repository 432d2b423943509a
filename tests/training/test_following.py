"""A process that cannot write its part of a checkpoint says so at once, to all."""

import os
import time
from pathlib import Path

import pytest
import torch

from danqing.cluster.place import Place
from danqing.cluster.world import joined
from danqing.errors import TrainingError
from danqing.training import checkpoint
from danqing.training.following import Lead, _Follower
from danqing.training.run_data import open_data
from tests import forked


def write_together(place: Place, folder: Path) -> None:
    """Write a checkpoint as one of two processes, and note what this process hears of it, and when."""
    os.environ["DANQING_MEETING"] = (folder / "meeting").as_uri()
    with joined(place) as here:
        writer = checkpoint.Writer(folder / "checkpoints", here.rank, here.size)
        writer.begin(64, {"a": torch.arange(8.0)}, {})
        began, heard = time.monotonic(), ""
        try:
            if here.rank == 0:
                Lead().written()
            else:
                follower = _Follower(here, torch.device("cpu"), open_data)
                follower._writer = writer
                assert here.agreed() == {"order": "written"}
                follower.written()
        except TrainingError as error:
            heard = str(error)
        seconds = time.monotonic() - began
        writer.stop()
    (folder / f"{place.rank}.txt").write_text(f"{seconds}\n{heard}")


@pytest.mark.slow
def test_a_part_that_cannot_be_written_is_reported_by_all_processes_at_once(tmp_path: Path) -> None:
    (tmp_path / "checkpoints" / ".images-000000000064.tmp" / "rank-1-of-2.safetensors").mkdir(parents=True)
    ranks = [forked.call(write_together, Place(rank, 2, rank, 2), tmp_path) for rank in range(2)]
    for rank in ranks:
        rank.join()
    assert [rank.exitcode for rank in ranks] == [0, 0]
    for number in range(2):
        seconds, _, heard = (tmp_path / f"{number}.txt").read_text().partition("\n")
        assert "cannot be written to" in heard
        assert float(seconds) < 30
    assert checkpoint.read_latest(tmp_path / "checkpoints") is None
