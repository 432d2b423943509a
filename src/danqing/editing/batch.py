"""One edit of many files: what is done already is skipped, and what fails does not stop the rest."""

import contextlib
import hashlib
import time
import warnings
import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from danqing.editing import files, manifest, outputs
from danqing.editing.containers import SIGNED
from danqing.editing.contract import Edit, ImageToEdit, Values
from danqing.editing.contract import seed_of as seed_of
from danqing.editing.flicker import flicker_of
from danqing.editing.inputs import Inputs, Source, find
from danqing.editing.manifest import Record
from danqing.editing.marks import made_by, marking_bytes, marking_of
from danqing.editing.outputs import Outputs
from danqing.errors import ConfigError, DataError
from danqing.machine import is_out_of_memory, resident_memory
from danqing.marks import Marked
from danqing.progress import ProgressCallback
from danqing.quantities import memory as in_words
from danqing.quantities import parse_memory
from danqing.requested_attributes import OutsideTrainingWarning
from danqing.trust.marking import Marking
from danqing.trust.settings import MarkSettings

_HELD, _READ_OR_WRITTEN = 12, {8: 16, 16: 32}
"""Bytes for each pixel: of the file and its values during the edit, and of reading or writing each depth."""
_COPY = "Nothing was changed: the mask is white nowhere, or the options ask for no change."


class Plan(NamedTuple):
    """What a batch will do.

    images: how many there are to edit, without those that are done already.
    largest: the name of the image with the most pixels, "" if no size is known. size: its (width, height).
    peak_bytes: the memory that the whole process needs for it, an estimate.
    """

    images: int
    largest: str
    size: tuple[int, int]
    peak_bytes: int


@dataclass(frozen=True)
class BatchResult:
    """What became of each image.

    Keys are the names of the inputs; with several versions of each, `1/` and so on is put before them.

    written, skipped: the outputs; those that are skipped were made before, by the same edit.
    failed: the reasons.
    notes: what an output lacks that its input has, and what the model warns of.
    manifest: the path of the records, None for a single named file.
    flicker: of the frames of a film, see `danqing.editing.flicker`; None without frames.
    """

    out: Path
    inputs: Inputs
    versions: int = 1
    written: dict[str, Path] = field(default_factory=dict)
    skipped: dict[str, Path] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    notes: dict[str, tuple[str, ...]] = field(default_factory=dict)
    manifest: Path | None = None
    flicker: float | None = None

    def pairs(self) -> Iterator[tuple[str, bytes, bytes]]:
        """Yield each output's key with the contents of both files.

        These are the input file and the output file.
        """
        paths = self.written | self.skipped
        with contextlib.ExitStack() as stack:
            archive = None
            if self.manifest is not None and self.out.is_file():
                archive = stack.enter_context(zipfile.ZipFile(self.out))
            for version in range(self.versions):
                for name in self.inputs.names:
                    if (path := paths.get(key := self.key(name, version))) is not None:
                        inside = path.relative_to(self.out).as_posix() if archive is not None else ""
                        content = path.read_bytes() if archive is None else archive.read(inside)
                        yield key, self.inputs.read(name), content

    def key(self, name: str, version: int) -> str:
        """Return the key of a version of an image, counted from 0."""
        return f"{version + 1}/{name}" if self.versions > 1 else name


