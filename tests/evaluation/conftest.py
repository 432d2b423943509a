"""The tests of this room share a cache folder of their own."""

import os
from collections.abc import Iterator

import pytest


@pytest.fixture(scope="session", autouse=True)
def cache_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Data and features are read once for all tests, and never from the user's own cache."""
    before = os.environ.get("DANQING_CACHE")
    os.environ["DANQING_CACHE"] = str(tmp_path_factory.mktemp("cache"))
    yield
    if before is None:
        del os.environ["DANQING_CACHE"]
    else:
        os.environ["DANQING_CACHE"] = before
