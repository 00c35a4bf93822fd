"""The kernel's configfs-tsm, as a file system in user space, with a simulated SNP or TDX below it.

    python -m garrison.testing.tsm MOUNTPOINT SIMULATOR [FAULT]

Behaves as Linux does (drivers/virt/coco/guest/report.c): making a directory makes its attributes,
`inblob` is taken when it is closed, the report is made when `outblob` is read, every write counts.
FAULT is one of `_FAULTS`, for tests.
"""

from __future__ import annotations

import errno
import stat
import sys
from pathlib import Path
from typing import Any

import mfusepy  # type: ignore[import-untyped]  # it has no types

from garrison.attesters.simulated_snp_insecure import SimulatedSnpInsecure
from garrison.formats.snp_certificate_table import ARK, ASK, VCEK, CertificateTable
from garrison.formats.snp_evidence import SnpEvidence
from garrison.testing.dcap import FakeQuoter, td_report

_ATTRIBUTES = {
    "inblob": 0o200,
    "outblob": 0o400,
    "auxblob": 0o400,
    "generation": 0o400,
    "provider": 0o400,
}
_INBLOB_MAX = 64
# What goes wrong: the firmware is busy twice, the host adds nothing or rubbish, another process
# writes too, the firmware fails, the provider is one that is not known; or nothing, on TDX, or
# with no quote there.
_FAULTS = (
    *("busy", "no-table", "bad-table", "second-writer", "failing", "other-provider"),
    *("tdx", "tdx-no-quote"),
)


class _Entry:
    def __init__(self) -> None:
        self.inblob = b""
        self.generation = 0


class FakeTsm(mfusepy.Operations):  # type: ignore[misc]  # the library has no types
    """One mounted tree; `vendor` signs what is asked for."""

    use_ns = True

    def __init__(self, vendor: SimulatedSnpInsecure, fault: str | None) -> None:
        self._vendor = vendor
        self._fault = fault
        self._busy = 2 if fault == "busy" else 0
        self._entries: dict[str, _Entry] = {}
        self._made: dict[tuple[str, int], bytes] = {}

    def getattr(self, path: str, fh: int | None = None) -> dict[str, Any]:  # noqa: ARG002
        """Directories for the root and the requests, files for attributes."""
        parts = path.strip("/").split("/")
        if parts == [""] or (len(parts) == 1 and parts[0] in self._entries):
            return {"st_mode": stat.S_IFDIR | 0o755, "st_nlink": 2}
        self._entry(path)
        return {"st_mode": stat.S_IFREG | _ATTRIBUTES[parts[1]], "st_nlink": 1, "st_size": 4096}

    def readdir(self, path: str, fh: int) -> list[str]:  # noqa: ARG002
        """What there is."""
        names = list(self._entries) if path == "/" else list(_ATTRIBUTES)
        return [".", "..", *names]

    def mkdir(self, path: str, mode: int) -> None:  # noqa: ARG002
        """Begin a request."""
        self._entries[path.strip("/")] = _Entry()

    def rmdir(self, path: str) -> None:
        """End a request."""
        if self._entries.pop(path.strip("/"), None) is None:
            raise mfusepy.FuseOSError(errno.ENOENT)

    def open(self, path: str, flags: int) -> int:  # noqa: ARG002
        """Give a handle, which says nothing."""
        self._entry(path)
        return 1

    def truncate(self, path: str, length: int, fh: int | None = None) -> None:  # noqa: ARG002
        """Refuse: an attribute has no length to change."""
        raise mfusepy.FuseOSError(errno.EPERM)

    def write(self, path: str, data: bytes, offset: int, fh: int) -> int:  # noqa: ARG002
        """Take the report data."""
        entry, name = self._entry(path)
        if name != "inblob" or len(data) > _INBLOB_MAX:
            raise mfusepy.FuseOSError(errno.EINVAL)
        entry.inblob = bytes(data)
        entry.generation += 2 if self._fault == "second-writer" else 1
        return len(data)

    def read(self, path: str, size: int, offset: int, fh: int) -> bytes:  # noqa: ARG002
        """Give an attribute."""
        entry, name = self._entry(path)
        key = (path, entry.generation)
        if key not in self._made:
            # Made once: a signature made anew would not fit to the first part of the old one.
            self._made[key] = self._content(entry, name)
        return self._made[key][offset : offset + size]

    def _entry(self, path: str) -> tuple[_Entry, str]:
        directory, _, name = path.strip("/").partition("/")
        if directory not in self._entries or name not in _ATTRIBUTES:
            raise mfusepy.FuseOSError(errno.ENOENT)
        return self._entries[directory], name

    def _content(self, entry: _Entry, name: str) -> bytes:
        if name == "generation":
            return f"{entry.generation}\n".encode()
        if name == "provider":
            names = {"other-provider": "other_guest", "tdx": "tdx_guest"}
            names["tdx-no-quote"] = names["tdx"]
            return f"{names.get(self._fault or '', 'sev_guest')}\n".encode()
        if name == "inblob" or not entry.inblob or self._fault == "failing":
            raise mfusepy.FuseOSError(errno.EIO if self._fault == "failing" else errno.EINVAL)
        if self._busy:
            self._busy -= 1
            raise mfusepy.FuseOSError(errno.EBUSY)
        if self._fault in {"tdx", "tdx-no-quote"}:
            body = td_report(report_data=entry.inblob)
            quote = FakeQuoter().quote(body, 4) if self._fault == "tdx" else b"no quote"
            return quote if name == "outblob" else b""
        evidence = SnpEvidence.from_bytes(self._vendor.attest(entry.inblob).payload)
        if name == "outblob":
            return evidence.report
        if self._fault == "no-table":
            return b""
        table = CertificateTable(tuple(zip((VCEK, ASK, ARK), evidence.certificates, strict=False)))
        return b"\xff" * 100 if self._fault == "bad-table" else table.to_bytes()


def main() -> None:
    """Serve until the mount point is unmounted."""
    mountpoint, simulator, *fault = sys.argv[1:]
    if fault and fault[0] not in _FAULTS:
        sys.exit(f"no such fault: {fault[0]}")
    vendor = SimulatedSnpInsecure.open(Path(simulator))
    # Attributes have no true size, and change under the reader: the kernel caches nothing.
    mfusepy.FUSE(
        FakeTsm(vendor, fault[0] if fault else None), mountpoint, foreground=True, direct_io=True
    )


if __name__ == "__main__":
    main()
