"""Cleaning a data set: what is unusual in it, on one page, and a list of what to drop."""

from collections import Counter
from pathlib import Path

from danqing import atomic
from danqing.data.clean_list import CleanRow, Decision, write_clean_list
from danqing.errors import ConfigError, DanqingError
from danqing.evaluation.networks import open_network
from danqing.progress import ProgressCallback
from danqing.recognition.cleaning import findings as of
from danqing.recognition.cleaning.findings import ABOUT, Finding, Kind
from danqing.recognition.cleaning.inputs import Inputs, Shown, read_inputs, read_shown
from danqing.recognition.cleaning.label_errors import find_label_errors
from danqing.recognition.cleaning.label_probabilities import leave_one_out
from danqing.recognition.cleaning.near_duplicates import find_copies
from danqing.recognition.cleaning.outliers import find_outliers
from danqing.recognition.cleaning.page import clean_page
from danqing.recognition.cleaning.result import Cleaning

PICTURED = 60
"""At most so many findings of a kind are on the page; the list has all."""


def clean(
    data: str | Path,
    *,
    out: str | Path | None = None,
    size: tuple[int, int] | None = None,
    features: str = "auto",
    on_progress: ProgressCallback | None = None,
) -> Cleaning:
    """Find wrong labels, copies, outliers and images of poor quality.

    data: as of `train`; all of its splits are looked at.
    out: an HTML file for the page. The clean list, which `train(clean=...)` applies, gets the same name
    with the ending .csv.
    size: width and height at which images are judged; by default, that of training.
    features: the network that images are compared by, as of `evaluate`; "auto" is EfficientNet-Lite0 where
    it is installed, otherwise the pixels.

    Raises DanqingError.
    """
    page = None if out is None else Path(out).expanduser()
    if page is not None and page.suffix.lower() not in (".html", ".htm"):
        raise ConfigError(f"The page of a cleaning is HTML: name it {page.stem}.html instead of {page.name}.")
    network = open_network(features)
    inputs = read_inputs(data, network, size=size, on_progress=on_progress)
    found, accuracy = _find(inputs, on_progress)
    worst = _first(found, PICTURED)
    pictured = {row for one in worst for row in (one.row, one.like) if row is not None}
    shown = read_shown(inputs, {one.row for one in found} | pictured, pictured, on_progress)
    rows = _rows(inputs, found, shown)
    cleaning = Cleaning(
        name=inputs.name,
        names=inputs.names,
        images=len(inputs),
        splits=dict(Counter(inputs.splits)),
        unreadable=inputs.unreadable,
        findings=found,
        rows=list(rows.values()),
        features=network.name,
        accuracy=accuracy,
        page=page,
        clean_list=page and page.with_suffix(".csv"),
        counts={kind: count for kind in ABOUT if (count := sum(one.kind == kind for one in found))},
    )
    if page is not None and cleaning.clean_list is not None:
        try:
            page.parent.mkdir(parents=True, exist_ok=True)
            write_clean_list(cleaning.clean_list, cleaning.rows)
            atomic.write_text(page, clean_page(cleaning, str(data), inputs, worst, shown, rows))
        except OSError as error:
            raise DanqingError(
                f"{page} cannot be written ({error.strerror or error}): choose another --out."
            ) from error
    return cleaning


def _find(inputs: Inputs, on_progress: ProgressCallback | None) -> tuple[list[Finding], float | None]:
    """Return all findings in the order of the page, and the accuracy of the labels' judge."""
    found, accuracy = list[Finding](), None
    if len(inputs.label_names) > 1:
        if on_progress:
            on_progress(0, 1, "Judging labels")
        probabilities = leave_one_out(inputs.features, inputs.labels, len(inputs.label_names))
        found += of.of_labels(inputs, find_label_errors(probabilities, inputs.labels))
        known = inputs.labels >= 0
        accuracy = float((probabilities.argmax(1) == inputs.labels)[known].mean())
    doubted = {one.row for one in found}
    found += of.of_copies(inputs, find_copies(inputs.described, on_progress), doubted)
    found += of.of_outliers(find_outliers(inputs.features))
    found += of.of_quality(inputs)
    blank = {one.row for one in found if one.kind == "blank"}
    found = [one for one in found if one.row not in blank or one.kind in ("blank", "copy", "leak")]
    order = {kind: number for number, kind in enumerate(ABOUT)}
    return sorted(found, key=lambda one: order[one.kind]), accuracy


def _first(found: list[Finding], most: int) -> list[Finding]:
    """Return the first findings of each kind."""
    seen = Counter[Kind]()
    kept = []
    for one in found:
        seen[one.kind] += 1
        if seen[one.kind] <= most:
            kept.append(one)
    return kept


def _rows(inputs: Inputs, found: list[Finding], shown: dict[int, Shown]) -> dict[int, CleanRow]:
    """Return the lines of the clean list, by the row of their image."""
    by_row: dict[int, list[Finding]] = {}
    for one in found:
        by_row.setdefault(one.row, []).append(one)
    lines: dict[int, CleanRow] = {}
    for row, own in by_row.items():
        decision: Decision = "drop" if any(of.decide(inputs, one) == "drop" for one in own) else "keep"
        label = int(inputs.labels[row])
        lines[row] = CleanRow(
            decision=decision,
            split=inputs.splits[row],
            name=inputs.names[row],
            findings="; ".join(f"{ABOUT[one.kind].title.lower()}: {one.detail}" for one in own),
            label=inputs.label_names[label] if label >= 0 else "",
            suggested=next((one.suggested for one in own if one.suggested), ""),
            like=next((inputs.names[one.like] for one in own if one.like is not None), ""),
            digest=shown[row].digest,
        )
    return lines
