"""SNP verification against a fake vendor: every defect ends in its own error."""

from __future__ import annotations

import re
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding
from cryptography.hazmat.primitives.serialization import Encoding

from garrison.errors import Malformed, Unverified
from garrison.formats.snp import CHIP_ID_SIZE, SIGNED_SIZE, Cpuid, Product, SigningKey, Tcb
from garrison.formats.snp_certificate import load_certificate, load_crl
from garrison.testing.snp import NOW, FakePlatform
from garrison.verification.roots import Roots
from garrison.verification.snp import SnpClaims, verify
from garrison.verification.verified import Verified

if TYPE_CHECKING:
    from collections.abc import Sequence

    from garrison.formats.snp_evidence import SnpEndorsements

PLATFORM = FakePlatform()
GENOA = FakePlatform(Product.GENOA, tcb=Tcb(10, 0, 23, 84))
TURIN = FakePlatform.turin()
VLEK = FakePlatform(kind=SigningKey.VLEK)


def claims(
    platform: FakePlatform,
    report: bytes | None = None,
    endorsements: SnpEndorsements | None = None,
    roots: Roots | None = None,
    now: Any = NOW,
) -> SnpClaims:
    verified = verify(
        report or platform.report(),
        endorsements or platform.endorsements(),
        roots or platform.roots(),
        now,
    )
    assert type(verified) is Verified
    return verified.value


def refused(match: str, *arguments: Any, **more: Any) -> Unverified:
    with pytest.raises(Unverified, match=match) as caught:
        claims(*arguments, **more)
    return caught.value


@pytest.mark.parametrize("platform", [PLATFORM, GENOA, TURIN], ids=lambda p: p.product)
@pytest.mark.parametrize("version", [2, 3, 5])
def test_genuine(platform: FakePlatform, version: int) -> None:
    found = claims(platform, platform.report(version=version))
    assert found.product is platform.product
    assert found.tcb == platform.tcb
    assert found.chip_id == platform.hwid
    assert found.csp_id is None
    assert (found.anchor.name, found.anchor.simulated) == ("test", True)
    assert found.crl_checked


@pytest.mark.parametrize(
    "platform",
    [
        VLEK,
        FakePlatform(Product.GENOA, SigningKey.VLEK),
        FakePlatform.turin(SigningKey.VLEK),
    ],
    ids=lambda p: p.product,
)
def test_genuine_vlek(platform: FakePlatform) -> None:
    found = claims(platform)
    assert found.csp_id == "CN=insecure.invalid"
    assert found.chip_id is None


def test_verified_cannot_be_made_by_others() -> None:
    with pytest.raises(TypeError, match="only verification makes"):
        Verified(claims(PLATFORM))


def test_a_vlek_tells_nothing_of_the_chip() -> None:
    assert claims(VLEK, VLEK.report(chip_id=b"\x77" * CHIP_ID_SIZE)).chip_id is None


def test_a_masked_chip_is_none() -> None:
    assert claims(PLATFORM, PLATFORM.report(chip_id=bytes(CHIP_ID_SIZE))).chip_id is None


def test_without_a_revocation_list_the_claims_say_so() -> None:
    assert not claims(PLATFORM, endorsements=PLATFORM.endorsements(crl=False)).crl_checked


# What differs between report and certificate.


@pytest.mark.parametrize("part", ["bl", "tee", "snp", "ucode"])
@pytest.mark.parametrize("step", [1, -1])
def test_certificate_for_another_tcb(part: str, step: int) -> None:
    platform = FakePlatform(tcb=Tcb(4, 1, 24, 219))
    other = replace(platform.tcb, **{part: getattr(platform.tcb, part) + step})
    error = refused(
        "REPORTED_TCB: the certificate was made for another TCB version",
        platform,
        endorsements=platform.endorsements(tcb=other),
    )
    assert (error.found, error.expected) == (str(platform.tcb), str(other))


def test_turin_certificate_for_another_fmc() -> None:
    other = replace(TURIN.tcb, fmc=2)
    refused("REPORTED_TCB", TURIN, endorsements=TURIN.endorsements(tcb=other))


