"""`garrison verify` over what other projects put around evidence, which is the simulators'."""

from __future__ import annotations

import json
from base64 import b64encode
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
from click.testing import CliRunner
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from garrison.cli.verify import command
from garrison.errors import Malformed, Unavailable, Unverified
from garrison.formats import _cbor
from garrison.formats.azure import HclReport, ReportType
from garrison.formats.dcap_bundle import write_bundle
from garrison.formats.dcap_quote import MAX_QUOTE, TeeType
from garrison.formats.snp import SigningKey
from garrison.formats.snp_certificate_table import ASK, VCEK, CertificateTable
from garrison.steward.offline_binary import framed, map_as_json
from garrison.testing.azure import FakeAzure
from garrison.testing.cca import FakeCca
from garrison.testing.dcap import NOW, FakeIntel, FakeQuoter, sgx_report, td_report
from garrison.testing.guest_messages import binary
from garrison.testing.nitro import FakeNitro
from garrison.testing.snp import FakePlatform, chip_key
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

INTEL = FakeIntel()
QUOTER = FakeQuoter(INTEL)
PLATFORM = FakePlatform()
CHAIN = PLATFORM.endorsements()
POLICY = "\n".join(
    (
        snp_section(PLATFORM, vmpl='"any"', crl='"optional"'),
        nitro_section(FakeNitro()),
        tdx_section(INTEL),
        sgx_section(INTEL),
    )
)


def verify(directory: Path, data: bytes, *arguments: object) -> Result:
    """Verify `data`, with the collateral of all quotes and the issuers of all reports at hand."""
    if not (directory / "amd").exists():
        write_amd(directory / "amd", replace(CHAIN, crl=None))
    (directory / "policy.toml").write_text(POLICY)
    (directory / "evidence").write_bytes(data)
    given = (directory / "evidence", "--policy", directory / "policy.toml", "--json", *arguments)
    words = [str(each) for each in (*given, "--at", NOW.isoformat())]
    return CliRunner().invoke(command, words)


def admitted(done: Result) -> dict[str, Any]:
    assert done.exception is None, done.exception
    document: dict[str, Any] = json.loads(done.stdout)
    assert document["verdict"] == "admitted"
    return document


def collateral(directory: Path, tee: TeeType) -> tuple[str, Path]:
    path = directory / "collateral.json"
    path.write_bytes(collateral_json(INTEL.collateral(tee)))
    return "--collateral", path


def pem(der: bytes) -> bytes:
    return x509.load_der_x509_certificate(der).public_bytes(Encoding.PEM)


def number(value: int, size: int = 4) -> bytes:
    return value.to_bytes(size, "little")


# Frames.

SGX, TDX = QUOTER.quote(sgx_report(), 3), QUOTER.quote(td_report(), 4)
OE_REPORT = number(1) + number(2) + number(len(SGX), 8) + SGX
OE_EVIDENCE = number(1) + bytes(range(16)) + number(len(SGX) + 53, 8) + SGX + bytes(53)


def scale(kind: int, evidence: bytes, width: int) -> bytes:
    size = number(len(evidence) << 2 | {2: 1, 4: 2}[width], width)
    return bytes((0, kind)) + size + evidence + b"what comes after it"


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (OE_REPORT, "out of Open Enclave's report header"),
        (OE_REPORT + bytes(100), "out of Open Enclave's report header"),
        (OE_EVIDENCE, "with 53 bytes of padding, out of Open Enclave's evidence header"),
        (
            json.dumps({"Type": 2, "QuoteHex": OE_REPORT.hex().upper()}).encode(),
            "out of JSON member 'QuoteHex', out of hex, out of Open Enclave's report header",
        ),
        (
            json.dumps({"Quote": b64encode(SGX).decode(), "EnclaveHeldData": "AQID"}).encode(),
            "out of JSON member 'Quote', out of base64",
        ),
        (
            json.dumps({"intel_quote": SGX.hex()}).encode(),
            "out of JSON member 'intel_quote', out of hex",
        ),
        (
            json.dumps({"quote_b64": b64encode(SGX).decode(), "hex": "00"}).encode(),
            "out of JSON member 'quote_b64', out of base64",
        ),
        (scale(5, SGX, 2), "out of dstack's attestation"),
        (scale(0, SGX, 4), "out of dstack's attestation"),
    ],
)
def test_a_quote_in_a_frame(tmp_path: Path, data: bytes, told: str) -> None:
    document = admitted(verify(tmp_path, data, *collateral(tmp_path, TeeType.SGX)))
    assert document["taken_for"].endswith(told)
    assert document["taken_for"].startswith("an SGX quote, version 3")


