"""`danqing serve`: offer your models and indexes through the OpenAI API."""

import importlib.util
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from danqing import progress
from danqing.cli import output
from danqing.errors import ConfigError
from danqing.pipelines.sources import MODELSCOPE, split_source

if TYPE_CHECKING:
    from danqing.service.settings import Settings

EXAMPLES = """Examples:

  danqing serve runs/photos

  danqing serve runs/painter cats=runs/cats --port 9000 --alias dall-e-2=cats

  danqing serve kinds=runs/kinds photos=photos.index

  danqing serve xl=stabilityai/stable-diffusion-xl-base-1.0,dtype=bfloat16

  danqing serve photos-onnx

  danqing serve runs/photos --runtime openvino

  danqing serve runs/tiles --adapter stone=runs/stone --adapter gold=runs/gold

  danqing serve --config service.toml

  danqing serve runs/photos --require-signature release.pub --filters filters.toml

  danqing keys create studio && danqing serve runs/photos --host 0.0.0.0"""

PLATFORM = sys.platform
_LOG_LEVELS = {
    progress.Verbosity.QUIET: "error",
    progress.Verbosity.NORMAL: "info",
    progress.Verbosity.VERBOSE: "debug",
}
_NEEDED = (
    "fastapi",
    "uvicorn",
    "httptools",
    "multipart",
    "httpx",
    "sqlalchemy",
    "alembic",
    "prometheus_client",
)


def serve(
    models: Annotated[
        list[str] | None,
        typer.Argument(
            help="Run folders, model folders, exports, folders of indexes, or hub ids; NAME=PATH serves one "
            "under another name.",
            metavar="[NAME=]MODEL...",
            show_default=False,
        ),
    ] = None,
    config: Annotated[
        Path | None, typer.Option(help="A TOML file with these and more settings.", metavar="FILE")
    ] = None,
    host: Annotated[
        str | None,
        typer.Option(help="The address to listen on.", show_default="127.0.0.1, only this machine"),
    ] = None,
    port: Annotated[
        int | None, typer.Option(min=0, max=65535, help="0 takes any free port.", show_default="8000")
    ] = None,
    alias: Annotated[
        list[str] | None,
        typer.Option(help="An additional name for a model; may be repeated.", metavar="NAME=MODEL"),
    ] = None,
    adapter: Annotated[
        list[str] | None,
        typer.Option(
            help="An adapter of a model that is served, which requests may name; may be repeated.",
            metavar="[NAME=]ADAPTER",
        ),
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option(
            help="The folder for jobs, keys and pictures.", metavar="DIR", show_default="danqing-service"
        ),
    ] = None,
    database_url: Annotated[
        str | None,
        typer.Option(
            help="postgresql://... instead of a file in --data.",
            metavar="URL",
            envvar="DANQING_DATABASE_URL",
            show_envvar=True,
        ),
    ] = None,
    require_signature: Annotated[
        list[Path] | None,
        typer.Option(
            help="Reject models that the key of this public key has not signed; may be repeated.",
            metavar="KEY.pub",
            show_default="any model",
        ),
    ] = None,
    marks: Annotated[
        str | None,
        typer.Option(
            help="The marks of pictures, such as eu,cn or none.", show_default="DANQING_MARKS, or eu"
        ),
    ] = None,
    filters: Annotated[
        Path | None,
        typer.Option(
            help="The file with the settings of filters of prompts and pictures.",
            metavar="FILE.toml",
            show_default="no filters",
        ),
    ] = None,
    runtime: Annotated[
        Literal["torch", "onnx", "openvino"] | None,
        typer.Option(
            help="What computes models. An export is always run by its own runtime; with onnx and openvino, "
            "other models are exported first, once.",
            envvar="DANQING_RUNTIME",
            show_envvar=True,
            show_default="torch",
        ),
    ] = None,
    device: Annotated[
        str | None, typer.Option(help="cpu, cuda, mps.", show_default="the fastest available")
    ] = None,
    workers: Annotated[
        str | None,
        typer.Option(
            help="Processes that compute; auto for one per GPU or NUMA node.", metavar="N", show_default="1"
        ),
    ] = None,
    log: Annotated[
        Literal["auto", "json", "text"] | None,
        typer.Option(help="The format of the log on stderr.", show_default="text in a terminal, else json"),
    ] = None,
    as_json: output.JsonOption = False,
) -> None:
    """Serve models and indexes through the OpenAI API.

    Only on this machine, until you create a key.
    """
    if PLATFORM == "win32":  # Windows cannot pass a socket to the worker
        raise ConfigError("The service runs on Linux and macOS: on Windows, run it in WSL or a container.")
    if missing := [name for name in _NEEDED if importlib.util.find_spec(name) is None]:
        raise ConfigError(f"The service needs {', '.join(missing)}: run pip install 'danqing[serve]'.")
    settings = read_settings(
        config,
        models=named_models(models or []),
        aliases=dict(_pair(text, "--alias dall-e-2=cats") for text in alias or []),
        adapters=named_models(adapter or []),
        require_signature=require_signature or None,
        marks=marks,
        filters=filters,
        engine=_given(runtime=runtime, device=device, workers=workers),
        host=host,
        port=port,
        data=data,
        database=database_url,
        log=log,
    )
    _check_signers(settings.require_signature)
    from danqing.service.app import create_app
    from danqing.service.http import server
    from danqing.service.observability import logs, tracing

    app = create_app(settings)

    def tell(url: str) -> None:
        offers = app.state.service.scheduler.offers.values()
        names = [offer.name for offer in offers if offer.fault is None]
        for offer in offers:
            if offer.fault is not None:
                progress.say(f"{offer.name} cannot be used: {offer.fault}", style="yellow")
        output.result({"url": url, "models": names}, as_json=as_json)
        progress.say(f"Danqing serves {', '.join(names) or 'no model'} at {url}/ (Ctrl-C stops it).")

    level = _LOG_LEVELS[progress.verbosity()]
    with logs.configured(settings.log, level), tracing.configured():
        server.serve(app, settings.host, settings.port, drain=settings.drain, on_ready=tell)


