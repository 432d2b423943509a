"""The settings of filters: a TOML file with phrase lists and classifiers."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from danqing.errors import ConfigError, explain
from danqing.text_encoding import decode_toml, why_unreadable
from danqing.trust import nsfw
from danqing.trust.filters import Filters, ImageFilter, PromptFilter, Scorer, Thresholds
from danqing.trust.phrases import PhraseList

Classifier = Callable[[Path, tuple[str, ...]], Scorer]
"""Opens a trained classifier as a scorer: its folder, and the classes that are unwanted."""


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class PromptSettings(_Section):
    """The phrase lists.

    lists: their files. auto_lists: files that requests with `moderation: low` leave out.
    """

    lists: tuple[Path, ...] = ()
    auto_lists: tuple[Path, ...] = ()


class ImageSettings(_Section):
    """A classifier of images.

    network: "nsfw", or a model folder or a run of `danqing train --task classify`.
    classes: of a trained classifier, those that are unwanted.
    threshold, low_threshold: the probabilities from which an image is blocked, by default and for requests
    with `moderation: low`.
    """

    network: str
    classes: tuple[str, ...] = ()
    threshold: float = Field(0.8, gt=0, le=1)
    low_threshold: float = Field(0.95, gt=0, le=1)

    @property
    def name(self) -> str:
        """Return the name of the filter, for people."""
        return Path(self.network).name

    @property
    def is_trained(self) -> bool:
        """Return whether the network was trained with this package."""
        return self.network != nsfw.NAME

    def filter(self, classifier: Classifier) -> ImageFilter:
        """Load the classifier; see `FilterSettings.image_filters`."""
        if not self.is_trained:
            return self.packaged()
        self.check_classes()
        scorer = classifier(Path(self.network), self.classes)
        return ImageFilter(self.name, scorer, threshold=self.threshold, low_threshold=self.low_threshold)

    def packaged(self) -> ImageFilter:
        """Load a network that is not trained with this package. Raises ConfigError."""
        if self.classes:
            raise ConfigError("The filter nsfw has one class: leave classes out.")
        return ImageFilter(self.name, nsfw.Nsfw(), threshold=self.threshold, low_threshold=self.low_threshold)

    def thresholds(self) -> Thresholds:
        """Return its thresholds without the classifier. Raises ConfigError."""
        return Thresholds(self.name, threshold=self.threshold, low_threshold=self.low_threshold)

    def check_classes(self) -> None:
        """Raise ConfigError unless a trained classifier names its unwanted classes."""
        if not self.classes:
            raise ConfigError(
                f"The filter {self.name} does not say which classes are unwanted: give classes."
            )


class FilterSettings(_Section):
    """Which filters there are; none by default."""

    prompts: PromptSettings = PromptSettings()
    images: tuple[ImageSettings, ...] = ()

    @classmethod
    def read(cls, path: str | Path) -> Self:
        """Read a TOML file; paths in it are relative to its folder.

        Raises ConfigError.
        """
        path = Path(path)
        try:
            found = cls.model_validate(decode_toml(path.read_bytes()))
        except ValidationError as error:
            raise ConfigError(f"The filters in {path} are not valid: {explain(error)}") from error
        except (OSError, ValueError) as error:
            why = why_unreadable(error)
            raise ConfigError(f"The filters in {path} cannot be read ({why}): correct the file.") from error
        return found._below(path.resolve().parent)

    def prompt_filter(self) -> PromptFilter | None:
        """Read the phrase lists; return None without any.

        Raises ConfigError.
        """
        lists = [PhraseList.read(path) for path in self.prompts.lists]
        lists += [PhraseList.read(path, when_low=False) for path in self.prompts.auto_lists]
        return PromptFilter(lists) if lists else None

    def image_filters(self, classifier: Classifier) -> tuple[ImageFilter, ...]:
        """Load the classifiers.

        classifier: opens a trained one. Raises ConfigError and ModelError.
        """
        return tuple(each.filter(classifier) for each in self.images)

    def filters(self, classifier: Classifier) -> Filters:
        """Load all filters; the arguments and errors are those of `image_filters`."""
        return Filters(self.prompt_filter(), self.image_filters(classifier))

    def describe(self) -> dict[str, Any]:
        """Return what clients may know of the filters, without loading them."""
        prompts = {
            "lists": [path.stem for path in self.prompts.lists],
            "auto_lists": [path.stem for path in self.prompts.auto_lists],
        }
        images = [
            {
                "name": each.name,
                "classes": list(each.classes),
                "threshold": each.threshold,
                "low_threshold": each.low_threshold,
            }
            for each in self.images
        ]
        return {"prompts": prompts, "images": images}

    def __bool__(self) -> bool:
        return bool(self.prompts.lists or self.prompts.auto_lists or self.images)

    def _below(self, folder: Path) -> Self:
        """Return the same settings with absolute paths."""
        lists, auto_lists = (
            tuple(folder / path for path in paths) for paths in (self.prompts.lists, self.prompts.auto_lists)
        )
        images = tuple(
            each.model_copy(update={"network": str(folder / each.network)}) if each.is_trained else each
            for each in self.images
        )
        prompts = PromptSettings(lists=lists, auto_lists=auto_lists)
        return self.model_copy(update={"prompts": prompts, "images": images})
