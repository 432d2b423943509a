"""The settings of a service: from a TOML file, then from the command line."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from danqing.errors import ConfigError, explain
from danqing.pipelines.sources import split_source
from danqing.text_encoding import decode_toml, why_unreadable
from danqing.trust.filter_settings import FilterSettings
from danqing.trust.settings import MarkSettings

MEGABYTE = 1024**2
CLASSIFIER = "filter:"
"""How the names of the classifiers of filters begin in the worker, where no client can name them."""

TRAINED = "run:"
"""How the names of models begin that were trained in the service; behind an @, the owner follows."""

_Numbers = Annotated[tuple[Annotated[int, Field(ge=0)], ...], Field(min_length=1)]


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Limits(_Section):
    """Limits of requests.

    body_bytes, file_bytes: of a body, and of one file in it.
    fields, images: of a form.
    inputs: pictures and texts of one request to recognize them.
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
    inputs: int = Field(256, ge=1)
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

    runtime: what computes models; an export is always run by its own runtime. With onnx and openvino, other
        models are exported when the service starts, once.
    workers: processes that compute; "auto" for one per GPU or, without a GPU, per NUMA node; None for as many
        as there are devices, or 1.
    devices: one for each worker, such as "cuda:1" or "cpu:0-3" (numbers of processors), instead of `device`.
    threads: of each worker, 0 for all cores, or its share of them.
    window: seconds that an idle worker waits for more orders.
    batch: pictures at once.
    queue: pictures that may be queued, not counting those of jobs.
    queue_seconds: the maximum time for all of these together.
    memory: bytes that the loaded models of each worker may take, 0 for what the machine can spare.
    """

    runtime: Literal["torch", "onnx", "openvino"] = "torch"
    device: str = "auto"
    workers: Annotated[int, Field(ge=1)] | Literal["auto"] | None = None
    devices: tuple[Annotated[str, Field(pattern=r"^(cpu|cuda|mps)(:.+)?$")], ...] = ()
    threads: int = Field(0, ge=0)
    window: float = Field(0.002, ge=0, le=0.05)
    batch: int = Field(64, ge=1)
    queue: int = Field(2048, ge=1)
    queue_seconds: float = Field(60.0, gt=0)
    memory: int = Field(0, ge=0)

    @model_validator(mode="after")
    def _exports_run_on_processors(self) -> Self:
        if self.runtime == "torch":
            return self
        for name in (self.device, *self.devices):
            if name not in ("auto", "cpu") and not name.startswith("cpu:"):
                raise ValueError(
                    f"runtime = {self.runtime} computes on processors, and there is the device {name}: leave "
                    "it out, or set runtime to torch"
                )
        return self


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


class GallerySettings(_Section):
    """The pictures that the service keeps with their settings.

    keep: days until they are deleted; 0 keeps none.
    pictures, bytes: that one key may have; what exceeds them is not kept.
    """

    keep: float = Field(0.0, ge=0)
    pictures: int = Field(100_000, ge=1)
    bytes: int = Field(20 * 1024 * MEGABYTE, ge=1024)


class TrainingSettings(_Section):
    """Training in the service.

    runs: that may run at the same time, each in a process of its own; 0 trains nothing.
    sets: data sets of one key; images: of one data set; bytes: of all data sets of one key.
    kept: runs of one key that are there, whatever has become of them.
    minutes: the largest budget of a run; one with a budget in images is stopped after as long.
    """

    runs: int = Field(0, ge=0, le=64)
    sets: int = Field(20, ge=1)
    images: int = Field(10_000, ge=1)
    bytes: int = Field(2048 * MEGABYTE, ge=1024)
    kept: int = Field(50, ge=1)
    minutes: float = Field(1440.0, gt=0)


class Settings(_Section):
    """The settings of a service.

    models: paths or hub ids, by the names that clients use; or tables with `path` and `workers`.
    model_workers: which or how many workers hold a model, by its name, from the tables of `models`; all
        workers hold any other model.
    aliases: additional names of models, such as "dall-e-2".
    adapters: paths or hub ids of adapters, by the names that clients use. Each belongs to the model that it
        was trained on. A key that is limited to some models may use the adapters that are among them.
    require_signature: files of public keys, one of which must have signed each model; empty for no
        requirement.
    marks: which marks pictures get, such as "eu,cn" or "none"; None reads `DANQING_MARKS`. See docs/trust.md.
    filters: the file with the settings of the filters of prompts and pictures; by default there are none.
    data: the folder of its database and pictures.
    database: an SQLAlchemy URL; "" for a file in `data`.
    hosts: names allowed in the `Host` header in addition to those of the loopback, while there are no keys.
    public_url: the start of the addresses of pictures, if clients reach the service through a proxy.
    drain: seconds that requests have to end when the service stops.
    log: lines for people (text) or programs (json); auto for text in a terminal.
    """

    models: dict[str, str] = Field(min_length=1)
    model_workers: dict[str, Annotated[int, Field(ge=1)] | _Numbers] = {}
    aliases: dict[str, str] = {}
    adapters: dict[Annotated[str, Field(pattern=r"^[^:,\s]{1,100}$")], str] = {}
    require_signature: tuple[Path, ...] = ()
    marks: str | None = None
    filters: FilterSettings = FilterSettings()
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
    gallery: GallerySettings = GallerySettings()
    training: TrainingSettings = TrainingSettings()

    @model_validator(mode="before")
    @classmethod
    def _models_may_name_their_workers(cls, values: Any) -> Any:
        """Move the workers of models that are given as tables to `model_workers`."""
        if not isinstance(values, dict):
            return values
        models, given = values.get("models"), values.get("model_workers", {})
        if not isinstance(models, dict) or not isinstance(given, dict):
            return values
        tables = {name: one for name, one in models.items() if isinstance(one, dict)}
        for name, table in tables.items():
            if not {"path"} <= table.keys() <= {"path", "workers"}:
                raise ValueError(f"the table of the model {name} must have a path, and may have workers")
        paths = {name: table["path"] for name, table in tables.items()}
        workers = {name: table["workers"] for name, table in tables.items() if "workers" in table}
        return {**values, "models": {**models, **paths}, "model_workers": {**given, **workers}}

    @model_validator(mode="after")
    def _workers_hold_known_models(self) -> Self:
        if unknown := sorted(self.model_workers.keys() - self.models.keys()):
            raise ValueError(f"{unknown[0]} has workers, but is not a model of this service")
        return self

    @model_validator(mode="after")
    def _aliases_lead_somewhere(self) -> Self:
        for alias, name in self.aliases.items():
            if name not in self.models:
                raise ValueError(f"the alias {alias} refers to {name}, which is not a model of this service")
        return self

    @field_validator("filters", mode="before")
    @classmethod
    def _filters_are_in_a_file(cls, value: Any) -> FilterSettings:
        if isinstance(value, FilterSettings):
            return value
        if not isinstance(value, str | Path):
            raise ValueError('give the path of a file with their settings, such as "filters.toml"')
        try:
            return FilterSettings.read(value)
        except ConfigError as error:
            raise ValueError(str(error)) from error

    @model_validator(mode="after")
    def _names_are_free(self) -> Self:
        for name in self.adapters:
            if name in self.models or name in self.aliases:
                raise ValueError(f"a model and an adapter are called {name}: rename one of them")
        for name in (*self.models, *self.aliases):
            if name.startswith(CLASSIFIER):
                raise ValueError(
                    f"the name {name} begins with {CLASSIFIER}, as those of filters do: change it"
                )
            if name.startswith(TRAINED):
                raise ValueError(
                    f"the name {name} begins with {TRAINED}, as those of trained models do: change it"
                )
        return self

    @model_validator(mode="after")
    def _marks_are_known(self) -> Self:
        try:
            settings = MarkSettings.of(self.marks)
        except ConfigError as error:
            raise ValueError(str(error)) from error
        if settings.credentials == "sidecar":
            raise ValueError("an answer has no place for credentials=sidecar: write embedded or off")
        return self

    @property
    def classifiers(self) -> dict[str, str]:
        """Return the folders of trained classifiers by their names in the worker."""
        every = enumerate(self.filters.images)
        return {f"{CLASSIFIER}{number}": each.network for number, each in every if each.is_trained}

    @property
    def all_models(self) -> dict[str, str]:
        """Return what the worker opens: models, then classifiers of filters."""
        return {**self.models, **self.classifiers}

    @property
    def mark_settings(self) -> MarkSettings:
        """Return which marks pictures get."""
        return MarkSettings.of(self.marks)

    @property
    def database_url(self) -> str:
        """Return the URL of the database."""
        return self.database or f"sqlite:///{self.data / 'service.db'}"


def read(path: Path) -> dict[str, Any]:
    """Read a configuration file without checking its values.

    Paths in it are relative to its folder. Raises ConfigError.
    """
    try:
        values = decode_toml(path.read_bytes())
    except FileNotFoundError as error:
        raise ConfigError(f"There is no configuration file at {path}.") from error
    except (OSError, ValueError) as error:
        raise ConfigError(f"The configuration {path} cannot be read: {why_unreadable(error)}.") from error
    folder = path.parent
    if isinstance(models := values.get("models"), dict):
        values["models"] = {name: _from(folder, model) for name, model in models.items()}
    if isinstance(adapters := values.get("adapters"), dict):
        values["adapters"] = {name: _from(folder, adapter) for name, adapter in adapters.items()}
    if isinstance(signers := values.get("require_signature"), list):
        values["require_signature"] = [folder / key if isinstance(key, str) else key for key in signers]
    if isinstance(filters := values.get("filters"), str):
        values["filters"] = folder / filters
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
        raise ConfigError(explain(error, _names(Settings))) from error


def _names(section: type[BaseModel], before: str = "") -> Iterator[str]:
    """The dotted names of all settings."""
    for name, field in section.model_fields.items():
        yield before + name
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from _names(field.annotation, f"{before}{name}.")


def _from(folder: Path, model: Any) -> Any:
    """Resolve a model's path relative to `folder`; a hub id stays as it is."""
    if isinstance(model, dict) and "path" in model:
        return {**model, "path": _from(folder, model["path"])}
    if not isinstance(model, str):
        return model
    place, _ = split_source(model) if not _is_there(folder / model) else (model, {})
    return f"{folder / place}{model[len(place) :]}" if _is_there(folder / place) else model


def _is_there(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:  # a name that is too long for a file
        return False
