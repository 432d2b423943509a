"""Options that all editing commands share, and what they do: run the edit over files, print, exit."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from danqing import progress
from danqing.cli import output
from danqing.errors import ConfigError
from danqing.quantities import memory as in_words
from danqing.trust.settings import MarkSettings

if TYPE_CHECKING:
    from danqing.editing.batch import BatchResult, Plan
    from danqing.editing.contract import Edit

_LISTED = 20
"""How many failures and notes are printed; all are in the JSON and the manifest."""


InputArgument = Annotated[
    list[str],
    typer.Argument(
        metavar="INPUT...",
        help="An image, a folder (with all folders below it), a zip, or a pattern such as 'photos/*.jpg'.",
    ),
]
OutOption = Annotated[
    Path,
    typer.Option(
        help="A folder or a .zip, where results keep their names; for one image also the name of a file.",
        metavar="FILE|DIR|ZIP",
    ),
]
VersionsOption = Annotated[
    int, typer.Option("-n", min=1, help="How many versions of each image; several go to folders 1/, 2/ ...")
]
StripOption = Annotated[
    bool,
    typer.Option("--strip", help="Leave out metadata: EXIF, texts and resolution; colours stay as they are."),
]
DryRunOption = Annotated[
    bool, typer.Option("--dry-run", help="Only report what would be done; nothing is edited or written.")
]
SequenceOption = Annotated[
    bool,
    typer.Option(
        "--sequence", help="The images are the frames of a film: they share one seed; report flicker."
    ),
]
MemoryOption = Annotated[
    str | None,
    typer.Option(
        help="The most memory that the process may use; larger images are refused before work starts.",
        metavar="SIZE",
        show_default="no limit",
    ),
]
TileOption = Annotated[
    int,
    typer.Option(
        min=0, help="The side of the tiles that large images are edited in, in pixels; 0 chooses it."
    ),
]
OverlapOption = Annotated[
    int | None,
    typer.Option(min=0, help="How far tiles overlap, in pixels.", show_default="as the model needs"),
]
StrengthOption = Annotated[
    float,
    typer.Option(min=0.0, max=1.0, help="How much to change: 0 returns the input byte for byte, 1 is all."),
]
CompareOption = Annotated[
    Path | None,
    typer.Option(help="Also write a page that compares inputs and results.", metavar="PAGE.html"),
]


ReferenceOption = Annotated[
    Path | None,
    typer.Option(help="True images by the names of the inputs, for the page of --compare.", metavar="DIR"),
]


def check(source: list[str], out: Path, marks: str | None) -> None:
    """Check input, output and marks before a model is loaded; raises as `edit_files` does."""
    from danqing.editing import inputs, outputs

    MarkSettings.of(marks)
    outputs.check(out, inputs.find(source))


def run(
    edit: "Edit",
    source: list[str],
    out: Path,
    *,
    seed: int,
    n: int = 1,
    strip: bool = False,
    dry_run: bool = False,
    sequence: bool = False,
    marks: str | None = None,
    memory: str | None = None,
    extra: Callable[[str], Mapping[str, Any]] | None = None,
    compare: Path | None = None,
    reference: Path | None = None,
    show_seed: bool = False,
    as_json: bool = False,
) -> "BatchResult":
    """Edit files and print the result.

    marks: which marks results get, as the user wrote it.
    memory: as the user wrote it, such as `1.5G`.
    extra: see `edit_files`.
    compare: the page to write that shows inputs and results; none after a dry run.
    reference: true images, for the page.
    show_seed: whether the seed is printed, because it was picked.
    Raises typer.Exit with code 1 if some files failed, ConfigError for a reference without a page, and other
    errors as `edit_files` does.
    """
    from danqing.editing import batch, compare_page, inputs

    if reference is not None:
        if compare is None:
            raise ConfigError("--reference is for the page of --compare: add --compare PAGE.html.")
        inputs.find(reference)  # reports a mistake before the work
    with progress.Bar() as bar:
        result = batch.edit_files(
            edit,
            source,
            out,
            seed=seed,
            n=n,
            strip=strip,
            dry_run=dry_run,
            sequence=sequence,
            marks=marks,
            memory=memory,
            extra=extra,
            on_plan=_tell,
            on_progress=lambda done, total, name: bar.update(
                done, total, edit.verb.capitalize(), detail=name
            ),
        )
    page = None if dry_run else compare
    if page is not None:
        compare_page.write_page(compare_page.compare(edit, result, reference, marks=marks), page)
    output.result(
        {
            "out": result.out,
            "seed": seed,
            "dry_run": dry_run,
            "written": result.written,
            "skipped": result.skipped,
            "failed": result.failed,
            "notes": result.notes,
            "ignored": dict(result.inputs.ignored),
            "manifest": result.manifest,
            "flicker": result.flicker,
            "page": page,
        },
        output.facts({**_facts(result, dry_run=dry_run, seed=seed if show_seed else None), "Page": page}),
        as_json=as_json,
    )
    if result.failed:
        raise typer.Exit(1)
    return result


def _tell(plan: "Plan") -> None:
    if plan.largest:
        width, height = plan.size
        progress.say(
            f"{plan.images:,} to edit; the largest, {output.printable(plan.largest)} ({width}x{height}), "
            f"needs about {in_words(plan.peak_bytes)} of memory."
        )


def _facts(result: "BatchResult", *, dry_run: bool, seed: int | None) -> dict[str, Any]:
    """Return what is printed for people."""
    done = "Would write" if dry_run else "Written"
    single = result.manifest is None and len(result.written) == 1
    where = next(iter(result.written.values())) if single else f"{len(result.written):,} in {result.out}"
    ignored = [f"{reason}: {count:,}" for reason, count in result.inputs.ignored.items()]
    return {
        done: where,
        "Skipped": f"{len(result.skipped):,} that were done before" if result.skipped else None,
        "Failed": _listed([f"{name}: {reason}" for name, reason in result.failed.items()]),
        "Notes": _listed([f"{name}: {note}" for name, notes in result.notes.items() for note in notes]),
        "Left out": _listed(ignored),
        "Flicker": None if result.flicker is None else f"{result.flicker:+.4f} (0 is none, of a range of 1)",
        "Seed": seed,
    }


def _listed(lines: list[str]) -> str:
    more = f"\nand {len(lines) - _LISTED:,} more" if len(lines) > _LISTED else ""
    return "\n".join(lines[:_LISTED]) + more
