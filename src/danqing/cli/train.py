"""`danqing train`: train a model on images; the same command again resumes the run."""

import shlex
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from danqing import progress
from danqing.cli import output
from danqing.cli.arguments import TrainingSizeOption, size_and_settings, split_names
from danqing.quantities import duration
from danqing.training.display import Display

if TYPE_CHECKING:
    from danqing import Run

INTERRUPTED = 130
"""The exit code after Ctrl-C, as in shells: 128 plus the number of the signal."""

IMAGE_TO_TRANSLATE = "image.png"

EXAMPLES = """Examples:

  danqing train photos/ --out runs/photos --minutes 30

  danqing train sprites.zip --preset vae-32 --size 48x32 --out runs/sprites

  danqing train photos/ --preset flow-32 --size auto --out runs/all-shapes

  danqing train photos/ --minutes 120 --evaluate-every 200000 --patience 1000000

  danqing train faces/ --attributes age,glasses --preset vae-32 --out runs/faces

  danqing train emoji --preset text2image-32 --minutes 30 --out runs/words

  danqing train drawings/ --pairs outlines:photos --preset flow-pairs-64 --out runs/colours

  danqing train digits --preset gan-32 --set net=mlp --set learning_rate=1e-4 --out runs/digits

Ctrl-C saves the run; the same command again resumes it."""


