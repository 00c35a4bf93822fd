"""Issuance on simulated CCA evidence, by the true verifier."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from tests.unit.steward.conftest import NOW, Keep

from garrison.appraisal.result import AppraisalRejected
from garrison.endorsements.source import EndorsementSource, Settings
from garrison.errors import Rejected
from garrison.formats.csr import build_request
from garrison.formats.evidence import CCA_MEDIA_TYPE, Evidence, Tee, bound_report_data
from garrison.formats.strict_toml import Table
from garrison.steward.appraisers import appraisers_of
from garrison.steward.issuance import examine, issue
from garrison.steward.policy import TeePolicies
from garrison.testing.cca import IMPLEMENTATION_ID, INITIAL_MEASUREMENT, INSTANCE_ID, FakeCca, key

if TYPE_CHECKING:
    from pathlib import Path

    from garrison.steward.issuance import Steward


def admitting(steward: Steward, base: Path, measurement: bytes) -> Steward:
    pem = key("CPAK").public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    text = f"""
[cca]
initial_measurements = ["{measurement.hex()}"]
personalization_values = "any"
configurations = "any"
software = "any"
[cca.extensible_measurements]
others = "zero"
[[cca.insecure_simulated_platforms]]
name = "model"
implementation_id = "{IMPLEMENTATION_ID.hex()}"
instance_id = "{INSTANCE_ID.hex()}"
public_key = '''{pem.decode()}'''
"""
    tees = TeePolicies.from_table(Table.parse(text, source="policy"), base)
    assert tees.simulated_roots == ("model",)
    return replace(steward, appraisers=appraisers_of(tees, EndorsementSource(Settings())))


def request(steward: Steward, keep: Keep) -> bytes:
    challenge = steward.challenges.issue(NOW).challenge
    token = FakeCca().token(realm={10: bound_report_data(keep.spki, challenge)})
    return build_request(
        keep.key,
        evidence=Evidence(CCA_MEDIA_TYPE, token),
        challenge=challenge,
        workload=None,
    )


def test_an_admitted_realm_has_a_certificate(steward: Steward, keep: Keep, tmp_path: Path) -> None:
    admits = admitting(steward, tmp_path, INITIAL_MEASUREMENT)
    examined = examine(request(admits, keep), admits, NOW)
    assert (examined.identity.tee, examined.result.tee) == ("cca", Tee.CCA)
    assert examined.identity.tcb_status == "InsecureSimulated"
    assert issue(examined, admits, None, NOW).public_key() == keep.key.public_key()


def test_another_realm_is_refused_with_the_check(
    steward: Steward, keep: Keep, tmp_path: Path
) -> None:
    refuses = admitting(steward, tmp_path, bytes(32))
    with pytest.raises(AppraisalRejected) as caught:
        examine(request(refuses, keep), refuses, NOW)
    assert [check["check"] for check in caught.value.checks] == ["realm initial measurement"]
    with pytest.raises(Rejected, match="does not admit this TEE"):
        examine(request(steward, keep), steward, NOW)
