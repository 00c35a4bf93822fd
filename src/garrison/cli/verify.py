"""`garrison verify`: is this evidence genuine, and would a policy admit it?"""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from garrison.cli import ui
from garrison.errors import GarrisonError, Misuse
from garrison.terminal import plain

if TYPE_CHECKING:
    from garrison.appraisal.result import Check
    from garrison.steward.offline import Judgement

_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
_PATH = click.Path(exists=True, path_type=Path)


@click.command(
    epilog="""\b
Examples:
  garrison verify report.bin --certificate vcek.der --endorsements amd/milan
  garrison verify evidence.cbor --endorsements amd/milan --policy policy.toml
  garrison verify quote.bin --collateral collateral.json --at 2026-03-01T12:00:00Z
  garrison verify document.cbor --tee nitro --at 2026-03-01T12:00:00Z --json

\b
Nothing is fetched. Ends with 0 if the evidence is genuine and the policy (without one, the
baseline: no debugging by the host, no TCB that is out of date) admits it; 65 if it cannot be
read, 69 if an endorsement is missing, 76 if it is not genuine, 77 if it is not admitted.
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
    help="Certificate of the key that signed a report, of SNP or Azure's paravisor, or its chain:"
    " DER, PEM, or a host's certificate table; may be repeated.",
)
@click.option(
    "--endorsements",
    type=_PATH,
    multiple=True,
    help="File or directory of the vendor's certificates, revocation lists or collateral; may be"
    " repeated.",
)
@click.option("--collateral", type=_FILE, help="Intel's collateral for a quote, one JSON file.")
@click.option(
    "--trust-anchors",
    type=_FILE,
    help="Keys of CCA platforms to trust: JSON of implementation-id, instance-id, pkey (JWK).",
)
@click.option("--at", metavar="TIME", help="The time to verify at, RFC 3339; now if absent.")
@click.option("--report-data", metavar="HEX", help="What it must be bound to, 128 digits.")
@click.option(
    "--nonce",
    metavar="HEX",
    help="What Azure's TPM or a Nitro document must have quoted, as it is.",
)
@click.option("--policy", type=_FILE, help="What is admitted, TOML: a section for each TEE.")
@click.option(
    "--tcb-status",
    "tcb_statuses",
    multiple=True,
    help="Without a policy: a status of Intel's to admit besides the baseline's; may be repeated.",
)
@click.option(
    "--insecure-signatures-only",
    is_flag=True,
    help="Call a quote without collateral genuine for its signatures alone.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(
    evidence: Path,
    tee: str,
    certificates: tuple[Path, ...],
    endorsements: tuple[Path, ...],
    at: str | None,
    report_data: str | None,
    nonce: str | None,
    collateral: Path | None,
    trust_anchors: Path | None,
    policy: Path | None,
    tcb_statuses: tuple[str, ...],
    insecure_signatures_only: bool,
    as_json: bool,
) -> None:
    """Verify EVIDENCE offline: a file, or a directory with its certificates or collateral."""
    from garrison.formats.evidence import Tee
    from garrison.steward.deny import Deny
    from garrison.steward.offline import Wanted, baseline, judge, load_policies
    from garrison.steward.offline_read import load_trust_anchors, read

    now = _time(at)
    bound = _report_data(report_data)
    if policy is not None and tcb_statuses:
        raise Misuse("a policy says itself which it admits", field="--tcb-status")
    policies, deny = (
        (baseline(Path(), tcb_statuses), Deny()) if policy is None else load_policies(policy)
    )
    shown: dict[str, Any] = {"tee": None if tee == "auto" else tee}
    try:
        found = read(
            evidence,
            certificates=certificates,
            endorsements=(*endorsements, *(() if collateral is None else (collateral,))),
            tee=None if tee == "auto" else Tee(tee),
            now=now,
        )
        shown |= {"tee": found.tee.value, "taken_for": found.what, "claims": found.claims()}
        if not as_json:
            show_claims(found.what, shown["claims"])
        platforms = () if trust_anchors is None else load_trust_anchors(trust_anchors)
        judgement = judge(
            found,
            Wanted(
                now=now,
                policies=policies,
                deny=deny,
                by_baseline=policy is None,
                report_data=bound,
                nonce=_nonce(nonce),
                platforms=platforms,
                insecure_signatures_only=insecure_signatures_only,
            ),
        )
    except Misuse:
        raise
    except GarrisonError as error:
        if as_json:
            ui.emit_json({**shown, "verdict": type(error).__name__.lower()})
        raise
    if as_json:
        ui.emit_json({**shown, **_document(judgement)})
    else:
        show_judgement(judgement)
    if judgement.result is not None:
        judgement.result.require()


def verdict_of(judgement: Judgement) -> str:
    """The verdict in a word: `genuine`, `admitted` or `rejected`."""
    result = judgement.result
    if result is not None and not all(check.passed for check in result.checks):
        return "rejected"
    return "genuine" if result is None or judgement.by_baseline else "admitted"


def show_claims(what: str, claims: dict[str, str]) -> None:
    """Print what the evidence was taken for, and what it says of itself."""
    ui.out(f"Taken for {what}; it claims, unverified as yet:")
    width = max(map(len, claims))
    for name, value in claims.items():
        ui.out(f"  {name:{width}}  {_line(value)}")


def show_judgement(judgement: Judgement) -> None:
    """Print each check, and the verdict."""
    ui.out(f"\nGenuine: {judgement.root} vouches for it.")
    for name, value in judgement.facts.items():
        ui.out(f"  {name}: {_line(value)}")
    if judgement.simulated:
        ui.warn("INSECURE: that is a simulated vendor, which proves nothing")
    if judgement.crl_checked is False:
        ui.warn("no revocation list was there to be checked")
    for lack in judgement.lacks:
        ui.warn(_line(lack))
    result = judgement.result
    if result is None:
        ui.out("Not appraised.")
        return
    if judgement.by_baseline:
        ui.out("No policy was given; held to the baseline alone:")
    for check in result.checks:
        # The baseline leaves most open: what it does not ask is not worth a line.
        if not judgement.by_baseline or not check.passed or not check.wanted.startswith("any"):
            _show_check(check)
    verdict = verdict_of(judgement)
    by = "baseline" if judgement.by_baseline else "policy"
    word = "Genuine, and not rejected" if verdict == "genuine" else verdict.capitalize()
    ui.out(f"\n{word} by the {by}; TCB status {result.tcb_status}.")


def _show_check(check: Check) -> None:
    import sys

    from garrison.terminal import paint

    mark = paint("✔", "green", sys.stdout) if check.passed else paint("✗", "red", sys.stdout)
    found, wanted = _line(check.found), _line(check.wanted)
    ui.out(f"  {mark} {check.name}\n      found   {found}\n      wanted  {wanted}")


def _line(text: str) -> str:
    """What came with the evidence, on one line: it must not look like a line of the verdict."""
    return plain(text).replace("\n", "?")


def _document(judgement: Judgement) -> dict[str, Any]:
    document: dict[str, Any] = {
        "verdict": verdict_of(judgement),
        "root": judgement.root,
        "simulated": judgement.simulated,
        "crl_checked": judgement.crl_checked,
        "verified": dict(judgement.facts),
        "not_looked_at": list(judgement.lacks),
    }
    if judgement.result is not None:
        document["policy"] = "baseline" if judgement.by_baseline else "given"
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


def _nonce(text: str | None) -> bytes | None:
    try:
        return None if text is None else bytes.fromhex(text)
    except ValueError:
        raise Misuse("wrong value", field="--nonce", expected="hex digits") from None


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
