"""The command lines of confidential guests, read by a real QEMU as far as it goes without hardware.

`GARRISON_QEMU` names the QEMU; it is looked for on the path otherwise.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
from base64 import b64decode
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from garrison.errors import Misuse, Unavailable, Unverified
from garrison.formats.snp_id_block import IdAuth, IdBlock
from garrison.launch.host_checks import inspect_host, require
from garrison.launch.host_probe import Probes
from garrison.launch.qemu_command import Guest, SnpLaunch, TdxLaunch, snp_command, tdx_command
from garrison.measure import sev_keys

if TYPE_CHECKING:
    from collections.abc import Iterator

GUEST = Guest(
    firmware=Path("/firmware,fd"),
    kernel=Path("/vmlinuz"),
    initrd=Path("/initrd"),
    append="console=ttyS0,115200",
    memory=512,
    vcpus=2,
    console=11,
    channels=(("garrison.request", 12),),
    monitor=13,
)


def _signed(policy: int = 0x30000) -> tuple[IdBlock, IdAuth]:
    author, id_key = (sev_keys.load(sev_keys.create(), "key") for _ in range(2))
    block = IdBlock(b"\x11" * 48, bytes(16), bytes(16), 0, policy)
    return block, sev_keys.sign_id_block(block, id_key, sev_keys.sign_id_key(author, id_key))


def _after(command: list[str], option: str) -> list[str]:
    return [value for name, value in pairwise(command) if name == option]


def _objects(command: list[str], option: str = "-object") -> dict[str, Any]:
    parsed = [json.loads(value) for value in _after(command, option)]
    return {item.get("qom-type") or item["driver"]: item for item in parsed}


def test_an_snp_guest_is_bound_to_its_kernel_and_its_owner() -> None:
    block, auth = _signed()
    launch = SnpLaunch(signed=(block, auth), host_data=b"\x22" * 32)
    command = snp_command(GUEST, launch)
    tee = _objects(command)["sev-snp-guest"]
    assert tee["kernel-hashes"] is True
    assert tee["policy"] == 0x30000
    assert tee["author-key-enabled"] is True
    assert b64decode(tee["id-block"]) == block.to_bytes()
    assert b64decode(tee["id-auth"]) == auth.to_bytes()
    assert b64decode(tee["host-data"]) == b"\x22" * 32
    (machine,) = _after(command, "-machine")
    assert "confidential-guest-support=tee" in machine
    assert "memory-backend=ram" in machine
    assert _objects(command)["memory-backend-memfd"]["size"] == 512 << 20
    assert _after(command, "-cpu") == ["EPYC-v4"]
    assert _after(command, "-append") == ["console=ttyS0,115200"]


def test_a_td_has_its_quoting_service_and_its_registers() -> None:
    launch = TdxLaunch(mr_config_id=b"\x01" * 48, mr_owner=b"\x02" * 48, mr_owner_config=bytes(48))
    command = tdx_command(GUEST, launch)
    tee = _objects(command)["tdx-guest"]
    assert tee["quote-generation-socket"] == {
        "type": "unix",
        "path": "/var/run/tdx-qgs/qgs.socket",
    }
    assert b64decode(tee["mrconfigid"]) == b"\x01" * 48
    assert b64decode(tee["mrowner"]) == b"\x02" * 48
    assert "kernel-irqchip=split" in _after(command, "-machine")[0]


def test_what_leads_to_the_host_is_inherited() -> None:
    command = snp_command(GUEST, SnpLaunch())
    assert "socket,id=console,fd=11" in command
    assert "socket,id=channel0,fd=12" in command
    assert "socket,id=monitor,fd=13" in command
    assert _after(command, "-netdev") == ["user,id=net,ipv6=off"]
    assert _after(command, "-mon") == ["chardev=monitor,mode=control"]


def test_devices_do_not_reach_into_the_guest() -> None:
    for command in (snp_command(GUEST, SnpLaunch()), tdx_command(GUEST, TdxLaunch())):
        devices = _objects(command, "-device")
        for name in ("virtio-net-pci", "virtio-serial-pci"):
            assert devices[name]["iommu_platform"] is True
        assert devices["virtio-net-pci"]["romfile"] == ""
        assert "-nodefaults" in command


def test_what_nobody_could_have_predicted_is_refused() -> None:
    with pytest.raises(Misuse, match="--vcpu-type"):
        snp_command(GUEST, SnpLaunch(vcpu_type="host"))
    with pytest.raises(Misuse, match=r"guest policy.*found 0xb0000; expected 0x30000"):
        snp_command(GUEST, SnpLaunch(policy=0xB0000, signed=_signed()))
    block, auth = _signed()
    with pytest.raises(Unverified, match="ID block"):
        snp_command(GUEST, SnpLaunch(signed=(replace(block, launch_digest=bytes(48)), auth)))
    with pytest.raises(Misuse, match="host data"):
        snp_command(GUEST, SnpLaunch(host_data=b""))
    with pytest.raises(Misuse, match="mrowner"):
        tdx_command(GUEST, TdxLaunch(mr_owner=b""))
    with pytest.raises(Misuse, match="too small"):
        snp_command(replace(GUEST, memory=64), SnpLaunch())


def test_the_refusal_says_all_that_is_missing(tmp_path: Path) -> None:
    probes = Probes(find=lambda _: None)
    with pytest.raises(Unavailable, match="cannot run keeps in snp") as caught:
        require("snp", inspect_host(tmp_path, probes))
    for part in ("flag sev_snp is not set", "device /dev/sev: absent", "QEMU", "OVMF for snp"):
        assert part in str(caught.value)
    assert "kvm_amd.sev_snp=1" in str(caught.value.hint)
    require("nil", inspect_host(tmp_path, probes))
    with pytest.raises(Misuse, match="no such backend"):
        require("sev", inspect_host(tmp_path, probes))


def _qemu() -> tuple[str, tuple[int, int]]:
    path = os.environ.get("GARRISON_QEMU") or shutil.which("qemu-system-x86_64")
    if path is None:
        pytest.skip("needs qemu-system-x86_64")
    done = subprocess.run([path, "--version"], capture_output=True, text=True, check=True)
    found = re.search(r"version (\d+)\.(\d+)", done.stdout)
    assert found is not None
    return path, (int(found[1]), int(found[2]))


@pytest.fixture
def console() -> Iterator[int]:
    """A socket's descriptor, for QEMU to inherit."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield theirs.fileno()


