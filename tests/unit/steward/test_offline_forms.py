"""`garrison verify` over every form that evidence and endorsements come in, made by simulators."""

from __future__ import annotations

import gzip
import json
from base64 import b64encode, urlsafe_b64encode
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import pytest
from click.testing import CliRunner
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from garrison.cli.verify import command
from garrison.errors import Malformed, Misuse, Rejected, Unavailable, Unverified
from garrison.formats.azure import AzureEvidence
from garrison.formats.dcap_quote import TeeType
from garrison.formats.snp import Product, Report, SigningKey
from garrison.formats.snp_certificate_table import ARK, ASK, VCEK, VLEK, CertificateTable
from garrison.formats.snp_report_json import report_from_json
from garrison.steward.offline_forms import unwrap
from garrison.testing.azure import FakeAzure
from garrison.testing.dcap import NOW, FakeIntel, FakeQuoter, sgx_report, td_report
from garrison.testing.guest_messages import (
    attestation_fields,
    binary,
    quote_fields,
    report_fields,
    text,
)
from garrison.testing.nitro import FakeNitro
from garrison.testing.snp import FakePlatform
from garrison.testing.tees import (
    collateral_json,
    nitro_section,
    sgx_section,
    snp_section,
    tdx_section,
    write_amd,
)

if TYPE_CHECKING:
    from pathlib import Path

    from click.testing import Result

    from garrison.formats.dcap_collateral import DcapCollateral

INTEL = FakeIntel()
PLATFORM = FakePlatform()
POLICY = "\n".join(
    (
        snp_section(PLATFORM, vmpl='"any"', crl='"optional"'),
        nitro_section(FakeNitro()),
        tdx_section(INTEL),
        sgx_section(INTEL),
    )
)


@pytest.fixture
def policy(tmp_path: Path) -> Path:
    write_amd(tmp_path / "amd", replace(PLATFORM.endorsements(), crl=None))
    path = tmp_path / "policy.toml"
    path.write_text(POLICY)
    return path


def verify(*arguments: object) -> Result:
    at = ("--at", NOW.isoformat(), "--json")
    return CliRunner().invoke(command, [str(argument) for argument in (*arguments, *at)])


