"""What this host can run: one list of checks a backend, each with its reason and its remedy.

Reads `/proc`, `/sys` and `/dev` under a root that is passed in, and asks devices and programs by
probes that are passed in, so that it is tested on hosts that are not this one. A check that passes
says what was found; one that fails says what to do. A probe is made only where what it needs is
there, and a backend is available only if every check of it passes.
"""

from __future__ import annotations

import os
import platform
import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from garrison.attesters.detect import ORDER, present
from garrison.errors import Malformed, Misuse, Unavailable
from garrison.formats.ovmf import Firmware, SevSection
from garrison.image.folder import ABOUT, FIRMWARE
from garrison.launch.host_probe import VM_TYPES, Probes, read_firmware

if TYPE_CHECKING:
    from collections.abc import Callable

_QEMU = "qemu-system-x86_64"
# The first versions with the objects sev-snp-guest and tdx-guest.
_QEMU_MINIMUM = {"snp": (9, 1), "tdx": (10, 1)}
_QEMU_OBJECT = {"snp": "sev-snp-guest", "tdx": "tdx-guest"}
# Where distributions put firmware, the fittest first; that of the keep image comes before all.
_FIRMWARE = {
    "snp": (
        "usr/share/ovmf/OVMF.amdsev.fd",
        "usr/share/edk2/ovmf/OVMF.amdsev.fd",
        "usr/share/qemu/edk2-x86_64-amdsev.fd",
        "usr/share/OVMF/OVMF.amdsev.fd",
    ),
    "tdx": (
        "usr/share/ovmf/OVMF.inteltdx.ms.fd",
        "usr/share/ovmf/OVMF.inteltdx.fd",
        "usr/share/edk2/ovmf/OVMF.inteltdx.fd",
        "usr/share/ovmf/OVMF.fd",
    ),
}
_FIRMWARE_REMEDY = "build the keep image, which has it: garrison image build"
# AMD 56860: the first version of the SNP ABI whose reports the policy admits by default.
_SNP_ABI_MINIMUM = (1, 51)


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


def inspect_host(
    root: Path = Path("/"), probes: Probes | None = None, image: Path | None = None
) -> list[BackendReport]:
    """Check what each backend needs of the host.

    Args:
        root: the host's root directory.
        probes: how it is asked.
        image: the keep image that machines would boot; it may not be there.
    """
    host = _Host(root, probes or Probes(), image)
    kvm = host.device("/dev/kvm", "load kvm_amd or kvm_intel; enable virtualisation")
    runs = host.kvm_runs() if kvm.passed else None
    machine = (kvm,) if runs is None else (kvm, runs)
    return [
        BackendReport(
            "nil", (HostCheck("process", passed=True, found="always there"),), started=True
        ),
        BackendReport(
            "kvm", (host.qemu(), _acceleration(machine), host.keep_image()), started=True
        ),
        BackendReport("snp", (*host.snp(), *machine, *host.confidential("snp", kvm)), started=True),
        BackendReport("tdx", (*host.tdx(), *machine, *host.confidential("tdx", kvm)), started=True),
        BackendReport("sgx", host.sgx(), started=True),
        BackendReport(
            "nitro",
            (
                host.device("/dev/nitro_enclaves", "an EC2 instance with enclaves enabled"),
                host.program("nitro-cli", "install aws-nitro-enclaves-cli"),
                host.program("passt", "install passt, which carries the enclave's network"),
            ),
            started=True,
        ),
        BackendReport("cvm", (host.confidential_guest(), host.evidence()), started=True),
    ]


def require(backend: str, reports: list[BackendReport]) -> None:
    """Refuse a backend that this host does not have all for.

    Raises:
        Misuse: there is no such backend.
        Unavailable: something is missing; it says all that is.
    """
    for report in reports:
        if report.backend == backend:
            break
    else:
        known = ", ".join(report.backend for report in reports)
        raise Misuse("no such backend", field="backend", found=backend, expected=known)
    missing = [check for check in report.checks if not check.passed]
    if missing:
        raise Unavailable(
            f"this machine cannot run keeps in {backend}",
            field="backend",
            found="; ".join(f"{check.name}: {check.found}" for check in missing),
            hint="; ".join(check.remedy for check in missing if check.remedy),
        )


