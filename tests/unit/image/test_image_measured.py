"""What is predicted of an image's folder is what is predicted of its parts; and its Nitro form."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING

import pytest

from garrison.cli.main import main
from garrison.formats.eif import Eif
from garrison.testing.firmware import fake_firmware

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def image(tmp_path: Path) -> Path:
    folder = tmp_path / "image"
    folder.mkdir()
    for name in ("vmlinuz", "initrd", "cmdline"):
        (folder / name).write_bytes(name.encode())
    parts = dict.fromkeys(("vmlinuz", "initrd", "cmdline"), "sha256:00")
    about = {"format": 1, "digest": "sha256:00", "inputs": "sha256:00", "parts": parts}
    (folder / "image.json").write_text(json.dumps(about))
    (tmp_path / "ovmf").write_bytes(fake_firmware())
    return folder


def _measure(capsys: pytest.CaptureFixture[str], *words: object) -> str:
    assert main(["image", "measure", *map(str, words)]) == 0
    return capsys.readouterr().out


def test_a_folder_is_measured_as_its_parts(
    image: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    boot = ("--tee", "snp", "--ovmf", tmp_path / "ovmf", "--vcpus", "2")
    parts = ("--kernel", image / "vmlinuz", "--initrd", image / "initrd", "--append")
    digest = _measure(capsys, image, *boot)
    # On SNP nothing would measure the host's ACPI tables, and the programs in them.
    assert digest == _measure(capsys, *boot, *parts, "acpi=off cmdline")
    assert digest != _measure(capsys, *boot, *parts, "cmdline")
    (image / "initrd").write_bytes(b"initrc")
    assert _measure(capsys, image, *boot) != digest


def test_an_enclave_is_measured_as_it_is_exported(
    image: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "keep.eif"
    assert main(["image", "export", str(image), "--format", "eif", str(out)]) == 0
    predicted = _measure(capsys, image, "--tee", "nitro")
    assert predicted == _measure(capsys, "--tee", "nitro", "--eif", out)
    eif = Eif.from_bytes(out.read_bytes())
    assert [each.data for each in eif.sections] == [
        b"vmlinuz",
        b"cmdline reboot=k pci=off",
        b"initrd",
    ]
    # The registers, computed here: AWS, "Cryptographic attestation".
    content = hashlib.sha384(b"".join(each.data for each in eif.sections)).digest()
    pcr0 = hashlib.sha384(bytes(48) + content).hexdigest()
    nothing = hashlib.sha384(bytes(48) + hashlib.sha384(b"").digest()).hexdigest()
    assert predicted.splitlines() == [f"PCR0 {pcr0}", f"PCR1 {pcr0}", f"PCR2 {nothing}"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--tee", "snp", "--append", "debug"), "IMAGE: one of them"),
        (("--tee", "nitro", "--eif", "{ovmf}"), "IMAGE: one of them"),
        (("--tee", "sgx", "--sigstruct", "{ovmf}"), "IMAGE: is not for this; found --tee sgx"),
        ((), "IMAGE: is not for this; found no --tee"),
    ],
    ids=["another command line", "another enclave", "sgx", "no TEE"],
)
def test_an_image_and_something_else_is_refused(
    image: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    words: tuple[str, ...],
    said: str,
) -> None:
    given = [word.format(ovmf=tmp_path / "ovmf") for word in words]
    assert main(["image", "measure", str(image), *given]) == 2
    assert said in capsys.readouterr().err


def test_a_folder_without_an_image_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["image", "measure", str(tmp_path), "--tee", "nitro"]) == 2
    assert "no image there" in capsys.readouterr().err
    out = tmp_path / "keep.eif"
    assert main(["image", "export", str(tmp_path), "--format", "eif", str(out)]) == 2
    assert not out.exists()
