"""What verification remembers by content never outlives the time, the roots or the lists."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from garrison import ecdsa
from garrison.errors import Unverified
from garrison.formats.dcap_quote import Quote, TeeType
from garrison.formats.snp import Product, SigningKey
from garrison.testing import nitro as fake_nitro
from garrison.testing import snp as fake_snp
from garrison.testing.dcap import (
    CA_SERIAL,
    NOW,
    PCK_SERIAL,
    SIGNER_SERIAL,
    FakeIntel,
    FakeQuoter,
    sgx_report,
    td_report,
)
from garrison.testing.nitro import FakeNitro
from garrison.testing.snp import FakePlatform
from garrison.verification import nitro, snp
from garrison.verification.dcap import SgxClaims, verify, verify_quote_chain
from garrison.verification.roots import Roots

INTEL = FakeIntel()
QUOTE = FakeQuoter(INTEL).quote(sgx_report(), 3)
COLLATERAL = INTEL.collateral(TeeType.SGX)
# Intel's own (PCS API, Get Quoting Enclave Identity).
QE_SIGNER = bytes.fromhex("8c4f5775d796503e96137f77c68a829a0056ac8ded70140b081b094490c57bff")


@pytest.fixture(autouse=True)
def roots() -> Roots:
    found = INTEL.roots()
    for _ in range(2):
        verify(QUOTE, COLLATERAL, found, NOW)
    return found


@pytest.mark.parametrize("days", [-400, -3, 29.5, 400])
def test_time_is_looked_at_again(roots: Roots, days: float) -> None:
    with pytest.raises(Unverified, match=r"not current|expired|not yet valid"):
        verify(QUOTE, COLLATERAL, roots, NOW + timedelta(days=days))


def test_a_chain_is_good_by_those_roots_alone() -> None:
    with pytest.raises(Unverified, match="not a trusted root"):
        verify(QUOTE, COLLATERAL, Roots.load(), NOW)


@pytest.mark.parametrize(
    ("issuer", "serial"), [("ca", PCK_SERIAL), ("root", CA_SERIAL), ("root", SIGNER_SERIAL)]
)
def test_who_is_revoked_later_is_refused(roots: Roots, issuer: str, serial: int) -> None:
    name = {"ca": "pck_crl", "root": "root_crl"}[issuer]
    later = replace(COLLATERAL, **{name: INTEL.crl(issuer, [serial])})
    with pytest.raises(Unverified, match="revoked"):
        verify(QUOTE, later, roots, NOW)
    verify(QUOTE, COLLATERAL, roots, NOW)


def test_what_certifies_a_platforms_key_is_verified_once(
    roots: Roots, monkeypatch: pytest.MonkeyPatch
) -> None:
    verified = []
    is_signed = ecdsa.is_signed

    def noted(point: bytes, signature: bytes, data: bytes, algorithm: str) -> bool:
        verified.append(len(data))
        return is_signed(point, signature, data, algorithm)

    monkeypatch.setattr(ecdsa, "is_signed", noted)
    first, second = (
        Quote.from_bytes(FakeQuoter(INTEL).quote(sgx_report(report_data=data), 3))
        for data in (bytes(64), b"another".ljust(64))
    )
    # Both are by the fake enclave's one key; so the second may have the first's certification.
    certified = replace(first.signature, signature=second.signature.signature)
    verify_quote_chain(first.to_bytes(), roots, NOW)
    known = len(verified)
    verify_quote_chain(replace(second, signature=certified).to_bytes(), roots, NOW)
    # A quote's header and body.
    assert verified[known - 2 :] == [384, 432, 432]


@pytest.mark.parametrize(
    "change",
    [
        {"attestation_key": b"\x11" * 64},
        {"qe_report": FakeQuoter(INTEL, {"isv_svn": 77})},
        {"qe_signature": b"\x11" * 64},
        {"qe_auth_data": b"other"},
    ],
)
def test_what_differs_in_one_part_is_not_taken_for_what_is_known(
    roots: Roots, change: dict[str, Any]
) -> None:
    known = Quote.from_bytes(QUOTE)
    if "qe_report" in change:
        other = Quote.from_bytes(change["qe_report"].quote(sgx_report(), 3))
        change = {"qe_report": other.signature.qe_report}
    mixed = replace(known, signature=replace(known.signature, **change)).to_bytes()
    for _ in range(2):
        with pytest.raises(Unverified, match="QE report"):
            verify_quote_chain(mixed, roots, NOW)


def test_a_forged_leaf_is_refused_each_time(roots: Roots) -> None:
    forged = INTEL.certificate("pck", signed_by="somebody").public_bytes(Encoding.PEM)
    quote = FakeQuoter(INTEL).quote(sgx_report(), 3, forged + INTEL.pem("ca", "root"))
    for _ in range(2):
        with pytest.raises(Unverified, match="PCK certificate: the signature is wrong"):
            verify_quote_chain(quote, roots, NOW)


@pytest.mark.parametrize("version", [3, 4, 5])
def test_an_enclave_in_quotes_of_every_version(roots: Roots, version: int) -> None:
    quote = FakeQuoter(INTEL).quote(sgx_report(), version)
    assert isinstance(verify(quote, COLLATERAL, roots, NOW).value, SgxClaims)


def test_without_a_qe_identity_the_enclave_must_be_intels(roots: Roots) -> None:
    lacking = replace(COLLATERAL, qe_identity=None, qe_identity_chain=b"")
    with pytest.raises(Unverified, match="quoting enclave: MRSIGNER"):
        verify(QUOTE, lacking, roots, NOW)
    intels = {"mr_signer": QE_SIGNER, "isv_prod_id": 1}
    quote = FakeQuoter(INTEL, intels).quote(sgx_report(), 3)
    assert verify(quote, lacking, roots, NOW).value.platform.tcb.qe is None
    for change in ({"isv_prod_id": 2}, {"attributes": b"\x17".ljust(16, b"\0")}):
        other = FakeQuoter(INTEL, intels | change).quote(sgx_report(), 3)
        with pytest.raises(Unverified, match="quoting enclave: "):
            verify(other, lacking, roots, NOW)
    # A TD's quoting enclave is not known by heart.
    of_td = replace(INTEL.collateral(TeeType.TDX), qe_identity=None)
    with pytest.raises(Unverified, match="QE identity: missing"):
        verify(FakeQuoter(INTEL).quote(td_report(), 4), of_td, roots, NOW)


@pytest.mark.parametrize("kind", [SigningKey.VCEK, SigningKey.VLEK])
@pytest.mark.parametrize("product", [Product.MILAN, Product.GENOA])
def test_snp(product: Product, kind: SigningKey) -> None:
    platform = FakePlatform(product, kind)
    report, chain, roots = platform.report(), platform.endorsements(), platform.roots()
    for _ in range(2):
        snp.verify(report, chain, roots, fake_snp.NOW)
    with pytest.raises(Unverified, match="expired"):
        snp.verify(report, chain, roots, datetime(2040, 1, 1, tzinfo=UTC))
    with pytest.raises(Unverified, match="not a trusted root"):
        snp.verify(report, chain, Roots.load(), fake_snp.NOW)
    serial = platform.vendor.ask(kind).serial_number
    with pytest.raises(Unverified, match="revoked"):
        snp.verify(report, platform.endorsements(revoked=[serial]), roots, fake_snp.NOW)


def test_nitro() -> None:
    fake = FakeNitro()
    document, roots = fake.document(), fake.roots()
    for _ in range(2):
        nitro.verify(document, roots, fake_nitro.NOW)
    with pytest.raises(Unverified, match="expired"):
        nitro.verify(document, roots, fake_nitro.NOW + timedelta(hours=4))
    with pytest.raises(Unverified, match="not a trusted root"):
        nitro.verify(document, Roots.load(), fake_nitro.NOW)
