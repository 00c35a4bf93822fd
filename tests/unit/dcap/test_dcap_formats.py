"""The formats of quotes, collateral and PCK certificates: the same bytes back, or Malformed."""

from __future__ import annotations

import json
from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import given, settings
from hypothesis import strategies as st

from garrison.errors import Malformed
from garrison.formats.dcap_collateral import EnclaveIdentity, Signed, TcbInfo
from garrison.formats.dcap_quote import MAX_QUOTE, Quote, SignatureData, TeeType
from garrison.formats.sgx_certificate import PckCertificate, load_chain
from garrison.formats.sgx_report import SGX_REPORT_SIZE, SgxReport
from garrison.formats.tdx_report import TD10_REPORT_SIZE, TD15_REPORT_SIZE, TdReport
from garrison.testing.dcap import (
    FMSPC,
    FakeIntel,
    FakeQuoter,
    sgx_report,
    td_report,
)

TD15 = td_report(tee_tcb_svn2=b"\x07" * 16, mr_service_td=b"\x08" * 48)
QUOTES = {
    "v3": FakeQuoter().quote(sgx_report(), 3),
    "v4-sgx": FakeQuoter().quote(sgx_report(), 4),
    "v4-td": FakeQuoter().quote(td_report(), 4),
    "v5-sgx": FakeQuoter().quote(sgx_report(), 5),
    "v5-td10": FakeQuoter().quote(td_report(), 5),
    "v5-td15": FakeQuoter().quote(TD15, 5),
}
INTEL = FakeIntel()
INFO = INTEL.tcb_info(TeeType.TDX)
IDENTITY = INTEL.qe_identity(TeeType.SGX)


@pytest.mark.parametrize("name", QUOTES)
def test_quotes_come_out_as_they_went_in(name: str) -> None:
    for tail in (b"", b"\0", bytes(3065)):
        quote = Quote.from_bytes(QUOTES[name] + tail)
        assert quote.to_bytes() == QUOTES[name] + tail
        assert quote.trailing == tail


@pytest.mark.parametrize("name", QUOTES)
def test_truncated_quotes(name: str) -> None:
    data = QUOTES[name]
    for size in (*range(0, len(data), 7), len(data) - 1):
        with pytest.raises(Malformed):
            Quote.from_bytes(data[:size])


@pytest.mark.parametrize("name", QUOTES)
def test_a_changed_byte_parses_to_itself_or_not_at_all(name: str) -> None:
    for offset in range(0, len(QUOTES[name]), 5):
        data = bytearray(QUOTES[name])
        data[offset] ^= 0x41
        try:
            quote = Quote.from_bytes(bytes(data))
        except Malformed:
            continue
        assert quote.to_bytes() == data


@pytest.mark.parametrize(
    ("name", "offset", "value", "message"),
    [
        ("v3", 0, 2, "quote: version: unknown version; found 2; expected 3 | 4 | 5"),
        ("v4-td", 0, 3, "quote: TEE type: unknown TEE type; found 0x81; expected 0x0"),
        ("v3", 2, 3, "quote: attestation key type"),
        ("v4-td", 4, 0x82, "quote: TEE type: unknown TEE type; found 0x82"),
        ("v3", 12, 0, "quote: QE vendor: unknown vendor"),
        ("v5-sgx", 48, 2, "quote: body: unknown body; found type 2 of 384 bytes"),
        ("v5-td10", 48, 1, "quote: body: unknown body; found type 1 of 584 bytes"),
        ("v5-td15", 48, 2, "quote: body: unknown body; found type 2 of 648 bytes"),
        ("v5-td15", 50, 0, "quote: body: unknown body"),
        ("v4-sgx", 48 + 384 + 4 + 128, 5, "quote: certification data type: unknown type; found 5"),
        ("v3", 48 + 384 + 4 + 128 + 448 + 2 + 32, 6, "quote: QE certification data type"),
        ("v3", 48 + 384 + 4 + 128 + 448 + 2 + 32, 0, "quote: QE certification data type"),
    ],
)
def test_unknown_values(name: str, offset: int, value: int, message: str) -> None:
    data = bytearray(QUOTES[name])
    data[offset] = value
    with pytest.raises(Malformed) as caught:
        Quote.from_bytes(bytes(data))
    assert message in str(caught.value)


