"""A unified kernel image: sections where a loader finds them, and stubs that are refused."""

from __future__ import annotations

import contextlib
import json
import struct
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from garrison.cli.main import main
from garrison.errors import Malformed
from garrison.formats.pe import authenticode
from garrison.image.uki import extended

if TYPE_CHECKING:
    from pathlib import Path

_PE = 0x40
_TABLE = _PE + 24 + 240


def _stub(*, headers: int = 1024, magic: int = 0x20B, alignment: int = 4096) -> bytes:
    """A PE32+ image with one section, 100 bytes of text at 0x1000."""
    data = bytearray(headers + 512)
    data[:2] = b"MZ"
    struct.pack_into("<I", data, 0x3C, _PE)
    struct.pack_into("<4sHH12xHH", data, _PE, b"PE\0\0", 0x8664, 1, 240, 0x206)
    struct.pack_into("<H", data, _PE + 24, magic)
    struct.pack_into("<II", data, _PE + 24 + 32, alignment, 512)
    struct.pack_into("<II", data, _PE + 24 + 56, 0x2000, headers)
    struct.pack_into("<I", data, _PE + 24 + 108, 16)
    struct.pack_into("<8sIIII", data, _TABLE, b".text", 100, 0x1000, 512, headers)
    data[headers:] = b"\xcc" * 512
    return bytes(data)


def _sections(image: bytes) -> dict[str, tuple[int, bytes]]:
    """Each section's address, and its content."""
    (count,) = struct.unpack_from("<H", image, _PE + 6)
    found = {}
    for index in range(count):
        name, size, address, _raw, place = struct.unpack_from("<8sIIII", image, _TABLE + 40 * index)
        found[name.rstrip(b"\0").decode()] = (address, image[place : place + size])
    return found


def test_sections_come_behind_those_that_are_there() -> None:
    image = extended(_stub(), {".cmdline": b"quiet", ".linux": b"k" * 5000, ".last": b"x"})
    found = _sections(image)
    assert found[".text"] == (0x1000, b"\xcc" * 100)
    assert found[".cmdline"] == (0x2000, b"quiet")
    assert found[".linux"] == (0x3000, b"k" * 5000)
    assert found[".last"] == (0x5000, b"x")
    assert struct.unpack_from("<I", image, _PE + 24 + 56) == (0x6000,)
    assert len(image) % 512 == 0
    # What UEFI would measure of it: nothing overlaps, and all counts.
    digest = authenticode(image, "sha256")
    assert authenticode(image.replace(b"quiet", b"debug"), "sha256") != digest


def _image(place: Path, stub: bytes | None) -> Path:
    place.mkdir()
    for name in ("vmlinuz", "initrd", "cmdline"):
        (place / name).write_bytes(name.encode())
    if stub is not None:
        (place / "stub.efi").write_bytes(stub)
    parts = {each.name: "sha256:00" for each in place.iterdir()}
    about = {"format": 1, "digest": "sha256:00", "inputs": "sha256:00", "parts": parts}
    (place / "image.json").write_text(json.dumps(about))
    return place


def test_the_command_writes_it(tmp_path: Path) -> None:
    image, out = _image(tmp_path / "image", _stub()), tmp_path / "keep.efi"
    assert main(["image", "export", str(image), "--format", "uki", str(out)]) == 0
    found = {name: content for name, (_address, content) in _sections(out.read_bytes()).items()}
    assert found[".linux"] == b"vmlinuz"
    assert found[".initrd"] == b"initrd"
    assert found[".cmdline"] == b"cmdline"
    assert b"ID=garrison\n" in found[".osrel"]


def test_an_image_without_a_stub_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    image, out = _image(tmp_path / "image", None), tmp_path / "keep.efi"
    assert main(["image", "export", str(image), "--format", "uki", str(out)]) == 2
    assert "an image without a stub; expected stub.efi" in capsys.readouterr().err
    assert not out.exists()


@pytest.mark.parametrize(
    ("stub", "said"),
    [
        (b"", "ends too early"),
        (b"ELF" + _stub()[3:], "no PE signature"),
        (_stub(magic=0x10B), "optional header; found 0x10b"),
        (_stub(headers=512), "room for section headers; found 512 bytes"),
        (_stub(alignment=0), "alignment; found 0 and 512"),
        (_stub(alignment=1 << 31), "alignment; found 2147483648 and 512"),
        (_stub()[:200], "optional header|ends too early|alignment"),
    ],
    ids=[
        "nothing",
        "another format",
        "32 bits",
        "no room",
        "no alignment",
        "huge alignment",
        "cut",
    ],
)
def test_a_stub_that_cannot_be_extended_is_refused(stub: bytes, said: str) -> None:
    sections = dict.fromkeys((f".s{i}" for i in range(5)), b"x")
    with pytest.raises(Malformed, match=said):
        extended(stub, sections)


@given(st.binary(max_size=400), st.integers(0, 400))
def test_any_noise_is_malformed_or_extended(noise: bytes, at: int) -> None:
    stub = _stub()
    with contextlib.suppress(Malformed):
        extended(stub[:at] + noise + stub[at + len(noise) :], {".s": b"x"})
