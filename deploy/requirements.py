"""Print what Danqing needs without PyTorch, for pip: `python deploy/requirements.py serve,onnx`.

The list comes from pyproject.toml: all dependencies but torch, and those of the extras that are named.
"""

import re
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path


def requirements(project: dict[str, object], extras: list[str]) -> Iterator[str]:
    """Yield the requirements of a project and of some extras, without torch."""
    optional = project["optional-dependencies"]
    for requirement in [*project["dependencies"], *(one for extra in extras for one in optional[extra])]:
        if own := re.fullmatch(rf"{project['name']}\[(.+)\]", requirement):
            yield from requirements({**project, "dependencies": []}, own[1].split(","))
        elif not re.match(r"torch\b", requirement):
            yield requirement


if __name__ == "__main__":
    described = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text(encoding="utf-8"))
    print("\n".join(requirements(described["project"], sys.argv[1].split(","))))
