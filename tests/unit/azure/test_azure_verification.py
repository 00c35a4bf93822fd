"""Evidence of a simulated Azure, with every defect that the recorded ones have not."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from cryptography.hazmat.primitives import hashes
from hypothesis import given
from hypothesis import strategies as st

from garrison.appraisal import snp as snp_appraisal
from garrison.appraisal.azure import AzurePolicy, appraise
from garrison.appraisal.snp import SnpPolicy
from garrison.errors import Malformed, Unverified
from garrison.formats.azure import AzureEvidence, HclReport, ReportType, RuntimeData, quote_nonce
from garrison.formats.evidence import Tee
from garrison.formats.strict_toml import Table
from garrison.formats.tpm import MAX_EXTRA_DATA, Quote
from garrison.testing.azure import NONCE, PCRS, FakeAzure, key, runtime
from garrison.testing.snp import NOW, FakePlatform
from garrison.verification.azure import AzureClaims, verify_snp

if TYPE_CHECKING:
    from garrison.appraisal.result import AttestationResult
    from garrison.verification.snp import SnpClaims
    from garrison.verification.verified import Verified

FAKE = FakeAzure()


def check(evidence: AzureEvidence) -> Verified[AzureClaims[SnpClaims]]:
    platform = FAKE.platform
    return verify_snp(evidence, platform.endorsements(), platform.roots(), NOW)


def test_genuine() -> None:
    evidence = AzureEvidence.from_bytes(FAKE.evidence().to_bytes())
    claims = check(evidence).value
    assert claims.quote.extra_data == NONCE
    assert claims.pcrs == PCRS
    assert claims.hardware.value.anchor.simulated


def test_a_foreign_report_under_the_key() -> None:
    # A genuine report of another VM, with the runtime data of this one.
    foreign = FAKE.platform.report(report_data=b"\7" * 64)
    blob = replace(FAKE.blob(), hardware=foreign)
    with pytest.raises(Unverified, match="the hardware vouches for other runtime data"):
        check(FAKE.evidence(blob))


def test_another_key_under_the_report() -> None:
    blob = replace(FAKE.blob(), runtime=runtime(key("stranger")))
    with pytest.raises(Unverified, match="the hardware vouches for other runtime data"):
        check(FAKE.evidence(blob, signer=key("stranger")))


def test_report_data_with_a_tail() -> None:
    data = FAKE.blob().runtime
    bound = HclReport.from_bytes(FAKE.blob().to_bytes()).hardware[0x50:0x70]
    blob = FAKE.blob(data, report_data=bound + b"\1" * 32)
    with pytest.raises(Unverified, match="the hardware vouches for other runtime data"):
        check(FAKE.evidence(blob))


def test_a_report_of_another_chip() -> None:
    with pytest.raises(Unverified, match="SNP report: the signature is wrong"):
        check(FAKE.evidence(FAKE.blob(key=1)))


def test_an_untrusted_platform() -> None:
    other = FakeAzure(FakePlatform(ark=2))
    with pytest.raises(Unverified, match="not a trusted root"):
        verify_snp(other.evidence(), other.platform.endorsements(), FAKE.platform.roots(), NOW)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"signer": key("stranger")}, "TPM quote: the signature is wrong"),
        ({"hash_algorithm": hashes.SHA384()}, "TPM quote: the signature is wrong"),
        ({"selection": tuple(range(23))}, "TPM quote: pcrSelect: not all registers are quoted"),
        ({"selection": ()}, "not all registers are quoted; found none"),
        ({"digest": bytes(32)}, "TPM quote: pcrDigest: the quote is over other registers"),
    ],
)
def test_unverified(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(Unverified, match=message):
        check(FAKE.evidence(**arguments))


def test_other_registers() -> None:
    evidence = replace(FAKE.evidence(), pcrs=(b"\xff" * 32, *PCRS[1:]))
    with pytest.raises(Unverified, match="the quote is over other registers"):
        check(evidence)


def test_a_short_key() -> None:
    short = key("short", 1024)
    with pytest.raises(Unverified, match="the key is too short; found 1024 bits"):
        check(FAKE.evidence(FAKE.blob(runtime(short)), signer=short))


def changed(**members: Any) -> bytes:
    value = json.loads(FAKE.blob().runtime) | members
    return json.dumps({name: item for name, item in value.items() if item is not None}).encode()


AK = json.loads(FAKE.blob().runtime)["keys"][0]


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"[]",
        b"{",
        b'{"keys":[],"keys":[]}',
        b"\xff",
        b"[" * 100_000,
        changed(keys=None),
        changed(keys=[]),
        changed(keys=[AK, AK]),
        changed(keys=[AK | {"kty": "EC"}]),
        changed(keys=[AK | {"n": "!"}]),
        changed(keys=[AK | {"n": 1}]),
        changed(**{"vm-configuration": None}),
        changed(**{"vm-configuration": {"secure-boot": "yes"}}),
        changed(**{"user-data": "0"}),
    ],
)
def test_malformed_runtime_data(data: bytes) -> None:
    with pytest.raises(Malformed):
        RuntimeData.from_bytes(data)


def test_an_even_exponent_is_no_key() -> None:
    data = changed(keys=[AK | {"e": "Ag"}])
    with pytest.raises(Unverified, match="HCLAkPub: not an RSA key"):
        check(FAKE.evidence(FAKE.blob(data)))


@pytest.mark.parametrize(
    ("offset", "value"),
    [
        (0, b"HCLB"),
        (4, b"\3\0\0\0"),
        (8, b"\0\0\0\0"),
        (12, b"\1\0\0\0"),
        (16, b"\1\0\0\0"),
        (0x4C0, b"\0\0\0\0"),
        (0x4C4, b"\2\0\0\0"),
        (0x4C8, b"\3\0\0\0"),
        (0x4CC, b"\2\0\0\0"),
        (0x4D0, b"\xff\xff\xff\xff"),
    ],
)
def test_malformed_blob(offset: int, value: bytes) -> None:
    data = FAKE.blob().to_bytes()
    wrong = data[:offset] + value + data[offset + len(value) :]
    with pytest.raises(Malformed, match="Azure HCL report"):
        HclReport.from_bytes(wrong)


def test_blob_of_tdx_in_place_of_snp() -> None:
    with pytest.raises(Unverified, match="another kind of hardware; found TDX; expected SNP"):
        check(FAKE.evidence(replace(FAKE.blob(), kind=ReportType.TDX)))


@pytest.mark.parametrize(
    ("offset", "value"),
    [
        (0, b"\xfe"),  # magic
        (4, b"\x80\x17"),  # type
        (6, b"\xff\xff"),  # size of the signer's name
        (-41, b"\2"),  # number of selections
        (-39, b"\4"),  # their hash
        (-38, b"\4"),  # size of the selection
        (-34, b"\0\x1f"),  # size of the digest
    ],
)
def test_malformed_quote(offset: int, value: bytes) -> None:
    data = FAKE.quote()
    start = offset % len(data)
    with pytest.raises(Malformed, match="TPM quote"):
        Quote.from_bytes(data[:start] + value + data[start + len(value) :])


ENVELOPE = json.loads(FAKE.evidence().to_bytes())
QUOTE = ENVELOPE["tpm_quote"]


@pytest.mark.parametrize(
    "changes",
    [
        {"version": "1"},
        {"version": 3},
        {"version": True},
        {"extra": 1},
        {"vcek": None},
        {"hcl_report": "A"},
        {"hcl_report": "AB"},
        {"hcl_report": "AA="},
        {"hcl_report": "A A"},
        {"hcl_report": 1},
        {"hcl_report": "A" * 6000},
        {"tpm_quote": QUOTE | {"pcrs": QUOTE["pcrs"][1:]}},
        {"tpm_quote": QUOTE | {"pcrs": ["00"] * 24}},
        {"tpm_quote": QUOTE | {"message": "0 0"}},
        {"tpm_quote": QUOTE | {"message": "00" * 600}},
        {"tpm_quote": QUOTE | {"more": 1}},
        {"tpm_quote": []},
    ],
)
def test_malformed_evidence(changes: dict[str, Any]) -> None:
    with pytest.raises(Malformed, match="Azure evidence"):
        AzureEvidence.from_bytes(json.dumps(ENVELOPE | changes).encode())


@pytest.mark.parametrize("item", [-1, 256, True, "1", None, 1.5])
def test_octets_of_version_0(item: Any) -> None:
    value = {
        "report": [item],
        "vcek": "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
        "quote": {"message": [0], "signature": [0], "pcrs": [[0] * 32] * 24},
    }
    with pytest.raises(Malformed, match=r"report: .* expected an array of 0 to 255"):
        AzureEvidence.from_bytes(json.dumps(value).encode())
    value["report"] = [1]
    assert AzureEvidence.from_bytes(json.dumps(value).encode()).vcek == b"\0\0\0"
    with pytest.raises(Malformed, match="expected a certificate, PEM"):
        AzureEvidence.from_bytes(json.dumps(value | {"vcek": "AAAA"}).encode())


def test_the_nonce_fits() -> None:
    assert len(quote_nonce(bytes(64))) == 48 <= MAX_EXTRA_DATA
    assert quote_nonce(bytes(64)) != quote_nonce(b"\1" + bytes(63))


SNP_POLICY = """
measurements = "any"
products = "any"
minimum_tcb = "any"
id_key_digests = "any"
author_key_digests = "any"
host_data = "any"
chip_ids = "any"
crl = "optional"
endorsements = []
"""


@pytest.mark.parametrize(
    ("machine", "quote", "report", "failed"),
    [
        ({}, {}, {}, []),
        ({}, {"extra_data": b""}, {}, ["TPM quote's nonce"]),
        ({"secure-boot": False}, {}, {}, ["secure boot"]),
        ({"console-enabled": True}, {}, {}, ["console of the host"]),
        ({"tpm-enabled": False}, {}, {}, ["virtual TPM"]),
        ({}, {}, {"vmpl": 1}, ["VMPL"]),
    ],
)
def test_appraisal(
    machine: dict[str, Any], quote: dict[str, Any], report: dict[str, Any], failed: list[str]
) -> None:
    blob = FAKE.blob(runtime(key(FAKE.ak), **machine), **report)
    verified = check(FAKE.evidence(blob, **quote))
    pcrs = "".join(f'{index} = ["{value.hex()}"]\n' for index, value in enumerate(PCRS))
    policy = AzurePolicy.from_table(Table.parse(f"[pcrs]\n{pcrs}", source="policy"))
    snp_policy = SnpPolicy.from_table(Table.parse(SNP_POLICY, source="policy"), Path())

    def hardware(inner: Verified[SnpClaims], report_data: bytes) -> AttestationResult:
        return snp_appraisal.appraise(inner, snp_policy, report_data, NOW)

    result = appraise(verified, policy, NONCE, hardware, NOW)
    assert [each.name for each in result.checks if not each.passed] == failed
    assert result.simulated
    assert result.tee is Tee.SNP


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "missing"),
        ('[pcrs]\n0 = "any"', "missing"),
        ('[pcrs]\n24 = "any"\nothers = "any"', "unknown key"),
        ('secure_boot = "no"\n[pcrs]\nothers = "any"', "unknown value"),
        ('other = 1\n[pcrs]\nothers = "any"', "unknown key"),
    ],
)
def test_a_wrong_policy(text: str, message: str) -> None:
    with pytest.raises(Malformed, match=message):
        AzurePolicy.from_table(Table.parse(text, source="policy"))


@given(st.binary(max_size=200))
def test_any_bytes_are_malformed(data: bytes) -> None:
    for parser in (AzureEvidence, HclReport, RuntimeData, Quote):
        with pytest.raises(Malformed):
            parser.from_bytes(data)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["version", "report", "quote", "vcek", "keys", "pcrs", "tpm_quote"]),
            inner,
        )
    ),
    max_leaves=8,
)


@given(JSON)
def test_any_json_is_malformed(value: Any) -> None:
    data = json.dumps(value).encode()
    for parser in (AzureEvidence, RuntimeData):
        with pytest.raises(Malformed):
            parser.from_bytes(data)
