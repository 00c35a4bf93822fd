"""The `[snp]` section of a steward's policy that admits a measured image, and no other."""

from __future__ import annotations

from typing import TYPE_CHECKING

from garrison.formats.evidence import Tee
from garrison.formats.snp import GuestPolicy
from garrison.measure.prediction import Prediction, toml_list

if TYPE_CHECKING:
    from garrison.formats.snp_id_block import SnpPublicKey

# What the original and QEMU take: the bit that must be one, and multithreading.
DEFAULT_GUEST_POLICY = 0x30000


def predict(
    digest: bytes,
    guest_policy: int = DEFAULT_GUEST_POLICY,
    *,
    id_key: SnpPublicKey | None = None,
    author_key: SnpPublicKey | None = None,
) -> Prediction:
    """Tell `digest`, and what else of the launch a steward must admit for it.

    A guest policy that permits debugging or migration is told in a comment: such guests have no
    secrets from their host, and a policy that admits them is written by hand.

    Raises:
        Malformed: firmware launches nothing with such a guest policy.
    """
    policy = GuestPolicy.from_bits(guest_policy, "--guest-policy")
    lines = [
        "[snp]",
        f"measurements = {toml_list(digest)}",
        'products = "any"            # or the product lines that you run on',
        'minimum_tcb = "any"         # or the firmware versions that you demand',
        f"id_key_digests = {_digest(id_key)}",
        f"author_key_digests = {_digest(author_key)}",
        'host_data = "any"',
        'chip_ids = "any"            # or the chips that you run on',
        "endorsements = []           # directories with the vendor's certificates and lists",
        f"smt = {_word(policy.smt)}",
        f"single_socket = {_word(policy.single_socket)}",
    ]
    if policy.debug:
        lines.append("# debug = true  # the guest policy lets the host read the guest's memory")
    if policy.migrate_ma:
        lines.append("# migration = true  # the guest policy lets an agent move the guest")
    return Prediction(
        tee=Tee.SNP,
        registers={"measurement": digest},
        policy="\n".join(lines) + "\n",
        details={"guest_policy": f"{guest_policy:#x}"},
    )


def _digest(key: SnpPublicKey | None) -> str:
    return '"any"' if key is None else toml_list(key.digest())


def _word(value: bool) -> str:
    return "true" if value else "false"
