"""What the configuration of every family says of its images."""

import itertools
from collections.abc import Sequence
from typing import ClassVar, Protocol, Self, runtime_checkable

from pydantic import BaseModel, ConfigDict, Field, model_validator

from danqing.data.attributes import Attribute, Example
from danqing.errors import ConfigError
from danqing.nets.layers import halvings
from danqing.text.contract import TextConfig, TextFacts


class FamilyConfig(BaseModel):
    """What every family needs to know of its images.

    A preset leaves out the settings in `from_data`, which are taken from the data.

    sizes: (width, height) of all images that the model learns from, the most frequent first; empty where all
        have its own.
    conditional: false ignores labels, captions and attributes of the data.
    labels: the class names; empty where there are none.
    label_frequencies: how often each label is drawn.
    label_captions: other names of each label, one to a line: the captions that all of its images have.
    captions: some of the data's, evenly drawn, where the model reads text; they are drawn where no prompt is
        given.
    attributes: the columns that the model reads.
    attribute_examples: the attributes of some training images, evenly drawn; attributes that are not
        requested are drawn from them.
    source_channels: of the source image that the model reads, 0 where it reads none. source_scale: how many
        times smaller it is than its target. source_is_average: whether its values are averages of those of
        the target, so that a result must average to it.
    grow: train on small images first, in a network that grows: the shorter side of the images of each phase,
        ascending, such as [16, 32, 64]; the last is the whole size. Empty is no growing.
    """

    display_name: ClassVar[str] = ""
    """The name of the family in a sentence; empty where that is `family`."""
    from_data: ClassVar[frozenset[str]] = frozenset(
        {
            "family",
            "width",
            "height",
            "channels",
            "sizes",
            "labels",
            "label_frequencies",
            "label_captions",
            "captions",
            "attributes",
            "attribute_examples",
            "source_channels",
            "source_scale",
            "source_is_average",
        }
    )

    trunk_settings: ClassVar[tuple[str, ...]] = ()
    """The settings that decide the network which learners share: a run that starts from another learner takes
    them from it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    family: str
    width: int = Field(32, ge=4, le=4096)
    height: int = Field(32, ge=4, le=4096)
    channels: int = Field(3, ge=1, le=4)
    sizes: tuple[tuple[int, int], ...] = ()
    conditional: bool = True
    labels: tuple[str, ...] = ()
    label_frequencies: tuple[float, ...] = ()
    label_captions: tuple[str, ...] = ()
    captions: tuple[str, ...] = ()
    attributes: tuple[Attribute, ...] = ()
    attribute_examples: tuple[Example, ...] = ()
    source_channels: int = Field(0, ge=0, le=4)
    source_scale: int = Field(1, ge=1, le=256)
    source_is_average: bool = False
    grow: tuple[int, ...] = ()

    @model_validator(mode="after")
    def _labels_have_frequencies(self) -> Self:
        if self.label_frequencies and len(self.label_frequencies) != len(self.labels):
            raise ValueError("label_frequencies must have one value per label")
        if self.label_frequencies and not (min(self.label_frequencies) >= 0 < sum(self.label_frequencies)):
            raise ValueError("label_frequencies must not be negative, nor all be zero")
        if self.label_captions and len(self.label_captions) != len(self.labels):
            raise ValueError("label_captions must have one text per label")
        return self

    @model_validator(mode="after")
    def _examples_have_the_attributes(self) -> Self:
        width = sum(attribute.width for attribute in self.attributes)
        if any(len(example.values) != width for example in self.attribute_examples):
            raise ValueError(f"attribute_examples must have {width} values each")
        return self

    @model_validator(mode="after")
    def _grows_if_it_can(self) -> Self:
        if self.grow and not self.can_grow:
            raise ValueError(f"a {self.display_name or self.family} does not grow: leave grow out")
        if self.grow and (len(self.grow) < 2 or any(b <= a for a, b in itertools.pairwise(self.grow))):
            raise ValueError("grow must hold two or more ascending sizes, such as [16, 32, 64]")
        return self

    @property
    def can_grow(self) -> bool:
        """Return whether the model can train on small images first.

        Its loss then uses the part of its networks that belongs to the size of the batch, and a larger size
        begins as an enlarged smaller one.
        """
        return False

    @property
    def grow_levels(self) -> tuple[int, ...]:
        """Return how often the images of each phase are halved.

        An example is (2, 1, 0); without growing it is (0,).
        Raises ConfigError where `grow` does not suit the size of the images.
        """
        if not self.grow:
            return (0,)
        sides = [min(size) for size in halvings(self.height, self.width)]
        if self.grow[-1] != sides[0] or not set(self.grow) <= set(sides):
            raise ConfigError(
                f"grow = {list(self.grow)} does not suit images of {self.width}x{self.height}: choose among "
                f"the shorter sides {', '.join(map(str, reversed(sides)))}, and end with {sides[0]}.",
                "grow",
            )
        return tuple(sides.index(side) for side in self.grow)

    def check_shape(self) -> None:
        """Raise ConfigError if settings do not suit the images' shape."""
        assert self.grow_levels

    @property
    def source_size(self) -> tuple[int, int]:
        """Return the (width, height) of the source image of an image."""
        return -(-self.width // self.source_scale), -(-self.height // self.source_scale)

    @property
    def dimensions(self) -> int:
        """Return the number of values in an image, the d of bits_per_dim."""
        return self.width * self.height * self.channels

    @property
    def reads_labels(self) -> bool:
        """Return whether the model learns from labels, where the data has them."""
        return self.conditional

    @property
    def reads_text(self) -> bool:
        """Return whether the model learns from captions.

        Such a model needs data with captions, and its configuration implements `ReadsText`.
        """
        return False

    @property
    def can_guide(self) -> bool:
        """Return whether sampling takes a `guidance_scale` other than 1."""
        return False

    @property
    def reads_attributes(self) -> bool:
        """Return whether the model learns from attributes (`data.attributes`)."""
        return False

    @property
    def reads_source(self) -> bool:
        """Return whether the model learns from source images.

        It turns them into others.
        """
        return False

    @property
    def reads_domains(self) -> bool:
        """Return whether the source images are of another domain.

        They then do not belong to the target images.
        """
        return False

    @property
    def takes_sizes(self) -> bool:
        """Return whether the model learns from images of several sizes (`data.buckets`)."""
        return False

    @property
    def noise_chooses_images(self) -> bool:
        """Return whether noise chooses the images of a step.

        The noise is then in `Batch.noise`, and an image is seen about once in every epoch, not exactly once.
        """
        return False

    @property
    def learns_trajectories(self) -> bool:
        """Return whether the model learns trajectories of its teacher.

        They are then in `Batch.trajectories`, and the teacher is not evaluated in training.
        """
        return False

    @property
    def why_not_private(self) -> str:
        """Return why the model cannot be trained privately.

        It is a sentence, or "" if it can.

        A private run clips the gradient of each image. So the loss of an image may depend on that image alone
        where `Phase.sees_data`, and nothing else of the model may be computed from images.
        """
        return f"The loss of a {self.display_name or self.family} has not been made private."

    def complete(self, captions: Sequence[str]) -> Self:
        """Add what the family takes from the captions of the training images.

        It is called once, after the shape of the images has been filled in. An example is the vocabulary of
        text.
        """
        return self


@runtime_checkable
class ReadsText(Protocol):
    """A configuration whose model learns from captions where `reads_text` is true.

    text: how captions are read.
    text_facts: what `complete` settled from the captions of the data; None before that.
    """

    @property
    def text(self) -> TextConfig: ...

    @property
    def text_facts(self) -> TextFacts | None: ...
