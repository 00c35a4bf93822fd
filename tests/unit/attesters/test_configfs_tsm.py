"""Evidence from the kernel's interface, which a file system in user space stands in for."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from garrison.attesters.configfs_tsm import ConfigfsTsm, present
from garrison.attesters.simulated_snp_insecure import SimulatedSnpInsecure, create_insecure
from garrison.errors import Misuse, Unavailable
from garrison.formats.dcap_quote import Quote
from garrison.formats.evidence import SNP_MEDIA_TYPE, TDX_MEDIA_TYPE, Tee
from garrison.formats.snp import Report
from garrison.formats.snp_evidence import SnpEvidence
from garrison.testing.fuse import mountable, mounted

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

DATA = bytes(range(64))


pytestmark = pytest.mark.skipif(not mountable(), reason="needs libfuse and /dev/fuse")


@pytest.fixture(scope="module")
def simulator(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("simulator") / "vendor"
    create_insecure(directory, name="test")
    return directory


@contextmanager
def _mounted(simulator: Path, tmp_path: Path, *fault: str) -> Iterator[Path]:
    with mounted(tmp_path / "report", "tsm", str(simulator), *fault) as root:
        yield root
        assert list(root.iterdir()) == [], "a request was left"


def test_the_report_is_bound_and_has_its_certificates(simulator: Path, tmp_path: Path) -> None:
    with _mounted(simulator, tmp_path) as root:
        assert present(root)
        attester = ConfigfsTsm.open(root)
        evidence = attester.attest(DATA)
    assert (attester.tee, attester.curve) == (Tee.SNP, "P-384")
    assert evidence.media_type == SNP_MEDIA_TYPE
    snp = SnpEvidence.from_bytes(evidence.payload)
    assert Report.from_bytes(snp.report).report_data == DATA
    assert snp.certificates == SimulatedSnpInsecure.open(simulator).certificates


def test_a_quote_of_a_td_is_bound(simulator: Path, tmp_path: Path) -> None:
    with _mounted(simulator, tmp_path, "tdx") as root:
        attester = ConfigfsTsm.open(root)
        evidence = attester.attest(DATA)
    assert (attester.tee, attester.curve) == (Tee.TDX, "P-256")
    assert evidence.media_type == TDX_MEDIA_TYPE
    assert Quote.from_bytes(evidence.payload).body.report_data == DATA


def test_a_td_whose_host_quotes_nothing_has_no_evidence(simulator: Path, tmp_path: Path) -> None:
    with (
        _mounted(simulator, tmp_path, "tdx-no-quote") as root,
        pytest.raises(Unavailable, match=r"outblob.*no report"),
    ):
        ConfigfsTsm.open(root).attest(DATA)


def test_a_busy_firmware_is_asked_again(simulator: Path, tmp_path: Path) -> None:
    with _mounted(simulator, tmp_path, "busy") as root:
        snp = SnpEvidence.from_bytes(ConfigfsTsm.open(root).attest(DATA).payload)
    assert Report.from_bytes(snp.report).report_data == DATA


@pytest.mark.parametrize("fault", ["no-table", "bad-table"])
def test_what_the_host_adds_is_no_more_than_help(
    simulator: Path, tmp_path: Path, fault: str
) -> None:
    with _mounted(simulator, tmp_path, fault) as root:
        snp = SnpEvidence.from_bytes(ConfigfsTsm.open(root).attest(DATA).payload)
    assert snp.certificates == ()


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("second-writer", "somebody else wrote to our request"),
        ("failing", "the kernel gives no evidence"),
    ],
)
def test_no_evidence_is_better_than_another_s(
    simulator: Path, tmp_path: Path, fault: str, said: str
) -> None:
    with _mounted(simulator, tmp_path, fault) as root:
        attester = ConfigfsTsm.open(root)
        with pytest.raises(Unavailable, match=said):
            attester.attest(DATA)


def test_another_tee_is_refused_by_name(simulator: Path, tmp_path: Path) -> None:
    with (
        _mounted(simulator, tmp_path, "other-provider") as root,
        pytest.raises(Misuse, match="found other_guest"),
    ):
        ConfigfsTsm.open(root)


def test_a_machine_without_it_is_no_guest(tmp_path: Path) -> None:
    with pytest.raises(Misuse, match="this machine gives no evidence"):
        ConfigfsTsm.open(tmp_path / "none")


@pytest.mark.parametrize("size", [0, 63, 65])
def test_report_data_has_one_length(tmp_path: Path, size: int) -> None:
    with pytest.raises(Misuse, match="64 bytes"):
        ConfigfsTsm(tmp_path, Tee.SNP).attest(bytes(size))
