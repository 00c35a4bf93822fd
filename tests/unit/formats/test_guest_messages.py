"""Reports and quotes in the messages of Google's guest libraries, and protocol buffers at large."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from garrison.errors import Malformed
from garrison.formats.guest_messages import Message, read_message
from garrison.formats.protobuf import Field, read_bytes, read_text
from garrison.testing.dcap import FakeIntel, FakeQuoter, td_report
from garrison.testing.guest_messages import (
    Fields,
    attestation_fields,
    binary,
    quote_fields,
    report_fields,
    text,
    tpm_fields,
)
from garrison.testing.snp import FakePlatform

PLATFORM = FakePlatform()
CHAIN = PLATFORM.endorsements()
QUOTER = FakeQuoter(FakeIntel())


def attestation(raw: bytes) -> Fields:
    return attestation_fields(raw, CHAIN)


@pytest.mark.parametrize("form", [binary, text])
@pytest.mark.parametrize("version", [2, 3, 4, 5])
def test_reports(form: Any, version: int) -> None:
    raw = PLATFORM.report(version=version)
    assert read_message(form(report_fields(raw))) == Message("sevsnp.Report", raw)
    whole = read_message(form(attestation(raw)))
    certificates = (CHAIN.leaf, CHAIN.issuer, CHAIN.root)
    assert whole == Message("sevsnp.Attestation", raw, certificates)


@pytest.mark.parametrize("form", [binary, text])
@pytest.mark.parametrize("version", [4, 5])
@pytest.mark.parametrize("padding", [b"", bytes(70)])
def test_quotes(form: Any, version: int, padding: bytes) -> None:
    raw = QUOTER.quote(td_report(), version) + padding
    message = read_message(form(quote_fields(raw, version)))
    assert message == Message(f"tdx.QuoteV{version}", raw)


@pytest.mark.parametrize("form", [binary, text])
def test_beside_a_tpm(form: Any) -> None:
    """go-tpm-tools: the TEE's evidence is taken, and told that the TPM's quotes are not."""
    raw, quote = PLATFORM.report(), QUOTER.quote(td_report(), 4)
    snp = (8, "sev_snp_attestation", attestation(raw))
    tdx = (9, "tdx_attestation", quote_fields(quote, 4))
    name = "attest.Attestation, of which the TPM's quotes are not looked at, out of the message "
    certificates = (CHAIN.leaf, CHAIN.issuer, CHAIN.root)
    found = read_message(form(tpm_fields(snp)))
    assert found == Message(f"{name}sevsnp.Attestation", raw, certificates)
    assert read_message(form(tpm_fields(tdx))) == Message(f"{name}tdx.QuoteV4", quote)
    for tees, told in (((), "quotes of the TPM alone"), ((snp, tdx), "sev_snp_.* and tdx_")):
        with pytest.raises(Malformed, match=f"attest.Attestation: a virtual TPM's .*{told}"):
            read_message(form(tpm_fields(*tees)))


def test_what_is_no_message() -> None:
    for data in (b"", b"\x0a", PLATFORM.report(), QUOTER.quote(td_report(), 4), b"report", b"{}"):
        assert read_message(data) is None


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("chip_id", bytes(63), "sevsnp.Report: chip_id: wrong length; found 63; expected 64 bytes"),
        ("current_build", 256, "current_build: too large; found 256; expected 1 bytes"),
        ("cpuid1eax_fms", 1 << 12, "cpuid1eax_fms: not a processor's signature"),
        ("cpuid1eax_fms", 0x0FF00F00, "cpuid1eax_fms: not a processor's signature"),
    ],
)
def test_fields_that_do_not_fit(name: str, value: Any, message: str) -> None:
    fields = report_fields(PLATFORM.report())
    wrong = [(number, each, value if each == name else was) for number, each, was in fields]
    for form in (binary, text):
        with pytest.raises(Malformed, match=message):
            read_message(form(wrong))


def test_fields_that_are_missing() -> None:
    whole = quote_fields(QUOTER.quote(td_report(), 4), 4)
    with pytest.raises(Malformed, match=r"tdx\.QuoteV4: signed_data: missing"):
        read_message(binary([each for each in whole if each[1] != "signed_data"]))
    body = [each for each in whole[1][2] if each[1] != "rtmrs"]
    with pytest.raises(Malformed, match=r"rtmrs: wrong length; found 0; expected 48 .* 4 times"):
        read_message(binary([whole[0], (2, "td_quote_body", body), *whole[2:]]))


@given(st.data())
def test_any_bytes_are_a_message_or_malformed(data: st.DataObject) -> None:
    whole = bytearray(data.draw(st.sampled_from([binary, text]))(attestation(PLATFORM.report())))
    for _ in range(data.draw(st.integers(1, 4))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    cut = bytes(whole[: data.draw(st.integers(0, len(whole)))])
    for each in (bytes(whole), cut):
        try:
            read_message(each)
        except Malformed:
            continue


# Protocol buffers.

INNER = {1: Field("number", "number")}
OUTER = {
    1: Field("number", "number"),
    2: Field("data", "bytes"),
    3: Field("inner", INNER),
    4: Field("many", "bytes", repeated=True),
    5: Field("kind", "enum"),
}


def test_a_message_in_both_forms() -> None:
    expected = {"number": 300, "data": b"ab", "inner": {"number": 1}, "many": [b"x", b""]}
    assert (
        read_bytes(b"\x08\xac\x02\x12\x02ab\x1a\x02\x08\x01\x22\x01x\x22\x00", OUTER, "m")
        == expected
    )
    written = b"""
        # A comment.
        number: 0x12c, data: 'a' "b"; inner < number: 1 > many: "x"
        many: "" # and another"""
    assert read_text(written, OUTER, "m") == expected
    assert read_text(b"inner {} kind: SOME kind2: 1"[:19], OUTER, "m") == {
        "inner": {},
        "kind": b"SOME",
    }
    assert read_text(b"kind: _x1", OUTER, "m") == {"kind": b"_x1"}
    most = (1 << 64) - 1
    assert read_text(b"number: %d" % most, OUTER, "m") == {"number": most}
    assert read_text(b"number: 0", OUTER, "m") == {"number": 0}


