"""Nitro evidence at the steward, by the true verifier, on recorded real documents."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pytest
from tests.vectors import vectors

from garrison.appraisal.nitro import NitroPolicy
from garrison.appraisal.result import AppraisalRejected
from garrison.errors import Malformed, Rejected, Unverified
from garrison.formats.csr import EnarxEvidence, build_request
from garrison.formats.evidence import Evidence, Tee
from garrison.formats.nitro import NITRO_MEDIA_TYPE, NitroDocument
from garrison.formats.strict_toml import Table
from garrison.steward import init
from garrison.steward.appraisers import NitroAppraiser
from garrison.steward.authority import SERVER_PEM
from garrison.steward.issuance import examine
from garrison.steward.policy import Policy
from garrison.steward.setup import open_steward, with_certificate

if TYPE_CHECKING:
    from pathlib import Path

    from tests.unit.steward.conftest import Keep

    from garrison.steward.issuance import Steward

pytestmark = pytest.mark.vectors

# When the document was made.
THEN = datetime.fromtimestamp(1708930922, UTC)
ANY = '[pcrs]\nothers = "any"\n'


def document(name: str = "base-valid-1") -> bytes:
    return (vectors("nitro") / name / "document.cbor").read_bytes()


def appraiser(text: str = ANY) -> NitroAppraiser:
    return NitroAppraiser(NitroPolicy.from_table(Table.parse(text, source="policy")))


def test_genuine_evidence_is_appraised() -> None:
    data = document()
    parsed = NitroDocument.from_bytes(data)
    bound = parsed.user_data or b""
    result = appraiser().appraise(Evidence(NITRO_MEDIA_TYPE, data), bound, THEN)
    result.require()
    assert (result.tee, result.measurement) == (Tee.NITRO, parsed.pcrs[0])
    other = f'[pcrs]\n0 = ["{"ab" * 48}"]\nothers = "any"\n'
    with pytest.raises(AppraisalRejected, match="PCR"):
        appraiser(other).appraise(Evidence(NITRO_MEDIA_TYPE, data), bound, THEN).require()


@pytest.mark.parametrize(
    ("register", "failed"),
    [("zero", []), ("any", []), (f'["{"ab" * 48}"]', ["PCR20"])],
    ids=["zero", "any", "a value"],
)
def test_a_register_that_a_document_lacks_is_zero(register: str, failed: list[str]) -> None:
    """A policy that wants a value of it is not satisfied by modules that have fewer."""
    text = register if register.startswith("[") else f'"{register}"'
    data = document()
    parsed = NitroDocument.from_bytes(data)
    assert len(parsed.pcrs) == 16
    policy = f'[pcrs]\n20 = {text}\nothers = "any"\n'
    evidence = Evidence(NITRO_MEDIA_TYPE, data)
    result = appraiser(policy).appraise(evidence, parsed.user_data or b"", THEN)
    assert [check.name for check in result.checks if not check.passed] == failed


def test_tampered_evidence_is_not_genuine() -> None:
    with pytest.raises(Unverified):
        appraiser().appraise(Evidence(NITRO_MEDIA_TYPE, document("base-tampered-pcr0")), b"", THEN)


def test_the_original_has_no_such_evidence() -> None:
    with pytest.raises(Malformed):
        appraiser().appraise(EnarxEvidence(Tee.NITRO, b""), b"", THEN)


def test_a_replayed_document_is_refused(steward: Steward, keep: Keep) -> None:
    admitting = replace(steward, appraisers={Tee.NITRO: appraiser()})
    challenge = steward.challenges.issue(THEN).challenge
    request = build_request(
        keep.key,
        evidence=Evidence(NITRO_MEDIA_TYPE, document()),
        challenge=challenge,
        workload=None,
    )
    with pytest.raises(AppraisalRejected) as caught:
        examine(request, admitting, THEN)
    assert [check["check"] for check in caught.value.checks] == ["user data"]
    with pytest.raises(Rejected, match="the policy does not admit this TEE"):
        examine(request, steward, THEN)


POLICY = """
trust_domain = "example.test"
freshness = "required"
local_workloads = true
[certificates]
lifetime_minutes = 5
"""


def test_a_policy_of_nitro_alone(tmp_path: Path, directory: Path) -> None:
    path = tmp_path / "policy.toml"
    path.write_text(POLICY + '[nitro.pcrs]\nothers = "any"\n')
    steward, _ = open_steward(directory, path, directory / SERVER_PEM)
    assert list(steward.appraisers) == [Tee.NITRO]
    assert steward.policy.simulated_roots == ()
    path.write_text(
        POLICY
        + f'[nitro.pcrs]\nothers = "any"\n[nitro.insecure_simulated_roots]\ndemo = "{"ab" * 32}"\n'
    )
    assert Policy.load(path).simulated_roots == ("demo",)
    path.write_text(POLICY)
    with pytest.raises(Malformed, match="no TEE is admitted"):
        open_steward(directory, path, directory / SERVER_PEM)


def test_no_keep_may_have_a_name_of_the_steward_itself(tmp_path: Path, directory: Path) -> None:
    path = tmp_path / "policy.toml"
    nitro = '[nitro.pcrs]\nothers = "any"\n'
    path.write_text(POLICY + 'dns_names = ["chat.example.test", "localhost"]\n' + nitro)
    with pytest.raises(Malformed, match="could pose as this steward") as caught:
        open_steward(directory, path, directory / SERVER_PEM)
    assert caught.value.found == "localhost"
    path.write_text(POLICY + nitro)
    assert open_steward(directory, path, directory / SERVER_PEM)[0].server_names == {"localhost"}


def test_a_wildcard_of_the_stewards_is_each_name_that_it_stands_for(
    steward: Steward, tmp_path: Path
) -> None:
    hosts = ["*.example.test", "Steward.Example.Org"]
    init.create(tmp_path / "wild", trust_domain="example.test", hosts=hosts, now=THEN)
    with pytest.raises(Malformed, match="could pose as this steward") as caught:
        with_certificate(steward, tmp_path / "wild" / SERVER_PEM)
    assert caught.value.found == "chat.example.test, www.example.test"
    deeper = replace(steward.policy, dns_names=("a.chat.example.test", "example.test"))
    with_certificate(replace(steward, policy=deeper), tmp_path / "wild" / SERVER_PEM)
