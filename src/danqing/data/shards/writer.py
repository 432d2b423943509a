"""Writing shards: a resumable pass over the records of any source, which may itself be shards."""

import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import filelock

from danqing import atomic, threads
from danqing.data.cache import default_folder
from danqing.data.consent import count
from danqing.data.layout import NOTHING_DECLARED, Declared
from danqing.data.records import ImageSpec, Record, Source, digest
from danqing.data.shards import table as tables
from danqing.data.shards.captions import read_captions
from danqing.data.shards.journal import Progress, add_counts, begin, resume
from danqing.data.shards.passes import KEEP_ALL, Outcome, Pass, find_sources, read_record
from danqing.data.shards.reader import Reader, has_shards
from danqing.data.shards.shard_file import Entry, digest_of, write_shard
from danqing.data.shards.spool import Group
from danqing.data.shards.stores import Store, open_store
from danqing.data.shards.table import SPLITS, About, Codes, SplitAbout, shard_name, write_table
from danqing.data.tally import Tally, count_header, printable
from danqing.errors import ConfigError, DataError
from danqing.progress import ProgressCallback

SIZE = 256 * 2**20
"""The bytes of a shard, about."""
GROUP = 16
"""Shards that are written together, with the images shuffled among them."""
_GROUP_IMAGES = 2**19
_WRITING = ".writing-"
_CHUNK = 64
HELD_OUT, _MOST_HELD_OUT = 0.05, 10_000
"""Images that stay files where the others become codes, if the data has no validation split."""


class Encoder(Protocol):
    """Turns image files into codes."""

    codes: Codes

    def encode(self, files: list[bytes]) -> list[bytes | str]:
        """Return the codes of each file, or why it cannot be decoded."""
        ...

    def finished(self) -> Codes:
        """Return what the codes are, with the statistics of all of them."""
        ...

    def state(self) -> dict[str, Any]:
        """Return the statistics so far, for the journal."""
        ...

    def restore(self, state: Mapping[str, Any]) -> None:
        """Restore what `state` returned."""
        ...


class Shards(NamedTuple):
    """What was written.

    place: the folder or URL. images: of each split. bytes: of all shards. digest: of the table. reports: the
    account of each split.
    """

    place: str
    shards: int
    images: Mapping[str, int]
    bytes: int
    digest: str
    reports: Mapping[str, Any]


def write_shards(
    data: str | Path,
    out: str | Path,
    *,
    size: int = SIZE,
    declared: Declared = NOTHING_DECLARED,
    changes: Pass = KEEP_ALL,
    encoder: Encoder | None = None,
    on_progress: ProgressCallback | None = None,
) -> Shards:
    """Write all splits of a source as shards.

    The same call continues where it was killed.

    out: a folder or a URL of fsspec. size: the bytes of a shard, about. encoder: makes codes of the training
    images. The same images and options give the same bytes.
    Raises DataError and ConfigError.
    """
    if not 2**10 <= size <= 2**34:
        raise ConfigError(f"Shards of {size} bytes are not possible: give a size of 1 KiB to 16 GiB.")
    if declared.masks or declared.boxes or declared.label_sets:
        raise ConfigError("Shards hold no masks, boxes or label sets: leave these out.")
    store = open_store(out)
    local = store.local(tables.NAME)
    work = local.parent if local is not None else default_folder() / "shards" / digest(store.place)[:32]
    try:
        work.mkdir(parents=True, exist_ok=True)
        with filelock.FileLock(work / ".shards.lock"):
            return _Writer(data, store, work, size, declared, changes, encoder, on_progress).run()
    except OSError as error:
        raise DataError(
            f"{error.filename or work} cannot be written or read ({error.strerror or error}): repair that, "
            "and run the same command again to continue."
        ) from error


