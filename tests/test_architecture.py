"""A package imports only from packages of a lower rank, also for types; nothing is ever unpickled."""

import ast
import graphlib
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src" / "danqing"
PACKAGES = [
    {"errors", "version"},
    {
        "atomic",
        "attributes",
        "randomness",
        "control_groups",
        "frames",
        "folder_formats",
        "interpreter",
        "locale",
        "machine",
        "names",
        "threads",
        "quantities",
        "text_encoding",
        "precision",
        "options",
        "arrays",
        "dormand_prince",
        "guidance",
        "samplers",
        "progress",
        "page",
    },
    {"sizes", "marks", "images", "sheet", "weights", "live_bytes", "pretrained", "cluster"},
    {"image_files"},
    {"trust"},
    {"data"},
    {"text", "requested", "requested_attributes"},
    {"nets", "pipelines"},
    {"families", "presets"},
    {"learners"},
    {"model"},
    {"editing"},
    {"evaluation"},
    {"recognition"},
    {"training"},
    {"compress"},
    {"studies"},
    {"judging"},
    {"service"},
    {"cli", "__main__"},
]
RANK = {name: rank for rank, names in enumerate(PACKAGES) for name in names}
"""Packages and modules by their rank: one imports from those of the same rank or of a lower one."""
SERVICE = [
    {"settings", "json_output"},
    {"errors"},
    {"fairness", "storage", "observability"},
    {"access", "engine"},
    {"failures"},
    {"pictures"},
    {"requests", "gallery"},
    {"http", "jobs", "judging", "training"},
    {"parts"},
    {"routes", "pages"},
    {"app"},
]
SERVICE_RANK = {name: rank for rank, names in enumerate(SERVICE) for name in names}


def imports(file: Path) -> Iterator[tuple[str, int]]:
    """The names below `danqing` that a file imports, at its top or within its functions."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "danqing":
            path = (node.module or "").split(".")[1:]
            yield from ((path[0], node.lineno) if path else (alias.name, node.lineno) for alias in node.names)


@pytest.mark.parametrize("file", sorted(SOURCE.rglob("*.py")), ids=lambda f: str(f.relative_to(SOURCE)))
def test_a_package_imports_only_from_those_before_it(file: Path) -> None:
    package = file.relative_to(SOURCE).parts[0].removesuffix(".py")
    if package not in RANK:  # the public names lead everywhere; test_every_package_has_a_rank reports others
        return
    for imported, line in imports(file):
        if imported in RANK:
            assert RANK[imported] <= RANK[package], (
                f"{file}:{line} imports danqing.{imported}, which has a higher rank than {package}: move the "
                "code to where it can be imported, or pass the object in."
            )


def modules_imported(file: Path) -> Iterator[tuple[str, int]]:
    """The modules below `danqing` that a file imports, for types as well, as dotted paths."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "danqing":
            for alias in node.names:
                inside = ".".join([*(node.module or "").split(".")[1:], alias.name])
                is_module = (SOURCE / inside.replace(".", "/")).with_suffix(".py").exists()
                yield (inside if is_module else inside.rpartition(".")[0]), node.lineno


@pytest.mark.parametrize(
    "file", sorted((SOURCE / "service").rglob("*.py")), ids=lambda f: str(f.relative_to(SOURCE / "service"))
)
def test_a_package_of_the_service_imports_only_from_lower_ranks(file: Path) -> None:
    own = file.relative_to(SOURCE / "service").parts[0].removesuffix(".py")
    if own not in SERVICE_RANK:  # test_every_package_of_the_service_has_a_rank reports it
        return
    for module, line in modules_imported(file):
        outer, _, inside = module.partition(".")
        package = inside.split(".")[0]
        if outer == "service" and package != own:
            assert SERVICE_RANK.get(package, -1) < SERVICE_RANK[own], (
                f"{file}:{line} imports danqing.{module}, which is not of a lower rank."
            )


def test_every_package_of_the_service_has_a_rank() -> None:
    packages = {path.name.removesuffix(".py") for path in (SOURCE / "service").iterdir()}
    unranked = (packages - {"__init__", "__pycache__"}) ^ SERVICE_RANK.keys()
    assert not unranked, (
        f"Bring {sorted(unranked)} into line with SERVICE above and the table of ranks in "
        "docs/architecture.md."
    )


def test_no_modules_import_each_other() -> None:
    graph = {}
    for file in SOURCE.rglob("*.py"):
        parts = file.relative_to(SOURCE).with_suffix("").parts
        if parts[-1] != "__init__":
            graph[".".join(parts)] = {module for module, _ in modules_imported(file)} - {".".join(parts)}
    tuple(graphlib.TopologicalSorter(graph).static_order())  # raises CycleError, with the modules in it


def test_every_package_has_a_rank() -> None:
    packages = {path.name.removesuffix(".py") for path in SOURCE.iterdir()}
    unranked = (packages - {"__init__", "__pycache__", "py.typed"}) ^ RANK.keys()
    assert not unranked, (
        f"Bring {sorted(unranked)} into line with PACKAGES above and the table of packages in "
        "docs/architecture.md."
    )


def test_nothing_is_unpickled() -> None:
    forbidden = re.compile(
        r"\btorch\.load\(|\bpickle\.loads?\(|\bUnpickler\(|\bjoblib\.load\(|allow_pickle=True"
    )
    for file in SOURCE.rglob("*.py"):
        assert not forbidden.search(file.read_text(encoding="utf-8")), file
