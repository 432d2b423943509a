"""`report.html`: everything about a run in one file, made only from its run folder."""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from danqing import atomic, families, page
from danqing.errors import TrainingError
from danqing.images import grid_columns
from danqing.quantities import count, duration, memory, privacy
from danqing.training.report.curves import Series, chart
from danqing.training.report.examination_section import examination_section
from danqing.training.report.goodput_section import goodput_section
from danqing.training.report.score_section import evaluation_share, scores_section
from danqing.training.report.tokenizer_section import tokenizer_section
from danqing.training.run_files import read_json, read_lines, read_text
from danqing.version import __version__

_HERE = Path(__file__).parent
_MOST_FRAMES = 16
_FIRST_LABELS = 12
_MOST_LABELS = 200
_SENTENCES = {
    "finished": "The run is finished.",
    "interrupted": "The run was interrupted and is saved: the same command resumes it.",
    "failed": "The run stopped with an error; the last good state is saved.",
    "running": "The run was still training when this page was written.",
}


def report(run: Any) -> Path:
    """Write the report of a run or run folder; returns its path.

    The run may still be training. Raises TrainingError if there is no run or the report cannot be written.
    """
    folder = Path(getattr(run, "folder", run))
    if not (folder / "run.json").exists() or not (folder / "config.toml").exists():
        raise TrainingError(f"{folder} is not a run folder: give one that danqing train has written.")
    try:
        return write(folder)
    except OSError as error:
        raise TrainingError(
            f"The report cannot be written to {folder} ({error.strerror}): free some space, or repair it."
        ) from error


def write(run_folder: str | Path) -> Path:
    """Write `report.html` to a run folder; returns its path.

    This works at any moment of a run: parts whose files are missing or damaged are left out. Labels and file
    names may hold anything: all text is escaped, and the page's policy only allows its own script.
    """
    folder = Path(run_folder)
    facts = read_json(folder / "run.json")
    log = read_lines(folder / "log.jsonl")
    timing = read_lines(folder / "timing.jsonl")
    config = read_text(folder / "config.toml")
    status = facts.get("status") if facts.get("status") in _SENTENCES else "running"
    sections = [
        _samples_section(folder / "samples", facts),
        tokenizer_section(folder, facts),
        scores_section(folder, facts),
        examination_section(folder / "examination"),
        _curves_section(log, timing),
        _data_section(facts.get("data") or {}),
        goodput_section(folder / "goodput.jsonl"),
        _settings_section(facts, config),
    ]
    content = page.render(
        kind="a training run",
        name=folder.resolve().name,
        status=str(status),
        lead=_lead(facts, config),
        head=_notes(facts, str(status)) + page.tiles(_tiles(facts)),
        sections=sections,
        style=(_HERE / "report.css").read_text(encoding="utf-8"),
        script=(_HERE / "report.js").read_text(encoding="utf-8"),
        version=str(facts.get("version", __version__)),
    )
    path = folder / "report.html"
    atomic.write_text(path, content)
    return path


def _lead(facts: Mapping[str, Any], config: str) -> str:
    data, plan, progress = (facts.get(name) or {} for name in ("data", "plan", "progress"))
    found = re.search(r'^family = "(\w+)"', config, re.MULTILINE)
    name = families.with_article(families.display_name(found[1]) if found else "model")
    sentence = f"{name[0].upper()}{name[1:]}"
    if data.get("images"):
        sentence += f" trained on {data['images']:,} images"
    if data.get("name"):
        sentence += f" from {data['name']}"
    if data.get("width"):
        sentence += f" at {data['width']} × {data['height']} pixels"
    if progress.get("images") and plan.get("images") and facts.get("status") != "finished":
        sentence += f", after {min(1.0, progress['images'] / plan['images']):.0%} of its planned training"
    return sentence + "."


