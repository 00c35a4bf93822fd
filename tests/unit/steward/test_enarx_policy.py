"""The original's `steward.toml`: read as it is, each option enforced, or refused."""

from __future__ import annotations

import tomllib
from typing import TYPE_CHECKING, Any

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from garrison.appraisal import sgx
from garrison.appraisal import snp as snp_appraisal
from garrison.cli.steward import command
from garrison.errors import GarrisonError, Malformed, Rejected
from garrison.formats.dcap_quote import TeeType
from garrison.formats.snp import GuestPolicy, PlatformInfo
from garrison.formats.strict_toml import Table
from garrison.formats.version_range import VersionRange
from garrison.steward.authority import SERVER_PEM
from garrison.steward.enarx_policy import convert, is_original
from garrison.steward.policy import Policy
from garrison.steward.setup import open_steward
from garrison.testing import dcap
from garrison.testing import snp as fake_snp
from garrison.testing.snp import FakePlatform
from garrison.verification.dcap import verify as verify_quote
from garrison.verification.snp import verify

if TYPE_CHECKING:
    from pathlib import Path

    from garrison.appraisal.result import AttestationResult

PLATFORM = FakePlatform()
INTEL = dcap.FakeIntel()
MEASURED = f'hash = ["{fake_snp.MEASUREMENT.hex()}"]\n'
ENCLAVE = f'hash = ["{"ab" * 32}"]\n'
# A guest's policy: ABI 0.0, the bit that must be one.
ONE = 1 << 17
NO_HOST_DATA: dict[str, Any] = {"host_data": bytes(32), "policy": GuestPolicy(ONE)}


def policy(text: str, tmp_path: Path) -> Policy:
    path = tmp_path / "steward.toml"
    path.write_text(text)
    return Policy.load(path, "example.test")


def failed(result: AttestationResult) -> list[str]:
    return [check.name for check in result.checks if not check.passed]


def on_snp(text: str, tmp_path: Path, **changes: Any) -> list[str]:
    found = policy(f"[snp]\n{text}", tmp_path)
    assert found.tees.snp is not None
    report = PLATFORM.report(**(NO_HOST_DATA | changes))
    verified = verify(report, PLATFORM.endorsements(), PLATFORM.roots(), fake_snp.NOW)
    result = snp_appraisal.appraise(verified, found.tees.snp, fake_snp.REPORT_DATA, fake_snp.NOW)
    try:
        found.deny.check(result, None)
    except Rejected as error:
        return [f"denied: {error.field}"]
    return failed(result)


def on_sgx(
    text: str, tmp_path: Path, levels: list[dict[str, Any]] | None = None, **changes: Any
) -> list[str]:
    found = policy(f"[sgx]\n{text}", tmp_path)
    assert found.tees.sgx is not None
    quote = dcap.FakeQuoter(INTEL).quote(dcap.sgx_report(**changes), 3)
    collateral = INTEL.collateral(TeeType.SGX, {"tcbLevels": levels} if levels else {})
    verified: Any = verify_quote(quote, collateral, INTEL.roots(), dcap.NOW)
    result = sgx.appraise(verified, found.tees.sgx, dcap.REPORT_DATA, dcap.NOW)
    try:
        found.deny.check(result, None)
    except Rejected as error:
        return [f"denied: {error.field}"]
    return failed(result)


def digests(key: str, value: bytes) -> str:
    return f'{key} = ["{value.hex()}"]\n'


@pytest.mark.parametrize(
    ("option", "changes", "found"),
    [
        ("", {}, []),
        ("", {"measurement": b"x" * 48}, ["launch measurement"]),
        ("", {"host_data": b"x" * 32}, ["host data"]),
        ("", {"vmpl": 1}, ["VMPL"]),
        ("", {"policy": GuestPolicy(ONE | 1 << 18)}, ["guest policy: migration agent"]),
        ("", {"policy": GuestPolicy(ONE | 1 << 19)}, ["guest policy: debugging by the host"]),
        (digests("signer", b"\x03" * 48), {}, []),
        (digests("signer", b"\x09" * 48), {}, ["author key digest"]),
        (digests("id_key_digest", b"\x02" * 48), {}, []),
        (digests("id_key_digest", b"\x09" * 48), {}, ["identity key digest"]),
        (digests("id_key_digest_blacklist", b"\x09" * 48), {}, []),
        (digests("id_key_digest_blacklist", b"\x02" * 48), {}, ["denied: identity key digest"]),
        ('abi = ">=1.51"\n', {}, ["guest policy: ABI"]),
        ('abi = ">=1.51"\n', {"policy": GuestPolicy(ONE | 0x0137)}, []),
        ('abi = "1.0"\n', {"policy": GuestPolicy(ONE | 0x0137)}, []),
        ("", {"policy": GuestPolicy(ONE | 1 << 16)}, []),
        ('policy_flags = ["SMT"]\n', {"policy": GuestPolicy(ONE | 1 << 16)}, []),
        (
            "policy_flags = []\n",
            {"policy": GuestPolicy(ONE | 1 << 16)},
            ["guest policy: multithreading"],
        ),
        ('policy_flags = ["SingleSocket"]\n', {}, ["guest policy: single socket only"]),
        (
            'policy_flags = ["SingleSocket"]\n',
            {"policy": GuestPolicy(ONE | 1 << 20)},
            [],
        ),
        (
            'policy_flags = ["Debug"]\n',
            {"policy": GuestPolicy(ONE | 1 << 19)},
            ["guest policy: debugging by the host"],
        ),
        ('platform_info_flags = "SME"\n', {"platform_info": PlatformInfo(1)}, []),
        ('platform_info_flags = "SME"\n', {"platform_info": PlatformInfo(3)}, ["platform info"]),
        ('platform_info_flags = "TSME"\n', {"platform_info": PlatformInfo(2)}, []),
        ('platform_info_flags = "TSME"\n', {"platform_info": PlatformInfo(1)}, ["platform info"]),
    ],
    ids=lambda value: None if isinstance(value, list) else str(value)[:60],
)
def test_snp(option: str, changes: dict[str, Any], found: list[str], tmp_path: Path) -> None:
    assert on_snp(MEASURED + option, tmp_path, **changes) == found


