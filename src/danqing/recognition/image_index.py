"""An index of images: built from data, searched by images and by words."""

import re
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, ValidationError
from torch import Tensor

from danqing.data import builtin
from danqing.data.named_images import NamedSource
from danqing.data.records import ImageSpec
from danqing.data.survey import Skipped
from danqing.editing import inputs
from danqing.errors import DataError, SearchError
from danqing.evaluation.judges.caption_matcher import WIDTH, CaptionMatcher
from danqing.evaluation.networks import NAMES
from danqing.images import Images, conform
from danqing.progress import ProgressCallback
from danqing.recognition import index_files, words
from danqing.recognition.encoder import Encoder, open_encoder, own_form
from danqing.recognition.index import Match, VectorIndex

Queries = inputs.Source | Images | NDArray[np.uint8] | Tensor
"""Image files as the edits take them, or images uint8 `[n, h, w, c]`."""
_CAPTIONS = "captions"
_SAVED_AFTER = 4096


class IndexFacts(BaseModel):
    """How the vectors of an index of images were made.

    data, split: as `open_dataset` takes them. encoder, sha256: its name and the digest of its weights. spec:
    the form of the images that it saw.
    """

    model_config = ConfigDict(frozen=True)

    data: str
    split: str
    encoder: str
    sha256: str
    spec: ImageSpec


class Change(NamedTuple):
    """What an update did.

    added, removed: how many images. skipped: those that cannot be read.
    """

    added: int
    removed: int
    skipped: tuple[Skipped, ...]


