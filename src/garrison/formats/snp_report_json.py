"""An SNP report as the crate `sev` writes it in JSON, a member for each field: back to its bytes.

Confidential Containers' guests send their evidence so: `{"attestation_report": {...},
"cert_chain": [{"cert_type": "VCEK", "data": [ints]}]}`. The members' names have changed over the
crate's versions (0.1 to 7), the fields are those of `garrison.formats.snp`. What is written here
was signed in its binary form: where a member is wrong or a bit was lost, the signature is.

It refuses members that are missing, and values of another type or size. Nothing is believed.
"""

from __future__ import annotations

from typing import Any

from garrison.errors import Malformed
from garrison.formats.snp import REPORT_SIZE, SIGNED_SIZE

_WHAT = "SNP report in JSON"
# Where the CPUID fields and the mitigation vectors end (56860, table 23).
_CHIP_ID_AT = 0x1A0
_SCALAR_FIELD = 72


def is_report(value: object) -> bool:
    """Whether a JSON value looks like such a report."""
    return isinstance(value, dict) and {"measurement", "report_data", "signature"} <= set(value)


def report_from_json(value: dict[str, Any]) -> bytes:
    """The bytes of the report, not yet read.

    Raises:
        Malformed: a member is missing, or not what it must be.
    """
    flags = value.get("key_info", value.get("_author_key_en", value.get("author_key_en")))
    head = b"".join(
        (
            _number(value, "version", 4),
            _number(value, "guest_svn", 4),
            _number(value, "policy", 8),
            _octets(value, "family_id", 16),
            _octets(value, "image_id", 16),
            _number(value, "vmpl", 4),
            _number(value, "sig_algo", 4),
            _tcb(value, "current_tcb"),
            _number(value, "plat_info", 8),
            _number({"key_info": flags}, "key_info", 4),
            bytes(4),
            _octets(value, "report_data", 64),
            _octets(value, "measurement", 48),
            _octets(value, "host_data", 32),
            _octets(value, "id_key_digest", 48),
            _octets(value, "author_key_digest", 48),
            _octets(value, "report_id", 32),
            _octets(value, "report_id_ma", 32),
            _tcb(value, "reported_tcb"),
            *(
                _number(value, name, 1, optional=True)
                for name in ("cpuid_fam_id", "cpuid_mod_id", "cpuid_step")
            ),
        )
    )
    rest = b"".join(
        (
            _octets(value, "chip_id", 64),
            _tcb(value, "committed_tcb"),
            _version(value, "current"),
            _version(value, "committed"),
            _tcb(value, "launch_tcb"),
            _number(value, "launch_mit_vector", 8, optional=True),
            _number(value, "current_mit_vector", 8, optional=True),
        )
    )
    signed = (head.ljust(_CHIP_ID_AT, b"\0") + rest).ljust(SIGNED_SIZE, b"\0")
    signature = _inner(value, "signature")
    scalars = [_octets(signature, name, _SCALAR_FIELD) for name in ("r", "s")]
    return (signed + b"".join(scalars)).ljust(REPORT_SIZE, b"\0")


def _inner(value: dict[str, Any], name: str) -> dict[str, Any]:
    found = value.get(name)
    if not isinstance(found, dict):
        raise _wrong(name, found, "an object")
    return found


def _number(value: dict[str, Any], name: str, size: int, *, optional: bool = False) -> bytes:
    found = value.get(name)
    if found is None and optional:
        found = 0
    if type(found) is not int or not 0 <= found < 1 << 8 * size:
        raise _wrong(name, found, f"a number of {size} bytes")
    return found.to_bytes(size, "little")


def _octets(value: dict[str, Any], name: str, size: int) -> bytes:
    found = value.get(name)
    data = b""
    if isinstance(found, list) and all(type(item) is int and 0 <= item < 256 for item in found):
        data = bytes(found)
    elif isinstance(found, str):
        try:
            data = bytes.fromhex(found)
        except ValueError:
            data = b""
    if len(data) != size:
        raise _wrong(name, found, f"{size} bytes, hex or a list")
    return data


def _tcb(value: dict[str, Any], name: str) -> bytes:
    tcb = _inner(value, name)
    bl, tee, snp, ucode = (
        _number(tcb, part, 1) for part in ("bootloader", "tee", "snp", "microcode")
    )
    # Turin's versions have one more, and another order.
    if tcb.get("fmc") is not None:
        return _number(tcb, "fmc", 1) + bl + tee + snp + bytes(3) + ucode
    return bl + tee + bytes(4) + snp + ucode


def _version(value: dict[str, Any], name: str) -> bytes:
    parts = ("build", "minor", "major")
    if name in value:
        version = _inner(value, name)
        return b"".join(_number(version, part, 1) for part in parts) + b"\0"
    return b"".join(_number(value, f"{name}_{part}", 1) for part in parts) + b"\0"


def _wrong(name: str, found: object, expected: str) -> Malformed:
    return Malformed(
        "not what it must be",
        field=f"{_WHAT}: {name}",
        found="missing" if found is None else repr(found)[:60],
        expected=expected,
    )
