"""Workloads out of an OCI registry, and tags that must be signed, from publishing to running."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from garrison.testing import oci
from garrison.testing.stack import Stack
from garrison.testing.tls import Authority

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from garrison.formats.signed_tag import SigningKey

pytestmark = [pytest.mark.xdist_group("oci")]

# `_start` calls `proc_exit` with a constant.
_EXITS_WITH = (
    b"\0asm\1\0\0\0\1\x08\2\x60\1\x7f\0\x60\0\0\2\x24\1\x16wasi_snapshot_preview1\x09proc_exit\0\0"
    b"\3\2\1\1\5\3\1\0\1\7\x13\2\6memory\2\0\6_start\0\1\x0a\x08\1\6\0\x41%b\x10\0\x0b"
)


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    directory: Path = tmp_path_factory.mktemp("stack")
    with Stack(directory) as stack:
        stack.start_services()
        stack.login()
        yield stack


def package(folder: Path, code: int) -> Path:
    folder.mkdir()
    (folder / "main.wasm").write_bytes(_EXITS_WITH % bytes([code]))
    (folder / "Enarx.toml").write_text("")
    return folder


@pytest.mark.skipif(
    oci.find() is None, reason="needs docker-registry: apt-get install docker-registry"
)
def test_a_workload_of_an_oci_registry_runs_as_itself(stack: Stack, tmp_path: Path) -> None:
    authority = Authority("Test Registry")
    ca = tmp_path / "ca.pem"
    ca.write_text(authority.root_pem)
    with oci.OciRegistry(tmp_path / "registry", authority) as registry:
        name = f"oci://{registry.host}/jane/seven:v1"
        options = ("--ca-bundle", str(ca))
        source = package(tmp_path / "seven", 7)
        digest = stack.command("tree", "digest", str(source)).strip()
        published = stack.command("package", "publish", *options, str(source), name)
        assert published.strip() == f"{name}@{digest}"
        assert f"@{digest}" in stack.command("package", "info", *options, name)
        stack.command("package", "fetch", *options, name, str(tmp_path / "copy"))
        assert (tmp_path / "copy/main.wasm").read_bytes() == (source / "main.wasm").read_bytes()
        deploy = [
            "deploy", "--backend", "nil", "--steward", stack.steward_url,
            "--steward-root", str(stack.steward_root), *options,
            "--insecure-simulate", f"snp={stack.simulator}", name,
        ]  # fmt: skip
        # The policy does not name the registry yet.
        done = stack.run(*deploy)
        assert done.returncode == 77, done.stderr
        assert "does not name this OCI registry" in done.stderr
        stack.oci_registries[registry.host] = ca
        stack.deny("")
        done = stack.run(*deploy)
        assert done.returncode == 7, done.stderr
        port = registry.host.rpartition(":")[2]
        assert f"spiffe://demo.test/oci_3a/localhost_3a{port}/jane/seven/v1" in done.stderr
        # Tags of such registries can be moved: what runs then is what the certificate says.
        stack.command("package", "publish", *options, str(package(tmp_path / "eight", 8)),
                      name.replace(":v1", ":v2"))  # fmt: skip
        root = tmp_path / "registry/root/docker/registry/v2/repositories/jane/seven/_manifests"
        links = {tag: root / f"tags/{tag}/current/link" for tag in ("v1", "v2")}
        links["v1"].write_bytes(links["v2"].read_bytes())
        assert stack.run(*deploy).returncode == 8


@pytest.mark.skipif(
    oci.find() is None, reason="needs docker-registry: apt-get install docker-registry"
)
def test_workloads_of_an_oci_registry_must_be_signed_where_the_policy_says_so(
    stack: Stack, tmp_path: Path
) -> None:
    trusted, other, public = _keys(tmp_path)
    authority = Authority("Test Registry")
    ca = tmp_path / "ca.pem"
    ca.write_text(authority.root_pem)
    source = package(tmp_path / "six", 6)
    with oci.OciRegistry(tmp_path / "registry", authority) as registry:
        options = ("--ca-bundle", str(ca))
        names = [f"oci://{registry.host}/jane/six:v{number}" for number in range(3)]
        for name, sign in zip(
            names, ((), ("--sign", str(trusted)), ("--sign", str(other))), strict=True
        ):
            stack.command("package", "publish", *options, *sign, str(source), name)
        stack.oci_registries[registry.host] = ca
        stack.tag_keys = public
        stack.deny("")
        try:
            for name, reason in zip(names, ("not signed", None, "not signed with a key"),
                                    strict=True):  # fmt: skip
                done = stack.run(
                    "deploy", "--backend", "nil", "--steward", stack.steward_url,
                    "--steward-root", str(stack.steward_root), *options,
                    "--insecure-simulate", f"snp={stack.simulator}", name,
                )  # fmt: skip
                assert (done.returncode == 6) == (reason is None), (name, done.stderr)
                assert reason is None or reason in done.stderr
        finally:
            stack.tag_keys = None
            del stack.oci_registries[registry.host]
            stack.deny("")


def _keys(folder: Path) -> tuple[Path, Path, Path]:
    """Two private keys, and the public key of the first."""
    keys: list[SigningKey] = [
        ec.generate_private_key(ec.SECP256R1()),
        ed25519.Ed25519PrivateKey.generate(),
    ]
    paths = [folder / "trusted.key", folder / "other.key"]
    for key, path in zip(keys, paths, strict=True):
        path.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    public = folder / "trusted.pem"
    public.write_bytes(
        keys[0].public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    )
    return paths[0], paths[1], public


def test_tags_must_be_signed_where_the_policy_says_so(stack: Stack, tmp_path: Path) -> None:
    trusted, other, public = _keys(tmp_path)
    source = package(tmp_path / "five", 5)
    stack.register_repo("five")
    options = (*stack.registry_options,)
    stack.publish(source, "five:0.0.1")
    stack.command("package", "publish", *options, "--sign", str(trusted), str(source),
                  stack.slug("five:0.0.2"))  # fmt: skip
    # An interrupted publication is completed, though the new signature differs.
    stack.command("package", "publish", *options, "--sign", str(trusted), str(source),
                  stack.slug("five:0.0.2"))  # fmt: skip
    stack.command("package", "publish", *options, "--sign", str(other), str(source),
                  stack.slug("five:0.0.3"))  # fmt: skip
    # A registry that lies serves one tag as another; that it is the same workload changes nothing.
    tags = stack.directory / "drawbridge/objects/tags/demo/five"
    shutil.copy(tags / "0.0.2", tags / "0.0.4")
    trees = stack.directory / "drawbridge/objects/trees/demo/five"
    shutil.copytree(trees / "0.0.2", trees / "0.0.4")
    for name in ("five:0.0.1", "five:0.0.2", "five:0.0.3", "five:0.0.4"):
        assert stack.run(*stack.deploy_arguments(name)).returncode == 5
    stack.tag_keys = public
    stack.deny("")
    try:
        assert stack.run(*stack.deploy_arguments("five:0.0.2")).returncode == 5
        for name, reason in (
            ("five:0.0.1", "not signed"),
            ("five:0.0.3", "not signed with a key"),
            ("five:0.0.4", "signed for another tag"),
        ):
            done = stack.run(*stack.deploy_arguments(name))
            assert done.returncode != 5, name
            assert reason in done.stderr, done.stderr
    finally:
        stack.tag_keys = None
        stack.deny("")
