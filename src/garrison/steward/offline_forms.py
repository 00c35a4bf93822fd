"""Evidence out of what files wrap it in: text, PEM, and the forms of those who hand it on.

`unwrap` takes off one layer after the other until there is nothing more to take off: hex, base64
(either alphabet, padded or not), gzip, the armour of PEM, the messages of Google's guest libraries
(protocol buffers and their text), a JSON string or array of bytes, and a JSON
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
import zlib
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote_to_bytes

from garrison.errors import Malformed
from garrison.formats.guest_messages import read_message
from garrison.formats.snp_report_json import is_report, report_from_json
from garrison.steward.offline_binary import framed, map_as_json

# Layers of a text in a text; real ones have four.
_MAX_LAYERS = 8
_GZIP = b"\x1f\x8b\x08"
# What a file of evidence may have, `garrison.steward.offline_read`.
_MAX_DECOMPRESSED = 2 << 20
# Unicode, 2.13, "byte order mark".
_MARKS = (
    (b"\xef\xbb\xbf", "utf-8-sig"),
    (b"\xff\xfe", "utf-16"),
    (b"\xfe\xff", "utf-16"),
)
# Shorter text is never base64 of evidence.
_MIN_TEXT = 64
_HEX = re.compile(rb"(?:0[xX])?(?:[0-9A-Fa-f]{2})+")
_BASE64 = re.compile(rb"[A-Za-z0-9+/_-]+={0,2}")
_PEM = re.compile(rb"-----BEGIN ([A-Z0-9 ]+)-----\s+([A-Za-z0-9+/=\s]+)-----END \1-----")
_CERTIFICATE = b"CERTIFICATE"
# As a header of Intel's services has a chain.
_ENCODED_PEM = b"-----BEGIN%20"
# Where evidence stands in an object, in the order in which they are tried: names as `_plain_names`
# has them, for tools write the same name in many ways.
_MEMBERS = (
    "quote",
    "tdquote",
    "tdxquote",
    "sgxquote",
    "intelquote",
    "cpuquote",
    "rawquote",
    "isvenclavequote",
    "attestationreport",
    "snpreport",
    "report",
    "sevsnpreport",
    "attestationdocument",
    "attestationdoc",
    "document",
    "token",
    "ccatoken",
    "csr",
    "verificationrequests",
    "primaryevidence",
    "teeevidence",
    "evidence",
    "attestation",
    "tdx",
    "snp",
    "sevsnp",
    "pcs",
    "body",
    "data",
    "cpu",
    "outblob",
    "tsmreport",
    "cmw",
    "raw",
)
_CERTIFICATES = (
    "certchain",
    "vcekcertchain",
    "vcekcert",
    "certificatechain",
    "certificates",
    "certs",
    "auxblob",
    "vcek",
    "vlek",
    "vek",
    "vekcerts",
    "ask",
    "ark",
    "endorsements",
)
# What names say of how their members are written, which shows.
_ENCODINGS = re.compile(r"(?:hex|b64|base64|der|pem|bytes|json)+$")
_COLLATERAL = ("collateral", "quotecollateral")
# Of Azure's guests, whose evidence is the whole object.
_AZURE = ({"hcl_report", "tpm_quote"}, {"report", "quote", "vcek"})
# Of objects that are Intel's collateral, and no evidence unless a quote is among it.
_INTELS = ("tcbinfo", "enclaveidentity", "qeidentity")
_QUOTES = _MEMBERS[: _MEMBERS.index("attestationreport")]


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
    found = Unwrapped(_ascii(data))
    while _peel_binary(found) or (_is_text(found.data) and _peel(found)):
        if len(found.layers) > _MAX_LAYERS:
            raise Malformed(
                "wrapped in too much",
                field="evidence",
                found=", ".join(found.layers),
                expected=f"at most {_MAX_LAYERS} layers",
            )
    return found


def is_azure(value: dict[str, Any]) -> bool:
    """Whether an object is the evidence of a guest of Azure's, of which nothing is taken off."""
    return any(keys <= set(value) for keys in _AZURE)


def is_collateral(value: dict[str, Any]) -> bool:
    """Whether an object is Intel's collateral, with no quote beside it."""
    names = _plain_names(value)
    return any(each in names for each in _INTELS) and not any(each in names for each in _QUOTES)


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


def _ascii(data: bytes) -> bytes:
    """Text without the mark of its encoding, as Windows' tools write it: of evidence, all ASCII."""
    for mark, encoding in _MARKS:
        if data.startswith(mark):
            try:
                return data.decode(encoding).encode()
            except UnicodeDecodeError:
                break
    return data


def _is_text(data: bytes) -> bool:
    if not data.translate(None, b"\t\n\r" + bytes(range(0x20, 0x7F))):
        return bool(data)
    # JSON may have names and remarks in any script; no evidence begins like it.
    if data.lstrip()[:1] not in (b"{", b"[", b'"'):
        return False
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


