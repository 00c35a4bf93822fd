"""The names of TEEs and the envelope of evidence, the same for all of them.

Evidence travels as a pair of media type and bytes (a RATS conceptual message). What the
bytes are is said by the media type, and read by the module of that TEE.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from enum import StrEnum


class Tee(StrEnum):
    """The kinds of evidence. `NONE` is a keep outside any TEE: it has no evidence at all."""

    NONE = "none"
    KVM = "kvm"
    SNP = "snp"
    TDX = "tdx"
    SGX = "sgx"
    NITRO = "nitro"
    CCA = "cca"
    # A VM behind Azure's paravisor, on SNP or TDX, which measure the paravisor alone.
    AZURE = "azure"


# CBOR map: "report" (bytes, the attestation report as the firmware returned it) and
# "certificates" (a list of DER certificates, leaf first, as far as the host had them).
SNP_MEDIA_TYPE = "application/vnd.garrison.snp-evidence.v1+cbor"

# A quote as the platform made it, with its PCK chain inside.
SGX_MEDIA_TYPE = "application/vnd.garrison.sgx-quote.v1"
TDX_MEDIA_TYPE = "application/vnd.garrison.tdx-quote.v1"
# The token (a CBOR collection) as the realm manager returned it.
CCA_MEDIA_TYPE = "application/vnd.garrison.cca-token.v1+cbor"

# What a TEE's report data can hold (SNP, TDX and SGX: 64 bytes; Nitro's user data is longer).
REPORT_DATA_SIZE = 64
_WORKLOAD_REPORT = b"garrison: asked for by a workload\0"


@dataclass(frozen=True, slots=True)
class Evidence:
    """What the attester obtained: `payload` (bytes) as `media_type` says."""

    media_type: str
    payload: bytes


def workload_report_data(digest: bytes, data: bytes) -> bytes:
    """The report data (64 bytes) that binds what a workload asks for to its keep's evidence.

    The keep that is measured says which workload asks; another cannot have it say so. What stands
    in front keeps this apart from what a steward binds, which begins with a key in DER (0x30):
    nothing that a workload asks for can be taken for a request of a certificate.

    Args:
        digest: the workload's digest, SHA-256.
        data: what the workload asks for, any bytes.
    """
    return hashlib.sha512(_WORKLOAD_REPORT + digest + data).digest()


def bound_report_data(spki: bytes, challenge: bytes) -> bytes:
    """The report data (64 bytes) that binds a key, and a steward's challenge, to evidence.

    Args:
        spki: the key's SubjectPublicKeyInfo, DER.
        challenge: the steward's challenge, as it gave it.
    """
    return hashlib.sha512(spki + challenge).digest()
