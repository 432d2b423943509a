"""Shards and tables whose bytes may be anything: a DataError, never a crash, and never a number too many."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.numpy import load, save

from danqing.data.shards import table as tables
from danqing.data.shards.shard_file import _FOOTER, FOOTER_BYTES, MAGIC, read_index
from danqing.data.shards.table import read_table
from danqing.errors import DataError
from tests.data.shards.making import folder_of, shards_of

Tensors = dict[str, np.ndarray]


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("hostile")
    shards_of(folder_of(place / "in", 12), place / "out", size=2**20)
    return place / "out"


def tail_of(path: Path) -> tuple[bytes, int]:
    content = path.read_bytes()
    end, *_ = _FOOTER.unpack(content[-FOOTER_BYTES:])
    return content[end:], len(content)


def changed(name: str, value: Any) -> Callable[[Tensors], None]:
    def change(tensors: Tensors) -> None:
        tensors[name] = value(tensors[name]) if callable(value) else value

    return change


@pytest.mark.parametrize(
    "change",
    [
        changed("lengths", lambda old: -old),
        changed("lengths", lambda old: old + 2**62),
        changed("lengths", lambda old: old.astype(np.int32)),
        changed("lengths", lambda old: old[:-1]),
        changed("lengths", lambda old: old[:, None]),
        changed("partner_lengths", lambda old: old + 1),
        changed("partner_lengths", lambda old: old - 1),
        changed("labels", lambda old: old + 2),
        changed("labels", lambda old: old - 2),
        changed("digests", lambda old: old[:, :8]),
        changed("names_ends", lambda old: old[::-1].copy()),
        changed("names_ends", lambda old: old + 2**40),
        changed("texts_ends", lambda old: old[:-1]),
        changed("label_names", np.zeros(0, np.uint8)),
        changed("attributes_ends", np.full(12, -1, np.int64)),
        lambda tensors: tensors.pop("names"),
        lambda tensors: tensors.update({name: value[:0] for name, value in tensors.items()}),
    ],
)
def test_an_index_with_impossible_numbers_is_rejected(
    shards: Path, change: Callable[[Tensors], None]
) -> None:
    """Even if the digest in the table is that of the hostile index."""
    tail, length = tail_of(shards / "train-000000.dqs")
    tensors = {name: value.copy() for name, value in load(tail[:-FOOTER_BYTES]).items()}
    change(tensors)
    index, end = save(tensors), length - len(tail)
    digest = hashlib.sha256(index).digest()
    hostile = index + _FOOTER.pack(end, len(index), digest, MAGIC)
    with pytest.raises(DataError, match=r"Its index is damaged"):
        read_index(hostile, end + len(hostile), digest)


@given(st.data())
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_other_bytes_are_not_the_shard_that_was_written(shards: Path, data: st.DataObject) -> None:
    tail, length = tail_of(shards / "train-000000.dqs")
    digest = hashlib.sha256(tail[:-FOOTER_BYTES]).digest()
    assert len(read_index(tail, length, digest)) == 12
    place, bit = data.draw(st.integers(0, len(tail) - 1)), data.draw(st.integers(0, 7))
    flipped = bytearray(tail)
    flipped[place] ^= 1 << bit
    cut = tail[data.draw(st.integers(1, len(tail) - 1)) :]
    for hostile in (bytes(flipped), cut, data.draw(st.binary(max_size=200))):
        with pytest.raises(DataError):
            read_index(hostile, length, digest)


@given(st.data())
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_damaged_table_is_a_data_error(shards: Path, data: st.DataObject) -> None:
    content = (shards / tables.NAME).read_bytes()
    name = data.draw(st.sampled_from(["images", "sizes", "index_bytes", "digests", "splits", "about"]))
    tensors = {key: value.copy() for key, value in load(content).items()}
    kind = data.draw(st.integers(0, 6))
    if kind == 0:
        tensors[name] = tensors[name][:0]
    elif kind == 1:
        tensors[name] = tensors[name].astype(np.float32)
    elif kind == 2 and tensors[name].dtype == np.int64:
        tensors[name] = tensors[name] * data.draw(st.sampled_from([-1, 0, 2**40]))
    elif kind == 3:
        tensors[name] = np.zeros((), tensors[name].dtype)
    elif kind == 4:
        tensors["splits"] = tensors["splits"] + 1  # which the rest of the table does not know
    elif kind == 5:
        about = json.loads(tensors["about"].tobytes())
        about["splits"]["train"]["unlabelled"] = 2**64
        tensors["about"] = np.frombuffer(json.dumps(about).encode(), np.uint8)
    else:
        tensors["about"] = np.frombuffer(data.draw(st.binary(max_size=50)), np.uint8)
    for hostile in (save(tensors), content[: data.draw(st.integers(0, len(content) - 1))]):
        with pytest.raises(DataError, match="table of shards"):
            read_table(hostile, "here")
