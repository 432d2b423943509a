"""Parquet shards as on the Hugging Face hub: a column holds the encoded images."""

import functools
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, cast

from danqing.data import tables, target_files
from danqing.data.annotations import split_of_cell
from danqing.data.boxes import objects_of_cell
from danqing.data.layout import NOTHING_DECLARED, Declared
from danqing.data.raw_targets import BoxesFrom, RawTargets
from danqing.data.records import About, ImageSpec, Natural, Record, digest, file_key
from danqing.data.survey import Survey
from danqing.data.target_files import AUTO, FROM_MASKS, TargetFiles
from danqing.errors import DataError, MissingSplitError
from danqing.names import normalized

_ROWS = 256


class _Meaning(NamedTuple):
    """The names of the known columns; empty if there is none."""

    image: str
    label: str
    caption: str
    split: str
    partner: str
    mask: str
    objects: str
    label_set: str
    attributes: tuple[str, ...]

    @property
    def columns(self) -> list[str]:
        """Return the names of all of them, once each."""
        return list(dict.fromkeys(filter(None, [*self[:-1], *self.attributes])))


class ParquetSource:
    """The rows of Parquet files.

    Labels get names from the hub's description if the files have one.
    """

    natural: Natural | None = None

    def __init__(
        self, path: Path, shards: Sequence[Path], split: str = "all", declared: Declared = NOTHING_DECLARED
    ) -> None:
        try:
            import pyarrow.parquet as parquet
        except ImportError as error:
            raise DataError("Parquet needs pyarrow: pip install 'danqing[parquet]'.") from error
        self._parquet = parquet
        self.path, self.shards, self.split, self.declared = path, list(shards), split, declared
        self.about = About(path.resolve().stem)
        self.attributes = declared.attributes
        self._meaning = self._find_columns()
        self._left_out = Counter[str]()
        schema = self._open(self.shards[0]).schema_arrow
        self.label_names = _class_names(schema.metadata or {}, self._meaning.label)
        self._object_names = _class_names(schema.metadata or {}, self._meaning.objects)
        self._set_names = dict(enumerate(_class_names(schema.metadata or {}, self._meaning.label_set)))

    def key(self) -> str:
        return digest("parquet", *map(file_key, self.shards), self.split, *self.declared.key())

    def count(self) -> int:
        return sum(len(rows) for rows in self._chosen)

    def survey(self) -> Survey:
        meaning, _ = self._meaning, self._chosen
        survey = Survey(left_out=self._left_out)
        survey.understood = {
            "Layout": f"{len(self.shards):,} Parquet files, images in the column '{meaning.image}'",
            "Labels": f"the column '{meaning.label}'" if meaning.label else "none: no such column",
            "Captions": f"the column '{meaning.caption}'" if meaning.caption else "none: no such column",
            "Split": f"{self.split}, by the column '{meaning.split}'" if meaning.split else "none",
        }
        for topic, column in (
            ("Masks", meaning.mask),
            ("Boxes", meaning.objects),
            ("Label sets", meaning.label_set),
        ):
            if column:
                survey.understood[topic] = f"the column '{column}'"
        survey.class_names = {"Boxes": self._object_names} if self._object_names else {}
        if unused := [name for name in self._headers if name not in meaning.columns]:
            survey.understood["Not read"] = f"the columns {', '.join(unused)}"
        return survey

    def records(self, spec: ImageSpec, start: int = 0) -> Iterator[Record]:
        number, row = 0, 0
        for shard, wanted in zip(self.shards, self._chosen, strict=True):
            if number + len(wanted) <= start:
                number += len(wanted)
                row += self._open(shard).metadata.num_rows
                continue
            chosen = frozenset(wanted)
            for place, cells in enumerate(self._rows(self._open(shard))):
                if place in chosen:
                    if number >= start:
                        name = f"{shard.name}#{row + place}"
                        yield (
                            _unreadable(name, cells) if isinstance(cells, str) else self._record(name, cells)
                        )
                    number += 1
            row += self._open(shard).metadata.num_rows

    def _find_columns(self) -> _Meaning:
        headers = self._headers
        plain = {tables.plain_header(header): header for header in headers}
        image = next((plain[name] for name in tables.IMAGES if name in plain), "")
        if not image:
            raise DataError(
                f"{self.path} has no column of images: call it 'image' (it has {', '.join(headers)})."
            )
        declared = self.declared
        target_files.check(declared.pairs, declared.masks, declared.boxes, declared.label_sets)
        given = [one for one in (declared.pairs, *declared[2:]) if one not in ("", AUTO, *FROM_MASKS)]
        for name in (*declared.attributes, *given):
            if tables.find_header(headers, name) is None:
                raise DataError(f"{self.path} has no column {name!r}: the columns are {', '.join(headers)}.")
        wanted_targets = target_files.columns(
            TargetFiles(), declared.masks, declared.boxes, declared.label_sets
        )
        mask, objects, label_set = (
            next((header for name in names if (header := tables.find_header(headers, name))), "")
            for names in wanted_targets[2:]
        )
        used = {image, mask, objects}
        columns = tables.find_columns([header for header in headers if header not in used])
        has_boxes = objects or (declared.boxes in (AUTO, *FROM_MASKS) and mask)
        for topic, one, found in (
            ("masks", declared.masks, mask),
            ("boxes", declared.boxes, has_boxes),
            ("label sets", declared.label_sets, label_set),
        ):
            if one and not found:
                raise DataError(f"{self.path} has no column of {topic}: it has {', '.join(headers)}.")
        partner = tables.find_header(headers, self.declared.pairs) if self.declared.pairs else ""
        wanted = [tables.find_header(headers, name) or "" for name in self.declared.attributes]
        return _Meaning(
            image,
            "" if label_set == columns.label else columns.label or "",
            columns.caption or "",
            columns.split or "",
            partner or "",
            mask,
            objects,
            label_set,
            tuple(wanted),
        )

    @functools.cached_property
    def _headers(self) -> list[str]:
        return list(self._open(self.shards[0]).schema_arrow.names)

    @functools.cached_property
    def _chosen(self) -> list[range | list[int]]:
        """Return the rows of the split in each shard."""
        column = self._meaning.split
        counts = [self._open(shard).metadata.num_rows for shard in self.shards]
        if not column and self.split not in ("train", "all"):
            raise MissingSplitError(f"{self.path} has no {self.split} split: name a folder that has one.")
        if not column or self.split == "all":
            return [range(count) for count in counts]
        self._left_out.clear()
        chosen, known = list[range | list[int]](), set[str]()
        for shard in self.shards:
            splits = list(map(split_of_cell, self._cells(shard, column)))
            chosen.append([place for place, split in enumerate(splits) if split == self.split])
            known |= set(splits)
            self._left_out.update(f"in the {split} split" for split in splits if split != self.split)
        if self.split not in known:
            there = ", ".join(sorted(known))
            raise MissingSplitError(f"{self.path} has no {self.split} split: it has {there}.")
        return chosen

    def _open(self, shard: Path) -> Any:
        try:
            return self._parquet.ParquetFile(shard)
        except Exception as error:  # pyarrow's errors share no base of their own
            raise DataError(f"{shard} cannot be read as a Parquet file ({error}).") from error

    def _cells(self, shard: Path, column: str) -> list[Any]:
        """Return the cells of a column."""
        file = self._open(shard)
        try:
            return list(file.read(columns=[column]).column(0).to_pylist())
        except Exception as error:  # pyarrow's errors share no base of their own
            raise DataError(f"{shard} cannot be read as a Parquet file ({error}).") from error

    def _rows(self, file: Any) -> Iterator[dict[str, Any] | str]:
        """Yield the cells of each row, or the reason if its row group is damaged."""
        for group in range(file.num_row_groups):
            left = file.metadata.row_group(group).num_rows
            try:
                for batch in file.iter_batches(
                    batch_size=_ROWS, row_groups=[group], columns=self._meaning.columns
                ):
                    for row in batch.to_pylist():
                        left -= 1
                        yield row
            except Exception as error:  # pyarrow's errors share no base of their own
                yield from [f"The shard is damaged here ({error})."] * left

    def _record(self, name: str, cells: dict[str, Any] | str) -> Record:
        if isinstance(cells, str):
            return _unreadable(name, cells)
        meaning = self._meaning
        source = None
        if meaning.partner:
            source = functools.partial(_content, cells[meaning.partner])
        return Record(
            name,
            functools.partial(_content, cells[meaning.image]),
            label=self._label(cells.get(meaning.label)),
            text=tables.caption_text(cells.get(meaning.caption)),
            source=source,
            attributes=tuple(cells.get(header) for header in meaning.attributes),
            targets=self._targets(cells),
        )

    def _targets(self, cells: dict[str, Any]) -> RawTargets | None:
        """Return the targets in a row, if any are declared."""
        meaning, boxes = self._meaning, self.declared.boxes
        if not (meaning.mask or meaning.objects or meaning.label_set):
            return None
        labels = cells[meaning.label_set] if meaning.label_set else None
        if isinstance(labels, list):
            labels = [self._set_names.get(one, one) for one in labels]
        from_masks = cast(BoxesFrom, "masks" if boxes == AUTO else boxes)
        objects = None
        if meaning.objects:
            objects = functools.partial(objects_of_cell, cells[meaning.objects], self._object_names)
        return RawTargets(
            tables.several_labels(labels) if meaning.label_set else None,
            functools.partial(_content, cells[meaning.mask]) if meaning.mask else None,
            objects,
            "" if meaning.objects else from_masks,
        )

    def _label(self, value: Any) -> str | None:
        if isinstance(value, list) and len(value) == 1:
            (value,) = value
        if tables.is_missing(value):
            return None
        if isinstance(value, float) and value.is_integer() and self._are_labels_whole:
            value = int(value)
        if isinstance(value, int) and not isinstance(value, bool):
            if 0 <= value < len(self.label_names):
                return self.label_names[value]
            if value == -1:  # the hub's value for no label
                return None
        return normalized(str(value))

    @functools.cached_property
    def _are_labels_whole(self) -> bool:
        """Return whether all labels are whole numbers, since pandas may have turned integers into floats."""
        for shard in self.shards:
            values = self._cells(shard, self._meaning.label)
            if any(isinstance(one, float) and not one.is_integer() for one in values if one == one):
                return False
        return True


def _unreadable(name: str, reason: str) -> Record:
    def load() -> bytes:
        raise DataError(reason)

    return Record(name, load)


def _content(content: Any) -> bytes:
    if isinstance(content, dict):
        content = content.get("bytes")
    if not isinstance(content, bytes):
        raise DataError("The row holds no image: store the file's bytes, not only its path.")
    return content


def _class_names(metadata: dict[bytes, bytes], column: str) -> tuple[str, ...]:
    """Return the names of a ClassLabel column, from the description that the hub's tools store.

    The column may hold objects with a ClassLabel among their fields.
    """
    try:
        found = [json.loads(metadata[b"huggingface"])["info"]["features"][column]]
    except (KeyError, ValueError, TypeError):
        return ()
    while found:
        feature = found.pop()
        if isinstance(feature, dict) and isinstance(names := feature.get("names"), list):
            return tuple(map(normalized, names))
        found += (
            feature.values() if isinstance(feature, dict) else feature if isinstance(feature, list) else ()
        )
    return ()