def test_denied_alone_admits_the_rest(tmp_path: Path) -> None:
    denied = digests("hash_blacklist", fake_snp.MEASUREMENT)
    assert on_snp(denied, tmp_path) == ["denied: launch measurement"]
    assert on_snp(denied, tmp_path, measurement=b"x" * 48) == []


KSS, PROVISIONING, DEBUG = (bytes([5 | bit]) + bytes(15) for bit in (0x80, 0x10, 0x02))
LATE = [dcap.platform_level("OutOfDate", "INTEL-SA-00615")]


@pytest.mark.parametrize(
    ("option", "changes", "found"),
    [
        ("", {}, []),
        ("", {"mr_enclave": bytes(32)}, ["MRENCLAVE"]),
        ("", {"attributes": DEBUG}, ["attributes: debugging by the host"]),
        ('features = ["Debug"]\n', {"attributes": DEBUG}, ["attributes: debugging by the host"]),
        ("", {"attributes": PROVISIONING}, []),
        ("features = []\n", {"attributes": KSS}, ["attributes: features"]),
        ('features = ["KSS"]\n', {"attributes": KSS}, []),
        ('features = ["KSS"]\n', {"attributes": PROVISIONING}, ["attributes: features"]),
        ('features = ["ProvisioningKey"]\n', {"attributes": PROVISIONING}, []),
        (digests("signer", b"\xcd" * 32), {}, []),
        (digests("signer", b"\xce" * 32), {}, ["signer"]),
        ("enclave_product_id = 1\n", {}, []),
        ("enclave_product_id = 0\n", {}, ["signer"]),
        ("enclave_security_version = 8\n", {"isv_svn": 8}, []),
        ("enclave_security_version = 8\n", {"isv_svn": 7}, ["signer"]),
        ('misc_select = ["EXINFO"]\n', {"misc_select": b"\x01\0\0\0"}, []),
        ('misc_select = ["EXINFO"]\n', {"misc_select": b"\x02\0\0\0"}, ["MISCSELECT"]),
        ("", {"levels": LATE}, ["TCB status"]),
        ('allowed_advisories = ["INTEL-SA-00615"]\n', {"levels": LATE}, []),
        ('allowed_advisories = ["INTEL-SA-00001"]\n', {"levels": LATE}, ["advisories"]),
        (
            'allowed_advisories = ["INTEL-SA-00615"]\n',
            {"levels": [dcap.platform_level("Revoked", "INTEL-SA-00615")]},
            ["TCB status"],
        ),
    ],
    ids=lambda value: None if isinstance(value, list) else str(value)[:60],
)
def test_sgx(option: str, changes: dict[str, Any], found: list[str], tmp_path: Path) -> None:
    assert on_sgx(ENCLAVE + option, tmp_path, **changes) == found


