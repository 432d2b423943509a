"""The files of one data set: images under names of our own, and tables that `danqing.data` reads."""

import contextlib
import json
import re
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

from danqing import atomic
from danqing.data.clean_list import CleanRow, write_clean_list
from danqing.text_encoding import lines_of

Choice = Literal["keep", "drop"]

_NAME = re.compile(r"[0-9]{6,}\.(?:png|jpg|webp)", re.ASCII)
"""The names of files that `SetFolder.add` writes."""


class NewImage(NamedTuple):
    """An image to be added.

    source: its path where it came from, for people. ending: of its file, such as ".png".
    """

    source: str
    content: bytes
    ending: str
    label: str = ""
    text: str = ""


@dataclass(frozen=True, slots=True)
class Entry:
    """An image of a data set.

    name: of its file. finding: what is unusual about it, "" for nothing.
    suggested: a label that fits better. like: the image that it repeats.
    chosen: what its owner has decided; proposed: what `danqing data clean` would do.
    """

    name: str
    source: str
    label: str = ""
    text: str = ""
    finding: str = ""
    suggested: str = ""
    like: str = ""
    chosen: Choice | None = None
    proposed: Choice = "keep"

    @property
    def decision(self) -> Choice:
        """Return whether it is trained on."""
        return self.chosen or self.proposed


class Change(NamedTuple):
    """What is changed about an image.

    None leaves a value as it is.
    """

    name: str
    label: str | None = None
    text: str | None = None
    decision: Choice | None = None


class SetFolder:
    """The folder of a data set."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.images = path / "images"
        self.cache = path / "cache"
        self.findings_file = path / "findings.json"
        self.page = path / "clean.html"
        self._table = self.images / "metadata.jsonl"
        self._choices = path / "choices.json"

    def create(self) -> None:
        """Create the folder."""
        self.images.mkdir(0o700, parents=True, exist_ok=True)

    def delete(self) -> None:
        """Delete the folder with everything in it."""
        shutil.rmtree(self.path, ignore_errors=True)

    def add(self, new: Sequence[NewImage]) -> list[str]:
        """Add images; return the names of their files.

        Names are numbers, so that no path of a client ever becomes one of this machine. What was found before
        no longer describes the whole set, and is dropped.
        """
        rows = self._rows()
        first = 1 + max((int(row["file_name"].partition(".")[0]) for row in rows), default=0)
        names = [f"{number:06d}{one.ending}" for number, one in enumerate(new, first)]
        try:
            for name, one in zip(names, new, strict=True):
                (self.images / name).write_bytes(one.content)
                rows.append({"file_name": name, "source": one.source, "label": one.label, "text": one.text})
            self._write(rows)
        except OSError:  # such as a full disk: no image is left without its row
            for name in names:
                with contextlib.suppress(OSError):
                    (self.images / name).unlink()
            raise
        self.findings_file.unlink(missing_ok=True)
        return names

    def entries(self) -> list[Entry]:
        """Return all images in the order in which they were added."""
        choices, found = _json(self._choices), self.findings().get("rows", [])
        by_name = {row["name"]: row for row in found}
        return [
            _entry(row, choices.get(row["file_name"]), by_name.get(row["file_name"], {}))
            for row in self._rows()
        ]

    def findings(self) -> dict[str, Any]:
        """Return what `check` has found; empty before."""
        return _json(self.findings_file)

    def change(self, changes: Iterable[Change]) -> list[str]:
        """Change labels, captions and decisions.

        Returns the names that the set does not have; then nothing is changed.
        """
        rows, choices = self._rows(), _json(self._choices)
        by_name, unknown = {row["file_name"]: row for row in rows}, list[str]()
        for one in changes:
            if (row := by_name.get(one.name)) is None:
                unknown.append(one.name)
                continue
            row["label"] = row.get("label", "") if one.label is None else one.label
            row["text"] = row.get("text", "") if one.text is None else one.text
            if one.decision is not None:
                choices[one.name] = one.decision
        if not unknown:
            self._write(rows)
            atomic.write_json(self._choices, choices)
        return unknown

    def usage(self) -> tuple[int, int]:
        """Return how many images there are, and their bytes."""
        names = [row["file_name"] for row in self._rows()]
        return len(names), sum((self.images / name).stat().st_size for name in names)

    def image(self, name: str) -> Path | None:
        """Return the file of an image.

        None for a name that the set does not have.
        """
        path = self.images / name
        return path if _NAME.fullmatch(name) and path.is_file() else None

    def copy_to(self, folder: Path) -> Path | None:
        """Copy images and table into a folder, for a run.

        Later changes do not reach it.

        Return the clean list of what is dropped; None if nothing is. Files are linked where that is possible.
        """
        target = folder / "images"
        target.mkdir(0o700, parents=True)
        for row in self._rows():
            _link(self.images / row["file_name"], target / row["file_name"])
        shutil.copyfile(self._table, target / self._table.name)
        dropped = [one for one in self.entries() if one.decision == "drop"]
        if not dropped:
            return None
        path = folder / "clean.csv"
        write_clean_list(
            path, [CleanRow("drop", "train", one.name, one.finding, one.label) for one in dropped]
        )
        return path

    def _rows(self) -> list[dict[str, str]]:
        try:
            lines = lines_of(self._table.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return []
        return [{"label": "", "text": "", **json.loads(line)} for line in lines]

    def _write(self, rows: Iterable[Mapping[str, str]]) -> None:
        """Write the table; a value that no image has gets no column."""
        kept = [{key: value for key, value in row.items() if value} for row in rows]
        lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in kept]
        atomic.write_text(self._table, "".join(lines))


def _entry(row: Mapping[str, str], chosen: Choice | None, found: Mapping[str, str]) -> Entry:
    entry = Entry(row["file_name"], row.get("source", ""), row["label"], row["text"], chosen=chosen)
    if not found:
        return entry
    return replace(
        entry,
        finding=found["findings"],
        suggested=found["suggested"],
        like=found["like"],
        proposed="drop" if found["decision"] == "drop" else "keep",
    )


def _json(path: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return {}


def _link(source: Path, target: Path) -> None:
    try:
        target.hardlink_to(source)
    except OSError:  # another file system, or one without links
        shutil.copyfile(source, target)
