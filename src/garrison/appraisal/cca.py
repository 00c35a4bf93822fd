"""Appraisal of Arm CCA evidence: the `[cca]` section of a steward's policy, and its checks.

[cca]
initial_measurements = ["<hex digits>"] # of keep images (RIM): 64, 96 or 128 digits each
personalization_values = "any"          # or 128 hex digits each
configurations = "any"                  # of the platform; or hex digits each

# Of each register (REM 0 to 3): a list of 64, 96 or 128 hex digits each, "zero", or "any".
[cca.extensible_measurements]
others = "zero"

# Every component of the platform's firmware must be one of these, and of each kind there must
# be one; or software = "any".
[[cca.software]]
kind = "RMM"
measurements = ["<hex digits>"]         # or "any"
signers = ["<hex digits>"]              # or "any"

# The platforms that are trusted, one at least: there is no root that all share.
[[cca.platforms]]
name = "rack-1"
implementation_id = "<64 hex digits>"
instance_id = "<66 hex digits>"
public_key = "-----BEGIN PUBLIC KEY-----..."

# What follows may be left out, and is then the strictest, as shown here.
[cca]
lifecycle = ["secured"]                 # states of the platform, or "any"

# Trusts a platform of which anybody may know the private key, as of Arm's models.
[[cca.insecure_simulated_platforms]]    # the same as [[cca.platforms]]
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from garrison.appraisal.reference import (
    ANY,
    Bytes,
    bound,
    one_of,
    read_digests,
    read_hex,
    read_list,
    read_registers,
    register_checks,
    word_of,
)
from garrison.appraisal.result import AttestationResult, Check
from garrison.errors import Malformed
from garrison.formats.cca import (
    EXTENSIBLE_MEASUREMENTS,
    HASH_SIZES,
    IMPLEMENTATION_ID_SIZE,
    INSTANCE_ID_SIZE,
    PERSONALIZATION_SIZE,
    Lifecycle,
)
from garrison.formats.evidence import Tee
from garrison.verification.cca import PlatformKey

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    from garrison.formats.cca import Component
    from garrison.formats.strict_toml import Table
    from garrison.verification.cca import CcaClaims
    from garrison.verification.verified import Verified


@dataclass(frozen=True, slots=True)
class Software:
    """A piece of firmware that is admitted; None stands for "any"."""

    kind: str
    measurements: Bytes
    signers: Bytes

    def admits(self, component: Component) -> bool:
        """Whether `component` is this."""
        return (
            component.kind == self.kind
            and (self.measurements is None or component.measurement in self.measurements)
            and (self.signers is None or component.signer in self.signers)
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class CcaPolicy:
    """What is admitted of Arm CCA; None stands for "any".

    Attributes:
        initial_measurements: what realms begin with.
        extensible_measurements: what they measure since, by register.
        personalization_values: what hosts bind to them.
        configurations: of platforms.
        software: the platforms' firmware.
        lifecycle: the platforms' states.
        platforms: the keys that are trusted, simulated ones too.
    """

    initial_measurements: Bytes
    extensible_measurements: Mapping[int, Bytes]
    personalization_values: Bytes
    configurations: Bytes
    software: tuple[Software, ...] | None
    lifecycle: tuple[str, ...] | None
    platforms: tuple[PlatformKey, ...]

    @classmethod
    def from_table(cls, table: Table) -> CcaPolicy:
        """Read the section.

        Raises:
            Malformed: it is anything else than shown above.
        """
        policy = cls(
            initial_measurements=read_digests(
                table, "initial_measurements", *HASH_SIZES, named=True
            ),
            extensible_measurements=read_registers(
                table.table("extensible_measurements"), EXTENSIBLE_MEASUREMENTS, *HASH_SIZES
            ),
            personalization_values=read_digests(
                table, "personalization_values", PERSONALIZATION_SIZE
            ),
            configurations=_configurations(table),
            software=_software(table),
            lifecycle=_lifecycle(table),
            platforms=(
                *_platforms(table, "platforms", simulated=False),
                *_platforms(table, "insecure_simulated_platforms", simulated=True),
            ),
        )
        if not policy.platforms:
            raise Malformed(
                "missing",
                field=table.where("platforms"),
                expected="a platform at least",
                hint="without the key of a platform no token can be verified",
            )
        instances = [(item.implementation_id, item.instance_id) for item in policy.platforms]
        if len(set(instances)) != len(instances):
            raise table.malformed("platforms", "a platform twice", expected="one key for each")
        table.done()
        return policy


def appraise(
    verified: Verified[CcaClaims], policy: CcaPolicy, expected_report_data: bytes, now: datetime
) -> AttestationResult:
    """Hold what was verified to `policy`.

    Args:
        verified: the claims.
        policy: what is admitted.
        expected_report_data: what the realm's challenge must be, 64 bytes.
        now: the time of the result.

    Returns:
        The result, with every check; `require` refuses it if one failed.
    """
    claims = verified.value
    platform, realm = claims.token.platform, claims.token.realm
    checks = (
        bound("realm challenge", realm.challenge, expected_report_data),
        one_of(
            "realm initial measurement",
            realm.initial_measurement,
            policy.initial_measurements,
            "run a keep image whose measurement the policy lists under initial_measurements",
            now,
        ),
        *register_checks(
            "realm extensible measurement ",
            realm.extensible_measurements,
            policy.extensible_measurements,
            "run what extends it as the policy lists under extensible_measurements",
            now,
        ),
        one_of(
            "realm personalization value",
            realm.personalization,
            policy.personalization_values,
            "create the realm with a value that the policy lists",
            now,
        ),
        word_of(
            "platform lifecycle",
            platform.state,
            policy.lifecycle,
            "run on a platform in a state that the policy lists under lifecycle",
        ),
        one_of(
            "platform configuration",
            platform.configuration,
            policy.configurations,
            "run on a platform with a configuration that the policy lists",
            now,
        ),
        *_software_checks(platform.components, policy.software),
    )
    return AttestationResult(
        tee=Tee.CCA,
        measurement=realm.initial_measurement,
        # The token has no version to compare: the firmware is admitted by measurement.
        tcb_status="Unchecked" if policy.software is None else _status(checks),
        simulated=claims.anchor.simulated,
        checks=checks,
        claims={
            "root": claims.anchor.name,
            "implementation_id": platform.implementation_id.hex(),
            "instance_id": platform.instance_id.hex(),
            "appraised": now.isoformat(),
        },
    )


_SOFTWARE = "platform software"


def _status(checks: tuple[Check, ...]) -> str:
    passed = all(check.passed for check in checks if check.name.startswith(_SOFTWARE))
    return "UpToDate" if passed else "OutOfDate"


def _software_checks(
    components: tuple[Component, ...], admitted: tuple[Software, ...] | None
) -> list[Check]:
    shown = ", ".join(f"{item.kind} {item.measurement.hex()}" for item in components)
    if admitted is None:
        return [Check(_SOFTWARE, shown, ANY, passed=True)]
    remedy = "run on a platform with the firmware that the policy lists under software"
    checks = [
        Check(
            name=f"{_SOFTWARE} {component.kind}",
            found=f"{component.measurement.hex()}, signer {component.signer.hex()}",
            wanted=f"one of the policy's entries of kind {component.kind}",
            passed=any(item.admits(component) for item in admitted),
            remedy=remedy,
        )
        for component in components
    ]
    found = {component.kind for component in components}
    missing = sorted({item.kind for item in admitted} - found)
    checks += [
        Check(f"{_SOFTWARE} {kind}", "none", "one", passed=False, remedy=remedy) for kind in missing
    ]
    return checks


def _configurations(table: Table) -> Bytes:
    expected = 'a list of hex digits each, or "any"'
    values = read_list(table, "configurations", expected)
    if values is None:
        return None
    found = [data for data in map(read_hex, values) if data is not None]
    if len(found) != len(values):
        raise table.malformed("configurations", "wrong entry", expected=expected)
    return tuple(found)


def _lifecycle(table: Table) -> tuple[str, ...] | None:
    if "lifecycle" not in table:
        return (Lifecycle.SECURED,)
    expected = f'a list of {", ".join(Lifecycle)}, or "any"'
    values = read_list(table, "lifecycle", expected)
    if values is None:
        return None
    states = tuple(state for state in Lifecycle if state in values)
    if len(states) != len(values):
        raise table.malformed("lifecycle", "unknown state, or one twice", expected=expected)
    return states


def _software(table: Table) -> tuple[Software, ...] | None:
    if table.value("software") == ANY:
        return None
    entries = table.tables("software")
    if not entries:
        raise Malformed(
            "missing", field=table.where("software"), expected='an entry for each kind, or "any"'
        )
    found = []
    for entry in entries:
        found.append(
            Software(
                kind=entry.string("kind"),
                measurements=read_digests(entry, "measurements", *HASH_SIZES),
                signers=read_digests(entry, "signers", *HASH_SIZES),
            )
        )
        entry.done()
    return tuple(found)


def _platforms(table: Table, key: str, *, simulated: bool) -> list[PlatformKey]:
    found = []
    for entry in table.tables(key):
        found.append(
            PlatformKey(
                name=entry.string("name"),
                implementation_id=_identifier(entry, "implementation_id", IMPLEMENTATION_ID_SIZE),
                instance_id=_identifier(entry, "instance_id", INSTANCE_ID_SIZE),
                key=_public_key(entry),
                simulated=simulated,
            )
        )
        entry.done()
    return found


def _identifier(entry: Table, key: str, size: int) -> bytes:
    value = read_hex(entry.string(key))
    if value is None or len(value) != size:
        raise entry.malformed(key, "wrong identifier", expected=f"{2 * size} hex digits")
    return value


def _public_key(entry: Table) -> ec.EllipticCurvePublicKey:
    text = entry.string("public_key")
    expected = "a key on P-256, P-384 or P-521, as PEM"
    try:
        key = load_pem_public_key(text.encode())
    except (ValueError, UnsupportedAlgorithm) as error:
        raise entry.malformed("public_key", "not a public key", expected=expected) from error
    if not isinstance(key, ec.EllipticCurvePublicKey):
        raise entry.malformed("public_key", "wrong kind of key", expected=expected)
    return key
