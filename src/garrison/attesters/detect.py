"""Which TEE this is: looked for in one order, and the first that is there counts.

1. Gramine's files: only an enclave has them, whatever its host is.
2. The security module of a Nitro enclave, which has nothing else.
3. Azure's virtual TPM, where the machine says that it is Azure's: a paravisor stands between its
   guests and the hardware, and the kernel's interfaces lead nowhere there.
4. configfs-tsm, the kernel's own interface to all TEEs of virtual machines.
5. The devices of SNP guests and TDs, for kernels before 6.7.

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
    ("azure-vtpm", Path("/dev/tpmrm0")),
    ("configfs-tsm", Path("/sys/kernel/config/tsm/report")),
    ("sev-guest", Path("/dev/sev-guest")),
    ("tdx-guest", Path("/dev/tdx_guest")),
)

# What Azure has as the asset tag of every machine's chassis.
_ASSET_TAG_FILE = "sys/class/dmi/id/chassis_asset_tag"
_ASSET_TAG = "7783-7084-3265-9085-8269-3286-77"


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
        if (root / path.relative_to("/")).exists() and (kind != "azure-vtpm" or _on_azure(root)):
            return kind
    raise Misuse(
        "this machine gives no evidence",
        field="attester",
        found="nothing",
        expected="one of " + ", ".join(str(path) for _, path in ORDER),
        hint="run in a confidential VM with Linux 6.7 or later and configfs mounted, or an enclave",
    )


def _on_azure(root: Path) -> bool:
    """Whether the machine says so; most machines have a TPM that is no paravisor's."""
    try:
        return (root / _ASSET_TAG_FILE).read_text().strip() == _ASSET_TAG
    except (OSError, UnicodeDecodeError):
        return False


def _gramine() -> Attester:
    from garrison.attesters.gramine import Gramine

    return Gramine.open()


def _nsm() -> Attester:
    from garrison.attesters.nsm import Nsm

    return Nsm.open()


def _azure_vtpm() -> Attester:
    from garrison.attesters.azure_vtpm import AzureVtpm

    return AzureVtpm.open()


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
    "azure-vtpm": _azure_vtpm,
    "configfs-tsm": _configfs_tsm,
    "sev-guest": _sev_guest,
    "tdx-guest": _tdx_guest,
}
