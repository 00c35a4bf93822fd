"""What a steward gets for evidence: from directories, the evidence, the cache, the vendor."""

from __future__ import annotations

import json
import ssl
import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest
from cryptography.hazmat.primitives.serialization import Encoding
from tests.vectors import vectors

from garrison.endorsements import kds, pcs
from garrison.endorsements import source as source_module
from garrison.endorsements.cache import Cache
from garrison.endorsements.resource import Kind
from garrison.endorsements.source import EndorsementSource, Settings, servers
from garrison.errors import Malformed, Misuse, Unavailable, Unverified
from garrison.formats.dcap_collateral import DcapCollateral
from garrison.formats.snp import Product, SigningKey
from garrison.formats.snp_evidence import SnpEvidence
from garrison.formats.strict_toml import Table
from garrison.testing.snp import NOW, FakePlatform
from garrison.testing.vendor_server import Answer, Clock, VendorServer, chain_answer, signed_json
from garrison.verification.roots import Roots
from garrison.verification.snp import verify

if TYPE_CHECKING:
    from pathlib import Path

    from garrison.formats.snp_evidence import SnpEndorsements

PLATFORM = FakePlatform()
TURIN = FakePlatform.turin()
CHAIN = PLATFORM.endorsements()
ALONE = SnpEvidence(PLATFORM.report(), (CHAIN.leaf,))
BARE = SnpEvidence(PLATFORM.report(), ())


def publish(vendor: VendorServer, platform: FakePlatform) -> SnpEndorsements:
    """Serve all that AMD serves for `platform`."""
    product = platform.product
    chain = platform.endorsements()
    if platform.kind is SigningKey.VCEK:
        vendor.serve(kds.vcek(product, platform.hwid, platform.tcb), Answer(body=chain.leaf))
    pem = b"".join(
        certificate.public_bytes(Encoding.PEM)
        for certificate in (platform.vendor.ask(platform.kind), platform.vendor.ark())
    )
    vendor.serve(kds.chain(product, platform.kind), Answer(body=pem))
    vendor.serve(kds.crl(product, platform.kind), Answer(body=chain.crl or b""))
    return chain


def directory(path: Path, *, crl: bool = True, platform: FakePlatform = PLATFORM) -> Path:
    path.mkdir()
    (path / "ark.der").write_bytes(platform.vendor.ark().public_bytes(Encoding.DER))
    (path / "ask.der").write_bytes(platform.vendor.ask().public_bytes(Encoding.DER))
    if crl:
        (path / "crl.der").write_bytes(platform.vendor.crl().public_bytes(Encoding.DER))
    return path


@pytest.fixture
def settings(vendor: VendorServer, tmp_path: Path) -> Settings:
    return Settings(tmp_path / "cache", fetch=True, servers=vendor.servers)


@pytest.mark.parametrize(
    "platform",
    [PLATFORM, TURIN, FakePlatform(kind=SigningKey.VLEK)],
    ids=["milan", "turin", "vlek"],
)
def test_all_from_the_vendor(
    vendor: VendorServer, settings: Settings, clock: Clock, platform: FakePlatform
) -> None:
    publish(vendor, platform)
    leaf = () if platform.kind is SigningKey.VCEK else (platform.endorsements().leaf,)
    evidence = SnpEvidence(platform.report(), leaf)
    for _ in range(3):
        found = EndorsementSource(settings, clock=clock).for_snp(evidence)
        assert verify(evidence.report, found, platform.roots(), NOW).value.crl_checked
    # Once for each document, whatever the number of processes and requests.
    assert len(vendor.requests) == len(set(vendor.requests)) == 3 - len(leaf)


def test_what_came_with_the_evidence_is_not_fetched(
    vendor: VendorServer, settings: Settings, clock: Clock
) -> None:
    published = publish(vendor, PLATFORM)
    evidence = PLATFORM.evidence()
    found = EndorsementSource(settings, clock=clock).for_snp(evidence)
    assert (found.leaf, found.issuer, found.root) == evidence.certificates
    assert found.crl == published.crl
    assert vendor.requests == [vendor.path(kds.crl(Product.MILAN, SigningKey.VCEK))]


def test_directories_come_first(
    vendor: VendorServer, settings: Settings, clock: Clock, tmp_path: Path
) -> None:
    source = EndorsementSource(settings, [directory(tmp_path / "milan")], clock)
    found = source.for_snp(ALONE)
    assert found.crl == (tmp_path / "milan" / "crl.der").read_bytes()
    assert vendor.requests == []


