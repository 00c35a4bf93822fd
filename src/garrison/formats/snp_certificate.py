"""The certificate of the key that signs SNP reports: a chip's (VCEK) or a provider's (VLEK).

AMD document 57230, "Versioned Chip Endorsement Key (VCEK) Certificate and KDS Interface
Specification", revision 1.00, tables 8 to 10: extensions under 1.3.6.1.4.1.3704.1 tell the
product, the TCB version that the key was derived for, and whose key it is.

It reads, strictly, and does not judge: no signature is checked here.
"""

from __future__ import annotations

import threading
import warnings
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat import asn1
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.utils import CryptographyDeprecationWarning
from cryptography.x509.oid import NameOID

from garrison.errors import Malformed
from garrison.formats._der import check_signature_octets, check_size, decode
from garrison.formats.snp import CHIP_ID_SIZE, Product, SigningKey, Tcb

if TYPE_CHECKING:
    from collections.abc import Iterator

# AMD's own are below 2 KB; the largest, of the roots, 1.7 KB.
MAX_CERTIFICATE = 8 * 1024
# A list of a vendor's few intermediates is below 2 KB.
MAX_CRL = 64 * 1024

_PREFIX = "1.3.6.1.4.1.3704.1"
_OID_PRODUCT = f"{_PREFIX}.2"
_OID_BL = f"{_PREFIX}.3.1"
_OID_TEE = f"{_PREFIX}.3.2"
_OID_SNP = f"{_PREFIX}.3.3"
_OID_UCODE = f"{_PREFIX}.3.8"
_OID_FMC = f"{_PREFIX}.3.9"
_OID_HWID = f"{_PREFIX}.4"
_OID_CSP_ID = f"{_PREFIX}.5"

# Turin's hardware identifier has 8 bytes; in a report, zeros follow it.
_HWID_SIZES = {Product.MILAN: CHIP_ID_SIZE, Product.GENOA: CHIP_ID_SIZE, Product.TURIN: 8}
_KINDS = {"SEV-VCEK": SigningKey.VCEK, "SEV-VLEK": SigningKey.VLEK}

# Certificates and lists are the same for every piece of evidence of a platform, and each is read
# once. Those that cannot be read are not kept; a flood of others only costs reading them again.
_REMEMBERED = 512

# What the library raises for a certificate or a list that it cannot read.
_UNREADABLE = (
    ValueError,
    TypeError,
    UnsupportedAlgorithm,
    x509.DuplicateExtension,
    x509.InvalidVersion,
    x509.UnsupportedGeneralNameType,
    # Raised by `_strictly`.
    UserWarning,
)

# The one way to silence a warning changes a list that all threads share.
_WARNINGS = threading.Lock()


@contextmanager
def _strictly() -> Iterator[None]:
    """Make of the library's warnings what they mean here: nothing, or a refusal."""
    with _WARNINGS, warnings.catch_warnings():
        # RFC 5280, appendix A.1, bounds the attributes of names (upper bounds).
        warnings.filterwarnings("error", message="Attribute's length must be", category=UserWarning)
        # RFC 5280 wants a positive serial number, and AMD gives 0 to every VCEK and VLEK.
        warnings.filterwarnings(
            "ignore",
            message="Parsed a serial number which wasn't positive",
            category=CryptographyDeprecationWarning,
        )
        yield


@contextmanager
def leniently() -> Iterator[None]:
    """Let names be longer than RFC 5280 has them, whatever another thread makes of such."""
    with _WARNINGS, warnings.catch_warnings():
        warnings.filterwarnings(
            "ignore", message="Attribute's length must be", category=UserWarning
        )
        yield


def load_certificate(der: bytes, field: str, limit: int = MAX_CERTIFICATE) -> x509.Certificate:
    """Read one certificate, of at most `limit` bytes.

    Raises:
        Malformed: `der` is anything else; `field` says what it should have been.
    """
    check_size(der, limit, field)
    try:
        return _certificate(der)
    except _UNREADABLE as error:
        raise Malformed("not an X.509 certificate", field=field) from error


@lru_cache(_REMEMBERED)
def _certificate(der: bytes) -> x509.Certificate:
    with _strictly():
        certificate = x509.load_der_x509_certificate(der)
        # The library reads on demand. Whatever it would refuse later, it refuses now.
        _ = (certificate.subject, certificate.issuer, certificate.extensions)
        _ = (certificate.public_key(), certificate.signature_algorithm_parameters)
        _ = certificate.signature_hash_algorithm
    check_signature_octets(der, certificate.signature)
    return certificate


def load_crl(der: bytes, field: str) -> x509.CertificateRevocationList:
    """Read a revocation list.

    Raises:
        Malformed: `der` is anything else.
    """
    check_size(der, MAX_CRL, field)
    try:
        return _crl(der)
    except Malformed as error:
        raise Malformed(
            error.message, field=field, found=error.found, expected=error.expected
        ) from error
    except _UNREADABLE as error:
        raise Malformed("not a revocation list", field=field) from error


