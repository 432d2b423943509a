"""`danqing shrink`: measure the forms of a model on this machine, and keep the best."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from danqing import progress
from danqing.cli import output
from danqing.cli.arguments import UnseenSplitOption

if TYPE_CHECKING:
    from danqing.compress.shrink import Shrinkage

EXAMPLES = """Examples:

  danqing shrink runs/photos --data photos/

  danqing shrink runs/photos --data photos/ --out photos-fast

  danqing shrink runs/photos --data photos/ --budget 2MB --out photos-small

  danqing shrink runs/photos --data photos/ --minutes 10 --out photos-student"""

_TOO_LARGE = 2
"""The exit code where no form suits the budget."""


def shrink(
    model: Annotated[
        str, typer.Argument(help="A run folder, a model folder, the id of a model on the hub, or demo.")
    ],
    data: Annotated[
        str, typer.Option(help="The real images: a folder, file or built-in name, as danqing train takes it.")
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "-o",
            help="A new folder for the chosen form, or that of an earlier result.",
            show_default="nothing is written",
        ),
    ] = None,
    budget: Annotated[
        str | None,
        typer.Option(help="How large it may be: 2MB, 500kB, or 2x for half of the original.", metavar="SIZE"),
    ] = None,
    minutes: Annotated[
        float | None,
        typer.Option(
            min=0.0,
            help="How long to train a student of half the width, which is measured too.",
            show_default="no student",
        ),
    ] = None,
    n: Annotated[
        int | None,
        typer.Option(
            "-n", min=2, help="How many images each form samples.", show_default="160 to 640, by speed"
        ),
    ] = None,
    features: Annotated[
        str, typer.Option(help="The network that images are compared by, as for danqing evaluate.")
    ] = "auto",
    split: UnseenSplitOption = None,
    seed: Annotated[int, typer.Option(help="The seed of the samples.")] = 0,
    as_json: output.JsonOption = False,
) -> None:
    """Measure smaller and faster forms of a model, and keep the best."""
    with progress.Bar() as bar:
        bar.update(0, None, "Starting")  # torch alone takes seconds to import
        import danqing

        found = danqing.shrink(
            model,
            data,
            out=out,
            budget=budget,
            minutes=minutes,
            n=n,
            features=features,
            split=split,
            seed=seed,
            on_progress=lambda done, total, what: bar.update(done, total or None, what),
        )
    output.result({**found.to_json(), "folder": found.folder}, _text(found), as_json=as_json)
    if found.is_too_large:
        raise typer.Exit(_TOO_LARGE)


def _text(found: "Shrinkage") -> str:
    """The table of forms, those that are not possible, and what was chosen."""
    from danqing.evaluation.scores import number
    from danqing.quantities import memory

    original = found.forms[0]
    rows = [("", "images/s", "times as fast", "size", "of original", found.score, "95% interval", "")]
    for form in found.forms:
        if not form.problem:
            mark = "chosen" if form.name == found.chosen else ""
            rows.append(
                (
                    form.name,
                    number(form.images_per_second),
                    f"{form.speedup:.2f}",
                    memory(form.bytes),
                    f"{form.bytes / original.bytes:.2f}",
                    number(form.score),
                    " to ".join(map(number, form.interval or ())),
                    mark if form.is_as_good_as(original) else "worse",
                )
            )
    problems = "".join(f"{form.name}: {form.problem}\n" for form in found.forms if form.problem)
    facts = output.facts({"Form": found.folder})
    return "\n".join(filter(None, (output.table(rows), output.printable(problems), found.verdict, facts)))
