"""What is taken for evidence and is none, told to who holds it: what it is, and where it belongs.

Certificates, revocation lists, keys, Intel's collateral, logs, and the reports that never leave
their machine. It only ever refuses, so nothing here has to be certain.
"""

from __future__ import annotations

import json
import re

from garrison.errors import Malformed
from garrison.formats.snp_certificate import load_certificate, load_crl
from garrison.steward.offline_forms import certificates_in, is_azure, is_collateral

_ENDORSEMENT = "give it with --certificate or --endorsements, beside the evidence"
_PEM = re.compile(rb"\s*-----BEGIN ([A-Z0-9 ]+)-----")
# Intel TDX module 1.5 ABI, "TDREPORT_STRUCT": type 81h, 1024 bytes.
_TD_REPORT, _TD_REPORT_SIZE = b"\x81\0", 1024
_BEGINNINGS = (
    (
        re.compile(rb"eyJ[A-Za-z0-9_-]+\."),
        "a JSON web token",
        "it is what somebody said of evidence",
    ),
    (re.compile(rb"CCEL"), "the ACPI table of an event log", "the log itself is in another file"),
    (
        re.compile(rb"(?s).{32}Spec ID Event03\0"),
        "an event log",
        "put it beside a TD's quote, in a directory, as ccel_data.bin",
    ),
    (
        re.compile(rb"\xff\x54\x43\x47\x80\x18"),
        "a TPM's quote by itself",
        "Azure's evidence has it with the paravisor's report, in JSON",
    ),
    # Versions 1 and 2, whose service Intel has ended.
    (re.compile(rb"[\x01\x02]\0[\x00\x01]\0"), "a quote of EPID's", "use DCAP's quotes"),
)


def refuse_mistaken(data: bytes) -> None:
    """Refuse what is known to be no evidence; whatever else it is, the caller says.

    Raises:
        Malformed: it is known.
    """
    for what, hint in _known(data):
        raise Malformed(
            f"{what}, and no evidence", field="evidence", found=f"{len(data)} bytes", hint=hint
        )


def _known(data: bytes) -> list[tuple[str, str]]:
    if data[:1] == b"\x30":
        for read, what in ((load_certificate, "a certificate"), (load_crl, "a revocation list")):
            try:
                read(data, "evidence")
            except Malformed:
                continue
            return [(what, _ENDORSEMENT)]
    armour = _PEM.match(data)
    if armour is not None:
        name = armour[1].decode()
        if name in {"CERTIFICATE", "X509 CRL"}:
            one = name == "CERTIFICATE" and data.count(b"-----BEGIN") == 1
            return [("a certificate" if one else "certificates or revocation lists", _ENDORSEMENT)]
        return [(f"PEM of a {name}", "a key signs evidence, and is none")]
    if len(data) == _TD_REPORT_SIZE and data.startswith(_TD_REPORT):
        return [("a TDREPORT", "only its own machine can verify it: have it quoted")]
    if data.lstrip()[:1] in (b"{", b"["):
        return _known_json(data)
    return [(what, hint) for beginning, what, hint in _BEGINNINGS if beginning.match(data)][:1]


def _known_json(data: bytes) -> list[tuple[str, str]]:
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        return []
    if isinstance(value, list) and any(isinstance(each, dict) and "pkey" in each for each in value):
        return [("keys of CCA platforms", "give them with --trust-anchors, beside the token")]
    if not isinstance(value, dict) or is_azure(value):
        return []
    if is_collateral(value):
        return [("Intel's collateral", "give it with --collateral or --endorsements")]
    return [("certificates in JSON", _ENDORSEMENT)] if certificates_in(value) else []
