"""The form of `export.json`: what a program needs to know of an exported model besides its graphs."""

import hashlib
import json
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from danqing import folder_formats
from danqing.attributes import Attribute, Example
from danqing.errors import ModelError, explain
from danqing.folder_formats import install_command, writer
from danqing.sizes import SizeRange

FORMAT = 1
"""Raise it when an older version could no longer run a new export."""
FILE = folder_formats.EXPORT
_MOST_BYTES = 64 * 2**20

Target = Literal["onnx", "openvino"]
Precision = Literal["float32", "bf16", "fp16", "int8"]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Port(_Part):
    """An input or an output of a graph.

    shape: a number for each fixed axis, a name for each that may vary; "n" is the batch.
    """

    name: str
    dtype: Literal["float32", "int64", "bool"]
    shape: tuple[int | str, ...]


class GraphForm(_Part):
    """A graph: its file, and its inputs and outputs in order."""

    file: Annotated[str, Field(pattern=r"[a-z_]+\.(onnx|xml)")]
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]


class OneShot(_Part):
    """One graph, `generate`, turns noise and a condition into images.

    noise: the input for it. purpose: of its draw. shape: of one image's noise.
    distribution: standard normal, or codes that are drawn by `shares` `[depth][vocabulary]` for each place,
        where the shape is rows, columns and depth.
    scale_option: the option of sampling that multiplies normal noise; "" for none.
    """

    kind: Literal["one_shot"] = "one_shot"
    noise: str
    purpose: str
    shape: tuple[int, ...]
    distribution: Literal["normal", "codes"] = "normal"
    scale_option: str = ""
    shares: tuple[tuple[float, ...], ...] = ()


class Codes(_Part):
    """A transformer: `begin` gives the cache of a condition, `step` runs once for each code or for several.

    kind: raster writes code after code. masked writes many in a step, in a fixed order.
    shape: rows, columns and codes per place, N in all; codes are numbers below `vocabulary`.
    are_pixels: whether a code is the 8-bit value of a channel; otherwise `decode` turns codes into images.
    order: of masked, the places in the order in which they are written.
    has_condition, has_dropout: as of `danqing.guidance.GuidanceRules`.
    """

    kind: Literal["raster", "masked"]
    shape: tuple[int, int, int]
    vocabulary: int
    are_pixels: bool
    order: tuple[int, ...] = ()
    has_condition: bool
    has_dropout: bool


class Flow(_Part):
    """A flow: `step` predicts images from noisy ones, and a sampler follows the velocity towards them.

    shape: channels, height and width of what it generates, at the usual size.
    is_latent: whether that is latents, which `decode` turns into images; otherwise it is images.
    has_condition and the fields that follow: as of `danqing.guidance.GuidanceRules`; `guide` is the early
        copy.
    """

    kind: Literal["flow"] = "flow"
    shape: tuple[int, int, int]
    is_latent: bool
    has_condition: bool
    has_dropout: bool
    has_guide: bool
    guide_trained: bool


class Recognize(_Part):
    """A recognizer: `recognize` turns images into its outputs, `vectors` and those of its ability.

    ability: "embed" has vectors alone. "classify" adds `logits` `[n, k]`. "segment" adds `mask_logits`
        `[n, k, h, w]`. "detect" adds `logits` `[n, places, k]` and `boxes` `[n, places, 4]` in pixels.
    classes: in the order of logits. is_multi_label: whether an image may have several labels.
    temperature: what logits are divided by, so that probabilities are calibrated.
    most_overlap: of two objects of one class. reach: how many pixels away a mask may depend on, at most.
    reading: options by which files become images.
    """

    kind: Literal["recognize"] = "recognize"
    ability: Literal["embed", "classify", "segment", "detect"]
    classes: tuple[str, ...] = ()
    is_multi_label: bool = False
    temperature: float = 1.0
    most_overlap: float = 1.0
    reach: int = 0
    reading: dict[str, Any] = {}


Loop = Annotated[OneShot | Codes | Flow | Recognize, Field(discriminator="kind")]


class TextForm(_Part):
    """How a prompt becomes ids.

    bpe: the vocabulary, JSON of the library `tokenizers`. length: ids of a prompt, with 0 beyond its end.
    """

    bpe: str
    length: int


