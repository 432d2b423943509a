"""The fields of requests and answers: those of the OpenAI images API, and additional ones."""

import json
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, WithJsonSchema, field_validator

Endpoint = Literal["generations", "edits", "variations"]
RecognitionEndpoint = Literal[
    "classifications", "detections", "segmentations", "embeddings", "search", "attributions"
]
JobEndpoint = Literal[Endpoint, RecognitionEndpoint]

_SEED_LIMIT = 2**63
_WORD = 512
_MOST_ATTRIBUTES = 256
_MOST_ADAPTERS = 8
_MOST_DIRECTIONS = 6
_FARTHEST = 5.0


class Fields(BaseModel):
    """The fields of all requests for pictures.

    Null means that a field is not set.

    Additional fields are options of the model's sampling, such as `temperature` or `top_p`; GET /v1/models
    lists them.
    """

    model_config = ConfigDict(extra="allow", frozen=True, strict=True)

    unsupported: ClassVar[dict[str, str]] = {
        "complexity": "these models have no planning step",
        "frame_count": "these models paint still pictures",
        "frame_duration_ms": "these models paint still pictures",
        "svg": "these models paint pixels",
    }
    """Fields of the API that no model here supports, with the reason."""

    model: str | None = Field(
        None, max_length=_WORD, description="By default the first model that is served."
    )
    n: int | None = Field(None, ge=1, description="How many pictures; by default 1.")
    size: str | None = Field(
        None,
        max_length=_WORD,
        description="By default `auto`, the model's own size; or WIDTHxHEIGHT, one of `sampled_sizes` of "
        "GET /v1/models, or another with the same aspect ratio, which is resampled.",
    )
    response_format: Literal["url", "b64_json"] | None = Field(
        None, description="By default b64_json; an address (url) is valid for 60 minutes."
    )
    output_format: Literal["png", "jpeg", "webp", "input"] | None = Field(
        None,
        description="By default png; `input` returns the file as it is sent, with new pixels: its format, "
        "quality, depth, colour profile and metadata.",
    )
    output_compression: int | None = Field(
        None, ge=0, le=100, description="Quality of a jpeg or webp file; by default 100."
    )
    background: Literal["transparent", "opaque", "auto"] | None = Field(
        None,
        description="`transparent` needs a model with an alpha channel; `opaque` puts pictures on white.",
    )
    user: str | None = Field(None, max_length=_WORD, description="Is written to the log.")
    safety_identifier: str | None = Field(
        None, max_length=_WORD, description="Like `user`, and used instead of it."
    )
    seed: int | None = Field(
        None, ge=-_SEED_LIMIT, lt=_SEED_LIMIT, description="The same seed paints the same pictures."
    )
    label: str | int | None = Field(None, description="A class by its name or its number.")
    embed_settings: bool | None = Field(
        None,
        description="Write the settings of the request into the file (a text of PNG, and XMP), so that the "
        "picture can be made again. Not into a file that is returned as `input`.",
    )
    adapters: list[str] | None = Field(
        None,
        max_length=_MOST_ADAPTERS,
        description="Adapters of the model, each by its name or as NAME:WEIGHT with a weight from -4 to 4; "
        "GET /v1/models lists them. In a form, with commas between them.",
    )
    attributes: dict[str, str | int | float | list[float] | None] | None = Field(
        None,
        max_length=_MOST_ATTRIBUTES,
        description="Numbers and categories by their names, if the model learned them; in a form as JSON.",
    )

    @field_validator("adapters", mode="before")
    @classmethod
    def _separated_by_commas(cls, value: Any) -> Any:
        return (
            [part.strip() for part in value.split(",") if part.strip()] if isinstance(value, str) else value
        )

    @field_validator("attributes", mode="before")
    @classmethod
    def _of_a_form(cls, value: Any) -> Any:
        if not isinstance(value, str):
            return value
        try:
            return json.loads(value)
        except (ValueError, RecursionError):
            raise ValueError('write a JSON object such as {"age": 30}') from None

    @property
    def options(self) -> dict[str, Any]:
        """Return the fields that are options of the model's sampling, without nulls."""
        return {name: value for name, value in (self.model_extra or {}).items() if value is not None}

    @property
    def identifier(self) -> str | None:
        """Return the user for whom the client requests the pictures."""
        return self.safety_identifier or self.user or None


