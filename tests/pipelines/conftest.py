"""Tiny pipelines, each written once for all tests."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.tiny_pipelines import written

Folder = Callable[[str], Path]


@pytest.fixture(scope="session")
def pipeline_folder(tmp_path_factory: pytest.TempPathFactory) -> Folder:
    """From the kind of a tiny pipeline to its folder, which must not be changed."""
    home, made = tmp_path_factory.mktemp("pipelines"), dict[str, Path]()

    def folder(kind: str) -> Path:
        if kind not in made:
            made[kind] = written(kind, home / kind)
        return made[kind]

    return folder
