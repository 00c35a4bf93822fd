"""Evidence of a confidential VM on Azure, where a paravisor stands between hardware and guest.

The paravisor (HCL) has the hardware's report made at boot, over the runtime data, which hold the
public key of the virtual TPM that it runs (AK). The guest only asks that TPM: for a quote, and
for the report, which the TPM stores as a blob (NV index 0x01400001):

    0x000  header: "HCLA", version, size of all but the padding, request type, status, reserved
    0x020  the hardware's report: an SNP report, or a TDX TDREPORT and zeros
    0x4c0  runtime data: size (with this header), version, type of report, hash, size, JSON

All numbers are little-endian. The exact bytes of the JSON are hashed into the report.

Evidence travels as the JSON that Confidential Containers' guests send, of version 0, 1 or 2:

    0: { "report": [ints], "vcek": PEM, "quote": { "message", "signature": [ints],
         "pcrs": [[ints]] } }
       on TDX { "hcl_report": [ints], "tpm_quote": as "quote" is, "td_quote": [ints] }
    1, 2: { "version": 1, "hcl_report": base64url, "vcek": base64url DER,
            "tpm_quote": { "message", "signature": hex, "pcrs": [hex] } }

or on TDX, instead of "vcek", with "td_quote": base64url. Versions 1 and 2
differ only in what the guest does with its report data, which is not this module's matter.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import re
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

from garrison.errors import Malformed
from garrison.formats._cursor import Cursor
from garrison.formats.snp import REPORT_SIZE
from garrison.formats.tpm import MAX_QUOTE, PCR_COUNT, PCR_SIZE

AZURE_MEDIA_TYPE = "application/vnd.garrison.azure-evidence.v1+json"

# The NV index holds 2600 bytes; older paravisors' fewer.
MAX_BLOB = 4096
# A TDX quote with its chain has 5 to 8 KiB; version 0 writes a byte as up to five characters.
MAX_EVIDENCE = 64 * 1024
_MAX_TD_QUOTE = 16 * 1024
_MAX_VCEK = 4096
# RSA of 4096 bits; paravisors use 2048.
_MAX_SIGNATURE = 512

_SIGNATURE = b"HCLA"
_VERSIONS = (1, 2)
_REPORT_REQUEST = 2
_RUNTIME_OFFSET = 0x20 + REPORT_SIZE
_RUNTIME_HEADER = 20
_SHA256 = 1
_AK = "HCLAkPub"


def quote_nonce(report_data: bytes) -> bytes:
    """What a keep asks the TPM to quote for its report data: SHA-384 of them.

    A TPM takes what its largest hash and an algorithm fit in (Part 2, 10.4.3): on Azure 50 bytes.

    Args:
        report_data: what binds the keep's key and the challenge.
    """
    return hashlib.sha384(report_data).digest()


class ReportType(IntEnum):
    """The hardware whose report a blob holds."""

    SNP = 2
    TDX = 4


@dataclass(frozen=True, slots=True)
class AttestationKey:
    """The virtual TPM's key (AK), RSA."""

    modulus: int
    exponent: int


