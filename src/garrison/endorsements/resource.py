"""What vendors publish, by name: which document, where, of what kind, and until when it holds.

A resource is named by its vendor's own URL, wherever it is fetched from: a cache or a bundle
that was filled through a mirror is good without it.

`inspect` reads a document only as far as its dates, and refuses what is not of its kind, so
that a mistaken answer is never kept. Nothing is judged here: no signature is checked, no date is
compared with the clock.
"""

from __future__ import annotations

import base64
import json
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from garrison.errors import Malformed
from garrison.formats._der import check_size
from garrison.formats.dcap_collateral import MAX_JSON
from garrison.formats.snp_certificate import (
    MAX_CERTIFICATE,
    MAX_CRL,
    load_certificate,
    load_crl,
)

if TYPE_CHECKING:
    from cryptography import x509

# A vendor's chain is two certificates, PEM.
MAX_CHAIN = 4 * MAX_CERTIFICATE
_MAX_CHAIN_LENGTH = 4
_PEM = re.compile(
    rb"-----BEGIN CERTIFICATE-----([A-Za-z0-9+/=\s]*)-----END CERTIFICATE-----", re.ASCII
)
_HEX = re.compile(rb"[0-9A-Fa-f]+")


class Kind(StrEnum):
    """What a document is.

    VEK is a chip's certificate, DER; CHAIN its issuers', PEM; CRL a revocation list, DER;
    TCB_INFO and QE_IDENTITY are Intel's signed JSON.
    """

    VEK = "vek"
    CHAIN = "chain"
    CRL = "crl"
    TCB_INFO = "tcb-info"
    QE_IDENTITY = "qe-identity"

    @property
    def limit(self) -> int:
        """The most bytes that a document of this kind has."""
        return _LIMITS[self]

    @property
    def revocable(self) -> bool:
        """Whether the vendor says by a new version that something is no longer good."""
        return self not in {Kind.VEK, Kind.CHAIN}


_LIMITS = {
    Kind.VEK: MAX_CERTIFICATE,
    Kind.CHAIN: MAX_CHAIN,
    # A PCCS sends the root's list in hex.
    Kind.CRL: 2 * MAX_CRL,
    Kind.TCB_INFO: MAX_JSON,
    Kind.QE_IDENTITY: MAX_JSON,
}
# Intel PCS API v4: the member that is signed.
_MEMBERS = {Kind.TCB_INFO: "tcbInfo", Kind.QE_IDENTITY: "enclaveIdentity"}


@dataclass(frozen=True, slots=True)
class Resource:
    """One document of a vendor.

    Attributes:
        url: the vendor's own URL of it.
        kind: what it is.
        chain_header: the response header that brings its signer's certificates, URL-encoded PEM.
    """

    url: str
    kind: Kind
    chain_header: str | None = None


@dataclass(frozen=True, slots=True)
class Document:
    """A document as it was served.

    Attributes:
        body: the document.
        issuer_chain: its signer's certificates, PEM, where the vendor sends them along; else empty.
    """

    body: bytes
    issuer_chain: bytes = b""


@dataclass(frozen=True, slots=True)
class Dates:
    """When a document was issued, and when it ends, by its own words."""

    issued: datetime
    expires: datetime


def normalized(kind: Kind, body: bytes) -> bytes:
    """The document in its one form: a list that a PCCS wrote in hex becomes DER."""
    text = body.strip()
    if kind is Kind.CRL and len(text) % 2 == 0 and _HEX.fullmatch(text):
        return bytes.fromhex(text.decode("ascii"))
    return body


def inspect(kind: Kind, document: Document, field: str) -> Dates:
    """Read the dates of `document`.

    Args:
        kind: what it must be.
        document: the document.
        field: what to call it in an error.

    Raises:
        Malformed: it is not of that kind, or has no end.
    """
    check_size(document.body, kind.limit, field)
    if kind is Kind.VEK:
        dates = _of_certificates([load_certificate(document.body, field)])
    elif kind is Kind.CHAIN:
        dates = _of_certificates(read_chain(document.body, field))
    elif kind is Kind.CRL:
        crl = load_crl(document.body, field)
        if crl.next_update_utc is None:
            raise Malformed("a revocation list without an end", field=field)
        dates = Dates(crl.last_update_utc, crl.next_update_utc)
    else:
        dates = _of_json(document.body, _MEMBERS[kind], field)
    if not document.issuer_chain:
        return dates
    chain = _of_certificates(read_chain(document.issuer_chain, f"{field}: issuer chain"))
    return Dates(dates.issued, min(dates.expires, chain.expires))


def read_chain(pem: bytes, field: str) -> list[x509.Certificate]:
    """The certificates in `pem`.

    Raises:
        Malformed: it is not PEM of one to four certificates.
    """
    check_size(pem, MAX_CHAIN, field)
    blocks = _PEM.findall(pem)
    if _PEM.sub(b"", pem).strip() or not 1 <= len(blocks) <= _MAX_CHAIN_LENGTH:
        raise Malformed(
            "not PEM of certificates",
            field=field,
            found=f"{len(blocks)} and other text" if blocks else None,
            expected=f"1 to {_MAX_CHAIN_LENGTH} certificates, and nothing else",
        )
    found = []
    for block in blocks:
        try:
            der = base64.b64decode(b"".join(block.split()), validate=True)
        except ValueError as error:
            raise Malformed("not base64", field=field) from error
        found.append(load_certificate(der, field))
    return found


def _of_certificates(certificates: list[x509.Certificate]) -> Dates:
    return Dates(
        max(each.not_valid_before_utc for each in certificates),
        min(each.not_valid_after_utc for each in certificates),
    )


def _of_json(body: bytes, member: str, field: str) -> Dates:
    try:
        document = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise Malformed("not JSON", field=field) from error
    inner = document.get(member) if isinstance(document, dict) else None
    if not isinstance(inner, dict) or not isinstance(document.get("signature"), str):
        raise Malformed("not signed collateral", field=field, expected=f"{member} and signature")
    return Dates(
        _time(inner.get("issueDate"), f"{field}: issueDate"),
        _time(inner.get("nextUpdate"), f"{field}: nextUpdate"),
    )


def _time(value: Any, field: str) -> datetime:
    """A time as Intel writes it: ISO 8601, UTC, to the second."""
    try:
        return datetime.strptime(value, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC)
    except (TypeError, ValueError) as error:
        raise Malformed("not a time", field=field, expected="2026-01-01T00:00:00Z") from error
