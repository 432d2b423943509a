"""`shrink`: measure the forms of a model on this machine, and keep the one that is worth it."""

import json
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from danqing import atomic
from danqing.compress import choice, measuring, result_folder
from danqing.compress.choice import Measured
from danqing.compress.forms import ORIGINAL, Form, Sampler, forms_of, needed_bytes, open_form
from danqing.compress.runtime.manifest import FILE
from danqing.compress.student import half_width, train_student
from danqing.errors import ConfigError, EvaluationError, ModelError, not_writable
from danqing.evaluation.candidate import Candidate, open_candidate
from danqing.evaluation.features import extract
from danqing.evaluation.image_sets import spread_evenly
from danqing.evaluation.metrics import distance_name
from danqing.evaluation.networks import open_network
from danqing.evaluation.reference import open_reference, reference_info
from danqing.evaluation.scores import ReferenceInfo
from danqing.families import display_name
from danqing.families.abilities import Translates
from danqing.folder_formats import is_export
from danqing.machine import hardware
from danqing.model.card import measured_forms
from danqing.model.folder import SHRINK, write_card
from danqing.model.loading import HasModel, load
from danqing.model.model import Model
from danqing.progress import ProgressCallback
from danqing.version import __version__

_MOST_REFERENCE = 2000
"""Real images that are compared with: more would take longer and hardly narrow the intervals."""


@dataclass(frozen=True, kw_only=True)
class Shrinkage:
    """What was measured, and what was chosen.

    forms: the original first. chosen: the name of a form; None where none is worth it or small enough.
    verdict: why, as a sentence. folder: where it was written; None where nothing was.
    most_bytes: what the budget allows; None without one. score: the name of the distance.
    n: images that each form sampled. reference: the real images.
    """

    forms: tuple[Measured, ...]
    chosen: str | None
    verdict: str
    folder: Path | None
    most_bytes: int | None
    score: str
    n: int
    seed: int
    reference: ReferenceInfo
    machine: Mapping[str, Any]

    @property
    def is_too_large(self) -> bool:
        """Return whether no form suits the budget."""
        return self.chosen is None and self.most_bytes is not None and self.forms[0].bytes > self.most_bytes

    def to_json(self) -> dict[str, Any]:
        """Return everything as plain values."""
        original = self.forms[0]
        forms = [{**asdict(form), "as_good": form.is_as_good_as(original)} for form in self.forms]
        told = {
            "format": 1,
            "danqing": __version__,
            "forms": forms,
            "chosen": self.chosen,
            "verdict": self.verdict,
            "most_bytes": self.most_bytes,
            "score": self.score,
            "n": self.n,
            "seed": self.seed,
            "reference": self.reference.model_dump(mode="json"),
            "machine": dict(self.machine),
        }
        plain: dict[str, Any] = json.loads(json.dumps(told))
        return plain


def shrink(
    model: Model | HasModel | str | Path,
    data: str | Path,
    *,
    out: str | Path | None = None,
    budget: str | None = None,
    minutes: float | None = None,
    n: int | None = None,
    features: str | Path | nn.Module = "auto",
    split: str | None = None,
    seed: int = 0,
    on_progress: ProgressCallback | None = None,
) -> Shrinkage:
    """Measure the forms of a model here, and keep the best.

    The best form is the fastest whose score cannot be told from the original's and that suits the budget.

    model: a model that samples, a run, a model folder or a hub id.
    data: the real images that samples are compared with.
    out: a new folder for the chosen form, or that of an earlier result, which is replaced. None writes
        nothing.
    budget: how large the form may be: bytes such as "2MB" or "500kB", or "2x" for half of the original's.
    minutes: how long to train a student of half the width, which is measured in all forms too; None trains
        none.
    n: images that each form samples; None takes as many as the model samples in a few seconds.
    features, split: as of `danqing.evaluate`.
    on_progress: receives (done, total, what).

    Forms that need a package that is not installed are listed with the reason.
    Raises ConfigError, DataError, EvaluationError and ModelError. Nothing is then written.
    """
    tell = on_progress or (lambda done, total, what: None)
    if n is not None and n < 2:
        raise EvaluationError("A score needs at least two images: raise -n.")
    if minutes is not None and not minutes > 0:
        raise ConfigError("A student needs some minutes: give more, or leave --minutes out.")
    if budget is not None:
        choice.most_bytes(budget, 1)  # a mistake is found before the work
    folder = None if out is None else Path(out)
    if folder is not None:
        result_folder.check(folder, SHRINK)
    opened = _opened(model, data, seed, on_progress)
    assert opened.model is not None
    network = open_network(features)
    real = open_reference(data, opened, split=split, seed=seed, on_progress=on_progress)
    images = real.images
    if len(images) > _MOST_REFERENCE:
        images = images.subset(spread_evenly(len(images), _MOST_REFERENCE))
    reference = extract(images, network, keep=True, on_progress=on_progress)
    with _workplace(folder) as work:
        written = _write_all(forms_of(opened.model.unmarked()), work, tell)
        if minutes is not None:
            written = written.joined(_write_student(model, opened.model, data, minutes, work, seed, tell))
        folders, samplers, problems = written
        count = n or measuring.images_for(samplers[ORIGINAL], opened.model.chunk, seed)
        drawn, seconds = measuring.race(samplers, count, seed, tell)
        forms = []
        for place, (name, made) in enumerate(folders.items()):
            tell(place, len(folders), f"Scoring {name}")
            distance = measuring.distance_of(drawn[name], network, reference, seed)
            size, times = needed_bytes(made), (seconds[name], seconds[ORIGINAL])
            forms.append(measuring.measured(name, size, *times, count, distance))
        most = None if budget is None else choice.most_bytes(budget, forms[0].bytes)
        best, verdict = choice.choose(forms, most)
        found = Shrinkage(
            forms=(*forms, *problems),
            chosen=None if best is None else best.name,
            verdict=verdict,
            folder=folder if best is not None else None,
            most_bytes=most,
            score=distance_name("KD", network.name),
            n=count,
            seed=seed,
            reference=reference_info(images, real.info.split),
            machine=hardware(torch.device("cpu")),
        )
        if best is not None and folder is not None:
            _keep(folders[best.name], folder, found)
    return found


