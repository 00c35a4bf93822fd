"""A simulated AMD: certificates of the same form as AMD's, under keys that anyone may make.

For the simulator, and for tests. What it signs proves nothing: a steward believes it only where
its policy names this very root as a simulated one. The organisation in every name says so.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from cryptography import x509
from cryptography.hazmat import asn1
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.x509.oid import NameOID

from garrison.formats.key_usage import key_usage
from garrison.formats.snp import Product, SigningKey, Tcb

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cryptography.hazmat.primitives.asymmetric import ec

LIFETIME = timedelta(days=3650)
_PSS = padding.PSS(padding.MGF1(hashes.SHA384()), 48)
# AMD document 57230, tables 8 to 10.
_PREFIX = "1.3.6.1.4.1.3704.1"
_SUBJECTS = {SigningKey.VCEK: "SEV-VCEK", SigningKey.VLEK: "SEV-VLEK"}
_ISSUERS = {SigningKey.VCEK: "SEV", SigningKey.VLEK: "SEV-VLEK"}


def generate_ca_key() -> rsa.RSAPrivateKey:
    """Make a key for an ARK or ASK: RSA-4096, which takes about a second."""
    return rsa.generate_private_key(public_exponent=65537, key_size=4096)


@dataclass(frozen=True, slots=True)
class InsecureVendor:
    """A simulated vendor's root (ARK) and intermediates (ASK, ASVK) for one product.

    Attributes:
        name: what the vendor is called.
        product: the product line.
        ark_key: the root's key.
        ask_key: the key of both intermediates.
        start: when all that it makes becomes valid; AMD's are a day older than their chips.
        lifetime: how long the ARK and the intermediates are valid.
    """

    name: str
    product: Product
    ark_key: rsa.RSAPrivateKey = field(repr=False)
    ask_key: rsa.RSAPrivateKey = field(repr=False)
    start: datetime = datetime(2025, 1, 1, tzinfo=UTC)
    lifetime: timedelta = LIFETIME

    def ark(self) -> x509.Certificate:
        """The root's certificate."""
        name = self._name(f"ARK-{self.product}")
        return self._sign_ca(name, self.ark_key.public_key(), serial=1, path_length=None)

    def ask(self, kind: SigningKey = SigningKey.VCEK) -> x509.Certificate:
        """The certificate of the intermediate that issues keys of `kind`."""
        name = self._name(f"{_ISSUERS[kind]}-{self.product}")
        serial = 2 + kind
        return self._sign_ca(name, self.ask_key.public_key(), serial=serial, path_length=0)

    def crl(self, revoked: Sequence[int] = ()) -> x509.CertificateRevocationList:
        """The root's revocation list, of the serial numbers `revoked`."""
        builder = (
            x509.CertificateRevocationListBuilder()
            .issuer_name(self._name(f"ARK-{self.product}"))
            .last_update(self.start)
            .next_update(self.start + self.lifetime)
        )
        for serial in revoked:
            builder = builder.add_revoked_certificate(
                x509.RevokedCertificateBuilder()
                .serial_number(serial)
                .revocation_date(self.start)
                .build()
            )
        return builder.sign(self.ark_key, hashes.SHA384(), rsa_padding=_PSS)

    def vek(
        self,
        key: ec.EllipticCurvePublicKey,
        tcb: Tcb,
        *,
        kind: SigningKey = SigningKey.VCEK,
        hwid: bytes = b"",
        product_name: str | None = None,
        csp_id: str = "CN=insecure.invalid",
    ) -> x509.Certificate:
        """The certificate of a key that signs reports.

        Args:
            key: the key, P-384.
            tcb: the TCB version that it is for.
            kind: whose key it is.
            hwid: the chip (VCEK).
            product_name: the product line with its stepping; by default without.
            csp_id: the cloud provider (VLEK).
        """
        numbers = {"3.1": tcb.bl, "3.2": tcb.tee, "3.3": tcb.snp, "3.8": tcb.ucode}
        if tcb.fmc is not None:
            numbers["3.9"] = tcb.fmc
        values = {suffix: asn1.encode_der(number) for suffix, number in numbers.items()}
        values["1"] = asn1.encode_der(int(tcb.fmc is not None))
        values["2"] = asn1.encode_der(asn1.IA5String(product_name or self.product.value))
        if kind is SigningKey.VCEK:
            values["4"] = hwid
        else:
            values["5"] = asn1.encode_der(asn1.IA5String(csp_id))
        builder = self._builder(
            self._name(_SUBJECTS[kind]), self._name(f"{_ISSUERS[kind]}-{self.product}"), 100
        ).public_key(key)
        for suffix, value in sorted(values.items()):
            oid = x509.ObjectIdentifier(f"{_PREFIX}.{suffix}")
            builder = builder.add_extension(x509.UnrecognizedExtension(oid, value), critical=False)
        return builder.sign(self.ask_key, hashes.SHA384(), rsa_padding=_PSS)

    def _name(self, common_name: str) -> x509.Name:
        return x509.Name(
            [
                x509.NameAttribute(
                    NameOID.ORGANIZATION_NAME, f"Garrison INSECURE simulator {self.name}"
                ),
                x509.NameAttribute(NameOID.COMMON_NAME, common_name),
            ]
        )

    def _builder(
        self, subject: x509.Name, issuer: x509.Name, serial: int
    ) -> x509.CertificateBuilder:
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(issuer)
            .serial_number(serial)
            .not_valid_before(self.start)
            .not_valid_after(self.start + self.lifetime)
        )

    def _sign_ca(
        self, subject: x509.Name, key: rsa.RSAPublicKey, *, serial: int, path_length: int | None
    ) -> x509.Certificate:
        usage = key_usage(key_cert_sign=True, crl_sign=path_length is None)
        return (
            self._builder(subject, self._name(f"ARK-{self.product}"), serial)
            .public_key(key)
            .add_extension(x509.BasicConstraints(ca=True, path_length=path_length), critical=True)
            .add_extension(usage, critical=True)
            .sign(self.ark_key, hashes.SHA384(), rsa_padding=_PSS)
        )
