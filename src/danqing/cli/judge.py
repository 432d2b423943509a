"""`danqing judge`: people judge models, folders and real images without knowing which is which."""

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from danqing import progress
from danqing.cli import output
from danqing.cli.arguments import DeviceOption, parse_size
from danqing.cli.database import ConfigOption, DatabaseOption, DataOption, chosen
from danqing.errors import ConfigError
from danqing.text_encoding import decode_text, lines_of

if TYPE_CHECKING:
    from danqing.service.judging.judge import Judging

EXAMPLES = """Examples:

  danqing judge runs/gan runs/flow --real photos/ --raters 8 --out runs/judged

  danqing judge runs/a runs/b runs/c runs/d --fours --prompts prompts.txt --out runs/judged

  danqing judge --out runs/judged

  danqing judge --out runs/judged --raters 2 --close

Without contestants, the command shows what the votes say so far."""


def judge(
    contestants: Annotated[
        list[str] | None,
        typer.Argument(metavar="MODEL|FOLDER...", help="Models, or folders of pictures, to be judged."),
    ] = None,
    out: Annotated[
        Path, typer.Option(help="The folder of the session; use it again to see the results.", metavar="DIR")
    ] = Path("judged"),
    real: Annotated[
        str | None, typer.Option(help="Real images that compete as one more contestant.", metavar="DATA")
    ] = None,
    n: Annotated[int, typer.Option("-n", min=1, help="How many pictures of each.")] = 50,
    prompts: Annotated[
        Path | None,
        typer.Option(
            help="What the pictures should show: a file with one prompt or label per line.",
            metavar="FILE",
            show_default="captions or labels that all know",
        ),
    ] = None,
    size: Annotated[
        str | None,
        typer.Option(help="Width x height of all.", metavar="W[xH]", show_default="that of the models"),
    ] = None,
    fours: Annotated[
        bool, typer.Option("--fours", help="Choose the best and the worst of four, instead of A or B.")
    ] = False,
    question: Annotated[
        str, typer.Option(help="What raters read.", show_default="which picture is better")
    ] = "",
    ballots: Annotated[int, typer.Option(min=1, help="How many ballots each rater answers.")] = 60,
    checks: Annotated[
        int, typer.Option(min=0, help="One of so many ballots is an attention check; 0 for none.")
    ] = 10,
    stop: Annotated[bool, typer.Option("--stop/--no-stop", help="End once all intervals part.")] = True,
    raters: Annotated[
        int, typer.Option(min=0, help="How many new keys to create that may only judge, in this session.")
    ] = 0,
    key: Annotated[
        list[str] | None,
        typer.Option(help="Another key with the scope judge that may join; may be repeated.", metavar="NAME"),
    ] = None,
    close: Annotated[bool, typer.Option("--close", help="End the session.")] = False,
    delete: Annotated[
        bool, typer.Option("--delete", help="Delete its pictures and votes, after writing the results.")
    ] = False,
    keep_all: Annotated[
        bool, typer.Option("--keep-all", help="Use the votes of careless raters as well.")
    ] = False,
    seed: Annotated[int, typer.Option(help="The seed of all pictures.")] = 0,
    config: ConfigOption = None,
    data: DataOption = None,
    database_url: DatabaseOption = None,
    device: DeviceOption = "auto",
    as_json: output.JsonOption = False,
) -> None:
    """Let people judge models, folders and real images, blindly, in the browser."""
    where = chosen(config, data, database_url)
    with progress.Bar() as bar:
        bar.update(0, None, "Starting")
        import danqing

        found = danqing.judge(
            contestants or (),
            out=out,
            real=real,
            n=n,
            prompts=() if prompts is None else read_lines(prompts),
            size=None if size is None else parse_size(size),
            fours=fours,
            question=question,
            ballots=ballots,
            checks=checks,
            stop=stop,
            raters=raters,
            keys=key or (),
            close=close,
            delete=delete,
            keep_all=keep_all,
            seed=seed,
            data=where.data,
            database_url=where.database,
            device=device,
            on_progress=lambda done, total, stage: bar.update(done, total or None, stage),
        )
    output.result(found.to_json(), _text(found), as_json=as_json)


def read_lines(path: Path) -> list[str]:
    """Return the lines of a file of prompts; raises ConfigError where there are none."""
    lines: list[str] = []
    with contextlib.suppress(OSError, UnicodeDecodeError):
        lines = [line.strip() for line in lines_of(decode_text(path.read_bytes())) if line.strip()]
    if not lines:
        raise ConfigError(f"{path} has no prompts: write one to each line, in UTF-8.")
    return lines


def _text(found: "Judging") -> str:
    from danqing.quantities import number

    results = found.results
    parts = []
    if results.ratings.votes:
        rows = [("", "rating", "95% interval", "place", "preferred to real", "judged")]
        for one in results.standings:
            against = one.against_real
            rows.append(
                (
                    one.name,
                    number(one.rating),
                    " to ".join(map(number, one.interval)),
                    str(one.ranks[0])
                    if one.ranks[0] == one.ranks[1]
                    else f"{one.ranks[0]} to {one.ranks[1]}",
                    "" if against is None else f"{against[0]:.0%} ({against[1]:.0%} to {against[2]:.0%})",
                    f"{one.shown:,}",
                )
            )
        parts.append(output.table(rows))
    alpha = results.agreement
    facts = {
        "Session": f"{found.session} ({found.state})",
        "Votes": f"{results.ratings.votes:,} of {results.ratings.raters} raters",
        "Agreement": f"alpha {number(alpha.alpha)} on {alpha.units:,} questions" if alpha.units else None,
        "Page": f"{found.link} below the address of danqing serve",
        "Note": "; ".join((*results.notes, *found.notes)),
        "Written": ", ".join(map(str, found.files)),
    }
    parts.append(output.facts(facts))
    if found.keys:
        shown = [f"  {found.link}&key={token}" for token in found.keys.values()]
        parts.append("A link for each new rater, shown only once:\n" + "\n".join(shown) + "\n")
    return "\n".join(parts)