def test_a_directorys_list_that_has_ended_is_replaced(
    vendor: VendorServer, settings: Settings, clock: Clock, tmp_path: Path
) -> None:
    ended = replace(PLATFORM, start=NOW - timedelta(days=800), lifetime=timedelta(days=790))
    milan = directory(tmp_path / "milan")
    (milan / "crl.der").write_bytes(ended.vendor.crl().public_bytes(Encoding.DER))
    published = publish(vendor, PLATFORM)
    found = EndorsementSource(settings, [milan], clock).for_snp(ALONE)
    assert found.crl == published.crl
    verify(ALONE.report, found, PLATFORM.roots(), NOW)


def test_a_host_cannot_choose_an_older_list(
    vendor: VendorServer, settings: Settings, clock: Clock
) -> None:
    """The host sends a genuine list, still current, from before its intermediate was revoked."""
    publish(vendor, PLATFORM)
    after = replace(PLATFORM, start=PLATFORM.start + timedelta(days=30))
    revoked = after.vendor.crl([PLATFORM.vendor.ask().serial_number]).public_bytes(Encoding.DER)
    vendor.serve(kds.crl(Product.MILAN, SigningKey.VCEK), Answer(body=revoked))
    assert CHAIN.crl is not None
    found = EndorsementSource(settings, clock=clock).for_snp(PLATFORM.evidence(), [CHAIN.crl])
    assert found.crl == revoked
    with pytest.raises(Unverified, match="revoked"):
        verify(ALONE.report, found, PLATFORM.roots(), NOW)