def test_committed_above_reported_is_genuine() -> None:
    later = Tcb(5, 0, 25, 220).to_bytes()
    assert claims(VLEK, VLEK.report(committed_tcb=later, current_tcb=later)).tcb == VLEK.tcb


def test_tcb_in_the_layout_of_another_product() -> None:
    with pytest.raises(Malformed, match="TCB version"):
        claims(PLATFORM, PLATFORM.report(reported_tcb=TURIN.tcb.to_bytes()))


def test_certificate_of_another_chip() -> None:
    error = refused(
        "CHIP_ID: the certificate is another chip's",
        PLATFORM,
        endorsements=PLATFORM.endorsements(hwid=b"\x5b" * CHIP_ID_SIZE),
    )
    assert error.expected == "5b" * CHIP_ID_SIZE


def test_turin_chip_id_has_zeros_after_the_hwid() -> None:
    chip = TURIN.hwid.ljust(CHIP_ID_SIZE - 1, b"\0") + b"\x01"
    refused("CHIP_ID", TURIN, TURIN.report(chip_id=chip))


def test_report_of_another_product() -> None:
    error = refused("CPUID: another product", PLATFORM, PLATFORM.report(cpuid=Cpuid(0x19, 0xA0, 0)))
    assert (error.found, error.expected) == ("Genoa", "Milan")


def test_report_of_an_unknown_product() -> None:
    error = refused("CPUID: another product", PLATFORM, PLATFORM.report(cpuid=Cpuid(0x1A, 0x50, 0)))
    assert error.found == "family 0x1a model 0x50"


def test_leaf_names_another_product_than_its_issuer() -> None:
    error = refused(
        "ASK certificate subject: another product",
        PLATFORM,
        endorsements=PLATFORM.endorsements(product_name="Genoa"),
    )
    assert (error.found, error.expected) == ("SEV-Milan", "SEV-Genoa")


@pytest.mark.parametrize("kind", [SigningKey.VLEK, SigningKey.NONE])
def test_report_says_another_kind_of_key(kind: SigningKey) -> None:
    error = refused("SIGNING_KEY", PLATFORM, PLATFORM.report(signing_key=kind))
    assert (error.found, error.expected) == (kind.name, "VCEK")


def test_vlek_report_with_a_vcek() -> None:
    refused("SIGNING_KEY", VLEK, endorsements=PLATFORM.endorsements())


# The signature.


def test_signed_by_another_key() -> None:
    refused("SNP report: the signature is wrong", PLATFORM, PLATFORM.report(key=1))


def test_every_signed_byte_matters() -> None:
    genuine, chain, roots = PLATFORM.report(version=5), PLATFORM.endorsements(), PLATFORM.roots()
    for offset in range(0, SIGNED_SIZE, 7):
        report = bytearray(genuine)
        report[offset] ^= 0x01
        with pytest.raises((Unverified, Malformed)):
            verify(bytes(report), chain, roots, NOW)


@pytest.mark.parametrize(("r", "s"), [(0, 0), (0, 1), (1, 0), (1, 1), (2**384 - 1, 2**384 - 1)])
def test_degenerate_signatures(r: int, s: int) -> None:
    report = bytearray(PLATFORM.report())
    report[0x2A0:0x2D0] = r.to_bytes(48, "little")
    report[0x2E8:0x318] = s.to_bytes(48, "little")
    refused("the signature is wrong", PLATFORM, bytes(report))


# The chain.


def test_root_that_nobody_trusts() -> None:
    error = refused("ARK certificate: not a trusted root", PLATFORM, roots=Roots.load())
    assert error.expected == "AMD ARK-Milan, AMD ARK-Genoa, AMD ARK-Turin"
    assert PLATFORM.root_key_sha256 in str(error.found)


def test_root_of_another_simulator() -> None:
    other = FakePlatform(ark=2)
    refused("not a trusted root", PLATFORM, endorsements=other.endorsements())


def test_root_with_a_trusted_name_and_another_key() -> None:
    chain = replace(PLATFORM.endorsements(), root=FakePlatform(ark=2).endorsements().root)
    refused("not a trusted root", PLATFORM, endorsements=chain)


