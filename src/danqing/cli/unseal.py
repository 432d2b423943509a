"""`danqing unseal`: decrypt a sealed model."""

from pathlib import Path
from typing import Annotated

import typer

from danqing.cli import output, passphrases
from danqing.cli.passphrases import PassphraseFileOption, PassphraseOption

EXAMPLES = """Examples:

  danqing unseal photos.sealed --key mine.key --out photos

  danqing unseal photos.sealed --passphrase --out photos"""


def unseal(
    sealed: Annotated[Path, typer.Argument(help="A file of danqing seal.", show_default=False)],
    out: Annotated[Path, typer.Option("--out", "-o", help="A new folder for the model, unencrypted.")],
    key: Annotated[
        Path | None,
        typer.Option(help="Your private key.", metavar="FILE", show_default="that of DANQING_SEAL_KEY"),
    ] = None,
    passphrase: PassphraseOption = False,
    passphrase_file: PassphraseFileOption = None,
    as_json: output.JsonOption = False,
) -> None:
    """Decrypt a sealed model to a folder.

    Commands, Python and the service open sealed models without this, in memory only.
    """
    from danqing.model import protection

    secret = passphrases.read(passphrase, passphrase_file, confirm=False)
    folder = protection.unseal(sealed, out, key=key, passphrase=secret)
    output.result({"model": folder}, str(folder), as_json=as_json)
