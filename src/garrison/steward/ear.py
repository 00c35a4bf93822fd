"""EAT attestation results: what a steward says, signed, of evidence that it issues nothing for.

A relying party sends evidence and the report data that it must be bound to, and gets a JWT
(draft-ietf-rats-ear-04) with every check of the steward's policy and the trustworthiness
vector (draft-ietf-rats-ar4si). Evidence that cannot be read, or is not genuine, gets no
result at all: that is an error. A claim of the vector is made from the checks of its kind:

===================  ===========================================================================
`instance-identity`  96 if the evidence is bound to something else, or is of a chip, or shows
                     something, that the policy denies or does not list; 2 if the policy lists
                     chips and this is one of them; else absent
`executables`        96 if a measurement or a signer fails; 3 if a launch measurement that the
                     policy lists was found; else absent: a policy of "any" recognizes nothing
`hardware`           97 if a simulated root vouches for it; 96 if the platform or its TCB fails;
                     32 if the vendor calls the TCB anything but up to date, and the policy
                     admits that; 2 if it is genuine
`runtime-opaque`     96 if the host may debug what runs, or a CCA platform is not secured,
                     admitted or not; 2 if it may not
`configuration`      96 if any other check fails; else 2
===================  ===========================================================================

The status is `contraindicated` if one check failed, else the tier of the worst claim.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

from garrison import __version__
from garrison.appraisal.reference import ANY
from garrison.errors import Malformed
from garrison.formats import cmw
from garrison.formats.cca import Lifecycle
from garrison.formats.evidence import REPORT_DATA_SIZE, Evidence
from garrison.steward.authority import hash_for
from garrison.steward.issuance import appraiser_for, counted

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime

    from garrison.appraisal.result import AttestationResult
    from garrison.formats.evidence import Tee
    from garrison.steward.authority import Authority
    from garrison.steward.issuance import Steward

PROFILE = "tag:ietf.org,2026:rats/ear#04"
MEDIA_TYPE = f'application/eat+jwt; eat_profile="{PROFILE}"'
# draft-ietf-rats-msg-wrap: a record in CBOR. Any other type is that of the evidence itself.
CMW_MEDIA_TYPE = "application/cmw+cbor"

# RFC 9711, section 4.1: a nonce has 8 to 64 bytes; in base64url, 11 to 86 characters.
_NONCE = re.compile(r"[A-Za-z0-9_-]{11,86}")
_NONCE_SIZES = range(8, 65)
_REPORT_DATA = re.compile(rf"[0-9A-Fa-f]{{{2 * REPORT_DATA_SIZE}}}")

_MEASUREMENTS = ("launch measurement", "MRENCLAVE", "MRTD", "PCR0", "realm initial measurement")
_EXECUTABLES = re.compile(
    r"launch measurement|MRENCLAVE|MRTD|MRSERVICETD|signer|(RTMR|PCR)\d+"
    r"|(identity|author) key digest|realm (initial|extensible) measurement.*"
)
_HARDWARE = re.compile(
    r"product|reported TCB version|committed firmware ABI|revocation list|TCB status|advisories"
    r"|TCB evaluation|QE identity|MRSEAM|platform .*"
)
_IDENTITY = re.compile(r"chip|report data|user data|realm challenge|TPM quote's nonce|deny list")
_DEBUG = re.compile(r"debug mode|.*debugging by the host|TD attributes: DEBUG|platform lifecycle")
# Of a CCA platform one state alone rules it out.
_NOT_DEBUGGED = ("no", "not allowed", Lifecycle.SECURED)
_ALGORITHMS = {"P-256": "ES256", "P-384": "ES384"}


@dataclass(frozen=True, slots=True)
class Question:
    """What a relying party asks.

    Attributes:
        evidence: the evidence.
        report_data: what it must be bound to, 64 bytes.
        nonce: what the result is to echo, so that it is known to be new; base64url.
    """

    evidence: Evidence
    report_data: bytes
    nonce: str | None

    @classmethod
    def read(cls, media_type: str | None, body: bytes, query: Mapping[str, str]) -> Question:
        """Read a request.

        Args:
            media_type: of the body: of a CMW record, or of bare evidence.
            body: the evidence.
            query: `report_data`, in hex; `nonce`, base64url without padding, may be absent.

        Raises:
            Malformed: it is anything else.
        """
        unknown = sorted(set(query) - {"report_data", "nonce"})
        if unknown:
            raise Malformed("unknown", field="query parameter", found=repr(unknown[0][:100]))
        report_data, nonce = query.get("report_data", ""), query.get("nonce")
        if _REPORT_DATA.fullmatch(report_data) is None:
            raise Malformed(
                "not 64 bytes in hex",
                field="query parameter report_data",
                found=repr(report_data[:140]) if report_data else "nothing",
                expected="what the evidence must be bound to",
                hint="without it, evidence that was made for somebody else would pass",
            )
        if nonce is not None and not _is_nonce(nonce):
            raise Malformed(
                "not 8 to 64 bytes in base64url without padding",
                field="query parameter nonce",
                found=repr(nonce[:100]),
            )
        if media_type is None or "/" not in media_type:
            raise Malformed(
                "no media type", field="Content-Type", expected=f"{CMW_MEDIA_TYPE}, or evidence's"
            )
        evidence = cmw.decode(body) if media_type == CMW_MEDIA_TYPE else Evidence(media_type, body)
        return cls(evidence, bytes.fromhex(report_data), nonce)


def appraise(question: Question, steward: Steward, now: datetime) -> tuple[Tee, AttestationResult]:
    """Verify the evidence, and hold it to the steward's policy and deny list.

    Returns:
        What it is evidence of, as a certificate would name it, and the result.

    Raises:
        Malformed: it cannot be read.
        Unverified: it is not genuine.
        Rejected: the policy does not speak of this TEE.
        Unavailable: the vendor's endorsements cannot be had.
    """
    tee, appraiser = appraiser_for(question.evidence, steward)
    result = counted(appraiser, tee, question.evidence, question.report_data, now)
    return tee, steward.policy.deny.judge(result)


def claims_set(
    question: Question, tee: Tee, result: AttestationResult, steward: Steward, now: datetime
) -> dict[str, object]:
    """The result as EAR's claims; `tee` and `result` are what `appraise` gave."""
    vector = trustworthiness(result)
    issued = int(now.timestamp())
    appraisal = {
        "ear_status": status(result, vector),
        "ear_trustworthiness_vector": vector,
        "eat_nonce": _base64url(question.report_data),
        "ear_attester_claims": {
            "tee": tee.value,
            # Azure's paravisor is in a TEE that signs for it.
            **({} if tee is result.tee else {"hardware": result.tee.value}),
            "measurement": result.measurement.hex(),
            **result.claims,
        },
        "ear_verifier_claims": {
            "tcb_status": result.tcb_status,
            "simulated": result.simulated,
            "checks": [check.as_json() | {"passed": check.passed} for check in result.checks],
            "evidence_sha256": hashlib.sha256(question.evidence.payload).hexdigest(),
        },
    }
    claims: dict[str, object] = {
        "eat_profile": PROFILE,
        "iss": f"spiffe://{steward.authority.trust_domain}/steward",
        "iat": issued,
        "exp": issued + int(steward.policy.lifetime.total_seconds()),
        "ear_status": appraisal["ear_status"],
        "ear_verifier_id": {"developer": "garrison", "build": f"garrison {__version__}"},
        "submods": {tee.value: appraisal},
    }
    return claims if question.nonce is None else claims | {"eat_nonce": question.nonce}


