"""The report's sections on a run in two stages, and on what a model of words was asked for."""

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from danqing import page
from danqing.images import grid_columns
from danqing.quantities import duration
from danqing.training.report.curves import Series, chart
from danqing.training.run_files import read_lines

_CURVES = ("codebook_use", "perplexity", "squared_error")


def tokenizer_section(folder: Path, facts: Mapping[str, Any]) -> str:
    """The first stage: what it took, how much of its vocabulary is in use, and what its codes keep."""
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
        '<div class="card"><figure class="natural"><figcaption>Originals, each beside what its codes keep of '
        f'it</figcaption><img alt="Originals and reconstructions" src="{picture}"></figure></div>'
        if picture
        else ""
    )
    link = '<a href="tokenizer/report.html">its own report</a>' if (own / "run.json").exists() else ""
    text = escape(_sentence(first)) + (f" All of it is in {link}." if link else "")
    return (
        f'<section><h2>The first stage: a tokenizer</h2><p class="said">{text}</p>'
        f'<div class="charts">{charts}</div>{figure}</section>'
    )


def prompts_table(facts: Mapping[str, Any]) -> str:
    """What each image of a grid was to show, in rows and columns as they stand there."""
    prompts, data = facts.get("prompts") or [], facts.get("data") or {}
    if not prompts or not data.get("width") or not data.get("height"):
        return ""
    columns = grid_columns(len(prompts), data["width"], data["height"])
    rows = [prompts[start : start + columns] for start in range(0, len(prompts), columns)]
    cells = "".join(f"<tr>{''.join(f'<td>{escape(str(text))}</td>' for text in row)}</tr>" for row in rows)
    return (
        '<div class="card"><details><summary>What was asked for, image by image</summary>'
        f'<div class="scroll"><table class="prompts"><tbody>{cells}</tbody></table></div></details></div>'
    )


def _sentence(first: Mapping[str, Any]) -> str:
    if first.get("model"):
        text = f"The tokenizer was taken from {first['model']}"
    else:
        text = f"The tokenizer learnt from {first.get('images', 0):,} images in "
        text += duration(first.get("seconds") or 0.0)
        if first.get("status") != "finished":
            return text + " so far; what writes its codes comes after it."
    text += "; nothing changes it any more"
    if first.get("codes_seconds") is not None:
        views = first.get("views", 1)
        times = "once" if views == 1 else f"{views} times, changed otherwise each time"
        text += f". Each image was turned into codes {times}, in {duration(first['codes_seconds'])}"
    return text + "."


def _series(log: Sequence[Mapping[str, Any]], name: str) -> Series:
    known = [line for line in log if isinstance(line.get(name), int | float) and "images" in line]
    return Series(name, [line["images"] for line in known], [line[name] for line in known])