def _opened(
    model: Model | HasModel | str | Path, data: str | Path, seed: int, on_progress: ProgressCallback | None
) -> Candidate:
    """Open a model that samples whole images, or raise ModelError."""
    if isinstance(model, str | Path) and is_export(str(model)):
        raise ModelError(f"{model} is an export: give the model that it was made from.")
    opened = open_candidate(model, data, n=2, seed=seed, on_progress=on_progress)
    if opened.model is None:
        raise ModelError(f"{opened.name} does not sample images: give a model that does.")
    family = opened.model.family
    if isinstance(family, Translates) or not family.has_prior:
        raise ModelError(
            f"A {display_name(family.config.family)} does not sample whole images of its own: give a model "
            "that does."
        )
    return opened


@contextmanager
def _workplace(out: Path | None) -> Iterator[Path]:
    """Create a folder for all forms, which is deleted; on the disk of the result, if there is one."""
    name, parent = ("danqing-shrink", None) if out is None else (f".{out.name}.", out.parent)
    try:
        if parent is not None:
            parent.mkdir(parents=True, exist_ok=True)
        work = Path(tempfile.mkdtemp(prefix=name, suffix=".tmp", dir=parent))
    except OSError as error:
        raise not_writable(parent or Path(tempfile.gettempdir()), error) from error
    try:
        yield work
    finally:
        shutil.rmtree(work, ignore_errors=True)


class _Written(NamedTuple):
    """Forms that are ready: their folders and samplers by name, and those that are not possible."""

    folders: dict[str, Path]
    samplers: dict[str, Sampler]
    problems: list[Measured]

    def joined(self, other: "_Written") -> "_Written":
        """Return these forms and others."""
        problems = [*self.problems, *other.problems]
        return _Written(self.folders | other.folders, self.samplers | other.samplers, problems)


def _write_student(
    given: Model | HasModel | str | Path,
    teacher: Model,
    data: str | Path,
    minutes: float,
    work: Path,
    seed: int,
    tell: measuring.Tell,
) -> _Written:
    """Train a student and write its forms; given: the teacher as the user named it."""
    try:
        half_width(teacher.family)
    except ConfigError as error:
        return _Written({}, {}, [Measured("Student", problem=str(error))])
    source = Path(given) if isinstance(given, str | Path) else work / "0"
    if not source.is_dir():
        source = work / "0"  # the original, as it was written
    trained = train_student(source, data, work / "student", minutes=minutes, seed=seed, tell=tell)
    student = load(trained, marks="none")
    student.name = f"{teacher.declaration('sample').model}-student"
    return _write_all(forms_of(student, "Student, "), work, tell)


def _write_all(forms: Sequence[Form], work: Path, tell: measuring.Tell) -> _Written:
    """Write and open all forms."""
    folders: dict[str, Path] = {}
    samplers: dict[str, Sampler] = {}
    problems = []
    for place, form in enumerate(forms):
        tell(place, len(forms), f"Writing {form.name}")
        folder = work / str(len(list(work.iterdir())))
        folder.mkdir()
        try:
            form.write(folder)
            samplers[form.name] = open_form(folder)
            folders[form.name] = folder
        except ModelError as error:
            if form.name == ORIGINAL:
                raise
            problems.append(Measured(form.name, problem=str(error)))
    return _Written(folders, samplers, problems)


def _keep(made: Path, out: Path, found: Shrinkage) -> None:
    """Move the chosen form to its folder, with the table in its card."""
    told = found.to_json()
    try:
        atomic.write_json(made / SHRINK, told)
        if (made / FILE).is_file():
            text = (made / "README.md").read_text(encoding="utf-8")
            atomic.write_text(made / "README.md", text + "\n".join(["", *measured_forms(told)]) + "\n")
        else:
            write_card(made, load(made).info())
        result_folder.publish(made, out)
    except OSError as error:
        raise not_writable(out, error) from error
