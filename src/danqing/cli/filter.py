"""`danqing filter`: measure how often filters block images and prompts that should pass."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from danqing import progress
from danqing.cli import output
from danqing.errors import ConfigError
from danqing.text_encoding import decode_text, lines_of, why_unreadable

if TYPE_CHECKING:
    from danqing.evaluation.false_positives import Rate, ScoredImages

_CHECK = """Examples:

  danqing filter check filters.toml --images photos/

  danqing filter check filters.toml --prompts prompts.txt --json

  danqing filter check filters.toml --images photos.zip --most 500"""
_SHOWN = 5

app = typer.Typer(
    name="filter", help="Measure the filters of prompts and images (docs/trust.md).", no_args_is_help=True
)


@app.callback()
def _group() -> None:
    """Keep `check` a command of its own: Typer turns a group with one command into that command."""


@app.command("check", epilog=_CHECK)
def check(
    filters: Annotated[Path, typer.Argument(help="The file with the settings of the filters.")],
    images: Annotated[
        str | None,
        typer.Option(help="Images that should pass: a folder, an archive or a built-in set.", metavar="DATA"),
    ] = None,
    prompts: Annotated[
        Path | None,
        typer.Option(help="Prompts that should pass: a text file with one on each line.", metavar="FILE.txt"),
    ] = None,
    most: Annotated[int, typer.Option(help="How many images to score, evenly spaced; 0 is all.", min=0)] = 0,
    as_json: output.JsonOption = False,
) -> None:
    """Report how often each filter blocks your own images and prompts.

    Give images and prompts that should pass, so that every one that is blocked is a false positive.
    """
    if images is None and prompts is None:
        raise ConfigError("There is nothing to measure: give --images, --prompts or both.")
    from danqing.trust.filter_settings import FilterSettings

    settings = FilterSettings.read(filters)
    lines, payload = dict[str, Any](), dict[str, Any]()
    if prompts is not None:
        _check_prompts(settings, prompts, lines, payload)
    if images is not None:
        scored = _score(settings, images, most)
        payload["images"] = [_payload(each) for each in scored]
        for each in scored:
            lines |= _lines(each)
        lines["Not read"] = _not_read(scored)
    output.result(payload, output.facts(lines), as_json=as_json)


def _check_prompts(settings: Any, path: Path, lines: dict[str, Any], payload: dict[str, Any]) -> None:
    """Measure the phrase lists; add the results to the lines and to the payload."""
    from danqing.evaluation.false_positives import blocked_prompts

    chosen = settings.prompt_filter()
    if chosen is None:
        raise ConfigError("The filters have no phrase lists: add lists under [prompts], or omit --prompts.")
    try:
        given = [line for line in lines_of(decode_text(path.read_bytes())) if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"The prompts in {path} cannot be read: {why_unreadable(error)}.") from error
    (rate, found), (low, _) = (blocked_prompts(chosen, given, level) for level in ("auto", "low"))
    shown = [f"prompt {number}: {reason}" for number, reason in found[:_SHOWN]]
    lines["Prompts"] = "\n".join([_in_words(rate, low), *shown])
    payload["prompts"] = {
        "auto": rate._asdict(),
        "low": low._asdict(),
        "blocked": [{"prompt": number, "reason": reason} for number, reason in found],
    }


def _score(settings: Any, images: str, most: int) -> "list[ScoredImages]":
    from danqing.data.originals import Originals
    from danqing.evaluation.false_positives import score_images
    from danqing.model.scorer import load_scorer

    chosen = settings.image_filters(load_scorer)
    if not chosen:
        raise ConfigError("The filters have no classifier: add [[images]], or omit --images.")
    with progress.Bar() as bar:
        scored = score_images(
            chosen, Originals(images, most=most, on_progress=bar.update, stage="Scoring images")
        )
    if not scored[0].names:
        reason = next(iter(scored[0].failed.values()), "there are none")
        raise ConfigError(f"No image of {images} can be read ({reason}): give other images.")
    return scored


def _lines(scored: "ScoredImages") -> dict[str, Any]:
    from danqing.evaluation.false_positives import RATES

    name = scored.filter.name
    highest = ", ".join(f"{image} {score:.3f}" for image, score in scored.highest(_SHOWN))
    suggested = [(rate, scored.threshold_for(rate)) for rate in RATES]
    known = [(rate, value) for rate, value in suggested if value is not None]
    advice = [f"{value:.3f} blocks at most {rate:.1%} of them" for rate, value in known]
    return {
        f"Filter {name}": _in_words(scored.rate("auto"), scored.rate("low")),
        f"{name}: thresholds": "; ".join(advice) or "too few images to suggest one",
        f"{name}: highest": highest,
    }


def _in_words(auto: "Rate", low: "Rate") -> str:
    return (
        f"{auto.blocked:,} of {auto.of:,} blocked, {auto.value:.2%} ({auto.low:.2%} to {auto.high:.2%}); "
        f"{low.value:.2%} with moderation low"
    )


def _not_read(scored: "list[ScoredImages]") -> str | None:
    failed = scored[0].failed
    shown = [f"{name}: {reason}" for name, reason in list(failed.items())[:_SHOWN]]
    return "\n".join([f"{len(failed):,}", *shown]) if failed else None


def _payload(scored: "ScoredImages") -> dict[str, Any]:
    from danqing.evaluation.false_positives import RATES

    return {
        "filter": scored.filter.name,
        "thresholds": scored.filter.thresholds,
        "auto": scored.rate("auto")._asdict(),
        "low": scored.rate("low")._asdict(),
        "suggested": {str(rate): scored.threshold_for(rate) for rate in RATES},
        "highest": [{"name": name, "score": score} for name, score in scored.highest(20)],
        "failed": scored.failed,
    }
