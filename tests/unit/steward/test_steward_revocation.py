"""Revocation by hand: a file that is whole, lists that hold it, and none where it is damaged."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner
from cryptography import x509
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.steward.conftest import NOW, FakeRegistry
from tests.unit.steward.test_steward_http import PROBLEM, Answer, ask_app

from garrison.cli.steward import command
from garrison.errors import Malformed, Misuse
from garrison.steward.authority import Authority
from garrison.steward.deny import Deny
from garrison.steward.http import application
from garrison.steward.keys import load_certificate
from garrison.steward.revocation import (
    FILE,
    Reason,
    Revocation,
    from_bytes,
    load,
    revoke,
    to_bytes,
)

if TYPE_CHECKING:
    from pathlib import Path

    from garrison.steward.issuance import Steward

END = NOW + timedelta(hours=1)


def entry(serial: int, reason: Reason = Reason.UNSPECIFIED) -> Revocation:
    return Revocation(serial, NOW, END, reason)


def crl(steward: Steward, directory: Path, denied: tuple[int, ...] = ()) -> Answer:
    policy = replace(steward.policy, deny=Deny(serials=denied))
    there = replace(steward, directory=directory, policy=policy)
    app = application(there, FakeRegistry(), clock=lambda: NOW)
    return asyncio.run(ask_app(app, "GET", "/crl", {"Accept": PROBLEM}, b""))


def test_list_tells_when_and_why(steward: Steward, tmp_path: Path) -> None:
    assert len(list(x509.load_der_x509_crl(crl(steward, tmp_path).body))) == 0
    for number, reason in enumerate(Reason, start=1):
        revoke(tmp_path, entry(number, reason), NOW)
    found = x509.load_der_x509_crl(crl(steward, tmp_path, denied=(2, 99)).body)
    by_serial = {item.serial_number: item for item in found}
    assert sorted(by_serial) == [1, 2, 3, 4, 5, 99]
    assert by_serial[1].revocation_date_utc == NOW
    assert len(by_serial[1].extensions) == 0
    superseded = by_serial[3].extensions.get_extension_for_class(x509.CRLReason).value
    assert superseded.reason is x509.ReasonFlags.superseded
    # What the policy denies was never good.
    first = steward.authority.certificate.not_valid_before_utc
    assert by_serial[2].revocation_date_utc == by_serial[99].revocation_date_utc == first


def test_entry_goes_a_day_after_the_certificate(tmp_path: Path) -> None:
    revoke(tmp_path, entry(1), NOW)
    assert load(tmp_path, END + timedelta(days=1)) == (entry(1),)
    later = END + timedelta(days=1, seconds=1)
    assert load(tmp_path, later) == ()
    second = Revocation(2, later, later, Reason.SUPERSEDED)
    revoke(tmp_path, second, later)
    assert from_bytes((tmp_path / FILE).read_bytes(), "file") == (second,)


def test_twice_is_misuse(tmp_path: Path) -> None:
    revoke(tmp_path, entry(1), NOW)
    with pytest.raises(Misuse, match="revoked already"):
        revoke(tmp_path, entry(1), NOW)


@pytest.mark.parametrize("content", [b"", b"{}", b'{"revoked": [1]}', b'{"revoked": []} '])
def test_damaged_file_gives_no_list(steward: Steward, tmp_path: Path, content: bytes) -> None:
    (tmp_path / FILE).write_bytes(content)
    answer = crl(steward, tmp_path)
    assert answer.status == 503
    with pytest.raises(Malformed):
        revoke(tmp_path, entry(1), NOW)
    assert (tmp_path / FILE).read_bytes() == content


@pytest.mark.parametrize("serial", [0, -1, 1 << 159, 1 << 160])
def test_no_certificate_has_such_a_number(serial: int) -> None:
    with pytest.raises(Malformed):
        entry(serial)


def test_commands_at_once_lose_nothing(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda number: revoke(tmp_path, entry(number), NOW), range(1, 33)))
    assert {item.serial for item in load(tmp_path, NOW)} == set(range(1, 33))


@given(st.binary(max_size=200))
def test_no_input_gives_another_error(data: bytes) -> None:
    with pytest.raises(Malformed):
        from_bytes(data, "file")


@given(
    st.lists(
        st.builds(
            Revocation,
            serial=st.integers(1, (1 << 159) - 1),
            at=st.just(NOW),
            until=st.just(END),
            reason=st.sampled_from(Reason),
        ),
        unique_by=lambda item: item.serial,
        max_size=5,
    )
)
def test_round_trip(revocations: list[Revocation]) -> None:
    data = to_bytes(tuple(revocations))
    assert from_bytes(data, "file") == tuple(revocations)


def test_command(tmp_path: Path) -> None:
    def run(*arguments: str) -> BaseException | None:
        return CliRunner().invoke(command, arguments).exception

    home = tmp_path / "steward"
    assert run("init", str(home), "--trust-domain", "example.test") is None
    assert run("revoke", str(home), "0a:0B", "--reason", "key-compromise") is None
    leaf = load_certificate(home / "server.pem")
    assert run("revoke", str(home), "--certificate", str(home / "server.pem")) is None
    first, second = from_bytes((home / FILE).read_bytes(), "file")
    assert (first.serial, first.reason) == (0x0A0B, Reason.KEY_COMPROMISE)
    assert first.until == Authority.load(home).certificate.not_valid_after_utc
    assert (second.serial, second.until) == (leaf.serial_number, leaf.not_valid_after_utc)
    for wrong in ([], ["0x1"], ["-1"], ["1_0"], ["ab" * 21]):
        assert isinstance(run("revoke", str(home), "--", *wrong), Misuse)
    assert isinstance(run("revoke", str(home), "0"), Malformed)
