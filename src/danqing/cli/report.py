"""`danqing report`: write the report of a run, at any moment of it."""

from pathlib import Path
from typing import Annotated

import typer

from danqing.cli import output

EXAMPLES = """Examples:

  danqing report runs/photos

  open "$(danqing report runs/photos)\""""


def report(
    run: Annotated[Path, typer.Argument(help="A run folder; the run may still be training.")],
    as_json: output.JsonOption = False,
) -> None:
    """Write a run's report.html again, and print its path."""
    from danqing.training.report import document as reports

    path = reports.report(run)
    output.result({"report": path}, str(path), as_json=as_json)