def train(
    data: Annotated[
        str,
        typer.Argument(
            help="A folder, zip, Parquet, tar or IDX file of images, or a built-in name (danqing data list)."
        ),
    ],
    out: Annotated[
        Path | None,
        typer.Option(help="The run folder; with an existing run, resume it.", show_default="runs/..."),
    ] = None,
    preset: Annotated[
        str | None, typer.Option(help="A named configuration (danqing presets).", show_default="gan-32")
    ] = None,
    config: Annotated[
        Path | None, typer.Option(help="A configuration file instead of a preset.", metavar="FILE.toml")
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", help="Change one setting; may be repeated.", metavar="KEY=VALUE"),
    ] = None,
    size: TrainingSizeOption = None,
    minutes: Annotated[float | None, typer.Option(help="How long to train.")] = None,
    images: Annotated[
        int | None, typer.Option(help="How many images to train on, instead of --minutes.")
    ] = None,
    attributes: Annotated[
        str | None,
        typer.Option(
            help="Columns of a table that the model learns too: numbers or categories.", metavar="NAME,NAME"
        ),
    ] = None,
    pairs: Annotated[
        str | None,
        typer.Option(
            help="Learn to turn one image into another: two folders, two halves of an image, or a column.",
            metavar="SOURCES:TARGETS",
        ),
    ] = None,
    degrade: Annotated[
        str | None,
        typer.Option(
            help="Learn to restore images from copies made by blur, down, noise, jpeg or gray.",
            metavar="STEP,STEP",
        ),
    ] = None,
    seed: Annotated[int | None, typer.Option(help="The run's seed; the same seed repeats a run.")] = None,
    evaluate_every: Annotated[
        int | None,
        typer.Option(
            help="How often to score on held-out images and keep the best; 0 is never.",
            metavar="IMAGES",
            show_default="ten times in a long run",
            min=0,
        ),
    ] = None,
    patience: Annotated[
        int | None,
        typer.Option(
            help="Stop when the held-out score has not improved for this many images.",
            metavar="IMAGES",
            min=0,
        ),
    ] = None,
    tokenizer: Annotated[
        str | None,
        typer.Option(
            help="Use the tokenizer of this model (a run, a model folder or a hub id); train none.",
            metavar="MODEL",
            show_default="trained first, if the preset has one",
        ),
    ] = None,
    track: Annotated[str | None, typer.Option(help="Log to wandb or mlflow too.", metavar="SERVICE")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, mps.")] = "auto",
    as_json: output.JsonOption = False,
) -> None:
    """Train a model on your images."""
    of_all, given = size_and_settings(size, settings)
    run = train_with_bar(
        data,
        out=out,
        preset=preset,
        config=config,
        settings={**given, **_of_data(attributes, pairs, degrade)},
        size=of_all,
        minutes=minutes,
        images=images,
        seed=seed,
        evaluate_every=evaluate_every,
        patience=patience,
        tokenizer=tokenizer,
        track=track,
        device=device,
    )
    leave_if_interrupted(run, as_json=as_json)
    following = next_command(
        run.folder,
        sources=_sources(data, pairs) if run.translates else None,
        images=data if run.reconstructs else None,
    )
    output.result(run_payload(run), output.facts({**run_text(run), "Next": following}), as_json=as_json)


def next_command(run: Path, *, sources: str | None = None, images: str | None = None) -> str:
    """Return the command that uses the model of a run.

    sources: the images to translate, for a model that learned from pairs.
    images: the images to reconstruct, for a first stage.
    """
    if sources is not None:
        out = "translated" if Path(sources).is_dir() else "translated.png"
        return shlex.join(["danqing", "translate", str(run), sources, "--out", out])
    if images is not None:
        return shlex.join(["danqing", "reconstruct", str(run), images, "--out", "grid.png"])
    return shlex.join(["danqing", "sample", str(run), "--out", "grid.png"])


def _sources(data: str, pairs: str | None) -> str:
    """Return the folder of source images, or an example file if the data has no such folder."""
    folder = Path(data) / (pairs or "").partition(":")[0]
    return str(folder) if pairs and ":" in pairs and folder.is_dir() else IMAGE_TO_TRANSLATE


def _of_data(attributes: str | None, pairs: str | None, degrade: str | None) -> dict[str, Any]:
    """The settings of `data` that have an option of their own."""
    names = None if attributes is None else split_names(attributes)
    given = {"data.attributes": names, "data.pairs": pairs, "data.degrade": degrade}
    return {name: value for name, value in given.items() if value is not None}


def train_with_bar(data: str, **arguments: Any) -> "Run":
    """Call `danqing.train` with a progress bar on stderr."""
    try:
        with progress.Bar() as bar:
            bar.update(0, None, "Starting")  # importing torch takes seconds
            import danqing

            return danqing.train(data, listener=Display(bar), **arguments)
    except KeyboardInterrupt:  # before the first step, or for the second time
        progress.say("Stopped; the same command resumes from the last checkpoint.", style="yellow")
        raise typer.Exit(INTERRUPTED) from None


def run_payload(run: "Run") -> Mapping[str, Any]:
    """Return what `--json` prints of a run."""
    return {
        "run": run.folder,
        "model": run.model,
        "report": run.report,
        "status": run.status,
        "images": run.images,
        "seconds": run.seconds,
        "images_per_second": run.images_per_second,
        "final": run.final,
        "reason": run.reason,
        "best": run.best,
        "cost": run.cost,
        "evaluation_seconds": run.evaluation_seconds,
        "evaluation_share": run.evaluation_share,
        "tokenizer": run.tokenizer,
        "ema": run.ema,
    }


def run_text(run: "Run") -> dict[str, Any]:
    """Return the lines on a run, by their titles."""
    speed = f"{run.images_per_second:,.0f} images/s"
    first = run.tokenizer or {}
    before = sum(first.get(name, 0.0) for name in ("seconds", "codes_seconds"))
    return {
        "Tokenizer": tokenizer_text(run.tokenizer),
        "Trained": f"{run.images:,} images in {duration(run.seconds - before)} ({speed})",
        "Ended early": run.reason,
        "Evaluation": f"{duration(run.evaluation_seconds)}, {run.evaluation_share:.0%} of the time"
        if run.evaluation_seconds
        else None,
        "Best": run.best and _best_text(run.best),
        "Average": run.ema and run.ema["text"],
        "Model": run.model,
        "Report": run.report,
    }


def _best_text(best: Mapping[str, Any]) -> str:
    from danqing.evaluation.scores import FLATTERED

    mark = f" ({FLATTERED})" if best.get("flattered") else ""
    return f"{best['name']} {best['value']:.4g} at {best['images']:,} images{mark}"


def tokenizer_text(first: Mapping[str, Any] | None) -> str | None:
    """Return the line on the first stage; None if there is none."""
    if first is None:
        return None
    seconds = sum(first.get(name) or 0.0 for name in ("seconds", "codes_seconds"))
    return first.get("model") or f"{first['images']:,} images in {duration(seconds)}"


def leave_if_interrupted(run: "Run", *, as_json: bool) -> None:
    """After Ctrl-C, say how to resume and exit with code 130."""
    if run.status != "interrupted":
        return
    output.result(run_payload(run), as_json=as_json)
    where, first = f" and saved at {run.images:,} images", run.tokenizer
    if first is not None and not run.images:
        where = f" while its tokenizer was being trained, and saved at {first['images']:,} images"
        if first.get("model") or first["status"] == "finished":
            where = " before the first step of its second stage"
    progress.say(
        f"Interrupted{where}; the same command resumes it: {shlex.join(['danqing', *sys.argv[1:]])}",
        style="yellow",
    )
    raise typer.Exit(INTERRUPTED)