def test_escapes() -> None:
    written = rb'data: "\x01\7\n\"\'\\\u00e9\U0001F600' + "é".encode() + b'"'
    expected = b"\x01\7\n\"'\\" + "é😀é".encode()
    assert read_text(written, OUTER, "m") == {"data": expected}


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"\x30\x01", r"m: unknown field; found field 6; expected 1 \(number\), 2"),
        (b"\x0a\x01x", "m: number: wrong wire type; found 2; expected 0"),
        (b"\x10\x01", "m: data: wrong wire type; found 0; expected 2"),
        (b"\x0d\x01\x00\x00\x00", "m: number: wrong wire type; found 5"),
        (b"\x08\x01\x08\x01", "m: number: stands twice"),
        (b"\x12\x03ab", "m: data: ends too early; found 2 bytes; expected 3 bytes"),
        (b"\x08", "m: number: ends too early; expected a number"),
        (b"\x08\x80\x00", "not a number of 64 bits in its shortest form"),
        (b"\x08" + b"\xff" * 9 + b"\x02", "not a number of 64 bits in its shortest form"),
        (b"\x08" + b"\xff" * 10, "not a number of 64 bits in its shortest form"),
        (b"\x1a\x02\x10\x01", "m: inner: unknown field"),
    ],
)
def test_wrong_bytes(data: bytes, message: str) -> None:
    with pytest.raises(Malformed, match=message):
        read_bytes(data, OUTER, "m")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"other: 1", "m: something else; found other, before byte 5; expected data, inner"),
        (b"number 1", "m: number: something else; found 1, .* expected a colon"),
        (b"number: -1", "m: not the text of a message; found byte 7"),
        (b"number: 18446744073709551616", "m: number: not a number of 64 bits; found 18446744"),
        (b"number: 0755", "m: not the text of a message"),
        (b"number: 1.5", "m: not the text of a message"),
        (b"number: NAME", "m: number: something else; found NAME"),
        (b"number: 1 number: 1", "m: number: stands twice"),
        (b"data: 5", "m: data: something else; found 5, .* expected a string"),
        (b'data: "ab', "m: not the text of a message"),
        (b'data: "\\q"', r"m: data: unknown escape; found \\q"),
        (b'data: "\\400"', r"m: data: unknown escape; found \\400"),
        (b'data: "\\ud800"', r"m: data: unknown escape; found \\ud800"),
        (b'data: "\\UFFFFFFFF"', r"m: data: unknown escape; found \\UFFFFFFFF"),
        (b"inner: 5", "m: inner: something else; found 5, .* expected {"),
        (b"inner { number: 1", "something else; found the end, .* expected }"),
        (b"inner { number: 1 >", "m: inner: something else; found >"),
        (b"inner { } }", "m: something else; found }"),
        (b'many: ["a"]', "m: not the text of a message"),
    ],
)
def test_wrong_text(data: bytes, message: str) -> None:
    with pytest.raises(Malformed, match=message):
        read_text(data, OUTER, "m")
