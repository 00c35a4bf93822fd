"""`garrison sign`: an image's signatures for SEV-SNP and SGX, in one file."""

from __future__ import annotations

from pathlib import Path

import click

from garrison import __version__
from garrison.cli import ui
from garrison.cli.key import sgx_body
from garrison.cli.options import read_file, write_new
from garrison.errors import Malformed, Misuse

_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
_MAX_INPUT = 16 * 1024
# AMD 56860, table 10: the bit that must be one, and multithreading, as the original's.
_DEFAULT_POLICY = 0x30000


def parse_integer(text: str, field: str) -> int:
    """Read a number, decimal or with 0x.

    Raises:
        Malformed: it is none.
    """
    try:
        return int(text, 0)
    except ValueError as error:
        raise Malformed(
            "not a number", field=field, found=repr(text[:40]), expected="as 196608 or 0x30000"
        ) from error


def parse_hex(text: str, size: int, field: str) -> bytes:
    """Read `size` bytes in hex.

    Raises:
        Malformed: it is anything else.
    """
    try:
        value = bytes.fromhex(text)
    except ValueError:
        value = b""
    if len(value) != size or len(text) != 2 * size:
        raise Malformed(
            "not such a value",
            field=field,
            found=repr(text[:40]),
            expected=f"{2 * size} hex digits",
        )
    return value


@click.command()
@click.option("--sev-measurement", metavar="HEX", help="The launch digest to sign.")
@click.option(
    "--sev-policy",
    metavar="NUMBER",
    default=hex(_DEFAULT_POLICY),
    show_default=True,
    help="The guest policy that the guest must be launched with.",
)
@click.option("--sev-guest-svn", type=int, default=0, show_default=True, help="Its version.")
@click.option("--sev-id-key", type=_FILE, help="The key that signs it.")
@click.option(
    "--sev-id-key-signature", type=_FILE, help="What `garrison key sev sign` made of that key."
)
@click.option(
    "--sgx-body",
    "sgx_body_file",
    type=_FILE,
    help="The enclave to sign: a SIGSTRUCT to be signed anew, or its body (128 bytes).",
)
@click.option("--sgx-key", type=_FILE, help="The key that signs it.")
@click.option(
    "--out",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write here, a new file, instead of to standard output.",
)
def command(
    sev_measurement: str | None,
    sev_policy: str,
    sev_guest_svn: int,
    sev_id_key: Path | None,
    sev_id_key_signature: Path | None,
    sgx_body_file: Path | None,
    sgx_key: Path | None,
    out: Path | None,
) -> None:
    """Sign an image for SEV-SNP, for SGX, or for both.

    Takes what `garrison image measure` prints. The result is one JSON document, as the
    original's.
    """
    from garrison.formats.snp import MEASUREMENT_SIZE
    from garrison.formats.snp_id_block import IdBlock, IdKeySignature
    from garrison.measure import sev_keys, sgx_keys
    from garrison.measure.signatures import Signatures

    sev = sgx = None
    if sev_measurement is not None and sev_id_key is not None and sev_id_key_signature is not None:
        block = IdBlock(
            launch_digest=parse_hex(sev_measurement, MEASUREMENT_SIZE, "--sev-measurement"),
            family_id=bytes(16),
            image_id=bytes(16),
            guest_svn=sev_guest_svn,
            policy=parse_integer(sev_policy, "--sev-policy"),
        )
        id_key = sev_keys.load(read_file(sev_id_key, _MAX_INPUT), "--sev-id-key")
        author = IdKeySignature.from_bytes(read_file(sev_id_key_signature, _MAX_INPUT))
        sev = block, sev_keys.sign_id_block(block, id_key, author)
    elif {sev_measurement, sev_id_key, sev_id_key_signature} != {None}:
        raise Misuse(
            "go together",
            field="--sev-measurement, --sev-id-key, --sev-id-key-signature",
            found="some of them",
            expected="all or none",
        )
    if sgx_body_file is not None and sgx_key is not None:
        key = sgx_keys.load(read_file(sgx_key, _MAX_INPUT), "--sgx-key")
        sgx = sgx_keys.sign(sgx_body(sgx_body_file), key)
    elif (sgx_body_file, sgx_key) != (None, None):
        raise Misuse("go together", field="--sgx-body, --sgx-key", expected="both or none")
    if sev is None and sgx is None:
        raise Misuse("nothing to sign", expected="--sev-measurement or --sgx-body, with its key")
    document = Signatures(__version__, sev, sgx).to_json()
    if out is None:
        ui.out(document)
    else:
        write_new(out, document.encode("ascii"))
