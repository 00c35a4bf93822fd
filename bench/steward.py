"""The steward: attestations over HTTPS, against what their signatures cost at least.

python bench/steward.py [--seconds N] [--load-seconds N]

For each TEE a policy, simulated vendors and a few keeps with evidence of their own, bound to
challenges of the steward that is measured. The bound is the price of the signature operations of
one attestation, through `cryptography` in this same run: the request's, the evidence's, those that
certify the platform's key, and the one of the certificate that is issued; those of issuers and of
vendors' lists are in no bound. What the service takes is its processor time, so that clients on the
same machine do not count.

Platforms attest again and again, and what certifies a platform's key is remembered by content: then
it is verified no more, and the second bound is without it. Rows of new platforms have so many that
none is remembered.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import socket
import ssl
import statistics
import sys
import tempfile
import threading
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import peers
import steward_peers
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from garrison.formats.challenge_wire import Offer
from garrison.formats.csr import PKCS10_MEDIA_TYPE, build_request
from garrison.formats.dcap_quote import TeeType
from garrison.formats.evidence import (
    SGX_MEDIA_TYPE,
    SNP_MEDIA_TYPE,
    TDX_MEDIA_TYPE,
    Evidence,
    bound_report_data,
)
from garrison.formats.identity import WorkloadIdentity
from garrison.formats.nitro import NITRO_MEDIA_TYPE
from garrison.formats.snp_evidence import SnpEvidence
from garrison.steward import init
from garrison.testing.dcap import FakeIntel, FakeQuoter, sgx_report, td_report
from garrison.testing.nitro import FakeNitro
from garrison.testing.snp import FakePlatform, ca_key
from garrison.testing.stack import GARRISON, free_port
from garrison.testing.tees import (
    fill_cache,
    nitro_section,
    sgx_section,
    snp_section,
    tdx_section,
    write_amd,
)
from garrison.verification.x509 import PLATFORMS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from garrison.formats.sgx_report import SgxReport
    from garrison.formats.tdx_report import TdReport

NOW = datetime.now(UTC).replace(microsecond=0)
KEEPS = 24
# More than are remembered of any kind (`garrison.verification.x509.PLATFORMS`).
NEW_PLATFORMS = PLATFORMS + 8
CONNECTIONS = 8
GOAL = 0.7
# Of every fifty requests of the load, one has evidence that is not genuine.
_BAD = 50
_MORE_MEBIBYTES = 8
_OPERATIONS = 200
# Each row is measured in so many turns, so that a moment when others are busy does not decide.
_TURNS = 3

INTEL = FakeIntel(
    end=NOW + timedelta(days=300),
    issued=NOW - timedelta(days=1),
    expires=NOW + timedelta(days=28),
)
PLATFORM = FakePlatform(start=NOW - timedelta(days=1))
NITRO = FakeNitro(now=NOW)
POLICY = "\n".join(
    (
        """
