"""An exported model, which samples images without PyTorch."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from danqing import options as rules
from danqing import requested
from danqing.compress.runtime import codes, flow, one_shot
from danqing.compress.runtime import manifest as form
from danqing.compress.runtime.conditions import conditions, drawn_label, rows_of
from danqing.compress.runtime.graphs import Array, Graph, open_graphs
from danqing.compress.runtime.manifest import Manifest, TextForm
from danqing.compress.runtime.request import Request, Sample
from danqing.errors import ConfigError, ModelError
from danqing.images import Images, pixels_of_floats
from danqing.requested import Label, Prompt, count_images, image_seeds
from danqing.requested_attributes import Attributes
from danqing.sizes import SizeRange
from danqing.trust.declaration import Declaration, SourceType
from danqing.trust.settings import MarkSettings

if TYPE_CHECKING:
    from danqing.compress.runtime.prompts import Prompts
    from danqing.trust.marking import Marking

OnStep = Callable[[int, int, Callable[[], Images]], None]
"""A function that is called after each step, with the steps done, the steps in all, and a function that
returns the images so far, without those that have not begun."""

_LOOPS: Mapping[str, Sample] = {
    "one_shot": one_shot.sample,
    "raster": codes.sample,
    "masked": codes.sample,
    "flow": flow.sample,
}


class RuntimeModel:
    """A model whose graphs are ready to run, as `load` returns it.

    manifest: the content of `export.json`. graphs: by their names.
    name: as its images declare it.
    marks: which marks its images get, such as "eu,cn" or "none"; None reads `DANQING_MARKS`.
    """

    def __init__(
        self, manifest: Manifest, graphs: Mapping[str, Graph], marks: str | MarkSettings | None = None
    ) -> None:
        self.manifest, self.graphs, self.marks = manifest, graphs, marks
        self.name = manifest.provenance.model
        self._prompts = None if manifest.text is None else _prompts(manifest.text)

    def __repr__(self) -> str:
        m = self.manifest
        return f"RuntimeModel({m.family}, {m.target}, {m.precision}, {m.width}x{m.height}x{m.channels})"

    @property
    def config(self) -> Manifest:
        """Return what can be requested of it."""
        return self.manifest

    @property
    def chunk(self) -> int:
        """Return how many images are computed at once."""
        return self.manifest.chunk

    @property
    def labels(self) -> tuple[str, ...]:
        """Return the names that `sample(label=...)` takes, if any."""
        return self.manifest.labels

    @property
    def facts(self) -> dict[str, Any]:
        """Return what is known of its training."""
        return dict(self.manifest.facts)

    @property
    def sample_options(self) -> dict[str, Any]:
        """Return the options of `sample` with their defaults."""
        return dict(self.manifest.options)

    @property
    def sizes(self) -> SizeRange:
        """Return the sizes that it samples."""
        return self.manifest.sizes

    def check_options(self, options: Mapping[str, Any]) -> None:
        """Raise ConfigError for an unknown option or an invalid value.

        options: of `sample`; the `size` may be among them.
        """
        own = dict(options)
        if (size := own.pop("size", None)) is not None:
            self.sizes.check(size)
        rules.check_given(own, self.sample_options)

    def sample(
        self,
        n: int | None = None,
        *,
        label: Label = None,
        prompt: Prompt = None,
        negative_prompt: Prompt = None,
        attributes: Attributes = None,
        seed: int = 0,
        seeds: Sequence[int] | None = None,
        size: Sequence[int] | None = None,
        on_step: OnStep | None = None,
        **options: Any,
    ) -> Images:
        """Sample `n` images.

        Image i depends on (seed, i), on what is requested of it, the size and the options alone, and is the
        image of the model in PyTorch up to rounding.

        on_step: called after each step; to stop sampling, it raises an exception of its own.
        Other arguments and errors are those of `danqing.model.model.Model.sample`.
        """
        n = count_images(label, prompt, seeds, attributes) if n is None else n
        if n < 1:
            raise ConfigError("Request at least one image.")
        chosen = image_seeds(n, seed, seeds)
        self.check_options(options if size is None else {**options, "size": size})
        own = {**self.sample_options, **options}
        wanted = conditions(self.manifest, self._prompts, chosen, label, prompt, negative_prompt, attributes)
        marks = self.marking("sample", "\n".join(dict.fromkeys(wanted.texts)))

        finished: list[Array] = []
        chunk, chunks = self.manifest.chunk, -(-n // self.manifest.chunk)

        def report(done: int, steps: int, preview: Callable[[], Array]) -> None:
            if on_step is not None:
                before = list(finished)

                def shown() -> Images:
                    return Images(np.concatenate([*before, pixels_of_floats(preview())])[:n], marks)

                on_step(len(before) * steps + done, chunks * steps, shown)

        loop = self.manifest.loop
        for start in range(0, n, chunk):
            rows = [row % n for row in range(start, start + chunk)]
            request = Request(
                seeds=[chosen[row] for row in rows],
                condition=rows_of(wanted.given, rows),
                away=rows_of(wanted.away, rows),
                options=own,
                negative=wanted.negative,
                size=None if size is None else (size[0], size[1]),
            )
            finished.append(pixels_of_floats(_LOOPS[loop.kind](self.graphs, loop, request, report)))
        return Images(np.concatenate(finished)[:n], marks)

    def drawn_labels(self, seeds: Sequence[int]) -> NDArray[np.int64]:
        """Return the labels that seeds draw where none are requested, `[n]`.

        They are -1 where the model has no labels.
        """
        found = requested.labels(self.manifest, None, seeds, drawn_label)
        return np.full(len(seeds), -1, np.int64) if found is None else np.array(found, np.int64)

    def drawn_prompts(self, seeds: Sequence[int]) -> tuple[str, ...] | None:
        """Return the prompts that seeds draw where none are requested.

        None where the model reads no text.
        """
        return requested.texts(self.manifest, None, seeds)

    def check_prompt(self, text: str, name: str = "prompt") -> None:
        """Raise ConfigError for a prompt that is too long to read.

        name: of the option that holds it.
        """
        if self._prompts is not None:
            self._prompts.check(text, name)

    def declaration(self, action: str, prompt: str = "") -> Declaration:
        """Return what an image declares.

        action: the verb that made it. prompt: what was requested of it.
        """
        told = self.manifest.provenance
        return Declaration(
            source=SourceType.of(action),
            action=action,
            model=self.name,
            model_digest=told.model_digest,
            prompt=prompt,
            licence=told.licence,
            creator=told.creator,
            reservations=told.reservations,
        )

    def marking(self, action: str, prompt: str = "") -> "Marking | None":
        """Return the marks of images; None where they get none.

        Raises ConfigError for unknown settings, and as `check_marks`.
        """
        settings = MarkSettings.of(self.marks)
        check_marks(self.manifest, settings)
        if not settings.regimes:
            return None
        from danqing.trust.marking import marking  # a worker of the service makes no marks

        return marking(settings, lambda: self.declaration(action, prompt))


def _prompts(form: TextForm) -> "Prompts":
    from danqing.compress.runtime.prompts import Prompts  # most models do not need its library

    return Prompts(form)


def check_marks(manifest: Manifest, settings: MarkSettings) -> None:
    """Raise ConfigError for marks that an export cannot make: those in codes."""
    if settings.regimes and settings.codes and manifest.loop.kind in ("raster", "masked"):
        raise ConfigError(
            "An export does not mark the codes that it samples: leave codes=on out, or use the model itself "
            "with PyTorch.",
            "marks",
        )


def load(folder: str | Path, *, marks: str | MarkSettings | None = None, threads: int = 0) -> RuntimeModel:
    """Load an exported model from a folder.

    marks: as of `RuntimeModel`. threads: of a computation; 0 is what the runtime chooses.
    Raises ModelError where the folder is not an export, is damaged, or its runtime is not installed.
    """
    path = Path(folder)
    manifest = form.read(path)
    if manifest.loop.kind == "recognize":
        raise ModelError(f"{path} holds a model that recognizes images: use load_recognizer.")
    return RuntimeModel(manifest, open_graphs(path, manifest, threads), marks)