def put(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def admitted(done: Result) -> dict[str, Any]:
    assert done.exception is None, done.exception
    document: dict[str, Any] = json.loads(done.stdout)
    assert document["verdict"] == "admitted"
    return document


def pem(der: bytes) -> bytes:
    return x509.load_der_x509_certificate(der).public_bytes(Encoding.PEM)


def encodings(data: bytes) -> dict[str, bytes]:
    """The same bytes, as people and services hand them on."""
    text = b64encode(data).decode()
    lines = "\n".join(text[start : start + 64] for start in range(0, len(text), 64))
    return {
        "as they are": data,
        "hex": data.hex().encode() + b"\n",
        "hex with 0x": b"0x" + data.hex().upper().encode(),
        "base64": text.encode(),
        "base64 in lines": lines.encode() + b"\n",
        "base64url without padding": urlsafe_b64encode(data).rstrip(b"="),
        "PEM": f"-----BEGIN QUOTE-----\n{lines}\n-----END QUOTE-----\n".encode(),
        "JSON member": json.dumps({"nonce": "x", "quote": text}).encode(),
        "JSON in JSON": json.dumps(
            {"tee": "any", "evidence": json.dumps({"quote": list(data)})}
        ).encode(),
        "JSON in base64": b64encode(json.dumps({"isvEnclaveQuote": text}).encode()),
        "JSON string": json.dumps(text).encode(),
    }


@pytest.mark.parametrize("form", encodings(b""))
def test_a_quote_in_every_encoding(policy: Path, tmp_path: Path, form: str) -> None:
    quote = FakeQuoter(INTEL).quote(td_report(), 4) + bytes(70)
    file = put(tmp_path / "evidence", encodings(quote)[form])
    collateral = put(tmp_path / "collateral.json", collateral_json(INTEL.collateral(TeeType.TDX)))
    document = admitted(verify(file, "--collateral", collateral, "--policy", policy))
    assert "a TDX quote, version 4, with 70 bytes of padding" in document["taken_for"]
    assert ("out of" in document["taken_for"]) == (form != "as they are")


@pytest.mark.parametrize("tagged", [True, False])
@pytest.mark.parametrize("form", ["as they are", "hex", "base64", "base64 in lines"])
def test_a_nitro_document(policy: Path, tmp_path: Path, form: str, tagged: bool) -> None:
    file = put(tmp_path / "evidence", encodings(FakeNitro().document(tagged=tagged))[form])
    document = admitted(verify(file, "--policy", policy, "--nonce", b"nonce".hex()))
    assert document["taken_for"].startswith("a Nitro attestation document")
    other = verify(file, "--policy", policy, "--nonce", "00")
    assert isinstance(other.exception, Unverified)
    member = put(
        tmp_path / "wrapped",
        json.dumps(
            {"attestation_document": b64encode(FakeNitro().document(tagged=tagged)).decode()}
        ).encode(),
    )
    admitted(verify(member, "--policy", policy))


# SNP.


def extended(*entries: tuple[Any, bytes]) -> bytes:
    return PLATFORM.report() + CertificateTable(entries).to_bytes()


def test_an_extended_report(policy: Path, tmp_path: Path) -> None:
    chain = PLATFORM.endorsements()
    file = put(tmp_path / "extended.bin", extended((VCEK, chain.leaf), (ASK, chain.issuer)))
    assert "an extended report" in admitted(verify(file, "--policy", policy))["taken_for"]
    # Pages are handed out whole, and a firmware's answer has a head.
    answer = bytes(4) + (1184).to_bytes(4, "little") + bytes(24)
    padded = put(tmp_path / "padded.bin", answer + file.read_bytes() + bytes(4096))
    admitted(verify(padded, "--policy", policy))
    buffer = put(tmp_path / "buffer.bin", PLATFORM.report() + bytes(2816))
    named = ("--certificate", put(tmp_path / "vcek.der", chain.leaf))
    document = admitted(verify(buffer, "--policy", policy, *named))
    assert "2816 zeros" in document["taken_for"]
    wrong = put(tmp_path / "wrong.bin", PLATFORM.report() + b"\x01" * 60)
    assert isinstance(verify(wrong, "--policy", policy).exception, Malformed)


@pytest.mark.parametrize("form", ["DER", "PEM", "PEM chain", "table", "base64", "hex"])
def test_the_certificate_of_a_bare_report(policy: Path, tmp_path: Path, form: str) -> None:
    chain = PLATFORM.endorsements()
    table = CertificateTable(((VCEK, chain.leaf), (ASK, chain.issuer), (ARK, chain.root)))
    data = {
        "DER": chain.leaf,
        "PEM": pem(chain.leaf),
        "PEM chain": pem(chain.root) + pem(chain.issuer) + pem(chain.leaf),
        "table": table.to_bytes(),
        "base64": b64encode(chain.leaf),
        "hex": chain.leaf.hex().encode(),
    }[form]
    report = put(tmp_path / "report.bin", PLATFORM.report())
    file = put(tmp_path / "certificate", data)
    for option in ("--certificate", "--endorsements"):
        admitted(verify(report, option, file, "--policy", policy))


def test_a_report_without_its_certificate_says_what_is_lacking(
    policy: Path, tmp_path: Path
) -> None:
    done = verify(put(tmp_path / "report.bin", PLATFORM.report()), "--policy", policy)
    assert isinstance(done.exception, Unavailable)
    assert "/vcek/v1/Milan/5a5a5a" in (done.exception.hint or "")
    assert "blSPL=4&teeSPL=0&snpSPL=24&ucodeSPL=219" in (done.exception.hint or "")
    document = json.loads(done.stdout)
    assert document["verdict"] == "unavailable"
    assert document["claims"]["signed by"] == "VCEK"
    older = put(tmp_path / "older.bin", PLATFORM.report(version=2))
    hint = verify(older, "--policy", policy).exception
    assert isinstance(hint, Unavailable)
    assert "does not tell its product" in (hint.hint or "")


@pytest.mark.parametrize(
    "platform",
    [
        PLATFORM,
        FakePlatform(Product.GENOA),
        FakePlatform.turin(),
        FakePlatform(kind=SigningKey.VLEK),
        FakePlatform(Product.GENOA, SigningKey.VLEK),
        FakePlatform.turin(SigningKey.VLEK),
    ],
    ids=lambda platform: f"{platform.product}-{platform.kind.name}",
)
def test_every_product_and_key(policy: Path, tmp_path: Path, platform: FakePlatform) -> None:
    chain = platform.endorsements()
    guid = VLEK if platform.kind is SigningKey.VLEK else VCEK
    table = CertificateTable(((guid, chain.leaf), (ASK, chain.issuer), (ARK, chain.root)))
    file = put(tmp_path / "extended.bin", platform.report(version=5) + table.to_bytes())
    document = admitted(verify(file, "--policy", policy))
    assert document["verified"]["product"] == platform.product


def test_no_policy_admits_a_chips_certificate(policy: Path, tmp_path: Path) -> None:
    """Anybody can have one: it must not pass where evidence was wanted."""
    chain = PLATFORM.endorsements()
    for data in (chain.leaf, pem(chain.leaf)):
        file = put(tmp_path / "vcek", data)
        done = verify(file, "--endorsements", tmp_path / "amd", "--policy", policy)
        document = json.loads(done.stdout)
        assert (document["verdict"], document["claims"]["kind of key"]) == ("rejected", "VCEK")
        assert isinstance(done.exception, Rejected)
        assert "a certificate attests nothing" in str(done.exception)


# The JSON of Confidential Containers.


def as_crate_writes(report: Report) -> dict[str, Any]:
    def tcb(data: bytes) -> dict[str, Any]:
        bl, tee, _, _, _, _, snp, ucode = data
        return {"bootloader": bl, "tee": tee, "snp": snp, "microcode": ucode, "fmc": None}

    def version(found: Any) -> dict[str, int]:
        return {"major": found.major, "minor": found.minor, "build": found.build}

    octets = (
        *("family_id", "image_id", "report_data", "measurement", "host_data", "id_key_digest"),
        *("author_key_digest", "report_id", "report_id_ma", "chip_id"),
    )
    tcbs = ("current_tcb", "reported_tcb", "committed_tcb", "launch_tcb")
    assert report.cpuid is not None
    return {
        "version": report.version,
        "guest_svn": report.guest_svn,
        "policy": report.policy.bits,
        "vmpl": report.vmpl,
        "sig_algo": 1,
        "plat_info": report.platform_info.bits,
        "key_info": report.signing_key << 2,
        **{name: list(getattr(report, name)) for name in octets},
        **{name: tcb(getattr(report, name)) for name in tcbs},
        "cpuid_fam_id": report.cpuid.family,
        "cpuid_mod_id": report.cpuid.model,
        "cpuid_step": report.cpuid.stepping,
        "current": version(report.current_version),
        "committed": version(report.committed_version),
        "launch_mit_vector": None,
        "current_mit_vector": None,
        "signature": {
            "r": list(report.r.to_bytes(72, "little")),
            "s": list(report.s.to_bytes(72, "little")),
        },
    }


def test_a_report_in_the_fields_of_a_crate(policy: Path, tmp_path: Path) -> None:
    raw = PLATFORM.report()
    value = as_crate_writes(Report.from_bytes(raw))
    assert report_from_json(value) == raw
    leaf = list(PLATFORM.endorsements().leaf)
    whole = {
        "attestation_report": value,
        "cert_chain": [{"cert_type": "VCEK", "data": leaf}],
    }
    document = admitted(
        verify(put(tmp_path / "evidence.json", json.dumps(whole).encode()), "--policy", policy)
    )
    assert "JSON of an SNP report's fields" in document["taken_for"]
    older = {name: item for name, item in value.items() if name not in ("current", "committed")}
    for name in ("current", "committed"):
        older |= {f"{name}_{part}": number for part, number in value[name].items()}
    older["_author_key_en"] = older.pop("key_info")
    assert report_from_json(older) == raw
    value["guest_svn"] = 1
    changed = verify(put(tmp_path / "changed.json", json.dumps(whole).encode()), "--policy", policy)
    assert isinstance(changed.exception, Unverified)
    for name in value:
        if name in ("launch_mit_vector", "current_mit_vector", "cpuid_step"):
            continue
        lacking = {key: item for key, item in value.items() if key != name}
        if name.startswith("cpuid"):
            continue
        with pytest.raises(Malformed):
            report_from_json(lacking)


# Azure.


def test_azure_evidence_of_version_0_on_tdx() -> None:
    made = replace(FakeAzure().evidence(), vcek=None, td_quote=b"quote" * 200)
    old = {
        "hcl_report": list(made.report),
        "td_quote": list(made.td_quote or b""),
        "tpm_quote": {
            "message": list(made.message),
            "signature": list(made.signature),
            "pcrs": [list(pcr) for pcr in made.pcrs],
        },
    }
    assert AzureEvidence.from_bytes(json.dumps(old).encode()) == made
    old["vcek"] = "x"
    with pytest.raises(Malformed):
        AzureEvidence.from_bytes(json.dumps(old).encode())


# Collateral.


def forms_of_collateral(made: DcapCollateral) -> dict[str, bytes]:
    inner = json.loads(made.tcb_info)
    text = made.tcb_info.decode()
    signed = text[len('{"tcbInfo":') : text.rindex(',"signature"')]
    crl = x509.load_der_x509_crl(made.pck_crl).public_bytes(Encoding.PEM).decode()
    return {
        "as served": collateral_json(made),
        "inner text and signature": collateral_json(
            made, tcb_info=signed, tcb_info_signature=inner["signature"]
        ),
        "lists in base64 and PEM": collateral_json(
            made, root_ca_crl=b64encode(made.root_crl).decode(), pck_crl=crl
        ),
        "a list in hex of hex": collateral_json(made, pck_crl=made.pck_crl.hex().encode().hex()),
        "chain of a header": collateral_json(
            made, tcb_info_issuer_chain=quote(made.tcb_info_chain.decode())
        ),
        "names of Intel's library": json.dumps(
            {
                "rootCaCrl": made.root_crl.hex(),
                "pckCrl": made.pck_crl.hex(),
                "tcbInfo": text,
                "tcbInfoIssuerChain": made.tcb_info_chain.decode(),
                "qeIdentity": (made.qe_identity or b"").decode(),
                "qeIdentityIssuerChain": made.qe_identity_chain.decode(),
            }
        ).encode(),
    }


@pytest.mark.parametrize("form", forms_of_collateral(INTEL.collateral(TeeType.SGX)))
def test_collateral_in_every_form(policy: Path, tmp_path: Path, form: str) -> None:
    file = put(tmp_path / "quote.bin", FakeQuoter(INTEL).quote(sgx_report(), 3))
    data = forms_of_collateral(INTEL.collateral(TeeType.SGX))[form]
    for option in ("--collateral", "--endorsements"):
        given = put(tmp_path / "collateral.json", data)
        admitted(verify(file, option, given, "--policy", policy))


def test_collateral_in_parts_as_intel_serves_them(policy: Path, tmp_path: Path) -> None:
    made = INTEL.collateral(TeeType.TDX)
    other = INTEL.collateral(TeeType.SGX)
    elsewhere = INTEL.collateral(TeeType.TDX, {"fmspc": "0123456789AB"})
    parts = tmp_path / "parts"
    parts.mkdir()
    for name, data in (
        ("root.crl", made.root_crl),
        ("pck.crl.hex", made.pck_crl.hex().encode()),
        ("tcb", made.tcb_info),
        ("a tcb of another platform", elsewhere.tcb_info),
        ("a tcb of SGX", other.tcb_info),
        ("identity", made.qe_identity or b""),
        # As it stands in a header.
        ("chain.txt", quote(made.tcb_info_chain).encode()),
        ("README", b"nothing of the kind"),
    ):
        (parts / name).write_bytes(data)
    file = put(tmp_path / "quote.bin", FakeQuoter(INTEL).quote(td_report(), 5))
    admitted(verify(file, "--endorsements", parts, "--policy", policy))
    for name, expected in (
        ("root.crl", "revocation list of Intel SGX Root CA"),
        ("chain.txt", "revocation list of Intel SGX Root CA, certificate of Intel SGX TCB Signing"),
    ):
        (parts / name).unlink()
        done = verify(file, "--endorsements", parts, "--policy", policy)
        assert isinstance(done.exception, Unavailable)
        assert done.exception.expected == expected
    assert isinstance(
        verify(file, "--endorsements", parts / "README", "--policy", policy).exception, Malformed
    )


def test_collateral_beside_the_quote_in_one_object(policy: Path, tmp_path: Path) -> None:
    quote = FakeQuoter(INTEL).quote(sgx_report(), 3)
    value = {
        "quote": b64encode(quote).decode(),
        "collateral": json.loads(collateral_json(INTEL.collateral(TeeType.SGX))),
    }
    file = put(tmp_path / "evidence.json", json.dumps(value).encode())
    admitted(verify(file, "--policy", policy))


def test_signatures_alone_are_enough_only_if_the_user_says_so(policy: Path, tmp_path: Path) -> None:
    file = put(tmp_path / "quote.bin", FakeQuoter(INTEL).quote(sgx_report(), 3))
    assert isinstance(verify(file, "--policy", policy).exception, Unavailable)
    done = verify(file, "--policy", policy, "--insecure-signatures-only")
    document = json.loads(done.stdout)
    assert (document["verdict"], document["crl_checked"]) == ("genuine", False)
    assert "that is all" in document["not_looked_at"][0]
    # But they are of nobody else's quote.
    for report_data, kind in ((sgx_report().report_data, None), (b"\xee" * 64, Unverified)):
        options = ("--insecure-signatures-only", "--report-data", report_data.hex())
        bound = verify(file, "--policy", policy, *options)
        assert (type(bound.exception) if bound.exception else None) is kind
    unsigned = FakeQuoter(INTEL).quote(sgx_report(), 3, signature=bytes(64))
    broken = put(tmp_path / "broken.bin", unsigned)
    refused = verify(broken, "--policy", policy, "--insecure-signatures-only")
    assert isinstance(refused.exception, Unverified)


# Messages, compression, certificates with a quote in them, and directories of tools.


@pytest.mark.parametrize("form", [binary, text])
def test_messages_of_googles_guest_libraries(policy: Path, tmp_path: Path, form: Any) -> None:
    fields = attestation_fields(PLATFORM.report(), PLATFORM.endorsements())
    file = put(tmp_path / "attestation", form(fields))
    taken_for = admitted(verify(file, "--policy", policy))["taken_for"]
    assert "with 1 certificates, out of the message sevsnp.Attestation" in taken_for
    changed = [(1, "report", report_fields(PLATFORM.report(guest_svn=7)[:-1] + b"\0")), fields[1]]
    changed[0][2][1] = (2, "guest_svn", 8)
    wrong = verify(put(tmp_path / "changed", form(changed)), "--policy", policy)
    assert isinstance(wrong.exception, Unverified)
    quote = form(quote_fields(FakeQuoter(INTEL).quote(td_report(), 4), 4))
    given = put(tmp_path / "collateral.json", collateral_json(INTEL.collateral(TeeType.TDX)))
    for data in (quote, b64encode(quote)):
        done = verify(put(tmp_path / "quote", data), "--collateral", given, "--policy", policy)
        assert "out of the message tdx.QuoteV4" in admitted(done)["taken_for"]


def test_a_directory_with_evidence_of_any_name(policy: Path, tmp_path: Path) -> None:
    """As the tools of others leave it: a report, its certificates, and what does not matter."""
    directory = tmp_path / "as it came"
    directory.mkdir()
    chain = PLATFORM.endorsements()
    put(directory / "vcek_milan.der", chain.leaf)
    put(directory / "cert_chain_milan", pem(chain.issuer) + pem(chain.root))
    put(directory / "notes.txt", b"what the guest said")
    (directory / "logs").mkdir()
    alone = verify(directory, "--policy", policy)
    assert json.loads(alone.stdout)["taken_for"].startswith("the certificate of an SNP signing key")
    put(directory / "report_milan.hex", PLATFORM.report().hex().encode())
    document = admitted(verify(directory, "--policy", policy))
    assert document["taken_for"] == "an SNP report, version 3, with 1 certificates, out of hex"
    put(directory / "another", PLATFORM.report())
    several = verify(directory, "--policy", policy).exception
    assert isinstance(several, Misuse)
    assert several.found == "another, report_milan.hex"
    # A name that is known says which is meant.
    put(directory / "report.bin", PLATFORM.report())
    admitted(verify(directory, "--policy", policy))


def test_several_in_one_file(policy: Path, tmp_path: Path) -> None:
    lines = [b"0x" + FakeQuoter(INTEL).quote(td_report(), 4).hex().encode() for _ in range(2)]
    done = verify(put(tmp_path / "quotes.hex", b"\n".join(lines)), "--policy", policy)
    assert isinstance(done.exception, Malformed)
    assert "several pieces of evidence in hex" in str(done.exception)
    assert done.exception.found == "2 lines, each from 0x on"


def test_compressed_evidence(policy: Path, tmp_path: Path) -> None:
    document = gzip.compress(FakeNitro().document())
    for data in (document, b64encode(document), json.dumps({"body": b64encode(document).decode()})):
        file = put(tmp_path / "evidence", data if isinstance(data, bytes) else data.encode())
        assert "out of gzip" in admitted(verify(file, "--policy", policy))["taken_for"]
    for wrong, message in (
        (document[:-1], "not one whole file of gzip"),
        (document + b"x", "not one whole file of gzip"),
        (document[:20] + b"\xff" * 20 + document[40:], "gzip"),
        (gzip.compress(bytes(64 << 20)), "not one whole file of gzip"),
    ):
        done = verify(put(tmp_path / "wrong", wrong), "--policy", policy)
        assert isinstance(done.exception, Malformed)
        assert message in str(done.exception)


def with_quote(quote: bytes, oid: str = "1.2.840.113741.1337.6") -> bytes:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "an enclave")])
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), 1, NOW, NOW + timedelta(days=1))
        .add_extension(x509.UnrecognizedExtension(x509.ObjectIdentifier(oid), quote), False)  # noqa: FBT003 - not critical
        .sign(key, hashes.SHA256())
    )
    return made.public_bytes(Encoding.DER)