def read_settings(config: Path | None, **given: Any) -> "Settings":
    """Return the file's settings, overridden by those of the command line."""
    from danqing.service import settings

    values = settings.read(config) if config is not None else {}
    for name, value in given.items():
        if isinstance(value, dict):
            inside = values.get(name, {})
            values[name] = {**inside, **value} if isinstance(inside, dict) else inside
        elif value is not None:
            values[name] = value
    if not values["models"]:
        raise ConfigError(
            "Say which models to serve: danqing serve runs/photos, or --config FILE with [models]."
        )
    return settings.checked(values)


def _given(**options: str | None) -> dict[str, str]:
    """Return the options that are on the command line."""
    return {name: value for name, value in options.items() if value is not None}


def _check_signers(paths: Sequence[Path]) -> None:
    """Check public keys before the service starts; raises TrustError."""
    if not paths:
        return
    from danqing.trust.extra import check_cryptography

    check_cryptography()
    from danqing.trust import keys

    for path in paths:
        keys.read_signer(path)


def named_models(models: list[str]) -> dict[str, str]:
    """Return models by the names that clients use.

    `cats=runs/a`, or the last part of the path.
    """
    named: dict[str, str] = {}
    for text in models:
        is_named = "=" in text and "," not in text.partition("=")[0] and not Path(text).exists()
        name, path = _pair(text, "cats=runs/cats") if is_named else ("", text)
        name = name or _last_part(split_source(path)[0].removeprefix(MODELSCOPE))
        if name in named:
            raise ConfigError(f"Two models would be called {name}: rename one, as in {name}-2={path}.")
        named[name] = path
    return named


def _last_part(path: str) -> str:
    """Return `photos` for `runs/photos` and `runs/photos/model`."""
    parts = [part for part in Path(path).absolute().parts if part not in ("/", "..")]
    if len(parts) > 1 and parts[-1] == "model" and (Path(path).parent / "config.toml").exists():
        parts.pop()
    return parts[-1] if parts else "model"


def _pair(text: str, example: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not (equals and name.strip() and value.strip()):
        raise ConfigError(f"{text} is not of the form NAME=MODEL: write for example {example}.")
    return name.strip(), value.strip()
