"""From what a user names to a data set: a built-in name, a folder, an archive, shards, or IDX files."""

import os
from pathlib import Path
from typing import cast

from danqing.data import builtin, cache
from danqing.data.augment import Augment
from danqing.data.cache import Progress
from danqing.data.dataset import Dataset
from danqing.data.idx import IdxSource, find_idx, labels_beside
from danqing.data.parquet import ParquetSource
from danqing.data.records import About, DatasetInfo, ImageSpec, Source
from danqing.data.tree import SPLITS, Folder, TreeSource, Zip
from danqing.data.webdataset import TarSource
from danqing.errors import DataError, MissingSplitError
from danqing.image_files import Range
from danqing.images import Alpha, Fit

TAR_ENDINGS = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")
_HOW = "name a folder, a zip, parquet, tar or IDX file, or one of"


def open_dataset(
    source: str | Path,
    *,
    size: tuple[int, int] | None = None,
    channels: int = 0,
    alpha: Alpha = "flatten",
    background: str = "#ffffff",
    fit: Fit = "crop",
    range: Range | None = None,
    split: str = "train",
    cache_dir: Path | None = None,
    on_progress: Progress | None = None,
) -> Dataset:
    """A data set from a path or a built-in name (`emoji`, or a part of one: `emoji:faces`, `mnist:0,1`).

    `size` is (width, height), reached as `fit` says; None takes the images' own, see `probe.resolve`.
    `channels` 0 keeps what the data has. `range` is the (low, high) that become black and white where values
    have more than 8 bits; None takes one that suits the data. `split` is train, test, validation or all; data
    without splits is all for training. The first call decodes everything into a cache, telling `on_progress`
    (done, total, what); later ones take milliseconds. A built-in name wins over a folder of that name: write
    that as `./emoji`. Raises DataError.
    """
    spec = ImageSpec(size, channels, alpha, background, fit, range)
    found, part = find_source(source, split, on_progress)
    folder = cache.ensure(found, spec, cache_dir, on_progress)
    manifest = cache.read_manifest(folder)
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
    dataset = Dataset(folder, info)
    return dataset.subset(part) if part else dataset


def find_source(
    source: str | Path, split: str, on_progress: Progress | None = None
) -> tuple[Source, tuple[str, ...]]:
    """The source that a user means, and the labels of which only the images are wanted (empty for all)."""
    if split not in (*SPLITS.values(), "all"):
        raise DataError(f"There is no split {split!r}: choose train, test, validation or all.")
    if isinstance(source, str) and (named := builtin.find(source, split, on_progress)) is not None:
        return named
    path = Path(source).expanduser()
    try:
        if path.is_dir():
            return _in_folder(path, split), ()
        if path.is_file():
            return _in_file(path, split), ()
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror or error}).") from error
    raise DataError(f"There is no data at {source}: {_HOW} {', '.join(builtin.names())}.")


def _in_folder(path: Path, split: str) -> Source:
    if (files := find_idx(path, split)) is not None:
        return IdxSource(*files, About(path.resolve().name, augment=Augment()))
    if find_idx(path, "train") is not None:
        raise MissingSplitError(f"{path} has no {split} split: its IDX files make train and test.")
    for endings, make in ((TAR_ENDINGS, TarSource), ((".parquet",), ParquetSource)):
        if shards := _shards(path, endings):
            return cast(Source, make(path, _of_split(path, shards, split)))
    return TreeSource(Folder(path), split)


def _in_file(path: Path, split: str) -> Source:
    name = path.name.lower()
    if name.endswith(".zip"):
        return TreeSource(Zip(path), split)
    if split not in ("train", "all") and _split_in_name(name) != split:
        raise MissingSplitError(f"{path} is one file without a {split} split: name a folder that has one.")
    if name.endswith(TAR_ENDINGS):
        return TarSource(path, [path])
    if name.endswith(".parquet"):
        return ParquetSource(path, [path])
    if "idx" in name or name.endswith("-ubyte"):
        return IdxSource(path, labels_beside(path), About(path.stem, augment=Augment()))
    raise DataError(f"{path} is no data that can be read: {_HOW} {', '.join(builtin.names())}.")


def _shards(path: Path, endings: tuple[str, ...]) -> list[Path]:
    """Files of the folder itself and of `data/` below it, where the hub keeps them."""
    places = [place for place in (path, path / "data") if place.is_dir()]
    return sorted(place / name for place in places for name in os.listdir(place) if name.endswith(endings))


def _of_split(path: Path, shards: list[Path], split: str) -> list[Path]:
    """The shards whose names begin with a split's, as in `train-00000-of-00002`.

    Where none is for training, those are that are for no split, or else all.
    """
    by_split: dict[str, list[Path]] = {}
    for shard in shards:
        by_split.setdefault(_split_in_name(shard.name), []).append(shard)
    if split == "all":
        return shards
    if split == "train" and "train" not in by_split:
        return by_split.get("") or shards
    if split not in by_split:
        raise MissingSplitError(
            f"{path} has no {split} split: begin the names of its shards with '{split}-'."
        )
    return by_split[split]


def _split_in_name(name: str) -> str:
    """The split that a file's name begins with, "" for none."""
    return SPLITS.get(name.lower().replace("_", "-").split(".")[0].split("-")[0], "")
