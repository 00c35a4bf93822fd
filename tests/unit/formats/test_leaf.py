"""Leaf certificates: what the library's own builder would write, byte for byte."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from hypothesis import given, settings
from hypothesis import strategies as st

from garrison.errors import Malformed
from garrison.formats.leaf import Leaf, extension_of, key_identifier, spki_of

SIGNERS: dict[str, tuple[ec.EllipticCurvePrivateKey, hashes.SHA256 | hashes.SHA384]] = {
    "P-256": (ec.generate_private_key(ec.SECP256R1()), hashes.SHA256()),
    "P-384": (ec.generate_private_key(ec.SECP384R1()), hashes.SHA384()),
}
KEYS = [key.public_key() for key, _ in SIGNERS.values()]
TEXT = st.text(
    st.characters(codec="utf-8", exclude_characters="\0"),
    min_size=1,
    max_size=16,
)
MOMENTS = st.datetimes(datetime(1950, 1, 1), datetime(2199, 12, 31), timezones=st.just(UTC))  # noqa: DTZ001 - the strategy's own bounds


def _name(text: str | None) -> x509.Name:
    return x509.Name([] if text is None else [x509.NameAttribute(NameOID.COMMON_NAME, text)])


@settings(deadline=None)
@given(
    signer=st.sampled_from(list(SIGNERS)),
    key=st.sampled_from(KEYS),
    serial=st.integers(1, (1 << 159) - 1),
    issuer=TEXT,
    subject=TEXT | st.none(),
    start=MOMENTS,
    seconds=st.integers(1, 1 << 33),
    paths=st.lists(st.text("abc", min_size=1, max_size=300), min_size=1, max_size=4),
    is_critical=st.booleans(),
)
def test_it_is_what_the_library_writes(
    signer: str,
    key: ec.EllipticCurvePublicKey,
    serial: int,
    issuer: str,
    subject: str | None,
    start: datetime,
    seconds: int,
    paths: list[str],
    is_critical: bool,
) -> None:
    private, algorithm = SIGNERS[signer]
    end = start + timedelta(seconds=seconds)
    names = x509.SubjectAlternativeName([x509.DNSName(path) for path in paths])
    usage = x509.BasicConstraints(ca=False, path_length=None)
    builder = (
        x509.CertificateBuilder()
        .serial_number(serial)
        .issuer_name(_name(issuer))
        .not_valid_before(start)
        .not_valid_after(end)
        .subject_name(_name(subject))
        .public_key(key)
        .add_extension(names, critical=is_critical)
        .add_extension(usage, critical=not is_critical)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
    )
    expected = builder.sign(private, algorithm)
    spki = spki_of(key)
    leaf = Leaf(
        serial,
        _name(issuer).public_bytes(),
        start,
        end,
        _name(subject),
        spki,
        (
            extension_of(names, critical=is_critical),
            extension_of(usage, critical=not is_critical),
            key_identifier(spki),
        ),
    )
    signed = leaf.signed(lambda tbs: private.sign(tbs, ec.ECDSA(algorithm)), algorithm)
    found = x509.load_der_x509_certificate(signed)
    assert found.tbs_certificate_bytes == expected.tbs_certificate_bytes
    assert found.signature_algorithm_oid == expected.signature_algorithm_oid
    private.public_key().verify(found.signature, found.tbs_certificate_bytes, ec.ECDSA(algorithm))


def test_no_key_is_refused() -> None:
    with pytest.raises(Malformed, match="public key"):
        key_identifier(b"\x30\x00")
