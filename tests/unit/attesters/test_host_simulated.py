"""Evidence that the host simulates, over a channel: and hosts that do not answer as they should."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

import pytest

from garrison.attesters import host_simulated_insecure
from garrison.attesters.host_simulated_insecure import HostSimulatedInsecure
from garrison.attesters.select import select
from garrison.errors import Malformed, Misuse, Unavailable
from garrison.formats.channel import MAX_EVIDENCE, Frame, Kind
from garrison.formats.evidence import SNP_MEDIA_TYPE, Evidence, Tee

if TYPE_CHECKING:
    from collections.abc import Iterator

DATA = bytes(range(64))


@pytest.fixture
def ends() -> Iterator[tuple[HostSimulatedInsecure, socket.socket]]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.settimeout(0)
        theirs.settimeout(5)
        yield HostSimulatedInsecure(Tee.SNP, ours.fileno(), seconds=0.3), theirs


def test_report_data_goes_out_and_evidence_comes_in(
    ends: tuple[HostSimulatedInsecure, socket.socket],
) -> None:
    attester, host = ends
    host.sendall(Frame(Kind.INSECURE_EVIDENCE, b"evidence").to_bytes())
    assert attester.attest(DATA) == Evidence(SNP_MEDIA_TYPE, b"evidence")
    assert host.recv(1024) == Frame(Kind.INSECURE_ASK, DATA).to_bytes()
    assert attester.curve == "P-384"


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (b"\xff" * 8, "not a frame"),
        (Frame(Kind.DATA, b"x").to_bytes(), "takes no such frame"),
        (b"G\x08\0\0" + (MAX_EVIDENCE + 1).to_bytes(4, "little"), "too long a frame"),
    ],
    ids=["garbage", "another frame", "too long"],
)
def test_anything_else_is_malformed(
    ends: tuple[HostSimulatedInsecure, socket.socket], answer: bytes, told: str
) -> None:
    attester, host = ends
    host.sendall(answer)
    with pytest.raises(Malformed, match=told):
        attester.attest(DATA)


def test_a_host_that_is_silent_or_gone_is_unavailable(
    ends: tuple[HostSimulatedInsecure, socket.socket],
) -> None:
    attester, host = ends
    host.sendall(Frame(Kind.INSECURE_EVIDENCE, b"evidence").to_bytes()[:9])
    with pytest.raises(Unavailable, match=r"does not answer; found nothing in 0 s"):
        attester.attest(DATA)
    host.close()
    with pytest.raises((Unavailable, BrokenPipeError)):
        attester.attest(DATA)
    with pytest.raises(Misuse, match="report data"):
        attester.attest(b"")


def test_it_is_chosen_by_name_and_says_that_it_is_insecure(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(
        host_simulated_insecure, "open_ports", lambda names: dict.fromkeys(names, 99)
    )
    chosen = select({"kind": "host-simulated-insecure", "tee": "tdx"})
    assert chosen.tee is Tee.TDX
    assert chosen.curve == "P-256"
    assert "INSECURE" in caplog.text
    with pytest.raises(Misuse, match="attester: tee: is not simulated; found cca"):
        select({"kind": "host-simulated-insecure", "tee": "cca"})
