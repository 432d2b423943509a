"""`danqing authority`: the certificates that sign generated images."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from danqing import progress
from danqing.cli import output

if TYPE_CHECKING:
    from danqing.trust.authority import Authority

_CREATE = """Examples:

  danqing authority create --name 'Studio North'

  danqing authority create --root-key /media/usb/root.key

  danqing authority create --signer my_kms:sign --public-key leaf.pub.pem"""
_ROTATE = """Examples:

  danqing authority rotate

  danqing authority rotate --root-key /media/usb/root.key --revoke"""
_EXPORT = """Examples:

  danqing authority export studio-root.pem"""

RootKeyOption = Annotated[
    Path | None,
    typer.Option(
        help="Where the private key of the root is, such as a disk that is kept offline.",
        metavar="FILE",
        show_default="in the trust folder",
    ),
]
PublicKeyOption = Annotated[
    Path | None, typer.Option(help="The public key of the signer, in PEM.", metavar="FILE")
]

app = typer.Typer(
    name="authority",
    help="Manage the certificates that sign generated images: create, rotate and export them.",
    no_args_is_help=True,
)


@app.command("create", epilog=_CREATE)
def create(
    name: Annotated[
        str, typer.Option(help="The organization in the certificates. Everyone who has an image can read it.")
    ] = "Danqing",
    root_key: RootKeyOption = None,
    signer: Annotated[
        str,
        typer.Option(
            help="A Python function that signs in place of a key in a file, as package.module:function.",
            metavar="FUNCTION",
            show_default="a new key in the trust folder",
        ),
    ] = "",
    public_key: PublicKeyOption = None,
    timestamps: Annotated[
        str,
        typer.Option(
            help="A time stamp service (RFC 3161), called for each image. It receives a hash, not the image.",
            metavar="URL",
            show_default="none",
        ),
    ] = "",
    as_json: output.JsonOption = False,
) -> None:
    """Create the root certificate, and a certificate that signs for 90 days.

    Without this command, both are created when the first image is signed.
    """
    from danqing.trust import authority

    folder = _folder()
    made = authority.create(
        folder, name, root_key=root_key, signer=signer, public_key=public_key, timestamps=timestamps
    )
    if root_key is not None:
        progress.say(f"The key of the root is in {root_key}: keep it offline. Every rotation needs it.")
    _report(folder, made, as_json=as_json)


@app.command("rotate", epilog=_ROTATE)
def rotate(
    root_key: RootKeyOption = None,
    revoke: Annotated[
        bool,
        typer.Option(
            "--revoke", help="No longer trust images that the former certificate signed: its key was stolen."
        ),
    ] = False,
    public_key: PublicKeyOption = None,
    as_json: output.JsonOption = False,
) -> None:
    """Replace the certificate that signs by a new one for 90 days.

    Running services use it from the next image on. The former key is deleted.
    """
    from danqing.trust import authority

    folder = _folder()
    made = authority.rotate(folder, root_key=root_key, revoke=revoke, public_key=public_key)
    _report(folder, made, as_json=as_json)


@app.command("export", epilog=_EXPORT)
def export(
    out: Annotated[
        Path | None, typer.Argument(help="The file to write.", show_default="print it", metavar="FILE")
    ] = None,
    as_json: output.JsonOption = False,
) -> None:
    """Export the root certificate, with which others verify images.

    It is not secret.
    """
    from danqing import atomic
    from danqing.errors import TrustError
    from danqing.trust import authority

    pem = authority.export(_folder())
    if out is None:
        output.result({"root": pem}, pem, as_json=as_json, is_source=True)
        return
    try:
        atomic.write_text(out, pem)
    except OSError as error:
        raise TrustError(f"{out} cannot be written ({error.strerror or error}).") from error
    output.result({"out": out}, output.facts({"Written": out}), as_json=as_json)


def _folder() -> Path:
    from danqing.trust.settings import trust_folder

    return trust_folder() / "authority"


def _report(folder: Path, made: "Authority", *, as_json: bool) -> None:
    expires = f"{made.expires:%Y-%m-%dT%H:%M:%SZ}"
    text = output.facts({"Authority": folder, "Signs until": expires})
    output.result({"folder": folder, "expires": expires}, text, as_json=as_json)
