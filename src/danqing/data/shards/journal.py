"""The journal of a pass: what it has written so far, in a file that outlives the process."""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from danqing import atomic
from danqing.data.shards.shard_file import Written
from danqing.data.tally import Tally
from danqing.errors import DataError


@dataclass
class Progress:
    """What the journal says is written.

    shards: by split. records: how many of each split of the source are done. tallies: of these.
    """

    shards: dict[str, list[Written]] = field(default_factory=dict)
    records: dict[str, int] = field(default_factory=dict)
    tallies: dict[str, Tally] = field(default_factory=dict)
    left_out: dict[str, dict[str, int]] = field(default_factory=dict)
    abouts: dict[str, dict[str, Any]] = field(default_factory=dict)
    encoder: Mapping[str, Any] | None = None

    def add(self, line: Mapping[str, Any]) -> None:
        """Add what a line says."""
        source = line["source"]
        self.records[source] = self.records.get(source, 0) + line["tally"]["records"]
        self.tallies.setdefault(source, Tally()).add(line["tally"])
        add_counts(self.left_out.setdefault(source, {}), line["left_out"])
        for split, (shards, labels, unlabelled, has_texts, pairs) in line["written"].items():
            self.shards.setdefault(split, []).extend(
                Written(images, length, index, bytes.fromhex(code)) for images, length, index, code in shards
            )
            empty = {"labels": {}, "unlabelled": 0, "has_texts": False, "pairs": False}
            about = self.abouts.setdefault(split, empty)
            add_counts(about["labels"], labels)
            about["unlabelled"] += unlabelled
            about["has_texts"] |= has_texts
            about["pairs"] |= pairs
        self.encoder = line.get("encoder")


def resume(path: Path, key: str, place: str) -> Progress | None:
    """Return what an earlier call has written; None if there was none.

    path: of the journal. key: of the images and options. place: of the shards, for people.
    Raises DataError if the journal is of other images or options. A last line that is cut short is removed.
    """
    lines = path.read_bytes().split(b"\n")[:-1] if path.exists() else []
    progress, intact = Progress(), 0
    for number, line in enumerate(lines):
        try:
            read = json.loads(line)
            if number:
                progress.add(read)
        except (ValueError, KeyError, TypeError):
            break
        if not number and read != {"key": key}:
            raise DataError(
                f"{place} holds shards of other images or options: choose another folder, or delete it and "
                f"{path}."
            )
        intact += len(line) + 1
    if not intact:
        return None
    os.truncate(path, intact)
    return progress


def begin(path: Path, key: str) -> Progress:
    """Start a journal."""
    atomic.write_bytes(path, json.dumps({"key": key}).encode() + b"\n")
    return Progress()


def add_counts(counts: dict[str, int], more: Mapping[str, int]) -> None:
    """Add counts by name."""
    for name, number in more.items():
        counts[name] = counts.get(name, 0) + number
