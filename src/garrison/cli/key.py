"""`garrison key`: keys that sign images for SEV and SGX."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from garrison.cli import ui
from garrison.cli.options import read_file, write_new

if TYPE_CHECKING:
    from collections.abc import Callable

    from garrison.formats.sgx_sigstruct import SigstructBody

_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
_OUT = click.option(
    "--out",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write here, a new file, instead of to standard output.",
)
# 128 bytes of a body or 1808 of a SIGSTRUCT; PEM files are smaller than this, too.
_MAX_INPUT = 16 * 1024


@click.group()
def command() -> None:
    """Keys that sign images: made, digested, used."""


@command.group()
def sev() -> None:
    """Keys for SEV-SNP: P-384, PKCS#8 PEM."""


@command.group()
def sgx() -> None:
    """Keys for SGX: RSA-3072 with exponent 3, PKCS#1 PEM."""


def _create(make: Callable[[], bytes], out: Path | None) -> None:
    pem = make()
    if out is None:
        ui.out(pem.decode("ascii").rstrip("\n"))
    else:
        write_new(out, pem, secret=True)


def _digest(digest: bytes, out: Path | None) -> None:
    if out is None:
        ui.out(digest.hex())
    else:
        write_new(out, digest.hex().encode("ascii"))


@sev.command("create")
@_OUT
def sev_create(out: Path | None) -> None:
    """Make a key, for an author or for an image (ID key)."""
    from garrison.measure import sev_keys

    _create(sev_keys.create, out)


@sev.command("digest")
@click.argument("key", type=_FILE)
@_OUT
def sev_digest(key: Path, out: Path | None) -> None:
    """Print the digest of KEY, as a steward's policy and a report have it."""
    from garrison.measure import sev_keys

    loaded = sev_keys.load(read_file(key, _MAX_INPUT), str(key))
    _digest(sev_keys.public(loaded).digest(), out)


@sev.command("sign")
@click.option("--author-key", type=_FILE, required=True, help="The key that vouches.")
@click.option("--id-key", type=_FILE, required=True, help="The key that is vouched for.")
@click.option(
    "--out",
    type=click.Path(dir_okay=False, path_type=Path),
    required=True,
    help="Write the signature and the author's public key here, a new file.",
)
def sev_sign(author_key: Path, id_key: Path, out: Path) -> None:
    """Have an author's key vouch for an ID key, for `garrison sign`."""
    from garrison.measure import sev_keys

    author = sev_keys.load(read_file(author_key, _MAX_INPUT), "--author-key")
    signed = sev_keys.sign_id_key(author, sev_keys.load(read_file(id_key, _MAX_INPUT), "--id-key"))
    write_new(out, signed.to_bytes())


@sgx.command("create")
@_OUT
def sgx_create(out: Path | None) -> None:
    """Make a key."""
    from garrison.measure import sgx_keys

    _create(sgx_keys.create, out)


@sgx.command("digest")
@click.argument("key", type=_FILE)
@_OUT
def sgx_digest(key: Path, out: Path | None) -> None:
    """Print the digest of KEY, MRSIGNER, as a steward's policy and a quote have it."""
    from garrison.formats.sgx_sigstruct import mrsigner
    from garrison.measure import sgx_keys

    loaded = sgx_keys.load(read_file(key, _MAX_INPUT), str(key))
    _digest(mrsigner(loaded.public_key().public_numbers().n), out)


@sgx.command("sign")
@click.option("--key", type=_FILE, required=True, help="The key that signs.")
@click.option(
    "--out",
    type=click.Path(dir_okay=False, path_type=Path),
    required=True,
    help="Write the SIGSTRUCT here, a new file.",
)
@click.argument("body", type=_FILE)
def sgx_sign(key: Path, out: Path, body: Path) -> None:
    """Sign an enclave.

    BODY is a SIGSTRUCT to be signed anew, as `gramine-sgx-sign` makes it, or its body alone
    (128 bytes).
    """
    from garrison.measure import sgx_keys

    loaded = sgx_keys.load(read_file(key, _MAX_INPUT), "--key")
    write_new(out, sgx_keys.sign(sgx_body(body), loaded).to_bytes())


def sgx_body(path: Path) -> SigstructBody:
    """What the file says of an enclave: a SIGSTRUCT, or its body alone.

    Raises:
        Malformed: it is neither.
    """
    from garrison.formats.sgx_sigstruct import SIGSTRUCT_SIZE, Sigstruct, SigstructBody

    data = read_file(path, _MAX_INPUT)
    if len(data) == SIGSTRUCT_SIZE:
        return Sigstruct.from_bytes(data).body
    return SigstructBody.from_bytes(data)
