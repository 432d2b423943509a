"""From measures to findings: what is unusual about which image, and what to do about it."""

from collections.abc import Collection
from typing import Literal, NamedTuple

import numpy as np

from danqing.data.clean_list import Decision
from danqing.recognition.cleaning import quality
from danqing.recognition.cleaning.inputs import SPLITS, Inputs
from danqing.recognition.cleaning.label_errors import LabelErrors
from danqing.recognition.cleaning.near_duplicates import Pairs
from danqing.recognition.cleaning.outliers import Outliers

Kind = Literal["leak", "label", "copy", "outlier", "blank", "dark", "bright", "blurred", "stretched", "small"]


class About(NamedTuple):
    """The name of a kind of finding, and what it means."""

    title: str
    explanation: str


ABOUT: dict[Kind, About] = {
    "leak": About(
        "Copies across splits",
        "A training image that is also among the images for validation or testing makes scores look better "
        "than they are. The training image is dropped.",
    ),
    "label": About(
        "Labels that look wrong",
        "A model that did not see the image is confident of another label. Right but unusual labels are "
        "among them: look before you drop. Only the most certain are dropped by default.",
    ),
    "copy": About(
        "Copies within a split",
        "Copies of one image, also if they were compressed again, cropped, resized or mirrored. The largest "
        "whose label is not in doubt is kept.",
    ),
    "outlier": About("Outliers", "Images that resemble no others: another subject, a scan, a screenshot."),
    "blank": About("Blank images", "A single level: nothing to see."),
    "dark": About("Too dark", "Nearly all of the image is black."),
    "bright": About("Too bright", "Nearly all of the image is white."),
    "blurred": About("Blurred", "Much smoother than the others at the size of training."),
    "stretched": About("Odd shapes", "The aspect ratio is more than twice the usual one, or less than half."),
    "small": About("Small images", "Far fewer pixels than the others, and fewer than training needs."),
}
"""In the order of the page: what misleads most comes first."""
DROPPED: tuple[Kind, ...] = ("leak", "label", "copy", "blank")
"""What is dropped by default; held-out images are kept, since dropping hard ones would flatter scores."""
CERTAIN = 0.99
"""A label is dropped by default if it is wrong with at least this probability."""


class Finding(NamedTuple):
    """Something unusual about one image.

    row: of the inputs. score: larger is worse, and comparable within a kind. detail: in a few words.
    suggested: a label that fits better. like: the row of the image that is kept instead.
    """

    kind: Kind
    row: int
    score: float
    detail: str
    suggested: str = ""
    like: int | None = None


def of_labels(inputs: Inputs, errors: LabelErrors) -> list[Finding]:
    """Return the labels that look wrong, the most certain first."""
    names, columns = inputs.label_names, (errors.rows, errors.suggested, errors.given, errors.better)
    return [
        Finding("label", row, 1 - given, f"{better:.0%} against {given:.1%}", names[suggested])
        for row, suggested, given, better in zip(*(one.tolist() for one in columns), strict=True)
    ]


def of_copies(inputs: Inputs, pairs: Pairs, doubted: Collection[int] = ()) -> list[Finding]:
    """Return the images that are copies of one that is kept.

    Of several copies, those that are held out are kept, then those whose label is not doubted, then the
    largest, then the first.
    doubted: rows whose label looks wrong.
    """
    alike: dict[int, dict[int, tuple[float, bool]]] = {}
    for (one, other), mirrored, similarity in zip(
        pairs.rows.tolist(), pairs.mirrored.tolist(), pairs.similarity.tolist(), strict=True
    ):
        alike.setdefault(one, {})[other] = similarity, mirrored
        alike.setdefault(other, {})[one] = similarity, mirrored
    by_pixels: dict[str, list[int]] = {}
    for row, digest in enumerate(inputs.pixels):
        by_pixels.setdefault(digest, []).append(row)
    for rows in by_pixels.values():
        for row in rows[1:]:  # equal images may be too smooth to be compared by their structure
            alike.setdefault(row, {})[rows[0]] = alike.setdefault(rows[0], {})[row] = 1.0, False
    areas = inputs.sizes.prod(1).tolist()
    order = sorted(
        alike, key=lambda row: (SPLITS.index(inputs.splits[row]), row in doubted, -areas[row], row)
    )
    kept, findings = set[int](), list[Finding]()
    for row in order:
        near = [other for other in alike[row] if other in kept]
        if not near:
            kept.add(row)
            continue
        like = max(near, key=lambda other: (alike[row][other][0], -other))
        similarity, mirrored = alike[row][like]
        equal = inputs.pixels[row] == inputs.pixels[like]
        detail = "equal" if equal else f"{similarity:.0%} alike{', mirrored' if mirrored else ''}"
        kind: Kind = "copy" if inputs.splits[row] == inputs.splits[like] else "leak"
        findings.append(Finding(kind, row, 2.0 if equal else similarity, detail, like=like))
    return sorted(findings, key=lambda finding: (-finding.score, finding.row))


def of_outliers(outliers: Outliers) -> list[Finding]:
    """Return the outliers, the strangest first."""
    return [
        Finding("outlier", row, ratio, f"{ratio:.1f} times as far from its neighbours as usual")
        for row, ratio in zip(outliers.rows.tolist(), outliers.ratios.tolist(), strict=True)
    ]


def of_quality(inputs: Inputs) -> list[Finding]:
    """Return images of poor quality or an odd size, the worst first."""
    measured, findings = inputs.quality, list[Finding]()
    for row in np.flatnonzero(quality.is_blank(measured)).tolist():
        findings.append(Finding("blank", row, 1.0, f"level {255 * float(measured.high[row]):.0f} of 255"))
    kinds: list[tuple[Kind, np.ndarray, np.ndarray, str]] = [
        ("dark", quality.is_dark(measured), 1 - measured.high, "99% of it below {low:.0%} of white"),
        ("bright", quality.is_bright(measured), measured.low, "99% of it above {high:.0%} of white"),
        ("blurred", quality.is_blurred(measured), -measured.detail, "detail {detail:.3f}"),
    ]
    for kind, found, score, detail in kinds:
        for row in quality.if_rare(found).tolist():
            values = {"low": float(measured.high[row]), "high": float(measured.low[row])}
            text = detail.format(**values, detail=float(measured.detail[row]))
            findings.append(Finding(kind, row, float(score[row]), text))
    assert inputs.spec.size is not None
    sizes = inputs.sizes
    shapes: list[tuple[Kind, np.ndarray]] = [
        ("stretched", quality.is_stretched(sizes)),
        ("small", quality.is_small(sizes, inputs.spec.size)),
    ]
    for kind, found in shapes:
        for row in quality.if_rare(found).tolist():
            width, height = sizes[row].tolist()
            size = max(width / height, height / width) if kind == "stretched" else -width * height
            findings.append(Finding(kind, row, float(size), f"{width}x{height}"))
    return sorted(
        findings, key=lambda finding: (list(ABOUT).index(finding.kind), -finding.score, finding.row)
    )


def decide(inputs: Inputs, finding: Finding) -> Decision:
    """Return what is proposed for a finding."""
    is_training = inputs.splits[finding.row] == "train"
    is_sure = finding.kind != "label" or finding.score >= CERTAIN
    return "drop" if finding.kind in DROPPED and is_training and is_sure else "keep"
