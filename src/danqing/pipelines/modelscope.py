"""Brings models from ModelScope by its HTTP interface into a cache, checked against their sha256.

A repository's files are listed at `/api/v1/models/{id}/repo/files`, and each is at
`/models/{id}/resolve/{revision}/{path}`. `MODELSCOPE_DOMAIN` names another host, and `MODELSCOPE_API_TOKEN` a
user's token.
"""

import hashlib
import http.client
import json
import os
import re
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import quote

import filelock

from danqing import atomic
from danqing.data.cache import default_folder
from danqing.errors import ModelError
from danqing.pipelines.layout import INDEX, read_index, wanted
from danqing.pipelines.sources import MODELSCOPE

_ID = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}", re.ASCII)
_REVISION = re.compile(r"[\w.-]{1,100}", re.ASCII)
_TIMEOUT = 60
_MOST = 50_000_000
"""Bytes of a list of files."""
_FAILURES = (OSError, http.client.HTTPException, ValueError, LookupError, TypeError, AttributeError)


def fetch(source: str, revision: str | None, variant: str, others: Sequence[str]) -> Path:
    """Download a model of ModelScope; returns its folder in the cache.

    source: `modelscope:owner/name`. others: the files of a model that is no pipeline.
    Without a connection, the files that are there are used. Raises ModelError.
    """
    name, branch = source.removeprefix(MODELSCOPE), revision or "master"
    if not _ID.fullmatch(name) or ".." in name or not _REVISION.fullmatch(branch):
        raise ModelError(f"{source} is not the id of a model: write {MODELSCOPE}owner/name.")
    folder = default_folder() / "modelscope" / name / branch
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with filelock.FileLock(folder.with_name(f".{branch}.lock")):  # two processes download once
            _bring(name, branch, folder, variant, others)
    except urllib.error.HTTPError as error:
        if error.code in (401, 403):
            reason = f"accept its terms at {_host()}/models/{name} and set MODELSCOPE_API_TOKEN"
            raise ModelError(f"{source} is not open to everyone: {reason}.") from error
        raise ModelError(f"ModelScope did not return {source}: HTTP {error.code} {error.reason}.") from error
    except _FAILURES as error:
        raise ModelError(f"ModelScope did not return {source}: {error}.") from error
    return folder


def _bring(name: str, branch: str, folder: Path, variant: str, others: Sequence[str]) -> None:
    """Download the files that are not there yet."""
    try:
        listed = _listed(name, branch)
    except urllib.error.HTTPError:
        raise
    except _FAILURES:
        if any((folder / file).is_file() for file in (INDEX, *others)):
            return
        raise
    index: Mapping[str, Any] = {}
    if INDEX in listed:
        _fetch(name, branch, INDEX, listed[INDEX], folder)
        index = read_index(folder)
    files = wanted(listed, index, variant) if index else [file for file in others if file in listed]
    for file in files:
        _fetch(name, branch, file, listed[file], folder)


def _listed(name: str, branch: str) -> dict[str, tuple[int, str]]:
    """Return the size and the sha256 of each file of a repository, by its path."""
    address = f"{_host()}/api/v1/models/{quote(name)}/repo/files?Revision={quote(branch)}&Recursive=true"
    with _opened(address) as answer:
        told = json.loads(answer.read(_MOST))
    files = told["Data"]["Files"]
    return {
        str(one["Path"]): (int(one["Size"]), str(one.get("Sha256") or "").lower())
        for one in files
        if one.get("Type") != "tree" and _is_inside(str(one["Path"]))
    }


def _is_inside(path: str) -> bool:
    parts = PurePosixPath(path).parts
    return bool(parts) and not path.startswith("/") and "\\" not in path and ".." not in parts


def _fetch(name: str, branch: str, file: str, told: tuple[int, str], folder: Path) -> None:
    """Download a file, unless it is there in its size and, if it is small, with its sha256."""
    size, sha256 = told
    path = folder / file
    if path.is_file() and path.stat().st_size == size and (size > _MOST or _is(path, sha256)):
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    hasher = hashlib.sha256()
    with (
        _opened(f"{_host()}/models/{quote(name)}/resolve/{quote(branch)}/{quote(file)}") as answer,
        atomic.replacing(path) as target,
    ):
        while block := answer.read(1 << 20):
            target.write(block)
            hasher.update(block)
        if target.tell() != size or (sha256 and hasher.hexdigest() != sha256):
            raise ModelError(f"{file} of {name} did not arrive as ModelScope lists it: try again.")


def _is(path: Path, sha256: str) -> bool:
    return not sha256 or hashlib.sha256(path.read_bytes()).hexdigest() == sha256


def _opened(address: str) -> Any:
    token = os.environ.get("MODELSCOPE_API_TOKEN")
    request = urllib.request.Request(address, headers={"User-Agent": "danqing"})
    if token:  # never for the host of files that an answer leads to
        request.add_unredirected_header("Authorization", f"Bearer {token}")
    return urllib.request.build_opener().open(request, timeout=_TIMEOUT)  # urlopen would keep its proxies


def _host() -> str:
    domain = os.environ.get("MODELSCOPE_DOMAIN") or "www.modelscope.cn"
    return (domain if "://" in domain else f"https://{domain}").rstrip("/")