def test_intermediate_of_another_root() -> None:
    chain = replace(PLATFORM.endorsements(), issuer=FakePlatform(ark=2).endorsements().issuer)
    refused("ASK certificate: the signature is wrong", PLATFORM, endorsements=chain)


def test_leaf_of_another_intermediate() -> None:
    chain = replace(PLATFORM.endorsements(), leaf=FakePlatform(ask=2).endorsements().leaf)
    refused("VEK certificate: the signature is wrong", PLATFORM, endorsements=chain)


def test_asvk_in_place_of_the_ask() -> None:
    chain = replace(PLATFORM.endorsements(), issuer=VLEK.endorsements().issuer)
    refused("VEK certificate: issued by another", PLATFORM, endorsements=chain)


def test_chain_of_another_product() -> None:
    chain = replace(PLATFORM.endorsements(crl=False), root=GENOA.endorsements().root)
    refused("ASK certificate: issued by another", PLATFORM, endorsements=chain)


def test_leaf_as_an_authority() -> None:
    # A chip's owner has a genuine leaf, and its key: it must not pass for an issuer.
    chain = PLATFORM.endorsements()
    forged = replace(chain, issuer=chain.leaf)
    refused("ASK certificate: issued by another", PLATFORM, endorsements=forged)


def test_root_in_place_of_the_intermediate() -> None:
    chain = PLATFORM.endorsements()
    chain = replace(chain, issuer=chain.root)
    refused("VEK certificate: issued by another", PLATFORM, endorsements=chain)


@pytest.mark.parametrize("place", ["leaf", "issuer", "root", "crl"])
def test_a_certificate_that_is_none(place: str) -> None:
    chain = replace(PLATFORM.endorsements(), **{place: b"\x30\x00"})
    with pytest.raises(Malformed):
        claims(PLATFORM, endorsements=chain)


@pytest.mark.parametrize("place", ["leaf", "issuer", "root", "crl"])
def test_a_changed_signature_of_a_certificate(place: str) -> None:
    der = bytearray(getattr(PLATFORM.endorsements(), place))
    der[-1] ^= 1
    chain = replace(PLATFORM.endorsements(), **{place: bytes(der)})
    # The root's own change shows already in its fingerprint where a vendor pins it.
    refused("the signature is wrong", PLATFORM, endorsements=chain)


@pytest.mark.parametrize("place", ["leaf", "issuer", "root", "crl"])
def test_every_byte_of_the_chain_matters(place: str) -> None:
    report, chain, roots = PLATFORM.report(), PLATFORM.endorsements(), PLATFORM.roots()
    genuine = getattr(chain, place)
    for offset in range(0, len(genuine), 3):
        der = bytearray(genuine)
        der[offset] ^= 1 << offset % 8
        with pytest.raises((Unverified, Malformed)):
            verify(report, replace(chain, **{place: bytes(der)}), roots, NOW)


@pytest.mark.parametrize("place", ["leaf", "issuer", "root", "crl"])
def test_signature_that_leaves_a_bit_out(place: str) -> None:
    """One that ends in a zero bit, half of them do, can be written without it."""
    attempts = (FakePlatform().endorsements() for _ in range(64))
    chain = next(chain for chain in attempts if not getattr(chain, place)[-1] & 1)
    der = bytearray(getattr(chain, place))
    load = load_crl if place == "crl" else load_certificate
    size = len(load(bytes(der), place).signature)
    der[-size - 1] = 1
    with pytest.raises(Malformed, match="not a"):
        load(bytes(der), place)


_PSS = padding.PSS(padding.MGF1(hashes.SHA384()), 48)


