"""Two domains of images that do not belong together: sources and targets, each of any number."""

from typing import NamedTuple

from danqing.data.dataset import Dataset
from danqing.errors import ConfigError


class Domains(NamedTuple):
    """The labels of source images and of target images."""

    source: str
    target: str


def parse_domains(text: str) -> Domains:
    """Read "SOURCE:TARGET" as two labels.

    Raises ConfigError.
    """
    source, _, target = (part.strip() for part in text.partition(":"))
    if not source or not target or source == target or ":" in target:
        raise ConfigError(
            f"domains is {text!r}: write SOURCE:TARGET, two labels or class folders (horses:zebras)."
        )
    return Domains(source, target)


def split_domains(dataset: Dataset, domains: str) -> Dataset:
    """Return the target images, with the source images as their `sources`.

    dataset: with labels. domains: as of `parse_domains`.
    Raises ConfigError, and DataError if a label does not exist.
    """
    source, target = parse_domains(domains)
    return dataset.subset([target]).beside(dataset.subset([source]))
