"""`platform info` on made-up machines."""

from __future__ import annotations

import ctypes
import errno
import json
import struct
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from garrison.cli.main import main
from garrison.launch import host_probe
from garrison.launch.host_checks import BackendReport, HostCheck, inspect_host
from garrison.launch.host_probe import Probes, SnpFirmware
from garrison.testing.firmware import fake_firmware

if TYPE_CHECKING:
    from pathlib import Path

_FIRMWARE = SnpFirmware((1, 55), 21, initialized=True, rmp=True, guests=0)
_TDX = [(0, 0x1000, 0xFFFFF000, 0x1000, 0, 1)]
_AMD = {
    "dev/kvm": "",
    "dev/sev": "",
    "sys/module/kvm_amd/parameters/sev": "Y\n",
    "sys/module/kvm_amd/parameters/sev_es": "Y\n",
    "sys/module/kvm_amd/parameters/sev_snp": "Y\n",
}
_AMD_FLAGS = "fpu sev sev_es sev_snp"
_INTEL = {
    "dev/kvm": "",
    "sys/module/kvm_intel/parameters/tdx": "Y",
    "var/run/tdx-qgs/qgs.socket": "",
}


def _machine(root: Path, flags: str, files: dict[str, str]) -> Path:
    for path, text in {"proc/cpuinfo": f"processor : 0\nflags\t\t: {flags}\n", **files}.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text)
    for path in ("usr/share/ovmf/OVMF.amdsev.fd", "usr/share/ovmf/OVMF.fd"):
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(fake_firmware(tdx=_TDX))
    return root


def _output(command: list[str]) -> str:
    if "--version" in command:
        return "QEMU emulator version 10.1.2 (Debian 1:10.1.2)\n"
    return "List of user creatable objects:\n  sev-snp-guest\n  tdx-guest\n"


def _refuse(*_: object) -> Any:
    raise OSError(errno.ENODEV, "No such device")


PROBES = Probes(
    snp_firmware=lambda _: _FIRMWARE,
    vm_types=lambda _: 0b111111,
    guest_runs=lambda _: None,
    find=lambda name: f"/usr/bin/{name}",
    output=_output,
)
NONE = Probes(_refuse, _refuse, _refuse, lambda _: None, _refuse)


def _report(backend: str, reports: list[BackendReport]) -> BackendReport:
    (found,) = [report for report in reports if report.backend == backend]
    return found


def _failed(report: BackendReport) -> HostCheck:
    (check,) = [check for check in report.checks if not check.passed]
    return check


def test_a_bare_machine_has_the_process_only(tmp_path: Path) -> None:
    reports = inspect_host(tmp_path, NONE)
    assert [report.backend for report in reports if report.available] == ["nil"]
    for report in reports[1:]:
        assert all(check.remedy for check in report.checks if not check.passed)


def test_an_snp_host(tmp_path: Path) -> None:
    machine = _machine(tmp_path, _AMD_FLAGS, _AMD)
    reports = inspect_host(machine, PROBES)
    available = {report.backend for report in reports if report.available}
    assert available == {"nil", "kvm", "snp"}
    checks = {check.name: check.found for check in _report("snp", reports).checks}
    assert checks["SNP firmware"] == "ABI 1.55 build 21, initialized, RMP ready, 0 guests"


@pytest.mark.parametrize(
    ("path", "value", "remedy"),
    [
        ("sev", "N\n", "kvm_amd.sev=1"),
        ("sev_es", "0\n", "kvm_amd.sev_es=1"),
        ("sev_snp", "N\n", "kvm_amd.sev_snp=1"),
    ],
)
def test_an_snp_host_whose_kernel_has_it_off_says_so(
    tmp_path: Path, path: str, value: str, remedy: str
) -> None:
    files = _AMD | {f"sys/module/kvm_amd/parameters/{path}": value}
    machine = _machine(tmp_path, _AMD_FLAGS, files)
    failed = _failed(_report("snp", inspect_host(machine, PROBES)))
    assert failed.found == value.strip()
    assert remedy in str(failed.remedy)


def _no_object(command: list[str]) -> str:
    return "nothing\n" if "-object" in command else _output(command)


def _old_qemu(command: list[str]) -> str:
    return "QEMU emulator version 7.2.19 (Debian 1:7.2)\n" if "--version" in command else ""


@pytest.mark.parametrize(
    ("probes", "name", "found"),
    [
        (
            replace(PROBES, snp_firmware=lambda _: replace(_FIRMWARE, version=(1, 49))),
            "SNP firmware",
            "ABI 1.49",
        ),
        (
            replace(PROBES, snp_firmware=lambda _: replace(_FIRMWARE, rmp=False)),
            "SNP firmware",
            "RMP not ready",
        ),
        (replace(PROBES, snp_firmware=_refuse), "SNP firmware", "No such device"),
        (replace(PROBES, vm_types=lambda _: 0b1), "KVM makes snp machines", "0b1"),
        (replace(PROBES, output=_no_object), "QEMU object sev-snp-guest", "not known"),
        (replace(PROBES, output=_old_qemu), "QEMU 9.1 or later", "7.2.19"),
        (replace(PROBES, guest_runs=_refuse), "KVM runs a guest", "No such device"),
    ],
    ids=["old firmware", "no RMP", "silent", "other machines", "object", "old QEMU", "stuck"],
)
def test_what_an_snp_host_answers_counts(
    tmp_path: Path, probes: Probes, name: str, found: str
) -> None:
    machine = _machine(tmp_path, _AMD_FLAGS, _AMD)
    failed = _failed(_report("snp", inspect_host(machine, probes)))
    assert failed.name == name
    assert found in failed.found
    assert failed.remedy


