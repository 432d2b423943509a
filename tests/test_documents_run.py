"""What the documentation shows does what it says: each command and Python block runs, page by page.

In a small world: tiny models, small budgets, a few images. `tests/documents/substitutes.py` says what stands
for what a reader types. The Chinese pages show the same (`test_documents.py`).
"""

from pathlib import Path

import pytest

from tests import tiny_pipelines
from tests.documents import pages, substitutes, world
from tests.documents.pages import Code, Command
from tests.documents.reader import Reader

pytestmark = pytest.mark.slow
PAGES = [page for page in pages.pages() if list(pages.typed(page))]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the small world in `here`, and what all pages share beside it."""
    home = tmp_path_factory.mktemp("reader")
    world.write(home / "here")
    tiny_pipelines.written("sdxl", home / "here" / "my-pipeline")
    return home


@pytest.fixture(scope="module")
def brought(home: Path) -> frozenset[str]:
    """The names of what the reader brings, and no command has written."""
    return frozenset(path.name for path in (home / "here").iterdir())


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_page_does_what_it_says(
    page: Path, home: Path, brought: frozenset[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(home / "here")
    monkeypatch.setenv("DANQING_CACHE", str(home / "cache"))
    monkeypatch.setenv("DANQING_TRUST", str(home / f"trust-{page.stem}"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.delenv("DANQING_MARKS")
    world.clear(Path.cwd(), brought)
    reader = Reader(page.stem, home / "models", monkeypatch)
    shown = [one for one in pages.typed(page) if not is_excused(one)]
    faults = [reader.type(one) if isinstance(one, Command) else reader.execute(one) for one in shown]
    assert not any(faults), "\n\n".join(filter(None, faults))


def test_what_is_excused_is_in_the_documentation() -> None:
    shown = [one for page in PAGES for one in pages.typed(page)]
    for excused in substitutes.EXCUSED:
        assert any(is_meant(one, excused) for one in shown), excused


def is_excused(one: Command | Code) -> bool:
    return any(is_meant(one, excused) for excused in substitutes.EXCUSED)


def is_meant(one: Command | Code, excused: str) -> bool:
    """Whether an entry of EXCUSED is this whole command, or a part of this block."""
    return one.line == excused if isinstance(one, Command) else excused in one.text
