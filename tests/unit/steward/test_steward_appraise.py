"""`POST /appraise`: signed attestation results, verified as a relying party would, by PyJWT."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import jwt
import pytest
from tests.unit.steward.conftest import MEASUREMENT, NOW, FakeRegistry
from tests.unit.steward.test_steward_http import Answer, ask_app

from garrison.appraisal.result import AttestationResult, Check
from garrison.appraisal.snp import SnpPolicy
from garrison.attesters.simulated_snp_insecure import SimulatedSnpInsecure, create_insecure
from garrison.endorsements.source import EndorsementSource, Settings
from garrison.formats import cmw
from garrison.formats.csr import MAX_REQUEST
from garrison.formats.evidence import Evidence, Tee
from garrison.formats.strict_toml import Table
from garrison.service.requests import Requests
from garrison.steward import ear
from garrison.steward.appraisers import SnpAppraiser
from garrison.steward.deny import Deny
from garrison.steward.http import application
from garrison.steward.issuance_log import IssuanceLog

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime
    from pathlib import Path

    from garrison.steward.issuance import Steward

REPORT_DATA = bytes(range(64))
NONCE = base64.urlsafe_b64encode(b"a nonce of a relying party").rstrip(b"=").decode()
Post = Any


@pytest.fixture(scope="module")
def simulator(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("vendor") / "simulator"
    create_insecure(directory, name="demo", now=NOW)
    return directory


@pytest.fixture
def evidence(simulator: Path) -> Evidence:
    return SimulatedSnpInsecure.open(simulator, measurement=MEASUREMENT).attest(REPORT_DATA)


@pytest.fixture
def simulated(steward: Steward, simulator: Path) -> Steward:
    key = json.loads((simulator / "simulator.json").read_text())["key_sha256"]
    table = Table.parse(
        f"""measurements = ["{MEASUREMENT.hex()}"]
