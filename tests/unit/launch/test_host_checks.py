"""`platform info` on made-up machines."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from garrison.cli.main import main
from garrison.launch.host_checks import inspect_host

if TYPE_CHECKING:
    from pathlib import Path

    import pytest


def _machine(root: Path, flags: str, files: dict[str, str]) -> Path:
    for path, text in {"proc/cpuinfo": f"processor : 0\nflags\t\t: {flags}\n", **files}.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text)
    return root


def test_a_bare_machine_has_the_process_only(tmp_path: Path) -> None:
    reports = inspect_host(tmp_path)
    assert [report.backend for report in reports if report.available] == ["nil"]
    for report in reports[1:]:
        assert all(check.remedy for check in report.checks if not check.passed)


def test_an_snp_host(tmp_path: Path) -> None:
    machine = _machine(
        tmp_path,
        "fpu sev sev_snp",
        {"dev/kvm": "", "dev/sev": "", "sys/module/kvm_amd/parameters/sev_snp": "Y\n"},
    )
    available = {report.backend for report in inspect_host(machine) if report.available}
    assert available == {"nil", "kvm", "snp"}


def test_an_snp_host_whose_kernel_has_it_off_says_so(tmp_path: Path) -> None:
    machine = _machine(
        tmp_path,
        "fpu sev sev_snp",
        {"dev/kvm": "", "dev/sev": "", "sys/module/kvm_amd/parameters/sev_snp": "N\n"},
    )
    (snp,) = [report for report in inspect_host(machine) if report.backend == "snp"]
    (failed,) = [check for check in snp.checks if not check.passed]
    assert failed.found == "N"
    assert "kvm_amd.sev_snp=1" in str(failed.remedy)


def test_tdx_and_sgx_and_nitro_and_a_confidential_guest(tmp_path: Path) -> None:
    machine = _machine(
        tmp_path,
        "tdx_host_platform sgx sgx_lc",
        {
            "dev/kvm": "",
            "dev/sgx_enclave": "",
            "dev/nitro_enclaves": "",
            "dev/tdx_guest": "",
            "sys/kernel/config/tsm/report/.keep": "",
            "sys/module/kvm_intel/parameters/tdx": "Y",
        },
    )
    available = {report.backend for report in inspect_host(machine) if report.available}
    assert available == {"nil", "kvm", "tdx", "sgx", "nitro", "cvm"}


def test_the_command_prints_json_for_programs(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["platform", "info", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    backends = {entry["backend"]: entry for entry in document["backends"]}
    assert backends["nil"]["available"] is True
    assert backends["nil"]["started_by_this_version"] is True
    assert {"name", "passed", "found", "remedy"} == backends["snp"]["checks"][0].keys()
