"""Bundles: the same bytes for the same documents, and nothing else is a bundle."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import given
from hypothesis import strategies as st

from garrison.cli.endorsements import command
from garrison.endorsements import bundle as bundle_module
from garrison.endorsements import kds, pcs
from garrison.endorsements.bundle import Bundle, Imported, put
from garrison.endorsements.cache import Cache, Entry
from garrison.endorsements.resource import Document, Kind
from garrison.errors import GarrisonError, Malformed, Misuse, Unavailable, Unverified
from garrison.formats.snp import Product, SigningKey
from garrison.testing.snp import NOW, FakePlatform
from garrison.testing.vendor_server import Answer, VendorServer, signed_json

if TYPE_CHECKING:
    from datetime import datetime
    from pathlib import Path

PLATFORM = FakePlatform()
CRL_URL = kds.crl(Product.MILAN, SigningKey.VCEK).url
CRL = Entry(CRL_URL, Kind.CRL, NOW, Document(PLATFORM.vendor.crl().public_bytes(Encoding.DER)))
LEAF = Entry(
    kds.vcek(Product.MILAN, PLATFORM.hwid, PLATFORM.tcb).url,
    Kind.VEK,
    NOW,
    Document(PLATFORM.endorsements().leaf),
)


def tcb_info(fmspc: str = "00906ed50000", issued: datetime = NOW) -> Entry:
    resource = pcs.tcb_info(pcs.IntelTee.SGX, fmspc)
    body = signed_json(Kind.TCB_INFO, issued, issued + timedelta(days=30))
    return Entry(resource.url, resource.kind, NOW, Document(body))


BUNDLE = Bundle.of([CRL, LEAF, tcb_info()])
DATA = BUNDLE.to_bytes()


def test_what_is_written_is_read() -> None:
    assert Bundle.from_bytes(DATA) == BUNDLE
    assert Bundle.of([tcb_info(), LEAF, CRL]).to_bytes() == DATA
    assert Bundle.from_bytes(Bundle.of([]).to_bytes()) == Bundle(())


def test_any_tool_opens_it() -> None:
    with tarfile.open(fileobj=io.BytesIO(DATA)) as tar:
        members = tar.getmembers()
        manifest = tar.extractfile("manifest.json")
        assert manifest is not None
        files = json.load(manifest)["files"]
    assert [member.name for member in members] == ["manifest.json", *sorted(files)]
    assert {(m.mode, m.uid, m.gid, m.mtime, m.uname) for m in members} == {(0o644, 0, 0, 0, "")}


@given(st.integers(min_value=0, max_value=len(DATA) * 8 - 1))
def test_no_bit_may_change(bit: int) -> None:
    data = bytearray(DATA)
    data[bit // 8] ^= 1 << bit % 8
    with pytest.raises((Malformed, Unverified)):
        Bundle.from_bytes(bytes(data))


@given(st.integers(min_value=0, max_value=len(DATA) - 1))
def test_no_byte_may_be_missing(length: int) -> None:
    with pytest.raises(Malformed):
        Bundle.from_bytes(DATA[:length])


@given(st.binary(max_size=2000))
def test_any_bytes_are_malformed(data: bytes) -> None:
    for each in (data, DATA + data[:1].ljust(1, b"x")):
        with pytest.raises(Malformed):
            Bundle.from_bytes(each)


def tar(*members: tuple[tarfile.TarInfo | str, bytes], mode: str = "w") -> bytes:
    output = io.BytesIO()
    with tarfile.open(fileobj=output, mode=mode, format=tarfile.USTAR_FORMAT) as file:  # type: ignore[call-overload]  # the mode is any of them
        for name, content in members:
            info = tarfile.TarInfo(name) if isinstance(name, str) else name
            info.size = len(content)
            file.addfile(info, io.BytesIO(content))
    return output.getvalue()


def manifest(*members: tuple[str, bytes], version: object = 1) -> tuple[str, bytes]:
    files = {name: hashlib.sha256(content).hexdigest() for name, content in members}
    text = json.dumps({"files": files, "version": version}, indent=1, sort_keys=True)
    return "manifest.json", text.encode()


def link(name: str, kind: bytes) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type = kind
    info.linkname = "/etc/passwd"
    return info


MEMBER = (CRL.name, CRL.to_bytes())
OTHER = (tcb_info().name, CRL.to_bytes())
STRANGE = Entry("https://vendor.test/crl", Kind.CRL, NOW, CRL.document)
UNKNOWN = (STRANGE.name, STRANGE.to_bytes())
WRONG = Entry(LEAF.url.replace("snpSPL=24", "snpSPL=25"), Kind.VEK, NOW, LEAF.document)
WRONG_CHIP = (WRONG.name, WRONG.to_bytes())
PATH = ("../../etc/cron.d/x", CRL.to_bytes())


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (tar(), "no manifest"),
        (tar(MEMBER), "no manifest"),
        (tar(("manifest.json", b"[]"), MEMBER), "no manifest"),
        (tar(("manifest.json", b'{"files": 1, "version": 1}'), MEMBER), "no manifest"),
        (tar(manifest(MEMBER, version=2), MEMBER), "another version; found 2; expected 1"),
        (tar(manifest(), MEMBER), "not the files of the manifest"),
        (tar(manifest(MEMBER)), "not the files of the manifest"),
        (tar(manifest(MEMBER), MEMBER, MEMBER), "there twice"),
        (tar(manifest(MEMBER), manifest(MEMBER), MEMBER), "there twice"),
        (tar(manifest(OTHER), OTHER), "not the document of its name"),
        (tar(manifest(UNKNOWN), UNKNOWN), "not a document of a vendor"),
        (tar(manifest(WRONG_CHIP), WRONG_CHIP), "not the certificate of that chip"),
        (tar(manifest(PATH), PATH), "not the document of its name"),
        (tar(manifest(("x", b"")), ("x", b"")), "not a cached document"),
        (tar(MEMBER, manifest(MEMBER)), "not as `export` writes it"),
        (tar(manifest(MEMBER), MEMBER) + bytes(10240), "not as `export` writes it"),
        (tar(manifest(MEMBER), MEMBER, mode="w:gz"), "not a tar file"),
        (tar(manifest(), (link("x", tarfile.SYMTYPE), b"")), "not a small file"),
        (tar(manifest(), (link("x", tarfile.LNKTYPE), b"")), "not a small file"),
        (tar(manifest(), (link("x", tarfile.DIRTYPE), b"")), "not a small file"),
        (tar(manifest(), (link("x", tarfile.FIFOTYPE), b"")), "not a small file"),
        (tar(("x", bytes(1 << 20))), "not a small file"),
        (bytes(bundle_module.MAX_BUNDLE + 1), "too long"),
    ],
)
def test_what_is_no_bundle(data: bytes, message: str) -> None:
    with pytest.raises(Malformed, match=message):
        Bundle.from_bytes(data)


def test_a_wrong_digest() -> None:
    with pytest.raises(Unverified, match=f"{CRL.name}: wrong digest"):
        Bundle.from_bytes(tar(manifest((CRL.name, LEAF.to_bytes())), MEMBER))


def test_too_many_documents(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bundle_module, "MAX_FILES", 1)
    with pytest.raises(Misuse, match="too many documents"):
        Bundle.of([CRL, LEAF])
    with pytest.raises(Malformed, match="too many files"):
        Bundle.from_bytes(DATA)


def test_an_older_document_does_not_replace_a_newer(cache: Cache) -> None:
    older, newer = tcb_info(issued=NOW - timedelta(days=1)), tcb_info()
    url = newer.url
    assert put(Bundle.of([newer, CRL]), cache).kept == []
    assert put(Bundle.of([older, CRL]), cache) == Imported([], [CRL_URL], [url])
    assert cache.read(Kind.TCB_INFO, url) == newer
    assert put(Bundle.of([older]), cache, force=True) == Imported([url], [], [])
    assert cache.read(Kind.TCB_INFO, url) == older
    assert put(Bundle.of([newer]), cache) == Imported([url], [], [])


# The commands.


def run(*arguments: object) -> str:
    """The output of `garrison platform endorsements` with `arguments`; errors are raised."""
    result = CliRunner().invoke(command, [str(each) for each in arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def test_export_and_import(tmp_path: Path, cache: Cache) -> None:
    for entry in (CRL, LEAF, tcb_info(), tcb_info("00806f050000")):
        cache.write(entry)
    file = tmp_path / "bundle.tar"
    assert "wrote 4 documents" in run("export", "--cache", cache.directory, file)
    output = run("export", "--cache", cache.directory, "--platform", "milan", file)
    assert "wrote 2 documents" in output
    first = file.read_bytes()
    run("export", "--cache", cache.directory, "--platform", "Milan", file)
    assert file.read_bytes() == first
    other = Cache(tmp_path / "other")
    output = run("import", "--cache", other.directory, file)
    assert "imported 2 documents; 0 were there already, 0 in a later version" in output
    assert other.entries() == sorted((CRL, LEAF), key=lambda entry: entry.name)
    assert "2 were there already" in run("import", "--cache", other.directory, file)
    shown = json.loads(run("show", "--cache", other.directory, "--json"))
    assert [item["url"] for item in shown] == [entry.url for entry in other.entries()]
    assert shown[0]["expires"] == "2027-01-01T00:00:00+00:00"
    assert f"2027-01-01T00:00:00+00:00  {CRL_URL}" in run("show", "--cache", other.directory)


def test_an_import_says_what_it_kept(tmp_path: Path, cache: Cache) -> None:
    cache.write(tcb_info())
    file = tmp_path / "bundle.tar"
    file.write_bytes(Bundle.of([tcb_info(issued=NOW - timedelta(days=1))]).to_bytes())
    assert "kept the later document of https://api.trusted" in run(
        "import", "--cache", cache.directory, file
    )
    assert "imported 1 documents" in run("import", "--cache", cache.directory, "--force", file)


def test_export_with_fetching(tmp_path: Path, vendor: VendorServer) -> None:
    crl = PLATFORM.vendor.crl().public_bytes(Encoding.DER)
    for kind in (SigningKey.VCEK, SigningKey.VLEK):
        vendor.serve(kds.crl(Product.MILAN, kind), Answer(body=crl))
    ca = tmp_path / "ca.pem"
    ca.write_text(vendor.authority.root_pem)
    cache, file = tmp_path / "cache", tmp_path / "bundle.tar"
    mirror = ("--kds", f"{vendor.origin}/kds", "--ca", ca)
    arguments = ("export", "--cache", cache, "--platform", "milan", "--fetch", *mirror, file)
    output = run(*arguments)
    assert "wrote 2 documents" in output
    # The chains are not there: that is told.
    assert output.count("warning: ") == 2
    assert "/kds/vcek/v1/Milan/cert_chain: cannot be fetched; found status 404" in output


@pytest.mark.parametrize(
    ("arguments", "family", "message"),
    [
        (["--fetch"], Misuse, "--fetch needs --platform"),
        (["--kds", "https://k.test"], Misuse, "need --fetch"),
        (["--platform", "rome"], Misuse, "not a platform"),
        (["--platform", "turin"], Unavailable, "the cache has nothing of that"),
    ],
)
def test_wrong_exports(
    tmp_path: Path, cache: Cache, arguments: list[str], family: type[GarrisonError], message: str
) -> None:
    cache.write(CRL)
    with pytest.raises(family, match=message):
        run("export", "--cache", cache.directory, *arguments, tmp_path / "bundle.tar")
    assert not (tmp_path / "bundle.tar").exists()


def test_importing_what_is_no_bundle(tmp_path: Path) -> None:
    file = tmp_path / "bundle.tar"
    file.write_bytes(b"nonsense")
    with pytest.raises(Malformed, match="bundle: not a tar file") as caught:
        run("import", "--cache", tmp_path / "cache", file)
    assert str(file) in str(caught.value.field)
    assert "endorsements export" in str(caught.value.hint)
