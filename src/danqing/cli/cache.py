"""`danqing cache`: list the caches and delete them."""

import time
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from danqing.cli import output
from danqing.cli.arguments import parse_duration
from danqing.errors import ConfigError
from danqing.quantities import memory

if TYPE_CHECKING:
    from danqing.data.caches import Cache

_LIST = """Examples:

  danqing cache list

  danqing cache list --json"""
_CLEAR = """Examples:

  danqing cache clear --older-than 30d

  danqing cache clear features codes --dry-run

  danqing cache clear 3f1c9a20b771

  danqing cache clear all"""
_SHOWN, _SHORTEST_KEY = 12, 6

app = typer.Typer(
    name="cache",
    help="List and delete caches of your data sets; Danqing makes them again when it needs them.",
    no_args_is_help=True,
)


@app.command("list", epilog=_LIST)
def list_caches(as_json: output.JsonOption = False) -> None:
    """List the caches with their size and last use, the largest first."""
    from danqing.data import cache, caches

    found, folder = caches.find(), cache.default_folder()
    heading = ("Kind", "Key", "Size", "Last used", "Of", "")
    text = output.table([heading, *map(_row, found)]) if found else ""
    total = sum(each.bytes for each in found)
    payload = {"folder": folder, "bytes": total, "caches": [_payload(each) for each in found]}
    output.result(payload, f"{text}{memory(total)} in {folder}", as_json=as_json)


@app.command("clear", epilog=_CLEAR)
def clear(
    what: Annotated[
        list[str] | None,
        typer.Argument(
            help="A kind (data, codes, features, latents, text, downloads, shards), the first part of a "
            "key, or all."
        ),
    ] = None,
    older_than: Annotated[
        str | None, typer.Option(help="Only caches not used for this long: 12h, 30d, 8w.", metavar="TIME")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show what would be deleted.")] = False,
    as_json: output.JsonOption = False,
) -> None:
    """Delete caches, except those that are being built."""
    from danqing.data import caches

    if not what and older_than is None:
        raise ConfigError(
            "Name what to delete: a kind such as features, a key (danqing cache list), all, or --older-than "
            "30d."
        )
    age = None if older_than is None else parse_duration(older_than)
    if older_than is not None and age is None:
        raise ConfigError(f"--older-than {older_than} is not a length of time: write 12h, 30d or 8w.")
    chosen = _chosen(caches.find(), what or ["all"])
    if age is not None:
        chosen = [each for each in chosen if each.last_used <= time.time() - age]
    freed: list[Cache] = []
    busy: list[Cache] = []
    for each in chosen:
        (freed if dry_run or caches.delete(each) else busy).append(each)
    total = sum(each.bytes for each in freed)
    rows = [(each.kind, each.key[:_SHOWN], memory(each.bytes), each.name) for each in freed]
    lines = [output.table([("Kind", "Key", "Size", "Of"), *rows]) if rows else ""]
    lines += [f"{each.kind} {each.key[:_SHOWN]} is being built and stays.\n" for each in busy]
    lines.append(f"{memory(total)} {'would be freed' if dry_run else 'freed'}")
    payload = {
        "dry_run": dry_run,
        "bytes": total,
        "freed": [_payload(each) for each in freed],
        "busy": [_payload(each) for each in busy],
    }
    output.result(payload, "".join(lines), as_json=as_json)


def _chosen(found: Sequence["Cache"], what: Sequence[str]) -> list["Cache"]:
    """The caches of these kinds and keys; raises ConfigError for a word that is neither."""
    from danqing.data.caches import KINDS

    chosen: dict[tuple[str, str], Cache] = {}
    for word in what:
        by_key = [each for each in found if len(word) >= _SHORTEST_KEY and each.key.startswith(word)]
        matches = [each for each in found if word in ("all", each.kind)] or by_key
        if not matches and word not in ("all", *KINDS):
            raise ConfigError(
                f"There is no cache {word!r}: choose one of {', '.join(KINDS)}, all, or the first "
                f"{_SHORTEST_KEY} characters or more of a key (danqing cache list)."
            )
        chosen |= {(each.kind, each.key): each for each in matches}
    return list(chosen.values())


def _row(cache: "Cache") -> tuple[str, ...]:
    state = "" if cache.is_complete else "not complete"
    return cache.kind, cache.key[:_SHOWN], memory(cache.bytes), _date(cache.last_used), cache.name, state


def _date(seconds: float) -> str:
    return datetime.fromtimestamp(seconds).strftime("%Y-%m-%d %H:%M")


def _payload(cache: "Cache") -> dict[str, Any]:
    return {
        "kind": cache.kind,
        "key": cache.key,
        "name": cache.name,
        "bytes": cache.bytes,
        "last_used": datetime.fromtimestamp(cache.last_used, UTC).isoformat(timespec="seconds"),
        "is_complete": cache.is_complete,
        "paths": [str(path) for path in cache.paths],
    }
