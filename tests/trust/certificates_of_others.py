"""Certificates that our authority would never issue, and images that they signed."""

import datetime

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.x509.oid import AuthorityInformationAccessOID, ExtendedKeyUsageOID, NameOID

from danqing.trust import certificates
from danqing.trust.authority import Authority

_UNIT = x509.NameAttribute(NameOID.ORGANIZATIONAL_UNIT_NAME, "Tests")


class Issuer:
    """A root or a leaf with its key, which issues further certificates."""

    def __init__(self, key: ec.EllipticCurvePrivateKey, certificate: x509.Certificate) -> None:
        self.key, self.certificate = key, certificate

    @classmethod
    def root(cls, organization: str = "Danqing") -> "Issuer":
        key = certificates.new_key()
        return cls(key, certificates.new_root(key, organization))

    def leaf(
        self,
        *,
        seconds: float = 90 * 86_400,
        serial: int | None = None,
        chain: tuple[x509.Certificate, ...] = (),
        url: str = "",
    ) -> Authority:
        """An authority whose leaf this issuer signed; it ends after some seconds.

        url: where its revocation and its issuer can be looked up.
        """
        key = certificates.new_key()
        leaf = self.issue(key, seconds, serial, url)
        pem = "".join(map(certificates.certificate_pem, (leaf, *chain)))
        root = certificates.certificate_pem(self.certificate)
        return Authority(pem, root, leaf.not_valid_after_utc, lambda data: certificates.sign_with(key, data))

    def issue(
        self,
        key: ec.EllipticCurvePrivateKey,
        seconds: float = 90 * 86_400,
        serial: int | None = None,
        url: str = "",
        usage: x509.ObjectIdentifier = ExtendedKeyUsageOID.EMAIL_PROTECTION,
    ) -> x509.Certificate:
        now = datetime.datetime.now(datetime.UTC)
        identifier = self.certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
        extensions = [
            (x509.BasicConstraints(ca=False, path_length=None), True),
            (x509.KeyUsage(True, False, False, False, False, False, False, False, False), True),
            (x509.ExtendedKeyUsage([usage]), True),
            (x509.SubjectKeyIdentifier.from_public_key(key.public_key()), False),
            (x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(identifier), False),
        ]
        if url:
            place = x509.UniformResourceIdentifier(url)
            kinds = (AuthorityInformationAccessOID.OCSP, AuthorityInformationAccessOID.CA_ISSUERS)
            access = [x509.AccessDescription(kind, place) for kind in kinds]
            extensions.append((x509.AuthorityInformationAccess(access), False))
            point = x509.DistributionPoint([place], None, None, None)
            extensions.append((x509.CRLDistributionPoints([point]), False))
        builder = (
            x509.CertificateBuilder()
            .issuer_name(self.certificate.subject)
            .subject_name(x509.Name([*self.certificate.subject, _UNIT]))
            .public_key(key.public_key())
            .serial_number(serial or x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(hours=1))
            .not_valid_after(now + datetime.timedelta(seconds=seconds))
        )
        for extension, critical in extensions:
            builder = builder.add_extension(extension, critical)
        return builder.sign(self.key, SHA256())
