"""The kernel, taken out of what unpacks itself; and which of the two a machine boots."""

from __future__ import annotations

import ctypes
import json
import struct
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import garrison.image
from garrison.image import folder
from garrison.launch import backends
from garrison.launch.backends import MachineOptions
from garrison.launch.machine import Place

if TYPE_CHECKING:
    from garrison.attesters.base import Attester

_SCRIPT = Path(garrison.image.__file__).with_name("unpack.py")
_KERNEL = b"\x7fELF" + bytes(range(256)) * 400
_SECTORS = 3


def _compressed(content: bytes) -> bytes:
    library = ctypes.CDLL("libzstd.so.1")
    library.ZSTD_compress.restype = ctypes.c_size_t
    out = ctypes.create_string_buffer(len(content) + 4096)
    size = library.ZSTD_compress(
        out, ctypes.c_size_t(len(out)), content, ctypes.c_size_t(len(content)), 3
    )
    return out.raw[:size]


def _boots_itself(payload: bytes, *, version: int = 0x20F) -> bytes:
    """A bzImage with `payload` in the middle of its program."""
    head = bytearray((_SECTORS + 1) * 512)
    head[0x1F1] = _SECTORS
    head[0x202:0x206] = b"HdrS"
    struct.pack_into("<H", head, 0x206, version)
    struct.pack_into("<II", head, 0x248, 100, len(payload))
    return bytes(head) + bytes(100) + payload + bytes(50)


def _unpack(kernel: bytes, place: Path) -> subprocess.CompletedProcess[str]:
    source, target = place / "vmlinuz", place / "vmlinux"
    source.write_bytes(kernel)
    task = json.dumps({"source": str(source), "target": str(target)})
    command = [sys.executable, "-I", str(_SCRIPT)]
    return subprocess.run(command, input=task, text=True, capture_output=True, check=False)


def test_a_kernel_is_unpacked(tmp_path: Path) -> None:
    payload = _compressed(_KERNEL) + len(_KERNEL).to_bytes(4, "little")
    done = _unpack(_boots_itself(payload), tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "vmlinux").read_bytes() == _KERNEL


@pytest.mark.parametrize(
    ("kernel", "said"),
    [
        (bytes(4096), "no bzImage"),
        (_boots_itself(b"", version=0x207), "no bzImage"),
        (_boots_itself(b"\x1f\x8b" + bytes(20)), "not compressed with Zstandard: 1f8b0000"),
        (_boots_itself(b"\x28\xb5\x2f\xfd" + bytes(16) + b"\xff" * 4), "says that it has"),
        (_boots_itself(_compressed(_KERNEL) + b"\x01\0\0\0"), "and says 1"),
        (_boots_itself(_compressed(_KERNEL)[:-9] + b"\0\x01\0\0"), "and says 256"),
    ],
    ids=["zeros", "old", "gzip", "large", "shorter", "broken"],
)
def test_what_is_none_is_refused(kernel: bytes, said: str, tmp_path: Path) -> None:
    done = _unpack(kernel, tmp_path)
    assert done.returncode != 0
    assert said in done.stderr
    assert not (tmp_path / "vmlinux").exists()


class _Simulator:
    """Answers for a TEE that reports what is in the image."""


@pytest.mark.parametrize(
    ("simulated", "parts", "booted"),
    [
        (False, ("vmlinuz", "vmlinux"), "vmlinux"),
        # What a simulator reports is `vmlinuz`, so that is what boots.
        (True, ("vmlinuz", "vmlinux"), "vmlinuz"),
        # An image of an earlier release.
        (False, ("vmlinuz",), "vmlinuz"),
    ],
)
def test_what_is_reported_is_what_boots(
    simulated: bool, parts: tuple[str, ...], booted: str, tmp_path: Path
) -> None:
    for name in (*parts, "initrd", "cmdline"):
        (tmp_path / name).write_bytes(name.encode())
    found = {name: folder.part(tmp_path / name) for name in (*parts, "initrd", "cmdline")}
    about = {"format": 1, "digest": "sha256:0", "inputs": "sha256:0", "parts": found}
    (tmp_path / "image.json").write_text(json.dumps(about))
    simulator: Attester | None = _Simulator() if simulated else None  # type: ignore[assignment]
    options = MachineOptions(folder.load(tmp_path), insecure_simulated=simulator)
    tee = "snp" if simulated else None
    guest = backends._guest(options, Place((), 3, 4), "qemu", None, tee)
    assert guest.kernel == tmp_path / booted
    assert guest.append == ("acpi=off cmdline" if simulated else "cmdline")
    for backend, line in (("snp", "acpi=off cmdline"), ("tdx", "cmdline")):
        firmware = tmp_path / "firmware"
        confidential = backends._guest(options, Place((), 3, 4), "qemu", firmware, backend)
        assert confidential.kernel == tmp_path / "vmlinuz"
        assert confidential.append == line