trust_domain = "bench.test"
freshness = "required"
local_workloads = true
[certificates]
lifetime_minutes = 60
[endorsements]
cache = "cache"
""",
        snp_section(PLATFORM),
        nitro_section(NITRO, pcrs=f'{{ 0 = ["{"ab" * 48}"], others = "any" }}'),
        sgx_section(
            INTEL,
            measurements=f'["{"ab" * 32}"]',
            signers=f'[{{ mr_signer = "{"cd" * 32}", isv_prod_id = 1, minimum_isv_svn = 8 }}]',
        ),
        tdx_section(INTEL, mr_td=f'["{"ab" * 48}"]'),
    )
)


# Each platform has a certificate of its own, and all have the same issuers.
_AMD = PLATFORM.evidence().certificates[1:]
_INTEL = INTEL.pem("ca", "root") + b"\0"
_AWS = NITRO.chain()[:-1]


def snp(report_data: bytes) -> Evidence:
    """An SNP report, with its chain."""
    made = PLATFORM.evidence(report_data=report_data)
    chained = SnpEvidence(made.report, (made.certificates[0], *_AMD))
    return Evidence(SNP_MEDIA_TYPE, chained.to_bytes())


def _quote(body: SgxReport | TdReport, version: int) -> bytes:
    return FakeQuoter(INTEL).quote(body, version, INTEL.pem("pck") + _INTEL)


def sgx(report_data: bytes) -> Evidence:
    """A quote of an enclave."""
    return Evidence(SGX_MEDIA_TYPE, _quote(sgx_report(report_data=report_data), 3))


def tdx(report_data: bytes) -> Evidence:
    """A quote of a TD."""
    return Evidence(TDX_MEDIA_TYPE, _quote(td_report(report_data=report_data), 4))


def nitro(report_data: bytes) -> Evidence:
    """A Nitro document."""
    document = NITRO.document([*_AWS, NITRO.chain()[-1]], user_data=report_data)
    return Evidence(NITRO_MEDIA_TYPE, document)


@dataclass(frozen=True, slots=True)
class Kind:
    """A TEE: its evidence, the key that its keeps have, and what cannot be saved of its signatures.

    `verified` counts verifications by P-256, P-384 and RSA-4096; `again` those of a platform that
    is known. One P-384 signature is for the certificate. Of SNP: request, report, VCEK. Of quotes:
    request, quote, QE report, PCK. Of Nitro: request, document, the enclave's certificate.
    """

    make: Callable[[bytes], Evidence]
    curve: ec.EllipticCurve
    verified: tuple[int, int, int]
    again: tuple[int, int, int]


KINDS = {
    "SNP": Kind(snp, ec.SECP384R1(), (0, 2, 1), (0, 2, 0)),
    "TDX": Kind(tdx, ec.SECP256R1(), (4, 0, 0), (2, 0, 0)),
    "SGX": Kind(sgx, ec.SECP256R1(), (4, 0, 0), (2, 0, 0)),
    "Nitro": Kind(nitro, ec.SECP384R1(), (0, 3, 0), (0, 2, 0)),
}


def _least(work: Callable[[], object]) -> float:
    """Processor seconds of one, where the machine disturbs least."""
    found = []
    for _ in range(5):
        started = time.process_time()
        for _ in range(_OPERATIONS // 5):
            work()
        found.append((time.process_time() - started) / (_OPERATIONS // 5))
    return min(found)


@dataclass(frozen=True, slots=True)
class Costs:
    """Seconds of one signature operation each."""

    p256: float
    p384: float
    rsa: float
    sign: float

    @classmethod
    def measured(cls) -> Costs:
        """What they cost here and now."""
        data, found = bytes(1200), []
        for curve, algorithm in (
            (ec.SECP256R1(), hashes.SHA256()),
            (ec.SECP384R1(), hashes.SHA384()),
        ):
            key = ec.generate_private_key(curve)
            signature, public = key.sign(data, ec.ECDSA(algorithm)), key.public_key()
            found.append(
                _least(lambda: public.verify(signature, data, ec.ECDSA(algorithm)))  # noqa: B023
            )
        sign = _least(lambda: key.sign(data, ec.ECDSA(hashes.SHA384())))
        scheme = padding.PSS(padding.MGF1(hashes.SHA384()), 48)
        rsa = ca_key(0)
        signature, big = rsa.sign(data, scheme, hashes.SHA384()), rsa.public_key()
        found.append(_least(lambda: big.verify(signature, data, scheme, hashes.SHA384())))
        return cls(*found, sign)

    def bound(self, verified: tuple[int, int, int]) -> float:
        """Seconds that an attestation with so many verifications takes at least."""
        p256, p384, rsa = verified
        return p256 * self.p256 + p384 * self.p384 + rsa * self.rsa + self.sign


def prepare(directory: Path) -> None:
    """Make a steward's directory, its policy, and the vendors' endorsements."""
    init.create(directory / "steward", trust_domain="bench.test", hosts=["localhost"], now=NOW)
    (directory / "policy.toml").write_text(POLICY)
    write_amd(directory / "amd", PLATFORM.endorsements())
    fill_cache(directory / "cache", INTEL, NOW, TeeType.SGX, TeeType.TDX)


@contextlib.contextmanager
def steward(directory: Path, workers: int, cores: set[int]) -> Iterator[tuple[int, list[int]]]:
    """Serve; gives the port, and the processes that do the work."""
    port = free_port()
    command = [
        *GARRISON, "steward", "serve", "--dir", str(directory / "steward"),
        "--policy", str(directory / "policy.toml"), "--port", str(port), "--workers", str(workers),
    ]  # fmt: skip
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        running = peers.running(command, port)
        process = running.__enter__()
    finally:
        os.sched_setaffinity(0, before)
    try:
        yield port, [process.pid] if workers == 1 else _workers(process.pid, workers)
    finally:
        running.__exit__(None, None, None)


def _workers(supervisor: int, number: int) -> list[int]:
    """The processes that a supervisor starts; it listens before it has."""
    children = Path(f"/proc/{supervisor}/task/{supervisor}/children")
    end = time.monotonic() + 10
    while len(pids := [int(child) for child in children.read_text().split()]) < number:
        if time.monotonic() > end:
            sys.exit(f"error: {len(pids)} of {number} workers started")
        time.sleep(0.05)
    return pids


def _cpu(pids: list[int]) -> float:
    """Processor seconds that the threads of processes have had; kernel's sched-stats.rst."""
    threads = (thread for pid in pids for thread in Path(f"/proc/{pid}/task").iterdir())
    return sum(int((each / "schedstat").read_text().split()[0]) for each in threads) / 1e9


