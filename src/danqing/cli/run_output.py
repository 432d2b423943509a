"""What commands that train print: the bar, what a run has reached, and the command to go on with."""

import shlex
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from danqing import progress
from danqing.cli import output
from danqing.cli.exit_codes import INTERRUPTED
from danqing.quantities import duration, privacy
from danqing.training.display import Display

if TYPE_CHECKING:
    from danqing import Run

IMAGE_TO_TRANSLATE = "image.png"
_VERBS = {
    "upscale": ("upscale", "upscaled"),
    "enhance": ("enhance", "enhanced"),
    "style": ("stylize", "stylized"),
}
"""The commands of tasks that have one of their own, and what they call their results."""
_RECOGNIZE = ("classify", "segment", "detect")
"""The tasks whose models answer through `danqing predict`."""


def train_with_bar(data: str, **arguments: Any) -> "Run":
    """Call `danqing.train` with a progress bar on stderr."""
    from danqing.cluster import ledger
    from danqing.cluster.place import Place

    ledger.command_begins()
    place = Place.of()
    try:
        if place is not None and place.rank:
            import danqing

            return danqing.train(data, listener=danqing.Listener(), **arguments)
        with progress.Bar() as bar:
            bar.update(0, None, "Starting")  # importing torch takes seconds
            import danqing

            return danqing.train(data, listener=Display(bar), **arguments)
    except KeyboardInterrupt:  # before the first step, or for the second time
        if place is not None and place.rank:
            raise typer.Exit(INTERRUPTED) from None
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
        "effect": run.effect,
        "privacy": run.privacy,
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
        "Effect": run.effect,
        "Privacy": run.privacy and privacy(run.privacy),
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
    text = first.get("model") or f"{first['images']:,} images in {duration(seconds)}"
    psnr = first.get("psnr")
    return text if psnr is None else f"{text}; its reconstructions have a PSNR of {psnr:.1f} dB"


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


def next_command(run: Path, *, sources: str | None = None, images: str | None = None, task: str = "") -> str:
    """Return the command that uses the model of a run.

    sources: the images to edit, for a model that turns one image into another.
    images: the images to reconstruct, for a first stage, or to index, for an embedder.
    task: what the model is for.
    """
    if sources is not None:
        verb, done = _VERBS.get(task, ("translate", "translated"))
        out = done if Path(sources).is_dir() else f"{done}.png"
        return shlex.join(["danqing", verb, str(run), sources, "--out", out])
    if task == "embed":
        data = images or "photos/"
        return shlex.join(["danqing", "index", data, "--encoder", str(run), "--out", "images.index"])
    if task == "segment":
        return shlex.join(["danqing", "predict", str(run), IMAGE_TO_TRANSLATE, "--masks", "masks"])
    if task in _RECOGNIZE:
        return shlex.join(["danqing", "predict", str(run), IMAGE_TO_TRANSLATE])
    if images is not None:
        return shlex.join(["danqing", "reconstruct", str(run), images, "--out", "grid.png"])
    return shlex.join(["danqing", "sample", str(run), "--out", "grid.png"])
