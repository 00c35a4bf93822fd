"""What a policy leaves to the host, though it can be read: ways into a keep, or past its evidence.

Each may be meant. Who wrote `"any"` to try something, or `debug` to find a fault, shall be told
for as long as it stands there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from garrison.formats.cca import Lifecycle

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any

    from garrison.appraisal.azure import AzurePolicy
    from garrison.appraisal.cca import CcaPolicy
    from garrison.appraisal.nitro import NitroPolicy
    from garrison.appraisal.sgx import SgxPolicy
    from garrison.appraisal.snp import SnpPolicy
    from garrison.appraisal.tdx import TdxPolicy
    from garrison.steward.policy import TeePolicies

_ANY_CODE = "the host chooses what runs"
_DEBUG = "the host can read and write all of it"
# What the firmware of a TD measures into each register (CC measurement registers of UEFI 2.10,
# 38.4.1, and `docs/reference/measurement.md`).
_RTMRS = (
    "the host can run programs in the guest, out of its ACPI tables",
    "the host chooses the kernel",
    "the host chooses the command line and the initial file system",
)
# PCRs of Nitro: the image; kernel and boot, and the application; who signed the image.
_IMAGE, _PARTS, _SIGNER = 0, (1, 2), 8
# TCG PC Client Platform Firmware Profile 1.06, 3.3.4, and the UKI specification: the boot loader,
# and what it starts.
_BOOT_LOADER, _UKI = 4, 11


def openings(policies: TeePolicies) -> list[str]:
    """Tell what `policies` leave to the host: `<key>: <what the host can do>`."""
    found = []
    for tee in policies.tees():
        section = getattr(policies, tee)
        found += [f"{tee}.{key}: {why}" for key, why in _OF[tee](section)]
    return found


def _all_any(*admitted: object) -> bool:
    return all(each is None for each in admitted)


def _of_snp(policy: SnpPolicy) -> Iterator[tuple[str, str]]:
    if _all_any(policy.measurements, policy.id_key_digests, policy.author_key_digests):
        yield 'measurements, id_key_digests and author_key_digests = "any"', _ANY_CODE
    if policy.debug:
        yield "debug = true", _DEBUG
    if policy.migration:
        yield "migration = true", "a migration agent can take it elsewhere, which is not looked at"


def _of_sgx(policy: SgxPolicy) -> Iterator[tuple[str, str]]:
    if _all_any(policy.measurements, policy.signers):
        yield 'measurements and signers = "any"', _ANY_CODE
    if policy.debug:
        yield "debug = true", _DEBUG


def _of_tdx(policy: TdxPolicy) -> Iterator[tuple[str, str]]:
    if policy.registers["mr_td"] is None:
        yield 'mr_td = "any"', "the host chooses the firmware, which measures all the rest"
    for index, why in enumerate(_RTMRS):
        if policy.rtmrs[index] is None:
            yield f'rtmrs.{index} = "any"', why
    if policy.debug:
        yield "debug = true", _DEBUG
    if policy.migratable:
        service = policy.registers["mr_service_td"]
        if service is None:
            yield 'migratable = true, mr_service_td = "any"', "any TD of the host's can take it"


def _of_nitro(policy: NitroPolicy) -> Iterator[tuple[str, str]]:
    parts = all(policy.pcrs[index] is not None for index in _PARTS)
    if _all_any(policy.pcrs[_IMAGE], policy.pcrs[_SIGNER]) and not parts:
        yield f'pcrs.{_IMAGE} and pcrs.{_SIGNER} = "any"', _ANY_CODE
    if policy.debug:
        yield "debug = true", f"{_DEBUG}, and nothing is measured"


def _of_azure(policy: AzurePolicy) -> Iterator[tuple[str, str]]:
    if _all_any(policy.pcrs[_BOOT_LOADER], policy.pcrs[_UKI]):
        yield f'pcrs.{_BOOT_LOADER} and pcrs.{_UKI} = "any"', _ANY_CODE
    if policy.console:
        yield 'console = "any"', "the host can type at its console"


def _of_cca(policy: CcaPolicy) -> Iterator[tuple[str, str]]:
    if policy.initial_measurements is None:
        yield 'initial_measurements = "any"', _ANY_CODE
    if policy.lifecycle != (Lifecycle.SECURED,):
        yield "lifecycle", f'a platform that is not "{Lifecycle.SECURED}" can be debugged'


_OF: dict[str, Callable[[Any], Iterator[tuple[str, str]]]] = {
    "snp": _of_snp,
    "sgx": _of_sgx,
    "tdx": _of_tdx,
    "nitro": _of_nitro,
    "azure": _of_azure,
    "cca": _of_cca,
}
