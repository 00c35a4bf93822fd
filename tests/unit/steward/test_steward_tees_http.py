"""Certificates over HTTP for the TEEs with collateral: SGX, TDX, and Azure on SNP and on TDX.

The evidence is a simulated vendor's; policy file, endorsements, verifiers and HTTP are the true
ones.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import threading
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from tests.unit.steward.conftest import FakeRegistry, Keep
from tests.unit.steward.test_steward_appraise import opened, poster
from tests.unit.steward.test_steward_http import PROBLEM, Answer, ask_app

from garrison.endorsements.source import EndorsementSource
from garrison.endorsements.supply import MustWait, Supply
from garrison.formats import cmw
from garrison.formats.azure import AZURE_MEDIA_TYPE, HclReport, ReportType, quote_nonce
from garrison.formats.challenge_wire import Offer
from garrison.formats.csr import PKCS10_MEDIA_TYPE, build_request, decode_pki_path
from garrison.formats.dcap_quote import TeeType
from garrison.formats.evidence import SGX_MEDIA_TYPE, TDX_MEDIA_TYPE, Evidence, bound_report_data
from garrison.formats.identity import CertifiedIdentity, WorkloadIdentity
from garrison.formats.sgx_evidence import EnarxSgxEvidence
from garrison.service.requests import Requests
from garrison.steward import init
from garrison.steward.authority import SERVER_PEM
from garrison.steward.http import application, replace_steward
from garrison.steward.issuance_log import IssuanceLog
from garrison.steward.setup import open_steward
from garrison.testing.azure import FakeAzure, runtime
from garrison.testing.azure import key as azure_key
from garrison.testing.dcap import NOW, FakeIntel, FakeQuoter, sgx_report, td_report
from garrison.testing.tees import fill_cache, sgx_section, snp_section, tdx_section, write_amd

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from starlette.applications import Starlette

    from garrison.endorsements.resource import Document, Resource

INTEL = FakeIntel()
AZURE = FakeAzure()
DIGEST = bytes(range(32))
QE_SIGNER = "8c4f5775d796503e96137f77c68a829a0056ac8ded70140b081b094490c57bff"
POLICY = "\n".join(
    (
        """
trust_domain = "example.test"
freshness = "required"
local_workloads = true
[certificates]
lifetime_minutes = 5
[endorsements]
cache = "cache"
""",
        sgx_section(
            INTEL,
            measurements=f'["{"ab" * 32}"]',
            signers=f'[{{ mr_signer = "{"cd" * 32}", isv_prod_id = 1, minimum_isv_svn = 8 }}]',
        ),
        tdx_section(INTEL, mr_td=f'["{"ab" * 48}"]'),
        snp_section(AZURE.platform),
        f"""
