"""Rules for who may be at the other end of a connection, as `peers` lists them.

==============================  =====================================================
`host/user/repo:1.2.3`          that tag of that repository and no other
`host/user/repo:^1.0`           a range of tags (`garrison.formats.semver`)
`host/user/repo:*`              every tag of that repository, pre-releases too
`oci://host/path:<as above>`    likewise in an OCI registry, whose tags can be any names
`host/user/*`                   every tag of every repository of that user
`sha256:<digest>`               a workload of that digest, whatever its name
`any`                           any attested workload that the steward certified
==============================  =====================================================

Each may be followed by conditions, all of which must hold:

- `; tee=snp|tdx`: one of these TEEs;
- `; tcb=UpToDate`: that TCB status or a better one, in the order of `TCB_ORDER`. A status that is
  not in the order, such as that of simulated evidence or of a TCB that nobody checked, meets none;
- `; measurement=<hex>|<hex>`: one of these launch measurements, and so one of these keep images;
- `; policy=<digest>`: the tenant's policy that it was deployed with (`deployment_policy`).

No rule admits a peer without a certificate, nor a keep that is certified as such but for no
workload yet. An empty list of rules admits nobody.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypedDict

from garrison.errors import Malformed
from garrison.formats.digest import parse_digest
from garrison.formats.evidence import Tee
from garrison.formats.oci_name import SCHEME, OciName, OciRepository
from garrison.formats.semver import Range, Version
from garrison.formats.slug import Repository, Slug, check_host, check_user

if TYPE_CHECKING:
    from garrison.formats.identity import WorkloadIdentity

_DIGEST_PREFIX = "sha256:"
_WILDCARD = "*"
# From the best on: Intel's words, of which SNP and CCA use the first and `OutOfDate`. What is
# revoked is nobody's minimum.
TCB_ORDER = (
    "UpToDate",
    "SWHardeningNeeded",
    "ConfigurationNeeded",
    "ConfigurationAndSWHardeningNeeded",
    "OutOfDate",
    "OutOfDateConfigurationNeeded",
)
_TEES = tuple(tee.value for tee in Tee if tee is not Tee.NONE)
_CONDITIONS = ("tee", "tcb", "measurement", "policy")
# The shortest launch measurement of a TEE is SHA-256's (SGX), the longest SHA-512's (CCA).
_MEASUREMENT = re.compile(r"(?:[0-9a-f]{64}|[0-9a-f]{96}|[0-9a-f]{128})")


@dataclass(frozen=True, slots=True)
class PeerRule:
    """One entry of `peers`. Without a digest, a repository and a user it stands for `any`.

    Attributes:
        text: the rule as it was written.
        digest: the workload's digest, if the rule is for one.
        repository: the repository, if the rule is for one.
        tags: which of its tags: a range, or one of a name that is no version; None for all.
        user: host and name of the user whose every repository it is for.
        tees: the TEEs that it admits; None for all.
        statuses: the TCB statuses that it admits; None for all.
        measurements: the launch measurements that it admits; None for all.
        policy: digest of the deployment policy that it demands; None for any or none.
    """

    text: str
    digest: bytes | None = None
    repository: Repository | OciRepository | None = None
    tags: Range | str | None = None
    user: tuple[str, str] | None = None
    tees: frozenset[str] | None = None
    statuses: frozenset[str] | None = None
    measurements: frozenset[bytes] | None = None
    policy: bytes | None = None

    @classmethod
    def parse(cls, text: str, *, field: str = "peers") -> PeerRule:
        """Read one rule; `field` is what errors call it.

        Raises:
            Malformed: `text` is none of the forms above.
        """
        who, *conditions = text.split(";")
        rule = cls(text, **_conditions(conditions, field))
        if who == "any":
            return rule
        if who.startswith(_DIGEST_PREFIX):
            return replace(rule, digest=parse_digest(who.removeprefix(_DIGEST_PREFIX), field=field))
        # The tag follows the last slash; a host's port stands before the first.
        path, slash, last = who.rpartition("/")
        if slash and last == _WILDCARD:
            return replace(rule, user=_user(path, field))
        repo, colon, tags = last.partition(":")
        if not (slash and colon):
            raise Malformed(
                "not a rule for peers",
                field=field,
                found=repr(text[:80]),
                expected="host/user/repo:<tag, range or *>, host/user/*, sha256:<digest>, or any",
            )
        try:
            repository = _repository(f"{path}/{repo}")
        except Malformed as error:
            raise Malformed(
                error.message,
                field=f"{field}, {error.field}",
                found=error.found,
                expected=error.expected,
            ) from None
        return replace(rule, repository=repository, tags=_tags(repository, tags, field))

    def admits(self, identity: WorkloadIdentity | None) -> bool:
        """Whether the peer with this (verified) `identity` may be there."""
        if identity is None or identity.digest is None:
            return False
        if self.tees is not None and identity.tee not in self.tees:
            return False
        if self.statuses is not None and identity.tcb_status not in self.statuses:
            return False
        if self.measurements is not None and identity.measurement not in self.measurements:
            return False
        if self.policy is not None and identity.policy != self.policy:
            return False
        if self.digest is not None:
            return identity.digest == self.digest
        slug = identity.slug
        if self.user is not None:
            return isinstance(slug, Slug) and (slug.host, slug.user) == self.user
        if self.repository is None:
            return True
        return (
            slug is not None and slug.repository == self.repository and self._admits_tag(slug.tag)
        )

    def _admits_tag(self, tag: str) -> bool:
        if self.tags is None or isinstance(self.tags, str):
            return self.tags in {None, tag}
        try:
            return self.tags.admits(Version.parse(tag))
        except Malformed:
            # In an OCI registry a tag need not be a version; then it is in no range.
            return False

    def __str__(self) -> str:
        return self.text


def _repository(text: str) -> Repository | OciRepository:
    if not text.startswith(SCHEME):
        return Repository.parse(text)
    host, _, path = text.removeprefix(SCHEME).partition("/")
    return OciRepository(host, path)


def _tags(repository: Repository | OciRepository, text: str, field: str) -> Range | str | None:
    if text == _WILDCARD:
        return None
    try:
        return Range.parse(text, field=field)
    except Malformed:
        if not isinstance(repository, OciRepository):
            raise
        return OciName(repository.host, repository.path, text).tag


def _user(path: str, field: str) -> tuple[str, str]:
    host, _, user = path.rpartition("/")
    return check_host(host, field=f"{field}, host"), check_user(user, field=f"{field}, user")


class _Conditions(TypedDict, total=False):
    tees: frozenset[str]
    statuses: frozenset[str]
    measurements: frozenset[bytes]
    policy: bytes


def _conditions(texts: list[str], field: str) -> _Conditions:
    """Read what follows a rule."""
    values: dict[str, str] = {}
    for text in texts:
        name, equals, value = text.strip().partition("=")
        if name not in _CONDITIONS or not equals or name in values:
            raise Malformed(
                "not a condition, or one twice",
                field=field,
                found=repr(text[:80]),
                expected="tee=<TEE>|<TEE>, tcb=<status>, measurement=<hex>|<hex>, policy=<digest>,"
                " each once",
            )
        values[name] = value
    found: _Conditions = {}
    if "tee" in values:
        found["tees"] = frozenset(values["tee"].split("|"))
        if not found["tees"] <= set(_TEES):
            raise Malformed(
                "unknown TEE",
                field=field,
                found=repr(values["tee"][:80]),
                expected=", ".join(_TEES),
            )
    if "tcb" in values:
        if values["tcb"] not in TCB_ORDER:
            raise Malformed(
                "unknown TCB status",
                field=field,
                found=repr(values["tcb"][:80]),
                expected=", ".join(TCB_ORDER),
            )
        found["statuses"] = frozenset(TCB_ORDER[: TCB_ORDER.index(values["tcb"]) + 1])
    if "measurement" in values:
        measurements = values["measurement"].lower().split("|")
        if not all(map(_MEASUREMENT.fullmatch, measurements)):
            raise Malformed(
                "not a launch measurement",
                field=field,
                found=repr(values["measurement"][:140]),
                expected="32, 48 or 64 bytes in hex",
            )
        found["measurements"] = frozenset(map(bytes.fromhex, measurements))
    if "policy" in values:
        found["policy"] = parse_digest(values["policy"], field=field)
    return found
