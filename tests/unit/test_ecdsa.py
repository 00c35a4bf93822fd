"""ECDSA by AWS-LC: whatever it is given, it finds what another library finds."""

from __future__ import annotations

import subprocess
import sys

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.utils import (
    decode_dss_signature,
    encode_dss_signature,
)
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given, settings
from hypothesis import strategies as st

from garrison import ecdsa

KEYS = {curve.name: ec.generate_private_key(curve) for curve in (ec.SECP256R1(), ec.SECP384R1())}
HASHES: dict[str, hashes.HashAlgorithm] = {
    "sha256": hashes.SHA256(),
    "sha384": hashes.SHA384(),
    "sha512": hashes.SHA512(),
}
# SEC 2, sections 2.4.2 and 2.5.1: the order of the group.
ORDERS = {
    "secp256r1": 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551,
    "secp384r1": int(
        "FFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFF"
        "C7634D81F4372DDF581A0DB248B0A77AECEC196ACCC52973",
        16,
    ),
}
CURVES = pytest.mark.parametrize("curve", list(KEYS))


def _theirs(key: ec.EllipticCurvePublicKey, signature: bytes, data: bytes, name: str) -> bool:
    try:
        key.verify(signature, data, ec.ECDSA(HASHES[name]))
    except InvalidSignature:
        return False
    return True


@settings(deadline=None)
@given(
    curve=st.sampled_from(list(KEYS)),
    name=st.sampled_from(list(HASHES)),
    data=st.binary(max_size=200),
    place=st.integers(0, 200),
    bit=st.integers(0, 7),
)
def test_it_agrees_with_another_library(
    curve: str, name: str, data: bytes, place: int, bit: int
) -> None:
    key = KEYS[curve]
    public = key.public_key()
    point = ecdsa.point_of(public)
    signature = key.sign(data, ec.ECDSA(HASHES[name]))
    assert ecdsa.is_signed(point, signature, data, name)
    assert not ecdsa.is_signed(point, signature, data + b"\0", name)
    spoilt = bytearray(signature)
    spoilt[place % len(spoilt)] ^= 1 << bit
    for other in (bytes(spoilt), signature[:-1], signature + b"\0", signature[1:]):
        assert ecdsa.is_signed(point, other, data, name) is _theirs(public, other, data, name)
    assert _theirs(public, ecdsa.signer(key, name)(data), data, name)


@CURVES
def test_numbers_out_of_range_sign_nothing(curve: str) -> None:
    key = KEYS[curve]
    point, order = ecdsa.point_of(key.public_key()), ORDERS[curve]
    for r in (0, 1, order - 1, order, order + 1):
        for s in (0, 1, order - 1, order, order + 1):
            signature = encode_dss_signature(r, s)
            assert not ecdsa.is_signed(point, signature, b"data", "sha256"), (r, s)
    assert not ecdsa.is_signed(point, bytes.fromhex("30060201ff0201ff"), b"data", "sha256")


@CURVES
def test_other_writings_of_a_signature_are_none(curve: str) -> None:
    key = KEYS[curve]
    point, signature = ecdsa.point_of(key.public_key()), key.sign(b"", ec.ECDSA(hashes.SHA256()))
    assert ecdsa.is_signed(point, signature, b"", "sha256")
    # BER's: a length in two bytes, a length left open.
    for other in (b"\x30\x81" + signature[1:], b"\x30\x80" + signature[2:] + b"\0\0", b"", b"\x30"):
        assert not ecdsa.is_signed(point, other, b"", "sha256")


@CURVES
def test_what_is_no_point_is_no_key(curve: str) -> None:
    key = KEYS[curve]
    point, signature = ecdsa.point_of(key.public_key()), key.sign(b"", ec.ECDSA(hashes.SHA256()))
    aside = point[:-1] + bytes([point[-1] ^ 1])
    compressed = key.public_key().public_bytes(Encoding.X962, PublicFormat.CompressedPoint)
    for other in (aside, bytes(len(point)), point[:1] + bytes(len(point) - 1), compressed, b"\0"):
        with pytest.raises(ValueError, match="point"):
            ecdsa.is_signed(other, signature, b"", "sha256")


@CURVES
def test_the_point_is_that_of_the_key(curve: str) -> None:
    public = KEYS[curve].public_key()
    spki = public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    point = ecdsa.point_of(public)
    assert ecdsa.point_of_spki(spki) == point
    assert ecdsa.curve_at(point) == curve
    assert ecdsa.point_of_spki(spki + b"\0") is None
    assert ecdsa.point_of_spki(spki[:-1]) is None
    explicit = spki.replace(b"\x04" + point[1:], b"\x02" + point[1:])
    assert ecdsa.point_of_spki(explicit) is None


def test_keys_of_other_kinds_have_no_point() -> None:
    for key in (
        ec.generate_private_key(ec.SECP521R1()).public_key(),
        ec.generate_private_key(ec.SECP256K1()).public_key(),
        rsa.generate_private_key(65537, 2048).public_key(),
    ):
        spki = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        assert ecdsa.point_of_spki(spki) is None


def test_other_curves_are_verified_too() -> None:
    key = ec.generate_private_key(ec.SECP521R1())
    signature = key.sign(b"data", ec.ECDSA(hashes.SHA512()))
    public = key.public_key()
    assert ecdsa.is_signed_by(public, signature, b"data", hashes.SHA512())
    assert not ecdsa.is_signed_by(public, signature, b"date", hashes.SHA512())


_FORKED = """
import os
from cryptography.hazmat.primitives.asymmetric import ec
from garrison import ecdsa

sign = ecdsa.signer(ec.generate_private_key(ec.SECP384R1()), "sha384")
sign(b"the generator has its state before there are two of it")
for _ in range(2):
    pid = os.fork()
    if not pid:
        os.write(1, sign(b"data").hex().encode() + b"\\n")
        os._exit(0)
    os.waitpid(pid, 0)
"""


def test_processes_that_were_forked_never_share_a_nonce() -> None:
    # In a process of its own, with one thread, as a supervisor of workers is.
    done = subprocess.run([sys.executable, "-c", _FORKED], capture_output=True, check=True)
    # Equal r would give the private key away.
    first, second = (
        decode_dss_signature(bytes.fromhex(line.decode())) for line in done.stdout.split()
    )
    assert first[0] != second[0]
