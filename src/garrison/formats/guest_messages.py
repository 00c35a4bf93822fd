"""Evidence in the messages of Google's guest libraries: back to the bytes that were signed.

Sources: `proto/sevsnp.proto` of go-sev-guest 0.15 and `proto/tdx.proto` of go-tdx-guest 0.3.2.
Their tools write a report or quote field by field, in protocol buffers or their text. A message
is described by where its fields stand in the signed form, one after the other: what is missing or
of another size is refused, what is wrong in it the signature shows. Nothing is believed.

`proto/attest.proto` of go-tpm-tools 0.4 has one of these beside quotes of a virtual TPM, whose key
only Google vouches for: the former is taken, and refused if it is not there; the latter are left.
Of Project Oak's evidence (`proto/attestation/evidence.proto`) the first layer's is taken, which is
the hardware's; the layers that stand on it are left.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from garrison.errors import Malformed
from garrison.formats.protobuf import Field, read_bytes, read_text
from garrison.formats.snp import REPORT_SIZE, SIGNED_SIZE

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True, slots=True)
class _Part:
    """A field, and what it is in the signed form.

    Attributes:
        number: its number in the message.
        name: its name.
        size: its bytes in the signed form; 0 for any.
        kind: a number, little-endian; bytes; the processor's signature, which becomes family, model
            and stepping; or the parts of the message in it.
        count: how often it stands.
        optional: whether it may be missing.
    """

    number: int
    name: str
    size: int = 0
    kind: str | tuple[_Part | int, ...] = "bytes"
    count: int = 1
    optional: bool = False


# A number among the parts stands for so many zeros.
_Layout = tuple[_Part | int, ...]


def _number(number: int, name: str, size: int) -> _Part:
    return _Part(number, name, size, "number")


# 56860, table 23; the signature has 512 bytes in the message.
_REPORT: _Layout = (
    _number(1, "version", 4),
    _number(2, "guest_svn", 4),
    _number(3, "policy", 8),
    _Part(4, "family_id", 16),
    _Part(5, "image_id", 16),
    _number(6, "vmpl", 4),
    _number(7, "signature_algo", 4),
    _number(8, "current_tcb", 8),
    _number(9, "platform_info", 8),
    _number(10, "signer_info", 4),
    4,
    _Part(11, "report_data", 64),
    _Part(12, "measurement", 48),
    _Part(13, "host_data", 32),
    _Part(14, "id_key_digest", 48),
    _Part(15, "author_key_digest", 48),
    _Part(16, "report_id", 32),
    _Part(17, "report_id_ma", 32),
    _number(18, "reported_tcb", 8),
    _Part(29, "cpuid1eax_fms", 3, "processor"),
    21,
    _Part(19, "chip_id", 64),
    _number(20, "committed_tcb", 8),
    _number(21, "current_build", 1),
    _number(22, "current_minor", 1),
    _number(23, "current_major", 1),
    1,
    _number(24, "committed_build", 1),
    _number(25, "committed_minor", 1),
    _number(26, "committed_major", 1),
    1,
    _number(27, "launch_tcb", 8),
    _number(30, "launch_mit_vector", 8),
    _number(31, "current_mit_vector", 8),
    152,
    _Part(28, "signature", REPORT_SIZE - SIGNED_SIZE),
)
# Intel's "Quote Generation Library", appendix A, as `garrison.formats.dcap_quote` has it.
_HEADER: _Layout = (
    _number(1, "version", 2),
    _number(2, "attestation_key_type", 2),
    _number(3, "tee_type", 4),
    _Part(5, "pce_svn", 2),
    _Part(4, "qe_svn", 2),
    _Part(6, "qe_vendor_id", 16),
    _Part(7, "user_data", 20),
)
_BODY: _Layout = (
    _Part(1, "tee_tcb_svn", 16),
    _Part(2, "mr_seam", 48),
    _Part(3, "mr_signer_seam", 48),
    _Part(4, "seam_attributes", 8),
    _Part(5, "td_attributes", 8),
    _Part(6, "xfam", 8),
    _Part(7, "mr_td", 48),
    _Part(8, "mr_config_id", 48),
    _Part(9, "mr_owner", 48),
    _Part(10, "mr_owner_config", 48),
    _Part(11, "rtmrs", 48, count=4),
    _Part(12, "report_data", 64),
)
_BODY_V5: _Layout = (
    *_BODY,
    _Part(13, "tee_tcb_svn2", 16, optional=True),
    _Part(14, "mr_service_td", 48, optional=True),
)
_ENCLAVE: _Layout = (
    _Part(1, "cpu_svn", 16),
    _number(2, "misc_select", 4),
    _Part(3, "reserved1", 28),
    _Part(4, "attributes", 16),
    _Part(5, "mr_enclave", 32),
    _Part(6, "reserved2", 32),
    _Part(7, "mr_signer", 32),
    _Part(8, "reserved3", 96),
    _number(9, "isv_prod_id", 2),
    _number(10, "isv_svn", 2),
    _Part(11, "reserved4", 60),
    _Part(12, "report_data", 64),
)
_SIGNED_DATA: _Layout = (
    _Part(1, "signature", 64),
    _Part(2, "ecdsa_attestation_key", 64),
    _Part(
        3,
        "certification_data",
        kind=(
            _number(1, "certificate_data_type", 2),
            _number(2, "size", 4),
            _Part(
                3,
                "qe_report_certification_data",
                kind=(
                    _Part(1, "qe_report", kind=_ENCLAVE),
                    _Part(2, "qe_report_signature", 64),
                    _Part(
                        3,
                        "qe_auth_data",
                        kind=(_number(1, "parsed_data_size", 2), _Part(2, "data", optional=True)),
                    ),
                    _Part(
                        4,
                        "pck_certificate_chain_data",
                        kind=(
                            _number(1, "certificate_data_type", 2),
                            _number(2, "size", 4),
                            _Part(3, "pck_cert_chain"),
                        ),
                    ),
                ),
            ),
        ),
    ),
)
_REST: _Layout = (
    _number(3, "signed_data_size", 4),
    _Part(4, "signed_data", kind=_SIGNED_DATA),
    _Part(5, "extra_bytes", optional=True),
)
_QUOTE_V4: _Layout = (
    _Part(1, "header", kind=_HEADER),
    _Part(2, "td_quote_body", kind=_BODY),
    *_REST,
)
_QUOTE_V5: _Layout = (
    _Part(1, "header", kind=_HEADER),
    _Part(
        2,
        "td_quote_body_descriptor",
        kind=(
            _number(1, "td_quote_body_type", 2),
            _number(2, "td_quote_body_size", 4),
            _Part(3, "td_quote_body_v5", kind=_BODY_V5),
        ),
    ),
    *_REST,
)


def _fields(layout: _Layout) -> dict[int, Field]:
    return {
        part.number: Field(part.name, _kind(part), part.count > 1)
        for part in layout
        if isinstance(part, _Part)
    }


def _kind(part: _Part) -> Any:
    if not isinstance(part.kind, str):
        return _fields(part.kind)
    return "bytes" if part.kind == "bytes" else "number"


# Certificates in the order in which a chain has them; the rest is not looked at.
_CHAIN = {
    1: Field("vcek_cert", "bytes"),
    6: Field("vlek_cert", "bytes"),
    2: Field("ask_cert", "bytes"),
    3: Field("ark_cert", "bytes"),
}
_ATTESTATION: Mapping[int, Field] = {
    1: Field("report", _fields(_REPORT)),
    2: Field(
        "certificate_chain",
        _CHAIN
        | {
            4: Field("firmware_cert", "bytes"),
            7: Field(
                "extras", {1: Field("key", "bytes"), 2: Field("value", "bytes")}, repeated=True
            ),
        },
    ),
    3: Field(
        "product",
        {
            1: Field("name", "enum"),
            2: Field("stepping", "number"),
            3: Field("machine_stepping", {1: Field("value", "number")}),
        },
    ),
}
# go-tpm-tools, `attest.Attestation`, and `tpm.Quote` in it.
_TPM: Mapping[int, Field] = {
    1: Field("ak_pub", "bytes"),
    2: Field(
        "quotes",
        {
            1: Field("quote", "bytes"),
            2: Field("raw_sig", "bytes"),
            3: Field(
                "pcrs",
                {
                    1: Field("hash", "enum"),
                    2: Field(
                        "pcrs",
                        {1: Field("key", "number"), 2: Field("value", "bytes")},
                        repeated=True,
                    ),
                },
            ),
        },
        repeated=True,
    ),
    3: Field("event_log", "bytes"),
    4: Field(
        "instance_info",
        {
            1: Field("zone", "bytes"),
            2: Field("project_id", "bytes"),
            3: Field("project_number", "number"),
            4: Field("instance_name", "bytes"),
            5: Field("instance_id", "number"),
        },
    ),
    5: Field("canonical_event_log", "bytes"),
    6: Field("ak_cert", "bytes"),
    7: Field("intermediate_certs", "bytes", repeated=True),
    8: Field("sev_snp_attestation", _ATTESTATION),
    9: Field("tdx_attestation", _fields(_QUOTE_V4)),
}
# Project Oak, `proto/attestation/evidence.proto` and `eventlog.proto`; the kinds of TEE in it.
_OAK_LOG: Mapping[int, Field] = {2: Field("encoded_events", "bytes", repeated=True)}
_OAK_ROOT: Mapping[int, Field] = {
    1: Field("platform", "enum"),
    2: Field("remote_attestation_report", "bytes"),
    3: Field("eca_public_key", "bytes"),
}
_OAK: Mapping[int, Field] = {
    1: Field("root_layer", _OAK_ROOT),
    2: Field("layers", {1: Field("eca_certificate", "bytes")}, repeated=True),
    3: Field(
        "application_keys",
        {
            1: Field("encryption_public_key_certificate", "bytes"),
            2: Field("signing_public_key_certificate", "bytes"),
            3: Field("group_encryption_public_key_certificate", "bytes"),
            4: Field("group_signing_public_key_certificate", "bytes"),
        },
    ),
    4: Field("event_log", _OAK_LOG),
    5: Field("transparent_event_log", _OAK_LOG),
    7: Field("signed_user_data_certificate", "bytes"),
}
_NAMES = {
    "oak": "oak.attestation.v1.Evidence",
    "tpm": "attest.Attestation",
    "attestation": "sevsnp.Attestation",
    "report": "sevsnp.Report",
    "v4": "tdx.QuoteV4",
    "v5": "tdx.QuoteV5",
}
_MESSAGES: dict[str, Mapping[int, Field]] = {
    "attestation": _ATTESTATION,
    "report": _fields(_REPORT),
    "v4": _fields(_QUOTE_V4),
    "v5": _fields(_QUOTE_V5),
    "tpm": _TPM,
    "oak": _OAK,
}
# How they begin: the tools write fields by number. In bytes, a tag, a length and the tag of a
# version; the message of a report is longer than a length of one byte can tell, a header is not. Of
# a TPM's, its key (TPMT_PUBLIC): RSA or ECC, named by SHA-256. Of Oak's, the platform and a report.
_BINARY = (
    ("oak", re.compile(rb"\x0a(?:[\x04-\x7f]|[\x80-\xff][\x01-\x7f])\x08[\x01-\x03][\x12\x1a]")),
    (
        "tpm",
        re.compile(rb"\x0a(?:[\x10-\x7f]|[\x80-\xff][\x01-\x7f])\0[\x01\x23]\0\x0b", re.DOTALL),
    ),
    ("v4", re.compile(rb"\x0a[\x10-\x7f]\x08\x04")),
    ("v5", re.compile(rb"\x0a[\x10-\x7f]\x08\x05")),
    ("attestation", re.compile(rb"\x0a[\x80-\xff][\x01-\x7f]\x08[\x02-\x0f]")),
    ("report", re.compile(rb"\x08[\x02-\x0f](?:\x10.|\x18)", re.DOTALL)),
)
_TEXT = (
    ("oak", re.compile(rb"(?:\s|#[^\n]*\n)*(?:root_layer|layers)\s*:?\s*[{<]")),
    ("tpm", re.compile(rb"\s*ak_pub\s*:")),
    ("v4", re.compile(rb"\s*header\s*:?\s*[{<]\s*version\s*:\s*4\b")),
    ("v5", re.compile(rb"\s*header\s*:?\s*[{<]\s*version\s*:\s*5\b")),
    ("attestation", re.compile(rb"\s*report\s*:?\s*[{<]\s*version\s*:")),
    ("report", re.compile(rb"\s*version\s*:\s*[0-9]+\s+(?:guest_svn|policy)\s*:")),
)


@dataclass(frozen=True, slots=True)
class Message:
    """What was in a message.

    Attributes:
        name: the message's name.
        evidence: the report or quote, as it was signed.
        certificates: what came beside it as certificates, DER, the signer's first.
    """

    name: str
    evidence: bytes
    certificates: tuple[bytes, ...] = ()


def read_message(data: bytes) -> Message | None:
    """Read a message; None if `data` does not begin like one.

    Raises:
        Malformed: it begins like one, and is none.
    """
    for forms, reader in ((_BINARY, read_bytes), (_TEXT, read_text)):
        for which, beginning in forms:
            if beginning.match(data):
                return _message(which, reader(data, _MESSAGES[which], _NAMES[which]))
    return None


def _message(which: str, value: dict[str, Any]) -> Message:
    name = _NAMES[which]
    if which == "tpm":
        return _beside_a_tpm(value, name)
    if which == "oak":
        return _of_oak(value, name)
    if which == "v4":
        return Message(name, _lay_out(value, _QUOTE_V4, name))
    if which == "v5":
        return Message(name, _lay_out(value, _QUOTE_V5, name))
    if which == "report":
        return Message(name, _lay_out(value, _REPORT, name))
    chain = value.get("certificate_chain", {})
    return Message(
        name,
        _lay_out(value.get("report", {}), _REPORT, f"{name}: report"),
        tuple(chain[each.name] for each in _CHAIN.values() if chain.get(each.name)),
    )


def _beside_a_tpm(value: dict[str, Any], name: str) -> Message:
    """The report or quote in the message of go-tpm-tools; it is bound to its own nonce."""
    forms = {"sev_snp_attestation": "attestation", "tdx_attestation": "v4"}
    there = [each for each in forms if each in value]
    if len(there) != 1:
        raise Malformed(
            "a virtual TPM's attestation of go-tpm-tools, without a TEE's evidence",
            field=name,
            found=" and ".join(there) or "quotes of the TPM alone",
            expected=" or ".join(forms),
            hint="a TPM's key is Google's word: attest with `gotpm attest --tee-technology`",
        )
    inner = _message(forms[there[0]], value[there[0]])
    left = f"{name}, of which the TPM's quotes are not looked at"
    return Message(f"{left}, out of the message {inner.name}", inner.evidence, inner.certificates)


def _of_oak(value: dict[str, Any], name: str) -> Message:
    """What the hardware signed; the layers that stand on it, and their certificates, are left."""
    report = value.get("root_layer", {}).get("remote_attestation_report")
    if not report:
        raise Malformed(
            "no hardware's report in it",
            field=f"{name}: root_layer: remote_attestation_report",
            expected="that of SNP or TDX",
        )
    return Message(f"{name}, of which the layers above the first are not looked at", report)


def _lay_out(value: dict[str, Any], layout: _Layout, what: str) -> bytes:
    return b"".join(
        bytes(part) if isinstance(part, int) else _part(value.get(part.name), part, what)
        for part in layout
    )


def _part(value: Any, part: _Part, what: str) -> bytes:
    field = f"{what}: {part.name}"
    if not isinstance(part.kind, str):
        if value is None:
            raise Malformed("missing", field=field)
        return _lay_out(value, part.kind, field)
    if part.kind == "processor":
        return _processor(value or 0, field)
    if part.kind == "number":
        # What is zero is not written.
        number = value or 0
        if number >> 8 * part.size:
            raise Malformed("too large", field=field, found=number, expected=f"{part.size} bytes")
        return int(number).to_bytes(part.size, "little")
    found = value if part.count > 1 and value else [value or b""]
    if part.optional and found == [b""]:
        return b""
    sizes = [len(each) for each in found]
    if len(found) != part.count or (part.size and set(sizes) != {part.size}):
        raise Malformed(
            "wrong length",
            field=field,
            found=", ".join(map(str, sizes)),
            expected=f"{part.size} bytes" + (f", {part.count} times" if part.count > 1 else ""),
        )
    return b"".join(found)


def _processor(value: int, field: str) -> bytes:
    """Family, model and stepping (AMD APM volume 3, CPUID function 1, EAX)."""
    family = (value >> 8 & 0xF) + (value >> 20 & 0xFF)
    model = (value >> 16 & 0xF) << 4 | value >> 4 & 0xF
    if value & ~0x0FFF0FFF or family > 0xFF:
        raise Malformed("not a processor's signature", field=field, found=f"{value:#x}")
    return bytes((family, model, value & 0xF))
