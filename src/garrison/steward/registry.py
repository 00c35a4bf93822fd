"""The steward's own look at a drawbridge: which digest does this tag have?

A keep says what it runs. The steward does not take its word: it asks the drawbridge that its
policy names, over TLS under the CA that the policy names, as itself.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Protocol

from garrison.drawbridge.client import Client, ClientCertificate
from garrison.errors import Rejected
from garrison.steward.certificates import issue_client_certificate

if TYPE_CHECKING:
    from collections.abc import Mapping

    from garrison.formats.slug import Slug
    from garrison.steward.authority import Authority


class Registry(Protocol):
    """Whoever knows the digests of tags."""

    def tag_digest(self, slug: Slug) -> bytes:
        """The digest (32 bytes) of the workload that `slug` names.

        Raises:
            Rejected: the drawbridge does not show such a tag.
            Unverified: what the drawbridge answered contradicts itself.
            Unavailable: the drawbridge cannot be asked.
        """


class Drawbridges:
    """The drawbridges that a policy names."""

    def __init__(self, hosts: Mapping[str, str | None], authority: Authority) -> None:
        """Prepare to ask them; nothing is sent yet.

        Args:
            hosts: host, and the PEM of its CA, or None for the web's roots.
            authority: under which the steward certifies itself.
        """
        self._hosts = hosts
        self._authority = authority

    def tag_digest(self, slug: Slug) -> bytes:
        """See `Registry.tag_digest`."""
        if slug.host not in self._hosts:
            raise Rejected("not a drawbridge of the policy", field="slug", found=slug)
        # A certificate of minutes for each question: there is no key to keep or to renew.
        chain, key = issue_client_certificate(self._authority, datetime.now(UTC))
        # One try: a keep waits for the answer.
        client = Client(
            slug.host,
            ca_pem=self._hosts[slug.host],
            certificate=ClientCertificate(chain, key),
            tries=1,
        )
        return client.tag_digest(slug)
