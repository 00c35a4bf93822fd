"""The names of what AMD's Key Distribution Service (KDS) serves.

AMD document 57230, "Versioned Chip Endorsement Key (VCEK) Certificate and KDS Interface
Specification", revision 1.00: its paths and query parameters. A VLEK certificate is given to
its provider alone: it comes with the evidence, and has no name here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from garrison.endorsements.resource import Kind, Resource
from garrison.errors import Malformed, Unavailable
from garrison.formats.snp import Product, Report, SigningKey, Tcb
from garrison.formats.snp_certificate import VekCertificate

if TYPE_CHECKING:
    from collections.abc import Sequence

ORIGIN = "https://kdsintf.amd.com"

_PATHS = {SigningKey.VCEK: "vcek/v1", SigningKey.VLEK: "vlek/v1"}
# Turin's hardware identifier; in a report, zeros follow it.
_TURIN_HWID = 8


def vcek(product: Product, hwid: bytes, tcb: Tcb) -> Resource:
    """The certificate of a chip's key for one TCB version.

    Args:
        product: the product line.
        hwid: the chip: 64 bytes, for Turin 8.
        tcb: the TCB version.
    """
    parts = [("bl", tcb.bl), ("tee", tcb.tee), ("snp", tcb.snp), ("ucode", tcb.ucode)]
    if tcb.fmc is not None:
        parts.insert(0, ("fmc", tcb.fmc))
    query = "&".join(f"{name}SPL={number}" for name, number in parts)
    path = f"{_PATHS[SigningKey.VCEK]}/{product}/{hwid.hex()}"
    return Resource(f"{ORIGIN}/{path}?{query}", Kind.VEK)


def check_vcek(url: str, der: bytes) -> None:
    """Refuse a certificate that is not the one that `url` names.

    It would verify nothing, and be kept for years.

    Raises:
        Malformed: it is another chip's or TCB version's, or no VCEK certificate.
    """
    vek = VekCertificate.from_bytes(der)
    found = None if vek.hwid is None else vcek(vek.product, vek.hwid, vek.tcb).url
    if found != url:
        raise Malformed(
            "not the certificate of that chip and TCB version",
            field="VEK certificate",
            found=found or "a VLEK",
            expected=url,
        )


def chain(product: Product, kind: SigningKey) -> Resource:
    """The issuer of such keys and the root: ASK (of VLEKs: ASVK), then ARK."""
    return Resource(f"{ORIGIN}/{_PATHS[kind]}/{product}/cert_chain", Kind.CHAIN)


def crl(product: Product, kind: SigningKey) -> Resource:
    """The root's revocation list."""
    return Resource(f"{ORIGIN}/{_PATHS[kind]}/{product}/crl", Kind.CRL)


def shared(product: Product) -> Sequence[Resource]:
    """All that is the same for every chip of `product`."""
    kinds = (SigningKey.VCEK, SigningKey.VLEK)
    return [named(product, kind) for kind in kinds for named in (chain, crl)]


def signer(report: Report) -> Resource:
    """The certificate of the key that signed `report`.

    Raises:
        Unavailable: AMD does not give it out, or the report does not tell which it is.
        Malformed: the report's TCB version is not one of its product.
    """
    product = report.cpuid.product if report.cpuid else None
    if report.signing_key is not SigningKey.VCEK:
        problem = f"a {report.signing_key.name} certificate is not given out by AMD"
    elif not any(report.chip_id):
        problem = "the report does not tell its chip"
    elif product is None:
        problem = "the report does not tell its product"
    else:
        hwid = report.chip_id[:_TURIN_HWID] if product is Product.TURIN else report.chip_id
        return vcek(product, hwid, Tcb.from_bytes(report.reported_tcb, product))
    raise Unavailable(
        problem, field="SNP endorsements", hint="the host must send it with the evidence"
    )
