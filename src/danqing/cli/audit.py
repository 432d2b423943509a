"""`danqing audit`: show the audit log of a service, and check that nobody changed it."""

import json
from typing import TYPE_CHECKING, Annotated

import typer

from danqing.cli import output
from danqing.cli.database import ConfigOption, DatabaseOption, DataOption, opened

if TYPE_CHECKING:
    from danqing.service.access.audit import AuditEntry

_VERIFY = """Examples:

  danqing audit verify

  danqing audit verify --head "$(cat head.txt)\""""
_SHOW = """Examples:

  danqing audit show --last 100

  danqing audit show --json"""

app = typer.Typer(
    name="audit",
    help="See what was done on your service, and check that nobody changed its log.",
    no_args_is_help=True,
)


@app.command("verify", epilog=_VERIFY)
def verify(
    head: Annotated[
        str | None,
        typer.Option(
            help="The head that an earlier verify printed: if it is missing, the log was truncated or "
            "rewritten.",
            metavar="NUMBER:HASH",
            show_default=False,
        ),
    ] = None,
    config: ConfigOption = None,
    data: DataOption = None,
    database_url: DatabaseOption = None,
    as_json: output.JsonOption = False,
) -> None:
    """Check that the audit log was not changed.

    No entry may have been changed, removed or inserted.
    """
    with opened(config, data, database_url, reading=True) as database:
        from danqing.service.access import audit

        known = None if head is None else audit.Head.parse(head.strip())
        found = audit.verify(database, known)
    text = output.facts({"Entries": f"{found.number:,}, unchanged", "Head": found})
    output.result({"entries": found.number, "intact": True, "head": found}, text, as_json=as_json)


@app.command("show", epilog=_SHOW)
def show(
    last: Annotated[int, typer.Option(min=1, max=100_000, help="How many entries to print.")] = 20,
    config: ConfigOption = None,
    data: DataOption = None,
    database_url: DatabaseOption = None,
    as_json: output.JsonOption = False,
) -> None:
    """Print the last entries of the audit log, the newest last."""
    with opened(config, data, database_url, reading=True) as database:
        from danqing.service.access import audit

        entries = database.transact(lambda session: audit.last(session, last))
    rows = [("NUMBER", "TIME", "EVENT", "FACTS"), *map(_row, entries)]
    payload = [
        {
            "number": entry.number,
            "at": entry.at,
            "event": entry.event,
            "facts": json.loads(entry.facts),
            "hash": entry.hash,
        }
        for entry in entries
    ]
    output.result({"entries": payload}, output.table(rows), as_json=as_json)


def _row(entry: "AuditEntry") -> tuple[str, ...]:
    facts = json.loads(entry.facts)
    return (
        str(entry.number),
        entry.at,
        entry.event,
        " ".join(f"{name}={value}" for name, value in facts.items()),
    )