def _notes(facts: Mapping[str, Any], status: str) -> str:
    notes = []
    if status != "finished":
        reason = f" {facts['reason']}" if facts.get("reason") else ""
        notes.append(
            f'<div class="note {status}" role="status"><p>{escape(_SENTENCES[status] + reason)}</p></div>'
        )
    elif facts.get("reason"):
        notes.append(f'<div class="note" role="status"><p>{escape(str(facts["reason"]))}</p></div>')
    for key in ("init", "generated", "unlabelled"):
        told = facts.get(key) or {}
        sentences = " ".join(str(told[name]) for name in ("text", "verdict") if told.get(name))
        if sentences:
            notes.append(f'<div class="note"><p>{escape(sentences)}</p></div>')
    told = facts.get("privacy") or {}
    if {"epsilon", "delta"} <= told.keys():
        text = (
            f"Private: {privacy(told)}. This covers the model folder. It does not cover this page, which "
            "says which files there were and how many images each label has."
        )
        notes.append(f'<div class="note"><p>{escape(text)}</p></div>')
    alarms = facts.get("alarms") or []
    if alarms:
        items = "".join(
            f"<li>{escape(str(alarm.get('text')))} <small>at {alarm.get('images', 0):,} images</small></li>"
            for alarm in alarms
        )
        notes.append(
            f'<div class="note"><p><strong>Warnings during training</strong></p><ul>{items}</ul></div>'
        )
    return "".join(notes)


