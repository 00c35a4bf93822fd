"""Evidence of an SGX enclave under Gramine, through the files that it shows in /dev/attestation.

Source: Gramine, "Attestation and Secret Provisioning": what is written to `user_report_data` is in
the report of the quote that is read from `quote`. The files are Gramine's own, inside the enclave;
one thread at a time may use them, which a keep's single attester is.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from garrison.attesters._evidence import check_report_data, patiently, quote_evidence
from garrison.errors import Misuse
from garrison.formats.evidence import SGX_MEDIA_TYPE, Evidence, Tee

if TYPE_CHECKING:
    from collections.abc import Callable

ROOT = Path("/dev/attestation")
_TYPE = "dcap"


def write_at_once(path: Path, data: bytes) -> None:
    """Write a file that is there in one piece.

    Raises:
        OSError: it cannot be written.
    """
    descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        if os.write(descriptor, data) != len(data):
            raise OSError(None, "written in part")
    finally:
        os.close(descriptor)


@dataclass(frozen=True, slots=True)
class Gramine:
    """Obtains evidence through the files.

    Attributes:
        root: where they are.
        read: how one is read; `Path.read_bytes`, but for tests.
        write: how one is written.
    """

    root: Path = ROOT
    read: Callable[[Path], bytes] = Path.read_bytes
    write: Callable[[Path, bytes], None] = write_at_once
    tee: Literal[Tee.SGX] = Tee.SGX
    curve: Literal["P-256"] = "P-256"

    @classmethod
    def open(cls, root: Path = ROOT, read: Callable[[Path], bytes] = Path.read_bytes) -> Gramine:
        """Find out what kind of attestation the manifest names.

        Raises:
            Misuse: this is no enclave, or its manifest names another kind.
            Unavailable: Gramine does not answer.
        """
        if not root.is_dir():
            raise Misuse(
                "this machine gives no evidence",
                field=str(root),
                found="nothing",
                expected="the files of Gramine",
                hint="run under gramine-sgx",
            )
        path = root / "attestation_type"
        kind = patiently(str(path), lambda: read(path)).decode("ascii", "replace").strip()
        if kind != _TYPE:
            raise Misuse(
                "not supported",
                field=str(path),
                found=kind or "nothing",
                expected=_TYPE,
                hint='set sgx.remote_attestation = "dcap" in the manifest',
            )
        return cls(root, read)

    def attest(self, report_data: bytes) -> Evidence:
        """See `garrison.attesters.base.Attester.attest`."""
        check_report_data(report_data)
        target, source = self.root / "user_report_data", self.root / "quote"
        patiently(str(target), lambda: self.write(target, report_data))
        quote = patiently(str(source), lambda: self.read(source))
        return quote_evidence(quote, SGX_MEDIA_TYPE, str(source))
