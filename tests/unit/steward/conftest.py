"""A steward whose one TEE shows the report data it was asked for, and nothing else.

The fake stands at the seam of issuance alone; the true SNP verifier is behind the same seam in
`test_steward_snp.py`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, cast

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from garrison.errors import Rejected, Unavailable
from garrison.formats.csr import build_request
from garrison.formats.evidence import SNP_MEDIA_TYPE, Evidence, Tee, bound_report_data
from garrison.formats.slug import Slug
from garrison.steward import authority, init
from garrison.steward.challenge import Challenges
from garrison.steward.issuance import Steward
from garrison.steward.policy import Policy, TeePolicies

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from garrison.appraisal.result import AttestationResult
    from garrison.formats.csr import EnarxEvidence
    from garrison.formats.identity import WorkloadIdentity
    from garrison.formats.oci_name import Name

NOW = datetime(2026, 3, 1, 12, 0, 0, tzinfo=UTC)
SLUG = Slug.parse("drawbridge.test/jane/chat:1.0.0")
_NAME: Name = SLUG
DIGEST = bytes(range(32))
MEASUREMENT = b"m" * 48


@dataclass(frozen=True)
class FakeResult:
    """What the fake TEE shows."""

    bound: bool
    tee: Tee = Tee.SNP
    measurement: bytes = MEASUREMENT
    tcb_status: str = "UpToDate"
    simulated: bool = False
    claims: Mapping[str, str] = field(default_factory=lambda: {"chip_id": "ab" * 64})
    checks: tuple[()] = ()

    def require(self) -> None:
        if not self.bound:
            raise Rejected("report data", field="evidence")


class FakeAppraiser:
    """Takes evidence for what it is bound to: its payload is the report data."""

    def __init__(self, *, simulated: bool = False) -> None:
        self._simulated = simulated

    def appraise(
        self, evidence: Evidence | EnarxEvidence, expected_report_data: bytes, now: datetime
    ) -> AttestationResult:
        shown = evidence.payload if isinstance(evidence, Evidence) else evidence.der
        return cast(
            "AttestationResult",
            FakeResult(shown == expected_report_data, simulated=self._simulated),
        )


@dataclass
class FakeRegistry:
    """A drawbridge that holds what the test says; None is a drawbridge that is down."""

    digests: dict[Name, bytes] | None = field(default_factory=lambda: {_NAME: DIGEST})
    asked: list[Name] = field(default_factory=list)

    def tag_digest(self, slug: Name) -> bytes:
        self.asked.append(slug)
        if self.digests is None:
            raise Unavailable("cannot be reached", field=slug.host)
        if slug not in self.digests:
            raise Rejected("no such tag", field="slug", found=slug)
        return self.digests[slug]


class Keep:
    """A keep under test: its key, and requests that it can make."""

    def __init__(self, curve: ec.EllipticCurve | None = None) -> None:
        self.key = ec.generate_private_key(curve or ec.SECP384R1())

    @property
    def spki(self) -> bytes:
        return self.key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)

    def evidence(self, challenge: bytes) -> Evidence:
        return Evidence(SNP_MEDIA_TYPE, bound_report_data(self.spki, challenge))

    def request(
        self, steward: Steward, workload: WorkloadIdentity | None = None, **more: Any
    ) -> bytes:
        challenge = steward.challenges.issue(NOW).challenge
        parts = {"evidence": self.evidence(challenge), "challenge": challenge, **more}
        return build_request(self.key, workload=workload, **parts)


@pytest.fixture(scope="session")
def keep() -> Keep:
    return Keep()


@pytest.fixture(scope="session")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("authority") / "steward"
    init.create(path, trust_domain="example.test", hosts=["localhost"], now=NOW)
    return path


@pytest.fixture
def steward(directory: Path) -> Steward:
    loaded = authority.Authority.load(directory)
    policy = Policy(
        trust_domain="example.test",
        challenge_required=True,
        lifetime=timedelta(minutes=60),
        dns_names=("chat.example.test", "www.example.test"),
        drawbridges={"drawbridge.test": None},
        local_workloads=False,
        tees=TeePolicies(),
    )
    return Steward(loaded, policy, Challenges(loaded.challenge_key), {Tee.SNP: FakeAppraiser()})
