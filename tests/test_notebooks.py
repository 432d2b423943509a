"""The notebooks run from top to bottom, in a moment instead of minutes, and are stored as they ran."""

import re
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOKS = sorted((Path(__file__).parents[1] / "examples" / "notebooks").glob("*.ipynb"))


def shows_images(cells: list[nbformat.NotebookNode]) -> bool:
    """Return whether an output of the cells is an image."""
    return any("image/png" in output.get("data", {}) for cell in cells for output in cell.get("outputs", ()))


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_the_notebook_runs(path: Path, tmp_path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    for cell in notebook.cells:
        cell.source = re.sub(r"^MINUTES = .*", "MINUTES = 0.03", cell.source, flags=re.MULTILINE)
    NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(tmp_path)}}).execute()
    assert shows_images(notebook.cells)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_the_notebook_is_stored_with_what_it_shows(path: Path) -> None:
    code = [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == [*range(1, len(code) + 1)]
    assert shows_images(code)


def test_there_is_a_notebook_for_each_first_step() -> None:
    assert [path.stem for path in NOTEBOOKS] == ["compare", "first_model", "serve"]