products = "any"
minimum_tcb = "any"
id_key_digests = "any"
author_key_digests = "any"
host_data = "any"
chip_ids = "any"
endorsements = []
[insecure_simulated_roots.demo]
key_sha256 = "{key}"
endorsements = "{simulator}"
""",
        source="policy",
    )
    policy = SnpPolicy.from_table(table, simulator)
    appraiser = SnpAppraiser(policy, EndorsementSource(Settings(), policy.endorsements))
    return replace(steward, appraisers={Tee.SNP: appraiser})


def poster(
    steward: Steward, log: IssuanceLog | None = None, now: datetime = NOW
) -> Callable[..., Answer]:
    app = application(steward, FakeRegistry(), clock=lambda: now, issuance_log=log)

    async def with_query(scope: Any, receive: Any, send: Any) -> None:
        path, _, query = scope["path"].partition("?")
        await app(scope | {"path": path, "query_string": query.encode()}, receive, send)

    def post(
        body: bytes,
        media_type: str | None = ear.CMW_MEDIA_TYPE,
        path: str = "/appraise",
        **more: str,
    ) -> Answer:
        query = "&".join(f"{key}={value}" for key, value in more.items())
        headers = {} if media_type is None else {"Content-Type": media_type}
        return asyncio.run(ask_app(Requests(with_query), "POST", f"{path}?{query}", headers, body))

    return post


def keys(steward: Steward) -> jwt.PyJWKSet:
    app = application(steward, FakeRegistry(), clock=lambda: NOW)
    answer = asyncio.run(ask_app(app, "GET", "/jwks", {}, b""))
    assert answer.headers["content-type"] == "application/jwk-set+json"
    return jwt.PyJWKSet.from_json(answer.body.decode())


def opened(steward: Steward, answer: Answer) -> dict[str, Any]:
    """The claims, as a relying party gets them: by the published key, and that alone."""
    assert (answer.status, answer.headers["content-type"]) == (200, ear.MEDIA_TYPE)
    token = answer.body.decode()
    key = keys(steward)[jwt.get_unverified_header(token)["kid"]]
    # The tests' time is not the clock's.
    options: Any = {"verify_exp": False, "verify_iat": False, "require": ["iss", "iat", "exp"]}
    claims: dict[str, Any] = jwt.decode(
        token,
        key,
        algorithms=["ES384"],
        issuer="spiffe://example.test/steward",
        options=options,
    )
    return claims


@pytest.mark.parametrize("wrapped", [True, False], ids=["cmw", "bare"])
def test_genuine_evidence_gets_a_signed_result_of_every_check(
    simulated: Steward, evidence: Evidence, *, wrapped: bool
) -> None:
    post = poster(simulated)
    body, media_type = (
        (cmw.encode(evidence), ear.CMW_MEDIA_TYPE)
        if wrapped
        else (evidence.payload, evidence.media_type)
    )
    claims = opened(simulated, post(body, media_type, report_data=REPORT_DATA.hex(), nonce=NONCE))
    assert claims["eat_profile"] == "tag:ietf.org,2026:rats/ear#04"
    assert claims["eat_nonce"] == NONCE
    assert (claims["iat"], claims["exp"]) == (NOW.timestamp(), NOW.timestamp() + 3600)
    submod = claims["submods"]["snp"]
    assert base64.urlsafe_b64decode(submod["eat_nonce"] + "==") == REPORT_DATA
    assert submod["ear_attester_claims"]["measurement"] == MEASUREMENT.hex()
    verifier = submod["ear_verifier_claims"]
    assert verifier["evidence_sha256"] == hashlib.sha256(evidence.payload).hexdigest()
    assert [check["check"] for check in verifier["checks"]][:2] == [
        "report data",
        "launch measurement",
    ]
    assert all(check["passed"] for check in verifier["checks"])
    # All checks passed, and nothing stands behind a simulated vendor.
    assert verifier["simulated"] is True
    assert claims["ear_status"] == submod["ear_status"] == "contraindicated"
    assert submod["ear_trustworthiness_vector"] == {
        "executables": 3,
        "hardware": 97,
        "runtime-opaque": 2,
        "configuration": 2,
    }


def test_evidence_that_was_made_for_somebody_else_is_contraindicated(
    simulated: Steward, evidence: Evidence
) -> None:
    answer = poster(simulated)(cmw.encode(evidence), report_data="00" * 64)
    submod = opened(simulated, answer)["submods"]["snp"]
    (failed,) = [one for one in submod["ear_verifier_claims"]["checks"] if not one["passed"]]
    assert (failed["check"], failed["found"]) == ("report data", REPORT_DATA.hex())
    assert submod["ear_trustworthiness_vector"]["instance-identity"] == 96
    assert "eat_nonce" not in opened(simulated, answer)


def test_what_the_policy_denies_is_a_failed_check(simulated: Steward, evidence: Evidence) -> None:
    policy = replace(simulated.policy, deny=Deny(measurements=(MEASUREMENT.hex(),)))
    denying = replace(simulated, policy=policy)
    answer = poster(denying)(cmw.encode(evidence), report_data=REPORT_DATA.hex())
    submod = opened(denying, answer)["submods"]["snp"]
    assert submod["ear_verifier_claims"]["checks"][-1]["check"] == "deny list"
    assert submod["ear_trustworthiness_vector"]["instance-identity"] == 96


def test_changed_evidence_gets_a_problem_and_no_result(
    simulated: Steward, evidence: Evidence
) -> None:
    payload = bytearray(evidence.payload)
    # Inside the report, in what the firmware signed.
    at = evidence.payload.index(MEASUREMENT)
    payload[at] ^= 1
    answer = poster(simulated)(bytes(payload), evidence.media_type, report_data=REPORT_DATA.hex())
    assert answer.status == 400
    assert json.loads(answer.body)["title"] == "unverified"


@pytest.mark.parametrize(
    ("more", "field"),
    [
        pytest.param({}, "report_data", id="no report data"),
        pytest.param({"report_data": "00" * 63}, "report_data", id="short report data"),
        pytest.param({"report_data": "00" * 64, "nonce": "AAAA"}, "nonce", id="short nonce"),
        pytest.param({"report_data": "00" * 64, "nonce": "A" * 87}, "nonce", id="long nonce"),
        pytest.param({"report_data": "00" * 64, "nonce": "A" * 10 + "B"}, "nonce", id="stray bits"),
        pytest.param({"report_data": "00" * 64, "policy": "x"}, "policy", id="unknown"),
        pytest.param({"report_data": "00" * 64 + "&nonce=A&nonce=B"}, "twice", id="twice"),
    ],
)
def test_wrong_questions_are_malformed(
    simulated: Steward, evidence: Evidence, more: dict[str, str], field: str
) -> None:
    answer = poster(simulated)(cmw.encode(evidence), **more)
    assert answer.status == 400
    problem = json.loads(answer.body)
    assert problem["title"] == "malformed"
    assert field in problem["detail"]


@pytest.mark.parametrize(
    ("body", "media_type", "status", "title"),
    [
        pytest.param(b"", ear.CMW_MEDIA_TYPE, 400, "malformed", id="nothing"),
        pytest.param(b"x", None, 400, "malformed", id="no type"),
        pytest.param(b"x", "text/plain", 400, "rejected", id="no evidence"),
        pytest.param(bytes(MAX_REQUEST + 1), ear.CMW_MEDIA_TYPE, 413, "too large", id="too large"),
    ],
)
def test_what_is_no_evidence_is_refused(
    simulated: Steward, body: bytes, media_type: str | None, status: int, title: str
) -> None:
    answer = poster(simulated)(body, media_type, report_data="00" * 64)
    assert answer.status == status
    assert json.loads(answer.body)["title"] == title


def test_a_result_stands_in_the_issuance_log_before_it_is_given(
    simulated: Steward, evidence: Evidence, tmp_path: Path
) -> None:
    log = IssuanceLog(tmp_path / "issuance.log")
    poster(simulated, log)(cmw.encode(evidence), report_data=REPORT_DATA.hex())
    log.close()
    (line,) = (tmp_path / "issuance.log").read_text().splitlines()
    entry = json.loads(line)
    assert (entry["outcome"], entry["status"]) == ("appraised", "contraindicated")
    assert entry["claims"]["root"] == "demo"


def result(*checks: Check, **more: Any) -> AttestationResult:
    shown: dict[str, Any] = {
        "tee": Tee.SNP,
        "measurement": MEASUREMENT,
        "tcb_status": "UpToDate",
        "simulated": False,
        "claims": {},
    }
    return AttestationResult(checks=checks, **shown | more)


GOOD = (
    Check("report data", "00", "00", passed=True),
    Check("launch measurement", "6d", "6d", passed=True),
    Check("chip", "01", "01", passed=True),
    Check("guest policy: debugging by the host", "not allowed", "not allowed", passed=True),
    Check("VMPL", "0", "0", passed=True),
)


def changed(name: str, **more: Any) -> tuple[Check, ...]:
    return tuple(replace(check, **more) if check.name == name else check for check in GOOD)


@pytest.mark.parametrize(
    ("shown", "vector", "status"),
    [
        pytest.param(result(*GOOD), {}, "affirming", id="good"),
        pytest.param(
            result(*GOOD, tcb_status="SWHardeningNeeded"), {"hardware": 32}, "warning", id="tcb"
        ),
        pytest.param(
            result(*changed("launch measurement", wanted="any")),
            {"executables": None},
            "affirming",
            id="any image",
        ),
        pytest.param(
            result(*changed("launch measurement", passed=False)),
            {"executables": 96},
            "contraindicated",
            id="other image",
        ),
        pytest.param(
            result(*changed("chip", wanted="any")),
            {"instance-identity": None},
            "affirming",
            id="any chip",
        ),
        pytest.param(
            result(*changed("guest policy: debugging by the host", found="allowed", wanted="any")),
            {"runtime-opaque": 96},
            "contraindicated",
            id="debugging admitted",
        ),
        pytest.param(
            result(*changed("VMPL", passed=False)),
            {"configuration": 96},
            "contraindicated",
            id="configuration",
        ),
        pytest.param(
            result(*GOOD, Check("reported TCB version", "1", "at least 2", passed=False)),
            {"hardware": 96},
            "contraindicated",
            id="old firmware",
        ),
        pytest.param(
            result(*GOOD, Check("TCB evaluation", "16", "at least 17", passed=False)),
            {"hardware": 96},
            "contraindicated",
            id="old evaluation",
        ),
        pytest.param(
            result(*GOOD, Check("QE identity", "none", "Intel's", passed=False)),
            {"hardware": 96},
            "contraindicated",
            id="unknown quoting enclave",
        ),
        pytest.param(
            result(
                *GOOD,
                Check("platform lifecycle", "recoverable CCA platform debug", "any", passed=True),
            ),
            {"runtime-opaque": 96},
            "contraindicated",
            id="a platform that may be debugged",
        ),
        pytest.param(
            result(*GOOD, Check("platform lifecycle", "secured", "secured", passed=True)),
            {},
            "affirming",
            id="a platform that may not be debugged",
        ),
    ],
)
def test_the_vector_says_what_the_checks_say(
    shown: AttestationResult, vector: dict[str, int | None], status: str
) -> None:
    wanted: dict[str, int | None] = {
        "instance-identity": 2,
        "executables": 3,
        "hardware": 2,
        "runtime-opaque": 2,
        "configuration": 2,
        **vector,
    }
    found = ear.trustworthiness(shown)
    assert found == {name: value for name, value in wanted.items() if value is not None}
    assert ear.status(shown, found) == status


def test_a_changed_token_is_not_verified(simulated: Steward, evidence: Evidence) -> None:
    answer = poster(simulated)(cmw.encode(evidence), report_data=REPORT_DATA.hex())
    header, payload, signature = answer.body.decode().split(".")
    claims = json.loads(base64.urlsafe_b64decode(payload + "=="))
    claims["ear_status"] = "affirming"
    forged = base64.urlsafe_b64encode(json.dumps(claims).encode()).rstrip(b"=").decode()
    with pytest.raises(jwt.InvalidSignatureError):
        opened(simulated, replace(answer, body=f"{header}.{forged}.{signature}".encode()))