def test_sizes_inside_must_add_up() -> None:
    quote = Quote.from_bytes(QUOTES["v3"])
    for version in (3, 4):
        raw = quote.signature.to_bytes(version)
        assert SignatureData.from_bytes(raw, version) == quote.signature
        with pytest.raises(Malformed, match="bytes after the end"):
            SignatureData.from_bytes(raw + b"\0", version)
    with pytest.raises(Malformed, match="too long"):
        Quote.from_bytes(QUOTES["v3"] + bytes(MAX_QUOTE))


def test_reports() -> None:
    for report in (td_report(), TD15):
        assert TdReport.from_bytes(report.to_bytes()) == report
    assert SgxReport.from_bytes(sgx_report().to_bytes()) == sgx_report()
    for size in (0, SGX_REPORT_SIZE - 1, SGX_REPORT_SIZE + 1):
        with pytest.raises(Malformed):
            SgxReport.from_bytes(bytes(size))
    for size in (0, TD10_REPORT_SIZE + 1, TD15_REPORT_SIZE - 1, TD15_REPORT_SIZE + 1):
        with pytest.raises(Malformed, match="TD report: wrong length"):
            TdReport.from_bytes(bytes(size))
    assert sgx_report(attributes=b"\x02" + bytes(15)).debug
    assert td_report(td_attributes=1).debug


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=2000))
def test_any_bytes(data: bytes) -> None:
    for read in (
        Quote.from_bytes,
        SgxReport.from_bytes,
        TdReport.from_bytes,
        TcbInfo.from_json,
        EnclaveIdentity.from_json,
        lambda found: SignatureData.from_bytes(found, 4),
        lambda found: Signed.from_bytes(found, "tcbInfo"),
        lambda found: load_chain(found, "chain"),
    ):
        with pytest.raises(Malformed):
            read(data)


@settings(max_examples=300, deadline=None)
@given(
    st.sampled_from(sorted(QUOTES)),
    st.integers(0, 1200),
    st.binary(min_size=1, max_size=8),
)
def test_any_bytes_in_a_quote(name: str, offset: int, patch: bytes) -> None:
    data = QUOTES[name][:offset] + patch + QUOTES[name][offset + len(patch) :]
    try:
        quote = Quote.from_bytes(data)
    except Malformed:
        return
    assert quote.to_bytes() == data


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=5,
)


@settings(max_examples=200, deadline=None)
@given(st.sampled_from(sorted(INFO)), JSON)
def test_any_value_in_tcb_info(key: str, value: object) -> None:
    try:
        info = TcbInfo.from_json(json.dumps(INFO | {key: value}).encode())
    except Malformed:
        return
    assert len(info.levels) <= 3


def test_collateral_of_an_older_service_is_told_by_its_version() -> None:
    """TCB info of version 2 has no `id`; what is wrong with it is its version."""
    older = {key: value for key, value in INFO.items() if key != "id"} | {"version": 2}
    with pytest.raises(Malformed, match="TCB info: version: another version; found 2; expected 3"):
        TcbInfo.from_json(json.dumps(older).encode())
    with pytest.raises(Malformed, match="version: another version; found 1; expected 2") as caught:
        EnclaveIdentity.from_json(json.dumps(IDENTITY | {"version": 1}).encode())
    assert "/certification/v4/" in (caught.value.hint or "")


@settings(max_examples=200, deadline=None)
@given(st.sampled_from(sorted(IDENTITY)), JSON)
def test_any_value_in_an_identity(key: str, value: object) -> None:
    try:
        identity = EnclaveIdentity.from_json(json.dumps(IDENTITY | {key: value}).encode())
    except Malformed:
        return
    assert len(identity.levels) <= 3


