"""Evidence from devices, which stand-ins for the kernel's ioctls answer through real memory."""

from __future__ import annotations

import ctypes
import errno
import struct
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pytest

from garrison.attesters import azure_vtpm, detect, gramine, nsm, sev_guest, tdx_guest
from garrison.attesters.gramine import Gramine
from garrison.attesters.nsm import Nsm
from garrison.attesters.select import select
from garrison.attesters.sev_guest import SevGuest
from garrison.attesters.simulated_snp_insecure import SimulatedSnpInsecure, create_insecure
from garrison.attesters.tdx_guest import TdxGuest
from garrison.errors import Misuse, Unavailable
from garrison.formats._cbor import decode, encode
from garrison.formats.dcap_quote import Quote
from garrison.formats.evidence import SGX_MEDIA_TYPE, SNP_MEDIA_TYPE, TDX_MEDIA_TYPE
from garrison.formats.nitro import NITRO_MEDIA_TYPE, NitroDocument
from garrison.formats.snp import Report
from garrison.formats.snp_certificate_table import ARK, ASK, VCEK, CertificateTable
from garrison.formats.snp_evidence import SnpEvidence
from garrison.testing.dcap import FakeQuoter, sgx_report, td_report
from garrison.testing.nitro import FakeNitro

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

DATA = bytes(range(64))


@pytest.fixture(scope="module")
def vendor(tmp_path_factory: pytest.TempPathFactory) -> SimulatedSnpInsecure:
    directory = tmp_path_factory.mktemp("simulator") / "vendor"
    create_insecure(directory, name="test")
    return SimulatedSnpInsecure.open(directory)


@pytest.fixture
def device(tmp_path: Path) -> Path:
    path = tmp_path / "device"
    path.touch()
    return path


@dataclass
class SevDriver:
    """What drivers/virt/coco/sev-guest does with the two requests for a report."""

    vendor: SimulatedSnpInsecure
    table: bytes | None = None
    busy: int = 0
    status: int = 0
    fail: int = 0
    asked: list[int] = field(default_factory=list)

    def __call__(self, _descriptor: int, number: int, command: bytearray) -> int:
        self.asked.append(number)
        if self.busy:
            self.busy -= 1
            raise OSError(errno.EBUSY, "busy")
        version, request, response, _ = struct.unpack("<B7xQQQ", command)
        assert version == 1
        if self.fail or (number == 0xC0205302 and self.table is None):
            raise OSError(self.fail or errno.EIO, "no")
        data, vmpl = struct.unpack("<64sI28x", ctypes.string_at(request, 96))
        assert vmpl == 0
        if number == 0xC0205302:
            assert self.table is not None
            address, length = struct.unpack("<QI4x", ctypes.string_at(request + 96, 16))
            assert length % 4096 == 0
            assert len(self.table) <= length
            ctypes.memmove(address, self.table, len(self.table))
        else:
            assert number == 0xC0205300
        report = SnpEvidence.from_bytes(self.vendor.attest(data).payload).report
        answer = struct.pack("<II24x", self.status, len(report)) + report
        ctypes.memmove(response, answer, len(answer))
        return 0


def _table(vendor: SimulatedSnpInsecure) -> bytes:
    entries = zip((VCEK, ASK, ARK), vendor.certificates, strict=True)
    return CertificateTable(tuple(entries)).to_bytes()


def test_sev_guest_gives_a_bound_report_and_its_certificates(
    vendor: SimulatedSnpInsecure, device: Path
) -> None:
    driver = SevDriver(vendor, _table(vendor), busy=1)
    evidence = SevGuest(device, driver).attest(DATA)
    assert evidence.media_type == SNP_MEDIA_TYPE
    snp = SnpEvidence.from_bytes(evidence.payload)
    assert Report.from_bytes(snp.report).report_data == DATA
    assert snp.certificates == vendor.certificates
    assert driver.asked == [0xC0205302, 0xC0205302]


@pytest.mark.parametrize("table", [None, b"\xff" * 200], ids=["refused", "rubbish"])
def test_sev_guest_does_without_the_host_s_certificates(
    vendor: SimulatedSnpInsecure, device: Path, table: bytes | None
) -> None:
    snp = SnpEvidence.from_bytes(SevGuest(device, SevDriver(vendor, table)).attest(DATA).payload)
    assert Report.from_bytes(snp.report).report_data == DATA
    assert snp.certificates == ()


