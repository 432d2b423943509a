"""The file of a graph of neighbours, checked before native code follows what it says.

usearch reads places from the file and goes there, so a wrong one would read memory that is not its own. The
format, version 2, is in github.com/unum-cloud/usearch, `index_dense.hpp` and `index.hpp`: the vectors; a
head; the number of nodes, how many links they have, the highest level and the node to begin at; the level of
each node; and for each node its key, its level, and its links on each level, from 0 to its own.
"""

import struct
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

_MATRIX, _HEAD, _GRAPH = struct.Struct("<II"), struct.Struct("<7sHHHBBBBQQQB"), struct.Struct("<QQQQQ")
_HEAD_BYTES, _NODE_BYTES, _LINK_BYTES = 64, 10, 4
_KINDS = (105, 4, 14, 15)
"""Inner products of bfloat16, with keys of 64 bits and places of 32."""
_AT_ONCE = 16384
Bytes = NDArray[np.uint8]


def check(content: bytes, dimensions: int, covers: int, neighbours: int) -> None:
    """Check that a file links what it holds.

    dimensions: of a vector. covers: a serial above those in it. neighbours: links of a node above level 0; on
        level 0 it has twice as many.
    Raises ValueError for anything that would not be safe to follow.
    """
    try:
        rows, row_bytes = _MATRIX.unpack_from(content, 0)
        if row_bytes != 2 * dimensions or rows * row_bytes > len(content):
            raise ValueError("it holds vectors of other dimensions")
        place = _MATRIX.size + rows * row_bytes
        magic, major, _, _, *kinds, present, deleted, width, _ = _HEAD.unpack_from(content, place)
        size, links, base_links, top, entry = _GRAPH.unpack_from(content, place + _HEAD_BYTES)
        place += _HEAD_BYTES + _GRAPH.size
        levels = np.frombuffer(content, "<i2", rows, place).astype(np.int64)
    except struct.error as error:
        raise ValueError("it ends too early") from error
    if magic != b"usearch" or major != 2 or tuple(kinds) != _KINDS:
        raise ValueError("it is of another kind or version")
    if (width, links, base_links) != (dimensions, neighbours, 2 * neighbours):
        raise ValueError("it links vectors of other dimensions, or in another way")
    if not rows or {present, size} != {rows} or deleted:
        raise ValueError("it does not say how many vectors it links")
    if levels.min() < 0 or levels.max() != top or entry >= rows or levels[entry] != top:
        raise ValueError("its levels do not fit each other")
    lists = _NODE_BYTES + _LINK_BYTES * (1 + base_links)
    sizes = lists + levels * _LINK_BYTES * (1 + links)
    starts = place + 2 * rows + np.cumsum(sizes) - sizes
    if starts[-1] + sizes[-1] != len(content):
        raise ValueError("it is longer or shorter than it says")
    _check_nodes(np.frombuffer(content, np.uint8), starts, levels, covers)
    _check_links(content, starts + _NODE_BYTES, base_links, levels, 0)
    for level in range(1, top + 1):
        begins = starts[levels >= level] + lists + (level - 1) * _LINK_BYTES * (1 + links)
        _check_links(content, begins, links, levels, level)


def _check_nodes(content: Bytes, starts: NDArray[np.int64], levels: NDArray[np.int64], covers: int) -> None:
    """Check the keys and the levels of nodes."""
    keys = np.concatenate([part.view("<u8")[:, 0] for part in _pieces(content, starts, 8)])
    own = np.concatenate([part.view("<i2")[:, 0] for part in _pieces(content, starts + 8, 2)])
    if keys.max() >= covers or len(np.unique(keys)) < len(keys) or not np.array_equal(own, levels):
        raise ValueError("its nodes are not those that it lists")


def _check_links(
    content: bytes, begins: NDArray[np.int64], most: int, levels: NDArray[np.int64], level: int
) -> None:
    """Check lists of links: each leads to a node that is on their level, too."""
    for part in _pieces(np.frombuffer(content, np.uint8), begins, _LINK_BYTES * (1 + most)):
        numbers = part.view("<u4").astype(np.int64)
        counts, targets = numbers[:, :1], numbers[:, 1:]
        used = np.arange(most) < counts
        if (
            counts.max() > most
            or (targets[used] >= len(levels)).any()
            or (levels[targets[used]] < level).any()
        ):
            raise ValueError("a link leads nowhere")


def _pieces(content: Bytes, begins: NDArray[np.int64], length: int) -> Iterator[Bytes]:
    """Yield pieces of one length from several places, `[at most 16,384, length]`."""
    for first in range(0, len(begins), _AT_ONCE):
        places = begins[first : first + _AT_ONCE, None] + np.arange(length)
        yield np.ascontiguousarray(content[places])
