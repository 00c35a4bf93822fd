"""A deployed workload signs with its keep's identity, and has evidence made; others verify both."""

from __future__ import annotations

import os
import subprocess
import sys
from base64 import b64decode
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, utils

from garrison.formats.evidence import workload_report_data
from garrison.formats.identity import CertifiedIdentity
from garrison.keep.keyring import IDENTITY_PREFIX

if TYPE_CHECKING:
    from garrison.testing.stack import Stack

pytestmark = [pytest.mark.xdist_group("stack")]

# Prints each answer in hex, a line each.
_SOURCE = """
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>
static int ask(const char *path, const char *text) {
  unsigned char buffer[4096];
  ssize_t count;
  int fd = open(path, O_RDWR);
  if (fd < 0 || (*text && write(fd, text, strlen(text)) < 0)) return 1;
  while ((count = read(fd, buffer, sizeof buffer)) > 0)
    for (ssize_t i = 0; i < count; i++) printf("%02x", buffer[i]);
  puts("");
  return count < 0;
}
int main(void) {
  return ask("/key/identity/sign", "hello") || ask("/attest/report", "nonce")
    || ask("/key/identity/chain", "");
}
"""


def test_what_a_workload_says_with_its_keeps_identity_is_verified(
    stack: Stack, tmp_path: Path
) -> None:
    (tmp_path / "main.c").write_text(_SOURCE)
    package = tmp_path / "package"
    package.mkdir()
    subprocess.run(
        [
            sys.executable, "-m", "ziglang", "cc", "-target", "wasm32-wasi", "-O2", "-s",
            "-o", str(package / "main.wasm"), str(tmp_path / "main.c"),
        ],
        check=True,
        env={"ZIG_GLOBAL_CACHE_DIR": str(Path(sys.prefix) / "zig-cache"), **os.environ},
    )  # fmt: skip
    (package / "Enarx.toml").write_text('[stdout]\nkind = "host"\n')
    stack.register_repo("asking", "--private", "--keep", "tee=snp")
    stack.publish(package, "asking:0.1.0")
    done = stack.run(*stack.deploy_arguments("asking:0.1.0"))
    assert done.returncode == 0, done.stderr
    signature, evidence, chain = map(bytes.fromhex, done.stdout.split())

    leaf, *_ = x509.load_pem_x509_certificates(chain)
    certified = CertifiedIdentity.from_certificate(leaf)
    assert certified is not None
    assert str(certified.workload.slug) == stack.slug("asking:0.1.0")
    public = leaf.public_key()
    assert isinstance(public, ec.EllipticCurvePublicKey)
    half = len(signature) // 2
    numbers = (int.from_bytes(part, "big") for part in (signature[:half], signature[half:]))
    # SNP signs with P-384, and so does the keep.
    public.verify(
        utils.encode_dss_signature(*numbers), IDENTITY_PREFIX + b"hello", ec.ECDSA(hashes.SHA384())
    )

    (tmp_path / "evidence.cbor").write_bytes(evidence)
    (tmp_path / "policy.toml").write_text(stack.policy())
    digest = b64decode(stack.command("tree", "digest", str(package)).strip() + "=")
    for nonce, code in ((b"nonce", 0), (b"other", 77)):
        bound = workload_report_data(digest, nonce).hex()
        verified = stack.run(
            "verify", str(tmp_path / "evidence.cbor"), "--policy", str(tmp_path / "policy.toml"),
            "--endorsements", str(stack.simulator), "--report-data", bound,
        )  # fmt: skip
        assert verified.returncode == code, verified.stderr
