"""`danqing keys`: API keys of a service, with scopes, limits and expiry."""

import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from danqing import progress
from danqing.cli import output
from danqing.cli.arguments import parse_duration
from danqing.cli.database import ConfigOption, DatabaseOption, DataOption, opened
from danqing.errors import ConfigError
from danqing.locale import translate_exactly

if TYPE_CHECKING:
    from danqing.service.access.keys import Key
    from danqing.service.access.usage import UsageTotals

_CREATE = """Examples:

  danqing keys create studio

  danqing keys create shop --scope generate --model cats --rate 60 --quota 1000 --expires 30d

  danqing keys create prometheus --scope metrics"""
_LIST = """Examples:

  danqing keys list

  danqing keys list --json"""
_REVOKE = """Examples:

  danqing keys revoke shop"""
_DAY = 86_400

app = typer.Typer(
    name="keys",
    help="Manage the keys of your service: create, list and revoke them.",
    no_args_is_help=True,
)


@app.command("create", epilog=_CREATE)
def create(
    name: Annotated[str, typer.Argument(help="Who uses the key.")],
    scope: Annotated[
        list[str] | None,
        typer.Option(
            help="generate, edit, recognize, judge, metrics or admin (all of them); may be repeated.",
            show_default="generate, edit and recognize",
        ),
    ] = None,
    model: Annotated[
        list[str] | None,
        typer.Option(help="A model that the key may use; may be repeated.", show_default="all models"),
    ] = None,
    rate: Annotated[
        int | None, typer.Option(help="Requests per minute.", metavar="N", show_default="no limit")
    ] = None,
    quota: Annotated[
        int | None, typer.Option(help="Pictures per day (UTC).", metavar="N", show_default="no limit")
    ] = None,
    expires: Annotated[
        str | None,
        typer.Option(help="12h, 30d, 8w, or a date like 2030-12-31.", metavar="WHEN", show_default="never"),
    ] = None,
    config: ConfigOption = None,
    data: DataOption = None,
    database_url: DatabaseOption = None,
    as_json: output.JsonOption = False,
) -> None:
    """Create a key. It is shown only once.

    The service stores only its hash.
    """
    with opened(config, data, database_url, new=True) as database:
        from danqing.service.access import key_admin

        grant = key_admin.Grant(
            name=name,
            scopes=tuple(scope or ("generate", "edit", "recognize")),
            models=tuple(model) if model else None,
            rate=rate,
            quota=quota,
            expires=None if expires is None else _moment(expires),
        )
        key, token = key_admin.create(database, grant)
        where = database.engine.url.render_as_string(hide_password=True)
    progress.say(f"A key for {output.printable(name)}, shown only once; its hash is in {where}.")
    output.result({"key": token, **_payload(key)}, token, as_json=as_json)


@app.command("list", epilog=_LIST)
def list_keys(
    config: ConfigOption = None,
    data: DataOption = None,
    database_url: DatabaseOption = None,
    as_json: output.JsonOption = False,
) -> None:
    """List all keys, including revoked ones, with their usage."""
    with opened(config, data, database_url, reading=True) as database:
        from danqing.service.access import key_admin

        found = key_admin.list_keys(database)
    heading = ("NAME", "ID", "STATE", "SCOPES", "MODELS", "RATE", "TODAY", "PICTURES", "LAST USED", "EXPIRES")
    text = (
        output.table([heading, *(_row(key, used) for key, used in found)])
        if found
        else "There are no keys. danqing keys create NAME creates one."
    )
    payload = [{**_payload(key), "used": _used(used)} for key, used in found]
    output.result({"keys": payload}, text, as_json=as_json)


@app.command("revoke", epilog=_REVOKE)
def revoke(
    key: Annotated[str, typer.Argument(help="The key's name or id (danqing keys list).")],
    config: ConfigOption = None,
    data: DataOption = None,
    database_url: DatabaseOption = None,
    as_json: output.JsonOption = False,
) -> None:
    """Revoke a key for good.

    A running service rejects it within two seconds.
    """
    with opened(config, data, database_url) as database:
        from danqing.service.access import key_admin

        ended = key_admin.revoke(database, key)
    output.result(_payload(ended), f"{ended.name} ({ended.id}) is revoked.", as_json=as_json)


def _moment(text: str) -> float:
    """Read `30d` (from now) or `2030-12-31` (its end, UTC) as seconds since 1970; raise ConfigError."""
    if (length := parse_duration(text)) is not None:
        return time.time() + length
    try:
        return datetime.strptime(text.strip(), "%Y-%m-%d").replace(tzinfo=UTC).timestamp() + _DAY
    except ValueError as error:
        raise ConfigError(
            f"--expires {text} is not a time: write 12h, 30d or 8w (from now), or a date like 2030-12-31."
        ) from error


def _payload(key: "Key") -> dict[str, Any]:
    return {
        "id": key.id,
        "name": key.name,
        "state": key.state(time.time()),
        "scopes": key.scopes,
        "models": key.models,
        "rate": key.rate,
        "quota": key.quota,
        "created": _date(key.created),
        "expires": _date(key.expires),
        "revoked": _date(key.revoked),
    }


def _used(used: "UsageTotals") -> dict[str, Any]:
    last = None if used.last is None else _date(used.last * _DAY, "%Y-%m-%d")
    return {
        "images_today": used.today,
        "images": used.images,
        "requests": used.requests,
        "last_day": last,
    }


def _row(key: "Key", used: "UsageTotals") -> tuple[str, ...]:
    return (
        key.name,
        key.id,
        translate_exactly(key.state(time.time())),
        ",".join(key.scopes),
        translate_exactly("all") if key.models is None else ",".join(key.models),
        "" if key.rate is None else f"{key.rate:,}/min",
        f"{used.today:,}" if key.quota is None else f"{used.today:,} of {key.quota:,}",
        f"{used.images:,}",
        translate_exactly("never") if used.last is None else str(_date(used.last * _DAY, "%Y-%m-%d")),
        _date(key.expires, "%Y-%m-%d %H:%M") or "",
    )


def _date(seconds: float | None, form: str = "%Y-%m-%dT%H:%M:%SZ") -> str | None:
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC).strftime(form)
