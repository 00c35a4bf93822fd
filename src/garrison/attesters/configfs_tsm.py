"""Evidence from the guest's kernel: configfs-tsm, one interface for the TEEs of all vendors.

Source: Linux, Documentation/ABI/testing/configfs-tsm-report (6.7 and later). A directory made
under the root below is one request; `inblob` takes the report data, reading `outblob` has the
firmware make the report, `auxblob` holds what the host adds, and `generation` counts the writes.

The kernel is part of what the report measures, so it is believed; the host is not. Every request
has a directory of its own, so that no other process can slip its own data between our write and
our read; that `generation` says one write is checked all the same.
"""

from __future__ import annotations

import errno
import os
import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Self

from garrison.attesters._evidence import (
    check_report_data,
    patiently,
    quote_evidence,
    snp_evidence,
)
from garrison.errors import Misuse, Unavailable
from garrison.formats.evidence import TDX_MEDIA_TYPE, Evidence, Tee

ROOT = Path("/sys/kernel/config/tsm/report")

_PROVIDERS = {"sev_guest": Tee.SNP, "tdx_guest": Tee.TDX}


def present(root: Path = ROOT) -> bool:
    """Whether this kernel has the interface."""
    return root.is_dir()


@dataclass(frozen=True, slots=True)
class ConfigfsTsm:
    """Obtains evidence through configfs.

    Attributes:
        root: where the interface is.
        tee: the kind of evidence that this kernel's provider gives.
    """

    root: Path
    tee: Tee

    @property
    def curve(self) -> Literal["P-256", "P-384"]:
        """As strong as the TEE's own signature."""
        return "P-384" if self.tee is Tee.SNP else "P-256"

    @classmethod
    def open(cls, root: Path = ROOT) -> ConfigfsTsm:
        """Find out what provides evidence here.

        Raises:
            Misuse: this is no guest that could give any, or one of a kind that is not supported.
            Unavailable: the kernel does not answer.
        """
        if not present(root):
            raise Misuse(
                "this machine gives no evidence",
                field=str(root),
                found="nothing",
                expected="the interface configfs-tsm",
                hint="run in a confidential VM with Linux 6.7 or later, and configfs mounted",
            )
        with _Request(root) as request:
            provider = request.read("provider").decode("ascii", "replace").strip()
        if provider not in _PROVIDERS:
            raise Misuse(
                "no attester for this TEE",
                field="configfs-tsm: provider",
                found=provider,
                expected=" | ".join(_PROVIDERS),
            )
        return cls(root, _PROVIDERS[provider])

    def attest(self, report_data: bytes) -> Evidence:
        """See `garrison.attesters.base.Attester.attest`."""
        check_report_data(report_data)
        with _Request(self.root) as request:
            request.write("inblob", report_data)
            report = request.read("outblob")
            auxiliary = request.read("auxblob", optional=True)
            generation = request.read("generation").strip()
        if generation != b"1":
            raise Unavailable(
                "somebody else wrote to our request",
                field="configfs-tsm: generation",
                found=generation.decode("ascii", "replace"),
                expected="1",
            )
        if self.tee is Tee.SNP:
            return snp_evidence(report, auxiliary, "configfs-tsm: outblob")
        return quote_evidence(report, TDX_MEDIA_TYPE, "configfs-tsm: outblob")


class _Request:
    """One request's directory, from `__enter__` to `__exit__`."""

    def __init__(self, root: Path) -> None:
        self._directory = root / f"garrison-{secrets.token_hex(8)}"

    def __enter__(self) -> Self:
        patiently(f"configfs-tsm: {self._directory.name}", self._directory.mkdir)
        return self

    def __exit__(self, *_: object) -> None:
        # A configfs item goes with its attributes, although it looks like a directory that is
        # not empty.
        patiently(f"configfs-tsm: {self._directory.name}", self._directory.rmdir)

    def write(self, name: str, data: bytes) -> None:
        """Write an attribute at once, which is one generation."""

        def write() -> None:
            descriptor = os.open(self._directory / name, os.O_WRONLY | os.O_CLOEXEC)
            try:
                if os.write(descriptor, data) != len(data):
                    raise OSError(errno.EIO, "written in part")
            finally:
                # The kernel takes what was written when it is closed, and may refuse it then.
                os.close(descriptor)

        patiently(f"configfs-tsm: {name}", write)

    def read(self, name: str, *, optional: bool = False) -> bytes:
        """Read an attribute; one that is `optional` is empty where it is not."""
        path = self._directory / name
        if optional and not path.exists():
            return b""
        return patiently(f"configfs-tsm: {name}", path.read_bytes)
