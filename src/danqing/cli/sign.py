"""`danqing sign`: sign a model, so that anyone can check that it is yours and unchanged."""

from pathlib import Path
from typing import Annotated

import typer

from danqing.cli import output
from danqing.cli.arguments import NewKeyOption
from danqing.errors import ConfigError

EXAMPLES = """Examples:

  danqing sign --new-key release.key

  danqing sign runs/photos --key release.key

  danqing sign runs/photos --check release.pub

  danqing serve runs/photos --require-signature release.pub"""


def sign(
    model: Annotated[
        str | None, typer.Argument(help="A run folder or a model folder.", show_default=False)
    ] = None,
    key: Annotated[
        Path | None, typer.Option(help="Sign with this private key (P-256, P-384 or P-521).", metavar="FILE")
    ] = None,
    check: Annotated[
        list[Path] | None,
        typer.Option(
            help="Check the signature with this public key instead; may be repeated.", metavar="KEY.pub"
        ),
    ] = None,
    new_key: NewKeyOption = None,
    as_json: output.JsonOption = False,
) -> None:
    """Sign a model, or check its signature."""
    if new_key is not None:
        if model is not None or key is not None or check:
            raise ConfigError("--new-key only creates a key: give it alone, then sign with --key.")
        from danqing.trust.extra import check_cryptography

        check_cryptography()
        from danqing.trust import keys

        public = keys.create_signing_key(new_key)
        output.result({"key": new_key, "public": public}, f"{new_key}\n{public}", as_json=as_json)
        return
    if model is None or (key is None) == (not check):
        raise ConfigError(
            "Name a model with --key FILE to sign it, or with --check KEY.pub to check its signature."
        )
    from danqing.model import protection

    if key is not None:
        written = protection.sign(model, key)
        output.result({"signature": written}, str(written), as_json=as_json)
        return
    signers = check or []
    protection.check_signature(model, signers)
    by = "this key" if len(signers) == 1 else "one of these keys"
    text = f"{output.printable(model)} is signed by {by}, and no file was changed, added or removed."
    output.result({"model": model, "signed": True}, text, as_json=as_json)