def _resident(pids: list[int]) -> float:
    """Mebibytes that processes have to themselves, or share in parts."""
    total = 0
    for pid in pids:
        text = Path(f"/proc/{pid}/smaps_rollup").read_text()
        total += int(text.partition("\nPss:")[2].split()[0])
    return total / 1024


class Connection:
    """A connection that sends requests whole, and reads answers with a length."""

    def __init__(self, port: int) -> None:
        context = ssl.create_default_context()
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        plain = socket.create_connection(("127.0.0.1", port), 10)
        self._socket = context.wrap_socket(plain)

    def ask(self, request: bytes) -> tuple[int, bytes]:
        """Send a request; gives status and body."""
        self._socket.sendall(request)
        data = b""
        while b"\r\n\r\n" not in data:
            data += self._more()
        head, _, body = data.partition(b"\r\n\r\n")
        size = int(head.lower().partition(b"content-length:")[2].split()[0])
        while len(body) < size:
            body += self._more()
        return int(head[9:12]), body

    def _more(self) -> bytes:
        data = self._socket.recv(65536)
        if not data:
            raise RuntimeError("the steward closed the connection")
        return data

    def close(self) -> None:
        """End it."""
        self._socket.close()


@dataclass(frozen=True, slots=True)
class Asked:
    """A request whole, the key whose certificate must come, and whether one must come."""

    request: bytes
    spki: bytes
    is_good: bool


def _spoilt(evidence: Evidence) -> Evidence:
    """The same with a bit of a signature turned."""
    payload = bytearray(evidence.payload)
    if evidence.media_type == SNP_MEDIA_TYPE:
        parsed = SnpEvidence.from_bytes(evidence.payload)
        report = bytearray(parsed.report)
        report[0x2A5] ^= 1
        spoilt = SnpEvidence(bytes(report), parsed.certificates)
        return Evidence(evidence.media_type, spoilt.to_bytes())
    place = {SGX_MEDIA_TYPE: 48 + 384 + 4 + 5, TDX_MEDIA_TYPE: 48 + 584 + 4 + 5}
    payload[place.get(evidence.media_type, len(payload) - 5)] ^= 1
    return Evidence(evidence.media_type, bytes(payload))


