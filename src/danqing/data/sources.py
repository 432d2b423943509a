"""Opening data sets: from a built-in name, a folder, an archive, shards at a URL, or IDX files."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from danqing.data import builtin, cache, tar_shards
from danqing.data.archives import Zips, note_tables, with_tables
from danqing.data.augment import Augment
from danqing.data.buckets import Size
from danqing.data.cleaned import cleaned
from danqing.data.dataset import Dataset
from danqing.data.domains import split_domains
from danqing.data.file_source import FileSource
from danqing.data.files import Files
from danqing.data.folder import Folder
from danqing.data.idx import IdxSource, find_idx, labels_beside
from danqing.data.layout import NOTHING_DECLARED, Declared
from danqing.data.leftovers import is_leftover
from danqing.data.manifest import read_manifest
from danqing.data.parquet import ParquetSource
from danqing.data.records import About, DatasetInfo, ImageSpec, Source
from danqing.data.shards.reader import Reader, has_shards
from danqing.data.shards.source import ShardSource
from danqing.data.shards.stores import is_url
from danqing.data.shards.stream import WINDOW, Stream
from danqing.data.split_names import SPLITS, split_of_shard
from danqing.data.tables import TABLES
from danqing.data.tar_shards import Tars
from danqing.data.target_files import AUTO
from danqing.data.zip_file import Zip
from danqing.errors import ConfigError, DataError, MissingSplitError, nearest
from danqing.image_files import Range
from danqing.image_files.formats import is_image_name
from danqing.images import Alpha
from danqing.progress import ProgressCallback
from danqing.sizes import Fit

STREAM_OVER = 8.0
"""The GiB of shards that are still decoded into the packed cache."""
_HOW = "name a folder, a zip, parquet, tar or IDX file, a URL of shards, or one of"


def open_dataset(
    source: str | Path,
    *,
    size: tuple[int, int] | None = None,
    buckets: bool | Sequence[Size] = False,
    channels: int = 0,
    alpha: Alpha = "flatten",
    background: str = "#ffffff",
    fit: Fit = "crop",
    range: Range | None = None,
    split: str = "train",
    pairs: str = "",
    domains: str = "",
    attributes: Sequence[str] = (),
    masks: str = "",
    boxes: str = "",
    label_sets: str = "",
    clean: str | Path = "",
    ignore_reservations: bool = False,
    stream_over: float = STREAM_OVER,
    window: int = WINDOW,
    cache_dir: Path | None = None,
    on_progress: ProgressCallback | None = None,
) -> Dataset:
    """Open a data set from a path or a built-in name.

    A built-in name (`emoji`, or a part of one: `emoji:faces`, `mnist:0,1`) takes precedence over a folder of
    that name: write `./emoji` for the folder. The first call decodes everything into a cache; later ones
    take milliseconds.

    size: (width, height) in pixels, reached as `fit` says; None takes the images' own, see `probe.resolve`.
    buckets: whether each image gets the one of a few sizes whose aspect ratio is nearest to its own; their
        area is about that of `size`. Sizes as (width, height) are taken as they are.
    channels: 1 to 4; 0 keeps those of the data.
    range: the (low, high) that become black and white, for values of more than 8 bits; None takes one that
        suits the data.
    split: train, test, validation or all; data without splits is all training data.
    pairs: "SOURCES:TARGETS" for two folders, "side-by-side" or "side-by-side-reversed" for two halves of each
        image, or the column that names the source image; empty for none.
    domains: "SOURCE:TARGET", two labels: the images of the second, with those of the first as `sources`.
    attributes: columns of numbers, categories or vectors to keep of each image.
    masks: "IMAGES:MASKS" for two folders, the suffix of files beside the images ("_mask"), the column that
        names the mask, or "auto" for the one of these that the data has; empty for none.
    boxes: "coco", the name of a JSON file in COCO's format, "yolo", a column, "auto", or "masks" and
        "instances" for the connected regions and for the values of masks; empty for none.
    label_sets: the column that holds several labels of an image, or "auto"; empty for one label.
    clean: a clean list, as `danqing data clean` writes it: images that it drops are left out.
    ignore_reservations: keep images although their owners reserve training on them (`data/terms.py`). By
        default they are left out.
    stream_over: the GiB of shards above which images are read from their shards while a model learns, instead
        of being decoded into a cache before.
    window: how many shards of streamed images are shuffled among each other.
    on_progress: receives (done, total, what).

    Raises DataError and ConfigError.
    """
    sizes = buckets if isinstance(buckets, bool) else tuple((width, height) for width, height in buckets)
    spec = ImageSpec(
        size,
        channels,
        alpha,
        background,
        fit,
        range,
        buckets=sizes or (),
        ignore_reservations=ignore_reservations,
    )
    found, part = find_source(
        source, split, on_progress, Declared(pairs, tuple(attributes), masks, boxes, label_sets)
    )
    if isinstance(found, ShardSource) and (found.has_codes or found.total_bytes > stream_over * 2**30):
        if clean or domains:
            raise ConfigError(
                "Streamed images have no clean list and no domains: write other shards with danqing data "
                "shard --clean, or raise data.stream_over."
            )
        stream = Stream(found, spec, window, cache_dir)
        return _dataset(source, found, stream.reader.arrivals.folder, stream)
    if clean:
        found = cleaned(found, split, clean)
    folder = cache.ensure(found, spec, cache_dir, on_progress)
    dataset = _dataset(source, found, folder)
    dataset = dataset.subset(part) if part else dataset
    return split_domains(dataset, domains) if domains else dataset


def _dataset(source: str | Path, found: Source, folder: Path, stream: Stream | None = None) -> Dataset:
    manifest = read_manifest(folder) if stream is None else stream.manifest
    about = found.about
    info = DatasetInfo(
        name=about.name,
        source=str(source),
        licence=about.licence,
        citation=about.citation,
        augment=about.augment,
        report=manifest.report,
        range=manifest.range,
    )
    return Dataset(folder, info, stream=stream)


def find_source(
    source: str | Path,
    split: str,
    on_progress: ProgressCallback | None = None,
    declared: Declared = NOTHING_DECLARED,
) -> tuple[Source, tuple[str, ...]]:
    """Find the source that a user means, and the labels to select.

    No labels select all.
    """
    if split not in (*SPLITS.values(), "all"):
        raise DataError(f"There is no split {split!r}: choose train, test, validation or all.")
    if not str(source).strip():  # an unset variable of a shell would mean the current folder
        raise DataError("The name of the data is empty: name a folder, a file or a built-in set.")
    if is_url(source):
        return ShardSource(Reader(source), split, declared), ()
    if isinstance(source, str) and (named := builtin.find(source, split, on_progress)) is not None:
        if declared.pairs or declared.attributes or {*declared[2:]} - {"", AUTO}:
            raise ConfigError(f"{source} is a built-in set without pairs or attributes: leave them out.")
        return named
    path = Path(source).expanduser()
    try:
        if path.is_dir():
            return _in_folder(path, split, declared), ()
        if path.is_file():
            return _in_file(path, split, declared), ()
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror or error}).") from error
    raise DataError(
        f"There is no data at {source}: {_HOW} {', '.join(builtin.names())}.{_nearest(str(source), path)}"
    )


def _nearest(source: str, path: Path) -> str:
    """Return which built-in set or file beside it a misspelled name may mean."""
    try:
        beside = [(path.parent / name).as_posix() for name in os.listdir(path.parent)]
    except OSError:
        beside = []
    return nearest(source.partition(":")[0], builtin.names()) or nearest(path.as_posix(), beside)


class _ArchiveKind(NamedTuple):
    """A kind of archive that holds samples, and the reader for all shards of a folder."""

    endings: tuple[str, ...]
    open: Callable[[Path, Sequence[Path], str, Declared], Source]


def _tar_source(path: Path, shards: Sequence[Path], split: str, declared: Declared) -> Source:
    return FileSource(_described(Tars(path, shards), path), split, declared)


def _zip_source(path: Path, shards: Sequence[Path], split: str, declared: Declared) -> Source:
    return FileSource(_described(Zips(path, shards), path), split, declared)


def _described(archives: Files, path: Path) -> Files:
    """Return archives with what describes them in the folder at `path`, or a note if `path` is a file."""
    if path.is_dir():
        return with_tables(archives, path)
    note_tables(archives)
    return archives


_KINDS = (
    _ArchiveKind(tar_shards.ENDINGS, _tar_source),
    _ArchiveKind((".parquet",), ParquetSource),
    _ArchiveKind((".zip",), _zip_source),
)


def _in_folder(path: Path, split: str, declared: Declared) -> Source:
    """Return the source in a folder: IDX files, images, or shards if there are fewer images than shards.

    An archive that happens to be next to images is not the data.
    """
    if has_shards(path):
        return ShardSource(Reader(path), split, declared)
    if (files := find_idx(path, split)) is not None:
        return IdxSource(*files, About(path.resolve().name, augment=Augment()))
    if find_idx(path, "train") is not None:
        raise MissingSplitError(f"{path} has no {split} split: its IDX files make train and test.")
    folder = Folder(path)
    for kind in _KINDS:
        shards = _shards(path, kind.endings)
        if shards and folder.count_images(len(shards)) <= len(shards):
            return kind.open(path, *_of_split(path, shards, split), declared)
    return FileSource(folder, split, declared)


def _in_file(path: Path, split: str, declared: Declared) -> Source:
    name = path.name.lower()
    if name.endswith(".zip"):
        return FileSource(_described(Zip(path), path), split, declared)
    for kind in _KINDS:
        if name.endswith(kind.endings):
            own = split_of_shard(name)
            return kind.open(path, [path], "all" if split in ("train", own) and own else split, declared)
    if "idx" in name or name.endswith("-ubyte"):
        if split not in ("train", "all"):
            raise MissingSplitError(f"{path} has no {split} split: name a folder that has one.")
        return IdxSource(path, labels_beside(path), About(path.stem, augment=Augment()))
    if name in TABLES or name.endswith((".csv", ".jsonl", ".ndjson", ".tsv")):
        raise DataError(f"{path} is a table: name the folder of the images that it describes.")
    if is_image_name(name):
        raise DataError(f"{path} is a single image: name the folder that it is in.")
    raise DataError(f"{path} cannot be read as data: {_HOW} {', '.join(builtin.names())}.")


def _shards(path: Path, endings: tuple[str, ...]) -> list[Path]:
    """Return the files of the folder and of `data/` in it, where the hub keeps them."""
    places = [place for place in (path, path / "data") if place.is_dir()]
    return sorted(
        place / name
        for place in places
        for name in os.listdir(place)
        if name.lower().endswith(endings) and name.lower() not in TABLES and not is_leftover(name)
    )


def _of_split(path: Path, shards: list[Path], split: str) -> tuple[list[Path], str]:
    """Return the shards of a split by their names (`train-00000-of-00002`), and the split to read in them.

    If no shard is named for training, the shards without a split are for training, or else all of them. If no
    name begins with a split, the shards themselves may hold splits.
    """
    by_split: dict[str, list[Path]] = {}
    for shard in shards:
        by_split.setdefault(split_of_shard(shard.name) or "", []).append(shard)
    if set(by_split) == {""}:
        return shards, split
    if split == "all":
        return shards, "all"
    if split == "train" and "train" not in by_split:
        return by_split.get("") or shards, "all"
    if split not in by_split:
        raise MissingSplitError(
            f"{path} has no {split} split: begin the names of its shards with '{split}-'."
        )
    return by_split[split], "all"
