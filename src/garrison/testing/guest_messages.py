"""The messages of Google's guest libraries, written: what `garrison.formats.guest_messages` reads.

A message is written from a list of fields: number, name, and a number, bytes, or a list of fields.
What is zero is not written, as in the third version of protocol buffers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from garrison.formats.snp import Report

if TYPE_CHECKING:
    from garrison.formats.snp_evidence import SnpEndorsements

Fields = list[tuple[int, str, Any]]

_CURRENT = ("current_build", "current_minor", "current_major")
_COMMITTED = ("committed_build", "committed_minor", "committed_major")


def _varint(value: int) -> bytes:
    written = bytearray()
    while value > 0x7F:
        written.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes((*written, value))


def binary(fields: Fields) -> bytes:
    """Write a message in bytes."""
    written = b""
    for number, _, value in fields:
        if isinstance(value, int):
            written += _varint(number << 3) + _varint(value) if value else b""
        else:
            inner = binary(value) if isinstance(value, list) else value
            written += _varint(number << 3 | 2) + _varint(len(inner)) + inner
    return written


def text(fields: Fields) -> bytes:
    """Write a message as text."""
    written = b""
    for _, name, value in fields:
        if isinstance(value, int):
            written += f"{name}:{value} ".encode() if value else b""
        elif isinstance(value, bytes):
            escaped = "".join(f"\\x{byte:02x}" for byte in value)
            written += f'{name}:"{escaped}"  '.encode()
        else:
            written += name.encode() + b":{" + text(value) + b"} "
    return written


def report_fields(raw: bytes) -> Fields:
    """The fields of `sevsnp.Report`, of a report."""
    found, processor = Report.from_bytes(raw).cpuid, 0
    if found is not None:
        model = (found.model >> 4) << 16 | (found.model & 0xF) << 4
        processor = (found.family - 0xF) << 20 | 0xF << 8 | model | found.stepping

    def number(at: int, size: int) -> int:
        return int.from_bytes(raw[at : at + size], "little")

    return [
        (1, "version", number(0, 4)),
        (2, "guest_svn", number(4, 4)),
        (3, "policy", number(8, 8)),
        (4, "family_id", raw[0x10:0x20]),
        (5, "image_id", raw[0x20:0x30]),
        (6, "vmpl", number(0x30, 4)),
        (7, "signature_algo", number(0x34, 4)),
        (8, "current_tcb", number(0x38, 8)),
        (9, "platform_info", number(0x40, 8)),
        (10, "signer_info", number(0x48, 4)),
        (11, "report_data", raw[0x50:0x90]),
        (12, "measurement", raw[0x90:0xC0]),
        (13, "host_data", raw[0xC0:0xE0]),
        (14, "id_key_digest", raw[0xE0:0x110]),
        (15, "author_key_digest", raw[0x110:0x140]),
        (16, "report_id", raw[0x140:0x160]),
        (17, "report_id_ma", raw[0x160:0x180]),
        (18, "reported_tcb", number(0x180, 8)),
        (19, "chip_id", raw[0x1A0:0x1E0]),
        (20, "committed_tcb", number(0x1E0, 8)),
        *((21 + index, name, raw[0x1E8 + index]) for index, name in enumerate(_CURRENT)),
        *((24 + index, name, raw[0x1EC + index]) for index, name in enumerate(_COMMITTED)),
        (27, "launch_tcb", number(0x1F0, 8)),
        (28, "signature", raw[0x2A0:]),
        (29, "cpuid1eax_fms", processor),
        (30, "launch_mit_vector", number(0x1F8, 8)),
        (31, "current_mit_vector", number(0x200, 8)),
    ]


def attestation_fields(raw: bytes, chain: SnpEndorsements) -> Fields:
    """The fields of `sevsnp.Attestation`, of a report and its chain."""
    return [
        (1, "report", report_fields(raw)),
        (
            2,
            "certificate_chain",
            [
                (1, "vcek_cert", chain.leaf),
                (2, "ask_cert", chain.issuer),
                (3, "ark_cert", chain.root),
                (7, "extras", [(1, "key", b"guid"), (2, "value", b"more")]),
                (7, "extras", [(1, "key", b"other"), (2, "value", b"")]),
            ],
        ),
        (3, "product", [(1, "name", 1), (3, "machine_stepping", [(1, "value", 1)])]),
    ]


def quote_fields(raw: bytes, version: int) -> Fields:
    """The fields of `tdx.QuoteV4` or `tdx.QuoteV5`, of a quote with a report body of TDX 1.0."""

    def number(at: int, size: int) -> int:
        return int.from_bytes(raw[at : at + size], "little")

    header = [
        (1, "version", number(0, 2)),
        (2, "attestation_key_type", number(2, 2)),
        (3, "tee_type", number(4, 4)),
        (4, "qe_svn", raw[10:12]),
        (5, "pce_svn", raw[8:10]),
        (6, "qe_vendor_id", raw[12:28]),
        (7, "user_data", raw[28:48]),
    ]
    at = 48 if version == 4 else 54
    sizes = (16, 48, 48, 8, 8, 8, 48, 48, 48, 48)
    names = (
        *("tee_tcb_svn", "mr_seam", "mr_signer_seam", "seam_attributes", "td_attributes", "xfam"),
        *("mr_td", "mr_config_id", "mr_owner", "mr_owner_config"),
    )
    body: Fields = []
    for index, (name, size) in enumerate(zip(names, sizes, strict=True), 1):
        body.append((index, name, raw[at : at + size]))
        at += size
    body += [(11, "rtmrs", raw[at + 48 * index : at + 48 * index + 48]) for index in range(4)]
    at += 192
    body.append((12, "report_data", raw[at : at + 64]))
    at += 64
    size = number(at, 4)
    signed, rest = raw[at + 4 : at + 4 + size], raw[at + 4 + size :]
    report, auth_size = signed[134 : 134 + 384], int.from_bytes(signed[582:584], "little")
    chain = signed[584 + auth_size :]
    enclave = [
        (1, "cpu_svn", report[:16]),
        (2, "misc_select", int.from_bytes(report[16:20], "little")),
        (3, "reserved1", report[20:48]),
        (4, "attributes", report[48:64]),
        (5, "mr_enclave", report[64:96]),
        (6, "reserved2", report[96:128]),
        (7, "mr_signer", report[128:160]),
        (8, "reserved3", report[160:256]),
        (9, "isv_prod_id", int.from_bytes(report[256:258], "little")),
        (10, "isv_svn", int.from_bytes(report[258:260], "little")),
        (11, "reserved4", report[260:320]),
        (12, "report_data", report[320:]),
    ]
    certification = [
        (1, "qe_report", enclave),
        (2, "qe_report_signature", signed[518:582]),
        (
            3,
            "qe_auth_data",
            [(1, "parsed_data_size", auth_size), (2, "data", signed[584 : 584 + auth_size])],
        ),
        (
            4,
            "pck_certificate_chain_data",
            [
                (1, "certificate_data_type", int.from_bytes(chain[:2], "little")),
                (2, "size", int.from_bytes(chain[2:6], "little")),
                (3, "pck_cert_chain", chain[6:]),
            ],
        ),
    ]
    signature = [
        (1, "signature", signed[:64]),
        (2, "ecdsa_attestation_key", signed[64:128]),
        (
            3,
            "certification_data",
            [
                (1, "certificate_data_type", int.from_bytes(signed[128:130], "little")),
                (2, "size", int.from_bytes(signed[130:134], "little")),
                (3, "qe_report_certification_data", certification),
            ],
        ),
    ]
    described = [
        (1, "td_quote_body_type", number(48, 2)),
        (2, "td_quote_body_size", number(50, 4)),
        (3, "td_quote_body_v5", body),
    ]
    return [
        (1, "header", header),
        (2, "td_quote_body", body) if version == 4 else (2, "td_quote_body_descriptor", described),
        (3, "signed_data_size", size),
        (4, "signed_data", signature),
        *([(5, "extra_bytes", rest)] if rest else []),
    ]


def tpm_fields(*tees: tuple[int, str, Fields]) -> Fields:
    """The fields of go-tpm-tools' `attest.Attestation`: quotes of a TPM, and what `tees` are."""
    register = [(1, "key", 4), (2, "value", bytes(32))]
    pcrs = [(1, "hash", 11), (2, "pcrs", register[1:]), (2, "pcrs", register)]
    quote = [(1, "quote", b"\xffTCG"), (2, "raw_sig", b"\0\x14"), (3, "pcrs", pcrs)]
    instance = [(1, "zone", b"zone"), (2, "project_id", b"project"), (3, "project_number", 7)]
    return [
        (1, "ak_pub", b"\0\x01\0\x0b" + bytes(276)),
        (2, "quotes", quote),
        (2, "quotes", quote),
        (3, "event_log", bytes(300)),
        (4, "instance_info", instance),
        (6, "ak_cert", b"\x30"),
        (7, "intermediate_certs", b"\x30"),
        *tees,
    ]