@pytest.mark.parametrize(
    "change",
    [
        {"version": 2},
        {"version": True},
        {"tcbType": 1},
        {"id": "SGX2"},
        {"fmspc": "00a0671100"},
        {"fmspc": "00 0671100 0"},
        {"issueDate": "2025-01-01T00:00:00"},
        {"issueDate": "2025-02-30T00:00:00Z"},
        {"tcbLevels": {}},
        {"tcbLevels": [{}]},
        {"tcbLevels": 257 * INFO["tcbLevels"]},
        {"tcbLevels": [INFO["tcbLevels"][0] | {"tcbStatus": "Fine"}]},
        {"tcbLevels": [INFO["tcbLevels"][0] | {"advisoryIDs": [1]}]},
        {"tcbLevels": [INFO["tcbLevels"][0] | {"tcb": {"pcesvn": 1}}]},
        {"tdxModule": None},
        {"tdxModuleIdentities": 2 * INFO["tdxModuleIdentities"]},
    ],
)
def test_malformed_tcb_info(change: dict[str, Any]) -> None:
    with pytest.raises(Malformed, match="TCB info"):
        TcbInfo.from_json(json.dumps(INFO | change).encode())


def test_names_that_stand_twice() -> None:
    data = json.dumps(INFO)
    with pytest.raises(Malformed, match="a name stands twice"):
        TcbInfo.from_json(f'{{"id":"SGX",{data[1:]}'.encode())


def test_what_intel_adds_is_skipped() -> None:
    info = TcbInfo.from_json(json.dumps(INFO | {"new": {"any": ["thing"]}}).encode())
    assert info == TcbInfo.from_json(json.dumps(INFO).encode())


def test_signed_documents_keep_the_exact_bytes() -> None:
    inner = b'{ "a":\n1 }'
    for before, after in (
        (b'{"tcbInfo":', b',"signature":"'),
        (b'{ "tcbInfo" : ', b', "signature": "'),
    ):
        signed = Signed.from_bytes(before + inner + after + 128 * b"a" + b'"}', "tcbInfo")
        assert signed.data == inner
        assert signed.signature == 64 * b"\xaa"
    for wrong in (
        b'{"tcbInfo":{},"signature":"' + 127 * b"a" + b'"}',
        b'{"tcbInfo":{},"signature":"' + 128 * b"g" + b'"}',
        b'{"signature":"' + 128 * b"a" + b'","tcbInfo":{}}',
        b'{"enclaveIdentity":{},"signature":"' + 128 * b"a" + b'"}',
        b'{"tcbInfo":{},"signature":"' + 128 * b"a" + b'"}' + bytes(256 * 1024),
    ):
        with pytest.raises(Malformed):
            Signed.from_bytes(wrong, "tcbInfo")


def test_chains() -> None:
    pem = INTEL.pem("pck", "ca", "root")
    ders = [each.public_bytes(Encoding.DER) for each in load_chain(pem + b"\0", "chain")]
    assert len(ders) == 3
    assert len(load_chain(pem.replace(b"\n", b"\r\n"), "chain")) == 3
    # Some provisioning services put the leaf before its issuers without a line break.
    joined = pem.replace(b"-----END CERTIFICATE-----\n", b"-----END CERTIFICATE-----", 1)
    assert [each.public_bytes(Encoding.DER) for each in load_chain(joined, "chain")] == ders
    for wrong in (
        b"",
        b"\0",
        b"junk" + pem,
        pem + b"junk",
        pem + pem[: len(pem) // 3],
        pem + INTEL.pem("signer"),
        pem.replace(b"MII", b"!!!"),
        pem.replace(b"-----END", b"=-----END", 1),
    ):
        with pytest.raises(Malformed):
            load_chain(wrong, "chain")


def test_only_a_pck_certificate_has_the_extension() -> None:
    pck = PckCertificate.from_certificate(INTEL.certificate("pck"))
    assert (pck.fmspc, pck.components, pck.sgx_type) == (FMSPC, INTEL.components, 1)
    with pytest.raises(Malformed, match="missing extension"):
        PckCertificate.from_certificate(INTEL.certificate("ca"))
