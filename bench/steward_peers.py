"""Verification alone, beside others of the same evidence: dcap-qvl (Rust) and go-sev-guest (Go).

All trust the simulated vendor. Ours has read the vendor's certificates and collateral before, as a
service has; the others are called as their users call them. What certifies the platform's key ours
verifies anew each time; in a column of its own it remembers that, as of platforms that it knows.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import peers
from cryptography.hazmat.primitives.serialization import Encoding

from garrison.formats.dcap_collateral import DcapCollateral, Signed
from garrison.formats.dcap_quote import TeeType
from garrison.testing.dcap import FakeIntel, FakeQuoter, sgx_report, td_report
from garrison.verification import dcap, dcap_chain, snp

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime

    from garrison.testing.snp import FakePlatform

_ROUNDS = 60
_BUILD_SECONDS = 120
_GO = peers.PROGRAMS / "go_sev_guest"


def _each(work: Callable[[], object]) -> float:
    """Microseconds of one, where the machine disturbs least."""
    work()
    found = []
    for _ in range(6):
        started = time.process_time()
        for _ in range(_ROUNDS // 6):
            work()
        found.append((time.process_time() - started) / (_ROUNDS // 6))
    return min(found) * 1e6


def _qvl(quote: bytes, collateral: DcapCollateral, intel: FakeIntel, now: datetime) -> float:
    try:
        import dcap_qvl
    except ImportError:
        raise peers.MissingPeerError("dcap-qvl is not installed") from None
    other: Any = dcap_qvl
    info = Signed.from_bytes(collateral.tcb_info, "tcbInfo")
    identity = Signed.from_bytes(collateral.qe_identity or b"", "enclaveIdentity")
    found = other.QuoteCollateralV3.from_json(
        json.dumps(
            {
                "pck_crl_issuer_chain": intel.pem("ca", "root").decode(),
                "root_ca_crl": collateral.root_crl.hex(),
                "pck_crl": collateral.pck_crl.hex(),
                "tcb_info_issuer_chain": collateral.tcb_info_chain.decode(),
                "tcb_info": info.data.decode(),
                "tcb_info_signature": info.signature.hex(),
                "qe_identity_issuer_chain": collateral.qe_identity_chain.decode(),
                "qe_identity": identity.data.decode(),
                "qe_identity_signature": identity.signature.hex(),
            }
        )
    )
    root = intel.certificate("root").public_bytes(Encoding.DER)
    seconds = int(now.timestamp())
    return _each(lambda: other.verify_with_root_ca(quote, found, root, seconds))


def _go_sev_guest(platform: FakePlatform) -> float:
    """Microseconds of one there."""
    if shutil.which("go") is None:
        raise peers.MissingPeerError("Go is not installed")
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        chain = platform.endorsements()
        for file, data in (
            ("report.bin", platform.report()),
            ("vek.der", chain.leaf),
            ("ask.der", chain.issuer),
            ("ark.der", chain.root),
        ):
            (directory / file).write_bytes(data)
        program = directory / "program"
        built = subprocess.run(
            ["go", "build", "-o", str(program), "."],
            cwd=_GO,
            env={**os.environ, "GOFLAGS": "-mod=readonly"},
            capture_output=True,
            text=True,
            timeout=_BUILD_SECONDS,
            check=False,
        )
        if built.returncode:
            raise peers.MissingPeerError(f"go-sev-guest cannot be built: {built.stderr[-200:]}")
        done = subprocess.run(
            [str(program), name], capture_output=True, text=True, timeout=60, check=False
        )
        if done.returncode:
            raise RuntimeError(f"go-sev-guest refuses the report: {done.stderr}")
        return int(done.stdout) / 1000


def compare(platform: FakePlatform, intel: FakeIntel, now: datetime) -> None:
    """Measure, and print a table."""
    print(
        "\n| verification alone | garrison µs | the other µs | ratio | of a known platform µs |\n"
        "|---|---|---|---|---|"
    )
    rows: list[tuple[str, Callable[[], object], Callable[[], float]]] = []
    for name, tee, body, version in (
        ("SGX quote, dcap-qvl", TeeType.SGX, sgx_report(), 3),
        ("TDX quote, dcap-qvl", TeeType.TDX, td_report(), 4),
    ):
        quote, collateral = FakeQuoter(intel).quote(body, version), intel.collateral(tee)
        roots = intel.roots()
        rows.append(
            (
                name,
                lambda q=quote, c=collateral, r=roots: dcap.verify(q, c, r, now),
                lambda q=quote, c=collateral: _qvl(q, c, intel, now),
            )
        )
    report, chain, amd = platform.report(), platform.endorsements(), platform.roots()
    rows.append(
        (
            "SNP report, go-sev-guest",
            lambda: snp.verify(report, chain, amd, now),
            lambda: _go_sev_guest(platform),
        )
    )
    for name, ours, theirs in rows:
        known = _each(ours)
        mine = _each(partial(_anew, ours))
        try:
            other = theirs()
        except peers.MissingPeerError as missing:
            print(f"| {name} | {mine:,.0f} | left out: {missing} | | {known:,.0f} |")
            continue
        print(
            f"| {name} | {mine:,.0f} | {other:,.0f} | {other / mine:.2f} | {known:,.0f} |",
            flush=True,
        )


def _anew(work: Callable[[], object]) -> None:
    for remembered in (dcap_chain._pck_chain, dcap._certified, snp._check_leaf):  # noqa: SLF001
        remembered.cache_clear()
    work()
