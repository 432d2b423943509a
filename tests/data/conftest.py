"""Every test of this room gets a cache folder of its own."""

from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def cache_folder(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("DANQING_CACHE", str(folder))
    monkeypatch.delenv("DANQING_DATA", raising=False)
    return folder
