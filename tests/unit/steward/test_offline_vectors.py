"""`garrison verify` over all recorded quotes, Azure evidence and CCA tokens."""

from __future__ import annotations

import json
from base64 import encodebytes, urlsafe_b64encode
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest
from click.testing import CliRunner
from tests.vectors import vectors

from garrison.cli.steward import command as steward
from garrison.cli.verify import command
from garrison.errors import GarrisonError, Malformed, Misuse, Rejected, Unavailable, Unverified
from garrison.formats.evidence import TDX_MEDIA_TYPE
from garrison.formats.snp_certificate_table import VCEK, CertificateTable
from garrison.steward.offline_endorsements import Endorsements

if TYPE_CHECKING:
    from pathlib import Path

    from click.testing import Result

pytestmark = pytest.mark.vectors

PLATFORM = """
tcb_statuses = [
    "UpToDate", "SWHardeningNeeded", "ConfigurationNeeded", "ConfigurationAndSWHardeningNeeded",
]
advisories = "any"
minimum_tcb_evaluation = "any"
"""
# The policy by which the vectors were judged.
POLICY = f"""
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

[sgx]
measurements = "any"
signers = "any"
config_ids = "any"
{PLATFORM}

[tdx]
mr_td = "any"
mr_seam = "any"
mr_config_id = "any"
mr_owner = "any"
mr_owner_config = "any"
mr_service_td = "any"
{PLATFORM}
[tdx.rtmrs]
others = "any"

[azure]
console = "any"
[azure.pcrs]
others = "any"
"""
# Its chain is good, and there is no collateral.
CHAIN_ONLY = "google-v4-e4-chain-only"
# A request of the original, whose collateral has no QE identity.
ORIGINAL = "steward-enarx-csr-xeon"
# Only who knows the nonce can tell.
WRONG_NONCE = "trustee-milan-v1-wrong-nonce"
# Genuine, as its description says; the policy of TDs would have more than Azure gives.
AZURE_TDX = "trustee-tdx-v1"


@pytest.fixture
def policy(tmp_path: Path) -> Path:
    path = tmp_path / "policy.toml"
    path.write_text(POLICY)
    return path


def verify(*arguments: object) -> Result:
    return CliRunner().invoke(command, [str(argument) for argument in arguments])


def at(directory: Path) -> tuple[str, str]:
    about = json.loads((directory / "vector.json").read_text())
    return "--at", datetime.fromtimestamp(about["verify_time"] or 1_767_225_600, UTC).isoformat()


# What `needs_policy` of a description comes to on the command line.
NEEDS = {
    "allow TCB OutOfDate": ("--tcb-status", "OutOfDate"),
    "signature-only: no collateral": ("--insecure-signatures-only",),
}
# Descriptions that are not about evidence, or about what only its user can know.
NOT_EVIDENCE = "snp-launch-digest-qemu"
WRONG_PCRS = "evervault-in-cert-wrong-pcrs"


def test_the_verdict_of_every_vector_without_a_policy() -> None:
    """Of each, whatever its kind: the word and the exit code that its description asks for."""
    seen = 0
    for path in sorted(vectors("snp").parent.glob("*/*/vector.json")):
        directory, about = path.parent, json.loads(path.read_text())
        if directory.name == NOT_EVIDENCE:
            continue
        options = [word for need in about.get("needs_policy") or () for word in NEEDS.get(need, ())]
        if directory.parent.name == "measure":
            options += NEEDS["signature-only: no collateral"]
        if (directory / "trust_anchors.json").exists():
            options += ["--trust-anchors", str(directory / "trust_anchors.json")]
        if directory.name == WRONG_NONCE:
            options += ["--nonce", b"egnellahc".hex()]
        done = verify(directory, *at(directory), "--json", *options)
        name, verdict = str(directory), json.loads(done.stdout)["verdict"]
        seen += 1
        if about["expect"] == "accept" or directory.name == WRONG_PCRS:
            assert (verdict, done.exception) == ("genuine", None), name
        elif about["reject_kind"] == "policy":
            assert verdict == "rejected", name
            assert isinstance(done.exception, Rejected), name
        elif about["reject_kind"] == "parse":
            assert verdict == "malformed", name
        else:
            assert verdict == "unverified", (name, done.exception)
    assert seen >= 70


def test_a_chips_certificate_in_pem(tmp_path: Path) -> None:
    """AMD's have serial number 0, of which a library would warn."""
    directory = vectors("snp") / "microsoft-genoa-v3-vcek"
    text = encodebytes((directory / "vek.der").read_bytes()).decode()
    chip = tmp_path / "vcek.pem"
    chip.write_text(f"-----BEGIN CERTIFICATE-----\n{text}-----END CERTIFICATE-----\n")
    chain = [
        word for name in ("ask", "ark") for word in ("--endorsements", directory / f"{name}.der")
    ]
    done = verify(directory / "report.bin", "--certificate", chip, *chain, *at(directory))
    assert done.exception is None
    assert "Genuine" in done.stdout


