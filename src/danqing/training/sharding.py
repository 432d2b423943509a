"""Images or their codes as shards, and the tokenizer of shards that hold codes."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from danqing import weights
from danqing.data import Dataset
from danqing.data.buckets import decode_to_nearest
from danqing.data.layout import Declared
from danqing.data.records import ImageSpec
from danqing.data.shards import writer
from danqing.data.shards.passes import Pass
from danqing.data.shards.table import Codes as CodesAbout
from danqing.data.shards.writer import Shards
from danqing.errors import ConfigError, DataError
from danqing.families.abilities import Compresses, HasTokenizer, Tokenizes
from danqing.families.base import Family
from danqing.images import to_float, to_uint8
from danqing.model import loading
from danqing.precision import choose_device
from danqing.progress import ProgressCallback
from danqing.training.codes import FORMATS, Encoding, Moments, encoding_of
from danqing.training.config import RunConfig

_AT_ONCE = 64


def shard(
    data: str | Path,
    out: str | Path,
    *,
    size: int = writer.SIZE,
    what: Literal["files", "codes"] = "files",
    tokenizer: str | Path | None = None,
    pairs: str = "",
    attributes: Sequence[str] = (),
    clean: str | Path = "",
    smallest: int = 0,
    captions: str | Path = "",
    ignore_reservations: bool = False,
    device: str = "auto",
    on_progress: ProgressCallback | None = None,
) -> Shards:
    """Write images as shards, which are data like any other; the same call resumes.

    data: as `open_dataset` takes it, which includes shards: a pass over shards writes other shards.
    out: a folder, or a URL that fsspec can write to.
    size: the bytes of a shard, about.
    what: the original files, or the codes that `tokenizer` (a run, a model folder or a hub id) makes of the
        training images. One in twenty of these, at most 10,000, stays a file for validation if the data has
        no validation split.
    pairs, attributes: as of `open_dataset`.
    clean: a clean list, as `danqing data clean` writes it. Images that it drops are left out.
    smallest: the least width and height of an image in pixels.
    captions: a table with the columns file_name and text, as JSON lines or CSV. It replaces captions.
    ignore_reservations: keep images whose owners reserve training on them.
    Raises DanqingError.
    """
    if (what == "codes") != bool(tokenizer):
        raise ConfigError("Codes need a tokenizer, and files none: give what='codes' with tokenizer=MODEL.")
    encoder = None
    if tokenizer:
        encoder = _TokenizerEncoder(_tokenizer(tokenizer), choose_device(device))
    return writer.write_shards(
        data,
        out,
        size=size,
        declared=Declared(pairs, tuple(attributes)),
        changes=Pass(str(clean), smallest, str(captions), ignore_reservations),
        encoder=encoder,
        on_progress=on_progress,
    )


def open_codes(dataset: Dataset, config: RunConfig, device: torch.device) -> None:
    """Give streamed codes the tokenizer of a run, which shows them as images.

    Does nothing for other data. Raises ConfigError if it is not the tokenizer that made them.
    """
    stream = dataset.stream
    if stream is None or stream.codes is None:
        return
    if config.tokenizer is None or not config.tokenizer.model:
        raise ConfigError(
            "These shards hold codes of a tokenizer: give a preset that learns from codes, and the tokenizer "
            "that made them as --tokenizer."
        )
    family = _tokenizer(config.tokenizer.model)
    if weights.digest(family.state_dict()) != stream.codes.tokenizer:
        raise ConfigError(
            f"The codes of these shards were not made by {config.tokenizer.model}: give the tokenizer that "
            "made them."
        )
    if _about(family) != stream.codes.model_copy(update={"mean": (), "deviation": ()}):
        raise ConfigError(
            "The table of the shards describes other codes than their tokenizer makes: write the shards "
            "again."
        )
    decode = _encoding(family).decode
    family.eval().to(device)

    @torch.inference_mode()
    def images(codes: NDArray[Any]) -> NDArray[np.uint8]:
        values = codes.astype(np.int64 if codes.dtype.kind == "i" else np.float32)
        pixels: NDArray[np.uint8] = to_uint8(decode(torch.from_numpy(values).to(device))).cpu().numpy()
        return pixels

    stream.decode = images


def _tokenizer(model: str | Path) -> Family:
    """Return the tokenizer of a model, or the model itself."""
    family = loading.load(model).family
    if isinstance(family, HasTokenizer) and isinstance(family.tokenizer, Family):
        return family.tokenizer
    if not isinstance(family, Tokenizes | Compresses):
        raise ConfigError(f"{model} is not a tokenizer: give a VQ-VAE, an autoencoder, or a model with one.")
    return family


def _about(family: Family) -> CodesAbout:
    """Return what the codes of a tokenizer are, without statistics."""
    encoding, config = _encoding(family), family.config
    return CodesAbout(
        tokenizer=weights.digest(family.state_dict()),
        kind=encoding.kind,
        format=encoding.format,
        shape=encoding.shape,
        vocabulary=encoding.vocabulary,
        size=(config.width, config.height),
        channels=config.channels,
    )


def _encoding(family: Family) -> Encoding:
    return encoding_of(family, Tokenizes if isinstance(family, Tokenizes) else Compresses)


class _TokenizerEncoder:
    """Turns files into codes, always the same number at once, since another number may round differently."""

    def __init__(self, family: Family, device: torch.device) -> None:
        self._family, self._device = family.eval().to(device), device
        self._encoding, config = _encoding(family), family.config
        self._spec = ImageSpec((config.width, config.height), config.channels, depth=8)
        self._moments = Moments(self._encoding.shape[0]) if self._encoding.kind == "latents" else None
        self.codes = _about(family)

    @torch.inference_mode()
    def encode(self, files: list[bytes]) -> list[bytes | str]:
        """Return the codes of each file, or why it cannot be decoded."""
        results, images = list[bytes | str](), list[NDArray[Any]]()
        for content in files:
            try:
                images.append(decode_to_nearest(content, **self._spec.decode_options()))
                results.append(b"")
            except DataError as error:
                results.append(str(error))
        codes = list[bytes]()
        for start in range(0, len(images), _AT_ONCE):
            part = images[start : start + _AT_ONCE]
            whole = np.stack([part[number % len(part)] for number in range(_AT_ONCE)])
            made = self._encoding.encode(to_float(torch.from_numpy(whole)).to(self._device))[: len(part)]
            numbers = made.cpu().numpy().astype(FORMATS[self._encoding.format])
            if self._moments is not None:
                self._moments.add(numbers)
            codes += [one.tobytes() for one in numbers]
        found = iter(codes)
        return [result or next(found) for result in results]

    def finished(self) -> CodesAbout:
        """Return what the codes are, with the statistics of latents."""
        if self._moments is None:
            return self.codes
        statistics = self._moments.statistics()
        told = {"mean": tuple(statistics.mean), "deviation": tuple(statistics.deviation)}
        return self.codes.model_copy(update=told)

    def state(self) -> dict[str, Any]:
        """Return the sums so far."""
        return {} if self._moments is None else self._moments.state()

    def restore(self, state: Mapping[str, Any]) -> None:
        """Restore what `state` returned."""
        if self._moments is not None:
            self._moments.restore(state)
