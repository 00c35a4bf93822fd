"""What is fuzzed: every parser of what comes from outside, each with its seeds.

A target takes any bytes. It fails with whatever it raises: a parser may refuse with `Malformed`,
and with nothing else; and what it takes must come out again. `exact`: the same bytes. `same`: bytes
that read as the same value. `only`: it has no writer.

The seeds are made by the simulators when the corpus is begun: nothing recorded is in here.
"""

from __future__ import annotations

import contextlib
import functools
import io
import json
import lzma
import random
import tarfile
import zipfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.serialization import Encoding

from garrison.drawbridge import layout, routes, rules
from garrison.endorsements import bundle as endorsement_bundle
from garrison.endorsements import kds
from garrison.endorsements.cache import Entry as CacheEntry
from garrison.endorsements.resource import Document, Kind, inspect
from garrison.errors import Malformed, Misuse, Rejected, Unavailable, Unverified
from garrison.formats import (
    _cbor,
    azure,
    cca,
    ccel,
    challenge_wire,
    channel,
    cmw,
    content_digest,
    corim,
    cose,
    csr,
    dcap_bundle,
    dcap_collateral,
    dcap_quote,
    deny_list,
    deployment_policy,
    digest,
    eif,
    enarx_toml,
    endpoint,
    guest_messages,
    guest_request,
    identity,
    jwk,
    launch_request,
    limits,
    nitro,
    ovmf,
    pe,
    peer_rule,
    semver,
    sgx_certificate,
    sgx_evidence,
    sgx_report,
    sgx_sigstruct,
    slug,
    snp,
    snp_certificate,
    snp_certificate_table,
    snp_evidence,
    snp_id_block,
    snp_report_json,
    strict_toml,
    tdx_report,
    tpm,
    tree,
    version_range,
)
from garrison.formats.dcap_quote import TeeType
from garrison.formats.evidence import SNP_MEDIA_TYPE, Evidence
from garrison.formats.snp import Product
from garrison.image import contents, cpio, deb, elf
from garrison.image.uki import extended
from garrison.measure import sev_keys, sgx_keys
from garrison.measure import snp as snp_measure
from garrison.measure import tdx as tdx_measure
from garrison.measure.uki import pcr11
from garrison.steward import ear, enarx_policy, issuance_log, offline_read, policy, revocation
from garrison.steward.challenge import Challenges
from garrison.steward.offline_endorsements import Endorsements
from garrison.testing import http_fuzzer, udp_fuzzer
from garrison.testing.azure import FakeAzure, runtime
from garrison.testing.azure import key as azure_key
from garrison.testing.cca import FakeCca
from garrison.testing.dcap import FakeIntel, FakeQuoter
from garrison.testing.dcap import sgx_report as sgx
from garrison.testing.dcap import td_report as td
from garrison.testing.firmware import fake_firmware
from garrison.testing.guest_messages import attestation_fields, binary, quote_fields
from garrison.testing.guest_messages import text as as_message
from garrison.testing.nitro import FakeNitro
from garrison.testing.nitro import key as p384_key
from garrison.testing.snp import FakePlatform
from garrison.testing.tees import collateral_json