@pytest.mark.parametrize("armour", [bytes, pem])
def test_a_certificate_with_a_quote_in_it(policy: Path, tmp_path: Path, armour: Any) -> None:
    made = with_quote(FakeQuoter(INTEL).quote(sgx_report(), 3))
    file = put(tmp_path / "server", armour(made))
    given = put(tmp_path / "collateral.json", collateral_json(INTEL.collateral(TeeType.SGX)))
    document = admitted(verify(file, "--collateral", given, "--policy", policy))
    assert "out of an RA-TLS certificate" in document["taken_for"]
    assert "nobody said what" in document["not_looked_at"][0]
    none = put(tmp_path / "none", armour(with_quote(b"", "1.2.3.4")))
    with pytest.raises(Malformed, match="a certificate, and no evidence"):
        raise verify(none, "--policy", policy).exception or AssertionError


def test_certificates_in_json(policy: Path, tmp_path: Path) -> None:
    """As the host agent of Azure's virtual machines gives them."""
    chain = PLATFORM.endorsements()
    given = {
        "vcekCert": pem(chain.leaf).decode(),
        "tcbm": "DB18000000000004",
        "certificateChain": (pem(chain.issuer) + pem(chain.root)).decode(),
    }
    file = put(tmp_path / "thim.json", json.dumps(given).encode())
    report = put(tmp_path / "report.bin", PLATFORM.report())
    admitted(verify(report, "--certificate", file, "--policy", policy))
    with pytest.raises(Malformed, match="certificates in JSON, and no evidence"):
        raise verify(file, "--policy", policy).exception or AssertionError


