"""Parquet shards as the Hugging Face hub has them: an `image` column of bytes or of structs with `bytes`."""

import functools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from danqing.data.records import About, ImageSpec, Natural, Record, digest, file_key, text_of
from danqing.errors import DataError

IMAGE = ("image", "img", "picture", "jpg", "png")
LABEL = ("label", "labels", "class", "fine_label")
TEXT = ("text", "caption", "captions", "prompt", "description")
_ROWS = 256


class ParquetSource:
    """The rows of parquet files; labels get names from the hub's description where the files carry it."""

    natural: Natural | None = None

    def __init__(self, path: Path, shards: list[Path]) -> None:
        try:
            import pyarrow.parquet as parquet
        except ImportError as error:
            raise DataError("Parquet needs pyarrow: pip install 'danqing[parquet]'.") from error
        self._parquet = parquet
        self.shards = shards
        self.about = About(path.resolve().stem)
        schema = self._open(shards[0]).schema_arrow
        self._columns = [
            next((n for n in names if n in schema.names), None) for names in (IMAGE, LABEL, TEXT)
        ]
        if self._columns[0] is None:
            raise DataError(
                f"{path} has no column of images: call it 'image' (it has {', '.join(schema.names)})."
            )
        self.label_names = _class_names(schema.metadata or {}, self._columns[1])

    def key(self) -> str:
        return digest("parquet", *map(file_key, self.shards))

    def count(self) -> int:
        return sum(self._open(shard).metadata.num_rows for shard in self.shards)

    def notes(self) -> list[str]:
        return []

    def records(self, spec: ImageSpec, start: int = 0) -> Iterator[Record]:
        number = 0
        for shard in self.shards:
            file = self._open(shard)
            if number + file.metadata.num_rows <= start:
                number += file.metadata.num_rows
                continue
            for row in self._rows(file):
                if number >= start:
                    name = f"{shard.name}#{number}"
                    yield self._record(name, *row) if isinstance(row, list) else _unreadable(name, row)
                number += 1

    def _open(self, shard: Path) -> Any:
        try:
            return self._parquet.ParquetFile(shard)
        except Exception as error:  # pyarrow's errors share no base of their own
            raise DataError(f"{shard} is no parquet file that can be read ({error}).") from error

    def _rows(self, file: Any) -> Iterator[list[Any] | str]:
        """The image, label and text of each row; for those of a damaged row group that are lost, why."""
        columns = [name for name in self._columns if name]
        for group in range(file.num_row_groups):
            left = file.metadata.row_group(group).num_rows
            try:
                for batch in file.iter_batches(batch_size=_ROWS, row_groups=[group], columns=columns):
                    for row in batch.to_pylist():
                        left -= 1
                        yield [row.get(name) if name else None for name in self._columns]
            except Exception as error:  # pyarrow's errors share no base of their own
                yield from [f"The shard is damaged here ({error})."] * left

    def _record(self, name: str, image: Any, label: Any, text: Any) -> Record:
        content = image.get("bytes") if isinstance(image, dict) else image
        if isinstance(label, int) and 0 <= label < len(self.label_names):
            label = self.label_names[label]
        label = None if label is None or label == -1 else str(label)
        return Record(name, functools.partial(_content, content), label, text_of(text))


def _unreadable(name: str, reason: str) -> Record:
    def load() -> bytes:
        raise DataError(reason)

    return Record(name, load)


def _content(content: Any) -> bytes:
    if not isinstance(content, bytes):
        raise DataError("The row holds no image: store the file's bytes, not only its path.")
    return content


def _class_names(metadata: dict[bytes, bytes], column: str | None) -> tuple[str, ...]:
    """The names of a ClassLabel column, from the description that the hub's tools leave in the schema."""
    try:
        features = json.loads(metadata[b"huggingface"])["info"]["features"]
        names = features[column]["names"]
    except (KeyError, ValueError, TypeError):
        return ()
    return tuple(map(str, names)) if isinstance(names, list) else ()
