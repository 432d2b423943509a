"""`danqing attack`: how well a model withstands attacks, corruptions and images from elsewhere."""

from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from danqing import progress
from danqing.cli import output
from danqing.cli.arguments import DeviceOption, ModelArgument, UnseenSplitOption
from danqing.errors import ConfigError

if TYPE_CHECKING:
    from danqing.recognition.robustness import Robustness

EXAMPLES = """Examples:

  danqing attack runs/kinds photos/

  danqing attack runs/kinds photos/ --attacks apgd-ce,square --epsilon 4/255 -n 200

  danqing attack runs/clothes fashion-mnist --outside digits --certify 0.25"""

_ARROWS = {True: "↑", False: "↓", None: ""}


def attack(
    model: ModelArgument,
    data: Annotated[
        str, typer.Argument(help="The images: a folder, file or built-in name, as danqing train takes it.")
    ],
    attacks: Annotated[
        str | None,
        typer.Option(
            help="Attacks on a classifier, separated by commas: fgsm, pgd, apgd-ce, apgd-dlr, square.",
            show_default="apgd-ce,apgd-dlr,square",
        ),
    ] = None,
    norm: Annotated[
        Literal["linf", "l2"], typer.Option(help="How the size of a change is measured.")
    ] = "linf",
    epsilon: Annotated[
        str,
        typer.Option(help="How far images may change, as a share of the range of values.", metavar="SHARE"),
    ] = "8/255",
    steps: Annotated[
        int | None,
        typer.Option(min=1, help="How many steps each attack takes.", show_default="those usual for it"),
    ] = None,
    corruptions: Annotated[
        bool, typer.Option(help="Also measure a classifier under common corruptions at five severities.")
    ] = True,
    certify: Annotated[
        float | None,
        typer.Option(
            help="Certify a classifier by randomized smoothing with noise of this standard deviation, as a "
            "share of the range of values.",
            metavar="SIGMA",
        ),
    ] = None,
    outside: Annotated[
        str | None,
        typer.Option(
            help="Also measure how well the model distinguishes these images from its own.", metavar="DATA"
        ),
    ] = None,
    n: Annotated[
        int | None,
        typer.Option(
            "-n",
            min=2,
            help="How many images to use at most.",
            show_default="500; 64 if the model does not classify; 1000 for --outside",
        ),
    ] = None,
    split: UnseenSplitOption = None,
    seed: Annotated[int, typer.Option(help="The same seed gives the same scores.")] = 0,
    device: DeviceOption = "auto",
    out: Annotated[
        Path | None, typer.Option(help="Also write scores.json to this folder.", metavar="DIR")
    ] = None,
    as_json: output.JsonOption = False,
) -> None:
    """Measure how well a model withstands attacks, corruptions and other images."""
    share = _share(epsilon)
    with progress.Bar() as bar:
        bar.update(0, None, "Starting")  # torch alone takes seconds to import
        import danqing
        from danqing.machine import use_free_cores

        use_free_cores()
        found = danqing.attack(
            model,
            data,
            attacks=attacks,
            norm=norm,
            epsilon=share,
            steps=steps,
            corruptions=corruptions,
            sigma=certify,
            outside=outside,
            n=n,
            split=split,
            seed=seed,
            device=device,
            out=out,
            on_progress=lambda done, total, stage: bar.update(done, total or None, stage),
        )
    payload = {
        "scores": [score.to_json() for score in found.scores],
        "notes": found.notes,
        "files": found.files,
    }
    output.result(payload, _text(found), as_json=as_json)


def _share(text: str) -> float:
    """A number such as 0.03 or 8/255; raises ConfigError."""
    try:
        return float(Fraction(text))
    except (ValueError, ZeroDivisionError) as error:
        raise ConfigError(f"--epsilon {text} is not a share: write for example 8/255 or 0.03.") from error


def _text(found: "Robustness") -> str:
    from danqing.evaluation.scores import number

    rows = [("score", "value", "95% interval", "")]
    for score in found.scores:
        value = f"{number(score.value)}{score.unit and f' {score.unit}'}"
        interval = "" if score.interval is None else " to ".join(map(number, score.interval))
        rows.append((score.name, value, interval, _ARROWS[score.higher_is_better]))
    notes = "\n".join(note[:1].upper() + note[1:] + "." for note in found.notes)
    facts = output.facts({"Beware": notes, "Written": "\n".join(map(str, found.files))})
    return f"{output.table(rows)}\n{facts}"