def test_an_event_log_beside_a_quote() -> None:
    directory = vectors("measure") / "tdx-ccel-cos113"
    done = verify(directory, *at(directory), "--json", "--insecure-signatures-only")
    assert json.loads(done.stdout)["claims"]["event log"] == "leads to all RTMRs"


def check(directory: Path, done: Result) -> None:
    """Hold the verdict to what the vector's description says."""
    name = f"{directory.parent.name}/{directory.name}"
    about: dict[str, Any] = json.loads((directory / "vector.json").read_text())
    if directory.name == CHAIN_ONLY:
        assert isinstance(done.exception, Unavailable), name
        assert "the quote's signatures and chain are good" in str(done.exception)
    elif about["expect"] == "accept":
        assert done.exception is None, (name, done.exception)
        assert json.loads(done.stdout)["verdict"] in {"admitted", "genuine"}
    elif about["reject_kind"] == "policy":
        assert isinstance(done.exception, Rejected), (name, done.exception)
        assert any(not item["passed"] for item in json.loads(done.stdout)["checks"])
    else:
        assert isinstance(done.exception, Malformed | Unverified | Unavailable), (
            name,
            done.exception,
        )


@pytest.mark.parametrize("kind", ["sgx", "tdx", "az-snp", "az-tdx"])
def test_every_vector(kind: str, policy: Path) -> None:
    directories = [path for path in sorted(vectors(kind).iterdir()) if path.is_dir()]
    assert directories
    for directory in directories:
        bound = ("--report-data", "00" * 64) if directory.name == WRONG_NONCE else ()
        done = verify(directory, *at(directory), "--policy", policy, "--json", *bound)
        if directory.name == WRONG_NONCE:
            assert isinstance(done.exception, Rejected)
            failed = [
                item["check"] for item in json.loads(done.stdout)["checks"] if not item["passed"]
            ]
            assert failed == ["TPM quote's nonce"]
        elif directory.name == AZURE_TDX:
            failed = [
                item["check"] for item in json.loads(done.stdout)["checks"] if not item["passed"]
            ]
            assert failed == ["TD attributes: SEPT_VE_DISABLE", "TCB status"]
            late = ("--json", "--tcb-status", "OutOfDate")
            check(directory, verify(directory, *at(directory), *late))
        else:
            check(directory, done)


def test_every_cca_token() -> None:
    for directory in sorted(vectors("cca").iterdir()):
        anchors = directory / "trust_anchors.json"
        check(
            directory,
            verify(directory / "token.cbor", *at(directory), "--json", "--trust-anchors", anchors),
        )
        assert isinstance(verify(directory / "token.cbor").exception, Unavailable)


def test_a_request_of_the_original_for_sgx(tmp_path: Path) -> None:
    directory = vectors("sgx") / ORIGINAL
    about = json.loads((directory / "vector.json").read_text())
    request = (directory / "request.csr.der", *at(directory), "--tee", "sgx", "--json")
    done = verify(*request)
    assert isinstance(done.exception, Rejected)
    document = json.loads(done.stdout)
    assert document["claims"]["mr enclave"] == about["facts"]["body"]["mrenclave"]
    failed = [item["check"] for item in document["checks"] if not item["passed"]]
    assert failed == ["QE identity", "TCB status"]
    # By the original's rules, which ask for neither, it is admitted: with the policy of its tests,
    # and not with one that lacks an advisory.
    rules = about["steward_policy"]
    original = tmp_path / "steward.toml"
    lines = [f"{name} = {json.dumps(value)}" for name, value in rules.items()]
    original.write_text("\n".join(["[sgx]", *lines]))
    admitted = verify(*request, "--policy", original)
    assert admitted.exception is None
    assert json.loads(admitted.stdout)["verdict"] == "admitted"
    fewer = original.read_text().replace('"INTEL-SA-00657"', '"INTEL-SA-00001"')
    original.write_text(fewer)
    assert isinstance(verify(*request, "--policy", original).exception, Rejected)


def test_all_forms_of_one_quote(tmp_path: Path) -> None:
    directory = vectors("tdx") / "phala-v4-uptodate"
    quote = (directory / "quote.bin").read_bytes()
    record = tmp_path / "evidence.json"
    record.write_text(json.dumps([TDX_MEDIA_TYPE, urlsafe_b64encode(quote).decode().rstrip("=")]))
    given = ("--collateral", directory / "collateral.json", *at(directory), "--json")
    documents = [
        json.loads(verify(source, *given).stdout)
        for source in (directory, directory / "quote.bin", record)
    ]
    assert documents[0]["verdict"] == "genuine"
    assert documents[0] == documents[1] == documents[2]
    foreign = verify(directory, *given, "--report-data", "00" * 64)
    assert isinstance(foreign.exception, Unverified)
    assert foreign.exception.field == "report data"


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{",
        b"[",
        b"[" * 100_000,
        b'["a/b","%"]',
        b"-----BEGIN X-----",
        b"HCLA",
        b"\xd9\x01\x8f",
        b"\x04\0\x02\0",
        b"\x05\0\x02\0" + bytes(1180),
        b"\x30\x80",
    ],
    ids=lambda data: data[:4].hex() + f"-{len(data)}",
)
def test_no_input_gives_a_traceback(data: bytes, tmp_path: Path) -> None:
    path = tmp_path / "evidence"
    path.write_bytes(data)
    for option in ((), ("--collateral", path), ("--trust-anchors", path)):
        assert isinstance(verify(path, *option).exception, GarrisonError)


