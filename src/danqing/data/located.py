"""Where images lie: the folders that may name labels, and those of splits."""

from collections.abc import Sequence
from dataclasses import dataclass

from danqing.data.files import Files
from danqing.data.split_names import split_named


@dataclass
class Found:
    """An image and its folders.

    Without the folders around all images, and without that of its split.
    """

    name: str
    path: str
    folders: list[str]
    split: str | None = None
    partner: str | None = None


def located(files: Files, names: Sequence[str]) -> list[Found]:
    """Return the folders and splits of some images.

    Folders around all of them are left out.
    """
    paths = [files.inner(name) for name in names]
    root = _wrapper(paths)
    images = [
        Found(name, path[len(root) :], path[len(root) :].split("/")[:-1])
        for name, path in zip(names, paths, strict=True)
    ]
    tops = {one.folders[0] for one in images if one.folders}
    if tops and all(split_named(top) for top in tops):
        for one in images:
            if one.folders:
                one.split = split_named(one.folders.pop(0))
    return images


def _wrapper(paths: Sequence[str]) -> str:
    """Return the folder around all images, which archives often have; a split's folder does not count."""
    root = ""
    while True:
        tops = {path[len(root) :].partition("/")[0] for path in paths}
        top = next(iter(tops))
        if len(tops) != 1 or split_named(top) or any(path == root + top for path in paths):
            return root
        root += top + "/"
