"""Images in a temporary file until enough are there to be sorted by their digests and written as shards."""

from collections.abc import Iterable, Iterator
from typing import BinaryIO, NamedTuple

from danqing.data.shards.shard_file import Entry, digest_of
from danqing.data.shards.table import SPLITS


class Row(NamedTuple):
    """An image in the file of a group.

    entry: what it says besides contents. start, content, partner: its first byte, and the lengths.
    """

    digest: bytes
    split: str
    entry: Entry
    start: int
    content: int
    partner: int


class Group:
    """Images that become shards together.

    They are in a temporary file until they are sorted by their digests.
    """

    def __init__(self, spool: BinaryIO) -> None:
        self._spool, self.bytes = spool, 0
        self.rows = list[Row]()

    def add(self, split: str, entry: Entry) -> None:
        """Write an image of a split into the file."""
        content = entry.content + entry.partner
        bare = entry._replace(content=b"", partner=b"")
        row = Row(digest_of(content), split, bare, self.bytes, len(entry.content), len(entry.partner))
        self._spool.write(content)
        self.bytes += len(content)
        self.rows.append(row)

    def targets(self) -> list[str]:
        """Return the splits of the images, in the order of `SPLITS`."""
        there = {row.split for row in self.rows}
        return [split for split in SPLITS if split in there]

    def shards(self, split: str, size: int) -> Iterator[list[Row]]:
        """Yield the images of each shard: equal parts of about `size` bytes."""
        rows = sorted((row for row in self.rows if row.split == split), key=lambda row: row.digest)
        total = sum(row.content + row.partner for row in rows)
        parts = -(-total // size)
        shard, done, number = list[Row](), 0, 1
        for row in rows:
            shard.append(row)
            done += row.content + row.partner
            if done * parts >= total * number:
                yield shard
                shard, number = [], done * parts // total + 1

    def entries(self, rows: Iterable[Row]) -> Iterator[tuple[bytes, Entry]]:
        """Yield the digests and images of rows, with their contents."""
        for row in rows:
            self._spool.seek(row.start)
            content, partner = self._spool.read(row.content), self._spool.read(row.partner)
            yield row.digest, row.entry._replace(content=content, partner=partner)
