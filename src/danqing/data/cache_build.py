"""Building a cache: records are decoded, committed in order, and described when all are complete."""

import hashlib
import json
import os
import struct
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from danqing import atomic
from danqing.data.attributes import Attribute, tabulate
from danqing.data.cache_targets import JOURNALLED, NO_TARGETS, TargetBuild, TargetTables
from danqing.data.consent import count
from danqing.data.decode_worker import Decoded
from danqing.data.decoding import Decoder
from danqing.data.manifest import HEADER, VERSION, Manifest
from danqing.data.probe import resolve
from danqing.data.records import (
    DataReport,
    ImageSpec,
    Load,
    Record,
    Source,
    common_reasons,
)
from danqing.data.tally import Tally, count_header, plain_cell, printable
from danqing.errors import DataError
from danqing.image_files.reasons import missing_extras
from danqing.names import natural_order
from danqing.progress import ProgressCallback

_FINGERPRINT = 3
"""Part of every fingerprint; it changes only when the same data gives other images."""
TOLERATED = 0.05
"""The share of unreadable images above which the data is rejected."""
_COMMIT_IMAGES = 2048
_COMMIT_BYTES = 32 * 2**20


class Build:
    """One build of a cache; it continues a build that was killed."""

    def __init__(
        self, source: Source, asked: ImageSpec, cache: Path, on_progress: ProgressCallback | None
    ) -> None:
        self.source, self.asked, self.cache = source, asked, cache
        self.spec, self.notes = resolve(source, asked)
        assert self.spec.size is not None
        self.width, self.height = self.spec.size
        self.buckets = self.spec.chosen_buckets
        first = next(iter(source.records(self.spec)), None)
        self.pairs = first is not None and first.source is not None
        self.targets = TargetBuild(first, cache, self.spec.size)
        if self.buckets and (self.pairs or self.targets.has_boxes or self.targets.has_masks):
            what = "Pairs need" if self.pairs else "Boxes and masks need"
            raise DataError(f"{what} one size for all images: give a size such as 64x64 instead of auto.")
        self.image_bytes = self.spec.bytes_per_image
        self.record_bytes = self.image_bytes * (2 if self.pairs else 1)
        self.images_path = cache / "building.images"
        self.journal_path = cache / "building.jsonl"
        self.total = source.count()
        self.on_progress = on_progress or (lambda done, total, message: None)

    def run(self) -> None:
        tally = self._resume()
        with (
            open(self.images_path, "ab") as images,
            open(self.targets.path, "ab") as masks,
            open(self.journal_path, "ab") as journal,
        ):
            for entry, pixels, of_masks in self._commits(tally.records):
                # Order matters: an entry in the journal promises that its images are on disk.
                for file, block in ((images, pixels), (masks, of_masks)):
                    file.write(block)
                    _sync(file)
                journal.write(json.dumps(entry, ensure_ascii=True).encode() + b"\n")
                _sync(journal)
                tally.add(entry)
                self._check(tally, final=False)
                self.on_progress(tally.records, self.total, "Reading images")
        self._check(tally, final=True)
        self._finish(tally)

    def _resume(self) -> Tally:
        """Return the reliable part of an earlier build, and truncate the rest."""
        tally = Tally()
        atomic.remove_leftovers(self.cache)
        intact = 0
        files = {self.images_path: self.record_bytes, self.targets.path: self.targets.mask_bytes}
        if self.journal_path.exists() and self.images_path.exists():
            with open(self.journal_path, "rb") as journal:
                for line in journal:
                    try:
                        entry = json.loads(line)
                        tally.add(entry)
                    except (ValueError, KeyError, TypeError):
                        break
                    self.targets.resume(entry)
                    intact += len(line)
        if any(HEADER + tally.images * each > _length(path) for path, each in files.items() if each):
            tally, intact = Tally(), 0
            self.targets.clear()
        _cut(self.journal_path, intact)
        for path, each in files.items():
            _cut(path, HEADER + tally.images * each)
        return tally

    def _commits(self, start: int) -> Iterator[tuple[dict[str, Any], bytes, bytes]]:
        """Yield journal entries with their pixels and masks."""
        entry, blocks, masks = _entry(), list[bytes](), list[bytes]()
        with Decoder(self.spec, self.total - start) as decoder:
            for records, decoded in self._decoded(decoder, self.source.records(self.spec, start)):
                entry["records"] += len(records)
                entry["digests"] += decoded.digests
                entry["buckets"] += [self.buckets.index(size) for size in decoded.sizes if self.buckets]
                blocks.append(decoded.pixels)
                targets = decoded.targets or [None] * len(records)
                for record, reason, header, found, terms in zip(
                    records, decoded.reasons, decoded.headers, targets, decoded.terms, strict=True
                ):
                    count(entry["consent"], terms, used=reason is None)
                    if terms.is_reserved and not self.spec.ignore_reservations:
                        entry["reserved"].append(printable(record.name))
                    elif reason is None:
                        masks.append(self.targets.add(found, entry))
                        count_header(entry, *header)
                        entry["labels"].append(printable(record.label))
                        entry["texts"].append(printable(record.text))
                        entry["attributes"].append(list(map(plain_cell, record.attributes)))
                    else:
                        entry["skipped"].append([printable(record.name), printable(reason)])
                if entry["records"] >= _COMMIT_IMAGES or sum(map(len, blocks)) >= _COMMIT_BYTES:
                    yield entry, b"".join(blocks), b"".join(masks)
                    entry, blocks, masks = _entry(), [], []
            if entry["records"]:
                yield entry, b"".join(blocks), b"".join(masks)

    def _decoded(self, decoder: Decoder, records: Iterator[Record]) -> Iterator[tuple[list[Record], Decoded]]:
        """Yield chunks of records with their pixels; for pairs, first the target's, then the source's."""
        if not self.pairs:
            yield from decoder(records)
            return
        sides = (side for record in records for side in (record, Record(record.name, _source_of(record))))
        for chunk, decoded in decoder(sides):  # a chunk holds an even number of images
            yield chunk[::2], _joined_pairs(decoded, self.image_bytes)

    def _check(self, tally: Tally, *, final: bool) -> None:
        is_empty = final and tally.images == 0
        if tally.skipped <= TOLERATED * max(self.total, tally.records) and not is_empty:
            return
        report = self._report(tally, duplicates=0, targets=NO_TARGETS)
        atomic.write_json(self.cache / "report.json", report.model_dump(mode="json"))
        for path in (self.images_path, self.targets.path, self.journal_path):
            path.unlink(missing_ok=True)
        if is_empty and tally.reserved:
            raise DataError(
                f"The owners of all {tally.reserved:,} images reserve training on them: use other images, or "
                "train with --ignore-reservations if you have their permission."
            )
        raise DataError(
            f"{tally.skipped:,} of {self.total:,} images cannot be read, more than {TOLERATED:.0%}: "
            f"{common_reasons(tally.reasons, tally.skipped_files)}. Repair or remove those named in "
            f"{self.cache / 'report.json'}."
        )

    def _finish_targets(self, images: int) -> TargetTables:
        """Write the masks, and return the tables of the other targets."""
        tables = NO_TARGETS
        if self.targets:
            with open(self.journal_path, "rb") as journal:
                names = self.source.survey().class_names
                tables = self.targets.finish(map(json.loads, journal), names, HEADER)
        if self.targets.has_masks:
            write_header(self.targets.numbered, "masks", (images, self.height, self.width))
            os.replace(self.targets.numbered, self.cache / "masks.safetensors")
        return tables

    def _report(self, tally: Tally, duplicates: int, targets: TargetTables) -> DataReport:
        survey = self.source.survey()
        found = {
            topic: text + (f", from {survey.understood[topic]}" if topic in survey.understood else "")
            for topic, text in targets.understood.items()
        }
        report = tally.report(survey, ignored=self.spec.ignore_reservations)
        return report.model_copy(
            update={
                "duplicates": duplicates,
                "understood": survey.understood | found,
                "notes": (*survey.notes, *targets.notes, *self.notes),
            }
        )

    def _finish(self, tally: Tally) -> None:
        shape = (tally.images, self.height, self.width, self.spec.channels)
        labels, names, texts, ends, digests = self._tables(tally.images)
        stored: tuple[int, ...] = (tally.images, 2, *shape[1:]) if self.pairs else shape
        if self.buckets:
            stored = (tally.images, self.image_bytes * 8 // self.spec.depth)
        write_header(self.images_path, "images", stored, self.spec.depth)
        values, attributes = self._attributes()
        tensors = {"labels": labels, "text_ends": ends, "texts": texts}
        if attributes:
            tensors["attributes"] = values
        if self.buckets:
            tensors["buckets"] = np.array(self._from_journal("buckets"), np.uint8)
        targets = self._finish_targets(tally.images)
        tensors |= targets.tensors
        _write_tensors(self.cache / "records.safetensors", tensors)
        covered = [_FINGERPRINT, _of_pixels(self._asked_buckets()), shape, names]
        hasher = hashlib.sha256(json.dumps(covered).encode())
        for table in (digests, labels.astype("<i8"), ends, texts):
            hasher.update(table.tobytes())
        for name in ("attributes", "buckets", *targets.tensors):
            if name in tensors:
                hasher.update(tensors[name].tobytes())
        if targets.classes:
            hasher.update(targets.classes.model_dump_json().encode() + targets.digest)
        counts = np.bincount(labels[labels >= 0], minlength=len(names)).astype(float)
        duplicates = tally.images - len(np.unique(digests))
        report = self._report(tally, duplicates, targets)
        report = report.model_copy(
            update={"contradicted": _contradicted(digests, labels) if duplicates else 0}
        )
        manifest = Manifest(
            version=VERSION,
            fingerprint=hasher.hexdigest(),
            shape=shape,
            label_names=names,
            label_frequencies=tuple(counts / max(1.0, counts.sum())) if names else (),
            has_texts=len(ends) > 0,
            report=report,
            name=printable(self.source.about.name) or "",
            depth=self.spec.depth,
            range=self.spec.range if self.spec.depth > 8 else None,
            lacking=tuple(sorted(tally.lacking | missing_extras(*self.notes, *report.consent.notes()))),
            pairs=self.pairs,
            attributes=attributes,
            buckets=self.buckets,
            targets=targets.classes,
        )
        atomic.write_json(self.cache / "report.json", manifest.report.model_dump(mode="json"))
        os.replace(self.images_path, self.cache / "images.safetensors")
        atomic.write_json(self.cache / "manifest.json", manifest.model_dump(mode="json"))
        self.journal_path.unlink()
        self.targets.path.unlink()

    def _attributes(self) -> tuple[NDArray[np.float32], tuple[Attribute, ...]]:
        """Return the table of attributes and its columns from the journal."""
        return tabulate(self.source.attributes, self._from_journal("attributes"))

    def _from_journal(self, name: str) -> list[Any]:
        """Return one value of each image from the journal."""
        with open(self.journal_path, "rb") as journal:
            return [value for line in journal for value in json.loads(line)[name]]

    def _asked_buckets(self) -> ImageSpec:
        """Return what was requested, with the buckets that were chosen.

        The same images in the same buckets then have one fingerprint.
        """
        if not self.asked.buckets:
            return self.asked
        return replace(self.asked, size=self.spec.size, buckets=self.buckets)

    def _tables(
        self, count: int
    ) -> tuple[NDArray[Any], tuple[str, ...], NDArray[Any], NDArray[Any], NDArray[Any]]:
        """Return labels, their names, texts as UTF-8, the end of each text, and digests from the journal."""
        seen: dict[str, int] = {}
        labels, digests = np.full(count, -1, np.int32), np.zeros(count, "S32")
        ends, texts, number = np.zeros(count + 1, np.int64), bytearray(), 0
        with open(self.journal_path, "rb") as journal:
            for line in journal:
                entry = json.loads(line)
                for label, text, code in zip(entry["labels"], entry["texts"], entry["digests"], strict=True):
                    if label is not None:
                        labels[number] = seen.setdefault(label, len(seen))
                    texts += (text or "").encode("utf-8", "replace")
                    ends[number + 1], digests[number] = len(texts), code.encode()
                    number += 1
        known = {name: place for place, name in enumerate(self.source.label_names)}
        names = tuple(sorted(seen, key=lambda name: (known.get(name, len(known)), natural_order(name))))
        if len(names) < 2:  # a single class is no information
            names = ()
        places = {name: place for place, name in enumerate(names)}
        new = np.array([places.get(name, -1) for name in seen] + [-1], np.int32)
        labels = new[labels]
        smallest = np.int8 if len(names) < 128 else np.int16 if len(names) < 32768 else np.int32
        ends = ends if texts else ends[:0]
        return labels.astype(smallest), names, np.frombuffer(bytes(texts), np.uint8), ends, digests


def write_header(path: Path, name: str, shape: tuple[int, ...], depth: int = 8) -> None:
    """Write the safetensors header of one tensor of unsigned values.

    The file begins with `HEADER` blank bytes for it.

    depth: bits of a value, 8 or 16.
    """
    length = int(np.prod(shape)) * depth // 8
    layout = {name: {"dtype": f"U{depth}", "shape": shape, "data_offsets": [0, length]}}
    text = json.dumps(layout).encode().ljust(HEADER - 8)
    with open(path, "r+b") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        _sync(file)


def _contradicted(digests: NDArray[np.bytes_], labels: NDArray[np.signedinteger[Any]]) -> int:
    """Count the images that equal one with another label."""
    known = labels >= 0
    if not known.any():
        return 0
    groups = np.unique(digests[known], return_inverse=True)[1]
    group, _ = np.unique(np.stack([groups, labels[known]]), axis=1)
    return int((np.bincount(group)[groups] > 1).sum())


def _write_tensors(path: Path, tensors: dict[str, NDArray[Any]]) -> None:
    from safetensors.numpy import save

    atomic.write_bytes(path, save(tensors))


def _of_pixels(asked: ImageSpec) -> dict[str, Any]:
    """Return the options that a fingerprint covers; the others already affect the pixels."""
    return replace(asked, range=None, depth=0, ignore_reservations=False).asked()


def _entry() -> dict[str, Any]:
    lists = (
        "labels",
        "texts",
        "attributes",
        "digests",
        "buckets",
        "skipped",
        "sizes",
        "reserved",
        *JOURNALLED,
    )
    return {"records": 0, "formats": {}, "consent": {}, **{name: [] for name in lists}}


def _source_of(record: Record) -> Load:
    """Return the loader of a pair's source image; a missing one counts as unreadable."""

    def refuse() -> bytes:
        raise DataError("The source image is missing.")

    return record.source or refuse


def _joined_pairs(decoded: Decoded, image_bytes: int) -> Decoded:
    """Join alternating targets and sources into pairs; drop both if either cannot be read."""
    pixels, digests, reasons = list[bytes](), list[str](), list[str | None]()
    place = 0
    kept: list[tuple[bytes, str] | None] = []
    for reason in decoded.reasons:
        block = decoded.pixels[place * image_bytes : (place + 1) * image_bytes]
        kept.append(None if reason is not None else (block, decoded.digests[place]))
        place += reason is None
    for number in range(0, len(kept), 2):
        target, source = kept[number : number + 2]
        reason = decoded.reasons[number]
        if reason is None and decoded.reasons[number + 1] is not None:
            reason = f"Its source image cannot be read: {decoded.reasons[number + 1]}"
        reasons.append(reason)
        if target is not None and source is not None:
            pixels += [target[0], source[0]]
            digests.append(hashlib.blake2b((target[1] + source[1]).encode(), digest_size=16).hexdigest())
    terms = [
        one.with_partner(other) for one, other in zip(decoded.terms[::2], decoded.terms[1::2], strict=True)
    ]
    return Decoded(reasons, digests, b"".join(pixels), headers=decoded.headers[::2], terms=terms)


def _sync(file: BinaryIO) -> None:
    file.flush()
    os.fsync(file.fileno())


def _length(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _cut(path: Path, length: int) -> None:
    """Make a file exactly `length` bytes long, padded with zeros."""
    with open(path, "ab") as file:
        file.truncate(length)