def asked(port: int, kind: Kind, count: int, *, is_good: bool = True) -> list[Asked]:
    """Requests of as many keeps, each with a challenge of the steward's."""
    connection, found = Connection(port), []
    for _ in range(count):
        status, offer = connection.ask(b"GET /challenge HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert status == 200
        challenge = Offer.from_bytes(offer).challenge
        key = ec.generate_private_key(kind.curve)
        spki = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        evidence = kind.make(bound_report_data(spki, challenge))
        body = build_request(
            key,
            evidence=evidence if is_good else _spoilt(evidence),
            challenge=challenge,
            workload=WorkloadIdentity(None, bytes(32)),
        )
        head = (
            f"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Type: {PKCS10_MEDIA_TYPE}\r\n"
            f"Content-Length: {len(body)}\r\n\r\n"
        )
        found.append(Asked(head.encode() + body, spki, is_good))
    connection.close()
    return found


@dataclass(slots=True)
class Load:
    """What a load came to.

    Attributes:
        latencies: seconds of each answer.
        wrong: answers that must not have been.
        refused: how much was refused, and rightly.
    """

    latencies: list[float] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    refused: int = 0

    def client(self, port: int, requests: list[Asked], offset: int, end: float) -> None:
        """Ask over one connection until `end`."""
        connection, number = Connection(port), offset
        try:
            while time.perf_counter() < end:
                one = requests[number % len(requests)]
                number += 1
                started = time.perf_counter()
                status, body = connection.ask(one.request)
                self.latencies.append(time.perf_counter() - started)
                self.refused += not one.is_good
                is_right = (status == 200 and one.spki in body) if one.is_good else status == 400
                if not is_right:
                    self.wrong.append(f"{status} for {'good' if one.is_good else 'bad'} evidence")
        except (OSError, RuntimeError) as error:
            self.wrong.append(str(error))
        finally:
            connection.close()


def load(port: int, requests: list[Asked], seconds: float) -> Load:
    """Ask over all connections for so long."""
    found = Load()
    end = time.perf_counter() + seconds
    threads = [
        threading.Thread(
            target=found.client, args=(port, requests, number * len(requests) // CONNECTIONS, end)
        )
        for number in range(CONNECTIONS)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found


def _p99(latencies: list[float]) -> float:
    if len(latencies) < 2:
        raise RuntimeError("hardly anything was answered: the machine is too busy to measure")
    return statistics.quantiles(latencies, n=100)[98] * 1000


@dataclass(frozen=True, slots=True)
class Row:
    """What the service took for one TEE: medians of `_TURNS` turns, each with its own bound."""

    rate: float
    p99: float
    each: float
    bound: float
    ratio: float
    computed: float

    @classmethod
    def measured(
        cls,
        port: int,
        pids: list[int],
        kind: Kind,
        requests: list[Asked],
        seconds: float,
        *,
        is_new: bool,
    ) -> Row:
        """Load it in turns with the operations themselves."""
        latencies: list[float] = []
        eaches, bounds, computed = [], [], []
        before = Costs.measured()
        for _ in range(_TURNS):
            used = _cpu(pids)
            found = load(port, requests, seconds / _TURNS)
            used = _cpu(pids) - used
            after = Costs.measured()
            if found.wrong:
                raise RuntimeError(found.wrong[0])
            if not found.latencies:
                raise RuntimeError("nothing was answered: the machine is too busy to measure")
            latencies += found.latencies
            eaches.append(used / len(found.latencies))
            whole, again = (
                min(before.bound(verified), after.bound(verified))
                for verified in (kind.verified, kind.verified if is_new else kind.again)
            )
            bounds.append(whole)
            computed.append(again / eaches[-1])
            before = after
        ratios = [bound / each for bound, each in zip(bounds, eaches, strict=True)]
        return cls(
            len(latencies) / seconds,
            _p99(latencies),
            *map(statistics.median, (eaches, bounds, ratios, computed)),
        )


def attestations(directory: Path, seconds: float, kinds: list[str]) -> bool:
    """Measure each TEE on one core and on two, print a table, and tell whether the goal is met."""
    print(
        f"| over HTTPS, {CONNECTIONS} connections | cores | attestations/s | p99 ms |"
        " CPU µs each | bound µs | of the bound | of what is computed |\n"
        "|---|---|---|---|---|---|---|---|"
    )
    cores, are_met = sorted(os.sched_getaffinity(0)), True
    for workers in (1, 2):
        with steward(directory, workers, set(cores[:workers])) as (port, pids):
            for name in kinds:
                for is_new in (False, True)[: 3 - workers]:
                    kind = KINDS[name]
                    requests = asked(port, kind, NEW_PLATFORMS if is_new else KEEPS)
                    # New ones are shown beside the others, and held to no goal: in half the time.
                    turn = seconds / 2 if is_new else seconds
                    load(port, requests, turn / 4)
                    row = Row.measured(port, pids, kind, requests, turn, is_new=is_new)
                    are_met = are_met and (is_new or row.ratio >= GOAL)
                    label = f"{name}, new platforms" if is_new else name
                    print(
                        f"| {label} | {workers} | {row.rate:,.0f} | {row.p99:.1f} |"
                        f" {row.each * 1e6:,.0f} | {row.bound * 1e6:,.0f} | {row.ratio:.2f} |"
                        f" {row.computed:.2f} |",
                        flush=True,
                    )
    return are_met


def saturated(directory: Path, seconds: float) -> bool:
    """Load two workers with all TEEs and some bad evidence; whether all answers were right."""
    cores = set(sorted(os.sched_getaffinity(0))[:2])
    with steward(directory, 2, cores) as (port, pids):
        good = [one for kind in KINDS.values() for one in asked(port, kind, KEEPS)]
        bad = [one for kind in KINDS.values() for one in asked(port, kind, 2, is_good=False)]
        mixed: list[Asked] = []
        for number in range(_BAD * len(bad)):
            place, turn = divmod(number, _BAD)
            mixed.append(bad[place] if turn == _BAD - 1 else good[number % len(good)])
        load(port, mixed, seconds / 4)
        first = _resident(pids)
        found = load(port, mixed, seconds)
        last = _resident(pids)
    print(
        f"\n| {seconds:.0f} s at saturation, two workers, all TEEs, 2 % bad evidence | |\n"
        "|---|---|\n"
        f"| answers | {len(found.latencies):,} |\n| rightly refused | {found.refused:,} |\n"
        f"| wrong answers | {len(found.wrong)} |\n| p99 | {_p99(found.latencies):.0f} ms |\n"
        f"| memory after a quarter of that, and at the end | {first:.0f} and {last:.0f} MiB |"
    )
    return not found.wrong and last - first < _MORE_MEBIBYTES


def main() -> int:
    """Measure and print the tables; 1 if a goal is missed."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=3.2, help="for each row")
    parser.add_argument("--load-seconds", type=float, default=10.0, help="at saturation")
    parser.add_argument("--only", choices=[*KINDS, "load", "alone"])
    given = parser.parse_args()
    are_met = True
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        prepare(directory)
        if given.only not in ("load", "alone"):
            kinds = [given.only] if given.only else list(KINDS)
            are_met &= attestations(directory, given.seconds, kinds)
        if given.only in (None, "alone"):
            steward_peers.compare(PLATFORM, INTEL, NOW)
        if given.only in (None, "load"):
            are_met &= saturated(directory, given.load_seconds)
    return 0 if are_met else 1


if __name__ == "__main__":
    sys.exit(main())
