"""The packed cache: all images of a source, decoded once, in one file that training reads.

A cache is a folder with `images.safetensors` (`images` `[n, h, w, c]`, uint8, or uint16 where the source has
more than 8 bits), `records.safetensors` (`labels` `[n]`, and `text_ends` `[n + 1]` into `texts`),
`report.json`, and `manifest.json`, which is written last: a cache without one is still being built. The
images are appended in the order of the source, and a journal says how many are complete, so that a killed
build continues where it stopped. With buckets, `images` is `[n, values]`, as long as the largest bucket
needs, and `buckets` `[n]` among the records says which bucket each image is in. `masks.safetensors` has
`masks` `[n, h, w]`, the class of each pixel; `box_ends` `[n + 1]` among the records says which of `boxes` and
`box_labels` an image has, and `set_ends` which of `set_labels`.
"""

import json
import os
from dataclasses import replace
from pathlib import Path

import filelock

from danqing import atomic
from danqing.data.cache_build import Build
from danqing.data.manifest import HEADER, VERSION, read_manifest
from danqing.data.records import ImageSpec, Source, digest
from danqing.errors import DataError
from danqing.image_files.formats import is_installed
from danqing.progress import ProgressCallback


def default_folder() -> Path:
    """Return `$DANQING_CACHE`, or the platform's folder for caches."""
    if chosen := os.environ.get("DANQING_CACHE"):
        return Path(chosen)
    if os.name == "nt":
        base = Path(os.environ.get("LOCALAPPDATA", Path.home() / "AppData/Local"))
    else:
        base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return base / "danqing" / "data"


def ensure(
    source: Source, spec: ImageSpec, folder: Path | None = None, on_progress: ProgressCallback | None = None
) -> Path:
    """Return the cache of a source.

    It is built if necessary; two processes at a time build it once.
    """
    folder = folder or default_folder()
    cache = folder / _key(source, spec)
    if _is_current(cache):
        atomic.touch(cache)
        return cache
    if spec.range is not None:  # the data itself may have given the same range before
        by_default = folder / _key(source, replace(spec, range=None))
        if _is_current(by_default) and read_manifest(by_default).range == tuple(spec.range):
            return by_default
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with filelock.FileLock(folder / f"{cache.name}.lock"):
            if not _is_current(cache):
                Build(source, spec, cache, on_progress).run()
    except OSError as error:
        raise DataError(
            f"The cache {cache} cannot be written ({error.strerror or error}): make room there, or set "
            "DANQING_CACHE to another folder."
        ) from error
    return cache


def is_complete(cache: Path) -> bool:
    """Return whether a cache is finished, with images of the right length."""
    try:
        manifest = read_manifest(cache)
        length = (cache / "images.safetensors").stat().st_size
        records = (cache / "records.safetensors").is_file()
        masks = not manifest.targets.mask or (cache / "masks.safetensors").is_file()
    except (OSError, ValueError):
        return False
    expected = HEADER + manifest.shape[0] * manifest.image_bytes
    return manifest.version == VERSION and records and masks and length == expected


def _is_current(cache: Path) -> bool:
    """Return whether a cache is finished, and no extra installed since would read more of its source."""
    return is_complete(cache) and not any(map(is_installed, read_manifest(cache).lacking))


def _key(source: Source, spec: ImageSpec) -> str:
    return digest(f"version {VERSION}", source.key(), json.dumps(spec.asked(), sort_keys=True))[:32]
