"""The model that comes with the package, which commands and `load` find by its name."""

from pathlib import Path

DEMO = "demo"
DEMO_FOLDER = Path(__file__).parent / DEMO


def find(name: str | Path) -> Path | None:
    """Return the folder of the shipped model with this name.

    None if there is no such model, or if the name is also that of a file or folder here.
    """
    return DEMO_FOLDER if str(name) == DEMO and not Path(name).exists() else None
