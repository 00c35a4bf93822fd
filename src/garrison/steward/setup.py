"""Putting a steward together, from its directory and its policy."""

from __future__ import annotations

from typing import TYPE_CHECKING

from garrison.errors import Malformed
from garrison.formats.evidence import Tee
from garrison.steward.appraisers import NitroAppraiser, SnpAppraiser
from garrison.steward.authority import Authority
from garrison.steward.challenge import Challenges
from garrison.steward.issuance import Steward
from garrison.steward.policy import Policy
from garrison.steward.registry import Drawbridges

if TYPE_CHECKING:
    from pathlib import Path

    from garrison.steward.issuance import Appraiser


def with_policy(steward: Steward, policy_file: Path) -> tuple[Steward, Drawbridges]:
    """The same steward, by the policy that `policy_file` holds now.

    Raises:
        Misuse: a file cannot be read.
        Malformed: it is not a policy, or one of another trust domain.
    """
    return _assemble(steward.authority, policy_file)


def open_steward(directory: Path, policy_file: Path) -> tuple[Steward, Drawbridges]:
    """Read keys and policy.

    Args:
        directory: what `garrison steward init` made.
        policy_file: what the steward admits.

    Raises:
        Misuse: a file cannot be read, or a key can be read by others.
        Malformed: a file does not hold what it should, or the two do not fit each other.
    """
    return _assemble(Authority.load(directory), policy_file)


def _assemble(authority: Authority, policy_file: Path) -> tuple[Steward, Drawbridges]:
    policy = Policy.load(policy_file)
    if policy.trust_domain != authority.trust_domain:
        raise Malformed(
            "not the trust domain of root.pem",
            field=f"{policy_file}: trust_domain",
            found=policy.trust_domain,
            expected=authority.trust_domain,
        )
    appraisers: dict[Tee, Appraiser] = {}
    if policy.snp is not None:
        appraisers[Tee.SNP] = SnpAppraiser(policy.snp)
    if policy.nitro is not None:
        appraisers[Tee.NITRO] = NitroAppraiser(policy.nitro)
    steward = Steward(authority, policy, Challenges(authority.challenge_key), appraisers)
    return steward, Drawbridges(policy.drawbridges, authority)
