"""The report's section on the first of two stages, the tokenizer."""

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from danqing import page
from danqing.quantities import duration
from danqing.training.report.curves import Series, chart
from danqing.training.run_files import read_lines

_CURVES = ("codebook_use", "perplexity", "squared_error")


def tokenizer_section(folder: Path, facts: Mapping[str, Any]) -> str:
    """Return the first stage: its cost, its losses and its reconstructions, with their score."""
    first = facts.get("tokenizer")
    if not isinstance(first, dict):
        return ""
    own = folder / "tokenizer"
    log = read_lines(own / "log.jsonl")
    names = sorted({name for line in log for name in line if name.rpartition("/")[2] in _CURVES})
    charts = "".join(chart(name.rpartition("/")[2].replace("_", " "), [_series(log, name)]) for name in names)
    grids = sorted(path for path in (own / "samples").glob("*.png") if path.stem.isdigit())
    picture = page.embed(grids[-1]) if grids else ""
    figure = (
        '<div class="card"><figure class="natural"><figcaption>Originals, each beside its reconstruction'
        f'</figcaption><img alt="Originals and reconstructions" src="{picture}"></figure></div>'
        if picture
        else ""
    )
    link = '<a href="tokenizer/report.html">its own report</a>' if (own / "run.json").exists() else ""
    text = escape(_sentence(first)) + (f" Details are in {link}." if link else "")
    return (
        f'<section><h2>The first stage: a tokenizer</h2><p class="said">{text}</p>'
        f'<div class="charts">{charts}</div>{figure}</section>'
    )


def _sentence(first: Mapping[str, Any]) -> str:
    if first.get("model"):
        text = f"The tokenizer is that of {first['model']}"
    else:
        text = f"The tokenizer was trained on {first.get('images', 0):,} images in "
        text += duration(first.get("seconds") or 0.0)
        if first.get("status") != "finished":
            return text + " so far; the second stage is trained after it."
    text += "; it does not change any more"
    if first.get("codes_seconds") is not None:
        views = first.get("views", 1)
        times = "once" if views == 1 else f"{views} times, with another augmentation each time"
        text += f". Each image was encoded {times}, in {duration(first['codes_seconds'])}"
    if first.get("psnr") is not None:
        kind = "held-out" if first.get("held_out") else "training"
        text += (
            f". Its reconstructions of {first['reconstructed']:,} {kind} images have a PSNR of "
            f"{first['psnr']:.1f} dB"
        )
    return text + "."


def _series(log: Sequence[Mapping[str, Any]], name: str) -> Series:
    known = [line for line in log if isinstance(line.get(name), int | float) and "images" in line]
    return Series(name, [line["images"] for line in known], [line[name] for line in known])
