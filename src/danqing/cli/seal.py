"""`danqing seal`: encrypt a model for some people."""

from pathlib import Path
from typing import Annotated

import typer

from danqing.cli import output, passphrases
from danqing.cli.arguments import NewKeyOption
from danqing.cli.passphrases import PassphraseFileOption, PassphraseOption
from danqing.errors import ConfigError

EXAMPLES = """Examples:

  danqing seal --new-key mine.key

  danqing seal runs/photos --to mine.pub --to colleague.pub --out photos.sealed

  DANQING_SEAL_KEY=mine.key danqing sample photos.sealed

  danqing seal runs/photos --passphrase --out photos.sealed"""


def seal(
    model: Annotated[
        str | None, typer.Argument(help="A run folder or a model folder.", show_default=False)
    ] = None,
    to: Annotated[
        list[Path] | None,
        typer.Option(help="The public key of a recipient (X25519); may be repeated.", metavar="KEY.pub"),
    ] = None,
    passphrase: PassphraseOption = False,
    passphrase_file: PassphraseFileOption = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="The sealed file.", show_default="MODEL.sealed")
    ] = None,
    new_key: NewKeyOption = None,
    as_json: output.JsonOption = False,
) -> None:
    """Encrypt a model for the keys of recipients or with a passphrase."""
    if new_key is not None:
        if model is not None or to or passphrase or passphrase_file is not None or out is not None:
            raise ConfigError("--new-key only creates a key: give it alone, then seal with --to.")
        from danqing.trust.extra import check_cryptography

        check_cryptography()
        from danqing.trust import keys

        public = keys.create_sealing_key(new_key)
        output.result({"key": new_key, "public": public}, f"{new_key}\n{public}", as_json=as_json)
        return
    if model is None:
        raise ConfigError("Name the model to seal, or --new-key FILE to create a key.")
    secret = passphrases.read(passphrase, passphrase_file, confirm=True)
    if not to and secret is None:
        raise ConfigError("Say who can open it: --to KEY.pub, --passphrase or --passphrase-file FILE.")
    from danqing.model import protection

    written = protection.seal(
        model, out or Path(f"{Path(model).resolve().name}.sealed"), to=to or (), passphrase=secret
    )
    output.result({"sealed": written}, str(written), as_json=as_json)
