"""The names of vendors' documents, both ways, and those of recorded evidence."""

from __future__ import annotations

import json

import pytest
from tests.vectors import vectors

from garrison.endorsements import kds, pcs
from garrison.endorsements.catalogue import Known, Platform, identify
from garrison.endorsements.resource import Document, Kind, inspect
from garrison.errors import Malformed, Misuse, Unavailable
from garrison.formats.snp import Cpuid, Product, Report, SigningKey, Tcb
from garrison.testing.snp import FakePlatform

KDS = "https://kdsintf.amd.com"
INTEL = "https://api.trustedservices.intel.com"


def test_a_chip() -> None:
    tcb = Tcb(bl=4, tee=0, snp=24, ucode=219)
    url = kds.vcek(Product.MILAN, b"\x5a" * 64, tcb).url
    assert url == f"{KDS}/vcek/v1/Milan/{'5a' * 64}?blSPL=4&teeSPL=0&snpSPL=24&ucodeSPL=219"


def test_a_chip_of_turin_has_a_short_name_and_one_number_more() -> None:
    platform = FakePlatform.turin()
    resource = kds.signer(Report.from_bytes(platform.report()))
    numbers = "fmcSPL=1&blSPL=3&teeSPL=2&snpSPL=5&ucodeSPL=97"
    assert resource.url == f"{KDS}/vcek/v1/Turin/{'5a' * 8}?{numbers}"
    assert resource.kind is Kind.VEK


@pytest.mark.parametrize(
    ("report", "message"),
    [
        (FakePlatform(kind=SigningKey.VLEK).report(), "a VLEK certificate is not given out"),
        (FakePlatform().report(chip_id=bytes(64)), "does not tell its chip"),
        (FakePlatform().report(version=2), "does not tell its product"),
        (FakePlatform().report(cpuid=Cpuid(0x17, 1, 1)), "does not tell its product"),
    ],
)
def test_a_signer_that_cannot_be_fetched(report: bytes, message: str) -> None:
    with pytest.raises(Unavailable, match=message) as caught:
        kds.signer(Report.from_bytes(report))
    assert caught.value.hint == "the host must send it with the evidence"


def test_what_a_product_shares() -> None:
    assert [resource.url for resource in kds.shared(Product.GENOA)] == [
        f"{KDS}/vcek/v1/Genoa/cert_chain",
        f"{KDS}/vcek/v1/Genoa/crl",
        f"{KDS}/vlek/v1/Genoa/cert_chain",
        f"{KDS}/vlek/v1/Genoa/crl",
    ]


def test_what_an_intel_platform_needs() -> None:
    assert [(each.url, each.chain_header) for each in pcs.shared("00906ED50000")] == [
        ("https://certificates.trustedservices.intel.com/IntelSGXRootCA.der", None),
        (
            f"{INTEL}/sgx/certification/v4/pckcrl?ca=processor&encoding=der",
            "SGX-PCK-CRL-Issuer-Chain",
        ),
        (
            f"{INTEL}/sgx/certification/v4/pckcrl?ca=platform&encoding=der",
            "SGX-PCK-CRL-Issuer-Chain",
        ),
        (f"{INTEL}/sgx/certification/v4/tcb?fmspc=00906ed50000", "TCB-Info-Issuer-Chain"),
        (f"{INTEL}/tdx/certification/v4/tcb?fmspc=00906ed50000", "TCB-Info-Issuer-Chain"),
        (f"{INTEL}/sgx/certification/v4/qe/identity", "SGX-Enclave-Identity-Issuer-Chain"),
        (f"{INTEL}/tdx/certification/v4/qe/identity", "SGX-Enclave-Identity-Issuer-Chain"),
    ]


@pytest.mark.parametrize("fmspc", ["", "00906ed5000", "00906ed500000", "00906ed5000g", "../" * 4])
def test_what_is_no_fmspc(fmspc: str) -> None:
    with pytest.raises(Malformed, match="expected 12 hex digits"):
        pcs.tcb_info(pcs.IntelTee.SGX, fmspc)