@pytest.mark.parametrize("name", ["report.bin", "attestation-report.bin", "attestation.bin"])
@pytest.mark.parametrize("beside", ["", "certs", "endorsements"])
def test_a_directory_as_tools_leave_it(
    policy: Path, tmp_path: Path, name: str, beside: str
) -> None:
    chain, directory = PLATFORM.endorsements(), tmp_path / "found"
    (directory / beside).mkdir(parents=True)
    put(directory / name, PLATFORM.report())
    put(directory / "request-file.bin", bytes(64))
    for each, der in (("vcek", chain.leaf), ("ask", chain.issuer), ("ark", chain.root)):
        put(directory / beside / f"{each}.pem", pem(der))
    admitted(verify(directory, "--policy", policy))


def test_the_kernels_report_interface_in_json(policy: Path, tmp_path: Path) -> None:
    """As configfs-tsm has it, alone and in a collection; the certificates may be PEM."""
    chain = PLATFORM.endorsements()
    entries = ((VCEK, pem(chain.leaf)), (ASK, pem(chain.issuer)), (ARK, pem(chain.root)))
    table = CertificateTable(entries).to_bytes()
    report = {
        "auxblob": urlsafe_b64encode(table).decode(),
        "outblob": urlsafe_b64encode(PLATFORM.report()).decode(),
        "provider": "sev_guest\n",
    }
    record = ["application/x", b64encode(json.dumps(report).encode()).decode()]
    collection = {"__cmwc_t": "tag:x", "tsm-report": record}
    wrapped = {"cmw": b64encode(json.dumps(collection).encode()).decode(), "eat_nonce": "x"}
    for value in (report, collection, wrapped):
        file = put(tmp_path / "evidence.json", json.dumps(value).encode())
        admitted(verify(file, "--policy", policy))
    both = put(tmp_path / "extended.bin", PLATFORM.report() + table)
    admitted(verify(both, "--policy", policy))


