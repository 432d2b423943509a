"""`danqing contest`: a leaderboard of models and folders, judged alike on held-out images."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from danqing import progress
from danqing.cli import output
from danqing.cli.arguments import DeviceOption, parse_size
from danqing.errors import ConfigError

if TYPE_CHECKING:
    from danqing.judging.contest import Contest

EXAMPLES = """Examples:

  danqing contest runs/gan runs/flow ours=generated/ --data photos/ --out runs/contest

  danqing contest runs/new --data photos/ --out runs/contest

  danqing contest --data photos/ --out runs/contest --votes runs/judged

Submissions are added to those that the folder has; the same settings give the same leaderboard."""


def contest(
    submissions: Annotated[
        list[str] | None,
        typer.Argument(metavar="[NAME=]MODEL|FOLDER...", help="Models, or folders of pictures."),
    ] = None,
    data: Annotated[str, typer.Option(help="The held-out images, as for danqing evaluate.")] = "",
    out: Annotated[
        Path, typer.Option(help="The folder of the contest; use it again to add submissions.", metavar="DIR")
    ] = Path("contest"),
    split: Annotated[
        str | None,
        typer.Option(help="Which part of the data.", show_default="test, validation or all"),
    ] = None,
    n: Annotated[int, typer.Option("-n", min=2, help="How many pictures of each.")] = 1000,
    size: Annotated[
        str | None,
        typer.Option(help="Width x height of all.", metavar="W[xH]", show_default="that of the data"),
    ] = None,
    metrics: Annotated[
        str, typer.Option(help="The metrics, separated by commas; the first one ranks.")
    ] = "kernel,frechet,precision,recall",
    features: Annotated[
        str, typer.Option(help="The network that images are compared by, as for danqing evaluate.")
    ] = "auto",
    votes: Annotated[
        Path | None,
        typer.Option(help="A folder of danqing judge with the same names: people rank.", metavar="DIR"),
    ] = None,
    seed: Annotated[int, typer.Option(help="The seed of all pictures.")] = 0,
    device: DeviceOption = "auto",
    as_json: output.JsonOption = False,
) -> None:
    """Judge models and folders alike, and write a leaderboard."""
    if not data:
        raise ConfigError("Name the held-out images with --data.")
    with progress.Bar() as bar:
        bar.update(0, None, "Starting")
        import danqing

        found = danqing.contest(
            _named(submissions or []),
            data=data,
            out=out,
            split=split,
            n=n,
            size=None if size is None else parse_size(size),
            metrics=[name.strip() for name in metrics.split(",") if name.strip()],
            features=features,
            votes=votes,
            seed=seed,
            device=device,
            on_progress=lambda done, total, stage: bar.update(done, total or None, stage),
        )
    payload = {**found.to_json(), "judged": list(found.judged), "files": list(map(str, found.files))}
    output.result(payload, _text(found), as_json=as_json)


def _named(submissions: list[str]) -> dict[str, str]:
    """Read NAME=PATH; a path alone is named after its folder. Raises ConfigError for a name that is twice."""
    from danqing.judging.entrants import names_of

    plain = [one for one in submissions if "=" not in one or Path(one).exists()]
    named = dict(zip(names_of(plain), plain, strict=True))
    for one in submissions:
        if one not in plain:
            name, _, path = one.partition("=")
            if name in named:
                raise ConfigError(f"Two submissions are named {name}: give one of them another name.")
            named[name] = path
    return named


def _text(found: "Contest") -> str:
    from danqing.quantities import number

    titles = list(dict.fromkeys(score.name for one in found.places for score in one.scores))
    rows = [["place", "submission", "people", *titles]]
    for one in found.places:
        low, high = one.ranks
        values = {score.name: number(score.value) for score in one.scores}
        rows.append(
            [
                str(low) if low == high else f"{low} to {high}",
                one.name,
                "" if one.people is None else number(one.people[0]),
                *(values.get(title, "") for title in titles),
            ]
        )
    facts = {
        "Ranked by": found.ranked_by,
        "Judged now": ", ".join(found.judged) or "nothing: all were judged before",
        "Written": ", ".join(map(str, found.files)),
    }
    return output.table(rows) + "\n" + output.facts(facts)
