"""What `garrison image measure --policy` prints is admitted by a steward, with nothing added.

For each TEE: an image is measured, the section is pasted into a policy, and evidence of the
simulator that reports exactly the predicted registers yields a certificate; with one byte of the
image changed it yields none.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from tests.unit.measure.test_measure_tdx import _pe
from tests.unit.steward.conftest import FakeRegistry, Keep
from tests.unit.steward.test_steward_http import PROBLEM, Answer, ask_app

from garrison.attesters.simulated_insecure import TEES, create_insecure, open_insecure
from garrison.cli.main import main
from garrison.formats.challenge_wire import Offer
from garrison.formats.csr import PKCS10_MEDIA_TYPE, build_request, decode_pki_path
from garrison.formats.eif import Eif, EifSection, EifSectionKind
from garrison.formats.evidence import Tee, bound_report_data
from garrison.formats.identity import CertifiedIdentity, WorkloadIdentity
from garrison.formats.sgx_sigstruct import SigstructBody
from garrison.measure import sgx_keys
from garrison.service.requests import Requests
from garrison.steward import init
from garrison.steward.authority import SERVER_PEM
from garrison.steward.http import application
from garrison.steward.setup import open_steward
from garrison.testing.firmware import fake_firmware

if TYPE_CHECKING:
    from pathlib import Path

DIGEST = bytes(range(32))
HEAD = """
trust_domain = "example.test"
freshness = "required"
local_workloads = true
[certificates]
lifetime_minutes = 5
"""
SIGNER = sgx_keys.load(sgx_keys.create(), "key")
TDX_SECTIONS = ((0, 0x1000, 0xFFFFF000, 0x1000, 0, 1), (0, 0, 0x800000, 0x1000, 2, 0))


@dataclass
class Bench:
    """A simulator, and a steward with the policy that was printed."""

    home: Path
    tee: Tee
    capsys: pytest.CaptureFixture[str]

    def measure(self, *options: str) -> str:
        """Run the command, which must not fail."""
        simulator = ("--insecure-simulate", f"{self.tee}={self.home / 'simulator'}")
        assert main(["image", "measure", *simulator, *options]) == 0
        return self.capsys.readouterr().out

    def registers(self, *options: str) -> dict[str, bytes]:
        told = json.loads(self.measure(*options, "--json"))
        assert told["tee"] == self.tee
        assert told["unknown"] == {}
        return {name: bytes.fromhex(value) for name, value in told["registers"].items()}

    def ask(self, policy: str, measured: dict[str, bytes] | None) -> Answer:
        """Ask a steward with `policy` for a certificate, with evidence of `measured`."""
        (self.home / "policy.toml").write_text(HEAD + policy)
        directory = self.home / "steward"
        steward, _ = open_steward(directory, self.home / "policy.toml", directory / SERVER_PEM)
        app = Requests(application(steward, FakeRegistry()))
        headers = {"Content-Type": PKCS10_MEDIA_TYPE, "Accept": PROBLEM}
        offer = asyncio.run(ask_app(app, "GET", "/challenge", headers, b""))
        challenge = Offer.from_bytes(offer.body).challenge
        attester = open_insecure(self.tee, self.home / "simulator", measured)
        keep = Keep(ec.SECP256R1() if attester.curve == "P-256" else ec.SECP384R1())
        request = build_request(
            keep.key,
            evidence=attester.attest(bound_report_data(keep.spki, challenge)),
            challenge=challenge,
            workload=WorkloadIdentity(None, DIGEST),
        )
        return asyncio.run(ask_app(app, "POST", "/", headers, request))


@pytest.fixture(params=TEES)
def bench(
    request: pytest.FixtureRequest, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> Bench:
    now = datetime.now(UTC)
    init.create(tmp_path / "steward", trust_domain="example.test", hosts=["localhost"], now=now)
    create_insecure(request.param, tmp_path / "simulator", name="a b")
    return Bench(tmp_path, request.param, capsys)


def admitted(answer: Answer, tee: Tee, measurement: bytes) -> None:
    assert answer.status == 200, answer.body
    found = CertifiedIdentity.from_certificate(decode_pki_path(answer.body)[-1])
    assert found is not None
    assert (found.workload.tee, found.workload.measurement) == (tee, measurement)
    assert found.workload.tcb_status == "InsecureSimulated"


def test_a_keep_that_is_a_process(bench: Bench) -> None:
    registers = bench.registers()
    policy = bench.measure("--policy")
    assert "# INSECURE" in policy
    admitted(bench.ask(policy, None), bench.tee, next(iter(registers.values())))


def image(home: Path, tee: Tee, initrd: bytes) -> list[str]:
    """The options for an image with `initrd`."""
    home.mkdir()
    if tee is Tee.SGX:
        body = SigstructBody.from_bytes(bytes(60) + hashlib.sha256(initrd).digest() + bytes(36))
        signed = sgx_keys.sign(body, SIGNER)
        (home / "enclave.sig").write_bytes(signed.to_bytes())
        return ["--tee", "sgx", "--sigstruct", str(home / "enclave.sig")]
    if tee is Tee.NITRO:
        kinds = (EifSectionKind.KERNEL, EifSectionKind.CMDLINE, EifSectionKind.RAMDISK)
        parts = (b"kernel", b"console=hvc0", initrd)
        eif = Eif(tuple(map(EifSection, kinds, parts)))
        (home / "eif").write_bytes(eif.to_bytes())
        return ["--tee", "nitro", "--eif", str(home / "eif")]
    for name, content in (
        ("ovmf", fake_firmware(tdx=TDX_SECTIONS)),
        ("kernel", _pe()),
        ("initrd", initrd),
    ):
        (home / name).write_bytes(content)
    files = (f"--{name}={home / name}" for name in ("ovmf", "kernel", "initrd"))
    return ["--tee", str(tee), *files]


def test_an_image_and_one_with_one_byte_changed(bench: Bench) -> None:
    right = image(bench.home / "right", bench.tee, b"the keep")
    wrong = image(bench.home / "wrong", bench.tee, b"the kees")
    policy = bench.measure(*right, "--policy")
    registers = bench.registers(*right)
    admitted(bench.ask(policy, registers), bench.tee, next(iter(registers.values())))
    answer = bench.ask(policy, bench.registers(*wrong))
    assert answer.status == 400
    # Neither is the process of this test, whose measurement is that of code.
    assert bench.ask(policy, None).status == 400
    wanted = {Tee.SNP: "launch measurement", Tee.TDX: "RTMR2", Tee.NITRO: "PCR0"}.get(bench.tee)
    assert (wanted or "MRENCLAVE") in [item["check"] for item in answer.checks]


def test_another_simulator_is_another_vendor(bench: Bench, tmp_path: Path) -> None:
    policy = bench.measure("--policy")
    (bench.home / "simulator").rename(tmp_path / "first")
    create_insecure(bench.tee, bench.home / "simulator", name="a b")
    answer = bench.ask(policy, None)
    assert answer.status == 400
    assert "not a trusted root" in answer.body.decode()


def test_simulators_of_another_tee(bench: Bench) -> None:
    other = "nitro" if bench.tee is not Tee.NITRO else "tdx"
    command = ["image", "measure", "--insecure-simulate"]
    assert main([*command, f"{other}={bench.home / 'simulator'}", "--policy"]) == 2
    assert "a simulator of another TEE" in bench.capsys.readouterr().err
    options = image(bench.home / "image", Tee.SNP if bench.tee is not Tee.SNP else Tee.TDX, b"x")
    assert main([*command, f"{bench.tee}={bench.home / 'simulator'}", *options]) == 2
    assert "a simulator of another TEE" in bench.capsys.readouterr().err
