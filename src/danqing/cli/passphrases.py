"""The passphrases of sealed models: from a file, or typed."""

from pathlib import Path
from typing import Annotated

import typer

from danqing.errors import ConfigError
from danqing.locale import translate_exactly

PassphraseOption = Annotated[bool, typer.Option("--passphrase", help="Ask for a passphrase.")]
PassphraseFileOption = Annotated[
    Path | None,
    typer.Option(help="Read the passphrase from the first line of a file.", metavar="FILE"),
]


def read(ask: bool, file: Path | None, *, confirm: bool) -> str | None:
    """Return the passphrase that the options mean, or None.

    confirm: it is typed twice. Raises ConfigError and TrustError.
    """
    if ask and file is not None:
        raise ConfigError("Give --passphrase or --passphrase-file, not both.")
    if file is not None:
        from danqing.trust.extra import check_cryptography

        check_cryptography()
        from danqing.trust.recipients import read_passphrase

        return read_passphrase(file)
    if not ask:
        return None
    return str(
        typer.prompt(translate_exactly("Passphrase"), hide_input=True, confirmation_prompt=confirm, err=True)
    )
