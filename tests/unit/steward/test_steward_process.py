"""`garrison steward` as real processes, with a simulated TEE and the true SNP verifier."""

from __future__ import annotations

import contextlib
import http.client
import json
import signal
import socket
import ssl
import subprocess
import sys
import time
import urllib.request
from typing import TYPE_CHECKING

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from garrison.attesters.select import select
from garrison.attesters.simulator_directory_insecure import process_measurement
from garrison.formats.challenge_wire import Offer
from garrison.formats.csr import PKCS10_MEDIA_TYPE, build_request, decode_pki_path
from garrison.formats.evidence import bound_report_data
from garrison.formats.identity import CertifiedIdentity, WorkloadIdentity
from garrison.formats.slug import Slug

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from garrison.attesters.base import Attester

GARRISON = (sys.executable, "-m", "garrison")
MORE = ("--metrics", "localhost:0")
PROBLEM = "application/problem+json"


def garrison(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*GARRISON, *arguments], capture_output=True, text=True, timeout=60, check=False
    )


def policy(simulator: Path, measurement: str) -> str:
    key = json.loads((simulator / "simulator.json").read_text())["key_sha256"]
    return f"""
trust_domain = "example.test"
freshness = "required"
local_workloads = true
[certificates]
lifetime_minutes = 5
[snp]
measurements = ["{measurement}"]
products = ["Milan"]
minimum_tcb = "any"
id_key_digests = "any"
author_key_digests = "any"
host_data = "any"
chip_ids = "any"
endorsements = []
[snp.insecure_simulated_roots.demo]
key_sha256 = "{key}"
endorsements = "{simulator}"
"""