def test_every_name_is_known_again() -> None:
    tcb = Tcb(1, 2, 3, 4)
    chip = kds.vcek(Product.GENOA, bytes(64), tcb)
    turin = kds.vcek(Product.TURIN, bytes(8), Tcb(1, 2, 3, 4, 5))
    assert identify(chip.url) == Known(chip, "Genoa", "amd")
    assert identify(turin.url) == Known(turin, "Turin", "amd")
    for product in Product:
        for resource in kds.shared(product):
            assert identify(resource.url) == Known(resource, product.value, "amd")
    for resource in pcs.shared("00906ed50000"):
        of_platform = "00906ed50000" if resource.kind is Kind.TCB_INFO else None
        assert identify(resource.url) == Known(resource, of_platform, "intel")


@pytest.mark.parametrize(
    "url",
    [
        "",
        "https://kdsintf.amd.com",
        "https://kdsintf.amd.com/vcek/v1/Rome/cert_chain",
        f"https://kdsintf.amd.com/vcek/v1/Rome/{'00' * 64}?blSPL=1&teeSPL=2&snpSPL=3&ucodeSPL=4",
        f"http://kdsintf.amd.com/vcek/v1/Milan/{'00' * 64}?blSPL=1&teeSPL=2&snpSPL=3&ucodeSPL=4",
        f"https://kdsintf.amd.com/vcek/v1/Milan/{'00' * 63}?blSPL=1&teeSPL=2&snpSPL=3&ucodeSPL=4",
        f"{INTEL}/sgx/certification/v4/tcb?fmspc=00906ED50000",
        f"{INTEL}/sgx/certification/v3/tcb?fmspc=00906ed50000",
        "file:///etc/passwd",
    ],
)
def test_what_no_vendor_has(url: str) -> None:
    with pytest.raises(Malformed, match="not a document of a vendor"):
        identify(url)


def test_platforms_by_name() -> None:
    milan, intel = Platform.parse("milan"), Platform.parse("00906ED50000")
    assert milan == Platform("Milan", "amd") == Platform.parse("Milan")
    assert intel == Platform("00906ed50000", "intel")
    assert milan.shared() == kds.shared(Product.MILAN)
    assert intel.shared() == pcs.shared("00906ed50000")
    for resource in milan.shared():
        assert milan.needs(identify(resource.url))
        assert not intel.needs(identify(resource.url))
        assert not Platform.parse("turin").needs(identify(resource.url))
    for resource in intel.shared():
        assert intel.needs(identify(resource.url))
        assert not milan.needs(identify(resource.url))
    assert not Platform.parse("00806f050000").needs(
        identify(pcs.tcb_info(pcs.IntelTee.SGX, "00906ed50000").url)
    )
    with pytest.raises(Misuse, match="expected milan, genoa, turin, or an FMSPC"):
        Platform.parse("rome")


@pytest.mark.vectors
def test_recorded_chips() -> None:
    for path in sorted(vectors("snp").iterdir()):
        if not (path / "report.bin").exists() or not (path / "vek.der").exists():
            continue
        report = (path / "report.bin").read_bytes()
        try:
            resource = kds.signer(Report.from_bytes(report))
        except (Malformed, Unavailable):
            continue
        assert identify(resource.url).resource == resource
    turin = vectors("snp") / "openanolis-turin-v5-vcek"
    resource = kds.signer(Report.from_bytes((turin / "report.bin").read_bytes()))
    assert "/Turin/0910b4f884ff4ba9?fmcSPL=1&" in resource.url
    dates = inspect(resource.kind, Document((turin / "vek.der").read_bytes()), resource.url)
    assert (dates.issued.year, dates.expires.year) == (2026, 2033)


@pytest.mark.vectors
def test_recorded_collateral() -> None:
    path = vectors("tdx") / "phala-v4-uptodate"
    collateral = json.loads((path / "collateral.json").read_text())
    tcb_info = f'{{"tcbInfo":{collateral["tcb_info"]},"signature":"00"}}'.encode()
    chain = collateral["tcb_info_issuer_chain"].encode()
    dates = inspect(Kind.TCB_INFO, Document(tcb_info, chain), "TCB info")
    assert f"{dates.issued:%FT%TZ} {dates.expires:%FT%TZ}" == (
        "2025-06-19T10:16:03Z 2025-07-19T10:16:03Z"
    )
    crl = Document(
        bytes.fromhex(collateral["pck_crl"]), collateral["pck_crl_issuer_chain"].encode()
    )
    assert inspect(Kind.CRL, crl, "PCK CRL").expires.year == 2025