class ImageIndex:
    """The images of a data set, searched by images and words.

    Open one with `load`, or build one with `index`. folder: where it is stored. looks: its index of vectors.
    changed: what the last update did.
    """

    def __init__(
        self,
        folder: Path,
        looks: VectorIndex,
        encoder: Encoder | None = None,
        matcher: CaptionMatcher | None = None,
        captions: VectorIndex | None = None,
    ) -> None:
        self.folder, self.looks = folder, looks
        self._encoder, self._matcher, self._captions = encoder, matcher, captions
        self._clip: words.ClipTexts | None = None
        self.changed = Change(0, 0, ())
        try:
            self.facts = IndexFacts.model_validate(looks.facts)
        except ValidationError as error:
            raise SearchError(f"{folder} holds an index, but not one of images.") from error

    @classmethod
    def load(cls, folder: str | Path) -> Self:
        """Read an index; raise SearchError where it is missing or damaged."""
        folder = Path(folder).expanduser()
        matcher = words.read(folder / _CAPTIONS)
        captions = VectorIndex.load(folder / _CAPTIONS) if matcher is not None else None
        return cls(folder, VectorIndex.load(folder), None, matcher, captions)

    def __len__(self) -> int:
        return len(self.looks)

    def __repr__(self) -> str:
        return f"ImageIndex({len(self):,} images of {self.facts.data!r} by {self.facts.encoder})"

    @property
    def reads_words(self) -> bool:
        """Return whether it can be searched by words."""
        return self._captions is not None or self.facts.encoder.partition(":")[0] == "clip"

    def search(
        self, images: Queries, k: int = 10, labels: Collection[str] | None = None
    ) -> list[list[Match]]:
        """Find the `k` images most similar to each query, best first.

        labels: only images with one of these labels; None is all. Raises SearchError and DataError.
        """
        return self.looks.search(self.encode(self.prepared(images)), k, labels)

    def search_text(
        self, texts: Sequence[str], k: int = 10, labels: Collection[str] | None = None
    ) -> list[list[Match]]:
        """Find the `k` images that suit each text best.

        Raises SearchError where the index reads no words.
        """
        vectors = self.vectors_of_texts(texts)
        return (self.looks if self._captions is None else self._captions).search(vectors, k, labels)

    @property
    def embedding_size(self) -> int:
        """Return the length of the vectors of `vectors_of_images` and `vectors_of_texts`."""
        return (self.looks if self._captions is None else self._captions).dimensions

    def vectors_of_texts(self, texts: Sequence[str]) -> Tensor:
        """Turn texts into vectors `[n, d]`.

        Raises SearchError where the index reads no words.
        """
        if self._captions is not None and self._matcher is not None:
            return self._matcher.of_texts(texts)
        self._clip = self._clip or words.of_encoder(self.facts.encoder)
        if self._clip is None:
            raise SearchError(
                "This index reads no words: build it with text=True (--text) from images with captions, or "
                "with the encoder clip."
            )
        return self._clip.of_texts(texts)

    def vectors_of_images(self, images: Tensor) -> Tensor:
        """Turn images, as `prepared` returns them, into vectors `[n, d]`.

        Where the index reads words, they are in the space of its texts.
        """
        if self._captions is not None and self._matcher is not None:
            return self._matcher.of_pixels(images)
        return self.encode(images)

    def prepared(self, images: Queries) -> Tensor:
        """Bring images to the form that the encoder sees, uint8 `[n, h, w, c]`."""
        if isinstance(images, Images | np.ndarray | Tensor):
            every = np.asarray(images.array if isinstance(images, Images) else images)
            size, channels = self.facts.spec.size, self.facts.spec.channels
            pixels = [conform(each, size=size, channels=channels, fit=self.facts.spec.fit) for each in every]
        else:
            found = inputs.find(images)
            pixels = [self._read(found, name) for name in found.names]
        return torch.from_numpy(np.stack(pixels))

    def encode(self, images: Tensor) -> Tensor:
        """Turn images, as `prepared` returns them, into vectors `[n, d]`.

        Raises SearchError where the encoder is not the one that the index was built with.
        """
        return self.open_encoder().features(images)

    def open_encoder(self, device: torch.device | str = "cpu") -> Encoder:
        """Return its encoder, opened on a device if it is not open yet.

        Raises SearchError where the encoder is not the one that the index was built with.
        """
        if self._encoder is None:
            encoder = open_encoder(self.facts.encoder, device=device)
            if encoder.sha256 != self.facts.sha256:
                raise SearchError(
                    f"The index was built with other weights of {self.facts.encoder}: build it again, or get "
                    "those weights."
                )
            self._encoder = encoder
        return self._encoder

    def pictures(self, names: Collection[str]) -> dict[str, NDArray[np.uint8]]:
        """Read images by their names from the data, each uint8 `[h, w, c]`.

        Those that are no longer there are left out. Raises DataError where the data is not there.
        """
        if self._is_left():
            raise DataError(
                f"The images of {self.folder} are no longer at {self.facts.data}: run danqing index with "
                f"their new place and --out {self.folder}."
            )
        source = NamedSource(self.facts.data, self.facts.spec, split=self.facts.split)
        return {
            name: pixels
            for part in source.read(names)
            for name, pixels in zip(part.names, part.images.numpy(), strict=True)
        }

    def follow(self, data: str, split: str) -> None:
        """Take another place for images that have left theirs.

        Some of them must be there. The next update saves it.
        """
        if data == self.facts.data or not self._is_left():
            return
        if {*self.looks.ids} & {*NamedSource(data, self.facts.spec, split=split).names()}:
            self.facts = self.facts.model_copy(update={"data": data})
            self.looks.facts = self.facts.model_dump(mode="json")

    def _is_left(self) -> bool:
        """Return whether a folder or file held the images and no longer exists."""
        return Path(self.facts.data).is_absolute() and not Path(self.facts.data).exists()

    def update(self, *, on_progress: ProgressCallback | None = None) -> Change:
        """Add images that are new, remove those that are gone, and save.

        An image is known by its name: one whose content has changed is not encoded again. Images that cannot
        be read are left out. An update that is interrupted goes on where it was saved last.
        """
        facts = self.facts
        source = NamedSource(facts.data, facts.spec, split=facts.split, on_progress=on_progress)
        present = source.names()
        removed = {*self.looks.ids} - {*present}
        self._delete(removed)
        missing = {name for name in present if not self._has(name)}
        added, skipped = 0, list[Skipped]()
        for part in source.read(missing) if missing else ():
            self._add(part.names, part.labels, part.images)
            skipped += part.skipped
            added += len(part.names)
            if added % _SAVED_AFTER < len(part.names):
                self.save()
        for index, _ in self._spaces():
            index.accelerate(on_progress=on_progress)
        self.save()
        self.changed = Change(added, len(removed), tuple(skipped))
        return self.changed

    def save(self) -> None:
        """Write what has changed; raises SearchError where it cannot be written."""
        if self._captions is not None:  # first, so that an index that can be loaded has both
            self._captions.save(self.folder / _CAPTIONS)
        self.looks.save(self.folder)

    def check(
        self, data: str, split: str, encoder: str, size: tuple[int, int] | None, reads_words: bool
    ) -> None:
        """Raise SearchError unless the index was built with these settings.

        They are as `index` takes them.
        """
        facts = self.facts
        pairs = {
            "data": (data, facts.data),
            "split": (split, facts.split),
            "encoder": (encoder, "auto" if encoder == "auto" else facts.encoder),
            "size": (size, size and facts.spec.size),
            "text": (reads_words, reads_words and self.reads_words),
        }
        for name, (requested, built) in pairs.items():
            if requested != built:
                raise SearchError(
                    f"{self.folder} holds an index that was built with {name} {built}, not {requested}: "
                    "choose another folder, or delete that one."
                )

    def _read(self, files: inputs.Inputs, name: str) -> NDArray[Any]:
        try:
            return self.facts.spec.prepared(files.read(name))
        except DataError as error:
            raise DataError(f"{name} cannot be searched for: {error}") from error

    def _has(self, name: str) -> bool:
        return name in self.looks and (self._captions is None or name in self._captions)

    def _add(self, names: list[str], labels: list[str], images: Tensor) -> None:
        """Add images, each where it is not yet: a killed update may have saved it in one of the two."""
        for index, encode in self._spaces():
            new = [place for place, name in enumerate(names) if name not in index]
            if new:
                chosen, kept = [names[place] for place in new], [labels[place] for place in new]
                index.add(chosen, encode(images[new]), kept)

    def _delete(self, names: Collection[str]) -> None:
        for index, _ in self._spaces():
            index.delete([name for name in names if name in index])

    def _spaces(self) -> list[tuple[VectorIndex, Callable[[Tensor], Tensor]]]:
        """Each index of vectors, and what turns images into its vectors."""
        spaces: list[tuple[VectorIndex, Callable[[Tensor], Tensor]]] = [(self.looks, self.encode)]
        if self._captions is not None and self._matcher is not None:
            spaces.append((self._captions, self._matcher.of_pixels))
        return spaces