Check = Callable[[bytes], None]
NOW = datetime(2026, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Target:
    """A parser under test."""

    check: Check
    seeds: Callable[[], Iterable[bytes]]


def exact(read: Callable[[bytes], Any], write: Callable[[Any], bytes]) -> Check:
    """What is read is written as the same bytes."""

    def check(data: bytes) -> None:
        with contextlib.suppress(Malformed):
            value = read(data)
            if write(value) != data:
                raise AssertionError(f"written as {write(value).hex()}")

    return check


def same(read: Callable[[bytes], Any], write: Callable[[Any], bytes]) -> Check:
    """What is read is written as bytes that read as the same, and are written the same."""

    def check(data: bytes) -> None:
        with contextlib.suppress(Malformed):
            value = read(data)
            written = write(value)
            try:
                again = read(written)
            except Malformed as error:
                raise AssertionError(f"written as {written!r}, which is refused") from error
            if again != value or write(again) != written:
                raise AssertionError(f"written as {written!r}")

    return check


def only(read: Callable[[bytes], Any], *also: type[Exception]) -> Check:
    """What is read has no writer; `also` is what it may refuse with besides."""

    def check(data: bytes) -> None:
        with contextlib.suppress(Malformed, *also):
            read(data)

    return check


def text(parse: Callable[[str], Any]) -> Callable[[bytes], Any]:
    """A parser of text, for bytes; what is not UTF-8 never reaches it."""

    def read(data: bytes) -> Any:
        try:
            found = data.decode()
        except UnicodeDecodeError as error:
            raise Malformed("not UTF-8") from error
        return parse(found)

    return read


def as_text(value: object) -> bytes:
    """What a value is in words, which its parser reads."""
    return str(value).encode()


# What the simulators make.


def _intel(tee: TeeType) -> dcap_collateral.DcapCollateral:
    return FakeIntel().collateral(tee)


def quotes() -> list[bytes]:
    """Quotes of every version and body."""
    quoter = FakeQuoter()
    td15 = td(tee_tcb_svn2=bytes(16), mr_service_td=bytes(48))
    bodies = ((sgx(), 3), (sgx(), 4), (td(), 4), (sgx(), 5), (td(), 5), (td15, 5))
    return [quoter.quote(body, version) for body, version in bodies]


def reports() -> list[bytes]:
    """SNP reports of every version and layout."""
    found = [FakePlatform().report(version=version) for version in snp.VERSIONS]
    return [*found, FakePlatform.turin().report(version=5)]


def platforms() -> list[FakePlatform]:
    """Machines of every layout and kind of key."""
    return [
        FakePlatform(),
        FakePlatform(kind=snp.SigningKey.VLEK),
        FakePlatform(Product.GENOA),
        FakePlatform.turin(),
    ]


def requests() -> list[bytes]:
    """Requests of keeps, ours and the original's."""
    key = p384_key("keep")
    evidence = Evidence(SNP_MEDIA_TYPE, FakePlatform().evidence().to_bytes())
    asked = identity.WorkloadIdentity(slug.Slug.parse("d.test/jane/chat:1.0.0"), bytes(32))
    return [
        csr.build_request(
            key, evidence=evidence, challenge=bytes(57), workload=asked, dns_names=["a.test"]
        ),
        csr.build_request(key, evidence=None, challenge=None, workload=None),
    ]


def enarx_sgx() -> list[bytes]:
    """The SGX evidence of the original's requests."""
    intel, made = FakeIntel(), _intel(TeeType.SGX)
    signers = [intel.certificate(name).public_bytes(Encoding.DER) for name in ("signer", "root")]
    lists = (("https://a.test/root", made.root_crl), ("https://a.test/ca", made.pck_crl))
    return [
        sgx_evidence.EnarxSgxEvidence(
            FakeQuoter(intel).quote(sgx(), 3), lists, tuple(signers), made.tcb_info
        ).to_der()
    ]


def enarx_snp() -> list[bytes]:
    """The SNP evidence of the original's requests."""
    chain = FakePlatform().endorsements()
    report = FakePlatform().report()
    assert chain.crl is not None
    crl = _sequence(b"\x0c\x05https", chain.crl)
    inner = _sequence(chain.leaf, _sequence(_sequence(crl)))
    return [_sequence(inner, b"\x04\x82\x04\xa0" + report)]


def _sequence(*parts: bytes) -> bytes:
    body = b"".join(parts)
    return b"\x30\x82" + len(body).to_bytes(2, "big") + body


def _bundle(tee: TeeType) -> bytes:
    return collateral_json(_intel(tee))


def _guest_messages() -> list[bytes]:
    platform = FakePlatform()
    fields = attestation_fields(platform.report(), platform.endorsements())
    quote = quote_fields(FakeQuoter(FakeIntel()).quote(td(), 4), 4)
    return [written(message) for message in (fields, quote) for written in (binary, as_message)]


def _sev_json(report: bytes) -> bytes:
    parsed = snp.Report.from_bytes(report)
    tcb = {"bootloader": 4, "tee": 0, "snp": 24, "microcode": 219}
    version = {"major": 1, "minor": 55, "build": 29}
    value: dict[str, Any] = {
        name: list(getattr(parsed, name))
        for name in [
            "family_id",
            "image_id",
            "report_data",
            "measurement",
            "host_data",
            "id_key_digest",
            "author_key_digest",
            "report_id",
            "report_id_ma",
            "chip_id",
        ]
    }
    value |= {
        "version": parsed.version,
        "guest_svn": 0,
        "policy": parsed.policy.bits,
        "vmpl": 0,
        "sig_algo": 1,
        "plat_info": parsed.platform_info.bits,
        "key_info": 0,
        "current": version,
        "committed": version,
        "signature": {"r": [1] * 72, "s": list(bytes(72))},
    }
    value |= dict.fromkeys(("current_tcb", "reported_tcb", "committed_tcb", "launch_tcb"), tcb)
    return json.dumps(value).encode()


def _table() -> list[bytes]:
    chain = FakePlatform().endorsements()
    entries = ((snp_certificate_table.VCEK, chain.leaf), (snp_certificate_table.ASK, chain.issuer))
    return [snp_certificate_table.CertificateTable(entries).to_bytes(), b""]


def files() -> list[bytes]:
    """All that `garrison verify` takes."""
    evidence = FakePlatform().evidence()
    table = _table()[0]
    azure_json = FakeAzure().evidence().to_bytes()
    quote = quotes()[0]
    wrapped = json.dumps({"quote": quote.hex()}).encode()
    size = len(quote).to_bytes(8, "little")
    return [
        # What others put around evidence.
        (1).to_bytes(4, "little") + (2).to_bytes(4, "little") + size + quote,
        (1).to_bytes(4, "little") + bytes(16) + size + quote,
        bytes((0, 0)) + (len(quote) << 2 | 1).to_bytes(2, "little") + quote,
        _cbor.encode({"quote": quote, "tcb": {"certs": b"x"}}),
        json.dumps({"Quote_B64": list(quote), "collateral": {"tcb_info": "x"}}).encode("utf-16"),
        b"\x0a\x80\x09\x08\x01\x12\xa0\x09" + evidence.report,
        evidence.report,
        evidence.report + table,
        evidence.report.hex().encode(),
        *quotes()[2:4],
        FakeNitro().document(),
        FakeCca().token(),
        azure_json,
        wrapped,
        cmw.encode(Evidence(SNP_MEDIA_TYPE, evidence.to_bytes())),
        *requests(),
        _sev_json(evidence.report),
    ]


def _read_file(data: bytes) -> None:
    found = offline_read._read(data, Endorsements())  # noqa: SLF001 - the reader without the file
    found.claims()
    assert found.what


@functools.cache
def _pck() -> sgx_certificate.PckCertificate:
    return sgx_certificate.PckCertificate.from_certificate(FakeIntel().certificate("pck"))


def _endorse(data: bytes) -> None:
    found = Endorsements()
    found.add(data, "endorsements")
    found.store()
    found.collateral("SGX", _pck())


def _log_line(data: bytes) -> None:
    lines = data.splitlines(keepends=True)
    issuance_log._verify(iter(lines), "log", None)  # noqa: SLF001 - the reader without the file


def _frames(data: bytes) -> list[channel.Frame]:
    reader = channel.FrameReader("fuzz", dict.fromkeys(channel.Kind, 4096))
    frames = reader.feed(data)
    reader.end()
    return frames


def _question(data: bytes) -> None:
    head, _, body = data.partition(b"\n")
    query = dict(part.partition("=")[::2] for part in head.decode("latin-1").split("&") if part)
    media_type = query.pop("type", None)
    ear.Question.read(media_type, body, query)


def _challenge(data: bytes) -> None:
    Challenges(bytes(32)).check(data, NOW)


def _sgx_chain(data: bytes) -> None:
    for certificate in sgx_certificate.load_chain(data, "chain"):
        with contextlib.suppress(Malformed):
            sgx_certificate.PckCertificate.from_certificate(certificate)


def _policy(data: bytes) -> None:
    table = strict_toml.Table.parse(data, source="policy")
    policy.Policy._read(table, Path("/nonexistent"))  # noqa: SLF001 - the reader without the file
    table.done()


def _cache_entry() -> list[bytes]:
    crl = FakePlatform().endorsements().crl or b""
    entry = CacheEntry(
        kds.crl(Product.MILAN, snp.SigningKey.VCEK).url, Kind.CRL, NOW, Document(crl, b"")
    )
    return [entry.to_bytes()]


def _documents(data: bytes) -> None:
    for kind in Kind:
        with contextlib.suppress(Malformed):
            inspect(kind, Document(data, data), "document")


def _routes(data: bytes) -> None:
    routes.parse.__wrapped__(data.decode("latin-1"))


def _eif() -> list[bytes]:
    kinds = eif.EifSectionKind
    sections = [eif.EifSection(kind, b"content") for kind in (kinds.KERNEL, kinds.CMDLINE)]
    return [eif.Eif(tuple(sections)).to_bytes()]


def _id_auth() -> list[bytes]:
    block = snp_id_block.IdBlock.from_bytes(_ID_BLOCK)
    author, key = p384_key("author"), p384_key("id")
    return [sev_keys.sign_id_block(block, key, sev_keys.sign_id_key(author, key)).to_bytes()]


def _sigstruct() -> list[bytes]:
    report = sgx()
    body = sgx_sigstruct.SigstructBody(
        misc_select=report.misc_select,
        misc_mask=b"\xff" * 4,
        cet=bytes(2),
        family_id=report.isv_family_id,
        attributes=report.attributes,
        attributes_mask=b"\xff" * 16,
        mrenclave=report.mr_enclave,
        extended_product_id=report.isv_ext_prod_id,
        product_id=1,
        security_version=8,
    )
    return [sgx_keys.sign(body, sgx_keys.load(sgx_keys.create(), "key")).to_bytes()]


def _image() -> list[bytes]:
    """The least PE image: a header of 512 bytes, 16 directories, and no section."""
    optional = (0x20B).to_bytes(2, "little").ljust(60, b"\0") + (512).to_bytes(4, "little")
    optional = optional.ljust(108, b"\0") + (16).to_bytes(4, "little")
    coff = bytes(16) + (240).to_bytes(2, "little") + bytes(2)
    head = b"MZ".ljust(0x3C, b"\0") + b"\x40\0\0\0" + b"PE\0\0" + coff + optional
    return [head.ljust(512, b"\0")]


_ID_BLOCK = bytes(80) + (1).to_bytes(4, "little") + bytes(4) + (3 << 16).to_bytes(8, "little")
_DEPLOYMENT = b"""
[network.incoming.8443]
peers = ["d.test/jane/chat:^1.0; tee=snp"]
[network.outgoing."db.test:5432"]
[limits]
memory = "256MiB"
"""
_LAUNCH = launch_request.LaunchRequest(
    "d.test/jane/chat:1.0.0", "https://s.test", "PEM", None, {"kind": "configfs"}
)
_ORIGINAL = b"""
[snp]
signer = ["%s"]
hash_blacklist = ["%s"]
abi = ">=1.51"
policy_flags = ["SMT"]
[sgx]
hash = ["%s"]
allowed_advisories = ["INTEL-SA-00615"]
enclave_product_id = 0
""" % (b"ab" * 48, b"cd" * 48, b"ef" * 32)
_REVOKED = revocation.Revocation(7, NOW, NOW, revocation.Reason.KEY_COMPROMISE)
_POLICY = b"""
trust_domain = "example.test"
freshness = "required"
local_workloads = true
[certificates]
lifetime_minutes = 5
[nitro.pcrs]
0 = ["%s"]
others = "any"
[tdx]
mr_td = "any"
mr_seam = "any"
mr_config_id = "any"
mr_owner = "any"
mr_owner_config = "any"
mr_service_td = "any"
tcb_statuses = ["UpToDate"]
advisories = []
minimum_tcb_evaluation = 17
[tdx.rtmrs]
others = "zero"
[deny]
measurements = ["%s"]
""" % (b"ab" * 48, b"cd" * 48)
_ENARX = b"""
steward = "https://steward.test"
args = ["a"]
[env]
A = "b"
[[files]]
kind = "listen"
name = "in"
prot = "tls"
port = 443
"""
_FOSDEM = b"""
[stdout]
kind = "host"
[network.incoming.8443]
prot = "tls"
peers = ["d.test/jane/chat:1.0.0"]
[network.outgoing."a.test:443"]
prot = "tls"
"""
_CORIM = _cbor.encode(
    _cbor.Tagged(
        501,
        {
            0: "vendor",
            1: [
                _cbor.Tagged(
                    506,
                    _cbor.encode(
                        {
                            1: {0: "tag"},
                            4: {0: [[{0: {1: "v", 2: "m"}}, [{1: {2: [[7, bytes(48)]]}}]]]},
                        }
                    ),
                )
            ],
        },
    )
)


def _ccel() -> list[bytes]:
    first = bytes(4) + (3).to_bytes(4, "little") + bytes(20) + (36).to_bytes(4, "little")
    spec = b"Spec ID Event03\0".ljust(36, b"\0")
    event = (1).to_bytes(4, "little") + (1).to_bytes(4, "little") + (1).to_bytes(4, "little")
    event += (12).to_bytes(2, "little") + bytes(48) + (4).to_bytes(4, "little") + b"data"
    return [first + spec + event]


def _pe(data: bytes) -> None:
    pe.authenticode(data, "sha256")


def _uki(data: bytes) -> None:
    """A stub is extended, and found in what comes of it are its sections and ours."""
    made = extended(data, {".linux": b"kernel"})
    pcr11(made)


def _boots(data: bytes) -> None:
    """What of a firmware is measured, as a guest of SNP and as a TD."""
    firmware = ovmf.Firmware.from_bytes(data)
    for vcpus in (1, 2):
        with contextlib.suppress(Misuse):
            snp_measure.launch_digest(firmware, vcpus=vcpus, signature=1, kernel=_HASHES)
    tdx_measure.mrtd(firmware)


_HASHES = snp_measure.KernelHashes.of(b"kernel", b"initrd", "quiet")


def _deb(data: bytes) -> None:
    """The archive in a package: what is around it is compressed, and leads nowhere."""
    packed = lzma.compress(data, preset=0)
    head = b"data.tar.xz".ljust(48) + str(len(packed)).encode().ljust(10) + b"`\n"
    deb.files(b"!<arch>\n" + head + packed)


def _tar() -> list[bytes]:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for name, kind, target in (
            ("./", tarfile.DIRTYPE, ""),
            ("./usr/a", tarfile.REGTYPE, ""),
            ("./usr/b", tarfile.LNKTYPE, "./usr/a"),
            ("./usr/c", tarfile.SYMTYPE, "a"),
        ):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, target
            tar.addfile(info)
    return [out.getvalue()]


def _zip() -> list[bytes]:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a/b.py", b"x = 1\n" * 99)
        archive.writestr("c", b"")
    return [out.getvalue()]


def _stub() -> list[bytes]:
    """A PE image with room for sections, and one of 512 bytes."""
    head = bytearray(_image()[0].ljust(1024, b"\0"))
    start = 0x40 + 24
    head[0x46:0x48] = b"\x01\0"
    for offset, value in ((32, 4096), (36, 512), (60, 1024)):
        head[start + offset : start + offset + 4] = value.to_bytes(4, "little")
    section = b".text\0\0\0" + b"".join(n.to_bytes(4, "little") for n in (100, 4096, 512, 1024))
    head[start + 240 : start + 240 + len(section)] = section
    return [bytes(head) + b"\xcc" * 512]


def _elf() -> list[bytes]:
    head = bytearray(b"\x7fELF\x02\x01".ljust(64, b"\0"))
    head[32:40], head[54:58] = (64).to_bytes(8, "little"), b"\x38\0\x01\0"
    segment = b"\x01\0\0\0\x05\0\0\0" + bytes(24) + (120).to_bytes(8, "little") + bytes(16)
    return [bytes(head) + segment + b"tail"]


_TD = (0, 0x1000, 0xFFFFC000, 0x1000, 0, 1), (0, 0, 0x809000, 0x2000, 2, 0)


def _word(value: bytes) -> Callable[[], Iterable[bytes]]:
    return lambda: value.split(b" ")


def _tree() -> list[bytes]:
    hashed = content_digest.ContentDigest(
        {"sha-224": bytes(28), "sha-256": bytes(32), "sha-384": bytes(48), "sha-512": bytes(64)}
    )
    entry = tree.Entry(hashed, 5, "application/wasm")
    return [entry.to_bytes(), tree.Directory({"main.wasm": entry}).to_bytes()]


def _signed(member: str) -> Callable[[bytes], dcap_collateral.Signed]:
    return lambda data: dcap_collateral.Signed.from_bytes(data, member)


def _cert(certificate: Any) -> bytes:
    der: bytes = certificate.public_bytes(Encoding.DER)
    return der


TARGETS: dict[str, Target] = {
    "azure_evidence": Target(
        same(azure.AzureEvidence.from_bytes, azure.AzureEvidence.to_bytes),
        lambda: [FakeAzure().evidence().to_bytes()],
    ),
    "azure_hcl": Target(
        exact(azure.HclReport.from_bytes, azure.HclReport.to_bytes),
        lambda: [FakeAzure().blob().to_bytes()],
    ),
    "azure_runtime": Target(
        only(azure.RuntimeData.from_bytes), lambda: [runtime(azure_key("fuzz"))]
    ),
    "cbor": Target(
        exact(lambda data: _cbor.decode(data, "CBOR", 1 << 16), _cbor.encode),
        lambda: [FakeCca().token(), FakeNitro().document(), _CORIM],
    ),
    "cca_token": Target(
        exact(cca.CcaToken.from_bytes, cca.CcaToken.to_bytes),
        lambda: [FakeCca().token(), FakeCca(legacy=True).token()],
    ),
    "ccel": Target(only(lambda data: ccel.replay(ccel.read_log(data))), _ccel),
    "challenge_offer": Target(
        same(challenge_wire.Offer.from_bytes, challenge_wire.Offer.to_bytes),
        lambda: [Challenges(bytes(32)).issue(NOW).to_bytes()],
    ),
    "challenge": Target(
        only(_challenge, Unverified, Rejected),
        lambda: [Challenges(bytes(32)).issue(NOW).challenge],
    ),
    "channel": Target(
        exact(_frames, lambda frames: b"".join(frame.to_bytes() for frame in frames)),
        lambda: [channel.Frame(kind, b"{}").to_bytes() for kind in channel.Kind],
    ),
    "channel_phase": Target(
        only(channel.Phase.from_bytes), lambda: [b"ready 1.250", b"listening 0.001"]
    ),
    "channel_file": Target(
        same(channel.File.from_bytes, channel.File.to_bytes), lambda: [b"main.wasm\0content"]
    ),
    "cmw": Target(
        exact(cmw.decode, cmw.encode), lambda: [cmw.encode(Evidence(SNP_MEDIA_TYPE, b"evidence"))]
    ),
    "content_digest": Target(
        same(
            text(content_digest.ContentDigest.from_header), lambda value: value.to_header().encode()
        ),
        lambda: [content_digest.ContentDigest({"sha-256": bytes(32)}).to_header().encode()],
    ),
    "corim": Target(only(corim.Corim.from_bytes), lambda: [_CORIM]),
    "cose": Target(
        exact(
            lambda data: cose.CoseSign1.from_bytes(data, "COSE", 1 << 14), cose.CoseSign1.to_bytes
        ),
        lambda: [
            FakeNitro().document(),
            FakeNitro().document(tagged=True),
            FakeNitro().document(indefinite=True),
        ],
    ),
    "csr": Target(only(csr.Request.from_der, Unverified), requests),
    "csr_bundle": Target(
        exact(csr.decode_bundle, csr.encode_bundle), lambda: [csr.encode_bundle(requests())]
    ),
    "csr_answer": Target(
        exact(csr.decode_bundle_answer, lambda pair: csr.encode_bundle_answer(*pair)),
        lambda: [
            csr.encode_bundle_answer(
                [FakeIntel().certificate("root")], [FakeIntel().certificate("pck")]
            )
        ],
    ),
    "pki_path": Target(
        exact(csr.decode_pki_path, csr.encode_pki_path),
        lambda: [csr.encode_pki_path([FakeIntel().certificate("root")])],
    ),
    "dcap_bundle": Target(
        only(dcap_bundle.read_bundle), lambda: [_bundle(TeeType.SGX), _bundle(TeeType.TDX)]
    ),
    "dcap_quote": Target(exact(dcap_quote.Quote.from_bytes, dcap_quote.Quote.to_bytes), quotes),
    "dcap_signed": Target(
        only(_signed("tcbInfo")),
        lambda: [_intel(TeeType.TDX).tcb_info, _intel(TeeType.SGX).tcb_info],
    ),
    "dcap_tcb_info": Target(
        only(dcap_collateral.TcbInfo.from_json),
        lambda: [json.dumps(FakeIntel().tcb_info(tee)).encode() for tee in TeeType],
    ),
    "dcap_qe_identity": Target(
        only(dcap_collateral.EnclaveIdentity.from_json),
        lambda: [json.dumps(FakeIntel().qe_identity(tee)).encode() for tee in TeeType],
    ),
    "deny_list": Target(
        same(deny_list.DenyList.from_json, deny_list.DenyList.to_json),
        lambda: [deny_list.DenyList(10, measurements=frozenset([bytes(48)])).to_json()],
    ),
    "deployment_policy": Target(
        only(deployment_policy.DeploymentPolicy.from_bytes), lambda: [_DEPLOYMENT]
    ),
    "digest": Target(only(text(digest.parse_digest)), _word(b"A" * 43)),
    "digest_url": Target(only(text(digest.parse_digest_url)), _word(b"A" * 43)),
    "eif": Target(exact(eif.Eif.from_bytes, eif.Eif.to_bytes), _eif),
    "enarx_toml": Target(only(enarx_toml.Config.from_bytes), lambda: [_ENARX, _FOSDEM]),
    "endpoint": Target(
        same(text(endpoint.Endpoint.parse), as_text), _word(b"a.test:443 [::1]:80 127.0.0.1")
    ),
    "guest_message": Target(only(guest_messages.read_message), _guest_messages),
    "guest_request": Target(
        same(guest_request.GuestRequest.from_json, guest_request.GuestRequest.to_json),
        lambda: [
            guest_request.GuestRequest(_LAUNCH).to_json(),
            guest_request.GuestRequest(
                guest_request.Local(("a",)), {"a.test": "127.0.0.1"}
            ).to_json(),
        ],
    ),
    # No parsers: what a component calls with these bytes for choices (`testing.call_fuzzer`).
    "wasi_http": Target(
        http_fuzzer.run,
        lambda: [random.Random(seed).randbytes(1024) for seed in range(16)],  # noqa: S311
    ),
    "wasi_udp": Target(
        udp_fuzzer.run,
        lambda: [random.Random(seed).randbytes(1024) for seed in range(16)],  # noqa: S311
    ),
    "workload_identity": Target(
        exact(identity.WorkloadIdentity.from_der, identity.WorkloadIdentity.to_der),
        lambda: [
            identity.WorkloadIdentity(slug.Slug.parse("d.test/jane/chat:1.0.0"), bytes(32)).to_der()
        ],
    ),
    "jwk": Target(only(jwk.decode), lambda: [jwk.encode("ES384", p384_key("keep").public_key())]),
    "launch_request": Target(
        same(launch_request.LaunchRequest.from_json, launch_request.LaunchRequest.to_json),
        lambda: [_LAUNCH.to_json()],
    ),
    "limit": Target(
        only(text(lambda value: limits.parse_limit(value, field="limit"))),
        _word(b"memory=1GiB memory=64MiB"),
    ),
    "nitro_document": Target(
        exact(nitro.NitroDocument.from_bytes, nitro.NitroDocument.to_bytes),
        lambda: [
            FakeNitro().document(),
            FakeNitro().document(tagged=True),
            FakeNitro().document(indefinite=True),
        ],
    ),
    "ovmf": Target(only(ovmf.Firmware.from_bytes), lambda: [fake_firmware()]),
    "pe": Target(only(_pe), _image),
    "image_cpio": Target(
        only(cpio.unpacked),
        lambda: [cpio.archive({"a/b": cpio.Entry.file(b"c"), "l": cpio.Entry.link("a")})],
    ),
    "image_deb": Target(only(_deb), _tar),
    "image_elf": Target(only(elf.strip), _elf),
    "image_stub": Target(only(_uki), _stub),
    "image_wheel": Target(only(functools.partial(contents.wheel, name="wheel")), _zip),
    "measure_firmware": Target(
        only(_boots, Misuse), lambda: [fake_firmware(tdx=_TD), fake_firmware(tdx=_TD, pages=3)]
    ),
    "peer_rule": Target(
        only(text(peer_rule.PeerRule.parse)), _word(b"d.test/jane/chat:1.0.0 sha256:" + b"A" * 43)
    ),
    "semver": Target(
        same(text(semver.Version.parse), as_text), _word(b"1.2.3-rc.1+build 0.0.0 10.20.30")
    ),
    "semver_range": Target(only(text(semver.Range.parse)), _word(b"^1.2 >=1.0.0,<2 ~1")),
    "version_range": Target(
        same(text(version_range.VersionRange.parse), as_text), _word(b">=1.51 >=1.51,<2 =1")
    ),
    "pck_chain": Target(only(_sgx_chain), lambda: [FakeIntel().pem("pck", "ca", "root") + b"\0"]),
    "sgx_enarx_evidence": Target(
        exact(sgx_evidence.EnarxSgxEvidence.from_der, sgx_evidence.EnarxSgxEvidence.to_der),
        enarx_sgx,
    ),
    "sgx_report": Target(
        exact(sgx_report.SgxReport.from_bytes, sgx_report.SgxReport.to_bytes),
        lambda: [sgx().to_bytes()],
    ),
    "sgx_sigstruct": Target(only(sgx_sigstruct.Sigstruct.from_bytes), _sigstruct),
    "slug": Target(
        same(text(slug.Slug.parse), as_text), _word(b"d.test/jane/chat:1.0.0 d.test:5000/a/b:0.1.0")
    ),
    "repository": Target(same(text(slug.Repository.parse), as_text), _word(b"d.test/jane/chat")),
    "snp_report": Target(exact(snp.Report.from_bytes, snp.Report.to_bytes), reports),
    "snp_report_json": Target(
        only(lambda data: snp_report_json.report_from_json(_object(data))),
        lambda: [_sev_json(FakePlatform().report())],
    ),
    "snp_tcb": Target(
        exact(lambda data: snp.Tcb.from_bytes(data, Product.TURIN), snp.Tcb.to_bytes),
        lambda: [FakePlatform.turin().tcb.to_bytes()],
    ),
    "snp_vek": Target(
        only(snp_certificate.VekCertificate.from_bytes),
        lambda: [platform.endorsements().leaf for platform in platforms()],
    ),
    "certificate": Target(
        exact(lambda data: snp_certificate.load_certificate(data, "certificate"), _cert),
        lambda: [platform.endorsements().issuer for platform in platforms()],
    ),
    "crl": Target(
        exact(lambda data: snp_certificate.load_crl(data, "list"), _cert),
        lambda: [FakePlatform().endorsements(revoked=[7]).crl or b"", _intel(TeeType.SGX).pck_crl],
    ),
    "snp_certificate_table": Target(
        only(snp_certificate_table.CertificateTable.from_bytes), _table
    ),
    "snp_evidence": Target(
        exact(snp_evidence.SnpEvidence.from_bytes, snp_evidence.SnpEvidence.to_bytes),
        lambda: [FakePlatform().evidence().to_bytes()],
    ),
    "snp_enarx_evidence": Target(only(snp_evidence.SnpEvidence.from_enarx), enarx_snp),
    "snp_id_block": Target(
        exact(snp_id_block.IdBlock.from_bytes, snp_id_block.IdBlock.to_bytes),
        lambda: [_ID_BLOCK],
    ),
    "snp_id_auth": Target(
        exact(snp_id_block.IdAuth.from_bytes, snp_id_block.IdAuth.to_bytes), _id_auth
    ),
    "toml": Target(
        only(lambda data: strict_toml.Table.parse(data, source="fuzz")), lambda: [_POLICY, _ENARX]
    ),
    "tdx_report": Target(
        exact(tdx_report.TdReport.from_bytes, tdx_report.TdReport.to_bytes),
        lambda: [td().to_bytes(), td(tee_tcb_svn2=bytes(16), mr_service_td=bytes(48)).to_bytes()],
    ),
    "tpm_quote": Target(
        exact(tpm.Quote.from_bytes, tpm.Quote.to_bytes), lambda: [FakeAzure().quote()]
    ),
    "tree_entry": Target(same(tree.Entry.from_bytes, tree.Entry.to_bytes), _tree),
    "tree_directory": Target(same(tree.Directory.from_bytes, tree.Directory.to_bytes), _tree),
    "tree_path": Target(only(text(tree.parse_path)), _word(b"a/b/c main.wasm")),
    # What the services and `garrison verify` put together from them.
    "appraise_question": Target(
        only(_question),
        lambda: [b"type=a/b&report_data=" + b"00" * 64 + b"\n" + FakePlatform().report()],
    ),
    "policy": Target(only(_policy, Misuse), lambda: [_POLICY]),
    "original_policy": Target(
        only(lambda data: enarx_policy.convert(data, "steward.toml", trust_domain="a.test")),
        lambda: [_ORIGINAL],
    ),
    "issuance_log": Target(
        only(_log_line, Unverified), lambda: [b'{"previous":"%s","seq":0}\n' % (b"0" * 64)]
    ),
    "revocations": Target(
        only(lambda data: revocation.from_bytes(data, "revocations")),
        lambda: [revocation.to_bytes((_REVOKED,))],
    ),
    "endorsement_cache": Target(exact(CacheEntry.from_bytes, CacheEntry.to_bytes), _cache_entry),
    "endorsement_bundle": Target(
        only(endorsement_bundle.Bundle.from_bytes, Unverified),
        lambda: [
            endorsement_bundle.Bundle.of(
                [CacheEntry.from_bytes(entry) for entry in _cache_entry()]
            ).to_bytes()
        ],
    ),
    "endorsement_document": Target(
        only(_documents),
        lambda: [FakeIntel().pem("ca", "root"), _intel(TeeType.SGX).tcb_info],
    ),
    "drawbridge_key": Target(
        only(text(layout.parse_key)),
        lambda: [layout.Name("repository", "jane", "chat").key().encode()],
    ),
    "drawbridge_path": Target(
        only(_routes, Rejected, Misuse),
        _word(b"api/v0.1.0/jane api/v0.1.0/jane/chat/_tag/1.0.0/tree/main.wasm"),
    ),
    "drawbridge_user": Target(
        same(rules.UserRecord.from_bytes, rules.UserRecord.to_bytes), lambda: [b'{"subject":"a|b"}']
    ),
    "drawbridge_repository": Target(
        same(rules.RepositoryConfig.from_bytes, rules.RepositoryConfig.to_bytes),
        lambda: [b'{"public":true}', b'{"public":false}'],
    ),
    "verify_file": Target(only(_read_file, Misuse, Unverified), files),
    "verify_endorsements": Target(
        only(_endorse, Misuse, Unavailable),
        lambda: [*_table(), FakeIntel().pem("signer", "root"), _bundle(TeeType.SGX)],
    ),
}


def _object(data: bytes) -> dict[str, Any]:
    try:
        value = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise Malformed("not JSON") from error
    if not isinstance(value, dict):
        raise Malformed("not an object")
    return value
