"""PCR 11 of a unified kernel image, as systemd's own tool computes it of the same parts."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.image.test_image_uki import _stub

from garrison.errors import Malformed
from garrison.formats.pe import sections
from garrison.image.uki import extended
from garrison.measure.uki import pcr11

PARTS = {
    ".osrel": b"ID=garrison\n",
    ".cmdline": b"quiet",
    ".initrd": b"initrd",
    ".linux": b"k" * 5000,
}
# `systemd-measure calculate` of systemd 252, with --phase=: (before any), of these four files.
VALUES = {
    "sha256": "4fbf25c40db611af1a08b2dcb26c78ac07b770ef591fc18457d96b1edd90acaa",
    "sha384": "871d69bde5cdeef169d254bf0cc880d7d968765eb217f686"
    "f4309e5f394f6485759f42307dd276d2030212d7806443c2",
}


@pytest.mark.parametrize("algorithm", VALUES)
def test_the_register_is_that_of_systemd_s_tool(algorithm: str) -> None:
    assert pcr11(extended(_stub(), PARTS), algorithm).hex() == VALUES[algorithm]


def test_the_order_in_the_file_does_not_count_and_every_byte_of_a_part_does() -> None:
    right = pcr11(extended(_stub(), PARTS))
    assert pcr11(extended(_stub(), dict(reversed(PARTS.items())))) == right
    for name, content in PARTS.items():
        changed = PARTS | {name: content[:-1] + b"?"}
        assert pcr11(extended(_stub(), changed)) != right
    # The stub's own code is measured by UEFI; what it is called by, in its `.sbat`, here.
    assert pcr11(extended(_stub(), PARTS | {".sbat": b"sbat"})) != right


def test_a_section_is_as_long_as_in_memory() -> None:
    image = extended(_stub(), {".cmdline": b"quiet"})
    assert sections(image)[".text"] == b"\xcc" * 100
    assert sections(image)[".cmdline"] == b"quiet"


def test_sections_are_not_the_same_bytes_many_times() -> None:
    """A gigabyte that each of 96 sections is would take a hundred."""
    image = bytearray(extended(_stub(headers=8192), {".linux": b"k" * (1 << 20)}))
    entry = bytes(image[0x40 + 24 + 240 + 40 :][:40])
    for index in range(2, 96):
        start = 0x40 + 24 + 240 + 40 * index
        image[start : start + 40] = b".%07d" % index + entry[8:]
    image[0x40 + 6] = 10
    assert len(sections(bytes(image))) == 10
    image[0x40 + 6] = 96
    with pytest.raises(Malformed, match="section"):
        sections(bytes(image))


@given(st.binary(max_size=400), st.integers(0, 1500))
def test_anything_else_is_malformed_or_has_sections(noise: bytes, place: int) -> None:
    image = bytearray(_stub())
    image[place : place + len(noise)] = noise
    for data in (noise, bytes(image)):
        try:
            found = sections(data)
        except Malformed:
            continue
        assert len(found) <= 96
