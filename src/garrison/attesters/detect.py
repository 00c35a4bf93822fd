"""Which TEE this is: looked for in one order, and the first that is there counts.

1. Gramine's files: only an enclave has them, whatever its host is.
2. The security module of a Nitro enclave, which has nothing else.
3. configfs-tsm, the kernel's own interface to all TEEs of virtual machines.
4. The devices of SNP guests and TDs, for kernels before 6.7.

What is there and does not answer is an error, not a reason to go on: evidence of another kind than
the machine's would prove something else. Nothing is ever simulated here.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from garrison.errors import Misuse

if TYPE_CHECKING:
    from collections.abc import Callable

    from garrison.attesters.base import Attester

# A keep pays for the one that it uses: each is imported when it is opened. So the places stand
# here; a test holds them to those of the modules.
ORDER = (
    ("gramine", Path("/dev/attestation")),
    ("nsm", Path("/dev/nsm")),
    ("configfs-tsm", Path("/sys/kernel/config/tsm/report")),
    ("sev-guest", Path("/dev/sev-guest")),
    ("tdx-guest", Path("/dev/tdx_guest")),
)


def detect() -> Attester:
    """Open the first that is there.

    Raises:
        Misuse: this machine gives no evidence.
        Unavailable: what is there does not answer.
    """
    return OPENERS[present()]()


def present(root: Path = Path("/")) -> str:
    """The kind of the first that is there.

    Raises:
        Misuse: none is.
    """
    for kind, path in ORDER:
        if (root / path.relative_to("/")).exists():
            return kind
    raise Misuse(
        "this machine gives no evidence",
        field="attester",
        found="nothing",
        expected="one of " + ", ".join(str(path) for _, path in ORDER),
        hint="run in a confidential VM with Linux 6.7 or later and configfs mounted, or an enclave",
    )


def _gramine() -> Attester:
    from garrison.attesters.gramine import Gramine

    return Gramine.open()


def _nsm() -> Attester:
    from garrison.attesters.nsm import Nsm

    return Nsm.open()


def _configfs_tsm() -> Attester:
    from garrison.attesters.configfs_tsm import ConfigfsTsm

    return ConfigfsTsm.open()


def _sev_guest() -> Attester:
    from garrison.attesters.sev_guest import SevGuest

    return SevGuest.open()


def _tdx_guest() -> Attester:
    from garrison.attesters.tdx_guest import TdxGuest

    return TdxGuest.open()


OPENERS: dict[str, Callable[[], Attester]] = {
    "gramine": _gramine,
    "nsm": _nsm,
    "configfs-tsm": _configfs_tsm,
    "sev-guest": _sev_guest,
    "tdx-guest": _tdx_guest,
}
