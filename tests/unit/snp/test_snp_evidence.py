"""SNP evidence as it travels, and the certificate of the key that signs reports."""

from __future__ import annotations

from dataclasses import replace

import pytest
from cryptography import x509
from cryptography.hazmat import asn1
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import given
from hypothesis import strategies as st
from tests.vectors import vectors

from garrison.errors import Malformed
from garrison.formats.csr import EnarxEvidence, Request
from garrison.formats.snp import Product, SigningKey
from garrison.formats.snp_certificate import VekCertificate, load_crl
from garrison.formats.snp_evidence import (
    MAX_CERTIFICATES,
    MAX_ENARX_EVIDENCE,
    MAX_EVIDENCE,
    SnpEvidence,
)
from garrison.testing.snp import FakePlatform, chip_key

SMALL = SnpEvidence(b"r" * 24, (b"a" * 23, b"b" * 256, b""))
WIRE = SMALL.to_bytes()


def test_bytes_are_the_deterministic_cbor_of_the_map() -> None:
    expected = b"".join(
        (
            b"\xa2",
            b"\x66report",
            b"\x58\x18" + b"r" * 24,
            b"\x6ccertificates",
            b"\x83",
            b"\x57" + b"a" * 23,
            b"\x59\x01\x00" + b"b" * 256,
            b"\x40",
        )
    )
    assert expected == WIRE
    assert SnpEvidence.from_bytes(WIRE) == SMALL


@given(st.binary(max_size=2000), st.lists(st.binary(max_size=2000), max_size=MAX_CERTIFICATES))
def test_round_trip(report: bytes, certificates: list[bytes]) -> None:
    evidence = SnpEvidence(report, tuple(certificates))
    assert SnpEvidence.from_bytes(evidence.to_bytes()) == evidence


@pytest.mark.parametrize("size", range(len(WIRE)))
def test_truncated(size: int) -> None:
    with pytest.raises(Malformed):
        SnpEvidence.from_bytes(WIRE[:size])


@pytest.mark.parametrize(
    "data",
    [
        WIRE + b"\0",
        b"\xbf" + WIRE[1:],  # indefinite length
        b"\xb8\x02" + WIRE[1:],  # not the shortest length
        WIRE.replace(b"\x57" + b"a" * 23, b"\x58\x17" + b"a" * 23),
        WIRE.replace(b"\x59\x01\x00", b"\x5a\x00\x00\x01\x00"),
        WIRE.replace(b"\x83", b"\x84"),
        WIRE.replace(b"\x83", b"\x9f"),
        WIRE.replace(b"\x40", b"\x60"),  # a text string
        WIRE.replace(b"report", b"Report"),
        b"\xa2\x6ccertificates\x80\x66report\x40",  # the other order
        b"\xa1\x66report\x40",
        b"\xa3" + WIRE[1:] + b"\x61x\x00",
        SnpEvidence(b"", ()).to_bytes()[:-1] + b"\x85" + b"\x40" * 5,
    ],
)
def test_any_other_encoding_is_malformed(data: bytes) -> None:
    with pytest.raises(Malformed):
        SnpEvidence.from_bytes(data)


def test_too_long() -> None:
    with pytest.raises(Malformed, match=f"too long; found {MAX_EVIDENCE + 1} bytes"):
        SnpEvidence.from_bytes(bytes(MAX_EVIDENCE + 1))
    with pytest.raises(Malformed, match="too long"):
        SnpEvidence.from_enarx(bytes(MAX_ENARX_EVIDENCE + 1))


def test_too_many_certificates() -> None:
    with pytest.raises(Malformed, match="5 certificates; expected at most 4"):
        SnpEvidence(b"", (b"",) * 5).to_bytes()


@given(st.binary())
def test_parsers_raise_malformed_only(data: bytes) -> None:
    for parse in (SnpEvidence.from_enarx, VekCertificate.from_bytes, lambda der: load_crl(der, "")):
        with pytest.raises(Malformed):
            parse(data)
    try:
        evidence = SnpEvidence.from_bytes(data)
    except Malformed:
        return
    assert evidence.to_bytes() == data


@given(st.data())
def test_a_changed_certificate_is_malformed_or_another_certificate(data: st.DataObject) -> None:
    der = bytearray(_LEAF)
    der[data.draw(st.integers(0, len(der) - 1))] = data.draw(st.integers(0, 255))
    try:
        vek = VekCertificate.from_bytes(bytes(der))
    except Malformed:
        return
    assert vek.certificate.public_bytes(Encoding.DER) == bytes(der)