def test_frames_of_other_evidence(tmp_path: Path) -> None:
    document = {"attestation_doc": b64encode(FakeNitro().document()).decode()}
    admitted(verify(tmp_path, json.dumps(document).encode()))
    admitted(verify(tmp_path, scale(2, FakeNitro().document(), 2)))
    given = ("--endorsements", tmp_path / "amd", "--certificate", tmp_path / "vcek.der")
    (tmp_path / "vcek.der").write_bytes(CHAIN.leaf)
    admitted(verify(tmp_path, scale(3, PLATFORM.report(), 2), *given))


@pytest.mark.parametrize(
    "data",
    [
        # Cut off, or of another size than it says, or not with a quote in it, or the machine's own.
        OE_REPORT[:-1],
        number(1) + number(2) + number(len(SGX) + 1, 8) + SGX,
        number(1) + number(2) + number(100, 8) + bytes(100),
        number(1) + number(1) + number(len(SGX), 8) + SGX,
        OE_EVIDENCE[:-1],
        scale(0, SGX, 2)[: len(SGX)],
        scale(8, SGX, 2),
        scale(0, bytes(200), 2),
        bytes((0, 0, 0)) + SGX,
        b"\0\0",
        b"",
    ],
)
def test_what_is_no_frame(tmp_path: Path, data: bytes) -> None:
    assert framed(data) is None
    assert isinstance(verify(tmp_path, data).exception, Malformed)


def test_answers_of_the_firmware_in_each_other_end(tmp_path: Path) -> None:
    answer = bytes(4) + number(1184) + bytes(24)
    done = verify(tmp_path, answer * 2000 + PLATFORM.report())
    with pytest.raises(Malformed, match="wrapped in too much"):
        raise done.exception or AssertionError


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-be"])
def test_text_as_windows_tools_write_it(tmp_path: Path, encoding: str) -> None:
    given = collateral(tmp_path, TeeType.SGX)
    for text in (b64encode(SGX).decode(), json.dumps({"quote": SGX.hex()})):
        mark = "\ufeff" if encoding == "utf-16-be" else ""
        admitted(verify(tmp_path, (mark + text + "\r\n").encode(encoding), *given))
    done = verify(tmp_path, b"\xff\xfe" + b"\x00\xd8" * 3)
    assert isinstance(done.exception, Malformed)


def test_objects_with_remarks_in_any_script(tmp_path: Path) -> None:
    """A service's answer has much beside the quote, and not all of it in ASCII."""
    given = collateral(tmp_path, TeeType.SGX)
    answer = {"intel_quote": SGX.hex(), "info": {"compose": "# — ü 中\n"}, "log": "x" * 600_000}
    data = json.dumps(answer, ensure_ascii=False)
    admitted(verify(tmp_path, data.encode(), *given))
    nested = json.dumps(
        {"format": "ü", "cpu": {"report": b64encode(SGX).decode()}}, ensure_ascii=False
    )
    admitted(verify(tmp_path, nested.encode(), *given))
    assert isinstance(
        verify(tmp_path, data.encode("latin-1", "replace")).exception, Malformed | Unavailable
    )
    assert isinstance(verify(tmp_path, b'{"quote": "\xfc"}').exception, Malformed)
    assert isinstance(verify(tmp_path, data.encode() * 5).exception, Malformed)


# Maps of CBOR.


def test_a_map_of_cbor(tmp_path: Path) -> None:
    """As a guest of Oasis sends it, and as Veraison's daemon does."""
    given = collateral(tmp_path, TeeType.SGX)
    bundle = _cbor.encode({"tcb": {"certs": b"none"}, "quote": SGX})
    assert "a CBOR map" in admitted(verify(tmp_path, bundle, *given))["taken_for"]
    nested = _cbor.encode({"v": 1, "quote": {"pcs": {"quote": _cbor.Tagged(24, SGX)}}})
    admitted(verify(tmp_path, nested, *given))
    entries = ((VCEK, CHAIN.leaf), (ASK, CHAIN.issuer))
    report = {
        "auxblob": CertificateTable(entries).to_bytes(),
        "outblob": PLATFORM.report(),
        "provider": "sev_guest",
    }
    done = verify(tmp_path, _cbor.encode(report), "--endorsements", tmp_path / "amd")
    assert "with 1 certificates" in admitted(done)["taken_for"]