def test_sev_guest_without_a_report_is_unavailable(
    vendor: SimulatedSnpInsecure, device: Path
) -> None:
    with pytest.raises(Unavailable, match="status 0x16"):
        SevGuest(device, SevDriver(vendor, _table(vendor), status=0x16)).attest(DATA)
    with pytest.raises(Unavailable, match="the kernel gives no evidence"):
        SevGuest(device, SevDriver(vendor, fail=errno.ENOTTY)).attest(DATA)
    with pytest.raises(Unavailable, match="No such file"):
        SevGuest(device.parent / "none", SevDriver(vendor)).attest(DATA)


def _tdx_driver(_descriptor: int, number: int, buffer: bytearray) -> int:
    """What drivers/virt/coco/tdx-guest does; the report is the data, sixteen times."""
    assert number == 0xC4405401
    assert len(buffer) == 64 + 1024
    buffer[64:] = bytes(buffer[:64]) * 16
    return 0


def _service(
    change: Callable[[bytes], bytes] = lambda answer: answer, *, error: int = 0
) -> Callable[[bytes], bytes]:
    """The quote generation service."""

    def exchange(message: bytes) -> bytes:
        major, minor, kind, size, code = struct.unpack_from("<HHIII", message)
        assert (major, minor, kind, size, code) == (1, 0, 0, len(message), 0)
        report_size, ids = struct.unpack_from("<II", message, 16)
        assert (report_size, ids, len(message)) == (1024, 0, 24 + 1024)
        quote = FakeQuoter().quote(td_report(report_data=message[24 : 24 + 64]), 4)
        content = struct.pack("<II", 16, len(quote)) + bytes(16) + quote
        return change(struct.pack("<HHIII", 1, 0, 1, 16 + len(content), error) + content)

    return exchange


def test_tdx_guest_has_its_report_quoted(device: Path) -> None:
    evidence = TdxGuest(device, _tdx_driver, _service()).attest(DATA)
    assert evidence.media_type == TDX_MEDIA_TYPE
    assert Quote.from_bytes(evidence.payload).body.report_data == DATA


def test_tdx_guest_believes_no_wrong_answer(device: Path) -> None:
    changes: list[Callable[[bytes], bytes]] = [
        lambda _: b"",
        lambda answer: answer[:23],
        lambda answer: answer[:-1],
        lambda answer: answer + b"\0",
        lambda answer: b"\x02" + answer[1:],
        lambda answer: answer[:16] + b"\xff" * 8 + answer[24:],
        # A quote that is none, in a message that is one.
        lambda answer: answer[:40] + bytes(len(answer) - 40),
    ]
    for change in changes:
        with pytest.raises(Unavailable, match="quote generation service"):
            TdxGuest(device, _tdx_driver, _service(change)).attest(DATA)
    with pytest.raises(Unavailable, match="error 0x12001"):
        TdxGuest(device, _tdx_driver, _service(error=0x12001)).attest(DATA)

    def silent(_message: bytes) -> bytes:
        raise OSError(errno.ECONNREFUSED, "Connection refused")

    with pytest.raises(Unavailable, match="Connection refused"):
        TdxGuest(device, _tdx_driver, silent).attest(DATA)


@dataclass
class GramineFiles:
    """The files of Gramine: what is written to one is in the other."""

    kind: bytes = b"dcap"
    written: bytes = b""
    quote: bytes | None = None

    def read(self, path: Path) -> bytes:
        if path.name == "attestation_type":
            return self.kind
        assert path.name == "quote"
        if len(self.written) != 64:
            raise OSError(errno.EINVAL, "Invalid argument")
        return self.quote or FakeQuoter().quote(sgx_report(report_data=self.written), 3)

    def write(self, path: Path, data: bytes) -> None:
        assert path.name == "user_report_data"
        self.written = data


def test_gramine_quotes_what_was_written(tmp_path: Path) -> None:
    files = GramineFiles()
    opened = Gramine.open(tmp_path, files.read)
    evidence = Gramine(opened.root, files.read, files.write).attest(DATA)
    assert evidence.media_type == SGX_MEDIA_TYPE
    assert Quote.from_bytes(evidence.payload).body.report_data == DATA
    files.quote = b"no quote"
    with pytest.raises(Unavailable, match="no report"):
        Gramine(tmp_path, files.read, files.write).attest(DATA)


