"""When a steward is ready: it signs, and has what its policy needs."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from garrison.endorsements.pcs import IntelTee
from garrison.endorsements.source import EndorsementSource, Settings
from garrison.errors import Malformed, Unavailable
from garrison.formats.snp import Product, SigningKey
from garrison.steward import readiness
from garrison.steward.authority import SERVER_PEM, signer
from garrison.steward.init import create
from garrison.steward.setup import with_certificate
from garrison.testing.snp import FakePlatform

if TYPE_CHECKING:
    from pathlib import Path

    from garrison.steward.issuance import Steward


@pytest.fixture
def now(steward: Steward) -> datetime:
    return steward.authority.certificate.not_valid_before_utc + timedelta(hours=1)


def test_good_keys_are_ready(steward: Steward, now: datetime) -> None:
    readiness.check(replace(steward, endorsements=None), now)


def test_expired_root_is_not(steward: Steward) -> None:
    late = steward.authority.certificate.not_valid_after_utc + timedelta(seconds=1)
    with pytest.raises(Unavailable, match="not valid now"):
        readiness.check(steward, late)


def test_key_that_signs_wrongly_is_not(steward: Steward, now: datetime) -> None:
    other = signer(ec.generate_private_key(steward.authority.key.curve))
    issuer = replace(steward.authority.issuer, sign=other)
    broken = replace(steward.authority, issuer=issuer)
    with pytest.raises(Unavailable, match="wrong signatures"):
        readiness.check(replace(steward, authority=broken, endorsements=None), now)


def test_missing_endorsements_are_named(tmp_path: Path) -> None:
    none = EndorsementSource(Settings())
    with pytest.raises(Unavailable, match="no current revocation list"):
        none.check_snp([Product.MILAN])
    with pytest.raises(Unavailable, match="no cache of Intel"):
        none.check_dcap(IntelTee.TDX)
    empty = EndorsementSource(Settings(cache=tmp_path / "cache"))
    with pytest.raises(Unavailable, match="Milan"):
        empty.check_snp([Product.MILAN])
    with pytest.raises(Unavailable, match="not in the cache"):
        empty.check_dcap(IntelTee.SGX)


def test_a_current_list_in_a_directory_is_enough(tmp_path: Path) -> None:
    vendor = FakePlatform().vendor
    crl = vendor.crl()
    (tmp_path / "ark.der").write_bytes(vendor.ark().public_bytes(Encoding.DER))
    (tmp_path / "ask.der").write_bytes(vendor.ask(SigningKey.VCEK).public_bytes(Encoding.DER))
    (tmp_path / "crl.der").write_bytes(crl.public_bytes(Encoding.DER))
    end = crl.next_update_utc
    assert end is not None
    EndorsementSource(Settings(), [tmp_path], lambda: end).check_snp([Product.MILAN])
    late = end + timedelta(seconds=1)
    with pytest.raises(Unavailable, match="no current revocation list"):
        EndorsementSource(Settings(), [tmp_path], lambda: late).check_snp([Product.MILAN])


def test_new_tls_certificate_may_not_have_a_keeps_name(steward: Steward, tmp_path: Path) -> None:
    for host in ("steward.example.test", "www.example.test"):
        directory = tmp_path / host
        create(directory, trust_domain="example.test", hosts=[host], now=datetime.now(UTC))
    served = with_certificate(steward, tmp_path / "steward.example.test" / SERVER_PEM)
    assert served.server_names == {"steward.example.test"}
    with pytest.raises(Malformed, match="could pose as this steward") as caught:
        with_certificate(steward, tmp_path / "www.example.test" / SERVER_PEM)
    assert caught.value.found == "www.example.test"