def _peel_binary(found: Unwrapped) -> bool:
    """Take off compression, a frame, or a map or message in bytes; messages also as text."""
    if found.data.startswith(_GZIP):
        found.data = _decompress(found.data)
        found.layers.append("gzip")
        return True
    frame = framed(found.data)
    if frame is not None:
        name, found.data = frame
        found.layers.append(name)
        return True
    members = map_as_json(found.data)
    if members is not None:
        found.data = members
        found.layers.append("a CBOR map")
        return True
    message = read_message(found.data)
    if message is None:
        return False
    found.data = message.evidence
    found.certificates += message.certificates
    found.layers.append(f"the message {message.name}")
    return True


def _decompress(data: bytes) -> bytes:
    decompressor = zlib.decompressobj(wbits=16 + zlib.MAX_WBITS)
    try:
        found = decompressor.decompress(data, _MAX_DECOMPRESSED)
    except zlib.error as error:
        raise Malformed("not gzip", field="evidence") from error
    if not decompressor.eof or decompressor.unused_data:
        raise Malformed(
            "not one whole file of gzip",
            field="evidence",
            found=f"{len(found)} bytes so far",
            expected=f"at most {_MAX_DECOMPRESSED}, and nothing after",
        )
    return found


def _peel(found: Unwrapped) -> bool:
    """Take one layer off a text, if there is one."""
    text = found.data.strip()
    if text[:1] in (b"{", b"[", b'"'):
        return _peel_json(found, text)
    if text.startswith(_ENCODED_PEM):
        found.data = unquote_to_bytes(text)
        found.layers.append("percent-encoding")
        return True
    armour = _PEM.fullmatch(text)
    if armour is not None and armour[1] != _CERTIFICATE:
        inner = _from_base64(b"".join(armour[2].split()))
        name = f"PEM ({armour[1].decode()})"
    elif armour is not None or text.startswith(b"-----"):
        return False
    else:
        lines = text.split()
        if len(lines) > 1 and all(
            len(line) >= _MIN_TEXT and _HEX.fullmatch(line) and line[:2].lower() == b"0x"
            for line in lines
        ):
            raise Malformed(
                "several pieces of evidence in hex",
                field="evidence",
                found=f"{len(lines)} lines, each from 0x on",
                expected="one",
                hint="give each a file of its own",
            )
        joined = b"".join(lines).replace(b":", b"")
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
    if is_azure(value) or is_collateral(value):
        found.data = text
        return False
    return _peel_object(found, value)


def _peel_object(found: Unwrapped, value: dict[str, Any]) -> bool:
    names = _plain_names(value)
    for name in (names[plain] for plain in _MEMBERS if plain in names):
        member = value[name]
        if isinstance(member, list) and len(member) == 1 and isinstance(member[0], dict):
            # A request to verify several, of which there is one.
            member = member[0]
        match member:
            case [str(), str() as inner] | [str(), str() as inner, int()]:
                # A record in a collection (draft-ietf-rats-msg-wrap, "CMW Collections").
                member = inner
        plain = octets(member)
        if isinstance(member, dict):
            plain = json.dumps(member).encode()
        if plain:
            found.data = plain
            found.layers.append(f"JSON member {name!r}")
            found.certificates += certificates_in(value, but=name)
            for beside in (value[names[each]] for each in _COLLATERAL if each in names):
                if isinstance(beside, dict):
                    found.collateral = json.dumps(beside).encode()
            if any(each in names for each in _INTELS):
                found.collateral = json.dumps(value).encode()
            return True
    if certificates_in(value):
        # Endorsements, which are not evidence and have no other form.
        found.data = json.dumps(value).encode()
        return False
    raise Malformed(
        "JSON without evidence",
        field="evidence",
        found=", ".join(sorted(map(repr, value)))[:200] or "no members",
        expected=f"one of {', '.join(_MEMBERS)}, in whatever case; or Azure's, with hcl_report and"
        " tpm_quote",
    )


def certificates_in(value: dict[str, Any], but: str = "") -> list[bytes]:
    """The certificates in the members of an object that commonly have them, whatever their form."""
    names = _plain_names(value)
    return [
        found
        for name in (names[plain] for plain in _CERTIFICATES if plain in names)
        if name != but
        for found in _certificates(value[name])
    ]


def _plain_names(value: dict[str, Any]) -> dict[str, str]:
    """The names of an object's members, by what they are without case, punctuation and encoding."""
    found: dict[str, str] = {}
    for name in value:
        plain = name.lower().replace("_", "").replace("-", "")
        found.setdefault(_ENCODINGS.sub("", plain) or plain, name)
    return found


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