def signed_again(
    scheme: Any = _PSS,
    algorithm: hashes.SHA256 | hashes.SHA384 | None = None,
    more: Sequence[x509.ExtensionType] = (),
) -> SnpEndorsements:
    """The chain with the same leaf, signed otherwise, and with critical extensions `more`."""
    chain = PLATFORM.endorsements()
    leaf = load_certificate(chain.leaf, "leaf")
    builder = (
        x509.CertificateBuilder(leaf.issuer, leaf.subject, leaf.public_key(), 5)
        .not_valid_before(leaf.not_valid_before_utc)
        .not_valid_after(leaf.not_valid_after_utc)
    )
    for extension in leaf.extensions:
        builder = builder.add_extension(extension.value, critical=False)
    for value in more:
        builder = builder.add_extension(value, critical=True)
    key = PLATFORM.vendor.ask_key
    again = builder.sign(key, algorithm or hashes.SHA384(), rsa_padding=scheme)
    return replace(chain, leaf=again.public_bytes(Encoding.DER))


def test_signed_again_in_the_same_way() -> None:
    claims(PLATFORM, endorsements=signed_again())


def test_critical_extension_that_nobody_knows() -> None:
    unknown = x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3"), b"\x05\x00")
    error = refused(
        "VEK certificate: unknown critical extension",
        PLATFORM,
        endorsements=signed_again(more=[unknown]),
    )
    assert error.found == "1.2.3"


@pytest.mark.parametrize(
    ("scheme", "algorithm"),
    [
        (padding.PKCS1v15(), hashes.SHA384()),
        (padding.PSS(padding.MGF1(hashes.SHA256()), 48), hashes.SHA256()),
        (padding.PSS(padding.MGF1(hashes.SHA384()), 32), hashes.SHA384()),
        (padding.PSS(padding.MGF1(hashes.SHA384()), 48), hashes.SHA256()),
        (padding.PSS(padding.MGF1(hashes.SHA256()), 48), hashes.SHA384()),
    ],
)
def test_other_signature_algorithms(scheme: Any, algorithm: hashes.SHA256 | hashes.SHA384) -> None:
    refused(
        "VEK certificate: wrong (signature algorithm|hash)",
        PLATFORM,
        endorsements=signed_again(scheme, algorithm),
    )


# Time and revocation.


@pytest.mark.parametrize(
    ("now", "what"),
    [(NOW - timedelta(days=400), "not yet valid"), (NOW + timedelta(days=400), "expired")],
)
def test_outside_of_its_time(now: Any, what: str) -> None:
    refused(f"ARK certificate: {what}; found {re.escape(now.isoformat())}", PLATFORM, now=now)


@pytest.mark.parametrize("place", ["leaf", "issuer"])
def test_one_certificate_expired(place: str) -> None:
    short = FakePlatform(lifetime=timedelta(days=1)).endorsements()
    chain = replace(PLATFORM.endorsements(), **{place: getattr(short, place)})
    name = {"leaf": "VEK", "issuer": "ASK"}[place]
    refused(f"{name} certificate: expired", PLATFORM, endorsements=chain)


def test_revocation_list_that_is_not_current() -> None:
    short = FakePlatform(lifetime=timedelta(days=1)).endorsements()
    chain = replace(PLATFORM.endorsements(), crl=short.crl)
    refused("ARK revocation list: not current", PLATFORM, endorsements=chain)


def test_revocation_list_of_another_root() -> None:
    chain = replace(PLATFORM.endorsements(), crl=FakePlatform(ark=2).endorsements().crl)
    refused("ARK revocation list: the signature is wrong", PLATFORM, endorsements=chain)
    chain = replace(PLATFORM.endorsements(), crl=GENOA.endorsements().crl)
    refused("ARK revocation list: issued by another", PLATFORM, endorsements=chain)


def test_revoked_intermediate() -> None:
    serial = PLATFORM.vendor.ask().serial_number
    error = refused(
        "ASK certificate: revoked",
        PLATFORM,
        endorsements=PLATFORM.endorsements(revoked=[77, serial]),
    )
    assert error.found == f"serial number {serial:#x}"


def test_another_intermediate_revoked() -> None:
    asvk = PLATFORM.vendor.ask(SigningKey.VLEK).serial_number
    assert claims(PLATFORM, endorsements=PLATFORM.endorsements(revoked=[asvk])).crl_checked
    refused("revoked", VLEK, endorsements=VLEK.endorsements(revoked=[asvk]))
