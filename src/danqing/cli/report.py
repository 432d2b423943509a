"""`danqing report`: the report of a run, written anew at any moment of it."""

from pathlib import Path
from typing import Annotated

import typer

from danqing.cli import output

EXAMPLES = """Examples:

  danqing report runs/photos

  open "$(danqing report runs/photos)\""""


def report(
    run: Annotated[Path, typer.Argument(help="A run folder, of a run that is over or still goes on.")],
    as_json: output.JsonOption = False,
) -> None:
    """Write a run's report.html anew, and print where it is."""
    from danqing.training.report import document as reports

    path = reports.report(run)
    output.result({"report": path}, str(path), as_json=as_json)
