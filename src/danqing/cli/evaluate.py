"""`danqing evaluate`: score a model, or a folder of pictures, against a data set."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from danqing import progress
from danqing.cli import output
from danqing.cli.arguments import DeviceOption, RayOption, UnseenSplitOption, parse_size

if TYPE_CHECKING:
    from danqing.evaluation.evaluate import Evaluation
    from danqing.evaluation.scores import Score

EXAMPLES = """Examples:

  danqing evaluate runs/photos --data photos/

  danqing evaluate runs/digits --data digits --metrics kernel,precision,recall -n 2000 --json

  danqing evaluate generated/ --data photos/ --features pixels --out scores/"""

_ARROWS = {True: "↑", False: "↓", None: ""}
_BETTER = {True: "higher is better", False: "lower is better", None: ""}


def evaluate(
    candidate: Annotated[
        str,
        typer.Argument(
            metavar="MODEL|FOLDER",
            help="A run folder, a model folder, a model on the hub, or a folder or file of pictures.",
        ),
    ],
    data: Annotated[
        str, typer.Option(help="The real images: a folder, file or built-in name, as danqing train takes it.")
    ],
    metrics: Annotated[
        str | None,
        typer.Option(
            help="The metrics, separated by commas: frechet,kernel,precision,...",
            show_default="all that apply",
        ),
    ] = None,
    features: Annotated[
        str,
        typer.Option(
            help="The network that images are compared by: auto, inception, efficientnet-lite0, hed, "
            "dinov2, clip, pixels, or an ONNX file.",
            metavar="NAME|PATH",
        ),
    ] = "auto",
    weights: Annotated[
        Path | None,
        typer.Option(help="The weights of the network, if they cannot be fetched.", metavar="FILE"),
    ] = None,
    second_features: Annotated[
        str | None,
        typer.Option(
            help="Another network, by which the kernel and Fréchet distance are measured again: one of those "
            "of --features, classifier (learns the labels of the data), or auto (hed, else classifier).",
            metavar="NAME|PATH",
        ),
    ] = None,
    n: Annotated[
        int, typer.Option("-n", min=2, help="How many images to sample, or to read at most.")
    ] = 10_000,
    split: UnseenSplitOption = None,
    seed: Annotated[int, typer.Option(help="The same seed gives the same scores.")] = 0,
    size: Annotated[
        str | None, typer.Option(help="Width x height at which folders are compared.", metavar="W[xH]")
    ] = None,
    precision: Annotated[
        Literal["float32", "bfloat16"], typer.Option(help="The number format of the feature network.")
    ] = "float32",
    device: DeviceOption = "auto",
    out: Annotated[
        Path | None, typer.Option(help="A folder that gets scores.json and neighbours.png.", metavar="DIR")
    ] = None,
    ray: RayOption = None,
    as_json: output.JsonOption = False,
) -> None:
    """Score a model, or a folder of pictures, against real images."""
    with progress.Bar() as bar:
        bar.update(0, None, "Starting")  # torch alone takes seconds to import
        import danqing
        from danqing.machine import use_free_cores

        use_free_cores()

        found = danqing.evaluate(
            candidate,
            data,
            metrics=metrics,
            features=features,
            weights=weights,
            second_features=second_features,
            n=n,
            split=split,
            seed=seed,
            size=None if size is None else parse_size(size),
            precision=precision,
            device=device,
            out=out,
            ray=ray,
            on_progress=lambda done, total, stage: bar.update(done, total or None, stage),
        )
    payload = {
        "scores": [score.to_json() for score in found.scores],
        "headline": found.headline.to_json(),
        "reason": found.reason,
        "left_out": found.left_out,
        "notes": found.notes,
        "neighbours": found.neighbours,
        "files": found.files,
    }
    output.result(payload, _text(found), as_json=as_json)


def _text(found: "Evaluation") -> str:
    """The scores for people: the one to quote and why, all of them, and what else there is to know."""
    from danqing.evaluation.scores import FLATTERED

    head = found.headline
    value = f"{output.printable(head.name)} {_value(head)}, {_BETTER[head.higher_is_better]}"
    rows = [("score", "value", "95% interval", "")]
    rows += [
        (
            output.printable(one.name),
            _value(one, interval=False),
            _interval(one),
            f"{_ARROWS[one.higher_is_better]}{f' {FLATTERED}' if one.flattered else ''}",
        )
        for one in found.scores
    ]
    table = output.table(rows)
    said: dict[str, list[str]] = {}  # what is said of several is said once
    for score in found.scores:
        own = "; ".join(part for part in score.note.split("; ") if part not in found.notes)
        said.setdefault(own, []).append(score.name)
    remarks = "".join(f"{', '.join(names)}: {note}.\n" for note, names in said.items() if note)
    facts = {
        "Beware": "\n".join(note[:1].upper() + note[1:] + "." for note in found.notes),
        "Left out": "\n".join(f"{name}: {why}" for name, why in found.left_out.items()),
        "Pictures": found.neighbours,
        "Written": "\n".join(map(str, found.files)),
    }
    parts = [f"{value}\n{found.reason}\n", table, output.printable(remarks), output.facts(facts), f"{head}\n"]
    return "\n".join(part for part in parts if part)


def _value(score: "Score", *, interval: bool = True) -> str:
    from danqing.evaluation.scores import number

    shown = f"{number(score.value)}{score.unit and f' {score.unit}'}"
    return f"{shown} ({_interval(score)})" if interval and score.interval is not None else shown


def _interval(score: "Score") -> str:
    from danqing.evaluation.scores import number

    return "" if score.interval is None else " to ".join(map(number, score.interval))
