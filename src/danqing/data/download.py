"""Published data: taken from the user's or Debian's folder, or downloaded once and checked."""

import hashlib
import http.client
import os
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import filelock

from danqing import atomic
from danqing.data.cache import default_folder
from danqing.data.idx import IdxSource, find_idx
from danqing.data.records import About
from danqing.errors import DataError, MissingSplitError
from danqing.progress import ProgressCallback

TIMEOUT = 60


@dataclass(frozen=True)
class Published:
    """Files at a publisher's address, with their md5 or sha256.

    They may already be in some other folders.

    `$DANQING_MIRROR` replaces the address; it has one folder per data set.
    """

    name: str
    address: str
    files: Mapping[str, str]
    installed: tuple[Path, ...] = ()

    def folder(self, on_progress: ProgressCallback | None = None) -> Path:
        """Return the folder with all files.

        `$DANQING_DATA/<name>`, a system folder, or a new download.

        Raises DataError.
        """
        chosen = os.environ.get("DANQING_DATA")
        places = [Path(chosen) / self.name] if chosen else []
        for place in (*places, *self.installed):
            if all(present(place, file) for file in self.files):
                return place
        home = places[0] if places else default_folder() / "downloads" / self.name
        try:
            home.mkdir(parents=True, exist_ok=True)
            with filelock.FileLock(home.with_name(f".{self.name}.lock")):  # two processes download once
                for file, checksum in self.files.items():
                    if not present(home, file):
                        self._fetch(file, checksum, home, on_progress)
        except OSError as error:
            raise DataError(
                f"{home} cannot be written ({error.strerror or error}): make room there, or set DANQING_DATA "
                "to another folder."
            ) from error
        return home

    def _fetch(self, file: str, checksum: str, folder: Path, on_progress: ProgressCallback | None) -> None:
        mirror = os.environ.get("DANQING_MIRROR")
        url = (f"{mirror.rstrip('/')}/{self.name}/" if mirror else self.address) + file
        algorithm = "md5" if len(checksum) == 32 else "sha256"
        hasher = hashlib.new(algorithm, usedforsecurity=False)
        try:
            atomic.remove_leftovers(folder)
            with (
                # urlopen would keep the proxies of its first call.
                urllib.request.build_opener().open(url, timeout=TIMEOUT) as answer,
                atomic.replacing(folder / file) as target,
            ):
                total, done = int(answer.headers.get("Content-Length") or 0), 0
                while block := answer.read(1 << 16):
                    target.write(block)
                    hasher.update(block)
                    done += len(block)
                    if on_progress:
                        on_progress(done, max(done, total), f"Fetching {file}")
                if hasher.hexdigest() != checksum:
                    raise DataError(
                        f"{url} is not the file that was published ({algorithm} {hasher.hexdigest()}, not "
                        f"{checksum}): try again, or put the right one into {folder}."
                    )
        except (urllib.error.URLError, http.client.HTTPException, OSError, ValueError) as error:
            reason = getattr(error, "reason", None) or error
            raise DataError(
                f"{url} cannot be fetched ({reason}): put {file} into $DANQING_DATA/{self.name}/ by hand."
            ) from error


def idx_source(
    published: Published,
    about: About,
    label_names: tuple[str, ...],
    split: str,
    on_progress: ProgressCallback | None,
) -> IdxSource:
    """Return the IDX files of a published set's split; raise DataError."""
    if split not in ("train", "test"):
        raise MissingSplitError(f"{published.name} has no split {split!r}: choose train or test.")
    found = find_idx(published.folder(on_progress), split)
    if found is None or found[1] is None:
        raise DataError(f"{published.name} lacks a file of its {split} split: download it again.")
    return IdxSource(found[0], found[1], about, label_names)


def present(folder: Path, file: str) -> Path | None:
    """Return a published file in a folder, compressed or not.

    None if it is missing.
    """
    places = (folder / file, folder / file.removesuffix(".gz"))
    return next((place for place in places if place.is_file()), None)