BOTH_KEYS = "".join(digests(key, b"a" * 48) for key in ("id_key_digest", "id_key_digest_blacklist"))


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "no TEE is admitted"),
        ("[snp]", "nothing is said of keeps"),
        ("[sgx]\nsigner = []", "nothing is said of keeps"),
        (f"[snp]\n{MEASURED}features = []", "unknown key"),
        (f"[sgx]\n{ENCLAVE}abi = '1'", "unknown key"),
        (f"[snp]\n{MEASURED}[kvm]\nx = 1", "unknown key"),
        (f"[snp]\n{MEASURED}{MEASURED.replace('hash', 'hash_blacklist')}", "both allowed and"),
        (
            f"[snp]\n{MEASURED}{BOTH_KEYS}",
            "both allowed and denied",
        ),
        ('[snp]\nhash = ["ab"]', "not a digest"),
        ('[snp]\nhash = [""]', "not a digest"),
        (f'[sgx]\nhash = ["{"ab" * 48}"]', "not a digest"),
        (f'[snp]\n{MEASURED}abi = "newest"', "not a range of versions"),
        (f'[snp]\n{MEASURED}abi = ">2, <1"', "a range without a version"),
        (f'[snp]\n{MEASURED}policy_flags = ["smt"]', "unknown name"),
        (f'[snp]\n{MEASURED}platform_info_flags = "ECC"', "unknown value"),
        (f'[sgx]\n{ENCLAVE}features = ["XYZ"]', "unknown name"),
        (f'[sgx]\n{ENCLAVE}misc_select = ["XYZ"]', "unknown name"),
        (f"[sgx]\n{ENCLAVE}enclave_product_id = 65536", "out of range"),
        (f'[sgx]\n{ENCLAVE}allowed_advisories = ["x\\"]\\n"]', "wrong entry"),
    ],
    ids=range(19),
)
def test_what_is_refused(text: str, reason: str) -> None:
    with pytest.raises(Malformed, match=reason):
        convert(text, "steward.toml", trust_domain="example.test")


def test_options_of_the_other_tee_are_told_by_line() -> None:
    """The original's own example has the options of the two sections swapped."""
    with pytest.raises(Malformed) as caught:
        convert(f"[snp]\n{MEASURED}features = []\n", "steward.toml", trust_domain="example.test")
    assert caught.value.field == "steward.toml:3: snp.features"


@given(st.text(max_size=120))
def test_no_text_gives_another_error(text: str) -> None:
    with pytest.raises(GarrisonError) as caught:
        convert("[snp]\n" + text, "steward.toml", trust_domain="example.test")
    assert isinstance(caught.value, Malformed)


def test_which_documents_are_the_originals() -> None:
    def original(text: str) -> bool:
        return is_original(Table.parse(text, source="text"))

    assert original("[snp]\nhash = []")
    assert original("[sgx]\nsigner = []\n[snp]")
    assert not original("")
    assert not original("[snp]\nmeasurements = 'any'")
    assert not original("trust_domain = 'a.test'\n[snp]\nhash = []")
    assert not original("snp = 1")


def test_a_steward_serves_by_it(directory: Path, tmp_path: Path) -> None:
    path = tmp_path / "steward.toml"
    path.write_text(f"[snp]\n{MEASURED}")
    steward, _ = open_steward(directory, path, directory / SERVER_PEM)
    assert steward.policy.trust_domain == "example.test"
    assert not steward.policy.challenge_required
    assert [tee.value for tee in steward.appraisers] == ["snp"]


def test_command_prints_what_is_then_read(tmp_path: Path) -> None:
    source = tmp_path / "steward.toml"
    source.write_text(f"[snp]\n{MEASURED}\n[sgx]\n{ENCLAVE}hash_blacklist = ['{'0a' * 32}']")
    arguments = ["policy", "convert", str(source), "--trust-domain", "example.test"]
    done = CliRunner().invoke(command, arguments)
    assert done.exception is None
    (tmp_path / "policy.toml").write_text(done.stdout)
    # The converted file and the original are the same policy.
    assert Policy.load(tmp_path / "policy.toml") == Policy.load(source, "example.test")
    with_host = CliRunner().invoke(command, [*arguments, "--drawbridge", "d.test"]).stdout
    document = tomllib.loads(with_host)
    assert (document["local_workloads"], document["drawbridges"]) == (False, {"d.test": {}})
    checked = CliRunner().invoke(command, ["policy", "check", str(source)])
    assert checked.exception is None
    assert "snp, sgx" in checked.output
    wrong = CliRunner().invoke(command, [*arguments, "--drawbridge", 'd"]\n'])
    assert isinstance(wrong.exception, Malformed)


@pytest.mark.parametrize(
    ("text", "least", "end"),
    [
        ("*", (0, 0), (1000, 0)),
        (">=1.51", (1, 51), (1000, 0)),
        (">1.51", (1, 52), (1000, 0)),
        (">1", (2, 0), (1000, 0)),
        ("1.51", (1, 51), (2, 0)),
        ("^1.51.0", (1, 51), (2, 0)),
        ("^0.5", (0, 5), (0, 6)),
        ("0", (0, 0), (1, 0)),
        ("~1.51", (1, 51), (1, 52)),
        ("=1", (1, 0), (2, 0)),
        ("<=1.55", (0, 0), (1, 56)),
        (">=1.51, <1.60", (1, 51), (1, 60)),
    ],
)
def test_ranges(text: str, least: tuple[int, int], end: tuple[int, int]) -> None:
    found = VersionRange.parse(text)
    assert (found.least, found.end) == (least, end)
    assert VersionRange.parse(str(found)) == found
    assert found.admits(least)
    assert not found.admits(end)


@pytest.mark.parametrize(
    "text", ["", ",", "1.51.3", "1.*", "a", ">=", "1.0-rc", "<0.0", "1, 2", "٣", "1" * 300]
)
def test_no_ranges(text: str) -> None:
    with pytest.raises(Malformed):
        VersionRange.parse(text)