@pytest.mark.parametrize(
    "data",
    [
        b"\xa1",
        b"\xa0",
        _cbor.encode({1: SGX}),
        _cbor.encode({"quote": {1: SGX}}),
        _cbor.encode({"quote": SGX}) + b"\0",
        _cbor.encode({"quote": b""}),
        _cbor.encode([SGX]),
    ],
)
def test_maps_that_are_none(tmp_path: Path, data: bytes) -> None:
    assert map_as_json(data) in (None, b'{"quote": []}')
    assert isinstance(verify(tmp_path, data).exception, Malformed)


# SNP.


def test_certificates_behind_a_report_and_beside_it(tmp_path: Path) -> None:
    chain = pem(CHAIN.leaf) + pem(CHAIN.issuer) + pem(CHAIN.root)
    told = admitted(verify(tmp_path, PLATFORM.report() + chain))["taken_for"]
    assert "with 1 certificates, out of a report with PEM behind it" in told
    text = b64encode(PLATFORM.report()).decode()
    for value in (
        {"evidence": text, "endorsements": b64encode(chain).decode()},
        {"raw": text, "endorsements": b64encode(chain).decode(), "format": "AMD_SEV_SNP_v1"},
        {"sev_snp": {"attestation_report": text, "cert_chain": [chain.decode()]}},
        {"AttestationReport": text, "Cert-Chain": chain.decode()},
        {"report": "0x" + PLATFORM.report().hex(), "vek_certs": ["0x" + CHAIN.leaf.hex()]},
        {"report_b64": text, "vcek_der_b64": b64encode(CHAIN.leaf).decode()},
    ):
        admitted(verify(tmp_path, json.dumps(value).encode()))
    assert isinstance(verify(tmp_path, PLATFORM.report() + chain[:60]).exception, Malformed)


def test_the_key_that_signed_is_found_among_many(tmp_path: Path) -> None:
    """A provider's keys name no chip, and may be of one TCB version."""
    platform = FakePlatform(kind=SigningKey.VLEK)
    vendor, directory = platform.vendor, tmp_path / "vlek"
    directory.mkdir()
    for index in range(6):
        vlek = vendor.vek(
            chip_key(index).public_key(), tcb=platform.tcb, kind=platform.kind, hwid=platform.hwid
        )
        (directory / f"{index}.der").write_bytes(vlek.public_bytes(Encoding.DER))
    (directory / "asvk.der").write_bytes(platform.endorsements().issuer)
    (directory / "ark.der").write_bytes(platform.endorsements().root)
    for index in range(6):
        admitted(verify(tmp_path, platform.report(key=index), "--endorsements", directory))
    done = verify(tmp_path, platform.report(key=6), "--endorsements", directory)
    with pytest.raises(Unverified, match="the signature is wrong"):
        raise done.exception or AssertionError


@pytest.mark.parametrize("days", [-700, 0, 400])
def test_of_several_certificates_for_one_key_that_of_the_time(tmp_path: Path, days: int) -> None:
    """AMD issues one at each request."""
    directory = tmp_path / "vcek"
    directory.mkdir()
    at = NOW + timedelta(days=days)
    for index, shift in enumerate((-700, 0, 400)):
        start = NOW + timedelta(days=shift - 1)
        other = replace(PLATFORM, start=start, lifetime=timedelta(days=2))
        (directory / f"{index}.der").write_bytes(other.endorsements().leaf)
    long = replace(PLATFORM, start=NOW - timedelta(days=3000), lifetime=timedelta(days=6000))
    (directory / "ask.der").write_bytes(long.endorsements().issuer)
    (directory / "ark.der").write_bytes(long.endorsements().root)
    (tmp_path / "policy.toml").write_text(snp_section(PLATFORM, vmpl='"any"', crl='"optional"'))
    write_amd(tmp_path / "amd", replace(long.endorsements(), crl=None))
    (tmp_path / "report").write_bytes(PLATFORM.report())
    given = (tmp_path / "report", "--endorsements", directory, "--policy", tmp_path / "policy.toml")
    words = [str(each) for each in (*given, "--json", "--at", at.isoformat())]
    admitted(CliRunner().invoke(command, words))


