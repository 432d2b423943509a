"""The fields of data sets and runs."""

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

Name = Annotated[str, Field(pattern=r"^[\w][\w .-]{0,59}$")]
"""A name that people give: letters, digits, spaces, dots, hyphens and underscores."""
RunState = Literal["queued", "running", "stopping", "stopped", "finished", "failed"]


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class DataSetName(_Body):
    """A new data set."""

    name: Name


class ImageChange(_Body):
    """A change of an image.

    What is left out stays.
    """

    image: str = Field(max_length=40)
    label: str | None = Field(None, max_length=100)
    caption: str | None = Field(None, max_length=4000)
    decision: Literal["keep", "drop"] | None = None


class ImageChanges(_Body):
    """Changes of several images; all of them, or none."""

    changes: list[ImageChange] = Field(min_length=1, max_length=1000)


class NewRun(_Body):
    """A run that is to be trained.

    minutes, images: its budget; by default that of the preset.
    """

    dataset: str = Field(max_length=40)
    name: Name
    preset: str = Field(max_length=80)
    minutes: float | None = Field(None, gt=0, le=525_600, allow_inf_nan=False)
    images: int | None = Field(None, ge=1, le=10**12)
    seed: int = Field(0, ge=0, lt=2**31)

    @model_validator(mode="after")
    def _has_one_budget(self) -> Self:
        if self.minutes is not None and self.images is not None:
            raise ValueError("give minutes or images, not both")
        return self


class ServedAs(_Body):
    """The name of a model in service."""

    name: Name


class Check(BaseModel):
    """What is known of a data set.

    state: "none" before the first check, and when images were added since.
    found: how many findings of each kind; unreadable: files and why they cannot be read.
    """

    state: Literal["none", "waiting", "running", "done", "failed"]
    reason: str
    found: dict[str, int]
    unreadable: list[list[str]]


class DataSetAnswer(BaseModel):
    """A data set."""

    id: str
    object: Literal["dataset"] = "dataset"
    name: str
    created_at: int
    images: int
    bytes: int


class DataSetDetails(DataSetAnswer):
    """A data set with what its check has found.

    labels: how many images have each, "" for none. captions: how many images have one.
    """

    labels: dict[str, int]
    captions: int
    dropped: int
    check: Check


class DataSetList(BaseModel):
    """Data sets, the newest first, and the limits of a key."""

    object: Literal["list"] = "list"
    data: list[DataSetAnswer]
    most_sets: int
    most_images: int
    most_bytes: int


class ImageAnswer(BaseModel):
    """An image of a data set."""

    image: str
    source: str
    label: str
    caption: str
    finding: str
    suggested: str
    like: str
    decision: Literal["keep", "drop"]


class ImagePage(BaseModel):
    """Images of a data set, as they were added."""

    object: Literal["list"] = "list"
    data: list[ImageAnswer]
    total: int


class UploadAnswer(BaseModel):
    """What became of an upload.

    rejected: names of files, and why they were not added.
    """

    added: list[str]
    rejected: dict[str, str]


class PresetAnswer(BaseModel):
    """A preset; see `danqing presets`."""

    name: str
    description: str
    family: str
    size: list[int]
    needs: Literal["", "labels", "captions"]
    minutes: float | None
    images: int | None
    core_hours: float | None
    nearest: dict[str, Any] | None


class PresetList(BaseModel):
    """Presets, the smallest pictures first.

    cores: of this machine. most_minutes: of a run.
    """

    object: Literal["list"] = "list"
    data: list[PresetAnswer]
    cores: int
    most_minutes: float


class RunAnswer(BaseModel):
    """A run.

    model: its name in service, "" if it is not in service.
    """

    id: str
    object: Literal["run"] = "run"
    name: str
    dataset: str
    preset: str
    minutes: float | None
    images: int | None
    seed: int
    state: RunState
    reason: str
    created_at: int
    started_at: int | None
    ended_at: int | None
    model: str


class RunDetails(RunAnswer):
    """A run with its progress: images, seconds, curves, names of samples, scores."""

    progress: dict[str, Any]


class TrainingImage(BaseModel):
    """An image that a run was trained on.

    distance: from the picture, the root mean square difference of coarse structure and colours in steps of 8
    bits; 0 for what looks the same.
    """

    image: str
    source: str
    label: str
    caption: str
    distance: float


class TrainingImageList(BaseModel):
    """The images most like a picture, the most similar first."""

    object: Literal["list"] = "list"
    data: list[TrainingImage]


class RunList(BaseModel):
    """Runs, the newest first."""

    object: Literal["list"] = "list"
    data: list[RunAnswer]
