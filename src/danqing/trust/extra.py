"""The packages of the extra `trust`, which not every installation has."""

import importlib.util

from danqing.errors import TrustError


def check_cryptography() -> None:
    """Check that keys, signatures and sealed models can be used; raises TrustError."""
    if importlib.util.find_spec("cryptography") is None:
        raise TrustError(
            "Signed and sealed models need the package cryptography: run pip install 'danqing[trust]'."
        )