@dataclass(frozen=True, slots=True)
class HclReport:
    """The blob.

    Attributes:
        version: 1 or 2.
        kind: the hardware.
        hardware: the hardware's report, with zeros to its 1184 bytes.
        runtime: the runtime data, JSON, exactly as they are hashed.
        padding: how many zeros follow.
    """

    version: int
    kind: ReportType
    hardware: bytes
    runtime: bytes
    padding: int

    @classmethod
    def from_bytes(cls, data: bytes) -> HclReport:
        """Read a blob.

        Raises:
            Malformed: it is anything else.
        """
        if len(data) > MAX_BLOB:
            raise _malformed("size", f"{len(data)} bytes", f"at most {MAX_BLOB}")
        cursor = Cursor(data, _WHAT)
        signature = cursor.take(len(_SIGNATURE), "signature")
        if signature != _SIGNATURE:
            raise _malformed("signature", signature.hex(), _SIGNATURE.hex())
        version = cursor.integer(4, "version")
        if version not in _VERSIONS:
            raise _malformed("version", version, " or ".join(map(str, _VERSIONS)))
        size = cursor.integer(4, "size")
        _constant(cursor, "request type", _REPORT_REQUEST)
        cursor.zeros(16, "status and reserved")
        hardware = cursor.take(REPORT_SIZE, "hardware report")
        data_size = cursor.integer(4, "runtime data size")
        _constant(cursor, "runtime data version", 1)
        kind = cursor.integer(4, "report type")
        if kind not in set(ReportType):
            raise _malformed("report type", kind, "2 (SNP) or 4 (TDX)")
        _constant(cursor, "hash type", _SHA256)
        length = cursor.integer(4, "runtime claims size")
        if (
            data_size != _RUNTIME_HEADER + length
            or size != _RUNTIME_OFFSET + _RUNTIME_HEADER + length
        ):
            raise _malformed("sizes", f"{size}, {data_size} and {length}", "sizes that fit")
        runtime = cursor.take(length, "runtime claims")
        padding = len(data) - size
        cursor.zeros(padding, "padding")
        return cls(version, ReportType(kind), hardware, runtime, padding)

    def to_bytes(self) -> bytes:
        """Write the blob."""
        length = len(self.runtime)
        head = (self.version, _RUNTIME_OFFSET + _RUNTIME_HEADER + length, _REPORT_REQUEST)
        middle = (_RUNTIME_HEADER + length, 1, self.kind, _SHA256, length)
        return b"".join(
            (
                _SIGNATURE,
                *(number.to_bytes(4, "little") for number in head),
                bytes(16),
                self.hardware,
                *(number.to_bytes(4, "little") for number in middle),
                self.runtime,
                bytes(self.padding),
            )
        )


@dataclass(frozen=True, slots=True)
class RuntimeData:
    """What the paravisor says of the VM. Members that are not here are not looked at.

    Attributes:
        key: the virtual TPM's.
        secure_boot: whether the guest boots what is signed alone.
        console: whether the host has a console of the guest.
        tpm: whether the guest has the virtual TPM.
        vm_id: the VM's.
        user_data: what the guest had the report made over; None on older paravisors.
    """

    key: AttestationKey
    secure_boot: bool
    console: bool
    tpm: bool
    vm_id: str
    user_data: bytes | None

    @classmethod
    def from_bytes(cls, data: bytes) -> RuntimeData:
        """Read the JSON.

        Raises:
            Malformed: it is no such JSON, or lacks what it must have.
        """
        value = _json(data, "Azure runtime data")
        keys = _member(value, "keys", list)
        found = [key for key in keys if isinstance(key, dict) and key.get("kid") == _AK]
        if len(found) != 1:
            raise _wrong("keys", f"{len(found)} keys {_AK}", "one")
        key = found[0]
        if key.get("kty") != "RSA":
            raise _wrong(_AK, repr(key.get("kty"))[:40], "an RSA key")
        machine = _member(value, "vm-configuration", dict)
        user_data = value.get("user-data")
        return cls(
            key=AttestationKey(*(_number(_member(key, part, str)) for part in ("n", "e"))),
            secure_boot=_member(machine, "secure-boot", bool),
            console=_member(machine, "console-enabled", bool),
            tpm=_member(machine, "tpm-enabled", bool),
            vm_id=_member(machine, "vmUniqueId", str),
            user_data=None if user_data is None else _hex(user_data, "user-data", 64),
        )