class Guided(Fields):
    """The fields of requests that describe in words what to paint."""

    prompt: str = Field(
        description="What to paint: a text, a class name or its caption, or nothing, depending on the model."
    )
    negative_prompt: str | None = Field(None, description="What not to paint, for models that read text.")
    guidance_scale: float | None = Field(
        None, allow_inf_nan=False, description="How closely the prompt is followed."
    )
    num_steps: int | None = Field(None, ge=1, description="Steps of sampling.")
    quality: Literal["standard", "hd", "low", "medium", "high", "xhigh", "max", "auto"] | None = Field(
        None,
        description="`low`, `medium` and `high` set `num_steps`; `auto` and `standard` use the model's own.",
    )
    style: Literal["vivid", "natural"] | None = Field(None, description="Rejected: no model here has styles.")
    moderation: Literal["low", "auto"] | None = Field(
        None, description="How strictly the filters of the service block; by default auto. `low` blocks less."
    )
    stream: bool | None = Field(None, description="Answer with server-sent events.")
    partial_images: int | None = Field(
        None, ge=0, le=3, description="Intermediate pictures in a stream, from models that paint in steps."
    )

    @property
    def options(self) -> dict[str, Any]:
        """Return the fields that are options of the model's sampling, without nulls."""
        named = {"guidance_scale": self.guidance_scale, "num_steps": self.num_steps}
        return {**super().options, **{name: value for name, value in named.items() if value is not None}}


class SharedSeed(BaseModel):
    """A seed and its share in a mix."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    seed: int = Field(ge=-_SEED_LIMIT, lt=_SEED_LIMIT)
    share: float = Field(ge=0, le=1)


_SharedSeed = Annotated[SharedSeed, WithJsonSchema(SharedSeed.model_json_schema())]


class Move(BaseModel):
    """How far pictures are moved along one direction of a model."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    number: int = Field(ge=1, le=_MOST_DIRECTIONS)
    distance: float = Field(ge=-_FARTHEST, le=_FARTHEST)


_Move = Annotated[Move, WithJsonSchema(Move.model_json_schema())]


class Generation(Guided):
    """The body of POST /v1/images/generations."""

    mix: list[_SharedSeed] | None = Field(
        None,
        min_length=1,
        max_length=16,
        description="Seeds with their shares, instead of `seed`: picture k lies between the pictures k of "
        "these seeds, and is that of a seed that has the whole share.",
    )
    directions: list[_Move] | None = Field(
        None,
        max_length=_MOST_DIRECTIONS,
        description="Moves each picture along directions of the model's noise: their numbers, up to "
        "`directions` of GET /v1/models, with distances in standard deviations.",
    )

    output_format: Literal["png", "jpeg", "webp"] | None = Field(None, description="By default png.")