class _Host:
    """A host, and how it is asked."""

    def __init__(self, root: Path, probes: Probes, image: Path | None) -> None:
        self._root = root
        self._image = image
        self._probes = probes
        self._flags = self._cpu_flags()

    def _path(self, path: str) -> Path:
        return self._root / path.lstrip("/")

    def _text(self, path: str) -> str | None:
        try:
            return self._path(path).read_text().strip()
        except (OSError, UnicodeDecodeError):
            return None

    def _cpu_flags(self) -> frozenset[str]:
        for line in (self._text("/proc/cpuinfo") or "").splitlines():
            key, _, value = line.partition(":")
            if key.strip() == "flags":
                return frozenset(value.split())
        return frozenset()

    def flag(self, flag: str, what: str) -> HostCheck:
        found = flag in self._flags
        return HostCheck(
            f"CPU {what}",
            passed=found,
            found=f"flag {flag} is {'set' if found else 'not set'}",
            remedy=None if found else f"needs a CPU with {what}, enabled in the firmware",
        )

    def parameter(self, path: str, remedy: str) -> HostCheck:
        value = self._text(path) or "absent"
        passed = value in {"Y", "1"}
        return HostCheck(
            f"kernel {path}", passed=passed, found=value, remedy=None if passed else remedy
        )

    def device(self, path: str, remedy: str) -> HostCheck:
        device = self._path(path)
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

    def program(self, name: str, remedy: str) -> HostCheck:
        path = self._probes.find(name)
        return HostCheck(
            f"program {name}",
            passed=path is not None,
            found=path or "absent",
            remedy=None if path else remedy,
        )

    def kvm_runs(self) -> HostCheck:
        """Whether a guest truly runs."""
        qemu = self._probes.find(_QEMU)
        name = "KVM runs a guest"
        if qemu is None:
            return HostCheck(name, passed=False, found="not tried: no QEMU", remedy="install QEMU")
        return _asked(
            name,
            lambda: self._probes.guest_runs(qemu),
            lambda _: (True, "it ran"),
            "use a host where KVM is not nested, or is nested with all it needs;"
            " guests are emulated otherwise",
        )

    def qemu(self, backend: str | None = None) -> HostCheck:
        """Whether QEMU is there, and new enough for `backend`."""
        minimum = _QEMU_MINIMUM.get(backend or "", (7, 2))
        name = f"QEMU {minimum[0]}.{minimum[1]} or later"
        path = self._probes.find(_QEMU)
        if path is None:
            return HostCheck(name, passed=False, found="absent", remedy="install qemu-system-x86")

        def judge(text: str) -> tuple[bool, str]:
            match = re.search(r"version (\d+)\.(\d+)\.(\d+)", text)
            if match is None:
                return False, "no version"
            return (int(match[1]), int(match[2])) >= minimum, match[0].removeprefix("version ")

        return _asked(
            name,
            lambda: self._probes.output([path, "--version"]),
            judge,
            f"install QEMU {minimum[0]}.{minimum[1]} or later",
        )

    def confidential(self, backend: str, kvm: HostCheck) -> tuple[HostCheck, ...]:
        """What KVM, QEMU and OVMF must have for confidential guests of one kind."""
        bit, remedy = VM_TYPES[backend], f"boot a kernel whose KVM makes {backend} machines"
        name = f"KVM makes {backend} machines"
        makes = HostCheck(name, passed=False, found="not asked: no /dev/kvm", remedy=remedy)
        if kvm.passed:
            makes = _asked(
                name,
                lambda: self._probes.vm_types(self._path("/dev/kvm")),
                lambda bits: (bool(bits >> bit & 1), f"kinds of machine: {bits:#b}"),
                remedy,
            )
        version = self.qemu(backend)
        checks: tuple[HostCheck, ...] = (makes, version)
        qemu = self._probes.find(_QEMU)
        if version.passed and qemu is not None:
            wanted = _QEMU_OBJECT[backend]
            checks += (
                _asked(
                    f"QEMU object {wanted}",
                    lambda: self._probes.output([qemu, "-object", "help"]),
                    lambda text: (
                        wanted in text.split(),
                        "known" if wanted in text.split() else "not known",
                    ),
                    f"install a QEMU that was built with {wanted}",
                ),
            )
        return (*checks, self.firmware(backend))

    def keep_image(self) -> HostCheck:
        """Where the image is, or how to make it: it is no property of the machine."""
        if self._image is not None and (self._image / ABOUT).is_file():
            return HostCheck("keep image", passed=True, found=str(self._image))
        return HostCheck("keep image", passed=True, found="not built yet: garrison image build")

    def firmware(self, backend: str) -> HostCheck:
        """Whether there is firmware that launches guests of this kind, bound to their kernel."""
        name = f"OVMF for {backend}"
        paths = [self._path(path) for path in _FIRMWARE[backend]]
        if self._image is not None:
            paths.insert(0, self._image / FIRMWARE[backend])
        seen = "none of " + ", ".join(map(str, paths))
        for path in paths:
            if not path.is_file():
                continue
            try:
                firmware = Firmware.from_bytes(read_firmware(path))
                fits = (
                    any(section.kind is SevSection.KERNEL_HASHES for section in firmware.sev)
                    if backend == "snp"
                    else any(section.measured for section in firmware.tdx())
                )
            except (OSError, Malformed) as error:
                seen = f"{path}: {error}"
                continue
            if fits:
                return HostCheck(name, passed=True, found=str(path))
            seen = f"{path}, which does not launch such guests"
        return HostCheck(name, passed=False, found=seen, remedy=_FIRMWARE_REMEDY)

    def snp(self) -> tuple[HostCheck, ...]:
        """CPU, kernel and firmware for SNP."""
        module = "/sys/module/kvm_amd/parameters"
        device = self.device("/dev/sev", "load the ccp module")
        checks = (
            self.flag("sev", "AMD SEV"),
            self.flag("sev_es", "AMD SEV-ES"),
            self.flag("sev_snp", "AMD SEV-SNP"),
            self.parameter(f"{module}/sev", "boot with kvm_amd.sev=1"),
            self.parameter(f"{module}/sev_es", "boot with kvm_amd.sev_es=1"),
            self.parameter(
                f"{module}/sev_snp", "boot a kernel of 6.11 or later with kvm_amd.sev_snp=1"
            ),
            device,
        )
        if not device.passed:
            return checks
        return (
            *checks,
            _asked(
                "SNP firmware",
                lambda: self._probes.snp_firmware(self._path("/dev/sev")),
                lambda status: (
                    status.version >= _SNP_ABI_MINIMUM and status.initialized and status.rmp,
                    str(status),
                ),
                "update the platform's firmware to ABI 1.51 or later, and enable SNP in it",
            ),
        )

    def tdx(self) -> tuple[HostCheck, ...]:
        """CPU and kernel for TDX, and what turns reports into quotes."""
        socket = "/var/run/tdx-qgs/qgs.socket"
        there = self._path(socket).exists()
        return (
            self.flag("tdx_host_platform", "Intel TDX"),
            self.parameter(
                "/sys/module/kvm_intel/parameters/tdx",
                "boot a kernel of 6.16 or later with kvm_intel.tdx=1; it loads the TDX module",
            ),
            HostCheck(
                "quote generation service",
                passed=there,
                found=socket if there else f"no {socket}",
                remedy=None if there else "install and start tdx-qgs",
            ),
        )

    def sgx(self) -> tuple[HostCheck, ...]:
        """CPU, kernel, memory and programs for SGX."""
        nodes = sorted(self._path("/sys/devices/system/node").glob("node*/x86/sgx_total_bytes"))
        sizes = [int(text) for node in nodes if (text := node.read_text().strip()).isdigit()]
        memory = sum(sizes)
        socket = "/var/run/aesmd/aesm.socket"
        aesm = self._path(socket).exists()
        return (
            self.flag("sgx", "Intel SGX"),
            self.flag("sgx_lc", "SGX flexible launch control"),
            self.device("/dev/sgx_enclave", "boot a kernel of 5.11 or later with SGX"),
            self.device("/dev/sgx_provision", "boot a kernel of 5.11 or later with SGX"),
            HostCheck(
                "enclave page cache",
                passed=memory > 0,
                found=f"{memory >> 20} MiB" if memory else "none that the kernel tells of",
                remedy=None if memory else "reserve memory for SGX in the firmware",
            ),
            HostCheck(
                "AESM service",
                passed=aesm,
                found=socket if aesm else f"no {socket}",
                remedy=None if aesm else "install and start aesmd, which has quotes signed",
            ),
            self.program("gramine-sgx", "install Gramine"),
        )

    def confidential_guest(self) -> HostCheck:
        """Whether this is itself a confidential guest or an enclave."""
        name = "inside a confidential VM or an enclave"
        devices = ("/dev/sev-guest", "/dev/tdx_guest", "/dev/nsm", "/dev/attestation")
        found = "Azure's paravisor" if self._evidence_kind() == "azure-vtpm" else None
        found = found or next((path for path in devices if self._path(path).exists()), None)
        return HostCheck(
            name,
            passed=found is not None,
            found=found or "none of " + ", ".join(devices),
            remedy=None if found else "run Garrison inside a guest or an enclave of a TEE",
        )

    def _evidence_kind(self) -> str | None:
        try:
            return present(self._root)
        except Misuse:
            return None

    def evidence(self) -> HostCheck:
        """What gives evidence here, as `garrison.attesters.detect` looks for it."""
        kind = self._evidence_kind()
        return HostCheck(
            "evidence",
            passed=kind is not None,
            found=kind or "none of " + ", ".join(str(path) for _, path in ORDER),
            remedy=None
            if kind
            else "boot a kernel of 6.7 or later with configfs mounted, or with its TEE's device",
        )


def _acceleration(machine: tuple[HostCheck, ...]) -> HostCheck:
    """Whether guests of the backend `kvm` run on the processor: it emulates it where not."""
    failed = [check for check in machine if not check.passed]
    why = "; ".join(f"{check.name}: {check.found}" for check in failed)
    return HostCheck(
        "acceleration",
        passed=True,
        found=f"none, so guests are emulated and slower ({why})" if failed else "KVM",
    )


def _asked(
    name: str, ask: Callable[[], Any], judge: Callable[[Any], tuple[bool, str]], remedy: str
) -> HostCheck:
    """A check that a probe answers."""
    try:
        passed, found = judge(ask())
    except OSError as error:
        passed, found = False, error.strerror or "no answer"
    return HostCheck(name, passed=passed, found=found, remedy=None if passed else remedy)


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