@lru_cache(_REMEMBERED // 8)
def _crl(der: bytes) -> x509.CertificateRevocationList:
    with _strictly():
        crl = x509.load_der_x509_crl(der)
        # The library reads on demand. Whatever it would refuse later, it refuses now.
        _ = (crl.issuer, crl.extensions, crl.signature_algorithm_parameters)
        _ = crl.signature_hash_algorithm
        _ = [entry.serial_number for entry in crl]
    check_signature_octets(der, crl.signature)
    critical = [extension.oid.dotted_string for extension in crl.extensions if extension.critical]
    if critical:
        # RFC 5280, section 5.2: such a list may cover less than it seems to.
        raise Malformed("critical extensions", found=", ".join(critical), expected="none")
    return crl


def common_name(name: x509.Name, field: str) -> str:
    """The one common name of `name`.

    Raises:
        Malformed: it has none or several.
    """
    values = [attribute.value for attribute in name.get_attributes_for_oid(NameOID.COMMON_NAME)]
    if len(values) != 1 or not isinstance(values[0], str):
        raise Malformed("not one common name", field=field, found=len(values), expected=1)
    return values[0]


@dataclass(frozen=True, slots=True)
class VekCertificate:
    """A VCEK's or VLEK's certificate, and what its extensions say.

    Attributes:
        certificate: the certificate.
        key: its key, P-384.
        kind: whose key it is.
        product: the product line.
        product_name: its name as it stands there, with the stepping: `Milan-B0`.
        tcb: the TCB version that the key was derived for.
        hwid: the chip (VCEK).
        csp_id: the cloud provider (VLEK).
    """

    certificate: x509.Certificate
    key: ec.EllipticCurvePublicKey
    kind: SigningKey
    product: Product
    product_name: str
    tcb: Tcb
    hwid: bytes | None
    csp_id: str | None

    @classmethod
    @lru_cache(_REMEMBERED)
    def from_bytes(cls, der: bytes) -> VekCertificate:
        """Read the certificate and its extensions.

        Raises:
            Malformed: it is not a certificate of that kind.
        """
        certificate = load_certificate(der, "VEK certificate")
        name = common_name(certificate.subject, "VEK certificate subject")
        kind = _KINDS.get(name)
        key = certificate.public_key()
        if kind is None:
            raise Malformed(
                "neither a VCEK nor a VLEK",
                field="VEK certificate subject",
                found=repr(name[:64]),
                expected=" | ".join(_KINDS),
            )
        if not isinstance(key, ec.EllipticCurvePublicKey) or key.curve.name != "secp384r1":
            raise Malformed("wrong kind of key", field="VEK certificate key", expected="P-384")
        values = {
            extension.oid.dotted_string: extension.value.value
            for extension in certificate.extensions
            if isinstance(extension.value, x509.UnrecognizedExtension)
        }
        product_name = _text(values, _OID_PRODUCT, "product name")
        product = _product(product_name)
        tcb = Tcb(
            bl=_svn(values, _OID_BL, "bl"),
            tee=_svn(values, _OID_TEE, "tee"),
            snp=_svn(values, _OID_SNP, "snp"),
            ucode=_svn(values, _OID_UCODE, "ucode"),
            fmc=_svn(values, _OID_FMC, "fmc") if product is Product.TURIN else None,
        )
        chip = kind is SigningKey.VCEK
        return cls(
            certificate=certificate,
            key=key,
            kind=kind,
            product=product,
            product_name=product_name,
            tcb=tcb,
            hwid=_hwid(_value(values, _OID_HWID, "hwID"), product) if chip else None,
            csp_id=None if chip else _text(values, _OID_CSP_ID, "csp_id"),
        )


def _value(values: dict[str, bytes], oid: str, name: str) -> bytes:
    if oid not in values:
        raise Malformed("missing extension", field=f"VEK certificate: {name}", expected=oid)
    return values[oid]


def _svn(values: dict[str, bytes], oid: str, name: str) -> int:
    field = f"VEK certificate: {name}"
    number = decode(int, _value(values, oid, name), field)
    if not 0 <= number <= 255:
        raise Malformed("out of range", field=field, found=number, expected="0 to 255")
    return number


def _text(values: dict[str, bytes], oid: str, name: str) -> str:
    field = f"VEK certificate: {name}"
    return decode(asn1.IA5String, _value(values, oid, name), field).as_str()


def _product(name: str) -> Product:
    line = name.partition("-")[0]
    if line not in set(Product):
        raise Malformed(
            "unknown product",
            field="VEK certificate: product name",
            found=repr(name[:64]),
            expected=" | ".join(Product),
        )
    return Product(line)


def _hwid(value: bytes, product: Product) -> bytes:
    """Read the hardware identifier: bare, or as some write it, in an OCTET STRING."""
    size = _HWID_SIZES[product]
    if len(value) != size:
        value = decode(bytes, value, "VEK certificate: hwID")
    if len(value) != size:
        raise Malformed(
            "wrong length",
            field="VEK certificate: hwID",
            found=f"{len(value)} bytes",
            expected=f"{size} bytes for {product}",
        )
    return value