class Reference(BaseModel):
    """A picture that a JSON request contains or points to."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    image_url: str | None = Field(None, description="A data URL, or an address if the service allows it.")
    file_id: str | None = Field(None, description="Rejected: the service stores no files.")


_Reference = Annotated[Reference, WithJsonSchema(Reference.model_json_schema())]
"""Its schema is inlined: `$defs` of a separate schema are not found within another document."""


_Size = Annotated[
    str | None,
    Field(
        max_length=_WORD,
        description="By default `auto`: in edits the size that the edit gives, in variations that of the "
        "model; `input` is the size of the picture that is sent; or WIDTHxHEIGHT of the same aspect ratio.",
    ),
]


class Edit(Guided):
    """The fields of POST /v1/images/edits.

    A form has its pictures as the files `image` and `mask`.
    """

    size: _Size = None

    images: list[_Reference] | None = Field(None, min_length=1, max_length=16)
    mask: _Reference | None = Field(None, description="Its transparent part is painted again.")
    input_fidelity: Literal["high", "low"] | None = Field(
        None,
        description="How large the model sees a picture that it fills: `low`, the default, shows it as much "
        "of the picture as possible, at the size of the model; `high` shows it the surroundings of the mask, "
        "with more detail. Pixels outside of the mask never change.",
    )
    task: Literal["fill", "translate", "upscale", "enhance", "colorize", "stylize"] | None = Field(
        None,
        description="What to do with the picture: one of `tasks` of GET /v1/models; by default the first.",
    )

    expand: list[Annotated[int, Field(ge=0)]] | None = Field(
        None,
        min_length=4,
        max_length=4,
        description="Pixels to add at the left, top, right and bottom, which are filled; in a form as "
        "`0,0,200,0`. The mask stays that of the picture that is sent, and may be left out.",
    )
    grow: int | None = Field(
        None,
        ge=0,
        le=1000,
        description="Pixels by which the filled part reaches further than the mask.",
    )
    feather: int | None = Field(
        None,
        ge=0,
        le=1000,
        description="Pixels over which the filled part becomes visible, from the edge of the mask inwards.",
    )

    source_label: str | int | None = Field(
        None,
        description="What the picture shows, for a model with labels that turns one into another; `label` is "
        "what the result shows.",
    )

    @field_validator("expand", mode="before")
    @classmethod
    def _of_text(cls, value: Any) -> Any:
        return value.split(",") if isinstance(value, str) else value

    @property
    def borders(self) -> tuple[int, int, int, int]:
        """Return the pixels to add at the left, top, right and bottom."""
        left, top, right, bottom = self.expand or (0, 0, 0, 0)
        return left, top, right, bottom

    unsupported: ClassVar[dict[str, str]] = {
        **Fields.unsupported,
        "markup": "send a `mask` that shows where to paint",
    }


class Variation(Fields):
    """The fields of POST /v1/images/variations.

    A form has its picture as the file `image`.
    """

    size: _Size = None

    images: list[_Reference] | None = Field(None, min_length=1, max_length=1)


FIELDS: dict[Endpoint, type[Generation] | type[Edit] | type[Variation]] = {
    "generations": Generation,
    "edits": Edit,
    "variations": Variation,
}


class InputTokens(BaseModel):
    """The tokens of a request by kind."""

    text_tokens: int
    image_tokens: int


class Usage(BaseModel):
    """The tokens of a request.

    Text counts a quarter of its bytes in UTF-8; pictures count the codes that the model writes, or one per
    16x16 pixels if it writes none.
    """

    total_tokens: int
    input_tokens: int
    output_tokens: int
    input_tokens_details: InputTokens
    output_tokens_details: InputTokens


class Picture(BaseModel):
    """One picture of an answer."""

    b64_json: str | None = None
    url: str | None = None
    revised_prompt: str | None = None


class ImagesResponse(BaseModel):
    """The answer to a request for pictures."""

    created: int
    data: list[Picture]
    background: Literal["transparent", "opaque"]
    output_format: Literal["png", "jpeg", "webp"]
    size: str
    quality: Literal["low", "medium", "high"] | None = None
    usage: Usage
    seed: int
    safety_identifier: str | None = None


class ArchiveResponse(BaseModel):
    """The answer of a job that edited the pictures of a zip.

    data: the address of the zip of the results, whose `manifest.jsonl` says what became of each picture.
    images, failed: how many pictures were edited, and how many could not be.
    """

    created: int
    data: list[Picture]
    output_format: Literal["zip"]
    images: int
    failed: int
    seed: int


class ImageEvent(BaseModel):
    """An event of a stream.

    For a finished picture it has `usage`, `seed` and, if one was sent, `safety_identifier`; for an
    intermediate one `partial_image_index`. With several pictures, `image_index` is the number of this one.
    """

    type: str
    b64_json: str
    created_at: int
    size: str
    quality: Literal["low", "medium", "high", "auto"]
    background: Literal["transparent", "opaque"]
    output_format: Literal["png", "jpeg", "webp"]
    partial_image_index: int | None = None
    image_index: int | None = None
    seed: int | None = None
    revised_prompt: str | None = None
    safety_identifier: str | None = None
    usage: Annotated[Usage, WithJsonSchema({"type": "object"})] | None = None


class ModelWorker(BaseModel):
    """A worker that holds a model.

    ready: whether it runs. loaded: whether the model is in its memory.
    """

    worker: int
    ready: bool
    loaded: bool


class AdapterCard(BaseModel):
    """An adapter of a model.

    trigger: the word that means what it has learned, "" for none.
    """

    name: str
    trigger: str
    licence: str


class ModelCard(BaseModel):
    """A model in GET /v1/models: the documented fields, then additional ones."""

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str
    shutdown_date: None = None
    family: str
    size: str
    channels: int
    parameters: int
    runtime: Literal["torch", "onnx", "openvino"]
    precision: str
    reads: Literal["text", "label", "none"]
    prompt_tokens: int
    labels: list[str]
    captions: list[str]
    attributes: list[dict[str, Any]]
    options: dict[str, Any]
    verb_options: dict[str, dict[str, Any]]
    scale: int
    option_values: dict[str, dict[str, Any]]
    endpoints: list[JobEndpoint]
    tasks: list[str]
    partial_images: bool
    directions: int
    other_sizes: bool
    sampled_sizes: str
    adapters: list[AdapterCard]
    reads_text: bool
    calibrated: bool
    embedding_size: int
    entries: int
    available: bool
    workers: list[ModelWorker]
    marks: str
    filters: dict[str, Any] | None
    card: str | None = None


class ModelList(BaseModel):
    """All models that the caller may use."""

    object: Literal["list"] = "list"
    data: list[ModelCard]


class Mistake(BaseModel):
    """What is wrong with a request, or what failed in the service."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorResponse(BaseModel):
    """The answer to a request that was rejected or failed."""

    error: Mistake


REJECTED: dict[int | str, dict[str, Any]] = {
    "4XX": {"model": ErrorResponse, "description": "The request is rejected."}
}
"""How the OpenAPI document describes every route's rejections."""