@dataclass(frozen=True, slots=True)
class AzureEvidence:
    """What a guest sends.

    Attributes:
        report: the blob.
        message: the TPM's quote.
        signature: its signature.
        pcrs: the registers of the SHA-256 bank.
        vcek: on SNP, the chip's certificate, DER.
        td_quote: on TDX, the quote of what the blob holds.
    """

    report: bytes
    message: bytes
    signature: bytes
    pcrs: tuple[bytes, ...]
    vcek: bytes | None
    td_quote: bytes | None

    @classmethod
    def from_bytes(cls, data: bytes) -> AzureEvidence:
        """Read evidence of any version.

        Raises:
            Malformed: it is anything else than the module says.
        """
        value = _json(data, "Azure evidence")
        if "version" not in value:
            return _version_0(value)
        version = value["version"]
        if type(version) is not int or version not in (1, 2):
            raise _wrong("version", repr(version)[:40], "1 or 2, or none")
        hardware = "td_quote" if "td_quote" in value else "vcek"
        _exactly(value, "version", "hcl_report", "tpm_quote", hardware)
        quote = _quote(value, "tpm_quote")
        pcrs = _registers(quote)
        most = _MAX_TD_QUOTE if hardware == "td_quote" else _MAX_VCEK
        return cls(
            report=_base64(value["hcl_report"], "hcl_report", MAX_BLOB),
            message=_hex(quote["message"], "message", MAX_QUOTE),
            signature=_hex(quote["signature"], "signature", _MAX_SIGNATURE),
            pcrs=tuple(_register(_hex(pcr, "pcrs", PCR_SIZE)) for pcr in pcrs),
            **{"vcek": None, "td_quote": None}
            | {hardware: _base64(value[hardware], hardware, most)},
        )

    def to_bytes(self) -> bytes:
        """Write the evidence as version 1.

        Raises:
            Malformed: it has both a certificate and a quote, or neither.
        """
        value: dict[str, Any] = {
            "version": 1,
            "hcl_report": _encoded(self.report),
            "tpm_quote": {
                "message": self.message.hex(),
                "signature": self.signature.hex(),
                "pcrs": [pcr.hex() for pcr in self.pcrs],
            },
        }
        if self.vcek is not None and self.td_quote is None:
            value["vcek"] = _encoded(self.vcek)
        elif self.td_quote is not None and self.vcek is None:
            value["td_quote"] = _encoded(self.td_quote)
        else:
            raise _wrong("vcek, td_quote", "both or neither", "one of them")
        return json.dumps(value, separators=(",", ":")).encode()


def _version_0(value: dict[str, Any]) -> AzureEvidence:
    report, signed, hardware = "report", "quote", "vcek"
    if "td_quote" in value:
        report, signed, hardware = "hcl_report", "tpm_quote", "td_quote"
    _exactly(value, report, signed, hardware)
    quote = _quote(value, signed)
    on_tdx = hardware == "td_quote"
    return AzureEvidence(
        report=_octets(value[report], report, MAX_BLOB),
        message=_octets(quote["message"], "message", MAX_QUOTE),
        signature=_octets(quote["signature"], "signature", _MAX_SIGNATURE),
        pcrs=tuple(_register(_octets(pcr, "pcrs", PCR_SIZE)) for pcr in _registers(quote)),
        vcek=None if on_tdx else _pem(_member(value, hardware, str)),
        td_quote=_octets(value[hardware], hardware, _MAX_TD_QUOTE) if on_tdx else None,
    )


_WHAT = "Azure HCL report"
_PEM = re.compile(r"-----BEGIN CERTIFICATE-----\n([A-Za-z0-9+/=\n]+)\n-----END CERTIFICATE-----\n*")


def _json(data: bytes, what: str) -> dict[str, Any]:
    """Read a JSON object in which no key stands twice."""
    if len(data) > MAX_EVIDENCE:
        raise Malformed(
            "too long", field=what, found=f"{len(data)} bytes", expected=f"at most {MAX_EVIDENCE}"
        )

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len(dict(pairs)) != len(pairs):
            raise ValueError("a key stands twice")
        return dict(pairs)

    try:
        value = json.loads(data.decode(), object_pairs_hook=unique)
    except (ValueError, RecursionError) as error:
        raise Malformed(f"not JSON: {error}", field=what) from error
    if not isinstance(value, dict):
        raise Malformed("not a JSON object", field=what, found=type(value).__name__)
    return value


