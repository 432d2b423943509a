"""A room imports from rooms before it, never from one behind it; nothing is ever unpickled."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src" / "danqing"
ROOMS = [
    {"errors", "version"},
    {
        "atomic",
        "randomness",
        "control_groups",
        "folder_formats",
        "machine",
        "names",
        "quantities",
        "precision",
        "options",
        "progress",
        "page",
    },
    {"images", "sheet", "weights"},
    {"image_files"},
    {"data"},
    {"text"},
    {"nets"},
    {"families", "presets"},
    {"conditions", "model", "model_card", "model_folder", "loading"},
    {"evaluation"},
    {"training"},
    {"studies"},
    {"service"},
    {"cli", "__main__"},
]
RANK = {name: rank for rank, names in enumerate(ROOMS) for name in names}


def imports(file: Path) -> Iterator[tuple[str, int]]:
    """The names below `danqing` that a file imports, at its top or within its functions."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "danqing":
            path = (node.module or "").split(".")[1:]
            yield from ((path[0], node.lineno) if path else (alias.name, node.lineno) for alias in node.names)


@pytest.mark.parametrize("file", sorted(SOURCE.rglob("*.py")), ids=lambda f: str(f.relative_to(SOURCE)))
def test_a_room_imports_only_from_those_before_it(file: Path) -> None:
    room = file.relative_to(SOURCE).parts[0].removesuffix(".py")
    if room == "__init__":  # the public names lead everywhere
        return
    for imported, line in imports(file):
        if imported in RANK:
            assert RANK[imported] <= RANK[room], f"{file}:{line} imports danqing.{imported}"


def test_every_room_has_its_place() -> None:
    rooms = {path.name.removesuffix(".py") for path in SOURCE.iterdir()} - {
        "__init__",
        "__pycache__",
        "py.typed",
    }
    assert rooms <= RANK.keys()


def test_nothing_is_unpickled() -> None:
    forbidden = re.compile(
        r"\btorch\.load\(|\bpickle\.loads?\(|\bUnpickler\(|\bjoblib\.load\(|allow_pickle=True"
    )
    for file in SOURCE.rglob("*.py"):
        assert not forbidden.search(file.read_text(encoding="utf-8")), file