@pytest.mark.parametrize(
    ("platform", "path"),
    [(PLATFORM, "vcek/v1/Milan"), (FakePlatform.turin(SigningKey.VLEK), "vlek/v1/Turin")],
)
def test_where_the_issuers_are(tmp_path: Path, platform: FakePlatform, path: str) -> None:
    for name in ("report", "vek.der"):
        (tmp_path / name).write_bytes(
            platform.report() if name == "report" else platform.endorsements().leaf
        )
    words = ("report", "--certificate", "vek.der")
    given = [str(tmp_path / each) if each[0] != "-" else each for each in words]
    done = CliRunner().invoke(command, [*given, "--at", NOW.isoformat()])
    assert isinstance(done.exception, Unavailable)
    assert f"https://kdsintf.amd.com/{path}/cert_chain" in (done.exception.hint or "")


def test_the_certificate_of_another_chip_is_told(tmp_path: Path) -> None:
    other = replace(PLATFORM, hwid=b"\x77" * 64).endorsements().leaf
    (tmp_path / "vcek.der").write_bytes(other)
    given = ("--certificate", tmp_path / "vcek.der", "--endorsements", tmp_path / "amd")
    for report, where in (
        (PLATFORM.report(key=3), "get it from https://kdsintf.amd.com/vcek/v1/Milan/5a5a"),
        (PLATFORM.report(key=3, version=2), "/vcek/v1/Milan/5a5a"),
        (PLATFORM.report(key=3, version=2), "/vcek/v1/Genoa/5a5a"),
    ):
        done = verify(tmp_path, report, *given)
        with pytest.raises(Unverified, match="the signature is wrong") as told:
            raise done.exception or AssertionError
        assert "the certificate is another chip's" in (told.value.hint or "")
        assert where in (told.value.hint or "")
    masked = verify(tmp_path, PLATFORM.report(key=3, chip_id=bytes(64)), *given)
    assert isinstance(masked.exception, Unverified)
    assert not getattr(masked.exception, "hint", None)


# What it says.


def claims(done: Result) -> dict[str, str]:
    found: dict[str, str] = json.loads(done.stdout)["claims"]
    return found


@pytest.mark.parametrize(
    ("bits", "host", "moved", "ve", "counters"),
    [
        (1 << 28, "not allowed", "not allowed", "on", "off"),
        (1 | 1 << 29 | 1 << 63, "allowed", "allowed", "off", "on"),
    ],
)
def test_attributes_of_a_td_in_words(
    tmp_path: Path, bits: int, host: str, moved: str, ve: str, counters: str
) -> None:
    quote = QUOTER.quote(replace(td_report(), td_attributes=bits, xfam=0x61AE7), 4)
    told = claims(verify(tmp_path, quote, *collateral(tmp_path, TeeType.TDX)))
    assert told["td attributes"] == f"{bits:#018x}"
    assert told["td attributes: debugging by the host"] == host
    assert told["td attributes: migration"] == moved
    assert told["td attributes: SEPT_VE_DISABLE"] == ve
    assert told["td attributes: PERFMON"] == counters
    assert told["xfam"] == "0x0000000000061ae7"


def test_attributes_of_an_enclave_in_words(tmp_path: Path) -> None:
    for flags, host in ((5, "not allowed"), (7, "allowed")):
        report = replace(sgx_report(), attributes=bytes((flags,)).ljust(16, b"\0"))
        told = claims(verify(tmp_path, QUOTER.quote(report, 3)))
        assert told["attributes: debugging by the host"] == host


def test_claims_of_a_cca_token_in_words(tmp_path: Path) -> None:
    told = claims(verify(tmp_path, FakeCca().token()))
    assert told["platform: lifecycle"].startswith("secured (0x30")
    assert not any("message" in name for name in told)


def test_claims_of_a_paravisors_report_are_those_of_its_hardware(tmp_path: Path) -> None:
    told = claims(verify(tmp_path, FakeAzure().evidence().to_bytes()))
    assert told["hardware"] == "SNP"
    assert told["guest policy: debugging by the host"] == "not allowed"
    assert len(bytes.fromhex(told["launch measurement"])) == 48
    assert "r" not in told