@pytest.mark.parametrize(
    "image",
    [b"", bytes(4096), fake_firmware(sev=[(0x800000, 0x1000, 1)])],
    ids=["empty", "no tables", "no page for hashes"],
)
def test_a_firmware_that_binds_no_kernel_does_not_do(tmp_path: Path, image: bytes) -> None:
    machine = _machine(tmp_path, _AMD_FLAGS, _AMD)
    (machine / "usr/share/ovmf/OVMF.amdsev.fd").write_bytes(image)
    failed = _failed(_report("snp", inspect_host(machine, PROBES)))
    assert failed.name == "OVMF for snp"


def test_a_tdx_host_and_a_confidential_guest_and_the_enclaves(tmp_path: Path) -> None:
    machine = _machine(
        tmp_path,
        "tdx_host_platform sgx sgx_lc",
        _INTEL
        | {
            "dev/sgx_enclave": "",
            "dev/sgx_provision": "",
            "sys/devices/system/node/node0/x86/sgx_total_bytes": f"{128 << 20}\n",
            "var/run/aesmd/aesm.socket": "",
            "dev/nitro_enclaves": "",
            "dev/tdx_guest": "",
            "sys/kernel/config/tsm/report/.keep": "",
        },
    )
    available = {report.backend for report in inspect_host(machine, PROBES) if report.available}
    assert available == {"nil", "kvm", "tdx", "sgx", "nitro", "cvm"}


def test_emulation_does_where_kvm_runs_nothing(tmp_path: Path) -> None:
    machine = _machine(tmp_path, "fpu", {"dev/kvm": ""})
    report = _report("kvm", inspect_host(machine, replace(PROBES, guest_runs=_refuse)))
    assert report.available
    assert "emulated" in report.checks[1].found
    assert "KVM runs a guest: No such device" in report.checks[1].found


def _program(tmp_path: Path, script: str) -> str:
    path = tmp_path / "qemu"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return str(path)


def test_a_guest_that_says_its_word_runs(tmp_path: Path) -> None:
    script = "printf 'SeaBIOS GARRI'; sleep .1; printf 'SON *'; exec sleep 60"
    host_probe.guest_runs(_program(tmp_path, script))


@pytest.mark.parametrize(
    ("script", "said"),
    [
        ("exec sleep 60", "did not run"),
        ("exit 1", "QEMU ended"),
        ("exec yes GARRISON", "did not run"),
    ],
)
def test_a_guest_that_is_stuck_does_not(tmp_path: Path, script: str, said: str) -> None:
    with pytest.raises(OSError, match=said):
        host_probe.guest_runs(_program(tmp_path, script), deadline=0.3)


def test_the_keep_image_brings_the_firmware(tmp_path: Path) -> None:
    machine = _machine(tmp_path / "root", _AMD_FLAGS, _AMD)
    (machine / "usr/share/ovmf/OVMF.amdsev.fd").unlink()
    image = tmp_path / "image"
    assert _failed(_report("snp", inspect_host(machine, PROBES, image))).remedy == (
        "build the keep image, which has it: garrison image build"
    )
    image.mkdir()
    (image / "ovmf.snp.fd").write_bytes(fake_firmware(tdx=_TDX))
    (image / "image.json").write_text("{}")
    reports = inspect_host(machine, PROBES, image)
    assert _report("snp", reports).available
    assert str(image) in [check.found for check in _report("kvm", reports).checks]


def test_a_program_that_fails_has_no_output(tmp_path: Path) -> None:
    assert host_probe.output([_program(tmp_path, "echo version 1")]) == "version 1\n"
    with pytest.raises(OSError, match="failed with 3"):
        host_probe.output([_program(tmp_path, "exit 3")])
    with pytest.raises(OSError, match="No such file"):
        host_probe.output([str(tmp_path / "none")])


def test_the_firmware_is_asked_as_the_driver_wants_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def issue(_descriptor: int, request: int, command: bytearray) -> int:
        assert request == 0xC0105300
        number, address, error = struct.unpack("<IQI", command)
        assert (number, error) == (9, 0)
        ctypes.memmove(address, struct.pack("<BBBBIIIQQ", 1, 57, 1, 1, 42, 0, 3, 7, 7), 32)
        return 0

    monkeypatch.setattr("fcntl.ioctl", issue)
    (tmp_path / "sev").touch()
    status = host_probe.snp_firmware(tmp_path / "sev")
    assert status == SnpFirmware((1, 57), 42, initialized=True, rmp=True, guests=3)
    with pytest.raises(OSError, match="No such file"):
        host_probe.snp_firmware(tmp_path / "none")


def test_the_command_prints_json_for_programs(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["platform", "info", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    backends = {entry["backend"]: entry for entry in document["backends"]}
    assert backends["nil"]["available"] is True
    assert backends["nil"]["started_by_this_version"] is True
    assert {"name", "passed", "found", "remedy"} == backends["snp"]["checks"][0].keys()
