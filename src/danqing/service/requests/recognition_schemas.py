"""The fields of requests to recognize pictures, and of their answers."""

import json
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, WithJsonSchema, field_validator

from danqing.service.requests.schemas import RecognitionEndpoint

_WORD = 512
_MOST_LABELS = 1000
_ONE = {
    "anyOf": [
        {"type": "string"},
        {"type": "object", "properties": {"image_url": {"type": "string"}}, "required": ["image_url"]},
        {"type": "object", "properties": {"text": {"type": "string"}}, "required": ["text"]},
    ]
}
_Input = Annotated[
    Any,
    WithJsonSchema({"anyOf": [*_ONE["anyOf"], {"type": "array", "items": _ONE}]}),
    Field(
        description="A picture or several: each a data URL, the base64 of a png, jpeg or webp file, an "
        'address if the service allows it, or {"image_url": ...}. Another string, or {"text": ...}, is a '
        "text, for models that read text. A form has pictures as the files `image` instead."
    ),
]
_Threshold = Annotated[float | None, Field(ge=0, le=1, allow_inf_nan=False)]


class RecognitionFields(BaseModel):
    """The fields of all requests to recognize pictures.

    Null means that a field is not set.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    options: ClassVar[tuple[str, ...]] = ()
    """The fields that are passed to the model where they are set."""

    model: str | None = Field(
        None, max_length=_WORD, description="By default the first model that is served and can do this."
    )
    input: _Input = None
    user: str | None = Field(None, max_length=_WORD, description="Is written to the log.")
    safety_identifier: str | None = Field(
        None, max_length=_WORD, description="Like `user`, and used instead of it."
    )

    @property
    def identifier(self) -> str | None:
        """Return the user for whom the client sends the request."""
        return self.safety_identifier or self.user or None


class Classification(RecognitionFields):
    """The body of POST /v1/classifications."""

    options = ("top", "threshold")

    top: int | None = Field(
        None, ge=1, le=_MOST_LABELS, description="How many labels of each picture; by default 1."
    )
    threshold: _Threshold = Field(
        None,
        description="Where a picture may have several labels: the lowest probability of those that are "
        "returned; by default 0.5.",
    )


class Detecting(RecognitionFields):
    """The body of POST /v1/detections."""

    options = ("threshold",)

    threshold: _Threshold = Field(
        None, description="The lowest score of objects that are returned; by default 0.3."
    )


class Segmentation(RecognitionFields):
    """The body of POST /v1/segmentations."""

    options = ("scale",)

    scale: Literal["model", "own"] | None = Field(
        None,
        description="`model`, the default, shows the model a picture at the scale of those that it learned "
        "from; `own` as it is.",
    )
    response_format: Literal["url", "b64_json"] | None = Field(
        None, description="Of the masks; by default b64_json. An address (url) is valid for 60 minutes."
    )


class Embedding(RecognitionFields):
    """The body of POST /v1/embeddings."""

    encoding_format: Literal["float", "base64"] | None = Field(
        None, description="By default float: a list of numbers; base64 is that of float32, little-endian."
    )
    dimensions: int | None = Field(
        None, ge=1, description="May only be the length that the model's vectors have."
    )


class Search(RecognitionFields):
    """The body of POST /v1/search."""

    options = ("k", "labels")

    k: int | None = Field(
        None, ge=1, le=1000, description="How many entries for each picture or text; by default 10."
    )
    labels: list[str] | None = Field(
        None,
        min_length=1,
        max_length=_MOST_LABELS,
        description="Only entries with one of these labels; in a form as JSON.",
    )

    @field_validator("labels", mode="before")
    @classmethod
    def _of_a_form(cls, value: Any) -> Any:
        if not isinstance(value, str):
            return value
        try:
            return json.loads(value)
        except (ValueError, RecursionError):
            raise ValueError('write a JSON list such as ["cat"]') from None


class Attribution(RecognitionFields):
    """The body of POST /v1/attributions."""

    prompt: str | None = Field(
        None, description="The text of the picture: shows where a model that reads text attends to its words."
    )
    label: str | None = Field(
        None, max_length=_WORD, description="Shows this label of a classifier too, besides the most probable."
    )
    response_format: Literal["url", "b64_json"] | None = Field(
        None, description="Of the maps; by default b64_json. An address (url) is valid for 60 minutes."
    )


FIELDS: dict[RecognitionEndpoint, type[RecognitionFields]] = {
    "classifications": Classification,
    "detections": Detecting,
    "segmentations": Segmentation,
    "embeddings": Embedding,
    "search": Search,
    "attributions": Attribution,
}


class RecognitionUsage(BaseModel):
    """The tokens of a request.

    Text counts a quarter of its bytes in UTF-8, and a picture one per 16x16 pixels of the model's size.
    """

    prompt_tokens: int
    total_tokens: int


class FoundLabel(BaseModel):
    """A label of a picture and its probability."""

    label: str
    probability: float


class FoundLabels(BaseModel):
    """The labels of a picture, the most probable first."""

    object: Literal["classification"]
    index: int
    size: str
    labels: list[FoundLabel]


class FoundObject(BaseModel):
    """An object in a picture.

    box: left, top, right and bottom in pixels.
    """

    label: str
    score: float
    box: list[float]


class FoundObjects(BaseModel):
    """The objects in a picture, the most certain first."""

    object: Literal["detection"]
    index: int
    size: str
    objects: list[FoundObject]


class FoundMask(BaseModel):
    """The mask of a picture, of the same size.

    It is a PNG file whose values are the numbers of classes. shares: of the pixels that have each class.
    """

    object: Literal["segmentation"]
    index: int
    size: str
    shares: dict[str, float]
    b64_json: str | None = None
    url: str | None = None


class FoundVector(BaseModel):
    """The vector of a picture or a text, of length 1."""

    object: Literal["embedding"]
    index: int
    embedding: list[float] | str


class FoundEntry(BaseModel):
    """An entry of an index.

    similarity: the cosine of the angle to the query.
    """

    id: str
    label: str
    similarity: float


class FoundEntries(BaseModel):
    """The entries most similar to a query, the most similar first."""

    object: Literal["search_result"]
    index: int
    matches: list[FoundEntry]


class FoundMap(BaseModel):
    """Where a picture shows a label or attends to a word.

    It is a PNG file of the picture as the model sees it: red speaks for the label, blue against it.
    probability: of the label. share: of all attention, that of the word.
    """

    name: str
    probability: float | None = None
    share: float | None = None
    b64_json: str | None = None
    url: str | None = None


class FoundMaps(BaseModel):
    """The maps of a picture."""

    object: Literal["attribution"]
    index: int
    size: str
    maps: list[FoundMap]


class _Answer(BaseModel):
    object: Literal["list"]
    model: str
    usage: RecognitionUsage


class ClassificationsResponse(_Answer):
    """The labels of each picture; calibrated: whether the probabilities were calibrated."""

    data: list[FoundLabels]
    calibrated: bool


class DetectionsResponse(_Answer):
    """The objects in each picture."""

    data: list[FoundObjects]


class SegmentationsResponse(_Answer):
    """The mask of each picture; classes: the names of their values."""

    data: list[FoundMask]
    classes: list[str]


class EmbeddingsResponse(_Answer):
    """The vector of each picture or text."""

    data: list[FoundVector]


class SearchResponse(_Answer):
    """The entries for each picture or text."""

    data: list[FoundEntries]


class AttributionsResponse(_Answer):
    """The maps of the picture."""

    data: list[FoundMaps]


RESPONSES: dict[RecognitionEndpoint, type[_Answer]] = {
    "classifications": ClassificationsResponse,
    "detections": DetectionsResponse,
    "segmentations": SegmentationsResponse,
    "embeddings": EmbeddingsResponse,
    "search": SearchResponse,
    "attributions": AttributionsResponse,
}
