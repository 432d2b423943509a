"""Certificates that readers of Content Credentials accept: a root, and leaves that sign."""

import datetime

from danqing.errors import TrustError

try:
    from cryptography import x509
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric import ec, utils
    from cryptography.hazmat.primitives.hashes import SHA256
    from cryptography.hazmat.primitives.serialization import (
        Encoding,
        NoEncryption,
        PrivateFormat,
        load_pem_private_key,
        load_pem_public_key,
    )
    from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
except ImportError as error:
    raise TrustError("Certificates need a package: pip install 'danqing[trust]'.") from error

PrivateKey = ec.EllipticCurvePrivateKey
PublicKey = ec.EllipticCurvePublicKey
Certificate = x509.Certificate

LEAF_DAYS = 90
_ROOT_DAYS = 3650
_CLOCK_SKEW = datetime.timedelta(hours=1)
_ANY_COUNTRY = "ZZ"
"""Readers expect a country. This code is reserved by ISO 3166 for "unknown"."""


def new_key() -> PrivateKey:
    """Create a P-256 key."""
    return ec.generate_private_key(ec.SECP256R1())


def new_root(key: PrivateKey, organization: str) -> Certificate:
    """Create a root certificate, valid for ten years.

    key: of the root, which signs itself. organization: its name, as readers show it.
    Raises TrustError for a name that a certificate cannot have.
    """
    subject = _name(organization, "root")
    builder = _builder(subject, subject, key.public_key(), _ROOT_DAYS)
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    builder = builder.add_extension(_usage(certificates=True), critical=True)
    return builder.sign(key, SHA256())


def new_leaf(
    public_key: PublicKey, organization: str, root: Certificate, root_key: PrivateKey, days: int = LEAF_DAYS
) -> Certificate:
    """Create a certificate that signs images.

    public_key: P-256. days: how long it is valid.
    Readers reject certificates that sign themselves, and those for another usage than `emailProtection`.
    """
    builder = _builder(root.subject, _name(organization, "images"), public_key, days)
    builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
    builder = builder.add_extension(_usage(certificates=False), critical=True)
    builder = builder.add_extension(
        x509.ExtendedKeyUsage([ExtendedKeyUsageOID.EMAIL_PROTECTION]), critical=False
    )
    issuer = root.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    identifier = x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(issuer)
    return builder.add_extension(identifier, critical=False).sign(root_key, SHA256())


def organization_of(certificate: Certificate) -> str:
    """Return the organization that a certificate names."""
    names = certificate.subject.get_attributes_for_oid(NameOID.ORGANIZATION_NAME)
    return str(names[0].value) if names else ""


def key_pem(key: PrivateKey) -> str:
    """Write a private key as PEM, without a passphrase."""
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()


def certificate_pem(certificate: Certificate) -> str:
    """Write a certificate as PEM."""
    return certificate.public_bytes(Encoding.PEM).decode()


def read_key(pem: bytes, where: object) -> PrivateKey:
    """Read a P-256 private key.

    where: the file, for messages. Raises TrustError.
    """
    try:
        key = load_pem_private_key(pem, None)
    except (ValueError, TypeError):  # the error of the library is dropped: it could quote the key
        raise TrustError(f"{where} is not a private key in PEM without a passphrase.") from None
    if not isinstance(key, PrivateKey) or not isinstance(key.curve, ec.SECP256R1):
        raise TrustError(f"The key in {where} is not on the curve P-256: create one with danqing authority.")
    return key


def read_public_key(pem: bytes, where: object) -> PublicKey:
    """Read a P-256 public key.

    where: the file, for messages. Raises TrustError.
    """
    try:
        key = load_pem_public_key(pem)
    except ValueError as error:
        raise TrustError(f"{where} is not a public key in PEM.") from error
    if not isinstance(key, PublicKey) or not isinstance(key.curve, ec.SECP256R1):
        raise TrustError(f"The public key in {where} is not on the curve P-256.")
    return key


def read_certificates(pem: bytes, where: object) -> list[Certificate]:
    """Read all certificates of a PEM file.

    where: the file, for messages. Raises TrustError if there is none.
    """
    try:
        return x509.load_pem_x509_certificates(pem)
    except ValueError as error:
        raise TrustError(f"{where} does not have a certificate in PEM.") from error


def read_der(content: bytes) -> Certificate:
    """Read a certificate in DER; raise TrustError."""
    try:
        return x509.load_der_x509_certificate(content)
    except ValueError as error:
        raise TrustError("A certificate is damaged.") from error


def sign_with(key: PrivateKey, data: bytes) -> bytes:
    """Sign data by ECDSA with SHA-256; return the signature as DER."""
    return key.sign(data, ec.ECDSA(SHA256()))


def is_signature(public_key: PublicKey, signature: bytes, data: bytes) -> bool:
    """Check an ECDSA signature with SHA-256.

    signature: as DER, or as its two numbers of 32 bytes.
    """
    if len(signature) == 64:
        numbers = int.from_bytes(signature[:32]), int.from_bytes(signature[32:])
        signature = utils.encode_dss_signature(*numbers)
    try:
        public_key.verify(signature, data, ec.ECDSA(SHA256()))
    except InvalidSignature:
        return False
    return True


def is_issued_by(certificate: Certificate, root: Certificate) -> bool:
    """Check whether a root has signed a certificate."""
    try:
        certificate.verify_directly_issued_by(root)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True


def public_key_of(certificate: Certificate) -> PublicKey:
    """Return the key of a certificate.

    Raises TrustError unless it is on the curve P-256.
    """
    key = certificate.public_key()
    if not isinstance(key, PublicKey) or not isinstance(key.curve, ec.SECP256R1):
        raise TrustError("A certificate of the authority is not on the curve P-256.")
    return key


def _name(organization: str, role: str) -> x509.Name:
    try:
        return x509.Name(
            [
                x509.NameAttribute(NameOID.COUNTRY_NAME, _ANY_COUNTRY),
                x509.NameAttribute(NameOID.ORGANIZATION_NAME, organization),
                x509.NameAttribute(NameOID.COMMON_NAME, f"{organization[:50]} {role}"),
            ]
        )
    except ValueError as error:
        raise TrustError(
            f"A certificate cannot have the name {organization!r}: choose 1 to 64 characters."
        ) from error


def _builder(
    issuer: x509.Name, subject: x509.Name, public_key: PublicKey, days: int
) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC)
    return (
        x509.CertificateBuilder()
        .issuer_name(issuer)
        .subject_name(subject)
        .public_key(public_key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _CLOCK_SKEW)
        .not_valid_after(now + datetime.timedelta(days=days))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
    )


def _usage(*, certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not certificates,
        key_cert_sign=certificates,
        crl_sign=certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )
