"""The simulated TDX, SGX and Nitro: directories, what they refuse, and that nobody believes them.

That the true verifiers and a steward take their evidence where the policy names the root is in
`tests/unit/measure/test_measured_policies.py`.
"""

from __future__ import annotations

import json
import logging
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from garrison.attesters.select import select
from garrison.attesters.simulated_insecure import (
    KINDS,
    TEES,
    create_insecure,
    kind_of,
    open_insecure,
    parse_simulator,
    process_registers,
    root_key_sha256,
)
from garrison.attesters.simulated_nitro_insecure import SimulatedNitroInsecure
from garrison.attesters.simulator_directory_insecure import process_measurement, write_key
from garrison.errors import Malformed, Misuse, Unverified
from garrison.formats.dcap_bundle import read_bundle, write_bundle
from garrison.formats.dcap_quote import Quote, TeeType
from garrison.formats.evidence import Tee
from garrison.formats.nitro import NitroDocument
from garrison.formats.sgx_report import SgxReport
from garrison.formats.tdx_report import TdReport
from garrison.testing.dcap import FakeIntel
from garrison.verification import dcap, nitro
from garrison.verification.roots import Roots

if TYPE_CHECKING:
    from pathlib import Path

BOUND = bytes(range(64))
OTHERS = tuple(tee for tee in TEES if tee is not Tee.SNP)
_KEYS = {Tee.TDX: "pck", Tee.SGX: "pck", Tee.NITRO: "instance"}
_FILES = {
    Tee.TDX: {"root.der", "pck.pem", "pck.key", "collateral.json", "simulator.json"},
    Tee.SGX: {"root.der", "pck.pem", "pck.key", "collateral.json", "simulator.json"},
    Tee.NITRO: {"root.der", "zone.der", "instance.der", "instance.key", "simulator.json"},
}


@pytest.fixture(scope="module")
def simulators(tmp_path_factory: pytest.TempPathFactory) -> dict[Tee, Path]:
    home = tmp_path_factory.mktemp("simulators")
    for tee in OTHERS:
        create_insecure(tee, home / tee, name="unit")
    return {tee: home / tee for tee in OTHERS}


def payload(tee: Tee, directory: Path, measured: dict[str, bytes] | None = None) -> bytes:
    evidence = open_insecure(tee, directory, measured).attest(BOUND)
    assert evidence is not None
    return evidence.payload


@pytest.mark.parametrize("tee", OTHERS)
def test_files_and_their_modes(simulators: dict[Tee, Path], tee: Tee) -> None:
    directory = simulators[tee]
    modes = {path.name: path.stat().st_mode & 0o777 for path in directory.iterdir()}
    assert modes.keys() == _FILES[tee]
    assert modes[f"{_KEYS[tee]}.key"] == 0o600


@pytest.mark.parametrize("tee", OTHERS)
def test_the_names_say_that_it_is_insecure(simulators: dict[Tee, Path], tee: Tee) -> None:
    directory = simulators[tee]
    certificates = [
        x509.load_der_x509_certificate(path.read_bytes()) for path in directory.glob("*.der")
    ]
    if tee is not Tee.NITRO:
        certificates += x509.load_pem_x509_certificates((directory / "pck.pem").read_bytes())
    assert len(certificates) in {3, 4}
    for each in certificates:
        assert "O=Garrison INSECURE simulator unit" in each.subject.rfc4514_string()
        assert each.not_valid_before_utc < datetime.now(UTC)
        assert each.not_valid_after_utc > datetime.now(UTC) + timedelta(days=3000)
    assert "INSECURE" in json.loads((directory / "simulator.json").read_text())["warning"]


def test_quotes_and_documents_have_the_real_forms(simulators: dict[Tee, Path]) -> None:
    tdx = Quote.from_bytes(payload(Tee.TDX, simulators[Tee.TDX]))
    assert (tdx.header.version, tdx.header.tee) == (4, TeeType.TDX)
    assert isinstance(tdx.body, TdReport)
    assert (tdx.body.mr_td, tdx.body.rtmrs[3]) == (process_measurement(), bytes(48))
    sgx = Quote.from_bytes(payload(Tee.SGX, simulators[Tee.SGX]))
    assert (sgx.header.version, sgx.header.tee) == (3, TeeType.SGX)
    assert isinstance(sgx.body, SgxReport)
    assert sgx.body.mr_enclave == process_measurement()[:32]
    document = NitroDocument.from_bytes(payload(Tee.NITRO, simulators[Tee.NITRO]))
    assert document.user_data == BOUND
    assert (document.pcrs[0], document.pcrs[3]) == (process_measurement(), bytes(48))
    assert (document.nonce, document.public_key, len(document.pcrs)) == (None, None, 16)


@pytest.mark.parametrize("tee", OTHERS)
def test_nobody_believes_it_without_naming_its_root(simulators: dict[Tee, Path], tee: Tee) -> None:
    evidence = payload(tee, simulators[tee])
    verify = nitro.verify if tee is Tee.NITRO else dcap.verify_quote_chain
    with pytest.raises(Unverified, match="not a trusted root; found CN="):
        verify(evidence, Roots.load(), datetime.now(UTC))


@pytest.mark.parametrize("tee", OTHERS)
def test_evidence_is_fresh_each_time(simulators: dict[Tee, Path], tee: Tee) -> None:
    assert payload(tee, simulators[tee]) != payload(tee, simulators[tee])