def test_a_paravisors_report_alone_with_its_certificate(tmp_path: Path) -> None:
    directory = vectors("az-snp") / "trustee-milan-v1"
    for name in ("hcl_report.bin", "vek.der", "ark.der", "ask.der"):
        (tmp_path / name).write_bytes((directory / name).read_bytes())
    whole = verify(tmp_path, *at(directory), "--json")
    assert json.loads(whole.stdout)["verdict"] == "genuine", whole.exception
    blob = (tmp_path / "hcl_report.bin", *at(directory), "--json", "--endorsements", tmp_path)
    named = verify(*blob, "--certificate", tmp_path / "vek.der")
    assert json.loads(named.stdout) == json.loads(whole.stdout)
    # Endorsements are told by what they hold.
    assert json.loads(verify(*blob).stdout)["verdict"] == "genuine"
    (tmp_path / "vek.der").unlink()
    assert isinstance(verify(*blob).exception, Unavailable)
    assert isinstance(verify(tmp_path, *at(directory)).exception, Misuse | Unavailable)


def test_tables_in_tables_give_no_traceback(tmp_path: Path) -> None:
    table = b"0"
    for _ in range(600):
        table = CertificateTable(((VCEK, table),)).to_bytes()
    report = (vectors("snp") / "trustee-milan-v2-vcek" / "report.bin").read_bytes()
    path = tmp_path / "extended.bin"
    path.write_bytes(report + table)
    assert isinstance(verify(path).exception, Unavailable)


@pytest.mark.parametrize("identity", [b"5", b"null", b'["QE"]'])
def test_an_identity_that_is_no_object(identity: bytes) -> None:
    with pytest.raises(Malformed):
        Endorsements().add(b'{"enclaveIdentity":%b,"signature":"aa"}' % identity, "file")


@pytest.mark.parametrize(
    ("kind", "name", "file"),
    [
        ("snp", "trustee-milan-v2-vcek", "vek.der"),
        ("az-snp", "trustee-milan-v1", "hcl_report.bin"),
    ],
)
def test_what_is_bound_to_nobody_is_not_bound_to_what_was_wanted(
    kind: str, name: str, file: str
) -> None:
    directory = vectors(kind) / name
    asked = (directory / file, *at(directory), "--json", "--endorsements", directory)
    plain = json.loads(verify(*asked).stdout)
    assert plain["verdict"] == "genuine"
    assert plain["not_looked_at"]
    bound = verify(*asked, "--report-data", "ab" * 64)
    assert isinstance(bound.exception, Unverified)
    assert json.loads(bound.stdout)["verdict"] == "unverified"


def test_policy_check_takes_what_verify_takes(policy: Path) -> None:
    def judged(*arguments: object) -> Result:
        return CliRunner().invoke(steward, ["policy", "check", *map(str, arguments)])

    directory = vectors("tdx") / "phala-v4-uptodate"
    quote = (policy, directory / "quote.bin", *at(directory), "--json")
    with_it = judged(*quote, "--collateral", directory / "collateral.json")
    assert with_it.exception is None
    assert json.loads(with_it.stdout)["verdict"] == "admitted"
    assert isinstance(judged(*quote).exception, Unavailable)
    token = min(vectors("cca").iterdir())
    anchors = ("--trust-anchors", token / "trust_anchors.json")
    refused = judged(policy, token / "token.cbor", *at(token), "--json", *anchors)
    assert isinstance(refused.exception, Rejected)
    alone = judged(policy, *anchors)
    assert isinstance(alone.exception, Misuse)
    assert alone.exception.field == "--trust-anchors"


def test_what_a_policy_denies_is_rejected_offline_too(tmp_path: Path) -> None:
    """Of the original's policy as well: its black list is enforced wherever it is read."""
    directory = next(
        path
        for path in sorted(vectors("sgx").iterdir())
        if (path / "collateral.json").exists()
        and json.loads((path / "vector.json").read_text())["expect"] == "accept"
    )
    claims = json.loads(verify(directory, *at(directory), "--json").stdout)["claims"]
    path = tmp_path / "steward.toml"
    path.write_text(f"[sgx]\nhash_blacklist = ['{claims['mr enclave']}']\n")
    done = verify(directory, *at(directory), "--policy", path, "--json")
    assert isinstance(done.exception, Rejected)
    document = json.loads(done.stdout)
    assert document["verdict"] == "rejected"
    failed = [item["check"] for item in document["checks"] if not item["passed"]]
    assert "deny list" in failed
