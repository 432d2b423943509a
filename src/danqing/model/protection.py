"""Signs and seals model folders, and unseals them."""

from collections.abc import Sequence
from pathlib import Path

from danqing import atomic
from danqing.errors import ModelError, TrustError
from danqing.model import folder as model_folder
from danqing.model import shipped
from danqing.model.files import CONFIG, Access, ModelFiles
from danqing.model.loading import HasModel, Signers, access_of, open_source
from danqing.trust.extra import check_cryptography
from danqing.trust.sealed_file import is_sealed


def sign(model: str | Path | HasModel, key: str | Path) -> Path:
    """Sign a model folder; returns the path of the signature.

    model: a model folder, a run folder or a `Run`. Sign it last: whatever changes a file ends the signature.
    key: a private key of an elliptic curve (`danqing sign --new-key`).
    Raises ModelError where this is not a model folder, and TrustError where the key cannot be used.
    """
    check_cryptography()
    from danqing.trust import keys, signature

    private = keys.read_signing_key(Path(key))
    files = _own_files(model)
    target = files.path / signature.SIGNATURE
    bundle = signature.sign(files.path.resolve().name, files.digests(), private)
    atomic.write_bytes(target, bundle)
    return target


def check_signature(model: str | Path | HasModel, require: Signers, key: str | Path | None = None) -> None:
    """Check that a model is signed, without loading it.

    require, key: as of `danqing.load`, with the same errors.
    """
    access = access_of(require, key, None)
    if not access.require:
        raise TrustError("Nothing is required of the model: give the public key of its signer.")
    open_source(model, access=access)


def seal(
    model: str | Path | HasModel,
    out: str | Path,
    *,
    to: str | Path | Sequence[str | Path] = (),
    passphrase: str | None = None,
) -> Path:
    """Seal a model folder into one encrypted file; returns its path.

    model: as of `sign`. Its signature is sealed too, so sign it before.
    out: the file, which must not exist.
    to: files of the public keys of recipients (`danqing seal --new-key`), each of whom can open it alone.
    passphrase: opens it too.
    Raises ModelError where this is not a model folder, and TrustError where nothing would open the file.
    """
    check_cryptography()
    from danqing.trust import keys
    from danqing.trust import seal as sealing
    from danqing.trust.signature import SIGNATURE, is_listed

    out = Path(out)
    paths = [to] if isinstance(to, str | Path) else to
    recipients = [keys.read_recipient(Path(path)) for path in paths]
    files = _own_files(model)
    if out.exists():
        raise TrustError(f"{out} exists: choose another name.")
    names = [name for name in files.names() if name == SIGNATURE or is_listed(name)]
    contents = {name: bytes(files.content(name)) for name in names}
    try:
        sealing.seal(out, contents, recipients, passphrase)
    except OSError as error:
        raise TrustError(f"{out} cannot be written ({error.strerror}): choose another place.") from error
    return out


def unseal(
    sealed: str | Path, out: str | Path, *, key: str | Path | None = None, passphrase: str | None = None
) -> Path:
    """Write the files in a sealed model to a folder, unencrypted.

    out: a folder that does not exist or is empty; it is returned. Only its owner may read it.
    key, passphrase: as of `danqing.load`.
    Raises ModelError with the reason where the file cannot be opened, and TrustError for a key or a folder
    that cannot be used.
    """
    path, out = Path(sealed), Path(out)
    if not is_sealed(path):
        raise ModelError(f"{path} is not a sealed model: give a file that danqing seal has written.")
    files = open_source(path, access=access_of((), key, passphrase))
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise TrustError(f"{out} exists and is not empty: choose another folder.")
    try:
        out.mkdir(mode=0o700, parents=True, exist_ok=True)
        out.chmod(0o700)
        for name in sorted(files.names(), key=lambda name: name == CONFIG):  # last, as in a model folder
            target = out / name
            target.parent.mkdir(parents=True, exist_ok=True)
            atomic.write_bytes(target, files.read(name))
    except OSError as error:
        raise TrustError(f"{out} cannot be written ({error.strerror}): choose another place.") from error
    return out


def _own_files(model: str | Path | HasModel) -> ModelFiles:
    """Return the files of a folder that may be signed or sealed; raise ModelError for anything else."""
    path = Path(model if isinstance(model, str | Path) else model.model)
    if is_sealed(path):
        raise ModelError(f"{path} is sealed already: give the model folder from which it was made.")
    if model_folder.is_hub_id(str(path)) or shipped.find(path) is not None:
        raise ModelError(f"{path} is not a folder of yours: copy the model to a folder first.")
    files = open_source(path, access=Access())
    atomic.remove_leftovers(files.path)
    model_folder.examine_learner(files)  # what is not a whole model is neither signed nor sealed
    return files
