"""The fields of requests to the gallery, and of its answers."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

MOST_AT_ONCE = 1000
_Number = Annotated[int, Field(ge=1, lt=2**62)]
_Numbers = Annotated[list[_Number], Field(max_length=MOST_AT_ONCE)]
_Word = Annotated[str, StringConstraints(min_length=1, max_length=40, pattern=r"^[^\x00-\x1f\x7f]+$")]


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class PictureChange(_Body):
    """What may be changed of a picture.

    rating: 0 to 5, 0 for none. tags: words by which it is found.
    """

    rating: int | None = Field(None, ge=0, le=5)
    tags: list[_Word] | None = Field(None, max_length=20)


class Selection(_Body):
    """Some pictures, by their numbers."""

    pictures: _Numbers


class AlbumName(_Body):
    """The name of an album."""

    name: Annotated[str, StringConstraints(min_length=1, max_length=100, pattern=r"^[^\x00-\x1f\x7f]+$")]


class AlbumChange(_Body):
    """Pictures to add to an album, and to take out of it."""

    add: _Numbers = []
    remove: _Numbers = []


class PictureAnswer(BaseModel):
    """A picture.

    settings: the endpoint, the request, and the index of the picture among those of the request.
    thumbnail: a small WebP in base64, if it was requested.
    """

    number: int
    created_at: int
    media_type: str
    width: int
    height: int
    bytes: int
    model: str
    title: str
    rating: int
    tags: list[str]
    settings: dict[str, Any]
    thumbnail: str | None = None


class PicturePage(BaseModel):
    """Pictures, the latest first.

    The next page begins `before` the last number of this one.

    total: how many there are; a search by words counts at most 2,000.
    """

    object: Literal["list"] = "list"
    data: list[PictureAnswer]
    total: int
    has_more: bool


class AlbumAnswer(BaseModel):
    """An album, and how many pictures it has."""

    number: int
    name: str
    pictures: int


class AlbumList(BaseModel):
    """All albums, and what the pictures of the key take.

    keep: days until they are deleted.
    """

    object: Literal["list"] = "list"
    data: list[AlbumAnswer]
    pictures: int
    bytes: int
    most_pictures: int
    most_bytes: int
    keep: float


class SettingsAnswer(BaseModel):
    """The settings that a picture was made with.

    source: the file itself, or the gallery, which has this file.
    """

    source: Literal["file", "gallery"]
    settings: dict[str, Any]