[azure.pcrs]
4 = ["{"04" * 32}"]
others = "any"
""",
    )
)


@pytest.fixture
def base(tmp_path: Path) -> Path:
    init.create(tmp_path / "steward", trust_domain="example.test", hosts=["localhost"], now=NOW)
    write_amd(tmp_path / "amd", AZURE.platform.endorsements())
    (tmp_path / "policy.toml").write_text(POLICY)
    return tmp_path


def app_of(base: Path) -> Starlette:
    steward, _ = open_steward(base / "steward", base / "policy.toml", base / "steward" / SERVER_PEM)
    return application(steward, FakeRegistry(), clock=lambda: NOW)


def ask(app: Starlette, method: str, body: bytes = b"", path: str = "/") -> Answer:
    headers = {"Content-Type": PKCS10_MEDIA_TYPE, "Accept": PROBLEM}
    return asyncio.run(ask_app(Requests(app), method, path, headers, body))


def sgx(report_data: bytes, measurement: bytes = b"\xab" * 32) -> Evidence:
    body = sgx_report(report_data=report_data, mr_enclave=measurement)
    return Evidence(SGX_MEDIA_TYPE, FakeQuoter(INTEL).quote(body, 3))


def tdx(report_data: bytes, measurement: bytes = b"\xab" * 48) -> Evidence:
    body = td_report(report_data=report_data, mr_td=measurement)
    return Evidence(TDX_MEDIA_TYPE, FakeQuoter(INTEL).quote(body, 4))


def azure_snp(report_data: bytes) -> Evidence:
    made = AZURE.evidence(extra_data=quote_nonce(report_data))
    return Evidence(AZURE_MEDIA_TYPE, made.to_bytes())


def azure_tdx(report_data: bytes) -> Evidence:
    data = runtime(azure_key(AZURE.ak))
    bound = hashlib.sha256(data).digest().ljust(64, b"\0")
    blob = HclReport(1, ReportType.TDX, bytes(1184), data, padding=100)
    made = AZURE.evidence(blob, extra_data=quote_nonce(report_data))
    quote = FakeQuoter(INTEL).quote(td_report(report_data=bound), 4)
    return Evidence(AZURE_MEDIA_TYPE, replace(made, vcek=None, td_quote=quote).to_bytes())


def certify(app: Starlette, make: Callable[[bytes], Evidence], curve: ec.EllipticCurve) -> Answer:
    challenge = Offer.from_bytes(ask(app, "GET", path="/challenge").body).challenge
    keep = Keep(curve)
    request = build_request(
        keep.key,
        evidence=make(bound_report_data(keep.spki, challenge)),
        challenge=challenge,
        workload=WorkloadIdentity(None, DIGEST),
    )
    return ask(app, "POST", request)


CASES = {
    "sgx": (sgx, ec.SECP256R1(), b"\xab" * 32),
    "tdx": (tdx, ec.SECP256R1(), b"\xab" * 48),
    "azure-snp": (azure_snp, ec.SECP384R1(), None),
    "azure-tdx": (azure_tdx, ec.SECP384R1(), None),
}


@pytest.mark.parametrize("name", CASES)
def test_a_certificate(base: Path, name: str) -> None:
    make, curve, measurement = CASES[name]
    fill_cache(base / "cache", INTEL, NOW, TeeType.SGX, TeeType.TDX)
    app = app_of(base)
    answer = certify(app, make, curve)
    assert answer.status == 200, answer.body
    root, leaf = decode_pki_path(answer.body)
    leaf.verify_directly_issued_by(root)
    found = CertifiedIdentity.from_certificate(leaf)
    assert found is not None
    assert (found.workload.tee, found.workload.digest) == (name.partition("-")[0], DIGEST)
    assert found.workload.tcb_status == "InsecureSimulated"
    if measurement is not None:
        assert found.workload.measurement == measurement


@pytest.mark.parametrize("name", CASES)
def test_a_result_for_others_names_the_tee_as_the_certificate_does(base: Path, name: str) -> None:
    make, _, _ = CASES[name]
    fill_cache(base / "cache", INTEL, NOW, TeeType.SGX, TeeType.TDX)
    steward, _ = open_steward(base / "steward", base / "policy.toml", base / "steward" / SERVER_PEM)
    data, log = bytes(range(64)), IssuanceLog(base / "issuance.log")
    answer = poster(steward, log, NOW)(cmw.encode(make(data)), report_data=data.hex())
    log.close()
    tee, _, hardware = name.partition("-")
    ((named, appraisal),) = opened(steward, answer)["submods"].items()
    shown = appraisal["ear_attester_claims"]
    assert (named, shown["tee"], shown.get("hardware", "")) == (tee, tee, hardware)
    assert all(check["passed"] for check in appraisal["ear_verifier_claims"]["checks"])
    assert json.loads((base / "issuance.log").read_text())["tee"] == tee


@pytest.mark.parametrize(
    ("make", "check"),
    [
        (lambda data: sgx(data, bytes(32)), "MRENCLAVE"),
        (lambda data: tdx(data, bytes(48)), "MRTD"),
        (lambda data: sgx(data[::-1]), "report data"),
        (lambda data: azure_snp(data[::-1]), "TPM quote's nonce"),
    ],
    ids=["sgx-measurement", "tdx-measurement", "sgx-bound-to-another", "azure-of-another-nonce"],
)
def test_a_refusal(base: Path, make: Callable[[bytes], Evidence], check: str) -> None:
    fill_cache(base / "cache", INTEL, NOW, TeeType.SGX, TeeType.TDX)
    curve = ec.SECP384R1() if check.startswith("TPM") else ec.SECP256R1()
    answer = certify(app_of(base), make, curve)
    assert answer.status == 400
    assert check in [item["check"] for item in answer.checks]


def test_a_guests_own_report_is_no_paravisors(base: Path) -> None:
    """Below VMPL 0 it is the guest that chooses the runtime data, and so the key of the TPM."""
    path = base / "policy.toml"
    text = path.read_text()
    path.write_text(text.replace("[snp]\n", '[snp]\nvmpl = "any"\n', 1))

    def own(report_data: bytes) -> Evidence:
        made = AZURE.evidence(AZURE.blob(vmpl=2), extra_data=quote_nonce(report_data))
        return Evidence(AZURE_MEDIA_TYPE, made.to_bytes())

    answer = certify(app_of(base), own, ec.SECP384R1())
    assert answer.status == 400
    assert [item["check"] for item in answer.checks] == ["VMPL"]
    assert certify(app_of(base), azure_snp, ec.SECP384R1()).status == 200
    # Nor is a policy for others, at lower levels, any wider for it.
    path.write_text(text.replace("[snp]\n", "[snp]\nvmpl = [2]\n", 1))
    for make in (own, azure_snp):
        answer = certify(app_of(base), make, ec.SECP384R1())
        assert answer.status == 400
        assert [(item["check"], item["expected"]) for item in answer.checks] == [("VMPL", "none")]


def test_a_key_weaker_than_azures(base: Path) -> None:
    answer = certify(app_of(base), azure_snp, ec.SECP256R1())
    assert answer.status == 400
    assert "weaker" in answer.checks[0]["check"]


def test_collateral_that_is_missing_is_not_the_keeps_fault(base: Path) -> None:
    fill_cache(base / "cache", INTEL, NOW, TeeType.SGX)
    answer = certify(app_of(base), tdx, ec.SECP256R1())
    assert answer.status == 503
    assert "not in the cache" in answer.checks[0]["check"]


def test_the_answer_is_of_this_steward(base: Path) -> None:
    fill_cache(base / "cache", INTEL, NOW, TeeType.SGX)
    app = app_of(base)
    root = decode_pki_path(certify(app, sgx, ec.SECP256R1()).body)[0]
    assert root.public_bytes(Encoding.PEM) == (base / "steward" / "root.pem").read_bytes()


def enarx_request(keep: Keep, evidence: bytes) -> bytes:
    """A request as an original keep makes it: no challenge, and evidence with its collateral."""
    extension = x509.UnrecognizedExtension(x509.ObjectIdentifier("1.3.6.1.4.1.58270.1.2"), evidence)
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    request = builder.add_extension(extension, critical=False).sign(keep.key, hashes.SHA256())
    return request.public_bytes(Encoding.DER)


@pytest.mark.parametrize("admits", [True, False])
def test_a_keep_of_the_original_brings_its_collateral_along(base: Path, admits: bool) -> None:
    """With `qe_identity = "optional"` that does; where the steward has its own, that goes first."""
    text = POLICY.replace('freshness = "required"', 'freshness = "optional"')
    if admits:
        text = text.replace("[sgx]\n", '[sgx]\nqe_identity = "optional"\n')
    (base / "policy.toml").write_text(text)
    keep, made = Keep(ec.SECP256R1()), INTEL.collateral(TeeType.SGX)
    bound = hashlib.sha256(keep.spki).digest().ljust(64, b"\0")
    body = sgx_report(report_data=bound)
    intels = {"mr_signer": bytes.fromhex(QE_SIGNER), "isv_prod_id": 1}
    evidence = EnarxSgxEvidence(
        quote=FakeQuoter(INTEL, intels).quote(body, 3),
        crls=(("https://a.test/root", made.root_crl), ("https://a.test/pck", made.pck_crl)),
        signers=tuple(
            INTEL.certificate(name).public_bytes(Encoding.DER) for name in ("signer", "root")
        ),
        tcb_info=made.tcb_info,
    ).to_der()
    request = enarx_request(keep, evidence)
    answer = ask(app_of(base), "POST", request)
    if not admits:
        assert answer.status == 503
        return
    assert answer.status == 200, answer.body
    fill_cache(base / "cache", INTEL, NOW, TeeType.SGX)
    # The fake Intel's own identity knows another signer.
    answer = ask(app_of(base), "POST", request)
    assert (answer.status, "MRSIGNER" in answer.checks[0]["check"]) == (400, True)


def test_what_must_be_fetched_is_not_waited_for_on_the_event_loop(
    base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is fetched all the same, by a thread; what is cached is used at once."""
    fill_cache(base / "cache", INTEL, NOW, TeeType.SGX)
    app = app_of(base)
    threads: list[str] = []

    def fetched(self: Supply, resource: Resource) -> Document:
        threads.append(threading.current_thread().name)
        if threading.current_thread() is threading.main_thread():
            raise MustWait(resource.url)
        return original(self, resource)

    original = Supply.get
    monkeypatch.setattr(Supply, "get", fetched)
    answer = certify(app, sgx, ec.SECP256R1())
    assert answer.status == 200, answer.body
    assert threads[0] == "MainThread"
    assert len(set(threads)) == 2


def test_endorsements_are_renewed_while_it_serves(
    base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From start to end, and by the settings of the policy that is in force."""
    events: list[str] = []

    def start(source: EndorsementSource) -> Callable[[], None]:
        name = f"{id(source)}"
        events.append(f"start {name}")
        return lambda: events.append(f"stop {name}")

    monkeypatch.setattr(EndorsementSource, "start_renewing", start)
    app = app_of(base)
    first = id(app.state.service.current[0].endorsements)
    renewed, registry = open_steward(
        base / "steward", base / "policy.toml", base / "steward" / SERVER_PEM
    )
    replace_steward(app, app.state.service.current[0], registry)
    assert events == []

    async def serve() -> int:
        async with app.router.lifespan_context(app):
            replace_steward(app, renewed, registry)
            return id(renewed.endorsements)

    second = asyncio.run(serve())
    assert first != second
    assert events == [f"start {first}", f"stop {first}", f"start {second}", f"stop {second}"]
