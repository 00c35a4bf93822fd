"""Rules for who may be at the other end of a connection, as `peers` lists them.

==============================  =====================================================
`host/user/repo:1.2.3`          that tag of that repository and no other
`host/user/repo:^1.0`           a range of tags (`garrison.formats.semver`)
`sha256:<digest>`               a workload of that digest, whatever its name
`any`                           any attested workload that the steward certified
==============================  =====================================================

No rule admits a peer without a certificate, nor a keep that is certified as such but for no
workload yet. An empty list of rules admits nobody.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from garrison.errors import Malformed
from garrison.formats.digest import parse_digest
from garrison.formats.semver import Range, Version
from garrison.formats.slug import Repository

if TYPE_CHECKING:
    from garrison.formats.identity import WorkloadIdentity

_DIGEST_PREFIX = "sha256:"


@dataclass(frozen=True, slots=True)
class PeerRule:
    """One entry of `peers`. Without a digest and a repository it stands for `any`."""

    text: str
    digest: bytes | None = None
    repository: Repository | None = None
    tags: Range | None = None

    @classmethod
    def parse(cls, text: str, *, field: str = "peers") -> PeerRule:
        """Read one rule; `field` is what errors call it.

        Raises:
            Malformed: `text` is none of the forms above.
        """
        if text == "any":
            return cls(text)
        if text.startswith(_DIGEST_PREFIX):
            return cls(text, digest=parse_digest(text.removeprefix(_DIGEST_PREFIX), field=field))
        # The tag follows the last slash; a host's port stands before the first.
        path, slash, last = text.rpartition("/")
        repo, colon, tags = last.partition(":")
        if not (slash and colon):
            raise Malformed(
                "not a rule for peers",
                field=field,
                found=repr(text[:80]),
                expected="host/user/repo:<tag or range>, sha256:<digest>, or any",
            )
        try:
            repository = Repository.parse(f"{path}/{repo}")
        except Malformed as error:
            raise Malformed(
                error.message,
                field=f"{field}, {error.field}",
                found=error.found,
                expected=error.expected,
            ) from None
        return cls(text, repository=repository, tags=Range.parse(tags, field=field))

    def admits(self, identity: WorkloadIdentity | None) -> bool:
        """Whether the peer with this (verified) `identity` may be there."""
        if identity is None or identity.digest is None:
            return False
        if self.digest is not None:
            return identity.digest == self.digest
        if self.repository is None or self.tags is None:
            return True
        slug = identity.slug
        return (
            slug is not None
            and slug.repository == self.repository
            and self.tags.admits(Version.parse(slug.tag))
        )

    def __str__(self) -> str:
        return self.text