def test_a_list_from_the_evidence_stands_in_for_an_absent_vendor(
    settings: Settings, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    assert CHAIN.crl is not None
    source = EndorsementSource(settings, clock=clock)
    assert source.for_snp(PLATFORM.evidence(), [CHAIN.crl]).crl == CHAIN.crl
    assert source.for_snp(PLATFORM.evidence()).crl is None
    assert "no revocation list: " in caplog.text


def test_a_chip_that_the_vendor_does_not_know(settings: Settings, clock: Clock) -> None:
    with pytest.raises(Unavailable, match=f"Milan/{PLATFORM.hwid.hex()}.*status 404"):
        EndorsementSource(settings, clock=clock).for_snp(BARE)


@pytest.mark.parametrize(
    "other",
    [
        replace(PLATFORM, hwid=b"\x5b" * 64),
        replace(PLATFORM, tcb=replace(PLATFORM.tcb, snp=23)),
        replace(PLATFORM, kind=SigningKey.VLEK),
    ],
)
def test_another_chips_certificate_is_not_kept(
    vendor: VendorServer, settings: Settings, clock: Clock, other: FakePlatform
) -> None:
    publish(vendor, PLATFORM)
    vcek = kds.vcek(Product.MILAN, PLATFORM.hwid, PLATFORM.tcb)
    vendor.serve(vcek, Answer(body=other.endorsements().leaf), Answer(body=CHAIN.leaf))
    source = EndorsementSource(settings, clock=clock)
    with pytest.raises(Unavailable, match="not the certificate of that chip and TCB version"):
        source.for_snp(BARE)
    assert source.for_snp(BARE).leaf == CHAIN.leaf


def test_a_vendor_that_lies_convinces_nobody(
    vendor: VendorServer, settings: Settings, clock: Clock
) -> None:
    publish(vendor, FakePlatform(ark=2, ask=3))
    found = EndorsementSource(settings, clock=clock).for_snp(BARE)
    with pytest.raises(Unverified, match="not a trusted root"):
        verify(BARE.report, found, PLATFORM.roots(), NOW)


def test_what_is_no_evidence_is_not_fetched_for(
    vendor: VendorServer, settings: Settings, clock: Clock
) -> None:
    source = EndorsementSource(settings, clock=clock)
    for evidence in (SnpEvidence(b"", ()), SnpEvidence(BARE.report, (b"\x30\x00",))):
        with pytest.raises(Malformed):
            source.for_snp(evidence)
    with pytest.raises(Malformed):
        source.for_dcap(pcs.IntelTee.SGX, "nonsense", pcs.Ca.PLATFORM)
    assert vendor.requests == []


def test_offline_with_a_cache(vendor: VendorServer, settings: Settings, clock: Clock) -> None:
    publish(vendor, PLATFORM)
    online = EndorsementSource(settings, clock=clock).for_snp(BARE)
    requests = len(vendor.requests)
    offline = EndorsementSource(replace(settings, fetch=False), clock=clock)
    clock.now += timedelta(days=300)
    assert offline.for_snp(BARE) == online
    with pytest.raises(Unavailable, match="nothing may be fetched"):
        offline.for_snp(SnpEvidence(TURIN.report(), ()))
    assert len(vendor.requests) == requests


def test_offline_without_a_cache(tmp_path: Path, clock: Clock) -> None:
    source = EndorsementSource(Settings(), [directory(tmp_path / "milan")], clock)
    verify(ALONE.report, source.for_snp(ALONE), PLATFORM.roots(), NOW)
    with pytest.raises(Unavailable, match="certificate of the key"):
        source.for_snp(BARE)
    with pytest.raises(Unavailable, match="no cache of Intel's collateral"):
        source.for_dcap(pcs.IntelTee.SGX, "00906ed50000", pcs.Ca.PLATFORM)


def test_collateral(vendor: VendorServer, settings: Settings, clock: Clock) -> None:
    chain = vendor.authority.root_pem.encode()
    crl = PLATFORM.vendor.crl().public_bytes(Encoding.DER)
    bodies = {}
    for resource in pcs.shared("00906ed50000"):
        bodies[resource.url] = (
            crl
            if resource.kind is Kind.CRL
            else signed_json(resource.kind, NOW, NOW + timedelta(days=30), url=resource.url)
        )
        vendor.serve(resource, chain_answer(resource, bodies[resource.url], chain))
    source = EndorsementSource(settings, clock=clock)
    for tee in pcs.IntelTee:
        found = source.for_dcap(tee, "00906ED50000", pcs.Ca.PROCESSOR)
        info, identity = pcs.tcb_info(tee, "00906ed50000"), pcs.qe_identity(tee)
        assert found == DcapCollateral(
            crl, crl, bodies[info.url], chain, bodies[identity.url], chain
        )
    assert len(vendor.requests) == 6


@pytest.mark.vectors
def test_recorded_evidence_with_recorded_endorsements(
    vendor: VendorServer, settings: Settings, clock: Clock
) -> None:
    """AMD's own documents, under AMD's own root; the report is of version 2."""
    path = vectors("snp") / "steward-milan-csr-enarx"
    report, leaf, ask, ark, crl = (
        (path / name).read_bytes()
        for name in ("report.bin", "vek.der", "ask.der", "ark.der", "crl.der")
    )
    pem = "".join(ssl.DER_cert_to_PEM_cert(der) for der in (ask, ark)).encode()
    vendor.serve(kds.chain(Product.MILAN, SigningKey.VCEK), Answer(body=pem))
    vendor.serve(kds.crl(Product.MILAN, SigningKey.VCEK), Answer(body=crl))
    kept = json.loads((path / "vector.json").read_text())
    clock.now = datetime.fromtimestamp(kept["verify_time"], UTC)
    source = EndorsementSource(settings, clock=clock)
    found = source.for_snp(SnpEvidence(report, (leaf,)))
    assert (found.issuer, found.root, found.crl) == (ask, ark, crl)
    claims = verify(report, found, Roots.load(), clock.now).value
    assert claims.crl_checked
    assert not claims.anchor.simulated
    with pytest.raises(Unavailable, match="the report does not tell its product"):
        source.for_snp(SnpEvidence(report, ()))


@pytest.mark.vectors
def test_recorded_collateral_is_served_as_recorded(
    vendor: VendorServer, settings: Settings, clock: Clock
) -> None:
    recorded = json.loads((vectors("tdx") / "phala-v4-uptodate" / "collateral.json").read_text())

    def signed(member: str, name: str) -> bytes:
        text = f'{{"{member}":{recorded[name]},"signature":"{recorded[name + "_signature"]}"}}'
        return text.encode()

    fmspc = json.loads(recorded["tcb_info"])["fmspc"]
    info, identity = pcs.tcb_info(pcs.IntelTee.TDX, fmspc), pcs.qe_identity(pcs.IntelTee.TDX)
    pck = pcs.pck_crl(pcs.Ca.PLATFORM)
    for resource, body, chain in (
        (info, signed("tcbInfo", "tcb_info"), recorded["tcb_info_issuer_chain"]),
        (identity, signed("enclaveIdentity", "qe_identity"), recorded["qe_identity_issuer_chain"]),
        (pck, bytes.fromhex(recorded["pck_crl"]), recorded["pck_crl_issuer_chain"]),
        # As a PCCS sends it.
        (pcs.root_crl(), recorded["root_ca_crl"].encode(), ""),
    ):
        vendor.serve(resource, chain_answer(resource, body, chain.encode()))
    clock.now = NOW.replace(year=2025, month=7, day=4)
    found = EndorsementSource(settings, clock=clock).for_dcap(
        pcs.IntelTee.TDX, fmspc, pcs.Ca.PLATFORM
    )
    assert found.root_crl == bytes.fromhex(recorded["root_ca_crl"])
    assert recorded["tcb_info"].encode() in found.tcb_info
    assert found.tcb_info_chain.decode() == recorded["tcb_info_issuer_chain"]
    clock.now = NOW.replace(year=2025, month=8, day=1)
    with pytest.raises(Unavailable, match="has expired; found an end at 2025-07-19"):
        EndorsementSource(settings, clock=clock).for_dcap(pcs.IntelTee.TDX, fmspc, pcs.Ca.PLATFORM)


def test_renewing_in_the_background(
    vendor: VendorServer, settings: Settings, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(source_module, "_RENEWAL_SECONDS", 0.01)
    publish(vendor, PLATFORM)
    source = EndorsementSource(settings, clock=clock)
    source.for_snp(BARE)
    crl = kds.crl(Product.MILAN, SigningKey.VCEK)
    stop = source.start_renewing()
    try:
        clock.now += timedelta(days=2)
        deadline = time.monotonic() + 10
        while vendor.count(crl) < 2:
            assert time.monotonic() < deadline
            time.sleep(0.01)
    finally:
        stop()
    # Nothing else was due.
    assert len(vendor.requests) == 4


# Settings.


def read(text: str, base: Path) -> Settings:
    return Settings.from_table(Table.parse(text, source="policy.toml"), base)


def test_settings(tmp_path: Path, vendor: VendorServer) -> None:
    assert read("", tmp_path) == Settings() == Settings(None, fetch=False)
    assert read('cache = "here"', tmp_path) == Settings(tmp_path / "here", fetch=False)
    (tmp_path / "ca.pem").write_text(vendor.authority.root_pem)
    settings = read(
        'cache = "/c"\nfetch = true\nkds = "https://k.test/amd"\npccs = "https://p.test:8081"\n'
        'ca = "ca.pem"',
        tmp_path,
    )
    assert settings.fetch
    assert settings.servers.ca_pem == vendor.authority.root_pem
    address = settings.servers.address
    assert address(kds.crl(Product.MILAN, SigningKey.VLEK).url) == (
        "https://k.test/amd/vlek/v1/Milan/crl"
    )
    assert address(pcs.root_crl().url) == "https://p.test:8081/sgx/certification/v4/rootcacrl"
    assert address(pcs.qe_identity(pcs.IntelTee.TDX).url) == (
        "https://p.test:8081/tdx/certification/v4/qe/identity"
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("fetch = true", "fetching needs a cache"),
        ('fetch = "yes"', "wrong type"),
        ('cash = "here"', "unknown"),
        ('kds = "http://k.test"', "not a server"),
        ('kds = "https://k.test/"', "not a server"),
        ('kds = "https://user@k.test"', "not a server"),
        ('pccs = "https://p.test:port"', "not a server"),
        ('pccs = "p.test"', "not a server"),
    ],
)
def test_wrong_settings(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(Malformed, match=message) as caught:
        read(text, tmp_path)
    assert str(caught.value.field).startswith("policy.toml")


def test_wrong_servers(tmp_path: Path) -> None:
    with pytest.raises(Misuse, match=r"PCCS: not a server; found http://p\.test"):
        servers(None, "http://p.test", None)
    with pytest.raises(Misuse, match="cannot be read: No such file"):
        servers(None, None, tmp_path / "nowhere")
    (tmp_path / "ca.pem").write_bytes(b"\xff")
    with pytest.raises(Malformed, match="not PEM"):
        servers(None, None, tmp_path / "ca.pem")


def test_a_cache_that_cannot_be(tmp_path: Path) -> None:
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(0o777)
    with pytest.raises(Misuse, match="others may write"):
        EndorsementSource(Settings(tmp_path / "open"))
    assert Cache(tmp_path / "closed").entries() == []
