"""`danqing tune`: search for better settings."""

import shlex
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from danqing import progress
from danqing.cli import output
from danqing.cli.arguments import (
    CpusOption,
    DeviceOption,
    IgnoreReservationsOption,
    RayOption,
    TrainingSizeOption,
    size_and_settings,
)
from danqing.cli.exit_codes import INTERRUPTED
from danqing.cli.run_output import IMAGE_TO_TRANSLATE, next_command
from danqing.training.run_files import read_json

if TYPE_CHECKING:
    from danqing.studies.tune import Tuning

EXAMPLES = r"""Examples:

  danqing tune photos/ --preset gan-32 --space space.toml --trials 20 --minutes 5 --out runs/search

  danqing tune digits --preset vae-32 --space space.toml --trials 40 --images 50000 --jobs 2 --out runs/search

where space.toml holds, for example:

  \[optimizer.learning_rate]
  low = 1e-4
  high = 1e-2
  log = true

  \[model.net]
  choices = ["dcgan", "mlp"]

Ctrl-C saves; run the same command again to continue."""


def tune(
    data: Annotated[str, typer.Argument(help="The images, as for danqing train.")],
    space: Annotated[
        Path, typer.Option(help="The settings to search, and their values.", metavar="FILE.toml")
    ],
    out: Annotated[Path, typer.Option(help="The folder of the search; use it again to continue.")],
    trials: Annotated[int, typer.Option(help="How many settings to try in all.", min=1)] = 20,
    preset: Annotated[
        str | None, typer.Option(help="The configuration to start from.", show_default="gan-32")
    ] = None,
    config: Annotated[
        Path | None, typer.Option(help="A configuration file instead of a preset.", metavar="FILE.toml")
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set", help="Change one setting for all trials; may be repeated.", metavar="KEY=VALUE"
        ),
    ] = None,
    size: TrainingSizeOption = None,
    minutes: Annotated[float | None, typer.Option(help="How long to train each trial.")] = None,
    images: Annotated[
        int | None, typer.Option(help="How many images each trial sees, instead of --minutes.")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="The seed of the search and of its runs.")] = None,
    pruner: Annotated[
        str, typer.Option(help="What stops a trial that is worse than others: median, hyperband, none.")
    ] = "median",
    jobs: Annotated[int, typer.Option(help="How many trials run at once.", min=1)] = 1,
    ignore_reservations: IgnoreReservationsOption = False,
    ray: RayOption = None,
    cpus: CpusOption = None,
    device: DeviceOption = "auto",
    as_json: output.JsonOption = False,
) -> None:
    """Search for the settings whose model comes closest to held-out images."""
    of_all, given = size_and_settings(size, settings, ignore_reservations=ignore_reservations)
    with progress.Bar() as bar:
        bar.update(0, None, "Starting")
        import danqing
        from danqing.training.display import show_report

        found = danqing.tune(
            data,
            space=space,
            trials=trials,
            out=out,
            preset=preset,
            config=config,
            settings=given,
            size=of_all,
            minutes=minutes,
            images=images,
            seed=seed,
            pruner=pruner,
            jobs=jobs,
            ray=ray,
            cpus=cpus,
            device=device,
            on_progress=lambda done, total, text: bar.update(done, total, "Searching", detail=text),
            on_dataset=lambda report: show_report(bar, report),
        )
    output.result(_payload(found), _text(found, data), as_json=as_json)
    if found.status == "interrupted":
        command = shlex.join(["danqing", *sys.argv[1:]])
        progress.say(f"Interrupted and saved; run this to continue: {command}", style="yellow")
        raise typer.Exit(INTERRUPTED)


def _payload(found: "Tuning") -> Mapping[str, Any]:
    return {
        "folder": found.folder,
        "status": found.status,
        "metric": found.metric,
        "best": found.best,
        "best_config": found.best_config,
        "trials": [
            {
                "number": trial.number,
                "folder": trial.folder,
                "status": trial.status,
                "score": trial.score,
                "flattered": trial.flattered,
                "settings": trial.settings,
                "error": trial.error or None,
            }
            for trial in found.trials
        ],
        "importance": found.importance,
    }


def _text(found: "Tuning", data: str) -> str:
    from danqing.evaluation.scores import FLATTERED

    names = list(dict.fromkeys(name for trial in found.trials for name in trial.settings))
    rows = [["", "Trial", "Score", *names, ""]]
    ranked = sorted(found.trials, key=lambda t: (t.status != "finished", t.status != "pruned", t.loss))
    for trial in ranked:
        best = "*" if trial is found.best_trial else ""
        score = "" if trial.score is None else f"{trial.score:.4g}{' !' if trial.flattered else ''}"
        ending = trial.error or ("" if trial.status == "finished" else trial.status)
        values = [_short(trial.settings.get(name, "")) for name in names]
        rows.append([best, f"{trial.number:04d}", score, *values, ending])
    text = output.table(rows)
    if any(trial.flattered for trial in found.trials):
        text += f"! {FLATTERED}; the best is chosen among the others, if there are any\n"
    if found.importance:
        shares = ", ".join(f"{name} {share:.0%}" for name, share in found.importance.items())
        text += f"\nWhat mattered: {shares}\n"
    if found.best is not None:
        facts = read_json(found.best / "run.json")
        following = next_command(
            found.best,
            sources=IMAGE_TO_TRANSLATE if facts.get("translates") else None,
            images=data if facts.get("reconstructs") else None,
            task=facts.get("task", ""),
        )
        text += "\n" + output.facts(
            {"Best run": found.best, "Its settings": found.best_config, "Next": following}
        )
    return text


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
