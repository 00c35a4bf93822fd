"""The pinned roots, and simulated ones beside them."""

from __future__ import annotations

import hashlib
import re
from dataclasses import replace
from datetime import UTC, datetime

import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from garrison.errors import Misuse, Unverified
from garrison.formats.snp_certificate import load_certificate
from garrison.testing.snp import FakePlatform
from garrison.verification.roots import Anchor, Pin, Roots
from garrison.verification.snp import verify


def test_pins() -> None:
    pins = Roots.load().pins
    assert [pin.name for pin in pins if pin.vendor == "amd"] == [
        "AMD ARK-Milan",
        "AMD ARK-Genoa",
        "AMD ARK-Turin",
    ]
    for pin in pins:
        assert pin.certificates_sha256
        for whole in pin.certificates_sha256:
            assert re.fullmatch("[0-9a-f]{64}", whole)
        assert re.fullmatch("[0-9a-f]{64}", pin.key_sha256)
        assert "https://" in pin.source
    assert len({pin.key_sha256 for pin in pins}) == len(pins)
    certificates = [whole for pin in pins for whole in pin.certificates_sha256]
    assert len(set(certificates)) == len(certificates) == 7


def test_a_simulated_root_says_that_it_is_one() -> None:
    platform = FakePlatform()
    ark = load_certificate(platform.endorsements().root, "ARK")
    whole = hashlib.sha256(ark.public_bytes(Encoding.DER)).hexdigest()
    assert platform.roots().anchor(ark, "amd", "ARK") == Anchor("test", True, whole)  # noqa: FBT003


def test_another_certificate_of_a_pinned_key() -> None:
    """Intel's root has two certificates with one key; older quotes bring the first."""
    platform = FakePlatform()
    ark = load_certificate(platform.endorsements().root, "ARK")
    key = next(iter(platform.roots().simulated))
    roots = Roots((Pin("Root", "amd", ("0" * 64,), key, "https://vendor.invalid"),), {})
    anchor = roots.anchor(ark, "amd", "ARK")
    assert (anchor.name, anchor.simulated) == ("Root", False)
    whole = hashlib.sha256(ark.public_bytes(Encoding.DER)).hexdigest()
    assert anchor.certificate_sha256 == whole
    with pytest.raises(Unverified, match="not a trusted root"):
        roots.anchor(ark, "intel", "ARK")


def test_a_root_that_its_key_did_not_sign() -> None:
    """The key alone does not make a root: anybody can write a certificate for it."""
    platform = FakePlatform()
    endorsements = platform.endorsements()
    forged = bytearray(endorsements.root)
    forged[-1] ^= 1
    with pytest.raises(Unverified, match="ARK certificate: the signature is wrong"):
        verify(
            platform.report(),
            replace(endorsements, root=bytes(forged)),
            platform.roots(),
            datetime(2026, 7, 1, tzinfo=UTC),
        )


def test_no_simulated_root_without_a_name() -> None:
    assert Roots.load().simulated == {}


def test_a_vendors_key_cannot_be_called_simulated() -> None:
    key = Roots.load().pins[0].key_sha256
    with pytest.raises(Misuse, match="simulated root x: the key is already that of another root"):
        Roots.load({"x": key})


def test_two_names_for_one_key() -> None:
    with pytest.raises(Misuse, match=r"simulated root b: .*found a"):
        Roots.load({"a": "0" * 64, "b": "0" * 64})
