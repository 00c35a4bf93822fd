"""What TDs will report, against a recorded boot, a second implementation, and the specification."""

from __future__ import annotations

import hashlib
import json
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.unit.image.test_image_uki import _stub
from tests.vectors import vectors

from garrison.cli.main import main
from garrison.errors import Malformed, Misuse
from garrison.formats.ccel import read_log, replay
from garrison.formats.dcap_quote import Quote
from garrison.formats.ovmf import Firmware
from garrison.formats.pe import authenticode
from garrison.formats.tdx_report import TdReport
from garrison.image.uki import extended
from garrison.measure import tdx
from garrison.testing.firmware import fake_firmware

if TYPE_CHECKING:
    from pathlib import Path

# Offset, raw size, address, size, type, attributes: boot volume (measured), variables, hand-off
# blocks, memory that the guest accepts later.
SECTIONS = (
    (0x1000, 0x3000, 0xFFFFD000, 0x3000, 0, 1),
    (0, 0x1000, 0xFFFFC000, 0x1000, 1, 0),
    (0, 0, 0x809000, 0x2000, 2, 0),
    (0, 0, 0x100000, 0x4000, 4, 2),
)


def _pe(
    *,
    magic: int = 0x20B,
    sections: tuple[bytes, ...] = (b"a" * 700, b"b" * 512),
    tail: bytes = b"",
    certificates: bytes = b"",
) -> bytes:
    """A PE image without a program."""

    def le(value: int, size: int) -> bytes:
        return value.to_bytes(size, "little")

    optional = bytearray(240 if magic == 0x20B else 224)
    optional[0:2], optional[60:64], optional[64:68] = le(magic, 2), le(1024, 4), b"\xaa" * 4
    directories = 112 if magic == 0x20B else 96
    optional[directories - 4 : directories] = le(16, 4)
    raw, table, offset = b"", b"", 1024
    for index, section in enumerate(sections):
        padded = section.ljust(-(-len(section) // 512) * 512, b"\0")
        size = le(len(padded), 4)
        table += b".s%d" % index + bytes(5) + size + le(0x1000 * (index + 1), 4) + size
        table += le(offset, 4) + bytes(16)
        raw += padded
        offset += len(padded)
    raw += tail
    if certificates:
        entry = le(offset + len(tail), 4) + le(len(certificates), 4)
        optional[directories + 32 : directories + 40] = entry
    coff = le(0x8664, 2) + le(len(sections), 2) + bytes(12) + le(len(optional), 2) + bytes(2)
    head = b"MZ".ljust(60, b"\0") + le(64, 4) + b"PE\0\0" + coff + bytes(optional) + table
    return head.ljust(1024, b"\0") + raw + certificates


# Each as LIEF 0.17 computes it.
@pytest.mark.parametrize(
    ("image", "digest"),
    [
        (
            _pe(),
            "b6d7f8937a2efc3f37b6a70b05b3355a73f939cb2add669c7b80a1e9254d5e0a5f9208c669c73f86c46cc74a5f30cba9",
        ),
        (
            _pe(magic=0x10B),
            "75d92aaade040b0042f90850c1755476c8f5641d6176492077040c8837eca5b79aace42e7fe87c5a3b6edfad904b33c0",
        ),
        (
            _pe(tail=b"t" * 24),
            "2b4bbd229132e49d834204e9506a8fb4659b40e993cd474388807ac5c75e9f30c1d5945d72edbb74ebf00d7bcc36b17a",
        ),
        (
            _pe(certificates=b"c" * 64),
            "b6d7f8937a2efc3f37b6a70b05b3355a73f939cb2add669c7b80a1e9254d5e0a5f9208c669c73f86c46cc74a5f30cba9",
        ),
    ],
    ids=["plain", "32 bits", "tail", "signed"],
)
def test_the_digest_of_a_kernel_is_another_implementation_s(image: bytes, digest: str) -> None:
    assert authenticode(image, "sha384").hex() == digest


def test_what_firmware_hashes_otherwise_is_refused() -> None:
    """EDK II begins what is behind the sections at the sum of their sizes, gaps left out."""
    image = bytearray(_pe())
    sections = 64 + 4 + 20 + 240
    gap = bytearray(image[:2048] + bytes(512) + image[2048:])
    gap[sections + 40 + 20 : sections + 40 + 24] = (2560).to_bytes(4, "little")
    with pytest.raises(Malformed, match="section; found 512 bytes at 2560"):
        authenticode(bytes(gap), "sha384")
    few = 64 + 4 + 20 + 108
    assert image[few : few + 4] == (16).to_bytes(4, "little")
    image[few : few + 4] = (4).to_bytes(4, "little")
    with pytest.raises(Malformed, match="data directories; found 4, none for certificates"):
        authenticode(bytes(image), "sha384")


@settings(max_examples=200, deadline=None)
@given(st.binary(min_size=1, max_size=8), st.integers(0, 700))
def test_wrong_kernels_are_malformed_and_nothing_else(noise: bytes, offset: int) -> None:
    image = bytearray(_pe(certificates=b"c" * 64))
    image[offset : offset + len(noise)] = noise
    for data in (bytes(image), bytes(image[:offset])):
        with suppress(Malformed):
            assert len(authenticode(data, "sha384")) == 48


def test_mrtd_is_what_the_specification_says() -> None:
    image = fake_firmware(pages=4, filler=b"garrison", tdx=SECTIONS)
    expected = hashlib.sha384()
    pages = [(0xFFFFD000 + 0x1000 * index, 0x1000 * (index + 1)) for index in range(3)]
    for address, offset in pages:
        expected.update(b"MEM.PAGE.ADD" + bytes(4) + address.to_bytes(8, "little") + bytes(104))
        for chunk in range(0, 4096, 256):
            gpa = (address + chunk).to_bytes(8, "little")
            expected.update(b"MR.EXTEND" + bytes(7) + gpa + bytes(104))
            expected.update(image[offset + chunk : offset + chunk + 256])
    for address in (0xFFFFC000, 0x809000, 0x80A000):
        expected.update(b"MEM.PAGE.ADD" + bytes(4) + address.to_bytes(8, "little") + bytes(104))
    assert tdx.mrtd(Firmware.from_bytes(image)) == expected.digest()


def test_the_registers_are_another_implementation_s() -> None:
    """As dstack-mr (4a167f8; pages in one pass, the kernel as it is) computes them of these."""
    firmware = Firmware.from_bytes(fake_firmware(pages=4, filler=b"garrison", tdx=SECTIONS))
    found = tdx.predict(firmware, kernel=_pe(), initrd=b"initrd", append="quiet").registers
    assert {name: value.hex() for name, value in found.items()} == {
        "mrtd": "e93aca27d2d30831f73af39165e0ba7ede84920105d99aced7bfd682269817b0"
        "54a6f65169a65c2b34a4590838681fc4",
        "rtmr1": "298f5aa9b87391b596be41e83e75d33ff59217a1645a1849aef57079ab948b90"
        "281532007cf90c780ef17c645eb1f11a",
        "rtmr2": "bef5355395bde66256accbcc916f56ba08794dfb47f038f1064369d14bb93439"
        "8048b82ed2d3cb7f92b02f4a20272ccc",
    }


@pytest.mark.vectors
def test_the_event_log_of_a_real_boot_leads_to_the_registers_of_its_quote() -> None:
    directory = vectors("measure") / "tdx-ccel-cos113"
    events = read_log((directory / "ccel_data.bin").read_bytes())
    facts = json.loads((directory / "vector.json").read_text())["facts"]
    assert len(events) == facts["events"]
    assert [value.hex() for value in replay(events)] == facts["rtmr"]
    quote = Quote.from_bytes((directory / "quote.bin").read_bytes())
    assert isinstance(quote.body, TdReport)
    assert replay(events) == quote.body.rtmrs
    # The kernel's start and end, and the loader's action, are hashed as we hash them.
    digests = {event.digest for event in events}
    for text in (b"Exit Boot Services Invocation", b"Calling EFI Application from Boot Option"):
        assert hashlib.sha384(text).digest() in digests
    assert hashlib.sha384(bytes(4)).digest() in digests


@pytest.mark.vectors
def test_a_log_that_was_changed_leads_elsewhere_or_nowhere() -> None:
    log = (vectors("measure") / "tdx-ccel-cos113" / "ccel_data.bin").read_bytes()
    for offset in range(0, 400, 3):
        changed = bytearray(log)
        changed[offset] ^= 1
        with suppress(Malformed):
            read_log(bytes(changed))
        with pytest.raises(Malformed):
            read_log(log[: min(offset, 64)])


def test_every_part_of_the_boot_counts() -> None:
    kernel = _pe()
    registers = {
        tdx.rtmr1(kernel),
        tdx.rtmr1(_pe(tail=b"t" * 24)),
        tdx.rtmr2("quiet", b"initrd"),
        tdx.rtmr2("quiet", b"initrD"),
        tdx.rtmr2("quiet ", b"initrd"),
        tdx.rtmr2("quiet", None),
    }
    assert len(registers) == 6


def test_what_is_empty_is_not_measured() -> None:
    """EDK II hands over no options of length zero and no initrd of none; Linux measures neither."""
    assert tdx.rtmr2("", None) == tdx.rtmr2("", b"") == bytes(48)
    assert tdx.rtmr2("quiet", b"") == tdx.rtmr2("quiet", None)
    # As Linux' stub is given it: 16 bits each, a zero behind, the initrd's name with it.
    digest = hashlib.sha384("quiet initrd=initrd\0".encode("utf-16-le")).digest()
    register = hashlib.sha384(bytes(48) + digest).digest()
    register = hashlib.sha384(register + hashlib.sha384(b"initrd").digest()).digest()
    assert tdx.rtmr2("quiet", b"initrd") == register


@pytest.mark.parametrize("append", ["caf\N{LATIN SMALL LETTER E WITH ACUTE}", "a\0b", "\udcff"])
def test_a_command_line_that_firmware_would_change_is_not_guessed(append: str) -> None:
    """It widens each byte to 16 bits, whatever character that was a part of."""
    with pytest.raises(Misuse, match="--append"):
        tdx.rtmr2(append, None)


def _command(tmp_path: Path, *more: str) -> list[str]:
    for name, data in (
        ("ovmf", fake_firmware(tdx=SECTIONS)),
        ("kernel", _pe()),
        ("initrd", b"initrd"),
    ):
        (tmp_path / name).write_bytes(data)
    files = [f"--{name}={tmp_path / name}" for name in ("ovmf", "kernel", "initrd")]
    return ["image", "measure", "--tee", "tdx", *files, "--append=quiet", *more]


@pytest.mark.vectors
def test_the_command_says_what_it_cannot_know(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(_command(tmp_path, "--json")) == 0
    document: Any = json.loads(capsys.readouterr().out)
    assert set(document["registers"]) == {"mrtd", "rtmr1", "rtmr2"}
    assert set(document["unknown"]) == {"rtmr0"}
    # A policy without RTMR0 is not whole, and is refused until somebody says what it must be.
    assert main(_command(tmp_path, "--policy")) == 0
    (tmp_path / "policy.toml").write_text(capsys.readouterr().out)
    assert main(["steward", "policy", "check", str(tmp_path / "policy.toml")]) == 65
    assert "rtmrs" in capsys.readouterr().err
    log = vectors("measure") / "tdx-ccel-cos113" / "ccel_data.bin"
    assert main(_command(tmp_path, "--policy", f"--event-log={log}")) == 0
    (tmp_path / "policy.toml").write_text(capsys.readouterr().out)
    assert main(["steward", "policy", "check", str(tmp_path / "policy.toml")]) == 0


@pytest.mark.parametrize(
    ("sections", "said"),
    [
        ([(0, 0x1000, 0, 0x1000, 9, 1)], "type"),
        ([(0, 0x1000, 0, 0x1000, 0, 4)], "attributes"),
        ([(0, 0, 0, 0x1000, 0, 1)], "attributes"),
        ([(0, 0x1000, 0, 0x1000, 0, 3)], "attributes"),
        ([(0x4000, 0x1000, 0, 0x1000, 0, 1)], "raw size"),
        ([(0, 0x1000, 0, 0x2000, 0, 1)], "raw size"),
        ([(0, 0x1000, 1, 0x1000, 0, 1)], "range"),
        ([(0, 0, 0, 1 << 40, 3, 0)], "range"),
    ],
    ids=["type", "bits", "no bytes", "later", "beyond", "short", "crooked", "endless"],
)
def test_a_descriptor_that_cannot_be(
    sections: list[tuple[int, int, int, int, int, int]], said: str
) -> None:
    with pytest.raises(Malformed, match=said):
        tdx.mrtd(Firmware.from_bytes(fake_firmware(tdx=sections)))


def test_a_firmware_that_launches_no_td_has_no_mrtd() -> None:
    with pytest.raises(Misuse, match="cannot launch a TD"):
        tdx.mrtd(Firmware.from_bytes(fake_firmware()))
    endless = [*SECTIONS, (0, 0, 0x1000000, 0x8000000, 3, 0)]
    with pytest.raises(Misuse, match="too large"):
        tdx.mrtd(Firmware.from_bytes(fake_firmware(tdx=endless)))


def test_a_unified_image_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Its stub measures more than a direct boot does: RTMR2 would be wrong."""
    command = _command(tmp_path)
    unified = extended(_stub(), {".linux": b"kernel", ".cmdline": b"quiet"})
    (tmp_path / "kernel").write_bytes(unified)
    assert main(command) == 2
    assert "RTMR2 cannot be predicted of a unified kernel image" in capsys.readouterr().err