def _member(value: dict[str, Any], key: str, kind: type[Any]) -> Any:
    if type(value.get(key)) is not kind:
        raise _wrong(key, repr(value.get(key))[:80], kind.__name__)
    return value[key]


def _exactly(value: dict[str, Any], *keys: str) -> None:
    if set(value) != set(keys):
        raise _wrong("keys", ", ".join(sorted(value))[:120], ", ".join(sorted(keys)))


def _quote(value: dict[str, Any], key: str) -> dict[str, Any]:
    quote: dict[str, Any] = _member(value, key, dict)
    _exactly(quote, "message", "signature", "pcrs")
    return quote


def _registers(quote: dict[str, Any]) -> list[Any]:
    pcrs: list[Any] = _member(quote, "pcrs", list)
    if len(pcrs) != PCR_COUNT:
        raise _wrong("pcrs", f"{len(pcrs)} registers", PCR_COUNT)
    return pcrs


def _register(value: bytes) -> bytes:
    if len(value) != PCR_SIZE:
        raise _wrong("pcrs", f"{len(value)} bytes", PCR_SIZE)
    return value


def _hex(value: object, field: str, most: int) -> bytes:
    """Read hex digits; the parser itself would skip blanks."""
    if not isinstance(value, str) or re.fullmatch(r"(?:[0-9A-Fa-f]{2})*", value) is None:
        raise _wrong(field, repr(value)[:80], "hex digits")
    return _bounded(bytes.fromhex(value), field, most)


def _octets(value: object, field: str, most: int) -> bytes:
    if not isinstance(value, list) or not all(
        type(item) is int and 0 <= item <= 255 for item in value
    ):
        raise _wrong(field, repr(value)[:80], "an array of 0 to 255")
    return _bounded(bytes(value), field, most)


def _base64(value: object, field: str, most: int) -> bytes:
    """Read base64url in its one encoding, with padding or without: guests differ in that."""
    try:
        text = value.encode("ascii") if isinstance(value, str) else b"="
        data = base64.urlsafe_b64decode(text.rstrip(b"=") + b"==")
    except (binascii.Error, UnicodeEncodeError):
        data, text = b"", b"="
    padded = base64.urlsafe_b64encode(data)
    if text not in (padded, padded.rstrip(b"=")):
        raise _wrong(field, repr(value)[:80], "base64url")
    return _bounded(data, field, most)


def _pem(text: str) -> bytes:
    """Read the armour of one certificate; what is in it is for its reader."""
    match = _PEM.fullmatch(text)
    try:
        data = binascii.a2b_base64(match[1].replace("\n", ""), strict_mode=True) if match else b""
    except binascii.Error:
        data = b""
    if not data:
        raise _wrong("vcek", repr(text[:40]), "a certificate, PEM")
    return _bounded(data, "vcek", _MAX_VCEK)


def _encoded(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode("ascii")


def _number(text: str) -> int:
    return int.from_bytes(_base64(text, _AK, _MAX_SIGNATURE), "big")


def _bounded(data: bytes, field: str, most: int) -> bytes:
    if len(data) > most:
        raise _wrong(field, f"{len(data)} bytes", f"at most {most}")
    return data


def _constant(cursor: Cursor, field: str, expected: int) -> None:
    found = cursor.integer(4, field)
    if found != expected:
        raise _malformed(field, found, expected)


def _malformed(field: str, found: object, expected: object) -> Malformed:
    return Malformed("not an HCL report", field=f"{_WHAT}: {field}", found=found, expected=expected)


def _wrong(field: str, found: object, expected: object) -> Malformed:
    return Malformed(
        "not what it must be", field=f"Azure evidence: {field}", found=found, expected=expected
    )