class _Writer:
    """One pass; `work` holds its journal."""

    def __init__(
        self,
        data: str | Path,
        store: Store,
        work: Path,
        size: int,
        declared: Declared,
        changes: Pass,
        encoder: Encoder | None,
        on_progress: ProgressCallback | None,
    ) -> None:
        self.store, self.work, self.size, self.changes, self.encoder = store, work, size, changes, encoder
        self.on_progress = on_progress or (lambda done, total, message: None)
        self.captions = read_captions(changes.captions) if changes.captions else {}
        if has_shards(data) and not declared.attributes:  # a pass over shards keeps what they hold
            declared = declared._replace(attributes=Reader(data).table.about.attributes)
        self.sources = find_sources(data, declared, changes.clean, on_progress)
        self.declared = declared
        asked = [size, changes, declared, encoder and encoder.codes.model_dump(mode="json"), self.captions]
        self.key = digest(json.dumps(asked), *(source.key() for _, source, _ in self.sources))
        self.journal = work / ".shards.jsonl"

    def run(self) -> Shards:
        progress = self._resume()
        if self.encoder is not None and progress.encoder is not None:
            self.encoder.restore(progress.encoder)
        with open(self.journal, "ab") as journal:
            for split, source, part in self.sources:
                for line in self._groups(progress, split, source, part):
                    journal.write(json.dumps(line).encode() + b"\n")
                    journal.flush()
                    os.fsync(journal.fileno())
                    progress.add(line)
        return self._finish(progress)

    def _resume(self) -> Progress:
        """Return what an earlier call has written; raise DataError if it wrote something else."""
        for leftover in self.work.glob(f"{_WRITING}*"):  # of processes that were killed
            shutil.rmtree(leftover, ignore_errors=True)
        atomic.remove_leftovers(self.work)
        if (progress := resume(self.journal, self.key, self.store.place)) is not None:
            return progress
        local = self.store.local(tables.NAME)
        if local is not None and local.exists():
            raise DataError(f"{self.store.place} holds shards already: choose another folder.")
        return begin(self.journal, self.key)

    def _groups(
        self, progress: Progress, split: str, source: Source, part: tuple[str, ...]
    ) -> Iterator[dict[str, Any]]:
        """Write the shards of a split, and yield a line for the journal after each group."""
        total = source.count()
        done, last = progress.records.get(split, 0), False
        held = 0.0
        if self.encoder is not None and split == "train" and len(self.sources) < 2:
            held = min(HELD_OUT, _MOST_HELD_OUT / max(1, total))
        outcomes = self._chunks(source, part, done)
        while not last and done < total:
            with ExitStack() as stack:
                group = Group(stack.enter_context(tempfile.TemporaryFile(dir=self.work)))
                entry: dict[str, Any] = {
                    **{"records": 0, "images": 0, "formats": {}, "consent": {}},
                    **{name: [] for name in ("skipped", "sizes", "reserved")},
                }
                left_out: dict[str, int] = {}
                last = True
                for chunk in outcomes:
                    self._take(chunk, split, held, group, entry, left_out)
                    done += len(chunk)
                    self.on_progress(done, max(done, total), f"Writing shards ({split})")
                    if group.bytes >= GROUP * self.size or len(group.rows) >= _GROUP_IMAGES:
                        last = False
                        break
                if not entry["records"]:
                    break
                written = {
                    target: self._write(target, len(progress.shards.get(target, ())), group)
                    for target in group.targets()
                }
                line = {"source": split, "tally": entry, "left_out": left_out, "written": written}
                yield line | ({"encoder": self.encoder.state()} if self.encoder else {})

    def _chunks(self, source: Source, part: tuple[str, ...], start: int) -> Iterator[list[Outcome]]:
        """Yield the records of a source, read, always in the same chunks."""
        records = source.records(ImageSpec(), start)

        def read(record: Record) -> Outcome:
            return read_record(record, part, self.changes, self.captions)

        with ThreadPoolExecutor(threads.cores(), thread_name_prefix="danqing-shards") as pool:
            while chunk := list(islice(records, _CHUNK)):
                yield list(
                    pool.map(lambda record: read_record(record, part, self.changes, self.captions), chunk)
                )

    def _take(
        self,
        chunk: list[Outcome],
        split: str,
        held: float,
        group: Group,
        entry: dict[str, Any],
        left_out: dict[str, int],
    ) -> None:
        """Add the images of a chunk to a group, and count all of its records."""
        entry["records"] += len(chunk)
        ignored = self.changes.ignore_reservations
        wanted = list[tuple[Outcome, Entry]]()
        for outcome in chunk:
            is_used = outcome.entry is not None and (ignored or not outcome.terms.is_reserved)
            count(entry["consent"], outcome.terms, used=is_used)
            if outcome.is_left_out:
                add_counts(left_out, {outcome.reason: 1})
            elif outcome.entry is None:
                entry["skipped"].append([outcome.name, outcome.reason])
            elif not is_used:
                entry["reserved"].append(outcome.name)
            else:
                wanted.append((outcome, outcome.entry))
        files = [one for one in wanted if not _is_held(one[1], held)] if self.encoder else []
        codes: dict[int, bytes | str] = {}
        if self.encoder is not None and split == "train" and files:
            made = self.encoder.encode([one.content for _, one in files])
            codes = {id(one): code for (_, one), code in zip(files, made, strict=True)}
        for outcome, one in wanted:
            code = codes.get(id(one))
            if isinstance(code, str):
                entry["skipped"].append([outcome.name, code])
                continue
            count_header(entry, *outcome.header)
            entry["images"] += 1
            is_held = bool(held) and code is None
            group.add("validation" if is_held else split, one if code is None else one._replace(content=code))

    def _write(self, split: str, first: int, group: Group) -> list[Any]:
        """Write the shards of a group, and return what the journal says of them."""
        written = []
        for number, rows in enumerate(group.shards(split, self.size), first):
            name = shard_name(split, number)
            place = self.store.local(name)
            with tempfile.TemporaryDirectory(dir=self.work, prefix=_WRITING) as folder:
                path = place or Path(folder) / name
                with atomic.replacing(path) as file:
                    one = write_shard(file, group.entries(rows))
                if place is None:
                    self.store.write(name, path)
            written.append([one.images, one.size, one.index_bytes, one.digest.hex()])
        labels, unlabelled = dict[str, int](), 0
        texts = pairs = False
        for row in group.rows:
            if row.split == split:
                texts |= bool(row.entry.text)
                pairs |= row.partner > 0
                unlabelled += row.entry.label is None
                if row.entry.label is not None:
                    add_counts(labels, {row.entry.label: 1})
        return [written, labels, unlabelled, texts, pairs]

    def _finish(self, progress: Progress) -> Shards:
        """Write the table, which makes the shards complete."""
        shards = [(split, one) for split in SPLITS for one in progress.shards.get(split, ())]
        if not shards:
            reasons = sorted({reason for tally in progress.tallies.values() for reason in tally.reasons})
            raise DataError(f"No image can be written: {'; '.join(reasons) or 'there are none'}.")
        reports = {}
        for split, source, _ in self.sources:
            survey = source.survey()
            for reason, number in progress.left_out.get(split, {}).items():
                survey.left_out[reason] += number
            tally = progress.tallies.get(split, Tally())
            tally.records -= sum(progress.left_out.get(split, {}).values())
            reports[split] = tally.report(survey, ignored=self.changes.ignore_reservations)
        pairs = [about.pop("pairs") for about in progress.abouts.values()]
        splits = {
            split: SplitAbout(**about, report=reports.get(split, next(iter(reports.values()))))
            for split, about in progress.abouts.items()
        }
        first = self.sources[0][1]
        about = About(
            name=printable(first.about.name) or "",
            licence=first.about.licence,
            citation=first.about.citation,
            augment=first.about.augment,
            label_names=first.label_names,
            attributes=self.declared.attributes,
            pairs=any(pairs),
            codes=self.encoder.finished() if self.encoder else None,
            splits=splits,
        )
        content = write_table(shards, about)
        with tempfile.TemporaryDirectory(dir=self.work, prefix=_WRITING) as folder:
            path = Path(folder) / tables.NAME
            path.write_bytes(content)
            self.store.write(tables.NAME, path)
        read = tables.read_table(content, self.store.place)
        return Shards(
            place=self.store.place,
            shards=len(shards),
            images={split: int(read.images[read.shards_of(split)].sum()) for split in splits},
            bytes=int(read.sizes.sum()),
            digest=read.digest,
            reports=reports,
        )


def _is_held(entry: Entry, fraction: float) -> bool:
    """Return whether an image is among a fraction of all, by the digest of its file."""
    return int.from_bytes(digest_of(entry.content + entry.partner)[:8], "big") < fraction * 2**64
