"""The issuance log: every change to it is found, and nothing is answered without a line in it."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding
from tests.unit.steward.conftest import NOW, SLUG, FakeRegistry, Keep
from tests.unit.steward.test_steward_http import WORKLOAD, Answer, ask_app

from garrison.cli.steward import command
from garrison.errors import Malformed, Misuse, Unavailable, Unverified
from garrison.formats.csr import PKCS10_MEDIA_TYPE
from garrison.formats.identity import WORKLOAD_IDENTITY_OID, WorkloadIdentity
from garrison.steward.http import application
from garrison.steward.issuance_log import IssuanceLog, verify

if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import Future
    from pathlib import Path

    from garrison.steward.issuance import Steward

Lines = list[bytes]
SECONDS = 60.0


@pytest.fixture
def path(tmp_path: Path) -> Path:
    found = tmp_path / "issuance.log"
    log = IssuanceLog(found)
    for number in range(6):
        log.append(NOW, {"outcome": "issued", "serial": number, "measurement": b"\x01", "x": None})
    log.close()
    return found


def test_lines_are_chained_and_a_new_start_continues(path: Path) -> None:
    before = verify(path)
    log = IssuanceLog(path)
    log.append(NOW, {"outcome": "refused", "reasons": ["a", "b"], "claims": {"root": "AMD"}})
    log.close()
    entries = [json.loads(line) for line in path.read_text().splitlines()]
    assert [entry["seq"] for entry in entries] == list(range(7))
    assert entries[0]["previous"] == "0" * 64
    assert entries[0]["measurement"] == "01"
    assert entries[6]["previous"] == before.head
    assert entries[6]["claims"] == {"root": "AMD"}
    assert verify(path).lines == 7
    assert path.stat().st_mode & 0o777 == 0o600


def _change(lines: Lines) -> Lines:
    return [*lines[:2], lines[2].replace(b'"serial":2', b'"serial":9'), *lines[3:]]


@pytest.mark.parametrize(
    ("attack", "line"),
    [
        (_change, 4),
        (lambda lines: [*lines[:2], *lines[3:]], 3),
        (lambda lines: lines[1:], 1),
        (lambda lines: [*lines[:2], lines[3], lines[2], *lines[4:]], 3),
        (lambda lines: [*lines[:3], lines[2], *lines[3:]], 4),
    ],
    ids=["changed", "removed", "beheaded", "moved", "repeated"],
)
def test_tampering_is_found_and_named(
    path: Path, attack: Callable[[Lines], Lines], line: int
) -> None:
    path.write_bytes(b"".join(attack(path.read_bytes().splitlines(keepends=True))))
    with pytest.raises(Unverified, match="the chain is broken") as caught:
        verify(path)
    assert caught.value.field == f"{path}:{line}"
    with pytest.raises(Unverified):
        IssuanceLog(path)


@pytest.mark.parametrize(
    "tail", [b'{"seq":6', b"\n", b"[]\n", b'{"a": 1}\n', b"\xff\n", b"x" * 70000 + b"\n"]
)
def test_what_is_no_line_is_named(path: Path, tail: bytes) -> None:
    path.write_bytes(path.read_bytes() + tail)
    with pytest.raises(Malformed) as caught:
        verify(path)
    assert caught.value.field == f"{path}:7"


def test_an_end_cut_off_or_written_anew_shows_against_a_kept_head(path: Path) -> None:
    head = verify(path).head
    assert verify(path, expected_head=head).lines == 6
    # What only grew since is as it was.
    log = IssuanceLog(path)
    log.append(NOW, {"outcome": "issued", "serial": 6})
    log.close()
    assert verify(path, expected_head=head).lines == 7
    assert verify(path, expected_head="0" * 64).lines == 7
    # Without a head, neither of these would show.
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:5]))
    assert verify(path).lines == 5
    with pytest.raises(Unverified, match="cut off, or written anew") as caught:
        verify(path, expected_head=head)
    assert caught.value.expected == head
    log = IssuanceLog(path)
    log.append(NOW, {"outcome": "issued", "serial": 99})
    log.close()
    assert verify(path).lines == 6
    with pytest.raises(Unverified, match="cut off, or written anew"):
        verify(path, expected_head=head)


def test_the_command_looks_for_a_head(path: Path) -> None:
    head = verify(path).head
    good = CliRunner().invoke(command, ["log", "verify", str(path), "--expect-head", head])
    assert (good.exit_code, head in good.output) == (0, True)
    lost = CliRunner().invoke(command, ["log", "verify", str(path), "--expect-head", "1" * 64])
    assert isinstance(lost.exception, Unverified)
    none = CliRunner().invoke(command, ["log", "verify", str(path), "--expect-head", "1"])
    assert isinstance(none.exception, Misuse)


def test_a_log_has_one_writer(path: Path) -> None:
    log = IssuanceLog(path)
    with pytest.raises(Misuse, match="another steward writes to it"):
        IssuanceLog(path)
    log.close()
    IssuanceLog(path).close()


def test_it_must_be_there_to_be_verified(tmp_path: Path) -> None:
    with pytest.raises(Misuse):
        verify(tmp_path / "none.log")
    with pytest.raises(Misuse):
        IssuanceLog(tmp_path / "none" / "issuance.log")


def test_a_failed_write_ends_all_issuance(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = IssuanceLog(path)

    def full(_file: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        with pytest.raises(Unavailable, match="No space left"):
            log.append(NOW, {})
    # The disk has room again; what is in the file is for a person to say.
    with pytest.raises(Unavailable, match="an earlier write failed"):
        log.append(NOW, {})
    log.close()


class _Slow:
    """In place of fsync(2): the first ends when it is told to, and those after it may fail."""

    def __init__(self, error: OSError | None = None) -> None:
        self.may_end = threading.Event()
        self.error = error
        self.count = 0

    def fsync(self, _file: int) -> None:
        self.count += 1
        if self.count == 1:
            assert self.may_end.wait(SECONDS)
        elif self.error is not None:
            raise self.error


def _append_while_one_is_flushed(
    log: IssuanceLog, path: Path, slow: _Slow
) -> tuple[Future[None], list[Future[None]]]:
    """One line whose flush takes long, and ten that are written meanwhile."""
    with ThreadPoolExecutor(11) as threads:
        first = threads.submit(log.append, NOW, {"number": 0})
        end = time.monotonic() + SECONDS
        while not slow.count:
            assert time.monotonic() < end
            time.sleep(0.001)
        rest = [threads.submit(log.append, NOW, {"number": number}) for number in range(1, 11)]
        while path.read_bytes().count(b"\n") < 6 + 11:
            assert time.monotonic() < end
            time.sleep(0.001)
        # They are in the file, and nobody has been told so.
        assert not any(future.done() for future in (first, *rest))
        slow.may_end.set()
    return first, rest


def test_lines_are_written_while_others_are_flushed(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log, slow = IssuanceLog(path), _Slow()
    monkeypatch.setattr(os, "fsync", slow.fsync)
    first, rest = _append_while_one_is_flushed(log, path, slow)
    for future in (first, *rest):
        future.result()
    log.close()
    assert slow.count < 11
    assert verify(path).lines == 6 + 11


def test_a_failed_flush_refuses_all_that_it_was_for(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log, slow = IssuanceLog(path), _Slow(OSError(errno.EIO, "Input/output error"))
    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", slow.fsync)
        first, rest = _append_while_one_is_flushed(log, path, slow)
    first.result()
    for future in rest:
        with pytest.raises(Unavailable, match="cannot be written"):
            future.result()
    # One of them was told by the kernel, and nobody asks it again.
    assert slow.count == 2
    with pytest.raises(Unavailable, match="an earlier write failed"):
        log.append(NOW, {})
    log.close()


def test_a_failed_flush_of_one_process_ends_the_issuance_of_all(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = IssuanceLog(path)

    def fail(_file: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", fail)
        child = _append_in_a_process(log, 0, 1)
    assert _codes([child]) == [7]
    with pytest.raises(Unavailable, match="an earlier write failed"):
        log.append(NOW, {})
    log.close()


def _append_in_a_process(log: IssuanceLog, who: int, count: int) -> int:
    child = os.fork()
    if child == 0:
        code = 1
        try:
            for number in range(count):
                log.append(NOW, {"outcome": "issued", "who": who, "number": number})
            code = 0
        except Unavailable:
            code = 7
        finally:
            os._exit(code)
    return child


def _codes(children: list[int]) -> list[int]:
    return [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]


def test_processes_of_one_steward_share_a_chain(path: Path) -> None:
    log = IssuanceLog(path)
    assert _codes([_append_in_a_process(log, who, 25) for who in range(4)]) == [0] * 4
    log.append(NOW, {"outcome": "issued", "who": 4})
    log.close()
    assert verify(path).lines == 6 + 4 * 25 + 1
    entries = [json.loads(line) for line in path.read_text().splitlines()[6:-1]]
    for who in range(4):
        assert [e["number"] for e in entries if e["who"] == who] == list(range(25))


@pytest.mark.parametrize("damage", ["partial", "cut", "forged"])
def test_damage_by_one_process_ends_the_issuance_of_all(path: Path, damage: str) -> None:
    """A process that was killed within a write; a file that somebody changed."""
    log = IssuanceLog(path)
    whole = path.read_bytes()
    with path.open("ab") as file:
        if damage == "partial":
            file.write(b'{"seq":6,"prev')
        elif damage == "forged":
            file.write(whole.splitlines(keepends=True)[3])
        else:
            file.truncate(len(whole) - 10)
    assert _codes([_append_in_a_process(log, 0, 1)]) == [7]
    path.write_bytes(whole)
    with pytest.raises(Unavailable, match="an earlier write failed"):
        log.append(NOW, {})
    log.close()


def test_the_command(path: Path) -> None:
    done = CliRunner().invoke(command, ["log", "verify", str(path)])
    assert done.exit_code == 0
    assert done.stdout.strip() == verify(path).head
    path.write_bytes(path.read_bytes().replace(b'"serial":0', b'"serial":7'))
    done = CliRunner().invoke(command, ["log", "verify", str(path)])
    assert isinstance(done.exception, Unverified)


def certify(steward: Steward, log: IssuanceLog, body: bytes) -> Answer:
    app = application(steward, FakeRegistry(), clock=lambda: NOW, issuance_log=log)
    return asyncio.run(ask_app(app, "POST", "/", {"Content-Type": PKCS10_MEDIA_TYPE}, body))


def test_each_decision_is_a_line(steward: Steward, keep: Keep, path: Path) -> None:
    log = IssuanceLog(path)
    assert certify(steward, log, keep.request(steward, WORKLOAD)).status == 200
    assert certify(steward, log, b"garbage").status == 400
    log.close()
    *_, issued, refused = (json.loads(line) for line in path.read_text().splitlines())
    assert issued["outcome"] == "issued"
    assert issued["slug"] == str(SLUG)
    assert issued["claims"] == {"chip_id": "ab" * 64}
    assert issued["time"] == NOW.isoformat()
    assert len(issued["serial"]) == 32
    assert refused["outcome"] == "refused"
    assert "certificate request" in refused["reasons"][0]
    assert verify(path).lines == 8


def test_no_request_can_write_a_line_that_is_never_read_again(steward: Steward, path: Path) -> None:
    """Who needs no evidence for it could keep a steward from its next start."""
    claim = WorkloadIdentity(None, None, tee="\u00e9" * 40_000).to_der()
    extension = x509.UnrecognizedExtension(WORKLOAD_IDENTITY_OID, claim)
    request = (
        x509.CertificateSigningRequestBuilder()
        .subject_name(x509.Name([]))
        .add_extension(extension, critical=False)
        .sign(Keep().key, hashes.SHA384())
        .public_bytes(Encoding.DER)
    )
    log = IssuanceLog(path)
    assert certify(steward, log, request).status == 400
    # As many reasons as there are, each with all the reference values of a large policy.
    log.append(NOW, {"reasons": ["ab" * 48 * 500] * 50, "measurement": b"m" * 48})
    log.close()
    assert verify(path).lines == 8
    IssuanceLog(path).close()
    *_, refused, long = (json.loads(line) for line in path.read_text().splitlines())
    assert refused["reasons"][0].startswith("certificate request: WorkloadIdentity claims")
    # Nor does it fill the disk any sooner than a short one.
    assert len(refused["reasons"][0]) == 2000
    assert long["measurement"] == (b"m" * 48).hex()
    assert long["reasons"][0].endswith("... (48000 characters)")
    assert long["reasons"][-1] == "... (50 of them)"


def test_without_a_line_there_is_no_certificate(
    steward: Steward, keep: Keep, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = IssuanceLog(path)
    monkeypatch.setattr(os, "write", lambda _file, _data: 1)
    for body in (keep.request(steward, WORKLOAD), b"garbage"):
        answer = certify(steward, log, body)
        assert (answer.status, answer.body) == (503, b"")
    log.close()