def edit_files(
    edit: Edit,
    source: Source,
    out: Path,
    *,
    seed: int,
    n: int = 1,
    strip: bool = False,
    dry_run: bool = False,
    sequence: bool = False,
    marks: str | MarkSettings | None = None,
    memory: int | str | None = None,
    extra: Callable[[str], Mapping[str, Any]] | None = None,
    on_plan: Callable[[Plan], None] | None = None,
    on_progress: ProgressCallback | None = None,
) -> BatchResult:
    """Edit files and write the results.

    The results have the same names and formats as the inputs.

    source: a file, a folder with all folders below it, a zip, or a pattern such as `photos/*.jpg`; or several
        files.
    out: a folder or a zip, which holds the results of one edit; for one image also the name of a file, which
        is replaced. Results of the same edit are skipped, so that an interrupted batch continues.
    seed: an image's own seed depends on it and on the name, not on the other images.
    n: the number of versions of each image.
    strip: whether metadata is left out.
    dry_run: whether nothing is edited and written; `written` are the outputs that would be.
    sequence: whether the images are the frames of a film, which share one seed.
    marks: which marks the results get, such as "eu,cn" or "none"; None reads `DANQING_MARKS`. An image that
        the edit does not change gets none.
    memory: the bytes that the process may use, such as 1_500_000_000 or "1.5G"; if more are needed, no image
        is edited.
    extra: returns what the result for an image depends on besides the settings of the edit, such as the
        digest of its mask, as values for JSON.
    on_plan: called once, before the first edit.
    on_progress: called with the number of images that are done, all of them, and what is done.
    Raises ConfigError if `out` cannot be used, if it holds the results of another edit, or if more memory is
    needed; DataError if there are no images; DanqingError if nothing can be written.
    """
    if n < 1:
        raise ConfigError(f"n is the number of versions of each image, at least 1 (got {n}).", "n")
    most = parse_memory(memory) if isinstance(memory, str) else memory
    settings, inputs = MarkSettings.of(marks), find(source)
    with outputs.opened(out, inputs, dry_run=dry_run) as place:
        inputs = inputs.outside(place.folder)
        options = {"seed": seed, "strip": strip, "sequence": sequence, "marks": str(settings)}
        identity = manifest.plain({"verb": edit.verb, "settings": edit.settings, **options})
        _check_same_edit(place, identity)
        records = None if place.manifest is None else out / manifest.NAME
        result = BatchResult(out, inputs, n, manifest=records)
        batch = _Batch(edit, inputs, place, identity, seed, n, extra, marking_of(edit, settings), result)
        plan = batch.plan()
        _check_memory(plan, most)
        if on_plan is not None:
            on_plan(plan)
        batch.run(dry_run, on_progress)
    return replace(result, flicker=flicker_of(result.pairs())) if sequence and not dry_run else result


def edited(edit: Edit, image: ImageToEdit) -> Values:
    """Edit one image; return its own pixels if nothing changes.

    Raises DataError as `apply` does.
    """
    return _applied(edit, image) if edit.changes(image) else image.values


def _applied(edit: Edit, image: ImageToEdit) -> Values:
    values = edit.apply(image)
    if values.dtype != image.values.dtype or values.ndim != 3:
        raise ValueError(f"{edit.verb} turned {image.values.dtype} into {values.dtype} {list(values.shape)}")
    return values


