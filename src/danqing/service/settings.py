"""The settings of a service: from a TOML file, then from the command line."""

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from danqing.errors import ConfigError, explain

MEGABYTE = 1024**2


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Limits(_Section):
    """Limits of requests.

    body_bytes, file_bytes: of a body, and of one file in it.
    fields, images: of a form.
    pixels, side: of a picture that is uploaded or requested.
    prompt: characters.
    depth: nesting of JSON.
    n: pictures of one request.
    archive_entries, archive_bytes: files in a zip of pictures, and their bytes unpacked; the files of the
        results may have as many.
    seconds: until a request expires.
    requests: that are answered at the same time; at most a quarter of them for one key.
    bytes_in_flight: that all requests may hold, of bodies and of the pictures in them or at their addresses;
        running jobs may hold as many.
    """

    body_bytes: int = Field(64 * MEGABYTE, ge=1024)
    file_bytes: int = Field(50 * MEGABYTE, ge=1024)
    fields: int = Field(64, ge=1)
    images: int = Field(16, ge=1)
    pixels: int = Field(16_777_216, ge=16)
    side: int = Field(8192, ge=4)
    prompt: int = Field(32_000, ge=1)
    depth: int = Field(32, ge=2)
    n: int = Field(10, ge=1)
    archive_entries: int = Field(1000, ge=1)
    archive_bytes: int = Field(256 * MEGABYTE, ge=1024)
    seconds: float = Field(120.0, gt=0)
    requests: int = Field(1024, ge=1)
    bytes_in_flight: int = Field(512 * MEGABYTE, ge=4096)

    @model_validator(mode="after")
    def _bodies_fit(self) -> Self:
        if self.bytes_in_flight < 4 * self.body_bytes:  # a job's is read, decoded and written
            raise ValueError(
                f"bytes_in_flight must be at least four times body_bytes (got {self.bytes_in_flight:,} and "
                f"{self.body_bytes:,})"
            )
        return self


class EngineSettings(_Section):
    """How pictures are computed.

    threads: of the worker, 0 for all cores.
    window: seconds that an idle worker waits for more orders.
    batch: pictures at once.
    queue: pictures that may be queued, not counting those of jobs.
    queue_seconds: the maximum time for all of these together.
    memory: bytes that loaded models may take, 0 for what the machine can spare.
    """

    device: str = "auto"
    threads: int = Field(0, ge=0)
    window: float = Field(0.002, ge=0, le=0.05)
    batch: int = Field(64, ge=1)
    queue: int = Field(2048, ge=1)
    queue_seconds: float = Field(60.0, gt=0)
    memory: int = Field(0, ge=0)


class Outbound(_Section):
    """The hosts that the service may call; by default none.

    pictures: for `image_url`.
    webhooks: for messages about jobs.
    seconds: that a call may take.

    `*.example.org` allows all hosts below a domain.
    """

    pictures: tuple[str, ...] = ()
    webhooks: tuple[str, ...] = ()
    seconds: float = Field(10.0, gt=0)


class JobSettings(_Section):
    """Limits of jobs.

    waiting, bytes: unfinished jobs that one key may have, and the size of their bodies together.
    keep: days until a finished job and its pictures are deleted.
    seconds: that painting one job may take.
    lease: seconds of silence after which the jobs of a server are run by another.
    attempts: servers that may become silent while they run a job before it fails.
    """

    waiting: int = Field(10_000, ge=1)
    bytes: int = Field(1024 * MEGABYTE, ge=1024)
    keep: float = Field(7.0, gt=0)
    seconds: float = Field(3600.0, gt=0)
    lease: float = Field(15.0, gt=0)
    attempts: int = Field(5, ge=1)


class Settings(_Section):
    """The settings of a service.

    models: paths or hub ids, by the names that clients use.
    aliases: additional names of models, such as "dall-e-2".
    data: the folder of its database and pictures.
    database: an SQLAlchemy URL; "" for a file in `data`.
    hosts: names allowed in the `Host` header in addition to those of the loopback, while there are no keys.
    public_url: the start of the addresses of pictures, if clients reach the service through a proxy.
    drain: seconds that requests have to end when the service stops.
    log: lines for people (text) or programs (json); auto for text in a terminal.
    """

    models: dict[str, str] = Field(min_length=1)
    aliases: dict[str, str] = {}
    host: str = "127.0.0.1"
    port: int = Field(8000, ge=0, le=65535)
    data: Path = Path("danqing-service")
    database: str = ""
    hosts: tuple[str, ...] = ()
    public_url: str = Field("", pattern=r"^(https?://[^\s?#]+)?$")
    drain: float = Field(30.0, ge=0)
    log: Literal["auto", "json", "text"] = "auto"
    limits: Limits = Limits()
    engine: EngineSettings = EngineSettings()
    outbound: Outbound = Outbound()
    jobs: JobSettings = JobSettings()

    @model_validator(mode="after")
    def _aliases_lead_somewhere(self) -> Self:
        for alias, name in self.aliases.items():
            if name not in self.models:
                raise ValueError(f"the alias {alias} refers to {name}, which is not a model of this service")
        return self

    @property
    def database_url(self) -> str:
        """Return the URL of the database."""
        return self.database or f"sqlite:///{self.data / 'service.db'}"


def read(path: Path) -> dict[str, Any]:
    """Read a configuration file without checking its values.

    Paths in it are relative to its folder. Raises ConfigError.
    """
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ConfigError(f"There is no configuration file at {path}.") from error
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"The configuration {path} cannot be read: {error}.") from error
    folder = path.parent
    if isinstance(models := values.get("models"), dict):
        values["models"] = {name: _from(folder, model) for name, model in models.items()}
    if isinstance(data := values.get("data"), str):
        values["data"] = folder / data
    return values


def checked(values: Mapping[str, Any]) -> Settings:
    """Check plain values.

    Raises ConfigError with the names of those that are wrong.
    """
    try:
        return Settings.model_validate(dict(values))
    except ValidationError as error:
        raise ConfigError(explain(error)) from error


def _from(folder: Path, model: Any) -> Any:
    """Resolve a model's path relative to `folder`; a hub id stays as it is."""
    inside = folder / model if isinstance(model, str) else None
    return str(inside) if inside is not None and inside.exists() else model
