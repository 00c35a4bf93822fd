"""Intel's collateral for one platform in one JSON file, as quote verifiers exchange it.

An object of strings, or of arrays of their bytes. Names are those of `dcap-qvl` (`tcb_info`), or of
Intel's quote verification library (`tcbInfo`), with or without what says how they are written
(`root_crl_der_b64`, `tcb_info_json`):

    root_ca_crl, pck_crl              revocation lists: DER in hex or base64, or PEM
    tcb_info, qe_identity             the exact signed text of the inner object, with its signature
                                      in hex as `..._signature`; or the document as Intel serves it
    tcb_info_issuer_chain, qe_identity_issuer_chain    PEM, percent-encoded as in Intel's headers
                                      or not

Other members are not looked at. Without `qe_identity` it is what keeps of the original Enarx have.
Nothing is judged here: `garrison.verification.dcap` checks every signature.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from typing import Any
from urllib.parse import unquote

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from garrison.errors import Malformed
from garrison.formats._der import check_size
from garrison.formats.dcap_collateral import DcapCollateral, Signed

# TCB info has 20 KB and quotes double; the rest is smaller.
MAX_BUNDLE = 512 * 1024
_WHAT = "collateral"
# A SEQUENCE; DER of a list is never all of ASCII.
_DER = b"\x30"
# The names of each member, as `_plain` has them.
_NAMES = {
    "root_ca_crl": ("rootcacrl", "rootcrl"),
    "pck_crl": ("pckcrl",),
    "tcb_info": ("tcbinfo",),
    "tcb_info_signature": ("tcbinfosignature",),
    "tcb_info_issuer_chain": ("tcbinfoissuerchain",),
    "qe_identity": ("qeidentity",),
    "qe_identity_signature": ("qeidentitysignature",),
    "qe_identity_issuer_chain": ("qeidentityissuerchain",),
}
_ENCODINGS = re.compile(r"(?:json|pem|der|hex|b64|base64)+$")
_SERVED = re.compile(r'\s*\{\s*"(?:tcbInfo|enclaveIdentity)"\s*:')
_HEX = re.compile(r"(?:[0-9A-Fa-f]{2})+")


def read_bundle(data: bytes) -> DcapCollateral:
    """Read a file of collateral.

    Raises:
        Malformed: it is anything else.
    """
    check_size(data, MAX_BUNDLE, _WHAT)
    try:
        value = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise Malformed("not JSON", field=_WHAT) from error
    if not isinstance(value, dict):
        raise Malformed("wrong type", field=_WHAT, expected="an object")
    value = {_plain(name): member for name, member in value.items()}
    has_identity = any(name in value for name in _NAMES["qe_identity"])
    return DcapCollateral(
        root_crl=_crl(value, "root_ca_crl"),
        pck_crl=_crl(value, "pck_crl"),
        tcb_info=_served(value, "tcbInfo", "tcb_info"),
        tcb_info_chain=_chain(value, "tcb_info_issuer_chain"),
        qe_identity=_served(value, "enclaveIdentity", "qe_identity") if has_identity else None,
        qe_identity_chain=_chain(value, "qe_identity_issuer_chain") if has_identity else b"",
    )


def write_bundle(collateral: DcapCollateral) -> bytes:
    """Write a file of collateral; `read_bundle` gives the same again."""
    members: dict[str, str] = {
        "root_ca_crl": collateral.root_crl.hex(),
        "pck_crl": collateral.pck_crl.hex(),
    }
    for key, served, member, chain in (
        ("tcb_info", collateral.tcb_info, "tcbInfo", collateral.tcb_info_chain),
        (
            "qe_identity",
            collateral.qe_identity,
            "enclaveIdentity",
            collateral.qe_identity_chain,
        ),
    ):
        if served is None:
            continue
        signed = Signed.from_bytes(served, member)
        members[key] = signed.data.decode("ascii")
        members[f"{key}_signature"] = signed.signature.hex()
        members[f"{key}_issuer_chain"] = chain.decode("ascii")
    return json.dumps(members, indent=2).encode() + b"\n"


def _plain(name: str) -> str:
    """A name without case, punctuation, and what it says of how its member is written."""
    return _ENCODINGS.sub("", name.lower().replace("_", ""))


def _octets(value: dict[str, Any], key: str) -> bytes:
    """A member's bytes; those of C's strings may be signed, and end with a zero."""
    found = next((value[name] for name in _NAMES[key] if name in value), None)
    if isinstance(found, str) and found.isascii():
        return found.encode().rstrip(b"\0")
    if (
        isinstance(found, list)
        and found
        and all(type(each) is int and -128 <= each < 256 for each in found)
    ):
        octets = bytes(each & 0xFF for each in found)
        # A list in DER ends with its signature, which may end with zeros.
        return octets if _is_der(octets) else octets.rstrip(b"\0")
    raise Malformed(
        "missing, or not text", field=f"{_WHAT}: {key}", expected="a string, or an array of bytes"
    )


def _is_der(octets: bytes) -> bool:
    # In text, the same byte is the digit that some hex begins with.
    return octets.startswith(_DER) and not octets.isascii()


def _text(value: dict[str, Any], key: str) -> str:
    try:
        return _octets(value, key).decode("ascii")
    except UnicodeDecodeError as error:
        raise Malformed("not text", field=f"{_WHAT}: {key}") from error


def _crl(value: dict[str, Any], key: str) -> bytes:
    octets = _octets(value, key)
    if _is_der(octets):
        return octets
    text = _text(value, key).strip()
    field = f"{_WHAT}: {key}"
    try:
        if text.startswith("-----BEGIN"):
            return x509.load_pem_x509_crl(text.encode()).public_bytes(Encoding.DER)
        if _HEX.fullmatch(text):
            found = bytes.fromhex(text)
        else:
            found = base64.b64decode("".join(text.split()), validate=True)
    except (ValueError, binascii.Error) as error:
        raise Malformed("not hex, base64 or PEM", field=field) from error
    # Some of Intel's servers give the list in hex, and some tools encode that once more.
    if _HEX.fullmatch(found.decode("latin-1")):
        found = bytes.fromhex(found.decode("ascii"))
    return found


def _chain(value: dict[str, Any], key: str) -> bytes:
    text = _text(value, key)
    return (unquote(text) if "%" in text else text).encode()


def _served(value: dict[str, Any], member: str, key: str) -> bytes:
    """As Intel serves it: the signature is over the exact bytes of the inner object."""
    text = _text(value, key)
    if _SERVED.match(text):
        return text.encode()
    signature = _text(value, f"{key}_signature")
    if _HEX.fullmatch(signature) is None:
        raise Malformed("not hex digits", field=f"{_WHAT}: {key}_signature")
    return f'{{"{member}":{text},"signature":"{signature}"}}'.encode()