def _real(tmp_path: Path, qemu: str, console: int) -> Guest:
    for name in ("firmware", "kernel", "initrd"):
        (tmp_path / name).write_bytes(bytes(1 << 20))
    # What QEMU reads of a kernel: Linux, Documentation/arch/x86/boot.rst, protocol 2.12.
    kernel = bytearray(1 << 20)
    kernel[0x1F1], kernel[0x202:0x206], kernel[0x206:0x208] = 1, b"HdrS", b"\x0c\x02"
    kernel[0x211], kernel[0x22C:0x230] = 1, b"\xff\xff\xff\x7f"
    (tmp_path / "kernel").write_bytes(kernel)
    return replace(
        GUEST,
        qemu=qemu,
        firmware=tmp_path / "firmware",
        kernel=tmp_path / "kernel",
        initrd=tmp_path / "initrd",
        console=console,
        channels=(),
        monitor=None,
    )


def _run(command: list[str], console: int) -> str:
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        check=False,
        stdin=subprocess.DEVNULL,
        timeout=30,
        pass_fds=[console],
    )
    assert done.returncode != 0, "this test is for machines without the hardware"
    return "\n".join(line for line in done.stderr.splitlines() if "warning:" not in line)


@pytest.mark.parametrize(("tee", "minimum"), [("snp", (9, 1)), ("tdx", (10, 1))])
def test_a_real_qemu_misses_nothing_but_the_hardware(
    tmp_path: Path, console: int, tee: str, minimum: tuple[int, int]
) -> None:
    """It reads machine, processor, memory and the TEE's object, and asks KVM for the machine."""
    qemu, version = _qemu()
    if version < minimum:
        pytest.skip(f"QEMU {version[0]}.{version[1]} has no {tee} guests")
    guest = _real(tmp_path, qemu, console)
    command = (
        snp_command(guest, SnpLaunch(signed=_signed(), host_data=bytes(32)))
        if tee == "snp"
        else tdx_command(guest, TdxLaunch(mr_owner=bytes(48)))
    )
    said = _run(command, console)
    assert re.search(r"not supported by KVM|[Cc]ould not access KVM|/dev/sev|KVM_CAP|vm-type", said)
    # A property that QEMU does not know is told apart from hardware that is missing.
    wrong = [value.replace('"id":"tee"', '"id":"tee","no-such":1') for value in command]
    assert "no-such" in _run(wrong, console)


def test_a_real_qemu_makes_the_machine(tmp_path: Path, console: int) -> None:
    """Without the TEE and with emulation, the rest of the line makes a machine with its devices."""
    qemu, version = _qemu()
    if version < (9, 1):
        pytest.skip(f"QEMU {version[0]}.{version[1]} has no EPYC-v4 processors")
    ours, theirs = socket.socketpair()
    with ours, theirs:
        guest = replace(
            _real(tmp_path, qemu, console), channels=(("garrison.request", theirs.fileno()),)
        )
        command = snp_command(guest, SnpLaunch(vcpu_type="EPYC-v3"))
        machine = command.index("-machine") + 1
        command[machine] = command[machine].replace(",confidential-guest-support=tee", "")
        command[command.index("kvm")] = "tcg"
        tee = next(index for index, value in enumerate(command) if "sev-snp-guest" in value)
        del command[tee - 1 : tee + 1]
        done = subprocess.run(
            [*command, "-S", "-monitor", "stdio"],
            input="info qtree\nquit\n",
            capture_output=True,
            text=True,
            check=False,
            timeout=30,
            pass_fds=[console, theirs.fileno()],
        )
    assert done.returncode == 0, done.stderr
    assert "dev: virtio-net-pci" in done.stdout
    assert 'name = "garrison.request"' in done.stdout
