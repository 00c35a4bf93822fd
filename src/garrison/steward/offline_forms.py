"""Evidence out of what files wrap it in: text, PEM, and the JSON of those who hand it on.

`unwrap` takes off one layer after the other until there is nothing more to take off: hex, base64
(either alphabet, padded or not), the armour of PEM, a JSON string or array of bytes, and a JSON
object that has evidence in a member of a name that such objects use: of Confidential
Containers' guests, of Intel's and Microsoft's services, of common tools. What was taken off is
told, for a user must know what the file was taken for. Certificates and collateral that stand
beside the evidence in an object are kept. Nothing is verified, and nothing believed.

It goes for evidence in files that a person names. Services take the forms of their wire alone.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from dataclasses import dataclass, field
from typing import Any

from garrison.errors import Malformed
from garrison.formats.snp_report_json import is_report, report_from_json

# Layers of a text in a text; real ones have four.
_MAX_LAYERS = 8
# Shorter text is never base64 of evidence.
_MIN_TEXT = 64
_HEX = re.compile(rb"(?:0[xX])?(?:[0-9A-Fa-f]{2})+")
_BASE64 = re.compile(rb"[A-Za-z0-9+/_-]+={0,2}")
_PEM = re.compile(rb"-----BEGIN ([A-Z0-9 ]+)-----\s+([A-Za-z0-9+/=\s]+)-----END \1-----")
_CERTIFICATE = b"CERTIFICATE"
# Where evidence stands in an object, in the order in which they are tried.
_MEMBERS = (
    "quote",
    "td_quote",
    "isvEnclaveQuote",
    "attestation_report",
    "attestationReport",
    "SnpReport",
    "snp_report",
    "report",
    "attestation_document",
    "attestationDocument",
    "document",
    "token",
    "cca_token",
    "csr",
    "primary_evidence",
    "tee-evidence",
    "tee_evidence",
    "evidence",
    "attestation",
    "tdx",
    "snp",
    "body",
    "data",
)
_CERTIFICATES = (
    "cert_chain",
    "certChain",
    "VcekCertChain",
    "vcekCertChain",
    "vcekCert",
    "certificateChain",
    "certificates",
    "certs",
    "auxblob",
    "vcek",
    "vlek",
    "ask",
    "ark",
)
_COLLATERAL = ("collateral", "quote_collateral", "quoteCollateral")
# Of Azure's guests, whose evidence is the whole object.
_AZURE = ({"hcl_report", "tpm_quote"}, {"report", "quote", "vcek"})
# Of files that are Intel's collateral, and no evidence.
_NOT_EVIDENCE = {"tcbInfo", "enclaveIdentity", "tcb_info", "qe_identity"}


@dataclass(slots=True)
class Unwrapped:
    """Evidence without what it was wrapped in.

    Attributes:
        data: the evidence; JSON if it is Azure's, or a CMW record's.
        layers: what was taken off, the outermost first.
        certificates: what stood beside it as certificates, still in whatever form.
        collateral: what stood beside it as Intel's collateral, JSON.
    """

    data: bytes
    layers: list[str] = field(default_factory=list)
    certificates: list[bytes] = field(default_factory=list)
    collateral: bytes | None = None


def unwrap(data: bytes) -> Unwrapped:
    """Take off all layers.

    Raises:
        Malformed: JSON that has no evidence in it, or a report in JSON that is none.
    """
    found = Unwrapped(data)
    while _is_text(found.data) and _peel(found):
        if len(found.layers) > _MAX_LAYERS:
            raise Malformed(
                "wrapped in too much",
                field="evidence",
                found=", ".join(found.layers),
                expected=f"at most {_MAX_LAYERS} layers",
            )
    return found


def octets(value: object) -> bytes | None:
    """The bytes that a JSON value stands for: text, or a list of numbers; None if for none."""
    if isinstance(value, str):
        return value.encode()
    if (
        isinstance(value, list)
        and value
        and all(type(one) is int and 0 <= one < 256 for one in value)
    ):
        return bytes(value)
    return None


def _is_text(data: bytes) -> bool:
    return bool(data) and not data.translate(None, b"\t\n\r" + bytes(range(0x20, 0x7F)))


def _peel(found: Unwrapped) -> bool:
    """Take one layer off, if there is one."""
    text = found.data.strip()
    if text[:1] in (b"{", b"[", b'"'):
        return _peel_json(found, text)
    armour = _PEM.fullmatch(text)
    if armour is not None and armour[1] != _CERTIFICATE:
        inner = _from_base64(b"".join(armour[2].split()))
        name = f"PEM ({armour[1].decode()})"
    elif armour is not None or text.startswith(b"-----"):
        return False
    else:
        joined = b"".join(text.split()).replace(b":", b"")
        inner, name = None, ""
        if len(joined) >= _MIN_TEXT and _HEX.fullmatch(joined):
            inner, name = bytes.fromhex(joined[joined[:2].lower() == b"0x" and 2 :].decode()), "hex"
        elif len(joined) >= _MIN_TEXT:
            inner, name = _from_base64(joined), "base64"
    if not inner:
        return False
    found.data = inner
    found.layers.append(name)
    return True


def _from_base64(text: bytes) -> bytes | None:
    if _BASE64.fullmatch(text) is None:
        return None
    bare = text.rstrip(b"=").translate(bytes.maketrans(b"-_", b"+/"))
    try:
        return base64.b64decode(bare + b"=" * (-len(bare) % 4), validate=True)
    except binascii.Error:
        return None


def _peel_json(found: Unwrapped, text: bytes) -> bool:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise Malformed("not JSON", field="evidence") from error
    plain = octets(value)
    if plain is not None:
        found.data = plain
        found.layers.append("JSON text" if isinstance(value, str) else "JSON array of bytes")
        return True
    if not isinstance(value, dict):
        # A CMW record in JSON.
        return False
    if is_report(value):
        found.data = report_from_json(value)
        found.layers.append("JSON of an SNP report's fields")
        return True
    if any(keys <= set(value) for keys in _AZURE) or _NOT_EVIDENCE & set(value):
        found.data = text
        return False
    return _peel_object(found, value)


def _peel_object(found: Unwrapped, value: dict[str, Any]) -> bool:
    for name in _MEMBERS:
        member = value.get(name)
        plain = octets(member)
        if isinstance(member, dict):
            plain = json.dumps(member).encode()
        if plain:
            found.data = plain
            found.layers.append(f"JSON member {name!r}")
            for beside in _CERTIFICATES:
                if beside != name:
                    found.certificates += _certificates(value.get(beside))
            for beside in _COLLATERAL:
                if isinstance(value.get(beside), dict):
                    found.collateral = json.dumps(value[beside]).encode()
            return True
    raise Malformed(
        "JSON without evidence",
        field="evidence",
        found=", ".join(sorted(map(repr, value)))[:200] or "no members",
        expected=f"one of {', '.join(_MEMBERS)}; or Azure's, with hcl_report and tpm_quote",
    )


def _certificates(value: object) -> list[bytes]:
    """The certificates in a member: text, bytes, a list of such, or an object for each."""
    plain = octets(value)
    if plain is not None:
        return [plain]
    items: list[object] = []
    if isinstance(value, list):
        items = value
    elif isinstance(value, dict):
        items = list(value.values())
    found: list[bytes] = []
    for item in items:
        inner = item.get("data") if isinstance(item, dict) else item
        plain = octets(inner)
        if plain is not None:
            found.append(plain)
    return found
