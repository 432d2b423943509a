"""Options that select a service's database, and how to open it."""

import contextlib
import importlib.util
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from danqing.errors import ConfigError

if TYPE_CHECKING:
    from danqing.service.settings import Settings
    from danqing.service.storage.database import Database

_NEEDED = ("fastapi", "sqlalchemy", "alembic", "pythonjsonlogger")

ConfigOption = Annotated[
    Path | None, typer.Option(help="The service's configuration file.", metavar="FILE", show_default=False)
]
DataOption = Annotated[
    Path | None,
    typer.Option(
        help="The service's data folder, as in danqing serve.",
        metavar="DIR",
        show_default="danqing-service",
    ),
]
DatabaseOption = Annotated[
    str | None,
    typer.Option(
        help="postgresql://... instead of a file in --data.",
        metavar="URL",
        envvar="DANQING_DATABASE_URL",
        show_envvar=True,
        show_default=False,
    ),
]


def chosen(config: Path | None, data: Path | None, database_url: str | None) -> "Settings":
    """Return settings that say where the database of a service is.

    Raises ConfigError if packages of the service are missing.
    """
    if missing := [name for name in _NEEDED if importlib.util.find_spec(name) is None]:
        raise ConfigError(
            f"The service needs packages that are missing ({', '.join(missing)}): "
            "run pip install 'danqing[serve]'."
        )
    from danqing.service import settings

    values = settings.read(config) if config is not None else {}
    given = {"data": data, "database": database_url}
    values |= {name: value for name, value in given.items() if value is not None}
    # Which models are served does not matter here; the command line of `danqing serve` may name them.
    return settings.checked(values | {"models": {"any": "any"}, "aliases": {}})


@contextlib.contextmanager
def opened(
    config: Path | None,
    data: Path | None,
    database_url: str | None,
    *,
    new: bool = False,
    reading: bool = False,
) -> Iterator["Database"]:
    """Open the database of a service within a block.

    new: create the database if it does not exist. reading: write nothing, unless its tables are of an older
    version; this works on a read-only copy and on a full disk. Raises ConfigError if there is no database,
    and DatabaseError.
    """
    found = chosen(config, data, database_url)
    from danqing.service.storage.database import Database

    file = found.data / "service.db"
    if not (new or found.database or file.exists()):
        raise ConfigError(
            f"There is no database of a service at {file}: name yours with --data, --config or "
            "--database-url."
        )
    database = Database(found.database_url, reading=reading)
    try:
        if reading and not database.is_current():
            database.close()
            database = Database(found.database_url)
        if not database.reading:
            database.migrate()
        yield database
    finally:
        database.close()