def test_a_paravisors_report_alone(tmp_path: Path) -> None:
    """That of an SNP machine can be verified, but is bound to nobody; a TDREPORT cannot."""
    blob = HclReport.from_bytes(FakeAzure().evidence().report)
    path = tmp_path / "hcl"
    path.write_bytes(blob.to_bytes())
    alone = CliRunner().invoke(command, [str(path), "--at", NOW.isoformat()])
    with pytest.raises(Unavailable, match="certificate of the key that signed the report"):
        raise alone.exception or AssertionError
    assert "kdsintf.amd.com/vcek/v1/" in (getattr(alone.exception, "hint", None) or "")
    other = replace(blob, kind=ReportType.TDX, hardware=bytes(len(blob.hardware)))
    path.write_bytes(other.to_bytes())
    done = CliRunner().invoke(command, [str(path), "--json"])
    with pytest.raises(Unavailable, match="only its own machine can verify") as caught:
        raise done.exception or AssertionError
    assert "td_quote" in (caught.value.hint or "")
    assert claims(done)["hardware"] == "TDX"


@pytest.mark.parametrize("version", [1, 6])
def test_a_report_of_another_version_is_told_by_it(tmp_path: Path, version: int) -> None:
    done = verify(tmp_path, number(version) + PLATFORM.report()[4:])
    with pytest.raises(Malformed, match=f"VERSION: wrong value; found {version}; expected 2"):
        raise done.exception or AssertionError


# Certificates with evidence in them.


def certified(oid: str, evidence: bytes) -> bytes:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "an enclave")])
    value = x509.UnrecognizedExtension(x509.ObjectIdentifier(oid), evidence)
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), 1, NOW, NOW + timedelta(days=1))
        .add_extension(value, critical=False)
        .sign(key, hashes.SHA256())
    )
    return made.public_bytes(Encoding.DER)


@pytest.mark.parametrize(
    ("oid", "tee", "evidence", "told"),
    [
        ("1.2.840.113556.10.1.1", TeeType.SGX, OE_REPORT, "out of Open Enclave's report header"),
        ("1.2.840.113556.10.1.2", TeeType.SGX, OE_EVIDENCE, "Open Enclave's evidence header"),
        (
            "1.2.840.113556.10.1.1",
            TeeType.SGX,
            b"\x04\x82" + len(SGX).to_bytes(2, "big") + SGX,
            "out of an RA-TLS certificate",
        ),
        ("1.2.840.113741.1337.8", TeeType.TDX, TDX.ljust(8192, b"\0"), "bytes of padding, out of"),
        ("2.23.133.5.4.9", TeeType.SGX, _cbor.encode({"quote": SGX}), "a CBOR map"),
    ],
)
@pytest.mark.parametrize("armour", [bytes, pem])
def test_a_certificate_with_evidence(
    tmp_path: Path, oid: str, tee: TeeType, evidence: bytes, told: str, armour: Any
) -> None:
    document = admitted(
        verify(tmp_path, armour(certified(oid, evidence)), *collateral(tmp_path, tee))
    )
    assert "an RA-TLS certificate" in document["taken_for"]
    assert told in document["taken_for"]


def test_a_chain_of_which_one_has_evidence(tmp_path: Path) -> None:
    chain = pem(certified("1.2.3.4", b"x")) + pem(certified("1.2.840.113741.1337.6", SGX))
    admitted(verify(tmp_path, chain, *collateral(tmp_path, TeeType.SGX)))
    done = verify(tmp_path, pem(certified("1.2.3.4", b"x")) * 9 + chain)
    with pytest.raises(Malformed, match="certificates or revocation lists, and no evidence"):
        raise done.exception or AssertionError


def test_a_certificate_with_less_than_evidence(tmp_path: Path) -> None:
    for value in (b"\x02\x01\x01", b"\x04\x82\x10\x00", b"\x04\x81\x40" + bytes(63)):
        done = verify(tmp_path, certified("1.2.840.113556.10.1.2", value))
        assert isinstance(done.exception, Malformed)


def test_certificates_in_each_other_end(tmp_path: Path) -> None:
    for inner in (certified("1.2.840.113741.1337.6", SGX), b64encode(certified("1.2.3", SGX))):
        done = verify(tmp_path, certified("1.2.840.113741.1337.6", inner))
        with pytest.raises(Malformed, match="a certificate or request in a certificate"):
            raise done.exception or AssertionError
    huge = certified("1.2.840.113741.1337.6", SGX.ljust(2 * MAX_QUOTE, b"\0"))
    assert isinstance(verify(tmp_path, huge).exception, Malformed)