def index(
    data: str | Path,
    out: str | Path,
    *,
    encoder: str = "auto",
    size: tuple[int, int] | None = None,
    split: str = "train",
    text: bool = False,
    device: torch.device | str = "cpu",
    on_progress: ProgressCallback | None = None,
) -> ImageIndex:
    """Build an index of images, or bring one up to date.

    data, split: as `open_dataset` takes them. out: the folder of the index. encoder: the name of the network
    whose vectors are compared, or a trained model, as `open_encoder` takes it. size: (width, height) that the
    images are read at; None takes that of the model, or the images' own up to 128 pixels. text: whether it
    should also be searched by words, which are learned from the captions of the data. on_progress: receives
    (done, total, what).
    Images that cannot be read are left out; `ImageIndex.changed` names them. If the images were moved, `data`
    is their new place.
    Raises SearchError where `out` holds an index that was built otherwise, DataError and EvaluationError.
    """
    folder = Path(out).expanduser()
    if encoder not in NAMES and Path(encoder).exists():
        encoder = str(Path(encoder).resolve())  # it is opened again, perhaps from another folder
    if isinstance(data, Path) or re.split("[:/]", data)[0] not in builtin.names():
        data = Path(data).expanduser().resolve()
    if index_files.exists(folder):
        found = ImageIndex.load(folder)
        found.follow(str(data), split)
        found.check(str(data), split, encoder, size, text)
    else:
        opened = open_encoder(encoder, device=device)
        own_size, channels = own_form(opened)
        spec = ImageSpec(size or own_size, channels)
        source = NamedSource(data, spec, split=split, on_progress=on_progress)
        name = opened.name if encoder == "auto" else encoder
        facts = IndexFacts(data=str(data), split=split, encoder=name, sha256=opened.sha256, spec=source.spec)
        matcher = captions = None
        if text and words.of_encoder(name) is None:
            matcher = words.read(folder / _CAPTIONS)
            if matcher is None:
                matcher = words.learn(data, source.spec, split=split, on_progress=on_progress)
                words.write(matcher, folder / _CAPTIONS)
            begun = index_files.exists(folder / _CAPTIONS)
            captions = VectorIndex.load(folder / _CAPTIONS) if begun else VectorIndex(WIDTH)
        looks = VectorIndex(opened.dimensions, facts.model_dump(mode="json"))
        found = ImageIndex(folder, looks, opened, matcher, captions)
    found.update(on_progress=on_progress)
    return found


def search(
    index: ImageIndex | str | Path,
    images: Queries | None = None,
    *,
    text: str | Sequence[str] | None = None,
    k: int = 10,
    labels: Collection[str] | None = None,
) -> list[list[Match]]:
    """Find the images most similar to each query, best first.

    index: an `ImageIndex`, or its folder. images: files, a folder or a pattern, or images uint8
    `[n, h, w, c]`. text: what the images should show, instead of images. k: how many for each query. labels:
    only images with one of these labels; None is all.
    Raises SearchError, and DataError for images that cannot be read.
    """
    found = index if isinstance(index, ImageIndex) else ImageIndex.load(index)
    if (images is None) == (text is None):
        raise SearchError("Search with images or with a text, one of the two.")
    if text is not None:
        return found.search_text([text] if isinstance(text, str) else list(text), k, labels)
    assert images is not None
    return found.search(images, k, labels)