def _tiles(facts: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    plan, progress, cost = (facts.get(name) or {} for name in ("plan", "progress", "cost"))
    if "images" in progress:
        yield "Images seen", f"{progress['images']:,}"
    if "seconds" in progress:
        yield "Training time", duration(progress["seconds"])
    if progress.get("images_per_second"):
        yield "Images per second", f"{progress['images_per_second']:,.0f}"
    if plan.get("parameters"):
        yield "Parameters", count(sum(plan["parameters"].values()))
    if share := evaluation_share(facts):
        yield "Spent on evaluation", f"{share:.0%}"
    if cost.get("peak_memory_bytes"):
        yield "Peak memory", memory(cost["peak_memory_bytes"])
    if cost.get("core_hours") is not None:
        yield "Core-hours", f"{cost['core_hours']:.2g}"
    if cost.get("energy_wh") is not None:
        yield "Energy", f"{cost['energy_wh']:,.3g} Wh"


def _samples_section(folder: Path, facts: Mapping[str, Any]) -> str:
    paths = sorted(
        (path for path in folder.glob("*.png") if path.stem.isdigit()), key=lambda path: int(path.stem)
    )
    frames = [
        (int(path.stem), picture) for path in _spread(paths, _MOST_FRAMES) if (picture := page.embed(path))
    ]
    real = page.embed(folder / "data.png")
    if not frames and not real:
        return ""
    figures = []
    if len(frames) > 1 and frames[0][0] == 0 and (facts.get("init") or {}).get("adapter"):
        before = "The model before, with the same seeds"
        figures.append(
            f'<figure><figcaption>{before}</figcaption><img alt="{before}" src="{frames[0][1]}"></figure>'
        )
    if frames:
        done = _kind_of_grid(facts)
        captions = [f"{done} after {seen:,} images" for seen, _ in frames]
        last = len(frames) - 1
        images = "".join(
            f'<img {"class=shown " if number == last else ""}alt="{caption}" src="{picture}">'
            for number, (caption, (_, picture)) in enumerate(zip(captions, frames, strict=True))
        )
        steps = (
            '<div class="steps" hidden><button type="button">Play</button><input type="range" min="0" '
            f'max="{last}" value="{last}" aria-label="Samples over time" '
            f'aria-valuetext="{captions[last]}"></div>'
        )
        figures.append(
            f'<figure class="frames"><figcaption><output>{captions[last]}</output></figcaption>{images}'
            f"{steps if last else ''}{_grid_steps(facts)}</figure>"
        )
    if real:
        caption = "Real images, as the model saw them"
        if facts.get("translates") and not facts.get("unpaired"):
            caption = "Source images and their targets, as the model saw them"
            if made := (facts.get("data") or {}).get("source_images"):
                caption += f": {made}"
        figures.append(
            f"<figure><figcaption>{escape(caption)}</figcaption>"
            f'<img alt="A grid of real images from the data" src="{real}"></figure>'
        )
    prompts = _prompts_table(facts)
    title = "Samples" if frames else "Images"
    return f'<section><h2>{title}</h2><div class="card pair">{"".join(figures)}</div>{prompts}</section>'


def _kind_of_grid(facts: Mapping[str, Any]) -> str:
    if facts.get("unpaired"):
        return "Source and output"
    if facts.get("translates"):
        return "Source, output and target"
    return "Originals beside their reconstructions" if facts.get("reconstructs") else "Samples"


def _grid_steps(facts: Mapping[str, Any]) -> str:
    """How many steps the grids were sampled in, if that differs between them."""
    steps = facts.get("grid_steps")
    if not (isinstance(steps, list) and len(steps) == 2 and all(type(step) is int for step in steps)):
        return ""
    return f"<p><small>Sampled in {steps[0]} steps during training, and in {steps[1]} at its end.</small></p>"


def _prompts_table(facts: Mapping[str, Any]) -> str:
    """The prompts of a grid, arranged like its images."""
    prompts, data = facts.get("prompts") or [], facts.get("data") or {}
    if not prompts or not data.get("width") or not data.get("height"):
        return ""
    columns = grid_columns(len(prompts), data["width"], data["height"])
    rows = [prompts[start : start + columns] for start in range(0, len(prompts), columns)]
    cells = "".join(f"<tr>{''.join(f'<td>{escape(str(text))}</td>' for text in row)}</tr>" for row in rows)
    return (
        '<div class="card"><details><summary>The prompt of each image</summary>'
        f'<div class="scroll"><table class="prompts"><tbody>{cells}</tbody></table></div></details></div>'
    )


def _curves_section(log: Sequence[Mapping[str, Any]], timing: Sequence[Mapping[str, Any]]) -> str:
    columns = _columns(log)
    rate = columns.pop("learning_rate", None)
    losses = [name for name in columns if name.rpartition("/")[2] == "loss"]
    if len(losses) > 1:
        overlay = [Series(name.removesuffix("/loss"), *columns.pop(name)) for name in losses]
        charts = [chart("loss of each phase", overlay)]
    else:
        charts = []
    only_phase = {name.rpartition("/")[0] for name in columns} if not charts else set()
    for name in sorted(columns, key=lambda name: name not in losses):
        shown = name.rpartition("/")[2] if len(only_phase) == 1 else name.replace("/", " · ")
        charts.append(chart(shown.replace("_", " "), [Series(name, *columns[name])]))
    speeds = _columns(timing).get("images_per_second")
    if speeds:
        charts.append(chart("images per second", [Series("speed", *speeds)], from_zero=True))
    if rate:
        charts.append(chart("learning rate", [Series("rate", *rate)], exact=True))
    body = "".join(charts)
    return (
        f'<section><h2>Curves <small>over images seen</small></h2><div class="charts">{body}</div></section>'
        if body
        else ""
    )


def _columns(lines: Iterable[Mapping[str, Any]]) -> dict[str, tuple[list[float], list[float]]]:
    columns: dict[str, tuple[list[float], list[float]]] = {}
    for line in lines:
        seen = line.get("images")
        if not isinstance(seen, int | float):
            continue
        for name, value in line.items():
            if name not in ("images", "step", "seconds") and isinstance(value, int | float):
                x, y = columns.setdefault(name, ([], []))
                x.append(float(seen))
                y.append(float(value))
    return columns


def _data_section(data: Mapping[str, Any]) -> str:
    if not data:
        return ""
    judged = data.get("judged") or {}
    rows = {
        "Name": data.get("name"),
        "Source": data.get("source"),
        "Images": f"{data['images']:,}" if isinstance(data.get("images"), int) else None,
        "Found": data.get("account"),
        **(data.get("understood") or {}),
        "Size": f"{data['width']} × {data['height']} pixels" if data.get("width") else None,
        "Sizes": ", ".join(f"{width} × {height}" for width, height in data.get("sizes", ())) or None,
        "Channels": data.get("channels"),
        "Source images": data.get("source_images"),
        "Scored on": f"{judged['images']:,} other images ({judged.get('split')})"
        if isinstance(judged.get("images"), int)
        else None,
        "Licence": data.get("licence"),
        "Citation": data.get("citation"),
        "Fingerprint": data.get("fingerprint"),
    }
    notes = "".join(f"<li>{escape(str(note))}</li>" for note in data.get("notes") or [])
    notes = f'<div class="note"><ul>{notes}</ul></div>' if notes else ""
    parts = [f'<div class="card">{notes}{page.facts(rows)}{_skipped(data.get("skipped") or [])}</div>']
    labels = data.get("labels") or {}
    if labels:
        parts.append(f'<div class="card"><h3>{len(labels):,} labels</h3>{_histogram(labels)}</div>')
    return f'<section><h2>Data</h2><div class="columns">{"".join(parts)}</div></section>'


def _histogram(labels: Mapping[str, int]) -> str:
    ranked = sorted(labels.items(), key=lambda item: -item[1])
    most = max(1, ranked[0][1])
    rows = [
        f'<tr><th scope="row" class="label">{escape(str(name))}</th><td><svg aria-hidden="true">'
        f'<rect width="{number / most:.1%}" height="100%" rx="2"/></svg></td>'
        f'<td class="number">{number:,}</td></tr>'
        for name, number in ranked[:_MOST_LABELS]
    ]
    table = f"<table><tbody>{''.join(rows[:_FIRST_LABELS])}</tbody></table>"
    if len(rows) > _FIRST_LABELS:
        rest = ranked[_MOST_LABELS:]
        more = f"<p>And {len(rest):,} more with {sum(n for _, n in rest):,} images.</p>" if rest else ""
        table += (
            f"<details><summary>The other {len(ranked) - _FIRST_LABELS:,}</summary>"
            f"<table><tbody>{''.join(rows[_FIRST_LABELS:])}</tbody></table>{more}</details>"
        )
    return table


def _skipped(skipped: Sequence[Sequence[Any]]) -> str:
    if not skipped:
        return ""
    rows = "".join(
        f'<tr><th scope="row">{escape(str(name))}</th><td>{escape(str(why))}</td></tr>'
        for name, why in skipped
    )
    files = "An image that is" if len(skipped) == 1 else f"{len(skipped):,} images that are"
    summary = f"<summary>{files} not used</summary>"
    return f"<details>{summary}<table><tbody>{rows}</tbody></table></details>"


def _settings_section(facts: Mapping[str, Any], config: str) -> str:
    hardware, plan, cost = (facts.get(name) or {} for name in ("hardware", "plan", "cost"))
    machine = {
        "Device": hardware.get("device"),
        "Processor": hardware.get("processor"),
        "Cores": f"{hardware['cores']} ({hardware.get('threads')} threads used)"
        if hardware.get("cores")
        else None,
        "Memory": memory(hardware["memory_bytes"]) if hardware.get("memory_bytes") else None,
        "System": hardware.get("system"),
        "Python": hardware.get("python"),
        "PyTorch": hardware.get("torch"),
    }
    estimate = {
        "Parameters": ", ".join(f"{name} {n:,}" for name, n in (plan.get("parameters") or {}).items()),
        "Moving average": (facts.get("ema") or {}).get("text"),
        "Precision": plan.get("precision"),
        "Planned": f"{plan['images']:,} images" if plan.get("images") else None,
        "Estimated time": duration(plan["seconds"]) if plan.get("seconds") is not None else None,
        "Estimated speed": f"{plan['images_per_second']:,.0f} images/s"
        if plan.get("images_per_second")
        else None,
        "Estimated memory": memory(plan["memory_bytes"]) if plan.get("memory_bytes") else None,
        "Images at once": plan.get("micro_batch"),
        "Activations": "computed again in the backward pass" if plan.get("checkpointing") else None,
        "Measured before": plan.get("nearest"),
        "Budget": plan.get("warning"),
        "Estimated disk for snapshots": memory(plan["snapshot_bytes"])
        if plan.get("snapshot_bytes")
        else None,
        "Most memory used": memory(cost["peak_memory_bytes"]) if cost.get("peak_memory_bytes") else None,
        "Evaluation": duration(cost["evaluation_seconds"]) if cost.get("evaluation_seconds") else None,
        "Core-hours": f"{cost['core_hours']:.2g}" if cost.get("core_hours") is not None else None,
        "Energy": (
            f"{cost['energy_wh']:,.3g} Wh"
            if cost.get("energy_wh") is not None
            else "this machine does not report it"
        ),
    }
    parts = []
    if facts.get("command"):
        parts.append(f"<h3>To repeat it</h3>{page.command(str(facts['command']))}")
    if hardware or plan:
        parts.append(
            f'<h3>Machine and cost</h3><div class="columns"><div class="card">{page.facts(machine)}</div>'
            f'<div class="card">{page.facts(estimate)}</div></div>'
        )
    if config:
        parts.append(
            '<h3>Configuration</h3><div class="card"><details open><summary>config.toml</summary>'
            f"<pre>{escape(config)}</pre></details></div>"
        )
    return f"<section><h2>How it was made</h2>{''.join(parts)}</section>" if parts else ""


def _spread(items: Sequence[Path], most: int) -> list[Path]:
    """At most `most` of the items, evenly spaced, with the first and the last."""
    if len(items) <= most:
        return list(items)
    return [items[round(number * (len(items) - 1) / (most - 1))] for number in range(most)]
