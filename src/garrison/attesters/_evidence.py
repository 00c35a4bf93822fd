"""What attesters share: patience, and the form of what they got."""

from __future__ import annotations

import errno
import os
import time
from typing import TYPE_CHECKING, TypeVar

from garrison.errors import Malformed, Misuse, Unavailable
from garrison.formats.dcap_quote import Quote
from garrison.formats.evidence import (
    REPORT_DATA_SIZE,
    SNP_MEDIA_TYPE,
    Evidence,
)
from garrison.formats.snp import REPORT_SIZE
from garrison.formats.snp_certificate_table import CertificateTable
from garrison.formats.snp_evidence import SnpEvidence

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

T = TypeVar("T")

# A firmware that is asked too often, or by another guest just now, says so; then we wait.
_BUSY = (errno.EBUSY, errno.EAGAIN, errno.EINTR)
_WAITS = (0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2)


def check_report_data(report_data: bytes) -> None:
    """Refuse report data of another length than 64 bytes.

    Raises:
        Misuse: it has one.
    """
    if len(report_data) != REPORT_DATA_SIZE:
        raise Misuse(
            "wrong length",
            field="report data",
            found=f"{len(report_data)} bytes",
            expected=f"{REPORT_DATA_SIZE} bytes",
        )


def check_present(device: Path, kind: str) -> None:
    """Refuse a machine that lacks the device.

    Args:
        device: where it is.
        kind: what it is, for people.

    Raises:
        Misuse: it is not there.
    """
    if not device.exists():
        raise Misuse(
            "this machine gives no evidence", field=str(device), found="nothing", expected=kind
        )


def ask(
    device: Path,
    ioctl: Callable[[int, int, bytearray], int],
    number: int,
    argument: bytearray,
) -> None:
    """Ask a device; what it answers is in `argument`, or where that says.

    Raises:
        OSError: it refuses, or is not there.
    """
    descriptor = os.open(device, os.O_RDWR | os.O_CLOEXEC)
    try:
        ioctl(descriptor, number, argument)
    finally:
        os.close(descriptor)


def patiently(field: str, do: Callable[[], T]) -> T:
    """Do it, again if the firmware is busy, for some seconds in all.

    Raises:
        Unavailable: it failed otherwise, or was busy all the time.
    """
    waits = iter(_WAITS)
    while True:
        try:
            return do()
        except OSError as error:
            wait = next(waits, None)
            if error.errno not in _BUSY or wait is None:
                raise Unavailable(
                    "the kernel gives no evidence", field=field, found=error.strerror
                ) from error
        time.sleep(wait)


def snp_evidence(report: bytes, table: bytes, field: str) -> Evidence:
    """An SNP report, with what certificates its host added.

    Raises:
        Unavailable: it is no report.
    """
    if len(report) != REPORT_SIZE:
        raise _no_report(report, field, f"{REPORT_SIZE} bytes")
    try:
        certificates = CertificateTable.from_bytes(table).chain()
    except Malformed:
        # The host's, and no more than a help: the steward has the vendor's own.
        certificates = ()
    return Evidence(SNP_MEDIA_TYPE, SnpEvidence(report, certificates).to_bytes())


def quote_evidence(quote: bytes, media_type: str, field: str) -> Evidence:
    """A quote of SGX or TDX, which has its certificates inside.

    Raises:
        Unavailable: it is no quote.
    """
    try:
        Quote.from_bytes(quote)
    except Malformed as error:
        raise _no_report(quote, field, str(error)) from error
    return Evidence(media_type, quote)


def _no_report(found: bytes, field: str, expected: str) -> Unavailable:
    return Unavailable(
        "the firmware made no report",
        field=field,
        found=f"{len(found)} bytes",
        expected=expected,
    )
