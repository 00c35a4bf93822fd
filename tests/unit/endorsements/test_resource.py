"""Reading vendors' documents as far as their dates, and refusing what is something else."""

from __future__ import annotations

from datetime import timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import given
from hypothesis import strategies as st

from garrison.endorsements.resource import Document, Kind, inspect, normalized, read_chain
from garrison.errors import Malformed
from garrison.testing.snp import NOW, FakePlatform
from garrison.testing.vendor_server import signed_json

VENDOR = FakePlatform().vendor
CHAIN = VENDOR.ask().public_bytes(Encoding.PEM) + VENDOR.ark().public_bytes(Encoding.PEM)
CRL = VENDOR.crl().public_bytes(Encoding.DER)
GOOD = {
    Kind.VEK: FakePlatform().endorsements().leaf,
    Kind.CHAIN: CHAIN,
    Kind.CRL: CRL,
    Kind.TCB_INFO: signed_json(Kind.TCB_INFO, NOW, NOW + timedelta(days=30)),
    Kind.QE_IDENTITY: signed_json(Kind.QE_IDENTITY, NOW, NOW + timedelta(days=30)),
}


@given(st.sampled_from(Kind), st.binary(max_size=2000), st.binary(max_size=200))
def test_any_bytes_are_malformed(kind: Kind, body: bytes, chain: bytes) -> None:
    with pytest.raises(Malformed):
        inspect(kind, Document(body, chain), "document")
    with pytest.raises(Malformed):
        inspect(kind, Document(GOOD[kind], chain or b"x"), "document")


@given(st.sampled_from(Kind), st.data())
def test_a_truncated_document_is_malformed(kind: Kind, data: st.DataObject) -> None:
    good = GOOD[kind]
    end = data.draw(st.integers(min_value=0, max_value=len(good) - 2))
    # A chain without its last certificate is a chain; of that end, all else is not.
    if kind is Kind.CHAIN and good[:end].rstrip().endswith(b"-----END CERTIFICATE-----"):
        assert len(read_chain(good[:end], "chain")) == 1
        return
    with pytest.raises(Malformed):
        inspect(kind, Document(good[:end]), "document")


@pytest.mark.parametrize("kind", Kind)
def test_each_is_none_of_the_others(kind: Kind) -> None:
    for other, body in GOOD.items():
        if other is kind:
            inspect(kind, Document(body), "document")
            continue
        with pytest.raises(Malformed):
            inspect(kind, Document(body), "document")


@pytest.mark.parametrize("kind", Kind)
def test_a_gigantic_document(kind: Kind) -> None:
    with pytest.raises(Malformed, match="document: too long"):
        inspect(kind, Document(bytes(kind.limit + 1)), "document")


@pytest.mark.parametrize(
    ("pem", "message"),
    [
        (b"", "not PEM of certificates"),
        (CHAIN * 3, "not PEM of certificates; found 6"),
        (b"subject=CN\n" + CHAIN, "not PEM of certificates"),
        (CHAIN.replace(b"\n-----END", b"A\n-----END", 1), "not base64"),
        (CHAIN.replace(b"\nMII", b"\nAAA", 1), "not an X.509 certificate"),
        (CHAIN.replace(b"CERTIFICATE", b"PRIVATE KEY"), "not PEM of certificates"),
    ],
)
def test_what_is_no_chain(pem: bytes, message: str) -> None:
    with pytest.raises(Malformed, match=message):
        read_chain(pem, "chain")


def test_chains_as_vendors_write_them() -> None:
    expected = [VENDOR.ask().serial_number, VENDOR.ark().serial_number]
    for pem in (CHAIN, CHAIN.replace(b"\n", b"\r\n"), CHAIN.rstrip(), b"\n" + CHAIN):
        assert [each.serial_number for each in read_chain(pem, "chain")] == expected


def test_the_earliest_end_of_a_chain_counts() -> None:
    shorter = FakePlatform(lifetime=timedelta(days=400)).vendor
    pem = VENDOR.ask().public_bytes(Encoding.PEM) + shorter.ark().public_bytes(Encoding.PEM)
    dates = inspect(Kind.CHAIN, Document(pem), "chain")
    assert dates.expires == shorter.ark().not_valid_after_utc < VENDOR.ask().not_valid_after_utc


def test_a_list_without_an_end() -> None:
    """RFC 5280 demands a next update; ASN.1 does not."""
    key = ec.generate_private_key(ec.SECP256R1())
    crl = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(VENDOR.ark().subject)
        .last_update(NOW)
        .next_update(NOW + timedelta(days=1))
        .sign(key, hashes.SHA256())
        .public_bytes(Encoding.DER)
    )
    end = b"\x17\x0d" + b"260102000000Z"
    assert crl.count(end) == 1
    start = crl.index(end)
    # The sequences around it are 15 bytes shorter then; both lengths stand in two-byte form.
    shorter = bytearray(crl[:start] + crl[start + len(end) :])
    for position in (0, shorter.index(b"\x30", 2)):
        _shorten(shorter, position, len(end))
    with pytest.raises(Malformed, match="a revocation list without an end"):
        inspect(Kind.CRL, Document(bytes(shorter)), "list")


def _shorten(der: bytearray, position: int, by: int) -> None:
    """Reduce the length of the value at `position`, which keeps its form."""
    form = der[position + 1]
    size = form & 0x7F if form & 0x80 else 0
    first = position + 2 if size else position + 1
    last = first + (size or 1)
    length = int.from_bytes(der[first:last], "big") - by
    assert length >= (0x80 if size else 0)
    der[first:last] = length.to_bytes(last - first, "big")


@given(st.binary(max_size=200))
def test_hex_is_read_where_a_pccs_writes_it(body: bytes) -> None:
    if body:
        assert normalized(Kind.CRL, body.hex().encode()) == body
        assert normalized(Kind.CRL, b" " + body.hex().upper().encode() + b"\r\n") == body
    assert normalized(Kind.TCB_INFO, body) == body
    assert normalized(Kind.CRL, b"0\x82" + body) == b"0\x82" + body
