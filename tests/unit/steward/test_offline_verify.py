"""`garrison verify` and `garrison steward policy check`, over recorded real evidence."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest
from click.testing import CliRunner
from tests.vectors import vectors

from garrison.cli.steward import command as steward
from garrison.cli.verify import command
from garrison.errors import GarrisonError, Malformed, Misuse, Rejected, Unavailable, Unverified
from garrison.formats import cmw
from garrison.formats.evidence import SNP_MEDIA_TYPE, Evidence
from garrison.formats.snp_evidence import SnpEvidence
from garrison.terminal import exit_code

if TYPE_CHECKING:
    from pathlib import Path

    from click.testing import Result

pytestmark = pytest.mark.vectors

# The policy by which the vectors were judged: all may be, but a guest that the host may debug.
DEFAULT_POLICY = """
[snp]
measurements = "any"
products = "any"
minimum_tcb = "any"
id_key_digests = "any"
author_key_digests = "any"
host_data = "any"
chip_ids = "any"
vmpl = "any"
abi_minimum = "any"
smt = true
single_socket = false
crl = "optional"
endorsements = []

[nitro.pcrs]
others = "any"
"""
# It holds a chain and no report: there is nothing to verify.
CHAIN_ONLY = "virtee-turin-vcek-chain-only"
# It fails by the policy of its application alone, which speaks of PCRs.
WRONG_PCRS = "evervault-in-cert-wrong-pcrs"
REAL = "steward-milan-csr-enarx"


@pytest.fixture
def policy(tmp_path: Path) -> Path:
    path = tmp_path / "policy.toml"
    path.write_text(DEFAULT_POLICY)
    return path


def about(directory: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((directory / "vector.json").read_text())
    return found


def moment(directory: Path) -> str:
    return datetime.fromtimestamp(about(directory)["verify_time"], UTC).isoformat()


def verify(*arguments: object) -> Result:
    return CliRunner().invoke(command, [str(argument) for argument in arguments])


def names(kind: str) -> list[str]:
    return [path.name for path in sorted(vectors(kind).iterdir()) if path.is_dir()]


def test_every_snp_vector(policy: Path) -> None:
    seen = 0
    for name in names("snp"):
        directory = vectors("snp") / name
        done = verify(directory, "--at", moment(directory), "--policy", policy, "--json")
        if name == CHAIN_ONLY:
            # There is nothing that a policy could admit.
            assert json.loads(done.stdout)["verdict"] == "rejected"
            alone = verify(directory, "--at", moment(directory), "--json")
            document = json.loads(alone.stdout)
            assert (document["verdict"], document["tee"]) == ("genuine", "snp")
            assert document["not_looked_at"][0].startswith("there is no report")
            continue
        seen += 1
        document = json.loads(done.stdout)
        expected = about(directory)
        assert document["tee"] == "snp"
        if expected["expect"] == "accept":
            assert done.exception is None, name
            assert document["verdict"] == "admitted"
            assert document["claims"]["launch measurement"] == expected["facts"]["measurement"]
        elif expected["reject_kind"] == "policy":
            assert isinstance(done.exception, Rejected), name
            failed = [check["check"] for check in document["checks"] if not check["passed"]]
            assert failed == ["guest policy: debugging by the host"]
        else:
            # Where the issuer is another's, the right one is what is missing.
            assert isinstance(done.exception, Unverified | Unavailable), name
            assert document["verdict"] in {"unverified", "unavailable"}
            assert exit_code(done.exception) in {69, 76}
    assert seen >= 16


def test_every_nitro_vector(policy: Path) -> None:
    for name in names("nitro"):
        directory = vectors("nitro") / name
        done = verify(
            directory / "document.cbor", "--at", moment(directory), "--policy", policy, "--json"
        )
        expected = about(directory)
        if expected["expect"] == "accept" or name == WRONG_PCRS:
            assert done.exception is None, name
        elif expected["reject_kind"] == "policy":
            assert isinstance(done.exception, Rejected), name
        else:
            assert isinstance(done.exception, Unverified), name


def test_without_a_policy_it_is_genuine_and_not_appraised() -> None:
    directory = vectors("snp") / REAL
    done = verify(directory, "--at", moment(directory))
    assert done.exception is None
    assert "Genuine: AMD ARK-Milan vouches for it." in done.stdout
    assert "product: Milan" in done.stdout
    assert "held to the baseline alone" in done.stdout
    assert "✔ guest policy: debugging by the host" in done.stdout
    assert "launch measurement\n" not in done.stdout
    alone = verify(directory / "report.bin", "--endorsements", directory, "--at", moment(directory))
    assert alone.exception is None
    assert "nobody said what the evidence must be bound to" in alone.stderr


def test_checks_are_printed_with_found_and_wanted(policy: Path) -> None:
    directory = vectors("snp") / "google-milan-v2-debug-policy"
    done = verify(directory, "--at", moment(directory), "--policy", policy)
    assert "✗ guest policy: debugging by the host\n      found   allowed" in done.stdout
    assert "wanted  not allowed" in done.stdout
    assert "Rejected by the policy" in done.stdout
    assert isinstance(done.exception, Rejected)


def test_all_forms_of_the_same_evidence(tmp_path: Path) -> None:
    directory = vectors("snp") / REAL
    at = ("--at", moment(directory), "--endorsements", directory, "--json")
    report, leaf = ((directory / name).read_bytes() for name in ("report.bin", "vek.der"))
    own = tmp_path / "evidence.cbor"
    own.write_bytes(cmw.encode(Evidence(SNP_MEDIA_TYPE, SnpEvidence(report, (leaf,)).to_bytes())))
    documents = [
        json.loads(verify(*arguments, *at).stdout)
        for arguments in (
            (directory,),
            (directory / "report.bin", "--certificate", directory / "vek.der"),
            (directory / "request.csr.der", "--tee", "snp"),
            (own,),
        )
    ]
    for document in documents:
        assert "SNP report, version 2" in document.pop("taken_for")
        # Only a request tells what it must be bound to.
        document.pop("not_looked_at")
        document["checks"][0].pop("expected")
    assert all(document == documents[0] for document in documents)
    assert documents[0]["verdict"] == "genuine"


def test_a_request_whose_evidence_is_bound_to_another_key(policy: Path) -> None:
    directory = vectors("snp") / REAL
    at = (directory / "request.csr.der", "--at", moment(directory), "--endorsements", directory)
    foreign = verify(*at, "--report-data", "00" * 64)
    assert isinstance(foreign.exception, Unverified)
    assert foreign.exception.field == "report data"
    assert foreign.exception.expected == "00" * 64
    appraised = verify(*at, "--report-data", "00" * 64, "--policy", policy)
    assert isinstance(appraised.exception, Rejected)
    assert "✗ report data" in appraised.stdout
    assert verify(*at, "--policy", policy).exception is None


def test_at_another_time_it_has_expired() -> None:
    directory = vectors("snp") / REAL
    done = verify(directory, "--at", "2062-01-01T00:00:00Z")
    assert isinstance(done.exception, Unverified)
    assert "it claims, unverified as yet" in done.stdout
    assert "Genuine" not in done.stdout


def test_missing_endorsements_are_unavailable() -> None:
    directory = vectors("snp") / REAL
    done = verify(directory / "report.bin", "--certificate", directory / "vek.der")
    assert isinstance(done.exception, Unavailable)


@pytest.mark.parametrize(
    ("arguments", "family", "field"),
    [
        (("--at", "yesterday"), Misuse, "--at"),
        (("--at", "2026-01-01T00:00:00"), Misuse, "--at"),
        (("--report-data", "00"), Misuse, "--report-data"),
        (("--report-data", "zz" * 64), Misuse, "--report-data"),
        (("--tee", "nitro"), Malformed, None),
    ],
)
def test_wrong_options(
    arguments: tuple[str, str], family: type[Exception], field: str | None
) -> None:
    directory = vectors("snp") / REAL
    option, value = arguments
    done = verify(directory, option, value)
    assert isinstance(done.exception, family)
    assert isinstance(done.exception, GarrisonError)
    assert field is None or done.exception.field == field


@pytest.mark.parametrize("content", [b"", b"\x00", b"\x30\x00", b"\x82", b"\x84\x00", b"0" * 2000])
def test_what_is_no_evidence_is_malformed(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "evidence"
    path.write_bytes(content)
    assert isinstance(verify(path).exception, Malformed)


def test_a_policy_of_another_tee_admits_nothing(tmp_path: Path) -> None:
    directory = vectors("snp") / REAL
    policy = tmp_path / "policy.toml"
    policy.write_text('[nitro.pcrs]\nothers = "any"\n')
    done = verify(directory, "--at", moment(directory), "--policy", policy)
    assert isinstance(done.exception, Rejected)
    assert done.exception.found == "snp"


def check(*arguments: object) -> Result:
    words = ["policy", "check", *(str(argument) for argument in arguments)]
    return CliRunner().invoke(steward, words)


def test_policy_check(policy: Path, tmp_path: Path) -> None:
    alone = check(policy, "--json")
    document = json.loads(alone.stdout)
    assert document["tees"] == ["snp", "nitro"]
    assert [line.partition(".")[0] for line in document["openings"]] == ["snp", "nitro"]
    directory = vectors("snp") / REAL
    whole = check(policy, directory, "--at", moment(directory), "--json")
    assert json.loads(whole.stdout)["verdict"] == "admitted"
    assert isinstance(check(policy, "--at", "2026-01-01T00:00:00Z").exception, Misuse)
    for text in ("", "[snp]\n", DEFAULT_POLICY + "[other]\n", "not TOML"):
        wrong = tmp_path / "wrong.toml"
        wrong.write_text(text)
        assert isinstance(check(wrong).exception, Malformed)
