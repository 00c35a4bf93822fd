"""The hostile host: what a machine's owner can do to a `Stack`, for the tests of attacks.

It starts keeps with launch requests of its own making, runs stewards of its own, and makes
evidence with the simulated vendor's keys as it likes. What it cannot do with a real TEE is to
take a certified keep's key; here it can, to show what such a certificate opens and what not.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from garrison.attesters.simulated_snp_insecure import SimulatedSnpInsecure, sign_report
from garrison.drawbridge.client import Client, ClientCertificate
from garrison.formats.csr import build_request
from garrison.formats.evidence import Evidence, bound_report_data
from garrison.formats.identity import WorkloadIdentity
from garrison.formats.launch_request import LaunchRequest
from garrison.formats.slug import Slug
from garrison.formats.snp import Report
from garrison.formats.snp_evidence import SnpEvidence
from garrison.keep.identity import Certified, Credentials, StewardClient
from garrison.testing.stack import Process

if TYPE_CHECKING:
    from pathlib import Path

    from garrison.testing.stack import Stack

# As `garrison.launch.process` starts it.
_KEEP = (sys.executable, "-I", "-m", "garrison.keep")
_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Host:
    """The owner of the machine on which keeps of `stack` run."""

    stack: Stack

    # Launching.

    def request(self, name: str, **changes: Any) -> LaunchRequest:
        """The launch request for `repo:tag` with simulated evidence, or a changed one.

        Args:
            name: of the workload.
            changes: fields of `LaunchRequest`.
        """
        honest = LaunchRequest(
            slug=self.stack.slug(name),
            steward=self.stack.steward_url,
            steward_roots=self.stack.steward_root.read_text(),
            registry_ca=self.stack.registry_ca.read_text(),
            attester={
                "kind": "simulated-snp-insecure",
                "directory": str(self.stack.simulator),
            },
        )
        return replace(honest, **changes)

    def run(
        self, request: LaunchRequest, seconds: float = _SECONDS
    ) -> subprocess.CompletedProcess[str]:
        """Start a keep with `request`, and wait for its end, so long at most."""
        receive = self._pipe(request)
        try:
            return subprocess.run(
                [*_KEEP, str(receive)],
                pass_fds=(receive,),
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                errors="replace",
                env=self.stack.environment,
                timeout=seconds,
                check=False,
            )
        finally:
            os.close(receive)

    def start(self, label: str, request: LaunchRequest) -> Process:
        """Start a keep with `request`; it ends with the stack at the latest."""
        receive = self._pipe(request)
        try:
            process = Process(
                label,
                [*_KEEP, str(receive)],
                self.stack.environment,
                (receive,),
            )
        finally:
            os.close(receive)
        self.stack.processes.append(process)
        return process

    def _pipe(self, request: LaunchRequest) -> int:
        receive, send = os.pipe()
        with os.fdopen(send, "wb") as pipe:
            # A pipe holds 64 KiB; a request is a few.
            pipe.write(request.to_json())
        return receive

    # Services of its own.

    def start_steward(self, directory: Path, policy: str) -> str:
        """Start a further steward with the keys in `directory`, and return its URL."""
        file = self.stack.directory / f"policy-{len(self.stack.processes)}.toml"
        file.write_text(policy)
        steward = self.stack.start(
            "a further steward", "steward", "serve", "--port", "0",
            "--dir", str(directory), "--policy", str(file),
        )  # fmt: skip
        url = steward.expect("listening on https://").rpartition(" ")[2]
        return f"https://localhost:{url.rpartition(':')[2]}"

    # Evidence.

    def steward(self, url: str | None = None) -> StewardClient:
        """A client of the stack's steward, or of the one at `url`."""
        return StewardClient(url or self.stack.steward_url, self.stack.steward_root.read_text())

    def simulator(self, measurement: str | None = None) -> SimulatedSnpInsecure:
        """The simulated chip, reporting the admitted measurement or another one (hex)."""
        return SimulatedSnpInsecure.open(
            self.stack.simulator,
            measurement=bytes.fromhex(measurement or self.stack.measurement),
        )

    def certified(
        self, name: str | None = None, *, url: str | None = None, measurement: str | None = None
    ) -> Certified:
        """A genuine certificate whose key the host has: of a keep, or of the workload `name`.

        Args:
            name: `repo:tag`.
            url: another steward with the same root.
            measurement: what the evidence reports (hex).
        """
        credentials = Credentials.generate(self.simulator(measurement), self.steward(url))
        return credentials.certify(None if name is None else self.identity(name))

    def identity(self, name: str) -> WorkloadIdentity:
        """What a keep that runs `repo:tag` asks to be called."""
        slug = Slug.parse(self.stack.slug(name))
        digest = self.drawbridge(token=self.token()).tag_digest(slug)
        return WorkloadIdentity(slug=slug, digest=digest)

    def token(self) -> str:
        """The bearer token of the stack's user."""
        file = self.stack.directory / "home/.config/garrison/tokens.json"
        token: str = json.loads(file.read_text())[self.stack.registry]
        return token

    def drawbridge(self, certified: Certified | None = None, token: str | None = None) -> Client:
        """A client of the drawbridge, with that certificate or token."""
        return Client(
            self.stack.registry,
            ca_pem=self.stack.registry_ca.read_text(),
            token=token,
            certificate=None if certified is None else client_certificate(certified),
        )


def client_certificate(certified: Certified) -> ClientCertificate:
    """The certificate and its key, as a client of a drawbridge shows them."""
    return ClientCertificate(certified.chain_pem(), certified.key_pem())


def certificate_request(
    attester: SimulatedSnpInsecure,
    challenge: bytes | None,
    *,
    key: ec.EllipticCurvePrivateKey | None = None,
    bound_to: ec.EllipticCurvePrivateKey | None = None,
    workload: WorkloadIdentity | None = None,
    **report: Any,
) -> bytes:
    """A keep's certificate request (DER), with anything in it as the host wants it.

    Args:
        attester: makes the evidence.
        challenge: of the steward.
        key: asks and signs; by default a new one.
        bound_to: the key to which the evidence is bound; by default the one that asks.
        workload: what name is asked for.
        report: fields of the report to change; it is signed again.
    """
    key = key or ec.generate_private_key(ec.SECP384R1())
    public = (bound_to or key).public_key()
    spki = public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    evidence = attester.attest(bound_report_data(spki, challenge or b""))
    if report:
        evidence = changed_report(attester, evidence, **report)
    return build_request(key, evidence=evidence, challenge=challenge, workload=workload)


def changed_report(attester: SimulatedSnpInsecure, evidence: Evidence, **changes: Any) -> Evidence:
    """The same evidence with other fields in the report, signed by the simulated chip."""
    whole = SnpEvidence.from_bytes(evidence.payload)
    report = replace(Report.from_bytes(whole.report), **changes)
    signed = sign_report(report, attester.key).to_bytes()
    return Evidence(evidence.media_type, SnpEvidence(signed, whole.certificates).to_bytes())