class ProvenanceForm(_Part):
    """What images declare, as `danqing.trust.declaration` says."""

    model: str
    model_digest: str
    licence: str = ""
    creator: str = ""
    reservations: dict[str, Any] = {}


class Check(_Part):
    """The largest difference of a graph from the network.

    batch, size: at which it was measured; the (width, height) is None where the graph has no
    images, or takes one size.
    """

    graph: str
    batch: int
    size: tuple[int, int] | None = None
    error: float


class Parity(_Part):
    """How far a graph is from the network in PyTorch in float32.

    tolerance: the largest error that is allowed in float32. checks: in float32, all within it.
    lowered: of the graphs as they are stored and run with fewer bits, which are only measured.
    """

    tolerance: float
    checks: tuple[Check, ...]
    lowered: tuple[Check, ...] = ()


class Manifest(_Part):
    """The content of `export.json`.

    format: of this file. version: of danqing, which wrote it.
    target, precision: of the graphs.
    loop: how the graphs are used; see `OneShot` and those beside it.
    width, height, channels: of its usual images. sizes: that it samples, as of `danqing.sizes.SizeRange`.
    chunk: images that are computed at once, so that an image does not depend on how many are requested.
    parameters: of the networks.
    options: of sampling, with their defaults; allowed values are those of `danqing.options`.
    labels and the fields that follow: as of `danqing.families.configuration.FamilyConfig`.
    text: how prompts are read, for a model that reads them.
    facts: what is known of its training.
    files: the SHA-256 of each file.
    """

    format: int = FORMAT
    version: str
    family: str
    target: Target
    precision: Precision
    loop: Loop
    graphs: dict[str, GraphForm]
    width: int
    height: int
    channels: int
    sizes: SizeRange
    chunk: int = Field(ge=1, le=4096)
    parameters: int = 0
    options: dict[str, Any] = {}
    labels: tuple[str, ...] = ()
    label_frequencies: tuple[float, ...] = ()
    label_captions: tuple[str, ...] = ()
    captions: tuple[str, ...] = ()
    attributes: tuple[Attribute, ...] = ()
    attribute_examples: tuple[Example, ...] = ()
    text: TextForm | None = None
    provenance: ProvenanceForm
    facts: dict[str, Any] = {}
    parity: Parity
    files: dict[str, str]

    @property
    def reads_text(self) -> bool:
        """Return whether it reads prompts."""
        return self.text is not None


def read(folder: Path) -> Manifest:
    """Read `export.json`, and check all files that it names.

    Raises ModelError where it is missing, damaged or newer, or another file is not the one that was exported.
    """
    path = folder / FILE
    try:
        with open(path, "rb") as file:
            content = file.read(_MOST_BYTES + 1)
        values = json.loads(content) if len(content) <= _MOST_BYTES else None
    except FileNotFoundError as error:
        raise ModelError(f"{folder} has no {FILE}: give a folder that danqing export has written.") from error
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(f"{path} cannot be read ({error}): export the model again.") from error
    if not isinstance(values, dict):
        raise ModelError(f"{path} is not an export: export the model again.")
    if (number := values.get("format")) != FORMAT:
        version = values.get("version")
        raise ModelError(
            f"{path} has the format {number!r}, written by {writer(version)}, and this version runs "
            f"{FORMAT}: run {install_command(version)}, or export the model again."
        )
    try:
        manifest = Manifest.model_validate(values)
    except ValidationError as error:
        raise ModelError(f"{path} is damaged: {explain(error)} Export the model again.") from error
    _check_files(folder, manifest)
    return manifest


def digest(path: Path) -> str:
    """Return the SHA-256 of a file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _check_files(folder: Path, manifest: Manifest) -> None:
    unnamed = {form.file for form in manifest.graphs.values()} - manifest.files.keys()
    for name in [*manifest.files, *unnamed]:
        path = folder / name
        try:
            is_same = Path(name).name == name and digest(path) == manifest.files.get(name)
        except OSError as error:
            raise ModelError(f"{path} cannot be read ({error}): export the model again.") from error
        if not is_same:
            raise ModelError(f"{path} is not the file that was exported: export the model again.")