def test_a_request_to_verify_one(policy: Path, tmp_path: Path) -> None:
    value = {"tee": "nitro", "evidence": urlsafe_b64encode(FakeNitro().document()).decode()}
    for requests, fits in (([value], True), ([value, value], False)):
        data = json.dumps({"verification_requests": requests, "policy_ids": []}).encode()
        done = verify(put(tmp_path / "request.json", data), "--policy", policy)
        if fits:
            admitted(done)
        else:
            assert isinstance(done.exception, Malformed)


# What is none.


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (PLATFORM.endorsements().issuer, "a certificate, and no evidence"),
        (pem(PLATFORM.endorsements().root) * 2, "certificates or revocation lists, and no"),
        (INTEL.collateral(TeeType.SGX).root_crl, "a revocation list, and no evidence"),
        (INTEL.collateral(TeeType.SGX).tcb_info, "Intel's collateral, and no evidence"),
        (b'[{"pkey": {}}]', "keys of CCA platforms, and no evidence"),
        (b"\x81\0" + bytes(1022), "a TDREPORT, and no evidence"),
        (b"eyJhbGciOiJFUzI1NiJ9.e30.c2ln", "a JSON web token, and no evidence"),
        (bytes(32) + b"Spec ID Event03\0" + bytes(100), "an event log, and no evidence"),
        (b"CCEL" + bytes(52), "the ACPI table of an event log, and no evidence"),
        (b"\xff\x54\x43\x47\x80\x18" + bytes(90), "a TPM's quote by itself, and no evidence"),
        (b"\x02\0\x01\0" + bytes(1112), "a quote of EPID's, and no evidence"),
        (PLATFORM.report() + b"\x01" * 20, "neither a host's certificate table nor zeros"),
    ],
)
def test_what_is_taken_for_evidence(
    policy: Path, tmp_path: Path, data: bytes, message: str
) -> None:
    with pytest.raises(Malformed, match=message) as caught:
        raise verify(put(tmp_path / "file", data), "--policy", policy).exception or AssertionError
    assert caught.value.hint