def test_a_documents_certificate_ends_after_three_hours(simulators: dict[Tee, Path]) -> None:
    attester = open_insecure(Tee.NITRO, simulators[Tee.NITRO])
    assert isinstance(attester, SimulatedNitroInsecure)
    roots = Roots.load({"unit": root_key_sha256(Tee.NITRO, simulators[Tee.NITRO])})
    now = datetime.now(UTC)
    document = attester.attest(BOUND).payload
    assert nitro.verify(document, roots, now).value.anchor.simulated
    with pytest.raises(Unverified, match="expired"):
        nitro.verify(document, roots, now + timedelta(hours=3))


@pytest.mark.parametrize("tee", TEES)
def test_it_warns_and_binds_to_64_bytes(
    tmp_path: Path, simulators: dict[Tee, Path], tee: Tee, caplog: pytest.LogCaptureFixture
) -> None:
    directory = simulators.get(tee, tmp_path / "snp")
    if tee is Tee.SNP:
        create_insecure(tee, directory, name="unit")
    with caplog.at_level(logging.WARNING, logger="garrison"):
        attester = select({"kind": kind_of(tee), "directory": str(directory)})
    assert attester.tee is tee
    assert [record.getMessage().partition(":")[0] for record in caplog.records] == ["INSECURE"]
    with pytest.raises(Misuse, match="report data: wrong length; found 63 bytes"):
        attester.attest(bytes(63))


@pytest.mark.parametrize("tee", TEES)
def test_registers_of_other_names_and_sizes(
    tmp_path: Path, simulators: dict[Tee, Path], tee: Tee
) -> None:
    directory = simulators.get(tee, tmp_path / "snp")
    if tee is Tee.SNP:
        create_insecure(tee, directory, name="unit")
    name = next(iter(process_registers(tee)))
    for measured in ({"other": bytes(48)}, {name: bytes(47)}):
        with pytest.raises(Misuse, match="no such register"):
            open_insecure(tee, directory, measured)


def test_the_directory_of_another_tee(simulators: dict[Tee, Path]) -> None:
    """Its quotes would have the form, and its collateral be of the other."""
    with pytest.raises(Misuse, match="a simulator of another TEE; found sgx; expected tdx"):
        open_insecure(Tee.TDX, simulators[Tee.SGX])


def copied(simulator: Path, to: Path, name: str, data: bytes) -> Path:
    for path in simulator.iterdir():
        (to / path.name).write_bytes(path.read_bytes())
    (to / name).write_bytes(data)
    return to


@pytest.mark.parametrize("tee", OTHERS)
def test_another_key(simulators: dict[Tee, Path], tee: Tee, tmp_path: Path) -> None:
    name = f"{_KEYS[tee]}.key"
    pem = (simulators[tee] / name).read_bytes()
    right = load_pem_private_key(pem, None)
    assert isinstance(right, ec.EllipticCurvePrivateKey)
    for index, (data, match) in enumerate(
        (
            (write_key(ec.generate_private_key(right.curve)), f"not the certificate of {name}"),
            (write_key(ec.generate_private_key(ec.SECP521R1())), "wrong kind of key"),
            (pem[:-40], "not a private key"),
            (bytes(5000), "too long"),
        )
    ):
        place = tmp_path / str(index)
        place.mkdir()
        with pytest.raises(Malformed, match=match):
            open_insecure(tee, copied(simulators[tee], place, name, data))


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"[]",
        b"{",
        b'{"tee": "tdx", "name": "x", "key_sha256": "ab"}',
        b"[" * 4000,
        b" " * 5000,
    ],
)
def test_what_a_directory_says_of_itself(
    simulators: dict[Tee, Path], tmp_path: Path, text: bytes
) -> None:
    broken = copied(simulators[Tee.TDX], tmp_path, "simulator.json", text)
    with pytest.raises(Malformed, match=r"simulator\.json"):
        open_insecure(Tee.TDX, broken)


def test_what_exists_is_not_overwritten_and_names_are_short(tmp_path: Path) -> None:
    for tee in OTHERS:
        with pytest.raises(Misuse, match="exists already"):
            create_insecure(tee, tmp_path, name="unit")
        with pytest.raises(Misuse, match="wrong name"):
            create_insecure(tee, tmp_path / "new", name="x" * 33)
    with pytest.raises(Misuse, match="cannot be simulated"):
        create_insecure(Tee.CCA, tmp_path / "new", name="unit")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("text", ["", "tdx", "tdx=", "cca=x", "none=x"])
def test_no_such_simulator(text: str) -> None:
    with pytest.raises(Misuse, match="no such simulator"):
        parse_simulator(text, "--insecure-simulate")
    assert parse_simulator("tdx=a=b", "--insecure-simulate") == (Tee.TDX, "a=b")


def test_kinds_say_that_they_are_insecure() -> None:
    assert len(KINDS) == len(TEES)
    assert all(kind.endswith("-insecure") for kind in KINDS)
    with pytest.raises(Misuse, match="unknown attester"):
        select({"kind": "simulated-cca-insecure", "directory": "x"})


@pytest.mark.parametrize("tee", TeeType)
def test_a_bundle_of_collateral_is_read_as_it_was_written(tee: TeeType) -> None:
    collateral = FakeIntel().collateral(tee)
    assert read_bundle(write_bundle(collateral)) == collateral