def trustworthiness(result: AttestationResult) -> dict[str, int]:
    """The trustworthiness vector; a claim that cannot be made is absent."""
    checks = result.checks

    def failed(kind: re.Pattern[str]) -> bool:
        return any(not check.passed for check in checks if kind.fullmatch(check.name))

    def recognized(names: Sequence[str]) -> bool:
        return any(check.passed and check.wanted != ANY for check in checks if check.name in names)

    vector = {}
    if failed(_IDENTITY):
        vector["instance-identity"] = 96
    elif recognized(("chip",)):
        vector["instance-identity"] = 2
    if failed(_EXECUTABLES):
        vector["executables"] = 96
    elif recognized(_MEASUREMENTS):
        vector["executables"] = 3
    if result.simulated:
        vector["hardware"] = 97
    elif failed(_HARDWARE):
        vector["hardware"] = 96
    else:
        vector["hardware"] = 2 if result.tcb_status in ("UpToDate", "Unchecked") else 32
    debug = [check.found in _NOT_DEBUGGED for check in checks if _DEBUG.fullmatch(check.name)]
    if debug:
        vector["runtime-opaque"] = 2 if all(debug) else 96
    kinds = (_IDENTITY, _EXECUTABLES, _HARDWARE, _DEBUG)
    others = [check for check in checks if not any(kind.fullmatch(check.name) for kind in kinds)]
    if others:
        vector["configuration"] = 2 if all(check.passed for check in others) else 96
    return vector


def status(result: AttestationResult, vector: Mapping[str, int]) -> str:
    """The tier of the whole: no better than the worst claim, nor than the policy's verdict."""
    worst = max(vector.values(), default=0)
    if worst >= 96 or not all(check.passed for check in result.checks):
        return "contraindicated"
    return "warning" if worst >= 32 else "affirming"


def sign(claims: Mapping[str, object], authority: Authority, kind: str = "JWT") -> str:
    """`claims` as a JWT of type `kind`, by the authority's key for results.

    That key signs no certificate; what else it signs has another type.
    """
    private = authority.issuer.result_key
    key = jwk(private.public_key())
    header = {"alg": key["alg"], "kid": key["kid"], "typ": kind}
    parts = (json.dumps(part, separators=(",", ":")).encode() for part in (header, claims))
    signed = ".".join(map(_base64url, parts))
    signature = private.sign(signed.encode(), ec.ECDSA(hash_for(private)))
    size = (private.curve.key_size + 7) // 8
    numbers = b"".join(one.to_bytes(size, "big") for one in decode_dss_signature(signature))
    return f"{signed}.{_base64url(numbers)}"


def jwk(verifier: ec.EllipticCurvePublicKey) -> dict[str, str]:
    """A public key that verifies results (RFC 7517); `kid` is its thumbprint (RFC 7638)."""
    public = verifier.public_numbers()
    size = (public.curve.key_size + 7) // 8
    key = {
        "crv": f"P-{public.curve.key_size}",
        "kty": "EC",
        "x": _base64url(public.x.to_bytes(size, "big")),
        "y": _base64url(public.y.to_bytes(size, "big")),
    }
    # RFC 7638, section 3: these members, in this order, without blanks.
    thumbprint = hashlib.sha256(json.dumps(key, separators=(",", ":")).encode()).digest()
    algorithm = _ALGORITHMS[key["crv"]]
    return key | {"alg": algorithm, "kid": _base64url(thumbprint), "use": "sig"}


def _is_nonce(text: str) -> bool:
    if _NONCE.fullmatch(text) is None or len(text) % 4 == 1:
        return False
    data = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
    # One encoding only: no bits beside the bytes.
    return len(data) in _NONCE_SIZES and _base64url(data) == text


def _base64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode("ascii")
