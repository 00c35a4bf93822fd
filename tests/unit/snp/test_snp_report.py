"""The SNP report: what parses re-encodes to the same bytes, all else is Malformed."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from garrison.errors import Malformed
from garrison.formats.snp import (
    REPORT_SIZE,
    SIGNED_SIZE,
    Cpuid,
    FirmwareVersion,
    GuestPolicy,
    PlatformInfo,
    Product,
    Report,
    SigningKey,
    Tcb,
)
from garrison.testing.snp import MEASUREMENT, REPORT_DATA, FakePlatform

REPORTS = {version: FakePlatform().report(version=version) for version in (2, 3, 4, 5)}
GENUINE = REPORTS[3]


def changed(offset: int, value: bytes, report: bytes = GENUINE) -> bytes:
    return report[:offset] + value + report[offset + len(value) :]


@pytest.mark.parametrize("version", [2, 3, 4, 5])
def test_round_trip(version: int) -> None:
    data = REPORTS[version]
    report = Report.from_bytes(data)
    assert report.to_bytes() == data
    assert report.signed_bytes() == data[:SIGNED_SIZE]
    assert len(data) == REPORT_SIZE
    assert report.version == version
    assert report.report_data == REPORT_DATA
    assert report.measurement == MEASUREMENT
    assert report.cpuid == (None if version == 2 else Cpuid(0x19, 1, 1))


def test_every_field_stands_where_the_specification_has_it() -> None:
    data = bytearray(FakePlatform().report(version=5))
    # Each byte of the signed part that is neither reserved nor coded, its own value.
    data[0x04:0x08] = b"\x11\x12\x13\x14"
    data[0x10:0x30] = bytes(range(0x20, 0x40))
    data[0x30:0x34] = b"\x03\x00\x00\x00"
    data[0x38:0x40] = bytes(range(0x40, 0x48))
    data[0x40:0x48] = b"\x07\x00\x00\x00\x00\x00\x00\x80"
    data[0x48] = 0b00111
    data[0x0C0:0x0E0] = b"\x51" * 32
    data[0x0E0:0x110] = b"\x52" * 48
    data[0x110:0x140] = b"\x53" * 48
    data[0x140:0x160] = b"\x54" * 32
    data[0x160:0x180] = b"\x55" * 32
    data[0x180:0x188] = b"\x56" * 8
    data[0x188:0x18B] = b"\x1a\x02\x03"
    data[0x1A0:0x1E0] = b"\x57" * 64
    data[0x1E0:0x1E8] = b"\x58" * 8
    data[0x1E8:0x1EB] = b"\x1d\x37\x01"
    data[0x1EC:0x1EF] = b"\x1c\x36\x01"
    data[0x1F0:0x1F8] = b"\x59" * 8
    data[0x1F8:0x200] = b"\x3f\x00\x00\x00\x00\x00\x00\x01"
    data[0x200:0x208] = b"\x3e\x00\x00\x00\x00\x00\x00\x02"
    data[0x2A0:0x2A2] = b"\x34\x12"
    data[0x2A2:0x2D0] = bytes(46)
    data[0x2E8:0x2EA] = b"\x78\x56"
    data[0x2EA:0x318] = bytes(46)
    report = Report.from_bytes(bytes(data))
    assert report.to_bytes() == bytes(data)
    assert report.guest_svn == 0x14131211
    assert report.family_id == bytes(range(0x20, 0x30))
    assert report.image_id == bytes(range(0x30, 0x40))
    assert report.vmpl == 3
    assert report.current_tcb == bytes(range(0x40, 0x48))
    assert report.platform_info.bits == 1 << 63 | 7
    assert (report.platform_info.smt, report.platform_info.tsme, report.platform_info.ecc) == (
        True,
        True,
        True,
    )
    assert report.author_key_en
    assert report.mask_chip_key
    assert report.signing_key is SigningKey.VLEK
    assert report.host_data == b"\x51" * 32
    assert report.id_key_digest == b"\x52" * 48
    assert report.author_key_digest == b"\x53" * 48
    assert report.report_id == b"\x54" * 32
    assert report.report_id_ma == b"\x55" * 32
    assert report.reported_tcb == b"\x56" * 8
    assert report.cpuid == Cpuid(0x1A, 2, 3)
    assert report.chip_id == b"\x57" * 64
    assert report.committed_tcb == b"\x58" * 8
    assert report.current_version == FirmwareVersion(1, 55, 29)
    assert report.committed_version == FirmwareVersion(1, 54, 28)
    assert report.launch_tcb == b"\x59" * 8
    assert report.launch_mit_vector == 0x0100_0000_0000_003F
    assert report.current_mit_vector == 0x0200_0000_0000_003E
    assert (report.r, report.s) == (0x1234, 0x5678)


@pytest.mark.parametrize("size", [0, 1, 4, 0x29F, 0x2A0, REPORT_SIZE - 1])
def test_truncated(size: int) -> None:
    with pytest.raises(Malformed) as caught:
        Report.from_bytes(GENUINE[:size])
    assert (caught.value.field, caught.value.found) == ("SNP report", f"{size} bytes")


def test_extended() -> None:
    with pytest.raises(Malformed, match="wrong length; found 1185 bytes; expected 1184 bytes"):
        Report.from_bytes(GENUINE + b"\0")


@pytest.mark.parametrize("version", [0, 1, 6, 2**32 - 1])
def test_other_versions(version: int) -> None:
    with pytest.raises(Malformed) as caught:
        Report.from_bytes(changed(0, version.to_bytes(4, "little")))
    assert caught.value.field == "SNP report: VERSION"
    assert caught.value.expected == "2 | 3 | 4 | 5"


_RESERVED = {
    "key flags": [0x49, 0x4A, 0x4B],
    "0x4c": range(0x4C, 0x50),
    "after CPUID": range(0x18B, 0x1A0),
    "after CURRENT version": [0x1EB],
    "after COMMITTED version": [0x1EF],
    "end of the signed part": range(0x208, 0x2A0),
    "r": range(0x2D0, 0x2E8),
    "s": range(0x318, 0x330),
    "end": range(0x330, REPORT_SIZE),
}


@pytest.mark.parametrize("part", _RESERVED)
@pytest.mark.parametrize("version", [2, 5])
def test_reserved_bytes(part: str, version: int) -> None:
    for offset in _RESERVED[part]:
        with pytest.raises(Malformed):
            Report.from_bytes(changed(offset, b"\x80", REPORTS[version]))


@pytest.mark.parametrize(
    ("version", "offsets"),
    [
        (2, range(0x188, 0x1A0)),
        (2, range(0x1F8, 0x208)),
        (3, range(0x1F8, 0x208)),
        (4, range(0x1F8, 0x208)),
    ],
)
def test_fields_of_later_versions_are_reserved_before(version: int, offsets: range) -> None:
    for offset in offsets:
        with pytest.raises(Malformed) as caught:
            Report.from_bytes(changed(offset, b"\x01", REPORTS[version]))
        assert caught.value.found == f"0x01 at offset {offset:#x}"


@pytest.mark.parametrize("bits", [0, 1 << 16, 1 << 17 | 1 << 26, 1 << 17 | 1 << 63])
def test_policy_with_reserved_bits(bits: int) -> None:
    with pytest.raises(Malformed) as caught:
        Report.from_bytes(changed(8, bits.to_bytes(8, "little")))
    assert caught.value.field == "SNP report: POLICY"


def test_policy_bits() -> None:
    policy = GuestPolicy(0x30133)
    assert policy.abi == (1, 0x33)
    assert policy.smt
    assert not policy.debug
    assert not policy.migrate_ma
    assert not policy.single_socket
    assert GuestPolicy(1 << 18).migrate_ma
    assert GuestPolicy(1 << 19).debug
    assert GuestPolicy(1 << 20).single_socket
    assert not PlatformInfo(0).smt


@pytest.mark.parametrize("kind", [2, 3, 4, 5, 6])
def test_unknown_signing_key(kind: int) -> None:
    with pytest.raises(Malformed, match="key flags"):
        Report.from_bytes(changed(0x48, bytes((kind << 2,))))


@pytest.mark.parametrize("algorithm", [0, 2, 1 << 31])
def test_unknown_signature_algorithm(algorithm: int) -> None:
    with pytest.raises(Malformed, match="SIGNATURE_ALGO"):
        Report.from_bytes(changed(0x34, algorithm.to_bytes(4, "little")))


@given(st.binary(min_size=REPORT_SIZE, max_size=REPORT_SIZE) | st.binary(max_size=64))
def test_anything_else_is_malformed(data: bytes) -> None:
    with pytest.raises(Malformed):
        Report.from_bytes(data)


@given(st.integers(0, REPORT_SIZE - 1), st.integers(0, 255), st.sampled_from([2, 3, 4, 5]))
def test_what_parses_re_encodes(offset: int, value: int, version: int) -> None:
    data = changed(offset, bytes((value,)), REPORTS[version])
    try:
        report = Report.from_bytes(data)
    except Malformed:
        return
    assert report.to_bytes() == data


@pytest.mark.parametrize(
    ("product", "data", "tcb"),
    [
        (Product.MILAN, "04000000000018db", Tcb(4, 0, 24, 219)),
        (Product.GENOA, "0a00000000001754", Tcb(10, 0, 23, 84)),
        (Product.TURIN, "0103020500000061", Tcb(3, 2, 5, 97, fmc=1)),
    ],
)
def test_tcb_layouts(product: Product, data: str, tcb: Tcb) -> None:
    assert Tcb.from_bytes(bytes.fromhex(data), product) == tcb
    assert tcb.to_bytes().hex() == data


@pytest.mark.parametrize(
    ("product", "data"),
    [
        (Product.MILAN, "04000100000018db"),
        (Product.GENOA, "0103020500000061"),
        (Product.TURIN, "04000000000018db"),
        (Product.MILAN, "040000000000"),
        (Product.MILAN, "04000000000018db00"),
    ],
)
def test_tcb_of_another_form(product: Product, data: str) -> None:
    with pytest.raises(Malformed):
        Tcb.from_bytes(bytes.fromhex(data), product)


def test_tcb_order_is_by_component() -> None:
    minimum = Tcb(4, 0, 24, 219)
    assert minimum.at_least(minimum)
    assert Tcb(5, 1, 25, 220).at_least(minimum)
    for lower in (Tcb(3, 9, 99, 255), Tcb(9, 0, 23, 255), Tcb(9, 0, 99, 218)):
        assert not lower.at_least(minimum)
    assert not Tcb(4, 0, 24, 219).at_least(Tcb(4, 1, 24, 219))
    assert not Tcb(9, 9, 99, 255, fmc=9).at_least(minimum)
    assert not Tcb(9, 9, 99, 255).at_least(Tcb(0, 0, 0, 0, fmc=0))
    assert not Tcb(9, 9, 99, 255, fmc=0).at_least(Tcb(0, 0, 0, 0, fmc=1))


@pytest.mark.parametrize(
    ("family", "model", "product"),
    [
        (0x19, 0x00, Product.MILAN),
        (0x19, 0x0F, Product.MILAN),
        (0x19, 0x10, Product.GENOA),
        (0x19, 0x1F, Product.GENOA),
        (0x19, 0x20, None),
        (0x19, 0x9F, None),
        (0x19, 0xA0, Product.GENOA),
        (0x19, 0xAF, Product.GENOA),
        (0x19, 0xB0, None),
        (0x1A, 0x00, Product.TURIN),
        (0x1A, 0x11, Product.TURIN),
        (0x1A, 0x12, None),
        (0x17, 0x01, None),
        (0, 0, None),
    ],
)
def test_product_of_a_processor(family: int, model: int, product: Product | None) -> None:
    assert Cpuid(family, model, 0).product is product