_LEAF = FakePlatform().endorsements().leaf


def test_vcek() -> None:
    vek = VekCertificate.from_bytes(_LEAF)
    assert vek.kind is SigningKey.VCEK
    assert vek.product is Product.MILAN
    assert vek.tcb == FakePlatform().tcb
    assert vek.hwid == FakePlatform().hwid
    assert vek.csp_id is None
    assert vek.key == chip_key(0).public_key()


def test_vlek() -> None:
    vek = VekCertificate.from_bytes(FakePlatform(kind=SigningKey.VLEK).endorsements().leaf)
    assert vek.kind is SigningKey.VLEK
    assert vek.hwid is None
    assert vek.csp_id == "CN=insecure.invalid"


def test_stepping_after_the_product() -> None:
    leaf = FakePlatform().endorsements(product_name="Milan-B0").leaf
    vek = VekCertificate.from_bytes(leaf)
    assert (vek.product, vek.product_name) == (Product.MILAN, "Milan-B0")


@pytest.mark.parametrize("platform", [FakePlatform(), FakePlatform.turin()])
def test_hwid_in_an_octet_string(platform: FakePlatform) -> None:
    leaf = platform.endorsements(hwid=asn1.encode_der(platform.hwid)).leaf
    assert VekCertificate.from_bytes(leaf).hwid == platform.hwid


@pytest.mark.parametrize("hwid", [b"", bytes(8), bytes(63), bytes(65), b"\x04\x3f" + bytes(63)])
def test_hwid_of_another_length(hwid: bytes) -> None:
    with pytest.raises(Malformed, match="hwID"):
        VekCertificate.from_bytes(FakePlatform().endorsements(hwid=hwid).leaf)


def test_a_version_of_six_thousand_digits() -> None:
    """Python does not write such a number; the error about it must still be one of ours."""
    platform = FakePlatform()
    leaf = platform.endorsements(tcb=replace(platform.tcb, bl=1 << 20_000)).leaf
    with pytest.raises(Malformed, match="bl: out of range; found a number of 20001 bits"):
        VekCertificate.from_bytes(leaf)


def test_unknown_product() -> None:
    leaf = FakePlatform().endorsements(product_name="Rome-B0").leaf
    with pytest.raises(Malformed, match="unknown product; found 'Rome-B0'"):
        VekCertificate.from_bytes(leaf)


def test_other_certificates_are_no_vek() -> None:
    chain = FakePlatform().endorsements()
    for der in (chain.issuer, chain.root):
        with pytest.raises(Malformed, match="neither a VCEK nor a VLEK"):
            VekCertificate.from_bytes(der)


def test_weak_key() -> None:
    key = ec.generate_private_key(ec.SECP256R1()).public_key()
    platform = FakePlatform()
    leaf = platform.vendor.vek(key, platform.tcb, hwid=platform.hwid)
    with pytest.raises(Malformed, match="wrong kind of key; expected P-384"):
        VekCertificate.from_bytes(leaf.public_bytes(Encoding.DER))


def test_missing_extension() -> None:
    # A Milan leaf has no FMC version, and Turin's must.
    with pytest.raises(Malformed, match=r"fmc: missing extension; .*3704\.1\.3\.9"):
        VekCertificate.from_bytes(FakePlatform().endorsements(product_name="Turin").leaf)


@pytest.mark.vectors
def test_the_evidence_of_an_original_keep() -> None:
    directory = vectors("snp") / "steward-milan-csr-enarx"
    request = Request.from_der((directory / "request.csr.der").read_bytes())
    assert isinstance(request.evidence, EnarxEvidence)
    evidence, crls = SnpEvidence.from_enarx(request.evidence.der)
    assert evidence.report == (directory / "report.bin").read_bytes()
    assert evidence.certificates == ((directory / "vek.der").read_bytes(),)
    assert (directory / "crl.der").read_bytes() in crls
    for der in crls:
        assert x509.load_der_x509_crl(der).public_bytes(Encoding.DER) == der


@pytest.mark.vectors
def test_truncated_evidence_of_an_original_keep() -> None:
    directory = vectors("snp") / "steward-milan-csr-enarx"
    evidence = Request.from_der((directory / "request.csr.der").read_bytes()).evidence
    assert isinstance(evidence, EnarxEvidence)
    for size in range(0, len(evidence.der), 97):
        with pytest.raises(Malformed):
            SnpEvidence.from_enarx(evidence.der[:size])
    with pytest.raises(Malformed):
        SnpEvidence.from_enarx(evidence.der + b"\0")