class Running:
    """A steward that serves, and a keep's side of it."""

    def __init__(self, base: Path, measurement: str, *more: str) -> None:
        self.simulator = base / "simulator"
        self.directory = base / "steward"
        for arguments in (
            ["platform", "insecure-simulator", "--name", "demo", str(self.simulator)],
            ["steward", "init", str(self.directory), "--trust-domain", "example.test"],
        ):
            done = garrison(*arguments)
            assert done.returncode == 0, done.stderr
        (base / "policy.toml").write_text(policy(self.simulator, measurement))
        where = ["--dir", str(self.directory), "--policy", str(base / "policy.toml")]
        self.process = subprocess.Popen(
            [
                *GARRISON,
                "steward",
                "serve",
                *where,
                "--host",
                "localhost",
                "--port",
                "0",
                "--json",
                *MORE,
                *more,
            ],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout is not None
        told = json.loads(self.process.stdout.readline())
        self.port = int(told["url"].rpartition(":")[2])
        self.metrics = told["metrics"]

    @property
    def attester(self) -> Attester:
        return select({"kind": "simulated-snp-insecure", "directory": str(self.simulator)})

    def ask(self, method: str, path: str, body: bytes = b"") -> tuple[int, bytes]:
        context = ssl.create_default_context(cafile=str(self.directory / "root.pem"))
        connection = http.client.HTTPSConnection(
            "localhost", self.port, context=context, timeout=30
        )
        headers = {"Content-Type": PKCS10_MEDIA_TYPE, "Accept": PROBLEM}
        try:
            connection.request(method, path, body, headers)
            with connection.getresponse() as response:
                return response.status, response.read()
        finally:
            connection.close()

    def request(self, workload: WorkloadIdentity | None) -> bytes:
        challenge = Offer.from_bytes(self.ask("GET", "/challenge")[1]).challenge
        key = ec.generate_private_key(ec.SECP384R1())
        spki = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        evidence = self.attester.attest(bound_report_data(spki, challenge))
        return build_request(key, evidence=evidence, challenge=challenge, workload=workload)


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    started = Running(tmp_path_factory.mktemp("process"), process_measurement().hex())
    yield started
    started.process.kill()
    started.process.communicate()


def test_attested_keep_gets_its_certificate(running: Running) -> None:
    workload = WorkloadIdentity(None, bytes(range(32)))
    status, body = running.ask("POST", "/", running.request(workload))
    assert status == 200, body
    root, leaf = decode_pki_path(body)
    assert root == x509.load_pem_x509_certificate(running.ask("GET", "/bundle")[1])
    leaf.verify_directly_issued_by(root)
    identity = CertifiedIdentity.from_certificate(leaf)
    assert identity is not None
    assert identity.workload.digest == workload.digest
    assert identity.workload.measurement == process_measurement()
    assert identity.workload.tcb_status == "InsecureSimulated"


def test_attestations_and_stages_are_counted(running: Running) -> None:
    with urllib.request.urlopen(running.metrics, timeout=20) as answer:  # noqa: S310 - http, our own
        before = answer.read().decode()
    assert running.ask("POST", "/", running.request(WorkloadIdentity(None, bytes(32))))[0] == 200
    with urllib.request.urlopen(running.metrics, timeout=20) as answer:  # noqa: S310 - http, our own
        text = answer.read().decode()
    for name in (
        'garrison_attestations_total{outcome="admitted",tee="snp"}',
        'garrison_decisions_total{outcome="issued"}',
        *(
            f'garrison_stage_seconds_count{{stage="{stage}"}}'
            for stage in ("parse", "endorsements", "verify", "appraise", "sign")
        ),
    ):
        counts = [
            next((float(line.split()[-1]) for line in lines.splitlines() if name in line), 0.0)
            for lines in (before, text)
        ]
        assert counts[1] == counts[0] + 1, name
    with urllib.request.urlopen(running.metrics.replace("/metrics", "/ready")) as answer:  # noqa: S310 - http, our own
        assert answer.status == 200


def test_keep_without_evidence_does_not(running: Running) -> None:
    key = ec.generate_private_key(ec.SECP384R1())
    request = build_request(key, evidence=None, challenge=None, workload=None)
    assert running.ask("POST", "/", request)[0] == 401


@pytest.mark.parametrize("chunked", [False, True])
def test_body_of_100_mb_is_refused_and_not_kept(running: Running, chunked: bool) -> None:
    """Refused by its announcement; or, unannounced, as soon as it is too long."""
    announced = "Transfer-Encoding: chunked" if chunked else "Content-Length: 100000000"
    head = f"POST / HTTP/1.1\r\nHost: x\r\nContent-Type: {PKCS10_MEDIA_TYPE}\r\n{announced}\r\n"
    context = ssl.create_default_context(cafile=str(running.directory / "root.pem"))
    sent, answer = 0, b""
    with (
        socket.create_connection(("localhost", running.port), timeout=30) as plain,
        context.wrap_socket(plain, server_hostname="localhost") as tls,
    ):
        tls.sendall(head.encode() + f"Accept: {PROBLEM}\r\n\r\n".encode())
        piece = b"x" * 100_000
        while sent < 100_000_000 and b"\r\n\r\n" not in answer:
            tls.settimeout(30)
            tls.sendall(b"%x\r\n%s\r\n" % (len(piece), piece) if chunked else piece)
            sent += len(piece)
            tls.settimeout(0.01)
            with contextlib.suppress(TimeoutError, ssl.SSLWantReadError):
                answer += tls.recv(4096)
    assert answer.startswith(b"HTTP/1.1 413 ")
    # Much less than all of it: an answer takes a moment, and buffers hold some.
    assert sent < 20_000_000
    assert running.ask("GET", "/")[0] == 200


def test_unknown_drawbridge_is_told(running: Running) -> None:
    workload = WorkloadIdentity(Slug.parse("other.test/u/r:1.0.0"), bytes(32))
    status, body = running.ask("POST", "/", running.request(workload))
    assert status == 400
    assert (
        json.loads(body)["checks"][0]["check"] == "slug: the policy does not name this drawbridge"
    )


def test_other_measurement_is_told_with_found_and_expected(tmp_path: Path) -> None:
    running = Running(tmp_path, "ab" * 48)
    try:
        status, body = running.ask("POST", "/", running.request(None))
    finally:
        running.process.send_signal(signal.SIGTERM)
        _, err = running.process.communicate(timeout=30)
    assert status == 400
    (check,) = json.loads(body)["checks"]
    assert process_measurement().hex() in check["found"]
    assert "ab" * 48 in check["expected"]
    assert running.process.returncode == 0
    assert "INSECURE: the policy trusts the simulated TEE vendor 'demo'" in err
    assert '"outcome": "refused"' in err
    assert "Traceback" not in err


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["init", "{dir}", "--trust-domain", "a.test"], "exists already"),
        (["serve", "--dir", "{dir}", "--policy", "{other}"], "not the trust domain of root.pem"),
        (
            ["serve", "--dir", "{dir}", "--policy", "{policy}", "--tls-cert", "{policy}"],
            "given without the other",
        ),
    ],
)
def test_misuse_is_told_without_a_traceback(
    running: Running, arguments: list[str], reason: str
) -> None:
    base = running.directory.parent
    text = (base / "policy.toml").read_text()
    (base / "other.toml").write_text(text.replace("example.test", "other.test"))
    places = {
        "dir": running.directory,
        "policy": base / "policy.toml",
        "other": base / "other.toml",
    }
    done = garrison("steward", *(argument.format(**places) for argument in arguments))
    assert done.returncode != 0
    assert done.stdout == ""
    assert reason in done.stderr
    assert "Traceback" not in done.stderr


def test_rollover_while_it_serves(tmp_path: Path) -> None:
    """Prepare, activate, each with SIGHUP: the old root's clients are served all the time."""
    running = Running(tmp_path, process_measurement().hex())
    workload = WorkloadIdentity(None, bytes(range(32)))
    try:
        first, _ = decode_pki_path(running.ask("POST", "/", running.request(workload))[1])
        bundle = [first]
        for step, trusted in (("prepare", 2), ("activate", 2)):
            done = garrison("steward", "rollover", step, str(running.directory))
            assert done.returncode == 0, done.stderr
            running.process.send_signal(signal.SIGHUP)
            deadline = time.monotonic() + 30
            while True:
                bundle = x509.load_pem_x509_certificates(running.ask("GET", "/bundle")[1])
                if len(bundle) == trusted and (bundle[0] == first) == (step == "prepare"):
                    break
                assert time.monotonic() < deadline
                time.sleep(0.05)
        second, leaf = decode_pki_path(running.ask("POST", "/", running.request(workload))[1])
        assert second == bundle[0] != first
        leaf.verify_directly_issued_by(second)
        assert set(bundle) == {first, second}
    finally:
        running.process.send_signal(signal.SIGTERM)
        _, err = running.process.communicate(timeout=30)
    assert "Traceback" not in err
