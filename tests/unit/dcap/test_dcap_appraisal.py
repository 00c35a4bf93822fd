"""The policies of SGX and TDX: read strictly, and what each refuses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from garrison.appraisal import sgx, tdx
from garrison.appraisal.result import AppraisalRejected, AttestationResult
from garrison.errors import Malformed, Misuse
from garrison.formats.dcap_quote import TeeType
from garrison.formats.evidence import Tee
from garrison.formats.sgx_report import SgxReport
from garrison.formats.strict_toml import Table
from garrison.testing.dcap import (
    NOW,
    REPORT_DATA,
    FakeIntel,
    FakeQuoter,
    platform_level,
    sgx_report,
    td_report,
)
from garrison.verification.dcap import verify
from garrison.verification.roots import Roots

INTEL = FakeIntel()
KEY = "tcbEvaluationDataNumber"
SGX = {
    "measurements": f'["{"ab" * 32}"]',
    "config_ids": f'["{"00" * 64}"]',
    "tcb_statuses": '["UpToDate"]',
    "advisories": "[]",
    "minimum_tcb_evaluation": "17",
    "signers": f'[{{ mr_signer = "{"cd" * 32}", isv_prod_id = 1, minimum_isv_svn = 8 }}]',
}
TDX = {
    "mr_td": f'["{"ab" * 48}"]',
    "mr_seam": f'["{"01" * 48}"]',
    "mr_config_id": f'["{"00" * 48}"]',
    "mr_owner": f'["{"00" * 48}"]',
    "mr_owner_config": f'["{"00" * 48}"]',
    "mr_service_td": f'["{"00" * 48}"]',
    "tcb_statuses": '["UpToDate"]',
    "advisories": "[]",
    "minimum_tcb_evaluation": "17",
    "rtmrs": f'{{ 0 = "zero", 1 = ["{"01" * 48}"], 2 = "any", 3 = "any" }}',
}


def table(values: dict[str, str]) -> Table:
    text = "\n".join(f"{key} = {value}" for key, value in values.items())
    return Table.parse(text, source="policy")


def appraise(
    body: Any = None,
    levels: list[dict[str, Any]] | None = None,
    report_data: bytes = REPORT_DATA,
    info: dict[str, Any] | None = None,
    identity: dict[str, Any] | None = None,
    **changes: str,
) -> AttestationResult:
    body = sgx_report() if body is None else body
    tee = TeeType.SGX if isinstance(body, SgxReport) else TeeType.TDX
    info = {**(info or {}), **({"tcbLevels": levels} if levels else {})}
    quote = FakeQuoter(INTEL).quote(body, 5)
    verified: Any = verify(quote, INTEL.collateral(tee, info, identity), INTEL.roots(), NOW)
    if tee is TeeType.SGX:
        sgx_policy = sgx.SgxPolicy.from_table(table(SGX | changes), Path())
        return sgx.appraise(verified, sgx_policy, report_data, NOW)
    tdx_policy = tdx.TdxPolicy.from_table(table(TDX | changes), Path())
    return tdx.appraise(verified, tdx_policy, report_data, NOW)


def failed(result: AttestationResult) -> list[str]:
    with pytest.raises(AppraisalRejected) as caught:
        result.require()
    return [str(check["check"]) for check in caught.value.checks]


def test_admitted() -> None:
    result = appraise()
    result.require()
    assert (result.tee, result.tcb_status, result.simulated) == (Tee.SGX, "UpToDate", True)
    assert result.measurement == b"\xab" * 32
    assert result.claims["fmspc"] == INTEL.fmspc.hex()
    result = appraise(td_report())
    result.require()
    assert (result.tee, result.tcb_status, result.simulated) == (Tee.TDX, "UpToDate", True)
    assert result.measurement == b"\xab" * 48
    assert result.claims["rtmr3"] == "03" * 48


@pytest.mark.parametrize(
    ("changes", "check"),
    [
        ({"mr_enclave": bytes(32)}, "MRENCLAVE"),
        ({"mr_signer": bytes(32)}, "signer"),
        ({"isv_prod_id": 2}, "signer"),
        ({"isv_svn": 7}, "signer"),
        ({"config_id": b"\x01" * 64}, "CONFIGID"),
        ({"attributes": b"\x07" + bytes(15)}, "attributes: debugging by the host"),
        ({"report_data": bytes(64)}, "report data"),
    ],
)
def test_refused_enclaves(changes: dict[str, Any], check: str) -> None:
    assert failed(appraise(sgx_report(**changes))) == [check]


@pytest.mark.parametrize(
    ("changes", "check"),
    [
        ({"mr_td": bytes(48)}, "MRTD"),
        ({"mr_seam": bytes(48)}, "MRSEAM"),
        ({"mr_config_id": b"\x01" * 48}, "MRCONFIGID"),
        ({"mr_owner": b"\x01" * 48}, "MROWNER"),
        ({"mr_owner_config": b"\x01" * 48}, "MROWNERCONFIG"),
        ({"mr_service_td": b"\x01" * 48, "tee_tcb_svn2": bytes(16)}, "MRSERVICETD"),
        ({"rtmrs": (b"\x01" * 48, b"\x01" * 48, bytes(48), bytes(48))}, "RTMR0"),
        ({"rtmrs": (bytes(48), bytes(48), bytes(48), bytes(48))}, "RTMR1"),
        ({"td_attributes": 1 << 28 | 1}, "TD attributes: DEBUG"),
        ({"td_attributes": 1 << 28 | 1 << 29}, "TD attributes: MIGRATABLE"),
        ({"td_attributes": 1 << 28 | 1 << 63}, "TD attributes: PERFMON"),
        ({"td_attributes": 0}, "TD attributes: SEPT_VE_DISABLE"),
        ({"td_attributes": 1 << 28 | 1 << 1}, "TD attributes: others"),
        ({"td_attributes": 1 << 28 | 1 << 62}, "TD attributes: others"),
        ({"report_data": bytes(64)}, "report data"),
    ],
)
def test_refused_tds(changes: dict[str, Any], check: str) -> None:
    assert failed(appraise(td_report(**changes))) == [check]


def test_what_a_policy_admits() -> None:
    appraise(sgx_report(attributes=b"\x07" + bytes(15)), debug="true").require()
    appraise(sgx_report(mr_signer=bytes(32)), signers='"any"').require()
    appraise(sgx_report(mr_enclave=bytes(32)), measurements='"any"').require()
    attributes = 1 | 1 << 29 | 1 << 63
    appraise(
        td_report(td_attributes=attributes),
        debug="true",
        migratable="true",
        perfmon="true",
        sept_ve_disable="false",
    ).require()


@pytest.mark.parametrize("body", [sgx_report(), td_report()])
def test_status_and_advisories(body: Any) -> None:
    levels = [platform_level("OutOfDate", "INTEL-SA-00001", "INTEL-SA-00002")]
    assert failed(appraise(body, levels)) == ["TCB status", "advisories"]
    statuses = '["UpToDate", "OutOfDate"]'
    both = '["INTEL-SA-00001", "INTEL-SA-00002"]'
    # An advisory list is no status check, nor the other way round.
    assert failed(appraise(body, levels, advisories=both)) == ["TCB status"]
    assert failed(appraise(body, levels, tcb_statuses=statuses)) == ["advisories"]
    one = '["INTEL-SA-00002"]'
    assert failed(appraise(body, levels, tcb_statuses=statuses, advisories=one)) == ["advisories"]
    appraise(body, levels, tcb_statuses=statuses, advisories=both).require()
    appraise(body, levels, tcb_statuses='"any"', advisories='"any"').require()
    bare = [platform_level("OutOfDate")]
    assert failed(appraise(body, bare)) == ["TCB status"]


@pytest.mark.parametrize("body", [sgx_report(), td_report()])
@pytest.mark.parametrize(("info", "identity"), [(17, 17), (19, 17), (17, 19)])
def test_collateral_of_an_earlier_evaluation_is_refused(
    body: Any, info: int, identity: int
) -> None:
    """Genuine and current, but by what Intel knew before: the lower of the two numbers counts."""
    numbers: dict[str, Any] = {"info": {KEY: info}, "identity": {KEY: identity}}
    appraise(body, **numbers).require()
    result = appraise(body, **numbers, minimum_tcb_evaluation="18")
    assert failed(result) == ["TCB evaluation"]
    (check,) = (each for each in result.checks if not each.passed)
    assert (check.found, check.wanted) == ("17", "at least 18")
    appraise(body, **numbers, minimum_tcb_evaluation='"any"').require()


@pytest.mark.parametrize("key", SGX)
def test_nothing_of_sgx_may_be_left_out(key: str) -> None:
    values = {name: value for name, value in SGX.items() if name != key}
    with pytest.raises(Malformed, match=f"{key}: missing"):
        sgx.SgxPolicy.from_table(table(values), Path())


@pytest.mark.parametrize("key", TDX)
def test_nothing_of_tdx_may_be_left_out(key: str) -> None:
    values = {name: value for name, value in TDX.items() if name != key}
    with pytest.raises(Malformed, match=f"{key}.*missing"):
        tdx.TdxPolicy.from_table(table(values), Path())


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("measurements", "[]"),
        ("measurements", '"all"'),
        ("measurements", '["ab"]'),
        ("measurements", f'["{"ab" * 31} a"]'),
        ("signers", "[]"),
        ("signers", '"all"'),
        ("signers", f'[{{ mr_signer = "{"cd" * 32}", isv_prod_id = 1 }}]'),
        ("signers", '[{ mr_signer = "cd", isv_prod_id = 1, minimum_isv_svn = 1 }]'),
        ("tcb_statuses", "[]"),
        ("tcb_statuses", '["Fine"]'),
        ("tcb_statuses", '["UpToDate", "UpToDate"]'),
        ("advisories", '["INTEL"]'),
        ("advisories", '"none"'),
        ("minimum_tcb_evaluation", "0"),
        ("minimum_tcb_evaluation", '"all"'),
        ("minimum_tcb_evaluation", '"17"'),
        ("minimum_tcb_evaluation", "17.0"),
        ("minimum_tcb_evaluation", "4294967296"),
        ("debug", "0"),
        ("unknown", "1"),
    ],
)
def test_malformed_policies(key: str, value: str) -> None:
    with pytest.raises(Malformed, match=f"policy:.*{key}"):
        sgx.SgxPolicy.from_table(table(SGX | {key: value}), Path())


def test_simulated_roots() -> None:
    text = Table.parse(
        "\n".join(f"{key} = {value}" for key, value in SGX.items())
        + f'\n[insecure_simulated_roots.test]\nkey_sha256 = "{INTEL.root_key_sha256}"',
        source="policy",
    )
    policy = sgx.SgxPolicy.from_table(text, Path())
    assert policy.platform.simulated_roots == {"test": INTEL.root_key_sha256}
    quote, collateral = FakeQuoter(INTEL).quote(sgx_report(), 3), INTEL.collateral(TeeType.SGX)
    assert verify(quote, collateral, policy.platform.roots(), NOW).value.platform.anchor.simulated
    pinned = next(pin.key_sha256 for pin in Roots.load().pins if pin.vendor == "intel")
    intel = f'{{ x = {{ key_sha256 = "{pinned}" }} }}'
    genuine = sgx.SgxPolicy.from_table(table(SGX | {"insecure_simulated_roots": intel}), Path())
    with pytest.raises(Misuse, match="the key is already that of another root"):
        genuine.platform.roots()
    for wrong in ('{ x = { key_sha256 = "00" } }', '{ "x y" = { } }'):
        with pytest.raises(Malformed):
            sgx.SgxPolicy.from_table(table(SGX | {"insecure_simulated_roots": wrong}), Path())