def _warned(edit: Edit, image: ImageToEdit) -> tuple[Values, tuple[str, ...]]:
    """Edit one image; also return what the model warns of, which belongs to this image alone."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", OutsideTrainingWarning)
        result = _applied(edit, image)
    own = [str(each.message) for each in caught if issubclass(each.category, OutsideTrainingWarning)]
    for each in caught:
        if not issubclass(each.category, OutsideTrainingWarning):
            warnings.warn_explicit(each.message, each.category, each.filename, each.lineno)
    return result, tuple(dict.fromkeys(own))


class _Task(NamedTuple):
    """One output to make: a version of an image, and its place among the images."""

    name: str
    version: int
    frame: int


@dataclass(frozen=True)
class _Batch:
    edit: Edit
    inputs: Inputs
    place: Outputs
    identity: Mapping[str, Any]
    seed: int
    versions: int
    extra: Callable[[str], Mapping[str, Any]] | None
    marks: Marking | None
    result: BatchResult
    taken: dict[str, str] = field(default_factory=dict)

    def plan(self) -> Plan:
        """Return what there is to do, and the memory that it takes."""
        todo = [task.name for task in self._tasks() if self._record(task) is None]
        largest, size = "", (0, 0)
        for name in dict.fromkeys(todo):
            found = self.inputs.size(name)
            if found is not None and found[0] * found[1] > size[0] * size[1]:
                largest, size = name, found
        pixels, scale = size[0] * size[1], int(getattr(self.edit, "scale", 1))
        edit = self.edit.peak_bytes(*size) if largest else 0
        depth = self.inputs.depth(largest) if largest else 8
        written = _READ_OR_WRITTEN[depth] * pixels * scale**2 + marking_bytes(self.edit, self.marks, pixels)
        needed = max(edit + _HELD * pixels, written)
        return Plan(len(todo), largest, size, resident_memory() + needed)

    def run(self, dry_run: bool, on_progress: ProgressCallback | None) -> None:
        """Make all outputs that are missing."""
        tasks = list(self._tasks())
        for done, task in enumerate(tasks):
            if on_progress is not None:
                on_progress(done, len(tasks), task.name)
            self._do(task, dry_run)
        if on_progress is not None:
            on_progress(len(tasks), len(tasks), tasks[-1].name)

    def _tasks(self) -> Iterator[_Task]:
        for version in range(self.versions):
            for frame, name in enumerate(self.inputs.names):
                yield _Task(name, version, frame if self.identity["sequence"] else 0)

    def _do(self, task: _Task, dry_run: bool) -> None:
        key = self.result.key(task.name, task.version)
        try:
            content = self.inputs.read(task.name)
            extra = manifest.plain(self.extra(task.name)) if self.extra is not None else {}
            digest = hashlib.sha256(content).hexdigest()
            if (record := self._record(task)) is not None:
                if record.input != digest or dict(record.extra) != extra:
                    raise DataError(self._stale(record, record.input != digest))
                self.result.skipped[key] = self._shown(record.output)
                return
            output = self._output(task, content)
            self._check_free(output)
            made = None if dry_run else self._made(task, content)
            if made is not None and made.output != output:
                self._check_free(output := made.output)
            sidecar = outputs.sidecar_of(output) if made is not None and made.sidecar else None
            if sidecar in self.taken:
                raise DataError(f"{self._shown(output)} and {self.taken[sidecar]} have the same sidecar.")
        except DataError as error:
            self.result.failed[key] = str(error)
            return
        if made is not None:
            record = Record(
                name=task.name,
                version=task.version,
                output=output,
                input=digest,
                extra=extra,
                edit=self.identity,
                seed=self._seed(task),
                frame=task.frame,
                is_changed=made.is_changed,
                seconds=round(made.seconds, 3),
                notes=made.notes,
            )
            self.place.write(record, made.content, made.sidecar)
            if made.notes:
                self.result.notes[key] = made.notes
        self.result.written[key] = self._shown(output)
        self.taken.update({output: key} if sidecar is None else {output: key, sidecar: key})

    def _made(self, task: _Task, content: bytes) -> "_Made":
        """Edit one file; raise DataError if that fails, also for lack of memory."""
        started = time.perf_counter()
        try:
            values, style = files.read(content)
            image = ImageToEdit(values, self._seed(task), task.name, task.frame)
            result, warned = _warned(self.edit, image) if self.edit.changes(image) else (values, (_COPY,))
            is_changed = not np.array_equal(result, values)
            output = self._output(task, content)
            wanted = files.in_format(style, output) if self.place.is_file else style
            if not is_changed and not self.identity["strip"]:
                if not self.place.is_file:
                    output = self.place.name_of(task.name, task.version, self.versions)
                    return _Made(output, content, False, time.perf_counter() - started, warned)
                if wanted == style and not style.suffix:
                    return _Made(output, content, False, time.perf_counter() - started, warned)
            new = self._encoded(image, result, wanted, content if is_changed else None)
        except (MemoryError, RuntimeError) as error:
            if not isinstance(error, MemoryError) and not is_out_of_memory(error):
                raise
            raise DataError(
                "The image does not fit into memory: choose smaller tiles, or shrink it."
            ) from error
        notes = (*_kept_notes(wanted.notes, new), *warned, *new.notes)
        return _Made(output, new.content, is_changed, time.perf_counter() - started, notes, new.sidecar)

    def _encoded(
        self, image: ImageToEdit, result: Values, style: files.FileStyle, parent: bytes | None
    ) -> Marked:
        """Return the file of a result with its marks; parent: the input, None if it was not changed."""
        if self.identity["strip"]:
            style = files.stripped(style)
        if self.marks is None or parent is None:
            return Marked(files.write(result, style))
        return self.marks.write(
            result,
            lambda pixels, packet: files.write(pixels, replace(style, xmp=packet)),
            xmp=style.xmp,
            where=made_by(self.edit, image, result),
            parent=parent,
        )

    def _output(self, task: _Task, content: bytes) -> str:
        return self.place.name_of(task.name, task.version, self.versions, files.suffix_for(content))

    def _seed(self, task: _Task) -> int:
        # The frames of a film have the same noise, or the film would flicker.
        return seed_of(self.seed, "" if self.identity["sequence"] else task.name, task.version)

    def _record(self, task: _Task) -> Record | None:
        return None if self.place.manifest is None else self.place.manifest.find(task.name, task.version)

    def _check_free(self, output: str) -> None:
        """Raise DataError if something else has the name of an output."""
        if self.place.is_file:
            return
        path = self._shown(output)
        if output in self.taken:
            raise DataError(f"{self.taken[output]} is written to {path} too: rename one of them.")
        try:
            is_taken = self.place.path_of(output).exists()
        except OSError as error:  # the name of the input fits, but not with a suffix, or in this folder
            raise DataError(f"{path} cannot be written ({error.strerror}): shorten its name.") from error
        if is_taken:
            raise DataError(
                f"{path} exists and is not a result of this edit: delete it, or choose another --out."
            )

    def _stale(self, record: Record, is_input: bool) -> str:
        cause = "another version of the input" if is_input else "other options for this image"
        return f"{self._shown(record.output)} was made from {cause}: delete it to make it again."

    def _shown(self, output: str) -> Path:
        """Return the path of an output when the batch has ended."""
        return self.place.folder / output if self.place.is_file else self.result.out / output


class _Made(NamedTuple):
    """An edited file, before it is written."""

    output: str
    content: bytes
    is_changed: bool
    seconds: float
    notes: tuple[str, ...] = ()
    sidecar: bytes = b""


def _kept_notes(notes: tuple[str, ...], made: Marked) -> tuple[str, ...]:
    """Leave out that credentials are lost, where new ones have them as an ingredient."""
    carried = made.sidecar or b"c2pa" in made.content
    return tuple(note for note in notes if not (carried and note == SIGNED))


def _check_same_edit(place: Outputs, identity: Mapping[str, Any]) -> None:
    """Raise ConfigError if a folder holds the results of an edit with other settings."""
    for record in place.manifest.records() if place.manifest is not None else ():
        if record.edit != identity:
            before, now = _flat(record.edit), _flat(identity)
            name = next(name for name in (before | now) if before.get(name) != now.get(name))
            raise ConfigError(
                f"{place.out} holds the results of another edit ({name} was {before.get(name)}, and is "
                f"{now.get(name)} now): choose another --out, or delete them."
            )


def _flat(identity: Mapping[str, Any]) -> dict[str, Any]:
    return {**{name: value for name, value in identity.items() if name != "settings"}, **identity["settings"]}


def _check_memory(plan: Plan, memory: int | None) -> None:
    """Raise ConfigError if a batch needs more memory than it may use."""
    if memory is not None and plan.peak_bytes > memory:
        width, height = plan.size
        raise ConfigError(
            f"{plan.largest} ({width}x{height}) needs about {in_words(plan.peak_bytes)}, over --memory "
            f"{in_words(memory)}: choose a smaller --tile, allow more, or leave this image out."
        )