def test_gramine_writes_a_file_at_once(tmp_path: Path) -> None:
    (tmp_path / "user_report_data").write_bytes(bytes(64))
    gramine.write_at_once(tmp_path / "user_report_data", DATA)
    assert (tmp_path / "user_report_data").read_bytes() == DATA
    with pytest.raises(OSError, match="No such file"):
        gramine.write_at_once(tmp_path / "none", DATA)


@pytest.mark.parametrize("kind", [b"none", b"epid", b""])
def test_gramine_without_dcap_is_refused(tmp_path: Path, kind: bytes) -> None:
    with pytest.raises(Misuse, match="expected dcap"):
        Gramine.open(tmp_path, GramineFiles(kind).read)


def _nsm_driver(answer: Callable[[bytes], bytes]) -> Callable[[int, int, bytearray], int]:
    """What drivers/misc/nsm does: one message there, one back, and how long it is."""

    def driver(_descriptor: int, number: int, command: bytearray) -> int:
        assert number == 0xC0200A00
        request, request_size, response, room = struct.unpack("<QQQQ", command)
        data = answer(ctypes.string_at(request, request_size))
        assert len(data) <= room
        ctypes.memmove(response, data, len(data))
        command[:] = struct.pack("<QQQQ", request, request_size, response, len(data))
        return 0

    return driver


def _document(request: bytes) -> bytes:
    asked = decode(request, "request", 4096)
    assert set(asked) == {"Attestation"}
    document = FakeNitro().document(user_data=asked["Attestation"]["user_data"])
    return encode({"Attestation": {"document": document}})


def test_nsm_signs_what_was_asked(device: Path) -> None:
    evidence = Nsm(device, _nsm_driver(_document)).attest(DATA)
    assert evidence.media_type == NITRO_MEDIA_TYPE
    assert NitroDocument.from_bytes(evidence.payload).user_data == DATA


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (encode({"Error": "InputTooLarge"}), "InputTooLarge"),
        (encode({"Attestation": {"document": b"none"}}), "gives no document"),
        (encode({"Attestation": {}}), "something else"),
        (b"", "gives no document"),
        (b"\xff" * 100, "gives no document"),
    ],
    ids=["error", "no document", "nothing inside", "empty", "rubbish"],
)
def test_nsm_without_a_document_is_unavailable(device: Path, answer: bytes, said: str) -> None:
    with pytest.raises(Unavailable, match=said):
        Nsm(device, _nsm_driver(lambda _: answer)).attest(DATA)


@pytest.mark.parametrize("size", [0, 63, 65])
def test_report_data_has_one_length_everywhere(device: Path, size: int) -> None:
    for attester in (SevGuest(device), TdxGuest(device), Gramine(device), Nsm(device)):
        with pytest.raises(Misuse, match="64 bytes"):
            attester.attest(bytes(size))


def test_the_order_of_detection_is_the_one_that_is_written_down(tmp_path: Path) -> None:
    tag = tmp_path / "sys/class/dmi/id/chassis_asset_tag"
    tag.parent.mkdir(parents=True)
    tag.write_text("7783-7084-3265-9085-8269-3286-77\n")
    for index, (kind, path) in reversed(list(enumerate(detect.ORDER))):
        (tmp_path / path.relative_to("/")).mkdir(parents=True)
        assert detect.present(tmp_path) == kind, index
    assert detect.__doc__ is not None
    places = dict(detect.ORDER)
    assert places["gramine"] == gramine.ROOT
    assert places["azure-vtpm"] == azure_vtpm.DEVICE
    assert places["nsm"] == nsm.DEVICE
    assert places["sev-guest"] == sev_guest.DEVICE
    assert places["tdx-guest"] == tdx_guest.DEVICE
    assert set(places) == set(detect.OPENERS)


def test_a_machine_outside_of_any_tee_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Misuse, match="gives no evidence"):
        detect.present(tmp_path)
    for kind in detect.OPENERS:
        if not dict(detect.ORDER)[kind].exists() and kind != "azure-vtpm":
            with pytest.raises(Misuse, match="gives no evidence"):
                select({"kind": kind})
    with pytest.raises(Misuse, match="unknown attester"):
        select({"kind": "detect", "more": "x"})
