"""What this host can run: one list of checks a backend, each with its reason and its remedy.

Reads `/proc`, `/sys` and `/dev` under a root that is passed in, so that it is tested on trees
that are not this machine. A check that passes says what was found; one that fails says what
to do.
"""

from __future__ import annotations

import os
import platform
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True)
class HostCheck:
    """One thing that a backend needs of the host."""

    name: str
    passed: bool
    found: str
    remedy: str | None = None


@dataclass(frozen=True, slots=True)
class BackendReport:
    """A backend, whether this host has what it needs, and why.

    `started` says whether this version of Garrison starts keeps in it.
    """

    backend: str
    checks: tuple[HostCheck, ...]
    started: bool = False

    @property
    def available(self) -> bool:
        """Whether all that it needs is there."""
        return all(check.passed for check in self.checks)


def _device(root: Path, path: str, remedy: str) -> HostCheck:
    device = root / path.lstrip("/")
    if not device.exists():
        return HostCheck(f"device {path}", passed=False, found="absent", remedy=remedy)
    if not os.access(device, os.R_OK | os.W_OK):
        return HostCheck(
            f"device {path}",
            passed=False,
            found="not readable and writable by this user",
            remedy=f"give this user access to {path}",
        )
    return HostCheck(f"device {path}", passed=True, found="readable and writable")


def _cpu_flags(root: Path) -> frozenset[str]:
    try:
        text = (root / "proc/cpuinfo").read_text()
    except OSError:
        return frozenset()
    for line in text.splitlines():
        key, _, value = line.partition(":")
        if key.strip() == "flags":
            return frozenset(value.split())
    return frozenset()


def _flag(flags: frozenset[str], flag: str, what: str) -> HostCheck:
    found = flag in flags
    return HostCheck(
        f"CPU {what}",
        passed=found,
        found=f"flag {flag} is {'set' if found else 'not set'}",
        remedy=None if found else f"needs a CPU with {what}, enabled in the firmware",
    )


def _parameter(root: Path, path: str, remedy: str) -> HostCheck:
    try:
        value = (root / path.lstrip("/")).read_text().strip()
    except OSError:
        value = "absent"
    passed = value in {"Y", "1"}
    return HostCheck(
        f"kernel {path}", passed=passed, found=value, remedy=None if passed else remedy
    )


def inspect_host(root: Path = Path("/")) -> list[BackendReport]:
    """Check what each backend needs of the host whose root directory is `root`.

    A backend that passes has what it needs of the host, no more: that a guest truly runs is not
    tried.
    """
    flags = _cpu_flags(root)
    kvm = _device(root, "/dev/kvm", "load kvm_amd or kvm_intel; enable virtualisation")
    return [
        BackendReport(
            "nil", (HostCheck("process", passed=True, found="always there"),), started=True
        ),
        BackendReport("kvm", (kvm,)),
        BackendReport(
            "snp",
            (
                _flag(flags, "sev_snp", "AMD SEV-SNP"),
                _parameter(
                    root,
                    "/sys/module/kvm_amd/parameters/sev_snp",
                    "boot a kernel of 6.11 or later with kvm_amd.sev_snp=1",
                ),
                _device(root, "/dev/sev", "load the ccp module"),
                kvm,
            ),
        ),
        BackendReport(
            "tdx",
            (
                _flag(flags, "tdx_host_platform", "Intel TDX"),
                _parameter(
                    root,
                    "/sys/module/kvm_intel/parameters/tdx",
                    "boot a kernel of 6.16 or later with kvm_intel.tdx=1",
                ),
                kvm,
            ),
        ),
        BackendReport(
            "sgx",
            (
                _flag(flags, "sgx", "Intel SGX"),
                _flag(flags, "sgx_lc", "SGX flexible launch control"),
                _device(root, "/dev/sgx_enclave", "boot a kernel of 5.11 or later with SGX"),
            ),
        ),
        BackendReport(
            "nitro",
            (_device(root, "/dev/nitro_enclaves", "an EC2 instance with enclaves enabled"),),
        ),
        BackendReport("cvm", (_confidential_guest(root), _configfs_tsm(root)), started=True),
    ]


def _confidential_guest(root: Path) -> HostCheck:
    for path in ("/dev/sev-guest", "/dev/tdx_guest"):
        if (root / path.lstrip("/")).exists():
            return HostCheck("inside a confidential VM", passed=True, found=path)
    return HostCheck(
        "inside a confidential VM",
        passed=False,
        found="neither /dev/sev-guest nor /dev/tdx_guest",
        remedy="run Garrison inside an SEV-SNP or TDX guest",
    )


def _configfs_tsm(root: Path) -> HostCheck:
    path = "/sys/kernel/config/tsm/report"
    there = (root / path.lstrip("/")).is_dir()
    return HostCheck(
        "evidence from the kernel",
        passed=there,
        found=path if there else f"no {path}",
        remedy=None if there else "boot a kernel of 6.7 or later, with configfs mounted",
    )


def as_json(reports: list[BackendReport], version: str) -> dict[str, Any]:
    """The reports as a JSON document."""
    system = platform.uname()
    return {
        "version": version,
        "system_info": f"{system.system} {system.release} {system.version} {system.machine}",
        "backends": [
            {
                "backend": report.backend,
                "available": report.available,
                "started_by_this_version": report.started,
                "checks": [asdict(check) for check in report.checks],
            }
            for report in reports
        ],
    }
