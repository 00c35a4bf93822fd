"""Appraisal of SNP claims: each check refuses alone, and all failures are told at once."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from garrison.appraisal.result import AppraisalRejected, AttestationResult
from garrison.appraisal.snp import SnpPolicy, appraise
from garrison.errors import Rejected
from garrison.formats.evidence import Tee
from garrison.formats.snp import FirmwareVersion, GuestPolicy, Product, SigningKey, Tcb
from garrison.testing.snp import MEASUREMENT, NOW, REPORT_DATA, FakePlatform
from garrison.verification.snp import verify

PLATFORM = FakePlatform()
# Each value is exactly what the platform shows.
POLICY = SnpPolicy(
    measurements=(MEASUREMENT,),
    products=(Product.MILAN,),
    minimum_tcb={Product.MILAN: PLATFORM.tcb},
    id_key_digests=(b"\x02" * 48,),
    author_key_digests=(b"\x03" * 48,),
    host_data=(b"\x01" * 32,),
    chip_ids=(PLATFORM.hwid,),
    vmpl=(0,),
    abi_minimum=(1, 55),
    debug=False,
    migration=False,
    smt=False,
    single_socket=True,
    crl_required=True,
    guest_abi=None,
    platform_info=None,
    endorsements=(Path("nowhere"),),
    simulated_roots={"test": PLATFORM.root_key_sha256},
)
_ONE, _SINGLE = 1 << 17, 1 << 20


def result(
    rules: SnpPolicy = POLICY,
    report_data: bytes = REPORT_DATA,
    platform: FakePlatform = PLATFORM,
    *,
    crl: bool = True,
    **report: Any,
) -> AttestationResult:
    verified = verify(
        platform.report(**report), platform.endorsements(crl=crl), platform.roots(), NOW
    )
    return appraise(verified, rules, report_data, NOW)


def failed(shown: AttestationResult) -> list[str]:
    with pytest.raises(AppraisalRejected) as caught:
        shown.require()
    return [str(check["check"]) for check in caught.value.checks]


def test_admitted() -> None:
    shown = result()
    shown.require()
    assert shown.tee is Tee.SNP
    assert shown.measurement == MEASUREMENT
    assert shown.tcb_status == "UpToDate"
    assert shown.simulated
    assert all(check.passed for check in shown.checks)
    assert shown.claims["root"] == "test"
    assert shown.claims["tcb"] == str(PLATFORM.tcb)


@pytest.mark.parametrize(
    ("check", "policy"),
    [
        ("launch measurement", {"measurements": (b"\xac" * 48,)}),
        ("product", {"products": (Product.GENOA,)}),
        ("reported TCB version", {"minimum_tcb": {Product.MILAN: Tcb(4, 0, 24, 220)}}),
        ("reported TCB version", {"minimum_tcb": {Product.GENOA: Tcb(0, 0, 0, 0)}}),
        ("identity key digest", {"id_key_digests": (bytes(48),)}),
        ("author key digest", {"author_key_digests": (bytes(48),)}),
        ("host data", {"host_data": (bytes(32),)}),
        ("VMPL", {"vmpl": (1, 2)}),
        ("committed firmware ABI", {"abi_minimum": (1, 56)}),
        ("committed firmware ABI", {"abi_minimum": (2, 0)}),
        ("chip", {"chip_ids": (bytes(64),)}),
    ],
)
def test_each_check_refuses_what_the_policy_does_not_list(
    check: str, policy: dict[str, Any]
) -> None:
    assert failed(result(replace(POLICY, **policy))) == [check]


@pytest.mark.parametrize(
    ("check", "report"),
    [
        ("launch measurement", {"measurement": bytes(48)}),
        ("VMPL", {"vmpl": 1}),
        ("VMPL", {"vmpl": 0xFFFFFFFF}),
        ("committed firmware ABI", {"committed_version": FirmwareVersion(1, 54, 255)}),
        ("committed firmware ABI", {"committed_version": FirmwareVersion(0, 99, 0)}),
        ("guest policy: debugging by the host", {"policy": GuestPolicy(_ONE | _SINGLE | 1 << 19)}),
        ("guest policy: migration agent", {"policy": GuestPolicy(_ONE | _SINGLE | 1 << 18)}),
        ("guest policy: multithreading", {"policy": GuestPolicy(_ONE | _SINGLE | 1 << 16)}),
        ("guest policy: single socket only", {"policy": GuestPolicy(_ONE)}),
        ("chip", {"chip_id": bytes(64)}),
    ],
)
def test_each_check_refuses_what_the_report_shows(check: str, report: dict[str, Any]) -> None:
    assert failed(result(**report)) == [check]


def test_greater_versions_are_admitted() -> None:
    result(committed_version=FirmwareVersion(2, 0, 0)).require()
    result(replace(POLICY, minimum_tcb={Product.MILAN: Tcb(0, 0, 0, 0)})).require()


@pytest.mark.parametrize(
    ("policy", "report"),
    [
        ({"debug": True}, {"policy": GuestPolicy(_ONE | _SINGLE | 1 << 19)}),
        ({"migration": True}, {"policy": GuestPolicy(_ONE | _SINGLE | 1 << 18)}),
        ({"smt": True}, {"policy": GuestPolicy(_ONE | _SINGLE | 1 << 16)}),
        ({"single_socket": False}, {"policy": GuestPolicy(_ONE)}),
    ],
)
def test_the_policy_can_admit_it(policy: dict[str, Any], report: dict[str, Any]) -> None:
    result(replace(POLICY, **policy), **report).require()


@pytest.mark.parametrize(
    "expected",
    [
        bytes(64),
        REPORT_DATA[:-1] + b"\x00",
        b"\x01" + REPORT_DATA[1:],
        REPORT_DATA[:48],
        REPORT_DATA[:48].ljust(64, b"\0"),
        b"",
    ],
)
def test_evidence_that_is_bound_to_something_else(expected: bytes) -> None:
    shown = result(report_data=expected)
    assert failed(shown) == ["report data"]
    assert shown.checks[0].wanted == expected.hex()
    assert shown.checks[0].found == REPORT_DATA.hex()


def test_revocation_list() -> None:
    assert failed(result(crl=False)) == ["revocation list"]
    result(replace(POLICY, crl_required=False), crl=False).require()


def test_a_vlek_shows_no_chip() -> None:
    platform = FakePlatform(kind=SigningKey.VLEK)
    assert failed(result(platform=platform)) == ["chip"]
    shown = result(replace(POLICY, chip_ids=None), platform=platform)
    shown.require()
    assert shown.claims["csp_id"] == "CN=insecure.invalid"


def test_turin() -> None:
    platform = FakePlatform.turin()
    policy = replace(
        POLICY,
        products=(Product.TURIN,),
        minimum_tcb={Product.TURIN: platform.tcb},
        chip_ids=(platform.hwid,),
    )
    result(policy, platform=platform).require()
    above = replace(policy, minimum_tcb={Product.TURIN: replace(platform.tcb, fmc=2)})
    assert failed(result(above, platform=platform)) == ["reported TCB version"]


def test_any() -> None:
    anything = replace(
        POLICY,
        measurements=None,
        products=None,
        minimum_tcb=None,
        id_key_digests=None,
        author_key_digests=None,
        host_data=None,
        chip_ids=None,
        vmpl=None,
        abi_minimum=None,
    )
    shown = result(
        anything, vmpl=3, committed_version=FirmwareVersion(0, 0, 0), measurement=bytes(48)
    )
    shown.require()
    assert shown.tcb_status == "Unchecked"


def test_outdated() -> None:
    shown = result(replace(POLICY, minimum_tcb={Product.MILAN: Tcb(4, 0, 25, 0)}))
    assert shown.tcb_status == "OutOfDate"
    (check,) = [check for check in shown.checks if not check.passed]
    assert check.found == "bl=4 tee=0 snp=24 ucode=219"
    assert check.wanted == "at least bl=4 tee=0 snp=25 ucode=0"
    assert check.remedy == "update the platform's firmware and microcode"


def test_all_failures_are_told_at_once() -> None:
    shown = result(
        replace(POLICY, measurements=(bytes(48),)),
        bytes(64),
        vmpl=2,
        policy=GuestPolicy(_ONE | 1 << 16 | 1 << 18 | 1 << 19),
    )
    with pytest.raises(AppraisalRejected) as caught:
        shown.require()
    error = caught.value
    assert isinstance(error, Rejected)
    assert str(error).startswith("report data: the policy does not admit it (and 6 more)")
    assert [check["check"] for check in error.checks] == [
        "report data",
        "launch measurement",
        "VMPL",
        "guest policy: debugging by the host",
        "guest policy: migration agent",
        "guest policy: multithreading",
        "guest policy: single socket only",
    ]
    assert json.loads(json.dumps(error.checks)) == error.checks
    for check in error.checks:
        assert check.keys() == {"check", "found", "expected", "remedy"}
        assert all(check.values())
