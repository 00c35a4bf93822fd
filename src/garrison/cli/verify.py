"""`garrison verify`: is this evidence genuine, and would a policy admit it?"""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from garrison.cli import ui
from garrison.errors import GarrisonError, Misuse

if TYPE_CHECKING:
    from garrison.appraisal.result import Check
    from garrison.steward.offline import Judgement
    from garrison.steward.offline_read import Found

_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
_DIRECTORY = click.Path(exists=True, file_okay=False, path_type=Path)


@click.command(
    epilog="""\b
Examples:
  garrison verify report.bin --certificate vcek.der --endorsements amd/milan
  garrison verify evidence.cbor --endorsements amd/milan --policy policy.toml
  garrison verify quote.bin --collateral collateral.json --at 2026-03-01T12:00:00Z
  garrison verify document.cbor --tee nitro --at 2026-03-01T12:00:00Z --json

\b
Nothing is fetched. Ends with 0 if the evidence is genuine and the policy, if there is one, admits
it; 65 if it cannot be read, 69 if an endorsement is missing, 76 if it is not genuine, 77 if
the policy does not admit it.
"""
)
@click.argument("evidence", type=click.Path(exists=True, path_type=Path))
@click.option(
    "--tee",
    type=click.Choice(["auto", "snp", "nitro", "sgx", "tdx", "azure", "cca"]),
    default="auto",
    show_default=True,
    help="What the evidence must be.",
)
@click.option(
    "--certificate",
    "certificates",
    type=_FILE,
    multiple=True,
    help="Certificate, DER, for a bare report, an SNP chip's or a paravisor's: the signing key's"
    " first; may be repeated.",
)
@click.option(
    "--endorsements",
    type=_DIRECTORY,
    multiple=True,
    help="Directory of the vendor's certificates and revocation list; may be repeated.",
)
@click.option(
    "--collateral", type=_FILE, help="Intel's collateral for a quote: its usual JSON file."
)
@click.option(
    "--trust-anchors",
    type=_FILE,
    help="Keys of CCA platforms to trust: JSON of implementation-id, instance-id, pkey (JWK).",
)
@click.option("--at", metavar="TIME", help="The time to verify at, RFC 3339; now if absent.")
@click.option("--report-data", metavar="HEX", help="What it must be bound to, 128 digits.")
@click.option("--policy", type=_FILE, help="What is admitted, TOML: a section for each TEE.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(
    evidence: Path,
    tee: str,
    certificates: tuple[Path, ...],
    endorsements: tuple[Path, ...],
    at: str | None,
    report_data: str | None,
    collateral: Path | None,
    trust_anchors: Path | None,
    policy: Path | None,
    as_json: bool,
) -> None:
    """Verify EVIDENCE offline: a file, or a directory with its certificates or collateral."""
    from garrison.formats.evidence import Tee
    from garrison.steward.deny import Deny
    from garrison.steward.offline import judge, load_policies
    from garrison.steward.offline_read import load_collateral, load_trust_anchors, read

    now = _time(at)
    bound = _report_data(report_data)
    policies, deny = (None, Deny()) if policy is None else load_policies(policy)
    given = None if collateral is None else load_collateral(collateral)
    platforms = () if trust_anchors is None else load_trust_anchors(trust_anchors)
    found = read(evidence, certificates=certificates, tee=None if tee == "auto" else Tee(tee))
    claims = found.claims()
    if not as_json:
        show_claims(found, claims)
    try:
        judgement = judge(
            found,
            policies,
            deny,
            now=now,
            endorsements=endorsements,
            report_data=bound,
            collateral=given,
            platforms=platforms,
        )
    except GarrisonError as error:
        if as_json:
            ui.emit_json(_document(found, claims, None, type(error).__name__.lower()))
        raise
    if as_json:
        ui.emit_json(_document(found, claims, judgement, verdict_of(judgement)))
    else:
        show_judgement(judgement)
    if judgement.result is not None:
        judgement.result.require()


def verdict_of(judgement: Judgement) -> str:
    """The verdict in a word: `genuine`, `admitted` or `rejected`."""
    if judgement.result is None:
        return "genuine"
    return "admitted" if all(check.passed for check in judgement.result.checks) else "rejected"


def show_claims(found: Found, claims: dict[str, str]) -> None:
    """Print what the evidence says of itself."""
    ui.out(f"Evidence of {found.tee}; it claims, unverified as yet:")
    width = max(map(len, claims))
    for name, value in claims.items():
        ui.out(f"  {name:{width}}  {value}")


def show_judgement(judgement: Judgement) -> None:
    """Print each check, and the verdict."""
    ui.out(f"\nGenuine: {judgement.root} vouches for it.")
    for name, value in judgement.facts.items():
        ui.out(f"  {name}: {value}")
    if judgement.simulated:
        ui.warn("INSECURE: that is a simulated vendor, which proves nothing")
    if judgement.crl_checked is False:
        ui.warn("no revocation list was there to be checked")
    if judgement.result is None:
        ui.out("Not appraised: no policy was given.")
        return
    for check in judgement.result.checks:
        _show_check(check)
    verdict = verdict_of(judgement)
    ui.out(f"\n{verdict.capitalize()} by the policy; TCB status {judgement.result.tcb_status}.")


def _show_check(check: Check) -> None:
    import sys

    from garrison.terminal import paint

    mark = paint("✔", "green", sys.stdout) if check.passed else paint("✗", "red", sys.stdout)
    ui.out(f"  {mark} {check.name}\n      found   {check.found}\n      wanted  {check.wanted}")


def _document(
    found: Found, claims: dict[str, str], judgement: Judgement | None, verdict: str
) -> dict[str, Any]:
    document: dict[str, Any] = {"tee": found.tee.value, "verdict": verdict, "claims": claims}
    if judgement is not None:
        document |= {
            "root": judgement.root,
            "simulated": judgement.simulated,
            "crl_checked": judgement.crl_checked,
            "verified": dict(judgement.facts),
        }
        if judgement.result is not None:
            document["tcb_status"] = judgement.result.tcb_status
            document["checks"] = [
                {**check.as_json(), "passed": check.passed} for check in judgement.result.checks
            ]
    return document


def _time(text: str | None) -> datetime:
    if text is None:
        return datetime.now(UTC)
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        found = None
    if found is None or found.tzinfo is None:
        raise Misuse(
            "not a time with its offset", field="--at", found=text, expected="2026-03-01T12:00:00Z"
        )
    return found


def _report_data(text: str | None) -> bytes | None:
    from garrison.formats.evidence import REPORT_DATA_SIZE

    if text is None:
        return None
    try:
        data = bytes.fromhex(text)
    except ValueError:
        data = b""
    if len(data) != REPORT_DATA_SIZE or len(text) != 2 * REPORT_DATA_SIZE:
        raise Misuse(
            "wrong value", field="--report-data", expected=f"{2 * REPORT_DATA_SIZE} hex digits"
        )
    return data