# Collateral.


def bundle(tee: TeeType) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(write_bundle(INTEL.collateral(tee)))
    return found


def test_collateral_in_arrays_and_under_other_names(tmp_path: Path) -> None:
    members, path = bundle(TeeType.TDX), tmp_path / "collateral.json"
    ended = {name: [*text.encode(), 0] for name, text in members.items()}
    lists = {name: list(bytes.fromhex(members[name])) for name in ("root_ca_crl", "pck_crl")}
    signed = {name: [each - 256 if each > 127 else each for each in lists[name]] for name in lists}
    renamed = {
        "root_crl_der_b64": b64encode(bytes(lists["root_ca_crl"])).decode(),
        "PckCrl": members["pck_crl"],
        "tcb_info_json": members["tcb_info"],
        "tcbInfoSignature_hex": members["tcb_info_signature"],
        "tcb_info_issuer_chain_pem": members["tcb_info_issuer_chain"],
        "qe_identity_json": members["qe_identity"],
        "qe_identity_signature": members["qe_identity_signature"],
        "qe_identity_issuer_chain_pem": members["qe_identity_issuer_chain"],
    }
    for written in (ended, members | lists, ended | signed, renamed):
        path.write_text(json.dumps(written))
        admitted(verify(tmp_path, TDX, "--collateral", path))
        admitted(verify(tmp_path, json.dumps(written | {"quote": TDX.hex()}).encode()))
        admitted(verify(tmp_path, json.dumps({"quote": TDX.hex(), "collateral": written}).encode()))
        with pytest.raises(Malformed, match="Intel's collateral, and no evidence"):
            raise verify(tmp_path, json.dumps(written).encode()).exception or AssertionError
    path.write_text(json.dumps(members | {"pck_crl": [256]}))
    with pytest.raises(Malformed, match="pck_crl: missing, or not text; expected a string, or an"):
        raise verify(tmp_path, TDX, "--collateral", path).exception or AssertionError


def test_collateral_beside_a_quote_that_cannot_be_read(tmp_path: Path) -> None:
    """The quote is read all the same, and verified with other collateral."""
    for beside in ({"tcb_info": {"mrtd": "00"}}, {"collateral": {"tcb_info": "{}"}}):
        data = json.dumps({"quote": TDX.hex()} | beside).encode()
        done = verify(tmp_path, data)
        assert isinstance(done.exception, Unavailable)
        assert "beside the quote there is collateral: root_ca_crl" in (done.exception.hint or "")
        assert claims(done)["version"] == "4"
        admitted(verify(tmp_path, data, *collateral(tmp_path, TeeType.TDX)))


# Project Oak.


def oak(*root: tuple[int, str, Any]) -> bytes:
    return binary(
        [
            (1, "root_layer", list(root)),
            (2, "layers", [(1, "eca_certificate", b"\x84C")]),
            (3, "application_keys", [(1, "encryption_public_key_certificate", b"\x84C")]),
            (4, "event_log", [(2, "encoded_events", b"\x0a"), (2, "encoded_events", b"\x0b")]),
            (5, "transparent_event_log", [(2, "encoded_events", b"\x0a")]),
            (7, "signed_user_data_certificate", b"\x84C"),
        ]
    )


def test_evidence_of_project_oak(tmp_path: Path) -> None:
    report = (2, "remote_attestation_report", TDX)
    data = oak((1, "platform", 2), report, (3, "eca_public_key", b"\x04" * 65))
    document = admitted(verify(tmp_path, data, *collateral(tmp_path, TeeType.TDX)))
    assert (
        "oak.attestation.v1.Evidence, of which the layers above the first"
        in (document["taken_for"])
    )
    escaped = "".join(f"\\{byte:03o}" for byte in TDX)
    text = (
        f'# kept\nroot_layer {{\n platform: INTEL_TDX\n remote_attestation_report: "{escaped}"\n}}'
    )
    admitted(verify(tmp_path, text.encode(), *collateral(tmp_path, TeeType.TDX)))
    for none in (
        oak((1, "platform", 3), (3, "eca_public_key", b"\x04" * 65)),
        b'layers { eca_certificate: "x" }',
    ):
        with pytest.raises(Malformed, match="no hardware's report in it"):
            raise verify(tmp_path, none).exception or AssertionError