@pytest.mark.parametrize(
    "data",
    [
        b"{}",
        b'{"quote": 5}',
        b'{"quote": ""}',
        b'{"evidence": {"evidence": {"evidence": {}}}}',
        b"[1, 2, 300]",
        b'"' + b"A" * 100 + b'"',
        b"-----BEGIN QUOTE-----\nAAAA\n-----END QUOTE-----\n",
        b"0x" + b"00" * 40,
        b"A" * 1000,
        b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
    ],
)
def test_what_is_no_evidence(policy: Path, tmp_path: Path, data: bytes) -> None:
    done = verify(put(tmp_path / "evidence", data), "--policy", policy)
    assert isinstance(done.exception, Malformed)
    assert json.loads(done.stdout)["verdict"] == "malformed"


def test_layers_are_bounded() -> None:
    data = b"evidence" * 10
    for _ in range(20):
        data = json.dumps(data.decode()).encode()
    with pytest.raises(Malformed, match="wrapped in too much"):
        unwrap(data)


def test_options_that_do_not_fit(policy: Path, tmp_path: Path) -> None:
    quote = put(tmp_path / "quote.bin", FakeQuoter(INTEL).quote(sgx_report(), 3))
    leaf = put(tmp_path / "vcek.der", PLATFORM.endorsements().leaf)
    for options in (
        ("--certificate", leaf),
        ("--nonce", "00"),
        ("--nonce", "x"),
        ("--tcb-status", "OutOfDate"),
    ):
        assert isinstance(verify(quote, *options, "--policy", policy).exception, Misuse), options
    assert isinstance(verify(quote, "--tcb-status", "Fine").exception, Malformed)
